"""Convolutions of lax as contractions: which of them is a transposed convolution, or a gradient of one.

Per spatial dimension, with window stride a, lhs spread by s and rhs by b, and padding (lo, hi), a convolution is

    out[m] = sum over q of  lhs[p] * rhs[q]   where   p*s = m*a + q*b - lo

and a tap j of Phi (`_derivatives`) brings x[n] and y[n*s + j*d - crop_lo] together. So it is one of

| contraction        | lhs, rhs, out | where       | n, j, and y's place | strides, dilations | crop_lo     | filter  |
| transpose          | x, w, y       | a = 1       | p, k-1-q, m         | s, b               | ke-1 - lo   | flipped |
| input_grad         | y, w, x       | s = 1       | m, q, p             | a, b               | lo          | as it is |
| filter_grad of T   | x, y, w       | b = 1       | p, k-1-m, q         | s, a               | ke-1 - lo   | flipped |
| filter_grad of C   | y, x, w       | s = 1       | q, m, p             | b, a               | lo          | as it is |

with the batch as channels, and channels as the batch, in what the filter gradients contract. They are told from the other two by what
JAX makes of them: a window that is larger than its result. feature_group_count of the first two, and batch_group_count of the others,
are groups. The other way round, what `jax.vmap` over both operands makes, they are that many convolutions, stacked along channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._call import Call, check_able, conv_transpose, gradient
from jaxdeconv._contractions import CONTRACTIONS, Options, shapes_of
from jaxdeconv._filters import LAYOUTS, positions
from jaxdeconv._geometry import Geometry, effective_kernel, full_size
from jaxdeconv._lowerings import Contraction
from jaxdeconv._partitioning import axes as mesh_axes
from jaxdeconv._tuning import Tuning

Axes = tuple[int, ...]


class Convolution(NamedTuple):
    """A convolution of lax as a contraction, whatever the order of axes. Hashable.

    Axes are those of the arrays as lax has them: batch, channels, and space of x and y; out, in, and taps of w.
    """

    lhs: str  # which of x, w and y it is
    rhs: str
    geometry: Geometry
    flipped: bool  # the filter, as lax has it, in comparison to TensorFlow's
    axes: tuple[Axes, Axes, Axes]  # of x, w and y
    stack: int = 1  # so many of them, whose channels lie side by side
    stacked: Axes = ()  # along these axes of lhs, rhs and the result

    @property
    def target(self) -> str:
        """What it gives."""
        return next(name for name in "xwy" if name not in (self.lhs, self.rhs))

    @property
    def contraction(self) -> Contraction:
        return CONTRACTIONS[self.target]

    @property
    def ordinary(self) -> bool:
        """Whether it may be part of any network: a strided convolution, or what JAX makes of one for its filter."""
        return not self.flipped

    def shapes(self, lhs: Sequence[Any], rhs: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[Any, ...]]:
        """Of x, w, in TensorFlow's layout, and y, channels as the geometry has them."""
        core, given = _core(self.geometry), {}
        for name, shape, axis in zip((self.lhs, self.rhs), (lhs, rhs), self.stacked[:2], strict=True):
            sizes = list(shape)
            sizes[axis] //= self.stack
            out_or_batch, in_or_channels, *rest = (sizes[each] for each in self.axes_of(name))
            if name == "w":
                groups = self.geometry.groups
                pair = (out_or_batch // groups, in_or_channels * groups) if self.flipped else (out_or_batch, in_or_channels)
                given[name] = (*rest, *pair)
            else:
                moved = dict(zip(core, (out_or_batch, in_or_channels, *rest), strict=True))
                given[name] = tuple(moved[position] for position in range(len(moved)))
        return shapes_of(given, self.geometry)

    def axes_of(self, name: str) -> Axes:
        return self.axes["xwy".index(name)]


def _core(geometry: Geometry) -> Axes:
    """Batch, channels and space of x and y, as the core has them."""
    return (0, geometry.channel_axis, *geometry.spatial_axes)


def channels_last(*specs: Axes) -> bool:
    """Which of the core's two layouts saves a transposition: that of the first of these that has one of them."""
    for spec in specs:
        if spec in ((0, len(spec) - 1, *range(1, len(spec) - 1)), tuple(range(len(spec)))):
            return spec[1] != 1 or len(spec) == 2
    return True


def _stored(axes: Axes, groups: int, flipped: bool) -> tuple[str, Axes]:
    """The layout that a filter has, or the nearest one, and the out, in and spatial axes of that."""
    # Groups of a flipped filter are along out, and haiku's are along in.
    names = (["lax", "equinox", "haiku"] if groups == 1 else ["lax", "equinox"]) if flipped else ["tf", "torch"]
    for name in names:
        at = positions(LAYOUTS[name], len(axes))
        spec = (*at["out"], *at["in"], *at["k"])
        if axes == spec:
            return name, spec
    at = positions(LAYOUTS[names[0]], len(axes))
    return names[0], (*at["out"], *at["in"], *at["k"])


def _moved(a: jax.Array, source: Axes, target: Axes) -> jax.Array:
    """Moves each axis of source to that of target."""
    return a if source == target else jnp.moveaxis(a, source, target)


def _split(a: jax.Array, axis: int, parts: int) -> jax.Array:
    """Along a new first axis, the parts of another one."""
    return jnp.moveaxis(a.reshape(*a.shape[:axis], parts, a.shape[axis] // parts, *a.shape[axis + 1 :]), axis, 0)


def _joined(a: jax.Array, axis: int) -> jax.Array:
    """The reverse of `_split`."""
    a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], a.shape[axis] * a.shape[axis + 1], *a.shape[axis + 2 :])


def convolve(lhs: jax.Array, rhs: jax.Array, convolution: Convolution, options: Options) -> jax.Array:
    """The convolution, by the lowering that is chosen for the contraction."""
    if convolution.stack > 1:
        (of_lhs, of_rhs, of_out), parts = convolution.stacked, convolution.stack
        each = partial(convolve, convolution=convolution._replace(stack=1), options=options)
        return _joined(jax.vmap(each)(_split(lhs, of_lhs, parts), _split(rhs, of_rhs, parts)), of_out)
    geometry, target = convolution.geometry, convolution.target
    layout, spec = _stored(convolution.axes_of("w"), geometry.groups, convolution.flipped)
    core = {"x": _core(geometry), "w": spec, "y": _core(geometry)}
    given = {convolution.lhs: lhs, convolution.rhs: rhs}
    operands = {name: _moved(a, convolution.axes_of(name), core[name]) for name, a in given.items()}
    if target == "y":
        result = conv_transpose(operands["x"], operands["w"], geometry, options, layout=layout)
    else:
        result = gradient(target, operands, geometry, options, layout)
    return _moved(result, core[target], convolution.axes_of(target))


class UnrecognizedError(Exception):
    """A convolution that is none of these, and why."""


def recognized(lhs: Sequence[Any], rhs: Sequence[Any], out: Sequence[Any], parameters: Mapping[str, Any]) -> Convolution:
    """What a convolution of these shapes is; parameters are those of the primitive.

    Raises:
        UnrecognizedError: it is none of the contractions, or one of sizes that are not known.
    """
    numbers = parameters["dimension_numbers"]
    strides, spread, dilated = (tuple(map(int, parameters[name])) for name in ("window_strides", "lhs_dilation", "rhs_dilation"))
    padding = [tuple(int(each) if isinstance(each, np.integer) else each for each in pair) for pair in parameters["padding"]]
    features, batches = parameters["feature_group_count"], parameters["batch_group_count"]
    sizes = [[shape[axis] for axis in spec[2:]] for shape, spec in zip((lhs, rhs, out), numbers, strict=True)]
    if any(isinstance(size, int) and size == 0 for size in (*lhs, *rhs, *out)):
        raise UnrecognizedError("it is empty")
    if not (isinstance(features, int) and isinstance(batches, int)):  # as under a vmap of both operands
        raise UnrecognizedError("its number of groups is symbolic")

    def larger(window: Sequence[Any], result: Sequence[Any]) -> bool:
        return all(isinstance(size, int) for size in result) and (
            not all(isinstance(size, int) for size in window) or math.prod(window) > math.prod(result)
        )

    ones = (1,) * len(strides)
    gradient = larger(sizes[1], sizes[2]) or (sizes[1] == sizes[2] and numbers.lhs_spec[1] == 0)  # of a filter
    if spread != ones:
        if gradient and dilated == ones:
            names, steps, dilations, kernel, flipped = ("x", "y", "w"), spread, strides, sizes[2], True
        elif strides == ones:
            names, steps, dilations, kernel, flipped = ("x", "w", "y"), spread, dilated, sizes[1], True
        else:
            raise UnrecognizedError("it is strided as well as spread")
    elif gradient:
        names, steps, dilations, kernel, flipped = ("y", "x", "w"), dilated, strides, sizes[2], False
    elif strides != ones or tuple(numbers.rhs_spec[:2]) in ((1, 0), (len(ones), len(ones) + 1)):
        names, steps, dilations, kernel, flipped = ("y", "w", "x"), strides, dilated, sizes[1], False
    else:
        raise UnrecognizedError("it is an ordinary convolution of stride 1")

    by_name = dict(zip(names, sizes, strict=True))
    rows = zip(by_name["x"], by_name["y"], kernel, steps, dilations, padding, strict=True)
    crops = tuple(_crops(flipped, *row) for row in rows)
    # What contracts the batch has channels in the place of it, and the batch in that of channels.
    (batch, channels, *space), (outputs, inputs, *window), result = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if names[2] == "w":
        axes = {names[0]: (channels, batch, *space), names[1]: (inputs, outputs, *window)}
        axes["w"] = (result[1], result[0], *result[2:]) if flipped else tuple(result)
        groups, stack, along = batches, features, channels
    else:
        axes = {names[0]: (batch, channels, *space), names[2]: tuple(result)}
        axes["w"] = (outputs, inputs, *window) if flipped else (inputs, outputs, *window)
        groups, stack, along = features, batches, batch
    geometry = Geometry(tuple(kernel), steps, dilations, crops, groups, channels_last(axes["x"], axes["y"]))
    every = (axes["x"], axes["w"], axes["y"])
    return Convolution(names[0], names[1], geometry, flipped, every, stack, (along, outputs, result[1]))


def _crops(flipped: bool, size: Any, length: Any, k: Any, s: int, d: int, pad: tuple[Any, Any]) -> tuple[int, int]:
    """Those at both ends, of which the second follows from the sizes of x and y."""
    if not isinstance(k, int):
        raise UnrecognizedError("its kernel has no static size")
    lo = effective_kernel(k, d) - 1 - pad[0] if flipped else pad[0]
    hi = full_size(size, k, s, d) - lo - length
    if not isinstance(lo, int) or not isinstance(hi, int):
        raise UnrecognizedError("its padding depends on sizes that are not static")
    return lo, hi


def _multiplied(dtype: Any, preferred: Any) -> Any:
    """The dtype in which lax multiplies and sums: of integers whose result is to be floats, floats, to be rounded once."""
    wanted = dtype if preferred is None else jax.dtypes.canonicalize_dtype(preferred)
    if dtype in canonicalize.INTEGERS and wanted in canonicalize.FLOATS:
        return wanted if wanted.itemsize >= 4 else np.dtype(np.float32)
    return dtype


def as_floats(x: jax.Array, w: jax.Array, preferred: Any) -> tuple[jax.Array, jax.Array]:
    """Integers as floats, in which lax multiplies and sums them where that is the preferred type."""
    try:
        dtype = _multiplied(x.dtype, preferred)
    except TypeError:  # for _options.options to report
        return x, w
    return (x, w) if dtype == x.dtype else (x.astype(dtype), w.astype(dtype))


def prepared(
    function: str,
    convolution: Convolution,
    lhs: Any,
    rhs: Any,
    shapes: tuple[tuple[Any, ...], tuple[Any, ...]],
    parameters: Mapping[str, Any],
    implementation: str | None,
    forward_mode: bool | None,
    tuning: Tuning | None,
) -> Call:
    """How the convolution would be computed of operands of these types, but for their shapes.

    Raises:
        UnrecognizedError: it is to be left as it is, and why.
        ValueError: an implementation is named, by `defaults`, that cannot compute it.
    """
    dtypes = (*canonicalize.FLOATS, *canonicalize.COMPLEX, *(() if convolution.target != "y" else canonicalize.INTEGERS))
    if lhs.dtype != rhs.dtype or lhs.dtype not in dtypes:
        raise UnrecognizedError(f"its operands are {lhs.dtype} and {rhs.dtype}")
    precision, preferred = parameters["precision"], parameters["preferred_element_type"]
    like: Any = jax.ShapeDtypeStruct((), _multiplied(lhs.dtype, preferred))  # type: ignore[no-untyped-call]
    how = implementation, forward_mode, tuning
    options = _options.options(function, like, "conv_general_dilated", precision, preferred, *how)
    geometry = convolution.geometry
    layout, _ = _stored(convolution.axes_of("w"), geometry.groups, convolution.flipped)
    if convolution.ordinary and mesh_axes({convolution.lhs: lhs, convolution.rhs: rhs}, geometry.spatial_axes, layout):
        raise UnrecognizedError("it may be an ordinary convolution, and what is computed rightly over a mesh may be slower")
    call = Call(*convolution.shapes(*shapes), like.dtype, geometry, options._replace(ordinary=convolution.ordinary))
    check_able(call)
    return call

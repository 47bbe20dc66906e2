"""A contraction as a program: the lowering that is chosen for each platform, of the operands that meet, whatever the mesh.

Phi, in `_derivatives`, is a form of three arrays, x, w and y; a contraction gives one of them from the other two. Nothing here is
differentiated by JAX but where `_derivatives` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._filters import LAYOUTS, from_tf, positions, to_tf
from jaxdeconv._geometry import Geometry, Interior
from jaxdeconv._lowerings import Contraction, Name, Platform, unable
from jaxdeconv._lowerings._interior import cut, interior
from jaxdeconv._lowerings._work import Sizes
from jaxdeconv._partitioning import entries, explicit_mesh, names, on_explicit_axes
from jaxdeconv._platforms import converted, lowering, stored_form
from jaxdeconv._select import able, select, select_ordinary
from jaxdeconv._tuning import Case, Tuning

OWN = "jaxdeconv_"
"""What the names of jitted functions of this package begin with, by which a program that calls it is known."""
TYPICAL = 1024
"""What a symbolic size (`jax.export`) counts as in estimates."""
CONTRACTIONS: Mapping[str, Contraction] = {"x": "input_grad", "w": "filter_grad", "y": "transpose"}
"""What gives each of the three arrays from the other two, which come in the order x, w, y but that y comes before w."""
TARGETS: Mapping[Contraction, str] = {contraction: name for name, contraction in CONTRACTIONS.items()}
"""And back."""
OPERANDS: Mapping[str, tuple[str, str]] = {"x": ("y", "w"), "w": ("x", "y"), "y": ("x", "w")}
INDICES: Mapping[str, tuple[str, str]] = {"x": ("batch", "in"), "w": ("in", "out"), "y": ("batch", "out")}
"""Of the three arrays, beside those of space and the kernel."""


def is_convolution(name: Name) -> bool:
    """Whether it computes by a convolution of lax, rather than products."""
    return name not in ("matmul", "elementwise")


class Options(NamedTuple):
    """How to compute, as opposed to Geometry, which says what. Hashable."""

    function: str  # that was called; for messages
    name: str
    dtype: np.dtype[Any]  # of the result; never None, which numpy holds equal to float64
    precision: Any = None
    implementation: Name | None = None
    forward_mode: bool | None = None
    axes: int = 0  # of a mesh, over which the operands may be cut: `_partitioning.axes`
    differentiated: bool = False  # in the program of its gradients
    ordinary: bool = False  # a convolution of any network, and its gradients: `select_ordinary`
    tuning: Tuning | None = None  # what was measured


class Array(NamedTuple):
    """The type of one of the three arrays, w as it is stored."""

    shape: tuple[Any, ...]
    dtype: Any
    entries: tuple[Any, ...]  # of its sharding over explicit axes of a mesh, one for each axis


class Form(NamedTuple):
    """Phi without its arrays: all that the three contractions and their derivatives have in common. Hashable."""

    geometry: Geometry
    options: Options
    layout: str
    filter_shape: tuple[int, ...]  # in TensorFlow's layout
    x: Array
    w: Array
    y: Array


def tf_shape(w: jax.Array, geometry: Geometry, layout: str) -> tuple[int, ...]:
    """The shape of a filter in TensorFlow's layout."""
    return jax.eval_shape(lambda w: to_tf(w, layout, geometry.groups), w).shape if layout != "tf" else w.shape


def _entries_of_activations(like: jax.Array, w: jax.Array, geometry: Geometry, layout: str, channels: str) -> list[Any]:
    """How y is sharded by explicit axes: as x, but its channels as those of w, or for groups as those of x where these are whole.

    Or x by y. `channels` names those of the result in a filter.
    """
    found, axis = entries(like), geometry.channel_axis
    if geometry.groups == 1:
        (of_w,) = positions(LAYOUTS[layout], w.ndim)[channels]
        found[axis] = entries(w)[of_w]
    elif geometry.groups % math.prod(jax.typeof(like).sharding.mesh.shape[name] for name in names(found[axis])):
        found[axis] = None
    return found


def shapes_of(shapes: Mapping[str, tuple[Any, ...]], geometry: Geometry) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[Any, ...]]:
    """The shapes of x, w and y, of w in TensorFlow's layout, from those of two of them."""
    axis = geometry.channel_axis
    if "x" not in shapes:
        x = geometry.input_shape(shapes["y"], shapes["w"])
        return x, shapes["w"], shapes["y"]
    x = shapes["x"]
    w = shapes.get("w") or (*geometry.kernel, shapes["y"][axis] // geometry.groups, x[axis])
    return x, w, geometry.output_shape(x, w)


def form_of(operands: Mapping[str, jax.Array], geometry: Geometry, options: Options, layout: str) -> Form:
    """The form of the contraction of two of x, w and y, whose result has the dtype of the options."""
    (target,) = CONTRACTIONS.keys() - operands.keys()
    shapes = {name: tf_shape(a, geometry, layout) if name == "w" else a.shape for name, a in operands.items()}
    x, filter_shape, y = shapes_of(shapes, geometry)
    if target == "w":
        stored = jax.eval_shape(lambda: from_tf(jnp.zeros(filter_shape, options.dtype), layout, geometry.groups)).shape
        wanted = Array(stored, options.dtype, (None,) * len(stored))
    else:
        like, channels = ("x", "out") if target == "y" else ("y", "in")
        of_result = _entries_of_activations(operands[like], operands["w"], geometry, layout, channels)
        wanted = Array(y if target == "y" else x, options.dtype, tuple(of_result))
    arrays = {name: Array(a.shape, a.dtype, tuple(entries(a))) for name, a in operands.items()} | {target: wanted}
    return Form(geometry, options, layout, filter_shape, **arrays)


def accumulated(dtype: Any) -> np.dtype[Any]:
    """The dtype that sums of products of this dtype are formed in."""
    wide: np.dtype[Any] = np.dtype(jnp.float32 if dtype in (jnp.float16, jnp.bfloat16) else dtype)
    return wide


def typical(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape without symbolic sizes."""
    return tuple(size if isinstance(size, int) else TYPICAL for size in shape)


def sizes_of(x_shape: tuple[Any, ...], w_shape: tuple[int, ...], geometry: Geometry, inside: Interior | None, dtype: Any) -> Sizes:
    """For estimates, of the interior if there is one: a symbolic dimension counts as a typical size, and none as 1."""
    shape = [max(1, size) for size in typical(x_shape)]
    spatial = tuple(shape[axis] for axis in geometry.spatial_axes)
    if inside is not None:
        geometry = inside.geometry
        spatial = tuple(max(1, size - lo - hi) for size, (lo, hi) in zip(spatial, inside.inputs, strict=True))
    channels = shape[geometry.channel_axis], max(1, w_shape[-2]) * geometry.groups
    return Sizes(geometry, shape[0], spatial, *channels, np.dtype(dtype).itemsize)


def device() -> tuple[Platform, str]:
    """The platform and the kind of the device that JAX computes on. Of others than the three, the platform is that of their forms."""
    found = jax.devices()[0]
    return next((platform for platform in get_args(Platform) if platform == found.platform), "gpu"), found.device_kind


def case_of(contraction: Contraction, sizes: Sizes, dtype: np.dtype[Any]) -> Case:
    """What a tuning has a contraction of operands of this dtype by, on the device that JAX computes on."""
    return Case(*device(), contraction, sizes._replace(itemsize=dtype.itemsize), dtype.name)


class Taken(NamedTuple):
    """A choice by a tuning."""

    platform: Platform
    name: Name
    seconds: float


def measured(contraction: Contraction, sizes: Sizes, options: Options, dtype: np.dtype[Any]) -> Taken | None:
    """What the tuning says of operands of this dtype, if there is one and it counts. Without one no device is asked for."""
    if options.tuning is None or options.implementation is not None:
        return None
    case = case_of(contraction, sizes, dtype)
    if case not in options.tuning.entries:
        return None
    name = options.tuning.chosen(case, able(contraction, sizes, case.platform, options.axes, measured=True))
    return None if name is None else Taken(case.platform, name, dict(options.tuning.entries[case].seconds)[name])


def choices_of(contraction: Contraction, sizes: Sizes, options: Options, dtype: np.dtype[Any]) -> dict[Platform, Name]:
    """The lowering on each platform, of operands of this dtype: the one that is named, or was measured, or is estimated."""
    taken = measured(contraction, sizes, options, dtype)

    def chosen(platform: Platform) -> Name:
        if taken is not None and taken.platform == platform:
            return taken.name
        if options.ordinary:
            return select_ordinary(contraction, sizes, platform)
        return select(contraction, sizes, platform, options.axes, options.differentiated)

    return {platform: options.implementation or chosen(platform) for platform in get_args(Platform)}


class Contracted(NamedTuple):
    """One contraction that is traced, as the choice sees it."""

    contraction: Contraction
    sizes: Sizes
    dtype: np.dtype[Any]  # of the operands
    form: Form
    choices: Mapping[Platform, Name]  # none where nothing is computed, since an array is empty or no input reaches an output


contracted: ContextVar[list[Contracted] | None] = ContextVar("contracted", default=None)
"""Where `_executed` has set a list, every contraction that is traced is added to it, and is a call in the program, by name."""
MARK = f"{OWN}contraction_"
"""What these names begin with; the place in the list follows."""


def _marked(run: Binary, found: Contracted) -> Binary:
    """The same, but found in the program where `contracted` is set."""

    def marked(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        if (seen := contracted.get()) is None:
            return run(lhs, rhs)

        def named(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            return run(lhs, rhs)

        named.__name__ = f"{MARK}{len(seen)}"
        seen.append(found)
        result: jax.Array = jax.jit(named)(lhs, rhs)
        return result

    return marked


Binary: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def _precision(precision: Any, dtype: Any) -> Any:
    """The precision to compute with. An algorithm says nothing of complex numbers and integers, whose convolutions lax computes as
    usual, and whose products XLA on CPU computes wrongly, silently (jaxlib 0.8 to 0.12).
    """
    wanted = jax.config.jax_default_matmul_precision if precision is None else precision  # type: ignore[attr-defined]
    algorithm = isinstance(wanted, lax.DotAlgorithm | lax.DotAlgorithmPreset) or wanted in lax.DotAlgorithmPreset.__members__
    return lax.Precision.HIGHEST if algorithm and not jnp.issubdtype(dtype, jnp.floating) else precision


def _of_dtype(run: Binary, dtype: Any) -> Binary:
    return lambda lhs, rhs: run(lhs.astype(dtype), rhs.astype(dtype))


def _per_platform(
    contraction: Contraction,
    choices: dict[Platform, Name],
    keywords: dict[str, Any],
    dtypes: tuple[Any, Any],
    layout: str,
    sizes: Sizes | None,
    axes: int,
    own_forms: bool = True,
) -> Binary:
    """One function that runs the choice of the platform it is compiled for, on operands of one dtype for a result of another.

    Without `own_forms`, products have GPU's, which are the general ones.
    """
    wide, (operand, result) = keywords["preferred_element_type"], dtypes
    bound: dict[tuple[Any, ...], Binary] = {}
    keys: dict[Platform, tuple[Any, ...]] = {}
    for platform, name in choices.items():
        # GPU and TPU sum in float32 anyway. Asked for a float32 result, XLA stores it on TPU, and widens the operands on GPU.
        convolution = is_convolution(name)
        dtype = operand if platform != "cpu" and convolution and operand == result else wide
        # The partitioner for CPU pads narrow operands of a convolution with wide zeros, which XLA then refuses.
        widened = platform == "cpu" and convolution and axes > 0 and operand != wide
        forms_of: Platform = platform if own_forms or convolution else "gpu"
        function, form = lowering(contraction, name, forms_of, axes), stored_form(contraction, name, forms_of, layout, sizes)
        keys[platform] = function, form, dtype, widened
        own = partial(form or converted(contraction, function, layout), **keywords | {"preferred_element_type": dtype})
        bound[keys[platform]] = _of_dtype(own, wide) if widened else own
    if len(bound) == 1:
        return bound.popitem()[1]

    def in_wide(own: Binary) -> Binary:  # because the branches of a platform_dependent are of one dtype
        return lambda lhs, rhs: own(lhs, rhs).astype(wide)

    branches = {key: in_wide(own) for key, own in bound.items()}
    others = {platform: branches[key] for platform, key in keys.items() if key != keys["gpu"]}

    def run(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        chosen: jax.Array = lax.platform_dependent(lhs, rhs, **others, default=branches[keys["gpu"]])
        return chosen

    return run


def _apart(
    together: Binary,
    batched: Binary,
    folded: Sequence[Callable[[int], Binary] | None] = (None, None),
    mapped_before: Sequence[bool] = (False, False),
) -> Binary:
    """`together`, but `batched` under a `jax.vmap` over both operands, and `folded[i](axis_size)` under one over the i-th; all agree.

    Of a convolution, JAX makes under one over both a convolution with a group for each element of the batch. XLA computes it naively
    on CPU, stuffs zeros for cuDNN, and estimates twice the cycles on TPU; of a matrix product it makes matrix products.
    """

    @jax.custom_batching.custom_vmap
    def apart(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return together(lhs, rhs)

    @apart.def_vmap
    def _(axis_size: int, in_batched: list[bool], lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, bool]:
        axes = tuple(0 if mapped_now else None for mapped_now in in_batched)
        mapped = [now or before for now, before in zip(in_batched, mapped_before, strict=True)]
        if all(mapped):
            return jax.vmap(batched, axes)(lhs, rhs), True
        if (of_one := folded[in_batched.index(True)]) is not None:
            return of_one(axis_size)(lhs, rhs), True
        return _apart(jax.vmap(together, axes), jax.vmap(batched, axes), mapped_before=mapped)(lhs, rhs), True

    result: Binary = apart
    return result


def _fold(target: str, mapped: str, form: Form, products: Binary) -> Callable[[int], Binary] | None:
    """The array `target`, of one operand that is mapped over and one that is not, as one contraction, of which the choice sees all.

    Mapped elements are more of the index that the two arrays share: of the batch, or of the channels, if there is one group. That
    takes a copy of the filters, so if they are the largest, it is `products`, which take them as they are.
    """
    (index,) = set(INDICES[target]) & set(INDICES[mapped])
    if index != "batch" and form.geometry.groups > 1:
        return None

    def axis(name: str) -> int:
        if index == "batch":
            return 0
        return positions(LAYOUTS[form.layout], len(form.w.shape))[index][0] if name == "w" else form.geometry.channel_axis

    def widened(name: str, axis_size: int) -> Array:
        array: Array = getattr(form, name)
        shape = list(array.shape)
        shape[axis(name)] *= axis_size
        return array._replace(shape=tuple(shape))

    def folded(axis_size: int) -> Binary:
        wide = Form(**form._asdict() | {name: widened(name, axis_size) for name in (target, mapped)})
        _, filter_shape, _ = shapes_of({"x": wide.x.shape, "y": wide.y.shape}, form.geometry)
        wide = wide._replace(filter_shape=filter_shape)
        x, w, y = (math.prod(typical(shape)) for shape in (wide.x.shape, filter_shape, wide.y.shape))
        if index != "batch" and w > max(x, y):
            return jax.vmap(products, tuple(0 if name == mapped else None for name in OPERANDS[target]))

        def run(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            operands = dict(zip(OPERANDS[target], (lhs, rhs), strict=True))
            operands[mapped] = jnp.moveaxis(operands[mapped], 0, axis(mapped)).reshape(getattr(wide, mapped).shape)
            shape, at = getattr(form, target).shape, axis(target)
            return jnp.moveaxis(contract(target, operands, wide).reshape(*shape[:at], axis_size, *shape[at:]), at, 0)

        return run

    return folded


def nothing(a: jax.Array, dtype: Any) -> jax.Array:
    """Zero, which JAX holds to be linear in an array: the sum of no elements of it, which XLA drops."""
    return jnp.sum(lax.slice_in_dim(a, 0, 0)).astype(dtype)


def _transposable(
    choices: dict[Platform, Name], contraction: Contraction, sizes: Sizes, options: Options, static: bool
) -> dict[Platform, Name]:
    """Choices of which JAX makes good ones of the other contractions: products, rather than convolutions.

    Of a convolution it makes no good filter gradient, none at all where sizes are symbolic, and on CPU nothing in order.
    """
    if unable("matmul", contraction, sizes) is not None or (options.implementation and static):
        return choices
    products = {platform: contraction == "filter_grad" or not static or platform == "cpu" for platform in choices}
    return {platform: "matmul" if is_convolution(name) and products[platform] else name for platform, name in choices.items()}


def contract(
    target: str, operands: Mapping[str, jax.Array], form: Form, separable: bool = True, transposable: bool = False
) -> jax.Array:
    """The array `target` of the other two, in its dtype, by the lowering chosen for it.

    Products are formed of operands of one dtype, with a wide accumulator. Where it is separable, it is products under a vmap over
    both operands, and JAX cannot transpose it. Where it is transposable, JAX can, and can differentiate that without harm.
    """
    contraction, (first, second) = CONTRACTIONS[target], OPERANDS[target]
    lhs, rhs, wanted = operands[first], operands[second], getattr(form, target)
    if (mesh := explicit_mesh(lhs, rhs)) is not None:

        def inside(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            return contract(target, {first: lhs, second: rhs}, form, separable, transposable)

        return on_explicit_axes(inside, mesh, wanted.shape, wanted.entries)(lhs, rhs)
    geometry, options, layout = form.geometry, form.options, form.layout
    empty = any(isinstance(size, int) and size == 0 for size in (*lhs.shape, *rhs.shape, *wanted.shape))
    if empty or (found := interior(geometry, form.x.shape)) is None:

        def none(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            # Mapped, and varying over mesh axes, as the operands are.
            zeros = jnp.broadcast_to(nothing(lhs, wanted.dtype) * nothing(rhs, wanted.dtype), wanted.shape)
            # XLA ends the process where it simplifies an all-reduce of a complex constant, as `jax.shard_map` makes of a gradient.
            if np.issubdtype(wanted.dtype, np.complexfloating):
                zeros = lax.optimization_barrier(zeros)  # type: ignore[no-untyped-call]
            return zeros

        sizes = sizes_of(form.x.shape, form.filter_shape, geometry, None, lhs.dtype)
        return _marked(none, Contracted(contraction, sizes, np.dtype(lhs.dtype), form, {}))(lhs, rhs)
    accumulator = max((accumulated(each) for each in (lhs.dtype, rhs.dtype, wanted.dtype)), key=lambda each: each.itemsize)
    given = lhs.dtype if lhs.dtype == rhs.dtype else accumulator
    # The cotangent differs where preferred_element_type made the result of another dtype than x and w. Before jax 0.10, lax could not
    # differentiate a convolution that accumulates in another dtype than that of its operands.
    if lhs.dtype != rhs.dtype or (lhs.dtype != accumulator and jax.__version_info__ < (0, 10)):
        lhs, rhs = lhs.astype(accumulator), rhs.astype(accumulator)

    sizes = sizes_of(form.x.shape, form.filter_shape, geometry, found, lhs.dtype)
    choices = choices_of(contraction, sizes, options, given)
    static = all(isinstance(size, int) for size in form.x.shape)
    if transposable:
        choices = _transposable(choices, contraction, sizes, options, static)
    keywords: dict[str, Any] = {
        "geometry": found.geometry,
        "precision": _precision(options.precision, accumulator),
        "preferred_element_type": accumulator,
    }
    how = keywords, (lhs.dtype, wanted.dtype), layout, sizes if static else None, options.axes
    own_forms = not transposable or jax.__version_info__ >= (0, 10)  # before, JAX could not transpose the loops of CPU's

    def chosen(choices: dict[Platform, Name]) -> Binary:
        run = _per_platform(contraction, choices, *how, own_forms=own_forms)
        # What JAX transposes it may not pass over: that would have a negative padding.
        strided = separable and set(choices.values()) == {"dilated"}

        def within(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            lhs, rhs, restored = cut(contraction, lhs, rhs, found, layout, strided)
            return restored(run(lhs, rhs).astype(wanted.dtype))

        return _marked(within, Contracted(contraction, sizes, given, form, choices))

    run = chosen(choices)
    if separable and not options.implementation and unable("matmul", contraction, sizes) is None:
        products = chosen(choices | {platform: "matmul" for platform, name in choices.items() if is_convolution(name)})
        run = _apart(run, products, [_fold(target, operand, form, products) for operand in (first, second)])
    return run(lhs, rhs)

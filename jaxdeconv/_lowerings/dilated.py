"""Lowering "dilated": each contraction is one `lax.conv_general_dilated`. Covers every geometry and is the reference for the others.

With ke = (k-1)*d + 1, and "full" padding meaning the ke-1 zeros on each side that let the window hang over by all but one sample:

| contraction | lhs, rhs    | window_strides | lhs_dilation | rhs_dilation | padding                        | groups              |
| transpose   | x, rev(w)   | 1              | s            | d            | ke-1 - crop_lo, ke-1 - crop_hi | feature_group_count |
| input_grad  | g, w        | s              | 1            | d            | crop_lo, crop_hi               | feature_group_count |
| filter_grad | g, x        | d              | 1            | s            | crop_lo, crop_hi               | batch_group_count   |

The sizes come out exactly: (L + crop_lo + crop_hi - ke) / s + 1 = W for the second and (ke - 1) / d + 1 = k for the third.
The third is what sets the library apart: JAX derives it from the first as a convolution over the zero-stuffed signal, with g as its
window; here the window is x with its samples s apart, and nothing is stuffed. `filter_grad_over_x` is the former, for s = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._filters import LAYOUTS, positions, regrouped
from jaxdeconv._geometry import Geometry, effective_kernel
from jaxdeconv._lowerings._blocks import padded, static

LONG = 12  # results in a dimension, from which one more costs little


def _activation_spec(geometry: Geometry) -> tuple[int, ...]:
    """Axes of x, y, g in lax's order: batch, feature, spatial."""
    return (0, geometry.channel_axis, *geometry.spatial_axes)


def _filter_spec(geometry: Geometry) -> tuple[int, ...]:
    """Axes of w [*k, out / groups, in] in the order: out, in, spatial."""
    n = geometry.ndim
    return (n, n + 1, *range(n))


def _swapped(spec: tuple[int, ...]) -> tuple[int, ...]:
    return (spec[1], spec[0], *spec[2:])


def _convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    numbers: lax.ConvDimensionNumbers,
    *,
    in_order: bool = False,
    doubled: bool = False,
    **keywords: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, in a form that XLA's simplifier does not mistake for another one.

    `in_order`, its arrays are brought to the order of XLA's fast convolution on CPU: batch, spatial, features; spatial, in, out. XLA
    does so itself at the top of a program alone, and computes any other order by one scalar loop in bodies of loops and branches.
    Operands of which the first is shorter than the window it swaps, and then has no such order; so zeros are put around that one, and
    kept from XLA, which would make them padding again. And one of two dimensions without padding takes it 1.6 times as long in the
    mean, 25 times at most, as one with a zero behind the last sample (jaxlib 0.10; 1.07 times with 0.12, and no longer with 0.8).

    `doubled`, all of the last dimension is twice as far apart, so that XLA itself computes what it would give to a library.

    It takes a dimension that is not padded, and whose input is spread by as much as the window is long, for one of groups, and ends
    the process when it swaps the operands of the others (jaxlib 0.8 to 0.12). A zero of padding, and a sample of result less, keep
    such a dimension apart. JAX derives such ones from strided dimensions that are padded as far as the window reaches: there, a zero
    is in the operand.
    """
    if not padding:  # jaxlib 0.8 computes groups wrongly where there is no spatial dimension
        lhs, rhs, specs = lhs[..., None], rhs[..., None], (lax.ConvDimensionNumbers(*((*spec, 2) for spec in numbers)))
        return _convolution(lhs, rhs, (1,), [(0, 0)], (1,), (1,), specs, in_order=in_order, **keywords)[..., 0]
    padding, dropped, more, added = list(padding), [0] * lhs.ndim, [0] * lhs.ndim, [(0, 0, 0)] * lhs.ndim
    (batch, features, *of_lhs), (outputs, inputs, *of_rhs), of_y = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    rows = zip(window_strides, lhs_dilation, rhs_dilation, of_lhs, of_rhs, of_y[2:], strict=True)
    for dimension, (stride, spread, dilation, lhs_axis, rhs_axis, y_axis) in enumerate(rows):
        reach, (lo, hi) = (rhs.shape[rhs_axis] - 1) * dilation, padding[dimension]
        if spread > 1 and lo == hi == 0 and not (isinstance(reach, int) and reach == 0):
            padding[dimension], dropped[y_axis] = (1, 0), 1
        elif stride > 1 and lo == hi == reach != 0:
            padding[dimension], added[lhs_axis] = (lo - 1, hi), (1, 0, 0)
    lhs = padded(lhs, added)
    if in_order:
        if set(lhs_dilation) == {1} and _is_shorter(lhs, of_lhs, rhs, of_rhs):
            widths = dict(zip(of_lhs, padding, strict=True))
            lhs = padded(lhs, [(*widths.get(axis, (0, 0)), 0) for axis in range(lhs.ndim)])
            lhs = lax.optimization_barrier(lhs)  # type: ignore[no-untyped-call]
            padding = [(0, 0)] * len(padding)
        if doubled:
            window_strides, lhs_dilation, rhs_dilation = (
                (*each[:-1], 2 * each[-1]) for each in (window_strides, lhs_dilation, rhs_dilation)
            )
            lo, hi = padding[-1]
            padding[-1] = (2 * lo, 2 * hi + 1)  # which reaches no sample, and is padding
        elif not any(map(any, padding)) and set(lhs_dilation) == {1}:
            windows = [effective_kernel(rhs.shape[axis], dilation) for axis, dilation in zip(of_rhs, rhs_dilation, strict=True)]
            spans = list(zip((lhs.shape[axis] for axis in of_lhs), windows, strict=True))
            if (found := _zero_behind(spans, window_strides)) is not None:
                dimension, count = found
                padding[dimension], more[of_y[2 + dimension]] = (0, 1), count
        lhs, rhs = lhs.transpose(batch, *of_lhs, features), rhs.transpose(*of_rhs, inputs, outputs)
        last = lhs.ndim - 1
        numbers = lax.ConvDimensionNumbers((0, last, *range(1, last)), (last, last - 1, *range(last - 1)), (0, last, *range(1, last)))
    y = lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=numbers,
        **keywords,
    )
    if in_order:
        y = y.transpose([numbers.out_spec[of_y.index(axis)] for axis in range(y.ndim)])
    if not any(dropped) and not any(more):
        return y
    return lax.slice(y, dropped, [size - beyond for size, beyond in zip(y.shape, more, strict=True)])


def _is_shorter(lhs: jax.Array, of_lhs: Sequence[int], rhs: jax.Array, of_rhs: Sequence[int]) -> bool:
    """Whether the left one has fewer samples, in all dimensions together; of symbolic sizes it is not known."""
    known = static(lhs) and static(rhs)
    return known and math.prod(lhs.shape[axis] for axis in of_lhs) < math.prod(rhs.shape[axis] for axis in of_rhs)


def _zero_behind(spans: Sequence[tuple[Any, Any]], strides: Sequence[int]) -> tuple[int, int] | None:
    """The dimension in which a zero follows the samples, and how many results more that makes; None if there is none.

    Of an unpadded convolution of two dimensions, whose samples and window span so many. With a stride it mostly makes none.
    """
    known = all(isinstance(each, int) for span in spans for each in span)
    if len(spans) != 2 or not known or all(window == 1 for _, window in spans):
        return None
    beyond = [samples - window + 1 for samples, window in spans]
    more = [int(each % stride == 0) for each, stride in zip(beyond, strides, strict=True)]
    dimension = max(range(2), key=lambda each: (not more[each], strides[each] > 1, beyond[each]))
    if more[dimension] and beyond[dimension] < LONG * strides[dimension]:
        return None
    return dimension, more[dimension]


def _full(geometry: Geometry) -> list[tuple[int, int]]:
    """The padding of x in which the window reaches what is not cropped."""
    return [(ke - 1 - lo, ke - 1 - hi) for ke, (lo, hi) in zip(geometry.effective_kernels, geometry.crops, strict=True)]


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, *, layout: str = "tf", **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i], of a filter that may be stored in any layout."""
    n, stored = geometry.ndim, LAYOUTS[layout]
    at = positions(stored, w.ndim)
    (out,), (inputs,) = at["out"], at["in"]
    if stored.grouped == "in":  # lax counts the groups of a right-hand side along its output features
        w = regrouped(w, geometry.groups, whole=inputs, part=out)
    activations = _activation_spec(geometry)
    return _convolution(
        x,
        w if stored.flipped else lax.rev(w, at["k"]),
        (1,) * n,
        _full(geometry),
        geometry.strides,
        geometry.dilations,
        lax.ConvDimensionNumbers(activations, (out, inputs, *at["k"]), activations),
        feature_group_count=geometry.groups,
        **keywords,
    )


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    activations = _activation_spec(geometry)
    return _convolution(
        g,
        w,
        geometry.strides,
        geometry.crops,
        (1,) * geometry.ndim,
        geometry.dilations,
        lax.ConvDimensionNumbers(activations, _swapped(_filter_spec(geometry)), activations),
        feature_group_count=geometry.groups,
        **keywords,
    )


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i], with the batch as the contracted feature."""
    activations = _swapped(_activation_spec(geometry))
    return _convolution(
        g,
        x,
        geometry.dilations,
        geometry.crops,
        (1,) * geometry.ndim,
        geometry.strides,
        lax.ConvDimensionNumbers(activations, activations, _filter_spec(geometry)),
        batch_group_count=geometry.groups,
        **keywords,
    )


def filter_grad_over_x(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F with the operands exchanged, for one group: g is the window, and moves over x as T's does, so the taps come reversed."""
    activations = _swapped(_activation_spec(geometry))
    taps = _convolution(
        x,
        g,
        geometry.dilations,
        _full(geometry),
        geometry.strides,
        (1,) * geometry.ndim,
        lax.ConvDimensionNumbers(activations, activations, _swapped(_filter_spec(geometry))),
        **keywords,
    )
    return lax.rev(taps, range(geometry.ndim))


def is_over_x(geometry: Geometry, inputs: Any, outputs: Any, most: float = math.inf) -> bool:
    """Whether x has fewer channels than g, and than so many, and F over it has one group and stuffs nothing."""
    known = isinstance(inputs, int) and isinstance(outputs, int)
    return known and inputs < min(most, outputs) and geometry.groups == 1 and max(geometry.strides, default=1) == 1


def is_over_fewer(geometry: Geometry, inputs: int, outputs: int, x_samples: int, g_samples: int) -> bool:
    """Whether `filter_grad_of_fewer` is over x, of fewer channels and about as many samples: what is padded is multiplied, too."""
    return g_samples < 2 * x_samples and is_over_x(geometry, inputs, outputs)


def filter_grad_of_fewer(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F over x where that has fewer channels."""
    inputs, outputs = (a.shape[geometry.channel_axis] for a in (x, g))
    over = static(x) and static(g) and is_over_fewer(geometry, inputs, outputs, x.size // inputs, g.size // outputs)
    return (filter_grad_over_x if over else filter_grad)(x, g, geometry, **keywords)


def filter_grad_by_item(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F as the sum of those of the items of the batch, where it is depthwise.

    Where the batch is sharded over one axis of a mesh and nothing over another, XLA's partitioner for TPU would sum a depthwise
    convolution over the replicas as well.
    """
    depthwise = geometry.groups == x.shape[geometry.channel_axis] == g.shape[geometry.channel_axis]
    if not depthwise or geometry.groups == 1 or (isinstance(x.shape[0], int) and x.shape[0] == 1):
        return filter_grad(x, g, geometry, **keywords)
    if keywords["preferred_element_type"] in (jnp.float16, jnp.bfloat16):
        keywords["preferred_element_type"] = np.dtype(np.float32)  # for these are summed
    if not isinstance(x.shape[0], int):  # JAX has no convolutions of so many groups

        def of_item(index: Any) -> jax.Array:
            return filter_grad(*(lax.dynamic_index_in_dim(a, index, 0) for a in (x, g)), geometry, **keywords)

        summed: jax.Array = lax.fori_loop(1, x.shape[0], lambda index, w: w + of_item(index), of_item(0))
        return summed
    return jnp.sum(jax.vmap(lambda x, g: filter_grad(x[None], g[None], geometry, **keywords))(x, g), 0)

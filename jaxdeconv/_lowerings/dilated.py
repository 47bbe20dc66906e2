"""Lowering "dilated": each contraction is one `lax.conv_general_dilated`. Covers every geometry and is the reference for the others.

With ke = (k-1)*d + 1, and "full" padding meaning the ke-1 zeros on each side that let the window hang over by all but one sample:

| contraction | lhs, rhs    | window_strides | lhs_dilation | rhs_dilation | padding                        | groups              |
| transpose   | x, rev(w)   | 1              | s            | d            | ke-1 - crop_lo, ke-1 - crop_hi | feature_group_count |
| input_grad  | g, w        | s              | 1            | d            | crop_lo, crop_hi               | feature_group_count |
| filter_grad | g, x        | d              | 1            | s            | crop_lo, crop_hi               | batch_group_count   |

The sizes come out exactly: (L + crop_lo + crop_hi - ke) / s + 1 = W for the second and (ke - 1) / d + 1 = k for the third.
The third is what sets the library apart: JAX derives it from the first as a convolution whose window is the whole zero-stuffed
signal; here the window is x with its samples s apart, and nothing is stuffed.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import lax

from jaxdeconv._filters import regrouped
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._work import Sizes, Work


def _activation_spec(geometry: Geometry) -> tuple[int, ...]:
    """Axes of x, y, g in lax's order: batch, feature, spatial."""
    return (0, geometry.channel_axis, *geometry.spatial_axes)


def _filter_spec(geometry: Geometry) -> tuple[int, ...]:
    """Axes of w [*k, out / groups, in] in the order: out, in, spatial."""
    n = geometry.ndim
    return (n, n + 1, *range(n))


def _swapped(spec: tuple[int, ...]) -> tuple[int, ...]:
    return (spec[1], spec[0], *spec[2:])


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    n = geometry.ndim
    w = regrouped(w, geometry.groups, whole=n + 1, part=n)  # lax counts the groups of a right-hand side along its output features
    activations = _activation_spec(geometry)
    return lax.conv_general_dilated(
        x,
        lax.rev(w, tuple(range(n))),
        window_strides=(1,) * n,
        padding=[(ke - 1 - lo, ke - 1 - hi) for ke, (lo, hi) in zip(geometry.effective_kernels, geometry.crops, strict=True)],
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilations,
        dimension_numbers=lax.ConvDimensionNumbers(activations, _filter_spec(geometry), activations),
        feature_group_count=geometry.groups,
        **keywords,
    )


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    activations = _activation_spec(geometry)
    return lax.conv_general_dilated(
        g,
        w,
        window_strides=geometry.strides,
        padding=geometry.crops,
        rhs_dilation=geometry.dilations,
        dimension_numbers=lax.ConvDimensionNumbers(activations, _swapped(_filter_spec(geometry)), activations),
        feature_group_count=geometry.groups,
        **keywords,
    )


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i], with the batch as the contracted feature."""
    activations = _swapped(_activation_spec(geometry))
    return lax.conv_general_dilated(
        g,
        x,
        window_strides=geometry.dilations,
        padding=geometry.crops,
        rhs_dilation=geometry.strides,
        dimension_numbers=lax.ConvDimensionNumbers(activations, activations, _filter_spec(geometry)),
        batch_group_count=geometry.groups,
        **keywords,
    )


SLOWER = (1, 1.35, 4)  # times a matrix product, that XLA's strided convolutions of 1, 2 and more dimensions take on CPU
VECTOR = 16  # float32 lanes: a convolution to fewer channels computes as many


def unable(contraction: str, sizes: Sizes) -> None:
    """There is nothing it cannot compute."""
    del contraction, sizes


def work(contraction: str, sizes: Sizes) -> Work:
    """How much it is for XLA on CPU."""
    geometry = sizes.geometry
    n, groups, stuffed = geometry.ndim, geometry.groups, math.prod(geometry.strides)
    moved = sizes.x + sizes.y + sizes.w
    if contraction == "filter_grad":
        if sizes.depthwise or (groups > 1 and n > 1):
            return Work(naive=sizes.flops, moved=moved)
        # Operands and result are transposed, the batch being the channels. Patches of too few channels are gathered one by one.
        held = moved - min(sizes.x, sizes.y, sizes.w)
        gathered = 4 * n * sizes.products if sizes.batch < (4 if n == 1 else VECTOR) else 0
        return Work(convolution=sizes.flops * groups, moved=moved, rearranged=moved + gathered, temporary=held)
    dilated_volume = n > 2 and any(d > 1 for d in geometry.dilations)  # XLA's three-dimensional convolutions take no dilation
    if contraction == "input_grad":
        if sizes.depthwise or dilated_volume:
            return Work(naive=sizes.flops, moved=moved)
        return Work(convolution=sizes.flops * groups * SLOWER[min(n, 3) - 1], moved=moved, rearranged=sizes.w if n > 1 else 0)
    reversed_filter = 4 * sizes.w
    if stuffed == 1 and not sizes.depthwise and not dilated_volume:
        channels = max(1, VECTOR / (sizes.out_channels // groups))
        return Work(convolution=sizes.flops * groups * channels, moved=moved, rearranged=reversed_filter, temporary=sizes.w)
    if n > 2 or groups > 1:  # multiplies with the stuffed zeros
        return Work(naive=sizes.flops * stuffed, moved=moved, temporary=sizes.w)
    into_place = 2 * sizes.products
    return Work(convolution=sizes.flops, moved=moved, rearranged=reversed_filter + into_place, temporary=sizes.w)

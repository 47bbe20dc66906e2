"""What XLA on CPU computes faster in another form than that of the files of the lowerings.

A product of few inputs has the filter on the left. A filter gradient makes its patches piece by piece, where its result is small, and
a depthwise one tap by tap. The partitioner cannot cut pieces without gathering them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import mixed
from jaxdeconv._lowerings._blocks import is_reshape, padded, static
from jaxdeconv._lowerings._work import Form
from jaxdeconv._lowerings.elementwise import with_crops
from jaxdeconv._platforms import cpu_convolutions, cpu_patches, cpu_products

FEW = 16  # inputs, up to which the filter is better on the left
SHORT = 16  # inputs of the last dimension, below which patches with channels first are of runs too short
MOST_PATCHES = 2**25  # bytes of patches, from which they are made piece by piece; glibc keeps no larger blocks for reuse
PIECE = 2**23  # of about so many
ONES_FROM = 32  # channels, from which a product with ones sums faster than XLA's loop does
ONES = 1 if jax.__version_info__ >= (0, 10) else 2  # rows of them: before, XLA multiplied one by a loop, three times as long
IN_CACHE = 2**20  # bytes of the products of one tap, from which a depthwise one of as many channels is made piece by piece
MOST_FILTER = 2**22  # bytes of a filter, beyond which adding up those of the pieces would take long

BOTTOMS = mixed.Bottoms(cpu_products, cpu_convolutions, cpu_patches.patches)


def pieces_of(x: tuple[int, ...], patches: int, filter_size: int, itemsize: int) -> tuple[int, int]:
    """In how many equal pieces to do the filter_grad of a product, of x [batch, *W] and so many elements of patches."""
    scale = max(itemsize, 4)
    if patches * scale < MOST_PATCHES or filter_size * scale > MOST_FILTER:
        return 1, 1
    return _equal_pieces(x, math.ceil(patches * scale / PIECE))


def elementwise_pieces(x: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """And that of a depthwise filter, of x [batch, *W, channels]: of an image each, or of what a cache holds."""
    *samples, channels = x
    if channels < ONES_FROM:
        return max(1, samples[0]), 1
    return _equal_pieces(tuple(samples), math.ceil(math.prod(x) * max(itemsize, 4) / IN_CACHE))


def _equal_pieces(x: tuple[int, ...], wanted: int) -> tuple[int, int]:
    """In how many to cut the batch, and the first dimension, which is filled up."""
    if wanted <= 1 or len(x) == 1:
        return 1, 1
    if wanted >= x[0]:
        inputs = max(1, x[1] * x[0] // wanted)
        return x[0], math.ceil(x[1] / inputs)
    return next(each for each in range(wanted, x[0] + 1) if x[0] % each == 0), 1


def transpose(
    x: jax.Array, w: jax.Array, geometry: Geometry, *, forms: tuple[Form, ...], product: bool, **keywords: Any
) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    keywords |= {"forms": forms, "product": product, "bottoms": BOTTOMS}
    if product and geometry.channels_last and static(x) and x.size <= FEW * x.shape[-1]:
        return jnp.moveaxis(mixed.transpose(jnp.moveaxis(x, -1, 1), w, replace(geometry, channels_last=False), **keywords), 1, -1)
    return mixed.transpose(x, w, geometry, **keywords)


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    keywords |= {"bottoms": BOTTOMS}
    if not geometry.channels_last and static(g) and g.shape[-1] < SHORT * geometry.strides[-1]:
        last = replace(geometry, channels_last=True)
        return jnp.moveaxis(mixed.input_grad(jnp.moveaxis(g, 1, -1), w, last, **keywords), -1, 1)
    if not geometry.channels_last:
        g, w = wide(g, **keywords), wide(w, **keywords)
    return mixed.input_grad(g, w, geometry, **keywords)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, *, product: bool, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""

    def whole(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
        return mixed.filter_grad(x, g, geometry, product=product, bottoms=BOTTOMS, **keywords)

    if not product:
        return whole(x, g, geometry)
    x, g = wide(x, **keywords), wide(g, **keywords)
    if not static(x) or is_reshape(geometry, geometry.channels_last):
        return whole(x, g, geometry)
    shape = (*geometry.kernel, g.shape[geometry.channel_axis], x.shape[geometry.channel_axis])
    samples = [x.shape[0], *(x.shape[axis] for axis in geometry.spatial_axes)]
    patches = math.prod(samples) * math.prod(shape[:-1])
    return _in_pieces(whole, x, g, geometry, pieces_of(tuple(samples), patches, math.prod(shape), x.dtype.itemsize))


def _in_pieces(whole: Callable[..., jax.Array], x: jax.Array, g: jax.Array, geometry: Geometry, counts: tuple[int, int]) -> jax.Array:
    """A filter gradient as the sum of those of equal pieces: so many of the batch, and of the inputs of the first dimension."""
    batches, pieces = counts
    if batches * pieces == 1:
        return whole(x, g, geometry)
    axis, s = geometry.spatial_axes[0], geometry.strides[0]
    images, inputs, (lo, hi) = x.shape[0] // batches, -(-x.shape[axis] // pieces), geometry.crops[0]
    filled = inputs * pieces - x.shape[axis]
    reached = (inputs - 1) * s + geometry.effective_kernels[0]  # the outputs of the inputs of a piece
    one = replace(geometry, crops=((0, 0), *geometry.crops[1:])) if pieces > 1 else geometry

    def piece(index: Any) -> jax.Array:
        index = jnp.asarray(index)
        # Not by // and %, whose rules for signs XLA computes again for every element of the patches.
        image, part = (operation(index, jnp.asarray(pieces, index.dtype)) for operation in (lax.div, lax.rem))
        taken_x, taken_g = (lax.dynamic_slice_in_dim(a, image * images, images, 0) for a in (x, g))
        if pieces > 1:
            taken_x = _taken(taken_x, axis, part * inputs, inputs, (0, filled))
            taken_g = _taken(taken_g, axis, part * inputs * s - lo, reached, (lo, hi + filled * s))
        return whole(taken_x, taken_g, one)

    # The first is before the loop, and not zeros, so that what the loop carries varies over mesh axes as its results do.
    w: jax.Array = lax.fori_loop(1, batches * pieces, lambda index, w: w + piece(index), piece(0))
    return w


def _taken(a: jax.Array, axis: int, start: Any, size: int, beyond: tuple[int, int]) -> jax.Array:
    """So many along an axis from a start that is no constant. Before the first and after the last are zeros, at most so many."""
    inside = min(size, a.shape[axis])
    at = jnp.clip(start, 0, a.shape[axis] - inside)
    around = [(*beyond, 0) if each == axis else (0, 0, 0) for each in range(a.ndim)]
    return lax.dynamic_slice_in_dim(padded(lax.dynamic_slice_in_dim(a, at, inside, axis), around), start - at + beyond[0], size, axis)


def wide(a: jax.Array, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """An operand of a product that contracts over rows, in the dtype of the result.

    XLA on CPU converts narrow floats there anyway, but under `jax.vmap` of one operand it forgets to, and has no such product then
    (jaxlib 0.10 to 0.12).
    """
    return a.astype(preferred_element_type)


def elementwise_filter_grad(
    x: jax.Array, g: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any
) -> jax.Array:
    """F: w[j, c] += g[b, n*s + j*d - crop_lo, c] * x[b, n, c]."""
    taps = np.array(list(np.ndindex(*geometry.kernel))) * geometry.dilations

    # One tap at a time: XLA stores the products before it sums them.
    def whole(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
        g, channels = with_crops(g, geometry), x.shape[-1]
        sizes = [(w - 1) * s + 1 for w, s in zip(x.shape[1:-1], geometry.strides, strict=True)]

        def of_tap(start: jax.Array) -> jax.Array:
            window = lax.dynamic_slice(g, [0, *start, 0], [g.shape[0], *sizes, channels])
            products = window[(slice(None), *(slice(None, None, s) for s in geometry.strides))] * x
            if channels < ONES_FROM or not static(products):  # JAX cannot always multiply symbolic sizes
                return jnp.sum(products, tuple(range(x.ndim - 1)))
            rows = products.reshape(-1, channels)
            return lax.dot(jnp.ones_like(rows[:, :ONES].T), rows, precision=lax.Precision.HIGHEST)[0]

        summed: jax.Array = lax.map(of_tap, taps)
        return summed.reshape(*geometry.kernel, 1, channels)

    x, g = x.astype(preferred_element_type), g.astype(preferred_element_type)
    if not static(x):
        return whole(x, g, geometry)
    return _in_pieces(whole, x, g, geometry, elementwise_pieces(x.shape, x.dtype.itemsize))

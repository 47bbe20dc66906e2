"""Lowering "matmul": each contraction is one matrix product with the whole filter, overlap_add or patches around it. One group.

    transpose    y = overlap_add(x w)         [b, W, i] [k, o, i] -> [b, W, k, o] -> [b, L, o]
    input_grad   x = patches(g) w             [b, L, o] -> [b, W, k, o] [k, o, i] -> [b, W, i]
    filter_grad  w = patches(g) x             [b, L, o] -> [b, W, k, o] [b, W, i] -> [k, o, i]

Only what the crops remove is computed in vain. The price is the [b, W, k, o] in between, k / s times the size of y; filter_grad makes
it piece by piece, where its result is small. The filter becomes a matrix before the product, for XLA would transpose it otherwise.

Which operand of a product is on the left matters to XLA on CPU: it packs one, and transposes the other where the product contracts
over rows.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import overlap_add, padded, patches, static, terms, too_sparse
from jaxdeconv._lowerings._work import Sizes, Work

MOST_TERMS = 256  # of one expression, which each take time to compile
FEW = 16  # rows of x, up to which the filter is better on the left
TALL = 32  # times as many rows as columns, from which the smaller operand is better on the left, although the result is transposed
MOST_PATCHES = 2**25  # bytes of patches, from which they are made piece by piece; glibc keeps no larger blocks for reuse
PIECE = 2**23  # of about so many
MOST_FILTER = 2**20  # bytes of a filter, beyond which adding up those of the pieces would take long


def unable(contraction: str, sizes: Sizes) -> str | None:
    """Why it cannot compute this; None if it can."""
    del contraction
    if (count := terms(sizes.geometry)) > MOST_TERMS:
        return f"would sum {count} shifted arrays, more than {MOST_TERMS}"
    return too_sparse(sizes)


def work(contraction: str, sizes: Sizes) -> Work:
    """How much it is, for one group."""
    across = 2 * (sizes.x + sizes.products) if contraction == "filter_grad" else 0  # a contraction over rows reads columns
    moved = sizes.x + sizes.y + sizes.w + 2 * sizes.products + across
    temporary = sizes.products
    if contraction == "filter_grad":
        batches, pieces = _pieces((sizes.batch, *sizes.spatial), sizes.products, sizes.w, sizes.itemsize)
        temporary = temporary // (batches * pieces) + (sizes.y if pieces > 1 else 0)
    return Work(product=sizes.flops, moved=moved, temporary=temporary)


def _pieces(x: tuple[int, ...], patches: int, filter_size: int, itemsize: int) -> tuple[int, int]:
    """In how many equal pieces to do filter_grad, of x [batch, *W]: of the batch, and of the first dimension where that is one."""
    scale = max(itemsize, 4)
    if len(x) == 1 or patches * scale < MOST_PATCHES or filter_size * scale > MOST_FILTER:
        return 1, 1
    whole, wanted = x[0] if x[0] > 1 else x[1], math.ceil(patches * scale / PIECE)
    pieces = next((each for each in range(min(wanted, whole), min(4 * wanted, whole) + 1) if whole % each == 0), 1)
    return (pieces, 1) if x[0] > 1 else (1, pieces)


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    matrix = w.reshape(-1, w.shape[-1])
    if geometry.channels_last and static(x) and x.size <= FEW * x.shape[-1]:
        first = replace(geometry, channels_last=False)
        return jnp.moveaxis(transpose(jnp.moveaxis(x, -1, 1), w, first, **keywords), 1, -1)
    if geometry.channels_last:
        products = lax.dot_general(x, matrix, (((x.ndim - 1,), (1,)), ((), ())), **keywords)
        return overlap_add(products.reshape(*x.shape[:-1], *w.shape[:-1]), geometry)
    products = lax.dot_general(matrix, x, (((1,), (1,)), ((), ())), **keywords)  # [k*o, batch, *W]
    return overlap_add(products.reshape(*w.shape[:-1], *products.shape[1:]), geometry)


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]. Channels last."""
    n = geometry.ndim
    taps = patches(g, geometry)  # [batch, *W, *k, o]
    taps = taps.reshape(*taps.shape[: n + 1], -1)
    return lax.dot_general(taps, w.reshape(-1, w.shape[-1]), (((n + 1,), (0,)), ((), ())), **keywords)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""
    if not static(x):
        return _whole_filter_grad(x, g, geometry, **keywords)
    shape = (*geometry.kernel, g.shape[geometry.channel_axis], x.shape[geometry.channel_axis])
    samples = [x.shape[0], *(x.shape[axis] for axis in geometry.spatial_axes)]
    batches, pieces = _pieces(tuple(samples), math.prod(samples) * math.prod(shape[:-1]), math.prod(shape), x.dtype.itemsize)
    if batches * pieces == 1:
        return _whole_filter_grad(x, g, geometry, **keywords)
    axis, s = geometry.spatial_axes[0], geometry.strides[0]
    images, inputs, outputs = x.shape[0] // batches, x.shape[axis] // pieces, g.shape[axis]
    if pieces > 1:  # of the inputs of a piece, all the outputs that they reach
        (crop, *crops), outputs = geometry.crops, (inputs - 1) * s + geometry.effective_kernels[0]
        widths = [(0, 0, 0)] * g.ndim
        widths[axis] = (*crop, 0)
        g, geometry = padded(g, widths), replace(geometry, crops=((0, 0), *crops))

    def piece(index: Any) -> jax.Array:
        first, start = (index * images, 0) if batches > 1 else (0, index * inputs)
        taken = lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(x, first, images, 0), start, inputs, axis)
        reached = lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(g, first, images, 0), start * s, outputs, axis)
        return _whole_filter_grad(taken, reached, geometry, **keywords)

    # The first is before the loop, and not zeros, so that what the loop carries varies over mesh axes as its results do.
    w: jax.Array = lax.fori_loop(1, batches * pieces, lambda index, w: w + piece(index), piece(0))
    return w


def _whole_filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    # As matrices: of several contracted axes XLA would make one by transposing both operands.
    channels, outputs = x.shape[geometry.channel_axis], g.shape[geometry.channel_axis]
    rows = math.prod(geometry.kernel) * outputs
    if not geometry.channels_last:
        taps, x = patches(g, geometry).reshape(rows, -1), jnp.swapaxes(x, 0, 1).reshape(channels, -1)
        w = lax.dot_general(taps, x, (((1,), (1,)), ((), ())), **keywords)
        return w.reshape(*geometry.kernel, -1, channels)
    taps, x = patches(g, geometry).reshape(-1, rows), x.reshape(-1, channels)
    if static(x) and channels < rows and x.shape[0] >= TALL * rows:
        w = lax.dot_general(x, taps, (((0,), (0,)), ((), ())), **keywords)
        # in three axes, because XLA makes of a matrix product that is transposed the product of the other order
        return w.reshape(channels, -1, outputs).transpose(1, 2, 0).reshape(*geometry.kernel, -1, channels)
    w = lax.dot_general(taps, x, (((0,), (0,)), ((), ())), **keywords)
    return w.reshape(*geometry.kernel, -1, channels)

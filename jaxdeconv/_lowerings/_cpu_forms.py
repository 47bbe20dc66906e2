"""What XLA on CPU computes faster in another form than that of the files of "matmul" and "elementwise".

Products are those of matrices, whose axes are merged here before XLA merges them by copying. The filter becomes a matrix before the
product, for XLA would transpose it otherwise. Which operand is on the left matters: XLA packs one, and transposes the other where the
product contracts over rows. A filter gradient makes its patches piece by piece, where its result is small. The partitioner
cannot cut merged axes and pieces without gathering them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import overlap_add, padded, patches, static
from jaxdeconv._lowerings.elementwise import with_crops

FEW = 16  # rows of x, up to which the filter is better on the left
TALL = 32  # times as many rows as columns, from which the smaller operand is better on the left, although the result is transposed
MOST_PATCHES = 2**25  # bytes of patches, from which they are made piece by piece; glibc keeps no larger blocks for reuse
PIECE = 2**23  # of about so many
MOST_FILTER = 2**20  # bytes of a filter, beyond which adding up those of the pieces would take long


def pieces_of(x: tuple[int, ...], patches: int, filter_size: int, itemsize: int) -> tuple[int, int]:
    """In how many equal pieces to do filter_grad, of x [batch, *W]: of the batch, and of the first dimension where that is one."""
    scale = max(itemsize, 4)
    if len(x) == 1 or patches * scale < MOST_PATCHES or filter_size * scale > MOST_FILTER:
        return 1, 1
    whole, wanted = x[0] if x[0] > 1 else x[1], math.ceil(patches * scale / PIECE)
    pieces = next((each for each in range(min(wanted, whole), min(4 * wanted, whole) + 1) if whole % each == 0), 1)
    return (pieces, 1) if x[0] > 1 else (1, pieces)


def matmul_transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    matrix = w.reshape(-1, w.shape[-1])
    if geometry.channels_last and static(x) and x.size <= FEW * x.shape[-1]:
        first = replace(geometry, channels_last=False)
        return jnp.moveaxis(matmul_transpose(jnp.moveaxis(x, -1, 1), w, first, **keywords), 1, -1)
    if geometry.channels_last:
        products = lax.dot_general(x, matrix, (((x.ndim - 1,), (1,)), ((), ())), **keywords)
        return overlap_add(products.reshape(*x.shape[:-1], *w.shape[:-1]), geometry)
    products = lax.dot_general(matrix, x, (((1,), (1,)), ((), ())), **keywords)  # [k*o, batch, *W]
    return overlap_add(products.reshape(*w.shape[:-1], *products.shape[1:]), geometry)


def matmul_input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]. Channels last."""
    n = geometry.ndim
    taps = patches(g, geometry)  # [batch, *W, *k, o]
    taps = taps.reshape(*taps.shape[: n + 1], -1)
    return lax.dot_general(taps, w.reshape(-1, w.shape[-1]), (((n + 1,), (0,)), ((), ())), **keywords)


def matmul_filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""
    if not static(x):
        return _whole_filter_grad(x, g, geometry, **keywords)
    shape = (*geometry.kernel, g.shape[geometry.channel_axis], x.shape[geometry.channel_axis])
    samples = [x.shape[0], *(x.shape[axis] for axis in geometry.spatial_axes)]
    batches, pieces = pieces_of(tuple(samples), math.prod(samples) * math.prod(shape[:-1]), math.prod(shape), x.dtype.itemsize)
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


def wide(a: jax.Array, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """An operand of a product that contracts over rows, in the dtype of the result.

    XLA on CPU converts narrow floats there anyway, but under `jax.vmap` of one operand it forgets to, and has no such product then
    (jaxlib 0.10 to 0.12).
    """
    return a.astype(preferred_element_type)


def _whole_filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    x, g = wide(x, **keywords), wide(g, **keywords)
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


def elementwise_filter_grad(
    x: jax.Array, g: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any
) -> jax.Array:
    """F: w[j, c] += g[b, n*s + j*d - crop_lo, c] * x[b, n, c]."""
    x, g = x.astype(preferred_element_type), with_crops(g.astype(preferred_element_type), geometry)
    taps = np.array(list(np.ndindex(*geometry.kernel))) * geometry.dilations
    # One image and one tap at a time: XLA stores the products before it sums them, which for all would be k times x.
    sizes = [(w - 1) * s + 1 for w, s in zip(x.shape[1:-1], geometry.strides, strict=True)]

    def of_image(image: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, g = image

        def of_tap(start: jax.Array) -> jax.Array:
            window = lax.dynamic_slice(g, [*start, 0], [*sizes, g.shape[-1]])
            tapped = window[tuple(slice(None, None, s) for s in geometry.strides)]
            return jnp.sum(tapped * x, tuple(range(x.ndim - 1)))

        summed: jax.Array = lax.map(of_tap, taps)
        return summed

    return jnp.sum(lax.map(of_image, (x, g)), 0).reshape(*geometry.kernel, 1, x.shape[-1])

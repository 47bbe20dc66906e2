"""`product` as XLA on CPU computes it faster: products of matrices, whose axes are merged here before XLA merges them by copying.

The filter becomes a matrix before the product, for XLA would transpose it otherwise. Which operand is on the left matters: XLA packs
one, and transposes the other where the product contracts over rows. The partitioner cannot cut merged axes without gathering them.
The rules and their numbers are what was the fastest on random sizes.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import product
from jaxdeconv._lowerings._blocks import static

NARROW = 32  # rows of the filter, up to which products with channels first are better of one item of the batch at a time,
WIDER = 64  # or so many: for T, and for F in one dimension;
SAMPLES = 32  # if an item has so many
NARROWER = 2  # times as many channels as rows, above which x is on the left of these: XLA reorders all of the other operand
LEFT = 128  # inputs, up to which the filter's gradient with channels last has x on the left, although its result is transposed


def _by_item(rows: int, inputs: Any, batch: Any, samples: Any, wider: bool) -> bool:
    """Whether products with channels first are of one item at a time: then nothing but the taps is transposed."""
    known = all(isinstance(each, int) for each in (inputs, batch, samples))
    return known and batch > 1 and samples >= SAMPLES and (rows <= WIDER if wider else rows <= NARROW and rows < 2 * inputs)


def _for_each(matrix: jax.Array, batch: int) -> jax.Array:
    return jnp.broadcast_to(matrix, (batch, *matrix.shape))


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """Each input times each tap."""
    matrix = w.reshape(-1, w.shape[-1])
    if geometry.channels_last:
        products = lax.dot_general(x, matrix, (((x.ndim - 1,), (1,)), ((), ())), **keywords)
        return products.reshape(*x.shape[:-1], *w.shape[:-1])
    if _by_item(len(matrix), matrix.shape[1], x.shape[0], math.prod(x.shape[2:]), wider=True):
        products = jnp.swapaxes(lax.dot_general(_for_each(matrix, x.shape[0]), x, (((2,), (1,)), ((0,), (0,))), **keywords), 0, 1)
    else:
        products = lax.dot_general(matrix, x, (((1,), (1,)), ((), ())), **keywords)  # [k*o, batch, *W]
    return products.reshape(*w.shape[:-1], *products.shape[1:])


def input_grad(taps: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """Patches times the filter."""
    n, matrix = geometry.ndim, w.reshape(-1, w.shape[-1])
    if not geometry.channels_last:
        taps = taps.reshape(len(matrix), *taps.shape[n + 1 :])
        if _by_item(len(matrix), matrix.shape[1], taps.shape[1], math.prod(taps.shape[2:]), wider=False):
            return lax.dot_general(_for_each(matrix.T, taps.shape[1]), taps, (((2,), (0,)), ((0,), (1,))), **keywords)
        return jnp.swapaxes(lax.dot_general(matrix, taps, (((0,), (0,)), ((), ())), **keywords), 0, 1)
    taps = taps.reshape(*taps.shape[: n + 1], len(matrix))
    return lax.dot_general(taps, matrix, (((n + 1,), (0,)), ((), ())), **keywords)


def filter_grad(x: jax.Array, taps: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """Patches times inputs, summed over batch and width."""
    if not static(x):  # JAX cannot always multiply symbolic sizes
        return product.filter_grad(x, taps, geometry, **keywords)
    n = geometry.ndim
    channels, shape = x.shape[geometry.channel_axis], taps.shape[n + 1 :] if geometry.channels_last else taps.shape[: n + 1]
    rows, outputs = math.prod(shape), shape[-1]
    # As matrices: of several contracted axes XLA would make one by transposing both operands.
    if not geometry.channels_last and _by_item(rows, channels, x.shape[0], math.prod(x.shape[2:]), wider=n == 1):
        taps, x = taps.reshape(rows, *x.shape[:1], -1), x.reshape(*x.shape[:2], -1)
        if channels > NARROWER * rows:
            several = lax.dot_general(x, taps, (((2,), (2,)), ((0,), (1,))), **keywords)
            return jnp.sum(several, 0).T.reshape(*shape, channels)
        several = lax.dot_general(taps, x, (((2,), (2,)), ((1,), (0,))), **keywords)
        return jnp.sum(several, 0).reshape(*shape, channels)
    if not geometry.channels_last:
        taps, x = taps.reshape(rows, -1), jnp.swapaxes(x, 0, 1).reshape(channels, -1)
        return lax.dot_general(taps, x, (((1,), (1,)), ((), ())), **keywords).reshape(*shape, channels)
    taps, x = taps.reshape(-1, rows), x.reshape(-1, channels)
    if channels < rows and channels <= LEFT:
        w = lax.dot_general(x, taps, (((0,), (0,)), ((), ())), **keywords)
        # in three axes, because XLA makes of a matrix product that is transposed the product of the other order
        return w.reshape(channels, -1, outputs).transpose(1, 2, 0).reshape(*shape, channels)
    return lax.dot_general(taps, x, (((0,), (0,)), ((), ())), **keywords).reshape(*shape, channels)

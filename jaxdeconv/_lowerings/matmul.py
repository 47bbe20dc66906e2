"""Lowering "matmul": each contraction is one matrix product with the whole filter, overlap_add or patches around it. One group.

    transpose    y = overlap_add(x w)         [b, W, i] [k, o, i] -> [b, W, k, o] -> [b, L, o]
    input_grad   x = patches(g) w             [b, L, o] -> [b, W, k, o] [k, o, i] -> [b, W, i]
    filter_grad  w = patches(g) x             [b, L, o] -> [b, W, k, o] [b, W, i] -> [k, o, i]

Only what the crops remove is computed in vain. The price is the [b, W, k, o] in between, k / s times the size of y.
The filter becomes a matrix before the product, because XLA would transpose it otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import overlap_add, patches, terms, too_sparse
from jaxdeconv._lowerings._work import Sizes, Work

MOST_TERMS = 256  # of one expression, which each take time to compile


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
    return Work(product=sizes.flops, moved=moved, temporary=sizes.products)


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    matrix = w.reshape(-1, w.shape[-1])
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
    # As matrices: of several contracted axes XLA would make one by transposing both operands.
    channels = x.shape[geometry.channel_axis]
    rows = math.prod(geometry.kernel) * g.shape[geometry.channel_axis]
    if geometry.channels_last:
        taps, x, contracted = patches(g, geometry).reshape(-1, rows), x.reshape(-1, channels), 0
    else:
        taps, x, contracted = patches(g, geometry).reshape(rows, -1), jnp.swapaxes(x, 0, 1).reshape(channels, -1), 1
    w = lax.dot_general(taps, x, (((contracted,), (contracted,)), ((), ())), **keywords)
    return w.reshape(*geometry.kernel, -1, channels)

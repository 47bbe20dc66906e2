"""Lowering "matmul": each contraction is one matrix product with the whole filter, overlap_add or patches around it. One group.

    transpose    y = overlap_add(x w)         [b, W, i] [k, o, i] -> [b, W, k, o] -> [b, L, o]
    input_grad   x = patches(g) w             [b, L, o] -> [b, W, k, o] [k, o, i] -> [b, W, i]
    filter_grad  w = patches(g) x             [b, L, o] -> [b, W, k, o] [b, W, i] -> [k, o, i]

Only what the crops remove is computed in vain. The price is the [b, W, k, o] in between, k / s times the size of y. No axis is merged
with another one, so that XLA's partitioner can cut along any. XLA on CPU wants its products in other forms: `matmul_cpu`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import overlap_add, patches, terms, too_sparse
from jaxdeconv._lowerings._work import Sizes

MOST_TERMS = 256  # of one expression, which each take time to compile


def unable(contraction: str, sizes: Sizes) -> str | None:
    """Why it cannot compute this; None if it can."""
    del contraction
    if (count := terms(sizes.geometry)) > MOST_TERMS:
        return f"would sum {count} shifted arrays, more than {MOST_TERMS}"
    return too_sparse(sizes)


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    axes = (geometry.channel_axis, geometry.ndim + 1)
    if geometry.channels_last:
        products = lax.dot_general(x, w, (((axes[0],), (axes[1],)), ((), ())), **keywords)
    else:
        products = lax.dot_general(w, x, (((axes[1],), (axes[0],)), ((), ())), **keywords)
    return overlap_add(products, geometry)


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    n, taps = geometry.ndim, patches(g, geometry)
    of_filter = tuple(range(n + 1))
    if geometry.channels_last:
        return lax.dot_general(taps, w, ((tuple(range(n + 1, 2 * n + 2)), of_filter), ((), ())), **keywords)
    return jnp.swapaxes(lax.dot_general(w, taps, ((of_filter, of_filter), ((), ())), **keywords), 0, 1)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""
    n, taps = geometry.ndim, patches(g, geometry)
    inputs = tuple(range(n + 1) if geometry.channels_last else range(n + 1, 2 * n + 2))
    return lax.dot_general(taps, x, ((inputs, (0, *geometry.spatial_axes)), ((), ())), **keywords)

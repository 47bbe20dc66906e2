"""The contractions of a transposed convolution with the taps of all dimensions taken out: matrix products with the whole filter.

    transpose    [b, W, i] [k, o, i] -> [b, W, k, o]
    input_grad   [b, W, k, o] [k, o, i] -> [b, W, i]
    filter_grad  [b, W, k, o] [b, W, i] -> [k, o, i]

or channels first, in the order of `_blocks`. No axis is merged with another one, so that XLA's partitioner can cut along any. XLA on
CPU wants its products in other forms: `_platforms.cpu_products`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """Each input times each tap."""
    axes = (geometry.channel_axis, geometry.ndim + 1)
    if geometry.channels_last:
        return lax.dot_general(x, w, (((axes[0],), (axes[1],)), ((), ())), **keywords)
    return lax.dot_general(w, x, (((axes[1],), (axes[0],)), ((), ())), **keywords)


def input_grad(taps: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """Patches times the filter."""
    n = geometry.ndim
    of_filter = tuple(range(n + 1))
    if geometry.channels_last:
        return lax.dot_general(taps, w, ((tuple(range(n + 1, 2 * n + 2)), of_filter), ((), ())), **keywords)
    return jnp.swapaxes(lax.dot_general(w, taps, ((of_filter, of_filter), ((), ())), **keywords), 0, 1)


def filter_grad(x: jax.Array, taps: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """Patches times inputs, summed over batch and width."""
    n = geometry.ndim
    inputs = tuple(range(n + 1) if geometry.channels_last else range(n + 1, 2 * n + 2))
    return lax.dot_general(taps, x, ((inputs, (0, *geometry.spatial_axes)), ((), ())), **keywords)

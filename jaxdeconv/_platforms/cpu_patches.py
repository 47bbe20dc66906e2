"""`patches` as XLA on CPU makes them faster where no runs are joined: all taps of an input reach the same block of s outputs.

They are a transposition then, which XLA computes by a loop that is slower than copies. So the taps are slices, and these are joined.
With channels last, those of the last dimension stay together: they are neighbours.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import _blocks
from jaxdeconv._lowerings._blocks import padded

MOST_TAPS = 64  # that are joined; each takes time to compile


def joins_taps(geometry: Geometry) -> bool:
    """Whether patches are made so."""
    joined = math.prod(geometry.kernel[:-1] if geometry.channels_last else geometry.kernel)
    return _blocks.terms(geometry) == 1 and 1 < joined <= MOST_TAPS


def patches(g: jax.Array, geometry: Geometry) -> jax.Array:
    """Of each of W inputs, the k outputs that it reaches: patches[n, j] = g[n*s + j*d - crop_lo]"""
    return _of_dimensions(g, geometry, 0) if joins_taps(geometry) else _blocks.patches(g, geometry)


def _of_dimensions(g: jax.Array, geometry: Geometry, first: int) -> jax.Array:
    """Of the dimensions from the first; those before it have W inputs each."""
    last = geometry.channels_last
    if first == geometry.ndim:
        return g if last else jnp.swapaxes(g, 0, 1)
    axis, s, d, (lo, hi) = geometry.spatial_axes[first], geometry.strides[first], geometry.dilations[first], geometry.crops[first]
    # With the crops, so many blocks of s outputs as there are inputs: ke is at most s, since all taps reach one block.
    beyond = hi + s - geometry.effective_kernels[first]
    g = padded(g, [(lo, beyond, 0) if each == axis else (0, 0, 0) for each in range(g.ndim)])
    if last and first == geometry.ndim - 1:
        blocks = g.reshape(*g.shape[:axis], -1, s, g.shape[-1])
        return lax.slice_in_dim(blocks, 0, geometry.effective_kernels[first], d, axis + 1)
    taps = [lax.slice_in_dim(g, tap * d, None, s, axis) for tap in range(geometry.kernel[first])]
    place = geometry.ndim + 1 if last else 0
    return lax.concatenate([lax.expand_dims(_of_dimensions(tap, geometry, first + 1), [place]) for tap in taps], place)

"""Blocks of s outputs, and the one linear map that lowerings share: patches, and its adjoint, overlap_add. No products here.

Arrays are channels last. With T = ceil(L / s), outputs m = t*s + r are seen as [T, s]; tap j of input n lands in block n + q at phase
r, where q*s + r = j*d - crop_lo (Geometry.runs). Nothing is computed for what the crops remove, and no sample is multiplied by a
stuffed zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry, Run
from jaxdeconv._lowerings._work import Sizes


def padded(a: jax.Array, widths: Sequence[tuple[int, int, int]]) -> jax.Array:
    """`lax.pad` with zeros; negative widths crop."""
    return lax.pad(a, jnp.zeros((), a.dtype), widths) if any(map(any, widths)) else a


def to_blocks(y: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *L, channels] -> [batch, *T, *s, channels]"""
    n = geometry.ndim
    y = padded(y, [(0, 0, 0), *((0, surplus, 0) for surplus in geometry.surplus), (0, 0, 0)])
    split = [size for length, s in zip(y.shape[1:-1], geometry.strides, strict=True) for size in (length // s, s)]
    y = y.reshape(y.shape[0], *split, y.shape[-1])
    return y.transpose(0, *range(1, 2 * n + 1, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)


def from_blocks(blocks: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *T, *s, channels] -> [batch, *L, channels]"""
    n = geometry.ndim
    interleaved = blocks.transpose(0, *(axis for d in range(n) for axis in (1 + d, 1 + n + d)), 2 * n + 1)
    lengths = [t * s for t, s in zip(blocks.shape[1 : n + 1], geometry.strides, strict=True)]
    y = interleaved.reshape(blocks.shape[0], *lengths, blocks.shape[-1])
    return padded(y, [(0, 0, 0), *((0, -surplus, 0) for surplus in geometry.surplus), (0, 0, 0)])


def _shifts(runs: Sequence[Run], geometry: Geometry) -> list[tuple[int, int, int]]:
    """Pads an axis of the W blocks that inputs reach by these runs to the T that there are."""
    return [(run.block, extra - run.block, 0) for run, extra in zip(runs, geometry.extra_blocks, strict=True)]


def overlap_add(products: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *W, *k, channels] -> [batch, *L, channels]: y[n*s + j*d - crop_lo] += products[n, j]"""
    n = geometry.ndim
    total = None
    for runs in itertools.product(*geometry.runs):
        taps = tuple(slice(run.tap, run.tap + run.count) for run in runs)
        phases = [
            (run.phase, s - 1 - run.phase - (run.count - 1) * d, d - 1)
            for run, s, d in zip(runs, geometry.strides, geometry.dilations, strict=True)
        ]
        widths = [(0, 0, 0), *_shifts(runs, geometry), *phases, (0, 0, 0)]
        term = padded(products[(slice(None),) * (1 + n) + taps], widths)
        total = term if total is None else total + term
    assert total is not None
    return from_blocks(total, geometry)


def patches(g: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *L, channels] -> [batch, *W, *k, channels]: patches[n, j] = g[n*s + j*d - crop_lo], the adjoint of overlap_add"""
    n = geometry.ndim
    blocks = to_blocks(g, geometry)

    def rows(chosen: tuple[Run, ...]) -> jax.Array:
        if len(chosen) < n:
            parts = [rows((*chosen, run)) for run in geometry.runs[len(chosen)]]
            return parts[0] if len(parts) == 1 else lax.concatenate(parts, 1 + n + len(chosen))
        phases = tuple(
            slice(run.phase, run.phase + (run.count - 1) * d + 1, d) for run, d in zip(chosen, geometry.dilations, strict=True)
        )
        widths = [(0, 0, 0), *((-low, -high, 0) for low, high, _ in _shifts(chosen, geometry)), *[(0, 0, 0)] * (n + 1)]
        return padded(blocks[(slice(None),) * (1 + n) + phases], widths)

    return rows(())


def terms(geometry: Geometry) -> int:
    """How many terms overlap_add sums and patches joins."""
    return math.prod(map(len, geometry.runs))


def too_sparse(sizes: Sizes) -> str | None:
    """Why not to make blocks: they would be far larger than what they hold."""
    held = math.prod(t * s for t, s in zip(sizes.blocks, sizes.geometry.strides, strict=True))
    if held > 2 * math.prod(sizes.lengths) + 2**16:
        return f"would hold {held} samples in blocks of {sizes.geometry.strides} for an output of {sizes.lengths}"
    return None

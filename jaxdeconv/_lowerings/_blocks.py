"""Blocks of s outputs, and the one linear map that lowerings share: patches, and its adjoint, overlap_add. No products here.

With T = ceil(L / s), outputs m = t*s + r are seen as [T, s]; tap j of input n lands in block n + q at phase r, where
q*s + r = j*d - crop_lo (Geometry.runs). Nothing is computed for what the crops remove, and no sample is multiplied by a stuffed zero.

Blocks and patches are [batch, *T or *W, *s or *k, channels] where channels are last, and [*s or *k, channels, batch, *T or *W] where
they are first: either way the innermost axis is that of the activations, and XLA copies runs instead of single elements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry, Run, reach
from jaxdeconv._lowerings._work import Sizes

Label: TypeAlias = tuple[str, int]  # an axis: "batch" or "channels", and "outer" or "inner" with a dimension
BATCH, CHANNELS = ("batch", 0), ("channels", 0)


def static(a: jax.Array) -> bool:
    """Whether all sizes are known, as they are except in `jax.export`."""
    return all(isinstance(size, int) for size in a.shape)


def padded(a: jax.Array, widths: Sequence[tuple[int, int, int]]) -> jax.Array:
    """`lax.pad` with zeros; negative widths crop."""
    return lax.pad(a, jnp.zeros((), a.dtype), widths) if any(map(any, widths)) else a


def _blocked(geometry: Geometry) -> list[Label]:
    """The axes of blocks and patches."""
    outer, inner = ([(name, d) for d in range(geometry.ndim)] for name in ("outer", "inner"))
    return [BATCH, *outer, *inner, CHANNELS] if geometry.channels_last else [*inner, CHANNELS, BATCH, *outer]


def _interleaved(geometry: Geometry) -> list[Label]:
    """The axes of an activation, each spatial one split in two."""
    spatial = [(name, d) for d in range(geometry.ndim) for name in ("outer", "inner")]
    return [BATCH, *spatial, CHANNELS] if geometry.channels_last else [BATCH, CHANNELS, *spatial]


def _moved(a: jax.Array, source: list[Label], target: list[Label]) -> jax.Array:
    return a.transpose([source.index(label) for label in target])


def _padded(a: jax.Array, geometry: Geometry, widths: Mapping[Label, tuple[int, int, int]]) -> jax.Array:
    """Of blocks, by axis."""
    return padded(a, [widths.get(label, (0, 0, 0)) for label in _blocked(geometry)])


def _surplus(geometry: Geometry, sign: int) -> list[tuple[int, int, int]]:
    widths = [(0, 0, 0)] * (geometry.ndim + 2)
    for axis, surplus in zip(geometry.spatial_axes, geometry.surplus, strict=True):
        widths[axis] = (0, sign * surplus, 0)
    return widths


def to_blocks(y: jax.Array, geometry: Geometry) -> jax.Array:
    """An activation of L outputs, as blocks."""
    y = padded(y, _surplus(geometry, 1))
    shape = list(y.shape)
    for axis, s in reversed(list(zip(geometry.spatial_axes, geometry.strides, strict=True))):
        shape[axis : axis + 1] = [shape[axis] // s, s]
    return _moved(y.reshape(shape), _interleaved(geometry), _blocked(geometry))


def from_blocks(blocks: jax.Array, geometry: Geometry) -> jax.Array:
    """And back."""
    y = _moved(blocks, _blocked(geometry), _interleaved(geometry))
    shape = list(y.shape)
    for axis, s in zip(geometry.spatial_axes, geometry.strides, strict=True):
        shape[axis : axis + 2] = [shape[axis] * s]
    return padded(y.reshape(shape), _surplus(geometry, -1))


def _sliced(a: jax.Array, geometry: Geometry, inner: Sequence[slice]) -> jax.Array:
    """Of blocks or patches, these phases or taps."""
    slices = {("inner", d): taken for d, taken in enumerate(inner)}
    return a[tuple(slices.get(label, slice(None)) for label in _blocked(geometry))]


def overlap_add(products: jax.Array, geometry: Geometry) -> jax.Array:
    """Products of each of W inputs with each of k taps, to y: y[n*s + j*d - crop_lo] += products[n, j]"""
    total = None
    for runs in itertools.product(*geometry.runs):
        widths: dict[Label, tuple[int, int, int]] = {}
        rows = zip(runs, geometry.strides, geometry.dilations, geometry.extra_blocks, strict=True)
        for dimension, (run, s, d, extra) in enumerate(rows):
            widths["outer", dimension] = (run.block, extra - run.block, 0)
            widths["inner", dimension] = (run.phase, s - 1 - run.phase - (run.taps - 1) * d, d - 1)
        term = _padded(_sliced(products, geometry, [slice(run.tap, run.tap + run.taps) for run in runs]), geometry, widths)
        total = term if total is None else total + term
    assert total is not None
    return from_blocks(total, geometry)


def patches(g: jax.Array, geometry: Geometry) -> jax.Array:
    """Of each of W inputs, the k outputs that it reaches: patches[n, j] = g[n*s + j*d - crop_lo], the adjoint of overlap_add"""
    blocks = to_blocks(g, geometry)

    def rows(chosen: tuple[Run, ...]) -> jax.Array:
        if (dimension := len(chosen)) < geometry.ndim:
            parts = [rows((*chosen, run)) for run in geometry.runs[dimension]]
            return parts[0] if len(parts) == 1 else lax.concatenate(parts, _blocked(geometry).index(("inner", dimension)))
        phases = [slice(run.phase, run.phase + (run.taps - 1) * d + 1, d) for run, d in zip(chosen, geometry.dilations, strict=True)]
        widths: dict[Label, tuple[int, int, int]] = {
            ("outer", d): (-run.block, run.block - extra, 0)
            for d, (run, extra) in enumerate(zip(chosen, geometry.extra_blocks, strict=True))
        }
        return _padded(_sliced(blocks, geometry, phases), geometry, widths)

    return rows(())


def terms(geometry: Geometry) -> int:
    """How many terms overlap_add sums and patches joins: the product of the numbers of runs."""
    counts = []
    for k, s, d, (lo, _) in zip(geometry.kernel, geometry.strides, geometry.dilations, geometry.crops, strict=True):
        first, last = reach(k, s, d, lo)
        counts.append(min(k, last - first + 1))  # where d > s, every tap is a run, and blocks between them stay empty
    return math.prod(counts)


def is_reshape(geometry: Geometry, channels_last: bool) -> bool:
    """Whether products and patches are the activation in another shape: all blocks beside each other, in the last dimension alone."""
    several = [d for d, (k, s) in enumerate(zip(geometry.kernel, geometry.strides, strict=True)) if k > 1 or s > 1]
    return channels_last and terms(geometry) == 1 and several in ([], [geometry.ndim - 1])


MOST_TERMS = 256  # of one expression, which each take time to compile


def too_many_terms(geometry: Geometry) -> str | None:
    """Why not to add up so many."""
    count = terms(geometry)
    return f"would sum {count} shifted arrays, more than {MOST_TERMS}" if count > MOST_TERMS else None


def too_sparse(sizes: Sizes) -> str | None:
    """Why not to make blocks: they would be far larger than what they hold."""
    held = math.prod(t * s for t, s in zip(sizes.blocks, sizes.geometry.strides, strict=True))
    if held > 2 * math.prod(sizes.lengths) + 2**16:
        return f"would hold {held} samples in blocks of {sizes.geometry.strides} for an output of {sizes.lengths}"
    return None

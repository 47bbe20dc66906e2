"""Lowering "polyphase": a transposed convolution of stride 1 that computes all phases of a block of s outputs as channels. One group.

With blocks of outputs as in `_blocks`, y[b, t, (r, o)] = sum over q, i of x[b, t - q, i] * v[q, i, (r, o)], where v is w with its
taps placed by block and phase, zero where no tap falls. That is a transposed convolution of stride and dilation 1, with a coarse
geometry of its own, and so are its gradients: each contraction is the same one of "dilated", on blocks.

Where crop_lo is no multiple of the stride, cutting blocks at output 0 can take one block of taps more than cutting them crop_lo mod s
before it. The second computes less and has to move the result; whichever reaches over fewer blocks is taken.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import jax

from jaxdeconv._geometry import Geometry, reach
from jaxdeconv._lowerings import dilated
from jaxdeconv._lowerings._blocks import from_blocks, padded, to_blocks, too_sparse
from jaxdeconv._lowerings._work import Sizes

MOST_FILL = 16  # times the taps of the filter that the coarse one may have


def offsets(geometry: Geometry) -> tuple[int, ...]:
    """How many outputs before output 0 blocks begin, per dimension."""
    found = []
    for k, s, d, (lo, _) in zip(geometry.kernel, geometry.strides, geometry.dilations, geometry.crops, strict=True):
        (first, last), (aligned_first, aligned_last) = reach(k, s, d, lo), reach(k, s, d, lo - lo % s)
        found.append(lo % s if aligned_last - aligned_first < last - first else 0)
    return tuple(found)


def extended(geometry: Geometry) -> Geometry:
    """With the outputs that offsets add."""
    crops = tuple((lo - offset, hi) for (lo, hi), offset in zip(geometry.crops, offsets(geometry), strict=True))
    return replace(geometry, crops=crops)


def coarse(geometry: Geometry) -> Geometry:
    """The transposed convolution of stride 1 from inputs to blocks."""
    own = extended(geometry)
    kernel, crops = [], []
    for k, s, d, (lo, _), extra in zip(own.kernel, own.strides, own.dilations, own.crops, own.extra_blocks, strict=True):
        first, last = reach(k, s, d, lo)
        kernel.append(last - first + 1)
        crops.append((-first, last - extra))
    ones = (1,) * geometry.ndim
    return Geometry(tuple(kernel), ones, ones, tuple(crops), groups=1, channels_last=True)


def placed_taps(geometry: Geometry) -> int:
    """Taps of the coarse filter, the empty ones included."""
    return math.prod(coarse(geometry).kernel) * math.prod(geometry.strides)


def _starts(geometry: Geometry) -> tuple[int, ...]:
    """Per dimension, where tap 0 goes in [coarse kernel * stride]; the others follow at the dilation."""
    rows = zip(extended(geometry).crops, geometry.strides, strict=True)
    return tuple(-lo % s for (lo, _), s in rows)


def coarse_filter(w: jax.Array, geometry: Geometry) -> jax.Array:
    """[*k, o, i] -> [*q, *s * o, i], zero where no tap falls."""
    n, blocks = geometry.ndim, coarse(geometry).kernel
    widths, split = [], []
    for start, ke, d, q, s in zip(
        _starts(geometry), geometry.effective_kernels, geometry.dilations, blocks, geometry.strides, strict=True
    ):
        widths.append((start, q * s - start - ke, d - 1))
        split += [q, s]
    w = padded(w, [*widths, (0, 0, 0), (0, 0, 0)]).reshape(*split, *w.shape[-2:])
    w = w.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), 2 * n, 2 * n + 1)
    return w.reshape(*blocks, -1, w.shape[-1])


def _fine_filter(v: jax.Array, geometry: Geometry) -> jax.Array:
    """[*q, *s * o, i] -> [*k, o, i]: what coarse_filter placed."""
    n = geometry.ndim
    full = [q * s for q, s in zip(v.shape[:n], geometry.strides, strict=True)]
    v = v.reshape(*v.shape[:n], *geometry.strides, -1, v.shape[-1])
    v = v.transpose(*itertools.chain.from_iterable((a, n + a) for a in range(n)), 2 * n, 2 * n + 1)
    v = v.reshape(*full, *v.shape[-2:])
    taps = zip(_starts(geometry), geometry.effective_kernels, geometry.dilations, strict=True)
    return v[tuple(slice(start, start + ke, d) for start, ke, d in taps)]


def _block_channels(y: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *L, o] -> [batch, *T, *s * o]"""
    y = padded(y, [(0, 0, 0), *((offset, 0, 0) for offset in offsets(geometry)), (0, 0, 0)])
    blocks = to_blocks(y, extended(geometry))
    return blocks.reshape(*blocks.shape[: geometry.ndim + 1], -1)


def without_extension(y: jax.Array, geometry: Geometry) -> jax.Array:
    """Whole blocks of outputs, cut to the L outputs."""
    rows = zip(offsets(geometry), extended(geometry).surplus, strict=True)
    return padded(y, [(0, 0, 0), *((-offset, -surplus, 0) for offset, surplus in rows), (0, 0, 0)])


def _from_block_channels(blocks: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *T, *s * o] -> [batch, *L, o]"""
    blocks = blocks.reshape(*blocks.shape[:-1], *geometry.strides, -1)
    y = from_blocks(blocks, extended(geometry))
    return padded(y, [(0, 0, 0), *((-offset, 0, 0) for offset in offsets(geometry)), (0, 0, 0)])


def unable(contraction: str, sizes: Sizes) -> str | None:
    """Why it cannot compute this; None if it can."""
    del contraction
    geometry = sizes.geometry
    taps = placed_taps(geometry)
    if taps > MOST_FILL * max(sizes.taps, math.prod(geometry.strides)):
        return f"would make of {sizes.taps} taps a filter of {taps}"
    return too_sparse(sizes._replace(geometry=extended(geometry)))


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    blocks = dilated.transpose(x, coarse_filter(w, geometry), coarse(geometry), **keywords)
    return _from_block_channels(blocks, geometry)


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    return dilated.input_grad(_block_channels(g, geometry), coarse_filter(w, geometry), coarse(geometry), **keywords)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""
    v = dilated.filter_grad(x, _block_channels(g, geometry), coarse(geometry), **keywords)
    return _fine_filter(v, geometry)

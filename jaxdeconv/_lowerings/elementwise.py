"""Lowering "elementwise": products channel by channel, for depthwise transposed convolutions (one input and output channel a group).

    transpose    y[b, t*s + r, c] = sum over q of x[b, t - q, c] * v[q, r, c], with v the placed filter of phases
    input_grad   x[b, n, c] = sum over j of g[b, n*s + j*d - crop_lo, c] * w[j, c]
    filter_grad  w[j, c] = sum over b, n of g[b, n*s + j*d - crop_lo, c] * x[b, n, c]

XLA fuses the first two into loops over the result; their products are never stored. The second has one term per tap, which takes time
to compile: it is for filters of up to MOST_TAPS taps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import padded, terms, too_many_terms, too_sparse
from jaxdeconv._lowerings._work import Contraction, Sizes
from jaxdeconv._lowerings.mixed import phases, placed

MOST_TAPS = 256


def _extended(geometry: Geometry) -> Geometry:
    """With the outputs that blocks begin with before output 0."""
    before = phases(geometry).before
    return replace(geometry, crops=tuple((lo - earlier, hi) for (lo, hi), earlier in zip(geometry.crops, before, strict=True)))


def blocks_summed(geometry: Geometry) -> int:
    """How many terms T sums."""
    return terms(_extended(geometry))


def unable(contraction: Contraction, sizes: Sizes) -> str | None:
    """Why it cannot compute this; None if it can."""
    geometry = sizes.geometry
    if not sizes.depthwise:
        channels = f"{sizes.in_channels} input and {sizes.out_channels} output channels in {geometry.groups} groups"
        return f"is for one input and one output channel a group, not for {channels}"
    if contraction == "transpose":
        if (held := phases(geometry).placed_taps) > 2 * math.prod(sizes.lengths) + 2**16:
            return f"would place {sizes.taps} taps among {held} for an output of {sizes.lengths}"
        extended = _extended(geometry)
        return too_many_terms(extended) or too_sparse(sizes._replace(geometry=extended))
    if contraction == "input_grad" and sizes.taps > MOST_TAPS:
        return f"would sum {sizes.taps} shifted arrays in its input gradient, more than {MOST_TAPS}"
    rows = zip(sizes.spatial, geometry.strides, geometry.effective_kernels, strict=True)
    uncropped = math.prod((w - 1) * s + ke for w, s, ke in rows)
    if uncropped > 2 * math.prod(sizes.lengths) + 2**16:
        return f"would restore {uncropped} samples of an output of {sizes.lengths}"
    return None


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, c] += x[b, n, c] * w[j, c]."""
    n, (batch, *_, channels), way = geometry.ndim, x.shape, phases(geometry)
    x, over = x.astype(preferred_element_type), way.inner
    taps = placed(w.astype(preferred_element_type), way)
    taps = taps.reshape(*over.kernel, *(each for s in geometry.strides for each in (1, s)), channels)
    x = padded(x, [(0, 0, 0), *((q - 1 - lo, q - 1 - hi, 0) for q, (lo, hi) in zip(over.kernel, over.crops, strict=True)), (0, 0, 0)])
    lengths = [size - q + 1 for size, q in zip(x.shape[1:-1], over.kernel, strict=True)]
    reached = [sorted({run.block + lo for run in runs}) for runs, (lo, _) in zip(_extended(geometry).runs, over.crops, strict=True)]
    total = jnp.zeros((), preferred_element_type)
    for blocks in itertools.product(*reached):
        starts = [q - 1 - block for q, block in zip(over.kernel, blocks, strict=True)]
        shifted = x[(slice(None), *(slice(start, start + length) for start, length in zip(starts, lengths, strict=True)))]
        total = total + jnp.expand_dims(shifted, range(2, 2 * n + 1, 2)) * taps[blocks]  # [batch, T, 1, ..., c] [1, s, ..., c]
    blocks_in_place = total.reshape(batch, *(length * s for length, s in zip(lengths, geometry.strides, strict=True)), channels)
    ends = zip(way.before, way.outer.crops, strict=True)
    return padded(blocks_in_place, [(0, 0, 0), *((-before, -surplus, 0) for before, (_, surplus) in ends), (0, 0, 0)])


def with_crops(g: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *L, c] with zeros for what was cropped, so that each tap is a plain strided read."""
    return padded(g, [(0, 0, 0), *((lo, hi, 0) for lo, hi in geometry.crops), (0, 0, 0)])


def _windows(g: jax.Array, geometry: Geometry) -> Iterator[jax.Array]:
    """For each tap, the outputs that it reaches, of g with what was cropped: [batch, *W, c]"""
    for tap in np.ndindex(*geometry.kernel):
        rows = zip(tap, geometry.dilations, geometry.strides, geometry.effective_kernels, g.shape[1:-1], strict=True)
        yield g[(slice(None), *(slice(j * d, length - (ke - 1 - j * d), s) for j, d, s, ke, length in rows))]


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """C: x[b, n, c] += g[b, n*s + j*d - crop_lo, c] * w[j, c]."""
    g, w = with_crops(g.astype(preferred_element_type), geometry), w.astype(preferred_element_type)
    total = jnp.zeros((), preferred_element_type)
    for tap, window in zip(np.ndindex(*geometry.kernel), _windows(g, geometry), strict=True):
        total = total + window * w[(*tap, 0)]
    return total


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """F: w[j, c] += g[b, n*s + j*d - crop_lo, c] * x[b, n, c]."""
    x, g = x.astype(preferred_element_type), with_crops(g.astype(preferred_element_type), geometry)
    taps = [jnp.sum(window * x, tuple(range(x.ndim - 1))) for window in _windows(g, geometry)]
    return jnp.stack(taps).reshape(*geometry.kernel, 1, x.shape[-1])

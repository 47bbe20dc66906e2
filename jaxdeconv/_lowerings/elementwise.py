"""Lowering "elementwise": products channel by channel, of depthwise transposed convolutions, whose groups have one input and output.

    transpose    y[b, t*s + r, c, o] = sum over q of x[b, t - q, c] * v[q, r, c, o], with v the placed filter of phases
    input_grad   x[b, n, c] = sum over j of g[b, n*s + j*d - crop_lo, c] * w[j, c]
    filter_grad  w[j, c] = sum over b, n of g[b, n*s + j*d - crop_lo, c] * x[b, n, c]

The first is for groups c of one input and any number of outputs o: there is nothing to sum but taps. XLA fuses the first two into
loops over the result; their products are never stored. The second has one term per tap, which takes time to compile, so it is for
filters of up to MOST_TAPS taps. Groups of one output could have it, but XLA would compute it again for each tap of the layer before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import padded, static, terms, too_many_terms, too_sparse
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
    if not (sizes.depthwise or (contraction == "transpose" and sizes.in_channels == geometry.groups)):
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


def _spatial(geometry: Geometry, each: Iterable[Any], others: Any) -> list[Any]:
    """For each axis of an activation; those of batch and channels have another."""
    of_axes = [others] * (geometry.ndim + 2)
    for axis, value in zip(geometry.spatial_axes, each, strict=True):
        of_axes[axis] = value
    return of_axes


def transpose(
    x: jax.Array, w: jax.Array, geometry: Geometry, *, preferred_element_type: Any, sliced: bool = False, **unused: Any
) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, c, o] += x[b, n, c] * w[j, o, c].

    `sliced`, the result is a slice, of one block more where all blocks would be in it.
    """
    n, way, groups, outputs = geometry.ndim, phases(geometry), geometry.groups, w.shape[-2]
    x, over = x.astype(preferred_element_type), way.inner
    in_blocks = [each for s in geometry.strides for each in (1, s)]
    taps = jnp.swapaxes(placed(w.astype(preferred_element_type), way), -1, -2)  # [*q, *s, c, o]
    if geometry.channels_last:
        taps = taps.reshape(*over.kernel, *in_blocks, groups, outputs)
    else:
        taps = jnp.moveaxis(taps, (-2, -1), (n, n + 1)).reshape(*over.kernel, groups, outputs, *in_blocks)
    reach = [(q - 1 - lo, q - 1 - hi, 0) for q, (lo, hi) in zip(over.kernel, over.crops, strict=True)]
    ends = [(-before, -surplus, 0) for before, (_, surplus) in zip(way.before, way.outer.crops, strict=True)]
    if sliced and n > 0 and not any(map(any, ends)):
        lengths = [x.shape[axis] for axis in geometry.spatial_axes]
        longest = lengths.index(max(lengths)) if static(x) else 0
        (lo, hi, _), s = reach[longest], geometry.strides[longest]
        reach[longest], ends[longest] = (lo, hi + 1, 0), (0, -s, 0)
    x = padded(x, _spatial(geometry, reach, (0, 0, 0)))
    lengths = [x.shape[axis] - q + 1 for axis, q in zip(geometry.spatial_axes, over.kernel, strict=True)]
    reached = [sorted({run.block + lo for run in runs}) for runs, (lo, _) in zip(_extended(geometry).runs, over.crops, strict=True)]
    new_axes = [*range(2, 2 * n + 1, 2), 2 * n + 2] if geometry.channels_last else range(2, 2 * n + 3, 2)  # of phases and outputs
    total = jnp.zeros((), preferred_element_type)
    for blocks in itertools.product(*reached):
        starts = [q - 1 - block for q, block in zip(over.kernel, blocks, strict=True)]
        window = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        shifted = x[tuple(_spatial(geometry, window, slice(None)))]
        total = total + jnp.expand_dims(shifted, new_axes) * taps[blocks][None]  # [b, T, 1, ..., c, 1] [1, 1, s, ..., c, o]
    sizes = _spatial(geometry, (length * s for length, s in zip(lengths, geometry.strides, strict=True)), x.shape[0])
    sizes[geometry.channel_axis] = groups * outputs
    return padded(total.reshape(sizes), _spatial(geometry, ends, (0, 0, 0)))


def with_crops(g: jax.Array, geometry: Geometry) -> jax.Array:
    """g with zeros for what was cropped, so that each tap is a plain strided read."""
    return padded(g, _spatial(geometry, ((lo, hi, 0) for lo, hi in geometry.crops), (0, 0, 0)))


def _windows(g: jax.Array, geometry: Geometry) -> Iterator[jax.Array]:
    """For each tap, the outputs that it reaches, of g with what was cropped: [batch, *W, c]"""
    lengths = [g.shape[axis] for axis in geometry.spatial_axes]
    for tap in np.ndindex(*geometry.kernel):
        rows = zip(tap, geometry.dilations, geometry.strides, geometry.effective_kernels, lengths, strict=True)
        window = [slice(j * d, length - (ke - 1 - j * d), s) for j, d, s, ke, length in rows]
        yield g[tuple(_spatial(geometry, window, slice(None)))]


def input_grad(
    g: jax.Array, w: jax.Array, geometry: Geometry, *, preferred_element_type: Any, sliced: bool = False, **unused: Any
) -> jax.Array:
    """C: x[b, n, c, i] += g[b, n*s + j*d - crop_lo, c] * w[j, c, i].

    `sliced`, the result is a slice, of one input more, if g gets zeros in any case: a copy of it would take as long as the rest.
    """
    g, w = g.astype(preferred_element_type), w.astype(preferred_element_type)
    if sliced and any(map(any, geometry.crops)):
        sizes = [g.shape[axis] for axis in geometry.spatial_axes]
        longest = sizes.index(max(sizes)) if static(g) else 0
        crops = list(geometry.crops)
        crops[longest] = (crops[longest][0], crops[longest][1] + geometry.strides[longest])
        more = input_grad(g, w, replace(geometry, crops=tuple(crops)), preferred_element_type=preferred_element_type)
        axis = geometry.spatial_axes[longest]
        return lax.slice_in_dim(more, 0, more.shape[axis] - 1, axis=axis)
    g = with_crops(g, geometry)
    sizes = _spatial(geometry, (1,) * geometry.ndim, 1)
    sizes[geometry.channel_axis] = w.shape[-1]
    taps = w.reshape(*geometry.kernel, *sizes)  # of as many axes as g, for JAX may be told not to add any
    total = jnp.zeros((), preferred_element_type)
    for tap, window in zip(np.ndindex(*geometry.kernel), _windows(g, geometry), strict=True):
        total = total + window * taps[tap]
    return total


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """F: w[j, c] += g[b, n*s + j*d - crop_lo, c] * x[b, n, c]."""
    x, g = x.astype(preferred_element_type), with_crops(g.astype(preferred_element_type), geometry)
    taps = [jnp.sum(window * x, tuple(range(x.ndim - 1))) for window in _windows(g, geometry)]
    return jnp.stack(taps).reshape(*geometry.kernel, 1, x.shape[-1])

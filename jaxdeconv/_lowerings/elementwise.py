"""Lowering "elementwise": products channel by channel, for depthwise transposed convolutions (one input and output channel a group).

    transpose    y[b, t*s + r, c] = sum over q of x[b, t - q, c] * v[q, r, c], with v the coarse filter of "polyphase"
    input_grad   x[b, n, c] = sum over j of g[b, n*s + j*d - crop_lo, c] * w[j, c]
    filter_grad  w[j, c] = sum over b, n of g[b, n*s + j*d - crop_lo, c] * x[b, n, c]

XLA fuses the first two into loops over the result; their products are never stored. The second has one term per tap, which takes time
to compile: it is for filters of up to MOST_TAPS taps.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import matmul
from jaxdeconv._lowerings._blocks import padded, terms
from jaxdeconv._lowerings._work import Sizes, Work
from jaxdeconv._lowerings.polyphase import coarse, coarse_filter, extended, without_extension

MOST_TAPS = 256


def _placed(geometry: Geometry) -> int:
    """Taps of the coarse filter, the empty ones included."""
    return math.prod(coarse(geometry).kernel) * math.prod(geometry.strides)


def unable(contraction: str, sizes: Sizes) -> str | None:
    """Why it cannot compute this; None if it can."""
    geometry = sizes.geometry
    if not sizes.depthwise:
        channels = f"{sizes.in_channels} input and {sizes.out_channels} output channels in {geometry.groups} groups"
        return f"is for one input and one output channel a group, not for {channels}"
    if contraction == "transpose":
        if (held := _placed(geometry)) > 2 * math.prod(sizes.lengths) + 2**16:
            return f"would place {sizes.taps} taps among {held} for an output of {sizes.lengths}"
        return matmul.unable(contraction, sizes._replace(geometry=extended(geometry)))
    if contraction == "input_grad" and sizes.taps > MOST_TAPS:
        return f"would sum {sizes.taps} shifted arrays in its input gradient, more than {MOST_TAPS}"
    rows = zip(sizes.spatial, geometry.strides, geometry.effective_kernels, strict=True)
    uncropped = math.prod((w - 1) * s + ke for w, s, ke in rows)
    if uncropped > 2 * math.prod(sizes.lengths) + 2**16:
        return f"would restore {uncropped} samples of an output of {sizes.lengths}"
    return None


def work(contraction: str, sizes: Sizes) -> Work:
    """How much it is."""
    if contraction == "transpose":
        placed = _placed(sizes.geometry) * sizes.in_channels
        return Work(
            looped=2 * terms(extended(sizes.geometry)) * sizes.y, moved=sizes.x + sizes.y + placed, temporary=sizes.x + placed
        )
    stored = 2 * sizes.taps * sizes.x if contraction == "filter_grad" else 0  # the products of one tap, then of the next
    return Work(looped=sizes.flops, moved=sizes.x + sizes.w + 3 * sizes.y + stored, temporary=sizes.y)


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, c] += x[b, n, c] * w[j, c]."""
    n, (batch, *_, channels) = geometry.ndim, x.shape
    x, w = x.astype(preferred_element_type), w.astype(preferred_element_type)
    placed, over = coarse_filter(w, geometry), coarse(geometry)
    placed = placed.reshape(*over.kernel, *(each for s in geometry.strides for each in (1, s)), channels)
    x = padded(x, [(0, 0, 0), *((q - 1 - lo, q - 1 - hi, 0) for q, (lo, hi) in zip(over.kernel, over.crops, strict=True)), (0, 0, 0)])
    lengths = [size - q + 1 for size, q in zip(x.shape[1:-1], over.kernel, strict=True)]
    reached = [sorted({run.block + lo for run in runs}) for runs, (lo, _) in zip(extended(geometry).runs, over.crops, strict=True)]
    total = jnp.zeros((), preferred_element_type)
    for blocks in itertools.product(*reached):
        starts = [q - 1 - block for q, block in zip(over.kernel, blocks, strict=True)]
        shifted = x[(slice(None), *(slice(start, start + length) for start, length in zip(starts, lengths, strict=True)))]
        total = total + jnp.expand_dims(shifted, range(2, 2 * n + 1, 2)) * placed[blocks]  # [batch, T, 1, ..., c] [1, s, ..., c]
    blocks_in_place = total.reshape(batch, *(length * s for length, s in zip(lengths, geometry.strides, strict=True)), channels)
    return without_extension(blocks_in_place, geometry)


def _with_crops(g: jax.Array, geometry: Geometry) -> jax.Array:
    """[batch, *L, c] with zeros for what was cropped, so that each tap is a plain strided read."""
    return padded(g, [(0, 0, 0), *((lo, hi, 0) for lo, hi in geometry.crops), (0, 0, 0)])


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """C: x[b, n, c] += g[b, n*s + j*d - crop_lo, c] * w[j, c]."""
    g, w = _with_crops(g.astype(preferred_element_type), geometry), w.astype(preferred_element_type)
    total = jnp.zeros((), preferred_element_type)
    for tap in np.ndindex(*geometry.kernel):
        window = [
            slice(j * d, length - (ke - 1 - j * d), s)
            for j, d, s, ke, length in zip(
                tap, geometry.dilations, geometry.strides, geometry.effective_kernels, g.shape[1:-1], strict=True
            )
        ]
        total = total + g[(slice(None), *window)] * w[(*tap, 0)]
    return total


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """F: w[j, c] += g[b, n*s + j*d - crop_lo, c] * x[b, n, c]."""
    x, g = x.astype(preferred_element_type), _with_crops(g.astype(preferred_element_type), geometry)
    taps = np.array(list(np.ndindex(*geometry.kernel))) * geometry.dilations
    # One image and one tap at a time: XLA stores the products before it sums them, which for all would be k times x.
    sizes = [(w - 1) * s + 1 for w, s in zip(x.shape[1:-1], geometry.strides, strict=True)]

    def of_image(image: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, g = image

        def of_tap(start: jax.Array) -> jax.Array:
            window = lax.dynamic_slice(g, [*start, 0], [*sizes, g.shape[-1]])
            tapped = window[tuple(slice(None, None, s) for s in geometry.strides)]
            return jnp.sum(tapped * x, tuple(range(x.ndim - 1)))

        summed: jax.Array = lax.map(of_tap, taps)
        return summed

    return jnp.sum(lax.map(of_image, (x, g)), 0).reshape(*geometry.kernel, 1, x.shape[-1])

"""Groups, for lowerings that know none: each is a transposed convolution of its own, of its own channels.

All operands and results have the groups one after the other in one axis: that of the channels, or the last of a filter. A few groups
are computed one by one on CPU, which takes XLA a third of the time of a product with a batch of groups there, and leaves convolutions
without groups, which it knows how to compute fast; otherwise by `jax.vmap`. Groups of few channels are computed several at a time, as
one of more channels whose filter is zero between them: a product that is narrow takes as long as a wide one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._geometry import Geometry

MOST_ON_CPU = 64
WIDE = 16  # channels, up to which groups are computed together


def at_a_time(groups: int, inputs: int, outputs: int, one_by_one: int) -> int:
    """How many groups, of so many inputs and outputs each, are computed together; none if all are by `jax.vmap`."""
    most = max(1, WIDE // max(inputs, outputs)) if one_by_one else 1
    several = max(each for each in range(1, min(most, groups) + 1) if groups % each == 0)
    return several if groups // several <= one_by_one else 0


def per_group(contraction: str, lowering: Callable[..., jax.Array], one_by_one: int = 0) -> Callable[..., jax.Array]:
    """Of a lowering for one group, one for any number, of which up to `one_by_one` are, or so many times several together."""

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        groups, one = geometry.groups, replace(geometry, groups=1)
        if groups == 1:
            return lowering(lhs, rhs, geometry, **keywords)
        activation, last = geometry.channel_axis, geometry.ndim + 1
        rhs_axis, axis = (activation, last) if contraction == "filter_grad" else (last, activation)
        if (several := at_a_time(groups, *_channels(contraction, lhs, rhs, geometry), one_by_one)) > 0:

            def part(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
                if contraction == "filter_grad":
                    return _diagonal(lowering(lhs, rhs, one, **keywords), several)
                return lowering(lhs, _block_diagonal(rhs, several), one, **keywords)

            count = groups // several
            parts = zip(jnp.split(lhs, count, activation), jnp.split(rhs, count, rhs_axis), strict=True)
            return lax.concatenate([part(*each) for each in parts], axis) if count > 1 else part(lhs, rhs)

        def each(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            return lowering(lhs, rhs, one, **keywords)

        result = jax.vmap(each, (activation, rhs_axis), axis)(_split(lhs, activation, groups), _split(rhs, rhs_axis, groups))
        return result.reshape(*result.shape[:axis], -1, *result.shape[axis + 2 :])

    return lowered


def _channels(contraction: str, lhs: jax.Array, rhs: jax.Array, geometry: Geometry) -> tuple[int, int]:
    """The inputs and outputs of one group."""
    if contraction == "filter_grad":
        return lhs.shape[geometry.channel_axis] // geometry.groups, rhs.shape[geometry.channel_axis] // geometry.groups
    return rhs.shape[-1] // geometry.groups, rhs.shape[-2]


def _split(a: jax.Array, axis: int, groups: int) -> jax.Array:
    return a.reshape(*a.shape[:axis], groups, -1, *a.shape[axis + 1 :])


def _block_diagonal(w: jax.Array, groups: int) -> jax.Array:
    """[*k, o, (g, i)] -> [*k, (g, o), (g, i)], zero where the groups differ."""
    if groups == 1:
        return w
    *kernel, o, i = w.shape
    blocks = w.reshape(*kernel, 1, o, groups, i // groups)
    same = np.eye(groups, dtype=bool)[:, None, :, None]
    return jnp.where(same, blocks, jnp.zeros((), w.dtype)).reshape(*kernel, groups * o, i)


def _diagonal(w: jax.Array, groups: int) -> jax.Array:
    """[*k, (g, o), (g, i)] -> [*k, o, (g, i)]: the blocks where the groups are the same."""
    if groups == 1:
        return w
    *kernel, o, i = w.shape
    blocks = w.reshape(math.prod(kernel), groups, o // groups, groups, i // groups)
    found = jnp.diagonal(blocks, axis1=1, axis2=3)  # [k, o, i, g]
    return jnp.swapaxes(found, -1, -2).reshape(*kernel, o // groups, i)

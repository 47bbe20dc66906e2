"""Groups, for lowerings that know none: each is a transposed convolution of its own, of its own channels.

All operands and results have the groups one after the other in one axis: that of the channels, or the last of a filter. A few groups
are computed one by one on CPU, which takes XLA a third of the time of a product with a batch of groups there, and leaves convolutions
without groups, which it knows how to compute fast; otherwise by `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry

MOST_ON_CPU = 64


def per_group(contraction: str, lowering: Callable[..., jax.Array], one_by_one: int = 0) -> Callable[..., jax.Array]:
    """Of a lowering for one group, one for any number, of which up to `one_by_one` are."""

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        groups, one = geometry.groups, replace(geometry, groups=1)
        if groups == 1:
            return lowering(lhs, rhs, geometry, **keywords)
        activation, last = geometry.channel_axis, geometry.ndim + 1
        rhs_axis, axis = (activation, last) if contraction == "filter_grad" else (last, activation)
        if groups <= one_by_one:
            parts = zip(jnp.split(lhs, groups, activation), jnp.split(rhs, groups, rhs_axis), strict=True)
            return lax.concatenate([lowering(*part, one, **keywords) for part in parts], axis)

        def each(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            return lowering(lhs, rhs, one, **keywords)

        result = jax.vmap(each, (activation, rhs_axis), axis)(_split(lhs, activation, groups), _split(rhs, rhs_axis, groups))
        return result.reshape(*result.shape[:axis], -1, *result.shape[axis + 2 :])

    return lowered


def _split(a: jax.Array, axis: int, groups: int) -> jax.Array:
    return a.reshape(*a.shape[:axis], groups, -1, *a.shape[axis + 1 :])

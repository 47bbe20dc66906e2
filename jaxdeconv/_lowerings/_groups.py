"""Groups, for lowerings that know none: each is a transposed convolution of its own, of its own channels.

All operands and results have the groups one after the other in one axis: that of the channels, or the last of a filter. A few groups
are computed one by one, which takes XLA on CPU a third of the time of a product with a batch of groups, and leaves convolutions
without groups, which it knows how to compute fast; many, by `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._work import Sizes, Work

MOST_GROUPS = 64


def per_group(contraction: str, lowering: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Of a lowering for one group, one for any number."""

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        groups, one = geometry.groups, replace(geometry, groups=1)
        if groups == 1:
            return lowering(lhs, rhs, geometry, **keywords)
        activation, last = geometry.channel_axis, geometry.ndim + 1
        rhs_axis, axis = (activation, last) if contraction == "filter_grad" else (last, activation)
        if groups <= MOST_GROUPS:
            parts = zip(jnp.split(lhs, groups, activation), jnp.split(rhs, groups, rhs_axis), strict=True)
            return lax.concatenate([lowering(*part, one, **keywords) for part in parts], axis)

        def each(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            return lowering(lhs, rhs, one, **keywords)

        result = jax.vmap(each, (activation, rhs_axis), axis)(_split(lhs, activation, groups), _split(rhs, rhs_axis, groups))
        return result.reshape(*result.shape[:axis], -1, *result.shape[axis + 2 :])

    return lowered


def _split(a: jax.Array, axis: int, groups: int) -> jax.Array:
    return a.reshape(*a.shape[:axis], groups, -1, *a.shape[axis + 1 :])


def one_group(sizes: Sizes) -> Sizes:
    """The transposed convolution of one of the groups."""
    groups = sizes.geometry.groups
    return sizes._replace(
        geometry=replace(sizes.geometry, groups=1),
        in_channels=sizes.in_channels // groups,
        out_channels=sizes.out_channels // groups,
    )


def per_group_work(work: Callable[[str, Sizes], Work]) -> Callable[[str, Sizes], Work]:
    """Of the work for one group, that for all."""

    def total(contraction: str, sizes: Sizes) -> Work:
        groups = sizes.geometry.groups
        if groups == 1:
            return work(contraction, sizes)
        whole = Work(*(groups * amount for amount in work(contraction, one_group(sizes))))
        taken_apart = sizes.x + sizes.y + sizes.w
        return whole._replace(moved=whole.moved + 2 * taken_apart)  # as part of what is then held for each anyway

    return total

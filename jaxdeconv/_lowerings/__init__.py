"""The tables of lowerings: which function computes which contraction, whether it can, and how much work that is. No policy here; that
is `_select`.

Every lowering is called as `(lhs, rhs, geometry, precision=, preferred_element_type=)`, with operands of one dtype, neither empty,
and the keywords meaning what they mean in lax. "dilated" alone takes `out_sharding=` too, and so explicitly sharded operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import dilated, elementwise, matmul, polyphase
from jaxdeconv._lowerings._groups import per_group, per_group_work
from jaxdeconv._lowerings._work import Sizes, Work

Contraction: TypeAlias = Literal["transpose", "input_grad", "filter_grad"]
Implementation: TypeAlias = Literal["dilated", "matmul", "polyphase", "elementwise"]
Lowering: TypeAlias = Callable[..., jax.Array]


def _any_layout(contraction: Contraction, lowering: Lowering) -> Lowering:
    """Of a lowering for channels last, one that takes either layout."""

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        if geometry.channels_last:
            return lowering(lhs, rhs, geometry, **keywords)
        lhs = jnp.moveaxis(lhs, 1, -1)
        if contraction == "filter_grad":
            rhs = jnp.moveaxis(rhs, 1, -1)
        result = lowering(lhs, rhs, replace(geometry, channels_last=True), **keywords)
        return result if contraction == "filter_grad" else jnp.moveaxis(result, -1, 1)

    return lowered


def _table() -> dict[tuple[Contraction, Implementation], Lowering]:
    table: dict[tuple[Contraction, Implementation], Lowering] = {}
    for contraction in get_args(Contraction):
        table[contraction, "dilated"] = getattr(dilated, contraction)
        table[contraction, "matmul"] = per_group(contraction, getattr(matmul, contraction))
        table[contraction, "polyphase"] = _any_layout(contraction, per_group(contraction, getattr(polyphase, contraction)))
        table[contraction, "elementwise"] = _any_layout(contraction, getattr(elementwise, contraction))
    table["input_grad", "matmul"] = _any_layout("input_grad", table["input_grad", "matmul"])  # the others of it take both
    return table


LOWERINGS: Mapping[tuple[Contraction, Implementation], Lowering] = MappingProxyType(_table())

UNABLE: Mapping[Implementation, Callable[[Contraction, Sizes], str | None]] = MappingProxyType(
    {
        "dilated": dilated.unable,
        "matmul": matmul.unable,
        "polyphase": polyphase.unable,
        "elementwise": elementwise.unable,
    }
)
"""Why a lowering cannot compute a contraction of these sizes, or None if it can."""

WORK: Mapping[Implementation, Callable[[Contraction, Sizes], Work]] = MappingProxyType(
    {
        "dilated": dilated.work,
        "matmul": per_group_work(matmul.work),
        "polyphase": per_group_work(polyphase.work),
        "elementwise": elementwise.work,
    }
)
"""How much a lowering does for a contraction of these sizes."""

"""The tables of lowerings: which function computes which contraction, whether it can, and how much work that is. No policy here; that
is `_select`.

Every lowering is called as `(lhs, rhs, geometry, precision=, preferred_element_type=, out_sharding=)`, with operands of one dtype,
neither empty, and the keywords meaning what they mean in lax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType, ModuleType
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import dilated, elementwise, matmul, polyphase
from jaxdeconv._lowerings._work import Sizes, Work

Contraction: TypeAlias = Literal["transpose", "input_grad", "filter_grad"]
Implementation: TypeAlias = Literal["dilated", "matmul", "polyphase", "elementwise"]
Lowering: TypeAlias = Callable[..., jax.Array]



def _any_layout(contraction: Contraction, lowering: Lowering) -> Lowering:
    """Of a lowering for channels last, one that takes either layout."""

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        del keywords["out_sharding"]  # only "dilated" is given one; see unable
        if geometry.channels_last:
            return lowering(lhs, rhs, geometry, **keywords)
        lhs = jnp.moveaxis(lhs, 1, -1)
        if contraction == "filter_grad":
            rhs = jnp.moveaxis(rhs, 1, -1)
        result = lowering(lhs, rhs, replace(geometry, channels_last=True), **keywords)
        return result if contraction == "filter_grad" else jnp.moveaxis(result, -1, 1)

    return lowered


_MODULES: Mapping[Implementation, ModuleType] = MappingProxyType(
    {"dilated": dilated, "matmul": matmul, "polyphase": polyphase, "elementwise": elementwise}
)

LOWERINGS: Mapping[tuple[Contraction, Implementation], Lowering] = MappingProxyType(
    {
        (contraction, name): lowering if name == "dilated" else _any_layout(contraction, lowering)
        for name, module in _MODULES.items()
        for contraction in get_args(Contraction)
        for lowering in [getattr(module, contraction)]
    }
)

UNABLE: Mapping[Implementation, Callable[[Contraction, Sizes], str | None]] = MappingProxyType(
    {name: module.unable for name, module in _MODULES.items()}
)
"""Why a lowering cannot compute a contraction of these sizes, or None if it can."""

WORK: Mapping[Implementation, Callable[[Contraction, Sizes], Work]] = MappingProxyType(
    {name: module.work for name, module in _MODULES.items()}
)
"""How much a lowering does for a contraction of these sizes."""

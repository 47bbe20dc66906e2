"""The table of lowerings: which function computes which contraction. No policy here; that is `_select`.

Every lowering is called as `(lhs, rhs, geometry, precision=, preferred_element_type=, out_sharding=)`, with operands of one dtype,
neither empty, and the keywords meaning what they mean in lax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import jax

from jaxdeconv._lowerings import dilated

Contraction: TypeAlias = Literal["transpose", "input_grad", "filter_grad"]
Implementation: TypeAlias = Literal["dilated"]
Lowering: TypeAlias = Callable[..., jax.Array]

LOWERINGS: Mapping[tuple[Contraction, Implementation], Lowering] = MappingProxyType(
    {
        ("transpose", "dilated"): dilated.transpose,
        ("input_grad", "dilated"): dilated.input_grad,
        ("filter_grad", "dilated"): dilated.filter_grad,
    }
)

# Of each lowering: (contraction, shape of x, shape of w) -> how many elements its largest temporary has. See explain.
LARGEST_TEMPORARY: Mapping[Implementation, Callable[[Contraction, tuple[int, ...], tuple[int, ...]], int]] = MappingProxyType(
    {"dilated": dilated.largest_temporary}
)

"""Which lowering computes a contraction: a pure policy, no jax."""

from __future__ import annotations

from typing import Literal, TypeAlias

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Contraction, Implementation

Platform: TypeAlias = Literal["cpu", "gpu", "tpu"]


def select(contraction: Contraction, geometry: Geometry, implementation: Implementation | None, platform: Platform) -> Implementation:
    """The named implementation, or else the choice for this contraction, geometry and platform: so far there is one."""
    del contraction, geometry, platform
    return "dilated" if implementation is None else implementation

"""Which lowering computes a contraction: a pure policy, no jax."""

from __future__ import annotations

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Contraction, Implementation


def select(contraction: Contraction, geometry: Geometry, implementation: Implementation | None) -> Implementation:
    """The named implementation, or else the choice for this contraction and geometry: so far there is one."""
    del contraction, geometry
    return "dilated" if implementation is None else implementation

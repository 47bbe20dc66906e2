"""One room for each platform: its rates, how much each lowering does there, the forms that it wants, and what is not to be chosen.

A room has `RATES`, `work(name, contraction, sizes)`, `lowering(contraction, name, axes)` and `avoided(name, contraction, sizes)`. To
add a platform, add a file with these and a line to ROOMS.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import jax

from jaxdeconv._filters import from_tf, to_tf
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Lowering
from jaxdeconv._lowerings._work import Contraction, Name, Platform, Rates, Sizes, Work
from jaxdeconv._platforms import cpu, gpu, tpu

ROOMS: Mapping[Platform, ModuleType] = MappingProxyType({"cpu": cpu, "gpu": gpu, "tpu": tpu})


def rates(platform: Platform) -> Rates:
    """What it does in a unit of time."""
    found: Rates = ROOMS[platform].RATES
    return found


def work(platform: Platform, name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    """How much a lowering does for a contraction of these sizes."""
    found: Work = ROOMS[platform].work(name, contraction, sizes)
    return found


def avoided(platform: Platform, name: Name, contraction: Contraction, sizes: Sizes) -> bool:
    """Whether it is not to be chosen, however fast it may be."""
    found: bool = ROOMS[platform].avoided(name, contraction, sizes)
    return found


def lowering(contraction: Contraction, name: Name, platform: Platform, axes: int = 0) -> Lowering:
    """The function, where operands may be cut over so many axes of a mesh. Platforms share one where they want the same form."""
    found: Lowering = ROOMS[platform].lowering(contraction, name, axes)
    return found


def stored_form(contraction: Contraction, name: Name, platform: Platform, layout: str, sizes: Sizes | None) -> Lowering | None:
    """The form of a lowering that takes, or gives, a filter as it is stored in a layout; None if it is to be `converted`.

    Elsewhere than on CPU, XLA folds the transposition into the product or convolution, and finds cuDNN's function for T by the
    reversal.
    """
    return None if layout == "tf" or platform != "cpu" else cpu.stored(contraction, name, layout, sizes)


def converted(contraction: Contraction, lowering: Lowering, layout: str) -> Lowering:
    """The lowering with a filter in a layout, brought to TensorFlow's and back."""
    if layout == "tf":
        return lowering

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        if contraction == "filter_grad":
            return from_tf(lowering(lhs, rhs, geometry, **keywords), layout, geometry.groups)
        return lowering(lhs, to_tf(rhs, layout, geometry.groups), geometry, **keywords)

    return lowered


def partitioned_right(name: Name, sizes: Sizes, axes: int) -> bool:
    """Whether XLA's partitioner computes it rightly where operands may be cut over so many axes of a mesh; docs/sharding.md has more.

    Products it does. Convolutions with groups it refuses, or ends the process, where it cuts groups in parts; of others, it sums
    parts over replicas too. Of mixtures, nothing is known.
    """
    if axes == 0 or name in ("matmul", "elementwise"):
        return True
    return axes == 1 and "," not in name and (sizes.geometry.groups == 1 or sizes.depthwise)

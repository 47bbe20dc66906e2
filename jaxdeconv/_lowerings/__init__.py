"""The tables of lowerings: which function computes which contraction, whether it can, and how much work that is. No policy here; that
is `_select`.

Every lowering is called as `(lhs, rhs, geometry, precision=, preferred_element_type=)`, with operands of one dtype, neither empty,
and the keywords meaning what they mean in lax. No crop of the geometry is negative, or more than ke - 1: `_interior` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jaxdeconv._filters import from_tf, to_tf
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import _cpu_forms, _cpu_stored, _work_cpu, _work_gpu, _work_tpu, dilated, elementwise, matmul, polyphase
from jaxdeconv._lowerings._groups import MOST_ON_CPU, per_group
from jaxdeconv._lowerings._work import Amounts, Contraction, Implementation, Platform, Sizes

__all__ = [
    "LOWERINGS",
    "UNABLE",
    "WORK",
    "Contraction",
    "Implementation",
    "Platform",
    "converted",
    "partitioned_right",
    "shards_well",
    "stored_form",
]

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


def _general(contraction: Contraction) -> dict[Implementation, Lowering]:
    return {
        "dilated": getattr(dilated, contraction),
        "matmul": per_group(contraction, getattr(matmul, contraction)),
        "polyphase": _any_layout(contraction, per_group(contraction, getattr(polyphase, contraction))),
        "elementwise": _any_layout(contraction, getattr(elementwise, contraction)),
    }


def _on_cpu(contraction: Contraction) -> dict[Implementation, Lowering]:
    one_by_one = partial(per_group, contraction, one_by_one=MOST_ON_CPU)
    forms: dict[Implementation, Lowering] = {
        "dilated": partial(getattr(dilated, contraction), in_order=True),
        "matmul": one_by_one(getattr(_cpu_forms, f"matmul_{contraction}")),
        "polyphase": _any_layout(contraction, one_by_one(partial(getattr(polyphase, contraction), in_order=True))),
    }
    if contraction == "input_grad":
        forms["matmul"] = _any_layout(contraction, forms["matmul"])  # the others of it take both
    if contraction == "filter_grad":
        forms["elementwise"] = _any_layout(contraction, _cpu_forms.elementwise_filter_grad)
    return forms


def _on_tpu(contraction: Contraction) -> dict[Implementation, Lowering]:
    return {"dilated": dilated.filter_grad_by_item} if contraction == "filter_grad" else {}


def _table() -> dict[tuple[Contraction, Implementation, Platform], Lowering]:
    table: dict[tuple[Contraction, Implementation, Platform], Lowering] = {}
    for contraction in get_args(Contraction):
        general = _general(contraction)
        forms: dict[Platform, dict[Implementation, Lowering]]
        forms = {"cpu": general | _on_cpu(contraction), "gpu": general, "tpu": general | _on_tpu(contraction)}
        table |= {(contraction, name, platform): forms[platform][name] for platform in forms for name in general}
    return table


LOWERINGS: Mapping[tuple[Contraction, Implementation, Platform], Lowering] = MappingProxyType(_table())
"""Platforms share a function where they want the same form."""


def stored_form(
    contraction: Contraction, name: Implementation, platform: Platform, layout: str, sizes: Sizes | None
) -> Lowering | None:
    """The form of a lowering that takes, or gives, a filter as it is stored in a layout; None if it is to be `converted`.

    sizes is None where some are symbolic. Elsewhere than on CPU, XLA folds the transposition into the product or convolution, and
    finds cuDNN's function for T by the reversal.
    """
    if layout == "tf" or platform != "cpu":
        return None
    if name == "matmul" and sizes is not None and _cpu_stored.keeps_layout(sizes, layout):
        return partial(getattr(_cpu_stored, contraction), layout=layout, sizes=sizes)
    return partial(dilated.transpose, layout=layout, in_order=True) if (contraction, name) == ("transpose", "dilated") else None


def converted(contraction: Contraction, lowering: Lowering, layout: str) -> Lowering:
    """The lowering with a filter in a layout, brought to TensorFlow's and back."""
    if layout == "tf":
        return lowering

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        if contraction == "filter_grad":
            return from_tf(lowering(lhs, rhs, geometry, **keywords), layout, geometry.groups)
        return lowering(lhs, to_tf(rhs, layout, geometry.groups), geometry, **keywords)

    return lowered


UNABLE: Mapping[Implementation, Callable[[Contraction, Sizes], str | None]] = MappingProxyType(
    {
        "dilated": dilated.unable,
        "matmul": matmul.unable,
        "polyphase": polyphase.unable,
        "elementwise": elementwise.unable,
    }
)
"""Why a lowering cannot compute a contraction of these sizes, or None if it can."""

WORK: Mapping[Platform, Mapping[Implementation, Amounts]] = MappingProxyType(
    {"cpu": _work_cpu.WORK, "gpu": _work_gpu.WORK, "tpu": _work_tpu.WORK}
)
"""How much a lowering does for a contraction of these sizes on a platform."""


def partitioned_right(name: Implementation, sizes: Sizes, axes: int) -> bool:
    """Whether XLA's partitioner computes it rightly where operands may be cut over so many axes of a mesh; docs/sharding.md has more.

    Products it does. Convolutions with groups it refuses, or ends the process, where it cuts groups in parts; of others, it sums
    parts over replicas too.
    """
    if axes == 0 or name in ("matmul", "elementwise"):
        return True
    return axes == 1 and (sizes.geometry.groups == 1 or sizes.depthwise)


def shards_well(name: Implementation, contraction: Contraction, sizes: Sizes, platform: Platform) -> bool:
    """Whether XLA's partitioner cuts it along any axis, gathers no activation, moves no more the more devices there are, and sums a
    filter gradient of a sharded batch over its parts alone. docs/sharding.md has the evidence.

    Counted in, on TPU, is "dilated" for filter gradients of groups, because "matmul" would take up to ten times as many cycles: of
    depthwise ones, which gathers where the channels are sharded, and of others on one chip.
    """
    if name == "dilated" and contraction == "filter_grad" and sizes.geometry.groups > 1:
        return platform == "tpu"
    return name in ("dilated", "matmul")

"""What JAX knows while it traces of how XLA's partitioner may cut a call over devices, and explicit shardings.

The partitioner computes some convolutions wrongly, silently: cut along space, beside an axis of the mesh that one of the operands is
replicated along, parts are summed over all devices, the replicas included. It ends the process on some with groups. Of automatic axes
no more is known than the mesh, since the partitioner chooses the shardings. docs/sharding.md has more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdeconv._filters import LAYOUTS, positions

SEVERAL = 2


def devices() -> int:
    return jax.device_count()


def axes(types: Mapping[str, Any], spatial: Sequence[int], layout: str) -> int:
    """Over how many axes of a mesh a contraction of two of x, w and y, of these types, may be cut: 0 if it cannot be, 1, or
    SEVERAL.

    Axes of `jax.shard_map` do not count.

    An array that was placed without a mesh, or is none yet, says nothing of what the jit around it does with it: where there is more
    than one device, it counts as SEVERAL. Explicit axes count as one if none of them cuts space, since only that goes wrong.
    """
    meshes = [jax.sharding.get_abstract_mesh(), *[kind.sharding.mesh for kind in types.values()]]
    if meshes[0].empty and meshes[1].empty and meshes[2].empty:  # the usual case, in few microseconds
        return SEVERAL if devices() > 1 else 0
    kinds = [
        [kind for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True) if size > 1 and kind != AxisType.Manual]
        for mesh in meshes
    ]
    most = max(map(len, kinds))
    if {kind for each in kinds for kind in each} == {AxisType.Explicit}:
        kernel = positions(LAYOUTS[layout], len(spatial) + 2)["k"]
        if not any(_entries(kind)[axis] for name, kind in types.items() for axis in (kernel if name == "w" else spatial)):
            most = min(most, 1)
    return min(most, SEVERAL)


def _varying(a: jax.Array) -> Any:
    kind = jax.typeof(a)
    named = next((name for name in ("manual_axis_type", "mat") if hasattr(kind, name)), None)  # as it is called, as it was, before
    return getattr(kind, named).varying if named else kind.vma


def varying_as(a: jax.Array, *others: jax.Array) -> jax.Array:
    """An array, cast to vary over the mesh axes of a `jax.shard_map` that it or one of the others does, as lax casts operands.

    The derivative of the cast is the sum over the axes, which an array that did not vary needs.
    """
    missing = tuple(frozenset().union(*map(_varying, others)) - _varying(a))
    if missing:
        a = lax.pcast(a, missing, to="varying") if hasattr(lax, "pcast") else lax.pvary(a, missing)  # type: ignore[attr-defined]
    return a


def explicit_mesh(*arrays: jax.Array) -> Any:
    """The mesh with explicit axes that one of these is typed with, sharded along them or not: `jax.vmap` hides a sharded axis."""
    meshes = [jax.typeof(a).sharding.mesh for a in arrays]
    return next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)


def entries(a: jax.Array) -> list[Any]:
    """One entry of the spec for each axis of an array."""
    return _entries(jax.typeof(a))


def _entries(kind: Any) -> list[Any]:
    spec = kind.sharding.spec
    partitions = list(getattr(spec, "partitions", spec))  # a name that jax 0.10 gave it
    return partitions + [None] * (kind.ndim - len(partitions))


def names(entry: Any) -> tuple[str, ...]:
    """The mesh axes of an entry."""
    return () if entry is None else tuple(entry) if isinstance(entry, tuple) else (entry,)


def explicit_sharding(mesh: Any, shape: tuple[Any, ...], wanted: Sequence[Any]) -> NamedSharding:
    """Over the explicit axes in these entries, one for each size of the shape, as far as they fit."""
    left, fitting = set(_explicit(mesh)), []
    for size, entry in zip(shape, wanted, strict=True):
        found = tuple(name for name in names(entry) if name in left)
        divides = isinstance(size, int) and size % math.prod(mesh.shape[name] for name in found) == 0
        fitting.append(found if found and divides else None)
        left -= set(fitting[-1] or ())
    return NamedSharding(mesh, PartitionSpec(*fitting))  # type: ignore[no-untyped-call]


def on_explicit_axes(
    run: Callable[[jax.Array, jax.Array], jax.Array], mesh: Any, shape: tuple[Any, ...], wanted: Sequence[Any]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`run` with the explicit axes automatic inside, where any lowering works, and a result of these entries as far as they fit."""
    sharding = explicit_sharding(mesh, shape, wanted)
    result: Callable[[jax.Array, jax.Array], jax.Array] = jax.sharding.auto_axes(run, axes=_explicit(mesh), out_sharding=sharding)
    return result


def _explicit(mesh: Any) -> tuple[str, ...]:
    return tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit)

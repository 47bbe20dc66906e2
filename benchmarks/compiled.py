"""Programs compiled for TPUs that are not here, and what the compiled text says: cycles, collectives. Needs libtpu, runs nothing.

The cycles are estimates of XLA's own cost model for the TPU, not measurements. They compare lowerings.
"""

import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Before libtpu is loaded: there is no TPU to ask about, and several processes may compile at once.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

CHIPS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "v7x": "tpu7x:2x2x1"}  # the smallest of each
POD = "v5e:16x16"


@functools.cache
def devices(topology: str) -> tuple[Any, ...]:
    """Of a TPU topology, as "v5e:2x2"; they compile and do not run."""
    return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)


def mesh(topology: str, count: int | None = None, axis: str = "d") -> Mesh:
    """All devices of a topology, or the first `count`, along one axis."""
    return Mesh(np.array(devices(topology)[:count]), (axis,), axis_types=(AxisType.Auto,))


def lower_for(
    over: Mesh,
    function: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    specs: Sequence[jax.P] | None = None,
    out_specs: Sequence[jax.P] | jax.P | None = None,
) -> Any:
    """What there is to compile, of operands of these shapes, replicated over the mesh unless specs say how they are sharded."""
    specs = [jax.P()] * len(shapes) if specs is None else specs
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(over, spec)) for shape, spec in zip(shapes, specs, strict=True)
    ]
    shardings = None if out_specs is None else jax.tree.map(lambda spec: NamedSharding(over, spec), out_specs)
    jitted = jax.jit(function) if shardings is None else jax.jit(function, out_shardings=shardings)
    return jitted.lower(*arguments)


def _computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation of an HLO module, and of the one that is run under "ENTRY"."""
    found: dict[str, list[str]] = {}
    inside: list[str] | None = None
    for line in text.splitlines():
        if start := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            inside = found[start[2]] = []
            if start[1]:
                found["ENTRY"] = inside
        elif line.startswith("}"):
            inside = None
        elif inside is not None:
            inside.append(line)
    return found


def estimated_cycles(compiled: Any) -> int:
    """The sum over the instructions that are run, those of a loop as often as it runs them."""
    computations = _computations(compiled.as_text())

    def total(name: str) -> int:
        cycles = 0
        for line in computations[name]:
            if own := re.search(r'"estimated_cycles":"(\d+)"', line):
                cycles += int(own[1])
            if " while(" in line:
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                if trips is None:
                    raise ValueError(f"a loop of unknown length: {line.strip()[:200]}")
                cycles += int(trips[1]) * total(_called(line, "body"))
            elif " call(" in line:
                cycles += total(_called(line, "to_apply"))
        return cycles

    return total("ENTRY")


def _called(line: str, attribute: str) -> str:
    found = re.search(rf"{attribute}=%?([\w.\-]+)", line)
    assert found is not None, line
    return found[1]


class Collective(NamedTuple):
    """An array that chips send each other."""

    kind: str  # "all-reduce", "all-gather", "all-to-all", "reduce-scatter" or "collective-permute"
    dtype: str
    shape: tuple[int, ...]
    groups: frozenset[frozenset[int]] = frozenset()  # which chips do it together, by their place in the mesh; of a permutation, empty

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * {"bf16": 2, "f16": 2}.get(self.dtype, 4)


_KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|ragged-all-to-all|collective-broadcast"
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(compiled: Any) -> list[Collective]:
    """Every transfer between chips, wherever in the program, and of those that XLA combined each of the arrays."""
    found, chains = [], set()
    for line in compiled.as_text().splitlines():
        if match := _COLLECTIVE.search(line):
            chain = re.search(r'channel_id=\d+.*chain_id="\d+"', line)
            if chain and chain[0] in chains:
                continue  # a transfer that is under way beside other work stands in each of the fusions that it is spread over
            chains.update([chain[0]] if chain else [])
            arrays = [(dtype, tuple(_numbers(sizes))) for dtype, sizes in _ARRAY.findall(match[1])]
            if match[3] and match[2] != "all-reduce":  # what it takes, what it gives, and the scalars of its state
                arrays = [each for each in arrays if each != ("u32", ())]
                arrays = arrays[len(arrays) // 2 :]
            found += [Collective(match[2], *each, _groups(line)) for each in arrays]
    return found


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


def _groups(line: str) -> frozenset[frozenset[int]]:
    """Written as {{0,1},{2,3}}, as the axes of a mesh along which a group lies, or as rows of numbers that are reshaped."""
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line):
        rows = [_numbers(each) for each in re.findall(r"\{([\d,]*)\}", listed[1])]
    elif named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in (each.split("=") for each in named[1].split(","))}
        over = [list(sizes).index(name) for name in named[2].split(",")]
        numbers = np.arange(np.prod(list(sizes.values()))).reshape(tuple(sizes.values()))
        rows = np.moveaxis(numbers, over, range(-len(over), 0)).reshape(-1, np.prod([numbers.shape[axis] for axis in over])).tolist()
    elif counted := re.search(r"replica_groups=\[([\d,]*)\]<=\[([\d,]*)\](?:T\(([\d,]*)\))?", line):
        shape = _numbers(counted[2])
        order = _numbers(counted[3]) if counted[3] else range(len(shape))
        rows = np.arange(np.prod(shape)).reshape(shape).transpose(order).reshape(_numbers(counted[1])).tolist()
    elif "replica_groups=" in line:
        raise ValueError(f"groups of an unknown form: {line.strip()[:300]}")
    else:
        rows = []
    return frozenset(map(frozenset, rows))

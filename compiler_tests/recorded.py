"""What the compiler for TPU made of each program that the tests ask about, recorded in data/tpu.json, so that it is compiled once.

    python -m pytest compiler_tests --record

The same compiler makes the same of the same program. A record is found by the program's text, by all else that the compiler is told,
by the versions of jax and libtpu, and by the text of benchmarks/compiled.py, which reads what was compiled. What is not found is
compiled. So is one in SHARE of what is found, others every day, and must be as recorded. --record writes what the tests asked about;
run all of them then, since nothing else stays.
"""

import datetime
import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from benchmarks import compiled
from benchmarks.compiled import Collective, collectives, estimated_cycles

SHARE = 16
PATH = Path(__file__).parent / "data/tpu.json"
FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")


class Facts(NamedTuple):
    """What is asked of a compiled program."""

    cycles: int
    flops: float
    collectives: list[Collective]


Record = dict[str, list[Any]]

known: Record = json.loads(PATH.read_text()) if PATH.exists() else {}
asked: Record = {}
counts = {"compiled": 0, "as recorded": 0}


def facts(over: Mesh, lowered: Any) -> Facts:
    """Of a program for the devices of this mesh."""
    devices = [f"{device.device_kind} {device!r}" for device in over.devices.flat]
    told = [
        lowered.as_text(),
        *devices,
        jax.__version__,
        version("libtpu"),
        *map(os.environ.get, FLAGS),
        Path(compiled.__file__).read_text(),
    ]
    key = hashlib.sha256(repr(told).encode()).hexdigest()[:32]
    sampled = (int(key, 16) + datetime.date.today().toordinal()) % SHARE == 0
    if key not in asked and key in known and not sampled:
        counts["as recorded"] += 1
        asked[key] = known[key]
    elif key not in asked:
        counts["compiled"] += 1
        asked[key] = _as_json(lowered.compile())
        assert asked[key] == known.get(key, asked[key]), f"data/tpu.json has {known[key]} of what is {asked[key]}"
    cycles, flops, transfers = asked[key]
    return Facts(
        cycles,
        flops,
        [Collective(kind, dtype, tuple(shape), frozenset(map(frozenset, groups))) for kind, dtype, shape, groups in transfers],
    )


def _as_json(program: Any) -> list[Any]:
    transfers = [[each.kind, each.dtype, list(each.shape), sorted(map(sorted, each.groups))] for each in collectives(program)]
    return [estimated_cycles(program), program.cost_analysis()["flops"], transfers]


def write(record: Record) -> None:
    """One program a line, in an order that does not depend on that of the tests."""
    lines = [f"{json.dumps(key)}: {json.dumps(each)}" for key, each in sorted(record.items())]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")

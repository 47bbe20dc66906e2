"""What channels first costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.compare import compare
from benchmarks.layers import Layer
from benchmarks.tables import geometric_mean, milliseconds, ratio, table

LAYOUTS = ("jaxdeconv", "jaxdeconv NCW")


def compare_layouts(layers: Sequence[Layer], dtype: str, modes: Sequence[str], rounds: int) -> dict[str, Any]:
    """The record of `compare`, of jaxdeconv in both layouts; the operands are in that layout already."""
    return compare(layers, LAYOUTS, dtype, modes, rounds)


def layouts_report(record: Mapping[str, Any], modes: Sequence[str]) -> str:
    rows, found = [], []
    for case in record["cases"]:
        row = [case["layer"]["name"]]
        for mode in modes:
            last, first = (case["modes"][mode]["seconds"][name] for name in LAYOUTS)
            found.append(first / last)
            row += [milliseconds(last), milliseconds(first), ratio(first / last)]
        rows.append(row)
    headers = ["case", *(f"{mode} {what}" for mode in modes for what in ("NWC ms", "NCW ms", "NCW / NWC"))]
    mean = f"NCW / NWC: geometric mean {ratio(geometric_mean(found))}, most {ratio(max(found))}"
    return f"{table(headers, rows)}\n\n{mean}"

"""Two ways of the same layer: channels first against last, and torch against `jaxdeconv.torch` in torch's own layouts."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.compare import compare
from benchmarks.layers import Layer
from benchmarks.tables import geometric_mean, milliseconds, ratio, table

LAYOUTS = ("jaxdeconv", "jaxdeconv NCW")
TORCH = ("jaxdeconv torch", "torch")


def compare_pair(layers: Sequence[Layer], pair: tuple[str, str], dtype: str, modes: Sequence[str], rounds: int) -> dict[str, Any]:
    """The record of `compare`, of these two; the operands are in their layouts already."""
    return compare(layers, pair, dtype, modes, rounds)


def pair_report(record: Mapping[str, Any], pair: tuple[str, str], modes: Sequence[str]) -> str:
    """The time of the second over that of the first; above 1 the first is faster. Of what both can do."""
    first, second = pair
    rows, found = [], {mode: {} for mode in modes}
    for case in record["cases"]:
        row = [case["layer"]["name"]]
        for mode in modes:
            seconds = case["modes"][mode]["seconds"]
            both = seconds[second] / seconds[first] if set(pair) <= set(seconds) else None
            row += [milliseconds(seconds.get(first)), milliseconds(seconds.get(second)), ratio(both)]
            if both is not None:
                found[mode][case["layer"]["name"]] = both
        rows.append(row)
    over = f"{second} / {first}"
    lines = [table(["case", *(f"{mode} {what}" for mode in modes for what in (f"{first} ms", f"{second} ms", over))], rows), ""]
    for mode, ratios in found.items():
        ordered = sorted(ratios, key=ratios.__getitem__)
        mean = ratio(geometric_mean(list(ratios.values())))
        worst = ", ".join(f"{name} {ratio(ratios[name])}" for name in ordered[:5])
        below = sum(value < 0.4 for value in ratios.values())
        lines.append(f"{mode}, {over}: geometric mean {mean}, below 0.4x in {below} of {len(ratios)}; least {worst}")
    return "\n".join(lines)

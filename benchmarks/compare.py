"""jaxdeconv against its peers: times, agreement of results, memory and compilation, of every layer. The plain mode."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.layers import Layer
from benchmarks.peers import BUILDERS, operands
from benchmarks.tables import geometric_mean, milliseconds, ratio, table
from benchmarks.timing import MatrixRate, alternate, medians

OURS = "jaxdeconv"
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "tf32": 5e-3, "bfloat16": 5e-2}
"""Largest difference between peers, relative to the largest value of the result. tf32: float32 of which products keep 10 bits."""

_CASES_PER_RATE = 8


def progress(index: int, count: int, text: str) -> None:
    print(f"[{index + 1}/{count}] {text}", file=sys.stderr, flush=True)


def compare(layers: Sequence[Layer], names: Sequence[str], dtype: str, modes: Sequence[str], rounds: int) -> dict[str, Any]:
    """The record of a run: {"cases": [...], "matrix_rate": FLOP/s, "matrix_rates": [...]}."""
    rate = MatrixRate(dtype)
    cases = []
    for index, layer in enumerate(layers):
        if index % _CASES_PER_RATE == 0:
            rate.measure()
        start = time.perf_counter()
        cases.append(_case(layer, names, dtype, modes, rounds))
        progress(index, len(layers), f"{layer.name} {time.perf_counter() - start:.1f} s")
    rate.measure()
    return {"cases": cases, "matrix_rate": rate.value, "matrix_rates": rate.samples}


def _case(layer: Layer, names: Sequence[str], dtype: str, modes: Sequence[str], rounds: int) -> dict[str, Any]:
    x, w, g = operands(layer)
    built = {name: BUILDERS[name](layer, dtype, x, w, g) for name in names}
    peers = {name: peer for name, peer in built.items() if peer is not None}
    case: dict[str, Any] = {"layer": layer._asdict(), "flops": layer.flops, "modes": {}}
    for mode in modes:
        able = {name: peer for name, peer in peers.items() if getattr(peer, mode) is not None}
        jitted = {name: peer.jitted[mode] for name, peer in able.items() if mode in peer.jitted}
        where = f"{layer.name} {mode}"
        compiled = _those_that_run(where, {name: partial(compilation, *each) for name, each in jitted.items()})
        # The first call of each, so that compiled and warm ones are timed.
        results = _those_that_run(where, {name: partial(peer.results, mode) for name, peer in able.items()})
        samples = alternate({name: getattr(able[name], mode) for name in results}, rounds)
        case["modes"][mode] = {
            "seconds": medians(samples),
            "samples": samples,
            "differences": _differences(results),
            "compile": compiled,
            "operand_bytes": [each.size * jax.numpy.dtype(dtype).itemsize for each in (x, w, g)],
        }
    return case


def compilation(jitted: Any, arguments: tuple[Any, ...]) -> dict[str, float]:
    """Seconds to lower and compile with empty caches, once, and what the program allocates besides arguments and results."""
    jax.clear_caches()
    start = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes}


def _those_that_run(where: str, calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What they return. A peer can fail, as where a GPU's library has no algorithm for it or memory is short; jaxdeconv must not."""
    found = {}
    for name, call in calls.items():
        try:
            found[name] = call()
        except RuntimeError as error:
            if name.startswith(OURS):
                raise
            reason, _, _ = str(error).partition("\n")
            print(f"{name} fails, {where}: {reason}", file=sys.stderr)
    return found


def _differences(results: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Of each peer but the first, from the first, by result."""
    reference = next(iter(results.values()), {})
    return {name: {key: difference(each[key], reference[key]) for key in each} for name, each in list(results.items())[1:]}


def difference(a: np.ndarray, reference: np.ndarray) -> float:
    """The largest, relative to the largest value; infinite for another shape."""
    if a.shape != reference.shape:
        return math.inf
    largest = float(np.abs(reference).max())
    largest_difference = float(np.abs(a - reference).max())
    return largest_difference if largest == 0 else largest_difference / largest


def mismatches(record: Mapping[str, Any], dtype: str) -> list[str]:
    """A line for each result that differs by more than TOLERANCE, or is not a number."""
    return [
        f"{case['layer']['name']} {mode}: {result} of {name} differs by {found:.1e} of the largest value"
        for case in record["cases"]
        for mode, each in case["modes"].items()
        for name, results in each["differences"].items()
        for result, found in results.items()
        if not found <= TOLERANCE[dtype]
    ]


def worst_difference(record: Mapping[str, Any]) -> str:
    """One line on how well the peers agree."""
    found = [
        (each_difference, f"{result} of {name}, {case['layer']['name']} {mode}")
        for case in record["cases"]
        for mode, each in case["modes"].items()
        for name, results in each["differences"].items()
        for result, each_difference in results.items()
    ]
    if not found:
        return "Results: of one peer alone, compared with nothing."
    largest, where = max(found)
    return f"Results: they differ by at most {largest:.1e} of the largest value ({where})."


def ratios(case: Mapping[str, Any], mode: str) -> dict[str, float]:
    """Time of each peer over that of jaxdeconv, and of the fastest of them as "best"; above 1 jaxdeconv is faster."""
    seconds = dict(case["modes"].get(mode, {}).get("seconds", {}))
    ours = seconds.pop(OURS, None)
    if ours is None or not seconds:
        return {}
    found = {name: each / ours for name, each in seconds.items()}
    return found | {"best": min(found.values())}


def report(record: Mapping[str, Any], names: Sequence[str], mode: str) -> str:
    """The table of one mode and what it amounts to."""
    factor = 1 if mode == "forward" else 3
    rows = []
    for case in record["cases"]:
        seconds = case["modes"][mode]["seconds"]
        found = ratios(case, mode)
        flops = factor * case["flops"]
        share = f"{100 * flops / seconds[OURS] / record['matrix_rate']:.0f}%" if OURS in seconds else "-"
        rows.append(
            [
                case["layer"]["name"],
                f"{flops / 1e9:.2f}",
                *(milliseconds(seconds.get(name)) for name in names),
                ratio(found.get("best")),
                ratio(found.get("lax")),
                share,
            ]
        )
    headers = ["case", "GFLOP", *(f"{name} ms" for name in names), "best peer / jaxdeconv", "lax / jaxdeconv", "of matmul rate"]
    return f"## {mode}\n\n{table(headers, rows)}\n\n{_summary(record, mode)}"


def _summary(record: Mapping[str, Any], mode: str) -> str:
    best = {case["layer"]["name"]: found["best"] for case in record["cases"] if (found := ratios(case, mode))}
    lax = [found["lax"] for case in record["cases"] if "lax" in (found := ratios(case, mode))]
    lines = []
    if best:
        below = {name: value for name, value in sorted(best.items(), key=lambda item: item[1]) if value < 0.9}
        mean = geometric_mean(list(best.values()))
        counted = f"below 0.9x in {len(below)} of {len(best)}"
        lines.append(f"Fastest peer / jaxdeconv: geometric mean {ratio(mean)}, least {ratio(min(best.values()))}, {counted}")
        lines.extend(f"  {name} {ratio(value)}" for name, value in below.items())
    if lax:
        lines.append(f"lax / jaxdeconv: geometric mean {ratio(geometric_mean(lax))}, least {ratio(min(lax))}, most {ratio(max(lax))}")
    return "\n".join(lines)


def compile_report(record: Mapping[str, Any], modes: Sequence[str]) -> str:
    """What compiling takes and the program allocates: jaxdeconv's and lax's."""
    rows = []
    for case in record["cases"]:
        for mode in modes:
            each = case["modes"][mode]
            x, _, g = each["operand_bytes"]
            ours, lax = (each["compile"].get(name) for name in (OURS, "lax"))
            temporaries = [f"{found['temporary_bytes'] / 1e6:.2f}" if found else "-" for found in (ours, lax)]
            larger = f"{ours['temporary_bytes'] / max(x, g):.2f}" if ours else "-"
            times = [milliseconds(found["seconds"]) if found else "-" for found in (ours, lax)]
            rows.append([f"{case['layer']['name']} {mode}", *times, *temporaries, larger])
    headers = ["case", "compile jaxdeconv ms", "lax ms", "temporaries jaxdeconv MB", "lax MB", "jaxdeconv's / larger of x and y"]
    return f"## Compilation and temporaries\n\n{table(headers, rows)}"

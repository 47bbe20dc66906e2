"""Growth: how long one layer takes as its width, batch and channels double, each over three decades."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.compare import progress
from benchmarks.layers import LAYERS, Layer
from benchmarks.peers import MODES, build_jaxdeconv, operands
from benchmarks.tables import milliseconds, table
from benchmarks.timing import alternate, medians

BASE = next(layer for layer in LAYERS if layer.name == "hifigan.up3.b1")._replace(size=(256,))
"""A layer on which a doubling of anything by a thousand still takes less than a second."""

FIRST = {"width": 32, "batch": 1, "in_channels": 4, "out_channels": 4}
_DOUBLINGS = 10
_LARGEST = 2e10  # FLOPs of a forward pass, beyond which a sweep ends


def _with(layer: Layer, quantity: str, value: int) -> Layer:
    if quantity == "width":
        return layer._replace(size=(*layer.size[:-1], value))
    return layer._replace(**{quantity: value})


def scale(layer: Layer, dtype: str, rounds: int) -> dict[str, Any]:
    """The record: {"layer", "sweeps": {quantity: {"values", "forward": seconds, "train": seconds, "exponents"}}}."""
    sweeps: dict[str, Any] = {}
    for index, (quantity, first) in enumerate(FIRST.items()):
        start = time.perf_counter()
        candidates = [_with(layer, quantity, first << doubling) for doubling in range(_DOUBLINGS + 1)]
        points = [each for each in candidates if each.flops <= _LARGEST]
        times = [_times(each, dtype, rounds) for each in points]
        values = [first << doubling for doubling in range(len(points))]
        sweep = {"values": values} | {mode: [each[mode] for each in times] for mode in MODES}
        sweeps[quantity] = sweep | {"exponents": {mode: exponents(values, sweep[mode]) for mode in MODES}}
        progress(index, len(FIRST), f"{quantity} {values[0]} to {values[-1]} {time.perf_counter() - start:.1f} s")
    return {"layer": layer._asdict(), "sweeps": sweeps}


def _times(layer: Layer, dtype: str, rounds: int) -> dict[str, float]:
    peer = build_jaxdeconv(layer, dtype, *operands(layer))
    callables = {mode: getattr(peer, mode) for mode in MODES}
    for function in callables.values():
        function()
    return medians(alternate(callables, rounds))


def exponents(values: list[int], seconds: list[float]) -> list[float]:
    """The slope of log(seconds) over log(values) in each decade that holds more than one value, by least squares."""
    x, y = np.log10(values) - math.log10(values[0]), np.log10(seconds)
    decades = [(x >= low - 1e-9) & (x <= low + 1 + 0.02) for low in range(math.ceil(x[-1] - 0.02))]  # 2**10 is 1.02 of 10**3
    return [float(np.polyfit(x[each], y[each], 1)[0]) for each in decades if each.sum() > 1]


def report(record: Mapping[str, Any]) -> str:
    parts = []
    for quantity, sweep in record["sweeps"].items():
        rows = [[str(value), *(milliseconds(sweep[mode][index]) for mode in MODES)] for index, value in enumerate(sweep["values"])]
        fitted = "; ".join(f"{mode} {', '.join(f'{each:.2f}' for each in found)}" for mode, found in sweep["exponents"].items())
        parts.append(f"{table([quantity, *(f'{mode} ms' for mode in MODES)], rows)}\n\nExponent of each decade: {fitted}")
    return "\n\n".join(parts)

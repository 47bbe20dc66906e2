"""Every lowering and both gradients against numpy in float64, of every layer. Nothing is timed."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.compare import TOLERANCE, difference, progress
from benchmarks.layers import Layer
from benchmarks.lowerings import IMPLEMENTATIONS
from benchmarks.peers import operands, transposed, with_gradients
from benchmarks.tables import table

CHOSEN, FIRST = "chosen", "chosen, NCW"
CHECKED = (CHOSEN, FIRST, *IMPLEMENTATIONS)


def reference(layer: Layer, x: np.ndarray, w: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    """y, dx and dw: for each tap, one product of matrices a group."""
    rows = list(zip(layer.size, layer.strides, layer.kernel, layer.dilations, layer.padding, strict=True))
    before = [max(-lo, 0) for lo, _ in layer.padding]
    whole = [b + (n - 1) * s + (k - 1) * d + 1 + max(-hi, 0) for b, (n, s, k, d, (_, hi)) in zip(before, rows, strict=True)]
    kept = tuple(slice(b + lo, b + lo + size) for b, (lo, _), size in zip(before, layer.padding, layer.y_shape[1:-1], strict=True))
    y, uncropped = (np.zeros((layer.batch, *whole, layer.out_channels)) for _ in range(2))
    uncropped[:, *kept] = g

    def by_group(a: np.ndarray) -> np.ndarray:
        return a.reshape(-1, layer.groups, a.shape[-1] // layer.groups).swapaxes(0, 1)

    inputs, dx, dw = by_group(x), np.zeros(by_group(x).shape), np.zeros(w.shape)
    for tap in np.ndindex(*layer.kernel):
        starts = [b + j * d for b, j, d in zip(before, tap, layer.dilations, strict=True)]
        reached = tuple(
            slice(start, start + (n - 1) * s + 1, s) for start, n, s in zip(starts, layer.size, layer.strides, strict=True)
        )
        outputs, taps = by_group(uncropped[:, *reached]), by_group(w[tap])
        products = inputs @ taps.swapaxes(1, 2)
        y[:, *reached] += products.swapaxes(0, 1).reshape(layer.batch, *layer.size, -1)
        dx += outputs @ taps
        dw[tap] = (outputs.swapaxes(1, 2) @ inputs).swapaxes(0, 1).reshape(w[tap].shape)
    return {"y": y[:, *kept], "dx": dx.swapaxes(0, 1).reshape(x.shape), "dw": dw}


def check(layers: Sequence[Layer], dtype: str) -> dict[str, Any]:
    """The record: {"cases": [{"layer", "differences": {one of CHECKED: {"y", "dx", "dw"}}}, ...]}."""
    cases = []
    for index, layer in enumerate(layers):
        start = time.perf_counter()
        arguments = [jnp.asarray(each, dtype) for each in operands(layer)]
        expected = reference(layer, *(np.asarray(each, np.float64) for each in arguments))
        differences = {name: found for name in CHECKED if (found := _differences(layer, name, arguments, expected)) is not None}
        cases.append({"layer": layer._asdict(), "differences": differences})
        progress(index, len(layers), f"{layer.name} {time.perf_counter() - start:.1f} s")
    return {"cases": cases}


def _differences(
    layer: Layer, name: str, arguments: Sequence[jax.Array], expected: Mapping[str, np.ndarray]
) -> dict[str, float] | None:
    """Of y, dx and dw; None where this lowering does not do this layer."""
    x, w, g = arguments
    if name == FIRST:
        x, g = (jnp.moveaxis(each, -1, 1) for each in (x, g))
    implementation = None if name in (CHOSEN, FIRST) else name
    try:
        results = jax.jit(with_gradients(transposed(layer, name != FIRST, implementation=implementation)))(x, w, g)
    except ValueError:
        if implementation is None:
            raise
        return None
    y, dx, dw = (np.asarray(each, np.float64) for each in results)
    if name == FIRST:
        y, dx = (np.moveaxis(each, 1, -1) for each in (y, dx))
    return {key: difference(result, expected[key]) for key, result in (("y", y), ("dx", dx), ("dw", dw))}


def mismatches(record: Mapping[str, Any], dtype: str) -> list[str]:
    """A line for each result that is not that of numpy."""
    return [
        f"{case['layer']['name']}: {result} of {name} differs by {found:.1e} of the largest value"
        for case in record["cases"]
        for name, results in case["differences"].items()
        for result, found in results.items()
        if not found <= TOLERANCE[dtype]
    ]


def report(record: Mapping[str, Any]) -> str:
    """The largest difference of each, relative to the largest value of the result."""
    rows = [
        [
            case["layer"]["name"],
            *(f"{max(found.values()):.1e}" if (found := case["differences"].get(name)) else "-" for name in CHECKED),
        ]
        for case in record["cases"]
    ]
    return table(["case", *CHECKED], rows)

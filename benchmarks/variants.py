"""Two further questions of every layer: what channels first costs, and how long second derivatives take."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from benchmarks.compare import TOLERANCE, compare, difference, progress
from benchmarks.layers import Layer
from benchmarks.peers import build_jaxdeconv, build_lax, lax_transposed, operands, transposed
from benchmarks.tables import geometric_mean, milliseconds, ratio, table
from benchmarks.timing import alternate, medians

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


def _gradient_penalty(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The gradient, by x and w, of the squared norm of the gradient of a loss; the loss is half the squared norm of y."""

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return (function(x, w) ** 2).sum() / 2

    def penalty(x: jax.Array, w: jax.Array) -> jax.Array:
        return sum((each**2).sum() for each in jax.grad(loss, (0, 1))(x, w))

    return jax.grad(penalty, (0, 1))


def compare_second_order(layers: Sequence[Layer], dtype: str, rounds: int) -> dict[str, Any]:
    """The record: {"cases": [{"layer", "seconds": {"jaxdeconv", "lax"}, "samples", "difference"}, ...]}."""
    cases = []
    for index, layer in enumerate(layers):
        start = time.perf_counter()
        x, w, g = operands(layer)
        callables, gradients = {}, {}
        for name, build, function in (("jaxdeconv", build_jaxdeconv, transposed), ("lax", build_lax, lax_transposed)):
            peer = build(layer, dtype, x, w, g)
            jitted, arguments = jax.jit(_gradient_penalty(function(layer))), peer.jitted["forward"][1]
            gradients[name] = peer.activation(jitted(*arguments)[0])
            callables[name] = lambda jitted=jitted, arguments=arguments: jax.block_until_ready(jitted(*arguments))
        samples = alternate(callables, rounds)
        found = difference(gradients["lax"], gradients["jaxdeconv"])
        cases.append({"layer": layer._asdict(), "seconds": medians(samples), "samples": samples, "difference": found})
        progress(index, len(layers), f"{layer.name} {time.perf_counter() - start:.1f} s")
    return {"cases": cases}


def second_order_mismatches(record: Mapping[str, Any], dtype: str) -> list[str]:
    return [
        f"{case['layer']['name']}: lax differs by {case['difference']:.1e} of the largest value"
        for case in record["cases"]
        if not case["difference"] <= TOLERANCE[dtype]
    ]


def second_order_report(record: Mapping[str, Any]) -> str:
    rows, found = [], []
    for case in record["cases"]:
        seconds = case["seconds"]
        found.append(seconds["lax"] / seconds["jaxdeconv"])
        rows.append([case["layer"]["name"], *map(milliseconds, seconds.values()), ratio(found[-1]), f"{case['difference']:.1e}"])
    headers = ["case", "jaxdeconv ms", "lax ms", "lax / jaxdeconv", "difference by x"]
    mean = f"lax / jaxdeconv: geometric mean {ratio(geometric_mean(found))}, least {ratio(min(found))}"
    return f"{table(headers, rows)}\n\n{mean}"

"""What `jaxdeconv.accelerate` gains: a training step alone and four of them in a scan, and a forward pass.

Small models in Flax as they are, with their transposed layers replaced, and accelerated; or random layers, each as a transposed
convolution and as a strided one, by lax.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxdeconv
from benchmarks.compare import progress
from benchmarks.inside import STEPS, difference
from benchmarks.layers import Layer
from benchmarks.peers import lax_transposed
from benchmarks.tables import geometric_mean, milliseconds, ratio, table
from benchmarks.timing import alternate, medians

TOLERANCE = 1e-3  # of the largest value, after a step
Function = Callable[..., Any]


def scanned(step: Function) -> Function:
    return lambda state, x: lax.scan(lambda state, _: step(state, x), state, None, length=STEPS)


def measured(programs: dict[str, tuple[Function, tuple[Any, ...]]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each, and what they give; compiled, in alternation."""
    callables, results = {}, {}
    for name, (function, operands) in programs.items():
        compiled = jax.jit(function).lower(*operands).compile()
        results[name] = jax.block_until_ready(compiled(*operands))
        callables[name] = lambda compiled=compiled, operands=operands: jax.block_until_ready(compiled(*operands))
    return medians(alternate(callables, rounds)), results


def of_model(make: Callable[[Any], tuple[Any, ...]], rounds: int) -> dict[str, Any]:
    from flax import linen

    import jaxdeconv.linen

    step, parameters, x, forward = make(linen.ConvTranspose)
    swapped, _, _, swapped_forward = make(jaxdeconv.linen.ConvTranspose)
    steps = {"": step, "swapped ": swapped, "accelerated ": jaxdeconv.accelerate(step)}
    forwards = {"": forward, "swapped ": swapped_forward, "accelerated ": jaxdeconv.accelerate(forward)}
    programs = {f"{how}step": (each, (parameters, x)) for how, each in steps.items()}
    programs |= {f"{how}scan": (scanned(each), (parameters, x)) for how, each in steps.items()}
    programs |= {f"{how}forward": (each, (parameters, x)) for how, each in forwards.items()}
    seconds, results = measured(programs, rounds)
    differences = [difference(results[name], results[f"accelerated {name}"]) for name in ("step", "scan", "forward")]
    found = steps["accelerated "].explain(parameters, x)
    return {"seconds": seconds, "difference": max(differences), "replaced": len(found.replaced), "looked at": len(found.rows)}


def strided(layer: Layer) -> Function:
    """The convolution whose input gradient the layer is, of what the layer gives."""
    n = layer.ndim
    channels_last = (0, n + 1, *range(1, n + 1))
    numbers = lax.ConvDimensionNumbers(channels_last, (n + 1, n, *range(n)), channels_last)

    def function(y: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            y, w, layer.strides, layer.padding, (1,) * n, layer.dilations, numbers, feature_group_count=layer.groups
        )

    return function


def of_layer(layer: Layer, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kinds = {
        "transposed": (lax_transposed(layer), layer.x_shape, (*layer.kernel, layer.in_channels // layer.groups, layer.out_channels)),
        "strided": (strided(layer), layer.y_shape, layer.w_shape),
    }
    programs = {}
    for kind, (op, x_shape, w_shape) in kinds.items():
        x, w = (jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in (x_shape, w_shape))

        def step(both: Any, _: Any, op: Function = op) -> tuple[Any, jax.Array]:
            gradients = jax.grad(lambda both: jnp.mean(op(*both) ** 2))(both)
            return jax.tree.map(lambda a, b: a - 1e-3 * b, both, gradients), jnp.zeros(())

        def forward(both: Any, _: Any, op: Function = op) -> jax.Array:
            return op(*both)

        for name, function in {"step": step, "forward": forward}.items():
            programs[f"{kind} {name}"] = function, ((x, w), None)
            programs[f"accelerated {kind} {name}"] = jaxdeconv.accelerate(function), ((x, w), None)
        programs[f"{kind} scan"] = scanned(step), ((x, w), None)
        programs[f"accelerated {kind} scan"] = scanned(jaxdeconv.accelerate(step)), ((x, w), None)
    seconds, results = measured(programs, rounds)
    plain = [name for name in programs if not name.startswith("accelerated")]
    worst = max(difference(results[name], results[f"accelerated {name}"]) for name in plain)
    return {"layer": layer._asdict(), "seconds": seconds, "difference": worst}


def compare_accelerated(layers: Sequence[Layer] | None, rounds: int) -> dict[str, Any]:
    """The record: {"accelerate": {name: {"seconds", "difference", ...}}}, of models if there are no layers."""
    found = {}
    if layers is None:
        from benchmarks.models import MODELS

        for index, (name, make) in enumerate(MODELS.items()):
            found[name] = of_model(make, rounds)
            progress(index, len(MODELS), name)
    for index, layer in enumerate(layers or ()):
        found[layer.name] = of_layer(layer, rounds)
        progress(index, len(layers or ()), layer.name)
    return {"accelerate": found}


def accelerated_mismatches(record: dict[str, Any]) -> list[str]:
    return [
        f"{name}: accelerated, it differs by {each['difference']:.1e} of the largest value"
        for name, each in record["accelerate"].items()
        if not each["difference"] <= TOLERANCE
    ]


def accelerated_report(record: dict[str, Any]) -> str:
    found = record["accelerate"]
    return layers_report(list(found.values())) if record["random"] else models_report(found)


def models_report(found: dict[str, Any]) -> str:
    headers = ["model, ms", "step", "swapped", "accelerated", "4 in a scan", "swapped", "accelerated", "forward", "accelerated"]
    rows = []
    for name, each in found.items():
        seconds, row = each["seconds"], [name]
        for what in ("step", "scan", "forward"):
            row.append(milliseconds(seconds[what]))
            row += [milliseconds(seconds[f"{how} {what}"]) for how in ("swapped", "accelerated")[what == "forward" :]]
        rows.append(row)
    return table(headers, rows)


def layers_report(found: list[dict[str, Any]]) -> str:
    rows = []
    for kind in ("transposed", "strided"):
        for what in ("forward", "step", "scan"):
            ratios = [each["seconds"][f"{kind} {what}"] / each["seconds"][f"accelerated {kind} {what}"] for each in found]
            name = f"{kind}, {'4 steps in a scan' if what == 'scan' else what}"
            rows.append(
                [name, ratio(geometric_mean(ratios)), ratio(min(ratios)), ratio(max(ratios)), str(sum(each < 0.9 for each in ratios))]
            )
    return table(["lax / accelerated", "mean", "least", "most", "under 0.9x"], rows)

"""Every lowering of every contraction against the one that is chosen by default."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

import jaxdeconv
from benchmarks.compare import TOLERANCE, difference, progress
from benchmarks.layers import Layer
from benchmarks.peers import operands, transposed
from benchmarks.tables import geometric_mean, milliseconds, ratio, table
from benchmarks.timing import alternate, medians

CONTRACTIONS = {"T": "transpose", "C": "input_grad", "F": "filter_grad"}
IMPLEMENTATIONS: tuple[str, ...] = get_args(jaxdeconv.Implementation)


def contraction_of(letter: str, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """T, C or F alone, as functions of all of x, w and g: the forward pass of the gradients is dead code."""
    return {
        "T": lambda x, w, g: function(x, w),
        "C": lambda x, w, g: jax.vjp(lambda x: function(x, w), x)[1](g)[0],
        "F": lambda x, w, g: jax.vjp(lambda w: function(x, w), w)[1](g)[0],
    }[letter]


def compare_lowerings(layers: Sequence[Layer], dtype: str, rounds: int) -> dict[str, Any]:
    """The record: {"cases": [{"layer", "contraction", "seconds", "samples", "temporary_bytes", "differences", "chosen",
    "regret"}, ...]}; differences are from the first."""
    cases = []
    for index, layer in enumerate(layers):
        start = time.perf_counter()
        x, w, g = (jnp.asarray(each, dtype) for each in operands(layer))
        explained = jaxdeconv.explain(transposed(layer), x, w)
        for letter, contraction in CONTRACTIONS.items():
            chosen = explained.lowerings[contraction][jax.default_backend()]
            cases.append(_case(layer, letter, chosen, (x, w, g), rounds))
        progress(index, len(layers), f"{layer.name} {time.perf_counter() - start:.1f} s")
    return {"cases": cases}


def _case(layer: Layer, letter: str, chosen: str, arguments: tuple[jax.Array, ...], rounds: int) -> dict[str, Any]:
    callables, temporaries, differences = {}, {}, {}
    reference = None
    for name in IMPLEMENTATIONS:
        # A lowering that is named is refused where it cannot compute the other contractions; one that is chosen need not.
        function = jax.jit(contraction_of(letter, transposed(layer, implementation=None if name == chosen else name)))
        try:
            compiled = function.lower(*arguments).compile()
        except ValueError:  # this lowering does not do this layer
            continue
        temporaries[name] = compiled.memory_analysis().temp_size_in_bytes
        callables[name] = lambda function=function: jax.block_until_ready(function(*arguments))
        result = np.asarray(callables[name](), np.float64)
        reference = result if reference is None else reference
        differences[name] = difference(result, reference)
    samples = alternate(callables, rounds)
    seconds = medians(samples)
    return {
        "layer": layer._asdict(),
        "contraction": letter,
        "seconds": seconds,
        "samples": samples,
        "temporary_bytes": temporaries,
        "differences": differences,
        "chosen": chosen,
        "regret": seconds[chosen] / min(seconds.values()),
    }


def mismatches(record: Mapping[str, Any], dtype: str) -> list[str]:
    """A line for each lowering whose result is another than that of the first."""
    return [
        f"{case['layer']['name']} {case['contraction']}: {name} differs by {found:.1e} of the largest value"
        for case in record["cases"]
        for name, found in case["differences"].items()
        if not found <= TOLERANCE[dtype]
    ]


def report(record: Mapping[str, Any]) -> str:
    """The table, and what the choices cost against the best ones."""
    rows = [
        [
            case["layer"]["name"],
            case["contraction"],
            *(milliseconds(case["seconds"].get(name)) for name in IMPLEMENTATIONS),
            case["chosen"],
            ratio(case["regret"]),
        ]
        for case in record["cases"]
    ]
    lines = [table(["case", "", *(f"{name} ms" for name in IMPLEMENTATIONS), "chosen", "regret"], rows), ""]
    for letter in CONTRACTIONS:
        regrets = {case["layer"]["name"]: case["regret"] for case in record["cases"] if case["contraction"] == letter}
        worst = max(regrets, key=regrets.__getitem__)
        mean = geometric_mean(list(regrets.values()))
        lines.append(f"Regret of {letter}: geometric mean {mean:.3f}x, worst {ratio(regrets[worst])} ({worst})")
    mean = geometric_mean([case["regret"] for case in record["cases"]])
    return "\n".join([*lines, f"Regret of all: geometric mean {mean:.3f}x"])

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
from benchmarks.peers import channels_first, operands, transposed
from benchmarks.tables import geometric_mean, milliseconds, ratio, table
from benchmarks.timing import alternate, medians
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import candidates, unable
from jaxdeconv._lowerings._work import Sizes
from jaxdeconv._select import estimate

CONTRACTIONS = {"T": "transpose", "C": "input_grad", "F": "filter_grad"}
IMPLEMENTATIONS: tuple[str, ...] = get_args(jaxdeconv.Implementation)
MIXTURE = "mixture"  # the column of the fastest name that is a form for each dimension


def geometry_of(layer: Layer, channels_last: bool = True) -> Geometry:
    return Geometry(layer.kernel, layer.strides, layer.dilations, layer.padding, layer.groups, channels_last)


def names_of(layer: Layer) -> tuple[str, ...]:
    """All lowerings that compute it differently, mixtures too."""
    geometry = geometry_of(layer)
    inside = geometry.interior(layer.size)
    return candidates(geometry if inside is None else inside.geometry)


def columns(seconds: Mapping[str, float]) -> list[float | None]:
    """The time of each of IMPLEMENTATIONS and of the fastest mixture, None where there is none."""
    mixtures = [found for name, found in seconds.items() if name not in IMPLEMENTATIONS]
    return [*map(seconds.get, IMPLEMENTATIONS), min(mixtures, default=None)]


def contraction_of(letter: str, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """T, C or F alone, as functions of all of x, w and g: the forward pass of the gradients is dead code."""
    return {
        "T": lambda x, w, g: function(x, w),
        "C": lambda x, w, g: jax.vjp(lambda x: function(x, w), x)[1](g)[0],
        "F": lambda x, w, g: jax.vjp(lambda w: function(x, w), w)[1](g)[0],
    }[letter]


def compare_lowerings(layers: Sequence[Layer], dtype: str, rounds: int, channels_last: bool = True) -> dict[str, Any]:
    """The record: {"channels_last", "cases": [{"layer", "contraction", "seconds", "samples", "temporary_bytes", "differences",
    "chosen", "regret"}, ...]}; differences are from the first."""
    cases = []
    for index, layer in enumerate(layers):
        start = time.perf_counter()
        x, w, g = operands(layer)
        if not channels_last:
            x, g = channels_first(x), channels_first(g)
        x, w, g = (jnp.asarray(each, dtype) for each in (x, w, g))
        explained = jaxdeconv.explain(transposed(layer, channels_last), x, w)
        for letter, contraction in CONTRACTIONS.items():
            chosen = explained.lowerings[contraction][jax.default_backend()]
            cases.append(_case(layer, letter, chosen, (x, w, g), rounds, channels_last))
        progress(index, len(layers), f"{layer.name} {time.perf_counter() - start:.1f} s")
    return {"channels_last": channels_last, "cases": cases}


FAR = 20  # times the estimate of the choice, from which a lowering is not timed


def _near(layer: Layer, contraction: str, chosen: str, dtype: Any, channels_last: bool) -> list[str]:
    """The lowerings whose estimate is not far above that of the choice; XLA computes some by loops that take minutes."""
    platform = jax.default_backend()
    geometry = geometry_of(layer, channels_last)
    sizes = Sizes(geometry, layer.batch, layer.size, layer.in_channels, layer.out_channels, dtype.itemsize)
    names = dict.fromkeys((*names_of(layer), chosen))
    able = [name for name in names if unable(name, contraction, sizes) is None]
    most = FAR * estimate(chosen, contraction, sizes, platform)
    return [name for name in able if name == chosen or estimate(name, contraction, sizes, platform) < most]


def _case(
    layer: Layer, letter: str, chosen: str, arguments: tuple[jax.Array, ...], rounds: int, channels_last: bool
) -> dict[str, Any]:
    callables, temporaries, differences = {}, {}, {}
    reference = None
    for name in _near(layer, CONTRACTIONS[letter], chosen, arguments[0].dtype, channels_last):
        # A lowering that is named is refused where it cannot compute the other contractions; one that is chosen need not.
        function = jax.jit(contraction_of(letter, transposed(layer, channels_last, implementation=None if name == chosen else name)))
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


def regret_by_others(samples: Mapping[str, Sequence[float]], chosen: str) -> float:
    """The time of the choice over that of the lowering that was the fastest of the other rounds, in the geometric mean of the rounds.

    The least of several noisy times is less than any lowering takes, so the plain regret is too high, the more so the more there are.
    Of a single round it is all that is known.
    """
    ratios = []
    for index in range(min(map(len, samples.values()))):
        others = {name: min((*times[:index], *times[index + 1 :]), default=times[0]) for name, times in samples.items()}
        ratios.append(samples[chosen][index] / samples[min(others, key=others.__getitem__)][index])
    return geometric_mean(ratios)


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
            *map(milliseconds, columns(case["seconds"])),
            case["chosen"],
            ratio(case["regret"]),
        ]
        for case in record["cases"]
    ]
    lines = [table(["case", "", *(f"{name} ms" for name in (*IMPLEMENTATIONS, MIXTURE)), "chosen", "regret"], rows), ""]
    for letter in CONTRACTIONS:
        regrets = {case["layer"]["name"]: case["regret"] for case in record["cases"] if case["contraction"] == letter}
        worst = max(regrets, key=regrets.__getitem__)
        mean = geometric_mean(list(regrets.values()))
        crossed = [regret_by_others(case["samples"], case["chosen"]) for case in record["cases"] if case["contraction"] == letter]
        judged = f"by the other rounds {geometric_mean(crossed):.3f}x"
        lines.append(f"Regret of {letter}: geometric mean {mean:.3f}x, {judged}, worst {ratio(regrets[worst])} ({worst})")
    mean = geometric_mean([case["regret"] for case in record["cases"]])
    return "\n".join([*lines, f"Regret of all: geometric mean {mean:.3f}x"])

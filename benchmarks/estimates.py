"""What XLA's compiler for TPU estimates of every layer: `python -m benchmarks.estimates --help`. Needs libtpu, and no TPU.

Cycles of each contraction by each lowering that may be chosen, and of the whole programs: the output, and it with both gradients, by
the lowerings that are chosen, by each alone, and by lax and its autodiff. They are estimates of the compiler, not measurements; on a
machine with a TPU, `python -m benchmarks --lowerings` measures.

A program of one layer also pays for the order of its operands, which is given; inside a network it is XLA's to choose. With
--between, each program has an ordinary convolution before and after the layer, and what is printed is the whole of the three.
"""

import argparse
import datetime
import fnmatch
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

import jaxdeconv
from benchmarks.compiled import CHIPS, estimated_cycles, lower_for, mesh
from benchmarks.layers import LAYERS, QUICK, Layer, random_layers
from benchmarks.lowerings import CONTRACTIONS, contraction_of, geometry_of
from benchmarks.peers import lax_transposed, transposed, with_gradients
from benchmarks.tables import geometric_mean, ratio, table
from jaxdeconv._contractions import sizes_of
from jaxdeconv._lowerings._work import Contraction
from jaxdeconv._select import able

NAMED = ("dilated", "matmul")  # the whole programs by one name, beside those that are chosen
MOST_OF_LAX, MOST_REGRET = 1.05, 1.3
FLOPS = 2e9  # the most of a random layer
OUTSIDE = 8  # channels beyond the neighbours of a layer

Program: TypeAlias = tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]  # a function and the shapes of its arguments


def programs(layer: Layer, channels_last: bool = True, between: bool = False) -> dict[str, dict[str, Program]]:
    """What to compile, by what is computed and by what: {"T": {"dilated": ...}, "train": {"lax": ...}}."""

    def shaped(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if channels_last else (shape[0], shape[-1], *shape[1:-1])

    x, w, g = shaped(layer.x_shape), layer.w_shape, shaped(layer.y_shape)
    able = [name for name in NAMED if _is_able(layer, name)]
    ways = {"chosen": transposed(layer, channels_last)}
    ways |= {name: transposed(layer, channels_last, implementation=name) for name in able}
    if channels_last:
        ways["lax"] = _lax(layer)
    found: dict[str, dict[str, Program]] = {
        letter: {
            name: (contraction_of(letter, transposed(layer, channels_last, implementation=name)), (x, w, g))
            for name in names_for(layer, contraction, channels_last)
        }
        for letter, contraction in CONTRACTIONS.items()
    }
    found["forward"] = {name: (function, (x, w)) for name, function in ways.items()}
    found["train"] = {name: (with_gradients(function), (x, w, g)) for name, function in ways.items()}
    if between:
        found = {
            what: {name: _between(what, program) for name, program in each.items()} for what, each in found.items() if what != "train"
        }
        found["train"] = {name: _train_between(*program) for name, program in found["forward"].items()}
    return found


def names_for(layer: Layer, contraction: Contraction, channels_last: bool = True) -> list[str]:
    """What may be chosen, and can be named."""
    geometry = geometry_of(layer, channels_last)
    inside = geometry.interior(layer.size)
    sizes = sizes_of(layer.x_shape, layer.w_shape, replace(geometry, channels_last=True), inside, jnp.bfloat16)
    return [name for name in able(contraction, sizes, "tpu") if _is_able(layer, name)]


def _ordinary(x: jax.Array, w: jax.Array) -> jax.Array:
    letters = "DHW"[3 - (x.ndim - 2) :]
    spec = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_general_dilated(x, w, (1,) * (x.ndim - 2), "SAME", dimension_numbers=spec)


def _neighbour(shape: tuple[int, ...], inwards: bool) -> tuple[int, ...]:
    """The filter of an ordinary convolution before or after an activation: three taps of the first dimension."""
    channels = (OUTSIDE, shape[-1]) if inwards else (shape[-1], OUTSIDE)
    return (3, *(1 for _ in shape[2:-1]), *channels)


def _outer(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-1], OUTSIDE)


def _between(what: str, program: Program) -> Program:
    """The program with an ordinary convolution before each activation that it takes, and after the one that it gives."""
    function, shapes = program
    before = {"T": (0,), "C": (2,), "F": (0, 2), "forward": (0,)}[what]
    filters = [_neighbour(shapes[i], inwards=True) for i in before]
    if what != "F":
        result = jax.eval_shape(function, *(jax.ShapeDtypeStruct(shape, "bfloat16") for shape in shapes))
        filters.append(_neighbour(result.shape, inwards=False))

    def network(*arguments: jax.Array) -> jax.Array:
        inner, others = list(arguments[: len(shapes)]), list(arguments[len(shapes) :])
        for i in before:
            inner[i] = _ordinary(inner[i], others.pop(0))
        y = function(*inner)
        return _ordinary(y, others.pop()) if others else y

    return network, (*(_outer(shape) if i in before else shape for i, shape in enumerate(shapes)), *filters)


def _train_between(network: Callable[..., jax.Array], shapes: tuple[tuple[int, ...], ...]) -> Program:
    """The output of a network of three, and its gradients to x and the layer's filter."""
    result = jax.eval_shape(network, *(jax.ShapeDtypeStruct(shape, "bfloat16") for shape in shapes))

    def train(x: jax.Array, w: jax.Array, g: jax.Array, *filters: jax.Array) -> tuple[jax.Array, ...]:
        return with_gradients(lambda x, w: network(x, w, *filters))(x, w, g)

    return train, (*shapes[:2], result.shape, *shapes[2:])


def _lax(layer: Layer) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What lax makes of the same filter."""
    function = lax_transposed(layer)
    return lambda x, w: function(x, jaxdeconv.convert_filters(w, source="tf", target="lax", groups=layer.groups))


def _is_able(layer: Layer, name: str) -> bool:
    try:
        jax.eval_shape(
            transposed(layer, implementation=name), *(jax.ShapeDtypeStruct(s, "float32") for s in (layer.x_shape, layer.w_shape))
        )
    except ValueError:
        return False
    return True


def estimate(layer: Layer, dtype: str, chip: str, between: bool = False) -> dict[str, dict[str, int]]:
    """Cycles on one chip: {"T": {"dilated": ..., "matmul": ...}, ..., "train": {"chosen": ..., "lax": ...}}."""
    one = mesh(CHIPS[chip], 1)
    return {
        what: {by: estimated_cycles(lower_for(one, function, shapes, dtype).compile()) for by, (function, shapes) in each.items()}
        for what, each in programs(layer, between=between).items()
    }


def estimates(layers: Sequence[Layer], seconds: float, *how: Any) -> Iterator[tuple[Layer, dict[str, dict[str, int]] | str]]:
    """The cycles of each, or why they are not known. A process beside this one compiles, for that can be stopped."""
    beside = multiprocessing.get_context("spawn")
    pool = beside.Pool(1)
    for layer in layers:
        try:
            yield layer, pool.apply_async(estimate, (layer, *how)).get(seconds)
        except ValueError as error:  # a loop, whose cycles are not known
            yield layer, str(error)
        except multiprocessing.TimeoutError:
            pool.terminate()
            pool = beside.Pool(1)
            yield layer, f"its programs were not compiled in {seconds:g} s"
    pool.close()
    pool.join()


def choices(layer: Layer, dtype: str) -> dict[str, str]:
    """The lowering of each contraction on TPU."""
    x, w = (jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in (layer.x_shape, layer.w_shape))
    found = jaxdeconv.explain(transposed(layer), x, w).lowerings
    return {letter: found[contraction]["tpu"] for letter, contraction in CONTRACTIONS.items()}


def regret(cycles: Mapping[str, int]) -> float:
    """Of what is chosen, against the best of the lowerings by one name."""
    return cycles["chosen"] / min(cycles[name] for name in NAMED if name in cycles)


def report(record: Mapping[str, Any], shown: Sequence[str] | None = None) -> str:
    """The table of all layers or those shown, what the choices cost against the best ones, and how much more lax takes."""
    columns = [(mode, by) for mode in ("forward", "train") for by in ("chosen", *NAMED, "lax")]
    rows = [
        [case["layer"]["name"], "".join(name[0] for name in case["chosen"].values())]
        + [_thousands(case["cycles"][mode].get(by)) for mode, by in columns]
        for case in record["cases"]
        if shown is None or case["layer"]["name"] in shown
    ]
    return "\n".join(
        [table(["thousands of cycles", "TCF", *(f"{mode} {by}" for mode, by in columns)], rows), "", means(record["cases"])]
    )


def means(cases: Sequence[Mapping[str, Any]]) -> str:
    """What lax takes over what the choice takes, and what the choice of each contraction takes over the best that may be chosen."""
    rows = []
    for mode in ("forward", "train"):
        gains = [case["cycles"][mode]["lax"] / case["cycles"][mode]["chosen"] for case in cases]
        below = sum(gain < 1 / MOST_OF_LAX for gain in gains)
        rows.append([f"{mode}: lax / chosen", ratio(geometric_mean(gains)), ratio(min(gains)), ratio(max(gains)), str(below)])
    for letter in CONTRACTIONS:
        each = [(case["cycles"][letter], case["chosen"][letter]) for case in cases]
        regrets = [cycles[name] / min(cycles.values()) for cycles, name in each if name in cycles]
        above = sum(value > MOST_REGRET for value in regrets)
        rows.append(
            [f"{letter}: chosen / best", ratio(geometric_mean(regrets)), ratio(min(regrets)), ratio(max(regrets)), str(above)]
        )
    return table(["cycles", "mean", "least", "most", f"lax below {1 / MOST_OF_LAX:.2f}x, or choice above {MOST_REGRET}x"], rows)


def behind(cases: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str, float]]:
    """The layers for which lax takes fewer cycles than the choice, by more than a twentieth."""
    each = [
        (case, mode, case["cycles"][mode]["lax"] / case["cycles"][mode]["chosen"]) for case in cases for mode in ("forward", "train")
    ]
    return [found for found in each if found[2] < 1 / MOST_OF_LAX]


def _thousands(cycles: int | None) -> str:
    return "-" if cycles is None else f"{cycles / 1e3:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names or globs of layers (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few layers of every family")
    parser.add_argument("--random", type=int, metavar="N", help="instead of published layers, N random ones")
    parser.add_argument("--seed", type=int, default=0, help="of the random ones (default 0)")
    parser.add_argument("--between", action="store_true", help="each layer between two ordinary convolutions")
    parser.add_argument("--chip", choices=sorted(CHIPS), default="v5e")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS", help="leave layers out that compile for longer")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there")
    arguments = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        parser.error('needs libtpu: python -m pip install ".[tpu]"')
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the processes that compile, too
    jax.config.update("jax_platforms", "cpu")
    if arguments.random is not None and (arguments.random < 1 or arguments.cases or arguments.quick):
        parser.error("--random takes a positive number, and no cases")
    if not arguments.limit > 0:
        parser.error("--limit takes a positive number of seconds")
    globs = arguments.cases or ["*"]
    layers = [layer for layer in LAYERS if any(fnmatch.fnmatchcase(layer.name, glob) for glob in globs)]
    layers = [layer for layer in layers if layer.name in QUICK] if arguments.quick else layers
    layers = random_layers(arguments.random, arguments.seed, FLOPS) if arguments.random else layers
    if not layers:
        parser.error(f"no case {' '.join(arguments.cases)}; python -m benchmarks --list prints them")
    cases, left_out = [], []
    for layer, cycles in estimates(layers, arguments.limit, arguments.dtype, arguments.chip, arguments.between):
        if isinstance(cycles, str):
            print(f"{layer.name} is left out: {cycles}", file=sys.stderr, flush=True)
            left_out.append({"layer": layer._asdict(), "because": cycles})
            continue
        cases.append({"layer": layer._asdict(), "chosen": choices(layer, arguments.dtype), "cycles": cycles})
        print(f"{layer.name} {cycles['train']['lax'] / cycles['train']['chosen']:.2f}x", file=sys.stderr, flush=True)
    if not cases:
        print("no layer is left", file=sys.stderr)
        return 1
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    environment = {
        "chip": arguments.chip,
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    drawn = {"random": arguments.random, "seed": arguments.seed, "between": arguments.between}
    record = {"environment": environment, "dtype": arguments.dtype, **drawn, "cases": cases, "left out": left_out}
    print(report(record))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

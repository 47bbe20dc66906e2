"""What XLA's compiler for TPU estimates of every layer: `python -m benchmarks.estimates --help`. Needs libtpu, and no TPU.

Cycles of each contraction by each lowering that may be chosen, and of the whole programs: the output, and it with both gradients, by
the lowerings that are chosen, by each alone, and by lax and its autodiff. They are estimates of the compiler, not measurements; on a
machine with a TPU, `python -m benchmarks --lowerings` measures.
"""

import argparse
import datetime
import fnmatch
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

import jaxdeconv
from benchmarks.compiled import CHIPS, estimated_cycles, lower_for, mesh
from benchmarks.layers import LAYERS, QUICK, Layer
from benchmarks.lowerings import CONTRACTIONS, contraction_of
from benchmarks.peers import lax_transposed, transposed, with_gradients
from benchmarks.tables import geometric_mean, ratio, table

CANDIDATES = ("dilated", "matmul")  # of which one is chosen on TPU

Program: TypeAlias = tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]  # a function and the shapes of its arguments


def programs(layer: Layer, channels_last: bool = True) -> dict[str, dict[str, Program]]:
    """What to compile, by what is computed and by what: {"T": {"dilated": ...}, "train": {"lax": ...}}."""

    def shaped(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if channels_last else (shape[0], shape[-1], *shape[1:-1])

    x, w, g = shaped(layer.x_shape), layer.w_shape, shaped(layer.y_shape)
    able = [name for name in CANDIDATES if _is_able(layer, name)]
    named = {name: transposed(layer, channels_last, implementation=name) for name in able}
    chosen = transposed(layer, channels_last)
    found: dict[str, dict[str, Any]] = {
        letter: {name: (contraction_of(letter, function), (x, w, g)) for name, function in named.items()} for letter in CONTRACTIONS
    }
    found["forward"] = {"chosen": (chosen, (x, w))} | {name: (function, (x, w)) for name, function in named.items()}
    found["train"] = {"chosen": (with_gradients(chosen), (x, w, g))}
    found["train"] |= {name: (with_gradients(function), (x, w, g)) for name, function in named.items()}
    if channels_last:
        found["forward"]["lax"] = _lax(layer), (x, w)
        found["train"]["lax"] = with_gradients(_lax(layer)), (x, w, g)
    return found


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


def estimate(layer: Layer, dtype: str, chip: str) -> dict[str, dict[str, int]]:
    """Cycles on one chip: {"T": {"dilated": ..., "matmul": ...}, ..., "train": {"chosen": ..., "lax": ...}}."""
    one = mesh(CHIPS[chip], 1)
    return {
        what: {by: estimated_cycles(lower_for(one, function, shapes, dtype).compile()) for by, (function, shapes) in each.items()}
        for what, each in programs(layer).items()
    }


def choices(layer: Layer, dtype: str) -> dict[str, str]:
    """The lowering of each contraction on TPU."""
    x, w = (jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in (layer.x_shape, layer.w_shape))
    found = jaxdeconv.explain(transposed(layer), x, w).lowerings
    return {letter: found[contraction]["tpu"] for letter, contraction in CONTRACTIONS.items()}


def regret(cycles: Mapping[str, int]) -> float:
    """Of what is chosen, against the best of the lowerings by name."""
    return cycles["chosen"] / min(cycles[name] for name in CANDIDATES if name in cycles)


def report(record: Mapping[str, Any], shown: Sequence[str] | None = None) -> str:
    """The table of all layers or those shown, what the choices cost against the best ones, and how much more lax takes."""
    columns = [(mode, by) for mode in ("forward", "train") for by in ("chosen", *CANDIDATES, "lax")]
    rows = [
        [case["layer"], "".join(name[0] for name in case["chosen"].values())]
        + [_thousands(case["cycles"][mode].get(by)) for mode, by in columns]
        for case in record["cases"]
        if shown is None or case["layer"] in shown
    ]
    lines = [table(["thousands of cycles", "TCF", *(f"{mode} {by}" for mode, by in columns)], rows), ""]
    for mode in ("forward", "train"):
        each = {case["layer"]: case["cycles"][mode] for case in record["cases"]}
        regrets = {name: regret(cycles) for name, cycles in each.items()}
        gains = {name: cycles["lax"] / cycles["chosen"] for name, cycles in each.items()}
        worst, least = max(regrets, key=regrets.__getitem__), min(gains, key=gains.__getitem__)
        lines.append(
            f"- {mode}: {geometric_mean(list(regrets.values())):.3f}x the best lowering in the mean, "
            f"at most {ratio(regrets[worst])} ({worst}); "
            f"lax takes {ratio(geometric_mean(list(gains.values())))} in the mean, at least {ratio(gains[least])} ({least})"
        )
    return "\n".join(lines)


def _thousands(cycles: int | None) -> str:
    return "-" if cycles is None else f"{cycles / 1e3:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names or globs of layers (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few layers of every family")
    parser.add_argument("--chip", choices=sorted(CHIPS), default="v5e")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there")
    arguments = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        parser.error('needs libtpu: python -m pip install ".[tpu]"')
    jax.config.update("jax_platforms", "cpu")
    globs = arguments.cases or ["*"]
    layers = [layer for layer in LAYERS if any(fnmatch.fnmatchcase(layer.name, glob) for glob in globs)]
    layers = [layer for layer in layers if layer.name in QUICK] if arguments.quick else layers
    if not layers:
        parser.error(f"no case {' '.join(arguments.cases)}; python -m benchmarks --list prints them")
    cases = []
    for layer in layers:
        cycles = estimate(layer, arguments.dtype, arguments.chip)
        cases.append({"layer": layer.name, "chosen": choices(layer, arguments.dtype), "cycles": cycles})
        print(f"{layer.name} {cycles['train']['lax'] / cycles['train']['chosen']:.2f}x", file=sys.stderr, flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    environment = {
        "chip": arguments.chip,
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    record = {"environment": environment, "dtype": arguments.dtype, "cases": cases}
    print(report(record))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line of the benchmarks: `python -m benchmarks --help`."""

import argparse
import datetime
import fnmatch
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU, of which torch needs memory too

import jax

import jaxdeconv
from benchmarks import accelerate, check, compare, inside, lowerings, scaling, variants
from benchmarks.layers import INSIDE, LAYERS, QUICK, Layer, random_layers
from benchmarks.peers import CPU_ONLY, MODES, PEERS, missing, tf32

_PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu13",
    "numpy",
    "torch",
    "tensorflow",
    "tensorflow-cpu",
    "onnx",
    "onnxruntime",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Times jaxdeconv and other frameworks on published layers."
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names or globs of layers, as 'hifigan.*.b1' (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few layers of every family, 3 rounds")
    parser.add_argument("--list", action="store_true", help="print the layers and stop")
    parser.add_argument("--random", type=int, metavar="N", help="instead of published layers, N random ones")
    parser.add_argument("--seed", type=int, default=0, help="of the random ones (default 0)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32", "float64"), default="float32")
    parser.add_argument(
        "--precision",
        choices=("default", "highest"),
        default="default",
        help="of float32 on a GPU; highest: without TF32, in torch too",
    )
    parser.add_argument("--rounds", type=int, help="samples of each, of about 20 ms (default 9)")
    parser.add_argument(
        "--peers", type=_names, default=PEERS, help=f"comma-separated, of: {', '.join(PEERS)} (default: all installed)"
    )
    parser.add_argument("--mode", type=_names, default=MODES, help="comma-separated, of: forward, train (default: both)")
    parser.add_argument("--compile", action="store_true", help="also print compile times and temporaries")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the results there")
    parser.add_argument("--channels-first", action="store_true", help="of --lowerings: operands with channels first")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--lowerings", action="store_true", help="instead, every lowering of every contraction")
    what.add_argument(
        "--check", action="store_true", help="instead, results of every lowering against numpy; sets --precision highest"
    )
    what.add_argument("--scaling", action="store_true", help="instead, one layer as width, batch and channels double")
    what.add_argument("--layouts", action="store_true", help="instead, channels first against channels last")
    what.add_argument("--torch", action="store_true", help="instead, jaxdeconv.torch against torch, both in torch's layouts")
    what.add_argument("--inside", action="store_true", help="instead, inside programs: loops, both modes, higher orders")
    what.add_argument("--accelerate", action="store_true", help="instead, small models in Flax, as they are and accelerated")
    return parser


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def _check(parser: argparse.ArgumentParser, option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            parser.error(f"{option}: no {name!r}; there are {', '.join(known)}")


def _layers(parser: argparse.ArgumentParser, globs: Sequence[str], quick: bool) -> list[Layer]:
    for glob in globs:
        if not fnmatch.filter([layer.name for layer in LAYERS], glob):
            parser.error(f"no case {glob!r}; --list prints them")
    chosen = [layer for layer in LAYERS if not globs or any(fnmatch.fnmatchcase(layer.name, glob) for glob in globs)]
    return [layer for layer in chosen if layer.name in QUICK] if quick and not globs else chosen


def _check_plot(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.plot and (
        arguments.lowerings or arguments.check or arguments.layouts or arguments.torch or arguments.inside or arguments.accelerate
    ):
        parser.error("--plot draws the plain comparison and --scaling")
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib")


def _list() -> None:
    for layer in LAYERS:
        shapes = f"{list(layer.x_shape)} {list(layer.w_shape)} -> {list(layer.y_shape)}"
        print(f"{layer.name:22} {shapes:62} {layer.flops / 1e9:5.2f} GFLOP  {layer.source}")


def _environment() -> dict[str, Any]:
    """What the numbers depend on."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "versions": {"jaxdeconv": jaxdeconv.__version__} | {name: found for name in _PACKAGES if (found := version(name))},
        "python": platform.python_version(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "gpu": _gpu(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _gpu() -> str | None:
    """Name, driver, memory and power limit of what JAX computes on."""
    if jax.default_backend() != "gpu":
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _installed(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        if name in CPU_ONLY and jax.default_backend() != "cpu":
            print(f"{name} is left out: it is compared on CPU alone", file=sys.stderr)
        elif packages := missing(name):
            print(f"{name} is left out: {', '.join(packages)} cannot be imported", file=sys.stderr)
        else:
            found.append(name)
    return found


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.list:
        _list()
        return 0
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be positive")
    _check(parser, "--peers", arguments.peers, PEERS)
    _check(parser, "--mode", arguments.mode, MODES)
    if arguments.random is not None and (arguments.random < 1 or arguments.cases):
        parser.error("--random takes a positive number, and no cases")
    if arguments.random:
        # Inside programs, lax takes up to a thousand times as long.
        layers = random_layers(arguments.random, arguments.seed, 5e7 if arguments.inside or arguments.accelerate else 2e8)
    elif arguments.inside and not arguments.cases:
        layers = list(INSIDE)
    else:
        layers = _layers(parser, arguments.cases, arguments.quick)
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    _check_plot(parser, arguments)
    if (arguments.inside or arguments.accelerate) and arguments.dtype != "float32":
        parser.error("--inside and --accelerate are in float32")
    if arguments.accelerate and (arguments.cases or arguments.quick):
        parser.error("--accelerate takes no cases")
    if arguments.scaling and arguments.cases and (len(layers) > 1 or layers[0].groups > 1):
        parser.error("--scaling takes one case without groups")
    jax.config.update("jax_enable_x64", arguments.dtype == "float64")
    if arguments.check or arguments.precision == "highest":
        jax.config.update("jax_default_matmul_precision", "highest")
    environment = _environment()
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    accuracy = "tf32" if tf32(arguments.dtype) else arguments.dtype
    print(f"{environment['device']}, {environment['cpu']}, {environment['cores']} cores; {versions}; {accuracy}\n")

    record, status = _run(layers, arguments, rounds, accuracy)
    if arguments.json:
        settings = {"dtype": arguments.dtype, "accuracy": accuracy, "random": arguments.random, "seed": arguments.seed}
        arguments.json.write_text(json.dumps({"environment": environment} | settings | record, indent=1))
    return status


def _run(layers: Sequence[Layer], arguments: argparse.Namespace, rounds: int, accuracy: str) -> tuple[dict[str, Any], int]:
    """Measures and prints: the record, and the exit status."""
    dtype, modes, wrong = arguments.dtype, arguments.mode, []
    if arguments.lowerings:
        record = lowerings.compare_lowerings(layers, dtype, rounds, not arguments.channels_first)
        print(lowerings.report(record))
        wrong = lowerings.mismatches(record, accuracy)
    elif arguments.check:
        record = check.check(layers, dtype)
        print(check.report(record))
        wrong = check.mismatches(record, accuracy)
    elif arguments.scaling:
        record = scaling.scale(layers[0] if arguments.cases else scaling.BASE, dtype, rounds)
        print(scaling.report(record))
        if arguments.plot:
            importlib.import_module("benchmarks.plots").plot_scaling(record, MODES, arguments.plot)
    elif arguments.inside:
        record = inside.compare_inside(layers, rounds)
        print(inside.inside_report(record))
        wrong = inside.inside_mismatches(record, accuracy)
    elif arguments.accelerate:
        record = accelerate.compare_accelerated(layers if arguments.random else None, rounds)
        print(accelerate.accelerated_report(record))
        wrong = accelerate.accelerated_mismatches(record)
    elif arguments.layouts or arguments.torch:
        pair = variants.TORCH if arguments.torch else variants.LAYOUTS
        record = variants.compare_pair(layers, pair, dtype, modes, rounds)
        print(variants.pair_report(record, pair, modes))
        wrong = compare.mismatches(record, accuracy)
    else:
        names = _installed(arguments.peers)
        record = compare.compare(layers, names, dtype, modes, rounds)
        for mode in modes:
            print(compare.report(record, names, mode), end="\n\n")
        if arguments.compile:
            print(compare.compile_report(record, modes), end="\n\n")
        print(f"Matrix product: {record['matrix_rate'] / 1e9:.0f} GFLOP/s. {compare.worst_difference(record)}")
        wrong = compare.mismatches(record, accuracy)
        if arguments.plot:
            importlib.import_module("benchmarks.plots").plot_ratios(record, modes, arguments.plot)
    for line in wrong:
        print(f"MISMATCH {line}", file=sys.stderr)
    return record, 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

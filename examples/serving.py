"""Exports an upsampler once, for every platform, batch and length, and serves it where only jax is installed.

    python examples/serving.py                                      # exports, serves and compares; some 10 seconds on a core
    python examples/serving.py --export upsampler.jaxexport         # on the machine that has jaxdeconv
    python examples/serving.py --serve upsampler.jaxexport          # on one that has jax alone, of any platform named at export

Parameters are arguments of the exported function, not constants of it. They then stay out of the artifact, which is some kilobytes
and serves every checkpoint; the programs that are compiled for each size hold no copies of them; and there is a gradient with respect
to them, which the fine-tuning here takes. A checkpoint travels in a file of its own, an .npz beside the artifact.

The artifact holds T for cpu, cuda and tpu, each with the lowering that is chosen there, and with vjp_order=1 both gradients likewise.
Writing and reading it needs flatbuffers: python -m pip install "flatbuffers>=24", which the extra `test` has too.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

Params: TypeAlias = dict[str, jax.Array]

PLATFORMS = ("cpu", "cuda", "tpu")
CHANNELS, STRIDE, KERNEL = 8, 4, 12
REQUESTS = ((1, 16), (1, 100), (3, 77), (8, 32))  # batch, frames

# --- Where jaxdeconv is -----------------------------------------------------------------------------------------------------------


def init(key: jax.Array) -> Params:
    """Two layers that make 16 samples of a frame; filters in TensorFlow's layout."""
    first, second = jax.random.split(key)
    return {
        "hidden": 0.2 * jax.random.normal(first, (KERNEL, CHANNELS, CHANNELS), jnp.float32),
        "output": 0.2 * jax.random.normal(second, (KERNEL, 1, CHANNELS), jnp.float32),
    }


def upsample(params: Params, x: jax.Array) -> jax.Array:
    """[batch, frames, CHANNELS] -> [batch, 16 * frames]."""
    from jaxdeconv import conv1d_transpose  # here, so that the rest of this file runs without it

    hidden = jax.nn.leaky_relu(conv1d_transpose(x, params["hidden"], None, STRIDE), 0.1)
    return conv1d_transpose(hidden, params["output"], None, STRIDE)[:, :, 0]


def write(path: Path, params: Params) -> None:
    """The artifact, and the parameters beside it."""
    batch, frames = export.symbolic_shape("batch, frames")
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    x = jax.ShapeDtypeStruct((batch, frames, CHANNELS), jnp.float32)
    exported = export.export(jax.jit(upsample), platforms=PLATFORMS)(abstract, x)
    path.write_bytes(exported.serialize(vjp_order=1))
    np.savez(path.with_suffix(".npz"), **params)


# --- Where jax alone is -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[Callable[[Params, jax.Array], jax.Array], Params]:
    """The function, jitted, and its parameters. Imports nothing of jaxdeconv."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    print(f"{path.name}: {path.stat().st_size} bytes, for {', '.join(exported.platforms)}; input {exported.in_avals[-1].str_short()}")
    with np.load(path.with_suffix(".npz")) as arrays:
        return jax.jit(exported.call), {name: jnp.asarray(array) for name, array in arrays.items()}


def request(batch: int, frames: int) -> jax.Array:
    """What a client might send."""
    return jax.random.normal(jax.random.key(frames), (batch, frames, CHANNELS), jnp.float32)


def fine_tune(
    served: Callable[[Params, jax.Array], jax.Array], params: Params, x: jax.Array, wanted: jax.Array
) -> tuple[Params, Params]:
    """One step towards the wanted output, and the gradient it went along: of the artifact, by its own rules."""
    grads = jax.grad(lambda params: jnp.mean((served(params, x) - wanted) ** 2))(params)
    return jax.tree.map(lambda p, g: p - 0.02 * g, params, grads), grads


def serve(path: Path) -> None:
    """Answers requests of several sizes, of which each is compiled when it first comes, and fine-tunes."""
    served, params = read(path)
    for batch, frames in REQUESTS:
        answer = served(params, request(batch, frames))
        print(
            f"batch {batch}, {frames:3} frames -> {answer.shape[1]:4} samples, root mean square {jnp.sqrt(jnp.mean(answer**2)):.3f}"
        )
    x = request(*REQUESTS[-1])
    wanted = jnp.zeros_like(served(params, x))
    tuned, _ = fine_tune(served, params, x, wanted)
    before, after = (float(jnp.mean((served(each, x) - wanted) ** 2)) for each in (params, tuned))
    print(f"A step of fine-tuning takes the loss from {before:.4f} to {after:.4f}")


# --- Both, to compare -------------------------------------------------------------------------------------------------------------


def compare(path: Path) -> float:
    """The largest difference of what is served from what the model says, and of the gradients, relative to their largest values."""
    served, params = read(path)

    def difference(actual: jax.Array, expected: jax.Array) -> float:
        return float(jnp.max(jnp.abs(actual - expected)) / jnp.max(jnp.abs(expected)))

    largest = []
    for batch, frames in REQUESTS:
        x = request(batch, frames)
        largest.append(difference(served(params, x), upsample(params, x)))
        wanted = jnp.zeros((batch, 16 * frames), jnp.float32)
        gradients = [fine_tune(function, params, x, wanted)[1] for function in (served, upsample)]
        largest += jax.tree.leaves(jax.tree.map(difference, *gradients))
    return max(largest)


# --- The command line -------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Exports, serves, or both and compares."""
    parser = argparse.ArgumentParser(description="Exports an upsampler with symbolic sizes, serves and fine-tunes it.")
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="only write the artifact, and its parameters to the same name in .npz"
    )
    parser.add_argument("--serve", type=Path, metavar="FILE", help="only serve it; needs no jaxdeconv")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters (default: %(default)s)")
    args = parser.parse_args(arguments)
    if not importlib.util.find_spec("flatbuffers"):
        parser.exit(2, f"{parser.prog}: error: jax.export serialises with flatbuffers: python -m pip install 'flatbuffers>=24'\n")
    if args.serve and not args.serve.is_file():
        parser.exit(2, f"{parser.prog}: error: {args.serve} is not a file; write it with --export\n")

    with tempfile.TemporaryDirectory() as directory:
        path = args.serve or args.export or Path(directory) / "upsampler.jaxexport"
        if not args.serve:
            write(path, init(jax.random.key(args.seed)))
        if args.serve or not args.export:
            serve(path)
        if not (args.serve or args.export):
            difference = compare(path)
            print(f"Largest relative difference of outputs and gradients from the model: {difference:.1e}")
            if not difference < 1e-4:
                sys.exit("The artifact is not the model")


if __name__ == "__main__":
    main()

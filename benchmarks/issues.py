"""The two reports that the library answers, as scripts of our own: `python -m benchmarks.issues`.

jax #31662: the gradient by the parameters of an equinox ConvTranspose of three dimensions, per sample by vmap, in bfloat16. Reported
per iteration: 48.6 ms on an RTX 5060 Ti, and 1.9 ms by torch.

jax #23783: conv_transpose of one dimension against the convolution that it is the adjoint of, and against torch. Reported per
iteration: 13.5 s on an M1, torch 2.3 ms; 13.5 ms on an RTX 4090, torch 0.03 ms. The sizes are a stand-in, an inverse STFT of 500
frames, whose cost agrees with these times; the notebook that has them is not at hand.

"Before" is what lax, flax and equinox compute, differentiated by JAX; "after" is jaxdeconv.
"""

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdeconv.torch
from benchmarks.layers import LAYERS, Layer
from benchmarks.peers import missing, operands
from benchmarks.tables import milliseconds, ratio, table
from benchmarks.timing import alternate, medians

Functions = dict[str, Callable[[], Any]]


def _layer(name: str) -> Layer:
    return next(layer for layer in LAYERS if layer.name == name)


def _lax(x: jax.Array, w: jax.Array, layer: Layer) -> jax.Array:
    """Channels first as in equinox, w being torch's [I, O, *k]."""
    letters = "DHW"[-layer.ndim :]
    return jax.lax.conv_general_dilated(
        x,
        jnp.flip(w, tuple(range(2, w.ndim))),
        window_strides=(1,) * layer.ndim,
        padding=[(k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(layer.kernel, layer.padding, strict=True)],
        lhs_dilation=layer.strides,
        dimension_numbers=(f"NC{letters}", f"IO{letters}", f"NC{letters}"),
    )


def _arrays(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """x and w in torch's layouts."""
    x, w, _ = operands(layer)
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)), np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))


def issue_31662(dtype: str, torch: Any) -> Functions:
    """Per-sample gradients of the mean of the output by weight and bias."""
    layer = _layer("jax31662.b1")
    arrays = _arrays(layer)
    x, w = (jnp.asarray(each, dtype) for each in arrays)
    b = jnp.zeros(layer.out_channels, dtype)

    def before(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        return _lax(x, w, layer) + b[:, None, None, None]

    def after(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        return jaxdeconv.torch.conv_transpose3d(x, w, b, stride=2, padding=1, output_padding=1)

    def gradients(function: Callable[..., jax.Array]) -> Callable[[], Any]:
        def loss(parameters: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
            return function(x[None], *parameters).mean()

        jitted = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
        return lambda: jax.block_until_ready(jitted((w, b), x))

    functions = {"before": gradients(before), "after": gradients(after)}
    if torch is not None:
        tx, tw = (torch.from_numpy(each).to(getattr(torch, dtype)) for each in arrays)
        tb = torch.zeros(layer.out_channels, dtype=tw.dtype)
        parameters = [each.requires_grad_() for each in (tw, tb)]

        def torch_gradients() -> Any:
            y = torch.nn.functional.conv_transpose3d(tx, *parameters, stride=2, padding=1, output_padding=1)
            return torch.autograd.grad(y.mean(), parameters)

        functions["torch"] = torch_gradients
    return functions


def issue_23783(dtype: str, torch: Any) -> Functions:
    """The forward pass alone."""
    layer = _layer("istft.b1")
    arrays = _arrays(layer)
    x, w = (jnp.asarray(each, dtype) for each in arrays)
    before = jax.jit(lambda x, w: _lax(x, w, layer))
    after = jax.jit(lambda x, w: jaxdeconv.torch.conv_transpose1d(x, w, stride=layer.strides))
    functions = {"before": lambda: before(x, w).block_until_ready(), "after": lambda: after(x, w).block_until_ready()}
    if torch is not None:
        tx, tw = (torch.from_numpy(each).to(getattr(torch, dtype)) for each in arrays)
        functions["torch"] = lambda: torch.nn.functional.conv_transpose1d(tx, tw, stride=layer.strides)
    return functions


CASES = {
    "#31662 gradients, bfloat16": (issue_31662, "bfloat16"),
    "#31662 gradients, float32": (issue_31662, "float32"),
    "#23783 forward, float32": (issue_23783, "float32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.issues", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5, help="samples of each (default 5)")
    rounds = parser.parse_args().rounds
    torch = None if missing("torch") else importlib.import_module("torch")
    if torch is None or jax.default_backend() != "cpu":
        print("torch is left out: it is not installed, or the device of jax is not the CPU")
        torch = None
    rows = []
    for name, (build, dtype) in CASES.items():
        functions = build(dtype, torch)
        for function in functions.values():
            function()
        seconds = medians(alternate(functions, rounds))
        times = [milliseconds(seconds.get(each)) for each in ("before", "after", "torch")]
        rows.append([name, *times, ratio(seconds["before"] / seconds["after"])])
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}\n")
    print(table(["jax issue", "before ms", "after ms", "torch ms", "before / after"], rows))


if __name__ == "__main__":
    main()

"""What replacing the import of a layer gains: `python -m benchmarks.drop_in`, with the extra `layers`.

Each framework's own layer against this package's of the same name and parameters, under `jax.jit`: the output, and the output with
the gradients of parameters and input. Both get the same parameters, and their results must agree.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.layers import LAYERS, Layer
from benchmarks.tables import milliseconds, ratio, table
from benchmarks.timing import alternate, medians

NAMES = ("hifigan.up1.b1", "hifigan.up3.b1", "encodec.up2.b1", "dac.up1.b1", "dcgan.up4.b16", "cyclegan.up1.b1", "unet3d.k3.b1")
Pure = tuple[Callable[[Any, jax.Array], jax.Array], Any]  # of parameters and x, and the parameters


def _lax_pads(layer: Layer) -> list[tuple[int, int]]:
    return [(k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(layer.kernel, layer.padding, strict=True)]


def nnx(layer: Layer, ours: bool, x: jax.Array) -> Pure:
    from flax import nnx

    import jaxdeconv.nnx

    make = jaxdeconv.nnx.ConvTranspose if ours else nnx.ConvTranspose
    sizes = layer.in_channels, layer.out_channels, layer.kernel, layer.strides
    definition, state = nnx.split(make(*sizes, padding=_lax_pads(layer), rngs=nnx.Rngs(0)))
    return lambda state, x: nnx.merge(definition, state)(x), state


def linen(layer: Layer, ours: bool, x: jax.Array) -> Pure:
    from flax import linen

    import jaxdeconv.linen

    make = jaxdeconv.linen.ConvTranspose if ours else linen.ConvTranspose
    module = make(layer.out_channels, layer.kernel, layer.strides, padding=_lax_pads(layer))
    return module.apply, module.init(jax.random.key(0), x)


def eqx(layer: Layer, ours: bool, x: jax.Array) -> Pure:
    import equinox

    import jaxdeconv.eqx

    make = jaxdeconv.eqx.ConvTranspose if ours else equinox.nn.ConvTranspose
    sizes = layer.ndim, layer.in_channels, layer.out_channels, layer.kernel, layer.strides
    leaves, structure = jax.tree.flatten(make(*sizes, padding=layer.padding, key=jax.random.key(0)))

    def apply(leaves: Any, x: jax.Array) -> jax.Array:
        y = jax.vmap(jax.tree.unflatten(structure, leaves))(jnp.moveaxis(x, -1, 1))
        return jnp.moveaxis(y, 1, -1)

    return apply, leaves


def haiku(layer: Layer, ours: bool, x: jax.Array) -> Pure:
    import haiku as hk

    import jaxdeconv.haiku

    make = jaxdeconv.haiku.ConvNDTranspose if ours else hk.ConvNDTranspose
    sizes = layer.ndim, layer.out_channels, layer.kernel, layer.strides
    module = hk.without_apply_rng(hk.transform(lambda x: make(*sizes, padding=_lax_pads(layer))(x)))
    return module.apply, module.init(jax.random.key(0), x)


FRAMEWORKS = {"Flax NNX": nnx, "Flax Linen": linen, "Equinox": eqx, "Haiku": haiku}
_NEEDS = {"Flax NNX": "flax", "Flax Linen": "flax", "Equinox": "equinox", "Haiku": "haiku"}


def modes(function: Callable[..., jax.Array], parameters: Any, x: jax.Array) -> dict[str, Callable[[], Any]]:
    """Compiled callables that wait for what they compute."""

    def train(parameters: Any, x: jax.Array) -> Any:
        y, vjp = jax.vjp(function, parameters, x)
        return y, vjp(jnp.ones_like(y))

    forward, train = jax.jit(function), jax.jit(train)
    return {
        "forward": lambda: jax.block_until_ready(forward(parameters, x)),
        "train": lambda: jax.block_until_ready(train(parameters, x)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drop_in", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("cases", nargs="*", default=NAMES, help=f"names of layers (default {', '.join(NAMES)})")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each (default 7)")
    arguments = parser.parse_args()
    known = {layer.name: layer for layer in LAYERS}
    if unknown := [name for name in arguments.cases if name not in known]:
        parser.error(f"no layer is called {unknown[0]}; python -m benchmarks --list names them")
    rows = []
    for name in arguments.cases:
        layer = known[name]
        x = jnp.asarray(np.random.default_rng(0).standard_normal(layer.x_shape, np.float32))
        for framework, build in FRAMEWORKS.items():
            if importlib.util.find_spec(_NEEDS[framework]) is None:
                continue
            made = {"own": build(layer, False, x), "ours": build(layer, True, x)}
            made["ours"] = made["ours"][0], made["own"][1]  # the framework's own parameters
            callables = {f"{mode} {which}": call for which, pure in made.items() for mode, call in modes(*pure, x).items()}
            for mode in ("forward", "train"):
                jax.tree.map(
                    partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-2), callables[f"{mode} ours"](), callables[f"{mode} own"]()
                )
            seconds = medians(alternate(callables, arguments.rounds))
            row = [name, framework]
            for mode in ("forward", "train"):
                own, ours = seconds[f"{mode} own"], seconds[f"{mode} ours"]
                row += [milliseconds(own), milliseconds(ours), ratio(own / ours)]
            rows.append(row)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}\n")
    print(table(["layer", "of", "its own ms", "ours ms", "gain", "with gradients: its own ms", "ours ms", "gain"], rows))


if __name__ == "__main__":
    main()

"""Small models in the style of published ones, in Flax Linen, as training steps; each with a transposed layer to be chosen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]  # of parameters and inputs: new parameters, and a loss


def _descent(parameters: Any, gradients: Any) -> Any:
    return jax.tree.map(lambda a, b: a - 1e-4 * b, parameters, gradients)


class Generator(nn.Module):
    """Noise [batch, 64] to images [batch, 32, 32, 3]."""

    transposed: Any

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = z[:, None, None]
        for features, stride, padding in ((256, 1, "VALID"), (128, 2, "SAME"), (64, 2, "SAME")):
            x = self.transposed(features, (4, 4), (stride, stride), padding=padding, use_bias=False)(x)
            x = nn.relu(nn.LayerNorm()(x))
        return jnp.tanh(self.transposed(3, (4, 4), (2, 2), padding="SAME")(x))


class Discriminator(nn.Module):
    """Images to a number each."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in (64, 128, 256):
            x = nn.leaky_relu(nn.Conv(features, (4, 4), (2, 2))(x), 0.2)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))


def dcgan(transposed: Any) -> tuple[Step, Any, jax.Array, Callable[..., Any]]:
    """Both networks, images of 32 by 32."""
    generator, discriminator = Generator(transposed), Discriminator()
    z = jax.random.normal(jax.random.key(0), (16, 64))
    of_generator = generator.init(jax.random.key(1), z)
    images = generator.apply(of_generator, z)
    of_discriminator = discriminator.init(jax.random.key(2), images)

    def step(parameters, z):
        ours, theirs = parameters

        def judged(theirs):
            real, fake = discriminator.apply(theirs, images), discriminator.apply(theirs, generator.apply(ours, z))
            return jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake))

        def deceived(ours):
            return jnp.mean(jax.nn.softplus(-discriminator.apply(theirs, generator.apply(ours, z))))

        first, of_theirs = jax.value_and_grad(judged)(theirs)
        second, of_ours = jax.value_and_grad(deceived)(ours)
        return (_descent(ours, of_ours), _descent(theirs, of_theirs)), first + second

    return step, (of_generator, of_discriminator), z, lambda parameters, z: generator.apply(parameters[0], z)


class Vocoder(nn.Module):
    """Features [batch, frames, 80] to samples [batch, 128 * frames, 1]."""

    transposed: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(128, (7,))(x)
        for features, k, s in ((64, 16, 8), (32, 16, 8), (16, 4, 2)):
            x = self.transposed(features, (k,), (s,))(nn.leaky_relu(x, 0.1))
            for dilation in (1, 3):
                x = x + nn.Conv(features, (3,), kernel_dilation=dilation)(nn.leaky_relu(x, 0.1))
        return jnp.tanh(nn.Conv(1, (7,))(x))


class UNet(nn.Module):
    """In any number of dimensions."""

    transposed: Any
    features: tuple[int, ...]
    k: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, kept = x.ndim - 2, []
        for features in self.features:
            x = nn.relu(nn.Conv(features, (3,) * n)(x))
            kept.append(x)
            x = nn.relu(nn.Conv(2 * features, (self.k,) * n, (2,) * n)(x))
        for features in reversed(self.features):
            x = self.transposed(features, (self.k,) * n, (2,) * n)(x)
            x = nn.relu(nn.Conv(features, (3,) * n)(jnp.concatenate([x, kept.pop()], -1)))
        return nn.Conv(1, (1,) * n)(x)


class ResNet(nn.Module):
    """Without a transposed layer: strided ones alone."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(32, (7, 7), (2, 2))(x))
        for features in (32, 64, 128):
            y = nn.relu(nn.Conv(features, (3, 3), (2, 2))(x))
            x = nn.relu(nn.Conv(features, (3, 3))(y) + nn.Conv(features, (1, 1), (2, 2))(x))
        return nn.Dense(10)(x.mean((1, 2)))


def _regression(module: nn.Module, shape: tuple[int, ...]) -> tuple[Step, Any, jax.Array, Callable[..., Any]]:
    x = jax.random.normal(jax.random.key(0), shape)
    parameters = module.init(jax.random.key(1), x)

    def step(parameters, x):
        loss, gradients = jax.value_and_grad(lambda parameters: jnp.mean((module.apply(parameters, x) - 0.5) ** 2))(parameters)
        return _descent(parameters, gradients), loss

    return step, parameters, x, module.apply


MODELS: dict[str, Callable[[Any], tuple[Step, Any, jax.Array, Callable[..., Any]]]] = {
    "DCGAN, both networks": dcgan,
    "vocoder, 8 8 2": lambda transposed: _regression(Vocoder(transposed), (2, 64, 80)),
    "U-Net in 1-D, k 4": lambda transposed: _regression(UNet(transposed, (16, 32, 64), 4), (4, 1024, 2)),
    "U-Net in 2-D, k 4": lambda transposed: _regression(UNet(transposed, (16, 32, 64), 4), (4, 64, 64, 3)),
    "U-Net in 3-D, k 2": lambda transposed: _regression(UNet(transposed, (8, 16, 32), 2), (1, 16, 32, 32, 1)),
    "ResNet": lambda _: _regression(ResNet(), (8, 96, 96, 3)),
}

"""`equinox.nn.ConvTranspose` and its 1d, 2d and 3d on this package's transposed convolution: the same fields, leaves and numbers."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options, lax
from jaxdeconv._call import biased
from jaxdeconv._canonicalize import error
from jaxdeconv._geometry import effective_kernel

try:
    import equinox
except ImportError as cause:
    raise canonicalize.missing("jaxdeconv.eqx needs equinox", extra="layers") from cause

Model = TypeVar("Model")


class ConvTranspose(equinox.nn.ConvTranspose):
    """Transposed convolution as an Equinox layer, instead of `equinox.nn.ConvTranspose`.

    Constructor, fields, leaves and initial values are those of `equinox.nn.ConvTranspose`, groups, output_padding and
    `padding_mode="CIRCULAR"` included, so that what `equinox.tree_serialise_leaves` wrote of it loads here, and gives the same
    numbers faster. Per dimension, with the padding (p, q) of the convolution that it is the transpose of, and output_padding a,

        y = full[p : full - q + a]        L = (W-1)*s + ke - p - q + a

    Two keywords more, both static: implementation, the lowering to use, one of `jaxdeconv.Implementation`, None to have it chosen;
    and forward_mode, whether to allow forward mode (`jax.jvp`).

    Raises:
        ValueError: on a call, a shape that does not fit.
        TypeError: an input of another dtype than the weight.

    Gradients:
        As those of `jaxdeconv.lax.conv_transpose`.

    References:
        `equinox.nn.ConvTranspose`, Equinox 0.13.

    Examples:
        >>> import jax
        >>> from jaxdeconv.eqx import ConvTranspose1d
        >>> layer = ConvTranspose1d(512, 256, kernel_size=16, stride=8, padding=4, key=jax.random.key(0))
        >>> layer(jax.numpy.ones((512, 80))).shape
        (256, 640)
    """

    implementation: str | None = equinox.field(static=True)
    forward_mode: bool | None = equinox.field(static=True)

    def __init__(self, *arguments: Any, implementation: str | None = None, forward_mode: bool | None = None, **keywords: Any) -> None:
        given = inspect.signature(super().__init__).bind(*arguments, **keywords).arguments
        numbers = ("in_channels", "out_channels", "kernel_size", "stride", "output_padding", "dilation", "groups")
        canonicalize.all_integers("ConvTranspose", given, *numbers)
        super().__init__(*arguments, **keywords)
        self.implementation, self.forward_mode = implementation, forward_mode

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        """`[I, *W]` -> `[O, *L]`; `jax.vmap` adds a batch. key is not used."""
        del key
        n, function = self.num_spatial_dims, "ConvTranspose"
        if x.ndim != n + 1:
            rule = f"x must have rank {n + 1}, channels and {n} spatial dimensions"
            raise error(ValueError, function, rule, "x.shape", x.shape, "map over a batch with jax.vmap")
        if x.shape[0] != self.in_channels:
            rule = f"x must have {self.in_channels} channels, in_channels of the layer"
            raise error(ValueError, function, rule, "x.shape", x.shape, "channels are the first axis")
        pads = self._lax_pads()
        if self.padding_mode == "CIRCULAR":
            # Whole input samples of padding come from the other end; only less than a stride of it is zeros.
            x = jnp.pad(x, [(0, 0), *((lo // s, hi // s) for (lo, hi), s in zip(pads, self.stride, strict=True))], mode="wrap")
            pads = [(lo % s, hi % s) for (lo, hi), s in zip(pads, self.stride, strict=True)]
        channels_first = tuple(range(n + 2))
        numbers = jax.lax.ConvDimensionNumbers(channels_first, channels_first, channels_first)
        y = lax.conv_transpose(
            x[None],
            self.weight,
            self.stride,
            pads,
            self.dilation,
            numbers,
            feature_group_count=self.groups,
            implementation=self.implementation,
            forward_mode=self.forward_mode,
        )[0]
        return biased(y, self.bias, 0)

    def _lax_pads(self) -> list[tuple[int, int]]:
        """(lo, hi) of each dimension, what the input is padded with once it is spread by its stride."""
        pads = []
        for index, (k, s, d, a) in enumerate(zip(self.kernel_size, self.stride, self.dilation, self.output_padding, strict=True)):
            ke = effective_kernel(k, d)
            if self.padding in ("SAME", "SAME_LOWER"):
                cropped = ke - s + a  # the output has W*s - a samples
                p = (max(cropped, 0) + (self.padding == "SAME_LOWER")) // 2
                q = cropped - p
            else:
                p, q = (0, 0) if self.padding == "VALID" else self.padding[index]
                q -= a
            pads.append((ke - 1 - p, ke - 1 - q))
        return pads


class ConvTranspose1d(ConvTranspose, equinox.nn.ConvTranspose1d):
    """`ConvTranspose` of one dimension, instead of `equinox.nn.ConvTranspose1d`."""


class ConvTranspose2d(ConvTranspose, equinox.nn.ConvTranspose2d):
    """`ConvTranspose` of two dimensions, instead of `equinox.nn.ConvTranspose2d`."""


class ConvTranspose3d(ConvTranspose, equinox.nn.ConvTranspose3d):
    """`ConvTranspose` of three dimensions, instead of `equinox.nn.ConvTranspose3d`."""


_OURS = {getattr(equinox.nn, ours.__name__): ours for ours in (ConvTranspose, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)}


def replace(model: Model, *, implementation: str | None = None, forward_mode: bool | None = None) -> Model:
    """The model with every transposed layer of Equinox's own as one of this package.

    A new pytree with the leaves of model, the very same arrays, and with Equinox's `ConvTranspose`, `ConvTranspose1d`, `2d` and `3d`
    as the classes of this module; model stays as it is. So its numbers are those of model, and other leaves of model, such as
    gradients, fit it after `replace` as well. Layers of other classes, subclasses of these among them, and layers of this package are
    left as they are.

    Args:
        model: an Equinox module, a layer itself too, or a pytree with such in it.
        implementation: that of the layers that are replaced.
        forward_mode: that of the layers that are replaced.

    Returns:
        A pytree of the form of model.

    Raises:
        TypeError: no Equinox module in model.
        ValueError: no such implementation.

    Examples:
        >>> import equinox as eqx
        >>> import jax
        >>> import jaxdeconv.eqx
        >>> model = eqx.nn.Sequential([eqx.nn.ConvTranspose1d(8, 4, 4, 2, key=jax.random.key(0)), eqx.nn.Lambda(jax.nn.relu)])
        >>> type(jaxdeconv.eqx.replace(model)[0])
        <class 'jaxdeconv.eqx.ConvTranspose1d'>
    """
    _options.how("replace", implementation, forward_mode)
    if not any(isinstance(node, equinox.Module) for node in jax.tree.leaves(model, is_leaf=lambda n: isinstance(n, equinox.Module))):
        advice = "pass the model itself, or a list or dict of models"
        raise error(TypeError, "replace", "model must have an Equinox module in it", "model", model, advice)

    def replaced(node: Any) -> Any:
        if type(node) not in _OURS:
            return node
        ours = object.__new__(_OURS[type(node)])  # as Equinox unflattens modules: whatever stands for the leaves, it is kept
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        for name, value in (fields | {"implementation": implementation, "forward_mode": forward_mode}).items():
            object.__setattr__(ours, name, value)
        return ours

    result: Model = jax.tree.map(replaced, model, is_leaf=lambda node: type(node) in _OURS)
    return result

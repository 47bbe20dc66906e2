"""`flax.nnx.ConvTranspose` on this package's transposed convolution: the same constructor, parameters, state and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._canonicalize import error
from jaxdeconv._flax import FUNCTION, conv_transpose

try:
    from flax import nnx
except ImportError as cause:
    raise canonicalize.missing("jaxdeconv.nnx needs flax", extra="layers") from cause

Model = TypeVar("Model")


class ConvTranspose(nnx.ConvTranspose):
    """Transposed convolution as a Flax NNX layer, instead of `flax.nnx.ConvTranspose`.

    All arguments, parameters and initial values are those of `flax.nnx.ConvTranspose`, so that its state and checkpoints load into
    this layer, and give the same numbers faster. "CAUSAL" padding, which Flax documents and refuses, works: with stride s it keeps
    the first W*s samples, of which sample m depends on inputs up to m // s.

    Args:
        in_features: I.
        out_features: O.
        kernel_size: k, an int or one for each spatial dimension, whose number it sets.
        strides: s >= 1, an int or one for each spatial dimension; None for 1.
        feature_group_count: the number of groups G; the kernel is `[*k, I / G, O]`, or `[*k, O / G, I]` for transpose_kernel.
        output_padding: samples that the output has more at its end, an int or one for each spatial dimension.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to have it chosen.
        forward_mode: whether to allow forward mode (`jax.jvp`); None for what `jaxdeconv.defaults` says.
        rngs: as for Flax.
        **keywords: the other arguments of `flax.nnx.ConvTranspose`: padding, kernel_dilation, use_bias, mask, dtype, param_dtype,
            precision, kernel_init, bias_init, transpose_kernel, promote_dtype, preferred_element_type and metadata.

    Raises:
        ValueError: groups that do not divide the features; on a call, a shape or choice that does not fit.
        TypeError: an argument of the wrong type.

    Gradients:
        As those of `jaxdeconv.lax.conv_transpose`.

    References:
        `flax.nnx.ConvTranspose`, Flax 0.12.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxdeconv.nnx import ConvTranspose
        >>> layer = ConvTranspose(512, 256, kernel_size=16, strides=8, padding="CAUSAL", rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 80, 512), "float32")).shape
        (1, 640, 256)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        feature_group_count: int = 1,
        output_padding: int | Sequence[int] = 0,
        implementation: str | None = None,
        forward_mode: bool | None = None,
        rngs: Any,
        **keywords: Any,
    ) -> None:
        sizes = {"in_features": in_features, "out_features": out_features}
        canonicalize.all_integers(FUNCTION, sizes, *sizes)
        described = f"in_features={in_features} and out_features={out_features}"
        groups = canonicalize.group_count(FUNCTION, "feature_group_count", feature_group_count, described, in_features, out_features)
        if not all(k > 0 for k in canonicalize.integers(FUNCTION, "kernel_size", kernel_size)):
            raise error(ValueError, FUNCTION, "kernel_size must be positive", "kernel_size", kernel_size, "give each dimension a tap")
        # Flax makes parameters by these two sizes: those of a group along the axis that is divided.
        inputs, outputs = in_features // groups, out_features
        if groups > 1 and keywords.get("transpose_kernel"):
            inputs, outputs = in_features, out_features // groups
            if keywords.get("use_bias", True):
                bias_init = keywords.get("bias_init", nnx.initializers.zeros_init())
                keywords["bias_init"] = lambda key, _, dtype: bias_init(key, (out_features,), dtype)
        super().__init__(inputs, outputs, kernel_size, strides, rngs=rngs, **keywords)
        self.in_features, self.out_features = in_features, out_features
        self.feature_group_count, self.output_padding = groups, output_padding
        self.implementation, self.forward_mode = implementation, forward_mode

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """`[*batch, *W, I]` -> `[*batch, *L, O]`, with any number of batch dimensions."""
        kernel = self.kernel[...]
        if self.mask is not None:
            if self.mask.shape != kernel.shape:
                rule = f"mask must have the shape of the kernel, {kernel.shape}"
                raise error(ValueError, FUNCTION, rule, "mask.shape", self.mask.shape, "one entry for each weight")
            kernel = kernel * self.mask
        bias = None if self.bias is None else self.bias[...]
        inputs, kernel, bias = self.promote_dtype((inputs, kernel, bias), dtype=self.dtype)
        return conv_transpose(
            inputs,
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            output_padding=self.output_padding,
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
            feature_group_count=self.feature_group_count,
            implementation=self.implementation,
            forward_mode=self.forward_mode,
        )


def replace(model: Model, *, implementation: str | None = None, forward_mode: bool | None = None) -> Model:
    """Makes every transposed layer of Flax's own in a model one of this package, in place.

    Each `flax.nnx.ConvTranspose`, wherever it is in the model, becomes a `ConvTranspose` of this module and stays the object that it
    is, with its parameters: whatever holds it, an optimizer or a second place in the model, holds the new layer. So the numbers of
    the model stay, and its state and checkpoints fit. Layers of other classes, subclasses of Flax's among them, and layers of this
    package are left as they are.

    Args:
        model: an NNX module, a layer itself too.
        implementation: that of the layers that are replaced.
        forward_mode: that of the layers that are replaced.

    Returns:
        model.

    Raises:
        TypeError: model is no NNX module.
        ValueError: no such implementation.

    Examples:
        >>> from flax import nnx
        >>> import jaxdeconv.nnx
        >>> model = nnx.Sequential(nnx.ConvTranspose(8, 4, (4,), (2,), rngs=nnx.Rngs(0)), nnx.relu)
        >>> type(jaxdeconv.nnx.replace(model).layers[0])
        <class 'jaxdeconv.nnx.ConvTranspose'>
    """
    _options.how("replace", implementation, forward_mode)
    if not isinstance(model, nnx.Module):
        raise error(TypeError, "replace", "model must be an NNX module", "model", model, "pass an instance of flax.nnx.Module")
    for _, layer in list(nnx.iter_graph(model)):
        if type(layer) is nnx.ConvTranspose:
            object.__setattr__(layer, "__class__", ConvTranspose)  # NNX would count it among the attributes
            layer.feature_group_count, layer.output_padding = 1, 0
            layer.implementation, layer.forward_mode = implementation, forward_mode
    return model

"""`haiku.ConvNDTranspose`, `Conv1DTranspose`, `2D` and `3D` on this package's transposed convolution: parameters alike."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import lax, tf
from jaxdeconv._call import biased
from jaxdeconv._canonicalize import error
from jaxdeconv._convert import convert_filters

try:
    import haiku as hk
except ImportError as cause:
    raise canonicalize.missing("jaxdeconv.haiku needs dm-haiku", extra="layers") from cause


class _Transposed(hk.Module):
    """What the four have in common: the keywords that Haiku has not, and the call."""

    def __init__(
        self,
        *arguments: Any,
        groups: int = 1,
        implementation: str | None = None,
        forward_mode: bool | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.groups, self.implementation, self.forward_mode = groups, implementation, forward_mode

    def __call__(self, inputs: jax.Array, *, precision: Any = None) -> jax.Array:
        """`[B, *W, I]` -> `[B, *L, O]`, or as data_format says; without a batch too."""
        function, n = "ConvNDTranspose", self.num_spatial_dims
        inputs = jnp.asarray(inputs)
        if inputs.ndim not in (n + 1, n + 2):
            rule = f"inputs must have rank {n + 1} or {n + 2}, {n} spatial dimensions, channels and perhaps a batch"
            raise error(ValueError, function, rule, "inputs.shape", inputs.shape, "flatten several batch dimensions into one")
        canonicalize.all_integers(function, vars(self), "output_channels", "kernel_shape")
        x = inputs if inputs.ndim == n + 2 else inputs[None]
        channels = x.shape[self.channel_index]
        described = f"the {channels} channels of inputs and output_channels={self.output_channels}"
        groups = canonicalize.group_count(function, "groups", self.groups, described, channels, self.output_channels)
        shape = (*self.kernel_shape, self.output_channels // groups, channels)
        if self.mask is not None and self.mask.shape != shape:
            rule = f"mask must have the shape of the filter, {shape}"
            raise error(ValueError, function, rule, "mask.shape", self.mask.shape, "one entry for each weight")
        deviation = 1 / math.sqrt(max(math.prod(self.kernel_shape) * channels / groups, 1))
        w = hk.get_parameter("w", shape, x.dtype, init=self.w_init or hk.initializers.TruncatedNormal(stddev=deviation))
        w = w if self.mask is None else w * self.mask

        first = self.channel_index == 1
        how: Any = {"precision": precision, "implementation": self.implementation, "forward_mode": self.forward_mode}
        if self.output_shape is None:
            spec = tuple(range(n + 2)) if first else (0, n + 1, *range(1, n + 1))
            if groups > 1:  # which lax counts along the other channels
                w = jnp.swapaxes(convert_filters(w, "haiku", "lax", groups), n, n + 1)
            numbers = jax.lax.ConvDimensionNumbers(spec, (n, n + 1, *range(n)), spec)
            y = lax.conv_transpose(x, w, self.stride, self.padding, None, numbers, feature_group_count=groups, **how)
        else:  # by TensorFlow's rule
            letters, sizes = "DHW"[-n:], list(self.output_shape)
            data_format = f"NC{letters}" if first else f"N{letters}C"
            sizes.insert(0 if first else n, self.output_channels)
            w = convert_filters(w, "haiku", "tf", groups)
            y = tf.conv_transpose(x, w, [x.shape[0], *sizes], self.stride, self.padding, data_format, groups=groups, **how)
        if self.with_bias:
            b = hk.get_parameter("b", (self.output_channels, *[1] * (n * first)), x.dtype, init=self.b_init)
            y = biased(y, b, 1 if first else n + 1)
        return y if inputs.ndim == n + 2 else y[0]


class ConvNDTranspose(_Transposed, hk.ConvNDTranspose):
    """Transposed convolution as a Haiku module, instead of `haiku.ConvNDTranspose`.

    All arguments, parameters and initial values are those of `haiku.ConvNDTranspose`, so that its parameters work here unchanged
    and give the same numbers faster. output_shape follows TensorFlow's rule, in up to three dimensions and of TensorFlow's
    dtypes. Three keywords more: groups, G, of the channels, by which w is `[*k, output_channels / G, in]`, flipped as Haiku has
    it; implementation, the lowering to use, one of `jaxdeconv.Implementation`, None to have it chosen; and forward_mode, whether
    to allow forward mode (`jax.jvp`). A policy that `hk.mixed_precision` has for Haiku's class is that of the class here, and the
    other way round.

    Raises:
        ValueError: on a call, a shape, output_shape or choice that does not fit.
        TypeError: an argument of the wrong type.

    Gradients:
        As those of `jaxdeconv.lax.conv_transpose`.

    References:
        `haiku.ConvNDTranspose`, Haiku 0.0.17.

    Examples:
        >>> import haiku as hk
        >>> import jax
        >>> from jaxdeconv.haiku import Conv1DTranspose
        >>> x = jax.numpy.ones((1, 80, 512))
        >>> model = hk.without_apply_rng(hk.transform(lambda x: Conv1DTranspose(256, kernel_shape=16, stride=8)(x)))
        >>> model.apply(model.init(jax.random.key(0), x), x).shape
        (1, 640, 256)
    """


class Conv1DTranspose(_Transposed, hk.Conv1DTranspose):
    """`ConvNDTranspose` of one dimension, instead of `haiku.Conv1DTranspose`."""


class Conv2DTranspose(_Transposed, hk.Conv2DTranspose):
    """`ConvNDTranspose` of two dimensions, instead of `haiku.Conv2DTranspose`."""


class Conv3DTranspose(_Transposed, hk.Conv3DTranspose):
    """`ConvNDTranspose` of three dimensions, instead of `haiku.Conv3DTranspose`."""


# Haiku looks a precision policy up by the module and name of a class, so that by these one set on its class reaches ours.
for _ours in (ConvNDTranspose, Conv1DTranspose, Conv2DTranspose, Conv3DTranspose):
    _ours.__module__ = hk.ConvNDTranspose.__module__
__test__ = {"ConvNDTranspose": ConvNDTranspose}  # of which doctest takes Haiku's for the module

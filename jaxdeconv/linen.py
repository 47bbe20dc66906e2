"""`flax.linen.ConvTranspose` on this package's transposed convolution: the same fields, parameters and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv._canonicalize import error
from jaxdeconv._flax import FUNCTION, check_rank, conv_transpose

try:
    from flax import linen
except ImportError as cause:
    raise canonicalize.missing("jaxdeconv.linen needs flax", extra="layers") from cause


class ConvTranspose(linen.ConvTranspose):
    """Transposed convolution as a Flax Linen layer, instead of `flax.linen.ConvTranspose`.

    All fields, parameters and initial values are those of `flax.linen.ConvTranspose`, so that its variables work here unchanged and
    give the same numbers faster. "CAUSAL" padding works too: with stride s it keeps the first W*s samples, of which sample m depends
    on inputs up to m // s.

    Attributes:
        feature_group_count: the number of groups G; the kernel is `[*k, I / G, O]`, or `[*k, O / G, I]` for transpose_kernel.
        output_padding: samples that the output has more at its end, an int or one for each spatial dimension.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to have it chosen.
        forward_mode: whether to allow forward mode (`jax.jvp`); None for what `jaxdeconv.defaults` says.

    Raises:
        ValueError: on a call, a shape or choice that does not fit.
        TypeError: an argument of the wrong type.

    Gradients:
        As those of `jaxdeconv.lax.conv_transpose`.

    References:
        `flax.linen.ConvTranspose`, Flax 0.12.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxdeconv.linen import ConvTranspose
        >>> x = jnp.ones((1, 80, 512), "float32")
        >>> variables = ConvTranspose(256, kernel_size=(16,), strides=(8,)).init(jax.random.key(0), x)
        >>> ConvTranspose(256, kernel_size=(16,), strides=(8,)).apply(variables, x).shape
        (1, 640, 256)
    """

    feature_group_count: int = 1
    output_padding: int | Sequence[int] = 0
    implementation: str | None = None
    forward_mode: bool | None = None

    @linen.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """`[*batch, *W, I]` -> `[*batch, *L, O]`, with any number of batch dimensions."""
        kernel_size = canonicalize.integers(FUNCTION, "kernel_size", self.kernel_size)
        canonicalize.integer(FUNCTION, "features", self.features)
        check_rank(inputs, len(kernel_size))
        features = inputs.shape[-1]
        described = f"the {features} features of inputs and features={self.features}"
        groups = canonicalize.group_count(
            FUNCTION, "feature_group_count", self.feature_group_count, described, features, self.features
        )
        channels = (self.features // groups, features) if self.transpose_kernel else (features // groups, self.features)
        shape = (*kernel_size, *channels)
        if self.mask is not None and self.mask.shape != shape:
            rule = f"mask must have the shape of the kernel, {shape}"
            raise error(ValueError, FUNCTION, rule, "mask.shape", self.mask.shape, "one entry for each weight")
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        kernel = kernel if self.mask is None else kernel * self.mask
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        inputs, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
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
            feature_group_count=groups,
            implementation=self.implementation,
            forward_mode=self.forward_mode,
        )

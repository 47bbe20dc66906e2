"""The TensorFlow convention, which is also the top level of the package. Rules for (crop, L) from SAME, VALID and output_shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._geometry import Geometry, effective_kernel, full_size
from jaxdeconv._lowerings import Implementation
from jaxdeconv._trilinear import conv_transpose as _conv_transpose

Ints: TypeAlias = int | Sequence[int] | np.ndarray | jax.Array

_DTYPES = tuple(map(jnp.dtype, (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64, jnp.int32)))


def conv1d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Ints | None,
    strides: Ints,
    padding: Literal["SAME", "VALID"] = "SAME",
    data_format: Literal["NWC", "NCW"] | None = "NWC",
    dilations: Ints | None = None,
    name: str | None = None,
    *,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: Implementation | None = None,
    forward_mode: bool = False,
) -> jax.Array:
    """Transposed 1-D convolution with the exact semantics of `tf.nn.conv1d_transpose`.

    With stride s, dilation d and kernel size k, every input sample n spreads a copy of the filter, tap j landing at `n*s + j*d`,
    and a window of length L is cut from the sum:

        full[b, n*s + j*d, o] += sum over i of filters[j, o, i] * input[b, n, i]
        output = full[:, crop : crop + L, :]

    full has length `(W-1)*s + ke` with the effective kernel `ke = (k-1)*d + 1`, and counts as zero past its end. "SAME" has
    `crop = max((W-1)*s + ke - L, 0) // 2`, "VALID" has `crop = 0`. This is the gradient of `tf.nn.conv1d` with respect to its
    input, not an inverse; the filter is not flipped.

    Args:
        input: `[B, W, I]` for "NWC", `[B, I, W]` for "NCW"; float16, bfloat16, float32, float64 or int32. B, I and W may be zero.
        filters: `[k, O / groups, I]` in either data format, of the dtype of input.
        output_shape: `[B, L, O]` in data_format order: a list, tuple, numpy array or concrete jax array of integers. Every L from
            which a strided convolution would return to W is valid, and no other: `(W-1)*s < L <= W*s` for "SAME",
            `full <= L < full + s` for "VALID" with `full = (W-1)*s + ke`. O over `filters.shape[1]` is the number of groups, which
            splits input and output channels alike. None, an extension, means one group and `L = W*s` for "SAME",
            `L = (W-1)*s + max(ke, s)` for "VALID", as Keras and `jax.lax.conv_transpose` have it.
        strides: s >= 1: an int or a list, tuple or array of length 1 or 3, the latter in data_format order with ones for batch and
            channels.
        padding: "SAME" or "VALID".
        data_format: "NWC", "NCW", or None for "NWC".
        dilations: d >= 1 in the forms of strides; None for 1. May be combined with strides and groups.
        name: names the operation in HLO and profiles, as `jax.named_scope` does.
        precision: as for `jax.lax.conv_general_dilated`; applies to the operation and both gradients.
        preferred_element_type: dtype of the result, of the kind of the input's dtype; None for that dtype itself.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`; None to have it chosen.
        forward_mode: False for the hand-written, fast reverse-mode gradients. True to leave differentiation to JAX, which allows
            forward mode (`jax.jvp`, `jax.linearize`, `jax.jacfwd`, `jax.linear_transpose`) and has a slow filter gradient.

    Returns:
        `[B, L, O]` for "NWC", `[B, O, L]` for "NCW". float16 and bfloat16 are accumulated in float32 and rounded once.

    Raises:
        ValueError: a length, size, shape or choice that does not fit; the message names the values that would.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    Gradients:
        `jax.grad`, `jax.vjp`, `jax.jacrev`, and differentiation of these in either mode (`jax.hessian`), come from a `jax.custom_vjp`
        in which each gradient is one plain convolution; they have the dtypes of the arguments. JAX refuses a direct `jax.jvp` of any
        custom_vjp function: pass forward_mode=True there. int32 has no gradient.

    References:
        `tf.nn.conv1d_transpose`, TensorFlow 2.21; V. Dumoulin and F. Visin, A guide to convolution arithmetic for deep learning,
        arXiv:1603.07285, section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> x = jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
        >>> w = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        >>> jaxdeconv.conv1d_transpose(x, w, [1, 6, 1], strides=2)[0, :, 0].tolist()
        [1.0, 2.0, 13.0, 20.0, 130.0, 200.0]
        >>> jaxdeconv.conv1d_transpose(x, w, [1, 5, 1], strides=2)[0, :, 0].tolist()
        [2.0, 13.0, 20.0, 130.0, 200.0]
        >>> jaxdeconv.conv1d_transpose(x, w, [1, 8, 1], strides=2, padding="VALID")[0, :, 0].tolist()
        [1.0, 2.0, 13.0, 20.0, 130.0, 200.0, 300.0, 0.0]
    """
    function = "conv1d_transpose"
    canonicalize.choice(function, "padding", padding, ("SAME", "VALID"), "upper case, as in TensorFlow")
    canonicalize.choice(function, "data_format", data_format, ("NWC", "NCW", None))
    channels_last = data_format != "NCW"
    strides = canonicalize.spatial(function, "strides", strides, 1, channels_last)
    dilations = canonicalize.spatial(function, "dilations", 1 if dilations is None else dilations, 1, channels_last)
    x = canonicalize.array(function, "input", input, _DTYPES)
    w = canonicalize.array(function, "filters", filters, _DTYPES)
    canonicalize.same_dtype(function, "input", x, "filters", w)
    axes = canonicalize.axis_names(1, channels_last, "in")
    canonicalize.rank(function, "input", x, axes, "add a batch dimension with input[None], or map over more with jax.vmap")
    advice = "of torch's or ONNX's [in, out / groups, width] take filters.transpose(2, 1, 0)"
    canonicalize.rank(function, "filters", w, "[width, out / groups, in]", advice)
    geometry = _geometry(function, x.shape, w.shape, output_shape, strides, dilations, padding, channels_last)
    options = canonicalize.options(function, x, name, precision, preferred_element_type, implementation, forward_mode)
    result: jax.Array = _conv_transpose(x, w, geometry, options)
    return result


def _geometry(
    function: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    output_shape: object,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padding: str,
    channels_last: bool,
) -> Geometry:
    """TensorFlow's placement of the output: Eigen's validation, with groups as its XLA kernels have them."""
    n = len(strides)
    *kernel, out_per_group, in_channels = w_shape
    if not all(isinstance(size, int) and size > 0 for size in kernel) or out_per_group == 0:
        rule = "filters must have static, positive width and output channels"
        advice = "only the input channels may be 0"
        raise error(ValueError, function, rule, "filters.shape", w_shape, advice)
    channel_axis = n + 1 if channels_last else 1
    spatial_axes = range(1, n + 1) if channels_last else range(2, n + 2)
    if x_shape[channel_axis] != in_channels:
        rule = f"axis {channel_axis} of input and the last axis of filters must be equal, and input has shape {x_shape}"
        advice = "filters are [width, out / groups, in] whatever data_format is"
        raise error(ValueError, function, rule, "filters.shape", w_shape, advice)

    lengths: tuple[int | None, ...] = (None,) * n
    groups = 1
    if output_shape is not None:
        sizes = canonicalize.integers(function, "output_shape", output_shape)
        if len(sizes) != n + 2:
            rule = f"output_shape must have {n + 2} entries, {canonicalize.axis_names(n, channels_last, 'out')}"
            raise error(ValueError, function, rule, "output_shape", sizes, "give the whole shape, or None")
        if any(isinstance(size, int) and size < 0 for size in sizes):
            rule = "output_shape must not have negative entries"
            raise error(ValueError, function, rule, "output_shape", sizes, "give every size, or None for the whole")
        if sizes[0] != x_shape[0]:
            rule = f"output_shape[0] must be the batch size of input, {x_shape[0]}"
            raise error(ValueError, function, rule, "output_shape", sizes, f"pass {x_shape[0]} there")
        groups = _groups(function, sizes, channel_axis, out_per_group, in_channels)
        lengths = tuple(sizes[axis] for axis in spatial_axes)
    crops = tuple(
        _crops(function, padding, axis, x_shape[axis], length, k, s, d, output_shape)
        for axis, length, k, s, d in zip(spatial_axes, lengths, kernel, strides, dilations, strict=True)
    )
    return Geometry(tuple(kernel), strides, dilations, crops, groups, channels_last)


def _groups(function: str, sizes: tuple[int, ...], channel_axis: int, out_per_group: int, in_channels: int) -> int:
    channels = sizes[channel_axis]
    if channels == out_per_group:
        return 1
    fits = channels > 0 and channels % out_per_group == 0
    if not fits or in_channels % (channels // out_per_group) != 0:
        rule = (
            f"output_shape[{channel_axis}] must be groups * {out_per_group}, the output channels of filters, "
            f"with groups a divisor of the {in_channels} input channels"
        )
        advice = f"for one group pass {out_per_group} there"
        raise error(ValueError, function, rule, "output_shape", sizes, advice)
    return channels // out_per_group


def _crops(
    function: str, padding: str, axis: int, size: int, length: int | None, k: int, s: int, d: int, output_shape: object
) -> tuple[int, int]:
    """(crop_lo, crop_hi) of one dimension, for every length from which a strided convolution returns to size, and no other."""
    ke, full = effective_kernel(k, d), full_size(size, k, s, d)
    same = padding == "SAME"
    if length is None:
        length = s * size if same else full + max(s - ke, 0)
    if not same and isinstance(size, int) and size == 0:
        rule = f"axis {axis} of input must not be empty under padding='VALID'"
        raise error(ValueError, function, rule, f"input.shape[{axis}]", size, "pass padding='SAME', for an empty output")
    # The s valid lengths end at s*size for SAME and begin at full for VALID; with a symbolic size the distance is still an int.
    distance = s * size - length if same else length - full
    if not isinstance(distance, int) or not 0 <= distance < s:
        first, last = (s * (size - 1) + 1, s * size) if same else (full, full + s - 1)
        rule = (
            f"under padding={padding!r} an input of size {size} with kernel {k}, stride {s} and dilation {d} "
            f"needs output_shape[{axis}] from {first if size else 0} to {last}"
        )
        advice = f"pass one of these sizes, or output_shape=None for {s * size if same else full + max(s - ke, 0)}"
        raise error(ValueError, function, rule, "output_shape", output_shape, advice)
    crop = max(full - length, 0) // 2 if same else 0
    return crop, full - length - crop

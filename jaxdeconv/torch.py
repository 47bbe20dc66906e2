"""PyTorch's convention: channels first, unbatched input too. The rule for (crop, L) from padding and output_padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._call import conv_transpose as _conv_transpose
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._geometry import Geometry, full_size

Ints: TypeAlias = int | Sequence[int] | np.ndarray | jax.Array

_DTYPES = (*canonicalize.FLOATS, *canonicalize.COMPLEX, np.dtype(np.int32), np.dtype(np.int64))


@canonicalize.known_keywords("conv_transpose1d")
def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Ints | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed 1-D convolution with the exact semantics of `torch.nn.functional.conv_transpose1d`.

    With stride s, dilation d and kernel size k, every input sample n spreads a copy of the filter, tap j landing at `n*s + j*d`.
    Of the sum, `padding` samples are cut from both ends and `output_padding` are then added at the high end: those that were cut
    there come back, and zeros follow.

        full[b, o, n*s + j*d] += sum over i of weight[i, o, j] * input[b, i, n]
        output = full[:, :, padding : padding + L] + bias[:, None],    L = (W-1)*s + (k-1)*d + 1 - 2*padding + output_padding

    This is the gradient of `torch.nn.functional.conv1d` with respect to its input, not an inverse; the filter is not flipped.

    Args:
        input: `[B, I, W]`, or `[I, W]` without a batch, an array of JAX, numpy or torch; float16, bfloat16, float32, float64,
            complex64, complex128, int64, or int32, which is what JAX makes of int64 by default. B may be zero, and only then may W.
        weight: `[I, O / groups, k]`, of the dtype of input, as `torch.nn.ConvTranspose1d` stores it. No size may be zero.
        bias: `[O]`, of that dtype too, or None.
        stride: s >= 1: an int or a list, tuple or array of length 1.
        padding: how much is cut from each end, >= 0, in the forms of stride.
        output_padding: how much is added at the high end, >= 0 and less than stride or dilation; in the forms of stride.
        groups: how many groups the channels are split into; a divisor of I.
        dilation: d >= 1 in the forms of stride.
        output_size: `[L]`, or the shape of the whole output, of which batch and channels are not looked at, as
            `torch.nn.ConvTranspose1d` takes it on a call. Then output_padding does not count, and L is one of the s lengths from that
            of no output_padding. None to have L by output_padding.
        precision: as for `jax.lax.conv_general_dilated`; applies to the operation and both gradients.
        preferred_element_type: dtype of the result, of the kind of the input's dtype; None for that dtype itself.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to have it chosen.
        forward_mode: False for reverse mode, by a `jax.custom_vjp`. True for both modes (`jax.jvp`, `jax.linearize`, `jax.jacfwd`,
            `jax.linear_transpose` too), by a `jax.custom_jvp`. None for what `jaxdeconv.defaults` says: without it, False.

    Returns:
        `[B, O, L]`, or `[O, L]` for an input without a batch. float16 and bfloat16 are accumulated in float32.

    Raises:
        ValueError: a length, size, shape or choice that does not fit, or an empty output.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    Gradients:
        `jax.grad`, `jax.vjp`, `jax.jacrev`, and differentiation of these in either mode (`jax.hessian`), come from a `jax.custom_vjp`
        in which each gradient is one contraction; they have the dtypes of the arguments. JAX refuses a direct `jax.jvp` of any
        custom_vjp function: pass forward_mode=True there. Complex cotangents follow JAX's convention, and are the conjugates of those
        that PyTorch returns. Integers have no gradient.

    References:
        `torch.nn.functional.conv_transpose1d`, PyTorch 2.13; V. Dumoulin and F. Visin, A guide to convolution arithmetic for deep
        learning, arXiv:1603.07285, section 4.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv.torch import conv_transpose1d
        >>> x = jnp.array([1.0, 10.0, 100.0]).reshape(1, 1, 3)
        >>> w = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3)
        >>> conv_transpose1d(x, w, stride=2)[0, 0].tolist()
        [1.0, 2.0, 13.0, 20.0, 130.0, 200.0, 300.0]
        >>> conv_transpose1d(x, w, stride=2, padding=1, output_padding=1)[0, 0].tolist()
        [2.0, 13.0, 20.0, 130.0, 200.0, 300.0]
        >>> conv_transpose1d(x, w, stride=2, padding=1, output_size=[6]).shape
        (1, 1, 6)
    """
    return _transposed(
        "conv_transpose1d",
        1,
        (input, weight, bias, stride, padding, output_padding, groups, dilation, output_size),
        (precision, preferred_element_type, implementation, forward_mode),
    )


@canonicalize.known_keywords("conv_transpose2d")
def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Ints | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed 2-D convolution with the exact semantics of `torch.nn.functional.conv_transpose2d`.

    In each of the two dimensions as `conv_transpose1d` has it, which see for formula, dtypes, gradients and last four arguments:

        full[b, o, m*s + j*d, n*t + l*e] += sum over i of weight[i, o, j, l] * input[b, i, m, n]

    Args:
        input: `[B, I, H, W]`, or `[I, H, W]` without a batch.
        weight: `[I, O / groups, kh, kw]`, of the dtype of input, as `torch.nn.ConvTranspose2d` stores it.
        bias: `[O]`, of that dtype too, or None.
        stride: an int, or of length 1 or 2: height, width.
        padding: in the forms of stride.
        output_padding: in the forms of stride; in each dimension less than the stride or dilation there.
        groups: how many groups the channels are split into; a divisor of I.
        dilation: in the forms of stride.
        output_size: as for `conv_transpose1d`, of each dimension.
        precision: as for `conv_transpose1d`, as are the arguments after it.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        `[B, O, *L]`, or `[O, *L]` for an input without a batch.

    Raises:
        ValueError: a length, size, shape or choice that does not fit, or an empty output.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    References:
        `torch.nn.functional.conv_transpose2d`, PyTorch 2.13.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv.torch import conv_transpose2d
        >>> x = jnp.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 1, 2, 2)
        >>> w = jnp.ones((1, 1, 3, 3))
        >>> conv_transpose2d(x, w, stride=2, padding=1)[0, 0].astype(int).tolist()
        [[1, 11, 10], [101, 1111, 1010], [100, 1100, 1000]]
        >>> conv_transpose2d(x, w, stride=2, padding=1, output_padding=(0, 1)).shape
        (1, 1, 3, 4)
    """
    return _transposed(
        "conv_transpose2d",
        2,
        (input, weight, bias, stride, padding, output_padding, groups, dilation, output_size),
        (precision, preferred_element_type, implementation, forward_mode),
    )


@canonicalize.known_keywords("conv_transpose3d")
def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Ints | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed 3-D convolution with the exact semantics of `torch.nn.functional.conv_transpose3d`.

    In each of the three dimensions as `conv_transpose1d` has it, which see for formula, dtypes, gradients and last four arguments.

    Args:
        input: `[B, I, D, H, W]`, or `[I, D, H, W]` without a batch.
        weight: `[I, O / groups, kd, kh, kw]`, of the dtype of input, as `torch.nn.ConvTranspose3d` stores it.
        bias: `[O]`, of that dtype too, or None.
        stride: an int, or of length 1 or 3: depth, height, width.
        padding: in the forms of stride.
        output_padding: in the forms of stride; in each dimension less than the stride or dilation there.
        groups: how many groups the channels are split into; a divisor of I.
        dilation: in the forms of stride.
        output_size: as for `conv_transpose1d`, of each dimension.
        precision: as for `conv_transpose1d`, as are the arguments after it.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        `[B, O, *L]`, or `[O, *L]` for an input without a batch.

    Raises:
        ValueError: a length, size, shape or choice that does not fit, or an empty output.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    References:
        `torch.nn.functional.conv_transpose3d`, PyTorch 2.13.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv.torch import conv_transpose3d
        >>> x, w = jnp.ones((1, 8, 4, 4, 2)), jnp.ones((8, 5, 3, 3, 3))
        >>> conv_transpose3d(x, w, stride=2, padding=1, output_padding=(1, 1, 0)).shape
        (1, 5, 8, 8, 3)
    """
    return _transposed(
        "conv_transpose3d",
        3,
        (input, weight, bias, stride, padding, output_padding, groups, dilation, output_size),
        (precision, preferred_element_type, implementation, forward_mode),
    )


def _transposed(function: str, n: int, arguments: tuple[Any, ...], how: tuple[Any, ...]) -> jax.Array:
    """Any of the above, in n dimensions: their arguments up to output_size, and those after."""
    x, w, bias, stride, padding, output_padding, groups, dilation, output_size = arguments
    stride = canonicalize.spatial(function, "stride", stride, n)
    if isinstance(padding, str):
        advice = (
            f"jaxdeconv.conv{n}d_transpose has 'SAME' and 'VALID': pass data_format='NC{'DHW'[-n:]}' and filters="
            "jaxdeconv.convert_filters(weight, 'torch', 'tf') to it"
        )
        raise error(TypeError, function, "padding must be of integers", "padding", padding, advice)
    padding = canonicalize.spatial(function, "padding", padding, n, minimum=0)
    output_padding = canonicalize.spatial(function, "output_padding", output_padding, n, minimum=0)
    dilation = canonicalize.spatial(function, "dilation", dilation, n)
    groups = canonicalize.integer(function, "groups", groups)
    x = canonicalize.array(function, "input", x, _DTYPES)
    w = canonicalize.array(function, "weight", w, _DTYPES)
    canonicalize.same_dtype(function, "input", x, "weight", w)
    if x.ndim not in (n + 1, n + 2):
        axes = canonicalize.axis_names(n, False, "in")
        rule = f"input must have rank {n + 2}, {axes}, or {n + 1}, without the batch"
        advice = f"map over more dimensions with jax.vmap{_other_function(n, x.ndim - 2)}"
        raise error(ValueError, function, rule, "input.shape", x.shape, advice)
    _check_weight(function, n, x.shape, w, groups)
    if all(isinstance(each, int | np.integer) for each in (bias if isinstance(bias, list | tuple) else (bias,))):
        advice = f"the third argument is bias; did you mean stride={bias}?"
        if isinstance(bias, bool):
            advice = "True and False are for layers; pass the array, or None"
        raise error(TypeError, function, "bias must be an array", "bias", bias, advice)
    bias = canonicalize.bias_of(function, bias, "bias", w.shape[1] * groups, "input", x)
    rows = zip(x.shape[-n:], w.shape[2:], stride, dilation, padding, strict=True)
    least = tuple(full_size(*each) - 2 * p for *each, p in rows)  # the spatial sizes of the output without output_padding
    if output_size is not None:
        output_padding = _output_padding(function, x.shape, least, stride, output_size)
    crops = _crops(function, x.shape, least, stride, padding, output_padding, dilation)
    geometry = Geometry(w.shape[2:], stride, dilation, crops, groups, channels_last=False)
    options = _options.options(function, x, None, *how)
    if x.ndim == n + 2:
        return _conv_transpose(x, w, geometry, options, bias, "torch")
    return jnp.squeeze(_conv_transpose(jnp.expand_dims(x, 0), w, geometry, options, bias, "torch"), 0)


def _other_function(n: int, dimensions: int) -> str:
    """The one for so many spatial dimensions, if there is one and it is not the one for n."""
    return f", or call conv_transpose{dimensions}d" if dimensions in {1, 2, 3} - {n} else ""


def _check_weight(function: str, n: int, x_shape: tuple[int, ...], w: jax.Array, groups: int) -> None:
    axes = f"[in, out / groups, {', '.join(canonicalize.SPATIAL[-n:])}]"
    advice = f"bring a filter of another layout to {axes} with jaxdeconv.convert_filters"
    canonicalize.rank(function, "weight", w, axes, f"{advice}{_other_function(n, w.ndim - 2)}", canonicalize.SEVERAL_FILTERS)
    if not all(isinstance(size, int) and size > 0 for size in w.shape[1:]) or w.shape[0] == 0:
        rule = "weight must have a static, positive kernel size and channels"
        raise error(ValueError, function, rule, "weight.shape", w.shape, "only the batch may be empty")
    axis = len(x_shape) - n - 1
    if x_shape[axis] != w.shape[0]:
        rule = f"axis {axis} of input and axis 0 of weight must be equal, and input has shape {x_shape}"
        advice = f"weight is {axes}, with its first two axes the other way round than for a convolution"
        move = f"pass jax.numpy.moveaxis(input, -1, {axis}), if the channels of input come last"
        channels = x_shape[axis], x_shape[-1]
        advice = canonicalize.channels_advice("weight", w.shape, "torch", channels, None, groups, move, advice)
        raise error(ValueError, function, rule, "weight.shape", w.shape, advice)
    if not isinstance(groups, int) or groups < 1 or w.shape[0] % groups != 0:
        rule = f"groups must be a divisor of the {w.shape[0]} input channels"
        raise error(ValueError, function, rule, "groups", groups, "weight.shape[1] is the output channels of each group")


def _output_padding(
    function: str, x_shape: tuple[int, ...], least: tuple[int, ...], stride: tuple[int, ...], output_size: object
) -> tuple[int, ...]:
    """The output_padding that gives this size, as torch's modules find it: below the stride, with no look at batch and channels."""
    n, lengths = len(least), canonicalize.integers(function, "output_size", output_size)
    if len(lengths) not in (n, len(x_shape)):
        rule = f"output_size must have length {n} or {len(x_shape)} for an input of shape {x_shape}"
        raise error(ValueError, function, rule, "output_size", lengths, "give the spatial sizes, or the whole shape")
    above = tuple(length - low for length, low in zip(lengths[-n:], least, strict=True))
    if not all(isinstance(extra, int) and 0 <= extra < s for extra, s in zip(above, stride, strict=True)):
        most = tuple(low + s - 1 for low, s in zip(least, stride, strict=True))
        rule = f"output_size must be from {least} to {most} for an input of spatial sizes {x_shape[-n:]}"
        raise error(ValueError, function, rule, "output_size", lengths, "pass sizes in this range, or output_padding")
    return above


def _crops(
    function: str,
    x_shape: tuple[int, ...],
    least: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """Padding from both ends, less output_padding at the high one, which torch does not let reach a full period."""
    if any(op >= max(s, d) for op, s, d in zip(output_padding, stride, dilation, strict=True)):
        rule = f"output_padding must be less than stride or dilation in each dimension, and these are {stride} and {dilation}"
        raise error(ValueError, function, rule, "output_padding", output_padding, "for a longer output pass less padding")
    # torch allows empty sizes where there is nothing to compute, in an empty batch; channels are not empty where there is no batch.
    minimum = 0 if x_shape[0] == 0 else 1
    sizes = x_shape[-len(least) :]
    if not all(canonicalize.at_least(minimum, size) for size in sizes):
        rule = "input must not be empty but for its batch"
        raise error(ValueError, function, rule, "input.shape", x_shape, "torch has no rule for what to return")
    lengths = tuple(length + op for length, op in zip(least, output_padding, strict=True))
    if not all(canonicalize.at_least(minimum, length) for length in lengths):
        rule = f"the output must not be empty, and of an input of shape {x_shape} it would have spatial sizes {lengths}"
        advice = "pass less padding" + canonicalize.symbolic_advice(lengths)
        raise error(ValueError, function, rule, "padding", padding, advice)
    return tuple((p, p - op) for p, op in zip(padding, output_padding, strict=True))

"""The convention of `keras.ops.conv_transpose`. Rules for (crop_lo, crop_hi) from "valid", "same" and output_padding.

The layers, and `replace`, are of this name too, and loaded when they are asked for, so that Keras is imported then and not before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._call import conv_transpose as _conv_transpose
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._geometry import Geometry, effective_kernel, full_size

if TYPE_CHECKING:
    from jaxdeconv._keras_layers import Conv1DTranspose as Conv1DTranspose
    from jaxdeconv._keras_layers import Conv2DTranspose as Conv2DTranspose
    from jaxdeconv._keras_layers import Conv3DTranspose as Conv3DTranspose
    from jaxdeconv._keras_layers import replace as replace
else:

    def __getattr__(name: str) -> Any:
        if name not in ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "replace"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from jaxdeconv import _keras_layers

        return getattr(_keras_layers, name)


_DTYPES = (*canonicalize.FLOATS, *canonicalize.COMPLEX, *canonicalize.INTEGERS)


@canonicalize.known_keywords("conv_transpose")
def conv_transpose(
    inputs: ArrayLike,
    kernel: ArrayLike,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    output_padding: int | Sequence[int] | None = None,
    data_format: Literal["channels_last", "channels_first"] | None = None,
    dilation_rate: int | Sequence[int] = 1,
    *,
    groups: int = 1,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed convolution in one, two or three dimensions with the signature and results of `keras.ops.conv_transpose`.

    Per spatial dimension, with stride s, dilation d and kernel size k, every input sample n spreads a copy of the kernel, tap j
    landing at `n*s + j*d`, and a window of length L is cut from the sum:

        full[b, n*s + j*d, o] += sum over i of kernel[j, o, i] * inputs[b, n, i]
        output = full[:, crop : crop + L, :]

    full counts as zero past its end. With the effective kernel `ke = (k-1)*d + 1` and output_padding p:

    | padding | crop | L | p where output_padding is None |
    |---|---|---|---|
    | "valid" | 0 | `(W-1)*s + ke + p` | `max(s-ke, 0)`, so that `L = (W-1)*s + max(ke, s)` |
    | "same" | `max(ke - ke%2 - p, 0) // 2` | `(W-1)*s + ke%2 + p` | `s - ke%2`, so that `L = W*s` |

    Args:
        inputs: `[B, *W, I]`, or `[B, I, *W]` for "channels_first", of rank 3, 4 or 5; any floating, complex or signed integer dtype
            of up to 64 bits.
        kernel: `[*k, O / groups, I]` in either data format, of the dtype of inputs.
        strides: s >= 1, an int or one for each spatial dimension.
        padding: "valid" or "same", in upper or lower case.
        output_padding: p >= 0, an int or one for each spatial dimension; None to have the length inferred. Keras asks for p < s and
            its layers insist; its function, on JAX, does not, and larger ones extend the output here as there.
        data_format: "channels_last" or "channels_first", in upper or lower case; None for `keras.config.image_data_format()`
            where Keras is imported, and "channels_last" where it is not.
        dilation_rate: d >= 1, an int or one for each spatial dimension; may be combined with strides.
        groups: how many groups the channels are split into, a divisor of I; an extension, Keras has none.
        precision: as for `jax.lax.conv_general_dilated`; applies to the operation and both gradients.
        preferred_element_type: dtype of the result, of the kind of the dtype of inputs; None for that dtype itself.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to have it chosen.
        forward_mode: False for reverse mode, by a `jax.custom_vjp`. True for both modes (`jax.jvp`, `jax.linearize`, `jax.jacfwd`,
            `jax.linear_transpose` too), by a `jax.custom_jvp`. None for what `jaxdeconv.defaults` says: without it, False.

    Returns:
        `[B, *L, O]`, or `[B, O, *L]` for "channels_first". float16 and bfloat16 are accumulated in float32 and rounded once.

    Keras's backends:
        Results are those of Keras's JAX backend, which has all the features. Its TensorFlow backend gives the same wherever it does
        not refuse: it takes only lengths from which a convolution returns to W, which excludes p >= s for "valid" and L <= (W-1)*s or
        L > W*s for "same", and on CPU no dilation without XLA. The two differ for an empty spatial dimension, W = 0; here L is then
        what the table says, as on TensorFlow, and must not be negative.

    Raises:
        ValueError: a length, size, shape or choice that does not fit; the message names what would.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    Gradients:
        `jax.grad`, `jax.vjp`, `jax.jacrev`, and differentiation of these in either mode (`jax.hessian`), come from a `jax.custom_vjp`
        in which each gradient is one contraction; they have the dtypes of the arguments. JAX refuses a direct `jax.jvp` of any
        custom_vjp function: pass forward_mode=True there. Integers have no gradient.

    References:
        `keras.ops.conv_transpose`, Keras 3.15; `keras.layers.Conv1DTranspose`, `Conv2DTranspose` and `Conv3DTranspose` call it.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv.keras
        >>> x = jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
        >>> w = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        >>> jaxdeconv.keras.conv_transpose(x, w, 2)[0, :, 0].tolist()
        [1.0, 2.0, 13.0, 20.0, 130.0, 200.0, 300.0]
        >>> jaxdeconv.keras.conv_transpose(x, w, 2, "same")[0, :, 0].tolist()
        [1.0, 2.0, 13.0, 20.0, 130.0, 200.0]
        >>> jaxdeconv.keras.conv_transpose(x, w, 2, "same", output_padding=0)[0, :, 0].tolist()
        [2.0, 13.0, 20.0, 130.0, 200.0]
    """
    function = "conv_transpose"
    if data_format is None:
        data_format = _configured_format()
    data_format, padding = checked_format(function, data_format), checked_padding(function, padding)
    channels_last = data_format == "channels_last"
    x = canonicalize.array(function, "inputs", inputs, _DTYPES)
    w = canonicalize.array(function, "kernel", kernel, _DTYPES)
    canonicalize.same_dtype(function, "inputs", x, "kernel", w)
    if x.ndim not in (3, 4, 5):
        advice = "jaxdeconv.lax.conv_transpose takes any number of dimensions, jax.vmap adds a batch"
        raise error(ValueError, function, "inputs must have rank 3, 4 or 5", "inputs.shape", x.shape, advice)
    n = x.ndim - 2
    spatial_names = ", ".join(canonicalize.SPATIAL[-n:])
    canonicalize.rank(function, "kernel", w, f"[{spatial_names}, out / groups, in]", "it has the rank of inputs")
    strides = canonicalize.spatial(function, "strides", strides, n)
    dilations = canonicalize.spatial(function, "dilation_rate", dilation_rate, n)
    extras = None if output_padding is None else canonicalize.spatial(function, "output_padding", output_padding, n, minimum=0)
    sizes = canonicalize.kernel_size(function, "kernel", w.shape, range(n), n)
    channel_axis, other_axis = (n + 1, 1) if channels_last else (1, n + 1)
    groups = canonicalize.integer(function, "groups", groups)
    if x.shape[channel_axis] != w.shape[-1]:
        rule = f"axis {channel_axis} of inputs and the last axis of kernel must be equal, and inputs has shape {x.shape}"
        other = ("channels_last", "channels_first")[channels_last]
        move = f"pass data_format={other!r}, if the channels of inputs come {'first' if channels_last else 'last'}"
        advice = f"kernel is [{spatial_names}, out / groups, in] whatever data_format is"
        channels = x.shape[channel_axis], x.shape[other_axis]
        advice = canonicalize.channels_advice("kernel", w.shape, "keras", channels, None, groups, move, advice)
        raise error(ValueError, function, rule, "kernel.shape", w.shape, advice)
    if not isinstance(groups, int) or groups < 1 or w.shape[-1] % groups:
        rule = f"groups must divide the {w.shape[-1]} input channels, the last axis of kernel"
        raise error(ValueError, function, rule, "groups", groups, "pass 1 for no groups")

    axes = range(1, n + 1) if channels_last else range(2, n + 2)
    crops = []
    for axis, k, s, d, p in zip(axes, sizes, strides, dilations, extras or (None,) * n, strict=True):
        low, high = _crops(padding, effective_kernel(k, d), s, p)
        length = full_size(x.shape[axis], k, s, d) - low - high
        if isinstance(length, int) and length < 0:
            rule = f"axis {axis} of inputs must not be empty with kernel {k}, stride {s}, dilation {d} and padding={padding!r}"
            advice = f"the output's length would be {length}; pass padding='same' and output_padding=None for an empty output"
            raise error(ValueError, function, rule, f"inputs.shape[{axis}]", x.shape[axis], advice)
        crops.append((low, high))
    geometry = Geometry(sizes, strides, dilations, tuple(crops), groups, channels_last)
    options = _options.options(function, x, None, precision, preferred_element_type, implementation, forward_mode)
    return _conv_transpose(x, w, geometry, options, layout="keras")


def checked_format(function: str, data_format: Any) -> Any:
    return _lower(function, "data_format", data_format, ("channels_last", "channels_first"), "pass one of these, or None")


def checked_padding(function: str, padding: Any) -> Any:
    advice = "in upper or lower case; for numbers see jaxdeconv.torch and jaxdeconv.lax"
    return _lower(function, "padding", padding, ("valid", "same"), advice)


def _lower(function: str, name: str, value: Any, allowed: tuple[str, ...], advice: str) -> Any:
    """One of the allowed names, of whatever case."""
    found = isinstance(value, str) and value.lower() in allowed
    return canonicalize.choice(function, name, value.lower() if found else value, allowed, advice)


def _configured_format() -> Any:
    """Keras's default, where Keras is imported already; this package never imports it."""
    read = getattr(getattr(sys.modules.get("keras"), "config", None), "image_data_format", None)
    return "channels_last" if read is None else read()


def _crops(padding: str, ke: int, s: int, p: int | None) -> tuple[int, int]:
    """(crop_lo, crop_hi) of one dimension, with effective kernel ke and output_padding p."""
    if padding == "valid":
        return 0, -(max(s - ke, 0) if p is None else p)
    odd = ke % 2
    cropped = ke - s if p is None else ke - odd - p  # the output is shorter than full by so much
    low = max(cropped, 0) // 2
    return low, cropped - low

"""The convention of `jax.lax.conv_transpose`: rules for (crop_lo, crop_hi) from padding of many meanings, and axes in any order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._accelerate import accelerate
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._convolutions import Convolution, as_floats, channels_last, convolve
from jaxdeconv._geometry import Geometry, effective_kernel, full_size

Padding: TypeAlias = str | Sequence[str | tuple[int, int]]
DimensionNumbers: TypeAlias = lax.ConvDimensionNumbers | tuple[str, str, str] | None

_DTYPES = (*canonicalize.FLOATS, *canonicalize.COMPLEX, *canonicalize.INTEGERS)


@canonicalize.known_keywords("conv_transpose")
def conv_transpose(
    lhs: ArrayLike,
    rhs: ArrayLike,
    strides: Sequence[int],
    padding: Padding,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: DimensionNumbers = None,
    transpose_kernel: bool = False,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    use_consistent_padding: bool = False,
    *,
    feature_group_count: int = 1,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed N-D convolution with the signature and results of `jax.lax.conv_transpose`, and with groups.

    Per spatial dimension, with stride s, dilation d, kernel size k, effective kernel `ke = (k-1)*d + 1` and input size W, the input
    with s-1 zeros between its samples is padded by (lo, hi) and correlated with the filter, which for transpose_kernel=False is

        y[b, m, o] = sum over j, n, i of  rhs[j, i, o] * lhs[b, n, i]   where   n*s = m + j*d - lo
        L = (W-1)*s + 2 + lo + hi - ke

    and for transpose_kernel=True has k-1-j for j and the channels of rhs swapped, which makes it TensorFlow's and Keras's filter.
    What padding says about (lo, hi) depends on what it is:

    | padding | lo | hi | L |
    |---|---|---|---|
    | "SAME" | `ke-1 - max(ke-s, 0)//2` | `ke + s-2 - lo` | `W*s` |
    | "VALID" | `ke-1` | `max(ke, s) - 1` | `(W-1)*s + max(ke, s)` |
    | (lo, hi) | lo | hi | as above |
    | (p, q) with use_consistent_padding | `ke-1 - p` | `ke-1 - q` | `(W-1)*s + ke - p - q` |

    The last row crops what the forward convolution padded, as PyTorch has it. Exactly these spellings of "SAME" and "VALID" are the
    transposed convolution's. Where all strides are 1, lax lets any other spelling, as "same", "valid" or "SAME_LOWER", through to
    `lax.conv_general_dilated`, where it pads as for a forward convolution, and so it does here; with other strides it is an error.

    Args:
        lhs: the input, with the axes that dimension_numbers says; any floating, complex or signed integer dtype of up to 64 bits.
            Unsigned, boolean and 8-bit floating dtypes, which lax takes, are not supported.
        rhs: the filter, of the dtype of lhs, its axes also by dimension_numbers. Its I and O axes have in / feature_group_count and
            out entries, and with transpose_kernel=True out / feature_group_count and in.
        strides: s >= 1, N integers; an int, which lax does not take, for the same in all dimensions.
        padding: "SAME", "VALID", or N pairs of integers, which may be negative; with use_consistent_padding each pair may also be one
            of the strings.
        rhs_dilation: d >= 1, in the forms of strides; None for 1.
        dimension_numbers: the axes of lhs, rhs and result: three strings such as ("NHWC", "HWIO", "NHWC") in any order of letters, a
            `jax.lax.ConvDimensionNumbers`, or None for channels last, up to three spatial dimensions. Axes in neither of the orders
            N..C and NC.. are transposed.
        transpose_kernel: whether to flip the filter and swap its channels.
        precision: as for `jax.lax.conv_general_dilated`; applies to the operation and both gradients.
        preferred_element_type: dtype of the result, of the kind of the dtype of lhs, or floating for integers; None for that dtype
            itself. Integers wrap around in the dtype of the result.
        use_consistent_padding: whether pairs are the padding of the forward convolution. Works on every version of JAX.
        feature_group_count: the number of groups, which splits input and output channels alike; lax has no such argument.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to have it chosen.
        forward_mode: False for reverse mode, by a `jax.custom_vjp`. True for both modes (`jax.jvp`, `jax.linearize`, `jax.jacfwd`,
            `jax.linear_transpose` too), by a `jax.custom_jvp`. None for what `jaxdeconv.defaults` says: without it, False.

    Returns:
        The result, its axes as the third of dimension_numbers. float16 and bfloat16 are accumulated in float32 and rounded once. A
        length below 0 is 0, and of an empty dimension comes what padding alone makes, `lo + hi - ke + 1` zeros, as with lax.

    Raises:
        ValueError: a length, size, shape or choice that does not fit; the message names what would.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    Gradients:
        `jax.grad`, `jax.vjp`, `jax.jacrev`, and differentiation of these in either mode (`jax.hessian`), come from a `jax.custom_vjp`
        in which each gradient is one contraction; they have the dtypes of the arguments. JAX refuses a direct `jax.jvp` of any
        custom_vjp function: pass forward_mode=True there. Integers have no gradient.

    References:
        `jax.lax.conv_transpose`, JAX 0.10; jax issue 32267 on the meanings of padding.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdeconv.lax
        >>> x = jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
        >>> w = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        >>> jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME")[0, :, 0].tolist()
        [3.0, 2.0, 31.0, 20.0, 310.0, 200.0]
        >>> jaxdeconv.lax.conv_transpose(x, w, (2,), [(1, 1)], transpose_kernel=True)[0, :, 0].tolist()
        [2.0, 13.0, 20.0, 130.0, 200.0]
        >>> x, w = jnp.ones((2, 6, 8, 8)), jnp.ones((4, 4, 3, 10))
        >>> numbers = ("NCHW", "HWIO", "NHWC")
        >>> jaxdeconv.lax.conv_transpose(x, w, (2, 2), "VALID", None, numbers, feature_group_count=2).shape
        (2, 18, 18, 10)
    """
    function = "conv_transpose"
    canonicalize.choice(function, "transpose_kernel", transpose_kernel, (False, True))
    canonicalize.choice(function, "use_consistent_padding", use_consistent_padding, (False, True))
    x = canonicalize.array(function, "lhs", lhs, _DTYPES)
    w = canonicalize.array(function, "rhs", rhs, _DTYPES)
    canonicalize.same_dtype(function, "lhs", x, "rhs", w)
    if x.ndim < 2 or x.ndim != w.ndim:
        rule = f"lhs and rhs must have one rank, of at least 2, and lhs has shape {x.shape}"
        raise error(ValueError, function, rule, "rhs.shape", w.shape, "each has two axes more than there are spatial dimensions")
    n = x.ndim - 2
    strides = canonicalize.spatial(function, "strides", strides, n)
    dilations = canonicalize.spatial(function, "rhs_dilation", (1,) * n if rhs_dilation is None else rhs_dilation, n)
    numbers = _dimension_numbers(function, x, w, dimension_numbers)

    groups = _groups(function, x.shape[numbers.lhs_spec[1]], w.shape, numbers.rhs_spec, feature_group_count, transpose_kernel)
    kernel = tuple(w.shape[axis] for axis in numbers.rhs_spec[2:])
    outputs = w.shape[numbers.rhs_spec[1 if transpose_kernel else 0]]
    if not all(isinstance(size, int) and size > 0 for size in kernel) or not isinstance(outputs, int):
        rule = "rhs must have a static, positive kernel size, and static output channels"
        raise error(ValueError, function, rule, "rhs.shape", w.shape, "only its channels may be 0")
    pads = pads_of(function, padding, list(map(effective_kernel, kernel, dilations)), strides, use_consistent_padding)
    crops = tuple(
        _crops(function, padding, x.shape[axis], k, s, d, *pad)
        for axis, k, s, d, pad in zip(numbers.lhs_spec[2:], kernel, strides, dilations, pads, strict=True)
    )

    x, w = as_floats(x, w, preferred_element_type)
    options = _options.options(function, x, None, precision, preferred_element_type, implementation, forward_mode)
    of_x, (o, i, *taps), of_y = map(tuple, numbers)
    of_w = (i, o, *taps) if transpose_kernel else (o, i, *taps)
    geometry = Geometry(kernel, strides, dilations, crops, groups, channels_last(of_x, of_y))
    return convolve(x, w, Convolution("x", "w", geometry, not transpose_kernel, (of_x, of_w, of_y)), options)


def conv_general_dilated(
    lhs: ArrayLike,
    rhs: ArrayLike,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: DimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    *,
    forward_mode: bool | None = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, for code that calls it, where lhs_dilation makes a transposed convolution of it.

    Per spatial dimension, with strides s = lhs_dilation and dilation d = rhs_dilation, and padding (lo, hi), it is

        y[b, m, o] = sum over j, n, i of  rhs[j, i, o] * lhs[b, n, i]   where   n*s = m + j*d - lo

    With lhs_dilation of 1 or None, what it returns is lax's own, and so it is where window_strides are not 1 as well, but for the
    gradients that JAX makes of a transposed convolution, whose window is larger than the result: those are computed as such.

    Args:
        lhs: the input, with the axes that dimension_numbers says.
        rhs: the filter, of the dtype of lhs.
        window_strides: N integers.
        padding: "SAME", "VALID" or "SAME_LOWER", without lhs_dilation, or N pairs of integers.
        lhs_dilation: the strides of the transposed convolution; None for 1.
        rhs_dilation: dilations of the filter; None for 1.
        dimension_numbers: the axes of lhs, rhs and result; None for channels first.
        feature_group_count: the number of groups.
        batch_group_count: as for lax.
        precision: as for lax; applies to the operation and both gradients.
        preferred_element_type: dtype of the result; None for that of lhs.
        forward_mode: as for `conv_transpose`.

    Returns:
        The result, as lax's, its axes as the third of dimension_numbers.

    Raises:
        TypeError, ValueError: those of lax, and for a wrong forward_mode.

    Gradients:
        As those of `conv_transpose`.

    References:
        `jax.lax.conv_general_dilated`, JAX 0.10.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv.lax import conv_general_dilated
        >>> x, w = jnp.ones((1, 3, 8)), jnp.ones((5, 3, 4))
        >>> conv_general_dilated(x, w, (1,), [(2, 2)], lhs_dilation=(2,)).shape
        (1, 5, 16)
    """
    convolution: Callable[..., jax.Array] = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    accelerated = accelerate(convolution, forward_mode=forward_mode)
    spread = lhs_dilation is not None and any(each != 1 for each in lhs_dilation)
    result: jax.Array = accelerated(lhs, rhs) if spread else convolution(lhs, rhs)
    return result


def _dimension_numbers(function: str, x: jax.Array, w: jax.Array, value: Any) -> lax.ConvDimensionNumbers:
    """Three permutations: of batch, channels and space for lhs and result; of out, in and space for rhs."""
    n = x.ndim - 2
    if value is None:
        if n > 3:
            rule = "dimension_numbers must be given for more than three spatial dimensions"
            raise error(ValueError, function, rule, "dimension_numbers", value, "pass three strings, as ('NABCD', 'ABCDIO', 'NABCD')")
        channels_last = (0, n + 1, *range(1, n + 1))
        return lax.ConvDimensionNumbers(channels_last, (n + 1, n, *range(n)), channels_last)
    try:
        specs = [tuple(map(operator.index, spec)) for spec in lax.conv_dimension_numbers(x.shape, w.shape, value)]
        valid = all(sorted(spec) == list(range(n + 2)) for spec in specs)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        rule = (
            f"dimension_numbers must be three strings of {n + 2} different letters, with N and C in the first and third, O and I in "
            f"the second, and the same others in all, or a jax.lax.ConvDimensionNumbers of three permutations of 0 to {n + 1}"
        )
        raise error(ValueError, function, rule, "dimension_numbers", value, "pass ('NHWC', 'HWIO', 'NHWC'), for example, or None")
    return lax.ConvDimensionNumbers(*specs)


def _groups(
    function: str, in_channels: int, w_shape: tuple[int, ...], w_spec: Sequence[int], value: object, transpose_kernel: bool
) -> int:
    """The number of groups. The O and I axes of rhs have out and in / groups entries, or for transpose_kernel in and out / groups."""
    groups = canonicalize.integer(function, "feature_group_count", value)
    if not isinstance(groups, int) or groups < 1:
        raise error(
            ValueError, function, "feature_group_count must be a positive integer", "feature_group_count", value, "pass 1 for none"
        )
    o, i = w_spec[:2]
    if in_channels != (w_shape[o] if transpose_kernel else w_shape[i] * groups):
        axis, amount = (f"O axis of rhs, {o},", "all") if transpose_kernel else (f"I axis of rhs, {i},", f"1 / {groups} of")
        rule = f"with transpose_kernel={transpose_kernel} the {axis} must have {amount} the {in_channels} input channels"
        advice = "check dimension_numbers and feature_group_count"
        if tuple(w_spec) == (len(w_spec) - 1, len(w_spec) - 2, *range(len(w_spec) - 2)):  # layouts have names for these axes alone
            own = "lax_transpose_kernel" if transpose_kernel else "lax"
            advice = canonicalize.channels_advice("rhs", w_shape, own, (in_channels, -1), None, groups, "", advice)
        raise error(ValueError, function, rule, "rhs.shape", w_shape, advice)
    if groups > 1 and w_shape[o] % groups != 0:
        rule = f"feature_group_count must divide the {w_shape[o]} {'input' if transpose_kernel else 'output'} channels"
        raise error(ValueError, function, rule, "feature_group_count", value, "pass a divisor of these")
    return groups


# What lax.conv_general_dilated pads for these, by effective kernel, where strides are 1.
_FORWARD: dict[str, Callable[[int], tuple[int, int]]] = {
    "SAME": lambda ke: ((ke - 1) // 2, ke // 2),
    "SAME_LOWER": lambda ke: (ke // 2, (ke - 1) // 2),
    "VALID": lambda ke: (0, 0),
}


def pads_of(
    function: str, padding: Any, effective: list[int], strides: tuple[int, ...], consistent: bool, others: str = ""
) -> list[tuple[int, int]]:
    """(lo, hi) of each dimension, what the input is padded with once it is spread by its stride.

    others are, for the message, what the caller takes beside these, as in ", 'CAUSAL'".
    """
    n = len(effective)
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        if consistent or set(strides) - {1} or padding.upper() not in _FORWARD:
            upper = padding.upper()
            advice = "other spellings, of what a forward convolution pads, are for strides of 1, as in lax"
            if upper not in _FORWARD:
                advice = "pass one of these"
            if repr(upper) in f"'SAME', 'VALID'{others}":
                advice = f"pass {upper!r}, in upper case"
            rule = f"padding must be 'SAME', 'VALID'{others} or pairs of integers"
            raise error(ValueError, function, rule, "padding", padding, advice)
        return list(map(_FORWARD[padding.upper()], effective))
    rows = padding.tolist() if isinstance(padding, np.ndarray) else [padding] * n if isinstance(padding, str) else padding
    if not isinstance(rows, list | tuple) or len(rows) != n:
        raise _invalid_padding(function, padding, n, others)
    pads = []
    for row, ke, s in zip(rows, effective, strides, strict=True):
        pair = canonicalize.integers(function, "padding", row) if isinstance(row, list | tuple | np.ndarray | jax.Array) else ()
        if isinstance(row, str) and row in ("SAME", "VALID") and (consistent or isinstance(padding, str)):
            lo = ke - 1 - max(ke - s, 0) // 2 if row == "SAME" else ke - 1
            pads.append((lo, ke + s - 2 - lo if row == "SAME" else max(ke, s) - 1))
        elif len(pair) == 2 and all(isinstance(p, int) and abs(p) <= canonicalize.LARGEST for p in pair):
            pads.append((ke - 1 - pair[0], ke - 1 - pair[1]) if consistent else (pair[0], pair[1]))
        else:
            raise _invalid_padding(function, padding, n, others)
    return pads


def _invalid_padding(function: str, padding: object, n: int, others: str) -> Exception:
    rule = f"padding must be 'SAME', 'VALID'{others} or a pair of integers for each of {n} spatial dimensions"
    kind: canonicalize.ErrorType = ValueError if isinstance(padding, list | tuple | np.ndarray) else TypeError
    return error(kind, function, rule, "padding", padding, f"pass [{', '.join(['(lo, hi)'] * n)}], for example")


def _crops(function: str, padding: object, size: int, k: int, s: int, d: int, lo: int, hi: int) -> tuple[int, int]:
    """(crop_lo, crop_hi) of one dimension whose input, spread by its stride, is padded so."""
    ke = effective_kernel(k, d)
    if not isinstance(size, int):
        return ke - 1 - lo, ke - 1 - hi
    # Two cases in which lax departs from the formula: an empty input is spread to 0 samples, not 1-s, and no length is below 0.
    padded = (size and (size - 1) * s + 1) + lo + hi
    if padded < 0:
        rule = f"negative padding must not exceed the input, whose size is {size} with stride {s}"
        advice = f"as (lo, hi) it is ({lo}, {hi}) for kernel {k} and dilation {d}"
        raise error(ValueError, function, rule, "padding", padding, advice)
    length = max(padded - ke + 1, 0)
    return ke - 1 - lo, full_size(size, k, s, d) - (ke - 1 - lo) - length

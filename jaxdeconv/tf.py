"""The TensorFlow convention, which is also the top level of the package. Rules for (crop, L) from SAME, VALID and output_shape."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._call import conv_transpose as _conv_transpose
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._geometry import Geometry, effective_kernel, full_size

Ints: TypeAlias = int | Sequence[int] | np.ndarray | jax.Array

_DTYPES = (*canonicalize.FLOATS, np.dtype(np.int32))


@canonicalize.known_keywords("conv1d_transpose")
def conv1d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Ints | None,
    strides: Ints,
    padding: Literal["SAME", "VALID"] | Sequence[Sequence[int]] = "SAME",
    data_format: Literal["NWC", "NCW"] | None = "NWC",
    dilations: Ints | None = None,
    name: str | None = None,
    *,
    groups: int | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
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
        output_shape: `[B, L, O]` in data_format order: a list, tuple, `tf.TensorShape`, or concrete array of integers. -1 for B is
            the batch size of input, which of TensorFlow's kernels those of oneDNN alone take. Every L from which a strided
            convolution would return to W is valid, and no other: `(W-1)*s < L <= W*s` for "SAME", `full <= L < full + s` for "VALID"
            with `full = (W-1)*s + ke`. O is `groups * filters.shape[1]`. None, an extension, means `L = W*s` for "SAME",
            `L = (W-1)*s + max(ke, s)` for "VALID", as Keras and `jax.lax.conv_transpose` have it.
        strides: s >= 1: an int or a list, tuple or array of length 1 or 3, the latter in data_format order with ones for batch and
            channels.
        padding: "SAME" or "VALID"; or, an extension, what the forward convolution pads, three pairs in data_format order with zeros
            for batch and channels: `[[0, 0], [left, right], [0, 0]]` for "NWC". Then crop is left, and the valid lengths are
            `full <= L + left + right < full + s`.
        data_format: "NWC", "NCW", or None for "NWC".
        dilations: d >= 1 in the forms of strides; None for 1. May be combined with strides and groups.
        name: names the operation in HLO and profiles, as `jax.named_scope` does.
        groups: an extension, the number of groups, which splits input and output channels alike; a divisor of I. None, as TensorFlow
            has it, for what output_shape says, O over `filters.shape[1]`, and for one group where output_shape is None.
        precision: as for `jax.lax.conv_general_dilated`; applies to the operation and both gradients.
        preferred_element_type: dtype of the result, of the kind of the input's dtype; None for that dtype itself.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to have it chosen.
        forward_mode: False for reverse mode, by a `jax.custom_vjp`. True for both modes (`jax.jvp`, `jax.linearize`, `jax.jacfwd`,
            `jax.linear_transpose` too), by a `jax.custom_jvp`. None for what `jaxdeconv.defaults` says: without it, False.

    Returns:
        `[B, L, O]` for "NWC", `[B, O, L]` for "NCW". float16 and bfloat16 are accumulated in float32 and rounded once.

    Raises:
        ValueError: a length, size, shape or choice that does not fit; the message names the values that would.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    Warns:
        UserWarning: groups is None, and output_shape makes more than one of them, which may be a mistyped number of channels.

    Gradients:
        `jax.grad`, `jax.vjp`, `jax.jacrev`, and differentiation of these in either mode (`jax.hessian`), come from a `jax.custom_vjp`
        in which each gradient is one contraction; they have the dtypes of the arguments. JAX refuses a direct `jax.jvp` of any
        custom_vjp function: pass forward_mode=True there. int32 has no gradient.

    References:
        `tf.nn.conv1d_transpose`, TensorFlow 2.21; V. Dumoulin and F. Visin, A guide to convolution arithmetic for deep learning,
        arXiv:1603.07285, section 4.

    Examples:
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
    return _transposed(
        "conv1d_transpose",
        ("NWC", "NCW"),
        (input, filters, output_shape, strides, padding, data_format, dilations, groups),
        (name, precision, preferred_element_type, implementation, forward_mode),
    )


@canonicalize.known_keywords("conv2d_transpose")
def conv2d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Ints | None,
    strides: Ints,
    padding: Literal["SAME", "VALID"] | Sequence[Sequence[int]] = "SAME",
    data_format: Literal["NHWC", "NCHW"] | None = "NHWC",
    dilations: Ints | None = None,
    name: str | None = None,
    *,
    groups: int | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed 2-D convolution with the exact semantics of `tf.nn.conv2d_transpose`.

    In each of the two dimensions as `conv1d_transpose` has it, which see for formula, dtypes, gradients and last six arguments:

        full[b, m*s + j*d, n*t + l*e, o] += sum over i of filters[j, l, o, i] * input[b, m, n, i]

    Args:
        input: `[B, H, W, I]` for "NHWC", `[B, I, H, W]` for "NCHW".
        filters: `[kh, kw, O / groups, I]` in either data format.
        output_shape: four entries in data_format order, or None for the lengths that `conv1d_transpose` defaults to.
        strides: an int, or of length 1, 2, or 4 in data_format order with ones for batch and channels.
        padding: "SAME", "VALID", or what the forward convolution pads, four pairs in data_format order with zeros for batch and
            channels: `[[0, 0], [top, bottom], [left, right], [0, 0]]` for "NHWC". Then crop is top, left, and the valid lengths are
            `full <= L + top + bottom < full + s`.
        data_format: "NHWC", "NCHW", or None for "NHWC".
        dilations: in the forms of strides; None for 1.
        name: as for `conv1d_transpose`, as are the arguments after it.
        groups: see there.
        precision: see there.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        An array of shape output_shape.

    Raises:
        ValueError: a length, size, shape or choice that does not fit; the message names the values that would.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    References:
        `tf.nn.conv2d_transpose`, TensorFlow 2.21.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> x = jnp.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 2, 2, 1)
        >>> w = jnp.ones((3, 3, 1, 1))
        >>> jaxdeconv.conv2d_transpose(x, w, [1, 3, 3, 1], strides=2)[0, :, :, 0].astype(int).tolist()
        [[1, 11, 10], [101, 1111, 1010], [100, 1100, 1000]]
        >>> pads = [[0, 0], [1, 1], [1, 1], [0, 0]]
        >>> jaxdeconv.conv2d_transpose(x, w, [1, 4, 4, 1], 2, pads).shape
        (1, 4, 4, 1)
    """
    return _transposed(
        "conv2d_transpose",
        ("NHWC", "NCHW"),
        (input, filters, output_shape, strides, padding, data_format, dilations, groups),
        (name, precision, preferred_element_type, implementation, forward_mode),
    )


@canonicalize.known_keywords("conv3d_transpose")
def conv3d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Ints | None,
    strides: Ints,
    padding: Literal["SAME", "VALID"] | Sequence[Sequence[int]] = "SAME",
    data_format: Literal["NDHWC", "NCDHW"] | None = "NDHWC",
    dilations: Ints | None = None,
    name: str | None = None,
    *,
    groups: int | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed 3-D convolution with the exact semantics of `tf.nn.conv3d_transpose`.

    In each of the three dimensions as `conv1d_transpose` has it, which see for formula, dtypes, gradients and last six arguments.
    int32, which TensorFlow does not have in three dimensions, is an extension.

    Args:
        input: `[B, D, H, W, I]` for "NDHWC", `[B, I, D, H, W]` for "NCDHW".
        filters: `[kd, kh, kw, O / groups, I]` in either data format.
        output_shape: five entries in data_format order, or None for the lengths that `conv1d_transpose` defaults to.
        strides: an int, or of length 1, 3, or 5 in data_format order with ones for batch and channels.
        padding: "SAME" or "VALID"; or, an extension, five pairs as `conv2d_transpose` has four,
            `[[0, 0], [front, back], [top, bottom], [left, right], [0, 0]]` for "NDHWC".
        data_format: "NDHWC", "NCDHW", or None for "NDHWC".
        dilations: in the forms of strides; None for 1.
        name: as for `conv1d_transpose`, as are the arguments after it.
        groups: see there.
        precision: see there.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        An array of shape output_shape.

    Raises:
        ValueError: a length, size, shape or choice that does not fit; the message names the values that would.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    References:
        `tf.nn.conv3d_transpose`, TensorFlow 2.21.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> x, w = jnp.ones((1, 4, 4, 2, 8)), jnp.ones((3, 3, 3, 5, 8))
        >>> jaxdeconv.conv3d_transpose(x, w, [1, 8, 8, 3, 5], strides=2).shape
        (1, 8, 8, 3, 5)
    """
    return _transposed(
        "conv3d_transpose",
        ("NDHWC", "NCDHW"),
        (input, filters, output_shape, strides, padding, data_format, dilations, groups),
        (name, precision, preferred_element_type, implementation, forward_mode),
    )


@canonicalize.known_keywords("conv_transpose")
def conv_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Ints | None,
    strides: Ints,
    padding: Literal["SAME", "VALID"] | Sequence[Sequence[int]] = "SAME",
    data_format: str | None = None,
    dilations: Ints | None = None,
    name: str | None = None,
    *,
    groups: int | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed convolution in one, two or three dimensions with the exact semantics of `tf.nn.conv_transpose`.

    `conv1d_transpose`, `conv2d_transpose` or `conv3d_transpose`, by the number of entries of output_shape: 3, 4 or 5; by the rank of
    input where output_shape is None. See these for the formula, shapes, dtypes and gradients.

    Args:
        input: `[B, *W, I]`, or `[B, I, *W]` for the data formats that begin with "NC".
        filters: `[*k, O / groups, I]`.
        output_shape: as for the function of that rank.
        strides: as for the function of that rank.
        padding: as for the function of that rank.
        data_format: one of that function's; None for channels last.
        dilations: as for the function of that rank.
        name: as for `conv1d_transpose`, as are the arguments after it.
        groups: see there.
        precision: see there.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        An array of shape output_shape.

    Raises:
        ValueError: a length, size, shape or choice that does not fit; the message names the values that would.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    References:
        `tf.nn.conv_transpose`, TensorFlow 2.21.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> jaxdeconv.conv_transpose(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 5, 8)), [1, 8, 8, 5], strides=2).shape
        (1, 8, 8, 5)
    """
    function = "conv_transpose"
    if output_shape is None:
        rule, origin = "input must have rank 3, 4 or 5 where output_shape is None", "input.shape"
        sizes = canonicalize.array(function, "input", input, _DTYPES).shape
    else:
        rule, origin = "output_shape must have 3, 4 or 5 entries", "output_shape"
        sizes = canonicalize.integers(function, origin, output_shape)
    if len(sizes) not in _FORMATS:
        advice = "jaxdeconv.lax.conv_transpose takes any number of dimensions"
        if origin == "output_shape" and len(sizes) + 2 in _FORMATS:
            advice = f"pass all of its sizes, [batch, {', '.join(map(str, sizes))}, channels], or None"
        raise error(ValueError, function, rule, origin, sizes, advice)
    return _transposed(
        function,
        _FORMATS[len(sizes)],
        (input, filters, output_shape, strides, padding, data_format, dilations, groups),
        (name, precision, preferred_element_type, implementation, forward_mode),
    )


_FORMATS = {3: ("NWC", "NCW"), 4: ("NHWC", "NCHW"), 5: ("NDHWC", "NCDHW")}


def _transposed(function: str, formats: tuple[str, str], arguments: tuple[Any, ...], how: tuple[Any, ...]) -> jax.Array:
    """Any of the above: their arguments that place the window, and those that say how to compute."""
    x, w, output_shape, strides, padding, data_format, dilations, groups = arguments
    n = len(formats[0]) - 2
    canonicalize.choice(function, "data_format", data_format, (*formats, None))
    channels_last = data_format != formats[1]
    if isinstance(padding, list | tuple | np.ndarray | jax.Array):
        pads = _explicit_pads(function, padding, n, channels_last)
    else:
        hint = f"upper case, as in TensorFlow, or {_COUNTS[n]} pairs of integers{_padding_hint(n, [padding])}"
        canonicalize.choice(function, "padding", padding, ("SAME", "VALID"), hint)
        pads = ((0, 0),) * n
    strides = canonicalize.spatial(function, "strides", strides, n, channels_last)
    dilations = canonicalize.spatial(function, "dilations", 1 if dilations is None else dilations, n, channels_last)
    x = canonicalize.array(function, "input", x, _DTYPES)
    w = canonicalize.array(function, "filters", w, _DTYPES)
    canonicalize.same_dtype(function, "input", x, "filters", w)
    axes = canonicalize.axis_names(n, channels_last, "in")
    canonicalize.rank(function, "input", x, axes, _rank_advice(function, n, x.ndim, w.ndim))
    spatial_names = ", ".join(canonicalize.SPATIAL[-n:])
    advice = f"bring [in, out / groups, {spatial_names}] of torch or ONNX here with jaxdeconv.convert_filters"
    canonicalize.rank(function, "filters", w, f"[{spatial_names}, out / groups, in]", advice, canonicalize.SEVERAL_FILTERS)
    same = isinstance(padding, str) and padding == "SAME"
    pads_or_same = None if same else pads
    geometry = _geometry(
        function, x.shape, w.shape, output_shape, groups, strides, dilations, padding, pads_or_same, channels_last, formats
    )
    return _conv_transpose(x, w, geometry, _options.options(function, x, *how))


_COUNTS = {1: "three", 2: "four", 3: "five"}


def _padding_hint(n: int, padding: Sequence[Any]) -> str:
    """What to do about what others have in place of a name or pairs: a causal padding, or numbers, as torch has them."""
    if n == 1 and padding and isinstance(padding[0], str) and padding[0].upper() == "CAUSAL":
        return "; [[0, 0], [0, max(ke - s, 0)], [0, 0]] is causal in 'NWC', with stride s and ke = (k - 1) * dilation + 1"
    numbers = len(padding) > 0 and all(isinstance(p, int | np.integer) and not isinstance(p, bool) for p in padding)
    return f", or call jaxdeconv.torch.conv_transpose{n}d, which takes numbers, as torch does" * numbers


def _rank_advice(function: str, n: int, x_ndim: int, w_ndim: int) -> str:
    if function == "conv_transpose":
        return "output_shape has an entry for each axis of input, and jax.vmap maps over more"
    if x_ndim in _FORMATS and (x_ndim == w_ndim or x_ndim > n + 2):
        return f"call conv{x_ndim - 2}d_transpose, which takes rank {x_ndim}, or map over more axes with jax.vmap"
    return "add a batch dimension with input[None], or map over more with jax.vmap"


def _explicit_pads(function: str, padding: Any, n: int, channels_last: bool) -> tuple[tuple[int, int], ...]:
    """What the forward convolution pads in each spatial dimension, from n + 2 pairs as TensorFlow has them in two dimensions."""

    def entries(value: Any) -> Sequence[Any]:
        if canonicalize.has_values(value):
            value = np.asarray(value).tolist()
        return value if isinstance(value, list | tuple) else (value,)

    pairs = [tuple(canonicalize.integer(function, "padding", p, padding) for p in entries(row)) for row in entries(padding)]
    names = ("[front, back]", "[top, bottom]", "[left, right]")[-n:]
    order = f"[{', '.join(('[0, 0]', *names, '[0, 0]') if channels_last else ('[0, 0]', '[0, 0]', *names))}]"
    numbers = _padding_hint(n, entries(padding))
    largest = canonicalize.LARGEST
    if len(pairs) != n + 2 or not all(
        len(pair) == 2 and all(isinstance(p, int) and 0 <= p <= largest for p in pair) for pair in pairs
    ):
        rule = f"explicit padding must be {_COUNTS[n]} pairs of integers from 0 to {largest}"
        raise error(ValueError, function, rule, "padding", padding, f"pass {order}{numbers}")
    spatial, others = (pairs[1:-1], (pairs[0], pairs[-1])) if channels_last else (pairs[2:], (pairs[0], pairs[1]))
    if others != ((0, 0), (0, 0)):
        rule = "explicit padding must be [0, 0] for batch and channels"
        raise error(ValueError, function, rule, "padding", padding, f"pass {order} as data_format says")
    return tuple((low, high) for low, high in spatial)


def _geometry(
    function: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    output_shape: object,
    groups: Any,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padding: object,
    pads: tuple[tuple[int, int], ...] | None,
    channels_last: bool,
    formats: tuple[str, str],
) -> Geometry:
    """TensorFlow's placement of the output: Eigen's validation, with groups as its XLA kernels have them. pads is None for SAME."""
    n = len(strides)
    out_per_group, in_channels = w_shape[-2:]
    kernel = canonicalize.kernel_size(function, "filters", w_shape, range(n), n)
    channel_axis, other_axis = (n + 1, 1) if channels_last else (1, n + 1)
    spatial_axes = range(1, n + 1) if channels_last else range(2, n + 2)
    sizes = None if output_shape is None else canonicalize.integers(function, "output_shape", output_shape)
    groups = None if groups is None else canonicalize.integer(function, "groups", groups)
    if x_shape[channel_axis] != in_channels:
        rule = f"axis {channel_axis} of input and the last axis of filters must be equal, and input has shape {x_shape}"
        outputs = None if sizes is None or len(sizes) != n + 2 else sizes[channel_axis]
        move = f"pass data_format={formats[channels_last]!r}, if the channels of input come {'first' if channels_last else 'last'}"
        advice = f"filters are [{', '.join(canonicalize.SPATIAL[-n:])}, out / groups, in] whatever data_format is"
        channels = x_shape[channel_axis], x_shape[other_axis]
        advice = canonicalize.channels_advice("filters", w_shape, "tf", channels, outputs, groups or 1, move, advice)
        raise error(ValueError, function, rule, "filters.shape", w_shape, advice)
    if groups is not None and (not isinstance(groups, int) or groups < 1 or in_channels % groups):
        rule = f"groups must divide the {in_channels} input channels, the last axis of filters"
        raise error(ValueError, function, rule, "groups", groups, "pass 1 for no groups")

    lengths: tuple[int | None, ...] = (None,) * n
    order = ""  # what to do about sizes in the order of the other data format
    if sizes is not None:
        if len(sizes) != n + 2:
            rule = f"output_shape must have {n + 2} entries, {canonicalize.axis_names(n, channels_last, 'out')}"
            raise error(ValueError, function, rule, "output_shape", sizes, "give the whole shape, or None")
        given = sizes[1:] if sizes[0] == -1 else sizes
        if any(isinstance(size, int) and size < 0 for size in given):
            rule = "output_shape must not have negative entries"
            advice = "give every size but the batch, which may be -1, or None for the whole"
            raise error(ValueError, function, rule, "output_shape", sizes, advice)
        if sizes[0] not in (-1, x_shape[0]):
            rule = f"output_shape[0] must be the batch size of input, {x_shape[0]}"
            raise error(ValueError, function, rule, "output_shape", sizes, f"pass {x_shape[0]} there")
        expected = (groups or 1) * out_per_group
        if sizes[channel_axis] != expected == sizes[other_axis]:
            rest = sizes[2:] if channels_last else sizes[1:-1]
            ordered = (sizes[0], *rest, expected) if channels_last else (sizes[0], expected, *rest)
            own, other = formats if channels_last else formats[::-1]
            order = f"it seems to be in the order of {other!r}; in that of {own!r} pass {ordered}"
        groups = _groups(function, sizes, channel_axis, out_per_group, in_channels, groups, order)
        lengths = tuple(sizes[axis] for axis in spatial_axes)
    crops = tuple(
        _crops(function, padding, pad, axis, x_shape[axis], length, k, s, d, sizes, order)
        for pad, axis, length, k, s, d in zip(pads or (None,) * n, spatial_axes, lengths, kernel, strides, dilations, strict=True)
    )
    return Geometry(kernel, strides, dilations, crops, 1 if groups is None else groups, channels_last)


def _groups(
    function: str,
    sizes: tuple[int, ...],
    channel_axis: int,
    out_per_group: int,
    in_channels: int,
    groups: int | None,
    order: str,
) -> int:
    """The groups that are given, or those of output_shape, which warn, for a mistyped number of channels makes groups, too."""
    channels = sizes[channel_axis]
    if groups is not None:
        if channels != groups * out_per_group:
            rule = f"output_shape[{channel_axis}] must be {groups} * {out_per_group}, groups times the output channels of filters"
            advice = order or f"pass {groups * out_per_group} there, or other groups"
            raise error(ValueError, function, rule, "output_shape", sizes, advice)
        return groups
    if channels == out_per_group:
        return 1
    fits = channels > 0 and channels % out_per_group == 0
    if not fits or in_channels % (channels // out_per_group) != 0:
        rule = (
            f"output_shape[{channel_axis}] must be groups * {out_per_group}, the output channels of filters, "
            f"with groups a divisor of the {in_channels} input channels"
        )
        advice = order or f"for one group pass {out_per_group} there"
        raise error(ValueError, function, rule, "output_shape", sizes, advice)
    groups = channels // out_per_group
    rule = f"output_shape[{channel_axis}] is {groups} * {out_per_group}, the output channels of filters, which makes {groups} groups"
    advice = f"pass groups={groups} if they are meant, or {out_per_group} there for one group"
    # At the line that called conv1d_transpose, past what checks its keywords, _transposed and _geometry.
    warnings.warn(canonicalize.message(function, rule, "output_shape", sizes, advice), stacklevel=6)
    return groups


def _crops(
    function: str,
    padding: object,
    pads: tuple[int, int] | None,
    axis: int,
    size: int,
    length: int | None,
    k: int,
    s: int,
    d: int,
    output_shape: tuple[int, ...] | None,
    order: str,
) -> tuple[int, int]:
    """(crop_lo, crop_hi) of one dimension, for every length from which a strided convolution returns to size, and no other."""
    ke, full = effective_kernel(k, d), full_size(size, k, s, d)
    if pads is not None and isinstance(size, int) and size == 0:
        rule = f"axis {axis} of input must not be empty under padding={canonicalize.describe(padding)}"
        raise error(ValueError, function, rule, f"input.shape[{axis}]", size, "pass padding='SAME', for an empty output")
    # The valid lengths are s in a row: from first for given pads (VALID is pads of zero), up to last for SAME.
    if pads is None:
        first, last = s * (size - 1) + 1, s * size
        default = last
    else:
        first = full - sum(pads)
        last, default = first + s - 1, first + max(s - ke, 0)
        if isinstance(last, int) and last < 0:
            rule = f"padding of axis {axis} must add up to at most {full + s - 1} for an input of size {size}"
            raise error(ValueError, function, rule, "padding", padding, "pass less, for no output size is valid")
    if length is None:
        length = default
    above = length - first
    if not isinstance(above, int) or not 0 <= above < s or (isinstance(length, int) and length < 0):
        bounds = [max(bound, 0) if isinstance(bound, int) else bound for bound in (first, last)]
        rule = (
            f"under padding={canonicalize.describe(padding)} an input of size {size} with kernel {k}, stride {s} and dilation {d} "
            f"needs output_shape[{axis}] from {bounds[0]} to {bounds[1]}"
        )
        default_advice = "" if isinstance(default, int) and default < 0 else f", or output_shape=None for {default}"
        raise error(ValueError, function, rule, "output_shape", output_shape, order or f"pass one of these sizes{default_advice}")
    crop = max(full - length, 0) // 2 if pads is None else pads[0]
    return crop, full - length - crop

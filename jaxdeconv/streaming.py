"""conv1d_transpose chunk by chunk: pure functions and an explicit state. The op itself is the core's; only the overlap is kept here.

With kernel k, stride s, dilation d and ke = (k-1)*d + 1, input sample n reaches full[n*s] to full[n*s + ke - 1]. Once W samples are
in, full[: W*s] is complete, and the ke - s samples after it are sums to which later inputs still add: these are the state. The
output, full[crop_lo : (W-1)*s + ke - crop_hi], is emitted as it becomes complete, except for what the end may yet crop: `held`
samples, 0 unless crop_hi > ke - s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv._call import biased
from jaxdeconv._call import conv_transpose as _conv_transpose
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._contractions import Options, accumulated
from jaxdeconv._geometry import Geometry, effective_kernel

_DTYPES = (*canonicalize.FLOATS, *canonicalize.COMPLEX, *canonicalize.INTEGERS)


@partial(jax.tree_util.register_dataclass, data_fields=["pending"], meta_fields=["filters", "geometry", "options", "skip"])
@dataclasses.dataclass(frozen=True)
class State:
    """What a stream remembers between chunks: a pytree with one leaf, `pending`; all else is static.

    pending is `[B, P, O]`, or `[B, O, P]` for "NCW", with `P = max(ke - s, 0)`: sums that later inputs add to. Where the crop at the
    end is larger than ke - s, P has so many samples more, which are complete but may prove to be beyond the end. float16 and bfloat16
    are summed in float32. skip counts the outputs that are still to be dropped at the start.
    """

    pending: jax.Array
    filters: jax.ShapeDtypeStruct
    geometry: Geometry
    options: Options
    skip: int

    @property
    def latency(self) -> int:
        """By how many output samples the stream lags: y[m] leaves it with input sample (m + latency) // s, in any chunks."""
        return self.geometry.crops[0][0] + _held(self.geometry)


def init(
    filters: ArrayLike | jax.ShapeDtypeStruct,
    strides: int | Sequence[int],
    crops: tuple[int, int] | None = None,
    data_format: str | None = "NWC",
    dilations: int | Sequence[int] | None = None,
    *,
    groups: int = 1,
    batch: int = 1,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> State:
    """The state of a stream before its first chunk.

    A stream computes, in chunks of any lengths, the transposed convolution of all its input of length W,

        full[b, n*s + j*d, o] += sum over i of filters[j, o, i] * input[b, n, i]
        output = full[:, crop_lo : (W-1)*s + ke - crop_hi, :]        with  ke = (k-1)*d + 1

    so that what `step` returns for each chunk, and `flush` at the end, put one after the other are that output.

    Args:
        filters: `[k, O / groups, I]`, of any floating, complex or signed integer dtype; a `jax.ShapeDtypeStruct` will do.
        strides: s >= 1, in the forms that `jaxdeconv.conv1d_transpose` takes.
        crops: (crop_lo, crop_hi), as `jaxdeconv.explain` gives them for a call in any convention: for PyTorch
            `(padding, padding - output_padding)`; negative ones extend with zeros. None for a causal stream, `(0, ke - s)`: W*s
            outputs, no latency, and nothing left for `flush`.
        data_format: "NWC", "NCW", or None for "NWC".
        dilations: d >= 1 in the forms of strides; None for 1.
        groups: of the channels; divides I.
        batch: B.
        precision: as for `jaxdeconv.conv1d_transpose`, as are the arguments after it.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        A `State`, which is a pytree of one array of zeros.

    Raises:
        ValueError: a size or choice that does not fit.
        TypeError: an argument of the wrong type.

    Gradients:
        None; `step` has them.

    Example:
        >>> import jax
        >>> from jaxdeconv import streaming
        >>> streaming.init(jax.ShapeDtypeStruct((16, 256, 512), "float32"), strides=8).pending.shape
        (1, 8, 256)
        >>> streaming.init(jax.ShapeDtypeStruct((16, 256, 512), "float32"), strides=8, crops=(4, 4)).latency
        4
    """
    function = "streaming.init"
    canonicalize.choice(function, "data_format", data_format, ("NWC", "NCW", None))
    channels_last = data_format != "NCW"
    array = jnp.empty(0, filters.dtype) if isinstance(filters, jax.ShapeDtypeStruct) else filters
    dtype = canonicalize.array(function, "filters", array, _DTYPES).dtype
    w: Any = jax.ShapeDtypeStruct(jnp.shape(filters), dtype)  # type: ignore[no-untyped-call]
    (s,) = canonicalize.spatial(function, "strides", strides, 1, channels_last)
    (d,) = canonicalize.spatial(function, "dilations", 1 if dilations is None else dilations, 1, channels_last)
    advice = "bring [in, out / groups, width] of torch or ONNX here with jaxdeconv.convert_filters"
    canonicalize.rank(function, "filters", w, "[width, out / groups, in]", advice)
    kernel = canonicalize.kernel_size(function, "filters", w.shape, range(1), 1)
    groups, batch = canonicalize.integer(function, "groups", groups), canonicalize.integer(function, "batch", batch)
    if groups < 1 or w.shape[-1] % groups:
        rule = f"groups must divide the {w.shape[-1]} input channels of filters"
        raise error(ValueError, function, rule, "groups", groups, "pass 1 for none")
    if batch < 0:
        raise error(ValueError, function, "batch must not be negative", "batch", batch, "pass the batch size of the chunks")
    ke = effective_kernel(kernel[0], d)
    pair = (0, ke - s) if crops is None else canonicalize.integers(function, "crops", crops)
    if len(pair) != 2 or not all(isinstance(crop, int) and abs(crop) <= canonicalize.LARGEST for crop in pair):
        rule = "crops must be two integers, what the window drops at the start and at the end"
        raise error(ValueError, function, rule, "crops", crops, f"pass (0, {ke - s}) or None for a causal stream")
    options = canonicalize.options(function, w, "streaming_step", precision, preferred_element_type, implementation, forward_mode)
    geometry = Geometry(kernel, (s,), (d,), ((pair[0], pair[1]),), groups, channels_last)

    held = _held(geometry)
    channels = w.shape[1] * groups
    size = held + max(ke - s, 0)
    pending = jnp.zeros((batch, size, channels) if channels_last else (batch, channels, size), accumulated(options.dtype))
    return State(pending, w, geometry, options._replace(function="streaming.step"), pair[0] + held)


def step(state: State, input: ArrayLike, filters: ArrayLike, bias: ArrayLike | None = None) -> tuple[State, jax.Array]:
    """Takes in one chunk, and returns the outputs that are complete with it; formula and crops as in `init`.

    `jax.jit`, `jax.vmap` and `jax.lax.scan` take it as it is. A chunk of W samples gives W*s outputs, less what crop_lo drops of the
    first chunks. That is static, so that a scan over a stream with a crop at its start begins once `state.skip` is 0.

    Args:
        state: from `init` or from the last step; never changed.
        input: the chunk, `[B, W, I]`, or `[B, I, W]` for "NCW", of the dtype of filters. W may differ from step to step, and be zero.
        filters: of the shape and dtype given to `init`.
        bias: `[O]` of the dtype of input, added to every output; None for none.

    Returns:
        The next state, and the outputs, `[B, W*s - dropped, O]`, or `[B, O, W*s - dropped]` for "NCW".

    Raises:
        ValueError: a chunk, filters or bias that do not fit the state, which remains as it was.
        TypeError: something else than a state or an array, or another dtype than the stream has.

    Gradients:
        As those of `jaxdeconv.conv1d_transpose`, in the chunk, the filters, the bias and the state's array. Through a stream of steps
        they are those of the whole op.

    References:
        Overlap-add: A. V. Oppenheim and R. W. Schafer, Discrete-Time Signal Processing, section 8.7.3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv import conv1d_transpose, streaming
        >>> x = jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1)
        >>> w = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        >>> conv1d_transpose(x, w, [1, 7, 1], strides=2, padding="VALID").ravel().tolist()
        [1.0, 2.0, 13.0, 20.0, 130.0, 200.0, 300.0]
        >>> state = streaming.init(w, strides=2, crops=(0, 0))
        >>> state, y = streaming.step(state, x[:, :1], w)
        >>> y.ravel().tolist()
        [1.0, 2.0]
        >>> state, y = streaming.step(state, x[:, 1:], w)
        >>> y.ravel().tolist(), streaming.flush(state).ravel().tolist()
        ([13.0, 20.0, 130.0, 200.0], [300.0])
    """
    function = "streaming.step"
    _check_state(function, state)
    x, w = canonicalize.array(function, "input", input, _DTYPES), canonicalize.array(function, "filters", filters, _DTYPES)
    if (w.shape, w.dtype) != (state.filters.shape, state.filters.dtype):
        rule = f"filters must be of the shape and dtype that the state is of, {state.filters.dtype.name}{list(state.filters.shape)}"
        kind = TypeError if w.shape == state.filters.shape else ValueError
        raise error(kind, function, rule, "filters", jax.typeof(w), "make a state for these with streaming.init")
    canonicalize.same_dtype(function, "filters", w, "input", x)
    geometry = state.geometry
    axes = canonicalize.axis_names(1, geometry.channels_last, "in")
    canonicalize.rank(function, "input", x, axes, "add a batch dimension with input[None], or map over more with jax.vmap")
    if (x.shape[0], x.shape[geometry.channel_axis]) != (state.pending.shape[0], w.shape[-1]):
        rule = f"input, {axes}, must have the batch of the state, {state.pending.shape[0]}, and the {w.shape[-1]} channels of filters"
        raise error(ValueError, function, rule, "input.shape", x.shape, "only the width may differ from chunk to chunk")
    if state.skip and not isinstance(x.shape[geometry.spatial_axes[0]], int):
        rule = "the width of input must be static while outputs are dropped at the start"
        raise error(ValueError, function, rule, "input.shape", x.shape, "take a first step of a known width, until state.skip is 0")
    b = canonicalize.bias_of(function, bias, "bias", w.shape[1] * geometry.groups, "input", x)
    result: tuple[State, jax.Array] = _step(state, x, w, b)
    return result


def flush(state: State, bias: ArrayLike | None = None) -> jax.Array:
    """The outputs after the last step: what the stream ends with. The state remains as it was, so that a stream can also go on.

    Args:
        state: from the last step.
        bias: as for `step`.

    Returns:
        `[B, ke - s - crop_hi, O]`, or `[B, O, ke - s - crop_hi]` for "NCW", less what crop_lo drops of a stream shorter than it.
        Empty for a causal stream, and where crop_hi is larger.

    Raises:
        ValueError: a bias that does not fit the state.
        TypeError: something else than a state, or a bias of another dtype than the filters.

    Gradients:
        In the state's array and the bias.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv import streaming
        >>> w = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1)
        >>> state, y = streaming.step(streaming.init(w, 2, crops=(1, 1)), jnp.ones((1, 3, 1)), w)
        >>> y.ravel().tolist(), streaming.flush(state).ravel().tolist()
        ([2.0, 4.0, 6.0, 4.0, 6.0], [3.0])
    """
    function = "streaming.flush"
    _check_state(function, state)
    b = canonicalize.bias_of(
        function, bias, "bias", state.filters.shape[1] * state.geometry.groups, "filters", cast(Any, state.filters)
    )
    result: jax.Array = _flush(state, b)
    return result


def _held(geometry: Geometry) -> int:
    """How many complete outputs the stream holds back, because at the end as many are cropped."""
    return max(geometry.crops[0][1] - (geometry.effective_kernels[0] - geometry.strides[0]), 0)


def _check_state(function: str, state: object) -> None:
    if not isinstance(state, State):
        advice = "pass what streaming.init or the last streaming.step returned; step returns the state first"
        raise error(TypeError, function, "state must be a streaming.State", "state", state, advice)


def _padded(a: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    """Along the width, with zeros; negative widths crop."""
    widths = [(0, 0, 0)] * a.ndim
    widths[axis] = (low, high, 0)
    return lax.pad(a, jnp.zeros((), a.dtype), widths) if low or high else a


@jax.jit
def _step(state: State, x: jax.Array, w: jax.Array, bias: jax.Array | None) -> tuple[State, jax.Array]:
    geometry, (axis,) = state.geometry, state.geometry.spatial_axes
    (s,), overlap = geometry.strides, geometry.effective_kernels[0] - geometry.strides[0]
    ready = s * x.shape[axis]  # how many outputs are complete with this chunk

    # Of W inputs, W*s samples and the overlap, in the accumulator's dtype so that the output is rounded once, as the whole op's is.
    own = dataclasses.replace(geometry, crops=((0, min(overlap, 0)),))
    reached = _conv_transpose(x, w, own, state.options._replace(dtype=state.pending.dtype))
    reached = _padded(reached, axis, _held(geometry), 0)
    # Joined, because XLA on CPU does not fuse a pending that is padded with zeros into the sum.
    first, rest = jnp.split(reached, [state.pending.shape[axis]], axis)
    sums = lax.concatenate([first + state.pending, rest], axis)

    dropped = min(state.skip, ready) if state.skip else 0  # negative: zeros that come first
    y = _padded(lax.slice_in_dim(sums, 0, ready, axis=axis), axis, -dropped, 0)
    pending = lax.slice_in_dim(sums, ready, sums.shape[axis], axis=axis)
    following = dataclasses.replace(state, pending=pending, skip=state.skip - dropped)
    return following, biased(y.astype(state.options.dtype), bias, geometry.channel_axis)


@jax.jit
def _flush(state: State, bias: jax.Array | None) -> jax.Array:
    geometry, (axis,) = state.geometry, state.geometry.spatial_axes
    size = state.pending.shape[axis]
    left = max(geometry.effective_kernels[0] - geometry.strides[0] - geometry.crops[0][1], 0)
    dropped = min(state.skip, left)
    return biased(_padded(state.pending, axis, -dropped, left - size).astype(state.options.dtype), bias, geometry.channel_axis)

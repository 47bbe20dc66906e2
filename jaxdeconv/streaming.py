"""conv1d_transpose chunk by chunk: pure functions and an explicit state. The op itself is the core's; only the overlap is kept here.

With kernel k, stride s, dilation d and ke = (k-1)*d + 1, input sample n reaches full[n*s] to full[n*s + ke - 1]. Once W samples are
in, full[: W*s] is complete, and the ke - s samples after it are sums to which later inputs still add: these are the state. The
output, full[crop_lo : (W-1)*s + ke - crop_hi], is emitted as it becomes complete, except for what the end may yet crop: `held`
samples, 0 unless crop_hi > ke - s.

A delayed stream emits W*s samples for W inputs, whatever the crops are: zeros for what crop_lo drops, so that shapes never change.
Where crop_lo is negative, it holds back as many as come before the first sum. Whether a row is still at its start cannot be told
from its sums, so that it counts, from zero.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._call import biased
from jaxdeconv._call import conv_transpose as _conv_transpose
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._contractions import Options, accumulated
from jaxdeconv._geometry import Geometry, effective_kernel

_DTYPES = (*canonicalize.FLOATS, *canonicalize.COMPLEX, *canonicalize.INTEGERS)


class Static(NamedTuple):
    """All of a stream that is no array: the metadata by which JAX tells states of different streams apart, named in its errors."""

    filters: jax.ShapeDtypeStruct
    geometry: Geometry
    options: Options
    delayed: bool
    input_latency: int
    skip: int

    @property
    def overlap(self) -> int:
        """ke - s: how many sums are not complete; negative where there are gaps."""
        return self.geometry.effective_kernels[0] - self.geometry.strides[0]

    @property
    def held(self) -> int:
        """How many complete outputs the stream holds back, for the end may crop them, or zeros come before them."""
        crop_lo, crop_hi = self.geometry.crops[0]
        return max(crop_hi - self.overlap, -crop_lo if self.delayed else 0, 0)

    @property
    def latency(self) -> int:
        return self.input_latency * self.geometry.strides[0] + self.geometry.crops[0][0] + self.held

    def arrays(self, batch: int) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of each array of a state."""
        size, channels = self.held + max(self.overlap, 0), self.filters.shape[1] * self.geometry.groups
        shape = (batch, size, channels) if self.geometry.channels_last else (batch, channels, size)
        pending, position = (shape, np.dtype(accumulated(self.options.dtype))), ((batch, 1, 1), np.dtype(np.int32))
        return {"pending": pending, "position": position} if self.delayed else {"pending": pending}


@partial(jax.tree_util.register_dataclass, data_fields=["pending", "position"], meta_fields=["static"])
@dataclasses.dataclass(frozen=True)
class State:
    """What a stream remembers between chunks: a pytree of one array, `pending`, and of a second, `position`, if it is delayed.

    pending is `[B, P, O]`, or `[B, O, P]` for "NCW", with `P = max(ke - s, 0)`: sums that later inputs add to. Where the crop at the
    end is larger than ke - s, P has so many samples more, which are complete but may prove to be beyond the end. float16 and bfloat16
    are summed in float32.

    position is `[B, 1, 1]` of int32: how many of its first `latency` outputs, which are zeros, a row of a delayed stream has had. It
    is None for others. All else is static. A row of zeros is a row before its first chunk, and both arrays have three dimensions, so
    that one `jax.tree.map` restarts rows, or takes some from one state and some from another:

        jax.tree.map(lambda a: jnp.where(fresh[:, None, None], 0, a), state)
        jax.tree.map(lambda a, b: jnp.where(running[:, None, None], a, b), following, state)

    `jax.export` serializes functions of states, without their tuning, and `flax.serialization` states, where flax was imported before
    `init` was called.
    """

    pending: jax.Array
    position: jax.Array | None
    static: Static = dataclasses.field(repr=False)

    def __repr__(self) -> str:
        arrays = {"pending": self.pending} | ({} if self.position is None else {"position": self.position})
        shown = [f"{name}={getattr(a, 'dtype', '')}{list(getattr(a, 'shape', ()))}" for name, a in arrays.items()]
        return f"State({', '.join(shown)}, latency={self.latency}, skip={self.skip})"

    @property
    def latency(self) -> int:
        """By how many output samples the stream lags: y[m] leaves it with input sample (m + latency) // s, in any chunks."""
        return self.static.latency

    @property
    def skip(self) -> int:
        """How many outputs are still to be dropped at the start: 0 if the stream is delayed, which gives zeros instead."""
        return self.static.skip


@canonicalize.known_keywords("streaming.init")
def init(
    filters: ArrayLike | jax.ShapeDtypeStruct,
    strides: int | Sequence[int],
    *unnamed: Any,
    crops: tuple[int, int] | None = None,
    data_format: str | None = "NWC",
    dilations: int | Sequence[int] | None = None,
    groups: int = 1,
    batch: int = 1,
    delayed: bool = False,
    input_latency: int = 0,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> State:
    """The state of a stream before its first chunk.

    A stream computes, in chunks of any lengths, the transposed convolution of all its input of length W,

        full[b, n*s + j*d, o] += sum over i of filters[j, o, i] * input[b, n, i]
        output = full[:, crop_lo : (W-1)*s + ke - crop_hi, :]        with  ke = (k-1)*d + 1

    so that what `step` returns for each chunk, and `flush` at the end, put one after the other are that output. If it is delayed,
    they are the output after `latency` zeros, `state.latency` of the state that is returned:

        streamed[:, n, :] = 0                              for  n < latency
        streamed[:, n, :] = output[:, n - latency, :]      for the others

    Then each step returns W*s samples, and the state is of arrays alone, whose structure and shapes never change: for `jax.lax.scan`
    from the first chunk on, `jax.lax.cond`, and rows that start and end on their own.

    Args:
        filters: `[k, O / groups, I]`, of any floating, complex or signed integer dtype; a `jax.ShapeDtypeStruct` will do.
        strides: s >= 1, in the forms that `jaxdeconv.conv1d_transpose` takes.
        *unnamed: none may be given, since two numbers here could be a padding as well: all arguments but these two have names.
        crops: (crop_lo, crop_hi), as `jaxdeconv.explain` gives them for a call in any convention: for PyTorch
            `(padding, padding - output_padding)`; negative ones extend with zeros. None for a causal stream, `(0, ke - s)`: W*s
            outputs, no latency, and nothing left for `flush`. One that crops its start goes into `jax.lax.scan` if it is delayed.
        data_format: "NWC", "NCW", or None for "NWC".
        dilations: d >= 1 in the forms of strides; None for 1.
        groups: of the channels; divides I.
        batch: B.
        delayed: whether the first `latency` outputs are zeros, rather than not there.
        input_latency: how many zeros come before the input: the latency of the stream before this one, where that is delayed, too.
            This one's zeros are then so many times s more.
        precision: as for `jaxdeconv.conv1d_transpose`, as are the arguments after it.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        A `State`, which is a pytree of zeros: of one array, or of two if it is delayed.

    Raises:
        ValueError: a size or choice that does not fit.
        TypeError: an argument of the wrong type.

    Gradients:
        None; `step` has them.

    Examples:
        >>> import jax
        >>> from jaxdeconv import streaming
        >>> streaming.init(jax.ShapeDtypeStruct((16, 256, 512), "float32"), strides=8).pending.shape
        (1, 8, 256)
        >>> streaming.init(jax.ShapeDtypeStruct((16, 256, 512), "float32"), strides=8, crops=(4, 4)).latency
        4
        >>> w, chunks = jax.numpy.ones((4, 1, 1)), jax.numpy.ones((2, 1, 3, 1))  # two of three samples
        >>> state = streaming.init(w, strides=2, crops=(1, 1), delayed=True)
        >>> _, y = jax.lax.scan(lambda state, chunk: streaming.step(state, chunk, w), state, chunks)
        >>> y.ravel().tolist()  # one sample late
        [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    function = "streaming.init"
    if unnamed:
        pair = unnamed[0] if isinstance(unnamed[0], tuple) else unnamed[:2]
        written = pair if len(pair) == 2 and all(isinstance(each, int) for each in pair) else "(crop_lo, crop_hi)"
        advice = f"write crops={written}, data_format= and so on; crops are what the window drops at the start and at the end"
        raise error(TypeError, function, "arguments after strides must have their names", "unnamed", unnamed, advice)
    canonicalize.choice(function, "data_format", data_format, ("NWC", "NCW", None))
    channels_last = data_format != "NCW"
    abstract = isinstance(filters, jax.ShapeDtypeStruct)
    w: Any = filters if abstract else canonicalize.array(function, "filters", filters, _DTYPES)  # type: ignore[arg-type]
    dtype = canonicalize.array(function, "filters", jnp.empty(0, w.dtype), _DTYPES).dtype
    w = jax.ShapeDtypeStruct(w.shape, dtype)  # type: ignore[no-untyped-call]
    (s,) = canonicalize.spatial(function, "strides", strides, 1, channels_last)
    (d,) = canonicalize.spatial(function, "dilations", 1 if dilations is None else dilations, 1, channels_last)
    advice = "bring [in, out / groups, width] of torch or ONNX here with jaxdeconv.convert_filters"
    canonicalize.rank(function, "filters", w, "[width, out / groups, in]", advice, canonicalize.SEVERAL_FILTERS)
    kernel = canonicalize.kernel_size(function, "filters", w.shape, range(1), 1)
    groups, batch = canonicalize.integer(function, "groups", groups), canonicalize.integer(function, "batch", batch)
    if groups < 1 or w.shape[-1] % groups:
        rule = f"groups must divide the {w.shape[-1]} input channels of filters"
        raise error(ValueError, function, rule, "groups", groups, "pass 1 for none")
    if batch < 0:
        raise error(ValueError, function, "batch must not be negative", "batch", batch, "pass the batch size of the chunks")
    ke = effective_kernel(kernel[0], d)
    if isinstance(crops, str):
        advice = "pass jaxdeconv.explain(function, ...).crops[0] of a call with that padding, or None for a causal stream"
        raise error(TypeError, function, "crops must be two integers", "crops", crops, advice)
    pair = (0, ke - s) if crops is None else canonicalize.integers(function, "crops", crops)
    if len(pair) != 2 or not all(isinstance(crop, int) and abs(crop) <= canonicalize.LARGEST for crop in pair):
        rule = "crops must be two integers, what the window drops at the start and at the end"
        both = f"{(*pair, *pair)} to drop so many at both, or " * (len(pair) == 1)
        raise error(ValueError, function, rule, "crops", crops, f"pass {both}(0, {ke - s}) or None for a causal stream")
    canonicalize.choice(function, "delayed", delayed, (False, True))
    options = _options.options(function, w, "streaming_step", precision, preferred_element_type, implementation, forward_mode)
    geometry = Geometry(kernel, (s,), (d,), ((pair[0], pair[1]),), groups, channels_last)

    static = Static(w, geometry, options._replace(function="streaming.step"), delayed, input_latency=0, skip=0)
    lag, most = canonicalize.integer(function, "input_latency", input_latency), (canonicalize.LARGEST - static.latency) // s
    if not 0 <= lag <= (most if delayed else 0):
        rule = f"input_latency must be from 0 to {most}, and 0 unless delayed=True"
        advice = "pass the latency of the stream before this one, and delayed=True to both"
        raise error(ValueError, function, rule, "input_latency", input_latency, advice)
    static = static._replace(input_latency=lag, skip=0 if delayed else static.latency)
    _register_with_flax()
    arrays = {name: jnp.zeros(*each) for name, each in static.arrays(batch).items()}
    return State(arrays["pending"], arrays.get("position"), static)


def step(state: State, input: ArrayLike, filters: ArrayLike, bias: ArrayLike | None = None) -> tuple[State, jax.Array]:
    """Takes in one chunk, and returns the outputs that are complete with it; formula and crops as in `init`.

    `jax.jit`, `jax.vmap` and `jax.lax.scan` take it as it is. A chunk of W samples gives W*s outputs, less what crop_lo drops of the
    first chunks, unless the stream is delayed. That is static, `state.skip`, and changes with the first steps, so that JAX refuses a
    scan over them: "pytree node metadata does not match". Make the state with `delayed=True`.

    Args:
        state: from `init` or from the last step; never changed.
        input: the chunk, `[B, W, I]`, or `[B, I, W]` for "NCW", of the dtype of filters. W may differ from step to step, and be zero.
        filters: of the shape and dtype given to `init`.
        bias: `[O]` of the dtype of input, added to every output; None for none.

    Returns:
        The next state, and the outputs, `[B, W*s - dropped, O]`, or `[B, O, W*s - dropped]` for "NCW". A delayed stream drops
        nothing, and gives zeros instead, without bias.

    Raises:
        ValueError: a chunk, filters or bias that do not fit the state, which remains as it was, or arrays in it of another stream.
        TypeError: something else than a state or an array, or another dtype than the stream has.

    Gradients:
        As those of `jaxdeconv.conv1d_transpose`, in the chunk, the filters, the bias and the state's sums. Through a stream of steps
        they are those of the whole op.

    References:
        Overlap-add: A. V. Oppenheim and R. W. Schafer, Discrete-Time Signal Processing, section 8.7.3.

    Examples:
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
    geometry, own = state.static.geometry, state.static.filters
    if (w.shape, w.dtype) != (own.shape, own.dtype):
        rule = f"filters must be of the shape and dtype that the state is of, {own.dtype.name}{list(own.shape)}"
        kind = TypeError if w.shape == own.shape else ValueError
        raise error(kind, function, rule, "filters", jax.typeof(w), "make a state for these with streaming.init")
    canonicalize.same_dtype(function, "filters", w, "input", x)
    axes = canonicalize.axis_names(1, geometry.channels_last, "in")
    canonicalize.rank(function, "input", x, axes, "add a batch dimension with input[None], or map over more with jax.vmap")
    channels = x.shape[geometry.channel_axis], x.shape[geometry.spatial_axes[0]]
    if (x.shape[0], channels[0]) != (state.pending.shape[0], w.shape[-1]):
        rule = f"input, {axes}, must have the batch of the state, {state.pending.shape[0]}, and the {w.shape[-1]} channels of filters"
        advice = "only the width may differ from chunk to chunk; streaming.init(..., batch=) makes a state for another batch"
        if channels[0] != w.shape[-1]:
            first_or_last = "first" if geometry.channels_last else "last"
            move = f"if channels come {first_or_last}, make the state with another data_format"
            advice = canonicalize.channels_advice("filters", w.shape, "tf", channels, None, geometry.groups, move, advice)
        raise error(ValueError, function, rule, "input.shape", x.shape, advice)
    if state.skip and not isinstance(x.shape[geometry.spatial_axes[0]], int):
        rule = "the width of input must be static while outputs are dropped at the start"
        raise error(ValueError, function, rule, "input.shape", x.shape, "make the state with delayed=True, which drops nothing")
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
        Empty for a causal stream, and where crop_hi is larger. A delayed stream gives zeros for what is dropped, and where crop_lo is
        negative also what it still holds back. Of a row that goes on, what this returns means nothing.

    Raises:
        ValueError: a bias that does not fit the state, or arrays in it of another stream.
        TypeError: something else than a state, or a bias of another dtype than the filters.

    Gradients:
        In the state's sums and the bias.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv import streaming
        >>> w = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1)
        >>> state, y = streaming.step(streaming.init(w, 2, crops=(1, 1)), jnp.ones((1, 3, 1)), w)
        >>> y.ravel().tolist(), streaming.flush(state).ravel().tolist()
        ([2.0, 4.0, 6.0, 4.0, 6.0], [3.0])
        >>> state, y = streaming.step(streaming.init(w, 2, crops=(1, 1), delayed=True), jnp.ones((1, 3, 1)), w)
        >>> y.ravel().tolist(), streaming.flush(state).ravel().tolist()
        ([0.0, 2.0, 4.0, 6.0, 4.0, 6.0], [3.0])
    """
    function = "streaming.flush"
    _check_state(function, state)
    w = cast(Any, state.static.filters)
    b = canonicalize.bias_of(function, bias, "bias", w.shape[1] * state.static.geometry.groups, "filters", w)
    result: jax.Array = _flush(state, b)
    return result


def _check_state(function: str, state: object) -> None:
    if not isinstance(state, State):
        advice = "pass what streaming.init or the last streaming.step returned; step returns the state first"
        raise error(TypeError, function, "state must be a streaming.State", "state", state, advice)
    advice = "mix states of one stream only, as streaming.init makes them; if this one is of a jax.vmap, map this function, too"
    shape = getattr(state.pending, "shape", ())
    _check_arrays(function, state.static.arrays(shape[0] if shape else 0), vars(state), "state.", advice)


def _check_arrays(function: str, expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str, advice: str) -> None:
    """Requires the arrays of a state to be as expected, and no others."""
    for name in ("pending", "position"):
        array = found.get(name)
        kind = None if array is None else (getattr(array, "shape", None), getattr(array, "dtype", None))
        if kind != expected.get(name):
            shape, dtype = expected.get(name, (None, None))
            rule = f"{prefix}{name} must be " + ("None, for the stream is not delayed" if dtype is None else f"{dtype}{list(shape)}")
            shown = array if kind is None or None in kind else jax.ShapeDtypeStruct(*kind)  # type: ignore[no-untyped-call]
            raise error(ValueError, function, rule, f"{prefix}{name}", shown, advice)


def _padded(a: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    """Along the width, with zeros; negative widths crop."""
    widths = [(0, 0, 0)] * a.ndim
    widths[axis] = (low, high, 0)
    return lax.pad(a, jnp.zeros((), a.dtype), widths) if low or high else a


def _emitted(state: State, y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Sums as outputs: rounded, with the bias, and zeros in place of a row's first `latency` ones if the stream is delayed."""
    geometry, (axis,) = state.static.geometry, state.static.geometry.spatial_axes
    y = y.astype(state.static.options.dtype)
    y = biased(y, None if bias is None else bias.astype(y.dtype), geometry.channel_axis)
    if state.position is None or not state.latency:
        return y
    steps = lax.broadcasted_iota(state.position.dtype, tuple(y.shape[i] if i == axis else 1 for i in range(3)), axis)
    return jnp.where(steps >= state.latency - state.position, y, jnp.zeros((), y.dtype))


@jax.jit
def _step(state: State, x: jax.Array, w: jax.Array, bias: jax.Array | None) -> tuple[State, jax.Array]:
    static = state.static
    geometry, (axis,) = static.geometry, static.geometry.spatial_axes
    ready = geometry.strides[0] * x.shape[axis]  # how many outputs are complete with this chunk

    # Of W inputs, W*s samples and the overlap, in the accumulator's dtype so that the output is rounded once, as the whole op's is.
    own = dataclasses.replace(geometry, crops=((0, min(static.overlap, 0)),))
    reached = _conv_transpose(x, w, own, static.options._replace(dtype=state.pending.dtype))
    reached = _padded(reached, axis, static.held, 0)
    # Joined, because XLA on CPU does not fuse a pending that is padded with zeros into the sum.
    first, rest = jnp.split(reached, [state.pending.shape[axis]], axis)
    sums = lax.concatenate([first + state.pending, rest], axis)

    dropped = min(static.skip, ready) if static.skip else 0  # negative: zeros that come first
    y = _padded(lax.slice_in_dim(sums, 0, ready, axis=axis), axis, -dropped, 0)
    pending = lax.slice_in_dim(sums, ready, sums.shape[axis], axis=axis)
    position = state.position
    if position is not None:
        position = position + jnp.minimum(static.latency - position, jnp.asarray(ready, position.dtype))
    return State(pending, position, static._replace(skip=static.skip - dropped)), _emitted(state, y, bias)


@jax.jit
def _flush(state: State, bias: jax.Array | None) -> jax.Array:
    static = state.static
    (axis,), (_, crop_hi) = static.geometry.spatial_axes, static.geometry.crops[0]
    left = static.held + static.overlap - crop_hi
    y = _padded(state.pending, axis, -min(static.skip, left), left - state.pending.shape[axis])
    return _emitted(state, y, bias)


# --- States outside of the process ------------------------------------------------------------------------------------------------


def _written(metadata: tuple[Static]) -> bytes:
    """What tells states apart, as a literal. Without a tuning: `jax.export` has chosen by it, and who calls may have another."""
    ((filters, geometry, options, *rest),) = metadata
    how = (options.function, options.name, options.dtype.name, _spelled(options.precision), *options[4:6])
    return repr(((filters.shape, filters.dtype.name), dataclasses.astuple(geometry), how, *rest)).encode()


_ENUMS = {each.__name__: each for each in (lax.Precision, lax.DotAlgorithmPreset)}


def _spelled(precision: Any) -> Any:
    """With members of enumerations as their class and name."""
    if isinstance(precision, lax.DotAlgorithm):
        rule = "the precision of a state that is serialized must not be a lax.DotAlgorithm"
        raise error(TypeError, "streaming.State", rule, "precision", precision, "pass a lax.DotAlgorithmPreset to streaming.init")
    if isinstance(precision, tuple):
        return tuple(map(_spelled, precision))
    return {type(precision).__name__: precision.name} if isinstance(precision, enum.Enum) else precision


def _unspelled(precision: Any) -> Any:
    """`_spelled` undone."""
    if isinstance(precision, tuple):
        return tuple(map(_unspelled, precision))
    if isinstance(precision, dict):
        ((kind, name),) = precision.items()
        return _ENUMS[kind][name]
    return precision


def _read(data: bytes | bytearray) -> tuple[Static]:
    filters, geometry, (function, name, dtype, precision, *how), *rest = ast.literal_eval(bytes(data).decode())
    w = jax.ShapeDtypeStruct(filters[0], jnp.dtype(filters[1]))  # type: ignore[no-untyped-call]
    return (Static(w, Geometry(*geometry), Options(function, name, jnp.dtype(dtype), _unspelled(precision), *how), *rest),)


export.register_pytree_node_serialization(
    State,
    serialized_name="jaxdeconv.streaming.State",
    serialize_auxdata=cast(Any, _written),
    deserialize_auxdata=cast(Any, _read),
    from_children=lambda metadata, children: State(*children, *metadata),
)


def _register_with_flax() -> None:
    """If flax is there: this package does not import it for that."""
    if (serialization := sys.modules.get("flax.serialization")) is not None:
        serialization.register_serialization_state(State, _to_state_dict, _from_state_dict, override=True)


def _to_state_dict(state: State) -> dict[str, Any]:
    last = {"skip": state.skip} if state.position is None else {"position": state.position}
    return {"pending": state.pending, **last}


def _from_state_dict(target: State, saved: Mapping[str, Any]) -> State:
    advice = "restore into what streaming.init gives for the layer, batch and delay that were saved"
    expected = target.static.arrays(target.pending.shape[0])
    _check_arrays("streaming.State", expected, saved, "", advice)
    static = target.static if target.static.delayed else target.static._replace(skip=saved["skip"])
    return State(saved["pending"], saved.get("position"), static)

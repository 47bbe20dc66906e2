"""Streams: chunks of any lengths give what the whole op does; the state, its transformations, and what is rejected."""

import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import sampled
from jax import export
from jax.test_util import check_grads

import jaxdeconv
from jaxdeconv import streaming
from jaxdeconv.streaming import State


class Stream(NamedTuple):
    """One stream, and the lengths of its chunks."""

    k: int
    s: int
    d: int
    crops: tuple[int, int] | None
    chunks: tuple[int, ...]
    groups: int = 1
    data_format: str = "NWC"

    @property
    def overlap(self):
        return (self.k - 1) * self.d + 1 - self.s

    @property
    def both(self):
        return self.crops or (0, self.overlap)

    @property
    def length(self):
        return sum(self.chunks) * self.s + self.overlap - sum(self.both)

    def swap(self, a):
        return a if self.data_format == "NWC" else np.moveaxis(a, 1, 2)

    def operands(self, dtype=np.float64):
        """x, w and bias."""
        rng = np.random.default_rng(self.k + 10 * self.s)
        channels = 2 * self.groups
        x = rng.standard_normal((2, sum(self.chunks), channels)).astype(dtype)
        return (
            self.swap(x),
            rng.standard_normal((self.k, 3, channels)).astype(dtype),
            rng.standard_normal(3 * self.groups).astype(dtype),
        )

    def init(self, w, **keywords):
        fixed = {"crops": self.crops, "data_format": self.data_format, "dilations": self.d, "groups": self.groups}
        return streaming.init(w, self.s, batch=2, **fixed, **keywords)

    def run(self, x, w, bias=None, **keywords):
        """What the steps return, and flush."""
        axis = 1 if self.data_format == "NWC" else 2
        state, parts = self.init(w, **keywords), []
        for chunk in jnp.split(jnp.asarray(x), np.cumsum(self.chunks)[:-1], axis):
            state, y = streaming.step(state, chunk, w, bias)
            parts.append(y)
        return [*parts, streaming.flush(state, bias)]

    def whole(self, x, w):
        return self.swap(oracle.transpose(self.swap(x), w, (self.length,), (self.s,), (self.d,), (self.both[0],), self.groups))


STREAMS = [
    Stream(4, 2, 1, None, (3, 1, 2)),  # causal
    Stream(4, 2, 1, (1, 1), (1, 2, 3)),  # as padding=1 in PyTorch
    Stream(4, 2, 1, (1, 1), (2, 4), 2, "NCW"),
    Stream(16, 8, 1, (4, 4), (1, 1, 3), 1, "NCW"),
    Stream(3, 2, 1, (0, 0), (2, 0, 2, 1)),  # everything; one chunk is empty
    Stream(3, 2, 1, (1, 1), (1, 1, 1), 3),
    Stream(2, 2, 1, (0, 1), (2, 1, 1)),  # TensorFlow's SAME of an odd length: one sample is held back
    Stream(4, 3, 1, (2, 4), (1, 2, 2)),  # held back, and dropped
    Stream(2, 5, 1, None, (1, 3, 1)),  # gaps: ke < s
    Stream(2, 5, 1, (0, 0), (2, 2)),  # gaps, and the last one cropped: held back
    Stream(2, 5, 1, (3, -4), (1, 1, 2)),
    Stream(1, 1, 1, None, (2, 3)),
    Stream(3, 2, 3, None, (1, 3, 2), 2),  # dilated
    Stream(5, 3, 2, (6, 1), (1, 1, 1, 2), 1, "NCW"),  # drops more than the first two chunks
    Stream(7, 2, 1, (3, 2), (1, 2, 1, 1)),  # more than two inputs overlap
    Stream(3, 2, 1, (-2, -3), (2, 1)),  # extended at both ends
    Stream(6, 2, 1, (5, -1), (1, 1)),  # flush still drops
]


@pytest.mark.parametrize("stream", sampled(STREAMS, 3), ids=str)
def test_chunks_give_what_the_whole_gives(stream):
    x, w, bias = stream.operands()
    axis = 1 if stream.data_format == "NWC" else 2
    y = stream.whole(x, w)
    np.testing.assert_allclose(jnp.concatenate(stream.run(x, w), axis), y, atol=1e-12)
    biased = y + (bias if axis == 1 else bias[:, None])
    np.testing.assert_allclose(jnp.concatenate(stream.run(x, w, bias), axis), biased, atol=1e-12)


@pytest.mark.parametrize("stream", sampled(STREAMS, 2), ids=str)
def test_the_state_is_the_overlap_and_each_output_comes_when_the_latency_says(stream):
    x, w, _ = stream.operands()
    state = stream.init(w)
    axis = 1 if stream.data_format == "NWC" else 2
    held = max(stream.both[1] - stream.overlap, 0)
    assert [leaf.shape[axis] for leaf in jax.tree.leaves(state)] == [max(stream.overlap, 0) + held]
    emitted = np.cumsum([part.shape[axis] for part in stream.run(x, w)[:-1]])
    for count, received in zip(emitted, np.cumsum(stream.chunks), strict=True):
        assert count == sum((m + state.latency) // stream.s < received for m in range(stream.length + stream.s * 9))
    assert stream.crops is not None or (state.latency, count) == (0, stream.length)


def test_an_output_depends_on_nothing_later_than_the_latency_says():
    stream = Stream(16, 8, 1, (4, 4), (1,) * 6)
    x, w, _ = stream.operands()
    y = stream.whole(x, w)
    latency = stream.init(w).latency
    changed = x.copy()
    changed[:, 4] += 1
    first = np.flatnonzero(np.abs(stream.whole(changed, w) - y).sum((0, 2)))[0]
    assert [(m + latency) // 8 for m in (first - 1, first)] == [3, 4]


@pytest.mark.parametrize("implementation", ["matmul", "dilated", "polyphase"])
def test_single_precision(implementation):
    """Bit for bit where the products are the same and no more than two of them add up; else to rounding."""
    stream = Stream(16, 8, 1, (4, 4), (3, 1, 9, 19))
    x, w, _ = stream.operands(np.float32)
    whole = jaxdeconv.conv1d_transpose(x, w, [2, stream.length, 3], 8, implementation=implementation)
    streamed = jnp.concatenate(stream.run(x, w, implementation=implementation), 1)
    assert streamed.dtype == jnp.float32
    if implementation == "matmul":
        np.testing.assert_array_equal(streamed, whole)
    np.testing.assert_allclose(streamed, whole, atol=1e-6 * np.abs(whole).max())


def test_narrow_sums_are_rounded_once():
    """The state is in float32: a product of bfloat16 that waits there for the next chunk is not rounded."""
    value = 1 + 2.0**-7  # its square is no bfloat16
    w, x = jnp.full((2, 1, 1), value, jnp.bfloat16), jnp.array([value, 0.0], jnp.bfloat16).reshape(1, 2, 1)
    state = streaming.init(w, 1, preferred_element_type=jnp.float32)
    state, _ = streaming.step(state, x[:, :1], w)
    _, y = streaming.step(state, x[:, 1:], w)
    assert (state.pending.dtype, y.dtype, float(y[0, 0, 0])) == (jnp.float32, jnp.float32, value**2)
    state, _ = streaming.step(streaming.init(w, 1, crops=(0, 0)), x[:, :1], w)
    assert (state.pending.dtype, float(state.pending[0, 0, 0])) == (jnp.float32, value**2)
    assert streaming.step(state, x[:, 1:], w)[1].dtype == streaming.flush(state).dtype == jnp.bfloat16


def test_a_bias_widens_no_output():
    """What is narrower than its operands by request stays so."""
    x, w, bias = STEADY.operands(np.float32)
    state, y = streaming.step(STEADY.init(w, preferred_element_type=jnp.bfloat16), x, w, bias)
    assert y.dtype == streaming.flush(state, bias).dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), STEADY.whole(x, w) + bias, rtol=0.02, atol=0.02)


def test_integers():
    x, w = np.arange(8, dtype=np.int32).reshape(1, 4, 2), np.arange(18, dtype=np.int32).reshape(3, 3, 2)
    state, y = streaming.step(streaming.init(w, 2), x, w)
    assert y.dtype == state.pending.dtype == jnp.int32
    np.testing.assert_array_equal(y, oracle.transpose(x, w, (8,), (2,), (1,), (0,)))


STEADY = Stream(5, 2, 1, None, (2,) * 4)


def _scanned(stream, x, w, bias):
    chunks = jnp.moveaxis(x.reshape(2, len(stream.chunks), stream.chunks[0], -1), 1, 0)
    _, ys = jax.lax.scan(lambda state, chunk: streaming.step(state, chunk, w, bias), stream.init(w), chunks)
    return jnp.moveaxis(ys, 0, 1).reshape(2, stream.length, -1)


def test_scan_and_its_gradients():
    x, w, bias = map(jnp.asarray, STEADY.operands())
    g = jnp.cos(jnp.arange(2 * STEADY.length * 3.0)).reshape(2, STEADY.length, 3)

    def whole(x, w, bias):
        return jaxdeconv.lax.conv_transpose(x, w, (2,), [(4, 1)], transpose_kernel=True) + bias[None, None]

    y, streamed = jax.jit(lambda *arguments: jax.vjp(lambda *a: _scanned(STEADY, *a), *arguments))(x, w, bias)
    expected, offline = jax.vjp(whole, x, w, bias)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    for ours, theirs in zip(streamed(g), offline(g), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-11)


def test_gradients_in_the_state_and_of_second_order():
    x, w, bias = map(jnp.asarray, STEADY.operands())
    state, _ = streaming.step(STEADY.init(w), x[:, :3], w)

    def loss(w, pending):
        following, y = streaming.step(jax.tree.unflatten(jax.tree.structure(state), [pending]), x[:, 3:5], w, bias)
        return (y**3).sum() + (streaming.flush(following, bias) ** 2).sum() + (following.pending**2).sum()

    check_grads(loss, (w, state.pending), order=2, modes=["rev"])


def test_forward_mode():
    x, w, _ = map(jnp.asarray, STEADY.operands())

    def run(w):
        return streaming.step(STEADY.init(w, forward_mode=True), x, w)[1]

    np.testing.assert_allclose(jax.jvp(run, (w,), (w,))[1], run(w), atol=1e-12)  # it is linear


def test_vmap_over_streams_and_over_filters():
    x, w, bias = map(jnp.asarray, STEADY.operands())
    state, ws = STEADY.init(w), jnp.stack([w, 2 * w, -w])
    state, _ = streaming.step(state, x[:, :2], w)
    states, ys = jax.vmap(streaming.step, (None, None, 0, None))(state, x[:, 2:], ws, bias)
    tails = jax.vmap(streaming.flush)(states)
    for index in range(3):
        expected, y = streaming.step(state, x[:, 2:], ws[index], bias)
        np.testing.assert_allclose(ys[index], y, atol=1e-12)
        np.testing.assert_allclose(tails[index], streaming.flush(expected), atol=1e-12)
    _, again = jax.vmap(streaming.step, (0, None, None))(states, x[:, 2:], w)
    np.testing.assert_allclose(again[1], streaming.step(jax.tree.map(lambda a: a[1], states), x[:, 2:], w)[1], atol=1e-12)


def test_equal_chunks_compile_once():
    x, w, _ = STEADY.operands()
    state = STEADY.init(w)
    traced = []

    @jax.jit
    def step(state, chunk):
        traced.append(chunk.shape)
        return streaming.step(state, chunk, w)

    for start in range(0, 8, 2):
        state, _ = step(state, x[:, start : start + 2])
    assert len(traced) == 1


def test_a_stream_of_any_chunk_length_is_exported_once():
    x, w, _ = STEADY.operands()
    state = STEADY.init(w)
    (width,) = export.symbolic_shape("width")
    chunk = jax.ShapeDtypeStruct((2, width, 2), x.dtype)

    def step(pending, chunk):
        following, y = streaming.step(jax.tree.unflatten(jax.tree.structure(state), [pending]), chunk, w)
        return following.pending, y

    exported = export.export(jax.jit(step))(state.pending, chunk)
    pending, parts = state.pending, []
    for part in (x[:, :3], x[:, 3:]):
        pending, y = exported.call(pending, part)
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), STEADY.whole(x, w), atol=1e-12)


# --- Delayed streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", sampled(STREAMS, 3), ids=str)
def test_a_delayed_stream_is_the_whole_after_zeros_and_its_shapes_never_change(stream):
    x, w, bias = stream.operands()
    axis = 1 if stream.data_format == "NWC" else 2
    before, whole = stream.init(w), stream.whole(x, w)
    state = stream.init(w, delayed=True)
    assert (state.latency, state.skip, before.position) == (max(before.latency, 0), 0, None)
    for b in (None, bias):
        *parts, last = stream.run(x, w, b, delayed=True)
        assert [part.shape[axis] for part in parts] == [length * stream.s for length in stream.chunks]
        zeros, y = jnp.split(jnp.concatenate([*parts, last], axis), [state.latency], axis)
        assert zeros.shape[axis] == state.latency
        assert not zeros.any()
        expected = whole if b is None else whole + (b if axis == 1 else b[:, None])
        np.testing.assert_allclose(y, expected, atol=1e-12)
    after, _ = streaming.step(state, x, w)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)


DELAYED = Stream(7, 2, 1, (5, 2), (2,) * 4)  # the first chunk is all zeros


def _delayed_scan(x, w, bias):
    chunks = jnp.moveaxis(x.reshape(2, 4, 2, -1), 1, 0)
    state, ys = jax.lax.scan(lambda s, chunk: streaming.step(s, chunk, w, bias), DELAYED.init(w, delayed=True), chunks)
    return jnp.concatenate([jnp.moveaxis(ys, 0, 1).reshape(2, 16, -1), streaming.flush(state, bias)], 1)


def test_a_scan_from_the_first_chunk_and_its_gradients():
    x, w, bias = DELAYED.operands()

    def whole(x, w, bias):
        y = jaxdeconv.conv_transpose(x, w, [2, DELAYED.length + 7, 3], 2, "VALID")[:, 5 : 5 + DELAYED.length]
        return jnp.pad(y + bias[None, None], ((0, 0), (5, 0), (0, 0)))

    np.testing.assert_allclose(whole(x, w, jnp.zeros(3))[:, 5:], DELAYED.whole(x, w), atol=1e-12)
    y, streamed = jax.jit(lambda *arguments: jax.vjp(_delayed_scan, *arguments))(x, w, bias)
    expected, offline = jax.vjp(whole, x, w, bias)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    for ours, theirs in zip(streamed(jnp.cos(y)), offline(jnp.cos(y)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-11)


def test_forward_mode_of_a_delayed_stream():
    x, w, _ = map(jnp.asarray, DELAYED.operands())

    def run(w):
        return streaming.step(DELAYED.init(w, delayed=True, forward_mode=True), x, w)[1]

    np.testing.assert_allclose(jax.jvp(run, (w,), (w,))[1], run(w), atol=1e-12)


def rows(mask, a, b):
    """Rows of the state a where mask says so, of b elsewhere."""
    return jax.tree.map(partial(jnp.where, mask[:, None, None]), a, b)


@pytest.mark.parametrize("data_format", ["NWC", "NCW"])
@pytest.mark.parametrize("crops", [None, (5, 2), (-3, 1), (4, 7), (0, 0)], ids=str)
def test_rows_start_pause_and_end_on_their_own(crops, data_format):
    """Two rows, each with sessions of its own, one after the other; each gives what it gives alone, bit for bit."""
    stream = Stream(7, 2, 1, crops, (2,) * 8, 1, data_format)
    x, w, bias = map(jnp.asarray, stream.operands())
    axis = 1 if data_format == "NWC" else 2
    chunks = jnp.split(x, 8, axis)
    fresh = stream.init(w, delayed=True)

    @jax.jit
    def tick(state, chunk, started, running):
        state = rows(started, jax.tree.map(jnp.zeros_like, state), state)
        following, y = streaming.step(state, chunk, w, bias)
        return rows(running, following, state), y

    plan = {0: ["s", "r", "p", "r", "s", "r", "p", "r"], 1: ["p", "s", "r", "s", "p", "r", "r", "r"]}  # start, run, pause
    state, found = fresh, {0: [], 1: []}
    for chunk, both in zip(chunks, zip(*plan.values(), strict=True), strict=True):
        state, y = tick(state, chunk, jnp.array([each == "s" for each in both]), jnp.array([each != "p" for each in both]))
        last = streaming.flush(state, bias)
        for row, does in enumerate(both):
            found[row] += [[]] if does == "s" else []
            if does != "p":
                found[row][-1].append((chunk, y[row], last[row]))
    assert [len(part) for sessions in found.values() for part in sessions] == [3, 3, 2, 4]
    for row, sessions in found.items():
        for session in sessions:
            alone = fresh
            for chunk, y, last in session:
                alone, expected = tick(alone, chunk, jnp.array([False] * 2), jnp.array([True] * 2))
                np.testing.assert_array_equal(y, expected[row])
                np.testing.assert_array_equal(last, streaming.flush(alone, bias)[row])


def test_cond_over_delayed_states():
    x, w, _ = map(jnp.asarray, DELAYED.operands())
    state = DELAYED.init(w, delayed=True)
    stepped, _ = streaming.step(state, x, w)
    for go in (False, True):
        result = jax.jit(lambda go: jax.lax.cond(go, lambda s: streaming.step(s, x, w)[0], lambda s: s, state))(go)
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(stepped if go else state), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_vmap_over_delayed_streams():
    x, w, bias = map(jnp.asarray, DELAYED.operands())
    state = DELAYED.init(w, delayed=True)
    advanced, _ = streaming.step(state, x[:, :1], w)
    states = jax.tree.map(lambda a, b: jnp.stack([a, b]), state, advanced)
    following, ys = jax.vmap(streaming.step, (0, None, None, None))(states, x, w, bias)
    assert following.latency == state.latency
    for index, each in enumerate((state, advanced)):
        one, y = streaming.step(each, x, w, bias)
        np.testing.assert_allclose(ys[index], y, atol=1e-12)
        np.testing.assert_allclose(jax.vmap(streaming.flush)(following)[index], streaming.flush(one), atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64"])
def test_delayed_in_other_dtypes(dtype):
    x, w = (jnp.arange(n).reshape(shape).astype(dtype) for n, shape in ((8, (1, 4, 2)), (18, (3, 3, 2))))
    plain, y = streaming.step(streaming.init(w, 2, crops=(1, 0)), x, w)
    delayed, late = streaming.step(streaming.init(w, 2, crops=(1, 0), delayed=True), x, w)
    assert (late.dtype, late.shape, delayed.pending.dtype) == (dtype, (1, 8, 3), plain.pending.dtype)
    np.testing.assert_array_equal(late, jnp.pad(y, ((0, 0), (1, 0), (0, 0))))


@pytest.mark.parametrize("lengths", [(3, 1, 2), (1,) * 6])
def test_a_stack_of_delayed_streams_is_the_whole_stack(lengths):
    """The second stream knows by how much its input lags, or else it would crop the wrong samples."""
    first = Stream(5, 2, 1, (2, 1), lengths)
    x, w, bias = first.operands()
    v, other_bias = np.random.default_rng(7).standard_normal((6, 2, 3)), np.array([0.5, -0.25])

    def inner(y):
        return jax.nn.leaky_relu(y, 0.1)

    hidden = np.asarray(inner(first.whole(x, w) + bias))
    length = (hidden.shape[1] - 1) * 3 + 6 - 9
    expected = oracle.transpose(hidden, v, (length,), (3,), (1,), (4,)) + other_bias

    a = first.init(w, delayed=True)
    b = streaming.init(v, 3, crops=(4, 5), batch=2, delayed=True, input_latency=a.latency)
    assert b.latency == 3 * 2 + 4 + 2
    parts = []
    for chunk in jnp.split(jnp.asarray(x), np.cumsum(lengths)[:-1], 1):
        a, y = streaming.step(a, chunk, w, bias)
        b, y = streaming.step(b, inner(y), v, other_bias)
        assert y.shape[1] == 6 * chunk.shape[1]
        parts.append(y)
    b, y = streaming.step(b, inner(streaming.flush(a, bias)), v, other_bias)
    zeros, y = jnp.split(jnp.concatenate([*parts, y, streaming.flush(b, other_bias)], 1), [b.latency], 1)
    assert not zeros.any()
    np.testing.assert_allclose(y, expected, atol=1e-12)


# --- States outside of the process ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keywords",
    [
        {"delayed": True},
        {"delayed": True, "input_latency": 5, "precision": "highest", "implementation": "matmul"},
        {"precision": (jax.lax.Precision.HIGH, jax.lax.Precision.DEFAULT), "preferred_element_type": jnp.float64},
        {"precision": jax.lax.Precision.HIGHEST, "forward_mode": True},
        {"precision": jax.lax.DotAlgorithmPreset.F32_F32_F32},
    ],
    ids=str,
)
def test_a_function_of_states_is_exported_for_any_batch_and_chunk(keywords):
    pytest.importorskip("flatbuffers")
    stream = Stream(7, 2, 2, (5, 2) if keywords.get("delayed") else None, (3, 2, 4), 1, "NCW")
    x, w, bias = stream.operands(np.float32)
    state, parts = stream.init(w, **keywords), []
    batch, width = export.symbolic_shape("batch, width")
    any_state, chunk = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype), (state, jnp.empty((2, 2, 0), np.float32))
    )
    chunk = chunk.update(shape=(batch, 2, width))
    artifact = export.export(jax.jit(streaming.step))(any_state, chunk, w, bias).serialize(vjp_order=1)
    served = export.deserialize(artifact).call
    expected = stream.run(x, w, bias, **keywords)
    for part in jnp.split(x, [3, 5], 2):
        state, y = served(state, part, w, bias)
        parts.append(y)
    for ours, theirs in zip([*parts, streaming.flush(state, bias)], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_a_serialized_state_cannot_spell_is_refused():
    pytest.importorskip("flatbuffers")
    algorithm = jax.lax.DotAlgorithm(np.float32, np.float32, np.float32)
    _, w, _ = DELAYED.operands(np.float32)
    state = streaming.init(w, 2, precision=algorithm, implementation="dilated")
    exported = export.export(jax.jit(lambda state: state))(state)
    with pytest.raises(
        TypeError, match=r"streaming.State: the precision of .* got precision=DotAlgorithm.*; pass a lax.DotAlgorithmPreset"
    ):
        exported.serialize()


def test_an_exported_state_is_without_its_tuning():
    pytest.importorskip("flatbuffers")
    x, w, _ = DELAYED.operands()
    with jaxdeconv.defaults(tuning=jaxdeconv.Tuning()):
        state = DELAYED.init(w, delayed=True)
    artifact = export.export(jax.jit(streaming.step))(state, x, w).serialize()
    _, y = export.deserialize(artifact).call(DELAYED.init(w, delayed=True), x, w)
    np.testing.assert_allclose(y, streaming.step(state, x, w)[1], atol=1e-12)


@pytest.mark.parametrize("delayed", [False, True])
def test_flax_writes_and_restores_states(delayed):
    serialization = pytest.importorskip("flax.serialization")
    x, w, _ = map(jnp.asarray, DELAYED.operands())
    fresh = DELAYED.init(w, delayed=delayed)
    state, _ = streaming.step(fresh, x[:, :2], w)
    saved = serialization.to_state_dict({"up": state})
    assert set(saved["up"]) == {"pending", "position" if delayed else "skip"}
    for restored in (
        serialization.from_state_dict({"up": fresh}, saved),
        serialization.from_bytes({"up": fresh}, serialization.to_bytes({"up": state})),
    ):
        assert jax.tree.structure(restored) == jax.tree.structure({"up": state})
        for a, b in zip(streaming.step(restored["up"], x[:, 2:], w), streaming.step(state, x[:, 2:], w), strict=True):
            jax.tree.map(np.testing.assert_array_equal, a, b)


def test_flax_restores_only_states_of_the_target():
    serialization = pytest.importorskip("flax.serialization")
    _, w, _ = DELAYED.operands()
    target = DELAYED.init(w, delayed=True)
    others = [
        (DELAYED.init(w), "position must be int32[2, 1, 1], got position=None"),
        (streaming.init(w, 3, crops=(5, 2), batch=2, delayed=True), "pending must be float64[2, 5, 3], got pending="),
        (streaming.init(w, 2, crops=(5, 2), batch=3, delayed=True), "pending must be float64[2, 5, 3], got pending="),
        (DELAYED.init(w.astype(np.float32), delayed=True), "pending must be float64[2, 5, 3], got pending="),
    ]
    for other, message in others:
        with pytest.raises(ValueError, match="^" + re.escape(f"streaming.State: {message}")) as caught:
            serialization.from_state_dict(target, serialization.to_state_dict(other))
        assert str(caught.value).endswith("; restore into what streaming.init gives for the layer, batch and delay that were saved")
    with pytest.raises(ValueError, match=r"^streaming.State: position must be None, for the stream is not delayed, got position="):
        serialization.from_state_dict(DELAYED.init(w), serialization.to_state_dict(target))


W, X = np.ones((4, 2, 6)), np.ones((2, 3, 6))
INIT = {"filters": W, "strides": 2, "groups": 2, "batch": 2}
BAD_INITS = [
    ({"filters": np.ones((4, 2))}, ValueError, "filters must have rank 3, [width, out / groups, in], got filters.shape=(4, 2)"),
    ({"filters": np.ones((0, 2, 6))}, ValueError, "filters must have a static, positive kernel size and output channels"),
    ({"filters": [1.0]}, TypeError, "filters must be an array, got filters=[1.0]"),
    ({"filters": W > 0}, TypeError, "the dtype of filters must be one of"),
    ({"filters": jax.ShapeDtypeStruct((4, 2, 6), np.uint8)}, TypeError, "the dtype of filters must be one of"),
    ({"strides": 0}, ValueError, "strides must be from 1 to 2147483647, got strides=0"),
    ({"strides": [1, 1, 2]}, ValueError, "strides must be 1 for batch and channels"),
    ({"dilations": 0.5}, TypeError, "dilations must be of integers, got dilations=0.5"),
    (
        {"crops": 1},
        ValueError,
        "crops must be two integers, what the window drops at the start and at the end, got crops=1; "
        "pass (1, 1) to drop so many at both, or (0, 2) or None for a causal stream",
    ),
    ({"crops": (1, 2, 3)}, ValueError, "crops must be two integers"),
    ({"crops": "SAME"}, TypeError, "crops must be two integers, got crops='SAME'"),
    ({"crops": (0, 2**31)}, ValueError, "crops must be two integers"),
    ({"delayed": 1}, TypeError, "delayed must be False or True, got delayed=1"),
    ({"input_latency": 1}, ValueError, "input_latency must be from 0 to 1073741823, and 0 unless delayed=True, got input_latency=1"),
    ({"input_latency": -1, "delayed": True}, ValueError, "input_latency must be from 0"),
    ({"input_latency": 2**30, "delayed": True}, ValueError, "input_latency must be from 0 to 1073741823"),
    ({"input_latency": 1.0, "delayed": True}, TypeError, "input_latency must be of integers"),
    ({"groups": 4}, ValueError, "groups must divide the 6 input channels of filters, got groups=4; pass 1 for none"),
    ({"groups": 0}, ValueError, "groups must divide"),
    ({"batch": -1}, ValueError, "batch must not be negative, got batch=-1"),
    ({"batch": 1.0}, TypeError, "batch must be of integers"),
    ({"data_format": "NHWC"}, ValueError, "data_format must be 'NWC' or 'NCW' or None, got data_format='NHWC'"),
    ({"implementation": "fft"}, ValueError, "implementation must be"),
    ({"preferred_element_type": np.int32}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
]
BAD_STEPS = [
    ({"input": np.ones((3, 6))}, ValueError, "input must have rank 3, [batch, width, in], got input.shape=(3, 6)"),
    ({"input": np.ones((1, 3, 6))}, ValueError, "input, [batch, width, in], must have the batch of the state, 2, and the 6 channels"),
    ({"input": np.ones((2, 3, 5))}, ValueError, "input, [batch, width, in], must have the batch of the state, 2, and the 6 channels"),
    (
        {"input": X.astype(np.float32)},
        TypeError,
        "filters and input must have one dtype and filters has float64, got input.dtype='float32'",
    ),
    ({"input": None}, TypeError, "input must be an array, got input=None"),
    (
        {"filters": np.ones((5, 2, 6))},
        ValueError,
        "filters must be of the shape and dtype that the state is of, float64[4, 2, 6], got filters=",
    ),
    ({"filters": W.astype(np.float32)}, TypeError, "filters must be of the shape and dtype that the state is of"),
    ({"bias": np.ones(2)}, ValueError, "bias must have one entry for each of the 4 output channels, got bias.shape=(2,)"),
    ({"bias": np.ones(4, np.float32)}, TypeError, "input and bias must have one dtype and input has float64"),
    ({"state": (X, W)}, TypeError, "state must be a streaming.State, got state="),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD_INITS)
def test_bad_arguments_of_init(changes, kind, message):
    with pytest.raises(kind, match="^" + re.escape(f"streaming.init: {message}")):
        streaming.init(**INIT | changes)


@pytest.mark.parametrize(("changes", "kind", "message"), BAD_STEPS)
def test_bad_chunks_leave_the_state_usable(changes, kind, message):
    state, _ = streaming.step(streaming.init(**INIT), X, W)
    with pytest.raises(kind, match="^" + re.escape(f"streaming.step: {message}")):
        streaming.step(**{"state": state, "input": X, "filters": W} | changes)
    _, y = streaming.step(state, X, W)
    expected = oracle.transpose(np.tile(X, (1, 2, 1)), W, (12,), (2,), (1,), (0,), 2)
    np.testing.assert_allclose(y, expected[:, 6:])


def test_other_errors():
    with pytest.raises(TypeError, match=r"^streaming.flush: state must be a streaming.State, got state=None; pass what"):
        streaming.flush(None)
    with pytest.raises(ValueError, match=r"^streaming.flush: bias must have one entry for each of the 4 output channels"):
        streaming.flush(streaming.init(**INIT), np.ones(3))
    with pytest.raises(ValueError, match=r"^streaming.step: implementation must be able to compute this, and 'elementwise'"):
        streaming.step(streaming.init(**INIT, implementation="elementwise"), X, W)
    chunk = jax.ShapeDtypeStruct((2, *export.symbolic_shape("width"), 6), X.dtype)
    step = jax.jit(lambda chunk: streaming.step(streaming.init(**INIT, crops=(1, 1)), chunk, W)[1])
    with pytest.raises(ValueError, match=r"^streaming.step: the width of input must be static while outputs are dropped"):
        export.export(step)(chunk)
    with pytest.raises(TypeError, match=r"arguments after strides must have their names, got unnamed=\(4, 4\)"):
        streaming.init(W, 8, 4, 4)


def test_states_that_are_mixed():
    """By a step, with the arrays of another stream; by JAX, whose message names what differs."""
    plain, late = streaming.init(**INIT, crops=(1, 1)), streaming.init(**INIT, crops=(1, 1), delayed=True)
    one = streaming.init(**INIT | {"batch": 1}, crops=(1, 1), delayed=True)
    narrow = streaming.init(**INIT | {"filters": W.astype(np.float32)}, crops=(1, 1))
    three = jax.tree.map(lambda a: jnp.stack([a] * 3), late)
    mixtures = [
        (State(narrow.pending, None, plain.static), "state.pending must be float64[2, 2, 4], got state.pending="),
        (State(jnp.zeros((2, 3, 4)), None, plain.static), "state.pending must be float64[2, 2, 4], got state.pending="),
        (State(None, None, plain.static), "state.pending must be float64[0, 2, 4], got state.pending=None"),
        (State(late.pending, late.position, plain.static), "state.position must be None, for the stream is not delayed, got"),
        (State(plain.pending, None, late.static), "state.position must be int32[2, 1, 1], got state.position=None"),
        (State(late.pending, one.position, late.static), "state.position must be int32[2, 1, 1], got state.position="),
        (three, "state.pending must be float64[3, 2, 4], got state.pending="),
    ]
    for state, message in mixtures:
        for function, arguments in ((streaming.step, (X, W)), (streaming.flush, ())):
            with pytest.raises(ValueError, match="^" + re.escape(f"streaming.{function.__name__}: {message}")) as caught:
                function(state, *arguments)
            assert "; mix states of one stream only, as streaming.init makes them; if" in str(caught.value)
    with pytest.raises(TypeError, match=r"delayed=False, input_latency=0, skip=1(?s:.*)delayed=False, input_latency=0, skip=0"):
        jax.lax.scan(lambda state, _: streaming.step(state, X, W), plain, length=2)
    with pytest.raises(TypeError, match=r"delayed=True(?s:.*)delayed=False"):
        jax.lax.cond(True, lambda: late, lambda: plain)

"""Operands as people have them: tensors of torch and TensorFlow, datasets of h5py, numpy's in either byte order; and what is refused."""
# ruff: noqa: E501  the table of what is refused reads best a row a line

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv
from jaxdeconv import _canonicalize as canonicalize

RNG = np.random.default_rng(0)
X, W, B = (RNG.integers(-4, 5, shape).astype(np.float32) for shape in ((2, 3, 5), (3, 4, 3), (4,)))  # so that all is exact
X_LAST, W_TF = np.moveaxis(X, 1, -1).copy(), np.array(jaxdeconv.convert_filters(W, "torch", "tf"))
CALLS = {
    "tf": (lambda x, w, b: jaxdeconv.conv1d_transpose(x, w, None, 2), (X_LAST, W_TF, B)),
    "tf.conv_transpose": (lambda x, w, b: jaxdeconv.conv_transpose(x, w, None, 2), (X_LAST, W_TF, B)),
    "torch": (lambda x, w, b: jaxdeconv.torch.conv_transpose1d(x, w, b, 2), (X, W, B)),
    "onnx": (lambda x, w, b: jaxdeconv.onnx.conv_transpose(x, w, b, strides=[2]), (X, W, B)),
    "lax": (lambda x, w, b: jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME", transpose_kernel=True), (X_LAST, W_TF, B)),
    "keras": (lambda x, w, b: jaxdeconv.keras.conv_transpose(x, w, 2), (X_LAST, W_TF, B)),
    "convert_filters": (lambda x, w, b: jaxdeconv.convert_filters(w, "torch", "equinox"), (X, W, B)),
    "streaming": (
        lambda x, w, b: jaxdeconv.streaming.step(jaxdeconv.streaming.init(w, 2, batch=2), x, w, b)[1],
        (X_LAST, W_TF, B),
    ),
    "initializers": (lambda x, w, b: jaxdeconv.initializers.phase_gains(w, 2), (X_LAST, W_TF, B)),
}


class Array:
    """Of a library that lets numpy read it, and counts how often."""

    def __init__(self, values):
        self.values, self.dtype, self.shape, self.times = values, values.dtype, values.shape, 0

    def __array__(self, dtype=None, copy=None):
        self.times += 1
        return self.values


class Dlpack:
    """Of a library that numpy cannot read."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **how):
        return self.values.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class Tensor:
    """Like a torch Parameter on a GPU, of a conjugate view that is not contiguous: numpy reads it once all of this is undone."""

    STEPS = ("detach", "cpu", "resolve_conj", "resolve_neg", "contiguous")

    def __init__(self, values, undone=()):
        self.values, self.undone = values, undone

    def __array__(self, dtype=None, copy=None):
        if self.undone != self.STEPS:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.values


for _step in Tensor.STEPS:
    setattr(Tensor, _step, lambda self, step=_step: Tensor(self.values, (*self.undone, step)))


KINDS = {
    "array": Array,
    "dlpack": Dlpack,
    "tensor": Tensor,
    "big endian": lambda a: a.astype(">f4"),
    "little endian": lambda a: a.astype("<f4"),
}


def same(kind, call):
    function, arrays = CALLS[call]
    operands = [kind(each) for each in arrays]
    actual, expected = function(*operands), function(*map(jnp.asarray, arrays))
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)
    # As constants of a traced function, too.
    np.testing.assert_array_equal(jax.jit(lambda s: function(*operands) * s)(jnp.float32(1)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_any_librarys_arrays(kind, call):
    same(KINDS[kind], call)


@pytest.mark.parametrize("call", CALLS)
def test_torch(call):
    torch = pytest.importorskip("torch")
    same(lambda a: torch.nn.Parameter(torch.tensor(a)), call)
    same(lambda a: torch.tensor(a.swapaxes(0, -1)).transpose(0, -1), call)  # a view


@pytest.mark.filterwarnings("default")  # TensorFlow's own
@pytest.mark.parametrize("call", CALLS)
def test_tensorflow(call):
    tf = pytest.importorskip("tensorflow")
    same(tf.constant, call)
    same(tf.Variable, call)


def test_h5py(tmp_path):
    h5py = pytest.importorskip("h5py")
    for dtype in (">f4", "<f4"):
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            same(lambda a, file=file, dtype=dtype: file.create_dataset(f"{len(file)}", data=a.astype(dtype)), "torch")


def test_bfloat16():
    """numpy knows it of ml_dtypes alone, and torch's has no form in numpy at all."""
    arrays = [jnp.asarray(each, jnp.bfloat16) for each in (X, W, B)]
    function, _ = CALLS["torch"]
    kinds = [Dlpack, np.asarray]
    try:
        import torch
    except ImportError:
        pass
    else:
        kinds += [
            lambda a: torch.nn.Parameter(torch.tensor(np.asarray(a, np.float32)).bfloat16()),
            lambda a: torch.tensor(np.asarray(a, np.float32)).bfloat16().repeat_interleave(2, -1)[..., ::2],  # no DLPack as it is
        ]
    for kind in kinds:
        actual = function(*map(kind, arrays))
        assert actual.dtype == jnp.bfloat16
        np.testing.assert_array_equal(actual, function(*arrays))


def test_torch_complex_and_integers():
    torch = pytest.importorskip("torch")
    x, w = torch.tensor(X + 1j * X[::-1].copy()), torch.tensor(W * 1j)
    expected = torch.nn.functional.conv_transpose1d(x.conj(), w.resolve_conj(), stride=2)
    np.testing.assert_allclose(jaxdeconv.torch.conv_transpose1d(x.conj(), w, stride=2), expected.resolve_conj(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(jaxdeconv.convert_filters(w.conj().imag, "torch", "onnx"), -W)
    x, w = torch.arange(12).reshape(1, 3, 4), torch.arange(18).reshape(3, 2, 3) - 9
    expected = torch.nn.functional.conv_transpose1d(x, w).numpy()
    for x64, dtype in ((True, np.int64), (False, np.int32)):
        with jax.enable_x64(x64):
            y = jaxdeconv.torch.conv_transpose1d(x, w)
            assert y.dtype == dtype
            np.testing.assert_array_equal(y, expected)


def test_gradients_beside_a_tensor():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.tensor(W))

    def loss(w):
        return lambda x: jnp.sum(jnp.sin(jaxdeconv.torch.conv_transpose1d(x, w, stride=2)))

    np.testing.assert_array_equal(jax.jit(jax.grad(loss(weight)))(X), jax.jit(jax.grad(loss(W)))(X))
    assert weight.requires_grad
    assert weight.grad is None


def test_what_is_jaxs_stays_as_it_is():
    def passed(x):
        assert canonicalize.array("f", "x", x, canonicalize.FLOATS) is x
        return x.sum()

    x = jnp.asarray(X)
    passed(x)
    jax.jit(passed)(x)
    jax.vmap(jax.grad(passed))(x)


@pytest.mark.parametrize("kind", ["array", "dlpack", "tensor"])
def test_a_copy(kind):
    """Optimizers change parameters in place, and JAX's arrays must not change with them."""
    room = np.empty(4096 + 16, np.float32)
    start = -room.ctypes.data % 64 // 4  # from where JAX 0.8 on CPU would share it
    values = room[start : start + 4096].reshape(16, 16, 16)
    values[:] = np.arange(4096).reshape(values.shape)
    held = canonicalize.array("f", "w", KINDS[kind](values), canonicalize.FLOATS)
    values[:] = -1
    np.testing.assert_array_equal(held, np.arange(4096.0).reshape(16, 16, 16))


def test_64_bits_become_32_as_those_of_numpy_do():
    w = W.astype(np.float64)
    with jax.enable_x64(False):
        for kind in (Array, Dlpack, np.asarray):
            held = jax.jit(lambda kind=kind: jaxdeconv.convert_filters(kind(w), "torch", "tf"))()
            assert held.dtype == np.float32
            np.testing.assert_array_equal(held, W_TF)


def test_it_is_read_once():
    weight = Array(W)
    jaxdeconv.convert_filters(weight, "torch", "tf")
    assert weight.times == 1


# Sizes


def test_sizes_that_are_tensors():
    expected = jaxdeconv.conv1d_transpose(X_LAST, W_TF, [2, 9, 4], 2)
    shape, two = np.array([2, 9, 4]), np.array(2)
    for kind in (Array, Dlpack, jnp.asarray):
        for output_shape in (kind(shape), [kind(each) for each in map(np.asarray, shape)], (kind(two), 9, jnp.array(4))):
            y = jaxdeconv.conv1d_transpose(X_LAST, W_TF, output_shape, kind(two), dilations=[kind(np.array(1))])
            np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(jaxdeconv.torch.conv_transpose1d(X, W, B, Tensor(two)), CALLS["torch"][0](X, W, B))


# Refusals

UNREADABLE = type("Unreadable", (Array,), {"__array__": lambda self, dtype=None, copy=None: 1 / 0, "__repr__": lambda self: "no"})
ADVICE = "pass an array of numbers of any library, not masked; jax.numpy.asarray(w) makes one of a list"
REFUSED = [
    (W.tolist(), "w must be an array, got w=[[["),
    (np.ma.masked_array(W), f"w must be an array, got w=an array float32[3, 4, 3]; {ADVICE}"),
    (UNREADABLE(W), f"w must be an array, and cannot be read: division by zero, got w=Unreadable float32[3, 4, 3]; {ADVICE}"),
    (Array(np.array([["a"]])), "w must be an array, got w=[['a']]"),
    (
        Array(W > 0),
        "the dtype of w must be one of float16, bfloat16, float32, float64, complex64, complex128, int8, int16, int32, int64, got w.dtype='bool'; convert w to one of these",
    ),
    (
        W > 0,
        "the dtype of w must be one of float16, bfloat16, float32, float64, complex64, complex128, int8, int16, int32, int64, got w.dtype='bool'; convert with w.astype(...)",
    ),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_refused(value, message):
    with pytest.raises(TypeError, match=f"^convert_filters: {re.escape(message)}"):
        jaxdeconv.convert_filters(value, "torch", "tf")


def test_sizes_refused():
    for sizes, message in (
        (Array(np.array([2.0, 9, 4])), "output_shape must be of integers, got output_shape=[2.0, 9.0, 4.0]"),
        ([2, Array(np.array(True)), 4], "output_shape must be of integers, got output_shape=[2, "),
        (UNREADABLE(np.arange(3)), "output_shape must be of integers, and cannot be read: division by zero, got output_shape=Unr"),
    ):
        with pytest.raises(TypeError, match=f"^conv1d_transpose: {re.escape(message)}"):
            jaxdeconv.conv1d_transpose(X_LAST, W_TF, sizes, 2)


def test_torch_refused():
    torch = pytest.importorskip("torch")
    meta = torch.empty(3, 4, 3, device="meta")
    message = "w must be an array, and cannot be read: Cannot copy out of meta tensor; no data!, got w=Tensor torch.float32[3, 4, 3]"
    with pytest.raises(TypeError, match=re.escape(message)):
        jaxdeconv.convert_filters(meta, "torch", "tf")
    with pytest.raises(TypeError, match=r"got w.dtype='uint8'; convert w to one of these"):
        jaxdeconv.convert_filters(torch.ones(3, 4, 3, dtype=torch.uint8), "torch", "tf")


@pytest.mark.filterwarnings("default")
def test_tensorflow_sizes_and_refusals():
    tf = pytest.importorskip("tensorflow")
    expected = jaxdeconv.conv1d_transpose(X_LAST, W_TF, [2, 9, 4], 2)
    np.testing.assert_allclose(tf.nn.conv1d_transpose(X_LAST, W_TF, [2, 9, 4], 2), expected, rtol=1e-5, atol=1e-5)
    for shape in (
        tf.TensorShape([2, 9, 4]),
        tf.constant([-1, 9, 4]),
        tf.constant([2, 9, 4]),
        [tf.constant(2), np.array(9), 4],
        tf.shape(expected),
    ):
        np.testing.assert_array_equal(jaxdeconv.conv1d_transpose(X_LAST, W_TF, shape, tf.constant(2)), expected)
    for shape in (tf.TensorShape([None, 9, 4]), tf.TensorShape(None)):
        with pytest.raises(TypeError, match=re.escape(f"output_shape must be of integers, got output_shape={shape!r}")):
            jaxdeconv.conv1d_transpose(X_LAST, W_TF, shape, 2)

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def symbolic(w):
        return jaxdeconv.convert_filters(w, "torch", "tf")

    with pytest.raises(TypeError, match=r"cannot be read: Cannot convert a symbolic tf.Tensor.*, got w=<tf.Tensor 'w:0' shape=<unkn"):
        symbolic(W)

"""PyTorch's convention: its recorded answers, every rejection, transformations, and PyTorch itself where it is installed."""
# ruff: noqa: E501  the table of rejections reads best a row a line

import re
import runpy
from functools import cache

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from jax import export

import jaxdeconv.torch
from jaxdeconv.torch import conv_transpose1d

FUNCTIONS = {n: getattr(jaxdeconv.torch, f"conv_transpose{n}d") for n in (1, 2, 3)}
RECORD = runpy.run_path(str(recorded.DATA / "record_torch.py"))
CASES, _ = recorded.load("torch")
CHUNKS = 7
RNG = np.random.default_rng(0)


def run(case, *operands):
    return RECORD["call"](FUNCTIONS[case["ndim"]], case, *operands)


# Recorded


@pytest.mark.parametrize("chunk", cases.sampled(range(CHUNKS), CHUNKS))
def test_values_and_gradients_equal_torch(chunk):
    recorded.check(run, CASES[chunk::CHUNKS])


def test_the_cases_have_every_form_and_placement():
    def entries(case, name):
        value = case["arguments"].get(name, RECORD["DEFAULTS"][name])
        return value * (case["ndim"] // len(value)) if isinstance(value, list) else [value] * case["ndim"]

    for n in (1, 2, 3):
        cases = [case for case in CASES if case["ndim"] == n]
        dimensions = [
            dimension
            for case in cases
            for dimension in zip(
                case["arrays"]["w"].shape[2:],
                *(entries(case, name) for name in ("stride", "padding", "output_padding", "dilation")),
                strict=True,
            )
        ]
        assert any(p > (k - 1) * d for k, s, p, op, d in dimensions), "cut beyond the first sample's reach"
        assert any(op > p for k, s, p, op, d in dimensions), "extended past the end"
        assert any(s <= op < d for k, s, p, op, d in dimensions), "output_padding that only the dilation allows"
        assert any(d <= op < s for k, s, p, op, d in dimensions), "output_padding that only the stride allows"
        assert any(s > (k - 1) * d + 1 for k, s, p, op, d in dimensions), "gaps"
        assert {case["arrays"]["x"].ndim for case in cases} == {n + 1, n + 2}
        assert any(0 in case["arrays"]["x"].shape for case in cases)
        for what in ("positional", "tuples"):
            assert {case[what] for case in cases} == {False, True}
        assert {"b" in case["arrays"] for case in cases} == {False, True}
        assert {case["arguments"].get("groups", 1) > 1 for case in cases} == {False, True}
        for name in ("stride", "padding", "output_padding", "dilation"):
            values = [case["arguments"][name] for case in cases if name in case["arguments"]]
            assert {len(value) if isinstance(value, list) else 0 for value in values} == {0, 1, n}, name


# Dtypes and empty batches


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64", "complex128", "int32", "int64"])
def test_dtypes(dtype):
    x, w, b = (np.arange(size).reshape(shape) % 5 - 2 for size, shape in ((40, (2, 4, 5)), (24, (4, 2, 3)), (4, (4,))))
    factor = 1 + 2j if dtype.startswith("complex") else 1
    operands = [jnp.asarray(each, dtype) for each in (x * factor, w, b * factor)]
    y = jax.jit(lambda x, w, b: conv_transpose1d(x, w, b, 2, 1, 1, 2))(*operands)
    assert y.dtype == dtype
    expected = conv_transpose1d(x.astype(np.float32), w.astype(np.float32), b.astype(np.float32), 2, 1, 1, 2)
    np.testing.assert_array_equal(np.asarray(y, np.complex128), np.asarray(expected) * factor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_bias_gradient_accumulates_wide(dtype):
    """Summed in these dtypes, ones get no further than 2048 and 256."""
    x, w, b, g = (jnp.ones(shape, dtype) for shape in ((2, 1, 8, 16, 16), (1, 3, 1, 1, 1), (3,), (2, 3, 8, 16, 16)))
    gradient = jax.jit(lambda b, g: jax.vjp(lambda b: FUNCTIONS[3](x, w, b), b)[1](g)[0])(b, g)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient.astype(float), [4096] * 3)


def test_arrays_as_arguments_and_result_dtype():
    """What torch does not take: arrays of integers. And what is ours: a dtype of the result."""
    x, w = jnp.ones((2, 4, 5, 5), jnp.bfloat16), jnp.ones((4, 3, 3, 3), jnp.bfloat16)
    y = FUNCTIONS[2](x, w, None, np.array([2, 1]), jnp.array(1), np.int64(0), np.int32(1), preferred_element_type=jnp.float32)
    assert y.shape == (2, 3, 9, 5)
    assert y.dtype == jnp.float32


def test_output_size():
    """In the place of output_padding, of symbolic sizes too."""
    settings = {"stride": (2, 3), "padding": 1}
    x, w = RNG.standard_normal((2, 4, 5, 3)), RNG.standard_normal((4, 3, 3, 2))
    for op in ((0, 0), (1, 2)):
        expected = FUNCTIONS[2](x, w, output_padding=op, **settings)
        size = expected.shape[2:]
        for output_size in (size, list(size), np.array(size), jnp.array(size), expected.shape, (-7, 0, *size)):
            close(FUNCTIONS[2](x, w, output_padding=1, output_size=output_size, **settings), expected)
            close(FUNCTIONS[2](x[0], w, output_size=output_size[-2:], **settings), expected[0])
        close(FUNCTIONS[2](x[0], w, output_size=(9, *size), **settings), expected[0])
    close(
        conv_transpose1d(x[..., 0], w[..., 0], stride=2, output_size=12),
        conv_transpose1d(x[..., 0], w[..., 0], stride=2, output_padding=1),
    )

    def twice(x):
        return conv_transpose1d(x, W, stride=2, padding=1, output_size=[2 * x.shape[-1]])

    exported = export.export(jax.jit(twice))(jax.ShapeDtypeStruct(export.symbolic_shape("b, 4, w"), float))
    close(exported.call(x[..., 0]), conv_transpose1d(x[..., 0], W, stride=2, padding=1, output_padding=1))
    with pytest.raises(
        ValueError, match=re.escape("output_size must be from (2*w - 1,) to (2*w,) for an input of spatial sizes (w,), got")
    ):
        export.export(jax.jit(lambda x: conv_transpose1d(x, W, stride=2, padding=1, output_size=[9])))(
            jax.ShapeDtypeStruct(export.symbolic_shape("b, 4, w"), float)
        )


def test_integers_without_x64_are_torchs_too():
    """torch has int64 alone on CPU, which JAX makes int32 of by default."""
    x, w = np.arange(12).reshape(1, 3, 4), np.arange(18).reshape(3, 2, 3) - 9
    expected = conv_transpose1d(x, w, stride=2)
    assert expected.dtype == np.int64
    with jax.enable_x64(False):
        y = conv_transpose1d(x, w, stride=2)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, expected)


def test_empty_batch():
    """Only then may a spatial size be empty, of the input or of the output."""
    w, b = jnp.ones((4, 3, 3)), jnp.ones(3)
    for shape, padding, length in (((0, 4, 0), 1, 0), ((0, 4, 0), 0, 2), ((0, 4, 2), 2, 0), ((0, 4, 5), 1, 5)):
        x = jnp.ones(shape)
        y, vjp = jax.vjp(lambda x, w, b, p=padding: conv_transpose1d(x, w, b, padding=p), x, w, b)
        assert y.shape == (0, 3, length)
        for gradient, operand in zip(vjp(y), (x, w, b), strict=True):
            np.testing.assert_array_equal(gradient, np.zeros(operand.shape), strict=False)
            assert gradient.shape == operand.shape


# Rejections

X, W, BIAS = np.ones((2, 4, 5)), np.ones((4, 3, 3)), np.ones(3)
VALID_CALLS = {
    1: {"input": X, "weight": W, "bias": BIAS},
    2: {"input": X[..., None], "weight": W[..., None], "bias": BIAS},
    3: {"input": X[..., None, None], "weight": W[..., None, None], "bias": BIAS},
}
ONE_OF_TWO = "torch's own kernels take it and oneDNN does not, or the other way round"
EMPTY_BATCH = "torch does not check what it does not compute"

# dimensions, what differs from the valid call, the error, how its rule and value begin; and why torch takes it, where it does
TABLE = [
    # stride
    (1, {"stride": 0}, ValueError, "stride must be from 1 to 2147483647, got stride=0; pass a positive integer"),
    (1, {"stride": -1}, ValueError, "stride must be from 1 to 2147483647, got stride=-1"),
    (2, {"stride": [1, 0]}, ValueError, "stride must be from 1 to 2147483647, got stride=[1, 0]"),
    (1, {"stride": 2**31, "input": X[..., :1]}, ValueError, "stride must be from 1 to 2147483647, got stride=2147483648"),
    (1, {"stride": 2**63}, ValueError, "stride must be from 1 to 2147483647, got stride=9223372036854775808"),
    (1, {"stride": []}, ValueError, "stride must be an int or have length 1, got stride=[]"),
    (1, {"stride": [2, 2]}, ValueError, "stride must be an int or have length 1, got stride=[2, 2]"),
    (2, {"stride": []}, ValueError, "stride must be an int or have length 1 or 2, got stride=[]"),
    (2, {"stride": (1, 1, 1)}, ValueError, "stride must be an int or have length 1 or 2, got stride=(1, 1, 1)"),
    (3, {"stride": [1, 1]}, ValueError, "stride must be an int or have length 1 or 3, got stride=[1, 1]"),
    (3, {"stride": [1, 1, 1, 1, 1]}, ValueError, "stride must be an int or have length 1 or 3, got stride=[1, 1, 1, 1, 1]"),
    (1, {"stride": np.array([[2]])}, ValueError, "stride must be one-dimensional, got stride=[[2]]"),
    (1, {"stride": 2.0}, TypeError, "stride must be of integers, got stride=2.0"),
    (1, {"stride": [2.0]}, TypeError, "stride must be of integers, got stride=[2.0]"),
    (1, {"stride": [[2]]}, TypeError, "stride must be of integers, got stride=[[2]]"),
    (1, {"stride": "2"}, TypeError, "stride must be of integers, got stride='2'"),
    (1, {"stride": None}, TypeError, "stride must be of integers, got stride=None"),
    (1, {"stride": True}, TypeError, "stride must be of integers, got stride=True"),
    # padding
    (1, {"padding": -1}, ValueError, "padding must be from 0 to 2147483647, got padding=-1; pass integers in this range"),
    (2, {"padding": (1, -1)}, ValueError, "padding must be from 0 to 2147483647, got padding=(1, -1)"),
    (1, {"padding": 2**31}, ValueError, "padding must be from 0 to 2147483647, got padding=2147483648"),
    (1, {"padding": [1, 1]}, ValueError, "padding must be an int or have length 1, got padding=[1, 1]"),
    (2, {"padding": [1, 1, 1, 1]}, ValueError, "padding must be an int or have length 1 or 2, got padding=[1, 1, 1, 1]"),
    (1, {"padding": "same"}, TypeError, "padding must be of integers, got padding='same'"),
    (1, {"padding": "SAME"}, TypeError, "padding must be of integers, got padding='SAME'"),
    (1, {"padding": [(1, 1)]}, TypeError, "padding must be of integers, got padding=[(1, 1)]"),
    (1, {"padding": 1.0}, TypeError, "padding must be of integers, got padding=1.0"),
    (1, {"padding": None}, TypeError, "padding must be of integers, got padding=None"),
    # output_padding
    (1, {"output_padding": -1}, ValueError, "output_padding must be from 0 to 2147483647, got output_padding=-1"),
    (1, {"output_padding": 1}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are (1,) and (1,), got output_padding=(1,); for a longer output pass less padding"),
    (1, {"output_padding": 2, "stride": 2}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are (2,) and (1,), got output_padding=(2,)"),
    (1, {"output_padding": 4, "stride": 2, "dilation": 4}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are (2,) and (4,), got output_padding=(4,)"),
    (2, {"output_padding": 2, "stride": (3, 1), "dilation": (1, 2)}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are (3, 1) and (1, 2), got output_padding=(2, 2)"),
    (3, {"output_padding": [0, 1, 0], "stride": [2, 1, 2]}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are (2, 1, 2) and (1, 1, 1), got output_padding=(0, 1, 0)"),
    (1, {"output_padding": [0, 0]}, ValueError, "output_padding must be an int or have length 1, got output_padding=[0, 0]"),
    (1, {"output_padding": None}, TypeError, "output_padding must be of integers, got output_padding=None"),
    (1, {"output_padding": False}, TypeError, "output_padding must be of integers, got output_padding=False"),
    # dilation
    (1, {"dilation": 0}, ValueError, "dilation must be from 1 to 2147483647, got dilation=0"),
    (1, {"dilation": -1}, ValueError, "dilation must be from 1 to 2147483647, got dilation=-1"),
    (3, {"dilation": [1, 1, 0]}, ValueError, "dilation must be from 1 to 2147483647, got dilation=[1, 1, 0]"),
    (1, {"dilation": [1, 1]}, ValueError, "dilation must be an int or have length 1, got dilation=[1, 1]"),
    (1, {"dilation": 1.5}, TypeError, "dilation must be of integers, got dilation=1.5"),
    (1, {"dilation": None}, TypeError, "dilation must be of integers, got dilation=None"),
    # groups
    (1, {"groups": 0}, ValueError, "groups must be a divisor of the 4 input channels, got groups=0; weight.shape[1] is the output channels of each group"),
    (1, {"groups": -1}, ValueError, "groups must be a divisor of the 4 input channels, got groups=-1"),
    (1, {"groups": 3}, ValueError, "groups must be a divisor of the 4 input channels, got groups=3"),
    (2, {"groups": 8}, ValueError, "groups must be a divisor of the 4 input channels, got groups=8"),
    (1, {"groups": 1.0}, TypeError, "groups must be of integers, got groups=1.0"),
    (1, {"groups": True}, TypeError, "groups must be of integers, got groups=True"),
    (1, {"groups": None}, TypeError, "groups must be of integers, got groups=None"),
    (1, {"groups": [1]}, TypeError, "groups must be of integers, got groups=[1]"),
    # input
    (1, {"input": X[0, 0]}, ValueError, "input must have rank 3, [batch, in, width], or 2, without the batch, got input.shape=(5,); map over more dimensions with jax.vmap"),
    (1, {"input": X[None]}, ValueError, "input must have rank 3, [batch, in, width], or 2, without the batch, got input.shape=(1, 2, 4, 5)"),
    (2, {"input": X[0]}, ValueError, "input must have rank 4, [batch, in, height, width], or 3, without the batch, got input.shape=(4, 5)"),
    (3, {"input": X}, ValueError, "input must have rank 5, [batch, in, depth, height, width], or 4, without the batch, got input.shape=(2, 4, 5)"),
    (1, {"input": X[..., :0]}, ValueError, "input must not be empty but for its batch, got input.shape=(2, 4, 0); torch has no rule for what to return"),
    (1, {"input": X[0, :, :0]}, ValueError, "input must not be empty but for its batch, got input.shape=(4, 0)"),
    (2, {"input": X[..., None][:, :, :0]}, ValueError, "input must not be empty but for its batch, got input.shape=(2, 4, 0, 1)"),
    (1, {"input": [[[1.0]]]}, TypeError, "input must be an array, got input=[[[1.0]]]"),
    (1, {"input": None}, TypeError, "input must be an array, got input=None"),
    (1, {"input": 1.0}, TypeError, "input must be an array, got input=1.0"),
    (1, {"input": X.astype(bool), "weight": W.astype(bool), "bias": None}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, complex64, complex128, int32, int64, got input.dtype='bool'; convert with input.astype(...)"),
    (1, {"input": X.astype(np.int16), "weight": W.astype(np.int16), "bias": None}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, complex64, complex128, int32, int64, got input.dtype='int16'"),
    (1, {"input": X.astype(np.uint8), "weight": W.astype(np.uint8), "bias": None}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, complex64, complex128, int32, int64, got input.dtype='uint8'"),
    # weight
    (1, {"weight": W[0]}, ValueError, "weight must have rank 3, [in, out / groups, width], got weight.shape=(3, 3); bring a filter of another layout to [in, out / groups, width] with jaxdeconv.convert_filters"),
    (1, {"weight": W[None]}, ValueError, "weight must have rank 3, [in, out / groups, width], got weight.shape=(1, 4, 3, 3)"),
    (2, {"weight": W}, ValueError, "weight must have rank 4, [in, out / groups, height, width], got weight.shape=(4, 3, 3)"),
    (3, {"weight": W}, ValueError, "weight must have rank 5, [in, out / groups, depth, height, width], got weight.shape=(4, 3, 3)"),
    (1, {"weight": np.ones((3, 4, 3))}, ValueError, "axis 1 of input and axis 0 of weight must be equal, and input has shape (2, 4, 5), got weight.shape=(3, 4, 3); weight is [in, out / groups, width], with its first two axes the other way round than for a convolution"),
    (1, {"weight": W[:2], "groups": 2, "bias": None}, ValueError, "axis 1 of input and axis 0 of weight must be equal, and input has shape (2, 4, 5), got weight.shape=(2, 3, 3)"),
    (1, {"input": X[0], "weight": W[:2]}, ValueError, "axis 0 of input and axis 0 of weight must be equal, and input has shape (4, 5), got weight.shape=(2, 3, 3)"),
    (2, {"weight": W[:2, ..., None]}, ValueError, "axis 1 of input and axis 0 of weight must be equal, and input has shape (2, 4, 5, 1), got weight.shape=(2, 3, 3, 1)"),
    (1, {"weight": W[..., :0]}, ValueError, "weight must have a static, positive kernel size and channels, got weight.shape=(4, 3, 0); only the batch may be empty"),
    (1, {"weight": W[:, :0], "bias": None}, ValueError, "weight must have a static, positive kernel size and channels, got weight.shape=(4, 0, 3)"),
    (1, {"input": X[:, :0], "weight": W[:0]}, ValueError, "weight must have a static, positive kernel size and channels, got weight.shape=(0, 3, 3)"),
    (1, {"input": X[:0], "weight": W[..., :0]}, ValueError, "weight must have a static, positive kernel size and channels, got weight.shape=(4, 3, 0)"),
    (1, {"weight": None}, TypeError, "weight must be an array, got weight=None"),
    (1, {"weight": W.astype(np.float32)}, TypeError, "input and weight must have one dtype and input has float64, got weight.dtype='float32'; convert one of them; nothing is promoted to a wider dtype"),
    (1, {"weight": W.astype(np.complex128)}, TypeError, "input and weight must have one dtype and input has float64, got weight.dtype='complex128'"),
    (1, {"weight": W.astype(np.int8)}, TypeError, "the dtype of weight must be one of float16, bfloat16, float32, float64, complex64, complex128, int32, int64, got weight.dtype='int8'"),
    (1, {"input": X[:0], "weight": W.astype(np.float32)}, TypeError, "input and weight must have one dtype and input has float64, got weight.dtype='float32'", EMPTY_BATCH),
    # bias
    (1, {"bias": np.ones(4)}, ValueError, "bias must have one entry for each of the 3 output channels, got bias.shape=(4,); pass an array of shape (3,), or None"),
    (1, {"bias": np.ones(1)}, ValueError, "bias must have one entry for each of the 3 output channels, got bias.shape=(1,)"),
    (1, {"bias": np.ones(())}, ValueError, "bias must have one entry for each of the 3 output channels, got bias.shape=()"),
    (2, {"bias": np.ones((3, 1))}, ValueError, "bias must have one entry for each of the 3 output channels, got bias.shape=(3, 1)"),
    (1, {"groups": 2}, ValueError, "bias must have one entry for each of the 6 output channels, got bias.shape=(3,)"),
    (1, {"bias": [1.0, 1.0, 1.0]}, TypeError, "bias must be an array, got bias=[1.0, 1.0, 1.0]"),
    (1, {"bias": 1.0}, TypeError, "bias must be an array, got bias=1.0"),
    (1, {"bias": BIAS.astype(np.float32)}, TypeError, "input and bias must have one dtype and input has float64, got bias.dtype='float32'", ONE_OF_TWO),
    (1, {"input": X.astype(np.complex128), "weight": W.astype(np.complex128)}, TypeError, "input and bias must have one dtype and input has complex128, got bias.dtype='float64'"),
    (1, {"input": X.astype(np.float16), "weight": W.astype(np.float16), "bias": BIAS.astype(np.float32)}, TypeError, "input and bias must have one dtype and input has float16, got bias.dtype='float32'", ONE_OF_TWO),
    # the size of the output
    (1, {"padding": 4}, ValueError, "the output must not be empty, and of an input of shape (2, 4, 5) it would have spatial sizes (-1,), got padding=(4,); pass less padding"),
    (1, {"padding": 2, "input": X[..., :2]}, ValueError, "the output must not be empty, and of an input of shape (2, 4, 2) it would have spatial sizes (0,), got padding=(2,)"),
    (1, {"padding": 2, "input": X[0, :, :2]}, ValueError, "the output must not be empty, and of an input of shape (4, 2) it would have spatial sizes (0,), got padding=(2,)"),
    (1, {"padding": 4, "stride": 2, "output_padding": 1, "input": X[..., :3]}, ValueError, "the output must not be empty, and of an input of shape (2, 4, 3) it would have spatial sizes (0,), got padding=(4,)"),
    (2, {"padding": [0, 1]}, ValueError, "the output must not be empty, and of an input of shape (2, 4, 5, 1) it would have spatial sizes (7, -1), got padding=(0, 1)"),
    (3, {"padding": 1}, ValueError, "the output must not be empty, and of an input of shape (2, 4, 5, 1, 1) it would have spatial sizes (5, -1, -1), got padding=(1, 1, 1)"),
    (1, {"padding": 10, "input": X[:0]}, ValueError, "the output must not be empty, and of an input of shape (0, 4, 5) it would have spatial sizes (-13,), got padding=(10,)"),
    (1, {"padding": 2, "input": X[..., :2].astype(np.float32), "weight": W.astype(np.float32), "bias": None}, ValueError, "the output must not be empty, and of an input of shape (2, 4, 2) it would have spatial sizes (0,), got padding=(2,)", ONE_OF_TWO),
    (1, {"output_padding": 2, "input": X[:0]}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are (1,) and (1,), got output_padding=(2,)", EMPTY_BATCH),
    (1, {"dilation": 0, "input": X[:0]}, ValueError, "dilation must be from 1 to 2147483647, got dilation=0", EMPTY_BATCH),
]  # fmt: skip
# what is jaxdeconv's own; torch's functions have no output_size, and its layers are asked below
OURS = [
    (
        {"output_size": []},
        ValueError,
        "output_size must have length 1 or 3 for an input of shape (2, 4, 5), got output_size=(); give the spatial sizes, or the whole shape",
    ),
    (
        {"output_size": [2, 7]},
        ValueError,
        "output_size must have length 1 or 3 for an input of shape (2, 4, 5), got output_size=(2, 7)",
    ),
    (
        {"input": X[0], "output_size": [1, 3, 7]},
        ValueError,
        "output_size must have length 1 or 2 for an input of shape (4, 5), got output_size=(1, 3, 7)",
    ),
    (
        {"output_size": [8]},
        ValueError,
        "output_size must be from (7,) to (7,) for an input of spatial sizes (5,), got output_size=(8,); pass sizes in this range, or output_padding",
    ),
    (
        {"stride": 2, "output_size": [13]},
        ValueError,
        "output_size must be from (11,) to (12,) for an input of spatial sizes (5,), got output_size=(13,)",
    ),
    (
        {"stride": 2, "dilation": 4, "output_size": [2, 3, 19]},
        ValueError,
        "output_size must be from (17,) to (18,) for an input of spatial sizes (5,), got output_size=(2, 3, 19)",
    ),
    (
        {"stride": 2, "output_padding": 1, "output_size": [10]},
        ValueError,
        "output_size must be from (11,) to (12,) for an input of spatial sizes (5,), got output_size=(10,)",
    ),
    (
        {"output_size": [-1]},
        ValueError,
        "output_size must be from (7,) to (7,) for an input of spatial sizes (5,), got output_size=(-1,)",
    ),
    ({"output_size": [7.0]}, TypeError, "output_size must be of integers, got output_size=[7.0]"),
    ({"output_size": "7"}, TypeError, "output_size must be of integers, got output_size='7'"),
    ({"output_size": np.ones((1, 1), int)}, ValueError, "output_size must be one-dimensional, got output_size=[[1]]"),
    ({"precision": "low"}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision='low'"),
    ({"preferred_element_type": "int32"}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
    ({"implementation": "fast"}, ValueError, "implementation must be None or 'dilated' or 'matmul' or 'polyphase' or 'elementwise'"),
    ({"forward_mode": 1}, TypeError, "forward_mode must be False or True, got forward_mode=1"),
]
FORM = r"{}: .+, got \w+(\.\w+)?=.+; .+"


def identify(value):
    if isinstance(value, dict):
        return ",".join(
            f"{name}={each.dtype}{each.shape}" if hasattr(each, "shape") else f"{name}={each}" for name, each in value.items()
        )
    return str(value) if isinstance(value, int) else ""


ROWS = [(*row[:4], row[4] if len(row) == 5 else None) for row in TABLE] + [(1, *row, "not torch's") for row in OURS]


@pytest.mark.parametrize(("n", "changes", "kind", "message", "taken"), ROWS, ids=identify)
def test_rejected(n, changes, kind, message, taken, monkeypatch):
    monkeypatch.setattr("jaxdeconv.torch._conv_transpose", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(kind) as caught:
        FUNCTIONS[n](**VALID_CALLS[n] | changes)
    assert type(caught.value) is kind
    name = f"conv_transpose{n}d"
    assert str(caught.value).startswith(f"{name}: {message}")
    assert re.fullmatch(FORM.format(name), str(caught.value), re.DOTALL)


def test_the_valid_calls_are_valid():
    for n, function in FUNCTIONS.items():
        assert jax.eval_shape(lambda n=n, function=function: function(**VALID_CALLS[n])).shape == (2, 3, 7, 1, 1)[: n + 2]


@pytest.mark.parametrize("name", ["stride", "padding", "output_padding", "dilation", "groups", "output_size"])
def test_traced_arguments_that_must_be_static(name):
    message = f"conv_transpose1d: {name} must be static, since it sets shapes, got {name}=a traced int64"
    with pytest.raises(TypeError, match=re.escape(message)):
        jax.jit(lambda value: conv_transpose1d(**VALID_CALLS[1] | {name: value}))(1)


# Transformations


def loss(x, w, b):
    return jnp.sum(jnp.sin(conv_transpose1d(x, w, b, 2, 1, 1, 2)))


def close(actual, expected, tolerance=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected)


def test_grad_and_vmap_under_jit():
    x, w, b = RNG.standard_normal((3, 2, 4, 5)), RNG.standard_normal((3, 4, 2, 3)), RNG.standard_normal((3, 4))
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    expected = [gradient(*each) for each in zip(x, w, b, strict=True)]
    close(jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2))))(x, w, b), jax.tree.map(lambda *each: jnp.stack(each), *expected))
    # A map over the batch of per-sample, unbatched calls is the batched call; its gradients are per-sample ones.
    per_sample = jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2)), (0, None, None)))(x[0], w[0], b[0])
    close((per_sample[0], per_sample[1].sum(0), per_sample[2].sum(0)), expected[0])


def test_gradients_without_a_batch():
    for n, function in FUNCTIONS.items():
        x, w, b = RNG.standard_normal((4, *[3] * n)), RNG.standard_normal((4, 2, *[3] * n)), RNG.standard_normal(4)

        def run(x, w, b, function=function):
            return function(x, w, b, 2, 1, 1, 2)

        def gradients(x, w, b, run=run):
            return jax.grad(lambda *operands: jnp.sum(jnp.sin(run(*operands))), (0, 1, 2))(x, w, b)

        def both(x, w, b, gradients=gradients):
            return gradients(x, w, b), gradients(x[None], w, b)

        (dx, dw, db), (dx_batched, dw_batched, db_batched) = jax.jit(both)(x, w, b)
        assert (dx.shape, dw.shape, db.shape) == (x.shape, w.shape, b.shape)
        close((dx, dw, db), (dx_batched[0], dw_batched, db_batched))


def test_forward_mode():
    x, w, b = RNG.standard_normal((4, 5)), RNG.standard_normal((4, 2, 3)), RNG.standard_normal(4)

    def run(x, w, b):
        return conv_transpose1d(x, w, b, 2, 1, 1, 2, forward_mode=True)

    y, tangent = jax.jvp(run, (x, w, b), (x, w, 2 * b))
    close(tangent, 2 * y)


@pytest.mark.parametrize("dimensions", ["b, 4, w", "4, w"])
def test_symbolic_export(dimensions):
    x, w, b = RNG.standard_normal((3, 4, 6)), RNG.standard_normal((4, 2, 3)), RNG.standard_normal(4)
    x = x if dimensions.startswith("b") else x[0]

    def both(x, w, b):
        return conv_transpose1d(x, w, b, 2, 1, 1, 2), jax.grad(loss, (0, 1, 2))(x, w, b)

    shapes = [jax.ShapeDtypeStruct(shape, float) for shape in (export.symbolic_shape(dimensions), w.shape, b.shape)]
    exported = export.deserialize(export.export(jax.jit(both), platforms=("cpu", "cuda", "tpu"))(*shapes).serialize())
    assert str(exported.out_avals[0].shape[-1]) == "2*w"
    close(exported.call(x, w, b), jax.jit(both)(x, w, b))


def test_symbolic_width_that_may_leave_nothing():
    def shape(padding, *constraints):
        x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 4, w", constraints=constraints), float)
        return jax.eval_shape(lambda x: conv_transpose1d(x, W, None, 2, padding), x).shape

    assert [str(size) for size in shape(1)] == ["b", "3", "2*w - 1"]
    assert str(shape(5, "w >= 5")[-1]) == "2*w - 9"
    message = (
        "the output must not be empty, and of an input of shape (b, 4, w) it would have spatial sizes (2*w - 9,), got padding=(5,)"
    )
    for constraints in ((), ("w >= 4",)):
        with pytest.raises(ValueError, match=re.escape(message)):
            shape(5, *constraints)


# Live


@cache
def live():
    return pytest.importorskip("torch")


def tensor(value):
    """Torch's, of what is an array."""
    if not isinstance(value, np.ndarray | jax.Array):
        return value
    wide = np.asarray(value, np.float64) if value.dtype in (jnp.bfloat16, jnp.float16) else np.array(value)
    return live().tensor(wide).to(getattr(live(), value.dtype.name))


own_warnings = pytest.mark.filterwarnings("default")


@own_warnings
@pytest.mark.parametrize(("n", "changes", "kind", "message", "taken"), ROWS[: len(TABLE)], ids=identify)
def test_torch_rejects_the_same(n, changes, kind, message, taken):
    arguments = {
        name: tensor(value) if name in ("input", "weight", "bias") else value for name, value in (VALID_CALLS[n] | changes).items()
    }
    function = getattr(live().nn.functional, f"conv_transpose{n}d")
    if taken and "the other way round" in taken:
        return  # which of the two it is depends on the machine
    if taken:
        function(**arguments)
    else:
        with pytest.raises((RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)):
            function(**arguments)


@own_warnings
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_random_cases_equal_live_torch(n, dtype):
    live()
    rng = np.random.default_rng(n)

    def normal(shape):
        values = rng.standard_normal(shape)
        return values + 1j * rng.standard_normal(shape) if dtype == "complex128" else values

    cases = []
    for _ in range(30 if dtype == "float64" else 10):
        case, shapes = RECORD["draw_case"](rng, n)
        cases.append(case | {"dtype": dtype, "arrays": {name: normal(shape) for name, shape in shapes.items()}})
    for case, results in zip(cases, recorded.answers(run, cases), strict=True):
        # torch's gradients are the conjugates of JAX's.
        arrays = case["arrays"]
        theirs = RECORD["answer"](case, **arrays | {"g": np.conj(arrays["g"])}, dtype=dtype)
        for (name, expected), actual in zip(theirs.items(), results, strict=True):
            expected = expected if name == "y" else np.conj(expected)
            assert actual.shape == expected.shape
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10, err_msg=f"{name} of {case}")


@own_warnings
@pytest.mark.parametrize("n", [1, 2, 3])
def test_output_size_as_torchs_layers_have_it(n):
    """Every size around the valid ones, without and with batch and channels, whatever these say: the same numbers, or an error of both."""
    torch = live()
    rng = np.random.default_rng(n)
    valid = 0
    for _ in range(20):
        stride, padding, dilation = (rng.integers(low, high, n).tolist() for low, high in ((1, 4), (0, 2), (1, 3)))
        settings = {"stride": stride, "padding": padding, "dilation": dilation}
        op = [int(rng.integers(max(s, d))) for s, d in zip(stride, dilation, strict=True)]
        kind = getattr(torch.nn, f"ConvTranspose{n}d")
        layer = kind(2, 3, rng.integers(2, 4, n).tolist(), **settings, output_padding=op, dtype=torch.float64)
        x = torch.tensor(rng.standard_normal((2, 2, *rng.integers(2, 4, n))))
        x = x[0] if rng.integers(2) else x
        middle = np.array(layer(x).shape[-n:]) - op
        size = (middle + rng.integers(-1, max(stride) + 1, n) * (rng.random(n) < 1 / n)).tolist()
        size = [[7, 9], [7]][x.ndim == n + 1] + size if rng.integers(2) else size

        def ours(size=size, x=x, layer=layer, settings=settings, op=op):
            return FUNCTIONS[n](x, layer.weight, layer.bias, **settings, output_padding=op, output_size=size)

        try:
            expected = layer(x, output_size=size)
        except ValueError as refused:
            with pytest.raises(ValueError, match=r"output_size must be from \(") as caught:
                ours()
            found = re.search(r"from (\[.*?\]) to (\[.*?\]) ", str(refused))
            least, most = (str(tuple(map(int, re.findall(r"-?\d+", each)))) for each in found.groups())
            assert f"must be from {least} to {most} for" in str(caught.value)
            continue
        valid += 1
        close(ours(), expected.detach().numpy(), 1e-10)
    assert 3 < valid < 18
    with pytest.raises(ValueError, match="elements"):
        layer(x, output_size=[1] * (n + 3))
    with pytest.raises(ValueError, match="output_size must have length"):
        FUNCTIONS[n](x, layer.weight, output_size=[1] * (n + 3))


TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-4, "complex64": 1e-4}


@own_warnings
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "int64"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_samples_of_torchs_own_tests(n, dtype):
    """The samples of its OpInfo database: values, and gradients of the sum of the result."""
    torch = live()
    methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    (info,) = (each for each in methods.op_db if each.name == f"nn.functional.conv_transpose{n}d")
    assert info.error_inputs_func is None, "now there are invalid samples too: run them"
    differentiable = dtype != "int64"
    samples = list(info.sample_inputs("cpu", getattr(torch, dtype), requires_grad=differentiable))
    assert len(samples) >= 10

    def split(sample):
        """Its tensors, and a function that calls another with them, or others in their place, and with the other arguments."""
        args, keywords = (sample.input, *sample.args), sample.kwargs
        several = [each for each in (*args, *keywords.values()) if isinstance(each, torch.Tensor)]

        def call(function, several):
            several = iter(several)
            filled = [next(several) if isinstance(each, torch.Tensor) else each for each in args]
            return function(
                *filled, **{key: next(several) if isinstance(each, torch.Tensor) else each for key, each in keywords.items()}
            )

        return several, call

    def array(value):
        return jnp.asarray(value.detach().to(torch.complex128 if dtype.startswith("complex") else torch.float64).numpy(), dtype)

    def every(operands):
        results = []
        for sample, several in zip(samples, operands, strict=True):
            _, call = split(sample)
            y, vjp = jax.vjp(lambda *several, call=call: call(FUNCTIONS[n], several), *several)
            results.append((y, *vjp(jnp.ones_like(y))) if differentiable else (y,))
        return results

    ours = jax.jit(every)([[array(each) for each in split(sample)[0]] for sample in samples])
    tolerance = TOLERANCES.get(dtype, 1e-10)
    for sample, results in zip(samples, ours, strict=True):
        several, call = split(sample)
        y = call(getattr(torch.nn.functional, f"conv_transpose{n}d"), several)
        gradients = torch.autograd.grad(y, several, torch.ones_like(y)) if differentiable else ()
        for place, (expected, actual) in enumerate(zip((y, *gradients), results, strict=True)):
            assert actual.dtype == dtype
            expected, actual = np.asarray(array(expected), np.complex128), np.asarray(actual, np.complex128)
            expected = expected.conj() if place else expected  # torch's gradients are the conjugates of JAX's
            assert actual.shape == expected.shape
            scale = max(np.abs(expected).max(initial=0), 1)
            np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance, err_msg=str(sample))

"""Which dtypes go in, come out and are accumulated in, for the op and its gradients."""

import re
import warnings

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv

CASE = cases.Case(2, 4, 3, 2, 3, 2, 1, 1, "SAME", "NWC", 7)
FLOATS = ["float16", "bfloat16", "float32", "float64"]
implementations = pytest.mark.parametrize("implementation", ["dilated", "matmul", "polyphase", None])


def op(x, w, case=CASE, **keywords):
    return jaxdeconv.conv1d_transpose(x, w, **case.keywords, **keywords)


def integer_operands(dtype, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((2, 4, 3), (3, 2, 3), (2, 7, 2))
    return [jnp.asarray(rng.integers(-4, 5, shape), dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
def test_forward(dtype):
    x, w, _ = integer_operands(dtype)
    y = op(x, w)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y, float), op(np.asarray(x, float), np.asarray(w, float)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("forward_mode", [False, True])
def test_gradients_have_the_dtype_of_the_arguments(dtype, forward_mode):
    x, w, g = integer_operands(dtype)
    y, vjp = jax.vjp(lambda x, w: op(x, w, forward_mode=forward_mode), x, w)
    expected = CASE.expected(*(np.asarray(each, float) for each in (x, w, g)))
    for actual, exact in zip((y, *vjp(g)), expected, strict=True):
        assert actual.dtype == dtype
        np.testing.assert_array_equal(np.asarray(actual, float), exact)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("over", ["input channels", "taps"])
def test_narrow_floats_accumulate_wide(dtype, over):
    """4096 ones sum to 4096, in the op and in each gradient; in the dtype itself they would stop at 2048 or 256."""
    count = 4096
    x, w = (
        (np.ones((1, 1, count)), np.ones((1, 1, count)))
        if over == "input channels"
        else (np.ones((1, count, 1)), np.ones((count, 1, 1)))
    )
    x, w = jnp.asarray(x, dtype), jnp.asarray(w, dtype)
    length = 1 if over == "input channels" else 2 * count - 1
    y = jaxdeconv.conv1d_transpose(x, w, [1, length, 1], 1, "VALID")
    assert y.dtype == dtype
    assert y.max() == count
    dx, dw = jax.grad(lambda x, w: jaxdeconv.conv1d_transpose(x, w, [1, length, 1], 1, "VALID").astype(jnp.float32).sum(), (0, 1))(
        x, w
    )
    expected = 1 if over == "input channels" else count
    assert dx.dtype == dw.dtype == dtype
    assert dx.max() == dw.max() == expected
    batched = jnp.ones((count, 1, 1), dtype)
    one = jnp.ones((1, 1, 1), dtype)
    dw = jax.grad(lambda w: jaxdeconv.conv1d_transpose(batched, w, None, 1).astype(jnp.float32).sum())(one)
    assert dw.item() == count


def product_lines(x, w, g, **keywords):
    """The lines of the program that convolve or multiply matrices: one for each contraction."""

    def run(x, w, g):
        y, vjp = jax.vjp(lambda x, w: op(x, w, **keywords), x, w)
        return y, *vjp(g)

    text = cases.lowered_text(jax.jit(run).lower(x, w, g))
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line]
    assert len(lines) == 3
    return lines


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@implementations
def test_narrow_floats_are_multiplied_into_float32(dtype, implementation):
    """On every platform, not only where, as on the CPU, the backend would do so by itself."""
    assert all(line.endswith("xf32>") for line in product_lines(*integer_operands(dtype), implementation=implementation))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("preferred", FLOATS)
def test_preferred_element_type(dtype, preferred):
    x, w, g = integer_operands(dtype)
    y, vjp = jax.vjp(lambda x, w: op(x, w, preferred_element_type=preferred), x, w)
    assert y.dtype == preferred
    expected = CASE.expected(*(np.asarray(each, float) for each in (x, w, g)))
    for actual, exact in zip((y, *vjp(g.astype(preferred))), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(actual, float), exact)
    assert [each.dtype for each in vjp(g.astype(preferred))] == [dtype, dtype]


def test_preferred_element_type_is_the_accumulator():
    """float64 from float32 operands is a float64 sum, and so are the gradients."""
    x = jnp.asarray([[[1.0, 2.0**-40]]], jnp.float32)
    w = jnp.ones((1, 1, 2), jnp.float32)
    y = jaxdeconv.conv1d_transpose(x, w, None, 1, preferred_element_type=jnp.float64)
    assert y.item() == 1 + 2.0**-40
    x, w = jnp.ones((1, 1, 4096), jnp.bfloat16), jnp.ones((1, 1, 4096), jnp.bfloat16).at[0, 0, 0].set(2)
    assert jaxdeconv.conv1d_transpose(x, w, None, 1, preferred_element_type="float32").item() == 4097


def test_int32_vjp_has_no_gradient():
    x, w, _ = integer_operands("int32")
    y, vjp = jax.vjp(op, x, w)
    dx, dw = vjp(np.zeros(y.shape, jax.dtypes.float0))
    assert dx.dtype == dw.dtype == jax.dtypes.float0
    with pytest.raises(TypeError, match="real"):
        jax.grad(lambda x: op(x, w).sum())(x)
    assert op(x, w, preferred_element_type="int64").dtype == "int64"


def test_float32_when_64_bits_are_off():
    """numpy's float64 is then float32, as everywhere in JAX."""
    with jax.enable_x64(False):
        x, w = np.ones((1, 2, 1)), np.ones((2, 1, 1))
        assert op(x, w, cases.Case(1, 2, 1, 1, 2, 2, 1, 1, "SAME", "NWC", 4)).dtype == jnp.float32


@pytest.mark.parametrize("precision", [None, "highest", "float32", jax.lax.Precision.HIGH, ("highest", "default"), ["high", "high"]])
@implementations
def test_precision_reaches_all_three_contractions(precision, implementation):
    lines = product_lines(*CASE.operands(dtype=np.float32), precision=precision, implementation=implementation)
    names = {"highest": "HIGHEST", "float32": "HIGHEST", "high": "HIGH", "default": "DEFAULT", None: "DEFAULT"}
    pair = precision if isinstance(precision, tuple | list) else (precision, precision)
    wanted = [names.get(each, "HIGH") for each in pair]
    for line in lines:  # "convolution" writes what is wanted of it in full
        found = re.findall(r"precision (\w+)>", line) or re.findall(r"precision = \[(\w+), (\w+)\]", line)[0]
        assert list(found) == wanted, line


def test_arrays_of_other_kinds():
    """numpy arrays and objects that hold an array are as good as jax arrays."""

    class Parameter:
        def __init__(self, value):
            self.value = value

        def __jax_array__(self):
            return self.value

    x, w, g = CASE.operands()
    y = CASE.expected(x, w, g)[0]
    np.testing.assert_allclose(op(x, Parameter(jnp.asarray(w))), y, rtol=1e-12)


def test_64_bits_that_are_not_enabled():
    """JAX makes them 32; that is said, but of the types of Python, which mean no number of bits."""
    x, w = np.ones((1, 3, 2), np.float32), np.ones((2, 2, 2), np.float32)
    with jax.enable_x64(False):
        rule = r"conv1d_transpose: the result is of float32, .*, got preferred_element_type='float64'; enable"
        for wide in (np.float64, np.dtype("float64"), "float64"):  # the second is equal to float
            with pytest.warns(UserWarning, match=rule):
                assert jaxdeconv.conv1d_transpose(x, w, None, 2, preferred_element_type=wide).dtype == np.float32
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert jaxdeconv.conv1d_transpose(x, w, None, 2, preferred_element_type=float).dtype == np.float32

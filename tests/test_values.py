"""Values and both gradients against the oracle, over the grid and over random cases."""

import cases
import jax
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdeconv


def op_and_gradients(case, x, w, g):
    y, vjp = jax.vjp(lambda x, w: jaxdeconv.conv1d_transpose(x, w, **case.keywords), x, w)
    return y, *vjp(g)


def check(*several, **compiler_options):
    """All cases compiled as one program: compiling is nearly all of the time."""
    operands = [case.operands() for case in several]
    run = jax.jit(
        lambda operands: [op_and_gradients(case, *each) for case, each in zip(several, operands, strict=True)],
        compiler_options=compiler_options,
    )
    for case, each, results in zip(several, operands, run(operands), strict=True):
        for actual, expected in zip(results, case.expected(*each), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12, strict=True, err_msg=str(case))


@pytest.mark.parametrize("part", cases.sampled(range(10), 10))
def test_grid(part):
    check(*cases.GRID[part::10], xla_backend_optimization_level=0)


@pytest.mark.parametrize("part", cases.sampled(range(10), 3))
def test_part_of_the_grid_fully_optimized(part):
    check(*cases.GRID[part::110])


@st.composite
def random_cases(draw):
    small = st.integers(1, 4)
    width, kernel, stride, dilation = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(small)
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    length = draw(st.sampled_from(oracle.tensorflow_lengths(padding, width, kernel, stride, dilation)))
    groups = draw(small)
    in_channels, out_channels = groups * draw(small), groups * draw(small)
    data_format = draw(st.sampled_from(["NWC", "NCW"]))
    return cases.Case(draw(small), width, in_channels, out_channels, kernel, stride, dilation, groups, padding, data_format, length)


@pytest.mark.thorough
@settings(max_examples=40, deadline=None, derandomize=True)
@given(random_cases())
def test_random(case):
    check(case)


def test_forms_of_arguments():
    """Every way to write one call is the same call."""
    case = cases.Case(2, 4, 3, 2, 3, 2, 2, 1, "SAME", "NCW", 7)
    x, w, g = case.operands()
    y, _, _ = case.expected(x, w, g)
    one_each = [
        2,
        [2],
        (2,),
        np.array([2]),
        np.int32(2),
        np.array(2),
        jax.numpy.array([2]),
        [1, 1, 2],
        (1, 1, np.int64(2)),
        np.array([1, 1, 2]),
    ]
    shapes = [[2, 2, 7], (2, 2, 7), np.array([2, 2, 7]), jax.numpy.array([2, 2, 7]), [np.int32(2), 2, jax.numpy.int32(7)]]
    for strides in one_each:
        np.testing.assert_allclose(jaxdeconv.conv1d_transpose(x, w, [2, 2, 7], strides, "SAME", "NCW", 2, "name"), y, rtol=1e-12)
    for dilations in one_each:
        np.testing.assert_allclose(
            jaxdeconv.conv1d_transpose(x, w, [2, 2, 7], 2, data_format="NCW", dilations=dilations), y, rtol=1e-12
        )
    for shape in shapes:
        np.testing.assert_allclose(
            jaxdeconv.conv1d_transpose(input=x, filters=w, output_shape=shape, strides=2, data_format="NCW", dilations=2),
            y,
            rtol=1e-12,
        )


@pytest.mark.parametrize("data_format", ["NWC", "NCW", None])
@pytest.mark.parametrize(("padding", "length"), [("SAME", 12), ("VALID", 13)])
def test_default_output_shape(data_format, padding, length):
    case = cases.Case(2, 4, 3, 2, 4, 3, 1, 1, padding, data_format or "NWC", length)
    x, w, g = case.operands()
    y = jaxdeconv.conv1d_transpose(x, w, None, 3, padding, data_format)
    np.testing.assert_allclose(y, case.expected(x, w, g)[0], rtol=1e-12, strict=True)


def test_default_output_shape_of_a_kernel_shorter_than_the_stride():
    x, w = np.ones((1, 3, 1)), np.ones((2, 1, 1))
    assert jaxdeconv.conv1d_transpose(x, w, None, 5, "VALID").shape == (1, 15, 1)
    assert jaxdeconv.conv1d_transpose(x, w, None, 5, "SAME").shape == (1, 15, 1)


def test_extreme_strides_and_dilations():
    """Sizes that would be enormous if anything were stuffed or padded in memory."""
    x, w = np.arange(1.0, 5).reshape(1, 4, 1), np.array([1.0, 10, 100]).reshape(3, 1, 1)
    y, vjp = jax.vjp(lambda x, w: jaxdeconv.conv1d_transpose(x, w, [1, 4, 1], 1, dilations=2**31 - 1), x, w)
    np.testing.assert_array_equal(y, 10 * x)
    dx, dw = vjp(y)
    np.testing.assert_array_equal(dx, 100 * x)
    np.testing.assert_array_equal(dw.ravel(), [0, 10 * (1 + 4 + 9 + 16), 0])
    y = jaxdeconv.conv1d_transpose(x[:, :1], w, [1, 5, 1], 2**31 - 1, "VALID")
    np.testing.assert_array_equal(y.ravel(), [1, 10, 100, 0, 0])

"""Complex numbers, which the core takes though not every convention does: against the oracle and against JAX's own derivatives.

Nothing is conjugated: the map is holomorphic, and JAX's cotangent of a holomorphic function is its derivative times the cotangent.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import lax

import jaxdeconv
from jaxdeconv import _call
from jaxdeconv._geometry import Geometry

# kernel, strides, dilations, crops, groups, channels last; then the spatial sizes, and channels in and out
CASES = [
    (Geometry((3,), (2,), (1,), ((0, 1),), 1, True), (4,), (3, 2)),
    (Geometry((4,), (3,), (2,), ((2, -1),), 2, False), (3,), (4, 6)),
    (Geometry((2,), (1,), (3,), ((-1, 0),), 3, True), (3,), (3, 3)),
    (Geometry((3, 2), (2, 1), (1, 1), ((1, 0), (0, 1)), 1, False), (2, 3), (2, 3)),
    (Geometry((2, 3), (2, 3), (2, 1), ((0, 1), (-1, 1)), 2, True), (3, 2), (4, 2)),
]
QUICK = {"xla_backend_optimization_level": 0}  # to compile, which takes the time
cases = pytest.mark.parametrize("case", CASES, ids=str)
dtypes = pytest.mark.parametrize("dtype", ["complex64", "complex128"])


def operands(case, dtype, seed=0):
    """x, w, g channels last, and the geometry's lengths."""
    geometry, spatial, (inputs, outputs) = case
    _, *lengths, _ = channels_last(geometry).output_shape((2, *spatial, inputs), (*geometry.kernel, 1, inputs))
    rng = np.random.default_rng(seed)
    shapes = (2, *spatial, inputs), (*geometry.kernel, outputs // geometry.groups, inputs), (2, *lengths, outputs)
    return [(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def channels_last(geometry):
    return Geometry(geometry.kernel, geometry.strides, geometry.dilations, geometry.crops, geometry.groups, True)


def swap(case, activations):
    return activations if case[0].channels_last else jnp.moveaxis(activations, -1, 1)


def unswap(case, activations):
    return activations if case[0].channels_last else jnp.moveaxis(activations, 1, -1)


def op(case, dtype, forward_mode=False):
    """The core as a function of operands whose channels are last."""
    options = _call.Options("complex", "complex", np.dtype(dtype), forward_mode=forward_mode)
    return lambda x, w: unswap(case, _call.conv_transpose(swap(case, x), w, case[0], options))


def by_lax(case):
    """The same by one dilated convolution of lax, of one group; x and w channels last."""
    geometry = case[0]
    axes = tuple(range(geometry.ndim))
    padding = [(ke - 1 - lo, ke - 1 - hi) for ke, (lo, hi) in zip(geometry.effective_kernels, geometry.crops, strict=True)]
    letters = "DHW"[-geometry.ndim :]
    return lambda x, w: lax.conv_general_dilated(
        x,
        jnp.flip(w, axes),
        (1,) * geometry.ndim,
        padding,
        geometry.strides,
        geometry.dilations,
        (f"N{letters}C", f"{letters}OI", f"N{letters}C"),
    )


def with_gradients(function, x, w, g):
    y, vjp = jax.vjp(function, x, w)
    return y, *vjp(g)


def close(actual, expected, dtype):
    tolerance = 1e-12 if dtype == "complex128" else 2e-5
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        assert a.shape == b.shape


@cases
@dtypes
def test_values_and_gradients(case, dtype):
    x, w, g = operands(case, dtype)
    geometry = case[0]
    window = geometry.strides, geometry.dilations, [lo for lo, _ in geometry.crops], geometry.groups
    wide = [each.astype(np.complex128) for each in (x, w, g)]
    expected = (
        oracle.transpose(*wide[:2], g.shape[1:-1], *window),
        oracle.input_grad(*wide[:0:-1], x.shape[1:-1], *window),
        oracle.filter_grad(*wide[::2], geometry.kernel, *window),
    )
    close(jax.jit(lambda *each: with_gradients(op(case, dtype), *each), compiler_options=QUICK)(x, w, g), expected, dtype)


@cases
def test_against_autodiff(case):
    """Of the undecorated op, and of lax's convolution where that has the same groups."""
    x, w, g = operands(case, "complex128")
    functions = [op(case, "complex128"), op(case, "complex128", forward_mode=True)]
    if case[0].groups == 1:
        functions.append(by_lax(case))
    run = jax.jit(lambda *each: [with_gradients(function, *each) for function in functions], compiler_options=QUICK)
    ours, *theirs = run(x, w, g)
    for each in theirs:
        close(ours, each, "complex128")


@cases
def test_grad_of_real_and_holomorphic_functions(case):
    """jax.grad either way, and forward over reverse, agree with the undecorated op."""
    x, w, _ = operands(case, "complex128")
    tangents = operands(case, "complex128", 1)[:2]

    def derivatives(x, w, tangents, forward_mode):
        function = op(case, "complex128", forward_mode)
        real = jax.grad(lambda x, w: jnp.sum(jnp.abs(function(x, w)) ** 2), (0, 1))
        holomorphic = jax.grad(lambda x, w: jnp.sum(jnp.sin(function(x, w) / 9)), (0, 1), holomorphic=True)
        return (*real(x, w), *holomorphic(x, w), *jax.jvp(holomorphic, (x, w), tuple(tangents))[1])

    # Operands are arguments, not constants: XLA of jaxlib 0.8 folds a complex convolution of two constants to wrong numbers.
    run = jax.jit(derivatives, static_argnums=3, compiler_options=QUICK)
    close(run(x, w, tangents, False), run(x, w, tangents, True), "complex128")


@dtypes
def test_nothing_is_conjugated(dtype):
    """A kernel of one sample is a product, whose derivative in each factor is the other."""
    case = Geometry((1,), (1,), (1,), ((0, 0),), 1, True), (1,), (1, 1)
    one = jnp.ones((1, 1, 1), dtype)
    y, dx, dw = with_gradients(op(case, dtype), one * (2 + 3j), one * (5 - 7j), one)
    assert [each.item() for each in (y, dx, dw)] == [(2 + 3j) * (5 - 7j), 5 - 7j, 2 + 3j]


@pytest.mark.parametrize("dtype", ["complex64", "int8"])
@pytest.mark.parametrize("algorithm", ["F32_F32_F32", "BF16_BF16_F32"])
def test_algorithms_say_nothing_of_what_is_no_real_float(algorithm, dtype):
    """lax computes such convolutions as usual; XLA on CPU computes such products wrongly, silently."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-99, 99, shape) * (1 if dtype == "int8" else 1 + 2j) for shape in ((2, 7, 6), (4, 6, 5)))
    x, w = x.astype(dtype), w.astype(dtype)
    expected = lax.conv_transpose(x, w, (2,), "SAME")
    run = jax.jit(
        lambda x, w, **how: jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME", implementation="matmul", **how),
        static_argnames="precision",
    )
    np.testing.assert_array_equal(run(x, w, precision=lax.DotAlgorithmPreset[algorithm]), expected)
    with jax.default_matmul_precision(algorithm):
        np.testing.assert_array_equal(run(x, w), expected)


@dtypes
@pytest.mark.parametrize("function", ["conv1d_transpose", "conv2d_transpose", "conv3d_transpose", "conv_transpose"])
def test_tensorflow_has_no_complex_numbers(function, dtype):
    ndim = int(function[4]) if function[4].isdigit() else 2
    x, w = jnp.ones((1, *[2] * ndim, 3)), jnp.ones((*[3] * ndim, 2, 3))
    run = getattr(jaxdeconv, function)
    message = "must be one of float16, bfloat16, float32, float64, int32, got {}.dtype='" + dtype
    for shape in ([1, *[4] * ndim, 2], None):
        with pytest.raises(TypeError, match=f"^{function}: the dtype of input {message.format('input')}"):
            run(x.astype(dtype), w.astype(dtype), shape, 2)
        with pytest.raises(TypeError, match=f"^{function}: the dtype of filters {message.format('filters')}"):
            run(x, w.astype(dtype), shape, 2)

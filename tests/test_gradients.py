"""The gradient rules: the trilinear identity, finite differences, JAX's own autodiff, and second derivatives in every order."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

import jaxdeconv
from jaxdeconv import _call, _contractions
from jaxdeconv._geometry import Geometry

# One of each kind: plain, cropped on both sides, extended, dilated, grouped, depthwise, kernel shorter than the stride.
SAMPLES = [
    cases.Case(2, 4, 3, 2, 3, 2, 1, 1, "SAME", "NWC", 8),
    cases.Case(2, 4, 3, 2, 5, 2, 1, 1, "SAME", "NCW", 7),
    cases.Case(1, 3, 2, 2, 3, 3, 1, 1, "VALID", "NWC", 11),
    cases.Case(2, 3, 2, 2, 3, 2, 3, 1, "SAME", "NWC", 5),
    cases.Case(2, 3, 4, 6, 4, 2, 1, 2, "SAME", "NCW", 6),
    cases.Case(1, 3, 3, 3, 4, 2, 2, 3, "VALID", "NWC", 11),
    cases.Case(2, 3, 2, 1, 2, 5, 1, 1, "SAME", "NWC", 13),
]
samples = pytest.mark.parametrize("case", SAMPLES, ids=str)
some = pytest.mark.parametrize("case", cases.sampled(SAMPLES, 4), ids=str)


def op(case, **keywords):
    return lambda x, w: jaxdeconv.conv1d_transpose(x, w, **case.keywords, **keywords)


def geometry_of(case):
    full = (case.width - 1) * case.stride + (case.kernel - 1) * case.dilation + 1
    crops = (case.crop, full - case.length - case.crop)
    return Geometry((case.kernel,), (case.stride,), (case.dilation,), (crops,), case.groups, case.data_format == "NWC")


@pytest.mark.parametrize("part", cases.sampled(range(4), 4))
def test_trilinear_identity(part):
    """<T(x, w), g> = <x, C(g, w)> = <w, F(x, g)>."""
    several = cases.GRID[part::16]

    def products(case, x, w, g):
        geometry, options = geometry_of(case), _call.Options("identity", "identity", x.dtype)
        form = _contractions.form_of({"x": x, "w": w}, geometry, options, "tf")
        y = _contractions.contract("y", {"x": x, "w": w}, form)
        dx = _contractions.contract("x", {"y": g, "w": w}, form)
        dw = _contractions.contract("w", {"x": x, "y": g}, form)
        return jnp.vdot(y, g), jnp.vdot(x, dx), jnp.vdot(w, dw)

    run = jax.jit(
        lambda operands: [products(case, *each) for case, each in zip(several, operands, strict=True)],
        compiler_options={"xla_backend_optimization_level": 0},
    )
    for form, of_dx, of_dw in run([case.operands(seed=part) for case in several]):
        np.testing.assert_allclose([of_dx, of_dw], [form, form], rtol=1e-12, atol=1e-12)


@some
def test_finite_differences(case):
    x, w, _ = case.operands()
    # The map is bilinear: a central difference of any width is exact but for rounding, so eps=1 and a tight tolerance.
    check_grads(op(case), (x, w), order=1, modes=["rev"], eps=1.0, atol=1e-11, rtol=1e-11)
    check_grads(op(case, forward_mode=True), (x, w), order=1, modes=["fwd", "rev"], eps=1.0, atol=1e-11, rtol=1e-11)
    # Its second order feeds the result back as cotangent, which is cubic: an error of eps**2, and of rounding / eps.
    check_grads(op(case), (x, w), order=2, modes=["rev"], eps=1e-4, atol=1e-6, rtol=1e-6)
    check_grads(op(case, forward_mode=True), (x, w), order=2, modes=["fwd", "rev"], eps=1e-4, atol=1e-6, rtol=1e-6)


@samples
def test_against_autodiff_of_the_undecorated_op(case):
    x, w, g = case.operands()
    y, vjp = jax.vjp(op(case), x, w)
    y_autodiff, vjp_autodiff = jax.vjp(op(case, forward_mode=True), x, w)
    np.testing.assert_array_equal(y, y_autodiff)
    for ours, autodiff in zip(vjp(g), vjp_autodiff(g), strict=True):
        np.testing.assert_allclose(ours, autodiff, rtol=1e-12, atol=1e-12, strict=True)


def scalar(case, **keywords):
    """A function of x and w with no vanishing second derivative."""
    return lambda x, w: jnp.sum(jnp.sin(op(case, **keywords)(x, w)))


@some
def test_second_derivatives(case):
    """Every way to two derivatives agrees with forward over forward, which uses none of our rules."""
    x, w, _ = case.operands()
    rng = np.random.default_rng(1)
    dx, dw = rng.standard_normal(x.shape), rng.standard_normal(w.shape)

    def grad(function):
        return jax.grad(function, (0, 1))

    def inner(tangents, function):
        return lambda x, w: sum(jnp.vdot(a, b) for a, b in zip(tangents, grad(function)(x, w), strict=True))

    def every(x, w):
        forward = scalar(case, forward_mode=True)
        expected = jax.jvp(grad(forward), (x, w), (dx, dw))[1]
        over_forward = grad(lambda x, w: jax.jvp(forward, (x, w), (dx, dw))[1])(x, w)
        jvp_of_grad = jax.jvp(grad(scalar(case)), (x, w), (dx, dw))[1]
        grad_of_grad = grad(inner((dx, dw), scalar(case)))(x, w)
        return expected, over_forward, jvp_of_grad, grad_of_grad

    expected, *others = jax.jit(every)(x, w)
    for each in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), each, expected)


def test_third_derivative():
    case = SAMPLES[1]
    x, w, _ = case.operands()

    def third(function):
        once = lambda t: function(t * x, t * w)  # noqa: E731
        return jax.jit(jax.grad(jax.grad(jax.grad(once))))(1.1)

    np.testing.assert_allclose(third(scalar(case)), third(scalar(case, forward_mode=True)), rtol=1e-11)


def test_hessian():
    case = cases.Case(1, 2, 2, 1, 3, 2, 1, 1, "SAME", "NWC", 4)
    x, w, _ = case.operands()
    hessian = jax.jit(jax.hessian(scalar(case), (0, 1)))(x, w)
    expected = jax.jit(jax.jacfwd(jax.jacfwd(scalar(case, forward_mode=True), (0, 1)), (0, 1)))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), hessian, expected)


def test_jacrev_is_the_oracle_basis():
    """The Jacobian in x, column by column, is the op on unit vectors."""
    case = SAMPLES[1]
    x, w, _ = case.operands()
    jacobian = jax.jacrev(op(case))(x, w)
    for index in np.ndindex(*x.shape):
        unit = np.zeros_like(x)
        unit[index] = 1
        y = case.swap(oracle.transpose(case.swap(unit), w, (case.length,), *case.window))
        np.testing.assert_allclose(jacobian[(..., *index)], y, atol=1e-12)


def test_forward_mode():
    """JAX refuses jvp, linearize and linear_transpose of a custom_vjp function; forward_mode=True allows all three."""
    case = SAMPLES[0]
    x, w, g = case.operands()
    rng = np.random.default_rng(1)
    dx, dw = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(op(case), (x, w), (dx, dw))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.linearize(op(case), x, w)[1](dx, dw)
    with pytest.raises((TypeError, NotImplementedError)):
        jax.linear_transpose(lambda x: op(case)(x, w), x)(g)

    y, expected_dx, _ = case.expected(x, w, g)
    expected = case.expected(dx, w, g)[0] + case.expected(x, dw, g)[0]
    forward = op(case, forward_mode=True)
    np.testing.assert_allclose(jax.jvp(forward, (x, w), (dx, dw))[1], expected, rtol=1e-12)
    primal, tangent_map = jax.linearize(forward, x, w)
    np.testing.assert_allclose(primal, y, rtol=1e-12)
    np.testing.assert_allclose(tangent_map(dx, dw), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.linear_transpose(lambda x: forward(x, w), x)(g)[0], expected_dx, rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(forward)(x, w), jax.jacrev(op(case))(x, w), atol=1e-12)

"""vmap over inputs, filters, both and nested, with every in_axes, and its compositions with grad."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv

SAMPLES = [
    cases.Case(2, 4, 3, 2, 3, 2, 1, 1, "SAME", "NWC", 7),
    cases.Case(1, 3, 4, 6, 4, 2, 2, 2, "VALID", "NCW", 11),
    cases.Case(2, 3, 3, 3, 3, 2, 1, 3, "SAME", "NWC", 6),
]
samples = pytest.mark.parametrize("case", SAMPLES, ids=str)


def op(case, **keywords):
    return lambda x, w: jaxdeconv.conv1d_transpose(x, w, **case.keywords, **keywords)


def stacked(case, count):
    return [np.stack(each) for each in zip(*(case.operands(seed) for seed in range(count)), strict=True)]


def gradients(function):
    """y and both cotangents as one function, so that vmap goes through the rules."""

    def run(x, w, g):
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(g)

    return run


def close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, strict=True), actual, expected)


def loop(case, xs, ws, gs):
    each = [gradients(op(case))(x, w, g) for x, w, g in zip(xs, ws, gs, strict=True)]
    return tuple(np.stack(results) for results in zip(*each, strict=True))


@samples
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_both(case, axis):
    xs, ws, gs = stacked(case, 3)
    moved = [np.moveaxis(each, 0, axis) for each in (xs, ws, gs)]
    close(jax.vmap(gradients(op(case)), in_axes=axis)(*moved), loop(case, xs, ws, gs))


@samples
@pytest.mark.parametrize(("x_axis", "w_axis"), [(0, None), (3, None), (None, 0), (None, 3), (2, 1), (0, 3)])
def test_one_or_mixed_axes(case, x_axis, w_axis):
    xs, ws, gs = stacked(case, 3)
    repeated = [np.stack([each[0]] * 3) if axis is None else each for each, axis in ((xs, x_axis), (ws, w_axis))]
    moved = [each[0] if axis is None else np.moveaxis(each, 0, axis) for each, axis in ((xs, x_axis), (ws, w_axis))]
    close(jax.vmap(gradients(op(case)), in_axes=(x_axis, w_axis, 0))(*moved, gs), loop(case, *repeated, gs))


@samples
def test_nested(case):
    """A table over every input and every filter."""
    xs, ws, _ = stacked(case, 3)
    table = jax.vmap(jax.vmap(op(case), (None, 0)), (0, None))(xs, ws)
    assert table.shape[:2] == (3, 3)
    for i in range(3):
        for j in range(3):
            np.testing.assert_allclose(table[i, j], op(case)(xs[i], ws[j]), rtol=1e-12, atol=1e-12)


@samples
def test_out_axes_and_forward_mode(case):
    xs, ws, _ = stacked(case, 3)
    expected = np.stack([op(case)(x, w) for x, w in zip(xs, ws, strict=True)], axis=2)
    np.testing.assert_allclose(jax.vmap(op(case, forward_mode=True), out_axes=2)(xs, ws), expected, rtol=1e-12, atol=1e-12)


@samples
def test_vmap_of_grad_and_grad_of_vmap(case):
    xs, ws, _ = stacked(case, 3)

    def loss(x, w):
        return jnp.sum(jnp.sin(op(case)(x, w)))

    expected = [jax.grad(loss, (0, 1))(x, w) for x, w in zip(xs, ws, strict=True)]
    expected = tuple(np.stack(each) for each in zip(*expected, strict=True))
    close(jax.vmap(jax.grad(loss, (0, 1)))(xs, ws), expected)
    close(jax.grad(lambda xs, ws: jax.vmap(loss)(xs, ws).sum(), (0, 1))(xs, ws), expected)
    shared = jax.grad(lambda w: jax.vmap(loss, (0, None))(xs, w).sum())(ws[0])
    np.testing.assert_allclose(shared, sum(jax.grad(loss, 1)(x, ws[0]) for x in xs), rtol=1e-11, atol=1e-11)


def test_per_example_gradients_of_a_shared_filter():
    case = SAMPLES[0]
    xs, ws, gs = stacked(case, 4)
    per_example = jax.vmap(lambda x, g: jax.vjp(lambda w: op(case)(x, w), ws[0])[1](g)[0])(xs, gs)
    for x, g, dw in zip(xs, gs, per_example, strict=True):
        np.testing.assert_allclose(dw, case.expected(x, ws[0], g)[2], rtol=1e-12, atol=1e-12)


def test_vmap_of_nothing():
    case = SAMPLES[0]
    x, w, _ = case.operands()
    assert jax.vmap(op(case), (0, None))(np.zeros((0, *x.shape)), w).shape == (0, *case.output_shape)

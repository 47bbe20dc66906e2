"""Initial filters without a checkerboard, in every layout, and the measures of one, against the op's own outputs."""

import itertools
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxdeconv
from jaxdeconv import initializers

LAYOUTS = get_args(jaxdeconv.FilterLayout)
NORMAL = jax.nn.initializers.normal()


def shape_in(layout, kernel, out, inputs, groups):
    """The shape of a filter."""
    w = jax.ShapeDtypeStruct((*kernel, out // groups, inputs), jnp.float64)
    return jax.eval_shape(lambda w: jaxdeconv.convert_filters(w, "tf", layout, groups), w).shape


def full(x, w, strides, dilations=None, groups=1):
    """Everything that the oracle's transposed convolution has."""
    n = len(strides)
    dilations = dilations or (1,) * n
    lengths = [(a - 1) * s + (k - 1) * d + 1 for a, s, k, d in zip(x.shape[1:], strides, w.shape, dilations, strict=False)]
    return oracle.transpose(x, np.asarray(w), lengths, strides, dilations, (0,) * n, groups)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_icnr_is_a_convolution_upsampled(layout):
    groups, strides = 2, (2, 3)
    shape = shape_in(layout, (4, 6), 6, 4, groups)
    w = initializers.icnr(NORMAL, strides, layout)(jax.random.key(0), shape, jnp.float64)
    assert (w.shape, w.dtype) == (shape, jnp.float64)
    w = jaxdeconv.convert_filters(w, layout, "tf", groups)
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 4))
    y = full(x, w, strides, groups=groups)
    coarse = full(x, w[::2, ::3], (1, 1), groups=groups)
    np.testing.assert_allclose(y, coarse.repeat(2, 1).repeat(3, 2), atol=1e-12)
    assert np.unique(np.asarray(w)).size == 2 * 2 * 3 * 4


def test_icnr_draws_with_the_fan_of_what_an_output_sees():
    init = initializers.icnr(jax.nn.initializers.lecun_normal(), 8, "flax")
    w = init(jax.random.key(0), (16, 64, 128))
    assert w.dtype == jnp.float32
    assert abs(float(w.std()) * np.sqrt(2 * 64) - 1) < 0.02


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_bilinear_of_each_channel_by_itself(layout, groups):
    shape = shape_in(layout, (4, 3), 4, 4, groups)
    w = initializers.bilinear((2, 2), layout, groups)(None, shape, jnp.float64)
    assert w.shape == shape
    w = jaxdeconv.convert_filters(w, layout, "tf", groups)
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4))
    depthwise = np.outer([0.25, 0.75, 0.75, 0.25], [0.5, 1, 0.5])
    expected = np.stack([full(x[..., c : c + 1], depthwise[..., None, None], (2, 2))[..., 0] for c in range(4)], -1)
    np.testing.assert_allclose(full(x, w, (2, 2), groups=groups), expected, atol=1e-12)


@pytest.mark.parametrize("s", [1, 2, 3, 4, 5])
def test_bilinear_is_resizing(s):
    x = np.random.default_rng(0).standard_normal((1, 7, 2))
    w = initializers.bilinear(s)(None, (2 * s - s % 2, 2, 2), jnp.float64)
    y = jaxdeconv.conv1d_transpose(x, w, [1, 7 * s, 2], s)
    resized = jax.image.resize(x, (1, 7 * s, 2), "linear")
    np.testing.assert_allclose(y[:, s:-s], resized[:, s:-s], atol=1e-12)


@pytest.mark.parametrize(("k", "s"), [(3, 2), (5, 3), (9, 4), (12, 3)])
def test_bilinear_keeps_ramps(k, s):
    """Also with other numbers of taps than the usual ones: every phase sums to one."""
    w = initializers.bilinear(s)(None, (k, 1, 1), jnp.float64)
    ramp = full(np.arange(20.0).reshape(1, 20, 1), w, (s,))[0, k:-k, 0]
    np.testing.assert_allclose(np.diff(ramp), 1 / s, atol=1e-12)


CASES = [((3,), (2,), (1,)), ((4,), (2,), (1,)), ((3, 5), (2, 3), (1, 2)), ((4,), (2,), (2,)), ((2,), (5,), (1,)), ((6,), (4,), (3,))]


@pytest.mark.parametrize(("kernel", "strides", "dilations"), CASES, ids=str)
def test_checkerboard_is_what_ones_give(kernel, strides, dilations):
    """Counted in the middle of the output of ones."""
    n = len(kernel)
    y = full(np.ones((1, *[20] * n, 1)), np.ones((*kernel, 1, 1)), strides, dilations)[0, ..., 0]
    middle = y[tuple(slice(10 * s, 11 * s) for s in strides)]
    found = initializers.checkerboard(kernel, strides, dilations)
    counts = np.array([np.prod(each) for each in itertools.product(*found.taps)])
    np.testing.assert_array_equal(middle.ravel(), counts)
    assert found.ratio == (middle.max() / middle.min() if middle.min() else np.inf)
    assert found.even == (middle.max() == middle.min())
    assert found.deviation == pytest.approx(middle.std() / middle.mean())
    gains = initializers.phase_gains(jnp.ones((*kernel, 1, 1)), strides, dilations)
    np.testing.assert_array_equal(gains[..., 0], middle)


@pytest.mark.parametrize("layout", ["tf", "flax", "torch", "equinox"])
def test_gains_of_filters(layout):
    groups, strides = 2, (2, 3)
    shape = shape_in(layout, (3, 4), 6, 4, groups)
    w = jnp.asarray(np.random.default_rng(0).standard_normal(shape))
    y = full(np.ones((1, 6, 6, 4)), jaxdeconv.convert_filters(w, layout, "tf", groups), strides, groups=groups)
    gains = initializers.phase_gains(w, strides, layout=layout, groups=groups)
    np.testing.assert_allclose(gains, y[0, 6:8, 9:12], atol=1e-12)


def test_the_report_says_what_would_be_even():
    text = "kernel (3, 4), strides (2, 2), dilations (1, 2): checkerboard, taps by phase 2, 1; 4, 0, ratio inf, deviation 111%; even: 4, "
    assert str(initializers.checkerboard((3, 4), 2, (1, 2))) == text + "no kernel with dilation 2"
    assert str(initializers.checkerboard(4, 2)) == "kernel (4,), strides (2,), dilations (1,): even, taps by phase 2, 2"


ERRORS = [
    (lambda: initializers.icnr(NORMAL, 2)(None, (3, 1, 1)), ValueError, "icnr: the kernel must be a multiple of the stride, 2, for all phases to be alike, got shape[0]=3; take 4 taps"),
    (lambda: initializers.icnr("he", 2), TypeError, "icnr: initializer must be a function of key, shape and dtype, got initializer='he'"),
    (lambda: initializers.icnr(NORMAL, 2, "pytorch"), ValueError, "icnr: layout must be 'tf' or"),
    (lambda: initializers.icnr(NORMAL, 0.5), TypeError, "icnr: strides must be of integers, got strides=0.5"),
    (lambda: initializers.icnr(NORMAL, (2, 2))(None, (4, 1, 1)), ValueError, "icnr: strides must be an int or have length 1, got strides=(2, 2)"),
    (lambda: initializers.icnr(NORMAL, 2)(None, (4, 1)), ValueError, "icnr: shape must have at least one spatial axis"),
    (lambda: initializers.bilinear(2)(None, (2, 1, 1)), ValueError, "bilinear: the kernel must have at least 2*s - 1 = 3 taps for stride 2, got shape[0]=2; take 4"),
    (lambda: initializers.bilinear(2)(None, (4, 2, 3)), ValueError, "bilinear: each of 1 groups must have as many outputs as inputs, got shape=(4, 2, 3)"),
    (lambda: initializers.bilinear(2, groups=0)(None, (4, 2, 2)), ValueError, "bilinear: each of 0 groups"),
    (lambda: initializers.bilinear(2, groups="2"), TypeError, "bilinear: groups must be of integers"),
    (lambda: initializers.checkerboard(0, 2), ValueError, "checkerboard: kernel_size must be from 1"),
    (lambda: initializers.checkerboard((3, 3), (2, 2, 2)), ValueError, "checkerboard: strides must be an int or have length 1 or 2"),
    (lambda: initializers.phase_gains(np.ones((3, 2, 3)), 2, groups=2), ValueError, "phase_gains: groups must divide 3 channels, got groups=2"),
    (lambda: initializers.phase_gains([1.0], 2), TypeError, "phase_gains: filters must be an array"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, kind, message):
    with pytest.raises(kind, match="^" + re.escape(message)):
        call()

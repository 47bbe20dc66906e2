"""`groups=` in TensorFlow's convention: what it computes, what it refuses, and the warning where groups follow from output_shape."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import export

import jaxdeconv

RNG = np.random.default_rng(0)
X, W, G = (RNG.standard_normal(shape) for shape in ((2, 5, 6), (4, 3, 6), (2, 10, 6)))  # two groups, of three channels each
WINDOW = (2,), (1,), (1,), 2
LAYOUTS = {
    "NWC": ("conv1d_transpose", 1),
    "NHWC": ("conv2d_transpose", 2),
    "NCHW": ("conv2d_transpose", 2),
    "NDHWC": ("conv3d_transpose", 3),
}
LAYOUTS |= {"NCW": ("conv_transpose", 1), "NCDHW": ("conv_transpose", 3)}


def call(x, w, **changes):
    return jaxdeconv.conv1d_transpose(x, w, **{"output_shape": None, "strides": 2, "groups": 2} | changes)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12, strict=True)


@pytest.mark.parametrize("data_format", LAYOUTS)
@pytest.mark.parametrize("given", [True, False], ids=["output_shape", "None"])
def test_values(data_format, given):
    name, n = LAYOUTS[data_format]
    x, w = RNG.standard_normal((2, *(3, 2, 4)[:n], 6)), RNG.standard_normal((*(4, 3, 2)[:n], 2, 6))
    lengths = [2 * size for size in x.shape[1:-1]]
    crops = [max((size - 1) * 2 + k - 2 * size, 0) // 2 for size, k in zip(x.shape[1:-1], w.shape[:n], strict=True)]
    expected = oracle.transpose(x, w, lengths, (2,) * n, (1,) * n, crops, 3)
    first = data_format.startswith("NC")
    x, expected = (np.moveaxis(a, -1, 1) if first else a for a in (x, expected))
    y = getattr(jaxdeconv, name)(x, w, expected.shape if given else None, 2, data_format=data_format, groups=3)
    close(y, expected)


def test_gradients_jit_and_vmap():
    y, dx, dw = (
        oracle.transpose(X, W, (10,), *WINDOW),
        oracle.input_grad(G, W, (5,), *WINDOW),
        oracle.filter_grad(X, G, (4,), *WINDOW),
    )
    for output_shape in (None, [2, 10, 6]):
        results, vjp = jax.vjp(jax.jit(lambda x, w, shape=output_shape: call(x, w, output_shape=shape)), X, W)
        for actual, expected in zip((results, *vjp(G)), (y, dx, dw), strict=True):
            close(actual, expected)
    close(jax.vmap(lambda x: call(x[None], W)[0])(X), y)


def test_export():
    (width,) = export.symbolic_shape("w")
    exported = export.export(jax.jit(lambda x: call(x, W)))(jax.ShapeDtypeStruct((2, width, 6), jnp.float64))
    assert exported.out_avals[0].shape == (2, 2 * width, 6)
    close(exported.call(X), call(X, W))


def test_one_group_by_name():
    close(call(X, W, groups=1), oracle.transpose(X, W, (10,), (2,), (1,), (1,)))
    close(call(X, W, groups=1, output_shape=[2, 10, 3]), call(X, W, groups=None))


IMPLIED = {
    "conv1d_transpose": (X, W, [2, 10, 6]),
    "conv2d_transpose": (X[:, None], W[None], [2, 1, 10, 6]),
    "conv3d_transpose": (X[:, None, None], W[None, None], [2, 1, 1, 10, 6]),
    "conv_transpose": (X[:, None], W[None], [2, 1, 10, 6]),
}


@pytest.mark.parametrize("function", IMPLIED)
def test_groups_that_follow_from_output_shape_warn_once_where_they_are_called(function):
    x, w, shape = IMPLIED[function]
    strides, axis = [1] * (len(shape) - 3) + [2], len(shape) - 1

    def run(x, w):
        return getattr(jaxdeconv, function)(x, w, shape, strides)

    line = run.__code__.co_firstlineno + 1
    for under in (run, jax.jit(run), lambda x, w: jax.vjp(run, x, w)[0]):
        with pytest.warns(UserWarning, match="which makes 2 groups") as caught:
            y = under(x, w)
        (warning,) = caught
        assert str(warning.message) == (
            f"{function}: output_shape[{axis}] is 2 * 3, the output channels of filters, which makes 2 groups, "
            f"got output_shape={tuple(shape)}; pass groups=2 if they are meant, or 3 there for one group"
        )
        assert (Path(warning.filename).name, warning.lineno) == (Path(__file__).name, line)
        close(y, getattr(jaxdeconv, function)(x, w, shape, strides, groups=2))


def test_nothing_warns_that_has_no_groups_or_names_them():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(X, W, groups=None)
        call(X, W, groups=None, output_shape=[2, 10, 3])
        call(X, W, output_shape=[2, 10, 6])
        call(X, W, output_shape=np.array([-1, 10, 6]), groups=np.int64(2))
        found = jaxdeconv.explain(call, X, W).conventions["tf"]
        assert found == {"padding": "SAME", "output_shape": [2, 10, 6], "groups": 2}
        close(jaxdeconv.conv1d_transpose(X, W, strides=2, **found), call(X, W))


BAD = [
    (
        {"groups": 0},
        ValueError,
        "groups must divide the 6 input channels, the last axis of filters, got groups=0; pass 1 for no groups",
    ),
    ({"groups": -2}, ValueError, "groups must divide the 6 input channels"),
    ({"groups": 4}, ValueError, "groups must divide the 6 input channels, the last axis of filters, got groups=4"),
    ({"groups": 2.0}, TypeError, "groups must be of integers, got groups=2.0"),
    ({"groups": True}, TypeError, "groups must be of integers, got groups=True"),
    ({"groups": [2]}, TypeError, "groups must be of integers, got groups=[2]"),
    (
        {"groups": 1, "output_shape": [2, 10, 6]},
        ValueError,
        "output_shape[2] must be 1 * 3, groups times the output channels of filters, got output_shape=(2, 10, 6); pass 3 there",
    ),
    (
        {"groups": 2, "output_shape": [2, 10, 3]},
        ValueError,
        "output_shape[2] must be 2 * 3, groups times the output channels of filters",
    ),
    ({"groups": 2, "output_shape": [2, 10, 9]}, ValueError, "output_shape[2] must be 2 * 3"),
    ({"groups": 2, "output_shape": [2, 0, 0]}, ValueError, "output_shape[2] must be 2 * 3"),
    ({"groups": 2, "output_shape": [2, 11, 6]}, ValueError, "under padding='SAME' an input of size 5"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD)
def test_rejected(changes, kind, message, monkeypatch):
    monkeypatch.setattr("jaxdeconv._call._run", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(kind) as caught:
        call(X, W, **changes)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"conv1d_transpose: {message}")


def test_a_traced_number_of_groups():
    with pytest.raises(TypeError, match="conv1d_transpose: groups must be static, since it sets shapes, got groups=a traced int"):
        jax.jit(lambda groups: call(X, W, groups=groups))(2)

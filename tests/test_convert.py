"""Filter layouts: every pair there and back, the definition of each by loops, and each against the layers of its framework."""

import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv

LAYOUTS = get_args(jaxdeconv.FilterLayout)
OUT, IN = 2, 5  # per group


def tf_filter(ndim, groups, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*(3, 4, 2)[:ndim], OUT, groups * IN)))


def entry(layout, w, tap, group, o, i, groups):
    """The entry of a filter that takes channel i to channel o, both of their group, at a tap: each framework's words as an index."""
    flipped = tuple(size - 1 - at for size, at in zip(spatial(layout, w), tap, strict=True))
    out, in_ = group * OUT + o, group * IN + i
    return {
        "tf": lambda: w[(*tap, o, in_)],
        "keras": lambda: w[(*tap, o, in_)],
        "lax_transpose_kernel": lambda: w[(*tap, o, in_)],
        "haiku": lambda: w[(*flipped, o, in_)],
        "lax": lambda: w[(*flipped, i, out)],
        "flax": lambda: w[(*flipped, i, out)],
        "equinox": lambda: w[(out, i, *flipped)],
        "torch": lambda: w[(in_, o, *tap)],
        "onnx": lambda: w[(in_, o, *tap)],
    }[layout]()


def spatial(layout, w):
    return w.shape[2:] if layout in ("equinox", "torch", "onnx") else w.shape[:-2]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("ndim", [1, 2])
def test_definition(layout, groups, ndim):
    w = np.asarray(tf_filter(ndim, groups))
    converted = np.asarray(jaxdeconv.convert_filters(w, "tf", layout, groups))
    assert converted.size == w.size
    for tap in np.ndindex(w.shape[:ndim]):
        for group, o, i in itertools.product(range(groups), range(OUT), range(IN)):
            assert entry(layout, converted, tap, group, o, i, groups) == w[(*tap, o, group * IN + i)]


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(LAYOUTS, 2)))
def test_there_and_back(source, target):
    for ndim, groups in itertools.product((1, 2, 3), (1, 3)):
        w = jaxdeconv.convert_filters(tf_filter(ndim, groups), "tf", source, groups)
        there = jaxdeconv.convert_filters(w, source, target, groups)
        np.testing.assert_array_equal(jaxdeconv.convert_filters(there, target, source, groups), w)


def test_gradient_and_dtypes():
    w = tf_filter(1, 3)
    gradient = jax.grad(lambda w: jnp.vdot(jaxdeconv.convert_filters(w, "tf", "equinox", 3), g))
    g = jnp.arange(w.size, dtype=w.dtype).reshape(6, 5, 3)
    np.testing.assert_array_equal(gradient(w), jaxdeconv.convert_filters(g, "equinox", "tf", 3))
    for dtype in ("bfloat16", "float32", "complex64", "int8"):
        assert jaxdeconv.convert_filters(w.astype(dtype), "tf", "torch", 3).dtype == dtype


ERRORS = [
    ({"source": "pytorch"}, ValueError, "source must be 'tf' or"),
    ({"target": None}, TypeError, "target must be 'tf' or"),
    ({"w": np.ones((3, 2))}, ValueError, r"w must have at least one spatial axis beside its two channel axes, got w.shape=\(3, 2\)"),
    ({"w": [[[1.0]]]}, TypeError, r"w must be an array, got w=\[\[\[1.0\]\]\]"),
    ({"groups": 0}, ValueError, r"groups must divide the input channels of w, axis 0 of its shape \(6, 4, 3\), got groups=0"),
    ({"groups": 4}, ValueError, r"groups must divide the input channels of w, axis 0 of its shape \(6, 4, 3\), got groups=4"),
    ({"source": "equinox", "groups": 4}, ValueError, r"groups must divide the output channels of w, axis 0"),
    ({"groups": 1.0}, TypeError, "groups must be of integers, got groups=1.0"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), ERRORS)
def test_errors(changes, kind, message):
    with pytest.raises(kind, match=f"^convert_filters: {message}.*; .+"):
        jaxdeconv.convert_filters(**{"w": np.ones((6, 4, 3)), "source": "torch", "target": "tf", "groups": 1} | changes)


# Below: one line loads the parameters of each framework's own layer, and the numbers are the layer's. Where the framework is there.


def operands(ndim, channels_last=True):
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, *(5, 4, 3)[:ndim], IN)), jnp.float32)
    return x if channels_last else jnp.moveaxis(x, -1, 1)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_flax(ndim, transpose_kernel):
    nnx = pytest.importorskip("flax.nnx")
    kernel = (3, 4, 2)[:ndim]
    channels = (OUT, IN) if transpose_kernel else (IN, OUT)
    layer = nnx.ConvTranspose(
        *channels[:: -1 if transpose_kernel else 1], kernel, (2,) * ndim, transpose_kernel=transpose_kernel, rngs=nnx.Rngs(0)
    )
    x = operands(ndim)
    w = jaxdeconv.convert_filters(layer.kernel[...], "lax_transpose_kernel" if transpose_kernel else "flax", "tf")
    close(jaxdeconv.conv_transpose(x, w, None, 2), layer(x))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_haiku(ndim):
    hk = pytest.importorskip("haiku")
    kind = {1: hk.Conv1DTranspose, 2: hk.Conv2DTranspose, 3: hk.Conv3DTranspose}[ndim]
    layer = hk.without_apply_rng(hk.transform(lambda x: kind(OUT, (3, 4, 2)[:ndim], 2)(x)))
    x = operands(ndim)
    params = layer.init(jax.random.key(0), x)
    (module,) = params.values()
    y = jaxdeconv.conv_transpose(x, jaxdeconv.convert_filters(module["w"], "haiku", "tf"), None, 2)
    close(y + module["b"], layer.apply(params, x))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_equinox(ndim, groups):
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.ConvTranspose(
        ndim, groups * IN, groups * OUT, (3, 4, 2)[:ndim], 2, groups=groups, dtype=jnp.float32, key=jax.random.key(0)
    )
    x = operands(ndim, channels_last=False)
    x = jnp.concatenate([x] * groups, axis=1)
    w = jaxdeconv.convert_filters(layer.weight, "equinox", "tf", groups)
    expected = jax.vmap(layer)(x)
    layout = {1: "NCW", 2: "NCHW", 3: "NCDHW"}[ndim]
    y = jaxdeconv.conv_transpose(x, w, expected.shape, 2, "VALID", layout)
    close(y + layer.bias, expected)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_keras(ndim, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    kind = [keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose][ndim - 1]
    layer = kind(OUT, (3, 4, 2)[:ndim], 2, padding="same")
    x = operands(ndim)
    expected = np.asarray(layer(x))
    w = jaxdeconv.convert_filters(jnp.asarray(np.asarray(layer.kernel)), "keras", "tf")
    close(jaxdeconv.conv_transpose(x, w, None, 2), expected)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_torch(ndim):
    torch = pytest.importorskip("torch")
    kind = [torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d][ndim - 1]
    layer = kind(2 * IN, 2 * OUT, (3, 4, 2)[:ndim], 2, groups=2)
    x = operands(ndim, channels_last=False)
    x = jnp.concatenate([x] * 2, axis=1)
    expected = layer(torch.tensor(np.asarray(x))).detach().numpy()
    w = jaxdeconv.convert_filters(layer.weight.detach().numpy(), "torch", "tf", groups=2)
    y = jaxdeconv.conv_transpose(x, w, expected.shape, 2, "VALID", {1: "NCW", 2: "NCHW", 3: "NCDHW"}[ndim])
    close(y + layer.bias.detach().numpy().reshape(-1, *[1] * ndim), expected)

"""Filter layouts, and what else checkpoints have. Layouts: every pair there and back, the definition of each by loops, and each against the layers of its framework."""

import itertools
import re
from typing import get_args

import jax
import jax.numpy as jnp
import jax.test_util
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


# Weight normalisation and batch norms


def normalised(g, v, axis, epsilon=0.0):
    """By the definition, an entry of the axis at a time."""
    if axis is None:
        return np.asarray(g).ravel() * v / np.sqrt((v**2).sum() + epsilon)
    slices = [a * b / np.sqrt((b**2).sum() + epsilon) for a, b in zip(np.ravel(g), np.moveaxis(v, axis, 0), strict=True)]
    return np.moveaxis(np.stack(slices), 0, axis)


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("epsilon", [0, 0.5])
def test_weight_norm_there_and_back(axis, epsilon):
    rng = np.random.default_rng(0)
    v = rng.standard_normal((6, 4, 3))
    n = 1 if axis is None else v.shape[axis]
    g = rng.standard_normal(n)
    kept = [n if axis is not None and each == axis % 3 else 1 for each in range(3)]
    for shape in ((n,) if axis is not None else (), kept):
        w = jaxdeconv.fold_weight_norm(g.reshape(shape), v, axis, epsilon)
        np.testing.assert_allclose(w, normalised(g, v, axis, epsilon), atol=1e-14)
    g, v = jaxdeconv.unfold_weight_norm(w, axis, epsilon)
    assert g.shape == tuple(kept)
    np.testing.assert_array_equal(v, w)
    np.testing.assert_allclose(jaxdeconv.fold_weight_norm(g, v, axis, epsilon), w, atol=1e-14)


def test_weight_norm_and_batch_norm_dtypes_and_gradients():
    g, v = jnp.ones(5), tf_filter(1, 1)
    jax.test_util.check_grads(lambda g, v: jaxdeconv.fold_weight_norm(g, v, -1), (g, v), 2)
    ones = jnp.ones((2, 1))
    jax.test_util.check_grads(lambda *a: jaxdeconv.fold_batch_norm(*a, layout="tf", epsilon=0.1), (v, *[ones] * 5), 2)
    for dtype in ("float16", "bfloat16", "float32"):
        w = jaxdeconv.fold_weight_norm(g, v.astype(dtype), 2)  # a wider g
        assert w.dtype == dtype
        exact = normalised(np.asarray(g), np.asarray(v.astype(dtype), float), 2)
        np.testing.assert_allclose(w.astype(float), exact, rtol=2 * jnp.finfo(dtype).eps)
        w, b = jaxdeconv.fold_batch_norm(v.astype(dtype), None, ones, ones, None, None, layout="tf", epsilon=0)
        assert (w.dtype, b.dtype, b.shape) == (dtype, dtype, (2,))
        assert jaxdeconv.fold_batch_norm(w, ones, ones, ones, None, None, layout="tf", epsilon=0)[1].dtype == jnp.float64
    w = jaxdeconv.fold_weight_norm(
        jnp.ones(64, jnp.float16), 0.001 * jnp.ones((64, 300), jnp.float16)
    )  # whose squares are rounded away
    np.testing.assert_allclose(w, np.full((64, 300), 300**-0.5), rtol=1e-3)
    assert jnp.isnan(jaxdeconv.fold_weight_norm(jnp.ones(2), jnp.zeros((2, 3)))).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("ndim", [1, 2])
def test_batch_norm_by_the_definition(layout, groups, ndim):
    w, channels = tf_filter(ndim, groups), OUT * groups
    rng = np.random.default_rng(2)
    bias, mean, scale, offset = rng.standard_normal((4, channels))
    variance = rng.uniform(0.5, 2, channels)
    x = jnp.asarray(rng.standard_normal((2, *(5, 4)[:ndim], groups * IN)))

    def op(w):
        return np.asarray(jaxdeconv.keras.conv_transpose(x, w, 2, groups=groups))

    expected = (op(w) + bias - mean) / np.sqrt(variance + 0.01) * scale + offset
    stored = jaxdeconv.convert_filters(w, "tf", layout, groups)
    statistics = [each.reshape(1, -1) for each in (mean, variance, scale, offset)]
    folded, b = jaxdeconv.fold_batch_norm(
        stored, bias.reshape(-1, *[1] * ndim), *statistics, layout=layout, epsilon=0.01, groups=groups
    )
    assert folded.shape == stored.shape
    assert b.shape == (channels, *[1] * ndim)
    np.testing.assert_allclose(op(jaxdeconv.convert_filters(folded, layout, "tf", groups)) + np.ravel(b), expected, atol=1e-12)
    plain, b = jaxdeconv.fold_batch_norm(stored, None, mean, variance, None, None, layout=layout, epsilon=0.01, groups=groups)
    expected = (op(w) - mean) / np.sqrt(variance + 0.01)
    np.testing.assert_allclose(op(jaxdeconv.convert_filters(plain, layout, "tf", groups)) + np.asarray(b), expected, atol=1e-12)


V = np.ones((6, 4, 3))
BATCH_NORM = {"w": V, "bias": None, "mean": np.ones(4), "variance": np.ones(4), "scale": None, "offset": None}
BATCH_NORM |= {"layout": "torch", "epsilon": 1e-5}
CHECKPOINT_ERRORS = [
    ("fold_weight_norm", {"g": np.ones(6), "v": V[0, 0]}, ValueError, "v must have two axes or more, got v.shape=(3,)"),
    ("fold_weight_norm", {"g": np.ones(5), "v": V}, ValueError, "g must have one entry for each of axis=0 of v, and v has shape (6, 4, 3), got g.shape=(5,); pass an array of shape (6, 1, 1), or another axis"),
    ("fold_weight_norm", {"g": np.ones((6, 1)), "v": V}, ValueError, "g must have one entry"),
    ("fold_weight_norm", {"g": np.ones(6), "v": V, "axis": None}, ValueError, "g must have one entry for each of axis=None of v"),
    ("fold_weight_norm", {"g": np.ones(6), "v": V, "axis": 3}, ValueError, "axis must be one of v, whose shape is (6, 4, 3), got axis=3; pass an integer from -3 to 2, or None"),
    ("fold_weight_norm", {"g": np.ones(6), "v": V, "axis": 1.0}, TypeError, "axis must be of integers, got axis=1.0"),
    ("fold_weight_norm", {"g": [1.0] * 6, "v": V}, TypeError, "g must be an array, got g="),
    ("fold_weight_norm", {"g": np.ones(6), "v": V.astype(int)}, TypeError, "the dtype of v must be one of float16"),
    ("fold_weight_norm", {"g": np.ones(6), "v": V, "epsilon": -1}, ValueError, "epsilon must be a number of at least 0, got epsilon=-1"),
    ("fold_weight_norm", {"g": np.ones(6), "v": V, "epsilon": None}, TypeError, "epsilon must be a number of at least 0, got epsilon=None"),
    ("unfold_weight_norm", {"w": V, "axis": -4}, ValueError, "axis must be one of w, whose shape is (6, 4, 3), got axis=-4"),
    ("unfold_weight_norm", {"w": "w"}, TypeError, "w must be an array, got w='w'"),
    ("fold_batch_norm", BATCH_NORM | {"layout": "pytorch"}, ValueError, "layout must be 'tf' or"),
    ("fold_batch_norm", BATCH_NORM | {"w": V[0]}, ValueError, "w must have at least one spatial axis"),
    ("fold_batch_norm", BATCH_NORM | {"groups": 4}, ValueError, "groups must divide the input channels of w, axis 0"),
    ("fold_batch_norm", BATCH_NORM | {"mean": None}, TypeError, "mean must be an array, got mean=None"),
    ("fold_batch_norm", BATCH_NORM | {"variance": np.ones(6)}, ValueError, "variance must have one entry for each of the 4 output channels of w, whose shape is (6, 4, 3), got variance.shape=(6,); pass an array of shape (4,)"),
    ("fold_batch_norm", BATCH_NORM | {"scale": np.ones((2, 2))}, ValueError, "scale must have one entry for each of the 4"),
    ("fold_batch_norm", BATCH_NORM | {"groups": 2}, ValueError, "mean must have one entry for each of the 8"),
    ("fold_batch_norm", BATCH_NORM | {"epsilon": "1e-5"}, TypeError, "epsilon must be a number of at least 0, got epsilon='1e-5'"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "kind", "message"), CHECKPOINT_ERRORS)
def test_checkpoint_errors(function, arguments, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(f'{function}: {message}')}"):
        getattr(jaxdeconv, function)(**arguments)


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
    close(np.add(y, module["b"]), layer.apply(params, x))


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
    y = jaxdeconv.conv_transpose(x, w, expected.shape, 2, "VALID", layout, groups=groups)
    close(np.add(y, layer.bias), expected)


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
    y = jaxdeconv.conv_transpose(x, w, expected.shape, 2, "VALID", {1: "NCW", 2: "NCHW", 3: "NCDHW"}[ndim], groups=2)
    close(np.add(y, layer.bias.detach().numpy().reshape(-1, *[1] * ndim)), expected)


# Weight normalisation: the frameworks' own, on transposed layers.


def _torch_of(w):
    return np.array(w.detach())


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dim", [0, 1, None])
def test_torch_weight_norm(dim):
    torch = pytest.importorskip("torch")
    layers = [torch.nn.ConvTranspose1d(6, 4, 5, groups=2) for _ in range(2)]
    kinds = [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm]
    names = [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]
    for layer, kind, (g, v) in zip(layers, kinds, names, strict=True):
        kind(layer, dim=dim)
        state = {name: _torch_of(value) for name, value in layer.state_dict().items()}
        # What is left of the layer's beginning is its norms: other magnitudes, then.
        changed = state | {g: np.asarray(state[g] * np.linspace(0.5, 2, state[g].size, dtype=np.float32).reshape(state[g].shape))}
        layer.load_state_dict({name: torch.tensor(value) for name, value in changed.items()})
        layer(torch.ones(1, 6, 3))  # the old one's weight is made there
        w = jaxdeconv.fold_weight_norm(changed[g], changed[v], dim)
        np.testing.assert_allclose(w, _torch_of(layer.weight), atol=1e-6)
        back = jaxdeconv.unfold_weight_norm(changed[v], dim)
        assert back[0].shape in (state[g].shape, (1,) * 3)
        np.testing.assert_allclose(back[0].reshape(state[g].shape), state[g], atol=1e-6)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("axis", [0, 1, None])
def test_equinox_weight_norm(axis):
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.ConvTranspose1d(6, 4, 5, 2, groups=2, key=jax.random.key(0))
    normed = eqx.nn.WeightNorm(layer, axis=axis)
    normed = eqx.tree_at(lambda n: n.g, normed, normed.g * jnp.linspace(0.5, 2, normed.g.size).reshape(normed.g.shape))
    w = jaxdeconv.fold_weight_norm(normed.g, normed.layer.weight, axis)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 7)))
    np.testing.assert_allclose(eqx.tree_at(lambda n: n.weight, layer, w)(x), normed(x), atol=1e-12)
    np.testing.assert_allclose(jaxdeconv.unfold_weight_norm(layer.weight, axis)[0], eqx.nn.WeightNorm(layer, axis=axis).g, atol=1e-12)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_flax_weight_norm(kind, transpose_kernel):
    flax = pytest.importorskip(f"flax.{kind}")
    if not hasattr(flax, "WeightNorm"):
        pytest.skip("NNX has it from Flax 0.12.1 on")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 7, 6)))
    settings = {"strides": 2, "transpose_kernel": transpose_kernel, "param_dtype": jnp.float64}
    n = 6 if transpose_kernel else 4
    scale = jnp.linspace(0.5, 2, n)
    if kind == "linen":
        layer = flax.ConvTranspose(4, (5,), **settings)
        normed = flax.WeightNorm(layer, param_dtype=jnp.float64)
        variables = normed.init(jax.random.key(0), x)
        variables = jax.tree_util.tree_map_with_path(lambda path, v: scale if "scale" in str(path) else v, variables)
        y = normed.apply(variables, x)
        v = variables["params"]["layer_instance"]["kernel"]
    else:
        layer = flax.ConvTranspose(6, 4, (5,), **settings, rngs=flax.Rngs(0))
        v = layer.kernel[...]
        normed = flax.WeightNorm(layer, scale_init=lambda *_: scale, param_dtype=jnp.float64, rngs=flax.Rngs(1))
        y = normed(x)
    w = jaxdeconv.fold_weight_norm(scale, v, -1, 1e-12)
    layout = "lax_transpose_kernel" if transpose_kernel else "flax"
    np.testing.assert_allclose(jaxdeconv.conv_transpose(x, jaxdeconv.convert_filters(w, layout, "tf"), None, 2), y, atol=1e-12)


# Batch norms: the frameworks' own after transposed layers.


@pytest.mark.filterwarnings("default")
def test_torch_batch_norm():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(6, 4, (3, 2), 2, groups=2), torch.nn.BatchNorm2d(4)).double()
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model[1].weight.data.uniform_(0.5, 2)
    model[1].bias.data.normal_()
    model(x)  # which sets the statistics
    model.eval()
    state = {name: _torch_of(value) for name, value in model.state_dict().items()}
    statistics = [state[f"1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    w, b = jaxdeconv.fold_batch_norm(state["0.weight"], state["0.bias"], *statistics, layout="torch", epsilon=1e-5, groups=2)
    y = jaxdeconv.torch.conv_transpose2d(np.asarray(x), w, b, stride=2, groups=2)
    np.testing.assert_allclose(y, _torch_of(model(x)), atol=1e-12)


@pytest.mark.filterwarnings("default")
@jax.numpy_dtype_promotion("standard")  # Equinox and Haiku need it
def test_flax_haiku_equinox_and_keras_batch_norms():
    nnx, hk, eqx = pytest.importorskip("flax.nnx"), pytest.importorskip("haiku"), pytest.importorskip("equinox")
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 5, 6)))
    mean, scale, offset = (jnp.asarray(each) for each in rng.standard_normal((3, 4)))
    variance = jnp.asarray(rng.uniform(0.5, 2, 4))

    def check(y, w, b, axis, layout, epsilon, statistics, atol=1e-12):
        w, b = jaxdeconv.fold_batch_norm(w, b, *statistics, layout=layout, epsilon=epsilon)
        expected = jaxdeconv.conv_transpose(x, jaxdeconv.convert_filters(w, layout, "tf"), None, 2)
        expected = np.add(expected, b.ravel())
        np.testing.assert_allclose(jnp.moveaxis(y, axis, -1), expected, rtol=0, atol=atol)

    layer = nnx.ConvTranspose(6, 4, (5,), 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    norm = nnx.BatchNorm(4, use_running_average=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    norm.mean, norm.var, norm.scale, norm.bias = nnx.BatchStat(mean), nnx.BatchStat(variance), nnx.Param(scale), nnx.Param(offset)
    statistics = norm.mean[...], norm.var[...], norm.scale[...], norm.bias[...]
    check(norm(layer(x)), layer.kernel[...], layer.bias[...], -1, "flax", 1e-5, statistics)

    def haiku(x, is_training):
        return hk.BatchNorm(True, True, 0.9, name="norm")(hk.Conv1DTranspose(4, 5, 2, name="up")(x), is_training)

    model = hk.without_apply_rng(hk.transform_with_state(haiku))
    parameters, state = model.init(jax.random.key(0), x, True)
    parameters["norm"] = {"scale": scale.reshape(1, 1, 4), "offset": offset.reshape(1, 1, 4)}
    averages = {"norm/~/mean_ema": mean.reshape(1, 1, 4), "norm/~/var_ema": variance.reshape(1, 1, 4)}
    state = {name: {**each, "average": averages[name]} for name, each in state.items()}
    y, _ = model.apply(parameters, state, x, False)
    statistics = (*averages.values(), *parameters["norm"].values())
    check(y, parameters["up"]["w"], parameters["up"]["b"], -1, "haiku", 1e-5, statistics)

    up = eqx.nn.ConvTranspose1d(6, 4, 5, 2, padding="SAME", key=jax.random.key(0))
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="ema")
    state = state.set(norm.ema_state_index, (mean, variance)).set(norm.ema_first_time_index, jnp.array(False))
    norm = eqx.tree_at(lambda n: (n.weight, n.bias), eqx.nn.inference_mode(norm), (scale, offset))
    y = jax.vmap(lambda x: norm(up(x), state)[0], axis_name="batch")(jnp.moveaxis(x, -1, 1))
    check(y, up.weight, up.bias, 1, "equinox", 1e-5, (mean, variance, norm.weight, norm.bias))

    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras has another backend")
    layer = keras.layers.Conv1DTranspose(4, 5, 2, "same", dtype="float64")
    norm = keras.layers.BatchNormalization(dtype="float64")
    norm(layer(x))
    norm.set_weights([scale, offset, mean, variance])
    statistics = [getattr(norm, name).value for name in ("moving_mean", "moving_variance", "gamma", "beta")]
    check(norm(layer(x)), layer.kernel.value, layer.bias.value, -1, "keras", 1e-3, statistics, 2e-6)  # it normalises in float32

"""The layers for Flax, Equinox, Haiku and Keras: parameters, numbers and gradients of the frameworks' own, and what these lack."""

import importlib
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxdeconv

pytestmark = pytest.mark.filterwarnings("default")  # the frameworks' own
RNG = np.random.default_rng(0)


def same(ours, theirs, *arguments):
    """Both functions have one value and one vjp, in all arguments."""

    def run(function, *arguments):
        y, vjp = jax.vjp(function, *arguments)
        return y, vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    # As arguments, because jaxlib 0.8.0 folds Equinox's own layer of constants into wrong numbers.
    actual, expected = (jax.jit(partial(run, function))(*arguments) for function in (ours, theirs))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, atol=1e-11)


def array(*shape):
    return jnp.asarray(RNG.standard_normal(shape))


# Flax. The settings, and the spatial size of an input

FLAX = [
    ({"kernel_size": (5,), "strides": (2,)}, (4,)),
    ({"kernel_size": (4,), "strides": (2,), "padding": "VALID", "transpose_kernel": True}, (4,)),
    ({"kernel_size": (4, 3), "strides": (2, 3), "kernel_dilation": (1, 2), "use_bias": False}, (4, 3)),
    ({"kernel_size": (3,), "strides": (2,), "padding": 1}, (4,)),
    ({"kernel_size": (3, 2), "padding": ((1, 2), 0), "strides": (2, 1)}, (3, 3)),
    ({"kernel_size": (3, 2, 2), "strides": (2, 1, 2)}, (2, 3, 2)),
    ({"kernel_size": (6, 5), "strides": (2, 2), "padding": "CIRCULAR", "transpose_kernel": True}, (5, 3)),
    ({"kernel_size": (5, 4), "strides": (2, 3), "padding": "CIRCULAR"}, (5, 3)),
    ({"kernel_size": (9,), "strides": (1,), "padding": "CIRCULAR", "kernel_dilation": (2,)}, (3,)),  # around it several times
    ({"kernel_size": (2,), "strides": (4,), "padding": "CIRCULAR"}, (3,)),  # gaps
]


@pytest.mark.parametrize(("settings", "size"), FLAX, ids=str)
def test_nnx_is_flax(settings, size):
    nnx = pytest.importorskip("flax.nnx")
    import jaxdeconv.nnx

    theirs, ours = (
        layer(3, 4, **settings, param_dtype=jnp.float64, bias_init=nnx.initializers.normal(), rngs=nnx.Rngs(7))
        for layer in (nnx.ConvTranspose, jaxdeconv.nnx.ConvTranspose)
    )
    definition, state = nnx.split(theirs)
    own, initial = nnx.split(ours)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(initial), nnx.to_pure_dict(state))
    same(lambda s, x: nnx.merge(own, s)(x), lambda s, x: nnx.merge(definition, s)(x), state, array(2, *size, 3))


@pytest.mark.parametrize(("settings", "size"), FLAX[1:2] + FLAX[4:5] + FLAX[6:8], ids=str)
def test_linen_is_flax(settings, size):
    linen = pytest.importorskip("flax.linen")
    import jaxdeconv.linen

    theirs, ours = (layer(4, **settings, param_dtype=jnp.float64) for layer in (linen.ConvTranspose, jaxdeconv.linen.ConvTranspose))
    x = array(2, *size, 3)
    variables = theirs.init(jax.random.key(3), x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(3), x), variables)
    same(ours.apply, theirs.apply, variables, x)


def _nnx(*arguments, **settings):
    nnx = pytest.importorskip("flax.nnx")
    import jaxdeconv.nnx

    return jaxdeconv.nnx.ConvTranspose(*arguments, **settings, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def _parameters(layer, groups=1):
    """The filter as TensorFlow has it, and the bias."""
    layout = "lax_transpose_kernel" if layer.transpose_kernel else "flax"
    return np.asarray(jaxdeconv.convert_filters(layer.kernel[...], layout, "tf", groups)), np.asarray(layer.bias[...])


@pytest.mark.parametrize(
    "settings", [{}, {"kernel_dilation": 2}, {"strides": 5}, {"transpose_kernel": True, "feature_group_count": 2}], ids=str
)
def test_flax_causal(settings):
    settings = {"strides": 2} | settings
    layer = _nnx(4, 6, 4, padding="CAUSAL", **settings)
    groups, s, d = settings.get("feature_group_count", 1), settings["strides"], settings.get("kernel_dilation", 1)
    w, b = _parameters(layer, groups)
    x = array(2, 3, 4)
    np.testing.assert_allclose(layer(x), oracle.transpose(np.asarray(x), w, (3 * s,), (s,), (d,), (0,), groups) + b, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 4, 3)])
def test_flax_circular_of_an_empty_batch(shape):
    assert _nnx(3, 2, 4, 2, padding="CIRCULAR")(array(*shape)).shape == (*shape[:-2], 8, 2)


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize(("kernel_size", "strides"), [(4, 1), (3, 2), (9, 1), (2, 4)])
def test_flax_circular_of_symbolic_sizes(kernel_size, strides, transpose_kernel):
    """Flax's own layer cannot be exported so; of each size the numbers are those of the layer that is not exported."""
    nnx = pytest.importorskip("flax.nnx")
    layer = _nnx(2, 3, kernel_size, strides, padding="CIRCULAR", transpose_kernel=transpose_kernel)
    graph, parameters = nnx.split(layer)

    def gradients(parameters, x):
        return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(nnx.merge(graph, parameters)(x))))(x)

    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, w, 2"), jnp.float64)
    exported = jax.export.export(jax.jit(lambda x: gradients(parameters, x)))(x)
    for size in (1, 2, 5):  # a window that goes around several times, and one that does not
        x = array(2, size, 2)
        actual, expected = exported.call(x), gradients(parameters, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), actual, expected)


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_flax_groups_and_output_padding(transpose_kernel):
    bias_init = jax.nn.initializers.normal()
    layer = _nnx(
        4,
        6,
        (3, 2),
        2,
        padding="VALID",
        feature_group_count=2,
        output_padding=(1, 0),
        transpose_kernel=transpose_kernel,
        bias_init=bias_init,
    )
    assert layer.kernel.shape == ((3, 2, 3, 4) if transpose_kernel else (3, 2, 2, 6))
    w, b = _parameters(layer, 2)
    assert b.shape == (6,)
    assert b.any()
    x = array(2, 3, 3, 4)
    np.testing.assert_allclose(layer(x), oracle.transpose(np.asarray(x), w, (8, 6), (2, 2), (1, 1), (0, 0), 2) + b, atol=1e-12)


def test_linen_groups_circular_and_causal():
    pytest.importorskip("flax")
    import jaxdeconv.linen

    x = array(2, 5, 4)
    for transpose_kernel in (False, True):
        layer = jaxdeconv.linen.ConvTranspose(6, 3, feature_group_count=2, transpose_kernel=transpose_kernel, param_dtype=jnp.float64)
        y, variables = layer.init_with_output(jax.random.key(0), x)
        w = jaxdeconv.convert_filters(variables["params"]["kernel"], "lax_transpose_kernel" if transpose_kernel else "flax", "tf", 2)
        np.testing.assert_allclose(y, oracle.transpose(np.asarray(x), np.asarray(w), (5,), (1,), (1,), (1,), 2), atol=1e-12)
    circular = jaxdeconv.linen.ConvTranspose(6, 3, padding="CIRCULAR", param_dtype=jnp.float64)
    y, variables = circular.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(circular.apply(variables, jnp.roll(x, 2, 1)), jnp.roll(y, 2, 1), atol=1e-12)
    causal = jaxdeconv.linen.ConvTranspose(6, 4, strides=2, padding="CAUSAL", param_dtype=jnp.float64)
    y, variables = causal.init_with_output(jax.random.key(0), x)
    assert not jnp.array_equal(y, 0 * y)
    np.testing.assert_array_equal(causal.apply(variables, x.at[:, 3:].add(1))[:, :6], y[:, :6])


def test_flax_batches_masks_dtypes_and_transforms():
    nnx = pytest.importorskip("flax.nnx")
    import jaxdeconv.nnx

    mask = (array(3, 4, 5) > 0).astype(jnp.float32)
    settings = {
        "mask": mask,
        "dtype": jnp.bfloat16,
        "preferred_element_type": jnp.float32,
        "precision": "highest",
        "rngs": nnx.Rngs(0),
    }
    theirs = nnx.ConvTranspose(4, 5, (3,), (2,), **settings)
    ours = jaxdeconv.nnx.ConvTranspose(4, 5, (3,), (2,), **settings | {"rngs": nnx.Rngs(0)})
    for shape in [(6, 4), (1, 6, 4), (2, 3, 6, 4), (0, 6, 4), (2, 0, 6, 4)]:
        x = array(*shape).astype(jnp.float32)
        with jax.numpy_dtype_promotion("standard"):
            y, expected = nnx.jit(lambda layer, x: layer(x))(ours, x), theirs(x) if all(shape) else jnp.zeros((*shape[:-2], 12, 5))
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, expected, atol=1e-6)
    with jax.numpy_dtype_promotion("standard"):
        gradients = [nnx.grad(lambda layer: (layer(x) ** 2).sum())(layer) for layer in (ours, theirs)]
    x = array(2, 6, 4).astype(jnp.float32)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *map(nnx.to_pure_dict, gradients))


def test_flax_lowering_and_forward_mode():
    x = array(1, 4, 3)
    layer = _nnx(3, 2, 4, 2, implementation="polyphase")
    assert jaxdeconv.explain(layer, x).lowerings["transpose"]["cpu"] == "polyphase"
    assert str(jax.make_jaxpr(_nnx(3, 2, 4, 2, precision="highest"))(x)).count("HIGHEST")
    layer = _nnx(3, 2, 4, 2, forward_mode=True, use_bias=False)
    np.testing.assert_allclose(jax.jvp(layer, (x,), (x,))[1], layer(x), atol=1e-12)
    _agrees(lambda **how: _nnx(3, 2, 4, 2, use_bias=False, **how), x)


def _agrees(layer, x):
    """A layer of implementation="polyphase" and one of forward_mode, made by `layer`, are what they say."""
    found = jaxdeconv.explain(layer(implementation="polyphase"), x)
    assert set(found.lowerings["transpose"].values()) == {"polyphase"}
    function = layer(forward_mode=True)
    np.testing.assert_allclose(jax.jvp(function, (x,), (x,))[1], function(x), atol=1e-12)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(layer(), (x,), (x,))
    with jaxdeconv.defaults(forward_mode=True):  # over which a layer's own argument wins
        jax.jvp(layer(), (x,), (x,))
        with pytest.raises(TypeError, match="custom_vjp"):
            jax.jvp(layer(forward_mode=False), (x,), (x,))


def _called_with_bias(framework):
    """A call of the framework's layer of one tap on ones, in bfloat16, as a function of its bias [1]."""
    x, w = jnp.ones((2, 200, 1), jnp.bfloat16), jnp.ones((1, 1, 1), jnp.bfloat16)
    pytest.importorskip({"eqx": "equinox", "haiku": "haiku"}.get(framework, "flax"))
    module = importlib.import_module(f"jaxdeconv.{framework}")
    if framework == "nnx":
        nnx = pytest.importorskip("flax.nnx")
        layer = module.ConvTranspose(1, 1, 1, param_dtype=x.dtype, dtype=x.dtype, rngs=nnx.Rngs(0))
        graph, bias, others = nnx.split(layer, lambda path, _: path[-1] == "bias", ...)
        return lambda b: nnx.merge(graph, jax.tree.map(lambda _: b, bias), others)(x)
    if framework == "linen":
        return lambda b: module.ConvTranspose(1, (1,), param_dtype=x.dtype).apply({"params": {"kernel": w, "bias": b}}, x)
    if framework == "eqx":
        equinox = pytest.importorskip("equinox")
        layer = module.ConvTranspose1d(1, 1, 1, dtype=x.dtype, key=jax.random.key(0))
        return lambda b: equinox.tree_at(lambda layer: layer.bias, layer, b.reshape(1, 1))(x.reshape(1, 400))
    hk = pytest.importorskip("haiku")
    made = hk.without_apply_rng(hk.transform(lambda x: module.Conv1DTranspose(1, 1, name="layer")(x)))
    return lambda b: made.apply({"layer": {"w": w, "b": b}}, x)


@pytest.mark.parametrize("framework", ["nnx", "linen", "eqx", "haiku"])
def test_gradient_of_a_narrow_bias_is_summed_wide(framework):
    """As in the functions: in bfloat16, ones would add up to 256. XLA sums some wide by itself, hence the program."""
    y, pull = jax.vjp(_called_with_bias(framework), jnp.zeros(1, jnp.bfloat16))
    g = jnp.ones_like(y)
    assert y.dtype == jnp.bfloat16
    assert pull(g)[0].item() == 400
    assert not re.search(r":bf16\S* = reduce_sum", str(jax.make_jaxpr(pull)(g)))
    assert jax.vmap(lambda g: pull(g)[0])(jnp.ones((7, *y.shape), y.dtype)).tolist() == [[400.0]] * 7


def test_eqx_and_haiku_lowering_and_forward_mode():
    equinox, hk = pytest.importorskip("equinox"), pytest.importorskip("haiku")
    import jaxdeconv.eqx
    import jaxdeconv.haiku

    settings = {"use_bias": False, "key": jax.random.key(0)}
    _agrees(lambda **how: jaxdeconv.eqx.ConvTranspose1d(3, 2, 4, 2, **settings, **how), array(3, 4))
    _agrees(lambda **how: jaxdeconv.eqx.ConvTranspose(1, 3, 2, 4, 2, **settings, **how), array(3, 4))
    static = equinox.partition(jaxdeconv.eqx.ConvTranspose1d(3, 2, 4, 2, **settings), equinox.is_array)[1]
    assert not jax.tree.leaves(static)

    def haiku(output_shape=None, **how):
        module = hk.without_apply_rng(
            hk.transform(lambda x: jaxdeconv.haiku.Conv1DTranspose(2, 4, 2, output_shape, with_bias=False, **how)(x))
        )
        return partial(module.apply, module.init(jax.random.key(0), array(1, 4, 3)))

    for output_shape in (None, 7):
        _agrees(lambda output_shape=output_shape, **how: haiku(output_shape, **how), array(1, 4, 3))


# Equinox

EQUINOX = [
    ((1, 4, 6, 4), {"stride": 2}, (5,)),
    ((1, 4, 6, 4), {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2}, (5,)),
    ((2, 4, 6, 3), {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (2, 1), "use_bias": False}, (3, 4)),
    ((1, 4, 6, 2), {"stride": 4, "padding": "SAME"}, (5,)),  # gaps
    ((1, 4, 6, 5), {"stride": 2, "padding": "SAME", "output_padding": 1}, (5,)),
    ((2, 4, 6, 4), {"stride": 3, "padding": "SAME_LOWER", "dilation": 2}, (3, 2)),
    ((1, 4, 6, 4), {"stride": 3, "padding": "SAME_LOWER"}, (4,)),  # an odd number cropped
    ((1, 4, 6, 4), {"stride": 2, "padding": "VALID", "groups": 2}, (5,)),
    ((1, 4, 6, 5), {"stride": 2, "padding": "SAME", "padding_mode": "CIRCULAR"}, (6,)),
    ((2, 4, 6, 4), {"stride": (3, 1), "padding": "SAME_LOWER", "padding_mode": "CIRCULAR", "dilation": 2}, (4, 5)),
    ((3, 4, 6, 2), {"stride": 2}, (2, 3, 2)),
]


@pytest.mark.parametrize(("arguments", "settings", "size"), EQUINOX, ids=str)
def test_eqx_is_equinox(arguments, settings, size, tmp_path):
    equinox = pytest.importorskip("equinox")
    import jaxdeconv.eqx

    n = arguments[0]
    theirs = equinox.nn.ConvTranspose(*arguments, **settings, key=jax.random.key(1))
    ours = jaxdeconv.eqx.ConvTranspose(*arguments, **settings, key=jax.random.key(1))
    named = getattr(jaxdeconv.eqx, f"ConvTranspose{n}d")(*arguments[1:], **settings, key=jax.random.key(2))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    equinox.tree_serialise_leaves(tmp_path / "layer", theirs)
    loaded = equinox.tree_deserialise_leaves(tmp_path / "layer", named)
    x = array(2, 4, *size)
    for layer in (ours, loaded):
        leaves, structure = jax.tree.flatten(layer)
        other = jax.tree.structure(theirs)
        same(
            lambda leaves, x, structure=structure: jax.vmap(jax.tree.unflatten(structure, leaves))(x),
            lambda leaves, x, other=other: jax.vmap(jax.tree.unflatten(other, leaves))(x),
            leaves,
            x,
        )


# Haiku

HAIKU = [
    ("Conv1DTranspose", {"kernel_shape": 4, "stride": 2}, (5,), {}),
    ("Conv1DTranspose", {"kernel_shape": 3, "stride": 2, "output_shape": 9, "data_format": "NCW"}, (5,), {}),
    ("Conv1DTranspose", {"kernel_shape": 3, "stride": 2, "output_shape": 12, "padding": "VALID", "with_bias": False}, (5,), {}),
    ("Conv2DTranspose", {"kernel_shape": (3, 2), "stride": (2, 3), "padding": "VALID"}, (3, 4), {}),
    ("Conv2DTranspose", {"kernel_shape": 3, "stride": 2, "padding": [(1, 2), (0, 1)], "data_format": "NCHW"}, (3, 4), {}),
    ("Conv3DTranspose", {"kernel_shape": 2, "stride": 2}, (2, 3, 2), {"precision": jax.lax.Precision.HIGHEST}),
    ("ConvNDTranspose", {"num_spatial_dims": 1, "kernel_shape": 5, "stride": 3, "name": "up"}, (4,), {}),
]


@pytest.mark.parametrize(("name", "settings", "size", "called"), HAIKU, ids=str)
@pytest.mark.parametrize("batch", [(), (2,)], ids=["unbatched", "batched"])
def test_haiku_is_haiku(name, settings, size, called, batch):
    hk = pytest.importorskip("haiku")
    import jaxdeconv.haiku

    settings = {"output_channels": 4} | settings
    x = array(*batch, *size, 3)
    x = jnp.moveaxis(x, -1, len(batch)) if settings.get("data_format", "N").startswith("NC") else x
    theirs, ours = (
        hk.without_apply_rng(hk.transform(lambda x, module=module: getattr(module, name)(**settings)(x, **called)))
        for module in (hk, jaxdeconv.haiku)
    )
    parameters = theirs.init(jax.random.key(5), x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(5), x), parameters)
    same(ours.apply, theirs.apply, parameters, x)


@pytest.mark.parametrize("output_shape", [None, 9])
def test_haiku_groups_and_masks(output_shape):
    hk = pytest.importorskip("haiku")
    import jaxdeconv.haiku

    x, mask = array(2, 5, 4), np.tril(np.ones((3, 4)))[None] * np.ones((3, 1, 1))

    def forward(x):
        return jaxdeconv.haiku.Conv1DTranspose(6, 3, 2, output_shape, groups=2, mask=mask)(x)

    model = hk.without_apply_rng(hk.transform(forward))
    parameters = model.init(jax.random.key(0), x)
    w = parameters["conv1_d_transpose"]["w"]
    assert w.shape == (3, 3, 4)
    w = np.asarray(jaxdeconv.convert_filters(w * mask, "haiku", "tf", 2))
    length, crop = (10, 0) if output_shape is None else (9, 1)
    np.testing.assert_allclose(
        model.apply(parameters, x), oracle.transpose(np.asarray(x), w, (length,), (2,), (1,), (crop,), 2), atol=1e-12
    )


@pytest.mark.parametrize("name", ["Conv1DTranspose", "ConvNDTranspose"])
@pytest.mark.parametrize("policy_of", ["haiku", "jaxdeconv.haiku"])
def test_haiku_precision_policies(name, policy_of):
    """One that is set on Haiku's class reaches ours, also within a module that has another."""
    hk, jmp = pytest.importorskip("haiku"), pytest.importorskip("jmp")
    import jaxdeconv.haiku

    class Outer(hk.Module):
        def __init__(self, module):
            super().__init__("outer")
            self.module = module

        def __call__(self, x):
            settings = {"num_spatial_dims": 1} if name == "ConvNDTranspose" else {}
            y = getattr(self.module, name)(output_channels=4, kernel_shape=3, stride=2, name="up", **settings)(x)
            return y, hk.get_parameter("p", (), x.dtype, jnp.ones)

    x = array(2, 5, 3).astype(jnp.float32)
    layer = getattr(importlib.import_module(policy_of), name)
    results = []
    with (
        hk.mixed_precision.push_policy(Outer, jmp.get_policy("params=float32,compute=float32,output=float32")),
        hk.mixed_precision.push_policy(layer, jmp.get_policy("params=bfloat16,compute=float16,output=bfloat16")),
        jax.numpy_dtype_promotion("standard"),
    ):
        for module in (hk, jaxdeconv.haiku):
            made = hk.without_apply_rng(hk.transform(lambda x, module=module: Outer(module)(x)))
            parameters = made.init(jax.random.key(0), x)
            assert {leaf.dtype for leaf in parameters["outer/up"].values()} == {jnp.dtype("bfloat16")}
            assert "f16[2,5,3]" in str(jax.make_jaxpr(made.apply)(parameters, x))
            results.append((parameters, made.apply(parameters, x)))
    ours, theirs = results
    assert jax.tree.map(lambda a: a.dtype, ours) == jax.tree.map(lambda a: a.dtype, theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.astype(float), b.astype(float), atol=0.02), ours, theirs)
    assert hk.mixed_precision.get_policy(layer) is None


# A model's layers replaced, all at once


def test_eqx_replace():
    equinox = pytest.importorskip("equinox")
    import jaxdeconv.eqx

    class Own(equinox.nn.ConvTranspose1d):
        pass

    keys = iter(jax.random.split(jax.random.key(0), 20))

    class Block(equinox.Module):
        up: equinox.nn.ConvTranspose
        layers: list
        table: dict
        name: str = equinox.field(static=True)

        def __init__(self):
            self.up = equinox.nn.ConvTranspose(1, 4, 4, 3, 2, groups=2, key=next(keys))
            relu, norm = equinox.nn.Lambda(jax.nn.relu), equinox.nn.GroupNorm(2, 4)
            self.layers = [equinox.nn.ConvTranspose1d(4, 4, 4, 2, padding="SAME", key=next(keys)), (relu, norm), None]
            own, already = (kind(4, 4, 3, key=next(keys)) for kind in (Own, jaxdeconv.eqx.ConvTranspose1d))
            self.table = {"own": own, "already": already, "conv": equinox.nn.Conv1d(4, 4, 3, key=next(keys))}
            self.name = "block"

        def __call__(self, x):
            return self.table["conv"](self.table["already"](self.table["own"](self.layers[0](self.up(x)))))

    class Model(equinox.Module):
        blocks: tuple
        shared: equinox.nn.Shared

        def __init__(self):
            self.blocks = Block(), Block()
            pair = [equinox.nn.ConvTranspose1d(4, 4, 3, use_bias=False, key=next(keys)) for _ in range(2)]
            self.shared = equinox.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)

        def __call__(self, x):
            first, second = self.shared()
            return second(first(self.blocks[1](self.blocks[0](x))))

    model = Model()
    replaced = jaxdeconv.eqx.replace(model, forward_mode=True)
    block, before = replaced.blocks[1], model.blocks[1]
    kinds = [type(each) for each in (block.up, block.layers[0], *replaced.shared.pytree)]
    assert kinds == [jaxdeconv.eqx.ConvTranspose, *[jaxdeconv.eqx.ConvTranspose1d] * 3]
    assert block.up.forward_mode is True
    assert block.layers[1] == before.layers[1]
    assert (type(block.table["own"]), type(block.table["already"])) == (Own, jaxdeconv.eqx.ConvTranspose1d)
    assert block.table["already"].forward_mode is None
    assert (block.name, block.layers[2], type(model.blocks[1].up)) == ("block", None, equinox.nn.ConvTranspose)
    for a, b in zip(jax.tree.leaves(replaced), jax.tree.leaves(model), strict=True):
        assert a is b
    leaves, structure = jax.tree.flatten(equinox.filter(replaced, equinox.is_array))
    theirs = jax.tree.structure(equinox.filter(model, equinox.is_array))
    rest = [equinox.filter(each, equinox.is_array, inverse=True) for each in (replaced, model)]
    same(
        lambda leaves, x: equinox.combine(jax.tree.unflatten(structure, leaves), rest[0])(x),
        lambda leaves, x: equinox.combine(jax.tree.unflatten(theirs, leaves), rest[1])(x),
        leaves,
        array(4, 3),
    )
    assert jax.tree.structure(jaxdeconv.eqx.replace(replaced)) == jax.tree.structure(replaced)
    for kind in ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"):
        layer = jaxdeconv.eqx.replace(getattr(equinox.nn, kind)(4, 4, 3, key=next(keys)), implementation="matmul")
        made = getattr(jaxdeconv.eqx, kind)(4, 4, 3, key=next(keys), implementation="matmul")
        assert jax.tree.structure(layer) == jax.tree.structure(made)
    several = equinox.filter_vmap(lambda key: equinox.nn.ConvTranspose1d(4, 4, 3, key=key))(jax.random.split(next(keys), 3))
    y = equinox.filter_vmap(lambda layer, x: layer(x), in_axes=(0, None))(jaxdeconv.eqx.replace([several])[0], array(4, 3))
    assert y.shape == (3, 4, 5)


def test_nnx_replace():
    nnx = pytest.importorskip("flax.nnx")
    import jaxdeconv.nnx

    class Own(nnx.ConvTranspose):
        pass

    def layer(kind=nnx.ConvTranspose, **settings):
        return kind(4, 4, 3, **settings, param_dtype=jnp.float64, rngs=nnx.Rngs(0))

    class Model(nnx.Module):
        def __init__(self):
            self.up = layer(strides=2)
            self.again = self.up
            self.sequence = nnx.Sequential(layer(padding="CIRCULAR"), jnp.tanh, layer(nnx.Conv))
            self.table = nnx.data({"plain": [layer(transpose_kernel=True)], "tuple": (layer(use_bias=False),)})
            self.own, self.already = layer(Own), layer(jaxdeconv.nnx.ConvTranspose)

        def __call__(self, x):
            for each in (self.up, self.again, self.sequence, *self.table["plain"], *self.table["tuple"], self.own, self.already):
                x = each(x)
            return x

    model, x = Model(), array(2, 3, 4)
    untouched = nnx.clone(model)
    held = [model.up, model.sequence.layers[0], model.table["plain"][0], model.table["tuple"][0]]
    variables = jax.tree.leaves(nnx.state(model), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    kernel, values = model.up.kernel, [v[...] for v in variables]
    assert jaxdeconv.nnx.replace(model, implementation="dilated", forward_mode=True) is model
    assert all(type(each) is jaxdeconv.nnx.ConvTranspose for each in held)
    assert held == [model.up, model.sequence.layers[0], model.table["plain"][0], model.table["tuple"][0]]
    assert (model.up.implementation, model.up.forward_mode) == ("dilated", True)
    assert model.up is model.again
    assert model.up.kernel is kernel
    assert [type(each) for each in (model.own, model.already, model.sequence.layers[2])] == [
        Own,
        jaxdeconv.nnx.ConvTranspose,
        nnx.Conv,
    ]
    assert model.already.implementation is None
    now = jax.tree.leaves(nnx.state(model), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert all(a[...] is b for a, b in zip(now, values, strict=True))
    (graph, state), (other, theirs) = nnx.split(model), nnx.split(untouched)
    assert jax.tree.structure(state) == jax.tree.structure(theirs)
    same(lambda s, x: nnx.merge(graph, s)(x), lambda s, x: nnx.merge(other, s)(x), state, x)
    gradients = nnx.grad(lambda model: (model(x) ** 2).sum())(model)
    assert jax.tree.structure(gradients) == jax.tree.structure(nnx.state(model, nnx.Param))
    assert type(nnx.clone(model).up) is jaxdeconv.nnx.ConvTranspose
    made = nnx.graphdef(jaxdeconv.nnx.replace(layer(strides=2)))
    assert made == nnx.graphdef(layer(jaxdeconv.nnx.ConvTranspose, strides=2))


# Keras

KERAS = [
    ("Conv1DTranspose", {"kernel_size": 5, "strides": 2}, (4,)),
    ("Conv1DTranspose", {"kernel_size": 3, "strides": 3, "padding": "same", "output_padding": 1, "activation": "gelu"}, (4,)),
    ("Conv1DTranspose", {"kernel_size": 3, "dilation_rate": 2, "data_format": "channels_first", "use_bias": False}, (4,)),
    ("Conv2DTranspose", {"kernel_size": (4, 3), "strides": (2, 3), "padding": "SAME", "kernel_constraint": "non_neg"}, (4, 3)),
    ("Conv2DTranspose", {"kernel_size": 3, "strides": 2, "data_format": "channels_first", "kernel_regularizer": "l1"}, (4, 3)),
    ("Conv3DTranspose", {"kernel_size": (3, 2, 2), "strides": (2, 1, 2)}, (2, 3, 2)),
]


def _keras():
    """Keras, and the module that has ours."""
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras has another backend")
    return keras, jaxdeconv.keras


@pytest.mark.parametrize(("name", "settings", "size"), KERAS, ids=str)
def test_keras_layers_are_keras(name, settings, size):
    keras, ours_of = _keras()
    settings = {"filters": 4, "bias_initializer": keras.initializers.RandomNormal(seed=1), "dtype": "float64"} | settings
    x = array(2, *size, 3)
    x = jnp.moveaxis(x, -1, 1) if settings.get("data_format") == "channels_first" else x
    theirs, ours = (
        getattr(module, name)(**settings, kernel_initializer=keras.initializers.GlorotUniform(2))
        for module in (keras.layers, ours_of)
    )
    expected = theirs(x)
    ours.build(x.shape)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [v.path for v in ours.weights] == [v.path.replace(theirs.name, ours.name) for v in theirs.weights]
    same(
        lambda weights, x: ours.stateless_call(weights, [], x)[0],
        lambda weights, x: theirs.stateless_call(weights, [], x)[0],
        [v.value for v in theirs.trainable_variables],
        x,
    )
    assert tuple(ours.compute_output_shape(x.shape)) == expected.shape
    np.testing.assert_allclose(ours.losses, theirs.losses)
    config = theirs.get_config()
    again = type(ours).from_config(config)  # theirs loads
    assert {key: value for key, value in again.get_config().items() if key in config} == config


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_keras_layers_have_groups_and_strides_with_dilations(data_format):
    keras, ours = _keras()
    layer = ours.Conv2DTranspose(
        6, (3, 2), (2, 3), "same", data_format=data_format, dilation_rate=(2, 1), groups=2, bias_initializer="normal", dtype="float64"
    )
    x = array(2, 4, 3, 4)
    first = data_format == "channels_first"
    entered = keras.Input((4, None, None) if first else (None, None, 4), dtype="float64")
    model = keras.Model(entered, layer(entered))
    assert model.output_shape == ((None, 6, None, None) if first else (None, None, None, 6))
    y = model(jnp.moveaxis(x, -1, 1) if first else x)
    assert tuple(layer.compute_output_shape((2, 4, 4, 3) if first else (2, 4, 3, 4))) == y.shape
    w, b = (np.asarray(v) for v in layer.get_weights())
    assert (w.shape, b.shape) == ((3, 2, 3, 4), (6,))
    expected = oracle.transpose(np.asarray(x), w, (8, 9), (2, 3), (2, 1), (1, 0), 2) + b
    np.testing.assert_allclose(jnp.moveaxis(y, 1, -1) if first else y, expected, atol=1e-12)
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(jnp.moveaxis(x, -1, 1) if first else x), y)


def test_keras_models_fit_save_and_load(tmp_path):
    keras, ours = _keras()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4, 4, 3)).astype("float32"), rng.standard_normal((8, 8, 8, 2)).astype("float32")

    def model(layer, **more):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((4, 4, 3)), layer(8, 3, 2, "same", activation="relu", **more), keras.layers.Conv2D(2, 1)]
        made = keras.Sequential(layers)
        made.compile(keras.optimizers.SGD(0.1), "mse")
        return made

    with jax.numpy_dtype_promotion("standard"):
        losses = [
            model(layer).fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
            for layer in (ours.Conv2DTranspose, keras.layers.Conv2DTranspose)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-5)
        made = model(ours.Conv2DTranspose, groups=1, implementation="polyphase")
        made.save(tmp_path / "model.keras")
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "y.npy", made(x))
        made.save_weights(tmp_path / "model.weights.h5")
        theirs = model(keras.layers.Conv2DTranspose)
        theirs.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_allclose(theirs(x), made(x), atol=1e-5)
    code = (
        "import keras, numpy as np; from jaxdeconv.keras import Conv2DTranspose; model = keras.saving.load_model('model.keras'); "
        "layer = model.layers[0]; assert type(layer) is Conv2DTranspose and layer.implementation == 'polyphase'; "
        "np.testing.assert_allclose(model(np.load('x.npy')), np.load('y.npy'), atol=1e-6)"
    )
    path = os.pathsep.join([str(Path(jaxdeconv.__file__).parents[1]), *sys.path])
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_keras_dtype_policies(policy):
    keras, ours = _keras()
    x = array(2, 4, 3).astype(jnp.float32)
    settings = {
        "bias_initializer": keras.initializers.RandomNormal(seed=1),
        "kernel_initializer": keras.initializers.GlorotUniform(2),
    }
    layers = [kind(4, 5, 2, dtype=policy, **settings) for kind in (ours.Conv1DTranspose, keras.layers.Conv1DTranspose)]
    y, expected = (layer(x) for layer in layers)
    assert y.dtype == expected.dtype
    assert [v.dtype for v in layers[0].weights] == [v.dtype for v in layers[1].weights]
    np.testing.assert_allclose(y.astype(jnp.float32), expected.astype(jnp.float32), atol=4 * jnp.finfo(y.dtype).eps)


def test_keras_replace():
    keras, ours = _keras()

    @keras.saving.register_keras_serializable("test")
    class Own(keras.layers.Conv1DTranspose):
        pass

    layers = keras.layers
    inner = keras.Sequential([layers.Conv1DTranspose(4, 3, 2, "same", data_format="channels_last"), layers.ReLU()])
    shared, x = layers.Conv1DTranspose(4, 3, padding="same", kernel_regularizer="l2"), keras.Input((5, 4))
    y = Own(4, 2)(shared(inner(shared(x))))
    model = keras.Model(x, [y, layers.Conv1D(2, 3)(ours.Conv1DTranspose(4, 3, implementation="dilated")(y))])
    model.compile("adam", "mse")
    made = ours.replace(model, implementation="matmul", forward_mode=True)
    transposed = [each for each in made.layers if isinstance(each, layers.Conv1DTranspose)]
    assert [type(each) for each in transposed] == [ours.Conv1DTranspose, Own, ours.Conv1DTranspose]  # the shared one is one
    assert [getattr(each, "implementation", None) for each in transposed] == ["matmul", None, "dilated"]
    (nested,) = (each for each in made.layers if isinstance(each, keras.Sequential))
    assert (type(nested.layers[0]), nested.layers[0].forward_mode) == (ours.Conv1DTranspose, True)
    assert (type(inner.layers[0]), made.compiled, len(made.weights)) == (layers.Conv1DTranspose, True, len(model.weights))
    x = array(2, 5, 4).astype("float32")
    for a, b in zip(made(x), model(x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)

    for n, kind in enumerate((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), 1):
        late = keras.Sequential([kind(2, 3, 2), layers.Dropout(0.5)])  # built when it is first called
        assert type(ours.replace(late).layers[0]) is getattr(ours, kind.__name__)
        x = array(1, *[4] * n, 3).astype("float32")
        y = late(x)
        np.testing.assert_allclose(ours.replace(late)(x), y, atol=1e-5)

    class InCode(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"^replace: model must be one that Keras clones, and it says: .*; make it of our layers"):
        ours.replace(InCode())


def test_keras_lowering_and_forward_mode():
    _, ours = _keras()
    _agrees(lambda **how: ours.Conv1DTranspose(2, 4, 2, use_bias=False, dtype="float64", **how), array(1, 4, 3))


@pytest.mark.parametrize(
    ("framework", "message"),
    [
        (None, 'the layers of jaxdeconv.keras need keras; install it with: python -m pip install "jaxdeconv[keras]"'),
        (
            SimpleNamespace(backend=SimpleNamespace(backend=lambda: "torch")),
            "the layers of jaxdeconv.keras need Keras's JAX backend, got keras.backend.backend()='torch'; set KERAS_BACKEND=jax in",
        ),
    ],
)
def test_keras_that_is_missing_or_has_another_backend(framework, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", framework)
    monkeypatch.delitem(sys.modules, "jaxdeconv._keras_layers", raising=False)
    monkeypatch.delattr(jaxdeconv, "_keras_layers", raising=False)
    with pytest.raises(ImportError, match="^" + re.escape(message)):
        jaxdeconv.keras.Conv2DTranspose  # noqa: B018
    assert jaxdeconv.keras.conv_transpose(jnp.ones((1, 2, 1)), jnp.ones((3, 1, 1))).shape == (1, 4, 1)
    with pytest.raises(AttributeError, match="has no attribute 'Conv4DTranspose'"):
        jaxdeconv.keras.Conv4DTranspose  # noqa: B018


# Errors


def _replace(module, *arguments, **settings):
    return importlib.import_module(f"jaxdeconv.{module}").replace(*arguments, **settings)


def _keras_layer(x, *arguments, **settings):
    return _keras()[1].Conv1DTranspose(6, 3, *arguments, **settings, dtype="float64")(x)


def _linen(x=None, **settings):
    import jaxdeconv.linen

    layer = jaxdeconv.linen.ConvTranspose(**{"features": 6, "kernel_size": (3,)} | settings)
    return layer.init(jax.random.key(0), array(2, 5, 4) if x is None else x)


def _haiku(x=None, **settings):
    import haiku as hk

    import jaxdeconv.haiku

    settings = {"output_channels": 6, "kernel_shape": 3, "stride": 2} | settings
    x = array(2, 5, 4) if x is None else x
    return hk.transform(lambda x: jaxdeconv.haiku.Conv1DTranspose(**settings)(x)).init(jax.random.key(0), x)


def _eqx(x, **settings):
    import jaxdeconv.eqx

    return jaxdeconv.eqx.ConvTranspose1d(4, 6, 3, 2, **settings, key=jax.random.key(0))(x)


ERRORS = [
    ("flax", lambda: _nnx(4, 6, 3, feature_group_count=4), ValueError, "ConvTranspose: feature_group_count must divide in_features=4 and out_features=6, got feature_group_count=4"),
    ("flax", lambda: _nnx(4, 6, (3, 3), padding="CAUSAL")(array(2, 5, 5, 4)), ValueError, "ConvTranspose: padding='CAUSAL' is for one spatial dimension, got"),
    ("flax", lambda: _nnx(4, 6, 3, padding="REFLECT", strides=2)(array(2, 5, 4)), ValueError, "ConvTranspose: padding must be 'SAME', 'VALID', 'CAUSAL', 'CIRCULAR', an integer or pairs of integers, got padding='REFLECT'"),
    ("flax", lambda: _nnx(4, 6, 3, padding="CASUAL")(array(2, 5, 4)), ValueError, "ConvTranspose: padding must be 'SAME', 'VALID', 'CAUSAL', 'CIRCULAR', an integer or pairs of integers, got padding='CASUAL'"),
    ("flax", lambda: _linen(padding="CASUAL", param_dtype=jnp.float64), ValueError, "ConvTranspose: padding must be 'SAME', 'VALID', 'CAUSAL', 'CIRCULAR', an integer or pairs of integers, got padding='CASUAL'"),
    ("flax", lambda: _nnx(4, 6, (3, 3), padding="CASUAL")(array(2, 5, 5, 4)), ValueError, "ConvTranspose: padding must be 'SAME', 'VALID', 'CIRCULAR', an integer or pairs of integers, got padding='CASUAL'"),
    ("flax", lambda: _nnx(4, 6, 3, padding=[1, 2, 3])(array(2, 5, 4)), ValueError, "ConvTranspose: padding must be 'SAME', 'VALID', 'CAUSAL', 'CIRCULAR', an integer or a pair of integers for each of 1 spatial dimensions, got padding="),
    ("flax", lambda: _nnx(4, 6, 3, padding="CIRCULAR", output_padding=1)(array(2, 5, 4)), ValueError, "ConvTranspose: output_padding must be 0 with padding='CIRCULAR', got output_padding=1"),
    ("flax", lambda: _nnx(4, 6, 3, output_padding=-1)(array(2, 5, 4)), ValueError, "ConvTranspose: output_padding must be from 0"),
    ("flax", lambda: _nnx(4, 6, 3, strides=(2, 2))(array(2, 5, 4)), ValueError, "ConvTranspose: strides must be an int or have length 1"),
    ("flax", lambda: _nnx(4, 6, (3, 3))(array(4, 4)), ValueError, "ConvTranspose: inputs must have 2 spatial dimensions and features"),
    ("flax", lambda: _nnx(4, 6, 3, mask=np.ones(3))(array(2, 5, 4)), ValueError, "ConvTranspose: mask must have the shape of the kernel, (3, 4, 6), got mask.shape=(3,)"),
    ("flax", lambda: _nnx(4, 6, 3)(array(2, 5, 3)), ValueError, "ConvTranspose: inputs must have the 4 features that the kernel of shape (3, 4, 6) is for, got inputs.shape=(2, 5, 3); features are the last axis"),
    ("flax", lambda: _nnx(4, 6, 3, feature_group_count=2, transpose_kernel=True)(array(2, 5, 3)), ValueError, "ConvTranspose: inputs must have the 4 features that the kernel of shape (3, 3, 4) is for, got"),
    ("flax", lambda: _nnx(4, 6, 3, feature_group_count="2"), TypeError, "ConvTranspose: feature_group_count must be of integers, got feature_group_count='2'"),
    ("flax", lambda: _nnx(4, 6, 0), ValueError, "ConvTranspose: kernel_size must be positive, got kernel_size=0"),
    ("flax", lambda: _nnx(4, 6, (3, 0)), ValueError, "ConvTranspose: kernel_size must be positive, got kernel_size=(3, 0)"),
    ("flax", lambda: _nnx(4, 6, 3, implementation="fft")(array(2, 5, 4)), ValueError, "conv_transpose: implementation must be"),
    ("flax", lambda: _linen(feature_group_count=4), ValueError, "ConvTranspose: feature_group_count must divide the 4 features of inputs and features=6"),
    ("flax", lambda: _linen(mask=np.ones(3)), ValueError, "ConvTranspose: mask must have the shape of the kernel, (3, 4, 6), got mask.shape=(3,)"),
    ("equinox", lambda: _eqx(array(2, 4, 5)), ValueError, "ConvTranspose: x must have rank 2, channels and 1 spatial dimensions, got x.shape=(2, 4, 5); map over a batch"),
    ("equinox", lambda: _eqx(array(5, 4)), ValueError, "ConvTranspose: x must have 4 channels, in_channels of the layer, got x.shape=(5, 4); channels are the first axis"),
    ("haiku", lambda: _haiku(groups=1.5), TypeError, "ConvNDTranspose: groups must be of integers, got groups=1.5"),
    ("equinox", lambda: _eqx(array(4, 5).astype(jnp.float32)), TypeError, "conv_transpose: lhs and rhs must have one dtype and lhs has float32, got rhs.dtype='float64'"),
    ("haiku", lambda: _haiku(array(4)), ValueError, "ConvNDTranspose: inputs must have rank 2 or 3"),
    ("haiku", lambda: _haiku(groups=4), ValueError, "ConvNDTranspose: groups must divide the 4 channels of inputs and output_channels=6, got groups=4"),
    ("haiku", lambda: _haiku(mask=np.ones(3)), ValueError, "ConvNDTranspose: mask must have the shape of the filter, (3, 6, 4), got mask.shape=(3,)"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), groups=4), ValueError, "Conv1DTranspose: groups must divide the 4 channels of the input and filters=6, got groups=4"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), groups=1.5), TypeError, "Conv1DTranspose: groups must be of integers, got groups=1.5"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), dilation_rate=(1, 2)), ValueError, "Conv1DTranspose: dilation_rate must be an int or have length 1, got dilation_rate=(1, 2)"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), 2, dilation_rate=0), ValueError, "Conv1DTranspose: dilation_rate must be from 1"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), 2, "causal"), ValueError, "Conv1DTranspose: padding must be 'valid' or 'same', got padding='causal'; in upper or lower case"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), 2, padding=1), TypeError, "Conv1DTranspose: padding must be 'valid' or 'same', got padding=1; in upper or lower case"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), "2"), TypeError, "Conv1DTranspose: strides must be of integers, got strides='2'"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), output_padding="1"), TypeError, "Conv1DTranspose: output_padding must be of integers, got output_padding='1'"),
    ("keras", lambda: _keras_layer(array(2, 5, 4), data_format="NWC"), ValueError, "Conv1DTranspose: data_format must be 'channels_last' or 'channels_first', got data_format='NWC'"),
    ("keras", lambda: _keras()[1].Conv2DTranspose("6", 3), TypeError, "Conv2DTranspose: filters must be of integers, got filters='6'"),
    ("keras", lambda: _keras()[1].Conv2DTranspose(6, "3"), TypeError, "Conv2DTranspose: kernel_size must be of integers, got kernel_size='3'"),
    ("flax", lambda: _nnx("4", 6, 3), TypeError, "ConvTranspose: in_features must be of integers, got in_features='4'"),
    ("flax", lambda: _nnx(4, 6.0, 3), TypeError, "ConvTranspose: out_features must be of integers, got out_features=6.0"),
    ("flax", lambda: _nnx(4, 6, 3, padding="same", strides=2)(array(2, 5, 4)), ValueError, "ConvTranspose: padding must be 'SAME', 'VALID', 'CAUSAL', 'CIRCULAR', an integer or pairs of integers, got padding='same'; pass 'SAME', in upper case"),
    ("flax", lambda: _nnx(4, 6, 3, padding="causal")(array(2, 5, 4)), ValueError, "ConvTranspose: padding must be 'SAME', 'VALID', 'CAUSAL', 'CIRCULAR', an integer or pairs of integers, got padding='causal'; pass 'CAUSAL', in upper case"),
    ("flax", lambda: _linen(features="6"), TypeError, "ConvTranspose: features must be of integers, got features='6'"),
    ("flax", lambda: _linen(kernel_size="3"), TypeError, "ConvTranspose: kernel_size must be of integers, got kernel_size='3'"),
    ("flax", lambda: _linen(array()), ValueError, "ConvTranspose: inputs must have 1 spatial dimensions and features, after any number of batch dimensions, got inputs.shape=()"),
    ("equinox", lambda: _eqx(array(4, 5), output_padding="same"), TypeError, "ConvTranspose: output_padding must be of integers, got output_padding='same'"),
    ("equinox", lambda: _eqx(array(4, 5), groups="2"), TypeError, "ConvTranspose: groups must be of integers, got groups='2'"),
    ("haiku", lambda: _haiku(output_channels="6"), TypeError, "ConvNDTranspose: output_channels must be of integers, got output_channels='6'"),
    ("haiku", lambda: _haiku(kernel_shape="3"), TypeError, "ConvNDTranspose: kernel_shape must be of integers, got kernel_shape=('3',)"),
    ("equinox", lambda: _replace("eqx", {"weight": array(2, 2)}), TypeError, "replace: model must have an Equinox module in it, got model={'weight':"),
    ("equinox", lambda: _replace("eqx", None, implementation="fft"), ValueError, "replace: implementation must be None or 'dilated'"),
    ("equinox", lambda: _replace("eqx", None, forward_mode=1), TypeError, "replace: forward_mode must be False or True, got forward_mode=1"),
    ("flax", lambda: _replace("nnx", {"kernel": array(2, 2)}), TypeError, "replace: model must be an NNX module, got model={'kernel':"),
    ("flax", lambda: _replace("nnx", None, implementation="fft"), ValueError, "replace: implementation must be None or 'dilated'"),
    ("keras", lambda: _keras()[1].replace({"kernel": array(2, 2)}), TypeError, "replace: model must be a Keras model, got model={'kernel':"),
    ("keras", lambda: _keras()[1].replace(None, implementation="fft"), ValueError, "replace: implementation must be None or 'dilated'"),
    ("haiku", lambda: _haiku(output_shape=12), ValueError, "conv_transpose: under padding='SAME' an input of size 5 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 9 to 10"),
]  # fmt: skip


@pytest.mark.parametrize(("framework", "call", "kind", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors(framework, call, kind, message):
    pytest.importorskip(framework)
    with pytest.raises(kind, match="^" + re.escape(message)):
        call()


@pytest.mark.parametrize(("name", "size"), [("Conv1DTranspose", (2, 5, 5, 4)), ("Conv2DTranspose", (2, 5, 5, 5, 4))])
def test_too_many_axes_for_a_layer_of_keras(name, size):
    """Keras refuses too few, and adds to what is raised in a call."""
    layer = getattr(_keras()[1], name)(6, 3)
    with pytest.raises(ValueError, match=re.escape(f"{name}: inputs must have rank {len(size) - 1}, [batch, ")):
        layer(array(*size))


@pytest.mark.parametrize(("module", "framework"), [("nnx", "flax"), ("linen", "flax"), ("eqx", "equinox"), ("haiku", "dm-haiku")])
def test_a_missing_framework_is_named(module, framework, monkeypatch):
    import importlib
    import sys

    message = f'jaxdeconv.{module} needs {framework}; install it with: python -m pip install "jaxdeconv[layers]"'
    monkeypatch.setitem(sys.modules, {"dm-haiku": "haiku"}.get(framework, framework), None)
    monkeypatch.delitem(sys.modules, f"jaxdeconv.{module}", raising=False)
    with pytest.raises(ImportError, match=re.escape(message) + "$"):
        importlib.import_module(f"jaxdeconv.{module}")
    monkeypatch.delattr(jaxdeconv, module, raising=False)
    with pytest.raises(AttributeError, match=re.escape(message) + "$"):
        getattr(jaxdeconv, module)
    assert not hasattr(jaxdeconv, module)

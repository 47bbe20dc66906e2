"""How a call is compiled and cached: one trace per geometry, names in the program, donation, checkpoint, scan."""

import re
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdeconv
from jaxdeconv import _contractions

CASE = cases.Case(2, 4, 3, 2, 3, 2, 1, 1, "SAME", "NWC", 7)


def op(x, w, **keywords):
    return jaxdeconv.conv1d_transpose(x, w, **CASE.keywords, **keywords)


def loss(x, w):
    return jnp.sum(jnp.sin(op(x, w)))


def test_a_second_eager_call_traces_nothing(monkeypatch):
    x, w, _ = map(jnp.asarray, CASE.operands())
    calls = []

    def counted(contraction, *rest, original=_contractions.contract, **keywords):
        calls.append(contraction)
        return original(contraction, *rest, **keywords)

    monkeypatch.setattr("jaxdeconv._derivatives.contract", counted)
    op(x, w, name="once")
    assert calls == ["y"]
    op(x, w, name="once")
    op(2 * x, w, name="once")
    jaxdeconv.conv1d_transpose(x, w, np.array([2, 7, 2]), [2], "SAME", "NWC", (1, 1, 1), "once")
    assert calls == ["y"]
    op(x, w, name="another")
    assert calls == ["y"] * 2


@pytest.mark.parametrize(("name", "expected"), [("upsampler", "upsampler"), (None, "conv1d_transpose")])
def test_name_is_in_the_compiled_program(name, expected):
    x, w, _ = CASE.operands()
    gradients = jax.jit(jax.value_and_grad(lambda x, w: loss(x, w) if name is None else jnp.sum(op(x, w, name=name) ** 2), (0, 1)))
    text = gradients.lower(x, w).compile().as_text()
    names = [line for line in text.splitlines() if re.search(r"op_name=.*(conv_general_dilated|dot_general)", line)]
    assert names
    assert all(expected in line for line in names)


def test_name_is_in_an_eager_call():
    x, w, _ = map(jnp.asarray, CASE.operands())
    assert "decoder/first" in str(jax.make_jaxpr(lambda x: op(x, w, name="decoder/first"))(x).pretty_print(name_stack=True))


@pytest.mark.parametrize("data_format", ["NWC", "NCW"])
def test_each_contraction_is_one_convolution_and_no_transpose(data_format):
    """Of "dilated": NCW goes through dimension numbers, the stride through lhs_dilation, the window through padding."""
    case = cases.Case(2, 4, 3, 2, 4, 2, 3, 1, "SAME", data_format, 7)
    x, w, g = case.operands(dtype=np.float32)
    keywords = case.keywords | {"implementation": "dilated"}

    def run(x, w, g):
        y, vjp = jax.vjp(lambda x, w: jaxdeconv.conv1d_transpose(x, w, **keywords), x, w)
        return y, *vjp(g)

    def lowered(function, *operands):  # CPU has an order of its own
        return cases.lowered_text(jax.jit(function).trace(*operands).lower(lowering_platforms=("tpu",)))

    forward = lowered(lambda x, w: jaxdeconv.conv1d_transpose(x, w, **keywords), x, w)
    assert forward.count("stablehlo.convolution") == 1
    assert "lhs_dilate = [2]" in forward
    assert "rhs_dilate = [3]" in forward
    assert "pad = [[" in forward
    assert not any(f"stablehlo.{each}" in forward for each in ("transpose", "pad", "slice", "concatenate"))

    both = lowered(run, x, w, g)
    assert both.count("stablehlo.convolution") == 3
    assert both.count("lhs_dilate = [2]") == 1  # T alone; neither gradient stuffs zeros
    assert "stablehlo.transpose" not in both
    # F: x is the window, its samples a stride apart, stepping by the dilation.
    assert sum("stride = [3]" in line and "rhs_dilate = [2]" in line for line in both.splitlines()) == 1


def products(text):
    return len(re.findall(r"stablehlo\.(?:convolution|dot_general)\b", text))


LAYERS = {  # x, w, length of y and stride: where CPU takes each of the lowerings
    "vocoder": ((1, 100, 512), (16, 256, 512), 800, 8),
    "batch": ((16, 128, 128), (4, 64, 128), 256, 2),
    "one channel out": ((1, 200, 1026), (1024, 1, 1026), 51200, 256),
    "stride 1": ((4, 256, 64), (7, 64, 64), 256, 1),
    "grouped": ((2, 64, 32), (4, 8, 32), 128, 2),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_what_is_chosen_stuffs_no_zeros(layer):
    """On CPU no convolution multiplies the zeros between samples, and "dilated" alone reverses the filter; each has one product."""
    x, w, length, stride = layer
    groups = 4 if w[-2] == 8 else 1
    shapes = x, w, (x[0], length, w[1] * groups)
    x, w, g = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    upsample = partial(jaxdeconv.conv1d_transpose, output_shape=g.shape, strides=stride, groups=groups)
    chosen = {contraction: each["cpu"] for contraction, each in jaxdeconv.explain(upsample, x, w).lowerings.items()}

    def run(x, w, g):
        y, vjp = jax.vjp(upsample, x, w)
        return y, *vjp(g)

    forward, every = cases.lowered_text(jax.jit(upsample).lower(x, w)), cases.lowered_text(jax.jit(run).lower(x, w, g))
    if groups == 1:
        assert (products(forward), products(every)) == (1, 3)
    assert set(re.findall(r"lhs_dilate = \[(.*?)\]", every)) <= {"1"}
    assert ("stablehlo.reverse" in forward) == (chosen["transpose"] in ("dilated", "polyphase"))
    assert ("stablehlo.convolution" in forward) == (chosen["transpose"] in ("dilated", "polyphase"))
    assert ("stablehlo.dot_general" in every) == ("matmul" in chosen.values())
    assert every.count("stablehlo.reverse") <= groups  # and neither gradient reverses one


def test_platforms_are_told_apart_when_lowered():
    """One trace serves all; another platform's program has none of this one's lowerings."""
    x, w = (jax.ShapeDtypeStruct(shape, np.float32) for shape in LAYERS["one channel out"][:2])
    traced = jax.jit(lambda x, w: jaxdeconv.conv1d_transpose(x, w, None, 256)).trace(x, w)
    for platform, product in (("cpu", "dot_general"), ("cuda", "convolution"), ("tpu", "dot_general")):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert set(re.findall(r"stablehlo\.(convolution|dot_general)\b", text)) == {product}


@pytest.mark.parametrize("implementation", ["dilated", "matmul", "polyphase", None])
def test_a_gradient_in_one_argument_computes_one(implementation):
    x, w, _ = CASE.operands()
    linear = lambda x, w: jnp.sum(op(x, w, implementation=implementation))  # noqa: E731
    for argument, wanted in ((0, 1), (1, 1), ((0, 1), 2)):
        assert products(cases.lowered_text(jax.jit(jax.grad(linear, argument)).lower(x, w))) == wanted


def test_donated_arguments():
    x, w, _ = map(jnp.asarray, CASE.operands())
    expected = x - jax.grad(loss)(x, w)
    step = jax.jit(lambda x, w: x - jax.grad(loss)(x, w), donate_argnums=0)
    np.testing.assert_allclose(step(x.copy(), w), expected, rtol=1e-12)


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.everything_saveable, jax.checkpoint_policies.dots_saveable])
def test_checkpoint(policy):
    x, w, _ = CASE.operands()
    for actual, expected in zip(
        jax.grad(jax.checkpoint(loss, policy=policy), (0, 1))(x, w), jax.grad(loss, (0, 1))(x, w), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_scan_and_other_control_flow():
    """A stack of equal layers by scan, as in a decoder, is the loop; likewise under cond, while and map."""
    case = cases.Case(1, 3, 2, 2, 3, 1, 1, 1, "SAME", "NWC", 3)
    x, _, _ = case.operands()
    ws = jnp.stack([case.operands(seed)[1] for seed in range(4)])

    def layer(x, w):
        return jnp.tanh(jaxdeconv.conv1d_transpose(x, w, **case.keywords))

    def scanned(x, ws):
        return lax.scan(lambda x, w: (layer(x, w), None), x, ws)[0].sum()

    def looped(x, ws):
        for w in ws:
            x = layer(x, w)
        return x.sum()

    for actual, expected in zip(jax.grad(scanned, (0, 1))(x, ws), jax.grad(looped, (0, 1))(x, ws), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(lax.fori_loop(0, 4, lambda i, x: layer(x, ws[i]), x).sum(), looped(x, ws), rtol=1e-12)
    np.testing.assert_allclose(lax.map(lambda w: layer(x, w), ws), jnp.stack([layer(x, w) for w in ws]), rtol=1e-12)
    gradient = jax.grad(lambda x: lax.cond(True, lambda: layer(x, ws[0]).sum(), lambda: 0.0))(x)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: layer(x, ws[0]).sum())(x), rtol=1e-12)


def test_eval_shape_and_disable_jit():
    x, w, _ = CASE.operands()
    assert jax.eval_shape(op, x, w).shape == CASE.output_shape
    with jax.disable_jit():
        np.testing.assert_allclose(op(x, w), CASE.expected(x, w, np.zeros(CASE.output_shape))[0], rtol=1e-12)


def test_algorithms_of_the_default_precision_are_not_those_of_what_policies_find():
    """The product with 1 in a gradient: XLA on CPU has not every product in an algorithm that it has for the others."""
    x, w = jnp.ones((2, 8, 3), np.float32), jnp.ones((4, 2, 3), np.float32)
    gradient = jax.grad(lambda x, w: jnp.sum(jaxdeconv.conv1d_transpose(x, w, None, 2)), (0, 1))
    with jax.default_matmul_precision("BF16_BF16_F32_X3"):
        found = gradient(x, w)
    for actual, expected in zip(found, gradient(x, w), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)

"""What XLA makes of the public functions for GPUs: calls of cuDNN and matrix products, none larger than the layer needs.

Needs the package jax[cuda13], and no GPU. docs/gpu.md says what this shows and what it does not.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("jax_plugins.xla_cuda13")

import jaxdeconv
from benchmarks.layers import LAYERS, Layer
from benchmarks.peers import lax_transposed, transposed, with_gradients
from compiler_tests.gpu import compiled_text, faults, looped, looped_shapes, products

ALL = {layer.name: layer for layer in LAYERS}

DENSE = (  # one convolution or matrix product each for T, C and F
    "hifigan.up1.b1",
    "hifigan.up2.b16",
    "hifigan.up4.b16",
    "encodec.up2.b8",  # causal, so unequal crops
    "dac.up1.b1",
    "mimi.up1.b1",
    "wavegan.up1.b16",  # a filter longer than its input
    "wavegan.up5.b1",  # one output channel
    "convtasnet.decoder.b1",
    "istft.b1",
    "dcgan.up2.b16",
    "dcgan.up4.b16",
    "unet.up1.b1",
    "cyclegan.up1.b1",
    "grouped.1d.b8",
    "grouped.2d.b8",
    "dilated.1d.s1d4.b4",
    "dilated.2d.s1d2.b2",
    "dilated.1d.s2d3.b4",
    "dilated.2d.s2d3.b2",
    "vnet.up3.b2",
    "unet3d.k3.b1",
    "jax31662.b1",
)
DEPTHWISE = ("mimi.upsample.b1", "bigvgan.stage1.b1", "bigvgan.stage3.b8", "fcn.upscore8.b1", "dla.up.b8")  # also as loops
OTHER_LAYOUT = ("hifigan.up2.b16", "istft.b1", "dcgan.up4.b16", "grouped.2d.b8", "dla.up.b8", "dilated.1d.s2d3.b4", "unet3d.k3.b1")
OLDER_CARD = ("hifigan.up2.b16", "istft.b1", "dcgan.up4.b16", "grouped.1d.b8", "dla.up.b8", "vnet.up3.b2")


def shapes(layer: Layer, channels_last: bool = True) -> list[tuple[int, ...]]:
    x, y = layer.x_shape, layer.y_shape
    if not channels_last:
        x, y = ((batch, channels, *sizes) for batch, *sizes, channels in (x, y))
    return [x, layer.w_shape, y]


def check(card: str, layer: Layer, dtype: str, channels_last: bool = True) -> None:
    check_function(transposed(layer, channels_last), shapes(layer, channels_last), card, layer, dtype)


def check_function(function: Callable[..., jax.Array], operands: list[tuple[int, ...]], card: str, layer: Layer, dtype: str) -> None:
    forward = compiled_text(card, function, operands[:2], dtype)
    train = compiled_text(card, with_gradients(function), operands, dtype)
    assert faults(forward, layer, dtype) + faults(train, layer, dtype) == []
    counts = len(products(forward)), len(products(train))
    if layer.groups == layer.in_channels == layer.out_channels:
        assert counts <= (1, 3)
    else:
        assert counts == (1, 3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*DENSE, *DEPTHWISE])
def test_products_are_those_of_the_layer(name, dtype):
    check("h200", ALL[name], dtype)


@pytest.mark.parametrize("name", OTHER_LAYOUT)
def test_channels_first(name):
    check("h200", ALL[name], "bfloat16", channels_last=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OTHER_LAYOUT)
def test_filters_as_flax_stores_them(name, dtype):
    """Flipped, so that nothing in the program reverses them but for cuDNN's function."""
    layer = ALL[name]
    reach = [(k - 1) * d for k, d in zip(layer.kernel, layer.dilations, strict=True)]
    pads = [(most - lo, most - hi) for most, (lo, hi) in zip(reach, layer.padding, strict=True)]

    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        keywords = {"rhs_dilation": layer.dilations, "feature_group_count": layer.groups}
        return jaxdeconv.lax.conv_transpose(x, w, layer.strides, pads, **keywords)

    x, _, y = shapes(layer)
    w = (*layer.kernel, layer.in_channels // layer.groups, layer.out_channels)
    check_function(function, [x, w, y], "h200", layer, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OLDER_CARD)
def test_older_card(name, dtype):
    check("a100", ALL[name], dtype)


@pytest.mark.parametrize("name", OTHER_LAYOUT)
def test_loops(name):
    """The body of a loop over several inputs, and that of its gradients, in both of which the filter stays the same."""
    layer = ALL[name]
    operands, function = looped_shapes(shapes(layer)), looped(transposed(layer))
    for text in (
        compiled_text("h200", function, operands[:2], "bfloat16"),
        compiled_text("h200", with_gradients(function), operands, "bfloat16"),
    ):
        assert " while(" in text
        assert faults(text, layer, "bfloat16") == []


FEWER_SAMPLES = [  # in two dimensions, than the filter has taps: sizes, strides and crops of the latter
    ((4, 3), (5, 5), (5, 5), ((0, 0), (0, 0))),
    ((2, 2), (6, 6), (2, 2), ((2, 2), (2, 2))),
    ((3, 4), (5, 5), (2, 2), ((2, 2), (3, 2))),
    ((4, 2), (3, 3), (3, 1), ((1, 0), (1, 1))),
]


def of_few_samples(case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]) -> Layer:
    size, kernel, strides, padding = case
    return ALL["dcgan.up4.b16"]._replace(size=size, kernel=kernel, strides=strides, padding=padding)


@pytest.mark.parametrize("case", FEWER_SAMPLES)
def test_fewer_samples_than_taps(case):
    """XLA exchanges signal and filter of a convolution then."""
    check("h200", of_few_samples(case), "bfloat16")


@pytest.mark.parametrize("case", FEWER_SAMPLES)
def test_the_checks_see_exchanged_operands(case):
    layer = of_few_samples(case)
    text = compiled_text("h200", transposed(layer, implementation="dilated"), shapes(layer)[:2], "bfloat16")
    assert faults(text, layer, "bfloat16")


@pytest.mark.parametrize("crops", [(-1, 1), (1, -2), (0, -3), (3, 0)])
def test_crops(crops):
    """Negative ones extend the output with zeros."""
    check("h200", ALL["hifigan.up3.b1"]._replace(padding=(crops,)), "bfloat16")


@pytest.mark.parametrize("name", ["hifigan.up3.b1", "dcgan.up4.b1", "vnet.up1.b1"])
def test_vmap_over_both_operands(name):
    layer = ALL[name]
    text = compiled_text("h200", jax.vmap(with_gradients(transposed(layer))), [(3, *shape) for shape in shapes(layer)], "bfloat16")
    assert faults(text, layer, "bfloat16") == []
    assert len(products(text)) == 3


@pytest.mark.parametrize("name", ["hifigan.up3.b1", "dcgan.up4.b1", "vnet.up1.b1"])
def test_vmap_over_filters(name):
    """Of one x: several filters are one of more outputs, reversed as a whole, which JAX's rule for a convolution hides from XLA."""
    layer, (x, w, y) = ALL[name], shapes(ALL[name])
    mapped = jax.vmap(transposed(layer), (None, 0))
    for function, operands, count in ((mapped, [x, (3, *w)], 1), (with_gradients(mapped), [x, (3, *w), (3, *y)], 3)):
        text = compiled_text("h200", function, operands, "bfloat16")
        assert faults(text, layer, "bfloat16") == []
        assert len(products(text)) == count


@pytest.mark.parametrize("name", ["hifigan.up3.b1", "dcgan.up4.b1", "vnet.up1.b1"])
def test_gradient_penalty(name):
    """The gradient of a gradient's norm, by x and w, in which a filter is itself a filter gradient."""
    layer = ALL[name]

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return (transposed(layer)(x, w) ** 2).sum()

    def penalty(x: jax.Array, w: jax.Array) -> jax.Array:
        return sum((each**2).sum() for each in jax.grad(loss, (0, 1))(x, w))

    text = compiled_text("h200", jax.grad(penalty, (0, 1)), shapes(layer)[:2], "float32")
    assert faults(text, layer, "float32") == []
    assert len(products(text)) >= 9


@pytest.mark.parametrize("name", ["hifigan.up3.b1", "dcgan.up4.b1", "vnet.up1.b1"])
def test_scaled_filters(name):
    """By a constant, as for equal learning rates, and by a norm of the filter itself."""
    layer = ALL[name]
    for scaled in (lambda w: w * 0.5, lambda w: w / jnp.linalg.norm(w)):
        check_function(lambda x, w, scaled=scaled: transposed(layer)(x, scaled(w)), shapes(layer), "h200", layer, "float32")


def test_one_order_of_the_filter():
    """T and C share the filter as cuDNN has it: what keeps XLA from moving its reversal adds no transposition of it."""
    layer = ALL["hifigan.up3.b1"]
    text = compiled_text("h200", with_gradients(transposed(layer)), shapes(layer), "bfloat16")
    k, outputs, inputs = layer.w_shape
    assert len(re.findall(rf" = bf16\[{inputs},{k},{outputs}\]\S* transpose\(", text)) == 1


@pytest.mark.parametrize(("name", "fault"), [("jax31662.b1", "window of (128, 128, 64)"), ("istft.b1", "window of (128768,)")])
def test_the_checks_see_the_filter_gradient_of_lax(name, fault):
    layer = ALL[name]
    operands = [layer.x_shape, (*layer.kernel, layer.in_channels, layer.out_channels), layer.y_shape]
    text = compiled_text("h200", with_gradients(lax_transposed(layer)), operands, "float32")
    assert any(fault in line for line in faults(text, layer, "float32"))


@pytest.mark.parametrize("name", ["grouped.1d.b8", "dla.up.b8", "dilated.2d.s2d3.b2"])
def test_the_checks_see_stuffed_zeros(name):
    layer = ALL[name]
    text = compiled_text("h200", transposed(layer, implementation="dilated"), shapes(layer)[:2], "float32")
    assert any("zero-stuffed" in line for line in faults(text, layer, "float32"))


def test_the_checks_see_wide_operands():
    layer = ALL["hifigan.up3.b1"]
    wide = compiled_text("h200", transposed(layer), shapes(layer)[:2], "float32")
    assert any("operands of ['f32']" in line for line in faults(wide, layer, "bfloat16"))

"""Mistakes of newcomers, each with the hint that its message must hold, and what messages show of values."""

import ast
import dataclasses
import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv
from jaxdeconv import keras, lax, onnx, streaming, torch
from jaxdeconv._canonicalize import describe

IN, OUT = 16, 8
X = {n: np.ones((2, *(10, 9, 7)[:n], IN)) for n in (1, 2, 3)}
K = {n: (4, 5, 3)[:n] for n in (1, 2, 3)}
LAYOUTS = {
    "torch": ("torch's and ONNX's layout, [in, out / groups, *k]", ".torch"),
    "lax": ("lax's and Flax's layout, [*k, in / groups, out]", ".lax"),
    "equinox": ("Equinox's layout, [out, in / groups, *k]", ".eqx"),
    "tf": ("TensorFlow's and Keras's layout, [*k, out / groups, in]", ""),
}
SAID = {
    name: f"the shape of {{0}} is that of {text}: pass jaxdeconv.convert_filters({{0}}, '{name}', '{{1}}'), or call jaxdeconv{module}"
    for name, (text, module) in LAYOUTS.items()
}
MAY_BE = {
    name: f"that of {text}, with {{0}} output channels: pass "
    f"jaxdeconv.convert_filters({{1}}, '{name}', '{{2}}'), or call jaxdeconv{module}"
    for name, (text, module) in LAYOUTS.items()
}


def first(x):
    return np.moveaxis(x, -1, 1)


def stored(layout, n):
    """A filter as a framework stores it."""
    return np.asarray(jaxdeconv.convert_filters(np.ones((*K[n], OUT, IN)), "tf", layout))


def refusal(function, *arguments, **keywords):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(*arguments, **keywords)
    assert re.fullmatch(r"[\w.]+: .+, got [\w.]+(\[\d\])?=.+; .+", str(caught.value), re.DOTALL)
    return str(caught.value)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("layout", ["torch", "onnx", "lax", "flax", "equinox"])
@pytest.mark.parametrize("generic", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_a_filter_of_another_layout(n, layout, generic, given):
    function = jaxdeconv.conv_transpose if generic else getattr(jaxdeconv, f"conv{n}d_transpose")
    shape = [2, *(2 * size for size in X[n].shape[1:-1]), OUT] if given else None
    said = SAID[{"onnx": "torch", "flax": "lax"}.get(layout, layout)].format("filters", "tf")
    message = refusal(function, X[n], stored(layout, n), shape, 2)
    if n == 1 and not given and layout in ("lax", "flax", "equinox"):  # either, by the shape alone
        said = f"the shape of filters may be {MAY_BE['lax'].format({'equinox': 4}.get(layout, OUT), 'filters', 'tf')}; or "
    assert message.endswith(said) if given else said in message
    assert f"; filters are [{', '.join(('depth', 'height', 'width')[-n:])}, out / groups, in] whatever data_format is; " in message


def test_what_is_advised_works():
    for source in ("torch", "lax", "equinox"):
        filters = jaxdeconv.convert_filters(stored(source, 1), source, "tf")
        assert jaxdeconv.conv1d_transpose(X[1], filters, None, 2).shape == (2, 20, OUT)


def test_layouts_that_a_shape_leaves_open_are_all_named():
    """Of one dimension, [4, 16, 8] is lax's with 4 taps and Equinox's with 8; output_shape tells them apart."""
    message = refusal(jaxdeconv.conv1d_transpose, X[1], stored("lax", 1), None, 2)
    lax, equinox = (MAY_BE[each].format(outputs, "filters", "tf") for each, outputs in (("lax", OUT), ("equinox", 4)))
    assert message.endswith(f"; the shape of filters may be {lax}; or {equinox}")
    message = refusal(jaxdeconv.conv1d_transpose, X[1], stored("lax", 1), [2, 20, OUT], 2)
    assert message.endswith(SAID["lax"].format("filters", "tf"))


@pytest.mark.parametrize("n", [1, 2])
def test_the_weight_of_a_convolution(n):
    message = refusal(getattr(torch, f"conv_transpose{n}d"), first(X[n]), np.swapaxes(stored("torch", n), 0, 1))
    said = f"; or that of a convolution, [out, in, *k], with {OUT} output channels: pass jax.numpy.swapaxes(weight, 0, 1)"
    assert message.endswith(said)


def test_a_filter_of_groups_in_another_layout():
    x, w, groups = X[1], np.ones((5, 4, 8)), 4  # as lax and Flax store it
    said = ", [*k, in / groups, out]: pass jaxdeconv.convert_filters({}, 'lax', '{}', groups=4), or call jaxdeconv.lax"
    for message, names in [
        (refusal(jaxdeconv.conv1d_transpose, x, w, None, 2, groups=groups), ("filters", "tf")),
        (refusal(jaxdeconv.conv1d_transpose, x, w, [2, 20, 8], 2, groups=groups), ("filters", "tf")),
        (refusal(keras.conv_transpose, x, w, groups=groups), ("kernel", "keras")),
        (refusal(torch.conv_transpose1d, first(x), w, groups=groups), ("weight", "torch")),
        (refusal(onnx.conv_transpose, first(x), w, group=groups), ("W", "onnx")),
    ]:
        assert message.endswith(said.format(*names))
    weight = jaxdeconv.convert_filters(w, "lax", "torch", groups)
    message = refusal(lax.conv_transpose, x, weight, (2,), "SAME", feature_group_count=groups)
    assert "convert_filters(rhs, 'torch', 'lax', groups=4)" in message
    assert jaxdeconv.conv1d_transpose(x, jaxdeconv.convert_filters(w, "lax", "tf", groups), None, 2, groups=groups).shape[-1] == 8


def test_a_filter_of_another_layout_in_a_stream():
    w = stored("torch", 1)
    message = refusal(streaming.step, streaming.init(w, 2, batch=2), X[1], w)
    assert message.endswith("; " + SAID["torch"].format("filters", "tf"))


def test_no_layout_is_named_where_none_fits():
    assert refusal(jaxdeconv.conv1d_transpose, X[1], np.ones((4, 8, 5)), None, 2).endswith("whatever data_format is")


@pytest.mark.parametrize(("n", "channels_first"), [(1, "NCW"), (2, "NCHW"), (3, "NCDHW")])
def test_channels_on_the_other_side(n, channels_first):
    function, w = getattr(jaxdeconv, f"conv{n}d_transpose"), stored("tf", n)
    message = refusal(function, first(X[n]), w, None, 2)
    assert message.endswith(f"; pass data_format='{channels_first}', if the channels of input come first")
    message = refusal(function, X[n], w, None, 2, data_format=channels_first)
    assert message.endswith(f"; pass data_format='{channels_first.replace('C', '')}C', if the channels of input come last")
    assert function(first(X[n]), w, None, 2, data_format=channels_first).shape[1] == OUT
    both = refusal(function, first(X[n]), stored("torch", n), None, 2)  # all of torch
    assert (
        f"; pass data_format='{channels_first}', if the channels of input come first, and then the shape of filters is that of"
        in both
    )
    for wrong, other, x in (("channels_last", "channels_first", first(X[n])), ("channels_first", "channels_last", X[n])):
        message = refusal(keras.conv_transpose, x, w, data_format=wrong)
        assert f"; pass data_format='{other}', if the channels of inputs come" in message


def test_filters_and_channels_in_other_conventions():
    x, w = X[1], {name: stored(name, 1) for name in ("tf", "lax", "torch")}
    assert SAID["torch"].format("kernel", "keras") in refusal(keras.conv_transpose, x, w["torch"])
    assert SAID["tf"].format("weight", "torch") in refusal(torch.conv_transpose1d, first(x), w["tf"])
    assert MAY_BE["lax"].format(OUT, "W", "onnx") in refusal(onnx.conv_transpose, first(x), w["lax"])
    assert SAID["tf"].format("rhs", "lax") in refusal(lax.conv_transpose, x, w["tf"], (2,), "SAME")
    assert SAID["torch"].format("rhs", "lax_transpose_kernel") in refusal(
        lax.conv_transpose, x, w["torch"], (2,), "SAME", transpose_kernel=True
    )
    message = refusal(torch.conv_transpose1d, x, w["torch"])
    assert message.endswith("; pass jax.numpy.moveaxis(input, -1, 1), if the channels of input come last")
    assert "; pass jax.numpy.moveaxis(X, -1, 1)" in refusal(onnx.conv_transpose, x, w["torch"])
    numbers = ("NCW", "OIW", "NCW")
    assert refusal(lax.conv_transpose, x, w["lax"], (2,), "SAME", None, numbers).endswith("dimension_numbers and feature_group_count")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_function_of_another_rank(n):
    for other in {1, 2, 3} - {n}:
        message = refusal(getattr(jaxdeconv, f"conv{other}d_transpose"), X[n], stored("tf", n), None, 2)
        assert f"; call conv{n}d_transpose, which takes rank {n + 2}, or map over more axes with jax.vmap" in message
        message = refusal(getattr(torch, f"conv_transpose{other}d"), first(X[n]), stored("torch", n))
        assert message.endswith(f", or call conv_transpose{n}d")
    without_batch = refusal(getattr(jaxdeconv, f"conv{n}d_transpose"), X[n][0], stored("tf", n), None, 2)
    assert without_batch.endswith("; add a batch dimension with input[None], or map over more with jax.vmap")


@pytest.mark.parametrize(("function", "layout"), [(jaxdeconv.conv1d_transpose, "tf"), (torch.conv_transpose1d, "torch")])
def test_several_filters(function, layout):
    w = stored(layout, 1)
    x = X[1] if layout == "tf" else first(X[1])
    several = "map over several filters with jax.vmap"
    assert refusal(function, x, np.stack([w] * 5), None, 2).endswith(several)
    assert several not in refusal(function, x, w[0], None, 2)


def test_too_many_axes_of_input_alone():
    assert "; call conv2d_transpose, which takes rank 4" in refusal(jaxdeconv.conv1d_transpose, X[2], stored("tf", 1), None, 2)
    message = refusal(jaxdeconv.conv_transpose, X[2], stored("tf", 1), [2, 20, OUT], 2)
    assert message.endswith("; output_shape has an entry for each axis of input, and jax.vmap maps over more")


@pytest.mark.parametrize("padding", [1, np.int64(1), [1], (1,), [1, 1], np.array(1), np.array([1, 2])])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_padding_by_numbers(padding, n):
    message = refusal(getattr(jaxdeconv, f"conv{n}d_transpose"), X[n], stored("tf", n), None, 2, padding)
    assert message.endswith(f", or call jaxdeconv.torch.conv_transpose{n}d, which takes numbers, as torch does")


@pytest.mark.parametrize("padding", [None, True, "same", [], [[0, 0], [1, 1]], 1.5])
def test_other_paddings_are_not_taken_for_numbers(padding):
    assert "torch" not in refusal(jaxdeconv.conv1d_transpose, X[1], stored("tf", 1), None, 2, padding)


def test_crops_of_a_stream_without_their_name():
    w = stored("tf", 1)
    message = "streaming.init: arguments after strides must have their names, got unnamed=(1, 1); write crops=(1, 1), data_format="
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        streaming.init(w, 2, 1, 1)
    with pytest.raises(TypeError, match=re.escape("got unnamed=((1, 1),); write crops=(1, 1), data_format=")):
        streaming.init(w, 2, (1, 1))
    with pytest.raises(TypeError, match=re.escape("got unnamed=('NCW',); write crops=(crop_lo, crop_hi), data_format=")):
        streaming.init(w, 2, "NCW")
    assert streaming.init(w, 2, crops=(1, 1)).latency == 1


def test_a_chunk_with_its_channels_first():
    message = refusal(streaming.step, streaming.init(stored("tf", 1), 2, batch=2), first(X[1]), stored("tf", 1))
    assert message.endswith("; if channels come first, make the state with another data_format")


def test_paddings_of_others_in_torch():
    x, w = first(X[2]), stored("torch", 2)
    message = refusal(torch.conv_transpose2d, x, w, padding="same")
    said = "pass data_format='NCHW' and filters=jaxdeconv.convert_filters(weight, 'torch', 'tf') to it"
    assert message.endswith(f"; jaxdeconv.conv2d_transpose has 'SAME' and 'VALID': {said}")
    filters = jaxdeconv.convert_filters(w, "torch", "tf")
    assert jaxdeconv.conv2d_transpose(x, filters, None, 2, "SAME", "NCHW").shape == (2, OUT, 20, 18)
    assert refusal(torch.conv_transpose2d, x, w, padding=9).endswith("; pass less padding")
    assert refusal(onnx.conv_transpose, x, w, pads=[9] * 4).endswith("; pass smaller pads or a larger X")


@pytest.mark.parametrize("bias", [2, (2,), [2], np.int64(2)])
def test_a_stride_in_the_place_of_the_bias(bias):
    message = refusal(torch.conv_transpose1d, first(X[1]), stored("torch", 1), bias)
    assert message.endswith(f"; the third argument is bias; did you mean stride={bias}?")


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_by_a_flag(bias):
    message = refusal(torch.conv_transpose1d, first(X[1]), stored("torch", 1), bias=bias)
    assert message.endswith(f"got bias={bias}; True and False are for layers; pass the array, or None")


@pytest.mark.parametrize("groups", [None, 1])
@pytest.mark.parametrize(
    ("shape", "data_format", "said"),
    [
        ([2, OUT, 20], "NWC", "it seems to be in the order of 'NCW'; in that of 'NWC' pass (2, 20, 8)"),
        ([2, 20, OUT], "NCW", "it seems to be in the order of 'NWC'; in that of 'NCW' pass (2, 8, 20)"),
        ([2, OUT, 20, 18], "NHWC", "it seems to be in the order of 'NCHW'; in that of 'NHWC' pass (2, 20, 18, 8)"),
        ([2, 20, 18, OUT], "NCHW", "it seems to be in the order of 'NHWC'; in that of 'NCHW' pass (2, 8, 20, 18)"),
    ],
)
def test_an_output_shape_in_the_order_of_the_other_data_format(shape, data_format, said, groups):
    n = len(shape) - 2
    x = X[n] if data_format.endswith("C") else first(X[n])
    call = partial(jaxdeconv.conv_transpose, x, stored("tf", n), strides=2, data_format=data_format, groups=groups)
    assert refusal(call, output_shape=shape).endswith(f"; {said}")
    assert call(output_shape=ast.literal_eval(said.split("pass ")[1])).shape[0] == 2


@pytest.mark.filterwarnings("ignore:.*which makes 2 groups")
def test_an_output_shape_in_the_other_order_that_is_one_of_groups():
    message = refusal(jaxdeconv.conv1d_transpose, X[1][:, :8], stored("tf", 1), [2, OUT, 16], 2)
    assert message.endswith("; it seems to be in the order of 'NCW'; in that of 'NWC' pass (2, 16, 8)")


def test_causal_padding_is_named_and_causal():
    said = "; [[0, 0], [0, max(ke - s, 0)], [0, 0]] is causal in 'NWC', with stride s and ke = (k - 1) * dilation + 1"
    for padding in ("CAUSAL", "causal"):
        assert refusal(jaxdeconv.conv1d_transpose, X[1], stored("tf", 1), None, 2, padding).endswith(said)
    nnx = pytest.importorskip("flax.nnx")
    for k, s, d in [(4, 2, 1), (2, 3, 1), (3, 2, 2), (1, 1, 1)]:
        layer = jaxdeconv.nnx.ConvTranspose(
            IN, OUT, k, s, padding="CAUSAL", kernel_dilation=d, use_bias=False, dtype=float, rngs=nnx.Rngs(0)
        )
        filters, drop = jaxdeconv.convert_filters(layer.kernel[...], "flax", "tf"), max((k - 1) * d + 1 - s, 0)
        y = jaxdeconv.conv1d_transpose(X[1], filters.astype(float), None, s, [[0, 0], [0, drop], [0, 0]], dilations=d)
        np.testing.assert_allclose(y, layer(X[1]), atol=1e-6)


def test_choices_of_keras_are_shown_as_they_were_given():
    x, w = X[1], stored("tf", 1)
    assert "got data_format='NWC'; " in refusal(keras.conv_transpose, x, w, data_format="NWC")
    assert "got padding='Full'; in upper or lower case; " in refusal(keras.conv_transpose, x, w, padding="Full")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pytorch", "torch"),
        ("PyTorch", "torch"),
        ("linen", "flax"),
        ("tensorflow", "tf"),
        ("eqx", "equinox"),
        ("TF", "tf"),
        ("jax", "lax"),
    ],
)
def test_layouts_by_another_name(name, meant):
    w = stored("tf", 1)
    assert refusal(jaxdeconv.convert_filters, w, name, "tf").endswith(f"; did you mean {meant!r}?")
    assert refusal(jaxdeconv.convert_filters, w, "tf", name).endswith(f"; did you mean {meant!r}?")
    assert refusal(jaxdeconv.convert_filters, w, "tf", "IOW").endswith("; pass one of these")


def test_padding_by_its_name_in_lower_case():
    message = refusal(lax.conv_transpose, X[1], stored("lax", 1), (2,), "same")
    assert message.endswith("; pass 'SAME', in upper case")
    assert "strides of 1" in refusal(lax.conv_transpose, X[1], stored("lax", 1), (2,), "same_lower")


def test_crops_of_a_stream_by_the_name_of_a_padding():
    message = refusal(streaming.init, stored("tf", 1), 2, crops="SAME")
    assert "; pass jaxdeconv.explain(function, ...).crops[0] of a call with that padding" in message


@pytest.mark.parametrize(
    ("function", "keyword", "said"),
    [
        (jaxdeconv.conv1d_transpose, "stride", "it is strides here"),
        (jaxdeconv.conv2d_transpose, "dilation", "it is dilations here"),
        (jaxdeconv.conv_transpose, "weight", "it is filters here"),
        (jaxdeconv.conv1d_transpose, "bias", "for it call jaxdeconv.onnx or jaxdeconv.torch"),
        (jaxdeconv.conv1d_transpose, "output_padding", "for it call jaxdeconv.keras or jaxdeconv.onnx or jaxdeconv.torch"),
        (torch.conv_transpose1d, "strides", "it is stride here"),
        (torch.conv_transpose1d, "name", "for it call jaxdeconv"),
        (torch.conv_transpose1d, "padding_mode", "the arguments are input, weight, bias, stride, padding, output_padding, groups, "),
        (keras.conv_transpose, "stride", "it is strides here"),
        (keras.conv_transpose, "dilation", "it is dilation_rate here"),
        (lax.conv_transpose, "groups", "it is feature_group_count here"),
        (onnx.conv_transpose, "groups", "it is group here"),
        (streaming.init, "padding", "it is crops here"),
    ],
)
def test_keywords_of_another_convention(function, keyword, said):
    message = refusal(function, **{keyword: 2})
    assert f": {keyword} must be the name of an argument, got {keyword}=2; {said}" in message
    assert keyword not in inspect.signature(function).parameters


class Foreign:
    """An array of a library that has no dtypes by name."""

    shape = (2, 3)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no numbers")


class Variable:
    """What holds an array of JAX, as Flax's parameters do."""

    shape, dtype = (300, 2), np.dtype("float32")

    def __jax_array__(self):
        raise RuntimeError("no numbers")


@dataclasses.dataclass
class Pair:
    """What holds others."""

    one: object
    other: object


LARGE = jnp.arange(600.0).reshape(300, 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (LARGE, "an array float64[300, 2]"),
        (np.asarray(LARGE), "an array float64[300, 2]"),
        (jnp.arange(3), "[0, 1, 2]"),
        (Foreign(), "Foreign [2, 3]"),
        (Variable(), "Variable float32[300, 2]"),
        ([LARGE, 1, "a"], "[an array float64[300, 2], 1, 'a']"),
        ((Foreign(), None), "(Foreign [2, 3], None)"),
        ({"w": LARGE, "b": 0}, "{'w': an array float64[300, 2], 'b': 0}"),
        (Pair(LARGE, [Foreign()]), "Pair(one=an array float64[300, 2], other=[Foreign [2, 3]])"),
        ([1, 2.5], "[1, 2.5]"),
        (jnp.float32, repr(jnp.float32)),
    ],
)
def test_values_in_messages(value, text):
    assert describe(value) == text


def test_a_state_in_a_message():
    state, y = streaming.step(streaming.init(stored("tf", 1), 2, batch=2), X[1], stored("tf", 1))
    message = refusal(streaming.step, (state, y), X[1], stored("tf", 1))
    assert "got state=(State(pending=an array float64[2, 2, 8], position=None), an array float64[2, 20, 8]); " in message
    assert repr(state) == "State(pending=float64[2, 2, 8], latency=0, skip=0)"
    delayed = streaming.init(stored("tf", 1), 2, crops=(1, 1), delayed=True)
    assert repr(delayed) == "State(pending=float64[1, 2, 8], position=int32[1, 1, 1], latency=1, skip=0)"


def test_tensors_of_torch_in_messages():
    framework = pytest.importorskip("torch")
    tensor = framework.arange(24.0).reshape(2, 3, 4)
    assert describe(tensor) == "Tensor torch.float32[2, 3, 4]"
    assert describe(framework.nn.Parameter(tensor)) == "Parameter torch.float32[2, 3, 4]"
    assert describe([tensor, 2]) == "[Tensor torch.float32[2, 3, 4], 2]"
    assert "got state=Tensor torch.float32[2, 3, 4]; " in refusal(streaming.step, tensor, X[1], stored("tf", 1))
    assert "got padding=Tensor torch.float32[2, 3, 4]; " in refusal(
        jaxdeconv.conv1d_transpose, X[1], stored("tf", 1), None, 2, tensor
    )


def test_int32_through_torch_is_taken():
    x, w = jnp.ones((1, 2, 3), jnp.int32), jnp.ones((2, 4, 2), jnp.int32)
    assert torch.conv_transpose1d(x, w).dtype == jnp.int32


def test_the_errors_are_the_same_under_jit():
    message = refusal(jaxdeconv.conv1d_transpose, X[1], stored("torch", 1), None, 2)
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.jit(lambda x, w: jaxdeconv.conv1d_transpose(x, w, None, 2))(X[1], stored("torch", 1))


@pytest.mark.parametrize(
    ("function", "x", "w", "keywords"),
    [
        (jaxdeconv.conv1d_transpose, (2, 5, 16), (3, 7, 8), {"output_shape": None, "strides": 2}),
        (keras.conv_transpose, (2, 5, 16), (3, 7, 8), {"strides": 2, "data_format": "channels_last"}),
        (torch.conv_transpose1d, (2, 16, 5), (8, 7, 3), {}),
        (onnx.conv_transpose, (2, 16, 5), (8, 7, 3), {}),
    ],
)
def test_a_filter_of_one_group_for_all(function, x, w, keywords):
    """A filter holds the input channels of all groups. Nothing is said where they do not divide, or are symbolic."""
    said = "must have the input channels of all groups, 16"
    assert refusal(function, np.ones(x), np.ones(w), **keywords).endswith(said)
    assert said not in refusal(function, np.ones(x), np.ones([9 if size == 8 else size for size in w]), **keywords)
    (channels,) = jax.export.symbolic_shape("c")
    unknown = jax.ShapeDtypeStruct([channels if size == 16 else size for size in x], jnp.float32)
    with pytest.raises(ValueError, match=r"must be equal, and \w+ has shape .*c"):
        jax.eval_shape(lambda x: function(x, jnp.ones(w, jnp.float32), **keywords), unknown)

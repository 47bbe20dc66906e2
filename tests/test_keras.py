"""Keras's own answers, recorded by data/record_keras.py, replayed exactly; a few live; the rule for TensorFlow's backend; errors; export."""

# ruff: noqa: E501  (the table reads best a row a line)

import os
import re
import runpy
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from cases import sampled
from jax import export

from jaxdeconv.keras import conv_transpose

ARGUMENTS = ("strides", "padding", "output_padding", "data_format", "dilation_rate")
CASES, _ = recorded.load("keras")
CHUNKS = 4


def ours(case, x, w, **more):
    return conv_transpose(x, w, **{name: case[name] for name in ARGUMENTS if name in case}, **more)


@pytest.mark.parametrize("chunk", sampled(range(CHUNKS), CHUNKS))
def test_values_and_gradients_equal_keras(chunk):
    recorded.check(ours, CASES[chunk::CHUNKS], "float32")


def test_what_the_cases_cover():
    """All of Keras's arguments in all ranks, with gradients, and nothing on which its two backends differ."""
    assert len(CASES) > 230
    assert {case["arrays"]["x"].ndim for case in CASES} == {3, 4, 5}
    assert {case["tensorflow"] for case in CASES} == {"agrees", "refuses"}
    assert sum(case["tensorflow"] == "agrees" for case in CASES) > 150
    assert sum("dx" in case["arrays"] for case in CASES) > 120


def test_tensorflow_refuses_what_the_docstring_says():
    for case in CASES:
        x, w, y = (case["arrays"][name] for name in "xwy")
        if "strides" not in case or x.ndim > 3:  # 2-D and 3-D mix paddings
            continue
        size, length = (a.shape[2 if case.get("data_format") == "channels_first" else 1] for a in (x, y))
        s, ke = case["strides"], (len(w) - 1) * case.get("dilation_rate", 1) + 1
        fits = {"same": (size - 1) * s < length <= size * s, "valid": 0 <= length - (size - 1) * s - ke < s}[case["padding"].lower()]
        assert fits == (case["tensorflow"] == "agrees"), case


def test_tangents_in_forward_mode():
    cases = CASES[::20]

    def every(several):
        results = []
        for case, each in zip(cases, several, strict=True):
            x, w = each["x"], each["w"]
            _, tangent = jax.jvp(lambda x, w, case=case: ours(case, x, w, forward_mode=True), (x, w), (x + 1, w - 1))
            results.append((tangent, ours(case, x + 1, w) + ours(case, x, w - 1)))
        return results

    for case, (actual, expected) in zip(
        cases,
        jax.jit(every, compiler_options={"xla_backend_optimization_level": 0})(
            [recorded.operands(case, case["dtype"]) for case in cases]
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(actual, float), np.asarray(expected, float), err_msg=str(case))


@pytest.mark.filterwarnings("default")  # Keras's own
def test_a_sample_equals_live_keras(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras has another backend")
    live = runpy.run_path(str(recorded.DATA / "record_keras.py"))["answer"]
    for case in CASES[::25]:
        operands = recorded.operands(case, case["dtype"])
        expected = live(case, operands["x"], operands["w"])
        actual = ours(case, operands["x"], operands["w"])
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), err_msg=str(case))


def test_integers_and_complex_numbers():
    x, w = jnp.array([[[1], [100]]], jnp.int8), jnp.array([[[1]], [[2]]], jnp.int8)
    np.testing.assert_array_equal(conv_transpose(x, w, 2), np.array([1, 2, 100, -56], np.int8).reshape(1, 4, 1))
    z = jnp.array([1 + 2j, 3j]).reshape(1, 2, 1)
    np.testing.assert_array_equal(conv_transpose(z, jnp.full((1, 1, 1), 1j), 2).ravel(), [-2 + 1j, 0, -3, 0])


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_groups_are_calls_side_by_side(data_format):
    axis = 1 if data_format == "channels_first" else -1
    rng = np.random.default_rng(0)
    x, w = jnp.moveaxis(rng.standard_normal((2, 5, 4, 6)), -1, axis), rng.standard_normal((3, 2, 5, 6))
    settings = {"strides": (2, 3), "padding": "same", "data_format": data_format, "dilation_rate": (2, 1)}
    parts = zip(jnp.split(x, 3, axis), np.split(w, 3, -1), strict=True)
    expected = jnp.concatenate([conv_transpose(*part, **settings) for part in parts], axis)
    np.testing.assert_allclose(conv_transpose(x, w, **settings, groups=3), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "p", "length"),
    [(3, 2, "same", None, 0), (3, 2, "valid", None, 1), (3, 2, "same", 1, 0), (2, 1, "valid", 1, 2)],
)
def test_an_empty_dimension_has_the_length_of_the_table(kernel, stride, padding, p, length):
    """As Keras's TensorFlow backend has it. Its JAX backend spreads an empty input to 0 samples, where the table has 1 - s."""
    y, vjp = jax.vjp(lambda x, w: conv_transpose(x, w, stride, padding, p), jnp.ones((1, 0, 1)), jnp.ones((kernel, 1, 1)))
    np.testing.assert_array_equal(y, jnp.zeros((1, length, 1)))
    np.testing.assert_array_equal(vjp(y + 1)[1], jnp.zeros((kernel, 1, 1)))


def test_the_default_format_is_kerass(monkeypatch):
    """Where the program has imported it, and only there."""
    x, w = np.ones((2, 4, 3)), np.ones((3, 2, 3))
    first = np.moveaxis(x, -1, 1)
    for module in (None, types.ModuleType("keras")):  # the second as it is while it is being imported
        monkeypatch.setitem(sys.modules, "keras", module)
        assert conv_transpose(x, w, 2).shape == (2, 9, 2)
    configured = types.SimpleNamespace(config=types.SimpleNamespace(image_data_format=lambda: "channels_first"))
    monkeypatch.setitem(sys.modules, "keras", configured)
    assert conv_transpose(first, w, 2).shape == (2, 2, 9)
    assert conv_transpose(x, w, 2, data_format="channels_last").shape == (2, 9, 2)


@pytest.mark.filterwarnings("default")
def test_the_default_format_of_live_keras(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras has another backend")
    x, w = np.ones((2, 3, 5), np.float32), np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        np.testing.assert_array_equal(conv_transpose(x, w, 2), keras.ops.conv_transpose(x, w, 2))
    finally:
        keras.config.set_image_data_format(before)


X, W = np.ones((2, 4, 3)), np.ones((3, 2, 3))
VALID_CALL = {"inputs": X, "kernel": W, "strides": 2}
X2 = {"inputs": np.ones((2, 4, 5, 3)), "kernel": np.ones((3, 2, 2, 3))}

# what differs from the valid call, the error, and how its rule and value begin
TABLE = [
    ({"inputs": None}, TypeError, "inputs must be an array, got inputs=None"),
    ({"inputs": X.tolist()}, TypeError, "inputs must be an array, got inputs=[[["),
    ({"inputs": X.astype(bool)}, TypeError, "the dtype of inputs must be one of float16, bfloat16, float32, float64, complex64, complex128, int8, int16, int32, int64, got inputs.dtype='bool'"),
    ({"kernel": W.astype(np.uint8)}, TypeError, "the dtype of kernel must be one of"),
    ({"kernel": W.astype(np.float32)}, TypeError, "inputs and kernel must have one dtype and inputs has float64, got kernel.dtype='float32'"),
    ({"inputs": X[0]}, ValueError, "inputs must have rank 3, 4 or 5, got inputs.shape=(4, 3); jaxdeconv.lax.conv_transpose takes any number of dimensions"),
    ({"inputs": np.ones((1,) * 6)}, ValueError, "inputs must have rank 3, 4 or 5, got inputs.shape=(1, 1, 1, 1, 1, 1)"),
    ({"kernel": W[0]}, ValueError, "kernel must have rank 3, [width, out / groups, in], got kernel.shape=(2, 3)"),
    (X2 | {"kernel": W}, ValueError, "kernel must have rank 4, [height, width, out / groups, in], got kernel.shape=(3, 2, 3)"),
    ({"kernel": W[:0]}, ValueError, "kernel must have a static, positive kernel size and output channels, got kernel.shape=(0, 2, 3)"),
    ({"kernel": np.ones((3, 3, 2))}, ValueError, "axis 2 of inputs and the last axis of kernel must be equal, and inputs has shape (2, 4, 3), got kernel.shape=(3, 3, 2); kernel is [width, out / groups, in] whatever data_format is"),
    ({"data_format": "channels_first"}, ValueError, "axis 1 of inputs and the last axis of kernel must be equal, and inputs has shape (2, 4, 3), got kernel.shape=(3, 2, 3)"),
    ({"groups": 2}, ValueError, "groups must divide the 3 input channels, the last axis of kernel, got groups=2; pass 1 for no groups"),
    ({"groups": 0}, ValueError, "groups must divide the 3 input channels, the last axis of kernel, got groups=0"),
    ({"groups": 1.0}, TypeError, "groups must be of integers, got groups=1.0"),
    ({"strides": 0}, ValueError, "strides must be from 1 to 2147483647, got strides=0"),
    ({"strides": -1}, ValueError, "strides must be from 1 to 2147483647, got strides=-1"),
    ({"strides": 2.0}, TypeError, "strides must be of integers, got strides=2.0"),
    ({"strides": None}, TypeError, "strides must be of integers, got strides=None"),
    ({"strides": (2, 2)}, ValueError, "strides must be an int or have length 1, got strides=(2, 2)"),
    (X2 | {"strides": (1, 2, 3)}, ValueError, "strides must be an int or have length 1 or 2, got strides=(1, 2, 3)"),
    ({"dilation_rate": 0}, ValueError, "dilation_rate must be from 1 to 2147483647, got dilation_rate=0"),
    ({"dilation_rate": (2, 2)}, ValueError, "dilation_rate must be an int or have length 1, got dilation_rate=(2, 2)"),
    ({"dilation_rate": None}, TypeError, "dilation_rate must be of integers, got dilation_rate=None"),
    ({"output_padding": -1}, ValueError, "output_padding must be from 0 to 2147483647, got output_padding=-1"),
    ({"output_padding": 1.0}, TypeError, "output_padding must be of integers, got output_padding=1.0"),
    ({"output_padding": ()}, ValueError, "output_padding must be an int or have length 1, got output_padding=()"),
    ({"output_padding": (1, 1)}, ValueError, "output_padding must be an int or have length 1, got output_padding=(1, 1)"),
    (X2 | {"output_padding": (1, None)}, TypeError, "output_padding must be of integers, got output_padding=(1, None)"),
    ({"padding": "causal"}, ValueError, "padding must be 'valid' or 'same', got padding='causal'"),
    ({"padding": None}, TypeError, "padding must be 'valid' or 'same', got padding=None"),
    ({"padding": 1}, TypeError, "padding must be 'valid' or 'same', got padding=1"),
    ({"data_format": "NWC"}, ValueError, "data_format must be 'channels_last' or 'channels_first', got data_format='NWC'"),
    ({"data_format": 1}, TypeError, "data_format must be 'channels_last' or 'channels_first', got data_format=1"),
    ({"inputs": X[:, :0], "strides": 5, "output_padding": 1}, ValueError, "axis 1 of inputs must not be empty with kernel 3, stride 5, dilation 1 and padding='valid', got inputs.shape[1]=0; the output's length would be -1"),
    ({"precision": "low"}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision='low'"),
    ({"preferred_element_type": "int32"}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
    ({"implementation": "fast"}, ValueError, "implementation must be None or 'dilated' or 'matmul' or 'polyphase' or 'elementwise'"),
    ({"forward_mode": 1}, TypeError, "forward_mode must be False or True, got forward_mode=1"),
]  # fmt: skip
FORM = re.compile(r"conv_transpose: .+, got \w+(\.\w+)?(\[\d\])?=.+; .+", re.DOTALL)


@pytest.mark.parametrize(("changes", "kind", "message"), TABLE, ids=[f"{i}-{'-'.join(row[0])}" for i, row in enumerate(TABLE)])
def test_rejected(changes, kind, message, monkeypatch):
    monkeypatch.setattr("jaxdeconv.keras._conv_transpose", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(kind) as caught:
        conv_transpose(**VALID_CALL | changes)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"conv_transpose: {message}")
    assert FORM.fullmatch(str(caught.value))


@pytest.mark.parametrize("name", ["strides", "output_padding", "dilation_rate"])
def test_traced_arguments_that_must_be_static(name):
    with pytest.raises(TypeError, match=f"conv_transpose: {name} must be static"):
        jax.jit(lambda value: conv_transpose(**VALID_CALL | {name: value}))(1)


@pytest.mark.parametrize(("padding", "p"), [("same", None), ("same", 0), ("valid", None), ("valid", 1)])
def test_symbolic_batch_and_width(padding, p):
    def gradients(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(conv_transpose(x, w, 2, padding, p, "channels_first"))), (0, 1))(x, w)

    w = np.random.default_rng(0).standard_normal(W.shape).astype(np.float32)
    arguments = jax.ShapeDtypeStruct(export.symbolic_shape("b, 3, w"), jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32)
    exported = export.deserialize(export.export(jax.jit(gradients))(*arguments).serialize())
    x = np.random.default_rng(1).standard_normal((2, 3, 7)).astype(np.float32)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), exported.call(x, w), gradients(x, w))

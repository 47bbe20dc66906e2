"""Every rejection: its type, its one form, and that it comes before anything is traced."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv

X, W = np.ones((2, 4, 3)), np.ones((3, 2, 3))
VALID_CALL = {"input": X, "filters": W, "output_shape": [2, 8, 2], "strides": 2}
NCW = {"input": np.ones((2, 3, 4)), "data_format": "NCW", "output_shape": [2, 2, 8]}
INTEGERS = {"input": X.astype(np.int32), "filters": W.astype(np.int32)}
EMPTY = {"input": np.ones((2, 0, 3))}

# what differs from the valid call, the error, and how its rule and value begin
TABLE = [
    # output_shape: lengths
    ({"output_shape": [2, 9, 2]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=[2, 9, 2]; pass one of these sizes, or output_shape=None for 8"),
    ({"output_shape": [2, 6, 2]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=[2, 6, 2]"),
    ({"output_shape": [2, 8, 2], "padding": "VALID"}, ValueError, "under padding='VALID' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 9 to 10, got output_shape=[2, 8, 2]; pass one of these sizes, or output_shape=None for 9"),
    ({"output_shape": (2, 11, 2), "padding": "VALID"}, ValueError, "under padding='VALID' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 9 to 10, got output_shape=(2, 11, 2)"),
    ({"output_shape": [2, 10, 2], "padding": "VALID", "dilations": 2}, ValueError, "under padding='VALID' an input of size 4 with kernel 3, stride 2 and dilation 2 needs output_shape[1] from 11 to 12"),
    (NCW | {"output_shape": [2, 2, 9]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[2] from 7 to 8"),
    (EMPTY | {"output_shape": [2, 2, 2]}, ValueError, "under padding='SAME' an input of size 0 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 0 to 0"),
    (EMPTY | {"output_shape": [2, 0, 2], "padding": "VALID"}, ValueError, "axis 1 of input must not be empty under padding='VALID', got input.shape[1]=0"),
    (EMPTY | {"output_shape": None, "padding": "VALID"}, ValueError, "axis 1 of input must not be empty under padding='VALID', got input.shape[1]=0"),
    # output_shape: batch and channels
    ({"output_shape": [3, 8, 2]}, ValueError, "output_shape[0] must be the batch size of input, 2, got output_shape=(3, 8, 2); pass 2 there"),
    ({"output_shape": [2, 8, 3]}, ValueError, "output_shape[2] must be groups * 2, the output channels of filters, with groups a divisor of the 3 input channels, got output_shape=(2, 8, 3)"),
    ({"output_shape": [2, 8, 4]}, ValueError, "output_shape[2] must be groups * 2, the output channels of filters, with groups a divisor of the 3 input channels, got output_shape=(2, 8, 4)"),
    ({"output_shape": [2, 8, 1]}, ValueError, "output_shape[2] must be groups * 2"),
    ({"output_shape": [2, 8, 0]}, ValueError, "output_shape[2] must be groups * 2"),
    (NCW | {"output_shape": [2, 8, 2]}, ValueError, "output_shape[1] must be groups * 2"),
    # output_shape: form
    ({"output_shape": [2, 8]}, ValueError, "output_shape must have 3 entries, [batch, width, out], got output_shape=(2, 8)"),
    (NCW | {"output_shape": [2, 8, 2, 1]}, ValueError, "output_shape must have 3 entries, [batch, out, width], got output_shape=(2, 8, 2, 1)"),
    ({"output_shape": 8}, ValueError, "output_shape must have 3 entries, [batch, width, out], got output_shape=(8,)"),
    ({"output_shape": []}, ValueError, "output_shape must have 3 entries"),
    ({"output_shape": np.ones((1, 3), int)}, ValueError, "output_shape must be one-dimensional, got output_shape=[[1, 1, 1]]"),
    ({"output_shape": [2, -1, 2]}, ValueError, "output_shape must not have negative entries, got output_shape=(2, -1, 2)"),
    ({"output_shape": [-2, 8, 2]}, ValueError, "output_shape must not have negative entries"),
    ({"output_shape": [2, 8.0, 2]}, TypeError, "output_shape must be of integers, got output_shape=[2, 8.0, 2]"),
    ({"output_shape": np.array([2.0, 8, 2])}, TypeError, "output_shape must be of integers, got output_shape=[2.0, 8.0, 2.0]"),
    ({"output_shape": jnp.array([2.0, 8, 2])}, TypeError, "output_shape must be of integers, got output_shape=[2.0, 8.0, 2.0]"),
    ({"output_shape": "SAME"}, TypeError, "output_shape must be of integers, got output_shape='SAME'"),
    ({"output_shape": ["2", 8, 2]}, TypeError, "output_shape must be of integers, got output_shape=['2', 8, 2]"),
    ({"output_shape": [2, None, 2]}, TypeError, "output_shape must be of integers, got output_shape=[2, None, 2]"),
    ({"output_shape": [2, True, 2]}, TypeError, "output_shape must be of integers, got output_shape=[2, True, 2]"),
    ({"output_shape": {2, 8}}, TypeError, "output_shape must be of integers"),
    # strides and dilations
    ({"strides": 0}, ValueError, "strides must be from 1 to 2147483647, got strides=0; pass a positive integer"),
    ({"strides": -1}, ValueError, "strides must be from 1 to 2147483647, got strides=-1"),
    ({"strides": 2**31}, ValueError, "strides must be from 1 to 2147483647, got strides=2147483648"),
    ({"strides": [1, 0, 1]}, ValueError, "strides must be from 1 to 2147483647, got strides=[1, 0, 1]"),
    ({"strides": 2.0}, TypeError, "strides must be of integers, got strides=2.0"),
    ({"strides": [2.0]}, TypeError, "strides must be of integers, got strides=[2.0]"),
    ({"strides": "2"}, TypeError, "strides must be of integers, got strides='2'"),
    ({"strides": None}, TypeError, "strides must be of integers, got strides=None"),
    ({"strides": True}, TypeError, "strides must be of integers, got strides=True"),
    ({"strides": []}, ValueError, "strides must be an int or have length 1 or 3, got strides=[]"),
    ({"strides": [1, 2]}, ValueError, "strides must be an int or have length 1 or 3, got strides=[1, 2]"),
    ({"strides": [1, 2, 1, 1]}, ValueError, "strides must be an int or have length 1 or 3"),
    ({"strides": np.array([[2]])}, ValueError, "strides must be one-dimensional, got strides=[[2]]"),
    ({"strides": [2, 2, 1]}, ValueError, "strides must be 1 for batch and channels, got strides=[2, 2, 1]"),
    ({"strides": [1, 1, 2]}, ValueError, "strides must be 1 for batch and channels, got strides=[1, 1, 2]; pass an int, or [1, s, 1] for channels last as data_format says"),
    (NCW | {"strides": [1, 2, 1]}, ValueError, "strides must be 1 for batch and channels, got strides=[1, 2, 1]; pass an int, or [1, 1, s] for channels first as data_format says"),
    ({"dilations": 0}, ValueError, "dilations must be from 1 to 2147483647, got dilations=0"),
    ({"dilations": 2**31}, ValueError, "dilations must be from 1 to 2147483647, got dilations=2147483648"),
    ({"dilations": 1.5}, TypeError, "dilations must be of integers, got dilations=1.5"),
    ({"dilations": [1, 2]}, ValueError, "dilations must be an int or have length 1 or 3, got dilations=[1, 2]"),
    ({"dilations": [1, 1, 2]}, ValueError, "dilations must be 1 for batch and channels, got dilations=[1, 1, 2]"),
    # padding and data_format
    ({"padding": "same"}, ValueError, "padding must be 'SAME' or 'VALID', got padding='same'; upper case, as in TensorFlow"),
    ({"padding": "EXPLICIT"}, ValueError, "padding must be 'SAME' or 'VALID', got padding='EXPLICIT'"),
    ({"padding": None}, TypeError, "padding must be 'SAME' or 'VALID', got padding=None"),
    ({"padding": 1}, TypeError, "padding must be 'SAME' or 'VALID', got padding=1"),
    ({"padding": [[0, 0], [1, 1], [0, 0]]}, TypeError, "padding must be 'SAME' or 'VALID', got padding=[[0, 0], [1, 1], [0, 0]]"),
    ({"data_format": "NHWC"}, ValueError, "data_format must be 'NWC' or 'NCW' or None, got data_format='NHWC'"),
    ({"data_format": "nwc"}, ValueError, "data_format must be 'NWC' or 'NCW' or None, got data_format='nwc'"),
    ({"data_format": 1}, TypeError, "data_format must be 'NWC' or 'NCW' or None, got data_format=1"),
    # input and filters
    ({"input": X[0]}, ValueError, "input must have rank 3, [batch, width, in], got input.shape=(4, 3); add a batch dimension with input[None]"),
    ({"input": X[None]}, ValueError, "input must have rank 3, [batch, width, in], got input.shape=(1, 2, 4, 3)"),
    (NCW | {"input": X[0]}, ValueError, "input must have rank 3, [batch, in, width], got input.shape=(4, 3)"),
    ({"input": [[[1.0]]]}, TypeError, "input must be an array, got input=[[[1.0]]]"),
    ({"input": None}, TypeError, "input must be an array, got input=None"),
    ({"input": 1.0}, TypeError, "input must be an array, got input=1.0"),
    ({"input": np.array([[["a"]]])}, TypeError, "input must be an array, got input=[[['a']]]"),
    ({"input": np.array([[[None]]])}, TypeError, "input must be an array, got input=[[[None]]]"),
    ({"input": np.zeros((2, 4, 3), [("re", float)])}, TypeError, "input must be an array, got input=an array [('re', '<f8')][2, 4, 3]"),
    ({"input": jax.ShapeDtypeStruct((2, 4, 3), float)}, TypeError, "input must be an array, got input=ShapeDtypeStruct"),
    ({"input": X.astype(bool)}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, int32, got input.dtype='bool'; convert with input.astype(...)"),
    ({"input": X.astype(np.int64)}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, int32, got input.dtype='int64'"),
    ({"input": X.astype(np.complex64)}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, int32, got input.dtype='complex64'"),
    ({"filters": W.astype(np.uint8)}, TypeError, "the dtype of filters must be one of float16, bfloat16, float32, float64, int32, got filters.dtype='uint8'"),
    ({"filters": None}, TypeError, "filters must be an array, got filters=None"),
    ({"filters": W.astype(np.float32)}, TypeError, "input and filters must have one dtype and input has float64, got filters.dtype='float32'"),
    ({"input": jnp.asarray(X, jnp.bfloat16), "filters": jnp.asarray(W, jnp.float16)}, TypeError, "input and filters must have one dtype and input has bfloat16, got filters.dtype='float16'"),
    ({"filters": W[0]}, ValueError, "filters must have rank 3, [width, out / groups, in], got filters.shape=(2, 3); bring [in, out / groups, width] of torch or ONNX here with jaxdeconv.convert_filters"),
    ({"filters": np.ones((3, 3, 2))}, ValueError, "axis 2 of input and the last axis of filters must be equal, and input has shape (2, 4, 3), got filters.shape=(3, 3, 2)"),
    (NCW | {"input": X}, ValueError, "axis 1 of input and the last axis of filters must be equal, and input has shape (2, 4, 3), got filters.shape=(3, 2, 3)"),
    ({"filters": np.ones((0, 2, 3))}, ValueError, "filters must have a static, positive kernel size and output channels, got filters.shape=(0, 2, 3); only the input channels may be 0"),
    ({"filters": np.ones((3, 0, 3)), "output_shape": [2, 8, 0]}, ValueError, "filters must have a static, positive kernel size and output channels, got filters.shape=(3, 0, 3)"),
    # what is jaxdeconv's own
    ({"name": 3}, TypeError, "name must be a string or None, got name=3"),
    ({"name": ""}, TypeError, "name must be a string or None, got name=''"),
    ({"precision": "low"}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision='low'"),
    ({"precision": 3}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision=3"),
    ({"precision": ("high",)}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision=('high',)"),
    ({"precision": {}}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision={}"),
    ({"preferred_element_type": "int32"}, TypeError, "preferred_element_type must be a dtype of the kind of float64, and no narrower for integers, got preferred_element_type='int32'"),
    ({"preferred_element_type": "nonsense"}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
    ({"preferred_element_type": np.complex64}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
    (INTEGERS | {"preferred_element_type": "int8"}, TypeError, "preferred_element_type must be a dtype of the kind of int32, and no narrower for integers, got preferred_element_type='int8'"),
    (INTEGERS | {"preferred_element_type": "float32"}, TypeError, "preferred_element_type must be a dtype of the kind of int32"),
    ({"implementation": "fast"}, ValueError, "implementation must be None or 'dilated', got implementation='fast'; pass None to have it chosen"),
    ({"implementation": 1}, TypeError, "implementation must be None or 'dilated', got implementation=1"),
    ({"forward_mode": 1}, TypeError, "forward_mode must be False or True, got forward_mode=1"),
    ({"forward_mode": None}, TypeError, "forward_mode must be False or True, got forward_mode=None"),
]  # fmt: skip
FORM = re.compile(r"conv1d_transpose: .+, got \w+(\.\w+)?(\[\d\])?=.+; .+", re.DOTALL)


def identify(row):
    return ",".join(f"{name}={np.shape(value) if hasattr(value, 'shape') else value}" for name, value in row[0].items())


@pytest.mark.parametrize(("changes", "kind", "message"), TABLE, ids=map(identify, TABLE))
def test_rejected(changes, kind, message, monkeypatch):
    monkeypatch.setattr("jaxdeconv.tf._conv_transpose", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(kind) as caught:
        jaxdeconv.conv1d_transpose(**VALID_CALL | changes)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"conv1d_transpose: {message}")
    assert FORM.fullmatch(str(caught.value))


@pytest.mark.parametrize("under", [jax.jit, jax.vmap, jax.grad], ids=["jit", "vmap", "grad"])
def test_rejected_alike_under_transformations(under):
    wrap = {jax.vmap: lambda x: x[None], jax.jit: lambda x: x, jax.grad: lambda x: x}[under]
    with pytest.raises(ValueError, match=r"needs output_shape\[1\] from 7 to 8, got output_shape=\[2, 9, 2\]"):
        under(lambda x: jaxdeconv.conv1d_transpose(x, W, [2, 9, 2], 2).sum())(wrap(X))


TRACED = {
    "output_shape": [2, 8, 2],
    "strides": 2,
    "dilations": [1],
}


@pytest.mark.parametrize("name", TRACED)
def test_traced_arguments_that_must_be_static(name):
    run = jax.jit(lambda value: jaxdeconv.conv1d_transpose(**VALID_CALL | {name: value}))
    message = f"conv1d_transpose: {name} must be static, since it sets shapes, got {name}=a traced int64"
    with pytest.raises(TypeError, match=re.escape(message)):
        run(jnp.array(TRACED[name]))


def test_a_traced_entry():
    with pytest.raises(TypeError, match="output_shape must be static"):
        jax.jit(lambda length: jaxdeconv.conv1d_transpose(X, W, [2, length, 2], 2))(8)
    with pytest.raises(TypeError, match="forward_mode must be False or True, got forward_mode=a traced bool"):
        jax.jit(lambda flag: jaxdeconv.conv1d_transpose(X, W, None, 2, forward_mode=flag))(True)


def test_strides_are_required():
    with pytest.raises(TypeError, match="strides"):
        jaxdeconv.conv1d_transpose(X, W, [2, 8, 2])


def test_long_values_are_shortened():
    with pytest.raises(TypeError) as caught:
        jaxdeconv.conv1d_transpose([0.0] * 100_000, W, [2, 8, 2], 2)
    assert len(str(caught.value)) < 500

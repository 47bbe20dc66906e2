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
DEPTHWISE = {"input": np.ones((2, 4, 2))}
LONG_STRIDE = {"input": X[:, :1], "strides": 2**31 - 1, "padding": "VALID", "output_shape": [2, 3, 2]}
ABLE, CHOSEN = "implementation must be able to compute this, and", "pass None to have it chosen"
NAMES = "implementation must be None or 'dilated' or 'matmul' or 'polyphase' or 'elementwise'"
FORMS = "pass one of these, or a form for each dimension, as in 'taps,dilated'"

# what differs from the valid call, the error, and how its rule and value begin
TABLE = [
    # output_shape: lengths
    ({"output_shape": [2, 9, 2]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=(2, 9, 2); pass one of these sizes, or output_shape=None for 8"),
    ({"output_shape": [2, 6, 2]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=(2, 6, 2)"),
    ({"output_shape": [2, 8, 2], "padding": "VALID"}, ValueError, "under padding='VALID' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 9 to 10, got output_shape=(2, 8, 2); pass one of these sizes, or output_shape=None for 9"),
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
    ({"output_shape": [2, -1, 2]}, ValueError, "output_shape must not have negative entries, got output_shape=(2, -1, 2); give every size but the batch, which may be -1, or None for the whole"),
    ({"output_shape": [-1, -1, 2]}, ValueError, "output_shape must not have negative entries, got output_shape=(-1, -1, 2)"),
    ({"output_shape": [-1, 9, 2]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=(-1, 9, 2)"),
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
    ({"padding": "same "}, ValueError, "padding must be 'SAME' or 'VALID', got padding='same '; upper case, as in TensorFlow, or three pairs of integers"),
    ({"padding": [[0, 0], [1, 1]]}, ValueError, "explicit padding must be three pairs of integers from 0 to 2147483647, got padding=[[0, 0], [1, 1]]; pass [[0, 0], [left, right], [0, 0]]"),
    (NCW | {"padding": [1, 1]}, ValueError, "explicit padding must be three pairs of integers from 0 to 2147483647, got padding=[1, 1]; pass [[0, 0], [0, 0], [left, right]]"),
    ({"padding": [[0, 0], [1, -1], [0, 0]]}, ValueError, "explicit padding must be three pairs of integers from 0 to 2147483647"),
    ({"padding": [[0, 0], [0, 0], [1, 1]]}, ValueError, "explicit padding must be [0, 0] for batch and channels, got padding=[[0, 0], [0, 0], [1, 1]]; pass [[0, 0], [left, right], [0, 0]] as data_format says"),
    ({"padding": [[0, 0], [1.0, 1], [0, 0]]}, TypeError, "padding must be of integers, got padding=[[0, 0], [1.0, 1], [0, 0]]"),
    ({"padding": [[0, 0], [1, 1], [0, 0]], "output_shape": [2, 9, 2]}, ValueError, "under padding=[[0, 0], [1, 1], [0, 0]] an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=(2, 9, 2)"),
    ({"padding": [[0, 0], [6, 6], [0, 0]]}, ValueError, "padding of axis 1 must add up to at most 10 for an input of size 4, got padding=[[0, 0], [6, 6], [0, 0]]"),
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
    ({"strides": jax.random.key(0)}, TypeError, "strides must be of integers, got strides=an array key<fry>[]"),
    ({"padding": jax.random.key(0)}, TypeError, "padding must be of integers, got padding=an array key<fry>[]"),
    ({"groups": jax.random.key(0)}, TypeError, "groups must be of integers, got groups=an array key<fry>[]"),
    ({"output_shape": jax.random.key(0)}, TypeError, "output_shape must be of integers, got output_shape=an array key<fry>[]"),
    ({"precision": np.zeros((), "m8")[()]}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision="),
    ({"preferred_element_type": np.zeros((), "m8")[()]}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
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
    ({"implementation": "fast"}, ValueError, f"{NAMES}, got implementation='fast'; {FORMS}"),
    ({"implementation": "taps,dilated"}, ValueError, f"{ABLE} 'taps,dilated' names another number of forms than there are dimensions, 1, got implementation='taps,dilated'; {CHOSEN}"),
    ({"implementation": "dilated,dilated"}, ValueError, f"{NAMES}, got implementation='dilated,dilated'; pass 'dilated', which has this form for all dimensions"),
    ({"implementation": 1}, TypeError, f"{NAMES}, got implementation=1; {FORMS}"),
    ({"implementation": "elementwise"}, ValueError, f"{ABLE} 'elementwise' is for one input and one output channel a group, not for 3 input and 2 output channels in 1 groups, got implementation='elementwise'; {CHOSEN}"),
    (DEPTHWISE | {"filters": np.ones((257, 1, 2)), "padding": "VALID", "output_shape": [2, 263, 2], "groups": 2, "implementation": "elementwise"}, ValueError, f"{ABLE} 'elementwise' would sum 257 shifted arrays in its input gradient, more than 256, got implementation='elementwise'; {CHOSEN}"),
    ({"filters": np.ones((257, 2, 3)), "strides": 1, "padding": "VALID", "output_shape": None, "implementation": "matmul"}, ValueError, f"{ABLE} 'matmul' would sum 257 shifted arrays, more than 256, got implementation='matmul'; {CHOSEN}"),
    ({"filters": np.ones((2, 2, 3)), "strides": 1, "dilations": 1000, "output_shape": [2, 4, 2], "implementation": "polyphase"}, ValueError, f"{ABLE} 'polyphase' would make of 2 taps a filter of 1001, got implementation='polyphase'; {CHOSEN}"),
    (LONG_STRIDE | {"implementation": "matmul"}, ValueError, f"{ABLE} 'matmul' would hold 2147483647 samples in blocks of (2147483647,) for an output of (3,), got implementation='matmul'; {CHOSEN}"),
    (LONG_STRIDE | {"implementation": "polyphase"}, ValueError, f"{ABLE} 'polyphase' would hold 2147483647 samples in blocks of (2147483647,) for an output of (3,), got implementation='polyphase'; {CHOSEN}"),
    ({"forward_mode": 1}, TypeError, "forward_mode must be False or True, got forward_mode=1"),
]  # fmt: skip
X2, W2 = np.ones((2, 4, 5, 3)), np.ones((3, 2, 4, 3))
X3, W3 = np.ones((2, 4, 5, 1, 3)), np.ones((3, 2, 1, 4, 3))
VALID_2D = {"input": X2, "filters": W2, "output_shape": [2, 8, 10, 4], "strides": 2}
VALID_3D = {"input": X3, "filters": W3, "output_shape": [2, 8, 10, 2, 4], "strides": 2}
FAR_APART = {"filters": np.ones((2, 2, 4, 3)), "strides": 1, "dilations": [1, 1000], "output_shape": None}
LONG_STRIDE_2D = {"input": np.ones((2, 2, 1, 3)), "strides": [2, 2**31 - 1], "padding": "VALID", "output_shape": [2, 5, 2, 4]}
NCHW = {"input": np.ones((2, 3, 4, 5)), "data_format": "NCHW", "output_shape": [2, 4, 8, 10]}
NCDHW = {"input": np.ones((2, 3, 4, 5, 1)), "data_format": "NCDHW", "output_shape": [2, 4, 8, 10, 2]}
PADS = {"padding": [[0, 0], [1, 1], [1, 0], [0, 0]], "output_shape": [2, 7, 9, 4]}
NCHW_PADS = NCHW | {"padding": [[0, 0], [0, 0], [1, 1], [1, 0]], "output_shape": [2, 4, 7, 9]}
ORDER = "pass [[0, 0], [top, bottom], [left, right], [0, 0]]"
ORDER_NCHW = "pass [[0, 0], [0, 0], [top, bottom], [left, right]]"
FOUR_PAIRS = "explicit padding must be four pairs of integers from 0 to 2147483647, got padding="
WORDS = "padding must be 'SAME' or 'VALID', got padding="

TABLE_2D = [
    # output_shape: lengths, each axis
    ({"output_shape": [2, 9, 10, 4]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=(2, 9, 10, 4); pass one of these sizes, or output_shape=None for 8"),
    ({"output_shape": [2, 8, 8, 4]}, ValueError, "under padding='SAME' an input of size 5 with kernel 2, stride 2 and dilation 1 needs output_shape[2] from 9 to 10, got output_shape=(2, 8, 8, 4)"),
    ({"output_shape": [2, 10, 8, 4]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8"),
    ({"output_shape": [2, 8, 10, 4], "strides": [2, 3]}, ValueError, "under padding='SAME' an input of size 5 with kernel 2, stride 3 and dilation 1 needs output_shape[2] from 13 to 15"),
    ({"output_shape": [2, 9, 9, 4], "padding": "VALID"}, ValueError, "under padding='VALID' an input of size 5 with kernel 2, stride 2 and dilation 1 needs output_shape[2] from 10 to 11"),
    ({"output_shape": [2, 9, 10, 4], "padding": "VALID", "dilations": [2, 1]}, ValueError, "under padding='VALID' an input of size 4 with kernel 3, stride 2 and dilation 2 needs output_shape[1] from 11 to 12"),
    ({"output_shape": [2, 9, 10, 4], "padding": "VALID", "dilations": [1, 3]}, ValueError, "under padding='VALID' an input of size 5 with kernel 2, stride 2 and dilation 3 needs output_shape[2] from 12 to 13"),
    (NCHW | {"output_shape": [2, 4, 9, 10]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[2] from 7 to 8"),
    (NCHW | {"output_shape": [2, 4, 8, 11]}, ValueError, "under padding='SAME' an input of size 5 with kernel 2, stride 2 and dilation 1 needs output_shape[3] from 9 to 10"),
    (PADS | {"output_shape": [2, 6, 9, 4]}, ValueError, "under padding=[[0, 0], [1, 1], [1, 0], [0, 0]] an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8, got output_shape=(2, 6, 9, 4); pass one of these sizes, or output_shape=None for 7"),
    (PADS | {"output_shape": [2, 9, 9, 4]}, ValueError, "under padding=[[0, 0], [1, 1], [1, 0], [0, 0]] an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8"),
    (PADS | {"output_shape": [2, 7, 8, 4]}, ValueError, "under padding=[[0, 0], [1, 1], [1, 0], [0, 0]] an input of size 5 with kernel 2, stride 2 and dilation 1 needs output_shape[2] from 9 to 10"),
    (NCHW_PADS | {"output_shape": [2, 4, 7, 11]}, ValueError, "under padding=[[0, 0], [0, 0], [1, 1], [1, 0]] an input of size 5 with kernel 2, stride 2 and dilation 1 needs output_shape[3] from 9 to 10"),
    (PADS | {"padding": [[0, 0], [5, 5], [0, 0], [0, 0]], "output_shape": None}, ValueError, "under padding=[[0, 0], [5, 5], [0, 0], [0, 0]] an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 0 to 0, got output_shape=None; pass one of these sizes"),
    (PADS | {"padding": [[0, 0], [5, 6], [0, 0], [0, 0]], "output_shape": None}, ValueError, "padding of axis 1 must add up to at most 10 for an input of size 4, got padding=[[0, 0], [5, 6], [0, 0], [0, 0]]; pass less"),
    (PADS | {"padding": [[0, 0], [5, 6], [0, 0], [0, 0]], "output_shape": [2, 0, 10, 4]}, ValueError, "padding of axis 1 must add up to at most 10 for an input of size 4"),
    (PADS | {"padding": [[0, 0], [0, 0], [2**31 - 1, 0], [0, 0]], "output_shape": [2, 9, 0, 4]}, ValueError, "padding of axis 2 must add up to at most 11 for an input of size 5"),
    ({"input": np.ones((2, 4, 0, 3)), "output_shape": [2, 8, 1, 4]}, ValueError, "under padding='SAME' an input of size 0 with kernel 2, stride 2 and dilation 1 needs output_shape[2] from 0 to 0"),
    ({"input": np.ones((2, 4, 0, 3)), "output_shape": [2, 9, 0, 4], "padding": "VALID"}, ValueError, "axis 2 of input must not be empty under padding='VALID', got input.shape[2]=0"),
    (PADS | {"input": np.ones((2, 0, 5, 3)), "output_shape": None}, ValueError, "axis 1 of input must not be empty under padding=[[0, 0], [1, 1], [1, 0], [0, 0]], got input.shape[1]=0"),
    # output_shape: batch, channels and form
    ({"output_shape": [1, 8, 10, 4]}, ValueError, "output_shape[0] must be the batch size of input, 2, got output_shape=(1, 8, 10, 4); pass 2 there"),
    ({"output_shape": [2, 8, 10, 3]}, ValueError, "output_shape[3] must be groups * 4, the output channels of filters, with groups a divisor of the 3 input channels, got output_shape=(2, 8, 10, 3); for one group pass 4 there"),
    ({"output_shape": [2, 8, 10, 8]}, ValueError, "output_shape[3] must be groups * 4"),
    ({"output_shape": [2, 4, 8, 10]}, ValueError, "output_shape[3] must be groups * 4"),
    (NCHW | {"output_shape": [2, 8, 10, 4]}, ValueError, "output_shape[1] must be groups * 4"),
    ({"output_shape": [2, 8, 10]}, ValueError, "output_shape must have 4 entries, [batch, height, width, out], got output_shape=(2, 8, 10)"),
    ({"output_shape": [8, 10]}, ValueError, "output_shape must have 4 entries, [batch, height, width, out], got output_shape=(8, 10)"),
    (NCHW | {"output_shape": [2, 4, 8, 10, 1]}, ValueError, "output_shape must have 4 entries, [batch, out, height, width], got output_shape=(2, 4, 8, 10, 1)"),
    ({"output_shape": 8}, ValueError, "output_shape must have 4 entries"),
    ({"output_shape": [[2, 8, 10, 4]]}, TypeError, "output_shape must be of integers, got output_shape=[[2, 8, 10, 4]]"),
    ({"output_shape": np.array([[2, 8, 10, 4]])}, ValueError, "output_shape must be one-dimensional, got output_shape=[[2, 8, 10, 4]]"),
    ({"output_shape": [2, 8, -10, 4]}, ValueError, "output_shape must not have negative entries"),
    ({"output_shape": [2, 8, 10.0, 4]}, TypeError, "output_shape must be of integers, got output_shape=[2, 8, 10.0, 4]"),
    ({"output_shape": [2, True, 10, 4]}, TypeError, "output_shape must be of integers"),
    ({"output_shape": "NHWC"}, TypeError, "output_shape must be of integers, got output_shape='NHWC'"),
    ({"output_shape": np.timedelta64(2, "s")}, TypeError, "output_shape must be of integers"),
    # strides and dilations
    ({"strides": []}, ValueError, "strides must be an int or have length 1 or 2 or 4, got strides=[]"),
    ({"strides": [2, 2, 2]}, ValueError, "strides must be an int or have length 1 or 2 or 4, got strides=[2, 2, 2]; pass an int"),
    ({"strides": [1, 2, 2, 2, 1]}, ValueError, "strides must be an int or have length 1 or 2 or 4"),
    ({"strides": [1, 1, 2, 2]}, ValueError, "strides must be 1 for batch and channels, got strides=[1, 1, 2, 2]; pass an int, or [1, s, s, 1] for channels last as data_format says"),
    ({"strides": [2, 2, 2, 1]}, ValueError, "strides must be 1 for batch and channels, got strides=[2, 2, 2, 1]"),
    ({"strides": [1, 2, 2, 2]}, ValueError, "strides must be 1 for batch and channels, got strides=[1, 2, 2, 2]"),
    (NCHW | {"strides": [1, 2, 2, 1]}, ValueError, "strides must be 1 for batch and channels, got strides=[1, 2, 2, 1]; pass an int, or [1, 1, s, s] for channels first as data_format says"),
    ({"strides": [2, 0]}, ValueError, "strides must be from 1 to 2147483647, got strides=[2, 0]"),
    ({"strides": [1, 2, -2, 1]}, ValueError, "strides must be from 1 to 2147483647, got strides=[1, 2, -2, 1]"),
    ({"strides": [2**31, 2]}, ValueError, "strides must be from 1 to 2147483647, got strides=[2147483648, 2]"),
    ({"strides": [2, 2.0]}, TypeError, "strides must be of integers, got strides=[2, 2.0]"),
    ({"strides": [2, None]}, TypeError, "strides must be of integers, got strides=[2, None]"),
    ({"strides": [[2, 2]]}, TypeError, "strides must be of integers, got strides=[[2, 2]]"),
    ({"strides": np.array([[2, 2]])}, ValueError, "strides must be one-dimensional, got strides=[[2, 2]]"),
    ({"strides": np.array([2.0, 2.0])}, TypeError, "strides must be of integers, got strides=[2.0, 2.0]"),
    ({"strides": None}, TypeError, "strides must be of integers, got strides=None"),
    ({"strides": np.timedelta64(2, "s")}, TypeError, "strides must be of integers, got strides=np.timedelta64(2,'s')"),
    ({"dilations": [1, 1, 1]}, ValueError, "dilations must be an int or have length 1 or 2 or 4, got dilations=[1, 1, 1]"),
    ({"dilations": [1, 1, 2, 2]}, ValueError, "dilations must be 1 for batch and channels, got dilations=[1, 1, 2, 2]"),
    (NCHW | {"dilations": [1, 2, 2, 1]}, ValueError, "dilations must be 1 for batch and channels, got dilations=[1, 2, 2, 1]"),
    ({"dilations": [1, 0]}, ValueError, "dilations must be from 1 to 2147483647, got dilations=[1, 0]"),
    ({"dilations": [1, "1"]}, TypeError, "dilations must be of integers, got dilations=[1, '1']"),
    ({"dilations": {}}, TypeError, "dilations must be of integers, got dilations={}"),
    # explicit padding
    (PADS | {"padding": [[0, 0], [1, 1], [1, 0]]}, ValueError, f"{FOUR_PAIRS}[[0, 0], [1, 1], [1, 0]]; {ORDER}"),
    (PADS | {"padding": [[1, 1], [1, 0]]}, ValueError, f"{FOUR_PAIRS}[[1, 1], [1, 0]]; {ORDER}"),
    (PADS | {"padding": [[0, 0], [1, 1], [1, 0], [0, 0], [0, 0]]}, ValueError, FOUR_PAIRS),
    (PADS | {"padding": []}, ValueError, f"{FOUR_PAIRS}[]"),
    (PADS | {"padding": [[], [], [], []]}, ValueError, f"{FOUR_PAIRS}[[], [], [], []]"),
    (PADS | {"padding": [[0, 0], [1], [1, 0], [0, 0]]}, ValueError, f"{FOUR_PAIRS}[[0, 0], [1], [1, 0], [0, 0]]"),
    (PADS | {"padding": [[0, 0], [1, 1, 1], [1, 0], [0, 0]]}, ValueError, FOUR_PAIRS),
    (PADS | {"padding": [0, 1, 1, 0]}, ValueError, f"{FOUR_PAIRS}[0, 1, 1, 0]"),
    (PADS | {"padding": [1, 1]}, ValueError, f"{FOUR_PAIRS}[1, 1]"),
    (PADS | {"padding": (0, 1, 1, (0, 0))}, ValueError, f"{FOUR_PAIRS}(0, 1, 1, (0, 0))"),
    (PADS | {"padding": [[0, 0], [-1, 3], [1, 0], [0, 0]]}, ValueError, f"{FOUR_PAIRS}[[0, 0], [-1, 3], [1, 0], [0, 0]]"),
    (PADS | {"padding": [[0, 0], [2**31, 3], [1, 0], [0, 0]]}, ValueError, f"{FOUR_PAIRS}[[0, 0], [2147483648, 3], [1, 0], [0, 0]]"),
    (PADS | {"padding": np.array(1)}, ValueError, f"{FOUR_PAIRS}1"),
    (PADS | {"padding": np.zeros(4, int)}, ValueError, f"{FOUR_PAIRS}[0, 0, 0, 0]"),
    (PADS | {"padding": np.zeros((2, 2), int)}, ValueError, f"{FOUR_PAIRS}[[0, 0], [0, 0]]"),
    (PADS | {"padding": jnp.zeros((4, 1), int)}, ValueError, f"{FOUR_PAIRS}[[0], [0], [0], [0]]"),
    (PADS | {"padding": [np.array(0)] * 4}, ValueError, FOUR_PAIRS),
    (PADS | {"padding": [[0, 0], [1, 1], [1, 0], [0, 1]]}, ValueError, f"explicit padding must be [0, 0] for batch and channels, got padding=[[0, 0], [1, 1], [1, 0], [0, 1]]; {ORDER} as data_format says"),
    (PADS | {"padding": [[1, 0], [1, 1], [1, 0], [0, 0]]}, ValueError, "explicit padding must be [0, 0] for batch and channels, got padding=[[1, 0], [1, 1], [1, 0], [0, 0]]"),
    (PADS | {"padding": [[0, 0], [0, 0], [1, 1], [1, 0]]}, ValueError, f"explicit padding must be [0, 0] for batch and channels, got padding=[[0, 0], [0, 0], [1, 1], [1, 0]]; {ORDER}"),
    (PADS | {"padding": [[1, 1], [1, 0], [0, 0], [0, 0]]}, ValueError, "explicit padding must be [0, 0] for batch and channels"),
    (NCHW_PADS | {"padding": [[0, 0], [1, 1], [1, 0], [0, 0]]}, ValueError, f"explicit padding must be [0, 0] for batch and channels, got padding=[[0, 0], [1, 1], [1, 0], [0, 0]]; {ORDER_NCHW} as data_format says"),
    (PADS | {"padding": [[0, 0], [1.0, 1], [1, 0], [0, 0]]}, TypeError, "padding must be of integers, got padding=[[0, 0], [1.0, 1], [1, 0], [0, 0]]"),
    (PADS | {"padding": [[0, 0], [True, 1], [1, 0], [0, 0]]}, TypeError, "padding must be of integers, got padding=[[0, 0], [True, 1], [1, 0], [0, 0]]"),
    (PADS | {"padding": [[0, 0], ["1", 1], [1, 0], [0, 0]]}, TypeError, "padding must be of integers, got padding=[[0, 0], ['1', 1], [1, 0], [0, 0]]"),
    (PADS | {"padding": [[0, 0], [None, 1], [1, 0], [0, 0]]}, TypeError, "padding must be of integers"),
    (PADS | {"padding": [[0, 0], [[1], 1], [1, 0], [0, 0]]}, TypeError, "padding must be of integers, got padding=[[0, 0], [[1], 1], [1, 0], [0, 0]]"),
    (PADS | {"padding": [[[0, 0], [1, 1], [1, 0], [0, 0]]]}, TypeError, "padding must be of integers"),
    (PADS | {"padding": np.zeros((4, 2))}, TypeError, "padding must be of integers, got padding=[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]"),
    (PADS | {"padding": np.zeros((4, 2, 2), int)}, TypeError, "padding must be of integers, got padding=an array int64[4, 2, 2]"),
    (PADS | {"padding": np.array("SAME")}, TypeError, "padding must be of integers, got padding='SAME'"),
    (PADS | {"padding": ["SAME", "VALID"]}, TypeError, "padding must be of integers, got padding=['SAME', 'VALID']"),
    (PADS | {"padding": ["ab"] * 4}, TypeError, "padding must be of integers"),
    (PADS | {"padding": {"top": 1}}, TypeError, f"{WORDS}{{'top': 1}}; upper case, as in TensorFlow, or four pairs of integers"),
    ({"padding": "same"}, ValueError, f"{WORDS}'same'; upper case, as in TensorFlow, or four pairs of integers"),
    ({"padding": "EXPLICIT"}, ValueError, f"{WORDS}'EXPLICIT'"),
    ({"padding": 1}, TypeError, f"{WORDS}1"),
    ({"padding": None}, TypeError, f"{WORDS}None"),
    # data_format
    ({"data_format": "NWC"}, ValueError, "data_format must be 'NHWC' or 'NCHW' or None, got data_format='NWC'"),
    ({"data_format": "NDHWC"}, ValueError, "data_format must be 'NHWC' or 'NCHW' or None, got data_format='NDHWC'"),
    ({"data_format": "nchw"}, ValueError, "data_format must be 'NHWC' or 'NCHW' or None, got data_format='nchw'"),
    ({"data_format": np.array(["NHWC", "NCHW"])}, TypeError, "data_format must be 'NHWC' or 'NCHW' or None, got data_format=['NHWC', 'NCHW']"),
    # input and filters
    ({"input": X2[0]}, ValueError, "input must have rank 4, [batch, height, width, in], got input.shape=(4, 5, 3); add a batch dimension with input[None]"),
    ({"input": X3}, ValueError, "input must have rank 4, [batch, height, width, in], got input.shape=(2, 4, 5, 1, 3)"),
    (NCHW | {"input": X2[0]}, ValueError, "input must have rank 4, [batch, in, height, width], got input.shape=(4, 5, 3)"),
    ({"input": np.float64(1)}, TypeError, "input must be an array, got input=np.float64(1.0)"),
    ({"input": np.ma.masked_array(X2)}, TypeError, "input must be an array, got input=an array float64[2, 4, 5, 3]"),
    ({"input": jax.random.key(0)}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, int32, got input.dtype='key<fry>'"),
    ({"input": jnp.ones(X2.shape, jnp.float8_e4m3fn)}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, int32, got input.dtype='float8_e4m3fn'"),
    ({"input": X2.astype(complex)}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, int32, got input.dtype='complex128'"),
    ({"filters": W2.astype(complex)}, TypeError, "the dtype of filters must be one of float16, bfloat16, float32, float64, int32, got filters.dtype='complex128'"),
    ({"filters": W2.astype(np.float32)}, TypeError, "input and filters must have one dtype and input has float64, got filters.dtype='float32'"),
    ({"filters": W}, ValueError, "filters must have rank 4, [height, width, out / groups, in], got filters.shape=(3, 2, 3); bring [in, out / groups, height, width] of torch or ONNX here with jaxdeconv.convert_filters"),
    ({"filters": np.ones((3, 2, 3, 4))}, ValueError, "axis 3 of input and the last axis of filters must be equal, and input has shape (2, 4, 5, 3), got filters.shape=(3, 2, 3, 4); filters are [height, width, out / groups, in] whatever data_format is"),
    (NCHW | {"filters": np.ones((3, 4, 3, 2))}, ValueError, "axis 1 of input and the last axis of filters must be equal, and input has shape (2, 3, 4, 5)"),
    (NCHW | {"input": X2}, ValueError, "axis 1 of input and the last axis of filters must be equal, and input has shape (2, 4, 5, 3)"),
    ({"filters": np.ones((3, 0, 4, 3))}, ValueError, "filters must have a static, positive kernel size and output channels, got filters.shape=(3, 0, 4, 3)"),
    ({"filters": np.ones((0, 2, 4, 3))}, ValueError, "filters must have a static, positive kernel size and output channels, got filters.shape=(0, 2, 4, 3)"),
    ({"filters": np.ones((3, 2, 0, 3))}, ValueError, "filters must have a static, positive kernel size and output channels, got filters.shape=(3, 2, 0, 3)"),
    # what is jaxdeconv's own
    ({"name": b"name"}, TypeError, "name must be a string or None, got name=b'name'"),
    ({"precision": "low"}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision='low'"),
    ({"preferred_element_type": "int32"}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
    ({"implementation": "fast"}, ValueError, f"{NAMES}, got implementation='fast'; {FORMS}"),
    ({"implementation": "taps,fast"}, ValueError, f"{NAMES}, got implementation='taps,fast'; {FORMS}"),
    ({"implementation": "taps,matmul"}, ValueError, f"{NAMES}, got implementation='taps,matmul'; {FORMS}"),
    ({"implementation": "elementwise,dilated"}, ValueError, f"{NAMES}, got implementation='elementwise,dilated'; {FORMS}"),
    ({"implementation": "taps, dilated"}, ValueError, f"{NAMES}, got implementation='taps, dilated'; {FORMS}"),
    ({"implementation": "Taps,dilated"}, ValueError, f"{NAMES}, got implementation='Taps,dilated'; {FORMS}"),
    ({"implementation": "taps,"}, ValueError, f"{NAMES}, got implementation='taps,'; {FORMS}"),
    ({"implementation": ","}, ValueError, f"{NAMES}, got implementation=','; {FORMS}"),
    ({"implementation": ""}, ValueError, f"{NAMES}, got implementation=''; {FORMS}"),
    ({"implementation": ("taps", "dilated")}, TypeError, f"{NAMES}, got implementation=('taps', 'dilated'); {FORMS}"),
    ({"implementation": "taps"}, ValueError, f"{ABLE} 'taps' names another number of forms than there are dimensions, 2, got implementation='taps'; {CHOSEN}"),
    ({"implementation": "phases"}, ValueError, f"{NAMES}, got implementation='phases'; pass 'polyphase', which has this form for all dimensions"),
    ({"implementation": "taps,dilated,taps"}, ValueError, f"{ABLE} 'taps,dilated,taps' names another number of forms than there are dimensions, 2, got implementation='taps,dilated,taps'; {CHOSEN}"),
    (NCHW | {"implementation": "dilated,dilated,dilated"}, ValueError, f"{NAMES}, got implementation='dilated,dilated,dilated'; pass 'dilated', which has this form for all dimensions"),
    (FAR_APART | {"implementation": "taps,phases"}, ValueError, f"{ABLE} 'taps,phases' would make of 4 taps a filter of 2002, got implementation='taps,phases'; {CHOSEN}"),
    (LONG_STRIDE_2D | {"implementation": "dilated,taps"}, ValueError, f"{ABLE} 'dilated,taps' would hold 10737418235 samples in blocks of (1, 2147483647) for an output of (5, 2), got implementation='dilated,taps'; {CHOSEN}"),
    ({"forward_mode": 0}, TypeError, "forward_mode must be False or True, got forward_mode=0"),
    ({"implementation": "elementwise"}, ValueError, f"{ABLE} 'elementwise' is for one input and one output channel a group, not for 3 input and 4 output channels in 1 groups, got implementation='elementwise'; {CHOSEN}"),
    (NCHW | {"implementation": "elementwise"}, ValueError, f"{ABLE} 'elementwise' is for one input and one output channel a group, not for 3 input and 4 output channels in 1 groups"),
]  # fmt: skip

TABLE_3D = [
    ({"output_shape": [2, 9, 10, 2, 4]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8"),
    ({"output_shape": [2, 8, 11, 2, 4]}, ValueError, "under padding='SAME' an input of size 5 with kernel 2, stride 2 and dilation 1 needs output_shape[2] from 9 to 10"),
    ({"output_shape": [2, 8, 10, 3, 4]}, ValueError, "under padding='SAME' an input of size 1 with kernel 1, stride 2 and dilation 1 needs output_shape[3] from 1 to 2"),
    (NCDHW | {"output_shape": [2, 4, 8, 10, 3]}, ValueError, "under padding='SAME' an input of size 1 with kernel 1, stride 2 and dilation 1 needs output_shape[4] from 1 to 2"),
    ({"output_shape": [2, 9, 10, 3, 4], "padding": "VALID"}, ValueError, "under padding='VALID' an input of size 1 with kernel 1, stride 2 and dilation 1 needs output_shape[3] from 1 to 2"),
    ({"input": np.ones((2, 4, 5, 0, 3)), "padding": "VALID", "output_shape": None}, ValueError, "axis 3 of input must not be empty under padding='VALID', got input.shape[3]=0"),
    ({"output_shape": [3, 8, 10, 2, 4]}, ValueError, "output_shape[0] must be the batch size of input, 2"),
    ({"output_shape": [2, 8, 10, 2, 5]}, ValueError, "output_shape[4] must be groups * 4"),
    (NCDHW | {"output_shape": [2, 8, 10, 2, 4]}, ValueError, "output_shape[1] must be groups * 4"),
    ({"output_shape": [2, 8, 10, 4]}, ValueError, "output_shape must have 5 entries, [batch, depth, height, width, out], got output_shape=(2, 8, 10, 4)"),
    (NCDHW | {"output_shape": [8, 10, 2]}, ValueError, "output_shape must have 5 entries, [batch, out, depth, height, width], got output_shape=(8, 10, 2)"),
    ({"strides": [2, 2]}, ValueError, "strides must be an int or have length 1 or 3 or 5, got strides=[2, 2]"),
    ({"strides": [1, 2, 2, 1]}, ValueError, "strides must be an int or have length 1 or 3 or 5, got strides=[1, 2, 2, 1]"),
    ({"strides": [1, 1, 2, 2, 2]}, ValueError, "strides must be 1 for batch and channels, got strides=[1, 1, 2, 2, 2]; pass an int, or [1, s, s, s, 1] for channels last as data_format says"),
    (NCDHW | {"strides": [1, 2, 2, 2, 1]}, ValueError, "strides must be 1 for batch and channels, got strides=[1, 2, 2, 2, 1]; pass an int, or [1, 1, s, s, s] for channels first as data_format says"),
    ({"strides": [2, 0, 2]}, ValueError, "strides must be from 1 to 2147483647, got strides=[2, 0, 2]"),
    ({"strides": [2, 2, 2.0]}, TypeError, "strides must be of integers, got strides=[2, 2, 2.0]"),
    ({"dilations": [1, 1]}, ValueError, "dilations must be an int or have length 1 or 3 or 5, got dilations=[1, 1]"),
    ({"dilations": [1, 1, 1, 1, 2]}, ValueError, "dilations must be 1 for batch and channels, got dilations=[1, 1, 1, 1, 2]"),
    ({"padding": [[0, 0], [1, 1], [1, 0], [0, 0]]}, ValueError, "explicit padding must be five pairs of integers from 0 to 2147483647, got padding=[[0, 0], [1, 1], [1, 0], [0, 0]]; pass [[0, 0], [front, back], [top, bottom], [left, right], [0, 0]]"),
    (NCDHW | {"padding": np.ones((5, 2), int)}, ValueError, "explicit padding must be [0, 0] for batch and channels, got padding=an array int64[5, 2]; pass [[0, 0], [0, 0], [front, back], [top, bottom], [left, right]] as data_format says"),
    ({"padding": np.zeros((5, 2), int)}, ValueError, "under padding=an array int64[5, 2] an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 9 to 10, got output_shape=(2, 8, 10, 2, 4)"),
    ({"padding": "valid"}, ValueError, f"{WORDS}'valid'"),
    ({"data_format": "NHWC"}, ValueError, "data_format must be 'NDHWC' or 'NCDHW' or None, got data_format='NHWC'"),
    ({"input": X3[0]}, ValueError, "input must have rank 5, [batch, depth, height, width, in], got input.shape=(4, 5, 1, 3)"),
    (NCDHW | {"input": X3[None]}, ValueError, "input must have rank 5, [batch, in, depth, height, width], got input.shape=(1, 2, 4, 5, 1, 3)"),
    ({"filters": W2}, ValueError, "filters must have rank 5, [depth, height, width, out / groups, in], got filters.shape=(3, 2, 4, 3)"),
    (NCDHW | {"input": X3}, ValueError, "axis 1 of input and the last axis of filters must be equal, and input has shape (2, 4, 5, 1, 3)"),
    ({"filters": np.ones((3, 2, 0, 4, 3))}, ValueError, "filters must have a static, positive kernel size and output channels, got filters.shape=(3, 2, 0, 4, 3)"),
    ({"implementation": "taps,phases"}, ValueError, f"{ABLE} 'taps,phases' names another number of forms than there are dimensions, 3, got implementation='taps,phases'; {CHOSEN}"),
    ({"input": X3.astype(np.int16)}, TypeError, "the dtype of input must be one of float16, bfloat16, float32, float64, int32, got input.dtype='int16'"),
]  # fmt: skip

# of the valid call in two dimensions
TABLE_ANY = [
    ({"output_shape": 8}, ValueError, "output_shape must have 3, 4 or 5 entries, got output_shape=(8,); pass all of its sizes, [batch, 8, channels], or None"),
    ({"output_shape": []}, ValueError, "output_shape must have 3, 4 or 5 entries, got output_shape=()"),
    ({"output_shape": [8, 10]}, ValueError, "output_shape must have 3, 4 or 5 entries, got output_shape=(8, 10)"),
    ({"output_shape": [2, 8, 10, 2, 2, 4]}, ValueError, "output_shape must have 3, 4 or 5 entries, got output_shape=(2, 8, 10, 2, 2, 4)"),
    ({"output_shape": [2, 8, 4]}, ValueError, "input must have rank 3, [batch, width, in], got input.shape=(2, 4, 5, 3)"),
    ({"output_shape": [2, 8, 10, 2, 4]}, ValueError, "input must have rank 5, [batch, depth, height, width, in], got input.shape=(2, 4, 5, 3)"),
    ({"output_shape": [2, 8.0, 10, 4]}, TypeError, "output_shape must be of integers, got output_shape=[2, 8.0, 10, 4]"),
    ({"output_shape": "NHWC"}, TypeError, "output_shape must be of integers, got output_shape='NHWC'"),
    ({"output_shape": {}}, TypeError, "output_shape must be of integers, got output_shape={}"),
    ({"output_shape": np.ones((1, 4), int)}, ValueError, "output_shape must be one-dimensional, got output_shape=[[1, 1, 1, 1]]"),
    ({"output_shape": [2, 9, 10, 4]}, ValueError, "under padding='SAME' an input of size 4 with kernel 3, stride 2 and dilation 1 needs output_shape[1] from 7 to 8"),
    ({"output_shape": None, "input": np.ones(2)}, ValueError, "input must have rank 3, 4 or 5 where output_shape is None, got input.shape=(2,); jaxdeconv.lax.conv_transpose takes any number of dimensions"),
    ({"output_shape": None, "input": np.ones((1,) * 6)}, ValueError, "input must have rank 3, 4 or 5 where output_shape is None, got input.shape=(1, 1, 1, 1, 1, 1)"),
    ({"output_shape": None, "input": np.ones((4, 5))}, ValueError, "input must have rank 3, 4 or 5 where output_shape is None, got input.shape=(4, 5)"),
    ({"output_shape": None, "input": None}, TypeError, "input must be an array, got input=None"),
    ({"output_shape": None, "input": [[[[1.0]]]]}, TypeError, "input must be an array, got input=[[[[1.0]]]]"),
    ({"output_shape": None, "input": X2.astype(bool)}, TypeError, "the dtype of input must be one of"),
    ({"output_shape": None, "input": X}, ValueError, "filters must have rank 3, [width, out / groups, in], got filters.shape=(3, 2, 4, 3)"),
    ({"input": X, "output_shape": [2, 8, 4], "filters": W, "padding": [[0, 0], [1, 1]]}, ValueError, "explicit padding must be three pairs of integers from 0 to 2147483647, got padding=[[0, 0], [1, 1]]; pass [[0, 0], [left, right], [0, 0]]"),
    (VALID_3D | {"padding": [[0, 0]] * 4}, ValueError, "explicit padding must be five pairs of integers from 0 to 2147483647, got padding=[[0, 0], [0, 0], [0, 0], [0, 0]]"),
    (PADS | {"padding": [[0, 0], [1, 1]]}, ValueError, f"{FOUR_PAIRS}[[0, 0], [1, 1]]; {ORDER}"),
    ({"data_format": "NWC"}, ValueError, "data_format must be 'NHWC' or 'NCHW' or None, got data_format='NWC'"),
    ({"data_format": "NC"}, ValueError, "data_format must be 'NHWC' or 'NCHW' or None, got data_format='NC'"),
    (VALID_3D | {"data_format": "NCHW"}, ValueError, "data_format must be 'NDHWC' or 'NCDHW' or None, got data_format='NCHW'"),
    (VALID_CALL | {"data_format": "NHWC"}, ValueError, "data_format must be 'NWC' or 'NCW' or None, got data_format='NHWC'"),
    (VALID_CALL | {"strides": [2, 2]}, ValueError, "strides must be an int or have length 1 or 3, got strides=[2, 2]"),
    ({"strides": [1, 2, 1]}, ValueError, "strides must be an int or have length 1 or 2 or 4, got strides=[1, 2, 1]"),
    ({"dilations": 0}, ValueError, "dilations must be from 1 to 2147483647, got dilations=0"),
    ({"name": 3}, TypeError, "name must be a string or None, got name=3"),
]  # fmt: skip

TABLES = {
    "conv1d_transpose": (VALID_CALL, TABLE),
    "conv2d_transpose": (VALID_2D, TABLE_2D),
    "conv3d_transpose": (VALID_3D, TABLE_3D),
    "conv_transpose": (VALID_2D, TABLE_ANY),
}
ROWS = [(function, valid | row[0], *row[1:]) for function, (valid, table) in TABLES.items() for row in table]
FORM = re.compile(r"conv(1d|2d|3d)?_transpose: .+, got \w+(\.\w+)?(\[\d\])?=.+; .+", re.DOTALL)


def identify(function, row):
    return f"{function}-" + ",".join(
        f"{name}={np.shape(value) if hasattr(value, 'shape') else value}" for name, value in row[0].items()
    )


IDS = [identify(function, row) for function, (_, table) in TABLES.items() for row in table]


@pytest.mark.parametrize(("function", "arguments", "kind", "message"), ROWS, ids=IDS)
def test_rejected(function, arguments, kind, message, monkeypatch):
    monkeypatch.setattr("jaxdeconv._call._run", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(kind) as caught:
        getattr(jaxdeconv, function)(**arguments)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{function}: {message}")
    assert FORM.fullmatch(str(caught.value))


@pytest.mark.parametrize("name", ["dilated,dilated", "phases,phases"])
def test_one_form_in_all_dimensions_has_a_name(name, monkeypatch):
    """So it is no mixture, which `explain` and the choice would take for another lowering."""
    monkeypatch.setattr("jaxdeconv._call._run", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(ValueError, match=rf", got implementation='{name}'; ") as caught:
        jaxdeconv.conv2d_transpose(**VALID_2D, implementation=name)
    assert FORM.fullmatch(str(caught.value))


@pytest.mark.parametrize("function", TABLES)
def test_the_call_that_rows_change_is_valid(function):
    arguments = TABLES[function][0]
    assert getattr(jaxdeconv, function)(**arguments).shape == tuple(arguments["output_shape"])


@pytest.mark.parametrize("changes", [NCHW, PADS, NCHW_PADS], ids=["NCHW", "PADS", "NCHW_PADS"])
def test_the_changes_that_rows_share_are_valid(changes):
    arguments = VALID_2D | changes
    assert jaxdeconv.conv2d_transpose(**arguments).shape == tuple(arguments["output_shape"])
    assert jaxdeconv.conv3d_transpose(**VALID_3D | NCDHW).shape == tuple(NCDHW["output_shape"])


@pytest.mark.parametrize("under", [jax.jit, jax.vmap, jax.grad], ids=["jit", "vmap", "grad"])
def test_rejected_alike_under_transformations(under):
    wrap = {jax.vmap: lambda x: x[None], jax.jit: lambda x: x, jax.grad: lambda x: x}[under]
    with pytest.raises(ValueError, match=r"needs output_shape\[1\] from 7 to 8, got output_shape=\(2, 9, 2\)"):
        under(lambda x: jaxdeconv.conv1d_transpose(x, W, [2, 9, 2], 2).sum())(wrap(X))


TRACED = {
    "conv1d_transpose": {"output_shape": [2, 8, 2], "strides": 2, "dilations": [1]},
    "conv2d_transpose": {"output_shape": [2, 8, 10, 4], "strides": [2, 2], "dilations": 1, "padding": np.zeros((4, 2), int)},
    "conv3d_transpose": {"output_shape": [2, 8, 10, 2, 4], "strides": [1, 2, 2, 2, 1], "dilations": [1]},
    "conv_transpose": {"output_shape": [2, 8, 10, 4], "strides": 2, "dilations": [1, 1], "padding": np.zeros((4, 2), int)},
}


@pytest.mark.parametrize(("function", "name"), [(function, name) for function in TRACED for name in TRACED[function]])
def test_traced_arguments_that_must_be_static(function, name):
    run = jax.jit(lambda value: getattr(jaxdeconv, function)(**TABLES[function][0] | {name: value}))
    message = f"{function}: {name} must be static, since it sets shapes, got {name}=a traced int64"
    with pytest.raises(TypeError, match=re.escape(message)):
        run(jnp.array(TRACED[function][name]))


def test_a_traced_entry():
    with pytest.raises(TypeError, match="output_shape must be static"):
        jax.jit(lambda length: jaxdeconv.conv1d_transpose(X, W, [2, length, 2], 2))(8)
    with pytest.raises(TypeError, match="conv2d_transpose: padding must be static"):
        jax.jit(lambda top: jaxdeconv.conv2d_transpose(X2, W2, None, 2, [[0, 0], [top, 0], [0, 0], [0, 0]]))(1)
    with pytest.raises(TypeError, match="forward_mode must be False or True, got forward_mode=a traced bool"):
        jax.jit(lambda flag: jaxdeconv.conv1d_transpose(X, W, None, 2, forward_mode=flag))(True)


def test_no_advice_to_pass_what_was_passed():
    """output_shape=None is advised only where it would give a size."""
    with pytest.raises(ValueError, match=r"from 0 to 0, got output_shape=None; pass one of these sizes$"):
        jaxdeconv.conv2d_transpose(X2, W2, None, 2, [[0, 0], [5, 5], [0, 0], [0, 0]])


def test_strides_are_required():
    for function in TABLES:
        with pytest.raises(TypeError, match="strides"):
            getattr(jaxdeconv, function)(X, W, [2, 8, 2])


def test_long_values_are_shortened():
    with pytest.raises(TypeError) as caught:
        jaxdeconv.conv1d_transpose([0.0] * 100_000, W, [2, 8, 2], 2)
    assert len(str(caught.value)) < 500

"""TensorFlow's own answers, recorded by data/record_tensorflow.py, replayed exactly: values, gradients, valid lengths; a few live."""

import json
import math
import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv

DATA = Path(__file__).parent / "data"
CHUNKS = 12


def load():
    """The cases with their arrays, and the rows of accepted lengths."""
    with np.load(DATA / "tensorflow.npz") as file:
        recorded = dict(file)
    cases = list(map(json.loads, recorded["cases"]))
    start = dict.fromkeys(("x", "w", "g", "y", "dx", "dw"), 0)
    for case in cases:
        case["arrays"] = {}
        for kind, shape in case["shapes"].items():
            stop = start[kind] + math.prod(shape)
            case["arrays"][kind] = recorded[kind][start[kind] : stop].reshape(shape)
            start[kind] = stop
    assert all(stop == recorded[kind].size for kind, stop in start.items())
    return cases, list(map(json.loads, recorded["accepted"]))


CASES, ACCEPTED = load()


def operands(case):
    return {kind: jnp.asarray(case["arrays"][kind], case["dtype"]) for kind in ("x", "w", "g") if kind in case["arrays"]}


def answers(cases):
    """(y, dx, dw), or for int32 (y,), of each case; compiled together and hardly optimized, for compiling is all of the time."""

    def answer(case, x, w, *g):
        function = partial(jaxdeconv.conv1d_transpose, **case["arguments"])
        if not g:
            return (function(x, w),)
        y, vjp = jax.vjp(function, x, w)
        return (y, *vjp(*g))

    def every(operands):
        return [answer(case, *each) for case, each in zip(cases, operands, strict=True)]

    return jax.jit(every, compiler_options={"xla_backend_optimization_level": 0})([tuple(operands(case).values()) for case in cases])


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_values_and_gradients_equal_tensorflow(chunk):
    cases = CASES[chunk::CHUNKS]
    for case, answer in zip(cases, answers(cases), strict=True):
        expected = [case["arrays"][kind] for kind in ("y", "dx", "dw") if kind in case["arrays"]]
        for actual, recorded in zip(answer, expected, strict=True):
            assert actual.dtype == case["dtype"]
            np.testing.assert_array_equal(np.asarray(actual, np.float64), recorded, err_msg=str(case["arguments"]))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_lengths_accepted_are_those_of_tensorflow(padding):
    for row in ACCEPTED:
        if row["padding"] != padding:
            continue
        accepted = []
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, row["width"], 1), (row["kernel"], 1, 1))]
        for length in range(row["limit"]):
            function = partial(jaxdeconv.conv1d_transpose, output_shape=(1, length, 1), strides=row["stride"], padding=padding)
            try:
                y = jax.eval_shape(function, *shapes)
            except ValueError:
                continue
            assert y.shape == (1, length, 1)
            accepted.append(length)
        # Under VALID TensorFlow's size check, a division that truncates toward zero, lets an empty input pass with some lengths
        # shorter than the kernel, and the filter gradient is then uninitialized memory or a crash. Here no length is valid.
        valid = [] if padding == "VALID" and row["width"] == 0 else row["lengths"]
        assert accepted == valid, row


@pytest.mark.filterwarnings("default")  # TensorFlow's own
def test_a_sample_equals_live_tensorflow():
    pytest.importorskip("tensorflow")
    live = runpy.run_path(str(DATA / "record_tensorflow.py"))["answer"]
    cases = CASES[::40]
    for case, answer in zip(cases, answers(cases), strict=True):
        theirs = live(case, **{kind: np.asarray(operand) for kind, operand in operands(case).items()})
        for actual, expected in zip(answer, theirs, strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(np.asarray(actual), expected, err_msg=str(case["arguments"]))

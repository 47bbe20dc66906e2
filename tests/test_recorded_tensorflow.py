"""TensorFlow's own answers, recorded by data/record_tensorflow.py, replayed exactly: values, gradients, what it takes; a few live."""

import contextlib
import json
import runpy

import cases
import jax.numpy as jnp
import numpy as np
import pytest
import recorded

import jaxdeconv

CASES, RECORDED = recorded.load("tensorflow")
ACCEPTED, FORMS = (list(map(json.loads, RECORDED[name])) for name in ("accepted", "forms"))
CHUNKS = 20


def groups_of(case):
    arguments = case["arguments"]
    channels = arguments["output_shape"][1 if (arguments.get("data_format") or "N").startswith("NC") else -1]
    return channels // case["arrays"]["w"].shape[-2]


def call(case, x, w):
    """As TensorFlow is called, which has no `groups`: they follow from output_shape, and a warning says so."""
    groups = groups_of(case)
    warns = pytest.warns(UserWarning, match=f"makes {groups} groups, got") if groups > 1 else contextlib.nullcontext()
    with warns:
        return getattr(jaxdeconv, case["function"])(x, w, **case["arguments"])


@pytest.mark.parametrize("chunk", cases.sampled(range(CHUNKS), CHUNKS))
def test_values_and_gradients_equal_tensorflow(chunk):
    recorded.check(call, CASES[chunk::CHUNKS])


def test_groups_by_name_equal_tensorflow():
    grouped = [case for case in CASES if groups_of(case) > 1]
    assert len(grouped) > 40

    def named(case, x, w):
        return getattr(jaxdeconv, case["function"])(x, w, **case["arguments"], groups=groups_of(case))

    recorded.check(named, grouped[::10])


def test_the_recorded_cases_are_of_every_kind():
    """A recording that lost some would pass unseen."""
    assert {case["function"] for case in CASES} == {"conv1d_transpose", "conv2d_transpose", "conv3d_transpose", "conv_transpose"}
    two = [case["arguments"] for case in CASES if case["arrays"]["x"].ndim == 4]
    assert {np.size(arguments["strides"]) for arguments in two} == {1, 2, 4}
    assert {len(np.atleast_1d(arguments["strides"])) for case in CASES if (arguments := case["arguments"])} == {1, 2, 3, 4, 5}
    assert {arguments.get("data_format", "") for arguments in two} == {"NHWC", "NCHW", None, ""}
    assert sum(isinstance(arguments.get("padding"), list) for arguments in two) > 40


def placed(size, axis, rank, rest=1):
    """A shape, or strides or pads, with this entry at the axis."""
    return [size if each == axis else rest for each in range(rank)]


@pytest.mark.parametrize("function", ["conv1d_transpose", "conv2d_transpose"])
@pytest.mark.parametrize("named", [True, False])
def test_lengths_accepted_are_those_of_tensorflow(function, named, monkeypatch):
    monkeypatch.setattr("jaxdeconv.tf._conv_transpose", lambda x, w, geometry, _: geometry.output_shape(x.shape, w.shape))
    for row in ACCEPTED:
        if row["function"] != function or isinstance(row["padding"], str) != named:
            continue
        axis, rank, padding = row["axis"], row["rank"], row["padding"]
        operands = placed(row["width"], axis, rank), [*placed(row["kernel"], axis, rank)[1:-1], 1, 1]
        x, w = map(jnp.zeros, operands)
        arguments = {
            "strides": placed(row["stride"], axis, rank),
            "padding": padding if named else placed(padding, axis, rank, [0, 0]),
        }
        accepted = []
        for length in range(row["limit"]):
            shape = placed(length, axis, rank)
            try:
                y_shape = getattr(jaxdeconv, function)(x, w, shape, **arguments)
            except ValueError:
                continue
            assert y_shape == tuple(shape)
            accepted.append(length)
        # Unless under SAME TensorFlow's size check, a division that truncates toward zero, lets an empty input pass with some lengths
        # shorter than the kernel, and the filter gradient is then uninitialized memory or a crash. Here no length is valid.
        valid = [] if padding != "SAME" and row["width"] == 0 else row["lengths"]
        assert accepted == valid, row


def test_forms_accepted_are_those_of_tensorflow():
    x, w = jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 2, 3))
    for row in FORMS:
        try:
            jaxdeconv.conv2d_transpose(x, w, **row["arguments"])
            accepted = True
        except (ValueError, TypeError):
            accepted = False
        # TensorFlow's op also takes the spatial sizes alone, for which tf.nn.conv2d_transpose documents no meaning.
        wanted = row["accepted"] and row["arguments"]["output_shape"] != [4, 4]
        # -1 for the batch is taken here, and in TensorFlow by oneDNN's kernels; these answers are of others.
        wanted = wanted or row["arguments"]["output_shape"] == [-1, 4, 4, 2]
        assert accepted == wanted, row


@pytest.mark.filterwarnings("default")  # TensorFlow's own
def test_a_sample_equals_live_tensorflow():
    pytest.importorskip("tensorflow")
    live = runpy.run_path(str(recorded.DATA / "record_tensorflow.py"))["answer"]
    cases = CASES[::50]
    for case, answer in zip(cases, recorded.answers(call, cases), strict=True):
        theirs = live(case, **{kind: np.asarray(operand) for kind, operand in recorded.operands(case, case["dtype"]).items()})
        for actual, expected in zip(answer, theirs, strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(np.asarray(actual), expected, err_msg=str(case["arguments"]))

"""Recorded answers of other frameworks: how the scripts in data/ store them, and how tests replay them. None is imported here.

All operands and cotangents are integers, so that every answer is one and every comparison exact, in any dtype and order of summation.
A case is a dict: `arrays`, by name, and whatever else says what the call was, as JSON can hold it. By convention the operands are
named x, w and perhaps b, the result y, a cotangent of it g, and the cotangents of the operands dx, dw and db.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

DATA = Path(__file__).parent / "data"


def save(name, cases, **more):
    """Writes data/{name}.npz: all arrays flattened and concatenated as int16, a JSON text per case, and whatever more there is."""
    flat, texts = [], []
    for case in cases:
        arrays = case["arrays"]
        for each in arrays.values():
            integers = np.asarray(each).astype(np.int16)
            assert np.array_equal(integers.astype(np.float64), np.asarray(each).astype(np.float64)), case
            flat.append(integers.ravel())
        texts.append(json.dumps(case | {"arrays": {key: list(np.shape(each)) for key, each in arrays.items()}}))
    np.savez_compressed(DATA / f"{name}.npz", values=np.concatenate(flat), cases=texts, **more)


def load(name):
    """The cases, with their arrays as int16, and all that is in the file."""
    with np.load(DATA / f"{name}.npz") as file:
        recorded = dict(file)
    cases, start = list(map(json.loads, recorded["cases"])), 0
    for case in cases:
        for key, shape in case["arrays"].items():
            stop = start + math.prod(shape)
            case["arrays"][key] = recorded["values"][start:stop].reshape(shape)
            start = stop
    assert start == recorded["values"].size
    return cases, recorded


def operands(case, dtype="float32"):
    """The operands and, where there is one, the cotangent, as jax arrays."""
    return {key: jnp.asarray(case["arrays"][key], dtype) for key in ("x", "w", "b", "g") if key in case["arrays"]}


def answers(function, cases, dtype="float32"):
    """For each case (y, *cotangents) of function(case, x, w[, b]); compiled together, hardly optimized: compiling takes the time."""

    def answer(case, x, w, b=None, g=None):
        arguments = (x, w) if b is None else (x, w, b)
        if g is None:
            return (function(case, *arguments),)
        y, vjp = jax.vjp(lambda *arguments: function(case, *arguments), *arguments)
        return (y, *vjp(g))

    def every(several):
        return [answer(case, **each) for case, each in zip(cases, several, strict=True)]

    several = [operands(case, case.get("dtype", dtype)) for case in cases]
    return jax.jit(every, compiler_options={"xla_backend_optimization_level": 0})(several)


def check(function, cases, dtype="float32"):
    """Replays all cases: y and every cotangent must be equal."""
    for case, results in zip(cases, answers(function, cases, dtype), strict=True):
        names = [key for key in ("y", "dx", "dw", "db") if key in case["arrays"]]
        for name, actual in zip(names, results, strict=True):
            expected = case["arrays"][name]
            assert actual.dtype == case.get("dtype", dtype)
            note = str({key: value for key, value in case.items() if key != "arrays"})
            np.testing.assert_array_equal(np.asarray(actual, np.float64), expected, strict=False, err_msg=f"{name} of {note}")
            assert actual.shape == expected.shape

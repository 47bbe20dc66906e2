"""Writes keras.npz, beside this file: the answers of Keras's JAX backend, which test_keras.py replays.

Run it with Keras, JAX and TensorFlow installed: python tests/data/record_keras.py
It ends by asking Keras's TensorFlow backend the same, in a process of its own, since a process has one backend. Each case then says
whether that one agrees, refuses, or (of which there is none) differs.

The file is as recorded.save of the tests has it: operands and cotangents are integers. Every second case has dx and dw, the gradients
of sum(y * g).
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

ARGUMENTS = ("strides", "padding", "output_padding", "data_format", "dilation_rate")


def answer(case, x, w):
    """Keras's y, on the backend that the process has."""
    import keras  # here, because pytest's search for doctests imports this file where there is none

    return keras.ops.conv_transpose(x, w, **{name: case[name] for name in ARGUMENTS if name in case})


def all_cases(rng):
    """Every (kernel, stride, padding) in 1-D with several output_padding; 2-D, 3-D and other dtypes drawn at random."""

    def draw(options):
        return options[rng.integers(len(options))]

    def case(n, kernel, dtype="float32", **arguments):
        channels = draw(((1, 1), (2, 1), (1, 3), (2, 3)))
        size = [int(each) for each in rng.integers(1, 5, n)]
        if arguments.get("data_format") == "channels_first":
            x = (draw((1, 2)), channels[0], *size)
        else:
            x = (draw((1, 2)), *size, channels[0])
        return {"dtype": dtype, "x": x, "w": (*kernel, channels[1], channels[0])} | arguments

    formats = ({}, {"data_format": "channels_last"}, {"data_format": "channels_first"}, {"data_format": None})
    for k, s, padding in itertools.product(range(1, 6), range(1, 5), ("valid", "same")):
        for p in (None, *sorted({0, s - 1, s + 1})):
            more = draw(formats) | ({} if p is None else {"output_padding": p})
            yield case(1, (k,), strides=s, padding=padding, **more)
        p = draw((None, *range(s + 2)))
        yield case(1, (k,), strides=s, padding=padding.upper(), output_padding=p, dilation_rate=draw((2, 3)), **draw(formats))
    for n, count in ((2, 40), (3, 10)):
        for _ in range(count):

            def several(options, n=n):
                return draw((draw(options), [draw(options) for _ in range(n)]))

            kernel = [draw((1, 2, 3, 4)[: 6 - n]) for _ in range(n)]
            chosen = {"strides": several((1, 2, 3)), "padding": draw(("valid", "same", "Same")), "dilation_rate": several((1, 1, 2))}
            yield case(n, kernel, **chosen, output_padding=draw((None, several((0, 1, 2)))), **draw(formats))
    for dtype, padding in itertools.product(("float16", "bfloat16", "int32"), ("valid", "same")):
        yield case(1, (3,), dtype, strides=2, padding=padding)
    yield {"dtype": "float32", "x": (2, 4, 1), "w": (3, 2, 1)}  # Keras's defaults


def record():
    import jax
    import keras
    import recorded

    assert keras.backend.backend() == "jax"
    rng = np.random.default_rng(0)
    cases = []
    for case in all_cases(rng):
        print(f"\rcase {len(cases) + 1}", end="", flush=True)
        arrays = {name: rng.integers(-4, 5, case.pop(name)) for name in ("x", "w")}
        operands = [jax.numpy.asarray(each, case["dtype"]) for each in arrays.values()]
        if case["dtype"] == "int32" or len(cases) % 2:  # no gradient of integers, and half the others to save time in replays
            arrays["y"] = answer(case, *operands)
        else:
            y, vjp = jax.vjp(lambda x, w, case=case: answer(case, x, w), *operands)
            arrays["g"] = rng.integers(-4, 5, y.shape)
            arrays["y"] = y
            arrays["dx"], arrays["dw"] = vjp(jax.numpy.asarray(arrays["g"], case["dtype"]))
        cases.append(case | {"arrays": arrays})
    recorded.save("keras", cases, keras_version=keras.__version__, jax_version=jax.__version__)
    verdicts = json.loads(
        subprocess.run(
            [sys.executable, __file__], env=os.environ | {"KERAS_BACKEND": "tensorflow"}, check=True, capture_output=True, text=True
        ).stdout
    )
    for case, verdict in zip(cases, verdicts, strict=True):
        case["tensorflow"] = verdict
    recorded.save("keras", cases, keras_version=keras.__version__, jax_version=jax.__version__)
    counts = {verdict: verdicts.count(verdict) for verdict in ("agrees", "refuses", "differs")}
    print(f"\n{len(cases)} cases; TensorFlow's backend: {counts}; {(recorded.DATA / 'keras.npz').stat().st_size} bytes")


def confirm():
    """Prints, for each case of the file, what the TensorFlow backend makes of it; compiled, since only XLA dilates on CPU."""
    import recorded
    import tensorflow as tf

    verdicts = []
    for case in recorded.load("keras")[0]:
        x, w = (tf.cast(case["arrays"][name], case["dtype"]) for name in ("x", "w"))
        try:
            y = tf.function(lambda x, w, case=case: answer(case, x, w), jit_compile=True)(x, w)
            verdicts.append("agrees" if np.array_equal(y.numpy().astype(float), case["arrays"]["y"]) else "differs")
        except (tf.errors.OpError, ValueError, TypeError):
            verdicts.append("refuses")
    print(json.dumps(verdicts))


if __name__ == "__main__":
    record() if os.environ["KERAS_BACKEND"] == "jax" else confirm()

"""Writes tensorflow.npz, beside this file: TensorFlow's own answers, which test_recorded_tensorflow.py replays.

Run it with TensorFlow installed: python tests/data/record_tensorflow.py

The file holds the two versions, and:
- `cases`: one JSON text per case: the dtype, the shape of each array, and the other arguments of tf.nn.conv1d_transpose.
- `x`, `w`, `g`, `y`, `dx`, `dw`: these arrays of all cases, flattened and concatenated in the order of `cases`. All values are
  integers, so every comparison is exact. dx and dw are the gradients of sum(y * g); int32 has none, so no g either.
- `accepted`: one JSON text per (padding, kernel, stride, width): which output lengths below `limit` TensorFlow's eager op takes.
"""

import itertools
import json
import os
from functools import partial
from pathlib import Path

import numpy as np

# Before TensorFlow is imported: oneDNN aborts the process on some invalid shapes, where Eigen raises.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

PADDINGS, DATA_FORMATS = ("SAME", "VALID"), ("NWC", "NCW")
STRIDES = (1, 2, 3, 5)
CHANNELS = ((1, 1, 1), (3, 2, 1), (4, 2, 2), (2, 6, 2), (6, 3, 3), (3, 3, 3), (2, 4, 2))  # in, out, groups; the last two depthwise
DTYPES = ("float16", "bfloat16", "float64", "int32")


def full_size(width, kernel, stride, dilation=1):
    return (width - 1) * stride + (kernel - 1) * dilation + 1


def output_lengths(width, kernel, stride, dilation, padding):
    """Every length from which a convolution of these arguments returns to the width."""
    full = full_size(width, kernel, stride, dilation)
    return range((width - 1) * stride + 1, width * stride + 1) if padding == "SAME" else range(full, full + stride)


def make_cases(batch, width, channels, kernel, stride, dilation, padding, data_format, dtype="float32"):
    """One case for every valid output length."""
    in_channels, out_channels, groups = channels
    for length in output_lengths(width, kernel, stride, dilation, padding):
        x, y = (batch, width, in_channels), (batch, length, out_channels)
        if data_format == "NCW":
            x, y = ((shape[0], shape[2], shape[1]) for shape in (x, y))
        w = (kernel, out_channels // groups, in_channels)
        gradients = {} if dtype == "int32" else {"g": y, "dx": x, "dw": w}
        arguments = {"output_shape": y, "strides": stride, "padding": padding, "data_format": data_format, "dilations": dilation}
        yield {"dtype": dtype, "shapes": {"x": x, "w": w, "y": y, **gradients}, "arguments": arguments}


def all_cases(rng):
    """Three geometries for each padding, kernel and stride, with sizes, layout and groups drawn at random; then the other dtypes."""

    def draw(options):
        return options[rng.integers(len(options))]

    for padding, kernel, stride in itertools.product(PADDINGS, range(1, 6), STRIDES):
        # The first is for the eager op, which takes no NCW, groups or dilations on CPU, and confirms XLA's answers.
        for channels, dilation, data_format in (
            ((3, 2, 1), 1, "NWC"),
            (draw(CHANNELS), 1, draw(DATA_FORMATS)),
            (draw(CHANNELS), draw((2, 3)), draw(DATA_FORMATS)),
        ):
            yield from make_cases(draw((1, 2)), draw(range(1, 6)), channels, kernel, stride, dilation, padding, data_format)
    # No sum here exceeds 256, up to which bfloat16 has every integer: beyond, Eigen and XLA round partial sums, and oneDNN does not.
    for dtype, padding in itertools.product(DTYPES, PADDINGS):
        yield from make_cases(2, 3, (3, 2, 1), 5, 2, 1, padding, "NWC", dtype)
        yield from make_cases(2, 4, (4, 2, 2), 3, 2, 2, padding, "NCW", dtype)


def answer(case, x, w, g=None, xla=True):
    """TensorFlow's y or, with a cotangent, (y, dx, dw), as numpy arrays. XLA is what takes NCW, dilations and groups on CPU."""
    import tensorflow as tf  # here, because pytest's search for doctests imports this file where there is none

    tf.get_logger().setLevel("ERROR")  # it advises against one tf.function per shape

    def function(x, w, *g):
        with tf.GradientTape() as tape:
            tape.watch([x, w] if g else [])
            y = tf.nn.conv1d_transpose(x, w, **case["arguments"])
        return (y, *tape.gradient(y, (x, w), *g)) if g else (y,)

    operands = [tf.cast(operand, case["dtype"]) for operand in ((x, w) if g is None else (x, w, g))]
    return [array.numpy() for array in (tf.function(function, jit_compile=True) if xla else function)(*operands)]


def accepts(padding, kernel, stride, width, length):
    """Whether TensorFlow's eager op takes the output length."""
    import tensorflow as tf

    x, w = tf.zeros((1, width, 1)), tf.zeros((kernel, 1, 1))
    try:
        tf.nn.conv1d_transpose(x, w, (1, length, 1), stride, padding)
    except (tf.errors.InvalidArgumentError, ValueError):
        return False
    return True


def as_int16(array):
    integers = array.astype(np.int16)
    assert np.array_equal(integers.astype(np.float64), array.astype(np.float64))
    return integers


def main():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    cases, confirmed = list(all_cases(rng)), 0
    recorded = {kind: [] for kind in ("x", "w", "g", "y", "dx", "dw")}
    for number, case in enumerate(cases):
        print(f"\rcase {number + 1} of {len(cases)}", end="", flush=True)
        shapes, arguments = case["shapes"], case["arguments"]
        operands = {kind: rng.integers(-4, 5, shapes[kind]) for kind in ("x", "w", "g") if kind in shapes}
        arrays = list(map(as_int16, answer(case, **operands)))
        if arguments["data_format"] == "NWC" and arguments["dilations"] == 1 and shapes["w"][1] == shapes["y"][2]:
            eager = answer(case, **operands, xla=False)
            assert all(map(np.array_equal, arrays, map(as_int16, eager))), case
            confirmed += 1
        for kind, array in (*operands.items(), *zip(("y", "dx", "dw"), arrays, strict=False)):
            assert array.shape == tuple(shapes[kind]), case
            recorded[kind].append(array.ravel())

    accepted = []
    for padding, kernel, stride, width in itertools.product(PADDINGS, range(1, 6), STRIDES, range(5)):
        limit = max(full_size(width, kernel, stride), 0) + 2 * stride + 3
        lengths = list(filter(partial(accepts, padding, kernel, stride, width), range(limit)))
        row = {"padding": padding, "kernel": kernel, "stride": stride, "width": width, "limit": limit, "lengths": lengths}
        accepted.append(row)

    path = Path(__file__).with_name("tensorflow.npz")
    np.savez_compressed(
        path,
        tensorflow_version=tf.__version__,
        numpy_version=np.__version__,
        cases=list(map(json.dumps, cases)),
        accepted=list(map(json.dumps, accepted)),
        **{kind: np.concatenate(arrays).astype(np.int16) for kind, arrays in recorded.items()},
    )
    probes = sum(row["limit"] for row in accepted)
    print(f"\n{len(cases)} cases, {confirmed} of them confirmed by the eager op; {len(accepted)} rows of {probes} lengths in all")
    print(f"TensorFlow {tf.__version__}, numpy {np.__version__}: {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Writes tensorflow.npz, beside this file: TensorFlow's own answers, which test_recorded_tensorflow.py replays.

Run it with TensorFlow and jax installed: PYTHONPATH=tests python tests/data/record_tensorflow.py

The file holds the two versions and, in the form of recorded.py:
- the cases: the function of tf.nn, the dtype, the other arguments, and the arrays x, w, g, y, dx, dw. All values are integers, so
  every comparison is exact. dx and dw are the gradients of sum(y * g); where TensorFlow has none, as of int32, neither is g here.
- `accepted`: one JSON text per function, padding, kernel, stride, width and axis: which output lengths below `limit` TensorFlow's
  eager op takes there, where all other sizes are 1.
- `forms`: one JSON text per call of tf.nn.conv2d_transpose: an argument, its value, and whether TensorFlow takes it.
"""

import itertools
import json
import os
from pathlib import Path

import numpy as np

# Before TensorFlow is imported: oneDNN aborts the process on some invalid shapes, where Eigen raises.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

PADDINGS = ("SAME", "VALID")
FORMATS = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}
STRIDES = (1, 2, 3, 5)
CHANNELS = ((1, 1, 1), (3, 2, 1), (4, 2, 2), (2, 6, 2), (6, 3, 3), (3, 3, 3), (2, 4, 2))  # in, out, groups; the last two depthwise
DTYPES = ("float16", "bfloat16", "float64", "int32")


def full_size(width, kernel, stride, dilation=1):
    return (width - 1) * stride + (kernel - 1) * dilation + 1


def output_lengths(width, kernel, stride, dilation, padding):
    """Every length from which a convolution of these arguments returns to the width; padding is a name, or what it adds up to."""
    if padding == "SAME":
        return range((width - 1) * stride + 1, width * stride + 1)
    first = full_size(width, kernel, stride, dilation) - (0 if padding == "VALID" else padding)
    return range(max(first, 1), first + stride)


def make_case(function, batch, spatial, channels, kernel, lengths, dtype, arguments, channels_last):
    """A case with shapes for arrays, which are to come."""
    in_channels, out_channels, groups = channels
    x, y = (
        (batch, *sizes, features) if channels_last else (batch, features, *sizes)
        for sizes, features in ((spatial, in_channels), (lengths, out_channels))
    )
    w = (*kernel, out_channels // groups, in_channels)
    gradients = {} if dtype == "int32" else {"g": y, "dx": x, "dw": w}
    return {
        "function": function,
        "dtype": dtype,
        "arguments": {"output_shape": y} | arguments,
        "arrays": {"x": x, "w": w, "y": y} | gradients,
    }


def cases_1d(rng):
    """Three geometries for each padding, kernel and stride, with sizes, layout and groups drawn at random; then the other dtypes."""

    def draw(options):
        return options[rng.integers(len(options))]

    def make(batch, width, channels, kernel, stride, dilation, padding, data_format, dtype="float32"):
        arguments = {"strides": stride, "padding": padding, "data_format": data_format, "dilations": dilation}
        for length in output_lengths(width, kernel, stride, dilation, padding):
            sizes = batch, (width,), channels, (kernel,), (length,)
            yield make_case("conv1d_transpose", *sizes, dtype, arguments, data_format == "NWC")

    for padding, kernel, stride in itertools.product(PADDINGS, range(1, 6), STRIDES):
        # The first is for the eager op, which takes no NCW, groups or dilations on CPU, and confirms XLA's answers.
        for channels, dilation, data_format in (
            ((3, 2, 1), 1, "NWC"),
            (draw(CHANNELS), 1, draw(FORMATS[1])),
            (draw(CHANNELS), draw((2, 3)), draw(FORMATS[1])),
        ):
            yield from make(draw((1, 2)), draw(range(1, 6)), channels, kernel, stride, dilation, padding, data_format)
    # No sum here exceeds 256, up to which bfloat16 has every integer: beyond, Eigen and XLA round partial sums, and oneDNN does not.
    for dtype, padding in itertools.product(DTYPES, PADDINGS):
        yield from make(2, 3, (3, 2, 1), 5, 2, 1, padding, "NWC", dtype)
        yield from make(2, 4, (4, 2, 2), 3, 2, 2, padding, "NCW", dtype)


def written(rng, values, channels_last):
    """One of the ways to write one integer per spatial dimension, as TensorFlow takes them."""
    forms = [list(values), [1, *values, 1] if channels_last else [1, 1, *values]]
    if len(set(values)) == 1:
        forms += [values[0], [values[0]]]
    return forms[rng.integers(len(forms))]


def case_nd(rng, function, ndim, padding, dilated, dtype="float32"):
    """One case in which all else is drawn at random, rectangular more often than not."""

    def draw(options):
        return options[rng.integers(len(options))]

    def each(options, equal=0.25):
        return (draw(options),) * ndim if rng.random() < equal else tuple(draw(options) for _ in range(ndim))

    data_format = draw((FORMATS[ndim][0], None, "default")) if rng.random() < 0.5 else FORMATS[ndim][1]
    channels_last = data_format != FORMATS[ndim][1]
    narrow = dtype != "float32"  # small sums, as above
    spatial = each((1, 2, 3) if ndim == 3 or narrow else (1, 2, 3, 4))
    kernel = each((1, 2) if narrow else (1, 2, 3) if ndim == 3 else (1, 2, 3, 4))
    strides, dilations = each((1, 2, 3)), each((1, 2, 3) if ndim < 3 else (1, 2)) if dilated else (1,) * ndim
    channels = draw(((2, 2, 1), (2, 2, 2)) if narrow else CHANNELS)
    arguments, pads = {}, [padding] * ndim
    if padding == "explicit":
        rows = [[int(p) for p in rng.integers(0, 4, 2)] for _ in range(ndim)]
        arguments["padding"] = [[0, 0], *rows, [0, 0]] if channels_last else [[0, 0], [0, 0], *rows]
        pads = [sum(row) for row in rows]
    elif padding == "VALID" or rng.random() < 0.5:
        arguments["padding"] = padding
    valid = [output_lengths(*sizes) for sizes in zip(spatial, kernel, strides, dilations, pads, strict=True)]
    if not all(valid):  # more explicit padding than there is to crop
        return case_nd(rng, function, ndim, padding, dilated, dtype)
    arguments["strides"] = written(rng, strides, channels_last)
    if dilated or rng.random() < 0.5:
        arguments["dilations"] = written(rng, dilations, channels_last) if dilated else draw((None, 1))
    if data_format != "default":
        arguments["data_format"] = data_format
    sizes = 1 if narrow else draw((1, 2)), spatial, channels, kernel, list(map(draw, valid))
    case = make_case(function, *sizes, dtype, arguments, channels_last)
    # TensorFlow's shape function of Conv3D, the input gradient, takes the dilation of one dimension for that of another.
    if ndim == 3 and len(set(dilations)) > 1:
        case["arrays"] = {kind: case["arrays"][kind] for kind in ("x", "w", "y")}
    return case


def cases_nd(rng):
    plans = (
        ("conv2d_transpose", 2, ("SAME", "VALID", "explicit"), 24),
        ("conv3d_transpose", 3, PADDINGS, 16),
        ("conv_transpose", 1, PADDINGS, 3),
        ("conv_transpose", 2, ("SAME", "VALID", "explicit"), 4),
        ("conv_transpose", 3, PADDINGS, 3),
    )
    for function, ndim, paddings, count in plans:
        for padding, dilated, _ in itertools.product(paddings, (False, True), range(count)):
            yield case_nd(rng, function, ndim, padding, dilated)
    for dtype, padding in itertools.product(DTYPES, ("SAME", "VALID", "explicit")):
        yield case_nd(rng, "conv2d_transpose", 2, padding, padding == "VALID", dtype)


def answer(case, x, w, g=None, xla=True):
    """TensorFlow's y or, with a cotangent, (y, dx, dw), as numpy arrays. XLA is what takes NCW, dilations and groups on CPU."""
    import tensorflow as tf  # here, because pytest's search for doctests imports this file where there is none

    tf.get_logger().setLevel("ERROR")  # it advises against one tf.function per shape

    def function(x, w, *g):
        with tf.GradientTape() as tape:
            tape.watch([x, w] if g else [])
            y = getattr(tf.nn, case["function"])(x, w, **case["arguments"])
        return (y, *tape.gradient(y, (x, w), *g)) if g else (y,)

    operands = [tf.cast(operand, case["dtype"]) for operand in ((x, w) if g is None else (x, w, g))]
    return [array.numpy() for array in (tf.function(function, jit_compile=True) if xla else function)(*operands)]


def eager_takes(case):
    """Whether TensorFlow's op for CPU is complete, and right, for this case."""
    arguments, arrays = case["arguments"], case["arrays"]
    channels_last = not str(arguments.get("data_format")).startswith("NC")
    # Its Conv3D, the input gradient, is wrong under SAME for a kernel of 1, stride 3 and length 3 * W, unlike XLA's and Conv2D.
    wrong = len(arrays["x"]) == 5 and 1 in arrays["w"][:3] and np.max(arguments["strides"]) == 3
    return channels_last and not wrong and np.all(np.equal(arguments.get("dilations") or 1, 1)) and arrays["w"][-2] == arrays["y"][-1]


def accepts(function, *arguments, **more):
    """Whether TensorFlow's eager op takes the call."""
    import tensorflow as tf

    x, w, *others = arguments
    try:
        getattr(tf.nn, function)(tf.zeros(x), tf.zeros(w), *others, **more)
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, ValueError, TypeError):
        return False
    return True


def placed(size, axis, rank, rest=1):
    """A shape, or strides or pads, with this entry at the axis."""
    return [size if each == axis else rest for each in range(rank)]


def accepted_lengths():
    """Rows of the lengths that TensorFlow takes of one dimension where all other sizes are 1."""

    def row(function, rank, axis, padding, kernel, stride, width, limit):
        def accept(length):
            x, w, y, s = (placed(size, axis, rank) for size in (width, kernel, length, stride))
            w = [*w[1:-1], 1, 1]
            return accepts(function, x, w, y, s, placed(padding, axis, rank, [0, 0]) if isinstance(padding, list) else padding)

        lengths = list(filter(accept, range(limit)))
        keys = {"function": function, "rank": rank, "axis": axis, "padding": padding, "kernel": kernel, "stride": stride}
        return keys | {"width": width, "limit": limit, "lengths": lengths}

    for padding, kernel, stride, width in itertools.product(PADDINGS, range(1, 6), STRIDES, range(5)):
        yield row("conv1d_transpose", 3, 1, padding, kernel, stride, width, max(full_size(width, kernel, stride), 0) + 2 * stride + 3)
    paddings = (*PADDINGS, [0, 0], [1, 0], [0, 1], [1, 1], [2, 3], [5, 5])
    for padding, kernel, stride, width, axis in itertools.product(paddings, range(1, 5), (1, 2, 3), range(4), (1, 2)):
        yield row("conv2d_transpose", 4, axis, padding, kernel, stride, width, max(full_size(width, kernel, stride), 0) + stride + 2)


def accepted_forms():
    """Which ways to write strides, dilations, padding and output_shape TensorFlow takes in a call that is valid with strides of 2."""
    ones = [
        1,
        [1],
        (1,),
        [1, 1],
        [1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [],
        0,
        -1,
        [0, 1],
        [1, -1],
        "1",
        ["1"],
        [[1]],
        [1, [1]],
        None,
    ]
    twos = [
        2,
        [2],
        [2, 2],
        [1, 2, 2, 1],
        [2, 2, 2],
        [1, 1, 2, 2],
        [2, 1, 1, 2],
        [1, 2, 2, 2],
        [2, 2, 2, 1],
        [2, 0],
        [-2],
        "2",
        [[2, 2]],
    ]
    pads = [
        "SAME",
        "VALID",
        "same",
        "EXPLICIT",
        "",
        [[0, 0], [0, 1], [1, 0], [0, 0]],
        [[0, 0], [0, 0], [0, 1], [1, 0]],
        [[0, 1], [1, 0], [0, 0], [0, 0]],
        [[0, 0], [0, 1], [1, 0], [0, 1]],
        [[1, 0], [0, 1], [1, 0], [0, 0]],
        [[0, 0], [-1, 2], [1, 0], [0, 0]],
        [[0, 0], [0, 1], [1, 0]],
        [[0, 1], [1, 0]],
        [[0, 0], [1], [1, 0], [0, 0]],
        [[0, 0], [0, 1, 0], [1, 0], [0, 0]],
        [0, 1, 1, 0],
        [[0, 0], ["0", 1], [1, 0], [0, 0]],
        [[0, 0], [[0], 1], [1, 0], [0, 0]],
        [],
        [[], [], [], []],
        1,
        None,
    ]
    shapes = [[1, 4, 4, 2], [1, 3, 4, 2], [1, 4, 5, 2], [2, 4, 4, 2], [1, 4, 4, 1], [1, 4, 4, 3], [1, 4, 4], [4, 4], [1, 4, 4, 2, 1]]
    shapes += [[1, 2, 4, 4], [-1, 4, 4, 2], [1, -4, 4, 2], [1, 4, 4, -1], [1, 4, 4, 0], 4, [], [[1, 4, 4, 2]], "SAME"]
    for name, values in {"strides": twos, "dilations": ones, "padding": pads, "output_shape": shapes}.items():
        for value in values:
            # where padding is explicit its size is one that fits
            arguments = {"output_shape": [1, 4, 4, 2], "strides": 2} | {name: value}
            accepted = accepts("conv2d_transpose", (1, 2, 2, 3), (3, 3, 2, 3), **arguments)
            yield {"arguments": arguments, "name": name, "accepted": accepted}


def main():
    import recorded
    import tensorflow as tf

    rng = np.random.default_rng(0)
    cases, confirmed = [*cases_1d(rng), *cases_nd(rng)], 0
    for number, case in enumerate(cases):
        print(f"\rcase {number + 1} of {len(cases)}", end="", flush=True)
        shapes = case["arrays"]
        operands = {kind: rng.integers(-4, 5, shapes[kind]) for kind in ("x", "w", "g") if kind in shapes}
        answers = answer(case, **operands)
        if eager_takes(case):
            assert all(map(np.array_equal, answers, answer(case, **operands, xla=False))), case
            confirmed += 1
        case["arrays"] = operands | dict(zip(("y", "dx", "dw"), answers, strict=False))
        assert all(array.shape == tuple(shapes[kind]) for kind, array in case["arrays"].items()), case
        case["arrays"] = {kind: case["arrays"][kind].astype(np.float64) for kind in shapes}

    accepted, forms = list(accepted_lengths()), list(accepted_forms())
    recorded.save(
        "tensorflow",
        cases,
        tensorflow_version=tf.__version__,
        numpy_version=np.__version__,
        accepted=list(map(json.dumps, accepted)),
        forms=list(map(json.dumps, forms)),
    )
    path = Path(__file__).with_name("tensorflow.npz")
    probes = sum(row["limit"] for row in accepted)
    print(f"\n{len(cases)} cases, {confirmed} of them confirmed by the eager op; {len(accepted)} rows of {probes} lengths in all")
    print(f"{len(forms)} forms, {sum(row['accepted'] for row in forms)} of them accepted")
    print(f"TensorFlow {tf.__version__}, numpy {np.__version__}: {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

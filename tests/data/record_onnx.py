"""Writes onnx.npz, beside this file: onnxruntime's own answers, and some of onnx's reference evaluator, which test_onnx.py replays.

Run it with both installed: python tests/data/record_onnx.py

Stored as tests/recorded.py says. A case holds besides its arrays the attributes of ConvTranspose, and `by`, who answered. That is
onnxruntime, but where it leaves ONNX's text: where SAME or output_shape want more samples than there are, it puts no zeros before the
first one and, under SAME, none after the last. There, under SAME and with one group, the reference evaluator of onnx answers, which
then follows the text. It does not with several groups, nor with output_shape and no SAME: the last few cases have no answer, by
nobody, and are there for the oracle. docs/onnx.md has examples of all this.
"""

import sys
from pathlib import Path

import numpy as np

CHANNELS = ((1, 1, 1), (3, 2, 1), (2, 3, 1), (4, 2, 2), (2, 6, 2), (6, 3, 3), (3, 3, 3), (2, 4, 2))  # in, out, groups
STYLES = ("NOTSET", "pads", "VALID", "SAME_UPPER", "SAME_LOWER")
SHAPED = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")  # with output_shape


def answer(attributes, x, w, b=None, reference=False):
    """The Y of one runtime, of any float dtype that it has."""
    import onnxruntime  # here, because pytest's search for doctests imports this file where there is none
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    operands = {"X": x, "W": w} | ({} if b is None else {"B": b})
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype))
    values = [helper.make_tensor_value_info(name, kind, None) for name in (*operands, "Y")]
    node = helper.make_node("ConvTranspose", list(operands), ["Y"], **attributes)
    graph = helper.make_graph([node], "graph", values[:-1], values[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    if reference:
        return ReferenceEvaluator(model).run(None, operands)[0]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it logs what it raises
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, operands)[0]


def draw_attributes(rng, style, shaped, size, kernel, stride, dilation):
    """output_padding, and pads or output_shape, of one dimension; whether onnxruntime follows the text there."""
    output_padding = int(rng.integers(stride))
    full = (size - 1) * stride + (kernel - 1) * dilation + 1 + output_padding
    if shaped:
        # More zeros than this onnxruntime does not take: a convolution of such a length would have more than size steps.
        total = int(rng.integers(1 - (stride - output_padding), min(full, 8)))
        return {"output_padding": output_padding, "output_shape": full - total}, total >= -(style != "SAME_UPPER")
    if style == "pads":
        begin = int(rng.integers(min(full, 4)))
        return {"output_padding": output_padding, "pads": (begin, int(rng.integers(min(full - begin, 4))))}, True
    return {"output_padding": output_padding}, style in ("NOTSET", "VALID") or full >= size * stride


def draw_case(rng, ndim, style, shaped):
    """The attributes and operands of a case, and whether onnxruntime follows the text."""
    in_channels, out_channels, groups = CHANNELS[rng.integers(len(CHANNELS))]
    sizes, kernel = rng.integers(1, 6 - ndim, ndim).tolist(), rng.integers(1, (6, 5, 4)[ndim - 1], ndim).tolist()
    strides, dilations = rng.integers(1, 5, ndim).tolist(), rng.choice([1, 1, 2, 3], ndim).tolist()
    drawn = [draw_attributes(rng, style, shaped, *each) for each in zip(sizes, kernel, strides, dilations, strict=True)]
    attributes = {"strides": strides}
    for name in ("output_padding", "output_shape"):
        if name in drawn[0][0] and (name == "output_shape" or rng.integers(2) or any(each[name] for each, _ in drawn)):
            attributes[name] = [each[name] for each, _ in drawn]
    if style == "pads":
        attributes["pads"] = [begin for each, _ in drawn for begin in each["pads"][:1]] + [each["pads"][1] for each, _ in drawn]
    elif style != "NOTSET" or rng.integers(2):
        attributes["auto_pad"] = style
    for name, value, default in (("dilations", dilations, [1] * ndim), ("group", groups, 1), ("kernel_shape", kernel, None)):
        if rng.integers(4) == 0 or (default is not None and value != default):
            attributes[name] = value
    shapes = {"x": (int(rng.integers(1, 3)), in_channels, *sizes), "w": (in_channels, out_channels // groups, *kernel)}
    if rng.integers(2):
        shapes["b"] = (out_channels,)
    operands = {name: rng.integers(-4, 5, shape).astype(np.float32) for name, shape in shapes.items()}
    return attributes, operands, all(follows for _, follows in drawn)


def draw_cases(rng, counts):
    """So many of each style in 1-D, 2-D and 3-D."""
    for ndim, count in enumerate(counts, 1):
        for style, shaped in (*((style, False) for style in STYLES), *((style, True) for style in SHAPED)):
            for _ in range(count):
                yield draw_case(rng, ndim, style, shaped)


def main():
    import onnx
    import onnxruntime

    sys.path.insert(0, str(Path(__file__).parent.parent))
    import recorded

    cases, counts = [], {"onnxruntime": 0, "reference": 0, "nobody": 0}
    for attributes, operands, follows in draw_cases(np.random.default_rng(0), (10, 8, 5)):
        group, auto_pad = attributes.get("group", 1), attributes.get("auto_pad", "NOTSET")
        by = "onnxruntime" if follows else "reference" if group == 1 and auto_pad.startswith("SAME") else "nobody"
        counts[by] += 1
        answers = {} if by == "nobody" else {"y": answer(attributes, **operands, reference=by == "reference")}
        cases.append({"by": by, "attributes": attributes, "arrays": operands | answers})
    recorded.save("onnx", cases, onnx_version=onnx.__version__, onnxruntime_version=onnxruntime.__version__)
    print(f"{counts} by onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()

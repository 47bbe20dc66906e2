"""What other frameworks compute for a case: its own convention's where they have it, else the full sum, of which the window is cut.

Each peer is `peer(case, window, operands)`, which returns y and the gradients that it has as arrays in the user's layout, or raises.
Those made of JAX are functions, to be compiled with a group: `traced(case, window)` returns by name f(x, w, b...).
"""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np

from campaign import calls, expected

# How often each is asked, by what a call of it takes.
SHARES = {"torch": 0.6, "onnxruntime": 0.3, "tensorflow": 0.15, "lax": 0.12, "keras": 0.06, "own": 0.2}
OURS = ("precision", "preferred_element_type", "implementation", "forward_mode")
NATIVE = {"torch": "torch", "tensorflow": "tf", "onnxruntime": "onnx", "lax": "lax", "keras": "keras", "own": "layers"}


class LacksError(Exception):
    """The framework does not compute such calls, as it is known."""


@functools.cache
def installed(name):
    """Whether a peer can be asked at all."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    needs = {"lax": ("jax",), "own": ("jax",), "keras": ("keras",), "onnxruntime": ("onnxruntime", "onnx")}
    return all(importlib.util.find_spec(module) for module in needs.get(name, (name,)))


def chosen(case, rng):
    """Which peers are asked about a case."""
    asked = []
    for name, share in SHARES.items():
        native = NATIVE[name] == case.front
        if name == "own" and not native:
            continue
        if rng.random() < share * (1.5 if native else 0.5) and installed(name):
            asked.append(name)
    return asked


def _lacks(condition, why):
    if condition:
        raise LacksError(why)


def _plain(case):
    return {name: value for name, value in case.keywords.items() if name not in OURS}


def _canonical(window, operands):
    """x, w and g in the oracle's layout."""
    return (operands[name].ravel()[at] for name, at in (("x", window.x), ("w", window.w), ("g", window.y)) if name in operands)


def _user(case, window, y, dx=None, dw=None):
    """Results in the user's layout."""
    back = expected.Sums._back
    gradients = [] if dx is None else [back(window.x, dx, case.x), back(window.w, dw, case.w)]
    return [back(window.y, y, window.y_shape), *gradients]


def _ends(window):
    """What is added to both ends of the full sum of each dimension; negative where it is cut."""
    rows = zip(
        window.x.shape[1:-1],
        window.w.shape[:-2],
        window.strides,
        window.dilations,
        window.crops,
        window.y.shape[1:-1],
        strict=True,
    )
    return [(-c, c + length - (size - 1) * s - (k - 1) * d - 1) for size, k, s, d, c, length in rows]


def _no_empties(window):
    n = len(window.strides)
    _lacks(not 1 <= n <= 3, "dimensions")
    _lacks(0 in (*window.x.shape, *window.w.shape, *window.y.shape), "empty")
    rows = zip(_ends(window), window.y.shape[1:-1], strict=True)
    _lacks(any(length <= max(lo, 0) or length <= max(hi, 0) for (lo, hi), length in rows), "a window of zeros")


def torch(case, window, operands):
    """PyTorch, on CPU."""
    import torch

    _no_empties(window)
    n, native = len(window.strides), case.front == "torch"
    dtype = getattr(torch, case.dtype) if case.differentiable else torch.int64

    def tensor(a):
        a = np.ascontiguousarray(a)
        a = a.astype(np.float32) if a.dtype.name == "bfloat16" else a
        return torch.from_numpy(a).to(dtype).requires_grad_(case.differentiable)

    bias = [operands["b"]] if "b" in operands else []
    if native:
        x, w, *b = map(tensor, (operands["x"], operands["w"], *bias))
        given = _plain(case)
        if given.pop("output_size", None) is not None:  # an argument of its layers, which pass on what the size means
            given["output_padding"] = [hi - lo for lo, hi in _ends(window)]
        y = getattr(torch.nn.functional, case.function)(x, w, *b, **given)
    else:
        cx, cw, *_ = _canonical(window, operands)
        x, w, b = tensor(np.moveaxis(cx, -1, 1)), tensor(np.moveaxis(cw, (-1, -2), (0, 1))), []
        how = {"stride": window.strides, "dilation": window.dilations, "groups": window.groups}
        full = getattr(torch.nn.functional, f"conv_transpose{n}d")(x, w, **how)
        y = torch.nn.functional.pad(full, [end for ends in reversed(_ends(window)) for end in ends])

    def array(t):
        t = t.detach().resolve_conj()
        return (t.to(torch.float32) if t.dtype == torch.bfloat16 else t).numpy()

    gradients = []
    if case.differentiable:
        g = operands["g"] if native else np.moveaxis(list(_canonical(window, operands))[-1], -1, 1)
        g = tensor(g).detach().conj().resolve_conj()  # of complex numbers, PyTorch's cotangents are the conjugates
        gradients = [array(a.conj()) for a in torch.autograd.grad(y, (x, w, *b), g)]
    if native:
        return [array(y), *gradients]
    if gradients:
        gradients = [np.moveaxis(gradients[0], 1, -1), np.moveaxis(gradients[1], (0, 1), (-1, -2))]
    return _with_bias(case, window, operands, _user(case, window, np.moveaxis(array(y), 1, -1), *gradients))


def _with_bias(case, window, operands, results):
    """Peers that compute the product alone."""
    if "b" in operands:
        spread = expected.Sums(window).spread(operands["b"])
        results = [results[0] + spread.astype(results[0].dtype), *results[1:]]
    return results


def tensorflow(case, window, operands):
    """TensorFlow, eagerly, on CPU."""
    import tensorflow as tf

    _no_empties(window)
    _lacks(case.dtype not in ("float16", "bfloat16", "float32", "float64"), "dtype")
    _lacks(set(window.dilations) != {1}, "dilations on CPU")
    _lacks(window.groups > 1, "groups on CPU")
    _lacks(case.dtype == "bfloat16" and len(window.strides) == 3, "bfloat16 in three dimensions")
    native = case.front in ("tf", "sharded") and case.keywords["output_shape"] is not None
    given = {name: value for name, value in _plain(case).items() if name not in ("name", "groups")}
    _lacks(native and (given.get("data_format") or "N")[:2] == "NC", "channels first on CPU")
    _lacks(
        native and len(case.x) != 4 and not isinstance(given.get("padding", ""), str), "explicit padding in one and three dimensions"
    )
    if native:
        given["output_shape"] = window.y_shape  # for the -1 of its batch, which not all of its kernels take
    x, w, g = (operands[name] for name in "xwg") if native else _canonical(window, operands)
    x, w, g = map(tf.constant, (x, w, g))
    with tf.GradientTape() as tape:
        tape.watch((x, w))
        if native:
            y = getattr(tf.nn, case.function)(x, w, **given)
        else:
            n = len(window.strides)
            rows = zip(window.x.shape[1:-1], window.w.shape[:-2], window.strides, strict=True)
            full = [(size - 1) * s + k for size, k, s in rows]
            y = tf.nn.conv_transpose(x, w, [x.shape[0], *full, window.y.shape[-1]], [1, *window.strides, 1], "VALID")
            ends = _ends(window)
            y = tf.pad(y, [[0, 0], *([max(lo, 0), max(hi, 0)] for lo, hi in ends), [0, 0]])
            starts = [max(-lo, 0) for lo, _ in ends]
            y = tf.slice(y, [0, *starts, 0], [y.shape[0], *window.y.shape[1 : n + 1], y.shape[-1]])
    dx, dw = tape.gradient(y, (x, w), output_gradients=g)
    results = [a.numpy() for a in (y, dx, dw)]
    return results if native else _with_bias(case, window, operands, _user(case, window, *results))


def onnxruntime(case, window, operands):
    """ONNX Runtime, on CPU; it has no gradients."""
    import onnx
    import onnxruntime as runtime

    _no_empties(window)
    _lacks(case.dtype != "float32", "dtype")
    native = case.front == "onnx"
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in _plain(case).items()}
    # Where it is known to depart from the text of ONNX.
    _lacks(native and given.get("auto_pad", "NOTSET") != "NOTSET", "auto_pad")
    _lacks(native and "output_shape" in given and any(hi > 0 for _, hi in _ends(window)), "zeros past the end")
    if not native:
        given = {"strides": list(window.strides), "dilations": list(window.dilations), "group": window.groups}
    x, w, *_ = (operands["x"], operands["w"]) if native else _canonical(window, operands)
    if not native:
        x, w = np.ascontiguousarray(np.moveaxis(x, -1, 1)), np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))
    feeds = {"X": x, "W": w} | ({"B": operands["b"]} if native and "b" in operands else {})
    kind = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("ConvTranspose", list(feeds), ["Y"], **given)
    inputs = [onnx.helper.make_tensor_value_info(name, kind, a.shape) for name, a in feeds.items()]
    graph = onnx.helper.make_graph([node], "g", inputs, [onnx.helper.make_tensor_value_info("Y", kind, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    y = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    if native:
        return [y]
    ends = [(0, 0), (0, 0), *_ends(window)]
    y = np.pad(y, [(max(lo, 0), max(hi, 0)) for lo, hi in ends])
    y = y[tuple(slice(max(-lo, 0), size - max(-hi, 0)) for (lo, hi), size in zip(ends, y.shape, strict=True))]
    return _with_bias(case, window, operands, _user(case, window, np.moveaxis(y, 1, -1)))


EAGER = {"torch": torch, "tensorflow": tensorflow, "onnxruntime": onnxruntime}


def traced(name, case, window):
    """A peer that is made of JAX: f(x, w, *b), in the user's layout."""
    if name == "own":
        function = calls.theirs(case)
        _lacks(function is None, "a feature")
        return function
    if name == "lax" and case.front == "lax":
        given = calls.keywords(case)
        _lacks(given.pop("feature_group_count", 1) > 1, "groups")
        for ours in OURS[2:]:
            given.pop(ours, None)
        given["strides"] = (given["strides"],) * (len(case.x) - 2) if isinstance(given["strides"], int) else given["strides"]
        if isinstance(given.get("rhs_dilation"), int):
            given["rhs_dilation"] = (given["rhs_dilation"],) * (len(case.x) - 2)
        return lambda x, w: jax.lax.conv_transpose(x, w, **given)
    _lacks(bool(case.keywords.get("preferred_element_type")) and (name, case.front) != ("lax", "lax"), "dtype of the result")
    if name == "keras" and case.front == "keras":
        _lacks("groups" in case.keywords, "groups")
        import keras

        return lambda x, w: keras.ops.conv_transpose(x, w, **_plain(case))

    n = len(window.strides)
    _lacks(window.groups > 1, "groups")
    _lacks(not 1 <= n <= 3, "dimensions")
    _lacks(0 in window.x.shape, "empty")
    ends = _ends(window)

    def canonical(x, w):
        if name == "lax":
            reach = [(k - 1) * d for k, d in zip(window.w.shape[:-2], window.dilations, strict=True)]
            pads = [(ke + lo, ke + hi) for ke, (lo, hi) in zip(reach, ends, strict=True)]
            how = {"rhs_dilation": window.dilations, "transpose_kernel": True}
            return jax.lax.conv_transpose(x, w, window.strides, pads, **how)
        import keras

        y = keras.ops.conv_transpose(x, w, window.strides, "valid", 0, "channels_last", window.dilations)
        return jax.lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in ends), (0, 0, 0)])

    def f(x, w, *b):
        y = canonical(x.ravel()[window.x], w.ravel()[window.w])
        y = jnp.zeros(int(np.prod(window.y_shape)), y.dtype).at[window.y].add(y).reshape(window.y_shape)
        for bias in b:
            shape = [1] * y.ndim
            shape[window.channel] = bias.size
            y = y + bias.reshape(shape)
        return y

    return f

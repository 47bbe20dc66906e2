"""The frameworks that are timed: for each, how a Layer is computed there, from operands in the layout that suits it best.

A builder takes a Layer, the name of a dtype and operands x [B, *W, I], w [*k, O / groups, I] and g [B, *L, O], float numpy arrays,
and gives a Peer, or None where the framework cannot do the layer. All conversion is before the timing, none in it.
"""

import functools
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdeconv
import jaxdeconv.lax
import jaxdeconv.torch
from benchmarks.layers import Layer

MODES = ("forward", "train")
_LETTERS = "DHW"


class Peer(NamedTuple):
    """Callables that compute y, or (y, dx, dw), and wait for it; train is None where there are no gradients."""

    forward: Callable[[], Any]
    train: Callable[[], Any] | None
    activation: Callable[[Any], np.ndarray]  # of what they return, to [B, *L, O]
    filter: Callable[[Any], np.ndarray]  # and to [*k, O / groups, I]
    jitted: Mapping[str, tuple[Any, tuple[Any, ...]]] = {}  # by mode, the jitted function of JAX and its arguments

    def results(self, mode: str) -> dict[str, np.ndarray]:
        """What one call computes, in the common layouts."""
        if mode == "forward":
            return {"y": self.activation(self.forward())}
        y, dx, dw = self.train()
        return {"y": self.activation(y), "dx": self.activation(dx), "dw": self.filter(dw)}


Builder = Callable[[Layer, str, np.ndarray, np.ndarray, np.ndarray], Peer | None]


def operands(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and g, the same on every call, scaled for results of order one."""
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(layer.in_channels / layer.groups)
    x, w, g = (rng.standard_normal(shape, np.float32) for shape in (layer.x_shape, layer.w_shape, layer.y_shape))
    return x, w * np.float32(scale), g


def transposed(layer: Layer, channels_last: bool = True, **keywords: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """jaxdeconv on x, and w [*k, O / groups, I]."""
    letters = _LETTERS[-layer.ndim :]
    activations = f"N{letters}C" if channels_last else f"NC{letters}"

    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        return jaxdeconv.lax.conv_transpose(
            x,
            w,
            layer.strides,
            layer.padding,
            layer.dilations,
            (activations, f"{letters}IO", activations),
            transpose_kernel=True,
            use_consistent_padding=True,
            feature_group_count=layer.groups,
            **keywords,
        )

    return function


def lax_transposed(layer: Layer) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What lax.conv_transpose and the layers of flax, haiku, equinox and keras lower to; the filter as flax stores it."""
    letters = _LETTERS[-layer.ndim :]
    effective = [(k - 1) * d + 1 for k, d in zip(layer.kernel, layer.dilations, strict=True)]

    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            w,
            window_strides=(1,) * layer.ndim,
            padding=[(ke - 1 - lo, ke - 1 - hi) for ke, (lo, hi) in zip(effective, layer.padding, strict=True)],
            lhs_dilation=layer.strides,
            rhs_dilation=layer.dilations,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            feature_group_count=layer.groups,
        )

    return function


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    def train(x: jax.Array, w: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        y, vjp = jax.vjp(function, x, w)
        return (y, *vjp(g))

    return train


def _jax_peer(function, dtype, x, w, g, activation, filter):
    """A Peer of a JAX function, its operands on the device and arguments of what is jitted."""
    x, w, g = (jax.device_put(jnp.asarray(each, dtype)) for each in (x, w, g))
    jitted = {"forward": (jax.jit(function), (x, w)), "train": (jax.jit(with_gradients(function)), (x, w, g))}
    calls = [lambda f=f, arguments=arguments: jax.block_until_ready(f(*arguments)) for f, arguments in jitted.values()]
    return Peer(*calls, activation, filter, jitted)


def _array(a: Any) -> np.ndarray:
    return np.asarray(a, np.float64)


def build_jaxdeconv(layer, dtype, x, w, g):
    return _jax_peer(transposed(layer), dtype, x, w, g, _array, _array)


def build_channels_first(layer, dtype, x, w, g):
    x, g = channels_first(x), channels_first(g)
    return _jax_peer(transposed(layer, channels_last=False), dtype, x, w, g, lambda a: _last(_array(a)), _array)


def build_lax(layer, dtype, x, w, g):
    to_lax = functools.partial(jaxdeconv.convert_filters, source="tf", target="lax", groups=layer.groups)
    to_tf = functools.partial(jaxdeconv.convert_filters, source="lax", target="tf", groups=layer.groups)
    return _jax_peer(lax_transposed(layer), dtype, x, np.asarray(to_lax(w)), g, _array, lambda a: _array(to_tf(a)))


def tf32(dtype: str) -> bool:
    """Whether JAX may round float32 operands to TF32, as it does on a GPU by default."""
    return jax.default_backend() == "gpu" and dtype == "float32" and jax.config.jax_default_matmul_precision is None


def channels_first(a: np.ndarray) -> np.ndarray:
    """Of channels last."""
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def _last(a: np.ndarray) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(a, 1, -1)


def _torch_filter(w: np.ndarray) -> np.ndarray:
    """[*k, O / groups, I] to [I, O / groups, *k]."""
    return np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))


def _tf_filter(w: np.ndarray) -> np.ndarray:
    """The way back."""
    return np.moveaxis(w, (0, 1), (-1, -2))


def _torch_window(strides, dilations, crops):
    """padding and output_padding, and what is sliced off afterwards, as models with such layers do it; None if nothing fits."""
    extra = [lo - hi if 0 < lo - hi < max(s, d) else 0 for (lo, hi), s, d in zip(crops, strides, dilations, strict=True)]
    pads = [lo if op else min(lo, hi) for (lo, hi), op in zip(crops, extra, strict=True)]
    # Each dimension now starts lo - pad too early and, where no output_padding was added, ends hi - pad too late.
    kept = [slice(lo - p, None if op or hi == p else p - hi) for (lo, hi), p, op in zip(crops, pads, extra, strict=True)]
    return None if any(p < 0 for p in pads) else (pads, extra, (slice(None), slice(None), *kept))


def build_jaxdeconv_torch(layer, dtype, x, w, g):
    """`jaxdeconv.torch`, in torch's layouts of activations and filters."""
    if (window := _torch_window(layer.strides, layer.dilations, layer.padding)) is None:
        return None
    pads, extra, index = window
    convolution = getattr(jaxdeconv.torch, f"conv_transpose{layer.ndim}d")

    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        return convolution(x, w, None, layer.strides, pads, extra, layer.groups, layer.dilations)[index]

    return _jax_peer(
        function,
        dtype,
        channels_first(x),
        _torch_filter(w),
        channels_first(g),
        lambda a: _last(_array(a)),
        lambda a: _tf_filter(_array(a)),
    )


def build_torch(layer, dtype, x, w, g, channels_last=False):
    """PyTorch. Crops that padding and output_padding cannot express are sliced off."""
    torch = importlib.import_module("torch")
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    if jax.default_backend() != ("gpu" if on_gpu else "cpu"):
        return None
    if on_gpu:
        torch.backends.cudnn.benchmark = True  # times cuDNN's algorithms and takes the fastest, as XLA does
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32(dtype)
    x, w, g = channels_first(x), _torch_filter(w), channels_first(g)
    strides, dilations, crops = layer.strides, layer.dilations, layer.padding
    unit = channels_last and layer.ndim == 1  # the format exists from two dimensions on
    if unit:
        x, w, g = (np.expand_dims(each, 2) for each in (x, w, g))
        strides, dilations, crops = (1, *strides), (1, *dilations), ((0, 0), *crops)
    if (window := _torch_window(strides, dilations, crops)) is None:
        return None
    pads, extra, index = window

    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last_3d if layer.ndim == 3 else torch.channels_last

    def tensor(a):
        return torch.from_numpy(a).to(getattr(torch, dtype)).to("cuda" if on_gpu else "cpu", memory_format=memory_format)

    x, w, g = map(tensor, (x, w, g))
    x_leaf, w_leaf = x.clone().requires_grad_(), w.clone().requires_grad_()
    convolution = getattr(torch.nn.functional, f"conv_transpose{len(strides)}d")

    def forward(x, w):
        return convolution(x, w, None, strides, pads, extra, layer.groups, dilations)[index]

    def wait(result):
        if on_gpu:
            torch.cuda.synchronize()
        return result

    def infer():
        with torch.inference_mode():
            return wait(forward(x, w))

    def train():
        y = forward(x_leaf, w_leaf)
        return wait((y, *torch.autograd.grad(y, (x_leaf, w_leaf), g)))

    def numpy(a):
        a = a.detach().double().cpu().numpy()
        return a[:, :, 0] if unit else a

    return Peer(infer, train, lambda a: _last(numpy(a)), lambda a: _tf_filter(numpy(a)))


def build_tensorflow(layer, dtype, x, w, g):
    """TensorFlow, which on CPU has neither groups nor dilations. Where padding is not SAME, the window is sliced out of VALID."""
    if layer.groups > 1 or set(layer.dilations) != {1}:
        return None
    tf = importlib.import_module("tensorflow")
    full = [(w - 1) * s + k for w, k, s in zip(layer.size, layer.kernel, layer.strides, strict=True)]
    lengths = layer.y_shape[1:-1]
    rows = list(zip(layer.size, lengths, full, layer.strides, layer.padding, strict=True))
    same = all(length == w * s and lo == max(f - length, 0) // 2 for w, length, f, s, (lo, _) in rows)
    if not same and any(min(crop) < 0 for crop in layer.padding):
        return None
    shape = layer.y_shape if same else (layer.batch, *full, layer.out_channels)
    begin = [0, *((0 if same else lo) for lo, _ in layer.padding), 0]
    x, w, g = (tf.constant(each, dtype) for each in (x, w, g))

    @tf.function
    def forward(x, w):
        y = tf.nn.conv_transpose(x, w, shape, layer.strides, "SAME" if same else "VALID")
        return y if shape == layer.y_shape else tf.slice(y, begin, layer.y_shape)

    @tf.function
    def train(x, w, g):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = forward(x, w)
        return (y, *tape.gradient(y, [x, w], g))

    def common(a):
        return tf.cast(a, tf.float64).numpy()

    return Peer(lambda: forward(x, w), lambda: train(x, w, g), common, common)


def build_onnxruntime(layer, dtype, x, w, g):
    """ONNX Runtime on the CPU, the filter a constant of the model; float32 alone, and no gradients."""
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    del g
    if dtype != "float32" or any(lo < 0 for lo, _ in layer.padding):
        return None
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(
        "ConvTranspose",
        ["X", "W"],
        ["Y"],
        strides=layer.strides,
        dilations=layer.dilations,
        group=layer.groups,
        pads=[lo for lo, _ in layer.padding] + [max(hi, 0) for _, hi in layer.padding],
        output_padding=[max(-hi, 0) for _, hi in layer.padding],
    )
    x = channels_first(x)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("X", float32, x.shape)],
        [helper.make_tensor_value_info("Y", float32, None)],
        [onnx.numpy_helper.from_array(_torch_filter(w), "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Peer(lambda: session.run(None, {"X": x})[0], None, lambda a: _last(_array(a)), _array)


BUILDERS: Mapping[str, Builder] = {
    "jaxdeconv": build_jaxdeconv,
    "jaxdeconv NCW": build_channels_first,
    "jaxdeconv torch": build_jaxdeconv_torch,
    "lax": build_lax,
    "torch": build_torch,
    "torch channels_last": functools.partial(build_torch, channels_last=True),
    "tensorflow": build_tensorflow,
    "onnxruntime": build_onnxruntime,
}
"""By name. "jaxdeconv NCW" is for the comparison of layouts, "jaxdeconv torch" for the one with torch in its own."""

PEERS = tuple(name for name in BUILDERS if name not in ("jaxdeconv NCW", "jaxdeconv torch"))

CPU_ONLY = ("tensorflow", "onnxruntime")
"""Peers that are not even imported elsewhere."""

REQUIRES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torch channels_last": ("torch",),
    "tensorflow": ("tensorflow",),
    "onnxruntime": ("onnxruntime", "onnx"),
}
"""The packages of a peer that need not be there."""


def missing(name: str) -> list[str]:
    """Those of REQUIRES that cannot be imported."""

    def importable(package: str) -> bool:
        try:
            importlib.import_module(package)
        except ImportError:
            return False
        return True

    return [package for package in REQUIRES.get(name, ()) if not importable(package)]

"""Transposed convolutions for JAX, exact and fast.

The top level is the TensorFlow convention; `jaxdeconv.torch`, `jaxdeconv.onnx`, `jaxdeconv.lax` and `jaxdeconv.keras` are the others.
`jaxdeconv.streaming` computes chunk by chunk. Layers are in `jaxdeconv.nnx`, `.linen`, `.eqx`, `.haiku` and `.keras`. They, and
the framework with them, are imported when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdeconv import initializers, keras, lax, onnx, streaming, tf, torch
from jaxdeconv._accelerate import Acceleration, accelerate
from jaxdeconv._convert import convert_filters, fold_batch_norm, fold_weight_norm, unfold_weight_norm
from jaxdeconv._explain import Explanation, Explanations, explain
from jaxdeconv._filters import FilterLayout
from jaxdeconv._lowerings import Implementation
from jaxdeconv._options import defaults
from jaxdeconv._tune import load_tuning, tune
from jaxdeconv._tuning import Tuning
from jaxdeconv.tf import conv1d_transpose, conv2d_transpose, conv3d_transpose, conv_transpose

if TYPE_CHECKING:
    from jaxdeconv import eqx as eqx
    from jaxdeconv import haiku as haiku
    from jaxdeconv import linen as linen
    from jaxdeconv import nnx as nnx
else:
    _LAYERS = ("eqx", "haiku", "linen", "nnx")

    def __getattr__(name: str) -> Any:
        if name not in _LAYERS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ImportError as cause:  # an AttributeError is what hasattr and help expect
            raise AttributeError(str(cause)) from cause

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAYERS})


__version__ = "0.1.0"
__all__ = [
    "Acceleration",
    "Explanation",
    "Explanations",
    "FilterLayout",
    "Implementation",
    "Tuning",
    "__version__",
    "accelerate",
    "conv1d_transpose",
    "conv2d_transpose",
    "conv3d_transpose",
    "conv_transpose",
    "convert_filters",
    "defaults",
    "explain",
    "fold_batch_norm",
    "fold_weight_norm",
    "initializers",
    "keras",
    "lax",
    "load_tuning",
    "onnx",
    "streaming",
    "tf",
    "torch",
    "tune",
    "unfold_weight_norm",
]

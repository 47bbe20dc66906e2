"""`keras.layers.Conv1DTranspose`, `2D` and `3D` on this package's transposed convolution; `jaxdeconv.keras` has them."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import jax

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._call import biased
from jaxdeconv._canonicalize import error
from jaxdeconv.keras import checked_format, checked_padding, conv_transpose

try:
    import keras
except ImportError as cause:
    raise canonicalize.missing("the layers of jaxdeconv.keras need keras", extra="keras") from cause
if keras.backend.backend() != "jax":
    raise ImportError(
        f"the layers of jaxdeconv.keras need Keras's JAX backend, got keras.backend.backend()={keras.backend.backend()!r}; "
        "set KERAS_BACKEND=jax in the environment before Keras is imported"
    )

Model = TypeVar("Model")


class _Transposed(keras.layers.Layer):
    """What the three have in common: the keywords that Keras has not, and the call."""

    def __init__(
        self,
        *arguments: Any,
        groups: int = 1,
        implementation: str | None = None,
        forward_mode: bool | None = None,
        **keywords: Any,
    ) -> None:
        given, function = inspect.signature(super().__init__).bind(*arguments, **keywords), self.__class__.__name__
        canonicalize.integer(function, "filters", given.arguments["filters"])
        canonicalize.all_integers(function, given.arguments, "kernel_size", "strides", "output_padding")
        if "padding" in given.arguments:
            given.arguments["padding"] = checked_padding(function, given.arguments["padding"])
        if given.arguments.get("data_format") is not None:
            given.arguments["data_format"] = checked_format(function, given.arguments["data_format"])
        dilations = given.arguments.get("dilation_rate", 1)
        given.arguments["dilation_rate"] = 1  # Keras refuses any other beside strides
        super().__init__(*given.args, **given.kwargs)
        self.dilation_rate = canonicalize.spatial(function, "dilation_rate", dilations, self.rank)
        self.groups, self.implementation, self.forward_mode = groups, implementation, forward_mode

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        described = f"the {channels} channels of the input and filters={self.filters}"
        canonicalize.group_count(self.__class__.__name__, "groups", self.groups, described, channels, self.filters)
        super().build(input_shape)

    def add_weight(self, shape: Any = None, *arguments: Any, name: str | None = None, **keywords: Any) -> Any:
        if name == "kernel":  # Keras asks for one of all filters; with groups, each has its own
            shape = (*shape[:-2], shape[-2] // self.groups, shape[-1])
        return super().add_weight(shape, *arguments, name=name, **keywords)

    def call(self, inputs: jax.Array) -> jax.Array:
        axes = canonicalize.axis_names(self.rank, self.data_format == "channels_last", "in")
        canonicalize.rank(self.__class__.__name__, "inputs", inputs, axes, "flatten several batch dimensions into one")
        y = conv_transpose(
            inputs,
            keras.ops.convert_to_tensor(self.kernel),
            self.strides,
            self.padding,
            self.output_padding,
            self.data_format,
            self.dilation_rate,
            groups=self.groups,
            implementation=self.implementation,
            forward_mode=self.forward_mode,
        )
        if self.use_bias:
            y = biased(y, keras.ops.convert_to_tensor(self.bias), 1 if self.data_format == "channels_first" else self.rank + 1)
        return y if self.activation is None else self.activation(y)

    def get_config(self) -> dict[str, Any]:
        more = {"groups": self.groups, "implementation": self.implementation, "forward_mode": self.forward_mode}
        return super().get_config() | more


@keras.saving.register_keras_serializable("jaxdeconv")
class Conv1DTranspose(_Transposed, keras.layers.Conv1DTranspose):
    """Transposed convolution in one dimension as a Keras layer on its JAX backend, instead of `keras.layers.Conv1DTranspose`.

    All arguments, weights and initial values are those of `keras.layers.Conv1DTranspose`, so that its configurations and weights load
    into this layer, and give the same numbers faster. strides may be combined with dilation_rate. Three keywords more: groups, G, of
    the channels, by which the kernel is `[*k, filters / G, in]`; implementation, the lowering to use, one of
    `jaxdeconv.Implementation`, None to have it chosen; and forward_mode, whether to allow forward mode (`jax.jvp`). Dtype policies
    are Keras's: 16-bit ones are accumulated in float32 and rounded once.

    A saved model names this class, so that `keras.saving.load_model` finds it where `jaxdeconv.keras.Conv1DTranspose` was asked for
    before.

    Raises:
        ImportError: on asking for the class, where Keras is not installed or has another backend.
        ValueError: an argument that Keras refuses; groups that do not divide the channels; on a call, a shape or choice that does not
            fit.
        TypeError: an argument of the wrong type.

    Gradients:
        As those of `jaxdeconv.keras.conv_transpose`.

    References:
        `keras.layers.Conv1DTranspose`, Keras 3.15.

    Examples:
        >>> import os
        >>> os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
        >>> import numpy as np
        >>> from jaxdeconv.keras import Conv1DTranspose
        >>> layer = Conv1DTranspose(256, kernel_size=16, strides=8, padding="same", activation="relu")
        >>> layer(np.ones((1, 80, 512), "float32")).shape
        (1, 640, 256)
    """


@keras.saving.register_keras_serializable("jaxdeconv")
class Conv2DTranspose(_Transposed, keras.layers.Conv2DTranspose):
    """`Conv1DTranspose` of two dimensions, instead of `keras.layers.Conv2DTranspose`."""


@keras.saving.register_keras_serializable("jaxdeconv")
class Conv3DTranspose(_Transposed, keras.layers.Conv3DTranspose):
    """`Conv1DTranspose` of three dimensions, instead of `keras.layers.Conv3DTranspose`."""


_OURS = {getattr(keras.layers, ours.__name__): ours for ours in (Conv1DTranspose, Conv2DTranspose, Conv3DTranspose)}


def replace(model: Model, *, implementation: str | None = None, forward_mode: bool | None = None) -> Model:
    """A copy of the model with every transposed layer of Keras's own as one of this package.

    It is what `keras.models.clone_model` makes of a Sequential or functional model and of those inside of it, with Keras's
    `Conv1DTranspose`, `2D` and `3D` as the classes of this module, and with copies of the weights. So its numbers are those of model,
    which stays as it is. If model was compiled, the copy is too, with an optimizer that begins anew. Layers of other classes,
    subclasses of these among them, are copied as they are.

    Args:
        model: a Sequential or functional model.
        implementation: that of the layers that are replaced.
        forward_mode: that of the layers that are replaced.

    Returns:
        A model of the form of model.

    Raises:
        TypeError: model is no Keras model.
        ValueError: no such implementation, or a model whose class is written in code, which Keras does not clone.

    Examples:
        >>> import os
        >>> os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
        >>> import keras
        >>> import jaxdeconv.keras
        >>> model = keras.Sequential([keras.Input((80, 8)), keras.layers.Conv1DTranspose(4, 16, strides=8)])
        >>> type(jaxdeconv.keras.replace(model).layers[0])
        <class 'jaxdeconv._keras_layers.Conv1DTranspose'>
    """
    _options.how("replace", implementation, forward_mode)
    if not isinstance(model, keras.Model):
        advice = "pass a Sequential or functional model; for one layer there is from_config"
        raise error(TypeError, "replace", "model must be a Keras model", "model", model, advice)

    def copied(layer: Any) -> Any:
        config, kind = layer.get_config(), type(layer)
        if kind in _OURS:
            kind, config = _OURS[kind], config | {"implementation": implementation, "forward_mode": forward_mode}
        return kind.from_config(config)

    try:
        copy: Any = keras.models.clone_model(model, clone_function=copied, recursive=True)
    except ValueError as cause:
        rule, advice = (
            f"model must be one that Keras clones, and it says: {cause}",
            "make it of our layers, or accelerate a step of it",
        )
        raise error(ValueError, "replace", rule, "model", model, advice) from cause
    for copied_weight, weight in zip(copy.weights, model.weights, strict=True):
        copied_weight.assign(keras.ops.copy(weight))
    result: Model = copy
    return result

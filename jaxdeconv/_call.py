"""The one way in for every front-end: a parsed call, jitted, under its name, with a bias."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxdeconv._canonicalize import at_least, error
from jaxdeconv._contractions import OPERANDS, Options, accumulated, choices_of, form_of, measured, sizes_of, tf_shape
from jaxdeconv._derivatives import bilinear, contraction
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Contraction, Name, Platform, unable
from jaxdeconv._lowerings._interior import interior
from jaxdeconv._lowerings._work import Sizes
from jaxdeconv._partitioning import axes, varying_as

_ADVICE = "pass forward_mode=True for forward mode, or call the model `with jaxdeconv.defaults(forward_mode=True):`"


def biased(y: jax.Array, bias: jax.Array | None, axis: int) -> jax.Array:
    """y + bias along this axis, in the wider dtype of the two."""
    if bias is None:
        return y
    shape = [1] * y.ndim
    shape[axis] = bias.size
    dtype = jnp.promote_types(y.dtype, bias.dtype)
    # In the accumulator's dtype, because the bias's gradient, a sum over batch and space, is formed in that of the addition.
    wide = accumulated(dtype)
    return (y.astype(wide) + bias.astype(wide).reshape(shape)).astype(dtype)


@partial(jax.jit, static_argnums=(0, 4, 5, 6))
def jaxdeconv_call(
    target: str, first: jax.Array, second: jax.Array, bias: jax.Array | None, geometry: Geometry, options: Options, layout: str
) -> jax.Array:
    with jax.named_scope(options.name):
        # A custom_vjp rule must return cotangents that vary as its arguments do. F(x, g) varies with x, and so must w.
        first, second = varying_as(first, second), varying_as(second, first)
        operands = dict(zip(OPERANDS[target], (first, second), strict=True))
        form = form_of(operands, geometry, options, layout)
        _check_meeting(options.function, form.x.shape, geometry)
        # Not separable in forward mode, where it can be given to `jax.linear_transpose`.
        y = bilinear(target, False, operands, form) if options.forward_mode else contraction(target, first, second, form)
        return biased(y, None if bias is None else bias.astype(y.dtype), geometry.channel_axis)


def _check_meeting(function: str, x_shape: tuple[int, ...], geometry: Geometry) -> None:
    """Raises if a value of a symbolic size leaves no input that reaches an output: for it, the program would be another one."""
    if all(isinstance(size, int) for size in x_shape) or (inside := interior(geometry, x_shape)) is None:
        return
    for axis, (lo, hi) in zip(geometry.spatial_axes, inside.inputs, strict=True):
        size, least = x_shape[axis], lo + hi + 1
        if not at_least(least, size):
            rule = f"a symbolic size must leave inputs that reach the output, and the crops cut off {least - 1} along axis {axis}"
            advice = f"give jax.export.symbolic_shape the constraint '{size} >= {least}'"
            raise error(ValueError, function, rule, "input.shape", x_shape, advice)


class Call(NamedTuple):
    """What one call of conv_transpose computes."""

    input_shape: tuple[int, ...]
    filter_shape: tuple[int, ...]  # in TensorFlow's layout
    output_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    geometry: Geometry
    options: Options

    @property
    def sizes(self) -> Sizes:
        inside = interior(self.geometry, self.input_shape)
        return sizes_of(self.input_shape, self.filter_shape, self.geometry, inside, self.dtype)

    def choices(self, contraction: Contraction) -> dict[Platform, Name]:
        """The lowering on each platform."""
        return choices_of(contraction, self.sizes, self.options, self.dtype)

    def measured(self, contraction: Contraction) -> dict[Platform, float]:
        """The seconds of a lowering that a tuning chooses, on its platform."""
        taken = measured(contraction, self.sizes, self.options, self.dtype)
        return {} if taken is None else {taken.platform: taken.seconds}


def check_able(call: Call) -> None:
    """Raises if the named implementation, if one is, cannot compute the op or one of its gradients."""
    if (name := call.options.implementation) is None:
        return
    for kind in get_args(Contraction):
        if (reason := unable(name, kind, call.sizes)) is not None:
            rule = f"implementation must be able to compute this, and {name!r} {reason}"
            raise ValueError(f"{call.options.function}: {rule}, got implementation={name!r}; pass None to have it chosen")


def conv_transpose(
    x: jax.Array, w: jax.Array, geometry: Geometry, options: Options, bias: jax.Array | None = None, layout: str = "tf"
) -> jax.Array:
    """T(x, w) + bias under `options.name`, with the gradient rules unless forward_mode; the one way in for every front-end.

    w has the layout that is named. All of it is jitted, with static geometry, because an eager call of a custom_vjp costs 100 times a
    cached jitted one.
    """
    if found := axes({"x": jax.typeof(x), "w": jax.typeof(w)}, geometry.spatial_axes, layout):
        options = options._replace(axes=found)
    if options.implementation is not None:  # else not worth the microseconds
        filter_shape = tf_shape(w, geometry, layout)
        check_able(Call(x.shape, filter_shape, geometry.output_shape(x.shape, filter_shape), x.dtype, geometry, options))
    return _run("y", x, w, bias, geometry, options, layout)


def gradient(target: str, operands: Mapping[str, jax.Array], geometry: Geometry, options: Options, layout: str) -> jax.Array:
    """x or w from the other two of x, w and y, of the dtype in the options, as `conv_transpose` gives y."""
    if found := axes({name: jax.typeof(a) for name, a in operands.items()}, geometry.spatial_axes, layout):
        options = options._replace(axes=found)
    first, second = (operands[name] for name in OPERANDS[target])
    return _run(target, first, second, None, geometry, options, layout)


def _run(
    target: str, first: jax.Array, second: jax.Array, bias: jax.Array | None, geometry: Geometry, options: Options, layout: str
) -> jax.Array:
    try:
        result: jax.Array = jaxdeconv_call(target, first, second, bias, geometry, options, layout)
    except (TypeError, NotImplementedError) as refusal:
        advise(refusal, options.function, options.forward_mode)
        raise
    return result


def advise(refusal: Exception, function: str, forward_mode: bool | None) -> None:
    """Notes on JAX's refusal of forward mode how to allow it."""
    if not forward_mode and re.search("forward-mode|custom_lin", str(refusal)):
        refusal.add_note(f"{function}: {_ADVICE}")

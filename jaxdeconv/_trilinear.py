"""The three contractions of a transposed convolution and their differentiation. All gradient rules of the library are here.

With crop = crop_lo, a transposed convolution and its two gradients are the partial derivatives of one trilinear form

    Phi(x, w, g) = sum over b, n, j, i, o of  x[b, n, i] * w[j, o, i] * g[b, n*s + j*d - crop, o]

    transpose    T(x, w) = dPhi/dg     [b, W, i] [k, o, i] -> [b, L, o]
    input_grad   C(g, w) = dPhi/dx     [b, L, o] [k, o, i] -> [b, W, i]
    filter_grad  F(x, g) = dPhi/dw     [b, W, i] [b, L, o] -> [k, o, i]

so <T(x, w), g> = <x, C(g, w)> = <w, F(x, g)> for every g. That is the whole derivation: the cotangent of y = T(x, w) is g, those of
its arguments are C(g, w) and F(x, g). Nothing is conjugated, which is JAX's convention for holomorphic functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._filters import LAYOUTS, positions, to_tf
from jaxdeconv._geometry import Geometry, Interior
from jaxdeconv._lowerings import LOWERINGS, UNABLE, Contraction, Implementation, Platform, converted, stored_form
from jaxdeconv._lowerings._interior import cut, interior
from jaxdeconv._lowerings._work import Sizes
from jaxdeconv._partitioning import axes, entries, explicit_mesh, names, on_explicit_axes
from jaxdeconv._select import select

_TYPICAL = 1024


class Options(NamedTuple):
    """How to compute, as opposed to Geometry, which says what. Hashable."""

    function: str  # that was called; for messages
    name: str
    dtype: np.dtype[Any]  # of the result; never None, which numpy holds equal to float64
    precision: Any = None
    implementation: Implementation | None = None
    forward_mode: bool = False
    axes: int = 0  # of a mesh, over which the operands may be cut: `_partitioning.axes`


def accumulated(dtype: Any) -> np.dtype[Any]:
    """The dtype that sums of products of this dtype are formed in."""
    wide: np.dtype[Any] = np.dtype(jnp.float32 if dtype in (jnp.float16, jnp.bfloat16) else dtype)
    return wide


def _sizes(x_shape: tuple[Any, ...], w_shape: tuple[int, ...], geometry: Geometry, inside: Interior | None, dtype: Any) -> Sizes:
    """For estimates, of the interior if there is one: a symbolic dimension (`jax.export`) counts as a typical size."""
    shape = [size if isinstance(size, int) else _TYPICAL for size in x_shape]
    spatial = tuple(shape[axis] for axis in geometry.spatial_axes)
    if inside is not None:
        geometry = inside.geometry
        spatial = tuple(max(1, size - lo - hi) for size, (lo, hi) in zip(spatial, inside.inputs, strict=True))
    return Sizes(geometry, shape[0], spatial, shape[geometry.channel_axis], w_shape[-2] * geometry.groups, np.dtype(dtype).itemsize)


def _choices(contraction: Contraction, sizes: Sizes, options: Options) -> dict[Platform, Implementation]:
    """The lowering on each platform."""
    named = options.implementation
    return {platform: named or select(contraction, sizes, platform, options.axes) for platform in get_args(Platform)}


Binary: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def _of_dtype(run: Binary, dtype: Any) -> Binary:
    return lambda lhs, rhs: run(lhs.astype(dtype), rhs.astype(dtype))


def _per_platform(
    contraction: Contraction,
    choices: dict[Platform, Implementation],
    keywords: dict[str, Any],
    dtypes: tuple[Any, Any],
    layout: str,
    sizes: Sizes | None,
    axes: int,
) -> Binary:
    """One function that runs the choice of the platform it is compiled for, on operands of one dtype for a result of another."""
    wide, (operand, result) = keywords["preferred_element_type"], dtypes
    bound: dict[tuple[Any, ...], Binary] = {}
    keys: dict[Platform, tuple[Any, ...]] = {}
    for platform, name in choices.items():
        # GPU and TPU sum in float32 anyway. Asked for a float32 result, XLA stores it on TPU, and widens the operands on GPU.
        convolution = name in ("dilated", "polyphase")
        dtype = operand if platform != "cpu" and convolution and operand == result else wide
        # The partitioner for CPU pads narrow operands of a convolution with wide zeros, which XLA then refuses.
        widened = platform == "cpu" and convolution and axes > 0 and operand != wide
        lowering, form = LOWERINGS[contraction, name, platform], stored_form(contraction, name, platform, layout, sizes)
        keys[platform] = lowering, form, dtype, widened
        own = partial(form or converted(contraction, lowering, layout), **keywords | {"preferred_element_type": dtype})
        bound[keys[platform]] = _of_dtype(own, wide) if widened else own
    if len(bound) == 1:
        return bound.popitem()[1]

    def run(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        def wide_result(platform: Platform) -> Binary:  # because the branches of a platform_dependent are of one dtype
            return lambda lhs, rhs: bound[keys[platform]](lhs, rhs).astype(wide)

        by_platform = {"cpu": wide_result("cpu"), "tpu": wide_result("tpu")}
        chosen: jax.Array = lax.platform_dependent(lhs, rhs, **by_platform, default=wide_result("gpu"))
        return chosen

    return run


def _apart(together: Binary, batched: Binary, mapped_before: tuple[bool, bool] = (False, False)) -> Binary:
    """`together`, but `batched` under a `jax.vmap` over both operands, and for derivatives of it; the two agree.

    Of a convolution, JAX makes there one with a group for each element of the batch, or one with a window of the size of the signal.
    XLA computes both naively on CPU, stuffs zeros for cuDNN, and estimates twice the cycles on TPU; of a matrix product it makes
    matrix products. The custom_jvp is outside because custom_vmap cannot be transposed.
    """

    @jax.custom_batching.custom_vmap
    def mapped(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return together(lhs, rhs)

    @mapped.def_vmap
    def _(axis_size: int, in_batched: list[bool], lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, bool]:
        del axis_size
        axes = tuple(0 if mapped_now else None for mapped_now in in_batched)
        both = in_batched[0] or mapped_before[0], in_batched[1] or mapped_before[1]
        if all(both):
            return jax.vmap(batched, axes)(lhs, rhs), True
        return _apart(jax.vmap(together, axes), jax.vmap(batched, axes), both)(lhs, rhs), True

    @jax.custom_jvp
    def apart(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        result: jax.Array = mapped(lhs, rhs)
        return result

    @apart.defjvp
    def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (lhs, rhs), (lhs_tangent, rhs_tangent) = primals, tangents
        return apart(lhs, rhs), batched(lhs_tangent, rhs) + batched(lhs, rhs_tangent)

    result: Binary = apart
    return result


def _contract(
    contraction: Contraction,
    lhs: jax.Array,
    rhs: jax.Array,
    geometry: Geometry,
    options: Options,
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    dtype: Any,
    sharded: Sequence[Any],
    layout: str,
) -> jax.Array:
    """Runs the selected lowering, with operands of one dtype and a wide accumulator; shapes are those of x, w and the result.

    The filter, or its gradient, is stored in a layout; shapes has its shape in TensorFlow's, but as a result. Where axes of a mesh
    are explicit, the result is sharded over those in `sharded`, one entry for each of its axes.
    """
    if (mesh := explicit_mesh(lhs, rhs)) is not None:

        def inside(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            return _contract(contraction, lhs, rhs, geometry, options, shapes, dtype, sharded, layout)

        return on_explicit_axes(inside, mesh, shapes[-1], sharded)(lhs, rhs)
    empty = any(isinstance(size, int) and size == 0 for size in (*lhs.shape, *rhs.shape, *shapes[-1]))
    if empty or (found := interior(geometry, shapes[0])) is None:
        return jnp.zeros(shapes[-1], dtype)
    accumulator = max((accumulated(each) for each in (lhs.dtype, rhs.dtype, dtype)), key=lambda each: each.itemsize)
    # The cotangent differs where preferred_element_type made the result of another dtype than x and w. Before jax 0.10, lax could not
    # differentiate a convolution that accumulates in another dtype than that of its operands.
    if lhs.dtype != rhs.dtype or (lhs.dtype != accumulator and jax.__version_info__ < (0, 10)):
        lhs, rhs = lhs.astype(accumulator), rhs.astype(accumulator)

    sizes = _sizes(*shapes[:2], geometry, found, lhs.dtype)
    choices = _choices(contraction, sizes, options)
    lhs, rhs, restored = cut(contraction, lhs, rhs, found, layout)
    keywords: dict[str, Any] = {"geometry": found.geometry, "precision": options.precision, "preferred_element_type": accumulator}
    static = all(isinstance(size, int) for size in shapes[0])
    how = keywords, (lhs.dtype, dtype), layout, sizes if static else None, options.axes
    run = _per_platform(contraction, choices, *how)
    convolved = [platform for platform, name in choices.items() if name in ("dilated", "polyphase")]
    separable = not (options.forward_mode or options.implementation)
    if jax.__version_info__ < (0, 10) and "cpu" not in convolved:  # JAX could not transpose the loops of the forms for CPU in it
        separable = False
    if separable and convolved and UNABLE["matmul"](contraction, sizes) is None:
        products = choices | dict.fromkeys(convolved, "matmul")
        run = _apart(run, _per_platform(contraction, products, *how))
    return restored(run(lhs, rhs).astype(dtype))


def _tf_shape(w: jax.Array, geometry: Geometry, layout: str) -> tuple[int, ...]:
    return jax.eval_shape(lambda w: to_tf(w, layout, geometry.groups), w).shape if layout != "tf" else w.shape


def _sharded_as(x: jax.Array, w: jax.Array, geometry: Geometry, layout: str) -> list[Any]:
    """How y is sharded by explicit axes: as x, but its channels as those of w, or for groups as those of x where these are whole."""
    of_y, channels = entries(x), geometry.channel_axis
    if geometry.groups == 1:
        (out,) = positions(LAYOUTS[layout], w.ndim)["out"]
        of_y[channels] = entries(w)[out]
    elif geometry.groups % math.prod(jax.typeof(x).sharding.mesh.shape[name] for name in names(of_y[channels])):
        of_y[channels] = None
    return of_y


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, options: Options, layout: str = "tf") -> jax.Array:
    """T(x, w), of w as it is stored in a layout, in options.dtype; every JAX transformation applies to it."""
    shape = _tf_shape(w, geometry, layout)
    shapes = x.shape, shape, geometry.output_shape(x.shape, shape)
    return _contract("transpose", x, w, geometry, options, shapes, options.dtype, _sharded_as(x, w, geometry, layout), layout)


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, options: Options, like: jax.Array, layout: str = "tf") -> jax.Array:
    """C(g, w), of the shape, dtype and sharding of x, which is `like`."""
    shapes = like.shape, _tf_shape(w, geometry, layout), like.shape
    return _contract("input_grad", g, w, geometry, options, shapes, like.dtype, entries(like), layout)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, options: Options, like: jax.Array, layout: str = "tf") -> jax.Array:
    """F(x, g), of the shape, dtype, sharding and layout of w, which is `like`."""
    shapes = x.shape, _tf_shape(like, geometry, layout), like.shape
    return _contract("filter_grad", x, g, geometry, options, shapes, like.dtype, entries(like), layout)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _transpose_vjp(x: jax.Array, w: jax.Array, geometry: Geometry, options: Options, layout: str) -> jax.Array:
    return transpose(x, w, geometry, options, layout)


def _forward(
    x: jax.Array, w: jax.Array, geometry: Geometry, options: Options, layout: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return transpose(x, w, geometry, options, layout), (x, w)


def _backward(
    geometry: Geometry, options: Options, layout: str, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Undecorated contractions, here and in _forward: JAX differentiates the rules themselves for second derivatives, in either mode.
    x, w = residuals
    return input_grad(g, w, geometry, options, x, layout), filter_grad(x, g, geometry, options, w, layout)


_transpose_vjp.defvjp(_forward, _backward)


def _same_varying_axes(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Casts both to vary over the same mesh axes of a `jax.shard_map`, as lax does to the operands of its own functions.

    A custom_vjp rule must return cotangents that vary as its arguments do. F(x, g) varies with x; the cast makes w so too, and the
    derivative of the cast is the sum over the axes that a replicated w needs.
    """

    def varying(a: jax.Array) -> Any:
        kind = jax.typeof(a)
        named = next(
            (name for name in ("manual_axis_type", "mat") if hasattr(kind, name)), None
        )  # as it is called, as it was, before
        return getattr(kind, named).varying if named else kind.vma

    def vary(a: jax.Array) -> jax.Array:
        missing = tuple((varying(x) | varying(w)) - varying(a))
        if missing:
            a = lax.pcast(a, missing, to="varying") if hasattr(lax, "pcast") else lax.pvary(a, missing)  # type: ignore[attr-defined]
        return a

    return vary(x), vary(w)


def biased(y: jax.Array, bias: jax.Array | None, geometry: Geometry) -> jax.Array:
    """y + bias, in the dtype of y."""
    if bias is None:
        return y
    shape = [1] * y.ndim
    shape[geometry.channel_axis] = bias.size
    # In the accumulator's dtype, because the bias's gradient, a sum over batch and space, is formed in that of the addition.
    wide = accumulated(y.dtype)
    return (y.astype(wide) + bias.astype(wide).reshape(shape)).astype(y.dtype)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _run(x: jax.Array, w: jax.Array, bias: jax.Array | None, geometry: Geometry, options: Options, layout: str) -> jax.Array:
    with jax.named_scope(options.name):
        if options.forward_mode:
            y = transpose(x, w, geometry, options, layout)
        else:
            y = _transpose_vjp(*_same_varying_axes(x, w), geometry, options, layout)
        return biased(y, bias, geometry)


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
        return _sizes(self.input_shape, self.filter_shape, self.geometry, inside, self.dtype)

    def choices(self, contraction: Contraction) -> dict[Platform, Implementation]:
        """The lowering on each platform."""
        return _choices(contraction, self.sizes, self.options)


calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)
"""Where explain() has set a list, every call is added to it."""


def _check_able(call: Call) -> None:
    """Raises if the named implementation, if one is, cannot compute the op or one of its gradients."""
    if (name := call.options.implementation) is None:
        return
    for contraction in get_args(Contraction):
        if (reason := UNABLE[name](contraction, call.sizes)) is not None:
            rule = f"implementation must be able to compute this, and {name!r} {reason}"
            raise ValueError(f"{call.options.function}: {rule}, got implementation={name!r}; pass None to have it chosen")


def conv_transpose(
    x: jax.Array, w: jax.Array, geometry: Geometry, options: Options, bias: jax.Array | None = None, layout: str = "tf"
) -> jax.Array:
    """T(x, w) + bias under `options.name`, with the gradient rules unless forward_mode; the one way in for every front-end.

    w has the layout that is named. All of it is jitted, with static geometry, because an eager call of a custom_vjp costs 100 times a
    cached jitted one.
    """
    if found := axes(x, w, geometry.spatial_axes, layout):
        options = options._replace(axes=found)
    recorded = calls.get()
    if recorded is not None or options.implementation is not None:  # else not worth the microseconds
        filter_shape = _tf_shape(w, geometry, layout)
        call = Call(x.shape, filter_shape, geometry.output_shape(x.shape, filter_shape), x.dtype, geometry, options)
        _check_able(call)
        if recorded is not None:
            recorded.append(call)
    result: jax.Array = _run(x, w, bias, geometry, options, layout)
    return result

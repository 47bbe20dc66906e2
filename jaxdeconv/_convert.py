"""Filters of other frameworks and checkpoints: another's layout, without weight normalisation, with a batch norm folded in."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv._canonicalize import error
from jaxdeconv._contractions import accumulated
from jaxdeconv._filters import LAYOUTS, FilterLayout, from_tf, to_tf

_DTYPES = (*canonicalize.FLOATS, *canonicalize.COMPLEX, *canonicalize.INTEGERS)


def convert_filters(w: ArrayLike, source: FilterLayout, target: FilterLayout, groups: int = 1) -> jax.Array:
    """Brings the filter of a transposed convolution from one framework's layout to another's.

    With k the kernel's spatial axes, any number of them, and G groups:

    | layout | shape | kernel |
    |---|---|---|
    | "tf", "keras", "lax_transpose_kernel" | `[*k, out / G, in]` | as it is |
    | "haiku" | `[*k, out / G, in]` | flipped |
    | "lax", "flax" | `[*k, in / G, out]` | flipped |
    | "equinox" | `[out, in / G, *k]` | flipped |
    | "torch", "onnx" | `[in, out / G, *k]` | as it is |

    "lax_transpose_kernel" is lax and Flax with transpose_kernel=True. The channels that are whole run group by group.

    Args:
        w: the filter, in the layout source; any dtype that a convolution takes here. An array of any library, such as the weight of a
            torch layer.
        source: the name of a layout.
        target: the name of a layout.
        groups: G. Without groups every value is only moved; with groups some layouts divide the other channels.

    Returns:
        The same numbers in the layout target, of the dtype of w. Converting back gives w again.

    Raises:
        ValueError: an unknown layout, a filter of rank below 3, or groups that do not divide its channels.
        TypeError: something that is no array, or groups that is no integer.

    Gradients:
        Of every order and in both modes: it is linear.

    References:
        The layers of TensorFlow 2.21, Keras 3.15, jax 0.10.2, Flax 0.12.8, Haiku 0.0.17, Equinox 0.13.8, torch 2.13; ONNX opset 22.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> weight = jnp.ones((16, 4, 5))  # torch.nn.ConvTranspose1d(16, 8, 5, groups=2).weight
        >>> jaxdeconv.convert_filters(weight, source="torch", target="tf", groups=2).shape
        (5, 4, 16)
        >>> jaxdeconv.convert_filters(weight, source="torch", target="equinox", groups=2).shape
        (8, 8, 5)
    """
    function = "convert_filters"
    _check_layout(function, "source", source)
    _check_layout(function, "target", target)
    w = canonicalize.array(function, "w", w, _DTYPES)
    groups = _groups(function, w, source, groups)
    return from_tf(to_tf(w, source, groups), target, groups)


# Where else a layout is that of these.
_MEANT = {"pytorch": "torch", "tensorflow": "tf", "linen": "flax", "nnx": "flax", "eqx": "equinox", "jax": "lax"}


def _check_layout(function: str, name: str, layout: object) -> None:
    meant = _MEANT.get(layout.lower(), layout.lower()) if isinstance(layout, str) else None
    names = get_args(FilterLayout)
    canonicalize.choice(function, name, layout, names, f"did you mean {meant!r}?" if meant in names else "pass one of these")


def _groups(function: str, w: jax.Array, source: str, groups: int) -> int:
    """The groups, which a filter of this layout can have."""
    if w.ndim < 3:
        rule = "w must have at least one spatial axis beside its two channel axes"
        raise error(ValueError, function, rule, "w.shape", w.shape, "pass the filter alone, without its bias")
    groups = canonicalize.integer(function, "groups", groups)
    layout = LAYOUTS[source]
    axis = layout.axes.index(layout.grouped)
    axis = axis if layout.axes.index("k") > axis else axis - 3
    if groups < 1 or w.shape[axis] % groups:
        rule = f"groups must divide the {layout.grouped}put channels of w, axis {axis % w.ndim} of its shape {w.shape}"
        raise error(ValueError, function, rule, "groups", groups, "pass the groups of the layer, 1 if it has none")
    return groups


def fold_weight_norm(g: ArrayLike, v: ArrayLike, axis: int | None = 0, epsilon: float = 0.0) -> jax.Array:
    """The plain filter of a layer with weight normalisation, which stores a magnitude g and a direction v.

        w = g * v / sqrt(sum of v**2 over all axes but `axis` + epsilon)

    | a layer under | g | v | axis, of a transposed convolution | epsilon |
    |---|---|---|---|---|
    | `torch.nn.utils.weight_norm` | `weight_g` | `weight_v` | its dim: 0, which is in | 0 |
    | `torch.nn.utils.parametrizations.weight_norm` | `parametrizations.weight.original0` | `...original1` | the same | 0 |
    | `equinox.nn.WeightNorm` | `g` | `layer.weight` | its axis: 0, which is out | 0 |
    | Flax's `WeightNorm` | its scale | `kernel` | its feature_axes: -1, which is out, or in for transpose_kernel | 1e-12 |

    Keras and Haiku have none. It is the same for any other layer, a convolution, say: axis counts, and not the layout.

    Args:
        g: the magnitudes, one for each entry of `axis`: of that one axis, or with ones beside it as v has axes. One number for None.
        v: an array of two axes or more, in any layout; float16, bfloat16, float32 or float64, and g too.
        axis: the axis over whose entries the norm is not taken; None for the norm of all of v.
        epsilon: what is added to the square of the norm.

    Returns:
        The filter, of the shape and dtype of v; 16-bit ones are computed in float32 and rounded once. Where v is zero, NaN, as the
        frameworks have it, without an epsilon.

    Raises:
        ValueError: no such axis, or a shape of g that does not fit.
        TypeError: something that is no array, or of another dtype.

    Gradients:
        Of every order and in both modes.

    References:
        T. Salimans and D. P. Kingma, Weight normalization, arXiv:1602.07868; torch 2.13, Equinox 0.13.8, Flax 0.12.8.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> state = {"up.weight_g": jnp.ones((16, 1, 1)), "up.weight_v": jnp.ones((16, 8, 5))}  # of a torch.nn.ConvTranspose1d
        >>> w = jaxdeconv.fold_weight_norm(state["up.weight_g"], state["up.weight_v"])
        >>> jaxdeconv.convert_filters(w, source="torch", target="tf").shape
        (5, 8, 16)
    """
    function = "fold_weight_norm"
    v = canonicalize.array(function, "v", v, canonicalize.FLOATS)
    g = canonicalize.array(function, "g", g, canonicalize.FLOATS)
    square = _square(function, "v", v, axis, epsilon)
    if g.shape not in ((square.size,) if axis is not None else (), square.shape):
        rule = f"g must have one entry for each of axis={axis} of v, and v has shape {v.shape}"
        raise error(ValueError, function, rule, "g.shape", g.shape, f"pass an array of shape {square.shape}, or another axis")
    return (g.astype(square.dtype).reshape(square.shape) * v.astype(square.dtype) / jnp.sqrt(square)).astype(v.dtype)


def unfold_weight_norm(w: ArrayLike, axis: int | None = 0, epsilon: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """(g, v) of a plain filter, for a layer with weight normalisation: `fold_weight_norm(g, v, axis, epsilon)` is w.

        g = sqrt(sum of w**2 over all axes but `axis` + epsilon)        v = w

    That is how torch and Equinox begin, and what Flax's layers, which begin with g = 1, need to be a given filter.

    Args:
        w: as v of `fold_weight_norm`, which see for the axis and epsilon of each framework.
        axis: see there.
        epsilon: see there.

    Returns:
        g, of as many axes as w, as torch and Equinox have it, for Flax `g.ravel()`; and v. Both have the dtype of w.

    Raises:
        ValueError: no such axis.
        TypeError: something that is no array, or of another dtype.

    Gradients:
        Of every order and in both modes.

    References:
        Those of `fold_weight_norm`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> g, v = jaxdeconv.unfold_weight_norm(jnp.ones((16, 8, 2)))
        >>> g.shape, g[0].item()
        ((16, 1, 1), 4.0)
    """
    function = "unfold_weight_norm"
    w = canonicalize.array(function, "w", w, canonicalize.FLOATS)
    return jnp.sqrt(_square(function, "w", w, axis, epsilon)).astype(w.dtype), w


def _square(function: str, name: str, v: jax.Array, axis: int | None, epsilon: float) -> jax.Array:
    """The squared norms of v over all axes but one, which are kept as ones, + epsilon."""
    if v.ndim < 2:
        raise error(ValueError, function, f"{name} must have two axes or more", f"{name}.shape", v.shape, "pass a filter or a matrix")
    epsilon = _epsilon(function, epsilon)
    if axis is not None:
        axis = canonicalize.integer(function, "axis", axis)
        if not -v.ndim <= axis < v.ndim:
            rule = f"axis must be one of {name}, whose shape is {v.shape}"
            raise error(ValueError, function, rule, "axis", axis, f"pass an integer from {-v.ndim} to {v.ndim - 1}, or None")
        axis %= v.ndim
    wide = v.astype(accumulated(v.dtype))
    return jnp.sum(wide * wide, [each for each in range(v.ndim) if each != axis], keepdims=True) + epsilon


def _epsilon(function: str, epsilon: float) -> float:
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not epsilon >= 0:
        kind: canonicalize.ErrorType = ValueError if isinstance(epsilon, int | float) else TypeError
        raise error(kind, function, "epsilon must be a number of at least 0", "epsilon", epsilon, "pass that of the layer")
    return float(epsilon)


def fold_batch_norm(
    w: ArrayLike,
    bias: ArrayLike | None,
    mean: ArrayLike,
    variance: ArrayLike,
    scale: ArrayLike | None,
    offset: ArrayLike | None,
    *,
    layout: FilterLayout,
    epsilon: float,
    groups: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Filter and bias of a transposed convolution that computes what one and a batch norm after it did, in inference.

        batch_norm(y) = (y - mean) * factor + offset        factor = scale / sqrt(variance + epsilon)

    of an output channel, so that `w * factor` along the output channels and `(bias - mean) * factor + offset` do the same.

    Args:
        w: the filter, in the layout; float16, bfloat16, float32 or float64, and so the others.
        bias: that of the transposed convolution, of one entry for each output channel; None for none.
        mean: the running mean, as the others of the batch norm of one entry for each output channel, with axes of one beside it or
            without: `running_mean`, `moving_mean`.
        variance: the running variance: `running_var`, `moving_variance`.
        scale: the factor that is learned: `weight` in torch, `gamma` in Keras, `scale` in Flax and Haiku; None for 1.
        offset: what is added: `bias` in torch and Flax, `beta` in Keras, `offset` in Haiku; None for 0.
        layout: that of w, as for `convert_filters`.
        epsilon: that of the batch norm: 1e-5 in torch, Flax, Equinox, Haiku and ONNX, 1e-3 in Keras, unless the layer says otherwise.
        groups: those of the transposed convolution.

    Returns:
        The filter, of the shape and dtype of w, and the bias, of the shape and dtype of bias; where that is None, `[O]` and of the
        dtype of w. 16-bit ones are computed in float32 and rounded once.

    Raises:
        ValueError: an unknown layout, groups that do not divide the channels, or a shape that does not fit.
        TypeError: something that is no array, or of another dtype.

    Gradients:
        Of every order and in both modes.

    References:
        S. Ioffe and C. Szegedy, Batch normalization, arXiv:1502.03167.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> w, ones = jnp.ones((16, 4, 5)), jnp.ones(8)  # of torch.nn.ConvTranspose1d(16, 8, 5, groups=2)
        >>> w, bias = jaxdeconv.fold_batch_norm(w, None, ones, 4 * ones, ones, 3 * ones, layout="torch", epsilon=0.0, groups=2)
        >>> w.shape, w[0, 0, 0].item(), bias.tolist()[0]
        ((16, 4, 5), 0.5, 2.5)
    """
    function = "fold_batch_norm"
    _check_layout(function, "layout", layout)
    w = canonicalize.array(function, "w", w, canonicalize.FLOATS)
    groups = _groups(function, w, layout, groups)
    epsilon = _epsilon(function, epsilon)
    by_outputs = from_tf(to_tf(w, layout, groups), "lax", groups)  # [*k, in / groups, out]
    channels = by_outputs.shape[-1]
    zeros, ones = jnp.zeros(channels, w.dtype), jnp.ones(channels, w.dtype)
    given = {
        "bias": zeros if bias is None else bias,
        "mean": mean,
        "variance": variance,
        "scale": ones if scale is None else scale,
        "offset": zeros if offset is None else offset,
    }
    arrays = {name: canonicalize.array(function, name, value, canonicalize.FLOATS) for name, value in given.items()}
    for name, each in arrays.items():
        if each.size != channels or max(each.shape, default=1) != channels:
            rule = f"{name} must have one entry for each of the {channels} output channels of w, whose shape is {w.shape}"
            raise error(ValueError, function, rule, f"{name}.shape", each.shape, f"pass an array of shape ({channels},)")
    wide = max((accumulated(each.dtype) for each in (w, *arrays.values())), key=lambda dtype: dtype.itemsize)
    b, m, v, s, o = (each.astype(wide).ravel() for each in arrays.values())
    factor = s / jnp.sqrt(v + epsilon)
    folded = (by_outputs.astype(wide) * jnp.expand_dims(factor, range(w.ndim - 1))).astype(w.dtype)
    shift = ((b - m) * factor + o).astype(arrays["bias"].dtype).reshape(arrays["bias"].shape)
    return from_tf(to_tf(folded, "lax", groups), layout, groups), shift

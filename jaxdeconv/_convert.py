"""convert_filters: a filter of one framework's layout in another's."""

from __future__ import annotations

from typing import get_args

import jax
from jax.typing import ArrayLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv._canonicalize import error
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

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> weight = jnp.ones((16, 4, 5))  # torch.nn.ConvTranspose1d(16, 8, 5, groups=2).weight
        >>> jaxdeconv.convert_filters(weight, source="torch", target="tf", groups=2).shape
        (5, 4, 16)
        >>> jaxdeconv.convert_filters(weight, source="torch", target="equinox", groups=2).shape
        (8, 8, 5)
    """
    function = "convert_filters"
    names = get_args(FilterLayout)
    canonicalize.choice(function, "source", source, names)
    canonicalize.choice(function, "target", target, names)
    w = canonicalize.array(function, "w", w, _DTYPES)
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
    return from_tf(to_tf(w, source, groups), target, groups)

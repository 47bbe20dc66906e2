"""The one place where a window that reaches beyond its operands becomes slices of them, and zeros around the result.

A crop of ke or more drops whole inputs, one beyond the last input whole taps, and outputs that no input reaches are zeros. Lowerings
are asked for what is within: no convolution of theirs has a negative padding, nor has one that JAX derives from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from jaxdeconv._filters import LAYOUTS, positions
from jaxdeconv._geometry import Ends, Geometry, Interior
from jaxdeconv._lowerings._blocks import padded
from jaxdeconv._lowerings._work import Contraction


def interior(geometry: Geometry, x_shape: tuple[Any, ...]) -> Interior | None:
    """`Geometry.interior` for an input of this shape."""
    return geometry.interior(tuple(size if isinstance(size := x_shape[axis], int) else None for axis in geometry.spatial_axes))


def cut(
    contraction: Contraction, lhs: jax.Array, rhs: jax.Array, inside: Interior, layout: str = "tf", strided: bool = False
) -> tuple[jax.Array, jax.Array, Callable[[jax.Array], jax.Array]]:
    """Both operands of the contraction inside, and how to bring its result to the size of that of the whole.

    If it is to be a `strided` convolution, outputs that are fewer than a stride, which it passes over, stay.
    """
    spatial, stored = inside.geometry.spatial_axes, LAYOUTS[layout]
    of_filter = tuple(positions(stored, len(spatial) + 2)["k"])
    taps = tuple((hi, lo) for lo, hi in inside.taps) if stored.flipped else inside.taps
    outputs = inside.outputs
    if strided and contraction == "input_grad":
        outputs = tuple((lo, hi if hi >= s else 0) for (lo, hi), s in zip(outputs, inside.geometry.strides, strict=True))
    x, w, y = (spatial, inside.inputs), (of_filter, taps), (spatial, outputs)
    of_lhs, of_rhs, of_result = {"transpose": (x, w, y), "input_grad": (y, w, x), "filter_grad": (x, y, w)}[contraction]

    def restored(result: jax.Array) -> jax.Array:
        widths = [(0, 0, 0)] * result.ndim
        for axis, (lo, hi) in zip(*of_result, strict=True):
            widths[axis] = (lo, hi, 0)
        return padded(result, widths)

    return _within(lhs, *of_lhs), _within(rhs, *of_rhs), restored


def _within(a: jax.Array, axes: tuple[int, ...], ends: Ends) -> jax.Array:
    if not any(map(any, ends)):
        return a
    starts, limits = [0] * a.ndim, list(a.shape)
    for axis, (lo, hi) in zip(axes, ends, strict=True):
        starts[axis], limits[axis] = lo, limits[axis] - hi
    # No pad with negative widths: XLA's simplifier merges a pad into the padding of a convolution that follows.
    return lax.slice(a, starts, limits)

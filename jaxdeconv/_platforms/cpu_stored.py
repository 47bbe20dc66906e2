"""The form of "matmul" for CPU with filters as they are stored, in another layout than TensorFlow's. One group.

With few inputs the filter is the largest array there is, and bringing it to TensorFlow's layout takes longer than the product. Here
the products of T, and the patches of C and F, are reordered instead. Of the filter's axes, `in` is the first (torch), the last
(Haiku), or between the others (Flax), where there is a product for each tap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdeconv._filters import LAYOUTS, positions
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import overlap_add
from jaxdeconv._lowerings._work import Sizes
from jaxdeconv._platforms.cpu_lowerings import FEW, wide
from jaxdeconv._platforms.cpu_patches import patches


def keeps_layout(sizes: Sizes, layout: str) -> bool:
    """Whether reordering products or patches, and what else it takes, moves less than the filter that would be reordered."""
    if sizes.geometry.groups > 1:
        return False
    rows, outputs, inputs = sizes.batch * math.prod(sizes.spatial), sizes.out_channels, sizes.in_channels
    repeated = inputs if LAYOUTS[layout].axes == ("k", "in", "out") else 0  # x, for each tap
    return rows * (outputs + repeated) < outputs * inputs


class _Matrix(NamedTuple):
    """How a filter is stored: its axes but `in`, those before and those after it, and how to put them in the order [*k, o]."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    order: list[int]
    flipped: bool
    swapped: bool  # [o, i, *k], of which [i, o, *k] is made: the taps stay together, so that it is nearly a copy

    def to_kernel(self, products: jax.Array) -> jax.Array:
        """[rows, before and after] to [rows, *k, o], as TensorFlow has them."""
        products = products.reshape(-1, *self.before, *self.after).transpose(0, *(1 + axis for axis in self.order))
        return jnp.flip(products, range(1, products.ndim - 1)) if self.flipped else products

    def from_kernel(self, taps: jax.Array) -> jax.Array:
        """The inverse: [rows, *k, o] to [rows, A, B], A of the axes before `in` and B of those after it."""
        taps = jnp.flip(taps, range(1, taps.ndim - 1)) if self.flipped else taps
        inverse = [self.order.index(axis) for axis in range(len(self.order))]
        return taps.transpose(0, *(1 + axis for axis in inverse)).reshape(len(taps), math.prod(self.before), math.prod(self.after))


def _matrix(layout: str, kernel: Sequence[int], outputs: int) -> _Matrix:
    stored = LAYOUTS[layout]
    swapped = stored.axes == ("out", "in", "k")
    if swapped:
        stored = stored._replace(axes=("in", "out", "k"))
    at = positions(stored, len(kernel) + 2)
    (inputs,) = at["in"]
    sizes = dict(zip((*at["k"], *at["out"]), (*kernel, outputs), strict=True))
    before = tuple(sizes[axis] for axis in range(inputs))
    after = tuple(sizes[axis] for axis in range(inputs + 1, len(kernel) + 2))
    order = [axis - (axis > inputs) for name in ("k", "out") for axis in at[name]]
    return _Matrix(before, after, order, stored.flipped, swapped)


def _rows(a: jax.Array, geometry: Geometry) -> jax.Array:
    """Channels last, and all other axes one."""
    a = a if geometry.channels_last else jnp.moveaxis(a, 1, -1)
    return a.reshape(-1, a.shape[-1])


def _like_activations(rows: jax.Array, samples: Sequence[int], geometry: Geometry) -> jax.Array:
    a = rows.reshape(*samples, -1)
    return a if geometry.channels_last else jnp.moveaxis(a, -1, 1)


def _as_three(w: jax.Array, matrix: _Matrix, inputs: int) -> jax.Array:
    """[A, I, B]."""
    w = jnp.swapaxes(w, 0, 1) if matrix.swapped else w
    return w.reshape(math.prod(matrix.before), inputs, math.prod(matrix.after))


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, *, layout: str, sizes: Sizes, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    matrix, rows = _matrix(layout, geometry.kernel, sizes.out_channels), _rows(x, geometry)
    three = _as_three(w, matrix, sizes.in_channels)
    if matrix.before and matrix.after:
        repeated = jnp.broadcast_to(rows, (len(three), *rows.shape))
        products = jnp.swapaxes(lax.dot_general(repeated, three, (((2,), (1,)), ((0,), (0,))), **keywords), 0, 1)
    elif matrix.after:
        products = lax.dot_general(rows, three[0], (((1,), (0,)), ((), ())), **keywords)
    elif len(rows) <= FEW:
        products = lax.dot_general(three[..., 0], rows, (((1,), (1,)), ((), ())), **keywords).T
    else:
        products = lax.dot_general(rows, three[..., 0], (((1,), (1,)), ((), ())), **keywords)
    products = matrix.to_kernel(products)
    last = replace(geometry, channels_last=True)
    y = overlap_add(products.reshape(sizes.batch, *sizes.spatial, *products.shape[1:]), last)
    return y if geometry.channels_last else jnp.moveaxis(y, -1, 1)


def _taps(g: jax.Array, matrix: _Matrix, geometry: Geometry) -> jax.Array:
    """Patches of g, [rows, A, B]."""
    g, last = g if geometry.channels_last else jnp.moveaxis(g, 1, -1), replace(geometry, channels_last=True)
    taps = patches(g, last)
    return matrix.from_kernel(taps.reshape(-1, *taps.shape[geometry.ndim + 1 :]))


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, *, layout: str, sizes: Sizes, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    matrix = _matrix(layout, geometry.kernel, sizes.out_channels)
    three, taps = _as_three(w, matrix, sizes.in_channels), _taps(g, matrix, geometry)
    if matrix.before and matrix.after:
        rows = jnp.sum(lax.dot_general(taps, three, (((2,), (2,)), ((1,), (0,))), **keywords), 0)
    elif matrix.after:
        rows = lax.dot_general(taps[:, 0], three[0], (((1,), (1,)), ((), ())), **keywords)
    else:
        rows = lax.dot_general(taps[..., 0], three[..., 0], (((1,), (0,)), ((), ())), **keywords)
    return _like_activations(rows, (sizes.batch, *sizes.spatial), geometry)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, *, layout: str, sizes: Sizes, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""
    matrix, rows = _matrix(layout, geometry.kernel, sizes.out_channels), _rows(wide(x, **keywords), geometry)
    taps = _taps(wide(g, **keywords), matrix, geometry)
    if matrix.before and matrix.after:
        repeated = jnp.broadcast_to(rows, (taps.shape[1], *rows.shape))
        w = lax.dot_general(repeated, taps, (((1,), (0,)), ((0,), (1,))), **keywords)
    elif matrix.after:
        w = lax.dot_general(rows, taps[:, 0], (((0,), (0,)), ((), ())), **keywords)
    else:
        w = lax.dot_general(taps[..., 0], rows, (((0,), (0,)), ((), ())), **keywords)
    w = w.reshape(*matrix.before, sizes.in_channels, *matrix.after)
    return jnp.swapaxes(w, 0, 1) if matrix.swapped else w

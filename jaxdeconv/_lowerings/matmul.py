"""Lowering "matmul": each contraction is one matrix product with the whole filter, and overlap_add or patches around it.

    transpose    y = overlap_add(x w)         [b, W, i] [k, o, i] -> [b, W, k, o] -> [b, L, o]
    input_grad   x = patches(g) w             [b, L, o] -> [b, W, k, o] [k, o, i] -> [b, W, i]
    filter_grad  w = patches(g) x             [b, L, o] -> [b, W, k, o] [b, W, i] -> [k, o, i]

Only what the crops remove is computed in vain. The price is the [b, W, k, o] in between, k / s times the size of y.
The filter becomes a matrix before the product, because XLA would transpose it otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings._blocks import overlap_add, patches, terms, too_sparse
from jaxdeconv._lowerings._work import Sizes, Work

MOST_TERMS = 256  # of one expression, which each take time to compile


def unable(contraction: str, sizes: Sizes) -> str | None:
    """Why it cannot compute this; None if it can."""
    del contraction
    if (count := terms(sizes.geometry)) > MOST_TERMS:
        return f"would sum {count} shifted arrays, more than {MOST_TERMS}"
    return too_sparse(sizes)


def work(contraction: str, sizes: Sizes) -> Work:
    """How much it is."""
    whole = sizes.x + sizes.y + sizes.w
    if contraction == "transpose" and sizes.depthwise:  # XLA makes loops of products of one term, and fuses them
        return Work(looped=terms(sizes.geometry) * sizes.y, moved=whole)
    passes = 2 if sizes.geometry.groups == 1 else 4  # products of groups come out group by group
    across = 2 * (sizes.x + sizes.products) if contraction == "filter_grad" else 0  # a contraction over rows reads columns
    return Work(product=sizes.flops, moved=whole + passes * sizes.products + across, temporary=sizes.products)


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    n, groups = geometry.ndim, geometry.groups
    *kernel, out_per_group, _ = w.shape
    if groups == 1:
        products = lax.dot_general(x, w.reshape(-1, w.shape[-1]), (((n + 1,), (1,)), ((), ())), **keywords)
        return overlap_add(products.reshape(*x.shape[:-1], *kernel, out_per_group), geometry)
    x = x.reshape(*x.shape[:-1], groups, -1)
    w = w.reshape(-1, groups, w.shape[-1] // groups)
    products = lax.dot_general(x, w, (((n + 2,), (2,)), ((n + 1,), (1,))), **keywords)  # [groups, batch, *W, k*o]
    products = products.reshape(*products.shape[:-1], *kernel, out_per_group)
    products = products.transpose(*range(1, 2 * n + 2), 0, 2 * n + 2)
    return overlap_add(products.reshape(*products.shape[:-2], -1), geometry)


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    n, groups = geometry.ndim, geometry.groups
    taps = patches(g, geometry)  # [batch, *W, *k, o]
    if groups == 1:
        w = w.reshape(-1, w.shape[-1])
        return lax.dot_general(taps.reshape(*taps.shape[: n + 1], -1), w, (((n + 1,), (0,)), ((), ())), **keywords)
    taps = taps.reshape(*taps.shape[: n + 1], math.prod(geometry.kernel), groups, -1)
    w = w.reshape(taps.shape[n + 1], -1, groups, w.shape[-1] // groups)
    x = lax.dot_general(taps, w, (((n + 1, n + 3), (0, 1)), ((n + 2,), (2,))), **keywords)  # [groups, batch, *W, i]
    x = x.transpose(*range(1, n + 2), 0, n + 2)
    return x.reshape(*x.shape[:-2], -1)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""
    groups, out_per_group = geometry.groups, g.shape[-1] // geometry.groups
    # As matrices: of several contracted axes XLA would make one by transposing both operands.
    taps, x = patches(g, geometry).reshape(-1, math.prod(geometry.kernel) * g.shape[-1]), x.reshape(-1, x.shape[-1])
    if groups == 1:
        w = lax.dot_general(taps, x, (((0,), (0,)), ((), ())), **keywords)
    else:
        taps = taps.reshape(-1, math.prod(geometry.kernel), groups, out_per_group)
        x = x.reshape(-1, groups, x.shape[-1] // groups)
        w = lax.dot_general(taps, x, (((0,), (0,)), ((2,), (1,))), **keywords)  # [groups, k, o, i]
        w = w.transpose(1, 2, 0, 3)
    return w.reshape(*geometry.kernel, out_per_group, -1)

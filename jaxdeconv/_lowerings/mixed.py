"""A form for each dimension: its *taps* or its *phases* are output channels, or it is left as it is.

A transposed convolution is a sum over taps in every dimension. Take one dimension out of it by computing other outputs in its place,
as further output channels, and adding these up:

    form        the outputs computed in its place                             the dimension that is left   what then adds them up
    "dilated"   none                                                          as it was                    nothing
    "taps"      k products of each input, one a tap                           one tap, stride 1            overlap_add
    "phases"    s outputs of each block, of the taps placed by block, phase   stride and dilation 1        blocks side by side

So T is overlap_add, in an `outer` geometry, of a T in an `inner` one; C and F are its adjoints, with patches in place of overlap_add:

    transpose    y = overlap_add(T(x, placed(w)))
    input_grad   x = C(patches(g), placed(w))
    filter_grad  w = taken(F(x, patches(g)))

The inner one is a convolution, `dilated`. Where every dimension is one of taps it is of one tap, and can be a matrix product,
`product`: "matmul" is taps in all dimensions by a product, "taps,taps" by the convolution, and "polyphase" phases in all. One group.

Where crop_lo is no multiple of the stride, cutting blocks at output 0 can take one block of taps more than cutting them crop_lo mod s
before it. The second computes less and has to move the result; whichever reaches over fewer blocks is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import jax

from jaxdeconv._geometry import Ends, Geometry, effective_kernel, extra_blocks, reach, surplus
from jaxdeconv._lowerings import dilated, product
from jaxdeconv._lowerings._blocks import overlap_add, padded, patches, too_many_terms, too_sparse
from jaxdeconv._lowerings._work import Contraction, Form, Sizes

MOST_FILL = 16  # times the taps of the filter that the placed one may have


class _Dimension(NamedTuple):
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    crops: tuple[int, int] = (0, 0)


class _Step(NamedTuple):
    """One dimension, taken apart."""

    outer: _Dimension = _Dimension()
    inner: _Dimension = _Dimension()
    before: int = 0  # outputs that the outer one has before output 0
    placing: tuple[int, int, int] = (0, 0, 0)  # of the filter's taps among those of both, as widths of `lax.pad`


def _step(form: Form, whole: _Dimension) -> _Step:
    if whole.kernel == 1:
        whole = whole._replace(dilation=1)
    k, s, d, (lo, hi) = whole
    if form == "dilated":
        return _Step(inner=whole)
    if form == "taps":
        return _Step(outer=whole)
    (first, last), (aligned_first, aligned_last) = reach(k, s, d, lo), reach(k, s, d, lo - lo % s)
    before = lo % s if aligned_last - aligned_first < last - first else 0
    crops = (lo - before, hi)
    first, last = reach(k, s, d, crops[0])
    start, blocks = -crops[0] % s, last - first + 1
    return _Step(
        outer=_Dimension(s, s, 1, (0, surplus(k, s, d, crops))),
        inner=_Dimension(blocks, crops=(-first, last - extra_blocks(k, s, d, crops))),
        before=before,
        placing=(start, blocks * s - start - effective_kernel(k, d), d - 1),
    )


class Apart(NamedTuple):
    """A geometry taken apart."""

    forms: tuple[Form, ...]
    outer: Geometry
    inner: Geometry
    before: tuple[int, ...]
    placing: tuple[tuple[int, int, int], ...]

    @property
    def placed_taps(self) -> int:
        """Taps of the placed filter, the empty ones included."""
        return math.prod(self.inner.kernel) * math.prod(self.outer.kernel)


def _geometry(dimensions: list[_Dimension], like: Geometry) -> Geometry:
    kernel, strides, dilations, crops = (tuple(each) for each in zip(*dimensions, strict=True)) if dimensions else ((),) * 4
    return replace(like, kernel=kernel, strides=strides, dilations=dilations, crops=crops)


@lru_cache(4096)
def apart(geometry: Geometry, forms: tuple[Form, ...]) -> Apart:
    rows = zip(forms, geometry.kernel, geometry.strides, geometry.dilations, geometry.crops, strict=True)
    steps = [_step(form, _Dimension(k, s, d, crops)) for form, k, s, d, crops in rows]
    outer, inner = (_geometry([getattr(step, which) for step in steps], geometry) for which in ("outer", "inner"))
    return Apart(forms, outer, inner, tuple(step.before for step in steps), tuple(step.placing for step in steps))


def phases(geometry: Geometry) -> Apart:
    """With the phases of every dimension taken out."""
    return apart(geometry, ("phases",) * geometry.ndim)


def placed(w: jax.Array, way: Apart) -> jax.Array:
    """[*k, o, i] -> [*q, *m, o, i]: q taps of the inner geometry, m of the outer one; zero where no tap falls."""
    n = way.inner.ndim
    w = padded(w, [*way.placing, (0, 0, 0), (0, 0, 0)])
    w = w.reshape(*chain.from_iterable(zip(way.inner.kernel, way.outer.kernel, strict=True)), *w.shape[-2:])
    return w.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), 2 * n, 2 * n + 1)


def taken(v: jax.Array, way: Apart, geometry: Geometry) -> jax.Array:
    """[*q, *m, o, i] -> [*k, o, i]: what `placed` placed."""
    n = way.inner.ndim
    v = v.transpose(*chain.from_iterable((a, n + a) for a in range(n)), 2 * n, 2 * n + 1)
    v = v.reshape(*(q * m for q, m in zip(way.inner.kernel, way.outer.kernel, strict=True)), *v.shape[-2:])
    rows = zip(way.placing, geometry.kernel, strict=True)
    return v[tuple(slice(start, start + (k - 1) * (between + 1) + 1, between + 1) for (start, _, between), k in rows)]


def _spatial(geometry: Geometry, widths: Ends) -> list[tuple[int, int, int]]:
    """Widths of `lax.pad` for an activation."""
    every = [(0, 0, 0)] * (geometry.ndim + 2)
    for axis, (lo, hi) in zip(geometry.spatial_axes, widths, strict=True):
        every[axis] = (lo, hi, 0)
    return every


def joined(products: jax.Array, way: Apart) -> jax.Array:
    """The outputs in the place of the dimensions taken out, to y."""
    y = overlap_add(products, way.outer)
    return padded(y, _spatial(way.outer, tuple((-before, 0) for before in way.before)))


def split(g: jax.Array, way: Apart, patches: Callable[[jax.Array, Geometry], jax.Array]) -> jax.Array:
    """Its adjoint."""
    return patches(padded(g, _spatial(way.outer, tuple((before, 0) for before in way.before))), way.outer)


class Bottoms(NamedTuple):
    """What computes the inner contractions, modules with functions like those of `product` and `dilated`, and patches."""

    product: Any = product
    convolution: Any = dilated
    patches: Callable[[jax.Array, Geometry], jax.Array] = patches


GENERAL = Bottoms()


def transpose(
    x: jax.Array, w: jax.Array, geometry: Geometry, *, forms: tuple[Form, ...], product: bool, bottoms: Bottoms = GENERAL, **how: Any
) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    way = apart(geometry, forms)
    if product:
        return joined(bottoms.product.transpose(x, w, geometry, **how), way)
    w = placed(w, way)
    n = geometry.ndim
    products = bottoms.convolution.transpose(x, w.reshape(*w.shape[:n], -1, w.shape[-1]), way.inner, **how)
    return joined(products.reshape(*products.shape[:-1], *w.shape[n:-1]), way)


def input_grad(
    g: jax.Array, w: jax.Array, geometry: Geometry, *, forms: tuple[Form, ...], product: bool, bottoms: Bottoms = GENERAL, **how: Any
) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    way = apart(geometry, forms)
    if product:
        x: jax.Array = bottoms.product.input_grad(split(g, way, bottoms.patches), w, geometry, **how)
    else:
        w, g, n = placed(w, way), split(g, way, bottoms.patches), geometry.ndim
        g, w = g.reshape(*g.shape[: n + 1], -1), w.reshape(*w.shape[:n], -1, w.shape[-1])
        x = bottoms.convolution.input_grad(g, w, way.inner, **how)
    return x


def filter_grad(
    x: jax.Array, g: jax.Array, geometry: Geometry, *, forms: tuple[Form, ...], product: bool, bottoms: Bottoms = GENERAL, **how: Any
) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""
    way = apart(geometry, forms)
    if product:
        w: jax.Array = bottoms.product.filter_grad(x, split(g, way, bottoms.patches), geometry, **how)
        return w
    g = split(g, way, bottoms.patches)
    n = geometry.ndim
    v = bottoms.convolution.filter_grad(x, g.reshape(*g.shape[: n + 1], -1), way.inner, **how)
    return taken(v.reshape(*v.shape[:n], *g.shape[n + 1 :], v.shape[-1]), way, geometry)


def unable(contraction: Contraction, sizes: Sizes, forms: tuple[Form, ...]) -> str | None:
    """Why it cannot compute this; None if it can."""
    del contraction
    geometry = sizes.geometry
    way = apart(geometry, forms)
    if (reason := too_many_terms(way.outer)) is not None:
        return reason
    if way.placed_taps > MOST_FILL * max(sizes.taps, math.prod(geometry.strides)):
        return f"would make of {sizes.taps} taps a filter of {way.placed_taps}"
    return too_sparse(outer_sizes(sizes, way))


def inner_sizes(sizes: Sizes, way: Apart) -> Sizes:
    """Of the inner contraction."""
    return sizes._replace(geometry=way.inner, out_channels=sizes.out_channels * math.prod(way.outer.kernel))


def outer_sizes(sizes: Sizes, way: Apart) -> Sizes:
    """Of what overlap_add is given, as its inputs."""
    return sizes._replace(geometry=way.outer, spatial=inner_sizes(sizes, way).lengths)

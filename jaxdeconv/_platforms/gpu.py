"""GPU: which convolutions are cuDNN's, and how much each lowering does.

Which convolution is one of cuDNN is XLA's rule, seen in what its compiler
makes of the layers of `benchmarks` and of random ones; how fast those are has not been measured.

Only "dilated" and "matmul" are chosen here; the amounts of others are those of CPU.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import jax
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Lowering, general
from jaxdeconv._lowerings._work import Contraction, Name, Rates, Sizes, Work
from jaxdeconv._platforms import cpu

RATES = Rates(  # in a second, of the order of an H200's data sheet; not measured, and only `naive` against the others matters
    product=60e12,
    convolution=60e12,
    looped=10e12,
    naive=1e12,
    moved=4.8e12,
    rearranged=0.6e12,
    narrow_product=10,
    narrow_convolution=10,
)


def _is_swapped(contraction: Contraction, sizes: Sizes) -> bool:
    """Whether XLA exchanges the operands: those of a convolution of two dimensions whose window has more samples than the signal.

    In one and three dimensions cuDNN could not take what that makes, which XLA asks first.
    """
    signal, window = {
        "transpose": (sizes.spatial, sizes.geometry.kernel),
        "input_grad": (sizes.lengths, sizes.geometry.kernel),
        "filter_grad": (sizes.lengths, sizes.spatial),
    }[contraction]
    return len(signal) == 2 and sizes.geometry.groups == 1 and math.prod(window) > math.prod(signal)


def _is_one_of_cudnn(contraction: Contraction, sizes: Sizes) -> bool:
    """Whether XLA makes of the convolution the cuDNN call of this contraction, with the window of the filter and nothing stuffed."""
    geometry = sizes.geometry
    if _is_swapped(contraction, sizes):
        return False
    undilated, unstrided = (all(each == 1 for each in several) for several in (geometry.dilations, geometry.strides))
    crops = list(zip(geometry.crops, geometry.strides, geometry.effective_kernels, strict=True))
    within = all(lo >= 0 and hi > -s for (lo, hi), s, _ in crops)
    if contraction == "transpose":
        even = all(lo == hi and 0 <= lo < ke for (lo, hi), _, ke in crops)
        return (undilated and within and geometry.groups == 1) or (unstrided and (undilated or even))
    if contraction == "input_grad":
        return undilated or all(lo == hi >= 0 for (lo, hi), _, _ in crops)
    inside = [w <= k for w, k in zip(sizes.spatial, geometry.kernel, strict=True)]  # which looks like a forward convolution then
    mistaken = (all(inside) and geometry.groups == 1) or (any(inside) and unstrided)
    return undilated and within and not mistaken


def _dilated(contraction: Contraction, sizes: Sizes) -> Work:
    moved = sizes.x + sizes.y + sizes.w
    if _is_one_of_cudnn(contraction, sizes):
        return Work(convolution=sizes.flops, moved=moved)
    # Over zeros stuffed into x, and into a dilated filter.
    stuffed = math.prod(sizes.geometry.strides) * math.prod(sizes.geometry.effective_kernels) / sizes.taps
    return Work(naive=sizes.flops * stuffed, moved=moved)


def _matmul(contraction: Contraction, sizes: Sizes) -> Work:
    moved = sizes.x + sizes.y + sizes.w + 2 * sizes.products
    return Work(product=sizes.flops, moved=moved, temporary=sizes.products)


def work(name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    """How much a lowering does."""
    own = {"dilated": _dilated, "matmul": _matmul}
    return own[name](contraction, sizes) if name in own else cpu.work(name, contraction, sizes)


@lru_cache(None)
def lowering(contraction: Contraction, name: Name, axes: int) -> Lowering:
    """The function, in the form that is fast here.

    XLA moves the reversal of a filter before a product with a scalar, as of a spectral norm, and into a convolution that makes the
    filter, as a filter gradient is made. Then it finds none at T, which it computes over stuffed zeros. So a barrier keeps the filter
    apart. C's filter has one too, so that XLA brings it to cuDNN's order once for both.
    """
    function = general(contraction, name)
    if name != "dilated" or contraction == "filter_grad":
        return function

    def lowered(lhs: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        return function(lhs, lax.optimization_barrier(w), geometry, **keywords)  # type: ignore[no-untyped-call]

    return lowered


def avoided(name: Name, contraction: Contraction, sizes: Sizes) -> bool:
    """What is not to be chosen, because XLA's partitioner gathers activations for it, moves more the more devices there are, or sums
    a filter gradient of a sharded batch over more than its parts. docs/sharding.md has the evidence."""
    return name not in ("dilated", "matmul") or (name == "dilated" and contraction == "filter_grad" and sizes.geometry.groups > 1)

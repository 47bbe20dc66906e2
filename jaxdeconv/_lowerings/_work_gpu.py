"""How much each lowering does for XLA on GPU, by lowering. Which convolution is one of cuDNN is XLA's rule, seen in what its compiler
makes of the layers of `benchmarks` and of random ones; how fast those are has not been measured.

"polyphase" and "elementwise" are not chosen here; their amounts are those of CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from jaxdeconv._lowerings import _work_cpu
from jaxdeconv._lowerings._work import Amounts, Contraction, Implementation, Sizes, Work


def _is_one_of_cudnn(contraction: Contraction, sizes: Sizes) -> bool:
    """Whether XLA makes of the convolution the cuDNN call of this contraction, with the window of the filter and nothing stuffed."""
    geometry = sizes.geometry
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


WORK: Mapping[Implementation, Amounts] = MappingProxyType({**_work_cpu.WORK, "dilated": _dilated, "matmul": _matmul})

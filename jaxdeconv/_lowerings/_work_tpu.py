"""How much each lowering does for XLA on TPU, by lowering: amounts that explain what its compiler estimates, not what was measured.

A TPU multiplies tiles of 128 x 128 of the filter with registers of 8 x 128 of activations, and holds arrays in such tiles, of eight
rows of 128 lanes. So operations are counted on rounded sizes, and what XLA pads, or brings into another order on the way, as elements
rearranged. "polyphase" and "elementwise" are not chosen here; their amounts are those of CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from jaxdeconv._lowerings import _work_cpu
from jaxdeconv._lowerings._blocks import terms
from jaxdeconv._lowerings._work import Amounts, Contraction, Implementation, Sizes, Work

LANES = 128
SUBLANES = 8
FEW_CHANNELS = 32  # fewer, and XLA puts another axis in the lanes
# How often the elements of y are rearranged by "dilated" where the batch does not fill the sublanes.
SMALL_BATCH: Mapping[Contraction, int] = MappingProxyType({"transpose": 28, "input_grad": 3, "filter_grad": 2})
INTERLEAVED = 8  # the same by "matmul" for the phases of the last of several dimensions
DEPTHWISE = 16  # and for products that are no matrix product, of 16-bit floats, which are converted for it


def _tiled(size: int, tile: int) -> int:
    """Rounded up to whole tiles."""
    return -(-size // tile) * tile


def _registers(sizes: Sizes) -> float:
    """How many times as many registers these elements take as 16-bit ones."""
    return max(sizes.itemsize, 2) / 2


def _dilated(contraction: Contraction, sizes: Sizes) -> Work:
    """A convolution; of those with groups only the depthwise ones are computed together."""
    geometry, inputs = sizes.geometry, math.prod(sizes.spatial)
    groups = 1 if sizes.depthwise else geometry.groups
    out = LANES if sizes.depthwise else _tiled(sizes.out_channels // groups, LANES)
    tiles = sizes.taps * _tiled(sizes.in_channels // groups, LANES) * out * groups
    if contraction == "filter_grad":
        rows = _tiled(sizes.batch * inputs, SUBLANES)
    else:  # the batch fills the sublanes, and part of the dimensions do where there are several
        shared = 2 if geometry.ndim > 1 and sizes.batch < SUBLANES else 1
        rows = inputs * _tiled(sizes.batch, SUBLANES) // shared
    rearranged = SMALL_BATCH[contraction] * sizes.y if sizes.batch < SUBLANES else 0
    return Work(convolution=2 * tiles * rows, moved=sizes.x + sizes.y + sizes.w, rearranged=rearranged)


def _matmul(contraction: Contraction, sizes: Sizes) -> Work:
    """A matrix product, and a pass over its products, or patches, for each term that is summed or joined."""
    geometry = sizes.geometry
    groups, pieces = geometry.groups, terms(geometry)
    columns = _tiled(sizes.taps * (sizes.out_channels // groups), LANES)
    tiles = _tiled(sizes.in_channels // groups, LANES) * columns * groups
    rows = _tiled(sizes.batch * math.prod(sizes.spatial), SUBLANES)
    padded = _tiled(sizes.out_channels, LANES) / sizes.out_channels if sizes.out_channels >= FEW_CHANNELS else 1
    several = geometry.ndim > 1
    passes = 1 + (padded if several and pieces > 1 else 0) + (DEPTHWISE if sizes.depthwise and sizes.itemsize < 4 else 0)
    interleaved = INTERLEAVED * padded * sizes.y if several and contraction == "transpose" else 0
    return Work(
        product=2 * tiles * rows,
        moved=sizes.x + sizes.y + sizes.w,
        rearranged=(passes * sizes.products + interleaved) * _registers(sizes),
        steps=pieces - 1,
        temporary=sizes.products,
    )


WORK: Mapping[Implementation, Amounts] = MappingProxyType({**_work_cpu.WORK, "dilated": _dilated, "matmul": _matmul})

"""TPU: amounts that explain what its compiler estimates, not what was measured, and the forms that it wants.

A TPU multiplies tiles of 128 x 128 of the filter with registers of 8 x 128 of activations, and holds arrays in such tiles, of eight
rows of 128 lanes. So operations are counted on rounded sizes, and what XLA pads, or brings into another order on the way, as elements
rearranged. Only "dilated" and "matmul" are chosen here; the amounts of others are those of CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from jaxdeconv._lowerings import Lowering, dilated, general
from jaxdeconv._lowerings._blocks import terms
from jaxdeconv._lowerings._work import Contraction, Name, Rates, Sizes, Work
from jaxdeconv._platforms import cpu

RATES = Rates(  # in a cycle of a v5e, fitted to what its compiler estimates: `python -m benchmarks.estimates`
    product=350e3,
    convolution=350e3,
    looped=1e3,
    naive=1e3,
    moved=800,
    rearranged=37,
    steps=1 / 1100,
)

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


def work(name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    """How much a lowering does."""
    own = {"dilated": _dilated, "matmul": _matmul}
    return own[name](contraction, sizes) if name in own else cpu.work(name, contraction, sizes)


def lowering(contraction: Contraction, name: Name) -> Lowering:
    """The function, in the form that is fast here."""
    return dilated.filter_grad_by_item if (contraction, name) == ("filter_grad", "dilated") else general(contraction, name)


def avoided(name: Name, contraction: Contraction, sizes: Sizes) -> bool:
    """What is not to be chosen, because XLA's partitioner gathers activations for it, or moves more the more devices there are.

    Not so "dilated" for filter gradients of groups, because "matmul" would take up to ten times as many cycles: of depthwise ones,
    which gathers where the channels are sharded, and of others on one chip. docs/sharding.md has the evidence.
    """
    del contraction, sizes
    return name not in ("dilated", "matmul")

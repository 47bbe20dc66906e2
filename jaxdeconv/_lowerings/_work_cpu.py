"""How much each lowering does for XLA on CPU: amounts from sizes alone, by lowering."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from jaxdeconv._lowerings._blocks import terms
from jaxdeconv._lowerings._cpu_forms import pieces_of
from jaxdeconv._lowerings._work import Amounts, Contraction, Implementation, Sizes, Work, one_group
from jaxdeconv._lowerings.polyphase import coarse, extended, offsets, placed_taps

SLOWER = (1, 1.35, 4)  # times a matrix product, that XLA's strided convolutions of 1, 2 and more dimensions take on CPU
VECTOR = 16  # float32 lanes: a convolution to fewer channels computes as many


def _dilated(contraction: Contraction, sizes: Sizes) -> Work:
    """A convolution, or what XLA makes of it."""
    geometry = sizes.geometry
    n, groups, stuffed = geometry.ndim, geometry.groups, math.prod(geometry.strides)
    moved = sizes.x + sizes.y + sizes.w
    if contraction == "filter_grad":
        if sizes.depthwise or (groups > 1 and n > 1):
            return Work(naive=sizes.flops, moved=moved)
        # Operands and result are transposed, the batch being the channels. Patches of too few channels are gathered one by one.
        held = moved - min(sizes.x, sizes.y, sizes.w)
        gathered = 4 * n * sizes.products if sizes.batch < (4 if n == 1 else VECTOR) else 0
        return Work(convolution=sizes.flops * groups, moved=moved, rearranged=moved + gathered, temporary=held)
    dilated_volume = n > 2 and any(d > 1 for d in geometry.dilations)  # XLA's three-dimensional convolutions take no dilation
    if contraction == "input_grad":
        if sizes.depthwise or dilated_volume:
            return Work(naive=sizes.flops, moved=moved)
        return Work(convolution=sizes.flops * groups * SLOWER[min(n, 3) - 1], moved=moved, rearranged=sizes.w if n > 1 else 0)
    reversed_filter = 4 * sizes.w
    if stuffed == 1 and not sizes.depthwise and not dilated_volume:
        channels = max(1, VECTOR / (sizes.out_channels // groups))
        return Work(convolution=sizes.flops * groups * channels, moved=moved, rearranged=reversed_filter, temporary=sizes.w)
    if n > 2 or groups > 1:  # multiplies with the stuffed zeros
        return Work(naive=sizes.flops * stuffed, moved=moved, temporary=sizes.w)
    into_place = 2 * sizes.products
    return Work(convolution=sizes.flops, moved=moved, rearranged=reversed_filter + into_place, temporary=sizes.w)


def _matmul(contraction: Contraction, sizes: Sizes) -> Work:
    """For one group."""
    across = 2 * (sizes.x + sizes.products) if contraction == "filter_grad" else 0  # a contraction over rows reads columns
    moved = sizes.x + sizes.y + sizes.w + 2 * sizes.products + across
    temporary = sizes.products
    if contraction == "filter_grad":
        batches, pieces = pieces_of((sizes.batch, *sizes.spatial), sizes.products, sizes.w, sizes.itemsize)
        temporary = temporary // (batches * pieces) + (sizes.y if pieces > 1 else 0)
    return Work(product=sizes.flops, moved=moved, temporary=temporary)


def _polyphase(contraction: Contraction, sizes: Sizes) -> Work:
    """For one group."""
    geometry, sizes = sizes.geometry, sizes._replace(geometry=extended(sizes.geometry))
    # Of the convolution whose output are the blocks.
    coarse_sizes = sizes._replace(geometry=coarse(geometry), out_channels=sizes.out_channels * math.prod(geometry.strides))
    passes = 2 if any(offsets(geometry)) or geometry.ndim > 1 else 0  # to move the blocks to where they belong
    own = _dilated(contraction, coarse_sizes)
    return own._replace(
        moved=own.moved + passes * sizes.y,
        rearranged=own.rearranged if contraction == "transpose" else own.rearranged + 4 * coarse_sizes.w,
        temporary=max(own.temporary, coarse_sizes.w) + (sizes.y if passes else 0),
    )


def _elementwise(contraction: Contraction, sizes: Sizes) -> Work:
    if contraction == "transpose":
        placed = placed_taps(sizes.geometry) * sizes.in_channels
        return Work(
            looped=2 * terms(extended(sizes.geometry)) * sizes.y, moved=sizes.x + sizes.y + placed, temporary=sizes.x + placed
        )
    stored = 2 * sizes.taps * sizes.x if contraction == "filter_grad" else 0  # the products of one tap, then of the next
    return Work(looped=sizes.flops, moved=sizes.x + sizes.w + 3 * sizes.y + stored, temporary=sizes.y)


def _per_group(work: Amounts) -> Amounts:
    """Of the work for one group, that for all."""

    def total(contraction: Contraction, sizes: Sizes) -> Work:
        groups = sizes.geometry.groups
        if groups == 1:
            return work(contraction, sizes)
        whole = Work(*(groups * amount for amount in work(contraction, one_group(sizes))))
        taken_apart = sizes.x + sizes.y + sizes.w
        return whole._replace(moved=whole.moved + 2 * taken_apart)  # as part of what is then held for each anyway

    return total


WORK: Mapping[Implementation, Amounts] = MappingProxyType(
    {"dilated": _dilated, "matmul": _per_group(_matmul), "polyphase": _per_group(_polyphase), "elementwise": _elementwise}
)

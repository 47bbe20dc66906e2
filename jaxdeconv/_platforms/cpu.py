"""CPU: what XLA does fast there, how much each lowering does, and the forms that it wants."""

from __future__ import annotations

import math
from functools import lru_cache, partial

from jaxdeconv._lowerings import Lowering, any_layout, by_forms, dilated, forms_of, general
from jaxdeconv._lowerings._groups import MOST_ON_CPU, per_group
from jaxdeconv._lowerings._work import Contraction, Form, Name, Rates, Sizes, Work, one_group
from jaxdeconv._lowerings.elementwise import blocks_summed
from jaxdeconv._lowerings.mixed import apart, inner_sizes, is_product, phases
from jaxdeconv._platforms import cpu_lowerings, cpu_stored
from jaxdeconv._platforms.cpu_convolutions import merged

RATES = Rates(  # in a second, fitted to `python -m benchmarks --lowerings`
    product=300e9,
    convolution=285e9,
    looped=25e9,
    naive=1e9,
    moved=20e9,
    rearranged=1.25e9,
    fresh=4e9,
    fresh_from=2**25,  # the largest block that glibc keeps for reuse
    narrow_product=3,  # by the processor's matrix unit
    narrow_convolution=0.6,  # which XLA computes in float32, after converting
)

SLOWER = (1, 1.35, 4)  # times a matrix product, that XLA's strided convolutions of 1, 2 and more dimensions take on CPU
VECTOR = 16  # float32 lanes: a convolution to fewer channels computes as many


def _convolution(contraction: Contraction, sizes: Sizes) -> Work:
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


def _mixed(contraction: Contraction, sizes: Sizes, forms: tuple[Form, ...]) -> Work:
    """For one group: the inner contraction, and what is read or written around it."""
    way = apart(sizes.geometry, forms)
    inner = inner_sizes(sizes, way)
    if is_product(forms):
        across = 2 * (sizes.x + sizes.products) if contraction == "filter_grad" else 0  # a contraction over rows reads columns
        moved = sizes.x + sizes.y + sizes.w + 2 * sizes.products + across
        temporary = sizes.products
        if contraction == "filter_grad":
            batches, pieces = cpu_lowerings.pieces_of((sizes.batch, *sizes.spatial), sizes.products, sizes.w, sizes.itemsize)
            temporary = temporary // (batches * pieces) + (sizes.y if pieces > 1 else 0)
        return Work(product=sizes.flops, moved=moved, temporary=temporary)
    fewer, batch, spatial = merged(inner.geometry, inner.batch, inner.spatial)
    own = _convolution(contraction, inner._replace(geometry=fewer, batch=batch, spatial=spatial))
    return own._replace(
        moved=own.moved + inner.y + sizes.y,
        rearranged=own.rearranged if contraction == "transpose" else own.rearranged + 4 * inner.w,
        temporary=max(own.temporary, inner.w) + inner.y,
    )


def _elementwise(contraction: Contraction, sizes: Sizes) -> Work:
    if contraction == "transpose":
        placed = phases(sizes.geometry).placed_taps * sizes.in_channels
        return Work(looped=2 * blocks_summed(sizes.geometry) * sizes.y, moved=sizes.x + sizes.y + placed, temporary=sizes.x + placed)
    stored = 2 * sizes.taps * sizes.x if contraction == "filter_grad" else 0  # the products of one tap, then of the next
    return Work(looped=sizes.flops, moved=sizes.x + sizes.w + 3 * sizes.y + stored, temporary=sizes.y)


def work(name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    """How much a lowering does."""
    if name == "dilated":
        return _convolution(contraction, sizes)
    if name == "elementwise":
        return _elementwise(contraction, sizes)
    forms, groups = forms_of(name, sizes.geometry.ndim), sizes.geometry.groups
    assert forms is not None
    if groups == 1:
        return _mixed(contraction, sizes, forms)
    whole = Work(*(groups * amount for amount in _mixed(contraction, one_group(sizes), forms)))
    taken_apart = sizes.x + sizes.y + sizes.w
    return whole._replace(moved=whole.moved + 2 * taken_apart)  # as part of what is then held for each anyway


@lru_cache(None)
def lowering(contraction: Contraction, name: Name) -> Lowering:
    """The function, in the form that is fast here."""
    if name == "dilated":  # XLA computes convolutions with groups by scalar loops
        function: Lowering = partial(getattr(dilated, contraction), in_order=True)
        return per_group(contraction, function, one_by_one=MOST_ON_CPU)
    if name == "elementwise":
        if contraction == "filter_grad":
            return any_layout(contraction, cpu_lowerings.elementwise_filter_grad)
        return general(contraction, name)
    function = per_group(contraction, by_forms(name, getattr(cpu_lowerings, contraction)), one_by_one=MOST_ON_CPU)
    return function if name == "matmul" and contraction != "input_grad" else any_layout(contraction, function)


def stored(contraction: Contraction, name: Name, layout: str, sizes: Sizes | None) -> Lowering | None:
    """The form of a lowering that takes, or gives, a filter as it is stored in a layout; None if there is none.

    sizes is None where some are symbolic.
    """
    if name == "matmul" and sizes is not None and cpu_stored.keeps_layout(sizes, layout):
        return partial(getattr(cpu_stored, contraction), layout=layout, sizes=sizes)
    if (contraction, name) == ("transpose", "dilated") and (sizes is None or sizes.geometry.groups == 1):
        return partial(dilated.transpose, layout=layout, in_order=True)
    return None


def avoided(name: Name, contraction: Contraction, sizes: Sizes) -> bool:
    """What is not to be chosen: nothing."""
    del name, contraction, sizes
    return False

"""CPU: what XLA does fast there, how much each lowering does, and the forms that it wants."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial

from jaxdeconv._lowerings import Lowering, any_layout, by_forms, dilated, forms_of, general
from jaxdeconv._lowerings._blocks import is_reshape, terms
from jaxdeconv._lowerings._groups import MOST_ON_CPU, at_a_time, per_group
from jaxdeconv._lowerings._work import Contraction, Name, Rates, Sizes, Work, total
from jaxdeconv._lowerings.elementwise import blocks_summed
from jaxdeconv._lowerings.mixed import Apart, apart, inner_sizes, phases
from jaxdeconv._platforms import cpu_lowerings, cpu_patches, cpu_stored
from jaxdeconv._platforms.cpu_convolutions import OF_YNNPACK, YNNPACK, is_doubled, merged, ordered

RATES = Rates(  # in a second, fitted to random layers: `python -m benchmarks --random N --seed S --lowerings`
    product=490e9,
    convolution=380e9,
    looped=55e9,
    naive=0.6e9,
    moved=145e9,
    rearranged=1.6e9,
    gathered=60e9,
    jumps=0.16e9,
    steps=33e3,
    fresh=8e9,
    fresh_from=2**25,  # the largest block that glibc keeps for reuse
    narrow_product=3,  # by the processor's matrix unit
    narrow_convolution=0.6,  # which XLA computes in float32, after converting
)

VECTOR = 16  # float32 lanes: a product or convolution to fewer columns computes as many
SLOWER = (1, 1.9, 10)  # times as long, that operations of convolutions take in 1, 2 and more dimensions
VOLUME = 6  # times as long, that a jump takes in three
MOST_FUSED = 8  # terms of overlap_add, into which XLA fuses a product with one input channel
# What other elements count, of those that are moved in order:
ADDED = 1.2  # for each term of overlap_add,
SEVERAL = 4  # of which each takes longer from so many on, in proportion
TRANSPOSED = 4
OF_BATCH = 3  # times as long: operands of a filter gradient by convolution, whose batch becomes its features,
WINDOW = 2  # or where it is the window, whose channels are last before and after
COPIED = 5  # in runs, as patches are
TAKEN = 20  # out of a part of the channels, where they are last
OF_SMALL = 4  # in products of rows with a small matrix, where channels are last: XLA's convolution of one tap is faster,
FEATURES, COLUMNS = 48, 200  # that has at most so many rows and columns
IN_LOOP = 2.5  # times as long: patches of a piece, which the body of a loop makes on one core, from starts that vary
MANY = 64  # terms of such a loop, from which each takes longer, in proportion; from about 230 on XLA computes results one by one
BESIDE = 8  # results in the innermost dimension, below which XLA does not compute a loop over channels several at a time
SUMMED = 2  # times as fast, that products of a tap are summed by a product with ones


def _over_x(contraction: Contraction, sizes: Sizes) -> bool:
    """Whether F by a convolution has x on the left, and g as the window."""
    samples, lengths = math.prod(sizes.spatial), math.prod(sizes.lengths)
    fewer = dilated.is_over_fewer(sizes.geometry, sizes.in_channels, sizes.out_channels, samples, lengths)
    return contraction == "filter_grad" and fewer


def _patched(contraction: Contraction, sizes: Sizes) -> tuple[int, int, int, tuple[int, ...], tuple[int, ...]]:
    """A convolution as a product of its patches: rows, features, columns; and the window of a patch, and the steps in it."""
    geometry = sizes.geometry
    if _over_x(contraction, sizes):
        return sizes.in_channels * sizes.taps, sizes.batch, sizes.out_channels, sizes.lengths, geometry.strides
    if contraction == "filter_grad":
        return sizes.out_channels * sizes.taps, sizes.batch, sizes.in_channels, sizes.spatial, geometry.strides
    if contraction == "input_grad":
        rows = sizes.batch * math.prod(sizes.spatial)
        return rows, sizes.out_channels, sizes.in_channels, geometry.kernel, geometry.dilations
    return sizes.batch * math.prod(sizes.lengths), sizes.in_channels, sizes.out_channels, geometry.kernel, geometry.dilations


def _convolution(contraction: Contraction, sizes: Sizes) -> Work:
    """For one group, channels last: what XLA makes of it."""
    geometry, operands = sizes.geometry, sizes.x + sizes.y + sizes.w
    n, stuffed = geometry.ndim, math.prod(geometry.strides)
    if n > 2 and contraction != "filter_grad" and any(d > 1 for d in geometry.dilations):
        return Work(naive=sizes.flops, moved=operands)
    if contraction == "transpose" and stuffed > 1:
        if n > 2 or math.prod(sizes.spatial) < sizes.taps:  # multiplies with the stuffed zeros; the shorter ones it swaps first
            return Work(naive=sizes.flops * stuffed, moved=operands)
        # A product with all taps, which are then put into their places.
        operations = sizes.flops * max(1, VECTOR / (sizes.taps * sizes.out_channels))
        moved = operands + TRANSPOSED * sizes.w
        return Work(convolution=operations, moved=moved, rearranged=sizes.products, temporary=sizes.w, inside=sizes.products)
    rows, features, columns, window, steps = _patched(contraction, sizes)
    gathered = rows * math.prod(window) * features
    jumps: float = rows * math.prod(window[:-1] if set(steps) == {1} else window)  # from one run of a patch to the next
    pointwise = math.prod(window) == 1  # nothing to gather
    left, right = (sizes.x, sizes.y) if _over_x(contraction, sizes) else (sizes.y, sizes.x)
    by_batch = OF_BATCH * left + (WINDOW if geometry.channels_last else OF_BATCH) * right
    transposed = {"filter_grad": by_batch, "transpose": sizes.w, "input_grad": 0}[contraction]
    doubled = contraction == "filter_grad" and sizes.itemsize == 4 and is_doubled(geometry, sizes.batch, sizes.flops)
    together = not pointwise and not doubled
    given = YNNPACK and n == 2 and contraction != "filter_grad" and max(features, columns) > OF_YNNPACK
    return Work(
        convolution=2 * gathered * max(columns, VECTOR) * (1 if doubled else SLOWER[min(max(n, 1), 3) - 1]),
        gathered=gathered if together else 0,
        jumps=jumps * (VOLUME if n > 2 else 1) if together else 0,
        moved=operands + TRANSPOSED * transposed + rows * columns / COPIED,
        rearranged=gathered if doubled else 0,  # one by one
        steps=0 if pointwise or given else 1,
        temporary={"filter_grad": sizes.x + sizes.y, "transpose": sizes.w, "input_grad": 0}[contraction],
    )


def _product(contraction: Contraction, sizes: Sizes) -> Work:
    """For one group: of a matrix of the inputs, of the taps, or of both."""
    inputs, features, columns = sizes.batch * math.prod(sizes.spatial), sizes.in_channels, sizes.taps * sizes.out_channels
    moved, operations = sizes.x + sizes.y + sizes.w + sizes.products, sizes.flops
    if contraction == "filter_grad":  # contracts over rows, and so reads columns
        return Work(product=operations * max(1, VECTOR / min(features, columns)), moved=moved + sizes.x + sizes.products)
    if contraction == "input_grad":
        features, columns = columns, features
    small = 1 < features <= FEATURES and 1 < columns <= COLUMNS and sizes.geometry.channels_last
    again = OF_SMALL * (sizes.x + sizes.products) if small else 0
    return Work(product=operations * max(1, VECTOR / min(inputs, columns)), moved=moved + again)


def _joined(contraction: Contraction, sizes: Sizes, way: Apart, product: bool, channels_last: bool = True) -> Work:
    """overlap_add of what an inner T gives, or the patches that an inner C or F is given."""
    outer, held = way.outer, inner_sizes(sizes, way).y
    count = terms(outer)
    if is_reshape(outer, channels_last):
        return Work()
    moved = ADDED * count * max(1, count / SEVERAL) * sizes.y if contraction == "transpose" else COPIED * held
    if contraction == "transpose" and sizes.in_channels == 1 and count <= MOST_FUSED and product:
        return Work(moved=moved)  # there is nothing to sum: one loop, and nothing is held
    whole = Work(moved=moved)
    if contraction != "transpose" and count == 1 and channels_last and not cpu_patches.joins_taps(outer):
        whole = Work(rearranged=held)  # XLA makes a transposition of its own, which is slower than a loop
    if contraction == "filter_grad" and not product:
        return whole  # the copy that brings them into the order of F holds them
    if contraction == "filter_grad":
        batches, pieces = cpu_lowerings.pieces_of((sizes.batch, *sizes.spatial), held, sizes.w, sizes.itemsize)
        if batches * pieces > 1:
            whole = Work(*(IN_LOOP * amount for amount in whole))
        taken = sizes.x + sizes.y if pieces > 1 else 0  # what a piece has of the operands
        return whole._replace(temporary=(held + taken) // (batches * pieces))
    return whole._replace(temporary=held)


def _of_one_group(name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    forms = forms_of(name, sizes.geometry.ndim)
    assert forms is not None
    way, channels_last, product = apart(sizes.geometry, forms), sizes.geometry.channels_last, name == "matmul"
    if name == "dilated":
        amounts = [_convolution(contraction, sizes)]
    elif product:
        amounts = [_product(contraction, sizes), _joined(contraction, sizes, way, product, channels_last)]
    else:
        inner = inner_sizes(sizes, way)
        placed = inner.w if math.prod(inner.geometry.kernel) > 1 else 0  # taps of the filter, beside each other
        fewer, batch, spatial = merged(contraction, inner.geometry, inner.batch, inner.spatial)
        amounts = [
            _convolution(contraction, inner._replace(geometry=fewer, batch=batch, spatial=spatial)),
            _joined(contraction, sizes, way, product),
            Work(moved=inner.y + TRANSPOSED * placed, temporary=placed),
        ]
    if not channels_last and product:
        # x or the products, whichever is less
        result = {"transpose": sizes.y, "input_grad": min(sizes.x, sizes.products), "filter_grad": 0}[contraction]
        amounts.append(Work(moved=TRANSPOSED * result))
    elif not channels_last and contraction != "filter_grad":  # whose one copy brings channels last, too
        amounts.append(Work(moved=TRANSPOSED * (sizes.x + sizes.y), temporary=sizes.x + sizes.y))
    return total(*amounts, Work(steps=1))


def _elementwise(contraction: Contraction, sizes: Sizes) -> Work:
    channels = max(sizes.in_channels, sizes.out_channels)  # one alone is none to loop over
    apart = BESIDE / channels if sizes.geometry.channels_last and 1 < channels < BESIDE else 1
    if contraction == "transpose":
        way, count = phases(sizes.geometry), blocks_summed(sizes.geometry)
        placed = way.placed_taps * sizes.out_channels
        looped = apart * max(1, count / MANY) * count * sizes.y
        around = sizes.x if max(way.inner.kernel, default=1) > 1 else 0  # a copy with zeros around it
        return Work(looped=looped, moved=sizes.x + sizes.y + placed, temporary=around + placed, steps=1)
    every = sizes.taps * sizes.x
    cropped = sizes.y if any(map(any, sizes.geometry.crops)) else 0  # a copy with zeros for what was
    moved = sizes.x + sizes.w + sizes.y + 2 * cropped
    if contraction == "filter_grad":  # one tap after the other, of a piece after the other
        turned = 0 if sizes.geometry.channels_last else sizes.x + sizes.y  # copies with channels last
        pieces = math.prod(cpu_lowerings.elementwise_pieces((sizes.batch, *sizes.spatial, sizes.in_channels), sizes.itemsize))
        summed = every if sizes.in_channels < cpu_lowerings.ONES_FROM else every / SUMMED
        taken = sizes.x + sizes.y if pieces > 1 else cropped
        moved += TRANSPOSED * turned
        return Work(rearranged=summed, moved=moved, temporary=turned + (sizes.x + taken) // pieces, steps=1)
    return Work(looped=apart * max(1, sizes.taps / MANY) * every, moved=moved, temporary=cropped, steps=1)


def work(name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    """How much a lowering does."""
    if name == "elementwise":
        return _elementwise(contraction, sizes)
    geometry, groups = sizes.geometry, sizes.geometry.groups
    if groups == 1:
        return _of_one_group(name, contraction, sizes)
    operands = sizes.x + sizes.y + sizes.w
    several = at_a_time(groups, sizes.in_channels // groups, sizes.out_channels // groups, MOST_ON_CPU)
    if several == 0 and name != "matmul":  # a convolution with groups
        return Work(naive=sizes.flops * (math.prod(geometry.strides) if contraction == "transpose" else 1), moved=operands)
    parts = groups // max(several, 1)
    one = replace(geometry, groups=1)
    part = sizes._replace(geometry=one, in_channels=sizes.in_channels // parts, out_channels=sizes.out_channels // parts)
    whole = Work(*(parts * amount for amount in _of_one_group(name, contraction, part)))
    # Channels that are last are taken apart in short runs. By vmap the parts are one program.
    taken = TAKEN * operands if geometry.channels_last and parts > 1 else operands
    return whole._replace(moved=whole.moved + taken, steps=parts if several else 1)


@lru_cache(None)
def lowering(contraction: Contraction, name: Name, axes: int) -> Lowering:
    """The function, in the form that is fast here."""
    if name == "dilated":  # XLA computes convolutions with groups by scalar loops
        return per_group(contraction, ordered(contraction), one_by_one=MOST_ON_CPU)
    if name == "elementwise":
        if contraction == "filter_grad":
            return any_layout(contraction, cpu_lowerings.elementwise_filter_grad)
        # XLA gives YNNPACK a sum over the result with the sums that the result is, which takes up to 50 times as long. No slice.
        return partial(general(contraction, name), sliced=True)
    function: Lowering = per_group(contraction, by_forms(name, getattr(cpu_lowerings, contraction)), one_by_one=MOST_ON_CPU)
    return function if name == "matmul" else any_layout(contraction, function)


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
    """What is not to be chosen: phases within one block, and, with channels first, taps by a convolution. "matmul" does the same."""
    forms = set(name.split(","))
    return (name == "polyphase" and set(phases(sizes.geometry).inner.kernel) <= {1}) or (
        forms == {"taps"} and not sizes.geometry.channels_last
    )

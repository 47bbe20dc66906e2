"""TPU: amounts that explain what its compiler estimates, not what was measured, and the forms that it wants.

A TPU multiplies tiles of 128 x 128 of the filter with registers of 8 x 128 of activations, and holds arrays in such tiles, of eight
rows of 128 lanes. So operations are counted on rounded sizes, and what XLA pads, or brings into another order on the way, as elements
rearranged. Layers were asked about alone, and between two ordinary convolutions of a network; the amounts are for the mean of both.
Only "dilated" and "matmul" are chosen here; the amounts of others are those of CPU.
"""

from __future__ import annotations

import math
from typing import Any

import jax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Lowering, dilated, general
from jaxdeconv._lowerings._blocks import terms
from jaxdeconv._lowerings._work import Contraction, Name, Rates, Sizes, Work
from jaxdeconv._platforms import cpu

RATES = Rates(  # in a cycle of a v5e, fitted to estimates of random layers: `python -m benchmarks.estimates --random N`
    product=131072,
    convolution=131072,
    looped=1e3,
    naive=1e3,
    moved=800,
    rearranged=36,
    steps=1 / 800,
    surely=1.3,  # XLA keeps one order through the convolutions of a network
)

LANES = 128
SUBLANES = 8
ROWS = 16  # of a tile of 16-bit elements
FEW_CHANNELS = 32  # fewer, and XLA puts another axis in the lanes, or taps
STARTED = 2  # programs that a product is more than a convolution

# T
POSITION = 32  # rows in whose time a tile of the filter is loaded, anew for each position and tap,
HALF = 0.5  # and the time of an item there, in rows
PARTS = 8  # of a signal that XLA makes items of the batch, if that does not fill the sublanes,
SHORT = 16  # unless there are fewer inputs
EDGE = 0.42  # times that x and y are rearranged for a convolution, and phases for their places between others,
VMEM = 1e8  # unless they fit so many bytes of memory on the chip, and lanes change places with sublanes
OPERAND = 0.1  # times that x is for a product
SCALED = 4  # times more that products are which are no matrix product, of 16-bit floats, which are converted for it

# C and F
LONG = 1024  # inputs from which XLA makes parts of the signal items of the batch, if that does not fill the sublanes
PARTED = 5  # times as much gradients of one dimension take where the batch does not fill the sublanes
STRIDED = 2  # and of several dimensions with a stride
INPUTS = 1.5  # times that an input is rearranged; an output is once,
PRODUCTS = 0.55  # and a patch,
OVERLAPPED = 0.4  # and more of it in several dimensions
DEPTHWISE = 16  # times, and for products that are no matrix product, of 16-bit floats, which are converted for it
OUTER = 2  # and where a group has one input, but several outputs


def _tiles(channels: int) -> int:
    return -(-channels // LANES)


def _held(channels: int) -> int:
    """Channels as they are stored."""
    return LANES * _tiles(channels) if channels >= FEW_CHANNELS else max(channels, SUBLANES)


def _registers(sizes: Sizes) -> float:
    """How many times as many registers these elements take as 16-bit ones."""
    return max(sizes.itemsize, 2) / 2


def _edges(sizes: Sizes) -> tuple[float, float]:
    """Elements of x and y as they are stored."""
    x = sizes.batch * math.prod(sizes.spatial) * _held(sizes.in_channels)
    return x * _registers(sizes), sizes.batch * math.prod(sizes.lengths) * _held(sizes.out_channels) * _registers(sizes)


def _stored(rows: int, lanes: int) -> int:
    """Elements of two axes in tiles."""
    return LANES * SUBLANES * -(-rows // SUBLANES) * _tiles(lanes)


def _multiplied(sizes: Sizes) -> int:
    """Operations of the matrix product, on whole tiles."""
    groups, inputs = sizes.geometry.groups, sizes.batch * math.prod(sizes.spatial)
    tiles = _tiles(sizes.in_channels // groups) * _tiles(sizes.taps * (sizes.out_channels // groups)) * groups
    return 2 * LANES * LANES * tiles * SUBLANES * -(-inputs // SUBLANES)


def _is_parted(sizes: Sizes) -> bool:
    """Whether XLA makes parts of the last dimension items of the batch for T: if outputs reach over one sample of the part before."""
    geometry, inputs = sizes.geometry, (0, *sizes.spatial)[-1]
    if sizes.batch >= SUBLANES or inputs < SHORT or (geometry.groups > 1 and not sizes.depthwise):
        return False
    k, s, (low, _) = geometry.effective_kernels[-1], geometry.strides[-1], geometry.crops[-1]
    return inputs > PARTS * -(-(k - 1) // s) and (s == 1 or (k <= 2 * s and k - 1 - low <= s))


def _samples(sizes: Sizes) -> tuple[int, float, float]:
    """Items of the batch as T's convolution has them, and inputs and outputs of each."""
    items, inputs, outputs = sizes.batch, float(math.prod(sizes.spatial)), float(math.prod(sizes.lengths))
    if not _is_parted(sizes):
        return items, inputs, outputs
    part = (sizes.spatial[-1] // PARTS + 1) / sizes.spatial[-1]
    return PARTS * items, part * inputs, part * outputs


def _as_held(sizes: Sizes) -> tuple[float, float]:
    """Elements of x and y as it stores them, with channels or items in the lanes."""
    items, inputs, outputs = _samples(sizes)
    rows = (inputs, sizes.in_channels), (outputs, sizes.out_channels)
    x, y = (samples * min(_stored(items, channels), _stored(channels, items)) for samples, channels in rows)
    return x, y


def _convolved(sizes: Sizes) -> Work:
    """T by a convolution. It leaves stuffed zeros out, and takes one position after the other, of all items of the batch."""
    groups = 1 if sizes.depthwise else sizes.geometry.groups
    features, columns = (1 if sizes.depthwise else sizes.in_channels // groups), sizes.out_channels // groups
    items, inputs, outputs = _samples(sizes)
    taken = inputs * sizes.taps  # positions and taps that meet
    steps = taken * _tiles(features)
    if groups == 1 and not sizes.depthwise and math.prod(sizes.spatial) < sizes.taps:  # then XLA has x as the window, over w
        rows = min(steps, inputs * outputs * _tiles(features)) * _tiles(items) * (POSITION + columns)
    elif sizes.depthwise:
        rows = steps * _tiles(columns) * -(-items // SUBLANES) * POSITION / 2
    else:
        load = POSITION * -(-2 * features // LANES) / 2  # half a tile of few inputs
        rows = taken * _tiles(columns) * (load + HALF * items * _tiles(features))
        if columns < FEW_CHANNELS and items >= SUBLANES:  # then items may be in the lanes, and outputs in rows
            rows = min(rows, max(outputs * -(-columns // SUBLANES) * POSITION, steps * SUBLANES) * _tiles(items))
    x, y = _as_held(sizes)
    return Work(
        convolution=2 * LANES * LANES * rows * groups,
        moved=sizes.x + sizes.y + sizes.w,
        rearranged=EDGE * (x + y),
    )


def _products(sizes: Sizes) -> Work:
    """T by a matrix product. Its products are stored with the outputs or a spatial dimension in the lanes, whichever pads less."""
    geometry, inputs, groups = sizes.geometry, math.prod(sizes.spatial), sizes.geometry.groups
    batch, columns = sizes.batch * groups, sizes.out_channels // groups
    samples = batch * inputs * sizes.taps
    wide = min((samples // n * _stored(n, columns) for n in (sizes.batch, *sizes.spatial) if n), default=0)
    along = ((n, m) for n in sizes.spatial for m in (*geometry.kernel, columns) if n and m)
    long = min((samples * columns // (n * m) * _stored(m, n) for n, m in along), default=math.inf)
    phases = 0.0
    if (strides := math.prod(geometry.strides)) > 1:
        last = geometry.strides[-1]
        alone = min(_stored(last, columns), LANES * columns)  # phases in the sublanes, or in the lanes
        places = min(batch * alone / last, _stored(batch, columns), _stored(columns, batch))
        phases = inputs * strides * places
    is_long = long < wide or (long == wide and columns <= SUBLANES // 2)  # for there are tiles of four rows, too
    if is_long and phases * sizes.itemsize <= VMEM:
        phases = 0
    passes = 1 + (SCALED if sizes.in_channels == groups and sizes.itemsize < 4 else 0)
    return Work(
        product=_multiplied(sizes),
        moved=sizes.x + sizes.y + sizes.w,
        rearranged=passes * min(wide, long) + EDGE * phases + OPERAND * _as_held(sizes)[0],
        steps=terms(geometry) - 1 + STARTED,
        temporary=sizes.products,
    )


def _dilated(contraction: Contraction, sizes: Sizes) -> Work:
    """A gradient by a convolution; only depthwise groups are computed together."""
    geometry, inputs = sizes.geometry, math.prod(sizes.spatial)
    groups = 1 if sizes.depthwise else geometry.groups
    columns, features = (1 if sizes.depthwise else sizes.in_channels // groups), sizes.out_channels // groups
    if contraction == "filter_grad":
        features, columns = columns, features
    tiles = sizes.taps * _tiles(features) * _tiles(columns) * groups
    filled = sizes.batch >= SUBLANES
    # C is with F, since their products share the patches, but for few outputs, whose patches fill no lanes.
    with_f = contraction == "filter_grad" or sizes.out_channels >= FEW_CHANNELS
    over_x = dilated.is_over_x(geometry, sizes.in_channels, sizes.out_channels, ROWS)
    parted = with_f and geometry.ndim == 1 and max(geometry.dilations) == 1 and not filled and not over_x
    if contraction == "filter_grad" or parted:
        rows = sizes.batch * inputs
    else:
        rows = inputs * (sizes.batch if filled or inputs >= LONG else SUBLANES // 2)
    x, y = _edges(sizes)
    counted = 1
    if parted:
        counted = PARTED
    elif with_f and geometry.ndim > 1 and max(geometry.strides) > 1 and not filled:
        counted = STRIDED
    return Work(
        convolution=counted * 2 * LANES * LANES * tiles * rows,
        moved=sizes.x + sizes.y + sizes.w,
        rearranged=counted * (INPUTS * x + y),
    )


def _matmul(sizes: Sizes) -> Work:
    """A gradient by a matrix product, and a pass over its patches for each term that is joined."""
    geometry, inputs = sizes.geometry, sizes.batch * math.prod(sizes.spatial)
    groups, pieces = geometry.groups, terms(geometry)
    products = inputs * sizes.taps * _held(sizes.out_channels) * _registers(sizes)
    passes = PRODUCTS + (OVERLAPPED if geometry.ndim > 1 else 0) + (DEPTHWISE if sizes.depthwise and sizes.itemsize < 4 else 0)
    passes += OUTER if sizes.in_channels == groups < sizes.out_channels else 0
    x, _ = _edges(sizes)
    return Work(
        product=_multiplied(sizes),
        moved=sizes.x + sizes.y + sizes.w,
        rearranged=INPUTS * x + passes * products,
        steps=pieces - 1 + STARTED,
        temporary=sizes.products,
    )


def work(name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    """How much a lowering does."""
    if name not in ("dilated", "matmul"):
        return cpu.work(name, contraction, sizes)
    if contraction == "transpose":
        return _convolved(sizes) if name == "dilated" else _products(sizes)
    return _dilated(contraction, sizes) if name == "dilated" else _matmul(sizes)


def _filter_grad_cut(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F by a convolution: over x if its channels are fewer than those of g, and than the rows of a tile, and nothing is stuffed."""
    if dilated.is_over_x(geometry, x.shape[geometry.channel_axis], g.shape[geometry.channel_axis], ROWS):
        return dilated.filter_grad_over_x(x, g, geometry, **keywords)
    return dilated.filter_grad_by_item(x, g, geometry, **keywords)


def _filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """That where nothing is cut: a depthwise one is one convolution where items and channels fill a tile."""
    sizes = x.shape[0], x.shape[geometry.channel_axis]
    fills = all(not isinstance(size, int) or size >= least for size, least in zip(sizes, (SUBLANES, ROWS), strict=True))
    own = dilated.filter_grad if geometry.groups > 1 and fills else _filter_grad_cut
    return own(x, g, geometry, **keywords)


def lowering(contraction: Contraction, name: Name, axes: int) -> Lowering:
    """The function, in the form that is fast here, and right where the partitioner may cut it."""
    if (contraction, name) != ("filter_grad", "dilated"):
        return general(contraction, name)
    return _filter_grad_cut if axes else _filter_grad


def avoided(name: Name, contraction: Contraction, sizes: Sizes) -> bool:
    """What is not to be chosen, because XLA's partitioner gathers activations for it, or moves more the more devices there are.

    Not so "dilated" for filter gradients of groups, because "matmul" would take up to ten times as many cycles: of depthwise ones,
    which gathers where the channels are sharded, and of others on one chip. docs/sharding.md has the evidence.
    """
    del contraction, sizes
    return name not in ("dilated", "matmul")

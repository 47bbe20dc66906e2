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
LONG = 1024  # inputs from which XLA makes parts of the signal items of the batch, if that does not fill the sublanes
PARTED = 5  # times as much gradients of one dimension take where the batch does not fill the sublanes
STRIDED = 2  # and of several dimensions with a stride
SPREAD = 1.25  # times as much T takes,
SKIPPED = 0.4  # but less where taps overlap and the batch fills the sublanes, or where none do and outputs fill the rows of a tile
INPUTS = 1.5  # times that an input is rearranged; an output is once,
PRODUCTS = 0.55  # and a product or patch,
OVERLAPPED = 0.4  # and more of it in several dimensions
DEPTHWISE = 16  # times, and for products that are no matrix product, of 16-bit floats, which are converted for it
OUTER = 2  # and where a group has one input, but several outputs
STARTED = 2  # programs that a product is more than a convolution


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


def _dilated(contraction: Contraction, sizes: Sizes) -> Work:
    """A convolution, which multiplies the stuffed zeros of T too; only depthwise groups are computed together."""
    geometry, inputs = sizes.geometry, math.prod(sizes.spatial)
    groups = 1 if sizes.depthwise else geometry.groups
    features, columns = (1 if sizes.depthwise else sizes.in_channels // groups), sizes.out_channels // groups
    if contraction == "input_grad":
        features, columns = columns, features
    few = contraction == "transpose" and features < FEW_CHANNELS  # then several taps are one tile
    tiles = (min(sizes.taps, 2 * _tiles(sizes.taps * features)) if few else sizes.taps * _tiles(features)) * _tiles(columns) * groups
    filled = sizes.batch >= SUBLANES
    # C is with F, since their products share the patches, but for few outputs, whose patches fill no lanes.
    with_f = contraction == "filter_grad" or (contraction == "input_grad" and sizes.out_channels >= FEW_CHANNELS)
    over_x = dilated.is_over_x(geometry, sizes.in_channels, sizes.out_channels, ROWS)
    parted = with_f and geometry.ndim == 1 and max(geometry.dilations) == 1 and not filled and not over_x
    if contraction == "filter_grad" or parted:
        rows = sizes.batch * inputs
    else:
        positions = math.prod(sizes.lengths) if contraction == "transpose" else inputs
        rows = positions * (sizes.batch if filled or inputs >= LONG else SUBLANES // 2)
    x, y = _edges(sizes)
    operations = 2 * LANES * LANES * tiles * rows
    counted: float = 1
    if contraction == "transpose" and groups == 1:
        apart = all(k <= s for k, s in zip(geometry.kernel, geometry.strides, strict=True))
        counted = SKIPPED if (columns >= ROWS if apart else filled) else SPREAD
    elif parted:
        counted = PARTED
    elif with_f and geometry.ndim > 1 and max(geometry.strides) > 1 and not filled:
        counted = STRIDED
    return Work(convolution=counted * operations, moved=sizes.x + sizes.y + sizes.w, rearranged=counted * (INPUTS * x + y))


def _matmul(contraction: Contraction, sizes: Sizes) -> Work:
    """A matrix product, and a pass over its products, or patches, for each term that is summed or joined."""
    geometry, inputs = sizes.geometry, sizes.batch * math.prod(sizes.spatial)
    groups, pieces = geometry.groups, terms(geometry)
    tiles = _tiles(sizes.in_channels // groups) * _tiles(sizes.taps * (sizes.out_channels // groups)) * groups
    rows = SUBLANES * -(-inputs // SUBLANES)
    products = inputs * sizes.taps * _held(sizes.out_channels) * _registers(sizes)
    passes = PRODUCTS + (OVERLAPPED if geometry.ndim > 1 else 0) + (DEPTHWISE if sizes.depthwise and sizes.itemsize < 4 else 0)
    passes += OUTER if sizes.in_channels == groups < sizes.out_channels else 0
    x, y = _edges(sizes)
    return Work(
        product=2 * LANES * LANES * tiles * rows,
        moved=sizes.x + sizes.y + sizes.w,
        rearranged=INPUTS * x + passes * products + (y if contraction == "transpose" else 0),
        steps=pieces - 1 + STARTED,
        temporary=sizes.products,
    )


def work(name: Name, contraction: Contraction, sizes: Sizes) -> Work:
    """How much a lowering does."""
    own = {"dilated": _dilated, "matmul": _matmul}
    return own[name](contraction, sizes) if name in own else cpu.work(name, contraction, sizes)


def _filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F by a convolution: over x if its channels are fewer than those of g, and than the rows of a tile, and nothing is stuffed."""
    if dilated.is_over_x(geometry, x.shape[geometry.channel_axis], g.shape[geometry.channel_axis], ROWS):
        return dilated.filter_grad_over_x(x, g, geometry, **keywords)
    return dilated.filter_grad_by_item(x, g, geometry, **keywords)


def lowering(contraction: Contraction, name: Name) -> Lowering:
    """The function, in the form that is fast here."""
    return _filter_grad if (contraction, name) == ("filter_grad", "dilated") else general(contraction, name)


def avoided(name: Name, contraction: Contraction, sizes: Sizes) -> bool:
    """What is not to be chosen, because XLA's partitioner gathers activations for it, or moves more the more devices there are.

    Not so "dilated" for filter gradients of groups, because "matmul" would take up to ten times as many cycles: of depthwise ones,
    which gathers where the channels are sharded, and of others on one chip. docs/sharding.md has the evidence.
    """
    del contraction, sizes
    return name not in ("dilated", "matmul")

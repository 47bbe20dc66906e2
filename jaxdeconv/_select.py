"""Which lowering computes a contraction: a pure policy, no jax.

An estimate of the time each would take, of the work it says it does and the rates of the platform: operations over rate, bytes over
bandwidth. docs/lowerings.md says where the rates come from and what the choice costs against the best one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

from jaxdeconv._lowerings import UNABLE, WORK, Contraction, Implementation, Platform, partitioned_right, shards_well
from jaxdeconv._lowerings._work import Sizes, Work


class Rates(NamedTuple):
    """What a platform does in a unit of time, in float32. Only ratios matter to the choice."""

    product: float  # operations
    convolution: float
    looped: float
    naive: float
    moved: float  # bytes
    rearranged: float  # elements
    steps: float = math.inf  # programs started
    fresh: float = math.inf  # bytes of memory that the operating system has to hand out anew
    fresh_from: float = math.inf  # the size of temporaries, in bytes, from which it does
    narrow_product: float = 1  # times the rate of product in 16-bit floats
    narrow_convolution: float = 1


RATES: Mapping[Platform, Rates] = MappingProxyType(
    {
        "cpu": Rates(  # in a second, fitted to `python -m benchmarks --lowerings`
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
        ),
        "tpu": Rates(  # in a cycle of a v5e, fitted to what its compiler estimates: `python -m benchmarks.estimates`
            product=350e3,
            convolution=350e3,
            looped=1e3,
            naive=1e3,
            moved=800,
            rearranged=37,
            steps=1 / 1100,
        ),
        "gpu": Rates(  # in a second, of the order of an H200's data sheet; not measured, and only `naive` against the others matters
            product=60e12,
            convolution=60e12,
            looped=10e12,
            naive=1e12,
            moved=4.8e12,
            rearranged=0.6e12,
            narrow_product=10,
            narrow_convolution=10,
        ),
    }
)

LARGE = 2  # A temporary of more than this many times the largest operand or result is avoided,
WORTH = 1.5  # unless all lowerings without one would take this many times as long.


def largest_temporary(name: Implementation, contraction: Contraction, sizes: Sizes, platform: Platform) -> int:
    """In bytes: what the program holds; what a convolution of the backend allocates inside is not known before it is compiled."""
    return round(WORK[platform][name](contraction, sizes).temporary * sizes.itemsize)


def seconds(work: Work, rates: Rates, itemsize: int) -> float:
    """The estimate."""
    if itemsize > 4:  # XLA on CPU, and TPUs, have fast convolutions of at most 32 bits
        product, convolution = rates.product * 4 / itemsize, rates.naive
    elif itemsize < 4:
        product, convolution = rates.product * rates.narrow_product, rates.convolution * rates.narrow_convolution
    else:
        product, convolution = rates.product, rates.convolution
    wide = max(itemsize, 4)  # narrow products are summed, and so stored, in float32
    temporary = work.temporary * wide
    return (
        work.product / product
        + work.convolution / convolution
        + (work.looped / rates.looped + work.naive / rates.naive) * wide / 4
        + work.moved * wide / rates.moved
        + work.rearranged / rates.rearranged
        + work.steps / rates.steps
        + (temporary / rates.fresh if temporary >= rates.fresh_from else 0)
    )


def select(contraction: Contraction, sizes: Sizes, platform: Platform, axes: int = 0) -> Implementation:
    """The lowering for this contraction, these sizes and this platform, where operands may be cut over so many axes of a mesh."""
    able: list[Implementation] = [name for name in get_args(Implementation) if UNABLE[name](contraction, sizes) is None]
    able = [name for name in able if partitioned_right(name, sizes, axes)] or ["dilated"]
    if platform != "cpu":  # where devices come in numbers, over which the operands may be sharded
        able = [name for name in able if shards_well(name, contraction, sizes, platform)] or ["dilated"]
    estimates = {name: seconds(WORK[platform][name](contraction, sizes), RATES[platform], sizes.itemsize) for name in able}
    limit = LARGE * sizes.itemsize * max(sizes.x, sizes.y, sizes.w)
    penalty = {name: WORTH if largest_temporary(name, contraction, sizes, platform) > limit else 1 for name in able}
    return min(able, key=lambda name: estimates[name] * penalty[name])


SURELY = 2  # An ordinary convolution becomes something else if that would take at most one in so many of its time.


def select_ordinary(contraction: Contraction, sizes: Sizes, platform: Platform) -> Implementation:
    """The lowering for a convolution of any network, or a gradient of it that JAX makes a good one of: not to lose counts most.

    On CPU only, and for filter gradients where estimates are near enough: in three dimensions, where XLA's convolutions are slow, and
    of one tap, which are products.
    """
    if platform != "cpu" or (contraction == "filter_grad" and sizes.geometry.ndim < 3 and sizes.taps > 1):
        return "dilated"
    chosen = select(contraction, sizes, platform)
    before, after = (
        seconds(WORK[platform][name](contraction, sizes), RATES[platform], sizes.itemsize) for name in ("dilated", chosen)
    )
    return chosen if before >= SURELY * after or sizes.geometry.ndim > 2 else "dilated"

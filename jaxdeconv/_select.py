"""Which lowering computes a contraction: a pure policy, no jax.

An estimate of the time each would take, of the work it says it does and the rates of the platform: operations over rate, bytes over
bandwidth. docs/lowerings.md says where the rates come from and what the choice costs against the best one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from jaxdeconv._lowerings import Contraction, Name, Platform, candidates, unable
from jaxdeconv._lowerings._work import Rates, Sizes, Work
from jaxdeconv._platforms import avoided, partitioned_right, rates, work

LARGE = 2  # A temporary of more than this many times the largest operand or result is avoided,
WORTH = 1.5  # unless all lowerings without one would take this many times as long.


def largest_temporary(name: Name, contraction: Contraction, sizes: Sizes, platform: Platform) -> int:
    """In bytes: what the program holds; what a convolution of the backend allocates inside is not known before it is compiled."""
    return round(work(platform, name, contraction, sizes).temporary * sizes.itemsize)


BESIDE = 2  # times its temporaries, that the program of a gradient holds: all of a program are one allocation


class Terms(NamedTuple):
    """The parts of an estimate, in the unit of the platform's rates: what each amount of the work takes."""

    product: float
    convolution: float
    looped: float
    naive: float
    moved: float
    rearranged: float
    gathered: float
    jumps: float
    steps: float
    fresh: float

    @property
    def bound(self) -> str:
        """The name of the largest."""
        return max(zip(self, self._fields, strict=True), key=lambda pair: pair[0])[1]


def terms(work: Work, rates: Rates, itemsize: int, held: int = 1) -> Terms:
    """Those of a program that holds so many times the temporaries of this."""
    if itemsize > 4:  # XLA on CPU, and TPUs, have fast convolutions of at most 32 bits
        product, convolution = rates.product * 4 / itemsize, rates.naive
    elif itemsize < 4:
        product, convolution = rates.product * rates.narrow_product, rates.convolution * rates.narrow_convolution
    else:
        product, convolution = rates.product, rates.convolution
    wide = max(itemsize, 4)  # narrow products are summed, and so stored, in float32
    temporary = (work.temporary + work.inside) * wide
    return Terms(
        product=work.product / product,
        convolution=work.convolution / convolution,
        looped=work.looped / rates.looped * wide / 4,
        naive=work.naive / rates.naive * wide / 4,
        moved=work.moved * wide / rates.moved,
        rearranged=work.rearranged / rates.rearranged,
        gathered=work.gathered / rates.gathered,
        jumps=work.jumps / rates.jumps,
        steps=work.steps / rates.steps,
        fresh=temporary / rates.fresh if held * temporary >= rates.fresh_from else 0,
    )


def estimated(name: Name, contraction: Contraction, sizes: Sizes, platform: Platform, differentiated: bool = False) -> Terms:
    """What the time is made of that a lowering would take; T may be in the program of its gradients."""
    held = BESIDE if differentiated or contraction != "transpose" else 1
    return terms(work(platform, name, contraction, sizes), rates(platform), sizes.itemsize, held)


def estimate(name: Name, contraction: Contraction, sizes: Sizes, platform: Platform, differentiated: bool = False) -> float:
    """The time that a lowering would take, in the unit of the platform's rates."""
    return sum(estimated(name, contraction, sizes, platform, differentiated))


def able(contraction: Contraction, sizes: Sizes, platform: Platform, axes: int = 0, measured: bool = False) -> list[Name]:
    """What can compute it rightly, where operands may be cut over so many axes of a mesh, and there shards well.

    An estimate leaves out what a platform avoids, for devices come in numbers; what is `measured` only where it may be cut.
    """
    found = [
        name
        for name in candidates(sizes.geometry)
        if unable(name, contraction, sizes) is None
        and partitioned_right(name, sizes, axes)
        and ((measured and axes == 0) or not avoided(platform, name, contraction, sizes))
    ]
    return found or ["dilated"]


@lru_cache(4096)
def select(contraction: Contraction, sizes: Sizes, platform: Platform, axes: int = 0, differentiated: bool = False) -> Name:
    """The lowering for this contraction, these sizes and this platform, where operands may be cut over so many axes of a mesh."""
    limit, surely = LARGE * sizes.itemsize * max(sizes.x, sizes.y, sizes.w), rates(platform).surely

    def penalized(name: Name) -> float:
        large = largest_temporary(name, contraction, sizes, platform) > limit
        seconds = estimate(name, contraction, sizes, platform, differentiated)
        return seconds * (WORTH if large else 1) * (1 if name == "dilated" else surely)

    return min(able(contraction, sizes, platform, axes), key=penalized)


SURELY = 2  # An ordinary convolution becomes something else if that would take at most one in so many of its time.


def select_ordinary(contraction: Contraction, sizes: Sizes, platform: Platform) -> Name:
    """The lowering for a convolution of any network, or a gradient of it that JAX makes a good one of: not to lose counts most.

    On CPU only, and for filter gradients where estimates are near enough: in three dimensions, where XLA's convolutions are slow, and
    of one tap, which are products.
    """
    if platform != "cpu" or (contraction == "filter_grad" and sizes.geometry.ndim < 3 and sizes.taps > 1):
        return "dilated"
    chosen = select(contraction, sizes, platform)
    before, after = (estimate(name, contraction, sizes, platform) for name in ("dilated", chosen))
    return chosen if before >= SURELY * after or sizes.geometry.ndim > 2 else "dilated"

"""What a lowering would do for one contraction: amounts, from sizes alone, and the rates of a platform. No jax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from jaxdeconv._geometry import Geometry

Contraction: TypeAlias = Literal["transpose", "input_grad", "filter_grad"]
Implementation: TypeAlias = Literal["dilated", "matmul", "polyphase", "elementwise"]
Form: TypeAlias = Literal["dilated", "taps", "phases"]  # of one dimension: `mixed` says what each is
Name: TypeAlias = str  # an Implementation, or a Form for each dimension with commas between them
Platform: TypeAlias = Literal["cpu", "gpu", "tpu"]


class Sizes(NamedTuple):
    """One transposed convolution, as sizes. No entry is symbolic."""

    geometry: Geometry
    batch: int
    spatial: tuple[int, ...]
    in_channels: int
    out_channels: int
    itemsize: int

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(
            (t + extra) * s - surplus
            for t, extra, s, surplus in zip(
                self.spatial, self.geometry.extra_blocks, self.geometry.strides, self.geometry.surplus, strict=True
            )
        )

    @property
    def blocks(self) -> tuple[int, ...]:
        """T, per dimension."""
        return tuple(w + extra for w, extra in zip(self.spatial, self.geometry.extra_blocks, strict=True))

    @property
    def taps(self) -> int:
        return math.prod(self.geometry.kernel)

    @property
    def depthwise(self) -> bool:
        return self.in_channels == self.out_channels == self.geometry.groups

    @property
    def x(self) -> int:
        """Elements of the input, and so below of the output, the filter, and the products [batch, *W, *k, out]."""
        return self.batch * math.prod(self.spatial) * self.in_channels

    @property
    def y(self) -> int:
        return self.batch * math.prod(self.lengths) * self.out_channels

    @property
    def w(self) -> int:
        return self.taps * (self.out_channels // self.geometry.groups) * self.in_channels

    @property
    def products(self) -> int:
        return self.batch * math.prod(self.spatial) * self.taps * self.out_channels

    @property
    def flops(self) -> int:
        """Two for every product of an input, a tap and an output channel, the cropped ones included."""
        return 2 * self.x * self.taps * (self.out_channels // self.geometry.groups)


class Work(NamedTuple):
    """Amounts, in operations and elements; zero where there is none."""

    product: float = 0  # floating point operations of matrix products
    convolution: float = 0  # of convolutions that XLA computes as such
    looped: float = 0  # of fused elementwise loops
    naive: float = 0  # of convolutions that XLA computes by one scalar loop
    moved: float = 0  # elements read or written in order
    rearranged: float = 0  # elements read or written out of order
    gathered: float = 0  # elements of the patches of a convolution, which XLA packs,
    jumps: float = 0  # and runs of neighbours that they are packed from
    steps: float = 0  # programs that are started one after the other, beyond the first
    temporary: float = 0  # elements held at a time that are neither operand nor result
    inside: float = 0  # and such that a convolution allocates when it runs


def total(*works: Work) -> Work:
    """Of one after the other."""
    return Work(*map(sum, zip(*works, strict=True)))


Amounts: TypeAlias = Callable[[Name, Contraction, Sizes], Work]


class Rates(NamedTuple):
    """What a platform does in a unit of time, in float32. Only ratios matter to the choice."""

    product: float  # operations
    convolution: float
    looped: float
    naive: float
    moved: float  # bytes
    rearranged: float  # elements
    gathered: float = math.inf  # elements
    jumps: float = math.inf
    steps: float = math.inf  # programs started
    fresh: float = math.inf  # bytes of memory that the operating system has to hand out anew
    fresh_from: float = math.inf  # the size of temporaries, in bytes, from which it does
    narrow_product: float = 1  # times the rate of product in 16-bit floats
    narrow_convolution: float = 1
    surely: float = 1  # times as long as another lowering "dilated" must take not to be chosen

"""All size and crop arithmetic of a transposed convolution. Knows nothing of jax, of frameworks, or of any convention's padding.

Per spatial dimension, with input size W, kernel size k, stride s and dilation d:

    full[n*s + j*d] += w[j] * x[n]        of length  full = (W-1)*s + ke,  ke = (k-1)*d + 1
    y = full[crop_lo : full - crop_hi]    a negative crop extends with zeros instead

Every convention is a rule for (crop_lo, crop_hi). Neither depends on W once the convention has been applied, so a Geometry is
static and hashable even where sizes are symbolic (`jax.export`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias


def effective_kernel(kernel: int, dilation: int) -> int:
    """ke = (k-1)*d + 1, the number of samples one input sample reaches."""
    return (kernel - 1) * dilation + 1


def full_size(size: int, kernel: int, stride: int, dilation: int) -> int:
    """(W-1)*s + ke, the output length before anything is cropped."""
    return (size - 1) * stride + effective_kernel(kernel, dilation)


class Run(NamedTuple):
    """Consecutive taps that reach the same block of s outputs: n*s + j*d - crop_lo = (n + block)*s + phase + (j - tap)*d."""

    block: int
    phase: int
    tap: int  # the first
    taps: int  # how many


def runs(kernel: int, stride: int, dilation: int, crop: int) -> tuple[Run, ...]:
    """The taps 0, ..., kernel - 1 in order, as runs: the polyphase decomposition of one dimension."""
    found: list[Run] = []
    for tap in range(kernel):
        block, phase = divmod(tap * dilation - crop, stride)
        if found and found[-1].block == block:
            found[-1] = found[-1]._replace(taps=found[-1].taps + 1)
        else:
            found.append(Run(block, phase, tap, 1))
    return tuple(found)


def reach(kernel: int, stride: int, dilation: int, crop: int) -> tuple[int, int]:
    """The blocks of the first and of the last tap."""
    return -crop // stride, ((kernel - 1) * dilation - crop) // stride


def extra_blocks(kernel: int, stride: int, dilation: int, crops: tuple[int, int]) -> int:
    """T - W, where T = ceil(L / s) blocks of s outputs hold all L."""
    return -(-(effective_kernel(kernel, dilation) - sum(crops)) // stride) - 1


def surplus(kernel: int, stride: int, dilation: int, crops: tuple[int, int]) -> int:
    """T*s - L: outputs of the last block that do not exist."""
    return -(effective_kernel(kernel, dilation) - sum(crops)) % stride


Ends: TypeAlias = tuple[tuple[int, int], ...]
"""Per dimension, how many at its low and at its high end."""


class Interior(NamedTuple):
    """A geometry within its operands, and what it leaves out of them."""

    geometry: Geometry
    inputs: Ends  # that reach no output
    taps: Ends  # that bring no input to an output
    outputs: Ends  # that no input reaches, which are zeros


def _interior(size: int | None, kernel: int, stride: int, dilation: int, crops: tuple[int, int]) -> tuple[int, Ends] | None:
    """Of one dimension: the kernel that is left, and crops, inputs, taps and outputs at its ends. No size if it is symbolic."""
    left, inputs, taps, outputs = list(crops), [0, 0], [0, 0], [0, 0]
    changed = True
    while changed:
        changed = False
        for end in (0, 1):
            if kernel <= 0 or (size is not None and size <= 0):
                return None  # nothing meets
            beyond_taps = left[end] - (effective_kernel(kernel, dilation) - 1)
            beyond_inputs = -1 if size is None else left[end] - (size - 1) * stride
            if beyond_taps > 0:
                found, step, count = inputs, stride, -(-beyond_taps // stride)
                size = size if size is None else size - count
            elif beyond_inputs > 0:
                found, step, count = taps, dilation, -(-beyond_inputs // dilation)
                kernel -= count
            else:
                found, step, count = outputs, -1, max(0, -left[end])
            found[end] += count
            left[end] -= step * count
            changed = changed or count > 0
    return kernel, tuple((each[0], each[1]) for each in (left, inputs, taps, outputs))


@dataclass(frozen=True)
class Geometry:
    """Everything about a transposed convolution but its operands: one entry per spatial dimension, then groups and layout.

    Operands: x [batch, *W, in] and y, g [batch, *L, out], or channels first; w [*k, out / groups, in] always.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    groups: int
    channels_last: bool

    @property
    def ndim(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel)

    @property
    def channel_axis(self) -> int:
        return self.ndim + 1 if self.channels_last else 1

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        return tuple(range(1, self.ndim + 1) if self.channels_last else range(2, self.ndim + 2))

    @property
    def effective_kernels(self) -> tuple[int, ...]:
        return tuple(map(effective_kernel, self.kernel, self.dilations))

    def output_shape(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of y = T(x, w): L = (W-1)*s + ke - crop_lo - crop_hi."""
        spatial = tuple(
            full_size(x_shape[axis], k, s, d) - lo - hi
            for axis, k, s, d, (lo, hi) in zip(self.spatial_axes, self.kernel, self.strides, self.dilations, self.crops, strict=True)
        )
        channels = w_shape[-2] * self.groups
        return (x_shape[0], *spatial, channels) if self.channels_last else (x_shape[0], channels, *spatial)

    def input_shape(self, y_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of x = C(y, w), whose every output length follows from its input size: W = (L - ke + crop_lo + crop_hi)/s + 1."""
        spatial = tuple(
            (y_shape[axis] - ke + lo + hi) // s + 1
            for axis, ke, s, (lo, hi) in zip(self.spatial_axes, self.effective_kernels, self.strides, self.crops, strict=True)
        )
        return (y_shape[0], *spatial, w_shape[-1]) if self.channels_last else (y_shape[0], w_shape[-1], *spatial)

    @property
    def runs(self) -> tuple[tuple[Run, ...], ...]:
        """The runs of each dimension."""
        return tuple(
            runs(k, s, d, lo) for k, s, d, (lo, _) in zip(self.kernel, self.strides, self.dilations, self.crops, strict=True)
        )

    @property
    def extra_blocks(self) -> tuple[int, ...]:
        """T - W, per dimension; an int even where W is symbolic."""
        return tuple(map(extra_blocks, self.kernel, self.strides, self.dilations, self.crops))

    @property
    def surplus(self) -> tuple[int, ...]:
        """T*s - L, per dimension."""
        return tuple(map(surplus, self.kernel, self.strides, self.dilations, self.crops))

    def interior(self, sizes: tuple[int | None, ...]) -> Interior | None:
        """The same op on the inputs, taps and outputs that meet, of W inputs or None where W is symbolic. None where nothing meets.

        No crop of it is negative, nor more than ke - 1 or (W - 1)*s. So neither are paddings of convolutions, nor those of their
        derivatives. XLA on CPU reads memory that was never written where a low padding is negative and the high one positive
        (jaxlib 0.8 to 0.10).
        """
        rows = zip(sizes, self.kernel, self.strides, self.dilations, self.crops, strict=True)
        each = [found for row in rows if (found := _interior(*row)) is not None]
        if len(each) < self.ndim:
            return None
        kernel = tuple(left for left, _ in each)
        crops, inputs, taps, outputs = (tuple(ends[which] for _, ends in each) for which in range(4))
        return Interior(replace(self, kernel=kernel, crops=crops), inputs, taps, outputs)

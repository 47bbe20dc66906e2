"""All size and crop arithmetic of a transposed convolution. Knows nothing of jax, of frameworks, or of any convention's padding.

Per spatial dimension, with input size W, kernel size k, stride s and dilation d:

    full[n*s + j*d] += w[j] * x[n]        of length  full = (W-1)*s + ke,  ke = (k-1)*d + 1
    y = full[crop_lo : full - crop_hi]    a negative crop extends with zeros instead

Every convention is a rule for (crop_lo, crop_hi). Neither depends on W once the convention has been applied, so a Geometry is
static and hashable even where sizes are symbolic (`jax.export`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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

    @property
    def runs(self) -> tuple[tuple[Run, ...], ...]:
        """The runs of each dimension."""
        return tuple(
            runs(k, s, d, lo) for k, s, d, (lo, _) in zip(self.kernel, self.strides, self.dilations, self.crops, strict=True)
        )

    @property
    def extra_blocks(self) -> tuple[int, ...]:
        """T - W, per dimension, where T = ceil(L / s) blocks of s outputs hold all L; an int even where W is symbolic."""
        return tuple(
            -(-(ke - lo - hi) // s) - 1 for ke, s, (lo, hi) in zip(self.effective_kernels, self.strides, self.crops, strict=True)
        )

    @property
    def surplus(self) -> tuple[int, ...]:
        """T*s - L, per dimension: outputs of the last block that do not exist."""
        return tuple(-(ke - lo - hi) % s for ke, s, (lo, hi) in zip(self.effective_kernels, self.strides, self.crops, strict=True))

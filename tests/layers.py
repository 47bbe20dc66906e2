"""Transposed convolutions in any number of dimensions, given by their crops, with operands. Depends on numpy and the oracle only."""

from typing import NamedTuple

import numpy as np
import oracle


class Layer(NamedTuple):
    """What a geometry and the sizes of the operands say; crops may be negative."""

    batch: int
    spatial: tuple[int, ...]
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    groups: int = 1
    channels_last: bool = True

    @property
    def window(self):
        """The fields of a geometry."""
        return self.kernel, self.strides, self.dilations, self.crops, self.groups, self.channels_last

    @property
    def lengths(self):
        sizes = zip(self.spatial, self.kernel, self.strides, self.dilations, self.crops, strict=True)
        return tuple((w - 1) * s + (k - 1) * d + 1 - lo - hi for w, k, s, d, (lo, hi) in sizes)

    def swap(self, activations):
        """From channels last to this layer's layout."""
        return activations if self.channels_last else np.moveaxis(activations, -1, 1)

    def operands(self, seed=0, dtype=np.float64):
        """x, w, g in this layer's layout."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((self.batch, *self.spatial, self.in_channels)).astype(dtype)
        w = rng.standard_normal((*self.kernel, self.out_channels // self.groups, self.in_channels)).astype(dtype)
        g = rng.standard_normal((self.batch, *self.lengths, self.out_channels)).astype(dtype)
        return self.swap(x), w, self.swap(g)

    def expected(self, x, w, g):
        """T(x, w), C(g, w) and F(x, g) by the oracle, in this layer's layout."""
        if not self.channels_last:
            x, g = np.moveaxis(x, 1, -1), np.moveaxis(g, 1, -1)
        window = self.strides, self.dilations, tuple(lo for lo, _ in self.crops), self.groups
        y = oracle.transpose(x, w, self.lengths, *window)
        dx = oracle.input_grad(g, w, self.spatial, *window)
        return self.swap(y), self.swap(dx), oracle.filter_grad(x, g, self.kernel, *window)


def of_case(case):
    """The layer that a `cases.Case` is."""
    full = (case.width - 1) * case.stride + (case.kernel - 1) * case.dilation + 1
    crops = ((case.crop, full - case.length - case.crop),)
    layer = Layer(
        case.batch, (case.width,), case.in_channels, case.out_channels, (case.kernel,), (case.stride,), (case.dilation,), crops
    )
    return layer._replace(groups=case.groups, channels_last=case.data_format == "NWC")


CHANNELS = [(1, 1, 1), (3, 2, 1), (4, 6, 2), (3, 3, 3), (6, 2, 2), (3, 6, 3)]  # in, out, groups


def random_layer(rng, ndim, channels=CHANNELS, most=4):
    """Any mixture of strides, dilations and crops of either sign; the crops leave one sample or more."""

    def each(low, high):
        return tuple(int(number) for number in rng.integers(low, high + 1, ndim))

    spatial, kernel, strides, dilations = each(1, most), each(1, most), each(1, most), each(1, 3)
    crops = []
    for w, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        full = (w - 1) * s + (k - 1) * d + 1
        lo = int(rng.integers(-s - 1, min(full, s + 3)))
        crops.append((lo, int(rng.integers(-s - 1, min(full - lo, s + 3)))))
    in_channels, out_channels, groups = channels[rng.integers(len(channels))]
    sizes = int(rng.integers(1, 3)), spatial, in_channels, out_channels
    return Layer(*sizes, kernel, strides, dilations, tuple(crops), groups, bool(rng.integers(2)))

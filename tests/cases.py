"""The grid of 1-D cases that tests share, operands for them, and which of many to leave to CI. Depends on the oracle only."""

from typing import NamedTuple

import numpy as np
import oracle
import pytest


def sampled(values, every):
    """Values for parametrize, of which one in `every` runs by default, and all with `-m ""`."""
    return [pytest.param(value, marks=[pytest.mark.thorough] * (index % every > 0)) for index, value in enumerate(values)]


def lowered_text(lowered):
    """StableHLO, without the products with 1 that checkpoint policies look for, which XLA drops."""
    return "".join(line for line in lowered.as_text().splitlines(keepends=True) if "contracting_dims = [] x []" not in line)


class Case(NamedTuple):
    """One call of conv1d_transpose, without its operands."""

    batch: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    dilation: int
    groups: int
    padding: str
    data_format: str
    length: int

    @property
    def crop(self):
        return oracle.tensorflow_crop(self.padding, self.length, self.width, self.kernel, self.stride, self.dilation)

    @property
    def output_shape(self):
        order = (self.length, self.out_channels) if self.data_format == "NWC" else (self.out_channels, self.length)
        return (self.batch, *order)

    @property
    def keywords(self):
        return {
            "output_shape": self.output_shape,
            "strides": self.stride,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilations": self.dilation,
        } | ({"groups": self.groups} if self.groups > 1 else {})

    @property
    def window(self):
        """The oracle's trailing arguments."""
        return (self.stride,), (self.dilation,), (self.crop,), self.groups

    def swap(self, activations):
        """Between this case's data_format and channels last."""
        return activations if self.data_format == "NWC" else np.moveaxis(activations, 1, 2)

    def operands(self, seed=0, dtype=np.float64):
        """x, w, g in this case's layout."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((self.batch, self.width, self.in_channels))
        w = rng.standard_normal((self.kernel, self.out_channels // self.groups, self.in_channels))
        g = rng.standard_normal((self.batch, self.length, self.out_channels))
        return self.swap(x).astype(dtype), w.astype(dtype), self.swap(g).astype(dtype)

    def expected(self, x, w, g):
        """T(x, w), C(g, w) and F(x, g) by the oracle, in this case's layout."""
        x, g = self.swap(x), self.swap(g)
        y = oracle.transpose(x, w, (self.length,), *self.window)
        dx = oracle.input_grad(g, w, (self.width,), *self.window)
        dw = oracle.filter_grad(x, g, (self.kernel,), *self.window)
        return self.swap(y), self.swap(dx), dw


def _grid():
    channels = [(2, 3, 1), (4, 6, 2), (3, 3, 3), (3, 6, 3), (1, 1, 1), (6, 2, 2)]
    widths = [4, 1, 2, 5]
    index = 0
    for stride in (1, 2, 3, 5):
        for dilation in (1, 2, 3):
            for kernel in (1, 2, 3, 4, 5):
                for padding in ("SAME", "VALID"):
                    width = widths[index % len(widths)]
                    for length in oracle.tensorflow_lengths(padding, width, kernel, stride, dilation):
                        in_channels, out_channels, groups = channels[index % len(channels)]
                        data_format = ("NWC", "NCW")[index // 2 % 2]
                        index += 1
                        yield Case(
                            1 + index % 2,
                            width,
                            in_channels,
                            out_channels,
                            kernel,
                            stride,
                            dilation,
                            groups,
                            padding,
                            data_format,
                            length,
                        )


# Every stride, dilation, kernel and padding with every valid length; width, channels, groups and layout rotate.
GRID = tuple(_grid())

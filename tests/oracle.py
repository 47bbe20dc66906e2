"""What a transposed convolution is, in plain numpy loops. Imports nothing of jaxdeconv and shares no formula with it.

Operands are channels last: x [batch, *W, in], w [*k, out / groups, in], y and g [batch, *L, out]. N spatial dimensions.
"""

import math

import numpy as np


def _taps(x_spatial, kernel, strides, dilations, crops, lengths):
    """Yields (n, j, m): input position n sends tap j to output position m, for all m that exist."""
    for n in np.ndindex(*x_spatial):
        for j in np.ndindex(*kernel):
            m = tuple(a * s + b * d - c for a, s, b, d, c in zip(n, strides, j, dilations, crops, strict=True))
            if all(0 <= a < length for a, length in zip(m, lengths, strict=True)):
                yield n, j, m


def _blocks(groups, in_channels, out_per_group):
    """Yields (inputs, outputs), the slices of the channels of each group."""
    in_per_group = in_channels // groups
    for group in range(groups):
        yield (
            slice(group * in_per_group, (group + 1) * in_per_group),
            slice(group * out_per_group, (group + 1) * out_per_group),
        )


def transpose(x, w, lengths, strides, dilations, crops, groups=1):
    """T(x, w)."""
    *kernel, out_per_group, in_channels = w.shape
    y = np.zeros((x.shape[0], *lengths, out_per_group * groups), np.result_type(x, w))
    for n, j, m in _taps(x.shape[1:-1], kernel, strides, dilations, crops, lengths):
        for i, o in _blocks(groups, in_channels, out_per_group):
            y[(slice(None), *m, o)] += x[(slice(None), *n, i)] @ w[(*j, slice(None), i)].T
    return y


def input_grad(g, w, x_spatial, strides, dilations, crops, groups=1):
    """C(g, w)."""
    *kernel, out_per_group, in_channels = w.shape
    x = np.zeros((g.shape[0], *x_spatial, in_channels), np.result_type(g, w))
    for n, j, m in _taps(x_spatial, kernel, strides, dilations, crops, g.shape[1:-1]):
        for i, o in _blocks(groups, in_channels, out_per_group):
            x[(slice(None), *n, i)] += g[(slice(None), *m, o)] @ w[(*j, slice(None), i)]
    return x


def filter_grad(x, g, kernel, strides, dilations, crops, groups=1):
    """F(x, g)."""
    out_per_group = g.shape[-1] // groups
    w = np.zeros((*kernel, out_per_group, x.shape[-1]), np.result_type(x, g))
    for n, j, m in _taps(x.shape[1:-1], kernel, strides, dilations, crops, g.shape[1:-1]):
        for i, o in _blocks(groups, x.shape[-1], out_per_group):
            w[(*j, slice(None), i)] += g[(slice(None), *m, o)].T @ x[(slice(None), *n, i)]
    return w


def tensorflow_lengths(padding, size, kernel, stride, dilation):
    """Every valid output length, straight from TensorFlow's rule: the strided convolution of it has the input's size."""
    reach = (kernel - 1) * dilation + 1
    candidates = range(size * stride + reach + stride + 1)
    if padding == "SAME":
        return [length for length in candidates if math.ceil(length / stride) == size]
    return [length for length in candidates if length >= reach and (length - reach) // stride + 1 == size]


def tensorflow_crop(padding, length, size, kernel, stride, dilation):
    """Where TensorFlow's output window begins: half of what the strided convolution pads, rounded down."""
    if padding == "VALID":
        return 0
    padded = (size - 1) * stride + (kernel - 1) * dilation + 1
    return max(padded - length, 0) // 2

"""What the layers for Flax NNX and Flax Linen share: their `padding`, batch dimensions and wrapping, on `jaxdeconv.lax`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import lax
from jaxdeconv._call import biased
from jaxdeconv._canonicalize import error
from jaxdeconv._geometry import effective_kernel

FUNCTION = "ConvTranspose"


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    *,
    strides: int | Sequence[int] | None,
    padding: Any,
    kernel_dilation: int | Sequence[int] | None,
    output_padding: int | Sequence[int],
    transpose_kernel: bool,
    feature_group_count: int,
    **keywords: Any,
) -> jax.Array:
    """x `[*batch, *W, in]` with any number of batch dimensions, kernel and the arguments as those of the layers."""
    n = kernel.ndim - 2
    steps = canonicalize.spatial(FUNCTION, "strides", 1 if strides is None else strides, n)
    dilations = canonicalize.spatial(FUNCTION, "kernel_dilation", 1 if kernel_dilation is None else kernel_dilation, n)
    extra = canonicalize.spatial(FUNCTION, "output_padding", output_padding, n, minimum=0)
    check_rank(x, n)
    features = kernel.shape[-1] if transpose_kernel else kernel.shape[-2] * feature_group_count
    if x.shape[-1] != features:
        rule = f"inputs must have the {features} features that the kernel of shape {kernel.shape} is for"
        raise error(ValueError, FUNCTION, rule, "inputs.shape", x.shape, "features are the last axis")
    if (circular := padding == "CIRCULAR") and any(extra):
        rule, advice = "output_padding must be 0 with padding='CIRCULAR'", "what is circular has a length of its own, W*s"
        raise error(ValueError, FUNCTION, rule, "output_padding", output_padding, advice)
    effective = [effective_kernel(k, d) for k, d in zip(kernel.shape[:n], dilations, strict=True)]
    pads = _pads("VALID" if circular else padding, effective, steps)

    batch, sizes = x.shape[: x.ndim - n - 1], x.shape[x.ndim - n - 1 : -1]
    channels_last = (0, n + 1, *range(1, n + 1))
    y = lax.conv_transpose(
        x.reshape(math.prod(batch), *sizes, x.shape[-1]),
        kernel,
        steps,
        [(lo, hi + more) for (lo, hi), more in zip(pads, extra, strict=True)],
        dilations,
        jax.lax.ConvDimensionNumbers(channels_last, (n + 1, n, *range(n)), channels_last),
        transpose_kernel,
        feature_group_count=feature_group_count,
        **keywords,
    )
    if circular:
        for axis, (size, s) in enumerate(zip(sizes, steps, strict=True), 1):
            y = _wrapped(y, axis, size * s, transpose_kernel)
    y = biased(y, bias, n + 1)
    return y.reshape(*batch, *y.shape[1:])


def check_rank(x: jax.Array, n: int) -> None:
    if x.ndim <= n:
        rule = f"inputs must have {n} spatial dimensions and features, after any number of batch dimensions"
        raise error(ValueError, FUNCTION, rule, "inputs.shape", x.shape, "kernel_size has an entry for each spatial dimension")


def _pads(padding: Any, effective: list[int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """(lo, hi) of each dimension, as lax has them, from what Flax takes."""
    n = len(strides)
    if padding == "CAUSAL":
        if n != 1:
            rule = "padding='CAUSAL' is for one spatial dimension"
            raise error(
                ValueError, FUNCTION, rule, "kernel_size", n * ("k",), "pass pairs of integers, as (ke - 1, s - 1) per dimension"
            )
        return [(effective[0] - 1, strides[0] - 1)]  # nothing cropped at the start, and W*s samples
    if isinstance(padding, int):
        padding = n * [padding]
    if isinstance(padding, list | tuple):
        padding = [(entry, entry) if isinstance(entry, int) else entry for entry in padding]
    others = ", 'CAUSAL', 'CIRCULAR', an integer" if n == 1 else ", 'CIRCULAR', an integer"
    return lax.pads_of(FUNCTION, padding, effective, strides, consistent=False, others=others)


def _wrapped(y: jax.Array, axis: int, period: int, transpose_kernel: bool) -> jax.Array:
    """The sum of all windows of a period, of which Flax centres one: by half of what is beyond it, rounded for transpose_kernel."""
    count = -(-(y.shape[axis] - period) // (2 * period)) * 2 + 1  # an odd number of periods, of symbolic sizes too
    missing = count * period - y.shape[axis]
    low, high = missing // 2, missing - missing // 2
    widths = [(0, 0)] * y.ndim
    widths[axis] = (low, high) if transpose_kernel else (high, low)
    y = jnp.pad(y, widths)
    return y.reshape(*y.shape[:axis], count, period, *y.shape[axis + 1 :]).sum(axis)

"""`dilated` inside of `mixed`, as XLA on CPU computes it faster: in the order of its fast path, in few dimensions.

A dimension of one tap is no dimension of a convolution: leading ones are more of the batch, neighbouring ones are one, and to a
filter gradient all are more of the batch. XLA's convolutions of three dimensions take several times as long as those of two and one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import dilated
from jaxdeconv._lowerings._blocks import padded, static
from jaxdeconv._lowerings._work import Contraction

YNNPACK = jax.__version_info__ >= (0, 9, 1)  # the library to which XLA gives convolutions of two dimensions in float32
LARGE = 2**25  # operations of a filter gradient, from which XLA's own convolution is faster,
OF_BATCH = 3  # of as many items; and an odd number from so many takes the library up to 13 times as long as one item more
OF_YNNPACK = 16  # features or results of a position, from more of which the library has a convolution


def is_doubled(geometry: Geometry, batch: int, operations: int) -> bool:
    """Whether F in float32 is by XLA itself, since the library would take longer: 1.4 times in the mean of such, 10 times at most."""
    return YNNPACK and geometry.ndim == 2 and batch >= OF_BATCH and operations >= LARGE


def is_odd(geometry: Geometry, batch: int, inputs: int, outputs: int) -> bool:
    """Whether F in float32, of stride 1, is of one item more, which is zero."""
    plain = geometry.ndim == 2 and set(geometry.strides) == {1}
    return YNNPACK and plain and batch >= OF_BATCH and batch % 2 == 1 and max(batch, inputs, outputs) > OF_YNNPACK


def _filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F, doubled or not, and by the library of an even number of items."""
    known = static(x) and static(g) and x.dtype == np.float32
    batch, inputs, outputs = x.shape[0], x.shape[geometry.channel_axis], g.shape[geometry.channel_axis]
    doubled = known and is_doubled(geometry, batch, 2 * x.size * math.prod(geometry.kernel) * outputs)
    if known and not doubled and is_odd(geometry, batch, inputs, outputs):
        x, g = (padded(a, [(0, 1, 0), *[(0, 0, 0)] * (a.ndim - 1)]) for a in (x, g))
    return dilated.filter_grad_of_fewer(x, g, geometry, in_order=True, doubled=doubled, **keywords)


def ordered(contraction: Contraction) -> Callable[..., jax.Array]:
    """The function of `dilated`, in the order of the fast path."""
    return _filter_grad if contraction == "filter_grad" else partial(getattr(dilated, contraction), in_order=True)


def _runs(contraction: Contraction, geometry: Geometry) -> list[list[int]]:
    """The dimensions that are one, in the order of the operands: first those that are of the batch. One remains.

    Of a filter gradient all of one tap are: it sums over them, and its operands are copied in another order anyway.
    """
    plain = [k == s == 1 for k, s in zip(geometry.kernel, geometry.strides, strict=True)]
    if contraction == "filter_grad":
        return [[d for d, one in enumerate(plain) if one], *([d] for d, one in enumerate(plain) if not one)]
    groups = [list(group) for _, group in itertools.groupby(range(geometry.ndim), lambda d: None if plain[d] else d)]
    return groups if plain[:1] == [True] and not all(plain) else [[], *groups]


def merged(contraction: Contraction, geometry: Geometry, batch: Any, spatial: Sequence[Any]) -> tuple[Geometry, Any, tuple[Any, ...]]:
    """The geometry of fewer dimensions, and the batch and the spatial sizes of an input or output in it."""
    of_batch, *runs = _runs(contraction, geometry)
    first = [group[0] for group in runs]
    fewer: dict[str, Any] = {
        name: tuple(getattr(geometry, name)[d] for d in first) for name in ("kernel", "strides", "dilations", "crops")
    }
    sizes = [math.prod(spatial[d] for d in group) for group in (of_batch, *runs)]
    return replace(geometry, **fewer), batch * sizes[0], tuple(sizes[1:])


def _in_fewer(contraction: Contraction, lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """The contraction of channels last; the result too is of fewer dimensions."""
    function = ordered(contraction)
    if not static(lhs):  # JAX cannot always multiply symbolic sizes
        return function(lhs, rhs, geometry, **keywords)
    fewer, *_ = merged(contraction, geometry, 1, geometry.kernel)
    order = (0, *(1 + d for d in itertools.chain(*_runs(contraction, geometry))), lhs.ndim - 1)

    def activation(a: jax.Array) -> jax.Array:
        _, batch, spatial = merged(contraction, geometry, a.shape[0], a.shape[1:-1])
        return a.transpose(order).reshape(batch, *spatial, a.shape[-1])

    rhs = activation(rhs) if contraction == "filter_grad" else rhs.reshape(*fewer.kernel, *rhs.shape[-2:])
    return function(activation(lhs), rhs, fewer, **keywords)


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """T of channels last."""
    return _in_fewer("transpose", x, w, geometry, **keywords).reshape(geometry.output_shape(x.shape, w.shape))


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """C of channels last."""
    return _in_fewer("input_grad", g, w, geometry, **keywords).reshape(geometry.input_shape(g.shape, w.shape))


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
    """F of channels last."""
    w = _in_fewer("filter_grad", x, g, geometry, **keywords)
    return w.reshape(*geometry.kernel, *w.shape[-2:])

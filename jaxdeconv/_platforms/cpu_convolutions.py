"""`dilated` inside of `mixed`, as XLA on CPU computes it faster: in the order of its fast path, in few dimensions.

A dimension of one tap is no dimension of a convolution: leading ones are more of the batch, neighbouring ones are one. XLA's
convolutions of three dimensions take several times as long as those of two and one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import dilated
from jaxdeconv._lowerings._blocks import static
from jaxdeconv._lowerings._work import Contraction


def ordered(contraction: Contraction) -> Callable[..., jax.Array]:
    """The function of `dilated`, in the order of the fast path."""
    return partial(dilated.filter_grad_of_fewer if contraction == "filter_grad" else getattr(dilated, contraction), in_order=True)


def _runs(geometry: Geometry) -> list[list[int]]:
    """The dimensions, neighbours of one tap and stride 1 together; first those that are of the batch."""
    plain = [k == s == 1 for k, s in zip(geometry.kernel, geometry.strides, strict=True)]
    groups = [list(group) for _, group in itertools.groupby(range(geometry.ndim), lambda d: None if plain[d] else d)]
    return groups if plain and plain[0] else [[], *groups]


def merged(geometry: Geometry, batch: Any, spatial: Sequence[Any]) -> tuple[Geometry, Any, tuple[Any, ...]]:
    """The geometry of fewer dimensions, and the batch and the spatial sizes of an input or output in it."""
    of_batch, *runs = _runs(geometry)
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
    fewer, *_ = merged(geometry, 1, geometry.kernel)

    def activation(a: jax.Array) -> jax.Array:
        _, batch, spatial = merged(geometry, a.shape[0], a.shape[1:-1])
        return a.reshape(batch, *spatial, a.shape[-1])

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

"""What XLA on CPU computes faster in another form than that of the files of the lowerings.

A product of few inputs has the filter on the left. A filter gradient makes its patches piece by piece, where its result is small, and
a depthwise one tap by tap. The partitioner cannot cut pieces without gathering them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import mixed
from jaxdeconv._lowerings._blocks import padded, static
from jaxdeconv._lowerings._work import Form
from jaxdeconv._lowerings.elementwise import with_crops
from jaxdeconv._platforms import cpu_convolutions, cpu_products

FEW = 16  # inputs, up to which the filter is better on the left
SHORT = 16  # inputs of the last dimension, below which patches with channels first are of runs too short
MOST_PATCHES = 2**25  # bytes of patches, from which they are made piece by piece; glibc keeps no larger blocks for reuse
PIECE = 2**23  # of about so many
MOST_FILTER = 2**20  # bytes of a filter, beyond which adding up those of the pieces would take long

BOTTOMS = mixed.Bottoms(cpu_products, cpu_convolutions)


def pieces_of(x: tuple[int, ...], patches: int, filter_size: int, itemsize: int) -> tuple[int, int]:
    """In how many equal pieces to do filter_grad, of x [batch, *W]: of the batch, and of the first dimension, which is filled up."""
    scale = max(itemsize, 4)
    if len(x) == 1 or patches * scale < MOST_PATCHES or filter_size * scale > MOST_FILTER:
        return 1, 1
    wanted = math.ceil(patches * scale / PIECE)
    if wanted >= x[0]:
        inputs = max(1, x[1] * x[0] // wanted)
        return x[0], math.ceil(x[1] / inputs)
    return next(each for each in range(wanted, x[0] + 1) if x[0] % each == 0), 1


def transpose(x: jax.Array, w: jax.Array, geometry: Geometry, *, forms: tuple[Form, ...], **keywords: Any) -> jax.Array:
    """T: y[b, n*s + j*d - crop_lo, o] += x[b, n, i] * w[j, o, i]."""
    keywords |= {"forms": forms, "bottoms": BOTTOMS}
    if mixed.is_product(forms) and geometry.channels_last and static(x) and x.size <= FEW * x.shape[-1]:
        return jnp.moveaxis(mixed.transpose(jnp.moveaxis(x, -1, 1), w, replace(geometry, channels_last=False), **keywords), 1, -1)
    return mixed.transpose(x, w, geometry, **keywords)


def input_grad(g: jax.Array, w: jax.Array, geometry: Geometry, *, forms: tuple[Form, ...], **keywords: Any) -> jax.Array:
    """C: x[b, n, i] += g[b, n*s + j*d - crop_lo, o] * w[j, o, i]."""
    keywords |= {"forms": forms, "bottoms": BOTTOMS}
    if not geometry.channels_last and static(g) and g.shape[-1] < SHORT * geometry.strides[-1]:
        last = replace(geometry, channels_last=True)
        return jnp.moveaxis(mixed.input_grad(jnp.moveaxis(g, 1, -1), w, last, **keywords), -1, 1)
    if not geometry.channels_last:
        g, w = wide(g, **keywords), wide(w, **keywords)
    return mixed.input_grad(g, w, geometry, **keywords)


def filter_grad(x: jax.Array, g: jax.Array, geometry: Geometry, *, forms: tuple[Form, ...], **keywords: Any) -> jax.Array:
    """F: w[j, o, i] += g[b, n*s + j*d - crop_lo, o] * x[b, n, i]."""

    def whole(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
        return mixed.filter_grad(x, g, geometry, forms=forms, bottoms=BOTTOMS, **keywords)

    if not mixed.is_product(forms):
        return whole(x, g, geometry)
    x, g = wide(x, **keywords), wide(g, **keywords)
    if not static(x):
        return whole(x, g, geometry)
    shape = (*geometry.kernel, g.shape[geometry.channel_axis], x.shape[geometry.channel_axis])
    samples = [x.shape[0], *(x.shape[axis] for axis in geometry.spatial_axes)]
    batches, pieces = pieces_of(tuple(samples), math.prod(samples) * math.prod(shape[:-1]), math.prod(shape), x.dtype.itemsize)
    if batches * pieces == 1:
        return whole(x, g, geometry)
    axis, s = geometry.spatial_axes[0], geometry.strides[0]
    images, inputs, outputs = x.shape[0] // batches, -(-x.shape[axis] // pieces), g.shape[axis]
    if pieces > 1:  # of the inputs of a piece, all the outputs that they reach
        (lo, hi), *crops = geometry.crops
        outputs, filled = (inputs - 1) * s + geometry.effective_kernels[0], inputs * pieces - x.shape[axis]
        x = padded(x, _along(x, axis, (0, filled)))
        g, geometry = padded(g, _along(g, axis, (lo, hi + filled * s))), replace(geometry, crops=((0, 0), *crops))

    def piece(index: Any) -> jax.Array:
        image, part = (index // pieces, index % pieces) if pieces > 1 else (index, 0)
        taken = lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(x, image * images, images, 0), part * inputs, inputs, axis)
        reached = lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(g, image * images, images, 0), part * inputs * s, outputs, axis)
        return whole(taken, reached, geometry)

    # The first is before the loop, and not zeros, so that what the loop carries varies over mesh axes as its results do.
    w: jax.Array = lax.fori_loop(1, batches * pieces, lambda index, w: w + piece(index), piece(0))
    return w


def _along(a: jax.Array, axis: int, ends: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Widths of `lax.pad`."""
    return [(*ends, 0) if each == axis else (0, 0, 0) for each in range(a.ndim)]


def wide(a: jax.Array, preferred_element_type: Any, **unused: Any) -> jax.Array:
    """An operand of a product that contracts over rows, in the dtype of the result.

    XLA on CPU converts narrow floats there anyway, but under `jax.vmap` of one operand it forgets to, and has no such product then
    (jaxlib 0.10 to 0.12).
    """
    return a.astype(preferred_element_type)


def elementwise_filter_grad(
    x: jax.Array, g: jax.Array, geometry: Geometry, *, preferred_element_type: Any, **unused: Any
) -> jax.Array:
    """F: w[j, c] += g[b, n*s + j*d - crop_lo, c] * x[b, n, c]."""
    x, g = x.astype(preferred_element_type), with_crops(g.astype(preferred_element_type), geometry)
    taps = np.array(list(np.ndindex(*geometry.kernel))) * geometry.dilations
    # One image and one tap at a time: XLA stores the products before it sums them, which for all would be k times x.
    sizes = [(w - 1) * s + 1 for w, s in zip(x.shape[1:-1], geometry.strides, strict=True)]

    def of_image(image: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, g = image

        def of_tap(start: jax.Array) -> jax.Array:
            window = lax.dynamic_slice(g, [*start, 0], [*sizes, g.shape[-1]])
            tapped = window[tuple(slice(None, None, s) for s in geometry.strides)]
            return jnp.sum(tapped * x, tuple(range(x.ndim - 1)))

        summed: jax.Array = lax.map(of_tap, taps)
        return summed

    return jnp.sum(lax.map(of_image, (x, g)), 0).reshape(*geometry.kernel, 1, x.shape[-1])

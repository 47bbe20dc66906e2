"""Initial filters of a transposed convolution without a checkerboard, and how much of one a kernel and a stride, or a filter, has.

Tap j of a kernel with dilation d lands in phase j*d mod s of the outputs, counted from where the window begins. Where phases get
different numbers of taps, or taps of different sums, the output of a constant input has a pattern of period s: the checkerboard.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv._canonicalize import error
from jaxdeconv._filters import LAYOUTS, FilterLayout, from_tf, to_tf

Initializer: TypeAlias = Callable[..., jax.Array]
_DTYPES = (*canonicalize.FLOATS, *canonicalize.COMPLEX)


def icnr(initializer: Initializer, strides: int | Sequence[int], layout: FilterLayout = "tf") -> Initializer:
    """Makes an initializer of nearest-neighbour upsampling: every phase of the output begins with the same filter.

    A kernel of `m*s` taps is drawn as one of m, each repeated s times:

        w[j] = v[j // s]        so that full[n*s + r] = sum over q < m of v[q] * x[n - q], whatever the phase r

    which is an ordinary convolution of m taps, upsampled, with no checkerboard until training makes one. The variance, too, is that
    of the m taps that an output sees.

    Args:
        initializer: what draws v, called as `initializer(key, shape, dtype)` with the shape of v in the layout, for example
            `jax.nn.initializers.he_normal()`, whose axes of fan-in and fan-out must be those of the layout.
        strides: s, an int or one for each spatial dimension.
        layout: the filter's, one of `jaxdeconv.FilterLayout`. With groups as without.

    Returns:
        A function `init(key, shape, dtype=jnp.float32)` that gives a filter.

    Raises:
        ValueError: by init, for a kernel that is no multiple of the stride.
        TypeError: strides that are no integers.

    Gradients:
        None.

    References:
        A. Aitken et al., Checkerboard artifact free sub-pixel convolution, arXiv:1707.02937.

    Examples:
        >>> import jax
        >>> from jaxdeconv import initializers
        >>> init = initializers.icnr(jax.nn.initializers.normal(), strides=2)
        >>> w = init(jax.random.key(0), (4, 8, 16))
        >>> bool((w[0] == w[1]).all() and (w[2] == w[3]).all())
        True
    """
    if not callable(initializer):
        advice = "pass one of jax.nn.initializers, for example he_normal()"
        raise error(TypeError, "icnr", "initializer must be a function of key, shape and dtype", "initializer", initializer, advice)
    _check("icnr", strides, layout)

    def init(key: Any, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        whole, spatial = _spatial("icnr", shape, layout)
        steps = canonicalize.spatial("icnr", "strides", strides, len(spatial))
        coarse = list(whole)
        for axis, s in zip(spatial, steps, strict=True):
            if whole[axis] % s or not whole[axis]:
                advice = f"take {math.ceil(max(whole[axis], 1) / s) * s} taps, or another initializer"
                rule = f"the kernel must be a multiple of the stride, {s}, for all phases to be alike"
                raise error(ValueError, "icnr", rule, f"shape[{axis}]", whole[axis], advice)
            coarse[axis] //= s
        w = initializer(key, tuple(coarse), dtype)
        for axis, s in zip(spatial, steps, strict=True):
            w = jnp.repeat(w, s, axis)
        return w

    return init


def bilinear(strides: int | Sequence[int], layout: FilterLayout = "tf", groups: int = 1) -> Initializer:
    """Makes an initializer of linear interpolation, in each spatial dimension, of every channel by itself.

        w[j, o, i] = max(0, 1 - |j - (k-1)/2| / s)   for o = i within each group, else 0;   in more dimensions the product

    The phases sum to one, so that constants and ramps are kept away from the borders. With `k = 2*s - s%2` taps and the `W*s` outputs
    of TensorFlow's SAME it is there what `jax.image.resize(..., "linear")` computes.

    Args:
        strides: s, an int or one for each spatial dimension.
        layout: the filter's, one of `jaxdeconv.FilterLayout`.
        groups: of the channels; each has as many outputs as inputs. As many groups as channels for a depthwise filter.

    Returns:
        A function `init(key, shape, dtype=jnp.float32)` that gives a filter. The key is not used, and may be None.

    Raises:
        ValueError: by init, for fewer than 2*s - 1 taps, groups that do not fit, or other numbers of outputs than inputs.
        TypeError: strides or groups that are no integers.

    Gradients:
        None.

    References:
        J. Long, E. Shelhamer and T. Darrell, Fully convolutional networks for semantic segmentation, arXiv:1411.4038, section 3.3.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv import conv1d_transpose, initializers
        >>> w = initializers.bilinear(strides=2)(None, (4, 1, 1))
        >>> w.ravel().tolist()
        [0.25, 0.75, 0.75, 0.25]
        >>> conv1d_transpose(jnp.array([4.0, 8.0, 12.0]).astype("float32").reshape(1, 3, 1), w, [1, 6, 1], 2).ravel().tolist()
        [3.0, 5.0, 7.0, 9.0, 11.0, 9.0]
    """
    _check("bilinear", strides, layout)
    groups = canonicalize.integer("bilinear", "groups", groups)

    def init(key: Any, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        del key
        whole, spatial = _spatial("bilinear", shape, layout)
        steps = canonicalize.spatial("bilinear", "strides", strides, len(spatial))
        channels = _channels(whole, spatial)
        grouped = channels[_grouped(layout)]
        if groups < 1 or grouped % groups or sorted(channels) != sorted((grouped, grouped // groups)):
            rule = f"each of {groups} groups must have as many outputs as inputs"
            raise error(
                ValueError, "bilinear", rule, "shape", whole, f"{grouped} channels need {grouped} and {grouped // max(groups, 1)}"
            )
        w = np.tile(np.eye(grouped // groups), (1, groups))  # [out / groups, in]
        for axis, s in zip(reversed(spatial), reversed(steps), strict=True):
            k = whole[axis]
            if k < 2 * s - 1:
                rule = f"the kernel must have at least 2*s - 1 = {2 * s - 1} taps for stride {s}"
                raise error(ValueError, "bilinear", rule, f"shape[{axis}]", k, f"take {2 * s - s % 2}")
            triangle = np.maximum(0, 1 - np.abs(np.arange(k) - (k - 1) / 2) / s)
            w = triangle.reshape(-1, *[1] * w.ndim) * w
        return from_tf(jnp.asarray(w, dtype), layout, groups)

    return init


@dataclasses.dataclass(frozen=True)
class Checkerboard:
    """How unevenly the taps of a kernel fall on the phases of the output. `str()` of it is for reading.

    taps has, for each spatial dimension, how many taps reach each of its s phases. Over all phases, in N dimensions the products,
    ratio is the largest such number over the smallest, infinite where a phase gets none, and deviation their standard deviation over
    their mean, which is that of the output of a constant input under equal weights.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    ratio: float
    deviation: float

    @property
    def even(self) -> bool:
        """Whether all phases get equally many taps."""
        return self.ratio == 1

    def __str__(self) -> str:
        shown = f"kernel {self.kernel_size}, strides {self.strides}, dilations {self.dilations}"
        phases = "; ".join(", ".join(map(str, each)) for each in self.taps)
        if self.even:
            return f"{shown}: even, taps by phase {phases}"
        better = []
        for k, s, d in zip(self.kernel_size, self.strides, self.dilations, strict=True):
            shared = math.gcd(s, d)
            better.append(str(math.ceil(k / s) * s) if shared == 1 else f"no kernel with dilation {d}")
        return (
            f"{shown}: checkerboard, taps by phase {phases}, ratio {self.ratio:g}, deviation {self.deviation:.0%}; "
            f"even: {', '.join(better)}"
        )


def checkerboard(kernel_size: int | Sequence[int], strides: int | Sequence[int], dilations: int | Sequence[int] = 1) -> Checkerboard:
    """Says whether kernel and stride make a checkerboard, and how strong.

    Tap j falls on phase j*d mod s. Phases get equally many taps where k is a multiple of s and s and d have no common divisor.

    Args:
        kernel_size: k, an int or one for each spatial dimension, which sets their number.
        strides: s, an int or one for each.
        dilations: d, likewise.

    Returns:
        A `Checkerboard`: taps by phase, their ratio and deviation.

    Raises:
        ValueError: sizes below 1, or of other numbers of dimensions.
        TypeError: something else than integers.

    Gradients:
        None; nothing is computed.

    References:
        A. Odena, V. Dumoulin and C. Olah, Deconvolution and checkerboard artifacts, Distill 2016, doi:10.23915/distill.00003.

    Examples:
        >>> from jaxdeconv import initializers
        >>> print(initializers.checkerboard(3, 2))
        kernel (3,), strides (2,), dilations (1,): checkerboard, taps by phase 2, 1, ratio 2, deviation 33%; even: 4
        >>> initializers.checkerboard((3, 3), 2).ratio
        4.0
        >>> initializers.checkerboard((4, 4), 2).even
        True
    """
    function = "checkerboard"
    n = max(len(canonicalize.integers(function, "kernel_size", kernel_size)), 1)
    kernel = canonicalize.spatial(function, "kernel_size", kernel_size, n)
    steps, spread = canonicalize.spatial(function, "strides", strides, n), canonicalize.spatial(function, "dilations", dilations, n)
    taps = tuple(tuple(_phases(k, s, d).sum(1).tolist()) for k, s, d in zip(kernel, steps, spread, strict=True))
    counts = np.ones(1)
    for each in taps:
        counts = np.outer(counts, each).ravel()
    ratio = float(counts.max() / counts.min()) if counts.min() else math.inf
    return Checkerboard(kernel, steps, spread, taps, ratio, float(counts.std() / counts.mean()))


def phase_gains(
    filters: ArrayLike,
    strides: int | Sequence[int],
    dilations: int | Sequence[int] = 1,
    layout: FilterLayout = "tf",
    groups: int = 1,
) -> jax.Array:
    """The output of a constant input of ones, away from the borders, by phase: how strong a checkerboard given weights make.

        gains[r, o] = sum of filters[j, o, i] over i and over all j with j*d mod s = r

    Args:
        filters: in the layout; any floating or complex dtype.
        strides: s, an int or one for each spatial dimension.
        dilations: d, likewise.
        layout: of the filters, one of `jaxdeconv.FilterLayout`.
        groups: of the channels.

    Returns:
        `[*s, O]`, of the dtype of filters: all alike along s where there is no checkerboard.

    Raises:
        ValueError: a size or choice that does not fit.
        TypeError: an argument of the wrong type.

    Gradients:
        Of every order and in both modes: it is linear, and so can be a penalty.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdeconv import initializers
        >>> initializers.phase_gains(jnp.ones((3, 1, 1), "float32"), 2).ravel().tolist()
        [2.0, 1.0]
    """
    function = "phase_gains"
    _check(function, strides, layout)
    w = canonicalize.array(function, "filters", filters, _DTYPES)
    _, spatial = _spatial(function, w.shape, layout)
    n = len(spatial)
    steps, spread = canonicalize.spatial(function, "strides", strides, n), canonicalize.spatial(function, "dilations", dilations, n)
    groups = canonicalize.integer(function, "groups", groups)
    grouped = _channels(w.shape, spatial)[_grouped(layout)]
    if groups < 1 or grouped % groups:
        raise error(ValueError, function, f"groups must divide {grouped} channels", "groups", groups, "pass the groups of the layer")
    w = to_tf(w, layout, groups)
    gains = w.reshape(*w.shape[:-1], groups, -1).sum(-1)  # [*k, out / groups, groups]
    gains = jnp.swapaxes(gains, -1, -2).reshape(*w.shape[:n], -1)
    for axis, (k, s, d) in enumerate(zip(w.shape[:n], steps, spread, strict=True)):
        gains = jnp.moveaxis(jnp.tensordot(jnp.asarray(_phases(k, s, d), w.dtype), gains, ((1,), (axis,))), 0, axis)
    return gains


def _phases(k: int, s: int, d: int) -> np.ndarray:
    """[s, k]: whether tap j falls on phase r."""
    return np.equal.outer(np.arange(s), np.arange(k) * d % s)


def _channels(shape: tuple[int, ...], spatial: tuple[int, ...]) -> list[int]:
    """The sizes of the two channel axes, in order."""
    return [size for axis, size in enumerate(shape) if axis not in spatial]


def _grouped(layout: FilterLayout) -> int:
    """Which of the two channel axes, in order, runs over all groups."""
    return [name for name in LAYOUTS[layout].axes if name != "k"].index(LAYOUTS[layout].grouped)


def _check(function: str, strides: Any, layout: Any) -> None:
    canonicalize.choice(function, "layout", layout, get_args(FilterLayout))
    canonicalize.integers(function, "strides", strides)


def _spatial(function: str, shape: Sequence[int], layout: FilterLayout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape as ints, and which of its axes are spatial."""
    whole = canonicalize.integers(function, "shape", shape)
    if len(whole) < 3:
        rule = "shape must have at least one spatial axis beside its two channel axes"
        raise error(ValueError, function, rule, "shape", whole, f"pass the shape of a filter in the layout {layout!r}")
    start = LAYOUTS[layout].axes.index("k")
    return whole, tuple(range(start, start + len(whole) - 2))

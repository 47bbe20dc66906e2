"""How each framework stores the filter of a transposed convolution, and the way to and from TensorFlow's layout, which is the hub.

TensorFlow's filter is [*k, out / groups, in], never flipped, with groups along in. The other layouts are an order of the three axes,
perhaps with the kernel flipped, and with groups along the first of in and out that the framework divides its channels by:

| layouts            | axes                 | kernel  | groups along |
| tf, keras          | [*k, out / g, in]    | as is   | in           |
| haiku              | [*k, out / g, in]    | flipped | in           |
| lax, flax          | [*k, in / g, out]    | flipped | out          |
| torch, onnx        | [in, out / g, *k]    | as is   | in           |
| equinox            | [out, in / g, *k]    | flipped | out          |

lax_transpose_kernel, that is lax and flax with transpose_kernel=True, is tf.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

FilterLayout: TypeAlias = Literal["tf", "keras", "lax", "flax", "lax_transpose_kernel", "haiku", "equinox", "torch", "onnx"]


class _Layout(NamedTuple):
    """Axes in order, k standing for all spatial ones."""

    axes: tuple[str, str, str]
    flipped: bool
    grouped: str  # "in" or "out": the axis that runs over all channels, group by group; the other one has those of one group


_TF = _Layout(("k", "out", "in"), False, "in")
_LAX = _Layout(("k", "in", "out"), True, "out")
_TORCH = _Layout(("in", "out", "k"), False, "in")
LAYOUTS: dict[str, _Layout] = {
    "tf": _TF,
    "keras": _TF,
    "lax_transpose_kernel": _TF,
    "haiku": _TF._replace(flipped=True),
    "lax": _LAX,
    "flax": _LAX,
    "torch": _TORCH,
    "onnx": _TORCH,
    "equinox": _Layout(("out", "in", "k"), True, "out"),
}


def layouts_of(shape: tuple[int, ...], inputs: int, outputs: int | None, groups: int) -> dict[str, tuple[str, int]]:
    """The layouts in which a filter of this shape is for so many channels, each with its axes and its output channels.

    Of layouts with equal axes it names one. outputs may be unknown.
    """
    found = {}
    for name in ("tf", "lax", "torch", "equinox"):
        layout = LAYOUTS[name]
        at = positions(layout, len(shape))
        held = {each: shape[at[each][0]] for each in ("in", "out")}
        whole = held | {each: size * groups for each, size in held.items() if each != layout.grouped}
        if whole["in"] == inputs and outputs in (None, whole["out"]) and held[layout.grouped] % groups == 0:
            written = {"k": "*k"} | {each: each if each == layout.grouped else f"{each} / groups" for each in held}
            found[name] = f"[{', '.join(written[each] for each in layout.axes)}]", whole["out"]
    return found


def positions(layout: _Layout, ndim: int) -> dict[str, tuple[int, ...]]:
    """Which axes of an array of this layout, of ndim axes in all, are k, out and in."""
    positions: dict[str, tuple[int, ...]] = {}
    start = 0
    for name in layout.axes:
        stop = start + (ndim - 2 if name == "k" else 1)
        positions[name] = tuple(range(start, stop))
        start = stop
    return positions


def regrouped(w: jax.Array, groups: int, whole: int, part: int) -> jax.Array:
    """Moves the groups from axis `whole`, G * a entries group by group, to axis `part`, b entries: they become a and G * b."""
    if groups == 1:
        return w
    shape = list(w.shape)
    a, b = shape[whole] // groups, shape[part]
    split = jnp.moveaxis(w.reshape([*shape[:whole], groups, a, *shape[whole + 1 :]]), whole, 0)  # [G, ..., a, ..., b, ...]
    moved = jnp.moveaxis(split, 0, part)  # the group just before b
    shape[whole], shape[part] = a, groups * b
    return moved.reshape(shape)


def _converted(w: jax.Array, source: _Layout, target: _Layout, groups: int) -> jax.Array:
    if source == target:
        return w
    n = w.ndim
    at = positions(source, n)
    if source.grouped != target.grouped:
        w = regrouped(w, groups, at[source.grouped][0], at[target.grouped][0])
    if source.flipped != target.flipped:
        w = jnp.flip(w, at["k"])
    return jnp.transpose(w, [axis for name in target.axes for axis in at[name]])


def to_tf(w: jax.Array, source: str, groups: int) -> jax.Array:
    """The filter in TensorFlow's layout, [*k, out / groups, in]."""
    return _converted(w, LAYOUTS[source], _TF, groups)


def from_tf(w: jax.Array, target: str, groups: int) -> jax.Array:
    """A filter of TensorFlow's layout in another."""
    return _converted(w, _TF, LAYOUTS[target], groups)

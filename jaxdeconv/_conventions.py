"""How each convention writes the window of a call: its arguments, or why it has none."""

from __future__ import annotations

import string
from typing import Any, NamedTuple

from jaxdeconv._call import Call
from jaxdeconv._contractions import typical
from jaxdeconv._geometry import effective_kernel, full_size


class Dimension(NamedTuple):
    """One spatial dimension: sizes, kernel, stride, dilation, crops, and what follows from them."""

    size: int
    length: int
    k: int
    s: int
    d: int
    lo: int
    hi: int

    @property
    def ke(self) -> int:
        return effective_kernel(self.k, self.d)

    @property
    def full(self) -> int:
        return full_size(self.size, self.k, self.s, self.d)

    @property
    def products(self) -> int:
        """How many pairs of an input position n and a tap j land inside of the window."""
        starts = (j * self.d - self.lo for j in range(self.k))
        return sum(
            max(0, min(self.size - 1, (self.length - 1 - start) // self.s) - max(0, -(start // self.s)) + 1) for start in starts
        )


def dimensions_of(call: Call) -> tuple[Dimension, ...]:
    """Of sizes that are symbolic, typical ones: no window depends on them."""
    geometry = call.geometry
    inputs = typical(call.input_shape)
    outputs = geometry.output_shape(inputs, call.filter_shape)
    rows = zip(geometry.spatial_axes, geometry.kernel, geometry.strides, geometry.dilations, geometry.crops, strict=True)
    return tuple(Dimension(inputs[axis], outputs[axis], k, s, d, lo, hi) for axis, k, s, d, (lo, hi) in rows)


def spelled(call: Call, dimensions: tuple[Dimension, ...]) -> dict[str, dict[str, Any] | str]:
    """By convention, the arguments that place the same window there, or a sentence why there are none.

    They are beside strides and dilations, for an input with its channels where the call has them, if the convention takes it so, and
    for a filter in the layout of the convention.
    """
    n, groups, first = len(dimensions), call.geometry.groups, not call.geometry.channels_last
    letters = "DHW"[-n:] if n <= 3 else string.ascii_lowercase[:n]
    form = f"NC{letters}"

    def more(name: str, **order: Any) -> dict[str, Any]:
        return ({name: groups} if groups > 1 else {}) | (order if first else {})

    found = {
        "tf": (_tf(dimensions, call), more("groups", data_format=form)),
        "torch": (_torch(dimensions, call.input_shape[0]), more("groups")),
        "onnx": (_onnx(dimensions), more("group")),
        "lax": (_lax(dimensions), more("feature_group_count", dimension_numbers=(form, f"{letters}IO", form))),
        "keras": (_keras(dimensions), more("groups", data_format="channels_first")),
    }
    said = {name: window if isinstance(window, str) else window | others for name, (window, others) in found.items()}
    if not 1 <= n <= 3:
        said |= dict.fromkeys(("tf", "torch", "keras"), "not expressible: it is for one, two or three dimensions")
    return said


def _tf(dimensions: tuple[Dimension, ...], call: Call) -> dict[str, Any] | str:
    said = {"output_shape": list(call.output_shape)}
    if all(0 <= each.s * each.size - each.length < each.s and each.lo == max(each.full - each.length, 0) // 2 for each in dimensions):
        return {"padding": "SAME"} | said
    if all(each.size > 0 and each.lo >= 0 and -each.hi < each.s for each in dimensions):
        if all(each.lo == 0 and each.hi <= 0 for each in dimensions):
            return {"padding": "VALID"} | said
        pads, zero = [[each.lo, max(each.hi, 0)] for each in dimensions], [[0, 0]]
        return {"padding": zero + pads + zero if call.geometry.channels_last else zero + zero + pads} | said
    return "not expressible: neither SAME nor VALID keeps this window, nor explicit padding"


def _torch(dimensions: tuple[Dimension, ...], batch: int) -> dict[str, Any] | str:
    if batch > 0 and not all(each.size > 0 and each.length > 0 for each in dimensions):
        return "not expressible: nothing but the batch may be empty"
    if any(each.lo < 0 for each in dimensions):
        return "not expressible: padding cannot be negative, and zeros come first here"
    extra = [each.lo - each.hi for each in dimensions]
    if not all(0 <= op < max(each.s, each.d) for op, each in zip(extra, dimensions, strict=True)):
        return (
            f"not expressible: output_padding would be {tuple(extra)}, and must be from 0 to below the larger of stride and dilation"
        )
    return {"padding": tuple(each.lo for each in dimensions), "output_padding": tuple(extra)}


def _onnx(dimensions: tuple[Dimension, ...]) -> dict[str, Any] | str:
    if any(each.lo < 0 for each in dimensions):
        return "not expressible: pads cannot be negative, and zeros come first here"
    extra = [max(-each.hi, 0) for each in dimensions]
    if not all(op < max(each.s, each.d) for op, each in zip(extra, dimensions, strict=True)):
        return f"not expressible: output_padding would be {extra}, and must be below the larger of stride and dilation"
    return {"pads": [each.lo for each in dimensions] + [max(each.hi, 0) for each in dimensions], "output_padding": extra}


def _lax(dimensions: tuple[Dimension, ...]) -> dict[str, Any]:
    # That is (ke - 1 - lo, ke - 1 - hi), but for an empty input, which lax spreads to no samples.
    spread = [max((each.size - 1) * each.s + 1, 0) for each in dimensions]
    return {"padding": [(each.ke - 1 - each.lo, each.length + each.lo - size) for each, size in zip(dimensions, spread, strict=True)]}


def _keras(dimensions: tuple[Dimension, ...]) -> dict[str, Any] | str:
    if all(each.lo == 0 and -each.hi == max(each.s - each.ke, 0) for each in dimensions):
        return {"padding": "valid", "output_padding": None}
    if all(each.lo == 0 and 0 <= -each.hi < each.s for each in dimensions):
        return {"padding": "valid", "output_padding": tuple(-each.hi for each in dimensions)}
    if all(each.length == each.s * each.size and each.lo == max(each.full - each.length, 0) // 2 for each in dimensions):
        return {"padding": "same", "output_padding": None}
    extra = tuple(each.length - (each.size - 1) * each.s - each.ke % 2 for each in dimensions)
    overhang = [-(-(each.ke + each.ke % 2 - 2 + op) // 2) for each, op in zip(dimensions, extra, strict=True)]
    if all(
        0 <= op < each.s and each.lo == each.ke - 1 - min(q, each.ke - 1)
        for each, op, q in zip(dimensions, extra, overhang, strict=True)
    ):
        return {"padding": "same", "output_padding": extra}
    return "not expressible: neither valid nor same keeps this window with any output_padding"

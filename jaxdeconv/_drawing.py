"""A drawing, in text, of which inputs reach which outputs. Reads an Explanation, and computes nothing else."""

from __future__ import annotations

from typing import Any

from jaxdeconv._canonicalize import SPATIAL
from jaxdeconv._explain import Explanation
from jaxdeconv._geometry import full_size

_COLUMNS, _ROWS = 64, 6
_TAPS = "0123456789abcdefghijklmnopqrstuvwxyz"


def drawing(explanation: Explanation) -> str:
    """One block for each spatial dimension, and one for all that are alike.

    A row for each input, in which a tap's number stands in the column of the output that the input reaches by it, counted from where
    the whole sum begins; then a row of what becomes of each column: "=" an output, "x" cropped, "0" an output that no input reaches.
    """
    ndim = len(explanation.strides)
    names = SPATIAL[-ndim:] if ndim <= len(SPATIAL) else [f"dimension {index}" for index in range(ndim)]
    spatial = slice(1, -1) if explanation.channels_last else slice(2, None)
    dimensions = zip(
        explanation.input_shape[spatial],
        explanation.output_shape[spatial],
        explanation.filter_shape,
        explanation.strides,
        explanation.dilations,
        explanation.crops,
        strict=False,
    )
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, each in zip(names, dimensions, strict=False):
        alike.setdefault(each, []).append(name)
    return "\n\n".join(_dimension(", ".join(called), *each) for each, called in alike.items())


def _dimension(name: str, size: int, length: int, k: int, s: int, d: int, crops: tuple[int, int]) -> str:
    crop = crops[0]
    first, last = min(0, crop), max(full_size(size, k, s, d), crop + length)  # columns, 0 being the first that input 0 reaches
    stop = min(last, first + _COLUMNS)
    shown = min(size, _ROWS, max(0, -(-stop // s)))
    if 0 < shown < size:
        stop = min(stop, full_size(shown, k, s, d))
    head = f"{name}: {size} inputs, kernel {k}, stride {s}, dilation {d}, {length} outputs"
    rows = []
    for n in range(shown):
        cells = [" "] * (stop - first)
        for j in range(k):
            if (column := n * s + j * d) < stop:
                cells[column - first] = _TAPS[j] if j < len(_TAPS) else "#"
        rows.append((f"x[{n}]", "".join(cells).rstrip()))
    reached = {n * s + j * d for n in range(size) for j in range(k)} if size * k <= 10**6 else set(range(first, stop))
    fate = "".join(
        ("=" if column in reached else "0") if crop <= column < crop + length else "x" if column in reached else " "
        for column in range(first, stop)
    )
    rows.append(("y", fate.rstrip()))
    marks = [" "] * (stop - first + 8)
    for m in range(0, min(length, stop - crop), 10):
        column = crop + m - first
        marks[column : column + len(str(m))] = str(m)
    rows.append(("", "".join(marks).rstrip()))
    width = max(len(label) for label, _ in rows)
    lines = [head, *(f"  {label:{width}} |{cells}" for label, cells in rows)]
    left = [f"inputs {shown} to {size - 1}"] * (shown < size) + [f"the last {last - stop} columns"] * (stop < last)
    return "\n".join(lines + [f"  not shown: {' and '.join(left)}"] * bool(left))

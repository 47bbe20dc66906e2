"""The oracle of tests/ made fast: a loop over taps instead of one over inputs and taps. `agree()` compares the two.

Operands as there: channels last, x [batch, *W, in], w [*k, out / groups, in], y and g [batch, *L, out].
"""

import importlib.util
import math
from pathlib import Path

import numpy as np


def _slices(tap, x_spatial, strides, dilations):
    """Where a tap puts all inputs in the full sum."""
    rows = zip(tap, x_spatial, strides, dilations, strict=True)
    return (slice(None), *(slice(j * d, j * d + max(n - 1, 0) * s + (n > 0), s) for j, n, s, d in rows))


def _full_lengths(x_spatial, kernel, strides, dilations):
    return [max((n - 1) * s + (k - 1) * d + 1, 0) for n, k, s, d in zip(x_spatial, kernel, strides, dilations, strict=True)]


def _overlap(full, lengths, crops):
    """The slices of the full sum and of its window that are the same samples."""
    starts = [max(c, 0) for c in crops]
    stops = [max(min(f, c + length), start) for f, c, length, start in zip(full, crops, lengths, starts, strict=True)]
    of_full = (slice(None), *map(slice, starts, stops))
    of_window = (slice(None), *(slice(a - c, b - c) for a, b, c in zip(starts, stops, crops, strict=True)))
    empty = any(a == b for a, b in zip(starts, stops, strict=True))
    return empty, of_full, of_window


def _split(a, groups):
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)


def transpose(x, w, lengths, strides, dilations, crops, groups=1):
    """T(x, w)."""
    *kernel, out, _ = w.shape
    x_spatial, x, w = x.shape[1:-1], _split(x, groups), _split(w, groups)
    sizes = _full_lengths(x_spatial, kernel, strides, dilations)
    full = np.zeros((x.shape[0], *sizes, groups, out), np.result_type(x, w))
    for tap in np.ndindex(*kernel):
        full[_slices(tap, x_spatial, strides, dilations)] += np.einsum("...gi,ogi->...go", x, w[tap])
    y = np.zeros((x.shape[0], *lengths, groups * out), full.dtype)
    empty, of_full, of_window = _overlap(sizes, lengths, crops)
    if not empty:
        y[of_window] = full.reshape(*full.shape[:-2], groups * out)[of_full]
    return y


def _restored(g, x_spatial, kernel, strides, dilations, crops, groups):
    """g, put back into the full sum of which it is a window."""
    sizes = _full_lengths(x_spatial, kernel, strides, dilations)
    full = np.zeros((g.shape[0], *sizes, g.shape[-1]), g.dtype)
    empty, of_full, of_window = _overlap(sizes, g.shape[1:-1], crops)
    if not empty:
        full[of_full] = g[of_window]
    return _split(full, groups)


def input_grad(g, w, x_spatial, strides, dilations, crops, groups=1):
    """C(g, w)."""
    *kernel, _, inputs = w.shape
    g, w = _restored(g, x_spatial, kernel, strides, dilations, crops, groups), _split(w, groups)
    x = np.zeros((g.shape[0], *x_spatial, groups, inputs // groups), np.result_type(g, w))
    for tap in np.ndindex(*kernel):
        x += np.einsum("...go,ogi->...gi", g[_slices(tap, x_spatial, strides, dilations)], w[tap])
    return x.reshape(*x.shape[:-2], inputs)


def filter_grad(x, g, kernel, strides, dilations, crops, groups=1):
    """F(x, g)."""
    x_spatial, inputs = x.shape[1:-1], x.shape[-1]
    g, x = _restored(g, x_spatial, kernel, strides, dilations, crops, groups), _split(x, groups)
    x = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    w = np.zeros((*kernel, g.shape[-1], groups, inputs // groups), np.result_type(x, g))
    for tap in np.ndindex(*kernel):
        part = g[_slices(tap, x_spatial, strides, dilations)]
        w[tap] = np.einsum("ngo,ngi->ogi", part.reshape(len(x), *part.shape[-2:]), x)
    return w.reshape(*kernel, g.shape[-1], inputs)


def agree(windows):
    """Asserts that these functions and those of tests/oracle.py give the same, for windows (x_spatial, kernel, lengths, ...)."""
    path = Path(__file__).parent.parent / "tests" / "oracle.py"
    spec = importlib.util.spec_from_file_location("slow_oracle", path)
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    rng = np.random.default_rng(0)
    for x_spatial, kernel, lengths, strides, dilations, crops, groups in windows:
        x, w, g = (
            rng.integers(-3, 4, shape).astype(float)
            for shape in ((2, *x_spatial, 2 * groups), (*kernel, 3, 2 * groups), (2, *lengths, 3 * groups))
        )
        window = strides, dilations, crops, groups
        for name, operands in (
            ("transpose", (x, w, lengths)),
            ("input_grad", (g, w, x_spatial)),
            ("filter_grad", (x, g, kernel)),
        ):
            fast, loops = globals()[name](*operands, *window), getattr(slow, name)(*operands, *window)
            np.testing.assert_array_equal(fast, loops, err_msg=f"{name} {window}")

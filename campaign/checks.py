"""Whether arrays are what they should be: exactly so for small integers, and within what rounding can do for others."""

from typing import NamedTuple

import numpy as np

from campaign import expected
from campaign.case import dtype_of
from campaign.transforms import TRANSFORMS

NARROW = ("float16", "bfloat16")
EPS = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52, "complex64": 2**-23, "complex128": 2**-52}


class Wanted(NamedTuple):
    """One array: its values, how far off they may be, and its dtype."""

    values: np.ndarray
    tolerance: np.ndarray | float
    bound: np.ndarray | None  # the sum of the absolute values of all terms
    dtype: str


def _wide(a):
    return a.astype({"c": np.complex128, "i": np.int64}.get(a.dtype.kind, np.float64))


def wanted(case, window, operands):
    """What a case's transformation gives, for operands by name."""
    transform = TRANSFORMS[case.transform]
    if not window.once:
        transform = transform._replace(once=False)
    result = dtype_of(case.result_dtype)
    rounds = case.result_dtype in NARROW and case.b is not None
    sums = expected.Sums(window, (lambda y: y.astype(result).astype(np.float64)) if rounds else None)
    values = transform.expected(sums, **{name: _wide(a) for name, a in operands.items()})
    exact = case.exact or not case.differentiable
    bounds = [None] * len(values)
    if not (exact and case.dtype not in NARROW and case.result_dtype not in NARROW):
        bounds = transform.expected(expected.Sums(window), **{name: np.abs(_wide(a)) for name, a in operands.items()})
    return [
        _tolerated(case, transform, value, bound, case.result_dtype if kind == "r" else case.dtype, exact)
        for value, bound, kind in zip(values, bounds, transform.dtypes, strict=False)
    ]


def _tolerated(case, transform, value, bound, dtype, exact):
    if exact and (transform.once or dtype not in NARROW):
        if case.dtype in NARROW and not transform.once:  # a wide sum of narrow ones, each rounded
            return Wanted(value, 2 * EPS[case.dtype] * bound, bound, dtype)
        return Wanted(value, 0.0, bound, dtype)
    eps = max(2**-23 if each in NARROW else EPS.get(each, 0) for each in (case.dtype, case.result_dtype, dtype))
    tolerance = 16 * eps * bound
    if transform.once and case.b is None:
        tolerance = tolerance + (0.51 * EPS[dtype] * np.abs(value) if dtype in NARROW else 0)
    else:
        tolerance = tolerance + 2 * max(EPS.get(each, 0) for each in (case.dtype, case.result_dtype)) * bound
    smallest = float(np.finfo(dtype).tiny) if dtype == "float16" else 0.0  # below it, float16 has fewer digits
    return Wanted(value, tolerance + smallest, bound, dtype)


def difference(actual, wanted, loose=0.0):
    """None, or how the array differs from what is wanted; `loose` is more tolerance, in units of the bound."""
    actual = np.asarray(actual)
    if actual.dtype != dtype_of(wanted.dtype) and not loose:
        return f"dtype {actual.dtype}, not {wanted.dtype}"
    if actual.shape != wanted.values.shape:
        return f"shape {actual.shape}, not {wanted.values.shape}"
    if not actual.size:
        return None
    target, tolerance = wanted.values, wanted.tolerance
    if loose:
        tolerance = tolerance + loose * (np.abs(target).max() if wanted.bound is None else wanted.bound.max())
    elif not np.any(tolerance):
        rounded = target.astype(actual.dtype)  # wraps integers, rounds narrow floats
        if np.array_equal(actual, rounded):
            return None
        target = rounded
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(_wide(actual) - _wide(np.asarray(target)))
    excess = np.where(np.isfinite(off), off - tolerance, np.inf)
    at = np.unravel_index(np.argmax(excess), excess.shape)
    if excess[at] <= 0:
        return None
    wrong = int((excess > 0).sum())
    return f"{actual[at]} instead of {target[at]} at {tuple(map(int, at))}, and {wrong} of {actual.size} entries are off"

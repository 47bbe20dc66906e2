"""Times and differences of functions that compute the same."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

Key = TypeVar("Key")


def ready(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, when it is there."""
    return jax.tree.map(lambda each: each.block_until_ready(), function(*arguments))


def samples(
    callables: Mapping[Key, Callable[[], Any]], rounds: int, within: float = math.inf, budget: float = math.inf
) -> dict[Key, list[float]]:
    """Seconds a call, in samples taken in alternation, each of as many calls as take 20 ms.

    What takes more than `within` times as long as the fastest so far is left out of a round. After `budget` seconds no round begins.
    """
    taken: dict[Key, list[float]] = {key: [] for key in callables}
    found: dict[Key, float] = {}
    began = time.perf_counter()
    for _ in range(rounds):
        if found and time.perf_counter() - began > budget:
            break
        limit = within * min(found.values()) if found else math.inf
        for key, function in callables.items():
            if found.get(key, 0) > limit:
                continue
            calls, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < 0.02 or not calls:
                function()
                calls += 1
            taken[key].append(elapsed / calls)
        found = {key: statistics.median(each) for key, each in taken.items()}
    return taken


def medians(callables: Mapping[Key, Callable[[], Any]], rounds: int, within: float = math.inf) -> dict[Key, float]:
    """Those of `samples`."""
    return {key: statistics.median(each) for key, each in samples(callables, rounds, within).items()}


def quartiles(taken: Sequence[float]) -> tuple[float, float]:
    """The first and the third, between which half of the samples are."""
    first, _, third = statistics.quantiles(taken, method="inclusive") if len(taken) > 1 else [*taken] * 3
    return first, third


def difference(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The largest difference between two arrays, in parts of the largest value of the second."""
    a, b = (each.astype(complex) for each in (actual, expected))
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def tolerance(dtype: Any, platform: str) -> float:
    """How much rounding may make of it. Elsewhere than on CPU, products of float32 are of fewer bits by default."""
    return {"float16": 1e-2, "bfloat16": 5e-2}.get(np.dtype(dtype).name, 1e-4 if platform == "cpu" else 5e-2)

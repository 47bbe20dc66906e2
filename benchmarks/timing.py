"""Timing within one process: callables in alternation, medians over rounds. Knows nothing of convolutions."""

import random
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

SLOW = 0.5  # seconds a call, from which two rounds suffice: the noise is in the milliseconds
_SAMPLE = 0.02  # seconds of timed calls in a round
_SETTLING = 0.005  # seconds of pause, and of untimed calls; torch's threads still halve the speed of the next after 1 ms


def alternate(callables: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each, one sample a round. All are compiled already, and wait for their results.

    A round is in an order of its own, for in one order each would always follow the same other one. Before each sample there is a
    pause, in which the threads of the runtime before it, which go on spinning, settle; then untimed calls, which bring back caches.
    What is slow needs no such calls.
    """
    samples: dict[str, list[float]] = {name: [] for name in callables}
    shuffled = random.Random(0).sample
    for _ in range(rounds):
        for name in shuffled(list(callables), len(callables)):
            taken, function = samples[name], callables[name]
            if len(taken) >= 2 and min(taken) > SLOW:
                continue
            time.sleep(_SETTLING)
            seconds = _sample(function, _SETTLING if taken else _SAMPLE)
            taken.append(seconds if seconds > SLOW else _sample(function, _SAMPLE))
    return samples


def _sample(function: Callable[[], object], least: float) -> float:
    """Seconds a call, of as many calls as take `least` seconds."""
    calls, start = 0, time.perf_counter()
    while True:
        function()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= least:
            return elapsed / calls


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in samples.items()}


class MatrixRate:
    """FLOP/s of a square matrix product of JAX, the machine's limit; the median of as many measurements as there were calls."""

    SIZE = 2048

    def __init__(self, dtype: str) -> None:
        self._operand = jnp.ones((self.SIZE, self.SIZE), dtype)
        self._product = jax.jit(jnp.matmul)
        self._rates: list[float] = []

    def measure(self) -> None:
        def product() -> None:
            self._product(self._operand, self._operand).block_until_ready()

        product()
        seconds = statistics.median(alternate({"product": product}, 3)["product"])
        self._rates.append(2 * self.SIZE**3 / seconds)

    @property
    def value(self) -> float:
        return statistics.median(self._rates)

    @property
    def samples(self) -> list[float]:
        return list(self._rates)

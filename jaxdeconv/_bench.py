"""bench: a layer by this package, by each lowering, by lax with JAX's derivative of it, and by torch, on the device at hand."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxdeconv
from jaxdeconv._contractions import device
from jaxdeconv._explain import Explanation
from jaxdeconv._measure import difference, quartiles, ready, samples, tolerance
from jaxdeconv._tuning import aligned, digits, milliseconds
from jaxdeconv._verdict import LETTERS

OURS, LAX, TORCH = "jaxdeconv", "lax with autodiff", "torch"
STEP, SCAN = "step", "in a scan"  # of training: the output and both gradients; and the same in a loop
STEPS = 2  # of a scan
TINY = 1e-6  # of a gradient is a step
BUDGET = 1.5  # seconds, after which no further round of samples begins,
SLOW = 0.5  # and a call from which one sample suffices
LOOPED = 0.15  # seconds a step, from which the scan of it is left out: XLA on CPU computes lax's gradients there by scalar loops
FAR = 20  # A lowering that is estimated to take more than so many times as long is left out,
FASTER = 1.1  # and one that is so many times as fast is worth a word.

Key = tuple[str, str]
"""What computes, and what of."""
Seconds = dict[Key, float]
Samples = dict[Key, list[float]]


class Layer(NamedTuple):
    """The function of its convention, the types of its operands there, and what explain says."""

    function: Callable[..., jax.Array]
    arrays: list[Any]
    keywords: dict[str, Any]
    layout: Any  # of its filter; None if its axes are in an order of their own
    explanation: Explanation

    def by(self, **how: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return partial(self.function, **self.keywords | how)


def bench(layer: Layer, rounds: int) -> int:
    """Prints a table and a verdict, and returns the exit status."""
    explanation, (platform, kind) = layer.explanation, device()
    chosen = {LETTERS[contraction]: by[platform] for contraction, by in explanation.lowerings.items()}
    print(f"jax {jax.__version__}, {kind}; chosen: {', '.join(f'{letter} {name}' for letter, name in chosen.items())}")
    print("T is the output, C the input gradient, F the filter gradient, a step all three; 2x is twice as long as jaxdeconv\n")
    sys.stdout.flush()

    x, w = _operands(layer)
    columns = ("T", "C", "F", STEP, SCAN) if jnp.issubdtype(x.dtype, jnp.inexact) else ("T",)
    programs = {(OURS, column): each for column, each in _programs(layer.by(), x, w).items()}
    notes: list[str] = []
    depthwise = explanation.filter_shape[-2] == 1 and explanation.groups == explanation.filter_shape[-1]
    names = [name for name in get_args(jaxdeconv.Implementation) if depthwise or name != "elementwise"]
    for name in names:
        try:
            named = jaxdeconv.explain(layer.by(implementation=name), *layer.arrays)
        except ValueError as reason:
            notes.append(str(reason).split(" and ", 1)[-1].split(", got ")[0])
            continue
        assert isinstance(named, Explanation)
        able = _programs(layer.by(implementation=name), x, w)
        for contraction, letter in LETTERS.items():
            near = named.estimates[contraction][platform] <= FAR * explanation.estimates[contraction][platform]
            if near and chosen[letter] != name:
                programs[name, letter] = able[letter]
            elif chosen[letter] != name and letter in columns:
                notes.append(f"{letter} by {name!r} is not timed: it is estimated to take more than {FAR}x as long")
    programs |= {(LAX, column): each for column, each in _programs(_lax(layer), *_operands_of_lax(layer, x, w)).items()}

    taken, results = _timed({key: each for key, each in programs.items() if key[1] in columns}, rounds)
    taken |= {(chosen[column], column): each for (by, column), each in [*taken.items()] if by == OURS and column in chosen}
    if isinstance(theirs := _torch(layer, platform), str):
        notes.append(theirs)
    else:  # after the others, because its threads go on spinning
        _say(TORCH)
        runs = {(TORCH, column): run for column, run in theirs.items() if column in columns}
        taken |= _alternated(runs, {key: _once(run)[0] for key, run in runs.items()}, rounds)
    if SCAN in columns and (LAX, SCAN) not in taken:
        notes.append(f"{LAX} is not timed in a scan: a step takes more than {1e3 * LOOPED:.0f} ms")
    seconds = {key: statistics.median(each) for key, each in taken.items()}
    ranges = {key: quartiles(each) for key, each in taken.items()}
    table = _table(seconds, dict.fromkeys((OURS, *names, *chosen.values(), LAX, TORCH)), columns)
    print("\n".join([*table, *(f"  {note}" for note in notes), "", _verdict(seconds, chosen, ranges)]))

    worst = max([0.0, *_differences(layer, results)])
    print(f"The results differ by at most {worst:.1e} of the largest value.")
    if worst > tolerance(x.dtype, platform):
        print("python -m jaxdeconv: error: the lowerings disagree", file=sys.stderr)
        return 1
    return 0


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def _operands(layer: Layer) -> list[jax.Array]:
    """Random ones, the filter so small that results are of the size of the input."""
    rng, terms = np.random.default_rng(0), np.prod(layer.explanation.filter_shape) / max(layer.explanation.filter_shape[-2], 1)
    drawn = [rng.standard_normal(each.shape, np.float32) for each in layer.arrays]
    scaled = drawn if np.dtype(layer.arrays[0].dtype).kind in "iu" else [drawn[0], drawn[1] / np.sqrt(max(terms, 1))]
    return [jnp.asarray(each, like.dtype) for each, like in zip(scaled, layer.arrays, strict=True)]


def _programs(op: Callable[..., jax.Array], x: jax.Array, w: jax.Array) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """T, C, F, a step of training, whose loss is half the sum of squares, and some in a scan; and their operands."""

    def step(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        y, vjp = jax.vjp(op, x, w)
        return (y, *vjp(y))

    def scanned(x: jax.Array, w: jax.Array) -> Any:
        def stepped(both: Any, _: None) -> tuple[Any, None]:
            return tuple(each - TINY * gradient for each, gradient in zip(both, step(*both)[1:], strict=True)), None

        return lax.scan(stepped, (x, w), None, length=STEPS)[0]

    y = jax.eval_shape(op, x, w)
    g = jnp.resize(x, y.shape).astype(y.dtype) if x.size else jnp.zeros(y.shape, y.dtype)
    return {
        "T": (op, (x, w)),
        "C": (lambda x, w, g: jax.vjp(lambda x: op(x, w), x)[1](g)[0], (x, w, g)),
        "F": (lambda x, w, g: jax.vjp(lambda w: op(x, w), w)[1](g)[0], (x, w, g)),
        STEP: (step, (x, w)),
        SCAN: (scanned, (x, w)),
    }


def _lax(layer: Layer) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What `jax.lax.conv_transpose` and the frameworks' own layers make of it."""
    each = layer.explanation
    n = len(each.strides)
    spatial = tuple(range(1, n + 1)) if each.channels_last else tuple(range(2, n + 2))
    activations = (0, n + 1 if each.channels_last else 1, *spatial)
    ends = zip(each.filter_shape, each.dilations, each.crops, strict=False)
    return partial(
        lax.conv_general_dilated,
        window_strides=(1,) * n,
        padding=[((k - 1) * d - lo, (k - 1) * d - hi) for k, d, (lo, hi) in ends],
        lhs_dilation=each.strides,
        rhs_dilation=each.dilations,
        dimension_numbers=lax.ConvDimensionNumbers(activations, (n + 1, n, *range(n)), activations),
        feature_group_count=each.groups,
        precision=layer.keywords.get("precision"),
        preferred_element_type=layer.keywords.get("preferred_element_type"),
    )


def _operands_of_lax(layer: Layer, x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same numbers where the order of axes is known."""
    each = layer.explanation
    shape = *each.filter_shape[:-2], each.filter_shape[-1] // each.groups, each.filter_shape[-2] * each.groups
    of_filter = jnp.resize(w, shape) if layer.layout is None else jaxdeconv.convert_filters(w, layer.layout, "lax", each.groups)
    return x.reshape(each.input_shape), of_filter


def _timed(
    programs: Mapping[Key, tuple[Callable[..., Any], tuple[Any, ...]]], rounds: int
) -> tuple[Samples, dict[Key, np.ndarray[Any, Any]]]:
    """Seconds a call, or a step, and the results of T, C and F."""
    first: Seconds = {}
    results, runs = {}, {}
    said = None
    for (by, what), (function, operands) in programs.items():
        if by != said:
            _say(said := by)
        if (by, what) == (LAX, SCAN) and first[by, STEP] > LOOPED:
            continue
        runs[by, what] = run = partial(ready, jax.jit(function).lower(*operands).compile(), *operands)
        first[by, what], result = _once(run)
        if what in LETTERS.values():
            results[by, what] = np.asarray(result)
    _say("in alternation")
    found = _alternated(runs, first, rounds)
    return {(by, what): [each / (STEPS if what == SCAN else 1) for each in taken] for (by, what), taken in found.items()}, results


def _once(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and its result; the less of two calls where one is not slow: a first one may be delayed."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < 2 and seconds[0] < SLOW):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def _alternated(runs: Mapping[Key, Callable[[], Any]], first: Seconds, rounds: int) -> Samples:
    """Seconds a call; of what is slow, those of the first."""
    slow = {key: [seconds] for key, seconds in first.items()}
    return slow | samples({key: run for key, run in runs.items() if first[key] < SLOW}, rounds, budget=BUDGET)


def _differences(layer: Layer, results: Mapping[Key, np.ndarray[Any, Any]]) -> Iterable[float]:
    """Of each lowering from what is chosen, and of that from lax."""
    for (by, what), result in results.items():
        expected = results[OURS, what]
        if by == LAX and layer.layout is None:
            continue
        if by == LAX and what == "F":
            result = np.asarray(jaxdeconv.convert_filters(jnp.asarray(result), "lax", layer.layout, layer.explanation.groups))
        yield difference(result.reshape(expected.shape), expected)


def _torch(layer: Layer, platform: str) -> dict[str, Callable[[], Any]] | str:
    """T, C, F and a step by torch, in its own layouts; or why not."""
    each, dtype = layer.explanation, layer.explanation.dtype
    n = len(each.strides)
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    if platform != "cpu" or n not in (1, 2, 3) or dtype not in ("float16", "bfloat16", "float32", "float64"):
        return "torch is timed on CPU, of floats and one to three dimensions"
    # Where padding and output_padding do not place the window, more is computed, and sliced off.
    extra = [
        lo - hi if 0 < lo - hi < max(s, d) else 0 for (lo, hi), s, d in zip(each.crops, each.strides, each.dilations, strict=True)
    ]
    pads = [lo if op else min(lo, hi) for (lo, hi), op in zip(each.crops, extra, strict=True)]
    if min(pads) < 0:
        return "torch pads no output with zeros"
    torch: Any = importlib.import_module("torch")
    last = -1 if each.channels_last else 1
    spatial = each.output_shape[1:-1] if each.channels_last else each.output_shape[2:]
    kept = (
        slice(None),
        slice(None),
        *(slice(lo - p, lo - p + size) for (lo, _), p, size in zip(each.crops, pads, spatial, strict=True)),
    )
    *kernel, out, channels = each.filter_shape
    inputs = each.input_shape[1:-1] if each.channels_last else each.input_shape[2:]
    x = torch.randn((each.input_shape[0], each.input_shape[last], *inputs)).to(getattr(torch, dtype)).requires_grad_()
    w = torch.randn((channels, out, *kernel)).to(x.dtype).requires_grad_()
    op = partial(
        getattr(torch.nn.functional, f"conv_transpose{n}d"),
        stride=each.strides,
        padding=pads,
        output_padding=extra,
        groups=each.groups,
        dilation=each.dilations,
    )

    def forward() -> Any:
        with torch.no_grad():
            return op(x, w)[kept]

    y = op(x, w)[kept]
    g = torch.randn_like(y)

    def step() -> Any:
        y = op(x, w)[kept]
        return torch.autograd.grad(y, (x, w), y.detach())

    return {
        "T": forward,
        "C": lambda: torch.autograd.grad(y, x, g, retain_graph=True),
        "F": lambda: torch.autograd.grad(y, w, g, retain_graph=True),
        STEP: step,
    }


def _table(seconds: Seconds, variants: Iterable[str], columns: Iterable[str]) -> list[str]:
    """A row for each that was timed: milliseconds, and the time of it over that of this package."""
    rows = [["ms", *(cell for column in columns for cell in (column, ""))]]
    for by in variants:
        cells = [by]
        for column in columns:
            taken, ours = seconds.get((by, column)), seconds[OURS, column]
            cells += [milliseconds(taken), "" if taken is None or by == OURS else f"{digits(taken / ours)}x"]
        if any((by, column) in seconds for column in columns):
            rows.append(cells)
    return aligned(rows, "<" + ">>" * ((len(rows[0]) - 1) // 2))


def _verdict(seconds: Seconds, chosen: Mapping[str, str], ranges: Mapping[Key, tuple[float, float]]) -> str:
    """What was found, in sentences. Lowerings are told apart where the ranges, in which half of the samples are, do not overlap."""
    what = STEP if (OURS, STEP) in seconds else "T"
    others = []
    for by in (LAX, TORCH):
        if (by, what) in seconds:
            others.append(f"{by} takes {digits(seconds[by, what] / seconds[OURS, what])}x as long")
        if (by, SCAN) in seconds:
            others[-1] += f", and {digits(seconds[by, SCAN] / seconds[OURS, SCAN])}x in a scan"
    named = {"T": "The output", STEP: "A step"}[what]
    text = f"{named} takes {milliseconds(seconds[OURS, what])} ms: {'; '.join(others)}."
    faster, alike = [], []
    for letter, name in chosen.items():
        times = {by: taken for (by, column), taken in seconds.items() if column == letter and by not in (OURS, LAX, TORCH)}
        best = min(times, key=lambda by: times[by], default=name)
        if best != name and seconds[OURS, letter] >= FASTER * times[best]:
            if ranges[best, letter][1] >= ranges[OURS, letter][0]:
                alike.append(f"{letter} by {best}")
            else:
                faster.append(f"{letter} by {best} is {digits(seconds[OURS, letter] / times[best])}x as fast")
    noise = f"{', '.join(alike)} {'are' if len(alike) > 1 else 'is'} the same within the noise." if alike else ""
    if faster:
        text += f"\n{', '.join(faster)}: `python -m jaxdeconv tune`, with --save, has the fastest chosen."
        return f"{text}\n{noise}" if alike else text
    if alike:
        return f"{text}\nNo lowering by name is faster than what is chosen: {noise}"
    return f"{text}\nNo lowering by name is much faster than what is chosen."

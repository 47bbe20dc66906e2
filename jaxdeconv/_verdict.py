"""What takes the time of a call on CPU, and what would take less, by the estimates that the choice goes by; in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np

from jaxdeconv._call import Call
from jaxdeconv._lowerings import Contraction, Name, unable
from jaxdeconv._lowerings._interior import interior
from jaxdeconv._platforms import partitioned_right
from jaxdeconv._select import Terms, able, estimate, estimated
from jaxdeconv._tuning import milliseconds

CONTRACTIONS: tuple[Contraction, ...] = get_args(Contraction)
LETTERS: Mapping[Contraction, str] = {"transpose": "T", "input_grad": "C", "filter_grad": "F"}
TERMS = {  # what takes the time, by the name of the term of an estimate
    "product": "matrix products",
    "convolution": "convolutions",
    "looped": "elementwise loops",
    "naive": "scalar loops",
    "moved": "reading and writing",
    "rearranged": "rearranging",
    "gathered": "packing patches",
    "jumps": "packing patches",
    "steps": "starting programs",
    "fresh": "new memory",
}
_COMPUTED = {"product", "convolution", "looped", "naive"}
_NARROWER = {"float64": "float32", "complex128": "complex64"}
_ALIKE = 1.5  # times as long: what takes no more is no more to blame than the others
_SAID = 1.2  # times as fast: what is estimated to gain less is no advice
_NEAR = 1.1  # times as long: lowerings whose estimates are so near may be the other way round
_MORE = 8  # times the batch


def joined(contractions: Collection[Contraction]) -> str:
    """Their letters, as in "T, C and F"."""
    *rest, last = (letter for contraction, letter in LETTERS.items() if contraction in contractions)
    return f"{', '.join(rest)} and {last}" if rest else last


def given(dtype: Any) -> tuple[Contraction, ...]:
    """Integers have no gradients."""
    return CONTRACTIONS if jnp.issubdtype(dtype, jnp.inexact) else ("transpose",)


Calls: TypeAlias = Mapping[Contraction, Call]
"""What computes each contraction; of one call, the same call."""


def _seconds(calls: Calls) -> float:
    """What they are together estimated to take on CPU."""
    return sum(estimate(call.choices(each)["cpu"], each, call.sizes, "cpu") for each, call in calls.items())


def verdict_on(calls: Calls, lowerings: Mapping[Contraction, Name], own: bool = True) -> str:
    """What takes the time on CPU, where these are the lowerings, and what would take less by the same estimate.

    What is not of this package's `own` calls takes no argument of theirs.
    """
    call = next(iter(calls.values()))
    if 0 in (*call.input_shape, *call.filter_shape, *call.output_shape) or interior(call.geometry, call.input_shape) is None:
        return "Nothing is computed, since an array is empty or no input reaches an output."
    terms = {each: estimated(lowerings[each], each, calls[each].sizes, "cpu") for each in calls}
    taken = {contraction: sum(each) for contraction, each in terms.items()}
    whole, named = sum(taken.values()), joined(calls)
    slowest = max(taken, key=lambda contraction: taken[contraction])
    if taken[slowest] > _ALIKE * min(taken.values()) or len(taken) == 1:
        most, said = terms[slowest], f"{LETTERS[slowest]} takes {milliseconds(taken[slowest])} ms"
        said += f", {taken[slowest] / whole:.0%} of {named}" if len(taken) > 1 else ""
    else:
        most, said = Terms(*map(sum, zip(*terms.values(), strict=True))), f"{named} take {milliseconds(whole)} ms, about alike"
    measured = any("cpu" in call.measured(contraction) for contraction, call in calls.items())
    text = f"{'By estimate, on' if measured else 'On'} CPU {said}, and {max(most) / sum(most):.0%} of that is {TERMS[most.bound]}"
    gains = [(whole * times / _seconds(others), what) for what, times, others in _alternatives(calls, own)]
    faster = [f"{gain:.{int(gain < 10)}f}x as fast {what}" for gain, what in sorted(gains, reverse=True) if gain >= _SAID]
    if faster:
        text += f"; estimated: {', '.join(faster)}"
    elif sum(getattr(each, name) for each in terms.values() for name in _COMPUTED) >= whole / 2:
        text += "; most of the time is arithmetic, so that fewer channels, taps or samples are what is left"
    else:
        text += "; no other lowering, layout, dtype or batch is estimated to be much faster"
    near = _near(calls[slowest], slowest, lowerings[slowest], taken[slowest])
    if near is not None:
        text += f"; {near!r} is estimated to take about as long for {LETTERS[slowest]}: jaxdeconv.tune measures which is faster here"
    return f"{text}.{_on_a_mesh(calls)}"


def _on_a_mesh(calls: Calls) -> str:
    """What the partitioner may get wrong, of a lowering that is named; others are not chosen there."""
    for contraction, call in calls.items():
        name, axes = call.options.implementation, call.options.axes
        if name is not None and not partitioned_right(name, call.sizes, axes):
            over, letter = "an axis" if axes == 1 else "several axes", LETTERS[contraction]
            wrong = f"Cut over {over} of a mesh, {letter} by {name!r} may be wrong, without an error"
            return f" {wrong}: XLA's partitioner adds up parts too often. Name 'matmul', or none."
    return ""


def _is_free(call: Call) -> bool:
    """Whether the lowering is the one that is estimated to be the fastest, by `select`."""
    return call.options.implementation is None and call.options.tuning is None and not call.options.ordinary


def _near(call: Call, contraction: Contraction, chosen: Name, seconds: float) -> Name | None:
    """Another lowering whose estimate is about that of the chosen one."""
    if not _is_free(call):
        return None
    others = (name for name in able(contraction, call.sizes, "cpu", call.options.axes) if name != chosen)
    return next((name for name in others if 1 / _NEAR <= estimate(name, contraction, call.sizes, "cpu") / seconds <= _NEAR), None)


def _alternatives(calls: Calls, own: bool) -> Iterator[tuple[str, int, Calls]]:
    """What they could be instead: in words, how many calls that would be at once, and as calls."""
    call = next(iter(calls.values()))
    geometry, options = call.geometry, call.options

    def by(name: Name | None) -> Calls:
        return {contraction: each._replace(options=each.options._replace(implementation=name)) for contraction, each in calls.items()}

    if options.implementation is not None:
        yield f"without implementation={options.implementation!r}", 1, by(None)
    elif all(map(_is_free, calls.values())):
        names = set.intersection(*(set(able(each, call.sizes, "cpu", options.axes)) for each, call in calls.items()))
        names = {name for name in names if not any(unable(name, each, call.sizes) for each in LETTERS)}  # a named one does all three
        if names:
            best = min(sorted(names), key=lambda name: _seconds(by(name)))
            how = f"with implementation={best!r}" if own else f"within jaxdeconv.defaults(implementation={best!r})"
            yield f"{how}, which holds more", 1, by(best)
    if not geometry.channels_last and geometry.ndim > 0:
        yield "with channels last", 1, {contraction: _channels_last(each) for contraction, each in calls.items()}
    if (narrower := _NARROWER.get(call.dtype.name)) is not None:
        dtype: np.dtype[Any] = np.dtype(narrower)
        yield f"in {narrower}", 1, {contraction: each._replace(dtype=dtype) for contraction, each in calls.items()}
    if isinstance(batch := call.input_shape[0], int):  # a symbolic one counts as many
        yield f"for each element of a batch of {_MORE * batch}", _MORE, {each: _of_more(call) for each, call in calls.items()}


def _channels_last(call: Call) -> Call:
    shapes = ((batch, *space, channels) for batch, channels, *space in (call.input_shape, call.output_shape))
    geometry = replace(call.geometry, channels_last=True)
    return call._replace(input_shape=next(shapes), output_shape=next(shapes), geometry=geometry)


def _of_more(call: Call) -> Call:
    shapes = ((_MORE * batch, *rest) for batch, *rest in (call.input_shape, call.output_shape))
    return call._replace(input_shape=next(shapes), output_shape=next(shapes))

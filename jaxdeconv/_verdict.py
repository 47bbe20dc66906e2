"""What takes the time of a call on CPU, and what would take less, by the estimates that the choice goes by; in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import get_args

import jax.numpy as jnp
import numpy as np

from jaxdeconv._call import Call
from jaxdeconv._lowerings import Contraction, Name
from jaxdeconv._lowerings._interior import interior
from jaxdeconv._select import Terms, able, estimate
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


def _given(call: Call) -> tuple[Contraction, ...]:
    """Integers have no gradients."""
    return CONTRACTIONS if jnp.issubdtype(call.dtype, jnp.inexact) else ("transpose",)


def _seconds(call: Call) -> float:
    """What T, C and F together are estimated to take on CPU."""
    return sum(estimate(call.choices(contraction)["cpu"], contraction, call.sizes, "cpu") for contraction in _given(call))


def verdict_on(call: Call, terms: Mapping[Contraction, Terms]) -> str:
    """What takes the time on CPU, and what would take less by the same estimate."""
    if 0 in (*call.input_shape, *call.filter_shape, *call.output_shape) or interior(call.geometry, call.input_shape) is None:
        return "Nothing is computed, since an array is empty or no input reaches an output."
    given = {contraction: sum(terms[contraction]) for contraction in _given(call)}
    whole = sum(given.values())
    slowest = max(given, key=lambda contraction: given[contraction])
    if given[slowest] > _ALIKE * min(given.values()) or len(given) == 1:
        most, taken = terms[slowest], f"{LETTERS[slowest]} takes {milliseconds(given[slowest])} ms"
        taken += f", {given[slowest] / whole:.0%} of T, C and F" if len(given) > 1 else ""
    else:
        most, taken = Terms(*map(sum, zip(*terms.values(), strict=True))), f"T, C and F take {milliseconds(whole)} ms, about alike"
    text = f"On CPU {taken}, and {max(most) / sum(most):.0%} of that is {TERMS[most.bound]}"
    gains = [(whole * times / _seconds(other), what) for what, times, other in _alternatives(call)]
    said = [f"{gain:.{int(gain < 10)}f}x as fast {what}" for gain, what in sorted(gains, reverse=True) if gain >= _SAID]
    if said:
        text += f"; estimated: {', '.join(said)}"
    elif sum(getattr(terms[contraction], name) for contraction in given for name in _COMPUTED) >= whole / 2:
        text += "; most of the time is arithmetic, so that fewer channels, taps or samples are what is left"
    else:
        text += "; no other lowering, layout, dtype or batch is estimated to be much faster"
    near = _near(call, slowest, given[slowest])
    if near is not None:
        text += f"; {near!r} is estimated to take about as long for {LETTERS[slowest]}: jaxdeconv.tune measures which is faster here"
    return f"{text}."


def _is_free(call: Call) -> bool:
    """Whether the lowering is the one that is estimated to be the fastest, by `select`."""
    return call.options.implementation is None and call.options.tuning is None and not call.options.ordinary


def _near(call: Call, contraction: Contraction, seconds: float) -> Name | None:
    """Another lowering whose estimate is about that of the chosen one."""
    if not _is_free(call):
        return None
    chosen = call.choices(contraction)["cpu"]
    others = (name for name in able(contraction, call.sizes, "cpu", call.options.axes) if name != chosen)
    return next((name for name in others if estimate(name, contraction, call.sizes, "cpu") <= _NEAR * seconds), None)


def _alternatives(call: Call) -> Iterator[tuple[str, int, Call]]:
    """What the call could be instead: in words, how many calls that would be at once, and as a call."""
    geometry, options = call.geometry, call.options
    if options.implementation is not None:
        yield f"without implementation={options.implementation!r}", 1, call._replace(options=options._replace(implementation=None))
    elif _is_free(call):
        names = set.intersection(*(set(able(contraction, call.sizes, "cpu", options.axes)) for contraction in _given(call)))
        named = [call._replace(options=options._replace(implementation=name)) for name in sorted(names)]
        if named:
            best = min(named, key=_seconds)
            yield f"with implementation={best.options.implementation!r}, which holds more", 1, best
    if not geometry.channels_last and geometry.ndim > 0:
        shapes = ((batch, *space, channels) for batch, channels, *space in (call.input_shape, call.output_shape))
        last = replace(geometry, channels_last=True)
        yield "with channels last", 1, Call(next(shapes), call.filter_shape, next(shapes), call.dtype, last, options)
    if (narrower := _NARROWER.get(call.dtype.name)) is not None:
        yield f"in {narrower}", 1, call._replace(dtype=np.dtype(narrower))
    if isinstance(batch := call.input_shape[0], int):  # a symbolic one counts as many
        shapes = ((_MORE * batch, *rest) for _, *rest in (call.input_shape, call.output_shape))
        more = call._replace(input_shape=next(shapes), output_shape=next(shapes))
        yield f"for each element of a batch of {_MORE * batch}", _MORE, more

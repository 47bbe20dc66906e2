"""Which contractions a function computes: those in its program, which is traced anew and in which each is marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from jaxdeconv import _jaxprs
from jaxdeconv._contractions import MARK, TARGETS, Contracted, contracted
from jaxdeconv._options import traced_anew


class Executed(NamedTuple):
    """One contraction in a program."""

    contracted: Contracted
    elements: int  # that a `jax.vmap` maps over, also over the filter, of which each has these sizes
    around: tuple[Any, ...]  # the equations that it is in, outermost first

    @property
    def steps(self) -> int:
        """Of the loops that it is in, as far as their lengths are known."""
        return math.prod(each.params["length"] for each in self.around if each.primitive.name == "scan")


@contextmanager
def recording() -> Iterator[Callable[[Any], list[Executed]]]:
    """Within it, functions are traced anew; it gives what finds contractions in their programs, in order.

    Those that a `jax.vmap` or a rule has replaced are traced as well, and are not in the program.
    """
    seen: list[Contracted] = []
    token = contracted.set(seen)

    def found(program: Any) -> list[Executed]:
        paths, _ = _jaxprs.executed(program, lambda equation: _name(equation).startswith(MARK))
        return [_executed(seen, *path) for path in paths]

    try:
        with traced_anew(object()), jax.disable_jit(False):  # what was jitted before, too
            yield found
    finally:
        contracted.reset(token)


def _name(equation: Any) -> str:
    return str(equation.params.get("name", ""))


def _executed(seen: list[Contracted], *path: Any) -> Executed:
    *around, equation = path
    found = seen[int(_name(equation).removeprefix(MARK))]
    mapped, one = equation.outvars[0].aval.shape, getattr(found.form, TARGETS[found.contraction]).shape
    whole, each = (math.prod(size for size in shape if isinstance(size, int)) for shape in (mapped, one))
    return Executed(found, max(1, whole // max(1, each)), tuple(around))

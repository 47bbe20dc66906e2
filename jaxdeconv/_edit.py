"""A program of JAX, with the convolutions in it that are contractions replaced, wherever they are.

An equation that is replaced becomes one equation, a call of a jitted function; all others stay as they are, and so do names, source
lines, effects, policies and custom rules.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, jaxpr_as_fun
from jax.extend.core.primitives import conv_general_dilated_p

from jaxdeconv import _jaxprs
from jaxdeconv._call import Call
from jaxdeconv._contractions import OWN, Options, contracted
from jaxdeconv._convolutions import Convolution, UnrecognizedError, as_floats, convolve, prepared, recognized
from jaxdeconv._lowerings import Contraction, Name, Platform
from jaxdeconv._stuffing import Move, Skipped, Spread, moved, skipped, skipped_inside, spread, spread_inside
from jaxdeconv._tuning import Tuning


class How(NamedTuple):
    """How what is replaced is computed; part of what is remembered of a program."""

    implementation: str | None
    forward_mode: bool
    tuning: Tuning | None


class Work(NamedTuple):
    """What is computed instead of a convolution, and of what is around it. Hashable."""

    convolution: Convolution
    options: Options
    before: tuple[Move, ...] = ()  # of lhs
    after: tuple[Move, ...] = ()


@functools.partial(jax.jit, static_argnums=2)
def jaxdeconv_convolution(lhs: jax.Array, rhs: jax.Array, work: Work) -> jax.Array:
    lhs, rhs = as_floats(moved(lhs, work.before), rhs, work.options.dtype)
    return moved(convolve(lhs, rhs, work.convolution, work.options), work.after)


@dataclasses.dataclass(frozen=True)
class Row:
    """One convolution that `accelerate` looked at.

    name_stack and source say where it is in the program that was traced. contraction is what it is, None if it is none, or not known
    to be one; shapes are those of lhs, rhs and result, window is lax's arguments. lowerings is what computes it on each platform
    afterwards, empty where it was left to lax, and reason then says why.
    """

    name_stack: str
    source: str
    contraction: Contraction | None
    dtype: str
    lhs: tuple[Any, ...]
    rhs: tuple[Any, ...]
    result: tuple[Any, ...]
    window: Mapping[str, Any]
    lowerings: Mapping[Platform, Name]
    reason: str | None

    @classmethod
    def of(
        cls,
        equation: Any,
        known: Convolution | None,
        lhs: tuple[Any, ...],
        result: tuple[Any, ...],
        parameters: Mapping[str, Any],
        call: Call | None,
        reason: str | None,
    ) -> Row:
        names = ["window_strides", "lhs_dilation", "rhs_dilation", "padding"]
        names += [name for name in ("feature_group_count", "batch_group_count") if parameters[name] != 1]
        rhs = equation.invars[1].aval
        return cls(
            str(equation.source_info.name_stack),
            _jaxprs.source_of(equation),
            None if known is None else known.contraction,
            str(rhs.dtype),
            lhs,
            rhs.shape,
            result,
            {name: parameters[name] for name in names},
            {} if known is None or call is None else call.choices(known.contraction),
            reason,
        )

    def __str__(self) -> str:
        sizes = f"{self.dtype}{list(self.lhs)}, {list(self.rhs)} -> {list(self.result)}"
        window = ", ".join(f"{name} {value}" for name, value in self.window.items())
        after = ", ".join(f"{platform} {name}" for platform, name in self.lowerings.items()) or f"left to lax: {self.reason}"
        where = f"{self.source}{f'  [{self.name_stack}]' if self.name_stack else ''}"
        return f"{self.contraction or 'convolution'}: {sizes}\n  {window}\n  {after}\n  {where}"


_edited: dict[How, WeakKeyDictionary[Any, Any]] = {}
"""Programs and what they became, None where nothing did: JAX compiles a program once, and so must be given the same one each time.
Not those that are traced to be looked at."""


class Editor:
    """Replaces convolutions in programs."""

    def __init__(self, how: How, rows: list[Row] | None = None) -> None:
        self.how, self.rows = how, rows
        lasting = rows is None and contracted.get() is None
        self.known = _edited.setdefault(how, WeakKeyDictionary()) if lasting else WeakKeyDictionary()

    def program(self, program: Any) -> Any:
        """A program of JAX, with or without constants; itself where nothing is replaced."""
        if program not in self.known:
            if isinstance(program, Jaxpr):
                equations = _Equations(self, program).edited()
                self.known[program] = None if equations is None else program.replace(eqns=equations)  # type: ignore[no-untyped-call]
            else:
                inner = self.program(program.jaxpr)
                self.known[program] = None if inner is program.jaxpr else program.replace(jaxpr=inner)
        found = self.known[program]
        return program if found is None else found

    def nested(self, equation: Any) -> Any:
        """An equation with its programs, and those that its rules will be, edited."""
        parameters = equation.params
        if str(parameters.get("name", "")).startswith(OWN):
            return equation
        found = parameters
        if equation.primitive.name != "shard_map":
            found = _jaxprs.edited_parameters(parameters, self.program)
        elif _convolves(parameters):
            found = _jaxprs.edited_shard_map(equation, self.program)
        rules = [name for name in _jaxprs.RULES if name in parameters]
        if rules and _convolves(parameters):  # rules are not seen before they are used
            found = found | {name: self.rule(name, parameters[name]) for name in rules}
        return equation if all(found[name] is parameters[name] for name in parameters) else equation.replace(params=found)

    def rule(self, name: str, rule: Any) -> Any:
        """A rule of a custom_jvp or custom_vjp function, edited when it is used."""
        if name == _jaxprs.BACKWARD_RULE:
            return _jaxprs.replaced_rule(rule, lambda rule: functools.partial(self.evaluated, rule))
        return _jaxprs.edited_rule(rule, (self.linear if name == _jaxprs.TANGENT_RULE else self).program)

    def evaluated(self, f: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """What a function gives, by its edited program."""
        program, arrays, restored = _jaxprs.traced(f, *arguments, **keywords)
        results = jaxpr_as_fun(self.program(program))(*arrays)
        # Arrays of numpy that a function returns are constants of its program, and come back as a class of JAX's own.
        return restored([a if isinstance(a, jax.Array) or type(a) is np.ndarray else jnp.asarray(a) for a in results])

    @property
    def linear(self) -> Editor:
        """For what JAX transposes: a `jax.custom_vjp` it cannot."""
        return Editor(self.how._replace(forward_mode=True), self.rows)


class _Equations:
    """Those of one program, in order, with what has been seen of them so far."""

    def __init__(self, editor: Editor, program: Any) -> None:
        self.editor, self.program = editor, program
        self.uses = Counter(atom for equation in program.eqns for atom in equation.invars if not isinstance(atom, Literal))
        self.uses.update(atom for atom in program.outvars if not isinstance(atom, Literal))
        self.producers: dict[Any, Any] = {}
        self.spread: dict[Any, Spread] = {}
        self.rows: dict[Any, Row] = {}  # by result
        self.spare: set[Any] = set()  # results that are perhaps not needed any more

    def edited(self) -> list[Any] | None:
        """The new equations, None if they are the old ones."""
        equations = []
        for equation in self.program.eqns:
            equations.append(self.replaced(equation))
            self.producers |= dict.fromkeys(equation.outvars, equation)
        if all(new is old for new, old in zip(equations, self.program.eqns, strict=True)):
            needed = equations
        else:
            needed = self.without_spare(equations)
        if self.editor.rows is not None:
            made = {result for equation in needed for result in equation.outvars}
            self.editor.rows += [row for result, row in self.rows.items() if result in made]
        return None if needed is equations else needed

    def without_spare(self, equations: list[Any]) -> list[Any]:
        needed = {atom for atom in self.program.outvars if not isinstance(atom, Literal)}
        kept = []
        for equation in reversed(equations):
            if self.spare.isdisjoint(equation.outvars) or not needed.isdisjoint(equation.outvars):
                kept.append(equation)
                needed |= {atom for atom in equation.invars if not isinstance(atom, Literal)}
        return kept[::-1]

    def replaced(self, equation: Any) -> Any:
        if equation.primitive is conv_general_dilated_p:
            return self.convolution(equation)
        if (found := spread(equation, self.spread_of)) is not None:
            self.spread[equation.outvars[0]] = found
        elif equation.primitive.name == "slice" and (used := skipped(equation, self.producer)) is not None:
            return self.strided(equation, used)
        return self.editor.nested(equation)

    def spread_of(self, atom: Any) -> Spread | None:
        return None if isinstance(atom, Literal) else self.spread.get(atom)

    def producer(self, atom: Any) -> Any:
        """What makes a variable that is used once."""
        return self.producers.get(atom) if not isinstance(atom, Literal) and self.uses[atom] == 1 else None

    def convolution(self, equation: Any) -> Any:
        lhs, rhs = equation.invars
        if (found := self.spread_of(lhs)) is not None and (parameters := spread_inside(equation.params, found.edges)) is not None:
            shape = [found.edges[axis].size if axis in found.edges else size for axis, size in enumerate(lhs.aval.shape)]
            new = self.computed(equation, equation, (found.source, rhs), tuple(shape), parameters, before=found.moves)
            if new is not equation:
                self.spare |= set(found.between)
            return new
        return self.computed(equation, equation, (lhs, rhs), lhs.aval.shape, equation.params)

    def strided(self, equation: Any, used: Skipped) -> Any:
        """Instead of a slice, a strided convolution."""
        convolution = used.source
        parameters = skipped_inside(convolution.params, used.edges)
        if parameters is None or self.spread_of(convolution.invars[0]) is not None:
            return equation
        new = self.computed(convolution, equation, convolution.invars, convolution.invars[0].aval.shape, parameters, after=used)
        if new is not equation:
            self.spare |= {convolution.outvars[0], *used.between}
        return new

    def computed(
        self,
        convolution: Any,
        place: Any,
        operands: Any,
        lhs_shape: tuple[Any, ...],
        parameters: Mapping[str, Any],
        before: tuple[Move, ...] = (),
        after: Skipped | None = None,
    ) -> Any:
        """An equation for the contraction that a convolution is, in place of another one, or that one where it is left."""
        lhs, rhs, out = convolution.invars[0].aval, convolution.invars[1].aval, convolution.outvars[0].aval
        result = list(out.shape)
        for axis, edge in after.edges.items() if after else ():
            result[axis] = edge.size
        known = call = work = reason = None
        with convolution.ctx.manager, jax.disable_jit(False):  # one equation is wanted, a call
            try:
                known = recognized(lhs_shape, rhs.shape, result, parameters)
                call = prepared("accelerate", known, lhs, rhs, (lhs_shape, rhs.shape), parameters, *self.editor.how)
                work = Work(known, call.options, before, after.moves if after else ())
                (new,) = jax.make_jaxpr(lambda *arrays: jaxdeconv_convolution(*arrays, work))(*(atom.aval for atom in operands)).eqns
                if new.outvars[0].aval != place.outvars[0].aval:
                    raise UnrecognizedError(f"its type would become {new.outvars[0].aval} instead of {place.outvars[0].aval}")
            except UnrecognizedError as why:
                reason = str(why)
        stretched = {*parameters["window_strides"], *parameters["lhs_dilation"]} != {1}
        if self.editor.rows is not None and (work is not None or stretched):
            call = call if reason is None else None
            self.rows[place.outvars[0]] = Row.of(convolution, known, lhs_shape, tuple(result), parameters, call, reason)
        if reason is not None:
            return place
        return new.replace(invars=list(operands), outvars=place.outvars, source_info=convolution.source_info)


def _convolves(parameters: dict[str, Any]) -> bool:
    """Whether there is any convolution in the programs among these parameters."""
    return any(
        equation.primitive is conv_general_dilated_p or _convolves(equation.params)
        for program in _jaxprs.programs(parameters)
        for equation in program.eqns
    )

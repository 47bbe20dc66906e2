"""accelerate: any JAX function, with the transposed convolutions and their gradients in it computed by this package.

The function is traced, its program (a jaxpr) is edited, and JAX evaluates the result. An equation that is replaced becomes one
equation, a call of a jitted function; all others stay as they are, and so do names, source lines, effects, policies and custom rules.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple, TypeVar, overload
from weakref import WeakKeyDictionary, WeakSet

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import Jaxpr, Literal, jaxpr_as_fun
from jax.extend.core.primitives import conv_general_dilated_p

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _jaxprs
from jaxdeconv._call import OWN
from jaxdeconv._canonicalize import error
from jaxdeconv._contractions import Options
from jaxdeconv._convolutions import Convolution, UnrecognizedError, as_floats, convolve, prepared, recognized
from jaxdeconv._lowerings import Contraction, Implementation, Platform
from jaxdeconv._stuffing import Edge, Move, Skipped, Spread, moved, skipped, spread

F = TypeVar("F", bound=Callable[..., Any])


class _How(NamedTuple):
    """How what is replaced is computed; part of what is remembered of a program."""

    implementation: Implementation | None
    forward_mode: bool


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
class Looked:
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
    lowerings: Mapping[Platform, Implementation]
    reason: str | None

    @classmethod
    def of(
        cls,
        equation: Any,
        known: Convolution | None,
        lhs: tuple[Any, ...],
        result: tuple[Any, ...],
        parameters: Mapping[str, Any],
        lowerings: Mapping[Platform, Implementation],
        reason: str | None,
    ) -> Looked:
        names = ["window_strides", "lhs_dilation", "rhs_dilation", "padding"]
        names += [name for name in ("feature_group_count", "batch_group_count") if parameters[name] > 1]
        rhs = equation.invars[1].aval
        return cls(
            str(equation.source_info.name_stack),
            source_info_util.summarize(equation.source_info),
            None if known is None else known.contraction,
            str(rhs.dtype),
            lhs,
            rhs.shape,
            result,
            {name: parameters[name] for name in names},
            lowerings,
            reason,
        )

    def __str__(self) -> str:
        sizes = f"{self.dtype}{list(self.lhs)}, {list(self.rhs)} -> {list(self.result)}"
        window = ", ".join(f"{name} {value}" for name, value in self.window.items())
        after = ", ".join(f"{platform} {name}" for platform, name in self.lowerings.items()) or f"left to lax: {self.reason}"
        where = f"{self.source}{f'  [{self.name_stack}]' if self.name_stack else ''}"
        return f"{self.contraction or 'convolution'}: {sizes}\n  {window}\n  {after}\n  {where}"


@dataclasses.dataclass(frozen=True)
class Acceleration:
    """What `accelerate` does to a function, a row for each convolution that it looked at. `str()` of it is for reading.

    Fields of a row: name_stack and source, where it is; contraction, "transpose", "input_grad" or "filter_grad", None if it is none;
    dtype, and the shapes lhs, rhs and result; window, lax's arguments; lowerings, what computes it afterwards on each platform, empty
    where it was left to lax; and reason, why it was left.
    """

    rows: tuple[Looked, ...]

    @property
    def replaced(self) -> tuple[Looked, ...]:
        return tuple(row for row in self.rows if row.lowerings)

    def __str__(self) -> str:
        count = f"{len(self.replaced)} of {len(self.rows)} convolutions that are spread or strided are replaced"
        return "\n".join([count, *map(str, self.rows)])


_edited: dict[_How, WeakKeyDictionary[Any, Any]] = {}
"""Programs and what they became, None where nothing did: JAX compiles a program once, and so must be given the same one each time."""


class _Editor:
    """Replaces convolutions in programs."""

    def __init__(self, how: _How, rows: list[Looked] | None = None) -> None:
        self.how, self.rows = how, rows
        self.known = _edited.setdefault(how, WeakKeyDictionary()) if rows is None else WeakKeyDictionary()

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
        if str(parameters.get("name", "")).startswith(OWN) or not any(map(_convolves, _jaxprs.programs(parameters))):
            return equation
        if equation.primitive.name == "shard_map":
            found = _jaxprs.edited_shard_map(equation, self.program)
        else:
            found = _jaxprs.edited_parameters(
                parameters, (self.linear if equation.primitive.name in _jaxprs.LINEAR else self).program
            )
        if (rule := _jaxprs.TANGENT_RULE) in found:
            found[rule] = _jaxprs.edited_rule(found[rule], self.linear.program)
        if (rule := _jaxprs.FORWARD_RULE) in found:
            found[rule] = _jaxprs.edited_rule(found[rule], self.program)
        if (rule := _jaxprs.BACKWARD_RULE) in found:
            found[rule] = _jaxprs.replaced_rule(found[rule], lambda rule: functools.partial(_evaluated, rule, self))
        return equation if all(found[name] is parameters[name] for name in parameters) else equation.replace(params=found)

    @property
    def linear(self) -> _Editor:
        """For what JAX transposes: a `jax.custom_vjp` it cannot."""
        return _Editor(self.how._replace(forward_mode=True), self.rows)


class _Equations:
    """Those of one program, in order, with what has been seen of them so far."""

    def __init__(self, editor: _Editor, program: Any) -> None:
        self.editor, self.program = editor, program
        self.uses = Counter(atom for equation in program.eqns for atom in equation.invars if not isinstance(atom, Literal))
        self.uses.update(atom for atom in program.outvars if not isinstance(atom, Literal))
        self.producers: dict[Any, Any] = {}
        self.spread: dict[Any, Spread] = {}
        self.rows: dict[Any, Looked] = {}  # by result
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
        if (found := self.spread_of(lhs)) is not None and (parameters := _spread_inside(equation.params, found.edges)) is not None:
            shape = [found.edges[axis].size if axis in found.edges else size for axis, size in enumerate(lhs.aval.shape)]
            new = self.computed(equation, equation, (found.source, rhs), tuple(shape), parameters, before=found.moves)
            if new is not equation:
                self.spare |= _chain(lhs, self.producers)
            return new
        return self.computed(equation, equation, (lhs, rhs), lhs.aval.shape, equation.params)

    def strided(self, equation: Any, used: Skipped) -> Any:
        """Instead of a slice, a strided convolution."""
        convolution = used.source
        parameters = _skipped_inside(convolution.params, used.edges)
        if parameters is None or self.spread_of(convolution.invars[0]) is not None:
            return equation
        new = self.computed(convolution, equation, convolution.invars, convolution.invars[0].aval.shape, parameters, after=used)
        if new is not equation:
            self.spare |= {result for each in (convolution, *used.between) for result in each.outvars}
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
        known = work = reason = None
        with convolution.ctx.manager:
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
            lowerings = call.choices(known.contraction) if known is not None and reason is None else {}
            self.rows[place.outvars[0]] = Looked.of(convolution, known, lhs_shape, tuple(result), parameters, lowerings, reason)
        if reason is not None:
            return place
        return new.replace(invars=list(operands), outvars=place.outvars, source_info=convolution.source_info)


def _spread_inside(parameters: Mapping[str, Any], edges: Mapping[int, Edge]) -> dict[str, Any] | None:
    """A convolution that spreads and pads its operand itself; None if there is none."""
    space = parameters["dimension_numbers"].lhs_spec[2:]
    spread, padding = list(parameters["lhs_dilation"]), list(parameters["padding"])
    if not edges.keys() <= set(space):
        return None
    for axis, edge in edges.items():
        dimension = space.index(axis)
        lo, hi = padding[dimension]
        # What is cut off and padded again is not what was there.
        if spread[dimension] != 1 or (edge.lo < 0 < lo) or (edge.hi < 0 < hi):
            return None
        spread[dimension], padding[dimension] = edge.stride, (lo + edge.lo, hi + edge.hi)
    return {**parameters, "lhs_dilation": tuple(spread), "padding": tuple(padding)}


def _skipped_inside(parameters: Mapping[str, Any], edges: Mapping[int, Edge]) -> dict[str, Any] | None:
    """A convolution that computes only what is used of its result; None if there is none."""
    strides, padding = list(parameters["window_strides"]), list(parameters["padding"])
    if {*strides, *parameters["lhs_dilation"]} != {1}:
        return None
    for dimension, axis in enumerate(parameters["dimension_numbers"].out_spec[2:]):
        strides[dimension], padding[dimension] = edges[axis].stride, (padding[dimension][0] + edges[axis].lo, padding[dimension][1])
    return {**parameters, "window_strides": tuple(strides), "padding": tuple(padding)}


def _chain(atom: Any, producers: Mapping[Any, Any]) -> set[Any]:
    """A spread variable, and those that it is made of, up to the pad."""
    found = {atom}
    while producers[atom].primitive.name != "pad" or not any(map(any, producers[atom].params["padding_config"])):
        atom = producers[atom].invars[0]
        found.add(atom)
    return found


def _convolves(program: Any) -> bool:
    """Whether there is any convolution in a program."""
    equations = program.jaxpr.eqns if hasattr(program, "jaxpr") else program.eqns
    return any(
        equation.primitive is conv_general_dilated_p or any(map(_convolves, _jaxprs.programs(equation.params)))
        for equation in equations
    )


def _is_array(leaf: object) -> bool:
    """Whether JAX traces it. What has a dtype that JAX has not, or is a number of Python's, is the function's own."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype != jax.dtypes.float0 and (leaf.dtype.kind in "biufc" or jnp.issubdtype(leaf.dtype, np.number))
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def _traced(f: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[Any, list[Any], Callable[[list[Any]], Any]]:
    """The program of a call, the arrays that it takes, and how to make the call's result of its results."""
    leaves, structure = jax.tree.flatten((arguments, keywords))
    places = [place for place, leaf in enumerate(leaves) if _is_array(leaf)]
    results: list[Any] = []

    def flat(*arrays: Any) -> list[Any]:
        given = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            given[place] = array
        positional, named = jax.tree.unflatten(structure, given)
        outputs, treedef = jax.tree.flatten(f(*positional, **named))
        returned = [place for place, leaf in enumerate(outputs) if _is_array(leaf)]
        results[:] = [None if _is_array(leaf) else leaf for leaf in outputs], treedef, returned  # no tracer outlives the trace
        return [outputs[place] for place in returned]

    arrays = [leaves[place] for place in places]
    program = jax.make_jaxpr(flat)(*arrays)
    outputs, treedef, returned = results

    def restored(arrays: list[Any]) -> Any:
        given = list(outputs)
        for place, array in zip(returned, arrays, strict=True):
            given[place] = array
        return jax.tree.unflatten(treedef, given)

    return program, arrays, restored


def _evaluated(f: Callable[..., Any], editor: _Editor, *arguments: Any, **keywords: Any) -> Any:
    program, arrays, restored = _traced(f, *arguments, **keywords)
    return restored(jaxpr_as_fun(editor.program(program))(*arrays))


_accelerated: WeakSet[Any] = WeakSet()


@overload
def accelerate(function: F, *, forward_mode: bool | None = None) -> F: ...
@overload
def accelerate(function: None = None, *, forward_mode: bool | None = None) -> Callable[[F], F]: ...
def accelerate(function: Any = None, *, forward_mode: bool | None = None) -> Any:
    """The same function, with its transposed convolutions, and gradients of convolutions, computed by this package.

    The function is traced when it is called, and evaluated with some of its `lax.conv_general_dilated` replaced, wherever they are.
    With window stride a, lhs spread by s, rhs by b, and padding lo, such a convolution is, per spatial dimension,

        out[m] = sum over q of  lhs[p] * rhs[q]   where   p*s = m*a + q*b - lo

    Replaced are: those with s > 1, which are transposed convolutions, or what JAX makes of one for its filter, where the window is
    larger than the result; strided ones, a > 1; what JAX makes of any convolution for its filter or its input; and those whose zeros
    a `lax.pad` stuffs, or a strided `lax.slice` skips. All else stays, equation for equation.

    Put it around a training step, with the gradient inside, and around what is jitted: `jax.jit(accelerate(step))`. It also works
    inside: `jax.grad(accelerate(loss))`, where the strided and transposed convolutions of loss get this package's gradients.

    Args:
        function: any function of arrays that JAX can trace, its arguments pytrees. Arrays in them, of jax or numpy, are traced; all
            else, numbers of Python included, passes as it is. None to return a decorator.
        forward_mode: whether results may be differentiated in forward mode, as for `conv1d_transpose`; None for what
            `jaxdeconv.defaults` says.

    Returns:
        A function with the name, documentation and signature of the one given, the same results to rounding, with their dtypes, and
        the same errors. `explain(*arguments)` of it is an `Acceleration`: what was found, and what was left and why. If it is such
        a function already, it is returned as it is.

    Raises:
        TypeError: function is not callable, or forward_mode is no boolean.

    Gradients:
        In reverse mode, of any order; in forward mode with forward_mode. Rules of `jax.custom_jvp` and `jax.custom_vjp` functions
        stay what they are.

    References:
        jax issues 23783 and 31662, which say how slow JAX's own gradients are.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> def decode(w, x):  # say, from another package
        ...     return jax.lax.conv_transpose(x, w, (8,), "SAME")
        >>> def loss(w, x):
        ...     return jnp.mean(decode(w, x) ** 2)
        >>> step = jax.jit(jaxdeconv.accelerate(lambda w, x: w - 0.1 * jax.grad(loss)(w, x)))
        >>> step(jnp.ones((16, 64, 32)), jnp.ones((1, 80, 64))).shape
        (16, 64, 32)
    """
    name = "accelerate"
    if function is None:
        return functools.partial(accelerate, forward_mode=forward_mode)
    if not callable(function):
        raise error(
            TypeError, name, "function must be callable", "function", function, "pass a function of jax arrays, as jax.jit takes"
        )
    canonicalize.how(name, None, forward_mode)
    if isinstance(function, FunctionType) and function in _accelerated:  # other callables may have no hash
        return function

    def editor(rows: list[Looked] | None = None) -> _Editor:
        implementation, mode = canonicalize.how(name, None, forward_mode)
        return _Editor(_How(implementation, bool(mode)), rows)

    @functools.wraps(function)
    def accelerated(*arguments: Any, **keywords: Any) -> Any:
        return _evaluated(function, editor(), *arguments, **keywords)

    def explain(*arguments: Any, **keywords: Any) -> Acceleration:
        """Traces a call without computing it, and says what was found; arrays may be `jax.ShapeDtypeStruct`s."""
        rows: list[Looked] = []
        program, _, _ = _traced(function, *arguments, **keywords)
        editor(rows).program(program)
        return Acceleration(tuple(rows))

    accelerated.explain = explain  # type: ignore[attr-defined]
    _accelerated.add(accelerated)
    return accelerated

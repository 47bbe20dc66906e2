"""JAX's programs as values: of calls, and inside of others; and the few things in which they differ between its versions.

Until jax 0.11 a `ClosedJaxpr` holds a `Jaxpr` and its constants; from 0.12 on a `Jaxpr` holds its own, and there is one class.
All of it is public JAX.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import linear_util, source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

Edit: TypeAlias = Callable[[Any], Any]
"""Of a program, with its constants or without; itself where nothing is to change."""
JAXPRS = (Jaxpr, ClosedJaxpr)


def edited_parameters(parameters: dict[str, Any], edit: Edit) -> dict[str, Any]:
    """The parameters of an equation, with every program among them, or in lists and tuples of them, edited."""
    return {name: _edited_value(value, edit) for name, value in parameters.items()}


def _edited_value(value: Any, edit: Edit) -> Any:
    if isinstance(value, JAXPRS):
        return edit(value)
    if type(value) in (list, tuple) or hasattr(value, "_fields"):
        found = [_edited_value(each, edit) for each in value]
        if all(new is old for new, old in zip(found, value, strict=True)):
            return value
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    return value


def programs(parameters: dict[str, Any]) -> Iterator[Any]:
    """Every program among the parameters of an equation."""

    def seen(program: Any) -> Any:
        found.append(program)
        return program

    found: list[Any] = []
    edited_parameters(parameters, seen)
    yield from found


def executed(
    program: Any, is_wanted: Callable[[Any], bool], results: Sequence[bool] | None = None
) -> tuple[list[tuple[Any, ...]], list[bool]]:
    """The wanted equations that compute these results of a program, also inside of its programs; and which inputs are needed.

    Each comes after those that it is in, outermost first. What XLA drops, since nothing needs it, is left out.
    """
    program = program if isinstance(program, Jaxpr) else program.jaxpr
    outputs = zip(program.outvars, repeat(True) if results is None else results, strict=False)
    needed = {atom for atom, each in outputs if each and not isinstance(atom, Literal)}
    found: list[list[tuple[Any, ...]]] = []
    for equation in reversed(program.eqns):
        used = [atom in needed for atom in equation.outvars]
        if not any(used) and not equation.effects:
            continue
        inputs = _inputs(equation)
        if is_wanted(equation):
            found.append([(equation,)])
        else:
            inside: list[tuple[Any, ...]] = []
            within = _run(equation)
            if len(within) == 1 and equation.primitive.name != "scan" and _is_call(equation, within[0]):
                inside, inputs = executed(within[0], is_wanted, used)
            else:
                inside = [each for inner in within for each in executed(inner, is_wanted)[0]]
            found.append([(equation, *each) for each in inside])
        atoms = zip(equation.invars, inputs, strict=True)
        needed |= {atom for atom, each in atoms if each and not isinstance(atom, Literal)}
    return [each for several in reversed(found) for each in several], [atom in needed for atom in program.invars]


def _run(equation: Any) -> list[Any]:
    """The programs of an equation that run: of the solution of a linear system the one that solves it."""
    if equation.primitive.name == "custom_linear_solve":
        return [equation.params["jaxprs"].solve]
    traced = getattr(equation.params.get("_prim"), "traced", None)  # as jax's next implementations of rules hold it
    return list(programs(equation.params)) if traced is None else [traced.jaxpr]


def _inputs(equation: Any) -> list[bool]:
    """Which inputs of an equation it may need: of the solution of a linear system not what its other programs take."""
    count = len(equation.invars)
    if equation.primitive.name != "custom_linear_solve":
        return [True] * count
    lengths = equation.params["const_lengths"]
    first = lengths.matvec + lengths.vecmat
    return [first <= place < first + lengths.solve or place >= sum(lengths) for place in range(count)]


def _is_call(equation: Any, program: Any) -> bool:
    """Whether inputs and results are those of the program, one by one."""
    inner = program if isinstance(program, Jaxpr) else program.jaxpr
    return (len(inner.invars), len(inner.outvars)) == (len(equation.invars), len(equation.outvars))


# Packages whose lines say nothing about where a layer stands; jaxtyping's wrap methods of Equinox's.
_NOT_THE_USERS = ("jax", "flax", "equinox", "haiku", "keras", "jaxtyping", __package__)


def source_of(equation: Any) -> str:
    """The user's line: the innermost one outside of frameworks, of this package and of Python's own; any where there is none."""
    modules = (sys.modules.get(name) for name in _NOT_THE_USERS)
    folders = [os.path.dirname(module.__file__) for module in modules if module is not None and module.__file__]
    packages = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        name = frame.file_name
        own = any(name.startswith(folder + os.sep) for folder in folders)
        pythons = name.startswith(sysconfig.get_path("stdlib")) and not name.startswith(packages)
        if not own and not pythons and not name.startswith("<frozen"):
            return f"{name}:{frame.line_num} ({frame.function_name})"
    return source_info_util.summarize(equation.source_info)


# Parameters of custom_jvp and custom_vjp functions in which JAX keeps their rules. The first two are traced when they are used.
TANGENT_RULE, FORWARD_RULE, BACKWARD_RULE = RULES = "jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd"


@linear_util.transformation2  # type: ignore[untyped-decorator]
def edited_rule(trace: Callable[..., tuple[Any, ...]], edit: Edit, *zeros: Any) -> tuple[Any, ...]:
    """A rule that is traced later, edited then."""
    program, *rest = trace(*zeros)
    return (edit(program), *rest)


@linear_util.transformation2  # type: ignore[untyped-decorator]
def replaced_rule(rule: Callable[..., Any], replace: Callable[[Callable[..., Any]], Callable[..., Any]], *arguments: Any) -> Any:
    """A rule that is called later, replaced then."""
    return replace(rule)(*arguments)


def edited_shard_map(equation: Any, edit: Edit) -> dict[str, Any]:
    """The parameters of an equation of `jax.shard_map`, edited while one is traced: only there do types say what they vary along."""
    parameters = equation.params
    axes = next(parameters[name] for name in ("newly_manual_axes", "manual_axes") if name in parameters)  # as before jax 0.10
    found: list[dict[str, Any]] = []

    def body(*arrays: Any) -> Any:
        found.append(edited_parameters(parameters, edit))
        return jaxpr_as_fun(ClosedJaxpr(parameters["jaxpr"], ()))(*arrays)

    mapped = jax.shard_map(
        body,
        mesh=parameters["mesh"],
        in_specs=parameters["in_specs"],
        out_specs=list(parameters["out_specs"]),
        axis_names=axes,
        check_vma=parameters["check_vma"],
    )
    jax.make_jaxpr(mapped)(*(atom.aval for atom in equation.invars))
    return found[0]


def _is_array(leaf: Any) -> bool:
    """Whether JAX traces it. What has a dtype that JAX has not, or is a number of Python's, is the function's own."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufc" or (leaf.dtype.kind == "V" and jnp.issubdtype(leaf.dtype, np.number))
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def traced(f: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[Any, list[Any], Callable[[list[Any]], Any]]:
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

"""JAX's programs as values: of calls, and inside of others; and the few things in which they differ between its versions.

Until jax 0.11 a `ClosedJaxpr` holds a `Jaxpr` and its constants; from 0.12 on a `Jaxpr` holds its own, and there is one class.
All of it is public JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import linear_util
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

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

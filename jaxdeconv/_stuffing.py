"""Zeros between the samples of an array that `lax.pad` puts in front of a plain convolution, or `lax.slice` skips behind one.

Some libraries stuff zeros so, instead of asking the convolution to (`lhs_dilation`). Found here are an operand of a convolution that
is a smaller array, spread, and a result of which only every s-th sample is used: all that JAX makes of the first and its gradients.
Between the two stand only reshapings, transpositions and new axes of size 1, as `jax.vmap` puts there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.extend.core.primitives import conv_general_dilated_p


class Move(NamedTuple):
    """A step that keeps all elements: a transposition by `axes`, or else a reshaping. Hashable."""

    shape: tuple[int, ...]  # of the result
    axes: tuple[int, ...] = ()


class Edge(NamedTuple):
    """Of one axis: so many samples, a distance apart, and what is before and behind them: zeros, or, below 0, nothing."""

    size: int
    stride: int
    lo: int
    hi: int


class Spread(NamedTuple):
    """An array that is `source`, brought into place by moves, with zeros along the axes of edges."""

    source: Any
    between: tuple[Any, ...]  # the variables
    moves: tuple[Move, ...]
    edges: Mapping[int, Edge]


class Skipped(NamedTuple):
    """An array that is `source`, a result of which edges are used, brought into place by moves."""

    source: Any
    between: tuple[Any, ...]  # the variables
    moves: tuple[Move, ...]
    edges: Mapping[int, Edge]  # by axes of the source


def moved(a: jax.Array, moves: Sequence[Move]) -> jax.Array:
    for move in moves:
        a = lax.transpose(a, move.axes) if move.axes else lax.reshape(a, move.shape)
    return a


def _places(move: Move, before: Sequence[int], axes: Mapping[int, Any]) -> dict[int, Any] | None:
    """By axes of a step's result what is given by axes of its operand, None if it leaves one of these not whole."""
    found: dict[int, Any] = {}
    for axis, value in axes.items():
        ahead = math.prod(before[:axis])
        places = [
            place
            for place, size in enumerate(move.shape)
            if (move.axes[place] == axis if move.axes else size == before[axis] and math.prod(move.shape[:place]) == ahead)
        ]
        if not places:
            return None
        found[places[-1]] = value
    return found if len(found) == len(axes) else None


def _resized(move: Move, sizes: Mapping[int, int]) -> Move:
    return move._replace(shape=tuple(sizes.get(axis, size) for axis, size in enumerate(move.shape)))


def _static(equation: Any) -> bool:
    return all(
        isinstance(size, int) for each in (*equation.invars, *equation.outvars) for size in getattr(each.aval, "shape", (None,))
    )


def _padding(equation: Any) -> list[tuple[int, int, int]]:
    return [(int(lo), int(hi), int(inner)) for lo, hi, inner in equation.params["padding_config"]]


def _with_zeros(equation: Any) -> bool:
    operand, value = equation.invars
    return isinstance(value, Literal) and not isinstance(operand, Literal) and not np.any(np.asarray(value.val))


def _move(equation: Any) -> Move | None:
    """The step that an equation is."""
    if len(equation.invars) not in (1, 2) or len(equation.outvars) != 1 or not _static(equation):
        return None
    name, parameters, before, after = equation.primitive.name, equation.params, equation.invars[0].aval, equation.outvars[0].aval
    if name == "transpose":
        return Move(after.shape, tuple(map(int, parameters["permutation"])))
    if name == "pad":
        return None if any(map(any, _padding(equation))) else Move(after.shape)
    same: dict[str, Callable[[], bool]] = {
        "reshape": lambda: parameters.get("dimensions") is None,
        "squeeze": lambda: True,
        "reduce_sum": lambda: before.size == after.size,
        "broadcast_in_dim": lambda: (
            before.size == after.size and list(parameters["broadcast_dimensions"]) == sorted(parameters["broadcast_dimensions"])
        ),
        "slice": lambda: before.shape == after.shape,
    }
    return Move(after.shape) if len(equation.invars) == 1 and name in same and same[name]() else None


def spread(equation: Any, known: Callable[[Any], Spread | None]) -> Spread | None:
    """What the result of an equation is, if it is spread; `known` says it of operands."""
    if equation.primitive.name == "pad" and _static(equation) and _with_zeros(equation):
        operand = equation.invars[0]
        rows = zip(operand.aval.shape, _padding(equation), strict=True)
        edges = {
            axis: Edge(size, inner + 1, lo, hi) for axis, (size, (lo, hi, inner)) in enumerate(rows) if (lo, hi, inner) != (0, 0, 0)
        }
        return Spread(operand, (equation.outvars[0],), (), edges) if any(edge.stride > 1 for edge in edges.values()) else None
    if not equation.invars or isinstance(equation.invars[0], Literal) or (found := known(equation.invars[0])) is None:
        return None
    if (move := _move(equation)) is None or (places := _places(move, equation.invars[0].aval.shape, found.edges)) is None:
        return None
    smaller = _resized(move, {axis: edge.size for axis, edge in places.items()})
    return Spread(found.source, (*found.between, equation.outvars[0]), (*found.moves, smaller), places)


def skipped(equation: Any, producer: Callable[[Any], Any]) -> Skipped | None:
    """What the result of an equation is, if it is every s-th sample of a convolution's; `producer` gives what makes a variable that
    is used once.
    """
    operand, shape = equation.invars[0], equation.outvars[0].aval.shape
    if not _static(equation) or isinstance(operand, Literal) or not (steps := equation.params["strides"]) or set(steps) == {1}:
        return None
    rows = zip(shape, steps, equation.params["start_indices"], operand.aval.shape, strict=True)
    edges = {
        axis: Edge(size, int(step), -int(start), 0)
        for axis, (size, step, start, whole) in enumerate(rows)
        if (step, size) != (1, whole)
    }
    between: list[Any] = []
    moves: list[tuple[tuple[int, ...], Move]] = []
    made_by = producer(operand)
    if made_by is not None and made_by.primitive.name == "pad" and _move(made_by) is None:
        if not _static(made_by) or any(lo > 0 or hi > 0 or inner > 0 for lo, hi, inner in _padding(made_by)):
            return None
        for axis, (lo, hi, _) in enumerate(_padding(made_by)):
            if lo or hi:
                edge = edges.get(axis, Edge(shape[axis], 1, 0, 0))
                edges[axis] = edge._replace(lo=edge.lo + lo)
        between.append(made_by.outvars[0])
        made_by = producer(made_by.invars[0])
    while made_by is not None and (move := _move(made_by)) is not None:
        between.append(made_by.outvars[0])
        moves.insert(0, (made_by.invars[0].aval.shape, move))
        made_by = producer(made_by.invars[0])
    if made_by is None or made_by.primitive is not conv_general_dilated_p:
        return None
    at: list[dict[int, int]] = [{axis: axis for axis in made_by.params["dimension_numbers"].out_spec[2:]}]
    for before, move in moves:
        if (places := _places(move, before, at[-1])) is None:
            return None
        at.append(places)
    if not edges.keys() <= at[-1].keys():
        return None
    of_source = {axis: edges.get(place, Edge(shape[place], 1, 0, 0)) for place, axis in at[-1].items()}
    smaller = [
        _resized(move, {place: of_source[axis].size for place, axis in places.items()})
        for (_, move), places in zip(moves, at[1:], strict=True)
    ]
    return Skipped(made_by, tuple(between), tuple(smaller), of_source)


def spread_inside(parameters: Mapping[str, Any], edges: Mapping[int, Edge]) -> dict[str, Any] | None:
    """A convolution that spreads and pads its operand itself; None if there is none."""
    space = parameters["dimension_numbers"].lhs_spec[2:]
    dilation, padding = list(parameters["lhs_dilation"]), list(parameters["padding"])
    if not edges.keys() <= set(space):
        return None
    for axis, edge in edges.items():
        dimension = space.index(axis)
        lo, hi = padding[dimension]
        # What is cut off and padded again is not what was there.
        if dilation[dimension] != 1 or (edge.lo < 0 < lo) or (edge.hi < 0 < hi):
            return None
        dilation[dimension], padding[dimension] = edge.stride, (lo + edge.lo, hi + edge.hi)
    return {**parameters, "lhs_dilation": tuple(dilation), "padding": tuple(padding)}


def skipped_inside(parameters: Mapping[str, Any], edges: Mapping[int, Edge]) -> dict[str, Any] | None:
    """A convolution that computes only what is used of its result; None if there is none."""
    strides, padding = list(parameters["window_strides"]), list(parameters["padding"])
    if {*strides, *parameters["lhs_dilation"]} != {1}:
        return None
    for dimension, axis in enumerate(parameters["dimension_numbers"].out_spec[2:]):
        strides[dimension], padding[dimension] = edges[axis].stride, (padding[dimension][0] + edges[axis].lo, padding[dimension][1])
    return {**parameters, "window_strides": tuple(strides), "padding": tuple(padding)}

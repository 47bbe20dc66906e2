"""Objects of Flax NNX among the arguments of a function that is traced: what it changes in them reaches the caller's.

To JAX such an object is a pytree, so that a function which is traced sees a copy of it, and what changes in the copy is lost. The
transformations of Flax return what the copy has become, and update the object by it; so does this, by the means that Flax gives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax

CONTEXT = "jaxdeconv"
Evaluate = Callable[..., Any]
"""As (function, *arguments, **keywords): what the function gives."""


def evaluated(evaluate: Evaluate, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What `evaluate` gives of a call, with the objects of NNX in it updated by what the function changes in them."""
    nnx = sys.modules.get("flax.nnx")  # without it there are none
    if nnx is None:
        return evaluate(function, *arguments, **keywords)

    def is_object(node: Any) -> bool:
        return isinstance(node, nnx.Pytree | nnx.Variable)

    leaves, structure = jax.tree.flatten((arguments, keywords), is_leaf=is_object)
    objects = {place: leaf for place, leaf in enumerate(leaves) if is_object(leaf)}
    if not objects:
        return evaluate(function, *arguments, **keywords)
    others = [None if place in objects else leaf for place, leaf in enumerate(leaves)]
    with nnx.update_context(CONTEXT):
        with nnx.split_context(CONTEXT) as context:
            graph, state = context.split(objects)  # of all together, since they may share parts

        def pure(state: Any, others: list[Any]) -> tuple[Any, Any, Any]:
            with nnx.merge_context(CONTEXT, True) as context:
                copies = context.merge(graph, state)
            given = [copies.get(place, other) for place, other in enumerate(others)]
            arguments, keywords = jax.tree.unflatten(structure, given)
            result = function(*arguments, **keywords)
            with nnx.split_context(CONTEXT) as context:
                return result, *context.split(copies)

        result, graph, state = evaluate(pure, state, others)
        with nnx.merge_context(CONTEXT, False) as context:
            context.merge(graph, state)  # into the objects
    return result

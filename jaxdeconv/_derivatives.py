"""The transposed convolution and all its derivatives, of any order and in both modes. All gradient rules of the library are here.

With crop = crop_lo, a transposed convolution and its two gradients are the partial derivatives of one trilinear form

    Phi(x, w, y) = sum over b, n, j, i, o of  x[b, n, i] * w[j, o, i] * y[b, n*s + j*d - crop, o]

    transpose    T(x, w) = dPhi/dy     [b, W, i] [k, o, i] -> [b, L, o]
    input_grad   C(y, w) = dPhi/dx     [b, L, o] [k, o, i] -> [b, W, i]
    filter_grad  F(x, y) = dPhi/dw     [b, W, i] [b, L, o] -> [k, o, i]

so <T(x, w), y> = <x, C(y, w)> = <w, F(x, y)> for every y. That is the whole derivation: the cotangent of T(x, w) is some g in the
place of y, those of its arguments are C(g, w) and F(x, g). Nothing is conjugated, as JAX has it for holomorphic functions.

Of any order: each contraction K gives one of the three arrays, and is linear in either of the two that it takes. So its tangent is
K(dp, q) + K(p, dq), and what transposes K(., q) is the contraction that gives p. There is one rule, for all three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from jaxdeconv._contractions import OPERANDS, Form, contract, nothing
from jaxdeconv._partitioning import explicit_mesh, explicit_sharding

Arrays: TypeAlias = Mapping[str, jax.Array]
"""Two of x, w and y."""
NAME = "conv_transpose"


def _found_by_policies(a: jax.Array) -> jax.Array:
    """A result of a rule, as policies of `jax.checkpoint` look for it: by a name, and as a product, with 1, which XLA drops.

    What computes it is hidden from them in functions that have rules of their own. The precision is named, so that no algorithm of a
    `jax.default_matmul_precision` is that of this product, for which a backend may have none.
    """
    one, default = jnp.ones((), a.dtype), lax.Precision.DEFAULT
    found = lax.dot_general(a, one, (((), ()), ((), ())), precision=default, preferred_element_type=a.dtype)
    named: jax.Array = checkpoint_name(found, NAME)  # type: ignore[no-untyped-call]
    return named


def _tangent(target: str, operands: Arrays, tangents: Mapping[str, Any], form: Form) -> jax.Array:
    """K(dp, q) + K(p, dq), without the term of an operand that does not vary."""
    terms = [
        _linear(target, name, {**operands, name: tangents[name]}, form)
        for name in OPERANDS[target]
        if not isinstance(tangents[name], SymbolicZero)
    ]
    total: jax.Array = sum(terms[1:], terms[0])
    return total


Way: TypeAlias = Callable[[str, Any, Arrays, Form], jax.Array]
"""To compute a contraction: what it is to give, how, of which operands, in which form."""


def _with_rule(way: Way, of_rule: Callable[[jax.Array], jax.Array] = lambda y: y) -> Way:
    """A way with the one rule for its tangent; `of_rule` is applied to the result where that is differentiated."""
    ruled = jax.custom_jvp(way, nondiff_argnums=(0, 1, 3))

    def rule(
        target: str, how: Any, form: Form, primals: tuple[Arrays], tangents: tuple[Mapping[str, Any]]
    ) -> tuple[jax.Array, jax.Array]:
        return of_rule(ruled(target, how, *primals, form)), _tangent(target, *primals, *tangents, form)

    ruled.defjvp(rule, symbolic_zeros=True)
    return ruled


@partial(_with_rule, of_rule=_found_by_policies)
def bilinear(target: str, separable: bool, operands: Arrays, form: Form) -> jax.Array:
    """`contract`, differentiable in both operands in either mode."""
    return contract(target, operands, form, separable)


@_with_rule
def _transposable(target: str, name: str, operands: Arrays, form: Form) -> jax.Array:
    """A contraction as what JAX makes of its transpose by transposing that, so that JAX transposes it back into a good form."""
    (other,) = (each for each in operands if each != name)
    y = getattr(form, target)

    def transpose(y: jax.Array) -> jax.Array:
        return contract(name, {other: operands[other], target: y}, form, separable=False, transposable=True)

    result: jax.Array
    like = jax.ShapeDtypeStruct(y.shape, y.dtype, sharding=_sharding(target, operands, form))  # type: ignore[no-untyped-call]
    (result,) = jax.linear_transpose(transpose, like)(operands[name])
    return result


def _sharding(target: str, operands: Arrays, form: Form) -> Any:
    """Of what is like a result, over explicit axes of a mesh; None where these are none."""
    mesh, like = explicit_mesh(*operands.values()), getattr(form, target)
    return None if mesh is None else explicit_sharding(mesh, like.shape, like.entries)


@_with_rule
def _linear(target: str, name: str, operands: Arrays, form: Form) -> jax.Array:
    """A contraction as a linear map of the operand that is named, whose transpose JAX takes to be the contraction that gives it.

    JAX has one way to give a linear map together with its transpose, the solution of a linear system: that of
    A (a, y) = (a, y - K a) is (a, y + K a), and that of its transpose (a + C y, y), with C that of K. A itself is only computed where
    the transpose is differentiated, and there JAX transposes it: hence `_transposable`.

    JAX can transpose such a system only if it holds all of its right-hand side, and of those of its derivatives, to be linear in what
    it differentiates by. Sums of no elements, which are zero and which XLA drops, make them so.
    """
    contracted = getattr(form, target)
    others = {other: array for other, array in operands.items() if other != name}
    (other,) = others.values()

    def matrix(both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, y = both
        return a + nothing(y, a.dtype) * nothing(other, a.dtype), y - _transposable(target, name, {**others, name: a}, form)

    def solve(_: object, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, y = both
        return a, y + contract(target, {**others, name: a}, form)

    def transposed_solve(_: object, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, y = both
        return a + contract(name, {**others, target: y}, form), y

    y = jnp.zeros(contracted.shape, contracted.dtype, device=_sharding(target, operands, form))
    a, y = lax.custom_linear_solve(matrix, (operands[name], y + nothing(operands[name], y.dtype)), solve, transposed_solve)
    result: jax.Array = y + nothing(a, y.dtype)
    return result


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def contraction(target: str, first: jax.Array, second: jax.Array, form: Form) -> jax.Array:
    """One of the three, with the rule for its reverse mode written out, which is all that JAX then knows: it refuses `jax.jvp`."""
    return bilinear(target, True, dict(zip(OPERANDS[target], (first, second), strict=True)), form)


def _forward(target: str, first: jax.Array, second: jax.Array, form: Form) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    operands = dict(zip(OPERANDS[target], (first, second), strict=True))
    differentiated = form._replace(options=form.options._replace(differentiated=True))
    return _found_by_policies(bilinear(target, True, operands, differentiated)), (first, second)


def _backward(target: str, form: Form, residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    arrays = dict(zip(OPERANDS[target], residuals, strict=True)) | {target: g}
    p, q = (bilinear(name, True, {each: arrays[each] for each in OPERANDS[name]}, form) for name in OPERANDS[target])
    return p, q


contraction.defvjp(_forward, _backward)

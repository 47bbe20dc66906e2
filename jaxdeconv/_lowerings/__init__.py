"""The lowerings by name: which a transposed convolution has, whether they can, and the functions. No policy here; that is `_select`.

Every lowering is called as `(lhs, rhs, geometry, precision=, preferred_element_type=)`, with operands of one dtype, neither empty,
and the keywords meaning what they mean in lax. No crop of the geometry is negative, or more than ke - 1: `_interior` sees to that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jaxdeconv._geometry import Geometry, reach
from jaxdeconv._lowerings import dilated, elementwise, mixed
from jaxdeconv._lowerings._groups import per_group
from jaxdeconv._lowerings._work import Contraction, Form, Implementation, Name, Platform, Sizes

__all__ = ["Contraction", "Form", "Implementation", "Name", "Platform", "candidates", "forms_of", "general", "is_mixture", "unable"]

Lowering: TypeAlias = Callable[..., jax.Array]

UNIFORM: Mapping[Name, Form] = MappingProxyType({"dilated": "dilated", "matmul": "taps", "polyphase": "phases"})
"""Names of one form in all dimensions."""
_FORMS: tuple[Form, ...] = get_args(Form)


def is_mixture(name: Name) -> bool:
    """Whether it is one of forms: of several, or of taps alone, which "matmul" has too, but by a product."""
    forms = set(name.split(","))
    return forms <= set(_FORMS) and (len(forms) > 1 or forms == {"taps"})


def forms_of(name: Name, ndim: int) -> tuple[Form, ...] | None:
    """The form of each dimension; None if that is no name of forms of so many."""
    if name in UNIFORM:
        return (UNIFORM[name],) * ndim
    forms = tuple(form for each in name.split(",") for form in _FORMS if form == each)
    return forms if len(forms) == ndim == name.count(",") + 1 else None


@lru_cache(4096)
def candidates(geometry: Geometry) -> tuple[Name, ...]:
    """The names of all lowerings that compute it differently."""
    each: list[list[Form]] = []
    for k, s, d, (lo, _) in zip(geometry.kernel, geometry.strides, geometry.dilations, geometry.crops, strict=True):
        first, last = reach(k, s, d, lo - lo % s)
        forms: list[Form] = ["taps"]
        if k > 1 or s > 1:
            forms.append("dilated")
        if last > first and (s > 1 or d > 1):  # within a block there is nothing but its taps, and blocks of one are what they hold
            forms.append("phases")
        each.append(forms)
    of_one_form = [mixed.apart(geometry, (form,) * geometry.ndim)[1:] for form in ("taps", "phases")]
    mixtures = [
        ",".join(forms)
        for forms in itertools.product(*each)
        if len(set(forms)) > 1 and mixed.apart(geometry, forms)[1:] not in of_one_form
    ]
    return (*get_args(Implementation), ",".join(["taps"] * geometry.ndim), *mixtures)


def any_layout(contraction: Contraction, lowering: Lowering) -> Lowering:
    """Of a lowering for channels last, one that takes either layout."""

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        if geometry.channels_last:
            return lowering(lhs, rhs, geometry, **keywords)
        lhs = jnp.moveaxis(lhs, 1, -1)
        if contraction == "filter_grad":
            rhs = jnp.moveaxis(rhs, 1, -1)
        result = lowering(lhs, rhs, replace(geometry, channels_last=True), **keywords)
        return result if contraction == "filter_grad" else jnp.moveaxis(result, -1, 1)

    return lowered


def by_forms(name: Name, lowering: Lowering) -> Lowering:
    """Of a lowering of `mixed`, the one with the forms of this name."""

    def lowered(lhs: jax.Array, rhs: jax.Array, geometry: Geometry, **keywords: Any) -> jax.Array:
        forms = forms_of(name, geometry.ndim)
        assert forms is not None
        return lowering(lhs, rhs, geometry, forms=forms, product=name == "matmul", **keywords)

    return lowered


@lru_cache(None)
def general(contraction: Contraction, name: Name) -> Lowering:
    """The function of a lowering, in the form that keeps every axis apart, so that XLA's partitioner can cut it."""
    if name == "dilated":
        function: Lowering = getattr(dilated, contraction)
        return function
    if name == "elementwise":
        return any_layout(contraction, elementwise.filter_grad) if contraction == "filter_grad" else getattr(elementwise, contraction)
    lowering = per_group(contraction, by_forms(name, getattr(mixed, contraction)))
    return lowering if name == "matmul" else any_layout(contraction, lowering)


def unable(name: Name, contraction: Contraction, sizes: Sizes) -> str | None:
    """Why a lowering cannot compute a contraction of these sizes, or None if it can."""
    if name == "dilated":  # there is nothing it cannot
        return None
    if name == "elementwise":
        return elementwise.unable(contraction, sizes)
    ndim = sizes.geometry.ndim
    if (forms := forms_of(name, ndim)) is None:
        return f"names another number of forms than there are dimensions, {ndim}"
    return mixed.unable(contraction, sizes, forms)

"""How to compute: the arguments that every front-end ends with; where they are not given, what `defaults` and the environment say."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple, Never, get_args

import jax
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from jaxdeconv._canonicalize import COMPLEX, FLOATS, INTEGERS, choice, error, message
from jaxdeconv._contractions import Options
from jaxdeconv._lowerings import UNIFORM, Implementation, is_mixture
from jaxdeconv._tuning import NotATuningError, Tuning, read


@lru_cache
def _lax_takes(precision: Any) -> bool:
    operand = np.zeros((1, 1, 1), np.float32)
    try:
        jax.eval_shape(lambda x: lax.conv_general_dilated(x, x, (1,), "VALID", precision=precision), operand)
    except (ValueError, TypeError):
        return False
    return True


def options(
    function: str,
    x: jax.Array,
    name: object,
    precision: object,
    preferred_element_type: DTypeLike | None,
    implementation: object,
    forward_mode: object,
    tuning: Tuning | None = None,
) -> Options:
    """The arguments that every front-end ends with."""
    if name is None:
        name = function
    elif not isinstance(name, str) or not name:
        raise error(TypeError, function, "name must be a string or None", "name", name, "it labels the op in profiles")
    if precision is not None:
        if isinstance(precision, list):
            precision = tuple(precision)
        try:
            valid = _lax_takes(precision)
        except (TypeError, ValueError):  # unhashable
            valid = False
        if not valid:
            raise error(
                ValueError,
                function,
                "precision must be one that lax.conv_general_dilated takes",
                "precision",
                precision,
                "pass None, 'default', 'high', 'highest', a jax.lax.Precision, or a pair of these for input and filters",
            )
    dtype = x.dtype if preferred_element_type is None else _result_dtype(function, x, preferred_element_type)
    held = how(function, implementation, forward_mode, tuning)
    return Options(function, name, dtype, precision, held.implementation, bool(held.forward_mode), tuning=held.tuning)


_MIXTURE = "taps,dilated"
_OF_ALL: dict[str, str] = {form: name for name, form in UNIFORM.items() if form != "taps"}


class _How(NamedTuple):
    """What `defaults` sets."""

    implementation: str | None
    forward_mode: bool | None
    tuning: Tuning | None


_NOTHING_SET = _How(None, None, None)
_HOW: ContextVar[_How] = ContextVar("defaults", default=_NOTHING_SET)
traced_anew: Any = jax.make_user_context(None)  # type: ignore[no-untyped-call]
"""`with traced_anew(value)`, functions that were jitted and traced with another value are traced again."""


def how(function: str, implementation: Any, forward_mode: Any, tuning: Any = None) -> _How:
    """All as given, or as `defaults` says where they are None; for tuning, as the environment says where that does not."""
    if implementation is not None and not (isinstance(implementation, str) and is_mixture(implementation)):
        forms = set(implementation.split(",")) if isinstance(implementation, str) else set()
        advice = f"pass one of these, or a form for each dimension, as in {_MIXTURE!r}"
        if len(forms) == 1 and (form := forms.pop()) in _OF_ALL:
            advice = f"pass {_OF_ALL[form]!r}, which has this form for all dimensions"
        choice(function, "implementation", implementation, (None, *get_args(Implementation)), advice)
    if forward_mode is not None:
        choice(function, "forward_mode", forward_mode, (False, True))
    if tuning is not None and not isinstance(tuning, Tuning):
        advice = "pass what tune returns, or load_tuning(path)"
        raise error(TypeError, function, "tuning must be a Tuning or None", "tuning", tuning, advice)
    held = _HOW.get()
    if tuning is None:
        tuning = held.tuning
    if tuning is None and (path := os.environ.get(VARIABLE)):
        tuning = tuning_of(function, VARIABLE, path)
    return _How(
        held.implementation if implementation is None else implementation,
        held.forward_mode if forward_mode is None else forward_mode,
        tuning,
    )


VARIABLE = "JAXDECONV_TUNING"
_read_once = lru_cache(read)


def tuning_of(function: str, name: str, path: str, again: bool = False) -> Tuning:
    """What a file holds; one that was read before is only read `again` if asked to."""
    try:
        return (read if again else _read_once)(path)
    except (OSError, NotATuningError) as cause:
        rule = f"{name} must be a file that Tuning.save wrote, and it {cause}"
        if isinstance(cause, OSError):
            rule = f"{name} must be a file that can be read, and it cannot: {cause.strerror}"
        raise error(ValueError, function, rule, name, path, "pass the path of one, or write it again with tune") from cause


@contextmanager
def defaults(
    *, implementation: str | None = None, forward_mode: bool | None = None, tuning: Tuning | None = None, **others: Never
) -> Iterator[None]:
    """Within it, what calls and layers of this package take for an argument that they were not given.

    For models whose calls one cannot reach. It holds while JAX traces: a function that was jitted and called before keeps what it was
    traced with, and one that is first called within it keeps that. So put it around the first call, or inside the function. Arguments
    that are given win over it, `forward_mode=False` too. It nests, is of its own in each thread, and works as a decorator. Within
    `tuning`, functions that were jitted before are traced again.

    Args:
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to leave it.
        forward_mode: whether to allow forward mode (`jax.jvp`); None to leave it as it is.
        tuning: what `tune` measured, by which lowerings are chosen where none is named; None to leave it as it is, which is what the
            file says that the environment variable JAXDECONV_TUNING names, if it does. `Tuning()` for none.
        **others: none, but for an error that says what there is.

    Raises:
        ValueError: no such name. Within it, calls raise as if it had been given to them, where it cannot compute them.
        TypeError: an argument of the wrong type.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> w = jnp.ones((4, 2, 3))
        >>> def decode(x):  # say, from another package
        ...     return jaxdeconv.conv1d_transpose(x, w, None, 2)
        >>> with jaxdeconv.defaults(forward_mode=True):
        ...     y, y_dot = jax.jvp(decode, (jnp.ones((1, 8, 3)),), (jnp.ones((1, 8, 3)),))
        >>> y_dot.shape
        (1, 16, 2)
    """
    for name in others:
        rule, advice = "arguments must be implementation, forward_mode or tuning", "all else, pass to the call itself"
        raise error(TypeError, "defaults", rule, name, others[name], advice)
    held = how("defaults", implementation, forward_mode, tuning)
    token = _HOW.set(held)
    try:
        with traced_anew(held.tuning) if tuning is not None else nullcontext():
            yield
    finally:
        _HOW.reset(token)


def _result_dtype(function: str, x: jax.Array, preferred: Any) -> np.dtype[Any]:
    try:
        dtype = jax.dtypes.canonicalize_dtype(preferred)
    except (TypeError, ValueError, RuntimeError):
        dtype = None
    kind = next(kind for kind in (FLOATS, COMPLEX, INTEGERS) if x.dtype in kind)
    if dtype is None or dtype not in kind or (kind is INTEGERS and dtype.itemsize < x.dtype.itemsize):
        raise error(
            TypeError,
            function,
            f"preferred_element_type must be a dtype of the kind of {x.dtype}, and no narrower for integers",
            "preferred_element_type",
            preferred,
            "pass None for the dtype of the input",
        )
    if not any(preferred is each for each in (float, int, complex)) and dtype != np.dtype(preferred):
        rule, advice = f"the result is of {dtype}, for 64 bits are not enabled", "enable jax_enable_x64, or pass a dtype of 32 bits"
        warnings.warn(message(function, rule, "preferred_element_type", np.dtype(preferred).name, advice), UserWarning, stacklevel=2)
    return dtype

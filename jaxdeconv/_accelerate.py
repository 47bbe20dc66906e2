"""accelerate: any JAX function, with the transposed convolutions and their gradients in it computed by this package.

The function is traced, its program (a jaxpr) is edited, and JAX evaluates the result.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar, overload
from weakref import WeakSet

from jaxdeconv import _jaxprs, _objects, _options
from jaxdeconv._call import advise
from jaxdeconv._canonicalize import error
from jaxdeconv._edit import Editor, How, Row

F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Acceleration:
    """What `accelerate` does to a function, a row for each convolution that it looked at. `str()` of it is for reading.

    Fields of a row: name_stack and source, where it is; contraction, "transpose", "input_grad" or "filter_grad", None if it is none;
    dtype, and the shapes lhs, rhs and result; window, lax's arguments; lowerings, what computes it afterwards on each platform, empty
    where it was left to lax; and reason, why it was left.
    """

    rows: tuple[Row, ...]

    @property
    def replaced(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.lowerings)

    def __str__(self) -> str:
        count = f"{len(self.replaced)} of {len(self.rows)} convolutions that are spread or strided are replaced"
        return "\n".join([count, *map(str, self.rows)])


_accelerated: WeakSet[Any] = WeakSet()


def is_accelerated(function: Any) -> bool:
    """Whether `accelerate` made it."""
    return isinstance(function, FunctionType) and function in _accelerated  # other callables may have no hash


def _editor(forward_mode: bool | None, rows: list[Row] | None = None) -> Editor:
    held = _options.how("accelerate", None, forward_mode)
    return Editor(How(held.implementation, bool(held.forward_mode), held.tuning), rows)


def edited(program: Any, forward_mode: bool | None = None) -> tuple[Any, tuple[Row, ...]]:
    """A program of JAX with what is replaced in it; and a row for each convolution that was looked at."""
    rows: list[Row] = []
    program = _editor(forward_mode, rows).program(program)
    return program, tuple(rows)


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
            else, numbers of Python included, passes as it is. What it changes in objects of Flax NNX that it is given is changed in
            them, as by `nnx.jit`. None to return a decorator.
        forward_mode: whether results may be differentiated in forward mode, as for `conv1d_transpose`; None for what
            `jaxdeconv.defaults` says.

    Returns:
        A function with the name, documentation and signature of the one given, the same results to rounding, with their dtypes, and
        the same errors. `explain(*arguments)` of it is an `Acceleration`: what was found, and what was left and why; of a method it
        is asked for on the class, with the instance first. If it is such a function already, it is returned as it is, or with the
        forward_mode that is given.

    Raises:
        TypeError: function is not callable, or forward_mode is no boolean.

    Gradients:
        In reverse mode, of any order; in forward mode with forward_mode. Rules of `jax.custom_jvp` and `jax.custom_vjp` functions
        stay what they are.

    References:
        jax issues 23783 and 31662, which say how slow JAX's own gradients are.

    Examples:
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
    _options.how(name, None, forward_mode)
    if is_accelerated(function):
        return function if forward_mode is None else accelerate(function.__wrapped__, forward_mode=forward_mode)

    @functools.wraps(function)
    def accelerated(*arguments: Any, **keywords: Any) -> Any:
        editing = _editor(forward_mode)
        try:
            return _objects.evaluated(editing.evaluated, function, *arguments, **keywords)
        except (TypeError, NotImplementedError) as refusal:
            advise(refusal, name, editing.how.forward_mode)
            raise

    def explain(*arguments: Any, **keywords: Any) -> Acceleration:
        """Traces a call without computing it, and says what was found; arrays may be `jax.ShapeDtypeStruct`s."""
        program, _, _ = _jaxprs.traced(function, *arguments, **keywords)
        return Acceleration(edited(program, forward_mode)[1])

    accelerated.explain = explain  # type: ignore[attr-defined]
    _accelerated.add(accelerated)
    return accelerated

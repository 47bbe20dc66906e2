"""Arguments as users write them, made into static tuples, arrays and dtypes. Every shared error message is here.

Nothing here touches an array's values or traces anything; a convention's own rules are in its front-end.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.typing import ArrayLike

from jaxdeconv._filters import LAYOUTS, layouts_of, positions

ErrorType: TypeAlias = type[ValueError] | type[TypeError]
Precision: TypeAlias = str | lax.Precision | tuple[str, str] | tuple[lax.Precision, lax.Precision] | None
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# All that a transposed convolution is defined for here; a convention may take fewer.
FLOATS: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)))
COMPLEX: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, (jnp.complex64, jnp.complex128)))
INTEGERS: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, (jnp.int8, jnp.int16, jnp.int32, jnp.int64)))

# Strides, dilations and output sizes are 32-bit in TensorFlow's ops; past 64 bits XLA could not hold the products.
LARGEST = 2**31 - 1

SPATIAL = ("depth", "height", "width")


def error(kind: ErrorType, function: str, rule: str, name: str, value: object, advice: str) -> Exception:
    """What is raised, in the form of `message`."""
    return kind(message(function, rule, name, value, advice))


def message(function: str, rule: str, name: str, value: object, advice: str) -> str:
    """The one form of every rejection and warning: `{function}: {rule}, got {name}={value}; {what to do}`."""
    return f"{function}: {rule}, got {name}={describe(value)}; {advice}"


def describe(value: object) -> str:
    """A short text of any value: arrays of any size by type and shape, those of other libraries always; inside of a value, too."""
    if isinstance(value, jax.core.Tracer):
        return f"a traced {value.dtype}{list(value.shape)}"
    if isinstance(value, jax.Array | np.ndarray) and (value.size > 8 or not has_values(value)):
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, jax.Array | np.ndarray):
        return repr(np.asarray(value).tolist())
    kind = type(value).__name__
    shape: Any = getattr(value, "shape", None)
    if _is_other(value) and getattr(shape, "rank", shape) is not None:  # TensorFlow has unknown ranks
        dtype = getattr(value, "dtype", "")
        return f"{kind} {getattr(dtype, 'name', dtype)}{list(shape)}"
    if isinstance(value, list | tuple) and any(map(_is_array, value)):
        inside = ", ".join(map(describe, value))
        text = f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    elif isinstance(value, dict) and any(map(_is_array, value.values())):
        text = f"{{{', '.join(f'{name!r}: {describe(each)}' for name, each in value.items())}}}"
    elif dataclasses.is_dataclass(value) and any(map(_is_array, vars(value).values())):
        shown = [field.name for field in dataclasses.fields(value) if field.repr]
        text = f"{kind}({', '.join(f'{name}={describe(getattr(value, name))}' for name in shown)})"
    else:
        text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... of type {kind}"


def has_values(value: object) -> bool:
    """Whether it is an array that numpy can read: not traced, and not of the keys of `jax.random`."""
    if isinstance(value, jax.core.Tracer):
        return False
    extended = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended)
    return isinstance(value, np.ndarray | jax.Array) and not extended


def _is_other(value: object) -> bool:
    """Whether it is an array of another library, or holds one of JAX, as Flax's variables do."""
    return is_foreign(value) or hasattr(type(value), "__jax_array__")


def _is_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray) or _is_other(value)


def missing(needs: str, extra: str) -> ImportError:
    """Of a framework, where a module that `needs` it is imported."""
    return ImportError(f'{needs}; install it with: python -m pip install "jaxdeconv[{extra}]"')


def is_foreign(value: object) -> bool:
    """Whether it is an array of another library than JAX and numpy, by the protocols through which these read one."""
    ours = isinstance(value, jax.Array | np.ndarray | np.generic | type)  # a class such as np.float32 has these methods, too
    return not ours and (hasattr(value, "__array__") or hasattr(value, "__dlpack__"))


# What a torch tensor has to become before others can read it: it may be a Parameter, on a GPU, conjugated lazily, or a view.
_TO_BE_READ = ("detach", "cpu", "resolve_conj", "resolve_neg", "contiguous")


def host(function: str, name: str, rule: str, value: Any, advice: str) -> np.ndarray:
    """The values of a foreign array, perhaps still in its memory. Whatever its library raises becomes a TypeError with this rule."""
    held = value
    try:
        for step in _TO_BE_READ if hasattr(held, "detach") else ():
            held = getattr(held, step)()
        if hasattr(held, "__array__"):
            try:
                return np.asarray(held)
            except Exception:  # torch's of bfloat16, which numpy does not have
                if not hasattr(held, "__dlpack__"):
                    raise
        with jax.ensure_compile_time_eval():  # while something is traced, too
            return np.asarray(jnp.from_dlpack(held))
    except Exception as cause:
        because = (str(cause) or type(cause).__name__).splitlines()[0].rstrip(".")
        raise error(TypeError, function, f"{rule}, and cannot be read: {because}", name, value, advice) from cause


def array(function: str, name: str, value: ArrayLike, dtypes: Collection[np.dtype[Any]]) -> jax.Array:
    """A jax array of one of the dtypes. Arrays of JAX, tracers too, stay as they are.

    Others are arrays of numpy in either byte order, objects that hold a jax array (`__jax_array__`), and foreign arrays, such as
    tensors of torch and TensorFlow or datasets of h5py. These are copied, because their owners change them in place.
    """
    given = value
    if not isinstance(value, jax.Array):
        rule = f"{name} must be an array"
        advice = f"pass an array of numbers of any library, not masked; jax.numpy.asarray({name}) makes one of a list"
        if is_foreign(value) and not hasattr(value, "__jax_array__"):
            value = host(function, name, rule, value, advice).copy()
        try:
            if isinstance(value, np.ndarray):
                value = value.astype(value.dtype.newbyteorder("="), copy=False)
            elif not hasattr(value, "__jax_array__"):
                raise TypeError("a list or a scalar, say, of which jax.numpy would guess the dtype")
            value = jnp.asarray(value)
        except (TypeError, ValueError) as cause:  # ValueError: a masked array
            raise error(TypeError, function, rule, name, value, advice) from cause
    if value.dtype not in dtypes:
        names = ", ".join(dtype.name for dtype in dtypes)
        raise error(
            TypeError,
            function,
            f"the dtype of {name} must be one of {names}",
            f"{name}.dtype",
            str(value.dtype),
            f"convert with {name}.astype(...)" if hasattr(given, "astype") else f"convert {name} to one of these",
        )
    return value


def axis_names(ndim: int, channels_last: bool, channels: str) -> str:
    """As in "[batch, width, in]"."""
    spatial = SPATIAL[-ndim:]
    return f"[{', '.join(('batch', *spatial, channels) if channels_last else ('batch', channels, *spatial))}]"


def rank(function: str, name: str, value: jax.Array, axes: str, advice: str, several: str = "") -> None:
    """Requires value to have the rank that the axes spell, as in "[batch, width, in]"; `several` is more advice if it has more."""
    expected = axes.count(",") + 1
    if value.ndim != expected:
        advice += several if value.ndim > expected else ""
        raise error(ValueError, function, f"{name} must have rank {expected}, {axes}", f"{name}.shape", value.shape, advice)


SEVERAL_FILTERS = ", or map over several filters with jax.vmap"


def same_dtype(function: str, x_name: str, x: jax.Array, w_name: str, w: jax.Array) -> None:
    """Requires the dtype of w to be that of x: nothing is promoted."""
    if x.dtype != w.dtype:
        rule = f"{x_name} and {w_name} must have one dtype and {x_name} has {x.dtype}"
        advice = "convert one of them; nothing is promoted to a wider dtype"
        raise error(TypeError, function, rule, f"{w_name}.dtype", str(w.dtype), advice)


ALIKE = (
    ("input", "inputs", "X", "lhs", "x"),
    ("filters", "weight", "kernel", "W", "rhs", "w"),
    ("bias", "B"),
    ("strides", "stride"),
    ("dilations", "dilation", "rhs_dilation", "dilation_rate"),
    ("groups", "group", "feature_group_count"),
    ("padding", "pads", "crops"),
    ("output_shape", "output_size"),
    ("data_format", "dimension_numbers"),
)
"""The names that the conventions have for one thing, a row for each."""
_TAKEN: dict[str, set[str]] = {}
"""By module, the arguments of its functions."""


def known_keywords(name: str) -> Callable[[F], F]:
    """For a public function: it says of a keyword that it does not take what that is called there, or which module takes it."""

    def decorated(function: F) -> F:
        own = inspect.signature(function).parameters
        _TAKEN.setdefault(function.__module__.removesuffix(".tf"), set()).update(own)

        @wraps(function)
        def called(*arguments: Any, **keywords: Any) -> Any:
            for keyword in keywords:
                if keyword not in own:
                    raise _unknown(name, own, keyword, keywords[keyword])
            return function(*arguments, **keywords)

        return cast(F, called)

    return decorated


def _unknown(function: str, own: Collection[str], keyword: str, value: object) -> Exception:
    alike = {keyword}.union(*(each for each in ALIKE if keyword in each))
    here, others = alike.intersection(own), [module for module, names in _TAKEN.items() if names & alike]
    advice = f"the arguments are {', '.join(own)}"
    if here:
        advice = f"it is {here.pop()} here"
    elif others:
        advice = f"for it call {' or '.join(others)}"
    return error(TypeError, function, f"{keyword} must be the name of an argument", keyword, value, advice)


# Whose each layout is, and where it is taken as it is.
_WHOSE = {
    "tf": ("TensorFlow's and Keras's", "jaxdeconv"),
    "lax": ("lax's and Flax's", "jaxdeconv.lax"),
    "torch": ("torch's and ONNX's", "jaxdeconv.torch"),
    "equinox": ("Equinox's", "jaxdeconv.eqx"),
}


def channels_advice(
    name: str,
    shape: tuple[int, ...],
    own: str,
    channels: tuple[int, int],
    outputs: int | None,
    groups: int,
    move: str,
    otherwise: str,
) -> str:
    """What to do about a filter that is for other channels than the input has: it may be of another layout than `own`.

    Channels are those of the input and what it has along the axis where another data format has them: `move` says how to have them
    there. outputs are the output channels, where they are known.
    """
    groups = groups if isinstance(groups, int) and groups > 1 else 1
    more = f", groups={groups}" * (groups > 1)

    def layouts(inputs: int) -> dict[str, tuple[str, int]]:
        return layouts_of(shape, inputs, outputs, groups) or layouts_of(shape, inputs, None, groups)

    def converted(found: dict[str, tuple[str, int]]) -> list[str]:
        """One hint of all layouts that the shape may be of, none if there is none but `own`."""
        ways = [
            (
                f"{_WHOSE[each][0]} layout, {axes}",
                held,
                f"pass jaxdeconv.convert_filters({name}, {each!r}, {own!r}{more}), or call {_WHOSE[each][1]}",
            )
            for each, (axes, held) in found.items()
            if LAYOUTS[each] != LAYOUTS[own]
        ]
        if LAYOUTS[own] == LAYOUTS["torch"] and "equinox" in found and groups == 1:
            ways.append(("a convolution, [out, in, *k]", shape[0], f"pass jax.numpy.swapaxes({name}, 0, 1)"))
        if len(ways) == 1:
            return [f"the shape of {name} is that of {whose}: {way}" for whose, _, way in ways]
        said = "; or ".join(f"that of {whose}, with {held} output channels: {way}" for whose, held, way in ways)
        return [f"the shape of {name} may be {said}"] * bool(ways)

    here, there = map(layouts, channels)
    hints = converted(here) + [move] * any(LAYOUTS[each] == LAYOUTS[own] for each in there)
    if not hints and there:
        hints = [f"{move}, and then {hint}" for hint in converted(there)]
    inputs, held = channels[0], shape[positions(LAYOUTS[own], len(shape))["in"][0]]
    static = isinstance(inputs, int) and isinstance(held, int)
    if not hints and LAYOUTS[own].grouped == "in" and static and 0 < held < inputs and inputs % held == 0:
        hints = [f"{name} must have the input channels of all groups, {inputs}"]
    return "; ".join([otherwise, *hints])


def bias_of(function: str, value: ArrayLike | None, name: str, channels: int, x_name: str, x: jax.Array) -> jax.Array | None:
    """None, or a bias [channels] of the dtype of x."""
    if value is None:
        return None
    bias = array(function, name, value, (*FLOATS, *COMPLEX, *INTEGERS))
    same_dtype(function, x_name, x, name, bias)
    if bias.shape != (channels,):
        rule = f"{name} must have one entry for each of the {channels} output channels"
        raise error(ValueError, function, rule, f"{name}.shape", bias.shape, f"pass an array of shape ({channels},), or None")
    return bias


def kernel_size(function: str, name: str, shape: tuple[int, ...], axes: Collection[int], channel_axis: int) -> tuple[int, ...]:
    """The kernel's size, from the shape of a filter whose spatial axes these are; it and the output channels must not be empty."""
    kernel = tuple(shape[axis] for axis in axes)
    if not all(isinstance(size, int) and size > 0 for size in (*kernel, shape[channel_axis])):
        rule = f"{name} must have a static, positive kernel size and output channels"
        raise error(ValueError, function, rule, f"{name}.shape", shape, "only the input channels may be 0")
    return kernel


def choice(function: str, name: str, value: T, allowed: Collection[T], hint: str = "pass one of these") -> T:
    """Requires value to be one of the allowed ones: equal and of the same type, so that 0 is not False."""
    plain = bool(value) if isinstance(value, np.bool_) else value
    if not any(isinstance(plain, type(each)) and plain == each for each in allowed):
        wanted = " or ".join(map(repr, allowed))
        kind: ErrorType = ValueError if isinstance(value, str) else TypeError
        raise error(kind, function, f"{name} must be {wanted}", name, value, hint)
    return value


def integer(function: str, name: str, value: object, whole: object = None) -> int:
    """A static int, or a symbolic size of jax.export, from whatever can be one without loss. `whole` is what the user passed."""
    shown = value if whole is None else whole
    if isinstance(value, jax.core.Tracer):
        raise error(
            TypeError,
            function,
            f"{name} must be static, since it sets shapes",
            name,
            shown,
            "pass Python integers: from x.shape, or through static_argnames of jax.jit",
        )
    if export.is_symbolic_dim(value):  # type: ignore[arg-type]
        return value  # type: ignore[return-value]  # it has the arithmetic of an int
    rule, advice = f"{name} must be of integers", "pass Python or numpy integers"
    if is_foreign(value):
        value = host(function, name, rule, value, advice)
    scalar = isinstance(value, int | np.integer) or (
        isinstance(value, np.ndarray | jax.Array) and value.ndim == 0 and jnp.issubdtype(value.dtype, np.integer)
    )
    if isinstance(value, bool | np.timedelta64) or not scalar:  # numpy counts a timedelta64 among its integers
        raise error(TypeError, function, rule, name, shown, advice)
    return operator.index(value)  # type: ignore[arg-type]


def integers(function: str, name: str, value: object) -> tuple[int, ...]:
    """A tuple of static integers from a list, a tuple, a `tf.TensorShape`, or a concrete array of one dimension."""
    if is_foreign(value):
        value = host(function, name, f"{name} must be of integers", value, "pass Python or numpy integers")
    if has_values(value):
        values = np.asarray(value)
        if values.ndim > 1:
            raise error(ValueError, function, f"{name} must be one-dimensional", name, value, "pass a list of integers")
        entries: tuple[object, ...] = tuple(values.reshape(-1))
    elif isinstance(value, list | tuple) or (hasattr(value, "as_list") and getattr(value, "rank", None) is not None):
        entries = tuple(value)  # type: ignore[arg-type]
    else:
        return (integer(function, name, value),)
    return tuple(integer(function, name, entry, whole=value) for entry in entries)


def all_integers(function: str, arguments: Mapping[str, Any], *names: str) -> None:
    """Requires those of the arguments that are there, and not None, to be integers or sequences of them."""
    for name in names:
        if arguments.get(name) is not None:
            integers(function, name, arguments[name])


def group_count(function: str, name: str, value: object, described: str, inputs: int, outputs: int) -> int:
    """The number of groups of a layer, which divides its channels."""
    groups = integer(function, name, value)
    if groups < 1 or inputs % groups or outputs % groups:
        advice = "pass a divisor of both, 1 for no groups"
        raise error(ValueError, function, f"{name} must divide {described}", name, value, advice)
    return groups


def spatial(
    function: str, name: str, value: object, ndim: int, channels_last: bool | None = None, minimum: int = 1
) -> tuple[int, ...]:
    """One int per spatial dimension, from an int or from 1 or ndim entries.

    Where channels_last is not None, also from ndim + 2 entries in the order that it says, as TensorFlow has it.
    """
    entries = integers(function, name, value)
    lengths = sorted({1, ndim} if channels_last is None else {1, ndim, ndim + 2})
    if len(entries) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise error(ValueError, function, f"{name} must be an int or have length {wanted}", name, value, "pass an int")
    if len(entries) == ndim + 2:
        entries, others = (entries[1:-1], (entries[0], entries[-1])) if channels_last else (entries[2:], entries[:2])
        if others != (1, 1):
            letters = ", ".join("s" * ndim)
            order = f"[1, {letters}, 1] for channels last" if channels_last else f"[1, 1, {letters}] for channels first"
            rule = f"{name} must be 1 for batch and channels"
            raise error(ValueError, function, rule, name, value, f"pass an int, or {order} as data_format says")
    if not all(isinstance(entry, int) and minimum <= entry <= LARGEST for entry in entries):
        advice = "pass a positive integer" if minimum == 1 else "pass integers in this range"
        raise error(ValueError, function, f"{name} must be from {minimum} to {LARGEST}", name, value, advice)
    return entries * ndim if len(entries) == 1 else entries


def at_least(minimum: int, size: int) -> bool:
    """Whether size is; a symbolic one, for which < may raise, must be so for all that it can stand for."""
    return bool(jax.core.max_dim(size, minimum) == size)


def symbolic_advice(sizes: Collection[int]) -> str:
    """What to add to an advice on sizes that may be too small, where one of them is symbolic."""
    symbolic = not all(isinstance(size, int) for size in sizes)
    return "; for a symbolic size, jax.export.symbolic_shape takes constraints such as 'w >= 8'" * symbolic

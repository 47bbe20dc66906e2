"""tune: the transposed convolutions of a function, measured on the device at hand by every lowering that can compute them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _jaxprs, _options
from jaxdeconv._canonicalize import error
from jaxdeconv._contractions import OPERANDS, TARGETS, Array, Contracted, Form, case_of, choices_of, contract, device
from jaxdeconv._executed import recording
from jaxdeconv._lowerings import Contraction, Name
from jaxdeconv._measure import difference, medians, ready, tolerance
from jaxdeconv._select import able, estimate
from jaxdeconv._tuning import Case, Measured, Tuning

FAR = 20  # What is estimated to take more than so many times as long as the fastest is not tried,
WITHIN = 2  # and what takes more than so many times as long is timed once.


def tune(
    function: Callable[..., Any],
    *arguments: Any,
    contractions: Collection[Contraction] = get_args(Contraction),
    thorough: bool = False,
    rounds: int = 5,
    progress: bool | Callable[[str], object] = True,
    **keywords: Any,
) -> Tuning:
    """Measures which lowerings are the fastest for the transposed convolutions of a function, on the device at hand.

    The function is traced, not run. Those of its transposed convolutions that name no implementation are found wherever they are, in
    jitted functions and loops too, and in a function of `accelerate` what it replaces. The op and both of its gradients are timed,
    whether the function takes gradients or not, by every lowering that can compute them, each alone and jitted, on random operands.
    Results are compared: what differs beyond rounding is reported and not taken. The choice by estimate is kept unless another one
    is more than 3% faster.

    It uses the first device of `jax.devices()`. What is found holds for this kind of device, and for these sizes; of a call under
    `jax.vmap`, for those of the whole batch, unless the filter is mapped, too: then for those of one element.

    Args:
        function: any function of arrays that JAX can trace, its arguments pytrees.
        *arguments: its arguments. Arrays may be `jax.ShapeDtypeStruct`s.
        contractions: which to measure, of "transpose", "input_grad" and "filter_grad".
        thorough: whether to try what is estimated to take more than 20 times as long as the fastest, too.
        rounds: how often each is timed, in alternation; the median counts.
        progress: whether to write a line to standard error before each measurement; or a function, which is given it.
        **keywords: keyword arguments of the function. Those of the names above, bind with `functools.partial`.

    Returns:
        A `Tuning`, to be used with `jaxdeconv.defaults(tuning=...)` and kept with its `save`. `print` shows what is gained.

    Raises:
        ValueError: there is no transposed convolution of this package in the function, all name an implementation or have symbolic
            sizes, or there is no such contraction.
        TypeError: an argument of the wrong type; and where the function raises.

    Gradients:
        None. A tuning changes no gradient but by rounding.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdeconv
        >>> def loss(w, x):
        ...     return jnp.mean(jaxdeconv.conv1d_transpose(x, w, None, 2) ** 2)
        >>> w, x = jnp.ones((4, 16, 16)), jnp.ones((1, 20, 16))
        >>> tuning = jaxdeconv.tune(loss, w, x, rounds=1, progress=False)
        >>> len(tuning.entries)  # T, C and F
        3
        >>> with jaxdeconv.defaults(tuning=tuning):
        ...     gradient = jax.jit(jax.grad(loss))(w, x)
    """
    name = "tune"
    if not callable(function):
        advice = "pass a function of jax arrays, and its arguments"
        raise error(TypeError, name, "function must be callable", "function", function, advice)
    if isinstance(contractions, str) or not contractions:
        advice = "pass a tuple, as ('transpose',)"
        raise error(ValueError, name, "contractions must be a collection of names", "contractions", contractions, advice)
    for each in contractions:
        canonicalize.choice(name, "contractions", each, get_args(Contraction))
    canonicalize.choice(name, "thorough", thorough, (False, True))
    if canonicalize.integer(name, "rounds", rounds) < 1:
        raise error(ValueError, name, "rounds must be positive", "rounds", rounds, "pass 5")
    if not callable(progress):
        canonicalize.choice(name, "progress", progress, (False, True), "or pass a function of a text")
    say = progress if callable(progress) else _on_standard_error if progress else lambda text: None

    cases: dict[Case, Contracted] = {}
    for form in _forms(function, *arguments, **keywords):
        for found in _contractions_of(form):
            if found.contraction in contractions:
                cases.setdefault(case_of(found.contraction, found.sizes, found.dtype), found)
    entries = {}
    for number, (case, found) in enumerate(cases.items(), 1):
        say(f"tune: {number} of {len(cases)}, {case.contraction} of {case.op}")
        with jax.default_device(jax.devices()[0]):
            entries[case] = _measured(found, thorough, rounds)
    return Tuning(entries)


def load_tuning(path: str | os.PathLike[str]) -> Tuning:
    """Reads what `Tuning.save` has written.

    What applies no longer, since a lowering has another name or cannot compute it any more, stays in the table and is not used.

    Args:
        path: of the file.

    Raises:
        ValueError: the file cannot be read, or is none that `Tuning.save` wrote.
        TypeError: path is no path.

    Examples:
        >>> import tempfile
        >>> import jaxdeconv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     jaxdeconv.Tuning().save(f"{folder}/tuning.json")
        ...     jaxdeconv.load_tuning(f"{folder}/tuning.json")
        Tuning(<0 entries>)
    """
    if not isinstance(path, str | os.PathLike):
        raise error(TypeError, "load_tuning", "path must be a string or a path", "path", path, "pass that of what Tuning.save wrote")
    return _options.tuning_of("load_tuning", "path", os.fspath(path), again=True)


def _on_standard_error(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _forms(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Iterable[Form]:
    """Those of a call's transposed convolutions that are to be measured, each once, in the order of the program.

    Raises:
        ValueError: there is none, and why.
    """
    with _options.defaults(tuning=Tuning()), recording() as executed:  # what is estimated without, and no file is needed
        program, _, _ = _jaxprs.traced(function, *arguments, **keywords)
        every = [each.contracted for each in executed(program)]
    found = [each for each in every if each.choices]
    unnamed = [each for each in found if each.form.options.implementation is None]
    forms = dict.fromkeys(each.form for each in unnamed if _is_static(each.form))
    if not forms:
        rule = "function must compute a transposed convolution of this package"
        advice = "pass one that does; of code that calls lax or another package, pass jaxdeconv.accelerate(function)"
        if every:
            rule = "function must compute a transposed convolution that has something to compute, and all are empty"
            advice = "pass arrays of the sizes to measure"
        if unnamed:
            rule = "function must compute a transposed convolution whose sizes are known, and those of all are symbolic"
            advice = "pass arrays of the sizes to measure"
        elif found:
            rule = "function must compute a transposed convolution that names no implementation, and all name one"
            advice = "leave out implementation=, and jaxdeconv.defaults(implementation=)"
        raise error(ValueError, "tune", rule, "function", function, advice)
    return forms


def _is_static(form: Form) -> bool:
    return all(isinstance(size, int) for array in _arrays(form).values() for size in array.shape)


def _contractions_of(form: Form) -> list[Contracted]:
    """The op and both gradients, as the choice sees them; of integers, which have no gradients, the op."""
    arrays = _arrays(form)
    targets = "yxw" if jnp.issubdtype(form.x.dtype, jnp.inexact) else "y"

    def computed(target: str) -> list[Contracted]:
        like: list[Any] = [jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype) for name in OPERANDS[target]]  # type: ignore[no-untyped-call]
        with recording() as executed:
            return [each.contracted for each in executed(jax.make_jaxpr(_computed(target, form))(*like))]

    return [found for target in targets for found in computed(target)]


def _arrays(form: Form) -> dict[str, Array]:
    return {"x": form.x, "w": form.w, "y": form.y}


def _computed(target: str, form: Form) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda lhs, rhs: contract(target, dict(zip(OPERANDS[target], (lhs, rhs), strict=True)), form)


def _operands(target: str, form: Form) -> list[jax.Array]:
    """Random ones."""
    rng = np.random.default_rng(0)

    def drawn(shape: tuple[int, ...], dtype: Any) -> Any:
        if jnp.issubdtype(dtype, jnp.integer):
            return rng.integers(-3, 4, shape).astype(dtype)
        real = rng.standard_normal(shape, np.float32)
        return (real + 1j * rng.standard_normal(shape, np.float32) if np.dtype(dtype).kind == "c" else real).astype(dtype)

    arrays = _arrays(form)
    return [jnp.asarray(drawn(arrays[name].shape, arrays[name].dtype)) for name in OPERANDS[target]]


def _measured(found: Contracted, thorough: bool, rounds: int) -> Measured:
    """One contraction by all lowerings that are worth it."""
    platform, _ = device()
    contraction, sizes, dtype, form, _ = found
    target = TARGETS[contraction]
    estimated = choices_of(contraction, sizes, form.options._replace(tuning=None), dtype)[platform]
    able_here = able(contraction, sizes, platform, form.options.axes, measured=True)
    estimates = {name: estimate(name, contraction, sizes, platform) for name in able_here}
    tried = [name for name in able_here if thorough or estimates[name] <= FAR * min(estimates.values())]
    # What the others are compared with comes first.
    names: dict[Name, None] = dict.fromkeys(name for name in ("dilated", estimated) if name in (*tried, estimated))
    names |= dict.fromkeys(tried)
    operands = _operands(target, form)
    runs: dict[str, Callable[[], Any]] = {}
    refused: dict[str, str] = {}
    expected = None
    for name in names:
        named = form._replace(options=form.options._replace(tuning=None, implementation=name))
        run = partial(ready, jax.jit(_computed(target, named)), *operands)
        try:
            result = np.asarray(run())
        except jax.errors.JaxRuntimeError as failure:  # out of memory, say
            refused[name] = str(failure).partition("\n")[0]
            continue
        expected = result if expected is None else expected
        if difference(result, expected) <= tolerance(dtype, platform):
            runs[name] = run
        else:  # which what is no number does, too
            refused[name] = f"it differs by {difference(result, expected):.1e} of the largest value"
    return Measured(estimated, tuple(medians(runs, rounds, WITHIN).items()), tuple(refused.items()))

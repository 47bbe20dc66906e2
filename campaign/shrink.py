"""Makes a failing case small, and prints it as code that runs by itself."""

import re
import time

from campaign import calls, expected
from campaign.case import Case
from campaign.transforms import TRANSFORMS, shapes

SECONDS = 60


def signature(what):
    """The part of a failure's text that others like it share."""
    return re.sub(r"[-+]?\d[\d.e+-]*|\[.*?\]|\(.*?\)", "#", what.split("\n")[0])[:60]


def _leaves(value, path=()):
    """(path, int) of all integers in nested tuples, lists and dicts."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(entry, (*path, key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _leaves(entry, (*path, index))


def _replaced(value, path, new):
    if not path:
        return new
    if isinstance(value, dict):
        return value | {path[0]: _replaced(value[path[0]], path[1:], new)}
    entries = [_replaced(entry, path[1:], new) if i == path[0] else entry for i, entry in enumerate(value)]
    return tuple(entries) if isinstance(value, tuple) else entries


def _set(case, changes):
    fields = case._asdict()
    for path, new in changes:
        fields = _replaced(fields, path, new)
    return Case(**fields)


def _simpler(number):
    """Values closer to the simplest one."""
    if number in (0, 1):
        return []
    steps = [1, number // 2, number - 1] if number > 0 else [0, -(-number // 2), number + 1]
    return list(dict.fromkeys(step for step in steps if step != number))


def _first(case):
    given = case.keywords
    if case.front in ("tf", "sharded", "keras"):
        return (given.get("data_format") or "N").lower().startswith(("nc", "channels_first"))
    return case.front in ("torch", "onnx")


def _without_dimension(case, i):
    """The case without its spatial dimension i, where that is easily said; None where it is not."""
    n = len(case.w) - 2
    if n < 2 or case.front in ("layers", "sharded"):
        return None
    given = {}
    if case.front == "lax" and (numbers := case.keywords.get("dimension_numbers")):
        letter = [c for c in numbers[1] if c not in "OI"][i]
        drop_x, drop_w = numbers[0].index(letter), numbers[1].index(letter)
        given["dimension_numbers"] = tuple(spec.replace(letter, "") for spec in numbers)
    else:
        drop_x = len(case.x) - n + i if _first(case) else 1 + i
        drop_w = (2 if case.front in ("torch", "onnx") else 0) + i
    for name, value in case.keywords.items():
        if isinstance(value, list | tuple) and name != "dimension_numbers":
            drops = {n: [i], n + 2: [(2 if _first(case) else 1) + i]}
            if name == "pads":
                drops = {2 * n: [i, n + i]}
            if len(value) in drops:
                given[name] = type(value)(entry for at, entry in enumerate(value) if at not in drops[len(value)])
        elif name == "data_format" and case.front == "tf":
            given[name] = None if not _first(case) else "NC" + "DHW"[4 - n :]
    function = case.function.replace(str(n), str(n - 1))
    x = tuple(size for axis, size in enumerate(case.x) if axis != drop_x)
    w = tuple(size for axis, size in enumerate(case.w) if axis != drop_w)
    return case._replace(x=x, w=w, function=function, keywords=case.keywords | given)


def _candidates(case):
    """Simpler cases, the boldest first; many have no meaning."""
    plain = "vjp" if case.differentiable else "primal"
    if case.transform != plain:
        yield case._replace(transform=plain)
        if case.transform == "vmapped primal":
            return
    for change in ({"dtype": "float32"}, {"x64": False}, {"exact": True}, {"b": None}):
        if any(getattr(case, name) != value for name, value in change.items()) and (case.dtype[-2:] == "32" or "x64" not in change):
            yield case._replace(**change)
    for name in case.keywords:
        yield case._replace(keywords={key: value for key, value in case.keywords.items() if key != name})
    for i in range(len(case.w) - 2):
        if (smaller := _without_dimension(case, i)) is not None:
            yield smaller
    leaves = [(path, number) for path, number in _leaves({key: case._asdict()[key] for key in ("x", "w", "b", "keywords")})]
    for number in sorted({number for _, number in leaves}, reverse=True):  # all that are equal, as channels are
        for new in _simpler(number):
            yield _set(case, [(path, new) for path, other in leaves if other == number])
    for path, number in leaves:
        for new in _simpler(number):
            yield _set(case, [(path, new)])
    for at, (path, number) in enumerate(leaves):
        for other_path, other in leaves[at + 1 :]:
            if number == other:
                for new in _simpler(number):
                    yield _set(case, [(path, new), (other_path, new)])
            if number > 1 and other > 1:
                yield _set(case, [(path, number - 1), (other_path, other - 1)])
    for path, number in leaves:  # the same number everywhere is simplest
        if number not in (0, 1) and path[0] == "x":
            yield from (_set(case, [(path, new)]) for new in (2, 3) if number > new)


def _understood(case):
    """Whether the campaign knows what to expect of a candidate; it need not have a meaning."""
    try:
        expected.window(case)
    except expected.MeaninglessError:
        return True
    except Exception:  # a keyword is gone that is not optional, say
        return False
    return True


def shrink(case, kind, what, failure):
    """(case, kind, what) of the simplest case found that fails in the same way; `failure(case)` is None or a kind and a text."""
    alone = failure(case)
    if alone is None:
        return case, f"{kind}, but not alone", what
    kind, what = alone
    like = signature(what) if kind == "exception" else kind
    end, tried = time.monotonic() + SECONDS, set()
    progress = True
    while progress and time.monotonic() < end:
        progress = False
        for candidate in _candidates(case):
            if candidate.text in tried or not _understood(candidate) or time.monotonic() > end:
                continue
            tried.add(candidate.text)
            found = failure(candidate)
            if found is not None and found[0] == kind and (kind != "exception" or signature(found[1]) == like):
                case, what, progress = candidate, found[1], True
                break
    return case, kind, what


def _array(name, case, shape):
    dtype = case.result_dtype if name[0] == "g" else case.dtype
    real = f"rng.integers(-3, 4, {shape})" if case.exact or not case.differentiable else f"rng.standard_normal({shape})"
    if dtype.startswith("complex"):
        real = f"({real} + 1j * {real})"
    return f"{real}.astype({dtype!r})" if dtype != "bfloat16" else f'{real}.astype(jnp.dtype("bfloat16"))'


def code(case, kind, what):
    """A program that shows the failure."""
    try:
        names = shapes(case, expected.window(case).y_shape)
    except expected.MeaninglessError:
        names = {name: shape for name, shape in (("x", case.x), ("w", case.w), ("b", case.b)) if shape is not None}
    if case.wrong:
        names = {name: shape for name, shape in (("x", case.x), ("w", case.w), ("b", case.b)) if shape is not None}
    module = calls.module(case)
    lines = [
        f"# {kind}: " + what.strip().split("\n")[0][:300],
        "import jax",
        "import jax.numpy as jnp",
        "import numpy as np",
        f"import {module}",
    ]
    lines += ['jax.config.update("jax_enable_x64", True)'] * case.x64 + ["", "rng = np.random.default_rng(0)"]
    lines += [f"{name} = {_array(name, case, shape)}" for name, shape in names.items()]
    primal = [name for name in ("x", "w", "b") if name in names]
    if case.front == "layers" or case.mesh or case.wrong or case.transform not in ("vjp", "primal", "eager"):
        # The campaign's own words for how it is called.
        lines += ["", "from campaign import calls, worker", "from campaign.case import Case", f"case = {case!r}"]
        if case.mesh:
            lines += [f"print(worker.sharded(case, dict({', '.join(f'{name}={name}' for name in names)})))  # of 8 devices"]
        elif case.wrong:
            lines += ["print(worker.refused(case))"]
        else:
            lines += [f"arrays = dict({', '.join(f'{name}={name}' for name in names)})"]
            lines += ["print(jax.jit(worker.program(case, calls.ours(case)))(arrays))"]
        return "\n".join(lines)
    given = ", ".join(f"{name}={value!r}" for name, value in case.keywords.items())
    lines += ["", "", f"def f({', '.join(primal)}):", f"    return {module}.{case.function}({', '.join(primal)}, {given})", "", ""]
    if TRANSFORMS[case.transform].names == "x w b" or "g" not in names:
        lines += [f"print(f({', '.join(primal)}))"]
    else:
        lines += [
            "@jax.jit",
            f"def run({', '.join(primal)}, g):",
            f"    y, pull = jax.vjp(f, {', '.join(primal)})",
            "    return y, *pull(g)",
            "",
            "",
        ]
        lines += [f"print(run({', '.join(primal)}, g))"]
    return "\n".join(lines)

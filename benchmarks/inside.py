"""Inside programs as users write them: loops and branches, remat, forward mode, derivatives of second and third order.

Three questions: how much longer a step takes inside than alone, and than lax's inside; how `forward_mode=True` compares with the
better of lax and the default; how derivatives of higher order compare with lax's. Each result is compared with lax's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.compare import TOLERANCE, progress
from benchmarks.layers import Layer
from benchmarks.peers import lax_transposed, operands, transposed
from benchmarks.tables import geometric_mean, milliseconds, ratio, table
from benchmarks.timing import alternate, medians

Op = Callable[[jax.Array, jax.Array], jax.Array]
Pair = tuple[jax.Array, jax.Array]
STEPS = 4  # of a loop


def _loss(op: Op) -> Op:
    return lambda x, w: jnp.mean(op(x, w) ** 2)


def _gradient(op: Op) -> Callable[[jax.Array, jax.Array], Pair]:
    return jax.grad(_loss(op), (0, 1))


def _stepped(x: jax.Array, w: jax.Array, gradient: Pair) -> Pair:
    return x - 1e-3 * gradient[0], w - 1e-3 * gradient[1]


def _train(op: Op) -> Callable[[jax.Array, jax.Array], Pair]:
    return lambda x, w: _stepped(x, w, _gradient(op)(x, w))


def _remat(op: Op) -> Op:
    return jax.checkpoint(op)


def _scanned(step: Callable[[jax.Array, jax.Array], Pair]) -> Callable[[jax.Array, jax.Array], Pair]:
    return lambda x, w: lax.scan(lambda both, _: (step(*both), None), (x, w), None, length=STEPS)[0]


def _forward(op: Op) -> Callable[[jax.Array, jax.Array], Pair]:
    """A pass that the next can follow, so that it can stand in a loop."""
    return lambda x, w: (x + 1e-3 * jnp.mean(op(x, w)), w)


class Program(NamedTuple):
    """What is made of the op, and how many times the op is in it."""

    build: Callable[[Op], Callable[[jax.Array, jax.Array], Any]]
    steps: int = 1
    alone: str = ""  # the program of one step, for those with several


ALONE = {"train": Program(_train), "forward": Program(_forward)}
LOOPS = {
    "train in scan": Program(lambda op: _scanned(_train(op)), STEPS, "train"),
    "train in fori_loop": Program(
        lambda op: lambda x, w: lax.fori_loop(0, STEPS, lambda _, both: _train(op)(*both), (x, w)), STEPS, "train"
    ),
    "train in map": Program(
        lambda op: lambda x, w: lax.map(lambda scale: _gradient(op)(scale * x, w), jnp.linspace(0.5, 1.5, STEPS)), STEPS, "train"
    ),
    "train in cond": Program(
        lambda op: lambda x, w: lax.cond(jnp.sum(x[:1, :1]) < 1e9, _train(op), lambda x, w: (x, w), x, w), 1, "train"
    ),
    "train with remat in scan": Program(lambda op: _scanned(_train(_remat(op))), STEPS, "train"),
    "gradient of scan": Program(
        lambda op: jax.grad(
            lambda x, w: lax.scan(lambda total, _: (total + _loss(op)((1 + 1e-3 * total) * x, w), None), 0.0, None, length=STEPS)[0],
            (0, 1),
        ),
        STEPS,
        "train",
    ),
    "forward in scan": Program(lambda op: _scanned(_forward(op)), STEPS, "forward"),
}


def _tangents(op: Op) -> Callable[[jax.Array, jax.Array], Any]:
    return lambda x, w: jax.jvp(op, (x, w), (0.5 * x, 0.5 * w))


def _gradient_of_tangent(op: Op) -> Callable[[jax.Array, jax.Array], Pair]:
    """As MeanFlow and score matching take it."""
    return jax.grad(lambda x, w: jnp.mean(jax.jvp(lambda x: op(x, w), (x,), (0.5 * x,))[1] ** 2), (0, 1))


def _penalty(op: Op) -> Op:
    """The squared norm of the gradient, as WGAN-GP and R1 take it."""
    return lambda x, w: sum(jnp.sum(each**2) for each in _gradient(op)(x, w))


MODES = {
    "gradient": Program(_gradient),
    "gradient with remat": Program(lambda op: _gradient(_remat(op))),
    "gradients in scan": Program(lambda op: _scanned(_train(op)), STEPS),
    "jvp": Program(_tangents),
    "jvp of vmap": Program(
        lambda op: lambda x, w: jax.vmap(lambda scale: _tangents(op)(scale * x, w))(jnp.linspace(0.5, 1.5, 3, dtype=x.dtype))
    ),
    "linearize": Program(lambda op: lambda x, w: jax.linearize(op, x, w)[1](0.5 * x, 0.5 * w)),
    "linear_transpose": Program(
        lambda op: lambda x, w: jax.linear_transpose(lambda x: op(x, w), x)(jnp.full_like(jax.eval_shape(op, x, w), 0.5))
    ),
    "gradient of jvp": Program(_gradient_of_tangent),
    "gradient of jvp in scan": Program(lambda op: _scanned(lambda x, w: _stepped(x, w, _gradient_of_tangent(op)(x, w))), STEPS),
    "jvp of gradient": Program(lambda op: lambda x, w: jax.jvp(_gradient(op), (x, w), (0.5 * x, 0.5 * w))),
    "gradient of gradient": Program(lambda op: jax.grad(_penalty(op), (0, 1))),
    "gradients of gradients in scan": Program(
        lambda op: _scanned(lambda x, w: _stepped(x, w, jax.grad(_penalty(op), (0, 1))(x, w))), STEPS
    ),
}


HIGHER = {
    "gradient of gradient": Program(lambda op: jax.grad(_penalty(op), (0, 1))),
    "gradient of gradient by x": Program(lambda op: jax.grad(lambda x, w: jnp.sum(jax.grad(_loss(op))(x, w) ** 2), (0, 1))),
    "jvp of gradient": Program(lambda op: lambda x, w: jax.jvp(_gradient(op), (x, w), (0.5 * x, 0.5 * w))),
    "third order": Program(
        lambda op: jax.grad(lambda x, w: sum(jnp.sum(each**2) for each in jax.grad(_penalty(op), (0, 1))(x, w)), (0, 1))
    ),
}
KINDS = {"loops": ALONE | LOOPS, "modes": MODES, "higher": HIGHER}


def _ops(kind: str, layer: Layer) -> dict[str, Op]:
    """Of x, and w [*k, O / G, I]: jaxdeconv, lax, and jaxdeconv in forward mode where that is asked."""
    n, theirs = layer.ndim, lax_transposed(layer)

    def by_lax(x: jax.Array, w: jax.Array) -> jax.Array:  # its layout, [*k, I / G, O], of [*k, O / G, I]
        w = jnp.flip(w, range(n))
        parts = jnp.split(w, layer.groups, n + 1)
        return theirs(x, jnp.concatenate([jnp.swapaxes(part, n, n + 1) for part in parts], n + 1))

    ops = {"jaxdeconv": transposed(layer), "lax": by_lax}
    return ops | {"forward_mode": transposed(layer, forward_mode=True)} if kind == "modes" else ops


REFUSED = ("jvp", "jvp of vmap", "linearize", "linear_transpose", "gradient of jvp", "gradient of jvp in scan")
"""By JAX, of a function with a custom_vjp."""


def _measured(kind: str, layer: Layer, rounds: int) -> dict[str, Any]:
    """Of each program: seconds for each use of the op, temporaries in bytes, and how far results are from lax's."""
    x, w, _ = map(jnp.asarray, operands(layer))
    callables: dict[str, Callable[[], object]] = {}
    programs: dict[str, Any] = {}
    for title, program in KINDS[kind].items():
        results: dict[str, Any] = {}
        row: dict[str, Any] = {"seconds": {}, "temporaries": {}}
        for name, op in _ops(kind, layer).items():
            if kind == "modes" and name == "jaxdeconv" and title in REFUSED:
                continue
            compiled = jax.jit(program.build(op)).lower(x, w).compile()
            row["temporaries"][name] = compiled.memory_analysis().temp_size_in_bytes
            results[name] = jax.block_until_ready(compiled(x, w))
            callables[f"{title}|{name}"] = lambda compiled=compiled: jax.block_until_ready(compiled(x, w))
        expected = results.pop("lax")
        row["difference"] = max(difference(expected, each) for each in results.values())
        programs[title] = row
    for key, seconds in medians(alternate(callables, rounds)).items():
        title, name = key.split("|")
        programs[title]["seconds"][name] = seconds / KINDS[kind][title].steps
    return {"layer": layer._asdict(), "programs": programs}


def difference(expected: Any, actual: Any) -> float:
    """Of the largest value."""
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True)
    return max(float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) + 1e-30)) for a, b in pairs)


def compare_inside(layers: Sequence[Layer], rounds: int) -> dict[str, Any]:
    """The record: {"inside": {kind: [{"layer", "programs": {title: {"seconds", "temporaries", "difference"}}}, ...]}}."""
    record: dict[str, Any] = {}
    for kind in KINDS:
        record[kind] = []
        for index, layer in enumerate(layers):
            start = time.perf_counter()
            record[kind].append(_measured(kind, layer, rounds))
            progress(index, len(layers), f"{kind} {layer.name} {time.perf_counter() - start:.1f} s")
    return {"inside": record}


def inside_mismatches(record: Mapping[str, Any], accuracy: str) -> list[str]:
    """Higher orders are sums of sums: ten times what one contraction may be off."""
    return [
        f"{case['layer']['name']}, {title}: lax differs by {row['difference']:.1e} of the largest value"
        for cases in record["inside"].values()
        for case in cases
        for title, row in case["programs"].items()
        if not row["difference"] <= 10 * TOLERANCE[accuracy]
    ]


def inside_report(record: Mapping[str, Any]) -> str:
    """A table for each question: means over the layers, and the worst layer: where inside takes longest, and the other least."""
    headers = {
        "loops": ["program", "ms a step", "inside / alone", "worst", "lax / ours", "worst"],
        "modes": ["program", "ms", "the better of lax and the default / forward_mode", "worst"],
        "higher": ["program", "ms", "lax / ours", "worst", "temporaries: lax / ours", "worst"],
    }

    def summary(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> list[str]:
        return [ratio(geometric_mean(values)), ratio(worst(values))]

    tables = []
    for kind, cases in record["inside"].items():
        rows = []
        for title, program in KINDS[kind].items():
            seconds = [case["programs"][title]["seconds"] for case in cases]
            ours = "forward_mode" if kind == "modes" else "jaxdeconv"
            row = [title, milliseconds(geometric_mean([each[ours] for each in seconds]))]
            if kind == "loops":
                alone = [case["programs"][program.alone or title]["seconds"][ours] for case in cases]
                inside = [each[ours] / single for each, single in zip(seconds, alone, strict=True)]
                row += summary(inside, max) if program.alone else ["", ""]
            others = [min(value for name, value in each.items() if name != ours) for each in seconds]
            row += summary([other / each[ours] for each, other in zip(seconds, others, strict=True)], min)
            if kind == "higher":
                held = [case["programs"][title]["temporaries"] for case in cases]
                row += summary([(each["lax"] + SMALL) / (each[ours] + SMALL) for each in held], min)
            rows.append(row)
        tables.append(table(headers[kind], rows))
    return "\n\n".join(tables)


SMALL = 2**17  # bytes, below which temporaries do not matter

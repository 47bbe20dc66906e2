"""Transformations of a call: which operands each takes, what it does in JAX, and what it must give by the oracle's sums.

A transformation has `lead`, the leading sizes it adds to operands; `run(f, **operands)`, a list of arrays; and
`expected(sums, **operands)`, the same list in numpy. All terms of `expected` are sums of products with a plus, so that it also bounds
rounding errors, given the absolute values of the operands. Operands: x, w and b of the call; g, its cotangent; xt, wt, bt, gt,
tangents of these; u, v, t, cotangents of the cotangents of x, w, b.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.export
import numpy as np
from jax import lax

N = 2  # of what is mapped over


class Transform(NamedTuple):
    """See above. `names` are of the operands, b and its like only where the call has a bias."""

    run: Callable
    expected: Callable
    names: str = "x w b g"
    lead: dict[str, tuple[int, ...]] = {}  # noqa: RUF012
    eager: bool = False
    constants: bool = False  # the operands are constants of the program, which XLA may fold
    forward_mode: bool = False  # needs it
    weight: float = 1.0
    once: bool = False  # each result is rounded once
    dtypes: str = "rddd"  # of each result: r for that of the call's result, d for that of its operands


def _p(o, names="x w b"):
    return tuple(o[name] for name in names.split() if name in o)


def _vjp(f, **o):
    y, pull = jax.vjp(f, *_p(o))
    return [y, *pull(o["g"])]


def _vjp_expected(sums, **o):
    return [sums.y(*_p(o)), *sums.pull(_p(o), o["g"])]


def _checkpoint(f, **o):
    return _vjp(jax.checkpoint(f), **o)


def _cond(f, **o):
    def g(*p):
        return lax.cond(p[0].real.sum() < 1e9, f, lambda *p: 2 * f(*p), *p)

    return _vjp(g, **o)


def _vmapped(f, mapped, **o):
    names = list(o)
    return jax.vmap(lambda *values: _vjp(f, **dict(zip(names, values, strict=True))), [0 if n in mapped else None for n in names])(
        *o.values()
    )


def _each(o, mapped):
    size = max(len(o[name]) for name in mapped)
    return [{name: value[i] if name in mapped else value for name, value in o.items()} for i in range(size)]


def _vmapped_expected(sums, mapped, **o):
    return [np.stack(rows) for rows in zip(*(_vjp_expected(sums, **each) for each in _each(o, mapped)), strict=True)]


def _of_vmapped(f, mapped, **o):
    """The vjp of a vmap: operands that are not mapped get the sum of their cotangents."""
    axes = [0 if name in mapped else None for name in ("x", "w", "b") if name in o]
    return _vjp(jax.vmap(f, axes), **o)


def _summed_expected(sums, mapped, **o):
    parts = [_vjp_expected(sums, **each) for each in _each(o, mapped)]
    names = ["y", *(name for name in ("x", "w", "b") if name in o)]
    return [
        np.stack(rows) if name == "y" or name in mapped else np.sum(rows, 0)
        for name, rows in zip(names, zip(*parts, strict=True), strict=True)
    ]


def _outer(f, **o):
    """Every input with every filter."""

    def g(x, w, *b):
        return jax.vmap(lambda w: jax.vmap(lambda x: f(x, w, *b))(x))(w)

    return _vjp(g, **o)


def _outer_expected(sums, **o):
    rows = []
    for j in range(N):
        rows.append([_vjp_expected(sums, **o | {"x": o["x"][i], "w": o["w"][j], "g": o["g"][j, i]}) for i in range(N)])
    y = np.stack([np.stack([part[0] for part in row]) for row in rows])
    dx = np.stack([np.sum([rows[j][i][1] for j in range(N)], 0) for i in range(N)])
    dw = np.stack([np.sum([part[2] for part in row], 0) for row in rows])
    return [y, dx, dw, *([np.sum([part[3] for row in rows for part in row], 0)] if "b" in o else [])]


def _map(f, **o):
    """A loop over inputs, with one filter."""
    return _vjp(lambda x, *rest: lax.map(lambda x: f(x, *rest), x), **o)


def _scan(f, **o):
    """A loop over filters, with one input."""

    def g(x, w, *b):
        return lax.scan(lambda carry, w: (carry, f(x, w, *b)), 0, w)[1]

    return _vjp(g, **o)


def _jvp(f, **o):
    return list(jax.jvp(f, _p(o), _p(o, "xt wt bt")))


def _jvp_expected(sums, **o):
    tangent = sums.product(o["xt"], o["w"]) + sums.product(o["x"], o["wt"])
    return [sums.y(*_p(o)), tangent + sums.spread(o["bt"]) if "bt" in o else tangent]


def _linear_transpose(f, **o):
    bias = _p(o, "b")
    return [
        *jax.linear_transpose(lambda x: f(x, o["w"], *(0 * b for b in bias)), o["x"])(o["g"]),
        *jax.linear_transpose(lambda w: f(o["x"], w, *(0 * b for b in bias)), o["w"])(o["g"]),
    ]


def _linear_transpose_expected(sums, **o):
    return sums.pull((o["x"], o["w"]), o["g"])


def _pulled(f, p, g):
    return jax.vjp(f, *p)[1](g)


def _forward_over_reverse(f, **o):
    return list(jax.jvp(partial(_pulled, f), (_p(o), o["g"]), (_p(o, "xt wt bt"), o["gt"]))[1])


def _forward_over_reverse_expected(sums, **o):
    x, w, *b = _p(o)
    cx, fw = sums.input_grad(o["g"], o["wt"], x.shape), sums.filter_grad(o["xt"], o["g"], w.shape)
    gx, gw, *gb = sums.pull((x, w, *b), o["gt"])
    return [cx + gx, fw + gw, *gb]


def _reverse_over_reverse(f, **o):
    _, pull = jax.vjp(partial(_pulled, f), _p(o), o["g"])
    p, g = pull(_p(o, "u v t"))
    return [p[0], p[1], g]  # that of the bias is zero


def _reverse_over_reverse_expected(sums, **o):
    x, w, g, u, v = (o[name] for name in ("x", "w", "g", "u", "v"))
    y = sums.product(u, w) + sums.product(x, v)
    return [sums.input_grad(g, v, x.shape), sums.filter_grad(u, g, w.shape), y + sums.spread(o["t"]) if "t" in o else y]


def _reverse_over_forward(f, **o):
    """The gradient, by the operands, of a tangent."""
    _, pull = jax.vjp(lambda *p: jax.jvp(f, p, _p(o, "xt wt bt"))[1], *_p(o))
    return list(pull(o["g"]))[:2]  # that of the bias is zero


def _reverse_over_forward_expected(sums, **o):
    return [sums.input_grad(o["g"], o["wt"], o["x"].shape), sums.filter_grad(o["xt"], o["g"], o["w"].shape)]


def _export(f, **o):
    """Written to bytes and read again, for three platforms."""
    exported = jax.export.export(jax.jit(lambda o: _vjp(f, **o)), platforms=("cpu", "cuda", "tpu"))(o)
    return jax.export.deserialize(exported.serialize()).call(o)


def _symbolic(f, **o):
    """The same with all sizes of x symbolic that the call can have so. With none, or if no input reaches y, as they are."""
    shaped = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in _p(o)]

    def with_symbols(axes):
        names = [f"s{axis}" for axis in axes]
        sizes = jax.export.symbolic_shape(", ".join(names), constraints=[f"s{axis} >= {o['x'].shape[axis]}" for axis in axes])
        shape = [sizes[axes.index(axis)] if axis in axes else size for axis, size in enumerate(o["x"].shape)]
        return [jax.ShapeDtypeStruct(shape, o["x"].dtype), *shaped[1:]]

    def can(axes):
        try:
            return jax.eval_shape(f, *with_symbols(axes)) is not None
        except Exception as error:  # channels, a size of the output that was given, or sizes of which none reaches an output
            if type(error).__name__ not in ("ValueError", "InconclusiveDimensionOperation"):  # whose place differs by version
                raise
            return False

    axes = [axis for axis, size in enumerate(o["x"].shape) if size > 0 and can([axis])]
    reached = f(*(np.full_like(a, name != "b") for name, a in zip("xwb", _p(o), strict=False)))
    if not axes or not can(axes) or not np.any(reached):
        return _export(f, **o)
    p = with_symbols(axes)
    g = jax.ShapeDtypeStruct(jax.eval_shape(f, *p).shape, o["g"].dtype)

    def vjp(p, g):
        y, pull = jax.vjp(f, *p)
        return [y, *pull(g)]

    exported = jax.export.export(jax.jit(vjp), platforms=("cpu", "cuda", "tpu"))(tuple(p), g)
    return jax.export.deserialize(exported.serialize()).call(_p(o), o["g"])


def _shard_map(f, **o):
    """Over one device: with the types of many, of which the first axis of x may be cut."""
    mesh, cut = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("a",)), jax.sharding.PartitionSpec("a")
    specs = {name: cut if name in "xg" else jax.sharding.PartitionSpec() for name in o}
    mapped = jax.shard_map(
        lambda o: _vjp(f, **o), mesh=mesh, in_specs=(specs,), out_specs=[cut, cut] + [jax.sharding.PartitionSpec()] * (len(o) - 2)
    )
    return mapped(o)


def _primal(f, **o):
    return [f(*_p(o))]


def _primal_expected(sums, **o):
    return [sums.y(*_p(o))]


def _vmapped_primal(f, **o):
    return [jax.vmap(f, [0, 0, None][: len(_p(o))])(*_p(o))]


def _vmapped_primal_expected(sums, **o):
    return [np.stack([sums.y(*_p(each)) for each in _each(o, "xw")])]


def _lead(names):
    return dict.fromkeys(names, (N,))


def _pair(run, expected, mapped, **more):
    return Transform(partial(run, mapped=mapped), partial(expected, mapped=mapped), lead=_lead(mapped + "g"), **more)


_TANGENTS = "x w b xt wt bt"

DIFFERENTIABLE = {
    "vjp": Transform(_vjp, _vjp_expected, once=True, weight=60),
    "eager": Transform(_vjp, _vjp_expected, once=True, eager=True, weight=0.7),
    "disable_jit": Transform(_vjp, _vjp_expected, once=True, eager=True, weight=0.3),
    "checkpoint": Transform(_checkpoint, _vjp_expected, once=True, weight=2),
    "constants": Transform(_vjp, _vjp_expected, constants=True, once=True, weight=1),
    "cond": Transform(_cond, _vjp_expected, once=True, weight=2),
    "shard_map": Transform(_shard_map, _vjp_expected, once=True, weight=2),
    "export": Transform(_export, _vjp_expected, once=True, eager=True, weight=0.7),
    "symbolic export": Transform(_symbolic, _vjp_expected, once=True, eager=True, weight=0.7),
    "vmap of vjp, x": _pair(_vmapped, _vmapped_expected, "xg", once=True, weight=3),
    "vmap of vjp, w": _pair(_vmapped, _vmapped_expected, "wg", once=True, weight=2),
    "vmap of vjp, x and w": _pair(_vmapped, _vmapped_expected, "xwg", once=True, weight=4),
    "vjp of vmap, x": _pair(_of_vmapped, _summed_expected, "xg", weight=3),
    "vjp of vmap, w": _pair(_of_vmapped, _summed_expected, "wg", weight=3),
    "vjp of vmap, x and w": _pair(_of_vmapped, _summed_expected, "xwg", weight=3),
    "vjp of vmap of vmap": Transform(_outer, _outer_expected, lead={"x": (N,), "w": (N,), "g": (N, N)}, weight=2),
    "vjp of map": Transform(_map, partial(_summed_expected, mapped="xg"), lead=_lead("xg"), weight=2),
    "vjp of scan": Transform(_scan, partial(_summed_expected, mapped="wg"), lead=_lead("wg"), weight=2),
    "jvp": Transform(_jvp, _jvp_expected, _TANGENTS, forward_mode=True, dtypes="rr", weight=2),
    "reverse over forward": Transform(
        _reverse_over_forward, _reverse_over_forward_expected, _TANGENTS + " g", forward_mode=True, dtypes="dd", weight=2
    ),
    "linear_transpose": Transform(_linear_transpose, _linear_transpose_expected, forward_mode=True, dtypes="dd", weight=1.5),
    "forward over reverse": Transform(
        _forward_over_reverse, _forward_over_reverse_expected, _TANGENTS + " g gt", dtypes="ddd", weight=2
    ),
    "reverse over reverse": Transform(_reverse_over_reverse, _reverse_over_reverse_expected, "x w b g u v t", dtypes="ddr", weight=2),
}
INTEGERS = {
    "primal": Transform(_primal, _primal_expected, "x w b", once=True, weight=4),
    "vmapped primal": Transform(_vmapped_primal, _vmapped_primal_expected, "x w b", _lead("xw"), once=True),
}
TRANSFORMS = DIFFERENTIABLE | INTEGERS
LIKE = {"xt": "x", "u": "x", "wt": "w", "v": "w", "bt": "b", "t": "b", "gt": "g"}


def shapes(case, y_shape):
    """The shapes of a case's operands, by name."""
    transform = TRANSFORMS[case.transform]
    own = {"x": case.x, "w": case.w, "g": y_shape} | ({} if case.b is None else {"b": case.b})
    wanted = {name: own.get(LIKE.get(name, name)) for name in transform.names.split()}
    return {name: (*transform.lead.get(name, ()), *shape) for name, shape in wanted.items() if shape is not None}

"""Sizes past limits of kernels that XLA on CPU has had wrong: reductions of broadcasts, products with vectors of more than 16384
entries, also under `jax.vmap`, and sums of products of rank 7 and 8, as blocks of three dimensions have. As users run them: in a
process of its own, in float32, with default settings."""

import subprocess
import sys

import numpy as np

from campaign import oracle  # that of this folder takes long for these

LAYERS = [  # batch, size, in, out, kernel, strides, groups
    (1, (16500,), 1, 1, (4,), (2,), 1),
    (2, (20000,), 1, 8, (3,), (1,), 1),
    (1, (2,), 20000, 3, (2,), (2,), 1),
    (1, (1,), 17000, 1, (1,), (1,), 1),
    (1, (1,), 1, 17000, (3,), (3,), 1),
    (1, (130, 130), 1, 1, (4, 4), (2, 2), 1),
    (1, (3, 3), 17000, 2, (2, 2), (2, 2), 1),
    (1, (26, 26, 26), 1, 1, (4, 4, 4), (2, 2, 2), 1),
    (2, (9, 13, 17), 3, 1, (3, 3, 3), (2, 2, 2), 1),
    (1, (2, 2, 2), 17000, 2, (2, 2, 2), (2, 2, 2), 1),
    (1, (17000,), 4, 4, (4,), (2,), 4),
    (1, (12, 12, 12), 8, 8, (2, 2, 2), (2, 2, 2), 2),
    (1, (90, 90), 6, 6, (4, 4), (2, 2), 6),
]
RUN = """
import sys
import jax, jax.numpy as jnp, numpy as np
import jaxdeconv

given, results = np.load(sys.argv[1]), {}
for number in range(int(given["layers"])):
    x, w, bias, strides = (given[f"{name}{number}"] for name in ("x", "w", "bias", "strides"))
    shape = tuple(given[f"shape{number}"])

    def op(x, w, shape=shape, strides=tuple(map(int, strides))):
        return jaxdeconv.conv_transpose(x, w, shape, strides, groups=shape[-1] // w.shape[-2])

    losses = {
        "mean of squares": lambda x, w, b: jnp.mean(op(x, w) ** 2),
        "sum": lambda x, w, b: jnp.sum(op(x, w)),
        "sum of squares, bias": lambda x, w, b: jnp.sum((op(x, w) + b) ** 2),
        "sum, both mapped": lambda x, w, b: jnp.sum(jax.vmap(op)(jnp.stack([x, 2 * x]), jnp.stack([w, w / 4]))),
    }
    results[f"y {number}"] = jax.jit(op)(x, w)
    for name, loss in losses.items():
        value, (dx, dw, db) = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, w, bias)
        results |= {f"{name} {number}": value, f"{name}, dx {number}": dx, f"{name}, dw {number}": dw, f"{name}, db {number}": db}
np.savez(sys.argv[2], **results)
"""


def expected(x, w, bias, g_of, shape, strides, groups):
    """y, both gradients, and the cotangent that they are for, a function of y."""
    crops = [max((n - 1) * s + k - m, 0) // 2 for n, s, k, m in zip(x.shape[1:-1], strides, w.shape[:-2], shape[1:-1], strict=True)]
    window = strides, (1,) * len(strides), crops, groups
    y = oracle.transpose(x, w, shape[1:-1], *window)
    g = g_of(y, bias)
    return y, oracle.input_grad(g, w, x.shape[1:-1], *window), oracle.filter_grad(x, g, w.shape[:-2], *window), g


def close(actual, right, scale, name):
    assert actual.shape == np.shape(right), name
    assert np.max(np.abs(actual - right)) <= 1e-4 * scale, name


def test_past_the_limits(tmp_path):
    rng = np.random.default_rng(0)
    given = {"layers": len(LAYERS)}
    for number, (batch, size, inputs, outputs, kernel, strides, groups) in enumerate(LAYERS):
        shape = (batch, *(n * s for n, s in zip(size, strides, strict=True)), outputs)
        given |= {f"x{number}": rng.standard_normal((batch, *size, inputs), np.float32), f"shape{number}": shape}
        given |= {f"w{number}": rng.standard_normal((*kernel, outputs // groups, inputs), np.float32), f"strides{number}": strides}
        given |= {f"bias{number}": rng.standard_normal(outputs, np.float32)}
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", RUN, tmp_path / "given.npz", tmp_path / "found.npz"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")

    cotangents = {
        "mean of squares": lambda y, bias, whole: 2 * y / whole,
        "sum": lambda y, bias, whole: np.ones_like(y),
        "sum of squares, bias": lambda y, bias, whole: 2 * (y + bias),
    }
    for number, (*_, strides, groups) in enumerate(LAYERS):
        x, w, bias = (np.float64(given[f"{name}{number}"]) for name in ("x", "w", "bias"))
        shape = given[f"shape{number}"]
        for name, of_y in cotangents.items():

            def g_of(y, bias, of_y=of_y, shape=shape):
                return of_y(y, bias, np.prod(shape))

            y, dx, dw, g = expected(x, w, bias, g_of, shape, strides, groups)
            value = {"mean of squares": np.mean(y**2), "sum": np.sum(y)}.get(name, np.sum((y + bias) ** 2))
            of_bias = np.sum(g, tuple(range(y.ndim - 1))) if "bias" in name else np.zeros(bias.shape)
            close(found[f"y {number}"], y, np.max(np.abs(y)), f"y {number}")
            close(found[f"{name} {number}"], value, np.sum(np.abs(y)) if name == "sum" else value, f"{name} {number}")
            for which, right in (("dx", dx), ("dw", dw), ("db", of_bias)):
                close(
                    found[f"{name}, {which} {number}"], right, np.max(np.abs(right)) + np.max(np.abs(g)), f"{name}, {which} {number}"
                )
            if name == "sum":  # mapped: of x and w, and of 2 x and w / 4
                mapped = "sum, both mapped"
                close(found[f"{mapped} {number}"], 1.5 * value, np.sum(np.abs(y)), mapped)
                close(found[f"{mapped}, dx {number}"], 1.5 * dx, np.max(np.abs(dx)), mapped)
                close(found[f"{mapped}, dw {number}"], 1.5 * dw, np.max(np.abs(dw)), mapped)

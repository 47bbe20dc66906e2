"""Windows that few ask for: more cropped than a tap reaches, extended at one end and cropped at the other, no longer than the stride.

XLA on CPU computes a convolution from memory that was never written where its low padding is negative and its high one positive, and
its simplifier ends the process on some that are not padded. So no program of ours has either, and what the calls of users give is
checked as they run them: in a process of its own, with default settings, and with junk in memory.
"""

import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import get_args

import cases
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from test_implementations import MIXTURES, SETS, names_of, sizes_of, within

import jaxdeconv
import jaxdeconv.lax
from jaxdeconv import _call
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Contraction, Platform, unable

ODD = {  # of issues, by what is odd
    "cropped by more than a tap reaches": layers.Layer(4, (6,), 3, 2, (5,), (2,), (1,), ((6, 2),)),
    "the same in one dimension of two": layers.Layer(4, (6, 6), 3, 2, (5, 5), (2, 2), (1, 1), ((6, 2), (6, 2))),
    "extended and cropped": layers.Layer(8, (16,), 8, 8, (3,), (1,), (1,), ((-2, 2),)),
    "extended and cropped by one": layers.Layer(2, (16,), 8, 8, (2,), (2,), (1,), ((-1, 1),)),
    "cropped and extended": layers.Layer(2, (16,), 8, 8, (2,), (2,), (1,), ((1, -1),)),
    "taps apart, inputs dropped and zeros added": layers.Layer(3, (5,), 4, 2, (1,), (5,), (1,), ((3, -4),)),
    "most inputs dropped": layers.Layer(3, (7,), 4, 2, (3,), (2,), (2,), ((11, -3),)),
    "no input is left": layers.Layer(2, (3,), 4, 2, (2,), (1,), (1,), ((5, -8),)),
    "as long as the stride, not padded": layers.Layer(2, (2, 6), 3, 4, (4, 2), (2, 2), (1, 1), ((2, 1), (1, 1))),
    "the same with filters and inputs exchanged": layers.Layer(2, (2, 5), 3, 4, (6, 2), (2, 1), (1, 2), ((2, 1), (1, 1))),
    "an output as long as the stride": layers.Layer(2, (3, 1), 3, 4, (4, 5), (2, 1), (1, 1), ((3, 3), (1, 1))),
}


def test_the_interior_is_what_meets():
    """Crops that no padding of a convolution, of its gradients or of theirs makes negative; nothing that meets is left out."""
    for w, k, s, d in itertools.product((1, 2, 3, 6), (1, 2, 4), (1, 2, 5), (1, 2)):
        for lo, hi in itertools.product(range(-2 * s, k * d + 3 * s), repeat=2):
            whole = Geometry((k,), (s,), (d,), ((lo, hi),), 1, channels_last=True)
            length = whole.output_shape((1, w, 1), (k, 1, 1))[1]
            landing = {(n, j): n * s + j * d - lo for n in range(w) for j in range(k)}
            pairs = {pair for pair, m in landing.items() if 0 <= m < length}
            inside = whole.interior((w,))
            if length < 1 or inside is None:
                assert length < 1 or not pairs
                continue
            ((first, last),), ((tap, after_taps),), ((before, after),) = inside[1:]
            kept, (kernel,), ((crop_lo, crop_hi),) = w - first - last, inside.geometry.kernel, inside.geometry.crops
            assert kernel == k - tap - after_taps
            assert all(0 <= crop <= min((kernel - 1) * d, (kept - 1) * s) for crop in (crop_lo, crop_hi))
            assert min(first, last, tap, after_taps, before, after) >= 0
            assert pairs <= set(itertools.product(range(first, w - last), range(tap, k - after_taps)))
            assert before + after + inside.geometry.output_shape((1, kept, 1), (kernel, 1, 1))[1] == length
            assert landing[first, tap] == before - crop_lo


def equations(jaxpr):
    """All of a jaxpr, and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def check_convolutions(function, *operands):
    """None of its program has a negative padding, or is taken for another one by XLA; how many there are."""
    found = [
        each.params | {"window": each.invars[1].aval.shape}
        for each in equations(jax.make_jaxpr(function)(*operands).jaxpr)
        if str(each.primitive) == "conv_general_dilated"
    ]
    for each in found:
        sizes = [each["window"][axis] for axis in each["dimension_numbers"].rhs_spec[2:]]
        rows = zip(sizes, each["padding"], each["window_strides"], each["lhs_dilation"], each["rhs_dilation"], strict=True)
        for size, pads, stride, spread, dilation in rows:
            assert min(pads) >= 0, each
            assert (spread, stride, dilation, *pads) != (size, size - 1, 1, 0, 0) or len(sizes) == 1, each
    return len(found)


CHECKED = {**SETS, "odd": list(ODD.values())}


@pytest.mark.parametrize("name", [*get_args(jaxdeconv.Implementation), MIXTURES])
@pytest.mark.parametrize("which", CHECKED)
def test_no_convolution_is_one_that_xla_gets_wrong(which, name):
    """Of any lowering on any platform."""
    convolutions = 0
    for layer in CHECKED[which]:
        x, w, g = layer.operands()
        if (sizes := sizes_of(layer)) is None:
            continue
        pairs = {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}
        each = itertools.product(get_args(Contraction), get_args(Platform), names_of(name, layer))
        for contraction, platform, own in each:
            if unable(own, contraction, sizes) is None:
                keywords = {"layer": layer, "name": own, "platform": platform, "precision": None, "preferred_element_type": x.dtype}
                convolutions += check_convolutions(partial(within, contraction, **keywords), *pairs[contraction])
    mixed = name == MIXTURES and any(len(layer.spatial) > 1 for layer in CHECKED[which])
    assert (convolutions > 0) == (mixed or name in ("dilated", "polyphase"))


@pytest.mark.parametrize("which", cases.sampled(["odd", *SETS], 3))
@pytest.mark.parametrize("forward_mode", cases.sampled([True, False], 2))
def test_nor_one_that_jax_derives(which, forward_mode):
    """Gradients and their gradients, of "dilated" and a few mixtures by name, with what JAX makes of it by transposing."""
    named = [(layer, "dilated") for layer in CHECKED[which]]
    named += [(layer, name) for layer in CHECKED[which][::3] for name in names_of(MIXTURES, layer, 1)]
    for layer, name in named:
        x, w, _ = layer.operands()
        options = _call.Options("f", "f", x.dtype, implementation=name, forward_mode=forward_mode)

        def loss(x, w, layer=layer, options=options):
            return jnp.sum(jnp.sin(_call.conv_transpose(x, w, Geometry(*layer.window), options)))

        def of_gradients(x, w, loss=loss):
            return sum(jnp.sum(jnp.sin(each)) for each in jax.grad(loss, (0, 1))(x, w))

        assert check_convolutions(jax.grad(of_gradients, (0, 1)), x, w) >= 3 * (sizes_of(layer) is not None)


CALLS = """
import sys
sys.path.insert(0, {tests!r})
import jax, jax.numpy as jnp, numpy as np
import jaxdeconv, jaxdeconv.lax, jaxdeconv.onnx
from jaxdeconv import _call
from jaxdeconv._geometry import Geometry
from layers import Layer
from test_implementations import MIXTURES, names_of

def junk():
    kept = [np.full(2**size, 1e30, np.float32) for size in range(4, 20) for _ in range(6)]
    del kept

def check(run, layer, x, w, g, to_w=lambda w: w):
    expected_y, expected_dx, expected_dw = layer.expected(*(np.float64(each) for each in (x, w, g)))
    junk()
    y, vjp = jax.vjp(jax.jit(run), x, to_w(w))
    junk()
    dx, dw = jax.jit(vjp)(g)
    for actual, right in ((y, expected_y), (dx, expected_dx), (dw, to_w(expected_dw))):
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-4, err_msg=str(layer))

def every(layer, seed):
    x, w, g = layer.operands(seed, np.float32)
    how = [(None, False), ("dilated", False), ("dilated", True), ("polyphase", seed % 2 == 0)]
    how += [(name, seed % 2 == 1) for name in names_of(MIXTURES, layer, 1)]
    for name, forward_mode in how:
        options = _call.Options("f", "f", x.dtype, implementation=name, forward_mode=forward_mode)
        check(lambda x, w: _call.conv_transpose(x, w, Geometry(*layer.window), options), layer, x, w, g)

for seed, layer in enumerate({odd!r}):
    every(layer, seed)

layer = Layer(4, (6,), 3, 2, (5,), (2,), (1,), ((6, 2),))
x, w, g = layer.operands(0, np.float32)
check(lambda x, w: jaxdeconv.lax.conv_transpose(x, w, (2,), [(-2, 2)], transpose_kernel=True), layer, x, w, g)
first = layer._replace(channels_last=False)
swapped = np.moveaxis(x, 1, 2).copy(), w, np.moveaxis(g, 1, 2).copy()
run = lambda x, w: jaxdeconv.onnx.conv_transpose(x, w, strides=[2], pads=[6, 2])
check(run, first, *swapped, to_w=lambda w: w.transpose(2, 1, 0))
layer = Layer(4, (6, 6), 3, 2, (5, 5), (2, 2), (1, 1), ((6, 2), (6, 2)))
padding = [[0, 0], [6, 2], [6, 2], [0, 0]]
check(lambda x, w: jaxdeconv.conv2d_transpose(x, w, (4, 7, 7, 2), 2, padding), layer, *layer.operands(0, np.float32))
print("right")
"""


def test_odd_calls_as_users_make_them():
    """Values and both gradients, with every lowering and in either mode."""
    code = CALLS.format(tests=str(Path(__file__).parent), odd=list(ODD.values()))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "right\n"), found.stderr[-2000:]


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_nothing_meets_in_a_shard_map(dtype):
    """The zeros vary over the axes that x does, as a convolution's result would, and XLA survives the sum of complex ones."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("a",))
    x, w = jnp.ones((2, 2, 1), dtype), jnp.ones((1, 1, 1), dtype)

    def gradients(x, w):
        y, pull = jax.vjp(lambda x, w: jaxdeconv.lax.conv_transpose(x, w, (2,), [(-1, -1)]), x, w)
        return y, *pull(x[:, :1])

    specs = jax.sharding.PartitionSpec("a"), jax.sharding.PartitionSpec()
    results = jax.jit(jax.shard_map(gradients, mesh=mesh, in_specs=specs, out_specs=(specs[0], *specs)))(x, w)
    assert [each.shape for each in results] == [(2, 1, 1), (2, 2, 1), (1, 1, 1)]
    assert not any(map(np.any, results))

"""vmap over inputs, filters, both and nested, with every in_axes, and its compositions with grad.

Over both operands, contractions that CPU otherwise computes by convolutions are computed by matrix products: a convolution would get
a group for each element of the batch.
"""

import re
import subprocess
import sys

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv
from jaxdeconv import _contractions

SAMPLES = [
    cases.Case(2, 4, 3, 2, 3, 2, 1, 1, "SAME", "NWC", 7),
    cases.Case(1, 3, 4, 6, 4, 2, 2, 2, "VALID", "NCW", 11),
    cases.Case(2, 3, 3, 3, 3, 2, 1, 3, "SAME", "NWC", 6),
]
samples = pytest.mark.parametrize("case", cases.sampled(SAMPLES, 2), ids=str)


def op(case, **keywords):
    return lambda x, w: jaxdeconv.conv1d_transpose(x, w, **case.keywords, **keywords)


def stacked(case, count):
    return [np.stack(each) for each in zip(*(case.operands(seed) for seed in range(count)), strict=True)]


def gradients(function):
    """y and both cotangents as one function, so that vmap goes through the rules."""

    def run(x, w, g):
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(g)

    return run


def close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, strict=True), actual, expected)


def loop(case, xs, ws, gs):
    each = [gradients(op(case))(x, w, g) for x, w, g in zip(xs, ws, gs, strict=True)]
    return tuple(np.stack(results) for results in zip(*each, strict=True))


@samples
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_both(case, axis):
    xs, ws, gs = stacked(case, 3)
    moved = [np.moveaxis(each, 0, axis) for each in (xs, ws, gs)]
    close(jax.vmap(gradients(op(case)), in_axes=axis)(*moved), loop(case, xs, ws, gs))


@samples
@pytest.mark.parametrize(("x_axis", "w_axis"), [(0, None), (3, None), (None, 0), (None, 3), (2, 1), (0, 3)])
def test_one_or_mixed_axes(case, x_axis, w_axis):
    xs, ws, gs = stacked(case, 3)
    repeated = [np.stack([each[0]] * 3) if axis is None else each for each, axis in ((xs, x_axis), (ws, w_axis))]
    moved = [each[0] if axis is None else np.moveaxis(each, 0, axis) for each, axis in ((xs, x_axis), (ws, w_axis))]
    close(jax.vmap(gradients(op(case)), in_axes=(x_axis, w_axis, 0))(*moved, gs), loop(case, *repeated, gs))


@samples
def test_nested(case):
    """A table over every input and every filter."""
    xs, ws, _ = stacked(case, 3)
    table = jax.vmap(jax.vmap(op(case), (None, 0)), (0, None))(xs, ws)
    assert table.shape[:2] == (3, 3)
    for i in range(3):
        for j in range(3):
            np.testing.assert_allclose(table[i, j], op(case)(xs[i], ws[j]), rtol=1e-12, atol=1e-12)


@samples
def test_out_axes_and_forward_mode(case):
    xs, ws, _ = stacked(case, 3)
    expected = np.stack([op(case)(x, w) for x, w in zip(xs, ws, strict=True)], axis=2)
    np.testing.assert_allclose(jax.vmap(op(case, forward_mode=True), out_axes=2)(xs, ws), expected, rtol=1e-12, atol=1e-12)


@samples
def test_vmap_of_grad_and_grad_of_vmap(case):
    xs, ws, _ = stacked(case, 3)

    def loss(x, w):
        return jnp.sum(jnp.sin(op(case)(x, w)))

    expected = [jax.grad(loss, (0, 1))(x, w) for x, w in zip(xs, ws, strict=True)]
    expected = tuple(np.stack(each) for each in zip(*expected, strict=True))
    close(jax.vmap(jax.grad(loss, (0, 1)))(xs, ws), expected)
    close(jax.grad(lambda xs, ws: jax.vmap(loss)(xs, ws).sum(), (0, 1))(xs, ws), expected)
    shared = jax.grad(lambda w: jax.vmap(loss, (0, None))(xs, w).sum())(ws[0])
    np.testing.assert_allclose(shared, sum(jax.grad(loss, 1)(x, ws[0]) for x in xs), rtol=1e-11, atol=1e-11)


def test_per_example_gradients_of_a_shared_filter():
    case = SAMPLES[0]
    xs, ws, gs = stacked(case, 4)
    per_example = jax.vmap(lambda x, g: jax.vjp(lambda w: op(case)(x, w), ws[0])[1](g)[0])(xs, gs)
    for x, g, dw in zip(xs, gs, per_example, strict=True):
        np.testing.assert_allclose(dw, case.expected(x, ws[0], g)[2], rtol=1e-12, atol=1e-12)


def test_vmap_of_nothing():
    case = SAMPLES[0]
    x, w, _ = case.operands()
    assert jax.vmap(op(case), (0, None))(np.zeros((0, *x.shape)), w).shape == (0, *case.output_shape)


# Over both operands. Sizes as small as CPU takes convolutions for: T by "dilated", by "polyphase" in each layout, and C and F.


CONVOLVED = {
    "stride 1": ((8, 16, 8), (3, 8, 8), (8, 16, 8), 1, "NWC"),
    "1-D": ((4, 32, 16), (4, 8, 16), (4, 64, 8), 2, "NWC"),
    "2-D": ((4, 6, 6, 8), (4, 4, 4, 8), (4, 12, 12, 4), 2, "NHWC"),
    "NCHW": ((4, 8, 6, 6), (4, 4, 4, 8), (4, 4, 12, 11), 2, "NCHW"),
    "groups": ((4, 6, 6, 8), (4, 4, 4, 8), (4, 12, 12, 8), 2, "NHWC"),
}
convolved = pytest.mark.parametrize("layer", cases.sampled(CONVOLVED.values(), 2), ids=CONVOLVED)
QUICK = {"xla_backend_optimization_level": 0}  # to compile, which takes the time


@pytest.fixture(autouse=True, scope="module")
def convolutions_are_chosen():
    """On CPU, where products of such small sizes would be: what is exchanged for products under a vmap over both."""
    estimated = _contractions.select

    def select(contraction, sizes, platform, axes=0, differentiated=False):
        if platform != "cpu":
            return estimated(contraction, sizes, platform, axes)
        return "polyphase" if contraction == "transpose" and max(sizes.geometry.strides) > 1 else "dilated"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_contractions, "select", select)
        jax.clear_caches()  # of what was traced by another choice
        yield
    jax.clear_caches()


def op_of(layer, **keywords):
    _, (*_, outs, _), y, strides, layout = layer
    groups = y[1 if layout == "NCHW" else -1] // outs
    return lambda x, w: jaxdeconv.conv_transpose(x, w, y, strides, data_format=layout, groups=groups, **keywords)


def loss_of(layer):
    return lambda x, w: jnp.sum(jnp.sin(op_of(layer)(x, w)))


def chosen_on_cpu(layer):
    x, w = (jax.ShapeDtypeStruct(shape, np.float32) for shape in layer[:2])
    found = jaxdeconv.explain(op_of(layer), x, w)
    return {contraction: chosen["cpu"] for contraction, chosen in found.lowerings.items()}


def batches(layer, *count, seed=0):
    """Of x, w and g; in float32, because CPU convolves no others fast."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((*count, *shape)).astype(np.float32) for shape in layer[:3]]


def near(actual, expected):
    """To within what rounding does to the largest."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), strict=True), actual, expected)


def agree(vmapped, single, *operands):
    """The one, of all operands at once, is the other of each, stacked."""

    def looped(*operands):
        each = [single(*(operand[index] for operand in operands)) for index in range(len(operands[0]))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    together = jax.jit(lambda *operands: (vmapped(*operands), looped(*operands)), compiler_options=QUICK)
    near(*together(*operands))


def test_the_small_sizes_are_convolved():
    chosen = [chosen_on_cpu(layer) for layer in CONVOLVED.values()]
    for each in chosen:
        assert each["input_grad"] in ("dilated", "polyphase")
    assert {"dilated", "polyphase"} <= {each["transpose"] for each in chosen}
    assert "dilated" in {each["filter_grad"] for each in chosen}


@convolved
def test_values_and_gradients_over_both(layer):
    """As lax's convolutions have them, one at a time."""
    xs, ws, gs = batches(layer, 3)
    agree(jax.vmap(gradients(op_of(layer))), gradients(op_of(layer, implementation="dilated")), xs, ws, gs)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 0, -1), (-1, -1, 0)])
def test_axes_of_both(axes):
    layer = CONVOLVED["stride 1"]
    operands = batches(layer, 3)

    def vmapped(*operands):
        moved = [jnp.moveaxis(each, 0, axis) for each, axis in zip(operands, axes, strict=True)]
        y, dx, dw = jax.vmap(gradients(op_of(layer)), in_axes=axes, out_axes=axes)(*moved)
        return tuple(jnp.moveaxis(each, axis, 0) for each, axis in zip((y, dx, dw), axes, strict=True))

    agree(vmapped, gradients(op_of(layer)), *operands)


@pytest.mark.parametrize("layer", [CONVOLVED["stride 1"], CONVOLVED["NCHW"]], ids=["stride 1", "NCHW"])
def test_second_derivatives_over_both(layer):
    xs, ws, _ = batches(layer, 2)
    us, vs, _ = batches(layer, 2, seed=1)
    gradient = jax.grad(loss_of(layer), (0, 1))

    def along(x, w, u, v):
        dx, dw = gradient(x, w)
        return jnp.vdot(dx, u) + jnp.vdot(dw, v)

    def second(x, w, u, v):
        """Reverse over reverse, and forward over reverse, which are the same product of the Hessian and (u, v)."""
        return jax.grad(along, (0, 1))(x, w, u, v), jax.jvp(gradient, (x, w), (u, v))[1]

    agree(jax.vmap(second), second, xs, ws, us, vs)
    reverse, forward = jax.jit(jax.vmap(second), compiler_options=QUICK)(xs, ws, us, vs)
    near(reverse, forward)
    # The derivative of what is vmapped, rather than the vmapped derivative.
    total = lambda xs, ws: jax.vmap(loss_of(layer))(xs, ws).sum()  # noqa: E731
    outer = jax.jit(lambda *operands: jax.jvp(jax.grad(total, (0, 1)), operands[:2], operands[2:])[1], compiler_options=QUICK)
    near(outer(xs, ws, us, vs), forward)


def test_hessian_over_both():
    layer = (4, 3, 2), (2, 2, 2), (4, 3, 2), 1, "NWC"
    assert chosen_on_cpu(layer)["input_grad"] == "dilated"
    xs, ws, _ = batches(layer, 2)
    whole = jax.hessian(loss_of(layer), 1)
    undecorated = jax.hessian(lambda x, w: jnp.sum(jnp.sin(op_of(layer, forward_mode=True)(x, w))), 1)
    agree(jax.vmap(whole), undecorated, xs, ws)


@pytest.mark.parametrize("layer", [CONVOLVED["stride 1"], CONVOLVED["2-D"]], ids=["stride 1", "2-D"])
def test_nested_vmaps(layer):
    """Filters outside and the batch inside, both in both, and one of each."""
    xs, ws, gs = batches(layer, 2, 3)
    run = gradients(op_of(layer))
    for inner, outer in [((0, None, 0), (None, 0, 0)), ((0, None, 0), (0, 0, 0)), ((None, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 0, 0))]:

        def one(index, inner=inner, outer=outer):
            """x, w, g of one element of the outer vmap."""
            picked = []
            for each, a, b in zip((xs, ws, gs), inner, outer, strict=True):
                each = each[:, 0] if a is None else each
                picked.append(each[0] if b is None else each[index])
            return picked

        operands = [np.stack(each) for each in zip(one(0), one(1), strict=True)]

        def vmapped(xs, ws, gs, inner=inner, outer=outer):
            shared = [each[0] if axis is None else each for each, axis in zip((xs, ws, gs), outer, strict=True)]
            return jax.vmap(jax.vmap(run, inner), outer)(*shared)

        def single(x, w, g, inner=inner):
            each = [run(*(a if axis is None else a[i] for a, axis in zip((x, w, g), inner, strict=True))) for i in range(3)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

        agree(vmapped, single, *operands)


def test_over_both_under_other_transformations():
    layer = CONVOLVED["stride 1"]
    xs, ws, _ = batches(layer, 3)
    gradient = jax.grad(loss_of(layer), (0, 1))
    for wrapped in (
        jax.vmap(jax.jit(gradient)),
        jax.vmap(jax.grad(jax.checkpoint(loss_of(layer)), (0, 1))),
        lambda xs, ws: jax.lax.map(lambda pair: gradient(*pair), (xs, ws), batch_size=2),
        jax.vmap(lambda x, w: jax.lax.scan(lambda carry, _: (carry, gradient(x, w)), 0, None, 1)[1]),
    ):
        agree(lambda xs, ws, wrapped=wrapped: jax.tree.map(lambda a: a.reshape(3, *a.shape[-3:]), wrapped(xs, ws)), gradient, xs, ws)


def group_counts(function, *shapes, platform="cpu"):
    """Of the convolutions in the program for this platform; nothing is compiled."""
    operands = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    text = jax.jit(function).trace(*operands).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo" in text
    return {int(count) for count in re.findall(r"(?:feature|batch)_group_count = (\d+)", text)}


PUBLISHED = {
    "HiFi-GAN": ((1, 100, 512), (16, 256, 512), (1, 800, 256), 8, "NWC"),
    "training": ((16, 2048, 128), (4, 64, 128), (16, 4096, 64), 2, "NWC"),
    "images": ((8, 64, 32, 32), (4, 4, 32, 64), (8, 32, 64, 64), 2, "NCHW"),
}


@pytest.mark.parametrize("layer", PUBLISHED.values(), ids=PUBLISHED)
def test_no_convolution_of_a_group_for_each_element(layer):
    assert {"dilated", "polyphase"} & set(chosen_on_cpu(layer).values())
    shapes = [(3, *shape) for shape in layer[:3]]
    vmapped = jax.vmap(gradients(op_of(layer)))
    for platform in ("cpu", "cuda", "tpu") if jax.__version_info__ >= (0, 10) else ("cpu",):
        assert group_counts(vmapped, *shapes, platform=platform) <= {1}
    alone = gradients(op_of(layer))
    assert group_counts(alone, *layer[:3]) == {1}  # by convolutions, then
    # Nor have second derivatives, in either mode.
    gradient, pair = jax.grad(loss_of(layer), (0, 1)), shapes[:2]
    assert group_counts(jax.vmap(lambda x, w: jax.jvp(gradient, (x, w), (x, w))[1]), *pair) <= {1}
    assert group_counts(jax.vmap(jax.grad(lambda x, w: sum(jnp.sum(jnp.sin(a)) for a in gradient(x, w)), (0, 1))), *pair) <= {1}
    # Over activations alone there is nothing to take apart in T and C: they stay convolutions, of a larger batch.
    shared = jax.vmap(lambda x, w, g: gradients(op_of(layer))(x, w, g)[:2], (0, None, 0))
    assert group_counts(shared, shapes[0], layer[1], shapes[2]) == {1}


@convolved
def test_the_named_one_stays_under_vmap(layer):
    xs, ws, gs = batches(layer, 2)
    text = cases.lowered_text(jax.jit(jax.vmap(gradients(op_of(layer, implementation="dilated")))).lower(xs, ws, gs))
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in text


NARROW = """
import jax, jax.numpy as jnp
import jaxdeconv, jaxdeconv.torch
for dtype in ("bfloat16", "float16"):
    x, w, g = jnp.ones((1, 5, 2, 2), dtype), jnp.ones((2, 5, 4, 1, 1), dtype), jnp.ones((2, 1, 4, 2, 2), dtype)
    of_torch = jax.vmap(jaxdeconv.torch.conv_transpose2d, (None, 0))
    dx, dw = jax.block_until_ready(jax.jit(lambda x, w, g: jax.vjp(of_torch, x, w)[1](g))(x, w, g))
    assert (dx == 8).all() and (dw == 4).all()
    x, w, g = jnp.ones((2, 9, 16), dtype), jnp.ones((2, 3, 4, 16), dtype), jnp.ones((2, 2, 9, 4), dtype)
    of_tf = jax.vmap(lambda x, w: jaxdeconv.conv1d_transpose(x, w, (2, 9, 4), 1), (None, 0))
    dx, dw = jax.block_until_ready(jax.jit(lambda x, w, g: jax.vjp(of_tf, x, w)[1](g))(x, w, g))
    assert (dx[:, 1:-1] == 24).all() and (dw[:, 1] == 18).all()
"""


def test_narrow_filters_mapped_as_users_run_them():
    """The filter gradient contracts over rows, for which XLA on CPU has no product of 16-bit floats; under `jax.vmap` it forgot."""
    found = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]

"""Inside programs as users write them: loops, branches, remat and its policies, both modes to third order, and `defaults`."""

import itertools
import re
import threading

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from cases import GRID, sampled
from jax import lax

import jaxdeconv
import jaxdeconv.torch

# The order of XLA's fast convolution on CPU.
IN_ORDER = re.compile(r"dim_labels=b(\d*)f_\1io->b\1f")
# n, x, w and strides: taps reach one block or several, the stride is 1 or more, channels are few or many.
LAYERS = [
    (1, (2, 40, 24), (4, 16, 24), 2),
    (1, (2, 40, 24), (5, 16, 24), 1),
    (1, (1, 30, 1), (16, 8, 1), 4),
    (2, (2, 9, 8, 16), (4, 4, 8, 16), 2),
    (2, (2, 9, 8, 16), (3, 3, 8, 16), 1),
    (3, (1, 4, 5, 3, 8), (3, 3, 3, 4, 8), 2),
]


def tf_op(layer, **keywords):
    n, _, _, stride = layer
    function = (jaxdeconv.conv1d_transpose, jaxdeconv.conv2d_transpose, jaxdeconv.conv3d_transpose)[n - 1]
    return lambda x, w: function(x, w, None, stride, "SAME", **keywords)


def lax_op(layer):
    """lax's own, of the same window."""

    def by_lax(x, w):
        n, _, (*kernel, _, _), stride = layer
        total = [max(k - stride, 0) for k in kernel]  # what SAME crops
        padding = [(k - 1 - crop // 2, k - 1 - (crop - crop // 2)) for k, crop in zip(kernel, total, strict=True)]
        letters = "DHW"[-n:]
        numbers = (f"N{letters}C", f"{letters}OI", f"N{letters}C")
        return lax.conv_general_dilated(x, jnp.flip(w, range(n)), (1,) * n, padding, (stride,) * n, (1,) * n, numbers)

    return by_lax


def torch_op(layer, **keywords):
    n, _, _, stride = layer
    function = getattr(jaxdeconv.torch, f"conv_transpose{n}d")
    return lambda x, w: function(jnp.moveaxis(x, -1, 1), jnp.transpose(w, (n + 1, n, *range(n))), None, stride, 1, **keywords)


def operands(layer, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in layer[1:3]]


def loss(op):
    return lambda x, w: jnp.mean(jnp.sin(op(x, w)))


def trained(op):
    def step(x, w):
        dx, dw = jax.grad(loss(op), (0, 1))(x, w)
        return x - dx, w - dw

    return step


def scanned(step):
    return lambda x, w: lax.scan(lambda both, _: (step(*both), None), (x, w), None, length=3)[0]


def summed(op):
    return lambda x, w: lax.scan(lambda c, _: (c + jnp.mean(jnp.sin(op(x * c, w))), None), jnp.ones((), x.dtype), None, length=3)[0]


def penalty(op):
    return jax.grad(lambda x, w: sum(jnp.sum(each**2) for each in jax.grad(loss(op), (0, 1))(x, w)), (0, 1))


def tangent(op):
    return lambda x, w: (jax.jvp(lambda x: x + jnp.sum(op(x, w)), (x,), (x,))[1], w)


def of_tangent(op):
    return jax.grad(lambda x, w: jnp.mean(jax.jvp(lambda x: op(x, w), (x,), (x,))[1] ** 2), (0, 1))


PROGRAMS = {
    "scan": lambda op: scanned(trained(op)),
    "remat in scan": lambda op: scanned(trained(jax.checkpoint(op))),
    "gradient of scan": lambda op: trained(summed(op)),
    "map": lambda op: lambda x, w: lax.map(lambda each: trained(op)(each * x, w), jnp.arange(3, dtype=x.dtype)),
    "second order in scan": lambda op: scanned(penalty(op)),
    "cond": lambda op: lambda x, w: lax.cond(jnp.sum(x) < 1e9, trained(op), lambda x, w: (x, w), x, w),
}
FORWARD = {
    "jvp in scan": lambda op: scanned(tangent(op)),
    "gradient of jvp in scan": lambda op: scanned(of_tangent(op)),
    "jvp of gradient in scan": lambda op: scanned(lambda x, w: jax.jvp(trained(op), (x, w), (x, w))[1]),
}


@pytest.mark.xfail(jax.__version_info__ < (0, 12), raises=ValueError, strict=True, reason="JAX before 0.12; docs/limitations.md")
def test_second_order_of_a_scan():
    x, w = operands(LAYERS[0])
    twice = jax.grad(jax.grad(lambda b: summed(tf_op(LAYERS[0]))(x * b, w) ** 2))
    assert np.isfinite(twice(jnp.ones((), x.dtype)))


@pytest.mark.parametrize("keywords", [{"forward_mode": True}, {"implementation": "matmul"}], ids=str)
def test_second_order_of_a_scan_otherwise(keywords):
    x, w = operands(LAYERS[0])
    theirs, ours = (
        jax.grad(jax.grad(lambda b, op=op: summed(op)(x * b, w) ** 2))(jnp.ones((), x.dtype))
        for op in (tf_op(LAYERS[0], implementation="dilated", forward_mode=True), tf_op(LAYERS[0], **keywords))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def compiled(program, ops, pairs):
    """The text of one program of a few ops, each on operands of its own."""

    def together(pairs):
        return [program(op)(*pair) for op, pair in zip(ops, pairs, strict=True)]

    return jax.jit(together).lower(pairs).compile().as_text()


IN_PROGRAMS = [(title, name) for name in (None, "dilated", "polyphase") for title in (*PROGRAMS, *FORWARD)]


@pytest.mark.parametrize("program", sampled(IN_PROGRAMS, 7), ids=str)
def test_no_convolution_out_of_order_and_no_conditional(program):
    """Where XLA computes a convolution by one scalar loop; and no platform is asked for at run time."""
    title, name = program
    keywords = {"implementation": name} | ({"forward_mode": True} if title in FORWARD else {})
    layers = LAYERS[:1] if title in FORWARD and name else LAYERS
    ops = [make(layer, **keywords) for layer in layers for make in (tf_op, torch_op)]
    pairs = [operands(layer) for layer in layers for _ in range(2)]
    text = compiled((PROGRAMS | FORWARD)[title], ops, pairs)
    convolutions = [line.strip() for line in text.splitlines() if " convolution(" in line]
    assert convolutions or name is None or title in FORWARD
    assert [line for line in convolutions if not IN_ORDER.search(line)] == []
    assert text.count(" conditional(") == (len(ops) if title == "cond" else 0)


@pytest.mark.parametrize("layer", sampled(LAYERS, 6), ids=str)
def test_values_inside(layer):
    """Each program gives what it gives of lax's own transposed convolution, here of the same window."""
    x, w = operands(layer, np.float64)
    by_lax = lax_op(layer)
    for title, program in (PROGRAMS | FORWARD).items():
        expected = jax.jit(program(by_lax))(x, w)
        for forward_mode in (True,) if title in FORWARD else (False, True):
            actual = jax.jit(program(tf_op(layer, forward_mode=forward_mode)))(x, w)
            for ours, theirs in zip(actual, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11, err_msg=f"{title} {forward_mode}")


ORDERS = [modes for order in (1, 2, 3) for modes in itertools.product(("forward", "reverse"), repeat=order)]


INNER = {"sin": jnp.sin, "linear": lambda y: y, "square": lambda y: y * y}
IN_ORDERS = [(modes, inner) for modes in ORDERS for inner in INNER]


@pytest.mark.parametrize("order", sampled(IN_ORDERS, 21), ids=str)
def test_every_order_of_both_modes(order):
    """Directional derivatives by x, by w and by both; a loss that is linear in y leaves zeros in places of JAX's rules."""
    modes, inner = order
    layer = LAYERS[0]
    x, w = (each[:2, :6, :3] for each in operands(layer, np.float64))

    def derivative(function, mode, which, direction):
        def directional(x, w):
            tangents = [d if name in which else jnp.zeros_like(d) for name, d in zip("xw", direction, strict=True)]
            if mode == "forward":
                return jax.jvp(function, (x, w), tuple(tangents))[1]
            gradients = jax.grad(function, tuple("xw".index(name) for name in which))(x, w)
            return sum(jnp.vdot(t, g) for t, g in zip([direction["xw".index(name)] for name in which], gradients, strict=True))

        return directional

    def derived(op, choice, direction):
        function = lambda x, w: jnp.sum(INNER[inner](op(x, w)))  # noqa: E731
        for mode, which in zip(reversed(modes), choice, strict=True):
            function = derivative(function, mode, which, direction)
        return function

    def every(op):
        choices = list(itertools.product(("x", "w", "xw"), repeat=len(modes)))
        run = jax.jit(lambda direction, x, w: [derived(op, choice, direction)(x, w) for choice in choices])
        return run((jnp.cos(x), jnp.cos(w)), x, w)

    def by_products(x, w):  # T(x, w) that JAX differentiates
        y = jnp.zeros((x.shape[0], 2 * x.shape[1] + w.shape[0], w.shape[1]))
        for tap in range(w.shape[0]):
            y = y.at[:, tap : tap + 2 * x.shape[1] : 2].add(x @ w[tap].T)
        crop = w.shape[0] - 2
        return y[:, crop // 2 : crop // 2 + 2 * x.shape[1]]

    expected = every(by_products)
    np.testing.assert_allclose(every(tf_op(layer, forward_mode=True)), expected, rtol=1e-10, atol=1e-10)
    if "forward" not in modes[-1:]:  # the innermost is in reverse
        np.testing.assert_allclose(every(tf_op(layer)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_linear_transposes_of_both_operands(layer):
    x, w = operands(layer, np.float64)
    op = tf_op(layer, forward_mode=True)
    y, pull = jax.vjp(op, x, w)
    np.testing.assert_allclose(jax.linear_transpose(lambda x: op(x, w), x)(y)[0], pull(y)[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(jax.linear_transpose(lambda w: op(x, w), w)(y)[0], pull(y)[1], rtol=1e-10, atol=1e-10)


def test_forward_mode_in_every_place():
    """Under vmap of one operand and of both, in a shard_map and exported, each gives what it gives of lax alone."""
    x, w = operands(LAYERS[0], np.float64)

    ours = tf_op(LAYERS[0], forward_mode=True)

    def every(x, w, op=ours):
        return [derivative(op, x, w) for derivative in derivatives]

    derivatives = [
        lambda op, x, w: jax.jvp(op, (x, w), (x, w)),
        lambda op, x, w: jax.linearize(op, x, w)[1](x, w),
        lambda op, x, w: jax.linear_transpose(lambda x: op(x, w), x)(op(x, w)),
        lambda op, x, w: of_tangent(op)(x, w),
        lambda op, x, w: jax.jvp(trained(op), (x, w), (x, w))[1],
        lambda op, x, w: jax.jacfwd(lambda t: loss(op)(t * x, t * w))(1.0),
        lambda op, x, w: jax.hessian(lambda t: loss(op)(t * x, t * w))(1.0),
    ]

    alone = jax.jit(lambda x, w: every(x, w, lax_op(LAYERS[0])))(x, w)
    mesh, spec = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("a",)), jax.sharding.PartitionSpec()
    inside = [
        jax.shard_map(every, mesh=mesh, in_specs=spec, out_specs=spec)(x, w),
        jax.export.export(jax.jit(every))(x, w).call(x, w),
        jax.tree.map(lambda a: a[1], jax.jit(jax.vmap(every, (0, None)))(jnp.stack([2 * x, x]), w)),
        jax.tree.map(lambda a: a[1], jax.jit(jax.vmap(every, (None, 0)))(x, jnp.stack([2 * w, w]))),
        jax.tree.map(lambda a: a[1], jax.jit(jax.vmap(every))(jnp.stack([2 * x, x]), jnp.stack([2 * w, w]))),
    ]
    for results in inside:
        for actual, expected in zip(jax.tree.leaves(results), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_gradients_are_rounded_once_in_forward_mode_too(dtype):
    """Sums over taps are formed before they are rounded."""
    for layer in LAYERS[:3]:
        x, w = operands(layer, dtype)
        results = [jax.vjp(tf_op(layer, forward_mode=mode), x, w) for mode in (False, True)]
        (y, pull), (_, forward_pull) = results
        for reverse, forward in zip(pull(y), forward_pull(y), strict=True):
            np.testing.assert_array_equal(reverse, forward)


def test_meanflow():
    """The loss of MeanFlow (Geng et al. 2025) on a small decoder: a gradient over a jvp, against differences."""
    rng = np.random.default_rng(0)
    z, noise = (jnp.asarray(rng.standard_normal((2, 6, 3))) for _ in range(2))
    parameters = {name: jnp.asarray(rng.standard_normal(shape)) * 0.3 for name, shape in (("w", (4, 5, 5)), ("v", (3, 3, 5)))}

    def velocity(parameters, z, r, t):
        times = jnp.broadcast_to(jnp.stack([r, t]), (*z.shape[:2], 2))
        hidden = jaxdeconv.conv1d_transpose(jnp.concatenate([z, times], -1), parameters["w"], None, 2, "SAME")
        y = jaxdeconv.conv1d_transpose(jnp.tanh(hidden), parameters["v"], None, 1, "SAME")
        return y[:, ::2]

    def target(parameters, r, t):
        moved, v = (1 - t) * z + t * noise, noise - z
        u, du = jax.jvp(lambda z, t: velocity(parameters, z, r, t), (moved, t), (v, jnp.ones(())))
        return u, v - (t - r) * du

    def meanflow(parameters, r, t):
        u, wanted = target(parameters, r, t)
        return jnp.mean((u - wanted) ** 2)  # without stop_gradient: the harder one

    with jaxdeconv.defaults(forward_mode=True):
        value = jax.jit(meanflow)
        gradient = jax.jit(jax.grad(meanflow))(parameters, 0.2, 0.7)
        for name, g in gradient.items():
            d = jnp.asarray(rng.standard_normal(g.shape))
            ahead, behind = (value(parameters | {name: parameters[name] + step * d}, 0.2, 0.7) for step in (1e-5, -1e-5))
            np.testing.assert_allclose(jnp.vdot(g, d), (ahead - behind) / 2e-5, rtol=1e-6)
    with pytest.raises(NotImplementedError) as caught:
        jax.grad(meanflow)(parameters, 0.2, 0.7)
    assert any("forward_mode=True" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("derivative", [jax.jacfwd, lambda f: lambda x: jax.jvp(f, (x,), (x,))])
def test_a_note_says_how_to_have_forward_mode(derivative):
    x, w = operands(LAYERS[0])
    with pytest.raises(TypeError, match="forward-mode") as caught:
        derivative(lambda x: tf_op(LAYERS[0])(x, w))(x)
    assert any("conv1d_transpose: pass forward_mode=True" in note for note in caught.value.__notes__)
    assert any("jaxdeconv.defaults(forward_mode=True)" in note for note in caught.value.__notes__)


def test_checkpoint_policies(capsys):
    """They find the result as they find that of lax's convolution, and by its name."""
    policies = jax.checkpoint_policies
    x, w = operands(LAYERS[3])
    y_type = f"f32[{','.join(map(str, tf_op(LAYERS[3])(x, w).shape))}]"
    for policy, found in [
        (policies.dots_saveable, True),
        (policies.dots_with_no_batch_dims_saveable, True),
        (policies.save_only_these_names("conv_transpose"), True),
        (policies.save_only_these_names("another"), False),
        (policies.nothing_saveable, False),
    ]:
        for keywords in ({}, {"forward_mode": True}, {"implementation": "matmul"}):
            op = tf_op(LAYERS[3], **keywords)
            saved = jax.checkpoint(lambda x, w, op=op: jnp.sum(jnp.sin(op(x, w))), policy=policy)
            jax.ad_checkpoint.print_saved_residuals(saved, x, w)
            assert (y_type in capsys.readouterr().out) == found


def test_what_policies_look_for_costs_nothing():
    x, w = operands(LAYERS[1])
    text = jax.jit(tf_op(LAYERS[1], implementation="dilated")).lower(x, w).compile().as_text()
    assert " convolution(" in text
    assert not re.search(r" (dot|multiply)\(", text)


def tangent_of_one(**keywords):
    x, w = operands(LAYERS[0])
    return jax.jvp(lambda x: tf_op(LAYERS[0], **keywords)(x, w), (x,), (x,))[1]


def test_default_forward_mode():
    expected = tangent_of_one(forward_mode=True)
    with jaxdeconv.defaults(forward_mode=True):
        np.testing.assert_array_equal(tangent_of_one(), expected)
        with pytest.raises(TypeError, match="forward-mode"):
            tangent_of_one(forward_mode=False)  # what is given wins
        with jaxdeconv.defaults(implementation="dilated"):
            tangent_of_one()  # nests
        with jaxdeconv.defaults(forward_mode=False), pytest.raises(TypeError, match="forward-mode"):
            tangent_of_one()
    with pytest.raises(TypeError, match="forward-mode"):
        tangent_of_one()


def test_defaults_reach_every_front_end():
    x, w = operands(LAYERS[0])
    calls = [
        lambda x: jaxdeconv.torch.conv_transpose1d(x, jnp.ones((40, 3, 2), x.dtype)),
        lambda x: jaxdeconv.onnx.conv_transpose(x, jnp.ones((40, 3, 2), x.dtype)),
        lambda x: jaxdeconv.lax.conv_transpose(x, jnp.swapaxes(w, 1, 2), (2,), "SAME"),
        lambda x: jaxdeconv.keras.conv_transpose(x, w, 2),
        lambda x: jaxdeconv.conv_transpose(x, w, None, 2),
        lambda x: jaxdeconv.streaming.step(jaxdeconv.streaming.init(w, 2, batch=2), x, w)[1],
    ]
    for call in calls:
        with jaxdeconv.defaults(forward_mode=True):
            jax.jvp(call, (x,), (x,))


def test_default_implementation():
    x, w = operands(LAYERS[0])
    named = jax.make_jaxpr(tf_op(LAYERS[0], implementation="polyphase"))(x, w)
    with jaxdeconv.defaults(implementation="polyphase"):
        assert str(jax.make_jaxpr(tf_op(LAYERS[0]))(x, w)) == str(named)
    with jaxdeconv.defaults(implementation="elementwise"), pytest.raises(ValueError, match="implementation must be able"):
        tf_op(LAYERS[0])(x, w)


def test_a_mixture_by_default():
    """As if it were given to each call: one of another number of dimensions cannot, unless another name is given to it."""
    layer = LAYERS[3]
    x, w = operands(layer)
    programs = [str(jax.make_jaxpr(tf_op(layer, implementation=name))(x, w)) for name in ("taps,phases", "polyphase", "matmul")]
    assert len(set(programs)) == 3
    with jaxdeconv.defaults(implementation="taps,phases"):
        assert str(jax.make_jaxpr(tf_op(layer))(x, w)) == programs[0]
        assert str(jax.make_jaxpr(tf_op(layer, implementation="matmul"))(x, w)) == programs[2]
        assert set(jaxdeconv.explain(tf_op(layer), x, w).lowerings["transpose"].values()) == {"taps,phases"}
        with pytest.raises(ValueError, match=r"conv1d_transpose: implementation must be able .* another number of forms .*, 1, got"):
            tf_op(LAYERS[0])(*operands(LAYERS[0]))
        tf_op(LAYERS[0], implementation="dilated")(*operands(LAYERS[0]))


def test_a_function_jitted_before_keeps_what_it_was_traced_with():
    x, w = operands(LAYERS[0])
    function = jax.jit(lambda x: tf_op(LAYERS[0])(x, w))
    function(x)
    with jaxdeconv.defaults(forward_mode=True), pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(function, (x,), (x,))


def test_defaults_are_of_one_thread_and_a_decorator():
    failed = []

    def other():
        with pytest.raises(TypeError, match="forward-mode"):
            tangent_of_one()
        failed.append(True)

    with jaxdeconv.defaults(forward_mode=True):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert failed
    jaxdeconv.defaults(forward_mode=True)(tangent_of_one)()


def test_errors_of_defaults():
    with pytest.raises(TypeError, match="defaults: forward_mode must be"), jaxdeconv.defaults(forward_mode=1):
        pass
    for name in ("fast", "taps,fast", "taps,"):
        with pytest.raises(ValueError, match="defaults: implementation must be") as caught, jaxdeconv.defaults(implementation=name):
            pass
        advice = "pass one of these, or a form for each dimension, as in 'taps,dilated'"
        assert str(caught.value).endswith(f", got implementation={name!r}; {advice}")


@pytest.mark.parametrize("first", sampled(range(0, 101, 25), 5))
def test_grid_in_a_loop(first):
    """Windows, groups and dilations of the grid: a training step in a scan gives what it gives alone, and nothing is out of order."""
    for case in GRID[first::101]:
        x, w, _ = map(jnp.asarray, case.operands(dtype=np.float32))
        op = lambda x, w, case=case: jaxdeconv.conv1d_transpose(x, w, **case.keywords)  # noqa: E731
        alone = jax.jit(trained(op))
        expected = alone(*alone(*alone(x, w)))
        inside = jax.jit(scanned(trained(op))).lower(x, w).compile()
        for ours, theirs in zip(inside(x, w), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        text = inside.as_text()
        assert not [line for line in text.splitlines() if " convolution(" in line and not IN_ORDER.search(line)]
        assert " conditional(" not in text


@pytest.mark.parametrize("padding", [[(-1, 1)], [(-1, 0)], [(1, 0)]], ids=str)
@pytest.mark.parametrize("forward_mode", [False, True])
def test_results_of_nothing_are_mapped_as_the_operands(padding, forward_mode):
    """Where no tap meets an input, or there are none."""
    w = jnp.ones((1, 1, 1))
    for x in (jnp.ones((2, 1, 1, 1)), jnp.ones((2, 0, 1, 1))):
        op = lambda x, w: jaxdeconv.lax.conv_transpose(x, w, (1,), padding, forward_mode=forward_mode)  # noqa: E731
        for axes, operands_ in (((0, None), (x, w)), ((None, 0), (x[0], jnp.stack([w, w]))), ((0, 0), (x, jnp.stack([w, w])))):
            y, pull = jax.vjp(jax.vmap(op, axes), *operands_)
            assert y.shape[0] == 2
            assert [each.shape for each in pull(y)] == [each.shape for each in operands_]
            if forward_mode:
                assert jax.jvp(jax.vmap(op, axes), operands_, operands_)[1].shape == y.shape


def test_groups_without_a_spatial_dimension():
    """By name, which jaxlib 0.8 computes wrongly as a convolution of no dimension."""
    x, w = np.arange(6.0, dtype=np.float32)[None], np.arange(6.0, dtype=np.float32).reshape(2, 3)
    numbers = ("NC", "OI", "NC")
    op = lambda x, w: jaxdeconv.lax.conv_transpose(  # noqa: E731
        x, w, (), [], dimension_numbers=numbers, feature_group_count=2, implementation="dilated"
    )
    np.testing.assert_array_equal(jax.jit(op)(x, w), [[x[0, :3] @ w[0], x[0, 3:] @ w[1]]])

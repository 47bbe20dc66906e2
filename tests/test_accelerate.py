"""`accelerate`: what it finds, wherever that is, what it leaves, and what it does to a program."""

import dataclasses
import functools
import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive, jaxpr_as_fun
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdeconv
import jaxdeconv.lax
from jaxdeconv import _contractions, accelerate

LAYOUTS = {
    1: [("NWC", "WIO", "NWC"), ("NCW", "OIW", "NCW"), ("WNC", "IWO", "CNW")],
    2: [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("HWNC", "HIOW", "NCHW")],
    3: [("NDHWC", "DHWIO", "NDHWC"), ("NCDHW", "OIDHW", "NCDHW")],
}


def array(*shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng([seed, *shape])
    a = rng.integers(-3, 4, shape) if np.dtype(dtype).kind == "i" else rng.standard_normal(shape)
    return jnp.asarray(a + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else a, dtype)


def upsampled(x, w, stride=2):
    """[batch, W, in] and lax's [k, in, out] to [batch, W*s, out]."""
    return lax.conv_transpose(x, w, (stride,), "SAME")


def squared(x, w):
    return jnp.sum(upsampled(x, w) ** 2)


X, W = array(2, 5, 3), array(4, 3, 6)


def programs(program):
    """A program and all that are in it."""
    program = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    yield program
    for equation in program.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda a: isinstance(a, Jaxpr | ClosedJaxpr)):
            if isinstance(value, Jaxpr | ClosedJaxpr) and not str(equation.params.get("name")).startswith("jaxdeconv_"):
                yield from programs(value)


def left(function, *arguments):
    """The spread convolutions of a function that are lax's."""
    equations = [each for program in programs(jax.make_jaxpr(function)(*arguments)) for each in program.eqns]
    found = [each for each in equations if each.primitive.name == "conv_general_dilated"]
    return [each for each in found if {*each.params["lhs_dilation"], *each.params["window_strides"]} != {1}]


def calls(function, *arguments):
    """How many calls of this package there are in a program."""
    equations = [each for program in programs(jax.make_jaxpr(function)(*arguments)) for each in program.eqns]
    return sum(str(each.params.get("name")).startswith("jaxdeconv_") for each in equations)


def close(actual, expected, tolerance=1e-9):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(a).dtype == jax.typeof(b).dtype
        scale = float(np.max(np.abs(b), initial=1))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def same(function, *arguments, found=1):
    """Checks a function against itself accelerated, in which so many calls replace all of lax's convolutions."""
    accelerated = accelerate(function)
    close(accelerated(*arguments), function(*arguments))
    assert left(function, *arguments)
    assert left(accelerated, *arguments) == []
    assert calls(accelerated, *arguments) == found


# What is found.


def draw(seed):
    """A convolution of lax, spread or strided, as a function of operands; and these."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 1, 2, 3]))
    lhs, rhs, out = LAYOUTS[n][rng.integers(len(LAYOUTS[n]))]
    groups = int(rng.choice([1, 1, 2, 3]))
    features = {"N": int(rng.integers(1, 4)), "C": groups * int(rng.integers(1, 3)), "O": groups * int(rng.integers(1, 3))}
    dilations = tuple(map(int, rng.integers(1, 3, n)))
    kernel = tuple(map(int, rng.integers(1, 5, n)))
    steps = tuple(map(int, rng.integers(1, 4, n)))
    size = [int(max((k - 1) * d + 1, rng.integers(1, 8))) for k, d in zip(kernel, dilations, strict=True)]
    pads = tuple(tuple(map(int, rng.integers(0, 4, 2))) for _ in range(n))

    def shape(spec, space, **sizes):
        space = iter(space)
        return tuple(sizes[letter] if letter in sizes else next(space) for letter in spec)

    x = array(*shape(lhs, size, N=features["N"], C=features["C"]), seed=seed)
    w = array(*shape(rhs, kernel, O=features["O"], I=features["C"] // groups), seed=seed)
    spread = bool(rng.integers(2))
    strides, spreads = ((1,) * n, steps) if spread else (steps, (1,) * n)

    def op(x, w, **keywords):
        return lax.conv_general_dilated(x, w, strides, pads, spreads, dilations, (lhs, rhs, out), groups, **keywords)

    return op, x, w


def loss(op):
    return lambda x, w: jnp.sum(jnp.sin(op(x, w)))


@pytest.mark.parametrize("part", sampled(range(16), 16))
def test_random_convolutions(part):
    """Forward, with the gradient inside, with the gradient after, and mapped over both, which makes groups of all."""
    for seed in range(8 * part, 8 * part + 8):
        op, x, w = draw(seed)
        gradient = jax.grad(loss(op), (0, 1))
        close(accelerate(op)(x, w), op(x, w))
        expected = gradient(x, w)
        close(accelerate(gradient)(x, w), expected)
        close(jax.grad(accelerate(loss(op)), (0, 1))(x, w), expected)
        several = jnp.stack([x, 2 * x, -x]), jnp.stack([w, w + 1, w])
        close(accelerate(jax.vmap(gradient))(*several), jax.vmap(gradient)(*several))
        assert left(accelerate(jax.vmap(gradient)), *several) == [], seed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "complex128", "int8", "int32"])
def test_dtypes(dtype):
    x, w = array(2, 5, 3, dtype=dtype), array(4, 3, 6, dtype=dtype)
    close(accelerate(upsampled)(x, w), upsampled(x, w), 3e-2 if jnp.finfo(dtype).bits == 16 else 1e-5) if dtype[0] != "i" else same(
        upsampled, x, w
    )
    assert calls(accelerate(upsampled), x, w) == 1
    wide = {"float16": "float32", "bfloat16": "float32", "int8": "int32", "int32": "float32"}.get(dtype, dtype)
    op = partial(lax.conv_transpose, strides=(2,), padding="SAME", preferred_element_type=wide)
    close(accelerate(op)(x, w), op(x, w), 1e-5)
    assert calls(accelerate(op), x, w) == 1
    if dtype == "complex128":
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.abs(op(x, w)) ** 2), (0, 1))
        close(accelerate(gradient)(x, w), gradient(x, w))
        assert left(accelerate(gradient), x, w) == []


def test_unsigned_and_mixed_are_left():
    x = jnp.ones((2, 5, 3), jnp.uint8)
    accelerated = accelerate(lambda x: upsampled(x, jnp.ones((4, 3, 6), jnp.uint8)))
    assert accelerated(x).dtype == jnp.uint8
    (row,) = accelerated.explain(x).rows
    assert row.reason == "its operands are uint8 and uint8"
    assert row.contraction == "transpose"
    assert row.lowerings == {}


def test_precision_is_kept():
    op = partial(lax.conv_transpose, strides=(2,), padding="SAME", precision=lax.Precision.HIGHEST)
    assert "HIGHEST" in str(jax.make_jaxpr(accelerate(op))(X, W))


def test_strided_as_well_is_left():
    op = lambda x, w: lax.conv_general_dilated(x, w, (2,), [(1, 1)], (3,), dimension_numbers=LAYOUTS[1][0])  # noqa: E731
    accelerated = accelerate(op)
    close(accelerated(X, W), op(X, W))
    (row,) = accelerated.explain(X, W).rows
    assert row.reason == "it is strided as well as spread"


@pytest.mark.parametrize("pads", [((0, 0, 1), (0, 0, 1)), ((1, 2, 1), (0, 3, 2)), ((-1, 0, 1), (0, -1, 2)), ((0, 0, 0), (1, 0, 2))])
@pytest.mark.parametrize("padding", [((2, 2), (2, 2)), ((0, 0), (0, 3))])
def test_zeros_stuffed_by_pad(pads, padding):
    """As Equinox does since its change 1259, of one sample, and in the gradients; with a vmap before and after."""

    def layer(x, w):
        x = lax.pad(x, jnp.array(0, x.dtype), ((0, 0, 0), *pads))
        return lax.conv_general_dilated(x[None], w, (1, 1), padding)[0]

    def mapped(x, w):
        return jnp.sum(jax.vmap(layer, (0, None))(x, w) ** 2)

    x, w = array(2, 3, 4, 5), array(6, 3, 4, 3)
    gradient = jax.grad(mapped, (0, 1))
    close(accelerate(mapped)(x, w), mapped(x, w))
    close(accelerate(gradient)(x, w), gradient(x, w))
    close(jax.grad(accelerate(mapped), (0, 1))(x, w), gradient(x, w))
    each = jax.vmap(jax.grad(lambda x, w: jnp.sum(layer(x, w) ** 2), (0, 1)), (0, None))
    close(accelerate(each)(x, w), each(x, w))
    if any(width < 0 < more for pad, both in zip(pads, padding, strict=True) for width, more in zip(pad, both, strict=False)):
        return  # cut off, and padded again, which is another operation
    equations = jax.make_jaxpr(accelerate(gradient))(x, w).eqns
    assert not [each for each in equations if each.primitive.name == "pad" and any(map(any, each.params["padding_config"]))]
    assert "conv_general_dilated" not in {each.primitive.name for each in equations}
    assert [row.contraction for row in accelerate(gradient).explain(x, w).rows] == ["transpose", "filter_grad", "input_grad"]


def test_a_pad_that_is_used_elsewhere_stays():
    def both(x, w):
        stuffed = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 1), (0, 0, 0)))
        y = lax.conv_general_dilated(stuffed, w, (1,), [(3, 3)], dimension_numbers=LAYOUTS[1][0])
        return y, stuffed

    close(accelerate(both)(X, W), both(X, W))
    assert calls(accelerate(both), X, W) == 1


def test_what_is_stuffed_with_something_else_is_left():
    def ones(x, w):
        stuffed = lax.pad(x, jnp.ones((), x.dtype), ((0, 0, 0), (0, 0, 1), (0, 0, 0)))
        return lax.conv_general_dilated(stuffed, w, (1,), [(3, 3)], dimension_numbers=LAYOUTS[1][0])

    close(accelerate(ones)(X, W), ones(X, W))
    assert calls(accelerate(ones), X, W) == 0


def test_filter_gradients_of_ordinary_convolutions():
    """Of stride 1 as well: in loops on CPU, XLA computes JAX's by one scalar loop."""
    op = lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=LAYOUTS[1][0])  # noqa: E731
    gradient = jax.grad(loss(op), (0, 1))
    close(accelerate(gradient)(X, W), gradient(X, W))
    assert [row.contraction for row in accelerate(gradient).explain(X, W).rows] == ["filter_grad", "input_grad"]


def test_a_filter_gradient_as_large_as_its_window():
    """Of one sample made as many as there are taps, as a DCGAN's first layer does: known by the batch in the place of channels."""
    gradient = jax.grad(loss(lambda x, w: lax.conv_transpose(x, w, (1,), "VALID")), (0, 1))
    x = array(2, 1, 3)
    close(accelerate(gradient)(x, W), gradient(x, W))
    assert [row.contraction for row in accelerate(gradient).explain(x, W).rows if row.lhs == x.shape] == ["filter_grad"]


def test_a_result_that_is_used_whole_as_well_is_left():
    def both(x, w):
        y = lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=LAYOUTS[1][0])
        return lax.slice(y, (0, 0, 0), y.shape, (1, 2, 1)), y

    close(accelerate(both)(X, W), both(X, W))
    assert calls(accelerate(both), X, W) == 0
    assert calls(accelerate(lambda x, w: both(x, w)[0]), X, W) == 1


def test_what_would_have_another_type_is_left():
    """A weak type, of numbers of Python."""
    with jax.numpy_dtype_promotion("standard"):
        function = lambda: upsampled(jnp.broadcast_to(1.0, (2, 5, 3)), jnp.broadcast_to(2.0, (4, 3, 6))) * jnp.ones((), "float32")  # noqa: E731
        assert accelerate(function)().dtype == function().dtype == jnp.float32
        (row,) = accelerate(function).explain().rows
    assert row.reason.startswith("its type would become")


def test_the_context_of_an_equation_holds():
    """A mesh that is only known within the function."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto, AxisType.Auto))

    def function(x, w):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return lax.conv_general_dilated(x, w, (2,), "SAME", dimension_numbers=LAYOUTS[1][0])

    (row,) = accelerate(function).explain(X, W).rows
    assert "over a mesh" in row.reason


def test_ordinary_convolutions_are_convolutions_on_accelerators():
    op = lambda x, w: lax.conv_general_dilated(x, w, (2,), "SAME", dimension_numbers=LAYOUTS[1][0])  # noqa: E731
    rows = accelerate(jax.grad(loss(op), (0, 1))).explain(array(8, 64, 32, dtype="float32"), array(2, 32, 64, dtype="float32")).rows
    for row in rows:
        if row.contraction != "transpose":  # which may be a layer's
            assert {row.lowerings["gpu"], row.lowerings["tpu"]} == {"dilated"}
    assert len(rows) == 3


def test_what_a_stride_passes_over_is_not_cut_off():
    """The last of 8 samples, of a window of one tap and stride 2: a copy of the input, otherwise."""
    op = lambda x, w: lax.conv_general_dilated(x, w, (2,), "SAME", dimension_numbers=LAYOUTS[1][0])  # noqa: E731
    x, w = array(2, 64, 32, dtype="float32"), array(1, 32, 64, dtype="float32")
    close(accelerate(op)(x, w), op(x, w), 1e-5)
    assert set(accelerate(op).explain(x, w).rows[0].lowerings.values()) == {"dilated"}
    assert " slice[" not in str(jax.make_jaxpr(accelerate(op))(x, w))


def test_every_convolution_of_a_loop_is_in_order():
    def step(weights, x):
        def loss(weights):
            y = jax.nn.relu(lax.conv_general_dilated(x, weights[0], (1,), "SAME", dimension_numbers=LAYOUTS[1][0]))
            y = jax.nn.relu(lax.conv_general_dilated(y, weights[1], (2,), "SAME", dimension_numbers=LAYOUTS[1][0]))
            return jnp.mean((upsampled(y, weights[2]) - 1) ** 2)

        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))

    x = array(2, 32, 3, dtype="float32")
    weights = [array(3, 3, 16, dtype="float32"), array(4, 16, 24, dtype="float32"), array(4, 24, 8, dtype="float32")]

    def trained(step):
        return jax.jit(lambda weights: lax.scan(lambda weights, _: (step(weights, x), None), weights, None, length=3)[0])

    text = trained(accelerate(step)).lower(weights).compile().as_text()
    convolutions = [line for line in text.splitlines() if " convolution(" in line]
    assert [line for line in convolutions if not re.search(r"dim_labels=b0f_0io->b0f", line)] == []
    close(trained(accelerate(step))(weights), trained(step)(weights), 1e-4)


# Wherever it is.


def test_in_nested_jit_with_static_and_donated_arguments():
    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def inner(x, w, stride):
        return jnp.sin(upsampled(x, w, stride))

    same(jax.jit(lambda x, w: inner(x, w, 2) + inner(2 * x, w, 2)), X, W, found=2)
    (equation,) = (each for each in jax.make_jaxpr(accelerate(lambda x, w: inner(x, w, 2)))(X, W).eqns if "jaxpr" in each.params)
    assert equation.params["donated_invars"] == (True, False)
    close(jax.jit(accelerate(upsampled), static_argnums=2)(X, W, 3), upsampled(X, W, 3))


@pytest.mark.parametrize(
    "control",
    [
        lambda x, w: lax.scan(lambda c, scale: (c + squared(scale * x, w), upsampled(x, w)), 0.0, jnp.arange(3.0)),
        lambda x, w: lax.fori_loop(0, 3, lambda _, c: c + squared(x, w), 0.0),
        lambda x, w: lax.while_loop(lambda c: squared(c, w) < 1e6, lambda c: 2 * c + jnp.mean(upsampled(c, w)), x),
        lambda x, w: lax.cond(jnp.sum(x) > 0, squared, lambda x, w: squared(-2 * x, w), x, w),
        lambda x, w: lax.switch(1, [lambda x: x[:, :, :1] * 0, lambda x: upsampled(x, w)[:, ::2, :1]], x),
        lambda x, w: lax.map(lambda each: upsampled(each[None], w), x),
        lambda x, w: jax.grad(lambda x: lax.scan(lambda c, _: (squared(x * (1 + c * 1e-3), w), None), 0.0, None, length=2)[0])(x),
        lambda x, w: lax.associative_scan(jnp.add, upsampled(x, w)),
    ],
)
def test_in_control_flow(control):
    accelerated = accelerate(control)
    close(accelerated(X, W), control(X, W))
    assert left(accelerated, X, W) == []
    assert calls(accelerated, X, W)


def test_in_remat_whose_policy_is_kept():
    policy = jax.checkpoint_policies.nothing_saveable
    function = jax.checkpoint(
        lambda x, w: jnp.sum(jnp.sin(upsampled(jnp.sin(upsampled(x, w)), w[:, :, :3].repeat(2, 1)))), policy=policy
    )
    same(function, X, W, found=2)
    (equation,) = jax.make_jaxpr(accelerate(function))(X, W).eqns
    assert equation.params["policy"] is policy
    close(jax.grad(accelerate(function), (0, 1))(X, W), jax.grad(function, (0, 1))(X, W))
    same(jax.grad(function, (0, 1)), X, W, found=jax.make_jaxpr(jax.grad(function, (0, 1)))(X, W).pretty_print().count("= conv_gen"))


def test_under_vmap_before_and_after():
    several = jnp.stack([X, 2 * X])
    same(jax.vmap(upsampled, (0, None)), several, W)
    same(jax.vmap(upsampled), several, jnp.stack([W, -W]))
    expected = jax.vmap(upsampled, (0, None))(several, W)
    close(jax.vmap(accelerate(upsampled), (0, None))(several, W), expected)
    close(
        jax.vmap(accelerate(lambda x, w: lax.psum(upsampled(x, w), "b")), (0, None), axis_name="b")(several, W),
        expected.sum(0)[None].repeat(2, 0),
    )


def test_what_vmap_hides_is_seen_by_the_choice(monkeypatch):
    """x mapped over is more of the batch, for the choice as well: of these sizes it is another one than for a batch of one."""
    monkeypatch.setattr(_contractions, "select", lambda _, sizes, *__: "polyphase" if sizes.batch > 1 else "matmul")
    x, w = array(32, 1, 11, 3, dtype="float32"), array(4, 3, 6, dtype="float32")
    chosen = [accelerate(upsampled).explain(each, w).rows[0].lowerings["cpu"] for each in (x[0], x.reshape(32, 11, 3))]
    assert chosen == ["matmul", "polyphase"]
    compiled = [
        jax.jit(function).lower(x, w).compile().as_text()
        for function in (jax.vmap(accelerate(upsampled), (0, None)), lambda x, w: accelerate(upsampled)(x.reshape(32, 11, 3), w))
    ]
    assert [" convolution(" in text for text in compiled] == [True, True]  # which "matmul" has none of
    close(jax.vmap(accelerate(upsampled), (0, None))(x, w), jax.vmap(upsampled, (0, None))(x, w), 1e-5)


def custom_rules():
    @jax.custom_vjp
    def f(x, w):
        return upsampled(x, w)

    f.defvjp(
        lambda x, w: (upsampled(x, w), (x, w)),
        lambda saved, g: (0 * saved[0] + jnp.sum(upsampled(g[:, :, :3], saved[1])), 7 * saved[1]),
    )

    @jax.custom_jvp
    def h(x, w):
        return upsampled(x, w)

    h.defjvp(lambda primals, tangents: (upsampled(*primals), 5 * upsampled(tangents[0], primals[1])))
    return f, h


def test_in_functions_with_rules_of_their_own():
    """The rules stay theirs: these are wrong on purpose. What is inside them is replaced."""
    f, h = custom_rules()
    same(f, X, W)
    same(h, X, W)
    for function in (f, h):
        gradient = jax.grad(lambda x, w, function=function: jnp.sum(jnp.sin(accelerate(function)(x, w))), (0, 1))
        close(gradient(X, W), jax.grad(lambda x, w, function=function: jnp.sum(jnp.sin(function(x, w))), (0, 1))(X, W))
        assert left(gradient, X, W) == []
    forward = lambda function: lambda x: jax.jvp(lambda x: function(x, W), (x,), (x,))  # noqa: E731
    with jaxdeconv.defaults(forward_mode=True):
        close(forward(accelerate(h))(X), forward(h)(X))
        assert left(forward(accelerate(h)), X) == []


def test_in_a_linear_system_that_is_differentiated():
    """Its map is differentiated, and the system transposed, by JAX."""

    def solved(x, w):
        def normal(x):
            y, pull = jax.vjp(lambda x: upsampled(x, w), x)
            return x + pull(y)[0]

        return jnp.sum(jnp.sin(jax.scipy.sparse.linalg.cg(normal, x, maxiter=60, tol=1e-14)[0]))

    expected = jax.grad(solved, (0, 1))(X, W)
    close(jax.grad(accelerate(solved), (0, 1))(X, W), expected, 1e-7)
    assert left(jax.grad(accelerate(solved), (0, 1)), X, W) == []


def test_in_a_primitive_that_no_one_knows():
    """Its programs are edited where they are, since they keep their types."""
    primitive = Primitive("of_someone")
    primitive.multiple_results = True
    primitive.def_impl(lambda *arrays, program: jaxpr_as_fun(program)(*arrays))
    primitive.def_abstract_eval(lambda *_, program: program.out_avals)
    program = jax.make_jaxpr(upsampled)(X, W)
    function = lambda x, w: primitive.bind(x, w, program=program)[0]  # noqa: E731
    close(accelerate(function)(X, W), upsampled(X, W))
    assert calls(accelerate(function), X, W) == 1
    assert left(accelerate(function), X, W) == []


@pytest.mark.parametrize("axes", [("Auto", "Auto"), ("Explicit", "Explicit"), ("Auto", "Manual")])
def test_over_a_mesh(axes):
    """`jax.shard_map`, with `jax.grad` inside and outside, and explicit axes."""
    kind = AxisType.Explicit if axes[0] == "Explicit" else AxisType.Auto
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
    x, w = array(8, 5, 3), array(4, 3, 6)
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(upsampled(x, w))), (0, 1))
    expected = gradient(x, w)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("a"))), jax.device_put(w, NamedSharding(mesh, PartitionSpec()))
    if axes[1] != "Manual":
        with jax.sharding.use_mesh(mesh) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(mesh):
            accelerated = jax.jit(accelerate(gradient))
            close(jax.device_get(accelerated(*placed)), jax.device_get(expected))
            # What may be an ordinary strided convolution stays one there.
            assert [each.params["lhs_dilation"] for each in left(accelerated, *placed)] == [(1,)]
        return

    def part(x, w):
        dx, dw = jax.grad(lambda x, w: jnp.sum(jnp.sin(upsampled(x, w))), (0, 1))(x, w)
        return dx, dw

    function = jax.shard_map(
        part, mesh=mesh, in_specs=(PartitionSpec("a"), PartitionSpec()), out_specs=(PartitionSpec("a"), PartitionSpec())
    )
    close(jax.device_get(jax.jit(accelerate(function))(*placed)), jax.device_get(jax.jit(function)(*placed)))
    assert left(accelerate(function), x, w) == []
    forward = jax.shard_map(upsampled, mesh=mesh, in_specs=(PartitionSpec("a"), PartitionSpec()), out_specs=PartitionSpec("a"))
    outside = jax.grad(lambda x, w: jnp.sum(jnp.sin(accelerate(forward)(x, w))), (0, 1))
    close(jax.device_get(jax.jit(outside)(*placed)), jax.device_get(expected))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_pmap():
    if not hasattr(jax, "pmap"):
        pytest.skip("jax has none")
    x = jnp.stack([X] * 2)
    function = jax.pmap(upsampled, in_axes=(0, None), devices=jax.devices()[:2])
    close(jax.device_get(accelerate(function)(x, W)), jax.device_get(function(x, W)))


def test_name_stack_is_kept():
    def function(x, w):
        with jax.named_scope("decoder"):
            return upsampled(x, w)

    assert "decoder" in jax.jit(accelerate(function)).lower(X, W).as_text(debug_info=True)
    (row,) = accelerate(function).explain(X, W).rows
    assert row.name_stack == "decoder"
    assert "test_accelerate.py" in row.source


def test_effects_stay_in_their_order():
    seen = []

    def function(x, w):
        jax.debug.callback(lambda: seen.append("before"), ordered=True)
        y = upsampled(x, w)
        jax.debug.callback(lambda _: seen.append("after"), y, ordered=True)
        return y

    for run in (accelerate(function), jax.jit(accelerate(function))):
        jax.block_until_ready(run(X, W))
        jax.effects_barrier()
    assert seen == ["before", "after"] * 2


def test_random_keys_and_extended_dtypes():
    def function(key, x, w):
        following, now = jax.random.split(key)
        return following, upsampled(x + jax.random.normal(now, x.shape), w)

    key = jax.random.key(1)
    following, y = accelerate(function)(key, X, W)
    expected = function(key, X, W)
    assert following == expected[0]
    close(y, expected[1])


def test_float0_and_symbolic_zeros():
    function = lambda n, x, w: n * upsampled(x, w)  # noqa: E731
    n = jnp.int32(2)
    with jax.numpy_dtype_promotion("standard"):
        _, pull = jax.vjp(accelerate(function), n, X, W)
        dn, dx, _ = pull(jnp.ones((2, 10, 6)))
        assert dn.dtype == jax.dtypes.float0
        close(dx, jax.vjp(function, n, X, W)[1](jnp.ones((2, 10, 6)))[1])
        zero = accelerate(lambda zero, x, w: (zero, upsampled(x, w)))(dn, X, W)[0]
        assert zero is dn


def test_references():
    if not hasattr(jax, "new_ref"):
        pytest.skip("this jax has no references")

    def function(x, w):
        total = jax.new_ref(jnp.zeros((2, 10, 6)))
        lax.fori_loop(0, 2, lambda _, c: total.__setitem__(..., total[...] + upsampled(x, w)) or c, 0)
        return total[...]

    close(accelerate(function)(X, W), function(X, W))
    assert left(accelerate(function), X, W) == []


# Derivatives, batches and export of what comes out.


def test_derivatives_in_both_modes():
    f = lambda x: loss(upsampled)(x, W)  # noqa: E731
    hessian = jax.hessian(f)(X)
    close(jax.jacrev(jax.grad(accelerate(f)))(X), hessian)
    close(jax.hessian(accelerate(f))(X), hessian)
    close(jax.jacfwd(accelerate(f, forward_mode=True))(X), jax.jacfwd(f)(X))
    with pytest.raises(TypeError, match="custom_vjp") as refused:
        jax.jacfwd(accelerate(f))(X)
    assert any("accelerate: pass forward_mode=True" in note for note in refused.value.__notes__)
    with jaxdeconv.defaults(forward_mode=True):
        close(jax.jacfwd(accelerate(f))(X), jax.jacfwd(f)(X))
        with pytest.raises(TypeError, match="custom_vjp"):
            jax.jacfwd(accelerate(f, forward_mode=False))(X)
    gradient = jax.grad(loss(upsampled), (0, 1))
    penalty = lambda gradient: lambda x, w: sum(jnp.sum(each**2) for each in gradient(x, w))  # noqa: E731
    close(jax.grad(penalty(accelerate(gradient)), (0, 1))(X, W), jax.grad(penalty(gradient), (0, 1))(X, W))
    second = accelerate(jax.grad(penalty(gradient), (0, 1)))
    close(second(X, W), jax.grad(penalty(gradient), (0, 1))(X, W))
    assert left(second, X, W) == []
    tangent = lambda gradient: jax.jvp(gradient, (X, W), (X, W))[1]  # noqa: E731
    close(tangent(accelerate(gradient, forward_mode=True)), tangent(gradient))


def test_export_with_symbolic_sizes():
    batch, width = jax.export.symbolic_shape("b, w")
    gradient = jax.grad(squared, (0, 1))
    shapes = jax.ShapeDtypeStruct((batch, width, 3), X.dtype), jax.ShapeDtypeStruct(W.shape, W.dtype)
    for function in (accelerate(gradient), jax.grad(accelerate(squared), (0, 1))):
        exported = jax.export.export(jax.jit(function))(*shapes)
        close(list(exported.call(X, W)), list(gradient(X, W)))
        assert left(function, X, W) == []


# What is not touched.


def test_other_functions_come_out_unchanged():
    def function(x, w):
        y = lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=LAYOUTS[1][0])
        y = lax.scan(lambda c, row: (c + jax.nn.relu(row), jax.nn.silu(c)), y[0], y)[1]
        return jax.jit(jnp.sin)(y) + lax.cond(jnp.sum(x) > 0, jnp.sin, jnp.cos, y) * jnp.ones((1, 1, 6), y.dtype)

    assert str(jax.make_jaxpr(accelerate(function))(X, W)) == str(jax.make_jaxpr(function)(X, W))


def of_this_package(x, w):
    return jnp.sum(jnp.sin(jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME")))


@pytest.mark.parametrize(
    "function",
    [
        of_this_package,
        jax.grad(of_this_package, (0, 1)),
        jax.grad(lambda x, w: jnp.sum(jax.vmap(of_this_package, (0, None))(x[None], w)), (0, 1)),
        jax.grad(lambda x, w: lax.scan(lambda c, _: (of_this_package(c * x, w), None), 1.0, None, length=2)[0]),
        jax.grad(jax.checkpoint(of_this_package), (0, 1)),
        accelerate(jax.grad(squared, (0, 1))),
    ],
)
def test_calls_of_this_package_are_left_to_it(function):
    texts = [str(jax.make_jaxpr(each)(X, W)) for each in (function, accelerate(lambda x, w: function(x, w)))]
    without_addresses = [re.sub("0x[0-9a-f]+", "", text) for text in texts]
    assert without_addresses[0] == without_addresses[1]


def test_the_rest_of_a_program_stays():
    """Names of equations before and after, but for the one that is replaced."""
    function = lambda x, w: jnp.tanh(upsampled(jnp.sin(x), w)) * 2  # noqa: E731
    names = [[each.primitive.name for each in jax.make_jaxpr(f)(X, W).eqns] for f in (function, accelerate(function))]
    assert names[0] == ["sin", "conv_general_dilated", "tanh", "mul"]
    assert names[1] == ["sin", "jit", "tanh", "mul"]


class Module:
    """A pytree with a flag and a function in it."""

    def __init__(self, w, activation, flag):
        self.w, self.activation, self.flag = w, activation, flag

    def __call__(self, x):
        return self.activation(upsampled(x, self.w)) if self.flag else x

    @accelerate
    def method(self, x):
        return self(x)

    @accelerate(forward_mode=True)
    def forward(self, x, *, scale):
        return scale * self(x)


jax.tree_util.register_pytree_node(Module, lambda m: ((m.w, m.activation, m.flag), None), lambda _, parts: Module(*parts))


def test_arguments_that_are_no_arrays_pass_as_they_are():
    seen = []

    def function(module, x, *, mode, callback, nothing, number, options):
        seen.append((type(module.flag), mode, callback is max, nothing, type(number), options["deep"]))
        return {"y": module(x) * number, "mode": mode, "none": None, "callback": callback}

    module = Module(W, jnp.tanh, True)
    arguments = {"mode": "train", "callback": max, "nothing": None, "number": 2, "options": {"deep": True}}
    result = accelerate(function)(module, X, **arguments)
    expected = function(module, X, **arguments)
    close(result.pop("y"), expected.pop("y"))
    assert result == expected == {"mode": "train", "none": None, "callback": max}
    assert set(seen) == {(bool, "train", True, None, int, True)}
    with_numpy = accelerate(lambda x, names: (upsampled(x, W), names))(np.asarray(X), np.array(["a", "b"]))
    close(with_numpy[0], upsampled(X, W))
    assert with_numpy[1].tolist() == ["a", "b"]
    days = np.array([1], "timedelta64[D]")  # no dtype of JAX
    assert accelerate(lambda x, days: (upsampled(x, W), days))(X, days)[1] is days


def test_errors_are_those_of_the_function():
    def function(x):
        if x.ndim != 3:
            raise KeyError("mine")
        return upsampled(x, jnp.ones((4, 9, 1)))

    with pytest.raises(KeyError, match="mine"):
        accelerate(function)(jnp.ones(3))
    with pytest.raises((TypeError, ValueError)) as theirs:
        function(X)
    with pytest.raises(type(theirs.value), match=re.escape(str(theirs.value))):
        accelerate(function)(X)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        accelerate(function)()


# How it is used.


def test_as_a_decorator_and_on_methods():
    module = Module(W, jnp.tanh, True)
    expected = jnp.tanh(upsampled(X, W))
    for each in (module.method, accelerate(module.__call__), accelerate(module)):
        close(each(X), expected)
        assert left(each, X) == []
    close(jax.jvp(partial(module.forward, scale=2.0), (X,), (X,))[0], 2 * expected)

    @accelerate
    def decoder(x, w=W):
        """What it says."""
        return upsampled(x, w)

    assert (decoder.__name__, decoder.__doc__, decoder.__wrapped__(X).shape) == ("decoder", "What it says.", (2, 10, 6))
    assert accelerate(decoder) is decoder
    forwards = accelerate(decoder, forward_mode=True)
    assert forwards.__wrapped__ is decoder.__wrapped__
    close(jax.jvp(forwards, (X,), (X,))[1], decoder(X))
    with pytest.raises(TypeError):
        jax.jvp(accelerate(forwards, forward_mode=False), (X,), (X,))
    other = functools.wraps(decoder)(lambda x: upsampled(x, W))
    assert accelerate(other) is not other
    close(accelerate(partial(upsampled, w=W, stride=3))(X), upsampled(X, W, 3))


def test_constants_of_numpy_are_arrays_of_jax():
    constant, y = accelerate(lambda x: (np.arange(3.0), upsampled(x, W)))(X)
    assert isinstance(constant, jax.Array)
    np.testing.assert_array_equal(constant, np.arange(3.0))
    close(y, upsampled(X, W))


def test_groups_of_a_symbolic_number_are_left():
    """As JAX makes them under a vmap of both operands along a symbolic axis, and refuses when they are lowered."""
    x, w = (jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), float) for shape in ("b, 1, 8, 4", "b, 4, 4, 3"))
    x, w = (jax.ShapeDtypeStruct((x.shape[0], *each.shape[1:]), float) for each in (x, w))

    def strided(x, w):
        return jnp.sum(lax.conv_general_dilated(x, w, (2,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")) ** 2)

    for function in (upsampled, jax.grad(strided, (0, 1))):
        mapped = accelerate(jax.vmap(function))
        assert {row.reason for row in mapped.explain(x, w).rows} == {"its number of groups is symbolic"}
        with pytest.raises(NotImplementedError, match="non-static"):
            jax.export.export(jax.jit(mapped))(x, w)


def test_wrong_arguments():
    for wrong in (3, X, {"a": 1}):
        with pytest.raises(TypeError, match="accelerate: function must be callable, got function="):
            accelerate(wrong)
    for kind, wrong in ((ValueError, "yes"), (TypeError, 1)):
        with pytest.raises(kind, match="accelerate: forward_mode must be False or True, got forward_mode="):
            accelerate(upsampled, forward_mode=wrong)


def test_named_implementations_hold():
    with jaxdeconv.defaults(implementation="polyphase"):
        (row,) = accelerate(upsampled).explain(X, W).rows
    assert set(row.lowerings.values()) == {"polyphase"}


def test_a_named_implementation_that_cannot_is_refused():
    """Before anything is traced, of what is no transposed convolution as well."""
    strided = lambda x, w: lax.conv_general_dilated(x, w, (2,), "SAME", dimension_numbers=LAYOUTS[1][0])  # noqa: E731
    with jaxdeconv.defaults(implementation="elementwise"):
        for function in (upsampled, strided, jax.grad(loss(strided), (0, 1))):
            with pytest.raises(ValueError, match="accelerate: implementation must be able to compute this, and 'elementwise'"):
                accelerate(function)(X, W)


def test_explain():
    step = accelerate(jax.grad(squared, (0, 1)))
    found = step.explain(jax.ShapeDtypeStruct(X.shape, "float32"), jax.ShapeDtypeStruct(W.shape, "float32"))
    assert isinstance(found, jaxdeconv.Acceleration)
    assert [row.contraction for row in found.rows] == ["transpose", "filter_grad", "input_grad"]
    assert found.replaced == found.rows
    row = found.rows[0]
    assert (row.lhs, row.rhs, row.result, row.dtype) == ((2, 5, 3), (4, 3, 6), (2, 10, 6), "float32")
    assert row.window == {"window_strides": (1,), "lhs_dilation": (2,), "rhs_dilation": (1,), "padding": ((2, 2),)}
    assert (
        row.lowerings
        == jaxdeconv.explain(jaxdeconv.lax.conv_transpose, *map(jnp.float32, (X, W)), (2,), "SAME").lowerings["transpose"]
    )
    text = str(found)
    assert text.startswith("3 of 3 convolutions")
    assert "transpose: float32[2, 5, 3], [4, 3, 6] -> [2, 10, 6]" in text
    assert accelerate(jnp.sin).explain(X).rows == ()


compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: accelerate(jax.jit(f)),
        lambda f: accelerate(jax.grad(jax.jit(f))),
        lambda f: jax.grad(accelerate(jax.jit(f))),
        lambda f: accelerate(jax.grad(jax.jit(jax.checkpoint(f)))),
        lambda f: accelerate(jax.jit(lambda x, w: lax.scan(lambda c, _: (c + f(x, w), None), 0.0, None, length=2)[0])),
    ],
)
def test_calls_outside_of_jit_compile_once(make):
    """JAX compiles a program that it knows once, so it is given the same one each time."""
    function = make(loss(upsampled))
    function(X, W)
    function(X, W)
    compilations.clear()
    function(X, W)
    assert not compilations


def test_no_tracer_is_left():
    with jax.checking_leaks():
        for function in (upsampled, jax.grad(squared, (0, 1)), lambda x, w: (upsampled(x, w), "flag")):
            jax.eval_shape(lambda x, w, function=function: jax.tree.leaves(accelerate(function)(x, w))[0], X, W)


def test_constants_and_callables_of_any_kind():
    before = getattr(jax.config, "jax_use_simplified_jaxpr_constants", None)
    if before is not None:
        jax.config.update("jax_use_simplified_jaxpr_constants", True)
    try:
        for function in (lambda w: upsampled(np.asarray(X), w), lambda w: jnp.sum(upsampled(jnp.asarray(np.asarray(X)), w)) * w):
            close(jax.jit(accelerate(function))(W), function(W))
    finally:
        if before is not None:
            jax.config.update("jax_use_simplified_jaxpr_constants", before)

    @dataclasses.dataclass  # has no hash
    class Decoder:
        w: jax.Array

        def __call__(self, x):
            return upsampled(x, self.w)

    close(accelerate(Decoder(W))(X), upsampled(X, W))


def test_compiled_as_if_written_by_hand():
    """The program of a small network and its gradient, but for names."""

    def loss(op, weights, x):
        for w in weights:
            x = jnp.tanh(op(x, w))
        return jnp.mean(x**2)

    def instructions(function):
        text = jax.jit(function).lower([W, array(4, 6, 2)], X).compile().as_text()
        text = re.sub(r", metadata=\{[^}]*\}", "", text)
        return sorted(re.sub(r"%?[\w.\-]+", "", line.split(" = ")[1].split("(")[0]) for line in text.splitlines() if " = " in line)

    by_hand = jax.grad(partial(loss, lambda x, w: jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME")))
    accelerated = jax.grad(accelerate(partial(loss, upsampled)))
    assert instructions(by_hand) == instructions(accelerated)
    assert instructions(by_hand) != instructions(jax.grad(partial(loss, upsampled)))


# jaxdeconv.lax.conv_general_dilated


def test_conv_general_dilated():
    ours, theirs = jaxdeconv.lax.conv_general_dilated, lax.conv_general_dilated
    for seed in range(1000, 1008):
        op, x, w = draw(seed)
        parameters = dict(jax.make_jaxpr(op)(x, w).eqns[0].params)
        parameters.pop("out_sharding")
        function = partial(ours, **parameters)
        close(function(x, w), op(x, w))
        close(jax.grad(loss(function), (0, 1))(x, w), jax.grad(loss(op), (0, 1))(x, w))
        spread = set(parameters["lhs_dilation"]) != {1}
        assert calls(function, x, w) == spread
    w = array(6, 5, 4)  # channels first
    close(ours(X, w, (1,), [(2, 2)], (2,)), theirs(X, w, (1,), [(2, 2)], (2,)))
    close(jax.jvp(lambda x: ours(x, W, (1,), [(2, 2)], (2,), None, LAYOUTS[1][0], forward_mode=True), (X,), (X,))[0], upsampled(X, W))
    for wrong in ({"padding": [(1, 2, 3)]}, {"lhs_dilation": (1, 2)}):
        with pytest.raises((TypeError, ValueError)) as expected:
            theirs(X, W, (1,), **{"padding": [(1, 1)]} | wrong)
        with pytest.raises(type(expected.value), match=re.escape(str(expected.value))):
            ours(X, W, (1,), **{"padding": [(1, 1)]} | wrong)


def test_without_jit():
    x, w = jnp.ones((2, 8, 3)), jnp.ones((4, 3, 2))
    gradient = jax.grad(lambda x, w: jnp.sum(jax.lax.conv_transpose(x, w, (2,), "SAME") ** 2), (0, 1))
    expected = gradient(x, w)
    with jax.disable_jit():
        found = jaxdeconv.accelerate(gradient)(x, w)
    for actual, each in zip(found, expected, strict=True):
        np.testing.assert_allclose(actual, each, rtol=1e-12)

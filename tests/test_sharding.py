"""Sharded arguments under jit, with automatic and explicit axes, and shard_map, on eight simulated devices."""

import contextlib
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdeconv
import jaxdeconv.lax
import jaxdeconv.torch
from jaxdeconv import _partitioning


@pytest.fixture(autouse=True)
def _eight_devices(monkeypatch):
    monkeypatch.setattr(_partitioning, "devices", jax.device_count)


RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((8, 16, 8)), RNG.standard_normal((4, 8, 8))


def op(x, w):
    return jaxdeconv.conv1d_transpose(x, w, None, 2)


def gradients(x, w):
    return jax.grad(lambda x, w: jnp.sum(jnp.sin(op(x, w))), (0, 1))(x, w)


EXPECTED = op(X, W), gradients(X, W)


def check(run, *arguments):
    for actual, expected in zip(jax.tree.leaves(run(*arguments)), jax.tree.leaves(EXPECTED), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


def mesh(kind, shape=(4, 2), names=("a", "b")):
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, names, axis_types=(kind,) * len(shape))


def both(x, w):
    return op(x, w), gradients(x, w)


SPECS = {
    "batch": (P("a"), P()),
    "batch over two axes": (P(("a", "b")), P()),
    "batch and width": (P("a", "b"), P()),
    "batch and input channels": (P("a", None, "b"), P(None, None, "b")),
    "batch and output channels": (P("a"), P(None, "b")),
    "input channels": (P(None, None, "a"), P(None, None, "a")),
    "output channels": (P(), P(None, ("a", "b"))),
    "filters alone": (P(), P(None, "b", "a")),
}


@pytest.mark.parametrize("case", SPECS)
def test_automatic_axes(case):
    devices = mesh(AxisType.Auto)
    x, w = (jax.device_put(each, NamedSharding(devices, spec)) for each, spec in zip((X, W), SPECS[case], strict=True))
    check(jax.jit(both), x, w)
    check(both, x, w)


def test_width_alone():
    devices = mesh(AxisType.Auto, (8,), ("a",))
    x = jax.device_put(X, NamedSharding(devices, P(None, "a")))
    check(jax.jit(both), x, jax.device_put(W, NamedSharding(devices, P())))


@pytest.mark.parametrize("implementation", [None, "dilated"])
@pytest.mark.parametrize("spec", [P("a"), P(None, "a"), P(None, None, "a")], ids=["batch", "width", "channels"])
def test_depthwise(spec, implementation):
    w = RNG.standard_normal((4, 1, 8))

    def all_three(x, w):
        op = partial(jaxdeconv.conv1d_transpose, output_shape=None, strides=2, groups=8, implementation=implementation)
        y, vjp = jax.vjp(op, x, w)
        return y, *vjp(jnp.sin(y))

    devices = mesh(AxisType.Auto, (8,), ("a",))
    filter_spec = P(None, None, spec[2]) if len(spec) == 3 else P()
    sharded = jax.device_put((X, w), (NamedSharding(devices, spec), NamedSharding(devices, filter_spec)))
    for actual, expected in zip(jax.jit(all_three)(*sharded), all_three(X, w), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


PLACEMENTS = [  # of the axes of x, w and the cotangent, by one letter for each axis of the mesh: batch, width, in, out; - for idle
    ("b-", "--", "b-"),
    ("w-", "--", "w-"),
    ("-w", "--", "-w"),
    ("wb", "--", "wb"),
    ("w-", "i-", "w-"),
    ("w-", "-i", "w-"),
    ("w-", "-o", "w-"),
    ("b-", "-o", "bo"),
    ("wb-", "-io", "wb-"),
    ("bw-", "--i", "bw-"),
    ("w--", "---", "w--"),
    ("iw-", "i--", "-w-"),
    ("i--", "---", "---"),
    ("---", "---", "o--"),
]
IDLE_LAYERS = {  # k, s, out channels, groups
    "k16 s8": (16, 8, 16, 1),
    "k4 s2": (4, 2, 16, 1),
    "k3 s1": (3, 1, 16, 1),
    "4 groups": (4, 2, 16, 4),
    "depthwise": (4, 2, 32, 32),
}


def placed(placement, axes, kind=AxisType.Auto):
    """The mesh of eight devices, and a sharding of an array of these axes, spelt as letters."""
    names = tuple("pqr"[: len(placement)])
    devices = mesh(kind, (2, 4) if len(names) == 2 else (2, 2, 2), names)
    spec = [tuple(name for name, letter in zip(names, placement, strict=True) if letter == axis) or None for axis in axes]
    return NamedSharding(devices, P(*spec))


def idle_case(layer, seed=0):
    """x, w, the cotangent, and T, C and F of them in one function; of 32 bits, in which convolutions are chosen where they may be."""
    k, s, out, groups = IDLE_LAYERS[layer]
    rng = np.random.default_rng(seed)
    x, w, g = (rng.standard_normal(shape, np.float32) for shape in ((8, 16, 32), (k, out // groups, 32), (8, 16 * s, out)))

    def all_three(x, w, g, implementation=None):
        op = partial(jaxdeconv.conv1d_transpose, output_shape=g.shape, strides=s, groups=groups, implementation=implementation)
        y, vjp = jax.vjp(op, x, w)
        if AxisType.Explicit in jax.typeof(y).sharding.mesh.axis_types:
            g = jax.sharding.reshard(g, jax.typeof(y).sharding)
        return y, *vjp(g)

    return (x, w, g), all_three


@pytest.mark.parametrize(
    "kind", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.thorough)], ids=["automatic", "explicit"]
)
@pytest.mark.parametrize("layer", IDLE_LAYERS)
def test_beside_idle_axes(layer, kind):
    """What a mesh axis is left over for, where XLA's partitioner sums convolutions over the replicas too."""
    operands, all_three = idle_case(layer)
    expected = all_three(*operands, implementation="matmul")
    for number, (x_placed, w_placed, g_placed) in enumerate(PLACEMENTS):
        if kind == AxisType.Explicit and number % 3:
            continue
        last = {"depthwise": "i", "4 groups": "i"}.get(layer, "o")  # the channels of y are cut as those of x
        shardings = (
            placed(x_placed, "bwi", kind),
            placed(w_placed, "koi" if layer != "depthwise" else "k.i", kind),
            placed(g_placed, "bw" + last, kind),
        )
        with jax.set_mesh(shardings[0].mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
            found = jax.jit(all_three)(*map(jax.device_put, operands, shardings))
        for name, actual, right in zip(["T", "C", "F"], found, expected, strict=True):
            message = f"{name} of {layer}, placed {x_placed} {w_placed} {g_placed}"
            np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-4, err_msg=message)
        if kind == AxisType.Explicit:
            for actual, sharding in zip(found[1:], shardings, strict=False):
                assert actual.sharding.is_equivalent_to(sharding, actual.ndim)


def test_operands_without_a_mesh():
    """Which in_shardings of a jit around place; nothing says so while the call is traced."""
    operands, all_three = idle_case("k4 s2")
    shardings = placed("w-", "bwi"), placed("-i", "koi"), placed("w-", "bwo")
    for actual, right in zip(
        jax.jit(all_three, in_shardings=shardings)(*operands), all_three(*operands, implementation="matmul"), strict=True
    ):
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", [None, "dilated", "polyphase"])
def test_narrow_floats_cut_along_space(implementation):
    """XLA's partitioner for CPU pads 16-bit operands of a convolution with 32-bit zeros, and XLA refuses the program."""
    sharding = NamedSharding(mesh(AxisType.Auto, (8,), ("a",)), P(None, "a"))
    x, w = RNG.standard_normal((2, 16, 32)).astype(jnp.bfloat16), RNG.standard_normal((4, 16, 32)).astype(jnp.bfloat16)

    def all_three(x, w):
        y, vjp = jax.vjp(partial(jaxdeconv.conv1d_transpose, output_shape=None, strides=2, implementation=implementation), x, w)
        return y, *vjp(jnp.ones_like(y))

    for actual, right in zip(jax.jit(all_three)(jax.device_put(x, sharding), w), all_three(x, w), strict=True):
        np.testing.assert_allclose(np.float32(actual), np.float32(right), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "implementation", [None, pytest.param("dilated", marks=pytest.mark.xfail(strict=True, reason="the partitioner"))]
)
def test_a_result_with_the_axes_exchanged(implementation):
    x, w = RNG.standard_normal((8, 16, 16), np.float32), RNG.standard_normal((2, 32, 16), np.float32)

    def op(x, w):
        return jaxdeconv.conv1d_transpose(x, w, None, 2, implementation=implementation)

    found = jax.jit(op, out_shardings=placed("cbc", "bwc"))(jax.device_put(x, placed("wcb", "bwc")), w)
    np.testing.assert_allclose(found, op(x, w), rtol=1e-4, atol=1e-4)


def test_how_many_axes_count():
    """Of a mesh that one operand shows: those of more than one device that are not `jax.shard_map`'s."""
    found = []

    def seen(x):
        found.append(_partitioning.axes({"x": jax.typeof(x), "w": jax.typeof(jnp.ones((1, 1, 1)))}, [0], "tf"))
        return x

    x = np.ones((8, 8))
    for shape, names in (
        ((8,), ("a",)),
        ((1, 8), ("a", "b")),
        ((2, 4), ("a", "b")),
        ((1, 1), ("a", "b")),
        ((2, 2, 2), ("a", "b", "c")),
    ):
        devices = mesh(AxisType.Auto, shape, names)
        over = jax.device_put(x, NamedSharding(devices, P()))
        jax.jit(seen)(over)
        jax.jit(jax.vmap(seen))(over)
        jax.jit(jax.shard_map(seen, mesh=devices, in_specs=P(), out_specs=P()))(over)
        jax.jit(jax.shard_map(seen, mesh=devices, in_specs=P(), out_specs=P(), axis_names={names[0]}))(over)
    one, several = [1, 1, 0], [2, 2, 0]
    assert found == [*one, 0, *one, 1, *several, 1, 0, 0, 0, 0, *several, 2]
    found.clear()
    jax.jit(seen)(x)
    assert found == [2]  # eight devices, and nothing is known
    found.clear()
    with jax.set_mesh(mesh(AxisType.Explicit)):  # where specs are
        for spec in (P(), P(None, "a"), P("a")):
            jax.jit(seen)(jax.device_put(x, spec))
    assert found == [1, 1, 2]


def test_explain_says_what_a_mesh_rules_out():
    x, w = jax.ShapeDtypeStruct((16, 2048, 128), "float32"), jax.ShapeDtypeStruct((4, 64, 128), "float32")

    def explained(shape, names):
        sharding = NamedSharding(mesh(AxisType.Auto, shape, names), P())
        return jaxdeconv.explain(jaxdeconv.conv1d_transpose, *(each.update(sharding=sharding) for each in (x, w)), None, 2)

    one, several, unknown = (
        explained((8,), ("a",)),
        explained((2, 4), ("a", "b")),
        jaxdeconv.explain(jaxdeconv.conv1d_transpose, x, w, None, 2),
    )
    assert (one.mesh_axes, several.mesh_axes, unknown.mesh_axes) == (1, 2, 2)
    assert one.lowerings["filter_grad"]["gpu"] == one.lowerings["input_grad"]["tpu"] == "dilated"
    assert several.lowerings == unknown.lowerings
    assert {name for each in several.lowerings.values() for name in each.values()} == {"matmul"}
    assert "\n  may be cut over     several axes of a mesh\n" in str(several)


WRONG = pytest.mark.xfail(strict=True, reason="XLA's partitioner sums over every device, the replicas included; docs/limitations.md")


def lax_filter_gradient(x, groups=1):
    def convolution(w):
        return jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups)

    return jax.grad(lambda w: jnp.sum(jnp.sin(convolution(w))))(W[:, : 8 // groups])


def filter_gradient(x, groups=1):
    def op(w):
        return jaxdeconv.conv1d_transpose(x, w, (8, 32, 8), 2, groups=groups, implementation="dilated")

    return jax.grad(lambda w: jnp.sum(jnp.sin(op(w))))(W[:, : 8 // groups])


BESIDE_A_REPLICA = {"width": (P(None, "a"), 1), "depthwise batch": (P("a"), 8), "depthwise width": (P(None, "a"), 8)}
TOO_LARGE = [
    pytest.param(
        gradient, *BESIDE_A_REPLICA[spec], id=f"{spec}-{whose}", marks=[WRONG] * ((spec, whose) != ("depthwise batch", "ours"))
    )
    for spec in BESIDE_A_REPLICA
    for whose, gradient in {"ours": filter_gradient, "lax": lax_filter_gradient}.items()
]


@pytest.mark.parametrize(("gradient", "spec", "groups"), TOO_LARGE)
def test_convolutions_by_name_with_a_replicated_axis(gradient, spec, groups):
    """The filter gradient of any convolution, also of an ordinary lax one, is then too large by the number of replicas.

    But for ours of a depthwise one in the order of XLA's fast path on CPU, where the batch is cut.
    """
    sharded = jax.device_put(X, NamedSharding(mesh(AxisType.Auto), spec))
    np.testing.assert_allclose(
        jax.jit(partial(gradient, groups=groups))(sharded), gradient(jnp.asarray(X), groups), rtol=1e-11, atol=1e-11
    )


GROUPS_IN_PARTS = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxdeconv
mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
x, w, g = (rng.standard_normal(shape, np.float32) for shape in ((8, 16, 32), (4, 8, 32), (8, 32, 32)))
gradients = lambda x, w, g: jax.vjp(lambda x, w: jaxdeconv.conv1d_transpose(x, w, g.shape, 2, groups=4), x, w)[1](g)
placed = jax.device_put(x, NamedSharding(mesh, P(None, None, "a"))), *jax.device_put((w, g), NamedSharding(mesh, P()))
for actual, right in zip(jax.jit(gradients)(*placed), gradients(x, w, g)):
    np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-4)
"""


def test_groups_that_are_cut_in_parts():
    """A filter gradient by batch groups, of channels of x over more devices than groups, would end the process."""
    found = subprocess.run([sys.executable, "-c", GROUPS_IN_PARTS], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]


def test_explicit_groups_that_are_cut_in_parts():
    """Convolutions of which XLA refuses: 4 groups of 2 channels, over 8 devices."""
    x, w = RNG.standard_normal((1, 16, 8)), RNG.standard_normal((1, 2, 8))

    def gradients(x, w):
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(jaxdeconv.conv1d_transpose(x, w, None, 1, groups=4))), (0, 1))(x, w)

    with jax.set_mesh(mesh(AxisType.Explicit, (8,), ("a",))):
        found = jax.jit(gradients)(jax.device_put(x, P(None, None, "a")), w)
    for actual, right in zip(found, gradients(x, w), strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-11, atol=1e-11)


EXPLICIT = {**SPECS, "width": (P(None, "a"), P()), "filters of one input": (P(), P(None, "a"))}


@pytest.mark.parametrize("implementation", [None, "matmul"])
@pytest.mark.parametrize("case", EXPLICIT)
def test_explicit_axes(case, implementation):
    """Gradients are sharded as what they are of; y by its batch and width as x, by its channels as w."""
    with jax.set_mesh(mesh(AxisType.Explicit)):
        x, w = (jax.device_put(each, spec) for each, spec in zip((X, W), EXPLICIT[case], strict=True))

        def both(x, w):
            y, vjp = jax.vjp(lambda x, w: jaxdeconv.conv1d_transpose(x, w, None, 2, implementation=implementation), x, w)
            return y, vjp(jnp.cos(y))

        y, (dx, dw) = jax.jit(both)(x, w)
        assert jax.typeof(dx).sharding.spec == jax.typeof(x).sharding.spec
        assert jax.typeof(dw).sharding.spec == jax.typeof(w).sharding.spec
        of_x, of_w, of_y = (_partitioning.entries(each) for each in (x, w, y))
        assert of_y == [*of_x[:2], of_w[1]]
        check(lambda *_: (y, (dx, dw)))
        if implementation is None:
            check(both, x, w)


def test_explicit_axes_under_vmap():
    """The sharded axis is hidden there. Both gradients, second derivatives, and a layer that knows one example only."""
    with jax.set_mesh(mesh(AxisType.Explicit)):
        x, w = jax.device_put(X, P("a")), jax.device_put(W, P())

        def each(op):
            def loss(x, w):
                return jnp.sum(jnp.sin(jax.vmap(op, (0, None))(x, w)))

            return lambda x, w: (loss(x, w), jax.grad(loss, (0, 1))(x, w), jax.jvp(jax.grad(loss, (0, 1)), (x, w), (x, w))[1])

        def of_tf(x, w):
            return jaxdeconv.conv1d_transpose(x[None], w, None, 2)[0]

        def of_torch(x, w):
            return jaxdeconv.torch.conv_transpose1d(x.T, w.transpose(2, 1, 0), stride=2, padding=1).T

        for op in (of_tf, of_torch):
            for actual, right in zip(*map(jax.tree.leaves, (jax.jit(each(op))(x, w), each(op)(X, W))), strict=True):
                np.testing.assert_allclose(actual, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("specs", [(P("a"), P()), (P(), P("a")), (P("a"), P("b")), (P(), P(None, None, "a"))], ids=str)
def test_several_filters_of_one_input(kind, specs):
    """Mapped over, they become channels; sharded along the filters, the batch, both, and along the channels."""
    several, given = jnp.stack([W, -W, W / 2, 3 * W]), mesh(kind)

    def of_one(x, w):
        return jaxdeconv.conv1d_transpose(x, w, None, 2)

    def loss(x, w):
        return jnp.sum(jnp.sin(jax.vmap(of_one, (None, 0))(x, w)))

    expected = jax.grad(lambda x, ws: sum(jnp.sum(jnp.sin(of_one(x, w))) for w in ws), (0, 1))(X, several)
    with jax.set_mesh(given):
        x, w = (jax.device_put(a, NamedSharding(given, spec)) for a, spec in zip((X, several), specs, strict=True))
        for actual, right in zip(jax.jit(jax.grad(loss, (0, 1)))(x, w), expected, strict=True):
            np.testing.assert_allclose(actual, right, rtol=1e-10, atol=1e-10)


def shard(function, in_specs, out_specs, **keywords):
    return jax.jit(
        jax.shard_map(function, mesh=mesh(AxisType.Auto, (8,), ("a",)), in_specs=in_specs, out_specs=out_specs, **keywords)
    )


@pytest.mark.parametrize("check_vma", [False, True])
def test_gradients_of_shard_map(check_vma):
    mapped = shard(op, (P("a"), P()), P("a"), check_vma=check_vma)
    check(lambda x, w: (mapped(x, w), jax.grad(lambda x, w: jnp.sum(jnp.sin(mapped(x, w))), (0, 1))(x, w)), X, W)


def test_gradients_inside_shard_map():
    """A replicated filter's gradient is summed over the mesh, as lax does it; with check_vma=False that is left to the user."""
    check(shard(both, (P("a"), P()), (P("a"), (P("a"), P()))), X, W)

    def summed(x, w):
        y, (dx, dw) = both(x, w)
        return y, (dx, jax.lax.psum(dw, "a"))

    check(shard(summed, (P("a"), P()), (P("a"), (P("a"), P())), check_vma=False), X, W)


def test_a_filter_per_device():
    """Filters that vary over the mesh and an input that does not: now it is the input's gradient that is summed."""
    ws = RNG.standard_normal((8, 4, 8, 8))

    def local(x, w):
        return gradients(x, w[0])[0]

    expected = sum(gradients(X, w)[0] for w in ws)
    np.testing.assert_allclose(shard(local, (P(), P("a")), P())(X, ws), expected, rtol=1e-11, atol=1e-11)


def test_second_derivatives_inside_shard_map():
    def curvature(x, w):
        return jax.jvp(lambda w: jax.grad(lambda w: jnp.sum(jnp.sin(op(x, w))))(w), (w,), (w,))[1]

    np.testing.assert_allclose(shard(curvature, (P("a"), P()), P())(X, W), curvature(X, W), rtol=1e-10, atol=1e-10)


def documented(name):
    """A function of docs/sharding.md."""
    text = (Path(__file__).parent.parent / "docs" / "sharding.md").read_text()
    (code,) = re.findall(rf"^```python\n(def {name}\(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    namespace = {"jax": jax, "jnp": jnp, "jaxdeconv": jaxdeconv}
    exec(compile(code, "docs/sharding.md", "exec"), namespace)
    return namespace[name]


WIDTH = ("a",)


@pytest.mark.parametrize(
    ("k", "s", "crops", "groups", "names"),
    [
        (2, 2, (0, 0), 1, WIDTH),
        (7, 3, (1, 3), 1, WIDTH),
        (5, 2, (0, 3), 4, WIDTH),
        (4, 2, (1, 1), 1, ("batch", "a")),
        (4, 2, (2, 0), 2, ("replica", "a")),
    ],
)
def test_halos_by_hand(k, s, crops, groups, names):
    """Both gradients come out of those of ppermute; the filter's also beside replicas, which XLA's partitioner gets wrong."""
    halos = documented("with_halos")
    x, w = RNG.standard_normal((2, 24, 8)), RNG.standard_normal((k, 4 // groups, 8))
    devices = mesh(AxisType.Auto, (8,) if names == WIDTH else (2, 4), names)
    along = P("batch" if "batch" in names else None, "a")
    local = partial(halos, stride=s, crops=crops, axis="a", groups=groups)

    def whole(x, w):
        keywords = {"transpose_kernel": True, "use_consistent_padding": True, "feature_group_count": groups}
        return jaxdeconv.lax.conv_transpose(x, w, (s,), (crops,), **keywords)

    def all_three(op, x, w):
        y, vjp = jax.vjp(op, x, w)
        return y, *vjp(jnp.sin(y))

    sharded = jax.shard_map(local, mesh=devices, in_specs=(along, P()), out_specs=along)
    for actual, expected in zip(jax.jit(partial(all_three, sharded))(x, w), all_three(whole, x, w), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)

"""Sharded arguments under jit, with automatic and explicit axes, and shard_map, on eight simulated devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdeconv

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


def ordinary_filter_gradient(x):
    convolution = lambda w: jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))  # noqa: E731
    return jax.grad(lambda w: jnp.sum(jnp.sin(convolution(w))))(W)


def filter_gradient(x, implementation=None):
    return jax.grad(lambda w: jnp.sum(jnp.sin(jaxdeconv.conv1d_transpose(x, w, None, 2, implementation=implementation))))(W)


def check_width_alone_with_a_replicated_axis(gradient):
    sharded = jax.device_put(X, NamedSharding(mesh(AxisType.Auto), P(None, "a")))
    np.testing.assert_allclose(jax.jit(gradient)(sharded), gradient(jnp.asarray(X)), rtol=1e-11, atol=1e-11)


def test_width_alone_with_a_replicated_axis():
    """As a matrix product, which is the choice on CPU here, the filter gradient is right."""
    check_width_alone_with_a_replicated_axis(filter_gradient)


@pytest.mark.parametrize(
    "gradient", [partial(filter_gradient, implementation="dilated"), ordinary_filter_gradient], ids=["ours", "lax"]
)
@pytest.mark.xfail(strict=True, reason="XLA's partitioner sums over every device, the replicas included; docs/limitations.md")
def test_convolutions_of_width_alone_with_a_replicated_axis(gradient):
    """The filter gradient of any convolution, also of an ordinary lax one, is then too large by the number of replicas."""
    check_width_alone_with_a_replicated_axis(gradient)


@pytest.mark.parametrize("case", ["batch", "batch over two axes"])
def test_explicit_axes(case):
    with jax.set_mesh(mesh(AxisType.Explicit)):
        x, w = (jax.device_put(each, spec) for each, spec in zip((X, W), SPECS[case], strict=True))
        dx, dw = jax.jit(gradients)(x, w)
        assert jax.typeof(dx).sharding.spec == jax.typeof(x).sharding.spec
        assert jax.typeof(dw).sharding.spec == jax.typeof(w).sharding.spec
        check(jax.jit(both), x, w)


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

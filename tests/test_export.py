"""jax.export with symbolic sizes for every platform at once, serialised and called back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxdeconv

W = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
LENGTHS = {
    "SAME": {"default": None, "2W - 1": lambda width: 2 * width - 1},
    "VALID": {"default": None, "2W + 4": lambda width: 2 * width + 4},
}


def operand(batch, width, data_format):
    return (batch, width, 4) if data_format == "NWC" else (batch, 4, width)


def function(padding, data_format, length, gradients):
    def op(x, w):
        axis = 1 if data_format == "NWC" else 2
        sizes = length and [x.shape[0], length(x.shape[axis]), 3]
        shape = sizes if data_format == "NWC" or not sizes else [sizes[0], sizes[2], sizes[1]]
        return jaxdeconv.conv1d_transpose(x, w, shape, 2, padding, data_format)

    return jax.grad(lambda x, w: jnp.sum(jnp.sin(op(x, w))), (0, 1)) if gradients else op


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("data_format", ["NWC", "NCW"])
@pytest.mark.parametrize(("padding", "length"), [(padding, length) for padding in LENGTHS for length in LENGTHS[padding]])
def test_symbolic_batch_and_width(padding, length, data_format, gradients):
    run = function(padding, data_format, LENGTHS[padding][length], gradients)
    shape = operand(*export.symbolic_shape("b, w"), data_format)
    arguments = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32)
    exported = export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(*arguments)
    called_back = export.deserialize(exported.serialize())
    assert called_back.platforms == ("cpu", "cuda", "tpu")
    for batch, width in ((1, 1), (2, 7)):
        x = np.random.default_rng(1).standard_normal(operand(batch, width, data_format)).astype(np.float32)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), called_back.call(x, W), run(x, W))


def test_gradient_of_an_exported_program():
    """The artifact carries our gradient rules: its derivative is the derivative."""
    run = function("SAME", "NWC", None, gradients=False)
    shape = operand(*export.symbolic_shape("b, w"), "NWC")
    exported = export.export(jax.jit(run))(jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32))
    called_back = export.deserialize(exported.serialize(vjp_order=1))
    x = np.ones(operand(2, 5, "NWC"), np.float32)
    actual = jax.grad(lambda x, w: jnp.sum(jnp.sin(called_back.call(x, w))), (0, 1))(x, W)
    expected = jax.grad(lambda x, w: jnp.sum(jnp.sin(run(x, w))), (0, 1))(x, W)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), actual, expected)


@pytest.mark.parametrize("length", [lambda width: 8, lambda width: 3 * width, lambda width: 2 * width + 1, lambda width: width])
def test_a_length_that_is_not_valid_for_every_width(length):
    run = function("SAME", "NWC", length, gradients=False)
    shape = operand(*export.symbolic_shape("b, w"), "NWC")
    with pytest.raises(ValueError, match=r"needs output_shape\[1\] from 2\*w - 1 to 2\*w"):
        export.export(jax.jit(run))(jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32))

"""Zero batch, zero input channels and zero width: empty or zero results, and gradients of the right shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled

import jaxdeconv

# (x shape, w shape, output_shape), channels last
EMPTY = {
    "batch": ((0, 4, 4), (3, 2, 4), (0, 8, 2)),
    "input channels": ((2, 4, 0), (3, 2, 0), (2, 8, 2)),
    "input channels, groups": ((2, 4, 0), (3, 2, 0), (2, 8, 6)),
    "width": ((2, 0, 4), (3, 2, 4), (2, 0, 2)),
    "width, groups": ((2, 0, 4), (3, 2, 4), (2, 0, 4)),
    "width, kernel shorter than stride": ((2, 0, 4), (1, 2, 4), (2, 0, 2)),
    "all": ((0, 0, 0), (3, 2, 0), (0, 0, 2)),
}


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("data_format", ["NWC", "NCW"])
@pytest.mark.parametrize("dilation", sampled([2, 1], 2))
def test_empty(kind, data_format, dilation):
    x_shape, w_shape, y_shape = EMPTY[kind]
    groups = y_shape[-1] // w_shape[1]
    if data_format == "NCW":
        x_shape, y_shape = (tuple(np.array(shape)[[0, 2, 1]].tolist()) for shape in (x_shape, y_shape))
    x, w = jnp.ones(x_shape), jnp.ones(w_shape)

    def op(x, w):
        return jaxdeconv.conv1d_transpose(x, w, y_shape, 2, "SAME", data_format, dilation, groups=groups)

    y, vjp = jax.vjp(op, x, w)
    np.testing.assert_array_equal(y, np.zeros(y_shape))
    assert y.dtype == x.dtype
    dx, dw = vjp(jnp.ones_like(y))
    np.testing.assert_array_equal(dx, np.zeros(x_shape))
    np.testing.assert_array_equal(dw, np.zeros(w_shape))
    second = jax.grad(lambda x, w: sum(each.sum() for each in jax.grad(lambda x, w: (op(x, w) ** 2).sum(), (0, 1))(x, w)), (0, 1))(
        x, w
    )
    assert [each.shape for each in second] == [x_shape, w_shape]


def test_default_output_shape():
    w = jnp.ones((3, 2, 4))
    assert jaxdeconv.conv1d_transpose(jnp.ones((2, 0, 4)), w, None, 2).shape == (2, 0, 2)
    assert jaxdeconv.conv1d_transpose(jnp.ones((0, 4, 4)), w, None, 2, "VALID").shape == (0, 9, 2)
    assert jax.vmap(lambda x: jaxdeconv.conv1d_transpose(x, w, None, 2))(jnp.ones((3, 2, 0, 4))).shape == (3, 2, 0, 2)

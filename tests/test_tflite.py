"""What jax2tf makes of calls of this package: TensorFlow's SavedModel, and TFLite, run by its interpreter. docs/leaving-jax.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeconv

CALLS = {1: jaxdeconv.conv1d_transpose, 2: jaxdeconv.conv2d_transpose, 3: jaxdeconv.conv3d_transpose}
WIDTH, INPUTS, OUTPUTS = 6, 8, 6

pytestmark = pytest.mark.filterwarnings("default")  # TensorFlow's own


@pytest.fixture(autouse=True)
def ordinary():
    """JAX as most users have it."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def converted(tf, f, shape, **options):
    """A module of TensorFlow that has a function of JAX."""
    from jax.experimental import jax2tf  # which imports TensorFlow

    module = tf.Module()
    module.f = tf.function(jax2tf.convert(f, **options), autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32)])
    return module


def in_tflite(tf, f, x):
    module = converted(tf, f, x.shape)
    model = tf.lite.TFLiteConverter.from_concrete_functions([module.f.get_concrete_function()], module).convert()
    interpreter = tf.lite.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def drawn(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def layer(ndim, kernel, strides=2, crops=None, length=None, dilations=1, groups=1, channels_last=True):
    """A call, but for its implementation, and an x. Crops and length are of every dimension; without them it is SAME."""
    w = drawn(*[kernel] * ndim, OUTPUTS // groups, INPUTS)
    sizes = length and [1, *[length] * ndim, OUTPUTS]
    padding = "SAME" if crops is None else [[0, 0], *[list(crops)] * ndim, [0, 0]]
    x, data_format = drawn(1, *[WIDTH] * ndim, INPUTS), None
    if not channels_last:
        x, data_format = np.moveaxis(x, -1, 1).copy(), {1: "NCW", 2: "NCHW"}[ndim]

    def call(x, **keywords):
        return CALLS[ndim](x, w, sizes, strides, padding, data_format, dilations, groups=groups, **keywords)

    return call, x


CALLED = {
    "SAME": {"kernel": 4},
    "SAME, an odd crop": {"kernel": 3},
    "SAME, three cropped": {"kernel": 5},
    "SAME, one tap a phase": {"kernel": 2},
    "SAME, fewer taps than the stride": {"kernel": 2, "strides": 3},
    "stride 1": {"kernel": 3, "strides": 1},
    "nothing cropped": {"kernel": 4, "crops": (0, 0), "length": 2 * WIDTH + 2},
    "an odd length": {"kernel": 4, "length": 2 * WIDTH - 1},
    "the start cropped": {"kernel": 3, "crops": (1, 0), "length": 2 * WIDTH},
    "the end cropped": {"kernel": 4, "crops": (0, 2), "length": 2 * WIDTH},
    "both ends cropped": {"kernel": 3, "crops": (1, 1), "length": 2 * WIDTH - 1},
    "dilations": {"kernel": 4, "dilations": 3},
    "groups": {"kernel": 4, "groups": 2},
    "channels first": {"kernel": 4, "channels_last": False},
}


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("ndim", [1, 2])
def test_polyphase_is_right_in_tflite(tf, ndim, name):
    call, x = layer(ndim, **CALLED[name])
    actual = in_tflite(tf, lambda x: call(x, implementation="polyphase"), x)
    np.testing.assert_allclose(actual, call(x), atol=1e-4)


def test_a_model_by_defaults(tf):
    """Inside of the function, since what JAX traced before it keeps."""
    first, x = layer(2, 4)
    second = drawn(3, 3, 2, OUTPUTS)

    def model(x):
        return jaxdeconv.conv2d_transpose(jax.nn.leaky_relu(first(x)), second, None, 2)

    def named(x):
        with jaxdeconv.defaults(implementation="polyphase"):
            return model(x)

    expected = model(x)
    np.testing.assert_allclose(in_tflite(tf, named, x), expected, atol=1e-3)


@pytest.mark.parametrize("strides", [1, [1, 1, 2], [1, 2, 1], [2, 1, 1]])
def test_polyphase_in_three_dimensions_with_one_stride(tf, strides):
    call, x = layer(3, 3, strides)
    np.testing.assert_allclose(in_tflite(tf, lambda x: call(x, implementation="polyphase"), x), call(x), atol=1e-4)


@pytest.mark.parametrize("name", [None, "dilated", "matmul", "polyphase"])
def test_three_dimensions_with_strides_are_refused(tf, name):
    call, x = layer(3, 4)
    with pytest.raises(Exception, match=r"at most [56]-D|convolution"):
        in_tflite(tf, lambda x: call(x, implementation=name), x)


# What the page warns of. Where one of these fails, TensorFlow's converter has changed, and the page is to say so.
WRONG = ["SAME, an odd crop", "the start cropped", "the end cropped", "dilations"]


@pytest.mark.parametrize("name", WRONG)
def test_dilated_is_wrong_in_tflite_without_an_error(tf, name):
    call, x = layer(2, **CALLED[name])
    actual, expected = in_tflite(tf, lambda x: call(x, implementation="dilated"), x), call(x)
    assert actual.shape != expected.shape or np.abs(actual - expected).max() > 1


def test_dilated_is_wrong_in_one_dimension_too(tf):
    """A resize, whatever the filter, where as many channels go out as in."""
    w, x = drawn(3, INPUTS, INPUTS), drawn(1, WIDTH, INPUTS)

    def call(x, name):
        return jaxdeconv.conv1d_transpose(x, w, [1, 2 * WIDTH - 1, INPUTS], 2, [[0, 0], [1, 1], [0, 0]], implementation=name)

    assert np.abs(in_tflite(tf, lambda x: call(x, "dilated"), x) - call(x, None)).max() > 1


@pytest.mark.parametrize("name", ["SAME", "SAME, three cropped", "nothing cropped", "groups"])
def test_dilated_is_right_in_tflite(tf, name):
    call, x = layer(2, **CALLED[name])
    np.testing.assert_allclose(in_tflite(tf, lambda x: call(x, implementation="dilated"), x), call(x), atol=1e-4)


def test_matmul_in_two_dimensions_is_refused(tf):
    call, x = layer(2, 4)
    with pytest.raises(Exception, match="at most 5-D"):
        in_tflite(tf, lambda x: call(x, implementation="matmul"), x)


@pytest.mark.parametrize("name", ["SAME", "an odd length", "dilations", "groups"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_in_tensorflow_by_the_choice(tf, ndim, name):
    call, x = layer(ndim, **CALLED[name])
    np.testing.assert_allclose(converted(tf, call, x.shape).f(x), call(x), atol=1e-3)


def test_saved_model_of_any_size_with_its_gradient(tf, tmp_path):
    w = drawn(4, OUTPUTS, INPUTS)

    def upsample(x):
        return jaxdeconv.conv1d_transpose(x, w, None, 2)

    shape, sizes = [None, None, INPUTS], f"batch, width, {INPUTS}"
    module = converted(tf, upsample, shape, polymorphic_shapes=[sizes], native_serialization_platforms=("cpu", "cuda", "tpu"))
    tf.saved_model.save(module, tmp_path, options=tf.saved_model.SaveOptions(experimental_custom_gradients=True))
    loaded = tf.saved_model.load(tmp_path)
    for batch, width in ((1, 7), (3, 20)):
        x = drawn(batch, width, INPUTS)
        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            y = loaded.f(variable)
            loss = tf.reduce_sum(tf.sin(y))
        np.testing.assert_allclose(y, upsample(x), atol=1e-4)
        np.testing.assert_allclose(tape.gradient(loss, variable), jax.grad(lambda x: jnp.sin(upsample(x)).sum())(x), atol=1e-3)

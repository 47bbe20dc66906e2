"""Two and three dimensions, and four of the core: the properties that the other tests hold of one dimension, against the oracle."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import sampled
from jax import export
from jax.test_util import check_grads

import jaxdeconv
from jaxdeconv import _call
from jaxdeconv._geometry import Geometry

QUICK = {"xla_backend_optimization_level": 0}  # to compile, which takes the time
FORMATS = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}


class Case(NamedTuple):
    """One call, without its operands. padding is a name or, per spatial dimension, a pair."""

    function: str
    batch: int
    spatial: tuple
    channels: tuple  # in, out, groups
    kernel: tuple
    strides: tuple
    dilations: tuple
    padding: object
    channels_last: bool
    lengths: tuple

    @property
    def keywords(self):
        ndim = len(self.spatial)
        padding = self.padding
        if padding not in ("SAME", "VALID"):
            padding = [[0, 0], *padding, [0, 0]] if self.channels_last else [[0, 0], [0, 0], *padding]
        return {
            "output_shape": self.shape(self.lengths, self.channels[1]),
            "strides": self.strides,
            "padding": padding,
            "data_format": FORMATS[ndim][not self.channels_last],
            "dilations": self.dilations,
        } | ({"groups": self.channels[2]} if self.channels[2] > 1 else {})

    def shape(self, sizes, features):
        return (self.batch, *sizes, features) if self.channels_last else (self.batch, features, *sizes)

    def op(self, **changes):
        return lambda x, w: getattr(jaxdeconv, self.function)(x, w, **self.keywords | changes)

    def operands(self, seed=0, dtype=np.float64):
        """x, w, g in this case's layout."""
        rng = np.random.default_rng(seed)
        inputs, outputs, groups = self.channels
        shapes = self.shape(self.spatial, inputs), (*self.kernel, outputs // groups, inputs), self.shape(self.lengths, outputs)
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]

    @property
    def window(self):
        """The oracle's trailing arguments."""
        pads = [self.padding] * len(self.spatial) if isinstance(self.padding, str) else self.padding
        sizes = zip(pads, self.lengths, self.spatial, self.kernel, self.strides, self.dilations, strict=True)
        crops = tuple(oracle.tensorflow_crop(*each) if isinstance(each[0], str) else each[0][0] for each in sizes)
        return self.strides, self.dilations, crops, self.channels[2]

    def expected(self, x, w, g):
        """T(x, w), C(g, w) and F(x, g) by the oracle, in this case's layout."""
        if not self.channels_last:
            x, g = np.moveaxis(x, 1, -1), np.moveaxis(g, 1, -1)
        y = oracle.transpose(x, w, self.lengths, *self.window)
        dx = oracle.input_grad(g, w, self.spatial, *self.window)
        dw = oracle.filter_grad(x, g, self.kernel, *self.window)
        return (y, dx, dw) if self.channels_last else (np.moveaxis(y, -1, 1), np.moveaxis(dx, -1, 1), dw)


def valid_lengths(padding, size, kernel, stride, dilation):
    """As the oracle has them, and for a pair: the strided convolution of the padded output has the input's size."""
    if isinstance(padding, str):
        return oracle.tensorflow_lengths(padding, size, kernel, stride, dilation)
    return [
        length - sum(padding)
        for length in oracle.tensorflow_lengths("VALID", size, kernel, stride, dilation)
        if length >= sum(padding)
    ]


def random_case(rng, ndim, generic):
    def draw(options):
        return options[rng.integers(len(options))]

    def each(options):
        return tuple(draw(options) for _ in range(ndim))

    spatial, kernel, dilations = each((1, 2, 3) if ndim == 3 else (1, 2, 3, 4)), each((1, 2, 3)), each((1, 1, 2))
    strides = each((1, 2, 3) if ndim == 3 else (1, 2, 3, 4))
    padding = draw(("SAME", "VALID", "explicit"))
    if padding == "explicit":
        padding = [tuple(rng.integers(0, 4, 2).tolist()) for _ in range(ndim)]
    pads = [padding] * ndim if isinstance(padding, str) else padding
    valid = [valid_lengths(*sizes) for sizes in zip(pads, spatial, kernel, strides, dilations, strict=True)]
    if not all(valid):  # more padding than there is to crop
        return random_case(rng, ndim, generic)
    channels = draw([(1, 1, 1), (3, 2, 1), (4, 6, 2), (3, 3, 3), (2, 4, 2)])
    function = "conv_transpose" if generic else f"conv{ndim}d_transpose"
    lengths = tuple(map(draw, valid))
    return Case(function, draw((1, 2)), spatial, channels, kernel, strides, dilations, padding, draw((True, False)), lengths)


def with_gradients(function, x, w, g):
    y, vjp = jax.vjp(function, x, w)
    return y, *vjp(g)


def close(actual, expected, tolerance=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, strict=True), actual, expected)


def together(functions, operands, **compiler_options):
    """Each function of its operands and the derivatives, compiled as one program: compiling is nearly all of the time."""

    def every(operands):
        return [with_gradients(function, *each) for function, each in zip(functions, operands, strict=True)]

    return jax.jit(every, compiler_options=compiler_options)(operands)


@pytest.mark.parametrize("part", sampled(range(4), 4))
@pytest.mark.parametrize(
    ("ndim", "generic", "count"),
    [(2, False, 30), pytest.param(3, False, 12, marks=pytest.mark.thorough), (1, True, 6), (2, True, 6), (3, True, 4)],
)
def test_random(ndim, generic, count, part):
    several = [random_case(np.random.default_rng([ndim, generic, part, index]), ndim, generic) for index in range(count)]
    operands = [case.operands() for case in several]
    for case, each, results in zip(several, operands, together([case.op() for case in several], operands, **QUICK), strict=True):
        for name, actual, expected in zip(("y", "dx", "dw"), results, case.expected(*each), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12, strict=True, err_msg=f"{name} of {case}")


# One of each kind: cropped; groups and dilations; explicit; depthwise; extended with zeros; three dimensions in either layout.
SAMPLES = [
    Case("conv2d_transpose", 2, (3, 4), (3, 2, 1), (3, 4), (2, 3), (1, 1), "SAME", True, (5, 11)),
    Case("conv2d_transpose", 1, (2, 3), (4, 6, 2), (3, 2), (2, 1), (2, 3), "VALID", False, (8, 6)),
    Case("conv2d_transpose", 2, (3, 2), (2, 3, 1), (4, 3), (2, 2), (1, 2), ((1, 0), (0, 3)), False, (7, 5)),
    Case("conv2d_transpose", 1, (3, 3), (3, 3, 3), (2, 3), (2, 1), (1, 1), ((0, 3), (2, 0)), True, (4, 3)),
    Case("conv_transpose", 1, (2, 2), (1, 2, 1), (1, 2), (3, 2), (1, 1), "SAME", True, (5, 4)),
    Case("conv3d_transpose", 1, (2, 1, 3), (2, 4, 2), (3, 2, 1), (2, 1, 3), (1, 2, 1), "VALID", True, (5, 3, 8)),
    Case("conv3d_transpose", 2, (2, 2, 2), (2, 1, 1), (2, 3, 3), (1, 2, 2), (2, 1, 1), "SAME", False, (2, 3, 4)),
]
samples = pytest.mark.parametrize("case", SAMPLES, ids=str)
some = pytest.mark.parametrize("case", sampled(SAMPLES, 2), ids=str)


def test_samples():
    operands = [case.operands() for case in SAMPLES]
    results = together([case.op() for case in SAMPLES], operands)
    close(results, [case.expected(*each) for case, each in zip(SAMPLES, operands, strict=True)])


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 0), (2, 1))])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("function", ["conv2d_transpose", "conv_transpose"])
def test_default_output_shape(function, padding, channels_last):
    """L = s*W under SAME, else (W-1)*s + max(ke, s), less explicit padding; of one group."""
    full = (2 * 2 + 5, 3 * 4 + 4)  # the kernel reaches 5 > 2, and 3 < 4
    lengths = (6, 16) if padding == "SAME" else full if padding == "VALID" else (full[0] - 1, full[1] - 3)
    case = Case(function, 1, (3, 4), (3, 2, 1), (3, 3), (2, 4), (2, 1), padding, channels_last, lengths)
    x, w, g = case.operands()
    close(case.op(output_shape=None)(x, w), case.expected(x, w, g)[0])
    if channels_last:
        close(case.op(output_shape=None, data_format=None)(x, w), case.expected(x, w, g)[0])


def test_default_output_shape_in_three_dimensions():
    x, w = np.ones((1, 2, 3, 1, 2)), np.ones((3, 1, 2, 5, 2))
    for function in (jaxdeconv.conv3d_transpose, jaxdeconv.conv_transpose):
        assert function(x, w, None, (2, 3, 1)).shape == (1, 4, 9, 1, 5)
        assert function(x, w, None, (2, 3, 1), "VALID").shape == (1, 5, 9, 2, 5)


def test_forms_of_arguments():
    """Every way to write one call is the same call."""
    case = SAMPLES[2]
    x, w, g = case.operands()
    y = case.expected(x, w, g)[0]
    twos = (2, [2], (2,), np.array([2]), np.int32(2), jnp.array(2), [2, 2], np.array([2, 2]), jnp.array([2, 2]), (1, 1, 2, 2))
    for strides in (*twos, [1, np.int8(1), 2, jnp.int32(2)]):
        close(case.op(strides=strides)(x, w), y)
    for dilations in ((1, 2), np.array([1, 2]), [1, 1, 1, 2], jnp.array([1, 1, 1, 2])):
        close(case.op(dilations=dilations)(x, w), y)
    pads = case.keywords["padding"]
    for padding in (
        pads,
        tuple(map(tuple, pads)),
        np.array(pads),
        jnp.array(pads),
        list(map(np.array, pads)),
        [*map(jnp.array, pads)],
    ):
        close(case.op(padding=padding)(x, w), y)
        close(jaxdeconv.conv_transpose(x, w, [2, 3, 7, 5], 2, padding, "NCHW", [1, 2]), y)
    for shape in (
        [2, 3, 7, 5],
        [-1, 3, 7, 5],
        np.array([2, 3, 7, 5]),
        np.array([-1, 3, 7, 5]),
        jnp.array([2, 3, 7, 5]),
        [2, np.int64(3), 7, jnp.int8(5)],
    ):
        close(case.op(output_shape=shape)(x, w), y)
        close(case.op(output_shape=shape, name="name")(x, w), y)


# In one and three dimensions TensorFlow has no explicit padding; the rule is that of its two.
EXPLICIT = [
    Case("conv1d_transpose", 2, (3,), (3, 2, 1), (4,), (2,), (1,), ((1, 2),), True, (5,)),
    Case("conv1d_transpose", 1, (4,), (4, 2, 2), (3,), (3,), (2,), ((0, 3),), False, (13,)),
    Case("conv_transpose", 1, (3,), (1, 2, 1), (3,), (2,), (1,), ((2, 0),), True, (6,)),
    Case("conv3d_transpose", 1, (2, 3, 2), (2, 3, 1), (3, 2, 3), (2, 1, 2), (1, 2, 1), ((1, 0), (0, 2), (1, 1)), True, (4, 3, 4)),
    Case("conv3d_transpose", 2, (2, 1, 2), (2, 2, 2), (2, 3, 3), (2, 2, 1), (1, 1, 1), ((0, 1), (1, 0), (2, 1)), False, (3, 2, 1)),
]


def test_explicit_padding_in_one_and_three_dimensions():
    operands = [case.operands() for case in EXPLICIT]
    results = together([case.op() for case in EXPLICIT], operands)
    close(results, [case.expected(*each) for case, each in zip(EXPLICIT, operands, strict=True)])
    for case, (x, w, _), (y, *_) in zip(EXPLICIT, operands, results, strict=True):
        close(case.op(padding=np.array(case.keywords["padding"]), output_shape=case.shape(case.lengths, case.channels[1]))(x, w), y)
    assert jaxdeconv.conv1d_transpose(np.ones((1, 3, 1)), np.ones((4, 1, 1)), None, 2, [[0, 0], [1, 2], [0, 0]]).shape == (1, 5, 1)


def test_a_batch_that_is_not_named():
    """-1, of a symbolic batch too."""
    w = np.ones((3, 3, 2, 4))

    def op(x):
        return jaxdeconv.conv2d_transpose(x, w, [-1, 2 * x.shape[1], 8, 2], 2)

    exported = export.export(jax.jit(op))(jax.ShapeDtypeStruct(export.symbolic_shape("b, h, 4, 4"), np.float64))
    x = np.random.default_rng(0).standard_normal((3, 5, 4, 4))
    np.testing.assert_allclose(exported.call(x), jaxdeconv.conv2d_transpose(x, w, [3, 10, 8, 2], 2), rtol=1e-12)


@samples
def test_finite_differences(case):
    x, w, _ = case.operands()
    # The map is bilinear: a central difference of any width is exact but for rounding, so eps=1 and a tight tolerance.
    check_grads(jax.jit(case.op()), (x, w), order=1, modes=["rev"], eps=1.0, atol=1e-11, rtol=1e-11)


@some
def test_jvp_of_grad(case):
    """Against JAX's own derivatives of the undecorated op, which uses none of our rules."""
    x, w, _ = case.operands()
    tangents = case.operands(1)[:2]

    def second(**changes):
        def loss(x, w):
            return jnp.sum(jnp.sin(case.op(**changes)(x, w)))

        return jax.jit(lambda *primals: jax.jvp(jax.grad(loss, (0, 1)), primals, tuple(tangents)), compiler_options=QUICK)(x, w)

    close(second(), second(forward_mode=True), 1e-11)


@some
def test_vmap(case):
    """Over inputs, filters, both, and a leading axis of three and then two."""
    xs, ws, gs = (np.stack(each) for each in zip(*map(case.operands, range(6)), strict=True))
    every = jax.vmap(lambda x, w, g: with_gradients(case.op(), x, w, g))
    inputs = jax.vmap(lambda x, w, g: with_gradients(case.op(), x, w, g), (0, None, 0))
    filters = jax.vmap(lambda x, w, g: with_gradients(case.op(), x, w, g), (None, 0, 0))
    batches = jax.vmap(inputs, (0, None, 0))
    grids = [each.reshape(3, 2, *each.shape[1:]) for each in (xs, gs)]
    results = jax.jit(
        lambda xs, ws, gs, grids: (
            every(xs[:2], ws[:2], gs[:2]),
            inputs(xs[:2], ws[0], gs[:2]),
            filters(xs[0], ws[:2], gs[:2]),
            batches(grids[0], ws[0], grids[1]),
        ),
        compiler_options=QUICK,
    )(xs, ws, gs, grids)

    def loop(x_of, w_of, count):
        each = [case.expected(xs[x_of(index)], ws[w_of(index)], gs[index]) for index in range(count)]
        return tuple(np.stack(several) for several in zip(*each, strict=True))

    first, own = (lambda index: 0), (lambda index: index)
    close(results[:3], (loop(own, own, 2), loop(own, first, 2), loop(first, own, 2)))
    close(results[3], tuple(each.reshape(3, 2, *each.shape[1:]) for each in loop(own, first, 6)))


@some
def test_vmap_over_one_operand_of_each_contraction(case):
    """Filters for one y, inputs for one gradient of a filter, gradients for one x: mapped channels, of the operand and the result."""
    (xs, ws, gs), op = (np.stack(each) for each in zip(*map(case.operands, range(3)), strict=True)), case.op()
    gradients = [
        jax.vmap(op, (None, 0)),
        jax.vmap(lambda g, w: jax.vjp(lambda x: op(x, w), xs[0])[1](g)[0], (None, 0)),
        jax.vmap(lambda x, g: jax.vjp(lambda w: op(x, w), ws[0])[1](g)[0], (0, None)),
        jax.vmap(lambda x, g: jax.vjp(lambda w: op(x, w), ws[0])[1](g)[0], (None, 0)),
    ]
    operands = (xs[0], ws), (gs[0], ws), (xs, gs[0]), (xs[0], gs)
    results = [jax.jit(each, compiler_options=QUICK)(*arrays) for each, arrays in zip(gradients, operands, strict=True)]
    expected = [
        [case.expected(xs[0], w, gs[0])[0] for w in ws],
        [case.expected(xs[0], w, gs[0])[1] for w in ws],
        [case.expected(x, ws[0], gs[0])[2] for x in xs],
        [case.expected(xs[0], ws[0], g)[2] for g in gs],
    ]
    close(results, [np.stack(each) for each in expected])


EMPTY = {
    "batch": (0, (2, 3), 4, (4, 5)),
    "input channels": (2, (2, 3), 0, (4, 5)),
    "height": (2, (0, 3), 4, (0, 5)),
    "width": (2, (2, 0), 4, (4, 0)),
    "all": (0, (0, 0), 0, (0, 0)),
}


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_empty(kind, channels_last, groups):
    batch, spatial, inputs, lengths = EMPTY[kind]
    case = Case("conv2d_transpose", batch, spatial, (inputs, 6, groups), (3, 2), (2, 2), (2, 1), "SAME", channels_last, lengths)
    x, w, g = case.operands()
    close(with_gradients(case.op(), x, w, g), (np.zeros_like(g), np.zeros_like(x), np.zeros_like(w)))
    deep = jaxdeconv.conv3d_transpose(np.ones((1, 2, 0, 3, 4)), np.ones((3, 3, 3, 2, 4)), None, 2)
    assert deep.shape == (1, 4, 0, 6, 2)


def test_an_explicit_output_of_no_size():
    """Padding may take all there is, as in TensorFlow."""
    x, w = np.ones((1, 2, 2, 1)), np.ones((2, 2, 1, 1))
    y = jaxdeconv.conv2d_transpose(x, w, [1, 0, 3, 1], 1, [[0, 0], [1, 2], [0, 0], [0, 0]])
    assert y.shape == (1, 0, 3, 1)
    assert jaxdeconv.conv2d_transpose(x, w, None, 1, [[0, 0], [1, 2], [0, 0], [0, 0]]).shape == (1, 0, 3, 1)


@pytest.mark.parametrize("ndim", [2, 3])
def test_channels_first_is_one_convolution(ndim):
    """Nothing is transposed on the way in or out: NCHW and NCDHW are of one kind with NHWC and NDHWC. CPU has an order of its own."""
    case = next(case for case in SAMPLES if len(case.spatial) == ndim and not case.channels_last and case.channels[2] == 1)
    x, w, g = case.operands()
    op = case.op(implementation="dilated")
    for function, operands, count in ((op, (x, w), 1), (lambda x, w, g: with_gradients(op, x, w, g), (x, w, g), 3)):
        text = jax.jit(function).trace(*operands).lower(lowering_platforms=("tpu",)).as_text()
        assert text.count("stablehlo.convolution") == count
        assert "stablehlo.transpose" not in text


EXPORTED = {
    "SAME": lambda size: 2 * size - 1,
    "VALID": lambda size: 2 * size + 2,
    "explicit": lambda size: 2 * size - 1,
}


@pytest.mark.parametrize("padding", sampled(EXPORTED, 2))
@pytest.mark.parametrize(("data_format", "given"), [("NHWC", True), ("NCHW", True), ("NCHW", False)])
def test_symbolic_batch_height_and_width(padding, data_format, given):
    pads = [[1, 1], [0, 2]]
    pads = [[0, 0], *pads, [0, 0]] if data_format == "NHWC" else [[0, 0], [0, 0], *pads]
    w = np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype(np.float32)

    def layout(batch, sizes, features):
        return (batch, *sizes, features) if data_format == "NHWC" else (batch, features, *sizes)

    def op(x, w):
        sizes = x.shape[1:3] if data_format == "NHWC" else x.shape[2:]
        shape = layout(x.shape[0], map(EXPORTED[padding], sizes), 2) if given else None
        return jaxdeconv.conv2d_transpose(x, w, shape, 2, pads if padding == "explicit" else padding, data_format)

    def run(x, w):
        return op(x, w), jax.grad(lambda x, w: jnp.sum(jnp.sin(op(x, w))), (0, 1))(x, w)

    batch, *sizes = export.symbolic_shape("b, h, w")
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (layout(batch, sizes, 4), w.shape)]
    exported = export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(*arguments)
    called_back = export.deserialize(exported.serialize())
    for batch, sizes in ((1, (1, 3)), (2, (4, 2))):
        x = np.random.default_rng(1).standard_normal(layout(batch, sizes, 4)).astype(np.float32)
        close(called_back.call(x, w), jax.jit(run, compiler_options=QUICK)(x, w), 2e-5)


def test_symbolic_sizes_in_three_dimensions_and_symbolic_channels():
    shape = export.symbolic_shape("b, d, h, w, c")
    x, w = (jax.ShapeDtypeStruct(each, jnp.float32) for each in (shape, (3, 3, 3, 2, shape[4])))
    y = jax.eval_shape(lambda x, w: jaxdeconv.conv_transpose(x, w, None, 2), x, w)
    assert y.shape == (shape[0], 2 * shape[1], 2 * shape[2], 2 * shape[3], 2)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_core_in_four_dimensions(channels_last, groups):
    """Asymmetric crops, and negative ones, which extend with zeros."""
    spatial, kernel, strides, dilations = (2, 1, 3, 2), (2, 3, 1, 2), (2, 1, 2, 3), (1, 1, 1, 2)
    crops = ((1, 0), (0, 2), (-2, 1), (-1, -3))
    check_core(spatial, kernel, strides, dilations, crops, channels_last, groups)


CROPS = list(itertools.product([(0, 0), (2, 1), (-3, 1), (1, -2), (-2, -1)], repeat=2))


@pytest.mark.parametrize("channels_last", sampled([False, True], 2))
def test_asymmetric_and_negative_crops(channels_last):
    check_core((3, 4), (3, 2), (2, 3), (2, 1), CROPS, channels_last, 1)


def check_core(spatial, kernel, strides, dilations, crops, channels_last, groups):
    several = crops if isinstance(crops, list) else [crops]
    geometries = [Geometry(kernel, strides, dilations, each, groups, channels_last) for each in several]
    options = _call.Options("core", "core", np.dtype(np.float64))
    functions = [lambda x, w, geometry=geometry: _call.conv_transpose(x, w, geometry, options) for geometry in geometries]
    rng = np.random.default_rng(0)
    operands, expected = [], []
    for each in several:
        sizes = zip(spatial, kernel, strides, dilations, each, strict=True)
        lengths = tuple((size - 1) * s + (k - 1) * d + 1 - sum(crop) for size, k, s, d, crop in sizes)
        shapes = (2, *spatial, 4), (*kernel, 6 // groups, 4), (2, *lengths, 6)
        x, w, g = map(rng.standard_normal, shapes)
        window = strides, dilations, [crop[0] for crop in each], groups
        y, dx = oracle.transpose(x, w, lengths, *window), oracle.input_grad(g, w, spatial, *window)
        dw = oracle.filter_grad(x, g, kernel, *window)
        if not channels_last:
            x, g, y, dx = (np.moveaxis(each, -1, 1) for each in (x, g, y, dx))
        operands.append((x, w, g))
        expected.append((y, dx, dw))
    close(together(functions, operands, **QUICK), expected)

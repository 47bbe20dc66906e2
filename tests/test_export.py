"""jax.export with symbolic sizes for every platform at once, serialised and called back."""

import re
from collections import Counter
from functools import partial
from itertools import product
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from jax import export
from jax.extend.mlir import ir

import jaxdeconv
from jaxdeconv import _contractions
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import Contraction
from jaxdeconv._platforms import lowering

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}  # as jax.export has them, and as the library has them
CONTRACTIONS = get_args(Contraction)
NAMES = ["dilated", "matmul", "polyphase"]
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


@pytest.mark.parametrize("gradients", sampled([True, False], 2))
@pytest.mark.parametrize("data_format", sampled(["NWC", "NCW"], 2))
@pytest.mark.parametrize(("padding", "length"), [(padding, length) for padding in LENGTHS for length in LENGTHS[padding]])
def test_symbolic_batch_and_width(padding, length, data_format, gradients):
    run = function(padding, data_format, LENGTHS[padding][length], gradients)
    shape = operand(*export.symbolic_shape("b, w"), data_format)
    arguments = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32)
    exported = export.export(jax.jit(run), platforms=tuple(PLATFORMS))(*arguments)
    called_back = export.deserialize(exported.serialize())
    assert called_back.platforms == tuple(PLATFORMS)
    for batch, width in ((1, 1), (2, 7)):
        x = np.random.default_rng(1).standard_normal(operand(batch, width, data_format)).astype(np.float32)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), called_back.call(x, W), run(x, W))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel", "crop"), [(1, 1), (3, 3)])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 3, 1), (40, 40, 40), (3, 3, 3), (4, 6, 2)])
def test_gradients_where_inputs_reach_nothing(inputs, outputs, groups, kernel, crop, channels_last):
    """Crops of more than ke - 1 cut inputs off, and JAX cannot tell whether b*h*w - b*h is negative."""
    batch, height, width = export.symbolic_shape("b, h, w", constraints=["h >= 8", "w >= 8"])
    rng = np.random.default_rng(0)
    w = rng.standard_normal((kernel, kernel, outputs // groups, inputs)).astype(np.float32)

    def shape(batch, height, width):
        return (batch, height, width, inputs) if channels_last else (batch, inputs, height, width)

    def run(x, w):
        spatial, layout = [(crop, crop)] * 2, "NHWC" if channels_last else "NCHW"
        padding = [(0, 0), *spatial, (0, 0)] if channels_last else [(0, 0), (0, 0), *spatial]
        return jnp.sum(jnp.sin(jaxdeconv.conv2d_transpose(x, w, None, 2, padding, layout, groups=groups)))

    gradients = jax.grad(run, (0, 1))
    x = jax.ShapeDtypeStruct(shape(batch, height, width), jnp.float32)
    exported = export.export(jax.jit(gradients), platforms=tuple(PLATFORMS))(x, jax.ShapeDtypeStruct(w.shape, jnp.float32))
    x = rng.standard_normal(shape(2, 8, 9)).astype(np.float32)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), exported.call(x, w), gradients(x, w))


def test_depthwise_filter_gradients_of_any_batch():
    """Item by item on TPU where they may be cut, and JAX has no convolution with a symbolic number of groups."""
    rng = np.random.default_rng(0)
    (batch,) = export.symbolic_shape("b")
    geometry = Geometry((3,), (2,), (1,), ((1, 0),), groups=4, channels_last=True)
    x, g = (rng.standard_normal((3, width, 4)).astype(np.float32) for width in (5, 10))
    for axes in (0, 1):
        own = partial(lowering("filter_grad", "dilated", "tpu", axes), geometry=geometry, precision=None)
        run = jax.jit(partial(own, preferred_element_type=np.dtype(np.float32)))
        exported = export.export(run)(*(jax.ShapeDtypeStruct((batch, *a.shape[1:]), jnp.float32) for a in (x, g)))
        np.testing.assert_allclose(exported.call(x, g), run(x, g), rtol=1e-5, atol=1e-5)


def test_gradient_of_an_exported_program():
    """The artifact carries our gradient rules: its derivative is the derivative, at every size."""
    run = function("SAME", "NWC", None, gradients=False)
    shape = operand(*export.symbolic_shape("b, w"), "NWC")
    arguments = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32)
    called_back = export.deserialize(export.export(jax.jit(run), platforms=tuple(PLATFORMS))(*arguments).serialize(vjp_order=1))
    for batch, width in ((1, 1), (2, 5), (3, 8)):
        x = np.random.default_rng(2).standard_normal(operand(batch, width, "NWC")).astype(np.float32)
        actual = jax.grad(lambda x, w: jnp.sum(jnp.sin(called_back.call(x, w))), (0, 1))(x, W)
        expected = jax.grad(lambda x, w: jnp.sum(jnp.sin(run(x, w))), (0, 1))(x, W)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), actual, expected)


def operations(exported, platform):
    """How often an artifact does what on a platform, arithmetic of sizes apart: all but the branches that other platforms take."""
    context = jax.jit(lambda x: x).lower(0.0).compiler_ir().context  # which knows the dialects
    module = ir.Module.parse(exported.mlir_module(), context)
    functions = {each.name.value: each for each in module.body.operations}
    known, found = {}, Counter()  # known: what each value is, where it follows from the platform alone

    def walk(block, arguments):
        known.update(zip(block.arguments, arguments, strict=True))
        for operation in block.operations:
            operation = operation.operation
            name, operands = operation.name, [known.get(each) for each in operation.operands]
            results = [None] * len(operation.results)
            if name.endswith(".return"):
                return operands
            if name == "stablehlo.constant":
                value = re.fullmatch(r"dense<(\d+)> : tensor<i\d+>", str(operation.attributes["value"]))
                results = [value and int(value[1])]
            elif name == "stablehlo.convert" and operands != [None]:
                results = operands
            elif name == "func.call":
                callee = functions[ir.FlatSymbolRefAttr(operation.attributes["callee"]).value]
                results = walk(callee.regions[0].blocks[0], operands)
            elif name == "stablehlo.case" and operands[0] is not None:
                results = walk(operation.regions[operands[0]].blocks[0], [])
            else:
                for region in operation.regions:
                    for inner in region.blocks:
                        walk(inner, [None] * len(inner.arguments))
                marker = "contracting_dims = [] x []" in str(operation)  # what checkpoint policies look for, which XLA drops
                if not marker and not all(re.fullmatch(r"tensor<(\d+x)?i\d+>", str(each.type)) for each in operation.results):
                    found[name if operation.regions else re.sub(r"%[\w#:]+", "%", str(operation))] += 1
            known.update(zip(operation.results, results, strict=True))
        return []

    main = functions["main"].regions[0].blocks[0]
    index = [exported.platforms.index(platform)] if len(exported.platforms) > 1 else []
    walk(main, index + [None] * (len(main.arguments) - len(index)))
    return found


def symbolic(kernel):
    """x, w and g."""
    batch, width = export.symbolic_shape("b, w")
    shapes = (batch, width, 4), (kernel, 3, 4), (batch, 2 * width, 3)
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def of_lowering(contraction, name, crops, platform, x, w, g):
    """What a lowering does, from itself."""
    geometry = Geometry(w.shape[:1], (2,), (1,), crops, groups=1, channels_last=True)
    operands = {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}[contraction]
    own = lowering(contraction, name, PLATFORMS[platform])
    run = partial(own, geometry=geometry, precision=None, preferred_element_type=np.dtype(np.float32))
    return operations(export.export(jax.jit(run), platforms=(platform,))(*operands), platform)


FORCED = {"chosen": None, **{" ".join(names): names for names in (NAMES, NAMES[1:] + NAMES[:1], NAMES[::-1])}}


@pytest.mark.parametrize("forced", sampled(FORCED, 3))
def test_each_platform_runs_its_own_lowering(forced, monkeypatch):
    """Of the op, of an exported gradient, and of the one that vjp_order=1 adds: what explain() says for sizes of 1024."""
    kernel = 5 + 2 * list(FORCED).index(forced)  # each its own, because jax.jit keeps what it has traced

    # So that platforms and contractions differ, whatever the policy is.
    def select(contraction, sizes, platform, axes, differentiated):
        return FORCED[forced][(CONTRACTIONS.index(contraction) + list(PLATFORMS.values()).index(platform)) % len(NAMES)]

    if FORCED[forced]:
        monkeypatch.setattr(_contractions, "select", select)

    def run(x, w):
        return jaxdeconv.conv1d_transpose(x, w, None, 2)

    def gradients(x, w, g):
        return jax.vjp(run, x, w)[1](g)

    x, w, g = symbolic(kernel)
    explanation = jaxdeconv.explain(run, jax.ShapeDtypeStruct((1024, 1024, 4), jnp.float32), w)
    exported = export.export(jax.jit(run), platforms=tuple(PLATFORMS))(x, w)
    exported_gradients = export.export(jax.jit(gradients), platforms=tuple(PLATFORMS))(x, w, g)
    for platform, own in PLATFORMS.items():
        t, c, f = (of_lowering(each, explanation.lowerings[each][own], explanation.crops, platform, x, w, g) for each in CONTRACTIONS)
        assert operations(exported, platform) == t
        for artifact in (exported_gradients, exported.vjp()):
            assert operations(artifact, platform) in (c + f, t + c + f)  # y may be there, which nothing uses and XLA removes


def test_lowerings_differ_in_what_they_run():
    """Without which the test above would hold for any choice."""
    found = {}
    for contraction, name in product(CONTRACTIONS, NAMES):
        counts = of_lowering(contraction, name, ((1, 2),), "tpu", *symbolic(5))
        found[contraction, name] = Counter(re.search(r"stablehlo\.(\w+)", each)[1] for each in counts.elements())
    for contraction in CONTRACTIONS:
        convolutions, products = ([found[contraction, name][kind] for name in NAMES] for kind in ("convolution", "dot_general"))
        assert convolutions == [1, 0, 1]
        assert products == [0, 1, 0]
        assert found[contraction, "dilated"] != found[contraction, "polyphase"]


@pytest.mark.parametrize("length", [lambda width: 8, lambda width: 3 * width, lambda width: 2 * width + 1, lambda width: width])
def test_a_length_that_is_not_valid_for_every_width(length):
    run = function("SAME", "NWC", length, gradients=False)
    shape = operand(*export.symbolic_shape("b, w"), "NWC")
    with pytest.raises(ValueError, match=r"needs output_shape\[1\] from 2\*w - 1 to 2\*w"):
        export.export(jax.jit(run))(jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32))


CUT = r"the crops cut off 5 along axis 1, got input\.shape=\(b, w, 4\); give jax\.export\.symbolic_shape the constraint 'w >= 6'"


@pytest.mark.parametrize("forward_mode", [None, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_crops_that_can_take_all_of_a_symbolic_size(gradients, forward_mode):
    w = jax.ShapeDtypeStruct((3, 4, 2), jnp.float32)

    def run(x, w):
        return jaxdeconv.lax.conv_transpose(x, w, (2,), [(0, -9)], forward_mode=forward_mode)

    function = jax.jit(jax.grad(lambda x, w: jnp.sum(run(x, w)), (0, 1)) if gradients else run)
    with pytest.raises(ValueError, match=CUT):
        export.export(function)(jax.ShapeDtypeStruct(export.symbolic_shape("b, w, 4"), jnp.float32), w)
    shape = export.symbolic_shape("b, w, 4", constraints=["w >= 6"])
    exported = export.export(function)(jax.ShapeDtypeStruct(shape, jnp.float32), w)
    x, w = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((2, 6, 4), (3, 4, 2)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), exported.call(x, w), function(x, w))


@pytest.mark.parametrize(
    ("run", "x", "w", "rule"),
    [
        (lambda x, w: jaxdeconv.conv1d_transpose(x, w, None, 2), "b, w, 4", "3, c, 4", "filters must have a static"),
        (lambda x, w: jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME"), "b, w, 4", "3, 4, c", "rhs must have a static"),
        (
            lambda x, w: jaxdeconv.lax.conv_transpose(x, w, (2,), "SAME", transpose_kernel=True),
            "b, w, 4",
            "3, c, 4",
            "rhs must have a static",
        ),
        (lambda x, w: jaxdeconv.torch.conv_transpose1d(x, w), "b, 4, w", "4, c, 3", "weight must have a static"),
        (lambda x, w: jaxdeconv.onnx.conv_transpose(x, w), "b, 4, w", "4, c, 3", "W must have a static"),
        (lambda x, w: jaxdeconv.keras.conv_transpose(x, w, 2), "b, w, 4", "3, c, 4", "kernel must have a static"),
    ],
)
def test_output_channels_are_numbers(run, x, w, rule):
    scope = export.SymbolicScope()
    shapes = (export.symbolic_shape(shape, scope=scope) for shape in (x, w))
    with pytest.raises(ValueError, match=rule):
        export.export(jax.jit(run))(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize("name", [None, "dilated", "matmul", "polyphase"])
def test_gradients_of_any_number_of_input_channels(name, ndim, channels_last):
    """Where all other sizes are known, in float32, of which CPU has the most forms."""
    (channels,) = export.symbolic_shape("c")
    op, layouts = ((jaxdeconv.conv1d_transpose, ("NCW", "NWC")), (jaxdeconv.conv2d_transpose, ("NCHW", "NHWC")))[ndim - 1]

    def run(x, w):
        return jnp.sum(jnp.sin(op(x, w, None, 1, "SAME", layouts[channels_last], implementation=name)))

    def shapes(c):
        spatial = ((40,), (6, 7))[ndim - 1]
        return ((3, *spatial, c) if channels_last else (3, c, *spatial)), (*(3,) * ndim, 3, c)

    gradients = jax.grad(run, (0, 1))
    exported = export.export(jax.jit(gradients))(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes(channels)))
    x, w = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in shapes(4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), exported.call(x, w), gradients(x, w))

"""The contract of every lowering: it computes each contraction as the oracle does wherever it says that it can, and where it is
named, it is the one that runs, or nothing does."""

import itertools
import re
import tracemalloc
from functools import partial
from typing import get_args

import cases
import jax
import jax.test_util
import layers
import numpy as np
import pytest

import jaxdeconv
from jaxdeconv import _call, _contractions
from jaxdeconv._executed import recording
from jaxdeconv._geometry import Geometry
from jaxdeconv._lowerings import UNIFORM, Contraction, Form, Platform, _blocks, _groups, candidates, dilated, forms_of, unable
from jaxdeconv._lowerings._interior import cut
from jaxdeconv._lowerings._work import Rates, Sizes, Work
from jaxdeconv._platforms import ROOMS, cpu_convolutions, cpu_lowerings, cpu_patches, cpu_products, cpu_stored, lowering, rates, work

IMPLEMENTATIONS = get_args(jaxdeconv.Implementation)
CONTRACTIONS = get_args(Contraction)
PLATFORMS = get_args(Platform)
MIXTURES = "mixtures"  # in the place of a name: of each layer, a few of those that it has
QUICK = {"xla_backend_optimization_level": 0}  # to compile, which takes the time
DEPTHWISE = [(1, 1, 1), (3, 3, 3), (4, 4, 4)]


def random_layers(seed, ndim, count, **keywords):
    return [layers.random_layer(np.random.default_rng([seed, ndim, index]), ndim, **keywords) for index in range(count)]


# Two dimensions with a small and a large one: a stride that no tap reaches, an input of one, more cropped than a tap reaches.
CORNERS = [
    layers.Layer(2, (3,), 2, 3, (2,), (5,), (1,), ((-2, -4),)),
    layers.Layer(2, (1,), 4, 2, (5,), (3,), (2,), ((1, 3),), 2),
    layers.Layer(1, (4,), 3, 3, (2,), (2,), (1,), ((4, 1),), 3),
    layers.Layer(1, (4,), 2, 2, (3,), (2,), (1,), ((3, 4),), 1, False),
    layers.Layer(1, (2,), 2, 2, (7,), (4,), (3,), ((9, -9),), 2),
    layers.Layer(1, (3,), 2, 2, (1,), (1,), (1,), ((0, 0),)),
    layers.Layer(2, (3, 1), 4, 6, (4, 1), (2, 3), (1, 2), ((1, 1), (-1, -2)), 2, False),
    layers.Layer(1, (2, 3), 2, 2, (3, 5), (3, 2), (2, 1), ((2, -1), (3, 4)), 2),
    layers.Layer(1, (2,), 130, 65, (3,), (2,), (1,), ((1, 0),), 65),  # more groups than are computed one by one
    layers.Layer(2, (2,), 65, 130, (2,), (3,), (1,), ((1, -1),), 65, False),
    layers.Layer(1, (2, 1, 2, 2), 2, 3, (1, 2, 2, 1), (3, 1, 2, 2), (2, 2, 1, 1), ((0, -1), (1, 0), (-1, 1), (0, 0))),
    layers.Layer(1, (2, 1, 3), 4, 2, (2, 3, 2), (2, 1, 3), (1, 2, 1), ((1, 0), (2, -1), (-2, 3)), 2, False),
]
# Dimensions of one tap, which are none of a convolution, between others, beside each other, and at either end; inputs of one.
THIN = [
    layers.Layer(2, (3, 2, 2), 2, 3, (1, 3, 1), (1, 2, 1), (1, 1, 1), ((0, 0), (1, 0), (0, 0))),
    layers.Layer(1, (2, 3, 2), 3, 2, (3, 1, 1), (2, 1, 1), (2, 1, 1), ((1, 2), (0, 0), (0, 0)), 1, False),
    layers.Layer(2, (2, 2, 3), 4, 2, (1, 1, 2), (1, 1, 3), (1, 1, 2), ((0, 0), (0, 0), (-1, 1)), 2),
    layers.Layer(2, (1, 3), 2, 2, (3, 1), (2, 2), (1, 1), ((1, 0), (0, -1))),
    layers.Layer(1, (1, 1, 3), 4, 4, (2, 3, 3), (2, 1, 2), (3, 1, 1), ((0, 1), (1, 1), (1, 2)), 2, False),
    layers.Layer(1, (3, 2), 66, 132, (2, 3), (1, 2), (2, 1), ((1, 0), (1, 1)), 66),  # more groups than are computed one by one
    layers.Layer(2, (2, 1, 3, 2), 2, 3, (3, 2, 2, 3), (2, 2, 1, 2), (1, 1, 2, 1), ((1, 1), (0, 0), (1, 0), (2, 0))),
]
SETS = {
    "1-D": [layers.of_case(case) for case in cases.GRID[::27]],
    "1-D-crops": random_layers(0, 1, 10),
    "2-D": random_layers(1, 2, 12),
    "3-D": random_layers(2, 3, 6, most=3),
    "depthwise": random_layers(3, 1, 5, channels=DEPTHWISE) + random_layers(3, 2, 4, channels=DEPTHWISE, most=3),
    "corners": CORNERS,
    "thin": THIN,
    "forms": random_layers(4, 1, 4) + random_layers(4, 2, 4) + [layers.Layer(1, (12,), 2, 3, (5,), (2,), (1,), ((1, 2),))],
}


def distinct(names):
    """Each form of each of these lowerings: a name, and a platform that has it."""
    found = {
        tuple(lowering(each, name, platform) for each in CONTRACTIONS): (name, platform) for name in names for platform in PLATFORMS
    }
    return sorted(found.values())


MIXED_ON = [platform for _, platform in distinct(["taps,dilated"])]
DISTINCT = [*distinct(IMPLEMENTATIONS), *((MIXTURES, platform) for platform in MIXED_ON)]


def names_of(name, layer, count=3):
    """The name, or a few mixtures that this layer has: others for each layer, and the same in every run."""
    if name != MIXTURES:
        return [name]
    inside = Geometry(*layer.window).interior(layer.spatial)
    mixed = [] if inside is None else [each for each in candidates(inside.geometry) if "," in each]
    seed = [sum(map(ord, repr(layer.window))), *layer.spatial, layer.batch]
    return sorted(map(str, np.random.default_rng(seed).permutation(mixed)[:count]))


def sizes_of(layer, itemsize=8):
    """Of the interior, for which a lowering is asked; None if nothing meets."""
    whole = Geometry(*layer.window)
    if (inside := whole.interior(layer.spatial)) is None:
        return None
    spatial = tuple(size - lo - hi for size, (lo, hi) in zip(layer.spatial, inside.inputs, strict=True))
    return Sizes(inside.geometry, layer.batch, spatial, layer.in_channels, layer.out_channels, itemsize)


def within(contraction, lhs, rhs, layer, name, platform, axes=0, **keywords):
    """A contraction of a layer by a lowering, where operands may be cut over so many axes of a mesh."""
    inside = Geometry(*layer.window).interior(layer.spatial)
    lhs, rhs, restored = cut(contraction, lhs, rhs, inside)
    return restored(lowering(contraction, name, platform, axes)(lhs, rhs, inside.geometry, **keywords))


def test_every_name_has_a_place_on_every_platform():
    assert set(ROOMS) == set(PLATFORMS)
    assert {*UNIFORM, "elementwise"} == set(IMPLEMENTATIONS)
    for table, key in ((ROOMS, "cpu"), (UNIFORM, "matmul")):
        with pytest.raises(TypeError):
            table[key] = None
    depthwise = sizes_of(layers.Layer(2, (4, 3), 3, 3, (3, 4), (2, 2), (1, 2), ((1, 0), (1, 1)), 3))
    names = candidates(depthwise.geometry)
    assert set(IMPLEMENTATIONS) < set(names)
    for platform, contraction in itertools.product(PLATFORMS, CONTRACTIONS):
        assert isinstance(rates(platform), Rates)
        found = [lowering(contraction, name, platform) for name in names]
        assert all(map(callable, found))
        assert len(set(found)) == len(names)
        assert found == [lowering(contraction, name, platform) for name in names]  # for platforms share branches by what is equal
        assert all(isinstance(work(platform, name, contraction, depthwise), Work) for name in names)


def test_the_forms_of_a_name():
    for ndim in (1, 2, 3):
        assert {name: forms_of(name, ndim) for name in UNIFORM} == {name: (form,) * ndim for name, form in UNIFORM.items()}
        every = list(itertools.product(get_args(Form), repeat=ndim))
        assert [forms_of(",".join(forms), ndim) for forms in every] == every
        assert all(forms_of(",".join(forms), other) is None for forms in every if ndim > 1 for other in {1, 2, 3, 4} - {ndim})
    for name in (
        "",
        ",",
        "taps,",
        ",taps",
        "taps,,taps",
        "taps,matmul",
        "polyphase,taps",
        "Taps,dilated",
        "taps, dilated",
        "elementwise",
    ):
        assert not any(forms_of(name, ndim) for ndim in (1, 2, 3, 4)), name


@pytest.mark.parametrize("name", [*IMPLEMENTATIONS, MIXTURES])
def test_what_each_can(name):
    """All of these, but "elementwise" only depthwise ones, and of T those whose groups have one input."""
    for layer in filter(sizes_of, itertools.chain.from_iterable(SETS.values())):
        of_one = layer.in_channels == layer.groups
        depthwise = of_one and layer.out_channels == layer.groups
        for contraction, each in itertools.product(CONTRACTIONS, names_of(name, layer, 100)):
            able = unable(each, contraction, sizes_of(layer)) is None
            wanted = name != "elementwise" or (of_one if contraction == "transpose" else depthwise)
            assert able == wanted, (each, contraction, layer)


def test_mixtures_are_of_all_kinds():
    """Those that tests draw: every form beside every other one, in groups of each number, channels last and first."""
    drawn = [(layer, each) for layers_of in SETS.values() for layer in layers_of for each in names_of(MIXTURES, layer)]
    assert len(drawn) > 60
    for last in (False, True):
        pairs = {pair for layer, each in drawn if layer.channels_last == last for pair in itertools.pairwise(each.split(","))}
        assert {(a, b) for a, b in itertools.permutations(get_args(Form), 2)} <= pairs
    assert {1, 2, 3} <= {layer.groups for layer, _ in drawn}
    assert {2, 3, 4} <= {len(layer.spatial) for layer, _ in drawn}


# Of the forms for TPU, which are simpler, some sets have everything that matters.
CHECKED = [
    (which, *form) for form in DISTINCT for which in SETS if form[1] != "tpu" or which in ("2-D", "depthwise", "corners", "thin")
]
CHECKED = [(which, name, platform) for which, name, platform in CHECKED if name != MIXTURES or "1-D" not in which]
# By default those for CPU of some sets, and the corners; all with `-m ""`.
DEFAULT = {"2-D", "depthwise"}
MIXED_BY_DEFAULT = {("2-D", "cpu"), ("thin", "cpu"), ("corners", "tpu")}


def by_default(which, name, platform):
    if name == MIXTURES:
        return (which, platform) in MIXED_BY_DEFAULT
    return which == "corners" or (platform == "cpu" and which in DEFAULT)


CHECKED = [pytest.param(*each, marks=[pytest.mark.thorough] * (not by_default(*each))) for each in CHECKED]


@pytest.mark.parametrize(("which", "name", "platform"), CHECKED)
def test_each_is_the_oracle(which, name, platform):
    """The forms for other platforms too: any platform can run them."""
    able = [
        (layer, each)
        for layer in SETS[which]
        if (sizes := sizes_of(layer))
        for each in names_of(name, layer)
        if unable(each, "transpose", sizes) is None
    ]
    assert name != MIXTURES or len(able) >= 5
    operands = [layer.operands(seed) for seed, (layer, _) in enumerate(able)]
    keywords = {"precision": None, "preferred_element_type": np.dtype(np.float64)}

    def every(operands):
        results = []
        for (layer, each), (x, w, g) in zip(able, operands, strict=True):
            pairs = {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}
            wanted = [contraction for contraction in CONTRACTIONS if unable(each, contraction, sizes_of(layer)) is None]
            results.append({name: within(name, *pairs[name], layer, each, platform, **keywords) for name in wanted})
        return results

    for (layer, each), given, results in zip(able, operands, jax.jit(every, compiler_options=QUICK)(operands), strict=True):
        assert len(results) == 3 or (each, layer.in_channels) == ("elementwise", layer.groups)
        for contraction, expected in zip(CONTRACTIONS, layer.expected(*given), strict=True):
            if contraction in results:
                message = f"{contraction} of {layer} by {each}"
                np.testing.assert_allclose(results[contraction], expected, rtol=1e-12, atol=1e-12, strict=True, err_msg=message)


FORMS = {  # of the matrix product: what large and small operands have
    "filter on the right": {"FEW": 0},
    "filter on the left": {"FEW": 2**60},
    "x on the left": {"LEFT": 2**60},
    "x on the right": {"LEFT": 0},
    "one item at a time": {"NARROW": 2**60, "SAMPLES": 0},
    "all items at once": {"NARROW": 0},
    "one item at a time, x on the left": {"NARROW": 2**60, "SAMPLES": 0, "NARROWER": 0},
    "one item at a time, x on the right": {"NARROW": 2**60, "SAMPLES": 0, "NARROWER": 2**60},
    "patches with channels first": {"SHORT": 0},
    "and with channels last": {"SHORT": 2**60},
    "small pieces": {"MOST_PATCHES": 0, "PIECE": 1},
    "larger pieces": {"MOST_PATCHES": 0, "PIECE": 512},
}


@pytest.mark.parametrize("form", cases.sampled(FORMS, 2))
def test_each_form_of_the_matrix_product_is_the_oracle(form, monkeypatch):
    for name, value in FORMS[form].items():
        monkeypatch.setattr(cpu_products if hasattr(cpu_products, name) else cpu_lowerings, name, value)
    test_each_is_the_oracle("forms", "matmul", "cpu")


@pytest.mark.parametrize(
    "form",
    [{"ONES_FROM": 2**60}, *({"ONES_FROM": 0, "IN_CACHE": size, "ONES": 1} for size in (1, 200, 2**60)), {"ONES_FROM": 0, "ONES": 2}],
)
def test_each_form_of_a_depthwise_filter_gradient_is_the_oracle(form, monkeypatch):
    """Products of a tap that a loop sums, or a product with ones, of all at once or of pieces."""
    for name, value in form.items():
        monkeypatch.setattr(cpu_lowerings, name, value)
    test_each_is_the_oracle("forms", "elementwise", "cpu")


@pytest.mark.parametrize(("kernel", "channels_last", "looped"), [(3, True, False), (3, False, True), (4, True, True)])
def test_patches_that_are_the_output_in_another_shape_are_in_one_piece(kernel, channels_last, looped, monkeypatch):
    """Where k = s in the last dimension alone, with channels last: they are no temporary, however large."""
    monkeypatch.setattr(cpu_lowerings, "MOST_PATCHES", 0)
    monkeypatch.setattr(cpu_lowerings, "PIECE", 1000)
    layer = layers.Layer(3, (2, 40), 2, 5, (1, kernel), (1, 3), (1, 1), ((0, 0), (0, kernel - 3)), 1, channels_last)
    x, w, g = layer.operands()
    keywords = {"layer": layer, "name": "matmul", "platform": "cpu", "precision": None, "preferred_element_type": np.dtype(float)}
    filter_grad = jax.jit(partial(within, "filter_grad", **keywords))
    assert ("while" in filter_grad.lower(x, g).as_text()) == looped
    np.testing.assert_allclose(filter_grad(x, g), layer.expected(x, w, g)[2], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_of_narrow_filters(dtype):
    """With channels first: XLA on CPU has no product of bfloat16 that contracts over rows."""
    layer = layers.Layer(3, (40,), 40, 3, (3,), (1,), (1,), ((1, 1),), 1, channels_last=False)
    x, w, g = (jax.numpy.asarray(each, dtype) for each in layer.operands())
    pairs = {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}
    keywords = {"precision": None, "preferred_element_type": np.dtype(np.float32)}
    exact = layer.expected(*(np.asarray(each, np.float64) for each in (x, w, g)))
    for contraction, expected in zip(CONTRACTIONS, exact, strict=True):
        run = partial(within, contraction, layer=layer, name="matmul", platform="cpu", **keywords)
        np.testing.assert_allclose(jax.jit(run)(*pairs[contraction]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("batch", "width", "channels", "batched"),
    [(3, 40, (40, 3), True), (3, 40, (3, 40), False), (3, 20, (40, 3), False), (1, 40, (40, 3), False)],
)
def test_products_of_narrow_filters_are_of_one_item_at_a_time(batch, width, channels, batched):
    """With channels first, where x would be transposed otherwise, which is larger than the taps; unless items are short."""
    layer = layers.Layer(batch, (width,), *channels, (3,), (1,), (1,), ((1, 1),), 1, channels_last=False)
    x, w, g = layer.operands()
    found = []
    for contraction, operands in {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}.items():
        keywords = {"layer": layer, "name": "matmul", "platform": "cpu", "precision": None, "preferred_element_type": np.dtype(float)}
        (product,) = (
            each
            for each in jax.make_jaxpr(partial(within, contraction, **keywords))(*operands).eqns
            if each.primitive.name == "dot_general"
        )
        found.append(product.params["dimension_numbers"][1] != ((), ()))
    assert found == [batched] * 3


@pytest.mark.parametrize(("channels", "left"), [(40, 40), (18, 9), (3, 9)])
def test_narrow_filter_gradients_have_x_on_the_left(channels, left):
    """With channels first and three taps of three channels, where x has more than twice as many as these nine."""
    layer = layers.Layer(3, (50,), channels, 3, (3,), (1,), (1,), ((1, 1),), 1, channels_last=False)
    x, _, g = layer.operands()
    keywords = {"layer": layer, "name": "matmul", "platform": "cpu", "precision": None, "preferred_element_type": np.dtype(float)}
    traced = jax.make_jaxpr(partial(within, "filter_grad", **keywords))(x, g)
    (product,) = (each for each in traced.eqns if each.primitive.name == "dot_general")
    assert left in product.invars[0].aval.shape


@pytest.mark.thorough
@pytest.mark.parametrize(("batch", "channels_last"), [(1, True), (2, False), (6, True), (30, False)])
def test_patches_in_pieces(batch, channels_last, monkeypatch):
    """Of a few images at a time, or of a few inputs of an image, of which the last are filled up; differentiable, and under
    shard_map as without."""
    monkeypatch.setattr(cpu_lowerings, "MOST_PATCHES", 0)
    monkeypatch.setattr(cpu_lowerings, "PIECE", 1000)
    layer = layers.Layer(batch, (13, 3), 2, 3, (3, 2), (2, 1), (1, 2), ((1, 2), (0, 0)), 1, channels_last)
    x, w, g = layer.operands()
    filter_grad = partial(
        lowering("filter_grad", "matmul", "cpu"),
        geometry=Geometry(*layer.window),
        precision=None,
        preferred_element_type=np.dtype(float),
    )
    text = jax.jit(filter_grad).lower(x, g).compile().as_text()
    assert "while(" in text
    assert "sign(" not in text  # of // and %, which would be computed for every element
    np.testing.assert_allclose(filter_grad(x, g), layer.expected(x, w, g)[2], rtol=1e-12)
    sizes, patches = sizes_of(layer), batch * 13 * 3 * 6 * 3
    batches, pieces = batch, 7  # of two inputs each
    assert cpu_lowerings.pieces_of((batch, 13, 3), patches, sizes.w, 8) == (batches, pieces)
    assert work("cpu", "matmul", "filter_grad", sizes).temporary == (patches + sizes.x + sizes.y) // (batches * pieces)
    jax.test_util.check_grads(filter_grad, (x, g), 2, modes=["fwd", "rev"], rtol=1e-6)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.P("batch"), jax.P("batch"))
    mapped = jax.shard_map(lambda x, g: jax.lax.psum(filter_grad(x, g), "batch"), mesh=mesh, in_specs=specs, out_specs=jax.P())
    np.testing.assert_allclose(jax.jit(mapped)(x, g), filter_grad(x, g), rtol=1e-12)


SHORT = [  # than the window: T, C and F of stride 1
    ("transpose", layers.Layer(2, (3,), 2, 3, (5,), (1,), (1,), ((2, 2),))),
    ("input_grad", layers.Layer(2, (3, 4), 2, 3, (5, 3), (1, 1), (1, 1), ((3, 2), (2, 2)))),
    ("filter_grad", layers.Layer(2, (9,), 2, 3, (4,), (1,), (1,), ((3, 3),))),
]


@pytest.mark.parametrize(("contraction", "layer"), SHORT, ids=lambda each: each if isinstance(each, str) else "")
def test_operands_are_not_swapped(contraction, layer):
    """XLA on CPU swaps those of a convolution whose window is longer than the signal, and computes it by a scalar loop then."""
    x, w, g = layer.operands()
    operands = {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}[contraction]
    run = partial(
        lowering(contraction, "dilated", "cpu"), geometry=Geometry(*layer.window), precision=None, preferred_element_type=float
    )
    text = jax.jit(run).lower(*operands).compile().as_text()
    assert "window={" in text
    assert "rhs_reversal" not in text
    np.testing.assert_allclose(run(*operands), layer.expected(x, w, g)[CONTRACTIONS.index(contraction)], rtol=1e-12, atol=1e-12)


UNPADDED = {  # layers, and what XLA is asked for by each contraction in place of no padding
    "of stride 1": (layers.Layer(2, (14, 13), 2, 3, (3, 2), (1, 1), (1, 1), ((0, 0), (0, 0))), {"input_grad": "0_1x0_0"}),
    "of a stride": (layers.Layer(2, (13, 13), 2, 3, (2, 3), (1, 2), (1, 1), ((0, 0), (0, 0))), {"input_grad": "0_0x0_1"}),
    "padded": (
        layers.Layer(2, (14, 13), 3, 2, (3, 2), (1, 1), (1, 1), ((0, 0), (1, 0))),
        {"input_grad": "0_0x1_0", "filter_grad": "0_0x1_0"},
    ),
    "short": (layers.Layer(2, (6, 11), 2, 3, (3, 2), (1, 1), (1, 1), ((0, 0), (0, 0))), {}),
}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("of", UNPADDED)
def test_convolutions_of_two_dimensions_are_padded(of, channels_last):
    """XLA on CPU computes those without padding slowly: of jaxlib 0.10, up to 25 times."""
    layer, padding = UNPADDED[of]
    layer = layer._replace(channels_last=channels_last)
    x, w, g = layer.operands()
    for contraction, operands in {"input_grad": (g, w), "filter_grad": (x, g)}.items():
        run = partial(
            lowering(contraction, "dilated", "cpu"), geometry=Geometry(*layer.window), precision=None, preferred_element_type=float
        )
        text = jax.jit(run).lower(*operands).compile().as_text()
        assert re.findall(r"window={[^}]*pad=(\S+?)[ }]", text) == ([padding[contraction]] if contraction in padding else [])
        expected = layer.expected(x, w, g)[CONTRACTIONS.index(contraction)]
        np.testing.assert_allclose(run(*operands), expected, rtol=1e-12, atol=1e-12, strict=True)


@pytest.mark.parametrize("kind", ["2-D", "forms"])
def test_padded_convolutions_are_the_oracle(kind, monkeypatch):
    monkeypatch.setattr(dilated, "LONG", 0)
    test_each_is_the_oracle(kind, "dilated", "cpu")


def test_doubled_filter_gradients_are_the_oracle():
    checked = 0
    for seed, layer in enumerate(SETS["2-D"]):
        inside = Geometry(*layer.window).interior(layer.spatial)
        if inside is None or inside.geometry.groups > 1 or inside.geometry.ndim == 0:
            continue
        x, w, g = layer.operands(seed)
        lhs, rhs, restored = cut("filter_grad", x, g, inside)
        keywords = {"precision": None, "preferred_element_type": np.dtype(float), "in_order": True, "doubled": True}
        found = restored(jax.jit(partial(dilated.filter_grad_of_fewer, geometry=inside.geometry, **keywords))(lhs, rhs))
        np.testing.assert_allclose(found, layer.expected(x, w, g)[2], rtol=1e-12, atol=1e-12, strict=True)
        checked += 1
    assert checked >= 5


@pytest.mark.parametrize("channels_last", [True, False])
def test_large_filter_gradients_are_doubled(channels_last):
    """Which XLA gives to YNNPACK otherwise, and that takes 1.4 times as long in the mean, and 10 at most (jaxlib 0.10)."""

    def spread(batch, size, dtype, kernel=(3, 3)):
        layer = layers.Layer(batch, size, 16, 16, kernel, (1,) * len(size), (1,) * len(size), ((0, 0),) * len(size), 1, channels_last)
        x, _, g = (jax.ShapeDtypeStruct(a.shape, dtype) for a in layer.operands())
        keywords = {"geometry": Geometry(*layer.window), "precision": None, "preferred_element_type": np.dtype(dtype)}
        (found,) = re.findall(
            r"lhs_dilation=(\(.*?\))", str(jax.make_jaxpr(partial(lowering("filter_grad", "dilated", "cpu"), **keywords))(x, g))
        )
        return "2" in found

    assert spread(4, (48, 48), np.float32) == cpu_convolutions.YNNPACK
    assert not spread(4, (48, 48), np.float64)  # XLA computes it by a loop
    assert not spread(4, (8, 8), np.float32)  # which takes less time than to start
    assert not spread(2, (64, 64), np.float32)
    assert not spread(4, (10000,), np.float32, kernel=(3,))


JOINED = [  # kernel, strides, dilations, crops: all taps of an input reach the same block
    ((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0))),
    ((3, 2), (4, 3), (1, 2), ((0, 3), (0, 1))),
    ((2, 3, 2), (2, 3, 2), (1, 1, 1), ((0, 0), (0, 1), (4, -2))),
    ((1, 2, 1), (3, 2, 2), (1, 1, 1), ((-2, 0), (0, 0), (0, 0))),
]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel", "strides", "dilations", "crops"), JOINED)
def test_taps_that_are_joined(kernel, strides, dilations, crops, channels_last):
    """Where patches are a transposition, which XLA on CPU computes slowly, the taps are slices that are joined."""
    geometry = Geometry(kernel, strides, dilations, crops, 1, channels_last)
    inputs = (2, *(5,) * len(kernel), 1) if channels_last else (2, 1, *(5,) * len(kernel))
    g = np.random.default_rng(0).standard_normal(geometry.output_shape(inputs, (*kernel, 3, 1)))
    assert cpu_patches.joins_taps(geometry)
    np.testing.assert_array_equal(jax.jit(partial(cpu_patches.patches, geometry=geometry))(g), _blocks.patches(g, geometry))


@pytest.mark.parametrize("channels_last", [True, False])
def test_joined_taps_of_gradients(channels_last):
    """C and F of k = s in several dimensions, on CPU only: XLA for TPU and GPU fuses the transposition."""
    layer = layers.Layer(2, (3, 4), 2, 3, (2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)), 1, channels_last)
    x, w, g = layer.operands()
    for contraction, operands in {"input_grad": (g, w), "filter_grad": (x, g)}.items():
        for platform, joined in (("cpu", True), ("tpu", False)):
            keywords = {"layer": layer, "name": "matmul", "platform": platform, "precision": None, "preferred_element_type": float}
            names = [each.primitive.name for each in jax.make_jaxpr(partial(within, contraction, **keywords))(*operands).eqns]
            assert ("concatenate" in names) == joined


@pytest.mark.parametrize("channels_last", [True, False])
def test_depthwise_filter_gradients_item_by_item(channels_last):
    """On TPU where items or channels fill no tile, or may be cut, for the partitioner adds up too many parts of one convolution."""
    for batch, channels, axes, by_item in ((8, 16, 0, False), (8, 16, 1, True), (8, 16, 2, True), (7, 16, 0, True), (8, 15, 0, True)):
        layer = layers.Layer(batch, (4, 2), channels, channels, (3, 2), (2, 1), (1, 2), ((1, 0), (0, 1)), channels, channels_last)
        x, w, g = layer.operands()
        keywords = {"precision": None, "preferred_element_type": np.dtype(np.float64), "axes": axes}
        run = partial(within, "filter_grad", layer=layer, name="dilated", platform="tpu", **keywords)
        np.testing.assert_allclose(run(x, g), layer.expected(x, w, g)[2], rtol=1e-12, atol=1e-12, strict=True)
        assert ("reduce_sum" in {each.primitive.name for each in jax.make_jaxpr(run)(x, g).eqns}) == by_item


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_filter_gradients_over_x(stride, channels_last):
    """The convolution that JAX would have: on TPU where there are few inputs, no groups, and nothing is stuffed."""
    few = layers.Layer(2, (3, 1, 4), 2, 3, (2, 3, 1), (stride, 1, 1), (1, 2, 1), ((0, 0), (0, 3), (0, 0)), 1, channels_last)
    keywords = {"precision": None, "preferred_element_type": np.dtype(np.float64)}

    def of_x(layer):
        """Whether the left operand on TPU is x, of other sizes than g."""
        x, _, g = layer.operands()
        run = partial(within, "filter_grad", layer=layer, name="dilated", platform="tpu", **keywords)
        np.testing.assert_allclose(run(x, g), layer.expected(*layer.operands())[2], rtol=1e-12, atol=1e-12)
        (lhs,) = [each.invars[0] for each in jax.make_jaxpr(run)(x, g).eqns if each.primitive.name == "conv_general_dilated"]
        return sorted(lhs.aval.shape) == sorted(x.shape)

    for layer in (few, few._replace(in_channels=1), few._replace(in_channels=15, out_channels=16)):
        x, w, g = layer.operands()
        found = dilated.filter_grad_over_x(x, g, Geometry(*layer.window), **keywords)
        np.testing.assert_allclose(found, layer.expected(x, w, g)[2], rtol=1e-12, atol=1e-12, strict=True)
        assert of_x(layer) == (stride == 1)
    for inputs, outputs, groups in ((3, 3, 1), (3, 2, 1), (16, 17, 1), (2, 4, 2)):
        assert not of_x(few._replace(in_channels=inputs, out_channels=outputs, groups=groups))


@pytest.mark.parametrize("channels_last", [True, False])
def test_filter_gradients_of_fewer_channels(channels_last):
    """On CPU with x on the left if that is about as long as g: it multiplies what is padded."""
    padded = layers.Layer(2, (7,), 20, 40, (3,), (1,), (1,), ((1, 0),), 1, channels_last)
    keywords = {"precision": None, "preferred_element_type": np.dtype(np.float64), "name": "dilated", "platform": "cpu"}
    cases_of = {True: [padded, padded._replace(in_channels=1)]}
    cases_of[False] = [padded._replace(strides=(2,)), padded._replace(out_channels=19), padded._replace(kernel=(9,))]
    for over_x, few in ((key, each) for key, several in cases_of.items() for each in several):
        x, _, g = few.operands()
        run = partial(within, "filter_grad", layer=few, **keywords)
        np.testing.assert_allclose(run(x, g), few.expected(*few.operands())[2], rtol=1e-12, atol=1e-12)
        (lhs,) = [each.invars[0].aval for each in jax.make_jaxpr(run)(x, g).eqns if each.primitive.name == "conv_general_dilated"]
        assert (lhs.shape[0] == few.in_channels) == over_x


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("name", "spatial"), [("dilated,taps,taps", 1), ("taps,dilated,taps", 1), ("dilated,taps,phases", 2)])
def test_one_tap_of_a_filter_gradient_is_no_dimension(name, spatial, channels_last):
    """On CPU it is of the batch, wherever it is: XLA's convolutions of one dimension are the fastest."""
    layer = layers.Layer(2, (4, 3, 5), 2, 3, (3, 2, 3), (1, 2, 2), (2, 1, 1), ((1, 0), (0, 1), (1, 1)), 1, channels_last)
    x, w, g = layer.operands()
    keywords = {"precision": None, "preferred_element_type": np.dtype(np.float64), "name": name, "platform": "cpu"}
    run = partial(within, "filter_grad", layer=layer, **keywords)
    np.testing.assert_allclose(run(x, g), layer.expected(x, w, g)[2], rtol=1e-12, atol=1e-12, strict=True)
    (lhs,) = [each.invars[0].aval for each in jax.make_jaxpr(run)(x, g).eqns if each.primitive.name == "conv_general_dilated"]
    assert lhs.ndim == spatial + 2


ONE_INPUT = [
    layers.Layer(2, (5,), 1, 3, (4,), (1,), (1,), ((1, 2),)),
    layers.Layer(2, (5,), 1, 3, (3,), (2,), (2,), ((3, 0),), 1, False),
    layers.Layer(1, (2, 3), 2, 6, (3, 2), (2, 1), (1, 2), ((1, 2), (0, 1)), 2),
    layers.Layer(2, (2, 1, 3), 3, 6, (2, 3, 2), (1, 2, 3), (2, 1, 1), ((0, 1), (1, 1), (0, 0)), 3, False),
]


@pytest.mark.parametrize("layer", ONE_INPUT)
def test_outputs_of_groups_of_one_input_are_elementwise(layer):
    """As many as there are: in the order of the groups, and of no other contraction."""
    x, w, _ = layer.operands()
    y = within("transpose", x, w, layer, "elementwise", "cpu", precision=None, preferred_element_type=np.dtype(np.float64))
    np.testing.assert_allclose(y, layer.expected(*layer.operands())[0], rtol=1e-12, atol=1e-12, strict=True)
    assert [unable("elementwise", each, sizes_of(layer)) is None for each in CONTRACTIONS] == [True, False, False]


NARROW = [
    layers.Layer(2, (3,), 6, 12, (3,), (2,), (1,), ((1, 0),), 6),
    layers.Layer(1, (4,), 8, 4, (2,), (1,), (2,), ((0, 1),), 4, False),
    layers.Layer(1, (2, 3), 6, 6, (2, 3), (2, 1), (1, 1), ((0, 0), (1, 1)), 3),
    layers.Layer(1, (2,), 130, 65, (3,), (2,), (1,), ((1, 0),), 65),
]


@pytest.mark.parametrize("wide", [1, 4, 16, 1000])
def test_groups_of_few_channels_are_computed_together(wide, monkeypatch):
    """As many as there is room for, and none sees another's channels."""
    monkeypatch.setattr(_groups, "WIDE", wide)
    counts = []
    for layer, name in itertools.product(NARROW, ("dilated", "matmul", "polyphase")):
        x, w, g = layer.operands()
        pairs = {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}
        keywords = {"precision": None, "preferred_element_type": np.dtype(np.float64)}
        for contraction, expected in zip(CONTRACTIONS, layer.expected(x, w, g), strict=True):
            run = partial(within, contraction, layer=layer, name=name, platform="cpu", **keywords)
            np.testing.assert_allclose(run(*pairs[contraction]), expected, rtol=1e-12, atol=1e-12, err_msg=f"{layer} {name}")
            if name == "matmul":
                counts.append(str(jax.make_jaxpr(run)(*pairs[contraction])).count("dot_general"))
    per_layer = [counts[index : index + 3] for index in range(0, len(counts), 3)]
    one_by_one = {1: [6, 4, 3, 1], 4: [3, 2, 3, 1], 16: [1, 1, 1, 13], 1000: [1, 1, 1, 1]}[wide]
    assert per_layer == [[count] * 3 for count in one_by_one]


# Of few inputs and many channels, whose filter stays as it is stored; of some more; and of many inputs, whose filter does not.
STORED = [
    layers.Layer(1, (3,), 40, 30, (4,), (2,), (1,), ((1, 0),)),
    layers.Layer(2, (2,), 40, 30, (3,), (3,), (2,), ((-1, 2),), 1, False),
    layers.Layer(2, (9,), 60, 50, (5,), (2,), (1,), ((1, 2),)),
    layers.Layer(1, (2, 1), 30, 20, (2, 3), (2, 1), (1, 2), ((0, 1), (1, -1))),
    layers.Layer(1, (2, 2), 30, 20, (3, 2), (1, 3), (2, 1), ((1, 1), (0, 0)), 1, False),
    layers.Layer(2, (5,), 4, 3, (4,), (2,), (1,), ((1, 1),)),
    layers.Layer(1, (3,), 40, 30, (4,), (2,), (1,), ((1, 0),), 2),
    layers.Layer(1, (3,), 6, 4, (3,), (2,), (1,), ((1, 0),), 2, False),
]


@pytest.mark.parametrize("layout", ["lax", "haiku", "equinox", "torch"])  # the others are these, or TensorFlow's
@pytest.mark.parametrize("name", ["matmul", "dilated", pytest.param("polyphase", marks=pytest.mark.thorough)])
def test_filters_as_they_are_stored(name, layout):
    """T, C and F of a filter in any layout, F in the same; and the two ways of T differ by sizes as they should."""
    kept = []
    for seed, layer in enumerate(STORED):
        geometry = Geometry(*layer.window)
        x, w, g = layer.operands(seed)
        to_layout = partial(jaxdeconv.convert_filters, source="tf", target=layout, groups=layer.groups)
        stored, options = to_layout(w), _call.Options("stored", "stored", x.dtype, implementation=name)

        def run(x, w, geometry=geometry, options=options):
            return _call.conv_transpose(x, w, geometry, options, layout=layout)

        y, dx, dw = jax.jit(lambda x, w, g, run=run: ((found := jax.vjp(run, x, w))[0], *found[1](g)))(x, stored, g)
        expected_y, expected_dx, expected_dw = layer.expected(x, w, g)
        for actual, expected in ((y, expected_y), (dx, expected_dx), (dw, to_layout(expected_dw))):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12, strict=True, err_msg=str(layer))
        kept.append(cpu_stored.keeps_layout(sizes_of(layer), layout))
    assert kept == [True] * 5 + [False] * 3


@pytest.mark.parametrize("layout", ["lax", "haiku", "equinox", "torch"])
def test_stored_filters_that_are_mapped_over(layout):
    """And inputs or gradients for gradients of one filter: of each layout as of TensorFlow's, larger than the filters and smaller."""
    for batch, spatial, groups in itertools.product((2, 8), ((3, 2), (9, 5)), (1, 2)):
        layer = layers.Layer(batch, spatial, 4, 6, (3, 2), (2, 1), (1, 1), ((1, 0), (0, 1)), groups)
        xs, ws, gs = (np.stack(each) for each in zip(*map(layer.operands, range(3)), strict=True))
        geometry, options = Geometry(*layer.window), _call.Options("mapped", "mapped", xs.dtype)
        to_layout = partial(jaxdeconv.convert_filters, source="tf", target=layout, groups=layer.groups)
        stored = np.stack([to_layout(w) for w in ws])

        def run(x, w, layout=layout, geometry=geometry, options=options):
            return _call.conv_transpose(x, w, geometry, options, layout=layout)

        def of_filter(x, g, w, run=run):
            return jax.vjp(lambda w: run(x, w), w)[1](g)[0]

        of_tf = partial(run, layout="tf")
        np.testing.assert_allclose(jax.vmap(run, (None, 0))(xs[0], stored), jax.vmap(of_tf, (None, 0))(xs[0], ws), 1e-12, 1e-12)
        for axes, x, g in (((0, None, None), xs, gs[0]), ((None, 0, None), xs[0], gs)):
            expected = jax.vmap(partial(of_filter, run=of_tf), axes)(x, g, ws[0])
            actual = jax.vmap(of_filter, axes)(x, g, stored[0])
            np.testing.assert_allclose(actual, [to_layout(each) for each in expected], 1e-12, 1e-12)


@pytest.mark.parametrize("contraction", CONTRACTIONS)
def test_the_accumulator_is_wide(contraction):
    """Sums of float16 products in float32: each result is that of the exact sum of the operands as they are."""
    layer = layers.Layer(2, (40,), 24, 24, (5,), (2,), (1,), ((1, 2),))
    depthwise = layer._replace(in_channels=3, out_channels=3, groups=3)
    flat = layers.Layer(2, (8, 5), 24, 24, (3, 2), (2, 1), (1, 2), ((1, 0), (0, 1)))
    for name in (*IMPLEMENTATIONS, *names_of(MIXTURES, flat, 2)):
        each = depthwise if name == "elementwise" else flat if "," in name else layer
        x, w, g = each.operands(dtype=np.float16)
        operands = {"transpose": (x, w), "input_grad": (g, w), "filter_grad": (x, g)}[contraction]
        actual = lowering(contraction, name, "cpu")(
            *operands, Geometry(*each.window), precision=None, preferred_element_type=np.dtype(np.float32)
        )
        exact = each.expected(*(a.astype(np.float64) for a in (x, w, g)))[CONTRACTIONS.index(contraction)]
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-4)


@pytest.fixture
def ran(monkeypatch):
    """The list of (contraction, name) that run from here on."""
    found = []

    def recording(contraction, name, platform, axes):
        own = lowering(contraction, name, platform, axes)

        def run(*arguments, **keywords):
            found.append((contraction, name))
            return own(*arguments, **keywords)

        return run

    monkeypatch.setattr(_contractions, "lowering", recording)
    return found


NAMES = map("contract_{}".format, itertools.count())  # for calls that nothing has traced yet


def calls(implementation):
    """Each function of x and w, its operands and the oracle's answer: of each layout, in 1 to 3 dimensions."""
    mixed = implementation is not None and "," in implementation
    for case in [] if mixed else cases.GRID[::37]:
        if implementation != "elementwise" or case.in_channels == case.out_channels == case.groups:
            x, w, g = case.operands()
            yield jaxdeconv.conv1d_transpose, case.keywords, (x, w, g), case.expected(x, w, g)
    layouts = {"NHWC": True, "NCHW": False, "NDHWC": True, "NCDHW": False}
    for (layout, last), groups in itertools.product(
        layouts.items(), (1, 2, 4) if mixed else (4 if implementation == "elementwise" else 2,)
    ):
        n = len(layout) - 2
        if mixed and forms_of(implementation, n) is None:
            continue
        # SAME, of 3 taps and stride 2: an output of twice the size begins at the first tap and ends before the last.
        layer = layers.Layer(2, (2, 3, 2)[:n], 4, 4, (3,) * n, (2,) * n, (1,) * n, ((0, 1),) * n, groups, last)
        x, w, g = layer.operands()
        keywords = {"output_shape": g.shape, "strides": 2, "data_format": layout, "groups": groups}
        yield jaxdeconv.conv_transpose, keywords, (x, w, g), layer.expected(x, w, g)


NAMED = [*IMPLEMENTATIONS, None, "taps,dilated", "phases,taps", "dilated,phases,taps"]
NAMED += [pytest.param(name, marks=pytest.mark.thorough) for name in ("dilated,taps", "taps,phases", "phases,dilated,dilated")]


@pytest.mark.parametrize("implementation", NAMED)
def test_the_named_one_runs_and_is_right(implementation, ran):
    several = list(calls(implementation))
    assert len(several) > 4

    def every(operands):
        results = []
        for (function, keywords, _, _), (x, w, g) in zip(several, operands, strict=True):
            keywords = keywords | {"implementation": implementation, "name": next(NAMES)}
            y, vjp = jax.vjp(partial(function, **keywords), x, w)
            results.append((y, *vjp(g)))
            assert {contraction for contraction, _ in ran} == set(CONTRACTIONS)
            assert implementation is None or {name for _, name in ran} == {implementation}
            ran.clear()
        return results

    results = jax.jit(every, compiler_options=QUICK)([operands for _, _, operands, _ in several])
    for actual, (_, _, _, expected) in zip(results, several, strict=True):
        for each, right in zip(actual, expected, strict=True):
            np.testing.assert_allclose(each, right, rtol=1e-12, atol=1e-12, strict=True)


UNABLE_CALLS = {  # what only says why; test_errors has the whole sentences
    "a dense layer": (("elementwise",), (2, 4, 3), (3, 2, 3), {"strides": 2}),
    "257 taps": (("elementwise",), (1, 4, 2), (257, 1, 2), {"strides": 2, "padding": "VALID", "groups": 2}),
    "a matrix product of 257 terms": (("matmul",), (1, 4, 3), (257, 2, 3), {"strides": 1, "padding": "VALID"}),
    "two taps far apart": (("polyphase",), (1, 4, 3), (2, 2, 3), {"strides": 1, "dilations": 1000}),
    "the longest stride": (
        ("matmul", "polyphase"),
        (1, 1, 3),
        (3, 2, 3),
        {"strides": 2**31 - 1, "output_shape": [1, 3, 2], "padding": "VALID"},
    ),
    "the longest stride, depthwise": (
        ("matmul", "polyphase", "elementwise"),
        (1, 1, 2),
        (3, 1, 2),
        {"strides": 2**31 - 1, "output_shape": [1, 3, 2], "padding": "VALID", "groups": 2},
    ),
    "phases of two taps far apart": (
        ("taps,phases", "dilated,phases", "polyphase"),
        (1, 2, 4, 3),
        (2, 2, 2, 3),
        {"strides": 1, "dilations": [1, 1000]},
    ),
    "257 terms of taps": (
        ("taps,dilated", "taps,phases", "matmul"),
        (1, 4, 2, 3),
        (257, 2, 2, 3),
        {"strides": 1, "padding": "VALID"},
    ),
    "257 terms of both dimensions": (("matmul",), (1, 4, 4, 3), (20, 20, 2, 3), {"strides": 1, "padding": "VALID"}),
    "the longest stride of one of two": (
        ("dilated,taps", "dilated,phases", "taps,phases", "phases,taps"),
        (1, 2, 1, 3),
        (2, 3, 2, 3),
        {"strides": [2, 2**31 - 1], "output_shape": [1, 4, 3, 2], "padding": "VALID"},
    ),
    "more forms than dimensions": (("taps,dilated", "taps,phases,taps"), (1, 4, 3), (2, 2, 3), {"strides": 2}),
}


@pytest.mark.parametrize(("names", "x", "w", "keywords"), UNABLE_CALLS.values(), ids=UNABLE_CALLS)
def test_the_unable_raise_and_nothing_else_runs(names, x, w, keywords, ran):
    keywords = {"output_shape": None} | keywords
    x, w = np.ones(x), np.ones(w)
    function = {3: jaxdeconv.conv1d_transpose, 4: jaxdeconv.conv2d_transpose}[x.ndim]
    sizes = chosen_for(function, x, w, keywords)
    ran.clear()
    for name in names:
        reason = next(filter(None, (unable(name, contraction, sizes) for contraction in CONTRACTIONS)))
        run = partial(function, implementation=name, name=next(NAMES), **keywords)
        for under in (run, jax.jit(run), jax.grad(lambda x, w, run=run: run(x, w).sum())):
            with pytest.raises(ValueError, match=rf"^{function.__name__}: implementation must be able to") as caught:
                under(x, w)
            assert f"and {name!r} {reason}, got implementation={name!r}; pass None to have it chosen" in str(caught.value)
    assert ran == []


def chosen_for(function, x, w, keywords):
    """What the choice sees of these."""
    with recording() as executed:
        (found,) = executed(jax.make_jaxpr(lambda x, w: function(x, w, **keywords))(x, w))
    return found.contracted.sizes


def test_the_longest_stride_allocates_nothing(ran):
    """Of an input of one, every tap is within 2**31 - 1 of the first: no phase but the first may be made room for."""
    for name, (x, w) in {"dense": ((1, 1, 3), (3, 2, 3)), "depthwise": ((1, 1, 2), (3, 1, 2))}.items():
        x, w = np.ones(x), np.arange(1.0, 1 + np.prod(w)).reshape(w)
        groups = 2 if name == "depthwise" else 1
        keywords = {"output_shape": [1, 3, 2], "strides": 2**31 - 1, "padding": "VALID", "groups": groups}
        run = partial(jaxdeconv.conv1d_transpose, name=next(NAMES), **keywords)
        tracemalloc.start()
        y, vjp = jax.vjp(run, x, w)
        dx, dw = vjp(np.ones_like(y))
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()
        layer = layers.Layer(1, (1,), x.shape[-1], 2, (3,), (3,), (1,), ((0, 0),), groups)
        for actual, expected in zip((y, dx, dw), layer.expected(x, w, np.ones((1, 3, 2))), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12)
        assert ("transpose", "dilated") in ran
        assert not {"matmul", "polyphase"} & {lowering for _, lowering in ran}
        assert name != "dense" or {lowering for _, lowering in ran} == {"dilated"}
        ran.clear()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "crops"), [(4, 4, (0, 0)), (4, 2, (1, 1)), (3, 1, (1, 1)), (7, 2, (2, 3))])
def test_elementwise_on_cpu_is_a_slice(kernel, stride, crops, channels_last):
    """So that XLA does not give YNNPACK the products with what follows; of C, if g gets zeros in any case."""
    geometry = Geometry((kernel,), (stride,), (1,), (crops,), 6, channels_last)
    keywords = {"geometry": geometry, "precision": None, "preferred_element_type": np.dtype(np.float64)}
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 9, 6) if channels_last else (2, 6, 9)), rng.standard_normal((kernel, 1, 6))
    g = rng.standard_normal(geometry.output_shape(x.shape, w.shape))
    for contraction, first in (("transpose", x), ("input_grad", g)):
        own, plain = (lowering(contraction, "elementwise", platform) for platform in ("cpu", "gpu"))
        np.testing.assert_allclose(own(first, w, **keywords), plain(first, w, **keywords), rtol=1e-12, atol=1e-12)
        last = jax.make_jaxpr(partial(own, **keywords))(first, w).eqns[-1].primitive.name  # a pad of negative widths is one
        assert (last in ("pad", "slice")) == (contraction == "transpose" or crops != (0, 0))


@pytest.mark.parametrize(
    ("batch", "stride", "outputs", "more"), [(3, 1, 20, 1), (4, 1, 20, 0), (3, 2, 20, 0), (3, 1, 16, 0), (1, 1, 20, 0)]
)
def test_an_odd_number_of_items_on_cpu(batch, stride, outputs, more):
    """F in two dimensions has one item more, of zeros, where YNNPACK has the convolution."""
    geometry = Geometry((3, 3), (stride,) * 2, (1, 1), ((1, 1),) * 2, 1, channels_last=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 6, 5, 8)).astype(np.float32)
    g = rng.standard_normal(geometry.output_shape(x.shape, (3, 3, outputs, 8))).astype(np.float32)
    keywords = {"geometry": geometry, "precision": None, "preferred_element_type": np.dtype(np.float32)}
    own, plain = (partial(lowering("filter_grad", "dilated", platform), **keywords) for platform in ("cpu", "gpu"))
    np.testing.assert_allclose(own(x, g), plain(x, g), rtol=1e-4, atol=1e-4)
    (convolution,) = (each for each in jax.make_jaxpr(own)(x, g).eqns if each.primitive.name == "conv_general_dilated")
    numbers = convolution.params["dimension_numbers"]
    assert convolution.invars[0].aval.shape[numbers.lhs_spec[1]] == batch + (more if cpu_convolutions.YNNPACK else 0)


def test_a_zero_behind_that_adds_no_result():
    """Of few results too; where it would add one, of 12 and more."""
    assert dilated._zero_behind([(12, 8), (14, 8)], (2, 2)) == (1, 0)
    assert dilated._zero_behind([(12, 8), (14, 8)], (1, 1)) is None
    assert dilated._zero_behind([(19, 8), (14, 8)], (1, 1)) == (0, 1)


@pytest.mark.parametrize(
    ("contraction", "outputs", "by_item"), [("transpose", 16, True), ("filter_grad", 16, True), ("transpose", 17, False)]
)
def test_products_of_one_item_at_a_time_on_cpu(contraction, outputs, by_item):
    """With channels first, up to 64 rows of the filter."""
    geometry = Geometry((4,), (2,), (1,), ((1, 1),), 1, channels_last=False)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 40)), rng.standard_normal((4, outputs, 3))
    second = w if contraction == "transpose" else rng.standard_normal(geometry.output_shape(x.shape, w.shape))
    keywords = {"geometry": geometry, "precision": None, "preferred_element_type": np.dtype(np.float64)}
    own, plain = (partial(lowering(contraction, "matmul", platform), **keywords) for platform in ("cpu", "gpu"))
    np.testing.assert_allclose(own(x, second), plain(x, second), rtol=1e-12, atol=1e-12)
    (product,) = (each for each in jax.make_jaxpr(own)(x, second).eqns if each.primitive.name == "dot_general")
    batch_dimensions = product.params["dimension_numbers"][1]
    assert any(batch_dimensions) == by_item

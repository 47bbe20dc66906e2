"""What chips send each other when a layer is sharded, from programs compiled for 4 and for 256 TPU chips; nothing runs.

A chip may send halos where the sequence is cut, as many samples as the filter reaches over its edge, and one all-reduce of each
result that is a sum over what is cut. Nothing is gathered, and none of this depends on the number of chips. The exception, a
depthwise filter gradient whose channels are cut, has a test of its own.
"""

import functools
import math

import pytest

pytest.importorskip("libtpu", reason="compiles for TPUs")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks.compiled import collectives, devices, lower_for
from benchmarks.peers import transposed
from benchmarks.sharded import LAYERS, TOPOLOGIES, by_hand, chosen, halos, place, sent, ways
from compiler_tests.recorded import facts
from jaxdeconv._geometry import Geometry, runs
from jaxdeconv._lowerings import dilated

ITEMSIZE = {"bfloat16": 2, "float32": 4}
GROUPS, DEPTHWISE = "4 groups 4/2", "DLA 4/2, 2-D depthwise"
WAYS = {
    "HiFi-GAN 4/2": ("batch", "sequence", "in channels", "out channels"),
    "HiFi-GAN 4/2, one item": ("batch x sequence",),
    "U-Net 2/2, 2-D": ("sequence", "in channels", "batch x sequence"),
    "DCGAN 4/2, 2-D": ("sequence",),
    "iSTFT 1024/256": ("sequence",),
    GROUPS: ("batch", "sequence", "channels", "batch x sequence"),
    DEPTHWISE: ("batch", "sequence", "batch x sequence"),
}
"""What is left out adds nothing, or gathers and is in test_what_gathers."""
CASES = [(name, way) for name in WAYS for way in WAYS[name]]
PODS = [
    *(("HiFi-GAN 4/2, one item", way) for way in ways(LAYERS["HiFi-GAN 4/2, one item"])),
    (DEPTHWISE, "batch"),
    (DEPTHWISE, "sequence"),
    ("iSTFT 1024/256", "sequence"),
]


@functools.cache
def transfers(name, way, chips, mode, implementation=None, dtype="bfloat16"):
    placed = place(LAYERS[name], way, chips)
    if set(chosen(placed, dtype)) == {implementation}:
        return transfers(name, way, chips, mode, None, dtype)
    return facts(placed.over, placed.lower(transposed(placed.layer, implementation=implementation), mode, dtype)).collectives


def halo_bytes(layer, itemsize):
    """Of y, and of either gradient: each of samples, and at most, where products with taps cross instead, those of y in float32."""
    (before, after), outputs = halos(layer)
    crossing = sum(
        abs(run.block) * run.taps for run in runs(layer.kernel[0], layer.strides[0], layer.dilations[0], layer.padding[0][0])
    )
    rows = layer.batch * math.prod(layer.size[1:])
    products = crossing * rows * math.prod(layer.kernel[1:]) * layer.out_channels
    inputs = (before + after) * rows * layer.in_channels * itemsize
    samples = sum(outputs) * layer.batch * math.prod(layer.y_shape[2:]) * itemsize
    return (inputs, max(inputs, 4 * products)), (samples, max(samples, products * itemsize))


def check(found, name, way, chips, mode, exact=False, dtype="bfloat16"):
    """Raises AssertionError unless these are the transfers that there must be; exact: of samples, not of products with taps."""
    own, layer, parts = LAYERS[name], place(LAYERS[name], way, chips).layer, way.split(" x ")
    reduced = [math.prod(each.shape) for each in found if each.kind == "all-reduce"]
    moved = [each for each in found if each.kind == "collective-permute"]
    assert len(reduced) + len(moved) == len(found), found

    if "in channels" in parts:  # y is the sum; "matmul" sums its products with every tap, before it overlaps them
        most = 1 if exact else math.prod(layer.kernel) / math.prod(layer.strides)
        assert len(reduced) == 1, found
        assert 1 <= reduced[0] / math.prod(layer.y_shape) <= most, found
    elif "out channels" in parts:
        assert reduced == [math.prod(layer.x_shape)] * (mode == "train"), found
    elif "channels" in parts:
        assert reduced == [], found
    else:  # the filter's gradient is the sum, over either of the mesh axes in turn, or over both at once
        each_item = (
            own.batch if own.groups == own.in_channels and parts == ["sequence"] else 1
        )  # of a depthwise one, before their sum
        sums = [each_item * math.prod(layer.w_shape), math.prod(layer.w_shape)][: len(parts)]
        assert reduced in ([], sums[:1], sums, sums[::-1]), found
        assert bool(reduced) == (mode == "train"), found

    forward, backward = halo_bytes(own, ITEMSIZE[dtype])
    if "sequence" not in parts or not sum(halos(own)[1]):
        assert moved == [], found
    elif mode == "forward":
        assert forward[0] == sent(moved) if exact else 0 < sent(moved) <= forward[1], found
    elif exact:  # either gradient needs outputs, and XLA may send the same ones twice
        assert sent(moved) in (forward[0] + backward[0], forward[0] + 2 * backward[0]), found
    else:
        assert 0 < sent(moved) <= forward[1] + 2 * backward[1], found


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize(("name", "way"), CASES)
def test_four_chips(name, way, mode):
    check(transfers(name, way, 4, mode), name, way, 4, mode)


@pytest.mark.parametrize(("name", "way"), PODS)
def test_a_pod(name, way):
    check(transfers(name, way, 256, "train"), name, way, 256, "train")


@pytest.mark.parametrize(
    ("way", "mode"),
    [*((way, "train") for way in ways(LAYERS["HiFi-GAN 16/8"])), ("sequence", "forward"), ("in channels", "forward")],
)
def test_one_convolution(way, mode):
    """The halos are exactly the samples that are needed, and a chip of 256 sends what one of 4 does."""
    name = "HiFi-GAN 16/8"
    few, many = (transfers(name, way, chips, mode, "dilated") for chips in (4, 256))
    check(few, name, way, 4, mode, exact=True)
    check(many, name, way, 256, mode, exact=True)
    assert sent(few) == sent(many)


@pytest.mark.parametrize("way", ["sequence", "in channels"])
def test_float32(way):
    name = "HiFi-GAN 4/2"
    check(transfers(name, way, 4, "train", dtype="float32"), name, way, 4, "train", dtype="float32")


@pytest.mark.parametrize(
    ("name", "way", "chips"), [("HiFi-GAN 16/8", "sequence", 4), ("HiFi-GAN 16/8", "batch x sequence", 256), (GROUPS, "sequence", 4)]
)
def test_halos_by_hand(name, way, chips):
    """In jax.shard_map, the inputs that cross go one way, their gradients the other, and the filter's gradient is one all-reduce."""
    placed = place(LAYERS[name], way, chips)
    found = facts(placed.over, placed.lower(by_hand(placed), "train", "bfloat16")).collectives
    inputs = halo_bytes(LAYERS[name], 2)[0][0]
    assert sorted(each.kind for each in found) == ["all-reduce", *["collective-permute"] * 4]
    assert sent([each for each in found if each.kind == "collective-permute"]) == 2 * inputs
    assert [math.prod(each.shape) for each in found if each.kind == "all-reduce"] == [math.prod(placed.layer.w_shape)]


def test_what_gathers():
    """XLA gathers the operands of a depthwise filter gradient by "dilated", which a TPU gets for its speed, and none by "matmul"."""
    name, way = DEPTHWISE, "channels"
    placed = place(LAYERS[name], way, 4)
    assert chosen(placed, "bfloat16")[-1] == "dilated"
    found = transfers(name, way, 4, "train")
    gathered = [math.prod(each.shape) for each in found if each.kind == "all-gather"]
    assert sorted(gathered) == sorted(map(math.prod, (placed.layer.x_shape, placed.layer.y_shape)))
    with pytest.raises(AssertionError):
        check(found, name, way, 4, "train")
    check(transfers(name, way, 4, "forward"), name, way, 4, "forward")
    check(transfers(name, way, 4, "train", "matmul"), name, way, 4, "train")


def gradient(layer, implementation=None):
    op = transposed(layer, implementation=implementation)
    return lambda x, w, g: jax.vjp(lambda w: op(x, w), w)[1](g)[0]


def input_gradient(layer, implementation=None):
    op = transposed(layer, implementation=implementation)
    return lambda x, w, g: jax.vjp(lambda x: op(x, w), x)[1](g)[0]


def gradient_by_one_convolution(layer):
    geometry = Geometry(layer.kernel, layer.strides, layer.dilations, layer.padding, layer.groups, channels_last=True)
    return lambda x, w, g: dilated.filter_grad(x, g, geometry, preferred_element_type=jnp.float32)


def summed_over(function, layer, spec, w=None):
    """The chips that sum a gradient together, of 2 x 2 with x and g sharded over "data"; nothing is over "model", or only w."""
    over = Mesh(np.array(devices(TOPOLOGIES[4])).reshape(2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    shapes = [layer.x_shape, layer.w_shape, layer.y_shape]
    result = jax.P() if w is None else spec
    found = facts(over, lower_for(over, function(layer), shapes, "bfloat16", [spec, w or jax.P(), spec], result)).collectives
    return {frozenset(group) for each in found if each.kind == "all-reduce" for group in each.groups}


DATA, ALL = {frozenset({0, 2}), frozenset({1, 3})}, {frozenset({0, 1, 2, 3})}


BY_CONVOLUTION = functools.partial(gradient, implementation="dilated")


@pytest.mark.parametrize(
    ("name", "way", "function", "chips"),
    [
        ("HiFi-GAN 4/2", "batch", gradient, DATA),
        ("HiFi-GAN 4/2", "sequence", gradient, DATA),
        (GROUPS, "batch", gradient, DATA),
        (GROUPS, "sequence", gradient, DATA),
        (DEPTHWISE, "batch", gradient, DATA),
        (DEPTHWISE, "sequence", gradient, DATA),
        ("HiFi-GAN 4/2", "batch", BY_CONVOLUTION, DATA),
        ("HiFi-GAN 4/2", "sequence", BY_CONVOLUTION, ALL),
        (DEPTHWISE, "sequence", BY_CONVOLUTION, ALL),
        (DEPTHWISE, "batch", gradient_by_one_convolution, ALL),
    ],
)
def test_beside_an_idle_axis(name, way, function, chips):
    """Over all chips the sum is wrong: it counts what is replicated along the idle axis. docs/sharding.md says where XLA takes it."""
    spec = jax.P("data") if way == "batch" else jax.P(None, "data")
    assert summed_over(function, LAYERS[name], spec) == chips


def test_an_input_gradient_beside_an_idle_axis():
    """With the sequence over "data", and the filter's input channels over "model": by a convolution it is summed over all chips."""
    layer, spec, w = LAYERS["HiFi-GAN 4/2"], jax.P(None, "data"), jax.P(None, None, "model")
    assert summed_over(functools.partial(input_gradient, implementation="dilated"), layer, spec, w) >= ALL
    assert not ALL & summed_over(input_gradient, layer, spec, w)


def test_combined_transfers():
    """Every array of a transfer counts."""
    placed = place(LAYERS["HiFi-GAN 4/2"], "batch", 4)
    layer = placed.layer

    def gradients(x, w, g):
        return gradient(layer)(x, w, g), jnp.sum(g, (0, 1))

    shapes, specs = [layer.x_shape, layer.w_shape, layer.y_shape], [placed.x, placed.w, placed.y]
    compiled = lower_for(placed.over, gradients, shapes, "bfloat16", specs, (jax.P(), jax.P())).compile()
    assert compiled.as_text().count(" all-reduce(") == 1
    assert [each.shape for each in collectives(compiled)] == [layer.w_shape, (layer.out_channels,)]


def test_the_check_condemns_a_gather():
    name = "HiFi-GAN 16/8"
    placed = place(LAYERS[name], "batch", 4)
    gathered = facts(placed.over, placed._replace(y=jax.P()).lower(transposed(placed.layer), "forward", "bfloat16")).collectives
    assert [each.kind for each in gathered] == ["all-gather"]
    with pytest.raises(AssertionError):
        check(gathered, name, "batch", 4, "forward")


def test_the_check_condemns_merged_channels():
    """As "polyphase" merges them, which is why a TPU gets it by name only where it would have to gather them."""
    name, way = "HiFi-GAN 4/2", "out channels"
    with pytest.raises(AssertionError):
        check(transfers(name, way, 4, "forward", "polyphase"), name, way, 4, "forward")


def test_the_check_condemns_what_grows_with_the_chips():
    """An output of W*s + 1 samples is cut elsewhere than its inputs are, the more so the more chips there are."""
    name, way = "HiFi-GAN 16/8", "sequence"
    found = transfers(name, way, 256, "forward", "polyphase")
    assert {each.kind for each in found} == {"collective-permute"}
    with pytest.raises(AssertionError):
        check(found, name, way, 256, "forward")

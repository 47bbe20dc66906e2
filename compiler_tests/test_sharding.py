"""What chips send each other when a layer is sharded, from programs compiled for 4 and for 256 TPU chips; nothing runs.

A chip may send halos where the sequence is cut, as many samples as the filter reaches over its edge, and one all-reduce of each
result that is a sum over what is cut. Nothing is gathered, and none of this depends on the number of chips.
"""

import functools
import math

import pytest

pytest.importorskip("libtpu", reason="compiles for TPUs")

import jax

from benchmarks.compiled import collectives
from benchmarks.peers import transposed
from benchmarks.sharded import LAYERS, by_hand, chosen, halos, place, sent, ways
from jaxdeconv._geometry import runs

ITEMSIZE = {"bfloat16": 2, "float32": 4}
CASES = [
    (name, way)
    for name, layer in LAYERS.items()
    for way in ways(layer)
    if way != "batch x sequence" or name in ("HiFi-GAN 16/8", "HiFi-GAN 4/2, one item", "U-Net 2/2, 2-D")
]
PODS = [
    (name, way)
    for name, way in CASES
    if name in ("HiFi-GAN 4/2, one item", "DLA 4/2, 2-D depthwise")
    or (name, way) in {("4 groups 4/2", "sequence"), ("iSTFT 1024/256", "sequence")}
]


@functools.cache
def transfers(name, way, chips, mode, implementation=None, dtype="bfloat16"):
    placed = place(LAYERS[name], way, chips)
    if set(chosen(placed.layer, dtype)) == {implementation}:
        return transfers(name, way, chips, mode, None, dtype)
    return collectives(placed.compile(transposed(placed.layer, implementation=implementation), mode, dtype))


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
        assert set(reduced) == ({math.prod(layer.w_shape)} if mode == "train" else set()), found
        assert len(reduced) <= len(parts), found

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


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("way", ways(LAYERS["HiFi-GAN 16/8"]))
def test_one_convolution(way, mode):
    """The halos are exactly the samples that are needed, and a chip of 256 sends what one of 4 does."""
    name = "HiFi-GAN 16/8"
    few, many = (transfers(name, way, chips, mode, "dilated") for chips in (4, 256))
    check(few, name, way, 4, mode, exact=True)
    check(many, name, way, 256, mode, exact=True)
    assert sent(few) == sent(many)


@pytest.mark.parametrize("way", ["batch", "sequence", "in channels", "out channels"])
def test_float32(way):
    name = "HiFi-GAN 4/2"
    check(transfers(name, way, 4, "train", dtype="float32"), name, way, 4, "train", dtype="float32")


@pytest.mark.parametrize("chips", [4, 256])
@pytest.mark.parametrize("way", ["sequence", "batch x sequence"])
@pytest.mark.parametrize("name", ["HiFi-GAN 16/8", "4 groups 4/2"])
def test_halos_by_hand(name, way, chips):
    """In jax.shard_map, the inputs that cross go one way, their gradients the other, and the filter's gradient is one all-reduce."""
    placed = place(LAYERS[name], way, chips)
    found = collectives(placed.compile(by_hand(placed), "train", "bfloat16"))
    inputs = halo_bytes(LAYERS[name], 2)[0][0]
    assert sorted(each.kind for each in found) == ["all-reduce", *["collective-permute"] * 4]
    assert sent([each for each in found if each.kind == "collective-permute"]) == 2 * inputs
    assert [math.prod(each.shape) for each in found if each.kind == "all-reduce"] == [math.prod(placed.layer.w_shape)]


@pytest.mark.xfail(strict=True, reason="XLA's partitioner gathers a grouped convolution's operands; docs/sharding.md")
def test_one_convolution_of_groups():
    """The filter gradient of "dilated", with groups and the sequence cut."""
    name = "4 groups 4/2"
    check(transfers(name, "sequence", 4, "train", "dilated"), name, "sequence", 4, "train")


def test_the_check_condemns_a_gather():
    name = "HiFi-GAN 16/8"
    placed = place(LAYERS[name], "batch", 4)
    gathered = collectives(placed._replace(y=jax.P()).compile(transposed(placed.layer), "forward", "bfloat16"))
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

"""The choice of a lowering and the arithmetic that it and the lowerings rest on: of sizes alone, so checked over many."""

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import get_args

import cases
import jax
import layers
import numpy as np
import pytest

import jaxdeconv
from jaxdeconv import _select as policy
from jaxdeconv._geometry import Geometry, reach, runs
from jaxdeconv._lowerings import UNIFORM, Contraction, Form, candidates, forms_of, mixed, unable
from jaxdeconv._lowerings._blocks import terms
from jaxdeconv._lowerings._work import Sizes
from jaxdeconv._platforms import cpu, cpu_convolutions, cpu_lowerings, rates, work
from jaxdeconv._select import LARGE, WORTH, estimate, estimated, largest_temporary, select

CONTRACTIONS = get_args(Contraction)
IMPLEMENTATIONS = get_args(jaxdeconv.Implementation)
CPU = rates("cpu")


def sizes_of(layer, itemsize=4):
    return Sizes(Geometry(*layer.window), layer.batch, layer.spatial, layer.in_channels, layer.out_channels, itemsize)


def same(batch, size, channels, kernel, stride, groups=1, ndim=1, itemsize=4):
    """A layer of the usual kind: an output of stride times the size, cut from the middle."""
    extra = kernel - stride
    crops = ((extra // 2, extra - extra // 2),) * ndim
    window = (kernel,) * ndim, (stride,) * ndim, (1,) * ndim, crops
    return sizes_of(layers.Layer(batch, (size,) * ndim, *channels, *window, groups), itemsize)


def random_sizes(count=300):
    """Of any geometry and of amounts from a few numbers to gigabytes."""
    rng = np.random.default_rng(0)
    for index in range(count):
        ndim = 1 + index % 4
        layer = layers.random_layer(rng, ndim, most=9 if ndim == 1 else 4)
        factor = int(2 ** rng.uniform(0, 9))
        layer = layer._replace(
            batch=int(2 ** rng.uniform(0, 6)),
            spatial=tuple(int(size * 2 ** rng.uniform(0, 12 / ndim)) for size in layer.spatial),
            in_channels=layer.in_channels * factor,
            out_channels=layer.out_channels * factor,
            groups=layer.groups * factor if rng.integers(3) == 0 else layer.groups,
        )
        yield sizes_of(layer, int(rng.choice([2, 4, 8, 16])))


ANY = list(random_sizes())
# What the rule about memory is there for: products far larger than what goes in and out.
OVERLAPPING = [same(16, 4096, (64, 64), kernel, 2) for kernel in (4, 8, 16, 32)] + [same(64, 8192, (8, 8), 64, 2)]
LAYERS = {
    "HiFi-GAN": [
        same(batch, *rest)
        for batch in (1, 16)
        for rest in [(32, (512, 256), 16, 8), (256, (256, 128), 16, 8), (2048, (128, 64), 4, 2)]
    ],
    "iSTFT": [same(1, 200, (1026, 1), 1024, 256), same(8, 800, (1026, 1), 1024, 256)],
    "depthwise": [same(2, 64, (256, 256), 4, 2, 256, ndim) for ndim in (1, 2)] + [same(4, 1024, (64, 64), 8, 4, 64)],
    "3-D": [same(2, 16, (64, 32), 4, 2, ndim=3), same(1, 32, (32, 16), 2, 2, ndim=3), same(2, 16, (64, 32), 4, 2, 4, ndim=3)],
    "2-D": [same(8, 32, (128, 64), 4, 2, ndim=2), same(1, 128, (64, 3), 2, 2, ndim=2)],
}
EVERY = [*ANY, *OVERLAPPING, *itertools.chain.from_iterable(LAYERS.values())]


def estimates(contraction, sizes, of_platform=CPU):
    """The seconds of every lowering that can."""
    able = [name for name in candidates(sizes.geometry) if unable(name, contraction, sizes) is None]
    held = 1 if contraction == "transpose" else policy.BESIDE
    return {name: sum(policy.terms(work("cpu", name, contraction, sizes), of_platform, sizes.itemsize, held)) for name in able}


def test_the_same_for_equal_arguments_and_able():
    for sizes, contraction in itertools.product(EVERY, CONTRACTIONS):
        chosen = select(contraction, sizes, "cpu")
        copy = sizes._replace(geometry=Geometry(**vars(sizes.geometry)))
        assert select(contraction, copy, "cpu") == chosen
        assert unable(chosen, contraction, sizes) is None
        first = sizes._replace(geometry=Geometry(**vars(sizes.geometry) | {"channels_last": False}))
        assert unable(select(contraction, first, "cpu"), contraction, first) is None


@pytest.mark.parametrize("contraction", ["transpose", "input_grad"])
def test_products_of_small_filters_are_convolutions_of_one_tap(contraction):
    """With channels last. "matmul" computes the same, by products that XLA on CPU is slow at."""
    small, large = (same(2, 2**17, channels, 2, 2) for channels in [(5, 2), (5, 512)])
    first = small._replace(geometry=replace(small.geometry, channels_last=False))
    chosen = [select(contraction, sizes, "cpu") for sizes in (small, large, first)]
    assert [name == "taps" for name in chosen] == [True, False, False]


def test_copies_of_depthwise_operands_with_channels_first_are_counted():
    """x and g with channels last, which XLA holds beside the products of a tap."""
    first = same(5, 48, (69, 69), 3, 3, groups=69, ndim=2)
    first = first._replace(geometry=replace(first.geometry, channels_last=False))
    last = first._replace(geometry=replace(first.geometry, channels_last=True))
    held = [work("cpu", "elementwise", "filter_grad", sizes).temporary for sizes in (first, last)]
    assert held[0] - held[1] == first.x + first.y
    assert [select("filter_grad", sizes, "cpu") for sizes in (first, last)] == ["matmul", "elementwise"]


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_where_devices_come_in_numbers_nothing_is_chosen_that_gathers(platform):
    for sizes, contraction in itertools.product(EVERY, CONTRACTIONS):
        chosen = select(contraction, sizes, platform)
        assert chosen in ("dilated", "matmul")
        if platform == "gpu" and contraction == "filter_grad" and sizes.geometry.groups > 1:
            assert chosen == ("dilated" if unable("matmul", contraction, sizes) else "matmul")
        assert unable(chosen, contraction, sizes) is None


def test_what_cudnn_has_no_call_for_is_a_product_on_gpu():
    """Groups in T, dilations, a filter gradient whose input is within the filter, and crops that extend."""
    usual = same(2, 64, (32, 16), 4, 2)
    assert {select(contraction, usual, "gpu") for contraction in CONTRACTIONS} == {"dilated"}
    assert select("transpose", same(2, 64, (32, 16), 4, 2, groups=4), "gpu") == "matmul"
    assert select("input_grad", same(2, 64, (32, 16), 4, 2, groups=4), "gpu") == "dilated"
    geometry = Geometry((4,), (2,), (3,), ((4, 4),), 1, channels_last=True)
    dilated = usual._replace(geometry=geometry)
    assert [select(contraction, dilated, "gpu") for contraction in CONTRACTIONS] == ["matmul", "dilated", "matmul"]
    assert [select(contraction, LAYERS["iSTFT"][0], "gpu") for contraction in CONTRACTIONS] == ["dilated", "dilated", "matmul"]
    extended = usual._replace(geometry=Geometry((4,), (2,), (1,), ((-1, 1),), 1, channels_last=True))
    assert [select(contraction, extended, "gpu") for contraction in CONTRACTIONS] == ["matmul", "dilated", "matmul"]


def test_a_plane_of_fewer_inputs_than_taps_is_a_product_on_gpu():
    """XLA exchanges the operands of such a convolution of two dimensions alone."""
    for ndim, chosen in ((1, "dilated"), (2, "matmul"), (3, "dilated")):
        geometry = Geometry((5,) * ndim, (2,) * ndim, (1,) * ndim, ((2, 2),) * ndim, 1, channels_last=True)
        sizes = Sizes(geometry, 8, (4,) * ndim, 64, 32, 2)
        assert select("transpose", sizes, "gpu") == chosen


def test_a_convolution_with_fewer_inputs_than_taps_is_a_scalar_loop_on_cpu():
    """XLA swaps its operands, and T with a stride stays so: eight inputs and sixteen taps took 15 times as long as sixteen inputs."""
    for size, loops in ((8, True), (16, False)):
        sizes = same(4, size, (128, 128), 16, 8)
        assert (work("cpu", "dilated", "transpose", sizes).naive > 0) == loops
        assert not loops or select("transpose", sizes, "cpu") != "dilated"


def test_a_convolution_stays_on_tpu_if_little_is_gained():
    """XLA keeps one order of axes through a network of them."""
    sizes = same(4, 16, (512, 256), 16, 8)
    ratio = estimate("dilated", "transpose", sizes, "tpu") / estimate("matmul", "transpose", sizes, "tpu")
    assert 1 < ratio < rates("tpu").surely
    assert select("transpose", sizes, "tpu") == "dilated"


def test_positions_and_parts_on_tpu():
    """T by a convolution loads the filter for each position, so that items cost little. Parts of a long signal are items."""

    def convolved(batch, size, kernel, stride):
        return work("tpu", "dilated", "transpose", same(batch, size, (128, 128), kernel, stride)).convolution

    assert convolved(8, 512, 16, 4) < 1.2 * convolved(1, 512, 16, 4)
    assert convolved(1, 8 * 1024, 4, 2) == pytest.approx(convolved(8, 1024, 4, 2), rel=0.01)
    assert convolved(1, 8 * 1024, 16, 4) > 4 * convolved(8, 1024, 16, 4)  # which reach over several samples of the part before
    assert convolved(8, 8 * 1024, 4, 2) > 4 * convolved(1, 8 * 1024, 4, 2)  # which fill the registers by themselves


def test_phases_of_products_on_tpu():
    """Of few outputs a spatial dimension is in the lanes, and phases change places in the memory on the chip while they fit it."""

    def rearranged(size, channels):
        return work("tpu", "matmul", "transpose", same(8, size, (128, channels), 4, 2)).rearranged

    assert rearranged(2**14, 1) == pytest.approx(rearranged(2**10, 1) * 2**4, rel=0.1)
    assert rearranged(2**18, 1) > 1.2 * 2**8 * rearranged(2**10, 1)
    assert rearranged(2**18, 128) == pytest.approx(rearranged(2**10, 128) * 2**8, rel=0.1)  # never in the lanes


def test_layers_that_were_slow_on_tpu():
    """By the estimates of its compiler: T of one output channel, and of small batches of short signals of many channels. Of a long
    one, XLA makes parts the items of a batch."""
    for sizes in (*LAYERS["iSTFT"], *LAYERS["HiFi-GAN"][:2]):
        assert select("transpose", sizes, "tpu") == "matmul"
    for batch in (1, 16):
        assert select("transpose", same(batch, 2048, (128, 64), 4, 2), "tpu") == "dilated"
    # In a network products take 1.7 and 1.4 times the cycles: where a batch fills the registers, and where no taps overlap.
    for sizes in (same(16, 32, (512, 256), 16, 8, itemsize=2), same(1, 28, (1024, 512), 2, 2, ndim=2, itemsize=2)):
        assert select("transpose", sizes, "tpu") == "dilated"
    # F of one dimension by a convolution takes 7 times as many in a network, for small batches. C shares its patches.
    for contraction in ("filter_grad", "input_grad"):
        for batch, name in ((1, "matmul"), (4, "matmul"), (16, "dilated")):
            assert select(contraction, same(batch, 640, (256, 128), 16, 8, itemsize=2), "tpu") == name
        assert select(contraction, same(1, 16, (256, 128), 4, 2, ndim=2, itemsize=2), "tpu") == "dilated"
    few = same(5, 2655, (854, 12), 5, 5, itemsize=2)
    assert [select(contraction, few, "tpu") for contraction in ("input_grad", "filter_grad")] == ["dilated", "matmul"]


@pytest.mark.parametrize(
    ("which", "contractions", "expected"),
    [
        ("iSTFT", ("transpose",), {"matmul"}),
        ("depthwise", CONTRACTIONS, {"elementwise", "matmul", "polyphase"}),
        ("3-D", ("transpose",), {"matmul", "polyphase", "elementwise", "taps,taps,taps", "taps,taps,phases", "taps,phases,phases"}),
        ("HiFi-GAN", ("transpose",), {"matmul", "polyphase"}),
    ],
)
def test_layers_that_were_slow(which, contractions, expected):
    assert {select(contraction, sizes, "cpu") for sizes in LAYERS[which] for contraction in contractions} <= expected


def test_outputs_of_one_input_are_loops():
    """In which there is nothing to sum but taps; with several inputs, or many taps of many outputs, products are faster."""
    for size, outputs, kernel in ((57000, 6, 12), (7500, 5, 21), (300, 46, 5)):
        assert select("transpose", same(8, size, (1, outputs), kernel, 1), "cpu") == "elementwise"
        assert select("transpose", same(8, size, (8, outputs), kernel, 1), "cpu") != "elementwise"
    assert select("transpose", same(2, 373, (16, 16), 3, 1, groups=16, ndim=2), "cpu") == "elementwise"
    assert select("transpose", same(2, 373, (16, 48), 3, 1, groups=16, ndim=2), "cpu") == "elementwise"
    assert select("transpose", same(16, 60, (1, 466), 18, 1), "cpu") != "elementwise"


def test_loops_of_many_terms_count_more():
    """Which XLA computes slower and slower: T of one input and 256 taps took 10 times as long as by a convolution."""
    few, many = (same(2, 60, (1, 16), kernel, 1, ndim=2) for kernel in (8, 16))
    taken = [estimated("elementwise", "transpose", sizes, "cpu").looped / sizes.taps / sizes.y for sizes in (few, many)]
    assert taken[1] == pytest.approx(4 * taken[0])
    assert (select("transpose", few, "cpu") == "elementwise") > (select("transpose", many, "cpu") == "elementwise")
    depthwise = (same(2, 60, (16, 16), kernel, 1, groups=16, ndim=2) for kernel in (8, 16))
    taken = [estimated("elementwise", "input_grad", sizes, "cpu").looped / sizes.taps / sizes.x for sizes in depthwise]
    assert taken[1] == pytest.approx(4 * taken[0])


def test_loops_over_few_channels_count_more():
    """XLA computes results beside each other together: channels where they are last, of which one is none, or else samples."""
    for channels, ratio in ((1, 1), (2, 4), (4, 2), (8, 1), (16, 1)):
        last, first = (
            estimated("elementwise", "transpose", sizes._replace(geometry=replace(sizes.geometry, channels_last=each)), "cpu").looped
            for sizes in (same(8, 5000, (1, channels), 5, 1),)
            for each in (True, False)
        )
        assert last == pytest.approx(ratio * first)


def test_the_filter_gradient_of_one_example_is_a_product():
    """With a batch of one, as in the vocoder's first layers, XLA gathers the patches of "dilated" one by one."""
    for sizes in LAYERS["HiFi-GAN"]:
        if sizes.batch == 1:
            assert select("filter_grad", sizes, "cpu") != "dilated"


def test_filter_gradients_of_few_inputs_are_convolutions():
    """Which have x on the left then. The first took 1.5 ms, and by "matmul" 17.6."""
    few = [same(1, 53705, (2, 233), 2, 1), same(1, 3579, (3, 558), 12, 1), same(1, 40811, (2, 415), 6, 2)]
    assert [select("filter_grad", sizes, "cpu") for sizes in few] == ["dilated", "dilated", "polyphase"]
    patched = [cpu._patched("filter_grad", sizes._replace(in_channels=inputs))[0] for sizes in few[:1] for inputs in (2, 300)]
    assert patched == [2 * 2, 233 * 2]  # the taps of the channels on the left


def test_patches_of_a_doubled_filter_gradient_are_packed_sample_by_sample(monkeypatch):
    """By XLA itself, where the library that packs runs of them would take longer."""
    monkeypatch.setattr(cpu_convolutions, "YNNPACK", True)
    of_two, of_four = (work("cpu", "dilated", "filter_grad", same(batch, 96, (3, 3), 16, 1, ndim=2)) for batch in (2, 4))
    assert (of_two.rearranged, of_four.jumps) == (0, 0)
    assert of_four.rearranged == 2 * of_two.gathered > 0 < of_two.jumps
    assert of_four.convolution * cpu.SLOWER[1] == pytest.approx(2 * of_two.convolution)


def test_convolutions_of_a_library_start_no_program(monkeypatch):
    """Of two dimensions and many channels. Others are one of their own, and so is what orders the operands of a filter gradient."""

    def steps(contraction, channels, ndim):
        return work("cpu", "dilated", contraction, same(4, 16, (channels, channels), 3, 1, ndim=ndim)).steps

    monkeypatch.setattr(cpu, "YNNPACK", True)
    assert [steps(each, 32, 2) for each in CONTRACTIONS] == [1, 1, 2]
    assert {steps(each, channels, ndim) for each in CONTRACTIONS for channels, ndim in ((8, 2), (32, 1))} == {2}
    monkeypatch.setattr(cpu, "YNNPACK", False)
    assert steps("input_grad", 32, 2) == 2


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["dilated", "polyphase", "taps,phases"])
def test_memory_of_a_filter_gradient_by_a_convolution_is_counted_once(name, channels_last):
    """One copy of each operand makes patches, brings channels last, and the batch into the place of the features."""
    sizes = same(4, 30, (8, 16), 4, 2, ndim=2)
    sizes = sizes._replace(geometry=replace(sizes.geometry, channels_last=channels_last))
    inner = mixed.inner_sizes(sizes, mixed.apart(sizes.geometry, forms_of(name, 2)))
    held = inner.x + inner.y + (inner.w if name != "dilated" else 0)
    assert work("cpu", name, "filter_grad", sizes).temporary == held


def test_memory_is_taken_only_where_it_is_worth_it():
    avoided = 0
    for sizes, contraction in itertools.product(EVERY, CONTRACTIONS):
        chosen, each = select(contraction, sizes, "cpu"), estimates(contraction, sizes)
        each = {name: each[name] for name in policy.able(contraction, sizes, "cpu")}
        limit = LARGE * sizes.itemsize * max(sizes.x, sizes.y, sizes.w)
        large = {name for name in each if largest_temporary(name, contraction, sizes, "cpu") > limit}
        same_size = large if chosen in large else set(each) - large
        assert all(each[chosen] <= each[name] for name in same_size)
        if chosen in large:
            assert all(each[name] >= WORTH * each[chosen] for name in set(each) - large), (contraction, sizes)
        else:
            assert all(each[chosen] <= WORTH * each[name] for name in large), (contraction, sizes)
            avoided += any(each[name] < each[chosen] for name in large)
    assert avoided > 0


def test_what_is_brought_into_another_order_is_counted():
    """Patches where k = s, of too many taps to be joined."""
    joined, many = (same(1, 5, (6, 16), k, k, ndim=2) for k in (64, 65))
    for contraction in ("input_grad", "filter_grad"):
        assert work("cpu", "matmul", contraction, joined).rearranged == 0
        assert work("cpu", "matmul", contraction, many).rearranged == many.products


def test_the_output_holds_less_beside_its_gradients():
    sizes = same(8, 600, (256, 128), 10, 5)  # EnCodec's second: products of 23 MiB, which alone are memory that is kept
    names = [select("transpose", sizes, "cpu", differentiated=each) for each in (False, True)]
    held = [largest_temporary(name, "transpose", sizes, "cpu") for name in names]
    assert held[1] < CPU.fresh_from / policy.BESIDE <= held[0] < CPU.fresh_from
    x, w = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((8, 600, 256), (10, 128, 256)))
    call = partial(jaxdeconv.conv1d_transpose, strides=5, output_shape=None)
    texts = [jax.jit(each).lower(x, w).as_text() for each in (call, lambda x, w: jax.vjp(call, x, w)[0])]
    assert ["convolution" in text for text in texts] == [name != "matmul" for name in names] == [False, True]


@pytest.mark.parametrize("factor", [2.0**-20, 3.0, 1e6])
def test_only_ratios_of_rates_matter(factor, monkeypatch):
    before = [select(contraction, sizes, "cpu") for sizes in EVERY for contraction in CONTRACTIONS]
    ratios = {"narrow_product", "narrow_convolution", "surely", "fresh_from"}  # sizes and ratios
    scaled = CPU._replace(**{name: factor * rate for name, rate in CPU._asdict().items() if name not in ratios})
    once = estimate("matmul", "transpose", EVERY[0], "cpu")
    monkeypatch.setattr(policy, "rates", {"cpu": scaled}.__getitem__)
    assert estimate("matmul", "transpose", EVERY[0], "cpu") == pytest.approx(once / factor)
    # Not the remembered choices.
    assert [select.__wrapped__(contraction, sizes, "cpu") for sizes in EVERY for contraction in CONTRACTIONS] == before


def test_a_slower_rate_never_makes_faster():
    for sizes, contraction in itertools.product(EVERY[::5], CONTRACTIONS):
        before = estimates(contraction, sizes)
        assert all(math.isfinite(each) and each > 0 for each in before.values())
        for name in set(CPU._fields) - {"fresh_from"}:
            after = estimates(contraction, sizes, CPU._replace(**{name: getattr(CPU, name) / 2}))
            assert all(after[lowering] >= before[lowering] for lowering in before)


def test_twice_the_batch_takes_no_less(monkeypatch):
    """While patches and products are made all at once, for a piece of many is smaller than all of few, and by the same library. And
    from a batch of 2 on: of one, XLA packs the patches of a filter gradient sample by sample."""
    monkeypatch.setattr(cpu_convolutions, "LARGE", 2**80)
    monkeypatch.setattr(cpu_lowerings, "MOST_PATCHES", 2**80)
    monkeypatch.setattr(cpu_lowerings, "IN_CACHE", 2**80)
    for sizes, contraction in itertools.product(EVERY, CONTRACTIONS):
        sizes = sizes._replace(batch=max(sizes.batch, 2))
        once, twice = estimates(contraction, sizes), estimates(contraction, sizes._replace(batch=2 * sizes.batch))
        for name in set(once) & set(twice):
            assert twice[name] >= once[name], (name, contraction, sizes)
            more = sizes._replace(batch=2 * sizes.batch)
            assert largest_temporary(name, contraction, more, "cpu") >= largest_temporary(name, contraction, sizes, "cpu")


@pytest.mark.parametrize(("batch", "pieces"), [(1, 16), (2, 16), (16, 16), (32, 16)])
def test_the_patches_of_a_filter_gradient_are_few(batch, pieces):
    """Unless the filter itself is large."""
    sizes = sizes_of(layers.Layer(batch, (2**18 // batch,), 64, 32, (4,), (2,), (1,), ((1, 1),)), itemsize=4)
    assert largest_temporary("matmul", "transpose", sizes, "cpu") == 2**27
    taken = 4 * (sizes.x + sizes.y) if batch < pieces else 0
    assert largest_temporary("matmul", "filter_grad", sizes, "cpu") == (2**27 + taken) // pieces
    large = sizes._replace(in_channels=64 * 256)
    assert largest_temporary("matmul", "filter_grad", large, "cpu") == 2**27


@pytest.mark.parametrize("channels_last", [False, True])
def test_patches_in_a_loop_take_longer_than_all_at_once(channels_last):
    """XLA gives the body of a loop one core. Here a product of pieces takes 25 ms with channels first, a convolution 7 ms."""
    sizes = sizes_of(layers.Layer(14, (442,), 2, 673, (8,), (1,), (1,), ((0, 0),)), itemsize=4)
    sizes = sizes._replace(geometry=replace(sizes.geometry, channels_last=channels_last))
    moved = work("cpu", "matmul", "filter_grad", sizes._replace(batch=2)).moved
    assert work("cpu", "matmul", "filter_grad", sizes).moved > 1.2 * 7 * moved
    assert select("filter_grad", sizes, "cpu") == "dilated"


@pytest.mark.parametrize("name", ["matmul", "polyphase"])
def test_the_longest_stride_is_left_to_dilated(name):
    layer = layers.Layer(1, (1,), 3, 2, (3,), (2**31 - 1,), (1,), ((0, 0),))
    for contraction in CONTRACTIONS:
        assert "samples in blocks of (2147483647,) for an output of (3,)" in unable(name, contraction, sizes_of(layer))
        assert select(contraction, sizes_of(layer), "cpu") == "dilated"


def test_long_filters_and_signals_are_judged_quickly():
    """Nothing here grows with the signal, and only linearly with the taps."""
    layer = layers.Layer(2**10, (10**9,), 2**12, 2**12, (4096,), (3,), (7,), ((5, -8),))
    assert {select(contraction, sizes_of(layer), "cpu") for contraction in CONTRACTIONS} == {"dilated"}


def test_no_mixture_is_cut_over_a_mesh():
    """Of what XLA's partitioner makes of them, nothing is known; without a mesh, some of the same are chosen or may be."""
    for sizes, contraction in itertools.product(EVERY[::3], CONTRACTIONS):
        for platform, axes in itertools.product(("cpu", "gpu", "tpu"), (1, 2)):
            assert select(contraction, sizes, platform, axes) in IMPLEMENTATIONS


def test_a_mixture_is_chosen_where_it_takes_least(monkeypatch):
    """On CPU alone."""
    sizes = same(2, 16, (32, 16), 4, 2, ndim=2)
    assert "taps,phases" in candidates(sizes.geometry)

    def least(platform, name, contraction, sizes):
        return (
            work(platform, name, contraction, sizes)
            if name != "taps,phases"
            else work(platform, name, contraction, sizes)._replace(
                product=0, convolution=0, looped=0, naive=0, moved=1, rearranged=0, temporary=0
            )
        )

    monkeypatch.setattr(policy, "work", least)
    for contraction in CONTRACTIONS:
        assert select.__wrapped__(contraction, sizes, "cpu") == "taps,phases"
        assert select.__wrapped__(contraction, sizes, "cpu", 1) in IMPLEMENTATIONS
        for platform in ("gpu", "tpu"):
            assert select.__wrapped__(contraction, sizes, platform) in ("dilated", "matmul")


# The arithmetic below the choice

GEOMETRIES = [layers.random_layer(np.random.default_rng([7, index]), 1 + index % 3, most=7) for index in range(300)]


def test_lengths_are_those_of_the_geometry():
    for layer in [*GEOMETRIES, *map(layers.of_case, cases.GRID)]:
        sizes, geometry = sizes_of(layer), Geometry(*layer.window)
        x = layer.swap(np.broadcast_to(0, (layer.batch, *layer.spatial, layer.in_channels))).shape
        w = (*layer.kernel, layer.out_channels // layer.groups, layer.in_channels)
        y = layer.swap(np.broadcast_to(0, (layer.batch, *layer.lengths, layer.out_channels))).shape
        assert sizes.lengths == layer.lengths
        assert geometry.output_shape(x, w) == y
        assert (sizes.x, sizes.w, sizes.y) == (math.prod(x), math.prod(w), math.prod(y))
        assert sizes.products == math.prod((layer.batch, *layer.spatial, *layer.kernel, layer.out_channels))
        assert sizes.flops == 2 * sizes.products * layer.in_channels // layer.groups


def test_blocks_hold_the_output():
    for layer in GEOMETRIES:
        sizes, geometry = sizes_of(layer), Geometry(*layer.window)
        held = zip(layer.lengths, layer.strides, layer.spatial, geometry.extra_blocks, geometry.surplus, sizes.blocks, strict=True)
        for length, s, width, extra, surplus, blocks in held:
            assert blocks == width + extra == len(range(0, length, s))
            assert surplus == blocks * s - length
            assert 0 <= surplus < s


def test_runs_are_the_taps_in_order():
    for k, s, d, crop in itertools.product((1, 2, 3, 6), (1, 2, 3, 7), (1, 2, 5), (-9, -2, 0, 1, 3, 8)):
        found = runs(k, s, d, crop)
        taps = []
        for run in found:
            assert run.taps > 0
            for offset in range(run.taps):
                phase = run.phase + offset * d
                assert 0 <= phase < s
                taps.append((run.tap + offset, run.block * s + phase))
        assert taps == [(tap, tap * d - crop) for tap in range(k)]
        blocks = [run.block for run in found]
        assert blocks == sorted(set(blocks))
        assert reach(k, s, d, crop) == (blocks[0], blocks[-1])
        assert terms(Geometry((k, 2), (s, 1), (d, 3), ((crop, 0), (1, 1)), 1, channels_last=True)) == 2 * len(found)


def steps(name, geometry):
    """What each dimension is taken apart into; a dilation of one tap is none."""
    way = mixed.apart(geometry, forms_of(name, geometry.ndim))

    def dimensions(part):
        rows = zip(part.kernel, part.strides, part.dilations, part.crops, strict=True)
        return [(k, s, d if k > 1 else 1, crops) for k, s, d, crops in rows]

    return tuple(zip(dimensions(way.outer), dimensions(way.inner), way.before, strict=True))


INTERIORS = [
    inside.geometry
    for layer in [*GEOMETRIES, *map(layers.of_case, cases.GRID)]
    if (inside := Geometry(*layer.window).interior(layer.spatial)) is not None
]


def test_candidates_are_all_that_differ():
    """All forms of all dimensions, but those of a dimension that come to another one, or to phases that are within one block."""
    counts, left_out = set(), 0
    for geometry in INTERIORS:
        names = candidates(geometry)
        assert names[:4] == IMPLEMENTATIONS
        assert len(set(names)) == len(names)
        found = {steps(name, geometry) for name in names if name != "elementwise"}
        for forms in itertools.product(get_args(Form), repeat=geometry.ndim):
            name, way = ",".join(forms), mixed.apart(geometry, forms)
            if len(set(forms)) == 1:
                assert (name in names[4:]) == (set(forms) == {"taps"})
                continue
            in_a_block = any(form == "phases" and q == 1 for form, q in zip(forms, way.inner.kernel, strict=True))
            assert name not in names or not in_a_block
            assert name in names or in_a_block or steps(name, geometry) in found, (name, geometry)
            left_out += name not in names
        counts.add((geometry.ndim, len(names)))
    assert {(1, 5), (2, 5 + 9 - 3), (3, 5 + 27 - 3)} <= counts
    assert left_out > 100


def test_no_two_mixtures_are_one_and_the_same():
    for geometry in INTERIORS:
        names = candidates(geometry)[len(IMPLEMENTATIONS) :]
        assert len({steps(name, geometry) for name in names}) == len(names), geometry


def test_no_mixture_is_another_name_of_one_form():
    """But for "dilated", which on CPU keeps the dimensions of one tap that mixtures merge, and taps by a convolution."""
    for geometry in INTERIORS:
        mixtures = [name for name in candidates(geometry)[len(IMPLEMENTATIONS) :] if len({*name.split(",")}) > 1]
        alike = {steps(name, geometry): name for name in UNIFORM if name != "dilated"}
        found = [(name, alike[way]) for name in mixtures if (way := steps(name, geometry)) in alike]
        assert not found, (found, geometry)


def coarse_by_hand(layer, offsets, first):
    """[*q, *s, taps] of which one entry is 1: where each tap falls, counting blocks from the first."""
    taps = np.array(list(np.ndindex(*layer.kernel)))
    low = np.array([lo for lo, _ in layer.crops])
    positions = taps * layer.dilations - low + offsets
    blocks, phases = np.divmod(positions, layer.strides)
    blocks = blocks - first
    placed = np.zeros((*(blocks.max(0) + 1), *layer.strides, len(taps)))
    for tap, (block, phase) in enumerate(zip(blocks, phases, strict=True)):
        placed[(*block, *phase, tap)] = 1
    return placed


def test_the_coarse_filter_by_hand():
    """Where the blocks begin crop_lo mod s before the output, they do so to reach over fewer blocks."""
    moved, filters = 0, []
    for layer in GEOMETRIES[::3]:
        geometry = Geometry(*layer.window)
        coarse, n = replace(mixed.phases(geometry).inner, channels_last=True), geometry.ndim
        reach = {}
        for offset in ("none", "aligned"):
            spans = []
            for k, s, d, (lo, _) in zip(layer.kernel, layer.strides, layer.dilations, layer.crops, strict=True):
                blocks = [(tap * d - lo + (lo % s if offset == "aligned" else 0)) // s for tap in range(k)]
                spans.append((max(blocks) - min(blocks) + 1, min(blocks)))
            reach[offset] = spans
        shorter = [aligned[0] < plain[0] for plain, aligned in zip(reach["none"], reach["aligned"], strict=True)]
        offsets = [(lo % s) * short for (lo, _), s, short in zip(layer.crops, layer.strides, shorter, strict=True)]
        chosen = [aligned if short else plain for plain, aligned, short in zip(reach["none"], reach["aligned"], shorter, strict=True)]
        moved += any(offsets)
        assert coarse.kernel == tuple(count for count, _ in chosen)
        assert coarse.strides == coarse.dilations == (1,) * n
        # Its output are the blocks of the output, which begins so much earlier.
        blocks = tuple(-(-(length + offset) // s) for length, offset, s in zip(layer.lengths, offsets, layer.strides, strict=True))
        assert coarse.output_shape((1, *layer.spatial, 1), (*coarse.kernel, 1, 1))[1:-1] == blocks
        assert tuple(-lo for lo, _ in coarse.crops) == tuple(first for _, first in chosen)

        count = math.prod(layer.kernel)
        placed = coarse_by_hand(layer, offsets, [first for _, first in chosen])
        w = np.arange(1.0, 1 + count).reshape(*layer.kernel, 1, 1)
        expected = (placed @ w.reshape(-1)).reshape(*coarse.kernel, -1, 1)
        filters.append((geometry, w, expected))
    assert moved > 10

    geometries = [geometry for geometry, *_ in filters]

    def filters_of(geometry, w, v):
        way = mixed.phases(geometry)
        v = v.reshape(*way.inner.kernel, *way.outer.kernel, 1, 1)
        return mixed.placed(w, way).reshape(*way.inner.kernel, -1, 1), mixed.taken(v, way, geometry)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(filters):
        each = zip(geometries, filters, strict=True)
        return [filters_of(geometry, w, v) for geometry, (w, v) in each]

    for (coarse, fine), (_, w, expected) in zip(both([each[1:] for each in filters]), filters, strict=True):
        np.testing.assert_array_equal(coarse, expected)
        np.testing.assert_array_equal(fine, w)

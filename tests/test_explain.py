"""explain: its fields against brute force, its conventions against the front-ends they name, and that nothing runs."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxdeconv


def structs(case, dtype=np.float32):
    x, w, _ = case.operands(dtype=dtype)
    return jax.ShapeDtypeStruct(x.shape, dtype), jax.ShapeDtypeStruct(w.shape, dtype)


def explained(case):
    return jaxdeconv.explain(jaxdeconv.conv1d_transpose, *structs(case), **case.keywords)


def test_fields():
    for case in cases.GRID[::7]:
        found = explained(case)
        full = (case.width - 1) * case.stride + (case.kernel - 1) * case.dilation + 1
        assert found.function == "conv1d_transpose"
        assert found.output_shape == case.output_shape
        assert found.filter_shape == (case.kernel, case.out_channels // case.groups, case.in_channels)
        assert (found.strides, found.dilations, found.groups) == ((case.stride,), (case.dilation,), case.groups)
        assert found.crops == ((case.crop, full - case.length - case.crop),)
        landing = sum(
            1 for _ in oracle._taps((case.width,), (case.kernel,), (case.stride,), (case.dilation,), (case.crop,), (case.length,))
        )
        assert found.flops == 2 * case.batch * landing * case.in_channels * case.out_channels // case.groups
        assert set(found.lowerings) == set(found.largest_temporary) == {"transpose", "input_grad", "filter_grad"}
        for contraction, chosen in found.lowerings.items():
            assert set(chosen) == set(found.largest_temporary[contraction]) == {"cpu", "gpu", "tpu"}
            assert chosen["gpu"] in ("dilated", "matmul")
            if chosen["gpu"] == "dilated":
                assert found.largest_temporary[contraction]["gpu"] == 0
            assert all(isinstance(held, int) and held >= 0 for held in found.largest_temporary[contraction].values())


def test_a_named_lowering_is_that_of_every_platform():
    case = next(case for case in cases.GRID if case.groups == 2)
    for name in ("dilated", "matmul", "polyphase"):
        found = jaxdeconv.explain(jaxdeconv.conv1d_transpose, *structs(case), **case.keywords, implementation=name)
        assert {each for chosen in found.lowerings.values() for each in chosen.values()} == {name}
        assert f"cpu {name} (" in str(found)
    with pytest.raises(ValueError, match="conv1d_transpose: implementation must be able to compute this, and 'elementwise'"):
        jaxdeconv.explain(jaxdeconv.conv1d_transpose, *structs(case), **case.keywords, implementation="elementwise")


# x, w, y, strides, dtype and implementation. Sizes at which temporaries are far above what a program has beside.
def test_a_mixture_is_named_on_every_platform():
    x, w = jax.ShapeDtypeStruct((2, 6, 5, 8), "float32"), jax.ShapeDtypeStruct((4, 3, 6, 8), "float32")
    for name in ("taps,dilated", "dilated,phases", "phases,taps"):
        found = jaxdeconv.explain(jaxdeconv.conv2d_transpose, x, w, None, 2, implementation=name)
        assert {each for chosen in found.lowerings.values() for each in chosen.values()} == {name}
        for letter, contraction in (("T", "transpose"), ("C", "input_grad"), ("F", "filter_grad")):
            held = found.largest_temporary[contraction]
            assert set(held) == {"cpu", "gpu", "tpu"}
            each = ", ".join(f"{platform} {name} ({held[platform]:,} bytes)" for platform in ("cpu", "gpu", "tpu"))
            assert f"  {f'{letter} = {contraction}':18}  {each}\n" in str(found)
    with pytest.raises(
        ValueError, match="conv2d_transpose: implementation must be able to compute this, and 'taps,taps,dilated' names"
    ):
        jaxdeconv.explain(jaxdeconv.conv2d_transpose, x, w, None, 2, implementation="taps,taps,dilated")


HELD = {
    "vocoder": ((1, 100, 512), (16, 256, 512), (1, 800, 256), 8, "float32", None),
    "one channel out": ((1, 200, 1026), (256, 1, 1026), (1, 12800, 1), 64, "float32", None),
    "matmul of 2-D": ((2, 16, 16, 32), (4, 4, 16, 32), (2, 32, 32, 16), 2, "float64", "matmul"),
    "polyphase of 2-D": ((2, 16, 16, 32), (4, 4, 16, 32), (2, 32, 32, 16), 2, "float32", "polyphase"),
    "polyphase": ((4, 512, 64), (16, 32, 64), (4, 4096, 32), 8, "float32", "polyphase"),
    "dilated": ((4, 512, 64), (16, 32, 64), (4, 1024, 32), 2, "float32", "dilated"),
    "depthwise": ((2, 1024, 64), (4, 1, 64), (2, 2048, 64), 2, "float32", None),
    "taps and phases": ((2, 16, 16, 32), (4, 4, 16, 32), (2, 32, 32, 16), 2, "float32", "taps,phases"),
    "taps and dilated": ((2, 16, 16, 32), (4, 4, 16, 32), (2, 16, 16, 16), 1, "float32", "taps,dilated"),
    "phases and dilated": ((2, 16, 16, 32), (4, 4, 16, 32), (2, 32, 32, 16), 2, "float32", "phases,dilated"),
}


@pytest.mark.parametrize("layer", HELD.values(), ids=HELD)
def test_temporaries_are_those_of_the_compiled_program(layer):
    """Within a factor of 2, but for one copy of an operand, as XLA makes of one to transpose it; none where none is said to be."""
    *shapes, strides, dtype, name = layer
    x, w, g = (jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
    groups = g.shape[-1] // w.shape[-2]
    call = partial(jaxdeconv.conv_transpose, output_shape=g.shape, strides=strides, groups=groups, implementation=name)
    found = jaxdeconv.explain(call, x, w)
    contractions = {
        "transpose": (call, (x, w)),
        "input_grad": (lambda g, w: jax.vjp(lambda x: call(x, w), jnp.zeros(x.shape, dtype))[1](g)[0], (g, w)),
        "filter_grad": (lambda x, g: jax.vjp(lambda w: call(x, w), jnp.zeros(w.shape, dtype))[1](g)[0], (x, g)),
    }
    report = {}
    for contraction, (function, operands) in contractions.items():
        held = jax.jit(function).lower(*operands).compile().memory_analysis().temp_size_in_bytes
        report[contraction] = found.lowerings[contraction]["cpu"], found.largest_temporary[contraction]["cpu"], held
    largest = max(x.size, w.size, g.size) * np.dtype(dtype).itemsize
    for _, said, held in report.values():
        if said == 0:
            assert held < 1024, report
        else:
            assert said / 2 <= held <= max(2 * said, said + 1.1 * largest), report


def geometry(found):
    return found.strides, found.dilations, found.crops, found.groups, found.flops


def check_conventions(found, channels_last):
    """Feeds what it says back into each front-end; returns which could say something."""
    n = len(found.strides)
    x_last = jnp.moveaxis(jnp.zeros(found.input_shape), 1, -1).shape if not channels_last else found.input_shape
    x_first = (x_last[0], x_last[-1], *x_last[1:-1])
    filters = {
        layout: jaxdeconv.convert_filters(jnp.zeros(found.filter_shape), "tf", layout, found.groups).shape
        for layout in ("torch", "lax")
    }
    s, d, groups = found.strides, found.dilations, found.groups

    def struct(shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def tf(said):
        layout = {1: "NWC NCW", 2: "NHWC NCHW", 3: "NDHWC NCDHW"}[n].split()[not channels_last]
        x = struct(x_last if channels_last else x_first)
        return jaxdeconv.explain(
            jaxdeconv.conv_transpose, x, struct(found.filter_shape), strides=s, dilations=d, data_format=layout, **said
        )

    def torch(said):
        function = [jaxdeconv.torch.conv_transpose1d, jaxdeconv.torch.conv_transpose2d, jaxdeconv.torch.conv_transpose3d][n - 1]
        return jaxdeconv.explain(function, struct(x_first), struct(filters["torch"]), stride=s, dilation=d, groups=groups, **said)

    def onnx(said):
        call = jaxdeconv.onnx.conv_transpose
        return jaxdeconv.explain(call, struct(x_first), struct(filters["torch"]), strides=s, dilations=d, group=groups, **said)

    def lax(said):
        return jaxdeconv.explain(jaxdeconv.lax.conv_transpose, struct(x_last), struct(filters["lax"]), s, rhs_dilation=d, **said)

    def keras(said):
        call = jaxdeconv.keras.conv_transpose
        return jaxdeconv.explain(call, struct(x_last), struct(found.filter_shape), strides=s, dilation_rate=d, **said)

    spoken = set()
    for name, front_end in {"tf": tf, "torch": torch, "onnx": onnx, "lax": lax, "keras": keras}.items():
        said = found.conventions[name]
        if isinstance(said, str):
            assert said.startswith("not expressible: ")
            continue
        assert geometry(front_end(said)) == geometry(found), (name, said, found)
        spoken.add(name)
    return spoken


@pytest.mark.parametrize("part", cases.sampled(range(4), 4))
def test_conventions_of_tensorflow_calls(part):
    spoken = [check_conventions(explained(case), case.data_format == "NWC") for case in cases.GRID[part::17]]
    assert all({"tf", "lax"} <= each for each in spoken)
    assert {"torch", "onnx", "keras"} <= set().union(*spoken)


def test_conventions_of_other_calls():
    x, w = jnp.zeros((2, 4, 7), jnp.float32), jnp.zeros((4, 3, 5), jnp.float32)
    for stride, padding, extra, dilation in [(2, 1, 1, 1), (3, 2, 0, 2), (1, 0, 0, 1), (2, 0, 1, 2), (3, 4, 2, 1)]:
        found = jaxdeconv.explain(jaxdeconv.torch.conv_transpose1d, x, w, None, stride, padding, extra, 1, dilation)
        assert found.conventions["torch"] == {"padding": (padding,), "output_padding": (extra,)}
        assert {"torch", "onnx", "lax"} <= check_conventions(found, channels_last=False)
    square = jnp.zeros((1, 4, 5, 6), jnp.float32), jnp.zeros((4, 3, 3, 2), jnp.float32)
    found = jaxdeconv.explain(jaxdeconv.torch.conv_transpose2d, *square, None, 2, (0, 1))
    assert found.conventions["tf"]["padding"] == [[0, 0], [0, 0], [0, 0], [1, 1]]
    assert "tf" in check_conventions(found, channels_last=False)
    found = jaxdeconv.explain(jaxdeconv.lax.conv_transpose, jnp.zeros((1, 5, 4)), jnp.zeros((3, 4, 2)), (2,), [(4, 5)])
    assert {name for name, said in found.conventions.items() if isinstance(said, str)} == {"tf", "torch", "onnx", "keras"}
    check_conventions(found, channels_last=True)


def test_nothing_runs():
    """Sizes that no machine could hold, and no lowering is compiled."""
    x = jax.ShapeDtypeStruct((1024, 10**7, 4096), jnp.float32)
    w = jax.ShapeDtypeStruct((16, 4096, 4096), jnp.float32)
    found = jaxdeconv.explain(jaxdeconv.conv1d_transpose, x, w, None, 8)
    assert found.flops > 10**18
    concrete = jaxdeconv.explain(lambda: jaxdeconv.conv1d_transpose(jnp.ones((1, 3, 1)), jnp.ones((3, 1, 1)), None, 2))
    assert concrete.output_shape == (1, 6, 1)


def test_complex_products_count_eight():
    case = cases.GRID[40]
    x, w = structs(case, np.complex64)
    one = jaxdeconv.explain(
        jaxdeconv.lax.conv_transpose,
        jax.ShapeDtypeStruct((1, 3, 2), x.dtype),
        jax.ShapeDtypeStruct((3, 2, 4), w.dtype),
        (2,),
        "VALID",
    )
    assert one.flops == 8 * 9 * 2 * 4


def test_errors():
    x, w = jnp.ones((1, 3, 1)), jnp.ones((3, 1, 1))
    op = jaxdeconv.conv1d_transpose
    with pytest.raises(
        ValueError, match=r"explain: function must make exactly one transposed convolution .*, got function=.*; it made 0"
    ):
        jaxdeconv.explain(lambda x: x, x)
    with pytest.raises(ValueError, match="; it made 2"):
        jaxdeconv.explain(lambda x: op(op(x, w, None, 2), w, None, 2), x)
    with pytest.raises(ValueError, match="conv1d_transpose: under padding"):
        jaxdeconv.explain(op, x, w, [1, 9, 1], 2)
    assert not isinstance(jaxdeconv.explain(op, x, w, None, 2).conventions["tf"], str)  # a failed call leaves nothing behind

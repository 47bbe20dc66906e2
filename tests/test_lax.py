"""jaxdeconv.lax.conv_transpose equals jax.lax.conv_transpose, live: values, gradients, tangents; groups by the oracle; errors; export."""

# ruff: noqa: E501  (the table reads best a row a line)

import inspect
import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import sampled
from jax import export, lax

from jaxdeconv.lax import conv_transpose

CONSISTENT = "use_consistent_padding" in inspect.signature(lax.conv_transpose).parameters  # since jax 0.9


def theirs(x, w, **call):
    """jax.lax's answer; where it has no use_consistent_padding, from the raw padding that this means."""
    if not CONSISTENT and call.pop("use_consistent_padding", False) and not isinstance(call["padding"], str):
        n = x.ndim - 2
        spec = lax.conv_dimension_numbers(x.shape, w.shape, call["dimension_numbers"] or DEFAULTS[n]).rhs_spec
        dilations = call.get("rhs_dilation") or (1,) * n
        reach = [(w.shape[axis] - 1) * d for axis, d in zip(spec[2:], dilations, strict=True)]
        call["padding"] = [(r - p, r - q) for r, (p, q) in zip(reach, call["padding"], strict=True)]
    return lax.conv_transpose(x, w, **call)


def compiled(function, *operands):
    """All at once and hardly optimized, for compiling takes the time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*operands)


def assert_equal(calls, actual, expected):
    for call, ours, others in zip(calls, actual, expected, strict=True):
        for a, b in zip(ours, others, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), call
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(call))


def integers(rng, shape, dtype="float64"):
    """Small integers, so that results are exact in any dtype and order of summation."""
    values = rng.integers(-3, 4, shape)
    return jnp.asarray(values + 1j * rng.integers(-3, 4, shape) if jnp.issubdtype(dtype, jnp.complexfloating) else values, dtype)


DEFAULTS = {
    0: ("NC", "IO", "NC"),
    1: ("NHC", "HIO", "NHC"),
    2: ("NHWC", "HWIO", "NHWC"),
    3: ("NHWDC", "HWDIO", "NHWDC"),
}


def drawn(rng):
    """(call, shapes of x and w): arguments drawn at random from all that lax takes."""

    def one_of(*options):
        return options[rng.integers(len(options))]

    n = one_of(0, 1, 1, 1, 1, 2, 2, 2, 3, 4)
    letters = "HWDX"[:n]
    sizes = {"N": one_of(1, 2), "C": one_of(1, 2, 3), "I": 0, "O": one_of(1, 2, 3)}
    sizes["I"] = sizes["C"]
    largest = 5 if n < 3 else 3
    width = {a: one_of(*range(1, largest + 1)) for a in letters}
    kernel = {a: one_of(*range(1, largest + 1)) for a in letters}
    transpose_kernel = one_of(False, True)
    if transpose_kernel:
        sizes["I"], sizes["O"] = sizes["O"], sizes["I"]
    if n < 4 and one_of(True, False):
        numbers, specs = None, DEFAULTS[n]
    else:
        last, first = ("N" + letters + "C", letters + "IO"), ("NC" + letters, "OI" + letters)
        shuffled = ["".join(rng.permutation(list(spec))) for spec in (last[0], last[1], last[0])]
        specs = one_of(shuffled, (*first, first[0]), (first[0], last[1], first[0]), (last[0], last[1], first[0]), shuffled)
        shape = (1,) * (n + 2)
        numbers = one_of(tuple(specs), list(specs), lax.conv_dimension_numbers(shape, shape, tuple(specs)))
    order = [a for a in specs[1] if a in letters]  # that of strides, dilations and padding
    strides = [one_of(1, 1, 2, 3) for _ in order]
    dilations = one_of(None, [one_of(1, 2, 3) for _ in order])
    consistent = one_of(False, False, True)
    strings = ("SAME", "VALID") if consistent or set(strides) - {1} else ("SAME", "VALID", "same", "Valid", "SAME_LOWER")
    reach = [(kernel[a] - 1) * d for a, d in zip(order, dilations or [1] * n, strict=True)]
    pairs = []
    for a, s, r in zip(order, strides, reach, strict=True):
        spread = (width[a] - 1) * s + 1
        low = int(rng.integers(-2, r + 3))
        high = int(rng.integers(max(-2, -spread - low), r + 3))
        pairs.append((r - low, r - high) if consistent else (low, high))
    call = {
        "strides": one_of(tuple, list)(strides),
        "padding": one_of(one_of(*strings), pairs, tuple(pairs)),
        "rhs_dilation": dilations,
        "dimension_numbers": numbers,
        "transpose_kernel": transpose_kernel,
        "precision": one_of(None, "highest", lax.Precision.DEFAULT),
        "use_consistent_padding": consistent,
    }
    lhs, rhs = ([(width if spec is specs[0] else kernel).get(a, sizes.get(a)) for a in spec] for spec in specs[:2])
    return call, lhs, rhs


RNG = np.random.default_rng(0)
SAMPLE = [drawn(RNG) for _ in range(50)]
CHUNKS = 2


def value_and_cotangents(function, call, x, w, g):
    y, vjp = jax.vjp(lambda x, w: function(x, w, **call), x, w)
    return (y, *vjp(g))


@pytest.mark.parametrize("chunk", sampled(range(CHUNKS), 2))
def test_values_and_gradients_over_all_arguments(chunk):
    rng = np.random.default_rng(chunk)
    sample = SAMPLE[chunk::CHUNKS]
    calls, operands = [call for call, *_ in sample], []
    for (call, lhs, rhs), dtype in zip(sample, itertools.cycle(["float64", "float32", "complex64"]), strict=False):
        x, w = integers(rng, lhs, dtype), integers(rng, rhs, dtype)
        y = jax.eval_shape(lambda x, w, call=call: theirs(x, w, **call), x, w)
        # Cotangents are arguments: XLA of jaxlib 0.8 folds a transposed complex constant into wrong numbers.
        operands.append((x, w, integers(rng, y.shape, dtype)))

    def every(operands):
        return [
            [value_and_cotangents(function, call, *each) for call, each in zip(calls, operands, strict=True)]
            for function in (conv_transpose, theirs)
        ]

    assert_equal(calls, *compiled(every, operands))


def test_tangents_in_forward_mode():
    rng = np.random.default_rng(0)
    sample = SAMPLE[::3]
    operands = [[integers(rng, shape) for shape in (lhs, rhs) for _ in range(2)] for _, lhs, rhs in sample]
    calls = [call for call, *_ in sample]

    def every(operands):
        return [
            [
                jax.jvp(lambda x, w: function(x, w, **call, **more), (x, w), (dx, dw))  # noqa: B023
                for call, (x, dx, w, dw) in zip(calls, operands, strict=True)
            ]
            for function, more in ((conv_transpose, {"forward_mode": True}), (theirs, {}))
        ]

    assert_equal(calls, *compiled(every, operands))


@pytest.mark.parametrize("padding", ["same", "Valid", "same_lower", "SAME_LOWER"])
def test_other_spellings_pad_as_a_forward_convolution(padding):
    x, rng = jnp.arange(1.0, 8.0).reshape(1, 7, 1), np.random.default_rng(0)
    for kernel, dilation in ((1, 1), (2, 1), (3, 2), (4, 1), (2, 3)):
        w = integers(rng, (kernel, 1, 1))
        expected = theirs(x, w, strides=(1,), padding=padding, rhs_dilation=(dilation,))
        np.testing.assert_array_equal(conv_transpose(x, w, (1,), padding, (dilation,)), expected)


def via_grad(x, w, strides, padding, rhs_dilation, dimension_numbers):
    """A transposed convolution as jax's tests form it: the input gradient of the convolution with the same padding."""
    n = len(strides)
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
    lengths = []
    for i in range(n):
        ke = (w.shape[numbers.rhs_spec[2 + i]] - 1) * (rhs_dilation or (1,) * n)[i] + 1
        length = x.shape[numbers.lhs_spec[2 + i]] * strides[i]
        if padding != "SAME":
            length += max(ke - strides[i], 0) - (0 if padding == "VALID" else sum(padding[i]))
        lengths.append(length)
    y = jnp.zeros((x.shape[0], *lengths, w.shape[numbers.rhs_spec[1]]), x.dtype)
    _, vjp = jax.vjp(lambda y: lax.conv_general_dilated(y, w, strides, padding, None, rhs_dilation, numbers), y)
    return vjp(x)[0]


def jax_grid(n, transpose_kernel):
    """The cases of jax's own tests, testConvTranspose{n}D and 2DT: (shape of x, of w, arguments)."""
    size = {0: (), 1: (10,), 2: (9, 10)}[n]
    strides = {0: [()], 1: [(1,), (2,), (3,)], 2: [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)]}[n]
    pairs = list(itertools.product(range(3), repeat=2))
    paddings = ["VALID", "SAME", *(itertools.product(pairs, repeat=2) if n == 2 else ())]
    grid = itertools.product((2, 3), (2, 3), (2, 3), (3, 4, 5) if n else (0,), strides, paddings, (None, (2,) * n))
    for b, i, j, k, s, padding, dilation in grid:
        w = (*(k,) * n, *((j, i) if transpose_kernel else (i, j)))
        call = {"strides": s, "padding": padding, "rhs_dilation": dilation, "dimension_numbers": DEFAULTS[n]}
        yield (b, *size, i), w, call


# All of 0-D; an even sample of the rest, as jax's own runs take: 288 in 1-D, 19 920 in 2-D for either transpose_kernel.
@pytest.mark.parametrize(
    ("n", "transpose_kernel", "step"),
    [(0, False, 1), (1, False, 7), pytest.param(2, False, 499, marks=pytest.mark.thorough), (2, True, 499)],
)
def test_the_cases_of_jax(n, transpose_kernel, step):
    cases = list(jax_grid(n, transpose_kernel))[::step]
    rng = np.random.default_rng(n)
    operands = [[integers(rng, shape) for shape in case[:2]] for case in cases]
    calls = [call for *_, call in cases]

    def every(operands):
        ours, others = [], []
        for call, (x, w) in zip(calls, operands, strict=True):
            ours.append([conv_transpose(x, w, **call, transpose_kernel=transpose_kernel, use_consistent_padding=True)])
            forward = w if transpose_kernel else jnp.flip(w, range(n)).swapaxes(-1, -2)
            others.append([via_grad(x, forward, **call)])
        return ours, others

    assert_equal(calls, *compiled(every, operands))


def to_tf(rhs, groups, transpose_kernel):
    """The filter for the oracle, [*k, out / groups, in]."""
    if transpose_kernel:
        return rhs
    blocks = np.split(np.flip(rhs, range(rhs.ndim - 2)), groups, axis=-1)  # [*k, in / groups, out / groups] each
    return np.concatenate([block.swapaxes(-1, -2) for block in blocks], axis=-1)


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("n", [1, 2])
def test_groups(n, groups, transpose_kernel):
    rng = np.random.default_rng(groups)
    inputs, outputs = 2 * groups, 3 * groups
    size, kernel, strides, dilations = (3, 4)[:n], (4, 2)[:n], (2, 3)[:n], (1, 2)[:n]
    channels = (outputs // groups, inputs) if transpose_kernel else (inputs // groups, outputs)
    x, w = integers(rng, (2, *size, inputs)), integers(rng, (*kernel, *channels))
    lengths = tuple(a * s for a, s in zip(size, strides, strict=True))
    crops = tuple(max((k - 1) * d + 1 - s, 0) // 2 for k, s, d in zip(kernel, strides, dilations, strict=True))
    g = integers(rng, (2, *lengths, outputs))
    window = (strides, dilations, crops, groups)

    def run(x, w):
        return conv_transpose(x, w, strides, "SAME", dilations, transpose_kernel=transpose_kernel, feature_group_count=groups)

    y, vjp = jax.vjp(run, x, w)
    dx, dw = vjp(g)
    filters = to_tf(np.asarray(w), groups, transpose_kernel)
    np.testing.assert_array_equal(y, oracle.transpose(np.asarray(x), filters, lengths, *window))
    np.testing.assert_array_equal(dx, oracle.input_grad(np.asarray(g), filters, size, *window))
    expected = oracle.filter_grad(np.asarray(x), np.asarray(g), kernel, *window)
    np.testing.assert_array_equal(to_tf(np.asarray(dw), groups, transpose_kernel), expected)


def test_groups_in_permuted_axes():
    rng = np.random.default_rng(0)
    x, w = integers(rng, (2, 5, 4)), integers(rng, (3, 2, 6))
    expected = conv_transpose(x, w, (2,), "VALID", feature_group_count=2)
    numbers = ("CHN", "OHI", "HCN")
    y = conv_transpose(x.T, jnp.transpose(w, (2, 0, 1)), (2,), "VALID", None, numbers, feature_group_count=2)
    np.testing.assert_array_equal(y, jnp.transpose(expected, (1, 2, 0)))


NARROW = ["float16", "bfloat16"]
DTYPES = [
    *((dtype, None) for dtype in (*NARROW, "float32", "float64", "complex64", "complex128", "int8", "int16", "int32", "int64")),
    *((dtype, wide) for dtype in NARROW for wide in ("float32", "float64", "float16", "bfloat16")),
    *(("int8", wide) for wide in ("int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")),
    *(("int16", wide) for wide in ("int32", "float16", "bfloat16", "float32")),
    *(("int32", wide) for wide in ("int64", "float32", "float64")),
    ("float32", "float64"),
    ("complex64", "complex128"),
]


def test_dtypes():
    rng = np.random.default_rng(0)
    operands = [[integers(rng, shape, dtype) for shape in ((2, 5, 3), (4, 3, 2))] for dtype, _ in DTYPES]

    def every(operands):
        return [
            [
                [function(x, w, strides=(2,), padding="SAME", preferred_element_type=preferred)]
                for (x, w), (_, preferred) in zip(operands, DTYPES, strict=True)
            ]
            for function in (conv_transpose, theirs)
        ]

    assert_equal(DTYPES, *compiled(every, operands))


def test_integers_wrap_around_and_narrow_floats_accumulate_wide():
    x, w = jnp.full((1, 3, 8), 100, jnp.int8), jnp.full((2, 8, 1), 3, jnp.int8)
    np.testing.assert_array_equal(conv_transpose(x, w, (1,), "SAME"), theirs(x, w, strides=(1,), padding="SAME"))
    x, w = jnp.ones((1, 1, 4096), jnp.bfloat16), jnp.ones((1, 4096, 1), jnp.bfloat16)
    assert conv_transpose(x, w, (1,), "SAME").item() == 4096
    x, w = jnp.full((1, 1, 1), 1002, jnp.int16), jnp.full((1, 1, 1), 31, jnp.int16)  # bfloat16 has neither 1002 nor the product
    assert conv_transpose(x, w, (1,), "SAME", preferred_element_type="bfloat16").item() == jnp.bfloat16(1002 * 31)


EMPTY = [  # shape of x and w, strides, padding
    *(((1, 0, 2), (3, 2, 1), (s,), padding) for s in (1, 2, 3) for padding in ("SAME", "VALID", [(4, 4)], [(1, 1)])),
    ((0, 3, 2), (3, 2, 1), (2,), "SAME"),
    ((1, 3, 0), (3, 0, 2), (2,), "SAME"),
    ((1, 3, 2), (3, 2, 0), (2,), "SAME"),
    ((1, 1, 2), (5, 2, 1), (1,), [(0, 0)]),
    ((1, 1, 2), (5, 2, 1), (1,), "valid"),
    ((1, 2, 2), (5, 2, 1), (3,), [(-4, 1)]),
    ((1, 2, 2), (2, 2, 1), (3,), [(-4, 3)]),
]


@pytest.mark.filterwarnings("default")  # numpy's, in jax's own shape rule
def test_empty_operands_and_results():
    calls = [{"strides": strides, "padding": padding} for *_, strides, padding in EMPTY]
    operands = [[jnp.ones(shape) for shape in case[:2]] for case in EMPTY]
    calls, operands = zip(*[(call, each) for call, each in zip(calls, operands, strict=True) if lax_takes(call, each)], strict=True)
    assert len(calls) >= len(EMPTY) - 3

    def every(operands):
        return [[[f(*each, **call)] for call, each in zip(calls, operands, strict=True)] for f in (conv_transpose, theirs)]

    assert_equal(calls, *compiled(every, operands))
    for call, (x, w) in zip(calls, operands, strict=True):
        gradients = jax.eval_shape(jax.grad(lambda x, w, call=call: conv_transpose(x, w, **call).sum(), (0, 1)), x, w)
        assert [each.shape for each in gradients] == [x.shape, w.shape]


def test_no_lowering_is_asked_for_a_negative_length(monkeypatch):
    shapes = []
    monkeypatch.setattr(
        "jaxdeconv._convolutions.conv_transpose",
        lambda x, w, geometry, *_, **__: shapes.append(geometry.output_shape(x.shape, w.shape)) or x,
    )
    conv_transpose(jnp.ones((1, 1, 2)), jnp.ones((5, 2, 2)), (1,), [(0, 0)])
    assert shapes == [(1, 0, 2)]


def lax_takes(call, operands):
    try:
        jax.eval_shape(lambda *operands: theirs(*operands, **call), *operands)
    except (TypeError, ValueError):  # jax sums empty paddings as floats, and then refuses them
        return False
    return True


X, W = np.ones((2, 4, 3)), np.ones((5, 3, 2))
VALID_CALL = {"lhs": X, "rhs": W, "strides": (2,), "padding": "SAME"}
X2 = {"lhs": np.ones((2, 4, 5, 3)), "rhs": np.ones((3, 2, 3, 2)), "strides": (2, 2)}
UP_TO_64 = "float16, bfloat16, float32, float64, complex64, complex128, int8, int16, int32, int64"
STRINGS = "dimension_numbers must be three strings of 3 different letters, with N and C in the first and third, O and I in the second, and the same others in all, or a jax.lax.ConvDimensionNumbers of three permutations of 0 to 2, got dimension_numbers="
PAIRS = "padding must be 'SAME', 'VALID' or a pair of integers for each of 1 spatial dimensions, got padding="

# what differs from the valid call, the error, and how its rule and value begin
TABLE = [
    # operands
    ({"lhs": None}, TypeError, "lhs must be an array, got lhs=None"),
    ({"lhs": [[[1.0]]]}, TypeError, "lhs must be an array, got lhs=[[[1.0]]]"),
    ({"lhs": X.astype(bool)}, TypeError, f"the dtype of lhs must be one of {UP_TO_64}, got lhs.dtype='bool'"),
    ({"lhs": X.astype(np.uint8)}, TypeError, f"the dtype of lhs must be one of {UP_TO_64}, got lhs.dtype='uint8'"),
    ({"rhs": jnp.asarray(W, jnp.float8_e4m3fn)}, TypeError, f"the dtype of rhs must be one of {UP_TO_64}, got rhs.dtype='float8_e4m3fn'"),
    ({"rhs": W.astype(np.float32)}, TypeError, "lhs and rhs must have one dtype and lhs has float64, got rhs.dtype='float32'"),
    ({"lhs": X[0]}, ValueError, "lhs and rhs must have one rank, of at least 2, and lhs has shape (4, 3), got rhs.shape=(5, 3, 2)"),
    ({"lhs": X[0, 0], "rhs": W[0, 0]}, ValueError, "lhs and rhs must have one rank, of at least 2, and lhs has shape (3,), got rhs.shape=(2,)"),
    ({"rhs": W[:0]}, ValueError, "rhs must have a static, positive kernel size, and static output channels, got rhs.shape=(0, 3, 2)"),
    ({"rhs": np.ones((5, 2, 3))}, ValueError, "with transpose_kernel=False the I axis of rhs, 1, must have 1 / 1 of the 3 input channels, got rhs.shape=(5, 2, 3)"),
    ({"transpose_kernel": True}, ValueError, "with transpose_kernel=True the O axis of rhs, 2, must have all the 3 input channels, got rhs.shape=(5, 3, 2)"),
    # strides and rhs_dilation
    ({"strides": (0,)}, ValueError, "strides must be from 1 to 2147483647, got strides=(0,)"),
    ({"strides": (-1,)}, ValueError, "strides must be from 1 to 2147483647, got strides=(-1,)"),
    ({"strides": (2, 2)}, ValueError, "strides must be an int or have length 1, got strides=(2, 2)"),
    ({"strides": ()}, ValueError, "strides must be an int or have length 1, got strides=()"),
    ({"strides": (2.0,)}, TypeError, "strides must be of integers, got strides=(2.0,)"),
    ({"strides": None}, TypeError, "strides must be of integers, got strides=None"),
    (X2 | {"strides": (2, 2, 2)}, ValueError, "strides must be an int or have length 1 or 2, got strides=(2, 2, 2)"),
    ({"rhs_dilation": (0,)}, ValueError, "rhs_dilation must be from 1 to 2147483647, got rhs_dilation=(0,)"),
    ({"rhs_dilation": (1, 1)}, ValueError, "rhs_dilation must be an int or have length 1, got rhs_dilation=(1, 1)"),
    ({"rhs_dilation": 1.5}, TypeError, "rhs_dilation must be of integers, got rhs_dilation=1.5"),
    # padding
    ({"padding": "same"}, ValueError, "padding must be 'SAME', 'VALID' or pairs of integers, got padding='same'; pass 'SAME', in upper case"),
    ({"padding": "SAME_LOWER"}, ValueError, "padding must be 'SAME', 'VALID' or pairs of integers, got padding='SAME_LOWER'"),
    ({"padding": "full", "strides": (1,)}, ValueError, "padding must be 'SAME', 'VALID' or pairs of integers, got padding='full'"),
    ({"padding": "same", "strides": (1,), "use_consistent_padding": True}, ValueError, "padding must be 'SAME', 'VALID' or pairs of integers, got padding='same'"),
    ({"padding": None}, TypeError, f"{PAIRS}None; pass [(lo, hi)], for example"),
    ({"padding": 1}, TypeError, f"{PAIRS}1"),
    ({"padding": (1, 1)}, ValueError, f"{PAIRS}(1, 1)"),
    ({"padding": [1]}, ValueError, f"{PAIRS}[1]"),
    ({"padding": [(1,)]}, ValueError, f"{PAIRS}[(1,)]"),
    ({"padding": [(1, 1, 1)], "use_consistent_padding": True}, ValueError, f"{PAIRS}[(1, 1, 1)]"),
    ({"padding": [(1, 1), (1, 1)]}, ValueError, f"{PAIRS}[(1, 1), (1, 1)]"),
    ({"padding": ["SAME"]}, ValueError, f"{PAIRS}['SAME']"),
    ({"padding": ["same"], "use_consistent_padding": True}, ValueError, f"{PAIRS}['same']"),
    ({"padding": [(2**31, 0)]}, ValueError, f"{PAIRS}[(2147483648, 0)]"),
    ({"padding": [(1.0, 1)]}, TypeError, "padding must be of integers, got padding=(1.0, 1)"),
    ({"padding": [(-4, -4)]}, ValueError, "negative padding must not exceed the input, whose size is 4 with stride 2, got padding=[(-4, -4)]; as (lo, hi) it is (-4, -4) for kernel 5 and dilation 1"),
    ({"padding": [(8, 8)], "use_consistent_padding": True}, ValueError, "negative padding must not exceed the input, whose size is 4 with stride 2, got padding=[(8, 8)]; as (lo, hi) it is (-4, -4)"),
    # dimension_numbers
    ({"dimension_numbers": ("NHC", "HIO")}, ValueError, f"{STRINGS}('NHC', 'HIO'); pass ('NHWC', 'HWIO', 'NHWC'), for example, or None"),
    ({"dimension_numbers": ("NHWC", "HWIO", "NHWC")}, ValueError, f"{STRINGS}('NHWC', 'HWIO', 'NHWC')"),
    ({"dimension_numbers": ("NHC", "HIO", "NWC")}, ValueError, f"{STRINGS}('NHC', 'HIO', 'NWC')"),
    ({"dimension_numbers": ("NHH", "HIO", "NHC")}, ValueError, f"{STRINGS}('NHH', 'HIO', 'NHC')"),
    ({"dimension_numbers": "NHC"}, ValueError, f"{STRINGS}'NHC'"),
    ({"dimension_numbers": (1, 2, 3)}, ValueError, f"{STRINGS}(1, 2, 3)"),
    ({"dimension_numbers": 3}, ValueError, f"{STRINGS}3"),
    ({"dimension_numbers": lax.ConvDimensionNumbers((0, 2, 2), (2, 1, 0), (0, 2, 1))}, ValueError, f"{STRINGS}ConvDimensionNumbers(lhs_spec=(0, 2, 2)"),
    ({"dimension_numbers": lax.ConvDimensionNumbers((0, 2), (2, 1, 0), (0, 2, 1))}, ValueError, f"{STRINGS}ConvDimensionNumbers(lhs_spec=(0, 2)"),
    ({"dimension_numbers": lax.ConvDimensionNumbers((0, 2, -2), (2, 1, 0), (0, 2, 1))}, ValueError, f"{STRINGS}ConvDimensionNumbers(lhs_spec=(0, 2, -2)"),
    ({"dimension_numbers": lax.ConvDimensionNumbers(None, None, None)}, ValueError, f"{STRINGS}ConvDimensionNumbers(lhs_spec=None"),
    ({"lhs": np.ones((1,) * 6), "rhs": np.ones((1,) * 6)}, ValueError, "dimension_numbers must be given for more than three spatial dimensions, got dimension_numbers=None"),
    # the rest
    ({"transpose_kernel": 1}, TypeError, "transpose_kernel must be False or True, got transpose_kernel=1"),
    ({"use_consistent_padding": None}, TypeError, "use_consistent_padding must be False or True, got use_consistent_padding=None"),
    ({"precision": "low"}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision='low'"),
    ({"preferred_element_type": "int32"}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
    ({"preferred_element_type": "nonsense"}, TypeError, "preferred_element_type must be a dtype of the kind of float64"),
    ({"preferred_element_type": "int8", "lhs": X.astype(int), "rhs": W.astype(int)}, TypeError, "preferred_element_type must be a dtype of the kind of int64, and no narrower for integers, got preferred_element_type='int8'"),
    ({"feature_group_count": 0}, ValueError, "feature_group_count must be a positive integer, got feature_group_count=0"),
    ({"feature_group_count": 1.0}, TypeError, "feature_group_count must be of integers, got feature_group_count=1.0"),
    ({"feature_group_count": 3}, ValueError, "with transpose_kernel=False the I axis of rhs, 1, must have 1 / 3 of the 3 input channels, got rhs.shape=(5, 3, 2)"),
    ({"feature_group_count": 3, "rhs": W[:, :1]}, ValueError, "feature_group_count must divide the 2 output channels, got feature_group_count=3"),
    ({"feature_group_count": 2, "rhs": np.ones((5, 2, 3)), "transpose_kernel": True}, ValueError, "feature_group_count must divide the 3 input channels, got feature_group_count=2"),
    ({"implementation": "fast"}, ValueError, "implementation must be None or 'dilated' or 'matmul' or 'polyphase' or 'elementwise'"),
    ({"forward_mode": 1}, TypeError, "forward_mode must be False or True, got forward_mode=1"),
]  # fmt: skip
FORM = re.compile(r"conv_transpose: .+, got \w+(\.\w+)?=.+; .+", re.DOTALL)


@pytest.mark.parametrize(("changes", "kind", "message"), TABLE, ids=[f"{i}-{'-'.join(row[0])}" for i, row in enumerate(TABLE)])
def test_rejected(changes, kind, message, monkeypatch):
    monkeypatch.setattr("jaxdeconv._convolutions.conv_transpose", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(kind) as caught:
        conv_transpose(**VALID_CALL | changes)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"conv_transpose: {message}")
    assert FORM.fullmatch(str(caught.value))


@pytest.mark.parametrize("name", ["strides", "rhs_dilation", "padding", "feature_group_count"])
def test_traced_arguments_that_must_be_static(name):
    valid = {"strides": [2], "rhs_dilation": [1], "padding": [[1, 1]], "feature_group_count": 1}[name]
    with pytest.raises(TypeError, match=rf"conv_transpose: {name} must be .*, got {name}="):
        jax.jit(lambda value: conv_transpose(**VALID_CALL | {name: value}))(jnp.array(valid))
    with pytest.raises(TypeError, match=rf"conv_transpose: {name} must be static"):
        jax.jit(lambda value: conv_transpose(**VALID_CALL | {name: [(value, 1)] if name == "padding" else value}))(1)


def test_forms_beyond_those_of_lax():
    expected = conv_transpose(X, W, (2,), [(1, 2)])
    for padding in (np.array([[1, 2]]), [[1, 2]], [np.array([1, 2])], [jnp.array([1, 2])]):
        np.testing.assert_array_equal(conv_transpose(X, W, 2, padding, 1), expected)
    strings = conv_transpose(**X2 | {"padding": ["SAME", [1, 0]], "use_consistent_padding": True})
    np.testing.assert_array_equal(strings, conv_transpose(**X2 | {"padding": [(0, 1), (1, 0)], "use_consistent_padding": True}))


def test_signature_begins_with_that_of_lax():
    ours, others = (list(inspect.signature(f).parameters.values()) for f in (conv_transpose, lax.conv_transpose))
    for mine, other in zip(ours, others, strict=False):
        assert (mine.name, mine.default, mine.kind) == (other.name, other.default, other.kind)
    assert all(each.kind is each.KEYWORD_ONLY for each in ours[10:])


def test_no_transposition_where_there_need_be_none():
    def ops(*numbers):
        call = partial(conv_transpose, strides=(2, 2), padding="SAME", dimension_numbers=numbers, implementation="dilated")
        traced = jax.jit(call).trace(*[np.ones((3, 3, 3, 3))] * 2)
        return traced.lower(lowering_platforms=("tpu",)).as_text().count("stablehlo.transpose")  # CPU has an order of its own

    channels_last, channels_first = ops("NHWC", "HWIO", "NHWC"), ops("NCHW", "HWIO", "NCHW")
    assert channels_last == channels_first
    assert ops("NCHW", "HWIO", "NHWC") == channels_last + 1
    assert ops("CHWN", "HWIO", "NHWC") == channels_last + 1
    assert ops("CHWN", "HWIO", "CHWN") == channels_last + 2


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(1, 3)]])
@pytest.mark.parametrize("numbers", [None, ("CHN", "HIO", "NCH")])
def test_symbolic_batch_and_width(padding, numbers):
    def gradients(x, w):
        y = conv_transpose(x, w, (2,), padding, dimension_numbers=numbers)
        return y, *jax.grad(lambda x, w: jnp.sum(jnp.sin(conv_transpose(x, w, (2,), padding, dimension_numbers=numbers))), (0, 1))(
            x, w
        )

    shape = "3, w, b" if numbers else "b, w, 3"
    w = np.random.default_rng(0).standard_normal(W.shape).astype(np.float32)
    arguments = jax.ShapeDtypeStruct(export.symbolic_shape(shape), jnp.float32), jax.ShapeDtypeStruct(W.shape, jnp.float32)
    exported = export.deserialize(export.export(jax.jit(gradients))(*arguments).serialize())
    x = np.random.default_rng(1).standard_normal((3, 7, 2) if numbers else (2, 7, 3)).astype(np.float32)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), exported.call(x, w), gradients(x, w))


def test_booleans_of_numpy():
    x, w = np.ones((1, 4, 2)), np.ones((3, 2, 2))
    ours, theirs = (each(x, w, (2,), "SAME", transpose_kernel=np.True_) for each in (conv_transpose, jax.lax.conv_transpose))
    np.testing.assert_allclose(ours, theirs)

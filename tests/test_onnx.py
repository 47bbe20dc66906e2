"""jaxdeconv.onnx: ONNX's text, by recorded answers, the oracle, ONNX's own tests and live onnxruntime; errors; transformations."""

# ruff: noqa: E501  # the table of errors reads best a row a line

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import recorded
from cases import sampled
from jax import export

from jaxdeconv.onnx import conv_transpose, from_node

CASES, _ = recorded.load("onnx")
CHUNKS = 4
OTHERS_THAN_ONNXRUNTIME = [case for case in CASES if case["by"] != "onnxruntime"]


def function(case, *operands):
    return conv_transpose(*operands, **case["attributes"])


def text_rule(
    x_shape, w_shape, auto_pad="NOTSET", output_padding=None, output_shape=None, pads=None, strides=None, dilations=None, **_
):
    """(strides, dilations, begins, lengths), by the equations of ONNX's text, one dimension after the other."""
    sizes, kernel = x_shape[2:], w_shape[2:]
    n = len(sizes)
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * 2 * n
    begins, lengths = [], []
    for i in range(n):
        total = strides[i] * (sizes[i] - 1) + (output_padding or [0] * n)[i] + ((kernel[i] - 1) * dilations[i] + 1)
        if output_shape is None and auto_pad in ("NOTSET", "VALID"):
            begins.append(pads[i])
            lengths.append(total - pads[i] - pads[i + n])
            continue
        lengths.append(sizes[i] * strides[i] if output_shape is None else output_shape[i])
        total -= lengths[i]
        smaller, larger = total // 2, total - total // 2
        begins.append(smaller if auto_pad == "SAME_UPPER" else larger)
    return strides, dilations, begins, lengths


def oracle_answers(case, rng):
    """The case with a cotangent, and y and the cotangents of x, w and b of the oracle."""
    arrays, attributes = dict(case["arrays"]), case["attributes"]
    x, w = (np.moveaxis(arrays["x"], 1, -1).astype(int), np.moveaxis(arrays["w"], (1, 0), (-2, -1)).astype(int))
    strides, dilations, begins, lengths = text_rule(arrays["x"].shape, arrays["w"].shape, **attributes)
    rest = strides, dilations, begins, attributes.get("group", 1)
    y = oracle.transpose(x, w, lengths, *rest)
    g = rng.integers(-3, 4, y.shape)
    arrays["y"] = np.moveaxis(y + arrays.get("b", 0), -1, 1)
    arrays["g"] = np.moveaxis(g, -1, 1)
    arrays["dx"] = np.moveaxis(oracle.input_grad(g, w, x.shape[1:-1], *rest), -1, 1)
    arrays["dw"] = np.moveaxis(oracle.filter_grad(x, g, w.shape[:-2], *rest), (-2, -1), (1, 0))
    if "b" in arrays:
        arrays["db"] = g.sum(tuple(range(g.ndim - 1)))
    return case | {"arrays": arrays}


@pytest.mark.parametrize("chunk", sampled(range(CHUNKS), CHUNKS))
def test_values_equal_onnxruntime(chunk):
    # But for the cases in which it leaves the text: zeros before the first sample, and SAME longer than the full sum. Of these some
    # are answered by onnx's reference evaluator, which is right there; it is wrong elsewhere. See data/record_onnx.py.
    recorded.check(function, [case for case in CASES[chunk::CHUNKS] if case["by"] != "nobody"])


def test_there_are_answers_of_all():
    by = [case["by"] for case in CASES]
    assert by.count("onnxruntime") >= 180
    assert by.count("reference") >= 5
    assert by.count("nobody") >= 15


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(OTHERS_THAN_ONNXRUNTIME, marks=pytest.mark.thorough, id="where onnxruntime deviates"),
        pytest.param(CASES[::10], id="sample"),
    ],
)
def test_values_and_gradients_equal_oracle(cases):
    rng = np.random.default_rng(0)
    recorded.check(function, [oracle_answers(case, rng) for case in cases])


# X is 1, 2, 3, 4, W is 1, 10, 100: a row per rule, so that the expected numbers can be read
ROWS = [
    ({"strides": [2]}, [1, 10, 102, 20, 203, 30, 304, 40, 400]),
    ({"strides": [2], "auto_pad": "VALID", "output_padding": [1]}, [1, 10, 102, 20, 203, 30, 304, 40, 400, 0]),
    ({"strides": [2], "pads": [1, 0]}, [10, 102, 20, 203, 30, 304, 40, 400]),
    ({"strides": [2], "pads": [0, 1]}, [1, 10, 102, 20, 203, 30, 304, 40]),
    ({"strides": [2], "pads": [9, 0]}, []),
    ({"strides": [2], "auto_pad": "SAME_UPPER"}, [1, 10, 102, 20, 203, 30, 304, 40]),
    ({"strides": [2], "auto_pad": "SAME_LOWER"}, [10, 102, 20, 203, 30, 304, 40, 400]),
    ({"strides": [2], "output_shape": [8]}, [10, 102, 20, 203, 30, 304, 40, 400]),
    ({"strides": [2], "output_shape": [8], "auto_pad": "VALID"}, [10, 102, 20, 203, 30, 304, 40, 400]),
    ({"strides": [2], "output_shape": [8], "auto_pad": "SAME_UPPER"}, [1, 10, 102, 20, 203, 30, 304, 40]),
    # pads are ignored, and output_padding takes part in what is split
    ({"strides": [2], "output_shape": [8], "pads": [0, 3]}, [10, 102, 20, 203, 30, 304, 40, 400]),
    ({"strides": [2], "output_shape": [9], "output_padding": [1]}, [10, 102, 20, 203, 30, 304, 40, 400, 0]),
    ({"strides": [2], "output_padding": [1], "auto_pad": "SAME_UPPER"}, [10, 102, 20, 203, 30, 304, 40, 400]),
    # output_padding may be from the stride up to the dilation
    ({"strides": [2], "dilations": [3], "output_padding": [2]}, [1, 0, 2, 10, 3, 20, 104, 30, 200, 40, 300, 0, 400, 0, 0]),
    # a negative total: half of the zeros at each end, the odd one where the text has it
    ({"strides": [4], "auto_pad": "SAME_UPPER"}, [0, 1, 10, 100, 0, 2, 20, 200, 0, 3, 30, 300, 0, 4, 40, 400]),
    ({"strides": [4], "auto_pad": "SAME_LOWER"}, [1, 10, 100, 0, 2, 20, 200, 0, 3, 30, 300, 0, 4, 40, 400, 0]),
    ({"strides": [4], "output_shape": [16]}, [1, 10, 100, 0, 2, 20, 200, 0, 3, 30, 300, 0, 4, 40, 400, 0]),
    ({"strides": [4], "output_shape": [17]}, [0, 1, 10, 100, 0, 2, 20, 200, 0, 3, 30, 300, 0, 4, 40, 400, 0]),
    # lengths that onnxruntime refuses
    ({"strides": [2], "output_shape": [13]}, [0, 0, 1, 10, 102, 20, 203, 30, 304, 40, 400, 0, 0]),
    ({"strides": [2], "output_shape": [0]}, []),
]


def test_rules_by_hand():
    x, w = jnp.arange(1.0, 5).reshape(1, 1, 4), jnp.array([1.0, 10, 100]).reshape(1, 1, 3)
    answers = jax.jit(lambda x, w: [conv_transpose(x, w, **attributes) for attributes, _ in ROWS])(x, w)
    for (attributes, expected), actual in zip(ROWS, answers, strict=True):
        assert actual.ravel().astype(int).tolist() == expected, attributes


def test_empty_sizes():
    w = jnp.ones((3, 2, 4))
    assert conv_transpose(jnp.ones((0, 3, 5)), w).shape == (0, 2, 8)
    assert conv_transpose(jnp.ones((1, 3, 0)), w, strides=[2], auto_pad="SAME_UPPER").shape == (1, 2, 0)
    none = conv_transpose(jnp.ones((1, 3, 0)), w, jnp.array([1.0, 2.0]), strides=[2])  # full is 2, all zeros
    np.testing.assert_array_equal(none, [[[1, 1], [2, 2]]])
    np.testing.assert_array_equal(conv_transpose(jnp.ones((1, 0, 5)), jnp.ones((0, 2, 4))), np.zeros((1, 2, 8)))


def test_four_spatial_dimensions():
    x = np.arange(2.0 * 2 * 3 * 2 * 2).reshape(1, 2, 2, 3, 2, 2)
    w = np.arange(2.0 * 1 * 2 * 2 * 1 * 2).reshape(2, 1, 2, 2, 1, 2) - 5
    case = {"attributes": {"strides": [1, 2, 1, 2], "pads": [1, 0, 0, 0, 0, 1, 0, 1]}, "arrays": {"x": x, "w": w}}
    recorded.check(function, [oracle_answers(case, np.random.default_rng(0))], "float64")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(dtype):
    x, w, b = jnp.ones((1, 4096, 1), dtype), jnp.ones((4096, 1, 1), dtype), jnp.ones((1,), dtype)
    assert conv_transpose(x, w).dtype == dtype
    assert conv_transpose(x, w).item() == 4096
    wide = conv_transpose(x, w, b, preferred_element_type="float64")
    assert (wide.dtype, wide.item()) == (jnp.float64, 4097)


def onnxs_own_tests(of_node):
    """(name, of_node(node), operands, expected), of all node tests of ConvTranspose and of the models converted from PyTorch."""
    pytest.importorskip("onnx")
    import onnx
    from onnx import numpy_helper
    from onnx.backend.test.case.node import collect_testcases

    def node(model):
        (only,) = model.graph.node
        return only

    def tensor(path):
        return numpy_helper.to_array(onnx.load_tensor(path))

    for test in collect_testcases("ConvTranspose"):
        for operands, (expected,) in test.data_sets:
            yield test.name, of_node(node(test.model)), operands, expected
    for path in sorted(Path(onnx.backend.test.__file__).parent.glob("data/*/*[cC]onv[tT]ranspose*/model.onnx")):
        model = onnx.load(path)
        parameters = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        folder = path.parent / "test_data_set_0"
        inputs = [each.name for each in model.graph.input if each.name not in parameters]
        operands = parameters | {name: tensor(folder / f"input_{i}.pb") for i, name in enumerate(inputs)}
        yield (
            path.parent.name,
            of_node(node(model)),
            [operands[name] for name in model.graph.node[0].input],
            tensor(folder / "output_0.pb"),
        )


@pytest.mark.filterwarnings("ignore")  # the frameworks' own
def test_onnxs_own_tests():
    helper = pytest.importorskip("onnx.helper")
    tests = list(onnxs_own_tests(lambda node: {each.name: helper.get_attribute_value(each) for each in node.attribute}))
    assert len(tests) >= 14
    answers = jax.jit(lambda several: [conv_transpose(*each, **test[1]) for test, each in zip(tests, several, strict=True)])(
        [[jnp.asarray(operand) for operand in operands] for _, _, operands, _ in tests]
    )
    for (name, _, _, expected), actual in zip(tests, answers, strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore")
def test_a_sample_equals_live_onnxruntime():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    script = runpy.run_path(str(recorded.DATA / "record_onnx.py"))
    rng = np.random.default_rng()  # another sample each time
    drawn = [(attributes, operands) for attributes, operands, follows in script["draw_cases"](rng, (3, 3, 1)) if follows]
    cases = [
        {"attributes": attributes, "arrays": operands | {"y": script["answer"](attributes, **operands)}}
        for attributes, operands in drawn
    ]
    recorded.check(function, cases)


class Proto:
    """What `from_node` reads of onnx's messages."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


TYPES = {float: (1, "f"), int: (2, "i"), bytes: (3, "s"), list: (7, "ints")}


def node_of(inputs="XW", op_type="ConvTranspose", domain="", **attributes):
    """A NodeProto, with attributes as onnx stores them."""
    attribute = []
    for name, value in attributes.items():
        kind, field = TYPES[type(value)]
        attribute.append(Proto(name=name, type=kind, ref_attr_name="", **{field: value}))
    return Proto(op_type=op_type, domain=domain, input=list(inputs), attribute=attribute)


@pytest.mark.parametrize("attributes", [row[0] for row in ROWS], ids=str)
def test_from_node(attributes):
    x, w = jnp.arange(1.0, 5).reshape(1, 1, 4), jnp.array([1.0, 10, 100]).reshape(1, 1, 3)
    stored = {name: value.encode() if isinstance(value, str) else value for name, value in attributes.items()}
    expected = conv_transpose(x, w, **attributes)
    np.testing.assert_array_equal(from_node(node_of(**stored))(x, w), expected)
    np.testing.assert_array_equal(conv_transpose(x, w, **stored), expected)
    try:
        from onnx import helper
    except ImportError:
        return
    node = helper.make_node("ConvTranspose", ["X", "W"], ["Y"], **attributes)
    np.testing.assert_array_equal(from_node(node)(x, w), expected)


def test_from_node_with_a_bias_groups_and_keywords():
    x, w, b = np.ones((1, 4, 5), np.float32), np.ones((4, 3, 3), np.float32), np.ones(6, np.float32)
    for domain in ("", "ai.onnx"):
        run = from_node(node_of("XWB", domain=domain, group=2, kernel_shape=[3]), preferred_element_type="float64", forward_mode=True)
        y, tangent = jax.jvp(run, (x, w, b), (x, 0 * w, 0 * b))
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y, conv_transpose(x, w, b, group=2))
        np.testing.assert_array_equal(tangent, y - 1)
    np.testing.assert_array_equal(from_node(node_of(("X", "W", ""), group=2))(x, w), y - 1)  # an optional input that is left out


@pytest.mark.filterwarnings("ignore")
def test_from_node_of_onnxs_own_tests():
    tests = list(onnxs_own_tests(lambda node: node))
    for name, node, operands, expected in tests[:: len(tests) // 5]:
        np.testing.assert_allclose(from_node(node)(*operands), expected, rtol=1e-5, atol=1e-5, err_msg=name)


NODES = [
    (3, TypeError, "node must be a NodeProto, got node=3; pass one of model.graph.node"),
    (node_of(op_type="Conv"), ValueError, "node must be a ConvTranspose of ONNX's own domain, got node.op_type='Conv'; pass the nodes of that op_type alone"),
    (node_of(domain="com.microsoft"), ValueError, "node must be a ConvTranspose of ONNX's own domain, got node.domain='com.microsoft'"),
    (node_of(stride=[2]), ValueError, "an attribute of ConvTranspose must be one of auto_pad, group, dilations, kernel_shape, output_padding, output_shape, pads, strides, got attribute.name='stride'"),
    (node_of(strides=2), TypeError, "strides must be in the field 'ints', of type 7, got attribute.type=2; make the node with onnx.helper.make_node"),
    (node_of(group=2.0), TypeError, "group must be in the field 'i', of type 2, got attribute.type=1"),
    (node_of(auto_pad=[1]), TypeError, "auto_pad must be in the field 's', of type 3, got attribute.type=7"),
    (Proto(op_type="ConvTranspose", domain="", input="XW", attribute=[Proto(name="group", type=2, ref_attr_name="g", i=0)]), ValueError, "group must have a value of its own, not that of a function's argument, got attribute.ref_attr_name='g'; inline the functions of the model"),
]  # fmt: skip


@pytest.mark.parametrize(("node", "kind", "message"), NODES, ids=range(len(NODES)))
def test_nodes_rejected(node, kind, message):
    with pytest.raises(kind) as caught:
        from_node(node)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"onnx.from_node: {message}")
    assert re.fullmatch(r"onnx\.from_node: .+, got \w+(\.\w+)?=.+; .+", str(caught.value))


def test_inputs_that_the_node_has_not():
    with pytest.raises(
        ValueError,
        match=re.escape("onnx.conv_transpose: B must be given, since the node has the inputs ['X', 'W', 'B'], got B=None; "),
    ):
        from_node(node_of("XWB"))(X, W)
    with pytest.raises(
        ValueError, match=re.escape("onnx.conv_transpose: B must be None, since the node has the inputs ['X', 'W'], got B=[1.0, ")
    ):
        from_node(node_of())(X, W, np.ones(3))
    for names in ("XWB", "XW"):
        said = f"onnx.conv_transpose: W must be given, got W=None; call it with the arrays ({', '.join(names)}), one by one, "
        with pytest.raises(TypeError, match="^" + re.escape(said)):
            from_node(node_of(names))({"X": X})
    with pytest.raises(ValueError, match=re.escape("onnx.conv_transpose: strides must have length 1, got strides=[2, 2]; ")):
        from_node(node_of(strides=[2, 2]))(X, W)


X, W = np.ones((2, 4, 5)), np.ones((4, 3, 3))
SQUARE = {"X": np.ones((2, 4, 5, 6)), "W": np.ones((4, 3, 3, 2))}
UPPER = {"auto_pad": "SAME_UPPER"}

# what differs from a valid call, the error, and how its rule and value begin
TABLE = [
    # X, W and B
    ({"X": X[0]}, ValueError, "X must have rank 3 or more, [N, C, *D], got X.shape=(4, 5)"),
    ({"X": [[[1.0]]]}, TypeError, "X must be an array, got X=[[[1.0]]]"),
    ({"X": None}, TypeError, "X must be an array, got X=None"),
    ({"X": X.astype(int)}, TypeError, "the dtype of X must be one of float16, bfloat16, float32, float64, got X.dtype='int64'"),
    ({"X": X.astype(complex)}, TypeError, "the dtype of X must be one of float16, bfloat16, float32, float64, got X.dtype='complex128'"),
    ({"W": W.astype(np.int8)}, TypeError, "the dtype of W must be one of float16, bfloat16, float32, float64, got W.dtype='int8'"),
    ({"W": W.astype(np.float32)}, TypeError, "X and W must have one dtype and X has float64, got W.dtype='float32'"),
    ({"W": None}, TypeError, "W must be an array, got W=None"),
    ({"W": W[0]}, ValueError, "W must have the rank of X, 3, [C, M / group, *k], got W.shape=(3, 3)"),
    ({"W": W[..., None]}, ValueError, "W must have the rank of X, 3, [C, M / group, *k], got W.shape=(4, 3, 3, 1)"),
    ({"W": np.ones((3, 4, 3))}, ValueError, "axis 1 of X and axis 0 of W must be equal, and X has shape (2, 4, 5), got W.shape=(3, 4, 3); W is [C, M / group, *k]"),
    ({"W": np.ones((4, 3, 0))}, ValueError, "W must have a static, positive kernel size and output channels, got W.shape=(4, 3, 0)"),
    ({"W": np.ones((4, 0, 3))}, ValueError, "W must have a static, positive kernel size and output channels, got W.shape=(4, 0, 3)"),
    ({"B": np.ones(2)}, ValueError, "B must have one entry for each of the 3 output channels, got B.shape=(2,)"),
    ({"B": np.ones(3), "group": 2}, ValueError, "B must have one entry for each of the 6 output channels, got B.shape=(3,)"),
    ({"B": np.ones((3, 1))}, ValueError, "B must have one entry for each of the 3 output channels, got B.shape=(3, 1)"),
    ({"B": np.ones(3, np.float32)}, TypeError, "X and B must have one dtype and X has float64, got B.dtype='float32'"),
    ({"B": 1.0}, TypeError, "B must be an array, got B=1.0"),
    # group and kernel_shape
    ({"group": 3}, ValueError, "group must be a divisor of the 4 input channels, got group=3"),
    ({"group": 0}, ValueError, "group must be a divisor of the 4 input channels, got group=0"),
    ({"group": -2}, ValueError, "group must be a divisor of the 4 input channels, got group=-2"),
    ({"group": 2.0}, TypeError, "group must be of integers, got group=2.0"),
    ({"group": None}, TypeError, "group must be of integers, got group=None"),
    ({"kernel_shape": [2]}, ValueError, "kernel_shape must be that of W, [3], got kernel_shape=[2]"),
    (SQUARE | {"kernel_shape": [2, 3]}, ValueError, "kernel_shape must be that of W, [3, 2], got kernel_shape=[2, 3]"),
    ({"kernel_shape": [3, 3]}, ValueError, "kernel_shape must have length 1, got kernel_shape=[3, 3]"),
    ({"kernel_shape": [0]}, ValueError, "kernel_shape must be from 1 to 2147483647, got kernel_shape=[0]"),
    # auto_pad
    ({"auto_pad": "SAME"}, ValueError, "auto_pad must be 'NOTSET' or 'SAME_UPPER' or 'SAME_LOWER' or 'VALID', got auto_pad='SAME'"),
    ({"auto_pad": "same_upper"}, ValueError, "auto_pad must be 'NOTSET' or 'SAME_UPPER' or 'SAME_LOWER' or 'VALID', got auto_pad='same_upper'"),
    ({"auto_pad": b"SAME"}, ValueError, "auto_pad must be 'NOTSET' or 'SAME_UPPER' or 'SAME_LOWER' or 'VALID', got auto_pad='SAME'"),
    ({"auto_pad": b"VALID", "pads": [0, 0]}, ValueError, "pads must be left out where auto_pad is not 'NOTSET', and it is 'VALID', got pads=[0, 0]"),
    ({"auto_pad": None}, TypeError, "auto_pad must be 'NOTSET' or 'SAME_UPPER' or 'SAME_LOWER' or 'VALID', got auto_pad=None"),
    # pads
    (UPPER | {"pads": [1, 1]}, ValueError, "pads must be left out where auto_pad is not 'NOTSET', and it is 'SAME_UPPER', got pads=[1, 1]"),
    (UPPER | {"pads": [0, 0], "output_shape": [5]}, ValueError, "pads must be left out where auto_pad is not 'NOTSET', and it is 'SAME_UPPER', got pads=[0, 0]"),
    ({"auto_pad": "SAME_LOWER", "pads": [0, 0]}, ValueError, "pads must be left out where auto_pad is not 'NOTSET', and it is 'SAME_LOWER', got pads=[0, 0]"),
    ({"auto_pad": "VALID", "pads": [0, 0]}, ValueError, "pads must be left out where auto_pad is not 'NOTSET', and it is 'VALID', got pads=[0, 0]"),
    ({"pads": [1]}, ValueError, "pads must have length 2, got pads=[1]; pass a list, with X of 1 spatial dimension"),
    (SQUARE | {"pads": [1, 1]}, ValueError, "pads must have length 4, got pads=[1, 1]; pass a list, with X of 2 spatial dimensions"),
    ({"pads": 1}, ValueError, "pads must have length 2, got pads=1"),
    ({"pads": [-1, 0]}, ValueError, "pads must be from 0 to 2147483647, got pads=[-1, 0]"),
    ({"pads": [-1, 0], "output_shape": [5]}, ValueError, "pads must be from 0 to 2147483647, got pads=[-1, 0]"),
    ({"pads": [1.0, 0]}, TypeError, "pads must be of integers, got pads=[1.0, 0]"),
    ({"pads": [[1, 1]]}, TypeError, "pads must be of integers, got pads=[[1, 1]]"),
    ({"pads": [4, 4]}, ValueError, "the output must not have negative sizes, and of X of shape (2, 4, 5) it would have (-1,), got pads=[4, 4]"),
    ({"X": X[..., :0], "strides": [4]}, ValueError, "the output must not have negative sizes, and of X of shape (2, 4, 0) it would have (-1,), got pads=None"),
    # strides and dilations
    ({"strides": [0]}, ValueError, "strides must be from 1 to 2147483647, got strides=[0]"),
    ({"strides": [2**31]}, ValueError, "strides must be from 1 to 2147483647, got strides=[2147483648]"),
    ({"strides": [2, 2]}, ValueError, "strides must have length 1, got strides=[2, 2]; pass a list, with X of 1 spatial dimension"),
    (SQUARE | {"strides": [2]}, ValueError, "strides must have length 2, got strides=[2]; pass a list, with X of 2 spatial dimensions"),
    ({"strides": []}, ValueError, "strides must have length 1, got strides=[]"),
    ({"strides": 2}, ValueError, "strides must have length 1, got strides=2; pass a list"),
    ({"strides": np.array(2)}, ValueError, "strides must have length 1, got strides=2; pass a list"),
    ({"strides": np.array([[2]])}, ValueError, "strides must be one-dimensional, got strides=[[2]]"),
    ({"strides": [2.0]}, TypeError, "strides must be of integers, got strides=[2.0]"),
    ({"strides": [True]}, TypeError, "strides must be of integers, got strides=[True]"),
    ({"strides": "2"}, TypeError, "strides must be of integers, got strides='2'"),
    ({"dilations": [0]}, ValueError, "dilations must be from 1 to 2147483647, got dilations=[0]"),
    ({"dilations": [-1]}, ValueError, "dilations must be from 1 to 2147483647, got dilations=[-1]"),
    ({"dilations": [1, 1]}, ValueError, "dilations must have length 1, got dilations=[1, 1]"),
    # output_padding
    ({"output_padding": [1]}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are [1] and [1], got output_padding=[1]"),
    ({"output_padding": [3], "strides": [2], "dilations": [3]}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are [2] and [3], got output_padding=[3]"),
    (SQUARE | {"output_padding": [0, 2], "strides": [3, 2]}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are [3, 2] and [1, 1], got output_padding=[0, 2]"),
    ({"output_padding": [1], "output_shape": [5]}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are [1] and [1], got output_padding=[1]"),
    (UPPER | {"output_padding": [1]}, ValueError, "output_padding must be less than stride or dilation in each dimension, and these are [1] and [1], got output_padding=[1]"),
    ({"output_padding": [-1], "strides": [2]}, ValueError, "output_padding must be from 0 to 2147483647, got output_padding=[-1]"),
    ({"output_padding": [1, 0], "strides": [2]}, ValueError, "output_padding must have length 1, got output_padding=[1, 0]"),
    # output_shape
    ({"output_shape": [2, 3, 7]}, ValueError, "output_shape must have length 1, got output_shape=[2, 3, 7]"),
    ({"output_shape": 7}, ValueError, "output_shape must have length 1, got output_shape=7"),
    ({"output_shape": [-1]}, ValueError, "output_shape must be from 0 to 2147483647, got output_shape=[-1]"),
    ({"output_shape": [2**31]}, ValueError, "output_shape must be from 0 to 2147483647, got output_shape=[2147483648]"),
    ({"output_shape": [7.0]}, TypeError, "output_shape must be of integers, got output_shape=[7.0]"),
    (UPPER | {"output_shape": [None]}, TypeError, "output_shape must be of integers, got output_shape=[None]"),
    # what is jaxdeconv's own
    ({"precision": "low"}, ValueError, "precision must be one that lax.conv_general_dilated takes, got precision='low'"),
    ({"preferred_element_type": "int32"}, TypeError, "preferred_element_type must be a dtype of the kind of float64, and no narrower for integers, got preferred_element_type='int32'"),
    ({"implementation": "fast"}, ValueError, "implementation must be None or 'dilated' or 'matmul' or 'polyphase' or 'elementwise'"),
    ({"forward_mode": 1}, TypeError, "forward_mode must be False or True, got forward_mode=1"),
]  # fmt: skip
FORM = re.compile(r"onnx\.conv_transpose: .+, got \w+(\.\w+)?=.+; .+", re.DOTALL)


def identify(row):
    return ",".join(f"{name}={np.shape(value) if hasattr(value, 'shape') else value}" for name, value in row[0].items())


@pytest.mark.parametrize(("changes", "kind", "message"), TABLE, ids=map(identify, TABLE))
def test_rejected(changes, kind, message, monkeypatch):
    monkeypatch.setattr("jaxdeconv.onnx._conv_transpose", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(kind) as caught:
        conv_transpose(**{"X": X, "W": W} | changes)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"onnx.conv_transpose: {message}")
    assert FORM.fullmatch(str(caught.value))


def test_the_valid_calls_of_the_table_are_valid():
    assert conv_transpose(X, W, np.ones(3)).shape == (2, 3, 7)
    assert conv_transpose(**SQUARE, kernel_shape=(3, 2), strides=np.array([1, 1]), group=np.int64(2)).shape == (2, 6, 7, 7)
    assert conv_transpose(X, W, auto_pad="NOTSET", pads=[3, 4]).shape == (2, 3, 0)


@pytest.mark.parametrize("name", ["strides", "dilations", "pads", "output_padding", "output_shape", "kernel_shape", "group"])
def test_traced_attributes(name):
    value = jnp.array(1 if name == "group" else [1, 1] if name == "pads" else [1])
    with pytest.raises(TypeError, match=f"{name} must be static, since it sets shapes, got {name}=a traced int64"):
        jax.jit(lambda value: conv_transpose(X, W, **{name: value}))(value)


ATTRIBUTES = {"strides": [2, 3], "auto_pad": "SAME_UPPER", "output_padding": [0, 1], "dilations": [2, 1], "group": 2}
OPERANDS = [np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((2, 4, 4, 3), (4, 3, 3, 4), (6,))]


def loss(*operands):
    return jnp.sum(jnp.sin(conv_transpose(*operands, **ATTRIBUTES)))


def close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), actual, expected)


def test_jit_vmap_grad_and_forward_mode():
    operands = [jnp.asarray(each) for each in OPERANDS]
    expected = conv_transpose(*operands, **ATTRIBUTES)
    assert expected.shape == (2, 6, 8, 9)
    close(jax.jit(lambda *each: conv_transpose(*each, **ATTRIBUTES))(*operands), expected)
    each_sample = jax.vmap(lambda x: conv_transpose(x[None], *operands[1:], **ATTRIBUTES)[0])(operands[0])
    close(each_sample, expected)
    forward = [jnp.ones_like(each) for each in operands]
    _, tangent = jax.jvp(lambda *each: jnp.sum(jnp.sin(conv_transpose(*each, **ATTRIBUTES, forward_mode=True))), operands, forward)
    gradients = jax.grad(loss, (0, 1, 2))(*operands)
    np.testing.assert_allclose(sum(jnp.sum(each) for each in gradients), tangent, rtol=1e-4)


SYMBOLIC = {
    "same": ATTRIBUTES,
    "pads": {"strides": [2, 1], "pads": [1, 1, 0, 1], "output_padding": [1, 0], "group": 2},
    "output_shape": {"strides": [2, 1], "output_shape": lambda x: [2 * x.shape[2] - 1, x.shape[3] + 1], "group": 2},
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_sizes(name):
    def run(*operands):
        resolved = {key: value(operands[0]) if callable(value) else value for key, value in SYMBOLIC[name].items()}
        return conv_transpose(*operands, **resolved)

    def value_and_gradients(*operands):
        return run(*operands), jax.grad(lambda *each: jnp.sum(jnp.sin(run(*each))), (0, 1, 2))(*operands)

    n, height, width = export.symbolic_shape("n, h, w")
    shapes = [(n, 4, height, width), *(each.shape for each in OPERANDS[1:])]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    called_back = export.deserialize(
        export.export(jax.jit(value_and_gradients), platforms=("cpu", "cuda", "tpu"))(*arguments).serialize()
    )
    close(called_back.call(*OPERANDS), value_and_gradients(*OPERANDS))


def test_symbolic_sizes_that_do_not_fit():
    def exported(attributes, constraints=()):
        n, width = export.symbolic_shape("n, w", constraints=constraints)
        argument = jax.ShapeDtypeStruct((n, 4, width), jnp.float64)
        return export.export(jax.jit(lambda x: conv_transpose(x, W, **attributes(x))))(argument)

    with pytest.raises(ValueError, match=r"the output must not have negative sizes, .* \(w - 4,\), got pads=\[3, 3\]; .*constraints"):
        exported(lambda x: {"pads": [3, 3]})
    exported(lambda x: {"pads": [3, 3]}, ("w >= 4",))
    with pytest.raises(ValueError, match=r"the output must not have negative sizes, .* got output_shape=\[w - 4\]"):
        exported(lambda x: {"output_shape": [x.shape[2] - 4]})
    for output_shape in (lambda x: [8], lambda x: [2 * x.shape[2]], lambda x: x.shape[:1]):
        with pytest.raises(ValueError, match=r"output_shape must be strides \* size \+ a constant where a size is symbolic"):
            exported(lambda x, output_shape=output_shape: {"output_shape": output_shape(x)})
    for name in ("strides", "dilations", "kernel_shape"):
        with pytest.raises(ValueError, match=rf"{name} must be from 1 to 2147483647, got {name}=\(n,\)"):
            exported(lambda x, name=name: {name: x.shape[:1]})

"""The ONNX convention: one function for any number of dimensions. Rules for the crops from pads, auto_pad and output_shape.

And a node of a model as such a function. onnx is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv import _options
from jaxdeconv._call import conv_transpose as _conv_transpose
from jaxdeconv._canonicalize import Precision, error
from jaxdeconv._geometry import Geometry, full_size

Ints: TypeAlias = Sequence[int] | np.ndarray | jax.Array
AutoPad: TypeAlias = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]

_FUNCTION = "onnx.conv_transpose"


@canonicalize.known_keywords(_FUNCTION)
def conv_transpose(
    X: ArrayLike,  # noqa: N803  # the names of ONNX
    W: ArrayLike,  # noqa: N803
    B: ArrayLike | None = None,  # noqa: N803
    *,
    auto_pad: AutoPad | bytes = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> jax.Array:
    """Transposed convolution in any number of dimensions with the semantics of ONNX's ConvTranspose, opset 11 and later.

    Per spatial dimension of size D, with stride s, dilation d and kernel size k, every input sample n spreads a copy of the filter,
    tap j landing at `n*s + j*d`, and a window of length L is cut from the sum, which counts as zero past its two ends:

        full[b, m, n*s + j*d] += sum over c of X[b, c, n] * W[c, m, j]        of length  (D-1)*s + (k-1)*d + 1
        Y = full[:, :, begin : begin + L] + B[m]

    - With pads, or with neither output_shape nor SAME: `begin = pads_begin`, `L = full + output_padding - pads_begin - pads_end`.
    - With output_shape, `L = output_shape`; with SAME and no output_shape, `L = D*s`. Then `t = full + output_padding - L` is split:
      `begin = t // 2` for SAME_UPPER, `begin = t - t // 2` for SAME_LOWER, and for NOTSET and VALID with output_shape. Where t is
      negative this puts zeros at both ends.

    Args:
        X: `[N, C, *D]` with one spatial dimension or more; float16, bfloat16, float32 or float64. N, C and D may be zero.
        W: `[C, M / group, *k]`, of the dtype of X.
        B: `[M]`, of the dtype of X; None for no bias.
        auto_pad: "NOTSET", "SAME_UPPER", "SAME_LOWER" or "VALID", or one of these as bytes, as onnx has it. "VALID" is pads of
            zero. Any but "NOTSET" excludes pads.
        dilations: d >= 1, one per spatial dimension, as all lists here; None for ones.
        group: a divisor of C, into which input and output channels are split alike.
        kernel_shape: k, which W has too; None to leave it out.
        output_padding: samples added at the end, less than stride or dilation; None for zeros. With output_shape or SAME it does not
            change L, but t.
        output_shape: L, without batch and channels, of any size; None to have it computed.
        pads: samples cut from both ends, `[begin of each dimension, ..., end of each dimension, ...]`; None for zeros. Ignored where
            there is an output_shape.
        strides: s >= 1; None for ones.
        precision: as for `jax.lax.conv_general_dilated`; applies to the operation and both gradients.
        preferred_element_type: dtype of the result, one of the dtypes of X; None for that of X itself.
        implementation: the lowering to use, one of `jaxdeconv.Implementation`, or a form for each dimension; None to have it chosen.
        forward_mode: False for reverse mode, by a `jax.custom_vjp`. True for both modes (`jax.jvp`, `jax.linearize`, `jax.jacfwd`,
            `jax.linear_transpose` too), by a `jax.custom_jvp`. None for what `jaxdeconv.defaults` says: without it, False.

    Returns:
        Y, `[N, M, *L]`. float16 and bfloat16 are accumulated in float32 and rounded, then B is added.

    Raises:
        ValueError: a length, size, shape or choice that does not fit.
        TypeError: an argument of the wrong type, a traced value where a static one is needed, or dtypes that differ.

    Gradients:
        Of X, W and B in reverse mode, and differentiation of these in either mode, as for `jaxdeconv.conv1d_transpose`.

    References:
        ConvTranspose, ONNX operator set 22. Where runtimes differ from its text, the text is followed.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdeconv.onnx
        >>> X = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4)
        >>> W = jnp.array([1.0, 10.0, 100.0]).reshape(1, 1, 3)
        >>> jaxdeconv.onnx.conv_transpose(X, W, strides=[2], auto_pad="SAME_UPPER")[0, 0].astype(int).tolist()
        [1, 10, 102, 20, 203, 30, 304, 40]
        >>> jaxdeconv.onnx.conv_transpose(X, W, strides=[2], auto_pad="SAME_LOWER")[0, 0].astype(int).tolist()
        [10, 102, 20, 203, 30, 304, 40, 400]
        >>> jaxdeconv.onnx.conv_transpose(X, W, strides=[2], pads=[1, 1], output_padding=[1])[0, 0].astype(int).tolist()
        [10, 102, 20, 203, 30, 304, 40, 400]
    """
    x = canonicalize.array(_FUNCTION, "X", X, canonicalize.FLOATS)
    w = canonicalize.array(_FUNCTION, "W", W, canonicalize.FLOATS)
    canonicalize.same_dtype(_FUNCTION, "X", x, "W", w)
    if x.ndim < 3:
        advice = "add the batch or a spatial dimension with jax.numpy.expand_dims"
        raise error(ValueError, _FUNCTION, "X must have rank 3 or more, [N, C, *D]", "X.shape", x.shape, advice)
    n = x.ndim - 2
    group = _check_filter(x.shape, w.shape, group)
    kernel = canonicalize.kernel_size(_FUNCTION, "W", w.shape, range(2, n + 2), 1)
    if kernel_shape is not None and _attribute("kernel_shape", kernel_shape, n, 1) != kernel:
        rule = f"kernel_shape must be that of W, {list(kernel)}"
        raise error(ValueError, _FUNCTION, rule, "kernel_shape", kernel_shape, "leave it out, or pass another W")
    bias = canonicalize.bias_of(_FUNCTION, B, "B", w.shape[1] * group, "X", x)

    auto: Any = auto_pad.decode(errors="replace") if isinstance(auto_pad, bytes) else auto_pad
    canonicalize.choice(_FUNCTION, "auto_pad", auto, ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
    if pads is not None and auto != "NOTSET":
        rule = f"pads must be left out where auto_pad is not 'NOTSET', and it is {auto!r}"
        raise error(ValueError, _FUNCTION, rule, "pads", pads, "pass one of the two")
    s, d = _attribute("strides", strides, n, 1), _attribute("dilations", dilations, n, 1)
    cut, op = _attribute("pads", pads, 2 * n, 0), _attribute("output_padding", output_padding, n, 0)
    if any(extra >= max(pair) for extra, *pair in zip(op, s, d, strict=True)):
        rule = f"output_padding must be less than stride or dilation in each dimension, and these are {list(s)} and {list(d)}"
        raise error(ValueError, _FUNCTION, rule, "output_padding", output_padding, "pass a longer output_shape")
    fulls = tuple(full_size(*each) + extra for *each, extra in zip(x.shape[2:], kernel, s, d, op, strict=True))
    if output_shape is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        lengths = tuple(size * stride for size, stride in zip(x.shape[2:], s, strict=True))
        if output_shape is not None:
            lengths = _attribute("output_shape", output_shape, n, 0, symbolic=True)
        cut = _split(auto, x.shape, fulls, lengths, output_shape)
    else:
        lengths = tuple(full - begin - end for full, begin, end in zip(fulls, cut[:n], cut[n:], strict=True))
    if not all(canonicalize.at_least(0, length) for length in lengths):
        name, value = ("pads", pads) if output_shape is None else ("output_shape", output_shape)
        rule = f"the output must not have negative sizes, and of X of shape {x.shape} it would have {lengths}"
        advice = "pass smaller pads or a larger X" + canonicalize.symbolic_advice(lengths)
        raise error(ValueError, _FUNCTION, rule, name, value, advice)
    crops = tuple((begin, end - extra) for begin, end, extra in zip(cut[:n], cut[n:], op, strict=True))
    geometry = Geometry(kernel, s, d, crops, group, channels_last=False)
    options = _options.options(_FUNCTION, x, None, precision, preferred_element_type, implementation, forward_mode)
    return _conv_transpose(x, w, geometry, options, bias, "onnx")


# Where an AttributeProto holds each attribute of ConvTranspose: the number of its type in onnx.proto, and the field.
_HELD = {"auto_pad": (3, "s"), "group": (2, "i")} | dict.fromkeys(
    ("dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides"), (7, "ints")
)


def from_node(
    node: Any,
    *,
    precision: Precision = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: str | None = None,
    forward_mode: bool | None = None,
) -> Callable[..., jax.Array]:
    """A ConvTranspose node of a model as a function of its inputs.

        from_node(node)(X, W, B) = conv_transpose(X, W, B, **attributes of node)

    Args:
        node: an `onnx.NodeProto`, or anything that has its op_type, domain, input and attribute.
        precision: as for `conv_transpose`, as are the arguments after it.
        preferred_element_type: see there.
        implementation: see there.
        forward_mode: see there.

    Returns:
        A function of X, W and B=None, with the shapes, dtypes, errors and gradients of `conv_transpose`. It requires B where the node
        has that input, and no B where it has not.

    Raises:
        ValueError: a node of another op_type or domain, an attribute that ConvTranspose has not, or one that stands for the argument
            of a function; on a call, what `conv_transpose` raises for the attributes.
        TypeError: no node, or an attribute of another type than ConvTranspose has.

    Gradients:
        As those of `conv_transpose`.

    References:
        NodeProto and AttributeProto, onnx.proto; ConvTranspose, ONNX operator set 22.

    Examples:
        >>> from types import SimpleNamespace as Proto
        >>> import jax.numpy as jnp
        >>> import jaxdeconv.onnx
        >>> strides = Proto(name="strides", type=7, ints=[2], ref_attr_name="")  # what onnx.load reads from a file
        >>> node = Proto(op_type="ConvTranspose", domain="", input=["X", "W"], attribute=[strides])
        >>> jaxdeconv.onnx.from_node(node)(jnp.ones((1, 3, 5)), jnp.ones((3, 2, 4))).shape
        (1, 2, 12)
    """
    function = "onnx.from_node"
    fields = ("op_type", "domain", "input", "attribute")
    if not all(hasattr(node, field) for field in fields):
        raise error(TypeError, function, "node must be a NodeProto", "node", node, "pass one of model.graph.node")
    if (node.domain, node.op_type) not in (("", "ConvTranspose"), ("ai.onnx", "ConvTranspose")):
        name, value = ("op_type", node.op_type) if node.op_type != "ConvTranspose" else ("domain", node.domain)
        rule = "node must be a ConvTranspose of ONNX's own domain"
        raise error(ValueError, function, rule, f"node.{name}", value, "pass the nodes of that op_type alone")
    attributes = {each.name: _value(function, each) for each in node.attribute}
    has_bias = len(node.input) > 2 and node.input[2] != ""

    def transposed(X: ArrayLike, W: ArrayLike | None = None, B: ArrayLike | None = None) -> jax.Array:  # noqa: N803
        if W is None:
            rule, takes = "W must be given", f"(X, W{', B' * has_bias})"
            raise error(TypeError, _FUNCTION, rule, "W", W, f"call it with the arrays {takes}, one by one, not in a dict or list")
        if has_bias != (B is not None):
            rule = f"B must be {'given' if has_bias else 'None'}, since the node has the inputs {list(node.input)}"
            raise error(ValueError, _FUNCTION, rule, "B", B, "pass what the node has, or call onnx.conv_transpose")
        return conv_transpose(
            X,
            W,
            B,
            **attributes,
            precision=precision,
            preferred_element_type=preferred_element_type,
            implementation=implementation,
            forward_mode=forward_mode,
        )

    return transposed


def _value(function: str, attribute: Any) -> Any:
    """What an AttributeProto of ConvTranspose holds."""
    name = attribute.name
    if name not in _HELD:
        rule, advice = f"an attribute of ConvTranspose must be one of {', '.join(_HELD)}", "remove it if it has no meaning"
        raise error(ValueError, function, rule, "attribute.name", name, advice)
    kind, field = _HELD[name]
    if attribute.ref_attr_name:
        rule, advice = f"{name} must have a value of its own, not that of a function's argument", "inline the functions of the model"
        raise error(ValueError, function, rule, "attribute.ref_attr_name", attribute.ref_attr_name, advice)
    if attribute.type != kind:
        rule, advice = f"{name} must be in the field {field!r}, of type {kind}", "make the node with onnx.helper.make_node"
        raise error(TypeError, function, rule, "attribute.type", attribute.type, advice)
    value = getattr(attribute, field)
    return list(value) if field == "ints" else value


def _check_filter(x_shape: tuple[int, ...], w_shape: tuple[int, ...], group: object) -> int:
    """Requires a filter for this input, and returns the number of groups."""
    if len(w_shape) != len(x_shape):
        rule = f"W must have the rank of X, {len(x_shape)}, [C, M / group, *k]"
        advice = "bring a filter of another layout here with jaxdeconv.convert_filters"
        raise error(ValueError, _FUNCTION, rule, "W.shape", w_shape, advice)
    groups = canonicalize.integer(_FUNCTION, "group", group)
    if x_shape[1] != w_shape[0]:
        rule = f"axis 1 of X and axis 0 of W must be equal, and X has shape {x_shape}"
        advice = "W is [C, M / group, *k], with its first two axes the other way round than for Conv"
        move = "pass jax.numpy.moveaxis(X, -1, 1), if the channels of X come last"
        advice = canonicalize.channels_advice("W", w_shape, "onnx", (x_shape[1], x_shape[-1]), None, groups, move, advice)
        raise error(ValueError, _FUNCTION, rule, "W.shape", w_shape, advice)
    if not isinstance(groups, int) or groups < 1 or (groups > 1 and x_shape[1] % groups != 0):
        rule = f"group must be a divisor of the {x_shape[1]} input channels"
        raise error(ValueError, _FUNCTION, rule, "group", group, "W.shape[1] is the output channels of each group")
    return groups


def _attribute(name: str, value: object, length: int, minimum: int, symbolic: bool = False) -> tuple[int, ...]:
    """An attribute of this many integers; all of them the minimum, which is ONNX's default, where it is None."""
    if value is None:
        return (minimum,) * length
    entries = canonicalize.integers(_FUNCTION, name, value)
    if len(entries) != length or not (isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1):
        n = length // 2 if name == "pads" else length
        advice = f"pass a list, with X of {n} spatial dimension{'s' * (n > 1)}"
        raise error(ValueError, _FUNCTION, f"{name} must have length {length}", name, value, advice)
    if not all(minimum <= entry <= canonicalize.LARGEST if isinstance(entry, int) else symbolic for entry in entries):
        rule = f"{name} must be from {minimum} to {canonicalize.LARGEST}"
        raise error(ValueError, _FUNCTION, rule, name, value, "pass integers in this range")
    return entries


def _split(
    auto_pad: AutoPad, x_shape: tuple[int, ...], fulls: tuple[int, ...], lengths: tuple[int, ...], output_shape: object
) -> tuple[int, ...]:
    """The pads, begins then ends, that cut full, which has the output_padding in it, to these lengths.

    The halves are rounded down, also where the total is negative: only then is pads_end the larger for SAME_UPPER, as ONNX says, and
    pads_begin 0 for NOTSET with a total of -1, as in ONNX's own test_convtranspose_output_shape.
    """
    totals = tuple(full - length for full, length in zip(fulls, lengths, strict=True))
    if not all(isinstance(total, int) for total in totals):
        rule = f"output_shape must be strides * size + a constant where a size is symbolic, and X has shape {x_shape}"
        raise error(ValueError, _FUNCTION, rule, "output_shape", output_shape, "write it in terms of X.shape")
    halves = tuple(total // 2 for total in totals)
    others = tuple(total - half for total, half in zip(totals, halves, strict=True))
    return halves + others if auto_pad == "SAME_UPPER" else others + halves

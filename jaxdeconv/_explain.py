"""explain: what a call would compute, and how every other convention would write it. Nothing runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import jax

from jaxdeconv._call import Call, calls
from jaxdeconv._canonicalize import error
from jaxdeconv._geometry import effective_kernel, full_size
from jaxdeconv._lowerings import Contraction, Name, Platform
from jaxdeconv._select import largest_temporary

_CONTRACTIONS: tuple[Contraction, ...] = get_args(Contraction)
_PLATFORMS: tuple[Platform, ...] = get_args(Platform)
_LETTERS = {"transpose": "T", "input_grad": "C", "filter_grad": "F"}


class _Dimension(NamedTuple):
    """One spatial dimension: sizes, kernel, stride, dilation, crops, and what follows from them."""

    size: int
    length: int
    k: int
    s: int
    d: int
    lo: int
    hi: int

    @property
    def ke(self) -> int:
        return effective_kernel(self.k, self.d)

    @property
    def full(self) -> int:
        return full_size(self.size, self.k, self.s, self.d)

    @property
    def products(self) -> int:
        """How many pairs of an input position n and a tap j land inside of the window."""
        starts = (j * self.d - self.lo for j in range(self.k))
        return sum(
            max(0, min(self.size - 1, (self.length - 1 - start) // self.s) - max(0, -(start // self.s)) + 1) for start in starts
        )


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One transposed convolution, as plain fields. `str()` of it is for reading.

    Spatial fields have one entry per dimension; sizes of temporaries are in bytes; T, C and F are "transpose", "input_grad" and
    "filter_grad". flops counts what is useful, each product inside of the window once and two per product (eight if complex), and is
    the same for all three. largest_temporary is what the lowering's own program holds besides its operands and result; what a
    backend's convolution allocates inside is not known before it is compiled. mesh_axes is over how many axes of a mesh the operands
    may be cut, 2 for two or more: what XLA's partitioner gets wrong there is not chosen. conventions has, for each of "tf", "torch",
    "onnx", "lax" and "keras", the arguments that place the same window there, or a sentence why there are none.
    """

    function: str
    input_shape: tuple[int, ...]
    filter_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    groups: int
    channels_last: bool
    flops: int
    mesh_axes: int
    largest_temporary: Mapping[Contraction, Mapping[Platform, int]]
    lowerings: Mapping[Contraction, Mapping[Platform, Name]]
    conventions: Mapping[str, dict[str, Any] | str]

    def __str__(self) -> str:
        lines = [
            f"{self.function}: {self.dtype}{list(self.input_shape)} -> {list(self.output_shape)}",
            f"  filter (tf layout)  {list(self.filter_shape)}, {self.groups} group{'s' * (self.groups > 1)}",
            f"  strides, dilations  {self.strides}, {self.dilations}",
            f"  crops (low, high)   {', '.join(map(str, self.crops))}",
            f"  useful FLOPs        {self.flops:,} in each of T, C and F",
        ]
        if self.mesh_axes:
            lines.append(f"  may be cut over     {'one axis' if self.mesh_axes == 1 else 'several axes'} of a mesh")
        for contraction in _CONTRACTIONS:
            temporaries = self.largest_temporary[contraction]
            chosen = ", ".join(
                f"{platform} {name} ({temporaries[platform]:,} bytes)" for platform, name in self.lowerings[contraction].items()
            )
            lines.append(f"  {f'{_LETTERS[contraction]} = {contraction}':18}  {chosen}")
        lines.append("  the same window elsewhere")
        for name, arguments in self.conventions.items():
            text = arguments if isinstance(arguments, str) else ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            lines.append(f"    {name:6} {text}")
        return "\n".join(lines)


def explain(function: Callable[..., jax.Array], *arguments: Any, **keywords: Any) -> Explanation:
    """Says what a call of one of this package's functions would compute, without computing it.

    Args:
        function: any transposed convolution of this package, of any convention, or a function that calls one of them once.
        *arguments: its arguments. Arrays may be `jax.ShapeDtypeStruct`s.
        **keywords: its keyword arguments, likewise.

    Returns:
        An `Explanation`: shapes, crops, groups, FLOPs, temporaries, the lowering of each contraction on each platform, and the
        arguments that would place the same window in every other convention.

    Raises:
        ValueError: where the call would, and where it makes no transposed convolution or more than one.
        TypeError: where the call would.

    Gradients:
        None; nothing is computed.

    Example:
        >>> import jax
        >>> import jaxdeconv
        >>> x, w = jax.ShapeDtypeStruct((1, 80, 512), "float32"), jax.ShapeDtypeStruct((16, 256, 512), "float32")
        >>> print(jaxdeconv.explain(jaxdeconv.conv1d_transpose, x, w, [1, 640, 256], strides=8))
        conv1d_transpose: float32[1, 80, 512] -> [1, 640, 256]
          filter (tf layout)  [16, 256, 512], 1 group
          strides, dilations  (8,), (1,)
          crops (low, high)   (4, 4)
          useful FLOPs        333,447,168 in each of T, C and F
          T = transpose       cpu matmul (1,310,720 bytes), gpu dilated (0 bytes), tpu matmul (1,310,720 bytes)
          C = input_grad      cpu matmul (1,310,720 bytes), gpu dilated (0 bytes), tpu matmul (1,310,720 bytes)
          F = filter_grad     cpu matmul (1,310,720 bytes), gpu dilated (0 bytes), tpu dilated (0 bytes)
          the same window elsewhere
            tf     padding='SAME', output_shape=[1, 640, 256]
            torch  padding=(4,), output_padding=(0,)
            onnx   pads=[4, 4], output_padding=[0]
            lax    padding=[(11, 11)]
            keras  padding='same', output_padding=None
    """
    abstract = {key: value for key, value in enumerate(arguments) if isinstance(value, jax.ShapeDtypeStruct)}
    named = {key: value for key, value in keywords.items() if isinstance(value, jax.ShapeDtypeStruct)}

    def call(abstract: dict[int, Any], named: dict[str, Any]) -> jax.Array:
        return function(*(abstract.get(index, value) for index, value in enumerate(arguments)), **keywords | named)

    recorded: list[Call] = []
    token = calls.set(recorded)
    try:
        jax.eval_shape(call, abstract, named)
    finally:
        calls.reset(token)
    if len(recorded) != 1:
        rule = "function must make exactly one transposed convolution of this package"
        advice = f"it made {len(recorded)}; a function already traced by jax.jit makes none, one of accelerate has its own explain"
        raise error(ValueError, "explain", rule, "function", function, advice)
    return _explanation(recorded[0])


def _explanation(call: Call) -> Explanation:
    geometry, dtype = call.geometry, call.dtype
    dimensions = tuple(
        _Dimension(call.input_shape[axis], call.output_shape[axis], k, s, d, lo, hi)
        for axis, k, s, d, (lo, hi) in zip(
            geometry.spatial_axes, geometry.kernel, geometry.strides, geometry.dilations, geometry.crops, strict=True
        )
    )
    filter_shape = call.filter_shape
    products = call.input_shape[0] * math.prod(each.products for each in dimensions) * math.prod(filter_shape[-2:])
    lowerings = {contraction: call.choices(contraction) for contraction in _CONTRACTIONS}
    temporaries = {
        contraction: {platform: largest_temporary(name, contraction, call.sizes, platform) for platform, name in chosen.items()}
        for contraction, chosen in lowerings.items()
    }
    return Explanation(
        function=call.options.function,
        input_shape=call.input_shape,
        filter_shape=filter_shape,
        output_shape=call.output_shape,
        dtype=dtype.name,
        strides=geometry.strides,
        dilations=geometry.dilations,
        crops=geometry.crops,
        groups=geometry.groups,
        channels_last=geometry.channels_last,
        flops=(8 if dtype.kind == "c" else 2) * products,
        mesh_axes=call.options.axes,
        largest_temporary=temporaries,
        lowerings=lowerings,
        conventions={
            "tf": _tf(dimensions, call),
            "torch": _torch(dimensions),
            "onnx": _onnx(dimensions),
            "lax": _lax(dimensions, geometry.groups),
            "keras": _keras(dimensions, geometry.groups),
        },
    )


def _tf(dimensions: tuple[_Dimension, ...], call: Call) -> dict[str, Any] | str:
    said = {"output_shape": list(call.output_shape)} | ({"groups": call.geometry.groups} if call.geometry.groups > 1 else {})
    if all(0 <= each.s * each.size - each.length < each.s and each.lo == max(each.full - each.length, 0) // 2 for each in dimensions):
        return {"padding": "SAME"} | said
    if all(each.lo == 0 and 0 <= -each.hi < each.s for each in dimensions):
        return {"padding": "VALID"} | said
    if len(dimensions) == 2 and all(each.lo >= 0 and -each.hi < each.s for each in dimensions):
        pads = [[each.lo, max(each.hi, 0)] for each in dimensions]
        zero = [[0, 0]]
        return {"padding": zero + pads + zero if call.geometry.channels_last else zero + zero + pads} | said
    return "not expressible: neither SAME nor VALID keeps this window" + " of these sizes, and no explicit padding" * (
        len(dimensions) == 2
    )


def _torch(dimensions: tuple[_Dimension, ...]) -> dict[str, Any] | str:
    if any(each.lo < 0 for each in dimensions):
        return "not expressible: padding cannot be negative, and zeros come first here"
    extra = [each.lo - each.hi for each in dimensions]
    if not all(0 <= op < max(each.s, each.d) for op, each in zip(extra, dimensions, strict=True)):
        return (
            f"not expressible: output_padding would be {tuple(extra)}, and must be from 0 to below the larger of stride and dilation"
        )
    return {"padding": tuple(each.lo for each in dimensions), "output_padding": tuple(extra)}


def _onnx(dimensions: tuple[_Dimension, ...]) -> dict[str, Any] | str:
    if any(each.lo < 0 for each in dimensions):
        return "not expressible: pads cannot be negative, and zeros come first here"
    extra = [max(-each.hi, 0) for each in dimensions]
    if not all(op < max(each.s, each.d) for op, each in zip(extra, dimensions, strict=True)):
        return f"not expressible: output_padding would be {extra}, and must be below the larger of stride and dilation"
    return {"pads": [each.lo for each in dimensions] + [max(each.hi, 0) for each in dimensions], "output_padding": extra}


def _lax(dimensions: tuple[_Dimension, ...], groups: int) -> dict[str, Any]:
    padding = [(each.ke - 1 - each.lo, each.ke - 1 - each.hi) for each in dimensions]
    return {"padding": padding} | ({"feature_group_count": groups} if groups > 1 else {})  # which jax's own function lacks


def _keras(dimensions: tuple[_Dimension, ...], groups: int) -> dict[str, Any] | str:
    more = {"groups": groups} if groups > 1 else {}  # which Keras's own function lacks
    if all(each.lo == 0 and -each.hi == max(each.s - each.ke, 0) for each in dimensions):
        return {"padding": "valid", "output_padding": None} | more
    if all(each.lo == 0 and 0 <= -each.hi < each.s for each in dimensions):
        return {"padding": "valid", "output_padding": tuple(-each.hi for each in dimensions)} | more
    if all(each.length == each.s * each.size and each.lo == max(each.full - each.length, 0) // 2 for each in dimensions):
        return {"padding": "same", "output_padding": None} | more
    extra = tuple(each.length - (each.size - 1) * each.s - each.ke % 2 for each in dimensions)
    overhang = [-(-(each.ke + each.ke % 2 - 2 + op) // 2) for each, op in zip(dimensions, extra, strict=True)]
    if all(
        0 <= op < each.s and each.lo == each.ke - 1 - min(q, each.ke - 1)
        for each, op, q in zip(dimensions, extra, overhang, strict=True)
    ):
        return {"padding": "same", "output_padding": extra} | more
    return "not expressible: neither valid nor same keeps this window with any output_padding"

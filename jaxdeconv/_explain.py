"""explain: what a call would compute and what takes its time, and how every other convention would write it. Nothing runs."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax

from jaxdeconv import _jaxprs
from jaxdeconv._accelerate import is_accelerated, rows_of
from jaxdeconv._call import Call, calls
from jaxdeconv._canonicalize import error, traced_anew
from jaxdeconv._conventions import dimensions_of, spelled
from jaxdeconv._edit import Row
from jaxdeconv._lowerings import Contraction, Name, Platform
from jaxdeconv._select import estimated, largest_temporary
from jaxdeconv._tuning import aligned, milliseconds
from jaxdeconv._verdict import CONTRACTIONS, LETTERS, TERMS, verdict_on

_SPELT = {"transpose": "T, the output", "input_grad": "C, the input gradient", "filter_grad": "F, the filter gradient"}
_UNITS = (
    "cpu: as on the two cores that its rates are fitted to; gpu: never measured, and no start of a program is counted; "
    "tpu: its compiler's estimates for one v5e"
)


def _time(estimate: float, platform: Platform) -> str:
    return f"{estimate:,.0f} cycles" if platform == "tpu" else f"{milliseconds(estimate)} ms"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="  ")


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One transposed convolution, as plain fields. `str()` of it is for reading.

    Spatial fields have one entry per dimension; sizes of temporaries are in bytes; T, C and F are "transpose", "input_grad" and
    "filter_grad", that is the output, the input gradient and the filter gradient. flops counts what is useful, each product inside of
    the window once and two per product (eight if complex), and is the same for all three. largest_temporary is what the lowering's
    own program holds besides its operands and result; what a backend's convolution allocates inside is known when it is compiled.
    mesh_axes is over how many axes of a mesh the operands may be cut, 2 for two or more: what XLA's partitioner gets wrong there is
    not chosen. conventions has, for each of "tf", "torch", "onnx", "lax" and "keras", the arguments that place the same window there,
    beside strides and dilations, or a sentence why there are none. They are for the function here: TensorFlow itself has pairs as
    padding in two dimensions alone, and Keras and `jax.lax.conv_transpose` have no groups.

    estimates is how long each would take alone: on CPU in seconds, as on the two cores that its rates are fitted to; on GPU in
    seconds, and never measured; on TPU in cycles, as its compiler estimates for one v5e. bounds is what takes the most of each: the
    name of a rate, as "product" for matrix products. verdict is a sentence: what takes the time on CPU, and what is estimated to take
    less.
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
    estimates: Mapping[Contraction, Mapping[Platform, float]]
    bounds: Mapping[Contraction, Mapping[Platform, str]]
    verdict: str
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
        rows = [
            (
                _SPELT[contraction] if platform == "cpu" else "",
                platform,
                name,
                _time(self.estimates[contraction][platform], platform),
                TERMS[self.bounds[contraction][platform]],
                f"{self.largest_temporary[contraction][platform]:,}",
            )
            for contraction, chosen in self.lowerings.items()
            for platform, name in chosen.items()
        ]
        lines += aligned([("", "", "lowering", "estimate", "most of it", "temporary bytes"), *rows], "<<<><>")
        lines += [*_wrapped(_UNITS), *_wrapped(self.verdict)]
        lines.append("  the same window elsewhere")
        for name, arguments in self.conventions.items():
            text = arguments if isinstance(arguments, str) else ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            lines.append(f"    {name:6} {text}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer that was found in a function, or several alike.

    computed is how often the function computes each contraction of it, as far as it shows: of this package's own calls the output.
    own is whether it is a call of this package; otherwise it is a convolution of lax, as the frameworks' own layers make them, and
    the explanation is that of what `accelerate` makes of it. names are those of the scopes around it, and source is the line of
    code, which is known of lax's.
    """

    explanation: Explanation
    computed: Mapping[Contraction, int]
    own: bool
    names: str
    source: str

    @property
    def count(self) -> int:
        return max(self.computed.values())

    @property
    def seconds(self) -> float:
        """What T, C and F of all of them are estimated to take on CPU."""
        return self.count * sum(each["cpu"] for each in self.explanation.estimates.values())

    def __str__(self) -> str:
        each = self.explanation
        shapes, what = [each.input_shape, each.output_shape], ""
        if "transpose" not in self.computed or next(iter(self.computed)) == "input_grad":  # T is the gradient, if it is anything
            shapes, what = shapes[::-1], "convolution, whose output is C: "
        kernel, stride = ("x".join(map(str, sizes)) for sizes in (each.filter_shape[:-2], each.strides))
        text = f"{what}{each.dtype}{list(shapes[0])} -> {list(shapes[1])}, kernel {kernel}, stride {stride}"
        text += f", dilation {'x'.join(map(str, each.dilations))}" * (set(each.dilations) > {1})
        return text + f", {each.groups} groups" * (each.groups > 1)


@dataclasses.dataclass(frozen=True)
class Explanations:
    """The layers of a function. `str()` of it is for reading.

    rows has each once, in the order of the program: its `explanation`, which is an `Explanation`; `computed`, how often the function
    computes T, C and F of it; `own`, whether it is a call of this package or a convolution of lax, as Flax's and Equinox's own layers
    make them; `names` of the scopes that it is in, and `source`, its line. left are the convolutions that are spread or strided and
    that `accelerate` leaves to lax, as its own `explain` shows them. verdict is what takes the most of the time on CPU, and what can
    be done about it.
    """

    rows: tuple[Layer, ...]
    left: tuple[Row, ...]
    verdict: str

    def __str__(self) -> str:
        lines = [
            f"{len(self.rows)} layer{'s' * (len(self.rows) > 1)}, and the time that each is estimated to take on CPU:",
            "T, the output, C, the input gradient, and F, the filter gradient, of a transposed convolution",
        ]
        for number, row in enumerate(self.rows, 1):
            each = row.explanation
            times = [
                f"{letter} {milliseconds(each.estimates[contraction]['cpu'])} ms by {each.lowerings[contraction]['cpu']}"
                for contraction, letter in LETTERS.items()
            ]
            computed = [
                letter + f" {count} times" * (count > 1) for c, letter in LETTERS.items() if (count := row.computed.get(c, 0)) > 0
            ]
            where = f", in {row.names or row.source}" * bool(row.names or row.source)
            lines += [f"{number:3}. {row}", f"     {', '.join(times)}"]
            lines += [f"     {each.function if row.own else 'lax'} computes {', '.join(computed)}{where}"]
        lines += [f"left to lax: {each}" for each in self.left]
        return "\n".join([*lines, *_wrapped(self.verdict)])


def explain(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Explanation | Explanations:
    """Says what a call would compute and what takes its time, without computing it.

    The function is traced, not run. Of one call of this package it says everything: the window, the lowering of each of T, C and F
    on each platform, how long each is estimated to take and what takes the most of that, what could be faster, and how every other
    convention writes the same window. Of any other function, as a model or a training step, it lists the layers: calls of this
    package, and what `accelerate` finds, which are transposed and strided convolutions of lax and gradients of convolutions, whoever
    made them; Flax's and Equinox's own layers are.

    Args:
        function: any transposed convolution of this package, of any convention, or any function or model that JAX can trace.
        *arguments: its arguments, pytrees. Arrays may be `jax.ShapeDtypeStruct`s.
        **keywords: its keyword arguments, likewise.

    Returns:
        An `Explanation` where one transposed convolution of this package is all there is; otherwise `Explanations`, with a row for
        each layer. `print` either.

    Raises:
        ValueError: where the call would, and where there is no such convolution.
        TypeError: where the call would, or function is not callable.

    Gradients:
        None; nothing is computed.

    Examples:
        >>> import jax
        >>> import jaxdeconv
        >>> x, w = jax.ShapeDtypeStruct((1, 80, 512), "float32"), jax.ShapeDtypeStruct((16, 256, 512), "float32")
        >>> print(jaxdeconv.explain(jaxdeconv.conv1d_transpose, x, w, [1, 640, 256], strides=8))
        conv1d_transpose: float32[1, 80, 512] -> [1, 640, 256]
          filter (tf layout)  [16, 256, 512], 1 group
          strides, dilations  (8,), (1,)
          crops (low, high)   (4, 4)
          useful FLOPs        333,447,168 in each of T, C and F
                                       lowering       estimate  most of it       temporary bytes
          T, the output           cpu  matmul         0.811 ms  matrix products        1,310,720
                                  gpu  dilated      0.00751 ms  convolutions                   0
                                  tpu  matmul    39,798 cycles  rearranging            1,310,720
          C, the input gradient   cpu  matmul          0.84 ms  matrix products        1,310,720
                                  gpu  dilated      0.00751 ms  convolutions                   0
                                  tpu  dilated   34,265 cycles  rearranging                    0
          F, the filter gradient  cpu  matmul          0.85 ms  matrix products        1,310,720
                                  gpu  dilated      0.00751 ms  convolutions                   0
                                  tpu  dilated   26,585 cycles  rearranging                    0
          cpu: as on the two cores that its rates are fitted to; gpu: never measured, and no start of a program is counted;
          tpu: its compiler's estimates for one v5e
          On CPU T, C and F take 2.5 ms, about alike, and 82% of that is matrix products; most of the time is arithmetic, so
          that fewer channels, taps or samples are what is left.
          the same window elsewhere
            tf     padding='SAME', output_shape=[1, 640, 256]
            torch  padding=(4,), output_padding=(0,)
            onnx   pads=[4, 4], output_padding=[0]
            lax    padding=[(11, 11)]
            keras  padding='same', output_padding=None
        >>> def decode(w, x):  # another package's layer
        ...     return jax.lax.conv_transpose(x, w, (8,), "SAME")
        >>> w = jax.ShapeDtypeStruct((16, 512, 256), "float32")
        >>> found = jaxdeconv.explain(decode, w, x)
        >>> [(row.own, row.explanation.output_shape) for row in found.rows]
        [(False, (1, 640, 256))]
    """
    if not callable(function):
        advice = "pass a function of this package, or one that calls them, and its arguments"
        raise error(TypeError, "explain", "function must be callable", "function", function, advice)
    accelerated = is_accelerated(function)
    original = function.__wrapped__ if accelerated else function  # type: ignore[attr-defined]
    leaves, structure = jax.tree.flatten((arguments, keywords))
    abstract = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)}

    def call(abstract: dict[int, Any]) -> Any:
        positional, named = jax.tree.unflatten(structure, [abstract.get(place, leaf) for place, leaf in enumerate(leaves)])
        return original(*positional, **named)

    recorded: list[tuple[Call, str]] = []
    token = calls.set(recorded)
    try:
        with traced_anew(object()):  # what was jitted before, too
            program, _, _ = _jaxprs.traced(call, abstract)
    finally:
        calls.reset(token)
    rows = rows_of(program)
    if len(recorded) == 1 and not rows:
        return _explanation(recorded[0][0])
    layers = _layers(recorded, rows)
    if not layers:
        rule = "function must compute a transposed or strided convolution, of this package or of lax"
        raise error(ValueError, "explain", rule, "function", function, "pass one that does, and its arguments")
    return Explanations(layers, tuple(row for row in rows if row.call is None), _verdict_on(layers, accelerated))


def _layers(recorded: Iterable[tuple[Call, str]], rows: Iterable[Row]) -> tuple[Layer, ...]:
    """Contractions of the same three arrays at one place are one layer: a strided convolution is not the one that mirrors it."""
    seen: dict[Any, tuple[dict[Contraction, Call], dict[Contraction, int], tuple[bool, str, str]]] = {}

    def add(call: Call, contraction: Contraction, own: bool, names: str, source: str) -> None:
        window = replace(call.geometry, channels_last=True), call.options.implementation
        key = call.input_shape, call.filter_shape, call.output_shape, call.dtype, window, own, names if own else source
        by, computed, _ = seen.setdefault(key, ({}, {}, (own, names, source)))
        by.setdefault(contraction, call)
        computed[contraction] = computed.get(contraction, 0) + 1

    for call, names in recorded:
        add(call, "transpose", True, names, "")
    for row in rows:
        if row.call is not None and row.contraction is not None:
            add(row.call, row.contraction, False, row.name_stack, row.source)
    return tuple(Layer(_explanation(next(iter(by.values())), by), computed, *rest) for by, computed, rest in seen.values())


def _verdict_on(layers: tuple[Layer, ...], accelerated: bool) -> str:
    """What takes the time of a function, whose layers that is, and the verdict on the slowest."""
    whole, count, others = sum(layer.seconds for layer in layers), len(layers), sum(not layer.own for layer in layers)
    number, slowest = max(enumerate(layers, 1), key=lambda each: each[1].seconds)
    how = "accelerate" if accelerated else "jaxdeconv.accelerate(function)"
    if count == 1:
        return slowest.explanation.verdict + f" The layer is of lax, and {how} computes it in that time." * others
    text = f"On CPU T, C and F of all {count} layers are estimated to take {milliseconds(whole)} ms"
    text += f", {slowest.seconds / whole:.0%} of it layer {number}."
    if others:
        whose = "All are" if others == count else f"{others} of them {'are' if others > 1 else 'is'}"
        text += f" {whose} of lax, and {how} computes {'them' if others > 1 else 'it'} in that time."
    return f"{text} Layer {number}: {slowest.explanation.verdict}"


def _explanation(call: Call, by: Mapping[Contraction, Call] | None = None) -> Explanation:
    """Of a call, and of what computes each contraction where that is another one."""
    geometry, dtype = call.geometry, call.dtype
    dimensions = dimensions_of(call)
    filter_shape = call.filter_shape
    products = call.input_shape[0] * math.prod(each.products for each in dimensions) * math.prod(filter_shape[-2:])
    lowerings = {contraction: (by or {}).get(contraction, call).choices(contraction) for contraction in CONTRACTIONS}
    terms = {
        contraction: {platform: estimated(name, contraction, call.sizes, platform) for platform, name in chosen.items()}
        for contraction, chosen in lowerings.items()
    }
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
        estimates={c: {platform: sum(each) for platform, each in by_platform.items()} for c, by_platform in terms.items()},
        bounds={c: {platform: each.bound for platform, each in by_platform.items()} for c, by_platform in terms.items()},
        verdict=verdict_on(call, {contraction: each["cpu"] for contraction, each in terms.items()}),
        conventions=spelled(call, dimensions),
    )

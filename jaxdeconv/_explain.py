"""explain: what a call would compute and what takes its time, and how every other convention would write it. Nothing runs."""

from __future__ import annotations

import dataclasses
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdeconv import _jaxprs
from jaxdeconv._accelerate import edited, is_accelerated
from jaxdeconv._call import Call
from jaxdeconv._canonicalize import error
from jaxdeconv._contractions import OWN, TYPICAL, typical
from jaxdeconv._conventions import dimensions_of, spelled
from jaxdeconv._edit import Row
from jaxdeconv._executed import Executed, recording
from jaxdeconv._lowerings import Contraction, Name, Platform
from jaxdeconv._select import estimated, largest_temporary
from jaxdeconv._tuning import aligned, milliseconds
from jaxdeconv._verdict import CONTRACTIONS, LETTERS, TERMS, given, joined, verdict_on

_SPELT = {"transpose": "T, the output", "input_grad": "C, the input gradient", "filter_grad": "F, the filter gradient"}
_UNITS = (
    "cpu: as on the two cores that its rates are fitted to; gpu: never measured, and no start of a program is counted; "
    "tpu: its compiler's estimates for one v5e"
)


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
    padding in two dimensions alone, and Keras and `jax.lax.conv_transpose` have no groups. A symbolic size of
    `jax.export` counts as 1024.

    estimates is how long each would take alone: on CPU in seconds, as on the two cores that its rates are fitted to; on GPU in
    seconds, and never measured; on TPU in cycles, as its compiler estimates for one v5e. bounds is what takes the most of each: the
    name of a rate, as "product" for matrix products. measured has the seconds of what a tuning chooses. verdict is a sentence: what
    takes the time on CPU, and what is estimated to take less.
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
    measured: Mapping[Contraction, Mapping[Platform, float]]
    verdict: str
    conventions: Mapping[str, dict[str, Any] | str]

    def seconds(self, contraction: Contraction) -> float:
        """What it takes on CPU, as measured if it was, and else by estimate."""
        return self.measured[contraction].get("cpu", self.estimates[contraction]["cpu"])

    def _time(self, contraction: Contraction, platform: Platform) -> str:
        if (seconds := self.measured[contraction].get(platform)) is not None:
            return f"measured {milliseconds(seconds)} ms"
        estimate = self.estimates[contraction][platform]
        return f"{estimate:,.0f} cycles" if platform == "tpu" else f"{milliseconds(estimate)} ms"

    def __str__(self) -> str:
        lines = [
            f"{self.function}: {self.dtype}{list(self.input_shape)} -> {list(self.output_shape)}",
            f"  filter (tf layout)  {list(self.filter_shape)}, {self.groups} group{'s' * (self.groups > 1)}",
            f"  strides, dilations  {self.strides}, {self.dilations}",
            f"  crops (low, high)   {', '.join(map(str, self.crops))}",
            f"  useful FLOPs        {self.flops:,} in each of T, C and F",
        ]
        if symbolic := dict.fromkeys(str(size) for size in self.input_shape if not isinstance(size, int)):
            lines.append(f"  symbolic sizes      {', '.join(f'{size} counts as {TYPICAL}' for size in symbolic)}")
        if self.mesh_axes:
            lines.append(f"  may be cut over     {'one axis' if self.mesh_axes == 1 else 'several axes'} of a mesh")
        rows = [
            (
                _SPELT[contraction] if platform == "cpu" else "",
                platform,
                name,
                self._time(contraction, platform),
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

    computed is how often the function computes each contraction of it; elements of a `jax.vmap` are more of the batch. own is whether
    it is a call of this package; otherwise it is a convolution of lax, as the frameworks' own layers make them, and the explanation
    is that of what `accelerate` makes of it. convolution is whether it is an ordinary one, whose output is C. names are those of the
    scopes around it, and source is the line of code. steps is how many the `jax.lax.scan` has that it is in, 1 if it is in none: the
    time is that of one.
    """

    explanation: Explanation
    computed: Mapping[Contraction, int]
    own: bool
    convolution: bool
    names: str
    source: str
    steps: int

    @property
    def seconds(self) -> float:
        """What is computed of it is estimated to take on CPU, or measured."""
        return sum(count * self.explanation.seconds(contraction) for contraction, count in self.computed.items())

    @property
    def trained(self) -> float:
        """What T, C and F of it would take, each as often as the function computes it at most."""
        return max(self.computed.values()) * sum(map(self.explanation.seconds, CONTRACTIONS))

    @property
    def is_forward_only(self) -> bool:
        """Whether there are gradients, and none is computed."""
        return len(self.computed) == 1 and "filter_grad" not in self.computed and given(self.explanation.dtype) == CONTRACTIONS

    def __str__(self) -> str:
        each = self.explanation
        shapes, what = [each.input_shape, each.output_shape], ""
        if self.convolution:
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
    make them; `convolution`, whether it is an ordinary one; `names` of the scopes that it is in, `source`, its line, and `steps`, of
    the loop that it is in. left are the convolutions that are spread or strided and
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
                f"{letter} {'measured ' * ('cpu' in each.measured[contraction])}{milliseconds(each.seconds(contraction))} ms "
                f"by {each.lowerings[contraction]['cpu']}"
                for contraction, letter in LETTERS.items()
            ]
            computed = [
                letter + f" {count} times" * (count > 1) for c, letter in LETTERS.items() if (count := row.computed.get(c, 0)) > 0
            ]
            where = f"{f', in {row.names}' * bool(row.names)}, at {row.source}"
            lines += [f"{number:3}. {row}", f"     {', '.join(times)}"]
            lines += [f"     {each.function if row.own else 'lax'} computes {', '.join(computed)}{where}"]
            if row.steps > 1:
                lines += [f"     in a scan of {row.steps}, of which the time is that of one step"]
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
          T, the output           cpu  matmul         0.804 ms  matrix products        1,310,720
                                  gpu  dilated      0.00751 ms  convolutions                   0
                                  tpu  matmul    29,194 cycles  rearranging            1,310,720
          C, the input gradient   cpu  matmul         0.833 ms  matrix products        1,310,720
                                  gpu  dilated      0.00751 ms  convolutions                   0
                                  tpu  matmul    30,696 cycles  rearranging            1,310,720
          F, the filter gradient  cpu  matmul         0.843 ms  matrix products        1,310,720
                                  gpu  dilated      0.00751 ms  convolutions                   0
                                  tpu  matmul    30,696 cycles  rearranging            1,310,720
          cpu: as on the two cores that its rates are fitted to; gpu: never measured, and no start of a program is counted;
          tpu: its compiler's estimates for one v5e
          On CPU T, C and F take 2.48 ms, about alike, and 83% of that is matrix products; most of the time is arithmetic, so
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

    with recording() as executed:
        program, _, _ = _jaxprs.traced(call, abstract)
        whole, rows = edited(program)
        ours = {id(each.contracted) for each in executed(program)}
        gathered = _gathered((each, id(each.contracted) in ours) for each in executed(whole))
    if not gathered:
        rule = "function must compute a transposed or strided convolution, of this package or of lax"
        raise error(ValueError, "explain", rule, "function", function, "pass one that does, and its arguments")
    first = gathered[0]
    if len(gathered) == 1 and not rows and first.own and {*first.computed.values(), first.steps} == {1}:
        return _explanation(first.by, given(first.call.dtype), own=True)
    layers = tuple(map(_layer, gathered))
    return Explanations(layers, tuple(row for row in rows if not row.lowerings), _verdict_on(layers, accelerated))


class _Computed(NamedTuple):
    """What computes a contraction of a layer, and by what."""

    call: Call
    lowerings: Mapping[Platform, Name]


class _Gathered(NamedTuple):
    """Contractions of the same three arrays at one place."""

    by: dict[Contraction, _Computed]
    computed: Counter[Contraction]
    own: bool
    names: str
    source: str
    steps: int

    @property
    def call(self) -> Call:
        return next(iter(self.by.values())).call

    @property
    def key(self) -> tuple[Any, ...]:
        """Scopes tell calls of this package apart; lines the rest, for a strided convolution is not the one that mirrors it."""
        call, line = self.call, "" if self.own and self.names else self.source
        geometry = replace(call.geometry, channels_last=True)
        window = call.input_shape, call.filter_shape, call.output_shape, call.dtype, geometry, call.options.implementation
        return *window, self.own, self.names, line, self.steps


def _gathered(found: Iterable[tuple[Executed, bool]]) -> list[_Gathered]:
    seen: dict[Any, _Gathered] = {}

    def add(each: _Gathered) -> None:
        known = seen.setdefault(each.key, each)
        if known is not each:
            known.by.update({contraction: how for contraction, how in each.by.items() if contraction not in known.by})
            known.computed.update(each.computed)

    for each, own in found:
        form, contraction = each.contracted.form, each.contracted.contraction
        x, y = ((each.elements * batch, *rest) for batch, *rest in (form.x.shape, form.y.shape))
        call = Call(x, form.filter_shape, y, np.dtype(form.x.dtype), form.geometry, form.options)
        how = _Computed(call, each.contracted.choices or call.choices(contraction))
        add(_Gathered({contraction: how}, Counter([contraction]), own, *_names_and_source(each.around), each.steps))
    for key, one in list(seen.items()):
        mirrored = _mirrored(one)
        if mirrored is not None and mirrored.key in seen and set(seen[mirrored.key].by) == {"filter_grad"}:
            del seen[key]
            add(mirrored)
    return list(seen.values())


def _mirrored(one: _Gathered) -> _Gathered | None:
    """C of stride 1 as T of another layer: what JAX makes of an ordinary convolution for its input is one as well."""
    if one.own or set(one.by) != {"input_grad"} or {*one.call.geometry.strides} != {1}:
        return None
    call, lowerings = one.by["input_grad"]
    geometry, (*kernel, out, channels) = call.geometry, call.filter_shape
    ends = zip(geometry.effective_kernels, geometry.crops, strict=True)
    crops = tuple((ke - 1 - lo, ke - 1 - hi) for ke, (lo, hi) in ends)
    shape = (*kernel, channels // geometry.groups, out * geometry.groups)
    other = Call(call.output_shape, shape, call.input_shape, call.dtype, replace(geometry, crops=crops), call.options)
    return one._replace(by={"transpose": _Computed(other, lowerings)}, computed=Counter({"transpose": one.computed["input_grad"]}))


def _layer(found: _Gathered) -> Layer:
    by, computed, own, names, source, steps = found
    ordinary = "filter_grad" in by and by["filter_grad"].call.options.ordinary
    convolution = not own and (ordinary or "transpose" not in by or next(iter(by)) == "input_grad")
    return Layer(_explanation(by, tuple(by), own), dict(computed), own, convolution, names, source, steps)


_TRANSFORMATIONS = re.compile(r"\w+\(|\)|\b(?:checkpoint|rematted_computation)\b")


def _names_and_source(around: tuple[Any, ...]) -> tuple[str, str]:
    """The scopes of the user's around a call, whatever transformed them, and the line of it."""
    inside = next(place for place, each in enumerate(around) if str(each.params.get("name", "")).startswith(OWN))
    names = "/".join(str(each.source_info.name_stack) for each in around[: inside + 1])
    return "/".join(filter(None, _TRANSFORMATIONS.sub("", names).split("/"))), _jaxprs.source_of(around[inside])


def _verdict_on(layers: tuple[Layer, ...], accelerated: bool) -> str:
    """What takes the time of a function, whose layers that is, and the verdict on the slowest."""
    whole, count, others = sum(layer.seconds for layer in layers), len(layers), sum(not layer.own for layer in layers)
    number, slowest = max(enumerate(layers, 1), key=lambda each: each[1].seconds)
    how = "accelerate" if accelerated else "jaxdeconv.accelerate(function)"
    computed = {contraction for layer in layers for contraction in layer.computed}
    trained = f" In training, T, C and F would take {milliseconds(sum(layer.trained for layer in layers))} ms."
    trained *= all(layer.is_forward_only for layer in layers)
    if count == 1:
        of_lax = f" The layer is of lax, and {how} computes it in that time." * others
        return f"{slowest.explanation.verdict}{of_lax}{trained}"
    are = "are" if len(computed) > 1 else "is"
    text = f"On CPU {joined(computed)} of all {count} layers {are} estimated to take {milliseconds(whole)} ms"
    text += f", {slowest.seconds / whole:.0%} of it layer {number}."
    if others:
        whose = "All are" if others == count else f"{others} of them {'are' if others > 1 else 'is'}"
        text += f" {whose} of lax, and {how} computes {'them' if others > 1 else 'it'} in that time."
    return f"{text}{trained} Layer {number}: {slowest.explanation.verdict}"


def _explanation(by: Mapping[Contraction, _Computed], judged: Collection[Contraction], own: bool) -> Explanation:
    """Of what computes some contractions; the verdict is on those that are judged."""
    call = next(iter(by.values())).call
    geometry, dtype = call.geometry, call.dtype
    dimensions = dimensions_of(call)
    products = typical(call.input_shape)[0] * math.prod(each.products for each in dimensions) * math.prod(call.filter_shape[-2:])
    each_by = {each: by.get(each) or _Computed(call, call.choices(each)) for each in CONTRACTIONS}
    lowerings = {contraction: each.lowerings for contraction, each in each_by.items()}
    terms = {
        contraction: {platform: estimated(name, contraction, each.call.sizes, platform) for platform, name in each.lowerings.items()}
        for contraction, each in each_by.items()
    }
    temporaries = {
        contraction: {
            platform: largest_temporary(name, contraction, each.call.sizes, platform) for platform, name in each.lowerings.items()
        }
        for contraction, each in each_by.items()
    }
    return Explanation(
        function=call.options.function,
        input_shape=call.input_shape,
        filter_shape=call.filter_shape,
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
        measured={contraction: each.call.measured(contraction) for contraction, each in each_by.items()},
        verdict=verdict_on({each: each_by[each].call for each in judged}, {each: lowerings[each]["cpu"] for each in judged}, own),
        conventions=spelled(call, dimensions),
    )

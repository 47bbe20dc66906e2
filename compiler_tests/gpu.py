"""Programs compiled for GPUs that are not here, and what the compiled text says: calls of cuDNN, matrix products. Runs nothing.

    python -m compiler_tests.gpu [--random N --seed S] [--loop]

Needs the package jax[cuda13], and neither a driver nor a GPU. Which algorithm of cuDNN, or for a matrix product, is used is chosen by
timing them on the GPU, so nothing here says how long anything takes.
"""

import argparse
import functools
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from benchmarks.compare import progress
from benchmarks.layers import LAYERS, Layer, random_layers
from benchmarks.peers import lax_transposed, transposed, with_gradients
from benchmarks.tables import table

CARDS = ("h200", "a100")
FLOPS = 2e9  # the most of a random layer
TRIPS = 3  # of a loop


@functools.cache
def _sharding(card: str) -> NamedSharding:
    plugin = importlib.import_module("jax_plugins.xla_cuda13")
    plugin._check_cuda_versions = lambda **_: None  # it asks the driver, and there is none
    config = (Path(__file__).parent / "data" / f"{card}.txtpb").read_text()
    topology = topologies.get_topology_desc(platform="cuda", topology_name=card, target_config=config, topology="1x1x1")
    return NamedSharding(Mesh(np.array(topology.devices[:1]), ("d",)), jax.P())


def compiled_text(card: str, function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], dtype: str) -> str:
    """The program that XLA makes for one such card of a function of arrays of these shapes."""
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=_sharding(card)) for shape in shapes]
    text: str = jax.jit(function).lower(*arguments).compile(compiler_options={"xla_gpu_autotune_level": 0}).as_text()
    return text


class Instruction(NamedTuple):
    """One line of a program."""

    opcode: str
    dtype: str  # of the result, the first of them if there are several
    operands: tuple[str, ...]
    line: str

    def attribute(self, pattern: str) -> str | None:
        found = re.search(pattern, self.line)
        return found[1] if found else None

    def window(self, name: str) -> tuple[int, ...]:
        """What the window says of each dimension; nothing where that is 1 in all."""
        found = self.attribute(rf"window={{[^}}]*\b{name}=([\dx]+)")
        return tuple(map(int, found.split("x"))) if found else ()

    @property
    def samples(self) -> tuple[int, ...]:
        """Of the result of a convolution, in each dimension."""
        sizes, labels = self.attribute(r" = \w+\[([\d,]*)\]") or "", self.attribute(r"dim_labels=\S*->(\w+)") or ""
        return tuple(int(size) for label, size in sorted(zip(labels, sizes.split(","), strict=True)) if label.isdigit())


class Program:
    """A compiled text, by computation and name."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        for line in text.splitlines():
            if start := re.match(r"(?:ENTRY )?%([\w.\-]+) \(.*\{$", line):
                inside = self.computations[start[1]] = {}
            elif found := re.match(r"\s+(?:ROOT )?%([\w.\-]+) = \(*(\w+)\[.*? ([\w\-]+)\((.*?)\)", line):
                inside[found[1]] = Instruction(found[3], found[2], tuple(re.findall(r"%([\w.\-]+)", found[4])), line)

    def __iter__(self) -> Iterator[tuple[dict[str, Instruction], Instruction]]:
        """Every instruction, with the computation it is in."""
        for computation in self.computations.values():
            for instruction in computation.values():
                yield computation, instruction

    def stuffed(self, computation: dict[str, Instruction], name: str) -> bool:
        """Whether an array has been made, since the last product or call, by a pad that puts zeros between elements."""
        instruction = computation[name]
        fused = self.computations.get(instruction.attribute(r"calls=%([\w.\-]+)") or "", {}).values()
        if any(each.opcode in ("custom-call", "convolution", "dot") for each in (instruction, *fused)):
            return False
        if any(each.opcode == "pad" and re.search(r"padding=\S*\d_-?\d+_[1-9]", each.line) for each in (instruction, *fused)):
            return True
        return any(self.stuffed(computation, operand) for operand in instruction.operands)


class Product(NamedTuple):
    """A convolution or a matrix product, which has no window."""

    kind: str  # the name of cuDNN's function, or "matrix product"
    dtypes: frozenset[str]  # of its operands
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    stuffed: bool  # with zeros between the elements of an operand


_FUSED = {"fprop": "convForward", "dgrad": "convBackwardInput", "wgrad": "convBackwardFilter"}


def _fused(program: Program) -> list[tuple[dict[str, Instruction], Product]]:
    """The convolutions of cuDNN's fusions, and the computation of each.

    They are written as XLA's: strides of gradients are dilations, and the window of the filter's gradient is all of the signal.
    """
    found = []
    for caller, fusion in program:
        if "__cudnn$fusion" not in fusion.line:
            continue
        computation = program.computations[fusion.attribute(r"(?:calls=|called_computations={)%([\w.\-]+)") or ""]
        outside = any(program.stuffed(caller, operand) for operand in fusion.operands)
        for each in computation.values():
            kind = _FUSED.get(each.attribute(r"convolution_kind=(\w+)") or "")
            if kind is None:
                continue
            size, stride, of_lhs, of_rhs = (each.window(name) for name in ("size", "stride", "lhs_dilate", "rhs_dilate"))
            window, strides, dilations, spread = {
                "convForward": (size, stride, of_rhs, of_lhs),
                "convBackwardInput": (size, of_lhs, of_rhs, ()),
                "convBackwardFilter": (each.samples, of_rhs, stride, of_lhs),
            }[kind]
            stuffed = outside or spread != () or any(program.stuffed(computation, operand) for operand in each.operands)
            dtypes = frozenset(computation[operand].dtype for operand in each.operands)
            found.append((computation, Product(kind, dtypes, window, strides, dilations, stuffed)))
    return found


def products(text: str) -> list[Product]:
    """Every convolution and matrix product of a program."""
    program = Program(text)
    fused = _fused(program)
    found = [product for _, product in fused]
    for computation, each in program:
        if each.opcode == "convolution" and any(computation is of_fusion for of_fusion, _ in fused):
            continue
        target = each.attribute(r'custom_call_target="(.*?)"') or ""
        if each.opcode not in ("convolution", "dot") and not re.search("conv|gemm|cublas", target):
            continue
        operands = each.operands[:2]
        dtypes = frozenset(computation[operand].dtype for operand in operands)
        stuffed = "lhs_dilate=" in each.line or any(program.stuffed(computation, operand) for operand in operands)
        if "conv" in each.opcode + target:
            window = [each.window(name) for name in ("size", "stride", "rhs_dilate")]
            found.append(Product(target.removeprefix("__cudnn$") or each.opcode, dtypes, *window, stuffed))
        else:
            found.append(Product("matrix product", dtypes, (), (), (), stuffed))
    return found


_DTYPES = {"float32": "f32", "bfloat16": "bf16"}
_CUDNN = ("convForward", "convBackwardInput", "convBackwardFilter", "convBiasActivationForward")


def faults(text: str, layer: Layer, dtype: str) -> list[str]:
    """A line for each convolution or product that is not one of a transposed convolution and its gradients, or not in this dtype.

    Those of cuDNN have the window, strides and dilations of the layer. A convolution of stride 1 of phases has a smaller window.
    """
    found = []
    for product in products(text):
        if product.kind not in (*_CUDNN, "matrix product"):
            found.append(f"{product.kind} is no call of cuDNN")
        if any(size > k for size, k in zip(product.window, layer.kernel, strict=False)):
            found.append(f"{product.kind} has a window of {product.window} for a filter of {layer.kernel}")
        for name, own, expected in (("strides", product.strides, layer.strides), ("dilations", product.dilations, layer.dilations)):
            if own not in ((), expected):
                found.append(f"{product.kind} has {name} of {own} for those of {expected}")
        if product.stuffed:
            found.append(f"{product.kind} has a zero-stuffed operand")
        if product.dtypes != {_DTYPES[dtype]}:
            found.append(f"{product.kind} has operands of {sorted(product.dtypes)} for {dtype}")
    return found


SHOWN = (
    "hifigan.up2.b16",
    "istft.b1",
    "dcgan.up2.b16",
    "grouped.2d.b8",
    "dla.up.b8",
    "dilated.2d.s2d3.b2",
    "vnet.up3.b2",
    "jax31662.b1",
)


def _described(found: Sequence[Product]) -> str:
    """As "convForward 4x4", for a table."""
    names = [f"{each.kind} {'x'.join(map(str, each.window))}{' stuffed' * each.stuffed}".strip() for each in found]
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in sorted(Counter(names).items())) or "loops"


Function = Callable[[jax.Array, jax.Array], jax.Array]


def looped(function: Function) -> Function:
    """The function of each of several x in turn, and one filter: its gradients are a loop too, which sums the filter's."""
    return lambda x, w: jax.lax.map(lambda each: function(each, w), x)


def looped_shapes(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of what a loop takes: of x and w, and with gradients of y's cotangent."""
    return [shape if index == 1 else (TRIPS, *shape) for index, shape in enumerate(shapes)]


def _faults_of(compiled: Callable[[], str], layer: Layer, dtype: str) -> tuple[list[str], str]:
    """The faults of a program, and what its products are; a program that does not compile has that fault."""
    try:
        text = compiled()
    except jax.errors.JaxRuntimeError as error:
        return [f"does not compile: {str(error).splitlines()[0]}"], "no program"
    return faults(text, layer, dtype), _described(products(text))


def main() -> None:
    """Prints the tables of docs/gpu.md: what the layers become on the first card, by jaxdeconv and by lax with JAX's autodiff."""
    parser = argparse.ArgumentParser(prog="python -m compiler_tests.gpu", description=main.__doc__)
    parser.add_argument("--random", type=int, metavar="N", help="instead of published layers, N random ones")
    parser.add_argument("--seed", type=int, default=0, help="of the random ones (default 0)")
    parser.add_argument("--loop", action="store_true", help="each layer in the body of a loop")
    arguments = parser.parse_args()
    layers = random_layers(arguments.random, arguments.seed, FLOPS) if arguments.random else LAYERS
    inside, shaped = (looped, looped_shapes) if arguments.loop else (lambda function: function, list)
    counts, shown = Counter[tuple[str, str, str]](), []
    for index, layer in enumerate(layers):
        lax_filter = (*layer.kernel, layer.in_channels // layer.groups, layer.out_channels)
        row = [layer.name]
        for name, function, w_shape in (("jaxdeconv", transposed(layer), layer.w_shape), ("lax", lax_transposed(layer), lax_filter)):
            for mode, timed, shapes in (
                ("forward", inside(function), (layer.x_shape, w_shape)),
                ("train", with_gradients(inside(function)), (layer.x_shape, w_shape, layer.y_shape)),
            ):
                for dtype in _DTYPES:
                    found, made = _faults_of(partial(compiled_text, CARDS[0], timed, shaped(shapes), dtype), layer, dtype)
                    counts[name, mode, dtype] += bool(found)
                    if found and name == "jaxdeconv":
                        print(f"{layer}, {mode}, {dtype}: {'; '.join(found)}", flush=True)
            row.append(made)
        if layer.name in SHOWN:
            shown.append(row)
        progress(index, len(layers), layer.name)
    columns = [(mode, dtype) for mode in ("forward", "train") for dtype in _DTYPES]
    rows = [[name, *(f"{counts[name, *column]} of {len(layers)}" for column in columns)] for name in ("jaxdeconv", "lax")]
    print(table(["layers with a fault", *(" ".join(column) for column in columns)], rows), end="\n\n")
    if shown:
        print(table(["train bfloat16", "jaxdeconv", "lax"], shown))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()

"""The command line: `explain`, `bench` and `tune` of one layer, given in any convention by that convention's own argument names."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

import jaxdeconv
from jaxdeconv import _canonicalize as canonicalize
from jaxdeconv._bench import Layer, bench
from jaxdeconv._drawing import drawing

_EXAMPLES = """examples:
  python -m jaxdeconv explain tf --input 1,80,512 --filters 16,256,512 --output-shape 1,640,256 --strides 8
  python -m jaxdeconv explain torch --input 1,512,80 --weight 512,256,16 --stride 8 --padding 4
  python -m jaxdeconv bench keras --inputs 16,16,16,256 --kernel 4,4,128,256 --strides 2 --padding same
  python -m jaxdeconv tune tf --input 1,80,512 --filters 16,256,512 --strides 8 --save tuning.json
"""
_CLONE = "`python -m benchmarks`, of published layers and more frameworks, is part of the repository alone: run it in a clone\n"
_EXIT = """exit status: 0 if all is well, 1 for a layer that the convention rejects or lowerings that disagree, 2 for wrong usage"""
# Not of a layer on a command line: further operands, and what the commands set themselves, as tune does the implementation.
_LEFT_OUT = {"bias", "B", "name", "forward_mode"}


def _function(convention: str, arguments: Mapping[str, Any]) -> Callable[..., jax.Array]:
    """The convention's function; of torch's three the one that the weight's rank asks for."""
    if convention == "torch":
        n = len(arguments["weight"]) - 2 if "weight" in arguments else 1
        return getattr(jaxdeconv.torch, f"conv_transpose{min(max(n, 1), 3)}d")  # type: ignore[no-any-return]
    return getattr(jaxdeconv, convention).conv_transpose  # type: ignore[no-any-return]


def _layout(convention: str, arguments: Mapping[str, Any]) -> str | None:
    """That of the filter, None if its axes are in an order of their own."""
    if convention != "lax":
        return convention
    if arguments.get("dimension_numbers") is not None:
        return None
    return "lax_transpose_kernel" if arguments.get("transpose_kernel") else "lax"


class _Parser(argparse.ArgumentParser):
    """One whose errors say which of its arguments are meant by those of other conventions."""

    names: Sequence[str] = ()  # of the convention's function

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = [] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(message + "".join(_meant(self._given, self.names)))


def _value(text: str) -> Any:
    """A number, a tuple or a list, None, True or False; anything else is the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _shape(text: str) -> tuple[int, ...]:
    value = _value(text)
    sizes = value if isinstance(value, tuple | list) else (value,)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"must be sizes separated by commas, as 1,80,512, and is {text!r}")
    return tuple(sizes)


def _dtype(text: str) -> str:
    try:
        return str(jnp.dtype(text).name)
    except TypeError:
        raise argparse.ArgumentTypeError(f"must be the name of a dtype, as float32, and is {text!r}") from None


def _described(function: Callable[..., Any]) -> dict[str, str]:
    """The first sentence about each argument, from the docstring; that of torch's conv_transpose1d serves all three."""
    documentation = inspect.getdoc(function) or ""  # not __doc__, which from Python 3.13 on is less indented
    block = re.search(r"\nArgs:\n(.*?)\n\n", documentation, re.DOTALL)
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", block[1] if block else "", re.DOTALL | re.MULTILINE)
    return {name: re.split(r"[;.](?:\s|$)", " ".join(text.split()))[0].replace("%", "%%") for name, text in entries}


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Says what a transposed convolution would compute, times it here, or finds what is the fastest here."
    parser = _Parser("python -m jaxdeconv", description=about, epilog=f"{_EXAMPLES}\n{_EXIT}", formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"jaxdeconv {jaxdeconv.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="explain | bench | tune")
    for command, text in {
        "explain": "Prints shapes, crops, what takes the time on each platform, the layer in every other convention, and a drawing.",
        "bench": "Times the layer and its gradients, and each lowering, against lax with autodiff, and torch, on the device here.",
        "tune": "Finds the fastest lowering of the layer and its gradients on the device that JAX finds here, to be used.",
    }.items():
        epilog = "\n".join([_EXAMPLES, *([_CLONE] if command == "bench" else []), _EXIT])
        conventions = commands.add_parser(command, help=text, description=text, epilog=epilog, formatter_class=raw).add_subparsers(
            dest="convention", required=True, metavar="tf | torch | onnx | lax | keras"
        )
        for convention in ("tf", "torch", "onnx", "lax", "keras"):
            function = _function(convention, {})
            described = f"A layer in the convention of jaxdeconv.{convention}.{function.__name__}, whose documentation has more."
            layer = conventions.add_parser(
                convention, help=described, description=described, epilog=_EXIT, formatter_class=raw, allow_abbrev=False
            )
            left_out = _LEFT_OUT | ({"implementation"} if command == "tune" else set())
            layer.names = [name for name in inspect.signature(function).parameters if name not in left_out]
            _add_arguments(layer, function)
            layer.set_defaults(layer=layer)
            if command == "explain":
                layer.add_argument("--json", action="store_true", help="print the fields as JSON, and no drawing")
            else:
                layer.add_argument("--rounds", type=int, default=7, help="samples of each, in alternation, at most (default 7)")
            if command == "tune":
                layer.add_argument("--save", metavar="PATH", help="a file to write what was found to; what it holds already is kept")
                layer.add_argument("--thorough", action="store_true", help="try what is estimated to be slow, too")
    return parser


def _add_arguments(parser: _Parser, function: Callable[..., Any]) -> None:
    """Those of the function, spelt as there; the first two are arrays, of which a shape is given."""
    texts = _described(jaxdeconv.conv1d_transpose if function is jaxdeconv.tf.conv_transpose else function)
    parameters = inspect.signature(function).parameters
    for index, name in enumerate(parser.names):
        parameter = parameters[name]
        flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        if index < 2:
            text = f"shape of {name}: {texts.get(name, '')}"
            parser.add_argument(*flags, dest=name, type=_shape, required=True, metavar="SHAPE", help=text)
        else:
            # What need not be given is left to the function; an output_shape may always be left to it.
            required = parameter.default is inspect.Parameter.empty and name != "output_shape"
            default = None if name == "output_shape" else argparse.SUPPRESS
            parser.add_argument(*flags, dest=name, type=_value, required=required, default=default, metavar="X", help=texts.get(name))
    parser.add_argument("--dtype", type=_dtype, default="float32", help="of the arrays (default float32)")


def _meant(given: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Which flags of a convention, whose names these are, are meant by those of others."""
    for flag in (each.split("=")[0] for each in given if each.startswith("--")):
        name = flag[2:].replace("-", "_")
        alike = next((row for row in canonicalize.ALIKE if name in row and name not in names), ())
        yield from (f"; for {flag} this convention has --{own.replace('_', '-')}" for own in alike if own in names)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, by default the process's own, and returns the exit status."""
    parsed, unknown = _parser().parse_known_args(argv)
    given = vars(parsed)
    layer = given.pop("layer")
    command, convention, dtype = given.pop("command"), given.pop("convention"), given.pop("dtype")
    as_json, rounds = given.pop("json", False), given.pop("rounds", 1)
    path, thorough = given.pop("save", None), given.pop("thorough", False)
    function = _function(convention, given)
    if unknown:
        layer.error(f"unrecognized arguments: {' '.join(unknown)}")
    operands = layer.names[:2]
    keywords = {name: value for name, value in given.items() if name not in operands}
    arrays = [jax.ShapeDtypeStruct(given[name], dtype) for name in operands]  # type: ignore[no-untyped-call]
    try:
        if rounds < 1:
            raise ValueError(f"{command}: rounds must be positive, got rounds={rounds}; pass 7")
        with jax.enable_x64(dtype in ("float64", "int64", "complex128")):
            if command == "tune":
                return _tune(partial(function, **keywords), arrays, path, rounds, thorough)
            explanation = jaxdeconv.explain(function, *arrays, **keywords)
            assert isinstance(explanation, jaxdeconv.Explanation)  # of one call
            if command == "explain":
                print(
                    json.dumps(dataclasses.asdict(explanation)) if as_json else f"{explanation}\n\n{drawing(explanation)}", flush=True
                )
                return 0
            return bench(Layer(function, arrays, keywords, _layout(convention, keywords), explanation), rounds)
    except BrokenPipeError:  # of a reader that has read enough, as head
        sys.stderr.close()
        return 0
    except (ValueError, TypeError, OSError) as rejection:
        print(f"python -m jaxdeconv: error: {rejection}", file=sys.stderr)
        return 1


def _tune(function: Callable[..., jax.Array], arrays: list[Any], path: str | None, rounds: int, thorough: bool) -> int:
    if path and not os.access(folder := os.path.dirname(os.path.abspath(path)), os.W_OK):
        rule = "save must be a path in a folder that can be written to"
        raise ValueError(f"tune: {rule}, got save={path!r}; make the folder {folder}, or pass another path")
    before = jaxdeconv.load_tuning(path) if path and os.path.exists(path) else jaxdeconv.Tuning()  # before much is measured
    tuning = jaxdeconv.tune(function, *arrays, rounds=rounds, thorough=thorough)
    print(tuning)
    if path:
        (before | tuning).save(path)
        print(f"\nwritten to {path}; JAXDECONV_TUNING={path} uses it")
    if any(found.refused for found in tuning.entries.values()):
        print("python -m jaxdeconv: error: the lowerings disagree, or fail", file=sys.stderr)
        return 1
    return 0

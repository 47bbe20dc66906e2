"""The command line: what it prints, its errors and exit statuses; the drawing against the oracle's taps."""

import functools
import json
import random
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import oracle
import pytest

import jaxdeconv
from jaxdeconv._command import main
from jaxdeconv._drawing import drawing


def run(capsys, line):
    """(exit status, standard output, standard error)."""
    try:
        status = main(line.split())
    except SystemExit as leaving:
        status = leaving.code
    return status, *capsys.readouterr()


TORCH = "torch --input 1,2,5 --weight 2,3,3 --stride 2 --padding 1 --output-padding 1"

# Each convention's spelling of one layer: 5 inputs, kernel 4, stride 2, 10 outputs.
ALIKE = [
    "tf --input 1,5,2 --filters 4,3,2 --output-shape 1,10,3 --strides 2",
    "tf --input 1,5,2 --filters 4,3,2 --strides [1,2,1] --padding SAME",
    "torch --input 1,2,5 --weight 2,3,4 --stride 2 --padding 1",
    "torch --input 2,5 --weight 2,3,4 --stride 2 --padding 1",
    "onnx --X 1,2,5 --W 2,3,4 --strides [2] --pads [1,1]",
    "lax --lhs 1,5,2 --rhs 4,2,3 --strides [2] --padding [(2,2)]",
    "lax --lhs 1,5,2 --rhs 4,3,2 --strides 2 --padding SAME --transpose_kernel True",
    "keras --inputs 1,5,2 --kernel 4,3,2 --strides 2 --padding same",
]


@pytest.mark.parametrize("layer", ALIKE)
def test_explain_in_every_convention(layer, capsys):
    status, out, err = run(capsys, f"explain {layer}")
    assert (status, err) == (0, "")
    assert "crops (low, high)   (1, 1)" in out
    assert "torch  padding=(1,), output_padding=(0,)" in out
    assert out.endswith(
        "width: 5 inputs, kernel 4, stride 2, dilation 1, 10 outputs\n"
        "  x[0] |0123\n  x[1] |  0123\n  x[2] |    0123\n  x[3] |      0123\n  x[4] |        0123\n"
        "  y    |x==========x\n       | 0\n"
    )


def test_explain_is_explain(capsys):
    x, w = jax.ShapeDtypeStruct((1, 2, 5), "bfloat16"), jax.ShapeDtypeStruct((2, 3, 3), "bfloat16")
    expected = jaxdeconv.explain(jaxdeconv.torch.conv_transpose1d, x, w, None, 2, 1, 1)
    assert run(capsys, f"explain {TORCH} --dtype bfloat16") == (0, f"{expected}\n\n{drawing(expected)}\n", "")
    status, out, _ = run(capsys, f"explain {TORCH} --dtype bfloat16 --json")
    assert status == 0
    assert json.loads(out)["crops"] == [[1, 0]]
    assert json.loads(out)["lowerings"] == expected.lowerings


def test_two_dimensions_and_groups(capsys):
    _, out, _ = run(capsys, "explain torch --input 1,4,5,3 --weight 4,3,4,2 --stride (2,3) --groups 2")
    assert "[4, 2, 3, 4], 2 groups" in out
    assert re.findall(r"^(\w+): (\d+) inputs", out, re.MULTILINE) == [("height", "5"), ("width", "3")]


def test_every_tap_is_drawn_where_it_lands():
    for seed in range(40):
        draw = random.Random(seed)
        size, k, s, d = draw.randint(1, 9), draw.randint(1, 5), draw.randint(1, 4), draw.randint(1, 3)
        lo, hi = draw.randint(-3, 4), draw.randint(-3, 4)
        full = (size - 1) * s + (k - 1) * d + 1
        if full - lo - hi < 1:
            continue
        x, w = jnp.ones((1, size, 1)), jnp.ones((k, 1, 1))
        pads = [((k - 1) * d - lo, (k - 1) * d - hi)]
        text = drawing(jaxdeconv.explain(jaxdeconv.lax.conv_transpose, x, w, (s,), pads, (d,)))
        rows = [line.split("|", 1)[1] for line in text.splitlines()[1 : size + 2]]
        length, start = full - lo - hi, min(0, lo)
        drawn = {(n, int(tap), column + start - lo) for n in range(size) for column, tap in enumerate(rows[n]) if tap != " "}
        everything = range(-lo - 5, full + 5)
        landing = oracle._taps((size,), (k,), (s,), (d,), (lo + everything[0],), (len(everything),))
        assert drawn == {(n[0], j[0], m[0] + everything[0]) for n, j, m in landing}
        reached = {m for _, _, m in drawn}
        fate = rows[size]
        assert {column + start - lo for column, what in enumerate(fate) if what in "=0"} == set(range(length))
        assert {column + start - lo for column, what in enumerate(fate) if what in "=x"} == reached
        assert fate.count("=") == len(reached & set(range(length)))


def test_a_large_layer_is_cut_and_says_so(capsys):
    _, out, _ = run(capsys, "explain tf --input 1,80,2 --filters 40,3,2 --strides 20")
    assert out.endswith("  not shown: inputs 5 to 79 and the last 1524 columns\n")
    assert max(map(len, out[out.index("width:") :].splitlines())) <= 110
    assert "#" in out  # taps past the thirty-sixth


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("", 2, "the following arguments are required: explain | bench"),
        ("explain", 2, "the following arguments are required: tf | torch | onnx | lax | keras"),
        ("explain jax", 2, "invalid choice: 'jax'"),
        ("explain tf --filters 4,3,2 --strides 2", 2, "the following arguments are required: --input"),
        ("explain tf --input 1,5,2 --filters 4,3,2", 2, "the following arguments are required: --strides"),
        ("explain tf --input 1,a,2 --filters 4,3,2 --strides 2", 2, "argument --input: must be sizes separated by commas, as 1,80,512, and is '1,a,2'"),
        ("explain tf --input 1,5,-2 --filters 4,3,2 --strides 2", 2, "must be sizes separated by commas"),
        ("explain tf --input 1,5,2 --filters 4,3,2 --strides 2 --dtype float31", 2, "argument --dtype: must be the name of a dtype, as float32, and is 'float31'"),
        ("explain tf --input 1,5,2 --filters 4,3,2 --strides 2 --stride 3 --json extra", 2, "unrecognized arguments"),
        ("explain tf --input 1,5,2 --filters 4,3,2 --strides 2 --output-shape 1,12,3", 1, "conv_transpose: under padding='SAME' an input of size 5"),
        ("explain torch --input 1,3,5 --weight 2,3,4", 1, "conv_transpose1d: axis 1 of input"),
        ("explain torch --input 1,2,5 --weight 2,3", 1, "conv_transpose1d: weight must have rank 3"),
        ("explain torch --input 1,2,5 --weight 2,3,4 --dtype uint8", 1, "conv_transpose1d: the dtype of input must be one of"),
        ("bench torch --input 1,2,5 --weight 2,3,4 --rounds 0", 1, "bench: rounds must be positive, got rounds=0; pass 7"),
        ("bench torch --input 1,2,5 --weight 2,3,4 --rounds x", 2, "argument --rounds: invalid int value: 'x'"),
    ],
)  # fmt: skip
def test_errors(line, status, message, capsys):
    found, out, err = run(capsys, line)
    assert (found, out) == (status, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", ["--help", "explain --help", "explain torch --help", "bench lax --help"])
def test_help(line, capsys):
    status, out, _ = run(capsys, line)
    assert status == 0
    assert "exit status" in out
    assert "--weight SHAPE" in out or "torch" not in line


def test_the_examples_of_the_help_run(capsys):
    _, out, _ = run(capsys, "--help")
    lines = re.findall(r"^  python -m jaxdeconv (.*)$", out, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert run(capsys, re.sub("^(bench|tune)", "explain", line.removesuffix(" --save tuning.json")))[0] == 0


def test_bench(capsys):
    status, out, err = run(capsys, f"bench {TORCH} --rounds 1")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert {"chosen", "dilated", "matmul", "polyphase", "elementwise", "lax"} <= rows.keys()
    assert "for one input and one output channel a group" in rows["elementwise"]
    assert re.fullmatch(r"lax +[\d.e-]+ +1x +[\d.e-]+ +1x", rows["lax"])
    assert "largest difference from lax" in out


def test_bench_says_where_lowerings_disagree(capsys, monkeypatch):
    from jaxdeconv import torch

    right = torch.conv_transpose1d

    @functools.wraps(right)
    def wrong(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, *, implementation=None, **more):
        y = right(input, weight, bias, stride, padding, output_padding, groups, dilation, implementation=implementation, **more)
        return y * 1.01 if implementation == "matmul" else y

    monkeypatch.setattr(torch, "conv_transpose1d", wrong)
    status, _, err = run(capsys, f"bench {TORCH} --rounds 1")
    assert (status, err) == (1, "python -m jaxdeconv: error: the lowerings disagree\n")


def test_integers_have_no_gradients_to_time(capsys):
    status, out, _ = run(capsys, "bench keras --inputs 1,5,2 --kernel 3,2,2 --dtype int32 --rounds 1")
    assert status == 0
    assert re.search(r"^lax +[\d.e-]+ +1x$", out, re.MULTILINE)


MEANT = [
    (
        "torch --input 1,2,5 --weight 2,3,3 --strides 2",
        "unrecognized arguments: --strides 2; for --strides this convention has --stride",
    ),
    ("torch --input 1,2,5 --weight 2,3,3 --dilations=2", "; for --dilations this convention has --dilation"),
    (
        "tf --input 1,5,2 --filters 3,3,2 --stride 2 --strides 2 --dilation-rate 2",
        "; for --dilation-rate this convention has --dilations",
    ),
    (
        "keras --inputs 1,5,2 --kernel 3,3,2 --feature-group-count 1 --dilations 2",
        "; for --dilations this convention has --dilation-rate",
    ),
    (
        "onnx --X 1,2,5 --W 2,3,3 --groups 1 --padding 1,1",
        "; for --groups this convention has --group; for --padding this convention has --pads",
    ),
    ("torch --input 1,2,5 --weight 2,3,3 --output-shape 1,3,7", "; for --output-shape this convention has --output-size"),
    (
        "lax --lhs 1,5,2 --rhs 3,2,2 --stride 2 --strides 2 --padding SAME --groups=2",
        "; for --groups this convention has --feature-group-count",
    ),
    ("torch --input 1,2,5 --weight 2,3,3 --xyz 1", "unrecognized arguments: --xyz 1"),
]


@pytest.mark.parametrize(("layer", "message"), MEANT)
def test_the_flag_that_is_meant(layer, message, capsys):
    status, out, err = run(capsys, f"explain {layer}")
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith(f"usage: python -m jaxdeconv explain {layer.split()[0]} ")


def test_as_a_process():
    def process(*arguments):
        return subprocess.run([sys.executable, "-m", "jaxdeconv", *arguments], capture_output=True, text=True)

    assert process("--version").stdout == f"jaxdeconv {jaxdeconv.__version__}\n"
    failed = process("explain", "torch", "--input", "1,2,5", "--weight", "2,3")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("python -m jaxdeconv: error: conv_transpose1d: weight must have rank 3")
    assert failed.stderr.count("\n") == 1

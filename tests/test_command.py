"""The command line: what it prints, its errors and exit statuses; the drawing against the oracle's taps."""

import functools
import importlib.util
import inspect
import json
import random
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxdeconv
from jaxdeconv import _bench, _drawing
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


def test_dimensions_that_are_alike_are_drawn_once(capsys):
    _, out, _ = run(capsys, "explain torch --input 1,4,5,5 --weight 4,3,4,4 --stride 2")
    assert re.findall(r"^([\w, ]+): (\d+) inputs", out, re.MULTILINE) == [("height, width", "5")]
    _, out, _ = run(capsys, "explain torch --input 1,4,5,3,5 --weight 4,3,4,4,4 --stride 2")
    assert re.findall(r"^([\w, ]+): (\d+) inputs", out, re.MULTILINE) == [("depth, width", "5"), ("height", "3")]


def test_every_tap_is_drawn_where_it_lands(monkeypatch):
    monkeypatch.setattr(_drawing, "_ROWS", 9)
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


def test_the_largest_stride_is_drawn(capsys):
    """In as many steps as are shown, not as there are outputs."""
    status, out, _ = run(capsys, f"explain tf --input 1,8,2 --filters 3,2,2 --strides {2**31 - 1}")
    assert status == 0
    assert "  x[0] |012\n  y    |===\n       |0\n  not shown: inputs 1 to 7 and the last 17179869173 columns" in out


def test_a_large_layer_is_cut_and_says_so(capsys):
    _, out, _ = run(capsys, "explain tf --input 1,80,2 --filters 40,3,2 --strides 20")
    assert out.endswith("  not shown: inputs 4 to 79 and the last 1556 columns\n")
    assert max(map(len, out[out.index("width:") :].splitlines())) <= 78
    assert "#" in out  # taps past the thirty-sixth
    _, out, _ = run(capsys, "explain tf --input 1,80,2 --filters 4,3,2 --strides 2")
    assert out.endswith(
        "  x[5] |          0123\n  y    |x=============\n       | 0         10\n  not shown: inputs 6 to 79 and the last 148 columns\n"
    )


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
        ("tune tf --input 0,8,2 --filters 3,2,2 --strides 2", 1, "tune: function must compute a transposed convolution that has something to compute, and all are empty"),
        ("bench torch --input 1,2,5 --weight 2,3,4 --rounds 0", 1, "bench: rounds must be positive, got rounds=0; pass 7"),
        ("bench torch --input 1,2,5 --weight 2,3,4 --rounds x", 2, "argument --rounds: invalid int value: 'x'"),
    ],
)  # fmt: skip
def test_errors(line, status, message, capsys):
    found, out, err = run(capsys, line)
    assert (found, out) == (status, "")
    assert message in err
    assert "Traceback" not in err


def test_a_lowering_can_be_named(capsys):
    status, out, err = run(capsys, "explain tf --input 1,5,2 --filters 4,3,2 --strides 2 --implementation phase")
    assert (status, out, "conv_transpose: implementation must be" in err) == (1, "", True)
    status, out, _ = run(capsys, "explain tf --input 1,5,4,2 --filters 4,4,3,2 --strides 2 --implementation phases,dilated")
    assert (status, out.count(" cpu  phases,dilated ")) == (0, 3)
    status, out, _ = run(capsys, f"bench {TORCH} --rounds 1 --implementation polyphase")
    assert status == 0
    assert "chosen: T polyphase, C polyphase, F polyphase" in out
    status, _, err = run(capsys, f"tune {TORCH} --implementation polyphase")
    assert (status, "unrecognized arguments: --implementation polyphase" in err) == (2, True)


def test_the_help_of_tf_has_texts_of_its_own(capsys):
    _, out, _ = run(capsys, "explain tf --help")
    assert "as for the function" not in out
    assert "see there" not in out
    assert "an int or a list, tuple or array of length 1 or 3" in " ".join(out.split())


def test_the_spatial_sizes_alone_are_no_output_shape(capsys):
    _, _, err = run(capsys, "explain tf --input 1,80,512 --filters 16,256,512 --strides 8 --output-shape 640")
    assert "got output_shape=(640,); pass all of its sizes, [batch, 640, channels], or None" in err
    assert "lax" not in err


@pytest.mark.parametrize("line", ["--help", "explain --help", "explain torch --help", "bench --help", "bench lax --help"])
def test_help(line, capsys):
    status, out, _ = run(capsys, line)
    assert status == 0
    assert "exit status" in out
    assert "--weight SHAPE" in out or "torch" not in line
    assert ("`python -m benchmarks`" in out) == (line == "bench --help")


def test_the_examples_of_the_help_run(capsys):
    _, out, _ = run(capsys, "--help")
    lines = re.findall(r"^  python -m jaxdeconv (.*)$", out, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert run(capsys, re.sub("^(bench|tune)", "explain", line.removesuffix(" --save tuning.json")))[0] == 0


def test_bench(capsys):
    status, out, err = run(capsys, f"bench {TORCH} --rounds 1")
    assert status == 0
    assert {"bench: jaxdeconv", "bench: polyphase", "bench: lax with autodiff", "bench: in alternation"} <= set(err.splitlines())
    rows = {line[2:21].strip(): line for line in out.splitlines() if line.startswith("  ")}
    assert rows["ms"].split() == ["ms", "T", "C", "F", "step", "in", "a", "scan"]
    assert {"jaxdeconv", "dilated", "matmul", "polyphase", "lax with autodiff"} <= rows.keys()
    number = r"[\d.e-]+"
    assert re.fullmatch(rf"  jaxdeconv( +{number}){{5}}", rows["jaxdeconv"])
    assert re.fullmatch(rf"  lax with autodiff( +{number} +{number}x){{5}}", rows["lax with autodiff"])
    assert re.fullmatch(rf"  matmul +{number} +1x( +{number} +{number}x){{2}}( +-){{2}}", rows["matmul"])  # as chosen
    assert "elementwise" not in out
    assert ("torch takes " in out) == ("torch is not installed" not in out) == (importlib.util.find_spec("torch") is not None)
    assert re.search(
        rf"^A step takes {number} ms: lax with autodiff takes {number}x as long, and {number}x in a scan", out, re.MULTILINE
    )
    assert "The results differ by at most " in out


@pytest.mark.parametrize(
    "layer", [*ALIKE, "lax --lhs 1,2,5 --rhs 3,2,4 --strides 2 --padding VALID --dimension_numbers ('NCH','OIH','NCH')"]
)
def test_bench_compares_in_every_layout(layer, capsys, monkeypatch):
    """With lax too, unless axes are in an order of their own."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    compared = []
    right = _bench.difference
    monkeypatch.setattr(_bench, "difference", lambda *both: compared.append(right(*both)) or compared[-1])
    status, out, _ = run(capsys, f"bench {layer} --rounds 1")
    assert (status, max(compared) < 1e-5) == (0, True)
    assert len(compared) >= 3 + 3 * ("dimension_numbers" not in layer)
    assert "torch is not installed" in out


def test_bench_of_torch_has_the_window_of_the_layer(capsys):
    """Also where torch would have to slice it out of more."""
    pytest.importorskip("torch")
    for line in [
        TORCH,
        "tf --input 1,5,2 --filters 3,3,2 --output-shape 1,10,3 --strides 2",
        "tf --input 1,5,4,6 --filters 3,4,2,6 --strides 2 --output-shape 1,9,8,6 --groups 3",
        "lax --lhs 1,4,4,4,6 --rhs 3,3,3,2,6 --strides 2 --padding [(1,2),(2,1),(2,2)] --feature_group_count 3",
    ]:
        given = main_arguments(line)
        explanation = jaxdeconv.explain(*given[:1], *given[1], **given[2])
        runs = _bench._torch(_bench.Layer(*given, None, explanation), "cpu")
        y, dx, dw = runs["T"](), *runs["C"](), *runs["F"]()
        space = explanation.output_shape[1:-1] if explanation.channels_last else explanation.output_shape[2:]
        assert tuple(y.shape[2:]) == space
        assert dx.numel() == np.prod(explanation.input_shape)
        assert dw.numel() == np.prod(explanation.filter_shape)
        assert [each.shape for each in runs["step"]()] == [dx.shape, dw.shape]
    stretched = jaxdeconv.explain(jaxdeconv.lax.conv_transpose, jnp.ones((1, 5, 2)), jnp.ones((3, 2, 2)), (2,), [(4, 4)])
    assert _bench._torch(_bench.Layer(None, [], {}, None, stretched), "cpu") == "torch pads no output with zeros"
    assert _bench._torch(_bench.Layer(None, [], {}, None, stretched), "gpu").startswith("torch is timed on CPU")


def main_arguments(line):
    """The function of a command line, its operands' types and its other arguments."""
    from jaxdeconv import _command

    given = vars(_command._parser().parse_args(["bench", *line.split()]))
    convention = given["convention"]
    for name in ("command", "convention", "dtype", "rounds", "layer"):
        given.pop(name)
    function = _command._function(convention, given)
    first, second = list(inspect.signature(function).parameters)[:2]
    shapes = given.pop(first), given.pop(second)
    return function, [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes], given


OURS = {("jaxdeconv", "T"): 1.0, ("jaxdeconv", "C"): 2.0, ("jaxdeconv", "F"): 3.0, ("jaxdeconv", "step"): 4.0}
CHOSEN = {"T": "matmul", "C": "matmul", "F": "matmul"}


def verdict(seconds, ranges=None):
    return _bench._verdict(seconds, CHOSEN, {key: (taken, taken) for key, taken in seconds.items()} | (ranges or {}))


def test_verdict_of_bench():
    lax = {("lax with autodiff", "step"): 146.8}
    said = "A step takes 4000 ms: lax with autodiff takes 36.7x as long"
    alone = verdict(OURS | lax)
    assert alone == f"{said}.\nNo lowering by name is much faster than what is chosen."
    scanned = lax | {("lax with autodiff", "in a scan"): 500.0, ("jaxdeconv", "in a scan"): 5.0, ("torch", "step"): 3.0}
    assert verdict(OURS | scanned).startswith(f"{said}, and 100x in a scan; torch takes 0.75x as long.\n")
    near = {
        ("polyphase", "T"): 0.95,
        ("polyphase", "C"): 1.9,
        ("dilated", "F"): 2.9,
        ("lax with autodiff", "F"): 0.1,
        ("torch", "F"): 0.1,
    }
    assert verdict(OURS | lax | near) == alone
    faster = near | {("dilated", "F"): 1.5, ("polyphase", "C"): 1.6}
    assert verdict(OURS | lax | faster) == (
        f"{said}.\nC by polyphase is 1.25x as fast, F by dilated is 2x as fast: "
        "`python -m jaxdeconv tune`, with --save, has the fastest chosen."
    )
    ranges = {
        ("jaxdeconv", "C"): (1.5, 2.1),
        ("polyphase", "C"): (1.0, 1.6),
        ("jaxdeconv", "F"): (2.9, 3.1),
        ("dilated", "F"): (1.4, 1.5),
    }
    assert verdict(OURS | lax | faster, ranges) == (
        f"{said}.\nF by dilated is 2x as fast: `python -m jaxdeconv tune`, with --save, has the fastest chosen.\n"
        "C by polyphase is the same within the noise."
    )
    assert verdict(OURS | lax | {("polyphase", "C"): 1.6}, ranges) == (
        f"{said}.\nNo lowering by name is faster than what is chosen: C by polyphase is the same within the noise."
    )
    integers = {("jaxdeconv", "T"): 1.0, ("lax with autodiff", "T"): 2.0}
    assert verdict(integers).startswith("The output takes 1000 ms: lax with autodiff takes 2x as long.")


def test_bench_leaves_out_what_is_slow(capsys, monkeypatch):
    """Lowerings by estimate, the scan by what a step took; and rounds when time is up."""
    monkeypatch.setattr(_bench, "LOOPED", 0.0)
    monkeypatch.setattr(_bench, "FAR", 1.0)
    begun = []
    monkeypatch.setattr(
        _bench, "samples", lambda runs, rounds, budget: begun.append((set(runs), rounds, budget)) or {key: [1.0] for key in runs}
    )
    status, out, _ = run(capsys, "bench keras --inputs 1,50,2 --kernel 9,2,2 --strides 2 --rounds 3")
    assert status == 0
    assert "lax with autodiff is not timed in a scan: a step takes more than 0 ms" in out
    assert "is not timed: it is estimated to take more than 1.0x as long" in out
    (runs, rounds, budget), *_ = begun
    assert (rounds, budget) == (3, _bench.BUDGET)
    assert {("jaxdeconv", "T"), ("lax with autodiff", "step")} <= runs
    assert ("lax with autodiff", "in a scan") not in runs
    monkeypatch.setattr(_bench, "SLOW", 0.0)
    monkeypatch.setattr(_bench, "LOOPED", 9.0)
    begun.clear()
    status, out, _ = run(capsys, "bench keras --inputs 1,50,2 --kernel 9,2,2 --strides 2 --rounds 3")
    assert (status, begun[0][0]) == (0, set())
    assert "not timed in a scan" not in out


def test_bench_says_where_lowerings_disagree(capsys, monkeypatch):
    from jaxdeconv import torch

    right = torch.conv_transpose1d

    @functools.wraps(right)
    def wrong(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, *, implementation=None, **more):
        y = right(input, weight, bias, stride, padding, output_padding, groups, dilation, implementation=implementation, **more)
        return y * 1.01 if implementation == "polyphase" else y

    monkeypatch.setattr(torch, "conv_transpose1d", wrong)
    status, _, err = run(capsys, f"bench {TORCH} --rounds 1")
    assert (status, err.splitlines()[-1]) == (1, "python -m jaxdeconv: error: the lowerings disagree")


def test_integers_have_no_gradients_to_time(capsys):
    status, out, _ = run(capsys, "bench keras --inputs 1,5,2 --kernel 3,2,2 --dtype int32 --rounds 1")
    assert status == 0
    assert re.search(r"^  lax with autodiff +[\d.e-]+ +[\d.e-]+x$", out, re.MULTILINE)


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
    (
        "tf --input 1,80,512 --weight 16,256,512 --strides 8",
        "the following arguments are required: --filters; for --weight this convention has --filters\n",
    ),
    ("keras --input 1,5,2 --kernel 3,3,2", "are required: --inputs; for --input this convention has --inputs\n"),
    ("onnx --input 1,2,5 --filters=2,3,3", "; for --input this convention has --X; for --filters this convention has --W\n"),
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


def test_flags_are_not_abbreviated(capsys):
    """torch's --stride is none of TensorFlow's, though one of these begins so."""
    status, _, err = run(capsys, "explain tf --input 1,5,2 --filters 4,3,2 --stride 2")
    assert status == 2
    assert "--stride" in err
    assert "--strides" in err

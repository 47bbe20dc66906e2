"""Writes torch.npz, beside this file: PyTorch's own answers, which test_torch.py replays.

Run it with PyTorch installed: python tests/data/record_torch.py

Stored as tests/recorded.py says. What each case holds besides its arrays: `ndim`, 1 to 3; `arguments`, those of
torch.nn.functional.conv_transposeNd after bias, in torch's order; `tuples`, whether lists among them were passed as tuples;
`positional`, whether they were passed, bias with them, by position.
"""

import sys
from pathlib import Path

import numpy as np

COUNTS = {1: 100, 2: 50, 3: 30}
ORDER = ("stride", "padding", "output_padding", "groups", "dilation")
DEFAULTS = dict(zip(ORDER, (1, 0, 0, 1, 1), strict=True))
CHANNELS = ((1, 1, 1), (3, 2, 1), (4, 2, 2), (2, 6, 2), (6, 3, 3), (3, 3, 3), (2, 4, 2))  # in, out, groups; the last two depthwise
LIMITS = {1: (6, 5, 5, 3), 2: (4, 3, 3, 3), 3: (3, 3, 2, 2)}  # the largest size, kernel, stride and dilation


def draw_case(rng, n):
    """Shapes of the operands and of the output, and the arguments, at random; every output size is at least 1."""

    def several(low, high):
        """One integer per dimension, or one for all."""
        return [int(rng.integers(low, high + 1))] * n if rng.random() < 0.4 else rng.integers(low, high + 1, n).tolist()

    def form(values):
        """As an int or a list of length 1, where that says the same, or of length n."""
        same = len(set(values)) == 1
        return [values, values[:1], values[0]][rng.integers(3 if same else 1)]

    largest, *limits = LIMITS[n]
    in_channels, out_channels, groups = CHANNELS[rng.integers(len(CHANNELS))]
    sizes = several(1, largest)
    kernel, stride, dilation = (several(1, limit) for limit in limits)
    output_padding = [int(rng.integers(max(s, d))) for s, d in zip(stride, dilation, strict=True)]
    if rng.random() < 0.3:
        output_padding = [min(output_padding)] * n
    room = [
        (size - 1) * s + (k - 1) * d + op for size, k, s, d, op in zip(sizes, kernel, stride, dilation, output_padding, strict=True)
    ]
    padding = [int(rng.integers(min(most // 2, 4) + 1)) for most in room]
    if rng.random() < 0.3:
        padding = [min(padding)] * n
    lengths = [most + 1 - 2 * p for most, p in zip(room, padding, strict=True)]
    batch = [[], [0], [1], [2], [2], [2]][rng.integers(6)]
    arguments = {
        "stride": form(stride),
        "padding": form(padding),
        "output_padding": form(output_padding),
        "groups": groups,
        "dilation": form(dilation),
    }
    positional = bool(rng.random() < 0.3)
    if not positional:
        arguments = {name: value for name, value in arguments.items() if value != DEFAULTS[name] or rng.random() < 0.3}
    shapes = {"x": [*batch, in_channels, *sizes], "w": [in_channels, out_channels // groups, *kernel]}
    if rng.random() < 0.5:
        shapes["b"] = [out_channels]
    shapes["g"] = [*batch, out_channels, *lengths]
    return {"ndim": n, "arguments": arguments, "tuples": bool(rng.random() < 0.5), "positional": positional}, shapes


def call(function, case, x, w, b=None):
    """function(x, w, ...) with the arguments in the form that the case says."""
    arguments = case["arguments"]
    if case["tuples"]:
        arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    if case["positional"]:
        return function(x, w, b, *arguments.values())
    return function(x, w, **arguments) if b is None else function(x, w, bias=b, **arguments)


def answer(case, x, w, b=None, g=None, dtype="float64"):
    """PyTorch's y, dx, dw and, with a bias, db, as numpy arrays."""
    import torch  # here, because pytest's search for doctests imports this file where there is none

    function = getattr(torch.nn.functional, f"conv_transpose{case['ndim']}d")
    operands = [torch.tensor(each, dtype=getattr(torch, dtype), requires_grad=True) for each in (x, w, b) if each is not None]
    y = call(function, case, *operands)
    gradients = torch.autograd.grad(y, operands, torch.tensor(g, dtype=y.dtype))
    return dict(zip(("y", "dx", "dw", "db"), (each.detach().numpy() for each in (y, *gradients)), strict=False))


def main():
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import recorded
    import torch

    rng = np.random.default_rng(0)
    cases = []
    for n, count in COUNTS.items():
        for _ in range(count):
            case, shapes = draw_case(rng, n)
            operands = {name: rng.integers(-3, 4, shape) for name, shape in shapes.items()}
            answers = answer(case, **operands)
            # float32 is computed by oneDNN and float64 by PyTorch's own kernels.
            assert all(map(np.array_equal, answers.values(), answer(case, **operands, dtype="float32").values())), case
            assert list(answers["y"].shape) == shapes["g"], case
            cases.append({**case, "arrays": operands | answers})
    recorded.save("torch", cases, torch_version=torch.__version__, numpy_version=np.__version__)
    path = recorded.DATA / "torch.npz"
    print(f"{len(cases)} cases of PyTorch {torch.__version__}: {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

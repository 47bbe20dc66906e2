"""Time per chunk of a causal stream: `python -m benchmarks.streaming`.

"step" is jaxdeconv.streaming. "context" is the naive way: the chunk and as many earlier inputs as reach into its outputs go through
the whole op, whose last W*s samples are kept; once with jaxdeconv, once with lax. "torch" adds the overlap by hand, as codecs do.
A column "expected" has the context's arithmetic over that of a step, (W + context) / W.
"""

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.layers import LAYERS, Layer
from benchmarks.peers import lax_transposed, missing, operands, transposed
from benchmarks.tables import digits, milliseconds, ratio, table
from benchmarks.timing import alternate, medians
from jaxdeconv import streaming

NAMES = ("encodec.up1.b1", "encodec.up4.b1", "mimi.up1.b1", "mimi.up3.b1")
CHUNKS = (1, 4, 16, 64)


def build(layer: Layer, torch: Any) -> tuple[dict[str, Callable[[], Any]], float]:
    """Callables that compute one chunk, as long as the layer's input, amid a stream; and what to expect of the context."""
    (width,), (k,), (s,) = layer.size, layer.kernel, layer.strides
    context = -(-(k - 1) // s)
    whole = layer._replace(size=(context + width,), padding=((context * s, k - s),))
    x, w, _ = operands(whole)
    earlier, chunk, filters = jnp.asarray(x[:, :context]), jnp.asarray(x[:, context:]), jnp.asarray(w)
    state, _ = streaming.step(streaming.init(filters, s), earlier, filters)
    step, ours, lax = jax.jit(streaming.step), jax.jit(transposed(whole)), jax.jit(lax_transposed(whole))
    both, flipped = jnp.asarray(x), jnp.asarray(np.flip(w, 0).swapaxes(1, 2).copy())
    callables = {
        "step": lambda: jax.block_until_ready(step(state, chunk, filters))[1],
        "context": lambda: ours(both, filters).block_until_ready(),
        "lax context": lambda: lax(both, flipped).block_until_ready(),
    }
    expected = callables["context"]()
    if torch is not None:
        tchunk, tw = torch.from_numpy(x[:, context:]).mT.contiguous(), torch.from_numpy(w).permute(2, 1, 0).contiguous()
        pending = torch.from_numpy(np.array(state.pending)).mT.contiguous()

        def by_hand() -> Any:
            with torch.inference_mode():
                y = torch.nn.functional.conv_transpose1d(tchunk, tw, stride=s)
                y[..., : k - s] += pending
                return y[..., : width * s], y[..., width * s :].clone()

        callables["torch"] = by_hand
        np.testing.assert_allclose(by_hand()[0].mT.numpy(), expected, atol=1e-3)
    for name in ("step", "lax context"):
        np.testing.assert_allclose(callables[name](), expected, atol=1e-3)
    return callables, (width + context) / width


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7, help="samples of each (default 7)")
    rounds = parser.parse_args().rounds
    torch = None if missing("torch") or jax.default_backend() != "cpu" else importlib.import_module("torch")
    others = ("context", "lax context", "torch")
    compared = [each for way in others for each in (f"{way} ms", f"{way} / step")]
    headers = ["layer (in, out, kernel, stride)", "chunk", "step ms", *compared]
    rows = []
    for name in NAMES:
        for width in CHUNKS:
            layer = next(layer for layer in LAYERS if layer.name == name)._replace(size=(width,))
            callables, expected = build(layer, torch)
            seconds = medians(alternate(callables, rounds))
            label = f"{name} ({layer.in_channels}, {layer.out_channels}, {layer.kernel[0]}, {layer.strides[0]})"
            times = [seconds.get(each) for each in others]
            compared = [cell for each in times for cell in (milliseconds(each), ratio(each and each / seconds["step"]))]
            rows.append([label, str(width), milliseconds(seconds["step"]), *compared, digits(expected)])
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}\n")
    print(table([*headers, "expected"], rows))


if __name__ == "__main__":
    main()

"""The gap the library exists for: T and its two gradients, ours against JAX's own autodiff, on layers of published models.

Run with `python -m benchmarks.gradients`. All functions are compiled first, then timed in alternation within this process; medians.
The machine's noise is in the milliseconds, so read the ratios.
"""

import argparse
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdeconv

# name: batch, width, in, out, kernel, stride
LAYERS = {
    "HiFi-GAN V1 upsampler 1": (1, 80, 512, 256, 16, 8),
    "HiFi-GAN V1 upsampler 2": (1, 640, 256, 128, 16, 8),
    "HiFi-GAN V1 upsampler 3, batch 16": (16, 2048, 128, 64, 4, 2),
    "EnCodec 24 kHz decoder 2": (1, 600, 256, 128, 10, 5),
    "k5 s2, batch 16": (16, 256, 256, 256, 5, 2),
}


def functions(batch, width, in_channels, out_channels, kernel, stride):
    """Name to (compiled function, arguments)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((batch, width, in_channels)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((kernel, out_channels, in_channels)), jnp.float32)
    g = jnp.asarray(rng.standard_normal((batch, width * stride, out_channels)), jnp.float32)

    def op(forward_mode):
        return lambda x, w: jaxdeconv.conv1d_transpose(x, w, g.shape, stride, forward_mode=forward_mode)

    def gradient(argument, forward_mode):
        return lambda x, w, g: jax.vjp(op(forward_mode), x, w)[1](g)[argument]

    return {
        "T": (jax.jit(op(False)), (x, w)),
        "C": (jax.jit(gradient(0, False)), (x, w, g)),
        "F": (jax.jit(gradient(1, False)), (x, w, g)),
        "F by autodiff": (jax.jit(gradient(1, True)), (x, w, g)),
    }


def seconds(function, arguments):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def medians(timed, rounds):
    """Runs all of them in turn, `rounds` times, after one call of each to compile."""
    for function, arguments in timed.values():
        seconds(function, arguments)
    samples = {name: [] for name in timed}
    for _ in range(rounds):
        for name, (function, arguments) in timed.items():
            samples[name].append(seconds(function, arguments))
    return {name: statistics.median(each) for name, each in samples.items()}


def eager(rounds):
    """Microseconds of one small eager call: ours and lax.conv_transpose."""
    x, w = jnp.ones((1, 8, 4)), jnp.ones((4, 4, 4))
    calls = 200

    def repeated(function):
        return lambda: jax.block_until_ready([function() for _ in range(calls)])

    timed = {
        "jaxdeconv.conv1d_transpose": (repeated(lambda: jaxdeconv.conv1d_transpose(x, w, [1, 16, 4], 2)), ()),
        "jax.lax.conv_transpose": (repeated(lambda: jax.lax.conv_transpose(x, w, (2,), "SAME")), ()),
    }
    return {name: 1e6 * each / calls for name, each in medians(timed, rounds).items()}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="timings of each function (default 15)")
    rounds = parser.parse_args().rounds
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {platform.machine()}, float32, median of {rounds}, milliseconds\n")
    print(f"| {'layer (batch, width, in, out, kernel, stride)':58} | T    | C    | F    | F by autodiff | F / T | autodiff / F |")
    print(f"|{'-' * 60}|------|------|------|---------------|-------|--------------|")
    for index, (name, layer) in enumerate(LAYERS.items()):
        print(f"timing {index + 1} of {len(LAYERS)}: {name}", end="\r", file=sys.stderr, flush=True)
        t = {key: 1e3 * value for key, value in medians(functions(*layer), rounds).items()}
        label = f"{name} {layer}"
        times = f"{t['T']:4.1f} | {t['C']:4.1f} | {t['F']:4.1f} | {t['F by autodiff']:13.1f}"
        print(f"| {label:58} | {times} | {t['F'] / t['T']:4.1f}x | {t['F by autodiff'] / t['F']:11.0f}x |")
    ours, lax = eager(rounds).values()
    print(f"\nOne small eager call: jaxdeconv.conv1d_transpose {ours:.0f} us, jax.lax.conv_transpose {lax:.0f} us.")


if __name__ == "__main__":
    main()

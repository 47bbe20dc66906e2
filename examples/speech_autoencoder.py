"""Learns to put speech together again from half as many numbers, by the upsampling layers of a vocoder, three `conv1d_transpose`.

    python examples/speech_autoencoder.py                        # the shipped speech; under a minute on 2 cores
    python examples/speech_autoencoder.py any.wav -o results     # any other WAV; --help lists the options

The encoder is a matrix: it makes 64 numbers of every 16 ms, 8 ms apart at 16 kHz. The decoder goes back to samples by transposed
convolutions with the strides of HiFi-GAN's generator, 8, 8 and 2 (J. Kong et al., arXiv:2010.05646), and a leaky ReLU between them.
Both start from noise, and the signal-to-noise ratio of the reconstruction is shown while they learn.

At the end the same training step is measured with `jax.lax.conv_transpose` and the derivative of it that JAX makes. Nothing else is
different: the parameters, the loss and the optimizer are the same, and so are the new parameters, to rounding.

Writes reconstruction.wav and, where matplotlib is present, speech_autoencoder.png. Needs only jax, numpy and jaxdeconv.
"""

from __future__ import annotations

import argparse
import math
import os
import struct
import sys
import time
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxdeconv

SPEECH = Path(__file__).parent / "data" / "speech.wav"
STRIDES = (8, 8, 2)
KERNELS = (16, 16, 16)
HOP = math.prod(STRIDES)  # samples between two frames, which are twice as long
CODE = HOP // 2  # numbers that are left of as many samples
BATCH, FRAMES = 8, 32  # segments in a training step, and frames in a segment
LEARNING_RATE = 1e-2
SLOPE = 0.3  # of the leaky ReLU, below zero

Params: TypeAlias = dict[str, list[jax.Array]]
State: TypeAlias = tuple[Params, Params, Params]  # and Adam's two means
Upsample: TypeAlias = Callable[[jax.Array, jax.Array, int, int], jax.Array]

# --- The model --------------------------------------------------------------------------------------------------------------------


def init(key: jax.Array, channels: int) -> Params:
    """Noise. The encoder's filter is [2 * HOP, CODE]. The decoder's are [kernel, out, in]; the last one's channel is the waveform."""
    widths = (CODE, channels, max(channels // 2, 1), 1)
    shapes = [(kernel, after, before) for kernel, before, after in zip(KERNELS, widths, widths[1:], strict=False)]
    encoder_key, *keys = jax.random.split(key, 1 + len(shapes))
    reach = [kernel // stride * before for (kernel, _, before), stride in zip(shapes, STRIDES, strict=True)]  # inputs of an output
    return {
        "encoder": [jax.random.normal(encoder_key, (2 * HOP, CODE)) / (2 * HOP) ** 0.5],
        "decoder": [0.7 * jax.random.normal(k, shape) / n**0.5 for k, shape, n in zip(keys, shapes, reach, strict=True)],
    }


def encode(params: Params, audio: jax.Array) -> jax.Array:
    """[batch, samples] -> [batch, ceil(samples / HOP), CODE]."""
    samples = audio.shape[1]
    padded = jnp.pad(audio, ((0, 0), (HOP // 2, HOP // 2 + -samples % HOP)))
    blocks = padded.reshape(len(audio), -1, HOP)
    return jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=2) @ params["encoder"][0]


def by_jaxdeconv(x: jax.Array, w: jax.Array, size: int, stride: int) -> jax.Array:
    """A layer of the decoder, to any size that a convolution with this stride would have brought to x's."""
    return jaxdeconv.conv1d_transpose(x, w, [len(x), size, w.shape[1]], strides=stride)


def by_lax(x: jax.Array, w: jax.Array, size: int, stride: int) -> jax.Array:
    """The same by lax, whose size is always stride times that of x."""
    y = lax.conv_transpose(x, w, (stride,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), transpose_kernel=True)
    assert y.shape[1] == size
    return y


def decode(params: Params, code: jax.Array, samples: int, upsample: Upsample = by_jaxdeconv) -> jax.Array:
    """[batch, frames, CODE] -> [batch, samples]."""
    # As many frames come from HOP different numbers of samples. output_shape says which one to return to, layer by layer, and thereby
    # puts every sample where the encoder had it: nothing is trimmed after, whatever the length of the file.
    sizes = [-(-samples // math.prod(STRIDES[layer:])) for layer in range(1, len(STRIDES) + 1)]
    x = code
    for layer, (w, stride, size) in enumerate(zip(params["decoder"], STRIDES, sizes, strict=True)):
        x = upsample(x if layer == 0 else jax.nn.leaky_relu(x, SLOPE), w, size, stride)
    return x[:, :, 0]


@jax.jit
def reconstruct(params: Params, audio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The reconstruction of audio [samples], and its signal-to-noise ratio in dB."""
    decoded = decode(params, encode(params, audio[None]), audio.size)[0]
    return decoded, 10 * jnp.log10(jnp.sum(audio**2) / jnp.sum((decoded - audio) ** 2))


# --- Training ---------------------------------------------------------------------------------------------------------------------


def loss(params: Params, audio: jax.Array, upsample: Upsample) -> jax.Array:
    """Mean squared error of audio [batch, samples]."""
    return jnp.mean((decode(params, encode(params, audio), audio.shape[1], upsample) - audio) ** 2)


@partial(jax.jit, static_argnames=("steps", "upsample"))
def train_step(state: State, audio: jax.Array, key: jax.Array, step: int, *, steps: int, upsample: Upsample = by_jaxdeconv) -> State:
    """One step of Adam on random segments of audio [samples]."""
    params, mean, square = state
    segment = min(FRAMES, audio.size // HOP) * HOP
    starts = jax.random.randint(jax.random.fold_in(key, step), (BATCH, 1), 0, audio.size - segment + 1)
    grads = jax.grad(loss)(params, audio[starts + jnp.arange(segment)], upsample)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, grads)
    rate = LEARNING_RATE * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))  # falls to zero
    rate *= jnp.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))  # mean and square started from zero
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, mean, square)
    return params, mean, square


def train(audio: jax.Array, excerpt: jax.Array, channels: int, steps: int, seed: int) -> Params:
    """Trains from noise, showing the SNR of an excerpt, and then compares the time of a step with lax's."""
    init_key, key = jax.random.split(jax.random.key(seed))
    params = init(init_key, channels)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros)
    for step in range(steps):
        if step % max(steps // 20, 1) == 0:
            show_progress(step, steps, float(reconstruct(state[0], excerpt)[1]))
        state = train_step(state, audio, key, step, steps=steps)
    show_progress(steps, steps, float(reconstruct(state[0], excerpt)[1]))

    ours, theirs = seconds_of_a_step(state, audio, key, steps)
    print(f"One training step: {1e3 * ours:.1f} ms. By jax.lax.conv_transpose and JAX's own derivative of it: {1e3 * theirs:.1f} ms.")
    print(f"jaxdeconv is {theirs / ours:.1f} times as fast here. By lax, {steps} steps would take {steps * theirs / 60:.1f} minutes.")
    return state[0]


def seconds_of_a_step(state: State, audio: jax.Array, key: jax.Array, steps: int, budget: float = 6.0) -> list[float]:
    """Medians by this library and by lax, in alternation; `budget` seconds of both, or a little more for three steps of each."""

    def step(upsample: Upsample) -> float:
        start = time.perf_counter()
        jax.block_until_ready(train_step(state, audio, key, 0, steps=steps, upsample=upsample))
        return time.perf_counter() - start

    layers = (by_jaxdeconv, by_lax)
    for upsample in layers:
        step(upsample)  # compiles
    durations: dict[Upsample, list[float]] = {upsample: [] for upsample in layers}
    end = time.perf_counter() + budget
    while len(durations[by_lax]) < 3 or (time.perf_counter() < end and len(durations[by_lax]) < 50):
        for upsample in layers:
            durations[upsample].append(step(upsample))
    return [float(np.median(durations[upsample])) for upsample in layers]


def show_progress(step: int, steps: int, snr: float) -> None:
    """A bar that is redrawn on a terminal; otherwise a line for each call."""
    bar = ("#" * (30 * step // steps)).ljust(30, ".")
    start, end = ("\r", "\n" if step == steps else "") if sys.stdout.isatty() else ("", "\n")
    print(f"{start}[{bar}] step {step:{len(str(steps))}}/{steps}  SNR {snr:6.2f} dB", end=end, flush=True)


# --- WAV files: the standard library's `wave` writes them, but does not read float samples ----------------------------------------


class WavError(ValueError):
    """A file that this example cannot use; the message follows its name."""


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a PCM or float WAV file, in [-1, 1] and with all channels averaged, and the sample rate."""
    try:
        content = path.read_bytes()
    except OSError as err:
        raise WavError(f"cannot be read: {err.strerror}") from err
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise WavError("is not a WAV file: it does not begin with RIFF....WAVE")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while b"data" not in chunks and position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        chunks[name] = content[position + 8 : position + 8 + size]
        # Programs that write to a pipe do not know the size and put in about the largest possible.
        if len(chunks[name]) < size and not (name == b"data" and size >= 0x7FFF0000):
            raise WavError(f"is truncated: its {name.decode('latin-1')!r} chunk has {len(chunks[name])} of {size} bytes")
        position += 8 + size + size % 2  # chunks begin at even positions
    form = chunks.get(b"fmt ", b"")
    if len(form) < 16 or b"data" not in chunks:
        raise WavError("is not a complete WAV file: its 'fmt ' or 'data' chunk is missing")
    encoding, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", form)
    if encoding == 0xFFFE and len(form) >= 40:  # WAVE_FORMAT_EXTENSIBLE has the encoding further on
        (encoding,) = struct.unpack_from("<H", form, 24)
    if (encoding, bits) not in [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)]:
        word = {1: "PCM", 3: "float", 6: "A-law", 7: "mu-law"}.get(encoding, f"encoding {encoding}")
        raise WavError(f"has {bits}-bit {word} samples, and this reads PCM of 8, 16, 24 and 32 bits and float of 32 and 64")
    if channels == 0 or rate == 0 or frame != channels * bits // 8:
        raise WavError(f"has a header that contradicts itself: {channels} channels of {bits} bits, {frame} bytes a frame, {rate} Hz")
    data = chunks[b"data"]
    frames = np.frombuffer(data, np.uint8, len(data) // frame * frame).reshape(-1, channels, bits // 8)
    if encoding == 3:
        samples = frames.view(f"<f{bits // 8}").astype(np.float64)
    elif bits == 8:
        samples = frames / 128.0 - 1  # unsigned, unlike the others
    else:
        samples = np.pad(frames, ((0, 0), (0, 0), (4 - bits // 8, 0))).view("<i4") / 2.0**31  # zeros are the low bytes
    if not np.abs(samples).max(initial=0.0) < 1e6:
        raise WavError("has samples that are not finite, or far outside [-1, 1]")
    audio = samples.mean(axis=(1, 2))
    if np.abs(audio).max(initial=0.0) < 1e-9:
        raise WavError("is silent: there is nothing to learn from" if audio.size else "has no samples")
    return audio, rate


def loudest(audio: np.ndarray, width: int) -> slice:
    """The width samples in a row with the most power, or all if there are fewer."""
    width = min(max(width, 1), audio.size)
    energy = np.cumsum(np.pad(audio**2, (1, 0)))
    begin = int(np.argmax(energy[width:] - energy[: energy.size - width]))
    return slice(begin, begin + width)


def write_wav(path: Path, audio: np.ndarray, rate: int) -> None:
    """Writes mono 16-bit PCM; what lies outside [-1, 1] is clipped."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.round(audio * 32768), -32768, 32767).astype("<i2").tobytes())


# --- The picture ------------------------------------------------------------------------------------------------------------------


def draw(path: Path, audio: np.ndarray, reconstruction: np.ndarray, rate: int, title: str) -> bool:
    """Draws both waveforms and both spectrograms; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")  # draws to a file, needs no window
    from matplotlib import pyplot as plt

    blue, orange = "#1f5fa8", "#f07d13"
    mosaic = [["wave", "wave"], ["zoom", "zoom"], ["original", "reconstruction"]]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(12, 10), layout="constrained", height_ratios=[2, 2, 3])
    figure.suptitle(title, fontsize="x-large")

    seconds = np.arange(audio.size) / rate
    zoom = loudest(audio, round(0.04 * rate))
    axes["wave"].plot(seconds, audio, color=blue, linewidth=0.5, label="original")
    axes["wave"].plot(seconds, reconstruction - audio, color=orange, linewidth=0.5, label="reconstruction - original")
    axes["wave"].axvspan(seconds[zoom][0], seconds[zoom][-1], color="grey", alpha=0.4, linewidth=0)
    axes["wave"].set(title="Whole file", xlabel="time (s)")
    axes["zoom"].plot(1000 * seconds[zoom], audio[zoom], color=blue, linewidth=3, alpha=0.5, label="original")
    axes["zoom"].plot(1000 * seconds[zoom], reconstruction[zoom], color=orange, linewidth=1, label="reconstruction")
    axes["zoom"].set(title="The loudest 40 ms, shaded above", xlabel="time (ms)")
    for name in ("wave", "zoom"):
        bound = 1.4 * np.abs(audio).max()  # leaves room for the legend
        axes[name].set(ylabel="amplitude", ylim=(-bound, bound))
        axes[name].legend(loc="upper right", ncols=2, frameon=False)
        axes[name].margins(x=0)

    length = min(4 * HOP, audio.size)
    window = np.hanning(length)
    hop = max(length // 4, audio.size // 2000)
    levels = {}
    for name, signal in {"original": audio, "reconstruction": reconstruction}.items():
        frames = np.lib.stride_tricks.sliding_window_view(signal, length)[::hop]
        levels[name] = 20 * np.log10(np.abs(np.fft.rfft(frames * window)) + 1e-9).T
    top, extent = levels["original"].max(), (0, audio.size / rate, 0, rate / 2000)
    for name, level in levels.items():
        axes[name].imshow(level, origin="lower", aspect="auto", extent=extent, vmin=top - 80, vmax=top, cmap="magma")
        axes[name].set(title=f"Spectrogram of the {name}", xlabel="time (s)", ylabel="frequency (kHz)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


# --- The command line -------------------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """An argument that is an integer of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """Reads, trains, writes."""
    parser = argparse.ArgumentParser(description="Learns to put speech together again from half as many numbers.")
    parser.add_argument("wav", nargs="?", type=Path, default=SPEECH, help="any WAV file of speech (default: the shipped one)")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    parser.add_argument("--steps", type=positive, default=1500, help="of training (default: %(default)s)")
    parser.add_argument("--channels", type=positive, default=128, help="after the decoder's first layer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial filters and the training segments (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="train for 100 steps only, to see that everything works")
    args = parser.parse_args(arguments)
    wav_path, png_path = args.output_dir / "reconstruction.wav", args.output_dir / "speech_autoencoder.png"
    try:
        audio, rate = read_wav(args.wav)
        if audio.size < 2 * HOP:
            raise WavError(f"is too short: it has {audio.size} samples, and one frame has {2 * HOP}")
        if args.wav.resolve() == wav_path.resolve():
            raise WavError("would be overwritten by the reconstruction; name another directory with -o")
        args.output_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(args.output_dir, os.W_OK):
            raise PermissionError(None, "no permission")
    except WavError as err:
        parser.exit(2, f"{parser.prog}: error: {args.wav} {err}\n")
    except OSError as err:
        parser.exit(2, f"{parser.prog}: error: {args.output_dir} cannot be written to: {err.strerror}\n")
    print(f"{args.wav}: {audio.size / rate:.1f} s at {rate} Hz, {CODE} numbers for every {HOP} samples, back by strides {STRIDES}")

    scale = np.sqrt(np.mean(audio**2))  # to power 1, so that quiet files train like loud ones
    signal = jnp.asarray(audio / scale, jnp.float32)
    excerpt = signal[loudest(audio, 10 * rate)]  # the whole, but for long files, which would take long to evaluate
    params = train(signal, excerpt, args.channels, 100 if args.quick else args.steps, args.seed)
    decoded, snr = reconstruct(params, signal)
    reconstruction = scale * np.asarray(decoded, np.float64)
    print(f"Final SNR: {snr:.2f} dB")
    write_wav(wav_path, reconstruction, rate)
    print(f"Wrote {wav_path}")
    title = f"{args.wav.name} from {CODE} numbers for every {HOP} samples: SNR {snr:.1f} dB"
    if draw(png_path, audio, reconstruction, rate, title):
        print(f"Wrote {png_path}")
    else:
        print("No picture, because matplotlib is not installed")


if __name__ == "__main__":
    main()

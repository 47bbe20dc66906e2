"""Learns a filterbank for speech: a strided convolution takes the waveform apart, `conv1d_transpose` puts it together again.

The encoder is what a short-time Fourier transform does, with learned filters in place of sines: 128 filters of 16 ms, every 8 ms, and
a ReLU. That is 16000 numbers a second whatever the sample rate, as many as the shipped file has samples, and the ReLU makes about half
of them zero, so the encoder cannot just copy. The decoder is its transpose with filters of its own: every number adds one filter to the
waveform. This is the front and back end of Conv-TasNet (Y. Luo and N. Mesgarani, arXiv:1809.07454), which separates speakers in between;
here both start from noise and learn to reconstruct, and most end as band-pass filters, dense where speech has its energy.

    python examples/learned_filterbank.py                        # the shipped speech, some 20 seconds on 2 cores
    python examples/learned_filterbank.py any.wav -o results     # --help lists the options

Writes reconstruction.wav and, where matplotlib is present, learned_filterbank.png. Needs only jax, numpy and jaxdeconv.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
import wave
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxdeconv

SPEECH = Path(__file__).parent / "data" / "speech.wav"
HOP_SECONDS = 0.008  # filters are twice as long, so that neighbours overlap by half
BATCH, SEGMENT = 8, 4096  # segments in a training step, and the samples in each, if the file has that many
LEARNING_RATE = 3e-3

# --- The model and its training ---------------------------------------------------------------------------------------------------


def init(key: jax.Array, length: int, filters: int) -> dict[str, jax.Array]:
    """Noise, of a size that keeps a signal of power 1 at about that power. Both [length, 1, filters]: the same layout on either side."""
    encoder_key, decoder_key = jax.random.split(key)
    return {
        "encoder": jax.random.normal(encoder_key, (length, 1, filters)) / length**0.5,
        "decoder": jax.random.normal(decoder_key, (length, 1, filters)) / filters**0.5,
    }


def reconstruct(params: dict[str, jax.Array], audio: jax.Array, forward_mode: bool = False) -> jax.Array:
    """Encodes and decodes: [batch, samples] -> [batch, frames, filters] -> [batch, samples], for every number of samples."""
    hop = params["encoder"].shape[0] // 2
    encoded = lax.conv_general_dilated(
        audio[:, :, None], params["encoder"], (hop,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    encoded = jax.nn.relu(encoded)
    # The encoder makes ceil(samples / hop) frames, which hop different lengths have in common. output_shape says which of them to
    # return to, and so places the filters where the encoder had them: no padding of the input, no trimming of the output.
    decoded = jaxdeconv.conv1d_transpose(
        encoded, params["decoder"], output_shape=[*audio.shape, 1], strides=hop, padding="SAME", forward_mode=forward_mode
    )
    return decoded[:, :, 0]


def loss(params: dict[str, jax.Array], audio: jax.Array, forward_mode: bool) -> jax.Array:
    """Mean squared error, the noise of the signal-to-noise ratio."""
    return jnp.mean((reconstruct(params, audio, forward_mode) - audio) ** 2)


# A loop in Python over one jitted step, and no lax.scan over many: inside a loop, XLA on CPU computes convolutions ten times slower.
@partial(jax.jit, static_argnames=("steps", "forward_mode"))
def train_step(state: Any, audio: jax.Array, key: jax.Array, step: int, *, steps: int, forward_mode: bool = False) -> Any:
    """One step of Adam on random segments of audio [samples], with a learning rate that falls to zero along a cosine."""
    params, mean, square = state
    segment = min(SEGMENT, audio.shape[0])
    starts = jax.random.randint(jax.random.fold_in(key, step), (BATCH, 1), 0, audio.shape[0] - segment + 1)
    grads = jax.grad(loss)(params, audio[starts + jnp.arange(segment)], forward_mode)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, grads)
    rate = LEARNING_RATE * (0.5 + 0.5 * jnp.cos(jnp.pi * step / steps))
    rate *= jnp.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))  # Adam's correction for starting from zero
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, mean, square)
    return params, mean, square


@jax.jit
def snr(params: dict[str, jax.Array], audio: jax.Array) -> jax.Array:
    """Signal-to-noise ratio of the reconstruction of audio [samples], in dB."""
    noise = audio - reconstruct(params, audio[None])[0]
    return 10 * jnp.log10(jnp.sum(audio**2) / jnp.sum(noise**2))


def train(audio: jax.Array, length: int, filters: int, steps: int, seed: int) -> dict[str, jax.Array]:
    """Trains from noise, showing progress; prints what a step would cost with JAX's own derivative of the decoder."""
    init_key, key = jax.random.split(jax.random.key(seed))
    params = init(init_key, length, filters)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros)
    show_progress(0, steps, float(snr(params, audio)))
    for step in range(steps):
        state = train_step(state, audio, key, step, steps=steps)
        if (step + 1) % max(steps // 20, 1) == 0 or step + 1 == steps:
            show_progress(step + 1, steps, float(snr(state[0], audio)))

    milliseconds = {}
    for forward_mode in (False, True):  # True leaves differentiation to JAX
        durations = []
        for _ in range(20):
            start = time.perf_counter()
            jax.block_until_ready(train_step(state, audio, key, 0, steps=steps, forward_mode=forward_mode))
            durations.append(time.perf_counter() - start)
        milliseconds[forward_mode] = 1000 * float(np.median(durations))
    ratio = milliseconds[True] / milliseconds[False]
    print(f"A training step takes {milliseconds[False]:.2f} ms; with JAX's own derivative of the decoder, {ratio:.1f} times that.")
    return state[0]


def show_progress(step: int, steps: int, decibels: float) -> None:
    """A bar that redraws itself on a terminal, and otherwise a line for each call."""
    bar = ("#" * (30 * step // steps)).ljust(30, ".")
    redraw = sys.stdout.isatty() and step < steps
    start = "\r" if sys.stdout.isatty() else ""
    print(f"{start}[{bar}] step {step:{len(str(steps))}}/{steps}  SNR {decibels:6.2f} dB", end="" if redraw else "\n", flush=True)


# --- WAV files: the standard library's `wave` writes them, but reads no floats -----------------------------------------------------

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


class WavError(ValueError):
    """A file that this example cannot use, and why."""


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples in [-1, 1], all channels averaged to one, and the sample rate of a PCM or float WAV file."""
    try:
        content = path.read_bytes()
    except OSError as err:
        raise WavError(f"cannot be read: {err.strerror}") from err
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise WavError("is not a WAV file: it does not begin with RIFF and WAVE")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(content) and b"data" not in chunks:
        name, size = struct.unpack_from("<4sI", content, position)
        body = content[position + 8 : position + 8 + size]
        # A program that writes to a pipe cannot know the size and puts in one near the largest possible.
        if len(body) < size and not (name == b"data" and size >= 0x7FFF0000):
            raise WavError(f"is truncated: its {name.decode('latin-1')!r} chunk has {len(body)} of {size} bytes")
        chunks.setdefault(name, body)
        position += 8 + size + size % 2  # chunks begin at even offsets
    if len(chunks.get(b"fmt ", b"")) < 16 or b"data" not in chunks:
        raise WavError("is not a complete WAV file: it lacks a 'fmt ' or 'data' chunk")
    encoding, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
    if encoding == EXTENSIBLE and len(chunks[b"fmt "]) >= 40:
        (encoding,) = struct.unpack_from("<H", chunks[b"fmt "], 24)
    if (encoding, bits) not in [(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)]:
        raise WavError(f"has {bits}-bit samples of encoding {encoding}; convert it to PCM of 8 to 32 bits or to float")
    if channels == 0 or rate == 0 or block != channels * bits // 8:
        raise WavError(f"has a header that contradicts itself: {channels} channels, {rate} Hz, {bits} bits, {block} bytes a frame")
    frames = np.frombuffer(chunks[b"data"], np.uint8)
    frames = frames[: frames.size // block * block].reshape(-1, channels, bits // 8)
    if encoding == FLOAT:
        samples = frames.view(f"<f{bits // 8}").astype(np.float64)
    elif bits == 8:
        samples = (frames - 128.0) / 128.0  # the only unsigned one
    else:
        words = np.pad(frames, ((0, 0), (0, 0), (4 - bits // 8, 0)))  # to 32 bits, little-endian: the zeros go below
        samples = words.view("<i4") / 2.0**31
    audio = samples.mean(axis=(1, 2))
    if not np.isfinite(audio).all():
        raise WavError("has samples that are infinite or not a number")
    if not audio.any():
        raise WavError("is silent: there is nothing to learn" if audio.size else "is empty: it has no samples")
    return audio, rate


def write_wav(path: Path, audio: np.ndarray, rate: int) -> None:
    """Writes 16-bit PCM, mono; what lies outside [-1, 1] is clipped."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.round(audio * 32768), -32768, 32767).astype("<i2").tobytes())


# --- The picture and the command line ---------------------------------------------------------------------------------------------


def draw(path: Path, audio: np.ndarray, reconstruction: np.ndarray, rate: int, decoder: np.ndarray, decibels: float) -> bool:
    """Draws the waveforms and the decoder's filters [length, filters]; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")  # a file and no window
    from matplotlib import pyplot as plt

    length, filters = decoder.shape
    spectra = np.abs(np.fft.rfft(decoder, 4 * length, axis=0))
    spectra /= spectra.max(axis=0)
    frequency = np.fft.rfftfreq(4 * length, 1 / rate)
    order = np.argsort(spectra.argmax(axis=0), kind="stable")
    blue, orange, grey = "#1f5fa8", "#e8710a", "#8a8a8a"
    figure, axes = plt.subplot_mosaic(
        [["wave", "wave"], ["zoom", "spectra"], ["filters", "spectra"]], figsize=(12, 10), layout="constrained", height_ratios=[2, 2, 3]
    )
    figure.suptitle(f"A filterbank learned from speech: {filters} filters of {1000 * length / rate:.0f} ms, SNR {decibels:.1f} dB")

    seconds = np.arange(audio.size) / rate
    loudest = np.convolve(audio**2, np.ones(length), "same").argmax()
    begin = max(min(loudest - round(0.02 * rate), audio.size - round(0.04 * rate)), 0)
    zoom = slice(begin, begin + round(0.04 * rate))
    axes["wave"].plot(seconds, audio, color=blue, linewidth=0.5, label="original")
    axes["wave"].plot(seconds, reconstruction - audio, color=orange, linewidth=0.5, label="reconstruction - original")
    axes["wave"].axvspan(seconds[zoom][0], seconds[zoom][-1], color=grey, alpha=0.4, linewidth=0)
    axes["wave"].set(title="Whole file", xlabel="time (s)", ylabel="amplitude", xlim=(0, seconds[-1]))
    axes["zoom"].plot(1000 * seconds[zoom], audio[zoom], color=blue, linewidth=2.5, alpha=0.5, label="original")
    axes["zoom"].plot(1000 * seconds[zoom], reconstruction[zoom], color=orange, linewidth=1, label="reconstruction")
    axes["zoom"].set(title="The shaded 40 ms", xlabel="time (ms)", ylabel="amplitude")
    axes["zoom"].margins(x=0)
    for name in ("wave", "zoom"):
        axes[name].legend(loc="upper right", ncols=2)

    image = axes["spectra"].pcolormesh(
        np.arange(filters), frequency / 1000, 20 * np.log10(spectra[:, order] + 1e-6), vmin=-40, vmax=0, cmap="magma", rasterized=True
    )
    figure.colorbar(image, ax=axes["spectra"], label="magnitude, dB below the filter's largest")
    axes["spectra"].set(title="Spectra of the decoder's filters, sorted", xlabel="filter", ylabel="frequency (kHz)")
    shown = order[np.linspace(0, filters - 1, min(filters, 8)).round().astype(int)]
    for row, index in enumerate(shown):
        axes["filters"].plot(1000 * np.arange(length) / rate, 0.45 * decoder[:, index] / np.abs(decoder[:, index]).max() + row, color=blue)
    labels = [f"{frequency[spectra[:, index].argmax()]:.0f} Hz" for index in shown]
    axes["filters"].set(title="Some of them in time, at their peak frequencies", xlabel="time (ms)")
    axes["filters"].set_yticks(range(len(shown)), labels)
    axes["filters"].margins(x=0)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def positive(text: str) -> int:
    """An argument that must be a positive integer."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Learns a filterbank that takes speech apart and puts it together again.")
    parser.add_argument("wav", nargs="?", type=Path, default=SPEECH, help="WAV file of speech, any rate and channels (default: the shipped one)")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    parser.add_argument("--steps", type=positive, default=4000, help="training steps (default: %(default)s)")
    parser.add_argument("--filters", type=positive, default=128, help="filters in encoder and in decoder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial filters and the segments (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="100 steps, whatever --steps says: a check that all works, not a good filterbank")
    args = parser.parse_args(arguments)
    outputs = args.output_dir / "reconstruction.wav", args.output_dir / "learned_filterbank.png"
    try:
        audio, rate = read_wav(args.wav)
        hop = max(round(HOP_SECONDS * rate), 1)
        if audio.size < 2 * hop:
            raise WavError(f"is too short: {audio.size} samples, and one filter of 16 ms has {2 * hop}")
        if args.wav.resolve() in [path.resolve() for path in outputs]:
            raise WavError("would be overwritten by the result: pass another --output-dir")
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except WavError as err:
        parser.exit(2, f"{parser.prog}: error: {args.wav} {err}\n")
    except OSError as err:
        parser.exit(2, f"{parser.prog}: error: {args.output_dir} cannot be written to: {err.strerror}\n")
    print(f"{args.wav}: {audio.size} samples at {rate} Hz, {audio.size / rate:.1f} s; {args.filters} filters of {2 * hop} samples, hop {hop}")

    scale = np.sqrt(np.mean(audio**2))  # trained at power 1, so that quiet files train like loud ones
    signal = jnp.asarray(audio / scale, jnp.float32)
    params = train(signal, 2 * hop, args.filters, 100 if args.quick else args.steps, args.seed)
    reconstruction = scale * np.asarray(jax.jit(reconstruct)(params, signal[None])[0], np.float64)
    decibels = float(snr(params, signal))
    print(f"Final SNR {decibels:.2f} dB")
    write_wav(outputs[0], reconstruction, rate)
    print(f"Wrote {outputs[0]}")
    drawn = draw(outputs[1], audio, reconstruction, rate, np.asarray(params["decoder"])[:, 0], decibels)
    print(f"Wrote {outputs[1]}" if drawn else "No picture: it needs matplotlib")


if __name__ == "__main__":
    main()

"""Learns a filterbank for speech: a strided convolution takes the waveform apart, `conv1d_transpose` puts it together again.

    python examples/learned_filterbank.py                        # the shipped speech; some 15 seconds on 2 cores
    python examples/learned_filterbank.py any.wav -o results     # any other WAV; --help lists the options

The encoder is a short-time Fourier transform with learned filters in place of sines: 256 filters of 16 ms, every 8 ms, and a ReLU.
The decoder is its transpose with filters of its own: each of the encoder's outputs adds one filter to the waveform. These are the two
ends of Conv-TasNet (Y. Luo and N. Mesgarani, arXiv:1809.07454), which separates speakers in between. Here both start from noise and
learn to reconstruct. There are more filters than that takes, so a small penalty on every output makes few of them do the work at a
time. It turns them into short band-pass filters, most of them where speech has its energy, as E. C. Smith and M. S. Lewicki found
(Efficient auditory coding, Nature 439, 2006).

Writes reconstruction.wav and, where matplotlib is present, learned_filterbank.png. Needs only jax, numpy and jaxdeconv.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
import wave
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxdeconv

SPEECH = Path(__file__).parent / "data" / "speech.wav"
HOP_SECONDS = 0.008  # filters are twice as long, so that neighbours overlap by half
BATCH = 8  # segments in a training step
LEARNING_RATE = 0.07  # over the root of the hop: Adam moves every tap alike, and high sample rates have more of them
SPARSITY = 0.03  # 0 reconstructs better, with filters that resemble noise

Params: TypeAlias = dict[str, jax.Array]

# --- The model --------------------------------------------------------------------------------------------------------------------


def init(key: jax.Array, length: int, filters: int) -> Params:
    """Noise. Encoder and decoder have one layout, [length, 1, filters]; the 1 is the waveform's channel."""
    encoder_key, decoder_key = jax.random.split(key)
    return {
        "encoder": 0.3 * jax.random.normal(encoder_key, (length, 1, filters)) / length**0.5,
        "decoder": 0.3 * jax.random.normal(decoder_key, (length, 1, filters)) / filters**0.5,
    }


def encode(params: Params, audio: jax.Array) -> jax.Array:
    """[batch, samples] -> [batch, frames, filters], with frames = ceil(samples / hop)."""
    length, _, _ = params["encoder"].shape
    layout = ("NWC", "WIO", "NWC")
    encoded = lax.conv_general_dilated(audio[:, :, None], params["encoder"], (length // 2,), "SAME", dimension_numbers=layout)
    return jax.nn.relu(encoded)


def decode(params: Params, encoded: jax.Array, samples: int, forward_mode: bool = False) -> jax.Array:
    """[batch, frames, filters] -> [batch, samples]."""
    length, channels, _ = params["decoder"].shape
    # As many frames come from `hop` different numbers of samples. output_shape says which one to return to, and thereby puts every
    # filter where the encoder had it: nothing is padded before or trimmed after, whatever the length of the file.
    shape = [encoded.shape[0], samples, channels]
    decoded = jaxdeconv.conv1d_transpose(encoded, params["decoder"], shape, strides=length // 2, forward_mode=forward_mode)
    return decoded[:, :, 0]


@jax.jit
def reconstruct(params: Params, audio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The reconstruction of audio [samples], and its signal-to-noise ratio in dB."""
    decoded = decode(params, encode(params, audio[None]), audio.size)[0]
    return decoded, 10 * jnp.log10(jnp.sum(audio**2) / jnp.sum((decoded - audio) ** 2))


# --- Training ---------------------------------------------------------------------------------------------------------------------


def loss(params: Params, audio: jax.Array, forward_mode: bool) -> jax.Array:
    """Mean squared error and the penalty, of audio [batch, samples] of power 1."""
    encoded = encode(params, audio)
    decoded = decode(params, encoded, audio.shape[1], forward_mode)
    # What an output adds to the waveform, not the output itself, which could be small at no cost with larger filters in the decoder.
    norms = jnp.sqrt(jnp.sum(params["decoder"] ** 2, axis=(0, 1)) + 1e-12)
    amplitude = encoded * norms / (params["decoder"].shape[0] // 2) ** 0.5
    return jnp.mean((decoded - audio) ** 2) + SPARSITY * jnp.mean(jnp.sum(amplitude, axis=2))


# A Python loop calls this, and no lax.scan: inside of a loop, XLA computes convolutions on CPU by a path that is ten times slower.
@partial(jax.jit, static_argnames=("steps", "forward_mode"))
def train_step(
    state: tuple[Params, Params, Params], audio: jax.Array, key: jax.Array, step: int, *, steps: int, forward_mode: bool = False
) -> tuple[Params, Params, Params]:
    """One step of Adam on random segments of audio [samples]."""
    params, mean, square = state
    hop = params["encoder"].shape[0] // 2
    segment = min(32 * hop, 8192, audio.size)  # the second bounds the time of a step, above 32 kHz
    starts = jax.random.randint(jax.random.fold_in(key, step), (BATCH, 1), 0, audio.size - segment + 1)
    grads = jax.grad(loss)(params, audio[starts + jnp.arange(segment)], forward_mode)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, grads)
    rate = LEARNING_RATE / hop**0.5 * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))  # falls to zero
    rate *= jnp.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))  # mean and square started from zero
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, mean, square)
    return params, mean, square


def train(audio: jax.Array, excerpt: jax.Array, length: int, filters: int, steps: int, seed: int) -> Params:
    """Trains from noise, showing the SNR of an excerpt, and compares the time of a step with that by JAX's own derivative."""
    init_key, key = jax.random.split(jax.random.key(seed))
    params = init(init_key, length, filters)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros)
    for step in range(steps):
        if step % max(steps // 20, 1) == 0:
            show_progress(step, steps, float(reconstruct(state[0], excerpt)[1]))
        state = train_step(state, audio, key, step, steps=steps)
    show_progress(steps, steps, float(reconstruct(state[0], excerpt)[1]))

    milliseconds = []
    for forward_mode in (False, True):  # True leaves differentiation to JAX
        durations = []
        for _ in range(20):  # the first one compiles, which the median ignores
            start = time.perf_counter()
            jax.block_until_ready(train_step(state, audio, key, 0, steps=steps, forward_mode=forward_mode))
            durations.append(1000 * (time.perf_counter() - start))
        milliseconds.append(float(np.median(durations)))
    ratio = milliseconds[1] / milliseconds[0]
    print(f"One training step: {milliseconds[0]:.1f} ms. With JAX's own derivative of the decoder, {ratio:.1f} times that.")
    return state[0]


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


def draw(path: Path, audio: np.ndarray, reconstruction: np.ndarray, rate: int, decoder: np.ndarray, title: str) -> bool:
    """Draws the waveforms, and the decoder's filters [length, filters] by frequency; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")  # draws to a file, needs no window
    from matplotlib import pyplot as plt

    blue, orange = "#1f5fa8", "#f07d13"
    mosaic = [["wave", "wave"], ["zoom", "spectra"], ["time", "spectra"]]
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

    length, filters = decoder.shape
    frequency = np.fft.rfftfreq(4 * length, 1 / rate)
    spectra = np.abs(np.fft.rfft(decoder, 4 * length, axis=0))
    peak = spectra.argmax(axis=0)
    order = np.argsort(peak, kind="stable")
    level = 20 * np.log10(spectra / spectra.max(axis=0) + 1e-6)
    image = axes["spectra"].pcolormesh(range(filters), frequency / 1000, level[:, order], vmin=-40, vmax=0, cmap="magma")
    figure.colorbar(image, ax=axes["spectra"], label="magnitude (dB relative to the filter's peak)")
    axes["spectra"].set(title="Spectra of the decoder's filters, sorted by peak", xlabel="filter", ylabel="frequency (kHz)")
    shown = order[np.unique(np.linspace(0, filters - 1, 10).round().astype(int)[1:-1])]
    shapes = 0.45 * decoder / np.abs(decoder).max(axis=0)
    axes["time"].plot(1000 * np.arange(length) / rate, shapes[:, shown] + np.arange(len(shown)), color=blue)
    axes["time"].set_yticks(range(len(shown)), [f"{frequency[peak[index]]:.0f} Hz" for index in shown])
    axes["time"].set(title="Some of them in time, named by their peaks", xlabel="time (ms)")
    for name in ("wave", "zoom", "time"):
        axes[name].margins(x=0)
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
    parser = argparse.ArgumentParser(description="Learns a filterbank that takes speech apart and puts it together again.")
    parser.add_argument("wav", nargs="?", type=Path, default=SPEECH, help="any WAV file of speech (default: the shipped one)")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    parser.add_argument("--steps", type=positive, default=4000, help="of training (default: %(default)s)")
    parser.add_argument("--filters", type=positive, default=256, help="in the encoder and in the decoder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial filters and the training segments (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="train for 100 steps only, to see that everything works")
    args = parser.parse_args(arguments)
    wav_path, png_path = args.output_dir / "reconstruction.wav", args.output_dir / "learned_filterbank.png"
    try:
        audio, rate = read_wav(args.wav)
        hop = max(round(HOP_SECONDS * rate), 1)
        if audio.size < 2 * hop:
            raise WavError(f"is too short: it has {audio.size} samples, and one filter of 16 ms has {2 * hop}")
        if args.wav.resolve() == wav_path.resolve():
            raise WavError("would be overwritten by the reconstruction; name another directory with -o")
        args.output_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(args.output_dir, os.W_OK):
            raise PermissionError(None, "no permission")
    except WavError as err:
        parser.exit(2, f"{parser.prog}: error: {args.wav} {err}\n")
    except OSError as err:
        parser.exit(2, f"{parser.prog}: error: {args.output_dir} cannot be written to: {err.strerror}\n")
    print(f"{args.wav}: {audio.size / rate:.1f} s at {rate} Hz. {args.filters} filters of {2 * hop} samples, {hop} samples apart.")

    scale = np.sqrt(np.mean(audio**2))  # to power 1, so that quiet files train like loud ones
    signal = jnp.asarray(audio / scale, jnp.float32)
    excerpt = signal[loudest(audio, 10 * rate)]  # the whole, but for long files, which would take long to evaluate
    params = train(signal, excerpt, 2 * hop, args.filters, 100 if args.quick else args.steps, args.seed)
    decoded, snr = reconstruct(params, signal)
    reconstruction = scale * np.asarray(decoded, np.float64)
    print(f"Final SNR: {snr:.2f} dB")
    write_wav(wav_path, reconstruction, rate)
    print(f"Wrote {wav_path}")
    title = f"{args.filters} filters of {2000 * hop / rate:.0f} ms, learned from {args.wav.name}: SNR {snr:.1f} dB"
    if draw(png_path, audio, reconstruction, rate, np.asarray(params["decoder"][:, 0]), title):
        print(f"Wrote {png_path}")
    else:
        print("No picture, because matplotlib is not installed")


if __name__ == "__main__":
    main()

"""A HiFi-GAN V1 generator in Flax NNX on this package's layers: PyTorch's weights, PyTorch's output, and in chunks.

    python examples/hifigan.py                              # random weights: those of the torch generator below
    python examples/hifigan.py --checkpoint generator.pt    # or .safetensors; speaks the shipped speech
    python examples/hifigan.py --small --seconds 0.2        # 32 channels for 512

Needs the extra `examples`: flax, torch to compare with, safetensors for such files. Without torch it runs too, on weights of its own.
Prints the largest differences between this and torch's generator and between the streamed output and the whole, the latency, and
times per second of audio; writes a .wav file. The exit status is 1 if a difference is too large.

The generator (Kong et al. 2020, arXiv:2010.05646, config_v1) is built once more in torch below, with the parameter names of the
official release, so that a state_dict of either, with weight normalisation or without, loads by the same code.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import wave
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxdeconv
from jaxdeconv import streaming
from jaxdeconv.nnx import ConvTranspose

SPEECH = Path(__file__).parent / "data" / "speech.wav"
RATE, N_FFT, HOP, MELS, F_MAX = 22050, 1024, 256, 80, 8000
SLOPE = 0.1
GAIN = 1.7  # torch's initial weights shrink what goes through them; with about sqrt(3) more it stays as large


class Config(NamedTuple):
    """The sizes of config_v1."""

    channels: int = 512
    rates: tuple[int, ...] = (8, 8, 2, 2)
    kernels: tuple[int, ...] = (16, 16, 4, 4)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    block_dilations: tuple[int, ...] = (1, 3, 5)


V1, SMALL = Config(), Config(channels=32)


# --- The generator, [batch, frames, mels] -> [batch, 256 * frames, 1] -------------------------------------------------------------


class Block(nnx.Module):
    """Pairs of convolutions, the first of each pair dilated, each pair added to what goes in."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], rngs: nnx.Rngs) -> None:
        self.convs1 = nnx.List([conv(channels, channels, kernel, d, rngs) for d in dilations])
        self.convs2 = nnx.List([conv(channels, channels, kernel, 1, rngs) for _ in dilations])

    def __call__(self, x: jax.Array) -> jax.Array:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(leaky(first(leaky(x))))
        return x


class Generator(nnx.Module):
    """Attributes are named as in the official release, so that paths of parameters are those of its state_dict."""

    def __init__(self, config: Config, rngs: nnx.Rngs, transposed: Callable[..., nnx.Module] = ConvTranspose) -> None:
        self.conv_pre = conv(MELS, config.channels, 7, 1, rngs)
        self.ups, self.resblocks = nnx.List(), nnx.List()
        channels = config.channels
        for rate, kernel in zip(config.rates, config.kernels, strict=True):
            # Flax's padding is lax's, of the spread input: kernel - 1 less what torch's padding crops.
            crop = (kernel - rate) // 2
            pads = [(kernel - 1 - crop, kernel - 1 - crop)]
            self.ups.append(transposed(channels, channels // 2, (kernel,), (rate,), padding=pads, rngs=rngs))
            channels //= 2
            for block_kernel in config.block_kernels:
                self.resblocks.append(Block(channels, block_kernel, config.block_dilations, rngs))
        self.conv_post = conv(channels, 1, 7, 1, rngs)

    def __call__(self, mel: jax.Array) -> jax.Array:
        x, each = self.conv_pre(mel), len(self.resblocks) // len(self.ups)
        for index, up in enumerate(self.ups):
            x = up(leaky(x))
            blocks = self.resblocks[index * each : (index + 1) * each]
            x = sum(block(x) for block in blocks) / each
        return jnp.tanh(self.conv_post(jax.nn.leaky_relu(x)))  # of slope 0.01 there


def conv(inputs: int, outputs: int, kernel: int, dilation: int, rngs: nnx.Rngs) -> nnx.Conv:
    reach = (kernel - 1) * dilation // 2
    return nnx.Conv(inputs, outputs, (kernel,), padding=[(reach, reach)], kernel_dilation=dilation, rngs=rngs)


leaky = partial(jax.nn.leaky_relu, negative_slope=SLOPE)


# --- The same, in chunks ----------------------------------------------------------------------------------------------------------
#
# No layer here is causal, so each one's output lags by what it looks ahead. A stage takes what is there, emits what is complete, and
# keeps the rest: a convolution its last inputs, a transposed one the overlap, a sum whichever of its terms is ahead. With last=True
# it emits all, for the zeros beyond the end are known.


def stream_conv(layer: nnx.Conv, kept: jax.Array | None, x: jax.Array, last: bool) -> tuple[jax.Array, jax.Array]:
    (reach, _), d = layer.padding[0], layer.kernel_dilation
    kept = jnp.zeros_like(x, shape=(x.shape[0], reach, x.shape[2])) if kept is None else kept
    x = jnp.concatenate([kept, x], 1)
    x = jnp.pad(x, ((0, 0), (0, reach * last), (0, 0)))
    ready = max(x.shape[1] - 2 * reach, 0)
    if not ready:
        return x, jnp.zeros((x.shape[0], 0, layer.out_features), x.dtype)
    y = jax.lax.conv_general_dilated(x, layer.kernel[...], (1,), "VALID", None, (d,), ("NWC", "WIO", "NWC"))
    return x[:, ready:], y + layer.bias[...]


def stream_up(layer: Any, state: streaming.State | None, x: jax.Array, last: bool) -> tuple[streaming.State, jax.Array]:
    w, b, (kernel,) = jaxdeconv.convert_filters(layer.kernel[...], "flax", "tf"), layer.bias[...], layer.kernel_size
    if state is None:
        crops = tuple(kernel - 1 - pad for pad in layer.padding[0])
        state = streaming.init(w, layer.strides, crops=crops, batch=x.shape[0])
    state, y = streaming.step(state, x, w, b)
    return state, jnp.concatenate([y, streaming.flush(state, b)], 1) if last else y


def aligned(kept: list[jax.Array] | None, terms: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
    """As much of each term as there is of all, and what is ahead."""
    if kept is not None:
        terms = [jnp.concatenate(pair, 1) for pair in zip(kept, terms, strict=True)]
    ready = min(term.shape[1] for term in terms)
    return [term[:, ready:] for term in terms], [term[:, :ready] for term in terms]


def stream_block(block: Block, states: list[Any] | None, x: jax.Array, last: bool) -> tuple[list[Any], jax.Array]:
    following = []
    for index, (first, second) in enumerate(zip(block.convs1, block.convs2, strict=True)):
        one, two, ahead = states[index] if states else (None, None, None)
        one, y = stream_conv(first, one, leaky(x), last)
        two, y = stream_conv(second, two, leaky(y), last)
        ahead, (x, y) = aligned(ahead, [x, y])
        following.append((one, two, ahead))
        x = x + y
    return following, x


def stream(generator: Generator, state: Any, mel: jax.Array, last: bool = False) -> tuple[Any, jax.Array]:
    """Takes in some frames and gives the samples that are complete; state is None at first, a pytree of arrays then."""
    pre, stages, post = state or (None, None, None)
    pre, x = stream_conv(generator.conv_pre, pre, mel, last)
    each, following = len(generator.resblocks) // len(generator.ups), []
    for index, layer in enumerate(generator.ups):
        up, blocks, ahead = stages[index] if stages else (None, [None] * each, None)
        up, x = stream_up(layer, up, leaky(x), last)
        parts = [
            stream_block(block, own, x, last)
            for block, own in zip(generator.resblocks[index * each : (index + 1) * each], blocks, strict=True)
        ]
        ahead, terms = aligned(ahead, [y for _, y in parts])
        following.append((up, [own for own, _ in parts], ahead))
        x = sum(terms) / each
    post, y = stream_conv(generator.conv_post, post, jax.nn.leaky_relu(x), last)
    return (pre, following, post), jnp.tanh(y)


def look_ahead(config: Config) -> float:
    """By how many samples the streamed output lags: each layer's, brought to the rate of the output."""
    scale = np.prod(config.rates)
    total = 3 * scale
    block = max((k - 1) // 2 * sum(d + 1 for d in config.block_dilations) for k in config.block_kernels)
    for rate, kernel in zip(config.rates, config.kernels, strict=True):
        scale //= rate
        total += ((kernel - rate) // 2 + block) * scale
    return int(total + 3)


# --- Weights ----------------------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, or of a state_dict in a file of torch, which is read as weights only."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return {name: value.astype(np.float32) for name, value in load_file(path).items()}
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    loaded = loaded.get("generator", loaded)  # the official release has more beside it
    return {name: value.float().numpy() for name, value in loaded.items()}


def folded(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without weight normalisation: weight = g * v / |v|, the norm over all axes but the first."""
    found = dict(state)
    for suffixes in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        for name in [name for name in found if name.endswith(f".{suffixes[0]}")]:
            stem = name.removesuffix(suffixes[0])
            g, v = found.pop(name), found.pop(stem + suffixes[1])
            found[f"{stem}weight"] = g * v / np.sqrt((v.astype(np.float64) ** 2).sum(tuple(range(1, v.ndim)), keepdims=True))
    return found


def load(generator: Generator, state: Mapping[str, np.ndarray]) -> None:
    """Copies a state_dict of torch into the generator."""
    state, copied = folded(state), {}
    own = dict(nnx.state(generator, nnx.Param).flat_state())
    names = {path: ".".join(map(str, path[:-1])) + (".weight" if path[-1] == "kernel" else ".bias") for path in own}
    if missing := sorted(set(names.values()) - state.keys()):
        raise ValueError(f"the checkpoint lacks {len(missing)} of {len(own)} parameters, as {missing[0]}")
    if extra := sorted(state.keys() - set(names.values())):
        raise ValueError(f"the checkpoint has {len(extra)} parameters that this generator has not, as {extra[0]}")
    for path, name in names.items():
        value = jnp.asarray(state[name], jnp.float32)
        if path[-1] == "kernel" and value.ndim == 3:
            value = jaxdeconv.convert_filters(value, "torch", "flax") if path[0] == "ups" else value.transpose(2, 1, 0)
        if value.shape != own[path][...].shape:
            raise ValueError(f"{name} of the checkpoint is {value.shape} in Flax's layout, and {own[path][...].shape} here")
        copied[path] = own[path].replace(value)
    nnx.update(generator, nnx.from_flat_state(copied))


def torch_generator(config: Config) -> Any:
    """The same generator in torch, with weight normalisation, and weights of seed 0."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    def padded(inputs: int, outputs: int, kernel: int, d: int) -> nn.Module:
        return weight_norm(nn.Conv1d(inputs, outputs, kernel, padding=(kernel - 1) * d // 2, dilation=d))

    class TorchBlock(nn.Module):
        def __init__(self, channels: int, kernel: int) -> None:
            super().__init__()
            self.convs1 = nn.ModuleList([padded(channels, channels, kernel, d) for d in config.block_dilations])
            self.convs2 = nn.ModuleList([padded(channels, channels, kernel, 1) for _ in config.block_dilations])

        def forward(self, x: Any) -> Any:
            for first, second in zip(self.convs1, self.convs2, strict=True):
                x = x + second(nn.functional.leaky_relu(first(nn.functional.leaky_relu(x, SLOPE)), SLOPE))
            return x

    class TorchGenerator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_pre = padded(MELS, config.channels, 7, 1)
            self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
            channels = config.channels
            for rate, kernel in zip(config.rates, config.kernels, strict=True):
                self.ups.append(weight_norm(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)))
                channels //= 2
                self.resblocks.extend(TorchBlock(channels, block_kernel) for block_kernel in config.block_kernels)
            self.conv_post = padded(channels, 1, 7, 1)

        def forward(self, x: Any) -> Any:
            x, each = self.conv_pre(x), len(config.block_kernels)
            for index, up in enumerate(self.ups):
                x = up(nn.functional.leaky_relu(x, SLOPE))
                x = sum(block(x) for block in self.resblocks[index * each : (index + 1) * each]) / each
            return torch.tanh(self.conv_post(nn.functional.leaky_relu(x)))

    torch.manual_seed(0)
    generator = TorchGenerator().eval()
    with torch.no_grad():
        for name, scale in generator.named_parameters():
            if name.endswith("original0"):
                scale *= GAIN
    return generator


# --- Sound ------------------------------------------------------------------------------------------------------------------------


def speech(seconds: float) -> np.ndarray:
    """The shipped speech at 22.05 kHz, resampled by its spectrum."""
    with wave.open(str(SPEECH)) as file:
        rate, raw = file.getframerate(), file.readframes(file.getnframes())
    samples = np.frombuffer(raw, np.int16) / 32768
    samples = samples[: round(seconds * rate)]
    length = round(len(samples) * RATE / rate)
    return np.fft.irfft(np.fft.rfft(samples), length) * (length / len(samples))


def mel_filters() -> np.ndarray:
    """[mels, bins]: triangles of equal area on Slaney's scale, linear below 1 kHz, and 27 mels to a factor of 6.4 above."""
    mels = np.linspace(0, 15 + 27 * np.log(F_MAX / 1000) / np.log(6.4), MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    low, centre, high = (edges[start : start + MELS, None] for start in range(3))
    bins = np.fft.rfftfreq(N_FFT, 1 / RATE)
    triangles = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    return triangles * 2 / (high - low)


def log_mel(samples: np.ndarray) -> jax.Array:
    """[1, frames, mels], as HiFi-GAN's training data: frames of 1024 with a Hann window, 256 apart, magnitudes."""
    samples = np.pad(samples, (N_FFT - HOP) // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::HOP] * np.hanning(N_FFT + 1)[:-1]
    magnitudes = np.sqrt(np.abs(np.fft.rfft(frames)) ** 2 + 1e-9)
    return jnp.asarray(np.log(np.maximum(magnitudes @ mel_filters().T, 1e-5))[None], jnp.float32)


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "NONE"))
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


# --- Running ----------------------------------------------------------------------------------------------------------------------


def in_chunks(generator: Generator, mel: jax.Array, chunk: int) -> tuple[np.ndarray, list[float]]:
    """The output of all chunks, and the seconds that each took once its shapes were compiled."""
    definition, parameters = nnx.split(generator)
    step = jax.jit(lambda parameters, state, mel, last: stream(nnx.merge(definition, parameters), state, mel, last), static_argnums=3)
    starts = range(0, mel.shape[1], chunk)
    for _ in range(2):  # the first time compiles
        state, parts, seconds = None, [], []
        for start in starts:
            began = time.perf_counter()
            state, y = jax.block_until_ready(step(parameters, state, mel[:, start : start + chunk], start == starts[-1]))
            seconds.append(time.perf_counter() - began)
            parts.append(np.asarray(y))
    return np.concatenate(parts, 1), seconds


def trainer(generator: Generator) -> Callable[[jax.Array], Any]:
    """The gradient of an L1 loss with respect to all parameters."""
    definition, parameters = nnx.split(generator)
    gradient = jax.jit(jax.grad(lambda parameters, mel: jnp.abs(nnx.merge(definition, parameters)(mel) - 0.1).mean()))
    return lambda mel: gradient(parameters, mel)


def medians(callables: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Median seconds a call, in alternation, after one call each."""
    samples: dict[str, list[float]] = {name: [] for name in callables}
    for _ in range(rounds + 1):
        for name, function in callables.items():
            start = time.perf_counter()
            function()
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[1:]) for name, each in samples.items()}


def torch_callables(reference: Any, mel: jax.Array, segment: jax.Array) -> tuple[Callable[[], None], Callable[[], None]] | None:
    """torch's forward pass and gradients on the kind of device that JAX has; None where torch has no such device."""
    import torch

    device = {"cpu": "cpu", "gpu": "cuda"}.get(jax.devices()[0].platform)
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        return None
    reference = reference.to(device)
    whole, part = (torch.from_numpy(np.array(each)).mT.contiguous().to(device) for each in (mel, segment))
    parameters = list(reference.parameters())

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> None:
        with torch.inference_mode():
            reference(whole)
        wait()

    def train() -> None:
        torch.autograd.grad((reference(part) - 0.1).abs().mean(), parameters)
        wait()

    return forward, train


def compare_times(config: Config, generator: Generator, reference: Any, mel: jax.Array) -> None:
    """Times per second of audio: all of mel forward, and the gradients of at most 32 frames, as in the paper, with batch 1."""
    plain = Generator(config, nnx.Rngs(0), nnx.ConvTranspose)
    nnx.update(plain, nnx.state(generator))
    segment = mel[:, :32]
    forward, train = {}, {}
    for name, model in {"jaxdeconv": generator, "flax": plain}.items():
        run, gradient = nnx.jit(lambda model, mel: model(mel)), trainer(model)
        forward[name] = lambda run=run, model=model: run(model, mel).block_until_ready()
        train[name] = lambda gradient=gradient: jax.block_until_ready(gradient(segment))
    if reference is not None and (found := torch_callables(reference, mel, segment)):
        forward["torch"], train["torch"] = found
    for text, callables, frames in (("forward", forward, mel.shape[1]), ("gradients", train, segment.shape[1])):
        each = {name: seconds * RATE / (frames * HOP) for name, seconds in medians(callables).items()}
        ratios = ", ".join(f"{name} {value:.3g} s ({value / each['jaxdeconv']:.2f}x)" for name, value in each.items())
        print(f"{text}, per second of audio: {ratios}")


def weights(checkpoint: Path | None, generator: Generator, reference: Any) -> None:
    """Gives both generators the checkpoint's weights, or this one those of the reference, which may be None."""
    if checkpoint is None and reference is None:
        return
    if checkpoint is None:
        state = {name: value.detach().numpy() for name, value in reference.state_dict().items()}
    else:
        try:
            state = read_checkpoint(checkpoint)
        except Exception as failure:  # whatever torch and safetensors raise of a file that holds no weights
            raise ValueError(f"cannot read {checkpoint}: {str(failure).splitlines()[0]}") from failure
    load(generator, state)
    if checkpoint is not None and reference is not None:
        import torch
        from torch.nn.utils import parametrize

        for module in reference.modules():
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")
        reference.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in folded(state).items()})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("hifigan.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help=".safetensors, or a file of torch, of a V1 generator")
    parser.add_argument("--small", action="store_true", help="a generator of 32 channels for 512")
    parser.add_argument("--seconds", type=float, default=1.0, help="of speech (default 1, at most 4)")
    parser.add_argument("--chunk", type=int, default=16, help="frames of 256 samples in a chunk (default 16)")
    parser.add_argument("--no-times", action="store_true", help="check, and do not time")
    parser.add_argument("--output", type=Path, default=Path("hifigan.wav"), help="(default hifigan.wav)")
    arguments = parser.parse_args(argv)
    if not 0.1 <= arguments.seconds <= 4 or arguments.chunk < 1:
        parser.error("--seconds must be from 0.1 to 4, and --chunk at least 1")
    config = SMALL if arguments.small else V1
    generator, reference = Generator(config, nnx.Rngs(0)), None
    try:
        import torch

        reference = torch_generator(config)
    except ImportError:
        print("torch is not installed: nothing to compare with")
    try:
        weights(arguments.checkpoint, generator, reference)
    except ValueError as failure:
        print(f"hifigan.py: error: {failure}", file=sys.stderr)
        return 1

    mel, lag, chunk = log_mel(speech(arguments.seconds)), look_ahead(config), arguments.chunk
    with jax.default_matmul_precision("highest"):  # on accelerators; a CPU has no other
        whole = np.asarray(nnx.jit(lambda model, mel: model(mel))(generator, mel))
        streamed, seconds = in_chunks(generator, mel, chunk)
    print(f"{mel.shape[1]} frames, {whole.shape[1]} samples, {whole.shape[1] / RATE:.2f} s; largest output {np.abs(whole).max():.3f}")
    failed = False
    if reference is not None:
        with torch.inference_mode():
            expected = reference(torch.from_numpy(np.array(mel)).mT).mT.numpy()
        difference = np.abs(whole - expected).max()
        failed |= not difference < 1e-4
        print(f"largest difference from torch: {difference:.1e}")
    difference = np.abs(streamed - whole).max() if streamed.shape == whole.shape else np.inf
    failed |= not difference < 1e-5
    print(f"largest difference of the streamed from the whole: {difference:.1e}")
    print(f"latency: {lag} samples, {1000 * lag / RATE:.0f} ms, beside a chunk's own {1000 * chunk * HOP / RATE:.0f} ms")
    if not arguments.no_times:
        print(f"streamed: {1000 * statistics.median(seconds):.1f} ms a chunk of {1000 * chunk * HOP / RATE:.0f} ms")
        compare_times(config, generator, reference, mel)
    write_wav(arguments.output, whole[0, :, 0])
    print(f"wrote {arguments.output}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Trains a small vocoder with its batch split over all devices: of this machine, of simulated ones, or of several hosts.

    python examples/sharded_training.py                         # the devices that jax finds; some 15 seconds on 2 cores
    python examples/sharded_training.py --simulate 8 --check    # 8 simulated CPU devices, compared with one; --help lists the options

On several hosts, one process each, started together; the first one's address is for all to find each other:

    python examples/sharded_training.py --coordinator 10.0.0.1:1234 --processes 2 --process 0    # on 10.0.0.1
    python examples/sharded_training.py --coordinator 10.0.0.1:1234 --processes 2 --process 1    # on the other
    srun python examples/sharded_training.py --distributed    # where jax finds all that out: Slurm, Open MPI, Cloud TPU, Kubernetes

The vocoder turns a spectrum, a frame every 64 samples, into a waveform, by three `conv1d_transpose` with strides that multiply to 64
and leaky ReLUs between, like the upsampling in HiFi-GAN (J. Kong et al., arXiv:2010.05646). It learns decaying harmonic tones. Its
parameters are replicated and its batch is sharded, and nothing else is said about devices: XLA's partitioner runs every layer and its
gradients on a device's own rows, and sums the gradients of the filters over devices.

A row of the data is a function of the step and the row alone. So every process makes the rows of its own devices and no others, and
any number of devices and processes trains on the same batches: --check says how far the losses are from those of one device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdeconv

RATE = 8000  # samples a second
HOP, WINDOW = 64, 256  # samples
FRAMES = 32
LAYERS = ((16, 8, 64), (8, 4, 32), (4, 2, 1))  # kernel, stride, output channels
BANDS = 64  # of WINDOW // 2; the tones have no more
LEARNING_RATE = 1e-3
TOLERANCE = 1e-3  # of a loss: another number of devices sums gradients in another order, which training amplifies

Params: TypeAlias = list[tuple[jax.Array, jax.Array]]
State: TypeAlias = tuple[Params, Params, Params]

# --- The data, with numpy alone ---------------------------------------------------------------------------------------------------


def tone(step: int, row: int) -> np.ndarray:
    """[FRAMES * HOP] samples of harmonics that decay, the higher the faster."""
    rng = np.random.default_rng((step, row))
    pitch, decay = 100 * 4 ** rng.uniform(), rng.uniform(2, 10)
    seconds = np.arange(FRAMES * HOP) / RATE
    harmonics = np.arange(1, 12)[:, None]
    waves = np.sin(2 * np.pi * (pitch * harmonics * seconds + rng.uniform(size=harmonics.shape)))
    return (0.3 * waves * np.exp(-decay * harmonics**0.5 * seconds) / harmonics).sum(0).astype(np.float32)


def spectrum(audio: np.ndarray) -> np.ndarray:
    """[samples] -> [frames, 2 * BANDS]: real and imaginary parts, of a frame centred on every HOP samples."""
    padded = np.pad(audio, (WINDOW - HOP) // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    bands = np.fft.rfft(frames * np.hanning(WINDOW))[:, 1 : BANDS + 1] / WINDOW**0.5
    return np.concatenate([bands.real, bands.imag], axis=1).astype(np.float32)


def local_batch(step: int, rows: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """These rows of the batch of a step: what goes in and what should come out."""
    audio = np.stack([tone(step, row) for row in rows])
    return np.stack([spectrum(each) for each in audio]), audio


def sharded_batch(step: int, batch: int, sharding: NamedSharding) -> tuple[jax.Array, jax.Array]:
    """The whole batch as two arrays over all devices of all processes, to which this process gives the rows of its own."""
    own = sharding.addressable_devices_indices_map((batch,)).values()
    rows = sorted({row for (rows,) in own for row in range(batch)[rows]})
    spectra, audio = (
        jax.make_array_from_process_local_data(sharding, local, (batch, *local.shape[1:])) for local in local_batch(step, rows)
    )
    return spectra, audio


# --- The model --------------------------------------------------------------------------------------------------------------------


def init(key: jax.Array) -> Params:
    """Filters in TensorFlow's layout [kernel, out, in], and biases."""
    params, channels = [], 2 * BANDS
    for (kernel, stride, out), own in zip(LAYERS, jax.random.split(key, len(LAYERS)), strict=True):
        scale = 0.5 * (stride / (kernel * channels)) ** 0.5  # kernel / stride taps meet in an output
        params.append((scale * jax.random.normal(own, (kernel, out, channels), jnp.float32), jnp.zeros(out, jnp.float32)))
        channels = out
    return params


def vocode(params: Params, spectra: jax.Array) -> jax.Array:
    """[batch, frames, 2 * BANDS] -> [batch, frames * HOP]."""
    x = spectra
    for layer, ((w, bias), (_, stride, _)) in enumerate(zip(params, LAYERS, strict=True)):
        x = jax.nn.leaky_relu(x, 0.1) if layer else x
        x = jaxdeconv.conv1d_transpose(x, w, None, stride) + bias
    return x[:, :, 0]


def loss(params: Params, spectra: jax.Array, audio: jax.Array) -> jax.Array:
    """The power of the error over that of the waveforms."""
    return jnp.mean((vocode(params, spectra) - audio) ** 2) / jnp.mean(audio**2)


# --- Training ---------------------------------------------------------------------------------------------------------------------


def train_step(state: State, spectra: jax.Array, audio: jax.Array, step: jax.Array) -> tuple[State, jax.Array]:
    """One step of Adam, and the loss before it. Written for the whole batch; nothing here knows of devices."""
    params, mean, square = state
    value, grads = jax.value_and_grad(loss)(params, spectra, audio)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
    square = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, square, grads)
    rate = LEARNING_RATE * jnp.sqrt(1 - 0.99**step) / (1 - 0.9**step)  # mean and square started from zero
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-6), params, mean, square)
    return (params, mean, square), value


def shardings(devices: list[jax.Device]) -> tuple[NamedSharding, NamedSharding]:
    """Replicated on every device, and split over them along the first axis."""
    # Automatic axes leave it to the partitioner how intermediates are sharded. Newer jax makes explicit ones unless told.
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))


def train(devices: list[jax.Device], batch: int, steps: int, seed: int = 0, quiet: bool = False) -> tuple[State, list[float]]:
    """Trains from noise; the state and the loss of every step."""
    replicated, split = shardings(devices)

    def start(key: jax.Array) -> State:
        params = init(key)
        return params, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)

    state = jax.jit(start, out_shardings=replicated)(jax.random.key(seed))
    jitted = jax.jit(
        train_step,
        in_shardings=(replicated, split, split, replicated),
        out_shardings=(replicated, replicated),
        donate_argnums=0,  # the new state takes the memory of the old
    )
    losses = []
    for step in range(steps):
        state, value = jitted(state, *sharded_batch(step, batch, split), np.float32(step + 1))
        losses.append(value)  # not float(value), which would wait for the devices before the next batch is made
        if not quiet and (step % max(steps // 10, 1) == 0 or step == steps - 1):
            print(f"step {step:{len(str(steps))}}  loss {value:.6f}", flush=True)
    return state, [float(value) for value in losses]


# --- The command line -------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Finds the devices, trains, and compares."""
    parser = argparse.ArgumentParser(description="Trains a small vocoder with its batch split over all devices.")
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="rows in a step, over all devices (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial filters (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="train on one device too, and fail if the losses differ")
    parser.add_argument("--simulate", type=int, metavar="N", help="make N devices of this machine's CPU, in each process")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where all processes meet")
    parser.add_argument("--processes", type=int, metavar="N", help="that take part")
    parser.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    parser.add_argument("--distributed", action="store_true", help="take part in a cluster that jax detects")
    args = parser.parse_args(arguments)
    if len({value is None for value in (args.coordinator, args.processes, args.process)}) > 1:
        parser.error("--coordinator, --processes and --process go together")

    # Both come before anything that makes devices.
    if args.simulate:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", args.simulate)
    if args.coordinator:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    elif args.distributed:
        jax.distributed.initialize()

    devices, first = jax.devices(), jax.process_index() == 0
    if args.batch % len(devices):
        parser.error(f"--batch must be a multiple of the {len(devices)} devices, got {args.batch}")
    run = partial(train, batch=args.batch, steps=args.steps, seed=args.seed)
    if first:
        kind, per = devices[0].device_kind, args.batch // len(devices)
        print(f"{len(devices)} devices ({kind}) in {jax.process_count()} processes, {per} of {args.batch} rows on each", flush=True)
    _, losses = run(devices, quiet=not first)
    if first:
        print(f"Final loss: {losses[-1]:.6f}")
    if args.check:
        _, expected = run(jax.local_devices()[:1], quiet=True)
        difference = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
        print(f"Process {jax.process_index()}: largest relative difference from one device {difference:.1e}")
        if not difference <= TOLERANCE:
            sys.exit("The losses differ by more than rounding explains")


if __name__ == "__main__":
    main()

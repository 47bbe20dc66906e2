"""Serves many streams as rows of one batch: sessions come, pause and go, and each gets what it would get alone.

    python examples/streaming_server.py                       # 64 slots, 300 sessions; some 5 seconds on a core
    python examples/streaming_server.py --slots 8 --seed 1    # --help lists the options

A decoder of two layers makes 32 samples of a frame. Neither layer is causal, so that a stream of it lags; the streams are delayed
ones, whose steps return the same number of samples always, of which the first are zeros. The second layer is told by how much its
input lags. The state of all sessions is then arrays alone, with a row for each slot, and the server is three programs that are
compiled once:

    restart   zeros in the rows of sessions that begin
    step      a chunk of frames for each row; rows whose session has nothing to say keep their state
    finish    what is left of each row at its end, of which the rows that end are taken

A session is a whole number of chunks here. Prints the time per chunk, of all slots together, and how far the sessions' outputs are
from those of the decoder that is given all frames of a session at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdeconv import conv1d_transpose, streaming

Params: TypeAlias = list[tuple[jax.Array, jax.Array]]
States: TypeAlias = list[streaming.State]

CHANNELS, FRAMES, RATE = 32, 4, 8000  # of a frame; in a chunk; of the audio, samples a second
LAYERS = ((16, 8, 16), (8, 4, 1))  # kernel, stride, output channels; each crops (kernel - stride) / 2 at both ends
HOP = 32  # the product of strides

# --- The decoder ------------------------------------------------------------------------------------------------------------------


def init(key: jax.Array) -> Params:
    """Filters in TensorFlow's layout [kernel, out, in], and biases."""
    params, channels = [], CHANNELS
    for (kernel, stride, out), own in zip(LAYERS, jax.random.split(key, len(LAYERS)), strict=True):
        scale = (stride / (kernel * channels)) ** 0.5
        params.append((scale * jax.random.normal(own, (kernel, out, channels), jnp.float32), jnp.full(out, 0.1, jnp.float32)))
        channels = out
    return params


def activation(y: jax.Array) -> jax.Array:
    """Of 0 it is 0, so that the zeros of a delayed stream are zeros for the next one."""
    return jax.nn.leaky_relu(y, 0.1)


@jax.jit
def decode(params: Params, frames: jax.Array) -> jax.Array:
    """All at once: [batch, frames, CHANNELS] -> [batch, HOP * frames]."""
    x = frames
    for layer, ((w, bias), (_, stride, _)) in enumerate(zip(params, LAYERS, strict=True)):
        x = conv1d_transpose(activation(x) if layer else x, w, None, stride) + bias
    return x[:, :, 0]


# --- The same for rows of a batch, in chunks --------------------------------------------------------------------------------------


def start(params: Params, slots: int) -> States:
    """Rows before their first chunk."""
    states, latency = [], 0
    for (w, _), (kernel, stride, _) in zip(params, LAYERS, strict=True):
        crop = (kernel - stride) // 2  # TensorFlow's SAME
        state = streaming.init(w, stride, crops=(crop, crop), batch=slots, delayed=True, input_latency=latency)
        states.append(state)
        latency = state.latency
    return states


@jax.jit
def restart(states: States, fresh: jax.Array) -> States:
    """A row of zeros is a row before its first chunk."""
    return jax.tree.map(lambda a: jnp.where(fresh[:, None, None], 0, a), states)


@jax.jit
def step(params: Params, states: States, frames: jax.Array, running: jax.Array) -> tuple[States, jax.Array]:
    """[slots, FRAMES, CHANNELS] -> [slots, HOP * FRAMES]; the state of a row that does not run remains as it was."""
    following, x = [], frames
    for layer, ((w, bias), state) in enumerate(zip(params, states, strict=True)):
        state, x = streaming.step(state, activation(x) if layer else x, w, bias)
        following.append(state)
    states = jax.tree.map(partial(jnp.where, running[:, None, None]), following, states)
    return states, x[:, :, 0]


@jax.jit
def finish(params: Params, states: States) -> jax.Array:
    """The samples that are left of each row, were its last chunk its end. Changes no state."""
    (first, second), ((_, bias), (v, last_bias)) = states, params
    second, x = streaming.step(second, activation(streaming.flush(first, bias)), v, last_bias)
    return jnp.concatenate([x, streaming.flush(second, last_bias)], 1)[:, :, 0]


# --- The server -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Session:
    """What one client sends, and what it got so far."""

    frames: np.ndarray
    sent: int = 0
    received: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.sent == len(self.frames)


def arrivals(rng: np.random.Generator, sessions: int) -> list[Session]:
    """Sessions of 2 to 7 chunks."""
    lengths = FRAMES * rng.integers(2, 8, sessions)
    return [Session(rng.standard_normal((length, CHANNELS), np.float32)) for length in lengths]


def serve(params: Params, waiting: list[Session], slots: int, rng: np.random.Generator) -> list[float]:
    """Runs until all sessions have ended; the seconds of each chunk."""
    waiting, seconds = waiting[::-1], []
    states, held = start(params, slots), dict[int, Session]()  # by slot
    latency = states[-1].latency
    jax.block_until_ready((restart(states, np.ones(slots, bool)), finish(params, states)))  # compiles
    jax.block_until_ready(step(params, states, np.zeros((slots, FRAMES, CHANNELS), np.float32), np.ones(slots, bool)))
    while waiting or held:
        fresh, running, chunk = np.zeros(slots, bool), np.zeros(slots, bool), np.zeros((slots, FRAMES, CHANNELS), np.float32)
        for slot in range(slots):
            if slot not in held and waiting and rng.uniform() < 0.5:
                held[slot], fresh[slot] = waiting.pop(), True
            if slot in held and rng.uniform() < 0.8:  # others have nothing to say now
                session = held[slot]
                running[slot], chunk[slot] = True, session.frames[session.sent : session.sent + FRAMES]
                session.sent += FRAMES

        began = time.perf_counter()
        if fresh.any():
            states = restart(states, fresh)
        states, samples = step(params, states, chunk, running)
        ended = [slot for slot, session in held.items() if session.ended]
        last = np.asarray(finish(params, states)) if ended else None
        samples = np.asarray(samples)
        seconds.append(time.perf_counter() - began)

        for slot in np.flatnonzero(running):
            held[slot].received.append(samples[slot])
        for slot in ended:
            session = held.pop(slot)
            session.received = [np.concatenate([*session.received, last[slot]])[latency:]]
    return seconds


def difference(params: Params, sessions: list[Session]) -> float:
    """The largest difference of what sessions got from what the decoder makes of all their frames at once."""
    return max(float(np.abs(session.received[0] - decode(params, session.frames[None])[0]).max()) for session in sessions)


# --- The command line -------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Serves, and compares."""
    parser = argparse.ArgumentParser(description="Serves many streams as rows of one batch, and compares with each alone.")
    parser.add_argument("--slots", type=int, default=64, help="rows of the batch (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=300, help="that come and go (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of filters, lengths, arrivals and pauses (default: %(default)s)")
    args = parser.parse_args(arguments)
    if min(args.slots, args.sessions) < 1:
        parser.error("--slots and --sessions must be at least 1")

    rng = np.random.default_rng(args.seed)
    params, sessions = init(jax.random.key(args.seed)), arrivals(rng, args.sessions)
    seconds = serve(params, sessions, args.slots, rng)
    latency = start(params, args.slots)[-1].latency
    print(f"{args.sessions} sessions in {args.slots} slots, {len(seconds)} chunks; latency {latency} samples")
    print(
        f"{1000 * statistics.median(seconds):.2f} ms a chunk of {1000 * FRAMES * HOP / RATE:.0f} ms for all slots, "
        f"{1000 * max(seconds):.2f} ms the longest"
    )
    largest = difference(params, sessions)
    print(f"Largest difference of a session from the whole call: {largest:.1e}")
    if not largest < 1e-5:
        sys.exit("A session did not get what it gets alone")


if __name__ == "__main__":
    main()

"""examples/sharded_training.py: any number of devices and processes computes one device's losses, each on its own rows."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "sharded_training.py"

spec = importlib.util.spec_from_file_location("sharded_training", SCRIPT)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


@pytest.fixture(scope="module")
def expected():
    """The losses of one device."""
    with jax.enable_x64(False):
        return example.train(jax.devices()[:1], batch=8, steps=12, quiet=True)[1]


def test_eight_devices_are_one(expected):
    with jax.enable_x64(False):
        state, losses = example.train(jax.devices(), batch=8, steps=12, quiet=True)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[-1] < 0.8 * losses[0]
    for leaf in jax.tree.leaves(state):
        assert len(leaf.sharding.device_set) == 8
        assert leaf.is_fully_replicated


def test_each_device_has_its_own_rows():
    _, split = example.shardings(jax.devices())
    whole = example.local_batch(3, range(16))
    for array, expected in zip(example.sharded_batch(3, 16, split), whole, strict=True):
        assert array.sharding.spec == P("data")
        assert [shard.data.shape[0] for shard in array.addressable_shards] == [2] * 8
        np.testing.assert_array_equal(array, expected)
    assert len(np.unique(whole[1], axis=0)) == 16


def test_only_gradients_travel():
    """The step that is compiled sums over devices, and gathers and moves nothing."""
    replicated, split = example.shardings(jax.devices())
    with jax.enable_x64(False):
        params = example.init(jax.random.key(0))
        arguments = (params, params, params), *example.local_batch(0, range(16)), np.float32(1)
        shardings = replicated, split, split, replicated
        compiled = jax.jit(example.train_step, in_shardings=shardings).lower(*arguments).compile().as_text()
    assert "all-reduce" in compiled
    assert not re.findall("all-gather|all-to-all|collective-permute", compiled)


def start(*arguments):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, str(SCRIPT), "--steps", "3", "--batch", "8", "--check", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert float(re.search(r"difference from one device (\S+)", out)[1]) < 1e-5
    return out


@pytest.mark.thorough
def test_two_processes(expected):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = "--simulate", "2", "--coordinator", address, "--processes", "2"
    first, second = [finish(process) for process in [start(*meeting, "--process", str(index)) for index in range(2)]]
    assert "4 devices (cpu) in 2 processes, 2 of 8 rows on each" in first
    assert "Final loss" not in second
    assert float(re.search(r"Final loss: (\S+)", first)[1]) == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--batch", "9"], "--batch must be a multiple of the 8 devices, got 9"), (["--process", "1"], "--process go together")],
)
def test_rejected(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        example.main(arguments)
    assert message in capsys.readouterr().err

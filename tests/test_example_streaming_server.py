"""examples/streaming_server.py: every session gets what it gets alone, whatever goes on in the other rows."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "streaming_server.py"

spec = importlib.util.spec_from_file_location("streaming_server", SCRIPT)
example = importlib.util.module_from_spec(spec)
sys.modules["streaming_server"] = example  # where dataclasses look for it
spec.loader.exec_module(example)


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def served(slots, sessions, change=None, monkeypatch=None):
    rng = np.random.default_rng(3)
    params, all_sessions = example.init(jax.random.key(0)), example.arrivals(rng, sessions)
    if change:
        monkeypatch.setattr(example, *change)
    example.serve(params, all_sessions, slots, rng)
    return all_sessions, example.difference(params, all_sessions)


def test_sessions_get_what_they_get_alone():
    sessions, difference = served(4, 12)
    assert difference < 1e-5
    for session in sessions:
        assert [len(received) for received in session.received] == [example.HOP * len(session.frames)]


@pytest.mark.parametrize(
    "change",
    [
        ("restart", lambda states, fresh: states),
        ("step", lambda params, states, frames, running: STEP(params, states, frames, running | True)),
        ("finish", lambda params, states: 0 * FINISH(params, states)),
    ],
    ids=lambda change: change[0],
)
def test_each_program_is_needed(change, monkeypatch):
    assert served(4, 12, change, monkeypatch)[1] > 1e-2


STEP, FINISH = example.step, example.finish


def test_it_runs_as_a_script():
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", str(SCRIPT)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^300 sessions in 64 slots, \d+ chunks; latency 18 samples$", result.stdout, re.MULTILINE)
    assert re.search(r"^\S+ ms a chunk of 16 ms for all slots, \S+ ms the longest$", result.stdout, re.MULTILINE)
    assert float(re.search(r"from the whole call: (\S+)", result.stdout)[1]) < 1e-5


def test_a_difference_is_an_exit_status(monkeypatch):
    monkeypatch.setattr(example, "difference", lambda params, sessions: float("nan"))
    with pytest.raises(SystemExit, match="A session did not get what it gets alone"):
        example.main(["--slots", "2", "--sessions", "2"])


def test_rejected(capsys):
    with pytest.raises(SystemExit, match="2"):
        example.main(["--slots", "0"])
    assert "--slots and --sessions must be at least 1" in capsys.readouterr().err

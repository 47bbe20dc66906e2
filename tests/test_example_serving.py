"""examples/serving.py: what is exported is served without jaxdeconv, with the numbers and the gradients of the model."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("flatbuffers")
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "serving.py"

spec = importlib.util.spec_from_file_location("serving", SCRIPT)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "upsampler.jaxexport"
    with jax.enable_x64(False):
        example.main(["--export", str(path)])
    return path


@pytest.mark.thorough
def test_outputs_and_gradients_are_those_of_the_model(artifact, monkeypatch):
    monkeypatch.setattr(example, "REQUESTS", ((1, 5), (2, 9)))
    with jax.enable_x64(False):
        assert example.compare(artifact) < 1e-5
        monkeypatch.setattr(example, "upsample", lambda params, x: example.read(artifact)[0](params, 1.01 * x))
        assert example.compare(artifact) > 1e-3  # it does compare


def test_a_server_without_jaxdeconv(artifact, tmp_path):
    """In a process that fails to import it."""
    (tmp_path / "jaxdeconv.py").write_text("raise ImportError('served without jaxdeconv')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", str(SCRIPT), "--serve", str(artifact)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{artifact.stat().st_size} bytes, for cpu, cuda, tpu" in result.stdout
    assert re.findall(r"-> +(\d+) samples", result.stdout) == [str(16 * frames) for _, frames in example.REQUESTS]
    before, after = map(float, re.search(r"loss from (\S+) to (\S+)", result.stdout).groups())
    assert after < before


def test_the_parameters_are_beside_the_artifact(artifact):
    expected = example.init(jax.random.key(0))
    with np.load(artifact.with_suffix(".npz")) as arrays:
        assert set(arrays) == set(expected)
        for name in arrays:
            np.testing.assert_allclose(arrays[name], expected[name], rtol=1e-6)


def rejection(capsys, *arguments):
    with pytest.raises(SystemExit, match="2"):
        example.main([str(argument) for argument in arguments])
    return capsys.readouterr().err


def test_rejected(capsys, monkeypatch, tmp_path):
    assert "is not a file; write it with --export" in rejection(capsys, "--serve", tmp_path / "nothing")
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    assert "jax.export serialises with flatbuffers" in rejection(capsys)

"""examples/hifigan.py: torch's numbers from torch's weights in every form of a checkpoint, and streams that are the whole."""

import importlib.util
import re
import subprocess
import sys
import wave
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

nnx = pytest.importorskip("flax.nnx")

SCRIPT = Path(__file__).parents[1] / "examples" / "hifigan.py"
spec = importlib.util.spec_from_file_location("hifigan", SCRIPT)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

pytestmark = pytest.mark.filterwarnings("default")  # flax's and torch's own
NARROW = example.Config(channels=16, block_kernels=(3, 5), block_dilations=(1, 2))


@pytest.fixture(autouse=True)
def _single_precision():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("torch")
    return example.torch_generator(NARROW)


def mel(frames):
    return jnp.asarray(np.random.default_rng(0).standard_normal((1, frames, example.MELS)), jnp.float32)


def run(generator, x):
    return np.asarray(nnx.jit(lambda generator, x: generator(x))(generator, x))


def arrays(reference):
    return {name: value.detach().numpy() for name, value in reference.state_dict().items()}


def test_torchs_weights_give_torchs_output(reference):
    import torch

    generator = example.Generator(NARROW, nnx.Rngs(0))
    before = run(generator, mel(9))
    example.load(generator, arrays(reference))
    with torch.inference_mode():
        expected = reference(torch.from_numpy(np.array(mel(9))).mT).mT.numpy()
    assert expected.shape == (1, 9 * 256, 1)
    assert 0.01 < np.abs(expected).max() < 1
    np.testing.assert_allclose(run(generator, mel(9)), expected, atol=1e-5)
    assert np.abs(before - expected).max() > 0.01


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_chunks_are_the_whole_and_come_when_the_latency_says(chunk):
    generator = example.Generator(NARROW, nnx.Rngs(0))
    whole = run(generator, mel(12))
    definition, parameters = nnx.split(generator)
    step = jax.jit(
        lambda parameters, state, x, last: example.stream(nnx.merge(definition, parameters), state, x, last), static_argnums=3
    )
    state, parts = None, []
    for start in range(0, 12, chunk):
        last = start + chunk >= 12
        state, y = step(parameters, state, mel(12)[:, start : start + chunk], last)
        parts.append(np.asarray(y))
        received = sum(part.shape[1] for part in parts)
        assert received == (12 * 256 if last else max(0, (start + chunk) * 256 - example.look_ahead(NARROW)))
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-5 * np.abs(whole).max())


def test_the_latency_of_config_v1():
    """By hand: 3 frames of 256 and so on; blocks look ahead by 5 * (1 + 1 + 3 + 1 + 5 + 1) samples."""
    block = 5 * 12
    by_hand = 3 * 256 + (4 + block) * 32 + (4 + block) * 4 + (1 + block) * 2 + (1 + block) + 3
    assert example.look_ahead(example.V1) == by_hand


FORMS = ("parametrized", "weight_g", "folded")


def in_form(state, form):
    """As torch's parametrizations have it, as the official release's weight_norm had it, and without weight normalisation."""
    if form == "folded":
        return example.folded(state)
    names = {"original0": "weight_g", "original1": "weight_v"} if form == "weight_g" else {}
    return {re.sub(r"parametrizations\.weight\.(\w+)", lambda m: names.get(m[1], m[0]), name): state[name] for name in state}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoints(form, suffix, reference, tmp_path):
    import torch

    state, path = in_form(arrays(reference), form), tmp_path / f"generator{suffix}"
    assert any(name.endswith("weight_g") for name in state) == (form == "weight_g")
    if suffix == ".pt":
        torch.save({"generator": {name: torch.from_numpy(value.copy()) for name, value in state.items()}}, path)
    else:
        pytest.importorskip("safetensors.numpy").save_file(state, path)
    loaded, expected = (example.Generator(NARROW, nnx.Rngs(seed)) for seed in (0, 1))
    example.load(loaded, example.read_checkpoint(path))
    example.load(expected, arrays(reference))
    for ours, theirs in zip(jax.tree.leaves(nnx.state(loaded)), jax.tree.leaves(nnx.state(expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weight_normalisation(reference):
    """What torch computes of its two parameters."""
    folded = example.folded(arrays(reference))
    np.testing.assert_allclose(folded["ups.0.weight"], reference.ups[0].weight.detach(), atol=1e-6)
    np.testing.assert_allclose(folded["conv_pre.weight"], reference.conv_pre.weight.detach(), atol=1e-6)


class Untrusted:
    """Not a weight."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv_post.bias"), "the checkpoint lacks 1 of "),
        (lambda state: state.update({"mystery.weight": np.ones(3)}), "the checkpoint has 1 parameters that this generator has not, as mystery.weight"),
        (lambda state: state.update({"conv_pre.bias": np.ones(3)}), "conv_pre.bias of the checkpoint is (3,) in Flax's layout, and (16,) here"),
        (lambda state: state.update({"ups.0.weight": np.ones((16, 8, 4))}), "ups.0.weight of the checkpoint is (4, 16, 8) in Flax's layout, and (16, 16, 8) here"),
    ],
)  # fmt: skip
def test_other_weights_are_refused(change, message, reference):
    state = example.folded(arrays(reference))
    change(state)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        example.load(example.Generator(NARROW, nnx.Rngs(0)), state)


def test_a_bad_file_is_an_error_of_one_line(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save(Untrusted(), tmp_path / "code.pt")
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "text.pt").write_text("not weights")
    torch.save({"generator": {"x": torch.ones(3)}}, tmp_path / "other.pt")
    for name in ("missing.pt", "missing.safetensors", "code.pt", "text.pt", "text.safetensors", "other.pt"):
        assert example.main(["--small", "--checkpoint", str(tmp_path / name)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("hifigan.py: error: ")


def test_mel_filters_are_slaneys():
    """Of area one in Hz, with centres at 1 kHz for mel 15 and 6.4 kHz 27 mels above, and none below 0 or above 8 kHz."""
    filters = example.mel_filters()
    width = example.RATE / example.N_FFT
    assert filters.shape == (80, 513)
    np.testing.assert_allclose((filters * width).sum(1)[40:], 1, rtol=0.03)
    assert not filters[:, np.arange(513) * width > 8000].any()
    peaks = filters.argmax(1) * width
    mels = 15 + 27 * np.log(8) / np.log(6.4)
    step = mels / 81
    np.testing.assert_allclose(peaks[9], 10 * step * 200 / 3, atol=width / 2)
    np.testing.assert_allclose(peaks[70], 1000 * 6.4 ** ((71 * step - 15) / 27), atol=width / 2)


def test_log_mel_of_a_tone():
    """A sine of one bin, of which a Hann window of N samples makes a magnitude of a quarter of N, and an eighth in its neighbours."""
    bin_, amplitude = 100, 0.5
    frequency = bin_ * example.RATE / example.N_FFT
    tone = amplitude * np.sin(2 * np.pi * frequency * np.arange(256 * 20) / example.RATE)
    found = example.log_mel(tone)
    assert found.shape == (1, 20, 80)
    magnitudes = np.zeros(513)
    magnitudes[bin_ - 1 : bin_ + 2] = amplitude * example.N_FFT * np.array([1, 2, 1]) / 8
    expected = example.mel_filters() @ magnitudes
    heard = expected > 1e-3
    np.testing.assert_allclose(np.exp(found[0, 10])[heard], expected[heard], rtol=1e-3)
    assert found.min() >= np.log(1e-5) - 1e-6


def test_speech_is_resampled():
    samples = example.speech(0.5)
    assert abs(len(samples) - 0.5 * example.RATE) <= 1
    assert 0.05 < np.abs(samples).max() < 1.1


def test_it_runs_as_a_script(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "out.wav"
    command = [sys.executable, str(SCRIPT), "--small", "--seconds", "0.1", "--chunk", "8", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(re.search(r"largest difference from torch: (\S+)", done.stdout)[1]) < 1e-5
    assert float(re.search(r"the streamed from the whole: (\S+)", done.stdout)[1]) < 1e-6
    assert "latency: 3258 samples, 148 ms" in done.stdout
    assert len(re.findall(r"per second of audio: jaxdeconv \S+ s \(1.00x\), flax \S+ s \(\S+x\), torch", done.stdout)) == 2
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnframes() % 256) == (22050, 0)
    wrong = subprocess.run([*command, "--seconds", "9"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("hifigan.py: error: --seconds must be from 0.1 to 4, and --chunk at least 1\n")


def test_a_difference_is_an_exit_status(monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch")
    arguments = ["--small", "--seconds", "0.1", "--chunk", "50", "--no-times", "--output", str(tmp_path / "out.wav")]
    monkeypatch.setattr(example, "SLOPE", 0.11)  # of torch's generator alone
    assert example.main(arguments) == 1
    assert "largest difference from torch" in capsys.readouterr().out

"""examples/speech_autoencoder.py: what its WAV reader reads and rejects, and that it trains and writes what it says."""

import importlib.util
import os
import re
import struct
import subprocess
import sys
import wave
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "speech_autoencoder.py"
SPEECH = ROOT / "examples" / "data" / "speech.wav"
PCM, FLOAT, MU_LAW, EXTENSIBLE = 1, 3, 7, 0xFFFE

spec = importlib.util.spec_from_file_location("speech_autoencoder", SCRIPT)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


def chunk(name, body, size=None):
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def form(encoding=PCM, channels=1, rate=16000, bits=16):
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", encoding, channels, rate, rate * frame, frame, bits))


def extensible(encoding, channels, rate, bits):
    guid = struct.pack("<H", encoding) + bytes.fromhex("000000001000800000aa00389b71")
    head = form(EXTENSIBLE, channels, rate, bits)[8:]
    return chunk(b"fmt ", head + struct.pack("<HHI", 22, bits, 0) + guid)


def riff(*chunks):
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def read(tmp_path, content):
    path = tmp_path / "input.wav"
    path.write_bytes(content)
    return example.read_wav(path)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_pcm_as_the_standard_library_writes_it(tmp_path, bits, channels):
    path = tmp_path / "input.wav"
    width = bits // 8
    bound = 1 << (bits - 1)
    values = [*np.random.default_rng(bits).integers(-bound, bound, 5 * channels - 2).tolist(), -bound, bound - 1]
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 11025, 0, "NONE", ""))
        encoded = [value + 128 if bits == 8 else value for value in values]  # 8 bits are unsigned
        file.writeframes(b"".join(value.to_bytes(width, "little", signed=bits > 8) for value in encoded))
    audio, rate = example.read_wav(path)
    assert rate == 11025
    expected = [sum(values[i : i + channels]) / channels / bound for i in range(0, len(values), channels)]
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("head", [form, extensible])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [32, 64])
def test_float(tmp_path, bits, channels, head):
    values = np.random.default_rng(bits).uniform(-1.5, 1.5, (7, channels)).astype(f"<f{bits // 8}")
    audio, rate = read(tmp_path, riff(head(FLOAT, channels, 44100, bits), chunk(b"data", values.tobytes())))
    assert rate == 44100
    np.testing.assert_allclose(audio, values.astype(np.float64).mean(axis=1), rtol=0, atol=1e-15)


HALVES = struct.pack("<2h", 16384, -16384)


@pytest.mark.parametrize(
    "content",
    [
        riff(chunk(b"JUNK", b"odd"), form(), chunk(b"LIST", b"x"), chunk(b"data", HALVES), chunk(b"id3 ", b"after")),
        riff(extensible(PCM, 1, 16000, 16), chunk(b"data", HALVES)),
        riff(form(), chunk(b"data", HALVES + b"\x07")),
        riff(form(), chunk(b"data", HALVES, 0xFFFFFFFF)),
        riff(form(), chunk(b"data", HALVES, 0x7FFFF000)),
        riff(form(), chunk(b"data", HALVES))[:-4] + HALVES + b"not a chunk",
    ],
    ids=["odd chunks around", "extensible", "part of a frame at the end", "piped", "piped by eSpeak", "bytes after the last chunk"],
)
def test_unusual_files(tmp_path, content):
    audio, rate = read(tmp_path, content)
    assert rate == 16000
    assert audio.tolist() == [0.5, -0.5]


def test_written_files_read_back_and_clip(tmp_path):
    path = tmp_path / "output.wav"
    example.write_wav(path, np.array([0.0, 0.25, -1.0, 1.0, 7.0, -7.0]), 22050)
    audio, rate = example.read_wav(path)
    largest = 32767 / 32768
    assert rate == 22050
    assert audio.tolist() == [0.0, 0.25, -1.0, largest, largest, -1.0]


SECOND = chunk(b"data", struct.pack("<16000h", *range(-8000, 8000)))
REJECTED = {
    "empty": (b"", "is not a WAV file"),
    "text": (b"This is text, whatever its name says.\n", "is not a WAV file"),
    "big-endian": (b"RIFX" + riff(form(), SECOND)[4:], "is not a WAV file"),
    "another RIFF": (riff(form(), SECOND).replace(b"WAVE", b"AVI "), "is not a WAV file"),
    "cut in its data": (riff(form(), SECOND)[:5000], "is truncated: its 'data' chunk has 4956 of 32000 bytes"),
    "cut in its header": (riff(form(), SECOND)[:30], "is truncated: its 'fmt ' chunk has 10 of 16 bytes"),
    "cut between chunks": (riff(form(), SECOND)[:36], "its 'fmt ' or 'data' chunk is missing"),
    "data first": (riff(SECOND, form()), "its 'fmt ' or 'data' chunk is missing"),
    "short fmt": (riff(chunk(b"fmt ", b"\1\0\1\0"), SECOND), "its 'fmt ' or 'data' chunk is missing"),
    "mu-law": (riff(form(MU_LAW, bits=8), SECOND), "8-bit mu-law"),
    "MP3": (riff(form(0x55, bits=0), SECOND), "0-bit encoding 85"),
    "20 bits": (riff(form(bits=20), SECOND), "20-bit PCM"),
    "half float": (riff(form(FLOAT), SECOND), "16-bit float"),
    "no channels": (riff(form(channels=0), SECOND), "0 channels"),
    "no rate": (riff(form(rate=0), SECOND), "0 Hz"),
    "no samples": (riff(form(), chunk(b"data", b"")), "has no samples"),
    "too short": (riff(form(), chunk(b"data", HALVES * 127)), "has 254 samples, and one frame has 256"),
    "silent": (riff(form(), chunk(b"data", bytes(32000))), "is silent"),
    "cancelling": (riff(form(channels=2), chunk(b"data", HALVES * 8000)), "is silent"),
    "not a number": (riff(form(FLOAT, bits=32), chunk(b"data", struct.pack("<2f", 0.5, float("nan")))), "not finite"),
    "infinite": (riff(form(FLOAT, 2, bits=32), chunk(b"data", struct.pack("<2f", float("inf"), float("-inf")))), "not finite"),
}


def rejection(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        example.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    return err


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_files(tmp_path, capsys, name):
    content, message = REJECTED[name]
    path = tmp_path / "input.wav"
    path.write_bytes(content)
    err = rejection(capsys, path, "-o", tmp_path)
    assert f"error: {path} " in err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_rejected_paths(tmp_path, capsys):
    assert "nothing.wav cannot be read: No such file" in rejection(capsys, tmp_path / "nothing.wav")
    assert f"{tmp_path} cannot be read: " in rejection(capsys, tmp_path)
    own = tmp_path / "reconstruction.wav"
    own.write_bytes(SPEECH.read_bytes())
    assert "would be overwritten" in rejection(capsys, own, "-o", tmp_path)
    assert own.read_bytes() == SPEECH.read_bytes()
    assert f"{own} cannot be written to: " in rejection(capsys, SPEECH, "-o", own)
    assert "--steps: invalid positive value: '0'" in rejection(capsys, "--steps", "0")


def test_both_sides_of_the_comparison_compute_the_same():
    params = example.init(jax.random.key(0), 16)
    audio = jax.random.normal(jax.random.key(1), (2, 3 * example.HOP))
    ours, theirs = (jax.grad(example.loss)(params, audio, upsample) for upsample in (example.by_jaxdeconv, example.by_lax))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()), ours, theirs)


@pytest.mark.parametrize("samples", [256, 257, 300, 383, 384])
def test_a_reconstruction_is_as_long_as_the_audio(samples):
    params = example.init(jax.random.key(0), 4)
    code = example.encode(params, jnp.ones((1, samples)))
    assert code.shape == (1, -(-samples // example.HOP), example.CODE)
    assert example.decode(params, code, samples).shape == (1, samples)


def run(directory, *arguments, **variables):
    path = os.pathsep.join(filter(None, [variables.pop("path", ""), str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **variables}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.thorough  # continuous integration also runs the whole example
def test_quick_run_on_the_shipped_speech(tmp_path):
    result = run(tmp_path, "--quick")
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    decibels = [float(text) for text in re.findall(r"SNR +(-?[\d.]+) dB", result.stdout)]
    assert len(decibels) == 21
    assert abs(decibels[0]) < 1  # noise of little power adds little
    assert decibels[-1] > 5

    original, rate = example.read_wav(SPEECH)
    reconstruction, rate_written = example.read_wav(tmp_path / "reconstruction.wav")
    assert (rate_written, reconstruction.size) == (rate, original.size)
    snr = 10 * np.log10(np.sum(original**2) / np.sum((reconstruction - original) ** 2))
    printed = float(re.search(r"Final SNR: ([\d.]+) dB", result.stdout)[1])
    assert snr == pytest.approx(printed, abs=0.02)
    assert re.search(r"^jaxdeconv is [\d.]+ times as fast here\. ", result.stdout, re.MULTILINE)

    picture = tmp_path / "speech_autoencoder.png"
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    else:
        assert not picture.exists()


@pytest.mark.thorough
def test_quick_run_on_another_file_without_matplotlib(tmp_path):
    rate, size = 11025, 4321
    seconds = np.arange(size) / rate
    stereo = np.stack([np.sin(2 * np.pi * 440 * seconds), np.sin(2 * np.pi * 660 * seconds)], axis=1)
    path = tmp_path / "tones.wav"
    path.write_bytes(riff(form(FLOAT, 2, rate, 32), chunk(b"data", stereo.astype("<f4").tobytes())))
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "matplotlib.py").write_text("raise ImportError")
    result = run(tmp_path, path, "--quick", "--channels", "16", "--seed", "3", "-o", "new/directory", path=str(tmp_path / "hidden"))
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert "No picture" in result.stdout
    assert [file.name for file in (tmp_path / "new" / "directory").iterdir()] == ["reconstruction.wav"]
    reconstruction, rate_written = example.read_wav(tmp_path / "new" / "directory" / "reconstruction.wav")
    assert (rate_written, reconstruction.size) == (rate, size)


def test_an_error_ends_the_program_with_one_line(tmp_path):
    path = tmp_path / "text.wav"
    path.write_text("hello")
    result = run(tmp_path, path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"speech_autoencoder.py: error: {path} is not a WAV file: it does not begin with RIFF....WAVE\n"

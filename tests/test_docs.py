"""Every Python block of the README and the docs runs, section by section, and prints what stands below it; those of a framework
where that is installed. Command lines of this package print what stands below them, too."""

import os
import re
import shlex
from pathlib import Path

import jax
import pytest

from jaxdeconv._command import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FRAMEWORKS = ("tensorflow", "torch", "onnx", "onnxruntime", "keras", "flax", "haiku", "equinox")


def blocks(language, text):
    """(code, printed) of each block, printed being the text block right below it, if there is one."""
    return re.findall(rf"^```{language}\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", text, re.DOTALL | re.MULTILINE)


def sections():
    for page in PAGES:
        for section in re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE):
            if found := blocks("python", section):
                code, printed = "\n".join(code for code, _ in found), "".join(printed for _, printed in found)
                yield pytest.param(code, printed, id=f"{page.name}:{section.splitlines()[0].strip('# ')}")


def commands():
    for page in PAGES:
        for code, printed in blocks("shell", page.read_text()):
            if printed:
                yield pytest.param(code, printed, id=f"{page.name}:{code.strip()}")


@pytest.mark.filterwarnings(r"error:.*which makes \d+ groups:UserWarning")  # ours
@pytest.mark.filterwarnings("default")  # the frameworks' own
@pytest.mark.parametrize(("code", "printed"), list(sections()))
def test_blocks_run_and_print_what_is_below(code, printed, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "jax"))
    for framework in FRAMEWORKS:
        if re.search(rf"^(import|from) {framework}\b", code, re.MULTILINE):
            pytest.importorskip(framework)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        exec(compile(code, "docs", "exec"), {})
    if printed:
        assert capsys.readouterr().out == printed


@pytest.mark.parametrize(("code", "printed"), list(commands()))
def test_command_lines_print_what_is_below(code, printed, capsys):
    python, dash_m, package, *arguments = shlex.split(code)
    assert (python, dash_m, package) == ("python", "-m", "jaxdeconv")
    main(arguments)
    assert "".join(capsys.readouterr()) == printed


def test_there_are_sections():
    assert len(list(sections())) >= 24
    assert len(list(commands())) >= 2


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

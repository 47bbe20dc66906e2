"""Every Python block of the README and the docs runs, section by section; those of a framework where that is installed."""

import os
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FRAMEWORKS = ("tensorflow", "torch", "onnx", "onnxruntime", "keras", "flax", "haiku", "equinox")


def sections():
    for page in PAGES:
        for section in re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE):
            if code := "\n".join(re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)):
                yield pytest.param(code, id=f"{page.name}:{section.splitlines()[0].strip('# ')}")


@pytest.mark.filterwarnings("default")  # the frameworks' own
@pytest.mark.parametrize("code", list(sections()))
def test_blocks_run(code, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "jax"))
    for framework in FRAMEWORKS:
        if re.search(rf"^(import|from) {framework}\b", code, re.MULTILINE):
            pytest.importorskip(framework)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        exec(compile(code, "docs", "exec"), {})


def test_there_are_sections():
    assert len(list(sections())) >= 12


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

"""The direction of imports, what importing the package imports, and what it may not use."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdeconv

PACKAGE = Path(jaxdeconv.__file__).parent
# Reading order: each module may import those after it. Front-ends come first and do not import each other.
ORDER = [
    "_tune",
    "_executed",
    "_measure",
    "_verdict",
    "_conventions",
    "_accelerate",
    "_objects",
    "_edit",
    "_stuffing",
    "_jaxprs",
    "_convolutions",
    "_call",
    "_derivatives",
    "_options",
    "_canonicalize",
    "_contractions",
]
ORDER += ["_partitioning", "_tuning", "_select", "_platforms", "_lowerings", "_filters", "_geometry"]
FRONT_ENDS = ["tf", "torch", "onnx", "lax", "keras", "_convert", "_explain", "streaming", "initializers"]
COMMAND = ["__main__", "_command", "_bench", "_drawing"]  # imports what it likes
# Layers import front-ends, and one framework each; nothing imports them, but for a name that is asked for.
LAYERS = {"nnx": "flax", "linen": "flax", "_flax": None, "eqx": "equinox", "haiku": "haiku", "_keras_layers": "keras"}
LAZY = {("keras", "_keras_layers")} | {("__init__", name) for name in ("nnx", "linen", "eqx", "haiku")}
OPTIONAL = {"tensorflow", "torch", "onnx", "onnxruntime", "keras", "flax", "equinox", "haiku", "matplotlib", "scipy"}


def modules():
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(path):
    """Absolute names of all that the file imports."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name):
    return ORDER.index(name) if name in ORDER else -1


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_go_one_way(path):
    own = path.parts[0].removesuffix(".py")
    assert own in [*ORDER, *FRONT_ENDS, *LAYERS, *COMMAND, "__init__"], f"{path} has no place in the reading order"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "jaxdeconv" and len(parts) > 1 and parts[1] != own and (own, parts[1]) not in LAZY:
            assert parts[1] not in LAYERS or (own in LAYERS and parts[1] == "_flax"), f"{path} imports {name}, a layer"
            if own in ["__init__", *COMMAND] or (own in LAYERS and parts[1] in [*FRONT_ENDS, "_flax"]):
                continue
            assert parts[1] in ORDER, f"{path} imports {name}, a front-end"
            assert layer(parts[1]) > layer(own), f"{path} imports {name}, against the reading order"


@pytest.mark.parametrize("path", modules(), ids=str)
def test_examples_are_shown_as_code(path):
    """The pages know a section "Examples"; "Example" they show as a quotation."""
    assert not re.search(r"^ *Example:$", (PACKAGE / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", modules(), ids=str)
def test_public_jax_only_and_no_platform_default(path):
    own = LAYERS.get(path.stem)
    assert not [name for name in imported(path) if "_src" in name or name.split(".")[0] in OPTIONAL - {own}]
    assert "default_backend" not in (PACKAGE / path).read_text()


def test_geometry_is_arithmetic_alone():
    assert {name.split(".")[0] for name in imported(Path("_geometry.py"))} == {"__future__", "dataclasses", "typing"}


def test_policy_and_amounts_know_no_jax():
    """What is chosen follows from sizes; the lowerings themselves, which it asks, do import jax."""
    for path in (Path("_select.py"), Path("_lowerings/_work.py")):
        assert not [name for name in imported(path) if name.split(".")[0] == "jax"]


def test_importing_imports_no_framework():
    code = f"import sys, jax; before = set(sys.modules); import jaxdeconv; print({OPTIONAL!r} & (set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "set()"


def test_layers_are_attributes_that_import_their_framework_when_used():
    code = f"""
import sys, jax
before = set(sys.modules)
import jaxdeconv
assert set("eqx haiku linen nnx keras torch streaming conv_transpose".split()) <= set(dir(jaxdeconv))
assert not {OPTIONAL!r} & (set(sys.modules) - before)
for name in ("nnx", "linen", "eqx", "haiku"):
    try:
        found = getattr(jaxdeconv, name)
        assert found is sys.modules["jaxdeconv." + name] and found is getattr(jaxdeconv, name)
    except AttributeError as error:
        assert 'python -m pip install "jaxdeconv[layers]"' in str(error), error
try:
    jaxdeconv.flax
except AttributeError as error:
    assert str(error) == "module 'jaxdeconv' has no attribute 'flax'"
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_version_is_that_of_the_distribution():
    try:
        installed = importlib.metadata.version("jaxdeconv")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from a source tree that is not installed")
    assert jaxdeconv.__version__ == installed


def test_what_is_written_about_the_version_is_that_version():
    root = Path(__file__).parents[1]
    assert f"\nversion: {jaxdeconv.__version__}\n" in (root / "CITATION.cff").read_text()
    newest = next(line for line in (root / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] in (jaxdeconv.__version__, "Unreleased")


def test_links_of_the_package_page_lead_to_files_of_the_repository():
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("hatch_build", root / "hatch_build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    address = "https://example.invalid/repository"

    def metadata(repository):
        found = {}
        build.Links(str(root), {"repository": repository}).update(found)
        return found["urls"], found["readme"]["text"]

    written = (root / "README.md").read_text()
    assert metadata("") == ({}, written)
    urls, text = metadata(address)
    assert not re.findall(r"\]\((?!https?:)", text)
    links = [*urls.values(), *re.findall(r"\]\(([^)]+)\)", text)]
    files = [re.fullmatch(rf"{address}/(blob|raw)/HEAD/([^#]+)(#.*)?", link) for link in links]
    assert sum(map(bool, files)) > len(re.findall(r"\]\(docs/", written))
    for kind, path, _ in (found.groups() for found in files if found):
        assert (root / path).exists()
        assert (kind == "raw") == path.endswith(".svg")

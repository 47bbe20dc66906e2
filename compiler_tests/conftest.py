"""Settings of the tests that compile for accelerators: none is needed here, but the compilers; without one, its tests are skipped.

Apart from `tests`, because 64-bit types, simulated devices and less optimisation there would change what is compiled here. What was
compiled is gathered here from the processes that pytest-xdist runs, for recorded.py.
"""

import importlib.util

import jax
import pytest

jax.config.update("jax_platforms", "cpu")

GATHERED = pytest.StashKey[list]()  # of each process, what its tests asked about and how much of it was compiled


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="write what the compiler for TPU made of all programs")


def pytest_configure(config):
    config.stash[GATHERED] = []


def pytest_sessionfinish(session):
    if importlib.util.find_spec("libtpu") is None:
        return
    from compiler_tests import recorded

    own = recorded.asked, recorded.counts
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["recorded"] = own
        return
    session.config.stash[GATHERED].append(own)
    if session.config.option.record:
        recorded.write({key: each for asked, _ in session.config.stash[GATHERED] for key, each in asked.items()})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if "recorded" in getattr(node, "workeroutput", {}):
        node.config.stash[GATHERED].append(node.workeroutput["recorded"])


def pytest_terminal_summary(terminalreporter, config):
    gathered = [counts for _, counts in config.stash[GATHERED]]
    for name in gathered[0] if gathered else ():
        terminalreporter.write_line(f"programs for TPU {name}: {sum(counts[name] for counts in gathered)}")

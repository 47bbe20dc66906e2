"""A process that runs groups of cases, one a line of standard input, and answers a line each. An abort ends it, and nothing else.

    {"front": "lax", "seed": 0, "indices": [0, 1, 2], "peers": true}    or    {"cases": ["{'front': ...}"], "peers": false}

Before each step that may end the process it prints what step that is.
"""

import contextlib
import gc
import json
import os
import re
import sys
import traceback
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxdeconv
from campaign import calls, checks, expected, peers
from campaign.case import dtype_of, operands, parse
from campaign.draw import draw
from campaign.transforms import TRANSFORMS, shapes

MESSAGE = re.compile(r"[A-Za-z0-9_.]+: .*, got .*; .*", re.DOTALL)
UNABLE = ": implementation must be able to "


def say(**line):
    """One line to the driver."""
    print(json.dumps(line), flush=True)


def fill_memory(rng):
    """Leaves junk in freed memory, so that what is read before it is written shows."""
    held = []
    for size in (2**10, 2**13, 2**16, 2**18, 2**20):
        for _ in range(min(2**21 // size, 24)):
            junk = np.empty(size // 4 + int(rng.integers(64)), np.float32)
            junk.fill(1e30 if rng.random() < 0.5 else np.nan)
            held.append(junk)
    del held


def brief(error):
    """An exception in few words."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) < 600 else f"{text[:600]}..."


def refused(case):
    """None if a call that has no meaning is refused as it should be; or what happened instead."""
    arrays = operands(case._replace(exact=True), {"x": case.x, "w": case.w} | ({} if case.b is None else {"b": case.b}))
    values = list(arrays.values())
    operand = {
        "x is a list": (0, [1.0, 2.0]),
        "w is a list": (1, [[1.0]]),
        "x is None": (0, None),
        "w is a string": (1, "w"),
        "x is boolean": (0, np.ones(case.x, bool)),
    }.get(case.wrong)
    if operand:
        values[operand[0]] = operand[1]
    if case.wrong == "dtype of the filter":
        values[1] = values[1].astype(dtype_of("bfloat16" if case.dtype != "bfloat16" else "float32"))
    values = [jnp.asarray(value) if isinstance(value, np.ndarray) else value for value in values]
    try:
        if case.wrong.startswith("traced "):
            name = case.wrong.removeprefix("traced ")
            jax.eval_shape(lambda given: calls.ours(case._replace(keywords=case.keywords | {name: given}))(*values), np.int32(1))
        else:
            calls.ours(case)(*values)
    except (ValueError, TypeError) as error:
        if MESSAGE.fullmatch(str(error)) or (case.wrong == "nonsense" and isinstance(error, TypeError)) or case.front == "layers":
            return None
        return f"message {brief(error)}"
    except Exception as error:
        return f"exception {brief(error)}"
    return "accepted"


def program(case, function):
    """The case's transformation as a function of a dict of operands."""
    return lambda arrays: TRANSFORMS[case.transform].run(function, **arrays)


def attempt(functions, arrays):
    """Results of functions of one operand each, compiled together, and the exceptions of those that raise while they are traced."""
    raised = {}

    def together(arrays):
        results = {}
        for key, function in functions.items():
            try:
                results[key] = function(arrays[key])
            except Exception as error:
                raised[key] = error
        return results

    return jax.block_until_ready(jax.jit(together)(arrays)), raised


def sharded(case, arrays):
    """A case over a mesh of devices: its results."""
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    shape, kind = case.mesh["shape"], AxisType.Explicit if case.mesh["explicit"] else AxisType.Auto
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    mesh = Mesh(devices, tuple("abc"[: len(shape)]), axis_types=(kind,) * len(shape))
    specs = {name: PartitionSpec(*(entry or None for entry in spec)) for name, spec in case.mesh["specs"].items()}
    with jax.set_mesh(mesh) if case.mesh["explicit"] else contextlib.nullcontext():
        placed = {name: jax.device_put(a, NamedSharding(mesh, specs[name])) for name, a in arrays.items()}
        if case.mesh["explicit"]:  # where a cotangent has the sharding of its result
            y = jax.eval_shape(calls.ours(case), placed["x"], placed["w"])
            placed["g"] = jax.device_put(arrays["g"], NamedSharding(mesh, y.sharding.spec))
        return jax.block_until_ready(jax.jit(program(case, calls.ours(case)))(placed))


class Group:
    """Cases that are run together. `failures` are (position, kind, what); `counts` and `others` are for the summary."""

    def __init__(self, cases, seed=0):
        self.cases, self.rng = cases, np.random.default_rng(seed)
        self.failures, self.counts, self.others = [], Counter(), []
        self.windows, self.arrays, self.wanted, self.results = {}, {}, {}, {}

    def fail(self, position, kind, what):
        """Notes a finding."""
        self.failures.append((position, kind, what))

    def prepare(self):
        """Windows and operands; calls without a meaning are tried at once."""
        for position, case in enumerate(self.cases):
            try:
                window = None if case.wrong else expected.window(case)
            except expected.MeaninglessError:
                window = None
            if window is None:
                say(step="refuse", position=position)
                self.counts["invalid"] += 1
                if (what := refused(case)) is not None:
                    self.fail(position, what.split()[0], what)
                continue
            self.windows[position] = window
            self.arrays[position] = operands(case, shapes(case, window.y_shape))

    def run(self):
        """Ours: all that can be compiled together are."""
        fill_memory(self.rng)
        together = {}
        for position in self.windows:
            case = self.cases[position]
            try:
                function = program(case, calls.ours(case))
                if case.mesh:
                    say(step="run", position=position)
                    self.results[position] = sharded(case, self.arrays[position])
                elif TRANSFORMS[case.transform].eager:
                    say(step="run", position=position)
                    with jax.disable_jit() if case.transform == "disable_jit" else contextlib.nullcontext():
                        on_device = {name: jnp.asarray(a) for name, a in self.arrays[position].items()}
                        self.results[position] = jax.block_until_ready(function(on_device))
                elif TRANSFORMS[case.transform].constants and jax.__version_info__ >= (
                    0,
                    10,
                ):  # jaxlib 0.8 folds convolutions wrongly
                    together[position] = lambda _, function=function, arrays=self.arrays[position]: function(
                        {name: jnp.asarray(a) for name, a in arrays.items()}
                    )
                else:
                    together[position] = function
            except Exception as error:
                self.note(position, error)
        if together:
            say(step="run")
            results, raised = attempt(together, {position: self.arrays[position] for position in together})
            self.results |= results
            for position, error in raised.items():
                self.note(position, error)

    def note(self, position, error):
        """An exception of ours: a finding unless it is that a named lowering is unable."""
        if UNABLE in str(error) and self.cases[position].keywords.get("implementation"):
            self.counts["unable"] += 1
            return
        what = brief(error)
        if type(error) not in (ValueError, TypeError):
            what += "\n" + "".join(traceback.format_exception(error)[-3:])[-600:]
        self.fail(position, "exception", what)

    def check(self):
        """Compares with the oracle."""
        for position, results in self.results.items():
            case = self.cases[position]
            self.wanted[position] = checks.wanted(case, self.windows[position], self.arrays[position])
            names = ["y", "dx", "dw", "db"] if "vjp" in case.transform else [f"result {i}" for i in range(9)]
            self.counts[case.transform if case.transform != "vjp" else "plain"] += 1
            for name, actual, wanted in zip(names, results, self.wanted[position], strict=False):
                if (what := checks.difference(actual, wanted)) is not None:
                    self.fail(position, "wrong", f"{name}: {what}")
                    break

    def ask_peers(self):
        """Compares other frameworks with the oracle, for calls that are not transformed."""
        jobs = {}
        for position in self.wanted:
            case = self.cases[position]
            if TRANSFORMS[case.transform].once and not TRANSFORMS[case.transform].lead:
                for name in peers.chosen(case, self.rng):
                    jobs[position, name] = case
        compiled, plain = {}, {}
        for (position, name), case in jobs.items():
            say(step="peer", position=position, peer=name)
            window, arrays = self.windows[position], self.arrays[position]
            try:
                if name in peers.EAGER:
                    plain[position, name] = peers.EAGER[name](case, window, arrays)
                else:
                    compiled[position, name] = program(case._replace(transform=_base(case)), peers.traced(name, case, window))
            except peers.LacksError as why:
                self.other(position, name, "lacks", str(why))
            except Exception as error:
                self.other(position, name, "refuses", brief(error))
        if compiled:
            say(step="peer", peer=" ".join(sorted({name for _, name in compiled})))
            try:
                results, raised = attempt(compiled, {key: self.arrays[key[0]] for key in compiled})
                for (position, name), error in raised.items():
                    self.other(position, name, "refuses", brief(error))
                plain |= results
            except Exception as error:
                self.other(0, "compiled", "refuses", brief(error))
        wrong = {position for position, kind, _ in self.failures if kind == "wrong"}
        for (position, name), results in plain.items():
            self.compare(position, name, results, position in wrong)

    def compare(self, position, name, results, we_are_wrong):
        """Notes whether a peer agrees with the oracle, and if not, whether it agrees with us."""
        narrow = self.cases[position].dtype in checks.NARROW
        for label, theirs, ours, wanted in zip(
            ["y", "dx", "dw", "db"], results, self.results[position], self.wanted[position], strict=False
        ):
            theirs = np.asarray(theirs)
            loose = 0.05 if narrow else 1e-5 if wanted.dtype in ("float32", "complex64") else 1e-12
            what = checks.difference(theirs if theirs.dtype.kind != "i" else theirs.astype(dtype_of(wanted.dtype)), wanted, loose)
            if what is not None:
                own = wanted._replace(values=np.asarray(ours).astype(wanted.values.dtype))
                same = we_are_wrong and theirs.shape == ours.shape and checks.difference(theirs, own, loose) is None
                self.other(position, name, "agrees with us" if same else f"differs in {label}", what)
                return
        self.other(position, name, "agrees", "")

    def other(self, position, name, how, what):
        """Notes what a peer did."""
        self.others.append((position, name, how, what))


def _base(case):
    return "vjp" if case.differentiable else "primal"


def serve(request):
    """Answers one request."""
    if "cases" in request:
        cases = [parse(text) for text in request["cases"]]
    else:
        cases = [draw(request["front"], request["seed"], index) for index in request["indices"]]
    jax.config.update("jax_enable_x64", cases[0].x64)
    group = Group(cases, request.get("indices", [0])[0])
    group.prepare()
    try:
        group.run()
    except Exception as error:  # compiling or running the whole
        failure = (None, "group") if len(cases) > 1 else (0, "exception")
        say(done=True, failures=[(*failure, brief(error))], counts={}, others=[])
        return
    group.check()
    if request["peers"]:
        group.ask_peers()
    group.counts["cases"] = len(cases)
    say(done=True, failures=group.failures, counts=group.counts, others=group.others)


def main():
    """Serves until standard input ends."""
    gc.set_threshold(100_000, 50, 50)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_traceback_in_locations_limit", 0)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    if os.environ.get("CAMPAIGN_CPU_ALONE"):
        # where three platforms are traced, and two dropped
        lax.platform_dependent = lambda *operands, cpu=None, default, **_: (cpu or default)(*operands)
    say(ready=True, jax=jax.__version__, jaxdeconv=str(jaxdeconv.__path__[0]), devices=len(jax.devices()))
    for count, line in enumerate(sys.stdin, 1):
        serve(json.loads(line))
        if count % 10 == 0:
            jax.clear_caches()
            gc.collect()


if __name__ == "__main__":
    main()

"""Processes that run cases, and what becomes of them: deaths and hangs are findings, and the campaign goes on."""

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from campaign import shrink
from campaign.draw import GROUP, draw

ROOT = Path(__file__).parent.parent
CHUNK = 8  # groups of one front-end after another
LIFE = 80  # groups that one process runs
# Tracing and compiling are most of the time. These emit simpler code, of the same operations, and their processes trace the choice
# for CPU alone; one chunk in PLAIN is traced and compiled as users have it.
FAST = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
PLAIN = 10
SHRUNK = 2  # failures alike that are made small; others are counted
# What glibc puts into memory that it hands out and takes back, and no returning of it to the system.
MEMORY = {"MALLOC_PERTURB_": "129", "MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "100000000"}


class WorkerError(Exception):
    """The process ended, or was ended because it hung; `step` is what it last said it was doing."""

    def __init__(self, how, step, last):
        super().__init__(how)
        self.how, self.step, self.last = how, step, last
        self.kind = "hang" if how.startswith("no answer") else "abort" if "status -" in how else "fault of the campaign"


class Worker:
    """One process at a time, started again where it dies."""

    def __init__(self, flags=(), devices=1):
        self.alone = bool(flags)  # whether CPU is the only platform that is traced
        self.flags = [*flags, *([f"--xla_force_host_platform_device_count={devices}"] if devices > 1 else [])]
        self.process, self.served = None, 0

    def _start(self):
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
        flags = " ".join([os.environ.get("XLA_FLAGS", ""), *self.flags])
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
        environment = os.environ | MEMORY | quiet | {"XLA_FLAGS": flags, "PYTHONPATH": path}
        environment |= {"CAMPAIGN_CPU_ALONE": "1"} if self.alone else {}
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "campaign.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.lines, self.served = queue.Queue(), 0
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True).start()
        self.step = {"step": "start"}
        self.about = self._answer("ready", 300)

    @staticmethod
    def _read(process, lines):
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    def _answer(self, key, seconds):
        end = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                self.stop()
                raise WorkerError(f"no answer in {seconds} s", self.step, "") from None
            if line is None:
                code = self.process.wait()
                self.errors.seek(0)
                last = self.errors.read()[-1500:]
                self.stop()
                raise WorkerError(f"ended with status {code}", self.step, last)
            with contextlib.suppress(ValueError):  # what a library prints is not for us
                message = json.loads(line)
                if key in message:
                    return message
                self.step = message

    def ask(self, seconds=300, **request):
        """The answer to a request; raises WorkerError."""
        if self.process is None:
            self._start()
        self.step, self.served = {"step": "start"}, self.served + 1
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self._answer("done", seconds)

    def failure(self, case, seconds=120):
        """None, or the kind and the text of what is wrong with one case alone."""
        try:
            answer = self.ask(seconds, cases=[case.text], peers=False)
        except WorkerError as death:
            return death.kind, f"{death.how}; {death.last.strip()[-700:]}"
        return next(((kind, what) for _, kind, what in answer["failures"]), None)

    def stop(self):
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
            self.process = None


class Finding(NamedTuple):
    """What was found, in which case, and how to see it."""

    front: str
    seed: int
    index: int
    kind: str
    what: str
    flags: str
    case: str
    code: str = ""


class Campaign:
    """Counts and findings of all front-ends, gathered by a few threads that each have a worker."""

    def __init__(self, fronts, seed, cases, deadline, workers, show):
        self.fronts, self.seed, self.cases, self.deadline, self.show = fronts, seed, cases, deadline, show
        self.workers, self.lock, self.begin = workers, threading.Lock(), time.monotonic()
        self.done, self.counts, self.peers, self.findings = Counter(), Counter(), Counter(), []
        self.examples, self.alike, self.about = {}, Counter(), None
        self.fast = _known(FAST)
        self.stopping = False

    @property
    def over(self):
        """Whether to begin nothing more."""
        return self.stopping or (self.deadline is not None and time.monotonic() > self.deadline)

    def chunks(self):
        """(front, number, indices of each group), front-ends in turn."""
        for number in itertools.count():
            first = number * CHUNK * GROUP
            if self.cases is not None and first >= self.cases:
                return
            for front in self.fronts:
                last = first + CHUNK * GROUP if self.cases is None else min(self.cases, first + CHUNK * GROUP)
                yield front, number, [list(range(i, min(i + GROUP, last))) for i in range(first, last, GROUP)]

    def run(self):
        """Until all cases are run or the time is up."""
        chunks = self.chunks()

        def work():
            workers = {}
            while not self.over:
                with self.lock:
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                front, number, groups = chunk
                kind = () if number % PLAIN == PLAIN - 1 else self.fast, 8 if front == "sharded" else 1
                worker = workers.setdefault(kind, Worker(*kind))
                for indices in groups:
                    if not self.over:
                        self.group(worker, front, indices)
                        self.show(self)
                if worker.served > LIFE:
                    worker.stop()
            for worker in workers.values():
                worker.stop()

        def watched():
            try:
                work()
            except Exception:
                self.findings.append(Finding("", self.seed, 0, "fault of the campaign", traceback.format_exc(), "", ""))
                traceback.print_exc()

        threads = [threading.Thread(target=watched, daemon=True) for _ in range(self.workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(1)
        except KeyboardInterrupt:
            self.stopping = True
            for thread in threads:
                thread.join(5)

    def group(self, worker, front, indices, peers=True):
        """One group, and if something is wrong, its cases one by one."""
        try:
            answer = worker.ask(front=front, seed=self.seed, indices=indices, peers=peers)
        except WorkerError as death:
            if death.step.get("step") == "peer":  # not ours
                with self.lock:
                    self.peers[front, death.step["peer"], "aborts"] += 1
                    self.examples.setdefault((front, death.step["peer"], "aborts"), death.last[-300:])
                return self.group(worker, front, indices, peers=False)
            return self.alone(worker, front, indices, death.kind, f"{death.how}; {death.last.strip()[-700:]}")
        if any(position is None for position, _, _ in answer["failures"]):
            return self.alone(worker, front, indices, "group", answer["failures"][0][2])
        self.about = worker.about
        with self.lock:
            self.done[front] += len(indices)
            self.counts.update({(front, name): count for name, count in answer["counts"].items()})
            for position, peer, how, what in answer["others"]:
                key = front, peer, how
                self.peers[key] += 1
                if how not in ("agrees", "lacks"):
                    self.examples.setdefault(key, f"{what} in {draw(front, self.seed, indices[position])!r}")
        for position, kind, what in answer["failures"]:
            self.found(worker, front, indices[position], kind, what)
        return None

    def alone(self, worker, front, indices, kind, what):
        """Cases of a group that failed as a whole."""
        failed = False
        for index in indices:
            if (failure := worker.failure(draw(front, self.seed, index))) is not None:
                failed = True
                self.found(worker, front, index, *failure)
        with self.lock:
            self.done[front] += len(indices)
        if not failed:
            self.found(worker, front, indices[0], f"{kind} of {len(indices)} cases together", what, small=False)

    def found(self, worker, front, index, kind, what, small=True):
        """Records a finding, made small unless enough like it have been."""
        case = draw(front, self.seed, index)
        alike = front, kind, shrink.signature(what)
        with self.lock:
            self.alike[alike] += 1
            few = self.alike[alike] <= SHRUNK
        code = ""
        if few and small:
            case, kind, what = shrink.shrink(case, kind, what, worker.failure)
            code = shrink.code(case, kind, what)
        finding = Finding(front, self.seed, index, kind, what, " ".join(worker.flags), repr(case), code)
        with self.lock:
            if code and any(finding.case == other.case and finding.kind == other.kind for other in self.findings):
                code = ""
            self.findings.append(finding)
        if code:
            self.show(self, finding)


def _known(flags):
    """Those of the flags that this XLA knows; it aborts at others."""
    kept = []
    for flag in flags:
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}", "JAX_PLATFORMS": "cpu"}
        if subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0:
            kept.append(flag)
    return tuple(kept)

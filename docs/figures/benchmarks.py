"""Writes the records in ../benchmarks/, of `python -m benchmarks ... --json` on CPU and of `benchmarks.estimates`, into the pages,
and draws them into ../img/.

Run with `python docs/figures/benchmarks.py`; needs matplotlib. What stands between `<!-- FIGURES name -->` and `<!-- /FIGURES -->` in
the README or a page is replaced by what FIGURES has of that name; where there is no such record, it stays. --check writes nothing and
fails if a page would change.
"""

import argparse
import json
import os
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # before this folder, in which `benchmarks` is this file

from benchmarks import accelerate, estimates, inside
from benchmarks.compare import OURS, ratios
from benchmarks.layers import LAYERS, QUICK
from benchmarks.lowerings import CONTRACTIONS, IMPLEMENTATIONS, MIXTURE, columns
from benchmarks.peers import MODES
from benchmarks.plots import plot_ratios, plot_scaling
from benchmarks.tables import geometric_mean, milliseconds, ratio, table
from benchmarks.variants import LAYOUTS, TORCH, pair_report

Record = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
GOALS = {"forward": (1.3, 0.9), "train": (1.5, 0.9)}  # of the fastest peer's time over ours: the geometric mean, the least
AUTODIFF = 20  # of lax's, in training
SHOWN = ("hifigan.up1.b1", "hifigan.up2.b1", "hifigan.up3.b16", "encodec.up2.b1", "dcgan.up4.b16", "unet3d.k3.b1")
NAMES = {layer.name: layer for layer in LAYERS}
FACTOR = {"forward": 1, "train": 3}


def kind(record: Record) -> str:
    """Which option of `python -m benchmarks` wrote it."""
    if "chip" in record["environment"]:
        return "estimates"
    if "inside" in record:
        return "inside random" if record["random"] else "inside"
    if "accelerate" in record:
        return "accelerate random" if record["random"] else "accelerate"
    if "sweeps" in record:
        return "scaling"
    case = record["cases"][0]
    if "contraction" in case:
        return (
            "lowerings" if not record.get("random") else "lowerings random" if record["channels_last"] else "lowerings random first"
        )
    if "jaxdeconv torch" in next(iter(case["modes"].values()))["seconds"]:
        return "torch random"
    if "jaxdeconv NCW" in next(iter(case["modes"].values()))["seconds"]:
        return "layouts"
    return "comparison random" if record.get("random") else "comparison"


def environment(record: Record, source: str) -> str:
    found = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    where = f"{found['cpu']}, {found['cores']} cores, {record['dtype']}, {found['date'][:10]}; {versions}"
    return f"Recorded in [{source}](benchmarks/{source}): {where}."


def name(case: Record) -> str:
    return str(case["layer"]["name"])


def fastest(case: Record, mode: str) -> tuple[str, float]:
    """The fastest peer and its seconds."""
    others = {peer: each for peer, each in case["modes"][mode]["seconds"].items() if peer != OURS}
    return min(others.items(), key=lambda item: item[1])


def comparison(record: Record, mode: str) -> str:
    rows = []
    for case in record["cases"]:
        ours, flops = case["modes"][mode]["seconds"][OURS], FACTOR[mode] * case["flops"]
        peer, theirs = fastest(case, mode)
        found = ratios(case, mode)
        share = f"{100 * flops / ours / record['matrix_rate']:.0f}%"
        times = [milliseconds(ours), peer, milliseconds(theirs)]
        rows.append([name(case), *times, ratio(found["best"]), ratio(found.get("lax")), share])
    return table(["case", "jaxdeconv ms", "fastest peer", "its ms", "its ratio", "lax ratio", "of matrix rate"], rows)


def summary(record: Record, source: str) -> str:
    rows = []
    for mode in MODES:
        best = {name(case): ratios(case, mode)["best"] for case in record["cases"]}
        mean, least = GOALS[mode]
        worst = min(best, key=best.__getitem__)
        found = f"{ratio(best[worst])} ({worst}), below in {sum(value < least for value in best.values())} of {len(best)}"
        rows.append([f"{mode}: fastest peer, geometric mean", f"{mean}x", ratio(geometric_mean(list(best.values())))])
        rows.append([f"{mode}: fastest peer, least", f"{least}x", found])
    for mode, goal in (("forward", "-"), ("train", f"{AUTODIFF}x")):
        lax = [ratios(case, mode)["lax"] for case in record["cases"]]
        found = f"{ratio(geometric_mean(lax))}, from {ratio(min(lax))} to {ratio(max(lax))}"
        rows.append([f"{mode}: lax, geometric mean", goal, found])
    figure = "![Time of the fastest peer and of lax over that of jaxdeconv, for each case](img/benchmarks.svg)"
    rate = f"The matrix rate was {record['matrix_rate'] / 1e9:.0f} GFLOP/s."
    return f"{table(['ratio', 'goal', 'reached'], rows)}\n\n{environment(record, source)} {rate}\n\n{figure}"


def compilation(record: Record, source: str) -> str:
    rows = []
    for mode in MODES:
        each = {name(case): case["modes"][mode] for case in record["cases"]}
        times = {case: (found["compile"][OURS]["seconds"], found["compile"]["lax"]["seconds"]) for case, found in each.items()}
        held = {case: found["compile"][OURS]["temporary_bytes"] / max(found["operand_bytes"]) for case, found in each.items()}
        slowest, largest = max(times, key=lambda case: times[case][0]), max(held, key=held.__getitem__)
        medians = [milliseconds(statistics.median(side)) for side in zip(*times.values(), strict=True)]
        most = f"{milliseconds(times[slowest][0])} ({slowest})"
        rows.append([mode, *medians, most, f"{statistics.median(held.values()):.2f}", f"{held[largest]:.2f} ({largest})"])
    headers = ["", "compile ms, median", "lax ms, median", "compile ms, most", "temporaries / largest operand, median", "most"]
    return table(headers, rows)


def shown(record: Record, source: str) -> str:
    """The few layers of the README and of the page on gradients."""
    found = {name(case): case for case in record["cases"]}
    rows = []
    for case in SHOWN:
        if case in found:
            forward, train = (found[case]["modes"][mode]["seconds"] for mode in MODES)
            lax = f"{milliseconds(train['lax'])} ms, {ratio(train['lax'] / train[OURS])}"
            rows.append([label(case), milliseconds(forward[OURS]), milliseconds(train[OURS]), lax])
    headers = ["layer (batch, size, in, out, kernel, stride)", "forward ms", "with both gradients ms", "the same by JAX's autodiff"]
    return table(headers, rows)


def label(case: str) -> str:
    layer = NAMES[case]
    numbers = layer.batch, "x".join(map(str, layer.size)), layer.in_channels, layer.out_channels, layer.kernel[0], layer.strides[0]
    return f"{case} ({', '.join(map(str, numbers))})"


COLUMNS = (*IMPLEMENTATIONS, MIXTURE)


def column(name: str) -> str:
    """Where a lowering is counted."""
    return name if name in IMPLEMENTATIONS else MIXTURE


def lowerings(record: Record, source: str) -> str:
    """The choices against the best, and the times of a few layers."""
    summary, rows = [], []
    for letter in CONTRACTIONS:
        cases = [case for case in record["cases"] if case["contraction"] == letter]
        regret = {name(case): case["regret"] for case in cases}
        worst = max(regret, key=regret.__getitem__)
        fastest_ones, chosen = [column(best(case)) for case in cases], [column(case["chosen"]) for case in cases]
        counts = [f"{fastest_ones.count(each)}, {chosen.count(each)}" for each in COLUMNS]
        summary.append([letter, *counts, f"{geometric_mean(list(regret.values())):.3f}x", f"{ratio(regret[worst])} ({worst})"])
    for case in record["cases"]:
        if name(case) in QUICK or case["regret"] > 1.2:
            times = map(milliseconds, columns(case["seconds"]))
            rows.append([f"{name(case)} {case['contraction']}", *times, case["chosen"], ratio(case["regret"])])
    counted = table(["", *(f"{each}: fastest, chosen" for each in COLUMNS), "regret, mean", "regret, worst"], summary)
    timed = table(["case", *(f"{each} ms" for each in COLUMNS), "chosen", "regret"], rows)
    text = "In how many layers each lowering is the fastest, in how many it is chosen, and the regret (geometric mean):"
    return f"{text}\n\n{counted}\n\nA few layers, and all with a regret above 1.2x:\n\n{timed}\n\n{environment(record, source)}"


def sizes_of(layer: Record) -> str:
    """A random layer in words."""
    size = "x".join(map(str, layer["size"]))
    text = f"{len(layer['size'])}-D ({layer['batch']}, {size}, {layer['in_channels']} to {layer['out_channels']}"
    text += f", k {layer['kernel'][0]}, s {layer['strides'][0]}"
    text += f", d {layer['dilations'][0]}" if max(layer["dilations"]) > 1 else ""
    return text + (f", groups {layer['groups']})" if layer["groups"] > 1 else ")")


NOTED, LONG = 1.5, 2e-4  # a regret, and the seconds from which it matters


def random_lowerings(record: Record, source: str) -> str:
    """What the choice costs on random layers, and where the most."""
    rows, noted = [], []
    for letter in CONTRACTIONS:
        cases = [case for case in record["cases"] if case["contraction"] == letter]
        regrets = [case["regret"] for case in cases]
        far = [case for case in cases if case["regret"] > NOTED and case["seconds"][case["chosen"]] > LONG]
        mixtures = sum("," in case["chosen"] for case in cases)
        rows.append([letter, str(len(cases)), ratio(geometric_mean(regrets)), ratio(max(regrets)), str(len(far)), str(mixtures)])
        noted += far
    headers = ["", "layers", "regret, mean", "worst", f"above {NOTED}x and {1e3 * LONG:.1f} ms", "a mixture is chosen"]
    worst = [
        [
            sizes_of(case["layer"]),
            case["contraction"],
            f"{case['chosen']}, {milliseconds(case['seconds'][case['chosen']])}",
            f"{best(case)}, {milliseconds(case['seconds'][best(case)])}",
            ratio(case["regret"]),
        ]
        for case in sorted(noted, key=lambda case: -case["regret"])
    ]
    text = table(headers, rows)
    if worst:
        text += "\n\n" + table(["layer", "", "chosen, ms", "fastest, ms", "regret"], worst)
    return f"{text}\n\nSeed {record['seed']}. {environment(record, source)}"


LIMITS = (1, 0.9, 0.7, 0.4)


def random_pair(record: Record, source: str, pair: Sequence[str], far: float) -> str:
    """Random layers by this library and by another one, and those where the ratio of the times is below `far`."""
    rows, worst = [], []
    for mode in MODES:
        found = {}
        for case in record["cases"]:
            seconds = case["modes"][mode]["seconds"]
            if set(pair) <= set(seconds):
                ours, theirs = (seconds[each] for each in pair)
                found[name(case)] = theirs / ours
                if theirs / ours < far:
                    worst.append([sizes_of(case["layer"]), mode, milliseconds(ours), milliseconds(theirs), ratio(theirs / ours)])
        values = list(found.values())
        below = [str(sum(value < limit for value in values)) for limit in LIMITS]
        rows.append([mode, str(len(values)), ratio(geometric_mean(values)), *below, ratio(min(values)), ratio(max(values))])
    ours, theirs = (each.replace("jaxdeconv torch", "jaxdeconv.torch") for each in pair)
    text = table(["", "layers", f"{theirs} / {ours}, mean", *(f"below {limit}x" for limit in LIMITS), "least", "most"], rows)
    if worst:
        text += "\n\n" + table([f"layer below {far}x", "", f"{ours} ms", f"{theirs} ms", "ratio"], worst)
    return f"{text}\n\nSeed {record['seed']}. {environment(record, source)}"


def best(case: Record) -> str:
    return min(case["seconds"], key=case["seconds"].__getitem__)


def scaling(record: Record, source: str) -> str:
    rows = []
    for quantity, sweep in record["sweeps"].items():
        found = [", ".join(f"{each:.2f}" for each in sweep["exponents"][mode]) for mode in MODES]
        rows.append([quantity, f"{sweep['values'][0]} to {sweep['values'][-1]}", *found])
    headers = ["", "range", *(f"{mode}: exponent of each decade" for mode in MODES)]
    figure = "![Time over width, batch and channels](img/scaling.svg)"
    return f"{table(headers, rows)}\n\n{figure}\n\n{environment(record, source)}"


def layouts(record: Record, source: str) -> str:
    return f"{pair_report(record, LAYOUTS, MODES)}\n\n{environment(record, source)}"


def inside_programs(record: Record, source: str) -> str:
    return f"{inside.inside_report(record)}\n\n{environment(record, source)}"


def accelerated(record: Record, source: str) -> str:
    return f"{accelerate.accelerated_report(record)}\n\n{environment(record, source)}"


def estimated(record: Record, source: str) -> str:
    found = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    where = f"compiled for {found['chip']}, {record['dtype']}, {found['date'][:10]}; {versions}"
    report = estimates.report(record, QUICK)
    count = len(record["cases"])
    return f"A few layers; the means are of {count}.\n\n{report}\n\nRecorded in [{source}](benchmarks/{source}): {where}."


FIGURES: Mapping[str, tuple[str, Callable[[Record, str], str]]] = {
    "summary": ("comparison", summary),
    "forward": ("comparison", lambda record, source: comparison(record, "forward")),
    "train": ("comparison", lambda record, source: comparison(record, "train")),
    "compile": ("comparison", compilation),
    "shown": ("comparison", shown),
    "lowerings": ("lowerings", lowerings),
    "lowerings-random": ("lowerings random", random_lowerings),
    "lowerings-random-first": ("lowerings random first", random_lowerings),
    "torch-random": ("torch random", lambda record, source: random_pair(record, source, TORCH, 0.5)),
    "lax-random": ("comparison random", lambda record, source: random_pair(record, source, ("jaxdeconv", "lax"), 0.9)),
    "scaling": ("scaling", scaling),
    "layouts": ("layouts", layouts),
    "inside": ("inside", inside_programs),
    "inside-random": ("inside random", inside_programs),
    "accelerated": ("accelerate", accelerated),
    "accelerated-random": ("accelerate random", accelerated),
    "tpu": ("estimates", estimated),
}
"""By name: the kind of record, and the Markdown that is made of one."""


def records() -> dict[str, tuple[Record, str]]:
    """By kind, those recorded on CPU or estimated, and their file's name."""
    found = {}
    for path in sorted((DOCS / "benchmarks").glob("*.json")):
        record = json.loads(path.read_text())
        made = record.get("environment", {})
        if made.get("device") == "cpu" or "chip" in made:
            found[kind(record)] = record, path.name
    return found


def filled(text: str, found: Mapping[str, tuple[Record, str]]) -> str:
    def figure(match: re.Match[str]) -> str:
        wanted, function = FIGURES.get(match[1], (None, None))
        if wanted not in found:
            return match[0]
        return f"<!-- FIGURES {match[1]} -->\n{function(*found[wanted])}\n<!-- /FIGURES -->"

    return re.sub(r"<!-- FIGURES (\S+) -->\n.*?<!-- /FIGURES -->", figure, text, flags=re.DOTALL)


def draw(found: Mapping[str, tuple[Record, str]]) -> None:
    os.environ["SOURCE_DATE_EPOCH"] = "0"  # the same record gives the same file
    if "comparison" in found:
        plot_ratios(found["comparison"][0], MODES, DOCS / "img" / "benchmarks.svg")
    if "scaling" in found:
        plot_scaling(found["scaling"][0], MODES, DOCS / "img" / "scaling.svg")


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the records of docs/benchmarks into the pages, and draws them.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page would change")
    check = parser.parse_args().check
    found = records()
    stale = [page for page in PAGES if filled(page.read_text(), found) != page.read_text()]
    if check:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is not what docs/benchmarks has: run python docs/figures/benchmarks.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(filled(page.read_text(), found))
    draw(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

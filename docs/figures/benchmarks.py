"""Writes the records in ../benchmarks/, of `python -m benchmarks ... --json` on CPU and of `benchmarks.estimates`, into the pages,
and draws them into ../img/. A ratio is the time of the other over that of jaxdeconv, and a cell has one quantity.

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

from matplotlib import style

sys.path.insert(0, str(Path(__file__).parents[2]))  # before this folder, in which `benchmarks` is this file

from benchmarks import accelerate, estimates, inside
from benchmarks.compare import OURS, ratios
from benchmarks.layers import LAYERS, QUICK
from benchmarks.lowerings import CONTRACTIONS, IMPLEMENTATIONS, MIXTURE, columns, regret_by_others
from benchmarks.peers import MODES
from benchmarks.plots import plot_ratios, plot_scaling, plot_training
from benchmarks.tables import digits, geometric_mean, milliseconds, ratio, table
from benchmarks.variants import LAYOUTS, TORCH, pair_report

Record = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
GOALS = {"forward": (1.3, 0.9), "train": (1.5, 0.9)}  # of the fastest peer's time over ours: the geometric mean, the least
AUTODIFF = {"forward": (None, None), "train": (20, None)}  # of lax's
LAX = ("jaxdeconv", "lax")
SHOWN = ("hifigan.up1.b1", "hifigan.up2.b1", "hifigan.up3.b16", "encodec.up2.b1", "dcgan.up4.b16", "unet3d.k3.b1")
NAMES = {layer.name: layer for layer in LAYERS}
FACTOR = {"forward": 1, "train": 3}


def kind(record: Record) -> str:
    """Which option of `python -m benchmarks` wrote it."""
    if "chip" in record["environment"]:
        return ("estimates random" if record["random"] else "estimates") + (" between" if record["between"] else "")
    if "repositories" in record:
        return "repositories"
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
    """The line below a table: the file, which is a link, the processor and the versions."""
    found = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    where = f"{found['cpu']}, {found['cores']} cores, {record['dtype']}, {found['date'][:10]}; {versions}"
    return f"Recorded in {source}: {where}."


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
    return table(["case", "jaxdeconv ms", "fastest peer", "its ms", "fastest / ours", "lax / ours", "of matrix rate"], rows)


def summary(record: Record, source: str) -> str:
    rows = []
    for mode in MODES:
        for peer, goals in (("best", GOALS[mode]), ("lax", AUTODIFF[mode])):
            found = {name(case): ratios(case, mode)[peer] for case in record["cases"]}
            least = min(found, key=found.__getitem__)
            mean, goal, low = geometric_mean(list(found.values())), *(ratio(each) for each in goals)
            below = str(sum(value < 1 for value in found.values()))
            row = [f"{mode}, {'the fastest peer' if peer == 'best' else 'lax'}", ratio(mean), goal, ratio(found[least]), low]
            rows.append([*row, least, below, ratio(max(found.values()))])
    headers = ["ratio", "mean", "goal", "least", "goal", "which is", f"below 1x, of {len(record['cases'])}", "most"]
    figure = "![Time of the fastest peer and of lax over that of jaxdeconv, for each case](img/benchmarks.svg)"
    rate = f"The matrix rate was {record['matrix_rate'] / 1e9:.0f} GFLOP/s."
    return f"{table(headers, rows)}\n\n{environment(record, source)} {rate}\n\n{figure}"


def compilation(record: Record, source: str) -> str:
    rows = []
    for mode in MODES:
        each = {name(case): case["modes"][mode] for case in record["cases"]}
        times = {case: (found["compile"][OURS]["seconds"], found["compile"]["lax"]["seconds"]) for case, found in each.items()}
        held = {case: found["compile"][OURS]["temporary_bytes"] / max(found["operand_bytes"]) for case, found in each.items()}
        slowest, largest = max(times, key=lambda case: times[case][0]), max(held, key=held.__getitem__)
        medians = [milliseconds(statistics.median(side)) for side in zip(*times.values(), strict=True)]
        most = [milliseconds(times[slowest][0]), slowest]
        rows.append([mode, *medians, *most, f"{statistics.median(held.values()):.2f}", f"{held[largest]:.2f}", largest])
    headers = ["", "compile ms, median", "lax ms, median", "compile ms, most", "which is"]
    return table([*headers, "temporaries / largest operand, median", "most", "which is"], rows)


def of_torch(case: Record, mode: str) -> float | None:
    """The seconds of the faster of torch's two layouts."""
    seconds = case["modes"][mode]["seconds"]
    return min((seconds[peer] for peer in ("torch", "torch channels_last") if peer in seconds), default=None)


def over(theirs: float | None, ours: float) -> str:
    return ratio(theirs and theirs / ours)


def shown(record: Record, source: str) -> str:
    """The few layers of the README and of the page on gradients."""
    found = {name(case): case for case in record["cases"]}
    rows = []
    for case in (found[each] for each in SHOWN if each in found):
        row = [label(name(case))]
        for mode in MODES:
            seconds = case["modes"][mode]["seconds"]
            row += [milliseconds(seconds[OURS]), over(seconds["lax"], seconds[OURS]), over(of_torch(case, mode), seconds[OURS])]
        rows.append(row)
    headers = ["layer (batch, size, in, out, kernel, stride)", "forward ms", "lax", "torch", "with both gradients ms", "lax", "torch"]
    return f"{table(headers, rows)}\n\n{environment(record, source)}"


def random_summary(lax: Record, lax_source: str, torch: Record, torch_source: str) -> str:
    """What two other libraries take on random layers, in short."""
    rows = []
    for mode in MODES:
        for record, pair in ((lax, LAX), (torch, TORCH)):
            values = sorted(pair_ratios(record, pair, mode).values())
            below = str(sum(value < 1 for value in values))
            rows.append([f"{mode}, {pair[1]}", str(len(values)), *map(ratio, (geometric_mean(values), values[0], values[-1])), below])
    text = table(["", "layers", "mean", "least", "most", "below 1x"], rows)
    return f"{text}\n\n{environment(lax, f'{lax_source} and {torch_source}')}"


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
    summary, regrets, rows = [], [], []
    for letter in CONTRACTIONS:
        cases = [case for case in record["cases"] if case["contraction"] == letter]
        regret = {name(case): case["regret"] for case in cases}
        worst = max(regret, key=regret.__getitem__)
        fastest_ones, chosen = [column(best(case)) for case in cases], [column(case["chosen"]) for case in cases]
        for what, of in (("fastest", fastest_ones), ("chosen", chosen)):
            summary.append([f"{letter}, {what}", *(str(of.count(each)) for each in COLUMNS)])
        regrets.append([letter, f"{geometric_mean(list(regret.values())):.3f}x", ratio(regret[worst]), worst])
    for case in record["cases"]:
        if name(case) in QUICK or case["regret"] > 1.2:
            times = map(milliseconds, columns(case["seconds"]))
            rows.append([f"{name(case)} {case['contraction']}", *times, case["chosen"], ratio(case["regret"])])
    counted = table(["layers", *COLUMNS], summary)
    cost = table(["", "regret, mean", "worst", "which is"], regrets)
    timed = table(["case", *(f"{each} ms" for each in COLUMNS), "chosen", "regret"], rows)
    texts = (
        "In how many layers each lowering is the fastest, and in how many it is chosen:",
        counted,
        "The regret, of which the mean is geometric:",
        cost,
        "A few layers, and all with a regret above 1.2x:",
        timed,
        environment(record, source),
    )
    return "\n\n".join(texts)


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
        mixtures = sum(case["chosen"] not in IMPLEMENTATIONS for case in cases)
        found = [regret_by_others(case["samples"], case["chosen"]) for case in cases]
        costs = [ratio(cost) for each in (regrets, found) for cost in (geometric_mean(each), max(each))]
        rows.append([letter, str(len(cases)), *costs, str(len(far)), str(mixtures)])
        noted += far
    headers = [
        "",
        "layers",
        "regret, mean",
        "worst",
        "by other rounds, mean",
        "worst",
        f"above {NOTED}x and {1e3 * LONG:.1f} ms",
        "a mixture is chosen",
    ]
    worst = [
        [
            sizes_of(case["layer"]),
            case["contraction"],
            case["chosen"],
            milliseconds(case["seconds"][case["chosen"]]),
            best(case),
            milliseconds(case["seconds"][best(case)]),
            ratio(case["regret"]),
        ]
        for case in sorted(noted, key=lambda case: -case["regret"])
    ]
    text = table(headers, rows)
    if worst:
        text += "\n\n" + table(["layer", "", "chosen", "ms", "fastest", "ms", "regret"], worst)
    return f"{text}\n\nSeed {record['seed']}. {environment(record, source)}"


LIMITS = (1, 0.9, 0.7, 0.4)


def pair_ratios(record: Record, pair: Sequence[str], mode: str) -> dict[str, float]:
    """The time of the second over that of the first, by layer."""
    seconds = {name(case): case["modes"][mode]["seconds"] for case in record["cases"]}
    return {each: found[pair[1]] / found[pair[0]] for each, found in seconds.items() if set(pair) <= set(found)}


def random_pair(record: Record, source: str, pair: Sequence[str], far: float) -> str:
    """Random layers by this library and by another one, and those where the ratio of the times is below `far`."""
    rows, worst = [], []
    cases = {name(case): case for case in record["cases"]}
    for mode in MODES:
        found = pair_ratios(record, pair, mode)
        for layer, value in found.items():
            if value < far:
                ours, theirs = (cases[layer]["modes"][mode]["seconds"][each] for each in pair)
                worst.append([sizes_of(cases[layer]["layer"]), mode, milliseconds(ours), milliseconds(theirs), ratio(value)])
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


def repositories(record: Record, source: str) -> str:
    """Published repositories as they are, before and after."""
    headers, rows = ["repository", "model", "commit", "framework"], []
    headers += [f"{what} ms, {when}" for what in ("step", "4 in a scan", "forward") for when in ("as it is", "accelerated")]
    for each in record["repositories"]:
        times = [each["seconds"][f"{how}{what}"] for what in ("step", "scan", "forward") for how in ("", "accelerated ")]
        where = [each["repository"], each["model"], each["commit"][:8], each["framework"]]
        rows.append([*where, *map(milliseconds, times)])
    return f"{table(headers, rows)}\n\n{environment(record, source)}"


def accelerated_ratios(found: Sequence[Record], what: str) -> list[float]:
    return [each["seconds"][what] / each["seconds"][f"accelerated {what}"] for each in found]


def repositories_summary(record: Record, source: str) -> str:
    """In a sentence or two, for the README."""
    texts = []
    for what in ("step", "scan"):
        values = accelerated_ratios(record["repositories"], what)
        mean, least, most = (digits(each) for each in (geometric_mean(values), min(values), max(values)))
        texts.append(f"{mean} times as fast in the mean, {least} at least and {most} at most")
    count = len(record["repositories"])
    text = f"So it was tried on {count} published repositories. A training step is {texts[0]}. Four in a `lax.scan` are {texts[1]}."
    return f"{text} {environment(record, source)}"


def training(found: Mapping[str, tuple[Record, str]]) -> Mapping[str, Sequence[float]]:
    """The rows of the chart: in training, the time of the other over ours, as far as there are records."""

    def record(kind: str) -> Record:
        return found[kind][0]

    rows = {}
    if "repositories" in found:
        each = record("repositories")["repositories"]
        rows[f"{len(each)} published models, whole, accelerated"] = accelerated_ratios(each, "step")
    if "comparison" in found:
        cases = record("comparison")["cases"]
        rows[f"{len(cases)} layers of published models, lax"] = [ratios(case, "train")["lax"] for case in cases]
        torch = [of_torch(case, "train") for case in cases]
        pairs = [(theirs, case["modes"]["train"]["seconds"][OURS]) for theirs, case in zip(torch, cases, strict=True) if theirs]
        rows[f"{len(pairs)} layers of published models, torch"] = [theirs / ours for theirs, ours in pairs]
    for kind, pair in {"comparison random": LAX, "torch random": TORCH}.items():
        if kind in found:
            values = list(pair_ratios(record(kind), pair, "train").values())
            rows[f"{len(values)} random layers, {pair[1]}"] = values
    return rows


def compiled_for(record: Record, source: str) -> str:
    found = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    where = f"compiled for {found['chip']}, {record['dtype']}, {found['date'][:10]}; {versions}"
    return f"Recorded in {source}: {where}."


def estimated(record: Record, source: str) -> str:
    return f"{estimates.report(record, QUICK)}\n\n{compiled_for(record, source)}"


def random_estimates(record: Record, source: str) -> str:
    """What the compiler estimates of random layers, and those for which lax takes fewer cycles."""
    rows = [
        [sizes_of(case["layer"]), mode, "".join(each[0] for each in case["chosen"].values()), ratio(found)]
        for case, mode, found in estimates.behind(record["cases"])
    ]
    text = estimates.means(record["cases"])
    if rows:
        text += "\n\n" + table(["layer for which lax takes fewer", "", "TCF", "lax / chosen"], rows)
    left_out = record["left out"]
    without = "".join(f" {sizes_of(each['layer'])} is left out: {each['because'].split(':')[0]}." for each in left_out)
    return f"{text}\n\n{len(record['cases'])} layers, seed {record['seed']}.{without} {compiled_for(record, source)}"


FIGURES: Mapping[str, tuple[Sequence[str], Callable[..., str]]] = {
    "summary": (["comparison"], summary),
    "forward": (["comparison"], lambda record, source: comparison(record, "forward")),
    "train": (["comparison"], lambda record, source: comparison(record, "train")),
    "compile": (["comparison"], compilation),
    "shown": (["comparison"], shown),
    "random": (["comparison random", "torch random"], random_summary),
    "lowerings": (["lowerings"], lowerings),
    "lowerings-random": (["lowerings random"], random_lowerings),
    "lowerings-random-first": (["lowerings random first"], random_lowerings),
    "torch-random": (["torch random"], lambda record, source: random_pair(record, source, TORCH, 0.5)),
    "lax-random": (["comparison random"], lambda record, source: random_pair(record, source, LAX, 0.9)),
    "scaling": (["scaling"], scaling),
    "layouts": (["layouts"], layouts),
    "inside": (["inside"], inside_programs),
    "inside-random": (["inside random"], inside_programs),
    "accelerated": (["accelerate"], accelerated),
    "accelerated-random": (["accelerate random"], accelerated),
    "repositories": (["repositories"], repositories),
    "repositories-short": (["repositories"], repositories_summary),
    "tpu": (["estimates"], estimated),
    "tpu-random": (["estimates random"], random_estimates),
    "tpu-random-between": (["estimates random between"], random_estimates),
}
"""By name: the kinds of records, and the Markdown that is made of one of each and a link to it."""


def records() -> dict[str, tuple[Record, str]]:
    """By kind, those recorded on CPU or estimated, and their file's name."""
    found = {}
    for path in sorted((DOCS / "benchmarks").glob("*.json")):
        record = json.loads(path.read_text())
        made = record.get("environment", {})
        if made.get("device") == "cpu" or "chip" in made:
            found[kind(record)] = record, path.name
    return found


def filled(page: Path, found: Mapping[str, tuple[Record, str]]) -> str:
    """The page's text with its figures."""

    def figure(match: re.Match[str]) -> str:
        wanted, function = FIGURES.get(match[1], ((), None))
        if function is None or not set(wanted) <= set(found):
            return match[0]
        folder = os.path.relpath(DOCS / "benchmarks", page.parent)
        arguments = [part for kind in wanted for part in (found[kind][0], f"[{found[kind][1]}]({folder}/{found[kind][1]})")]
        return f"<!-- FIGURES {match[1]} -->\n{function(*arguments)}\n<!-- /FIGURES -->"

    return re.sub(r"<!-- FIGURES (\S+) -->\n.*?<!-- /FIGURES -->", figure, page.read_text(), flags=re.DOTALL)


def draw(found: Mapping[str, tuple[Record, str]]) -> None:
    os.environ["SOURCE_DATE_EPOCH"] = "0"  # the same record gives the same file
    style.use(Path(__file__).parent / "docs.mplstyle")
    if "comparison" in found:
        plot_ratios(found["comparison"][0], MODES, DOCS / "img" / "benchmarks.svg")
    if "scaling" in found:
        plot_scaling(found["scaling"][0], MODES, DOCS / "img" / "scaling.svg")
    if rows := training(found):
        plot_training(rows, DOCS / "img" / "training.svg")


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the records of docs/benchmarks into the pages, and draws them.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page would change")
    check = parser.parse_args().check
    found = records()
    stale = [page for page in PAGES if filled(page, found) != page.read_text()]
    if check:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is not what docs/benchmarks has: run python docs/figures/benchmarks.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(filled(page, found))
    draw(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

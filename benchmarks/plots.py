"""Figures of the records. Needs matplotlib."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.compare import ratios
from benchmarks.tables import digits, geometric_mean

mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same record gives the same file

_FASTER, _SLOWER, _LAX = "#2a8fb2", "#d1495b", "#9a9a9a"  # seen on white and on black


def plot_ratios(record: Mapping[str, Any], modes: Sequence[str], path: Path) -> None:
    """A row for each case: how many times as long as jaxdeconv the fastest peer takes, and lax."""
    cases = record["cases"]
    figure = Figure(figsize=(5.2 * len(modes) + 1.2, 1.4 + 0.19 * len(cases)), layout="constrained")
    axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axis, mode in zip(axes, modes, strict=True):
        found = [ratios(case, mode) for case in cases]
        for row, each in enumerate(found):
            if "lax" in each:
                axis.plot(each["lax"], row, "o", color=_LAX, markerfacecolor="none", markersize=4)
            if "best" in each:
                axis.plot(each["best"], row, "o", color=_FASTER if each["best"] >= 1 else _SLOWER, markersize=5)
        axis.axvline(1, color=mpl.rcParams["axes.edgecolor"], linewidth=0.8)
        axis.set_xscale("log")
        axis.set_title(mode, fontsize=10)
        axis.set_xlabel("time of the other / time of jaxdeconv")
        axis.grid(axis="x", which="major", linewidth=0.4, alpha=0.7)
        axis.grid(axis="y", linewidth=0.3, alpha=0.4)
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(cases)), [case["layer"]["name"] for case in cases], fontsize=7)
    axes[0].set_ylim(len(cases) - 0.5, -0.5)
    handles = [
        mpl.lines.Line2D([], [], linestyle="", marker="o", color=_FASTER, label="fastest peer, slower than jaxdeconv"),
        mpl.lines.Line2D([], [], linestyle="", marker="o", color=_SLOWER, label="fastest peer, faster than jaxdeconv"),
        mpl.lines.Line2D([], [], linestyle="", marker="o", color=_LAX, markerfacecolor="none", label="lax"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def plot_scaling(record: Mapping[str, Any], modes: Sequence[str], path: Path) -> None:
    """Time over each quantity on logarithmic axes, with a line of slope one to compare with."""
    sweeps = record["sweeps"]
    figure = Figure(figsize=(3.2 * len(sweeps), 3.4), layout="constrained")
    axes = figure.subplots(1, len(sweeps), sharey=True, squeeze=False)[0]
    for axis, (quantity, sweep) in zip(axes, sweeps.items(), strict=True):
        values = sweep["values"]
        for mode, color in zip(modes, (_FASTER, _SLOWER), strict=False):
            axis.plot(values, [1e3 * each for each in sweep[mode]], "o-", color=color, markersize=3, linewidth=1, label=mode)
        last = 1e3 * sweep[modes[0]][-1]
        axis.plot(values, [last * value / values[-1] for value in values], "--", color=_LAX, linewidth=0.8, label="proportional")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(quantity)
        axis.grid(linewidth=0.3, alpha=0.6)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def plot_training(rows: Mapping[str, Sequence[float]], path: Path) -> None:
    """A row of points for each name, each a time of the other over that of jaxdeconv, and their geometric mean in words."""
    figure = Figure(figsize=(8, 1.1 + 0.5 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for row, values in enumerate(rows.values()):
        shift = [0.22 * math.sin(index * 2.4) for index in range(len(values))]  # apart, and alike at every run
        colors = [_FASTER if value >= 1 else _SLOWER for value in values]
        axis.scatter(values, [row + each for each in shift], s=12, c=colors, alpha=0.7, linewidths=0)
        mean = geometric_mean(values)
        axis.plot([mean, mean], [row - 0.34, row + 0.34], color=mpl.rcParams["text.color"], linewidth=2)
        axis.annotate(f"{digits(mean)}x", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=11)
    axis.axvline(1, color=mpl.rcParams["axes.edgecolor"], linewidth=0.8)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_yticks(range(len(rows)), list(rows), fontsize=10)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel("training step: time of the other / time of jaxdeconv")
    axis.annotate("mean", (1.02, 1.02), xycoords="axes fraction", fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", which="major", linewidth=0.4, alpha=0.7)
    axis.set_axisbelow(True)
    figure.savefig(path, dpi=150)

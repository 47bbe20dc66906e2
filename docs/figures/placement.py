"""Draws ../img/placement.svg: where a transposed convolution puts its taps, and which window of the sum each convention keeps.

Run with `python docs/figures/placement.py`; needs matplotlib.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

WIDTH, KERNEL, STRIDE = 4, 5, 2
FULL = (WIDTH - 1) * STRIDE + KERNEL
COLORS = ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1"]
# label, crop, length
WINDOWS = [
    ('"SAME", L = 8', 1, 8),
    ('"SAME", L = 7', 2, 7),
    ('"VALID", L = 11', 0, 11),
    ('"VALID", L = 12', 0, 12),
]


def cell(axes, x, y, text="", color="white", alpha=1.0, **keywords):
    """Opaque and light, whatever is behind the figure, with the colour mixed with white."""
    mixed = alpha * np.array(to_rgb(color)) + 1 - alpha
    axes.add_patch(Rectangle((x, y), 1, 0.8, facecolor=mixed, edgecolor="#333333", linewidth=0.8, **keywords))
    axes.text(x + 0.5, y + 0.4, text, ha="center", va="center", fontsize=8.5, color="#222222")


def main():
    plt.style.use(Path(__file__).parent / "docs.mplstyle")
    figure, axes = plt.subplots(figsize=(9.2, 5.4))
    y = 0.0

    def label(text):
        axes.text(-0.4, y + 0.4, text, ha="right", va="center", fontsize=10)

    label("input x, stride 2 apart")
    for n in range(WIDTH):
        cell(axes, n * STRIDE, y, f"$x_{n}$", COLORS[n], 0.65)
    for n in range(WIDTH):
        y -= 1.0
        label(f"$x_{n}$ times the filter w")
        for j in range(KERNEL):
            cell(axes, n * STRIDE + j, y, f"$x_{n}w_{j}$", COLORS[n], 0.3)
    y -= 1.25
    label("full, the sum of the columns")
    for m in range(FULL):
        cell(axes, m, y, str(m), "#dddddd")
    y -= 0.35
    for text, crop, length in WINDOWS:
        y -= 1.0
        label(f"{text}: crop {crop}")
        for m in range(length):
            inside = crop + m < FULL
            cell(axes, crop + m, y, str(m) if inside else "0", "#fff3c4" if inside else "white", linestyle="-" if inside else ":")
    axes.text(0, 1.35, f"kernel k = {KERNEL}, stride s = {STRIDE}, width W = {WIDTH}: full = (W-1)s + k = {FULL}", fontsize=11)
    axes.set_xlim(-5.2, FULL + 1.3)
    axes.set_ylim(y - 0.2, 1.9)
    axes.axis("off")
    target = Path(__file__).parent.parent / "img" / "placement.svg"
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()

"""Draws ../img/streaming.svg: what a stream emits with each chunk, and the overlap that it keeps.

Run with `python docs/figures/streaming.py`; needs matplotlib.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

KERNEL, STRIDE = 5, 2
OVERLAP = KERNEL - STRIDE
CHUNKS = (3, 1, 2)
COLORS = ["#4e79a7", "#f28e2b", "#59a14f"]
TARGET = Path(__file__).parent.parent / "img" / "streaming.svg"


def main():
    plt.style.use(Path(__file__).parent / "docs.mplstyle")
    figure, axes = plt.subplots(figsize=(9.2, 4.4))

    def cells(start, stop, y, color, alpha, style="-", numbers=False):
        for m in range(start, stop):
            mixed = alpha * np.array(to_rgb(color)) + 1 - alpha  # opaque and light, whatever is behind the figure
            look = {"facecolor": mixed, "linestyle": style, "edgecolor": "#333333", "linewidth": 0.8}
            axes.add_patch(Rectangle((m, y), 1, 0.8, **look))
            if numbers:
                axes.text(m + 0.5, y + 0.4, str(m), ha="center", va="center", fontsize=8.5, color="#222222")

    def label(text, y):
        axes.text(-0.4, y + 0.4, text, ha="right", va="center", fontsize=10)

    y, begin = 0.0, 0
    for index, (width, color) in enumerate(zip(CHUNKS, COLORS, strict=True)):
        end = begin + width * STRIDE
        plural = "s" * (width > 1)
        label(f"chunk {index + 1}: {width} input{plural} reach", y)
        cells(begin, end, y, color, 0.55)
        cells(end, end + OVERLAP, y, color, 0.2, ":")
        if index:
            label("plus the state", y - 1)
            cells(begin, begin + OVERLAP, y - 1, COLORS[index - 1], 0.2, ":")
            y -= 1
        axes.annotate("", (end + 0.1, y - 0.95), (end + 0.1, y - 0.1), arrowprops={"arrowstyle": "->", "color": "#808080"})
        axes.text(end + 0.35, y - 0.5, f"state: {OVERLAP} sums", fontsize=9, va="center")
        y -= 1.8
        begin = end
    label("what step returned", y)
    start = 0
    for width, color in zip(CHUNKS, COLORS, strict=True):
        cells(start, start + width * STRIDE, y, color, 0.55, numbers=True)
        start += width * STRIDE
    cells(start, start + OVERLAP, y, "white", 1.0, ":", numbers=True)
    axes.text(start + OVERLAP / 2, y - 0.35, "flush", ha="center", va="center", fontsize=9)
    title = f"kernel k = {KERNEL}, stride s = {STRIDE}: of each chunk k - s = {OVERLAP} samples are not complete"
    axes.text(0, 1.3, title, fontsize=11)
    axes.set_xlim(-6.2, start + OVERLAP + 2.5)
    axes.set_ylim(y - 0.7, 1.8)
    axes.axis("off")
    figure.savefig(TARGET, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()

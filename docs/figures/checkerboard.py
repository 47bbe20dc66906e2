"""Draws ../img/checkerboard.svg: what four filters of stride 2 make of one smooth picture.

Run with `python docs/figures/checkerboard.py`; needs matplotlib.
"""

from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np

from jaxdeconv import initializers

mpl.use("svg")
import matplotlib.pyplot as plt

SIZE, STRIDE = 9, 2
TARGET = Path(__file__).parent.parent / "img" / "checkerboard.svg"


def upsampled(picture, w):
    """By the definition, in float64: the middle of full, where the border is not seen."""
    full = np.zeros([(SIZE - 1) * STRIDE + k for k in w.shape])
    for n0, n1 in np.ndindex(picture.shape):
        full[n0 * STRIDE : n0 * STRIDE + w.shape[0], n1 * STRIDE : n1 * STRIDE + w.shape[1]] += picture[n0, n1] * w
    return full[w.shape[0] : -w.shape[0], w.shape[1] : -w.shape[1]]


def draw_positive(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, 0.2, 1.8)


def main():
    key = jax.random.key(3)
    filters = {
        "kernel 3, equal weights": np.ones((3, 3)),
        "kernel 4, random weights": draw_positive(key, (4, 4, 1, 1), "float32"),
        "kernel 4, icnr": initializers.icnr(draw_positive, STRIDE)(key, (4, 4, 1, 1)),
        "kernel 4, bilinear": initializers.bilinear(STRIDE)(None, (4, 4, 1, 1)),
    }
    axis = np.linspace(-1, 1, SIZE)
    picture = 1 + 0.5 * np.exp(-2 * (axis[:, None] ** 2 + axis**2))
    plt.style.use(Path(__file__).parent / "docs.mplstyle")
    figure, all_axes = plt.subplots(1, len(filters), figsize=(9.2, 2.7))
    for axes, (title, w) in zip(all_axes, filters.items(), strict=True):
        y = upsampled(picture, np.asarray(w, np.float64).reshape(w.shape[:2]))
        # Rounded, so that the colours are the same on every machine.
        axes.pcolormesh(np.round(y / y.mean(), 2), cmap="cividis", vmin=0.4, vmax=1.6, edgecolors="face", linewidth=0.4)
        axes.set_aspect("equal")
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    figure.savefig(TARGET, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()

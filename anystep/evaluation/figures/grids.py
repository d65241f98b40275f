"""Matrices: confusion of classes, and accuracy by training length and test length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anystep.evaluation.figures import style
from anystep.evaluation.figures.style import Array, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MOST_CLASSES_COUNTED = 12  # more cells have no room for a number
MOST_STEPS_WRITTEN = 20
MOST_STEPS_SPREAD = 12  # and with a standard deviation below it
FRAME = "#D55E00"


class Matrix(NamedTuple):
    """Accuracy by training length (rows) and test length 1..T (columns).

    `mean` and `sd` are (rows, T) in percent; the sd of one seed is nan. `skipped`: how many of the
    training steps come before the first that the network sees.
    """

    train_steps: list[int]
    mean: Array
    sd: Array
    skipped: int = 0


def _write(ax: Axes, row: int, column: int, text: str, *, dark: bool) -> None:
    """A text in a cell, in the ink that is read better on it."""
    ink = "#ffffff" if dark else "#222222"
    ax.text(column, row, text, color=ink, fontsize=7, ha="center", va="center")


def _confusion(ax: Axes, counts: Array, classes: Sequence[str]) -> AxesImage:
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, total, out=np.zeros_like(counts), where=total > 0)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="none")
    ax.grid(visible=False)
    ax.set(xlabel="predicted", ylabel="true")
    if len(classes) <= style.MOST_CLASSES_NAMED:
        places = np.arange(len(classes))
        ax.set_xticks(places, classes, rotation=90 if max(map(len, classes)) > 2 else 0)
        ax.set_yticks(places, classes)
    if len(classes) <= MOST_CLASSES_COUNTED:
        for (truth, guess), value in np.ndenumerate(share):
            if value >= 0.5:
                _write(ax, truth, guess, f"{value:.0f}", dark=value > 65)
    return image


def confusions(tables: Mapping[str, Mapping[int, ArrayLike]], classes: Sequence[str]) -> Figure:
    """A confusion matrix a method (row) and a step (column), in percent of each true class.

    tables: method -> {t: counts (C, C), row = truth}. A class without a sample is an empty row.
    """
    columns = max(len(steps) for steps in tables.values())
    side = style.WIDTH / max(columns, 2) - 0.6
    figure, axes = style.new(len(tables), columns, len(tables) * side)
    for row, (method, steps) in zip(axes, tables.items(), strict=True):
        for ax in row[len(steps) :]:
            ax.set_axis_off()
        for ax, (step, counts) in zip(row, steps.items(), strict=False):
            image = _confusion(ax, np.asarray(counts, dtype=np.float64), classes)
            ax.set_title(f"{method}, t = {step}")
    shrink = 0.6 / len(tables)
    figure.colorbar(image, ax=axes, shrink=shrink, aspect=18, label="% of the true class")
    return figure


def _frame_equal_lengths(ax: Axes, matrix: Matrix) -> None:
    """A frame around each cell whose test is as long as its training."""
    for row, trained in enumerate(matrix.train_steps):
        same = trained - matrix.skipped
        if 1 <= same <= matrix.mean.shape[1]:
            across = np.array([-0.47, -0.47, 0.47, 0.47, -0.47]) + same - 1
            down = np.array([-0.46, 0.46, 0.46, -0.46, -0.46]) + row
            ax.plot(across, down, color=FRAME, linewidth=1.6, solid_joinstyle="miter")


def _write_cells(ax: Axes, matrix: Matrix, *, middle: float) -> None:
    """The number in every cell, with its sd where there is room."""
    steps = matrix.mean.shape[1]
    for (row, step), mean in np.ndenumerate(matrix.mean):
        sd = matrix.sd[row, step]
        spread = "" if np.isnan(sd) or steps > MOST_STEPS_SPREAD else f"\n\u00b1 {sd:.1f}"
        if not np.isnan(mean):
            _write(ax, row, step, f"{mean:.1f}{spread}", dark=mean > middle)


def heat_maps(matrices: Mapping[str, Matrix]) -> Figure:
    """Accuracy by training and test length, framed where they are equal; one map a method."""
    rows = [0.42 * len(matrix.train_steps) + 0.75 for matrix in matrices.values()]
    figure, axes = style.new(len(matrices), 1, sum(rows), height_ratios=rows)
    low = min(float(np.nanmin(matrix.mean)) for matrix in matrices.values())
    high = max(float(np.nanmax(matrix.mean)) for matrix in matrices.values())
    scale: Look = {"cmap": "Blues", "vmin": low, "vmax": max(high, low + 1e-9)}
    for ax, (method, matrix) in zip(axes[:, 0], matrices.items(), strict=True):
        image = ax.imshow(matrix.mean, **scale, aspect="auto", interpolation="none")
        ax.grid(visible=False)
        ax.spines[:].set(visible=False)
        ax.tick_params(length=0)
        ax.set(ylabel="trained with T", xlabel="tested at t steps (framed: as many as in training)")
        ax.set_title(method, loc="left")
        ax.set_yticks(np.arange(len(matrix.train_steps)), [str(t) for t in matrix.train_steps])
        _frame_equal_lengths(ax, matrix)
        steps = matrix.mean.shape[1]
        shown = np.arange(steps)
        if steps <= MOST_STEPS_WRITTEN:
            _write_cells(ax, matrix, middle=low + 0.65 * (high - low))
        else:
            shown = np.unique(np.linspace(0, steps - 1, 11).round().astype(int))
        ax.set_xticks(shown, [str(step + 1) for step in shown])
    bar: Look = {"shrink": min(1.0, 2.4 / sum(rows)), "aspect": 18}
    figure.colorbar(image, ax=axes, label="top-1 accuracy (%)", **bar)
    return figure

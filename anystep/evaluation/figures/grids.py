"""Matrices: what is taken for what, and accuracy by training and test length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anystep.evaluation.figures import style
from anystep.evaluation.figures.style import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES_NAMED = 20
MOST_CLASSES_COUNTED = 12
MOST_STEPS_WRITTEN = 20


class Matrix(NamedTuple):
    """Accuracy by training length (rows) and test length 1..T (columns): percent (R, T), its sd
    (nan for one seed).

    `skipped`: how many of the training steps come before the first that the network sees.
    """

    train_steps: list[int]
    mean: Array
    sd: Array
    skipped: int = 0


def confusions(tables: Mapping[str, Mapping[int, ArrayLike]], classes: Sequence[str]) -> Figure:
    """A confusion matrix a method (row) and a step (column), in percent of each true class.

    tables: method -> {t: counts (C, C), row = truth}. A class without a sample is an empty row.
    """
    columns = max(len(steps) for steps in tables.values())
    side = style.WIDTH / max(columns, 2) - 0.6
    figure, axes = style.new(len(tables), columns, len(tables) * side)
    image: Any = None
    for row, (method, steps) in zip(axes, tables.items(), strict=True):
        for ax in row[len(steps) :]:
            ax.set_axis_off()
        for ax, (step, counts) in zip(row, steps.items(), strict=False):
            image = _confusion(ax, np.asarray(counts, dtype=np.float64), classes)
            ax.set_title(f"{method}, t = {step}")
    figure.colorbar(
        image, ax=axes, shrink=0.6 / len(tables), aspect=18, label="% of the true class"
    )
    return figure


def _confusion(ax: Any, counts: Array, classes: Sequence[str]) -> Any:
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, total, out=np.zeros_like(counts), where=total > 0)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="none")
    ax.grid(visible=False)
    ax.set(xlabel="predicted", ylabel="true")
    if len(classes) > MOST_CLASSES_NAMED:
        return image
    places = np.arange(len(classes))
    ax.set_xticks(places, classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    ax.set_yticks(places, classes)
    if len(classes) <= MOST_CLASSES_COUNTED:
        for (truth, guess), value in np.ndenumerate(share):
            if value >= 0.5:
                ink = "#ffffff" if value > 65 else "#222222"  # the one that is read better on Blues
                ax.text(
                    guess, truth, f"{value:.0f}", color=ink, fontsize=7, ha="center", va="center"
                )
    return image


def heat_maps(matrices: Mapping[str, Matrix]) -> Figure:
    """Accuracy by training length and test length, one map a method, all on one scale; a frame
    where the two are equal.
    """
    rows = [0.42 * len(matrix.train_steps) + 0.75 for matrix in matrices.values()]
    figure, axes = style.new(len(matrices), 1, sum(rows), height_ratios=rows)
    low = min(float(np.nanmin(matrix.mean)) for matrix in matrices.values())
    high = max(float(np.nanmax(matrix.mean)) for matrix in matrices.values())
    image: Any = None
    for ax, (method, matrix) in zip(axes[:, 0], matrices.items(), strict=True):
        image = ax.imshow(
            matrix.mean,
            cmap="Blues",
            vmin=low,
            vmax=max(high, low + 1e-9),
            aspect="auto",
            interpolation="none",
        )
        ax.grid(visible=False)
        ax.spines[:].set(visible=False)
        ax.tick_params(length=0)
        ax.set(ylabel="trained with T", xlabel="tested at t steps (framed: as many as in training)")
        ax.set_title(method, loc="left")
        ax.set_yticks(
            np.arange(len(matrix.train_steps)), [str(steps) for steps in matrix.train_steps]
        )
        _label_columns(ax, matrix.mean.shape[1])
        _write_cells(ax, matrix, middle=low + 0.65 * (high - low))
    figure.colorbar(
        image, ax=axes, shrink=min(1.0, 2.4 / sum(rows)), aspect=18, label="top-1 accuracy (%)"
    )
    return figure


def _label_columns(ax: Any, steps: int) -> None:
    """A number under every column, or under some of them where all would not fit."""
    shown = (
        np.arange(steps)
        if steps <= MOST_STEPS_WRITTEN
        else np.unique(np.linspace(0, steps - 1, 11).round().astype(int))
    )
    ax.set_xticks(shown, [str(step + 1) for step in shown])


def _write_cells(ax: Any, matrix: Matrix, *, middle: float) -> None:
    """The number in every cell, with its sd where there is room, and a frame where training and
    test are equally long.
    """
    rows, steps = matrix.mean.shape
    for row, trained in enumerate(matrix.train_steps):
        same = trained - matrix.skipped
        if 1 <= same <= steps:
            across, down = (
                np.array([-0.47, -0.47, 0.47, 0.47, -0.47]),
                np.array([-0.46, 0.46, 0.46, -0.46, -0.46]),
            )
            ax.plot(
                same - 1 + across,
                row + down,
                color="#D55E00",
                linewidth=1.6,
                solid_joinstyle="miter",
            )
    if steps > MOST_STEPS_WRITTEN:
        return
    for row, step in np.ndindex(rows, steps):
        mean, sd = matrix.mean[row, step], matrix.sd[row, step]
        if np.isnan(mean):
            continue
        spread = "" if np.isnan(sd) or steps > 12 else f"\n\u00b1 {sd:.1f}"
        ink = "#ffffff" if mean > middle else "#222222"
        ax.text(step, row, f"{mean:.1f}{spread}", color=ink, fontsize=7, ha="center", va="center")

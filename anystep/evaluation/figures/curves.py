"""Lines and bars: accuracy over t, by class, training, risk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anystep._errors import UsageError
from anystep.evaluation.figures import style
from anystep.evaluation.figures.style import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES_NAMED = 20
HATCHES = ("", "/////", ".....")  # of bars whose colour has come before


class Curves(NamedTuple):
    """One run's training: an entry an epoch over all phases, and where a later phase starts (from
    1) with its name.
    """

    train_loss: Array
    val_acc: Array
    phase_starts: dict[int, str]


def by_step(groups: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str) -> Figure:
    """One line a method over the steps t = 1..T, error bars = sd over seeds. groups: method -> (S,
    T), nan allowed.
    """
    figure, axes = style.new(1, 1, 3.7)
    for index, (method, values) in enumerate(groups.items()):
        mean, sd = style.mean_and_sd(values)
        bars = None if np.isnan(sd).all() else np.nan_to_num(sd)
        steps = np.arange(1, len(mean) + 1)
        axes[0, 0].errorbar(
            steps, mean, bars, label=method, capsize=3, markersize=5, **style.look(index)
        )
    axes[0, 0].set(xlabel=xlabel, ylabel=ylabel)
    style.whole_ticks(axes[0, 0], max(np.shape(values)[1] for values in groups.values()))
    style.legend(figure, axes[0, 0])
    return figure


def by_class(groups: Mapping[str, ArrayLike], classes: Sequence[str], *, ylabel: str) -> Figure:
    """Accuracy of each class, methods side by side. groups: method -> (S, C), nan for a class
    without samples.

    More than `MOST_CLASSES_NAMED` classes are one falling line a method, each method with its own
    order.
    """
    figure, axes = style.new(1, 1, 3.6)
    ax = axes[0, 0]
    means = {method: style.mean_and_sd(values) for method, values in groups.items()}
    ax.set(ylabel=ylabel, ylim=(0, 102))
    if len(classes) > MOST_CLASSES_NAMED:
        for index, (method, (mean, _)) in enumerate(means.items()):
            ax.plot(np.arange(1, len(mean) + 1), -np.sort(-mean), label=method, **style.line(index))
        ax.set_xlabel(
            f"{len(classes)} classes, the most accurate first, in each method's own order"
        )
    else:
        _bars(ax, means)
        slanted = max(map(len, classes)) > 4
        ax.set_xticks(
            np.arange(len(classes)),
            classes,
            rotation=40 * slanted,
            ha="right" if slanted else "center",
        )
    style.legend(figure, ax)
    return figure


def _bars(ax: Any, means: Mapping[str, tuple[Array, Array]]) -> None:
    """A group of bars a class, a bar a method."""
    width = 0.8 / len(means)
    for index, (method, (mean, sd)) in enumerate(means.items()):
        places = np.arange(len(mean)) + (index - (len(means) - 1) / 2) * width
        bars = None if np.isnan(sd).all() else np.nan_to_num(sd)
        error = {"ecolor": style.INK, "elinewidth": 0.8, "capsize": 1.5}
        look = {
            "color": style.look(index)["color"],
            "hatch": HATCHES[index // len(style.METHOD_COLOURS) % len(HATCHES)],
        }
        ax.bar(
            places,
            mean,
            width,
            yerr=bars,
            label=method,
            error_kw=error,
            edgecolor="white",
            linewidth=0,
            **look,
        )
    ax.grid(visible=False, axis="x")
    ax.tick_params(axis="x", length=0)


def training(runs: Mapping[str, Sequence[Curves]]) -> Figure:
    """Training loss and validation accuracy by epoch, one line a seed, broken at a dotted upright
    where a phase starts.
    """
    figure, axes = style.new(1, 2, 3.2)
    for index, (method, seeds) in enumerate(runs.items()):
        for position, curves in enumerate(seeds):
            look: dict[str, Any] = {
                **style.line(index),
                "linewidth": 1.2,
                "alpha": 0.8 if len(seeds) > 1 else 1.0,
            }
            for ax, values in zip(axes[0], (curves.train_loss, curves.val_acc), strict=True):
                _in_phases(
                    ax,
                    values,
                    list(curves.phase_starts),
                    label=method if position == 0 else None,
                    **look,
                )
                for start in curves.phase_starts if position == 0 else []:
                    ax.axvline(start - 0.5, color=look["color"], linestyle=":", linewidth=0.8)
    for ax, name in zip(axes[0], ("train loss", "validation accuracy (%)"), strict=True):
        ax.set(xlabel="epoch", ylabel=name)
        style.whole_ticks(
            ax, max(len(curves.train_loss) for seeds in runs.values() for curves in seeds)
        )
        _name_phases(ax, [curves.phase_starts for seeds in runs.values() for curves in seeds[:1]])
    style.legend(figure, axes[0, 0])
    return figure


def _in_phases(
    ax: Any, values: Array, starts: list[int], *, label: str | None, **look: Any
) -> None:
    """A line a phase: another network's loss is not the continuation of the one before it."""
    edges = [1, *starts, len(values) + 1]
    for first, stop in itertools.pairwise(edges):
        ax.plot(
            np.arange(first, stop),
            values[first - 1 : stop - 1],
            label=label if first == 1 else None,
            **{**look, "marker": "." if stop - first == 1 else None},
        )


def _name_phases(ax: Any, starts: Sequence[Mapping[int, str]]) -> None:
    """The names of later phases along the top edge, those that start together once and in one
    place.
    """
    names: dict[int, list[str]] = {}
    for own in starts:
        for start, name in own.items():
            names.setdefault(start, []).extend([name] if name not in names.get(start, []) else [])
    for start, together in names.items():
        place: dict[str, Any] = {
            "xycoords": ax.get_xaxis_transform(),
            "textcoords": "offset points",
            "va": "bottom",
        }
        ax.annotate(
            ", ".join(together),
            (start - 0.5, 1.0),
            xytext=(0, 2),
            ha="center",
            fontsize=7.5,
            **place,
        )


def risk(curves: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Risk (errors among the samples kept) over coverage. curves: method -> {panel: risk (N,), most
    confident first}.
    """
    panels = list(dict.fromkeys(panel for steps in curves.values() for panel in steps))
    figure, axes = style.new(1, len(panels), 3.3, sharey=True)
    for index, (method, steps) in enumerate(curves.items()):
        for panel, values in steps.items():
            values = np.asarray(values)
            kept = np.unique(
                np.linspace(0, len(values) - 1, 300).round().astype(int)
            )  # what a line can show
            ax = axes[0, panels.index(panel)]
            ax.plot(
                100 * (kept + 1) / len(values),
                100 * values[kept],
                label=method,
                **style.line(index),
            )
    for ax, panel in zip(axes[0], panels, strict=True):
        ax.set(title=panel, xlabel="coverage (%), most confident first", xlim=(0, 100))
    axes[0, 0].set_ylabel("risk: wrong among the kept (%)")
    style.legend(figure, axes[0, 0])
    return figure


def accuracy_figure(
    groups: Mapping[str, ArrayLike],
    path_png: str | os.PathLike[str],
    *,
    prefix: str = "",
    title: str | None = None,
) -> Path:
    """Write a PNG of the accuracy over prefix t, one line a method, error bars = sd over seeds;
    return its path.

    groups: method -> percent (S, T), a row a seed. prefix: "live" or "hindsight bins", said on the
    axis.
    """
    if not groups:
        raise UsageError("accuracy_figure: groups must hold at least one method, got none")
    for method, values in groups.items():
        if np.ndim(values) != 2:
            raise UsageError(
                f"accuracy_figure: groups[{method!r}] must be (seeds, T), got shape {np.shape(values)}"
            )
    note = f" ({prefix})" if prefix else ""

    def draw() -> Figure:
        figure = by_step(groups, xlabel=f"time steps seen, t{note}", ylabel="top-1 accuracy (%)")
        if title:
            figure.axes[0].set_title(title, loc="left")
        return figure

    return style.save(draw, path_png)

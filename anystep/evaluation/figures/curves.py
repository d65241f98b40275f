"""Lines and bars: accuracy by step, accuracy by class, training, risk."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anystep.evaluation.figures import style
from anystep.evaluation.figures.style import Array, Look
from anystep.evaluation.metrics import mean_and_sd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = ("", "/////", ".....")  # of bars whose colour has come before


class Curves(NamedTuple):
    """One run's training by epoch, and the first epoch of each later phase -> its name."""

    train_loss: Array
    val_acc: Array
    phase_starts: dict[int, str]


def _error_bars(sd: Array) -> Array | None:
    """None where there is one seed: then no bar is drawn, not even one of length zero."""
    return None if np.isnan(sd).all() else np.nan_to_num(sd)


def by_step(groups: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str) -> Figure:
    """One line a method over the steps t = 1..T, error bars = sd over seeds.

    groups: method -> (seeds, T), nan where a run has no such step.
    """
    figure, axes = style.new(1, 1, 3.7)
    ax = axes[0, 0]
    for index, (method, values) in enumerate(groups.items()):
        mean, sd = mean_and_sd(values)
        steps, bars = np.arange(1, len(mean) + 1), _error_bars(sd)
        ax.errorbar(steps, mean, bars, label=method, capsize=3, markersize=5, **style.look(index))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    style.whole_ticks(ax, max(np.shape(values)[1] for values in groups.values()))
    style.legend(figure, ax)
    return figure


def _bars(ax: Axes, means: Mapping[str, tuple[Array, Array]]) -> None:
    """A group of bars a class, a bar a method."""
    width = 0.8 / len(means)
    for index, (method, (mean, sd)) in enumerate(means.items()):
        places = np.arange(len(mean)) + (index - (len(means) - 1) / 2) * width
        look: Look = {
            "color": style.look(index)["color"],
            "hatch": HATCHES[index // len(style.METHOD_COLOURS) % len(HATCHES)],
            "edgecolor": "white",
            "linewidth": 0,
            "error_kw": {"ecolor": style.INK, "elinewidth": 0.8, "capsize": 1.5},
        }
        ax.bar(places, mean, width, yerr=_error_bars(sd), label=method, **look)
    ax.grid(visible=False, axis="x")
    ax.tick_params(axis="x", length=0)


def by_class(groups: Mapping[str, ArrayLike], classes: Sequence[str], *, ylabel: str) -> Figure:
    """Accuracy of each class, methods side by side.

    groups: method -> (seeds, C), nan for a class without samples. With too many classes to name,
    each method is one falling line, with its classes in its own order.
    """
    figure, axes = style.new(1, 1, 3.6)
    ax = axes[0, 0]
    means = {method: mean_and_sd(values) for method, values in groups.items()}
    ax.set(ylabel=ylabel, ylim=(0, 102))
    if len(classes) > style.MOST_CLASSES_NAMED:
        for index, (method, (mean, _)) in enumerate(means.items()):
            ax.plot(np.arange(1, len(mean) + 1), -np.sort(-mean), label=method, **style.line(index))
        order = "the most accurate first, in each method's own order"
        ax.set_xlabel(f"{len(classes)} classes, {order}")
    else:
        _bars(ax, means)
        slanted = max(map(len, classes)) > 4
        turned: Look = {"rotation": 40 * slanted, "ha": "right" if slanted else "center"}
        ax.set_xticks(np.arange(len(classes)), classes, **turned)
    style.legend(figure, ax)
    return figure


def _in_phases(ax: Axes, values: Array, starts: Iterable[int], **look: Any) -> None:
    """A line a phase: another network's loss is not the continuation of the one before it."""
    for first, stop in itertools.pairwise([1, *starts, len(values) + 1]):
        look |= {"marker": "." if stop - first == 1 else None}
        ax.plot(np.arange(first, stop), values[first - 1 : stop - 1], **look)
        look |= {"label": None}  # a method has one entry in the legend


def _name_phases(ax: Axes, starts: Iterable[Mapping[int, str]]) -> None:
    """The names of later phases along the top edge. Phases that start together share a place."""
    names: dict[int, dict[str, None]] = {}
    for own in starts:
        for start, name in own.items():
            names.setdefault(start, {})[name] = None
    for start, together in names.items():
        place: Look = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
        look: Look = {"ha": "center", "va": "bottom", "fontsize": 7.5}
        ax.annotate(", ".join(together), (start - 0.5, 1.0), xytext=(0, 2), **look, **place)


def training(runs: Mapping[str, Sequence[Curves]]) -> Figure:
    """Training loss and validation accuracy by epoch, a line a seed, broken where phases start."""
    figure, axes = style.new(1, 2, 3.2)
    for index, (method, seeds) in enumerate(runs.items()):
        look: Look = style.line(index)
        look |= {"linewidth": 1.2, "alpha": 0.8 if len(seeds) > 1 else 1.0}
        for position, curves in enumerate(seeds):
            label = method if position == 0 else None
            for ax, values in zip(axes[0], (curves.train_loss, curves.val_acc), strict=True):
                _in_phases(ax, values, curves.phase_starts, label=label, **look)
                for start in curves.phase_starts if position == 0 else []:
                    ax.axvline(start - 0.5, color=look["color"], linestyle=":", linewidth=0.8)
    every = [curves for seeds in runs.values() for curves in seeds]
    for ax, name in zip(axes[0], ("train loss", "validation accuracy (%)"), strict=True):
        ax.set(xlabel="epoch", ylabel=name)
        style.whole_ticks(ax, max(len(curves.train_loss) for curves in every))
        _name_phases(ax, [seeds[0].phase_starts for seeds in runs.values()])
    style.legend(figure, axes[0, 0])
    return figure


def risk(curves: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Risk (errors among the samples kept) over coverage.

    curves: method -> {title of a panel: risk (N,), the most confident sample first}.
    """
    panels = list(dict.fromkeys(panel for own in curves.values() for panel in own))
    figure, axes = style.new(1, len(panels), 3.3, sharey=True)
    for index, (method, own) in enumerate(curves.items()):
        for panel, values in own.items():
            # No line can show more than 300 points.
            kept = np.unique(np.linspace(0, len(values) - 1, 300).round().astype(int))
            coverage = 100 * (kept + 1) / len(values)
            ax = axes[0, panels.index(panel)]
            ax.plot(coverage, 100 * values[kept], label=method, **style.line(index))
    for ax, panel in zip(axes[0], panels, strict=True):
        ax.set(title=panel, xlabel="coverage (%), most confident first", xlim=(0, 100))
    axes[0, 0].set_ylabel("risk: wrong among the kept (%)")
    style.legend(figure, axes[0, 0])
    return figure

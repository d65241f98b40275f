"""The figures of a report: plain arrays in, a matplotlib `Figure` out, and one function that makes it an inline SVG.

No function here knows what a run folder is. Methods keep their place in every mapping, and with it their colour.
matplotlib is imported through `anystep._extras` and only as `Figure` objects: no pyplot, no open figure left behind.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._extras import need
from anystep._files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

# Okabe and Ito's colours without black and yellow, which vanish on a dark or a light page, and a grey.
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
METHOD_LINES = ("-", "--", ":", "-.")
# Paul Tol's "muted" colours (a lighter indigo, a grey); the marker changes too: colour never carries a class alone.
CLASS_COLOURS = ["#5B4FCF", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888"]
CLASS_MARKERS = ("o", "^", "s", "D", "v")
INK = "#010203"  # lines and letters; `to_svg` turns it into the colour of the page's text, light or dark
WIDTH = 8.4  # inches; 605 points, scaled by the page
MOST_CLASSES_NAMED = 20
MOST_CLASSES_COUNTED = 12
MOST_FRAMES = 20
FRAMES_A_ROW = 10
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # letters stay letters: small, selectable, read aloud
    "svg.hashsalt": "anystep",  # ids are random otherwise, and the same runs would give another file
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK),
}


class Curves(NamedTuple):
    """One run's training: an entry an epoch over all phases, and the positions (from 1) where a later phase starts."""

    train_loss: Array
    val_acc: Array
    phase_starts: list[int]


class Verdict(NamedTuple):
    """What a method says after one step: a class name, its softmax confidence, and whether it is the true class."""

    name: str
    confidence: float
    right: bool


def _plot(purpose: str = "a report") -> Any:
    return need("matplotlib", extra="report", purpose=purpose)


def _new(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Array]:
    """An empty figure of the page's width and its axes (rows, columns)."""
    figure = need("matplotlib.figure", extra="report", purpose="a report").Figure(
        figsize=(WIDTH, height), layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _look(index: int) -> dict[str, Any]:
    """How a method is drawn, by its place: colour and marker, and a line that changes when the colours run out."""
    return {
        "color": METHOD_COLOURS[index % len(METHOD_COLOURS)],
        "marker": METHOD_MARKERS[index % len(METHOD_MARKERS)],
        "linestyle": METHOD_LINES[index // len(METHOD_COLOURS) % len(METHOD_LINES)],
    }


def class_look(index: int) -> dict[str, Any]:
    """How a class is drawn: colour and marker, fifty pairs before one comes again."""
    turn = index + index // len(CLASS_COLOURS)
    return {"color": CLASS_COLOURS[index % len(CLASS_COLOURS)], "marker": CLASS_MARKERS[turn % len(CLASS_MARKERS)]}


def _line(index: int) -> dict[str, Any]:
    return {**_look(index), "marker": None}


def _legend(figure: Figure, axes: Any) -> None:
    """One legend above the plots: methods never hide data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        fits = int(90 / (max(map(len, labels)) + 6))  # letters in a line of the figure; a marker is worth six
        figure.legend(handles, labels, loc="outside upper left", ncols=max(1, min(len(labels), fits)))


def _whole_ticks(ax: Any, last: int) -> None:
    """A tick at every whole number from 1, or at some of them where all would not fit."""
    if last <= 12:
        ax.set_xticks(np.arange(1, last + 1))
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)


def mean_and_sd(values: ArrayLike) -> tuple[Array, Array]:
    """Mean and sample standard deviation (ddof = 1) over the first axis (seeds), leaving out what is not finite.

    values (S, ...) -> mean (...), sd (...). The sd of fewer than two values is nan, and so is the mean of none.

    >>> mean, sd = mean_and_sd([[1.0, 5.0], [3.0, float("nan")]])
    >>> mean.tolist(), sd.round(4).tolist()
    ([2.0, 5.0], [1.4142, nan])
    """
    masked = np.ma.masked_invalid(np.asarray(values, dtype=np.float64))
    count = masked.count(axis=0)
    mean = np.ma.filled(masked.mean(axis=0), np.nan)
    sd = np.ma.filled(masked.std(axis=0, ddof=1), np.nan) if len(masked) > 1 else np.full(masked.shape[1:], np.nan)
    return np.asarray(mean), np.where(count > 1, sd, np.nan)


def by_step(groups: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str) -> Figure:
    """One line a method over the steps t = 1..T, error bars = sd over seeds. groups: method -> (S, T), nan allowed."""
    figure, axes = _new(1, 1, 3.7)
    for index, (method, values) in enumerate(groups.items()):
        mean, sd = mean_and_sd(values)
        bars = None if np.isnan(sd).all() else np.nan_to_num(sd)
        steps = np.arange(1, len(mean) + 1)
        axes[0, 0].errorbar(steps, mean, bars, label=method, capsize=3, markersize=5, **_look(index))
    axes[0, 0].set(xlabel=xlabel, ylabel=ylabel)
    _whole_ticks(axes[0, 0], max(np.shape(values)[1] for values in groups.values()))
    _legend(figure, axes[0, 0])
    return figure


def by_class(groups: Mapping[str, ArrayLike], classes: Sequence[str], *, ylabel: str) -> Figure:
    """Accuracy of each class, methods side by side. groups: method -> (S, C), nan for a class without samples.

    More than `MOST_CLASSES_NAMED` classes are one falling line a method, each method with its own order.
    """
    figure, axes = _new(1, 1, 3.6)
    ax = axes[0, 0]
    means = {method: mean_and_sd(values) for method, values in groups.items()}
    ax.set(ylabel=ylabel, ylim=(0, 102))
    if len(classes) > MOST_CLASSES_NAMED:
        for index, (method, (mean, _)) in enumerate(means.items()):
            ax.plot(np.arange(1, len(mean) + 1), -np.sort(-mean), label=method, **_line(index))
        ax.set_xlabel(f"{len(classes)} classes, the most accurate first, in each method's own order")
    else:
        _bars(ax, means)
        slanted = max(map(len, classes)) > 4
        ax.set_xticks(np.arange(len(classes)), classes, rotation=40 * slanted, ha="right" if slanted else "center")
    _legend(figure, ax)
    return figure


def _bars(ax: Any, means: Mapping[str, tuple[Array, Array]]) -> None:
    """A group of bars a class, a bar a method."""
    width = 0.8 / len(means)
    for index, (method, (mean, sd)) in enumerate(means.items()):
        places = np.arange(len(mean)) + (index - (len(means) - 1) / 2) * width
        bars = None if np.isnan(sd).all() else np.nan_to_num(sd)
        error = {"ecolor": INK, "elinewidth": 0.8, "capsize": 1.5}
        ax.bar(places, mean, width, yerr=bars, color=_look(index)["color"], label=method, error_kw=error)
    ax.grid(visible=False, axis="x")
    ax.tick_params(axis="x", length=0)


def confusions(tables: Mapping[str, Mapping[int, ArrayLike]], classes: Sequence[str]) -> Figure:
    """A confusion matrix a method (row) and a step (column), in percent of each true class.

    tables: method -> {t: counts (C, C), row = truth}. A class without a sample is an empty row.
    """
    columns = max(len(steps) for steps in tables.values())
    side = WIDTH / max(columns, 2) - 0.6
    figure, axes = _new(len(tables), columns, len(tables) * side)
    image: Any = None
    for row, (method, steps) in zip(axes, tables.items(), strict=True):
        for ax in row[len(steps) :]:
            ax.set_axis_off()
        for ax, (step, counts) in zip(row, steps.items(), strict=False):
            image = _confusion(ax, np.asarray(counts, dtype=np.float64), classes)
            ax.set_title(f"{method}, t = {step}")
    figure.colorbar(image, ax=axes, shrink=0.6 / len(tables), aspect=18, label="% of the true class")
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
                ink = "#ffffff" if value > 55 else "#222222"  # Blues is dark above its middle
                ax.text(guess, truth, f"{value:.0f}", color=ink, fontsize=7, ha="center", va="center")
    return image


def training(runs: Mapping[str, Sequence[Curves]]) -> Figure:
    """Training loss and validation accuracy by epoch, one line a seed; dotted uprights where a later phase starts."""
    figure, axes = _new(1, 2, 3.2)
    for index, (method, seeds) in enumerate(runs.items()):
        for position, curves in enumerate(seeds):
            epochs = np.arange(1, len(curves.train_loss) + 1)
            look: dict[str, Any] = {**_line(index), "linewidth": 1.2, "alpha": 0.8 if len(seeds) > 1 else 1.0}
            look["marker"] = "." if len(epochs) == 1 else None
            for ax, values in zip(axes[0], (curves.train_loss, curves.val_acc), strict=True):
                ax.plot(epochs, values, label=method if position == 0 else None, **look)
                for start in curves.phase_starts if position == 0 else []:
                    ax.axvline(start - 0.5, color=look["color"], linestyle=":", linewidth=0.8)
    for ax, name in zip(axes[0], ("train loss", "validation accuracy (%)"), strict=True):
        ax.set(xlabel="epoch", ylabel=name)
        _whole_ticks(ax, max(len(curves.train_loss) for seeds in runs.values() for curves in seeds))
    _legend(figure, axes[0, 0])
    return figure


def risk(curves: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Risk (errors among the samples kept) over coverage. curves: method -> {panel: risk (N,), most confident first}."""
    panels = list(dict.fromkeys(panel for steps in curves.values() for panel in steps))
    figure, axes = _new(1, len(panels), 3.3, sharey=True)
    for index, (method, steps) in enumerate(curves.items()):
        for panel, values in steps.items():
            values = np.asarray(values)
            kept = np.unique(np.linspace(0, len(values) - 1, 300).round().astype(int))  # what a line can show
            ax = axes[0, panels.index(panel)]
            ax.plot(100 * (kept + 1) / len(values), 100 * values[kept], label=method, **_line(index))
    for ax, panel in zip(axes[0], panels, strict=True):
        ax.set(title=panel, xlabel="coverage (%), most confident first", xlim=(0, 100))
    axes[0, 0].set_ylabel("risk: wrong among the kept (%)")
    _legend(figure, axes[0, 0])
    return figure


def scatter(points: Mapping[str, tuple[ArrayLike, ArrayLike]], classes: Sequence[str]) -> Figure:
    """Points coloured by class, a panel a method. points: method -> (xy (M, 2), labels (M,))."""
    rows = -(-len(points) // 2)
    figure, axes = _new(rows, 2, rows * 3.4)
    looks = [class_look(index) for index in range(len(classes))]
    for ax in axes.flat[len(points) :]:
        ax.set_axis_off()
    for ax, (method, (xy, labels)) in zip(axes.flat, points.items(), strict=False):
        ax.set(title=method, xticks=[], yticks=[])
        ax.spines[:].set(visible=True, alpha=0.4)
        xy, labels = np.asarray(xy), np.asarray(labels)
        for index in np.unique(labels):
            chosen = xy[labels == index]
            # Points become one small picture: a thousand vector marks a method would be most of the file.
            ax.scatter(*chosen.T, s=10, alpha=0.85, linewidths=0, rasterized=True, **looks[int(index)])
    if len(classes) <= MOST_CLASSES_NAMED:
        for name, look in zip(classes, looks, strict=True):
            axes.flat[0].scatter([], [], s=24, label=name, **look)
        _legend(figure, axes.flat[0])
    return figure


def paint(frames: ArrayLike) -> Array:
    """Frames (T, P, H, W) -> colours (T, H, W, 3) in 0..1. P = 2: on events red, off events blue, on white.

    The darkest colour is the 99th percentile of the pixels that hold something, so one hot pixel does not hide the
    rest. P = 3 is an RGB image and any other P is the grey sum of its planes, both scaled by their largest value.
    """
    frames = np.asarray(frames, dtype=np.float64)
    if frames.ndim != 4:
        raise ValueError(f"paint: frames must be (T, P, H, W), got shape {frames.shape}")
    seen = frames[frames > 0]
    if frames.shape[1] != 2:
        top = max(float(seen.max(initial=0.0)), 1e-12)
        planes = frames if frames.shape[1] == 3 else frames.sum(axis=1, keepdims=True).repeat(3, axis=1)
        top = max(top, float(planes.max(initial=0.0)))
        return np.clip(planes / top, 0, 1).transpose(0, 2, 3, 1)
    share = np.clip(frames / (np.percentile(seen, 99) if seen.size else 1.0), 0, 1)
    red, blue = np.array([0.15, 0.80, 0.80]), np.array([0.90, 0.55, 0.10])  # what each polarity takes from white
    return np.clip(1 - share[:, 1, ..., None] * red - share[:, 0, ..., None] * blue, 0, 1)


def shown_steps(total: int) -> list[int]:
    """The steps (from 0) that `film` shows: all of them, or `MOST_FRAMES` spread from the first to the last.

    >>> shown_steps(3), len(shown_steps(100)), shown_steps(100)[-1]
    ([0, 1, 2], 20, 99)
    """
    return np.unique(np.linspace(0, total - 1, min(total, MOST_FRAMES)).round().astype(int)).tolist()


def film(colours: Array, verdicts: Mapping[str, Sequence[Verdict]]) -> Figure:
    """One sample's frames in time order and, below each, what every method says of all frames so far.

    colours (T, H, W, 3); verdicts: method -> one `Verdict` a step, or none where the method saw other frames.
    """
    steps = shown_steps(len(colours))
    columns, rows = min(len(steps), FRAMES_A_ROW), -(-len(steps) // FRAMES_A_ROW)
    left = 0.2 + 0.07 * max(map(len, verdicts))  # inches, as all sizes here; the names of the methods
    wide = min((WIDTH - left) / columns, 1.8)
    high = wide * colours.shape[1] / colours.shape[2]
    row = high + 0.25 + 26 / 72 * len(verdicts) + 0.15
    figure = need("matplotlib.figure", extra="report", purpose="a report").Figure(figsize=(WIDTH, rows * row))
    for position, step in enumerate(steps):
        down, across = divmod(position, columns)
        bottom = (rows - down) * row - 0.25 - high
        place = (left + across * wide) / WIDTH, bottom / (rows * row), 0.94 * wide / WIDTH, high / (rows * row)
        ax = figure.add_axes(place)
        ax.imshow(colours[step], interpolation="none")
        ax.grid(visible=False)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"t = {step + 1}", fontsize=8, pad=3)
        ax.spines[:].set(visible=True, alpha=0.4)
        _captions(ax, {method: said[step] if said else None for method, said in verdicts.items()}, named=across == 0)
    return figure


def _captions(ax: Any, said: Mapping[str, Verdict | None], *, named: bool) -> None:
    """A prediction a method under one frame, a dash for none, and the methods' names at the left end of a row."""
    for index, (method, verdict) in enumerate(said.items()):
        style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "fontsize": 7.5}
        drop = -5 - 26 * index
        if named:
            look = {"color": _look(index)["color"], "weight": "bold"}
            ax.annotate(method, (0, 0), xytext=(-6, drop), ha="right", **look, **style)
        text = "\u2013"
        if verdict is not None:
            mark = "\u2713" if verdict.right else "\u2717"
            name = verdict.name if len(verdict.name) <= 10 else verdict.name[:9] + "\u2026"
            text = f"{mark} {name}\n{100 * verdict.confidence:.0f} %"
        ax.annotate(text, (0.5, 0), xytext=(0, drop), ha="center", **style)


def to_svg(draw: Callable[[], Figure], *, name: str, title: str, description: str) -> str:
    """Draw and return an `<svg>` element for an HTML page, with a title and a description for who cannot see it.

    Every id starts with `name`, so that many figures share a page. Letters take the page's font and `INK` its colour.
    The same figure gives the same text, byte for byte.
    """
    buffer = io.StringIO()
    with _plot().rc_context(_STYLE):
        draw().savefig(buffer, format="svg", dpi=144, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'xmlns(:xlink)?="[^"]*" ?', "", text)  # an HTML page knows both, and no address is left in it
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)  # would style the whole page
    text = re.sub(r"'DejaVu Sans'", "system-ui, sans-serif", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    label = f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-desc">{html.escape(description)}</desc>'
    head = f'<svg role="img" aria-labelledby="{name}-title {name}-desc" '
    return re.sub(r"<svg ([^>]*)>", lambda found: f"{head}{found[1].strip()}>{label}", text, count=1)


def accuracy_figure(
    groups: Mapping[str, ArrayLike], path_png: str | os.PathLike[str], *, prefix: str = "", title: str | None = None
) -> Path:
    """Write a PNG of the accuracy over prefix t, one line a method, error bars = sd over seeds; return its path.

    groups: method -> percent (S, T), a row a seed. prefix: "live" or "hindsight bins", said on the axis.
    """
    if not groups:
        raise ValueError("accuracy_figure: groups must hold at least one method, got none")
    for method, values in groups.items():
        if np.ndim(values) != 2:
            raise ValueError(f"accuracy_figure: groups[{method!r}] must be (seeds, T), got shape {np.shape(values)}")
    note = f" ({prefix})" if prefix else ""
    with _plot("a figure").rc_context(_STYLE):
        figure = by_step(groups, xlabel=f"time steps seen, t{note}", ylabel="top-1 accuracy (%)")
        if title:
            figure.axes[0].set_title(title, loc="left")
        with atomic_path(path_png) as temporary:
            look: dict[str, Any] = {"dpi": 160, "facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.12}
            figure.savefig(temporary, format="png", metadata={"Software": None}, **look)
    return Path(path_png)

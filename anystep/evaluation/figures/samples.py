"""Samples: a layout of their features, and one of them frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anystep._errors import UsageError
from anystep._extras import need
from anystep.evaluation.figures import style
from anystep.evaluation.figures.style import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FRAMES = 20
FRAMES_A_ROW = 10
MOST_CLASSES_NAMED = 20  # in a legend


class Verdict(NamedTuple):
    """What a method says after one step: a class name, its softmax confidence, and whether it is
    the true class.
    """

    name: str
    confidence: float
    right: bool


def scatter(points: Mapping[str, tuple[ArrayLike, ArrayLike]], classes: Sequence[str]) -> Figure:
    """Points coloured by class, a panel a method. points: method -> (xy (M, 2), labels (M,))."""
    rows = -(-len(points) // 2)
    figure, axes = style.new(rows, 2, rows * 3.4)
    looks = [style.class_look(index) for index in range(len(classes))]
    for ax in axes.flat[len(points) :]:
        ax.set_axis_off()
    for ax, (method, (xy, labels)) in zip(axes.flat, points.items(), strict=False):
        ax.set(title=method, xticks=[], yticks=[])
        ax.spines[:].set(visible=True, alpha=0.4)
        xy, labels = np.asarray(xy), np.asarray(labels)
        for index in np.unique(labels):
            chosen = xy[labels == index]
            # Points become one small picture: a thousand vector marks a method would be most of the
            # file.
            ax.scatter(
                *chosen.T, s=10, alpha=0.85, linewidths=0, rasterized=True, **looks[int(index)]
            )
    if len(classes) <= MOST_CLASSES_NAMED:
        for name, look in zip(classes, looks, strict=True):
            axes.flat[0].scatter([], [], s=24, label=name, **look)
        style.legend(figure, axes.flat[0])
    return figure


def paint(frames: ArrayLike) -> Array:
    """Frames (T, P, H, W) -> colours (T, H, W, 3) in 0..1. P = 2: on events red, off events blue,
    on white.

    The darkest colour is the 99th percentile of the pixels that hold something, so one hot pixel
    does not hide the rest. P = 3 is an RGB image and any other P is the grey sum of its planes,
    both scaled by their largest value.
    """
    frames = np.asarray(frames, dtype=np.float64)
    if frames.ndim != 4:
        raise UsageError(f"paint: frames must be (T, P, H, W), got shape {frames.shape}")
    seen = frames[frames > 0]
    if frames.shape[1] != 2:
        top = max(float(seen.max(initial=0.0)), 1e-12)
        planes = (
            frames if frames.shape[1] == 3 else frames.sum(axis=1, keepdims=True).repeat(3, axis=1)
        )
        top = max(top, float(planes.max(initial=0.0)))
        return np.clip(planes / top, 0, 1).transpose(0, 2, 3, 1)
    share = np.clip(frames / (np.percentile(seen, 99) if seen.size else 1.0), 0, 1)
    red, blue = (
        np.array([0.15, 0.80, 0.80]),
        np.array([0.90, 0.55, 0.10]),
    )  # what each polarity takes from white
    return np.clip(1 - share[:, 1, ..., None] * red - share[:, 0, ..., None] * blue, 0, 1)


def shown_steps(total: int) -> list[int]:
    """The steps (from 0) that `film` shows: all of them, or `MOST_FRAMES` spread from the first to
    the last.

    >>> shown_steps(3), len(shown_steps(100)), shown_steps(100)[-1]
    ([0, 1, 2], 20, 99)
    """
    return np.unique(
        np.linspace(0, total - 1, min(total, MOST_FRAMES)).round().astype(int)
    ).tolist()


def film(colours: Array, verdicts: Mapping[str, Sequence[Verdict]]) -> Figure:
    """One sample's frames in time order and, below each, what every method says of all frames so
    far.

    colours (T, H, W, 3); verdicts: method -> one `Verdict` a step, or none where the method saw
    other frames.
    """
    steps = shown_steps(len(colours))
    columns, rows = min(len(steps), FRAMES_A_ROW), -(-len(steps) // FRAMES_A_ROW)
    left = 0.2 + 0.07 * max(
        map(len, verdicts)
    )  # inches, as all sizes here; the names of the methods
    wide = min((style.WIDTH - left) / columns, 1.8)
    high = wide * colours.shape[1] / colours.shape[2]
    row = high + 0.25 + 26 / 72 * len(verdicts) + 0.15
    figure = need("matplotlib.figure", extra="report", purpose="a report").Figure(
        figsize=(style.WIDTH, rows * row)
    )
    for position, step in enumerate(steps):
        down, across = divmod(position, columns)
        bottom = (rows - down) * row - 0.25 - high
        place = (
            (left + across * wide) / style.WIDTH,
            bottom / (rows * row),
            0.94 * wide / style.WIDTH,
            high / (rows * row),
        )
        ax = figure.add_axes(place)
        ax.imshow(colours[step], interpolation="none")
        ax.grid(visible=False)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"t = {step + 1}", fontsize=8, pad=3)
        ax.spines[:].set(visible=True, alpha=0.4)
        _captions(
            ax,
            {method: said[step] if said else None for method, said in verdicts.items()},
            named=across == 0,
        )
    return figure


def _captions(ax: Any, said: Mapping[str, Verdict | None], *, named: bool) -> None:
    """A prediction a method under one frame, a dash for none, and the methods' names at the left
    end of a row.
    """
    for index, (method, verdict) in enumerate(said.items()):
        place: dict[str, Any] = {
            "xycoords": "axes fraction",
            "textcoords": "offset points",
            "va": "top",
            "fontsize": 7.5,
        }
        drop = -5 - 26 * index
        if named:
            look = {"color": style.look(index)["color"], "weight": "bold"}
            ax.annotate(method, (0, 0), xytext=(-6, drop), ha="right", **look, **place)
        text = "\u2013"
        if verdict is not None:
            mark = "\u2713" if verdict.right else "\u2717"
            name = verdict.name if len(verdict.name) <= 10 else verdict.name[:9] + "\u2026"
            text = f"{mark} {name}\n{100 * verdict.confidence:.0f} %"
        ax.annotate(text, (0.5, 0), xytext=(0, drop), ha="center", **place)

"""Samples: a map of their features, and one of them frame by frame."""

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

MOST_FRAMES = 20
FRAMES_A_ROW = 10
LETTERS = 10  # of a class name below a frame
# What off and on events take from white; blue and red are left.
FROM_WHITE = np.array([[0.90, 0.55, 0.10], [0.15, 0.80, 0.80]])


class Verdict(NamedTuple):
    """What a method says after one step, with its softmax confidence, and whether it is true."""

    name: str
    confidence: float
    right: bool


def scatter(points: Mapping[str, tuple[Array, Array]], classes: Sequence[str]) -> Figure:
    """Points coloured by class, a panel a method. points: method -> (xy (M, 2), labels (M,))."""
    rows = -(-len(points) // 2)
    figure, axes = style.new(rows, 2, rows * 3.4)
    looks = [style.class_look(index) for index in range(len(classes))]
    for ax in axes.flat[len(points) :]:
        ax.set_axis_off()
    # Points become one small picture: a thousand vector marks a method would be most of the file.
    drawn: Look = {"s": 10, "alpha": 0.85, "linewidths": 0, "rasterized": True}
    for ax, (method, (xy, labels)) in zip(axes.flat, points.items(), strict=False):
        ax.set(title=method, xticks=[], yticks=[])
        ax.spines[:].set(visible=True, alpha=0.4)
        for index in np.unique(labels):
            ax.scatter(*xy[labels == index].T, **drawn, **looks[index])
    if len(classes) <= style.MOST_CLASSES_NAMED:
        for name, look in zip(classes, looks, strict=True):
            axes.flat[0].scatter([], [], s=24, label=name, **look)
        style.legend(figure, axes.flat[0])
    return figure


def paint(frames: ArrayLike) -> Array:
    """Frames (T, P, H, W) -> colours (T, H, W, 3) in 0..1. P = 2: on events red, off events blue.

    The darkest colour is the 99th percentile of the pixels that hold something, so one hot pixel
    does not hide the rest. P = 3 is an RGB image and any other P is the grey sum of its planes,
    both scaled by their largest value.
    """
    frames = np.asarray(frames, dtype=np.float64)
    if frames.ndim != 4:
        raise ValueError(f"paint: frames must be (T, P, H, W), got shape {frames.shape}")
    if frames.shape[1] == 2:
        seen = frames[frames > 0]
        share = np.clip(frames / (np.percentile(seen, 99) if seen.size else 1.0), 0, 1)
        off, on = (share[:, plane, ..., None] * taken for plane, taken in enumerate(FROM_WHITE))
        return np.clip(1 - on - off, 0, 1)
    if frames.shape[1] != 3:
        frames = np.repeat(frames.sum(axis=1, keepdims=True), 3, axis=1)
    return np.clip(frames / max(frames.max(initial=0.0), 1e-12), 0, 1).transpose(0, 2, 3, 1)


def _captions(ax: Axes, said: Mapping[str, Verdict | None], *, named: bool) -> None:
    """Below a frame what every method says, a dash for nothing; if `named`, to the left who."""
    place: Look = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    for index, (method, verdict) in enumerate(said.items()):
        drop = -5 - 26 * index
        if named:
            look: Look = {"color": style.look(index)["color"], "weight": "bold", "ha": "right"}
            ax.annotate(method, (0, 0), xytext=(-6, drop), fontsize=7.5, **look, **place)
        text = "\u2013"
        if verdict is not None:
            mark = "\u2713" if verdict.right else "\u2717"
            name = verdict.name
            if len(name) > LETTERS:
                name = name[: LETTERS - 1] + "\u2026"
            text = f"{mark} {name}\n{100 * verdict.confidence:.0f} %"
        ax.annotate(text, (0.5, 0), xytext=(0, drop), fontsize=7.5, ha="center", **place)


def film(colours: Array, verdicts: Mapping[str, Sequence[Verdict]]) -> Figure:
    """One sample's frames in time order and, below each, what every method says so far.

    colours (T, H, W, 3); verdicts: method -> one a step, or none where it saw other frames.
    """
    total = len(colours)
    steps = np.linspace(0, total - 1, min(total, MOST_FRAMES)).round().astype(int)
    columns, rows = min(len(steps), FRAMES_A_ROW), -(-len(steps) // FRAMES_A_ROW)
    # Inches, as all sizes here.
    left = 0.2 + 0.07 * max(map(len, verdicts))  # the names of the methods
    wide = min((style.WIDTH - left) / columns, 1.8)
    high = wide * colours.shape[1] / colours.shape[2]
    row = high + 0.25 + 26 / 72 * len(verdicts) + 0.15
    figure = style.blank(style.WIDTH, rows * row)
    for position, step in enumerate(steps):
        down, across = divmod(position, columns)
        corner = (left + across * wide, (rows - down) * row - 0.25 - high)
        page = np.array([style.WIDTH, rows * row])
        ax = figure.add_axes((*(corner / page), *((0.94 * wide, high) / page)))
        ax.imshow(colours[step], interpolation="none")
        ax.grid(visible=False)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"t = {step + 1}", fontsize=8, pad=3)
        ax.spines[:].set(visible=True, alpha=0.4)
        said = {method: own[step] if own else None for method, own in verdicts.items()}
        _captions(ax, said, named=across == 0)
    return figure

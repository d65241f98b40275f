"""A contact sheet: one small picture of each class of a data set."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.frames import EqualTime
from anystep.data.recording import Events
from anystep.evaluation.figures import style
from anystep.evaluation.figures.samples import paint
from anystep.evaluation.figures.style import Array, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST = 1.0  # inches: room for a name of 15 letters, and a picture that can be recognised
LETTERS = 15  # in a line below a picture, of an inch of width


def picture(example: Events | NDArray[Any]) -> Array:
    """Colours (H, W, 3) in 0..1. Bytes are colours as they are; other numbers are scaled."""
    if isinstance(example, Events):
        return paint(EqualTime(1)(example))[0]
    if example.ndim != 3:
        raise ValueError(f"contact_sheet: an image must be (P, H, W), got shape {example.shape}")
    if example.dtype == np.uint8 and len(example) in (1, 3):
        return np.broadcast_to(example, (3, *example.shape[1:])).transpose(1, 2, 0) / 255
    return paint(example[None])[0]


def in_lines(name: str, letters: int) -> str:
    """A name in at most two lines of so many letters. The second is cut where it is too long.

    >>> in_lines("BACKGROUND_Google", 15), in_lines("left arm counter clockwise", 15)
    ('BACKGROUND_\\nGoogle', 'left arm\\ncounter clockw\u2026')
    """
    if len(name) <= letters:
        return name
    breaks = [place + 1 for place, letter in enumerate(name[:letters]) if letter in " _-."]
    first = breaks[-1] if breaks else letters
    second = name[first:]
    if len(second) > letters:
        second = second[: letters - 1] + "\u2026"
    return f"{name[:first].rstrip()}\n{second}"


def _cell(ax: Axes, colours: Array, name: str, *, left: float, top: float) -> None:
    """A picture in the middle of its cell, a thin frame around it, its name below."""
    height, width = (0.94 * length / max(colours.shape[:2]) for length in colours.shape[:2])
    x, y = left + (1 - width) / 2, top + 0.03 + (0.94 - height) / 2
    ax.imshow(colours, extent=(x, x + width, y + height, y), interpolation="none", aspect="auto")
    across, down = np.array([0, 1, 1, 0, 0]) * width + x, np.array([0, 0, 1, 1, 0]) * height + y
    ax.plot(across, down, color="#bbbbbb", linewidth=0.5)
    look: Look = {"ha": "center", "va": "top", "linespacing": 1.05}
    ax.text(left + 0.5, y + height + 0.02, name, fontsize=7, **look)


def _sheet(pictures: Mapping[str, Array], title: str | None) -> Figure:
    """All pictures on one pair of axes: with hundreds of axes matplotlib would take minutes."""
    columns = min(len(pictures), max(5, math.ceil(math.sqrt(1.4 * len(pictures)))))
    rows = math.ceil(len(pictures) / columns)
    side = max(SMALLEST, min(style.WIDTH / columns, 1.7))
    letters = int(LETTERS * side)
    # In cells, as all that follows: room for the names and for the title.
    below = 0.26 / side + (0.12 / side if max(map(len, pictures)) > letters else 0)
    above = 0.3 / side if title else 0
    high = rows * (1 + below)
    figure = style.blank(columns * side, (high + above) * side)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, columns), ylim=(high, -above), xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=False)
    if title:
        ax.text(0.03, -above / 2, title, fontsize=10, va="center")
    for index, (name, colours) in enumerate(pictures.items()):
        down, across = divmod(index, columns)
        _cell(ax, colours, in_lines(name, letters), left=across, top=down * (1 + below))
    return figure


def contact_sheet(
    path: str | os.PathLike[str],
    examples: Mapping[str, Events | NDArray[Any]],
    *,
    title: str | None = None,
) -> Path:
    """Write a PNG or SVG with a picture of each example and its name below; return its path.

    examples: name -> events (all of them in one picture: on red, off blue), an image (3 or 1, H,
    W), or counts (2, H, W). The sheet grows with their number: a hundred can still be told apart.
    """
    if not examples:
        raise UsageError("contact_sheet: examples must hold at least one, got none")
    pictures = {style.plain(name): picture(example) for name, example in examples.items()}
    return style.save(lambda: _sheet(pictures, title), path)

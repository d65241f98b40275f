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
from anystep._extras import need
from anystep.data.frames import EqualTime
from anystep.data.recording import Events
from anystep.evaluation.figures import style
from anystep.evaluation.figures.samples import paint
from anystep.evaluation.figures.style import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST = (
    1.0  # inches: what a name of 15 letters takes, and a picture that can be told from others
)
LETTERS = 15  # in a line below a picture, of an inch of width


def contact_sheet(
    path: str | os.PathLike[str],
    examples: Mapping[str, Events | NDArray[Any]],
    *,
    title: str | None = None,
) -> Path:
    """Write a PNG with a picture of each example and its name below, in the order of the mapping;
    return its path.

    examples   name -> events (all of them on one picture: on red, off blue), an image (3 or 1, H,
               W), or counts (2, H, W)

    The sheet grows with the number of examples, so that the pictures of a hundred classes can still
    be told apart.
    """
    if not examples:
        raise UsageError("contact_sheet: examples must hold at least one, got none")
    pictures = {name: picture(example) for name, example in examples.items()}
    return style.save(lambda: _sheet(pictures, title), path)


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no sheet can be written to: another suffix, a folder that is not there, no
    matplotlib.
    """
    if Path(path).suffix not in (".png", ".svg") or not Path(path).parent.is_dir():
        raise UsageError(
            f"contact_sheet: path must end with .png or .svg in a folder that exists, got {os.fspath(path)!r}"
        )
    need("matplotlib", extra="report", purpose="a contact sheet")


def picture(example: Events | NDArray[Any]) -> Array:
    """Colours (H, W, 3) in 0..1 of a recording, an image or counts. Bytes are colours as they are;
    other numbers are scaled.
    """
    if isinstance(example, Events):
        return paint(EqualTime(1)(example))[0]
    if example.ndim != 3:
        raise UsageError(f"contact_sheet: an image must be (P, H, W), got shape {example.shape}")
    if example.dtype == np.uint8 and len(example) in (1, 3):
        return np.broadcast_to(example, (3, *example.shape[1:])).transpose(1, 2, 0) / 255
    return paint(example[None])[0]


def _sheet(pictures: Mapping[str, Array], title: str | None) -> Figure:
    """All pictures on one pair of axes, a cell each: hundreds of axes would take matplotlib
    minutes.
    """
    columns = min(len(pictures), max(5, math.ceil(math.sqrt(1.4 * len(pictures)))))
    rows = math.ceil(len(pictures) / columns)
    side = max(SMALLEST, min(style.WIDTH / columns, 1.7))
    below = 0.26 / side  # in cells, as all that follows; room for the names
    letters = int(LETTERS * side)
    if max(map(len, pictures)) > letters:
        below += 0.12 / side
    above = 0.3 / side if title else 0
    size = columns * side, (rows * (1 + below) + above) * side
    figure = need("matplotlib.figure", extra="report", purpose="a contact sheet").Figure(
        figsize=size
    )
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, columns), ylim=(rows * (1 + below), -above), xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=False)
    if title:
        ax.text(0.03, -above / 2, title, fontsize=10, va="center", parse_math=False)
    for index, (name, colours) in enumerate(pictures.items()):
        down, across = divmod(index, columns)
        _cell(ax, colours, in_lines(name, letters), left=across, top=down * (1 + below))
    return figure


def _cell(ax: Any, colours: Array, name: str, *, left: float, top: float) -> None:
    """A picture in the middle of its cell, a thin frame around it, its name below."""
    height, width = (0.94 * length / max(colours.shape[:2]) for length in colours.shape[:2])
    x, y = left + (1 - width) / 2, top + 0.03 + (0.94 - height) / 2
    ax.imshow(colours, extent=(x, x + width, y + height, y), interpolation="none", aspect="auto")
    across, down = np.array([0, 1, 1, 0, 0]) * width + x, np.array([0, 0, 1, 1, 0]) * height + y
    ax.plot(across, down, color="#bbbbbb", linewidth=0.5)
    plain = name.encode(
        errors="replace"
    ).decode()  # a folder may be called what is no UTF-8, or what looks like a formula
    where = {"ha": "center", "va": "top", "linespacing": 1.05}
    ax.text(left + 0.5, y + height + 0.02, plain, fontsize=7, parse_math=False, **where)


def in_lines(name: str, letters: int) -> str:
    """A name in at most two lines of so many letters, the second cut where it is still too long.

    >>> in_lines("BACKGROUND_Google", 15), in_lines("left arm counter clockwise", 15)
    ('BACKGROUND_\\nGoogle', 'left arm\\ncounter clockw\u2026')
    """
    if len(name) <= letters:
        return name
    breaks = [place + 1 for place, letter in enumerate(name[:letters]) if letter in " _-."]
    first = breaks[-1] if breaks else letters
    second = name[first:]
    return f"{name[:first].rstrip()}\n{second if len(second) <= letters else second[: letters - 1] + chr(0x2026)}"

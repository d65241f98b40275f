"""How every figure looks, and the two ways out: an inline SVG and a file."""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Look = dict[str, Any]  # keywords of matplotlib

# Okabe and Ito's colours and a grey. Their black and yellow would vanish on a dark or a light page.
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
METHOD_LINES = ("-", "--", ":", "-.")
# Paul Tol's "muted" colours with a lighter indigo and a grey. Colour never carries a class alone:
# the marker changes too.
CLASS_COLOURS = (
    *("#5B4FCF", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888"),
)
CLASS_MARKERS = ("o", "^", "s", "D", "v")
MOST_CLASSES_NAMED = 20  # on an axis or in a legend
INK = "#010203"  # lines and letters; `to_svg` turns it into the colour of the page's text
WIDTH = 8.4  # inches; 605 points, scaled by the page
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_STYLE: Look = {
    "svg.fonttype": "none",  # letters stay letters: small, selectable, read aloud
    "svg.hashsalt": "anystep",  # without it ids are random, and each file of a figure differs
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a class may be called $\\frac{$
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys((*_INKED, "grid.color"), INK),
}


def need_plots(purpose: str = "a report") -> ModuleType:
    """matplotlib, or an error that says how to install it."""
    return need("matplotlib", extra="report", purpose=purpose)


def plain(text: object) -> str:
    """Text that a page and a figure can show: control letters and what is no UTF-8 as codes."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", lambda m: ascii(m[0])[1:-1], str(text)
    )


def blank(width: float, height: float, **options: Any) -> Figure:
    """An empty figure, in inches."""
    module = need("matplotlib.figure", extra="report", purpose="a report")
    figure: Figure = module.Figure(figsize=(width, height), **options)
    return figure


def new(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Array]:
    """An empty figure of the page's width and its axes (rows, columns)."""
    figure = blank(WIDTH, height, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def look(index: int) -> Look:
    """A method's colour and marker by its place, and a line that changes when they come again."""
    return {
        "color": METHOD_COLOURS[index % len(METHOD_COLOURS)],
        "marker": METHOD_MARKERS[index % len(METHOD_MARKERS)],
        "linestyle": METHOD_LINES[index // len(METHOD_COLOURS) % len(METHOD_LINES)],
    }


def line(index: int) -> Look:
    """`look` without the marker."""
    return {**look(index), "marker": None}


def class_look(index: int) -> Look:
    """How a class is drawn: colour and marker, fifty pairs before one comes again."""
    turn = index + index // len(CLASS_COLOURS)
    return {
        "color": CLASS_COLOURS[index % len(CLASS_COLOURS)],
        "marker": CLASS_MARKERS[turn % len(CLASS_MARKERS)],
    }


def legend(figure: Figure, axes: Axes) -> None:
    """One legend above the plots, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        fits = 90 // (max(map(len, labels)) + 6)  # 90 letters in a line; a marker is worth six
        columns = max(1, min(len(labels), fits))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def whole_ticks(ax: Axes, last: int) -> None:
    """A tick at every whole number from 1, or at some of them where all would not fit."""
    if last <= 12:
        ax.set_xticks(np.arange(1, last + 1))
    else:
        ax.locator_params(axis="x", integer=True)


def to_svg(draw: Callable[[], Figure], *, name: str, title: str, description: str) -> str:
    """Draw an `<svg>` element for an HTML page, its title and description for who cannot see it.

    Every id starts with `name`, so that many figures share a page. Letters take the page's font and
    `INK` its colour. The same figure gives the same text, byte for byte.
    """
    buffer = io.StringIO()
    undated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with need_plots().rc_context(_STYLE):
        draw().savefig(buffer, format="svg", dpi=144, metadata=undated)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # An HTML page knows both name spaces, and then no web address is left in it.
    text = re.sub(r'xmlns(:xlink)?="[^"]*" ?', "", text)
    # matplotlib's style element would apply to the whole page.
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'", "system-ui, sans-serif", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    head = f'<svg role="img" aria-labelledby="{name}-title {name}-desc" '
    label = f'<title id="{name}-title">{html.escape(title)}</title>'
    label += f'<desc id="{name}-desc">{html.escape(description)}</desc>'
    return re.sub(r"<svg ([^>]*)>", lambda own: f"{head}{own[1].strip()}>{label}", text, count=1)


def check_path(path: str | os.PathLike[str]) -> Path:
    """Refuse a path that no picture can be written to, or that matplotlib is not there."""
    path = Path(path)
    if path.suffix not in (".png", ".svg") or not path.parent.is_dir():
        rule = "path must end with .png or .svg in a folder that exists"
        raise UsageError(f"picture: {rule}, got {os.fspath(path)!r}")
    need_plots("a picture")
    return path


def save(draw: Callable[[], Figure], path: str | os.PathLike[str]) -> Path:
    """Draw on white into a PNG or SVG file, as the suffix says, and return its path."""
    path = check_path(path)
    kind = path.suffix[1:]
    told = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    paper: Look = {"facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.12, "dpi": 160}
    letters = {"svg.fonttype": "path"}  # a file has no page to lend it a font
    with need_plots("a figure").rc_context(_STYLE | letters), atomic_path(path) as temporary:
        draw().savefig(temporary, format=kind, metadata=dict.fromkeys(told), **paper)
    return path

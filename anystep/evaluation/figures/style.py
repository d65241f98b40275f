"""How every figure looks: colours, sizes, letters, and the two ways out, an inline SVG and a file."""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

# Okabe and Ito's colours without black and yellow, which vanish on a dark or a light page, and a
# grey.
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
METHOD_LINES = ("-", "--", ":", "-.")
# Paul Tol's "muted" colours (a lighter indigo, a grey); the marker changes too: colour never
# carries a class alone.
CLASS_COLOURS = [
    "#5B4FCF",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#888888",
]
CLASS_MARKERS = ("o", "^", "s", "D", "v")
INK = "#010203"  # lines and letters; `to_svg` turns it into the colour of the page's text, light or dark
WIDTH = 8.4  # inches; 605 points, scaled by the page
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
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
        ),
        INK,
    ),
}


def need_plots(purpose: str = "a report") -> Any:
    """matplotlib, or an error that says how to install it."""
    return need("matplotlib", extra="report", purpose=purpose)


def new(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Array]:
    """An empty figure of the page's width and its axes (rows, columns)."""
    figure = need("matplotlib.figure", extra="report", purpose="a report").Figure(
        figsize=(WIDTH, height), layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def look(index: int) -> dict[str, Any]:
    """How a method is drawn, by its place: colour and marker, and a line that changes when the
    colours run out.
    """
    return {
        "color": METHOD_COLOURS[index % len(METHOD_COLOURS)],
        "marker": METHOD_MARKERS[index % len(METHOD_MARKERS)],
        "linestyle": METHOD_LINES[index // len(METHOD_COLOURS) % len(METHOD_LINES)],
    }


def class_look(index: int) -> dict[str, Any]:
    """How a class is drawn: colour and marker, fifty pairs before one comes again."""
    turn = index + index // len(CLASS_COLOURS)
    return {
        "color": CLASS_COLOURS[index % len(CLASS_COLOURS)],
        "marker": CLASS_MARKERS[turn % len(CLASS_MARKERS)],
    }


def line(index: int) -> dict[str, Any]:
    """`look` without the marker."""
    return {**look(index), "marker": None}


def legend(figure: Figure, axes: Any) -> None:
    """One legend above the plots: methods never hide data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        fits = int(
            90 / (max(map(len, labels)) + 6)
        )  # letters in a line of the figure; a marker is worth six
        figure.legend(
            handles, labels, loc="outside upper left", ncols=max(1, min(len(labels), fits))
        )


def whole_ticks(ax: Any, last: int) -> None:
    """A tick at every whole number from 1, or at some of them where all would not fit."""
    if last <= 12:
        ax.set_xticks(np.arange(1, last + 1))
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)


def mean_and_sd(values: ArrayLike) -> tuple[Array, Array]:
    """Mean and sample standard deviation (ddof = 1) over the first axis (seeds), leaving out what
    is not finite.

    values (S, ...) -> mean (...), sd (...). The sd of fewer than two values is nan, and so is the
    mean of none.

    >>> mean, sd = mean_and_sd([[1.0, 5.0], [3.0, float("nan")]])
    >>> mean.tolist(), sd.round(4).tolist()
    ([2.0, 5.0], [1.4142, nan])
    """
    masked = np.ma.masked_invalid(np.asarray(values, dtype=np.float64))
    count = masked.count(axis=0)
    mean = np.ma.filled(masked.mean(axis=0), np.nan)
    sd = (
        np.ma.filled(masked.std(axis=0, ddof=1), np.nan)
        if len(masked) > 1
        else np.full(masked.shape[1:], np.nan)
    )
    return np.asarray(mean), np.where(count > 1, sd, np.nan)


def to_svg(draw: Callable[[], Figure], *, name: str, title: str, description: str) -> str:
    """Draw and return an `<svg>` element for an HTML page, with a title and a description for who
    cannot see it.

    Every id starts with `name`, so that many figures share a page. Letters take the page's font and
    `INK` its colour. The same figure gives the same text, byte for byte.
    """
    buffer = io.StringIO()
    with need_plots().rc_context(_STYLE):
        draw().savefig(
            buffer,
            format="svg",
            dpi=144,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(
        r'xmlns(:xlink)?="[^"]*" ?', "", text
    )  # an HTML page knows both, and no address is left in it
    text = re.sub(
        r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL
    )  # would style the whole page
    text = re.sub(r"'DejaVu Sans'", "system-ui, sans-serif", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    label = f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-desc">{html.escape(description)}</desc>'
    head = f'<svg role="img" aria-labelledby="{name}-title {name}-desc" '
    return re.sub(
        r"<svg ([^>]*)>", lambda found: f"{head}{found[1].strip()}>{label}", text, count=1
    )


def save(draw: Callable[[], Figure], path: str | os.PathLike[str]) -> Path:
    """Draw on white into a PNG or SVG file, as the suffix says, and return its path. It appears
    whole or not at all.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"save: path must end with .png or .svg, got {path.name}")
    kind = path.suffix[1:]
    told = dict.fromkeys(("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",))
    letters = {"svg.fonttype": "path"}  # a file has no page to lend it a font
    with need_plots("a figure").rc_context(_STYLE | letters), atomic_path(path) as temporary:
        paper: dict[str, Any] = {
            "dpi": 160,
            "facecolor": "white",
            "bbox_inches": "tight",
            "pad_inches": 0.12,
        }
        draw().savefig(temporary, format=kind, metadata=told, **paper)
    return path

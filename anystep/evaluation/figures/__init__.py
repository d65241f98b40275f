"""The figures of a report: plain arrays in, a matplotlib `Figure` out, and the ways out: an inline
SVG, or a file.

No function here knows what a run folder is. Methods keep their place in every mapping, and with it
their colour. matplotlib is imported through `anystep._extras` and only as `Figure` objects: no
pyplot, no open figure left behind.
"""

from __future__ import annotations

from anystep.evaluation.figures.curves import (
    Curves,
    accuracy_figure,
    by_class,
    by_step,
    risk,
    training,
)
from anystep.evaluation.figures.grids import Matrix, confusions, heat_maps
from anystep.evaluation.figures.samples import Verdict, film, paint, scatter, shown_steps
from anystep.evaluation.figures.style import class_look, mean_and_sd, need_plots, save, to_svg

__all__ = [
    "Curves",
    "Matrix",
    "Verdict",
    "accuracy_figure",
    "by_class",
    "by_step",
    "class_look",
    "confusions",
    "film",
    "heat_maps",
    "mean_and_sd",
    "need_plots",
    "paint",
    "risk",
    "save",
    "scatter",
    "shown_steps",
    "to_svg",
    "training",
]

"""Finished runs -> one HTML page with tables and figures, without a model or a data set.

The page is one file that loads nothing and runs no script, and the same runs give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import write_text
from anystep.evaluation.figures import style
from anystep.evaluation.report import pictures, tables
from anystep.evaluation.report.groups import Block, Groups, context
from anystep.evaluation.report.runs import RunRecord, differences, grouped

TEMPLATE = Path(__file__).parent / "report.html.j2"


def _printable(record: RunRecord) -> RunRecord:
    """The record with text that can be shown: names come from folders, and from other programs."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {walk(key): walk(each) for key, each in value.items()}
        return style.plain(value) if isinstance(value, str) else value

    return replace(
        record,
        label=style.plain(record.label),
        config=walk(record.config),
        env=walk(record.env),
        scores=walk(record.scores) | {"classes": [*map(style.plain, record.scores["classes"])]},
        outputs={**record.outputs, "ids": np.array([*map(style.plain, record.outputs["ids"])])},
    )


def _sections(groups: Groups) -> dict[str, list[Block]]:
    """Each heading of the page and what stands below it."""
    contents: dict[str, list[Block | None]] = {
        "Accuracy": [
            pictures.accuracy_figure(groups),
            pictures.sweep_figure(groups),
            tables.accuracy_table(groups),
            pictures.step_figure(groups),
        ],
        "Classes": [pictures.classes_figure(groups), pictures.confusion_figure(groups)],
        "Confidence": [tables.confidence_table(groups), pictures.risk_figure(groups)],
        "Work": [tables.work_table(groups)],
        "A sample": [pictures.film_figure(groups)],
        "Features": [pictures.features_figure(groups)],
        "Training": [pictures.training_figure(groups)],
        "Provenance": [tables.provenance_table(groups)],
    }
    found = {heading: [each for each in blocks if each] for heading, blocks in contents.items()}
    return {heading: blocks for heading, blocks in found.items() if blocks}


def write_report(
    records: Sequence[RunRecord], out: str | os.PathLike[str], *, title: str | None = None
) -> Path:
    """Write one self-contained HTML page about finished runs and return its path.

    Runs are grouped by what tells them apart (`grouped`), in the order given; over several seeds a
    number is mean ± sd (ddof = 1). What makes the comparison unfair (`differences`) stands on top.
    """
    target = Path(out)
    if target.suffix not in (".html", ".htm"):
        raise UsageError(f"a report is a page and must end in .html, got {str(target)!r}")
    jinja2 = need("jinja2", extra="report", purpose="a report")
    strict = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    blocks = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = jinja2.Environment(**strict, **blocks)
    records = [*map(_printable, records)]
    groups = grouped(records)
    methods = list(dict.fromkeys(record.method for record in records))
    named = ", ".join(methods) if len(methods) <= 4 else f"{len(methods)} methods"
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title or f"Accuracy at any step: {named}",
        runs=len(records),
        methods=list(groups),
        warnings=differences(records),
        sections=_sections(groups),
        context=context(groups),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def accuracy_png(records: Sequence[RunRecord], out: str | os.PathLike[str]) -> Path:
    """Write the report's first figure, accuracy after t steps, as a PNG and return its path."""
    groups = grouped([*map(_printable, records)])
    return style.save(partial(pictures.draw_accuracy, groups), out)

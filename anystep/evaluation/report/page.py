"""Finished run folders -> one HTML page with tables and figures. A pure function of the folders: no
model, no data set.

The page is one file. It loads nothing from anywhere, runs no script, and is the same byte for byte
for the same runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import write_text
from anystep.evaluation import figures
from anystep.evaluation.figures import accuracy_figure, mean_and_sd
from anystep.evaluation.metrics import risk_coverage, softmax
from anystep.evaluation.report.runs import (
    RunRecord,
    differences,
    grouped,
    lengths_differ,
    read_run,
    read_runs,
)

__all__ = ["RunRecord", "accuracy_figure", "differences", "read_run", "write_report"]

Groups = Mapping[str, Sequence[RunRecord]]
MOST_POINTS = 1000  # of a t-SNE


def _padded(rows: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Rows of unequal length -> (S, longest), nan where a run has no such step."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    longest = max(len(array) for array in arrays)
    return np.stack(
        [np.pad(array, (0, longest - len(array)), constant_values=np.nan) for array in arrays]
    )


def _by_method(groups: Groups, key: str) -> dict[str, NDArray[np.float64]]:
    return {
        method: _padded([record.values(key) for record in group])
        for method, group in groups.items()
    }


# --- the words under every table and figure
# ----------------------------------------------------------------------


def _distinct(values: Iterable[Any]) -> str:
    return " / ".join(dict.fromkeys(str(value) for value in values))


def _context(groups: Groups) -> str:
    """Protocol, samples, prefix and seeds of what is shown."""
    records = [record for group in groups.values() for record in group]
    seeds = {
        method: ", ".join(str(record.seed) for record in group) for method, group in groups.items()
    }
    said = (
        next(iter(seeds.values()))
        if len(set(seeds.values())) == 1
        else "; ".join(f"{m}: {s}" for m, s in seeds.items())
    )
    many = len(records) > len(groups) or "," in said
    protocol = _distinct(
        f"{record.scores['protocol']} ({record.scores['protocol_hash']})" for record in records
    )
    samples = _distinct(
        f"{record.scores['samples']} {record.scores.get('split', 'test')}" for record in records
    )
    prefix = _distinct(record.scores["prefix"] for record in records)
    return f"Protocol {protocol}, {samples} samples, prefix: {prefix}, {'seeds' if many else 'seed'} {said}."


# --- tables
# ------------------------------------------------------------------------------------------------------


def _cell(values: ArrayLike, digits: int = 2) -> str:
    """`12.34 ± 0.56` over seeds, `12.34` of one seed."""
    mean, sd = mean_and_sd(values)
    if np.isnan(mean):
        return "n/a"
    return f"{mean:.{digits}f}" if np.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _accuracy_table(groups: Groups) -> dict[str, Any]:
    columns = _by_method(groups, "prefix_top1")
    one_meaning = (
        len({record.scores["prefix"] for group in groups.values() for record in group}) == 1
    )
    ranked = len(groups) > 1 and one_meaning  # t steps of other frames are no match
    note = "Bold: highest mean." if ranked else ""
    rows = []
    for step in range(max(values.shape[1] for values in columns.values())):
        cells = [
            values[:, step] if step < values.shape[1] else [np.nan] for values in columns.values()
        ]
        means = [float(mean_and_sd(cell)[0]) for cell in cells]
        best = np.nanmax(means) if ranked else np.inf
        rows.append(
            [
                (str(step + 1), False),
                *((_cell(c), m == best) for c, m in zip(cells, means, strict=True)),
            ]
        )
    return _table(
        "accuracy-table", "Top-1 accuracy (%) after t steps", ["t", *columns], rows, groups, note
    )


def _confidence_table(groups: Groups) -> dict[str, Any]:
    measures = [("aurc_softmax", 2), ("aurc_max_logit", 2), ("ece", 4)]
    rows = []
    for method, group in groups.items():
        cells = [
            _cell([r.values(key)[at] for r in group], digits)
            for key, digits in measures
            for at in (0, -1)
        ]
        rows.append([(cell, False) for cell in (method, *cells)])
    names = ("AURC softmax", "AURC max logit", "ECE")
    head = ["method", *(f"{name}, t\u00a0=\u00a0{at}" for name in names for at in ("1", "T"))]
    note = "AURC: area under the risk-coverage curve, times 1000. ECE: expected calibration error. Lower is better for all."
    return _table(
        "confidence-table", "Confidence at the first and at the last step", head, rows, groups, note
    )


def _provenance_table(groups: Groups) -> dict[str, Any]:
    head = [
        "run",
        "method",
        "seed",
        "protocol",
        "test samples",
        "T",
        "prefix",
        "epochs",
        "commit",
        "versions",
    ]
    rows = []
    for label, record in ((label, record) for label, group in groups.items() for record in group):
        scores, env = record.scores, record.env
        commit = f"{(env['commit'] or 'unknown')[:12]}{', with uncommitted changes' if env['dirty'] else ''}"
        versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
        protocol = f"{scores['protocol']} ({scores['protocol_hash']})"
        row = [
            record.label,
            label,
            record.seed,
            protocol,
            scores["samples"],
            record.steps,
            scores["prefix"],
        ]
        rows.append([(str(cell), False) for cell in (*row, len(record.log), commit, versions)])
    return _table(
        "provenance-table",
        "Where every number comes from",
        head,
        rows,
        groups,
        "Epochs: those in the log.",
    )


def _table(
    name: str, title: str, head: list[str], rows: list[Any], groups: Groups, note: str
) -> dict[str, Any]:
    caption = f"{note} {_context(groups)}".strip()
    return {
        "kind": "table",
        "id": name,
        "title": title,
        "head": head,
        "rows": rows,
        "note": caption,
    }


# --- figures
# -----------------------------------------------------------------------------------------------------


def _figure(
    name: str, title: str, draw: Callable[[], Any], groups: Groups, note: str = ""
) -> dict[str, Any]:
    caption = f"{note} {_context(groups)}".strip()
    svg = figures.to_svg(draw, name=name, title=title, description=caption)
    return {"kind": "figure", "id": name, "title": title, "svg": svg, "note": caption}


def _by_step(groups: Groups, name: str, key: str, title: str, xlabel: str) -> dict[str, Any]:
    draw = partial(
        figures.by_step, _by_method(groups, key), xlabel=xlabel, ylabel="top-1 accuracy (%)"
    )
    return _figure(name, title, draw, groups, _error_bars(groups))


def _sweep_figure(groups: Groups) -> dict[str, Any] | None:
    """The map of training length and test length, where the runs given differ in training length."""
    records = [record for group in groups.values() for record in group]
    if not lengths_differ(records):
        return None
    matrices = {name: _matrix(group) for name, group in grouped(records, by_length=False).items()}
    note = "A row is one network, a column what it says after t steps. Mean over seeds, \u00b1 one standard deviation."
    return _figure(
        "sweep-figure",
        "Trained with T steps, tested at t",
        partial(figures.heat_maps, matrices),
        groups,
        note,
    )


def _matrix(runs: Sequence[RunRecord]) -> figures.Matrix:
    lengths = sorted({run.train_steps for run in runs})
    rows = [
        _padded([run.values("prefix_top1") for run in runs if run.train_steps == length])
        for length in lengths
    ]
    means, sds = zip(*map(mean_and_sd, rows), strict=True)
    return figures.Matrix(lengths, _padded(means), _padded(sds), runs[0].skipped)


def _error_bars(groups: Groups) -> str:
    several = any(len(group) > 1 for group in groups.values())
    return (
        "Mean over seeds; error bars: one standard deviation."
        if several
        else "One seed a method, so no error bars."
    )


def _classes_figure(groups: Groups) -> dict[str, Any]:
    classes = next(iter(groups.values()))[0].scores["classes"]
    first = {
        method: np.stack([run.values("per_class_top1")[0] for run in group])
        for method, group in groups.items()
    }
    draw = partial(figures.by_class, first, classes, ylabel="top-1 accuracy at t = 1 (%)")
    return _figure(
        "class-figure", "Accuracy of each class after one step", draw, groups, _error_bars(groups)
    )


def _first_seed(groups: Groups) -> dict[str, Sequence[RunRecord]]:
    return {method: group[:1] for method, group in groups.items()}


def _ends(run: RunRecord) -> list[int]:
    """The first and the last step, from 1; one step where there is only one."""
    return sorted({1, run.steps})


def _confusion_figure(groups: Groups) -> dict[str, Any]:
    firsts = _first_seed(groups)
    tables = {
        m: {t: run.scores["confusion"][str(t)] for t in _ends(run)} for m, (run,) in firsts.items()
    }
    classes = next(iter(firsts.values()))[0].scores["classes"]
    draw = partial(figures.confusions, tables, classes)
    title = "What is taken for what, after one step and after all"
    return _figure(
        "confusion-figure",
        title,
        draw,
        firsts,
        "Row: true class. Column: predicted class. First seed.",
    )


def _curves(run: RunRecord) -> figures.Curves:
    loss, accuracy = (
        np.array([line[key] for line in run.log], dtype=float) for key in ("train_loss", "val_acc")
    )
    phases = [line.get("phase") for line in run.log]
    starts = {
        at + 1: str(phases[at]) for at in range(1, len(phases)) if phases[at] != phases[at - 1]
    }
    return figures.Curves(loss, accuracy, starts)


def _training_figure(groups: Groups) -> dict[str, Any]:
    draw = partial(
        figures.training,
        {method: [_curves(run) for run in group] for method, group in groups.items()},
    )
    note = "A line a seed. Validation accuracy is at t = T. Dotted: a later training phase starts, with another loss."
    return _figure("training-figure", "Loss and validation accuracy by epoch", draw, groups, note)


def _risk(run: RunRecord, step: int) -> NDArray[np.float64]:
    logits = run.prefix_logits()[step - 1]
    return risk_coverage(
        softmax(logits).max(axis=-1), logits.argmax(axis=-1) == run.outputs["labels"]
    )


def _risk_figure(groups: Groups) -> dict[str, Any]:
    firsts = _first_seed(groups)
    names = {1: "t = 1", **{run.steps: f"t = T = {run.steps}" for (run,) in firsts.values()}}
    curves = {
        method: {names[t]: _risk(run, t) for t in _ends(run)} for method, (run,) in firsts.items()
    }
    note = "Softmax confidence of the mean of the first t steps. Lower is better. First seed."
    draw = partial(figures.risk, curves)
    return _figure(
        "risk-figure",
        "Errors left when the least confident samples are refused",
        draw,
        firsts,
        note,
    )


def embed(features: ArrayLike) -> NDArray[np.float64]:
    """t-SNE of features (M, F) -> (M, 2). The same features give the same points (van der Maaten &
    Hinton 2008).

    Perplexity is 30, or a third of the samples where there are fewer than 91. M must be at least 4.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 4:
        raise UsageError(f"embed: features must be (M, F) with M >= 4, got shape {features.shape}")
    manifold = need("sklearn.manifold", extra="report", purpose="t-SNE")
    start = "pca" if features.shape[1] >= 2 and np.ptp(features, axis=0).max() > 0 else "random"
    perplexity = min(30.0, (len(features) - 1) / 3)
    model = manifold.TSNE(perplexity=perplexity, init=start, random_state=0)
    with need("threadpoolctl", extra="report", purpose="t-SNE").threadpool_limits(1):
        return np.asarray(
            model.fit_transform(features)
        )  # threads would add up in another order, and points would move


def _features_figure(groups: Groups) -> dict[str, Any] | None:
    firsts = {
        method: group
        for method, group in _first_seed(groups).items()
        if len(group[0].outputs["features"]) >= 4
    }
    if not firsts:
        return None  # no layout of so few points says anything
    points = {}
    for method, (run,) in firsts.items():
        features = run.outputs["features"][:MOST_POINTS]
        points[method] = (embed(features), run.outputs["labels"][: len(features)])
    shown = _distinct(len(labels) for _, labels in points.values())
    note = f"t-SNE of the time-mean penultimate features of the first {shown} test samples. First seed."
    draw = partial(figures.scatter, points, next(iter(firsts.values()))[0].scores["classes"])
    return _figure("features-figure", "How the features of the classes lie", draw, firsts, note)


def _verdicts(run: RunRecord, sample: Any) -> list[figures.Verdict]:
    """What the run says of the test sample with id `sample` after each step; nothing if it was not
    tested on it.
    """
    rows = np.flatnonzero(run.outputs["ids"] == sample)
    if not len(rows):
        return []
    logits, label = run.prefix_logits()[:, rows[0]], run.outputs["labels"][rows[0]]
    said, confidence = logits.argmax(axis=-1), softmax(logits).max(axis=-1)
    classes = run.scores["classes"]
    return [
        figures.Verdict(classes[c], float(p), bool(c == label))
        for c, p in zip(said, confidence, strict=True)
    ]


def _film_figure(groups: Groups) -> dict[str, Any] | None:
    firsts = _first_seed(groups)
    # A network that is trained for a part of the frames is not judged frame by frame on the
    # recording that is kept.
    fitting = [run for (run,) in firsts.values() if len(run.outputs["example_frames"]) == run.steps]
    if not fitting:
        return None
    shown = fitting[0]
    index = int(shown.outputs["example_index"])
    sample, label = shown.outputs["ids"][index], int(shown.outputs["labels"][index])
    same = {
        run.label
        for run in fitting
        if (run.steps, run.first_frame) == (shown.steps, shown.first_frame)
    }
    verdicts = {
        method: _verdicts(run, sample) if run.label in same else []
        for method, (run,) in firsts.items()
    }
    draw = partial(figures.film, figures.paint(shown.outputs["example_frames"]), verdicts)
    colours = (
        "Red: on events. Blue: off events. "
        if shown.outputs["example_frames"].shape[1] == 2
        else ""
    )
    other = "" if all(verdicts.values()) else " A dash: this method was not tested on these frames."
    late = f"t = 1 is frame {shown.first_frame + 1} of the recording. " if shown.first_frame else ""
    note = (
        f"Test sample {sample}, true class {shown.scores['classes'][label]}. {colours}{late}Below each frame: the "
        f"prediction of the mean of all steps so far and its softmax confidence.{other} First seed."
    )
    return _figure("film-figure", "One sample, step by step", draw, firsts, note)


# --- the page
# ----------------------------------------------------------------------------------------------------


def _sections(groups: Groups) -> list[dict[str, Any]]:
    prefix = _distinct(run.scores["prefix"] for group in groups.values() for run in group)
    accuracy: list[dict[str, Any] | None] = [
        _by_step(
            groups,
            "accuracy-figure",
            "prefix_top1",
            "Accuracy after t steps",
            f"time steps seen, t ({prefix})",
        ),
        _sweep_figure(groups),
        _accuracy_table(groups),
        _by_step(
            groups,
            "step-figure",
            "step_top1",
            "Accuracy of a single step",
            f"time step alone, t ({prefix})",
        ),
    ]
    sections: dict[str, list[dict[str, Any] | None]] = {
        "Accuracy": accuracy,
        "Classes": [_classes_figure(groups), _confusion_figure(groups)],
        "Confidence": [_confidence_table(groups), _risk_figure(groups)],
        "A sample": [_film_figure(groups)],
        "Features": [_features_figure(groups)],
        "Training": [_training_figure(groups)],
        "Provenance": [_provenance_table(groups)],
    }
    kept = {title: [block for block in blocks if block] for title, blocks in sections.items()}
    return [
        {"id": title.lower().replace(" ", "-"), "title": title, "blocks": b}
        for title, b in kept.items()
        if b
    ]


def write_report(
    runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, title: str | None = None
) -> Path:
    """Write one self-contained HTML page about finished run folders and return its path.

    Runs are grouped by method, and by what else tells them apart (`records.grouped`), in the order
    given; over several seeds a number is mean ± sd (ddof = 1). What makes the comparison unfair
    (`differences`) stands at the top of the page. The file appears whole or not at all. Raises
    `ValueError` for a folder that is not a finished run, by name.
    """
    jinja2 = need("jinja2", extra="report", purpose="a report")
    records = read_runs(runs)
    groups = grouped(records)
    template = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    methods = list(dict.fromkeys(record.method for record in records))
    page = environment.from_string(template).render(
        title=title
        or f"Accuracy at any step: {', '.join(methods) if len(methods) <= 4 else f'{len(methods)} methods'}",
        runs=len(records),
        methods=list(groups),
        warnings=differences(records),
        sections=_sections(groups),
        context=_context(groups),
    )
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def accuracy_png(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write the report's first figure, accuracy over prefix t, of finished run folders as a PNG and
    return its path.
    """
    groups = grouped(read_runs(runs))
    prefix = _distinct(run.scores["prefix"] for members in groups.values() for run in members)
    return accuracy_figure(_by_method(groups, "prefix_top1"), out, prefix=prefix)

"""The figures of the page: runs -> the arrays that `anystep.evaluation.figures` draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._extras import need
from anystep.evaluation.figures import curves, grids, samples, style
from anystep.evaluation.metrics import mean_and_sd, risk_coverage, softmax
from anystep.evaluation.report.groups import (
    Block,
    Groups,
    caption,
    distinct,
    first_seeds,
    padded,
    prefixes,
    runs_of,
    values_of,
)
from anystep.evaluation.report.runs import RunRecord, grouped, lengths_differ

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 1000  # of a t-SNE
FEWEST_POINTS = 4  # no layout of fewer says anything


def _figure(name: str, title: str, draw: Callable[[], Figure], groups: Groups, note: str) -> Block:
    note = caption(groups, note)
    svg = style.to_svg(draw, name=name, title=title, description=note)
    return Block(name, title, note, svg=svg)


def _error_bars(groups: Groups) -> str:
    if any(len(group) > 1 for group in groups.values()):
        return "Mean over seeds; error bars: one standard deviation."
    return "One seed a method, so no error bars."


def _classes(groups: Groups) -> list[str]:
    return list(runs_of(groups)[0].scores["classes"])


def _ends(run: RunRecord) -> list[int]:
    """The first and the last step, from 1; one step where there is only one."""
    return sorted({1, run.steps})


def draw_accuracy(
    groups: Groups, key: str = "prefix_top1", seen: str = "time steps seen, t"
) -> Figure:
    """Accuracy by step: of the mean of the first t steps, if no other `key` is given."""
    label = f"{seen} ({prefixes(groups)})"
    return curves.by_step(values_of(groups, key), xlabel=label, ylabel="top-1 accuracy (%)")


def accuracy_figure(groups: Groups) -> Block:
    """Accuracy of the mean of the first t steps, on the page."""
    draw, title = partial(draw_accuracy, groups), "Accuracy after t steps"
    return _figure("accuracy-figure", title, draw, groups, _error_bars(groups))


def step_figure(groups: Groups) -> Block:
    """Accuracy of each step by itself."""
    draw = partial(draw_accuracy, groups, "step_top1", "time step alone, t")
    return _figure("step-figure", "Accuracy of a single step", draw, groups, _error_bars(groups))


def _matrix(runs: Sequence[RunRecord]) -> grids.Matrix:
    rows: dict[int, list[ArrayLike]] = {
        length: [] for length in sorted(r.train_steps for r in runs)
    }
    for run in runs:
        rows[run.train_steps].append(run.values("prefix_top1"))
    means, sds = zip(*(mean_and_sd(padded(own)) for own in rows.values()), strict=True)
    return grids.Matrix(list(rows), padded(means), padded(sds), runs[0].skipped)


def sweep_figure(groups: Groups) -> Block | None:
    """Training length by test length, where the runs differ in training length."""
    runs = runs_of(groups)
    if not lengths_differ(runs):
        return None
    matrices = {name: _matrix(group) for name, group in grouped(runs, by_length=False).items()}
    note = "A row is one network, a column what it says after t steps. "
    note += "Mean over seeds, \u00b1 one standard deviation."
    title = "Trained with T steps, tested at t"
    return _figure("sweep-figure", title, partial(grids.heat_maps, matrices), groups, note)


def classes_figure(groups: Groups) -> Block:
    """Accuracy of each class after the first step."""
    values = {
        label: [run.values("per_class_top1")[0] for run in own] for label, own in groups.items()
    }
    ylabel = "top-1 accuracy at t = 1 (%)"
    draw = partial(curves.by_class, values, _classes(groups), ylabel=ylabel)
    title = "Accuracy of each class after one step"
    return _figure("class-figure", title, draw, groups, _error_bars(groups))


def confusion_figure(groups: Groups) -> Block:
    """True class by predicted class, at the first and at the last step."""
    firsts = first_seeds(groups)
    tables = {
        label: {t: run.scores["confusion"][str(t)] for t in _ends(run)}
        for label, (run,) in firsts.items()
    }
    draw = partial(grids.confusions, tables, _classes(groups))
    title = "What is taken for what, after one step and after all"
    note = "Row: true class. Column: predicted class. First seed."
    return _figure("confusion-figure", title, draw, firsts, note)


def _risk(run: RunRecord, step: int) -> NDArray[np.float64]:
    logits = run.prefix_logits()[step - 1]
    right = logits.argmax(axis=-1) == run.outputs["labels"]
    return risk_coverage(softmax(logits).max(axis=-1), right)


def risk_figure(groups: Groups) -> Block:
    """Errors among the samples kept, when the least confident are refused."""
    firsts = first_seeds(groups)
    names = {1: "t = 1", **{run.steps: f"t = T = {run.steps}" for (run,) in firsts.values()}}
    ends = {label: (run, _ends(run)) for label, (run,) in firsts.items()}
    risks = {label: {names[t]: _risk(run, t) for t in at} for label, (run, at) in ends.items()}
    title = "Errors left when the least confident samples are refused"
    note = "Softmax confidence of the mean of the first t steps. Lower is better. First seed."
    return _figure("risk-figure", title, partial(curves.risk, risks), firsts, note)


def _verdicts(run: RunRecord, sample: str) -> list[samples.Verdict]:
    """What the run says after each step of the test sample with that id; nothing if it has none."""
    rows = np.flatnonzero(run.outputs["ids"] == sample)
    if not len(rows):
        return []
    logits, label = run.prefix_logits()[:, rows[0]], run.outputs["labels"][rows[0]]
    said, confidence = logits.argmax(axis=-1), softmax(logits).max(axis=-1)
    classes = run.scores["classes"]
    pairs = zip(said, confidence, strict=True)
    return [samples.Verdict(classes[c], float(p), bool(c == label)) for c, p in pairs]


def _window(run: RunRecord) -> tuple[int, int] | None:
    """First frame and number of frames of what is kept; none if it was judged on other frames."""
    kept = len(run.outputs["example_frames"])
    return (run.first_frame, kept) if kept == run.steps else None


def film_figure(groups: Groups) -> Block | None:
    """One sample's frames, and below each what every method says so far."""
    firsts = first_seeds(groups)
    shown = next((run for (run,) in firsts.values() if _window(run)), None)
    if shown is None:
        return None
    index, frames = int(shown.outputs["example_index"]), shown.outputs["example_frames"]
    sample, truth = shown.outputs["ids"][index], int(shown.outputs["labels"][index])
    verdicts = {
        label: _verdicts(run, sample) if _window(run) == _window(shown) else []
        for label, (run,) in firsts.items()
    }
    draw = partial(samples.film, samples.paint(frames), verdicts)
    notes = [
        f"Test sample {sample}, true class {shown.scores['classes'][truth]}.",
        "Red: on events. Blue: off events." if frames.shape[1] == 2 else "",
        f"t = 1 is frame {shown.first_frame + 1} of the recording." if shown.first_frame else "",
        "Below each frame: the prediction of the mean of all steps so far and its softmax "
        "confidence.",
        "" if all(verdicts.values()) else "A dash: this method was not tested on these frames.",
        "First seed.",
    ]
    note = " ".join(filter(None, notes))
    return _figure("film-figure", "One sample, step by step", draw, firsts, note)


def embed(features: ArrayLike) -> NDArray[np.float64]:
    """t-SNE of features (M, F) -> (M, 2), M >= 4. The same features give the same points.

    Perplexity is 30, or a third of the samples where there are fewer than 91. van der Maaten &
    Hinton 2008.
    """
    features = np.asarray(features, dtype=np.float64)
    manifold = need("sklearn.manifold", extra="report", purpose="t-SNE")
    start = "pca" if features.shape[1] >= 2 and np.ptp(features, axis=0).max() > 0 else "random"
    perplexity = min(30.0, (len(features) - 1) / 3)
    model = manifold.TSNE(perplexity=perplexity, init=start, random_state=0)
    # Several threads would add up in another order, and the points would move.
    with need("threadpoolctl", extra="report", purpose="t-SNE").threadpool_limits(1):
        return np.asarray(model.fit_transform(features))


def features_figure(groups: Groups) -> Block | None:
    """How the time-mean features before the classifier lie."""
    firsts, points = {}, {}
    for label, (run,) in first_seeds(groups).items():
        features = run.outputs["features"][:MOST_POINTS]
        if len(features) >= FEWEST_POINTS:
            firsts[label] = [run]
            points[label] = (embed(features), run.outputs["labels"][: len(features)])
    if not firsts:
        return None
    shown = distinct(len(labels) for _, labels in points.values())
    title = "How the features of the classes lie"
    note = f"t-SNE of the time-mean penultimate features of the first {shown} test samples. "
    note += "First seed."
    draw = partial(samples.scatter, points, _classes(groups))
    return _figure("features-figure", title, draw, firsts, note)


def _curves(run: RunRecord) -> curves.Curves:
    keys = ("train_loss", "val_acc")
    loss, accuracy = (np.array([line[key] for line in run.log], float) for key in keys)
    phases = [str(line.get("phase")) for line in run.log]
    pairs = enumerate(itertools.pairwise(phases), start=2)
    return curves.Curves(loss, accuracy, {epoch: new for epoch, (old, new) in pairs if new != old})


def training_figure(groups: Groups) -> Block:
    """Loss and validation accuracy by epoch."""
    drawn = {label: [_curves(run) for run in group] for label, group in groups.items()}
    title = "Loss and validation accuracy by epoch"
    note = "A line a seed. Validation accuracy is at t = T. "
    note += "Dotted: a later training phase starts, with another loss."
    return _figure("training-figure", title, partial(curves.training, drawn), groups, note)

"""The tables of the page."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from anystep.evaluation.metrics import mean_and_sd
from anystep.evaluation.report.groups import Block, Cell, Groups, caption, protocol_of, values_of

MEASURES = (  # a key of scores.json, its name in the table, and how many digits are shown
    ("aurc_softmax", "AURC softmax", 2),
    ("aurc_max_logit", "AURC max logit", 2),
    ("ece", "ECE", 4),
)


def _cell(values: ArrayLike, digits: int = 2) -> str:
    """`12.34 ± 0.56` over seeds, `12.34` of one seed, `n/a` of none."""
    mean, sd = mean_and_sd(values)
    if np.isnan(mean):
        return "n/a"
    return f"{mean:.{digits}f}" if np.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _plain(texts: Iterable[object]) -> list[Cell]:
    """A row without a bold cell."""
    return [(str(text), False) for text in texts]


def accuracy_table(groups: Groups) -> Block:
    """Accuracy after t steps: a row a step, a column a method, the best of each row bold."""
    columns = values_of(groups, "prefix_top1")
    # Where the first t steps are other frames to each run, no row has a winner.
    one_meaning = len({run.scores["prefix"] for group in groups.values() for run in group}) == 1
    ranked = len(groups) > 1 and one_meaning
    rows = []
    for step in range(max(values.shape[1] for values in columns.values())):
        cells = [own[:, step] if step < own.shape[1] else [np.nan] for own in columns.values()]
        means = [float(mean_and_sd(cell)[0]) for cell in cells]
        best = np.nanmax(means) if ranked else np.inf
        row = [(_cell(cell), mean == best) for cell, mean in zip(cells, means, strict=True)]
        rows.append([(str(step + 1), False), *row])
    note = caption(groups, "Bold: highest mean." if ranked else "")
    title = "Top-1 accuracy (%) after t steps"
    return Block("accuracy-table", title, note, head=["t", *columns], rows=rows)


def confidence_table(groups: Groups) -> Block:
    """How well confidence tells right from wrong, at the first and at the last step."""
    columns = [(key, digits, at) for key, _, digits in MEASURES for at in (0, -1)]
    rows = []
    for label, group in groups.items():
        cells = [_cell([run.values(key)[at] for run in group], n) for key, n, at in columns]
        rows.append(_plain([label, *cells]))
    head = [f"{name}, t\u00a0=\u00a0{at}" for _, name, _ in MEASURES for at in ("1", "T")]
    title = "Confidence at the first and at the last step"
    note = "AURC: area under the risk-coverage curve, times 1000. ECE: expected calibration error."
    note = caption(groups, f"{note} Lower is better for all.")
    return Block("confidence-table", title, note, head=["method", *head], rows=rows)


def work_table(groups: Groups) -> Block | None:
    """What a decision at the first and at the last step takes; None if runs do not say (runs of
    earlier versions).
    """
    if not all(run.scores.get("work") for group in groups.values() for run in group):
        return None
    rows = []
    for label, group in groups.items():
        cells = [_cell([100 * np.mean(list(run.scores["rates"].values())) for run in group])]
        for key, unit in (("acs", 1e6), ("macs", 1e6), ("picojoules", 1e6)):
            sums = [np.cumsum(run.scores["work"][key]) / unit for run in group]
            cells += [_cell([own[at] for own in sums], 3) for at in (0, -1)]
        rows.append(_plain([label, *cells]))
    names = ("additions, M", "multiplications, M", "estimate, µJ")
    head = [f"{name}, t\u00a0=\u00a0{at}" for name in names for at in ("1", "T")]
    note = (
        "Per sample, of convolutions and linear layers. An input that is 0 costs nothing; one that "
        "is a spike costs an addition for each weight that it meets, any other a multiplication. "
        "The energy is an estimate: 45 nm, 32 bit, 0.9 pJ an addition and 3.7 pJ a multiplication "
        "(Horowitz 2014), without memory."
    )
    title = "What a decision takes, after the first and after the last step"
    head = ["method", "neurons that fire, %", *head]
    return Block("work-table", title, caption(groups, note), head=head, rows=rows)


def provenance_table(groups: Groups) -> Block:
    """Where each run comes from: data, seed, code and libraries."""
    rows = []
    for label, run in ((label, run) for label, group in groups.items() for run in group):
        env, options = run.env, run.config["method"].get("options") or {}
        dirty = ", with uncommitted changes" if env["dirty"] else ""
        row = {
            "run": run.label,
            "method": label,
            "options": ", ".join(f"{key} {value}" for key, value in options.items()) or "defaults",
            "seed": run.seed,
            "protocol": protocol_of(run),
            "test samples": run.scores["samples"],
            "T": run.steps,
            "prefix": run.scores["prefix"],
            "epochs": len(run.log),
            "commit": f"{(env['commit'] or 'unknown')[:12]}{dirty}",
            "versions": ", ".join(f"{name} {own}" for name, own in env["versions"].items()),
        }
        rows.append(_plain(row.values()))
    note, title = caption(groups, "Epochs: those in the log."), "Where every number comes from"
    return Block("provenance-table", title, note, head=list(row), rows=rows)

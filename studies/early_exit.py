"""Early exit: how many steps plain training, TET and TKS need for what plain training says at T.

    ANYSTEP_DATA=FOLDER python -m studies.early_exit

Two data sets: `digits-dvs` as recipes/digits_demo.yaml trains it, three seeds, and the 1,100
recordings of N-MNIST as studies/nmnist_folds.py trains them, the first three of its five folds (its
runs in runs/nmnist_folds are taken over). FOLDER as there.

The target of a seed or fold is the accuracy that plain training has on validation after all T
steps. For every method, score and reading the threshold is the one that meets this target on
validation in the fewest steps; a network that never meets it on validation takes the threshold of
its best accuracy there. The test set is judged once with that threshold. Confidence of the mean is
what the tables show; the others are in the record.

Writes results/early_exit.json and the tables between the markers in README.md and docs/deploy.md.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from anystep._errors import UsageError
from anystep._files import write_json
from anystep.config import MethodConfig, Record
from anystep.deploy.calibrate import judge
from anystep.evaluation.evaluate import collect
from anystep.evaluation.exits import READS, SCORES, ExitRule, frontier
from anystep.evaluation.metrics import mean_and_sd
from anystep.folder import RunFolder, load_model
from anystep.nn.fuse import fuse_model
from anystep.run import load_splits
from studies import nmnist_folds
from studies.study import (
    ROOT,
    Rows,
    check_markers,
    markdown,
    public,
    recipe,
    tell,
    train_all,
    write_table,
)

METHODS = nmnist_folds.METHODS  # plain training, TET, TKS with the paper's values for events
SEEDS = range(3)
FOLDS = range(1, 4)
PAGES = (ROOT / "README.md", ROOT / "docs" / "deploy.md")
NAME = "early_exit"
SHOWN = ("confidence", "mean")


def digits_record(method: str, seed: int) -> Record:
    """The demo's record for a method and a seed."""
    own = MethodConfig(name=method, options=METHODS[method])
    return replace(recipe("digits_demo"), seed=seed, method=own, tensorboard=False)


def wanted(root: str) -> dict[tuple[str, str, int], tuple[Record, Path]]:
    """(data set, method, seed or fold) -> its record and folder."""
    jobs = {}
    for method, seed in product(METHODS, SEEDS):
        folder = ROOT / "runs" / NAME / f"digits-{method}-seed{seed}"
        jobs["digits-dvs", method, seed] = digits_record(method, seed), folder
    for method, fold in product(METHODS, FOLDS):
        folder = nmnist_folds.FOLDER / f"{method}-fold{fold}"
        jobs["N-MNIST", method, fold] = nmnist_folds.record_of(method, fold, root), folder
    return jobs


def judged(folder: Path) -> tuple[Any, Any]:
    """(validation, test) of a finished run: step logits and labels each."""
    record = RunFolder(folder).read_record()
    validation = collect(fuse_model(load_model(folder)), load_splits(record).val)
    outputs = RunFolder(folder).read().outputs
    return (validation.logits, validation.labels), (outputs["logits"], outputs["labels"])


def chosen(validation: Any, target: float, score: str, reads: str) -> ExitRule:
    """The rule that meets the target on validation in the fewest steps, else the best one."""
    found = frontier(*validation, score=score, reads=reads)
    try:
        index = found.cheapest(target)
    except UsageError:
        index = found.best_within(float(found.mean_t.max()))
    return ExitRule(score=score, reads=reads, threshold=float(found.thresholds[index]))


def measure(jobs: dict[tuple[str, str, int], tuple[Record, Path]]) -> tuple[Rows, Rows]:
    """(a row for every data set, method and seed or fold; one for every score and reading too)."""
    scores = dict(zip(jobs, train_all(jobs.values()), strict=True))
    sides = {key: judged(folder) for key, (_, folder) in jobs.items()}
    runs, rows = [], []
    for (data, method, number), (validation, test) in sides.items():
        plain_logits, plain_labels = sides[data, "ce", number][0]
        target = 100 * float((plain_logits.sum(0).argmax(-1) == plain_labels).mean())
        key = {"data": data, "method": method, "number": number}
        runs.append({**key, **scores[data, method, number]})
        tell(*key.values(), scores=runs[-1])
        for score, reads in product(SCORES, READS):
            rule = chosen(validation, target, score, reads)
            rows.append({**key, **rule.describe(), "target": target, **judge(test, rule)})
    return runs, rows


def cell(values: list[float], places: int = 1) -> str:
    mean, sd = mean_and_sd(values)
    return f"{mean:.{places}f} ± {sd:.{places}f}"


def table(runs: Rows, rows: Rows) -> str:
    """What the pages show: a line for every data set and method."""
    lines = []
    for data, method in dict.fromkeys((run["data"], run["method"]) for run in runs):
        whole, early = (
            [each for each in part if (each["data"], each["method"]) == (data, method)]
            for part in (runs, [row for row in rows if (row["score"], row["reads"]) == SHOWN])
        )
        lines.append(
            [
                data,
                method,
                cell([run["prefix_top1"][0] for run in whole]),
                cell([run["prefix_top1"][-1] for run in whole]),
                cell([row["accuracy"] for row in early]),
                cell([row["mean_t"] for row in early], 2),
                f"{np.mean([row['p95_t'] for row in early]):.1f}",
            ]
        )
    head = ["data", "method", "t = 1", "T = 10", "early exit", "mean T", "p95 of T"]
    return markdown(head, lines)


def main() -> None:
    if "ANYSTEP_DATA" not in os.environ:
        raise SystemExit("early_exit: set ANYSTEP_DATA to the folder that holds NMNIST")
    for page in PAGES:
        check_markers(page, NAME)
    root = str(Path(os.environ["ANYSTEP_DATA"]) / "NMNIST")
    runs, rows = measure(wanted(root))
    records = {
        "digits-dvs": asdict(digits_record("ce", 0)),
        "N-MNIST": public(nmnist_folds.record_of("ce", 1, root)),
    }
    write_json(ROOT / "results" / f"{NAME}.json", {"records": records, "runs": runs, "rows": rows})
    for page in PAGES:
        write_table(page, NAME, table(runs, rows))


if __name__ == "__main__":
    main()

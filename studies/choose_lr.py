"""The demo's learning rate for plain training, chosen on the validation split: `python -m
studies.choose_lr`.

Trains `ce` from recipes/digits_demo.yaml with each rate and seed and writes
results/digits_demo_lr.json (record, environment, the last epoch's validation accuracy of every run,
their means, the choice) and the table between the markers in docs/log.md. The test split is taken
away before the first update. Runs finished under this record and environment are kept in
runs/choose_lr, so it can be interrupted. Commit first: `environment` says whether the code was
changed.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anystep._files import content_hash, write_json
from anystep.config import MethodConfig, Record
from anystep.data.sets import Splits
from anystep.environment import describe_environment
from anystep.evaluation.metrics import mean_and_sd
from anystep.run import augmentation_of, build, check, load_splits
from anystep.training.fabric import make_fabric
from anystep.training.fit import fit, start
from studies.study import ROOT, check_markers, markdown, recipe, write_table

Rows = list[dict[str, Any]]
RATES = (0.002, 0.005, 0.01, 0.02)
SEEDS = (0, 1, 2)
JUDGED = ("val_acc", "val_acc_first")  # at t = T and at t = 1


def fabric_of(record: Record) -> Any:
    """The engine that the record names."""
    engine = record.engine
    return make_fabric(
        accelerator=engine.accelerator, devices=engine.devices, precision=engine.precision
    )


def train_once(record: Record, splits: Splits) -> dict[str, Any]:
    """Train a record of one phase and return the last row of its history."""
    method = check(record)
    (phase,) = method.phases()
    model = build(record, phase, splits)
    state = start(model, record.train, phase=phase)
    fabric = fabric_of(record)
    fit(
        state,
        splits.train,
        method=method,
        plan=record.train,
        seed=record.seed,
        augment=augmentation_of(record, splits),
        validation=splits.val,
        fabric=fabric,
    )
    return state.history[-1]


def run_all(record: Record, splits: Splits, folder: Path) -> Rows:
    """A row for every rate and seed: the validation accuracy after the last epoch, in percent, at
    t = T and at t = 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for lr in RATES:
        for seed in SEEDS:
            kept = folder / f"lr{lr}-seed{seed}.json"
            if not kept.exists():
                tried = replace(record, seed=seed, train=replace(record.train, lr=lr))
                write_json(kept, train_once(tried, splits))
            last = json.loads(kept.read_text(encoding="utf-8"))
            rows.append({"lr": lr, "seed": seed, **{key: last[key] for key in JUDGED}})
            print(rows[-1], file=sys.stderr)
    return rows


def means_of(runs: Sequence[dict[str, Any]]) -> Rows:
    """A row for every rate: both accuracies, averaged over the seeds."""
    rows = []
    for lr in dict.fromkeys(run["lr"] for run in runs):
        mean, _ = mean_and_sd([[run[key] for key in JUDGED] for run in runs if run["lr"] == lr])
        rows.append({"lr": lr, **dict(zip(JUDGED, mean.tolist(), strict=True))})
    return rows


def choose_rate(means: Sequence[dict[str, Any]], samples: int) -> float:
    """Of the rates that tie with the best at t = T, within one standard error of `samples`
    recordings, the best at t = 1.

    >>> low = {"lr": 1, "val_acc": 97.0, "val_acc_first": 80.0}
    >>> high = {"lr": 2, "val_acc": 97.5, "val_acc_first": 70.0}
    >>> choose_rate([low, high], 179)
    1
    """
    best = max(row["val_acc"] for row in means)
    error = 100 * math.sqrt(best / 100 * (1 - best / 100) / samples)
    tied = [row for row in means if row["val_acc"] >= best - error]
    return max(tied, key=lambda row: row["val_acc_first"])["lr"]


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The runs in Markdown: a row for every rate, with each of its seeds and their mean."""
    lines = []
    for mean in means_of(runs):
        own = [run for run in runs if run["lr"] == mean["lr"]]
        cells = [str(mean["lr"])]
        for key in JUDGED:
            cells += [", ".join(f"{run[key]:.1f}" for run in own), f"{mean[key]:.1f}"]
        lines.append(cells)
    return markdown(["lr", "val top-1 at T = 10", "mean", "val top-1 at t = 1", "mean"], lines)


def measure(name: str) -> dict[str, Any]:
    """All runs of recipes/NAME.yaml with plain training: what results/NAME_lr.json holds."""
    record = replace(recipe(name), method=MethodConfig(name="ce"))
    environment = describe_environment(seed=record.seed, device=fabric_of(record).device)
    splits = replace(load_splits(record), test=[])  # type: ignore[arg-type]  # so that nothing can read it
    folder = ROOT / "runs" / "choose_lr" / content_hash(asdict(record), environment)
    runs, samples = run_all(record, splits, folder), len(splits.val)
    return {
        "record": asdict(record),
        "environment": environment,
        "protocol": splits.protocol,
        "protocol_hash": splits.protocol_hash,
        "val_samples": samples,
        "runs": runs,
        "means": means_of(runs),
        "chosen": choose_rate(means_of(runs), samples),
    }


def main() -> None:
    name = "digits_demo"
    log = ROOT / "docs" / "log.md"
    check_markers(log, f"{name}_lr")
    result = measure(name)
    write_json(ROOT / "results" / f"{name}_lr.json", result)
    write_table(log, f"{name}_lr", table(result["runs"]))
    print(f"results/{name}_lr.json, docs/log.md", file=sys.stderr)


if __name__ == "__main__":
    main()

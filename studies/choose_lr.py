"""Choose the demo's learning rate for plain training, on the validation split: `.venv/bin/python
studies/choose_lr.py`.

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
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from measure import ROOT, quote

from anystep._files import content_hash, write_json, write_text
from anystep.config import MethodConfig, Record, load_recipe, record_from
from anystep.data.sets import Splits
from anystep.environment import describe_environment
from anystep.run import augmentation_of, build, check, load_splits
from anystep.training.fabric import make_fabric
from anystep.training.fit import fit, start

RATES = (0.002, 0.005, 0.01, 0.02)
SEEDS = (0, 1, 2)


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
    model, _ = build(record, phase, splits)
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


def run_all(record: Record, splits: Splits, folder: Path) -> list[dict[str, Any]]:
    """A row for every rate and seed: the validation accuracy after the last epoch, in percent, at t
    = T and at t = 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for lr in RATES:
        for seed in SEEDS:
            kept = folder / f"lr{lr}-seed{seed}.json"
            if not kept.exists():
                write_json(
                    kept,
                    train_once(
                        replace(record, seed=seed, train=replace(record.train, lr=lr)), splits
                    ),
                )
            last = json.loads(kept.read_text(encoding="utf-8"))
            rows.append(
                {
                    "lr": lr,
                    "seed": seed,
                    "val_acc": last["val_acc"],
                    "val_acc_first": last["val_acc_first"],
                }
            )
            print(rows[-1], file=sys.stderr)
    return rows


def means_of(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every rate: both accuracies, averaged over the seeds."""
    keys = ("val_acc", "val_acc_first")
    rates = dict.fromkeys(run["lr"] for run in runs)
    return [
        {
            "lr": lr,
            **{key: statistics.fmean(run[key] for run in runs if run["lr"] == lr) for key in keys},
        }
        for lr in rates
    ]


def choose_rate(means: Sequence[dict[str, Any]], samples: int) -> float:
    """Of the rates that tie with the best at t = T, within one standard error of `samples`
    recordings, the best at t = 1.

    >>> choose_rate([{"lr": 1, "val_acc": 97.0, "val_acc_first": 80.0}, {"lr": 2, "val_acc": 97.5, "val_acc_first": 70.0}], 179)
    1
    """
    best = max(row["val_acc"] for row in means)
    error = 100 * math.sqrt(best / 100 * (1 - best / 100) / samples)
    tied = [row for row in means if row["val_acc"] >= best - error]
    return max(tied, key=lambda row: row["val_acc_first"])["lr"]


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The runs in Markdown: a row for every rate, its seeds one after the other, then their mean."""
    lines = [
        "| lr | val top-1 at T = 10 | mean | val top-1 at t = 1 | mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    for mean in means_of(runs):
        own = [run for run in runs if run["lr"] == mean["lr"]]
        cells = [str(mean["lr"])]
        for key in ("val_acc", "val_acc_first"):
            cells += [", ".join(f"{run[key]:.1f}" for run in own), f"{mean[key]:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def measure(name: str) -> dict[str, Any]:
    """All runs of recipes/NAME.yaml with plain training: what results/NAME_lr.json holds."""
    recipe = record_from(load_recipe(ROOT / "recipes" / f"{name}.yaml"))
    record = replace(recipe, method=MethodConfig(name="ce"))
    device = fabric_of(record).device
    environment = {
        **describe_environment(seed=record.seed, device=device),
        "command": ["python", "studies/choose_lr.py"],
    }
    splits = replace(load_splits(record), test=[])
    runs = run_all(
        record, splits, ROOT / "runs" / "choose_lr" / content_hash(asdict(record), environment)
    )
    samples = len(splits.val)
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
    quote(
        log.read_text(encoding="utf-8"), f"{name}_lr", ""
    )  # no markers: say so before twelve runs, not after
    result = measure(name)
    write_json(ROOT / "results" / f"{name}_lr.json", result)
    write_text(log, quote(log.read_text(encoding="utf-8"), f"{name}_lr", table(result["runs"])))
    print(f"results/{name}_lr.json, docs/log.md", file=sys.stderr)


if __name__ == "__main__":
    main()

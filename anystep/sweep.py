"""Training length x test length: a network for each number of steps, judged at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from anystep._errors import UsageError
from anystep._files import Json, write_json
from anystep._lock import only_one
from anystep.compare import Run, cell, refuse_twice, run_all, with_method
from anystep.config import Record
from anystep.evaluation.figures import grids, style
from anystep.evaluation.metrics import mean_and_sd
from anystep.preflight import steps_of

PICTURES = ("sweep.png", "sweep.svg")

MatrixOf = Json  # what `matrix_of` returns


def matrix_of(runs: Sequence[Mapping[str, Any]]) -> MatrixOf:
    """The accuracies of one method's runs in percent.

    Rows are training lengths, rising; columns are test lengths 1..T. `top1_mean` and `top1_sd` are
    over the seeds; the sample deviation of one seed is null. A row is one network judged at every t
    (TKS Fig. 3a: the longest row); the cells with t = T of the row are networks judged as they were
    trained (Fig. 3b). A network that skips the first `skipped` steps was trained on as many fewer.
    """
    lengths = sorted({run["train_steps"] for run in runs})
    rows = [
        [run["scores"]["prefix_top1"] for run in runs if run["train_steps"] == steps]
        for steps in lengths
    ]
    over_seeds = [mean_and_sd(row) for row in rows]
    return {
        "prefix": runs[0]["scores"]["prefix"],
        "skipped": runs[0]["skipped"],
        "train_steps": lengths,
        "test_steps": list(range(1, len(rows[0][0]) + 1)),
        "top1_mean": [mean.tolist() for mean, _ in over_seeds],
        "top1_sd": [
            [None if np.isnan(value) else float(value) for value in sd] for _, sd in over_seeds
        ],
        "seeds": sorted({run["seed"] for run in runs}),
    }


def draw_matrices(matrices: Mapping[str, MatrixOf], path: Path | str) -> Path:
    """The matrices as heat maps, one a method, in a PNG or SVG file."""
    drawn = {
        f"{name} ({matrix['prefix']})": grids.Matrix(
            list(matrix["train_steps"]),
            np.asarray(matrix["top1_mean"], float),
            np.asarray(matrix["top1_sd"], float),
            matrix["skipped"],
        )
        for name, matrix in matrices.items()
    }
    return style.save(lambda: grids.heat_maps(drawn), path)


def sweep_cells(matrices: Mapping[str, MatrixOf]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a table as text: a row a method and training length, a column a t."""
    steps = sorted({t for matrix in matrices.values() for t in matrix["test_steps"]})
    rows = []
    for name, matrix in matrices.items():
        columns = matrix["train_steps"], matrix["top1_mean"], matrix["top1_sd"]
        for length, means, sds in zip(*columns, strict=True):
            cells = [cell(mean, sd) for mean, sd in zip(means, sds, strict=True)]
            label = f"{name} (trained with T = {length})"
            rows.append([label, *cells, *[""] * (len(steps) - len(cells))])
    return ["method", *(f"t = {t}" for t in steps)], rows


def _told(run: Run, record: Record) -> Json:
    """What `sweep.json` says of a run; the rest of its scores is in its folder."""
    kept = ("protocol", "protocol_hash", "split", "samples", "prefix", "prefix_top1")
    scores = {key: run["scores"][key] for key in kept}
    about = {key: run[key] for key in ("run", "method", "seed", "env")}
    skipped = run["scores"]["frames"][0] - (record.data.frames or (0,))[0]
    return {**about, "train_steps": record.train.steps, "skipped": skipped, "scores": scores}


def sweep_steps(
    record: Record,
    train_steps: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int],
    folder: Path | str,
) -> Json:
    """Train each method on the first T time steps, for each T of `train_steps` and each seed.

    Each network is judged at all steps; `run_all` runs them in `folder/METHOD-trainT-seedN`. Writes
    the pictures, and returns and writes `sweep.json`: the record, every run's accuracy after t
    steps, and a matrix a method (`matrix_of`).
    """
    folder = Path(folder)
    refuse_twice("sweep", train_steps=train_steps, methods=methods, seeds=seeds)
    most = steps_of(record)
    for steps in train_steps:
        if not 1 <= steps <= most:
            rule = f"train_steps must be in 1..{most}, the time steps of {record.name}"
            raise UsageError(f"sweep: {rule}, got {steps}")
    records = {
        f"{name}-train{steps}-seed{seed}": replace(
            with_method(record, name), seed=seed, train=replace(record.train, steps=steps)
        )
        for name in methods
        for steps in train_steps
        for seed in seeds
    }
    # Before training: a machine that cannot draw should not say so after hours.
    style.need_plots("a sweep")
    with only_one(folder):
        runs = [_told(run, records[run["run"]]) for run in run_all(records, folder)]
        own = {name: [run for run in runs if run["method"]["name"] == name] for name in methods}
        matrices = {name: matrix_of(of_one) for name, of_one in own.items()}
        result = {"record": asdict(record), "runs": runs, "matrices": matrices}
        write_json(folder / "sweep.json", result)
        for picture in PICTURES:
            draw_matrices(matrices, folder / picture)
    return result

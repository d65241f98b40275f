"""What the studies on one data set share: runs on two cores, tables over t, curves.

A run is `{"method": ..., "prefix_top1": [...], ...}`; a table has a row for every method, mean ± sd
over its runs at every t.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from anystep._extras import need
from anystep._files import atomic_path
from anystep.config import Record
from anystep.run import run_record

KEPT = ("split", "protocol", "protocol_hash", "samples", "prefix", "prefix_top1")
Job = tuple[Record, Path]


def train(job: Job) -> dict[str, Any]:
    """One run on one thread, kept if it is finished: its scores at every t, its environment."""
    record, folder = job
    torch.set_num_threads(1)  # two runs at a time
    scores = run_record(record, folder, resume=(folder / "config.yaml").exists())
    env = json.loads((folder / "env.json").read_text())
    env["command"] = env["command"][:1]  # without the folders of whoever measured
    return {**{key: scores[key] for key in KEPT}, "env": env}


def train_all(jobs: Iterable[Job]) -> Iterator[dict[str, Any]]:
    """`train` for all jobs, two at a time, in order."""
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(train, jobs)


def public(record: Record) -> dict[str, Any]:
    """The record without the folder of whoever measured."""
    tree = asdict(record)
    tree["data"]["options"].pop("root")
    return tree


def table_of(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every method and t: mean and sd over its runs.

    >>> table_of([{"method": "ce", "prefix_top1": [70.0]}, {"method": "ce", "prefix_top1": [80.0]}])[0]["top1_mean"]
    75.0
    """
    rows = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run["prefix_top1"] for run in runs if run["method"] == method]
        for t, values in enumerate(zip(*own, strict=True), start=1):
            rows.append(
                {
                    "method": method,
                    "t": t,
                    "top1_mean": statistics.fmean(values),
                    "top1_sd": statistics.stdev(values),
                }
            )
    return rows


def markdown(rows: Sequence[dict[str, Any]], steps: Sequence[int]) -> str:
    """The table in Markdown at these t."""
    lines = [["method", *(f"t = {t}" for t in steps)], ["---"] * (len(steps) + 1)]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["t"]: row for row in rows if row["method"] == method}
        lines.append(
            [method, *(f"{own[t]['top1_mean']:.1f} ± {own[t]['top1_sd']:.1f}" for t in steps)]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def picture(rows: Sequence[dict[str, Any]], path: Path, *, xlabel: str, title: str) -> None:
    """The table as curves, mean and sd at every t."""
    plots = need("matplotlib.pyplot", extra="report", purpose="drawing the accuracy over t")
    figure, axis = plots.subplots(figsize=(6.4, 3.8), layout="constrained")
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        steps, means, spreads = (
            [row[key] for row in rows if row["method"] == method]
            for key in ("t", "top1_mean", "top1_sd")
        )
        axis.errorbar(
            steps,
            means,
            spreads,
            label=method,
            marker="osD^v"[number],
            capsize=2,
            color=f"C{number}",
        )
    axis.set(title=title, xlabel=xlabel, ylabel="test top-1, %", ylim=(0, 101), xticks=steps)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plots.close(figure)

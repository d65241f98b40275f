"""What the studies share: runs on two cores, tables over t, curves, and tables in documents.

A run is `{"method": ..., "prefix_top1": [...], ...}`; a table has a row for every method and t,
mean and sd over its runs. A table in a document comes from a record, through `quote`, and from
nowhere else.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anystep._extras import need
from anystep._files import atomic_path, write_text
from anystep.config import Record, load_recipe, record_from
from anystep.environment import describe_environment
from anystep.evaluation.metrics import mean_and_sd
from anystep.run import run_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("split", "protocol", "protocol_hash", "samples", "prefix", "prefix_top1")
Rows = list[dict[str, Any]]
Job = tuple[Record, Path]


def folder_given() -> Path:
    """The one argument of the command line."""
    if len(sys.argv) != 2:
        name = Path(sys.argv[0]).stem
        raise SystemExit(f"usage: python -m studies.{name} FOLDER (see its first lines)")
    return Path(sys.argv[1]).resolve()


def environment() -> dict[str, Any]:
    """Where it is measured, without the folders of whoever measures."""
    found = describe_environment(seed=0)
    return {**found, "command": found["command"][:1]}


def public(record: Record) -> dict[str, Any]:
    """The record without the folder of whoever measured."""
    tree = asdict(record)
    tree["data"]["options"].pop("root")
    return tree


def recipe(name: str) -> Record:
    """The record of `recipes/NAME.yaml`."""
    return record_from(load_recipe(ROOT / "recipes" / f"{name}.yaml"))


def train(job: Job, *, keys: Sequence[str] = KEPT) -> dict[str, Any]:
    """One run on one thread, kept if it is finished: of its scores `keys`, and its environment."""
    record, folder = job
    torch.set_num_threads(1)  # two runs at a time
    scores = run_record(record, folder, resume=(folder / "config.yaml").exists())
    env = json.loads((folder / "env.json").read_text())
    env["command"] = env["command"][:1]  # without the folders of whoever measured
    return {**{key: scores[key] for key in keys}, "env": env}


def train_all(jobs: Iterable[Job], *, keys: Sequence[str] = KEPT) -> Iterator[dict[str, Any]]:
    """`train` for all jobs, two at a time, in order."""
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(partial(train, keys=keys), jobs)


def tell(*about: object, scores: dict[str, Any]) -> None:
    """A line for a run that is finished."""
    accuracies = [round(value, 1) for value in scores["prefix_top1"]]
    print(*about, accuracies, file=sys.stderr, flush=True)


def mean_row(method: str, t: int, values: Sequence[float]) -> dict[str, Any]:
    """A row of a table over t."""
    mean, sd = mean_and_sd(values)
    return {"method": method, "t": t, "top1_mean": float(mean), "top1_sd": float(sd)}


def table_of(runs: Sequence[dict[str, Any]]) -> Rows:
    """A row for every method and t: mean and sd over its runs.

    >>> runs = [{"method": "ce", "prefix_top1": [70.0]}, {"method": "ce", "prefix_top1": [80.0]}]
    >>> table_of(runs)[0]["top1_mean"]
    75.0
    """
    rows = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run["prefix_top1"] for run in runs if run["method"] == method]
        for t, values in enumerate(zip(*own, strict=True), start=1):
            rows.append(mean_row(method, t, values))
    return rows


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of texts in Markdown."""
    every = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in every)


def curves_in_markdown(rows: Rows, steps: Sequence[int]) -> str:
    """The table over t at these t: a line a method."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["t"]: row for row in rows if row["method"] == method}
        cells = [f"{own[t]['top1_mean']:.1f} ± {own[t]['top1_sd']:.1f}" for t in steps]
        lines.append([method, *cells])
    return markdown(["method", *(f"t = {t}" for t in steps)], lines)


def quote(page: str, name: str, table: str) -> str:
    """The page with the table of `name` between its markers. ValueError: not exactly one pair of
    markers.
    """
    begin, end = f"<!-- results/{name}.json -->", "<!-- end -->"
    block = f"{begin}\n{table}{end}"
    pattern = f"{re.escape(begin)}.*?{end}"
    changed, count = re.subn(pattern, lambda _: block, page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page must have one block {begin} ... {end}, found {count}")
    return changed


def check_markers(page: Path, *names: str) -> None:
    """Refuse a page that lacks the markers of a table: before training, not after."""
    for name in names:
        quote(page.read_text(encoding="utf-8"), name, "")


def write_table(page: Path, name: str, table: str) -> None:
    """Write the table of `name` between its markers."""
    write_text(page, quote(page.read_text(encoding="utf-8"), name, table))


def draw_curve(axis: Axes, rows: Rows, number: int, *, label: str, line: str = "-") -> None:
    """One method's rows, mean and sd at every t."""
    steps, means, spreads = ([row[key] for row in rows] for key in ("t", "top1_mean", "top1_sd"))
    look: dict[str, Any] = {"marker": "osD^vDPvX"[number], "color": f"C{number}", "capsize": 2}
    axis.errorbar(steps, means, spreads, label=label, linestyle=line, **look)


def picture(rows: Rows, path: Path, *, xlabel: str, title: str) -> None:
    """The table over t as curves."""
    plots = need("matplotlib.pyplot", extra="report", purpose="drawing the accuracy over t")
    figure, axis = plots.subplots(figsize=(6.4, 3.8), layout="constrained")
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == method]
        draw_curve(axis, own, number, label=method)
    steps = sorted({row["t"] for row in rows})
    axis.set(title=title, xlabel=xlabel, ylabel="test top-1, %", ylim=(0, 101), xticks=steps)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plots.close(figure)

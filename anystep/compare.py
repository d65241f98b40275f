"""Methods x seeds on identical data and budget -> one table, accuracy at every t."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anystep._files import write_json
from anystep.config import MethodConfig, Record
from anystep.console import say
from anystep.run import check, run_record


def compare_methods(record: Record, methods: Sequence[str], seeds: Sequence[int], folder: Path | str) -> dict[str, Any]:
    """Run each method with each seed into `folder/METHOD-seedN`; finished runs are kept, unfinished ones go on.

    Only `method` and `seed` differ between the runs. A method named in the record keeps the record's options; the others
    have their defaults. Writes and returns `comparison.json`: the record, what each run scored, and the table.
    """
    folder = Path(folder)
    if not methods or not seeds:
        raise ValueError("compare needs at least one method and one seed")
    for what, values in (("methods", methods), ("seeds", seeds)):
        if len(set(values)) != len(values):
            raise ValueError(f"compare: some {what} are named twice: {', '.join(map(str, values))}")
    records = [replace(record, method=_method_of(record, name), seed=seed) for name in methods for seed in seeds]
    for each in records:
        check(each)
    runs = []
    for each in records:
        place = folder / f"{each.method.name}-seed{each.seed}"
        if (place / "scores.json").exists():
            say(f"{place.name}: finished already, kept; another --out trains it anew")
        try:
            scores = run_record(each, place, resume=(place / "config.yaml").exists())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{place} is unfinished, the same command goes on with it") from None
        environment = json.loads((place / "env.json").read_text())
        runs.append(
            {"run": place.name, "method": asdict(each.method), "seed": each.seed, "env": environment, "scores": scores}
        )
    result = {"record": asdict(record), "runs": runs, "table": table_of(runs)}
    write_json(folder / "comparison.json", result)
    return result


def _method_of(record: Record, name: str) -> MethodConfig:
    return record.method if name == record.method.name else MethodConfig(name=name)


def table_of(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every method and prefix t: mean and sample standard deviation (null for one seed) over the seeds, percent."""
    rows = []
    for method in dict.fromkeys(each["method"]["name"] for each in runs):
        own = [each for each in runs if each["method"]["name"] == method]
        for t, values in enumerate(zip(*(each["scores"]["prefix_top1"] for each in own), strict=True), start=1):
            spread = statistics.stdev(values) if len(values) > 1 else None
            seeds = [each["seed"] for each in own]
            rows.append(
                {"method": method, "t": t, "top1_mean": statistics.fmean(values), "top1_sd": spread, "seeds": seeds}
            )
    return rows


def cell(row: dict[str, Any]) -> str:
    """`95.6 ± 0.3`, or `95.6` for one seed.

    >>> cell({"top1_mean": 95.62, "top1_sd": None})
    '95.6'
    """
    spread = "" if row["top1_sd"] is None else f" ± {row['top1_sd']:.1f}"
    return f"{row['top1_mean']:.1f}{spread}"


def table_cells(table: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table with a row a method and a column a t, as text."""
    table = list(table)
    steps = sorted({row["t"] for row in table})
    cells = {(row["method"], row["t"]): cell(row) for row in table}
    methods = dict.fromkeys(row["method"] for row in table)
    return ["method", *(f"t = {t}" for t in steps)], [[m, *(cells.get((m, t), "") for t in steps)] for m in methods]


def markdown_table(table: Iterable[dict[str, Any]]) -> str:
    """The table in Markdown: mean ± sd of the top-1 accuracy in percent."""
    header, rows = table_cells(table)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

"""Methods or recipes x seeds on the same test -> one table, accuracy at every t."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from anystep._command import say
from anystep._errors import UsageError
from anystep._files import Json, write_json
from anystep._lock import only_one
from anystep.config import MethodConfig, Record
from anystep.evaluation.metrics import mean_and_sd
from anystep.folder import RunFolder
from anystep.preflight import check, learns_from_run
from anystep.run import judged_on, load_splits, run_record
from anystep.training.methods import create_method

# What accuracies side by side must have in common
TEST = ("protocol", "protocol_hash", "split", "samples")

Run = dict[str, Any]  # what a run scored: run, method, seed, env, scores; and its label, if any
Row = dict[str, Any]  # of the table: label, method, t, top1_mean, top1_sd, seeds; and its prefix


def refuse_twice(who: str, /, **given: Sequence[Any]) -> None:
    """Refuse a list, given under its name, that is empty or has something twice."""
    if not all(given.values()):
        needed = " and ".join(f"one {what[:-1]}" for what in given)
        raise UsageError(f"{who} needs at least {needed}")
    for what, values in given.items():
        if len(set(values)) != len(values):
            raise UsageError(f"{who}: some {what} are named twice: {', '.join(map(str, values))}")


def refuse_other_tests(tests: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse accuracies of different tests (name -> scores, or of them `TEST`) side by side."""
    # Older scores name no split
    (first, base), *others = [(name, {"split": "test", **test}) for name, test in tests.items()]
    for name, test in others:
        other = [f"{key} {base[key]!r} and {test[key]!r}" for key in TEST if test[key] != base[key]]
        if other:
            what = f"{first} and {name} are not judged on the same test"
            raise UsageError(f"compare: {what}: {'; '.join(other)}")


def with_method(record: Record, name: str) -> Record:
    """The record with the method `name`: its own with its options, or another with its defaults."""
    if name == record.method.name:
        return record
    other = replace(record, method=MethodConfig(name=name))
    return other if learns_from_run(create_method(name)) else replace(other, teacher=None)


def run_all(records: Mapping[str, Record], folder: Path) -> list[Run]:
    """Run each record into `folder/NAME`: what each scored.

    All are checked before the first is trained. Finished runs are kept and unfinished ones go on.
    """
    for name, record in records.items():
        if not RunFolder(folder / name).finished:  # what is finished needs nothing any more
            check(record)
    runs: list[Run] = []
    for name, record in records.items():
        place = RunFolder(folder / name)
        if place.finished:
            say(f"{name}: finished already, kept; another --out trains it anew")
        try:
            scores = run_record(record, place.path, resume=place.begun)
        except KeyboardInterrupt:
            way_on = f"{place.path} is unfinished, the same command goes on with it"
            raise KeyboardInterrupt(way_on) from None
        method = place.read_record().method  # with what the paper says and the recipe does not
        about = {"run": name, "method": asdict(method), "seed": record.seed}
        runs.append({**about, "env": place.read_environment(), "scores": scores})
    refuse_other_tests({run["run"]: run["scores"] for run in runs})
    return runs


def label_of(run: Mapping[str, Any]) -> str:
    """The row of the table that a run belongs to: its label, or its method where it has none."""
    own = run["method"]
    return str(run.get("label", own if isinstance(own, str) else own["name"]))


def _meanings(runs: Sequence[Run]) -> dict[str, str]:
    """Label -> what the first t steps are (`live, from frame 6`); and how cut, if unlike."""
    first = {label_of(run): run["scores"] for run in reversed(runs)}
    prefix = {label: str(scores.get("prefix", "")) for label, scores in first.items()}
    cut = {label: dict(scores.get("binning") or {}) for label, scores in first.items()}
    for label, binning in cut.items():
        if prefix[label].startswith("live"):
            binning.pop("steps", None)  # more frames of the same kind: the first t are the same
    told = {
        label: " ".join(f"{key} {value}" for key, value in binning.items())
        for label, binning in cut.items()
    }
    if len(set(told.values())) == 1:
        return prefix
    return {label: f"{prefix[label]}; {told[label]}" for label in first}


def table_of(runs: Sequence[Run]) -> list[Row]:
    """A row for every label and prefix t: mean and sample standard deviation over the seeds.

    Both are in percent; the deviation of one seed is null. Where the first t steps are not the same
    for all runs (a later part of the recording, say), every row says as `prefix` what they are.
    """
    rows = []
    meanings = _meanings(runs)
    for label in dict.fromkeys(map(label_of, runs)):
        own = [run for run in runs if label_of(run) == label]
        row = {"label": label} if "label" in own[0] else {}
        row |= {"prefix": meanings[label]} if len(set(meanings.values())) > 1 else {}
        row |= {"method": own[0]["method"]["name"]}
        means, sds = mean_and_sd([run["scores"]["prefix_top1"] for run in own])
        for t, (mean, sd) in enumerate(zip(means, sds, strict=True), start=1):
            spread = None if np.isnan(sd) else float(sd)
            numbers = {"t": t, "top1_mean": float(mean), "top1_sd": spread}
            rows.append({**row, **numbers, "seeds": [run["seed"] for run in own]})
    return rows


def _compare(
    rows: Mapping[str, Record], seeds: Sequence[int], folder: Path, said: Mapping[str, Any]
) -> Json:
    records = {
        f"{label}-seed{seed}": replace(record, seed=seed)
        for label, record in rows.items()
        for seed in seeds
    }
    with only_one(folder):
        made = run_all(records, folder)
        runs = [{"label": run["run"].rpartition("-seed")[0], **run} for run in made]
        result = {**said, "runs": runs, "table": table_of(runs)}
        write_json(folder / "comparison.json", result)
    return result


def compare_methods(
    record: Record, methods: Sequence[str], seeds: Sequence[int], folder: Path | str
) -> Json:
    """Run each method with each seed into `folder/METHOD-seedN`; nothing else differs (`run_all`).

    The record's own method keeps its options; the others have their defaults. Writes and returns
    `comparison.json`: the record, what each run scored, and the table.
    """
    refuse_twice("compare", methods=methods, seeds=seeds)
    rows = {name: with_method(record, name) for name in methods}
    return _compare(rows, seeds, Path(folder), {"record": asdict(record)})


def _test_of(record: Record, place: RunFolder) -> Json:
    """What a record is judged on: as its finished run in `place` says, or else its data."""
    if place.finished:
        return place.read_scores()
    splits = load_splits(record)
    test = {"protocol": splits.protocol, "protocol_hash": splits.protocol_hash}
    return {**test, "split": record.judge, "samples": len(judged_on(splits, record))}


def compare_recipes(records: Sequence[Record], seeds: Sequence[int], folder: Path | str) -> Json:
    """Run each record with each seed into `folder/NAME-seedN` (`run_all`); a row a record.

    Records that are not judged on the same samples of the same protocol are refused before any is
    trained; anything else may differ. Writes and returns `comparison.json`: the records by name,
    what each run scored, and the table.
    """
    folder = Path(folder)
    refuse_twice("compare", names=[record.name for record in records], seeds=seeds)
    rows = {record.name: record for record in records}
    tests = {n: _test_of(r, RunFolder(folder / f"{n}-seed{seeds[0]}")) for n, r in rows.items()}
    refuse_other_tests(tests)
    said = {"records": {name: asdict(record) for name, record in rows.items()}}
    return _compare(rows, seeds, folder, said)


def cell(mean: float, sd: float | None) -> str:
    """`95.6 ± 0.3`, or `95.6` for one seed."""
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def _chosen(run: Run) -> str:
    """`alpha 0.3, temperature 5`: what a run's method has where papers decide by the data."""
    method = create_method(run["method"]["name"], **run["method"]["options"])
    keys = dict.fromkeys(key for options in method.published.values() for key in options)
    return ", ".join(f"{key} {getattr(method, key):g}" for key in keys)


def table_cells(
    table: Iterable[Row], runs: Iterable[Run] = ()
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table as text: a row a label, a column a t.

    A label is followed by its prefix, if any, and by what the method of its `runs` took for such
    data.
    """
    table = list(table)
    steps = sorted({row["t"] for row in table})
    chosen = {label_of(run): _chosen(run) for run in runs}
    marks = {}
    for row in table:
        said = [each for each in (chosen.get(label_of(row)), row.get("prefix")) if each]
        marks[label_of(row)] = f" ({'; '.join(said)})" if said else ""
    cells = {(label_of(row), row["t"]): cell(row["top1_mean"], row["top1_sd"]) for row in table}
    head = "recipe" if any(label_of(row) != row["method"] for row in table) else "method"
    rows = [
        [name + mark, *(cells.get((name, t), "") for t in steps)] for name, mark in marks.items()
    ]
    return [head, *(f"t = {t}" for t in steps)], rows


def markdown_table(table: Iterable[Row]) -> str:
    """The table in Markdown: mean ± sd of the top-1 accuracy in percent."""
    header, rows = table_cells(table)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

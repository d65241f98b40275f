"""Groups of runs: their numbers side by side, and what every caption says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep.evaluation.report.runs import RunRecord

Groups = Mapping[str, Sequence[RunRecord]]  # label -> its runs, a seed each
Cell = tuple[str, bool]  # a text, and whether it is bold


class Block(NamedTuple):
    """A figure of the page (`svg`) or a table (`head` and `rows`), and the words below it."""

    id: str
    title: str
    note: str
    svg: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()


def padded(rows: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Rows of unequal length -> (rows, longest), nan where a row has no such step."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    together = np.full((len(arrays), max(map(len, arrays))), np.nan)
    for row, array in zip(together, arrays, strict=True):
        row[: len(array)] = array
    return together


def values_of(groups: Groups, key: str) -> dict[str, NDArray[np.float64]]:
    """Label -> a value of `scores.json` by seed and step, (seeds, T)."""
    return {label: padded([run.values(key) for run in group]) for label, group in groups.items()}


def first_seeds(groups: Groups) -> Groups:
    """The first run of every label."""
    return {label: group[:1] for label, group in groups.items()}


def runs_of(groups: Groups) -> list[RunRecord]:
    """All runs, in the order of their groups."""
    return [run for group in groups.values() for run in group]


def distinct(values: Iterable[object]) -> str:
    """The different values, in order: `live / hindsight bins`."""
    return " / ".join(dict.fromkeys(map(str, values)))


def prefixes(groups: Groups) -> str:
    """What the first t steps are: `live`, say, or several where runs differ."""
    return distinct(run.scores["prefix"] for run in runs_of(groups))


def protocol_of(run: RunRecord) -> str:
    """Name and hash of the split: `digits-v1 (feed0123)`."""
    return f"{run.scores['protocol']} ({run.scores['protocol_hash']})"


def context(groups: Groups) -> str:
    """Protocol, samples, prefix and seeds of what is shown: the end of every caption."""
    runs = runs_of(groups)
    by_label = {m: ", ".join(str(run.seed) for run in group) for m, group in groups.items()}
    seeds = "; ".join(f"{label}: {own}" for label, own in by_label.items())
    if len(set(by_label.values())) == 1:
        seeds = next(iter(by_label.values()))
    word = "seeds" if len(runs) > len(groups) or "," in seeds else "seed"
    protocol = distinct(map(protocol_of, runs))
    samples = distinct(f"{r.scores['samples']} {r.scores.get('split', 'test')}" for r in runs)
    prefix = prefixes(groups)
    return f"Protocol {protocol}, {samples} samples, prefix: {prefix}, {word} {seeds}."


def caption(groups: Groups, note: str) -> str:
    """The words below a figure or a table."""
    return f"{note} {context(groups)}".strip()

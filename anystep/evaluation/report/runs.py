"""What a report knows of finished runs, and whether they may be compared. No files and no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep.evaluation.readout import prefix_mean

# The first two change no number; the last stands in the label of every row.
_NOT_COMPARED = ("data.cache", "train.workers", "train.steps")


@dataclass(frozen=True)
class RunRecord:
    """What a finished run folder holds, by `folder.read_runs`; `label` is how the page calls it.

    `config`, `env` and `scores` are the contents of the files of that name; `log` has a row an
    epoch; `outputs` is what the network said of every test sample.
    """

    label: str
    config: dict[str, Any]
    env: dict[str, Any]
    log: list[dict[str, Any]]
    scores: dict[str, Any]
    outputs: dict[str, NDArray[Any]]

    @property
    def method(self) -> str:
        return str(self.config["method"]["name"])

    @property
    def train_steps(self) -> int:
        """Time steps of each recording that it was trained with."""
        return int(self.config["train"].get("steps") or self.skipped + self.steps)

    @property
    def first_frame(self) -> int:
        """The first frame of each recording that the network sees, counted from 0."""
        return int((self.scores.get("frames") or [0])[0])

    @property
    def skipped(self) -> int:
        """Frames skipped at the start of each recording."""
        return self.first_frame - int((self.config["data"].get("frames") or [0])[0])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def steps(self) -> int:
        return int(self.scores["steps"])

    def values(self, key: str) -> NDArray[np.float64]:
        """An array of `scores.json`; a null is nan."""
        return np.asarray(self.scores[key], dtype=np.float64)

    def prefix_logits(self) -> NDArray[Any]:
        """The mean of the first t step logits, for every t: (T, M, C)."""
        return prefix_mean(self.outputs["logits"])


def _flat(section: Any, name: str) -> dict[str, Any]:
    """`{"lr": 1, "opt": {"b": 2}}` under "train" -> `{"train.lr": 1, "train.opt.b": 2}`."""
    if not isinstance(section, dict):
        return {name: section}
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= _flat(value, f"{name}.{key}")
    return found


def _compared(record: RunRecord) -> dict[str, Any]:
    scores = record.scores
    facts = {
        "protocol": scores["protocol"],
        "protocol hash": scores["protocol_hash"],
        "steps T": scores["steps"],
        "prefix": scores["prefix"],
        "judged on": scores.get("split", "test"),
        "test samples": scores["samples"],
    }
    for section in ("data", "model", "train"):
        facts |= _flat(record.config[section], section)
    if "select" in record.config:
        facts["select"] = record.config["select"]
    return {key: value for key, value in facts.items() if key not in _NOT_COMPARED}


def _unlike(records: Sequence[RunRecord], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each fact that is not the same in every record."""
    found = []
    for key in dict.fromkeys(key for row in facts for key in row):
        holders: dict[str, list[str]] = {}
        for record, row in zip(records, facts, strict=True):
            value = json.dumps(row[key], default=str) if key in row else "not set"
            holders.setdefault(value, []).append(record.label)
        if len(holders) > 1:
            told = (f"{value} ({', '.join(names)})" for value, names in holders.items())
            found.append(f"{key} differs: {'; '.join(told)}")
    return found


def _identity(record: RunRecord) -> dict[str, str]:
    """What a label may have to say of a run besides its method, as text."""
    options = record.config["method"].get("options") or {}
    told = {key: json.dumps(value, default=str).strip('"') for key, value in options.items()}
    names = {"recipe": record.config.get("name", ""), "teacher": record.config.get("teacher")}
    return {key: str(value) for key, value in names.items()} | told


def lengths_differ(records: Iterable[RunRecord]) -> bool:
    """Whether the recipes ask for more than one training length."""
    return len({record.config["train"].get("steps") for record in records}) > 1


def _told_apart(record: RunRecord, peers: Sequence[RunRecord]) -> list[str]:
    """What tells a run from the other runs of its method: options, recipe, teacher."""
    own, others = _identity(record), [_identity(peer) for peer in peers]
    keys = dict.fromkeys(key for each in others for key in each)
    return [
        f"{key}={own[key]}".removeprefix("recipe=") if key in own else f"{key} by default"
        for key in keys
        if len({each.get(key) for each in others}) > 1
    ]


def grouped(records: Sequence[RunRecord], *, by_length: bool = True) -> dict[str, list[RunRecord]]:
    """Runs by label, labels in the order given, seeds in rising order.

    A label is the method and whatever else differs: options, recipe or teacher among its runs, the
    first frame among all and, if `by_length`, the training length, which rises within a method.
    """
    late = len({record.first_frame for record in records}) > 1
    long = by_length and lengths_differ(records)
    groups: dict[str, list[RunRecord]] = {}
    methods = [record.method for record in records]
    if long:
        records = sorted(records, key=lambda run: (methods.index(run.method), run.train_steps))
    for record in records:
        said = _told_apart(record, [each for each in records if each.method == record.method])
        if late and record.first_frame:
            said.append(f"from frame {record.first_frame + 1}")
        if long:
            said.append(f"trained with T = {record.train_steps}")
        label = f"{record.method} ({', '.join(said)})" if said else record.method
        groups.setdefault(label, []).append(record)
    for group in groups.values():
        group.sort(key=lambda record: (record.seed, record.label))
    return groups


def differences(records: Sequence[RunRecord]) -> list[str]:
    """What makes a comparison of these runs unfair, a sentence each; empty if it is fair.

    Whatever can change a number must be the same for all, but for what stands in the labels
    (`grouped`): methods, their options, teachers and training lengths. Within a label no seed may
    come twice.
    """
    found = _unlike(records, [_compared(record) for record in records])
    for label, group in grouped(records).items():
        for seed in dict.fromkeys(record.seed for record in group):
            names = [record.label for record in group if record.seed == seed]
            if len(names) > 1:
                found.append(f"{label} has seed {seed} more than once: {', '.join(names)}")
    return found

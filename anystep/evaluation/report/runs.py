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
# Of scores.json: a number for every step
_BY_STEP = [
    "prefix_top1",
    "prefix_top5",
    "step_top1",
    "step_top5",
    "aurc_softmax",
    "aurc_max_logit",
    "ece",
]

Tree = dict[str, Any]  # what a JSON or YAML file holds


def _need(right: bool, rule: str) -> None:
    if not right:
        raise ValueError(rule)


def _numbers(value: Any, *shape: int | None) -> bool:
    """Whether lists hold numbers, null for a missing one; None fits any length of an axis."""
    array = np.asarray(value)
    if array.dtype == object:
        flat = [np.nan if each is None else each for each in array.ravel()]
        array = np.asarray(flat).reshape(array.shape)
    sizes = zip(array.shape, shape, strict=True) if array.ndim == len(shape) else [(0, 1)]
    return array.dtype.kind in "iuf" and all(wanted in (None, size) for size, wanted in sizes)


def check_scores(scores: Tree) -> Tree:
    """What `evaluate.score` and `run.scores_of` write. Error: anything else, by its key."""
    for key in ("protocol", "protocol_hash", "prefix"):
        _need(isinstance(scores.get(key), str), f"{key!r} must be text")
    for key in ("samples", "steps"):
        _need(type(scores.get(key)) is int and scores[key] >= 1, f"{key!r} must be >= 1")
    steps, classes = scores["steps"], scores.get("classes")
    _need(isinstance(classes, list) and bool(classes), "'classes' must be a list")
    for key in _BY_STEP:
        _need(_numbers(scores.get(key), steps), f"{key!r} must be {steps} numbers")
    each = len(scores["classes"])
    rule = f"'per_class_top1' must be {steps} x {each} numbers"
    _need(_numbers(scores.get("per_class_top1"), steps, each), rule)
    confusion = scores.get("confusion")
    _need(isinstance(confusion, dict), "'confusion' must be a mapping")
    for t in {1, steps}:
        rule = f"'confusion' at {t} must be {each} x {each} numbers"
        _need(_numbers(scores["confusion"].get(str(t)), each, each), rule)
    frames = scores.get("frames", [0])
    _need(_numbers(frames, None) and len(frames) > 0, "'frames' must be a list of numbers")
    _need(isinstance(scores.get("binning") or {}, dict), "'binning' must be a mapping")
    return scores


def check_config(config: Tree) -> Tree:
    """The record of a run, of any version, as far as a report reads it. Error: it is none."""
    for key in ("data", "model", "train", "method"):
        _need(isinstance(config.get(key), dict), f"{key!r} must be a mapping")
    _need(isinstance(config["method"].get("name"), str), "'method.name' must be text")
    _need(isinstance(config["method"].get("options") or {}, dict), "its options, a mapping")
    _need(type(config.get("seed")) is int, "'seed' must be a whole number")
    for key, value in (
        ("train.steps", config["train"].get("steps") or 1),
        ("data.frames", (config["data"].get("frames") or [0])[0]),
    ):
        _need(type(value) is int, f"{key!r} must be a whole number")
    return config


def check_environment(environment: Tree) -> Tree:
    """Where a run was made. Error: it does not say so."""
    _need(isinstance(environment.get("versions"), dict), "'versions' must be a mapping")
    _need({"commit", "dirty"} <= environment.keys(), "'commit' and 'dirty' must be there")
    _need(isinstance(environment["commit"], str | None), "'commit' must be text")
    return environment


def check_log(rows: list[Tree]) -> list[Tree]:
    """A row for every epoch. Error: one of them is none."""
    for number, row in enumerate(rows, start=1):
        right = isinstance(row, dict) and {"train_loss", "val_acc"} <= row.keys()
        right = right and _numbers([row["train_loss"], row["val_acc"]], 2)
        _need(right, f"line {number} must have the numbers train_loss and val_acc")
    return rows


def check_outputs(outputs: dict[str, NDArray[Any]], scores: Tree) -> dict[str, NDArray[Any]]:
    """What a network said, in the numbers of samples, steps and classes of its scores."""
    steps, samples, classes = scores["steps"], scores["samples"], len(scores["classes"])
    shapes: dict[str, tuple[int | None, ...]] = {
        "logits": (steps, samples, classes),
        "labels": (samples,),
        "features": (None, None),
        "example_frames": (None, None, None, None),
        "example_index": (),
    }
    for key, shape in shapes.items():
        rule = f"{key!r} must be numbers {shape}".replace("None", "any")
        _need(key in outputs and _numbers(outputs[key], *shape), rule)
    _need("ids" in outputs and outputs["ids"].shape == (samples,), f"'ids' must be ({samples},)")
    labels, index = outputs["labels"], outputs["example_index"]
    whole = labels.dtype.kind in "iu" and index.dtype.kind in "iu"
    _need(whole and 0 <= labels.min() <= labels.max() < classes, "'labels' are not of the classes")
    _need(0 <= index < samples, "'example_index' is no sample")
    _need(len(outputs["features"]) <= samples, "'features' are more than the samples")
    return outputs


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

"""What finished run folders hold, read whole, and whether they may be compared. No model, no data
set, no torch.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.evaluation.readout import prefix_mean

_CONFIG_KEYS = ("seed", "data", "model", "method", "train")
_ENV_KEYS = ("commit", "dirty", "versions")
_SCORE_KEYS = (
    *(
        "protocol",
        "protocol_hash",
        "samples",
        "classes",
        "steps",
        "prefix",
        "prefix_top1",
        "step_top1",
    ),
    *("aurc_softmax", "aurc_max_logit", "ece", "per_class_top1", "confusion"),
)
_HARMLESS = (
    "data.cache",
    "train.workers",
)  # where frames are kept and who reads them change no number
_LABELLED = ("train.steps",)  # what differs on purpose, and stands in the label of every row
_LOG_KEYS = ("train_loss", "val_acc")
_OUTPUT_KEYS = ("logits", "labels", "ids", "features", "example_frames", "example_index")


@dataclass(frozen=True)
class RunRecord:
    """What a finished run folder holds; `label` is how the page calls the folder."""

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
        """How many time steps of what there is of a recording it was trained with."""
        return int(self.config["train"].get("steps") or self.skipped + self.steps)

    @property
    def first_frame(self) -> int:
        """The first frame of the recording that the network is shown, from 0."""
        return int((self.scores.get("frames") or [0])[0])

    @property
    def skipped(self) -> int:
        """How many steps of what there is of a recording come before its first frame."""
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
        return prefix_mean(self.outputs["logits"])


def _check(found: Any, keys: Iterable[str], path: Path) -> Any:
    if not isinstance(found, dict):
        raise UsageError(f"{path} must hold a mapping, got {type(found).__name__}")
    missing = [key for key in keys if key not in found]
    if missing:
        raise UsageError(f"{path} lacks {', '.join(missing)}")
    return found


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"{path} is missing: the run folder is not whole")
    return path.read_text(encoding="utf-8")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} is truncated or not JSON: {error}") from error


def _outputs(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UsageError(f"{path} is missing: the run folder is not whole")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise UsageError(f"{path} is truncated or not an npz file: {error}") from error
    return _check(arrays, _OUTPUT_KEYS, path)


def read_run(folder: str | os.PathLike[str], *, label: str | None = None) -> RunRecord:
    """Read a finished run folder whole, or say by name what is wrong with it (`ValueError`)."""
    folder = Path(folder)
    config_path = folder / "config.yaml"
    if not config_path.is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.yaml")
    if not (folder / "scores.json").is_file():
        raise UsageError(
            f"{folder} is an unfinished run: it has no scores.json. Finish it: anystep train --resume {folder}"
        )
    try:
        config = _check(yaml.safe_load(_text(config_path)), _CONFIG_KEYS, config_path)
    except yaml.YAMLError as error:
        raise UsageError(f"{config_path} is not YAML: {error}") from error
    _check(config["method"], ["name"], config_path)
    lines = _text(folder / "log.jsonl").splitlines()
    places = [f"{folder / 'log.jsonl'} line {number}" for number in range(1, len(lines) + 1)]
    record = RunRecord(
        label=label or folder.resolve().name,
        config=config,
        env=_check(
            _json(_text(folder / "env.json"), str(folder / "env.json")),
            _ENV_KEYS,
            folder / "env.json",
        ),
        log=[
            _check(_json(*row), _LOG_KEYS, folder / "log.jsonl")
            for row in zip(lines, places, strict=True)
        ],
        scores=_check(
            _json(_text(folder / "scores.json"), str(folder / "scores.json")),
            _SCORE_KEYS,
            folder / "scores.json",
        ),
        outputs=_outputs(folder / "outputs.npz"),
    )
    _check_shapes(record, folder)
    return record


def _check_shapes(record: RunRecord, folder: Path) -> None:
    """Refuse scores and outputs that contradict each other: they come from different moments of a
    run.
    """
    steps, classes = record.steps, len(record.scores["classes"])
    for key in (
        "prefix_top1",
        "step_top1",
        "aurc_softmax",
        "aurc_max_logit",
        "ece",
        "per_class_top1",
    ):
        want = (steps, classes) if key == "per_class_top1" else (steps,)
        if (shape := record.values(key).shape) != want:
            raise UsageError(f"{folder / 'scores.json'}: {key} must have shape {want}, got {shape}")
    for step in sorted({1, steps}):
        if str(step) not in record.scores["confusion"]:
            raise UsageError(f"{folder / 'scores.json'}: confusion must have the key '{step}'")
    shape = record.outputs["logits"].shape
    if (
        len(shape) != 3
        or (shape[0], shape[2]) != (steps, classes)
        or record.outputs["labels"].shape != shape[1:2]
    ):
        raise UsageError(
            f"{folder / 'outputs.npz'}: logits must be ({steps}, M, {classes}) and labels (M,), got {shape}"
        )
    index = int(record.outputs["example_index"])
    if not 0 <= index < shape[1]:
        raise UsageError(
            f"{folder / 'outputs.npz'}: example_index must be in 0..{shape[1] - 1}, got {index}"
        )


def read_runs(runs: Sequence[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read every folder; a folder is called by its name, or by its path below the common folder
    where names repeat.
    """
    folders = [Path(run).resolve() for run in runs]
    if not folders:
        raise UsageError("read_runs: runs must name at least one run folder, got none")
    for folder in folders:
        if folders.count(folder) > 1:
            raise UsageError(f"read_runs: runs must be different folders, got {folder} twice")
    labels = [folder.name for folder in folders]
    if len(set(labels)) < len(labels):
        top = os.path.commonpath(folders)
        labels = [folder.relative_to(top).as_posix() for folder in folders]
    records = [read_run(folder, label=label) for folder, label in zip(folders, labels, strict=True)]
    for record in records:
        if record.scores["classes"] != records[0].scores["classes"]:
            raise UsageError(
                f"read_runs: {records[0].label} and {record.label} do not have the same classes; "
                "give each data set a report of its own"
            )
    return records


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
    return {key: value for key, value in facts.items() if key not in _HARMLESS + _LABELLED}


def _unlike(records: Sequence[RunRecord], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each key whose value is not the same in every record."""
    found = []
    for key in dict.fromkeys(key for row in facts for key in row):
        holders: dict[str, list[str]] = {}
        for record, row in zip(records, facts, strict=True):
            value = json.dumps(row[key], default=str) if key in row else "not set"
            holders.setdefault(value, []).append(record.label)
        if len(holders) > 1:
            found.append(
                f"{key} differs: "
                + "; ".join(f"{v} ({', '.join(names)})" for v, names in holders.items())
            )
    return found


def differences(records: Sequence[RunRecord]) -> list[str]:
    """What makes a comparison of these runs unfair, a sentence each; empty when only what stands in
    the labels differs.

    Compared over all runs: the protocol and its hash, the split that judges, the steps, the kind of
    prefix, the number of test samples, how the epoch is selected, and every key of the data, model
    and train sections that can change a number. A label (`grouped`) tells methods, their options,
    teachers and training lengths apart; within it, no seed may come twice.
    """
    found = _unlike(records, [_compared(record) for record in records])
    for label, group in grouped(records).items():
        seeds: dict[int, list[str]] = {}
        for record in group:
            seeds.setdefault(record.seed, []).append(record.label)
        for seed, names in seeds.items():
            if len(names) > 1:
                found.append(f"{label} has seed {seed} more than once: {', '.join(names)}")
    return found


def _identity(record: RunRecord) -> dict[str, str]:
    """What a label may have to say of a run besides its method, as text."""
    facts = {
        "recipe": str(record.config.get("name", "")),
        "teacher": str(record.config.get("teacher")),
    }
    options = record.config["method"].get("options") or {}
    return facts | {
        key: json.dumps(value, default=str).strip('"') for key, value in options.items()
    }


def lengths_differ(records: Iterable[RunRecord]) -> bool:
    """Whether the recipes ask for more than one training length."""
    return len({record.config["train"].get("steps") for record in records}) > 1


def _told_apart(record: RunRecord, peers: Sequence[RunRecord]) -> list[str]:
    """Of a run's options, recipe and teacher those that tell it from its method's other runs."""
    own, others = _identity(record), [_identity(peer) for peer in peers]
    said = []
    for key in dict.fromkeys(key for each in others for key in each):
        if len({each.get(key) for each in others}) > 1:
            value = own.get(key)
            said.append(
                f"{key} by default"
                if value is None
                else value
                if key == "recipe"
                else f"{key}={value}"
            )
    return said


def grouped(records: Sequence[RunRecord], *, by_length: bool = True) -> dict[str, list[RunRecord]]:
    """Runs by label, labels in the order given, seeds in rising order.

    A label is the method; where runs of one method differ in its options, recipe or teacher, it
    says those too, and where any runs differ in their first frame or, unless `by_length` is False,
    in their training length, it says that. Methods keep their order then, and their lengths rise.
    """
    late = len({record.first_frame for record in records}) > 1
    long = by_length and lengths_differ(records)
    groups: dict[str, list[RunRecord]] = {}
    methods = [record.method for record in records]
    ordered = (
        sorted(records, key=lambda each: (methods.index(each.method), each.train_steps))
        if long
        else records
    )
    for record in ordered:
        said = _told_apart(record, [each for each in records if each.method == record.method])
        said += [f"from frame {record.first_frame + 1}"] if late and record.first_frame else []
        said += [f"trained with T = {record.train_steps}"] if long else []
        label = f"{record.method} ({', '.join(said)})" if said else record.method
        groups.setdefault(label, []).append(record)
    return {
        label: sorted(group, key=lambda record: (record.seed, record.label))
        for label, group in groups.items()
    }

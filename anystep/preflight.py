"""What a record asks for, checked by name before data are read or time is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from anystep._errors import UsageError
from anystep._lookup import check_arguments, choose
from anystep.config import Record
from anystep.data.augmentation.augment import create_augmentation
from anystep.data.datasets import DATASETS
from anystep.data.frames import ENCODINGS, Encoding
from anystep.nn.models import create_model, name_and_options
from anystep.nn.weights import weights_file
from anystep.training.methods import create_method
from anystep.training.phases import OTHER_RUN, Method, check_shares, frames_seen, phase_plan


def check(record: Record) -> Method:
    """Refuse by name what cannot work, before data are read or time is spent. Returns the record's
    method.
    """
    method = create_method(record.method.name, **record.method.options)
    data, devices = record.data, record.engine.devices
    if data.frames is not None and len(data.frames) != 2:
        raise UsageError(f"data.frames must be [first, stop] or null, got {data.frames}")
    _refuse(data.options, ("binning", "cache", "workers"), "data.options")
    _refuse(
        record.model.options,
        ("name", "num_classes", "in_planes", "input_size", "neuron", "norm"),
        "model.options",
    )
    check_arguments(choose(DATASETS, data.name, "dataset"), data.options, f"dataset {data.name}")
    _check_method(record, method)
    _check_labels(record, method)
    if make_binning(data.binning).steps is None:
        raise UsageError("training needs recordings of one length: give data.binning.steps")
    check_shares(method, record.train)
    if record.engine.precision == "16-mixed":
        raise UsageError(
            "engine.precision 16-mixed has a loss scale that a checkpoint does not hold: use bf16-mixed"
        )
    for size in (phase_plan(phase, record.train).batch_size for phase in method.phases()):
        if devices < 1 or size % devices:
            raise UsageError(
                f"engine.devices must be >= 1 and share a batch of {size} equally, got {devices}"
            )
    for phase in method.phases():
        neuron = record.model.neuron if phase.neuron is None else phase.neuron
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            create_model(
                record.model.name,
                num_classes=2,
                input_size=64,
                neuron=neuron,
                **model_options(record),
            )
    return method


def _check_labels(record: Record, method: Method) -> None:
    """Refuse augmentations that do not exist, or that mix labels for a method that needs one class
    a sample.
    """
    if not create_augmentation(
        record.data.augment, classes=2, mean=[0.0] * 3, std=[1.0] * 3
    ).soft_labels:
        return
    logits, shares = torch.zeros(1, 2, 2), torch.eye(2)
    for phase in method.phases():
        roles = ("student",) if phase.teacher is None else ("student", "teacher")
        try:
            method.loss(dict.fromkeys(roles, logits), shares, 0.5)
        except ValueError as error:
            what = "data.augment makes labels of several classes"
            raise UsageError(f"{what}, and method {record.method.name}: {error}") from error


def _check_method(record: Record, method: Method) -> None:
    """Refuse a neuron that the method cannot train, and a teacher that is missing or that nobody
    asked for.
    """
    neuron, _ = name_and_options(record.model.neuron)
    if method.neurons and neuron not in method.neurons:
        raise UsageError(
            f"method {record.method.name} needs model.neuron {' or '.join(method.neurons)}, got {neuron!r}"
        )
    for phase in method.phases():
        phase_plan(phase, record.train)
        seen = frames_seen(phase, record.train)
        if seen.stop is not None and seen.stop <= (seen.start or 0):
            raise UsageError(
                f"train.steps {record.train.steps} leaves no frame for phase {phase.name!r}, which begins later"
            )
    asked = learns_from_run(method)
    if asked and record.teacher is None:
        raise UsageError(
            f"method {record.method.name} learns from another run: name its folder with --teacher RUN"
        )
    if record.teacher is not None and not asked:
        raise UsageError(
            f"teacher: method {record.method.name} with these options learns from no other run"
        )
    if record.teacher is not None and not weights_file(record.teacher).exists():
        raise UsageError(
            f"teacher: {record.teacher} is not a finished run, there is no {weights_file(record.teacher)}"
        )


def learns_from_run(method: Method) -> bool:
    """Whether a method needs the network of another run."""
    return any(OTHER_RUN in (phase.teacher, phase.start_from) for phase in method.phases())


def _refuse(options: Mapping[str, Any], decided: Sequence[str], where: str) -> None:
    """Refuse options that something else decides: the data, or a key of their own."""
    for key in decided:
        if key in options:
            raise UsageError(
                f"{where}: {key!r} is not an option, the data or another key of the recipe decide it"
            )


def model_options(record: Record) -> dict[str, Any]:
    """The arguments of `create_model` that the data do not decide."""
    return {"norm": record.model.norm, **record.model.options}


def make_binning(spec: str | dict[str, Any]) -> Encoding:
    """A binning, or the encoding of images, from its name and arguments."""
    name, options = name_and_options(spec)
    kind = choose(ENCODINGS, name, "binning")
    check_arguments(kind, options, f"binning {name}", complete=True)
    return kind(**options)

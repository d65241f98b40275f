"""What a record asks for, checked by name before data are read or time is spent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from anystep._errors import UsageError
from anystep._lookup import check_arguments, choose
from anystep.config import Record
from anystep.data.augmentation.augment import create_augmentation
from anystep.data.datasets import DATASETS
from anystep.data.frames import ENCODINGS, Direct, Encoding
from anystep.folder import weights_file
from anystep.nn.models import create_model, name_and_options
from anystep.training.methods import create_method
from anystep.training.phases import (
    OTHER_RUN,
    Method,
    Phase,
    check_shares,
    frames_seen,
    phase_plan,
)


def make_binning(spec: str | dict[str, Any]) -> Encoding:
    """A binning, or the encoding of images, from its name and arguments."""
    name, options = name_and_options(spec, "binning")
    kind = choose(ENCODINGS, name, "binning")
    check_arguments(kind, options, f"binning {name}", complete=True)
    return kind(**options)


def steps_of(record: Record) -> int:
    """How many time steps a recording of the record has: those of `data.frames`, or all."""
    steps = make_binning(record.data.binning).steps
    if steps is None:
        raise UsageError("training needs recordings of one length: give data.binning.steps")
    return len(range(steps)[slice(*(record.data.frames or (None,)))])


def network_of(record: Record, phase: Phase, **data: int | list[int]) -> dict[str, Any]:
    """The arguments of `create_model` for a phase; `data`: num_classes, in_planes, input_size."""
    model = record.model
    neuron = model.neuron if phase.neuron is None else phase.neuron
    return {"name": model.name, **data, "neuron": neuron, "norm": model.norm, **model.options}


def complete(record: Record) -> Record:
    """The record with what its method's paper has for such data (`Method.published`), where it
    names no value of its own.
    """
    name, options = record.method.name, record.method.options
    kind = "images" if isinstance(make_binning(record.data.binning), Direct) else "events"
    published = create_method(name, **options).published.get(kind, {})
    return replace(record, method=replace(record.method, options={**published, **options}))


def taken(record: Record, whole: Record) -> str | None:
    """What `complete` took from the paper, in words; None if nothing."""
    own = record.method.options
    values = {key: value for key, value in whole.method.options.items() if key not in own}
    if not values:
        return None
    told = " and ".join(f"{key} {value:g}" for key, value in values.items())
    return f"{record.method.name}: {told} as published for such data, method.options names none"


def learns_from_run(method: Method) -> bool:
    """Whether a method needs the network of another run."""
    return any(OTHER_RUN in (phase.teacher, phase.start_from) for phase in method.phases())


def _check_teacher(record: Record, method: Method) -> None:
    """Refuse a teacher that is missing, or that nobody asked for."""
    name, asked, teacher = record.method.name, learns_from_run(method), record.teacher
    if asked and teacher is None:
        way_out = "name its folder with --teacher RUN"
        raise UsageError(f"method {name} learns from another run: {way_out}")
    if teacher is not None and not asked:
        raise UsageError(f"teacher: method {name} with these options learns from no other run")
    if teacher is not None and not weights_file(teacher).is_file():  # a pipe would have no end
        why = f"is not a finished run, there is no file {weights_file(teacher)}"
        raise UsageError(f"teacher: {teacher} {why}")


def _check_frames(record: Record, phase: Phase) -> None:
    """Refuse a phase whose frames the recordings do not have, or that `train.steps` leaves out."""
    steps = steps_of(record)
    parts = {"frames": phase.frames, "teacher_frames": phase.teacher_frames}
    for name, part in parts.items():
        if max(part.start or 0, (part.stop or 1) - 1) >= steps:
            place = f"phase {phase.name!r}: {name} [{part.start or 0}, {part.stop}]"
            raise UsageError(f"{place} are not within the {steps} frames of a recording")
    if not range(steps)[frames_seen(phase, record.train)]:
        left = f"train.steps {record.train.steps} leaves no frame for phase {phase.name!r}"
        raise UsageError(f"{left}, which begins later")


def check(record: Record) -> Method:
    """The method of a record that names nothing unknown and nothing that contradicts itself.

    No data are read. `run.dry_update` then tries what cannot be judged by name.
    """
    name, data, devices = record.method.name, record.data, record.engine.devices
    method = create_method(name, **record.method.options)
    check_arguments(choose(DATASETS, data.name, "dataset"), data.options, f"dataset {data.name}")
    create_augmentation(data.augment, classes=2, mean=[0.0] * 3, std=[1.0] * 3)
    neuron, _ = name_and_options(record.model.neuron, "neuron")
    if method.neurons and neuron not in method.neurons:
        needed = " or ".join(method.neurons)
        raise UsageError(f"method {name} needs model.neuron {needed}, got {neuron!r}")
    _check_teacher(record, method)
    check_shares(method, record.train)
    for phase in method.phases():
        _check_frames(record, phase)
        size = phase_plan(phase, record.train).batch_size
        if size % devices:
            raise UsageError(f"engine.devices must share a batch of {size} equally, got {devices}")
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            create_model(**network_of(record, phase, num_classes=2, input_size=64))
    return method

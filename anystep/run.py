"""The main path, top to bottom: record -> data -> network -> fit -> scores -> run folder."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from anystep._errors import AnystepWarning, RunError, UsageError
from anystep._files import Json, content_hash
from anystep._lookup import check_arguments, choose, import_rows
from anystep.config import Record
from anystep.console import ProgressBar, say
from anystep.data.augmentation.augment import Augmentation, create_augmentation
from anystep.data.datasets import DATASETS, load_dataset, options_of
from anystep.data.loader import derive_seed
from anystep.data.protocols import ALL
from anystep.data.sets import PARTS, DataSet, Splits, Together, as_dataset
from anystep.environment import describe_environment
from anystep.evaluation.evaluate import Outputs, collect, score
from anystep.folder import CheckpointWriter, RunFolder, load_model, scores_beside, weights_file
from anystep.nn.fuse import fuse_model, why_not_fusable
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ClippedIF
from anystep.preflight import check, complete, make_binning, network_of, taken
from anystep.training.fabric import make_fabric
from anystep.training.fit import fit, start
from anystep.training.methods import create_method
from anystep.training.phases import OTHER_RUN, Method, Phase, phase_epochs

OWN_FOLDERS = ("events-folder", "image-folder")  # rows for whatever a person brings
FEATURES = 1000  # penultimate features kept for the report's t-SNE


def run_record(record: Record, folder: Path | str, *, resume: bool = False) -> Json:
    """Train what `record` says into `folder`, judge it once on the split that it names: its scores.

    With `resume` the folder's own checkpoint is taken up; on a CPU the result is bit-identical to
    an uninterrupted run. A finished folder is left as it is. Options that the record leaves to the
    method's paper are filled in (`preflight.complete`) and written with it.

    Errors: a folder that holds another run, or that cannot be written; whatever the record's parts
    refuse, before any training starts.
    """
    place, given = RunFolder(folder), record
    if not place.begun or place.read_record() != record:  # an older run goes on as it was begun
        record = complete(record)
    place.check_free(record, resume=resume)
    if not place.finished:
        with place.alone():
            place.check_free(record, resume=resume)  # another process may have been faster
            if not place.finished:
                train_and_judge(record, place, taken(given, record))
    return place.read_scores()


def train_and_judge(record: Record, place: RunFolder, remark: str | None) -> None:
    """Train what `record` says, from where `place` is to the end, and judge it; say `remark` once
    nothing is refused any more.
    """
    method = check(record)
    engine = {"accelerator": record.engine.accelerator, "precision": record.engine.precision}
    fabric = make_fabric(
        **engine, devices=record.engine.devices, callbacks=[ProgressBar(place.name)]
    )
    # In one process still, so that the frames are built once. Nothing is written before the dry
    # update has passed, so a command that was refused can be given again.
    splits = load_splits(record)
    if not place.begun:
        dry_update(record, method, splits, make_fabric(**engine, devices=1))
    environment = describe_environment(seed=record.seed, device=fabric.device)
    environment["precision"] = fabric._precision.precision
    if record.teacher is not None:
        environment["teacher"] = content_hash(weights_file(record.teacher).read_bytes())
    place.open(record, environment)
    if remark:
        say(remark)
    if warning := method.remark(record.train.epochs):
        say(f"warning: {warning}")
    launch(fabric, record, method, place)


def load_splits(record: Record) -> Splits:
    """The record's data: train, validation and test. Error: nothing to train with."""
    splits = read_splits(record)
    if splits.protocol == ALL:
        way_out = "it is for judging other data, with anystep evaluate --data"
        raise UsageError(f"data.options.protocol {ALL} leaves nothing to train with: {way_out}")
    return splits


def read_splits(record: Record) -> Splits:
    """The record's data in three parts; with the protocol "all" two are empty."""
    data = record.data
    splits = load_dataset(
        data.name, binning=make_binning(data.binning), cache=data.cache, **data.options
    )
    if data.frames is not None:
        splits = splits.frame_range(*data.frames)
    return splits


def augmentation_of(record: Record, splits: Splits) -> Augmentation | None:
    """What changes the record's training batches, if anything does."""
    if not record.data.augment:
        return None
    scale = {"mean": splits.train.mean, "std": splits.train.std}
    return create_augmentation(record.data.augment, classes=len(splits.classes), **scale)


def dry_update(record: Record, method: Method, splits: Splits, fabric: Any) -> None:
    """One update of every phase on the first sample, and a look at it as the test will look.

    What cannot work is found now and not after hours. It has networks of its own, and leaves the
    global random generators as they were.
    """
    # The sample twice: batch norm refuses to train on a single value
    first = splits.train[0]
    sample = as_dataset([first] * 2)
    shape, other = tuple(first[0].shape), tuple(splits.val[0][0].shape)
    if other[1:] != shape[1:]:
        raise UsageError(f"samples of train are {shape}, those of val {other}: (T, P, H, W)")
    plan = replace(record.train, epochs=1, batch_size=2, workers=0, balanced=False)
    networks: dict[str, nn.Module] = {}
    for phase in method.phases():
        model = build(record, phase, splits)
        networks[phase.name] = model
        if OTHER_RUN in (phase.start_from, phase.teacher):
            networks[OTHER_RUN] = load_teacher(record, phase, model, splits)
        short = replace(phase, plan={**phase.plan, "batch_size": 2})
        state = start(model.to(fabric.device), plan, phase=short, networks=networks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnystepWarning)  # one sample may leave layers silent
            augment = augmentation_of(record, splits)
            fit(state, sample, method=method, plan=plan, augment=augment, fabric=fabric)
        collect(model, sample, batch_size=2, frames=phase.frames)


def build(record: Record, phase: Phase, splits: Splits) -> StepModel:
    """The network of a phase, its weights drawn from the seed."""
    shape = tuple(splits.train[0][0].shape)
    if len(shape) != 4:
        raise UsageError(f"a sample must be frames (T, P, H, W), the first one is {shape}")
    _, planes, height, width = map(int, shape)
    data = {"num_classes": len(splits.classes), "in_planes": planes}
    size = height if height == width else [height, width]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(record.seed, "weights", phase.name))
        model = create_model(**network_of(record, phase, **data, input_size=size))
    model.recompute = record.engine.recompute
    return model


def load_teacher(record: Record, phase: Phase, student: StepModel, splits: Splits) -> StepModel:
    """The network of another run, for `phase`.

    Errors: it has other frames or classes than the student; it learnt from another split of the
    same data, so perhaps from the test samples; the phase starts from it and it is an SNN already.
    """
    folder = record.teacher or ""
    teacher = load_model(folder)
    known = scores_beside(folder) or {"protocol": "", "protocol_hash": ""}
    same_data = known["protocol"].partition("/")[0] == splits.protocol.partition("/")[0]
    if same_data and known["protocol_hash"] != splits.protocol_hash:
        its = f"{known['protocol']} ({known['protocol_hash']})"
        ours = f"{splits.protocol} ({splits.protocol_hash})"
        what = f"teacher: {folder} learnt from the split {its}, not {ours}"
        raise UsageError(f"{what}: it may know the test samples")
    spikes = any(isinstance(module, ClippedIF) for module in teacher.modules())
    if phase.start_from == OTHER_RUN and spikes:
        way_out = "the ANN of an hsd run is its checkpoints/ann.safetensors"
        raise UsageError(f"teacher: {folder} is an SNN already; {way_out}")
    for what in ("frame_shape", "num_classes"):
        its, own = getattr(teacher, what), getattr(student, what)
        if its != own:
            raise UsageError(f"teacher: {folder} has {what} {its}, the student {own}")
    return teacher


def launch(fabric: Any, record: Record, method: Method, place: RunFolder) -> None:
    """Run `work` in every process of `fabric`. What stops it says how to go on."""
    others = set(torch.multiprocessing.active_children())
    try:
        # Fabric takes frozen arguments apart, so they are bound to the function
        fabric.launch(partial(work, record=record, method=method, place=place))
    except torch.multiprocessing.ProcessRaisedException as error:
        last = error.msg.strip().splitlines()[-1]
        raise RunError(f"a worker failed: {last}\n{place.way_on}") from error
    except torch.multiprocessing.ProcessExitedException as error:
        what = f"a worker was killed, the others were stopped ({error})"
        raise RunError(f"{what}\n{place.way_on}") from error
    except (RunError, OSError, MemoryError, RuntimeError) as error:
        # A bare RuntimeError is a defect, unless torch means by it that memory ran out
        if type(error) is RuntimeError and "allocate memory" not in str(error):
            raise
        raise RunError(f"{str(error) or 'out of memory'}\n{place.way_on}") from error
    except KeyboardInterrupt:
        for worker in set(torch.multiprocessing.active_children()) - others:
            worker.terminate()  # Python would wait for them at its end
        raise KeyboardInterrupt(place.way_on) from None


def work(fabric: Any, record: Record, method: Method, place: RunFolder) -> None:
    """One process of a run: every phase in order, then, in the first process, the test."""
    import_rows(record.imports)  # a process of its own has none of them yet
    splits = load_splits(record)
    saved = place.load_training() or {"phase": 0, "networks": {}, "history": []}
    networks: dict[str, nn.Module] = {}
    phases = method.phases()
    for number, phase in enumerate(phases):
        model = build(record, phase, splits)
        networks[phase.name] = model
        if phase.name in saved["networks"]:
            with place.fitting():
                model.load_state_dict(saved["networks"][phase.name])
        else:
            if OTHER_RUN in (phase.start_from, phase.teacher):
                networks[OTHER_RUN] = load_teacher(record, phase, model, splits)
            state = start(model.to(fabric.device), record.train, phase=phase, networks=networks)
            epochs = phase_epochs(phase, record.train) if fabric.is_global_zero else None
            # Puts `state` where `saved` ends, then writes every epoch
            writer = CheckpointWriter(place, record, number, state, saved, epochs_to_show=epochs)
            fit(
                state,
                splits.train,
                method=method,
                plan=record.train,
                seed=record.seed,
                augment=augmentation_of(record, splits),
                validation=splits.val,
                fabric=fabric,
                on_epoch=writer.on_epoch,
            )
            saved = writer.finish(state)
        if fabric.is_global_zero and phase is not phases[-1]:
            place.save_network(model, phase=phase.name)
    if fabric.is_global_zero:
        place.save_network(model)
        judge_and_write(model, splits, phase, place, record)


def judge_and_write(
    model: StepModel, splits: Splits, phase: Phase, place: RunFolder, record: Record
) -> None:
    """Read the split that judges the run, once; write what the network said and how good it is."""
    outputs, scores = judge(model, splits, phase, record, features=FEATURES)
    judged = judged_on(splits, record)
    arrays: dict[str, ArrayLike] = {
        "logits": outputs.logits,
        "labels": outputs.labels,
        "ids": np.arange(len(judged)) if judged.ids is None else judged.ids,
        "features": outputs.features,
        "example_frames": np.asarray(judged[0][0])[phase.frames],
        "example_index": 0,
    }
    place.write_results(arrays, scores)


def judge(
    model: StepModel,
    splits: Splits,
    phase: Phase,
    record: Record,
    *,
    features: int = 0,
    part: str | None = None,
) -> tuple[Outputs, Json]:
    """What the network says of the split that judges it (None: the record's), and its scores.

    It is fused for that, as it is deployed so (`fuse.fuse_model`); where it cannot be, `fused` of
    the scores is the reason.
    """
    reason, plan = why_not_fusable(model.eval()), record.train
    outputs = collect(
        model if reason else fuse_model(model),
        judged_on(splits, record) if part is None else samples_of(splits, part),
        batch_size=plan.batch_size,
        workers=plan.workers,
        frames=phase.frames,
        features=features,
        work=True,
    )
    scores = {**scores_of(outputs, splits, phase, record), "fused": reason or True}
    return outputs, scores | ({} if part is None else {"split": part})


def samples_of(splits: Splits, part: str) -> DataSet:
    """A part, or with "all" the three together."""
    choose({each: each for each in (*PARTS, ALL)}, part, "split")
    sets = [getattr(splits, each) for each in (PARTS if part == ALL else (part,))]
    if not any(map(len, sets)):
        raise UsageError(f"the protocol {splits.protocol} has no {part}")
    return Together(sets) if part == ALL else sets[0]


def judged_on(splits: Splits, record: Record) -> DataSet:
    """The split whose recordings judge the run: test, unless it is still being tuned."""
    return splits.val if record.judge == "val" else splits.test


def scores_of(outputs: Outputs, splits: Splits, phase: Phase, record: Record) -> Json:
    """`evaluate.score` with what a number must carry: protocol, classes, what a prefix means.

    `frames` are those of the recording that the network sees, counted from 0; where the first is
    not 0, step t of the network is not what a device has seen after t frames, and `prefix` says so.
    """
    first = splits.first_frame + (phase.frames.start or 0)
    seen = list(range(first, first + len(outputs.logits)))
    late = f", from frame {seen[0] + 1}" if seen[0] else ""
    return {
        "protocol": splits.protocol,
        "protocol_hash": splits.protocol_hash,
        "split": record.judge,
        "classes": list(splits.classes),
        "prefix": ("live" if splits.causal else "hindsight bins") + late,
        "frames": seen,
        "binning": splits.binning,
        **score(outputs),
    }


def seen_frames(record: Record) -> slice:
    """The frames of a recording that the finished network is shown."""
    return create_method(record.method.name, **record.method.options).phases()[-1].frames


def elsewhere(record: Record, data: Path | str, options: Json) -> Record:
    """The record with the samples in the folder `data`, without a protocol in a folder of your own.

    Errors: a data set that is built in; the folder from which the run learnt.
    """
    name, own = record.data.name, record.data.options
    if "root" not in (options_of(name) or []):
        raise UsageError(f"{name} is built in and takes no folder, got {str(data)!r}")
    if "root" in own and Path(own["root"]).resolve() == Path(data).resolve():
        raise UsageError(f"the run learnt from {data}: without --data it is judged there")
    protocol = {"protocol": ALL} if name == "events-folder" else {}
    together = {**own, **protocol, **options, "root": os.fspath(data)}
    check_arguments(choose(DATASETS, name, "dataset"), together, f"dataset {name}")
    return replace(record, data=replace(record.data, options=together))


def check_alike(data: Path | str, splits: Splits, model: StepModel, classes: list[str]) -> None:
    """Refuse samples of other classes or frames than the network's, by name."""
    if list(splits.classes) != classes:
        differ = ", ".join(sorted({*splits.classes} ^ {*classes})) or "their order"
        raise UsageError(f"{data} does not have the classes of the run, they differ in: {differ}")
    shape = tuple(np.asarray(splits.test[0][0]).shape[1:])
    if shape != model.frame_shape:
        what = f"{data} has frames (P, H, W) {shape}, the network takes {model.frame_shape}"
        raise UsageError(f"{what}; the options size and sensor decide that")


def evaluate_run(
    folder: Path | str,
    data: Path | str | None = None,
    *,
    split: str | None = None,
    options: Json | None = None,
) -> Json:
    """Judge a finished run's network again, from the weights on disk. Nothing is written.

    data      a folder to judge, of the same data set, classes and frames; None: the run's own
    split     "train", "val", "test" or "all"; None: the run's, of a folder of your own "all", of
              another set's "test"
    options   of the data set in `data`, laid over those of the run
    """
    place = RunFolder(folder)
    record, model = place.read_record(), load_model(folder)
    phase = create_method(record.method.name, **record.method.options).phases()[-1]
    part = split or record.judge
    if data is None:
        if options:
            raise UsageError("options are for other data: name its folder with data")
        splits = read_splits(record)
    else:
        part = split or (ALL if record.data.name in OWN_FOLDERS else "test")
        splits = read_splits(elsewhere(record, data, options or {}))
        check_alike(data, splits, model, place.read_scores()["classes"])
    scores = judge(model, splits, phase, record, part=part)[1]
    return scores if data is None else {"data": os.fspath(data), **scores}

"""The main path, top to bottom: record -> data -> model -> method -> fit -> score -> run folder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anystep._errors import UsageError
from anystep._files import atomic_path, content_hash, write_json, write_text
from anystep.config import Record, load_recipe, record_from, to_yaml
from anystep.console import EpochLines, ProgressBar
from anystep.data.augmentation.augment import Augmentation, create_augmentation
from anystep.data.datasets import load_dataset
from anystep.data.loader import derive_seed
from anystep.data.sets import DataSet, Splits
from anystep.environment import describe_environment
from anystep.evaluation.evaluate import Outputs, collect, score
from anystep.nn.fuse import fold_scales_, fuse_model, why_not_fusable
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ClippedIF
from anystep.nn.weights import load_model, load_training, save_model, save_training, weights_file
from anystep.preflight import check, make_binning, model_options
from anystep.training.fabric import make_fabric
from anystep.training.fit import TrainState, fit, start_phase
from anystep.training.methods import create_method
from anystep.training.phases import OTHER_RUN, Method, Phase, phase_epochs

FEATURES = 1000  # penultimate features kept for the report's t-SNE


def run_record(record: Record, folder: Path | str, *, resume: bool = False) -> dict[str, Any]:
    """Train what `record` says into `folder` and judge it once on the test split: the scores, also
    in `scores.json`.

    With `resume` the folder's own checkpoint is taken up, and the result is bit-identical to an
    uninterrupted run; a folder that is finished is left as it is. Errors: a folder that holds
    another run, or that cannot be written; whatever the record's parts refuse, before any training
    starts.
    """
    folder = Path(folder)
    if is_finished(record, folder, resume=resume):
        return json.loads((folder / "scores.json").read_text())
    method = check(record)
    engine = record.engine
    fabric = make_fabric(
        accelerator=engine.accelerator,
        devices=engine.devices,
        precision=engine.precision,
        callbacks=[ProgressBar()],
    )
    # Before the folder is this run's, so that what is missing can be named and the command given
    # again; and before there are several processes, so that the frames are built once.
    rehearse(record, method, load_splits(record))
    open_folder(record, folder, device=fabric.device, precision=fabric._precision.precision)
    _launch(fabric, record, method, folder)
    return json.loads((folder / "scores.json").read_text())


def _launch(fabric: Any, record: Record, method: Method, folder: Path) -> None:
    """Run `_work` in every process of `fabric`; what stops it says how to go on, and leaves no
    process behind.
    """
    others = set(torch.multiprocessing.active_children())
    try:
        fabric.launch(
            partial(_work, record=record, method=method, folder=folder)
        )  # Fabric takes frozen arguments apart
    except torch.multiprocessing.ProcessRaisedException as error:
        raise RuntimeError(
            f"a worker failed: {error.msg.strip().splitlines()[-1]}\n{resume_hint(folder)}"
        ) from error
    except torch.multiprocessing.ProcessExitedException as error:
        raise RuntimeError(
            f"a worker was killed, the others were stopped ({error})\n{resume_hint(folder)}"
        ) from error
    except OSError as error:
        raise OSError(f"{error}\n{resume_hint(folder)}") from error
    except KeyboardInterrupt:
        for worker in set(torch.multiprocessing.active_children()) - others:
            worker.terminate()  # Python would wait for them at its end
        raise KeyboardInterrupt(resume_hint(folder)) from None


def resume_hint(folder: Path) -> str:
    """How to go on with a run that stopped."""
    return f"go on with: anystep train --resume {folder}"


def load_splits(record: Record) -> Splits:
    """The record's data: train, validation and test."""
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


def is_finished(record: Record, folder: Path, *, resume: bool) -> bool:
    """True if `folder` holds this very run, finished; False if the run can begin or go on there.
    Anything else is refused.
    """
    config = folder / "config.yaml"
    if not config.exists():
        own = ("checkpoints", "env.json")
        if folder.is_dir() and any(
            path.name not in own and path.suffix != ".part" for path in folder.iterdir()
        ):
            raise UsageError(
                f"{folder} is not empty and not a run folder: choose another with --out"
            )
        return False
    if record_from(load_recipe(config)) != record:
        raise UsageError(
            f"{folder} holds another run (its config.yaml differs): choose another folder with --out"
        )
    if not (folder / "scores.json").exists() and not resume:
        raise UsageError(f"{folder} holds this run, unfinished: {resume_hint(folder)}")
    return (folder / "scores.json").exists()


def open_folder(record: Record, folder: Path, *, device: torch.device, precision: str) -> None:
    """Make the run folder, or clear what a killed process left half-written. `config.yaml` comes
    last: it makes a run.

    A run that is taken up again says so in `env.json`, with the commit, versions and device it goes
    on with.
    """
    config, env = folder / "config.yaml", folder / "env.json"
    now = {
        **describe_environment(seed=record.seed, device=device),
        "precision": precision,
        **_teacher_hash(record),
    }
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for part in (*folder.glob(".*.part"), *folder.glob("checkpoints/.*.part")):
            part.unlink()
        if config.exists() and env.exists():
            first = json.loads(env.read_text())
            if first.get("teacher") != now.get("teacher"):
                raise UsageError(
                    f"the network of the teacher {record.teacher} is not the one that {folder} began with"
                )
            now = {**first, "resumed": [*first.get("resumed", []), now]}
        write_json(env, now)
        if not config.exists():
            write_text(config, to_yaml(record))
    except OSError as error:
        raise UsageError(f"cannot write the run folder {folder}: {error.strerror}") from error


def _teacher_hash(record: Record) -> dict[str, str]:
    """What tells the teacher's weights from any others."""
    if record.teacher is None:
        return {}
    return {"teacher": content_hash(weights_file(record.teacher).read_bytes())}


def build(record: Record, phase: Phase, splits: Splits) -> tuple[StepModel, dict[str, Any]]:
    """The network of a phase, its weights drawn from the seed, and the arguments that make it
    again.
    """
    shape = tuple(splits.train[0][0].shape)
    if len(shape) != 4:
        raise UsageError(f"a sample must be frames (T, P, H, W), the first one is {shape}")
    _, planes, size, width = shape
    if size != width:
        raise UsageError(f"a sample must be square frames, the first one is {shape}")
    made_by = {
        "name": record.model.name,
        "num_classes": len(splits.classes),
        "in_planes": int(planes),
        "input_size": int(size),
        "neuron": record.model.neuron if phase.neuron is None else phase.neuron,
        **model_options(record),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(record.seed, "weights", phase.name))
        model = create_model(**made_by)
    model.recompute = record.engine.recompute
    return model, made_by


def rehearse(record: Record, method: Method, splits: Splits) -> None:
    """One recording through the network of every phase, as training and the test will show it: what cannot work there, like frames that a recording does not have, is refused now and
    not after hours.
    """
    frames = splits.train[0][0]
    x, steps = torch.as_tensor(np.array(frames)).float()[:, None], len(frames)
    for phase in method.phases():
        model, _ = build(record, phase, splits)
        seen = {
            "frames": phase.frames,
            "teacher_frames": slice(None) if phase.teacher is None else phase.teacher_frames,
        }
        for name, part in seen.items():
            if max(part.start or 0, (part.stop or 1) - 1) >= steps:
                span = f"[{part.start or 0}, {part.stop}]"
                raise UsageError(
                    f"phase {phase.name!r}: {name} {span} are not within the {steps} frames of a recording"
                )
            if not len(x[: record.train.steps][part]):
                raise UsageError(
                    f"train.steps {record.train.steps} leaves phase {phase.name!r} without {name}"
                )
        with torch.inference_mode():
            model.eval()(x[phase.frames])
        if phase.start_from is not None:
            fold_scales_(model)
        if OTHER_RUN in (phase.start_from, phase.teacher):
            load_teacher(record, phase, model, splits)


def load_teacher(record: Record, phase: Phase, student: StepModel, splits: Splits) -> StepModel:
    """The network of another run, for `phase`. Errors: it sees other frames or knows other classes
    than the student; it learnt from another split of the same data, so perhaps from the test
    samples; the phase starts from it and it is an SNN already.
    """
    folder = record.teacher or ""
    teacher = load_model(folder)
    places = weights_file(folder).resolve().parents[:2]  # the run folder, or its checkpoints/
    scores = next(
        (place / "scores.json" for place in places if (place / "scores.json").exists()), None
    )
    known = (
        {"protocol": "", "protocol_hash": ""} if scores is None else json.loads(scores.read_text())
    )
    same_data = known["protocol"].partition("/")[0] == splits.protocol.partition("/")[0]
    if same_data and known["protocol_hash"] != splits.protocol_hash:
        theirs, ours = (
            f"{known['protocol']} ({known['protocol_hash']})",
            f"{splits.protocol} ({splits.protocol_hash})",
        )
        raise UsageError(
            f"teacher: {folder} learnt from the split {theirs}, not {ours}: it may know the test samples"
        )
    if phase.start_from == OTHER_RUN and any(
        isinstance(module, ClippedIF) for module in teacher.modules()
    ):
        raise UsageError(
            f"teacher: {folder} is an SNN already; the ANN of an hsd run is its checkpoints/ann.safetensors"
        )
    for what in ("frame_shape", "num_classes"):
        if getattr(teacher, what) != getattr(student, what):
            raise UsageError(
                f"teacher: the network of {folder} has {what} {getattr(teacher, what)}, the student {getattr(student, what)}"
            )
    return teacher


def _work(fabric: Any, record: Record, method: Method, folder: Path) -> None:
    """One process of a run: every phase in order, then, in the first process, the test."""
    splits = load_splits(record)
    last = folder / "checkpoints" / "last.pt"
    saved: dict[str, Any] = load_training(last) if last.exists() else {"phase": 0, "networks": {}}
    networks: dict[str, nn.Module] = {}
    for number, phase in enumerate(method.phases()):
        model, made_by = build(record, phase, splits)
        networks[phase.name] = model
        if phase.name in saved["networks"]:
            model.load_state_dict(saved["networks"][phase.name])
            continue
        if OTHER_RUN in (phase.start_from, phase.teacher):
            networks[OTHER_RUN] = load_teacher(record, phase, model, splits)
        state = start_phase(model.to(fabric.device), record.train, phase=phase, networks=networks)
        keeper = Keeper(record, folder, number, state, saved, fabric)
        fit(
            state,
            splits.train,
            method=method,
            plan=record.train,
            seed=record.seed,
            augment=augmentation_of(record, splits),
            validation=splits.val,
            fabric=fabric,
            on_epoch=keeper.on_epoch,
        )
        saved = keeper.finish(model, phase)
        if fabric.is_global_zero and number + 1 < len(method.phases()):
            save_model(folder / "checkpoints" / f"{phase.name}.safetensors", model, made_by=made_by)
    if fabric.is_global_zero:
        save_model(folder / "model.safetensors", model, made_by=made_by)
        _test(model, splits, phase, folder, record)


class Keeper:
    """What a run folder keeps of a phase: log and checkpoint after each epoch, and the best network
    if asked for.
    """

    def __init__(
        self,
        record: Record,
        folder: Path,
        number: int,
        state: TrainState,
        saved: dict[str, Any],
        fabric: Any,
    ) -> None:
        self.record, self.folder, self.number, self.fabric = record, folder, number, fabric
        self.before = {"networks": saved["networks"], "history": saved.get("history", [])}
        self.best: dict[str, Any] = {}
        if saved["phase"] == number and "model" in saved:
            state.model.load_state_dict(saved["model"])
            state.optimizer.load_state_dict(saved["optimizer"])
            state.epoch, self.best = saved["epoch"], saved["best"]
        self.history = list(self.before["history"])
        self.lines: EpochLines | None = None
        if fabric.is_global_zero:
            epochs, resumed_at = phase_epochs(state.phase, record.train), len(self.history)
            self.lines = EpochLines(
                folder, epochs=epochs, tensorboard=record.tensorboard, resumed_at=resumed_at
            )

    def on_epoch(self, state: TrainState, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self.record.select == "best" and row["val_acc"] > self.best.get("val_acc", -1.0):
            weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
            self.best = {"epoch": row["epoch"], "val_acc": row["val_acc"], "model": weights}
        if self.lines is not None:
            self._save(
                {
                    "model": state.model.state_dict(),
                    "optimizer": state.optimizer.state_dict(),
                    "epoch": state.epoch,
                }
            )
            self.lines.show(row)

    def _save(self, now: dict[str, Any], **instead: Any) -> None:
        """The log first: a process killed between the two leaves a log that is ahead, and the same
        line is written again.
        """
        write_text(
            self.folder / "log.jsonl", "".join(json.dumps(each) + "\n" for each in self.history)
        )
        content = {
            "phase": self.number,
            "history": self.history,
            "networks": self.before["networks"],
            "best": self.best,
        }
        save_training(self.folder / "checkpoints" / "last.pt", {**content, **now, **instead})

    def finish(self, model: nn.Module, phase: Phase) -> dict[str, Any]:
        """Close the phase: the chosen network becomes one that later phases can start from or learn
        from.
        """
        if self.best:
            model.load_state_dict(self.best["model"])
        self.before["networks"] = {**self.before["networks"], phase.name: model.state_dict()}
        self.best = {}
        done = {
            "phase": self.number + 1,
            "networks": self.before["networks"],
            "history": self.history,
        }
        if self.lines is not None:
            self.lines.close()
            self._save({}, phase=self.number + 1)
        return done


def _test(model: StepModel, splits: Splits, phase: Phase, folder: Path, record: Record) -> None:
    """Read the split that judges the run, once, and write what the network said and how good that
    is. `scores.json` comes
    last: a run folder that has it is finished.
    """
    outputs, fused = judge(model, splits, phase, record, features=FEATURES)
    judged = judged_on(splits, record)
    shown = (
        0 if outputs.lengths is None else int(outputs.lengths.argmax())
    )  # of the longest, every step can be shown
    lengths: dict[str, Any] = {} if outputs.lengths is None else {"lengths": outputs.lengths}
    with atomic_path(folder / "outputs.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            logits=outputs.logits,
            labels=outputs.labels,
            ids=np.arange(len(judged)) if judged.ids is None else judged.ids,
            features=outputs.features,
            example_frames=np.asarray(judged[shown][0])[phase.frames],
            example_index=shown,
            **lengths,
        )
    write_json(
        folder / "scores.json", {**scores_of(outputs, splits, phase, record), "fused": fused}
    )


def judge(
    model: StepModel, splits: Splits, phase: Phase, record: Record, *, features: int = 0
) -> tuple[Outputs, bool | str]:
    """What the network says of the split that judges it, and whether that was the network fused for
    inference, as it is deployed, or why it could not be (`fuse.fuse_model`).
    """
    reason, plan = why_not_fusable(model.eval()), record.train
    network = model if reason else fuse_model(model)
    dataset = judged_on(splits, record)
    outputs = collect(
        network,
        dataset,
        batch_size=plan.batch_size,
        workers=plan.workers,
        frames=phase.frames,
        features=features,
    )
    return outputs, reason or True


def judged_on(splits: Splits, record: Record) -> DataSet:
    """The split whose recordings judge the run: test, unless it is still being tuned."""
    return splits.val if record.judge == "val" else splits.test


def scores_of(outputs: Outputs, splits: Splits, phase: Phase, record: Record) -> dict[str, Any]:
    """`evaluate.score` with what a number must carry: protocol, its hash, the classes, and what a
    prefix means.

    `frames` are those of the recording that the network was shown, from 0. Step t of a network that
    is shown the second half of a recording is not what a device has seen after t frames, and
    `prefix` says so.
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


def evaluate_run(folder: Path | str) -> dict[str, Any]:
    """Judge a finished run's network again on its test split: the scores, computed from the weights
    on disk.
    """
    folder = Path(folder)
    record = read_record(folder)
    model = load_model(folder)
    splits = load_splits(record)
    phase = create_method(record.method.name, **record.method.options).phases()[-1]
    outputs, fused = judge(model, splits, phase, record)
    return {**scores_of(outputs, splits, phase, record), "fused": fused}


def read_record(folder: Path) -> Record:
    """The record of a run folder. Error: no run folder."""
    if not (folder / "config.yaml").exists():
        raise UsageError(f"{folder} is not a run folder: it has no config.yaml")
    return record_from(load_recipe(folder / "config.yaml"))


def default_folder(record: Record) -> Path:
    """Where a run goes when nobody says: runs/NAME-METHOD-seedN."""
    return Path("runs") / f"{record.name}-{record.method.name}-seed{record.seed}"

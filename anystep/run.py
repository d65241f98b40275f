"""The main path, top to bottom: record -> data -> model -> method -> fit -> score -> run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anystep._files import atomic_path, write_json, write_text
from anystep._lookup import check_arguments, choose
from anystep.checkpoint import copy_weights, load_model, load_training, save_model, save_training
from anystep.config import Record, load_recipe, record_from, to_yaml
from anystep.console import EpochLines, ProgressBar
from anystep.data.datasets import DATASETS, Splits, load_dataset
from anystep.data.frames import BINNINGS, Binning
from anystep.data.loader import derive_seed
from anystep.environment import describe_environment
from anystep.evaluate import Outputs, collect, score
from anystep.methods import Method, Phase, create_method
from anystep.models import create_model, name_and_options
from anystep.models.base import StepModel
from anystep.train import TrainState, fit, make_fabric, phase_epochs, start

FEATURES = 1000  # penultimate features kept for the report's t-SNE


def run_record(record: Record, folder: Path | str, *, resume: bool = False) -> dict[str, Any]:
    """Train what `record` says into `folder` and judge it once on the test split: the scores, also in `scores.json`.

    With `resume` the folder's own checkpoint is taken up, and the result is bit-identical to an uninterrupted run; a folder
    that is finished is left as it is. Errors: a folder that holds another run, or that cannot be written; whatever the
    record's parts refuse, before any training starts.
    """
    folder = Path(folder)
    method = check(record)
    if is_finished(record, folder, resume=resume):
        return json.loads((folder / "scores.json").read_text())
    engine = record.engine
    fabric = make_fabric(
        accelerator=engine.accelerator, devices=engine.devices, precision=engine.precision, callbacks=[ProgressBar()]
    )
    open_folder(record, folder, device=fabric.device)
    _launch(fabric, record, method, folder)
    return json.loads((folder / "scores.json").read_text())


def _launch(fabric: Any, record: Record, method: Method, folder: Path) -> None:
    """Run `_work` in every process of `fabric`; what stops it says how to go on, and leaves no process behind."""
    others = set(torch.multiprocessing.active_children())
    try:
        load_splits(record)  # build the frame cache once, before there are several processes
        fabric.launch(partial(_work, record=record, method=method, folder=folder))  # Fabric takes frozen arguments apart
    except torch.multiprocessing.ProcessRaisedException as error:
        raise RuntimeError(f"a worker failed: {error.msg.strip().splitlines()[-1]}\n{resume_hint(folder)}") from error
    except torch.multiprocessing.ProcessExitedException as error:
        raise RuntimeError(f"a worker was killed, the others were stopped ({error})\n{resume_hint(folder)}") from error
    except OSError as error:
        raise OSError(f"{error}\n{resume_hint(folder)}") from error
    except KeyboardInterrupt:
        for worker in set(torch.multiprocessing.active_children()) - others:
            worker.terminate()  # Python would wait for them at its end
        raise KeyboardInterrupt(resume_hint(folder)) from None


def resume_hint(folder: Path) -> str:
    """How to go on with a run that stopped."""
    return f"go on with: anystep train --resume {folder}"


def check(record: Record) -> Method:
    """Refuse by name what cannot work, before data are read or time is spent. Returns the record's method."""
    method = create_method(record.method.name, **record.method.options)
    data, size, devices = record.data, record.train.batch_size, record.engine.devices
    make_binning(data.binning)
    _refuse(data.options, ("binning", "cache", "workers"), "data.options")
    _refuse(record.model.options, ("name", "num_classes", "in_planes", "input_size", "neuron", "norm"), "model.options")
    check_arguments(choose(DATASETS, data.name, "dataset"), data.options, f"dataset {data.name}")
    epochs = [phase_epochs(phase, record.train) for phase in method.phases()]
    if sum(epochs) != record.train.epochs:
        shares = " + ".join(map(str, epochs))
        raise ValueError(f"train.epochs {record.train.epochs} cannot be shared by the phases of {record.method.name}: {shares}")
    if record.engine.precision == "16-mixed":
        raise ValueError("engine.precision 16-mixed has a loss scale that a checkpoint does not hold: use bf16-mixed")
    if devices < 1 or size % devices:
        raise ValueError(f"engine.devices must be >= 1 and share train.batch_size {size} equally, got {devices}")
    for phase in method.phases():
        neuron = record.model.neuron if phase.neuron is None else phase.neuron
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            create_model(record.model.name, num_classes=2, input_size=64, neuron=neuron, **model_options(record))
    return method


def _refuse(options: Mapping[str, Any], decided: Sequence[str], where: str) -> None:
    """Refuse options that something else decides: the data, or a key of their own."""
    for key in decided:
        if key in options:
            raise ValueError(f"{where}: {key!r} is not an option, the data or another key of the recipe decide it")


def model_options(record: Record) -> dict[str, Any]:
    """The arguments of `create_model` that the data do not decide."""
    return {"norm": record.model.norm, **record.model.options}


def make_binning(spec: str | dict[str, Any]) -> Binning:
    """A binning from its name and arguments."""
    name, options = name_and_options(spec)
    kind = choose(BINNINGS, name, "binning")
    check_arguments(kind, options, f"binning {name}", complete=True)
    return kind(**options)


def load_splits(record: Record) -> Splits:
    """The record's data: train, validation and test."""
    data = record.data
    return load_dataset(data.name, binning=make_binning(data.binning), cache=data.cache, **data.options)


def is_finished(record: Record, folder: Path, *, resume: bool) -> bool:
    """True if `folder` holds this very run, finished; False if the run can begin or go on there. Anything else is refused."""
    config = folder / "config.yaml"
    if not config.exists():
        own = ("checkpoints", "env.json")
        if folder.is_dir() and any(path.name not in own and path.suffix != ".part" for path in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and not a run folder: choose another with --out")
        return False
    if record_from(load_recipe(config)) != record:
        raise ValueError(f"{folder} holds another run (its config.yaml differs): choose another folder with --out")
    if not (folder / "scores.json").exists() and not resume:
        raise ValueError(f"{folder} holds this run, unfinished: {resume_hint(folder)}")
    return (folder / "scores.json").exists()


def open_folder(record: Record, folder: Path, *, device: torch.device) -> None:
    """Make the run folder, or clear what a killed process left half-written. `config.yaml` comes last: it makes a run.

    A run that is taken up again says so in `env.json`, with the commit, versions and device it goes on with.
    """
    config, env = folder / "config.yaml", folder / "env.json"
    now = describe_environment(seed=record.seed, device=device)
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for part in (*folder.glob(".*.part"), *folder.glob("checkpoints/.*.part")):
            part.unlink()
        if config.exists() and env.exists():
            first = json.loads(env.read_text())
            now = {**first, "resumed": [*first.get("resumed", []), now]}
        write_json(env, now)
        if not config.exists():
            write_text(config, to_yaml(record))
    except OSError as error:
        raise ValueError(f"cannot write the run folder {folder}: {error.strerror}") from error


def build(record: Record, phase: Phase, splits: Splits) -> tuple[StepModel, dict[str, Any]]:
    """The network of a phase, its weights drawn from the seed, and the arguments that make it again."""
    shape = tuple(splits.train[0][0].shape)
    if len(shape) != 4:
        raise ValueError(f"a sample must be frames (T, P, H, W), the first one is {shape}")
    _, planes, size, _ = shape
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
        return create_model(**made_by), made_by


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
        if phase.start_from is not None:
            copy_weights(networks[phase.start_from].state_dict(), model)
        teacher = None if phase.teacher is None else networks[phase.teacher]
        state = start(model.to(fabric.device), record.train, phase=phase, teacher=teacher)
        keeper = Keeper(record, folder, number, state, saved, fabric)
        fit(
            state,
            splits.train,
            method=method,
            plan=record.train,
            seed=record.seed,
            validation=splits.val,
            fabric=fabric,
            on_epoch=keeper.on_epoch,
        )
        saved = keeper.finish(model)
    if fabric.is_global_zero:
        save_model(folder / "model.safetensors", model, made_by=made_by)
        _test(model, splits, phase, folder, record)
    fabric.barrier()


class Keeper:
    """What a run folder keeps of a phase: log and checkpoint after each epoch, and the best network if asked for."""

    def __init__(
        self, record: Record, folder: Path, number: int, state: TrainState, saved: dict[str, Any], fabric: Any
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
            self.lines = EpochLines(folder, epochs=epochs, tensorboard=record.tensorboard, resumed_at=resumed_at)

    def on_epoch(self, state: TrainState, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self.record.select == "best" and row["val_acc"] > self.best.get("val_acc", -1.0):
            weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
            self.best = {"epoch": row["epoch"], "val_acc": row["val_acc"], "model": weights}
        if self.lines is not None:
            self._save({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict(), "epoch": state.epoch})
            self.lines.show(row)

    def _save(self, now: dict[str, Any], **instead: Any) -> None:
        """The log first: a process killed between the two leaves a log that is ahead, and the same line is written again."""
        write_text(self.folder / "log.jsonl", "".join(json.dumps(each) + "\n" for each in self.history))
        content = {"phase": self.number, "history": self.history, "networks": self.before["networks"], "best": self.best}
        save_training(self.folder / "checkpoints" / "last.pt", {**content, **now, **instead})

    def finish(self, model: nn.Module) -> dict[str, Any]:
        """Close the phase: the chosen network becomes one that later phases can start from or learn from."""
        if self.best:
            model.load_state_dict(self.best["model"])
        name = self.history[-1]["phase"]
        self.before["networks"] = {**self.before["networks"], name: model.state_dict()}
        self.best = {}
        done = {"phase": self.number + 1, "networks": self.before["networks"], "history": self.history}
        if self.lines is not None:
            self.lines.close()
            self._save({}, phase=self.number + 1)
        return done


def _test(model: StepModel, splits: Splits, phase: Phase, folder: Path, record: Record) -> None:
    """Read the test split, once, and write what the network said and how good that is. `scores.json` comes last: a run
    folder that has it is finished."""
    plan = record.train
    outputs = collect(
        model, splits.test, batch_size=plan.batch_size, workers=plan.workers, frames=phase.frames, features=FEATURES
    )
    recording = np.asarray(splits.test[0][0])
    with atomic_path(folder / "outputs.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            logits=outputs.logits,
            labels=outputs.labels,
            ids=np.asarray(getattr(splits.test, "ids", np.arange(len(outputs.labels)))),
            features=outputs.features,
            example_frames=recording[phase.frames],
            example_index=0,
        )
    write_json(folder / "scores.json", scores_of(outputs, splits, range(len(recording))[phase.frames]))


def scores_of(outputs: Outputs, splits: Splits, seen: Sequence[int]) -> dict[str, Any]:
    """`evaluate.score` with what a number must carry: protocol, its hash, the classes, and what a prefix means.

    `seen` are the frames of the recording that the network was shown, from 0. Step t of a network that is shown the second
    half of a recording is not what a device has seen after t frames, and `prefix` says so.
    """
    late = f", from frame {seen[0] + 1}" if seen[0] else ""
    return {
        "protocol": splits.protocol,
        "protocol_hash": splits.protocol_hash,
        "classes": list(splits.classes),
        "prefix": ("live" if splits.causal else "hindsight bins") + late,
        "frames": list(seen),
        "binning": splits.binning,
        **score(outputs),
    }


def evaluate_run(folder: Path | str) -> dict[str, Any]:
    """Judge a finished run's network again on its test split: the scores, computed from the weights on disk."""
    folder = Path(folder)
    record = read_record(folder)
    model = load_model(folder)
    splits = load_splits(record)
    phase = check(record).phases()[-1]
    plan = record.train
    outputs = collect(model, splits.test, batch_size=plan.batch_size, workers=plan.workers, frames=phase.frames)
    return scores_of(outputs, splits, range(len(splits.test[0][0]))[phase.frames])


def read_record(folder: Path) -> Record:
    """The record of a run folder. Error: no run folder."""
    if not (folder / "config.yaml").exists():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    return record_from(load_recipe(folder / "config.yaml"))


def default_folder(record: Record) -> Path:
    """Where a run goes when nobody says: runs/NAME-METHOD-seedN."""
    return Path("runs") / f"{record.name}-{record.method.name}-seed{record.seed}"

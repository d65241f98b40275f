"""What lies in a run folder, written and read. No other file of the package names these files:

    config.yaml                    the record: a folder that has it is a run folder
    env.json                       commit, versions, device, command line, at each (re)start
    log.jsonl                      a row an epoch
    checkpoints/last.pt            the training state after the last whole epoch
    checkpoints/PHASE.safetensors  the network of an earlier phase
    model.safetensors              the trained network
    outputs.npz                    what it said of every test sample
    scores.json                    how good that is: a run that has it is finished
    exit.json                      when a sample may leave early, if that was calibrated
    tensorboard/                   the log again, if the record asks for it

Every file appears whole or not at all, so a run that is killed at any moment can go on.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep._files import Json, atomic_path, write_bytes, write_json, write_text
from anystep.config import Record, load_recipe, record_from, to_yaml
from anystep.console import EpochLines
from anystep.evaluation.report import page
from anystep.evaluation.report.runs import RunRecord

if TYPE_CHECKING:  # a report needs no torch
    from anystep.nn.models.base import StepModel
    from anystep.training.fit import TrainState

Contents = TypeVar("Contents")


def _read_json(path: Path) -> Json:
    return json.loads(path.read_text("utf-8"))


def _read_lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _whole(path: Path, read: Callable[[Path], Contents]) -> Contents:
    """What `read` makes of a file of the run folder. Error: it is missing or truncated, by name."""
    if not path.is_file():
        raise UsageError(f"{path} is missing: the run folder is not whole")
    try:
        return read(path)
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise UsageError(f"{path} is truncated or not what it should be: {error}") from error


class RunFolder:
    """One run on disk; it need not exist yet."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.tensorboard = self.path / "tensorboard"
        self._config = self.path / "config.yaml"
        self._env = self.path / "env.json"
        self._log = self.path / "log.jsonl"
        self._checkpoints = self.path / "checkpoints"
        self._last = self._checkpoints / "last.pt"
        self._network = self.path / "model.safetensors"
        self._outputs = self.path / "outputs.npz"
        self._scores = self.path / "scores.json"
        self._exit = self.path / "exit.json"

    @property
    def begun(self) -> bool:
        """Whether it is a run folder, finished or not."""
        return self._config.exists()

    @property
    def finished(self) -> bool:
        """Whether its run has come to its end."""
        return self._scores.exists()

    @property
    def name(self) -> str:
        """What it is called where several train."""
        return self.path.resolve().name

    @property
    def way_on(self) -> str:
        """How to go on with a run that stopped."""
        return f"go on with: anystep train --resume {self.path}"

    # Beginning and going on

    def check_free(self, record: Record, *, resume: bool) -> None:
        """Refuse a folder that holds something else, or this run unfinished unless `resume`."""
        name = str(self.path)
        if not self.finished and name != name.encode(errors="replace").decode():
            why = "is no UTF-8, as safetensors and TensorBoard need it"
            raise UsageError(f"{name} {why}: choose another with --out")
        if not self.begun:
            own = (self._checkpoints.name, self._env.name)  # written before the record is
            inside = self.path.iterdir() if self.path.is_dir() else ()
            if any(each.name not in own and each.suffix != ".part" for each in inside):
                what = "is not empty and not a run folder"
                raise UsageError(f"{self.path} {what}: choose another with --out")
        elif self.read_record() != record:
            what = "holds another run (its config.yaml differs)"
            raise UsageError(f"{self.path} {what}: choose another folder with --out")
        elif not self.finished and not resume:
            raise UsageError(f"{self.path} holds this run, unfinished: {self.way_on}")

    def open(self, record: Record, environment: Json) -> None:
        """Make the folder, or clear what a killed process left half-written.

        The record is written last: it makes a run. A run that is taken up again adds `environment`
        to that of its beginning. Error: a teacher that is not the first one.
        """
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            for half in (*self.path.glob(".*.part"), *self._checkpoints.glob(".*.part")):
                half.unlink()
            if self.begun:
                first = self.read_environment()
                if first.get("teacher") != environment.get("teacher"):
                    what = f"the network of the teacher {record.teacher}"
                    raise UsageError(f"{what} is not the one that {self.path} began with")
                environment = {**first, "resumed": [*first.get("resumed", []), environment]}
            write_json(self._env, environment)
            if not self.begun:
                write_text(self._config, to_yaml(record))
        except OSError as error:
            what = f"cannot write the run folder {self.path}"
            raise UsageError(f"{what}: {error.strerror}") from error

    def read_record(self) -> Record:
        """The record of the run. Error: no run folder."""
        return record_from(self._read_recipe())

    def _read_recipe(self) -> Json:
        if not self.begun:
            raise UsageError(f"{self.path} is not a run folder: it has no {self._config.name}")
        return load_recipe(self._config)

    def read_environment(self) -> Json:
        """Where the run was made: commit, versions, device, command line."""
        return _whole(self._env, _read_json)

    # While it trains

    def save_training(self, state: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Write the log and the training state, of tensors and plain Python values.

        Error: `OSError` with the path, for a full disk say; the state before is then still there.
        """
        import torch

        # First, as a log that is one epoch ahead does no harm: the same row is written again
        write_text(self._log, "".join(json.dumps(row) + "\n" for row in history))
        # torch reports a full disk as an internal error of its zip writer, so it writes to memory
        content = io.BytesIO()
        torch.save({**state, "history": history}, content)
        write_bytes(self._last, content.getbuffer())

    def load_training(self) -> Json | None:
        """The training state, None if there is none yet. No code in it is run."""
        import torch

        if not self._last.exists():
            return None
        content = io.BytesIO(self._last.read_bytes())
        try:
            return torch.load(content, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            reason = str(error).partition("\n")[0] or "it ends too early"
            way_out = "delete it, and --resume starts at the first epoch"
            problem = f"{self._last} is truncated or not a checkpoint"
            raise UsageError(f"{problem}: {way_out} ({reason})") from error

    def save_network(self, model: StepModel, *, phase: str | None = None) -> None:
        """Write the trained network, or that of an earlier `phase`."""
        from anystep.nn.weights import save_model

        path = self._network if phase is None else self._checkpoints / f"{phase}.safetensors"
        save_model(path, model)

    # When it is finished

    def write_results(self, outputs: Mapping[str, ArrayLike], scores: Mapping[str, Any]) -> None:
        """Write what the network said and how good that is. With the scores a run is finished."""
        with atomic_path(self._outputs) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **outputs)  # type: ignore[arg-type]
        write_json(self._scores, scores)

    def read_scores(self) -> Json:
        """How good the network is on the samples that judge it. Error: an unfinished run."""
        return _whole(self._scores, _read_json)

    def write_exit(self, rule: Mapping[str, Any]) -> None:
        """Keep when a sample may leave early."""
        write_json(self._exit, rule)

    def read_exit(self) -> dict[str, Any] | None:
        """When a sample may leave early, None if nobody has calibrated that."""
        return _read_json(self._exit) if self._exit.exists() else None

    def read(self, *, label: str | None = None) -> RunRecord:
        """All that a report shows of the finished run, called `label` or by the folder's name."""
        recipe = self._read_recipe()
        if not self.finished:
            what = f"is an unfinished run: it has no {self._scores.name}"
            raise UsageError(f"{self.path} {what}; {self.way_on}")
        return RunRecord(
            label=label or self.name,
            config=recipe,
            env=self.read_environment(),
            log=_whole(self._log, _read_lines),
            scores=self.read_scores(),
            outputs=_whole(self._outputs, _read_arrays),
        )


class CheckpointWriter:
    """Keeps the log and a checkpoint after each epoch of a phase, and the best network if asked.

    It begins where the checkpoint `saved` ends. `epochs_to_show` is None in all processes but the
    first, which alone writes and prints.
    """

    def __init__(
        self,
        place: RunFolder,
        record: Record,
        number: int,
        state: TrainState,
        saved: Mapping[str, Any],
        *,
        epochs_to_show: int | None,
    ) -> None:
        self.place, self.record, self.number = place, record, number
        self.networks, self.history = saved["networks"], list(saved["history"])
        self.best: Json = {}
        if saved["phase"] == number and "model" in saved:
            state.model.load_state_dict(saved["model"])
            state.optimizer.load_state_dict(saved["optimizer"])
            state.epoch, self.best = saved["epoch"], saved["best"]
        self.lines: EpochLines | None = None
        if epochs_to_show is not None:
            self.lines = EpochLines(
                run=place.name,
                epochs=epochs_to_show,
                tensorboard=place.tensorboard if record.tensorboard else None,
                resumed_at=len(self.history),
            )

    def on_epoch(self, state: TrainState, row: Json) -> None:
        """Keep what an epoch made."""
        self.history.append(row)
        if self.record.select == "best" and row["val_acc"] > self.best.get("val_acc", -1.0):
            weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
            self.best = {"epoch": row["epoch"], "val_acc": row["val_acc"], "model": weights}
        if self.lines is not None:
            now = {"phase": self.number, "networks": self.networks, "best": self.best}
            now |= {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
            self.place.save_training({**now, "epoch": state.epoch}, self.history)
            self.lines.show(row)

    def finish(self, state: TrainState) -> Json:
        """Close the phase: later ones can start from its chosen network or learn from it."""
        if self.best:
            state.model.load_state_dict(self.best["model"])
        networks = {**self.networks, state.phase.name: state.model.state_dict()}
        done = {"phase": self.number + 1, "networks": networks, "best": {}}
        if self.lines is not None:
            self.lines.close()
            self.place.save_training(done, self.history)
        return {**done, "history": self.history}


def weights_file(path: Path | str) -> Path:
    """The file of weights that a run folder, or the file itself, stands for. It need not exist."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else RunFolder(path)._network


def load_model(path: Path | str) -> StepModel:
    """The network of a run folder or of a file of weights, in eval mode on the CPU.

    Error: a missing, truncated or foreign file, by its path, and how its run writes it again.
    """
    from anystep.nn.weights import read_model

    file = weights_file(path)
    try:
        return read_model(file)
    except (UsageError, FileNotFoundError) as error:
        problem, folder = (
            error if file.exists() else f"{file} does not exist",
            RunFolder(file.parent),
        )
        way_out = "it is not in a run folder that could make it again"
        if folder.begun:
            spoilt = [each.name for each in (file, folder._scores) if each.exists()]
            way_out = (f"delete {' and '.join(spoilt)}, then " if spoilt else "") + folder.way_on
        raise UsageError(f"{problem}: {way_out}") from error


def scores_beside(weights: Path | str) -> Json | None:
    """The scores of the run that a file of weights belongs to, None where there are none."""
    file = weights_file(weights).resolve()
    for place in map(RunFolder, (file.parent, file.parent.parent)):  # or it is in checkpoints/
        if place.finished:
            return place.read_scores()
    return None


def runs_in(place: Path | str) -> list[Path]:
    """The run folder itself, or the run folders directly inside a folder of them."""
    place = Path(place)
    inside = [each for each in sorted(place.glob("*")) if RunFolder(each).begun]
    return inside if inside and not RunFolder(place).begun else [place]


def read_runs(runs: Iterable[Path | str]) -> list[RunRecord]:
    """Finished run folders that share a page, whole, by their names or paths where names repeat.

    Error: runs of different classes.
    """
    folders = [Path(run).resolve() for run in runs]
    if not folders or len(set(folders)) < len(folders):
        named = ", ".join(map(str, folders)) or "none"
        raise UsageError(f"a report needs run folders, each once; these are named: {named}")
    labels = [folder.name for folder in folders]
    if len(set(labels)) < len(labels):
        top = os.path.commonpath(folders)
        labels = [folder.relative_to(top).as_posix() for folder in folders]
    pairs = zip(folders, labels, strict=True)
    records = [RunFolder(folder).read(label=label) for folder, label in pairs]
    for record in records:
        if record.scores["classes"] != records[0].scores["classes"]:
            pair = f"{records[0].label} and {record.label}"
            raise UsageError(f"{pair} do not have the same classes: each needs its own report")
    return records


def write_report(runs: Sequence[Path | str], out: Path | str, *, title: str | None = None) -> Path:
    """Write one self-contained HTML page about finished run folders and return its path.

    What makes the comparison unfair stands at the top. Error: an unfinished run.
    """
    return page.write_report(read_runs(runs), out, title=title)

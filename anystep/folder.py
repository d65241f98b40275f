"""What lies in a run folder, written and read. No other file of the package names these files:

    config.yaml                    the record: a folder that has it is a run folder
    env.json                       commit, versions, device, command line, at each (re)start
    log.jsonl                      a row an epoch
    checkpoints/last.pt            the training state after the last whole epoch
    checkpoints/PHASE.safetensors  the network of an earlier phase
    model.safetensors              the trained network
    outputs.npz                    what it said of every test sample
    scores.json                    how good that is, and the hashes of the files above: a run that
                                   has it is finished
    exit.json                      when a sample may leave early, if that was calibrated
    tensorboard/                   the log again, if the record asks for it

Every file appears whole or not at all, so a run that is killed at any moment can go on. The scores
are written last: until then nothing is compared, and what a kill left is written anew. Files that
older versions wrote have no hashes, which is no damage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from anystep._errors import UsageError
from anystep._files import Json, atomic_path, content_hash, file_hash, write_json, write_text
from anystep._lock import LOCK, only_one
from anystep.config import Record, load_recipe, record_from, to_yaml
from anystep.console import EpochLines
from anystep.evaluation.report import page
from anystep.evaluation.report.runs import (
    RunRecord,
    check_config,
    check_environment,
    check_log,
    check_outputs,
    check_scores,
)
from anystep.intact import intact, read_arrays, read_json, read_lines, read_state, write_state

if TYPE_CHECKING:  # a report needs no torch
    from anystep.nn.models.base import StepModel
    from anystep.training.fit import TrainState

Contents = TypeVar("Contents")


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
        """Whether it is a run folder, finished or not. A pretrained network (about.json) is not."""
        return self._config.exists() and not (self.path / "about.json").exists()

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

    # What the finished run wrote

    def _sealed_scores(self) -> tuple[Json, dict[str, str]]:
        """The scores of the finished run, and the hashes of its other files by name."""
        scores = intact(self._scores, read_json)
        if not isinstance(hashes := scores.pop("files", {}), dict):
            raise UsageError(f"{self._scores} is damaged: its 'files' are no mapping")
        own = hashes.pop(self._scores.name, None)
        if own not in (None, content_hash(scores, hashes)):
            raise UsageError(f"{self._scores} is damaged or was edited: it does not fit its hash")
        return scores, hashes

    def check_hash(self, path: Path) -> None:
        """Refuse a file of the finished run that is not the one that it wrote."""
        hashes = self._sealed_scores()[1] if self.finished else {}
        written = hashes.get(path.relative_to(self.path).as_posix())
        if written not in (None, file_hash(path)):
            what = "is damaged, edited or another run's: its hash is not the one that"
            raise UsageError(f"{path} {what} {self._scores} has")

    def _read(self, path: Path, read: Callable[[Path], Contents]) -> Contents:
        contents = intact(path, read)
        self.check_hash(path)
        return contents

    # Beginning and going on

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder, made if need be: one process at a time writes. Error: who has it."""
        return only_one(self.path)

    def check_free(self, record: Record, *, resume: bool) -> None:
        """Refuse a folder that holds something else, or this run unfinished unless `resume`."""
        name = str(self.path)
        if not self.finished and name != name.encode(errors="replace").decode():
            why = "is no UTF-8, as safetensors and TensorBoard need it"
            raise UsageError(f"{name} {why}: choose another with --out")
        if not self.begun:
            own = (self._checkpoints.name, self._env.name, LOCK)  # written before the record is
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
        to that of its beginning. Errors: a teacher that is not the first one; a link, through which
        a run would write elsewhere.
        """
        for link in (each for each in self.path.rglob("*") if each.is_symlink()):
            raise UsageError(f"{link} is a link: a run writes into its own folder only")
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
            no = "it is a pretrained network" if self._config.exists() else "it has no config.yaml"
            raise UsageError(f"{self.path} is not a run folder: {no}")
        recipe = load_recipe(self._config)
        self.check_hash(self._config)
        return recipe

    def read_environment(self) -> Json:
        """Where the run was made: commit, versions, device, command line."""
        return self._read(self._env, read_json)

    # While it trains

    def save_training(self, state: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Write the log and the training state, of tensors and plain Python values.

        Error: `OSError` with the path, for a full disk say; the state before is then still there.
        """
        # First, as a log that is one epoch ahead does no harm: the same row is written again
        write_text(self._log, "".join(json.dumps(row) + "\n" for row in history))
        record = file_hash(self._config)
        write_state(self._last, {**state, "history": history, "record": record})

    def load_training(self) -> Json | None:
        """The training state, None if there is none yet. No code in it is run.

        Error: it is damaged, or of another record.
        """
        if not self._last.exists():
            return None
        state = read_state(self._last)
        if state.get("record") not in (None, file_hash(self._config)):
            what = f"{self._last} is of another record than {self._config}"
            raise UsageError(f"{what}: one is another run's or was edited. Put the right one back")
        return state

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """In the block networks take up the training state. Error: it is of other networks."""
        try:
            yield
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"{self._last} does not fit the network of {self._config}: is it another run's?"
            raise UsageError(f"{what} Put the right one back") from error

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
        scores = json.loads(json.dumps(scores))  # as they will be read, so that the hash agrees
        files = [self._config, self._env, self._log, self._network, self._outputs]
        files += sorted(self._checkpoints.glob("*.safetensors"))
        hashes = {path.relative_to(self.path).as_posix(): file_hash(path) for path in files}
        own = {self._scores.name: content_hash(scores, hashes)}
        write_json(self._scores, {**scores, "files": {**hashes, **own}})

    def read_scores(self) -> Json:
        """How good the network is on the samples that judge it. Error: an unfinished run."""
        intact(self._scores, lambda path: check_scores(read_json(path)))
        return self._sealed_scores()[0]

    def write_exit(self, rule: Mapping[str, Any]) -> None:
        """Keep when a sample may leave early."""
        write_json(self._exit, rule)

    def read_exit(self) -> dict[str, Any] | None:
        """When a sample may leave early, None if nobody has calibrated that."""
        return intact(self._exit, read_json) if self._exit.exists() else None

    def read(self, *, label: str | None = None) -> RunRecord:
        """All that a report shows of the finished run, called `label` or by the folder's name."""
        recipe = self._read_recipe()
        if not self.finished:
            what = f"is an unfinished run: it has no {self._scores.name}"
            raise UsageError(f"{self.path} {what}; {self.way_on}")
        scores = self.read_scores()
        intact(self._config, lambda _: check_config(recipe))
        return RunRecord(
            label=label or self.name,
            config=recipe,
            env=self._read(self._env, lambda path: check_environment(read_json(path))),
            log=self._read(self._log, lambda path: check_log(read_lines(path))),
            scores=scores,
            outputs=self._read(self._outputs, lambda p: check_outputs(read_arrays(p), scores)),
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
            with place.fitting():
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


def _run_of(weights: Path) -> RunFolder | None:
    """The run that a file of weights lies in, or in whose checkpoints/."""
    places = map(RunFolder, weights.absolute().parents[:2])
    return next((place for place in places if place.begun or place.finished), None)


def load_model(path: Path | str) -> StepModel:
    """The network of a run folder or of a file of weights, in eval mode on the CPU.

    Error: a missing, truncated or foreign file, by its path, and how its run writes it again.
    """
    from anystep.nn.weights import read_model

    file = weights_file(path)
    place = _run_of(file)
    try:
        model = read_model(file)
        if place is not None:
            place.check_hash(file.absolute())
    except (UsageError, FileNotFoundError) as error:
        problem = error if file.exists() else f"{file} does not exist"
        way_out = "it is not in a run folder that could make it again"
        if place is not None:
            spoilt = [each.name for each in (file, place._scores) if each.exists()]
            way_out = (f"delete {' and '.join(spoilt)}, then " if spoilt else "") + place.way_on
        raise UsageError(f"{problem}: {way_out}") from error
    return model


def scores_beside(weights: Path | str) -> Json | None:
    """The scores of the run that a file of weights belongs to, None where there are none."""
    place = _run_of(weights_file(weights))
    return place.read_scores() if place is not None and place.finished else None


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

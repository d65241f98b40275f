"""`run_record`: what a run folder holds, what is read when, and what is refused before any work."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import drivers
import numpy as np
import pytest
import torch

from anystep import run
from anystep.data.datasets import DATASETS
from anystep.data.frames import FixedDuration
from anystep.folder import RunFolder, load_model
from anystep.preflight import complete
from anystep.run import evaluate_run, run_record
from anystep.training import fit as train

FILES = "config.yaml env.json log.jsonl scores.json outputs.npz model.safetensors"
ENVIRONMENT = "commit dirty versions device cores threads seed command precision"
ROW = "train_loss train_acc parts val_loss val_acc val_acc_first lr"


@pytest.fixture
def recipe(tmp_path, tiny_rows):
    return drivers.write_recipe(tmp_path)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(folder):
    return (folder / "model.safetensors").read_bytes()


class Recording:
    """A data set that remembers which of its items were read; `moments` is shared with the other
    splits.
    """

    def __init__(self, inner, name, moments):
        self.inner, self.name, self.moments = inner, name, moments
        self.ids = inner.ids

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        self.moments.append((self.name, index))
        return self.inner[index]


def test_a_run_folder_holds_all_of_a_run(tmp_path, record):
    folder, record = tmp_path / "run", replace(record, tensorboard=True, seed=3)
    scores = run_record(record, folder)
    files = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    assert files == {*FILES.split(), "checkpoints", "tensorboard"}
    assert RunFolder(folder).read_record() == complete(record)
    assert RunFolder(folder).read_scores() == scores
    environment = RunFolder(folder).read_environment()
    assert environment.keys() == set(ENVIRONMENT.split())
    assert (environment["seed"], environment["versions"]["torch"]) == (3, torch.__version__)
    rows = log_of(folder)
    assert [(row["phase"], row["epoch"]) for row in rows] == [("train", e) for e in (1, 2, 3)]
    assert rows[0].keys() >= set(ROW.split())


def test_tensorboard_has_every_number_of_every_epoch(tmp_path, record):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_record(replace(record, tensorboard=True), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = log_of(tmp_path / "run")
    for tag, values in {
        "train/val_acc": [row["val_acc"] for row in rows],
        "train/lr": [row["lr"] for row in rows],
        "train/parts/tks": [row["parts"]["tks"] for row in rows],
    }.items():
        assert [each.value for each in events.Scalars(tag)] == pytest.approx(values)
        assert [each.step for each in events.Scalars(tag)] == [0, 1, 2]


def test_scores_say_what_they_were_measured_on_and_are_those_of_the_outputs(tmp_path, record):
    scores = run_record(record, tmp_path / "run")
    head = {
        "protocol": "tiny/made-up",
        "protocol_hash": "0" * 16,
        "classes": ["class 0", "class 1", "class 2", "class 3"],
        "prefix": "live",
        "samples": 24,
        "steps": 3,
        "binning": FixedDuration(3, 1000).describe(),
    }
    assert scores == scores | head
    curves = ("prefix_top1", "prefix_top5", "step_top1", "aurc_softmax", "ece")
    assert all(len(scores[key]) == 3 for key in curves)

    with np.load(tmp_path / "run" / "outputs.npz") as file:
        outputs = {key: file[key] for key in file.files}
    prefix = np.cumsum(outputs["logits"], axis=0) / np.arange(1, 4)[:, None, None]
    accuracy = 100 * (prefix.argmax(-1) == outputs["labels"]).mean(1)
    assert accuracy == pytest.approx(scores["prefix_top1"])
    assert outputs["features"].shape == (24, load_model(tmp_path / "run").classifier.in_features)
    assert np.array_equal(outputs["example_frames"], drivers.tiny_set(24, 3)[0][0])
    assert np.array_equal(outputs["ids"], np.arange(24))


def test_frames_need_not_be_square(tmp_path, record):
    data = replace(record.data, options={"flaw": "wide"})
    scores = run_record(replace(record, data=data), tmp_path / "run")
    assert load_model(tmp_path / "run").frame_shape == (2, 12, 14)
    assert evaluate_run(tmp_path / "run")["prefix_top1"] == scores["prefix_top1"]


def test_frames_of_whole_recordings_give_prefixes_in_hindsight(tmp_path, record):
    data = replace(record.data, binning={"name": "equal_time", "steps": 2})
    scores = run_record(replace(record, data=data), tmp_path / "run")
    assert (scores["prefix"], scores["steps"]) == ("hindsight bins", 2)


def test_the_test_split_is_read_once_and_only_after_training(tmp_path, record, monkeypatch):
    moments = []

    def recorded(**options):
        splits, names = drivers.tiny(**options), ("train", "val", "test")
        own = {name: Recording(getattr(splits, name), name, moments) for name in names}
        return replace(splits, **own)

    monkeypatch.setitem(DATASETS, "tiny", recorded)
    run_record(replace(record, select="best"), tmp_path / "run")
    first = next(place for place, (name, _) in enumerate(moments) if name == "test")
    # All of them, and the example of the report
    assert moments[first:] == [("test", index) for index in [*range(24), 0]]
    # One is the sample of the dry update, two are asked for their shape
    assert sum(name == "train" for name, _ in moments) == 3 + 3 * 64
    assert sum(name == "val" for name, _ in moments) == 1 + 3 * 24  # one for its shape


@pytest.mark.parametrize(
    ("select", "accuracies", "chosen"),
    [
        ("last", [10, 90, 20], 2),
        ("best", [10, 90, 20], 1),
        ("best", [50, 50, 50], 0),
        ("best", [10, 90, KeyboardInterrupt, 20], 1),
    ],
)
def test_the_last_epoch_is_kept_or_if_asked_the_first_of_the_best_on_validation(
    tmp_path, record, monkeypatch, select, accuracies, chosen
):
    seen, rest = [], iter(accuracies)

    def scripted(model, dataset, **options):
        accuracy = next(rest)
        if accuracy is KeyboardInterrupt:
            raise KeyboardInterrupt
        seen.append(model.classifier.weight.detach().clone())
        return {"val_loss": 1.0, "val_acc": accuracy, "val_acc_first": 0.0}

    monkeypatch.setattr(train, "validate", scripted)
    record = replace(record, select=select)
    with suppress(KeyboardInterrupt):
        run_record(record, tmp_path / "run")
    run_record(record, tmp_path / "run", resume=True)
    kept = load_model(tmp_path / "run").classifier.weight
    assert [torch.equal(weight, kept) for weight in seen] == [epoch == chosen for epoch in range(3)]


def test_equal_records_give_equal_runs_and_another_seed_another(tmp_path, record):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_record(replace(record, seed=seed), tmp_path / name)
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert a == b != c


def test_what_fails_in_a_later_phase_is_found_before_anything_is_trained(
    tmp_path, record, monkeypatch
):
    def failing(self, outputs, labels, progress):
        if "teacher" in outputs:
            raise TypeError("no second phase")
        return loss(self, outputs, labels, progress)

    loss = drivers.Pair.loss
    monkeypatch.setattr(drivers.Pair, "loss", failing)
    method, plan = replace(record.method, name="pair"), replace(record.train, epochs=2)
    before = torch.get_rng_state()
    with pytest.raises(TypeError, match="no second phase"):
        run_record(replace(record, method=method, train=plan), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert not (tmp_path / "run").exists()  # or the corrected record would find another run there


def test_a_finished_run_and_a_lost_network_need_no_training(tmp_path, record, monkeypatch):
    """The way out that `load_model` offers."""
    folder = tmp_path / "run"
    scores = run_record(record, folder)
    before = weights_of(folder)
    monkeypatch.setattr(run, "fit", None)
    assert run_record(record, folder) == run_record(record, folder, resume=True) == scores
    (folder / "model.safetensors").unlink()
    (folder / "scores.json").unlink()
    run_record(record, folder, resume=True)
    assert weights_of(folder) == before

"""`run_record`: what a run folder holds, what is read when, and what is refused before any work."""

from __future__ import annotations

import json
from dataclasses import replace

import drivers
import numpy as np
import pytest
import torch

from anystep import run
from anystep.config import load_recipe, record_from
from anystep.data.datasets import DATASETS
from anystep.data.frames import FixedDuration
from anystep.folder import RunFolder, load_model
from anystep.preflight import check
from anystep.run import build, evaluate_run, load_splits, run_record
from anystep.training import fit as train


@pytest.fixture
def record(tmp_path, tiny_rows):
    return record_from(load_recipe(drivers.write_recipe(tmp_path)))


def other(record, section, **changes):
    """The record with other values in one section, or at the top for an empty section."""
    if not section:
        return replace(record, **changes)
    return replace(record, **{section: replace(getattr(record, section), **changes)})


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
    folder = tmp_path / "run"
    scores = run_record(replace(record, tensorboard=True, seed=3), folder)
    files = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *(
            "config.yaml",
            "env.json",
            "log.jsonl",
            "scores.json",
            "outputs.npz",
            "model.safetensors",
        ),
        *("checkpoints", "tensorboard"),
    }
    assert record_from(load_recipe(folder / "config.yaml")) == replace(
        record, tensorboard=True, seed=3
    )
    assert json.loads((folder / "scores.json").read_text()) == scores
    environment = json.loads((folder / "env.json").read_text())
    assert set(environment) == {
        "commit",
        "dirty",
        "versions",
        "device",
        "cores",
        "threads",
        "seed",
        "command",
        "precision",
    }
    assert environment["seed"] == 3
    assert environment["versions"]["torch"] == torch.__version__


def test_the_log_has_a_row_an_epoch(tmp_path, record):
    run_record(record, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
    ]
    assert {
        "train_loss",
        "train_acc",
        "parts",
        "val_loss",
        "val_acc",
        "val_acc_first",
        "lr",
    } <= set(rows[0])


def test_scores_say_what_they_were_measured_on(tmp_path, record):
    scores = run_record(record, tmp_path / "run")
    head = {
        key: scores[key]
        for key in ("protocol", "protocol_hash", "classes", "prefix", "samples", "steps")
    }
    assert head == {
        "protocol": "tiny/made-up",
        "protocol_hash": "0" * 16,
        "classes": ["class 0", "class 1", "class 2", "class 3"],
        "prefix": "live",
        "samples": 24,
        "steps": 3,
    }
    assert scores["binning"] == FixedDuration(3, 1000).describe()
    assert all(
        len(scores[key]) == 3
        for key in ("prefix_top1", "prefix_top5", "step_top1", "aurc_softmax", "ece")
    )


def test_frames_of_whole_recordings_give_prefixes_in_hindsight(tmp_path, record):
    scores = run_record(
        other(record, "data", binning={"name": "equal_time", "steps": 2}), tmp_path / "run"
    )
    assert (scores["prefix"], scores["steps"]) == ("hindsight bins", 2)


def test_the_outputs_on_disk_have_the_scores_in_them(tmp_path, record):
    scores = run_record(record, tmp_path / "run")
    with np.load(tmp_path / "run" / "outputs.npz") as file:
        outputs = {key: file[key] for key in file.files}
    prefix = np.cumsum(outputs["logits"], axis=0) / np.arange(1, 4)[:, None, None]
    accuracy = 100 * (prefix.argmax(-1) == outputs["labels"]).mean(1)
    assert accuracy == pytest.approx(scores["prefix_top1"])
    assert outputs["features"].shape == (24, load_model(tmp_path / "run").classifier.in_features)
    assert np.array_equal(outputs["example_frames"], drivers.tiny_set(24, 3)[0][0])
    assert np.array_equal(outputs["ids"], np.arange(24))


def test_tensorboard_has_every_number_of_every_epoch(tmp_path, record):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_record(replace(record, tensorboard=True), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for tag, values in {
        "train/val_acc": [row["val_acc"] for row in rows],
        "train/lr": [row["lr"] for row in rows],
        "train/parts/tks": [row["parts"]["tks"] for row in rows],
    }.items():
        assert [each.value for each in events.Scalars(tag)] == pytest.approx(values)
        assert [each.step for each in events.Scalars(tag)] == [0, 1, 2]


def test_the_test_split_is_read_once_and_only_after_training(tmp_path, record, monkeypatch):
    moments = []

    def recorded(*, binning, cache=None, workers=None):
        splits = drivers.tiny(binning=binning)
        return replace(
            splits,
            **{
                name: Recording(getattr(splits, name), name, moments)
                for name in ("train", "val", "test")
            },
        )

    monkeypatch.setitem(DATASETS, "tiny", recorded)
    run_record(replace(record, select="best"), tmp_path / "run")
    first = next(place for place, (name, _) in enumerate(moments) if name == "test")
    assert {name for name, _ in moments[first:]} == {"test"}
    assert [index for _, index in moments[first : first + 24]] == list(range(24))
    assert moments[first + 24 :] == [("test", 0)]  # the example of the report
    # One is the sample of the dry update, two are asked for their shape
    assert sum(name == "train" for name, _ in moments) == 3 + 3 * 64
    assert sum(name == "val" for name, _ in moments) == 3 * 24


@pytest.mark.parametrize(("select", "chosen"), [("last", 2), ("best", 1)])
def test_the_last_epoch_is_kept_unless_the_best_on_validation_is_asked_for(
    tmp_path, record, monkeypatch, select, chosen
):
    accuracies, seen = iter([10.0, 90.0, 20.0]), []

    def scripted(model, dataset, **options):
        seen.append(model.classifier.weight.detach().clone())
        return {"val_loss": 1.0, "val_acc": next(accuracies), "val_acc_first": 0.0}

    monkeypatch.setattr(train, "validate", scripted)
    run_record(replace(record, select=select), tmp_path / "run")
    kept = load_model(tmp_path / "run").classifier.weight
    assert [torch.equal(weight, kept) for weight in seen] == [epoch == chosen for epoch in range(3)]


def test_of_equally_good_epochs_the_first_is_kept(tmp_path, record, monkeypatch):
    seen = []

    def scripted(model, dataset, **options):
        seen.append(model.classifier.weight.detach().clone())
        return {"val_loss": 1.0, "val_acc": 50.0, "val_acc_first": 0.0}

    monkeypatch.setattr(train, "validate", scripted)
    run_record(replace(record, select="best"), tmp_path / "run")
    assert torch.equal(load_model(tmp_path / "run").classifier.weight, seen[0])


def test_a_run_judged_again_has_its_scores(tmp_path, record):
    scores = run_record(record, tmp_path / "run")
    assert evaluate_run(tmp_path / "run") == scores


def test_equal_records_give_equal_runs_and_another_seed_another(tmp_path, record):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_record(replace(record, seed=seed), tmp_path / name)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"] != weights["c"]


def test_the_same_finished_run_is_not_trained_again(tmp_path, record, monkeypatch):
    scores = run_record(record, tmp_path / "run")
    monkeypatch.setattr(run, "fit", None)
    assert run_record(record, tmp_path / "run") == scores


def test_what_fails_in_a_later_phase_is_found_before_anything_is_trained(
    tmp_path, record, monkeypatch
):
    def failing(self, outputs, labels, progress):
        if "teacher" in outputs:
            raise TypeError("no second phase")
        return loss(self, outputs, labels, progress)

    loss = drivers.Pair.loss
    monkeypatch.setattr(drivers.Pair, "loss", failing)
    before = torch.get_rng_state()
    pair = other(other(record, "method", name="pair"), "train", epochs=2)
    with pytest.raises(TypeError, match="no second phase"):
        run_record(pair, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert not (tmp_path / "run").exists()  # or the corrected record would find another run there


def test_a_truncated_checkpoint_is_refused_and_deleting_it_starts_afresh(
    tmp_path, record, monkeypatch
):
    run_record(record, tmp_path / "whole")
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(
            RunFolder, "save_network", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run_record(record, folder)
    last = folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(
        ValueError,
        match=r"last\.pt is truncated or not a checkpoint: delete it, and --resume starts at",
    ):
        run_record(record, folder, resume=True)
    last.unlink()
    run_record(record, folder, resume=True)
    assert (folder / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_a_lost_network_is_written_again_without_training(tmp_path, record, monkeypatch):
    """The way out that `load_model` offers."""
    folder = tmp_path / "run"
    run_record(record, folder)
    before = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "scores.json").unlink()
    monkeypatch.setattr(run, "fit", None)
    run_record(record, folder, resume=True)
    assert (folder / "model.safetensors").read_bytes() == before


def test_drawing_the_weights_leaves_the_global_generator_alone(record):
    splits, before = load_splits(record), torch.get_rng_state()
    phase = check(record).phases()[0]
    first, second = (build(record, phase, splits)[0].classifier.weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_checkpoint_holds_the_network_of_every_phase(tmp_path, record):
    run_record(other(other(record, "method", name="pair"), "train", epochs=2), tmp_path / "run")
    saved = RunFolder(tmp_path / "run").load_training()
    assert (saved["phase"], set(saved["networks"])) == (2, {"ann", "snn"})

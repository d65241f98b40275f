"""Augmentation on the way into training: from the record to the batches, and what is refused."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from moving_light import equal, moving_light, record_of, small_model

import anystep
from anystep.data.augmentation import augment as augment_module
from anystep.data.datasets import DATASETS
from anystep.preflight import check
from anystep.run import dry_update, load_splits
from anystep.training.fabric import make_fabric
from anystep.training.methods import METHODS

MOVED = ["flip", {"name": "roll", "pixels": 2}]


@pytest.fixture(autouse=True)
def light(monkeypatch):
    monkeypatch.setitem(DATASETS, "moving-light", moving_light)


def weights(folder):
    return anystep.load_model(folder).state_dict()


def test_training_batches_are_changed_and_no_others(tmp_path, monkeypatch):
    seen = []
    plain = augment_module.Augmentation.__call__

    def watched(self, x, y, generator):
        seen.append((tuple(x.shape), int(generator.initial_seed())))
        return plain(self, x, y, generator)

    monkeypatch.setattr(augment_module.Augmentation, "__call__", watched)
    anystep.run_record(record_of("ce", data={"augment": MOVED}), tmp_path / "run")
    trained = [seed for shape, seed in seen if shape == (10, 16, 2, 8, 8)]
    assert len(set(trained)) == len(trained) == 8  # 4 updates an epoch
    assert len(seen) == 9  # and the dry one; validation and test are left alone


def test_the_same_seed_draws_the_same_augmentation_with_any_number_of_workers(tmp_path):
    record = record_of("ce", data={"augment": MOVED})
    anystep.run_record(record, tmp_path / "one")
    anystep.run_record(replace(record, train=replace(record.train, workers=2)), tmp_path / "two")
    anystep.run_record(record_of("ce"), tmp_path / "plain")
    assert equal(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert not equal(weights(tmp_path / "one"), weights(tmp_path / "plain"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_mixed_labels_train_what_can_take_them_and_are_refused_by_name_elsewhere(method):
    record = record_of(method, data={"augment": ["mixup"]})
    refused = pytest.raises(anystep.UsageError, match="this loss needs a class for each sample")
    scheme, splits = check(record), load_splits(record)
    with refused if method in ("tks", "full_range") else nullcontext():
        dry_update(record, scheme, splits, make_fabric(accelerator="cpu"))


def test_a_row_of_mixed_labels_has_its_accuracy(tmp_path):
    anystep.run_record(record_of("ce", epochs=1, data={"augment": ["mixup"]}), tmp_path / "run")
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert 0 <= row["train_acc"] <= 100
    assert row["train_loss"] > 0


def test_any_function_of_a_batch_augments():
    plan = anystep.Plan(epochs=1, batch_size=16, weight_decay=0.0)
    model = small_model()
    before = model.stages[0][0].conv.weight.detach().clone()
    with pytest.warns(anystep.AnystepWarning, match="is silent"):
        anystep.fit(
            anystep.start(model, plan),
            moving_light(binning=None).train,
            method=anystep.create_method("ce"),
            plan=plan,
            augment=lambda x, y, generator: (torch.zeros_like(x), y),
        )
    assert torch.equal(model.stages[0][0].conv.weight, before)  # frames of nothing teach nothing

"""Every row of METHODS from a record to its page."""

from __future__ import annotations

import json

import pytest
import torch
from moving_light import WIDTHS, moving_light

import anystep
from anystep.data.datasets import DATASETS
from anystep.evaluation.figures import style
from anystep.folder import CheckpointWriter
from anystep.training.methods import METHODS

NEURON = {"hsd": "qcfs_if", "qcfs": "qcfs_if"}  # the methods that cannot train a LIF


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_trains_from_a_record_resumes_to_the_same_weights_is_judged_again_and_reported(
    name, tmp_path, monkeypatch
):
    monkeypatch.setitem(DATASETS, "moving-light", moving_light)
    record = anystep.record_from(
        {
            "data": {"name": "moving-light"},
            "model": {"neuron": NEURON.get(name, "lif"), "options": {"widths": WIDTHS}},
            "method": {"name": name},
            "train": {"epochs": 2, "batch_size": 32, "lr": 5e-3},
            "tensorboard": False,
        }
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    scores = anystep.run_record(record, whole)
    log = (whole / "log.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["train_loss"] for line in log)
    assert first != last

    after_an_epoch = CheckpointWriter.on_epoch

    def stop(self, state, row):
        after_an_epoch(self, state, row)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(CheckpointWriter, "on_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            anystep.run_record(record, stopped)
    assert anystep.run_record(record, stopped, resume=True) == scores
    weights = anystep.load_model(whole).state_dict()
    resumed = anystep.load_model(stopped).state_dict()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)

    assert anystep.evaluate_run(whole) == scores
    # Figures are the same for all methods and have tests of their own; drawing takes long
    monkeypatch.setattr(style, "to_svg", lambda draw, **_: draw().get_label())
    page = anystep.write_report([whole], tmp_path / "report.html")
    assert name in page.read_text(encoding="utf-8")

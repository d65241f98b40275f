"""Recordings of different length: each is judged as it is alone, and training refuses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from moving_light import moving_light, ragged, small_model, trained

import anystep
from anystep.data.datasets import DATASETS
from anystep.data.loader import in_order
from anystep.evaluation.evaluate import collect, score
from anystep.evaluation.readout import hold, prefix_mean
from anystep.sweep import steps_of
from anystep.training.methods import create_method

LENGTHS = (3, 7, 5, 1)
OPEN = {
    "data": {"name": "moving-light", "binning": {"name": "fixed_count", "steps": None, "count": 9}},
    "model": {"name": "vgg_snn"},
}


def test_a_batch_of_an_evaluation_has_recordings_of_one_length():
    assert in_order(7, batch_size=3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert in_order(5, batch_size=2, lengths=[3, 1, 3, 3, 1]) == [[1, 4], [0, 2], [3]]
    assert in_order(3, batch_size=2, lengths=np.array([4, 4, 4])) == in_order(3, batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_a_recording_is_judged_as_it_is_alone_and_in_its_place(batch_size):
    model, data = small_model(), ragged(13)
    said = collect(model, data, batch_size=batch_size, features=5)
    assert said.lengths.tolist() == data.lengths.tolist()
    assert said.labels.tolist() == data.labels.tolist()
    assert (len(said.logits), len(said.features)) == (data.lengths.max(), 5)
    spikes = elements = 0.0
    for n, (frames, _) in enumerate(data):
        alone = collect(model, [(frames, 0)], features=1)
        np.testing.assert_allclose(said.logits[: len(frames), n], alone.logits[:, 0], atol=1e-5)
        decided = prefix_mean(said.logits)[-1, n]
        np.testing.assert_allclose(decided, alone.logits.mean(0)[0], atol=1e-5)
        if n < 5:
            np.testing.assert_allclose(said.features[n], alone.features[0], atol=1e-5)
        spikes += len(frames) * np.array(list(alone.rates.values()))
        elements += len(frames)
    assert list(said.rates.values()) == pytest.approx(spikes / elements)
    assert score(said)["steps"] == len(said.logits)


def test_chosen_frames_must_leave_every_recording_one():
    data = ragged(8, shortest=4)
    assert collect(small_model(), data, frames=slice(0, 3)).lengths is None
    late = collect(small_model(), data, frames=slice(2, None))
    assert late.lengths.tolist() == (data.lengths - 2).tolist()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_after_its_end_the_decision_of_a_recording_stands(kind):
    logits = kind(np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32))
    before = logits * 1
    held = hold(logits, LENGTHS)
    assert (logits == before).all()
    assert held.dtype == logits.dtype
    for n, length in enumerate(LENGTHS):
        assert (held[:length, n] == logits[:length, n]).all()
        for t in range(1, 8):
            own = logits[: min(t, length), n].mean(0)
            np.testing.assert_allclose(prefix_mean(held)[t - 1, n], own, rtol=1e-4, atol=1e-6)


def test_training_on_recordings_of_different_length_is_refused_before_it_starts(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(DATASETS, "moving-light", moving_light)
    message = r"training needs recordings of one length: give data\.binning\.steps"
    with pytest.raises(ValueError, match=message):
        trained(create_method("ce"), data=ragged(32))
    with pytest.raises(ValueError, match=message):
        anystep.run_record(anystep.record_from(OPEN), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=message):
        steps_of(anystep.record_from(OPEN))

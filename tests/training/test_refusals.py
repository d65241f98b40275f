"""What training refuses, and a word that the message must have."""

from __future__ import annotations

import math
from dataclasses import replace

import drivers
import pytest
import torch
from moving_light import moving_light, ragged, record_of, small_model

import anystep
from anystep.data.datasets import DATASETS
from anystep.training import losses
from anystep.training.fabric import make_fabric
from anystep.training.fit import fit, start
from anystep.training.methods import create_method
from anystep.training.phases import Phase
from anystep.training.schedule import Plan

METHOD_ROWS = [
    ("tsk", {}, "unknown method 'tsk'. Did you mean 'tks'"),
    (None, {}, "unknown method None"),
    ("ce", {"logits": 1}, "unknown argument 'logits' in method ce"),
    ("label_smoothing", {"epsilon": "a"}, "label_smoothing: epsilon must be float, got 'a'"),
    ("label_smoothing", {"epsilon": 1.0}, r"epsilon must be in \[0, 1\), got 1.0"),
    ("tet", {"lamb": 1.1}, r"lamb must be in \[0, 1\], got 1.1"),
    ("tks", {"aplha": 0.3}, "unknown argument 'aplha' in method tks. Did you mean 'alpha'"),
    ("tks", {"alpha": math.nan}, "alpha .* nan"),
    ("tks", {"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
    ("tks", {"temperature": math.nan}, "temperature .* nan"),
    ("tks", {"pool": "sum_corect"}, "Did you mean 'sum_correct'"),
    ("tks", {"divergence": "k1"}, "unknown divergence 'k1'.*Known: ce, kl"),
    ("tks", {"ramp": "linar"}, "Did you mean 'linear'"),
    ("tks", {"empty": "skipp"}, "Did you mean 'skip'.*Known: uniform, skip"),
    ("strong_weak", {"direction": "s2v"}, "Did you mean 's2w'.*Known: s2w, w2s"),
    ("strong_weak", {"weight": -1.0}, "weight must be >= 0, got -1"),
    ("full_range", {"alpha": 0.3}, "there is no teacher to weigh"),
    ("full_range", {"teacher": "run", "alpha": -0.3}, "alpha must be >= 0"),
    ("full_range", {"beta": math.nan}, "beta must be >= 0, got nan"),
    ("skd", {"weight": -1.0}, "weight must be >= 0"),
    ("skd", {"reduction": "batch_mean"}, "Did you mean 'batchmean'"),
    ("skd", {"label_loss": "tks"}, "method tks: alpha is required"),
    ("skd", {"teacher": "self", "twin_share": 0.2}, "no twin is trained"),
    ("kd", {"teacher": "self"}, "cannot learn from itself"),
    ("hsd", {"distill": "sdk"}, "Did you mean 'skd'"),
    ("hsd", {"twin": "run", "levels": 8}, "levels does nothing, twin 'run'"),
    ("hsd", {"distill": "none", "temperature": 2.0}, "does nothing, nothing is distilled"),
    ("hsd", {"ann_share": 1.0}, "ann_share must be between 0 and 1"),
    *[
        ("hsd", {"ann_frames": frames}, r"ann_frames must be \[first, stop\]")
        for frames in ([5], [3, 3], [4, 2], [-1, 5], "0:5", [0.0, 5], [True, 5])
    ],
]


@pytest.mark.parametrize(("name", "options", "word"), METHOD_ROWS)
def test_a_method(name, options, word):
    with pytest.raises(ValueError, match=word):
        create_method(name, **options)


@pytest.mark.parametrize("shape", [(10,), (1, 10), (3, 1), (4, 3, 10)], ids=str)
def test_a_teacher_that_would_only_broadcast(shape):
    with pytest.raises(ValueError, match="teacher must be"):
        losses.tks_soft(torch.zeros(4, 3, 10), torch.full(shape, 0.1), temperature=2.0)


@pytest.mark.parametrize("shape", [(3, 9), (2, 10)], ids=str)
def test_shares_of_another_shape(shape):
    with pytest.raises(ValueError, match="labels must be"):
        losses.ce(torch.zeros(4, 3, 10), torch.zeros(shape))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("batch_size", 0, ">= 1"),
        ("lr", math.nan, "> 0"),
        ("workers", -1, ">= 0"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("grad_clip", 0.0, "> 0 or null"),
    ],
)
def test_a_value_of_a_plan(key, value, allowed):
    with pytest.raises(ValueError, match=f"train: {key} must be {allowed}, got {value}"):
        Plan(**{key: value})


@pytest.mark.parametrize("key", ["epochs", "steps", "workers", "lrr"])
def test_a_phase_with_a_key_of_the_whole_run(key):
    with pytest.raises(ValueError, match=f"unknown key '{key}' in the plan of phase 'own'"):
        start(small_model(), Plan(), phase=Phase(name="own", plan={key: 1}))


DATA = drivers.tiny_set(64, 1)
PLAN = Plan(epochs=1, batch_size=16)


def moved(by):
    return drivers.FrameSet(DATA.frames, DATA.labels + by)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"plan": replace(PLAN, batch_size=65)}, "64 samples are fewer than one batch of 65"),
        ({"data": moved(1)}, r"labels must be in 0\.\.3, got 1\.\.4 in a batch"),
        ({"data": moved(-1)}, r"got -1\.\.2 in a batch"),
        ({"data": [(f[0], y) for f, y in DATA]}, r"a sample must be frames \(T, P, H, W\)"),
        ({"data": drivers.tiny_set(64, 1, width=14)}, r"got \(3, 16, 2, 12, 14\)"),
        ({"data": ragged(32)}, "training needs recordings of one length"),
        ({"validation": []}, "the data set to evaluate is empty"),
        ({"validation": moved(1)}, r"labels must be in 0\.\.3"),
        ({"data": list(DATA), "plan": replace(PLAN, balanced=True)}, "train.balanced needs"),
    ],
)
def test_data_that_do_not_fit(change, word):
    given = {"data": DATA, "plan": PLAN, **change}
    data, state = given.pop("data"), start(drivers.tiny_network(), given["plan"])
    with pytest.raises(ValueError, match=word):
        fit(state, data, method=create_method("ce"), fabric=make_fabric(accelerator="cpu"), **given)


@pytest.mark.parametrize("option", [{"accelerator": "abacus"}, {"precision": "7-wide"}])
def test_an_engine_that_is_not_there(option):
    with pytest.raises(ValueError, match="engine: "):
        make_fabric(**{"accelerator": "cpu", **option})


TEACHER_ROWS = [
    ("hsd", {"neuron": "lif"}, "method hsd needs model.neuron qcfs_if, got 'lif'"),
    ("skd", {"options": {"teacher": "run"}}, "name its folder with --teacher RUN"),
    ("ce", {"teacher": "nowhere"}, "learns from no other run"),
    ("kd", {"options": {"teacher": "run"}, "teacher": "nowhere"}, "is not a finished run"),
    ("hsd", {"options": {"ann": {"lrr": 1.0}}}, "unknown key 'lrr' in the plan of phase 'ann'"),
    ("hsd", {"options": {"snn": {"lr": -1.0}}}, "lr must be > 0"),
    ("hsd", {"options": {"snn": {"lr": "fast"}}}, "phase 'snn': lr must be float"),
    ("hsd", {"epochs": 5}, r"would be 2 \+ 2 for the phases"),
    ("hsd", {"options": {"snn_frames": [10, 12]}}, "not within the 10 frames"),
    ("hsd", {"options": {"snn_frames": [5, 20]}}, "not within the 10 frames"),
    ("ce", {"data": {"augment": ["flp"]}}, "Did you mean 'flip'"),
    ("ce", {"data": {"augment": [{"name": "roll", "pixel": 1}]}}, "Did you mean 'pixels'"),
    ("tks", {"data": {"augment": ["mixup"]}}, "this loss needs a class for each sample"),
    ("ce", {"norm": {"name": "tebn", "steps": 4}}, "made for 4 steps"),
]


@pytest.mark.parametrize(("method", "change", "word"), TEACHER_ROWS)
def test_a_record_before_its_run_has_a_folder(method, change, word, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "moving-light", moving_light)
    with pytest.raises(ValueError, match=word):
        anystep.run_record(record_of(method, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()

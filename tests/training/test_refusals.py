"""What training refuses, and a word that the message must have."""

from __future__ import annotations

import math
from dataclasses import replace

import drivers
import pytest
import torch
from moving_light import WIDTHS, moving_light, ragged, small_model

import anystep
from anystep.data.datasets import DATASETS
from anystep.training import distillation, losses
from anystep.training.fabric import make_fabric
from anystep.training.fit import fit, start
from anystep.training.methods import LossMethod, create_method
from anystep.training.phases import Method, Phase
from anystep.training.schedule import Plan

LOGITS, LABELS, TEACHER = torch.zeros(4, 3, 10), torch.tensor([0, 1, 2]), torch.zeros(3, 10)
TKS = {"alpha": 0.5, "temperature": 2.0}
LOSS_ROWS = [
    ("tks", {**TKS, "pool": "sum_corect"}, "Did you mean 'sum_correct'"),
    ("tks", {**TKS, "divergence": "k1"}, "unknown divergence 'k1'.*Known: ce, kl"),
    ("tks", {**TKS, "temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
    ("tks", {**TKS, "temperature": math.nan}, "temperature .* nan"),
    ("tks", {**TKS, "alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
    ("tks", {**TKS, "alpha": math.nan}, "alpha .* nan"),
    ("label_smoothing", {"epsilon": 1.0}, r"epsilon must be in \[0, 1\), got 1.0"),
    ("tet", {"lamb": 1.1}, "lamb"),
    ("full_range", {"beta": math.nan}, "beta must be >= 0, got nan"),
    ("strong_weak", {"direction": "s2v"}, "Did you mean 's2w'.*Known: s2w, w2s"),
    ("strong_weak", {"weight": -1.0}, "weight must be >= 0, got -1"),
]


@pytest.mark.parametrize(("name", "options", "word"), LOSS_ROWS)
def test_an_option_of_a_loss(name, options, word):
    with pytest.raises(ValueError, match=word):
        losses.LOSSES[name](LOGITS, LABELS, **options)


@pytest.mark.parametrize("shape", [(10,), (1, 10), (3, 1), (4, 3, 10)], ids=str)
def test_a_teacher_that_would_only_broadcast(shape):
    with pytest.raises(ValueError, match="teacher must be"):
        losses.tks_soft(LOGITS, torch.full(shape, 0.1), temperature=2.0)


@pytest.mark.parametrize("shape", [(3, 9), (2, 10)], ids=str)
def test_shares_of_another_shape(shape):
    with pytest.raises(ValueError, match="labels must be"):
        losses.ce(LOGITS, torch.zeros(shape))


def test_an_unknown_reduction():
    with pytest.raises(ValueError, match="Did you mean 'batchmean'"):
        distillation.kd(LOGITS, TEACHER, reduction="batch_mean")


METHOD_ROWS = [
    ("tsk", {}, "unknown method 'tsk'. Did you mean 'tks'"),
    (None, {}, "unknown method None"),
    ("tks", {"aplha": 0.3}, "unknown argument 'aplha' in method tks. Did you mean 'alpha'"),
    ("label_smoothing", {"eps": 0.1}, "Did you mean 'epsilon'"),
    ("label_smoothing", {"epsilon": "a"}, "epsilon must be float, got 'a'"),
    ("label_smoothing", {"epsilon": 2.0}, "epsilon must be in"),
    ("ce", {"logits": 1}, "unknown argument 'logits' in method ce"),
    ("tks", {"alpha": "much"}, "method tks: alpha must be float, got 'much'"),
    ("tks", {"alpha": 1.5}, "alpha must be in"),
    ("tks", {"temperature": 0}, "temperature must be > 0"),
    ("tks", {"pool": "sum_corect"}, "Did you mean 'sum_correct'"),
    ("tks", {"ramp": "linar"}, "Did you mean 'linear'"),
    ("tet", {"lamb": -1}, "lamb must be in"),
    ("hsd", {"distill": "sdk"}, "Did you mean 'skd'"),
    ("hsd", {"twin": "run", "levels": 8}, "levels does nothing, twin 'run'"),
    ("hsd", {"distill": "none", "temperature": 2.0}, "does nothing, nothing is distilled"),
    ("hsd", {"ann_share": 1.0}, "ann_share must be between 0 and 1"),
    ("skd", {"weight": -1.0}, "weight must be >= 0"),
    ("skd", {"teacher": "self", "twin_share": 0.2}, "no twin is trained"),
    ("kd", {"teacher": "self"}, "cannot learn from itself"),
    ("full_range", {"alpha": 0.3}, "there is no teacher to weigh"),
    ("full_range", {"beta": -1.0}, "beta must be"),
    *[
        ("hsd", {"ann_frames": frames}, r"ann_frames must be \[first, stop\]")
        for frames in ([5], [3, 3], [4, 2], [-1, 5], "0:5", [0.0, 5], [True, 5])
    ],
]


@pytest.mark.parametrize(("name", "options", "word"), METHOD_ROWS)
def test_a_method(name, options, word):
    with pytest.raises(ValueError, match=word):
        create_method(name, **options)


def test_what_is_missing():
    with pytest.raises(ValueError, match="method tks: alpha is required"):
        LossMethod("tks", temperature=2.0)
    with pytest.raises(TypeError, match="Method defines no loss"):
        Method().loss({}, torch.zeros(0), 0.0)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("epochs", 0, ">= 1"),
        ("batch_size", 0, ">= 1"),
        ("lr", 0.0, "> 0"),
        ("lr", math.nan, "> 0"),
        ("min_lr", -1e-5, ">= 0"),
        ("warmup_epochs", -1, ">= 0"),
        ("warmup_lr", math.nan, ">= 0"),
        ("weight_decay", -0.01, ">= 0"),
        ("workers", -1, ">= 0"),
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
        ({"plan": replace(PLAN, batch_size=65)}, "64 samples, fewer than one batch of 65"),
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
    given = {"data": DATA, "plan": PLAN, "validation": None, **change}
    model = anystep.create_model(
        **drivers.TINY_MODEL["options"],
        name="vgg_snn",
        num_classes=drivers.CLASSES,
        input_size=drivers.SIZE,
    )
    with pytest.raises(ValueError, match=word):
        fit(
            start(model, given["plan"]),
            given["data"],
            method=create_method("ce"),
            plan=given["plan"],
            validation=given["validation"],
            fabric=make_fabric(accelerator="cpu"),
        )


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
    ("ce", {"augment": ["flp"]}, "Did you mean 'flip'"),
    ("ce", {"augment": [{"name": "roll", "pixel": 1}]}, "Did you mean 'pixels'"),
    ("tks", {"augment": ["mixup"]}, "labels of several classes, and method tks: this loss"),
    ("full_range", {"augment": ["mixup"]}, "labels of several classes, and method full_range"),
    ("ce", {"norm": {"name": "tebn", "steps": 4}}, "made for 4 steps"),
]


@pytest.mark.parametrize(("method", "change", "word"), TEACHER_ROWS)
def test_a_record_before_its_run_has_a_folder(method, change, word, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "moving-light", moving_light)
    neuron = change.get("neuron", "qcfs_if" if method == "hsd" else "lif")
    tree = {
        "data": {
            "name": "moving-light",
            "binning": {"name": "equal_time", "steps": 10},
            "augment": change.get("augment", []),
        },
        "model": {
            "neuron": neuron,
            "norm": change.get("norm", "bn"),
            "options": {"widths": WIDTHS},
        },
        "method": {"name": method, "options": change.get("options", {})},
        "train": {"epochs": change.get("epochs", 2), "batch_size": 16},
        "teacher": change.get("teacher"),
    }
    with pytest.raises(ValueError, match=word):
        anystep.run_record(anystep.record_from(tree), tmp_path / "run")
    assert not (tmp_path / "run").exists()

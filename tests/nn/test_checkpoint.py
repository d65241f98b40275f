"""Weights on disk: whole, or refused by name; and weights from one network to another."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from anystep._errors import UsageError
from anystep.nn.fuse import fuse_model
from anystep.nn.models import create_model
from anystep.nn.surrogate import Triangle
from anystep.nn.weights import copy_weights, read_model, save_model

MADE_BY = {
    "name": "vgg_snn",
    "num_classes": 4,
    "in_planes": 2,
    "input_size": 12,
    "neuron": {"name": "lif", "tau": 3.0},
    "widths": [[4], [8]],
}

WITH_OBJECT = {"name": "lif", "surrogate": Triangle()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = create_model(**MADE_BY)
    model(torch.rand(2, 3, 2, 12, 12))  # moves the running statistics away from their start
    return model.eval()


@pytest.fixture
def file(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    return path


def test_a_network_comes_back_with_every_bit_and_in_eval_mode(file, model):
    loaded = read_model(file)
    assert not loaded.training
    assert loaded.stages[0][0].neuron.tau == 3.0
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    x = torch.rand(3, 2, 2, 12, 12)
    assert torch.equal(model(x), loaded(x))


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (lambda net: torch.nn.Linear(2, 2), "Linear does not know what it was made of"),
        (fuse_model, "VGGSNN does not know what it was made of"),
        (lambda net: create_model(**MADE_BY | {"neuron": WITH_OBJECT}), "was made with an object"),
    ],
)
def test_a_network_that_a_file_cannot_make_again_is_refused(model, tmp_path, broken, word):
    with pytest.raises(UsageError, match=word):
        save_model(tmp_path / "model.safetensors", broken(model))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_truncated_network_is_refused_with_its_path(file, size):
    os.truncate(file, file.stat().st_size + size if size < 0 else size)
    with pytest.raises(UsageError, match=r"model\.safetensors is truncated or not safetensors"):
        read_model(file)


def test_safetensors_of_another_program_are_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="does not say how its network is made"):
        read_model(tmp_path / "x.safetensors")


def test_weights_are_copied_between_networks_that_differ_in_neuron_or_norm_only(model):
    learnt = create_model(**{**MADE_BY, "neuron": "plif"})
    tau = learnt.stages[0][0].neuron.w.clone()
    copy_weights(model.state_dict(), learnt)
    assert torch.equal(learnt.classifier.weight, model.classifier.weight)
    assert torch.equal(learnt.stages[0][0].norm.running_mean, model.stages[0][0].norm.running_mean)
    assert torch.equal(learnt.stages[0][0].neuron.w, tau)


def test_weights_of_another_topology_are_refused_by_key(model):
    deeper = create_model(**{**MADE_BY, "widths": [[4, 4], [8]]})
    with pytest.raises(ValueError, match=r"the networks differ in 'stages\.0\.1\.conv\.weight'"):
        copy_weights(model.state_dict(), deeper)


def without(**changes):
    return {**MADE_BY, **changes}


@pytest.mark.parametrize(
    ("made_by", "word"),
    [
        ([], "does not say how its network is made, but \\[\\]"),
        ({"name": "vgg_snn"}, "missing 2 required"),
        (without(num_classes="4"), "not supported between"),
        (without(neuron=3), "neuron must be a name"),
        (without(widths=[[10**9], [8]]), "its network needs .1000000000, 2, 3, 3."),
        (without(num_classes=10**18), "Storage size calculation overflowed"),
        (without(widths=[[4] * 10**5]), "it has weights for 14 parameters at the most"),
        (
            {"name": "sew_resnet18", "num_classes": 4, "input_size": 8, "stages": [[4, 10**9]]},
            "it has weights for 14 parameters at the most",
        ),
    ],
)
def test_weights_that_ask_for_another_network_are_refused_before_it_is_made(file, made_by, word):
    """In a moment, and with no more memory than the file has weights."""
    stored = load_file(file)
    save_file(stored, file, metadata={"anystep": json.dumps(made_by)})
    with pytest.raises(UsageError, match=rf"model\.safetensors holds no network .*: .*{word}"):
        read_model(file)

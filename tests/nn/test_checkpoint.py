"""Weights and training states on disk: whole, or refused by name."""

from __future__ import annotations

import os

import drivers
import pytest
import torch

from anystep.nn.models import create_model
from anystep.nn.weights import copy_weights, load_model, load_training, save_model, save_training

MADE_BY = {
    "name": "vgg_snn",
    "num_classes": 4,
    "in_planes": 2,
    "input_size": 12,
    "neuron": {"name": "lif", "tau": 3.0},
    "widths": [[4], [8]],
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = create_model(**MADE_BY)
    model(torch.rand(2, 3, 2, 12, 12))  # moves the running statistics away from their start
    return model.eval()


@pytest.fixture
def file(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model, made_by=MADE_BY)
    return path


def test_a_network_comes_back_with_every_bit_and_in_eval_mode(file, model):
    loaded = load_model(file)
    assert not loaded.training
    assert loaded.stages[0][0].neuron.tau == 3.0
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    x = torch.rand(3, 2, 2, 12, 12)
    assert torch.equal(model(x), loaded(x))


def test_a_run_folder_stands_for_its_network(file, model):
    assert torch.equal(load_model(file.parent).classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_truncated_network_is_refused_with_its_path_and_a_way_out(file, size):
    os.truncate(file, file.stat().st_size + size if size < 0 else size)
    with pytest.raises(
        ValueError,
        match=r"model\.safetensors is truncated or not safetensors .*: it is not in a run folder",
    ):
        load_model(file)
    (file.parent / "config.yaml").touch()
    (file.parent / "scores.json").touch()
    with pytest.raises(
        ValueError,
        match=r"delete model.safetensors and scores.json, then go on with: anystep train --resume /",
    ):
        load_model(file)


def test_a_missing_network_says_how_to_finish_its_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(
        ValueError, match=r"safetensors does not exist: go on with: anystep train --resume /.*"
    ):
        load_model(tmp_path)


def test_safetensors_of_another_program_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="does not say how its network is made"):
        load_model(tmp_path / "x.safetensors")


def test_a_training_state_comes_back(tmp_path):
    state = {
        "model": {"w": torch.arange(3.0)},
        "epoch": 3,
        "history": [{"loss": 0.5, "parts": {"ce": 0.5}}],
        "best": {},
    }
    save_training(tmp_path / "last.pt", state)
    loaded = load_training(tmp_path / "last.pt")
    assert torch.equal(loaded["model"].pop("w"), state["model"].pop("w"))
    assert loaded == state
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_training_state_is_refused_with_its_path_and_a_way_out(tmp_path, keep):
    path = tmp_path / "last.pt"
    save_training(path, {"w": torch.rand(1000)})
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(
        ValueError,
        match=r"last\.pt is truncated or not a checkpoint: delete it, and --resume starts at the",
    ):
        load_training(path)


def test_a_training_state_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    torch.save({"evil": Evil()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="truncated or not a checkpoint"):
        load_training(tmp_path / "last.pt")
    assert not (tmp_path / "was-run").exists()


def test_a_failed_write_leaves_the_state_before_it(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_training(path, {"epoch": 1})

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(
        OSError, match=r"could not write .*last\.pt \(0\.0 MiB\): No space left on device"
    ):
        save_training(path, {"epoch": 2})
    assert load_training(path) == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_is_named_and_the_run_goes_on_from_the_checkpoint_before(tmp_path, tiny_rows):
    from anystep.cli import main

    recipe = drivers.write_recipe(tmp_path, select="best")
    folder, output = tmp_path / "run", tmp_path / "output.txt"
    whole = tmp_path / "whole"
    assert main(["train", str(recipe), "--out", str(whole)]) == 0
    first = drivers.Command("train", recipe, "--out", folder, output=output, die_in_write=2)
    assert first.run_to_end() == -9
    size = (folder / "checkpoints" / "last.pt").stat().st_size
    code = drivers.Command(
        "train", "--resume", folder, output=output, file_limit=size // 2
    ).run_to_end()
    lines = output.read_text().splitlines()
    assert code == 1
    assert lines[-2].startswith(f"anystep train: could not write {folder}/checkpoints/last.pt (")
    assert lines[-2].endswith("File too large")
    assert lines[-1] == f"go on with: anystep train --resume {folder}"
    assert load_training(folder / "checkpoints" / "last.pt")["epoch"] == 1
    assert main(["train", "--resume", str(folder)]) == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_weights_are_copied_between_networks_that_differ_in_neuron_or_norm_only(model):
    learnt = create_model(**{**MADE_BY, "neuron": "plif"})
    tau = learnt.stages[0][0].neuron.w.clone()
    copy_weights(model.state_dict(), learnt)
    assert torch.equal(learnt.classifier.weight, model.classifier.weight)
    assert torch.equal(learnt.stages[0][0].norm.running_mean, model.stages[0][0].norm.running_mean)
    assert torch.equal(learnt.stages[0][0].neuron.w, tau)


def test_weights_of_another_topology_are_refused_by_key(model):
    deeper = create_model(**{**MADE_BY, "widths": [[4, 4], [8]]})
    with pytest.raises(
        ValueError, match=r"the networks differ in 'stages\.0\.1\.conv\.weight', which is neither"
    ):
        copy_weights(model.state_dict(), deeper)

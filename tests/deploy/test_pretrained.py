"""A trained network leaves its run folder, and is used by someone who has nothing else."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

import anystep
from anystep import UsageError, from_pretrained, load_model, save_pretrained
from anystep.config import load_recipe
from anystep.pretrained import SHIPPED, shipped, trained


@pytest.fixture
def folder(run, tmp_path):
    """A pretrained network whose run is gone."""
    save_pretrained(run, tmp_path / "small", note="Its data are free.")
    run.rename(tmp_path / "elsewhere")
    return tmp_path / "small"


def test_a_network_is_what_it_was_in_its_run_and_says_so(folder, tmp_path):
    model, other = from_pretrained(folder), load_model(tmp_path / "elsewhere")
    assert not model.training
    frames = trained(folder).samples
    with torch.inference_mode():
        assert torch.equal(model(frames), other(frames))
    scores = json.loads((tmp_path / "elsewhere" / "scores.json").read_text())
    card = (folder / "README.md").read_text()
    assert " | ".join(f"{value:.1f}" for value in scores["prefix_top1"]) in card
    assert "Its data are free." in card
    assert scores["protocol_hash"] in card
    assert "root" not in load_recipe(folder / "config.yaml")["data"].get("options", {})


def test_it_is_exported_and_streams_without_its_data(folder, terminal, tmp_path):
    terminal.done("export", folder, "--out", tmp_path / "net.onnx")
    assert json.loads((tmp_path / "net.parity.json").read_text())["samples"] > 1
    t = np.arange(2000) * 4
    x, y, p = np.random.default_rng(0).integers(0, (12, 12, 2), (2000, 3)).T
    np.savez(tmp_path / "recording.npz", t=t, x=x, y=y, p=p, sensor=[12, 12])
    said = []
    for model in (folder, tmp_path / "net.onnx"):
        code, out, _ = terminal("stream", model, "--source", tmp_path / "recording.npz")
        assert code == 0
        said.append(
            [(line.get("t_us"), line.get("label")) for line in map(json.loads, out.splitlines())]
        )
    assert said[0] == said[1]
    assert len(said[0]) > 3


def test_it_is_no_run_folder(folder, terminal):
    assert "is not a run folder" in terminal.refused("evaluate", folder)
    assert "is not a run folder" in terminal.refused("train", "--resume", folder)
    again = terminal.refused("export", folder, "--to", "folder", "--out", "again")
    assert "is a pretrained network already" in again


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def edited(**changes):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def bomb(path):
    np.savez_compressed(path, frames=np.zeros((1, 1, 1, 20_000, 20_000), np.uint8))


@pytest.mark.parametrize(
    ("file", "damage", "word"),
    [
        ("model.safetensors", flip, "model.safetensors is not the file that"),
        ("model.safetensors", lambda path: path.unlink(), "model.safetensors is missing"),
        ("model.safetensors", pipe, "must be a file; it is a folder, a device or a pipe"),
        ("about.json", lambda path: path.write_text('{"weights": 3}'), "see its 'classes'"),
        ("about.json", lambda path: path.write_text("[" * 100_000), "does not describe a network"),
        ("about.json", edited(steps=10**12), "see its 'steps'"),
        ("about.json", edited(binning=None), "see its 'binning'"),
        ("about.json", edited(exit={"score": "margin"}), "see its 'exit'"),
        ("samples.npz", flip, "samples.npz is missing, truncated or no samples"),
        (
            "samples.npz",
            lambda path: path.unlink(),
            "samples.npz is missing, truncated or no samples",
        ),
        ("samples.npz", bomb, "unpacks to more than 256 MiB"),
    ],
)
def test_what_is_damaged_is_refused_by_name(folder, file, damage, word):
    damage(folder / file)
    with pytest.raises(UsageError, match=word):
        trained(folder)


def test_a_folder_that_is_not_empty_is_left_alone(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(UsageError, match="mine is not empty"):
        save_pretrained(run, tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_name_that_nobody_knows_gets_the_nearest_one():
    with pytest.raises(UsageError, match=r"unknown folder or network 'digits_tsk'.*'digits_tks'"):
        from_pretrained("digits_tsk")


@pytest.mark.parametrize("name", shipped())
def test_a_network_that_comes_along_is_small_and_knows_its_samples(name):
    assert sum(path.stat().st_size for path in (SHIPPED / name).iterdir()) < 300_000
    found = trained(name)
    assert found.about["dirty"] is False
    assert found.about["accuracy"]["prefix"] == "live"
    with torch.inference_mode():
        rates = anystep.prefix_mean(found.model(found.samples).numpy())
    assert len(rates) == found.about["steps"]


def test_what_comes_along_was_measured_in_the_study():
    """The card of a network has the accuracies of its run."""
    result = json.loads((SHIPPED.parents[2] / "results" / "early_exit.json").read_text())
    sets = {"digits": ("digits-dvs", 0), "nmnist": ("N-MNIST", 1)}
    found = {(run["data"], run["method"], run["number"]): run for run in result["runs"]}
    for name in shipped():
        about = json.loads((SHIPPED / name / "about.json").read_text())
        data, number = sets[name.partition("_")[0]]
        run = found[data, about["method"], number]
        assert run["prefix_top1"] == about["accuracy"]["prefix_top1"]
        assert run["protocol_hash"] == about["accuracy"]["protocol_hash"]
    assert len(shipped()) == 6

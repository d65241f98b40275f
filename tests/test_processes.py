"""Several processes: the same result as one, and a way on when one of them dies or is interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import drivers
import pytest
import torch

from anystep.checkpoint import load_model, load_training
from anystep.cli import main
from anystep.train import make_fabric


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def test_two_processes_train_what_one_trains(tmp_path):
    """A network with batch norm, TKS, gradient clipping and 12 updates: so statistics, loss and gradients are all shared."""
    drivers.fit_tiny(make_fabric(accelerator="cpu"), tmp_path / "one.pt")
    make_fabric(accelerator="cpu", devices=2).launch(drivers.fit_tiny, tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert largest_difference(one["model"], two["model"]) < 1e-5
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        keys = ("train_loss", "train_acc", "val_loss", "val_acc")
        assert [ours[key] for key in keys] == pytest.approx([theirs[key] for key in keys], abs=1e-5)


@pytest.mark.slow
def test_a_killed_worker_ends_the_other_and_the_run_goes_on(tmp_path, tiny_rows, capsys):
    train = {"epochs": 4, "batch_size": 16, "lr": 0.01}
    method = {"name": "dying", "options": {"marker": str(tmp_path / "has-died")}}
    recipe = drivers.write_recipe(tmp_path, train=train, method=method)
    folder = tmp_path / "run"
    arguments = ["train", str(recipe), "--out", str(folder), "--engine.devices", "2"]

    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "anystep train: a worker " in message
    assert f"go on with: anystep train --resume {folder}" in message
    assert "Traceback" not in message, message
    assert "SIGKILL" in message or "closed" in message, message
    assert not multiprocessing.active_children()
    assert load_training(folder / "checkpoints" / "last.pt")["epoch"] == 2

    assert main(["train", "--resume", str(folder)]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "one")]) == 0  # one process, never killed
    weights = [load_model(place).state_dict() for place in (folder, tmp_path / "one")]
    assert largest_difference(*weights) < 1e-5


def test_ctrl_c_leaves_a_run_that_goes_on_and_says_how(tmp_path, tiny_rows):
    recipe = drivers.write_recipe(tmp_path, train={"epochs": 60, "batch_size": 16, "lr": 0.01})
    folder = tmp_path / "run"
    command = [sys.executable, drivers.__file__, "train", str(recipe), "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True) as process:
        lines = iter(process.stderr.readline, "")
        assert any("epoch 2/" in line for line in lines)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert rest.splitlines()[-1] == f"anystep train: interrupted; go on with: anystep train --resume {folder}"
    assert "Traceback" not in rest
    assert 2 <= load_training(folder / "checkpoints" / "last.pt")["epoch"] < 60
    assert main(["train", "--resume", str(folder)]) == 0
    assert len((folder / "log.jsonl").read_text().splitlines()) == 60
    assert len(json.loads((folder / "scores.json").read_text())["prefix_top1"]) == 3

"""Several processes: the same result as one, and a way on when one dies or is interrupted."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import drivers
import pytest
import torch

from anystep.cli import main
from anystep.folder import RunFolder, load_model
from anystep.nn.models.base import StepModel
from anystep.training.fabric import make_fabric


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def test_two_processes_train_what_one_trains(tmp_path):
    """With batch norm, TKS and gradient clipping: statistics, loss and gradients are all shared."""
    drivers.fit_tiny(make_fabric(accelerator="cpu"), tmp_path / "one.pt")
    make_fabric(accelerator="cpu", devices=2).launch(drivers.fit_tiny, tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert largest_difference(one["model"], two["model"]) < 1e-5
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        keys = ("train_loss", "train_acc", "val_loss", "val_acc")
        assert [ours[key] for key in keys] == pytest.approx([theirs[key] for key in keys], abs=1e-5)


def fit_tiny_again(fabric, path):
    """`fit_tiny` in a process of its own, whose networks all recompute their blocks."""
    StepModel.recompute = True
    drivers.fit_tiny(fabric, path)


def test_of_two_runs_at_once_in_one_folder_one_is_told_of_the_other(tmp_path, tiny_rows):
    train = {"epochs": 400, "batch_size": 16, "lr": 0.01}
    recipe = drivers.write_recipe(tmp_path, train=train, method={"name": "ce"})
    folder, said = tmp_path / "out" / "ce-seed0", tmp_path / "said.txt"
    said.touch()
    compare = ("compare", recipe, "--methods", "ce", "--seeds", "1", "--out", folder.parent)
    first = drivers.Command(*compare, output=tmp_path / "output.txt")
    first.start()
    while first.is_alive() and not (folder / "log.jsonl").exists():
        time.sleep(0.01)
    others = [("train", recipe, "--out", folder, "--seed", seed) for seed in (0, 1)]
    others += [("train", "--resume", folder), compare]
    others += [("sweep", recipe, "--train-steps", "1", "--out", folder.parent)]
    for other in others:
        assert drivers.Command(*other, output=said).run_to_end() in (1, 2)
    first.kill()
    first.join()
    own, holder = f"holds this run, unfinished: go on with: .* {folder}", f"process {first.pid} on "
    busy = [f"{place} is in use by {holder}.*: wait for" for place in (folder, folder.parent)]
    expected = [own, "holds another run", busy[0], busy[1], busy[1]]
    for line, words in zip(said.read_text().splitlines(), expected, strict=True):
        assert re.search(words, line), line
    with RunFolder(folder).alone():
        pass  # the lock went with its process


@pytest.mark.slow
def test_of_two_runs_begun_at_the_same_moment_one_is_made_and_is_whole(tmp_path, tiny_rows):
    recipe = drivers.write_recipe(tmp_path, train={"epochs": 1, "batch_size": 16, "lr": 0.01})
    for number in range(6):
        folder, output = tmp_path / f"run-{number}", tmp_path / "output.txt"
        pair = [
            drivers.Command("train", recipe, "--out", folder, "--seed", seed, output=output)
            for seed in (0, 1)
        ]
        for each in pair:
            each.start()
        for each in pair:
            each.join(120)
        codes = [each.exitcode for each in pair]
        assert sorted(codes)[0] == 0 < sorted(codes)[1], output.read_text()
        assert RunFolder(folder).read().seed == codes.index(0)
        load_model(folder)


@pytest.mark.slow
def test_two_processes_that_recompute_train_what_one_trains_that_does_not(tmp_path):
    """The second run of a block has sums of its own over the processes, amid the gradients'."""
    drivers.fit_tiny(make_fabric(accelerator="cpu"), tmp_path / "one.pt")
    make_fabric(accelerator="cpu", devices=2).launch(fit_tiny_again, tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / name)["model"] for name in ("one.pt", "two.pt"))
    assert largest_difference(one, two) < 1e-5
    counts = [value for key, value in two.items() if key.endswith("num_batches_tracked")]
    assert counts == [12, 12]


@pytest.mark.slow
def test_a_killed_worker_ends_the_other_and_the_run_goes_on(tmp_path, tiny_rows, capsys):
    train = {"epochs": 4, "batch_size": 16, "lr": 0.01}
    method = {"name": "dying", "options": {"marker": str(tmp_path / "has-died")}}
    recipe = drivers.write_recipe(tmp_path, train=train, method=method)
    folder = tmp_path / "run"
    assert main(["train", str(recipe), "--out", str(folder), "--engine.devices", "2"]) == 1
    message = capsys.readouterr().err
    assert "anystep train: a worker " in message
    assert f"go on with: anystep train --resume {folder}" in message
    assert "Traceback" not in message, message
    assert "SIGKILL" in message or "closed" in message, message
    assert not multiprocessing.active_children()
    assert RunFolder(folder).load_training()["epoch"] == 2

    assert main(["train", "--resume", str(folder)]) == 0
    one = tmp_path / "one"  # process, never killed
    assert main(["train", str(recipe), "--out", str(one)]) == 0
    weights = [load_model(place).state_dict() for place in (folder, one)]
    assert largest_difference(*weights) < 1e-5


def test_ctrl_c_leaves_a_run_that_goes_on_and_says_how(tmp_path, tiny_rows):
    recipe = drivers.write_recipe(tmp_path, train={"epochs": 60, "batch_size": 16, "lr": 0.01})
    folder, output = tmp_path / "run", tmp_path / "output.txt"
    output.touch()
    process = drivers.Command("train", recipe, "--out", folder, output=output)
    process.start()
    while process.is_alive() and "epoch 2/" not in output.read_text():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    said = output.read_text()
    assert process.exitcode == 130, said
    assert "Traceback" not in said
    way_on = f"anystep train: interrupted; go on with: anystep train --resume {folder}"
    assert said.splitlines()[-1] == way_on
    assert 2 <= RunFolder(folder).load_training()["epoch"] < 60
    assert main(["train", "--resume", str(folder)]) == 0
    assert len((folder / "log.jsonl").read_text().splitlines()) == 60
    assert (folder / "scores.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", "first"])
def test_ctrl_c_stops_two_processes_together(tmp_path, tiny_rows, whom):
    """A terminal interrupts all processes; `kill -INT` only the first, which stops the others."""
    train = {"epochs": 200, "batch_size": 16, "lr": 0.01}
    engine = {"accelerator": "cpu", "devices": 2}
    recipe = drivers.write_recipe(tmp_path, train=train, engine=engine)
    folder = tmp_path / "run"
    command = [sys.executable, drivers.__file__, "train", str(recipe), "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert any("epoch 2/" in line for line in iter(process.stderr.readline, ""))
        (os.killpg if whom == "all" else os.kill)(process.pid, signal.SIGINT)
        rest = process.stderr.read()  # ends when the last process that could write there has ended
        assert process.wait(60) == 130, rest
    assert f"go on with: anystep train --resume {folder}" in rest
    assert not (folder / "scores.json").exists()  # the workers did not train on to the end

"""A run that was stopped at any moment goes on to the very bits of one that was not."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from dataclasses import replace

import drivers
import numpy as np
import pytest

from anystep import folder, run
from anystep.config import load_recipe, record_from
from anystep.folder import RunFolder, load_model
from anystep.run import run_record
from anystep.training import fit as train

CLOCK = ("seconds", "samples_per_s", "mem_mib")
EPOCHS = 12


def result_of(folder):
    """All that a finished run says, apart from its clock and memory."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    with np.load(folder / "outputs.npz") as file:
        outputs = {key: file[key].tolist() for key in file.files}
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "scores": (folder / "scores.json").read_text(),
        "outputs": outputs,
        "log": [{key: value for key, value in line.items() if key not in CLOCK} for line in lines],
    }


def assert_same(folder, expected):
    got = result_of(folder)
    for part, value in expected.items():
        assert got[part] == value, part
    leftovers = [path.name for path in folder.rglob("*") if path.suffix == ".part"]
    assert not leftovers


class Runs:
    """Runs of one recipe, each step of them in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.recipe = drivers.write_recipe(
            folder, train={"epochs": EPOCHS, "batch_size": 16, "lr": 0.01}, select="best"
        )

    def go(self, run_folder, **options):
        begun = (run_folder / "config.yaml").exists()
        arguments = ("--resume", run_folder) if begun else (self.recipe, "--out", run_folder)
        return drivers.Command("train", *arguments, output=self.folder / "output.txt", **options)

    def finish(self, run_folder):
        code = self.go(run_folder).run_to_end()
        assert code == 0, (self.folder / "output.txt").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def uninterrupted(runs):
    runs.finish(runs.folder / "whole")
    return result_of(runs.folder / "whole")


def kill_one(runs, folder, kill, chance):
    """One kill; True if the run was still going then. "write": halfway through a checkpoint's
    writing, "early": at a random moment after the start, "training": at a random moment after an
    epoch more is done.
    """
    if kill == "write":
        return runs.go(folder, die_in_write=chance.randint(2, 3)).run_to_end() == -9
    process = runs.go(folder)
    log = folder / "log.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else 0
    process.start()
    while (
        kill == "training"
        and process.is_alive()
        and not (log.exists() and log.stat().st_mtime_ns > before)
    ):
        time.sleep(0.002)
    process.join(chance.uniform(0, 0.15 if kill == "training" else 0.8))
    process.kill()
    process.join()
    return process.exitcode == -9


def survive(runs, name, kills, seed, uninterrupted):
    """Kill runs until all `kills` have landed. A run that reaches its end, between kills or after
    the last, must be the uninterrupted one to the bit; where it came to its end too early, another
    one takes the remaining kills.
    """
    chance, number, landed_in_training = random.Random(seed), 0, 0
    waiting = list(kills)
    while waiting:
        number += 1
        folder = runs.folder / f"{name}-{number}"
        while waiting and kill_one(runs, folder, waiting[0], chance):
            waiting.pop(0)
            landed_in_training += (folder / "checkpoints" / "last.pt").exists()
        runs.finish(folder)
        assert_same(folder, uninterrupted)
    assert landed_in_training, "no kill landed after the first checkpoint: this run tested nothing"


def test_three_kills_one_of_them_in_the_write_change_no_bit(runs, uninterrupted):
    survive(runs, "few", ["training", "write", "training"], 1, uninterrupted)


@pytest.mark.slow
def test_twenty_kills_two_of_them_in_the_write_change_no_bit(runs, uninterrupted):
    kills = ["training"] * 8 + ["write"] + ["early"] * 6 + ["write"] + ["training"] * 4
    survive(runs, "many", kills, 2, uninterrupted)


def test_a_process_killed_in_the_write_leaves_the_checkpoint_before_it(runs):
    folder = runs.folder / "in-write"
    assert runs.go(folder, die_in_write=3).run_to_end() == -9
    assert RunFolder(folder).load_training()["epoch"] == 2
    assert len(list((folder / "checkpoints").glob(".last.pt.*.part"))) == 1


@pytest.fixture
def record(tmp_path, tiny_rows):
    return record_from(load_recipe(drivers.write_recipe(tmp_path)))


def interrupted_once(monkeypatch, target, name, *, call, after=False):
    """Make call number `call` (from 1) of `target.name` raise KeyboardInterrupt, before or after
    its work.
    """
    original, calls = getattr(target, name), []

    def interrupting(*arguments, **options):
        calls.append(None)
        if len(calls) == call and not after:
            raise KeyboardInterrupt
        result = original(*arguments, **options)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(target, name, interrupting)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (folder, "write_json", 1),
        (run, "load_splits", 1),
        (folder.RunFolder, "save_training", 1),
        (folder.RunFolder, "save_training", 3),
        (folder.RunFolder, "save_training", 4),
        (folder.RunFolder, "save_network", 1),
        (run, "judge_and_write", 1),
    ],
)
def test_a_run_stopped_beside_any_write_is_made_whole(
    tmp_path, record, monkeypatch, target, name, call, after
):
    run_record(record, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted_once(patch, target, name, call=call, after=after)
        with pytest.raises(KeyboardInterrupt):
            run_record(record, tmp_path / "stopped")
    run_record(record, tmp_path / "stopped", resume=True)
    assert_same(tmp_path / "stopped", result_of(tmp_path / "whole"))


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_run_of_two_phases_stopped_in_any_epoch_goes_on_to_the_same_bits(
    tmp_path, record, monkeypatch, call
):
    record = replace(
        record,
        method=replace(record.method, name="pair"),
        train=replace(record.train, epochs=4),
        select="best",
    )
    run_record(record, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted_once(patch, train, "validate", call=call)
        with pytest.raises(KeyboardInterrupt):
            run_record(record, tmp_path / "stopped")
    run_record(record, tmp_path / "stopped", resume=True)
    assert_same(tmp_path / "stopped", result_of(tmp_path / "whole"))
    assert [row["phase"] for row in result_of(tmp_path / "stopped")["log"]] == [
        "ann",
        "ann",
        "snn",
        "snn",
    ]


def test_the_best_network_survives_a_stop_in_a_later_epoch(tmp_path, record, monkeypatch):
    accuracies, seen = iter([10.0, 90.0, KeyboardInterrupt, 20.0]), []

    def scripted(model, dataset, **options):
        accuracy = next(accuracies)
        if accuracy is KeyboardInterrupt:
            raise KeyboardInterrupt
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"val_loss": 1.0, "val_acc": accuracy, "val_acc_first": 0.0}

    monkeypatch.setattr(train, "validate", scripted)
    record = replace(record, select="best")
    with suppress(KeyboardInterrupt):
        run_record(record, tmp_path / "run")
    run_record(record, tmp_path / "run", resume=True)
    kept = load_model(tmp_path / "run").state_dict()
    assert [
        bool((seen[epoch]["classifier.weight"] == kept["classifier.weight"]).all())
        for epoch in range(3)
    ] == [*(False, True, False)]


def test_going_on_with_a_finished_run_trains_nothing(tmp_path, record, monkeypatch):
    scores = run_record(record, tmp_path / "run")
    monkeypatch.setattr(run, "fit", None)
    assert run_record(record, tmp_path / "run", resume=True) == scores


def test_going_on_without_the_optimizer_would_change_the_weights(tmp_path, record, monkeypatch):
    """What the tests above rely on: they would see a lost Adam state."""
    run_record(record, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted_once(patch, train, "validate", call=2)
        with suppress(KeyboardInterrupt):
            run_record(record, tmp_path / "stopped")
    stopped = RunFolder(tmp_path / "stopped")
    saved = stopped.load_training()
    saved["optimizer"]["state"] = {}
    stopped.save_training(saved, saved["history"])
    run_record(record, tmp_path / "stopped", resume=True)
    assert result_of(tmp_path / "stopped")["weights"] != result_of(tmp_path / "whole")["weights"]

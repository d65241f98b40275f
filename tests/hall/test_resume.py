"""A run that was stopped at any moment goes on to the very bits of one that was not."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import drivers
import numpy as np
import pytest

from anystep import folder, run
from anystep.folder import RunFolder
from anystep.run import run_record
from anystep.training import fit as train

CLOCK = ("seconds", "samples_per_s", "mem_mib")


def result_of(folder):
    """All that a finished run says, apart from its clock and memory."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    with np.load(folder / "outputs.npz") as file:
        outputs = {key: file[key].tolist() for key in file.files}
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "scores": RunFolder(folder).read_scores(),
        "outputs": outputs,
        "log": [{key: value for key, value in line.items() if key not in CLOCK} for line in lines],
    }


def assert_same(folder, expected):
    got = result_of(folder)
    for part, value in expected.items():
        assert got[part] == value, part
    assert not list(folder.rglob("*.part"))


def go(folder, **options):
    """A process that begins a run of the recipe beside `folder`, or goes on with it."""
    begun = (folder / "config.yaml").exists()
    arguments = ("--resume", folder) if begun else (folder.with_name("tiny.yaml"), "--out", folder)
    output = folder.with_name("output.txt")
    return drivers.Command("train", *arguments, output=output, **options)


def finish(folder):
    assert go(folder).run_to_end() == 0, folder.with_name("output.txt").read_text()
    return result_of(folder)


def kill_one(folder, kill, chance):
    """One kill; True if the run was still going then. "write": halfway through a checkpoint's
    writing, "early": at a random moment after the start, "training": at a random moment after an
    epoch more is done.
    """
    if kill == "write":
        return go(folder, die_in_write=chance.randint(2, 3)).run_to_end() == -9
    process, log = go(folder), folder / "log.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else None
    process.start()
    if kill == "training":
        while process.is_alive() and (not log.exists() or log.stat().st_mtime_ns == before):
            time.sleep(0.002)
    process.join(chance.uniform(0, 0.15 if kill == "training" else 0.8))
    process.kill()
    process.join()
    return process.exitcode == -9


FEW = ["training", "write", "training"]
MANY = ["training"] * 8 + ["write"] + ["early"] * 6 + ["write"] + ["training"] * 4


@pytest.mark.parametrize("kills", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_kills_some_of_them_in_the_write_change_no_bit(tmp_path, kills):
    """A run that comes to its end before all kills have landed must be right as well; another one
    takes the remaining kills.
    """
    plan = {"epochs": 12, "batch_size": 16, "lr": 0.01}
    drivers.write_recipe(tmp_path, train=plan, select="best")
    uninterrupted = finish(tmp_path / "whole")
    chance, waiting, landed_in_training, number = random.Random(len(kills)), list(kills), 0, 0
    while waiting:
        number += 1
        folder = tmp_path / f"run-{number}"
        while waiting and kill_one(folder, waiting[0], chance):
            waiting.pop(0)
            landed_in_training += (folder / "checkpoints" / "last.pt").exists()
        finish(folder)
        assert_same(folder, uninterrupted)
    assert landed_in_training, "no kill landed after the first checkpoint: this run tested nothing"


@pytest.fixture
def recipe(tmp_path, tiny_rows):
    return drivers.write_recipe(tmp_path)


@pytest.fixture
def stopped_once(tmp_path, monkeypatch):
    """Run a record whole, and another time until call number `call` (from 1) of `target.name`,
    which raises KeyboardInterrupt before or after its work. Returns the two folders.
    """

    def stop(record, target, name, *, call, after=False):
        original, calls = getattr(target, name), []

        def interrupting(*arguments, **options):
            calls.append(None)
            result = None
            if len(calls) < call or after:
                result = original(*arguments, **options)
            if len(calls) == call:
                raise KeyboardInterrupt
            return result

        run_record(record, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(target, name, interrupting)
            with pytest.raises(KeyboardInterrupt):
                run_record(record, tmp_path / "stopped")
        return tmp_path / "whole", tmp_path / "stopped"

    return stop


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (folder, "write_json", 1),
        (run, "load_splits", 1),
        (RunFolder, "save_training", 1),
        (RunFolder, "save_training", 3),
        (RunFolder, "save_training", 4),
        (RunFolder, "save_network", 1),
        (run, "judge_and_write", 1),
    ],
)
def test_a_run_stopped_beside_any_write_is_made_whole(
    record, stopped_once, target, name, call, after
):
    whole, stopped = stopped_once(record, target, name, call=call, after=after)
    run_record(record, stopped, resume=True)
    assert_same(stopped, result_of(whole))


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_run_of_two_phases_stopped_in_any_epoch_goes_on_to_the_same_bits(
    record, stopped_once, call
):
    method, plan = replace(record.method, name="pair"), replace(record.train, epochs=4)
    record = replace(record, method=method, train=plan, select="best")
    whole, stopped = stopped_once(record, train, "validate", call=call)
    run_record(record, stopped, resume=True)
    assert_same(stopped, result_of(whole))
    assert [row["phase"] for row in result_of(stopped)["log"]] == ["ann", "ann", "snn", "snn"]


def test_deleting_a_spoilt_checkpoint_starts_afresh_to_the_same_bits(record, stopped_once):
    """The way out that `load_training` offers."""
    whole, stopped = stopped_once(record, RunFolder, "save_network", call=1)
    (stopped / "checkpoints" / "last.pt").unlink()
    run_record(record, stopped, resume=True)
    assert_same(stopped, result_of(whole))


def test_going_on_without_the_optimizer_would_change_the_weights(record, stopped_once):
    """What the tests above rely on: they would see a lost Adam state."""
    whole, stopped = stopped_once(record, train, "validate", call=2)
    place = RunFolder(stopped)
    saved = place.load_training()
    saved["optimizer"]["state"] = {}
    place.save_training(saved, saved["history"])
    run_record(record, stopped, resume=True)
    assert result_of(stopped)["weights"] != result_of(whole)["weights"]

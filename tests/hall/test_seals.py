"""State that is damaged, edited or another run's is refused by file name; a kill is no damage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import drivers
import numpy as np
import pytest
import torch
from fake_runs import edit, make_run

from anystep import _files, intact
from anystep._errors import UsageError
from anystep.config import load_recipe, record_from
from anystep.folder import RunFolder, load_model
from anystep.run import run_record

LAST = "checkpoints/last.pt"
NAMES = ("config.yaml", "env.json", "log.jsonl", "model.safetensors", "outputs.npz", "scores.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs that differ in their seed and in nothing else."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(drivers.DATASETS, "tiny", drivers.tiny)
        train = {"epochs": 1, "batch_size": 16, "lr": 0.01}
        recipe = drivers.write_recipe(place, train=train, method={"name": "ce"})
        record = record_from(load_recipe(recipe))
        for seed in (0, 1):
            run_record(replace(record, seed=seed), place / f"seed{seed}")
    return place


@pytest.fixture
def run(trained, tmp_path, tiny_rows):
    return shutil.copytree(trained / "seed0", tmp_path / "run")


READERS = {
    LAST: lambda run: RunFolder(run).load_training(),
    "model.safetensors": load_model,
    "outputs.npz": lambda run: RunFolder(run).read(),
}


@pytest.mark.parametrize("name", READERS)
def test_every_flipped_bit_is_refused_by_file_name(run, name):
    READERS[name](run)
    whole = (run / name).read_bytes()
    places = np.linspace(0, 8 * len(whole) - 1, 24).astype(int)
    last = np.arange(8 * len(whole) - 1, 8 * (len(whole) - 90), -97)  # where the seal is
    for place in (*places, *last):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        (run / name).write_bytes(flipped)
        with pytest.raises(UsageError, match=rf"{name} (is|holds|asks)"):
            READERS[name](run)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_run_is_refused_by_its_name(run, trained, terminal, name):
    shutil.copy(trained / "seed1" / name, run / name)
    command = "evaluate" if name == "model.safetensors" else "report"
    # Of foreign scores it cannot be said whether they or all other files are foreign
    refused = "config.yaml" if name == "scores.json" else name
    assert f"run/{refused} is damaged, edited or another run's" in terminal.refused(command, run)


def test_what_was_edited_after_the_run_is_refused_by_every_command(run, terminal):
    text = (run / "scores.json").read_text()
    (run / "scores.json").write_text(text.replace('"samples": 24', '"samples": 25'))
    assert "scores.json is damaged or was edited" in terminal.refused("train", "--resume", run)
    (run / "scores.json").write_text(text)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: ce", "name: tet"))
    for command in ("report", "evaluate", "train --resume"):
        assert "config.yaml is damaged, edited or" in terminal.refused(*command.split(), run)
    (run / "scores.json").unlink()  # unfinished: the checkpoint knows its record
    assert "last.pt is of another record than" in terminal.refused("train", "--resume", run)


def test_a_checkpoint_of_another_run_is_refused(run, trained, terminal):
    (run / "scores.json").unlink()
    shutil.copy(trained / "seed1" / LAST, run / LAST)
    assert f"{LAST} is of another record than" in terminal.refused("train", "--resume", run)


def saved_without(run, *keys, **changes):
    """Write the run's training state again, as an older version did: with no hashes."""
    (run / "scores.json").unlink(missing_ok=True)
    state = torch.load(run / LAST)
    kept = {key: value for key, value in state.items() if key not in ("record", *keys)}
    torch.save({**kept, **changes}, run / LAST)


@pytest.mark.parametrize("key", ["phase", "networks", "history"])
def test_a_checkpoint_without_a_key_is_refused_by_file_name(run, terminal, key):
    saved_without(run, key)
    said = terminal.refused("train", "--resume", run)
    assert LAST in said
    assert f"'{key}' is missing" in said


def test_a_checkpoint_of_another_network_is_refused_by_file_name(run, terminal):
    other = {"train": {"weight": torch.zeros(1)}}
    saved_without(run, networks=other)
    assert f"{LAST} does not fit the network" in terminal.refused("train", "--resume", run)


def test_code_in_a_checkpoint_is_refused_without_advice_to_run_it(run, terminal):
    saved_without(run, networks={"train": partial(print, "hello")})
    said = terminal.refused("train", "--resume", run)
    assert "it asks for code to be run" in said
    assert "weights_only" not in said


# What a run that was made by hand, or by an older version, may hold

DAMAGE = [
    ("scores.json", lambda text: "[]", "it must hold a mapping, not list"),
    ("scores.json", lambda text: "[" * 100_000, "recursion"),
    ("scores.json", lambda text: text.replace('"steps": 3', '"steps": "3"'), "'steps' must be"),
    ("scores.json", lambda text: json.dumps(json.loads(text) | {"ece": 3}), "'ece' must be 3"),
    (
        "scores.json",
        lambda text: json.dumps(json.loads(text) | {"confusion": {}}),
        "'confusion' at",
    ),
    ("env.json", lambda text: "{", "env.json is truncated or not"),
    ("env.json", lambda text: "3", "it must hold a mapping, not int"),
    ("env.json", lambda text: "{}", "'versions' must be a mapping"),
    ("log.jsonl", lambda text: "[]\n", "line 1 must have the numbers train_loss and val_acc"),
    ("log.jsonl", lambda text: text.replace("2.0", '"2"'), "line 1 must have the numbers"),
]


@pytest.mark.parametrize(("name", "damage", "word"), DAMAGE)
def test_contents_of_another_shape_are_refused_by_file_name(tmp_path, terminal, name, damage, word):
    file = make_run(tmp_path / "x", samples=4, size=2) / name
    file.write_text(damage(file.read_text()))
    said = terminal.refused("report", "x")
    assert name in said
    assert word in said


@pytest.mark.parametrize("name", ["env.json", "scores.json"])
def test_resuming_names_the_file_that_is_damaged(run, terminal, name):
    if name == "env.json":
        (run / "scores.json").unlink()
    for damaged in ("{", "[]", "\x00"):
        (run / name).write_text(damaged)
        assert f"run/{name} is truncated or not" in terminal.refused("train", "--resume", run)


@pytest.mark.parametrize("section", [{"method": None}, {"seed": "x"}, {"train": [1]}])
def test_a_record_without_its_sections_is_refused(tmp_path, terminal, section):
    edit(make_run(tmp_path / "x", samples=4, size=2), **section)
    assert "config.yaml is truncated or not what it should be" in terminal.refused("report", "x")


OUTPUTS = [
    ("logits", np.zeros((3, 4, 5)), r"'logits' must be numbers \(3, 4, 4\)"),
    ("labels", np.full(4, 9), "'labels' are not of the classes"),
    ("ids", np.arange(3), "'ids' must be"),
    ("example_index", np.int64(4), "'example_index' is no sample"),
    ("features", np.array([["a"]]), "'features' must be numbers"),
]


@pytest.mark.parametrize(("key", "array", "message"), OUTPUTS)
def test_outputs_that_are_not_those_of_the_scores_are_refused(tmp_path, key, array, message):
    run = make_run(tmp_path / "x", samples=4, size=2)
    with np.load(run / "outputs.npz") as file:
        arrays = dict(file)
    np.savez(run / "outputs.npz", **(arrays | {key: array}))
    with pytest.raises(UsageError, match=rf"outputs\.npz is .*: {message}"):
        RunFolder(run).read()


def test_outputs_that_unpack_to_too_much_or_have_a_bad_block_are_refused(tmp_path, monkeypatch):
    run = make_run(tmp_path / "x", samples=4, size=2)
    file = run / "outputs.npz"
    np.savez_compressed(file, logits=np.zeros(300_000))
    whole = file.read_bytes()
    file.write_bytes(whole[:300] + bytes(40) + whole[340:])
    with pytest.raises(UsageError, match=r"outputs\.npz is truncated or not"):
        RunFolder(run).read()
    file.write_bytes(whole)
    monkeypatch.setattr(intact, "LARGEST", 1 << 20)
    with pytest.raises(UsageError, match=r"outputs\.npz is .*: it would unpack to 2400128 bytes"):
        RunFolder(run).read()


# Links, and files that are written over


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", LAST])
def test_a_run_folder_with_a_link_in_it_is_not_written(run, terminal, tmp_path, name):
    (run / "scores.json").unlink()
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    here = elsewhere / ".notes.part" if elsewhere.is_dir() else tmp_path / "kept"
    here.write_text("mine")
    assert f"run/{name} is a link" in terminal.refused("train", "--resume", run)
    assert here.read_text() == "mine"


def test_a_report_does_not_write_over_a_record(run, terminal):
    before = (run / "config.yaml").read_text()
    said = terminal.refused("report", run, "--out", run / "config.yaml")
    assert "must end in .html" in said
    assert (run / "config.yaml").read_text() == before


# Kills


WRITTEN = [
    *("env.json", "config.yaml", *["log.jsonl", "last.pt"] * 2, "ann.safetensors"),
    *(*["log.jsonl", "last.pt"] * 2, "model.safetensors", "outputs.npz", "scores.json"),
]
FEW = [2, 6, 13]  # after the record; after a checkpoint that is ahead of its network; the last


@pytest.mark.parametrize(
    "kills", [FEW, pytest.param(range(1, len(WRITTEN)), marks=pytest.mark.slow)]
)
def test_a_kill_after_any_write_leaves_a_run_that_goes_on_and_is_whole(
    tmp_path, tiny_rows, monkeypatch, kills
):
    plan = {"epochs": 2, "batch_size": 64}
    recipe = drivers.write_recipe(tmp_path, method={"name": "pair"}, train=plan)
    record = record_from(load_recipe(recipe))
    replaced, names = _files.os.replace, []

    def die(temporary, target, last):
        replaced(temporary, target)
        names.append(target.name)
        if len(names) == last:
            raise KeyboardInterrupt

    def go(folder, last):
        names.clear()
        monkeypatch.setattr(_files.os, "replace", partial(die, last=last))
        return run_record(record, folder, resume=True)

    scores = go(tmp_path / "whole", 0)
    assert names == WRITTEN
    for last in kills:
        folder = tmp_path / str(last)
        with pytest.raises(KeyboardInterrupt):
            go(folder, last)
        assert names == WRITTEN[:last]
        go(folder, 0)
        assert RunFolder(folder).read().scores == scores, names
        for name in ("model.safetensors", "checkpoints/ann.safetensors"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), names


@pytest.mark.parametrize("workers", [0, 1])
def test_one_nan_in_the_input_is_refused_by_its_sample(terminal, tmp_path, tiny_rows, workers):
    recipe = drivers.write_recipe(tmp_path)
    flags = ("--data.options.flaw", "nan", "--train.workers", workers)
    said = terminal(*("train", recipe, "--out", "run", *flags))
    assert (said[0], said[2].splitlines()[-1].partition(": ")[2]) == (
        2,
        "sample 57 (157) has a value that is no finite number (NaN or inf)",
    )

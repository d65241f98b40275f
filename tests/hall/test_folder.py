"""What lies in a run folder: read back whole, or refused by name with a way out."""

from __future__ import annotations

import json
import os

import drivers
import numpy as np
import pytest
import torch
from fake_runs import make_run

from anystep._errors import UsageError
from anystep.cli import main
from anystep.config import Record, load_recipe, record_from
from anystep.folder import RunFolder, load_model, read_runs, runs_in, scores_beside
from anystep.nn.models import create_model
from anystep.nn.weights import save_model

MADE_BY = {"name": "vgg_snn", "num_classes": 4, "input_size": 12, "widths": [[4], [8]]}


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, create_model(**MADE_BY), made_by=MADE_BY)
    return path


@pytest.fixture
def begun(tmp_path):
    """A folder that a run has begun in."""
    folder = RunFolder(tmp_path / "run")
    folder.open(Record(), {"device": "cpu"})
    return folder


@pytest.fixture
def finished(tmp_path):
    return make_run(tmp_path / "x", samples=4, size=2)


# The training state


def test_a_training_state_comes_back_with_its_log(begun):
    rows = [{"loss": 0.5, "parts": {"ce": 0.5}}]
    assert begun.load_training() is None
    begun.save_training({"model": {"w": torch.arange(3.0)}, "epoch": 3, "best": {}}, rows)
    loaded = begun.load_training()
    assert torch.equal(loaded["model"].pop("w"), torch.arange(3.0))
    assert loaded == {"model": {}, "epoch": 3, "best": {}, "history": rows}
    assert json.loads((begun.path / "log.jsonl").read_text()) == rows[0]


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_training_state_is_refused_with_its_path_and_a_way_out(begun, keep):
    begun.save_training({"w": torch.rand(1000)}, [])
    path = begun.path / "checkpoints" / "last.pt"
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(
        UsageError, match=r"last\.pt is truncated .*: delete it, and --resume starts"
    ):
        begun.load_training()


def test_a_training_state_that_would_run_code_is_refused(begun, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    begun.save_training({"evil": Evil()}, [])
    with pytest.raises(UsageError, match="truncated or not a checkpoint"):
        begun.load_training()
    assert not (tmp_path / "was-run").exists()


def test_a_full_disk_is_named_and_the_run_goes_on_from_the_checkpoint_before(tmp_path, tiny_rows):
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
    assert RunFolder(folder).load_training()["epoch"] == 1
    assert main(["train", "--resume", str(folder)]) == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


# The network


def test_a_run_folder_stands_for_its_network(network):
    weights = [load_model(place).classifier.weight for place in (network, network.parent)]
    assert torch.equal(*weights)


def test_a_spoilt_or_missing_network_is_refused_with_a_way_out(network):
    os.truncate(network, 300)
    with pytest.raises(UsageError, match=r"safetensors is truncated .*: it is not in a run folder"):
        load_model(network)
    (network.parent / "config.yaml").touch()
    (network.parent / "scores.json").touch()
    way_out = r"delete model.safetensors and scores.json, then go on with: anystep train --resume /"
    with pytest.raises(UsageError, match=way_out):
        load_model(network)
    for name in ("model.safetensors", "scores.json"):
        (network.parent / name).unlink()
    with pytest.raises(UsageError, match=r"does not exist: go on with: anystep train --resume /"):
        load_model(network.parent)


def test_the_scores_of_a_network_are_those_of_its_run(finished, tmp_path):
    twin = finished / "checkpoints" / "ann.safetensors"
    assert scores_beside(twin) == scores_beside(finished) == RunFolder(finished).read_scores()
    assert scores_beside(tmp_path / "lone.safetensors") is None


# Reading for a report


def test_a_finished_run_is_read_whole(finished):
    run = RunFolder(finished).read()
    assert (run.label, run.method, run.seed, run.steps) == ("x", "ce", 0, 3)
    assert [row["epoch"] for row in run.log] == [1, 2, 3]
    assert run.outputs["logits"].shape == (3, 4, 4)
    assert np.array_equal(run.values("prefix_top1"), run.scores["prefix_top1"])


def test_folders_of_one_name_are_told_apart_by_their_parents(tmp_path):
    runs = [make_run(tmp_path / m / "0", method=m, samples=4, size=2) for m in ("ce", "tks")]
    assert [record.label for record in read_runs(runs)] == ["ce/0", "tks/0"]
    assert runs_in(tmp_path / "ce") == runs_in(runs[0]) == [runs[0]]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.yaml", "is not a run folder: it has no config.yaml"),
        ("scores.json", "is an unfinished run: .* go on with: anystep train --resume .*x"),
        ("env.json", "env.json is missing"),
        ("log.jsonl", "log.jsonl is missing"),
        ("outputs.npz", "outputs.npz is missing"),
    ],
)
def test_a_folder_without_a_file_is_refused_by_name(finished, file, message):
    (finished / file).unlink()
    with pytest.raises(UsageError, match=message):
        RunFolder(finished).read()


@pytest.mark.parametrize("file", ["scores.json", "env.json", "log.jsonl", "outputs.npz"])
def test_a_truncated_file_is_named(finished, file):
    whole = (finished / file).read_bytes()
    (finished / file).write_bytes(whole[: len(whole) - len(whole) // 3])
    with pytest.raises(UsageError, match=rf"{file}.* is truncated or not"):
        RunFolder(finished).read()


def test_runs_that_cannot_share_a_page_are_refused(tmp_path):
    runs = [make_run(tmp_path / n, samples=4, size=2, names=n) for n in ("ab", "cd")]
    with pytest.raises(UsageError, match="ab and cd do not have the same classes"):
        read_runs(runs)
    with pytest.raises(UsageError, match=r"each once; these are named: .*ab, .*ab"):
        read_runs([runs[0], runs[0]])
    with pytest.raises(UsageError, match="these are named: none"):
        read_runs([])


# Beginning and going on


def test_a_folder_left_half_begun_can_be_used(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.path / "checkpoints").mkdir(parents=True)
    (folder.path / "env.json").write_text("{}")
    (folder.path / ".config.yaml.x.part").write_text("na")
    folder.check_free(Record(), resume=False)
    folder.open(Record(), {"device": "cpu"})
    assert (
        folder.read_record() == Record() == record_from(load_recipe(tmp_path / "run/config.yaml"))
    )
    assert folder.read_environment() == {"device": "cpu"}
    assert not list(folder.path.glob(".*"))


def test_a_run_that_is_taken_up_again_says_with_what(begun):
    for device in ("this", "that"):
        begun.open(Record(), {"device": device})
    environment = begun.read_environment()
    assert environment == {"device": "cpu", "resumed": [{"device": "this"}, {"device": "that"}]}


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_another_run_is_refused(begun, resume):
    with pytest.raises(UsageError, match=r"holds another run \(its config.yaml differs\): choose"):
        begun.check_free(Record(seed=9), resume=resume)


def test_a_folder_with_this_run_unfinished_says_how_to_go_on(begun):
    with pytest.raises(UsageError, match=r"unfinished: go on with: anystep train --resume .*run$"):
        begun.check_free(Record(), resume=False)
    begun.check_free(Record(), resume=True)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"is not empty and not a run folder: choose another"):
        RunFolder(tmp_path).check_free(Record(), resume=False)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/anystep"])
def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write the run folder .*: [NF]"):
        RunFolder(tmp_path / place).open(Record(), {})

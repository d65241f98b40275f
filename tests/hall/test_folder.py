"""What lies in a run folder: read back whole, or refused by name with a way out."""

from __future__ import annotations

import os

import drivers
import numpy as np
import pytest
import torch
from fake_runs import make_run

from anystep._errors import UsageError
from anystep.cli import main
from anystep.config import Record
from anystep.folder import RunFolder, load_model, read_runs, runs_in, scores_beside
from anystep.nn.models import create_model
from anystep.nn.weights import save_model

MADE_BY = {"name": "vgg_snn", "num_classes": 4, "input_size": 12, "widths": [[4], [8]]}
RESUME = "go on with: anystep train --resume /"


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, create_model(**MADE_BY))
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


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_training_state_is_refused_with_its_path_and_a_way_out(begun, keep):
    begun.save_training({"w": torch.rand(1000)}, [])
    path = begun.path / "checkpoints" / "last.pt"
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(UsageError, match=r"last\.pt is truncated .*: delete it, and --resume"):
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
    folder, whole, output = tmp_path / "run", tmp_path / "whole", tmp_path / "output.txt"
    assert main(["train", str(recipe), "--out", str(whole)]) == 0
    first = drivers.Command("train", recipe, "--out", folder, output=output, die_in_write=2)
    assert first.run_to_end() == -9
    half = (folder / "checkpoints" / "last.pt").stat().st_size // 2
    second = drivers.Command("train", "--resume", folder, output=output, file_limit=half)
    assert second.run_to_end() == 1
    *_, problem, way_on = output.read_text().splitlines()
    assert problem.startswith(f"anystep train: could not write {folder}/checkpoints/last.pt (")
    assert problem.endswith("File too large")
    assert way_on == f"go on with: anystep train --resume {folder}"
    assert RunFolder(folder).load_training()["epoch"] == 1
    assert main(["train", "--resume", str(folder)]) == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


# The network


def test_a_spoilt_or_missing_network_is_refused_with_a_way_out(network):
    folder = network.parent
    weights = [load_model(place).classifier.weight for place in (network, folder)]
    assert torch.equal(*weights)
    os.truncate(network, 300)
    with pytest.raises(UsageError, match=r"safetensors is truncated .*: it is not in a run folder"):
        load_model(network)
    (folder / "config.yaml").touch()
    (folder / "scores.json").touch()
    with pytest.raises(
        UsageError, match=f"delete model.safetensors and scores.json, then {RESUME}"
    ):
        load_model(network)
    network.unlink()
    (folder / "scores.json").unlink()
    with pytest.raises(UsageError, match=f"does not exist: {RESUME}"):
        load_model(folder)


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
        ("scores.json", f"is an unfinished run: .*{RESUME}.*x"),
        ("env.json", "env.json is missing"),
        ("log.jsonl", "log.jsonl is missing"),
        ("outputs.npz", "outputs.npz is missing"),
    ],
)
def test_a_folder_without_a_file_or_with_half_of_it_is_refused_by_name(finished, file, message):
    whole = (finished / file).read_bytes()
    (finished / file).write_bytes(whole[: len(whole) - len(whole) // 3])
    if file != "config.yaml":
        with pytest.raises(UsageError, match=rf"{file}.* is truncated or not"):
            RunFolder(finished).read()
    (finished / file).unlink()
    with pytest.raises(UsageError, match=message):
        RunFolder(finished).read()


def test_runs_that_cannot_share_a_page_are_refused(tmp_path):
    ab, cd = (make_run(tmp_path / names, samples=4, size=2, names=names) for names in ("ab", "cd"))
    for runs, message in (
        ([ab, cd], "ab and cd do not have the same classes"),
        ([ab, ab], "each once; these are named: .*ab, .*ab"),
        ([], "these are named: none"),
    ):
        with pytest.raises(UsageError, match=message):
            read_runs(runs)


# Beginning and going on


def test_a_folder_left_half_begun_can_be_used(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.path / "checkpoints").mkdir(parents=True)
    (folder.path / "env.json").write_text("{}")
    (folder.path / ".config.yaml.x.part").write_text("na")
    folder.check_free(Record(), resume=False)
    folder.open(Record(), {"device": "cpu"})
    assert folder.read_record() == Record()
    assert folder.read_environment() == {"device": "cpu"}
    assert not list(folder.path.glob(".*"))


def test_a_run_that_is_taken_up_again_says_with_what(begun):
    for device in ("this", "that"):
        begun.open(Record(), {"device": device})
    environment = begun.read_environment()
    assert environment == {"device": "cpu", "resumed": [{"device": "this"}, {"device": "that"}]}


def test_a_folder_that_is_in_use_is_refused(begun):
    for record, resume, message in (
        (Record(seed=9), False, "holds another run .*: choose"),
        (Record(seed=9), True, "holds another run .*: choose"),
        (Record(), False, f"unfinished: {RESUME}.*run$"),
    ):
        with pytest.raises(UsageError, match=message):
            begun.check_free(record, resume=resume)
    begun.check_free(Record(), resume=True)
    with pytest.raises(UsageError, match="is not empty and not a run folder: choose another"):
        RunFolder(begun.path.parent).check_free(Record(), resume=False)
    with pytest.raises(UsageError, match="is no UTF-8, as safetensors and TensorBoard need it"):
        RunFolder(os.fsdecode(b"run\xff")).check_free(Record(), resume=False)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/anystep"])
def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write the run folder .*: [NF]"):
        RunFolder(tmp_path / place).open(Record(), {})

"""The command line: exit codes, one JSON line last on stdout, one clear line on stderr for what is
wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import drivers
import pytest
from terminal import Terminal

import anystep
from anystep import cli
from anystep._errors import RunError, UsageError
from anystep._extras import MissingExtraError
from anystep.cli import COMMANDS
from anystep.folder import RunFolder
from anystep.training.methods import METHODS, LossMethod
from anystep.training.phases import Phase


@pytest.fixture
def terminal(capsys, tmp_path, tiny_rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Terminal(capsys, tmp_path)


@pytest.fixture
def late_row(monkeypatch):
    """A method whose network is shown the recording from its second frame on."""

    class Late(LossMethod):
        def __init__(self):
            super().__init__("ce")

        def phases(self):
            return (Phase(frames=slice(1, None)),)

    monkeypatch.setitem(METHODS, "late", Late)


@pytest.fixture
def recipe(tmp_path):
    return drivers.write_recipe(tmp_path, train={"epochs": 1, "batch_size": 16, "lr": 0.01})


def test_train_ends_with_its_accuracies_as_json(terminal, recipe):
    code, out, err = terminal("train", recipe, "--out", "run")
    (line,) = out.splitlines()
    result = json.loads(line)
    assert code == 0
    assert (result["run"], result["protocol"], len(result["prefix_top1"])) == (
        "run",
        "tiny/made-up",
        3,
    )
    assert any(text.startswith("train epoch 1/1 train_loss ") for text in err.splitlines())
    assert "24 test samples, tiny/made-up (0000000000000000), prefix: live" in err


def test_a_run_is_named_for_its_recipe_method_and_seed(terminal, recipe):
    result = terminal.done("train", recipe, "--seed", "4", "--method.name", "ce")
    assert result["run"] == os.path.join("runs", "tiny-ce-seed4")
    assert (terminal.folder / "runs" / "tiny-ce-seed4" / "scores.json").exists()


def test_overrides_reach_the_record_in_both_spellings(terminal, recipe):
    terminal.done(
        "train", recipe, "--out", "run", "--train.lr=0.5", "--model.options.widths", "[[3], [5]]"
    )
    record = RunFolder(terminal.folder / "run").read_record()
    assert (record.train.lr, record.model.options) == (0.5, {"widths": [[3], [5]]})


def test_resume_finishes_a_run_and_takes_nothing_else(terminal, recipe, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            RunFolder, "save_network", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        code, out, err = terminal("train", recipe, "--out", "run")
    assert (code, out) == (130, "")
    assert (
        err.splitlines()[-1] == "anystep train: interrupted; go on with: anystep train --resume run"
    )
    for more in ([recipe], ["--out", "other"], ["--train.epochs", "3"]):
        assert "goes on with that run as it is" in terminal.refused(
            "train", "--resume", "run", *more
        )
    assert terminal.done("train", "--resume", "run")["run"] == "run"


def test_evaluate_gives_the_scores_of_the_run_again(terminal, recipe):
    terminal.done("train", recipe, "--out", "run")
    result = terminal.done("evaluate", "run")
    assert result.pop("run") == "run"
    assert result == json.loads((terminal.folder / "run" / "scores.json").read_text())


def test_compare_ends_with_the_table(terminal, recipe):
    result = terminal.done("compare", recipe, "--methods", "ce,tks", "--seeds", "2", "--out", "out")
    assert set(result) == {"out", "table"}
    assert [(row["method"], row["t"]) for row in result["table"]] == [
        (m, t) for m in ("ce", "tks") for t in (1, 2, 3)
    ]
    for row in result["table"]:
        assert row["label"] == row["method"]
        assert set(row) == {"label", "method", "t", "top1_mean", "top1_sd", "seeds"}
        assert row["seeds"] == [0, 1]
        assert 0 <= row["top1_mean"] <= 100
    one = terminal.done("compare", recipe, "--methods", "ce", "--seeds", "1", "--out", "out")
    assert {row["top1_sd"] for row in one["table"]} == {None}


def test_compare_of_several_recipes_has_a_row_each_and_overrides_reach_all(terminal, recipe):
    drivers.write_recipe(terminal.folder, name="other", method={"name": "ce"}).rename("other.yaml")
    recipe = drivers.write_recipe(terminal.folder)
    code, out, err = terminal(
        "compare", recipe, "other.yaml", "--seeds", "1", "--train.epochs", "1", "--train.lr=0.5"
    )
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["out"] == os.path.join("runs", "compare")
    assert [(row["label"], row["method"]) for row in result["table"][::3]] == [
        ("tiny", "tks"),
        ("other", "ce"),
    ]
    for name in ("tiny", "other"):
        train = (
            RunFolder(terminal.folder / "runs" / "compare" / f"{name}-seed0").read_record().train
        )
        assert (train.epochs, train.lr) == (1, 0.5)
    assert "prefix of t live steps, tiny/made-up (0000000000000000), test" in " ".join(err.split())


def test_compare_says_in_its_rows_that_they_begin_elsewhere(terminal, recipe, late_row):
    code, out, err = terminal(
        "compare", recipe, "--methods", "ce,late", "--seeds", "1", "--out", "out"
    )
    assert code == 0, err
    assert "prefix of t steps as each row says" in " ".join(err.split())
    assert "late (live, from frame 2)" in err
    assert {row["method"]: row["prefix"] for row in json.loads(out)["table"]} == {
        "ce": "live",
        "late": "live, from frame 2",
    }


def test_data_list_and_keys_name_what_there_is(terminal):
    assert "digits-dvs" in terminal.done("data", "list")["datasets"]
    assert {"train.epochs", "data.binning", "seed"} <= set(terminal.done("keys")["keys"])


def test_folders_that_cannot_be_used_are_refused_on_one_line(terminal, recipe):
    (terminal.folder / "file").touch()
    assert "cannot write the run folder file: Not a directory" in terminal.refused(
        "train", recipe, "--out", "file"
    )
    assert "cannot write the run folder file/x: Not a directory" in terminal.refused(
        "train", recipe, "--out", "file/x"
    )
    terminal.done("train", recipe, "--out", "run")
    assert "run holds another run" in terminal.refused(
        "train", recipe, "--out", "run", "--seed", "1"
    )
    (terminal.folder / "run" / "scores.json").unlink()
    assert "holds this run, unfinished: go on with: anystep train --resume run" in terminal.refused(
        "train", recipe, "--out", "run"
    )
    assert "nowhere is not a run folder: it has no config.yaml" in terminal.refused(
        "train", "--resume", "nowhere"
    )
    assert "nowhere is not a run folder" in terminal.refused("evaluate", "nowhere")


def test_truncated_files_of_a_run_are_refused_on_one_line(terminal, recipe):
    terminal.done("train", recipe, "--out", "run")
    network, last = (
        terminal.folder / "run" / "model.safetensors",
        terminal.folder / "run" / "checkpoints" / "last.pt",
    )
    os.truncate(network, 200)
    message = terminal.refused("evaluate", "run")
    assert "model.safetensors is truncated or not safetensors" in message
    assert message.endswith(
        "delete model.safetensors and scores.json, then go on with: anystep train --resume run"
    )
    (terminal.folder / "run" / "scores.json").unlink()
    os.truncate(last, 500)
    message = terminal.refused("train", "--resume", "run")
    assert (
        "run/checkpoints/last.pt is truncated or not a checkpoint: delete it, and --resume starts"
        in message
    )


def test_an_unfinished_run_is_not_judged_and_says_how_to_finish_it(terminal, recipe):
    terminal.done("train", recipe, "--out", "run")
    for name in ("model.safetensors", "scores.json"):
        (terminal.folder / "run" / name).unlink()
    assert terminal.refused("evaluate", "run").endswith("go on with: anystep train --resume run")
    assert terminal.refused("report", "run").endswith(
        f"anystep train --resume {terminal.folder / 'run'}"
    )


@pytest.mark.parametrize("arguments", [[], ["trian"], ["compare"], ["data", "lst"]])
def test_wrong_usage_exits_with_2_and_shows_the_usage(terminal, arguments):
    code, out, err = terminal(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: anystep")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (MissingExtraError, 2),
        (RunError, 1),
        (OSError, 1),
        (MemoryError, 1),
        (KeyboardInterrupt, 130),
    ],
)
def test_the_exit_code_says_whose_fault_it_was(terminal, monkeypatch, error, code):
    def failing(arguments, overrides):
        raise error("this is why")

    monkeypatch.setitem(COMMANDS, "keys", failing)
    got, out, err = terminal("keys")
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert "this is why" in err


@pytest.mark.parametrize("error", [KeyError, ValueError, ImportError, RuntimeError, TypeError])
def test_a_defect_keeps_its_traceback(terminal, monkeypatch, error):
    def defective(arguments, overrides):
        raise error("a defect")

    monkeypatch.setitem(COMMANDS, "keys", defective)
    with pytest.raises(error, match="a defect"):
        terminal("keys")


def test_a_loss_that_explodes_ends_with_1_and_a_way_out(terminal, recipe, recwarn):
    code, out, err = terminal(
        "train", recipe, "--out", "run", "--train.lr", "1e30", "--train.epochs", "3"
    )
    assert (code, out) == (1, "")
    assert "the training loss is no longer finite" in err
    assert "lower train.lr or set train.grad_clip" in err


def test_the_installed_program_and_the_module_answer(tmp_path):
    for program in (
        [sys.executable, "-m", "anystep"],
        [os.path.join(os.path.dirname(sys.executable), "anystep")],
    ):
        done = subprocess.run(
            [*program, "--version"], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        assert done.stdout == f"anystep {anystep.__version__}\n"
        refused = subprocess.run(
            [*program, "data", "list", "x"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == "anystep data: unknown argument 'x'\n"


def test_every_command_has_help(terminal):
    for name in COMMANDS:
        code, out, _ = terminal(name, "--help")
        assert code == 0
        assert cli.COMMANDS[name].__doc__.strip().split(",")[0].split(";")[0] in " ".join(
            out.split()
        )

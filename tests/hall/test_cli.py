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

import anystep
from anystep._errors import RunError, UsageError
from anystep._extras import MissingExtraError
from anystep.cli import COMMANDS
from anystep.folder import RunFolder


def test_train_ends_with_its_accuracies_as_json(terminal, recipe):
    code, out, err = terminal("train", recipe, "--out", "run")
    (line,) = out.splitlines()
    result = json.loads(line)
    assert code == 0
    assert (result["run"], result["protocol"]) == ("run", "tiny/made-up")
    assert len(result["prefix_top1"]) == 3
    assert any(text.startswith("run: train epoch 1/1 train_loss ") for text in err.splitlines())
    assert "24 test samples, tiny/made-up (0000000000000000), prefix: live" in err
    assert "run: run\n" in err
    again, out_again, err = terminal("train", recipe, "--out", "run")
    assert (again, out_again) == (0, out)
    assert "run was finished before: nothing was trained" in err


def test_a_run_is_named_for_its_recipe_method_and_seed_and_overrides_reach_it(terminal, recipe):
    own = ("--seed", "4", "--method.name", "ce", "--train.lr=0.5")
    folder = terminal.done("train", recipe, *own)["run"]
    assert folder == os.path.join("runs", "tiny-ce-seed4")
    record = RunFolder(folder).read_record()
    assert (record.seed, record.method.name, record.train.lr) == (4, "ce", 0.5)


def test_resume_finishes_a_run_and_takes_nothing_else(terminal, recipe, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_network", interrupted)
        code, out, err = terminal("train", recipe, "--out", "run")
    assert (code, out) == (130, "")
    way_on = "anystep train: interrupted; go on with: anystep train --resume run"
    assert err.splitlines()[-1] == way_on
    for more in ([recipe], ["--out", "other"], ["--train.epochs", "3"]):
        refusal = terminal.refused("train", "--resume", "run", *more)
        assert "goes on with that run as it is" in refusal
    assert terminal.done("train", "--resume", "run")["run"] == "run"


def test_compare_of_several_recipes_has_rows_of_each_that_say_where_they_begin(terminal, recipe):
    late, other = {**drivers.RECIPE["data"], "frames": [1, 3]}, recipe.with_name("other.yaml")
    changes = {"name": "other", "method": {"name": "ce"}, "data": late}
    drivers.write_recipe(recipe.parent, **changes).rename(other)
    recipe = drivers.write_recipe(recipe.parent)
    short = ("--train.epochs", "1", "--train.lr=0.5")
    code, out, err = terminal("compare", recipe, other, "--seeds", "1", *short)
    assert code == 0, err
    title = "prefix of t steps as each row says, tiny/made-up (0000000000000000), test"
    assert title in " ".join(err.split())
    result = json.loads(out)
    assert result["out"] == os.path.join("runs", "compare")
    rows = {(row["label"], row["method"], row["prefix"]) for row in result["table"]}
    assert rows == {("tiny", "tks", "live"), ("other", "ce", "live, from frame 2")}
    for name in ("tiny", "other"):
        train = RunFolder(f"runs/compare/{name}-seed0").read_record().train
        assert (train.epochs, train.lr) == (1, 0.5)


@pytest.mark.parametrize("arguments", [[], ["trian"], ["compare"], ["data", "lst"]])
def test_wrong_usage_exits_with_2_and_shows_the_usage(terminal, arguments):
    code, out, err = terminal(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: anystep")


def failing(error):
    """A command that raises `error`."""

    def command(arguments, overrides):
        raise error("this is why")

    return command


EXIT_CODES = {UsageError: 2, MissingExtraError: 2, RunError: 1, OSError: 1, MemoryError: 1}


@pytest.mark.parametrize(("error", "code"), [*EXIT_CODES.items(), (KeyboardInterrupt, 130)])
def test_the_exit_code_says_whose_fault_it_was(terminal, monkeypatch, error, code):
    monkeypatch.setitem(COMMANDS, "keys", failing(error))
    got, out, err = terminal("keys")
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert "this is why" in err


@pytest.mark.parametrize("error", [KeyError, ValueError, ImportError, RuntimeError, TypeError])
def test_a_defect_keeps_its_traceback(terminal, monkeypatch, error):
    monkeypatch.setitem(COMMANDS, "keys", failing(error))
    with pytest.raises(error, match="this is why"):
        terminal("keys")


def test_a_loss_that_explodes_ends_with_1_and_a_way_out(terminal, recipe, recwarn):
    code, out, err = terminal("train", recipe, "--train.lr", "1e30", "--train.epochs", "3")
    assert (code, out) == (1, "")
    assert "the training loss is no longer finite" in err
    assert "lower train.lr or set train.grad_clip" in err


@pytest.mark.parametrize("program", [(sys.executable, "-m", "anystep"), ("anystep",)])
def test_the_installed_program_and_the_module_answer(program, tmp_path):
    def answer(*arguments):
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        done = subprocess.run(
            [*program, *arguments],
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    assert answer("--version") == (0, f"anystep {anystep.__version__}\n", "")
    assert answer("data", "list", "x") == (2, "", "anystep data: unknown argument 'x'\n")


def test_keys_are_listed_and_every_command_has_help(terminal):
    assert {"train.epochs", "data.binning", "seed"} <= set(terminal.done("keys")["keys"])
    for name, command in COMMANDS.items():
        code, out, _ = terminal(name, "--help")
        assert code == 0
        assert command.__doc__.split(",")[0].split(";")[0] in " ".join(out.split())

"""Rows from outside of the checkout: `--import`, what a run remembers of them, and plugins."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import drivers
import pytest
import yaml

import anystep
from anystep._errors import UsageError
from anystep.data.datasets import DATASETS
from anystep.nn.neurons import LIF, NEURONS

PAGE = Path(anystep.__file__).parents[1] / "docs" / "add-a-neuron.md"
MORE = """
import drivers
from anystep.data.datasets import DATASETS
from anystep.data.frames import Binning
from anystep._errors import UsageError

def events_of_my_own(*, binning, cache=None, workers=None):
    "Mine."
    if not isinstance(binning, Binning):
        raise UsageError("mine holds events")
    return drivers.tiny(binning=binning)

DATASETS["mine"] = events_of_my_own
"""


@pytest.fixture
def my_rows(tmp_path, monkeypatch, tiny_rows):
    """A module beside the recipe: the block of the page, and a data set."""
    (block,) = re.findall(r"```python\n(from anystep.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my_rows.py").write_text(block + MORE)
    recipe = {**drivers.RECIPE, "train": {"epochs": 1, "batch_size": 16}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for table in (NEURONS, DATASETS):
        for row in ("my_lif", "mine"):
            monkeypatch.setitem(table, row, None)
            del table[row]  # and is taken away again after the test
    yield
    sys.modules.pop("my_rows", None)


def forget():
    """As in a new process."""
    del sys.modules["my_rows"], NEURONS["my_lif"], DATASETS["mine"]


def test_rows_of_a_module_here_are_trained_judged_and_remembered(terminal, my_rows):
    own = ("--import", "my_rows")
    words = ("--model.neuron.name", "my_lif", "--data.name", "mine", "--out", "run", *own)
    trained = terminal.done("train", "recipe.yaml", *words)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["imports"] == ["my_rows"]
    forget()
    for command in ("evaluate run", "train --resume run", "export run --out x.onnx"):
        code, _, err = terminal(*command.split())
        assert (code, "give --import my_rows" in err, len(err.splitlines())) == (2, True, 1)
    assert terminal.done("evaluate", "run", *own)["prefix_top1"] == trained["prefix_top1"]
    assert terminal.done("train", "--resume", "run", *own)["prefix_top1"] == trained["prefix_top1"]


def test_a_row_of_ones_own_that_holds_events_is_checked_by_the_command_line(terminal, my_rows):
    found = terminal.done("data", "check", "mine", "--import", "my_rows")
    assert (found["ok"], found["samples"]) == (True, {"train": 88, "test": 24})
    assert "mine" in terminal.done("data", "list", "--import", "my_rows")["datasets"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("my_rowz", "--import my_rowz: there is no module of this name"),
        ("my_rows.py", "--import my_rows.py: there is no module of this name"),
        ("./my_rows", "got './my_rows'"),
        ("my_rows.x", "there is no module of this name"),
    ],
)
def test_a_module_that_is_not_there_is_one_line(name, word, terminal, my_rows):
    code, _, err = terminal("data", "list", "--import", name)
    assert (code, len(err.splitlines())) == (2, 1)
    assert word in err


@pytest.mark.parametrize("imports", ["my_rows", [["my_rows"]], None, [3]])
def test_imports_of_a_recipe_are_names(imports):
    with pytest.raises(UsageError, match="imports"):
        anystep.record_from({"imports": imports})


def test_plugins_that_are_installed_are_imported_by_every_command(terminal, monkeypatch):
    class Plugin:
        name = "mine"

        def load(self):
            NEURONS["from_a_plugin"] = LIF

    class Broken(Plugin):
        def load(self):
            raise ImportError("no module named that")

    monkeypatch.setitem(NEURONS, "from_a_plugin", LIF)
    del NEURONS["from_a_plugin"]
    plugins = {"anystep.plugins": [Plugin()]}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins[group])
    terminal.done("keys")
    assert "from_a_plugin" in NEURONS
    plugins["anystep.plugins"].append(Broken())
    code, _, err = terminal("keys")
    assert (code, "the plugin mine cannot be imported: no module" in err) == (2, True)

"""The public door: lazy, complete, and the same for people, type checkers and packagers."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import anystep

PACKAGE = Path(anystep.__file__).parent
ROOT = PACKAGE.parent
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body
IMPORTS = [node for node in STUB if isinstance(node, ast.ImportFrom)]
HOMES = {each.name: node.module for node in IMPORTS if not node.level for each in node.names}
ROOMS = [each.name for node in IMPORTS if node.level for each in node.names]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("name", HOMES)
def test_a_name_of_the_door_is_the_very_thing_at_its_home(name):
    assert getattr(anystep, name) is getattr(importlib.import_module(HOMES[name]), name)


def test_the_stub_and_dir_name_what_the_door_names_each_once():
    (names,) = (ast.literal_eval(node.value) for node in STUB if isinstance(node, ast.Assign))
    assert sorted(names) == sorted(anystep.__all__) == sorted({*HOMES, "__version__"})
    assert sorted(ROOMS) == sorted(anystep._WINGS)
    assert set(dir(anystep)) == {*names, *ROOMS}


def test_no_name_of_the_door_hides_a_module():
    folders = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    assert not {path.stem for path in (*PACKAGE.glob("*.py"), *folders)} & set(anystep.__all__)


def test_a_room_is_open_after_importing_the_house_alone():
    opened = f"import anystep; [getattr(anystep, room) for room in {ROOMS}]"
    code = f"{opened}; print(anystep.training.losses.tks.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tks"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'anystep' has no attribute 'reset'"):
        _ = anystep.reset


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert anystep.__version__ == PROJECT["version"] == citation["version"]
    assert f"## [{anystep.__version__}]" in changes


def test_all_that_a_development_install_asks_for_by_name_is_pinned():
    extras = [PROJECT["optional-dependencies"][name] for name in ("train", "report", "dev")]
    wanted = sum(extras, PROJECT["dependencies"])
    names = {re.split(r"[\[<>=]", each)[0].lower() for each in wanted} - {"anystep"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9-]+==[0-9.]+", pin) for pin in pins)
    assert names <= {pin.partition("==")[0].lower() for pin in pins}

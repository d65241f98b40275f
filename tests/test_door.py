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
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
NAMES = sorted(set(anystep.__all__) - {"__version__"})


def homes_in_the_stub() -> dict[str, str]:
    """name -> module, as `__init__.pyi` says."""
    imports = [node for node in STUB.body if isinstance(node, ast.ImportFrom) and not node.level]
    return {
        alias.asname or alias.name: str(node.module) for node in imports for alias in node.names
    }


def names_in_the_stub() -> list[str]:
    values = [node.value for node in STUB.body if isinstance(node, ast.Assign)]
    return ast.literal_eval(values[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_door_is_the_very_thing_at_its_home(name):
    home = importlib.import_module(homes_in_the_stub()[name])
    assert getattr(anystep, name) is getattr(home, name)


def test_the_stub_names_what_the_door_names():
    assert sorted(names_in_the_stub()) == sorted(anystep.__all__)
    assert sorted(homes_in_the_stub()) == NAMES


def test_no_name_is_there_twice_and_dir_shows_all():
    assert len(set(anystep.__all__)) == len(anystep.__all__)
    assert set(dir(anystep)) == {*anystep.__all__, *anystep._WINGS}


def test_no_name_of_the_door_hides_a_module():
    modules = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert not modules & set(anystep.__all__)


def test_a_room_is_open_after_importing_the_house_alone():
    rooms = [
        alias.name
        for node in STUB.body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    ]
    opened = f"import anystep; [getattr(anystep, room) for room in {rooms}]"
    code = f"{opened}; print(anystep.training.losses.tks.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tks"
    assert sorted(rooms) == sorted(anystep._WINGS)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'anystep' has no attribute 'reset'"):
        _ = anystep.reset
    assert not hasattr(anystep, "lif")


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert anystep.__version__ == project["version"] == citation["version"]
    assert f"## [{anystep.__version__}]" in changes


def test_all_that_a_development_install_asks_for_by_name_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["report"], *extras["dev"]]
    names = {re.split(r"[\[<>=]", each)[0].lower() for each in wanted} - {"anystep"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9-]+==[0-9.]+", pin) for pin in pins)
    assert names <= {pin.partition("==")[0].lower() for pin in pins}

"""The documentation does what it says: every python block is run, every link leads somewhere, every
recipe is read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import anystep
import anystep.training.losses
from anystep.config import load_recipe, record_from

ROOT = Path(anystep.__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITTEN_INTO = {
    "docs/add-a-loss.md": anystep.training.losses
}  # a page whose code is meant to stand in that module
NAMED = re.compile(r"`([\w-]+(?:/[\w.-]+)+\.(?:py|md|yaml|html\.j2))`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[str]:
    """The python blocks, each moved down by empty lines so that an error names the line of the
    page.
    """
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, match.start(1)) + match.group(1)
        for match in BLOCK.finditer(text)
    ]


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.fixture
def tables_put_back() -> Iterator[None]:
    """A page may add a row to a table of the package; the next test must not see it."""
    for name in anystep.__all__:
        getattr(anystep, name)  # a table that is built while a page runs would keep the page's rows
    modules = [
        module for name, module in sys.modules.items() if name.partition(".")[0] == "anystep"
    ]
    tables = [
        value
        for module in modules
        for key, value in vars(module).items()
        if key.isupper() and isinstance(value, dict)
    ]
    before = [(table, dict(table)) for table in tables]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a page's blocks one after the other in one module, and return what it defined. An
    indented block is a table's row.
    """
    module = ModuleType(f"page_{page.stem.replace('-', '_').lower()}")
    if name_of(page) in WRITTEN_INTO:
        vars(module).update(vars(WRITTEN_INTO[name_of(page)]), __name__=module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        row = block.lstrip("\n").startswith(" ")
        exec(compile(f"{{{block}}}" if row else block, name_of(page), "exec"), vars(module))
    return vars(module)


def test_there_are_pages_with_code():
    assert {"docs/bring-your-own-data.md", "docs/add-a-neuron.md", "docs/add-a-dataset.md"} <= {
        name_of(p) for p in WITH_CODE
    }


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_code_of_a_page_runs(page, tables_put_back, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page, monkeypatch)


def test_your_own_data_trains_in_ten_lines_and_in_two_phases(
    tmp_path, tables_put_back, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "bring-your-own-data.md"
    assert len(blocks(page)[1].strip().splitlines()) <= 10
    found = run_page(page, monkeypatch)
    assert {name: len(values) for name, values in found["accuracy"].items()} == {
        "ce": 4,
        "tet": 4,
        "tks": 4,
        "hsd": 2,
    }
    assert all(0 <= min(values) <= max(values) <= 100 for values in found["accuracy"].values())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_to_one(page):
    targets = [
        target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target
    ]
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_is_there(page):
    names = NAMED.findall(page.read_text(encoding="utf-8"))
    places = (ROOT, ROOT / "anystep")
    assert not [name for name in names if not any((place / name).exists() for place in places)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_100_columns_but_for_tables_and_pictures(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 100 and not line.startswith(("|", "!"))]


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        targets = {
            (page.parent / target).resolve()
            for page in new
            for target in LINK.findall(page.read_text(encoding="utf-8"))
        }
        new = {target for target in targets if target.suffix == ".md" and target.exists()} - reached
    assert {*PAGES, ROOT / "benchmarks" / "README.md"} <= reached


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_a_record(recipe):
    assert record_from(load_recipe(recipe)).name == recipe.stem

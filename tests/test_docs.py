"""The documentation does what it says: every python block is run, every link leads somewhere, every
recipe is read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import anystep
from anystep.config import load_recipe, record_from

ROOT = Path(anystep.__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w-]+(?:/[\w.-]+)+\.(?:py|md|yaml|html\.j2))`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
WITH_CODE = [page for page, text in TEXTS.items() if BLOCK.search(text)]
OWN_DATA = "docs/bring-your-own-data.md"
# The first line of a block that is pasted into a file: its path, and where in it
PASTED = re.compile(r"^ *# ([\w/]+\.py)(?:, (above|in|at the end) ?(\w*))?$")
EXTENDING = [page for page in WITH_CODE if page.startswith("docs/add-a-")]

every_page = pytest.mark.parametrize("page", TEXTS)


def blocks_of(page):
    """(where, code) of each python block: where it is pasted, None for one that is run."""
    for match in BLOCK.finditer(TEXTS[page]):
        # Moved down by empty lines, so that an error names the line of the page
        above = "\n" * TEXTS[page].count("\n", 0, match.start(1))
        yield PASTED.match(match[1].partition("\n")[0]), above, match[1]


def paste(place, block, root):
    """Put a block where its first line says: above a name, into a table, at the end, a new file."""
    path, how, name = root / place[1], place[2], place[3]
    text = path.read_text() if path.exists() else ""
    if how in ("above", "in"):
        text = re.sub(rf"^({name}\b.* = ){{}}$", r"\1{\n}", text, flags=re.MULTILINE)  # is empty
        line = re.search(rf"^{name}\b.*\n", text, re.MULTILINE)
        end = line.start() if how == "above" else line.end()
        text = f"{text[:end]}{block}\n\n{text[end:]}"
    else:
        text += f"\n\n{block}"
    path.write_text(text)


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Run a page's blocks one after the other in one module, and return what it defined.

    Rows that a page adds to the package are taken away again.
    """

    def run(page):
        module = ModuleType(f"page_{Path(page).stem.replace('-', '_').lower()}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        for place, above, block in blocks_of(page):
            if place is None:
                exec(compile(above + block, page, "exec"), vars(module))
        return vars(module)

    monkeypatch.chdir(tmp_path)
    for name in anystep.__all__:
        getattr(anystep, name)  # a table that is built while a page runs would keep the page's rows
    house = [module for name, module in sys.modules.items() if name.split(".")[0] == "anystep"]
    values = [value for module in house for key, value in vars(module).items() if key.isupper()]
    tables = [(table, dict(table)) for table in values if isinstance(table, dict)]
    yield run
    for table, rows in tables:
        table.clear()
        table.update(rows)


def test_there_are_pages_with_code():
    assert {OWN_DATA, "docs/add-a-neuron.md", "docs/add-a-dataset.md"} <= set(WITH_CODE)


@pytest.mark.parametrize("page", sorted({*WITH_CODE} - {OWN_DATA}))
def test_the_code_of_a_page_runs(page, run_page):
    run_page(page)


@pytest.mark.timeout(900)  # it is a session of its own, and a machine may be busy
def test_what_the_pages_add_to_a_checkout_keeps_the_contracts(tmp_path):
    """Every block is pasted into a copy, and there the suites test the new rows."""
    for name in ("anystep", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("fixtures"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tmp_path)
    added = []
    for page in EXTENDING:
        for place, _, block in blocks_of(page):
            if place is not None:
                paste(place, block, tmp_path)
                added += re.findall(r'^    "(\w+)":', block, re.MULTILINE)
    words = [sys.executable, "-m", "pytest", "-q", "tests/contracts", "-k"]
    space = {**os.environ, "PYTHONPATH": str(tmp_path)}
    # Seconds, not minutes: of the networks ResNet-19, which has membranes (C, H, W) and (C,)
    slow = "not compile and not hundredth and not float64 and not vgg_snn"
    words.append(f"({' or '.join(sorted({*added}))}) and {slow}")
    done = subprocess.run(words, cwd=tmp_path, env=space, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert {*added} == {"last_step", "channel_lif", "adaptive_lif", "bars"}


def test_your_own_data_trains_in_ten_lines_and_in_two_phases(run_page):
    assert len(BLOCK.findall(TEXTS[OWN_DATA])[1].splitlines()) <= 10
    accuracy = run_page(OWN_DATA)["accuracy"]
    steps = {name: len(values) for name, values in accuracy.items()}
    assert steps == {"ce": 4, "tet": 4, "tks": 4, "hsd": 2}
    assert all(0 <= min(values) <= max(values) <= 100 for values in accuracy.values())


@every_page
def test_every_link_to_a_file_leads_to_one(page):
    targets = [target for target in LINK.findall(TEXTS[page]) if "://" not in target]
    assert not [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]


@every_page
def test_every_file_that_a_page_names_is_there(page):
    places = (ROOT, ROOT / "anystep")
    names = NAMED.findall(TEXTS[page])
    assert not [name for name in names if not any((place / name).exists() for place in places)]


@every_page
def test_a_page_has_100_columns_but_for_tables_and_pictures(page):
    lines = TEXTS[page].splitlines()
    assert not [line for line in lines if len(line) > 100 and not line.startswith(("|", "!"))]


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        links = [(page, link) for page in new for link in LINK.findall(page.read_text("utf-8"))]
        targets = {(page.parent / link).resolve() for page, link in links}
        new = {target for target in targets if target.suffix == ".md" and target.exists()} - reached
    assert {*PAGES, ROOT / "benchmarks" / "README.md"} <= reached


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_a_record(recipe):
    assert record_from(load_recipe(recipe)).name == recipe.stem

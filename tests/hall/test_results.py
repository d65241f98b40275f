"""Every record of results/ agrees with its recipe, its table and the documents."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import drivers
import pytest

import anystep
from anystep.compare import markdown_table, table_of
from anystep.config import Record, load_recipe, record_from
from anystep.run import load_splits, run_record
from studies import batched_camera, choose_lr, early_exit, film, speed, study

ROOT = Path(anystep.__file__).parent.parent
RESULTS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob("results/*.json"))
}
TABLES = [name for name, result in RESULTS.items() if "table" in result]
RATES = [name for name, result in RESULTS.items() if "means" in result]
STUDIES = [name for name, result in RESULTS.items() if "study" in result]
CURVES = {"nmnist_folds": "fold", "cifar10_sim": "seed"}
OTHERS = ("batched_camera", "demo_speed", "early_exit", "film")
BENCHES = [name for name in RESULTS if name.startswith("bench_")]


def same(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Whether two tables are equal, but for the last digits of a mean or a standard deviation."""
    text = json.dumps([rows, others])
    one, other = json.loads(text, parse_float=lambda number: round(float(number), 9))
    return one == other


def block(page: str, name: str) -> str:
    """What stands between the markers of `name`, which a page has once."""
    text = (ROOT / page).read_text(encoding="utf-8")
    _, begin, rest = text.partition(f"<!-- results/{name}.json -->\n")
    inside, end, after = rest.partition("<!-- end -->")
    assert (bool(begin), bool(end), f"results/{name}.json -->" in after) == (True, True, False)
    return inside


def words(page: str) -> str:
    """A page on one line."""
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def means(rows: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    return {(row["method"], row["t"]): row["top1_mean"] for row in rows}


def test_every_record_is_of_a_kind_that_is_guarded_here():
    assert {"digits_demo", "digits_demo_lr"} <= set(RESULTS)
    assert sorted(RESULTS) == sorted([*TABLES, *RATES, *STUDIES, *CURVES, *BENCHES, *OTHERS])


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_its_runs_say_and_the_readme_quotes(name):
    table, runs = RESULTS[name]["table"], RESULTS[name]["runs"]
    assert same(table, table_of(runs))
    assert block("README.md", name) == markdown_table(table)
    assert len({(run["method"]["name"], run["seed"]) for run in runs}) == len(runs)
    keys = ("protocol_hash", "samples", "steps")
    assert len({tuple(run["scores"][key] for key in keys) for run in runs}) == 1


@pytest.mark.parametrize("name", [*TABLES, *RATES, *STUDIES, *CURVES, "early_exit"])
def test_every_run_was_made_by_committed_code(name):
    result = RESULTS[name]
    runs = [{"env": result["environment"]}] if name in RATES else result["runs"]
    assert {(run["env"]["dirty"], len(run["env"]["commit"])) for run in runs} == {(False, 40)}


@pytest.mark.parametrize("name", [*TABLES, *RATES])
def test_the_recipe_is_still_the_one_that_was_measured(name):
    """Apart from seed and method, which a comparison sets for every run."""
    stored = record_from(RESULTS[name]["record"])
    recipe = record_from(load_recipe(ROOT / "recipes" / f"{stored.name}.yaml"))
    assert replace(stored, seed=0, method=recipe.method) == replace(recipe, seed=0)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_whole_and_its_tables_are_what_its_runs_say(name):
    own, result = import_module(f"studies.{name}"), RESULTS[name]
    runs = result["runs"]
    made = [(run["method"], run["steps"], run["seed"]) for run in runs]
    assert sorted(made) == sorted(itertools.product(own.OPTIONS, own.STEPS, own.SEEDS))
    assert {(run["split"], run["samples"]) for run in runs} == {("test", 359)}
    assert len({run["protocol_hash"] for run in runs}) == 1
    for run in runs:
        assert run["frames"] == list(range(own.FIRST, own.FIRST + run["steps"]))
        assert len(run["prefix_top1"]) == run["steps"]
    assert same(result["study"], own.table_of(runs, any_step=False))
    for marker, table in own.tables(result).items():
        assert block("docs/hsd.md", marker) == table


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_gave_every_method_as_many_candidates_and_took_the_best_on_validation(name):
    own, result = import_module(f"studies.{name}"), RESULTS[name]
    assert record_from(result["record"]) == own.base()
    rates = own.ann_rates(result["ann_tuning"])
    assert result["ann_lr"] == {str(clip): lr for clip, lr in rates.items()}
    for label in own.OPTIONS:
        rows = [row for row in result["tuning"] if row["method"] == label]
        tried = [(row["candidate"], row["seed"]) for row in rows]
        assert tried == list(itertools.product(own.candidates(label), own.TUNE_SEEDS))
        assert result["chosen"][label] == own.best(rows, "candidate")
    assert len({len(own.candidates(label)) for label in own.OPTIONS}) == 1
    assert not set(own.TUNE_SEEDS) & set(own.SEEDS)


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_whole_and_their_tables_are_what_their_runs_say(name):
    own, result = import_module(f"studies.{name}"), RESULTS[name]
    runs, curves = result["runs"], result["curves"]
    assert sorted((run["method"], run[CURVES[name]]) for run in runs) == sorted(own.wanted())
    for run in runs:
        assert (run["split"], run["prefix"], len(run["prefix_top1"])) == ("test", "live", 10)
    assert same(curves, study.table_of(runs))
    table = study.curves_in_markdown(curves, own.SHOWN)
    assert block(own.PAGE.relative_to(ROOT), name) == table
    first = next(each for each in own.wanted() if each[0] == "ce")
    assert result["record"].items() <= study.public(own.record_of(*first, "here")).items()


def test_the_folds_are_whole_and_what_the_readme_says_of_them_is_in_the_record():
    runs = RESULTS["nmnist_folds"]["runs"]
    folds = {(run["fold"], run["protocol_hash"], run["samples"]) for run in runs}
    assert (len(folds), sum(samples for _, _, samples in folds)) == (5, 1100)
    mean = means(RESULTS["nmnist_folds"]["curves"])
    ce, tks, tet = (f"{mean[method, 1]:.1f} %" for method in ("ce", "tks", "tet"))
    assert f"right on {ce} of them, TKS on {tks}, TET on {tet}" in words("README.md")
    assert {round(mean[method, 10]) for method in ("ce", "tet", "tks")} == {96}


def test_early_exit_was_measured_for_all_alike_and_the_pages_quote_it():
    result = RESULTS["early_exit"]
    runs, rows = result["runs"], result["rows"]
    wanted = [*early_exit.wanted("here")]
    assert [(run["data"], run["method"], run["number"]) for run in runs] == wanted
    assert len(rows) == len(runs) * len(early_exit.SCORES) * len(early_exit.READS)
    targets = {(row["data"], row["number"], row["target"]) for row in rows}
    assert len(targets) == len({(data, number) for data, _, number in wanted})
    for page in ("README.md", "docs/deploy.md"):
        assert block(page, "early_exit") == early_exit.table(runs, rows)


def test_the_recipe_of_hsd_has_what_the_study_chose():
    chosen = RESULTS["second_half"]["chosen"]["hsd skd, clip 1"]
    recipe = record_from(load_recipe(ROOT / "recipes" / "digits_hsd.yaml"))
    options = {**recipe.method.options, "lr": recipe.train.lr}
    assert options == {"distill": "skd", "clip_init": 1.0, **chosen}
    assert recipe.train.lr == chosen["lr"] == RESULTS["second_half"]["ann_lr"]["1.0"]
    assert recipe.train.epochs == RESULTS["second_half"]["record"]["train"]["epochs"]


def test_the_demo_and_the_page_on_hsd_show_what_they_claim():
    mean = means(RESULTS["digits_demo"]["table"])
    assert mean["tks", 1] >= mean["ce", 1] + 7
    assert mean["tks", 10] >= 96
    mean = means(RESULTS["second_half"]["study"])
    for t, gap in ((1, 9), (5, 3.5)):
        assert mean["ce", t] - mean["hsd skd", t] > gap
        assert abs(mean["ce", t] - mean["hsd none, clip 1", t]) < 1


@pytest.mark.parametrize("name", RATES)
def test_the_recipe_has_the_rate_that_plain_training_chose_and_the_log_quotes_it(name):
    result = RESULTS[name]
    assert block("docs/log.md", name) == choose_lr.table(result["runs"])
    assert result["record"]["method"]["name"] == "ce"
    tried = sorted((run["lr"], run["seed"]) for run in result["runs"])
    assert tried == list(itertools.product(choose_lr.RATES, choose_lr.SEEDS))
    assert same(result["means"], choose_lr.means_of(result["runs"]))
    chosen = choose_lr.choose_rate(result["means"], result["val_samples"])
    assert result["chosen"] == chosen == result["record"]["train"]["lr"]


@pytest.mark.parametrize("name", speed.TABLES)
def test_the_lab_log_quotes_the_speeds(name):
    assert block("docs/log.md", name) == speed.TABLES[name]()


def test_the_changelog_quotes_the_speed_of_the_demo():
    fused, reference = RESULTS["demo_speed"]["speeds"]
    assert (fused["backend"], reference["backend"]) == ("auto", "reference")
    counted = [each["samples_per_s"][1:] for each in (fused, reference)]
    fast, slow = (f"{min(each):.0f} to {max(each):.0f}" for each in counted)
    said = f"{fast} samples a second with the fused neurons and at {slow} with the reference"
    assert said in words("CHANGELOG.md")


def test_the_pages_on_the_cameras_quote_their_records():
    batched, filmed = RESULTS["batched_camera"], RESULTS["film"]
    table = batched_camera.table(batched["rows"])
    assert block("docs/batched-camera.md", "batched_camera") == table
    assert block("docs/simulated-camera.md", "film") == film.table(filmed)
    assert abs(filmed["films"][0]["events"]["mean"] * 5 * 10_000 - 8e9) < 0.5e9  # "about 8 GB"
    assert not batched["environment"]["dirty"] | filmed["environment"]["dirty"]


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_says_where_it_ran_and_how(name):
    result = RESULTS[name]
    assert result["environment"]["versions"]["torch"]
    assert all(result[key] for key in ("settings", "rows"))


@pytest.fixture
def tiny(tiny_rows: Any) -> Record:
    return record_from(drivers.RECIPE | {"method": {"name": "ce"}})


def test_a_rate_is_tried_as_a_run_trains(tmp_path, tiny):
    last = choose_lr.train_once(tiny, replace(load_splits(tiny), test=[]))
    run_record(tiny, tmp_path / "run")
    expected = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    for key in ("epoch", "train_loss", "val_loss", "val_acc", "val_acc_first"):
        assert last[key] == expected[key]


def test_the_rates_are_compared_without_a_test_split(tmp_path, monkeypatch, tiny):
    """`measure` hands over data from which the test recordings are gone."""
    seen = []

    def fake(record, splits):
        seen.append((record.train.lr, record.seed, record.method.name, len(splits.test)))
        return {"val_acc": 50.0, "val_acc_first": 40.0}

    splits = load_splits(tiny)
    monkeypatch.setattr(choose_lr, "ROOT", tmp_path)
    monkeypatch.setattr(choose_lr, "train_once", fake)
    monkeypatch.setattr(choose_lr, "load_splits", lambda record: splits)
    monkeypatch.setattr(choose_lr, "describe_environment", lambda **_: {"commit": "one"})
    result = choose_lr.measure("digits_demo")
    assert seen == [(lr, seed, "ce", 0) for lr in choose_lr.RATES for seed in choose_lr.SEEDS]
    assert choose_lr.measure("digits_demo") == result
    assert len(seen) == 12  # the second time everything was kept
    monkeypatch.setattr(choose_lr, "describe_environment", lambda **_: {"commit": "two"})
    choose_lr.measure("digits_demo")
    assert len(seen) == 24  # what other code has trained is not kept


def test_a_page_without_its_one_pair_of_markers_is_refused(tmp_path):
    page = tmp_path / "README.md"
    for text in ("no markers", "<!-- results/digits_demo.json --><!-- end -->\n" * 2):
        page.write_text(text)
        with pytest.raises(ValueError, match="one block <!-- results/digits_demo"):
            study.check_markers(page, "digits_demo")


def test_a_quote_changes_the_block_of_its_name_only():
    one, two = (f"<!-- results/{name}.json -->\n{name}\n<!-- end -->\n" for name in ("one", "two"))
    page = f"a\n{one}{two}b\n"
    changed = page.replace("\none\n", "\nnew \\1\n")
    assert study.quote(page, "one", "new \\1\n") == changed

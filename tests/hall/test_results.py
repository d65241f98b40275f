"""What is measured is what is written: every record of results/ agrees with its recipe, its table
and the documents.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import drivers
import pytest

import anystep
from anystep.compare import markdown_table, table_of
from anystep.config import Record, load_recipe, record_from
from anystep.run import load_splits, run_record

ROOT = Path(anystep.__file__).parent.parent
RESULTS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob("results/*.json"))
}
TABLES = [name for name, result in RESULTS.items() if "table" in result]
RATES = [name for name, result in RESULTS.items() if "means" in result]
STUDIES = [name for name, result in RESULTS.items() if "study" in result]
CURVES = {
    name: number
    for name, number in (("nmnist_folds", "fold"), ("cifar10_sim", "seed"))
    if name in RESULTS
}
BENCHES = [name for name in RESULTS if name.startswith("bench_")]


@pytest.fixture
def script(monkeypatch) -> Iterator[Any]:
    """A script of studies/ as a module, by name; nothing of it stays."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return import_module(name)

    yield load
    for name in {path.stem for path in ROOT.glob("studies/*.py")} - before:
        sys.modules.pop(name, None)


def block(page: str, name: str) -> str:
    """What stands between the markers of `name`, which a page has once."""
    text = (ROOT / page).read_text(encoding="utf-8")
    _, begin, rest = text.partition(f"<!-- results/{name}.json -->\n")
    inside, end, after = rest.partition("<!-- end -->")
    assert begin, f"{page} has no block for results/{name}.json"
    assert end, f"the block for results/{name}.json in {page} does not end"
    assert f"results/{name}.json -->" not in after
    return inside


def test_every_record_is_of_a_kind_that_is_guarded_here():
    assert {"digits_demo", "digits_demo_lr"} <= set(RESULTS)
    assert sorted(RESULTS) == sorted(
        [*TABLES, *RATES, *STUDIES, *CURVES, *BENCHES, "demo_speed", "batched_camera", "film"]
    )


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_its_runs_say(name):
    measured = table_of(RESULTS[name]["runs"])
    assert [row.keys() for row in measured] == [row.keys() for row in RESULTS[name]["table"]]
    for ours, theirs in zip(measured, RESULTS[name]["table"], strict=True):
        for key in ours:
            assert ours[key] == (pytest.approx(theirs[key]) if "top1" in key else theirs[key])


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_quotes_the_table(name):
    assert block("README.md", name) == markdown_table(RESULTS[name]["table"])


@pytest.mark.parametrize("name", [*TABLES, *RATES, *STUDIES, *CURVES])
def test_every_run_was_made_by_committed_code(name):
    result = RESULTS[name]
    environments = (
        [run["env"] for run in result["runs"]] if name not in RATES else [result["environment"]]
    )
    assert environments
    assert all(each["dirty"] is False and len(each["commit"]) == 40 for each in environments)


@pytest.mark.parametrize("name", [*TABLES, *RATES])
def test_the_recipe_is_still_the_one_that_was_measured(name):
    """Apart from seed and method, which a comparison sets for every run. A key that came later has
    its default in both.
    """
    stored = record_from(RESULTS[name]["record"])
    recipe = record_from(load_recipe(ROOT / "recipes" / f"{stored.name}.yaml"))
    assert replace(stored, seed=0, method=recipe.method) == replace(recipe, seed=0)


@pytest.mark.parametrize("name", TABLES)
def test_every_run_was_judged_on_the_same_split_and_each_seed_once(name):
    runs = RESULTS[name]["runs"]
    assert len({(run["method"]["name"], run["seed"]) for run in runs}) == len(runs)
    assert (
        len(
            {
                (run["scores"]["protocol_hash"], run["scores"]["samples"], run["scores"]["steps"])
                for run in runs
            }
        )
        == 1
    )


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_whole_and_its_tables_are_what_its_runs_say(name, script):
    study, result = script(name), RESULTS[name]
    wanted = [
        (label, steps, seed)
        for label in study.OPTIONS
        for steps in study.STEPS
        for seed in study.SEEDS
    ]
    assert sorted((run["method"], run["steps"], run["seed"]) for run in result["runs"]) == sorted(
        wanted
    )
    assert {(run["split"], run["protocol_hash"], run["samples"]) for run in result["runs"]} == {
        ("test", result["runs"][0]["protocol_hash"], 359)
    }
    for run in result["runs"]:
        assert run["frames"] == list(range(study.FIRST, study.FIRST + run["steps"]))
        assert len(run["prefix_top1"]) == run["steps"]
    assert result["study"] == study.table_of(result["runs"], any_step=False)
    assert block("docs/hsd.md", name) == study.markdown(result["runs"], any_step=False)
    assert block("docs/hsd.md", f"{name}_any_step") == study.markdown(result["runs"], any_step=True)
    assert block("docs/hsd.md", f"{name}_tuning") == study.tuning_table(result["tuning"])


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_gave_every_method_as_many_candidates_and_took_the_best_on_validation(name, script):
    study, result = script(name), RESULTS[name]
    assert record_from(result["record"]) == study.base()
    assert result["ann_lr"] == {
        str(clip): lr for clip, lr in study.ann_rates(result["ann_tuning"]).items()
    }
    for label in study.OPTIONS:
        rows = [row for row in result["tuning"] if row["method"] == label]
        tried = [(row["candidate"], row["seed"]) for row in rows]
        assert tried == [
            (candidate, seed) for candidate in study.candidates(label) for seed in study.TUNE_SEEDS
        ]
        assert result["chosen"][label] == study.best(rows, "candidate")
    assert len({len(study.candidates(label)) for label in study.OPTIONS}) == 1
    assert not set(study.TUNE_SEEDS) & set(study.SEEDS)


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_whole_and_their_tables_are_what_their_runs_say(name, script):
    study, own, result = script("study"), script(name), RESULTS[name]
    assert sorted((run["method"], run[CURVES[name]]) for run in result["runs"]) == sorted(
        own.wanted()
    )
    assert all(
        (run["split"], run["prefix"], len(run["prefix_top1"])) == ("test", "live", 10)
        for run in result["runs"]
    )
    assert result["curves"] == study.table_of(result["runs"])
    assert block(own.PAGE.relative_to(ROOT), name) == study.markdown(result["curves"], own.SHOWN)
    assert result["record"] == study.public(
        own.record_of(*next(each for each in own.wanted() if each[0] == "ce"), "here")
    )


def test_every_method_is_tested_on_the_same_folds_and_every_recording_once():
    runs = RESULTS["nmnist_folds"]["runs"]
    hashes = {(run["fold"], run["protocol_hash"], run["samples"]) for run in runs}
    assert len(hashes) == 5
    assert sum(samples for _, _, samples in hashes) == 1100


def test_what_the_readme_says_of_real_recordings_is_in_the_record():
    mean = {
        (row["method"], row["t"]): row["top1_mean"] for row in RESULTS["nmnist_folds"]["curves"]
    }
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    wanted = f"right on {mean['ce', 1]:.1f} % of them, TKS on {mean['tks', 1]:.1f} %, TET on {mean['tet', 1]:.1f} %"
    assert wanted in text
    assert {round(mean[method, 10]) for method in ("ce", "tet", "tks")} == {96}


def test_the_recipe_of_hsd_has_what_the_study_chose():
    chosen = RESULTS["second_half"]["chosen"]["hsd skd, clip 1"]
    recipe = record_from(load_recipe(ROOT / "recipes" / "digits_hsd.yaml"))
    assert recipe.method.options == {
        "distill": "skd",
        "clip_init": 1.0,
        **{k: v for k, v in chosen.items() if k != "lr"},
    }
    assert recipe.train.lr == chosen["lr"] == RESULTS["second_half"]["ann_lr"]["1.0"]
    assert recipe.train.epochs == RESULTS["second_half"]["record"]["train"]["epochs"]


def test_what_the_page_on_hsd_says_of_its_tables_is_in_them():
    mean = {(row["method"], row["t"]): row["top1_mean"] for row in RESULTS["second_half"]["study"]}
    for t, gap in ((1, 9), (5, 3.5)):
        assert mean["ce", t] - mean["hsd skd", t] > gap
        assert abs(mean["ce", t] - mean["hsd none, clip 1", t]) < 1


def test_the_demo_shows_what_it_claims():
    mean = {(row["method"], row["t"]): row["top1_mean"] for row in RESULTS["digits_demo"]["table"]}
    assert mean["tks", 1] >= mean["ce", 1] + 7
    assert mean["tks", 10] >= 96


@pytest.mark.parametrize("name", RATES)
def test_the_lab_log_quotes_the_rates(name, script):
    assert block("docs/log.md", name) == script("choose_lr").table(RESULTS[name]["runs"])


@pytest.mark.parametrize("name", RATES)
def test_the_recipe_has_the_rate_that_plain_training_chose(name, script):
    choose_lr, result = script("choose_lr"), RESULTS[name]
    assert result["record"]["method"]["name"] == "ce"
    assert sorted((run["lr"], run["seed"]) for run in result["runs"]) == [
        (lr, seed) for lr in choose_lr.RATES for seed in choose_lr.SEEDS
    ]
    for row in result["means"]:
        for key in ("val_acc", "val_acc_first"):
            assert row[key] == pytest.approx(
                sum(run[key] for run in result["runs"] if run["lr"] == row["lr"]) / 3
            )
    assert (
        result["chosen"]
        == choose_lr.choose_rate(result["means"], result["val_samples"])
        == result["record"]["train"]["lr"]
    )


@pytest.mark.parametrize("name", ["bench_networks", "bench_layers", "bench_data"])
def test_the_lab_log_quotes_the_speeds(name, script):
    assert block("docs/log.md", name) == script("speed").TABLES[name]()


def test_the_changelog_quotes_the_speed_of_the_demo():
    fused, reference = RESULTS["demo_speed"]["speeds"]
    assert (fused["backend"], reference["backend"]) == ("auto", "reference")
    assert all(
        each["env"]["dirty"] is False and each["env"]["commit"] == fused["env"]["commit"]
        for each in (fused, reference)
    )
    spans = [
        f"{min(each['samples_per_s'][1:]):.0f} to {max(each['samples_per_s'][1:]):.0f}"
        for each in (fused, reference)
    ]
    text = " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split())
    assert (
        f"{spans[0]} samples a second with the fused neurons and at {spans[1]} with the reference"
        in text
    )


def test_the_page_on_the_batched_camera_quotes_its_record(script):
    result = RESULTS["batched_camera"]
    assert result["environment"]["dirty"] is False
    assert block("docs/batched-camera.md", "batched_camera") == script("batched_camera").markdown(
        result["rows"]
    )


def test_the_lab_log_says_how_fast_the_camera_of_the_record_is():
    (bench,) = [
        row for row in RESULTS["bench_data"]["rows"] if row["group"] == "16 recordings, 128 x 128"
    ]
    rows = RESULTS["batched_camera"]["rows"]
    (film,) = [row for row in rows if (row["sensor"], row["substep_us"]) == ([128, 128], 4000)]
    said = (round(bench["recordings_per_s"]), round(film["exact_per_s"]))
    text = " ".join((ROOT / "docs" / "log.md").read_text(encoding="utf-8").split())
    assert (
        f"films {said[0]} pictures with as many events as CIFAR-10's, and {said[1]} images of CIFAR-10 itself"
        in text
    )


def test_the_page_on_the_simulated_camera_quotes_its_record(script):
    result = RESULTS["film"]
    assert result["environment"]["dirty"] is False
    assert block("docs/simulated-camera.md", "film") == script("film").markdown(result)
    assert abs(result["films"][0]["events"]["mean"] * 5 * 10_000 - 8e9) < 0.5e9  # "about 8 GB"


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_says_where_it_ran_and_how(name):
    result = RESULTS[name]
    assert result["environment"]["versions"]["torch"]
    assert result["settings"]
    assert result["rows"]


def test_of_rates_that_tie_at_the_last_step_the_best_at_the_first_is_chosen(script):
    rows = [
        {"lr": 0.1, "val_acc": 95.0, "val_acc_first": 90.0},
        {"lr": 0.2, "val_acc": 96.8, "val_acc_first": 80.0},
        {"lr": 0.3, "val_acc": 97.2, "val_acc_first": 70.0},
    ]
    choose_rate = script("choose_lr").choose_rate
    assert choose_rate(rows, 179) == 0.2  # one standard error of 97.2 % of 179 is 1.2 points
    assert choose_rate(rows, 100_000) == 0.3  # 0.05 points: nothing ties
    assert choose_rate(rows, 20) == 0.1  # 3.7 points: all tie


def test_a_row_of_the_rates_by_hand(script):
    runs = [
        {"lr": 0.5, "seed": seed, "val_acc": 96.0 + seed, "val_acc_first": 70.0}
        for seed in range(2)
    ]
    assert script("choose_lr").table(runs).splitlines()[2:] == [
        "| 0.5 | 96.0, 97.0 | 96.5 | 70.0, 70.0 | 70.0 |"
    ]


def tiny_record() -> Record:
    return record_from(drivers.RECIPE | {"method": {"name": "ce"}})


def test_a_rate_is_tried_as_a_run_trains(script, tmp_path, tiny_rows):
    splits = replace(load_splits(tiny_record()), test=[])
    last = script("choose_lr").train_once(tiny_record(), splits)
    run_record(tiny_record(), tmp_path / "run")
    expected = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    for key in ("epoch", "train_loss", "val_loss", "val_acc", "val_acc_first"):
        assert last[key] == expected[key]


def test_the_rates_are_compared_without_a_test_split(script, tmp_path, monkeypatch, tiny_rows):
    """`measure` hands over data from which the test recordings are gone."""
    choose_lr, seen = script("choose_lr"), []

    def fake(record, splits):
        seen.append((record.train.lr, record.seed, record.method.name, len(splits.test)))
        return {"val_acc": 50.0, "val_acc_first": 40.0}

    splits = load_splits(tiny_record())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
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


@pytest.mark.parametrize(
    "page", ["no markers", "<!-- results/digits_demo.json --><!-- end -->\n" * 2]
)
def test_a_page_without_its_one_pair_of_markers_is_refused_before_anything_is_trained(
    page, script, tmp_path, monkeypatch
):
    measure = script("measure")
    readme = tmp_path / "README.md"
    readme.write_text(page)
    monkeypatch.setattr(measure, "README", readme)
    monkeypatch.setattr(measure, "compare_methods", lambda *args: pytest.fail("it trained"))
    with pytest.raises(ValueError, match="one block <!-- results/digits_demo"):
        measure.main()


def test_a_quote_changes_the_block_of_its_name_only(script):
    page = "a\n<!-- results/one.json -->\nold\n<!-- end -->\n<!-- results/two.json -->\nkept\n<!-- end -->\nb\n"
    assert script("measure").quote(page, "one", "new \\1\n") == page.replace("old", "new \\1")

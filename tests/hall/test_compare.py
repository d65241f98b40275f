"""Methods x seeds -> one table."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import drivers
import pytest

from anystep import compare, run
from anystep.compare import cell, compare_methods, compare_recipes, markdown_table, table_of
from anystep.config import load_recipe, record_from
from anystep.folder import RunFolder


@pytest.fixture
def record(tmp_path, tiny_rows):
    train = {"epochs": 1, "batch_size": 16, "lr": 0.01}
    recipe = drivers.write_recipe(
        tmp_path, train=train, method={"name": "tks", "options": {"alpha": 0.3}}
    )
    return record_from(load_recipe(recipe))


def scored(method, seed, accuracies, **more):
    """A run as `results/*.json` holds it; `more` is of its scores, but for its label."""
    label = {"label": more.pop("label")} if "label" in more else {}
    return {
        **label,
        "method": {"name": method},
        "seed": seed,
        "scores": {"prefix_top1": accuracies, **more},
    }


def test_the_table_has_mean_and_sample_deviation_by_hand():
    runs = [
        scored("ce", 0, [80.0, 90.0]),
        scored("ce", 1, [82.0, 90.0]),
        scored("ce", 2, [87.0, 93.0]),
    ]
    table = table_of([*runs, scored("tks", 0, [95.0, 96.0])])
    assert table == [
        {
            "method": "ce",
            "t": 1,
            "top1_mean": 83.0,
            "top1_sd": pytest.approx(13**0.5),
            "seeds": [0, 1, 2],
        },
        {
            "method": "ce",
            "t": 2,
            "top1_mean": 91.0,
            "top1_sd": pytest.approx(3**0.5),
            "seeds": [0, 1, 2],
        },
        {"method": "tks", "t": 1, "top1_mean": 95.0, "top1_sd": None, "seeds": [0]},
        {"method": "tks", "t": 2, "top1_mean": 96.0, "top1_sd": None, "seeds": [0]},
    ]
    assert cell(83.0, 13**0.5) == "83.0 ± 3.6"
    assert markdown_table(table) == (
        "| method | t = 1 | t = 2 |\n| --- | --- | --- |\n"
        "| ce | 83.0 ± 3.6 | 91.0 ± 1.7 |\n| tks | 95.0 | 96.0 |\n"
    )


def test_a_method_that_sees_fewer_steps_has_empty_cells():
    table = table_of([scored("ce", 0, [80.0, 90.0]), scored("half", 0, [70.0])])
    assert markdown_table(table).splitlines()[2:] == ["| ce | 80.0 | 90.0 |", "| half | 70.0 |  |"]


def test_rows_of_one_method_are_told_apart_by_their_labels():
    table = table_of(
        [scored("ce", 0, [80.0], label="deep"), scored("ce", 0, [70.0, 75.0], label="wide")]
    )
    assert [(row["label"], row["method"], row["t"]) for row in table] == [
        ("deep", "ce", 1),
        ("wide", "ce", 1),
        ("wide", "ce", 2),
    ]
    assert markdown_table(table).splitlines()[0] == "| recipe | t = 1 | t = 2 |"
    assert markdown_table(table).splitlines()[2:] == [
        "| deep | 80.0 |  |",
        "| wide | 70.0 | 75.0 |",
    ]


MILLISECONDS = {"name": "fixed_duration", "steps": 4, "duration_us": 1000}
BINS = {"name": "equal_time", "steps": 4}


@pytest.mark.parametrize(
    ("first", "second", "marks"),
    [
        ({"prefix": "live"}, {"prefix": "live"}, []),
        ({"prefix": "live"}, {"prefix": "live, from frame 3"}, ["live", "live, from frame 3"]),
        (
            {"prefix": "live", "binning": MILLISECONDS},
            {"prefix": "live", "binning": MILLISECONDS | {"steps": 9}},
            [],
        ),
        (
            {"prefix": "live", "binning": MILLISECONDS},
            {"prefix": "live", "binning": MILLISECONDS | {"duration_us": 7}},
            [
                "live; name fixed_duration duration_us 1000",
                "live; name fixed_duration duration_us 7",
            ],
        ),
        (
            {"prefix": "hindsight bins", "binning": BINS},
            {"prefix": "hindsight bins", "binning": BINS | {"steps": 2}},
            ["hindsight bins; name equal_time steps 4", "hindsight bins; name equal_time steps 2"],
        ),
    ],
)
def test_rows_whose_first_t_steps_are_not_the_same_say_what_they_are(first, second, marks):
    table = table_of([scored("ce", 0, [80.0], **first), scored("hsd", 0, [70.0], **second)])
    assert [row["prefix"] for row in table if "prefix" in row] == marks
    names = (
        [f"{name} ({mark})" for name, mark in zip(("ce", "hsd"), marks, strict=True)]
        if marks
        else ["ce", "hsd"]
    )
    assert [line.split(" | ")[0] for line in markdown_table(table).splitlines()[2:]] == [
        f"| {name}" for name in names
    ]


def test_every_recipe_runs_with_every_seed_under_its_name(tmp_path, record):
    short = replace(
        record, name="short", data=replace(record.data, binning={**record.data.binning, "steps": 2})
    )
    result = compare_recipes([record, short], [0, 1], tmp_path / "out")
    names = ["tiny-seed0", "tiny-seed1", "short-seed0", "short-seed1"]
    assert [each["run"] for each in result["runs"]] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*names, "comparison.json"]
    )
    assert [(row["label"], row["t"]) for row in result["table"]] == [
        *(("tiny", t) for t in (1, 2, 3)),
        *(("short", t) for t in (1, 2)),
    ]
    assert result["records"] == {"tiny": asdict(record), "short": asdict(short)}
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == result


def test_finished_recipes_need_neither_training_nor_data(tmp_path, record, monkeypatch):
    records = [record, replace(record, name="other", train=replace(record.train, lr=0.02))]
    first = compare_recipes(records, [0], tmp_path / "out")
    monkeypatch.setattr(run, "fit", None)
    monkeypatch.setattr(compare, "load_splits", None)
    assert compare_recipes(records, [0], tmp_path / "out") == first


def test_recipes_judged_on_other_samples_are_refused_before_any_is_trained(
    tmp_path, record, monkeypatch
):
    def smaller(**options):
        splits = drivers.tiny(**options)
        return replace(splits, test=splits.val.subset(range(7)), protocol_hash="1" * 16)

    monkeypatch.setitem(drivers.DATASETS, "smaller", smaller)
    monkeypatch.setattr(compare, "run_record", None)
    other = replace(record, name="other", data=replace(record.data, name="smaller"))
    hashes = f"protocol_hash '{'0' * 16}' and '{'1' * 16}'"
    message = f"tiny and other are not judged on the same test: {hashes}; samples 24 and 7"
    with pytest.raises(ValueError, match=message):
        compare_recipes([record, other], [0], tmp_path / "out")
    with pytest.raises(ValueError, match="compare: some names are named twice: tiny, tiny"):
        compare_recipes([record, record], [0], tmp_path / "out")


def test_every_method_runs_with_every_seed_and_only_those_differ(tmp_path, record):
    result = compare_methods(record, ["ce", "tks"], [0, 1], tmp_path / "out")
    names = ["ce-seed0", "ce-seed1", "tks-seed0", "tks-seed1"]
    assert [each["run"] for each in result["runs"]] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*names, "comparison.json"]
    )
    configs = [load_recipe(tmp_path / "out" / name / "config.yaml") for name in names]
    assert [(each.pop("method"), each.pop("seed")) for each in configs] == [
        *(({"name": "ce", "options": {}}, seed) for seed in (0, 1)),
        *(({"name": "tks", "options": {"alpha": 0.3}}, seed) for seed in (0, 1)),
    ]
    assert all(each == configs[0] for each in configs)


def test_the_comparison_on_disk_is_what_was_returned_and_says_where_it_came_from(tmp_path, record):
    result = compare_methods(record, ["ce"], [0], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == result
    assert result["record"] == asdict(record)
    (only,) = result["runs"]
    assert only["scores"] == json.loads((tmp_path / "out" / "ce-seed0" / "scores.json").read_text())
    assert only["env"] == json.loads((tmp_path / "out" / "ce-seed0" / "env.json").read_text())
    assert result["table"] == table_of(result["runs"])


def test_a_second_call_trains_nothing_and_says_the_same(tmp_path, record, monkeypatch):
    first = compare_methods(record, ["ce", "tks"], [0], tmp_path / "out")
    monkeypatch.setattr(run, "fit", None)
    assert compare_methods(record, ["ce", "tks"], [0], tmp_path / "out") == first


def test_more_seeds_later_train_only_those(tmp_path, record, monkeypatch):
    compare_methods(record, ["ce"], [0], tmp_path / "out")
    trained, fit = [], run.fit
    monkeypatch.setattr(
        run, "fit", lambda *a, seed, **k: trained.append(seed) or fit(*a, seed=seed, **k)
    )
    result = compare_methods(record, ["ce"], [0, 1], tmp_path / "out")
    assert trained == [1, 1]  # the dry update and the training
    assert result["table"][0]["seeds"] == [0, 1]


def test_an_unfinished_run_goes_on(tmp_path, record, monkeypatch):
    whole = compare_methods(record, ["ce", "tks"], [0], tmp_path / "whole")
    with monkeypatch.context() as patch:
        finished = []

        def stop_in_the_second(*arguments, **options):
            if finished:
                raise KeyboardInterrupt
            finished.append(save_network(*arguments, **options))

        save_network = RunFolder.save_network
        patch.setattr(RunFolder, "save_network", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on with it"):
            compare_methods(record, ["ce", "tks"], [0], tmp_path / "out")
    assert not (tmp_path / "out" / "comparison.json").exists()
    assert compare_methods(record, ["ce", "tks"], [0], tmp_path / "out")["table"] == whole["table"]


def test_a_folder_with_a_comparison_of_another_recipe_is_refused(tmp_path, record):
    compare_methods(record, ["ce"], [0], tmp_path / "out")
    longer = replace(record, train=replace(record.train, epochs=2))
    with pytest.raises(ValueError, match="ce-seed0 holds another run"):
        compare_methods(longer, ["ce"], [0], tmp_path / "out")

"""Methods x seeds -> one table."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import drivers
import pytest

from anystep import compare, run
from anystep.compare import (
    cell,
    compare_methods,
    compare_recipes,
    markdown_table,
    table_cells,
    table_of,
)
from anystep.config import MethodConfig, load_recipe
from anystep.folder import RunFolder
from anystep.preflight import complete, taken
from anystep.training.methods import TKS


def scored(method, seed, accuracies, *, label=None, **scores):
    """A run as `results/*.json` holds it."""
    own = {"method": {"name": method}, "seed": seed}
    own |= {"scores": {"prefix_top1": accuracies, **scores}}
    return {"label": label, **own} if label else own


def comparison_in(folder):
    return json.loads((folder / "comparison.json").read_text())


def test_the_table_has_mean_and_sample_deviation_by_hand():
    ce = ([80.0, 90.0], [82.0, 90.0], [87.0, 93.0])
    runs = [scored("ce", seed, accuracies) for seed, accuracies in enumerate(ce)]
    table = table_of([*runs, scored("tks", 0, [95.0, 96.0])])
    values = [
        ("ce", 1, 83.0, pytest.approx(13**0.5), [0, 1, 2]),
        ("ce", 2, 91.0, pytest.approx(3**0.5), [0, 1, 2]),
        ("tks", 1, 95.0, None, [0]),
        ("tks", 2, 96.0, None, [0]),
    ]
    keys = ("method", "t", "top1_mean", "top1_sd", "seeds")
    assert table == [dict(zip(keys, row, strict=True)) for row in values]
    assert cell(83.0, 13**0.5) == "83.0 ± 3.6"
    assert markdown_table(table) == (
        "| method | t = 1 | t = 2 |\n| --- | --- | --- |\n"
        "| ce | 83.0 ± 3.6 | 91.0 ± 1.7 |\n| tks | 95.0 | 96.0 |\n"
    )


def test_rows_of_one_method_are_told_apart_by_labels_and_may_have_fewer_steps():
    runs = [scored("ce", 0, [80.0], label="deep"), scored("ce", 0, [70.0, 75.0], label="wide")]
    table = table_of(runs)
    rows = [(row["label"], row["method"], row["t"]) for row in table]
    assert rows == [("deep", "ce", 1), ("wide", "ce", 1), ("wide", "ce", 2)]
    head, _, *lines = markdown_table(table).splitlines()
    assert head == "| recipe | t = 1 | t = 2 |"
    assert lines == ["| deep | 80.0 |  |", "| wide | 70.0 | 75.0 |"]


LIVE, LATE = {"prefix": "live"}, {"prefix": "live, from frame 3"}
MILLISECONDS = {"name": "fixed_duration", "steps": 4, "duration_us": 1000}
BINS = {"name": "equal_time", "steps": 4}
HINDSIGHT = {"prefix": "hindsight bins"}


@pytest.mark.parametrize(
    ("first", "second", "marks"),
    [
        (LIVE, LIVE, []),
        (LIVE, LATE, ["live", "live, from frame 3"]),
        (LIVE | {"binning": MILLISECONDS}, LIVE | {"binning": MILLISECONDS | {"steps": 9}}, []),
        (
            LIVE | {"binning": MILLISECONDS},
            LIVE | {"binning": MILLISECONDS | {"duration_us": 7}},
            [f"live; name fixed_duration duration_us {duration}" for duration in (1000, 7)],
        ),
        (
            HINDSIGHT | {"binning": BINS},
            HINDSIGHT | {"binning": BINS | {"steps": 2}},
            [f"hindsight bins; name equal_time steps {steps}" for steps in (4, 2)],
        ),
    ],
)
def test_rows_whose_first_t_steps_are_not_the_same_say_what_they_are(first, second, marks):
    table = table_of([scored("ce", 0, [80.0], **first), scored("hsd", 0, [70.0], **second)])
    assert [row["prefix"] for row in table if "prefix" in row] == marks
    names = [f"{name} ({mark})" for name, mark in zip(("ce", "hsd"), marks, strict=False)]
    lines = markdown_table(table).splitlines()[2:]
    assert [line.split(" | ")[0][2:] for line in lines] == (names or ["ce", "hsd"])


def test_every_recipe_runs_with_every_seed_under_its_name(tmp_path, record):
    two_steps = replace(record.data, binning={**record.data.binning, "steps": 2})
    short = replace(record, name="short", data=two_steps)
    out = tmp_path / "out"
    result = compare_recipes([record, short], [0, 1], out)
    names = ["tiny-seed0", "tiny-seed1", "short-seed0", "short-seed1"]
    assert [each["run"] for each in result["runs"]] == names
    assert {path.name for path in out.iterdir()} == {*names, "comparison.json"}
    rows = [(row["label"], row["t"]) for row in result["table"]]
    assert rows == [("tiny", 1), ("tiny", 2), ("tiny", 3), ("short", 1), ("short", 2)]
    assert result["records"] == {"tiny": asdict(record), "short": asdict(short)}
    assert comparison_in(out) == result


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


def test_every_method_runs_with_every_seed_and_only_those_differ(tmp_path, record, capsys):
    record = replace(record, method=replace(record.method, options={"alpha": 0.3}))
    out = tmp_path / "out"
    result = compare_methods(record, ["ce", "tks"], [0, 1], out)
    names = ["ce-seed0", "ce-seed1", "tks-seed0", "tks-seed1"]
    assert [each["run"] for each in result["runs"]] == names
    assert {path.name for path in out.iterdir()} == {*names, "comparison.json"}
    configs = [load_recipe(out / name / "config.yaml") for name in names]
    ce = {"name": "ce", "options": {}}
    tks = {"name": "tks", "options": {"alpha": 0.3, "temperature": 5.0}}
    own = [(each.pop("method"), each.pop("seed")) for each in configs]
    assert own == [(ce, 0), (ce, 1), (tks, 0), (tks, 1)]
    assert all(each == configs[0] for each in configs)
    told = "tks: temperature 5 as published for such data, method.options names none"
    warning = f"warning: {TKS().remark(1)}"
    said = capsys.readouterr().err.splitlines()
    assert [said.count(line) for line in (told, warning)] == [2, 2]
    assert [each["method"] for each in result["runs"]] == [ce, ce, tks, tks]
    rows = [row[0] for row in table_cells(result["table"], result["runs"])[1]]
    assert rows == ["ce", "tks (alpha 0.3, temperature 5)"]

    assert comparison_in(out) == result
    assert result["record"] == asdict(record)
    assert result["table"] == table_of(result["runs"])
    first, place = result["runs"][0], RunFolder(out / "ce-seed0")
    assert (first["scores"], first["env"]) == (place.read_scores(), place.read_environment())


@pytest.mark.parametrize(
    ("binning", "options", "published"),
    [
        ("equal_time", {}, {"alpha": 0.3, "temperature": 5.0}),
        ("direct", {}, {"alpha": 0.7, "temperature": 3.0}),
        ("direct", {"alpha": 0.1, "detach": True}, {"temperature": 3.0}),
        ("equal_time", {"alpha": 0.7, "temperature": 3.0}, {}),
    ],
)
def test_tks_takes_what_its_paper_has_for_such_data_where_the_record_has_none(
    binning, options, published, record
):
    data = replace(record.data, binning={"name": binning, "steps": 4})
    given = replace(record, data=data, method=MethodConfig(name="tks", options=options))
    whole = complete(given)
    assert whole.method.options == {**options, **published}
    said = taken(given, whole) or ""
    assert all(f"{key} {value:g}" in said for key, value in published.items())
    assert bool(said) == bool(published)
    for nothing_to_take in (whole, replace(given, method=MethodConfig(name="ce"))):
        assert complete(nothing_to_take) == nothing_to_take


def test_a_second_call_trains_nothing_and_more_seeds_only_those(tmp_path, record, monkeypatch):
    trained, fit = [], run.fit

    def counting(*arguments, **options):
        trained.append(options.get("seed"))
        return fit(*arguments, **options)

    first = compare_methods(record, ["ce"], [0], tmp_path / "out")
    monkeypatch.setattr(run, "fit", counting)
    assert compare_methods(record, ["ce"], [0], tmp_path / "out") == first
    assert trained == []
    result = compare_methods(record, ["ce"], [0, 1], tmp_path / "out")
    assert trained == [None, 1]  # the dry update and the training
    assert result["table"][0]["seeds"] == [0, 1]


def test_an_unfinished_run_goes_on(tmp_path, record, monkeypatch):
    whole = compare_methods(record, ["ce", "tks"], [0], tmp_path / "whole")
    finished, save_network = [], RunFolder.save_network

    def stop_in_the_second(*arguments, **options):
        if finished:
            raise KeyboardInterrupt
        finished.append(save_network(*arguments, **options))

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_network", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on with it"):
            compare_methods(record, ["ce", "tks"], [0], tmp_path / "out")
    assert not (tmp_path / "out" / "comparison.json").exists()
    assert compare_methods(record, ["ce", "tks"], [0], tmp_path / "out")["table"] == whole["table"]

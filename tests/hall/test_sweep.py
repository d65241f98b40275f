"""Training length x test length: which runs are made, what the matrix holds, what is refused before
training.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from xml.etree import ElementTree

import drivers
import pytest

from anystep import run
from anystep.cli import main
from anystep.config import load_recipe, record_from
from anystep.folder import RunFolder
from anystep.preflight import steps_of
from anystep.sweep import matrix_of, sweep_cells, sweep_steps


@pytest.fixture
def recipe(tmp_path, tiny_rows):
    return drivers.write_recipe(tmp_path, train={"epochs": 1, "batch_size": 16, "lr": 0.01})


@pytest.fixture
def record(recipe):
    return record_from(load_recipe(recipe))


def scored(steps, seed, accuracies):
    return {
        "train_steps": steps,
        "skipped": 0,
        "seed": seed,
        "scores": {"prefix": "live", "prefix_top1": accuracies},
    }


def test_the_matrix_has_training_lengths_as_rows_and_test_lengths_as_columns():
    runs = [
        scored(2, 0, [50.0, 60.0]),
        scored(2, 1, [54.0, 66.0]),
        scored(1, 0, [70.0, 40.0]),
        scored(1, 1, [70.0, 42.0]),
    ]
    assert matrix_of(runs) == {
        "prefix": "live",
        "skipped": 0,
        "train_steps": [1, 2],
        "test_steps": [1, 2],
        "top1_mean": [[70.0, 41.0], [52.0, 63.0]],
        "top1_sd": [[0.0, pytest.approx(2**0.5)], [pytest.approx(8**0.5), pytest.approx(18**0.5)]],
        "seeds": [0, 1],
    }


def test_one_seed_has_no_deviation():
    matrix = matrix_of([scored(1, 0, [70.0, 40.0])])
    assert matrix["top1_sd"] == [[None, None]]
    assert sweep_cells({"ce": matrix}) == (
        ["method", "t = 1", "t = 2"],
        [["ce (trained with T = 1)", "70.0", "40.0"]],
    )


def test_every_length_method_and_seed_is_a_run_and_only_those_differ(tmp_path, record):
    result = sweep_steps(record, [1, 3], ["ce", "tks"], [0, 1], tmp_path / "out")
    names = [
        f"{method}-train{steps}-seed{seed}"
        for method in ("ce", "tks")
        for steps in (1, 3)
        for seed in (0, 1)
    ]
    assert [each["run"] for each in result["runs"]] == names
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {*names, "sweep.json", "sweep.png", "sweep.svg"}
    for each in result["runs"]:
        own = RunFolder(tmp_path / "out" / each["run"]).read_record()
        assert (own.method.name, own.train.steps, own.seed) == (
            each["method"]["name"],
            each["train_steps"],
            each["seed"],
        )
        assert (
            replace(own, method=record.method, seed=0, train=replace(own.train, steps=None))
            == record
        )
        scores = json.loads((tmp_path / "out" / each["run"] / "scores.json").read_text())
        assert each["scores"]["prefix_top1"] == scores["prefix_top1"]
        assert len(scores["prefix_top1"]) == 3  # the test always sees all of it
    values = [
        each["scores"]["prefix_top1"][1]
        for each in result["runs"]
        if each["run"].startswith("tks-train1-")
    ]
    assert result["matrices"]["tks"]["top1_mean"][0][1] == pytest.approx(statistics.fmean(values))
    assert result["matrices"]["tks"]["top1_sd"][0][1] == pytest.approx(statistics.stdev(values))
    assert result["record"] == asdict(record)
    assert json.loads((tmp_path / "out" / "sweep.json").read_text()) == result
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "out" / "sweep.svg").getroot().tag.endswith("svg")


def test_a_network_that_is_trained_with_all_steps_is_the_network_of_an_ordinary_run(
    tmp_path, record
):
    result = sweep_steps(record, [3], ["tks"], [0], tmp_path / "out")
    assert result["matrices"]["tks"]["top1_mean"] == [
        run.run_record(record, tmp_path / "run")["prefix_top1"]
    ]


def test_a_second_call_trains_nothing_and_more_lengths_train_only_those(
    tmp_path, record, monkeypatch
):
    first = sweep_steps(record, [1], ["ce"], [0], tmp_path / "out")
    trained, fit = [], run.fit
    monkeypatch.setattr(
        run, "fit", lambda *a, plan, **k: trained.append(plan.steps) or fit(*a, plan=plan, **k)
    )
    assert sweep_steps(record, [1], ["ce"], [0], tmp_path / "out") == first
    assert trained == []
    sweep_steps(record, [3, 1], ["ce"], [0], tmp_path / "out")
    assert trained == [3, 3]  # the dry update and the training


def test_a_part_of_the_recording_has_as_many_steps_as_the_part(record):
    assert steps_of(record) == 3
    assert steps_of(replace(record, data=replace(record.data, frames=[1, 3]))) == 2


def test_the_command_ends_with_the_matrices_as_json_and_shows_them_as_a_table(
    recipe, tmp_path, capsys
):
    out = tmp_path / "out"
    assert (
        main(["sweep", str(recipe), "--train-steps", "1,3", "--seeds", "1", "--out", str(out)]) == 0
    )
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert result["matrices"] == json.loads((out / "sweep.json").read_text())["matrices"]
    assert result["matrices"]["tks"]["train_steps"] == [1, 3]
    assert result["pictures"] == [str(out / "sweep.png"), str(out / "sweep.svg")]
    assert "tks (trained with T = 3)" in said.err

"""Training length x test length: which runs are made, what the matrix holds."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from xml.etree import ElementTree

import pytest

from anystep import run
from anystep.folder import RunFolder
from anystep.preflight import steps_of
from anystep.sweep import matrix_of, sweep_cells, sweep_steps


def scored(steps, seed, accuracies):
    scores = {"prefix": "live", "prefix_top1": accuracies}
    return {"train_steps": steps, "skipped": 0, "seed": seed, "scores": scores}


def test_the_matrix_has_training_lengths_as_rows_and_test_lengths_as_columns():
    rows = [(2, 0, [50.0, 60.0]), (2, 1, [54.0, 66.0]), (1, 0, [70.0, 40.0]), (1, 1, [70.0, 42.0])]
    assert matrix_of([scored(*row) for row in rows]) == {
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
    row = ["ce (trained with T = 1)", "70.0", "40.0"]
    assert sweep_cells({"ce": matrix}) == (["method", "t = 1", "t = 2"], [row])


def test_every_length_method_and_seed_is_a_run_and_only_those_differ(tmp_path, record):
    out = tmp_path / "out"
    result = sweep_steps(record, [1, 3], ["ce", "tks"], [0, 1], out)
    cells = [
        (method, steps, seed) for method in ("ce", "tks") for steps in (1, 3) for seed in (0, 1)
    ]
    names = [f"{method}-train{steps}-seed{seed}" for method, steps, seed in cells]
    assert [each["run"] for each in result["runs"]] == names
    assert {path.name for path in out.iterdir()} == {*names, "sweep.json", "sweep.png", "sweep.svg"}
    for each, cell in zip(result["runs"], cells, strict=True):
        own = RunFolder(out / each["run"]).read_record()
        assert (own.method.name, own.train.steps, own.seed) == cell
        assert (each["method"]["name"], each["train_steps"], each["seed"]) == cell
        plan = replace(own.train, steps=None)
        assert replace(own, method=record.method, seed=0, train=plan) == record
        scores = RunFolder(out / each["run"]).read_scores()
        assert each["scores"]["prefix_top1"] == scores["prefix_top1"]
        assert len(scores["prefix_top1"]) == 3  # the test always sees all of it
    values = [each["scores"]["prefix_top1"][1] for each in result["runs"][4:6]]
    matrix = result["matrices"]["tks"]
    assert matrix["top1_mean"][0][1] == pytest.approx(statistics.fmean(values))
    assert matrix["top1_sd"][0][1] == pytest.approx(statistics.stdev(values))
    assert result["record"] == asdict(record)
    assert json.loads((out / "sweep.json").read_text()) == result
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(out / "sweep.svg").getroot().tag.endswith("svg")


def test_a_network_that_is_trained_with_all_steps_is_that_of_an_ordinary_run(tmp_path, record):
    result = sweep_steps(record, [3], ["tks"], [0], tmp_path / "out")
    ordinary = run.run_record(record, tmp_path / "run")["prefix_top1"]
    assert result["matrices"]["tks"]["top1_mean"] == [ordinary]


def test_a_second_call_trains_nothing_and_more_lengths_train_only_those(
    tmp_path, record, monkeypatch
):
    trained, fit = [], run.fit

    def counting(*arguments, plan, **options):
        trained.append(plan.steps)
        return fit(*arguments, plan=plan, **options)

    first = sweep_steps(record, [1], ["ce"], [0], tmp_path / "out")
    monkeypatch.setattr(run, "fit", counting)
    assert sweep_steps(record, [1], ["ce"], [0], tmp_path / "out") == first
    assert trained == []
    sweep_steps(record, [3, 1], ["ce"], [0], tmp_path / "out")
    assert trained == [3, 3]  # the dry update and the training


def test_a_part_of_the_recording_has_as_many_steps_as_the_part(record):
    assert steps_of(record) == 3
    assert steps_of(replace(record, data=replace(record.data, frames=[1, 3]))) == 2


def test_the_command_ends_with_the_matrices_as_json_and_shows_them_as_a_table(terminal, recipe):
    flags = ("--train-steps", "1,3", "--seeds", "1", "--out", "out")
    code, out, err = terminal("sweep", recipe, *flags)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["matrices"]["tks"]["train_steps"] == [1, 3]
    assert result["pictures"] == ["out/sweep.png", "out/sweep.svg"]
    assert "tks (trained with T = 3)" in err

"""Run folders of an older version (tests/fixtures/runs) are reported, judged, kept and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from anystep.environment import describe_environment

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
REACHED = {
    "one-phase-stopped": RUNS / "one-phase" / "model.safetensors",
    "two-phases-stopped": RUNS / "two-phases-reached.safetensors",
}


@pytest.fixture
def old(tmp_path, tiny_rows):
    """A copy of an old folder, by its name."""
    return lambda name: shutil.copytree(RUNS / name, tmp_path / name)


def made_on_a_machine_like_this(folder):
    """Whether arithmetic here is that of the machine where an old run was trained: to the bit."""
    then, now = json.loads((folder / "env.json").read_text()), describe_environment(seed=0)
    return (then["device"], then["versions"]["torch"]) == (now["device"], now["versions"]["torch"])


def test_a_finished_run_is_judged_to_the_scores_that_it_has(old, terminal):
    folder = old("one-phase")
    scores = json.loads((folder / "scores.json").read_text())
    judged = terminal.done("evaluate", folder)
    assert judged["prefix_top1"] == scores["prefix_top1"]
    assert judged["confusion"] == scores["confusion"]
    assert judged.keys() - {"run", "work"} == scores.keys()  # work is counted since


def test_finished_runs_are_reported_together(old, terminal, tmp_path):
    terminal.done("report", old("one-phase"), old("compare"))
    assert "tks" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.png").exists()


@pytest.mark.parametrize("name", REACHED)
def test_an_unfinished_run_goes_on_to_the_network_that_the_old_version_reached(name, old, terminal):
    folder = old(name)
    terminal.done("train", "--resume", folder)
    network = folder / "model.safetensors"
    if made_on_a_machine_like_this(RUNS / name):
        assert network.read_bytes() == REACHED[name].read_bytes()
    ours, theirs = load_file(network), load_file(REACHED[name])
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "flags", "summary"),
    [
        ("compare", "--methods ce,tks --seeds 2", "comparison.json"),
        ("sweep", "--train-steps 1,3 --methods tks --seeds 1", "sweep.json"),
    ],
)
def test_the_runs_of_a_comparison_and_of_a_sweep_are_kept(
    kind, flags, summary, old, terminal, monkeypatch
):
    monkeypatch.setattr("anystep.run.fit", None)  # nothing may be trained
    folder = old(kind)
    before = (folder / summary).read_text()
    terminal.done(kind, RUNS / "small.yaml", *flags.split(), "--out", folder)
    after, before = json.loads((folder / summary).read_text()), json.loads(before)
    assert after.pop("record").items() >= before.pop("record").items()  # keys that came later
    assert after == before

"""The story of the README, told once by the command line on built-in data: train, judge, compare,
report.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anystep.cli import main

RECIPE = Path(__file__).parents[1] / "recipes" / "digits_demo.yaml"
TINY = {
    "model.options.widths": "[[4], [8]]",
    "train.epochs": 1,
    "train.batch_size": 32,
    "train.lr": 0.02,
    "engine.accelerator": "cpu",
}


@pytest.fixture
def anystep(capsys):
    def call(*arguments):
        """The JSON line at the end of stdout of a command that must work, and what it said on
        stderr.
        """
        capsys.readouterr()
        code = main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out.splitlines()[-1]), err

    return call


def test_the_story_from_data_to_report(anystep, tmp_path, digits_cache):
    listed, _ = anystep("data", "list")
    assert "digits-dvs" in listed["datasets"]

    tiny = [f"--{key}={value}" for key, value in {**TINY, "data.cache": digits_cache}.items()]
    trained, _ = anystep("train", RECIPE, "--out", tmp_path / "run", *tiny)
    assert len(trained["prefix_top1"]) == 10
    assert trained["protocol"] == "digits-dvs/stratified-70-10-20"

    judged, _ = anystep("evaluate", tmp_path / "run")
    assert judged["prefix_top1"] == trained["prefix_top1"]
    assert (judged["samples"], judged["prefix"], len(judged["classes"])) == (359, "live", 10)
    assert judged["prefix_top1"][-1] > 40  # chance is 10; this is one epoch of a very small network

    compared, shown = anystep(
        "compare", RECIPE, "--methods", "ce,tks", "--seeds", "1", "--out", tmp_path / "both", *tiny
    )
    assert [(row["method"], row["t"]) for row in compared["table"]] == [
        (m, t) for m in ("ce", "tks") for t in range(1, 11)
    ]
    assert [row["top1_mean"] for row in compared["table"][10:]] == trained[
        "prefix_top1"
    ]  # the same run as above
    assert "t = 10" in shown

    reported, _ = anystep("report", tmp_path / "both", "--out", tmp_path / "report.html")
    page = Path(reported["report"]).read_text()
    assert "<svg" in page
    assert "tks" in page
    assert Path(reported["picture"]).read_bytes().startswith(b"\x89PNG")

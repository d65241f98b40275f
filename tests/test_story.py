"""The story of the README on built-in data: train, judge, compare, report."""

from __future__ import annotations

from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "digits_demo.yaml"
TINY = """--model.options.widths=[[4],[8]] --train.epochs=1 --train.batch_size=32 --train.lr=0.02
    --engine.accelerator=cpu"""


def test_the_story_from_data_to_report(terminal, digits_cache):
    assert "digits-dvs" in terminal.done("data", "list")["datasets"]

    tiny = [*TINY.split(), f"--data.cache={digits_cache}"]
    trained = terminal.done("train", RECIPE, "--out", "run", *tiny)
    assert len(trained["prefix_top1"]) == 10
    assert trained["protocol"] == "digits-dvs/stratified-70-10-20"

    judged = terminal.done("evaluate", "run")
    assert judged["prefix_top1"] == trained["prefix_top1"]
    assert (judged["samples"], judged["prefix"], len(judged["classes"])) == (359, "live", 10)
    assert judged["prefix_top1"][-1] > 40  # chance is 10; this is one epoch of a very small network

    both = ("--methods", "ce,tks", "--seeds", "1", "--out", "both")
    table = terminal.done("compare", RECIPE, *both, *tiny)["table"]
    rows = [(method, t) for method in ("ce", "tks") for t in range(1, 11)]
    assert [(row["method"], row["t"]) for row in table] == rows
    same_run = [row["top1_mean"] for row in table[10:]]
    assert same_run == trained["prefix_top1"]

    reported = terminal.done("report", "both", "--out", "report.html")
    page = Path(reported["report"]).read_text()
    assert "<svg" in page
    assert "tks" in page
    assert Path(reported["picture"]).read_bytes().startswith(b"\x89PNG")

"""`anystep evaluate RUN --data OTHER`: a finished run's network on samples that it never had."""

from __future__ import annotations

import json
from pathlib import Path

import drivers
import event_trees
import image_trees
import numpy as np
import pytest

import anystep
from anystep.data.datasets import load_dataset
from anystep.data.frames import FixedDuration
from anystep.evaluation.evaluate import collect, score
from anystep.folder import load_model

BINNING = {"name": "fixed_duration", "steps": 3, "duration_us": 100_000}


def some(root, counts, size=16):
    for folder, count in counts.items():
        for number in range(count):
            rows = event_trees.rows_of(f"{root.name}/{folder}/{number}", size, size)
            event_trees.put(root / folder / f"{number}.npz", rows)


@pytest.fixture
def run(tmp_path, terminal):
    """A run of one epoch on a folder of 24 recordings; another folder has three."""
    some(tmp_path / "own", {"left": 12, "right": 12})
    some(tmp_path / "other", {"left": 2, "right": 1})
    options = {"root": "own", "sensor": [16, 16], "protocol": "random-90-10@1"}
    data = {"name": "events-folder", "binning": BINNING, "cache": "cache", "options": options}
    recipe = drivers.write_recipe(
        tmp_path, data=data, train={"epochs": 1, "batch_size": 4, "lr": 0.01}
    )
    return terminal.done("train", recipe, "--out", "run")["run"]


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_sample_of_a_folder_of_your_own_is_judged_and_the_run_stays_as_it_is(
    run, terminal, tmp_path
):
    before = files_of(tmp_path / run)
    code, out, err = terminal("evaluate", run, "--data", "other")
    scores = json.loads(out)
    assert code == 0, err
    assert "3 samples of other, all (" in err
    assert (scores["samples"], scores["protocol"], scores["data"]) == (3, "all", "other")
    assert files_of(tmp_path / run) == before

    # the same, by hand
    frames = []
    for name, label in (("left/0", 0), ("left/1", 0), ("right/0", 1)):
        rows = event_trees.rows_of(f"other/{name}", 16, 16)
        counts = np.zeros((3, 2, 16, 16), np.float32)
        for t, x, y, p in rows:
            counts[t // 100_000, p, y, x] += 1
        frames.append((counts, label))
    by_hand = score(collect(load_model(run), frames))
    assert scores["prefix_top1"] == by_hand["prefix_top1"]
    assert scores["confusion"] == by_hand["confusion"]


def test_the_three_lines_of_the_documentation_say_the_same(run, terminal):
    page = Path(anystep.__file__).parents[1] / "docs" / "bring-your-own-data.md"
    text = page.read_text("utf-8").partition("## A run on other data")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    exec(code, names := {})
    said = terminal.done("evaluate", run, "--data", "other")
    assert names["judge_elsewhere"](run, "other") == (said["samples"], said["prefix_top1"])
    assert {"run": run, **anystep.evaluate_run(run, data="other")} == said


def test_another_split_of_the_run_is_judged_without_touching_the_first(run, terminal):
    binning = FixedDuration(3, 100_000)
    options = {"root": "own", "sensor": [16, 16], "protocol": "random-90-10@1", "cache": "cache"}
    splits = load_dataset("events-folder", binning=binning, **options)
    for part in ("train", "val", "test"):
        scores = terminal.done("evaluate", run, "--split", part)
        assert (scores["split"], scores["samples"]) == (part, len(getattr(splits, part)))
        assert scores["protocol_hash"] == splits.protocol_hash
    assert terminal.done("evaluate", run)["split"] == "test"


def test_options_reach_the_other_data(run, terminal, tmp_path):
    some(tmp_path / "wide", {"left": 6, "right": 6}, size=34)
    wide = ("evaluate", run, "--data", "wide", "--option", "sensor=[34,34]", "--option", "size=16")
    assert terminal.done(*wide)["samples"] == 12
    fold = terminal.done(*wide, "--option", "protocol=fold-1-of-6@0", "--split", "train")
    assert (fold["protocol"], fold["split"]) == ("fold-1-of-6@0", "train")


REFUSED = [
    ("--data own", "the run learnt from own: without --data it is judged there"),
    ("--data ./run/../own", "without --data it is judged there"),
    ("--data nowhere", "'nowhere' is no folder"),
    ("--data third", "does not have the classes of the run, they differ in: right, up"),
    ("--data other --option sensor=[20,20]", "(2, 20, 20), the network takes (2, 16, 16)"),
    ("--data other --option sice=16", "unknown argument 'sice' in dataset events-folder"),
    ("--data other --option skip_bad=oui", "skip_bad must be bool, got 'oui'"),
    ("--data other --split tset", "unknown split 'tset'. Did you mean 'test'?"),
    ("--data other --split val", "the protocol all has no val"),
    ("--option size=16", "options are for other data: name its folder with data"),
]


def test_what_cannot_be_judged_is_refused_by_name(run, terminal, tmp_path):
    some(tmp_path / "third", {"left": 2, "up": 2})
    before = files_of(tmp_path / run)
    for flags, words in REFUSED:
        assert words in terminal.refused("evaluate", run, *flags.split())
    assert files_of(tmp_path / run) == before


def test_a_run_on_built_in_data_takes_no_folder(terminal, recipe):
    run = terminal.done("train", recipe, "--out", "run")["run"]
    assert "tiny is built in and takes no folder" in terminal.refused(
        "evaluate", run, "--data", "."
    )


def test_the_protocol_all_is_not_for_training(run, terminal, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    flags = ("--data.options.protocol", "all", "--method.name", "ce", "--out", "all")
    assert "leaves nothing to train with" in terminal.refused("train", recipe, *flags)
    assert not (tmp_path / "all").exists()


def test_pictures_in_another_folder_are_judged(terminal, tmp_path):
    image_trees.image_folder(tmp_path / "own")
    for number in range(5):
        for label, name in enumerate(("circle", "square")):
            image_trees.save(
                tmp_path / "new" / name / f"{number}.png", image_trees.colour(label, number, True)
            )
    data = {"name": "image-folder", "binning": {"name": "direct", "steps": 2}}
    recipe = drivers.write_recipe(
        tmp_path,
        data={**data, "options": {"root": "own", "size": 12}},
        train={"epochs": 1, "batch_size": 4, "lr": 0.01},
    )
    run = terminal.done("train", recipe, "--out", "run")["run"]
    scores = terminal.done("evaluate", run, "--data", "new")
    assert (scores["samples"], scores["split"]) == (10, "all")
    assert scores["protocol"] == "image-folder/stratified-70-10-20"

"""Finished runs: compared key by key, and grouped under labels that tell them apart."""

from __future__ import annotations

import pytest
from fake_runs import edit, make_run, rescore

from anystep.evaluation.report.runs import differences, grouped
from anystep.folder import RunFolder, read_runs

OPTION = {"method": {"name": "ce", "options": {"alpha": 1}}}
PLIF = {"model": {"neuron": {"name": "plif", "tau": 2.0}}}


def small(folder, **options):
    return make_run(folder, **{"samples": 6, "size": 2, **options})


def groups_of(runs, **options):
    """Label -> the seeds of its runs."""
    groups = grouped(read_runs(runs), **options)
    return {label: [run.seed for run in group] for label, group in groups.items()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": {"lr": 0.2}}, "train.lr differs: 0.1 (x); 0.2 (y)"),
        (PLIF, 'model.neuron.name differs: "lif" (x); "plif" (y)'),
        ({"train": {"clip": 1.0}}, "train.clip differs: not set (x); 1.0 (y)"),
        ({"train": {"steps": 2}}, None),  # a training length stands in every label
        (OPTION, None),  # and so do the options that differ
        ({"method": {"name": "ce", "options": {}}}, "ce has seed 0 more than once: x, y"),
        ({"select": "best"}, 'select differs: not set (x); "best" (y)'),
        ({"data": {"cache": "elsewhere"}, "train": {"workers": 3}}, None),
        ({"method": {"name": "tet", "options": {"lambda": 1}}, "seed": 7, "name": "other"}, None),
    ],
)
def test_differences_name_the_key_the_values_and_the_runs(tmp_path, changes, sentence):
    runs = [small(tmp_path / name, method=m) for name, m in (("x", "ce"), ("y", "tks"))]
    edit(runs[1], **changes)
    assert differences(read_runs(runs)) == ([sentence] if sentence else [])


def test_differences_see_another_protocol_prefix_or_test_set(tmp_path):
    runs = [small(tmp_path / m, method=m, samples=n) for m, n in (("ce", 4), ("tks", 7))]
    rescore(runs[1], protocol="a", protocol_hash="beef", prefix="b", split="val")
    names = ["protocol", "protocol hash", "prefix", "judged on", "test samples"]
    found = differences(read_runs(runs))
    assert [sentence.partition(" differs: ")[0] for sentence in found] == names


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        (OPTION, ["ce (alpha by default)", "ce (alpha=1)"]),
        ({"teacher": "runs/big"}, ["ce (teacher=None)", "ce (teacher=runs/big)"]),
        ({"name": "deep"}, ["ce (fake)", "ce (deep)"]),
        ({"train": {"steps": 2}}, ["ce (trained with T = 2)", "ce (trained with T = 3)"]),
        ({"train": {"steps": 3}}, ["ce (trained with T = 3)"]),  # all of them, said or not
        ({"seed": 4, "model": {"name": "other"}}, ["ce"]),
    ],
)
def test_a_label_says_what_tells_a_methods_runs_apart(tmp_path, changes, labels):
    runs = [small(tmp_path / name) for name in "xy"]
    edit(runs[1], **changes)
    assert list(groups_of(runs)) == labels


def test_training_lengths_rise_within_a_method_and_methods_keep_their_order(tmp_path):
    runs = []
    for method, steps in (("tks", 10), ("tks", 2), ("ce", 10), ("ce", 2)):
        runs.append(small(tmp_path / f"{method}{steps}", method=method))
        edit(runs[-1], train={"steps": steps})
    labels = [f"{m} (trained with T = {t})" for m in ("tks", "ce") for t in (2, 10)]
    assert list(groups_of(runs)) == labels
    assert list(groups_of(runs, by_length=False)) == ["tks", "ce"]


def test_options_that_all_runs_of_a_method_share_are_not_in_its_label(tmp_path):
    runs = [small(tmp_path / name, seed=seed) for seed, name in enumerate("xyz")]
    for run, distill in zip(runs, ("kd", "skd", "skd"), strict=True):
        edit(run, method={"name": "hsd", "options": {"distill": distill, "levels": 4}})
    assert groups_of(runs) == {"hsd (distill=kd)": [0], "hsd (distill=skd)": [1, 2]}


def test_a_run_that_sees_a_later_part_says_so_in_its_label(tmp_path):
    runs = [small(tmp_path / m, method=m) for m in ("ce", "hsd")]
    rescore(runs[1], frames=[3, 4, 5])
    assert list(groups_of(runs)) == ["ce", "hsd (from frame 4)"]
    late = RunFolder(runs[1]).read()
    assert (late.first_frame, late.skipped, late.train_steps) == (3, 3, 6)
    edit(runs[1], data={"frames": [2, 6]})
    assert RunFolder(runs[1]).read().skipped == 1


def test_runs_are_grouped_by_method_in_the_order_given_and_sorted_by_seed(tmp_path):
    pairs = [(method, seed) for method in ("tks", "ce") for seed in (1, 0)]
    groups = groups_of([small(tmp_path / f"{m}{s}", method=m, seed=s) for m, s in pairs])
    assert list(groups.items()) == [("tks", [0, 1]), ("ce", [0, 1])]

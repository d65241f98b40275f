"""Every option of every row, as a recipe gives it and as `data check --option` does."""

from __future__ import annotations

import event_trees
import image_trees
import pytest

from anystep.config import load_recipe, merge, overrides_from, record_from
from anystep.data import check as data_check
from anystep.data import digits
from anystep.data.datasets import DATASETS, options_of
from anystep.data.events import catalogue
from anystep.data.recording import Events
from anystep.preflight import check
from anystep.run import load_splits

TREES = {name: next(iter(layouts.values())) for name, layouts in event_trees.TREES.items()}
IMAGES = {"cifar10": image_trees.cifar10_binary, "cifar100": image_trees.cifar100_binary}
IMAGES |= image_trees.TREES
# A value of each option, as people write it behind --option KEY=. A new option joins them.
VALUES = {
    "sensor": "[250, 250]",
    "protocol": "random-90-10@7",
    "size": "20",
    "interpolation": "bilinear",
    "crop": "0.75",
    "stretch": "true",
    "channels": "3",
    "skip_bad": "true",
    "path": "saccade",
    "seed": "3",
    "mean": "[0.5, 0.5, 0.5]",
    "std": "[0.2, 0.3, 0.4]",
}
BINNINGS = {True: "{name: direct, steps: 2}", False: "{name: equal_time, steps: 2}"}


@pytest.mark.parametrize("name", DATASETS)
def test_all_options_of_a_row_are_taken_by_a_recipe_and_by_the_check(
    name, terminal, tmp_path, monkeypatch
):
    def film(indices=None, **options):
        one = Events.from_arrays([5, 9], [3, 4], [2, 2], [0, 1], (34, 34))
        return [(one, 0)] * (1797 if indices is None else len(indices))

    for home in (digits, data_check):  # to simulate the digits would take half a minute
        monkeypatch.setattr(home, "digits_events", film)
    monkeypatch.setattr(event_trees, "CALTECH", event_trees.CALTECH[:2])  # 101 take ten seconds
    monkeypatch.setattr(catalogue, "CALTECH_CLASSES", 2)
    options = {key: VALUES[key] for key in options_of(name) if key != "root"}
    make = {**TREES, **IMAGES}.get(name)
    given, folder = {f"data.options.{key}": value for key, value in options.items()}, []
    if make:
        make(tmp_path / "tree")
        given["data.options.root"], folder = "tree", ["tree"]
    binning = BINNINGS[name in IMAGES or name == "digits"]
    recipe = tmp_path / "any.yaml"
    recipe.write_text(f"data: {{name: {name}, cache: cache, binning: {binning}}}")
    overrides = overrides_from([f"--{key}={value}" for key, value in given.items()])
    record = record_from(merge(load_recipe(recipe), overrides))
    check(record)
    splits = load_splits(record)
    assert splits.train[0][0].shape[0] == 2
    flags = [word for pair in options.items() for word in ("--option", "=".join(pair))]
    protocol = terminal.done("data", "check", name, *folder, *flags)["protocol"]
    assert (protocol["name"], protocol["hash"]) == (splits.protocol, splits.protocol_hash)

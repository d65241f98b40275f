"""The recipes of published rows: all there, readable, with the published network, and able to learn.

Their data sets are not here yet, so rows of made-up samples of the right shape stand in `DATASETS` for them.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import anystep
from anystep.checkpoint import copy_weights
from anystep.config import load_recipe, merge, record_from
from anystep.data.datasets import DATASETS
from anystep.data.frames import Direct
from anystep.data.sets import FrameSet, ImageSet, Splits
from anystep.fuse import fold_scales_
from anystep.preflight import check
from anystep.run import build, load_splits
from anystep.train import fit, make_fabric, start

ROOT = Path(anystep.__file__).parent.parent
FOLDER = ROOT / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("digits"))
BASES = sorted(path.name for path in FOLDER.glob("base/*.yaml"))
HSD_ROWS = ("hsd", "hsd_kd", "hsd_none", "sts", "dts")

# What the data sets will hold once they are here: planes, side of a frame, classes.
SHAPES = {
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "imagenet-1k": (3, 224, 1000),
    "cub-200-2011": (3, 224, 200),
    "stanford-dogs": (3, 224, 120),
    "stanford-cars": (3, 224, 196),
    "cifar10-dvs": (2, 48, 10),
    "ncaltech101": (2, 48, 101),
    "dvs-gesture": (2, 48, 11),
}

# Trainable parameters as counted from the authors' code. DVS-Gesture is by hand: one class more than CIFAR10-DVS, 4608 + 1.
PARAMETERS = {
    "cifar10_resnet19": 12_698_250,
    "cifar100_resnet19": 12_721_380,
    "cifar10_sewresnet19": 12_630_858,
    "cifar100_sewresnet19": 12_653_988,
    "imagenet_sewresnet34": 21_797_672,
    "imagenet_sewresnet50": 25_557_032,
    "cub200_sewresnet18": 11_279_112,
    "cub200_sewresnet34": 21_387_272,
    "stanforddogs_sewresnet18": 11_238_072,
    "stanforddogs_sewresnet34": 21_346_232,
    "stanfordcars_sewresnet18": 11_277_060,
    "stanfordcars_sewresnet34": 21_385_220,
    "cifar10dvs_vggsnn": 9_268_746,
    "ncaltech101_vggsnn": 9_688_165,
}
PARAMETERS_HSD = {  # its convolutions have biases
    "cifar10dvs_vggsnn": 9_271_498,
    "ncaltech101_vggsnn": 9_690_917,
    "dvsgesture_vggsnn": 9_276_107,
}
CLIPS = 8  # HSD's ANN learns one a layer

# One update of each takes seconds, of all of them minutes: the suite has one of a kind, `make test-slow` the rest.
QUICK = ("cifar10_resnet19_tks", "cifar10_sewresnet19_tks", "cifar10dvs_vggsnn_tks", "cifar10dvs_vggsnn_sts")


@cache
def record_of(name):
    return record_from(load_recipe(FOLDER / f"{name}.yaml"))


def record_with(name, **changes):
    return record_from(merge(load_recipe(FOLDER / f"{name}.yaml"), changes))


def network_of(name):
    """`cifar10dvs_vggsnn` of `cifar10dvs_vggsnn_hsd_kd`."""
    return "_".join(name.split("_")[:2])


def row_of(name):
    """`hsd_kd` of `cifar10dvs_vggsnn_hsd_kd`."""
    return name.removeprefix(f"{network_of(name)}_")


def made_up(data, *, binning, cache=None, workers=None):
    """Two samples of the data set `data`: two random images, or two recordings of random counts."""
    planes, side, classes = SHAPES[data]
    rng, labels = np.random.default_rng(0), [0, classes - 1]
    if isinstance(binning, Direct):
        samples = ImageSet(rng.normal(size=(2, planes, side, side)).astype(np.float32), labels, binning)
    else:
        samples = FrameSet(rng.poisson(1.0, (2, binning.steps, planes, side, side)).astype(np.uint8), labels)
    names = tuple(f"class {label}" for label in range(classes))
    return Splits(samples, samples, samples, names, f"{data}/made-up", "0" * 16, binning.causal, binning.describe())


@pytest.fixture
def rows(monkeypatch):
    for name in SHAPES:
        monkeypatch.setitem(DATASETS, name, partial(made_up, name))


def test_there_is_a_recipe_for_every_published_row():
    static = [*product(("cifar10", "cifar100"), ("resnet19", "sewresnet19"))]
    events = [*product(("cifar10dvs", "ncaltech101"), ("vggsnn",))]
    fine = [*product(("cub200", "stanforddogs", "stanfordcars"), ("sewresnet18", "sewresnet34"))]
    names = [(*each, method) for each in static + events for method in ("ce", "label_smoothing", "tet", "tks")]
    names += [(*each, method) for each in [*fine, ("imagenet", "sewresnet34")] for method in ("ce", "tet", "tks")]
    names += [("imagenet", "sewresnet50", "tks")]
    names += [*product(("cifar10dvs", "ncaltech101", "dvsgesture"), ("vggsnn",), HSD_ROWS)]
    assert sorted("_".join(each) for each in names) == RECIPES


def test_every_base_is_used_and_is_no_recipe():
    used = {re.search(r"^base: base/(.+)$", (FOLDER / f"{name}.yaml").read_text(), re.MULTILINE)[1] for name in RECIPES}
    assert sorted(used) == BASES
    assert not [base for base in BASES if "name" in load_recipe(FOLDER / "base" / base)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_that_its_data_set_is_missing_as_long_as_it_is(name):
    data = record_of(name).data.name
    says = f"# Needs the data set {data}, which is not here yet.\n" in (FOLDER / f"{name}.yaml").read_text()
    assert says == (data not in DATASETS), "a data set came or went: change the recipe's comment"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_published_network_at_the_published_size(name, rows):
    record = record_of(name)
    phases, splits = check(record).phases(), load_splits(record)
    steps = 4 if SHAPES[record.data.name][0] == 3 else 5 if row_of(name) == "sts" else 10
    assert splits.train[0][0].shape == (steps, *(SHAPES[record.data.name][i] for i in (0, 1, 1)))
    published = (PARAMETERS_HSD if row_of(name) in HSD_ROWS else PARAMETERS)[network_of(name)]
    for phase in phases:
        with torch.device("meta"):
            model, _ = build(record, phase, splits)
        clips = CLIPS if phase.name == "ann" else 0
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == published + clips


@pytest.mark.parametrize("name", [name for name in RECIPES if row_of(name) not in HSD_ROWS])
def test_a_tks_recipe_is_trained_as_its_authors_say(name):
    record = record_of(name)
    events, fine = record.data.name in ("cifar10-dvs", "ncaltech101"), SHAPES[record.data.name][1] == 224
    optimizer, decay = ("adam", 0.0) if record.data.name == "imagenet-1k" else ("adamw", 0.01)
    plan = record.train
    assert (plan.epochs, plan.batch_size, plan.optimizer, plan.weight_decay) == (600, 128, optimizer, decay)
    assert [plan.lr_at(epoch) for epoch in (0, 1)] == pytest.approx([1e-6, 1.258e-4])  # 5e-3 * 128 / 1024 over 5 epochs
    assert plan.balanced == (record.data.name == "ncaltech101")
    if record.method.name == "tks":
        temperature = 5.0 if events else 1.0 if fine and record.data.name == "imagenet-1k" else 3.0
        assert record.method.options == {"alpha": 0.3 if events else 0.7, "temperature": temperature}


@pytest.mark.parametrize("data", ["cifar10dvs", "ncaltech101", "dvsgesture"])
def test_hsd_differs_from_its_ablations_in_the_teaching_alone(data, rows):
    whole, kd, none = (record_of(f"{data}_vggsnn_{row}") for row in ("hsd", "hsd_kd", "hsd_none"))
    assert [each.method.options["distill"] for each in (whole, kd, none)] == ["skd", "kd", "none"]
    for other in (kd, none):
        method = replace(other.method, options={**other.method.options, "distill": "skd"})
        assert replace(other, name=whole.name, method=method) == whole
    ann, snn = check(whole).phases()
    assert (ann.frames, snn.frames) == (slice(0, 5), slice(5, 10))
    assert (snn.teacher, snn.teacher_frames, snn.plan["lr"]) == ("ann", slice(0, 5), 1e-5)


@pytest.mark.parametrize("steps", range(1, 6))
def test_every_published_number_of_steps_is_one_override_away(steps, rows):
    hsd = record_with("cifar10dvs_vggsnn_hsd", method={"options": {"snn_frames": [5, 5 + steps]}})
    snn = check(hsd).phases()[-1]
    assert len(range(10)[snn.frames]) == steps
    sts = record_with("cifar10dvs_vggsnn_sts", data={"frames": [0, steps]})
    assert load_splits(sts).train[0][0].shape[0] == steps


@pytest.mark.filterwarnings("ignore::anystep.AnystepWarning")  # before its second update a layer may well be silent
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in RECIPES])
def test_a_recipe_takes_an_update_in_every_phase(name, rows):
    record = record_of(name)
    method, splits = check(record), load_splits(record)
    plan = replace(record.train, epochs=len(method.phases()), batch_size=2)
    networks = {}
    for phase in method.phases():
        model, _ = build(record, phase, splits)
        if phase.start_from is not None:
            copy_weights(networks[phase.start_from].state_dict(), model)
            fold_scales_(model)
        networks[phase.name] = model
        before = next(model.parameters()).detach().clone()
        state = start(model, plan, phase=phase, teacher=networks.get(phase.teacher))
        (row,) = fit(state, splits.train, method=method, plan=plan, fabric=make_fabric(accelerator="cpu")).history
        assert math.isfinite(row["train_loss"])
        assert len(row["parts"]) == 1 + (phase.teacher is not None or record.method.name in ("tet", "tks"))
        first = next(model.parameters())
        assert bool(first.grad.any()), "no gradient arrives at the first convolution"
        assert not torch.equal(first, before)
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def documented():
    """(recipe, our result) of every row of the tables in docs/recipes.md."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)


def test_the_page_of_recipes_has_each_recipe_once_and_no_other():
    assert sorted(name for name, _ in documented()) == RECIPES


def test_the_page_claims_no_result_of_ours():
    assert {ours for _, ours in documented()} == {"not measured"}

"""The recipes of published rows: all there, with the published network and augmentation, and able
to learn.

Nobody has all the data sets: rows of made-up samples stand in `DATASETS` for them, of the size that
the recipe asks for, and the real rows read releases in miniature.
"""

from __future__ import annotations

import fnmatch
import math
import re
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import event_trees
import image_trees
import numpy as np
import pytest
import torch

import anystep
from anystep.config import load_recipe, merge, record_from
from anystep.data.augmentation.augment import Erase
from anystep.data.augmentation.randaugment import RandAugment
from anystep.data.augmentation.warps import Crop, Flip, ResizedCrop, Roll, Rotate
from anystep.data.datasets import DATASETS
from anystep.data.frames import Direct
from anystep.data.images.cifar import CIFAR10_MEAN, CIFAR10_STD
from anystep.data.images.pictures import PictureSet
from anystep.data.sets import FrameSet, Splits
from anystep.preflight import check
from anystep.run import augmentation_of, build, load_splits
from anystep.training.fabric import make_fabric
from anystep.training.fit import fit, start

ROOT = Path(anystep.__file__).parent.parent
FOLDER = ROOT / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("digits"))
BASES = sorted(path.name for path in FOLDER.glob("base/*.yaml"))
HSD_ROWS = ("hsd", "hsd_kd", "hsd_none", "sts", "dts")

# What a published network sees of each data set: planes, side of a frame, classes.
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

# Trainable parameters as counted from the authors' code. DVS-Gesture is by hand: one class more
# than CIFAR10-DVS, 4608 + 1.
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

# What happens to training samples, in this order. TKS as in its code, without colour jitter on
# ImageNet; HSD as in its code for CIFAR10-DVS, without the flip on gestures, where left and right
# are classes.
PIXELS = {"mean": CIFAR10_MEAN, "std": CIFAR10_STD}  # of the made-up images
CHANGED = RandAugment(
    **PIXELS, layers=2, magnitude=9.0, spread=0.5, p=0.5, fill=(0.485, 0.456, 0.406)
)
CIFAR = [Crop(4, 0.0), Flip(0.5), CHANGED, Erase(0.25)]
PHOTOGRAPHS = [ResizedCrop(0.08, 4 / 3), Flip(0.5)]
AUGMENTED = {data: PHOTOGRAPHS for data, (_, side, _) in SHAPES.items() if side == 224} | {
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "cifar10-dvs": [Crop(4, 0.0), Flip(0.5), Rotate(15.0, 0.0)],
    "ncaltech101": [],
}
AUGMENTED_HSD = {
    "cifar10-dvs": [Flip(0.5), Roll(5)],
    "ncaltech101": [Flip(0.5), Roll(5)],
    "dvs-gesture": [Roll(5)],
}
PROTOCOLS = {
    "cifar10-dvs": "cifar10-dvs/last-100",
    "ncaltech101": "ncaltech101/90-10-per-class",
    "dvs-gesture": "dvs-gesture/users",
}

# What was read by hand: recipes, a key, its value, and where it stands. A run may have more.
NO_AMP = "--amp of TKS's train_main.py is off by default; HSD's funcs.py never enters autocast"
TIMM = "BrainCog, datasets.py, build_transform"
CALLED = "HSD, funcs.py: train_snn_step, which main calls, saves to ncal_model_weight"
UNCALLED = "HSD, funcs.py: train_snn2 saves to dvscifar10_model_weight"
TET = "temporal_efficient_training, main_training_parallel.py"
PUBLISHED = (
    ("*", "engine.precision", "32-true", NO_AMP),
    ("cifar10_*", "data.augment.2.fill", [0.485, 0.456, 0.406], f"{TIMM}: no mean is named"),
    ("cifar100_*", "data.augment.2.fill", [0.485, 0.456, 0.406], f"{TIMM}: no mean is named"),
    ("imagenet_*", "data.options.interpolation", "bicubic", "timm 0.6.13, resolve_data_config"),
    ("*_sts", "method.name", "tet", "HSD, caption of Figure 2: TET with STS"),
    ("*_dts", "method.name", "tet", "HSD, caption of Figure 2: TET with DTS"),
    ("*_[sd]ts", "method.options", {"lamb": 1e-3, "phi": 1.0}, TET),
    ("*_tet", "method.options", {"lamb": 1e-3, "phi": 1.0}, TET),
    ("ncaltech101_*_hsd", "method.options.temperature", 2.0, CALLED),
    ("ncaltech101_*_hsd_kd", "method.options.temperature", 2.0, CALLED),
    ("cifar10dvs_*_hsd", "method.options.temperature", 10.0, UNCALLED),
    ("*_hsd*", "method.options.reduction", "mean", "HSD, funcs.py: nn.KLDivLoss()"),
    ("*_hsd*", "method.options.levels", 16, "HSD, folder saved_models_std_ann_snn_l_16_dvs"),
    ("*_hsd*", "method.options.snn.lr", 1e-5, "HSD, main_VGGSNN_dvscifar10.py, last call"),
    ("*_hsd*", "train.batch_size", 64, "HSD, main_VGGSNN_dvscifar10.py, --bs"),
)
RELEASES = image_trees.TREES | {
    "cifar10": image_trees.cifar10_binary,
    "cifar100": image_trees.cifar100_binary,
    **{data: event_trees.TREES[data]["released"] for data in PROTOCOLS},
}

# One update of each takes seconds, of all of them minutes: the suite has one of a kind, `make
# test-slow` the rest.
QUICK = (
    "cifar10_resnet19_tks",
    "cifar10_sewresnet19_tks",
    "cifar10dvs_vggsnn_tks",
    "cifar10dvs_vggsnn_sts",
)


@cache
def record_of(name):
    return record_from(load_recipe(FOLDER / f"{name}.yaml"))


def record_with(name, **changes):
    return record_from(merge(load_recipe(FOLDER / f"{name}.yaml"), changes))


def with_data(record, **options):
    options = {**record.data.options, **options}
    cache = options.pop("cache", None)
    return replace(record, data=replace(record.data, cache=cache, options=options))


def network_of(name):
    """`cifar10dvs_vggsnn` of `cifar10dvs_vggsnn_hsd_kd`."""
    return "_".join(name.split("_")[:2])


def row_of(name):
    """`hsd_kd` of `cifar10dvs_vggsnn_hsd_kd`."""
    return name.removeprefix(f"{network_of(name)}_")


def made_up(
    data,
    *,
    binning,
    cache=None,
    workers=None,
    root=None,
    protocol=None,
    interpolation=None,
    size=32,
):
    """Two samples of the data set `data`: two images of noise, or two recordings of random counts,
    `size` x `size`.
    """
    planes, _, classes = SHAPES[data]
    rng, labels = np.random.default_rng(0), [0, classes - 1]
    if isinstance(binning, Direct):
        pictures = rng.integers(0, 256, (2, planes, size, size), dtype=np.uint8)
        samples = PictureSet(pictures, labels, encoding=binning, **PIXELS)
    else:
        counts = rng.poisson(1.0, (2, binning.steps, planes, size, size))
        samples = FrameSet(counts.astype(np.uint8), labels)
    names = tuple(f"class {label}" for label in range(classes))
    said = (f"{data}/made-up", "0" * 16, binning.causal, binning.describe())
    return Splits(samples, samples, samples, names, *said)


@pytest.fixture
def rows(monkeypatch):
    for name in SHAPES:
        monkeypatch.setitem(DATASETS, name, partial(made_up, name))


def test_there_is_a_recipe_for_every_published_row():
    events = ("cifar10dvs_vggsnn", "ncaltech101_vggsnn")
    small = [*map("_".join, product(("cifar10", "cifar100"), ("resnet19", "sewresnet19"))), *events]
    fine = product(("cub200", "stanforddogs", "stanfordcars"), ("sewresnet18", "sewresnet34"))
    large = [*map("_".join, fine), "imagenet_sewresnet34"]
    names = {
        *product(small, ("ce", "label_smoothing", "tet", "tks")),
        *product(large, ("ce", "tet", "tks")),
        ("imagenet_sewresnet50", "tks"),
        *product((*events, "dvsgesture_vggsnn"), HSD_ROWS),
    }
    assert sorted("_".join(each) for each in names) == RECIPES


def test_every_base_is_used_is_no_recipe_and_says_once_that_its_folder_must_be_named():
    texts = [(FOLDER / f"{name}.yaml").read_text() for name in RECIPES]
    used = {re.search(r"^base: base/(.+)$", text, re.MULTILINE)[1] for text in texts}
    assert sorted(used) == BASES
    said = r"^# Nothing is downloaded: `--data\.options\.root FOLDER` .* \((\S+)\)\.$"
    for path in FOLDER.glob("base/*.yaml"):
        base = load_recipe(path)
        assert "name" not in base
        (page,) = re.findall(said, path.read_text(), re.MULTILINE)
        assert f"`{base['data']['name']}`" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_the_check_with_a_folder_and_asks_for_one_without(name):
    record = record_of(name)
    check(with_data(record, root="anywhere"))
    with pytest.raises(ValueError, match=rf"^{record.data.name}: root "):
        load_splits(record)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_shows_and_augments_the_data_as_published(name, rows):
    record, hsd = record_of(name), row_of(name) in HSD_ROWS
    data, options = record.data.name, record.data.options
    augment = augmentation_of(record, load_splits(record))
    wanted = (AUGMENTED_HSD if hsd else AUGMENTED)[data]
    assert list(augment.steps if augment else ()) == wanted
    assert options.get("protocol") == PROTOCOLS.get(data)
    if data in PROTOCOLS:
        assert options["interpolation"] == ("nearest" if hsd else "bilinear")
        assert record.data.binning == {"name": "equal_count" if hsd else "equal_time", "steps": 10}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("data", SHAPES)
def test_a_release_on_disk_is_read_and_augmented_as_each_recipe_asks(data, tmp_path):
    RELEASES[data](tmp_path / "release")
    folders = {"cache": str(tmp_path / "cache"), "root": str(tmp_path / "release")}
    planes, side, _ = SHAPES[data]
    of_data = [name for name in RECIPES if record_of(name).data.name == data]
    for name in (one for one in of_data if row_of(one) in ("ce", "hsd")):
        record = with_data(record_of(name), **folders)
        splits = load_splits(record)
        augment = augmentation_of(record, splits)
        frames, label = splits.train[0]
        assert frames.shape[1:] == (planes, side, side)
        x = torch.from_numpy(np.stack([frames[:1]] * 8, axis=1)).float()
        y = torch.full((8,), label)
        if augment is not None:
            changed, labels = augment(x, y, torch.Generator().manual_seed(0))
            assert changed.shape == x.shape
            assert not torch.equal(changed, x)
            assert torch.equal(labels, y)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_published_network_at_the_published_size(name, rows):
    record = record_of(name)
    method, splits = check(record), load_splits(record)
    planes, side, _ = SHAPES[record.data.name]
    steps = 4 if planes == 3 else 5 if row_of(name) == "sts" else 10
    assert splits.train[0][0].shape == (steps, planes, side, side)
    published = (PARAMETERS_HSD if row_of(name) in HSD_ROWS else PARAMETERS)[network_of(name)]
    for phase in method.phases():
        with torch.device("meta"):
            model = build(record, phase, splits)
        clips = CLIPS if phase.name == "ann" else 0
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == published + clips


@pytest.mark.parametrize("name", [name for name in RECIPES if row_of(name) not in HSD_ROWS])
def test_a_tks_recipe_is_trained_as_its_authors_say(name):
    record = record_of(name)
    data, plan = record.data.name, record.train
    events, imagenet = data in ("cifar10-dvs", "ncaltech101"), data == "imagenet-1k"
    assert (plan.epochs, plan.batch_size) == (600, 128)
    assert (plan.optimizer, plan.weight_decay) == (("adam", 0.0) if imagenet else ("adamw", 0.01))
    # 5e-3 * 128 / 1024 over 5 epochs
    assert [plan.lr_at(epoch) for epoch in (0, 1)] == pytest.approx([1e-6, 1.258e-4])
    assert plan.balanced == (data == "ncaltech101")
    if record.method.name == "tks":
        temperature = 5.0 if events else 1.0 if imagenet else 3.0
        alpha = 0.3 if events else 0.7
        assert record.method.options == {"alpha": alpha, "temperature": temperature}


@pytest.mark.parametrize(("recipes", "key", "value", "source"), PUBLISHED)
def test_a_recipe_has_the_value_that_was_read(recipes, key, value, source):
    names = fnmatch.filter(RECIPES, recipes)
    assert names
    for name in names:
        found = asdict(record_of(name))
        for part in key.split("."):
            found = found[int(part) if part.isdigit() else part]
        assert found == value, f"{name}: {source}"


@pytest.mark.parametrize("data", ["cifar10dvs", "ncaltech101", "dvsgesture"])
def test_hsd_differs_from_its_ablations_in_the_teaching_alone(data, rows):
    whole, kd, none = (record_of(f"{data}_vggsnn_{row}") for row in ("hsd", "hsd_kd", "hsd_none"))
    assert [each.method.options["distill"] for each in (whole, kd, none)] == ["skd", "kd", "none"]
    for other in (kd, none):  # which has no temperature
        options = {"temperature": whole.method.options["temperature"], **other.method.options}
        method = replace(other.method, options={**options, "distill": "skd"})
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


# Before its second update a layer may well be silent.
@pytest.mark.filterwarnings("ignore::anystep.AnystepWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in RECIPES]
)
def test_a_recipe_takes_an_update_in_every_phase(name, rows):
    record = record_of(name)
    method, splits = check(record), load_splits(record)
    plan = replace(record.train, epochs=len(method.phases()), batch_size=2)
    options = {"augment": augmentation_of(record, splits), "fabric": make_fabric(accelerator="cpu")}
    networks = {}
    for phase in method.phases():
        model = build(record, phase, splits)
        networks[phase.name] = model
        state = start(model, plan, phase=phase, networks=networks)
        before = next(model.parameters()).detach().clone()
        (row,) = fit(state, splits.train, method=method, plan=plan, **options).history
        assert math.isfinite(row["train_loss"])
        taught = phase.teacher is not None or record.method.name in ("tet", "tks")
        assert len(row["parts"]) == 1 + taught
        first = next(model.parameters())
        assert bool(first.grad.any()), "no gradient arrives at the first convolution"
        assert not torch.equal(first, before)
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_the_page_of_recipes_has_each_recipe_once_and_claims_no_result_of_ours():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == RECIPES
    assert {ours for _, ours in rows} == {"not measured"}

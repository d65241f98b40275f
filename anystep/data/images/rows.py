"""Rows of image sets that lie on disk as they were released, or as a tree of class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.data.frames import Direct, Encoding
from anystep.data.images.layouts import LAYOUTS
from anystep.data.images.pictures import Fit, ImageFiles, PictureSet
from anystep.data.images.shards import find_shards, read_shards
from anystep.data.protocols import Split, held_out, stratified
from anystep.data.sets import Splits

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def direct(name: str, binning: Encoding) -> Direct:
    """The encoding, if it is one for images."""
    if not isinstance(binning, Direct):
        raise UsageError(f"{name} holds images: its binning must be direct, got {binning.name}")
    return binning


def release_folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    """The folder of the release, or an error that says how to give it."""
    if root is None:
        rule = "root is required, the folder that holds the data (data.options.root in a recipe)"
        raise UsageError(f"{name}: {rule}. Nothing is downloaded")
    if not Path(root).is_dir():
        raise UsageError(f"{name}: root must be a folder that exists, got {os.fspath(root)!r}")
    return Path(root)


def _wanted(name: str, shards: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The parts to read, train first. ImageNet's test shards have no labels and are not opened."""
    imagenet = name == "imagenet-1k"
    needed = ("train", "validation") if imagenet else ("train",)
    missing = [part for part in needed if part not in shards]
    if missing and "" not in shards:
        there = next(iter(shards.values()))[0]
        rule = f"{there.parent} must hold {missing[0]}-*.parquet"
        raise UsageError(f"{name}: {rule}, it has {there.name}")
    known = needed if imagenet else ("", "train", "validation", "test")
    return {part: shards[part] for part in known if part in shards}


def _split(
    name: str,
    labels: NDArray[np.int64],
    ids: NDArray[np.str_],
    parts: NDArray[np.str_],
    classes: tuple[str, ...],
) -> Split:
    """The split of samples, in the order of their ids, by the parts that the release gives them."""
    own: dict[str, Any] = {"ids": ids, "classes": classes}
    there, three = set(parts.tolist()), ("train", "validation", "test")
    if there >= set(three):
        return Split(f"{name}/given", *(np.flatnonzero(parts == part) for part in three))
    if len(there) == 1:
        return stratified(labels, (0.7, 0.1, 0.2), name=f"{name}/stratified-70-10-20", **own)
    test = parts == ("test" if "test" in there else "validation")
    return held_out(labels, test, name=f"{name}/official", **own)


def photographs(
    name: str,
    /,
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    root: str | os.PathLike[str] | None = None,
    size: int = 224,
    interpolation: str = "bilinear",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Splits:
    """Row `name` of LAYOUTS from the folder `root`: files or parquet shards, decoded at access.

    The shorter side becomes 8/7 `size` and the centre `size` x `size` is kept, in all three parts:
    256 and 224 as the papers test. `interpolation` is "bilinear" (torchvision's default; the code
    of TKS on the fine-grained sets) or "bicubic" (timm's; the row `imagenet-1k`). Training images
    change by chance through `data.augment` only.

    Test is the release's (of ImageNet the 50,000 validation images, since nobody has the labels of
    its test set), validation is a tenth of every training class: protocol "<name>/official". What
    has no test part is split "<name>/stratified-70-10-20". An image's id is its path under `root`;
    the split depends on the ids alone. `cache` and `workers` have nothing to do: nothing is built.

    Shards are <root>/data/train-*.parquet or <root>/train-*.parquet, and validation or test beside;
    see `read_shards` for the ids. Test is the test part, else the validation part; with both,
    validation is the release's too: "<name>/given". Samples come in the order of the shards, and an
    epoch is shuffled in windows, see `epoch_order`.
    """
    encoding, folder = direct(name, binning), release_folder(name, root)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"{name}: size must be a whole number of pixels >= 1, got {size!r}")
    fit = Fit(round(size * 8 / 7), size, interpolation)
    blocks = None
    if shards := find_shards(folder):
        stored = read_shards(name, _wanted(name, shards))
        pictures, blocks = ImageFiles(stored.images, fit), stored.images.blocks()
        labels, ids, parts, classes = stored.labels, stored.ids, stored.parts, stored.classes
    else:
        listing = choose(LAYOUTS, name, "image layout")(name, folder)
        images = sorted(listing.images, key=lambda image: image.file.as_posix())
        pictures = ImageFiles([str(image.file) for image in images], fit)
        labels = np.array([image.label for image in images], dtype=np.int64)
        base = listing.base or folder
        ids = np.array([image.file.relative_to(base).as_posix() for image in images])
        parts = np.array(["test" if image.test else "train" for image in images])
        classes = listing.classes
    data = PictureSet(
        pictures, labels, encoding=encoding, mean=mean, std=std, ids=ids, blocks=blocks
    )
    # A split counts in the order of the ids, that of the same images as files; the parts keep the
    # order of the set.
    order = np.argsort(ids, kind="stable")
    split = _split(name, labels[order], ids[order], parts[order], classes)
    members = (np.sort(order[each]) for each in (split.train, split.val, split.test))
    train, val, test = (data.subset(each) for each in members)
    described = split.name, split.hash, encoding.causal, encoding.describe()
    return Splits(train, val, test, classes, *described)

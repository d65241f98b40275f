"""Rows of image sets that lie on disk as they were released, or as a tree of class folders.

Test is the release's (of ImageNet the 50,000 validation images, since nobody has the labels of its
test set), validation is a tenth of every training class: protocol "<name>/official". What has no
test part is split "<name>/stratified-70-10-20". An image's id is its path under `root`; the split
depends on the ids alone.

Shards are <root>/data/train-*.parquet or <root>/train-*.parquet, and validation or test beside; see
`read_shards` for the ids. Test is the test part, else the validation part; with both, validation is
the release's too: "<name>/given". Samples come in the order of the shards, and an epoch is shuffled
in windows, see `epoch_order`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.data.frames import Direct, Encoding, sides
from anystep.data.images.layouts import LAYOUTS
from anystep.data.images.pictures import GREY, Fit, ImageFiles, PictureSet
from anystep.data.images.shards import ShardImages, find_shards, read_shards
from anystep.data.protocols import Split, held_out, stratified
from anystep.data.sets import Splits

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Size = int | Sequence[int]  # the side of a square, or [H, W]
Planes = float | Sequence[float]  # a number for all planes, or one for each


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


@dataclass(frozen=True)
class Preparation:
    """How a row turns pictures into arrays of one shape, unless options say otherwise.

    The defaults do nothing that was not asked for: x / 255.
    """

    size: Size | None = None
    crop: float = 1.0
    interpolation: str = "bilinear"
    channels: int | None = None
    mean: Planes = 0.0
    std: Planes = 1.0


# The papers test with 256 and 224 pixels and ImageNet's statistics; on ImageNet through timm, which
# is bicubic, on the others through torchvision.
_PUBLISHED = Preparation(224, 7 / 8, "bilinear", 3, IMAGENET_MEAN, IMAGENET_STD)
PREPARED = dict.fromkeys(LAYOUTS, _PUBLISHED)
PREPARED |= {"imagenet-1k": replace(_PUBLISHED, interpolation="bicubic")}
PREPARED |= {"image-folder": Preparation()}


class _Found(NamedTuple):
    """Pictures with a label, an id and a part each."""

    pictures: Sequence[str] | ShardImages
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    parts: NDArray[np.str_]
    classes: tuple[str, ...]


def _find(name: str, folder: Path) -> _Found:
    """The pictures of a folder: those in parquet shards, if it has some, else files."""
    if shards := find_shards(folder):
        stored = read_shards(name, _wanted(name, shards))
        return _Found(stored.images, stored.labels, stored.ids, stored.parts, stored.classes)
    listing = choose(LAYOUTS, name, "image layout")(name, folder)
    images = sorted(listing.images, key=lambda image: image.file.as_posix())
    base = listing.base or folder
    return _Found(
        [str(image.file) for image in images],
        np.array([image.label for image in images], dtype=np.int64),
        np.array([image.file.relative_to(base).as_posix() for image in images]),
        np.array(["test" if image.test else "train" for image in images]),
        listing.classes,
    )


def _fit(
    name: str, size: Size | None, crop: float, stretch: bool, interpolation: str
) -> Fit | None:
    """How a picture gets its size; None: as it is."""
    if size is None:
        if crop != 1 or stretch:
            raise UsageError(f"{name}: crop and stretch say how pictures become `size`: give size")
        return None
    if not 0 < crop <= 1:
        rule = "crop must be the share of the shorter side that is kept, above 0 and at most 1"
        raise UsageError(f"{name}: {rule}, got {crop!r}")
    height, width = sides(size)
    resize = round(height / crop), round(width / crop)
    return Fit(resize, (height, width), interpolation, stretch)


def _agreed(name: str, pictures: ImageFiles) -> int:
    """The channels of all pictures, from the headers; an error if they need a `size`."""
    first: tuple[str, tuple[int, int]] | None = None
    grey = True
    for where, size, mode in pictures.headers():
        first, grey = first or (where, size), grey and mode in GREY
        if pictures.fit is None and size != first[1]:
            told = (f"{place} has {w} x {h} pixels" for place, (w, h) in (first, (where, size)))
            rule = "size must be given (data.options.size)"
            raise UsageError(f"{name}: {rule}: {', '.join(told)}")
        if pictures.fit and not grey:
            break  # nothing more to learn
    if first is None:
        pictures[0]  # says why it cannot be read
    return 1 if grey else 3


def _each_plane(name: str, option: str, value: Planes, channels: int) -> list[float]:
    """A number for each plane."""
    numbers = list(value) if isinstance(value, Sequence) else [value] * channels
    if len(numbers) != channels:
        rule = f"{option} must be one number, or one for each of the {channels} channels"
        raise UsageError(f"{name}: {rule}, got {value!r}")
    return numbers


def _parted(
    name: str, found: _Found, pictures: ImageFiles, encoding: Direct, scale: dict[str, list[float]]
) -> Splits:
    """The pictures in three parts."""
    blocks = found.pictures.blocks() if isinstance(found.pictures, ShardImages) else None
    data = PictureSet(
        pictures, found.labels, encoding=encoding, ids=found.ids, blocks=blocks, **scale
    )
    # A split counts in the order of the ids, that of the same images as files; the parts keep the
    # order of the set.
    order = np.argsort(found.ids, kind="stable")
    labels, ids, parts = found.labels[order], found.ids[order], found.parts[order]
    split = _split(name, labels, ids, parts, found.classes)
    members = (np.sort(order[each]) for each in (split.train, split.val, split.test))
    train, val, test = (data.subset(each) for each in members)
    described = split.name, split.hash, encoding.causal, encoding.describe()
    return Splits(train, val, test, found.classes, *described)


def image_set(name: str) -> Callable[..., Splits]:
    """The function that loads row `name` of LAYOUTS, with these arguments:

    root            the folder with the pictures: files or parquet shards, decoded at access
    size            pictures get this side, or [H, W]; None: all have one size, which they keep
    crop            the shorter side becomes size / crop, then the centre is kept: 1 loses nothing
                    of a picture of that shape, and does nothing to one of that size
    stretch         both sides become size / crop: nothing is lost of other shapes either
    interpolation   how: "bilinear" or "bicubic", with Pillow's weights
    channels        3, or 1 for grey; None: 1 if all pictures are grey, else 3
    mean, std       of (x / 255 - mean) / std: a number, or one for each channel

    PREPARED has the defaults of each row. All parts are prepared alike; training pictures change by
    chance through `data.augment` only. Without `size` or `channels` the headers of all are read.
    """
    row = PREPARED[name]

    def load(
        *,
        binning: Encoding,
        root: str | os.PathLike[str] | None = None,
        size: Size | None = row.size,
        crop: float = row.crop,
        stretch: bool = False,
        interpolation: str = row.interpolation,
        channels: int | None = row.channels,
        mean: Planes = row.mean,
        std: Planes = row.std,
    ) -> Splits:
        encoding, folder = direct(name, binning), release_folder(name, root)
        fit = _fit(name, size, crop, stretch, interpolation)
        if channels not in (None, 1, 3):
            raise UsageError(f"{name}: channels must be 1 or 3, got {channels!r}")
        found = _find(name, folder)
        pictures = ImageFiles(found.pictures, fit, channels or 3)
        if fit is None or channels is None:
            agreed = _agreed(name, pictures)
            pictures.channels = channels or agreed
        scale = {
            key: _each_plane(name, key, value, pictures.channels)
            for key, value in (("mean", mean), ("std", std))
        }
        return _parted(name, found, pictures, encoding, scale)

    load.__doc__ = LAYOUTS[name].__doc__
    return load

"""Image sets that lie on disk as they were released, or as a tree of class folders: read as they
are, never downloaded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._extras import need
from anystep._lookup import choose
from anystep.data.frames import Direct, Encoding
from anystep.data.images.pictures import ImageFiles, ParquetPictures
from anystep.data.images.shards import Stored, find_shards, read_shards
from anystep.data.protocols import Split, held_out, stratified
from anystep.data.sets import Blocks, DataSet, Splits

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALIDATION = ("val", "valid", "validation", "Val")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Pictures(Protocol):
    """Images by number, (P, H, W) uint8: an array, a memory map, or files that are decoded when
    they are asked for.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


class PictureSet(DataSet):
    """Images with labels, normalised when they are read, each shown for T steps without a copy (a
    stride of 0 in time).

        item = ((image / 255 - mean) / std shown T times (T, P, H, W) float32, label)

    pictures (M images (P, H, W) uint8)   labels (M,)   ids (M,)   mean, std: a number for each of
    the P planes
    blocks: which images lie together on disk, if an epoch must read those together
    """

    labels: NDArray[np.int64]
    ids: NDArray[Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        pictures: Pictures,
        labels: ArrayLike,
        *,
        encoding: Direct,
        mean: Sequence[float],
        std: Sequence[float],
        ids: ArrayLike | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        self._pictures, self.encoding, self.blocks = pictures, encoding, blocks
        self._rows = np.arange(len(pictures))
        self.labels = np.asarray(labels, dtype=np.int64)
        self.ids = self._rows if ids is None else np.asarray(ids)
        for name, column in {"labels": self.labels, "ids": self.ids}.items():
            if column.shape != (len(pictures),):
                raise UsageError(
                    f"PictureSet: {name} must be ({len(pictures)},) like the pictures, got {column.shape}"
                )
        self.mean, self.std = _planes("mean", mean), _planes("std", std)
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise UsageError(
                f"PictureSet: std must be as many numbers > 0 as mean, got {list(std)} beside {list(mean)}"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        image = self.raw(index)
        if len(image) != len(self.mean):
            raise UsageError(
                f"PictureSet: mean and std are for {len(self.mean)} planes, an image has {len(image)}"
            )
        mean, std = (
            np.array(each, dtype=np.float32).reshape(-1, 1, 1) for each in (self.mean, self.std)
        )
        return self.encoding((image.astype(np.float32) / 255 - mean) / std), int(self.labels[index])

    def raw(self, index: int) -> NDArray[np.uint8]:
        """The image as it is stored, (P, H, W) uint8."""
        return np.asarray(self._pictures[int(self._rows[index])])

    def subset(self, indices: ArrayLike) -> PictureSet:
        """The images `indices` (B,), in that order, over the same store."""
        rows = np.asarray(indices, dtype=np.int64)
        view = object.__new__(PictureSet)
        view._pictures, view.encoding, view.mean, view.std = (
            self._pictures,
            self.encoding,
            self.mean,
            self.std,
        )
        view._rows, view.labels, view.ids = self._rows[rows], self.labels[rows], self.ids[rows]
        view.blocks = None if self.blocks is None else self.blocks.subset(rows)
        return view


def _planes(name: str, values: Sequence[float]) -> tuple[float, ...]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise UsageError(
            f"PictureSet: {name} must be a list with a number for each plane, got {values!r}"
        )
    return tuple(array.tolist())


@dataclass(frozen=True)
class Listing:
    """What a release holds: file and label of every image, which are test images (None: no official
    test), class names.

    Ids are paths under `base` (None: under the root).
    """

    files: list[Path]
    labels: list[int]
    test: list[bool] | None
    classes: tuple[str, ...]
    base: Path | None = None


def photographs(
    name: str,
    /,
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    root: str | os.PathLike[str] | None = None,
    size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Splits:
    """Row `name` of LAYOUTS from the folder `root`: files or parquet shards, decoded at access,
    normalised by `PictureSet`.

    The shorter side becomes 8/7 `size` and the centre `size` x `size` is kept, in all three parts:
    256 and 224 as the papers test. What trains sees chance through `data.augment` only.

    Test is the release's (of ImageNet the 50,000 validation images, since nobody has the labels of
    its test set), validation is a tenth of every training class: protocol "<name>/official". What
    has no test part is split "<name>/stratified-70-10-20".
    An image's id is its path under `root`; order and membership come from ids. `cache` and
    `workers` have nothing to do: nothing is built.

    Shards are <root>/data/train-*.parquet or <root>/train-*.parquet, and validation or test beside;
    see `read_shards` for the ids. Test is the test part, else the validation part; with both,
    validation is the release's too: "<name>/given". Samples come in the order of the shards, and an
    epoch is shuffled in windows, see `epoch_order`.

    Errors: an encoding other than direct; a folder or file that is missing, with what was looked
    for.
    """
    encoding, folder = direct(name, binning), release_folder(name, root)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"{name}: size must be a whole number of pixels >= 1, got {size!r}")
    look: dict[str, Any] = {"encoding": encoding, "mean": mean, "std": std}
    fit = {"resize": round(size * 8 / 7), "crop": size}
    shards = find_shards(folder)
    if shards:
        found = read_shards(name, _parts(name, shards))
        pictures = ParquetPictures(found.images, **fit)
        stored = PictureSet(
            pictures, found.labels, ids=found.ids, blocks=found.images.blocks(), **look
        )
        return picture_splits(stored, *_split_of(name, found))
    listed = choose(LAYOUTS, name, "image layout")(name, folder)
    order = sorted(range(len(listed.files)), key=lambda i: listed.files[i].as_posix())
    labels = np.array([listed.labels[i] for i in order], dtype=np.int64)
    files = [listed.files[i] for i in order]
    ids = [file.relative_to(listed.base or folder).as_posix() for file in files]
    parts = _official(
        name, labels, None if listed.test is None else [listed.test[i] for i in order], ids
    )
    return picture_splits(
        PictureSet(ImageFiles(files, **fit), labels, ids=ids, **look), parts, listed.classes
    )


def _official(
    name: str, labels: NDArray[np.int64], test: ArrayLike | None, ids: list[str]
) -> Split:
    if test is None:
        return stratified(labels, (0.7, 0.1, 0.2), name=f"{name}/stratified-70-10-20", ids=ids)
    return held_out(labels, test, name=f"{name}/official", ids=ids)


def _parts(name: str, shards: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The parts to read, train first. Nobody has the labels of ImageNet's test set, so its shards
    are not opened.
    """
    wanted = {"imagenet-1k": ("train", "validation")}.get(name, ("train",))
    missing = [part for part in wanted if part not in shards]
    if missing and "" not in shards:
        there = next(iter(shards.values()))[0]
        raise UsageError(
            f"{name}: {there.parent} must hold {missing[0]}-*.parquet, it has {there.name}"
        )
    known = (
        ("train", "validation") if name == "imagenet-1k" else ("", "train", "validation", "test")
    )
    return {part: shards[part] for part in known if part in shards}


def _split_of(name: str, found: Stored) -> tuple[Split, tuple[str, ...], NDArray[np.int64]]:
    """Split, class names, and the order of the ids, in which the split counts: that of the same
    images as files.
    """
    order = np.argsort(found.ids, kind="stable")
    parts, there = found.parts[order], set(found.parts.tolist())
    if {"train", "validation", "test"} <= there:
        each = {"train": "train", "val": "validation", "test": "test"}
        split = Split(
            f"{name}/given", **{mine: np.flatnonzero(parts == its) for mine, its in each.items()}
        )
    else:
        test = parts == ("test" if "test" in there else "validation") if len(there) > 1 else None
        split = _official(name, found.labels[order], test, found.ids[order].tolist())
    return split, found.classes, order


def direct(name: str, binning: Encoding) -> Direct:
    """The encoding, if it is one for images."""
    if not isinstance(binning, Direct):
        raise UsageError(f"{name} holds images: its binning must be direct, got {binning.name}")
    return binning


def release_folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    """The folder of the release, or an error that says how to give it."""
    if root is None:
        raise UsageError(
            f"{name}: root is required, the folder that holds the data (data.options.root in a recipe). Nothing is downloaded"
        )
    if not Path(root).is_dir():
        raise UsageError(f"{name}: root must be a folder that exists, got {os.fspath(root)!r}")
    return Path(root)


def picture_splits(
    data: PictureSet, parts: Split, classes: tuple[str, ...], order: NDArray[np.int64] | None = None
) -> Splits:
    """The three parts of a set, with what a record says about them.

    `order` (M,), if the split counts in another one: sample order[i] is its i. The parts keep the
    order of the set.
    """
    rows = {
        part: each if order is None else np.sort(order[each])
        for part, each in vars(parts).items()
        if part != "name"
    }
    return Splits(
        train=data.subset(rows["train"]),
        val=data.subset(rows["val"]),
        test=data.subset(rows["test"]),
        classes=classes,
        protocol=parts.name,
        protocol_hash=parts.hash,
        causal=data.encoding.causal,
        binning=data.encoding.describe(),
    )


def _tree(name: str, folder: Path) -> Listing:
    """Your own images: class folders, under a training and a test folder or directly under the
    root.
    """
    train = _first(folder, ("train", "training", "Train"))
    test = _first(folder, ("test", "Test", *VALIDATION))
    if train is None or test is None:
        files, labels, classes = _classes(name, folder)
        return Listing(files, labels, None, classes)
    beside = _first(folder, [each for each in VALIDATION if test.name.lower() == "test"])
    if beside is not None:
        text = f"{name}: {beside} lies beside train and test and is not read: validation is carved from train"
        warnings.warn(text, AnystepWarning, stacklevel=2)
    return _two_trees(name, train, test)


def _two_trees(name: str, train: Path, test: Path) -> Listing:
    """Class folders that train and class folders that test, the same in both."""
    files, labels, classes = _classes(name, train)
    more, more_labels, more_classes = _classes(name, test)
    if classes != more_classes:
        other = sorted(set(classes) ^ set(more_classes))
        raise UsageError(
            f"{name}: {train} and {test} must have the same class folders; only one has {other[0]!r}"
        )
    return Listing(
        files + more, labels + more_labels, [False] * len(files) + [True] * len(more), classes
    )


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _classes(name: str, folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Files and labels of <folder>/<class>/**; classes in the order of their names, as every image
    folder reader has them.
    """
    classes = tuple(
        sorted(
            each.name
            for each in folder.iterdir()
            if each.is_dir() and not each.name.startswith(".")
        )
    )
    files: list[Path] = []
    labels: list[int] = []
    for label, one in enumerate(classes):
        walk = os.walk(folder / one)  # a stat a file would take minutes on a million files
        members = [Path(base, each) for base, _, names in walk for each in names if _is_image(each)]
        if not members:
            raise UsageError(
                f"{name}: class folder {folder / one} holds no image ({', '.join(SUFFIXES)})"
            )
        files += members
        labels += [label] * len(members)
    if len(classes) < 2:
        raise UsageError(
            f"{name}: {folder} must hold a folder of images for each class, it has {len(classes)} folders"
        )
    return files, labels, classes


def _is_image(name: str) -> bool:
    """By the suffix. What starts with a dot is hidden: a Mac leaves ._cat.jpg beside cat.jpg."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _imagenet(name: str, folder: Path) -> Listing:
    """ILSVRC 2012: <wnid> folders under train/ and val/, as the common unpacking scripts leave
    them.
    """
    base = next(
        (each for each in (folder, folder / "ILSVRC/Data/CLS-LOC") if (each / "train").is_dir()),
        None,
    )
    if base is None or not (base / "val").is_dir():
        raise UsageError(f"{name}: {folder} must hold train/<wnid>/*.JPEG and val/<wnid>/*.JPEG")
    if not any(each.is_dir() for each in (base / "val").iterdir()):
        raise UsageError(
            f"{name}: {base / 'val'} is flat: move its images into a folder for each class (wnid) first"
        )
    return replace(
        _two_trees(name, base / "train", base / "val"), base=base
    )  # test/ has no labels and is not opened


def _cub(name: str, folder: Path) -> Listing:
    """CUB-200-2011: images.txt, image_class_labels.txt, train_test_split.txt and classes.txt beside
    images/.
    """
    base = _base(name, folder, "images.txt", ("", "CUB_200_2011"))
    paths, labels, training = (
        _table(base / file)
        for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    names = _table(base / "classes.txt")
    numbers = sorted(names, key=int)
    label_of = {number: label for label, number in enumerate(numbers)}
    try:
        return Listing(
            [base / "images" / path for path in paths.values()],
            [label_of[labels[key]] for key in paths],
            [training[key] == "0" for key in paths],
            tuple(names[number] for number in numbers),
        )
    except KeyError as error:
        raise UsageError(
            f"{name}: the lists in {base} do not fit together: number {error} is missing in one"
        ) from error


def _table(file: Path) -> dict[str, str]:
    """Lines `number value`."""
    if not file.is_file():
        raise UsageError(f"{file} is missing")
    rows = [
        line.split(maxsplit=1)
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    short = next((number for number, row in enumerate(rows, 1) if len(row) != 2), None)
    if short is not None:
        raise UsageError(f"{file}: entry {short} must be a number and a value")
    return {number: value.strip() for number, value in rows}


def _dogs(name: str, folder: Path) -> Listing:
    """Stanford Dogs: Images/<wnid-breed>/*.jpg and train_list.mat, test_list.mat (here or in
    lists/); or a class tree.
    """
    if _first(folder, ("train",)):
        return _tree(name, folder)
    base = _base(name, folder, "Images", ("",))
    lists = _base(name, folder, "train_list.mat", ("", "lists"))
    files, labels, test = [], [], []
    for testing, file in ((False, "train_list.mat"), (True, "test_list.mat")):
        paths, numbers = _matlab(lists / file, "file_list", "labels")
        for path, label in zip(paths, numbers, strict=True):
            files.append(base / "Images" / str(path.item()))
            labels.append(int(label) - 1)
            test.append(testing)
    named = {label: file.parent.name for file, label in zip(files, labels, strict=True)}
    return Listing(files, labels, test, tuple(named[label] for label in sorted(named)))


def _cars(name: str, folder: Path) -> Listing:
    """Stanford Cars: cars_train/, cars_test/ and devkit/, cars_test_annos_withlabels.mat here or in
    it; or a class tree.
    """
    if _first(folder, ("train",)):
        return _tree(name, folder)
    devkit = _base(name, folder, "cars_train_annos.mat", ("devkit", ""))
    answers = _base(name, folder, "cars_test_annos_withlabels.mat", ("", "devkit"))
    classes = tuple(
        str(each.item()) for each in _matlab(devkit / "cars_meta.mat", "class_names")[0]
    )
    files, labels, test = [], [], []
    lists = {
        "cars_train": devkit / "cars_train_annos.mat",
        "cars_test": answers / "cars_test_annos_withlabels.mat",
    }
    for images, file in lists.items():
        for row in _matlab(file, "annotations")[0]:
            files.append(folder / images / str(row["fname"].item()))
            labels.append(int(row["class"].item()) - 1)
            test.append(images == "cars_test")
    return Listing(files, labels, test, classes)


def _base(name: str, folder: Path, wanted: str, places: Sequence[str]) -> Path:
    for place in places:
        if (folder / place / wanted).exists():
            return folder / place
    looked = " or ".join(str(folder / place / wanted) for place in places)
    raise UsageError(
        f"{name}: {looked} is missing: root must be the folder of the unpacked release"
    )


def _matlab(file: Path, *names: str) -> list[NDArray[Any]]:
    """The arrays of these names in a .mat file, each as one column."""
    reader = need("scipy.io", extra="report", purpose="the lists of Stanford's releases")
    if not file.is_file():
        raise UsageError(f"{file} is missing")
    try:
        table = reader.loadmat(file)
        return [table[name].ravel() for name in names]
    except Exception as error:  # whatever scipy raises for a damaged file: named, not hidden
        raise UsageError(
            f"{file} is no MATLAB file with {' and '.join(names)}: {error!r}"
        ) from error


LAYOUTS: dict[str, Callable[[str, Path], Listing]] = {
    "imagenet-1k": _imagenet,
    "cub-200-2011": _cub,
    "stanford-dogs": _dogs,
    "stanford-cars": _cars,
    "image-folder": _tree,
}

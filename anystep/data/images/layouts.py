"""How image releases lie on disk: a table of functions that list files, labels and test images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._extras import need
from anystep._files import regular

VALIDATION = ("val", "valid", "validation", "Val")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Listed(NamedTuple):
    """An image of a release."""

    file: Path
    label: int
    test: bool = False


@dataclass(frozen=True)
class Listing:
    """What a release holds. Without a test image, it has no official test set.

    Ids are paths under `base` (None: under the root).
    """

    images: list[Listed]
    classes: tuple[str, ...]
    base: Path | None = None


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _is_image(name: str) -> bool:
    """By the suffix. What starts with a dot is hidden: a Mac leaves ._cat.jpg beside cat.jpg."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _class_folders(name: str, folder: Path, *, test: bool) -> Listing:
    """<folder>/<class>/**; classes in the order of their names, as every image folder reader."""
    folders = [each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != "."]
    images: list[Listed] = []
    for label, one in enumerate(sorted(folders)):
        walk = os.walk(folder / one)  # a stat a file would take minutes on a million files
        members = [Path(base, each) for base, _, names in walk for each in names if _is_image(each)]
        if not members:
            known = ", ".join(SUFFIXES)
            raise UsageError(f"{name}: class folder {folder / one} holds no image ({known})")
        images += [Listed(file, label, test) for file in members]
    if len(folders) < 2:
        rule = "must hold a folder of images for each class"
        raise UsageError(f"{name}: {folder} {rule}, it has {len(folders)} folders")
    return Listing(images, tuple(sorted(folders)))


def _two_trees(name: str, train: Path, test: Path) -> Listing:
    """Class folders that train and class folders that test, the same in both."""
    trains, tests = _class_folders(name, train, test=False), _class_folders(name, test, test=True)
    if trains.classes != tests.classes:
        other = sorted(set(trains.classes) ^ set(tests.classes))[0]
        rule = "must have the same class folders"
        raise UsageError(f"{name}: {train} and {test} {rule}; only one has {other!r}")
    return Listing(trains.images + tests.images, trains.classes)


def _tree(name: str, folder: Path) -> Listing:
    """Your own images: class folders, with or without a training and a test folder above them."""
    train = _first(folder, ("train", "training", "Train"))
    test = _first(folder, ("test", "Test", *VALIDATION))
    if train is None or test is None:
        return _class_folders(name, folder, test=False)
    beside = _first(folder, VALIDATION)
    if beside not in (None, test):
        text = f"{name}: {beside} lies beside train and test and is not read"
        warnings.warn(f"{text}: validation is carved from train", AnystepWarning, stacklevel=2)
    return _two_trees(name, train, test)


def _imagenet(name: str, folder: Path) -> Listing:
    """ILSVRC 2012: <wnid> folders under train/ and val/, as the common unpacking scripts do."""
    inside = folder / "ILSVRC/Data/CLS-LOC"
    base = inside if (inside / "train").is_dir() else folder
    if not (base / "train").is_dir() or not (base / "val").is_dir():
        raise UsageError(f"{name}: {folder} must hold train/<wnid>/*.JPEG and val/<wnid>/*.JPEG")
    if not any(each.is_dir() for each in (base / "val").iterdir()):
        way_out = "move its images into a folder for each class (wnid) first"
        raise UsageError(f"{name}: {base / 'val'} is flat: {way_out}")
    # test/ has no labels and is not opened
    return replace(_two_trees(name, base / "train", base / "val"), base=base)


def _base(name: str, folder: Path, wanted: str, places: Sequence[str]) -> Path:
    for place in places:
        if (folder / place / wanted).exists():
            return folder / place
    looked = " or ".join(str(folder / place / wanted) for place in places)
    rule = "root must be the folder of the unpacked release"
    raise UsageError(f"{name}: {looked} is missing: {rule}")


def _table(file: Path) -> dict[str, str]:
    """Lines `number value`."""
    if not file.is_file():
        raise UsageError(f"{file} is missing")
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [line.split(maxsplit=1) for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UsageError(f"{file}: entry {number} must be a number and a value")
    return {number: value.strip() for number, value in rows}


def _cub(name: str, folder: Path) -> Listing:
    """CUB-200-2011: images/ and beside it lists of the images, labels, test images and classes."""
    base = _base(name, folder, "images.txt", ("", "CUB_200_2011"))
    lists = ("images", "image_class_labels", "train_test_split", "classes")
    paths, labels, training, names = (_table(base / f"{each}.txt") for each in lists)
    numbers = sorted(names, key=int)
    label_of = {number: label for label, number in enumerate(numbers)}
    try:
        images = [
            Listed(base / "images" / path, label_of[labels[key]], training[key] == "0")
            for key, path in paths.items()
        ]
    except KeyError as error:
        text = f"the lists in {base} do not fit together: number {error} is missing in one"
        raise UsageError(f"{name}: {text}") from error
    return Listing(images, tuple(names[number] for number in numbers))


def _matlab(file: Path, *names: str) -> list[NDArray[Any]]:
    """The arrays of these names in a .mat file, each as one column."""
    reader = need("scipy.io", extra="images", purpose="the lists of Stanford's releases")
    try:
        table = reader.loadmat(regular(file))
        return [table[name].ravel() for name in names]
    except Exception as error:  # whatever scipy raises for a damaged file: named, not hidden
        wanted = " and ".join(names)
        raise UsageError(f"{file} is no MATLAB file with {wanted}: {error!r}") from error


def _dogs(name: str, folder: Path) -> Listing:
    """Stanford Dogs: Images/<wnid-breed>/*.jpg and its lists, here or in lists/; or folders."""
    if _first(folder, ("train",)):
        return _tree(name, folder)
    base = _base(name, folder, "Images", ("",)) / "Images"
    lists = _base(name, folder, "train_list.mat", ("", "lists"))
    images: list[Listed] = []
    for part in ("train", "test"):
        paths, labels = _matlab(lists / f"{part}_list.mat", "file_list", "labels")
        for path, label in zip(paths, labels, strict=True):
            images.append(Listed(base / str(path.item()), int(label) - 1, part == "test"))
    breeds = {image.label: image.file.parent.name for image in images}
    return Listing(images, tuple(breeds[label] for label in sorted(breeds)))


def _cars(name: str, folder: Path) -> Listing:
    """Stanford Cars: cars_train/, cars_test/, devkit/ and the test's labels; or class folders."""
    if _first(folder, ("train",)):
        return _tree(name, folder)
    devkit = _base(name, folder, "cars_train_annos.mat", ("devkit", ""))
    answers = _base(name, folder, "cars_test_annos_withlabels.mat", ("", "devkit"))
    (classes,) = _matlab(devkit / "cars_meta.mat", "class_names")
    lists = devkit / "cars_train_annos.mat", answers / "cars_test_annos_withlabels.mat"
    images: list[Listed] = []
    for test, place, file in zip((False, True), ("cars_train", "cars_test"), lists, strict=True):
        for row in _matlab(file, "annotations")[0]:
            path = folder / place / str(row["fname"].item())
            images.append(Listed(path, int(row["class"].item()) - 1, test))
    return Listing(images, tuple(str(each.item()) for each in classes))


LAYOUTS: dict[str, Callable[[str, Path], Listing]] = {
    "imagenet-1k": _imagenet,
    "cub-200-2011": _cub,
    "stanford-dogs": _dogs,
    "stanford-cars": _cars,
    "image-folder": _tree,
}

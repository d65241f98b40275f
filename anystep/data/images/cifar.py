"""CIFAR-10 and CIFAR-100 in any form in which people have them: parquet, binary, pickled, PNGs."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import content_hash, regular
from anystep.data.cache import cached_array, default_cache
from anystep.data.frames import Encoding
from anystep.data.images.pictures import PictureSet, decode
from anystep.data.images.rows import direct, release_folder
from anystep.data.images.shards import find_shards, read_shards
from anystep.data.protocols import held_out
from anystep.data.sets import Splits

CIFAR_VERSION = 1  # raise it when the same files give another array
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house "
    "kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark "
    "shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table "
    "tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)
CIFAR10_CLASSES, CIFAR100_CLASSES = tuple(_CIFAR10_NAMES.split()), tuple(_CIFAR100_NAMES.split())
RECORD = np.dtype([("image", "u1", (3, 32, 32)), ("label", "<i8"), ("test", "?"), ("id", "U20")])
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (M, 3, 32, 32) and labels (M,)


@dataclass(frozen=True)
class Cifar:
    """How one of the two sets is kept.

    shards, binary, python   folders of the parquet files, of the binary and of the pickled form
    train, test              the files of those two forms; a binary one ends with .bin
    label                    column of the parquet files; with an s the key of the pickled ones
    label_bytes              before every image of the binary files; the last one counts
    """

    name: str
    classes: tuple[str, ...]
    shards: str
    binary: str
    python: str
    train: tuple[str, ...]
    test: str
    label: str
    label_bytes: int


CIFAR10 = Cifar(
    "cifar10",
    CIFAR10_CLASSES,
    shards="plain_text",
    binary="cifar-10-batches-bin",
    python="cifar-10-batches-py",
    train=tuple(f"data_batch_{k}" for k in range(1, 6)),
    test="test_batch",
    label="label",
    label_bytes=1,
)
CIFAR100 = Cifar(
    "cifar100",
    CIFAR100_CLASSES,
    shards="cifar100",
    binary="cifar-100-binary",
    python="cifar-100-python",
    train=("train",),
    test="test",
    label="fine_label",
    label_bytes=2,
)


def _decoded(file: str | bytes, where: str) -> NDArray[np.uint8]:
    image = decode(file, where)
    if image.shape != (3, 32, 32):
        _, height, width = image.shape
        raise UsageError(f"{where} must have 32 x 32 pixels, it has {width} x {height}")
    return image


def _read_parquet(cifar: Cifar, file: Path) -> Part:
    """Columns `img` (bytes of an image file) and the label."""
    stored = read_shards(cifar.name, {"": [file]}, label=cifar.label)
    found = stored.images
    return np.stack([_decoded(found[k], found.where(k)) for k in range(len(found))]), stored.labels


def _pngs(folder: Path) -> list[Path]:
    """All PNGs below a folder; what starts with a dot is hidden."""
    return sorted(each for each in folder.rglob("*.png") if each.name[0] != ".")


def _read_pngs(cifar: Cifar, folder: Path) -> Part:
    """<class>/*.png, also a level deeper, or <number>_<class>.png; a class may be its number."""
    known = {name: label for label, name in enumerate(cifar.classes)}
    known |= {str(label): label for label in known.values()}
    images, labels = [], []
    for file in _pngs(folder):
        label = known.get(file.parent.name, known.get(file.stem.partition("_")[2]))
        if label is None:
            rule = f"its folder must be a class of {cifar.name} ({cifar.classes[0]}, ...)"
            raise UsageError(f"{file}: {rule}, or its name <number>_<class>.png")
        images.append(_decoded(str(file), str(file)))
        labels.append(label)
    return np.stack(images), np.array(labels, dtype=np.int64)


def _read_binary(cifar: Cifar, file: Path) -> Part:
    """Rows of label bytes and 3,072 pixel bytes: red, green, blue, each row by row."""
    width = cifar.label_bytes + 3072
    content = np.fromfile(file, dtype=np.uint8)
    if len(content) == 0 or len(content) % width:
        raise UsageError(f"{file} must hold rows of {width} bytes, it has {len(content)} bytes")
    rows = content.reshape(-1, width)
    labels = rows[:, cifar.label_bytes - 1].astype(np.int64)
    return rows[:, cifar.label_bytes :].reshape(-1, 3, 32, 32), labels


class _Plain(pickle._Unpickler):
    """Unpickles numpy arrays of numbers and the plain types.

    Python's own unpickler, not the one in C: that one takes memory for as many values as ten bytes
    of a damaged file name.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # that function, whatever numpy calls its module
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _: text.encode("latin1")  # how pickles of protocol 2 hold bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not needed for images")


def _read_python(cifar: Cifar, file: Path) -> Part:
    """A pickled dictionary; only arrays and plain values are unpickled, so no code of it runs."""
    try:
        with file.open("rb") as stream:
            content = _Plain(stream, encoding="bytes").load()
        labels = np.array(content[f"{cifar.label}s".encode()], dtype=np.int64)
        images = np.asarray(content[b"data"], dtype=np.uint8).reshape(len(labels), 3, 32, 32)
    except Exception as error:  # a damaged pickle can raise anything; named, not hidden
        raise UsageError(f"{file} is no batch of {cifar.name}: {error}") from error
    return images, labels


def _records(read: Callable[[Path], Part], train: list[Path], test: list[Path]) -> NDArray[Any]:
    """All images as RECORDs: training, then test, each in the order of pixels' hash and label.

    The id is the hash; the second and further of the same get -1, -2, ... behind it.
    """
    parts: list[NDArray[Any]] = []
    for testing, files in ((False, train), (True, test)):
        images, labels = map(np.concatenate, zip(*(read(file) for file in files), strict=True))
        names = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images]
        order = sorted(range(len(images)), key=lambda i: (names[i], int(labels[i])))
        part = np.empty(len(images), dtype=RECORD)
        part["image"], part["label"], part["test"] = images[order], labels[order], testing
        seen: Counter[str] = Counter()
        ids = []
        for i in order:
            ids.append(f"{names[i]}-{seen[names[i]]}" if seen[names[i]] else names[i])
            seen[names[i]] += 1
        # An image of the test set that also trains has two ids.
        known = set(parts[0]["id"].tolist()) if testing else set()
        part["id"] = [f"{name}t" if name in known else name for name in ids]
        parts.append(part)
    return np.concatenate(parts)


def _find(cifar: Cifar, folder: Path) -> tuple[Callable[[Path], Part], list[Path], list[Path]]:
    """A reader of the form that is there, with its training and its test files."""
    for place in (folder / cifar.shards, folder):
        shards = find_shards(place)
        if "train" in shards and "test" in shards:
            return partial(_read_parquet, cifar), shards["train"], shards["test"]
    forms = ((cifar.binary, ".bin", _read_binary), (cifar.python, "", _read_python))
    for home, suffix, read in forms:
        for base in (folder / home, folder):
            train = [base / f"{name}{suffix}" for name in cifar.train]
            test = base / f"{cifar.test}{suffix}"
            if test.is_file():
                for file in train:
                    if not file.is_file():
                        raise UsageError(f"{cifar.name}: {file} is missing")
                return partial(read, cifar), train, [test]
    pngs = [folder / part for part in ("train", "test")]
    if all(_pngs(each) for each in pngs):
        return partial(_read_pngs, cifar), pngs[:1], pngs[1:]
    known = f"{cifar.shards}/train-*.parquet and test-*.parquet, {cifar.binary}/, {cifar.python}/"
    raise UsageError(f"{cifar.name}: {folder} must hold {known} or PNGs in train/ and test/")


def _content(place: Path) -> Any:
    """The hash of a file; of a folder those of its PNGs with their paths, which name the class."""
    if place.is_dir():
        return [(file.relative_to(place).as_posix(), _content(file)) for file in _pngs(place)]
    return hashlib.sha256(regular(place).read_bytes()).hexdigest()


def _cifar(
    cifar: Cifar,
    binning: Encoding,
    cache: str | os.PathLike[str] | None,
    root: str | os.PathLike[str] | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Splits:
    encoding, folder = direct(cifar.name, binning), release_folder(cifar.name, root)
    read, train, test = _find(cifar, folder)
    contents = [_content(place) for place in (*train, *test)]
    key = f"{cifar.name}-{content_hash(CIFAR_VERSION, contents)}"
    store = default_cache() if cache is None else Path(cache)
    table = cached_array(store, key, lambda: _records(read, train, test))
    labels, ids, most = np.array(table["label"]), np.array(table["id"]), len(cifar.classes) - 1
    if labels.min() < 0 or labels.max() > most:
        raise UsageError(f"{cifar.name}: labels must be in 0..{most}, {folder} has others")
    data = PictureSet(table["image"], labels, encoding=encoding, mean=mean, std=std, ids=ids)
    name, classes = f"{cifar.name}/official", cifar.classes
    split = held_out(labels, table["test"], name=name, ids=ids.tolist(), classes=classes)
    described = encoding.describe()
    return Splits.of(data, split, classes, causal=encoding.causal, binning=described)


def cifar10(
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    root: str | os.PathLike[str] | None = None,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> Splits:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 32 x 32, ten classes.

    `root` holds `plain_text/*.parquet` (the hub's form; extra `images`), `cifar-10-batches-bin`,
    `cifar-10-batches-py`, or PNGs in train/ and test/: <class>/*.png or <number>_<class>.png.
    Decoded once into a file under `cache`, ordered by content, so that every form gives the same
    arrays and the same split "cifar10/official": the official test set, a tenth of every training
    class for validation.

    Items are `(image / 255 - mean) / std`. The defaults are the mean and the deviation of all
    training pixels; many codes (TKS's test transform among them) divide by (0.2023, 0.1994,
    0.2010), the mean of the deviations within an image, and TKS's training images are normalised
    with ImageNet's numbers by an oversight. Here all parts are treated alike.
    """
    return _cifar(CIFAR10, binning, cache, root, mean, std)


def cifar100(
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    root: str | os.PathLike[str] | None = None,
    mean: Sequence[float] = CIFAR100_MEAN,
    std: Sequence[float] = CIFAR100_STD,
) -> Splits:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine labels; `cifar100/*.parquet`,
    `cifar-100-binary`, `cifar-100-python` or PNGs under `root`. Else as `cifar10`. TKS normalises
    it with CIFAR-10's numbers; give `mean` and `std` for that.
    """
    return _cifar(CIFAR100, binning, cache, root, mean, std)

"""CIFAR-10 and CIFAR-100 from any of the forms in which people have them: parquet shards, the
binary and the Python release.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import content_hash
from anystep.data.cache import cached_array, default_cache
from anystep.data.frames import Encoding
from anystep.data.images.rows import PictureSet, direct, picture_splits, release_folder
from anystep.data.protocols import held_out
from anystep.data.sets import Splits

CIFAR_VERSION = 1  # raise it when the same files give another array
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree "
    "wolf woman worm"
)
CIFAR100_CLASSES = tuple(_CIFAR100_NAMES.split())
RECORD = np.dtype([("image", "u1", (3, 32, 32)), ("label", "<i8"), ("test", "?"), ("id", "U20")])
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (M, 3, 32, 32) and labels (M,)


@dataclass(frozen=True)
class Release:
    """Where one of the two sets keeps what: folders to look in, files, and the label's place and
    name.
    """

    name: str
    classes: tuple[str, ...]
    shards: tuple[str, ...]  # folders that may hold the parquet shards
    binary: tuple[str, tuple[str, ...], str]  # folder, training files, test file
    python: tuple[str, tuple[str, ...], str]
    label: str  # column of the parquet files
    key: bytes  # of the pickled dictionaries
    label_bytes: int  # before every image of the binary files; the last one counts


CIFAR10 = Release(
    "cifar10",
    CIFAR10_CLASSES,
    ("plain_text", "data", "."),
    ("cifar-10-batches-bin", tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"),
    ("cifar-10-batches-py", tuple(f"data_batch_{k}" for k in range(1, 6)), "test_batch"),
    "label",
    b"labels",
    1,
)
CIFAR100 = Release(
    "cifar100",
    CIFAR100_CLASSES,
    ("cifar100", "data", "."),
    ("cifar-100-binary", ("train.bin",), "test.bin"),
    ("cifar-100-python", ("train",), "test"),
    "fine_label",
    b"fine_labels",
    2,
)


def cifar10(
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    root: str | os.PathLike[str] | None = None,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> Splits:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 32 x 32, ten classes, from the folder
    `root`.

    `root` holds `plain_text/*.parquet` (the hub's form; extra `images`), `cifar-10-batches-bin` or
    `cifar-10-batches-py`. Decoded once into a file under `cache`, ordered by content, so that every
    form gives the same arrays and the same split "cifar10/official": the official test set, a tenth
    of every training class for validation.

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
    `cifar-100-binary` or `cifar-100-python` under `root`. Else as `cifar10`. TKS normalises it with
    CIFAR-10's numbers; give `mean` and `std` for that.
    """
    return _cifar(CIFAR100, binning, cache, root, mean, std)


def _cifar(
    release: Release,
    binning: Encoding,
    cache: Any,
    root: Any,
    mean: Sequence[float],
    std: Sequence[float],
) -> Splits:
    encoding, folder = direct(release.name, binning), release_folder(release.name, root)
    read, train, test = _find(release, folder)
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (*train, *test)]
    key = f"{release.name}-{content_hash(CIFAR_VERSION, contents)}"
    store = default_cache() if cache is None else Path(cache)
    table = cached_array(store, key, lambda: _records(read, train, test))
    if int(table["label"].min()) < 0 or int(table["label"].max()) >= len(release.classes):
        raise UsageError(
            f"{release.name}: labels must be in 0..{len(release.classes) - 1}, {folder} has others"
        )
    labels, ids = np.array(table["label"]), np.array(table["id"])
    data = PictureSet(table["image"], labels, encoding=encoding, mean=mean, std=std, ids=ids)
    parts = held_out(labels, table["test"], name=f"{release.name}/official", ids=ids.tolist())
    return picture_splits(data, parts, release.classes)


def _find(release: Release, folder: Path) -> tuple[Callable[[Path], Part], list[Path], list[Path]]:
    """A reader of the form that is there, with its training and its test files."""
    for place in release.shards:
        train, test = (_shards(folder / place, part) for part in ("train", "test"))
        if train and test:
            return partial(_read_parquet, release), train, test
    for (home, names, last), read in (
        (release.binary, _read_binary),
        (release.python, _read_python),
    ):
        for base in (folder / home, folder):
            if (base / last).is_file():
                missing = [name for name in names if not (base / name).is_file()]
                if missing:
                    raise UsageError(f"{release.name}: {base / missing[0]} is missing")
                return partial(read, release), [base / name for name in names], [base / last]
    raise UsageError(
        f"{release.name}: {folder} must hold {release.shards[0]}/train-*.parquet and test-*.parquet, {release.binary[0]}/ or "
        f"{release.python[0]}/"
    )


def _shards(folder: Path, part: str) -> list[Path]:
    """The files <part>-00000-of-00004.parquet of a folder, complete or an error."""
    found = sorted(folder.glob(f"{part}-*.parquet"))
    total = {
        int(match[1]) for file in found if (match := re.search(r"-of-(\d+)\.parquet$", file.name))
    }
    if found and total != {len(found)}:
        raise UsageError(
            f"{folder}: {part} has {len(found)} parquet shards, their names speak of {sorted(total)}"
        )
    return found


def _records(read: Callable[[Path], Part], train: list[Path], test: list[Path]) -> NDArray[Any]:
    """All images as RECORDs, training before test, each part ordered by the hash of the pixels and
    the label.
    """
    parts: list[NDArray[Any]] = []
    for testing, files in ((False, train), (True, test)):
        images, labels = (
            np.concatenate(each) for each in zip(*(read(file) for file in files), strict=True)
        )
        names = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images]
        order = sorted(range(len(images)), key=lambda i: (names[i], int(labels[i])))
        part = np.empty(len(images), dtype=RECORD)
        part["image"], part["label"], part["test"] = images[order], labels[order], testing
        known = (
            set(parts[0]["id"].tolist()) if testing else set()
        )  # an image of the test set that also trains has two ids
        part["id"] = [
            f"{name}t" if name in known else name for name in _unique(names[i] for i in order)
        ]
        parts.append(part)
    return np.concatenate(parts)


def _unique(names: Iterator[str]) -> Iterator[str]:
    """The names, which come in order, with -1, -2, ... behind the second and further of the same:
    equal images exist.
    """
    last, seen = "", 0
    for name in names:
        seen = seen + 1 if name == last else 0
        last = name
        yield f"{name}-{seen}" if seen else name


def _read_parquet(release: Release, file: Path) -> Part:
    """Columns `img` (bytes of an image file) and the label; streamed, so that no second copy is
    written anywhere.
    """
    datasets = need("datasets", extra="images", purpose="reading parquet files")
    pillow = need("PIL.Image", extra="images", purpose="reading image files")
    try:
        rows = datasets.load_dataset(
            "parquet", data_files=os.fspath(file), split="train", streaming=True
        )
        found = list(rows.cast_column("img", datasets.Image(decode=False)))
        labels = np.array([row[release.label] for row in found], dtype=np.int64)
        images = [
            np.asarray(pillow.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")) for row in found
        ]
    except (
        Exception
    ) as error:  # whatever pyarrow, datasets and Pillow raise for a damaged file: named, not hidden
        raise UsageError(
            f"{file} is no parquet file of {release.name} (columns img, {release.label}): {error}"
        ) from error
    if any(image.shape != (32, 32, 3) for image in images):
        raise UsageError(f"{file}: images must be 32 x 32")
    return np.stack(images).transpose(0, 3, 1, 2), labels


def _read_binary(release: Release, file: Path) -> Part:
    """Rows of label bytes and 3,072 pixel bytes: red, green, blue, each row by row."""
    width = release.label_bytes + 3072
    content = np.fromfile(file, dtype=np.uint8)
    if len(content) == 0 or len(content) % width:
        raise UsageError(f"{file} must hold rows of {width} bytes, it has {len(content)} bytes")
    rows = content.reshape(-1, width)
    return rows[:, release.label_bytes :].reshape(-1, 3, 32, 32), rows[
        :, release.label_bytes - 1
    ].astype(np.int64)


def _read_python(release: Release, file: Path) -> Part:
    """A pickled dictionary; nothing but arrays and plain values is unpickled, so no code of the
    file runs.
    """
    try:
        with file.open("rb") as stream:
            content = _Plain(stream, encoding="bytes").load()
        labels = np.array(content[release.key], dtype=np.int64)
        images = np.asarray(content[b"data"], dtype=np.uint8).reshape(len(labels), 3, 32, 32)
    except Exception as error:  # a damaged pickle can raise anything; named, not hidden
        raise UsageError(f"{file} is no batch of {release.name}: {error}") from error
    return images, labels


class _Plain(pickle._Unpickler):
    """Unpickles numpy arrays of numbers and the plain types.

    Python's own unpickler, not the one in C: that one takes memory for as many values as ten bytes
    of a damaged file name.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not needed for images")


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 hold bytes."""
    return text.encode("latin1")

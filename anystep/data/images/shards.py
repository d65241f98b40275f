"""Images in parquet shards, as the hub has them: read where they lie, a row group at a time, and
never converted.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._extras import need
from anystep.data.sets import Blocks

WINDOW_BYTES = (
    256 * 2**20
)  # a process; of the hub's ImageNet 20-odd row groups, 2,000 images and more. It shapes the order
UNFINISHED = (".incomplete", ".part", ".aria2", ".crdownload")
IMAGE_COLUMNS, LABEL = ("image", "img"), "label"
PARTS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
PART = re.compile(r"(train|validation|valid|val|test)(?=[-_.])")
NUMBERED = re.compile(
    r"^(?P<stem>.*)-(?P<number>[0-9]{4,6})-of-(?P<count>[0-9]{4,6})(?:-[0-9a-f]+)?\.parquet$"
)
# The hub's ImageNet repeats the class in the name: n01440764_10026_n01440764.JPEG,
# ILSVRC2012_val_00000293_n01440764.JPEG.
WITH_WNID = re.compile(r"^(?P<stem>.+)_(?P<wnid>n[0-9]{8})\.JPEG$")


@dataclass(frozen=True)
class Shard:
    """A parquet file: its footer as pyarrow has it, and the column that holds the images."""

    file: Path
    footer: Any
    image: str


class ShardImages:
    """Image files by number, as bytes: the rows of all shards, one shard after the other.

    Parquet is read by row groups. Those that were used last stay in memory, `window_bytes` of them,
    or one if one is larger. Each process has its own; a pickled copy starts without.

    `reads` counts the row groups read. Errors, by file and row: a row group that cannot be read, a
    row without bytes.
    """

    def __init__(self, shards: Sequence[Shard], *, window_bytes: int = WINDOW_BYTES) -> None:
        if window_bytes < 1:
            raise UsageError(f"ShardImages: window_bytes must be >= 1, got {window_bytes}")
        self.shards, self.window_bytes = list(shards), window_bytes
        self._groups = [
            (shard, group) for shard in self.shards for group in range(shard.footer.num_row_groups)
        ]
        rows = [shard.footer.row_group(group).num_rows for shard, group in self._groups]
        self._starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._first = {shard.file: 0 for shard in self.shards}  # number of a shard's first row
        for (shard, group), start in zip(self._groups, self._starts, strict=False):
            if group == 0:
                self._first[shard.file] = int(start)
        self._held: OrderedDict[int, Any] = OrderedDict()
        self.reads = 0

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"ShardImages: an index must be in 0..{len(self) - 1}, got {index}")
        number = self._group_of(index)
        content = self._group(number)[index - int(self._starts[number])]
        if not content.is_valid:
            raise UsageError(f"{self.where(index)} holds no bytes of an image")
        return content.as_buffer().to_pybytes()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_held": OrderedDict()}

    def where(self, index: int) -> str:
        """File and row of an image, for messages; rows are counted from 0."""
        file = self._groups[self._group_of(index)][0].file
        return f"{file}: row {index - self._first[file]}"

    @property
    def held_bytes(self) -> int:
        """What the row groups in memory take."""
        return sum(column.nbytes for column in self._held.values())

    def blocks(self) -> Blocks | None:
        """The row group of each image, and how many of the largest `window_bytes` holds; None if it
        holds them all.
        """
        # Not by column: pyarrow ends the process when the footer of a column is damaged.
        sizes = [shard.footer.row_group(group).total_byte_size for shard, group in self._groups]
        if sum(sizes) <= self.window_bytes:
            return None
        of = np.repeat(np.arange(len(self._groups)), np.diff(self._starts))
        return Blocks(of, max(1, self.window_bytes // max(sizes)))

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _group(self, number: int) -> Any:
        """The images of a row group, from memory or from the file: a column of pyarrow's."""
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        column = self._read(number)
        self.reads += 1
        while self._held and self.held_bytes + column.nbytes > self.window_bytes:
            self._held.popitem(last=False)
        self._held[number] = column
        return column

    def _read(self, number: int) -> Any:
        parquet, failed = (
            need("pyarrow.parquet", extra="images", purpose="reading parquet files"),
            _failures(),
        )
        shard, group = self._groups[number]
        rows = f"{shard.file}: row group {group}, from row {int(self._starts[number]) - self._first[shard.file]} on,"
        try:  # opened for one read: an open file must not be shared by worker processes
            with parquet.ParquetFile(shard.file, metadata=shard.footer) as opened:
                table = opened.read_row_group(
                    group, columns=[f"{shard.image}.bytes"], use_threads=False
                )
        except failed as error:
            raise UsageError(f"{rows} cannot be read: {error}") from error
        if len(table) != self._starts[number + 1] - self._starts[number]:
            raise UsageError(
                f"{rows} holds {len(table)} images, the footer speaks of another number"
            )
        return table.flatten().column(0)


def _failures() -> tuple[type[Exception], ...]:
    """All that pyarrow raises for a damaged file."""
    return (
        OSError,
        ValueError,
        need("pyarrow", extra="images", purpose="reading parquet files").ArrowException,
    )


@dataclass(frozen=True)
class Stored:
    """What the shards of a folder hold, in the order of the files: images, labels (M,), ids (M,),
    parts (M,), class names.
    """

    images: ShardImages
    labels: NDArray[np.int64]
    ids: NDArray[Any]
    parts: NDArray[Any]
    classes: tuple[str, ...]


@dataclass
class _Columns:
    """What is read of a shard at once: all but the images."""

    shard: Shard
    labels: NDArray[np.int64]
    paths: list[str | None]
    names: tuple[str, ...] | None

    def row(self, wrong: NDArray[np.bool_]) -> str:
        return f"{self.shard.file}: row {int(np.flatnonzero(wrong)[0])}"


def find_shards(folder: Path) -> dict[str, list[Path]]:
    """The parquet files in <folder>/data or in <folder> by part: train, validation, test, or ""
    where no name says a part.

    Files of other names beside those of a part are other versions and left out. Nothing found: {}.

    Errors: a shard that the numbers in the other names speak of is missing, there twice, or still
    being downloaded.
    """
    for place in (folder / "data", folder):
        files = sorted(place.glob("*.parquet"))
        known = [file for file in files if PART.match(file.name)]
        bare = (
            not any(each.is_dir() and not each.name.startswith(".") for each in place.iterdir())
            if files
            else False
        )
        chosen = known or (files if bare else [])
        if chosen:
            unfinished = sorted(
                file for file in place.glob("*.parquet.*") if file.suffix in UNFINISHED
            )
            if unfinished:
                raise UsageError(
                    f"{unfinished[0]} is a download that has not ended: wait for it, or remove it"
                )
            parts: dict[str, list[Path]] = {}
            for file in chosen:
                found = PART.match(file.name)
                parts.setdefault(PARTS[found[1]] if found else "", []).append(file)
            for part in parts.values():
                _check_complete(part)
            return parts
    return {}


def _check_complete(files: list[Path]) -> None:
    """Refuse a part of which a shard is missing, or of which the names do not fit together."""
    found = [NUMBERED.match(file.name) for file in files]
    numbered = [each for each in found if each]
    if not numbered:
        return
    kinds = Counter((each["stem"], each["count"]) for each in numbered)
    if len(numbered) < len(files) or len(kinds) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise UsageError(
            f"{files[0].parent}: cannot tell which shards belong together: {names}, ..."
        )
    ((stem, count),) = kinds
    numbers = Counter(int(each["number"]) for each in numbered)
    missing = [number for number in range(int(count)) if number not in numbers]
    if missing:
        name = f"{stem}-{missing[0]:0{len(count)}d}-of-{count}.parquet"
        raise UsageError(
            f"{files[0].parent}: {name} is missing, one of {len(missing)} missing shards"
        )
    if len(numbered) != int(count):
        twice = next(
            file.name
            for file, each in zip(files, numbered, strict=True)
            if numbers[int(each["number"])] > 1
        )
        raise UsageError(
            f"{files[0].parent}: there are {len(numbered)} shards of {count}, see {twice}"
        )


def read_shards(name: str, parts: dict[str, list[Path]]) -> Stored:
    """Labels, ids and class names of the given parts. Only the footers and the small columns are
    read.

    An id is the part and the path in the image column, if no two of a part are equal, else the part
    and the number of the row in it. Of ImageNet it is the path of the file in the release:
    train/n01440764/n01440764_10026.JPEG. Class names come from the hub's features in the footer,
    else they are the numbers. A test part whose labels are all -1 is left out with a warning.

    Errors, by file and row: no parquet file, a column missing or of another type, a label out of
    range.
    """
    read = {part: [_columns(file) for file in files] for part, files in parts.items()}
    if "test" in read and len(read) > 1 and all((each.labels == -1).all() for each in read["test"]):
        warnings.warn(
            f"{name}: the labels of the test shards are all -1: they are left out",
            AnystepWarning,
            stacklevel=2,
        )
        del read["test"]
    columns = [each for mine in read.values() for each in mine]
    ids = [
        one
        for part, mine in read.items()
        for one in _ids(name, part, [path for each in mine for path in each.paths])
    ]
    stored = Stored(
        ShardImages([each.shard for each in columns], window_bytes=WINDOW_BYTES),
        np.concatenate([each.labels for each in columns]),
        np.array(ids),
        np.repeat(list(read), [sum(len(each.labels) for each in mine) for mine in read.values()]),
        _classes(columns),
    )
    _warn_if_sorted(name, stored)
    return stored


def _columns(file: Path) -> _Columns:
    parquet, failed = (
        need("pyarrow.parquet", extra="images", purpose="reading parquet files"),
        _failures(),
    )
    try:
        with parquet.ParquetFile(file) as opened:
            schema, footer = opened.schema_arrow, opened.metadata
            image, wanted = _wanted(schema)
            table = opened.read(columns=wanted, use_threads=False).flatten()
            paths = table.column(wanted[1]).to_pylist() if len(wanted) > 1 else [None] * len(table)
    except failed as error:
        raise UsageError(f"{file} is no parquet file of images: {error}") from error
    rows = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    if not len(table) == rows == footer.num_rows:
        raise UsageError(
            f"{file} is no parquet file of images: {len(table)} labels are not what the footer speaks of"
        )
    if not len(table):
        raise UsageError(f"{file} is no parquet file of images: it has no rows")
    labels = table.column(LABEL)
    if labels.null_count:
        raise UsageError(f"{file}: row {labels.is_null().to_pylist().index(True)} has no label")
    return _Columns(
        Shard(file, footer, image),
        labels.to_numpy().astype(np.int64),
        paths,
        _names(file, schema.metadata),
    )


def _wanted(schema: Any) -> tuple[str, list[str]]:
    """The column of the images, and those to read at once: the label, and the path in the image
    column if there is one.
    """
    types = need("pyarrow.types", extra="images", purpose="reading parquet files")
    image = next(
        (
            each
            for each in IMAGE_COLUMNS
            if each in schema.names and types.is_struct(schema.field(each).type)
        ),
        None,
    )
    fields = [] if image is None else [each.name for each in schema.field(image).type]
    if (
        image is None
        or "bytes" not in fields
        or LABEL not in schema.names
        or not types.is_integer(schema.field(LABEL).type)
    ):
        there = ", ".join(f"{each.name}: {each.type}" for each in schema)
        raise UsageError(
            f"it must have the columns image (bytes, path) and label (whole numbers), it has {there}"
        )
    return image, [LABEL, *(f"{image}.{each}" for each in fields if each == "path")]


def _names(file: Path, metadata: dict[bytes, bytes] | None) -> tuple[str, ...] | None:
    """The class names in the features that the hub writes into a footer."""
    try:
        features = (
            json.loads((metadata or {}).get(b"huggingface", b"{}"))
            .get("info", {})
            .get("features", {})
        )
        names = features.get(LABEL, {}).get("names")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{file}: the features in the footer cannot be read: {error}") from error
    return None if names is None else tuple(str(each) for each in names)


def _ids(name: str, part: str, paths: list[str | None]) -> list[str]:
    home = {"validation": "val", "": "images"}.get(part, part)
    if not all(paths) or len(set(paths)) < len(paths):
        return [f"{home}/{row:08d}" for row in range(len(paths))]
    ids = [f"{home}/{path}" for path in paths]
    if name != "imagenet-1k":
        return ids
    found = [WITH_WNID.match(Path(str(path)).name) for path in paths]
    return [
        f"{home}/{each['wnid']}/{each['stem']}.JPEG" if each else old
        for each, old in zip(found, ids, strict=True)
    ]


def _classes(columns: list[_Columns]) -> tuple[str, ...]:
    """The class names, after the labels were checked against them."""
    names = columns[0].names
    other = next((each for each in columns if each.names != names), None)
    if other is not None:
        raise UsageError(
            f"{other.shard.file} and {columns[0].shard.file} must name the same classes"
        )
    count = (
        len(names)
        if names is not None
        else len(np.unique(np.concatenate([each.labels for each in columns])))
    )
    for each in columns:
        wrong = (each.labels < 0) | (each.labels >= count)
        if wrong.any():
            label = each.labels[wrong][0]
            raise UsageError(
                f"{each.row(wrong)}: a label must be in 0..{count - 1}, one for each class, got {label}"
            )
    return tuple(str(label) for label in range(count)) if names is None else names


def _warn_if_sorted(name: str, stored: Stored) -> None:
    """A window does not mix what is sorted by class: say so where one has fewer than half the
    classes that it should.
    """
    blocks = stored.images.blocks()
    if blocks is None:
        return
    training = np.isin(stored.parts, ("train", ""))
    groups = np.random.default_rng(0).permutation(np.unique(blocks.of[training]))[: blocks.window]
    window = stored.labels[training & np.isin(blocks.of, groups)]
    shares = np.bincount(stored.labels[training], minlength=len(stored.classes)) / training.sum()
    expected = float((1 - (1 - shares) ** len(window)).sum())
    if len(np.unique(window)) < expected / 2:
        text = f"{name}: the shards are sorted by class: {len(window)} images that are shuffled together have "
        text += f"{len(np.unique(window))} classes, not {expected:.0f}. Shuffle the shards once, or use folders"
        warnings.warn(text, AnystepWarning, stacklevel=3)

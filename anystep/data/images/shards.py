"""Images in parquet shards, as the hub has them: read where they lie, a row group at a time."""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._extras import need
from anystep._files import regular
from anystep.data.sets import Blocks

# Of the hub's ImageNet 20-odd row groups, 2,000 images and more; it shapes the order of an epoch.
WINDOW_BYTES = 256 * 2**20  # a process
UNFINISHED = (".incomplete", ".part", ".aria2", ".crdownload")
IMAGE_COLUMNS = ("image", "img")
PARTS = {"valid": "validation", "val": "validation"}  # other names of a part
PART = re.compile(r"(train|validation|valid|val|test)(?=[-_.])")
NUMBERED = re.compile(r"(.*)-([0-9]{4,6})-of-([0-9]{4,6})(?:-[0-9a-f]+)?\.parquet")
# The hub's ImageNet repeats the class in the name: n01440764_10026_n01440764.JPEG,
# ILSVRC2012_val_00000293_n01440764.JPEG.
WITH_WNID = re.compile(r"^(?P<stem>.+)_(?P<wnid>n[0-9]{8})\.JPEG$")


def _need(part: str = "") -> Any:
    """pyarrow, or a part of it."""
    return need(f"pyarrow{part}", extra="images", purpose="reading parquet files")


def _failures() -> tuple[type[Exception], ...]:
    """All that pyarrow raises for a damaged file."""
    return (OSError, ValueError, _need().ArrowException)


@dataclass(frozen=True)
class Shard:
    """A parquet file: its footer as pyarrow has it, and the column that holds the images."""

    file: Path
    footer: Any
    image: str


class ShardImages:
    """Image files by number, as bytes: the rows of all shards, one shard after the other.

    Parquet is read by row groups. Those that were used last stay in memory, `window_bytes` of them,
    or one if one is larger. Each process has its own; a pickled copy starts without. `reads` counts
    the row groups read.
    """

    def __init__(self, shards: Sequence[Shard], *, window_bytes: int = WINDOW_BYTES) -> None:
        self.shards, self.window_bytes = list(shards), window_bytes
        self._groups = [
            (shard, group) for shard in self.shards for group in range(shard.footer.num_row_groups)
        ]
        rows = [shard.footer.row_group(group).num_rows for shard, group in self._groups]
        self._starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
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
        number = self._group_of(index)
        shard, group = self._groups[number]
        return f"{shard.file}: row {index - self._starts[number - group]}"

    @property
    def held_bytes(self) -> int:
        """What the row groups in memory take."""
        return sum(column.nbytes for column in self._held.values())

    def blocks(self) -> Blocks | None:
        """Row groups as blocks; None if `window_bytes` holds them all."""
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
        shard, group = self._groups[number]
        first = int(self._starts[number])
        rows = f"{self.where(first)} and the rest of row group {group}"
        wanted = [f"{shard.image}.bytes"]
        try:  # opened for one read: an open file must not be shared by worker processes
            with _need(".parquet").ParquetFile(shard.file, metadata=shard.footer) as opened:
                table = opened.read_row_group(group, columns=wanted, use_threads=False)
        except _failures() as error:
            raise UsageError(f"{rows}: {error}") from error
        if len(table) != self._starts[number + 1] - first:
            raise UsageError(f"{rows}: {len(table)} images are not what the footer speaks of")
        return table.flatten().column(0)


def _check_complete(files: list[Path]) -> None:
    """Refuse a part of which a shard is missing or there twice."""
    found = [match for file in files if (match := NUMBERED.fullmatch(file.name))]
    if not found:
        return
    first = files[0]
    if len(found) < len(files) or len({(match[1], match[3]) for match in found}) > 1:
        raise UsageError(f"{first}: cannot tell which shards beside it belong to it")
    count, there = int(found[0][3]), [int(match[2]) for match in found]
    missing = sorted(set(range(count)) - set(there))
    if missing:
        name = f"{found[0][1]}-{missing[0]:0{len(found[0][3])}d}-of-{found[0][3]}.parquet"
        raise UsageError(f"{first.parent}: {name} is missing, one of {len(missing)} missing shards")
    if len(there) > count:
        raise UsageError(f"{first.parent}: there are {len(there)} shards of {count} of that name")


def find_shards(folder: Path) -> dict[str, list[Path]]:
    """The parquet files in <folder>/data or in <folder> by part.

    Parts are train, validation, test, or "" where no name says a part. Files of other names beside
    those of a part are other versions and left out. Nothing found: {}. Refused: a shard that the
    numbers in the other names speak of is missing, there twice, or still being downloaded.
    """
    for place in (folder / "data", folder):
        files = sorted(place.glob("*.parquet"))
        chosen = [file for file in files if PART.match(file.name)]
        if files and not chosen:
            # Class folders beside it: the file is something else.
            folders = [each for each in place.iterdir() if each.is_dir() and each.name[0] != "."]
            chosen = [] if folders else files
        for each in place.glob("*.parquet.*") if chosen else ():
            if each.suffix in UNFINISHED:
                raise UsageError(f"{each} is a download that has not ended: wait or remove it")
        parts: dict[str, list[Path]] = {}
        for file in chosen:
            found = PART.match(file.name)
            part = found[1] if found else ""
            parts.setdefault(PARTS.get(part, part), []).append(file)
        for mine in parts.values():
            _check_complete(mine)
        if parts:
            return parts
    return {}


@dataclass(frozen=True)
class Stored:
    """What the shards of a folder hold, in the order of the files."""

    images: ShardImages
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    parts: NDArray[np.str_]
    classes: tuple[str, ...]


class _Opened(NamedTuple):
    """A shard and all that is read of it at once: everything but the images."""

    shard: Shard
    labels: NDArray[np.int64]
    paths: list[str | None]
    names: tuple[str, ...] | None


def _wanted(schema: Any, label: str) -> tuple[str, list[str]]:
    """The column of the images, and those to read at once: labels, and paths if there are any."""
    types = _need(".types")
    structs = [field.name for field in schema if types.is_struct(field.type)]
    image = next((name for name in IMAGE_COLUMNS if name in structs), None)
    fields = [] if image is None else [field.name for field in schema.field(image).type]
    labelled = label in schema.names and types.is_integer(schema.field(label).type)
    if image is None or "bytes" not in fields or not labelled:
        there = ", ".join(f"{each.name}: {each.type}" for each in schema)
        rule = f"it must have the columns image (bytes, path) and {label} (whole numbers)"
        raise UsageError(f"{rule}, it has {there}")
    return image, [label, *([f"{image}.path"] if "path" in fields else [])]


def _names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """The class names in the features that the hub writes into a footer."""
    written: Any = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features", label, "names"):
        written = written.get(key, {}) if isinstance(written, dict) else {}
    return tuple(str(each) for each in written) if written else None


def _open(file: Path, label: str) -> _Opened:
    try:
        with _need(".parquet").ParquetFile(regular(file)) as opened:
            schema, footer = opened.schema_arrow, opened.metadata
            image, wanted = _wanted(schema, label)
            table = opened.read(columns=wanted, use_threads=False).flatten()
            paths = table.column(wanted[1]).to_pylist() if len(wanted) > 1 else [None] * len(table)
            names = _names(schema.metadata, label)
        rows = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        if not 0 < len(table) == rows == footer.num_rows:
            raise UsageError(f"{len(table)} labels, and the footer speaks of {footer.num_rows}")
    except _failures() as error:
        raise UsageError(f"{file} is no parquet file of images: {error}") from error
    labels = table.column(label)
    if labels.null_count:
        raise UsageError(f"{file}: row {labels.is_null().to_pylist().index(True)} has no label")
    return _Opened(Shard(file, footer, image), labels.to_numpy().astype(np.int64), paths, names)


def _ids(name: str, part: str, paths: list[str | None]) -> list[str]:
    """The part and the path of each image, or its row where paths do not tell images apart."""
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


def _classes(shards: list[_Opened]) -> tuple[str, ...]:
    """The class names, after the labels were checked against them."""
    first = shards[0]
    for each in shards:
        if each.names != first.names:
            raise UsageError(f"{each.shard.file} and {first.shard.file} must name the same classes")
    found = np.unique(np.concatenate([each.labels for each in shards]))
    names = first.names or tuple(str(label) for label in range(len(found)))
    for each in shards:
        wrong = np.flatnonzero((each.labels < 0) | (each.labels >= len(names)))
        if len(wrong):
            rule = f"a label must be in 0..{len(names) - 1}, one for each class"
            row, label = wrong[0], each.labels[wrong[0]]
            raise UsageError(f"{each.shard.file}: row {row}: {rule}, got {label}")
    return names


def _warn_if_sorted(name: str, stored: Stored) -> None:
    """Say so where a window of row groups has fewer than half the classes that it should have."""
    blocks = stored.images.blocks()
    if blocks is None:
        return
    training = np.isin(stored.parts, ("train", ""))
    groups = np.random.default_rng(0).permutation(np.unique(blocks.of[training]))[: blocks.window]
    window = stored.labels[training & np.isin(blocks.of, groups)]
    shares = np.bincount(stored.labels[training], minlength=len(stored.classes)) / training.sum()
    expected = float((1 - (1 - shares) ** len(window)).sum())
    if len(np.unique(window)) < expected / 2:
        found = f"{len(window)} images that are shuffled together have {len(np.unique(window))}"
        hint = f"classes, not {expected:.0f}. Shuffle the shards once, or use folders"
        text = f"{name}: the shards are sorted by class: {found} {hint}"
        warnings.warn(text, AnystepWarning, stacklevel=3)


def read_shards(name: str, parts: dict[str, list[Path]], *, label: str = "label") -> Stored:
    """Labels, ids and class names of the given parts, from the footers and the small columns.

    An id is the part and the path in the image column, if no two of a part are equal, else the part
    and the number of the row in it. Of ImageNet it is the path of the file in the release:
    train/n01440764/n01440764_10026.JPEG. Class names come from the hub's features in the footer,
    else they are the numbers. A test part whose labels are all -1 is left out with a warning.
    """
    read = {part: [_open(file, label) for file in files] for part, files in parts.items()}
    if "test" in read and len(read) > 1 and all((each.labels == -1).all() for each in read["test"]):
        text = f"{name}: the labels of the test shards are all -1: they are left out"
        warnings.warn(text, AnystepWarning, stacklevel=2)
        del read["test"]
    shards = [each for mine in read.values() for each in mine]
    ids = [
        one
        for part, mine in read.items()
        for one in _ids(name, part, [path for each in mine for path in each.paths])
    ]
    stored = Stored(
        ShardImages([each.shard for each in shards], window_bytes=WINDOW_BYTES),
        np.concatenate([each.labels for each in shards]),
        np.array(ids),
        np.repeat(list(read), [sum(len(each.labels) for each in mine) for mine in read.values()]),
        _classes(shards),
    )
    _warn_if_sorted(name, stored)
    return stored

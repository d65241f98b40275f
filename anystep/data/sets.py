"""What a data set is, the kinds that anystep makes, and the three parts of one (`Splits`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep.data.frames import Binning, Direct
from anystep.data.protocols import Split
from anystep.data.recording import Events

PARTS = ("train", "val", "test")


class MapStyle(Protocol):
    """Anything with a length and items `(sample, label)`, as torch and tonic datasets are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which samples lie together on disk, so that an epoch can read those together.

    of       (M,) int64, the block of each sample
    window   how many blocks are shuffled together, >= 1
    """

    of: NDArray[np.int64]
    window: int

    def subset(self, rows: ArrayLike) -> Blocks:
        """Those of the samples `rows` (B,), in that order."""
        return Blocks(self.of[np.asarray(rows, dtype=np.int64)], self.window)


class DataSet(ABC):
    """What training and evaluation may ask of a data set: M items `(frames (T, P, H, W), label)`.

    The attributes say what is known beforehand; None is "not known" or "there is none".

    labels      (M,) the label of each sample; balanced training needs it
    ids         (M,) the names or numbers of the samples
    lengths     (M,) the frames of each recording, where they differ
    blocks      which samples lie together on disk
    mean, std   of each plane, where items are normalised
    """

    labels: NDArray[np.int64] | None = None
    ids: NDArray[Any] | None = None
    lengths: NDArray[np.int64] | None = None
    blocks: Blocks | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return (self[index] for index in range(len(self)))

    def raw(self, index: int) -> NDArray[Any]:
        """An image as it is stored (P, H, W); of frames, the first."""
        return np.asarray(self[index][0][0])


class _View(DataSet):
    """Another data set, of which all is known that is known of that one."""

    def __init__(self, dataset: MapStyle) -> None:
        self.dataset = dataset
        for name in ("labels", "ids", "lengths", "blocks", "mean", "std"):
            setattr(self, name, getattr(dataset, name, None))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        return self.dataset[index]


def as_dataset(dataset: MapStyle) -> DataSet:
    """`dataset` itself if it is a `DataSet`; a list, a torch or a tonic dataset as one.

    Error: what has no length or no items by their numbers, a DataLoader or `Splits` say.
    """
    if not all(hasattr(dataset, name) for name in ("__len__", "__getitem__")):
        rule = "it has no items by their numbers (dataset[0]) or no length"
        way_out = (
            "of a DataLoader give .dataset, of Splits .train: batches are made here, time first"
        )
        raise UsageError(f"{type(dataset).__name__} is no map-style data set, {rule}; {way_out}")
    return dataset if isinstance(dataset, DataSet) else _View(dataset)


class StoredSet(DataSet):
    """M samples with a label and an id each, and what `columns` names: an entry a sample."""

    labels: NDArray[np.int64]
    ids: NDArray[Any]
    columns: ClassVar[tuple[str, ...]]

    def __init__(self, count: int, labels: ArrayLike, ids: ArrayLike | None) -> None:
        given = np.asarray(labels)
        self.ids = np.arange(count) if ids is None else np.asarray(ids)
        kind = type(self).__name__
        for name, column in (("labels", given), ("ids", self.ids)):
            if column.shape != (count,):
                raise UsageError(f"{kind}: {name} must be ({count},), got {column.shape}")
        if given.dtype.kind not in "iu":
            raise UsageError(f"{kind}: labels must be whole numbers, got {given.dtype}")
        self.labels = given.astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: ArrayLike) -> Self:
        """The samples `indices` (B,), in that order, over the same array."""
        rows, view = np.asarray(indices), copy(self)
        for name in ("labels", "ids", *self.columns):
            setattr(view, name, getattr(self, name)[rows])
        return view


class FrameSet(StoredSet):
    """Frames with labels, over an array or a memory-mapped file.

    frames   (M, T, P, H, W)
    labels   (M,) whole numbers
    ids      (M,) names or numbers of the samples; None: 0, 1, ...

    >>> data = FrameSet(np.zeros((4, 10, 2, 34, 34), np.uint8), [0, 1, 0, 1])
    >>> data.shape, data.subset([3, 1]).ids.tolist(), data.subset([3, 1])[0][1]
    ((4, 10, 2, 34, 34), [3, 1], 1)
    """

    columns = ("_rows",)

    def __init__(
        self, frames: NDArray[Any], labels: ArrayLike, ids: ArrayLike | None = None
    ) -> None:
        if frames.ndim != 5:
            raise UsageError(f"FrameSet: frames must be (M, T, P, H, W), got shape {frames.shape}")
        super().__init__(len(frames), labels, ids)
        self._frames = frames
        self._rows = np.arange(len(frames))

    def __getitem__(self, index: int, /) -> tuple[NDArray[Any], int]:
        return np.asarray(self._frames[self._rows[index]]), int(self.labels[index])

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, T, P, H, W)."""
        return (len(self), *self._frames.shape[1:])

    @property
    def frames(self) -> NDArray[Any]:
        """All frames (M, T, P, H, W): the array itself, or a copy of its rows for a subset."""
        whole = np.array_equal(self._rows, np.arange(len(self._frames)))
        return self._frames if whole else np.asarray(self._frames[self._rows])


class RaggedSet(StoredSet):
    """Recordings of different length, one after another in one array or memory-mapped file.

    frames    (sum of the lengths, P, H, W)
    lengths   (M,) the frames of each recording
    labels    (M,) whole numbers
    ids       (M,) names or numbers of the recordings; None: 0, 1, ...

    One of length 0 could not be read: `subset` may leave it out, as an item it is refused.

    >>> data = RaggedSet(np.zeros((5, 2, 8, 8), np.uint8), [3, 2], [0, 1])
    >>> [len(frames) for frames, label in data], data.subset([1]).lengths.tolist()
    ([3, 2], [2])
    """

    columns = ("_first", "lengths")
    lengths: NDArray[np.int64]

    def __init__(
        self,
        frames: NDArray[Any],
        lengths: ArrayLike,
        labels: ArrayLike,
        ids: ArrayLike | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        if frames.ndim != 4:
            raise UsageError(f"RaggedSet: frames must be (F, P, H, W), got shape {frames.shape}")
        if self.lengths.min(initial=0) < 0 or self.lengths.sum() != len(frames):
            rule = f"lengths must be >= 0 with the sum {len(frames)}"
            raise UsageError(f"RaggedSet: {rule}, got {lengths!r}")
        super().__init__(len(self.lengths), labels, ids)
        self._frames = frames
        self._first = np.cumsum(self.lengths) - self.lengths

    def __getitem__(self, index: int, /) -> tuple[NDArray[Any], int]:
        first, length = self._first[index], self.lengths[index]
        if not length:
            raise UsageError(f"RaggedSet: sample {self.ids[index]} has no frames")
        return np.asarray(self._frames[first : first + length]), int(self.labels[index])


class ImageSet(StoredSet):
    """Images with labels, each shown for T steps without a copy (a stride of 0 in time).

    images     (M, P, H, W)
    labels     (M,) whole numbers
    encoding   `Direct(T)`
    ids        (M,) names or numbers of the images; None: 0, 1, ...
    """

    columns = ("images",)

    def __init__(
        self,
        images: NDArray[Any],
        labels: ArrayLike,
        encoding: Direct,
        ids: ArrayLike | None = None,
    ) -> None:
        if images.ndim != 4:
            raise UsageError(f"ImageSet: images must be (M, P, H, W), got shape {images.shape}")
        super().__init__(len(images), labels, ids)
        self.images, self.encoding = images, encoding

    def __getitem__(self, index: int, /) -> tuple[NDArray[Any], int]:
        return self.encoding(self.images[index]), int(self.labels[index])


class FramesOf(_View):
    """Your own recordings: any map-style dataset of `(Events, label)`, binned at every access."""

    def __init__(self, dataset: MapStyle, binning: Binning) -> None:
        super().__init__(dataset)
        self.binning = binning

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.uint16], int]:
        events, label = self.dataset[index]
        if not isinstance(events, Events):
            got = f"got {type(events).__name__}; Events.from_arrays makes one"
            raise UsageError(f"FramesOf: item {index} must be (Events, label), {got}")
        return self.binning(events), int(label)


class Together(DataSet):
    """The samples of several data sets, one set after the other."""

    def __init__(self, sets: Sequence[DataSet]) -> None:
        self.sets = [each for each in sets if len(each)]
        self.ends = np.cumsum([len(each) for each in self.sets])
        for name in ("labels", "ids", "lengths"):
            columns = [getattr(each, name) for each in self.sets]
            if all(column is not None for column in columns):
                setattr(self, name, np.concatenate(columns))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        at = int(np.searchsorted(self.ends, index, side="right"))
        return self.sets[at][index - int(self.ends[at]) + len(self.sets[at])]


class FrameRange(_View):
    """The frames [first, stop) of every recording, as if it had no others."""

    def __init__(self, dataset: MapStyle, first: int, stop: int) -> None:
        super().__init__(dataset)
        self.lengths = None  # all are stop - first
        self.frames = slice(first, stop)

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        frames, label = self.dataset[index]
        if len(frames) < self.frames.stop:
            has = f"sample {index} has {len(frames)} frames; it needs recordings of one length"
            raise UsageError(f"data.frames [{self.frames.start}, {self.frames.stop}]: {has}")
        return frames[self.frames], label


@dataclass(frozen=True)
class Splits:
    """A data set in three parts, with all that a record must say about them.

    train, val, test   a map-style dataset each, kept as `DataSet`
    classes            the name of every label, so C = len(classes)
    protocol           the name of the split; `protocol_hash` is that of its members
    causal             whether the frames could be made live, see `frames`
    binning            what `Binning.describe` says
    first_frame        frames skipped at the start of each recording
    """

    train: DataSet
    val: DataSet
    test: DataSet
    classes: tuple[str, ...]
    protocol: str
    protocol_hash: str
    causal: bool
    binning: dict[str, Any] = field(default_factory=dict)
    first_frame: int = 0

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, as_dataset(getattr(self, part)))

    @classmethod
    def of(
        cls,
        data: StoredSet,
        parts: Split,
        classes: tuple[str, ...],
        *,
        causal: bool,
        binning: dict[str, Any],
    ) -> Splits:
        """`data` as a protocol splits it."""
        train, val, test = (data.subset(rows) for rows in (parts.train, parts.val, parts.test))
        return cls(train, val, test, classes, parts.name, parts.hash, causal, binning)

    def frame_range(self, first: int, stop: int) -> Splits:
        """The same recordings, of each the frames [first, stop)."""
        if self.binning.get("steps", 0) is None:
            raise UsageError("data.frames needs recordings of one length; give binning.steps")
        if not 0 <= first < stop <= (steps := len(self.test[0][0])):
            rule = f"[first, stop] within the {steps} frames of a recording"
            raise UsageError(f"data.frames must be {rule}, got [{first}, {stop}]")
        parts: dict[str, Any] = {
            name: FrameRange(getattr(self, name), first, stop) for name in PARTS
        }
        return replace(self, first_frame=self.first_frame + first, **parts)

"""Samples and splits: what every data set is made of.

A data set is map-style, its items `(frames (T, P, H, W), label)`; its three parts are one `Splits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep.data.frames import Binning, Direct
from anystep.data.recording import Events

PASSED_ON = ("labels", "ids", "mean", "std", "blocks")  # what a view of a data set keeps of it


class MapStyle(Protocol):
    """Anything with a length and items `(sample, label)`, as torch and tonic datasets are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


def _columns(
    kind: str, like: str, count: int, labels: ArrayLike, ids: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The labels and ids of `count` samples, checked."""
    columns = {
        "labels": np.asarray(labels),
        "ids": np.arange(count) if ids is None else np.asarray(ids),
    }
    for name, column in columns.items():
        if column.shape != (count,):
            raise UsageError(f"{kind}: {name} must be ({count},) like {like}, got {column.shape}")
    if columns["labels"].dtype.kind not in "iu":
        raise UsageError(f"{kind}: labels must be whole numbers, got {columns['labels'].dtype}")
    return columns["labels"].astype(np.int64), columns["ids"]


def _rows_of(kind: str, indices: ArrayLike, count: int) -> NDArray[Any]:
    """`indices` of a subset, checked."""
    rows = np.asarray(indices)
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        raise UsageError(
            f"{kind}.subset: indices must be a list of whole numbers, got {rows.dtype} {rows.shape}"
        )
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise UsageError(f"{kind}.subset: indices must be in 0..{count - 1}, got {outside[0]}")
    return rows


class FrameSet:
    """Frames with labels: a map-style dataset over an array or a memory-mapped file.

    frames (M, T, P, H, W)   labels (M,) int64   ids (M,) names or numbers of the samples (None: 0,
                             1, ...)

    An item is `(frames (T, P, H, W), label)`. `subset` gives a view with other rows and the same
    array behind it.

    >>> data = FrameSet(np.zeros((4, 10, 2, 34, 34), np.uint8), [0, 1, 0, 1])
    >>> data.shape, data.subset([3, 1]).ids.tolist(), data.subset([3, 1])[0][1]
    ((4, 10, 2, 34, 34), [3, 1], 1)
    """

    def __init__(
        self, frames: NDArray[Any], labels: ArrayLike, ids: ArrayLike | None = None
    ) -> None:
        if frames.ndim != 5:
            raise UsageError(f"FrameSet: frames must be (M, T, P, H, W), got shape {frames.shape}")
        self.labels, self.ids = _columns("FrameSet", "frames", len(frames), labels, ids)
        self._frames = frames
        self._rows = np.arange(len(frames))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], int]:
        return np.asarray(self._frames[self._rows[index]]), int(self.labels[index])

    def __iter__(self) -> Iterator[tuple[NDArray[Any], int]]:
        return (self[index] for index in range(len(self)))

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, T, P, H, W)."""
        return (len(self), *self._frames.shape[1:])

    @property
    def frames(self) -> NDArray[Any]:
        """All frames (M, T, P, H, W): the array itself, or a copy of its rows for a subset."""
        whole = np.array_equal(self._rows, np.arange(len(self._frames)))
        return self._frames if whole else self.take(np.arange(len(self)))[0]

    def take(self, indices: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A batch: copies of the frames (B, T, P, H, W) and the labels (B,) of these samples."""
        rows = np.asarray(indices, dtype=np.int64)
        return np.asarray(self._frames[self._rows[rows]]), self.labels[rows]

    def subset(self, indices: ArrayLike) -> FrameSet:
        """The samples `indices` (B,), in that order, over the same array."""
        rows = _rows_of("FrameSet", indices, len(self))
        view = object.__new__(FrameSet)
        view._frames, view._rows = self._frames, self._rows[rows]
        view.labels, view.ids = self.labels[rows], self.ids[rows]
        return view


class RaggedSet:
    """Frames of recordings of different length, one recording after another in one array or
    memory-mapped file.

    frames (sum of t_i, P, H, W)   lengths (M,) the t_i   labels (M,) int64   ids (M,) names or
                                   numbers (None: 0, 1, ...)

    An item is `(frames (t_i, P, H, W), label)`; `loader.time_first` makes a batch of such with a
    mask. One of length 0, a recording that could not be read, may be left out by `subset`; as an
    item it is refused.

    >>> data = RaggedSet(np.zeros((5, 2, 8, 8), np.uint8), [3, 2], [0, 1])
    >>> [len(frames) for frames, label in data], data.subset([1]).lengths.tolist()
    ([3, 2], [2])
    """

    def __init__(
        self,
        frames: NDArray[Any],
        lengths: ArrayLike,
        labels: ArrayLike,
        ids: ArrayLike | None = None,
    ) -> None:
        sizes = np.asarray(lengths)
        if frames.ndim != 4:
            raise UsageError(f"RaggedSet: frames must be (F, P, H, W), got shape {frames.shape}")
        if (
            sizes.ndim != 1
            or sizes.dtype.kind not in "iu"
            or sizes.min(initial=0) < 0
            or sizes.sum() != len(frames)
        ):
            raise UsageError(
                f"RaggedSet: lengths must be (M,) whole numbers >= 0 whose sum is {len(frames)}, got {lengths!r}"
            )
        self.labels, self.ids = _columns("RaggedSet", "lengths", len(sizes), labels, ids)
        self._frames = frames
        self.lengths: NDArray[np.int64] = sizes.astype(np.int64)
        self._first = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], int]:
        first, length = self._first[index], self.lengths[index]
        if not length:
            raise UsageError(f"RaggedSet: sample {self.ids[index]} has no frames")
        return np.asarray(self._frames[first : first + length]), int(self.labels[index])

    def __iter__(self) -> Iterator[tuple[NDArray[Any], int]]:
        return (self[index] for index in range(len(self)))

    def subset(self, indices: ArrayLike) -> RaggedSet:
        """The samples `indices` (B,), in that order, over the same array."""
        rows = _rows_of("RaggedSet", indices, len(self))
        view = object.__new__(RaggedSet)
        view._frames = self._frames
        for name in ("lengths", "_first", "labels", "ids"):
            setattr(view, name, getattr(self, name)[rows])
        return view


@dataclass(frozen=True)
class Splits:
    """A dataset in three parts, with all that a record must say about them.

    classes         the name of every label, so C = len(classes)
    protocol        the name of the split, `protocol_hash` that of its members
    causal          whether the frames could be made live, see `frames`
    binning         what `Binning.describe` says
    first_frame     of a recording that an item begins with, counted from 0
    """

    train: MapStyle
    val: MapStyle
    test: MapStyle
    classes: tuple[str, ...]
    protocol: str
    protocol_hash: str
    causal: bool
    binning: dict[str, Any] = field(default_factory=dict)
    first_frame: int = 0

    def segment(self, first: int, stop: int) -> Splits:
        """The same recordings, frames [first, stop) of each. Error: frames that they do not have,
        or not all of them.
        """
        if self.binning.get("steps", 0) is None:
            raise UsageError("data.frames needs recordings of one length; give binning.steps")
        steps = len(self.train[0][0])
        if not 0 <= first < stop <= steps:
            what = f"the {steps} frames of a recording"
            raise UsageError(
                f"data.frames must be [first, stop] within {what}, got [{first}, {stop}]"
            )
        parts: dict[str, Any] = {
            part: Segment(getattr(self, part), first, stop) for part in ("train", "val", "test")
        }
        return replace(self, **parts, first_frame=self.first_frame + first)


class ImageSet:
    """Images with labels, each shown for T steps: items `(frames (T, P, H, W), label)` whose stride
    in time is 0.

    images (M, P, H, W)   labels (M,) int64   encoding `Direct(steps)`   ids (M,) names or numbers
                          (None: 0, 1, ...)
    """

    def __init__(
        self,
        images: NDArray[Any],
        labels: ArrayLike,
        encoding: Direct,
        ids: ArrayLike | None = None,
    ) -> None:
        if images.ndim != 4:
            raise UsageError(f"ImageSet: images must be (M, P, H, W), got shape {images.shape}")
        self.images, self.encoding = images, encoding
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.ids = np.arange(len(images)) if ids is None else np.asarray(ids)
        for name, column in {"labels": self.labels, "ids": self.ids}.items():
            if column.shape != (len(images),):
                raise UsageError(
                    f"ImageSet: {name} must be ({len(images)},) like images, got {column.shape}"
                )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], int]:
        return self.encoding(self.images[index]), int(self.labels[index])

    def subset(self, indices: ArrayLike) -> ImageSet:
        """The samples `indices` (B,), in that order."""
        rows = np.asarray(indices)
        return ImageSet(self.images[rows], self.labels[rows], self.encoding, self.ids[rows])


class Segment:
    """The frames [first, stop) of every recording of a dataset, as if it had no others. Error: a
    recording without them.
    """

    def __init__(self, dataset: MapStyle, first: int, stop: int) -> None:
        self.dataset = dataset
        self.frames = slice(first, stop)
        for name in PASSED_ON:
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        frames, label = self.dataset[index]
        if len(frames) < self.frames.stop:
            span = f"[{self.frames.start}, {self.frames.stop}]"
            raise UsageError(
                f"data.frames {span}: sample {index} has {len(frames)} frames; it needs recordings of one length"
            )
        return frames[self.frames], label


class Augmented:
    """A dataset whose batches are changed on their way into training: `augment(x (T, N, P, H, W),
    y, generator) -> (x, y)`.
    """

    def __init__(self, dataset: MapStyle, augment: Callable[..., Any]) -> None:
        self.dataset, self.augment = dataset, augment
        for name in (*PASSED_ON, "lengths"):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.dataset[index]


class FramesOf:
    """Bring your own: any map-style dataset of `(Events, label)` as one of `(frames, label)`,
    binned at every access.
    """

    def __init__(self, dataset: MapStyle, binning: Binning) -> None:
        self.dataset = dataset
        self.binning = binning

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint16], int]:
        events, label = self.dataset[index]
        if not isinstance(events, Events):
            raise UsageError(
                f"FramesOf: item {index} must be (Events, label), got {type(events).__name__}; Events.from_arrays makes one"
            )
        return self.binning(events), int(label)

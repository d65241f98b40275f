"""Samples and splits: what every data set is made of.

A data set is map-style, its items `(frames (T, P, H, W), label)`; its three parts are one `Splits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep.data.events import Events
from anystep.data.frames import Binning, Direct

PASSED_ON = ("labels", "ids", "mean", "std")  # what a view of a data set keeps of it


class MapStyle(Protocol):
    """Anything with a length and items `(sample, label)`, as torch and tonic datasets are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


class FrameSet:
    """Frames with labels: a map-style dataset over an array or a memory-mapped file.

    frames (M, T, P, H, W)   labels (M,) int64   ids (M,) names or numbers of the samples (None: 0, 1, ...)

    An item is `(frames (T, P, H, W), label)`. `subset` gives a view with other rows and the same array behind it.

    >>> data = FrameSet(np.zeros((4, 10, 2, 34, 34), np.uint8), [0, 1, 0, 1])
    >>> data.shape, data.subset([3, 1]).ids.tolist(), data.subset([3, 1])[0][1]
    ((4, 10, 2, 34, 34), [3, 1], 1)
    """

    def __init__(self, frames: NDArray[Any], labels: ArrayLike, ids: ArrayLike | None = None) -> None:
        if frames.ndim != 5:
            raise ValueError(f"FrameSet: frames must be (M, T, P, H, W), got shape {frames.shape}")
        columns = {"labels": np.asarray(labels), "ids": np.arange(len(frames)) if ids is None else np.asarray(ids)}
        for name, column in columns.items():
            if column.shape != (len(frames),):
                raise ValueError(f"FrameSet: {name} must be ({len(frames)},) like frames, got {column.shape}")
        if columns["labels"].dtype.kind not in "iu":
            raise ValueError(f"FrameSet: labels must be whole numbers, got {columns['labels'].dtype}")
        self._frames = frames
        self._rows = np.arange(len(frames))
        self.labels: NDArray[np.int64] = columns["labels"].astype(np.int64)
        self.ids: NDArray[Any] = columns["ids"]

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
        rows = np.asarray(indices)
        if rows.dtype.kind not in "iu" or rows.ndim != 1:
            raise ValueError(f"FrameSet.subset: indices must be a list of whole numbers, got {rows.dtype} {rows.shape}")
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):
            raise ValueError(f"FrameSet.subset: indices must be in 0..{len(self) - 1}, got {outside[0]}")
        view = object.__new__(FrameSet)
        view._frames, view._rows = self._frames, self._rows[rows]
        view.labels, view.ids = self.labels[rows], self.ids[rows]
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
        """The same recordings, frames [first, stop) of each. Error: frames that they do not have."""
        steps = len(self.train[0][0])
        if not 0 <= first < stop <= steps:
            what = f"the {steps} frames of a recording"
            raise ValueError(f"data.frames must be [first, stop] within {what}, got [{first}, {stop}]")
        parts: dict[str, Any] = {part: Segment(getattr(self, part), first, stop) for part in ("train", "val", "test")}
        return replace(self, **parts, first_frame=self.first_frame + first)


class ImageSet:
    """Images with labels, each shown for T steps: items `(frames (T, P, H, W), label)` whose stride in time is 0.

    images (M, P, H, W)   labels (M,) int64   encoding `Direct(steps)`   ids (M,) names or numbers (None: 0, 1, ...)
    """

    def __init__(self, images: NDArray[Any], labels: ArrayLike, encoding: Direct, ids: ArrayLike | None = None) -> None:
        if images.ndim != 4:
            raise ValueError(f"ImageSet: images must be (M, P, H, W), got shape {images.shape}")
        self.images, self.encoding = images, encoding
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.ids = np.arange(len(images)) if ids is None else np.asarray(ids)
        for name, column in {"labels": self.labels, "ids": self.ids}.items():
            if column.shape != (len(images),):
                raise ValueError(f"ImageSet: {name} must be ({len(images)},) like images, got {column.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], int]:
        return self.encoding(self.images[index]), int(self.labels[index])

    def subset(self, indices: ArrayLike) -> ImageSet:
        """The samples `indices` (B,), in that order."""
        rows = np.asarray(indices)
        return ImageSet(self.images[rows], self.labels[rows], self.encoding, self.ids[rows])


class Segment:
    """The frames [first, stop) of every recording of a dataset, as if it had no others."""

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
        return frames[self.frames], label


class Augmented:
    """A dataset whose batches are changed on their way into training: `augment(x (T, N, P, H, W), y, generator) -> (x, y)`."""

    def __init__(self, dataset: MapStyle, augment: Callable[..., Any]) -> None:
        self.dataset, self.augment = dataset, augment
        for name in PASSED_ON:
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.dataset[index]


class FramesOf:
    """Bring your own: any map-style dataset of `(Events, label)` as one of `(frames, label)`, binned at every access."""

    def __init__(self, dataset: MapStyle, binning: Binning) -> None:
        self.dataset = dataset
        self.binning = binning

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint16], int]:
        events, label = self.dataset[index]
        if not isinstance(events, Events):
            raise ValueError(
                f"FramesOf: item {index} must be (Events, label), got {type(events).__name__}; Events.from_arrays makes one"
            )
        return self.binning(events), int(label)

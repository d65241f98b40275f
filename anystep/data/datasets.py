"""Datasets of frames: map-style items `(frames (T, 2, H, W), label)`, split by a named protocol."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._extras import need
from anystep._files import content_hash
from anystep._lookup import check_keys, choose
from anystep.data.cache import cached_array, default_cache
from anystep.data.events import Events
from anystep.data.frames import BINNINGS, Binning, Direct, Encoding
from anystep.data.protocols import split
from anystep.data.simulate import SIMULATOR_VERSION, Camera, Trajectory, path_of, simulate_many

DIGIT_PIXELS = 22  # a digit of 8 x 8 is enlarged to this on the 34 x 34 sensor


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
        for name in ("labels", "ids"):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        frames, label = self.dataset[index]
        return frames[self.frames], label


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


def digits_events(
    indices: Sequence[int] | None = None,
    *,
    path: str | Trajectory = "closed_loop",
    workers: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[Events, int]]:
    """`(Events, label)` of digits-dvs samples, in the order of `indices` (None: all 1,797): what `digits_dvs` bins."""
    images, labels = _digits()
    chosen = range(len(images)) if indices is None else indices
    recordings = simulate_many(images, path_of(path), Camera(), seed=seed, workers=workers, indices=list(chosen))
    return ((events, int(labels[i])) for events, i in zip(recordings, chosen, strict=True))


def digits(*, binning: Encoding, cache: str | os.PathLike[str] | None = None, workers: int | None = None) -> Splits:
    """The 1,797 handwritten digits of scikit-learn as grey images of 32 x 32, shown for T steps; nothing is downloaded.

    8 x 8 pixels of 17 grey levels (Alpaydin and Kaynak 1998) enlarged to (1, 32, 32) float32 in [0, 1]. The encoding must be
    "direct". The split is that of digits-dvs: the same digits train, choose and test. `cache` and `workers` have nothing to do.
    """
    if not isinstance(binning, Direct):
        raise ValueError(f"digits holds images: its binning must be direct, got {binning.name}")
    source = _digits_source()
    images = enlarge(source.images / 16, 32).astype(np.float32)[:, None]
    return _digits_splits(ImageSet(images, source.target, binning), binning)


def _digits_splits(data: Any, encoding: Encoding) -> Splits:
    parts = split("digits-dvs/stratified-70-10-20", data.labels)
    return Splits(
        train=data.subset(parts.train),
        val=data.subset(parts.val),
        test=data.subset(parts.test),
        classes=tuple(str(digit) for digit in range(10)),
        protocol=parts.name,
        protocol_hash=parts.hash,
        causal=encoding.causal,
        binning=encoding.describe(),
    )


def digits_dvs(
    *,
    binning: Encoding,
    path: str | Trajectory = "closed_loop",
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> Splits:
    """The 1,797 handwritten digits of scikit-learn, each filmed by a simulated event camera; nothing is downloaded.

    A digit (8 x 8, 17 grey levels; Alpaydin and Kaynak 1998) is enlarged to 22 x 22 and moves over a 34 x 34 sensor for 300
    ms: `closed_loop` (a circle of radius 3 pixels, twice round: about 13,000 events) or `saccade` (a triangle 4.8 pixels wide
    and high, the motion of N-MNIST: about 5,000). The camera is `Camera()`: contrast threshold 0.2 with 3 % mismatch, light
    floor 0.2, 1 Hz of background events a pixel (350 of the events), samples every 1 ms.

    Frames (T, 2, 34, 34) uint8, or uint16 where a count passes 255, in a file under `cache` (None: `default_cache()`) whose
    name hashes all that shaped it. `seed` draws the background events. The split is "digits-dvs/stratified-70-10-20".
    """
    if not isinstance(binning, Binning):
        raise ValueError(f"digits-dvs holds events: its binning must be one of {', '.join(BINNINGS)}, got {binning.name}")
    images, labels = _digits()
    trajectory = path_of(path)
    shaped_by = {
        "simulator": SIMULATOR_VERSION,
        "camera": Camera().describe(),
        "path": trajectory.describe(),
        "binning": binning.describe(),
        "seed": seed,
    }

    def build() -> NDArray[Any]:
        frames = [binning(events) for events, _ in digits_events(path=trajectory, workers=workers, seed=seed)]
        largest = max(int(each.max()) for each in frames)
        return np.stack(frames).astype(np.uint8 if largest <= 255 else np.uint16)

    folder = default_cache() if cache is None else Path(cache)
    frames = cached_array(folder, f"digits-dvs-{content_hash(shaped_by, images.tobytes())}", build)
    return _digits_splits(FrameSet(frames, labels), binning)


DATASETS: dict[str, Callable[..., Splits]] = {"digits-dvs": digits_dvs, "digits": digits}


def load_dataset(
    name: str,
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    **options: Any,
) -> Splits:
    """Row `name` of DATASETS in frames of `binning`; `options` are that row's own and unknown ones are refused."""
    load = choose(DATASETS, name, "dataset")
    known = [key for key in inspect.signature(load).parameters if key not in ("binning", "cache", "workers")]
    check_keys(options, known, "option", f"dataset {name}")
    return load(binning=binning, cache=cache, workers=workers, **options)


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The digits enlarged (1797, 22, 22) in [0, 1] and their labels."""
    source = _digits_source()
    images = enlarge(source.images / 16, DIGIT_PIXELS)
    images.flags.writeable = False
    return images, source.target.astype(np.int64)


def _digits_source() -> Any:
    return need("sklearn.datasets", extra="report", purpose="scikit-learn's digits").load_digits()


def enlarge(images: NDArray[np.float64], pixels: int) -> NDArray[np.float64]:
    """Square images (M, S, S) to (M, pixels, pixels), bilinear, pixel centres aligned, edges repeated."""
    size = images.shape[-1]
    place = np.clip((np.arange(pixels) + 0.5) * size / pixels - 0.5, 0, size - 1)
    low = np.minimum(place.astype(np.int64), size - 2)
    weights = np.zeros((pixels, size))
    weights[np.arange(pixels), low] = 1 - (place - low)
    weights[np.arange(pixels), low + 1] += place - low
    return np.clip(weights @ images @ weights.T, 0, 1)

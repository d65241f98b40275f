"""scikit-learn's handwritten digits: as images (`digits`), and filmed by the simulated camera."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import content_hash
from anystep.data.cache import cached_ragged, cached_stack, default_cache
from anystep.data.camera.simulate import (
    SIMULATOR_VERSION,
    Camera,
    Trajectory,
    enlarge,
    path_of,
    simulate_many,
)
from anystep.data.frames import BINNINGS, Binning, Direct, Encoding
from anystep.data.protocols import split
from anystep.data.recording import Events
from anystep.data.sets import FrameSet, ImageSet, RaggedSet, Splits

DIGIT_PIXELS = 22  # a digit of 8 x 8 is enlarged to this on the 34 x 34 sensor


def _digits_source() -> Any:
    return need("sklearn.datasets", extra="report", purpose="scikit-learn's digits").load_digits()


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The digits enlarged (1797, 22, 22) in [0, 1] and their labels."""
    source = _digits_source()
    images = enlarge(source.images / 16, DIGIT_PIXELS)
    images.flags.writeable = False
    return images, source.target.astype(np.int64)


PROTOCOL = "digits-dvs/stratified-70-10-20"


def _digits_splits(data: FrameSet | RaggedSet | ImageSet, encoding: Encoding) -> Splits:
    parts = split(PROTOCOL, data.labels)
    classes, told = tuple("0123456789"), encoding.describe()
    return Splits.of(data, parts, classes, causal=encoding.causal, binning=told)


def digits(*, binning: Encoding) -> Splits:
    """The 1,797 handwritten digits of scikit-learn as grey images of 32 x 32, shown for T steps.

    8 x 8 pixels of 17 grey levels (Alpaydin and Kaynak 1998) enlarged to (1, 32, 32) float32 in [0,
    1]. The split is that of digits-dvs.
    """
    if not isinstance(binning, Direct):
        raise UsageError(f"digits holds images: its binning must be direct, got {binning.name}")
    source = _digits_source()
    images = enlarge(source.images / 16, 32).astype(np.float32)[:, None]
    return _digits_splits(ImageSet(images, source.target, binning), binning)


def digits_events(
    indices: Sequence[int] | None = None,
    *,
    path: str | Trajectory = "closed_loop",
    workers: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[Events, int]]:
    """`(Events, label)` of digits-dvs samples, in the order of `indices` (None: all 1,797)."""
    images, labels = _digits()
    chosen, way = list(range(len(images)) if indices is None else indices), path_of(path)
    recordings = simulate_many(images, way, Camera(), seed=seed, workers=workers, indices=chosen)
    return ((events, int(labels[i])) for events, i in zip(recordings, chosen, strict=True))


def digits_test_recording(number: int) -> tuple[Events, int]:
    """`(Events, label)` of one test recording of digits-dvs, by its place in the test split, filmed
    anew. Error: there are not so many.
    """
    indices = split(PROTOCOL, _digits()[1]).test
    if not 0 <= number < len(indices):
        raise UsageError(f"digits-dvs has test recordings 0 to {len(indices) - 1}, got {number}")
    return next(digits_events([int(indices[number])], workers=1))


def digits_dvs(
    *,
    binning: Encoding,
    path: str | Trajectory = "closed_loop",
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> Splits:
    """The 1,797 handwritten digits of scikit-learn, each filmed by a simulated event camera.

    Nothing is downloaded. A digit (8 x 8, 17 grey levels; Alpaydin and Kaynak 1998) is enlarged to
    22 x 22 and moves over a 34 x 34 sensor for 300 ms: `closed_loop` (a circle of radius 3 pixels,
    twice round: about 13,000 events) or `saccade` (a triangle 4.8 pixels wide and high, the motion
    of N-MNIST: about 5,000). The camera is `Camera()`: contrast threshold 0.2 with 3 % mismatch,
    light floor 0.2, 1 Hz of background events a pixel (350 of the events), samples every 1 ms.

    Frames (T, 2, 34, 34) uint8, or uint16 where a count passes 255, in a file under `cache` (None:
    `default_cache()`) whose name hashes all that shaped it; T is each recording's own if the
    binning has no `steps`. `seed` draws the background events. The split is
    "digits-dvs/stratified-70-10-20".
    """
    if not isinstance(binning, Binning):
        rule = f"its binning must be one of {', '.join(BINNINGS)}"
        raise UsageError(f"digits-dvs holds events: {rule}, got {binning.name}")
    images, labels = _digits()
    trajectory = path_of(path)
    shaped_by = {
        "simulator": SIMULATOR_VERSION,
        "camera": asdict(Camera()),
        "path": asdict(trajectory),
        "binning": binning.describe(),
        "seed": seed,
    }

    def filmed() -> Iterator[NDArray[np.uint16]]:
        recordings = digits_events(path=trajectory, workers=workers, seed=seed)
        return (binning(events) for events, _ in recordings)

    folder = default_cache() if cache is None else Path(cache)
    key = f"digits-dvs-{content_hash(shaped_by, images.tobytes())}"
    if binning.steps is None:
        return _digits_splits(RaggedSet(*cached_ragged(folder, key, filmed), labels), binning)
    frames = cached_stack(folder, key, len(labels), filmed)
    return _digits_splits(FrameSet(frames, labels), binning)

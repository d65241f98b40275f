"""Recordings in files: how each is read, cut and resized, and how all of them become one array of
frames on disk.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import content_hash, write_json
from anystep._threads import map_ahead
from anystep.data.cache import cache_file, cached_ragged, cached_stack, default_cache
from anystep.data.events.contents import Found, content_hashes
from anystep.data.frames import Binning
from anystep.data.readers import read_events
from anystep.data.readers.gestures import Segment
from anystep.data.recording import Events
from anystep.data.resize import check_size, resize
from anystep.data.sets import FrameSet, RaggedSet

# Part of every cache key: raise it whenever the same files and settings give other frames.
RECORDINGS_VERSION = 1
SECONDS_BETWEEN_LINES = 5.0
_BROKEN_ARCHIVE = (
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    TypeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sample:
    """One recording.

    id      its name, the same in every layout of a data set: membership in a split comes from it
    label   its class
    path    the file; `part` is "train" or "test" if the data set says so
    segment when it is, on the file's clock, if the file holds several recordings
    frames  whether the file holds finished frames
    """

    id: str
    label: int
    path: Path
    part: str | None = None
    segment: Segment | None = None
    frames: bool = False


@dataclass(frozen=True)
class Look:
    """How a recording becomes frames (T, 2, S, S): everything here shapes them and is part of the
    cache key.

    binning         cuts it into T frames of counts
    size            None keeps the sensor's size; else frames are stretched to size x size, see
                    `resize`
    interpolation   a row of `resize.INTERPOLATIONS`
    sensor          (height, width); None: the file says it
    from_first      time counts from the first event, not from the clock's zero
    tight           the sensor is cut to the pixels in use, per recording: x and y shifted to start
                    at 0
    """

    binning: Binning
    size: int | None
    interpolation: str
    sensor: tuple[int, int] | None
    from_first: bool = True
    tight: bool = False

    def __post_init__(self) -> None:
        check_size(self.size, self.interpolation)

    @property
    def causal(self) -> bool:
        """Whether the frames could be made live: which pixels are in use, `tight` knows at the end
        of a recording.
        """
        return self.binning.causal and not self.tight

    def describe(self) -> dict[str, Any]:
        """What shapes the frames besides the files, for hashes."""
        own = {
            name: getattr(self, name)
            for name in ("size", "interpolation", "sensor", "from_first", "tight")
        }
        return {"version": RECORDINGS_VERSION, "binning": self.binning.describe(), **own}

    def frames(self, events: Events) -> NDArray[Any]:
        """The frames of a recording: uint16 counts, or float32 after bilinear interpolation."""
        if len(events) and (self.from_first or self.tight):
            start = events.t[0] if self.from_first else 0
            left, top = (events.x.min(), events.y.min()) if self.tight else (0, 0)
            x, y = events.x - np.int16(left), events.y - np.int16(top)
            sensor = (int(y.max()) + 1, int(x.max()) + 1) if self.tight else events.sensor
            events = Events(events.t - start, x, y, events.p, sensor)
        return self.resized(self.binning(events))

    def resized(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Counts (T, 2, H, W) in the size asked for."""
        return counts if self.size is None else resize(counts, self.size, self.interpolation)


@dataclass(frozen=True)
class Stack:
    """The frames (M, T, 2, H, W) of M samples, and why some could not be read: {index: message},
    their rows are zeros.

    If every recording has its own T, `frames` are (sum of T, 2, H, W), one recording after another,
    and `lengths` (M,) the T; 0 for those that could not be read.
    """

    frames: NDArray[Any]
    bad: dict[int, str]
    lengths: NDArray[np.int64] | None = None

    def with_labels(self, labels: NDArray[np.int64], ids: Sequence[str]) -> FrameSet | RaggedSet:
        """The data set of all samples."""
        if self.lengths is None:
            return FrameSet(self.frames, labels, ids)
        return RaggedSet(self.frames, self.lengths, labels, ids)


def stack_frames(
    name: str,
    samples: Sequence[Sample],
    look: Look,
    *,
    cache: str | os.PathLike[str] | None,
    workers: int | None,
    skip_bad: bool,
) -> Stack:
    """The frames of all samples, memory-mapped from a file in the folder `cache` that is built when
    it is not there.

    The file's key hashes `look` and of every sample the id, the segment, and what its file holds: a
    copy of the folder has the same frames. Each file is hashed once, see `contents`. `workers`
    threads hash and read (None: one a processor); a line on stderr says how far that is. A file
    that cannot be read is a ValueError that names it, or with `skip_bad` a row of zeros.
    """
    if workers is not None and (isinstance(workers, bool) or workers < 1):
        raise UsageError(f"{name}: workers must be >= 1 or None, got {workers}")
    folder = default_cache() if cache is None else Path(cache)
    threads = workers or os.cpu_count() or 1
    key = f"{name}-{content_hash(look.describe(), _fingerprint(name, samples, folder, threads))}"
    record = cache_file(folder, key).with_suffix(".bad.json")
    bad: dict[int, str] = {}

    def rows() -> Iterator[NDArray[Any] | None]:
        found = map_ahead(
            lambda group: _read_group(group, look), _files_of(samples), threads, ahead=2
        )
        results = (each for group in found for each in group)
        shape = None
        for index, result in enumerate(_reported(name, "recordings binned", results, len(samples))):
            if isinstance(result, str):
                bad[index] = result
                if not skip_bad:
                    raise UsageError(_refusal(name, result))
                yield None
                continue
            shape = shape or result.shape
            if result.shape[1:] != shape[1:]:  # T is that of the binning, or each recording's own
                sizes = f"{samples[index].path} is {result.shape[2:]}, one before it {shape[2:]}"
                raise UsageError(
                    f"{name}: recordings differ in size, {sizes}; size= makes them alike"
                )
            yield result
        if len(bad) == len(samples):
            raise UsageError(
                f"{name}: none of the {len(samples)} recordings can be read; the first: {bad[0]}"
            )
        record.unlink(missing_ok=True)
        if bad:  # before the frames appear: whoever finds them must know
            write_json(record, {samples[index].id: message for index, message in bad.items()})

    lengths = None
    if look.binning.steps is None:
        frames, lengths = cached_ragged(folder, key, rows)
    else:
        frames = cached_stack(folder, key, len(samples), rows)
    if record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        bad = {
            index: known[sample.id] for index, sample in enumerate(samples) if sample.id in known
        }
    if bad and not skip_bad:
        raise UsageError(_refusal(name, next(iter(bad.values()))))
    return Stack(frames, bad, lengths)


def _refusal(name: str, message: str) -> str:
    return f"{name}: {message}. With skip_bad=True such recordings are left out"


def _fingerprint(
    name: str, samples: Sequence[Sample], folder: Path, threads: int
) -> list[list[Any]]:
    """Of every sample what changes when its frames do. The suffix says how a file is read."""

    def watch(found: Iterator[Found], count: int) -> Iterator[Found]:
        return _reported(name, "files hashed", found, count)

    index = folder / f"{name}.contents.json"
    held = content_hashes((sample.path for sample in samples), index, workers=threads, watch=watch)
    return [
        [s.id, s.segment and asdict(s.segment), s.frames, s.path.suffix.lower(), held[s.path]]
        for s in samples
    ]


def _files_of(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Neighbours that lie in one file together: a file is read once."""
    return [list(group) for _, group in groupby(samples, key=lambda sample: sample.path)]


def _read_group(group: Sequence[Sample], look: Look) -> list[NDArray[Any] | str]:
    """The frames of every sample of one file, or what is wrong with it."""
    path = group[0].path
    try:
        if group[0].frames:
            return [
                look.resized(finished_frames(path, cast(int, look.binning.steps)))
            ]  # equal parts: never open
        events = read_events(path, sensor=look.sensor, sort=True)
    except (ValueError, FileNotFoundError) as error:
        reason = str(error)
        return [reason if str(path) in reason else f"{path}: {reason}"] * len(group)
    results: list[NDArray[Any] | str] = []
    for sample in group:
        try:
            results.append(
                look.frames(events if sample.segment is None else sample.segment.of(events))
            )
        except ValueError as error:
            where = (
                ""
                if sample.segment is None
                else f", {sample.segment.start_us} to {sample.segment.end_us} us"
            )
            results.append(f"{path}{where}: {error}")
    return results


def finished_frames(path: Path, steps: int) -> NDArray[np.uint16]:
    """The array `frames` (T, 2, H, W) of an archive, as SpikingJelly keeps it."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            frames = archive["frames"]
    except _BROKEN_ARCHIVE as error:
        raise UsageError(f"{path}: no archive with an array frames: {error}") from error
    if frames.ndim != 4 or frames.shape[:2] != (steps, 2) or frames.dtype.kind not in "uif":
        raise UsageError(
            f"{path}: frames must be numbers ({steps}, 2, H, W), got {frames.dtype} {frames.shape}"
        )
    counts: NDArray[np.uint16] = np.rint(frames).clip(0, 65535).astype(np.uint16)
    if not np.array_equal(counts, frames):
        raise UsageError(f"{path}: frames must hold whole numbers in 0..65535")
    return counts


def _reported(name: str, what: str, results: Iterator[Item], count: int) -> Iterator[Item]:
    """`results`, with a line on stderr every few seconds."""
    begin = said = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            sys.stderr.write(
                f"{name}: {done} of {count} {what}, {done / (now - begin):.0f} a second\n"
            )
            sys.stderr.flush()

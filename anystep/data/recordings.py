"""Recordings in files: how each is read, cut and resized, and how all of them become one array of frames on disk."""

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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anystep._files import content_hash, write_json
from anystep.data.cache import cache_file, cached_stack, default_cache
from anystep.data.events import Events
from anystep.data.frames import Binning
from anystep.data.readers import read_events
from anystep.data.readers.gestures import Segment
from anystep.data.resize import check_size, resize
from anystep.data.threads import map_ahead

# Part of every cache key: raise it whenever the same files and settings give other frames.
RECORDINGS_VERSION = 1
SECONDS_BETWEEN_LINES = 5.0
_BROKEN_ARCHIVE = (ValueError, KeyError, EOFError, RuntimeError, TypeError, SyntaxError, zipfile.BadZipFile, zlib.error)

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
    """How a recording becomes frames (T, 2, S, S): everything here shapes them and is part of the cache key.

    binning         cuts it into T frames of counts
    size            None keeps the sensor's size; else frames are stretched to size x size, see `resize`
    interpolation   a row of `resize.INTERPOLATIONS`
    sensor          (height, width); None: the file says it
    from_first      time counts from the first event, not from the clock's zero
    tight           the sensor is cut to the pixels in use, per recording: x and y shifted to start at 0
    """

    binning: Binning
    size: int | None
    interpolation: str
    sensor: tuple[int, int] | None
    from_first: bool = True
    tight: bool = False

    def __post_init__(self) -> None:
        check_size(self.size, self.interpolation)

    def describe(self) -> dict[str, Any]:
        """What shapes the frames besides the files, for hashes."""
        own = {name: getattr(self, name) for name in ("size", "interpolation", "sensor", "from_first", "tight")}
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
    """The frames (M, T, 2, H, W) of M samples, and why some could not be read: {index: message}, their rows are zeros."""

    frames: NDArray[Any]
    bad: dict[int, str]


def stack_frames(
    name: str,
    samples: Sequence[Sample],
    look: Look,
    *,
    cache: str | os.PathLike[str] | None,
    workers: int | None,
    skip_bad: bool,
) -> Stack:
    """The frames of all samples, memory-mapped from a file in the folder `cache` that is built when it is not there.

    The file's key hashes `look` and of every sample the id, the segment, and size and time of change of its file: hashing ten
    gigabytes would take longer than reading the frames. A file that is replaced by one of the same size and time goes
    unnoticed; a copy with other times is built again. `workers` threads read (None: one a processor); a line on stderr
    says how far a long build is. A file that cannot be read is a ValueError that names it, or with `skip_bad` a row of zeros.
    """
    if workers is not None and (isinstance(workers, bool) or workers < 1):
        raise ValueError(f"{name}: workers must be >= 1 or None, got {workers}")
    folder = default_cache() if cache is None else Path(cache)
    key = f"{name}-{content_hash(look.describe(), _fingerprint(samples))}"
    record = cache_file(folder, key).with_suffix(".bad.json")
    bad: dict[int, str] = {}

    def rows() -> Iterator[NDArray[Any] | None]:
        found = map_ahead(lambda group: _read_group(group, look), _files_of(samples), workers or os.cpu_count() or 1, ahead=2)
        results = (each for group in found for each in group)
        shape = None
        for index, result in enumerate(_reported(name, results, len(samples))):
            if isinstance(result, str):
                bad[index] = result
                if not skip_bad:
                    raise ValueError(_refusal(name, result))
                yield None
                continue
            shape = shape or result.shape
            if result.shape != shape:
                sizes = f"{samples[index].path} is {result.shape[2:]}, one before it {shape[2:]}"
                raise ValueError(f"{name}: recordings differ in size, {sizes}; size= makes them alike")
            yield result
        if len(bad) == len(samples):
            raise ValueError(f"{name}: none of the {len(samples)} recordings can be read; the first: {bad[0]}")
        record.unlink(missing_ok=True)
        if bad:  # before the frames appear: whoever finds them must know
            write_json(record, {samples[index].id: message for index, message in bad.items()})

    frames = cached_stack(folder, key, len(samples), rows)
    if record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        bad = {index: known[sample.id] for index, sample in enumerate(samples) if sample.id in known}
    if bad and not skip_bad:
        raise ValueError(_refusal(name, next(iter(bad.values()))))
    return Stack(frames, bad)


def _refusal(name: str, message: str) -> str:
    hint = "" if name == "events-folder" else ". With skip_bad=True such recordings are left out"
    return f"{name}: {message}{hint}"


def _fingerprint(samples: Sequence[Sample]) -> list[list[Any]]:
    """Of every sample what must change when its frames do, as far as the folder tells."""
    states = {path: _state(path) for path in {sample.path for sample in samples}}
    return [[s.id, s.segment and asdict(s.segment), s.frames, *states[s.path]] for s in samples]


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change; (-1, 0) for what is not there, which reading it will say."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _files_of(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Neighbours that lie in one file together: a file is read once."""
    return [list(group) for _, group in groupby(samples, key=lambda sample: sample.path)]


def _read_group(group: Sequence[Sample], look: Look) -> list[NDArray[Any] | str]:
    """The frames of every sample of one file, or what is wrong with it."""
    path = group[0].path
    try:
        if group[0].frames:
            return [look.resized(_finished(path, look.binning.steps))]
        events = read_events(path, sensor=look.sensor, sort=True)
    except (ValueError, FileNotFoundError) as error:
        reason = str(error)
        return [reason if str(path) in reason else f"{path}: {reason}"] * len(group)
    results: list[NDArray[Any] | str] = []
    for sample in group:
        try:
            results.append(look.frames(events if sample.segment is None else sample.segment.of(events)))
        except ValueError as error:
            where = "" if sample.segment is None else f", {sample.segment.start_us} to {sample.segment.end_us} us"
            results.append(f"{path}{where}: {error}")
    return results


def _finished(path: Path, steps: int) -> NDArray[np.uint16]:
    """The array `frames` (T, 2, H, W) of an archive, as SpikingJelly keeps it."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            frames = archive["frames"]
    except _BROKEN_ARCHIVE as error:
        raise ValueError(f"{path}: no archive with an array frames: {error}") from error
    if frames.ndim != 4 or frames.shape[:2] != (steps, 2) or frames.dtype.kind not in "uif":
        raise ValueError(f"{path}: frames must be numbers ({steps}, 2, H, W), got {frames.dtype} {frames.shape}")
    counts: NDArray[np.uint16] = np.rint(frames).clip(0, 65535).astype(np.uint16)
    if not np.array_equal(counts, frames):
        raise ValueError(f"{path}: frames must hold whole numbers in 0..65535")
    return counts


def _reported(name: str, results: Iterator[Item], count: int) -> Iterator[Item]:
    """`results`, with a line on stderr every few seconds."""
    begin = said = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            sys.stderr.write(f"{name}: {done} of {count} recordings binned, {done / (now - begin):.0f} a second\n")
            sys.stderr.flush()

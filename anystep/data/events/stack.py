"""Recordings in files: read, cut and resized, and all of them as one array of frames on disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anystep._command import say
from anystep._errors import UsageError
from anystep._files import content_hash, write_json
from anystep._threads import map_ahead
from anystep.data.cache import cache_file, cached_ragged, cached_stack, default_cache
from anystep.data.events.catalogue import Catalogue
from anystep.data.events.contents import Found, content_hashes
from anystep.data.events.layouts import Sample
from anystep.data.frames import Binning, resize
from anystep.data.readers.arrays import arrays_in
from anystep.data.readers.source import regular_file
from anystep.data.recording import Events
from anystep.data.sets import FrameSet, RaggedSet

# Part of every cache key: raise it whenever the same files and settings give other frames.
RECORDINGS_VERSION = 2
SECONDS_BETWEEN_LINES = 5.0
LARGEST_FRAMES = 2**28  # bytes that may come of a small file: frames are mostly zeros

Item = TypeVar("Item")


@dataclass(frozen=True)
class FrameSpec:
    """How a recording becomes frames (T, 2, H, W): all that shapes them besides its file.

    size            None keeps the sensor's size; else frames are stretched to that side or [H, W]
    interpolation   a row of `frames.INTERPOLATIONS`
    sensor          (height, width); None: the file says it
    from_first      time counts from the first event, not from the clock's zero
    tight           the sensor is cut to the pixels in use, per recording
    """

    binning: Binning
    size: int | Sequence[int] | None
    interpolation: str
    sensor: tuple[int, int] | None
    from_first: bool = True
    tight: bool = False

    @property
    def causal(self) -> bool:
        """Whether the frames could be made live; the pixels in use are known at the end only."""
        return self.binning.causal and not self.tight

    def describe(self) -> dict[str, Any]:
        """For hashes: part of the name of a file of frames."""
        binning = self.binning.describe()
        return {**asdict(self), "binning": binning, "version": RECORDINGS_VERSION}

    def resized(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Counts (T, 2, H, W) in the size asked for."""
        return counts if self.size is None else resize(counts, self.size, self.interpolation)

    def frames(self, events: Events) -> NDArray[Any]:
        """The frames of a recording: uint16 counts, or float32 after bilinear interpolation."""
        if len(events) and (self.from_first or self.tight):
            start = events.t[0] if self.from_first else 0
            left, top = (events.x.min(), events.y.min()) if self.tight else (0, 0)
            x, y = events.x - np.int16(left), events.y - np.int16(top)
            sensor = (int(y.max()) + 1, int(x.max()) + 1) if self.tight else events.sensor
            events = Events(events.t - start, x, y, events.p, sensor)
        return self.resized(self.binning(events))


def _reported(name: str, what: str, results: Iterable[Item], count: int) -> Iterator[Item]:
    """`results`, with a line on stderr every few seconds."""
    begin = said = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said, rate = now, done / (now - begin)
            say(f"{name}: {done} of {count} {what}, {rate:.0f} a second")


def _fingerprint(found: Catalogue, folder: Path, threads: int) -> list[list[Any]]:
    """Of every sample what changes when its frames do. The suffix says how a file is read."""

    def watch(hashed: Iterator[Found], count: int) -> Iterator[Found]:
        return _reported(found.name, "files hashed", hashed, count)

    index, paths = folder / f"{found.name}.contents.json", (each.path for each in found.samples)
    held = content_hashes(paths, index, workers=threads, watch=watch)
    made = found.finished is not None
    return [
        [s.id, s.segment and asdict(s.segment), made, s.path.suffix.lower(), held[s.path]]
        for s in found.samples
    ]


def finished_frames(path: Path, steps: int) -> NDArray[np.uint16]:
    """The array `frames` (T, 2, H, W) of an archive, as SpikingJelly keeps it."""
    found = arrays_in(regular_file(path), ("frames",), least=LARGEST_FRAMES)
    if not found:
        raise UsageError(f"{path}: no archive with an array frames")
    frames = found["frames"]
    if frames.ndim != 4 or frames.shape[:2] != (steps, 2) or frames.dtype.kind not in "uif":
        got = f"{frames.dtype} {frames.shape}"
        raise UsageError(f"{path}: frames must be numbers ({steps}, 2, H, W), got {got}")
    counts: NDArray[np.uint16] = np.rint(frames).clip(0, 65535).astype(np.uint16)
    if not np.array_equal(counts, frames):
        raise UsageError(f"{path}: frames must hold whole numbers in 0..65535")
    return counts


def files_of(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Neighbours that lie in one file together: a file is read once."""
    return [list(group) for _, group in groupby(samples, key=lambda sample: sample.path)]


def _read_file(
    found: Catalogue, group: Sequence[Sample], spec: FrameSpec
) -> list[NDArray[Any] | str]:
    """The frames of every sample of one file, or what is wrong with it."""
    path = group[0].path
    try:
        if found.finished:
            return [spec.resized(finished_frames(path, found.finished.steps))]
        events = found.read(path, sort=True)
    except (ValueError, OSError) as error:
        reason = str(error)
        return [reason if str(path) in reason else f"{path}: {reason}"] * len(group)
    results: list[NDArray[Any] | str] = []
    for part in (sample.segment for sample in group):
        try:
            results.append(spec.frames(part.of(events) if part else events))
        except ValueError as error:
            where = f", {part.start_us} to {part.end_us} us" if part else ""
            results.append(f"{path}{where}: {error}")
    return results


def _refuse(name: str, message: str) -> UsageError:
    return UsageError(f"{name}: {message}. With skip_bad=True such recordings are left out")


def _rows(
    found: Catalogue, spec: FrameSpec, threads: int, bad: dict[int, str] | None
) -> Iterator[NDArray[Any] | None]:
    """The frames of every sample, None for what cannot be read: that goes into `bad`."""
    name, samples = found.name, found.samples
    read = map_ahead(
        lambda file: _read_file(found, file, spec), files_of(samples), threads, ahead=2
    )
    shape: tuple[int, ...] = ()
    results = _reported(name, "recordings binned", chain.from_iterable(read), len(samples))
    for index, result in enumerate(results):
        if isinstance(result, str):
            if bad is None:
                raise _refuse(name, result)
            bad[index] = result
            yield None
            continue
        shape = shape or result.shape
        if result.shape[1:] != shape[1:]:  # T is that of the binning, or each recording's own
            sizes = f"{samples[index].path} is {result.shape[2:]}, one before it {shape[2:]}"
            raise UsageError(f"{name}: recordings differ in size, {sizes}; size= makes them alike")
        yield result
    if not shape and bad:
        text = f"none of the {len(samples)} recordings can be read; the first: {bad[0]}"
        raise UsageError(f"{name}: {text}")


def stack_frames(
    found: Catalogue,
    spec: FrameSpec,
    *,
    cache: str | os.PathLike[str] | None,
    workers: int | None,
    skip_bad: bool,
) -> tuple[FrameSet | RaggedSet, dict[int, str]]:
    """All samples in frames, memory-mapped from a file that is built when it is not there.

    cache      its folder; None: `default_cache()`
    workers    threads that hash and read; None: one a processor
    skip_bad   a file that cannot be read is a row of zeros, or of length 0, and {index: what is
               wrong} comes beside the frames; else it is an error that names the file

    The file's key hashes `spec` and of every sample the id, the segment, and what its file holds: a
    copy of the folder has the same frames. A line on stderr says now and then how far it is.
    """
    folder = default_cache() if cache is None else Path(cache)
    threads = (os.cpu_count() or 1) if workers is None else workers
    key = f"{found.name}-{content_hash(spec.describe(), _fingerprint(found, folder, threads))}"
    record = cache_file(folder, key).with_suffix(".bad.json")

    def rows() -> Iterator[NDArray[Any] | None]:
        record.unlink(missing_ok=True)
        bad: dict[int, str] = {}
        yield from _rows(found, spec, threads, bad if skip_bad else None)
        if bad:  # before the frames appear: whoever finds them must know
            write_json(record, {found.ids[index]: message for index, message in bad.items()})

    data: FrameSet | RaggedSet
    if spec.binning.steps is None:
        data = RaggedSet(*cached_ragged(folder, key, rows), found.labels, found.ids)
    else:
        frames = cached_stack(folder, key, len(found.samples), rows)
        data = FrameSet(frames, found.labels, found.ids)
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    bad = {i: known[name] for i, name in enumerate(found.ids) if name in known}
    if bad and not skip_bad:
        raise _refuse(found.name, next(iter(bad.values())))
    return data, bad

"""What all readers share: a regular file in, columns out, and events whose errors name the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.recording import Events

Size = tuple[int, int]  # (height, width)

Columns = dict[str, NDArray[Any]]  # t, x, y, p

_READY = {"t": np.int64, "x": np.int16, "y": np.int16, "p": np.uint8}


class Recorded(NamedTuple):
    """What a reader finds; `sensor` is None where neither the file nor its format says it."""

    columns: Columns
    sensor: Size | None


def regular_file(path: str | os.PathLike[str]) -> Path:
    """`path`, if it is a file with something in it."""
    file = Path(path)
    size = file.stat().st_size
    if not file.is_file():
        kind = "a directory" if file.is_dir() else "no regular file"
        raise UsageError(f"{file}: must be a recording, it is {kind}")
    if size == 0:
        raise UsageError(f"{file}: the file is empty (0 bytes)")
    return file


def largest_unpacked(path: Path) -> int:
    """The most bytes that a recording may become in memory: 100 times its file, or 16 MiB.

    Recordings pack 2 to 20 times, zeros 1000 times.
    """
    return max(100 * path.stat().st_size, 16 * 2**20)


def whole_records(path: Path, data: NDArray[np.uint8], *, start: int, size: int) -> int:
    """How many records of `size` bytes stand from byte `start` on; half a record is refused."""
    count, rest = divmod(len(data) - start, size)
    if rest:
        place = f"the event at byte {start + count * size}"
        raise UsageError(f"{path}: truncated: {place} has {rest} of its {size} bytes")
    return count


def events_of(path: Path, found: Recorded, sensor: Size | None, *, sort: bool) -> Events:
    """The events that a reader found; `sensor` and `sort` are those of `read_events`.

    Columns of the types of `Events` are taken as they are, others are converted if that changes no
    value.
    """
    columns, size = found.columns, sensor or found.sensor
    if size is None:
        hint = "pass sensor=(height, width)"
        raise UsageError(f"{path}: the file does not say how large the camera was: {hint}")
    shapes = {column.shape for column in columns.values()}
    if len(shapes) > 1 or columns["t"].ndim != 1:
        raise UsageError(f"{path}: t, x, y and p must be columns of one length, got {shapes}")
    if len(columns["t"]) == 0:
        raise UsageError(f"{path}: holds no events")
    if sort and np.any(columns["t"][1:] < columns["t"][:-1]):
        order = np.argsort(columns["t"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
    try:
        ready = all(columns[name].dtype == dtype for name, dtype in _READY.items())
        return (Events if ready else Events.from_arrays)(**columns, sensor=size)
    except ValueError as error:
        reason = str(error).removeprefix("Events: ")
        if "is earlier than" in reason:
            reason += ". The file is damaged or unordered; sort=True puts its events in order"
        elif reason.startswith(("x[", "y[")) and sensor is None:
            reason += (
                ". Pass sensor=(height, width), N-Caltech101 needs (180, 240); or it is damaged"
            )
        raise UsageError(f"{path}: {reason}") from error

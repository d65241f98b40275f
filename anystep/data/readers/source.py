"""What all readers share: a regular file in, columns out, and events whose errors name the file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.recording import Events

Size = tuple[int, int]  # (height, width)

Bytes = NDArray[np.uint8]
Columns = dict[str, NDArray[Any]]  # t, x, y, p

HOW_TO_SAY_THE_SENSOR = (
    "Say its height and width: `data show --sensor 180,240`, the same for `stream`, `data check "
    "--option 'sensor=[180,240]'`, data.options.sensor in a recipe, sensor=(180, 240) in Python"
)

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
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


def largest_unpacked(path: Path, least: int = 2**24) -> int:
    """The most bytes that a recording may become in memory: 100 times its file, or `least`.

    Recordings pack 2 to 20 times, zeros 1000 times.
    """
    return max(100 * path.stat().st_size, least)


def header_lines(path: Path, data: bytes, sign: bytes, last: bytes) -> tuple[list[bytes], int]:
    """The lines at the start of a file that begin with `sign`, and the first byte after them.

    A line that begins with `last` is the last one. Older files have no such line: there the first
    byte of the first event may be the sign, but then control characters follow, and the line ends
    the header.
    """
    lines, start = [], 0
    while data.startswith(sign, start):
        end = data.find(b"\n", start)
        if _CONTROL.search(data, start, end if end >= 0 else len(data)):
            break
        if end < 0:
            raise UsageError(f"{path}: truncated: the header line at byte {start} has no end")
        lines.append(data[start:end].rstrip())
        start = end + 1
        if lines[-1].lower().startswith(last):
            break
    return lines, start


def whole_records(path: Path, data: bytes | Bytes, *, start: int, size: int) -> int:
    """How many records of `size` bytes stand from byte `start` on; half a record is refused."""
    count, rest = divmod(len(data) - start, size)
    if rest:
        place = f"the event at byte {start + count * size}"
        raise UsageError(f"{path}: truncated: {place} has {rest} of its {size} bytes")
    return count


def _zero_or_one(p: NDArray[Any]) -> NDArray[Any]:
    """A column of -1 and 1, as many write polarities, with 0 for -1; any other as it is."""
    signed = p.dtype.kind in "if" and bool((p == -1).any()) and bool((np.abs(p) == 1).all())
    return (p > 0).astype(np.uint8) if signed else p


def events_of(path: Path, found: Recorded, sensor: Size | None, *, sort: bool) -> Events:
    """The events that a reader found; `sensor` and `sort` are those of `read_events`.

    Columns of the types of `Events` are taken as they are, others are converted if that changes no
    value.
    """
    columns, size = found.columns, sensor or found.sensor
    if size is None:
        rule = "the file does not say how large the camera was"
        raise UsageError(f"{path}: {rule}. {HOW_TO_SAY_THE_SENSOR}")
    shapes = {column.shape for column in columns.values()}
    if len(shapes) > 1 or columns["t"].ndim != 1:
        raise UsageError(f"{path}: t, x, y and p must be columns of one length, got {shapes}")
    if len(columns["t"]) == 0:
        raise UsageError(f"{path}: holds no events")
    if sort and np.any(columns["t"][1:] < columns["t"][:-1]):
        order = np.argsort(columns["t"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
    columns = {**columns, "p": _zero_or_one(columns["p"])}
    try:
        ready = all(columns[name].dtype == dtype for name, dtype in _READY.items())
        return (Events if ready else Events.from_arrays)(**columns, sensor=size)
    except ValueError as error:
        reason = str(error).removeprefix("Events: ")
        if "is earlier than" in reason:
            reason += ". The file is damaged or unordered; sort=True puts its events in order"
        elif reason.startswith(("x[", "y[")) and sensor is None:
            reason += f", or the file is damaged. {HOW_TO_SAY_THE_SENSOR}"
        raise UsageError(f"{path}: {reason}") from error

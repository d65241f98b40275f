"""What all readers share: the bytes of a regular file, and events whose errors name the file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.recording import Events

Size = tuple[int, int]

_LARGEST_RATIO = 100  # recordings pack 2 to 20 times, zeros 1000 times
_FREE_BYTES = 16 * 2**20  # below this a file may be packed as tightly as it likes

_READY = {"t": np.int64, "x": np.int16, "y": np.int16, "p": np.uint8}


def regular_file(path: str | os.PathLike[str]) -> Path:
    """`path`, if it is a file with something in it.

    A directory, a device, a loop of links and an empty file are a ValueError; a missing file stays
    a FileNotFoundError.
    """
    file = Path(path)
    try:
        status = file.stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR):
            raise UsageError(f"{file}: cannot be opened: {error.strerror}") from error
        raise
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise UsageError(f"{file}: must be a recording, it is {kind}")
    if status.st_size == 0:
        raise UsageError(f"{file}: the file is empty (0 bytes)")
    return file


def read_bytes(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """All bytes of a regular file that is not empty."""
    return np.fromfile(regular_file(path), dtype=np.uint8)


def largest_unpacked(packed: int) -> int:
    """The most bytes that `packed` bytes of a recording may become in memory."""
    return max(_FREE_BYTES, _LARGEST_RATIO * packed)


def whole_records(path: Path, data: NDArray[np.uint8], *, start: int, size: int) -> int:
    """How many records of `size` bytes stand from byte `start` on; half a record at the end is
    refused, and so is none.
    """
    count, rest = divmod(len(data) - start, size)
    if rest:
        raise UsageError(
            f"{path}: truncated: the event at byte {start + count * size} has {rest} of its {size} bytes"
        )
    if count == 0:
        raise UsageError(f"{path}: holds no events")
    return count


def checked(
    path: Path, columns: dict[str, NDArray[Any]], sensor: Size, *, sort: bool, hint: str = ""
) -> Events:
    """Events of the columns t, x, y, p of the file `path`.

    sort   puts events that step back in time in order (stable); False refuses them
    hint   what to try when an event lies outside the sensor

    Columns of the types of `Events` are taken as they are, others are converted if that changes no
    value.
    """
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind not in "biuf":
            raise UsageError(
                f"{path}: {name} must be one column of numbers, got {column.dtype} of shape {column.shape}"
            )
        if len(column) != len(columns["t"]):
            raise UsageError(
                f"{path}: t has {len(columns['t'])} entries and {name} has {len(column)}; they must agree"
            )
    if len(columns["t"]) == 0:
        raise UsageError(f"{path}: holds no events")
    if sort and np.any(columns["t"][1:] < columns["t"][:-1]):
        order = np.argsort(columns["t"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
    try:
        ready = all(columns[name].dtype == dtype for name, dtype in _READY.items())
        return (Events if ready else Events.from_arrays)(**columns, sensor=sensor)
    except ValueError as error:
        reason = str(error).removeprefix("Events: ")
        if "is earlier than" in reason:
            reason += (
                ". The file is damaged or its events are unordered; sort=True puts them in order"
            )
        elif reason.startswith(("x[", "y[")) and hint:
            reason += f". {hint}"
        raise UsageError(f"{path}: {reason}") from error

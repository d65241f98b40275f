"""Events in plain columns: `.npz` with t, x, y, p, `.npy` of Tonic's DVS-Gesture, and `.csv`."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.aedat import DVS128
from anystep.data.readers.source import Size, checked, largest_unpacked, regular_file
from anystep.data.recording import Events

_COLUMNS = ("t", "x", "y", "p")
_LONGEST_HEADER = 4096
_LATEST_MS = 1e15  # 30,000 years


def _array(data: bytes) -> NDArray[Any]:
    """The array of a .npy file, whose header must agree with the size: numpy would take the memory
    that it claims.
    """
    content = io.BytesIO(data)
    version = npy.read_magic(content)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, column_major, dtype = read(content)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - content.tell():
        raise UsageError(f"{len(data) - content.tell()} bytes are no {dtype} of shape {shape}")
    array = np.frombuffer(data, dtype, offset=content.tell())
    return array.reshape(shape[::-1]).T if column_major else array.reshape(shape)


def read_npz(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """An archive of the columns t (us), x, y, p, as SpikingJelly keeps them in `events_np`.

    The size is `sensor`, or else the archive's own array `sensor` (height, width). Refused: no such
    archive, a missing or damaged column, columns that unpack to more than a hundred times the file,
    and what `Events` refuses.
    """
    place = regular_file(path)
    try:
        with zipfile.ZipFile(place) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            wanted = [name for name in (*_COLUMNS, "sensor") if f"{name}.npy" in sizes]
            unpacked = sum(sizes[f"{name}.npy"] for name in wanted)
            if unpacked > largest_unpacked(place):
                raise UsageError(f"{unpacked} bytes are too much for so small a file")
            arrays = {name: _array(archive.read(f"{name}.npy")) for name in wanted}
            columns = {name: arrays[name] for name in _COLUMNS}
            if sensor is None and "sensor" in arrays:
                height, width = arrays["sensor"]
                sensor = int(height), int(width)
    except Exception as error:  # whatever zipfile and numpy raise for a damaged file: named
        raise UsageError(f"{place}: no archive of events t, x, y, p: {error}") from error
    return checked(place, columns, sensor, sort=sort)


def read_npy(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """An array (M, 4) with the columns x, y, p, t in milliseconds: how Tonic keeps DVS-Gesture.

    Times become us. `sensor` is (128, 128) when it is not given. Refused: a damaged file, another
    shape, and what `Events` refuses.
    """
    place = regular_file(path)
    try:
        array = _array(place.read_bytes())
    except Exception as error:  # whatever numpy raises for a damaged header: named, not hidden
        raise UsageError(f"{place}: no array of events: {error}") from error
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        raise UsageError(
            f"{place}: must be numbers (M, 4) with columns x, y, p, t, "
            f"got {array.dtype} {array.shape}"
        )
    x, y, p, milliseconds = array.T
    strange = ~((milliseconds >= 0) & (milliseconds < _LATEST_MS))
    if strange.any():
        index = int(strange.argmax())
        raise UsageError(
            f"{place}: t[{index}] = {milliseconds[index]} ms must be in 0..{_LATEST_MS:.0e}"
        )
    if milliseconds.dtype.kind == "f":
        # Half a microsecond is what decimal fractions lose in binary, and less than any camera
        # tells apart.
        t = np.rint(milliseconds.astype(np.float64) * 1000).astype(np.int64)
    else:
        t = milliseconds.astype(np.int64) * 1000
    return checked(place, {"t": t, "x": x, "y": y, "p": p}, sensor or DVS128, sort=sort)


def _csv_header(line: str) -> tuple[list[int], Size | None]:
    """The places of t, x, y and p, and (height, width) where x and y say theirs."""
    parts = [field.strip().lower().partition("@") for field in line.split(",")]
    names = ["p" if name in ("on", "polarity") else name for name, _, _ in parts]
    if any(names.count(name) != 1 for name in _COLUMNS):
        raise UsageError(
            "the first line must name t, x, y and p (or on, or polarity) once each, "
            f"got {line[:60]!r}"
        )
    width, height = (parts[names.index(name)][2] for name in ("x", "y"))
    said = width.isdecimal() and height.isdecimal()
    return [names.index(name) for name in _COLUMNS], (int(height), int(width)) if said else None


def read_csv(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """A table with commas: the first line names t (us), x, y and p (0 or 1) in any order.

    p may be called on or polarity. The size is `sensor`, or else what the first line says as faery
    writes it (`t,x@34,y@24,on`: 34 wide, 24 high). Refused: a first line without one of the names,
    a row that is no whole numbers, no size, and what `Events` refuses. (faery would read this too,
    but it holds the clock where a time steps back and does not look at the size.)
    """
    place = regular_file(path)
    try:
        with place.open(encoding="utf-8") as file, warnings.catch_warnings():
            wanted, said = _csv_header(file.readline(_LONGEST_HEADER))
            warnings.simplefilter("ignore", UserWarning)  # "no data" is refused below, by name
            warnings.simplefilter("error", DeprecationWarning)  # an older numpy cuts 1.5 to 1
            table = np.loadtxt(
                file, np.int64, delimiter=",", usecols=wanted, ndmin=2, comments=None
            )
    except (ValueError, OverflowError, DeprecationWarning) as error:
        raise UsageError(f"{place}: no table of events: {error}") from error
    columns = dict(zip(_COLUMNS, table.reshape(-1, 4).T, strict=True))
    return checked(place, columns, sensor or said, sort=sort)

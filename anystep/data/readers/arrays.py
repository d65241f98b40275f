"""Events in plain columns: `.npz` with t, x, y, p, `.npy` of Tonic's DVS-Gesture, and `.csv`."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.aedat import DVS128
from anystep.data.readers.source import Recorded, Size, largest_unpacked

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


def read_npz(path: Path) -> Recorded:
    """An archive of the columns t (us), x, y, p, as SpikingJelly keeps them in `events_np`, and
    perhaps an array `sensor` (height, width).
    """
    sensor = None
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            wanted = [name for name in (*_COLUMNS, "sensor") if f"{name}.npy" in sizes]
            unpacked = sum(sizes[f"{name}.npy"] for name in wanted)
            if unpacked > largest_unpacked(path):
                raise UsageError(f"{unpacked} bytes are too much for so small a file")
            arrays = {name: _array(archive.read(f"{name}.npy")) for name in wanted}
            columns = {name: arrays[name] for name in _COLUMNS}
            if "sensor" in arrays:
                height, width = arrays["sensor"]
                sensor = int(height), int(width)
    except Exception as error:  # whatever zipfile and numpy raise for a damaged file: named
        raise UsageError(f"{path}: no archive of events t, x, y, p: {error}") from error
    return Recorded(columns, sensor)


def read_npy(path: Path) -> Recorded:
    """An array (M, 4) with the columns x, y, p, t in milliseconds: how Tonic keeps DVS-Gesture."""
    try:
        array = _array(path.read_bytes())
    except Exception as error:  # whatever numpy raises for a damaged header: named, not hidden
        raise UsageError(f"{path}: no array of events: {error}") from error
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        rule = "must be numbers (M, 4) with columns x, y, p, t"
        raise UsageError(f"{path}: {rule}, got {array.dtype} {array.shape}")
    x, y, p, milliseconds = array.T
    strange = ~((milliseconds >= 0) & (milliseconds < _LATEST_MS))
    if strange.any():
        index = int(strange.argmax())
        rule = f"must be in 0..{_LATEST_MS:.0e}"
        raise UsageError(f"{path}: t[{index}] = {milliseconds[index]} ms {rule}")
    if milliseconds.dtype.kind == "f":
        # Half a microsecond is what decimal fractions lose in binary, and less than any camera
        # tells apart.
        t = np.rint(milliseconds.astype(np.float64) * 1000).astype(np.int64)
    else:
        t = milliseconds.astype(np.int64) * 1000
    return Recorded({"t": t, "x": x, "y": y, "p": p}, DVS128)


def _csv_header(line: str) -> tuple[list[int], Size | None]:
    """The places of t, x, y and p, and (height, width) where x and y say theirs."""
    parts = [field.strip().lower().partition("@") for field in line.split(",")]
    names = ["p" if name in ("on", "polarity") else name for name, _, _ in parts]
    if any(names.count(name) != 1 for name in _COLUMNS):
        rule = "the first line must name t, x, y and p (or on, or polarity) once each"
        raise UsageError(f"{rule}, got {line[:60]!r}")
    width, height = (parts[names.index(name)][2] for name in ("x", "y"))
    said = width.isdecimal() and height.isdecimal()
    return [names.index(name) for name in _COLUMNS], (int(height), int(width)) if said else None


def read_csv(path: Path) -> Recorded:
    """A table with commas: the first line names t (us), x, y and p (0 or 1) in any order.

    p may be called on or polarity. The size is what the first line says as faery writes it
    (`t,x@34,y@24,on`: 34 wide, 24 high). faery would read this too, but it holds the clock where a
    time steps back and does not look at the size.
    """
    try:
        with path.open(encoding="utf-8") as file, warnings.catch_warnings():
            wanted, said = _csv_header(file.readline(_LONGEST_HEADER))
            warnings.simplefilter("ignore", UserWarning)  # "no data" is refused below, by name
            warnings.simplefilter("error", DeprecationWarning)  # an older numpy cuts 1.5 to 1
            table = np.loadtxt(
                file, np.int64, delimiter=",", usecols=wanted, ndmin=2, comments=None
            )
    except (ValueError, OverflowError, DeprecationWarning) as error:
        raise UsageError(f"{path}: no table of events: {error}") from error
    columns = dict(zip(_COLUMNS, table.reshape(-1, 4).T, strict=True))
    return Recorded(columns, said)

"""Events in plain columns: `.npz` with t, x, y, p, the `.npy` files of Tonic's DVS-Gesture, and
`.csv`.
"""

from __future__ import annotations

import io
import math
import os
import tokenize
import warnings
import zipfile
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.aedat import DVS128
from anystep.data.readers.source import Size, checked, largest_unpacked, regular_file
from anystep.data.recording import Events

_COLUMNS = ("t", "x", "y", "p")
_NOTHING = {name: np.empty(0, np.int64) for name in _COLUMNS}
_LONGEST_HEADER = 4096
_LATEST_MS = 1e15  # 30,000 years
_BROKEN = (
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    OverflowError,
    RecursionError,
    tokenize.TokenError,
)
_BROKEN_ZIP = (*_BROKEN, zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, OSError)


def read_npz(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """An archive of the columns t (us), x, y, p, as SpikingJelly keeps them in `events_np`; other
    arrays are not looked at.

    The size is `sensor`, or else the archive's own array `sensor` (height, width); an archive
    without one does not say how large its camera was, so it must be given. ValueError: no such
    archive, a missing or damaged column, columns that unpack to more than a hundred times the file,
    and what `Events` refuses.
    """
    place = regular_file(path)
    try:
        with zipfile.ZipFile(place) as archive:
            names = set(archive.namelist())
            missing = [name for name in _COLUMNS if f"{name}.npy" not in names]
            if missing:
                raise UsageError(f"no array {', '.join(missing)}; must have t, x, y, p")
            read = [
                info
                for info in archive.infolist()
                if info.filename.removesuffix(".npy") in (*_COLUMNS, "sensor")
            ]
            unpacked, packed = sum(info.file_size for info in read), place.stat().st_size
            if unpacked > largest_unpacked(packed):
                raise UsageError(f"{packed} bytes that unpack to {unpacked} are no recording")
            columns = {name: _member(archive, name) for name in _COLUMNS}
            size = sensor or (_stored_sensor(archive) if "sensor.npy" in names else None)
    except _BROKEN_ZIP as error:
        raise UsageError(f"{place}: no archive of events: {error}") from error
    if size is None:
        raise UsageError(
            f"{place}: an .npz does not say how large the camera was: pass sensor=(height, width)"
        )
    return checked(place, columns, size, sort=sort)


def read_npy(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """An array (M, 4) with the columns x, y, p, t in milliseconds: how Tonic keeps DVS-Gesture.
    Times become us.

    `sensor` is (128, 128) when it is not given. ValueError: a damaged file, another shape, and what
    `Events` refuses.
    """
    place = regular_file(path)
    try:
        with place.open("rb") as file:
            array = _array(file, place.stat().st_size)
    except _BROKEN as error:
        raise UsageError(f"{place}: no array of events: {error}") from error
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        raise UsageError(
            f"{place}: must be numbers (M, 4) with columns x, y, p, t, got {array.dtype} {array.shape}"
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


def read_csv(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """A table with commas: the first line names t (us), x, y and p (or on, or polarity: 0 or 1) in
    any order.

    The size is `sensor`, or else what the header says as faery writes it (`t,x@34,y@24,on`: 34
    wide, 24 high). ValueError: a header without one of the names, a row that is no whole numbers,
    no size, and what `Events` refuses. (faery would read this too, but it holds the clock where a
    time steps back and does not look at the size.)
    """
    place = regular_file(path)
    try:
        with place.open(encoding="utf-8", newline=None) as file:
            names, said = _csv_header(file.readline(_LONGEST_HEADER))
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # "no data" is refused below, by the name of the file
                warnings.simplefilter("error", DeprecationWarning)  # an older numpy cuts 1.5 to 1
                wanted = [names.index(name) for name in _COLUMNS]
                table = np.loadtxt(
                    file, np.int64, delimiter=",", usecols=wanted, ndmin=2, comments=None
                )
    except (*_BROKEN, DeprecationWarning) as error:
        raise UsageError(f"{place}: no table of events: {error}") from error
    size = sensor or said
    if size is None:
        raise UsageError(
            f"{place}: the header does not say how large the camera was: pass sensor=(height, width)"
        )
    return checked(
        place,
        dict(zip(_COLUMNS, table.T, strict=True)) if table.size else _NOTHING,
        size,
        sort=sort,
    )


def _csv_header(line: str) -> tuple[list[str], Size | None]:
    """The names of the columns, and (height, width) where x and y say theirs."""
    parts = [field.strip().partition("@") for field in line.split(",")]
    names = ["p" if name.lower() in ("on", "polarity") else name.lower() for name, _, _ in parts]
    missing = [name for name in _COLUMNS if names.count(name) != 1]
    if missing:
        raise UsageError(
            f"the first line must name t, x, y and p (or on, or polarity) once each, got {line[:60]!r}"
        )
    said = {name: size for name, (_, _, size) in zip(names, parts, strict=True)}
    if not all(
        said[name].isascii() and said[name].isdigit() and len(said[name]) < 6 for name in ("x", "y")
    ):
        return names, None
    return names, (int(said["y"]), int(said["x"]))


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array of an archive."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UsageError(f"array {name} is compressed in a way that numpy does not use")
    with archive.open(info) as file:
        return _array(file, info.file_size)


def _stored_sensor(archive: zipfile.ZipFile) -> Size:
    """The array `sensor` of an archive."""
    array = _member(archive, "sensor")
    if array.shape != (2,) or array.dtype.kind not in "iu":
        raise UsageError(
            f"array sensor must be two whole numbers (height, width), got {array.dtype} {array.shape}"
        )
    return int(array[0]), int(array[1])


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a .npy stream of `size` bytes. The header must agree with the size before memory
    is taken for it.
    """
    data = file.read(size)
    head = io.BytesIO(data)
    version = np.lib.format.read_magic(head)
    if version not in ((1, 0), (2, 0)):
        raise UsageError(f".npy version {version} is not (1, 0) or (2, 0)")
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, column_major, dtype = read_header(head)
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise UsageError(f"an array of {dtype} {shape} holds no numbers")
    claimed, there = math.prod(shape) * dtype.itemsize, len(data) - head.tell()
    if claimed != there:
        raise UsageError(
            f"the header claims {claimed} bytes for {dtype} {shape}, {there} are there"
        )
    return np.frombuffer(data, dtype, offset=head.tell()).reshape(
        shape, order="F" if column_major else "C"
    )

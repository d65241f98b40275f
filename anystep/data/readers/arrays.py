"""Events in arrays of numpy: `.npz` with columns, `.npy` with fields or as Tonic's DVS-Gesture."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.aedat import DVS128
from anystep.data.readers.columns import ANY_NAME, columns_of, microseconds
from anystep.data.readers.source import Recorded, largest_unpacked


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


def arrays_in(path: Path, wanted: Collection[str], *, least: int = 2**24) -> dict[str, Any]:
    """The arrays of an .npz archive that have one of these names.

    Nothing is unpacked that would take more than a hundred times the size of the file, or `least`
    bytes if that is more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            there = [name for name in infos if name in wanted]
            unpacked = sum(infos[name].file_size for name in there)
            if unpacked > largest_unpacked(path, least):
                raise UsageError(f"{unpacked} bytes are too much for so small a file")
            return {name: _array(archive.read(infos[name])) for name in there}
    except Exception as error:  # whatever zipfile and numpy raise for a damaged file: named
        raise UsageError(f"{path}: no archive of arrays: {error}") from error


def read_npz(path: Path) -> Recorded:
    """An archive of the columns t (us), x, y, p, as SpikingJelly keeps them in `events_np`, and
    perhaps an array `sensor` (height, width).
    """
    arrays = arrays_in(path, {*ANY_NAME, "sensor"})
    try:
        height, width = arrays.pop("sensor", (0, 0))
        columns = columns_of(arrays)
        sensor = (int(height), int(width)) if height else None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: no archive of events: {error}") from error
    return Recorded(columns, sensor)


def _tonic(array: NDArray[Any]) -> Recorded:
    """Numbers (M, 4) with the columns x, y, p, t in milliseconds."""
    rule = "must be numbers (M, 4) with columns x, y, p, t in ms, as Tonic keeps DVS-Gesture"
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        raise UsageError(f"{rule}, got {array.dtype} {array.shape}")
    x, y, p, milliseconds = array.T
    if not np.isin(p, (-1, 0, 1)).all():
        hint = "save columns of another order or unit as an .npz with t (us), x, y and p"
        raise UsageError(f"{rule}; its third column is not 0 or 1: {hint}")
    return Recorded({"t": microseconds(milliseconds, "t_ms"), "x": x, "y": y, "p": p}, DVS128)


def read_npy(path: Path) -> Recorded:
    """A structured array with fields t (us), x, y and p; or numbers (M, 4) with the columns x, y,
    p, t in milliseconds, how Tonic keeps DVS-Gesture.
    """
    try:
        array = _array(path.read_bytes())
        if array.dtype.names is None:
            return _tonic(array)
        return Recorded(columns_of({name: array[name] for name in array.dtype.names}), None)
    except Exception as error:  # whatever numpy raises for a damaged header: named, not hidden
        raise UsageError(f"{path}: no array of events: {error}") from error

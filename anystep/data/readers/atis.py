"""The 40-bit events of N-MNIST and N-Caltech101 (`.bin`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anystep._errors import UsageError
from anystep.data.readers.source import Recorded, Size, whole_records

NMNIST: Size = (34, 34)

_OVERFLOW_ROW = 240
_OVERFLOW_US = 8192


def read_bin(path: Path) -> Recorded:
    """5-byte events: x, y, and a big-endian word of p (bit 23) and the time in us (bits 22..0).

    An event with y == 240 is no event: it and all after it are 8192 us later than their own time
    says. The sensor is that of N-MNIST; recordings of N-Caltech101 differ in size and fit into
    (180, 240).

    Orchard et al. 2015, doi:10.3389/fnins.2015.00437, and the loaders published with the data sets.
    """
    data = np.fromfile(path, dtype=np.uint8)
    count = whole_records(path, data, start=0, size=5)
    marks = np.flatnonzero(data[1::5] == _OVERFLOW_ROW)
    # Events before the first mark, between the first and the second, ...
    late = np.diff(marks, prepend=-1, append=count) - 1
    if len(marks):
        data = data.view("V5")[data[1::5] != _OVERFLOW_ROW].view(np.uint8)
        count -= len(marks)
    if count == 0:
        raise UsageError(f"{path}: holds no events")
    # One load an event: y in the highest byte, below it the polarity and the time.
    word = np.ndarray((count,), dtype=">u4", buffer=data, offset=1, strides=(5,)).astype(np.uint32)
    x, y = data[::5].astype(np.int16), (word >> np.uint32(24)).astype(np.int16)
    t = (word & np.uint32(0x7FFFFF)).astype(np.int64)
    p = (word >> np.uint32(23)).astype(np.uint8) & np.uint8(1)
    if len(marks):
        t += np.repeat(np.arange(len(late)) * _OVERFLOW_US, late)
    return Recorded({"t": t, "x": x, "y": y, "p": p}, NMNIST)

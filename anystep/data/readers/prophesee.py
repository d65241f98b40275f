"""Files of Prophesee: `.raw` (EVT2, EVT3) and `.dat`.

`%` lines, then little-endian words. Times are as the words say them: one that steps back is there
to be refused or put in order.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.source import (
    Columns,
    Recorded,
    Size,
    header_lines,
    whole_records,
)

Words = NDArray[Any]
Whole = NDArray[np.int64]

# `% system_ID` of cameras whose files say no size (Prophesee's openeb, psee_raw_file_header.cpp).
_SYSTEMS: dict[Size, tuple[int, ...]] = {
    (480, 640): (21, 23, 25, 28, 29, 33, 34, 35, 40, 41),
    (720, 1280): (26, 30, 31, 39, 46, 48, 49, 50),
}
_CONTRAST = (0, 12)  # types of events in a .dat
_DAT_BITS = {b"1": (9, 8), b"2": (14, 14)}  # by version: bits of x, then of y, then 4 of p


def _header(path: Path, data: bytes, version: bytes, example: str) -> tuple[bytes, bytes, int]:
    """The `%` lines in one, the version that a pattern finds in them, and the byte after them."""
    lines, start = header_lines(path, data, b"%", b"% end")
    head = b"\n".join(lines)
    found = re.search(version, head, re.IGNORECASE)
    if not found:
        raise UsageError(f"{path}: the header does not say its version (`{example}`)")
    return head, found[1], start


def _sensor(head: bytes) -> Size | None:
    """(height, width) if the header says it, or a camera whose size is known."""
    if found := re.search(rb"% *geometry +([0-9]{1,5})x([0-9]{1,5})", head):
        return int(found[2]), int(found[1])
    height, width = (
        re.search(rb"\b%b[ =]+([0-9]{1,5})\b" % side, head, re.IGNORECASE)
        for side in (b"height", b"width")
    )
    if height and width:
        return int(height[1]), int(width[1])
    system = re.search(rb"% *system_ID +([0-9]{1,5})\b", head)
    number = int(system[1]) if system else -1
    return next((size for size, known in _SYSTEMS.items() if number in known), None)


def _last(which: NDArray[np.bool_]) -> Whole:
    """Of every word the place of the last marked one, itself included; -1 before the first."""
    return np.maximum.accumulate(np.where(which, np.arange(len(which)), -1))


def _turns(counts: Whole, bits: int) -> Whole:
    """Counts of so many bits, without their falls back to zero."""
    falls = np.diff(counts, prepend=counts[:1]) < -(1 << bits - 1)
    return counts + (np.cumsum(falls) << bits)


def _evt2(words: Words) -> Columns:
    """Bits of a word: 31..28 kind; of an event (kind 0 or 1, its polarity) 27..22 time, 21..11 x,
    10..0 y; of kind 8 27..0 the time above these 6 bits. Events before the first time are left out.
    """
    kind = words >> 28
    at = _last(kind == 8)
    highs = np.zeros(len(words), np.int64)
    highs[kind == 8] = _turns((words[kind == 8] & 0xFFFFFFF).astype(np.int64), 28)
    events = (kind < 2) & (at >= 0)
    w = words[events]
    return {
        "t": (highs[at[events]] << 6) + (w >> 22 & 63),
        "x": (w >> 11 & 0x7FF).astype(np.int16),
        "y": (w & 0x7FF).astype(np.int16),
        "p": (w >> 28).astype(np.uint8),
    }


def _later(columns: Columns, head: bytes) -> Columns:
    """On the clock that faery writes beside the events, if it did."""
    start = re.search(rb"% *t0 +([0-9]{1,18})\b", head, re.IGNORECASE)
    return {**columns, "t": columns["t"] + int(start[1])} if start else columns


def read_raw(path: Path) -> Recorded:
    """Prophesee `.raw` in EVT2 or EVT3, whichever the header says; it is not guessed."""
    data = path.read_bytes()
    pattern = rb"% *(?:evt +|format +EVT)([0-9.]+)"
    head, version, start = _header(path, data, pattern, "% evt 3.0` or `% format EVT3")
    if version not in (b"2", b"2.0", b"3", b"3.0"):
        raise UsageError(f"{path}: must be EVT2 or EVT3, the header says {version.decode()}")
    kind = np.dtype("<u4" if version[:1] == b"2" else "<u2")
    whole_records(path, data, start=start, size=kind.itemsize)
    words = np.frombuffer(data, kind, offset=start)
    if version[:1] == b"2":
        columns = _evt2(words)
    else:
        from anystep.data.readers.evt3 import decode_evt3

        columns = decode_evt3(words)
    return Recorded(_later(columns, head), _sensor(head))


def read_dat(path: Path) -> Recorded:
    """Prophesee `.dat`: contrast events of version 1 or 2, such as N-Cars.

    Two bytes, type and size (8), then pairs of a time in us and a word of x, y and p.
    """
    data = path.read_bytes()
    head, version, start = _header(path, data, rb"% *Version +([0-9]+)", "% Version 2")
    x_bits, y_bits = _DAT_BITS.get(version, (0, 0))
    kind, size = (*data[start : start + 2], 0, 0)[:2]
    if not x_bits or kind not in _CONTRAST or size != 8:
        claim = f"version {version.decode()}, type {kind}, {size} bytes an event"
        raise UsageError(f"{path}: must hold contrast events of version 1 or 2, got {claim}")
    whole_records(path, data, start=start + 2, size=8)
    pairs = np.frombuffer(data, "<u4", offset=start + 2).reshape(-1, 2)
    word = pairs[:, 1]
    columns: Columns = {
        "t": _turns(pairs[:, 0].astype(np.int64), 32),
        "x": (word & (1 << x_bits) - 1).astype(np.int16),
        "y": (word >> x_bits & (1 << y_bits) - 1).astype(np.int16),
        "p": (word >> x_bits + y_bits & 15).astype(np.uint8),
    }
    return Recorded(_later(columns, head), _sensor(head))

"""Writers of event files for tests: slow loops from the description of each format, sharing nothing with the readers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from anystep.data.events import Events

Row = tuple[int, int, int, int]  # t in us, x, y, p


def bin_bytes(rows: Iterable[Row]) -> bytes:
    """40-bit events. Times from 2^23 us on need overflow marks: one for every 8192 us, before the event."""
    out, carried = bytearray(), 0
    for t, x, y, p in rows:
        while t - carried >= 1 << 23:
            out += bytes([0, 240, 0, 0, 0])
            carried += 8192
        left = t - carried
        out += bytes([x, y, (p << 7) | (left >> 16), (left >> 8) & 255, left & 255])
    return bytes(out)


def aedat2_bytes(rows: Iterable[Row], *, order: str = ">", header: bytes = b"#!AER-DAT2.0\r\n# made by hand\r\n") -> bytes:
    """AEDAT 2.0 of a DVS128 as CIFAR10-DVS has it: the upright picture is the raw one with x and y mirrored and swapped."""
    out = bytearray(header)
    for t, x, y, p in rows:
        row, column, bit = 127 - x, 127 - y, 1 - p
        out += struct.pack(f"{order}II", row * 256 + column * 2 + bit, t)
    return bytes(out)


AEDAT3_HEADER = (
    b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2017-01-01 00:00:00 (TZ+0000)\r\n#!END-HEADER\r\n"
)


def aedat3_packet(rows: Iterable[Row], *, kind: int = 1, overflow: int = 0, number: int | None = None, valid: int = 1) -> bytes:
    """One packet of polarity events; times are those inside the packet."""
    events = b"".join(struct.pack("<Ii", x * 2**17 + y * 4 + p * 2 + valid, t) for t, x, y, p in rows)
    count = len(events) // 8 if number is None else number
    return struct.pack("<HHIIIIII", kind, 1, 8, 4, overflow, count, count, count) + events


def evt2_bytes(rows: Iterable[Row], *, header: bytes = b"% evt 2.0\n% geometry 64x48\n% end\n") -> bytes:
    """Prophesee EVT2: 32-bit words, the time above its 6 low bits in words of type 8."""
    out, high = bytearray(header), None
    for t, x, y, p in rows:
        if t >> 6 != high:
            high = t >> 6
            out += struct.pack("<I", (8 << 28) | high)
        out += struct.pack("<I", (p << 28) | ((t & 63) << 22) | (x << 11) | y)
    return bytes(out)


def evt3_bytes(rows: Iterable[Row], *, header: bytes = b"% evt 3.0\n% geometry 64x48\n% end\n") -> bytes:
    """Prophesee EVT3: 16-bit words for the high and the low 12 bits of the time, the row, and the column."""
    out = bytearray(header)
    for t, x, y, p in rows:
        out += struct.pack("<HHHH", 0x8000 | (t >> 12), 0x6000 | (t & 0xFFF), y, 0x2000 | (p << 11) | x)
    return bytes(out)


def dat_bytes(rows: Iterable[Row], *, header: bytes = b"% Version 2\n% Width 64\n% Height 48\n") -> bytes:
    """Prophesee .dat with contrast events (type 12, 8 bytes)."""
    out = bytearray(header + b"\x0c\x08")
    for t, x, y, p in rows:
        out += struct.pack("<II", t, x | (y << 14) | (p << 28))
    return bytes(out)


def put(folder: Path, name: str, content: bytes) -> Path:
    """A file with that content."""
    path = folder / name
    path.write_bytes(content)
    return path


def rows_of(events: Events) -> list[tuple[int, ...]]:
    """(t, x, y, p) of every event."""
    return list(zip(*(column.tolist() for column in (events.t, events.x, events.y, events.p)), strict=True))


def random_rows(count: int, side: int, last: int, seed: int = 0) -> list[Row]:
    """Events in time order on a square sensor."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, last, count))
    return [tuple(row) for row in np.column_stack([t, *rng.integers(0, side, (2, count)), rng.integers(0, 2, count)]).tolist()]

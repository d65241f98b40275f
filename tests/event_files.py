"""Writers of event files for tests: slow loops from the description of each format, sharing nothing
with the readers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from anystep.data.recording import Events

Row = tuple[int, int, int, int]  # t in us, x, y, p
BY_HAND: list[Row] = [
    *((0, 0, 0, 1), (3, 33, 5, 0), (3, 7, 33, 1)),
    *((4096, 1, 2, 0), (70_000, 30, 31, 1), (1_000_000, 6, 7, 0)),
]


def bin_bytes(rows: Iterable[Row]) -> bytes:
    """40-bit events. Times from 2^23 us on need overflow marks: one for every 8192 us, before the
    event.
    """
    out, carried = bytearray(), 0
    for t, x, y, p in rows:
        while t - carried >= 1 << 23:
            out += bytes([0, 240, 0, 0, 0])
            carried += 8192
        left = t - carried
        out += bytes([x, y, (p << 7) | (left >> 16), (left >> 8) & 255, left & 255])
    return bytes(out)


def aedat2_bytes(
    rows: Iterable[Row],
    *,
    order: str = ">",
    header: bytes = b"#!AER-DAT2.0\r\n# made by hand\r\n",
    address: str = "I",
) -> bytes:
    """AEDAT of a DVS128: columns count from the right, rows from below, 0 is brighter.

    address: I in version 2.0, H in 1.0.
    """
    out = bytearray(header)
    for t, x, y, p in rows:
        row, column, bit = 127 - y, 127 - x, 1 - p
        out += struct.pack(f"{order}{address}I", row * 256 + column * 2 + bit, t)
    return bytes(out)


def cifar10_dvs_bytes(rows: Iterable[Row]) -> bytes:
    """As SpikingJelly reads them: x and y of the DVS128's picture are exchanged."""
    return aedat2_bytes([(t, y, x, p) for t, x, y, p in rows])


CHIP = b"# AEChip: eu.seebetter.ini.chips.davis.%b\r\n"


def davis_bytes(
    rows: Iterable[Row], *, chip: bytes = b"DAVIS240C", size: tuple[int, int] = (180, 240)
) -> bytes:
    """AEDAT 2.0 of a DAVIS: columns count from the right, rows from below, 1 is brighter. Before
    each event come a sample of a frame, one of the motion sensor, and a special event.
    """
    out = bytearray(b"#!AER-DAT2.0\r\n" + (CHIP % chip if chip else b""))
    for t, x, y, p in rows:
        word = (size[0] - 1 - y) << 22 | (size[1] - 1 - x) << 12 | p << 11
        for other in (
            1 << 31 | word | 1 << 10 | 77,
            1 << 31 | word & ~(1 << 11) | 3,
            word | 1 << 10,
        ):
            out += struct.pack(">II", other, t)
        out += struct.pack(">II", word, t)
    return bytes(out)


AEDAT3_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n"
AEDAT3_HEADER += b"#Start-Time: 2017-01-01 00:00:00 (TZ+0000)\r\n#!END-HEADER\r\n"


def aedat3_packet(
    rows: Iterable[Row], *, kind: int = 1, number: int | None = None, valid: int = 1
) -> bytes:
    """One packet of polarity events; `number` claims another count."""
    events = b"".join(
        struct.pack("<Ii", x * 2**17 + y * 4 + p * 2 + valid, t) for t, x, y, p in rows
    )
    count = len(events) // 8 if number is None else number
    return struct.pack("<HHIIIIII", kind, 1, 8, 4, 0, count, count, count) + events


def evt2_bytes(
    rows: Iterable[Row], *, header: bytes = b"% evt 2.0\n% geometry 64x48\n% end\n"
) -> bytes:
    """Prophesee EVT2: 32-bit words, the time above its 6 low bits in words of type 8."""
    out, high = bytearray(header), None
    for t, x, y, p in rows:
        if t >> 6 != high:
            high = t >> 6
            out += struct.pack("<I", (8 << 28) | high)
        out += struct.pack("<I", (p << 28) | ((t & 63) << 22) | (x << 11) | y)
    return bytes(out)


EVT3_HEADER = b"% evt 3.0\n% geometry 64x48\n% end\n"


def evt3_bytes(rows: Iterable[Row], *, header: bytes = EVT3_HEADER) -> bytes:
    """Prophesee EVT3: 16-bit words for the high and the low 12 bits of the time, the row, and the
    column. The high ones start at 0 again every 2^24 us.
    """
    out = bytearray(header)
    for t, x, y, p in rows:
        high = t >> 12 & 0xFFF
        out += struct.pack("<HHHH", 0x8000 | high, 0x6000 | (t & 0xFFF), y, 0x2000 | (p << 11) | x)
    return bytes(out)


def evt3_vectors(rows: Iterable[Row], *, header: bytes = EVT3_HEADER) -> bytes:
    """The same, and as cameras do, neighbours in one word where time, row and polarity are the
    same: a base, then vectors of 12, 12 and 8 pixels. What did not change is not said again.
    """
    out, before = bytearray(header), (-1, -1, -1)
    groups = groupby(rows, key=lambda row: (row[0], row[2], row[3], row[1] // 32))
    for (t, y, p, block), group in groups:
        bits = sum(1 << x % 32 for _, x, _, _ in group)
        now = t >> 12, t & 0xFFF, y
        for kind, value, known in zip((8, 6, 0), now, before, strict=True):
            if value != known:
                out += struct.pack("<H", kind << 12 | value & 0xFFF)
        before = now
        words = 3 << 12 | p << 11 | block * 32, 4 << 12 | bits & 0xFFF
        out += struct.pack("<HHHH", *words, 4 << 12 | bits >> 12 & 0xFFF, 5 << 12 | bits >> 24)
    return bytes(out)


def dat_bytes(
    rows: Iterable[Row],
    *,
    header: bytes = b"% Version 2\n% Width 64\n% Height 48\n",
    kind: int = 12,
) -> bytes:
    """Prophesee .dat with contrast events (type 12, N-Cars 0; 8 bytes)."""
    out = bytearray(header + bytes([kind, 8]))
    for t, x, y, p in rows:
        out += struct.pack("<II", t % 2**32, x | (y << 14) | (p << 28))
    return bytes(out)


def es_bytes(rows: Iterable[Row], *, sensor: tuple[int, int] = (48, 64)) -> bytes:
    """Event Stream 2 with DVS events: 0xFF is 127 us more, else a byte has the wait above the
    polarity; y counts from below.
    """
    out, now = (
        bytearray(b"Event Stream\x02\x00\x00\x01" + struct.pack("<HH", sensor[1], sensor[0])),
        0,
    )
    for t, x, y, p in rows:
        out += b"\xff" * ((t - now) // 127)
        out += struct.pack("<BHH", (t - now) % 127 << 1 | p, x, sensor[0] - 1 - y)
        now = t
    return bytes(out)


def csv_bytes(rows: Iterable[Row], *, header: bytes = b"t,x@64,y@48,on\n") -> bytes:
    """A table with commas."""
    return header + "".join(f"{t},{x},{y},{p}\n" for t, x, y, p in rows).encode()


_DV = b"""<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">
<node name="0" path="/mainloop/Recorder/outInfo/0/"><attr key="compression" type="string">NONE</attr>
<attr key="originalOutputName" type="string">events</attr><attr key="typeIdentifier" type="string">EVTS</attr>
<node name="info" path="/mainloop/Recorder/outInfo/0/info/"><attr key="sizeX" type="int">64</attr>
<attr key="sizeY" type="int">48</attr><attr key="source" type="string">hand</attr></node></node></node></dv>"""  # noqa: E501


def aedat4_bytes(packets: Iterable[bytes], *, compression: int = 0) -> bytes:
    """AEDAT 4 of a 64 x 48 camera: a flatbuffer (compression, place of the data table,
    description), then packets.

    compression: 0 none, 1 LZ4, 3 zstd. The table of fields stands at 8, the root at 20, and the
    text at 40.
    """
    fields = struct.pack("<HHHHH", 10, 20, 4, 8, 16)
    root = struct.pack("<iiqI", 12, compression, -1, 4)
    text = struct.pack("<I", len(_DV)) + _DV + b"\0"
    header = struct.pack("<I", 20) + b"IOHE" + fields + b"\0\0" + root + text
    body = b"".join(struct.pack("<ii", 0, len(packet)) + packet for packet in packets)
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header + body


def aedat4_packet(rows: Iterable[Row], *, number: int | None = None) -> bytes:
    """A size-prefixed flatbuffer: one vector of structs of 16 bytes. `number` claims another
    length, and the size for it.
    """
    events = b"".join(struct.pack("<qhhB3x", t, x, y, p) for t, x, y, p in rows)
    count = len(events) // 16 if number is None else number
    head = struct.pack("<I4s2xHHHiII", 16, b"EVTS", 6, 8, 4, 6, 4, count)
    return struct.pack("<I", len(head) + 16 * count) + head + events


def zstd_frame(start: bytes, zeros: int) -> bytes:
    """A frame (RFC 8878) of `start` and then zeros, 4 bytes for each 128 KiB of them."""
    sizes = [128 * 1024] * (zeros // (128 * 1024)) + [zeros % (128 * 1024)]
    blocks = [(len(start) << 3).to_bytes(3, "little") + start]
    blocks += [(size << 3 | 2).to_bytes(3, "little") + b"\0" for size in sizes[:-1]]
    blocks += [(sizes[-1] << 3 | 3).to_bytes(3, "little") + b"\0"]
    return struct.pack("<I", 0xFD2FB528) + b"\x00\x38" + b"".join(blocks)


def put(folder: Path, name: str, content: bytes) -> Path:
    """A file with that content."""
    path = folder / name
    path.write_bytes(content)
    return path


def rows_of(events: Events) -> list[tuple[int, ...]]:
    """(t, x, y, p) of every event."""
    columns = (events.t, events.x, events.y, events.p)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def random_rows(count: int, side: int, last: int) -> list[Row]:
    """Events in time order on a square sensor."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, last, count))
    columns = [t, *rng.integers(0, side, (2, count)), rng.integers(0, 2, count)]
    return [tuple(row) for row in np.column_stack(columns).tolist()]

"""AEDAT 1.0 and 2.0 (jAER, CIFAR10-DVS) and AEDAT 3.1 (cAER, DVS-Gesture)."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.source import (
    Bytes,
    Columns,
    Recorded,
    Size,
    header_lines,
    whole_records,
)

DVS128: Size = (128, 128)

# The pixels of a camera by how jAER names its class, in small letters, after `# AEChip:`. Davis has
# other words than a DVS128; jAER first called it SBRet.
_DVS128 = re.compile("dvs128|tmpdiff128")
_DAVIS: dict[str, Size] = {"davis240|sbret[12][01]": (180, 240), "davis346": (260, 346)}
_CHIP = re.compile(rb"# ?AEChip: *(?:[\w$]+\.)*([\w$]+)", re.IGNORECASE)
_NAME_IT = "If it is of a DVS128 or a DAVIS, add a line `# AEChip: DVS128` (or DAVIS240C, DAVIS346)"

_POLARITY = 1
_KNOWN_PACKETS = range(14)  # special, polarity, frame, IMU, ... matrix: what cAER writes
# type, source, size, time offset, time overflow, capacity, number, valid
_PACKET = struct.Struct("<hhiiiiii")


def _first_line(path: Path) -> bytes:
    return np.fromfile(path, dtype=np.uint8, count=64).tobytes().partition(b"\n")[0]


def is_aedat(path: Path) -> bool:
    """Whether the first line says so."""
    return _first_line(path).startswith(b"#!AER-DAT")


def version_of(path: Path) -> str:
    """`2.0`, `3.1`, ... from the first line `#!AER-DAT...` of an AEDAT file."""
    line = _first_line(path)
    if not line.startswith(b"#!AER-DAT"):
        rule = "the first line must be like '#!AER-DAT3.1'"
        raise UsageError(f"{path}: no AEDAT file: {rule}, got {line[:24]!r}")
    return line.removeprefix(b"#!AER-DAT").strip().decode("ascii", "replace")


def _body(path: Path, version: str) -> tuple[bytes, list[bytes], int]:
    """All bytes of a file of this version, its `#` lines, and the first byte after them."""
    said = version_of(path)
    if said[:1] != version[:1]:
        raise UsageError(f"{path}: must be AEDAT {version}, the file says {said}")
    data = path.read_bytes()
    last = b"#!end-header" if version[:1] == "3" else b"#end of ascii header"
    return data, *header_lines(path, data, b"#", last)


def _polarity_packets(
    path: Path, data: Bytes, start: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The words and the times of all polarity events."""
    words, times = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    while start < len(data):
        if len(data) - start < _PACKET.size:
            rule = f"the packet at byte {start} has no whole header of {_PACKET.size} bytes"
            raise UsageError(f"{path}: truncated: {rule}")
        kind, _, size, _, overflow, _, number, _ = _PACKET.unpack_from(data.data, start)
        known = kind in _KNOWN_PACKETS and (size == 8 or (kind != _POLARITY and size > 0))
        if not known or number < 0 or overflow < 0:
            claim = f"type {kind}, {number} events of {size} bytes"
            raise UsageError(f"{path}: damaged: no packet at byte {start}: {claim}")
        first, start = start + _PACKET.size, start + _PACKET.size + number * size
        if start > len(data):
            claim = f"the packet at byte {first - _PACKET.size} claims {number} events of {size}"
            rest = len(data) - first
            raise UsageError(f"{path}: truncated: {claim} bytes, {rest} bytes are left")
        if kind == _POLARITY:
            pairs = data[first:start].view("<u4").reshape(-1, 2)
            words.append(pairs[:, 0].astype(np.uint32))
            times.append(pairs[:, 1].astype(np.int32) + np.int64(overflow) * 2**31)
    return np.concatenate(words), np.concatenate(times)


def _words(path: Path, version: str) -> tuple[str, NDArray[np.uint32], NDArray[np.int64], int]:
    """The camera that the header names in small letters ("" if none), all addresses and times, and
    the byte of the first.
    """
    data, lines, start = _body(path, version)
    kind = np.dtype([("address", ">u2" if version == "1.0" else ">u4"), ("t", ">u4")])
    whole_records(path, data, start=start, size=kind.itemsize)
    records = np.frombuffer(data, kind, offset=start)
    named = [found[1] for line in lines if (found := _CHIP.match(line))]
    chip = named[0].decode().lower() if named else ""
    return chip, records["address"].astype(np.uint32), records["t"].astype(np.int64), start


def _dvs128(path: Path, a: NDArray[np.uint32], t: NDArray[np.int64], start: int) -> Recorded:
    """Bits of an address: 15 special, 14..8 row r, 7..1 column c, 0 polarity q (1 is darker).

    Upright, row 0 on top, is x = 127 - c, y = 127 - r: so jAER and libcaer have it.
    """
    if a.max(initial=0) > 0xFFFF:
        index = int((a > 0xFFFF).argmax())
        place = f"event {index} after byte {start} has the address 0x{a[index]:08x}"
        hint = "a DVS128 has 16 bits. The file is damaged, little-endian or from another camera"
        raise UsageError(f"{path}: {place}; {hint}. {_NAME_IT}")
    address = a.astype(np.uint16)
    special = address >= 0x8000  # triggers and marks are no pixels
    if special.any():
        address, t = address[~special], t[~special]
    columns: Columns = {
        "t": t,
        "x": (np.uint16(127) - (address >> np.uint16(1) & np.uint16(127))).view(np.int16),
        "y": (np.uint16(127) - (address >> np.uint16(8))).view(np.int16),
        "p": (~address & np.uint16(1)).astype(np.uint8),
    }
    return Recorded(columns, DVS128)


def _davis(a: NDArray[np.uint32], t: NDArray[np.int64], sensor: Size) -> Recorded:
    """Bits of a word: 31 frame or motion sensor, 30..22 row, 21..12 column, 11 polarity (1 is
    brighter), 10 special. Only brightness events are taken. Row and column count from the lower
    right (jAER's DavisChip).
    """
    events = a & 0x80000400 == 0
    a, t = a[events], t[events]
    columns: Columns = {
        "t": t,
        "x": sensor[1] - 1 - (a >> 12 & 0x3FF).astype(np.int16),
        "y": sensor[0] - 1 - (a >> 22 & 0x1FF).astype(np.int16),
        "p": (a >> 11 & 1).astype(np.uint8),
    }
    return Recorded(columns, sensor)


def _jaer(path: Path, version: str) -> Recorded:
    chip, a, t, start = _words(path, version)
    for pattern, sensor in _DAVIS.items():
        if re.match(pattern, chip) and version != "1.0":
            return _davis(a, t, sensor)
    if chip and not _DVS128.match(chip):
        known = "DVS128, Tmpdiff128, DAVIS240 and DAVIS346"
        raise UsageError(f"{path}: recordings of {chip!r} are not read; of these they are: {known}")
    if not chip and len(a) and a.max() < 0x400:
        rule = "the header names no camera, and only 4 rows of a DVS128 have events: a cochlea's"
        raise UsageError(f"{path}: {rule} addresses are like that. {_NAME_IT}")
    return _dvs128(path, a, t, start)


def read_aedat1(path: Path) -> Recorded:
    """AEDAT 1.0 (jAER until 2008): `#` lines, then big-endian pairs (address u16, time u32 in us)
    of a DVS128 or its predecessor, the Tmpdiff128.
    """
    return _jaer(path, "1.0")


def read_aedat2(path: Path) -> Recorded:
    """AEDAT 2.0 (jAER): `#` lines, then big-endian pairs (address u32, time u32 in us) of the
    camera that the line `# AEChip:` names: DVS128, DAVIS240 or DAVIS346. Without it, of a DVS128.
    """
    return _jaer(path, "2.0")


def read_cifar10_dvs(path: Path) -> Recorded:
    """The AEDAT 2.0 files of CIFAR10-DVS, turned as SpikingJelly turns them.

    With row r, column c and lowest bit q of an address: x = 127 - r, y = 127 - c, p = 1 - q. That
    is the picture of jAER with x and y exchanged. The authors' dat2mat.m has x = 127 - c, y = r and
    the same polarity.
    """
    _, a, t, start = _words(path, "2.0")
    found = _dvs128(path, a, t, start)
    x, y = found.columns["x"], found.columns["y"]
    return Recorded({**found.columns, "x": y, "y": x}, DVS128)


def read_aedat3(path: Path) -> Recorded:
    """AEDAT 3.1: `#` lines up to `#!END-HEADER`, then little-endian packets.

    A packet is a header of 28 bytes (type, source, event size, time offset, time overflow,
    capacity, number, valid) and `number` events. In polarity packets (type 1) an event is a word
    (bit 0 valid, bit 1 polarity, bits 2..16 row, bits 17..31 column) and a time t, which stands for
    t + overflow * 2^31 us. Other packets and events marked as not valid are left out. Coordinates
    are taken as they are, as SpikingJelly and Tonic do.
    """
    data, _, start = _body(path, "3.1")
    words, times = _polarity_packets(path, np.frombuffer(data, np.uint8), start)
    valid = (words & np.uint32(1)).astype(bool)
    if not valid.all():
        words, times = words[valid], times[valid]
    columns: Columns = {
        "t": times,
        "x": (words >> np.uint32(17)).astype(np.int16),
        "y": (words >> np.uint32(2) & np.uint32(0x7FFF)).astype(np.int16),
        "p": (words >> np.uint32(1) & np.uint32(1)).astype(np.uint8),
    }
    return Recorded(columns, DVS128)

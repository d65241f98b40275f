"""AEDAT 2.0 (jAER, CIFAR10-DVS) and AEDAT 3.1 (cAER, DVS-Gesture)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.source import Columns, Recorded, Size, whole_records

DVS128: Size = (128, 128)

_POLARITY = 1
_KNOWN_PACKETS = range(14)  # special, polarity, frame, IMU, ... matrix: what cAER writes
# type, source, size, time offset, time overflow, capacity, number, valid
_PACKET = struct.Struct("<hhiiiiii")


def version_of(path: Path) -> str:
    """`2.0`, `3.1`, ... from the first line `#!AER-DAT...` of an AEDAT file."""
    line = np.fromfile(path, dtype=np.uint8, count=64).tobytes().partition(b"\n")[0]
    if not line.startswith(b"#!AER-DAT"):
        rule = "the first line must be like '#!AER-DAT3.1'"
        raise UsageError(f"{path}: no AEDAT file: {rule}, got {line[:24]!r}")
    return line.removeprefix(b"#!AER-DAT").strip().decode("ascii", "replace")


def _body(path: Path, version: str) -> tuple[NDArray[np.uint8], int]:
    """The bytes of a file of this version, and the first one after its `#` lines.

    No event or packet starts with `#`.
    """
    said = version_of(path)
    if said[:1] != version[:1]:
        raise UsageError(f"{path}: must be AEDAT {version}, the file says {said}")
    data, start = np.fromfile(path, dtype=np.uint8), 0
    raw = data.data
    while start < len(raw) and raw[start] == ord("#"):
        # A line of text is short; without the limit a damaged file would be searched to its end.
        line = bytes(raw[start : start + 4096])
        end = line.find(b"\n")
        if end < 0:
            raise UsageError(f"{path}: truncated: the header line at byte {start} has no end")
        start += end + 1
    return data, start


def _polarity_packets(
    path: Path, data: NDArray[np.uint8], start: int
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


def read_aedat2(path: Path) -> Recorded:
    """AEDAT 2.0 of a DVS128: `#` lines, then big-endian pairs (address u32, time u32 in us).

    Bits of an address a: 15 special, 14..8 row r, 7..1 column c, 0 polarity bit q. Special events
    (triggers, marks) are no pixels and are left out. The picture is turned upright as
    SpikingJelly's CIFAR10-DVS loader does, so frames agree with it: x = 127 - r, y = 127 - c,
    p = 1 - q (q = 1 is darker in these files). The authors' dat2mat.m has x = 127 - c, y = r and
    the same polarity.
    """
    data, start = _body(path, "2.0")
    whole_records(path, data, start=start, size=8)
    pairs = data[start:].view(">u4").reshape(-1, 2)
    wide = pairs[:, 0].astype(np.uint32)
    if (wide > 0xFFFF).any():
        index = int((wide > 0xFFFF).argmax())
        place = f"event {index} at byte {start + 8 * index} has the address 0x{wide[index]:08x}"
        hint = "a DVS128 has 16 bits. The file is damaged, little-endian or from another camera"
        raise UsageError(f"{path}: {place}; {hint}")
    address, t = wide.astype(np.uint16), pairs[:, 1].astype(np.int64)
    special = address >= 0x8000
    if special.any():
        address, t = address[~special], t[~special]
    columns: Columns = {
        "t": t,
        "x": (np.uint16(127) - (address >> np.uint16(8))).view(np.int16),
        "y": (np.uint16(127) - (address >> np.uint16(1) & np.uint16(127))).view(np.int16),
        "p": (~address & np.uint16(1)).astype(np.uint8),
    }
    return Recorded(columns, DVS128)


def read_aedat3(path: Path) -> Recorded:
    """AEDAT 3.1: `#` lines up to `#!END-HEADER`, then little-endian packets.

    A packet is a header of 28 bytes (type, source, event size, time offset, time overflow,
    capacity, number, valid) and `number` events. In polarity packets (type 1) an event is a word
    (bit 0 valid, bit 1 polarity, bits 2..16 row, bits 17..31 column) and a time t, which stands for
    t + overflow * 2^31 us. Other packets and events marked as not valid are left out. Coordinates
    are taken as they are, as SpikingJelly and Tonic do.
    """
    words, times = _polarity_packets(path, *_body(path, "3.1"))
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

"""Files of other camera makers, read by faery: `.aedat4` and `.es`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep.data.readers.source import Recorded, largest_unpacked

# (width, height) that faery returns when a file names no size; no camera has it.
_NOT_SAID = (32766, 32765)
_ZSTD_CODES = (3, 4)  # in the header of an AEDAT 4 file
_ZSTD_FRAME, _SKIPPED_FRAMES = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK = 128 * 1024


def _small(place: NDArray[np.uint16]) -> NDArray[Any]:
    """Coordinates as int16; where one does not fit, as they are, and `Events` names it."""
    return place.astype(np.int16) if place.max(initial=0) <= np.iinfo(np.int16).max else place


def _read(path: Path, kind: str) -> Recorded:
    """All events of a file that faery reads."""
    faery = need("faery", extra="events", purpose=f"reading {path.suffix or kind} files")
    packets, room = [], largest_unpacked(path)
    try:
        stream = faery.events_stream_from_file(path, dimensions_fallback=_NOT_SAID, file_type=kind)
        width, height = stream.dimensions()
        for packet in stream:
            packets.append(packet)
            room -= packet.nbytes
            if room < 0:
                raise UsageError("its events are too many for so small a file")
    except BaseException as error:
        # A panic inside faery is no Exception. Whoever interrupts the program still can.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise UsageError(f"{path}: faery cannot read it: {error}") from error
        raise
    if not packets:
        raise UsageError(f"{path}: holds no events")
    events = np.concatenate(packets)
    columns = {
        "t": events["t"].astype(np.int64),
        "x": _small(events["x"]),
        "y": _small(events["y"]),
        "p": events["on"].astype(np.uint8),
    }
    return Recorded(columns, None if (width, height) == _NOT_SAID else (height, width))


def _unpacked_zstd(packet: memoryview) -> int:
    """The most bytes that frames of Zstandard unpack to: 128 KiB a block (RFC 8878, section 3.1).

    A block has three bytes of last (1 bit), kind (2) and size (21), then that many bytes, or one of
    kind 1, which is repeated. IndexError and struct.error: the packet is cut.
    """
    at, blocks = 0, 0
    while at < len(packet):
        magic, size = struct.unpack_from("<II", packet, at)
        if magic in _SKIPPED_FRAMES:
            at += 8 + size
            continue
        if magic != _ZSTD_FRAME:
            raise UsageError("it is no frame of Zstandard")
        descriptor = packet[at + 4]
        alone = descriptor >> 5 & 1
        at += 6 - alone + (0, 1, 2, 4)[descriptor & 3] + (alone, 2, 4, 8)[descriptor >> 6]
        last = 0
        while not last:
            head = packet[at] | packet[at + 1] << 8 | packet[at + 2] << 16
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            at += 3 + (1 if kind == 1 else size)
            blocks += 1
        at += 4 * (descriptor >> 2 & 1)
    return blocks * _ZSTD_BLOCK


def _check_aedat4(path: Path) -> None:
    """Refuse a header or a packet that claims more memory than its file is worth.

    faery takes the memory that a file claims, and the program ends if there is not so much. The
    file is `#!AER-DAT4.0` and a line end; the header's size (u32) and the header, a flatbuffer with
    the compression (field 0) and the place of the data table (field 1; -1: none); then packets:
    stream (i32), size (i32), that many bytes. LZ4 needs no check: it packs at most 255 to 1.
    """
    data = memoryview(path.read_bytes())
    if bytes(data[:14]) != b"#!AER-DAT4.0\r\n":
        rule = "the first line must be '#!AER-DAT4.0'"
        raise UsageError(f"{path}: no AEDAT file: {rule}, got {bytes(data[:14])!r}")
    at, largest = 14, largest_unpacked(path)
    try:
        start = 18 + struct.unpack_from("<I", data, 14)[0]
        table = 18 + struct.unpack_from("<I", data, 18)[0]
        fields = table - struct.unpack_from("<i", data, table)[0]
        codec, end = struct.unpack_from("<HH", data, fields + 4)
        codec = struct.unpack_from("<i", data, table + codec)[0] if codec else 0
        end = struct.unpack_from("<q", data, table + end)[0] if end else -1
        end = len(data) if end == -1 else end
        bytes(data[18:start]).partition(b"<dv")[2].decode()  # an error in faery ends the program
        if not start <= end <= len(data):
            raise UsageError(f"the events end at byte {end} of {len(data)}")
        at = start
        while at < end:
            size = struct.unpack_from("<i", data, at + 4)[0]
            packet = data[at + 8 : min(at + 8 + size, end)]
            if len(packet) != size:
                raise UsageError(f"a packet claims {size} bytes, {len(packet)} are left")
            if codec in _ZSTD_CODES and _unpacked_zstd(packet) > largest:
                raise UsageError("a packet unpacks to too much for so small a file")
            at += 8 + size
    except (struct.error, IndexError, ValueError) as error:
        raise UsageError(f"{path}: damaged or cut at byte {at}: {error}") from error


def read_aedat4(path: Path) -> Recorded:
    """AEDAT 4 (iniVation): the first event stream of the file."""
    _check_aedat4(path)
    return _read(path, "aedat")


def read_es(path: Path) -> Recorded:
    """Event Stream `.es` with DVS or ATIS events; row 0 is the upper one, as everywhere here."""
    return _read(path, "es")

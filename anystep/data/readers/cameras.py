"""Files of camera makers, read by faery: `.aedat4`, `.raw` (EVT2, EVT3), `.dat`, `.es`. Needs the
extra `events`.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep.data.readers.source import Size, checked, largest_unpacked, regular_file
from anystep.data.readers.unpacked import most_unpacked
from anystep.data.recording import Events

_NOT_SAID = (
    32766,
    32765,
)  # (width, height) that faery returns when a file names no size; no camera has it
_HEADER_BYTES = 8192


def read_aedat4(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """AEDAT 4 (iniVation): the first event stream of the file. `sensor` overrides the file's own
    size.

    The frame of the file (header, description, packets) is checked first: faery takes what it
    claims at its word, and a damaged size would end the whole program. So is what a packet can
    unpack to, which must be at most a hundred times its size (or 16 MiB).
    """
    _check_aedat4(regular_file(path))
    return _read(path, "aedat", sensor, sort)


def read_raw(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """Prophesee `.raw` in EVT2 or EVT3, whichever the header says; one that does not say is
    refused, not guessed.
    """
    _says(
        path,
        rb"%\s*evt\s+[23]\.|%\s*format\s+EVT[23]",
        "its version (`% evt 3.0` or `% format EVT3`)",
    )
    return _read(path, "evt", sensor, sort)


def read_dat(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """Prophesee `.dat` of contrast events; a header without a version is refused."""
    _says(path, rb"%\s*Version\s+[12]", "its version (`% Version 2`)")
    return _read(path, "dat", sensor, sort)


def read_es(
    path: str | os.PathLike[str], *, sensor: Size | None = None, sort: bool = False
) -> Events:
    """Event Stream `.es` with DVS or ATIS events; row 0 is the upper one, as everywhere here."""
    return _read(path, "es", sensor, sort)


def _says(path: str | os.PathLike[str], pattern: bytes, what: str) -> None:
    """Refuse a file whose `%` lines do not match."""
    with regular_file(path).open("rb") as file:
        head = file.read(_HEADER_BYTES)
    lines = re.match(rb"(?:%[^\n]*\n)*", head)
    if not lines or not re.search(pattern, lines[0], re.IGNORECASE):
        raise UsageError(f"{path}: the header does not say {what}")


def _check_aedat4(path: Path) -> None:
    """Refuse a file whose header or packets do not fit into it.

    `#!AER-DAT4.0` and a line end; the header's size (u32) and the header, a flatbuffer with the
    place of the data table (field 1; -1: none) and a description in XML; then packets: stream
    (i32), size (i32), that many bytes.
    """
    data = np.fromfile(path, dtype=np.uint8).data
    if bytes(data[:14]) != b"#!AER-DAT4.0\r\n":
        raise UsageError(
            f"{path}: no AEDAT file: the first line must be '#!AER-DAT4.0', got {bytes(data[:14])!r}"
        )
    try:
        start = 18 + struct.unpack_from("<I", data, 14)[0]
        table = 18 + struct.unpack_from("<I", data, 18)[0]
        fields = table - struct.unpack_from("<i", data, table)[0]
        at = struct.unpack_from("<H", data, fields + 6)[0]
        end = struct.unpack_from("<q", data, table + at)[0] if at else -1
        header = bytes(
            data[18:start]
        )  # a regular expression would look through it again from every "<dv"
        ElementTree.fromstring(
            header[header.find(b"<dv") : header.rfind(b"</dv>") + 5] if b"<dv" in header else b""
        )
    except (struct.error, ElementTree.ParseError) as error:
        raise UsageError(f"{path}: the header at byte 14 is damaged: {error}") from error
    end = len(data) if end == -1 else end
    if not start <= end <= len(data):
        raise UsageError(
            f"{path}: truncated: the header names byte {end} as the end of the events, the file has {len(data)}"
        )
    while start < end:
        size = struct.unpack_from("<i", data, start + 4)[0] if end - start >= 8 else -1
        if size < 0 or size > end - start - 8:
            raise UsageError(
                f"{path}: truncated: the packet at byte {start} claims {size} bytes, {end - start} are left"
            )
        try:
            unpacked = most_unpacked(data[start + 8 : start + 8 + size])
        except ValueError as error:
            raise UsageError(f"{path}: the packet at byte {start} is damaged: {error}") from error
        if unpacked > largest_unpacked(size):
            raise UsageError(
                f"{path}: the packet at byte {start} has {size} bytes that unpack to {unpacked}: no recording"
            )
        start += 8 + size


def _packets(stream: Iterable[NDArray[Any]], most: int) -> tuple[list[NDArray[Any]], int]:
    """(the packets of a stream, their bytes); it stops where they are more than `most`."""
    packets, held = [], 0
    for packet in stream:
        packets.append(packet)
        held += packet.nbytes
        if held > most:
            break
    return packets, held


def _small(place: NDArray[np.uint16]) -> NDArray[Any]:
    """Coordinates as int16 if all fit; else as they are, for the error that names the first one
    which does not.
    """
    return place.astype(np.int16) if place.max(initial=0) <= np.iinfo(np.int16).max else place


def _read(path: str | os.PathLike[str], kind: str, sensor: Size | None, sort: bool) -> Events:
    """All events of a file that faery reads. Where a time steps back, faery holds the clock; it
    does not tell us.
    """
    place = regular_file(path)
    faery = need("faery", extra="events", purpose=f"reading {place.suffix or kind} files")
    fallback, packed = (sensor[1], sensor[0]) if sensor else _NOT_SAID, place.stat().st_size
    most = largest_unpacked(packed)
    try:
        stream = faery.events_stream_from_file(place, dimensions_fallback=fallback, file_type=kind)
        width, height = stream.dimensions()
        packets, held = _packets(stream, most)
    except BaseException as error:
        # A panic inside faery is no Exception. Whoever interrupts the program or asks it to end
        # still can.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise UsageError(f"{place}: faery cannot read it: {error}") from error
        raise
    if (width, height) == _NOT_SAID:
        raise UsageError(
            f"{place}: the header does not say how large the camera was: pass sensor=(height, width)"
        )
    if held > most:
        raise UsageError(
            f"{place}: {packed} bytes that unpack to more than {most} are no recording"
        )
    if not packets:
        raise UsageError(f"{place}: holds no events")
    events = np.concatenate(packets)
    if events["t"].max(initial=0) > np.iinfo(np.int64).max:
        raise UsageError(
            f"{place}: a time of {events['t'].max()} us does not fit int64: the file is damaged"
        )
    columns = {
        "t": events["t"].astype(np.int64),
        "x": _small(events["x"]),
        "y": _small(events["y"]),
        "p": events["on"].astype(np.uint8),
    }
    return checked(place, columns, sensor or (height, width), sort=sort)

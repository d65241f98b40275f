"""Where a stream's events come from: a file, a UDP port, standard input. Numpy only.

A source is an iterable of `Packet`s, in the order of their arrival. Packets on the wire, by UDP or
on standard input, are records without a header, as the library faery sends them:

    t64_x16_y16_on8   13 bytes, little-endian: t u64 (microseconds), x u16, y u16, on u8
"""

from __future__ import annotations

import os
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.recording import Events

RECORD = np.dtype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "u1")])
LARGEST_T = 1 << 52  # microseconds, 142 years: a time above it is no time
AT_ONCE = 1 << 16  # events of a file, or records of standard input, in a packet
WAITING = 1024  # packets that may wait for a slow network before new ones are dropped


@dataclass(frozen=True)
class Packet:
    """Events that arrived together; `arrived` is `time.monotonic()` then."""

    t: NDArray[np.int64]
    x: NDArray[np.integer]
    y: NDArray[np.integer]
    p: NDArray[np.integer] | NDArray[np.bool_]
    arrived: float


@dataclass
class Losses:
    """What a source had to leave out, counted."""

    malformed_packets: int = 0
    malformed_events: int = 0
    dropped_packets: int = 0


class Source(Protocol):
    """What `stream_decisions` reads."""

    losses: Losses
    live: bool  # whether events arrive when they happen, so that being late means something

    def __iter__(self) -> Iterator[Packet]: ...


@dataclass
class FileSource:
    """A recording, as fast as it is asked for."""

    events: Events
    losses: Losses = field(default_factory=Losses)
    live: bool = False

    def __iter__(self) -> Iterator[Packet]:
        for first in range(0, len(self.events), AT_ONCE):
            part = self.events.part(first, first + AT_ONCE)
            yield Packet(part.t, part.x, part.y, part.p, time.monotonic())


def decode(content: bytes, losses: Losses) -> Packet | None:
    """The events of a datagram; None, and counted, if it is no whole number of records or empty.
    Records with an impossible time or polarity are left out, and counted.
    """
    if not content or len(content) % RECORD.itemsize:
        losses.malformed_packets += 1
        return None
    records = np.frombuffer(content, RECORD)
    sound = (records["t"] < LARGEST_T) & (records["on"] <= 1)
    if not sound.all():
        losses.malformed_events += int((~sound).sum())
        records = records[sound]
    t, x, y, p = (records[name] for name in ("t", "x", "y", "on"))
    return Packet(t.astype(np.int64), x, y, p, time.monotonic())


class UdpSource:
    """Events from a UDP port of this machine, until nobody has sent any for `idle_timeout` seconds.

    A thread takes datagrams from the socket, so that the kernel's buffer stays empty while the
    network computes; up to `WAITING` wait for it, further ones are dropped, and counted. Error: an
    address that cannot be bound.
    """

    live = True

    def __init__(self, host: str, port: int, *, idle_timeout: float | None = None) -> None:
        self.losses, self.idle_timeout = Losses(), idle_timeout
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(f"cannot listen on udp://{host}:{port}: {error.strerror}") from error
        self.port: int = self._socket.getsockname()[1]
        self._waiting: queue.Queue[bytes] = queue.Queue(WAITING)
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        self._socket.close()

    def _listen(self) -> None:
        self._socket.settimeout(0.2)
        while not self._closed.is_set():
            try:
                content = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:  # closed
                return
            try:
                self._waiting.put_nowait(content)
            except queue.Full:
                self.losses.dropped_packets += 1

    def __iter__(self) -> Iterator[Packet]:
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            while True:
                try:
                    content = self._waiting.get(timeout=self.idle_timeout)
                except queue.Empty:
                    return
                packet = decode(content, self.losses)
                if packet is not None:
                    yield packet
        finally:
            self.close()


@dataclass
class PipeSource:
    """Records on a pipe, until it ends. A cut last record is counted."""

    pipe: BinaryIO
    losses: Losses = field(default_factory=Losses)
    live: bool = True

    def __iter__(self) -> Iterator[Packet]:
        rest = b""
        read: Callable[[int], bytes] = getattr(self.pipe, "read1", self.pipe.read)
        while content := read(AT_ONCE * RECORD.itemsize):
            content = rest + content
            whole = len(content) // RECORD.itemsize * RECORD.itemsize
            content, rest = content[:whole], content[whole:]
            packet = decode(content, self.losses) if content else None
            if packet is not None:
                yield packet
        self.losses.malformed_packets += bool(rest)


def open_source(
    name: str,
    *,
    sensor: tuple[int, int] | None = None,
    formats: Mapping[str, str] | None = None,
    idle_timeout: float | None = None,
) -> tuple[Source, tuple[int, int] | None]:
    """The source that `name` means, and the sensor (height, width) if it says so itself.

    A path is a recording in any format of `anystep.data.readers`; `udp://HOST:PORT` listens;
    `-` is standard input; `digits-dvs:N` is the N-th test recording of the built-in set. `formats`
    are rows of READERS by suffix, where the suffix does not say how files like those that the
    network was trained on are read. Error: a name that is none of these.
    """
    if name == "-":
        return PipeSource(sys.stdin.buffer), sensor
    if name.startswith("udp://"):
        host, colon, port = name.removeprefix("udp://").rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise UsageError(f"--source: expected udp://HOST:PORT, got {name!r}")
        return UdpSource(host.strip("[]"), int(port), idle_timeout=idle_timeout), sensor
    if name == "camera" and not os.path.exists(name):
        raise UsageError(
            "--source camera: no camera can be opened by anystep itself; send its events to "
            "--source udp://127.0.0.1:PORT, with faery for one (docs/deploy.md)"
        )
    if built_in := re.fullmatch(r"digits-dvs:(\d+)", name):
        from anystep.data.digits import digits_test_recording

        events, _ = digits_test_recording(int(built_in[1]))
        return FileSource(events), events.sensor
    if not Path(name).exists():
        raise UsageError(f"there is no recording {name}")
    from anystep.data.readers import read_events

    format = (formats or {}).get(Path(name).suffix.lower())
    events = read_events(Path(name), format=format, sensor=sensor)
    return FileSource(events), events.sensor

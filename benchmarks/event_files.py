"""What `data` reads: files of each format, written here or by faery, and who else reads them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep.data.recording import Events
from benchmarks.peers import versions_of

Columns = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
HEADER2 = b"#!AER-DAT2.0\r\n# written by a benchmark\r\n"


@dataclass(frozen=True)
class Format:
    """A format: how many events are a fair number, what writes them, and the baseline that reads
    them.
    """

    suffix: str
    events: int
    write: Callable[[Events, Path], object]
    baseline: str
    read: Callable[[Path], object]


@dataclass(frozen=True)
class Tonic:
    """What is used of tonic: a file as an array, and an array as frames."""

    read: Callable[[Path], NDArray[Any]]
    frames: Callable[[NDArray[Any], tuple[int, int], int], NDArray[Any]]


def write_bin(events: Events, path: Path) -> None:
    """N-MNIST's 40 bits: x, y, the polarity above 23 bits of time."""
    t, p = events.t.astype(np.uint32), events.p.astype(np.uint32) << 7
    columns = [events.x, events.y, p | t >> 16, t >> 8 & 255, t & 255]
    np.column_stack(columns).astype(np.uint8).tofile(path)


def plain_bin(path: Path) -> Columns:
    """Columns t, x, y, p of a `.bin` without overflow marks, unchecked, as usually written."""
    raw = np.fromfile(path, np.uint8).astype(np.uint32)
    t = (raw[2::5] & 127) << 16 | raw[3::5] << 8 | raw[4::5]
    x, y = raw[::5].astype(np.int16), raw[1::5].astype(np.int16)
    return t.astype(np.int64), x, y, (raw[2::5] >> 7).astype(np.uint8)


def write_aedat2(events: Events, path: Path) -> None:
    """A DVS128: rows count from below, columns from the right. A bit of 1 is darker."""
    row, column = 127 - events.y.astype(np.uint32), 127 - events.x.astype(np.uint32)
    address = row << 8 | column << 1 | 1 - events.p.astype(np.uint32)
    path.write_bytes(HEADER2 + np.column_stack([address, events.t]).astype(">u4").tobytes())


def plain_aedat2(path: Path) -> Columns:
    """Columns t, x, y, p of what `write_aedat2` wrote, unchecked."""
    address, t = np.fromfile(path, ">u4", offset=len(HEADER2)).reshape(-1, 2).astype(np.int64).T
    y, x = (127 - (address >> shift & 127) for shift in (8, 1))
    return t, x.astype(np.int16), y.astype(np.int16), (1 - (address & 1)).astype(np.uint8)


def write_with_faery(events: Events, path: Path) -> None:
    """The format that the suffix says, in the version and compression that faery chooses."""
    faery = importlib.import_module("faery")
    array = np.empty(len(events), faery.EVENTS_DTYPE)
    array["t"], array["x"], array["y"], array["on"] = events.t, events.x, events.y, events.p
    faery.file_encoder.events_to_file([array], path, events.sensor[::-1], zero_t0=False)


def read_with_faery(path: Path) -> NDArray[Any]:
    """All events as faery's array."""
    faery = importlib.import_module("faery")
    return np.concatenate(list(faery.events_stream_from_file(path)))


FORMATS: dict[str, Format] = {
    ".bin": Format(".bin", 4_000_000, write_bin, "plain numpy", plain_bin),
    "AEDAT 2.0": Format(".aedat", 4_000_000, write_aedat2, "plain numpy", plain_aedat2),
    ".aedat4": Format(".aedat4", 1_000_000, write_with_faery, "faery", read_with_faery),
    ".raw EVT3": Format(".raw", 1_000_000, write_with_faery, "faery", read_with_faery),
    ".dat": Format(".dat", 1_000_000, write_with_faery, "faery", read_with_faery),
    ".es": Format(".es", 1_000_000, write_with_faery, "faery", read_with_faery),
    ".csv": Format(".csv", 200_000, write_with_faery, "faery", read_with_faery),
}


TONIC_DTYPE = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])  # of tonic's own NMNIST


def find_tonic() -> Tonic:
    """tonic's reader of `.bin`, and its `ToFrame` with windows of a fixed time from the first event
    on.
    """
    io, transforms = (importlib.import_module(f"tonic.{name}") for name in ("io", "transforms"))

    def frames(array: NDArray[Any], sensor: tuple[int, int], window_us: int) -> NDArray[Any]:
        make = transforms.ToFrame(
            sensor_size=(sensor[1], sensor[0], 2), time_window=window_us, include_incomplete=True
        )
        return np.asarray(make(array))

    return Tonic(read=lambda path: io.read_mnist_file(str(path), dtype=TONIC_DTYPE), frames=frames)


def as_tonic(events: Events) -> NDArray[Any]:
    """The events as tonic's data sets hold them."""
    array = np.empty(len(events), TONIC_DTYPE)
    array["x"], array["y"], array["t"], array["p"] = events.x, events.y, events.t, events.p
    return array


def versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    return versions_of(("tonic", "faery"))

"""Event files as `Events`: a table of formats and one function that picks the format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from anystep._lookup import choose, unknown
from anystep.data.readers.aedat import (
    is_aedat,
    read_aedat1,
    read_aedat2,
    read_aedat3,
    read_cifar10_dvs,
    version_of,
)
from anystep.data.readers.arrays import read_npy, read_npz
from anystep.data.readers.atis import read_bin
from anystep.data.readers.cameras import read_aedat4, read_es
from anystep.data.readers.gestures import Segment, gesture_segments
from anystep.data.readers.hdf5 import read_h5
from anystep.data.readers.prophesee import read_dat, read_raw
from anystep.data.readers.source import Recorded, Size, events_of, regular_file
from anystep.data.readers.tables import read_csv
from anystep.data.recording import Events

__all__ = ["READERS", "SUFFIXES", "Segment", "format_of", "gesture_segments", "read_events"]

READERS: dict[str, Callable[[Path], Recorded]] = {
    "bin": read_bin,
    "aedat1": read_aedat1,
    "aedat2": read_aedat2,
    "cifar10-dvs": read_cifar10_dvs,
    "aedat3": read_aedat3,
    "npz": read_npz,
    "npy": read_npy,
    "csv": read_csv,
    "aedat4": read_aedat4,
    "raw": read_raw,
    "dat": read_dat,
    "es": read_es,
    "h5": read_h5,
}

# What a suffix stands for. `.aedat` is 1.0, 2.0, 3.1 or 4 and says so in its first line, as old
# files of jAER do that end with `.dat`.
SUFFIXES: dict[str, str] = {
    **{f".{name}": name for name in READERS if name != "cifar10-dvs"},
    ".txt": "csv",
    ".hdf5": "h5",
}
_BY_FIRST_LINE = (".aedat", ".dat")


def format_of(path: str | os.PathLike[str]) -> str:
    """The row of READERS for a file: by its suffix, for `.aedat` and `.dat` by its first line."""
    suffix = Path(path).suffix.lower()
    if suffix in _BY_FIRST_LINE:
        file = regular_file(path)
        if suffix == ".dat" and not is_aedat(file):
            return "dat"
        version = version_of(file)
        name = f"aedat{version[:1]}"
        if name not in READERS:
            versions = [known[5:] for known in READERS if known.startswith("aedat")]
            raise unknown(version, versions, "AEDAT version", f"{path}")
        return name
    if suffix not in SUFFIXES:
        if Path(path).exists():
            regular_file(path)  # a directory has no format
        raise unknown(suffix, [*SUFFIXES, ".aedat"], "suffix", f"{path}; or say format=")
    return SUFFIXES[suffix]


def read_events(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    sensor: Size | None = None,
    sort: bool = False,
) -> Events:
    """The recording in a file.

    format   a row of READERS; None goes by the suffix, and for `.aedat` by the first line
    sensor   (height, width); None: what the file or its format says
    sort     True puts events that step back in time in order (stable); False refuses them

    Times are the file's own clock in us: nothing is subtracted. Anything wrong with the content is
    a UsageError that names the file; a missing file is a FileNotFoundError.
    """
    read = choose(READERS, format_of(path) if format is None else format, "event format")
    file = regular_file(path)
    return events_of(file, read(file), sensor, sort=sort)

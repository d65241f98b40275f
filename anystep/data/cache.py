"""Arrays that are built once, kept as .npy files and read back without loading them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._files import atomic_path


def default_cache() -> Path:
    """Where built data go when nobody says otherwise: $XDG_CACHE_HOME/anystep, or ~/.cache/anystep."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anystep"


def cached_array(folder: str | os.PathLike[str], key: str, build: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array <folder>/<key>.npy, memory-mapped read-only; `build()` makes it when it is not there.

    The file is whole or absent: an error in `build` or while writing leaves nothing. Two processes may build at once, the
    last one to finish stays. Raises ValueError for a key that is no plain file name and for a damaged file (by name: delete
    it), OSError when the folder cannot be written or is full.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", key):
        raise ValueError(f"cached_array: key must be letters, digits and . _ - only, got {key!r}")
    path = Path(folder) / f"{key}.npy"
    if not path.exists():
        _prepare(path.parent)
        _write(path, build())
    return _open(path)


def _prepare(folder: Path) -> None:
    """Make the folder before the work, so a wrong one costs no time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make the cache folder {folder} ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write in the cache folder {folder}; choose another one with cache=")


def _write(path: Path, array: NDArray[Any]) -> None:
    array = np.asarray(array)
    if array.dtype.hasobject:
        raise ValueError(f"cached_array: {path.name} would hold Python objects; build must return plain numbers")
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:  # numpy reports a full disk without an error number, so the text carries it all
        raise OSError(
            error.errno,
            f"could not write {path} ({array.nbytes / 1e6:.1f} MB): {error.strerror or error}. "
            "Free some space or choose another folder with cache=",
        ) from error


def _open(path: Path) -> NDArray[Any]:
    damaged = f"cached_array: {path} is damaged; delete it and run again"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{damaged} ({error})") from error
    if not isinstance(array, np.memmap) or array.offset + array.nbytes != path.stat().st_size:
        raise ValueError(f"{damaged} (its size does not fit its header)")
    return array

"""Arrays that are built once, kept as .npy files and read back without loading them.

Behind the array, where numpy does not look, a file has its checksum: `MARK` and eight hex digits,
the CRC-32 of all before it. That finds damage, not malice, in a fraction of the time of SHA-256:
frames can be gigabytes. Files of older versions have none.
"""

from __future__ import annotations

import io
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import atomic_path

# A file that nobody has written to for so long belongs to a build that was killed.
ABANDONED_S = 24 * 3600
MARK = b"anystep crc32:"


def default_cache() -> Path:
    """Where built data go if nobody says: $XDG_CACHE_HOME/anystep, or ~/.cache/anystep."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anystep"


def cache_file(folder: str | os.PathLike[str], key: str) -> Path:
    """<folder>/<key>.npy. Error: a key that is no plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", key):
        raise UsageError(f"cache: key must be letters, digits and . _ - only, got {key!r}")
    return Path(folder) / f"{key}.npy"


def _prepare(folder: Path) -> None:
    """Make the folder before the work, and remove what killed builds left there long ago."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"cannot make the cache folder {folder} ({error.strerror})"
        raise OSError(error.errno, text) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        text = f"cannot write in the cache folder {folder}; choose another one with cache="
        raise PermissionError(text)
    for part in folder.glob(".*.npy.*.part"):
        with suppress(OSError):  # another process may have been faster
            if time.time() - part.stat().st_mtime > ABANDONED_S:
                part.unlink()


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue()


def _size(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape))


def _save(file: IO[bytes], array: NDArray[Any]) -> None:
    """`np.save`, which does not say so if the disk is full at the end."""
    file.write(_header(array.dtype, array.shape))
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _widen(file: IO[bytes], shape: tuple[int, ...], written: int) -> None:
    """Turn the `written` rows of bytes in the file into uint16, in place.

    From the last row back, so that none is overwritten. The header is as long for both.
    """
    start, size = len(_header(np.dtype(np.uint8), (0, *shape))), _size(np.dtype(np.uint8), shape)
    for row in reversed(range(written)):
        file.seek(start + row * size)
        values = np.frombuffer(file.read(size), np.uint8).astype(np.uint16)
        file.seek(start + 2 * row * size)
        file.write(values.data)
    file.seek(start + 2 * written * size)


def _write_rows(
    file: IO[bytes], path: Path, count: int | None, rows: Iterable[NDArray[Any] | None]
) -> None:
    """A .npy file of `count` rows; None: as many as come.

    Rows are written, not mapped: a full disk is then an error and not a crash.
    """
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    shape: tuple[int, ...] | None = None
    written = 0
    for row in rows:
        if row is not None:
            if shape is None:
                shape = row.shape
                dtype = np.dtype(np.float32 if row.dtype.kind == "f" else np.uint8)
                file.write(_header(dtype, (0, *shape)) + bytes(written * _size(dtype, shape)))
            if row.shape != shape:
                rule = f"row {written} has shape {row.shape}, those before it {shape}"
                raise UsageError(f"cache: {path.name}: {rule}")
            if dtype == np.uint8 and row.max(initial=0) > 255:
                dtype = np.dtype(np.uint16)
                _widen(file, shape, written)
            file.write(np.ascontiguousarray(row, dtype).data)
        elif shape is not None:
            file.write(bytes(_size(dtype, shape)))
        written += 1
    if shape is None or written != (written if count is None else count):
        wanted = "rows" if count is None else f"{count} rows"
        rule = f"{wanted} must come, one at least not None"
        raise UsageError(f"cache: {path.name}: {rule}, {written} came")
    file.seek(0)  # numpy leaves room in the header for the number of rows to grow
    file.write(_header(dtype, (written, *shape)))


def _checksum(file: IO[bytes], size: int) -> bytes:
    """`MARK` and the CRC-32 of the first `size` bytes of a file."""
    file.seek(0)
    crc = 0
    while size > 0 and (part := file.read(min(size, 1 << 22))):
        crc, size = zlib.crc32(part, crc), size - len(part)
    return MARK + b"%08x" % crc


@cache
def _problem(path: Path, size: int, changed: int) -> str:
    """What is wrong with a file, or "". A process looks once, unless its size or time changes."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever numpy raises for a damaged header: named, not hidden
        return str(error).partition("\n")[0] or type(error).__name__
    end = array.offset + array.nbytes if isinstance(array, np.memmap) else -1
    with path.open("rb") as file:
        file.seek(max(end, 0))
        checksum = file.read(len(MARK) + 9) if size > end else b""  # a byte more than there may be
        if end < 0 or (checksum and (len(checksum) != len(MARK) + 8 or checksum[:-8] != MARK)):
            return "its size does not fit its header"
        if checksum and _checksum(file, end) != checksum:
            return "its bytes are not those that were written"
    return ""


def _open(path: Path) -> NDArray[Any]:
    told = path.stat()
    if problem := _problem(path.absolute(), told.st_size, told.st_mtime_ns):
        raise UsageError(f"cache: {path} is damaged; delete it and run again ({problem})")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _write(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let `write` fill the file, and put its checksum behind."""
    with atomic_path(path) as temporary, temporary.open("wb+") as file:
        write(file)
        file.write(_checksum(file, file.seek(0, os.SEEK_END)))


def _kept(path: Path, write: Callable[[IO[bytes]], None]) -> NDArray[Any]:
    """The array in the file `path`, which `write` fills where it is not there."""
    if not path.exists():
        _prepare(path.parent)
        try:
            _write(path, write)
        except OSError as error:
            if error.filename is not None and Path(error.filename).parent != path.parent:
                raise  # what was read could not be read: the file says so itself
            # numpy reports a full disk without an error number, so the text carries it all.
            way_out = "Free some space or choose another folder with cache="
            text = f"could not write {path}: {error.strerror or error}. {way_out}"
            raise OSError(error.errno, text) from error
    return _open(path)


def cached_array(
    folder: str | os.PathLike[str], key: str, build: Callable[[], NDArray[Any]]
) -> NDArray[Any]:
    """The array <folder>/<key>.npy, memory-mapped read-only; `build()` makes it if it is not there.

    The file is whole or absent: an error in `build` or while writing leaves nothing, and what a
    killed process leaves, a hidden .part file, goes with the first build a day later. Two processes
    may build at once, the last one to finish stays.

    Errors: a damaged file (its name: delete it); an OSError when the folder cannot be written or is
    full.
    """
    return _kept(cache_file(folder, key), lambda file: _save(file, np.asarray(build())))


def cached_stack(
    folder: str | os.PathLike[str],
    key: str,
    count: int,
    build: Callable[[], Iterable[NDArray[Any] | None]],
) -> NDArray[Any]:
    """Like `cached_array`, for `count` rows that need not fit in memory together.

    `build()` gives the rows in order, all of one shape; None is a row of zeros. Rows of floats are
    kept as float32. Rows of whole numbers, all >= 0 and below 65,536, are kept as uint8 until a
    value needs uint16.
    """
    path = cache_file(folder, key)
    return _kept(path, lambda file: _write_rows(file, path, count, build()))


def cached_ragged(
    folder: str | os.PathLike[str], key: str, build: Callable[[], Iterable[NDArray[Any] | None]]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Like `cached_stack`, for rows (t_i, ...) of different length; None is a row of length 0.

    Back come all rows one after another (sum of t_i, ...) and the lengths t_i. These are a file of
    their own, <key>.lengths.npy, that is there before the rows appear.
    """
    path, beside = cache_file(folder, key), cache_file(folder, f"{key}.lengths")

    def write(file: IO[bytes]) -> None:
        lengths: list[int] = []

        def parts() -> Iterator[NDArray[Any]]:
            for row in build():
                lengths.append(0 if row is None else len(row))
                if row is not None:
                    yield from row

        _write_rows(file, path, None, parts())
        _write(beside, lambda file: _save(file, np.array(lengths, np.int64)))

    frames = _kept(path, write)
    if not beside.exists():
        raise UsageError(f"cache: {path} has no {beside.name} beside it; delete it and run again")
    lengths = np.array(_open(beside))
    if lengths.dtype != np.int64 or lengths.ndim != 1 or lengths.sum() != len(frames):
        text = f"{beside} does not fit the {len(frames)} frames of {path.name}"
        raise UsageError(f"cache: {text}; delete both")
    return frames, lengths

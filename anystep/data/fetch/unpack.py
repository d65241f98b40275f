"""An archive whose checksum is right, unpacked beside its place and moved there when it is whole.

A killed run leaves hidden folders behind that the next one clears or finishes.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

from anystep._errors import UsageError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
RATIO = 100  # pictures and events shrink by less than 10, zeros by 1000
SMALL = 1 << 20  # bytes that any archive may unpack to, however small it is
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


def is_archive(name: str) -> bool:
    """Whether `unpack` knows the format, by the name.

    >>> is_archive("images.tar"), is_archive("labels.mat")
    (True, False)
    """
    return name.lower().endswith(SUFFIXES)


def _beside(archive: Path, folder: Path, state: str) -> Path:
    return folder / f".{archive.name}.{state}"


def unfinished(archive: Path, folder: Path) -> bool:
    """Whether an earlier `unpack` of it was killed while it moved things into place."""
    return _beside(archive, folder, "ready").exists()


def _check_size(archive: Path, unpacked: int) -> None:
    limit = max(RATIO * archive.stat().st_size, SMALL)
    if unpacked > limit:
        rule = f"it unpacks to {unpacked:,} bytes or more, allowed are {limit:,}"
        raise UsageError(f"{archive}: {rule}")


def _is_content(name: str) -> bool:
    """Not one of the files that a Mac adds."""
    parts = name.split("/")
    return not any(part in ("__MACOSX", ".DS_Store") or part.startswith("._") for part in parts)


def _extract(archive: Path, folder: Path) -> None:
    """Everything into `folder`; the standard library keeps names and links inside of it."""
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as bundle:
                _check_size(archive, sum(member.file_size for member in bundle.infolist()))
                wanted = [name for name in bundle.namelist() if _is_content(name)]
                bundle.extractall(folder, wanted)
        else:
            unpacked = 0
            with tarfile.open(archive) as bundle:
                for member in bundle:
                    unpacked += member.size
                    _check_size(archive, unpacked)
                    if _is_content(member.name):
                        bundle.extract(member, folder, filter="data")
    except DAMAGED as error:
        raise UsageError(f"{archive} cannot be unpacked: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"could not unpack {archive}: {reason}") from error


def _move(ready: Path, folder: Path, holds: Collection[str]) -> list[str]:
    """From the finished folder into place; nothing that is there is replaced."""
    moved = []
    for name in sorted(os.listdir(ready)):
        if name in holds or not os.path.lexists(folder / name):
            os.rename(ready / name, folder / name)
            moved.append(name)
    shutil.rmtree(ready)
    return moved


def unpack(archive: Path, folder: Path, *, holds: Collection[str] = ()) -> list[str]:
    """Unpack `archive` into `folder` and return the names that it put there, in order.

    `holds` are names that must come out of it. Of the other things at its top, those that `folder`
    has already are left out, and so is what a Mac adds (__MACOSX, ._*, .DS_Store).

    Errors: UsageError for a damaged archive, a name that leads out of the folder, or more than 100
    times the archive's size; OSError for a full disk. Nothing is left behind.
    """
    scratch, ready = (_beside(archive, folder, state) for state in ("unpacking", "ready"))
    if not ready.is_dir():
        for there in (folder / name for name in holds if os.path.lexists(folder / name)):
            raise UsageError(f"{archive}: {there} is there already: move it away and run again")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir()
            _extract(archive, scratch)
            for name in holds:
                if not (scratch / name).exists():
                    found = ", ".join(sorted(os.listdir(scratch))[:5])
                    raise UsageError(f"{archive}: it must hold {name}, it has {found}")
            os.replace(scratch, ready)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _move(ready, folder, holds)

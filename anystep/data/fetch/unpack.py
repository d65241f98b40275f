"""Archives from strangers: unpacked beside the target, within bounds, and moved into place only
when all is well.

Refused: names that lead out of the folder, links, devices, the same name twice, encrypted or broken
archives, and archives that unpack to far more than they weigh. A killed run leaves hidden folders
behind that the next one clears or finishes.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, cast

from anystep._errors import UsageError
from anystep.data.fetch.download import check_room

CHUNK = 1 << 16
RATIO = 100  # pictures and events shrink by less than 10; zeros by 1000
SMALL = 1 << 20  # what any archive may unpack to, however little it weighs
MEMBERS = 2_000_000
DEPTH = 32
GULP = (
    1 << 18
)  # no header of an honest tar is larger; tarfile reads each whole, and hundreds that are nested
DIRECTORY = 256 << 20  # the table of a zip, which zipfile reads whole
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
# What Python's readers raise for a damaged archive; RuntimeError: nested headers, ways of packing
# that they do not know.
DAMAGE = (
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    ValueError,
    RuntimeError,
    struct.error,
)


def is_archive(name: str) -> bool:
    """Whether `unpack` knows the format, by the name.

    >>> is_archive("images.tar"), is_archive("labels.mat")
    (True, False)
    """
    return name.lower().endswith(SUFFIXES)


def unpack(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    holds: Collection[str] = (),
    limit: int | None = None,
) -> list[str]:
    """Unpack `archive` into `folder` and return the names that it put there, in order.

    holds   names that must come out of it; of the other things at its top, those that are in
            `folder` already are left out
    limit   bytes that it may unpack to; None: 100 times its own size

    All is written into <folder>/.<archive>.unpacking, which becomes .<archive>.ready when it is
    complete; its contents are then moved, each by one rename. What a Mac adds (__MACOSX, ._*,
    .DS_Store) is left out. Files get the permissions of new files.

    Errors: ValueError that names the archive and the member; OSError for a full disk. Nothing is
    left behind.
    """
    archive, folder = Path(archive), Path(folder)
    if not is_archive(archive.name):
        raise UsageError(f"{archive}: its name must end in one of {', '.join(SUFFIXES)}")
    scratch, ready = (folder / f".{archive.name}.{state}" for state in ("unpacking", "ready"))
    if not ready.is_dir():
        for name in holds:
            if os.path.lexists(folder / name):
                raise UsageError(
                    f"{archive}: {folder / name} is there already and is not replaced: move it away and run again"
                )
        _clear(scratch)
        try:
            scratch.mkdir(parents=True)
            _Extraction(archive, scratch, limit).run()
            for name in holds:
                if not (scratch / name).exists():
                    raise UsageError(
                        f"{archive}: it must hold {name}, it has {', '.join(sorted(os.listdir(scratch))[:5])}"
                    )
            os.replace(scratch, ready)
        finally:
            _clear(scratch)
    return _move(ready, folder, holds)


def unfinished(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether an earlier `unpack` of it into `folder` was killed while it moved things into place."""
    return (Path(folder) / f".{Path(archive).name}.ready").exists()


def _move(ready: Path, folder: Path, holds: Collection[str]) -> list[str]:
    """From the finished folder into place; nothing that is there is replaced."""
    moved = []
    for name in sorted(os.listdir(ready)):
        if name in holds or not os.path.lexists(folder / name):
            os.rename(ready / name, folder / name)
            moved.append(name)
    _clear(ready)
    return moved


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


class _Refused(ValueError):
    """An archive that can be read and must not be unpacked."""


class _Extraction:
    """One archive on its way into an empty folder, with the bytes and members counted."""

    def __init__(self, archive: Path, folder: Path, limit: int | None) -> None:
        self.archive, self.folder = archive, folder
        weight = archive.stat().st_size
        self.limit = max(RATIO * weight, SMALL) if limit is None else limit
        self.bytes = self.members = 0
        check_room(
            folder, weight if archive.suffix.lower() == ".tar" else None, f"unpacking {archive}"
        )

    def run(self) -> None:
        """Unpack all."""
        take = self.zip if self.archive.suffix.lower() == ".zip" else self.tar
        try:
            take()
        except _Refused:
            raise
        except DAMAGE as error:
            raise UsageError(
                f"{self.archive} is no whole {self.archive.suffix} archive: {error}"
            ) from error
        except OSError as error:
            if error.errno == errno.EINVAL:  # a place before the start of the file
                raise UsageError(
                    f"{self.archive} is no whole {self.archive.suffix} archive: {error}"
                ) from error
            raise OSError(
                error.errno, f"could not unpack {self.archive}: {error.strerror or error}"
            ) from error

    def zip(self) -> None:
        """The members of a zip: its table is judged before anything is written."""
        _check_directory(self.archive)
        with zipfile.ZipFile(self.archive) as bundle:
            members = bundle.infolist()
            self.admit(
                0, sum(member.file_size for member in members), f"its {len(members)} members"
            )
            check_room(
                self.folder,
                sum(member.file_size for member in members),
                f"unpacking {self.archive}",
            )
            for member in members:
                kind = stat.S_IFMT(member.external_attr >> 16)
                if member.flag_bits & 1:
                    raise self.bad(member.filename, "is encrypted")
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise self.bad(member.filename, "is a link or a device")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise self.bad(
                        member.filename, "is packed by another compression method than deflate"
                    )
                path = self.place(member.orig_filename, member.file_size)
                if path is None:
                    continue
                if member.is_dir():
                    self.make(path, member.filename)
                else:
                    with bundle.open(member) as source:
                        self.copy(cast(IO[bytes], source), path, member.filename, member.file_size)

    def tar(self) -> None:
        """The members of a tar, plain or gzipped, in one pass."""
        plain = self.archive.suffix.lower() == ".tar"
        with (
            self.archive.open("rb") as file,
            _Metered(file if plain else gzip.GzipFile(fileobj=file)) as source,
        ):
            with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as bundle:
                memory: Any = bundle  # tarfile keeps all that it meets, for random access; typeshed does not know of it
                while (member := bundle.next()) is not None:
                    memory.members.clear()
                    memory.pax_headers.clear()
                    if member.issparse() or not (member.isreg() or member.isdir()):
                        raise self.bad(member.name, "is a link, a device or a sparse file")
                    path = self.place(member.name, member.size)
                    if path is None:
                        continue
                    if hasattr(
                        tarfile, "data_filter"
                    ):  # a second opinion; the first Pythons 3.11 have none
                        tarfile.data_filter(member, os.fspath(self.folder))
                    content = None if member.isdir() else bundle.extractfile(member)
                    if content is None:
                        self.make(path, member.name)
                    else:
                        self.copy(content, path, member.name, member.size)
            if source.last != bytes(
                tarfile.BLOCKSIZE
            ):  # tarfile takes a damaged header for the end
                raise EOFError("it breaks off before its end mark")
            source.drain(self.limit)  # so that gzip compares its checksum

    def place(self, name: str, size: int) -> Path | None:
        """Where a member goes, once its name and size are let through; None for what a Mac adds."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\\" in name or ".." in parts:
            raise self.bad(name, "leads out of the folder")
        if re.search(r"[\x00-\x1f\x7f]", name) or len(parts) > DEPTH:
            raise self.bad(name[:200], "has a control character in its name or lies too deep")
        self.admit(
            1, 0 if size < 0 else size, f"{name!r}", already=self.archive.suffix.lower() == ".zip"
        )
        if (
            not parts
            or "__MACOSX" in parts
            or any(part.startswith("._") or part == ".DS_Store" for part in parts)
        ):
            return None
        return self.folder.joinpath(*parts)

    def admit(self, members: int, size: int, what: str, *, already: bool = False) -> None:
        """Count before anything is written; `already`: the bytes are counted."""
        self.members += members
        self.bytes += 0 if already else size
        if self.bytes > self.limit:
            raise _Refused(
                f"{self.archive}: with {what} it unpacks to {self.bytes:,} bytes, allowed are {self.limit:,}"
            )
        if self.members > MEMBERS:
            raise _Refused(f"{self.archive}: it has more than {MEMBERS:,} members")

    def make(self, path: Path, name: str) -> None:
        """A folder with those above it."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise self.bad(name, "is a file and a folder") from error

    def copy(self, source: IO[bytes], path: Path, name: str, size: int) -> None:
        """One file, in pieces."""
        self.make(path.parent, name)
        done = 0
        try:
            with path.open("xb") as target:
                while piece := source.read(CHUNK):
                    done += len(piece)
                    target.write(piece)
        except (FileExistsError, IsADirectoryError) as error:
            raise self.bad(name, "comes twice") from error
        if done != size:
            raise EOFError(f"{name!r} has {done:,} of {size:,} bytes")

    def bad(self, name: str, trouble: str) -> ValueError:
        """The error for a member."""
        return _Refused(f"{self.archive}: member {name!r} {trouble}; nothing was unpacked")


class _Metered:
    """A file that refuses to be read in gulps: tarfile believes the length of a header, whatever it
    says.
    """

    def __init__(self, file: Any) -> None:
        self.file, self.last = file, b""

    def __enter__(self) -> _Metered:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= GULP:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        self.last = self.file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.file.seek(offset, whence))

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self.file.tell())

    def drain(self, limit: int) -> None:
        """Read on to the end of the file, past padding."""
        left = limit
        while piece := self.file.read(CHUNK):
            left -= len(piece)
            if left < 0:
                raise tarfile.ReadError("more follows its end mark than it may unpack to")


def _check_directory(archive: Path) -> None:
    """The size of a zip's table, from the record at its end, before zipfile reads the table whole."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(
            max(0, size - 66_000)
        )  # the record, a comment of up to 65,535 bytes, and the record of zip64 before it
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 16:
        raise zipfile.BadZipFile("it has no table of contents at its end")
    claimed = int.from_bytes(tail[at + 12 : at + 16], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if claimed == 0xFFFFFFFF and wide >= 0:
        claimed = int.from_bytes(tail[wide + 40 : wide + 48], "little")
    if claimed > min(size, DIRECTORY):
        raise zipfile.BadZipFile(f"its table of contents claims {claimed:,} bytes")

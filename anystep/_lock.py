"""One process at a time in a folder: a lock that goes with its process, however that ends."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anystep._errors import RunError, UsageError

LOCK = ".anystep.lock"  # in the folder, for as long as it is held
_HELD: set[int] = set()  # the open lock files of this process


def _let_go() -> None:
    """A forked process, a loader's say, must not hold the lock of a parent that was killed."""
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _locks(handle: int) -> bool:
    """Whether the open file could be locked: no other process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 20, os.SEEK_SET)  # beyond the words, which others may read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _take(path: Path) -> int:
    """The lock file, open and held."""
    while True:
        no_link = getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | no_link, 0o644)
        if not _locks(handle):
            who = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            raise RunError(f"{path.parent} is in use by {who}: wait for its end")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # the one who held it has just removed it


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if it is not there, for the length of the block.

    What was made goes again if the block leaves it empty. Errors: a `RunError` that says which
    process holds it; a folder that cannot be written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        for each in reversed(made):
            each.mkdir(exist_ok=True)
        handle = _take(folder / LOCK)
        _HELD.add(handle)
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
    except OSError as error:
        raise UsageError(f"cannot write the folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        _HELD.discard(handle)
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(handle)
        with suppress(OSError):  # it holds something now
            for each in made:
                each.rmdir()

"""What files hold, by hash: looked up for as long as a file's size and times are the same."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from anystep._errors import AnystepWarning
from anystep._files import write_text
from anystep._threads import map_ahead

INDEX_VERSION = 1
# A file that changed so shortly before may change again without its times showing it.
RACY_NS = 2_000_000_000
_AT_ONCE = 2**20  # bytes read at a time
# So that a first hashing of many gigabytes that is interrupted need not start over.
SECONDS_BETWEEN_WRITES = 30.0
NO_FILE = ""  # in place of a hash, for what is no readable file: reading it will say what is wrong

State = list[int]  # size, time of change, time of change of its entry in the folder
Found = tuple[State, str, bool]  # the last: whether the state is a proof of the hash


def _state(path: Path) -> State:
    try:
        status = path.stat()
    except OSError:
        return [-1, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _hashed(path: Path) -> Found:
    began, before = time.time_ns(), _state(path)
    digest = hashlib.blake2b(digest_size=16)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe is to wait for its writer
            return before, NO_FILE, False
        with path.open("rb", buffering=0) as file:
            while part := file.read(_AT_ONCE):
                digest.update(part)
    except OSError:
        return before, NO_FILE, False
    certain = before == _state(path) and max(before[1:]) + RACY_NS < began
    return before, digest.hexdigest(), certain


def _read(index: Path) -> dict[str, list[Any]]:
    """The entries of an index; of a missing or damaged one none: they can be found out again."""
    try:
        tree = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    fits = isinstance(tree, dict) and tree.get("version") == INDEX_VERSION
    files = tree.get("files") if fits else None
    return files if isinstance(files, dict) else {}


def _write(index: Path, new: dict[str, list[Any]]) -> None:
    """Add entries to an index, beside those that another process may have added."""
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        write_text(index, json.dumps({"version": INDEX_VERSION, "files": {**_read(index), **new}}))
    except OSError as error:
        text = f"cannot keep what was hashed in {index} ({error.strerror or error})"
        warnings.warn(f"{text}: the next start hashes it again", AnystepWarning, stacklevel=3)


def content_hashes(
    paths: Iterable[Path],
    index: Path,
    *,
    workers: int,
    watch: Callable[[Iterator[Found], int], Iterator[Found]] = lambda found, count: found,
) -> dict[Path, str]:
    """The hash of what each file holds, 32 hex digits, or `NO_FILE`.

    index     a JSON file that is kept for the next call: absolute path -> size, both times, hash
    workers   threads that hash; memory does not grow with the files
    watch     sees the results pass by, with their number: for a line on how far it is

    Files whose size and times the index knows are not read again. One that changed less than two
    seconds before it was hashed is hashed again next time ("racily clean" in git). A missing or
    damaged index is made anew; one that cannot be written is an AnystepWarning. Of two processes
    that write it at once one wins.
    """
    known, hashes, unknown = _read(index), {}, []
    for path in dict.fromkeys(paths):
        *state, found = known.get(os.path.abspath(path), [None])
        if found is not None and state == _state(path):
            hashes[path] = found
        else:
            unknown.append(path)
    new: dict[str, list[Any]] = {}
    written = time.monotonic()
    results = watch(map_ahead(_hashed, unknown, workers, ahead=8), len(unknown))
    for path, (state, found, certain) in zip(unknown, results, strict=True):
        hashes[path] = found
        if certain:
            new[os.path.abspath(path)] = [*state, found]
        if new and time.monotonic() - written >= SECONDS_BETWEEN_WRITES:
            _write(index, new)
            new, written = {}, time.monotonic()
    if new:
        _write(index, new)
    return hashes

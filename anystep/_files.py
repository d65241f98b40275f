"""Files that are whole or absent, and hashes of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anystep._errors import UsageError

Json = dict[str, Any]  # what a JSON file holds


def regular(path: str | os.PathLike[str]) -> Path:
    """`path` if a file lies there; a folder, a device or a pipe is refused: it may never end.

    Error: `OSError` if nothing is there.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UsageError(f"{os.fspath(path)} must be a file; it is a folder, a device or a pipe")
    return Path(path)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`: it replaces `path` if the block ends well, else it vanishes.

    A process killed inside the block leaves the old file. The data are on disk before the rename.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp made it private; a result is for the whole group
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write `content`, whole or not at all. Error: `OSError` with the path, for a full disk say."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        size = f"{len(content) / 2**20:.1f} MiB"
        raise OSError(f"could not write {path} ({size}): {error.strerror}") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def content_hash(*parts: Any) -> str:
    """Sixteen hex digits that name content: bytes as they are, anything else as sorted JSON."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def file_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

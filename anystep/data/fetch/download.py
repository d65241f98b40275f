"""One file from the net to the disk: resumed where it broke off, checked, and whole or absent.

What may come is known by its checksum, so nothing that a server says about the file is trusted and
nothing needs to be remembered beside a part of it: a part of something else ends as a wrong
checksum, and the file is then fetched from its start.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anystep import __version__
from anystep._errors import UsageError

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where they are known
CHUNK = 1 << 18
GAIN = 1 << 20  # an attempt that brings so many new bytes makes the count of failures start anew
TIMEOUT = 30.0  # seconds without a byte after which a connection counts as dead
ATTEMPTS = 5  # connections in a row that may fail
PAUSE = 1.0  # seconds after the first failure; then twice as many each time, up to 30
PASSING = {408, 425, 429, 500, 502, 503, 504}  # what a server says when it may be better later
# A broken TLS record or a network that went away is an OSError of no class of its own.
NETWORK = (OSError, http.client.HTTPException)


def difference(path: Path, checksum: str) -> str:
    """What is wrong with a file that must have this checksum, md5:<hex> or sha256:<hex>, or "".

    MD5 finds damage, not malice; it is what most releases state.
    """
    kind, _, wanted = checksum.partition(":")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    found = digest.hexdigest()
    return "" if found == wanted else f"its {kind} must be {wanted}, got {found}"


class _Broken(Exception):
    """An attempt failed in a way that may pass."""


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {TIMEOUT:g} s"
    return f"the connection broke ({cause or type(cause).__name__})"


@dataclass(frozen=True)
class _Transfer:
    """A file on its way: `part` grows until it is whole."""

    url: str
    part: Path
    size: int | None
    progress: Progress

    def there(self) -> int:
        """Bytes that have come."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def run(self) -> bool:
        """Connect again and again until all is there; whether it came in several pieces."""
        failures, best = 0, self.there()
        while True:
            try:
                return self.attempt()
            except _Broken as error:
                kept = self.there()
                failures = 1 if kept >= best + GAIN else failures + 1
                best = max(best, kept)
                if failures >= ATTEMPTS:
                    raise ConnectionError(
                        f"{self.url}: {error}; gave up after {failures} failures in a row. "
                        f"{kept:,} bytes are kept in {self.part}: run again to go on"
                    ) from error
            time.sleep(min(30.0, PAUSE * 2 ** (failures - 1)))

    def attempt(self) -> bool:
        """One connection: what is missing is asked for and appended; whether there was a part."""
        with self.connect(self.there()) as answer:
            if answer.headers.get_content_type() == "text/html":
                rule = "the server sent a web page in place of the file; look at it in a browser"
                raise UsageError(f"{self.url}: {rule}")
            start = self.there() if answer.status == 206 else 0  # 200: it knows no ranges
            total = self.size if answer.length is None else start + answer.length
            if self.size not in (None, total):
                self.part.unlink(missing_ok=True)
                rule = f"it must have {self.size:,} bytes, the server has {total:,}"
                raise UsageError(f"{self.url}: {rule}")
            self.check_room(start, total)
            self.append(answer, start, total)
        return start > 0

    def connect(self, start: int) -> http.client.HTTPResponse:
        """The server's answer to a request for all from byte `start` on."""
        headers = {"User-Agent": f"anystep/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(self.url, headers=headers)
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
            return answer
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the part is longer than the file
                self.part.unlink(missing_ok=True)
            says = f"the server says {error.code} {error.reason}"
            if error.code in PASSING | {416}:
                raise _Broken(says) from error
            raise ConnectionError(f"{self.url}: {says}") from error
        except NETWORK as error:
            raise _Broken(_reason(error)) from error

    def check_room(self, start: int, total: int | None) -> None:
        """A disk that is too small is named before the first byte."""
        place = self.part.parent
        free = shutil.disk_usage(place).free
        if total is not None and total - start > free:
            left = f"{total - start:,} bytes and the disk of {place} has {free:,} left"
            raise OSError(errno.ENOSPC, f"{self.url} needs {left}")

    def append(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> None:
        """Write what comes to the part, flushed at once, so that a kill loses nothing."""
        done = start
        with self.part.open("ab" if start else "wb") as file:
            self.progress(done, total)
            while piece := self.read(answer):
                try:
                    file.write(piece)
                    file.flush()
                except OSError as error:
                    text = f"could not write {self.part} ({error.strerror or error})"
                    kept = f"{self.there():,} bytes are kept: free some space and run again"
                    raise OSError(error.errno, f"{text}. {kept} to go on") from error
                done += len(piece)
                self.progress(done, total)
        if total is not None and done < total:
            raise _Broken(f"the connection ended after {done:,} of {total:,} bytes")

    def read(self, answer: http.client.HTTPResponse) -> bytes:
        """What one look at the connection brings: a stall loses nothing that came before it."""
        try:
            return answer.read1(CHUNK)
        except NETWORK as error:
            raise _Broken(_reason(error)) from error


def download(
    url: str,
    target: Path,
    *,
    checksum: str,
    size: int | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Fetch `url` into the file `target`, which appears only when its checksum is right.

    checksum   as in `difference`
    size       bytes it must have, if known

    What has come lies in <target>.part and is kept through a cut, a stall, a full disk or a kill;
    the next call asks for the rest.

    Errors: UsageError for another size, a web page in place of the file, or, with what came
    deleted, a wrong checksum; ConnectionError when the server says no or the attempts are used up;
    OSError for a full disk.
    """
    part = target.with_name(f"{target.name}.part")
    transfer = _Transfer(url, part, size, progress)
    if not part.is_file() or difference(part, checksum):
        in_pieces = transfer.run()
        if in_pieces and difference(part, checksum):  # pieces of different files
            part.unlink()
            transfer.run()
    if wrong := difference(part, checksum):
        part.unlink()
        raise UsageError(f"{url}: {wrong}; what came was deleted")
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)

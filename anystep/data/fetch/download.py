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
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from anystep import __version__
from anystep._errors import UsageError

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where they are known
CHUNK = 1 << 18
GAIN = 1 << 20  # an attempt that brings so many new bytes makes the count of failures start anew
# A server that drips keeps a connection alive for ever: slower than this counts as silence.
SLOWEST, LOOK = 1000, 10.0  # bytes a second, measured over so many seconds (or the timeout)
DIGITS = {"md5": 32, "sha256": 64}
PASSING = {408, 425, 429, 500, 502, 503, 504}  # what a server says when it may be better later
# A broken TLS record or a network that went away is an OSError of no class of its own.
NETWORK = (OSError, http.client.HTTPException)


def parse_checksum(checksum: str, what: str) -> tuple[str, str]:
    """("md5" or "sha256", hex digits); anything else is refused.

    >>> parse_checksum("md5:a9c207c91c55b9dc2002dc21c684d785", "bird.zip")
    ('md5', 'a9c207c91c55b9dc2002dc21c684d785')
    """
    kind, _, value = checksum.partition(":")
    if kind not in DIGITS or not re.fullmatch(rf"[0-9a-f]{{{DIGITS[kind]}}}", value):
        allowed = " or ".join(f"{name}:<{count} hex digits>" for name, count in DIGITS.items())
        raise UsageError(f"{what}: checksum must be {allowed}, got {checksum!r}")
    return kind, value


def digest(path: str | os.PathLike[str], kind: str) -> str:
    """Hex digest of a file by "md5" or "sha256", read in pieces."""
    with Path(path).open("rb") as file:
        # MD5 finds damage, not malice; it is what most releases state.
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()


class _Broken(Exception):
    """An attempt failed in a way that may pass."""


def _reason(error: BaseException, timeout: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {timeout:g} s"
    return f"the connection broke ({cause or type(cause).__name__})"


@dataclass(frozen=True)
class _Transfer:
    """A file on its way: `part` grows until it is whole."""

    url: str
    part: Path
    size: int | None
    timeout: float
    progress: Progress | None

    def there(self) -> int:
        """Bytes that have come."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def run(self, attempts: int, pause: float) -> bool:
        """Connect again and again until all is there; whether it came in several pieces."""
        failures, best = 0, self.there()
        while True:
            try:
                return self.attempt()
            except _Broken as error:
                kept = self.there()
                failures = 1 if kept >= best + GAIN else failures + 1
                best = max(best, kept)
                if failures >= attempts:
                    raise ConnectionError(
                        f"{self.url}: {error}; gave up after {failures} failures in a row. "
                        f"{kept:,} bytes are kept in {self.part}: run again to go on"
                    ) from error
            time.sleep(min(30.0, pause * 2 ** (failures - 1)))

    def attempt(self) -> bool:
        """One connection: what is missing is asked for and appended; whether there was a part."""
        with self.connect(self.there()) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise UsageError(
                    f"{self.url}: the server sent a web page in place of the file; "
                    "look at it in a browser"
                )
            start = self.there() if answer.status == 206 else 0  # 200: it knows no ranges
            total = self.size if answer.length is None else start + answer.length
            if self.size not in (None, total):
                self.part.unlink(missing_ok=True)
                raise UsageError(
                    f"{self.url}: it must have {self.size:,} bytes, the server has {total:,}"
                )
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
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self.timeout)
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
            raise _Broken(_reason(error, self.timeout)) from error

    def check_room(self, start: int, total: int | None) -> None:
        """A disk that is too small is named before the first byte."""
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise OSError(
                errno.ENOSPC,
                f"{self.url} needs {total - start:,} bytes and the disk of {self.part.parent} "
                f"has {free:,} left",
            )

    def append(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> None:
        """Write what comes to the part."""
        done = mark = start
        since = time.monotonic()
        with self.part.open("ab" if start else "wb") as file:
            self.report(done, total)
            while piece := self.read(answer):
                self.write(file, piece)
                done += len(piece)
                self.report(done, total)
                if (passed := time.monotonic() - since) >= max(self.timeout, LOOK):
                    if done - mark < SLOWEST * passed:
                        raise _Broken(f"only {done - mark:,} bytes came in {passed:.0f} s")
                    mark, since = done, time.monotonic()
        if total is not None and done < total:
            raise _Broken(f"the connection ended after {done:,} of {total:,} bytes")

    def read(self, answer: http.client.HTTPResponse) -> bytes:
        """What one look at the connection brings: a stall loses nothing that came before it."""
        try:
            return answer.read1(CHUNK)
        except NETWORK as error:
            raise _Broken(_reason(error, self.timeout)) from error

    def write(self, file: IO[bytes], piece: bytes) -> None:
        """Flushed at once, so that a kill loses nothing."""
        try:
            file.write(piece)
            file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"could not write {self.part} ({error.strerror or error}). "
                f"{self.there():,} bytes are kept: free some space and run again to go on",
            ) from error

    def report(self, done: int, total: int | None) -> None:
        """Tell whoever draws."""
        if self.progress is not None:
            self.progress(done, total)


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    checksum: str,
    size: int | None = None,
    timeout: float = 30.0,
    attempts: int = 5,
    pause: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Fetch `url` into the file `target`, which appears only when its checksum is right.

    checksum   "md5:<hex>" or "sha256:<hex>"
    size       bytes it must have, if known
    timeout    seconds without a byte after which a connection counts as dead; so does one that
               brings less than 1,000 bytes a second for 10 seconds (or the timeout, if longer)
    attempts   connections in a row that may fail without a MiB of progress
    pause      seconds after the first failure; then twice as many each time, up to 30

    What has come lies in <target>.part and is kept through a cut, a stall, a full disk or a kill;
    the next call asks for the rest.

    Errors: UsageError for a bad checksum, another size, a web page in place of the file, or, with
    what came deleted, a wrong checksum; ConnectionError when the server says no or the attempts are
    used up; OSError for a full disk.
    """
    kind, wanted = parse_checksum(checksum, url)
    target = Path(target)
    part = target.with_name(f"{target.name}.part")
    transfer = _Transfer(url, part, size, timeout, progress)
    if not part.is_file() or digest(part, kind) != wanted:
        in_pieces = transfer.run(attempts, pause)
        if in_pieces and digest(part, kind) != wanted:  # pieces of different files
            part.unlink()
            transfer.run(attempts, pause)
    found = digest(part, kind)
    if found != wanted:
        part.unlink()
        raise UsageError(
            f"{url}: its {kind} must be {wanted}, what came has {found} and was deleted"
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    return target

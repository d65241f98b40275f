"""One file from the net to the disk: resumed where it broke off, checked, and whole or absent."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anystep import __version__
from anystep._errors import UsageError
from anystep._files import write_json

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where they are known
CHUNK = 1 << 18
GAIN = (
    1 << 20
)  # bytes beyond all that came before: an attempt that brings them makes the count of failures start anew
# A server that drips keeps a connection alive for ever: slower than this over this long is as dead
# as silence.
SLOWEST, LOOK = 1000, 10.0  # bytes a second, and seconds, at least the timeout
DIGITS = {"md5": 32, "sha256": 64}
PASSING = {408, 425, 429, 500, 502, 503, 504}  # what a server says when it may be better later
# A broken TLS record or a network that went away is an OSError of no class of its own. Only
# connections are read under these.
NETWORK = (OSError, http.client.HTTPException)


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    checksum: str | None,
    size: int | None = None,
    timeout: float = 30.0,
    attempts: int = 5,
    pause: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Fetch `url` into the file `target`, which appears only when it is whole and its checksum is
    right.

    checksum   "md5:<hex>" or "sha256:<hex>"; without one nothing is fetched
    size       bytes it must have, if known
    timeout    seconds without a byte, or (10 at least) with less than 1,000 a second, after which a
               connection counts as dead
    attempts   how many connections in a row may fail without a MiB of progress; after the first
               `pause` seconds pass, then
               twice as many, up to 30

    What has come lies in <target>.part and is kept through a cut, a stall, a full disk or a kill;
    the next call asks for the
    rest (Range with If-Range) and starts over if the server does not know ranges or has another
    file now.

    Errors: ValueError for a bad address or checksum, and, with the part deleted, for another size,
    a web page in place of the file or a wrong checksum; ConnectionError when the server says no or
    the attempts are used up; OSError for a full disk.
    """
    kind, wanted = parse_checksum(checksum, url)
    check_url(url)
    if not timeout > 0 or attempts < 1:
        raise UsageError(
            f"download: timeout must be > 0 and attempts >= 1, got {timeout} and {attempts}"
        )
    target = Path(target)
    beside = (target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json"))
    transfer = _Transfer(url, *beside, size=size, timeout=timeout, progress=progress)
    _insist(transfer, attempts, pause)
    found = digest(transfer.part, kind)
    if found != wanted:
        transfer.drop()
        raise UsageError(
            f"{url}: its {kind} must be {wanted}, what came has {found} and was deleted"
        )
    with transfer.part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(transfer.part, target)
    transfer.note.unlink(missing_ok=True)
    return target


def parse_checksum(checksum: str | None, what: str) -> tuple[str, str]:
    """("md5" or "sha256", hex digits), or an error for anything else; None is an unknown checksum
    and refused.

    >>> parse_checksum("md5:a9c207c91c55b9dc2002dc21c684d785", "bird.zip")
    ('md5', 'a9c207c91c55b9dc2002dc21c684d785')
    """
    if checksum is None:
        raise UsageError(f"{what}: no checksum of it is known, so it is not fetched")
    kind, _, value = checksum.partition(":")
    if not re.fullmatch(rf"[0-9a-f]{{{DIGITS.get(kind, 0)}}}", value) or not value:
        raise UsageError(
            f"{what}: checksum must be md5:<32 hex digits> or sha256:<64 hex digits>, got {checksum!r}"
        )
    return kind, value


def check_url(url: str, before: str = "") -> None:
    """Only http and https are fetched."""
    if not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise UsageError(f"{before}{url!r}: only http:// and https:// addresses are fetched")


def digest(path: str | os.PathLike[str], kind: str) -> str:
    """Hex digest of a file by "md5" or "sha256", read in pieces."""
    with Path(path).open(
        "rb"
    ) as file:  # MD5 finds damage, not malice; it is what most releases state
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()


def check_room(folder: Path, need: int | None, what: str) -> None:
    """An error before the work if the disk of `folder` has not the `need`ed bytes."""
    free = shutil.disk_usage(folder).free
    if need is not None and need > free:
        raise OSError(
            errno.ENOSPC, f"{what} needs {need:,} bytes and the disk of {folder} has {free:,} left"
        )


def _insist(transfer: _Transfer, attempts: int, pause: float) -> None:
    failures, best = 0, transfer.size_of_part()
    while True:
        try:
            return transfer.attempt()
        except _Broken as error:
            kept = transfer.size_of_part()
            failures = 1 if kept >= best + GAIN else failures + 1
            best = max(best, kept)
            if failures >= attempts:
                raise ConnectionError(
                    f"{transfer.url}: {error}; gave up after {failures} failures in a row. "
                    f"{kept:,} bytes are kept in {transfer.part}: run again to go on"
                ) from error
        time.sleep(min(30.0, pause * 2 ** (failures - 1)))


class _Broken(Exception):
    """An attempt failed in a way that may pass."""


@dataclass(frozen=True)
class _Origin:
    """What a part is a part of: kept beside it, so that the next try asks for the rest of the same
    thing.
    """

    url: str
    etag: str | None
    modified: str | None
    total: int | None


@dataclass(frozen=True)
class _Transfer:
    """A file on its way: `part` grows, `note` says of what it is a part."""

    url: str
    part: Path
    note: Path
    size: int | None
    timeout: float
    progress: Progress | None

    def attempt(self) -> None:
        """One connection: find where to go on, and append until all is there."""
        start, origin = self.kept()
        total = self.size if self.size is not None else (origin.total if origin else None)
        if total is not None and start > total:
            self.drop()
            start, origin = 0, None
        if start and start == total:
            return  # killed between the last byte and the check
        with self.connect(start, origin) as answer:
            start, total = self.agree(answer, start, origin)
            check_room(self.part.parent, None if total is None else total - start, self.url)
            self.append(answer, start, total)

    def kept(self) -> tuple[int, _Origin | None]:
        """Bytes of an earlier try and their origin, if they can be gone on with."""
        try:
            origin = _Origin(**json.loads(self.note.read_text(encoding="utf-8")))
        except (
            OSError,
            ValueError,
            TypeError,
        ):  # no note, or one that was damaged: the part is of no use
            origin = None
        known = origin is not None and (origin.etag or origin.modified or origin.total is not None)
        if origin is None or not known or origin.url != self.url or not self.size_of_part():
            self.drop()
            return 0, None
        return self.size_of_part(), origin

    def connect(self, start: int, origin: _Origin | None) -> http.client.HTTPResponse:
        """The server's answer to a request for all, or for what is missing from `start` if nothing
        has changed.
        """
        headers = {"User-Agent": f"anystep/{__version__}", "Accept-Encoding": "identity"}
        if start and origin:
            headers["Range"] = f"bytes={start}-"
            if condition := origin.etag or origin.modified:
                headers["If-Range"] = condition
        try:
            answer: http.client.HTTPResponse = _opener().open(
                urllib.request.Request(self.url, headers=headers), timeout=self.timeout
            )
            return answer
        except urllib.error.HTTPError as error:
            error.close()
            says = f"the server says {error.code} {error.reason}"
            if error.code == 416:  # asked for what lies beyond the end
                self.drop()
                raise _Broken("the server has a shorter file than it said") from error
            if error.code in PASSING:
                raise _Broken(says) from error
            raise ConnectionError(f"{self.url}: {says}") from error
        except NETWORK as error:
            raise _Broken(_reason(error, self.timeout)) from error

    def agree(
        self, answer: http.client.HTTPResponse, start: int, origin: _Origin | None
    ) -> tuple[int, int | None]:
        """Where the answer's bytes belong and how many there are in all; a changed file starts
        over.
        """
        if (answer.headers.get_content_type() or "") in ("text/html", "application/xhtml+xml"):
            self.refuse_page()
        etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        etag = (
            etag if etag and not etag.startswith("W/") else None
        )  # a weak one does not promise equal bytes
        if answer.status == 206 and start and origin:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            same = (
                found is not None
                and int(found[1]) == start
                and origin.total in (None, int(found[2]))
            )
            if found is None or not same or (origin.etag and etag and origin.etag != etag):
                self.drop()
                raise _Broken("the server sent a piece of something else")
            total: int | None = int(found[2])
        elif answer.status == 200:
            stated = answer.headers.get("Content-Length", "")
            start, total = 0, int(stated) if stated.isdecimal() and stated.isascii() else None
        else:
            raise ConnectionError(
                f"{self.url}: the server says {answer.status} {answer.reason} to a request for a file"
            )
        if self.size is not None and total not in (None, self.size):
            self.drop()
            raise UsageError(
                f"{self.url}: it must have {self.size:,} bytes, the server has {total:,}"
            )
        if start == 0:
            self.part.write_bytes(
                b""
            )  # before the note: an old part never stands beside a new note
            write_json(self.note, asdict(_Origin(self.url, etag, modified, total)))
        return start, self.size if total is None else total

    def append(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> None:
        """Write what comes to the part, and make sure that it is all and no more."""
        done = mark = start
        since = time.monotonic()
        with self.part.open(
            "ab", buffering=0
        ) as file:  # unbuffered: what came is on the disk if we are killed
            self.report(done, total)
            while piece := self.read(answer):
                if done == 0 and re.match(
                    rb"\s*<(!doctype\s+html|html)", piece[:512], re.IGNORECASE
                ):
                    self.refuse_page()
                if total is not None and done + len(piece) > total:
                    self.drop()
                    raise UsageError(
                        f"{self.url}: the server sends more than {total:,} bytes; all was deleted"
                    )
                try:
                    _write(file, piece)
                except OSError as error:
                    raise OSError(
                        error.errno,
                        f"could not write {self.part} ({error.strerror or error}). "
                        f"{self.size_of_part():,} bytes are kept: free some space and run again to go on",
                    ) from error
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

    def report(self, done: int, total: int | None) -> None:
        """Tell whoever draws."""
        if self.progress is not None:
            self.progress(done, total)

    def refuse_page(self) -> None:
        """A login, a notice or an error, sent as if it were the file."""
        self.drop()
        raise UsageError(
            f"{self.url}: the server sent a web page in place of the file; look at it in a browser"
        )

    def size_of_part(self) -> int:
        """Bytes that are there."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def drop(self) -> None:
        """Forget what came."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows http and https, and no file: or ftp: address that a server might point to."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = headers.get("location") or headers.get("uri") or ""
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", target):
            check_url(target, f"{req.full_url} points to ")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """http, https, redirects and the proxy of the environment; nothing that opens files or ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _write(file: Any, piece: bytes) -> None:
    """All of it: an unbuffered file may take less at a time."""
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def _reason(error: BaseException, timeout: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {timeout:g} s"
    return f"the connection broke ({cause or type(cause).__name__})"

"""A server on this machine that does to a download what the net does: cuts, stalls, lies and
changes its mind.
"""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Flaky:
    """What the server has and how it behaves; each list is used up, one entry a request, then it
    behaves.

    files      path -> content
    cut        bytes of the body after which it closes the connection
    stall      bytes after which it says nothing more until the test ends
    drips      whether it sends a byte now and then while it stalls
    status     answers of this status instead of the file
    claim      Content-Length in place of the true one; None: none is sent
    ranges     whether it knows ranges          etag, modified   what it says of the file; None:
               nothing
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: list[int | None] = field(default_factory=list)
    stall: list[int | None] = field(default_factory=list)
    status: list[int | None] = field(default_factory=list)
    claim: list[int | None] = field(default_factory=list)
    redirect: dict[str, str] = field(default_factory=dict)
    drips: bool = False
    ranges: bool = True
    etag: str | None = '"one"'
    modified: str | None = None
    kind: str = "application/octet-stream"
    before: Callable[[], None] | None = None
    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    served: int = 0
    over: threading.Event = field(default_factory=threading.Event)


class _Handler(http.server.BaseHTTPRequestHandler):
    flaky: Flaky

    def do_GET(self) -> None:
        flaky = self.flaky
        flaky.asked.append(dict(self.headers))
        if flaky.before:
            flaky.before()
        if code := _next(flaky.status):
            self.send_error(code)
        elif self.path in flaky.redirect:
            self.send_response(302)
            self.send_header("Location", flaky.redirect[self.path])
            self.end_headers()
        elif self.path not in flaky.files:
            self.send_error(404)
        else:
            self.send(flaky, flaky.files[self.path])

    def send(self, flaky: Flaky, content: bytes) -> None:
        start = self.start(flaky)
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        body = content[start:]
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        claimed = flaky.claim.pop(0) if flaky.claim else len(body)
        for name, value in (
            ("Content-Length", claimed),
            ("ETag", flaky.etag),
            ("Last-Modified", flaky.modified),
            ("Content-Type", flaky.kind),
        ):
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        cut, stall = _next(flaky.cut), _next(flaky.stall)
        part = body[: len(body) if cut is None else cut][: len(body) if stall is None else stall]
        self.wfile.write(part)
        flaky.served += len(part)
        if stall is not None:
            self.wfile.flush()
            for byte in body[len(part) :] if flaky.drips else b"":
                if flaky.over.wait(0.02):
                    break
                self.wfile.write(bytes([byte]))
            flaky.over.wait(10)
        self.close_connection = True

    def start(self, flaky: Flaky) -> int:
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if (
            not wanted
            or not flaky.ranges
            or (condition and condition not in (flaky.etag, flaky.modified))
        ):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def _next(values: list[int | None]) -> int | None:
    return values.pop(0) if values else None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = (
            "localhost",
            self.server_address[1],
        )  # no look-up of the machine's name


@contextmanager
def flaky_server() -> Iterator[Flaky]:
    """A running server; its address is `url`, without a slash at the end."""
    flaky = Flaky()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"flaky": flaky}))
    flaky.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield flaky
    finally:
        flaky.over.set()
        server.shutdown()
        server.server_close()
        thread.join()

"""A server on this machine that treats a download as the net does: it cuts, stalls, refuses."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Flaky:
    """What the server has and how it behaves; a list is used up, one entry a request.

    files    path -> content
    cut      bytes of the body after which it closes the connection
    stall    bytes after which it says nothing more until the test ends
    status   answers of this status instead of the file
    ranges   whether it knows ranges
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)
    stall: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    ranges: bool = True
    kind: str = "application/octet-stream"
    url: str = ""
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    over: threading.Event = field(default_factory=threading.Event)


class _Handler(http.server.BaseHTTPRequestHandler):
    flaky: Flaky

    def do_GET(self) -> None:
        flaky = self.flaky
        wanted, content = self.headers.get("Range"), flaky.files.get(self.path)
        flaky.asked.append(wanted)
        start = int(wanted[len("bytes=") : -1]) if wanted and flaky.ranges else 0
        if flaky.status or content is None:
            self.send_error(flaky.status.pop(0) if flaky.status else 404)
        elif start and start >= len(content):
            self.send_error(416)
        else:
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", flaky.kind)
            self.end_headers()
            stops = flaky.cut or flaky.stall
            waits = bool(stops) and not flaky.cut
            end = stops.pop(0) if stops else len(content)
            self.wfile.write(content[start:][:end])
            if waits:
                flaky.over.wait(10)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


@contextmanager
def flaky_server() -> Iterator[Flaky]:
    """A running server; its address is `url`, without a slash at the end."""
    flaky = Flaky()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"flaky": flaky}))
    flaky.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield flaky
    finally:
        flaky.over.set()
        server.shutdown()
        server.server_close()

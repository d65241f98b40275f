"""Downloads from a server that breaks and stalls: whole and checked, or what came is kept."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import random
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import time

import pytest
from flaky_server import flaky_server

from anystep.data.fetch import download as module
from anystep.data.fetch.download import download

CONTENT = random.Random(0).randbytes(1 << 20) + b"the end"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def server():
    with flaky_server() as flaky:
        flaky.files["/a.zip"] = CONTENT
        yield flaky


@pytest.fixture
def fetch(server, tmp_path):
    """Download a.zip into the empty folder tmp_path."""

    def run(**options):
        options = {"checksum": MD5, "timeout": 0.2, "pause": 0.0, **options}
        return download(f"{server.url}/a.zip", tmp_path / "a.zip", **options)

    return run


def holds(tmp_path, content: bytes = CONTENT) -> bool:
    """The folder holds the file and nothing else."""
    return os.listdir(tmp_path) == ["a.zip"] and (tmp_path / "a.zip").read_bytes() == content


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_file_comes_whole_and_leaves_nothing_beside_it(fetch, tmp_path, kind):
    told = []
    checksum = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    fetch(checksum=checksum, size=len(CONTENT), progress=lambda *both: told.append(both))
    assert holds(tmp_path)
    assert (told[0], told[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))


def test_a_cut_connection_goes_on_where_it_broke(fetch, server, tmp_path):
    server.cut = [300_000, 200_000]
    fetch()
    assert holds(tmp_path)
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_stall_is_an_end_and_what_came_before_it_is_kept(fetch, server, tmp_path):
    server.stall = [1000, 0, 0]
    with pytest.raises(ConnectionError, match=r"nothing came.* 3 failures.*1,000 bytes are kept"):
        fetch(attempts=3)
    assert os.listdir(tmp_path) == ["a.zip.part"]
    fetch()
    assert holds(tmp_path)
    assert server.asked[-1] == "bytes=1000-"


def test_a_server_that_drips_is_a_stall_too(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.5)
    server.stall, server.drips = [300_000], True
    with pytest.raises(ConnectionError, match=r"only \d+ bytes came in"):
        fetch(attempts=1)
    fetch()
    assert holds(tmp_path)


@pytest.mark.parametrize("error", [ssl.SSLError("bad record"), OSError(errno.EHOSTUNREACH, "gone")])
def test_a_network_that_goes_away_is_a_cut(fetch, server, tmp_path, monkeypatch, error):
    whole, pieces = http.client.HTTPResponse.read1, []

    def once(self, n=-1):
        pieces.append(n)
        if len(pieces) == 2:
            raise error
        return whole(self, n)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", once)
    fetch()
    assert holds(tmp_path)
    assert len(server.asked) == 2


def test_a_server_without_ranges_starts_over(fetch, server, tmp_path):
    server.ranges, server.cut = False, [300_000]
    fetch()
    assert holds(tmp_path)


@pytest.mark.parametrize("part", [b"x" * 1000, CONTENT + b"more", b""], ids=len)
def test_a_part_of_something_else_costs_a_second_fetch_and_nothing_more(fetch, tmp_path, part):
    (tmp_path / "a.zip.part").write_bytes(part)
    fetch()
    assert holds(tmp_path)


def test_a_part_that_is_already_whole_needs_no_server(fetch, server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    fetch()
    assert holds(tmp_path)
    assert server.asked == []


def test_a_wrong_checksum_names_both_and_keeps_only_what_stood_there(fetch, server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"mine")
    server.files["/a.zip"] = b"another file"
    found = hashlib.md5(b"another file").hexdigest()
    with pytest.raises(ValueError, match=f"must be {MD5[4:]}, what came has {found}"):
        fetch()
    assert holds(tmp_path, b"mine")


@pytest.mark.parametrize(
    ("kind", "size", "word"),
    [("text/html; charset=utf-8", None, "a web page"), ("a/b", 10, "10 bytes, the server has")],
)
def test_what_cannot_be_the_file_is_refused_before_it_comes(
    fetch, server, tmp_path, kind, size, word
):
    server.kind = kind
    with pytest.raises(ValueError, match=word):
        fetch(size=size)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("checksum", ["", "md5:", "md5:xyz", "sha1:" + "0" * 40, MD5.upper()])
def test_a_checksum_of_another_form_is_refused(fetch, server, checksum):
    with pytest.raises(ValueError, match="checksum must be md5:"):
        fetch(checksum=checksum)
    assert server.asked == []


@pytest.mark.parametrize(("code", "times"), [(404, 1), (403, 1), (503, 4), (429, 4)])
def test_a_server_that_says_no_is_asked_once_and_one_in_trouble_again(fetch, server, code, times):
    server.status = [code] * 9
    with pytest.raises(ConnectionError, match=f"the server says {code}"):
        fetch(attempts=4)
    assert len(server.asked) == times


def test_a_full_disk_is_named_and_what_fitted_is_kept(fetch, server, tmp_path):
    """The limit of a file's size stands for the disk: the same call fails."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
    try:
        with pytest.raises(OSError, match=r"could not write .*300,000 bytes are kept: free"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    fetch()
    assert server.asked[-1] == "bytes=300000-"
    assert holds(tmp_path)


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(fetch, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 4, 5))
    with pytest.raises(OSError, match=r"needs 1,048,583 bytes and the disk .* has 5 left"):
        fetch()


def test_ctrl_c_keeps_what_came(fetch, server, tmp_path):
    def stop(done, _):
        if done >= 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(progress=stop)
    kept = (tmp_path / "a.zip.part").stat().st_size
    assert 200_000 <= kept < len(CONTENT)
    fetch()
    assert server.asked[-1] == f"bytes={kept}-"
    assert holds(tmp_path)


def test_a_killed_process_leaves_a_part_that_the_next_one_goes_on_with(fetch, server, tmp_path):
    server.stall = [700_000]
    code = "import sys\nfrom anystep.data.fetch.download import download\n"
    code += "download(sys.argv[1], sys.argv[2], checksum=sys.argv[3])"
    arguments = [f"{server.url}/a.zip", str(tmp_path / "a.zip"), MD5]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    part, end = tmp_path / "a.zip.part", time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size == 700_000) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fetch()
    assert server.asked[-1] == "bytes=700000-"
    assert holds(tmp_path)

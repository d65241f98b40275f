"""Downloads from a server that breaks and stalls: whole and checked, or what came is kept."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import time

import pytest
from flaky_server import flaky_server

from anystep.data.fetch import download as module

CONTENT = random.Random(0).randbytes(1 << 20) + b"the end"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def server():
    with flaky_server() as flaky:
        flaky.files["/a.zip"] = CONTENT
        yield flaky


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Download a.zip into tmp_path and see that it is whole and alone."""
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "ATTEMPTS", 4)
    target = tmp_path / "a.zip"

    def run(*, checksum: str = MD5, **options) -> None:
        module.download(f"{server.url}/a.zip", target, checksum=checksum, **options)
        assert os.listdir(tmp_path) == ["a.zip"]
        assert target.read_bytes() == CONTENT

    return run


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_file_comes_whole_and_leaves_nothing_beside_it(fetch, kind):
    told = []
    checksum = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    fetch(checksum=checksum, size=len(CONTENT), progress=lambda *both: told.append(both))
    assert (told[0], told[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))


def test_a_cut_connection_goes_on_where_it_broke_or_starts_over(fetch, server, tmp_path):
    server.cut = [300_000, 200_000]
    fetch()
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]
    (tmp_path / "a.zip").unlink()
    server.ranges, server.cut = False, [300_000]
    fetch()


def test_a_stall_is_an_end_and_what_came_before_it_is_kept(fetch, server, tmp_path):
    server.stall = [1000, 0, 0, 0]
    with pytest.raises(ConnectionError, match=r"nothing came.* 4 failures.*1,000 bytes are kept"):
        fetch()
    assert os.listdir(tmp_path) == ["a.zip.part"]
    fetch()
    assert server.asked[-1] == "bytes=1000-"


@pytest.mark.parametrize("part", [b"x" * 1000, CONTENT + b"more", b"", CONTENT], ids=len)
def test_a_part_of_something_else_costs_a_fetch_and_a_whole_one_none(fetch, server, tmp_path, part):
    (tmp_path / "a.zip.part").write_bytes(part)
    fetch()
    assert (server.asked == []) == (part == CONTENT)


def test_a_wrong_checksum_names_both_and_keeps_only_what_stood_there(fetch, server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"mine")
    server.files["/a.zip"] = b"another file"
    found = hashlib.md5(b"another file").hexdigest()
    with pytest.raises(ValueError, match=f"must be {MD5[4:]}, got {found}; what came was deleted"):
        fetch()
    assert os.listdir(tmp_path) == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == b"mine"


def test_what_cannot_be_the_file_is_refused_before_it_comes(fetch, server, tmp_path):
    with pytest.raises(ValueError, match="10 bytes, the server has"):
        fetch(size=10)
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="a web page"):
        fetch()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("code", "times"), [(404, 1), (403, 1), (503, 4), (429, 4)])
def test_a_server_that_says_no_is_asked_once_and_one_in_trouble_again(fetch, server, code, times):
    server.status = [code] * 9
    with pytest.raises(ConnectionError, match=f"the server says {code}"):
        fetch()
    assert len(server.asked) == times


def test_a_full_disk_is_named_and_what_fitted_is_kept(fetch, server, monkeypatch):
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
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 4, 5))
    with pytest.raises(OSError, match=r"needs 1,048,583 bytes and the disk .* has 5 left"):
        fetch()


def test_a_killed_process_leaves_a_part_that_the_next_one_goes_on_with(fetch, server, tmp_path):
    server.stall = [700_000]
    code = (
        "import sys\nfrom pathlib import Path\nfrom anystep.data.fetch.download import download\n"
    )
    code += "download(sys.argv[1], Path(sys.argv[2]), checksum=sys.argv[3])"
    arguments = [f"{server.url}/a.zip", str(tmp_path / "a.zip"), MD5]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    part, end = tmp_path / "a.zip.part", time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size == 700_000) and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    fetch()
    assert server.asked[-1] == "bytes=700000-"

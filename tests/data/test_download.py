"""Downloads from a server that breaks, lies and stalls: whole and checked, or absent with what came
kept.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flaky_server import flaky_server

from anystep.data.fetch import download as module
from anystep.data.fetch.download import digest, download, parse_checksum

CONTENT = random.Random(0).randbytes(1 << 20) + b"the end"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
QUICK = {"timeout": 0.2, "pause": 0.0}


@pytest.fixture
def server():
    with flaky_server() as flaky:
        flaky.files["/a.zip"] = CONTENT
        yield flaky


@pytest.fixture
def fetch(server, tmp_path):
    def run(path="/a.zip", **options):
        return download(
            server.url + path, tmp_path / "a.zip", **{"checksum": MD5, **QUICK, **options}
        )

    return run


def names(folder):
    return sorted(os.listdir(folder))


def test_a_file_comes_whole_and_leaves_nothing_beside_it(fetch, tmp_path):
    told = []
    assert fetch(progress=lambda done, total: told.append((done, total))) == tmp_path / "a.zip"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.zip"]
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_a_sha256_is_compared_too(fetch, tmp_path):
    fetch(checksum=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", size=len(CONTENT))
    assert names(tmp_path) == ["a.zip"]


def test_a_cut_connection_goes_on_where_it_broke(fetch, server, tmp_path):
    server.cut = [300_000, 200_000]
    fetch()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [asked.get("Range") for asked in server.asked] == [
        None,
        "bytes=300000-",
        "bytes=500000-",
    ]
    assert server.asked[1]["If-Range"] == '"one"'
    assert server.served == len(CONTENT)


def test_a_stall_is_an_end_and_what_came_before_it_is_kept(fetch, server, tmp_path):
    server.stall = [300_000]
    fetch()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.asked[1]["Range"] == "bytes=300000-"


def test_a_server_that_drips_is_a_stall_too(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.5)
    server.stall, server.drips = [300_000, 1000], True
    with pytest.raises(
        ConnectionError, match=r"only \d+ bytes came in .* s; gave up after 2 failures"
    ):
        fetch(attempts=2)
    fetch()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "error", [ssl.SSLError("bad record mac"), OSError(errno.EHOSTUNREACH, "No route to host")]
)
def test_a_network_that_goes_away_is_a_cut_like_any_other(
    fetch, server, tmp_path, monkeypatch, error
):
    whole, pieces = http.client.HTTPResponse.read1, []

    def once(self, n=-1):
        pieces.append(n)
        if len(pieces) == 2:
            raise error
        return whole(self, n)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", once)
    fetch()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [asked.get("Range", "")[:6] for asked in server.asked] == ["", "bytes="]


def test_a_server_that_never_answers_is_given_up_with_what_is_kept(fetch, server, tmp_path):
    server.stall = [1000, 0, 0]
    with pytest.raises(
        ConnectionError,
        match=r"nothing came for 0\.2 s; gave up after 3 failures.*1,000 bytes are kept",
    ):
        fetch(attempts=3)
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    fetch()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.asked[-1]["Range"] == "bytes=1000-"


def test_a_server_without_ranges_starts_over_and_the_file_is_still_right(fetch, server, tmp_path):
    server.ranges, server.cut = False, [300_000]
    fetch()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.served == 300_000 + len(CONTENT)


def test_a_file_that_changed_meanwhile_starts_over(fetch, server, tmp_path):
    other = os.urandom(400_000)
    server.cut = [300_000]

    def change():
        if len(server.asked) == 2:
            server.files["/a.zip"], server.etag = other, '"two"'

    server.before = change
    fetch(checksum=f"md5:{hashlib.md5(other).hexdigest()}")
    assert (tmp_path / "a.zip").read_bytes() == other


def test_a_change_that_if_range_missed_is_seen_in_the_answer(fetch, server, tmp_path):
    """No ETag and no date: the total of the answer is another one."""
    other = os.urandom(400_000)
    server.etag, server.cut = None, [300_000]

    def change():
        if len(server.asked) == 2:
            server.files["/a.zip"] = other

    server.before = change
    fetch(checksum=f"md5:{hashlib.md5(other).hexdigest()}")
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=300000-", None]
    assert (tmp_path / "a.zip").read_bytes() == other


def test_a_weak_tag_is_no_condition_but_a_date_is(fetch, server):
    server.etag, server.modified, server.cut = 'W/"one"', "Wed, 21 Oct 2015 07:28:00 GMT", [300_000]
    fetch()
    assert server.asked[1]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"


def test_a_length_that_is_a_lie_ends_after_the_attempts_although_each_brings_much(fetch, server):
    """Each start over brings more than GAIN, but never more than there was: no reason to hope."""
    server.ranges, server.claim = False, [len(CONTENT) + 5] * 20
    with pytest.raises(
        ConnectionError, match=r"ended after 1,048,583 of 1,048,588 bytes; gave up after 3 failures"
    ):
        fetch(attempts=3)
    assert len(server.asked) == 3


def test_a_lie_about_the_length_with_ranges_ends_as_well(fetch, server):
    """It is asked for what is beyond its end, says so, and is asked for all again."""
    server.claim = [len(CONTENT) + 5] * 20
    with pytest.raises(ConnectionError, match="gave up"):
        fetch(attempts=3)


def test_much_progress_between_cuts_never_gives_up(server, tmp_path):
    content = os.urandom(5 << 20)
    server.files["/b.zip"], server.cut = content, [1 << 20] * 4
    target = tmp_path / "b.zip"
    download(
        server.url + "/b.zip",
        target,
        checksum=f"md5:{hashlib.md5(content).hexdigest()}",
        attempts=2,
        **QUICK,
    )
    assert target.read_bytes() == content


def test_another_size_than_the_release_has_is_refused_before_the_body(fetch, server, tmp_path):
    with pytest.raises(ValueError, match="must have 10 bytes, the server has 1,048,583"):
        fetch(size=10)
    assert names(tmp_path) == []


def test_more_bytes_than_the_release_has_stop_the_download(fetch, server, tmp_path):
    server.files["/a.zip"], server.claim = os.urandom(8 << 20), [None]
    with pytest.raises(ValueError, match="more than 1,048,583 bytes"):
        fetch(size=len(CONTENT))
    assert names(tmp_path) == []


def test_a_wrong_checksum_says_both_and_keeps_nothing(fetch, server, tmp_path):
    server.files["/a.zip"] = b"another file"
    found = hashlib.md5(b"another file").hexdigest()
    with pytest.raises(ValueError, match=f"must be {MD5[4:]}, what came has {found}"):
        fetch()
    assert names(tmp_path) == []


def test_a_file_that_stood_there_stays_when_the_new_one_is_wrong(fetch, server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"mine")
    server.files["/a.zip"] = b"another file"
    with pytest.raises(ValueError, match="md5"):
        fetch()
    assert (tmp_path / "a.zip").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text/html; charset=utf-8", CONTENT),
        ("application/zip", b"\n <!DOCTYPE html><title>Log in</title>"),
    ],
)
def test_a_web_page_in_place_of_the_file_is_named(fetch, server, tmp_path, kind, content):
    server.kind, server.files["/a.zip"] = kind, content
    with pytest.raises(ValueError, match="a web page in place of the file"):
        fetch()
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_server_that_says_no_is_asked_once(fetch, server, code):
    server.status = [code] * 5
    with pytest.raises(ConnectionError, match=f"the server says {code}"):
        fetch()
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(fetch, server, tmp_path, code):
    server.status = [code, code]
    fetch()
    assert names(tmp_path) == ["a.zip"]
    assert len(server.asked) == 3


def test_a_server_that_stays_in_trouble_is_given_up(fetch, server):
    server.status = [500] * 9
    with pytest.raises(ConnectionError, match=r"the server says 500 .*gave up after 4 failures"):
        fetch(attempts=4)
    assert len(server.asked) == 4


def test_a_port_where_nobody_listens_is_given_up(tmp_path, server):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConnectionError, match=r"the connection broke .*0 bytes are kept"):
        download(
            f"http://127.0.0.1:{1 if port != 1 else 2}/a",
            tmp_path / "a",
            checksum=MD5,
            attempts=2,
            **QUICK,
        )


def test_a_redirect_is_followed_and_the_rest_is_asked_for_there(fetch, server, tmp_path):
    server.redirect["/here"], server.cut = "/a.zip", [300_000]
    fetch("/here")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.asked[-1]["Range"] == "bytes=300000-"


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://example.org/a", "data:text/plain,hello", "FILE:///etc/passwd"],
)
def test_a_redirect_to_something_else_than_http_is_refused(fetch, server, target, tmp_path):
    server.redirect["/here"] = target
    with pytest.raises(ValueError, match="only http:// and https://"):
        fetch("/here")
    assert names(tmp_path) == []


def test_a_circle_of_redirects_ends(fetch, server):
    server.redirect = {"/here": "/there", "/there": "/here"}
    with pytest.raises(ConnectionError, match="302"):
        fetch("/here")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/a", "/etc/passwd", "http:///a"]
)
def test_an_address_that_is_not_http_is_refused(tmp_path, url):
    with pytest.raises(ValueError, match="only http:// and https://"):
        download(url, tmp_path / "a", checksum=MD5)


@pytest.mark.parametrize(
    "checksum", ["", "md5:", "md5:xyz", "sha1:" + "0" * 40, MD5.upper(), "sha256:" + "0" * 32]
)
def test_a_checksum_of_another_form_is_refused(fetch, server, checksum):
    with pytest.raises(ValueError, match="checksum must be md5:"):
        fetch(checksum=checksum)
    assert server.asked == []


def test_a_file_without_a_known_checksum_is_not_fetched(fetch, server):
    with pytest.raises(ValueError, match="no checksum of it is known, so it is not fetched"):
        fetch(checksum=None)
    assert server.asked == []


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"attempts": 0}])
def test_times_and_counts_must_make_sense(fetch, options):
    with pytest.raises(ValueError, match="timeout must be > 0 and attempts >= 1"):
        fetch(**options)


def test_a_full_disk_is_named_and_what_fitted_is_kept(fetch, server, tmp_path, monkeypatch):
    write, room = module._write, [300_000]

    def full(file, piece):
        fits = piece[: room[0]]
        room[0] -= len(fits)
        write(file, fits)
        if len(fits) < len(piece):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(
        OSError, match=r"No space left on device\). 300,000 bytes are kept: free some space"
    ) as caught:
        fetch()
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    fetch()
    assert server.asked[-1]["Range"] == "bytes=300000-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(fetch, monkeypatch, tmp_path):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5)
    )
    with pytest.raises(
        OSError, match=r"needs 1,048,583 bytes and the disk of .* has 5 left"
    ) as caught:
        fetch()
    assert caught.value.errno == errno.ENOSPC


def test_ctrl_c_keeps_what_came(fetch, server, tmp_path):
    def stop(done, _):
        if done >= 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(progress=stop)
    kept = (tmp_path / "a.zip.part").stat().st_size
    assert 200_000 <= kept < len(CONTENT)
    fetch()
    assert server.asked[-1]["Range"] == f"bytes={kept}-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_killed_process_leaves_a_part_that_the_next_one_goes_on_with(fetch, server, tmp_path):
    server.stall = [700_000]
    code = "import sys\nfrom anystep.data.fetch.download import download\n"
    code += "download(sys.argv[1], sys.argv[2], checksum=sys.argv[3])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{server.url}/a.zip", str(tmp_path / "a.zip"), MD5]
    )
    part, end = tmp_path / "a.zip.part", time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size == 700_000) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    fetch()
    assert server.asked[-1]["Range"] == "bytes=700000-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def leave(tmp_path, part: bytes, note: object) -> Path:
    (tmp_path / "a.zip.part").write_bytes(part)
    (tmp_path / "a.zip.part.json").write_text(note if isinstance(note, str) else json.dumps(note))
    return tmp_path / "a.zip"


def note(server, **changes):
    return {
        "url": server.url + "/a.zip",
        "etag": '"one"',
        "modified": None,
        "total": len(CONTENT),
        **changes,
    }


def test_a_part_that_is_already_whole_needs_no_server(fetch, server, tmp_path):
    leave(tmp_path, CONTENT, note(server))
    fetch()
    assert server.asked == []
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 1}', "\x00"])
def test_a_part_whose_note_is_damaged_is_not_trusted(fetch, server, tmp_path, text):
    leave(tmp_path, b"rubbish", text)
    fetch()
    assert "Range" not in server.asked[0]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://example.org/other"},
        {"etag": '"old"'},
        {"etag": None, "total": None},
        {"total": 3},
    ],
)
def test_a_part_of_something_else_starts_over(fetch, server, tmp_path, changes):
    leave(tmp_path, b"rubbish", note(server, **changes))
    fetch()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_part_longer_than_the_servers_file_starts_over(fetch, server, tmp_path):
    leave(tmp_path, CONTENT + b"more", note(server, total=None))
    fetch()
    assert [asked.get("Range") for asked in server.asked] == [f"bytes={len(CONTENT) + 4}-", None]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_the_server_learns_who_asks_and_is_asked_for_plain_bytes(fetch, server):
    fetch()
    assert server.asked[0]["User-Agent"].startswith("anystep/")
    assert server.asked[0]["Accept-Encoding"] == "identity"


def test_the_digest_of_a_file_is_hashlibs(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert parse_checksum(MD5, "a") == ("md5", digest(tmp_path / "a", "md5"))
    assert digest(tmp_path / "a", "sha256") == hashlib.sha256(CONTENT).hexdigest()

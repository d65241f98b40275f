"""Files that are whole or absent, also when the process is killed or the disk is full."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import nullcontext

import pytest

from anystep._files import atomic_path, content_hash, write_json, write_text


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_replaces_the_file_if_it_ends_well_and_leaves_nothing_beside_it(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write():
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            assert target.read_text() == "old"
            if error:
                raise error

    with pytest.raises(error) if error else nullcontext():
        write()
    assert target.read_text() == ("old" if error else "new")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    code = (
        "import os, signal, sys\n"
        "from anystep._files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    write_text(target, "new")  # what the killed process left beside it is in nobody's way
    assert target.read_text() == "new"


def test_text_is_utf_8_json_reads_back_and_everyone_may_read(tmp_path):
    write_text(tmp_path / "a.txt", "mean ± sd")
    assert (tmp_path / "a.txt").read_bytes() == "mean ± sd".encode()
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644
    value = {"table": [{"t": 1, "top1": 95.5}], "none": None}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "b.json", {"a": object()})
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "a.txt", "words")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.txt"]


def test_a_hash_is_sixteen_hex_digits_that_stay_the_same_for_ever():
    # sha256 of the length in eight bytes and the sorted JSON, by hand: a cache made today must be
    # found tomorrow
    assert content_hash({"b": [1, 2.5, None], "a": "x"}) == "27093117994fc82e"
    assert content_hash({"a": "x", "b": [1, 2.5, None]}) == "27093117994fc82e"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", "c"), ("a", "bc")),
        ((b"ab", b"c"), (b"a", b"bc")),
        ((1,), ("1",)),
        ((1,), (1.0,)),
        ((True,), (1,)),
        ((None,), ("null",)),
        (([1, 2],), (1, 2)),
        ((), (b"",)),
        (({"a": 1},), ({"a": 2},)),
        (([1, 2],), ([2, 1],)),
    ],
)
def test_different_content_has_a_different_hash(first, second):
    assert content_hash(*first) != content_hash(*second)

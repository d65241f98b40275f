"""Files that are whole or absent, also when the process is killed or the disk is full."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from anystep._files import atomic_path, content_hash, write_json, write_text


def names(folder):
    return sorted(os.listdir(folder))


def test_a_block_that_ends_well_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fails():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fails()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_first_write_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert names(tmp_path) == []


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
    assert (
        subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode
        == -signal.SIGKILL
    )
    assert target.read_text() == "old"
    write_text(target, "new")  # what the killed process left beside it is in nobody's way
    assert target.read_text() == "new"


def test_a_written_file_can_be_read_by_everyone_and_written_by_its_owner(tmp_path):
    write_text(tmp_path / "a.txt", "words")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "a.txt", "words")


def test_text_is_utf_8_and_json_reads_back(tmp_path):
    write_text(tmp_path / "a.txt", "mean ± sd")
    assert (tmp_path / "a.txt").read_bytes() == "mean ± sd".encode()
    value = {"table": [{"t": 1, "top1": 95.5}], "none": None}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")


def test_a_hash_is_sixteen_hex_digits_that_stay_the_same_for_ever():
    # sha256 of the length in eight bytes and the sorted JSON, by hand: a cache made today must be
    # found tomorrow
    assert content_hash({"b": [1, 2.5, None], "a": "x"}) == "27093117994fc82e"
    assert content_hash(b"") == content_hash(b"")


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


def test_the_order_of_keys_is_no_content():
    assert content_hash({"a": {"x": 1, "y": 2}, "b": 3}) == content_hash(
        {"b": 3, "a": {"y": 2, "x": 1}}
    )


def test_content_without_a_json_form_is_an_error():
    with pytest.raises(TypeError):
        content_hash(object())

"""Hashes of what files hold: read once, known by size and times, never trusted where times cannot
tell.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from event_trees import TREES

from anystep import AnystepWarning
from anystep.data.datasets import load_dataset
from anystep.data.events import catalogue, contents
from anystep.data.events.contents import NO_FILE, RACY_NS, content_hashes
from anystep.data.frames import FixedDuration


@pytest.fixture
def files(tmp_path):
    """Three files, and an index that is not there yet."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_bytes(path.name.encode() * 5)
    return paths, tmp_path / "cache" / "index.json"


@pytest.fixture
def later(monkeypatch):
    """A clock for which the files of this test are old."""
    now = contents.time.time_ns
    monkeypatch.setattr(contents.time, "time_ns", lambda: now() + 2 * RACY_NS)


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are read."""
    names, hashed = [], contents._hashed
    monkeypatch.setattr(contents, "_hashed", lambda path: names.append(path.name) or hashed(path))
    return names


def hashes(paths, index):
    found = content_hashes(paths, index, workers=2)
    assert list(found) or not paths
    return [found[path] for path in paths]


def test_a_hash_is_of_what_a_file_holds_and_of_nothing_else(files, tmp_path):
    paths, index = files
    copy = tmp_path / "copy"
    copy.write_bytes(paths[0].read_bytes())
    os.utime(copy, (1, 1))
    a, b, c, again = hashes([*paths, copy], index)
    assert len({a, b, c}) == 3
    assert a == again
    assert a == "41380314ae1718a11c5574202656fdc9"  # b2sum -l 128


def test_a_hashing_that_is_interrupted_goes_on_from_what_it_wrote(files, later, read, monkeypatch):
    def stop(found, count):
        for number, each in enumerate(found):
            if number == 2:
                raise KeyboardInterrupt
            yield each

    paths, index = files
    monkeypatch.setattr(contents, "SECONDS_BETWEEN_WRITES", 0.0)
    with pytest.raises(KeyboardInterrupt):
        content_hashes(paths, index, workers=1, watch=stop)
    read.clear()
    hashes(paths, index)
    assert read == ["c"]


def test_what_is_known_is_not_read_again(files, later, read):
    paths, index = files
    first = hashes(paths, index)
    assert sorted(read) == ["a", "b", "c"]
    assert hashes(paths, index) == first
    assert sorted(read) == ["a", "b", "c"]
    paths[1].write_bytes(b"other")
    second = hashes(paths, index)
    assert read[3:] == ["b"]
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, True]


def test_a_file_of_the_same_size_whose_time_was_put_back_is_noticed(files, later):
    paths, index = files
    first, before = hashes(paths, index), paths[0].stat()
    paths[0].write_bytes(b"AAAAA")
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert paths[0].stat().st_mtime_ns == before.st_mtime_ns
    assert hashes(paths, index)[0] != first[0]


def test_a_file_that_changed_just_now_is_hashed_again_next_time(files, read):
    paths, index = files
    hashes(paths, index)
    assert not index.exists()
    hashes(paths, index)
    assert sorted(read) == sorted(["a", "b", "c"] * 2)


def test_a_file_that_changes_while_it_is_hashed_is_not_known(files, later, monkeypatch):
    paths, _ = files
    states = iter([[5, 1, 1], [5, 2, 2]])
    monkeypatch.setattr(contents, "_state", lambda path: next(states))
    assert not contents._hashed(paths[0])[2]


def test_a_damaged_index_is_made_anew(files, later):
    paths, index = files
    first = hashes(paths, index)
    whole = index.read_bytes()
    damaged = [b"{", b"\xff\xfe", b"[]", b'{"version": 1, "files": []}', b"[" * 100_000]
    damaged += [b'{"version": 0, "files": {}}', *(whole[:end] for end in range(0, len(whole), 17))]
    for damage in damaged:
        index.write_bytes(damage)
        assert hashes(paths, index) == first
        assert json.loads(index.read_bytes()) == json.loads(whole)


def test_an_entry_that_another_process_added_meanwhile_is_kept(files, later, monkeypatch):
    paths, index = files
    hashed = contents._hashed

    def other_first(path):
        monkeypatch.setattr(contents, "_hashed", hashed)
        hashes(paths[2:], index)
        return hashed(path)

    monkeypatch.setattr(contents, "_hashed", other_first)
    content_hashes(paths[:1], index, workers=1)
    assert set(json.loads(index.read_bytes())["files"]) == {str(paths[0]), str(paths[2])}


def test_what_is_no_readable_file_has_no_hash_and_stops_nobody(files, later, tmp_path):
    paths, index = files
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    none = [tmp_path / "missing", tmp_path, tmp_path / "pipe", tmp_path / "loop"]
    found = hashes([*none, paths[0]], index)
    assert found[:4] == [NO_FILE] * 4
    assert len(found[4]) == 32
    assert set(json.loads(index.read_bytes())["files"]) == {str(paths[0])}


def test_an_index_that_cannot_be_written_is_a_warning(files, later, tmp_path):
    paths, _ = files
    with pytest.warns(AnystepWarning, match=r"cannot keep what was hashed in .*hashes it again"):
        found = content_hashes(paths, paths[0] / "index.json", workers=1)
    assert len(set(found.values())) == 3


def test_a_copy_of_a_data_set_with_other_times_has_the_same_frames(tmp_path, monkeypatch):
    def load(root):
        options = {"root": tmp_path / root, "cache": tmp_path / "cache", "sensor": [34, 34]}
        return load_dataset("events-folder", binning=FixedDuration(10, 30_000), **options)

    for root in ("one", "two"):
        TREES["events-folder"]["classes"](tmp_path / root)
    first = load("one")
    for path in (tmp_path / "two").rglob("*.*"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(catalogue, "read_events", None)  # a second build would call it and fail
    second = load("two")
    assert np.array_equal(first.train.frames, second.train.frames)
    assert isinstance(second.train._frames, np.memmap)

from __future__ import annotations

import errno

import numpy as np
import pytest

from anystep.data.cache import cached_array, default_cache


def count_up() -> np.ndarray:
    return np.arange(12, dtype=np.uint8).reshape(3, 4)


def must_not_build() -> np.ndarray:
    raise AssertionError("the array was there already")


def test_an_array_is_built_once_and_then_mapped_read_only(tmp_path):
    first = cached_array(tmp_path / "a" / "b", "key", count_up)
    second = cached_array(tmp_path / "a" / "b", "key", must_not_build)
    for array in (first, second):
        assert isinstance(array, np.memmap)
        assert array.dtype == np.uint8
        assert np.array_equal(array, count_up())
    with pytest.raises(ValueError, match="read-only"):
        second[0, 0] = 1


def test_an_error_while_building_leaves_nothing_and_the_next_call_builds(tmp_path):
    def fail() -> np.ndarray:
        raise RuntimeError("no light")

    with pytest.raises(RuntimeError, match="no light"):
        cached_array(tmp_path, "key", fail)
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(cached_array(tmp_path, "key", count_up), count_up())


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file, array, **_):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"could not write .*key\.npy .*No space left on device.*another folder"):
        cached_array(tmp_path, "key", count_up)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_named_with_what_to_do(tmp_path, kept):
    cached_array(tmp_path, "key", count_up)
    file = tmp_path / "key.npy"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"key\.npy is damaged; delete it"):
        cached_array(tmp_path, "key", must_not_build)


@pytest.mark.parametrize("change", [lambda b: b + b"more", lambda b: b"x" + b[1:]])
def test_a_file_with_other_bytes_is_damaged_too(tmp_path, change):
    cached_array(tmp_path, "key", count_up)
    file = tmp_path / "key.npy"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=r"key\.npy is damaged; delete it"):
        cached_array(tmp_path, "key", must_not_build)


def test_two_builders_at_once_both_get_a_whole_array(tmp_path):
    def slower() -> np.ndarray:
        assert np.array_equal(cached_array(tmp_path, "key", count_up), count_up())  # the other one finishes first
        return count_up()

    assert np.array_equal(cached_array(tmp_path, "key", slower), count_up())
    assert [each.name for each in tmp_path.iterdir()] == ["key.npy"]


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_built(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot make the cache folder .*file"):
        cached_array(tmp_path / "file", "key", must_not_build)
    monkeypatch.setattr("anystep.data.cache.os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="cannot write in the cache folder"):
        cached_array(tmp_path, "key", must_not_build)


@pytest.mark.parametrize("key", ["", "../up", "a/b", ".hidden"])
def test_a_key_that_is_no_plain_file_name_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match="key must be letters"):
        cached_array(tmp_path, key, must_not_build)


def test_python_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="would hold Python objects"):
        cached_array(tmp_path, "key", lambda: np.array([None]))
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_follows_the_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "anystep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "anystep"

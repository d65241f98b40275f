from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest

from anystep._errors import UsageError
from anystep.data import cache
from anystep.data.cache import cached_array, cached_ragged, cached_stack, default_cache


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


@pytest.mark.parametrize("dtype", ["<f4", "U3", np.dtype([("image", "u1", (2, 3)), ("id", "U4")])])
def test_an_array_of_any_plain_type_is_kept_as_numpy_keeps_it(tmp_path, dtype):
    array = np.zeros((3, 2), dtype)
    np.save(tmp_path / "numpy.npy", array)
    cached_array(tmp_path, "key", lambda: array[::-1])
    whole = (tmp_path / "numpy.npy").read_bytes()
    checksum = b"anystep crc32:%08x" % zlib.crc32(whole)  # behind the array
    assert (tmp_path / "key.npy").read_bytes() == whole + checksum
    assert np.array_equal(np.load(tmp_path / "key.npy"), array)


def test_a_file_that_is_cut_or_has_other_bytes_is_named_with_what_to_do(tmp_path):
    cached_array(tmp_path, "key", count_up)
    file = tmp_path / "key.npy"
    whole = file.read_bytes()
    cuts = [whole[:kept] for kept in (0, 5, 100, -1)]
    for damaged in (*cuts, whole + b"more", b"x" + whole[1:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"key\.npy is damaged; delete it"):
            cached_array(tmp_path, "key", must_not_build)


def test_every_flipped_bit_is_noticed_and_a_file_without_a_checksum_is_taken(tmp_path):
    def open_again():
        return cached_stack(tmp_path, "key", 30, must_not_build)

    rows = [np.full((3, 4), n, np.uint8) for n in range(30)]
    cached_stack(tmp_path, "key", 30, lambda: rows)
    file = tmp_path / "key.npy"
    whole = file.read_bytes()
    for place in np.linspace(0, 8 * len(whole) - 1, 60).astype(int):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        os.utime(file, ns=(place, place))
        with pytest.raises(UsageError, match=r"key\.npy is damaged; delete it"):
            open_again()
    file.write_bytes(whole[:-22])  # as an older version wrote it
    assert np.array_equal(open_again(), rows)


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_built(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot make the cache folder .*file"):
        cached_array(tmp_path / "file", "key", must_not_build)
    monkeypatch.setattr("anystep.data.cache.os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="cannot write in the cache folder"):
        cached_array(tmp_path, "key", must_not_build)


def test_a_key_that_is_no_plain_file_name_is_refused(tmp_path):
    for key in ("", "../up", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="key must be letters"):
            cached_array(tmp_path, key, must_not_build)


ROW = np.arange(6, dtype=np.uint16).reshape(2, 3)


def rows_up_to(*largest: int | None) -> list[np.ndarray | None]:
    """Rows (2, 3) of 0 to 5 in which one value is `largest`; None for None."""
    return [value and np.where(ROW == 4, value, ROW).astype(np.uint16) for value in largest]


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        ((1, 2, 255), np.uint8),
        ((1, 2, 3, 256), np.uint16),
        ((256, 1, 2), np.uint16),
        ((1, 300, 2, 65535), np.uint16),
        ((None, None, 1, None, 300, None), np.uint16),
        ((7, None), np.uint8),
    ],
)
def test_a_stack_has_its_rows_as_bytes_until_one_needs_more(tmp_path, largest, dtype):
    rows = rows_up_to(*largest)
    stack = cached_stack(tmp_path, "key", len(rows), lambda: iter(rows))
    assert (type(stack), stack.dtype) == (np.memmap, dtype)
    assert np.array_equal(stack, [np.zeros((2, 3)) if row is None else row for row in rows])
    assert np.array_equal(stack, cached_stack(tmp_path, "key", len(rows), must_not_build))
    assert [each.name for each in tmp_path.iterdir()] == ["key.npy"]


def test_a_stack_of_fractions_keeps_them(tmp_path):
    rows = [np.full((2,), value, np.float32) for value in (0.25, 300.5)]
    stack = cached_stack(tmp_path, "key", 2, lambda: rows)
    assert (stack.dtype, stack.tolist()) == (np.float32, [[0.25, 0.25], [300.5, 300.5]])


def pieces(*lengths: int | None, largest: int = 9) -> list[np.ndarray | None]:
    """Rows (t, 2, 3) of these lengths, all values different up to `largest`; None for None."""
    made = [t and np.arange(6 * t, dtype=np.uint16).reshape(t, 2, 3) % 200 for t in lengths]
    made[-1] = np.full((lengths[-1], 2, 3), largest, np.uint16)
    return made


@pytest.mark.parametrize(("largest", "dtype"), [(9, np.uint8), (255, np.uint8), (256, np.uint16)])
@pytest.mark.parametrize("lengths", [(1,), (3, 1, 12), (None, 2, None, 30, 1)], ids=str)
def test_rows_of_any_length_are_one_array_and_their_lengths(tmp_path, lengths, largest, dtype):
    rows = pieces(*lengths, largest=largest)
    for build in (lambda: iter(rows), must_not_build):
        frames, found = cached_ragged(tmp_path, "key", build)
        assert (type(frames), frames.dtype, found.dtype) == (np.memmap, dtype, np.int64)
        assert found.tolist() == [length or 0 for length in lengths]
        assert np.array_equal(frames, np.concatenate([row for row in rows if row is not None]))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key.lengths.npy", "key.npy"]
    assert np.array_equal(np.load(tmp_path / "key.npy"), frames)


def test_many_rows_leave_the_header_as_long_as_it_was(tmp_path):
    rows = [np.full((100, 1), n % 300, np.uint16) for n in range(1100)]
    frames, lengths = cached_ragged(tmp_path, "key", lambda: rows)
    assert (frames.shape, frames.dtype, lengths.sum()) == ((110_000, 1), np.uint16, 110_000)
    assert np.array_equal(frames[::100, 0], np.arange(1100) % 300)


TWO_OF = "2 rows must come, one at least not None"
NONE = "rows must come, one at least not None, 0 came"


def stack(folder, rows):
    return cached_stack(folder, "key", 2, lambda: rows)


def ragged(folder, rows):
    return cached_ragged(folder, "key", lambda: rows)


@pytest.mark.parametrize(
    ("build", "rows", "message"),
    [
        (stack, [ROW], f"{TWO_OF}, 1 came"),
        (stack, [None, None], f"{TWO_OF}, 2 came"),
        (stack, [ROW, ROW.T], r"row 1 has shape \(3, 2\), those before it \(2, 3\)"),
        (ragged, [], NONE),
        (ragged, [None, None], NONE),
        (ragged, [ROW, ROW[:, :2]], r"row 2 has shape \(2,\), those before it \(3,\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, build, rows, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, rows)
    assert list(tmp_path.iterdir()) == []


def full(*_):
    """A builder of rows, or a writer, for which the disk has no room."""
    yield ROW
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("build", "rows", "in_save"),
    [
        (lambda folder, _: cached_array(folder, "key", count_up), None, True),
        (stack, full(), False),
        (ragged, full(), False),
        (ragged, pieces(1, 2), True),
    ],
    ids=["array", "stack", "rows", "lengths"],
)
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, build, rows, in_save):
    if in_save:
        monkeypatch.setattr(cache, "_save", lambda *_: list(full()))
    said = r"could not write .*key\.npy: No space left on device.*another folder"
    with pytest.raises(OSError, match=said):
        build(tmp_path, rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit for the size of files")
def test_a_disk_that_fills_up_in_the_last_bytes_is_no_success(tmp_path):
    code = f"""
import resource, signal
import numpy as np
from anystep.data.cache import cached_array
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
cached_array({str(tmp_path)!r}, "key", lambda: np.zeros(10_000, np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "could not write" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_recording_that_cannot_be_read_is_not_called_a_full_disk(tmp_path):
    def unreadable():
        yield ROW
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/recording.bin")

    with pytest.raises(PermissionError, match=r"^\[Errno 13\] Permission denied: .*recording\.bin"):
        stack(tmp_path / "cache", unreadable())


def test_a_build_that_is_killed_between_its_two_files_is_built_again(tmp_path):
    cached_ragged(tmp_path, "key", lambda: pieces(3, 2))
    (tmp_path / "key.npy").unlink()  # the lengths came first
    frames, lengths = cached_ragged(tmp_path, "key", lambda: pieces(3, 2))
    assert (len(frames), lengths.tolist()) == (5, [3, 2])


def test_frames_without_their_lengths_or_with_those_of_others_are_damaged(tmp_path):
    def refused(message):
        with pytest.raises(ValueError, match=message):
            cached_ragged(tmp_path, "key", must_not_build)

    cached_ragged(tmp_path, "key", lambda: pieces(3, 2))
    lengths = tmp_path / "key.lengths.npy"
    for damage in (np.array([3, 3]), np.array([3.0, 2.0]), np.array([[3, 2]])):
        np.save(lengths, damage)
        refused(r"key\.lengths\.npy does not fit the 5 frames of key\.npy; delete both")
    lengths.write_bytes(lengths.read_bytes()[:-3])
    refused(r"key\.lengths\.npy is damaged")
    lengths.unlink()
    refused(r"key\.npy has no key\.lengths\.npy beside it; delete it")


def test_two_builders_at_once_both_get_whole_arrays(tmp_path):
    rows = pieces(3, 2, largest=300)

    def slower():
        yield rows[0]
        cached_ragged(tmp_path, "key", lambda: rows)  # the other one finishes first
        yield rows[1]

    frames, lengths = cached_ragged(tmp_path, "key", slower)
    assert np.array_equal(frames, np.concatenate(rows))
    assert lengths.tolist() == [3, 2]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key.lengths.npy", "key.npy"]


def test_what_killed_builds_left_goes_after_a_day_and_what_is_being_built_stays(tmp_path):
    for name, new in (
        (".one.npy.x.part", False),
        (".two.npy.y.part", True),
        (".notes.part", False),
    ):
        (tmp_path / name).write_bytes(b"half of it")
        if not new:
            os.utime(tmp_path / name, (1, 1))
    cached_array(tmp_path, "key", count_up)
    left = sorted(each.name for each in tmp_path.iterdir())
    assert left == [".notes.part", ".two.npy.y.part", "key.npy"]


def test_the_default_folder_follows_the_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "anystep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "anystep"

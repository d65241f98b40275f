from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

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


@pytest.mark.parametrize("dtype", ["<f4", "U3", np.dtype([("image", "u1", (2, 3)), ("id", "U4")])])
def test_an_array_of_any_plain_type_is_kept_as_numpy_keeps_it(tmp_path, dtype):
    array = np.zeros((3, 2), dtype)
    np.save(tmp_path / "numpy.npy", array)
    cached_array(tmp_path, "key", lambda: array[::-1])
    assert (tmp_path / "key.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file, array):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_save", full)
    with pytest.raises(
        OSError, match=r"could not write .*key\.npy: No space left on device.*another folder"
    ):
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
        assert np.array_equal(
            cached_array(tmp_path, "key", count_up), count_up()
        )  # the other one finishes first
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


def rows_up_to(*largest: int | None) -> list[np.ndarray | None]:
    """Rows (2, 3) of 0 to 5 in which one value is `largest`; None for None."""
    rows: list[np.ndarray | None] = []
    for value in largest:
        row = np.arange(6, dtype=np.uint16).reshape(2, 3)
        row[1, 1] = 0 if value is None else value
        rows.append(None if value is None else row)
    return rows


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
    stack = cached_stack(
        tmp_path,
        "key",
        2,
        lambda: [np.full((2,), 0.25, np.float32), np.full((2,), 300.5, np.float32)],
    )
    assert (stack.dtype, stack.tolist()) == (np.float32, [[0.25, 0.25], [300.5, 300.5]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_up_to(1), "2 rows must come, one at least not None, 1 came"),
        (rows_up_to(None, None), "2 rows must come, one at least not None, 2 came"),
        (
            [*rows_up_to(1), np.zeros((3, 2), np.uint8)],
            r"row 1 has shape \(3, 2\), those before it \(2, 3\)",
        ),
    ],
)
def test_a_stack_that_is_not_what_was_promised_is_refused_and_leaves_nothing(
    tmp_path, rows, message
):
    with pytest.raises(ValueError, match=message):
        cached_stack(tmp_path, "key", 2, lambda: rows)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_on_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with tempfile.TemporaryDirectory() as elsewhere:

        def full():
            yield rows_up_to(1)[0]
            raise OSError(errno.ENOSPC, "No space left on device")

        def unreadable():
            yield rows_up_to(1)[0]
            raise PermissionError(errno.EACCES, "Permission denied", f"{elsewhere}/recording.bin")

        with pytest.raises(
            OSError, match=r"could not write .*key\.npy: No space left on device.*another folder"
        ):
            cached_stack(tmp_path, "key", 2, full)
        with pytest.raises(
            PermissionError, match=r"^\[Errno 13\] Permission denied: .*recording\.bin"
        ):
            cached_stack(tmp_path, "key", 2, unreadable)
    assert list(tmp_path.iterdir()) == []


def pieces(*lengths: int | None, largest: int = 9) -> list[np.ndarray | None]:
    """Rows (t, 2, 3) of these lengths, all values different up to `largest`; None for None."""
    made = [
        None if t is None else np.arange(6 * t, dtype=np.uint16).reshape(t, 2, 3) % 200
        for t in lengths
    ]
    made[-1] = np.full((lengths[-1] or 1, 2, 3), largest, np.uint16)
    return made


@pytest.mark.parametrize(("largest", "dtype"), [(9, np.uint8), (255, np.uint8), (256, np.uint16)])
@pytest.mark.parametrize("lengths", [(1,), (3, 1, 12), (None, 2, None, 30, 1)], ids=str)
def test_rows_of_different_length_are_one_array_and_their_lengths(
    tmp_path, lengths, largest, dtype
):
    rows = pieces(*lengths, largest=largest)
    for build in (lambda: iter(rows), must_not_build):
        frames, found = cached_ragged(tmp_path, "key", build)
        assert (type(frames), frames.dtype, found.dtype) == (np.memmap, dtype, np.int64)
        assert found.tolist() == [length or 0 for length in lengths]
        assert np.array_equal(frames, np.concatenate([row for row in rows if row is not None]))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key.lengths.npy", "key.npy"]
    assert np.array_equal(np.load(tmp_path / "key.npy"), frames)


def test_many_rows_leave_the_header_as_long_as_it_was(tmp_path):
    frames, lengths = cached_ragged(
        tmp_path, "key", lambda: (np.full((100, 1), n % 300, np.uint16) for n in range(1100))
    )
    assert (frames.shape, frames.dtype, lengths.sum()) == ((110_000, 1), np.uint16, 110_000)
    assert np.array_equal(frames[::100, 0], np.arange(1100) % 300)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows must come, one at least not None, 0 came"),
        ([None, None], "rows must come, one at least not None, 0 came"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"row 2 has shape \(4,\), those before it \(3,\)"),
    ],
)
def test_rows_of_different_length_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path, rows, message
):
    with pytest.raises(ValueError, match=message):
        cached_ragged(tmp_path, "key", lambda: rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["in the frames", "in the lengths"])
def test_rows_of_different_length_on_a_full_disk_are_named_and_leave_no_frames(
    tmp_path, monkeypatch, when
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    if when == "in the lengths":
        monkeypatch.setattr(cache, "_save", lambda *_: next(full()))
    with pytest.raises(
        OSError, match=r"could not write .*key\.npy: No space left on device.*another folder"
    ):
        cached_ragged(tmp_path, "key", full if when == "in the frames" else lambda: pieces(1, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_is_killed_between_its_two_files_is_built_again(tmp_path):
    cached_ragged(tmp_path, "key", lambda: pieces(3, 2))
    (tmp_path / "key.npy").unlink()  # the lengths came first
    frames, lengths = cached_ragged(tmp_path, "key", lambda: pieces(3, 2))
    assert (len(frames), lengths.tolist()) == (5, [3, 2])


def test_frames_without_their_lengths_or_with_those_of_others_are_damaged(tmp_path):
    cached_ragged(tmp_path, "key", lambda: pieces(3, 2))
    lengths = tmp_path / "key.lengths.npy"
    for damage in (np.array([3, 3]), np.array([3.0, 2.0]), np.array([[3, 2]])):
        np.save(lengths, damage)
        with pytest.raises(
            ValueError,
            match=r"key\.lengths\.npy does not fit the 5 frames of key\.npy; delete both",
        ):
            cached_ragged(tmp_path, "key", must_not_build)
    lengths.write_bytes(lengths.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"key\.lengths\.npy is damaged"):
        cached_ragged(tmp_path, "key", must_not_build)
    lengths.unlink()
    with pytest.raises(ValueError, match=r"key\.npy has no key\.lengths\.npy beside it; delete it"):
        cached_ragged(tmp_path, "key", must_not_build)


def test_two_builders_of_rows_of_different_length_at_once_both_get_whole_ones(tmp_path):
    rows = pieces(3, 2, largest=300)

    def slower():
        yield rows[0]
        cached_ragged(tmp_path, "key", lambda: rows)  # the other one finishes first
        yield rows[1]

    frames, lengths = cached_ragged(tmp_path, "key", slower)
    assert np.array_equal(frames, np.concatenate(rows))
    assert lengths.tolist() == [3, 2]


def test_what_killed_builds_left_goes_after_a_day_and_what_is_being_built_stays(tmp_path):
    old, new, other = (
        tmp_path / name for name in (".one.npy.x.part", ".two.npy.y.part", ".notes.part")
    )
    for path in (old, new, other):
        path.write_bytes(b"half of it")
    for path in (old, other):
        os.utime(path, (1, 1))
    cached_array(tmp_path, "key", count_up)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        ".notes.part",
        ".two.npy.y.part",
        "key.npy",
    ]


def test_the_default_folder_follows_the_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "anystep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "anystep"

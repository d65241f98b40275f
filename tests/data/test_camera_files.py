"""Files of camera makers, written by faery and by hand from the makers' descriptions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import event_files as files
import numpy as np
import pytest
from event_files import random_rows, rows_of

from anystep.data.readers import read_events

ROWS = files.BY_HAND
SIX = [*ROWS[:-1], (80_000, 6, 7, 0)]
FIXTURES = {
    "table.csv": files.csv_bytes(SIX),
    "dv.aedat4": files.aedat4_bytes([files.aedat4_packet(SIX[:4]), files.aedat4_packet(SIX[4:])]),
    "evt2.raw": files.evt2_bytes(SIX),
    "evt3.raw": files.evt3_bytes(SIX),
    "cd.dat": files.dat_bytes(SIX),
    "dvs.es": files.es_bytes(SIX),
}
WITH_FAERY = pytest.mark.skipif(
    importlib.util.find_spec("faery") is None, reason="needs faery: the extra `events`"
)


def write(path: Path, rows, **options) -> Path:
    """A file that faery wrote."""
    from faery import EVENTS_DTYPE, file_encoder

    array = np.zeros(len(rows), dtype=EVENTS_DTYPE)
    array["t"], array["x"], array["y"], array["on"] = np.array(rows).T
    file_encoder.events_to_file([array], path, (64, 48), zero_t0=False, **options)
    return path


@WITH_FAERY
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("aedat4", {"compression": None}),
        ("aedat4", {"compression": ("lz4", 1)}),
        ("aedat4", {"compression": ("zstd", 22)}),
        ("raw", {"version": "evt2"}),
        ("raw", {"version": "evt3"}),
        ("dat", {"version": "dat1"}),
        ("dat", {"version": "dat2"}),
        ("es", {}),
        ("csv", {}),
    ],
)
def test_what_faery_wrote_is_read_back(suffix, options, tmp_path):
    rows = random_rows(3000, 34, 2_000_000)
    events = read_events(write(tmp_path / f"r.{suffix}", rows, **options))
    assert events.sensor == (48, 64)
    assert rows_of(events) == rows


@WITH_FAERY
@pytest.mark.parametrize("name", FIXTURES)
def test_a_camera_file_made_by_hand_holds_the_events_known_by_hand(name):
    path = Path(__file__).parents[1] / "fixtures" / name
    assert path.read_bytes() == FIXTURES[name]  # what the description of the format gives
    events = read_events(path)
    assert (rows_of(events), events.sensor) == (SIX, (48, 64))


@WITH_FAERY
def test_a_camera_file_that_names_no_size_asks_for_it(tmp_path):
    for name, content in (
        ("r.raw", files.evt3_bytes(ROWS, header=b"% evt 3.0\n% system_ID 99\n")),
        ("r.dat", files.dat_bytes(ROWS, header=b"% Version 2\n", kind=0)),  # as N-Cars
    ):
        path = files.put(tmp_path, name, content)
        with pytest.raises(ValueError, match=rf"{name}: .* how large .*`data show --sensor"):
            read_events(path)
        assert rows_of(read_events(path, sensor=(48, 64))) == ROWS


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"% evt 3.0\n% system_ID 48\n", (720, 1280)),
        (b"% system_ID 21\n% format EVT3\n", (480, 640)),
        (b"% format EVT3;height=320;width=320\n% system_ID 48\n% end\n", (320, 320)),
    ],
)
def test_a_known_camera_says_the_size_of_its_recordings(header, size, tmp_path):
    path = files.put(tmp_path, "r.raw", files.evt3_bytes(ROWS, header=header))
    assert read_events(path).sensor == size


def test_vectors_of_evt3_are_read_and_so_are_the_turns_of_its_clock(tmp_path):
    rng = np.random.default_rng(0)
    grid = {(int(t), int(y), int(p)): None for t, y, p in rng.integers(0, (99, 48, 2), (300, 3))}
    rows = [
        (t * 1_000_003, int(x), y, p)
        for t, y, p in sorted(grid)
        for x in sorted(set(rng.integers(0, 64, 5).tolist()))
    ]
    assert rows[-1][0] > 5 * 2**24
    path = files.put(tmp_path, "r.raw", files.evt3_vectors(rows))
    assert rows_of(read_events(path)) == rows


def test_a_time_that_steps_back_is_as_the_camera_wrote_it(tmp_path):
    """faery would hold its clock; real cameras do step back by some microseconds."""
    rows = [(5000, 1, 2, 1), (4990, 3, 4, 0), (5001, 5, 6, 1)]
    for name, write in (("r.raw", files.evt3_bytes), ("r.raw", files.evt2_bytes)):
        path = files.put(tmp_path, name, write(rows))
        with pytest.raises(ValueError, match=r"t\[1\] = 4990 is earlier"):
            read_events(path)
        assert rows_of(read_events(path, sort=True)) == [rows[1], rows[0], rows[2]]


def test_the_clock_of_a_dat_file_turns_after_71_minutes(tmp_path):
    rows = [(2**32 - 5, 1, 2, 1), (2**32 + 7, 3, 4, 0)]
    assert rows_of(read_events(files.put(tmp_path, "r.dat", files.dat_bytes(rows)))) == rows


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.raw", b"% evt 2.1\n01234567", "must be EVT2 or EVT3, the header says 2.1"),
        ("r.raw", files.evt3_bytes(ROWS)[:-1], "truncated: the event at byte"),
        ("r.dat", files.dat_bytes(ROWS, kind=14), "must hold contrast events .* type 14"),
        ("r.dat", b"% Version 2\n", "must hold contrast events"),
        ("r.dat", b"% Version 3\n\0\x08", "version 1 or 2, got version 3"),
    ],
)
def test_what_is_no_recording_of_prophesee_is_refused(name, content, words, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: .*{words}"):
        read_events(files.put(tmp_path, name, content))


@WITH_FAERY
def test_the_packed_frames_of_the_fuzz_tests_are_what_faery_unpacks(tmp_path):
    whole = files.zstd_frame(files.aedat4_packet(ROWS), 0)
    for packets, count in (
        ([whole, whole], 2 * len(ROWS)),
        ([files.zstd_frame(files.aedat4_packet([], number=10**6), 16 * 10**6)], 10**6),
    ):
        path = files.put(tmp_path, "r.aedat4", files.aedat4_bytes(packets, compression=3))
        assert len(read_events(path)) == count


def test_a_panic_of_faery_is_a_refusal_and_an_interrupt_is_none(tmp_path, monkeypatch):
    path, panic = (
        files.put(tmp_path, "r.es", b"Event Stream"),
        type("PanicException", (BaseException,), {}),
    )
    for raised, seen in ((panic, ValueError), (KeyboardInterrupt, KeyboardInterrupt)):

        def fails(*_, raised=raised, **__):
            raise raised("index out of bounds")

        monkeypatch.setitem(sys.modules, "faery", SimpleNamespace(events_stream_from_file=fails))
        with pytest.raises(seen, match="index out of bounds"):
            read_events(path)
    monkeypatch.setitem(sys.modules, "faery", None)
    with pytest.raises(ImportError, match=r"reading \.es files needs faery: .*anystep\[events\]"):
        read_events(path)

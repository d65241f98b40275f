"""`anystep data slice`: windows of long recordings, none lost and none twice."""

from __future__ import annotations

import json

import pytest
from event_trees import later, put, rows_of

from anystep._errors import UsageError
from anystep.data.events.slices import microseconds, slice_recordings
from anystep.data.readers import read_events


@pytest.fixture
def long(tmp_path):
    """Recordings of 24 events within 299 ms in two formats, one of them much shorter."""
    known = {"left/a/take.1": rows_of("1", 34, 34), "right/take_2": rows_of("2", 34, 34)}
    known["left/short"] = [(0, 1, 2, 1), (9_999, 3, 4, 0)]
    for name, rows in known.items():
        suffix = ".bin" if name == "right/take_2" else ".npz"
        put(tmp_path / "long" / f"{name}{suffix}", later(rows, 700))
    return known


def test_slices_hold_the_events_of_their_window_and_the_name_of_their_recording(
    long, tmp_path, terminal
):
    command = ("data", "slice", "long", "--out", "new", "--window", "20ms", "--sensor", "34,34")
    told = terminal.done(*command)
    wanted = {}
    for name, rows in long.items():
        last = max(t for t, *_ in rows)
        for number in range((last + 1) // 20_000):
            begin = number * 20_000
            own = [(t - begin, *rest) for t, *rest in rows if begin <= t < begin + 20_000]
            if own:
                wanted[f"{name}-slice-{number:04d}.npz"] = own
    new = tmp_path / "new"
    files = {file.relative_to(new).as_posix(): file for file in new.rglob("*.npz")}
    assert set(files) == set(wanted)
    for name, rows in wanted.items():
        events = read_events(files[name])  # which says its sensor
        got = list(zip(*(getattr(events, c).tolist() for c in "txyp"), strict=True))
        assert (got, events.sensor) == (rows, (34, 34))
    windows = sum((max(t for t, *_ in rows) + 1) // 20_000 for rows in long.values())
    assert told == {
        "out": "new",
        "window_us": 20_000,
        "recordings": 3,
        "slices": len(wanted),
        "empty": windows - len(wanted),
        "short": ["left/short"],
    }
    protocol = json.loads(terminal("data", "check", "events-folder", "new")[1])["protocol"]
    assert protocol["name"] == "grouped-70-10-20@0"
    assert "lies in long" in terminal.refused(*command[:4], "long/new", *command[5:])
    assert "new folder or an empty one" in terminal.refused(*command)
    assert "a duration must be like 100ms" in terminal.refused(*command[:-3], "20", *command[-2:])


def test_nothing_as_long_as_a_window_is_refused(long, tmp_path):
    sensor = {"sensor": (34, 34)}
    with pytest.raises(UsageError, match=r"no recording lasts 1,000,000 us, the longest has 2\d"):
        slice_recordings(tmp_path / "long", tmp_path / "new", window_us=1_000_000, **sensor)
    (tmp_path / "long" / "left" / "short.npz").write_bytes(b"half a file")
    with pytest.raises(UsageError, match="short"):
        slice_recordings(tmp_path / "long", tmp_path / "new", window_us=1_000, **sensor)


@pytest.mark.parametrize("text", ["", "100", "ms", "-1ms", "0ms", "1 ms", "1e3ms", "0.0001us"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="a duration must be like 100ms"):
        microseconds(text)


def test_durations():
    given = ("100ms", "0.5s", "800us", "2s", "1.5ms")
    assert [microseconds(each) for each in given] == [100_000, 500_000, 800, 2_000_000, 1_500]

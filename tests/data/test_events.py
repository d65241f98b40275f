from __future__ import annotations

import numpy as np
import pytest

from anystep.data.recording import Events


def events(t=(0, 1, 2), x=(0, 1, 2), y=(0, 1, 0), p=(0, 1, 1), sensor=(2, 3)) -> Events:
    return Events.from_arrays(t, x, y, p, sensor)


def test_columns_have_the_promised_types_whatever_they_were_made_from():
    made = Events.from_arrays(
        np.array([0.0, 7.0]), [1, 2], np.array([0, 1], np.uint64), [True, False], (2, 3)
    )
    assert [c.dtype for c in (made.t, made.x, made.y, made.p)] == [
        np.int64,
        np.int16,
        np.int16,
        np.uint8,
    ]
    assert made.t.tolist() == [0, 7]
    assert made.p.tolist() == [1, 0]


def test_a_boolean_polarity_is_kept_by_the_constructor():
    made = events()
    same = Events(made.t, made.x, made.y, made.p.astype(bool), made.sensor)
    assert same.p.dtype == bool


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"t": (0, 5, 4)}, r"t\[2\] = 4 is earlier"),
        ({"t": (-1, 5, 6)}, r"t\[0\] = -1 must be >= 0"),
        ({"x": (0, 3, 3)}, r"x\[1\] = 3 must be in 0\.\.2"),
        ({"x": (0, 1, -1)}, r"x\[2\] = -1 must be in 0\.\.2"),
        ({"y": (0, 0, 2)}, r"y\[2\] = 2 must be in 0\.\.1"),
        ({"p": (0, 2, 1)}, r"p\[1\] = 2 must be 0 or 1"),
        ({"p": (0, 1, -1)}, r"p\[2\] = -1 does not fit uint8"),
        ({"t": (0, 0.5, 1)}, r"t\[1\] = 0.5 must be a whole number"),
        ({"x": (0, 1, float("nan"))}, r"x\[2\] = nan must be a whole number"),
        ({"x": (0, 40_000, 1)}, r"x\[1\] = 40000 does not fit int16"),
        (
            {"t": np.array([0, 1, 2**63], np.uint64)},
            r"t\[2\] = 9223372036854775808 does not fit int64",
        ),
        ({"y": ("a", "b", "c")}, "y must be one column of whole numbers"),
        ({"x": (0, 1)}, "x must be \\(3,\\) like t, got \\(2,\\)"),
        ({"t": [[0, 1, 2]]}, r"t must be one column .* of shape \(1, 3\)"),
        ({"sensor": (2, 0)}, r"sensor must be \(height, width\)"),
        ({"sensor": 34}, r"sensor must be \(height, width\)"),
        ({"sensor": (2, 40_000)}, r"sensor must be \(height, width\)"),
    ],
)
def test_a_bad_column_is_refused_with_the_first_bad_index(column, message):
    with pytest.raises(ValueError, match=message):
        events(**column)


def test_the_constructor_refuses_columns_of_another_type():
    made = events()
    with pytest.raises(ValueError, match="x must be a numpy array of int16, got int64"):
        Events(made.t, made.x.astype(np.int64), made.y, made.p, made.sensor)
    with pytest.raises(ValueError, match="p must be a numpy array of uint8 or bool, got list"):
        Events(made.t, made.x, made.y, [0, 1, 1], made.sensor)  # type: ignore[arg-type]


def test_equal_times_are_in_order():
    assert len(events(t=(4, 4, 4))) == 3


def test_a_recording_may_be_empty():
    empty = Events.from_arrays([], [], [], [], (2, 3))
    assert (len(empty), empty.duration) == (0, 0)


def test_duration_covers_the_microsecond_of_the_last_event():
    assert events(t=(10, 11, 19)).duration == 10


def test_until_keeps_what_came_strictly_before():
    made = events(t=(3, 7, 7))
    assert [len(made.until(t)) for t in (3, 4, 7, 8)] == [0, 1, 1, 3]


def test_head_keeps_the_first_events_and_refuses_a_negative_count():
    made = events()
    assert made.head(2).x.tolist() == [0, 1]
    with pytest.raises(ValueError, match="count must be >= 0, got -1"):
        made.head(-1)


def test_a_recording_cannot_be_changed():
    with pytest.raises(AttributeError):
        events().t = np.zeros(3, np.int64)  # type: ignore[misc]

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

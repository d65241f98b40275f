from __future__ import annotations

import numpy as np
import pytest

from anystep.data.recording import Events


def events(t=(0, 1, 2), x=(0, 1, 2), y=(0, 1, 0), p=(0, 1, 1), sensor=(2, 3)) -> Events:
    return Events.from_arrays(t, x, y, p, sensor)


def test_columns_have_the_promised_types_whatever_they_were_made_from():
    given = np.array([0.0, 7.0]), [1, 2], np.array([0, 1], np.uint64), [True, False]
    made = Events.from_arrays(*given, (2, 3))
    columns = made.t, made.x, made.y, made.p
    assert [column.dtype for column in columns] == [np.int64, np.int16, np.int16, np.uint8]
    assert [column.tolist() for column in columns] == [[0, 7], [1, 2], [0, 1], [1, 0]]
    assert Events(*columns[:3], made.p.astype(bool), made.sensor).p.dtype == bool


def test_times_may_be_equal_a_recording_empty_and_its_last_microsecond_counts():
    assert len(events(t=(4, 4, 4))) == 3
    assert events(t=(10, 11, 19)).duration == 10
    empty = Events.from_arrays([], [], [], [], (2, 3))
    assert (len(empty), empty.duration) == (0, 0)


def test_until_keeps_what_came_strictly_before_and_head_the_first_events():
    made = events(t=(3, 7, 7))
    assert [len(made.until(t)) for t in (3, 4, 7, 8)] == [0, 1, 1, 3]
    assert made.head(2).x.tolist() == [0, 1]


def test_a_recording_cannot_be_changed():
    with pytest.raises(AttributeError):
        events().t = np.zeros(3, np.int64)  # type: ignore[misc]

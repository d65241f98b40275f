from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from anystep.data.frames import BINNINGS, EqualCount, EqualTime, FixedCount, FixedDuration, resize
from anystep.data.recording import Events

SENSOR = (3, 5)


@st.composite
def recordings(draw) -> Events:
    event = st.tuples(*(st.integers(0, largest) for largest in (200, 4, 2, 1)))
    rows = sorted(draw(st.lists(event, min_size=1, max_size=60)), key=lambda row: row[0])
    return Events.from_arrays(*zip(*rows, strict=True), SENSOR)


def at_times(*t: int) -> Events:
    zeros = [0] * len(t)
    return Events.from_arrays(t, zeros, zeros, zeros, (1, 1))


def counted_one_by_one(events: Events, steps: list[int], total: int) -> np.ndarray:
    frames = np.zeros((total, 2, *events.sensor), np.uint16)
    for k, x, y, p in zip(steps, events.x, events.y, events.p, strict=True):
        if k < total:
            frames[k, int(p), y, x] += 1
    return frames


BY_HAND = [
    # [100, 110) in 4 parts of 2.5: edges 100, 102.5, 105, 107.5
    (EqualTime(4), (100, 102, 103, 104, 105, 107, 108, 109), [2, 2, 2, 2]),
    (EqualTime(3), (0, 8), [1, 0, 1]),  # the last event is in the last frame
    (EqualTime(3), (7, 7), [2, 0, 0]),  # one microsecond
    (EqualCount(3), range(7), [3, 2, 2]),  # floor(j * 3 / 7) = 0 0 0 1 1 2 2
    (EqualCount(5), (1, 2), [1, 0, 1, 0, 0]),  # floor(0) = 0 and floor(5 / 2) = 2
    (FixedDuration(3, 10), (0, 9, 10, 19, 20, 29, 30, 99), [2, 2, 2]),  # edges 0, 10, 20, 30
    (FixedDuration(3, 10), (15,), [0, 1, 0]),
    (FixedCount(2, 3), range(8), [3, 3]),  # what comes after is dropped
    (FixedCount(3, 3), range(4), [3, 1, 0]),
    (FixedDuration(None, 10), (0, 9, 10, 35), [2, 1, 0, 1]),
    (FixedCount(None, 3), range(7), [3, 3, 1]),
    (FixedCount(None, 3), range(6), [3, 3]),
    # borders too late for any clock
    (FixedDuration(3, 2**63), (5, 6, 2**62), [3, 0, 0]),
    (FixedDuration(3, 2**61), (5, 6, 2**62), [2, 0, 1]),
    (FixedCount(3, 2**63), (5, 6, 2**62), [3, 0, 0]),
    (EqualTime(3), (5, 6, 2**62), [2, 0, 1]),
]


@pytest.mark.parametrize(("binning", "times", "events"), BY_HAND, ids=str)
def test_events_fall_into_the_frames_by_hand(binning, times, events):
    assert binning(at_times(*times)).sum((1, 2, 3)).tolist() == events


def test_off_events_are_in_plane_0_and_on_events_in_plane_1_at_row_y_and_column_x():
    events = Events.from_arrays([0, 1], [4, 1], [2, 0], [0, 1], SENSOR)
    frames = EqualTime(1)(events)
    assert np.argwhere(frames).tolist() == [[0, 0, 2, 4], [0, 1, 0, 1]]
    assert (frames.dtype, frames.shape) == (np.uint16, (1, 2, 3, 5))


@pytest.mark.parametrize("steps", [1, 7, 10])
def test_a_recording_with_late_times_is_counted_like_any_other(steps):
    rng = np.random.default_rng(0)
    count, sensor = 20_000, (48, 64)
    y, x = (rng.integers(0, size, count).astype(np.int16) for size in sensor)
    t = np.sort(rng.integers(5_000, 2**40, count))
    events = Events(t, x, y, rng.integers(0, 2, count).astype(np.uint8), sensor)
    number = np.arange(count)
    for binning, step in (
        (EqualTime(steps), (t - t[0]) * steps // (t[-1] + 1 - t[0])),
        (EqualCount(steps), number * steps // count),
        (FixedDuration(steps, 2**37 + 1), t // (2**37 + 1)),
        (FixedCount(steps, 31_415), number // 31_415),
    ):
        frames = binning(events)
        assert frames.dtype == np.uint16
        assert np.array_equal(frames, counted_one_by_one(events, step, steps)), binning


def test_columns_that_are_read_only_strided_or_unaligned_count_like_any_others():
    rows = np.array([(k, k % 5, k % 3, k % 2) for k in range(40)])
    plain = Events.from_arrays(*rows.T, SENSOR)
    packed = np.empty(40, np.dtype([("p", "u1"), ("x", "<i2"), ("y", "<i2"), ("t", "<i8")]))
    packed["t"], packed["x"], packed["y"], packed["p"] = rows.T
    packed.flags.writeable = False
    twice = {name: np.repeat(getattr(plain, name), 2)[::2] for name in "txyp"}
    for columns in (
        {name: packed[name] for name in "txyp"},
        twice,
        {**twice, "p": twice["p"].astype(bool)},
    ):
        assert np.array_equal(EqualTime(4)(Events(**columns, sensor=SENSOR)), EqualTime(4)(plain))


@given(recordings(), st.integers(1, 12), st.integers(1, 200), st.integers(1, 20))
def test_every_event_is_counted_where_the_definition_says(events, steps, duration, count):
    times, first = events.t.tolist(), int(events.t[0])
    span, number = times[-1] + 1 - first, range(len(events))
    for binning, step in (
        (EqualTime(steps), [(t - first) * steps // span for t in times]),
        (EqualCount(steps), [j * steps // len(events) for j in number]),
        (FixedDuration(steps, duration), [t // duration for t in times]),
        (FixedCount(steps, count), [j // count for j in number]),
    ):
        if min(step) < steps:  # else no event is in time, see below
            assert np.array_equal(binning(events), counted_one_by_one(events, step, steps))


@given(recordings(), st.integers(1, 10), st.integers(1, 60), st.data())
def test_causal_frames_do_not_change_when_the_recording_goes_on(events, steps, size, data):
    k = data.draw(st.integers(1, steps))
    for binning in (FixedCount(steps, size), FixedCount(None, size)):
        assert np.array_equal(binning(events)[:k], binning(events.head(k * size))[:k])
    cut = events.until(k * size)
    for binning in (FixedDuration(steps, size), FixedDuration(None, size)):
        if len(cut):
            assert np.array_equal(binning(events)[: len(binning(cut))][:k], binning(cut)[:k])


@given(recordings(), st.integers(1, 40), st.integers(1, 9))
def test_an_open_binning_loses_no_event_and_begins_as_the_closed_one(events, size, steps):
    for kind in (FixedDuration, FixedCount):
        frames = kind(None, size)(events)
        assert frames.sum() == len(events)
        assert frames[-1].any()
        if kind is FixedCount or events.t[0] < steps * size:
            closed = kind(steps, size)(events)
            shared = min(steps, len(frames))
            assert np.array_equal(closed[:shared], frames[:shared])
            assert not closed[shared:].any()


@pytest.mark.parametrize("binning", [EqualTime(4), EqualCount(4)])
def test_frames_called_not_causal_do_change_when_the_recording_goes_on(binning):
    events = at_times(*range(40))
    assert not binning.causal
    assert not np.array_equal(binning(events)[:2], binning(events.head(20))[:2])


def test_a_count_above_65535_is_an_error_and_65535_is_not():
    assert EqualTime(1)(at_times(*[0] * 65_535)).max() == 65_535
    for counts in ([0] * 65_536, [*[0] * 70_000, *[9] * 140_000]):  # the last go round twice
        with pytest.raises(ValueError, match="counts more than 65535 events in one pixel"):
            EqualTime(2)(at_times(*counts))


MOVED = [("x", 30_000), ("x", 8), ("y", 30_000), ("y", -1), ("p", 2)]


@pytest.mark.parametrize(("column", "value"), MOVED)
def test_an_event_that_was_moved_off_the_sensor_after_the_checks_is_refused(column, value):
    events = at_times(*range(9))
    getattr(events, column)[4] = value
    with pytest.raises(ValueError, match="not on the sensor: these Events were written to after"):
        EqualTime(2)(events)


def test_naming_a_binning_does_not_wait_for_numba():
    code = "import sys, anystep.data.frames; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "False\n"


def test_the_table_knows_every_binning_by_its_name_and_which_can_run_live():
    for binning in (EqualTime(4), EqualCount(4), FixedDuration(4, 9), FixedCount(np.int64(4), 9)):
        assert binning.causal is isinstance(binning, FixedDuration | FixedCount)


@pytest.mark.parametrize(
    "binning", [EqualTime(4), EqualCount(4), FixedDuration(4, 9), FixedCount(None, 9)], ids=str
)
def test_a_description_builds_the_same_binning_again(binning):
    fields = binning.describe()
    assert BINNINGS[fields.pop("name")](**fields) == binning


# Frames of another size

CHANCE = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 2, 128, 128), (1, 2, 34, 20), (2, 1, 5, 1)])
@pytest.mark.parametrize("size", [1, 2, 7, 48, 130])
def test_both_interpolations_are_those_of_torch(shape, size):
    frames = CHANCE.integers(0, 60_000, shape).astype(np.uint16)
    tensor, sides = torch.as_tensor(frames.astype(np.float64)), (size, size)
    nearest = interpolate(tensor, sides, mode="nearest")
    bilinear = interpolate(tensor, sides, mode="bilinear", align_corners=True)
    assert np.array_equal(resize(frames, size, "nearest"), nearest)
    assert np.allclose(resize(frames, size, "bilinear"), bilinear, rtol=1e-5, atol=0.1)


def test_two_pixels_become_three_by_hand():
    frame = np.array([[[0, 4], [8, 12]]], dtype=np.uint8)
    assert resize(frame, 3, "bilinear").tolist() == [[[0, 2, 4], [4, 6, 8], [8, 10, 12]]]
    assert resize(frame, 3, "nearest").tolist() == [[[0, 0, 4], [0, 0, 4], [8, 8, 12]]]


def test_the_size_that_frames_have_changes_nothing():
    frames = CHANCE.integers(0, 255, (2, 2, 9, 9)).astype(np.uint8)
    for interpolation, dtype in (("nearest", np.uint8), ("bilinear", np.float32)):
        same = resize(frames, 9, interpolation)
        assert same.dtype == dtype
        assert np.array_equal(same, frames)

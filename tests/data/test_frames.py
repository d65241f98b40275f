from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from anystep.data.count import count_events
from anystep.data.frames import BINNINGS, EqualCount, EqualTime, FixedCount, FixedDuration, resize
from anystep.data.recording import Events

SENSOR = (3, 5)


@st.composite
def recordings(draw, largest_t: int = 200) -> Events:
    event = st.tuples(
        st.integers(0, largest_t), st.integers(0, 4), st.integers(0, 2), st.integers(0, 1)
    )
    t, x, y, p = zip(
        *sorted(draw(st.lists(event, min_size=1, max_size=60)), key=lambda e: e[0]), strict=True
    )
    return Events.from_arrays(t, x, y, p, SENSOR)


def at_times(*t: int) -> Events:
    zeros = [0] * len(t)
    return Events.from_arrays(t, zeros, zeros, zeros, (1, 1))


def per_step(binning, events: Events) -> list[int]:
    return binning(events).sum(axis=(1, 2, 3)).tolist()


def counted_one_by_one(events: Events, steps: list[int], total: int) -> np.ndarray:
    frames = np.zeros((total, 2, *events.sensor), np.uint16)
    for k, x, y, p in zip(steps, events.x, events.y, events.p, strict=True):
        if k < total:
            frames[k, int(p), y, x] += 1
    return frames


def test_equal_time_cuts_between_whole_microseconds():
    # [100, 110) in 4 parts of 2.5: edges 100, 102.5, 105, 107.5
    assert per_step(EqualTime(4), at_times(100, 102, 103, 104, 105, 107, 108, 109)) == [2, 2, 2, 2]


def test_equal_time_puts_the_last_event_in_the_last_frame():
    assert per_step(EqualTime(3), at_times(0, 8)) == [1, 0, 1]


def test_equal_time_of_one_microsecond_fills_the_first_frame():
    assert per_step(EqualTime(3), at_times(7, 7)) == [2, 0, 0]


def test_equal_count_differs_by_at_most_one_event_a_frame():
    # 7 events in 3 frames: floor(j * 3 / 7) = 0 0 0 1 1 2 2
    assert per_step(EqualCount(3), at_times(*range(7))) == [3, 2, 2]


def test_equal_count_of_fewer_events_than_steps_leaves_frames_empty():
    # 2 events in 5 frames: floor(0) = 0 and floor(5 / 2) = 2
    assert per_step(EqualCount(5), at_times(1, 2)) == [1, 0, 1, 0, 0]


def test_fixed_duration_starts_at_the_zero_of_the_clock_and_drops_what_comes_after():
    # edges 0, 10, 20, 30
    assert per_step(FixedDuration(3, 10), at_times(0, 9, 10, 19, 20, 29, 30, 99)) == [2, 2, 2]
    assert per_step(FixedDuration(3, 10), at_times(15)) == [0, 1, 0]


def test_fixed_count_fills_frame_after_frame_and_drops_the_rest():
    assert per_step(FixedCount(2, 3), at_times(*range(8))) == [3, 3]
    assert per_step(FixedCount(3, 3), at_times(*range(4))) == [3, 1, 0]


def test_off_events_are_in_plane_0_and_on_events_in_plane_1_at_row_y_and_column_x():
    events = Events.from_arrays([0, 1], [4, 1], [2, 0], [0, 1], SENSOR)
    frames = EqualTime(1)(events)
    assert np.argwhere(frames).tolist() == [[0, 0, 2, 4], [0, 1, 0, 1]]
    assert (frames.dtype, frames.shape) == (np.uint16, (1, 2, 3, 5))


def test_a_boolean_polarity_counts_like_a_number():
    events = Events.from_arrays([0, 1, 2], [0, 1, 2], [0, 0, 0], [0, 1, 0], SENSOR)
    boolean = Events(events.t, events.x, events.y, events.p.astype(bool), SENSOR)
    assert np.array_equal(EqualTime(2)(events), EqualTime(2)(boolean))


def in_numpy(events: Events, step: np.ndarray, steps: int) -> np.ndarray:
    """Every event's step, one place a pixel and step, and numpy's own counting."""
    height, width = events.sensor
    kept = int(np.searchsorted(step, steps))
    place = ((step[:kept] * 2 + events.p[:kept]) * height + events.y[:kept]) * width + events.x[
        :kept
    ]
    return np.bincount(place, minlength=steps * 2 * height * width).reshape(steps, 2, height, width)


@pytest.mark.parametrize("steps", [1, 7, 10])
def test_a_long_recording_is_counted_as_numpy_counts_it(steps):
    rng = np.random.default_rng(0)
    count, sensor = 300_000, (48, 64)
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
        assert np.array_equal(frames, in_numpy(events, step, steps)), binning


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


def test_borders_too_late_for_any_clock_are_no_error():
    events = at_times(5, 6, 2**62)
    assert per_step(FixedDuration(3, 2**63), events) == [3, 0, 0]
    assert per_step(FixedDuration(3, 2**61), events) == [2, 0, 1]
    assert per_step(FixedCount(3, 2**63), events) == [3, 0, 0]
    assert per_step(EqualTime(3), events) == [2, 0, 1]


@settings(deadline=None)
@given(recordings(), st.integers(1, 12))
def test_binnings_of_the_whole_recording_count_every_event_where_the_definition_says(events, steps):
    span = int(events.t[-1]) + 1 - int(events.t[0])
    by_time = [(int(t) - int(events.t[0])) * steps // span for t in events.t]
    by_count = [j * steps // len(events) for j in range(len(events))]
    for binning, step in ((EqualTime(steps), by_time), (EqualCount(steps), by_count)):
        frames = binning(events)
        assert frames.sum() == len(events)
        assert np.array_equal(frames, counted_one_by_one(events, step, steps))


@settings(deadline=None)
@given(recordings(largest_t=90), st.integers(1, 12), st.integers(91, 200))
def test_fixed_duration_counts_exactly_the_events_inside_its_frames(events, steps, duration):
    frames = FixedDuration(steps, duration)(events)
    assert frames.sum() == sum(int(t) < steps * duration for t in events.t)
    assert np.array_equal(
        frames, counted_one_by_one(events, [int(t) // duration for t in events.t], steps)
    )


@settings(deadline=None)
@given(recordings(), st.integers(1, 12), st.integers(1, 20))
def test_fixed_count_counts_the_first_steps_times_count_events(events, steps, count):
    frames = FixedCount(steps, count)(events)
    assert frames.sum() == min(len(events), steps * count)
    assert np.array_equal(
        frames, counted_one_by_one(events, [j // count for j in range(len(events))], steps)
    )


@settings(deadline=None)
@given(recordings(), st.integers(1, 10), st.integers(1, 60), st.data())
def test_causal_frames_do_not_change_when_the_recording_goes_on(events, steps, size, data):
    k = data.draw(st.integers(1, steps))
    count = FixedCount(steps, size)
    assert np.array_equal(count(events)[:k], count(events.head(k * size))[:k])
    duration, cut = FixedDuration(steps, size), events.until(k * size)
    if len(cut):
        assert np.array_equal(duration(events)[:k], duration(cut)[:k])


@pytest.mark.parametrize("binning", [EqualTime(4), EqualCount(4)])
def test_frames_called_not_causal_do_change_when_the_recording_goes_on(binning):
    events = at_times(*range(40))
    assert not binning.causal
    assert not np.array_equal(binning(events)[:2], binning(events.head(20))[:2])


@pytest.mark.parametrize(
    "binning", [EqualTime(2), EqualCount(2), FixedDuration(2, 5), FixedCount(2, 5)]
)
def test_an_empty_event_stream_is_refused_by_name(binning):
    with pytest.raises(ValueError, match=f"{binning.name}: an empty event stream"):
        binning(Events.from_arrays([], [], [], [], SENSOR))


def test_a_clock_that_starts_far_from_zero_is_refused_with_a_way_out():
    with pytest.raises(
        ValueError, match=r"no event falls inside the frames, the first is at t = 20 us.*subtract"
    ):
        FixedDuration(2, 10)(at_times(20, 25))


def test_a_count_above_65535_is_an_error_and_65535_is_not():
    assert EqualTime(1)(at_times(*[0] * 65_535)).max() == 65_535
    for counts in ([0] * 65_536, [*[0] * 70_000, *[9] * 140_000]):  # the last go round twice
        with pytest.raises(ValueError, match="counts more than 65535 events in one pixel"):
            EqualTime(2)(at_times(*counts))


@pytest.mark.parametrize(
    ("column", "value"), [("x", 30_000), ("x", 8), ("y", 30_000), ("y", -1), ("p", 2)]
)
def test_an_event_that_was_moved_off_the_sensor_after_the_checks_is_refused(column, value):
    events = at_times(*range(9))
    getattr(events, column)[4] = value
    with pytest.raises(
        ValueError, match=r"an event is not on the sensor: these Events were written to after"
    ):
        EqualTime(2)(events)


@pytest.mark.parametrize("borders", [[0, 5, 10], [-1, 5], [0, 7, 3, 9], [5, 0]])
def test_borders_that_are_none_are_refused(borders):
    with pytest.raises(
        ValueError, match=r"borders must never decrease and be in 0\.\.9, the number of events, got"
    ):
        count_events(at_times(*range(9)), np.array(borders))


def test_naming_a_binning_does_not_wait_for_numba():
    code = "import sys, anystep.data.frames; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "False\n"


def test_the_table_knows_every_binning_by_its_name_and_which_can_run_live():
    assert {name: row.causal for name, row in BINNINGS.items()} == {
        "equal_time": False,
        "equal_count": False,
        "fixed_duration": True,
        "fixed_count": True,
    }


def test_a_description_builds_the_same_binning_again():
    for binning in (EqualTime(4), EqualCount(4), FixedDuration(4, 9), FixedCount(np.int64(4), 9)):
        fields = binning.describe()
        assert BINNINGS[fields.pop("name")](**fields) == binning


# Frames of another size

CHANCE = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 2, 128, 128), (1, 2, 34, 20), (2, 1, 5, 1)])
@pytest.mark.parametrize("size", [1, 2, 7, 48, 130])
def test_both_interpolations_are_those_of_torch(shape, size):
    frames = CHANCE.integers(0, 60_000, shape).astype(np.uint16)
    tensor = torch.as_tensor(frames.astype(np.float32))
    assert np.array_equal(
        resize(frames, size, "nearest"), interpolate(tensor, (size, size), mode="nearest").numpy()
    )
    expected = interpolate(
        tensor.double(), (size, size), mode="bilinear", align_corners=True
    ).numpy()
    assert np.allclose(resize(frames, size, "bilinear"), expected, rtol=1e-5, atol=0.1)


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

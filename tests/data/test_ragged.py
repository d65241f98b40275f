"""Recordings of different length: binnings with open steps, and the set that keeps their frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anystep
from anystep.data.events.stack import FrameSpec
from anystep.data.frames import (
    BINNINGS,
    EqualTime,
    FixedCount,
    FixedDuration,
    require_live,
)
from anystep.data.recording import Events


def events_at(*t, sensor=(1, 1)):
    zeros = [0] * len(t)
    return Events.from_arrays(t, zeros, zeros, zeros, sensor)


def test_an_open_binning_makes_as_many_frames_as_the_recording_needs():
    assert FixedDuration(None, 10)(events_at(0, 9, 10, 35)).sum((1, 2, 3)).tolist() == [2, 1, 0, 1]
    assert FixedCount(None, 3)(events_at(*range(7))).sum((1, 2, 3)).tolist() == [3, 3, 1]
    assert FixedCount(None, 3)(events_at(*range(6))).sum((1, 2, 3)).tolist() == [3, 3]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=60), st.integers(1, 40), st.integers(1, 9)
)
def test_an_open_binning_loses_no_event_and_begins_as_the_closed_one(times, size, steps):
    events = events_at(*sorted(times))
    for kind in (FixedDuration, FixedCount):
        frames = kind(None, size)(events)
        assert frames.sum() == len(events)
        assert frames[-1].sum() >= 1
        if kind is FixedCount or min(times) < steps * size:
            closed = kind(steps, size)(events)
            shared = min(steps, len(frames))
            assert np.array_equal(closed[:shared], frames[:shared])
            assert not closed[shared:].any()


def test_far_too_many_frames_are_refused_before_they_take_memory():
    with pytest.raises(
        ValueError,
        match=r"fixed_duration: the recording needs 1000000001 frames of 34 x 34.*or give steps",
    ):
        FixedDuration(None, 1)(events_at(0, 10**9, sensor=(34, 34)))
    with pytest.raises(
        ValueError, match="fixed_count: the recording needs 2000 frames of 720 x 1280"
    ):
        FixedCount(None, 1)(events_at(*range(2000), sensor=(720, 1280)))


def test_an_open_binning_is_described_and_made_again():
    described = FixedCount(None, 9).describe()
    assert described == {"name": "fixed_count", "steps": None, "count": 9}
    assert BINNINGS[described.pop("name")](**described) == FixedCount(None, 9)


@pytest.mark.parametrize("name", sorted(BINNINGS))
def test_what_runs_live_takes_causal_binnings_and_refuses_the_others_by_name(name):
    binning = BINNINGS[name](4, 10) if BINNINGS[name].causal else BINNINGS[name](4)
    if binning.causal:
        require_live(binning)
        return
    with pytest.raises(
        ValueError, match=f"binning {name} needs the end .*live use fixed_duration or fixed_count"
    ):
        require_live(binning)


def test_frames_of_the_pixels_in_use_are_not_causal_whatever_cuts_the_recording():
    events = Events.from_arrays([0, 9, 15], [0, 0, 7], [0, 7, 7], [1, 1, 1], (9, 9))
    specs = [
        FrameSpec(FixedDuration(None, 10), 4, "nearest", None, tight=tight)
        for tight in (False, True)
    ]
    assert [spec.causal for spec in specs] == [True, False]
    assert [
        np.array_equal(spec.frames(events)[:1], spec.frames(events.until(10))) for spec in specs
    ] == [True, False]
    assert not FrameSpec(EqualTime(2), 4, "nearest", None).causal


def test_the_filmed_digits_may_have_a_length_of_their_own(tmp_path, monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 40, 1797)
    filmed = (events_at(*range(length), sensor=(34, 34)) for length in lengths)
    monkeypatch.setattr(
        "anystep.data.digits.digits_events", lambda **_: ((events, 0) for events in filmed)
    )
    binning = FixedCount(None, 9)
    first, second = (
        anystep.load_dataset("digits-dvs", binning=binning, cache=tmp_path) for _ in range(2)
    )  # built, read back
    for part in ("train", "val", "test"):
        one, other = getattr(first, part), getattr(second, part)
        assert one.lengths.tolist() == [-(-length // 9) for length in lengths[one.ids]]
        assert np.array_equal(one[0][0], other[0][0])

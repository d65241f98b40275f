"""Recordings of different length: binnings with open steps, and the set that keeps their frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_light import ragged

import anystep
from anystep.data.events.stack import Look
from anystep.data.frames import (
    BINNINGS,
    Direct,
    EqualCount,
    EqualTime,
    FixedCount,
    FixedDuration,
    require_live,
)
from anystep.data.recording import Events
from anystep.data.sets import RaggedSet, Splits


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


@pytest.mark.parametrize("kind", [EqualTime, EqualCount, Direct])
def test_an_encoding_that_must_know_its_steps_refuses_to_leave_them_open(kind):
    with pytest.raises(
        ValueError,
        match=rf"{kind.name}: steps must be .*got None; only fixed_duration and fixed_count can",
    ):
        kind(None)


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
    looks = [
        Look(FixedDuration(None, 10), 4, "nearest", None, tight=tight) for tight in (False, True)
    ]
    assert [look.causal for look in looks] == [True, False]
    assert [
        np.array_equal(look.frames(events)[:1], look.frames(events.until(10))) for look in looks
    ] == [True, False]
    assert not Look(EqualTime(2), 4, "nearest", None).causal


def test_a_ragged_set_gives_every_recording_its_own_frames():
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(2, 1)
    data = RaggedSet(frames, [4, 0, 5], [7, 8, 9], ["a", "b", "c"])
    assert [(data[n][0][:, 0, 0, 0].tolist(), data[n][1]) for n in (0, 2)] == [
        ([0, 1, 2, 3], 7),
        ([4, 5, 6, 7, 8], 9),
    ]
    part = data.subset([2, 0])
    assert (len(part), part.ids.tolist(), part.labels.tolist(), part.lengths.tolist()) == (
        2,
        ["c", "a"],
        [9, 7],
        [5, 4],
    )
    assert [len(each) for each, _ in part] == [5, 4]
    with pytest.raises(ValueError, match="sample b has no frames"):
        data[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((5, 2, 3))}, r"frames must be \(F, P, H, W\)"),
        ({"lengths": [2, 2]}, r"lengths must be \(M,\) whole numbers >= 0 whose sum is 5"),
        ({"lengths": [-1, 6]}, "lengths must be"),
        ({"lengths": [2.0, 3.0]}, "lengths must be"),
        ({"labels": [0]}, r"labels must be \(2,\) like lengths"),
        ({"labels": [0.5, 1.0]}, "labels must be whole numbers"),
    ],
)
def test_a_ragged_set_refuses_what_does_not_fit(change, message):
    given = {"frames": np.zeros((5, 2, 3, 3)), "lengths": [2, 3], "labels": [0, 1], **change}
    with pytest.raises(ValueError, match=f"RaggedSet: {message}"):
        RaggedSet(**given)


def test_a_subset_of_a_ragged_set_refuses_samples_that_are_not_there():
    data = ragged(4)
    for indices, message in (
        ([4], r"in 0\.\.3, got 4"),
        ([-1], "got -1"),
        ([0.5], "whole numbers"),
    ):
        with pytest.raises(ValueError, match=f"RaggedSet.subset: indices .*{message}"):
            data.subset(indices)


def test_the_frames_of_chosen_steps_need_recordings_of_one_length():
    part = ragged(4)
    splits = Splits(
        part, part, part, ("off", "on"), "p", "h", True, binning=FixedCount(None, 9).describe()
    )
    with pytest.raises(
        ValueError, match=r"data\.frames needs recordings of one length; give binning\.steps"
    ):
        splits.segment(0, 2)


def test_a_recording_without_the_chosen_frames_is_refused_even_where_nobody_said_that_they_differ():
    part = RaggedSet(np.zeros((8, 2, 3, 3), np.uint8), [5, 3], [0, 1])
    chosen = Splits(part, part, part, ("off", "on"), "p", "h", True).segment(2, 5).train
    assert len(chosen[0][0]) == 3
    with pytest.raises(
        ValueError,
        match=r"data\.frames \[2, 5\]: sample 1 has 3 frames; it needs recordings of one length",
    ):
        chosen[1]


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

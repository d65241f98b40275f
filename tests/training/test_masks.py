"""Recordings of different length: their frames, their batches, what is learnt and judged. Padding
changes nothing.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_light import ragged, recordings

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
from anystep.data.loader import load_batches, time_first, unpack
from anystep.data.recording import Events
from anystep.data.sets import RaggedSet, Splits
from anystep.evaluation.masks import check_mask, mean_of, step_mean
from anystep.evaluation.readout import hold, prefix_mean
from anystep.training import losses
from anystep.training.losses import LOSSES

LENGTHS = (3, 7, 5, 1)
MASKED = sorted(name for name in LOSSES if "mask" in inspect.signature(LOSSES[name]).parameters)


def mask_of(lengths, steps=None):
    return torch.arange(steps or max(lengths))[:, None] < torch.tensor(lengths)


def events_at(*t, sensor=(1, 1)):
    zeros = [0] * len(t)
    return Events.from_arrays(t, zeros, zeros, zeros, sensor)


# Frames


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


# Data sets and batches


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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_different_lengths_is_padded_at_the_end_and_says_which_frames_are_real(workers):
    data = ragged(6)
    ((x, y, mask),) = load_batches(data, [[5, 0, 3]], workers=workers)
    assert (mask.dtype, mask.shape) == (torch.bool, x.shape[:2])
    assert torch.equal(mask, mask_of(data.lengths[[5, 0, 3]].tolist()))
    for n, index in enumerate((5, 0, 3)):
        frames, label = data[index]
        assert y[n] == label
        np.testing.assert_array_equal(x[: len(frames), n].numpy(), frames)
        assert not x[len(frames) :, n].any()


def test_a_batch_of_one_length_is_what_it_always_was_whatever_set_it_is_from():
    data = recordings(4)
    same = RaggedSet(data.frames.reshape(-1, *data.frames.shape[2:]), [10] * 4, data.labels)
    plain, other = time_first([data[n] for n in range(4)]), time_first([same[n] for n in range(4)])
    assert len(plain) == len(other) == 2
    assert torch.equal(plain[0], other[0])
    assert unpack(plain)[2] is None


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


# Means and losses


def test_a_masked_mean_is_each_samples_own_and_reads_nothing_else():
    x = torch.randn(7, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[~mask_of(LENGTHS)] = torch.nan
    by_hand = torch.stack([x[:length, n].mean(0) for n, length in enumerate(LENGTHS)])
    torch.testing.assert_close(step_mean(x, mask_of(LENGTHS)), by_hand)
    torch.testing.assert_close(mean_of(x, mask_of(LENGTHS)), by_hand.mean())
    assert torch.equal(mean_of(x[:1]), x[:1].mean())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (mask_of((3, 2)), r"mask must be \(3, 4\) torch.bool, got \(3, 2\)"),
        (mask_of((3, 2, 1, 1)).float(), r"got \(3, 4\) torch.float32"),
        (mask_of((3, 2, 0, 1)), "sample 2 has none"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(mask, message):
    with pytest.raises(ValueError, match=message):
        check_mask(torch.zeros(3, 4, 2), mask)
    with pytest.raises(ValueError, match=message):
        losses.ce(torch.zeros(3, 4, 2), torch.zeros(4, dtype=torch.int64), mask=mask)


def masked_case(*, steps=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(steps, len(LENGTHS), 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 3, 1, 4])


def options_of(function):
    keywords = list(inspect.signature(function).parameters.values())[2:]
    return {each.name: 0.5 for each in keywords if each.default is each.empty}


def test_the_losses_that_average_over_steps_for_each_sample_take_a_mask():
    assert {"ce", "label_smoothing", "step_ce", "tet", "tks"} <= set(MASKED)


@pytest.mark.parametrize(
    "options", [{}, {"pool": "mean_correct"}, {"pool": "mean_all"}, {"divergence": "kl"}], ids=str
)
@pytest.mark.parametrize("name", MASKED)
def test_a_masked_loss_is_the_mean_of_the_losses_of_the_samples_alone(name, options):
    if set(options) - set(inspect.signature(LOSSES[name]).parameters):
        options = {}
    loss, options = LOSSES[name], {**options_of(LOSSES[name]), **options}
    logits, labels = masked_case()
    logits.requires_grad_(True)
    alone = [
        loss(logits[:length, n : n + 1], labels[n : n + 1], **options)
        for n, length in enumerate(LENGTHS)
    ]
    expected = torch.stack(alone).mean()
    value = loss(logits, labels, mask=mask_of(LENGTHS), **options)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    slopes = [
        torch.autograd.grad(each, [logits], retain_graph=True)[0] for each in (value, expected)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-14)
    assert not slopes[0][~mask_of(LENGTHS)].any()


@pytest.mark.parametrize("name", MASKED)
def test_what_a_batch_was_padded_with_and_how_far_changes_no_loss(name):
    loss = lambda *arguments, **more: LOSSES[name](*arguments, **options_of(LOSSES[name]), **more)  # noqa: E731
    logits, labels = masked_case()
    further = torch.cat([logits, torch.full((4, 4, 5), 1e3, dtype=torch.float64)])
    value = loss(logits, labels, mask=mask_of(LENGTHS))
    torch.testing.assert_close(
        loss(further, labels, mask=mask_of(LENGTHS, 11)), value, rtol=1e-12, atol=0
    )
    all_real = loss(logits, labels, mask=torch.ones(7, 4, dtype=torch.bool))
    torch.testing.assert_close(all_real, loss(logits, labels), rtol=1e-12, atol=0)


# Decisions


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_after_its_end_the_decision_of_a_recording_stands(kind):
    logits = kind(np.random.default_rng(0).normal(size=(7, 4, 3)))
    prefix = prefix_mean(logits, LENGTHS)
    for t in range(1, 8):
        for n, length in enumerate(LENGTHS):
            np.testing.assert_allclose(
                prefix[t - 1, n], logits[: min(t, length), n].mean(0), rtol=1e-12
            )
    for n, length in enumerate(LENGTHS):
        assert (prefix[length - 1 :, n] == prefix[length - 1, n]).all()
    np.testing.assert_allclose(prefix_mean(hold(logits, LENGTHS)), prefix, rtol=1e-12)


def test_holding_copies_and_leaves_real_steps_to_the_bit():
    logits = np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32)
    held = hold(logits, LENGTHS)
    assert held.dtype == np.float32
    assert not np.shares_memory(held, logits)
    assert np.array_equal(held[mask_of(LENGTHS).numpy()], logits[mask_of(LENGTHS).numpy()])


@pytest.mark.parametrize("lengths", [(1, 2, 3), (0, 1, 1, 1), (8, 1, 1, 1)])
def test_lengths_that_do_not_fit_are_refused_by_name(lengths):
    for read in (prefix_mean, hold):
        with pytest.raises(ValueError, match=r"lengths must be 4 whole numbers in 1\.\.7"):
            read(np.zeros((7, 4, 3)), lengths)

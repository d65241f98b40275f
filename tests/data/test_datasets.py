from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from anystep.data import digits
from anystep.data.camera.simulate import enlarge
from anystep.data.digits import digits_dvs
from anystep.data.frames import EqualCount, FixedCount, FixedDuration
from anystep.data.protocols import stratified
from anystep.data.recording import Events
from anystep.data.sets import FrameRange, FrameSet, FramesOf, RaggedSet, Splits, as_dataset

LIVE = FixedDuration(10, 30_000)


@pytest.fixture
def few_digits(monkeypatch) -> None:
    """Forty digits in place of all, so that a build takes a moment."""
    images, labels = digits._digits()
    chosen = np.concatenate([np.flatnonzero(labels == label)[:4] for label in range(10)])
    few = stratified(labels[chosen], (0.4, 0.3, 0.3), name="few")
    monkeypatch.setattr(digits, "_digits", lambda: (images[chosen], labels[chosen]))
    monkeypatch.setattr(digits, "split", lambda *_: few)


def frame_set(count: int = 6) -> FrameSet:
    frames = np.arange(count * 3 * 2 * 4 * 5, dtype=np.uint16).reshape(count, 3, 2, 4, 5)
    return FrameSet(frames, np.arange(count) % 2, [f"s{i}" for i in range(count)])


def test_an_item_is_frames_and_a_plain_label():
    data = frame_set()
    frames, label = data[4]
    assert np.array_equal(frames, data.frames[4])
    assert (frames.shape, label, type(label)) == ((3, 2, 4, 5), 0, int)
    assert [label for _, label in data] == [0, 1, 0, 1, 0, 1]
    with pytest.raises(IndexError):
        data[6]


def test_a_subset_of_a_subset_has_the_right_rows_and_copies_nothing():
    data = frame_set()
    view = data.subset([5, 3, 1]).subset([2, 0])
    assert (len(view), view.shape) == (2, (2, 3, 2, 4, 5))
    assert (view.ids.tolist(), view.labels.tolist()) == (["s1", "s5"], [1, 1])
    assert np.array_equal(view.frames, data.frames[[1, 5]])
    assert np.shares_memory(view[1][0], data.frames)


def test_a_view_keeps_what_is_known_of_a_data_set():
    data = frame_set()
    late = FrameRange(data, 1, 3)
    assert np.array_equal(late[4][0], data[4][0][1:])
    assert (len(late), late.labels is data.labels, late.ids is data.ids) == (6, True, True)


def test_a_list_of_samples_is_a_data_set_of_which_nothing_is_known():
    samples = [(np.zeros((1, 2, 3, 3)), 1), (np.ones((1, 2, 3, 3)), 0)]
    data = as_dataset(samples)
    assert [label for _, label in data] == [1, 0]
    assert (len(data), data.labels, data.ids, data.blocks, data.mean) == (2, None, None, None, None)
    assert as_dataset(data) is data
    assert as_dataset(frame_set()).labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_ragged_set_gives_every_recording_its_own_frames():
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(2, 1)
    data = RaggedSet(frames, [4, 0, 5], [7, 8, 9], ["a", "b", "c"])
    assert (data[0][0][:, 0, 0, 0].tolist(), data[0][1]) == ([0, 1, 2, 3], 7)
    assert (data[2][0][:, 0, 0, 0].tolist(), data[2][1]) == ([4, 5, 6, 7, 8], 9)
    part = data.subset([2, 0])
    assert (part.ids.tolist(), part.labels.tolist()) == (["c", "a"], [9, 7])
    assert [len(frames) for frames, _ in part] == part.lengths.tolist() == [5, 4]


def test_chosen_frames_need_recordings_that_have_them():
    part = RaggedSet(np.zeros((8, 2, 3, 3), np.uint8), [5, 3], [0, 1])
    splits = Splits(part, part, part, ("off", "on"), "p", "h", True)
    chosen = splits.frame_range(2, 5)
    assert (len(chosen.train[0][0]), chosen.first_frame, chosen.train.lengths) == (3, 2, None)
    with pytest.raises(ValueError, match=r"\[2, 5\]: sample 1 has 3 frames"):
        chosen.train[1]
    with pytest.raises(ValueError, match=r"within the 5 frames of a recording, got \[2, 6\]"):
        splits.frame_range(2, 6)
    with pytest.raises(ValueError, match=r"needs recordings of one length; give binning\.steps"):
        replace(splits, binning=FixedCount(None, 9).describe()).frame_range(0, 2)


def test_your_own_recordings_become_frames():
    one = Events.from_arrays([0, 1, 2], [0, 1, 1], [0, 0, 1], [1, 0, 1], (2, 2))
    data = FramesOf([(one, np.int64(3))], FixedCount(2, 2))
    frames, label = data[0]
    assert (len(data), label, type(label)) == (1, 3, int)
    assert frames.sum(axis=(1, 2, 3)).tolist() == [2, 1]


def test_a_second_call_reads_the_file_of_the_first(few_digits, tmp_path, monkeypatch):
    first = digits_dvs(binning=LIVE, cache=tmp_path)
    monkeypatch.setattr(digits, "simulate_many", None)  # a second build would call it and fail
    second = digits_dvs(binning=LIVE, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert np.array_equal(first.test.frames, second.test.frames)


def test_whatever_shapes_the_frames_has_a_file_of_its_own(few_digits, tmp_path, monkeypatch):
    for changed in ({}, {"binning": FixedDuration(5, 30_000)}, {"seed": 1}, {"path": "saccade"}):
        digits_dvs(**({"binning": LIVE, "cache": tmp_path} | changed))
    monkeypatch.setattr(digits, "SIMULATOR_VERSION", 0)
    digits_dvs(binning=LIVE, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_filmed_digits_may_have_a_length_of_their_own(few_digits, tmp_path, monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 40, 40)
    recordings = [Events.from_arrays(*np.zeros((4, length)), (34, 34)) for length in lengths]
    monkeypatch.setattr(digits, "simulate_many", lambda *_, **__: iter(recordings))
    for _ in range(2):  # built, and read back
        splits = digits_dvs(binning=FixedCount(None, 9), cache=tmp_path)
        for part in (splits.train, splits.val, splits.test):
            assert part.lengths.tolist() == [-(-length // 9) for length in lengths[part.ids]]
            assert [frames.sum() for frames, _ in part] == lengths[part.ids].tolist()


def test_hindsight_frames_are_marked_as_not_causal(few_digits, tmp_path):
    splits = digits_dvs(binning=EqualCount(4), cache=tmp_path)
    assert splits.causal is False
    assert splits.binning == {"name": "equal_count", "steps": 4}


def test_enlarging_keeps_a_flat_image_flat_and_a_ramp_straight():
    assert np.allclose(enlarge(np.full((1, 8, 8), 0.5), 22), 0.5)
    ramp = enlarge(np.broadcast_to(np.arange(8) / 7, (1, 8, 8)), 24)[0, 0]
    assert np.allclose(np.diff(ramp[1:-1]), 1 / 21)  # a third of a step of the source
    assert np.array_equal(ramp, np.sort(ramp))


def test_data_need_no_torch():
    code = "import sys, anystep.data.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

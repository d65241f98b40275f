"""What every row of DATASETS promises. A new row adds its raw recordings to RECORDINGS and is tested without a new test."""

from __future__ import annotations

import numpy as np
import pytest

from anystep.data.datasets import DATASETS, Splits, digits_events, load_dataset
from anystep.data.frames import FixedDuration

BINNING = FixedDuration(10, 30_000)
RECORDINGS = {"digits-dvs": digits_events}
SIZES = {"digits-dvs": (1259, 179, 359)}
PARTS = ("train", "val", "test")


@pytest.fixture(scope="session", params=sorted(DATASETS))
def row(request, tmp_path_factory) -> tuple[str, Splits]:
    """A row's name and its frames: all samples, built once for the whole suite."""
    cache = tmp_path_factory.mktemp("cache")
    return request.param, load_dataset(request.param, binning=BINNING, cache=cache)


def some_of(splits: Splits, part: str) -> list[tuple[int, np.ndarray, int]]:
    """(sample number, frames, label) of six samples spread over a part."""
    data = getattr(splits, part)
    return [(int(data.ids[i]), *data[i]) for i in np.linspace(0, len(data) - 1, 6).astype(int)]


def test_every_row_has_its_recordings_and_sizes_here():
    assert set(DATASETS) == set(RECORDINGS) == set(SIZES)


def test_the_parts_have_their_sizes_and_one_shape(row):
    name, splits = row
    assert tuple(len(getattr(splits, part)) for part in PARTS) == SIZES[name]
    shapes = {getattr(splits, part).shape[1:] for part in PARTS}
    assert len(shapes) == 1
    assert shapes.pop()[:2] == (BINNING.steps, 2)


def test_no_sample_is_in_two_parts(row):
    ids = np.concatenate([getattr(row[1], part).ids for part in PARTS])
    assert len(np.unique(ids)) == len(ids)


def test_labels_are_in_range_and_every_class_is_in_every_part(row):
    _, splits = row
    for part in PARTS:
        assert np.unique(getattr(splits, part).labels).tolist() == list(range(len(splits.classes)))


def test_recordings_are_in_time_order_inside_the_sensor_and_well_filled(row):
    name, splits = row
    for events, label in RECORDINGS[name](range(0, 60, 10)):
        assert (np.diff(events.t) >= 0).all()
        assert 0 <= events.t[0] <= events.t[-1] < 300_000
        assert events.sensor == splits.train.shape[-2:]
        assert 0 <= events.x.min() <= events.x.max() < events.sensor[1]
        assert 0 <= events.y.min() <= events.y.max() < events.sensor[0]
        assert set(np.unique(events.p)) == {0, 1}
        assert 1000 < len(events) < 50_000
        assert 0 <= label < len(splits.classes)


@pytest.mark.parametrize("part", PARTS)
def test_every_event_of_the_recording_is_counted_once_in_the_frames(row, part):
    name, splits = row
    samples = some_of(splits, part)
    recordings = RECORDINGS[name]([sample for sample, _, _ in samples])
    for (_, frames, label), (events, true_label) in zip(samples, recordings, strict=True):
        assert label == true_label
        assert frames.sum() == len(events)
        for polarity in (0, 1):
            assert frames[:, polarity].sum() == (events.p == polarity).sum()


def test_frames_called_causal_are_those_of_a_recording_that_stops_there(row):
    name, splits = row
    assert splits.causal is BINNING.causal
    samples = some_of(splits, "test")
    recordings = RECORDINGS[name]([sample for sample, _, _ in samples])
    for (_, frames, _), (events, _) in zip(samples, recordings, strict=True):
        for k in (1, 4):
            assert np.array_equal(frames[:k], BINNING(events.until(k * BINNING.duration_us))[:k])


def test_the_record_names_protocol_and_binning(row):
    name, splits = row
    assert splits.protocol.startswith(f"{name}/")
    assert len(splits.protocol_hash) == 16
    assert splits.binning == BINNING.describe()


def test_a_part_reads_from_a_file_that_cannot_be_written(row):
    frames, _ = row[1].test[0]
    assert not frames.flags.writeable

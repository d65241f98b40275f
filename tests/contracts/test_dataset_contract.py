"""What every row of DATASETS promises. A new row joins RECORDINGS or IMAGES and is tested."""

from __future__ import annotations

import numpy as np
import pytest

from anystep.data.datasets import DATASETS, load_dataset
from anystep.data.digits import digits_events
from anystep.data.frames import Direct, FixedDuration
from anystep.data.sets import Splits

BINNING = FixedDuration(10, 30_000)
RECORDINGS = {"digits-dvs": digits_events}
IMAGES = {"digits": Direct(4)}
SIZES = {"digits-dvs": (1259, 179, 359), "digits": (1259, 179, 359)}
PROTOCOL_OF = {"digits": "digits-dvs"}  # the same digits, so the same split
PARTS = ("train", "val", "test")


@pytest.fixture(scope="session", params=sorted(DATASETS))
def row(request, tmp_path_factory) -> tuple[str, Splits]:
    """A row's name and its frames: all samples, built once for the whole suite."""
    cache = tmp_path_factory.mktemp("cache")
    return request.param, load_dataset(request.param, binning=IMAGES.get(request.param, BINNING), cache=cache)


@pytest.fixture
def events_row(row) -> tuple[str, Splits]:
    if row[0] in IMAGES:
        pytest.skip("it holds images")
    return row


@pytest.fixture
def images_row(row) -> tuple[str, Splits]:
    if row[0] not in IMAGES:
        pytest.skip("it holds events")
    return row


def some_of(splits: Splits, part: str) -> list[tuple[int, np.ndarray, int]]:
    """(sample number, frames, label) of six samples spread over a part."""
    data = getattr(splits, part)
    return [(int(data.ids[i]), *data[i]) for i in np.linspace(0, len(data) - 1, 6).astype(int)]


def test_every_row_has_its_recordings_and_sizes_here():
    assert set(DATASETS) == {*RECORDINGS, *IMAGES} == set(SIZES)


def test_the_parts_have_their_sizes_and_one_shape(row):
    name, splits = row
    assert tuple(len(getattr(splits, part)) for part in PARTS) == SIZES[name]
    shapes = {part: some_of(splits, part)[0][1].shape for part in PARTS}
    assert len(set(shapes.values())) == 1
    assert shapes["train"][0] == IMAGES.get(name, BINNING).steps


def test_no_sample_is_in_two_parts(row):
    ids = np.concatenate([getattr(row[1], part).ids for part in PARTS])
    assert len(np.unique(ids)) == len(ids)


def test_labels_are_in_range_and_every_class_is_in_every_part(row):
    _, splits = row
    for part in PARTS:
        assert np.unique(getattr(splits, part).labels).tolist() == list(range(len(splits.classes)))


def test_recordings_are_in_time_order_inside_the_sensor_and_well_filled(events_row):
    name, splits = events_row
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
def test_every_event_of_the_recording_is_counted_once_in_the_frames(events_row, part):
    name, splits = events_row
    samples = some_of(splits, part)
    recordings = RECORDINGS[name]([sample for sample, _, _ in samples])
    for (_, frames, label), (events, true_label) in zip(samples, recordings, strict=True):
        assert label == true_label
        assert frames.sum() == len(events)
        for polarity in (0, 1):
            assert frames[:, polarity].sum() == (events.p == polarity).sum()


def test_frames_called_causal_are_those_of_a_recording_that_stops_there(events_row):
    name, splits = events_row
    assert splits.causal is BINNING.causal
    samples = some_of(splits, "test")
    recordings = RECORDINGS[name]([sample for sample, _, _ in samples])
    for (_, frames, _), (events, _) in zip(samples, recordings, strict=True):
        for k in (1, 4):
            assert np.array_equal(frames[:k], BINNING(events.until(k * BINNING.duration_us))[:k])


def test_the_record_names_protocol_and_binning(row):
    name, splits = row
    assert splits.protocol.startswith(f"{PROTOCOL_OF.get(name, name)}/")
    assert len(splits.protocol_hash) == 16
    assert splits.binning == IMAGES.get(name, BINNING).describe()


def test_an_image_is_the_same_memory_at_every_step_and_in_range(images_row):
    for _, frames, _ in some_of(images_row[1], "train"):
        assert frames.strides[0] == 0
        assert frames.dtype == np.float32
        assert 0 <= frames.min() < frames.max() <= 1


def test_an_encoding_of_the_other_kind_is_refused_by_name(row):
    name, _ = row
    wrong = BINNING if name in IMAGES else Direct(4)
    with pytest.raises(ValueError, match=f"{name} holds .*, got {wrong.name}"):
        load_dataset(name, binning=wrong)


def test_a_part_reads_from_a_file_that_cannot_be_written(row):
    frames, _ = row[1].test[0]
    assert not frames.flags.writeable

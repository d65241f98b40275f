"""What every row of DATASETS promises. A new row joins SIZES, and IMAGES or, if its recordings are
made and not read, RECORDED; it is tested then.

Rows that read files read a made-up folder in the format of the release; see `event_trees` and
`image_trees`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import event_trees
import image_trees
import numpy as np
import pytest

from anystep.data.datasets import DATASETS, load_dataset
from anystep.data.digits import digits_events
from anystep.data.frames import Direct, FixedDuration
from anystep.data.recording import Events
from anystep.data.sets import Splits

BINNING = FixedDuration(10, 30_000)
# Of rows without files: what makes the recording of an id, (Events, label)
RECORDED = {
    "digits-dvs": lambda sample: next(digits_events([int(sample)])),
}
IMAGE_TREES = {"cifar10": image_trees.cifar10_binary, "cifar100": image_trees.cifar100_binary}
IMAGE_TREES |= image_trees.TREES
IMAGES = {"digits", *IMAGE_TREES}
SIZES = {
    "digits-dvs": (1259, 179, 359),
    "digits": (1259, 179, 359),
    "nmnist": (90, 10, 20),
    "ncaltech101": (808, 101, 101),
    "cifar10-dvs": (90, 10, 30),
    "cifar10-sim": (90, 10, 30),
    "dvs-gesture": (49, 11, 24),
    "events-folder": (32, 4, 4),
    "cifar10": (180, 20, 20),
    "cifar100": (1800, 200, 200),
    "imagenet-1k": (27, 3, 6),
    "cub-200-2011": (18, 2, 4),
    "stanford-dogs": (18, 2, 4),
    "stanford-cars": (18, 2, 4),
    "image-folder": (14, 2, 4),
}
# the same digits; any folder
PROTOCOL_OF = {"digits": "digits-dvs/", "events-folder": "random-90-10@0"}
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
PARTS = ("train", "val", "test")


class Row(NamedTuple):
    """A row's samples, and the recordings {id: (rows (t, x, y, p), label)} that they come from."""

    name: str
    splits: Splits
    known: Any = None

    @property
    def encoding(self):
        return Direct(4) if self.name in IMAGES else BINNING

    def recording(self, sample: Any) -> tuple[Events, int]:
        if self.known is None:
            return RECORDED[self.name](sample)
        rows, label = self.known[sample]
        return Events.from_arrays(*np.array(rows).T, self.splits.train.shape[-2:]), label

    def some_of(self, part: str) -> list[tuple[Any, np.ndarray, int]]:
        """(id, frames, label) of six samples spread over a part, or all if they are fewer."""
        data = getattr(self.splits, part)
        chosen = np.unique(np.linspace(0, len(data) - 1, 6).astype(int))
        return [(data.ids[i], *data[int(i)]) for i in chosen]


@pytest.fixture(scope="session", params=sorted(DATASETS))
def row(request, tmp_path_factory, digits_cache) -> Row:
    """All samples of a row, built once for the whole suite."""
    name, known, options = request.param, None, {"cache": digits_cache}
    root, cache = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cache")
    if trees := event_trees.TREES.get(name):
        known = trees[next(iter(trees))](root)
        options = {"cache": cache, "root": root, **event_trees.OPTIONS.get(name, {})}
    elif name in IMAGE_TREES:
        options = {"cache": cache, "root": IMAGE_TREES[name](root), **PLAIN}
        options |= {"size": 14} if name in image_trees.TREES else {}
    binning = Direct(4) if name in IMAGES else BINNING
    return Row(name, load_dataset(name, binning=binning, **options), known)


@pytest.fixture
def events_row(row) -> Row:
    if row.name in IMAGES:
        pytest.skip("it holds images")
    return row


@pytest.fixture
def images_row(row) -> Row:
    if row.name not in IMAGES:
        pytest.skip("it holds events")
    return row


def test_every_row_has_its_recordings_or_images_and_sizes_here():
    assert set(DATASETS) == {*RECORDED, *event_trees.TREES} | IMAGES == set(SIZES)


def test_the_parts_have_their_sizes_and_one_shape(row):
    assert tuple(len(getattr(row.splits, part)) for part in PARTS) == SIZES[row.name]
    (shape,) = {frames.shape for part in PARTS for _, frames, _ in row.some_of(part)}
    assert shape[0] == row.encoding.steps


def test_no_sample_is_in_two_parts(row):
    ids = np.concatenate([getattr(row.splits, part).ids for part in PARTS])
    assert len(np.unique(ids)) == len(ids)


def test_labels_are_in_range_and_every_class_is_in_every_part(row):
    for part in PARTS:
        found = np.unique(getattr(row.splits, part).labels).tolist()
        assert found == list(range(len(row.splits.classes)))


def test_recordings_are_in_time_order_inside_the_sensor_and_well_filled(events_row):
    fewest = 1000 if events_row.name == "digits-dvs" else event_trees.EVENTS
    height, width = events_row.splits.train.shape[-2:]
    for sample, _, _ in events_row.some_of("train"):
        events, label = events_row.recording(sample)
        assert (np.diff(events.t) >= 0).all()
        for column, end in ((events.t, 300_000), (events.x, width), (events.y, height)):
            assert 0 <= column.min() <= column.max() < end
        assert events.sensor == (height, width)
        assert set(np.unique(events.p)) == {0, 1}
        assert fewest <= len(events) < 50_000
        assert 0 <= label < len(events_row.splits.classes)


@pytest.mark.parametrize("part", PARTS)
def test_every_event_of_the_recording_is_counted_once_in_the_frames(events_row, part):
    for sample, frames, label in events_row.some_of(part):
        events, true_label = events_row.recording(sample)
        assert label == true_label
        assert frames.sum((0, 2, 3)).tolist() == np.bincount(events.p).tolist()


def test_frames_called_causal_are_those_of_a_recording_that_stops_there(events_row):
    # ncaltech101 is cut to the pixels that a recording uses
    assert events_row.splits.causal is (events_row.name != "ncaltech101")
    for sample, frames, _ in events_row.some_of("test"):
        events, _ = events_row.recording(sample)
        for k in (1, 4):
            assert np.array_equal(frames[:k], BINNING(events.until(k * BINNING.duration_us))[:k])


def test_the_record_names_protocol_and_binning(row):
    assert row.splits.protocol.startswith(PROTOCOL_OF.get(row.name, f"{row.name}/"))
    assert len(row.splits.protocol_hash) == 16
    assert row.splits.binning == row.encoding.describe()


def test_an_image_is_the_same_memory_at_every_step_and_in_range(images_row):
    for _, frames, _ in images_row.some_of("train"):
        assert frames.strides[0] == 0
        assert frames.dtype == np.float32
        assert 0 <= frames.min() < frames.max() <= 1


def test_an_encoding_of_the_other_kind_is_refused_by_name(row):
    wrong = BINNING if row.name in IMAGES else Direct(4)
    with pytest.raises(ValueError, match=f"{row.name} holds .*, got {wrong.name}"):
        load_dataset(row.name, binning=wrong)


def test_a_part_reads_from_a_file_that_cannot_be_written(row):
    frames, _ = row.splits.test[0]
    assert not frames.flags.writeable

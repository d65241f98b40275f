"""Orders that read each row group of parquet shards once."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_trees import imagenet_shards, rows_of, write_part

from anystep import AnystepWarning
from anystep.data.datasets import load_dataset
from anystep.data.frames import Direct
from anystep.data.images import shards as shards_module
from anystep.data.images.shards import ShardImages, read_shards
from anystep.data.loader import epoch_order, load_batches
from anystep.data.sets import Blocks, FrameRange
from anystep.nn.models import create_model
from anystep.training.fit import fit, start
from anystep.training.methods import create_method
from anystep.training.schedule import Plan

pyarrow = pytest.importorskip("pyarrow", reason="extra images is not installed")
ROWS_OF_A_GROUP = 8


def loaded(root: Path, name: str = "image-folder"):
    return load_dataset(name, binning=Direct(2), root=root, size=14)


def noise_shards(folder: Path) -> dict[str, list[Path]]:
    """Three shards of 24 row groups of equal size, whose "images" are noise: only places matter."""
    chance = np.random.default_rng(0)
    rows = [(chance.bytes(2000), f"{k}.png", k % 4) for k in range(24 * ROWS_OF_A_GROUP)]
    return {"train": write_part(folder, "train", rows, shards=3, group=ROWS_OF_A_GROUP)}


def with_room_for(groups: int, parts: dict[str, list[Path]]) -> ShardImages:
    """The images of these shards with a window that holds so many groups."""
    whole = read_shards("image-folder", parts).images
    return ShardImages(whole.shards, window_bytes=groups * (ROWS_OF_A_GROUP * 2000 + 200))


@pytest.mark.parametrize("balance", [None, np.arange(100) % 3])
def test_blocks_change_the_order_of_what_is_drawn_and_nothing_else(balance):
    blocks = Blocks(np.arange(100) // 5, 4)
    options = {"batch_size": 10, "seed": 3, "epoch": 2, "balance": balance}
    orders = [epoch_order(100, blocks=each, **options) for each in (None, blocks)]
    plain, blocked = (sorted(index for batch in order for index in batch) for order in orders)
    assert plain == blocked


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_goes_through_windows_of_blocks_and_shows_a_sample_once(n, block, window, epoch):
    of = np.random.default_rng(n).permutation(np.arange(n) // block) * 3 + 5
    blocks = Blocks(of, window)
    order = epoch_order(n, batch_size=1, seed=0, epoch=epoch, blocks=blocks)
    order = [batch[0] for batch in order]
    assert sorted(order) == list(range(n))
    entered: list[set[int]] = [set()]
    for block_of in of[order].tolist():
        if block_of not in entered[-1] and len(entered[-1]) == window:
            entered.append(set())
        entered[-1].add(block_of)
    assert sum(len(each) for each in entered) == len(set(of.tolist()))  # no block is in two windows


def test_the_order_within_and_of_the_windows_depends_on_seed_and_epoch():
    blocks = Blocks(np.arange(400) // 10, 8)

    def order(seed, epoch):
        torch.manual_seed(seed + 17 * epoch)  # must not matter
        return epoch_order(400, batch_size=400, seed=seed, epoch=epoch, blocks=blocks)[0]

    assert order(0, 1) == order(0, 1)
    orders = {tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert len({frozenset(each[:80]) for each in orders}) == 4
    window = blocks.of[order(0, 0)[:80]]
    assert set(window[:40].tolist()) == set(window.tolist())  # mixed, not one block after the other


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_worker_reads_a_row_group_once_an_epoch(workers, tmp_path):
    images = with_room_for(6, noise_shards(tmp_path))
    blocks, groups = images.blocks(), 24
    batches = epoch_order(len(images), batch_size=6, seed=0, epoch=0, blocks=blocks)
    for worker in range(workers):
        mine = ShardImages(images.shards, window_bytes=images.window_bytes)
        wanted = [index for batch in batches[worker::workers] for index in batch]
        assert [mine[index] for index in wanted] == [images[index] for index in wanted]
        assert mine.reads == len({int(block) for block in blocks.of[wanted]}) <= groups
    shuffled = ShardImages(images.shards, window_bytes=images.window_bytes)
    for index in np.random.default_rng(0).permutation(len(images)).tolist():
        _ = shuffled[index]
    assert shuffled.reads > 5 * groups  # what the windows are for


@pytest.mark.parametrize("room", [1, 3])
def test_memory_stays_within_the_window_and_a_copy_for_another_process_takes_none(room, tmp_path):
    images = with_room_for(room, noise_shards(tmp_path))
    window, base, peak = images.window_bytes, pyarrow.total_allocated_bytes(), 0
    for index in np.random.default_rng(0).permutation(len(images)).tolist():
        _ = images[index]
        assert images.held_bytes <= window
        peak = max(peak, pyarrow.total_allocated_bytes() - base)
    # What pyarrow holds besides the images: offsets, and room at the end of its buffers.
    assert 0.6 * window < images.held_bytes < peak < 1.5 * window + 20_000
    copy = pickle.loads(pickle.dumps(images))
    assert (copy.held_bytes, copy[77]) == (0, images[77])
    tiny = ShardImages(images.shards, window_bytes=10)  # a larger row group is held alone
    assert tiny.blocks().window == 1
    for index in (0, 1, 9, 8, 0):
        _ = tiny[index]
    assert tiny.reads == 3
    assert ShardImages(images.shards).blocks() is None  # one window: shuffled as a whole


@pytest.fixture
def windowed(tmp_path, monkeypatch):
    """Miniature ImageNet in shards whose window holds one row group or two."""
    monkeypatch.setattr(shards_module, "WINDOW_BYTES", 1000)
    splits = loaded(imagenet_shards(tmp_path), "imagenet-1k")
    assert splits.train.blocks.window < len(np.unique(splits.train.blocks.of))
    return splits


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers(workers, windowed):
    data = windowed.train
    batches = epoch_order(len(data), batch_size=5, seed=0, epoch=0, blocks=data.blocks)
    for batch, (x, y) in zip(batches, load_batches(data, batches, workers=workers), strict=True):
        assert y.tolist() == data.labels[batch].tolist()
        assert np.array_equal(x.numpy(), np.stack([data[index][0] for index in batch], axis=1))
        assert x.stride(0) == 0


class Stopped(Exception):
    """The end of a run."""


class Watched(FrameRange):
    """A data set that writes down what it was asked for."""

    def __init__(self, dataset):
        super().__init__(dataset, 0, len(dataset[0][0]))
        self.shown: list[int] = []

    def __getitem__(self, index):
        self.shown.append(index)
        return super().__getitem__(index)


def test_a_run_that_is_resumed_sees_the_windows_of_the_epoch_that_it_resumes(windowed):
    def stop(state, row):
        raise Stopped

    data, plan = Watched(windowed.train), Plan(epochs=2, batch_size=5, lr=0.01, optimizer="sgd")
    options = {"num_classes": 3, "in_planes": 3, "input_size": 14, "widths": [[4], [8]]}
    state, method = start(create_model("vgg_snn", **options), plan), create_method("ce")
    with pytest.raises(Stopped):
        fit(state, data, method=method, plan=plan, on_epoch=stop)
    data.shown.clear()
    fit(state, data, method=method, plan=plan)
    order = epoch_order(len(data), batch_size=5, seed=0, epoch=1, blocks=windowed.train.blocks)
    assert data.shown == [index for batch in order for index in batch]


def test_shards_that_are_sorted_by_class_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "WINDOW_BYTES", 3000)
    rows = sorted(rows_of(160, classes=8), key=lambda row: row[2])
    write_part(tmp_path, "train", rows, group=10)
    text = r"image-folder: the shards are sorted by class: \d+ images .* not \d\. Shuffle"
    with pytest.warns(AnystepWarning, match=text):
        loaded(tmp_path)

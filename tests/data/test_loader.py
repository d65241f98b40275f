"""Batches: time first, every sample in its place, and an order that only the seed and the epoch
decide.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from moving_light import recordings
from torch.utils.data import DataLoader

from anystep._errors import UsageError
from anystep.data.loader import (
    derive_seed,
    epoch_order,
    in_order,
    load_batches,
    time_first,
    to_device,
)
from anystep.data.sets import as_dataset
from anystep.nn.layers import is_static
from anystep.nn.neurons import LIF


def sample(value, *, steps=3, dtype=np.uint8):
    return np.full((steps, 2, 4, 5), value, dtype)


def test_a_batch_is_time_first_single_precision_and_in_the_order_of_its_samples():
    frames = [np.random.default_rng(n).integers(9, size=(3, 2, 4, 5)) for n in range(4)]
    x, y = time_first([(each, 10 + n) for n, each in enumerate(frames)])
    assert (x.shape, x.dtype) == ((3, 4, 2, 4, 5), torch.float32)
    assert (y.tolist(), y.dtype) == ([10, 11, 12, 13], torch.int64)
    for n, each in enumerate(frames):
        np.testing.assert_array_equal(x[:, n].numpy(), each)


LARGEST = {"uint8": 255, "uint16": 65535, "int16": 300, "int64": 300, "bool": 1}
LARGEST |= {"float32": 300, "float64": 300}


@pytest.mark.parametrize(("dtype", "largest"), LARGEST.items())
def test_counts_of_every_dtype_keep_their_value(dtype, largest):
    x, _ = time_first([(sample(largest, dtype=dtype), 0)])
    assert x.dtype == torch.float32
    assert (x == largest).all()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["array", "tensor", "static"])
def test_a_sample_that_is_not_finite_is_refused_by_index_and_name(workers, kind):
    make = {
        "array": lambda value: sample(value, dtype=np.float32),
        "tensor": lambda value: torch.full((3, 2, 4, 5), value),
        "static": lambda value: np.broadcast_to(np.float32(value), (3, 2, 4, 5)),
    }[kind]
    for value, refused in ((0.5, False), (np.nan, True), (-np.inf, True)):
        dataset = as_dataset([(make(0.5), 0), (make(value), 1)])
        dataset.ids = ["a.bin", "b.bin"]
        batches = load_batches(dataset, [[0], [1]], workers=workers)
        if refused:
            with pytest.raises(
                UsageError, match=r"^sample 1 \(b\.bin\) has a value that is no fini"
            ):
                list(batches)
        else:
            assert len(list(batches)) == 2


def test_tensors_and_labels_of_any_integer_kind_are_taken():
    tensor = torch.full((3, 2, 4, 5), 7, dtype=torch.uint8)
    x, y = time_first([(tensor, torch.tensor(1)), (sample(7), np.int32(2))])
    assert (x == 7).all()
    assert y.tolist() == [1, 2]


def test_a_seed_for_one_purpose_is_no_seed_for_another():
    purposes = ("order", 1), ("order", 2), ("views", 1), ("views", "1"), ()
    seeds, again = (
        [derive_seed(seed, *each) for seed in (0, 1) for each in purposes] for _ in range(2)
    )
    assert seeds == again
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (12, 4), (5, 5), (7, 1)])
def test_an_epoch_shows_a_sample_once_at_most_in_full_batches(n, batch_size):
    batches = epoch_order(n, batch_size=batch_size, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [batch_size] * (n // batch_size)
    shown = [index for batch in batches for index in batch]
    assert shown == epoch_order(n, batch_size=n, seed=0, epoch=0)[0][: len(shown)]
    assert len(set(shown)) == len(shown)
    assert set(shown) <= set(range(n))


def test_the_order_depends_on_the_seed_and_the_epoch_and_on_nothing_else():
    def order(seed, epoch):
        return epoch_order(100, batch_size=100, seed=seed, epoch=epoch)[0]

    first = order(0, 0)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert order(0, 0) == first != sorted(first)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_samples_asked_for_with_any_number_of_workers(workers):
    data = recordings(9)
    batches = [[4, 1], [8], [0, 3, 2]]
    loaded = list(load_batches(data, batches, workers=workers))
    assert len(loaded) == 3
    for batch, (x, y) in zip(batches, loaded, strict=True):
        frames, labels = data.frames[batch], data.labels[batch]
        np.testing.assert_array_equal(x.numpy(), frames.swapaxes(0, 1))
        np.testing.assert_array_equal(y.numpy(), labels)


IMAGES = np.random.default_rng(0).integers(256, size=(7, 2, 4, 5), dtype=np.uint8)
TENSORS = torch.from_numpy(IMAGES)
# Images shown for four steps without a copy.
SHOWS = {
    "numpy": lambda i: np.broadcast_to(IMAGES[i], (4, 2, 4, 5)),
    "numpy uint16": lambda i: np.broadcast_to(IMAGES[i].astype(np.uint16), (4, 2, 4, 5)),
    "torch": lambda i: TENSORS[i].expand(4, -1, -1, -1),
    "torch float": lambda i: TENSORS[i].float().expand(4, -1, -1, -1),
}


@pytest.mark.parametrize("show", SHOWS.values(), ids=SHOWS)
def test_a_batch_of_static_items_is_static_and_the_same_as_of_their_copies(show, recwarn):
    x, y = time_first([(show(index), index) for index in (3, 1, 2)])
    assert is_static(x)
    assert x.untyped_storage().nbytes() == x[0].numel() * 4  # one step of memory
    copies, labels = time_first([(np.stack(list(show(index))), index) for index in (3, 1, 2)])
    assert not is_static(copies)
    assert (x.dtype, x.shape) == (copies.dtype, copies.shape)
    assert torch.equal(x, copies)
    assert torch.equal(y, labels)
    assert not recwarn.list


def test_one_item_that_is_not_static_makes_its_batch_a_copy():
    static, other = SHOWS["numpy"](0), sample(7, steps=4)
    x, _ = time_first([(static, 0), (other, 1)])
    assert not is_static(x)
    np.testing.assert_array_equal(x[:, 0].numpy(), static)
    assert (x[:, 1] == 7).all()


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16], ids=str)
def test_what_is_static_stays_so_in_another_dtype_and_on_another_device(dtype):
    static, _ = time_first([(SHOWS["torch"](index), index) for index in (0, 1)])
    for x in (static, static.contiguous(), static[:1]):
        moved = to_device(x, torch.device("cpu"), dtype)
        assert is_static(moved) == is_static(x)
        assert moved.dtype == (dtype or torch.float32)
        assert torch.equal(moved, x.to(dtype or torch.float32))
    elsewhere = to_device(static, torch.device("meta"), dtype)
    assert (elsewhere.device.type, elsewhere.stride(0)) == ("meta", 0)
    assert elsewhere.shape == static.shape


class Fired:
    """Items that a fused neuron makes, in whatever process they are asked for; then images."""

    def __len__(self):
        return 13

    def __getitem__(self, index):
        if index >= 8:
            return SHOWS["numpy"](index - 8), index
        spikes, _ = LIF(backend="numba")(current(index))
        return spikes[:, 0], index


def current(index):
    generator = torch.Generator().manual_seed(index)
    return 2.0 * torch.rand(5, 1, 2, 6, 6, generator=generator)


def test_two_spawned_workers_at_once_run_a_kernel_and_keep_static_what_is():
    batches = [*in_order(8, batch_size=2), [8, 9, 10], [11, 12]]
    loader = DataLoader(
        Fired(),
        batch_sampler=batches,
        collate_fn=time_first,
        num_workers=2,
        multiprocessing_context="spawn",
    )
    *fired, (first, _), (second, _) = loader
    expected = [LIF(backend="reference")(current(index))[0][:, 0] for index in range(8)]
    assert torch.cat([y for _, y in fired]).tolist() == list(range(8))
    assert torch.equal(torch.cat([x for x, _ in fired], dim=1), torch.stack(expected, dim=1))
    assert 0 < torch.stack(expected).mean() < 1
    assert is_static(first)
    assert is_static(second)
    assert torch.equal(torch.cat([first, second], dim=1)[-1], TENSORS[:5].float())


def test_a_balanced_epoch_draws_every_class_as_often_as_any_other():
    labels = [0] * 900 + [1] * 90 + [2] * 10

    def drawn_in(epoch):
        order = epoch_order(1000, batch_size=100, seed=0, epoch=epoch, balance=labels)
        return [index for batch in order for index in batch]

    drawn = drawn_in(3)
    counts = np.bincount(np.asarray(labels)[drawn])
    assert counts.sum() == 1000  # as many as there are
    deviation = (1000 * 2 / 9) ** 0.5  # of a binomial
    assert (abs(counts - 1000 / 3) < 4 * deviation).all()
    assert drawn == drawn_in(3) != drawn_in(4)

from __future__ import annotations

import hashlib
import os
import re

import numpy as np
import pytest
from event_trees import CIFAR10
from sklearn.datasets import load_digits

from anystep._errors import AnystepWarning, UsageError
from anystep.data.protocols import held_out, split, stratified


def by_hash(members, name, ids):
    """The order that the documentation promises: that of sha256("<name>/<id>")."""
    return sorted(members, key=lambda i: hashlib.sha256(f"{name}/{ids[i]}".encode()).hexdigest())


def test_the_digits_split_is_the_one_published_and_takes_its_share_of_every_class():
    labels = load_digits().target
    parts = split("digits-dvs/stratified-70-10-20", labels)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (1259, 179, 359)
    assert parts.hash == "08f76364429733b5"
    together = np.concatenate([parts.train, parts.val, parts.test])
    assert np.array_equal(np.sort(together), np.arange(1797))
    for label in range(10):
        size = np.sum(labels == label)
        assert abs(np.sum(labels[parts.test] == label) - 0.2 * size) <= 0.5
        assert abs(np.sum(labels[parts.val] == label) - 0.1 * size) <= 0.5


def test_membership_is_the_order_of_the_hashes_within_a_class():
    ids = [f"s{i}" for i in range(10)]
    parts = stratified([0] * 5 + [1] * 5, (0.6, 0.2, 0.2), name="demo", ids=ids)
    for members in (range(5), range(5, 10)):
        order = by_hash(members, "demo", ids)
        assert (order[0] in parts.test, order[1] in parts.val) == (True, True)
        assert set(order[2:]) <= set(parts.train.tolist())


def test_a_sample_keeps_its_part_when_the_samples_come_in_another_order():
    labels, ids = np.repeat([0, 1, 2], 20), np.arange(60)
    shuffle = np.random.default_rng(0).permutation(60)
    one = stratified(labels, (0.5, 0.25, 0.25), name="demo", ids=ids)
    other = stratified(labels[shuffle], (0.5, 0.25, 0.25), name="demo", ids=ids[shuffle])
    assert set(ids[one.test]) == set(ids[shuffle][other.test])
    assert set(ids[one.val]) == set(ids[shuffle][other.val])


def test_another_name_is_another_split_and_the_hash_says_so():
    a, same, b = (stratified([0, 1] * 30, (0.5, 0.25, 0.25), name=name) for name in "aab")
    assert a.hash == same.hash != b.hash
    with pytest.raises(ValueError, match="read-only"):
        a.test[0] = 0


def test_of_five_folds_every_sample_tests_in_one_and_a_class_is_cut_evenly():
    labels, ids = np.repeat([0, 1], [12, 23]), [f"s{i}" for i in range(35)]
    folds = [split(f"fold-{k}-of-5@0", labels, ids=ids) for k in range(1, 6)]
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(35))
    for label in (0, 1):
        order = by_hash(np.flatnonzero(labels == label), "folds-5@0", ids)
        for k, fold in enumerate(folds):
            assert set(fold.test[labels[fold.test] == label]) == set(order[k::5])
    assert len({fold.hash for fold in folds} | {split("fold-1-of-5@1", labels, ids=ids).hash}) == 6


def test_folds_pool_the_parts_that_samples_came_in():
    parts = split("fold-2-of-2@0", [0] * 20, parts=["train"] * 15 + ["test"] * 5)
    assert len(parts.test) == 10


def test_a_given_test_set_is_taken_as_it_is_and_a_tenth_of_the_rest_validates():
    labels = np.repeat([0, 1], 60)
    given = ["train"] * 50 + ["test"] * 10 + ["train"] * 55 + ["test"] * 5
    parts = split("nmnist/official", labels, parts=given)
    assert parts.test.tolist() == [*range(50, 60), *range(115, 120)]
    assert np.bincount(labels[parts.val]).tolist() == [5, 6]  # 5.5 is rounded up
    assert sorted(by_hash(range(50), "nmnist/official", range(50))[:5]) == parts.val[:5].tolist()


def test_the_two_splits_of_cifar10_dvs_test_the_last_and_the_first_hundred_of_each_class():
    ids = [f"{name}/{number}" for name in CIFAR10 for number in range(1000)]
    labels = np.repeat(np.arange(10), 1000)
    for which, start, known in (
        ("last", 900, "ea76d8bb34fc1fa7"),
        ("first", 0, "3affa3e37abbe82c"),
    ):
        parts = split(f"cifar10-dvs/{which}-100", labels, ids=ids)
        assert parts.test.tolist() == [k * 1000 + start + n for k in range(10) for n in range(100)]
        assert len(parts.train) == 8100
        assert np.bincount(labels[parts.val]).tolist() == [90] * 10
        assert parts.hash == known


def test_a_random_split_draws_a_tenth_of_each_class_by_the_hash_of_its_name_and_seed():
    labels, ids = np.repeat([0, 1], [50, 30]), [f"s{i}" for i in range(80)]
    parts = split("random-90-10@7", labels, ids=ids)
    for label, test, val in ((0, 5, 5), (1, 3, 3)):  # a tenth of 45 and of 27, rounded
        members = np.flatnonzero(labels == label)
        order = by_hash(members, "random-90-10@7", ids)
        assert set(order[:test]) == set(members) & set(parts.test.tolist())
        assert set(order[test : test + val]) == set(members) & set(parts.val.tolist())
    assert split("random-90-10@8", labels, ids=ids).hash != parts.hash


def test_a_name_that_is_no_utf8_is_judged_by_its_bytes():
    ids = [os.fsdecode(b"cat/\xff"), *(f"cat/{number}" for number in range(9))]
    digests = [hashlib.sha256(b"random-90-10@0/" + os.fsencode(each)).digest() for each in ids]
    assert split("random-90-10@0", [0] * 10, ids=ids).test.tolist() == [np.argmin(digests)]


def test_the_first_nine_tenths_of_a_class_train_and_halves_go_to_the_even_number():
    sizes = (45, 40), (15, 14), (31, 28), (10, 9)  # 40.5 -> 40, 13.5 -> 14, 27.9 -> 28
    every = [(k, n) for k, (size, _) in enumerate(sizes) for n in range(1, size + 1)]
    every = [every[i] for i in np.random.default_rng(1).permutation(len(every))]
    ids = [f"{k}/image_{n}" for k, n in every]
    parts = split("ncaltech101/90-10-per-class", [k for k, _ in every], ids=ids)
    assert parts.test.tolist() == [i for i, (k, n) in enumerate(every) if n > sizes[k][1]]


def test_persons_24_to_29_test_the_gestures():
    ids = [f"user{user:02d}_lab/{label}_0" for user in range(1, 30) for label in range(11)]
    parts = split("dvs-gesture/users", [i % 11 for i in range(len(ids))], ids=ids)
    assert parts.test.tolist() == list(range(23 * 11, 29 * 11))
    assert len(parts.val) == 22


def test_a_test_set_of_your_own_is_a_split_too():
    parts = held_out([0] * 20, np.arange(20) >= 10, name="mine")
    assert (parts.name, len(parts.train), len(parts.val)) == ("mine", 9, 1)
    assert parts.test.tolist() == list(range(10, 20))


COUNTED = "random-90-10@3 fold-1-of-2@0 fold-2-of-5@0 fold-3-of-3@1 ncaltech101/90-10-per-class"


@pytest.mark.parametrize("name", [*COUNTED.split(), "digits-dvs/stratified-70-10-20"])
def test_the_least_that_a_class_needs_is_the_first_size_that_fits(name):
    fits, told = [], ""
    for count in range(1, 20):
        try:
            split(name, [0] * count, classes=["cat"])
            fits.append(count)
        except UsageError as error:
            told = str(error)
    assert f"class cat has {fits[0] - 1} samples" in told
    assert told.endswith(f"needs at least {fits[0]} samples")
    assert fits == list(range(fits[0], 20))


def test_a_class_that_is_not_in_every_part_is_told_with_its_samples_and_the_split_stays():
    labels, classes = [0] * 20 + [1] * 4 + [2] * 5, ("cat", "dog", "eel")
    known = (
        "random-90-10@0 leaves classes out of a part: class dog has 4 samples (4 train, 0 val, 0 "
        "test); class eel has 5 samples (4 train, 0 val, 1 test). A class needs at least 6 samples"
    )
    with pytest.warns(AnystepWarning, match=re.escape(known)):
        parts = split("random-90-10@0", labels, classes=classes)
    assert parts.short == known
    assert (len(parts.train), len(parts.val), len(parts.test)) == (24, 2, 3)


def test_what_is_skipped_leaves_its_part_and_nobody_else_moves():
    labels = [0] * 20 + [1] * 20
    whole = split("random-90-10@0", labels, classes=("cat", "dog"))
    skip = [*whole.val[:2], *whole.train[:3]]
    with pytest.warns(
        AnystepWarning, match=r"class cat has 15 samples \(13 train, 0 val, 2 test\)"
    ):
        rest = split("random-90-10@0", labels, classes=("cat", "dog"), skip=skip)
    assert rest.test.tolist() == whole.test.tolist()
    assert rest.train.tolist() == whole.train[3:].tolist()
    with pytest.raises(UsageError, match="has nothing for val: class cat has"):
        split("random-90-10@0", labels, classes=("cat", "dog"), skip=whole.val)

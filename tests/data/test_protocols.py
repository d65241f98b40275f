from __future__ import annotations

import hashlib
import os
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from anystep.data.protocols import (
    PROTOCOLS,
    Split,
    Stratified,
    held_out,
    natural,
    split,
    stratified,
)

DIGITS = "digits-dvs/stratified-70-10-20"


def test_the_digits_split_is_the_one_published():
    parts = split(DIGITS, load_digits().target)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (1259, 179, 359)
    assert parts.hash == "08f76364429733b5"


def test_the_digits_split_covers_every_sample_once_and_every_class_by_its_share():
    labels = load_digits().target
    parts = split(DIGITS, labels)
    assert np.array_equal(
        np.sort(np.concatenate([parts.train, parts.val, parts.test])), np.arange(1797)
    )
    for label in range(10):
        size = np.sum(labels == label)
        assert abs(np.sum(labels[parts.test] == label) - 0.2 * size) <= 0.5
        assert abs(np.sum(labels[parts.val] == label) - 0.1 * size) <= 0.5


def test_membership_is_the_order_of_the_hashes_within_a_class():
    labels, ids = [0] * 5 + [1] * 5, [f"s{i}" for i in range(10)]
    parts = stratified(labels, (0.6, 0.2, 0.2), name="demo", ids=ids)
    for members in (range(5), range(5, 10)):
        order = sorted(members, key=lambda i: hashlib.sha256(f"demo/s{i}".encode()).hexdigest())
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
    labels = np.repeat([0, 1], 30)
    one, same, other = (
        stratified(labels, (0.5, 0.25, 0.25), name=name) for name in ("a", "a", "b")
    )
    assert one.hash == same.hash != other.hash


def test_the_members_cannot_be_changed():
    parts = stratified([0] * 10, (0.5, 0.2, 0.3), name="demo")
    with pytest.raises(ValueError, match="read-only"):
        parts.test[0] = 0


def test_of_five_folds_every_sample_tests_in_one_and_a_class_is_cut_evenly():
    labels, ids = np.repeat([0, 1], [12, 23]), [f"s{i}" for i in range(35)]
    folds = [split(f"fold-{k}-of-5@0", labels, ids=ids) for k in range(1, 6)]
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(35))
    for label, sizes in ((0, {2, 3}), (1, {4, 5})):
        assert {int(np.sum(labels[fold.test] == label)) for fold in folds} == sizes
        order = sorted(
            np.flatnonzero(labels == label),
            key=lambda i: hashlib.sha256(f"folds-5@0/s{i}".encode()).digest(),
        )
        assert [set(fold.test[labels[fold.test] == label]) for fold in folds] == [
            set(order[k::5]) for k in range(5)
        ]
    assert len({fold.hash for fold in folds} | {split("fold-1-of-5@1", labels, ids=ids).hash}) == 6


def test_folds_pool_the_parts_that_samples_came_in():
    parts = split("fold-2-of-2@0", [0] * 20, parts=["train"] * 15 + ["test"] * 5)
    assert len(parts.test) == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fold-6-of-5@0", "K must be in 1..N and N >= 2, got 'fold-6-of-5@0'"),
        ("fold-1-of-1@0", "N >= 2"),
        ("fold-0-of-5@0", "unknown protocol"),
        ("fold-1-of-9@0", "every class needs 9 samples or more, one has 8"),
    ],
)
def test_folds_that_cannot_be_are_refused(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        split(name, [0] * 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: split("digits", [0]), "unknown protocol 'digits'"),
        (lambda: Stratified((0.5, 0.5, 0.5)), "with sum 1"),
        (lambda: Stratified((1.0, 0.0, 0.0)), "three numbers > 0"),
        (
            lambda: stratified([0] * 9, (0.6, 0.2, 0.2), name="a", ids=[1, 2]),
            "ids has 2 entries for 9 labels",
        ),
        (lambda: stratified([0] * 3, (0.6, 0.2, 0.2), name="a", ids=[1, 2, 2]), "ids must differ"),
        (
            lambda: stratified([0], (0.6, 0.2, 0.2), name="a"),
            "Split a: val must hold at least one index",
        ),
        (lambda: Split("a", *map(np.array, ([0], [1], [0]))), "train, val and test share a sample"),
        (lambda: Split("a", *map(np.array, ([0, 0], [1], [2]))), "train names a sample twice"),
    ],
)
def test_bad_splits_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_stratified_protocol_is_named_for_its_fractions():
    for name, row in PROTOCOLS.items():
        if isinstance(row, Stratified):
            assert name.endswith("-".join(f"{round(100 * each)}" for each in row.fractions))


def test_a_given_test_set_is_taken_as_it_is_and_a_tenth_of_the_rest_validates():
    labels, given = (
        np.repeat([0, 1], 60),
        ["train"] * 50 + ["test"] * 10 + ["train"] * 55 + ["test"] * 5,
    )
    parts = split("nmnist/official", labels, parts=given)
    assert parts.test.tolist() == [*range(50, 60), *range(115, 120)]
    assert [int((labels[parts.val] == label).sum()) for label in (0, 1)] == [
        5,
        6,
    ]  # 5.5 is rounded up
    order = sorted(
        range(50), key=lambda i: hashlib.sha256(f"nmnist/official/{i}".encode()).hexdigest()
    )
    assert sorted(order[:5]) == parts.val[:5].tolist()


def cifar10_dvs_ids() -> tuple[list[str], np.ndarray]:
    """The 10,000 names of CIFAR10-DVS, in the order of the data set."""
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    return [f"{name}/{number}" for name in names for number in range(1000)], np.repeat(
        np.arange(10), 1000
    )


def test_the_two_splits_of_cifar10_dvs_test_the_last_and_the_first_hundred_of_each_class():
    ids, labels = cifar10_dvs_ids()
    last, first = (
        split(f"cifar10-dvs/{which}-100", labels, ids=ids) for which in ("last", "first")
    )
    assert np.array_equal(
        last.test.reshape(10, 100), np.arange(10)[:, None] * 1000 + np.arange(900, 1000)
    )
    assert np.array_equal(
        first.test.reshape(10, 100), np.arange(10)[:, None] * 1000 + np.arange(100)
    )
    for parts in (last, first):
        assert (len(parts.train), len(parts.val)) == (8100, 900)
        assert np.bincount(labels[parts.val]).tolist() == [90] * 10
    assert (last.hash, first.hash) == ("ea76d8bb34fc1fa7", "3affa3e37abbe82c")


def test_a_random_split_draws_a_tenth_of_each_class_by_the_hash_of_its_name_and_seed():
    labels, ids = np.repeat([0, 1], [50, 30]), [f"s{i}" for i in range(80)]
    parts = split("random-90-10@7", labels, ids=ids)
    for label, test, val in ((0, 5, 5), (1, 3, 3)):  # a tenth of 45 and of 27, rounded
        members = np.flatnonzero(labels == label)
        order = sorted(
            members, key=lambda i: hashlib.sha256(f"random-90-10@7/s{i}".encode()).hexdigest()
        )
        assert set(order[:test]) == set(members) & set(parts.test.tolist())
        assert set(order[test : test + val]) == set(members) & set(parts.val.tolist())
    assert split("random-90-10@8", labels, ids=ids).hash != parts.hash


def test_a_name_that_is_no_utf8_is_judged_by_its_bytes():
    ids = [os.fsdecode(b"cat/\xff"), *(f"cat/{number}" for number in range(9))]
    first = sorted(
        ids, key=lambda each: hashlib.sha256(b"random-90-10@0/" + os.fsencode(each)).digest()
    )[0]
    assert split("random-90-10@0", [0] * 10, ids=ids).test.tolist() == [ids.index(first)]


def test_the_first_nine_tenths_of_a_class_train_and_halves_go_to_the_even_number():
    sizes = {
        0: (45, 40),
        1: (15, 14),
        2: (31, 28),
        3: (10, 9),
    }  # 40.5 -> 40, 13.5 -> 14, 27.9 -> 28
    labels = np.concatenate([np.full(size, label) for label, (size, _) in sizes.items()])
    ids = [
        f"{label}/image_{number}"
        for label, (size, _) in sizes.items()
        for number in range(1, size + 1)
    ]
    shuffle = np.random.default_rng(1).permutation(len(ids))
    parts = split("ncaltech101/90-10-per-class", labels[shuffle], ids=[ids[i] for i in shuffle])
    tested = {ids[shuffle[i]] for i in parts.test}
    assert tested == {
        f"{label}/image_{n}"
        for label, (size, kept) in sizes.items()
        for n in range(kept + 1, size + 1)
    }


def test_persons_24_to_29_test_the_gestures():
    ids = [f"user{user:02d}_lab/{label}_0" for user in range(1, 30) for label in range(11)]
    parts = split("dvs-gesture/users", [i % 11 for i in range(len(ids))], ids=ids)
    assert parts.test.tolist() == list(range(23 * 11, 29 * 11))
    assert len(parts.val) == 22


def test_names_sort_as_people_count():
    names = ["b/1", "a/10", "a/9", "a/09", "A/2", "a"]
    assert sorted(names, key=natural) == ["A/2", "a", "a/09", "a/9", "a/10", "b/1"]


def test_a_test_set_of_your_own_is_a_split_too():
    parts = held_out([0] * 20, np.arange(20) >= 10, name="mine")
    assert (parts.name, len(parts.train), len(parts.val), parts.test.tolist()) == (
        "mine",
        9,
        1,
        list(range(10, 20)),
    )

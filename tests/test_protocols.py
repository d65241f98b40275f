from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from anystep.data.protocols import PROTOCOLS, Split, Stratified, split, stratified

DIGITS = "digits-dvs/stratified-70-10-20"


def test_the_digits_split_is_the_one_published():
    parts = split(DIGITS, load_digits().target)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (1259, 179, 359)
    assert parts.hash == "08f76364429733b5"


def test_the_digits_split_covers_every_sample_once_and_every_class_by_its_share():
    labels = load_digits().target
    parts = split(DIGITS, labels)
    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.val, parts.test])), np.arange(1797))
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
    one, same, other = (stratified(labels, (0.5, 0.25, 0.25), name=name) for name in ("a", "a", "b"))
    assert one.hash == same.hash != other.hash


def test_the_members_cannot_be_changed():
    parts = stratified([0] * 10, (0.5, 0.2, 0.3), name="demo")
    with pytest.raises(ValueError, match="read-only"):
        parts.test[0] = 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: split("digits", [0]), "unknown protocol 'digits'"),
        (lambda: Stratified((0.5, 0.5, 0.5)), "with sum 1"),
        (lambda: Stratified((1.0, 0.0, 0.0)), "three numbers > 0"),
        (lambda: stratified([0] * 9, (0.6, 0.2, 0.2), name="a", ids=[1, 2]), "ids has 2 entries for 9 labels"),
        (lambda: stratified([0] * 3, (0.6, 0.2, 0.2), name="a", ids=[1, 2, 2]), "ids must differ"),
        (lambda: stratified([0], (0.6, 0.2, 0.2), name="a"), "Split a: val must hold at least one index"),
        (lambda: Split("a", *map(np.array, ([0], [1], [0]))), "train, val and test share a sample"),
        (lambda: Split("a", *map(np.array, ([0, 0], [1], [2]))), "train names a sample twice"),
    ],
)
def test_bad_splits_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_protocol_is_named_for_its_fractions():
    for name, row in PROTOCOLS.items():
        assert name.endswith("-".join(f"{round(100 * each)}" for each in row.fractions))

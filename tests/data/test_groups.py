"""Grouped splits: nobody is in two parts, and the shares are as near as groups allow."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from event_trees import put, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from anystep._errors import AnystepWarning, UsageError
from anystep.data.datasets import load_dataset
from anystep.data.frames import FixedDuration
from anystep.data.groups import grouped_rule, recording_of
from anystep.data.protocols import split

NAME = "grouped-70-10-20@0"
PARTS = ("train", "val", "test")


def slowly(name, ids, labels, group_of, shares=(70, 10, 20)):
    """{id: part} as the documentation tells it, in fractions and with loops."""
    part_of = {}
    groups = {group_of(each) for each in ids}

    def count(label, chosen):
        return sum(own == label and chosen(each) for each, own in zip(ids, labels, strict=True))

    for group in sorted(groups, key=lambda g: hashlib.sha256(f"{name}/{g}".encode()).hexdigest()):
        ranks = []
        for part, share in zip(PARTS, shares, strict=True):
            lacking, behind = 0, Fraction(0)
            for label in sorted(set(labels)):
                mine = count(label, lambda each, g=group: group_of(each) == g)
                all_of_it = count(label, lambda each: True)
                there = count(label, lambda each, p=part: part_of.get(group_of(each)) == p)
                lacking += mine > 0 and there == 0
                missing = Fraction(share, 100) - Fraction(there, all_of_it)
                behind += Fraction(mine, all_of_it) * missing
            ranks.append((lacking, behind))
        part_of[group] = PARTS[ranks.index(max(ranks))]
    return {each: part_of[group_of(each)] for each in ids}


def drawn(name, ids, labels):
    parts = split(name, labels, ids=ids)
    return {ids[i]: part for part in PARTS for i in getattr(parts, part).tolist()}


people = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2)), min_size=12, max_size=40)


@settings(max_examples=40)
@given(people)
def test_persons_are_placed_as_the_documentation_says(samples):
    ids = [f"{label}/user{person}_{n}" for n, (person, label) in enumerate(samples)]
    labels = [label for _, label in samples]
    name = r"grouped-60-20-20@4:user\d"
    known = slowly(name, ids, labels, lambda each: each[2:7], (60, 20, 20))
    masks = grouped_rule(name).masks(name, ids, np.array(labels))
    for part, mask in zip(PARTS, masks, strict=True):
        assert mask.tolist() == [known[each] == part for each in ids]


def slices(counts, label="left"):
    """`counts[k]` slices of recording k."""
    return [
        f"{label}/take{k}-slice-{n:04d}" for k, count in enumerate(counts) for n in range(count)
    ]


def distance(sizes):
    """How far a class is from its shares, squared; a part without any is worse than all."""
    whole = sum(sizes)
    pairs = zip(sizes, (70, 10, 20), strict=True)
    off = [Fraction(size, whole) - Fraction(share, 100) for size, share in pairs]
    return sizes.count(0), sum(each**2 for each in off)


@pytest.mark.parametrize("recordings", range(3, 9))
def test_recordings_of_one_length_are_placed_as_well_as_any_choice_of_parts_could(recordings):
    ids = slices([5] * recordings)
    got = drawn(NAME, ids, [0] * len(ids))
    choices = product(range(3), repeat=recordings)
    best = min(distance([5 * choice.count(part) for part in range(3)]) for choice in choices)
    assert distance([list(got.values()).count(part) for part in PARTS]) == best


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=12), st.integers(0, 99))
def test_no_part_has_more_than_its_share_and_one_recording(counts, seed):
    ids = slices(counts)
    got = drawn(f"grouped-70-10-20@{seed}", ids, [0] * len(ids))
    assert len({(recording_of(each), part) for each, part in got.items()}) == len(counts)
    for part, share in zip(PARTS, (70, 10, 20), strict=True):
        assert 0 < list(got.values()).count(part) <= share * len(ids) / 100 + max(counts)


def test_a_seed_and_an_expression_give_another_split_and_the_order_of_samples_does_not():
    ids = [f"{c}/u{u}/{n}" for c in "ab" for u in range(9) for n in range(4)]
    labels, back = [each[0] == "b" for each in ids], ids[::-1]
    one = drawn(r"grouped-70-10-20@0:u(\d)", ids, labels)
    assert one == drawn(r"grouped-70-10-20@0:u(\d)", back, labels[::-1])
    assert one != drawn(r"grouped-70-10-20@1:u(\d)", ids, labels)
    for user in range(9):  # in both classes
        assert len({part for each, part in one.items() if f"/u{user}/" in each}) == 1


REFUSED = [
    ("grouped-70-10-21@0", "three percentages >= 1 with sum 100, got (70, 10, 21)"),
    ("grouped-90-0-10@0", "percentages >= 1"),
    ("grouped-70-10-20@0:u(", "'u(' is no regular expression"),
    ("grouped-70-10-20@0:user", "'user' finds no group in the id 'cat/0'"),
    ("grouped-70-10-20", "Did you mean 'grouped-70-10-20@0'"),
    ("grouped-70-10-20@0:(dog|cat)", "class 0 has 9 samples (9 train, 0 val, 0 test). A class"),
]


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_what_is_no_grouped_split(name, words):
    with pytest.raises(UsageError) as refusal:
        split(name, [0] * 9, ids=[f"cat/{n}" for n in range(9)])
    assert words in str(refusal.value)


def test_a_folder_of_slices_keeps_recordings_together_and_says_so_where_a_protocol_does_not(
    tmp_path,
):
    for label in ("left", "right"):
        for each in slices([2] * 10, label):
            put(tmp_path / "data" / f"{each}.npz", rows_of(each, 16, 16))
    options = {"binning": FixedDuration(1, 400_000), "cache": tmp_path, "sensor": [16, 16]}
    splits = load_dataset("events-folder", root=tmp_path / "data", **options)
    assert splits.protocol == NAME
    sets = [{recording_of(each) for each in getattr(splits, part).ids} for part in PARTS]
    assert [len(each) for each in sets] == [14, 2, 4]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 20
    with pytest.warns(AnystepWarning, match="slices of . recordings lie in two parts, the first"):
        load_dataset("events-folder", root=tmp_path / "data", protocol="random-90-10@0", **options)

"""Splits that keep a group together: all slices of a recording, or all recordings of a person."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError

GROUPED = re.compile(r"grouped-([0-9]+)-([0-9]+)-([0-9]+)@[0-9]+(?::(.+))?")
# What `anystep data slice` puts between the name of a recording and the number of a slice
SLICE = "-slice-"
_A_SLICE = re.compile(rf"(.+?)({SLICE}[0-9]+)+")  # or a slice of a slice


def recording_of(name: str) -> str:
    """The recording from which the sample `name` was cut; itself, if it is no slice.

    >>> recording_of("left/take_3-slice-0012"), recording_of("left/take_4")
    ('left/take_3', 'left/take_4')
    """
    found = _A_SLICE.fullmatch(name)
    return found[1] if found else name


def cut_apart(names: Sequence[str], parts: Sequence[NDArray[np.int64]]) -> list[str]:
    """The recordings whose slices are in more than one of the parts, which are indices."""
    slices = [{recording_of(names[i]) for i in part if SLICE in names[i]} for part in parts]
    times = Counter(each for recordings in slices for each in recordings)
    return sorted(recording for recording, count in times.items() if count > 1)


@dataclass(frozen=True)
class Grouped:
    """The rule of `grouped-TRAIN-VAL-TEST@SEED` and `grouped-TRAIN-VAL-TEST@SEED:EXPRESSION`.

    shares    of train, val and test in percent, each >= 1, with sum 100
    pattern   a regular expression: the group of a sample is what it finds in the id (what its first
              brackets find, if it has some); None: the recording that the sample was cut from
    """

    shares: tuple[int, int, int]
    pattern: str | None = None

    def __post_init__(self) -> None:
        if min(self.shares) < 1 or sum(self.shares) != 100:
            rule = "shares must be three percentages >= 1 with sum 100"
            raise UsageError(f"grouped-TRAIN-VAL-TEST@SEED: {rule}, got {self.shares}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            text = f"{self.pattern!r} is no regular expression: {error}"
            raise UsageError(f"grouped-TRAIN-VAL-TEST@SEED: {text}") from error

    def group_of(self, name: str) -> str:
        """The group of the sample with this id. Error: the expression finds nothing in it."""
        if self.pattern is None:
            return recording_of(name)
        if not (found := re.search(self.pattern, name)):
            raise UsageError(f"grouped: {self.pattern!r} finds no group in the id {name!r}")
        return str(found[1] if found.re.groups else found[0])

    def masks(
        self, name: str, ids: Sequence[str], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], ...]:
        """Which samples (M,) train, choose and test.

        Groups come in the order of sha256("<name>/<group>"). Each goes to the part that lacks the
        most of its classes altogether; of equal ones to that which is the furthest behind:

            sum over classes c of g_c / n_c * (share - s_c / n_c)

        g_c, s_c and n_c are the samples of class c in the group, in the part so far, and in all; of
        equal ones to the first of train, val, test. If a group has one class, no part gets more
        than its share and one group of that class.
        """
        groups = [self.group_of(each) for each in ids]
        classes, place = np.unique(labels, return_inverse=True)
        total = np.bincount(place).tolist()
        common = math.lcm(*total)  # whole numbers throughout: no tie is lost to rounding
        own: dict[str, Counter[int]] = {group: Counter() for group in groups}
        for group, label in zip(groups, place.tolist(), strict=True):
            own[group][label] += 1
        there = [[0] * len(classes) for _ in self.shares]

        def wanted(part: int, group: str) -> tuple[int, int]:
            lacking = sum(not there[part][c] for c in own[group])
            behind = sum(
                count
                * (common // total[c])
                * (self.shares[part] * common - 100 * there[part][c] * (common // total[c]))
                for c, count in own[group].items()
            )
            return lacking, behind

        part_of: dict[str, int] = {}
        keys = {each: f"{name}/{each}".encode(errors="surrogateescape") for each in own}
        for group in sorted(own, key=lambda each: hashlib.sha256(keys[each]).digest()):
            part_of[group] = best = max(range(3), key=lambda part: wanted(part, group))
            for c, count in own[group].items():
                there[best][c] += count
        chosen = np.array([part_of[group] for group in groups])
        return chosen == 0, chosen == 1, chosen == 2


def grouped_rule(name: str) -> Grouped | None:
    """The rule of a protocol of this kind, None for another name."""
    if not (found := GROUPED.fullmatch(name)):
        return None
    train, val, test = (int(share) for share in found.groups()[:3])
    return Grouped((train, val, test), found[4])

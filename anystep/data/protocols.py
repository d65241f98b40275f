"""Named splits that stay the same for ever: a hash of names draws them, no random generator."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count as numbers_from
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._files import content_hash
from anystep._lookup import unknown
from anystep.data.groups import Grouped, grouped_rule
from anystep.data.rules import (
    Members,
    by_class,
    by_fold,
    by_number,
    by_person,
    everything,
    given,
    last_tenth,
    members_of,
    random_tenth,
    rounded,
)


@dataclass(frozen=True)
class Stratified:
    """The same shares of every class: fractions of (train, val, test), with sum 1."""

    fractions: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-9:
            rule = "fractions must be three numbers > 0 with sum 1"
            raise UsageError(f"Stratified: {rule}, got {self.fractions}")


# Which samples (M,) test, by a function of the protocol's name and the samples; or all three parts.
Rule = Stratified | Grouped | Callable[[str, Members], NDArray[np.bool_]]

# A name here is a promise: its rule never changes, a changed rule gets another name.
PROTOCOLS: dict[str, Rule] = {
    "digits-dvs/stratified-70-10-20": Stratified((0.7, 0.1, 0.2)),
    "nmnist/official": given,
    "ncaltech101/90-10-per-class": last_tenth,
    "cifar10-dvs/last-100": partial(by_number, first=900, last=999, count=1000),
    "cifar10-dvs/first-100": partial(by_number, first=0, last=99, count=1000),
    "cifar10-sim/last-100": partial(by_number, first=900, last=999, count=1000),
    "dvs-gesture/users": partial(by_person, first=24, last=29, count=29),
    "events-folder/given": given,
}
ALL = "all"  # every sample tests: for a network that learnt elsewhere
# For any data set, one protocol for every seed.
RANDOM = re.compile(r"random-90-10@[0-9]+")
FOLD = re.compile(r"fold-([1-9][0-9]*)-of-([1-9][0-9]*)@([0-9]+)")
VALIDATION = 0.1  # of what trains, in every protocol but Stratified
BY_NAME = "1 sample that tests and 5 that do not"  # a class needs where names decide what tests
TOLD = 3  # classes that a message names


def rule_of(name: str) -> Rule:
    """The rule of a protocol: a row of PROTOCOLS or one of those with a seed."""
    if name == ALL:
        return everything
    if isinstance(name, str) and RANDOM.fullmatch(name):
        return random_tenth
    if isinstance(name, str) and (found := FOLD.fullmatch(name)):
        fold, folds, seed = (int(number) for number in found.groups())
        if not 1 <= fold <= folds or folds < 2:
            raise UsageError(f"fold-K-of-N@SEED: K must be in 1..N and N >= 2, got {name!r}")
        return partial(by_fold, fold=fold, folds=folds, seed=seed)
    if isinstance(name, str) and (grouped := grouped_rule(name)):
        return grouped
    if not isinstance(name, str) or name not in PROTOCOLS:
        seeded = ("random-90-10@0", "fold-1-of-5@0", "grouped-70-10-20@0")
        raise unknown(name, [*PROTOCOLS, ALL, *seeded], "protocol")
    return PROTOCOLS[name]


def check_protocol(dataset: str, name: str) -> None:
    """Refuse a protocol that is unknown or another data set's."""
    rule_of(name)
    if name != ALL and not name.startswith((f"{dataset}/", "random-", "fold-", "grouped-")):
        known = f"{dataset}/..., random-90-10@SEED, fold-K-of-N@SEED, grouped-70-10-20@SEED or all"
        raise UsageError(f"{dataset}: protocol must be one of {known}, got {name!r}")


@dataclass(frozen=True, eq=False)
class Split:
    """Which samples train, choose and test.

    train, val, test   int64 indices, increasing, read-only, without a sample in common
    hash               16 hex digits of the three lists: print it beside every accuracy
    short              which classes have too few samples to be in all three, in words
    """

    name: str
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    short: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        for part in ("train", "val", "test"):
            indices = np.unique(np.asarray(getattr(self, part), dtype=np.int64))
            if len(indices) != len(getattr(self, part)):
                raise UsageError(f"Split {self.name}: {part} names a sample twice")
            unused = self.name == ALL and part != "test"
            if (len(indices) == 0 and not unused) or (indices < 0).any():
                rule = f"{part} must hold at least one index, all >= 0"
                raise UsageError(f"Split {self.name}: {rule}")
            indices.flags.writeable = False
            object.__setattr__(self, part, indices)
        together = np.concatenate([self.train, self.val, self.test])
        if len(np.unique(together)) != len(together):
            raise UsageError(f"Split {self.name}: train, val and test share a sample")

    @property
    def hash(self) -> str:
        """A hash of the index lists alone: two names for one split have one hash."""
        return content_hash(self.train.tolist(), self.val.tolist(), self.test.tolist())


def _least(rule: Callable[..., NDArray[np.bool_]]) -> str:
    """How many samples put a class into all three parts, where their names do not decide that."""
    inner, fixed = (rule.func, rule.keywords) if isinstance(rule, partial) else (rule, {})
    if inner not in (random_tenth, last_tenth, by_fold):
        return BY_NAME

    def enough(count: int) -> bool:
        one_class = Members([str(each) for each in range(count)], np.zeros(count), None)
        test = int(rule("", one_class).sum())
        return test > 0 and rounded(VALIDATION, count - test) > 0

    return f"{next(filter(enough, numbers_from(fixed.get('folds', 1))))} samples"


def _in_three(name: str, samples: Members, masks: Sequence[NDArray[np.bool_]], least: str) -> Split:
    """The split with `masks` (M,) of train, val and test, without the samples to skip.

    A class needs `least` to be in all three: a warning says which are not. Error: an empty part, in
    the same words.
    """
    here = ~np.isin(np.arange(len(samples.labels)), samples.skip)
    parts = [np.flatnonzero(mask & here) for mask in masks]
    classes, place = np.unique(samples.labels, return_inverse=True)
    sizes = np.array([np.bincount(place[part], minlength=len(classes)) for part in parts])
    lacking = np.flatnonzero((sizes == 0).any(axis=0))
    if not len(lacking):
        return Split(name, *parts)
    told = [
        "{} has {} samples ({} train, {} val, {} test)".format(
            samples.class_of(classes[at]), sizes[:, at].sum(), *sizes[:, at]
        )
        for at in lacking[:TOLD]
    ]
    if len(lacking) > TOLD:
        told.append(f"{len(lacking) - TOLD} classes more")
    empty = [
        each for each, part in zip(("train", "val", "test"), parts, strict=True) if not len(part)
    ]
    what = f"has nothing for {' and '.join(empty)}" if empty else "leaves classes out of a part"
    short = f"{name} {what}: {'; '.join(told)}. A class needs at least {least}"
    if empty:
        raise UsageError(short)
    warnings.warn(short, AnystepWarning, stacklevel=2)
    return Split(name, *parts, short=short)


def stratified(
    labels: ArrayLike,
    fractions: tuple[float, float, float],
    *,
    name: str,
    ids: Iterable[Any] | None = None,
    classes: Sequence[str] | None = None,
    skip: Sequence[int] = (),
) -> Split:
    """Split every class by `fractions` of (train, val, test); the rest is as `split` has it.

    Within a class of n samples the order is that of sha256("<name>/<id>"). The first floor(n * test
    + 1/2) are test, the next floor(n * val + 1/2) are val, the rest train. A sample that joins or
    leaves moves others only across those two edges.

    >>> halves = stratified([0, 0, 0, 0, 1, 1, 1, 1], (0.5, 0.25, 0.25), name="example")
    >>> len(halves.train), len(halves.val), len(halves.test)
    (4, 2, 2)
    """
    _, val_share, test_share = Stratified(fractions).fractions

    def edges(count: int) -> tuple[int, int]:
        first = rounded(test_share, count)
        return first, first + rounded(val_share, count)

    samples = members_of(labels, ids, classes=classes, skip=skip)
    test, val = np.zeros((2, len(samples.ids)), dtype=np.bool_)
    for members in by_class(samples, name):
        first, second = edges(len(members))
        test[members[:first]] = True
        val[members[first:second]] = True
    least = next(n for n in numbers_from(1) if 0 < edges(n)[0] < edges(n)[1] < n)
    return _in_three(name, samples, (~test & ~val, val, test), f"{least} samples")


def held_out(
    labels: ArrayLike,
    test: ArrayLike,
    *,
    name: str,
    ids: Iterable[Any] | None = None,
    classes: Sequence[str] | None = None,
    skip: Sequence[int] = (),
    least: str = BY_NAME,
) -> Split:
    """The split whose test set is known, `test` (M,) bool; validation is carved from the rest.

    Of the m samples of a class that do not test, floor(m / 10 + 1/2) are val: the first in the
    order of sha256("<name>/<id>"). `classes` are the names of the labels, `skip` the samples that
    are left out at the end, `least` what a class needs to be in all three, for people.
    """
    samples = members_of(labels, ids, classes=classes, skip=skip)
    testing = np.asarray(test, dtype=np.bool_)
    if testing.shape != (len(samples.ids),):
        rule = f"test must be ({len(samples.ids)},) like labels"
        raise UsageError(f"held_out: {rule}, got {testing.shape}")
    val = np.zeros_like(testing)
    for members in by_class(samples, name):
        rest = [i for i in members if not testing[i]]
        val[rest[: rounded(VALIDATION, len(rest))]] = True
    return _in_three(name, samples, (~testing & ~val, val, testing), least)


def split(
    name: str,
    labels: ArrayLike,
    *,
    ids: Iterable[Any] | None = None,
    parts: Sequence[str | None] | None = None,
    classes: Sequence[str] | None = None,
    skip: Sequence[int] = (),
) -> Split:
    """The split that protocol `name` makes of samples with these labels (M,).

    ids       (M,); None: 0, 1, ...
    parts     (M,) in which part, "train" or "test", each sample came, for rules that go by it
    classes   the names of the labels, for messages
    skip      samples to leave out when all have their part, so that no other changes its own

    A rule says which samples test; a tenth of every class of the others becomes `val`, see
    `held_out`. `Stratified` and `Grouped` make all three at once.
    """
    rule = rule_of(name)
    if isinstance(rule, Stratified):
        return stratified(labels, rule.fractions, name=name, ids=ids, classes=classes, skip=skip)
    samples = members_of(labels, ids, parts, classes, skip)
    if name == ALL:
        none, kept = np.arange(0), np.setdiff1d(np.arange(len(samples.ids)), skip)
        return Split(ALL, none, none, kept)
    if isinstance(rule, Grouped):
        masks = rule.masks(name, samples.ids, samples.labels)
        return _in_three(name, samples, masks, "3 groups")
    own: dict[str, Any] = {"ids": samples.ids, "classes": classes, "skip": skip}
    return held_out(labels, rule(name, samples), name=name, least=_least(rule), **own)

"""Named splits that stay the same for ever.

Membership comes from a hash of names, not from a random generator.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep._files import content_hash
from anystep._lookup import unknown


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts names as people do: numbers inside them by value.

    >>> sorted(["image_10", "image_9", "Image_11"], key=natural)
    ['Image_11', 'image_9', 'image_10']
    """
    words = re.split(r"([0-9]+)", name)
    return (*(int(word) if odd % 2 else word for odd, word in enumerate(words)), name)


def number_in(name: str) -> int:
    """The last whole number in a name, -1 where there is none.

    >>> number_in("airplane/cifar10_airplane_42")
    42
    """
    found = re.findall(r"[0-9]+", name)
    return int(found[-1]) if found else -1


@dataclass(frozen=True, eq=False)
class Members:
    """All samples of a data set: their ids, labels, and the part in which each came, or None."""

    ids: list[str]
    labels: NDArray[Any]
    parts: list[str | None] | None = None

    def __post_init__(self) -> None:
        for what, column in (("ids", self.ids), ("parts", self.parts)):
            if column is not None and len(column) != len(self.labels):
                got = f"{len(column)} entries for {len(self.labels)} labels"
                raise UsageError(f"split: {what} has {got}")
        if len(set(self.ids)) != len(self.ids):
            raise UsageError(
                "split: ids must differ from one another; the order within a class comes from them"
            )


def _members(
    labels: ArrayLike, ids: Sequence[Any] | NDArray[Any] | None, parts: Sequence[str | None] | None
) -> Members:
    classes = np.asarray(labels)
    names = [str(each) for each in (range(len(classes)) if ids is None else ids)]
    return Members(names, classes, None if parts is None else list(parts))


def _by_class(chosen: NDArray[np.bool_], samples: Members, name: str) -> list[list[int]]:
    """Of every class the indices of the `chosen` (M,), in the order of the hashes of their ids."""
    # A file may have a name that is no UTF-8: its own bytes count then.
    names = [f"{name}/{each}".encode(errors="surrogateescape") for each in samples.ids]
    order = [hashlib.sha256(each).digest() for each in names]
    return [
        sorted(np.flatnonzero(chosen & (samples.labels == label)).tolist(), key=order.__getitem__)
        for label in np.unique(samples.labels)
    ]


def _share_of(
    chosen: NDArray[np.bool_], samples: Members, *, name: str, share: float
) -> NDArray[np.bool_]:
    """(M,): the first floor(share * n + 1/2) of the n `chosen` samples of every class."""
    taken = np.zeros(len(chosen), dtype=np.bool_)
    for members in _by_class(chosen, samples, name):
        taken[members[: int(len(members) * share + 0.5)]] = True
    return taken


@dataclass(frozen=True)
class Stratified:
    """The same shares of every class: fractions of (train, val, test), with sum 1."""

    fractions: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-9:
            rule = "fractions must be three numbers > 0 with sum 1"
            raise UsageError(f"Stratified: {rule}, got {self.fractions}")


@dataclass(frozen=True)
class Given:
    """Train and test as the data set comes: in two folders, or in two lists of names."""

    def test(self, name: str, samples: Members) -> NDArray[np.bool_]:
        """Which of the samples (M,) test."""
        if samples.parts is None or not set(samples.parts) <= {"train", "test"}:
            got = ", ".join(sorted({str(part) for part in samples.parts or ["nothing"]}))
            raise UsageError(f"{name}: every sample must come as 'train' or 'test', got {got}")
        return np.array([part == "test" for part in samples.parts], dtype=np.bool_)


@dataclass(frozen=True)
class Numbers:
    """The samples test whose number, the last one in the id, is in first .. last, of `count`."""

    first: int
    last: int
    count: int

    def test(self, name: str, samples: Members) -> NDArray[np.bool_]:
        """Which of the samples (M,) test."""
        numbers = np.array([number_in(each) for each in samples.ids], dtype=np.int64)
        outside = (numbers < 0) | (numbers >= self.count)
        if outside.any():
            rule = f"the number at the end of an id must be in 0..{self.count - 1}"
            raise UsageError(f"{name}: {rule}, got {samples.ids[int(outside.argmax())]!r}")
        if len(numbers) and numbers.max() < self.last:
            rule = f"tests numbers {self.first} to {self.last}, the largest here is {numbers.max()}"
            raise UsageError(f"{name} {rule}; complete the recordings or choose random-90-10@SEED")
        return (self.first <= numbers) & (numbers <= self.last)


@dataclass(frozen=True)
class FirstOfClass:
    """Of n samples of a class, in natural order of ids, the first round(share * n) do not test.

    round() is Python's, which takes halves to the even number: round(0.9 * 45) = round(40.5) = 40.
    """

    share: float

    def test(self, name: str, samples: Members) -> NDArray[np.bool_]:
        """Which of the samples (M,) test."""
        test = np.zeros(len(samples.ids), dtype=np.bool_)
        for label in np.unique(samples.labels):
            members = np.flatnonzero(samples.labels == label).tolist()
            members.sort(key=lambda i: natural(samples.ids[i]))
            test[members[round(self.share * len(members)) :]] = True
        return test


@dataclass(frozen=True)
class Users:
    """Persons first .. last of `count` test. A person is the number after "user" in the id."""

    first: int
    last: int
    count: int

    def test(self, name: str, samples: Members) -> NDArray[np.bool_]:
        """Which of the samples (M,) test."""
        test = np.zeros(len(samples.ids), dtype=np.bool_)
        for index, each in enumerate(samples.ids):
            found = re.search(r"user(\d+)", each)
            user = int(found[1]) if found else 0
            if not 1 <= user <= self.count:
                rule = f"an id must name a person, user01 to user{self.count:02d}"
                raise UsageError(f"{name}: {rule}, got {each!r}")
            test[index] = self.first <= user <= self.last
        return test


@dataclass(frozen=True)
class Drawn:
    """Of n samples of a class floor(share * n + 1/2) test: the first by sha256("<name>/<id>")."""

    share: float

    def test(self, name: str, samples: Members) -> NDArray[np.bool_]:
        """Which of the samples (M,) test."""
        everyone = np.ones(len(samples.ids), dtype=np.bool_)
        return _share_of(everyone, samples, name=name, share=self.share)


@dataclass(frozen=True)
class Fold:
    """Part `fold` (from 1) of `folds`: for cross-validation, a sample tests in exactly one.

    Of every class the samples j = fold - 1, fold - 1 + folds, ... test, in the order of
    sha256("folds-<folds>@<seed>/<id>"), which is the same for all folds. The parts in which samples
    came are pooled.
    """

    fold: int
    folds: int
    seed: int

    def test(self, name: str, samples: Members) -> NDArray[np.bool_]:
        """Which of the samples (M,) test."""
        test = np.zeros(len(samples.ids), dtype=np.bool_)
        everyone = ~test
        for members in _by_class(everyone, samples, f"folds-{self.folds}@{self.seed}"):
            if len(members) < self.folds:
                rule = f"every class needs {self.folds} samples or more"
                raise UsageError(f"{name}: {rule}, one has {len(members)}")
            test[members[self.fold - 1 :: self.folds]] = True
        return test


Rule = Stratified | Given | Numbers | FirstOfClass | Users | Drawn | Fold


# A name here is a promise: its rule never changes, a changed rule gets another name.
PROTOCOLS: dict[str, Rule] = {
    "digits-dvs/stratified-70-10-20": Stratified((0.7, 0.1, 0.2)),
    "nmnist/official": Given(),
    "ncaltech101/90-10-per-class": FirstOfClass(0.9),
    "cifar10-dvs/last-100": Numbers(900, 999, count=1000),
    "cifar10-dvs/first-100": Numbers(0, 99, count=1000),
    "cifar10-sim/last-100": Numbers(900, 999, count=1000),
    "dvs-gesture/users": Users(24, 29, count=29),
    "events-folder/given": Given(),
}
# For any data set, one protocol for every seed.
RANDOM = re.compile(r"random-90-10@[0-9]+")
FOLD = re.compile(r"fold-([1-9][0-9]*)-of-([1-9][0-9]*)@([0-9]+)")
VALIDATION = 0.1  # of what trains, in every protocol but Stratified


def rule_of(name: str) -> Rule:
    """The rule of a protocol: a row of PROTOCOLS, `random-90-10@SEED` or `fold-K-of-N@SEED`.

    An unknown name is refused with the nearest one.
    """
    if isinstance(name, str) and RANDOM.fullmatch(name):
        return Drawn(0.1)
    if isinstance(name, str) and (found := FOLD.fullmatch(name)):
        fold, folds, seed = (int(number) for number in found.groups())
        if not 1 <= fold <= folds or folds < 2:
            raise UsageError(f"fold-K-of-N@SEED: K must be in 1..N and N >= 2, got {name!r}")
        return Fold(fold, folds, seed)
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise unknown(name, [*PROTOCOLS, "random-90-10@0", "fold-1-of-5@0"], "protocol")
    return PROTOCOLS[name]


@dataclass(frozen=True, eq=False)
class Split:
    """Which samples train, choose and test.

    train, val, test   int64 indices, increasing, read-only, without a sample in common
    hash               16 hex digits of the three lists: print it beside every accuracy
    """

    name: str
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    def __post_init__(self) -> None:
        for part in ("train", "val", "test"):
            indices = np.unique(np.asarray(getattr(self, part), dtype=np.int64))
            if len(indices) != len(getattr(self, part)):
                raise UsageError(f"Split {self.name}: {part} names a sample twice")
            if len(indices) == 0 or indices[0] < 0:
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


def stratified(
    labels: ArrayLike,
    fractions: tuple[float, float, float],
    *,
    name: str,
    ids: Sequence[Any] | NDArray[Any] | None = None,
) -> Split:
    """Split every class by `fractions` of (train, val, test).

    Within a class of n samples the order is that of sha256("<name>/<id>"). The first floor(n * test
    + 1/2) are test, the next floor(n * val + 1/2) are val, the rest train. A sample that joins or
    leaves moves others only across those two edges.

    >>> halves = stratified([0, 0, 0, 0, 1, 1, 1, 1], (0.5, 0.25, 0.25), name="example")
    >>> len(halves.train), len(halves.val), len(halves.test)
    (4, 2, 2)
    """
    samples = _members(labels, ids, None)
    _, val_share, test_share = Stratified(fractions).fractions
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for members in _by_class(np.ones(len(samples.ids), dtype=np.bool_), samples, name):
        test = int(len(members) * test_share + 0.5)
        val = int(len(members) * val_share + 0.5)
        parts["test"] += members[:test]
        parts["val"] += members[test : test + val]
        parts["train"] += members[test + val :]
    return Split(name, **{part: np.array(chosen, dtype=np.int64) for part, chosen in parts.items()})


def held_out(
    labels: ArrayLike,
    test: ArrayLike,
    *,
    name: str,
    ids: Sequence[Any] | NDArray[Any] | None = None,
) -> Split:
    """The split whose test set is known, `test` (M,) bool; validation is carved from the rest.

    Of the m samples of a class that do not test, floor(m / 10 + 1/2) are val: the first in the
    order of sha256("<name>/<id>").
    """
    samples = _members(labels, ids, None)
    testing = np.asarray(test, dtype=np.bool_)
    if testing.shape != (len(samples.ids),):
        rule = f"test must be ({len(samples.ids)},) like labels"
        raise UsageError(f"held_out: {rule}, got {testing.shape}")
    val = _share_of(~testing, samples, name=name, share=VALIDATION)
    return Split(
        name, np.flatnonzero(~testing & ~val), np.flatnonzero(val), np.flatnonzero(testing)
    )


def split(
    name: str,
    labels: ArrayLike,
    *,
    ids: Sequence[Any] | NDArray[Any] | None = None,
    parts: Sequence[str | None] | None = None,
) -> Split:
    """The split that protocol `name` makes of samples with these labels (M,).

    ids     (M,); None: 0, 1, ...
    parts   (M,) in which part, "train" or "test", each sample came, for rules that go by it

    A rule says which samples test; a tenth of every class of the others becomes `val`, see
    `held_out`. Stratified rules make all three at once.
    """
    rule = rule_of(name)
    if isinstance(rule, Stratified):
        return stratified(labels, rule.fractions, name=name, ids=ids)
    samples = _members(labels, ids, parts)
    return held_out(samples.labels, rule.test(name, samples), name=name, ids=samples.ids)

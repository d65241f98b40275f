"""Rules that say which samples test, by their names, numbers, persons or hashes; see PROTOCOLS."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts names as people do: numbers inside them by value.

    >>> sorted(["image_10", "image_9", "Image_11"], key=natural)
    ['Image_11', 'image_9', 'image_10']
    """
    words = re.split(r"([0-9]+)", name)
    return tuple(int(word) if odd % 2 else word for odd, word in enumerate(words)), name


def number_in(name: str) -> int:
    """The last whole number in a name, -1 where there is none.

    >>> number_in("airplane/cifar10_airplane_42")
    42
    """
    found = re.findall(r"[0-9]+", name)
    return int(found[-1]) if found else -1


class Members(NamedTuple):
    """All samples of a data set.

    ids, labels   of each
    parts         the part in which each came, or None
    classes       the names of the labels, or None
    skip          samples that are left out once the parts are drawn
    """

    ids: list[str]
    labels: NDArray[Any]
    parts: list[str | None] | None
    classes: Sequence[str] | None = None
    skip: Sequence[int] = ()

    def class_of(self, label: int) -> str:
        """What a class is called."""
        return f"class {label if self.classes is None else self.classes[label]}"


def members_of(
    labels: ArrayLike,
    ids: Iterable[Any] | None,
    parts: Sequence[str | None] | None = None,
    classes: Sequence[str] | None = None,
    skip: Sequence[int] = (),
) -> Members:
    """The samples with these labels; ids are 0, 1, ... where none are given."""
    known = np.asarray(labels)
    names = [str(each) for each in (range(len(known)) if ids is None else ids)]
    for what, column in (("ids", names), ("parts", parts)):
        if column is not None and len(column) != len(known):
            raise UsageError(f"split: {what} has {len(column)} entries for {len(known)} labels")
    if len(set(names)) != len(names):
        raise UsageError("split: ids must differ: the order within a class comes from them")
    return Members(names, known, None if parts is None else list(parts), classes, skip)


def by_class(samples: Members, name: str) -> list[list[int]]:
    """Of every class the indices of its samples, in the order of the hashes of their ids."""
    # A file may have a name that is no UTF-8: its own bytes count then.
    names = [f"{name}/{each}".encode(errors="surrogateescape") for each in samples.ids]
    order = [hashlib.sha256(each).digest() for each in names]
    return [
        sorted(np.flatnonzero(samples.labels == label).tolist(), key=order.__getitem__)
        for label in np.unique(samples.labels)
    ]


def rounded(share: float, count: int) -> int:
    """A share of `count`, halves rounded up."""
    return int(count * share + 0.5)  # round() takes halves to the even number


def given(name: str, samples: Members) -> NDArray[np.bool_]:
    """Train and test as the data set comes: in two folders, or in two lists of names."""
    if samples.parts is None or not set(samples.parts) <= {"train", "test"}:
        got = ", ".join(sorted({str(part) for part in samples.parts or ["nothing"]}))
        raise UsageError(f"{name}: every sample must come as 'train' or 'test', got {got}")
    return np.array([part == "test" for part in samples.parts], dtype=np.bool_)


def by_number(
    name: str, samples: Members, *, first: int, last: int, count: int
) -> NDArray[np.bool_]:
    """The samples test whose number, the last one in the id, is in first .. last, of `count`."""
    numbers = np.array([number_in(each) for each in samples.ids], dtype=np.int64)
    outside = (numbers < 0) | (numbers >= count)
    if outside.any():
        rule = f"the number at the end of an id must be in 0..{count - 1}"
        raise UsageError(f"{name}: {rule}, got {samples.ids[int(outside.argmax())]!r}")
    if len(numbers) and numbers.max() < last:
        rule = f"tests numbers {first} to {last}, the largest here is {numbers.max()}"
        raise UsageError(f"{name} {rule}; complete the recordings or choose random-90-10@SEED")
    return (first <= numbers) & (numbers <= last)


def last_tenth(name: str, samples: Members) -> NDArray[np.bool_]:
    """Of n samples of a class, in natural order of ids, the first round(0.9 * n) do not test.

    round() is Python's, which takes halves to the even number: round(0.9 * 45) = round(40.5) = 40.
    """
    test = np.zeros(len(samples.ids), dtype=np.bool_)
    for label in np.unique(samples.labels):
        members = np.flatnonzero(samples.labels == label).tolist()
        members.sort(key=lambda i: natural(samples.ids[i]))
        test[members[round(0.9 * len(members)) :]] = True
    return test


def by_person(
    name: str, samples: Members, *, first: int, last: int, count: int
) -> NDArray[np.bool_]:
    """Persons first .. last of `count` test. A person is the number after "user" in the id."""
    test = np.zeros(len(samples.ids), dtype=np.bool_)
    for index, each in enumerate(samples.ids):
        found = re.search(r"user(\d+)", each)
        user = int(found[1]) if found else 0
        if not 1 <= user <= count:
            rule = f"an id must name a person, user01 to user{count:02d}"
            raise UsageError(f"{name}: {rule}, got {each!r}")
        test[index] = first <= user <= last
    return test


def random_tenth(name: str, samples: Members) -> NDArray[np.bool_]:
    """Of n samples of a class floor(n / 10 + 1/2) test: the first by sha256("<name>/<id>")."""
    test = np.zeros(len(samples.ids), dtype=np.bool_)
    for members in by_class(samples, name):
        test[members[: rounded(0.1, len(members))]] = True
    return test


def by_fold(name: str, samples: Members, *, fold: int, folds: int, seed: int) -> NDArray[np.bool_]:
    """Part `fold` (from 1) of `folds`: for cross-validation, a sample tests in exactly one.

    Of every class the samples j = fold - 1, fold - 1 + folds, ... test, in the order of
    sha256("folds-<folds>@<seed>/<id>"), which is the same for all folds. The parts in which samples
    came are pooled.
    """
    test = np.zeros(len(samples.ids), dtype=np.bool_)
    for members in by_class(samples, f"folds-{folds}@{seed}"):
        if len(members) < folds:
            which = samples.class_of(samples.labels[members[0]])
            rule = f"every class needs {folds} samples or more"
            raise UsageError(f"{name}: {rule}, {which} has {len(members)}")
        test[members[fold - 1 :: folds]] = True
    return test


def everything(name: str, samples: Members) -> NDArray[np.bool_]:
    """All samples test."""
    return np.ones(len(samples.ids), dtype=np.bool_)

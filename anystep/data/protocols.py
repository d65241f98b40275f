"""Named splits that stay the same for ever: membership comes from a hash of names, not from a random generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._files import content_hash
from anystep._lookup import choose


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
                raise ValueError(f"Split {self.name}: {part} names a sample twice")
            if len(indices) == 0 or indices[0] < 0:
                raise ValueError(f"Split {self.name}: {part} must hold at least one index, all >= 0")
            indices.flags.writeable = False
            object.__setattr__(self, part, indices)
        together = np.concatenate([self.train, self.val, self.test])
        if len(np.unique(together)) != len(together):
            raise ValueError(f"Split {self.name}: train, val and test share a sample")

    @property
    def hash(self) -> str:
        """A hash of the index lists alone: two names for one split have one hash."""
        return content_hash(self.train.tolist(), self.val.tolist(), self.test.tolist())


@dataclass(frozen=True)
class Stratified:
    """The same shares of every class: fractions of (train, val, test), with sum 1."""

    fractions: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ValueError(f"Stratified: fractions must be three numbers > 0 with sum 1, got {self.fractions}")


# A name here is a promise: its rule never changes, a changed rule gets another name.
PROTOCOLS: dict[str, Stratified] = {
    "digits-dvs/stratified-70-10-20": Stratified((0.7, 0.1, 0.2)),
}


def split(name: str, labels: ArrayLike, *, ids: Sequence[Any] | NDArray[Any] | None = None) -> Split:
    """The split that protocol `name` makes of samples with these labels (M,) and ids (M,) (None: 0, 1, ...)."""
    return stratified(labels, choose(PROTOCOLS, name, "protocol").fractions, name=name, ids=ids)


def stratified(
    labels: ArrayLike,
    fractions: tuple[float, float, float],
    *,
    name: str,
    ids: Sequence[Any] | NDArray[Any] | None = None,
) -> Split:
    """Split every class by `fractions` of (train, val, test).

    Within a class of n samples the order is that of sha256("<name>/<id>"). The first floor(n * test + 1/2) are test, the next
    floor(n * val + 1/2) are val, the rest train. A sample that joins or leaves moves others only across those two edges.

    >>> halves = stratified([0, 0, 0, 0, 1, 1, 1, 1], (0.5, 0.25, 0.25), name="example")
    >>> len(halves.train), len(halves.val), len(halves.test)
    (4, 2, 2)
    """
    classes = np.asarray(labels)
    names = [str(each) for each in (range(len(classes)) if ids is None else ids)]
    if len(names) != len(classes):
        raise ValueError(f"stratified: ids has {len(names)} entries for {len(classes)} labels")
    if len(set(names)) != len(names):
        raise ValueError("stratified: ids must differ from one another; the order within a class comes from them")
    _, val_share, test_share = Stratified(fractions).fractions
    order = [hashlib.sha256(f"{name}/{each}".encode()).digest() for each in names]
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for label in np.unique(classes):
        members = sorted(np.flatnonzero(classes == label).tolist(), key=order.__getitem__)
        test = int(len(members) * test_share + 0.5)
        val = int(len(members) * val_share + 0.5)
        parts["test"] += members[:test]
        parts["val"] += members[test : test + val]
        parts["train"] += members[test + val :]
    return Split(name, **{part: np.array(chosen, dtype=np.int64) for part, chosen in parts.items()})

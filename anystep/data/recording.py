"""An event recording: four columns and the size of the sensor, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError

_COLUMNS: dict[str, tuple[type[np.generic], ...]] = {
    "t": (np.int64,),
    "x": (np.int16,),
    "y": (np.int16,),
    "p": (np.uint8, np.bool_),
}


def _sensor_size(sensor: Any) -> tuple[int, int]:
    """(height, width) as ints, each fitting the int16 coordinates."""
    sides = tuple(sensor) if isinstance(sensor, (tuple, list)) else ()
    whole = [isinstance(side, (int, np.integer)) and 1 <= side <= 32767 for side in sides]
    if len(sides) != 2 or not all(whole):
        rule = "sensor must be (height, width), each in 1..32767"
        raise UsageError(f"Events: {rule}, got {sensor!r}")
    return int(sides[0]), int(sides[1])


def _refuse(bad: NDArray[np.bool_], name: str, values: NDArray[Any], rule: str) -> None:
    """Raise for the first True of `bad`."""
    if bad.any():
        index = int(bad.argmax())
        raise UsageError(f"Events: {name}[{index}] = {values[index]} {rule}")


def _whole(name: str, values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    """`values` as `dtype`, or an error where that would change one of them."""
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind not in "biuf" or array.ndim != 1:
        got = f"{array.dtype} of shape {array.shape}"
        raise UsageError(f"Events: {name} must be one column of whole numbers, got {got}")
    if array.dtype.kind == "f":
        broken = ~np.isfinite(array) | (array != np.floor(array))
        _refuse(broken, name, array, "must be a whole number")
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    outside = (array >= float(limits.max) + 1) | (array < float(limits.min))
    rule = f"does not fit {np.dtype(dtype).name} ({limits.min}..{limits.max})"
    _refuse(outside, name, array, rule)
    return array.astype(dtype)


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one recording, in time order.

    t        (M,) int64, time in microseconds, >= 0, never decreasing
    x, y     (M,) int16, column and row, inside `sensor`
    p        (M,) uint8 or bool, polarity: 0 = darker (off), 1 = brighter (on)
    sensor   (height, width) in pixels

    A column of another type is refused here; `Events.from_arrays` converts. A bad value is an error
    that names its index. A recording without events is allowed, but no binning takes one.

    >>> events = Events.from_arrays([0, 5, 9], [1, 0, 1], [0, 1, 1], [True, False, True], (2, 2))
    >>> len(events), events.duration, events.p
    (3, 10, array([1, 0, 1], dtype=uint8))
    """

    t: NDArray[np.int64]
    x: NDArray[np.int16]
    y: NDArray[np.int16]
    p: NDArray[np.uint8] | NDArray[np.bool_]
    sensor: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sensor", _sensor_size(self.sensor))
        for name, allowed in _COLUMNS.items():
            column = getattr(self, name)
            if not isinstance(column, np.ndarray) or column.dtype not in allowed:
                got = column.dtype if isinstance(column, np.ndarray) else type(column).__name__
                wanted = " or ".join(np.dtype(each).name for each in allowed)
                rule = f"{name} must be a numpy array of {wanted}"
                raise UsageError(f"Events: {rule}, got {got}; Events.from_arrays converts")
            if column.shape != (len(self.t),):
                rule = f"{name} must be ({len(self.t)},) like t"
                raise UsageError(f"Events: {rule}, got {column.shape}")
        height, width = self.sensor
        back = np.r_[False, self.t[1:] < self.t[:-1]]
        _refuse(self.t < 0, "t", self.t, "must be >= 0")
        _refuse(back, "t", self.t, "is earlier than the event before it")
        _refuse((self.x < 0) | (self.x >= width), "x", self.x, f"must be in 0..{width - 1}")
        _refuse((self.y < 0) | (self.y >= height), "y", self.y, f"must be in 0..{height - 1}")
        if self.p.dtype != np.bool_:
            _refuse(self.p > 1, "p", self.p, "must be 0 or 1")

    @classmethod
    def from_arrays(
        cls, t: ArrayLike, x: ArrayLike, y: ArrayLike, p: ArrayLike, sensor: tuple[int, int]
    ) -> Events:
        """Events from any columns of whole numbers that fit; a fraction or a NaN is refused."""
        return cls(
            t=_whole("t", t, np.int64),
            x=_whole("x", x, np.int16),
            y=_whole("y", y, np.int16),
            p=_whole("p", p, np.uint8),
            sensor=sensor,
        )

    def __len__(self) -> int:
        return len(self.t)

    @property
    def duration(self) -> int:
        """Microseconds from the first event to the last, both included: t[-1] + 1 - t[0], or 0."""
        return int(self.t[-1] + 1 - self.t[0]) if len(self) else 0

    def part(self, first: int, stop: int) -> Events:
        """The events first .. stop - 1."""
        rows = slice(first, stop)
        return Events(self.t[rows], self.x[rows], self.y[rows], self.p[rows], self.sensor)

    def head(self, count: int) -> Events:
        """The first `count` events."""
        if count < 0:
            raise UsageError(f"Events.head: count must be >= 0, got {count}")
        return self.part(0, count)

    def until(self, t_us: int) -> Events:
        """The events with t < `t_us`: what a live device has seen by then."""
        return self.head(int(np.searchsorted(self.t, t_us, side="left")))

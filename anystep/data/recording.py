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


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one recording, in time order.

    t (M,) int64   time in microseconds, >= 0, never decreasing
    x, y (M,) int16   column and row, inside `sensor`
    p (M,) uint8 or bool   polarity: 0 = darker (off), 1 = brighter (on)
    sensor   (height, width) in pixels

    A column of another type is refused here; `Events.from_arrays` converts. A bad value is a
    `ValueError` that names the first index where it stands. A recording without events is allowed,
    but no binning takes one.

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
                kind = column.dtype if isinstance(column, np.ndarray) else type(column).__name__
                wanted = " or ".join(np.dtype(each).name for each in allowed)
                raise UsageError(
                    f"Events: {name} must be a numpy array of {wanted}, got {kind}; Events.from_arrays converts"
                )
            if column.ndim != 1:
                raise UsageError(
                    f"Events: {name} must have one dimension, got shape {column.shape}"
                )
            if len(column) != len(self.t):
                raise UsageError(
                    f"Events: t has {len(self.t)} entries and {name} has {len(column)}; they must agree"
                )
        self._check_values()

    def _check_values(self) -> None:
        height, width = self.sensor
        _refuse(self.t < 0, "t", self.t, "must be >= 0")
        _refuse(
            np.r_[False, self.t[1:] < self.t[:-1]],
            "t",
            self.t,
            "is earlier than the event before it",
        )
        _refuse((self.x < 0) | (self.x >= width), "x", self.x, f"must be in 0..{width - 1}")
        _refuse((self.y < 0) | (self.y >= height), "y", self.y, f"must be in 0..{height - 1}")
        if self.p.dtype != np.bool_:
            _refuse(self.p > 1, "p", self.p, "must be 0 or 1")

    @classmethod
    def from_arrays(
        cls, t: ArrayLike, x: ArrayLike, y: ArrayLike, p: ArrayLike, sensor: tuple[int, int]
    ) -> Events:
        """Events from any whole-number columns; a fraction, a NaN or a value too large for its
        column is refused.
        """
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
        """Microseconds from the first event to the end of the last one's microsecond: t[-1] + 1 -
        t[0], or 0.
        """
        return int(self.t[-1] + 1 - self.t[0]) if len(self) else 0

    def head(self, count: int) -> Events:
        """The first `count` events."""
        if count < 0:
            raise UsageError(f"Events.head: count must be >= 0, got {count}")
        return Events(self.t[:count], self.x[:count], self.y[:count], self.p[:count], self.sensor)

    def until(self, t_us: int) -> Events:
        """The events with t < `t_us`: what a live device has seen by then."""
        return self.head(int(np.searchsorted(self.t, t_us, side="left")))


def _sensor_size(sensor: Any) -> tuple[int, int]:
    """(height, width) as ints, each fitting the int16 coordinates."""
    size = tuple(sensor) if isinstance(sensor, (tuple, list)) else (sensor,)
    if len(size) != 2 or not all(
        isinstance(n, (int, np.integer)) and 1 <= n <= 32767 for n in size
    ):
        raise UsageError(
            f"Events: sensor must be (height, width), each in 1..32767, got {sensor!r}"
        )
    return int(size[0]), int(size[1])


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
    if array.dtype.kind not in "biuf":
        raise UsageError(f"Events: {name} must hold whole numbers, got an array of {array.dtype}")
    if array.ndim != 1:
        raise UsageError(f"Events: {name} must have one dimension, got shape {array.shape}")
    if array.dtype.kind == "f":
        _refuse(
            ~np.isfinite(array) | (array != np.floor(array)), name, array, "must be a whole number"
        )
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    too_large = (array >= float(limits.max) + 1) | (array < float(limits.min))
    _refuse(
        too_large, name, array, f"does not fit {np.dtype(dtype).name} ({limits.min}..{limits.max})"
    )
    return array.astype(dtype)

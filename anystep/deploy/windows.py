"""Events as they come, cut into the frames that a network was trained on. Numpy only.

Only what looks at no later event can be cut live: windows of a fixed duration, or of a fixed number
of events. Frame by frame they are those of `anystep.data.frames`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import Json
from anystep.deploy.sources import Packet

MOST_EMPTY = 1000  # windows without an event in a row; a longer silence is skipped
LATE_PACKETS = 20  # in a row that are late as a whole: then the sender's clock has begun anew


@dataclass
class Counts:
    """What was seen and what was left out, in events unless its name says otherwise."""

    events: int = 0
    out_of_range: int = 0
    too_late: int = 0
    over_rate: int = 0
    skipped_windows: int = 0
    new_clocks: int = 0


@dataclass(frozen=True)
class Window:
    """A frame of counts (2, H, W) of the sensor, complete: its last microsecond `end_us`, its
    number of events, and when (`time.monotonic()`) the packet that completed it arrived.
    """

    counts: NDArray[np.uint16]
    end_us: int
    events: int
    arrived: float


class Windows:
    """Cuts packets into windows.

    Args:
        binning: what a run's record says of it: name "fixed_duration" with duration_us, or
            "fixed_count" with count.
        sensor: (height, width).
        from_first: count time from the first event, not from the clock's zero.
        live: begin with the window of the first event, since a wire has no beginning; and when
            packets are late, one after another, take it that the sender's clock began anew.
        max_rate: events a second that are counted at most; those above it are dropped, the latest
            of a window first. For windows of fixed duration.

    An event outside the sensor, or of a window that is over already, is left out and counted. Times
    may be out of order within a window.
    """

    def __init__(
        self,
        binning: Json,
        sensor: tuple[int, int],
        *,
        from_first: bool = False,
        live: bool = False,
        max_rate: float | None = None,
    ) -> None:
        self.sensor, self.seen = sensor, Counts()
        self.duration: int | None = None
        self.count = 0
        match binning:
            case {"name": "fixed_duration", "duration_us": duration}:
                self.duration = int(duration)
            case {"name": "fixed_count", "count": count}:
                self.count = int(count)
            case _:
                name = binning["name"]
                raise UsageError(f"binning {name} needs the end of a recording: it is never live")
        self._most = None
        if max_rate is not None:
            if self.duration is None:
                raise UsageError("--max-rate is for windows of a fixed duration")
            self._most = max(1, int(max_rate * self.duration / 1e6))
        self._zero: int | None = None if from_first else 0  # where windows count from
        self.live = live
        self._late_packets = 0
        self._index: int | None = None if live else 0  # of the window that is being filled
        self._flat = np.zeros(2 * sensor[0] * sensor[1], np.int64)
        self._filled = 0
        self._last_us = 0

    def add(self, packet: Packet) -> Iterator[Window]:
        """The windows that `packet` completes."""
        self.seen.events += len(packet.t)
        if self._zero is None and len(packet.t):
            self._zero = int(packet.t[0])
        t, cells = self._cells(packet)
        if self.duration is None:
            yield from self._by_count(t, cells, packet.arrived)
        else:
            yield from self._by_time(
                (t - (self._zero or 0)) // self.duration, cells, packet.arrived
            )

    def _cells(self, packet: Packet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Time and place in the flat frame of the events that are on the sensor."""
        height, width = self.sensor
        x, y = packet.x.astype(np.int64), packet.y.astype(np.int64)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        cells = (packet.p.astype(np.int64) * height + y) * width + x
        if inside.all():
            return packet.t, cells
        self.seen.out_of_range += int((~inside).sum())
        return packet.t[inside], cells[inside]

    def _by_count(
        self, t: NDArray[np.int64], cells: NDArray[np.int64], arrived: float
    ) -> Iterator[Window]:
        first = 0
        while first < len(cells):
            stop = min(len(cells), first + self.count - self._filled)
            self._fill(cells[first:stop])
            self._last_us = int(t[stop - 1])
            first = stop
            if self._filled == self.count:
                yield self._take(self._end(), arrived)

    def _by_time(
        self, index: NDArray[np.int64], cells: NDArray[np.int64], arrived: float
    ) -> Iterator[Window]:
        """`index` is the window that each event belongs to, counted from t = 0."""
        if self.live and len(index):
            self._follow_clock(index)
        if len(index) and (index[1:] < index[:-1]).any():
            order = np.argsort(index, kind="stable")
            index, cells = index[order], cells[order]
        late = int(np.searchsorted(index, self._now))
        self.seen.too_late += late
        borders = [late, *(np.flatnonzero(np.diff(index[late:])) + late + 1), len(index)]
        for first, stop in pairwise(borders):
            if first < stop:
                yield from self._advance_to(int(index[first]), arrived)
                self._fill(cells[first:stop])

    def _follow_clock(self, index: NDArray[np.int64]) -> None:
        """Begin with the first event's window, and again where the clock begins anew."""
        if self._index is not None:
            self._late_packets = self._late_packets + 1 if index.max() < self._index else 0
            if self._late_packets < LATE_PACKETS:
                return
            self.seen.new_clocks += 1
            self._flat[:] = 0
            self._filled = 0
        self._late_packets, self._index = 0, int(index.min())

    def _advance_to(self, index: int, arrived: float) -> Iterator[Window]:
        """The windows before window `index`, the last of which are empty."""
        if index - self._now > MOST_EMPTY:
            yield self._take(self._end(), arrived)
            self.seen.skipped_windows += index - self._now
            self._index = index
        while self._now < index:
            yield self._take(self._end(), arrived)

    @property
    def _now(self) -> int:
        return self._index or 0

    @property
    def breaks(self) -> int:
        """How often time jumped: what comes after is no continuation of what was before."""
        return self.seen.skipped_windows + self.seen.new_clocks

    def _fill(self, cells: NDArray[np.int64]) -> None:
        if self._most is not None and self._filled + len(cells) > self._most:
            kept = max(0, self._most - self._filled)
            self.seen.over_rate += len(cells) - kept
            cells = cells[:kept]
        self._filled += len(cells)
        if len(cells) * 8 < len(self._flat):
            np.add.at(self._flat, cells, 1)
        else:
            self._flat += np.bincount(cells, minlength=len(self._flat))

    def _end(self) -> int:
        """The end of the window that is being filled, exclusive."""
        if self.duration is None:
            return self._last_us + 1
        return (self._zero or 0) + (self._now + 1) * self.duration

    def _take(self, end_us: int, arrived: float) -> Window:
        counts = np.minimum(self._flat, np.iinfo(np.uint16).max).astype(np.uint16)
        window = Window(counts.reshape(2, *self.sensor), end_us, self._filled, arrived)
        self._flat[:] = 0
        self._filled = 0
        self._index = self._now + 1
        return window

    def rest(self, arrived: float) -> Iterator[Window]:
        """At the end of a source: the window that is being filled, then empty ones without end."""
        while True:
            yield self._take(self._end(), arrived)

"""Encodings: how a recording or an image becomes T frames.

A binning makes frames of event counts from a recording; `Direct` shows an image at every step.

A binning is a frozen record that is called with `Events` and gives counts (T, 2, H, W) uint16; plane 0 counts off events,
plane 1 on events. `causal` says whether the frames can be made live: frames[:k] of a recording are the frames of the
recording cut after step k. Binnings that need the end of the recording before the first frame is known are not causal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from anystep.data.events import Events

LARGEST_COUNT = int(np.iinfo(np.uint16).max)


@dataclass(frozen=True)
class Encoding:
    """What makes T frames of something. Its fields are whole numbers >= 1."""

    name: ClassVar[str]
    causal: ClassVar[bool]
    steps: int

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not whole or value < 1:
                raise ValueError(f"{self.name}: {field} must be a whole number >= 1, got {value!r}")
            object.__setattr__(self, field, int(value))

    def describe(self) -> dict[str, Any]:
        """The name and the fields, for hashes and records.

        >>> FixedDuration(steps=10, duration_us=30_000).describe()
        {'name': 'fixed_duration', 'steps': 10, 'duration_us': 30000}
        """
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Direct(Encoding):
    """Direct encoding: an image (P, H, W), the same at every step, as (T, P, H, W) without a copy (stride 0 in time).

    The first convolution then sees grey levels and is the encoder.
    """

    name: ClassVar[str] = "direct"
    causal: ClassVar[bool] = True

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """(T, P, H, W), read-only."""
        if image.ndim != 3:
            raise ValueError(f"direct: an image must be (P, H, W), got shape {image.shape}")
        return np.broadcast_to(image, (self.steps, *image.shape))


@dataclass(frozen=True)
class Binning(Encoding, ABC):
    """The common part of the binnings: `step_of` says in which frame an event falls, the call counts."""

    @abstractmethod
    def step_of(self, events: Events) -> NDArray[np.int64]:
        """The step of every event (M,), never decreasing; `steps` or more means: in no frame."""

    def __call__(self, events: Events) -> NDArray[np.uint16]:
        """Counts (T, 2, H, W). A recording without events, or with none inside the frames, is refused."""
        if len(events) == 0:
            raise ValueError(f"{self.name}: an empty event stream has no frames")
        step = self.step_of(events)
        kept = int(np.searchsorted(step, self.steps))  # steps never decrease, so what is left out is a tail
        if kept == 0:
            raise ValueError(
                f"{self.name}: no event falls inside the frames, the first is at t = {int(events.t[0])} us. "
                "Frames start at t = 0: subtract the start of the recording from t"
            )
        return _count(events, step[:kept], self.steps)


@dataclass(frozen=True)
class EqualTime(Binning):
    """T frames of equal length from the first event to the last.

    With t0 the first and t1 the last time, frame k holds the events with

        floor((t - t0) * T / (t1 + 1 - t0)) == k

    in whole-number arithmetic: T equal half-open parts of [t0, t1 + 1). The last event is in frame T - 1, unless the
    recording has fewer than T microseconds (then some frames, the last among them, are empty). Counts every event.
    """

    name: ClassVar[str] = "equal_time"
    causal: ClassVar[bool] = False

    def step_of(self, events: Events) -> NDArray[np.int64]:
        """See the class."""
        return (events.t - events.t[0]) * self.steps // events.duration


@dataclass(frozen=True)
class EqualCount(Binning):
    """T frames with equally many events, in the order of the recording.

    Of M events, event j (from 0) is in frame floor(j * T / M): frames differ by at most one event, and the last event is in
    the last frame when M >= T. Counts every event.
    """

    name: ClassVar[str] = "equal_count"
    causal: ClassVar[bool] = False

    def step_of(self, events: Events) -> NDArray[np.int64]:
        """See the class."""
        return np.arange(len(events), dtype=np.int64) * self.steps // len(events)


@dataclass(frozen=True)
class FixedDuration(Binning):
    """T frames of `duration_us` microseconds each, from t = 0 of the recording's clock.

    Frame k holds the events with k * duration_us <= t < (k + 1) * duration_us. The origin is the clock's zero and not the
    first event: a live device starts its frames when it starts, not when something moves. Events at or after
    T * duration_us are in no frame; a shorter recording has zero frames at its end.
    """

    name: ClassVar[str] = "fixed_duration"
    causal: ClassVar[bool] = True
    duration_us: int

    def step_of(self, events: Events) -> NDArray[np.int64]:
        """See the class."""
        return events.t // self.duration_us


@dataclass(frozen=True)
class FixedCount(Binning):
    """T frames of `count` events each, in the order of the recording.

    Event j (from 0) is in frame floor(j / count). Events from T * count on are in no frame; a shorter recording has a partly
    filled frame and then zero frames at its end.
    """

    name: ClassVar[str] = "fixed_count"
    causal: ClassVar[bool] = True
    count: int

    def step_of(self, events: Events) -> NDArray[np.int64]:
        """See the class."""
        return np.arange(len(events), dtype=np.int64) // self.count


BINNINGS: dict[str, type[Binning]] = {row.name: row for row in (EqualTime, EqualCount, FixedDuration, FixedCount)}
ENCODINGS: dict[str, type[Encoding]] = {**BINNINGS, Direct.name: Direct}


def _count(events: Events, step: NDArray[np.int64], steps: int) -> NDArray[np.uint16]:
    """Count the first len(step) events into (T, 2, H, W)."""
    height, width = events.sensor
    kept = len(step)
    place = (step * 2 + events.p[:kept]) * height + events.y[:kept]
    counts = np.bincount(place * width + events.x[:kept], minlength=steps * 2 * height * width)
    largest = int(counts.max())
    if largest > LARGEST_COUNT:
        raise ValueError(
            f"a frame counts {largest} events in one pixel; the most it can hold is {LARGEST_COUNT}. "
            "Use more, shorter frames"
        )
    return counts.astype(np.uint16).reshape(steps, 2, height, width)

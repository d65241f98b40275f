"""Encodings: how a recording or an image becomes T frames; and frames of another size.

A binning makes frames of event counts from a recording; `Direct` shows an image at every step.

A binning is a frozen record that is called with `Events` and gives counts (T, 2, H, W) uint16;
plane 0 counts off events, plane 1 on events. It is `causal` if the frames can be made live:
frames[:k] of a recording are then the frames of the recording cut after step k. A binning that
must know the end of the recording before its first frame is not, and cannot leave `steps` open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.data.recording import Events

# In one recording, where its own length decides how many frames it has: half a gigabyte.
MOST_COUNTS = 2**28
MOST_STEPS = 10_000  # that can be asked for


@dataclass(frozen=True)
class Encoding:
    """What makes T frames of something. Its fields are whole numbers >= 1.

    `steps` None is for causal binnings of events alone: as many frames as a recording needs.
    """

    name: ClassVar[str]
    causal: ClassVar[bool]
    steps: int | None

    def __post_init__(self) -> None:
        causal = [name for name, row in BINNINGS.items() if row.causal]
        for field, value in asdict(self).items():
            if field == "steps" and value is None and self.name in causal:
                continue
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            many = whole and field == "steps" and value > MOST_STEPS
            if not whole or value < 1 or many:
                limit = f" and <= {MOST_STEPS:,}" * many
                rule = f"{self.name}: {field} must be a whole number >= 1{limit}, got {value!r}"
                only = f"; only {' and '.join(causal)} can make as many frames as a recording needs"
                raise UsageError(rule + only * (value is None))
            object.__setattr__(self, field, int(value))

    def describe(self) -> dict[str, Any]:
        """The name and the fields, for hashes and records.

        >>> FixedDuration(steps=10, duration_us=30_000).describe()
        {'name': 'fixed_duration', 'steps': 10, 'duration_us': 30000}
        """
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Direct(Encoding):
    """Direct encoding: the image (P, H, W) is the input at every step.

    Without a copy, by a stride of 0 in time. The first convolution is the encoder.
    """

    name: ClassVar[str] = "direct"
    causal: ClassVar[bool] = True

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """(T, P, H, W), read-only."""
        if image.ndim != 3:
            raise UsageError(f"direct: an image must be (P, H, W), got shape {image.shape}")
        return np.broadcast_to(image, (cast(int, self.steps), *image.shape))


@dataclass(frozen=True)
class Binning(Encoding, ABC):
    """The common part of the binnings: `borders` says where frames begin, the call counts.

    With `steps` None the last frame is that of the last event, perhaps partly filled.
    """

    @abstractmethod
    def borders(self, events: Events) -> NDArray[np.int64]:
        """(T + 1,) never decreasing: frame k has the events borders[k] .. borders[k + 1] - 1."""

    def needed(self, events: Events) -> int:
        """How many frames hold all events. Only causal binnings can say."""
        raise TypeError(f"{type(self).__name__} defines no needed(events)")

    def length(self, events: Events) -> int:
        """T of a recording: `steps`, or as many as it needs. Error: far more than anybody means."""
        if self.steps is not None:
            return self.steps
        steps, (height, width) = self.needed(events), events.sensor
        if steps * 2 * height * width > MOST_COUNTS:
            needs = f"the recording needs {steps} frames of {height} x {width}"
            way_out = "use longer or fuller frames, or give steps"
            raise UsageError(f"{self.name}: {needs}, more than {MOST_COUNTS} counts: {way_out}")
        return steps

    def __call__(self, events: Events) -> NDArray[np.uint16]:
        """Counts (T, 2, H, W). Error: no events, or none inside the frames."""
        if len(events) == 0:
            raise UsageError(f"{self.name}: an empty event stream has no frames")
        borders = self.borders(events)
        if borders[-1] == 0:
            first = f"the first is at t = {int(events.t[0])} us. Frames start at t = 0"
            way_out = "subtract the start of the recording from t"
            raise UsageError(f"{self.name}: no event falls inside the frames, {first}: {way_out}")
        # numba is the half of a second that a command which counts nothing should not wait for.
        from anystep.data.count import count_events

        return count_events(events, borders)


@dataclass(frozen=True)
class EqualTime(Binning):
    """T frames of equal length from the first event to the last.

    With t0 the first and t1 the last time, frame k holds the events with

        floor((t - t0) * T / (t1 + 1 - t0)) == k

    in whole-number arithmetic: T equal half-open parts of [t0, t1 + 1). The last event is in frame
    T - 1, unless the recording has fewer than T microseconds (then some frames, the last among
    them, are empty). Counts every event.
    """

    name: ClassVar[str] = "equal_time"
    causal: ClassVar[bool] = False

    def borders(self, events: Events) -> NDArray[np.int64]:
        """See the class: floor(d * T / duration) >= k is d >= ceil(k * duration / T)."""
        first, span, steps = int(events.t[0]), events.duration, self.length(events)
        return np.searchsorted(events.t, [first - (-k * span // steps) for k in range(steps + 1)])


@dataclass(frozen=True)
class EqualCount(Binning):
    """T frames with equally many events, in the order of the recording.

    Of M events, event j (from 0) is in frame floor(j * T / M): frames differ by at most one event,
    and the last event is in the last frame when M >= T. Counts every event.
    """

    name: ClassVar[str] = "equal_count"
    causal: ClassVar[bool] = False

    def borders(self, events: Events) -> NDArray[np.int64]:
        """See the class: floor(j * T / M) >= k is j >= ceil(k * M / T)."""
        steps = self.length(events)
        return np.array([-(-k * len(events) // steps) for k in range(steps + 1)], np.int64)


@dataclass(frozen=True)
class FixedDuration(Binning):
    """T frames of `duration_us` microseconds each, from t = 0 of the recording's clock.

    Frame k holds the events with k * duration_us <= t < (k + 1) * duration_us. The origin is the
    clock's zero and not the first event: a live device starts its frames when it starts, not when
    something moves. Events at or after T * duration_us are in no frame; a shorter recording has
    zero frames at its end. `steps` None: T = floor(t1 / duration_us) + 1, with t1 the time of the
    last event.
    """

    name: ClassVar[str] = "fixed_duration"
    causal: ClassVar[bool] = True
    duration_us: int

    def needed(self, events: Events) -> int:
        """See the class."""
        return int(events.t[-1]) // self.duration_us + 1

    def borders(self, events: Events) -> NDArray[np.int64]:
        """See the class."""
        end = int(events.t[-1]) + 1  # a border after it may be too large for int64
        times = [min(k * self.duration_us, end) for k in range(self.length(events) + 1)]
        return np.searchsorted(events.t, times)


@dataclass(frozen=True)
class FixedCount(Binning):
    """T frames of `count` events each, in the order of the recording.

    Event j (from 0) is in frame floor(j / count). Events from T * count on are in no frame; a
    shorter recording has a partly filled frame and then zero frames at its end. `steps` None: T =
    ceil(M / count) for M events.
    """

    name: ClassVar[str] = "fixed_count"
    causal: ClassVar[bool] = True
    count: int

    def needed(self, events: Events) -> int:
        """See the class."""
        return -(-len(events) // self.count)

    def borders(self, events: Events) -> NDArray[np.int64]:
        """See the class."""
        borders = [min(k * self.count, len(events)) for k in range(self.length(events) + 1)]
        return np.array(borders, np.int64)


BINNINGS: dict[str, type[Binning]] = {
    row.name: row for row in (EqualTime, EqualCount, FixedDuration, FixedCount)
}
ENCODINGS: dict[str, type[Encoding]] = {**BINNINGS, Direct.name: Direct}


Size = tuple[int, int]  # (H, W)


def _nearest(frames: NDArray[Any], size: Size) -> NDArray[Any]:
    """Pixel k of n shows pixel floor(k * N / n) of N, as torch's "nearest" (HSD)."""
    rows, columns = (np.arange(size[axis]) * frames.shape[axis] // size[axis] for axis in (-2, -1))
    return frames[..., rows[:, None], columns]


def _between(values: NDArray[np.float32], size: int, axis: int) -> NDArray[np.float32]:
    """`values` at `size` evenly spaced places along one axis, from its first entry to its last."""
    last = values.shape[axis] - 1
    place = np.linspace(0, last, size) if size > 1 else np.zeros(1)
    low = np.minimum(place.astype(np.int64), max(last - 1, 0))
    part = (place - low).astype(np.float32).reshape((-1, 1) if axis == -2 else (-1,))
    below, above = np.take(values, low, axis), np.take(values, np.minimum(low + 1, last), axis)
    return (below * (1 - part) + above * part).astype(np.float32, copy=False)


def _bilinear(frames: NDArray[Any], size: Size) -> NDArray[np.float32]:
    """Pixel k of n lies at k * (N - 1) / (n - 1) of N: the corners stay corners.

    torch's `align_corners=True` (TKS): on straight lines between pixels, without smoothing first.
    """
    return _between(_between(frames.astype(np.float32), size[0], -2), size[1], -1)


INTERPOLATIONS: dict[str, Callable[[NDArray[Any], Size], NDArray[Any]]] = {
    "nearest": _nearest,
    "bilinear": _bilinear,
}


def sides(size: int | Sequence[int]) -> Size:
    """(H, W) of the side of a square or of [H, W]. Error: anything else."""
    pair: Any = list(size) if isinstance(size, Sequence) else [size, size]
    whole = all(isinstance(side, (int, np.integer)) and type(side) is not bool for side in pair)
    if isinstance(size, str) or len(pair) != 2 or not whole or min(pair) < 1:
        rule = "size must be a whole number >= 1, or two of them [H, W]"
        raise UsageError(f"resize: {rule}, got {size!r}")
    return int(pair[0]), int(pair[1])


def check_size(size: int | Sequence[int] | None, interpolation: str) -> None:
    """Refuse a size below 1, and an interpolation that is unknown or has nothing to do."""
    choose(INTERPOLATIONS, interpolation, "interpolation")
    if size is None:
        if interpolation != "nearest":
            raise UsageError(f"resize: interpolation {interpolation!r} needs a size, got None")
    else:
        sides(size)


def resize(frames: NDArray[Any], size: int | Sequence[int], interpolation: str) -> NDArray[Any]:
    """Frames (..., H, W) in another `size`, the side of a square or [H, W]: they are stretched.

    `interpolation` is a row of INTERPOLATIONS: "nearest" keeps the number type, "bilinear" gives
    float32. Neither keeps the number of events.

    >>> resize(np.arange(16).reshape(1, 4, 4), 2, "nearest")
    array([[[ 0,  2],
            [ 8, 10]]])
    """
    check_size(size, interpolation)
    if frames.ndim < 2 or 0 in frames.shape[-2:]:
        raise UsageError(f"resize: frames must be (..., H, W), each >= 1, got shape {frames.shape}")
    return INTERPOLATIONS[interpolation](frames, sides(size))

"""Events in, decisions out: a trained network follows a stream, window by window. Without torch.

A round begins at rest with a window and ends when the network is sure enough (its exit rule) or has
taken its T steps; then the next one begins. The first round over a recording says what offline
evaluation says of it, step by step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from anystep._files import Json
from anystep.deploy.sources import Source
from anystep.deploy.step import AnyStep, Decision, Streams
from anystep.deploy.windows import Window, Windows
from anystep.evaluation.exits import ExitRule

Frame = NDArray[np.floating]
RECENT = 10_000  # times that percentiles are taken of, so that an endless stream has flat memory


class Follower:
    """A network that follows a source. Iterate to run it; `summary()` says how it went, also after
    an interruption.

    Args:
        step: the network.
        source: where events come from.
        windows: how they are cut.
        to_frame: counts (2, H, W) of the sensor -> a frame (P, H, W) of the network.
        rule, steps: as in `Streams`.
    """

    def __init__(
        self,
        step: AnyStep,
        source: Source,
        windows: Windows,
        *,
        to_frame: Callable[[NDArray[np.uint16]], Frame],
        rule: ExitRule | None = None,
        steps: int | None = None,
    ) -> None:
        self.source, self.windows, self.to_frame = source, windows, to_frame
        self._streams = Streams(step, rule=rule, steps=steps)
        self._classes = step.about["classes"]
        self._began = time.monotonic()
        self._count = self._rounds = 0
        self._breaks = 0
        self._first_us: int | None = None
        self._last_us = 0
        self._step_ms: deque[float] = deque(maxlen=RECENT)
        self._window_ms: deque[float] = deque(maxlen=RECENT)
        self._late_ms: deque[float] = deque(maxlen=RECENT)

    def __iter__(self) -> Iterator[Json]:
        """A line a window, as plain values ready for JSON."""
        arrived = time.monotonic()
        for packet in self.source:
            arrived = packet.arrived
            began = time.perf_counter()
            for window in self.windows.add(packet):
                yield self._line(window, began)
                began = time.perf_counter()
        yield from self._finish(arrived)

    def _finish(self, arrived: float) -> Iterator[Json]:
        """A recording that is shorter than T windows has empty ones at its end, as in training."""
        if not self.windows.seen.events:
            return
        for window in self.windows.rest(arrived):
            if self._rounds or (self._count and not len(self._streams)):
                return
            yield self._line(window, time.perf_counter())

    def _line(self, window: Window, began: float) -> Json:
        if self.windows.breaks != self._breaks:
            self._breaks = self.windows.breaks
            self._streams.restart(None)  # it begins at rest
        frame = self.to_frame(window.counts)
        ready = time.perf_counter()
        (decision,) = self._streams({None: frame})
        done = time.perf_counter()
        self._step_ms.append(1e3 * (done - ready))
        self._window_ms.append(1e3 * (done - began))
        late = 1e3 * (time.monotonic() - window.arrived)
        self._late_ms.append(late)
        self._count += 1
        self._rounds += decision.final
        self._first_us = window.end_us if self._first_us is None else self._first_us
        self._last_us = window.end_us
        return self._told(decision, window, late)

    def _told(self, decision: Decision, window: Window, late: float) -> Json:
        return {
            "t_us": window.end_us,
            "step": decision.step,
            "label": decision.label,
            "class": self._classes[decision.label],
            "certainty": round(decision.certainty, 6),
            "final": decision.final,
            "events": window.events,
            **({"late_ms": round(late, 3)} if self.source.live else {}),
        }

    def summary(self) -> Json:
        """Windows, decisions, times, rates, and all that was left out."""
        wall = time.monotonic() - self._began
        stream = self._last_us / 1e6
        seen = asdict(self.windows.seen)
        timing: Json = {}
        for name, values in (
            ("step_ms", self._step_ms),
            ("overhead_ms", [w - s for w, s in zip(self._window_ms, self._step_ms, strict=True)]),
            *((("late_ms", self._late_ms),) if self.source.live else ()),
        ):
            if len(values):
                p50, p99 = np.percentile(values, [50, 99])
                timing[name] = {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}
        return {
            "windows": self._count,
            "decisions": self._rounds,
            "stream_s": round(stream, 6),
            "wall_s": round(wall, 6),
            "real_time_factor": round(stream / wall, 3) if wall else None,
            "events_per_s": round(seen["events"] / stream) if stream else None,
            **timing,
            **seen,
            **asdict(self.source.losses),
        }

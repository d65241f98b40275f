"""The one loop behind every binning; a module of its own because numba is slow to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.recording import Events

LARGEST_COUNT = int(np.iinfo(np.uint16).max)
_FULL, _OUTSIDE = 1, 2


def _column(kind: Any) -> Any:
    """A column as loosely as numba allows (any stride, read-only), so one loop serves all."""
    return types.Array(kind, 1, "A", readonly=True, aligned=False)


_ARGUMENTS = types.Tuple((_column(types.int16), _column(types.int16), _column(types.uint8)))
_SIGNATURE = types.int64(
    _ARGUMENTS, types.Array(types.int64, 1, "C"), types.Array(types.uint16, 4, "C")
)


@njit(_SIGNATURE, nogil=True, cache=True)
def _count(columns: Any, borders: Any, frames: Any) -> int:
    """Fill frames, which are zero. _FULL: a count went round; _OUTSIDE: an event off the sensor."""
    x, y, p = columns
    height, width = np.uint64(frames.shape[2]), np.uint64(frames.shape[3])
    over = False
    for k in range(len(frames)):
        frame = frames[k]
        for j in range(borders[k], borders[k + 1]):
            # Seen as unsigned: numba would otherwise ask of every index whether it counts from the
            # end.
            plane, row = np.uint64(p[j]), np.uint64(np.uint16(y[j]))
            column = np.uint64(np.uint16(x[j]))
            if plane > 1 or row >= height or column >= width:
                return _OUTSIDE
            counted = frame[plane, row, column] + np.uint16(1)
            frame[plane, row, column] = counted
            over |= counted > LARGEST_COUNT
    return _FULL if over else 0


def count_events(events: Events, borders: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Counts (T, 2, H, W): frame k has the events borders[k] .. borders[k + 1] - 1.

    borders   (T + 1,) int64, never decreasing, in 0..len(events)

    Refused: a pixel that counts more than 65,535 events in one frame; wrong borders; an event moved
    off the sensor after `Events` had checked it (the loop would write beside its memory).
    """
    borders = np.ascontiguousarray(borders, np.int64)
    if not 0 <= borders[0] <= borders[-1] <= len(events) or (np.diff(borders) < 0).any():
        rule = f"must never decrease and be in 0..{len(events)}, the number of events"
        raise UsageError(f"borders {rule}, got {borders}")
    frames = np.zeros((len(borders) - 1, 2, *events.sensor), np.uint16)
    trouble = _count((events.x, events.y, events.p.view(np.uint8)), borders, frames)
    if trouble == _OUTSIDE:
        text = "these Events were written to after they were checked"
        raise UsageError(f"an event is not on the sensor: {text}")
    if trouble == _FULL:
        text = f"a frame counts more than {LARGEST_COUNT} events in one pixel"
        raise UsageError(f"{text}, the most it can hold; use more, shorter frames")
    return frames

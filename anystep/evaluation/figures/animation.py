"""A recording as a moving picture."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import atomic_path
from anystep.data.recording import Events
from anystep.evaluation.figures.samples import paint

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FRAMES = 300
SHORTEST_US = 20_000  # viewers show what a GIF wants faster than this slowly
TICK_US = 10_000  # the clock of a GIF
MOST_PIXELS = 1 << 22  # the largest cameras have 2^20; 300 frames of more would not fit into memory
SIDE = 512  # pixels of the longer side, about
LEVELS = 8  # of each polarity: 64 colours in all
LINE = 16  # pixels below the picture for the time


def _frame_length(duration: int, frame_us: int | None, slow: float) -> int:
    """`frame_us`, or the shortest that viewers can show and that does not make too many frames."""
    least = max(math.ceil(SHORTEST_US / slow), -(-duration // MOST_FRAMES))
    length = least if frame_us is None else frame_us
    if length < least:
        why = f"a frame is shown for 20 ms or more, and {MOST_FRAMES} are the most"
        raise UsageError(f"animate: frame_us must be >= {least}, got {frame_us}: {why}")
    return length


def _counts(events: Events, borders: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """For each frame k, events [borders[k], borders[k + 1]), how many at each pixel: (2, H, W)."""
    height, width = events.sensor
    for first, last in itertools.pairwise(borders):
        rows = slice(int(first), int(last))
        place = (events.p[rows].astype(np.int64) * height + events.y[rows]) * width + events.x[rows]
        yield np.bincount(place, minlength=2 * height * width).reshape(2, height, width)


def _darkest(events: Events, borders: NDArray[np.int64]) -> float:
    """The count that is shown darkest: the 99th percentile of all counts that are not zero."""
    histogram = np.zeros(1, dtype=np.int64)
    for counts in _counts(events, borders):
        own = np.bincount(counts.ravel(), minlength=len(histogram))
        own[: len(histogram)] += histogram
        histogram = own
    histogram[0] = 0
    return float(np.searchsorted(np.cumsum(histogram), 0.99 * histogram.sum()))


def _palette() -> list[int]:
    """Red, green, blue of the 64 mixtures of off and on events, of the line, and of the letters."""
    off, on = np.divmod(np.arange(LEVELS**2), LEVELS)
    mixtures = paint(np.stack([off, on])[None, :, None].astype(np.float64) / (LEVELS - 1))[0, 0]
    return [*np.rint(mixtures * 255).astype(int).ravel().tolist(), *(187, 187, 187), *(34, 34, 34)]


def _pictures(events: Events, borders: NDArray[np.int64], step: int) -> Iterator[Image]:
    """A picture with a palette for each frame."""
    image = need("PIL.Image", extra="report", purpose="an animation")
    draw = need("PIL.ImageDraw", extra="report", purpose="an animation")
    colours, top = _palette(), _darkest(events, borders)
    height, width = events.sensor
    scale = max(1, SIDE // max(height, width))
    for index, counts in enumerate(_counts(events, borders)):
        off, on = np.ceil(np.minimum(counts / top, 1) * (LEVELS - 1)).astype(np.uint8)
        canvas = np.zeros((height * scale + LINE, max(width * scale, 160)), dtype=np.uint8)
        enlarged = np.kron(off * LEVELS + on, np.ones((scale, scale), np.uint8))
        canvas[: height * scale, : width * scale] = enlarged
        canvas[height * scale, :] = LEVELS**2  # a line between the picture and the words
        picture: Image = image.fromarray(canvas)
        picture.putpalette(colours)  # what was grey levels are its rows from here on
        said = f"{index * step / 1000:.1f} ms   {int(counts.sum())} events"
        draw.Draw(picture).text((4, height * scale + 3), said, fill=LEVELS**2 + 1)
        yield picture


def animate(
    events: Events,
    path: str | os.PathLike[str],
    *,
    frame_us: int | None = None,
    slow: float = 1.0,
) -> int:
    """Write a GIF of a recording, on events red and off events blue; return its number of frames.

    - `frame_us`: microseconds of the recording in a frame. None: as few as a viewer can show at
      that speed, or more for a long recording.
    - `slow`: 1 shows the recording as fast as it was, 10 ten times slower.

    Pixels are enlarged by a whole number. The darkest colour is the 99th percentile of the pixels
    that hold something. Below stand the time since the first event and the events in the frame.
    Memory grows with the frames, not with the events.
    """
    if len(events) == 0:
        raise UsageError("animate: the recording has no events")
    if math.prod(events.sensor) > MOST_PIXELS:
        most = f"at most {MOST_PIXELS:,} pixels"
        raise UsageError(f"animate: the sensor must have {most}, got {events.sensor}")
    if not 0 < slow < math.inf:
        raise UsageError(f"animate: slow must be a finite number > 0, got {slow}")
    step = _frame_length(events.duration, frame_us, slow)
    edges = np.arange(-(-events.duration // step) + 1)
    borders = np.searchsorted(events.t, events.t[0] + step * edges, side="left")
    # The borders are rounded, not the frames: so the film as a whole keeps time.
    ticks = np.rint(edges * step * slow / TICK_US)
    shown_ms = (np.diff(ticks) * TICK_US / 1000).astype(int).tolist()
    first, *others = _pictures(events, borders, step)
    film: dict[str, Any] = {"save_all": True, "append_images": others, "duration": shown_ms}
    with atomic_path(path) as temporary:
        first.save(temporary, format="GIF", optimize=False, disposal=1, loop=0, **film)
    return len(shown_ms)

"""DVS-Gesture: one recording holds many gestures, and a table beside it says which is when."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anystep._errors import UsageError
from anystep.data.readers.source import regular_file
from anystep.data.recording import Events

CLASSES = 11
_HEADER = ["class", "startTime_usec", "endTime_usec"]


@dataclass(frozen=True)
class Segment:
    """A gesture: its class, 1..11 as in the table, and its time, start <= t < end in us."""

    class_number: int
    start_us: int
    end_us: int

    def of(self, events: Events) -> Events:
        """The events of the gesture, on the recording's clock.

        >>> events = Events.from_arrays([3, 5, 8], [0, 1, 0], [0, 0, 0], [1, 0, 1], (1, 2))
        >>> Segment(1, 5, 8).of(events).t
        array([5])
        """
        first, last = np.searchsorted(events.t, [self.start_us, self.end_us], side="left")
        return events.part(int(first), int(last))


def _segment(file: Path, number: int, line: str) -> Segment:
    """The gesture in one row."""
    place = f"{file}: line {number}"
    if not re.fullmatch(r"(\s*[0-9]{1,18}\s*,){2}\s*[0-9]{1,18}\s*", line):
        raise UsageError(f"{place} must be three whole numbers, got {line[:60]!r}")
    segment = Segment(*(int(field) for field in line.split(",")))
    if not 1 <= segment.class_number <= CLASSES:
        raise UsageError(f"{place}: class must be in 1..{CLASSES}, got {segment.class_number}")
    if segment.end_us <= segment.start_us:
        rule = f"the end {segment.end_us} must be after the start {segment.start_us}"
        raise UsageError(f"{place}: {rule}")
    return segment


def gesture_segments(path: str | os.PathLike[str]) -> list[Segment]:
    """The rows of a `userNN_light_labels.csv`: class,startTime_usec,endTime_usec."""
    file = regular_file(path)
    lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    if [name.strip() for name in lines[0].split(",")] != _HEADER:
        rule = f"the first line must be {','.join(_HEADER)}"
        raise UsageError(f"{file}: {rule}, got {lines[0][:60]!r}")
    rows = enumerate(lines[1:], start=2)
    segments = [_segment(file, number, line) for number, line in rows if line.strip()]
    if not segments:
        raise UsageError(f"{file}: holds no gestures")
    return segments

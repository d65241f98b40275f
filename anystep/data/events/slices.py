"""Long recordings cut into windows of one duration, each a file of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anystep._errors import UsageError
from anystep._files import atomic_path
from anystep.data.events.catalogue import find_recordings
from anystep.data.events.layouts import Folder
from anystep.data.groups import SLICE
from anystep.data.recording import Events

_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}


def microseconds(text: str) -> int:
    """A duration such as "100ms", "0.5s" or "800us".

    >>> microseconds("100ms"), microseconds("0.5s")
    (100000, 500000)
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s)", text)
    duration = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if duration < 1:
        raise UsageError(f"a duration must be like 100ms, 0.5s or 800us, got {text!r}")
    return duration


def _write(path: Path, events: Events, start: int) -> None:
    """A file .npz of columns that `read_events` reads, times from `start` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t, sensor = events.t - start, np.array(events.sensor)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, t=t, x=events.x, y=events.y, p=events.p, sensor=sensor)


def slice_recordings(
    root: Folder,
    out: Folder,
    *,
    window_us: int,
    sensor: Sequence[int] | None = None,
    progress: Callable[[int, int], None] = lambda done, samples: None,
) -> dict[str, Any]:
    """Cut every recording of the folder `root`, laid out for events-folder, into whole windows.

    Windows count from a recording's first event; what is left at its end, and windows without an
    event, are left out. OUT/<id>-slice-<number>.npz keeps folders and names, so the splits
    `grouped-...` know which slices are of one recording.

    Errors: `out` is not empty or lies in `root`; a recording that cannot be read; none of them
    lasts a window.
    """
    base, target = Path(root), Path(out)
    if target.resolve().is_relative_to(base.resolve()):
        raise UsageError(f"data slice: {target} lies in {base}, its slices would be recordings")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"data slice: {target} must be a new folder or an empty one")
    found = find_recordings("events-folder", base, sensor=sensor)
    slices, empty, longest, short = 0, 0, 0, []
    for done, sample in enumerate(found.samples, start=1):
        events = found.read(sample.path, sort=True)
        windows, longest = events.duration // window_us, max(longest, events.duration)
        if not windows:
            short.append(sample.id)
        first = int(events.t[0]) if windows else 0
        numbers, edges = np.unique((events.t - first) // window_us, return_index=True)
        bounds = [*edges.tolist(), len(events)]
        kept = int(np.searchsorted(numbers, windows))
        for place, number in enumerate(numbers[:kept].tolist()):
            name = f"{sample.id}{SLICE}{number:04d}.npz"
            part = events.part(bounds[place], bounds[place + 1])
            _write(target / name, part, first + number * window_us)
        slices, empty = slices + kept, empty + windows - kept
        progress(done, len(found.samples))
    if not slices:
        rule = f"no recording lasts {window_us:,} us, the longest has {longest:,} us"
        raise UsageError(f"data slice: {rule}")
    counts = {"recordings": len(found.samples), "slices": slices, "empty": empty, "short": short}
    return {"out": os.fspath(target), "window_us": window_us, **counts}

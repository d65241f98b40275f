"""`data`: event files, events into frames, and the event camera. All but the camera's rows run on
one core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.frames import EqualTime, FixedDuration
from anystep.data.readers import read_events
from anystep.data.recording import Events
from benchmarks import event_files
from benchmarks.cameras import camera_groups
from benchmarks.event_files import FORMATS, Tonic, as_tonic, plain_bin, write_bin
from benchmarks.measure import Contender, Rows, Setup, measure_groups
from benchmarks.rates import rated

STEPS = 10
MICROSECONDS = 1_000_000
WINDOW = MICROSECONDS // STEPS
SMALL = 4_000  # events of an N-MNIST file
SENSORS = {SMALL: (34, 34), 4_000_000: (128, 128)}  # such a file, and a long recording
LOOK = 200_000  # events for `quick`


def _recording(count: int, sensor: tuple[int, int], seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, MICROSECONDS, count))
    t[0] = 0  # tonic's windows start at the first event, ours at the zero of the clock
    y, x = (rng.integers(0, size, count).astype(np.int16) for size in sensor)
    return Events(t, x, y, rng.integers(0, 2, count).astype(np.uint8), sensor)


def _add_at(events: Events) -> NDArray[np.uint16]:
    """FixedDuration as it is usually written."""
    frames = np.zeros((STEPS, 2, *events.sensor), np.uint16)
    np.add.at(frames, (events.t // WINDOW, events.p, events.y, events.x), 1)
    return frames


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(f"no time is taken: {what}")


def _tonic() -> tuple[Tonic | None, dict[str, str]]:
    """(tonic, {}), or (None, why it is left out)."""
    events = _recording(SMALL, SENSORS[SMALL])
    try:
        tonic = event_files.find_tonic()
        frames = tonic.frames(as_tonic(events), events.sensor, WINDOW)
    except ImportError as error:
        return None, {"tonic": f"cannot be imported: {error}"}
    except Exception as error:  # foreign code may raise anything, and is left out for it
        return None, {"tonic": f"{type(error).__name__}: {error}"}
    if not np.array_equal(frames, _add_at(events)):
        return None, {"tonic": "makes other frames"}
    return tonic, {}


def _reading_rows(
    name: str, folder: Path, tonic: Tonic | None, left_out: dict[str, str], setup: Setup
) -> Rows:
    """A file of a format, which lies in the page cache, beside plain numpy or faery."""
    kind = FORMATS[name]
    count = min(LOOK, kind.events) if setup.quick else kind.events
    events, path = _recording(count, (128, 128)), folder / f"recording{kind.suffix}"
    try:
        kind.write(events, path)
    except ImportError as error:
        left_out[f"reading {name}"] = f"cannot be imported: {error}"
        return []
    read = read_events(path, sensor=events.sensor)
    if not all(np.array_equal(getattr(read, own), getattr(events, own)) for own in "txyp"):
        _refuse(f"{name} is read as something else than what was written")
    runs = {
        kind.baseline: lambda: kind.read(path),
        "anystep": lambda: read_events(path, sensor=(128, 128)),
    }
    if tonic is not None and kind.read is plain_bin:
        runs["tonic"] = lambda: tonic.read(path)
    group = f"reading {name}, {count} events"
    contenders = [Contender(who, run, group) for who, run in runs.items()]
    rows = rated(contenders, setup, "events", count)
    path.unlink()
    return rows


def _small_file_rows(folder: Path, tonic: Tonic | None, setup: Setup) -> Rows:
    """Files of an N-MNIST size, from the name to the frames."""
    sensor, number = SENSORS[SMALL], 8 if setup.quick else 200
    paths = [folder / f"{seed}.bin" for seed in range(number)]
    for seed, path in enumerate(paths):
        write_bin(_recording(SMALL, sensor, seed), path)
    fixed = FixedDuration(STEPS, WINDOW)

    def plain() -> list[Any]:
        return [_add_at(Events(t, x, y, p, sensor)) for t, x, y, p in map(plain_bin, paths)]

    def ours() -> list[Any]:
        return [fixed(read_events(path)) for path in paths]

    if not np.array_equal(ours(), plain()):
        _refuse("small files are read as something else than what was written")
    runs = {"plain numpy, np.add.at": plain, "anystep": ours}
    if tonic is not None:
        runs["tonic"] = lambda: [tonic.frames(tonic.read(p), sensor, WINDOW) for p in paths]
    group = f"{number} files of {SMALL} events, read and binned"
    contenders = [Contender(name, run, group) for name, run in runs.items()]
    return rated(contenders, setup, "files", number)


def _binning_rows(count: int, tonic: Tonic | None, setup: Setup) -> Rows:
    """A recording in memory to frames, beside `np.add.at`."""
    number = min(LOOK, count) if setup.quick else count
    events = _recording(number, SENSORS[count])
    often = max(1, LOOK // number)  # one small file is over before it is timed
    fixed, equal = FixedDuration(STEPS, WINDOW), EqualTime(STEPS)
    if not np.array_equal(fixed(events), _add_at(events)):
        _refuse("FixedDuration and np.add.at count differently")
    runs = {
        "np.add.at": lambda: _add_at(events),
        "anystep fixed_duration": lambda: fixed(events),
        "anystep equal_time": lambda: equal(events),
    }
    if tonic is not None:
        array = as_tonic(events)
        runs["tonic"] = lambda: tonic.frames(array, events.sensor, WINDOW)

    def again(run: Callable[[], Any]) -> None:
        for _ in range(often):
            run()

    group = f"{number} events"
    contenders = [
        Contender(name, partial(again, run), group, 1 / often) for name, run in runs.items()
    ]
    return rated(contenders, setup, "events", number)


def bench_data(setup: Setup) -> dict[str, Any]:
    """Event files of every format, small files to frames, frames beside `np.add.at`, and recordings
    of the simulator.

    No time is taken if a file does not hold what was written, or frames differ from `np.add.at`.
    tonic and faery take part if they can be imported and agree with it.
    """
    if setup.shapes:
        raise UsageError("bench: data takes no shape")
    tonic, left_out = _tonic()
    left_out["faery frames"] = "faery renders pictures and counts no events by pixel"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        groups: dict[str, Callable[[], Rows]] = {
            f"reading {kind}": partial(_reading_rows, kind, folder, tonic, left_out, setup)
            for kind in FORMATS
        }
        groups["small files"] = partial(_small_file_rows, folder, tonic, setup)
        for count in SENSORS:
            groups[f"{count} events"] = partial(_binning_rows, count, tonic, setup)
        rows, late = measure_groups({**groups, **camera_groups(setup)}, setup)
    return {
        "checked": ["reading", "binning", "batched camera"],
        "peers": event_files.versions(),
        "left_out": left_out | late,
        "rows": rows,
        "summary": {},
    }

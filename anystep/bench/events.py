"""`bench data`: events into frames, and the event camera."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anystep.bench.measure import Contender, Setup, measure
from anystep.data.events import Events
from anystep.data.frames import EqualTime, FixedDuration
from anystep.data.simulate import Camera, closed_loop, simulate_many

STEPS = 10
MICROSECONDS = 1_000_000
SENSORS = {4_000: (34, 34), 4_000_000: (128, 128)}  # an N-MNIST file, and a long recording


def bench_data(setup: Setup) -> dict[str, Any]:
    """Frames of 4,000 and of 4 million events beside `np.add.at`; recordings a second of the simulator."""
    if setup.shapes:
        raise ValueError("bench data takes no shape")
    rows = [row for count in SENSORS for row in _binning_rows(200_000 if setup.quick and count > 200_000 else count, setup)]
    return {"checked": ["binning"], "left_out": {}, "rows": [*rows, *_simulator_rows(setup)], "summary": {}}


def _recording(count: int, sensor: tuple[int, int]) -> Events:
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, MICROSECONDS, count))
    y, x = (rng.integers(0, size, count).astype(np.int16) for size in sensor)
    return Events(t, x, y, rng.integers(0, 2, count).astype(np.uint8), sensor)


def _add_at(events: Events) -> NDArray[np.uint16]:
    """FixedDuration as it is usually written."""
    frames = np.zeros((STEPS, 2, *events.sensor), np.uint16)
    np.add.at(frames, (events.t // (MICROSECONDS // STEPS), events.p, events.y, events.x), 1)
    return frames


def _binning_rows(count: int, setup: Setup) -> list[dict[str, Any]]:
    events = _recording(count, SENSORS[count if count in SENSORS else max(SENSORS)])
    fixed, equal = FixedDuration(STEPS, MICROSECONDS // STEPS), EqualTime(STEPS)
    if not np.array_equal(fixed(events), _add_at(events)):
        raise RuntimeError("no time is taken: FixedDuration and np.add.at count differently")
    group = f"{count} events"
    contenders = [
        Contender("np.add.at", lambda: _add_at(events), group),
        Contender("anystep fixed_duration", lambda: fixed(events), group),
        Contender("anystep equal_time", lambda: equal(events), group),
    ]
    rows = measure(contenders, setup, against=["np.add.at"])
    return [{**row, "events_per_s": round(1000 * count / row["median_ms"])} for row in rows]


def _simulator_rows(setup: Setup) -> list[dict[str, Any]]:
    """28 x 28 images on a 34 x 34 sensor, on the path of digits-dvs, with one thread and with all."""
    number = 4 if setup.quick else 32
    rows = np.linspace(0, np.pi, 28)
    images = np.stack([np.outer(np.sin(rows), np.sin((i + 1) * rows) ** 2) for i in range(number)])
    path, camera = closed_loop(), Camera()

    def simulate(workers: int) -> None:
        for _ in simulate_many(images, path, camera, seed=0, workers=workers):
            pass

    group = f"{number} recordings"
    threads = sorted({1, torch.get_num_threads()})
    contenders = [Contender(f"simulator, {n} threads", lambda n=n: simulate(n), group) for n in threads]  # type: ignore[misc]
    timed = measure(contenders, setup, against=["simulator, 1 threads"])
    return [{**row, "recordings_per_s": round(1000 * number / row["median_ms"], 1)} for row in timed]

"""An event camera for any grey image on any path.

A pixel sees the logarithm of its light, L = log(I + floor), and remembers a reference level R, at first L(0). Whenever
L rises by the threshold above R it sends an on event and R goes up by that threshold; whenever L falls by the threshold
below R it sends an off event and R goes down (Lichtsteiner et al. 2008; Rebecq et al. 2018, ESIM). L is sampled
every `substep_us` and is a straight line in between, so a crossing has a time of its own. Thresholds differ from pixel to
pixel, and background events are a Poisson process in time and space. There is no refractory period and no low-pass filter.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from anystep._lookup import choose
from anystep.data.events import Events
from anystep.data.threads import map_ahead

# Part of every cache key: raise it whenever the same settings give other events.
SIMULATOR_VERSION = 1
_SMALLEST_THRESHOLD = 0.1  # of the nominal one: a threshold at or below zero would never stop firing


@dataclass(frozen=True)
class Camera:
    """The sensor, with values near those of a DVS128 or ATIS camera.

    sensor      (height, width) in pixels
    threshold   contrast in log intensity that makes an event; 0.2 is a change of 22 %
    mismatch    relative standard deviation of the threshold over pixels, drawn apart for on and off
    noise_hz    background events a pixel and second, of random polarity
    substep_us  microseconds between two samples of the light
    floor       light of a black pixel, in units of a white one: it bounds the contrast at log((1 + floor) / floor); 0.2
                is a ratio of 6 to 1, about nine on events from black to white
    seed        of the thresholds: one seed is one camera
    """

    sensor: tuple[int, int] = (34, 34)
    threshold: float = 0.2
    mismatch: float = 0.03
    noise_hz: float = 1.0
    substep_us: int = 1000
    floor: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "threshold": (self.threshold > 0, "> 0"),
            "mismatch": (0 <= self.mismatch <= 0.3, "in 0..0.3"),
            "noise_hz": (self.noise_hz >= 0 and math.isfinite(self.noise_hz), ">= 0"),
            "substep_us": (self.substep_us >= 1 and self.substep_us == int(self.substep_us), "a whole number >= 1"),
            "floor": (self.floor > 0, "> 0"),
        }
        for name, (good, rule) in allowed.items():
            if not good:
                raise ValueError(f"Camera: {name} must be {rule}, got {getattr(self, name)}")
        if len(self.sensor) != 2 or min(self.sensor) < 1:
            raise ValueError(f"Camera: sensor must be (height, width), each >= 1, got {self.sensor}")
        object.__setattr__(self, "sensor", (int(self.sensor[0]), int(self.sensor[1])))

    def describe(self) -> dict[str, Any]:
        """The fields, for hashes and records."""
        return asdict(self)


@dataclass(frozen=True)
class Trajectory:
    """Where the image is: offsets in pixels from the centre at some times, and straight lines in between.

    times_us    start at 0, increase, end at the duration
    dx, dy      pixels to the right and down, one for each time
    """

    times_us: tuple[int, ...]
    dx: tuple[float, ...]
    dy: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.times_us)
        if count < 2 or len(self.dx) != count or len(self.dy) != count:
            raise ValueError(
                "Trajectory: times_us, dx and dy must have one length of at least 2, "
                f"got {count}, {len(self.dx)} and {len(self.dy)}"
            )
        if self.times_us[0] != 0 or any(np.diff(self.times_us) < 1):
            raise ValueError(f"Trajectory: times_us must start at 0 and increase, got {self.times_us[:5]}...")
        if not np.isfinite([self.dx, self.dy]).all():
            raise ValueError("Trajectory: dx and dy must be finite")

    @property
    def duration_us(self) -> int:
        """Microseconds from start to end."""
        return self.times_us[-1]

    def at(self, times_us: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(dx, dy) in pixels at any times (K,)."""
        return np.interp(times_us, self.times_us, self.dx), np.interp(times_us, self.times_us, self.dy)

    def describe(self) -> dict[str, Any]:
        """The fields, for hashes and records."""
        return asdict(self)


def closed_loop(duration_us: int = 300_000, *, radius: float = 3.0, loops: int = 2) -> Trajectory:
    """A circle at constant speed, run `loops` times in exactly `duration_us`: every loop has the same positions.

    With two loops both halves of the recording see the same motion, so the first half is worth as much as the second.
    `radius` in pixels. Positions are 150 points a loop, straight lines in between.
    """
    if loops < 1 or duration_us < 150 * loops or radius < 0:
        raise ValueError(
            "closed_loop: loops must be >= 1, duration_us >= 150 * loops and radius >= 0, "
            f"got loops={loops}, duration_us={duration_us}, radius={radius}"
        )
    points = 150
    phase = [2 * math.pi * (k % points) / points for k in range(points * loops + 1)]
    times = tuple(round(duration_us * k / (points * loops)) for k in range(points * loops + 1))
    return Trajectory(times, tuple(radius * math.cos(a) for a in phase), tuple(radius * math.sin(a) for a in phase))


def saccade(duration_us: int = 300_000, *, size: float = 4.8) -> Trajectory:
    """Three straight legs of a third of `duration_us` each round a triangle `size` pixels wide and high.

    Right and down, right and up, back to the left: the motion that made N-MNIST (Orchard et al. 2015). The last
    leg is along a row, so edges along rows are silent in it; the thirds of a recording are not alike.
    """
    if duration_us < 3 or size < 0:
        raise ValueError(f"saccade: duration_us must be >= 3 and size >= 0, got {duration_us} and {size}")
    half = size / 2
    times = (0, duration_us // 3, 2 * duration_us // 3, duration_us)
    return Trajectory(times, (-half, 0.0, half, -half), (-half, half, -half, -half))


PATHS: dict[str, Callable[..., Trajectory]] = {"closed_loop": closed_loop, "saccade": saccade}


def path_of(path: str | Trajectory) -> Trajectory:
    """A trajectory as it is, or the one a name of PATHS stands for."""
    return path if isinstance(path, Trajectory) else choose(PATHS, path, "path")()


def simulate(image: ArrayLike, path: Trajectory, camera: Camera, *, seed: int | Sequence[int]) -> Events:
    """The events of `camera` while `image` moves along `path` over a black background.

    image (H0, W0) in [0, 1], no larger than the sensor: it starts at the centre, (H - H0) // 2 rows down, and is moved by
    bilinear interpolation; what leaves the sensor is not seen. All times are in [0, path.duration_us). Events are ordered by
    time, ties by row, column and polarity. `seed` draws the background events and nothing else: the same arguments
    always give the same events.
    """
    picture = np.asarray(image, dtype=np.float64)
    height, width = camera.sensor
    if picture.ndim != 2 or picture.shape[0] > height or picture.shape[1] > width:
        raise ValueError(f"simulate: image must be (H0, W0) with at most {height} x {width}, got {picture.shape}")
    if not (picture.min(initial=0) >= 0 and picture.max(initial=0) <= 1):
        raise ValueError(f"simulate: image must lie in [0, 1], got {picture.min()} to {picture.max()}")
    times = np.unique(np.append(np.arange(0, path.duration_us, camera.substep_us), path.duration_us))
    dx, dy = path.at(times)
    margin = math.ceil(max(np.abs(dx).max(), np.abs(dy).max())) + 1
    canvas = np.zeros((height + 2 * margin, width + 2 * margin))
    top, left = margin + (height - picture.shape[0]) // 2, margin + (width - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    # A pixel (y, x) sees the canvas at (y, x) + margin - (dy, dx): a whole number of pixels and a fraction.
    source = margin - np.stack([dy, dx], axis=1)
    whole = np.floor(source)
    keys = _crossings(canvas, times, whole.astype(np.int64), source - whole, _thresholds(camera), float(camera.floor))
    return _decode(np.concatenate([keys, _noise(path.duration_us, camera, seed)]), camera.sensor)


def simulate_many(
    images: ArrayLike,
    path: Trajectory,
    camera: Camera,
    *,
    seed: int,
    workers: int | None = None,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
) -> Iterator[Events]:
    """The events of images[i] for every i of `indices` (None: all), in that order.

    images (M, H0, W0) in [0, 1]. Image i has its noise from the seed pair (seed, i), so its events depend neither on
    `workers` (threads; None: one a processor) nor on what else is simulated.
    """
    stack = np.asarray(images)
    if stack.ndim != 3:
        raise ValueError(f"simulate_many: images must be (M, H0, W0), got shape {stack.shape}")
    if workers is not None and workers < 1:
        raise ValueError(f"simulate_many: workers must be >= 1 or None, got {workers}")
    chosen = [int(i) for i in (range(len(stack)) if indices is None else indices)]
    for i in chosen:
        if not 0 <= i < len(stack):
            raise ValueError(f"simulate_many: indices must be in 0..{len(stack) - 1}, got {i}")

    def one(index: int) -> Events:
        return simulate(stack[index], path, camera, seed=(seed, index))

    return map_ahead(one, chosen, workers or os.cpu_count() or 1, ahead=4)


@lru_cache(maxsize=8)
def _thresholds(camera: Camera) -> NDArray[np.float64]:
    """(2, H, W): the off and the on threshold of every pixel, fixed by the camera's seed."""
    draw = np.random.default_rng(camera.seed).standard_normal((2, *camera.sensor))
    thresholds: NDArray[np.float64] = camera.threshold * np.maximum(1 + camera.mismatch * draw, _SMALLEST_THRESHOLD)
    thresholds.flags.writeable = False
    return thresholds


def _noise(duration_us: int, camera: Camera, seed: int | Sequence[int]) -> NDArray[np.int64]:
    """Keys of the background events."""
    height, width = camera.sensor
    rng = np.random.default_rng(seed)
    count = rng.poisson(camera.noise_hz * height * width * duration_us * 1e-6)
    return rng.integers(0, duration_us * height * width * 2, count)


def _decode(keys: NDArray[np.int64], sensor: tuple[int, int]) -> Events:
    """Events from keys ((t * H + y) * W + x) * 2 + p: sorting the keys sorts by time, then row, column, polarity."""
    height, width = sensor
    place, p = np.divmod(np.sort(keys), 2)
    t, pixel = np.divmod(place, height * width)
    y, x = np.divmod(pixel, width)
    return Events(t, x.astype(np.int16), y.astype(np.int16), p.astype(np.uint8), sensor)


@njit(nogil=True, cache=True)
def _see(canvas: Any, row: int, column: int, part: Any, light: Any) -> None:
    """One row of the sensor: light[x] interpolated between four pixels of the canvas."""
    down, right = part
    above, below = canvas[row, column:], canvas[row + 1, column:]
    for x in range(len(light)):
        high = (1 - right) * above[x] + right * above[x + 1]
        low = (1 - right) * below[x] + right * below[x + 1]
        light[x] = (1 - down) * high + down * low


@njit(nogil=True, cache=True)
def _append(keys: Any, count: int, key: int) -> Any:
    """`keys` with keys[count] = key, made twice as long when it was full."""
    if count == len(keys):
        longer = np.empty(2 * count, np.int64)
        longer[:count] = keys
        keys = longer
    keys[count] = key
    return keys


@njit(nogil=True, cache=True)
def _crossings(canvas: Any, times: Any, whole: Any, part: Any, thresholds: Any, floor: float) -> Any:
    """Keys of all threshold crossings. Logarithms are taken only where the light left the band that makes no event."""
    _, height, width = thresholds.shape
    light = np.empty((height, width))
    after = np.empty(width)
    for y in range(height):
        _see(canvas, y + whole[0, 0], whole[0, 1], part[0], light[y])
    reference = np.log(light + floor)
    # The band is narrowed by far more than a rounding error: it may only let too much through to the exact test.
    darkest = np.exp(reference - thresholds[0]) * (1 + 1e-9) - floor
    brightest = np.exp(reference + thresholds[1]) * (1 - 1e-9) - floor
    keys, count = np.empty(4096, np.int64), 0
    for k in range(1, len(times)):
        start, length = times[k - 1], times[k] - times[k - 1]
        for y in range(height):
            _see(canvas, y + whole[k, 0], whole[k, 1], part[k], after)
            for x in range(width):
                if darkest[y, x] < after[x] < brightest[y, x]:
                    continue
                before, level = math.log(light[y, x] + floor), math.log(after[x] + floor)
                p = 1 if level > reference[y, x] else 0
                sign, threshold = 2 * p - 1, thresholds[p, y, x]
                while sign * (level - reference[y, x]) >= threshold:
                    reference[y, x] += sign * threshold
                    # A crossing at the very end of a substep still belongs to it, so no time reaches the duration.
                    t = start + min(int((reference[y, x] - before) / (level - before) * length), length - 1)
                    keys = _append(keys, count, ((t * height + y) * width + x) * 2 + p)
                    count += 1
                darkest[y, x] = math.exp(reference[y, x] - thresholds[0, y, x]) * (1 + 1e-9) - floor
                brightest[y, x] = math.exp(reference[y, x] + thresholds[1, y, x]) * (1 - 1e-9) - floor
            light[y] = after
    return keys[:count]

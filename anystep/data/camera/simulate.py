"""An event camera for any grey image on any path.

A pixel sees the logarithm of its light, L = log(I + floor), and remembers a reference level R, at
first L(0). Whenever L rises by the threshold above R it sends an on event and R goes up by that
threshold; whenever L falls by the threshold below R it sends an off event and R goes down
(Lichtsteiner et al. 2008; Rebecq et al. 2018, ESIM). L is sampled every `substep_us` and is a
straight line in between, so a crossing has a time of its own. Thresholds differ from pixel to
pixel, and background events are a Poisson process in time and space. There is no refractory period
and no low-pass filter.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep._threads import map_ahead
from anystep.data.recording import Events

# Part of every cache key: raise it whenever the same settings give other events.
SIMULATOR_VERSION = 1
# Of the nominal one: a threshold at or below zero would never stop firing.
_SMALLEST_THRESHOLD = 0.1


@dataclass(frozen=True)
class Camera:
    """The sensor, with values near those of a DVS128 or ATIS camera.

    sensor       (height, width) in pixels
    threshold    contrast in log intensity that makes an event; 0.2 is a change of 22 %
    mismatch     relative standard deviation of the threshold over pixels, for on and off apart
    noise_hz     background events a pixel and second, of random polarity
    substep_us   microseconds between two samples of the light
    floor        light of a black pixel, in units of a white one. It bounds the contrast: 0.2 is a
                 ratio of 6 to 1, about nine on events from black to white
    seed         of the thresholds: one seed is one camera
    """

    sensor: tuple[int, int] = (34, 34)
    threshold: float = 0.2
    mismatch: float = 0.03
    noise_hz: float = 1.0
    substep_us: int = 1000
    floor: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        whole = self.substep_us % 1 == 0
        allowed = {
            "threshold": (self.threshold > 0, "> 0"),
            "mismatch": (0 <= self.mismatch <= 0.3, "in 0..0.3"),
            "noise_hz": (self.noise_hz >= 0 and math.isfinite(self.noise_hz), ">= 0"),
            "substep_us": (whole and self.substep_us >= 1, "a whole number >= 1"),
            "floor": (self.floor > 0, "> 0"),
        }
        for name, (good, rule) in allowed.items():
            if not good:
                raise UsageError(f"Camera: {name} must be {rule}, got {getattr(self, name)}")
        if len(self.sensor) != 2 or min(self.sensor) < 1:
            raise UsageError(
                f"Camera: sensor must be (height, width), each >= 1, got {self.sensor}"
            )
        object.__setattr__(self, "sensor", (int(self.sensor[0]), int(self.sensor[1])))


@dataclass(frozen=True)
class Trajectory:
    """Where the image is: offsets from the centre at some times, and straight lines in between.

    times_us    start at 0, increase, end at the duration
    dx, dy      pixels to the right and down, one for each time
    """

    times_us: tuple[int, ...]
    dx: tuple[float, ...]
    dy: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.times_us)
        if count < 2 or len(self.dx) != count or len(self.dy) != count:
            rule = "times_us, dx and dy must have one length of at least 2"
            raise UsageError(f"Trajectory: {rule}, got {count}, {len(self.dx)} and {len(self.dy)}")
        if self.times_us[0] != 0 or any(np.diff(self.times_us) < 1):
            got = f"{self.times_us[:5]}..."
            raise UsageError(f"Trajectory: times_us must start at 0 and increase, got {got}")
        if not np.isfinite([self.dx, self.dy]).all():
            raise UsageError("Trajectory: dx and dy must be finite")

    @property
    def duration_us(self) -> int:
        """Microseconds from start to end."""
        return self.times_us[-1]

    def at(self, times_us: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(dx, dy) in pixels at any times (K,)."""
        dx, dy = (np.interp(times_us, self.times_us, offsets) for offsets in (self.dx, self.dy))
        return dx, dy


def closed_loop(duration_us: int = 300_000, *, radius: float = 3.0, loops: int = 2) -> Trajectory:
    """A circle of `radius` pixels at constant speed, run `loops` times in exactly `duration_us`.

    Every loop has the same positions, 150 points and straight lines in between. With two loops both
    halves of the recording see the same motion, so the first is worth as much as the second.
    """
    points = 150
    if loops < 1 or duration_us < points * loops or radius < 0:
        rule = f"loops must be >= 1, duration_us >= {points} * loops and radius >= 0"
        got = f"loops={loops}, duration_us={duration_us}, radius={radius}"
        raise UsageError(f"closed_loop: {rule}, got {got}")
    places = range(points * loops + 1)
    times = tuple(round(duration_us * k / (points * loops)) for k in places)
    phase = [2 * math.pi * (k % points) / points for k in places]
    right, down = (tuple(radius * turn(at) for at in phase) for turn in (math.cos, math.sin))
    return Trajectory(times, right, down)


def saccade(duration_us: int = 300_000, *, size: float = 4.8) -> Trajectory:
    """Three straight legs, a third of `duration_us` each, round a triangle of `size` pixels.

    Right and down, right and up, back to the left: the motion that made N-MNIST (Orchard et al.
    2015). In the last leg, along a row, edges along rows are silent: the thirds are not alike.
    """
    if duration_us < 3 or size < 0:
        rule = "duration_us must be >= 3 and size >= 0"
        raise UsageError(f"saccade: {rule}, got {duration_us} and {size}")
    half = size / 2
    times = (0, duration_us // 3, 2 * duration_us // 3, duration_us)
    return Trajectory(times, (-half, 0.0, half, -half), (-half, half, -half, -half))


PATHS: dict[str, Callable[..., Trajectory]] = {"closed_loop": closed_loop, "saccade": saccade}


def path_name(path: str) -> str:
    """A path's name as PATHS spells it: "closed-loop" is "closed_loop"."""
    return path.replace("-", "_")


def path_of(path: str | Trajectory) -> Trajectory:
    """A trajectory as it is, or the one that a name of PATHS stands for."""
    return path if isinstance(path, Trajectory) else choose(PATHS, path_name(path), "path")()


def enlarge(images: NDArray[np.float64], pixels: int) -> NDArray[np.float64]:
    """Square images (M, S, S) to (M, pixels, pixels): bilinear, pixel centres aligned."""
    size = images.shape[-1]
    place = np.clip((np.arange(pixels) + 0.5) * size / pixels - 0.5, 0, size - 1)
    low = np.minimum(place.astype(np.int64), size - 2)
    weights = np.zeros((pixels, size))
    weights[np.arange(pixels), low] = 1 - (place - low)
    weights[np.arange(pixels), low + 1] += place - low
    return np.clip(weights @ images @ weights.T, 0, 1)


def sample_times(duration_us: int, substep_us: int) -> NDArray[np.int64]:
    """When the light is sampled: every `substep_us` from 0 on, and at the end."""
    return np.unique(np.append(np.arange(0, duration_us, substep_us), duration_us))


@lru_cache(maxsize=8)
def thresholds_of(camera: Camera) -> NDArray[np.float64]:
    """(2, H, W): the off and the on threshold of every pixel, fixed by the camera's seed."""
    draw = np.random.default_rng(camera.seed).standard_normal((2, *camera.sensor))
    factor = np.maximum(1 + camera.mismatch * draw, _SMALLEST_THRESHOLD)
    thresholds: NDArray[np.float64] = camera.threshold * factor
    thresholds.flags.writeable = False
    return thresholds


def _canvas(
    picture: NDArray[np.float64], sensor: tuple[int, int], margin: int
) -> NDArray[np.float64]:
    """The picture in the middle of the sensor, with `margin` black pixels on every side or cut."""
    canvas = np.zeros((sensor[0] + 2 * margin, sensor[1] + 2 * margin))
    here, there = [], []
    for seen, size in zip(sensor, picture.shape, strict=True):
        first = margin + (seen - size) // 2
        last = min(first + size, seen + 2 * margin)
        here.append(slice(max(first, 0), last))
        there.append(slice(max(-first, 0), last - first))
    canvas[tuple(here)] = picture[tuple(there)]
    return canvas


def _noise(duration_us: int, camera: Camera, seed: int | Sequence[int]) -> NDArray[np.int64]:
    """Keys of the background events."""
    height, width = camera.sensor
    rng = np.random.default_rng(seed)
    count = rng.poisson(camera.noise_hz * height * width * duration_us * 1e-6)
    return rng.integers(0, duration_us * height * width * 2, count)


@njit(nogil=True, cache=True)
def _across(row: Any, right: float, seen: Any) -> None:
    """seen[x]: a row of the canvas `right` of a pixel further on."""
    for x in range(len(seen)):
        seen[x] = (1 - right) * row[x] + right * row[x + 1]


@njit(nogil=True, cache=True)
def _down(high: Any, low: Any, down: float, light: Any) -> None:
    """light[x] between two rows that `_across` made."""
    for x in range(len(light)):
        light[x] = (1 - down) * high[x] + down * low[x]


@njit(nogil=True, cache=True)
def _leaving(darkest: Any, after: Any, brightest: Any, leaves: Any) -> None:
    """leaves[x] = 1 where the light is outside the band. Without a branch, to run on vectors."""
    for x in range(len(after)):
        leaves[x] = (after[x] <= darkest[x]) | (after[x] >= brightest[x])


@njit(nogil=True, cache=True)
def _longer(keys: Any) -> Any:
    """`keys`, with room for as many again."""
    room = np.empty(2 * len(keys), np.int64)
    room[: len(keys)] = keys
    return room


@njit(nogil=True, cache=True)
def _crossings(
    canvas: Any, times: Any, whole: Any, part: Any, thresholds: Any, floor: float
) -> Any:
    """Keys of all crossings. Logarithms are taken only where the light left the silent band."""
    _, height, width = thresholds.shape
    light, after = np.empty((height, width)), np.empty((height, width))
    high, low = np.empty(width), np.empty(width)
    leaves = np.zeros((width + 7) // 8 * 8, np.uint8)
    eights = leaves.view(np.uint64)  # eight pixels a look: few of them make an event in one step
    _across(canvas[whole[0, 0], whole[0, 1] :], part[0, 1], high)
    for y in range(height):
        _across(canvas[y + 1 + whole[0, 0], whole[0, 1] :], part[0, 1], low)
        _down(high, low, part[0, 0], light[y])
        high, low = low, high
    reference = np.log(light + floor)
    # Narrowed by far more than the rounding errors of `bright`, exp(reference) kept by products:
    # the band may only let too much through to the exact test.
    bright = light + floor
    off, on = np.exp(-thresholds[0]) * (1 + 1e-9), np.exp(thresholds[1]) * (1 - 1e-9)
    factor = np.exp(thresholds)
    darkest, brightest = bright * off - floor, bright * on - floor
    keys, count = np.empty(4096, np.int64), 0
    for k in range(1, len(times)):
        start, length = times[k - 1], times[k] - times[k - 1]
        _across(canvas[whole[k, 0], whole[k, 1] :], part[k, 1], high)
        for y in range(height):
            _across(canvas[y + 1 + whole[k, 0], whole[k, 1] :], part[k, 1], low)
            _down(high, low, part[k, 0], after[y])
            high, low = low, high
            _leaving(darkest[y], after[y], brightest[y], leaves[:width])
            for eight in range(len(eights)):
                if eights[eight] == 0:
                    continue
                for x in range(8 * eight, min(8 * eight + 8, width)):
                    if leaves[x] == 0:
                        continue
                    before, level = math.log(light[y, x] + floor), math.log(after[y, x] + floor)
                    p = 1 if level > reference[y, x] else 0
                    sign, threshold = 2 * p - 1, thresholds[p, y, x]
                    while sign * (level - reference[y, x]) >= threshold:
                        reference[y, x] += sign * threshold
                        bright[y, x] *= factor[1, y, x] if p else 1 / factor[0, y, x]
                        # A crossing at the end of a substep belongs to it: t < duration.
                        part_of = (reference[y, x] - before) / (level - before)
                        t = start + min(int(part_of * length), length - 1)
                        if count == len(keys):
                            keys = _longer(keys)
                        keys[count] = ((t * height + y) * width + x) * 2 + p
                        count += 1
                    darkest[y, x] = bright[y, x] * off[y, x] - floor
                    brightest[y, x] = bright[y, x] * on[y, x] - floor
        light, after = after, light
    return keys[:count]


@njit(nogil=True, cache=True)
def _columns(keys: Any, height: int, width: int) -> Any:
    """t, x, y, p of keys ((t * H + y) * W + x) * 2 + p."""
    t, p = np.empty(len(keys), np.int64), np.empty(len(keys), np.uint8)
    x, y = np.empty(len(keys), np.int16), np.empty(len(keys), np.int16)
    for i in range(len(keys)):
        row = (keys[i] >> 1) // width
        t[i] = row // height
        x[i], y[i], p[i] = (keys[i] >> 1) - row * width, row - t[i] * height, keys[i] & 1
    return t, x, y, p


def simulate(
    image: ArrayLike, path: Trajectory, camera: Camera, *, seed: int | Sequence[int]
) -> Events:
    """The events of `camera` while `image` moves along `path` over a black background.

    image   (H0, W0) in [0, 1]: it starts at the centre, (H - H0) // 2 rows down
    seed    draws the background events and nothing else

    The image is moved by bilinear interpolation; one that is larger than the sensor by what the
    path moves it hides the background. All times are in [0, path.duration_us). Events are ordered
    by time, ties by row, column and polarity. The same arguments always give the same events.
    """
    picture = np.asarray(image, dtype=np.float64)
    if picture.ndim != 2 or 0 in picture.shape:
        raise UsageError(f"simulate: image must be (H0, W0), each >= 1, got shape {picture.shape}")
    low, high = picture.min(), picture.max()
    if not (low >= 0 and high <= 1):
        raise UsageError(f"simulate: image must lie in [0, 1], got {low} to {high}")
    times = sample_times(path.duration_us, camera.substep_us)
    dx, dy = path.at(times)
    margin = math.ceil(max(np.abs(dx).max(), np.abs(dy).max())) + 1
    canvas = _canvas(picture, camera.sensor, margin)
    # Pixel (y, x) sees the canvas at (y, x) + margin - (dy, dx): whole pixels and a fraction.
    source = margin - np.stack([dy, dx], axis=1)
    whole = np.floor(source).astype(np.int64)
    thresholds, floor = thresholds_of(camera), float(camera.floor)
    keys = _crossings(canvas, times, whole, source - whole, thresholds, floor)
    keys = np.sort(np.concatenate([keys, _noise(path.duration_us, camera, seed)]))
    t, x, y, p = _columns(keys, *camera.sensor)
    return Events(t, x, y, p, camera.sensor)


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

    images    (M, H0, W0) in [0, 1]
    workers   threads; None: one a processor

    Image i has its noise from the seed pair (seed, i), so its events depend neither on `workers`
    nor on what else is simulated.
    """
    stack = np.asarray(images)
    if stack.ndim != 3:
        raise UsageError(f"simulate_many: images must be (M, H0, W0), got shape {stack.shape}")
    chosen = [int(i) for i in (range(len(stack)) if indices is None else indices)]
    threads = (os.cpu_count() or 1) if workers is None else workers

    def one(index: int) -> Events:
        return simulate(stack[index], path, camera, seed=(seed, index))

    return map_ahead(one, chosen, threads, ahead=4)

"""The event camera for a batch of images at once, as tensor operations on their device.

It gives counts in frames, by the model of `simulate`: light sampled every `substep_us`, log light
a straight line in between, a reference level and two thresholds for each pixel. On such a line a
pixel's log light L only rises or only falls, so with R its reference the number of thresholds it
crosses is known without looking for the crossings,

    n = trunc((L - R) / c),   c = the on threshold if L > R, else the off threshold;   R <- R + n c

which is n on events if n > 0 and -n off events if n < 0. Where the border of a frame lies between
two samples, L at the border is on the line too and is counted up to there. So every frame has
the counts that `FixedDuration` makes of the events of `simulate`, up to rounding and to background
events, which are drawn otherwise. (Rounding matters where levels meet thresholds exactly: on a
closed path with `mismatch=0`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anystep._errors import UsageError
from anystep.data.camera.simulate import Camera, Trajectory, sample_times, thresholds_of
from anystep.data.frames import FixedDuration


def turned(path: Trajectory, degrees: float, *, mirrored: bool = False) -> Trajectory:
    """`path` turned clockwise about the centre of the sensor; if `mirrored`, dy -> -dy before that.

    (dx, dy) -> (c dx - s dy, s dx + c dy) with c, s the cosine and sine of the angle. A circle
    turned is that circle begun elsewhere, and mirrored it runs the other way round.

    >>> turned(Trajectory((0, 10), (0.0, 1.0), (0.0, 0.0)), 90).dy
    (0.0, 1.0)
    """
    angle = math.radians(degrees)
    dx, dy = np.asarray(path.dx), np.asarray(path.dy) * (-1 if mirrored else 1)
    right = math.cos(angle) * dx - math.sin(angle) * dy
    down = math.sin(angle) * dx + math.cos(angle) * dy
    return Trajectory(path.times_us, tuple(right.tolist()), tuple(down.tolist()))


def _check_images(images: Tensor) -> None:
    if images.dim() != 3 or 0 in images.shape:
        got = f"got shape {tuple(images.shape)}"
        raise UsageError(f"simulate_batch: images must be (N, H0, W0), each >= 1, {got}")
    if images.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"simulate_batch: images must be float32 or float64, got {images.dtype}")
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):
        raise UsageError(f"simulate_batch: images must lie in [0, 1], got {low:g} to {high:g}")


def _check_paths(
    path: Trajectory | Sequence[Trajectory], n: int
) -> tuple[tuple[Trajectory, ...], int]:
    """One path for all, or one for each of n images, and how long it takes."""
    if isinstance(path, Trajectory):
        return (path,), path.duration_us
    if len(path) != n:
        rule = f"path must be one or one for each of {n} images"
        raise UsageError(f"simulate_batch: {rule}, got {len(path)}")
    durations = sorted({each.duration_us for each in path})
    if len(durations) > 1:
        got = f"{durations[0]} to {durations[-1]} us"
        raise UsageError(f"simulate_batch: all paths must have one duration, got {got}")
    return tuple(path), durations[0]


def _pieces(start: int, end: int, steps: int, length: int) -> Iterator[tuple[int, int]]:
    """The substep [start, end) cut at the borders of frames: (frame, end of the piece) of each."""
    for frame in range(start // length, min((end - 1) // length + 1, steps)):
        yield frame, min(end, (frame + 1) * length)


@dataclass(frozen=True)
class _Axis:
    """Kept rows (or columns): the light at one lies between index[near] and index[far]."""

    index: NDArray[np.int64]
    near: slice
    far: slice
    whole: bool

    @property
    def kept(self) -> NDArray[np.int64]:
        return self.index[self.near]


def _axis(side: int, size: int | None) -> _Axis:
    if size is None:
        return _Axis(np.arange(side + 1), slice(None, -1), slice(1, None), True)
    kept = np.arange(size) * side // size
    return _Axis(np.concatenate([kept, kept + 1]), slice(None, size), slice(size, None), False)


def _log_light(
    images: Tensor,
    paths: Sequence[Trajectory],
    times: NDArray[np.int64],
    camera: Camera,
    axes: Sequence[_Axis],
) -> Iterator[Tensor]:
    """log(light + floor) (N, h, w) at each of the times.

    In two tensors by turns: the one before last is overwritten. Pixel (y, x) sees the canvas at
    (y, x) + margin - (dy, dx): between four pixels, a whole number of pixels away.
    """
    moved = [np.stack(path.at(times)[::-1], axis=-1) for path in paths]
    offsets = np.stack(moved, axis=1)  # (K, 1 or N, 2)
    margin = math.ceil(float(np.abs(offsets).max())) + 1
    high, wide = (side + 2 * margin for side in camera.sensor)
    around = zip(camera.sensor, images.shape[1:], strict=True)
    top, left = (margin + (side - own) // 2 for side, own in around)
    sides = (left, wide - left - images.shape[2], top, high - top - images.shape[1])
    # A negative side cuts. The floor goes where the image goes, so it is added before all that.
    canvas = F.pad(images, sides) + camera.floor
    whole = np.floor(margin - offsets).astype(np.int64)
    fraction = torch.tensor(margin - offsets - whole, dtype=images.dtype, device=images.device)
    part = fraction[..., None, None]
    rows, columns = axes
    starts = whole[..., 0] * wide + whole[..., 1] + np.arange(len(images)) * (high * wide)  # (K, N)
    first = torch.tensor(starts[..., None], device=images.device)
    below, beside = (torch.tensor(axis.index, device=images.device) for axis in axes)
    # What a row of the sensor sees, from every place on.
    stretches = canvas.flatten().unfold(0, camera.sensor[1] + 1, 1)
    levels = images.new_empty(2, len(images), len(rows.kept), len(columns.kept))
    for k in range(len(times)):
        light = stretches.index_select(0, (first[k] + below * wide).view(-1))
        light = light.view(len(images), len(below), -1)
        down, right = part[k].unbind(1)
        light = torch.lerp(light[:, rows.near], light[:, rows.far], down)
        if not columns.whole:
            light = light.gather(2, beside.expand(*light.shape[:2], -1))
        near, far = light[..., columns.near], light[..., columns.far]
        yield torch.lerp(near, far, right, out=levels[k % 2]).log_()


def _count(
    levels: Iterator[Tensor],
    times: Sequence[int],
    thresholds: NDArray[np.float64],
    frames: Tensor,
    length: int,
) -> None:
    """Add to `frames` (T, N, 2, h, w) the events between the levels (N, h, w) at the times."""
    off, on = torch.tensor(thresholds, dtype=frames.dtype, device=frames.device)
    before = next(levels)
    reference, change, risen, fallen = before.clone(), *(torch.empty_like(before) for _ in range(3))
    for start, end, after in zip(times[:-1], times[1:], levels, strict=True):
        for frame, stop in _pieces(start, end, len(frames), length):
            passed = (stop - start) / (end - start)
            seen = after if stop == end else torch.lerp(before, after, passed)
            torch.sub(seen, reference, out=change)
            torch.div(change, on, out=risen).clamp_(min=0).trunc_()
            torch.div(change, off, out=fallen).clamp_(max=0).trunc_()
            # One of the two is 0: no branch, and no torch.where, which is slow.
            reference.addcmul_(risen, on).addcmul_(fallen, off)
            frames[frame, :, 1] += risen
            frames[frame, :, 0] -= fallen
        before = after


def _add_background(
    frames: Tensor, covered_us: int, length: int, noise_hz: float, generator: torch.Generator
) -> Tensor:
    """Add background events, a Poisson number of them, uniform in time, place and polarity.

    That is a Poisson process in every pixel, as in `simulate`.
    """
    cells, device = frames[0].numel(), generator.device
    expected = noise_hz * cells / 2 * covered_us * 1e-6
    mean = torch.tensor(expected, dtype=torch.float64, device=device)
    count = int(torch.poisson(mean, generator=generator))
    step = torch.randint(covered_us, (count,), generator=generator, device=device) // length
    place = step * cells + torch.randint(cells, (count,), generator=generator, device=device)
    frames.view(-1).scatter_add_(0, place.to(frames.device), frames.new_ones(count))
    return frames


@torch.no_grad()
def simulate_batch(
    images: Tensor,
    path: Trajectory | Sequence[Trajectory],
    camera: Camera,
    *,
    binning: FixedDuration,
    generator: torch.Generator,
    size: int | None = None,
) -> Tensor:
    """What `camera` counts in the frames of `binning`: (T, N, 2, H, W), off events in plane 0.

    images      (N, H0, W0) in [0, 1], float32 or float64: in the middle of the sensor (H, W) and,
                if larger, beyond it, as in `simulate`. The frames have their type and device
    path        along which each image moves: one for all, or one for each, of one duration; frames
                after its end are 0
    generator   on any device, draws the background events of the whole batch: a Poisson process as
                in `simulate`, not the same events
    size        the frames are (T, N, 2, size, size), those of the sensor made smaller by `resize`
                and "nearest"; the pixels that this leaves out are not simulated

    A coarser `camera.substep_us` takes less time and sees less of the motion.
    """
    _check_images(images)
    if not isinstance(binning, FixedDuration) or binning.steps is None:
        rule = "binning must be FixedDuration with a number of steps"
        raise UsageError(f"simulate_batch: {rule}, got {binning!r}")
    most = min(camera.sensor)
    if size is not None and not 1 <= size <= most:
        raise UsageError(f"simulate_batch: size must be None or in 1..{most}, got {size}")
    paths, duration_us = _check_paths(path, len(images))
    rows, columns = (_axis(side, size) for side in camera.sensor)
    length = binning.duration_us
    end_us = binning.steps * length
    times = sample_times(duration_us, camera.substep_us)
    times = times[: np.searchsorted(times, end_us) + 1]  # up to the end of the last frame
    thresholds = thresholds_of(camera)[:, rows.kept[:, None], columns.kept]
    frames = images.new_zeros(binning.steps, len(images), *thresholds.shape)
    levels = _log_light(images, paths, times, camera, (rows, columns))
    _count(levels, times.tolist(), thresholds, frames, length)
    return _add_background(frames, min(duration_us, end_us), length, camera.noise_hz, generator)

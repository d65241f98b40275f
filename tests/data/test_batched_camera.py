from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from anystep.data.camera.batched import simulate_batch, turned
from anystep.data.camera.cifar10_sim import CAMERA, MOTIONS, light_of
from anystep.data.camera.simulate import Camera, Trajectory, saccade, simulate
from anystep.data.frames import FixedDuration, resize

QUIET = Camera(sensor=(11, 13), threshold=0.15, mismatch=0.1, noise_hz=0.0, floor=0.05)
PATH = saccade(60_000)


PATHS = [PATH, [turned(PATH, 50 * k, mirrored=k == 1) for k in range(3)]]
STILL = Trajectory((0, 500_000), (0.0, 0.0), (0.0, 0.0))


def pictures(count=3, *, height=9, width=8, seed=0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    shape = count, height, width
    return torch.from_numpy(rng.random(shape) * (rng.random(shape) < 0.7))


def chance(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filmed(images, path=PATH, camera=QUIET, *, steps=6, duration_us=10_000, seed=0, size=None):
    """Frames (T, N, 2, H, W)."""
    binning = FixedDuration(steps, duration_us)
    return simulate_batch(images, path, camera, binning=binning, generator=chance(seed), size=size)


def exact(images, path=PATH, camera=QUIET, *, steps=6, duration_us=10_000) -> np.ndarray:
    """The events of `simulate` in frames (T, N, 2, H, W)."""
    frames = np.zeros((steps, len(images), 2, *camera.sensor))
    paths = [path] * len(images) if isinstance(path, Trajectory) else path
    for n, (image, way) in enumerate(zip(images, paths, strict=True)):
        events = simulate(image.numpy(), way, camera, seed=0)
        events = events.until(steps * duration_us)
        np.add.at(frames[:, n], (events.t // duration_us, events.p, events.y, events.x), 1)
    return frames


def random_path(seed: int, duration_us: int) -> Trajectory:
    rng = np.random.default_rng(seed)
    between = sorted(rng.choice(np.arange(1, duration_us), 4, replace=False).tolist())
    shifts = (tuple(rng.normal(0, 2, 6).tolist()) for _ in range(2))
    return Trajectory((0, *between, duration_us), *shifts)


# all but the first image are larger than the sensor of 11 x 13
SIZES = [(0, (9, 8)), (1, (14, 9)), (2, (11, 40)), (3, (25, 31))]


@pytest.mark.parametrize(("seed", "size"), SIZES)
@pytest.mark.parametrize("substep_us", [700, 1000, 5000])
def test_the_counts_are_those_of_the_events_even_if_borders_fall_between(seed, size, substep_us):
    path, camera = random_path(seed, 40_003), replace(QUIET, substep_us=substep_us, seed=seed)
    images = pictures(height=size[0], width=size[1], seed=seed)
    expected = exact(images, path, camera, steps=7, duration_us=6_001)
    assert expected.sum() > 1000
    frames = filmed(images, path, camera, steps=7, duration_us=6_001)
    assert frames.dtype == torch.float64
    assert np.array_equal(frames.numpy(), expected)


def test_in_float32_a_count_differs_only_where_a_level_meets_a_threshold_within_rounding():
    images = pictures(8)
    expected = torch.from_numpy(exact(images).astype(np.float32))
    frames = filmed(images.float())
    assert frames.dtype == torch.float32
    assert expected.sum() > 10_000
    assert (frames - expected).abs().sum() <= 1e-3 * expected.sum()
    assert (frames.sum((0, 2)) - expected.sum((0, 2))).abs().max() <= 2


def test_a_falling_edge_is_counted_by_hand():
    # log light falls by log(1.2 / 0.2) = 1.7918 in a straight line of 1000 us: 0.5, 1.0 and 1.5 at
    # 279, 558 and 837 us
    camera = Camera(sensor=(1, 1), threshold=0.5, mismatch=0.0, noise_hz=0.0, floor=0.2)
    path = Trajectory((0, 1000), (0.0, 1.0), (0.0, 0.0))
    frames = filmed(torch.ones(1, 1, 1), path, camera, steps=4, duration_us=300)
    assert frames[:, 0, :, 0, 0].tolist() == [[1, 0], [1, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("steps", "duration_us"), [(1, 60_000), (3, 7_000), (9, 9_000), (2, 100_000), (5, 1)]
)
def test_frames_may_end_before_or_after_the_recording(steps, duration_us):
    spans = {"steps": steps, "duration_us": duration_us}
    assert np.array_equal(filmed(pictures(2), **spans).numpy(), exact(pictures(2), **spans))


def test_every_image_may_have_a_path_of_its_own():
    images, paths = pictures(3), PATHS[1]
    frames = filmed(images, paths)
    assert np.array_equal(frames.numpy(), exact(images, paths))
    for k, path in enumerate(paths):
        assert torch.equal(filmed(images[k : k + 1], path)[:, 0], frames[:, k])


@pytest.mark.parametrize("size", [1, 4, 6, 11])
@pytest.mark.parametrize("paths", PATHS, ids=["one path", "a path each"])
def test_smaller_frames_are_those_of_the_sensor_with_pixels_left_out(paths, size):
    frames = filmed(pictures(), paths, size=size)
    assert np.array_equal(frames.numpy(), resize(exact(pictures(), paths), size, "nearest"))


def test_the_pixels_of_smaller_frames_have_background_events_of_their_own():
    camera, mean = Camera(sensor=(40, 40), noise_hz=100.0), 100.0 * 4 * 10 * 10 * 0.5
    frames = filmed(torch.zeros(4, 9, 9), STILL, camera, duration_us=100_000, size=10)
    assert abs(frames.sum() - mean) < 5 * math.sqrt(mean)


def test_a_path_turned_and_mirrored_is_that_path_by_hand():
    path = Trajectory((0, 1, 2), (1.0, 0.0, 2.0), (0.0, 1.0, 3.0))
    quarter, other = turned(path, 90), turned(path, 180, mirrored=True)
    assert np.allclose([quarter.dx, quarter.dy], [[0, -1, -3], [1, 0, 2]])
    assert np.allclose([other.dx, other.dy], [[-1, 0, -2], [0, 1, 3]])
    assert turned(path, 0) == path


def test_background_events_are_a_poisson_process_and_come_from_the_generator():
    camera, images = Camera(sensor=(20, 20), noise_hz=50.0), torch.rand(4, 20, 20)
    frames, again, other = (
        filmed(images, STILL, camera, steps=4, duration_us=150_000, seed=seed) for seed in (0, 0, 1)
    )
    mean = 50.0 * 4 * 400 * 0.5
    assert abs(frames.sum() - mean) < 5 * math.sqrt(mean)
    assert torch.equal(frames, frames.round())
    # the last frame has 50 ms of recording
    for frame, share in zip(frames, [0.3, 0.3, 0.3, 0.1], strict=True):
        sd = math.sqrt(share * (1 - share) / mean)
        assert abs(frame.sum() / frames.sum() - share) < 5 * sd
    for half in (frames[:, :2], frames[:, :, 0], frames[..., :10], frames[..., :10, :]):
        assert abs(half.sum() / frames.sum() - 0.5) < 5 * 0.5 / math.sqrt(mean)
    assert 0.9 < frames[:3].var() / frames[:3].mean() < 1.1  # Poisson
    assert torch.equal(frames, again)
    assert not torch.equal(frames, other)


def test_background_events_come_on_top_of_the_same_signal():
    images = pictures()
    added = filmed(images, camera=replace(QUIET, noise_hz=30.0)) - filmed(images)
    assert added.min() == 0
    assert added.sum() > 0


def test_nothing_is_differentiated_and_the_images_stay_as_they_were():
    images = pictures().requires_grad_()
    before = images.detach().clone()
    assert not filmed(images).requires_grad
    assert torch.equal(images, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("paths", PATHS, ids=["one path", "a path each"])
def test_the_gpu_counts_what_the_cpu_counts(paths):
    camera = replace(QUIET, noise_hz=10.0)
    frames = filmed(pictures().cuda(), paths, camera)
    assert frames.is_cuda
    assert torch.equal(frames.cpu(), filmed(pictures(), paths, camera))


def test_a_batch_sees_what_the_recordings_of_cifar10_sim_saw():
    colours = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    path, camera = MOTIONS["closed_loop"](), replace(CAMERA, noise_hz=0.0)
    images = torch.from_numpy(np.stack([light_of(each) for each in colours]))
    frames = filmed(images, path, camera, steps=10, duration_us=120_000, size=48)
    recorded = exact(images, path, camera, steps=10, duration_us=120_000)
    assert np.array_equal(frames.numpy(), resize(recorded, 48, "nearest"))

"""The event camera in `data`: one image at a time, to events; and a batch at once, to frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anystep.data.camera.batched import simulate_batch
from anystep.data.camera.cifar10_sim import CAMERA, MOTIONS, PIXELS
from anystep.data.camera.simulate import Camera, Trajectory, closed_loop, enlarge, simulate_many
from anystep.data.frames import FixedDuration
from benchmarks.measure import Contender, Rows, Setup
from benchmarks.rates import rated

STEPS = 10
SUBSTEPS_US = (1000, 5000)


def _pictures(side: int, number: int) -> NDArray[np.float64]:
    """Noise whose amplitude falls as 1/f, as that of photographs does (Field 1987), cut to [0, 1].

    Its sd of 0.15 makes about as many events as the images of CIFAR-10 do
    (docs/simulated-camera.md).
    """
    noise = np.random.default_rng(0).standard_normal((number, side, side))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = np.inf
    drawn = np.fft.ifft2(np.fft.fft2(noise) / frequency).real
    drawn = drawn / drawn.std((1, 2), keepdims=True)
    pictures: NDArray[np.float64] = np.clip(0.5 + 0.15 * drawn, 0, 1)
    return pictures


def _size(camera: Camera) -> str:
    return f"{camera.sensor[0]} x {camera.sensor[1]}"


def _event_rows(
    group: str, images: NDArray[Any], path: Trajectory, camera: Camera, setup: Setup
) -> Rows:
    """Recordings a second, with one thread and with all."""

    def film(workers: int) -> None:
        for _ in simulate_many(images, path, camera, seed=0, workers=workers):
            pass

    threads = sorted({1, torch.get_num_threads()})
    contenders = [Contender(f"simulator, {n} threads", partial(film, n), group) for n in threads]
    rows = rated(contenders, setup, "recordings", len(images))
    return [{**row, "threads": n} for row, n in zip(rows, threads, strict=True)]


def _frame_rows(
    group: str, images: NDArray[Any], path: Trajectory, camera: Camera, setup: Setup
) -> Rows:
    """Images into ten frames: the events of the simulator counted, and the batched camera on the
    device.
    """
    binning = FixedDuration(STEPS, path.duration_us // STEPS)
    batch = torch.from_numpy(images).to(setup.device)
    single = batch.float()
    threads = torch.get_num_threads()

    def exact(camera: Camera = camera) -> NDArray[Any]:
        events = simulate_many(images, path, camera, seed=0, workers=threads)
        return np.stack([binning(recording) for recording in events], axis=1)

    def batched(batch: torch.Tensor = single, camera: Camera = camera) -> torch.Tensor:
        return simulate_batch(
            batch, path, camera, binning=binning, generator=torch.Generator().manual_seed(0)
        )

    quiet = replace(camera, noise_hz=0.0)
    if not np.array_equal(batched(batch, quiet).cpu().numpy(), exact(quiet)):
        what = "the simulator and the batched camera count differently"
        raise RuntimeError(f"no time is taken: {what}")
    contenders = [
        Contender("simulator, fixed_duration", exact, group),
        Contender("batched camera", batched, group),
    ]
    return rated(contenders, setup, "recordings", len(images), threads=threads)


def camera_groups(setup: Setup) -> dict[str, Callable[[], Rows]]:
    """Images of 28 x 28 before the camera of digits-dvs, and of 32 x 32, enlarged, before that of
    cifar10-sim (1.2 s).
    """
    small = (_pictures(28, 4 if setup.quick else 32), closed_loop(), Camera((34, 34)))
    pictures = enlarge(_pictures(32, 2 if setup.quick else 16), PIXELS)
    large = (pictures, MOTIONS["closed_loop"](), CAMERA)
    groups: dict[str, Callable[[], Rows]] = {}
    for images, path, camera in (small, large):
        group = f"{len(images)} recordings, {_size(camera)}"
        groups[group] = partial(_event_rows, group, images, path, camera, setup)
    for images, path, camera in (small, large):
        for substep_us in SUBSTEPS_US:
            group = f"{len(images)} images to frames, {_size(camera)}, {substep_us} us"
            coarse = replace(camera, substep_us=substep_us)
            groups[group] = partial(_frame_rows, group, images, path, coarse, setup)
    return groups

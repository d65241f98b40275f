from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from anystep.data.camera.simulate import (
    PATHS,
    Camera,
    Trajectory,
    closed_loop,
    path_of,
    saccade,
    simulate,
    simulate_many,
    thresholds_of,
)

QUIET = Camera(noise_hz=0.0)
ONE = Camera(sensor=(1, 1), mismatch=0.0, noise_hz=0.0, floor=0.05)


def still(duration_us: int) -> Trajectory:
    return Trajectory((0, duration_us), (0.0, 0.0), (0.0, 0.0))


def columns(events) -> list[tuple[int, int, int, int]]:
    return list(zip(*(getattr(events, name).tolist() for name in "tyxp"), strict=True))


def light_at(image: np.ndarray, row: float, column: float) -> float:
    """The image as a sum of tents, with no canvas and no corner cases."""
    return sum(
        image[i, j] * max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j))
        for i in range(image.shape[0])
        for j in range(image.shape[1])
    )


def slow_camera(image: np.ndarray, path: Trajectory, camera: Camera) -> list[tuple[int, ...]]:
    """One pixel after the other, one sample after the other, from the definition."""
    height, width = camera.sensor
    off, on = thresholds_of(camera)
    samples = [*range(0, path.duration_us, camera.substep_us), path.duration_us]
    rows, columns = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    found = []
    for y in range(height):
        for x in range(width):
            levels = []
            for t in samples:
                dx, dy = np.interp(t, path.times_us, path.dx), np.interp(t, path.times_us, path.dy)
                levels.append(
                    math.log(light_at(image, y - dy - rows, x - dx - columns) + camera.floor)
                )
            reference = levels[0]
            for k in range(1, len(samples)):
                while levels[k] - reference >= on[y, x] or reference - levels[k] >= off[y, x]:
                    rising = levels[k] > reference
                    reference += on[y, x] if rising else -off[y, x]
                    share = (reference - levels[k - 1]) / (levels[k] - levels[k - 1])
                    t = samples[k - 1] + math.floor(share * (samples[k] - samples[k - 1]))
                    found.append((min(t, samples[k] - 1), y, x, int(rising)))
    return sorted(found)


# the last three are larger than the sensor of 6 x 7
SIZES = [(4, 3)] * 6 + [(9, 10), (3, 20), (20, 7)]


@pytest.mark.parametrize(("seed", "size"), list(enumerate(SIZES)))
def test_the_simulator_agrees_with_a_slow_camera_event_for_event(seed, size):
    rng = np.random.default_rng(seed)
    image = rng.random(size) * (rng.random(size) < 0.7)
    times = (0, *sorted(rng.choice(np.arange(1, 20_000), 4, replace=False).tolist()), 20_003)
    path = Trajectory(times, *(tuple(rng.normal(0, 2, 6).tolist()) for _ in range(2)))
    camera = replace(ONE, sensor=(6, 7), threshold=0.15, mismatch=0.1, substep_us=700, seed=seed)
    expected = slow_camera(image, path, camera)
    assert len(expected) > 100
    assert columns(simulate(image, path, camera, seed=0)) == expected


def test_a_falling_edge_crosses_by_hand():
    # light 1 -> 0 in one substep of 1000 us: log light falls by log(1.2 / 0.2) = 1.7918 in a
    # straight line, and 0.5, 1.0 and 1.5 are reached at 279.06, 558.11 and 837.17 us; one whole
    # crossing, at 1000 us, is still inside the recording
    path = Trajectory((0, 1000), (0.0, 1.0), (0.0, 0.0))
    for threshold, times in ((0.5, [279, 558, 837]), (math.log(1.2) - math.log(0.2), [999])):
        camera = replace(ONE, threshold=threshold, floor=0.2)
        events = columns(simulate([[1.0]], path, camera, seed=0))
        assert events == [(t, 0, 0, 0) for t in times]


def test_a_still_image_sends_only_background_events():
    image = np.random.default_rng(0).random((20, 20))
    assert len(simulate(image, still(300_000), QUIET, seed=0)) == 0
    events = simulate(image, still(1_000_000), Camera(noise_hz=5.0), seed=0)
    mean = 5.0 * 34 * 34
    assert abs(len(events) - mean) < 5 * math.sqrt(mean)
    for half in (events.p == 1, events.t < 500_000, events.x < 17, events.y < 17):
        assert abs(half.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(events))


def test_a_long_row_of_events_at_one_pixel_is_exact_to_the_last():
    # the band that skips logarithms is kept by products: after thousands of crossings it must still
    # let every one through
    camera = replace(ONE, threshold=0.01, floor=0.001)
    there_and_back = Trajectory(
        tuple(range(0, 41_000, 1000)), tuple(float(k % 2) for k in range(41)), (0.0,) * 41
    )
    events = simulate([[1.0]], there_and_back, camera, seed=0)
    expected = slow_camera(np.array([[1.0]]), there_and_back, camera)
    assert len(expected) > 20_000
    assert columns(events) == expected


def test_background_events_come_on_top_of_the_same_signal():
    image = np.random.default_rng(0).random((10, 10))
    signal = columns(simulate(image, saccade(30_000), QUIET, seed=1))
    together = columns(simulate(image, saccade(30_000), Camera(noise_hz=20.0), seed=1))
    assert set(signal) < set(together)


def test_one_seed_gives_one_recording_in_order_and_another_seed_other_noise():
    image = np.random.default_rng(0).random((10, 10))
    one, same, other = (
        columns(simulate(image, saccade(), Camera(), seed=seed)) for seed in (3, 3, 4)
    )
    assert one == same == sorted(one)
    assert one != other
    assert 0 <= one[0][0] <= one[-1][0] < 300_000


def test_a_camera_is_its_seed_and_has_off_and_on_thresholds_of_their_own():
    off, on = thresholds_of(Camera((60, 60), threshold=0.2, mismatch=0.05))
    again, other = (thresholds_of(Camera((60, 60), mismatch=0.05, seed=seed)) for seed in (0, 1))
    assert np.array_equal(again, [off, on])
    assert not np.array_equal(other, again)
    for each in (off, on):
        assert abs(each.mean() - 0.2) < 0.2 * 0.05 * 5 / 60
        assert abs(each.std() / 0.2 - 0.05) < 0.005
    assert abs(np.corrcoef(off.ravel(), on.ravel())[0, 1]) < 5 / 60


def test_the_two_halves_of_a_closed_loop_see_the_same_motion():
    path = closed_loop()
    assert path.duration_us == 300_000
    times = np.arange(0, 150_001, 250)
    for first, second in zip(path.at(times), path.at(times + 150_000), strict=True):
        assert np.array_equal(first, second)
    assert np.allclose(np.hypot(*path.at(np.arange(0, 300_001, 1000))), 3.0)


def test_the_two_halves_of_a_closed_loop_give_the_same_events_once_the_references_have_settled():
    # without mismatch and noise the second and the third loop start from the same references
    camera = Camera(mismatch=0.0, noise_hz=0.0)
    image = np.random.default_rng(0).random((12, 12))
    events = np.array(columns(simulate(image, closed_loop(450_000, loops=3), camera, seed=0)))
    first, second, third = (
        np.sum((events[:, 0] >= a) & (events[:, 0] < a + 150_000)) for a in (0, 150_000, 300_000)
    )
    assert abs(second / first - 1) < 0.1
    assert abs(third / second - 1) < 0.01


def test_a_saccade_has_three_legs_and_comes_back():
    dx, dy = saccade(size=4.0).at(np.array([0, 100_000, 200_000, 300_000]))
    assert dx.tolist() == [-2, 0, 2, -2]
    assert dy.tolist() == [-2, 2, -2, -2]


def test_many_images_do_not_depend_on_the_workers_or_on_their_company():
    images = np.random.default_rng(0).random((9, 12, 12))

    def filmed(**options):
        recordings = simulate_many(images, saccade(60_000), Camera(), seed=5, **options)
        return [columns(each) for each in recordings]

    one = filmed(workers=1)
    assert one == filmed(workers=2)
    assert filmed(indices=[7, 2]) == [one[7], one[2]]
    assert one[7] == columns(simulate(images[7], saccade(60_000), Camera(), seed=[5, 7]))


def test_a_reader_that_stops_early_stops_the_workers():
    recordings = simulate_many(np.zeros((500, 4, 4)), still(1000), Camera(), seed=0, workers=2)
    assert len(next(recordings)) >= 0
    recordings.close()
    with pytest.raises(StopIteration):
        next(recordings)


def test_every_path_takes_300_milliseconds_and_is_named_with_an_underscore_or_a_hyphen():
    assert all(make().duration_us == 300_000 for make in PATHS.values())
    assert path_of("closed-loop") == path_of("closed_loop") == closed_loop()

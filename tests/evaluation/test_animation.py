"""A recording as a GIF: the right events at the right time, in the right colours."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from anystep.data.readers import read_events
from anystep.data.recording import Events
from anystep.evaluation.figures import animation
from anystep.evaluation.figures.animation import animate

# On in one corner, 45 ms later off in the other, and on again at the end of 100 ms.
CORNERS = Events.from_arrays([5_000, 50_000, 104_999], [0, 3, 1], [0, 1, 1], [1, 0, 1], (2, 4))
HOUR = Events.from_arrays([0, 3_600_000_000 - 1], [0, 1], [0, 0], [0, 1], (1, 2))
LARGE = Events.from_arrays([7], [0], [0], [0], (32767, 32767))
SCALE = 512 // 4


def frames_of(path: Path):
    """[(RGB (H, W, 3), shown for ms)]."""
    with Image.open(path) as film:
        pictures = ImageSequence.Iterator(film)
        return [(np.asarray(p.convert("RGB")).astype(int), p.info["duration"]) for p in pictures]


def pixel(frame, x, y):
    """The colour of a pixel of the sensor: all of its square has it."""
    square = frame[y * SCALE : (y + 1) * SCALE, x * SCALE : (x + 1) * SCALE].reshape(-1, 3)
    assert (square == square[0]).all()
    return square[0].tolist()


def test_every_event_is_seen_in_its_frame_and_in_no_other(tmp_path):
    assert animate(CORNERS, tmp_path / "a.gif") == 5
    frames = frames_of(tmp_path / "a.gif")
    assert [shown for _, shown in frames] == [20] * 5
    for index, (frame, _) in enumerate(frames):
        assert frame.shape == (2 * SCALE + animation.LINE, 4 * SCALE, 3)
        colours = {(x, y): pixel(frame, x, y) for x in range(4) for y in range(2)}
        lit = {place: own for place, own in colours.items() if own != [255] * 3}
        assert list(lit) == {0: [(0, 0)], 2: [(3, 1)], 4: [(1, 1)]}.get(index, [])
        for place, (red, _, blue) in lit.items():
            assert (red > blue) == (place != (3, 1))


def test_more_events_are_darker_and_a_hot_pixel_hides_nothing(tmp_path):
    x = np.repeat(np.arange(200), [5_000] + [6] * 49 + [3] * 150)
    events = Events.from_arrays(np.zeros(len(x)), x, np.zeros(len(x)), np.ones(len(x)), (1, 200))
    animate(events, tmp_path / "a.gif")
    row = frames_of(tmp_path / "a.gif")[0][0][0, ::2]
    assert (row[0] == row[1]).all()
    assert row[1].sum() < row[60].sum() < 700


@pytest.mark.parametrize(
    ("slow", "frame_us"), [(1, None), (1, 25_000), (10, None), (3, 7_000), (0.5, 40_000)]
)
def test_the_film_takes_as_long_as_it_is_said_to(tmp_path, slow, frame_us):
    count = animate(CORNERS, tmp_path / "a.gif", slow=slow, frame_us=frame_us)
    shown = [each for _, each in frames_of(tmp_path / "a.gif")]
    step = frame_us or 20_000 / slow
    assert len(shown) == count == np.ceil(100_000 / step)
    assert sum(shown) == pytest.approx(count * step * slow / 1000, abs=5)


def test_a_long_recording_gets_longer_frames_and_not_more_and_one_event_is_a_film(tmp_path):
    assert animate(HOUR, tmp_path / "a.gif") == animation.MOST_FRAMES
    assert animate(CORNERS.head(1), tmp_path / "a.gif") == len(frames_of(tmp_path / "a.gif")) == 1


def test_the_words_below_change_and_stay_on_their_line(tmp_path):
    animate(CORNERS, tmp_path / "a.gif")
    below = [frame[2 * SCALE + 1 :] for frame, _ in frames_of(tmp_path / "a.gif")]
    assert all((each < 100).any() for each in below)
    assert all((one != other).any() for one, other in pairwise(below))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"frame_us": 19_999}, "frame_us must be >= 20000, got 19999"),
        ({"frame_us": 1_000, "slow": 10}, "frame_us must be >= 2000, got 1000"),
        ({"events": HOUR, "frame_us": 20_000}, "frame_us must be >= 12000000, got 20000"),
        ({"slow": 0}, "slow must be a finite number > 0, got 0"),
        ({"slow": float("nan")}, "slow must be a finite number > 0, got nan"),
        ({"events": CORNERS.head(0)}, "the recording has no events"),
        ({"events": LARGE}, r"sensor must have at most 4,194,304 pixels, got \(32767, 32767\)"),
    ],
)
def test_what_no_viewer_can_show_is_refused_before_memory_is_taken(tmp_path, given, word):
    with pytest.raises(ValueError, match=word):
        animate(**{"events": CORNERS, "path": tmp_path / "a.gif", **given})
    assert list(tmp_path.iterdir()) == []


REAL = os.environ.get("ANYSTEP_DATA")


@pytest.mark.skipif(not REAL, reason="ANYSTEP_DATA does not name a folder with NMNIST")
def test_a_real_recording_becomes_a_film_of_its_length(tmp_path):
    events = read_events(f"{REAL}/NMNIST/Train/5/00001.bin")
    assert animate(events, tmp_path / "five.gif") == 16
    assert sum(shown for _, shown in frames_of(tmp_path / "five.gif")) == 320

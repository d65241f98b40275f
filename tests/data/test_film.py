from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anystep.data.camera import film
from anystep.data.camera.film import Setting, encode_bin, film_images
from anystep.data.camera.simulate import Camera, saccade
from anystep.data.events.layouts import filmed
from anystep.data.readers import read_events
from anystep.data.recording import Events

IMAGES = np.random.default_rng(0).random((6, 9, 9))
IDS = [f"{group}/{number}" for group in ("cat", "dog") for number in range(3)]


def setting(**changes) -> Setting:
    camera = Camera(sensor=(12, 12), noise_hz=20.0, **changes)
    return Setting(saccade(30_000), camera, seed=3, source={"images": "noise"})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def columns(events: Events) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))


def test_an_event_is_five_bytes_by_hand():
    # t = 70000 = 0x011170, polarity in the highest bit of the three bytes of time
    events = Events.from_arrays([5, 70_000], [127, 3], [2, 255], [0, 1], (256, 128))
    assert encode_bin(events).tolist() == [127, 2, 0x00, 0x00, 0x05, 3, 255, 0x81, 0x11, 0x70]


@given(st.data())
def test_the_reader_gives_back_what_was_written(tmp_path_factory, data):
    count = data.draw(st.integers(1, 30))
    numbers = {
        most: data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count))
        for most in ((1 << 23) - 1, 255, 254, 1)
    }
    t, x, y, p = numbers.values()
    rows = [each + (each >= 240) for each in y]
    events = Events.from_arrays(sorted(t), x, rows, p, (256, 256))
    path = tmp_path_factory.mktemp("bin") / "a.bin"
    encode_bin(events).tofile(path)
    assert columns(read_events(path, sensor=(256, 256))) == columns(events)


def test_a_film_has_the_events_of_the_camera_whatever_else_is_filmed(tmp_path):
    made = []
    whole, tell = tmp_path / "whole", lambda *counts: made.append(counts)
    summary = film_images(IMAGES, IDS, whole, setting(), workers=2, progress=tell)
    assert made == [(k, 6) for k in range(7)]
    for image, name in zip(IMAGES, IDS, strict=True):
        events = read_events(whole / f"{name}.bin", sensor=(12, 12))
        assert columns(events) == columns(setting().shoot(image, name))
    sizes = [(whole / f"{name}.bin").stat().st_size for name in IDS]
    assert (summary["recordings"], summary["made"], summary["bytes"]) == (6, 6, sum(sizes))
    assert summary["events"] * 5 == summary["bytes"] == summary["estimated_bytes"]
    film_images(lambda i: IMAGES[4 - i], IDS[4:2:-1], tmp_path / "part", setting(), workers=1)
    part = {f"{name}.bin": (whole / f"{name}.bin").read_bytes() for name in IDS[3:5]}
    assert part.items() <= contents(tmp_path / "part").items()


def test_recordings_of_one_image_differ_in_their_noise_and_seeds_too():
    other = Setting(setting().path, setting().camera, seed=4, source={})
    one, same, renamed = (
        columns(setting().shoot(IMAGES[0], name)) for name in ("a/0", "a/0", "a/1")
    )
    assert one == same
    assert one != renamed
    assert one != columns(other.shoot(IMAGES[0], "a/0"))


def test_a_killed_film_leaves_whole_recordings_and_goes_on(tmp_path):
    film_images(IMAGES, IDS, tmp_path / "whole", setting())
    whole, out = contents(tmp_path / "whole"), tmp_path / "killed"
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})
import test_film
from anystep.data.camera.film import film_images
kill = lambda done, _: done == 2 and os.kill(os.getpid(), signal.SIGKILL)
images, ids, told = test_film.IMAGES, test_film.IDS, test_film.setting()
film_images(images, ids, {os.fspath(out)!r}, told, workers=2, progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    found = {name: content for name, content in contents(out).items() if name.endswith(".bin")}
    assert len(found) >= 2
    assert found.items() <= whole.items()
    with pytest.raises(ValueError, match=r"of the 6 recordings .* the filming was stopped"):
        filmed(out, ("cat", "dog"))
    written = {name: (out / name).stat().st_mtime_ns for name in found}
    assert film_images(IMAGES, IDS, out, setting())["made"] == 6 - len(found)
    assert written == {name: (out / name).stat().st_mtime_ns for name in found}
    assert whole.items() <= contents(out).items()
    assert [sample.id for sample in filmed(out, ("cat", "dog"))] == IDS
    assert film_images(IMAGES, IDS, out, setting())["made"] == 0


def test_a_recording_cut_by_something_else_is_filmed_again(tmp_path):
    film_images(IMAGES, IDS, tmp_path, setting())
    before = contents(tmp_path)
    (tmp_path / "cat" / "1.bin").write_bytes(before["cat/1.bin"][:-2])
    assert film_images(IMAGES, IDS, tmp_path, setting())["made"] == 1
    assert contents(tmp_path) == before


def test_a_film_grows_and_never_forgets_its_length(tmp_path):
    film_images(IMAGES[:2], IDS[:2], tmp_path, setting())
    film_images(IMAGES, IDS, tmp_path, setting())
    film_images(IMAGES[:2], IDS[:2], tmp_path, setting())
    assert json.loads((tmp_path / "camera.json").read_text())["recordings"] == 6
    assert [sample.label for sample in filmed(tmp_path, ("cat", "dog"))] == [0, 0, 0, 1, 1, 1]


CAMERA, NOISE = setting().camera, {"images": "noise"}
OTHERS = [
    (setting(threshold=0.3), "was filmed with camera.threshold = 0.2, asked for is 0.3"),
    (Setting(saccade(30_000), CAMERA, 4, NOISE), "was filmed with seed = 3, asked for is 4"),
    (Setting(saccade(30_001), CAMERA, 3, NOISE), "path.duration_us = 30000, asked for is 30001"),
    (Setting(saccade(30_000, size=1.0), CAMERA, 3, NOISE), "was filmed with path.hash = "),
    (Setting(saccade(30_000), CAMERA, 3, {}), "source.images = 'noise', asked for is None"),
]


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_a_folder_filmed_otherwise_is_refused_by_name(tmp_path, other, message):
    film_images(IMAGES, IDS, tmp_path, setting())
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        film_images(IMAGES, IDS, tmp_path, other)
    assert contents(tmp_path) == before


def test_recordings_that_nobody_described_are_refused(tmp_path):
    film_images(IMAGES, IDS, tmp_path, setting())
    (tmp_path / "camera.json").unlink()
    with pytest.raises(ValueError, match=r"holds recordings but no camera\.json"):
        film_images(IMAGES, IDS, tmp_path, setting())
    for text, message in (("{", "no JSON"), ("{}", "must hold the settings of a film")):
        (tmp_path / "camera.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            filmed(tmp_path, ("cat", "dog"))


def test_a_disk_without_room_is_refused_before_the_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(film.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"6 recordings need about .* 0 MB are free") as caught:
        film_images(IMAGES, IDS, tmp_path, setting())
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit for the size of files")
def test_a_disk_that_fills_up_in_the_last_bytes_of_a_recording_is_no_success(tmp_path):
    code = f"""
import resource, signal
from pathlib import Path
import numpy as np
from anystep.data.camera.film import _write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
_write(Path({str(tmp_path / "a.bin")!r}), np.zeros(10_000, np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"cannot write the recording {tmp_path / 'a.bin'}" in done.stderr
    assert not list(tmp_path.iterdir())

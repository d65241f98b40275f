from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from image_trees import TREES, cifar10_binary, cifar10_python, cifar_images

from anystep.data.camera.cifar10_sim import (
    CAMERA,
    MOTIONS,
    PIXELS,
    RADIUS,
    SENSOR,
    _cifar10_images,
    light_of,
)
from anystep.data.camera.simulate import PATHS, Camera, simulate
from anystep.data.datasets import load_dataset
from anystep.data.filming import pictures_of, simulate_dataset
from anystep.data.frames import Direct, FixedDuration
from anystep.data.images.cifar import CIFAR10_CLASSES
from anystep.data.readers import read_events

LIVE = FixedDuration(10, 30_000)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """CIFAR-10 is decoded into the default cache, which must not be the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return cifar10_binary(tmp_path_factory.mktemp("cifar10"))


@pytest.fixture(scope="module")
def film(tmp_path_factory, release) -> Path:
    """Six images a class, moved by a saccade, which takes a quarter of the time."""
    out = tmp_path_factory.mktemp("film")
    simulate_dataset(root=release, out=out, path="saccade", per_class=6, workers=2)
    return out


def test_the_images_of_a_class_come_in_the_order_of_the_hash_of_their_content(release):
    images, labels = cifar_images(10)["train"]
    choice = _cifar10_images(release, 4)
    assert choice.ids == [f"{name}/{k}" for name in CIFAR10_CLASSES for k in range(4)]

    def order(i):
        content = hashlib.sha256(images[i].tobytes()).hexdigest()[:16]
        return hashlib.sha256(f"cifar10-sim/{content}".encode()).hexdigest()

    for label in range(10):
        members = sorted((i for i in range(len(images)) if labels[i] == label), key=order)
        for k in range(4):
            assert np.array_equal(choice.light(4 * label + k), light_of(images[members[k]]))


def test_every_form_of_cifar10_gives_the_same_images_under_the_same_names(tmp_path, release):
    one, other = _cifar10_images(release, 20), _cifar10_images(cifar10_python(tmp_path), 20)
    assert (one.ids, one.source) == (other.ids, other.source)
    assert all(np.array_equal(one.light(i), other.light(i)) for i in range(0, 200, 7))


def test_no_class_has_more_images_than_it_has(tmp_path, release):
    with pytest.raises(ValueError, match="at most 20, the images of airplane, got 21"):
        simulate_dataset(root=release, out=tmp_path, per_class=21)


def test_the_light_is_the_luma_by_hand():
    image = np.broadcast_to(np.uint8([[[100]], [[50]], [[200]]]), (3, 32, 32))
    light = light_of(image)
    assert light.shape == (PIXELS, PIXELS)
    np.testing.assert_allclose(light, (0.299 * 100 + 0.587 * 50 + 0.114 * 200) / 255)
    assert light_of(np.full((3, 32, 32), 255, np.uint8)).max() <= 1
    half = np.repeat(np.array([0, 255], np.uint8), 16) * np.ones((3, 32, 1), np.uint8)
    middle = light_of(half)[:, PIXELS // 2 - 1 : PIXELS // 2 + 1]
    assert (np.diff(light_of(half), axis=1) >= 0).all()
    np.testing.assert_allclose(middle.sum(axis=1), 1)


@pytest.mark.parametrize("path", MOTIONS)
def test_the_edge_of_the_image_is_never_seen(path):
    quiet = Camera(sensor=SENSOR, substep_us=CAMERA.substep_us, noise_hz=0.0)
    assert len(simulate(np.ones((PIXELS, PIXELS)), MOTIONS[path](), quiet, seed=0)) == 0
    assert len(simulate(np.ones((PIXELS - 2, PIXELS - 2)), MOTIONS[path](), quiet, seed=0)) > 0


def test_the_motions_are_the_paths_at_the_scale_of_the_sensor():
    assert set(MOTIONS) == set(PATHS)
    loop = MOTIONS["closed_loop"]()
    assert loop.duration_us == 1_200_000
    assert SENSOR[0] + 2 * RADIUS == PIXELS
    dx, dy = loop.at(np.arange(0, 1_200_001, 1000))
    np.testing.assert_allclose(np.hypot(dx, dy), RADIUS, rtol=1e-3)
    assert np.allclose(dx[:200], dx[1000:1200])  # six loops of 200 ms
    assert np.allclose(dy[:600], dy[600:1200])


def test_the_row_counts_every_event_of_every_file(tmp_path, film):
    options = {"root": film, "protocol": "fold-1-of-6@0", "cache": tmp_path}
    splits = load_dataset("cifar10-sim", binning=LIVE, **options)
    assert (splits.classes, splits.causal) == (CIFAR10_CLASSES, True)
    names = set()
    for part in (splits.train, splits.val, splits.test):
        for name, (frames, label) in zip(part.ids, part, strict=True):
            events = read_events(film / f"{name}.bin", sensor=SENSOR)
            assert CIFAR10_CLASSES[label] == name.split("/")[0]
            assert frames.shape == (10, 2, *SENSOR)
            assert frames[3].sum() == np.sum((events.t >= 90_000) & (events.t < 120_000))
            assert frames.sum() == len(events)
            names.add(name)
    assert names == {f"{name}/{k}" for name in CIFAR10_CLASSES for k in range(6)}


def test_a_closed_loop_lasts_as_long_as_camera_json_says(tmp_path, release):
    simulate_dataset(root=release, out=tmp_path, path="closed-loop", per_class=1)
    told = json.loads((tmp_path / "camera.json").read_text())
    assert told["camera"] == json.loads(json.dumps(asdict(CAMERA)))
    assert (told["recordings"], told["path"]["duration_us"]) == (10, 1_200_000)
    assert told["source"].items() >= {"images": "cifar10", "moved": "closed_loop"}.items()
    for file in tmp_path.glob("*/0.bin"):
        events = read_events(file, sensor=SENSOR)
        assert 0 <= events.t[0] < 10_000
        assert 1_190_000 < events.t[-1] < 1_200_000


def test_a_film_of_few_images_is_the_beginning_of_a_larger_one_and_loses_none(
    tmp_path, release, film
):
    simulate_dataset(root=release, out=tmp_path, path="saccade", per_class=1, workers=1)
    for name in CIFAR10_CLASSES:
        assert (tmp_path / name / "0.bin").read_bytes() == (film / name / "0.bin").read_bytes()
    (tmp_path / "frog" / "0.bin").unlink()
    with pytest.raises(ValueError, match=r"holds 9 of the 10 recordings that camera.json speaks"):
        load_dataset("cifar10-sim", binning=LIVE, root=tmp_path, protocol="random-90-10@0")


@pytest.mark.parametrize("name", ["image-folder", "cub-200-2011"])
def test_any_image_set_is_filmed_each_picture_in_its_part_and_class(name, tmp_path):
    root, parted = TREES[name](tmp_path / "images"), name != "image-folder"
    wanted = {"images": name, "root": root, "out": tmp_path / "film", "path": "saccade"}
    made = simulate_dataset(**wanted, per_class=1)
    films = [file.relative_to(tmp_path / "film") for file in (tmp_path / "film").rglob("*.bin")]
    tops = {"train", "test"} if parted else {"circle", "square"}
    assert {file.parts[0] for file in films} == tops
    assert len(films) == made["recordings"] == 2 * (1 + parted)
    assert simulate_dataset(**wanted, per_class=1)["made"] == 0
    splits = load_dataset(name, binning=Direct(1), root=root, size=PIXELS)
    parts = [splits.train, splits.val, splits.test]
    seen = {light_of(part.raw(i)).tobytes() for part in parts for i in range(len(part))}
    choice = pictures_of(name, root, None)
    assert len(choice.ids) == sum(map(len, parts)) == len(seen)
    assert {choice.light(i).tobytes() for i in range(len(choice.ids))} == seen


def test_the_digits_are_filmed_without_a_folder():
    choice = pictures_of("digits", None, 20)
    assert choice.ids == [f"{digit}/{k}" for digit in range(10) for k in range(20)]
    assert choice.light(0).shape == (PIXELS, PIXELS)
    assert 0 <= choice.light(0).min() < choice.light(0).max() <= 1


def test_a_film_of_your_own_pictures_is_read_with_its_sensor_and_not_before_it_is_whole(tmp_path):
    root, film = TREES["image-folder"](tmp_path / "images"), tmp_path / "film"
    (root / "square").rename(root / "0.5 a/b".replace("/", "."))
    simulate_dataset("image-folder", root=root, out=film, path="saccade", per_class=6)
    splits = load_dataset("events-folder", binning=LIVE, root=film, cache=tmp_path)
    assert splits.classes == ("0_5_a_b", "circle")
    assert splits.train.shape[1:] == (10, 2, *SENSOR)
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 12
    (film / "circle" / "0.bin").unlink()
    with pytest.raises(ValueError, match=r"holds 11 of the 12 recordings that camera.json speaks"):
        load_dataset("events-folder", binning=LIVE, root=film, cache=tmp_path)
    (root / "circle").rename(root / "0_5_a b")
    with pytest.raises(ValueError, match=r"'0.5 a.b' and '0_5_a b' would both be .* '0_5_a_b'"):
        simulate_dataset("image-folder", root=root, out=tmp_path / "other", path="saccade")


@pytest.mark.skipif(
    not os.environ.get("ANYSTEP_DATA"), reason="ANYSTEP_DATA does not name a folder with cifar10"
)
def test_the_images_of_the_published_cifar10_are_these():
    choice = _cifar10_images(Path(os.environ["ANYSTEP_DATA"]) / "cifar10", 1000)
    assert len(choice.ids) == 10_000
    assert choice.source["hash"] == "42fb41d5b21d386d"
    events = simulate(choice.light(0), MOTIONS["closed_loop"](), CAMERA, seed=0)
    assert 5_000 < len(events) < 500_000

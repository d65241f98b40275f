from __future__ import annotations

import os
import re
import struct
import zipfile
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from event_files import csv_bytes
from event_trees import CALTECH, OPTIONS, TREES, rows_of

from anystep import AnystepWarning
from anystep.data.datasets import load_dataset
from anystep.data.events import catalogue, layouts
from anystep.data.events import stack as recordings
from anystep.data.events.catalogue import find_recordings
from anystep.data.events.stack import finished_frames
from anystep.data.frames import Direct, EqualCount, EqualTime, FixedCount, FixedDuration, resize
from anystep.data.readers import read_events
from anystep.data.rules import natural

LIVE = FixedDuration(10, 30_000)
PARTS = ("train", "val", "test")
# fewer gestures; another protocol
OTHER_SPLIT = {("dvs-gesture", "Tonic"), ("events-folder", "parts")}


def counted(rows, side, steps=10, duration=30_000):
    """Frames of a recording by a slow loop."""
    frames = np.zeros((steps, 2, side, side), dtype=int)
    for t, x, y, p in rows:
        frames[t // duration, p, y, x] += 1
    return frames


def load(name, root, cache, **options):
    options = {"binning": LIVE, "workers": 2} | OPTIONS.get(name, {}) | options
    return load_dataset(name, root=root, cache=cache, **options)


def parts_of(splits):
    return [(part, getattr(splits, part)) for part in PARTS]


def samples_of(splits):
    """{id: (frames, label, part)} of all samples."""
    return {
        str(i): (*data[n], part) for part, data in parts_of(splits) for n, i in enumerate(data.ids)
    }


@pytest.fixture
def small(tmp_path):
    """A folder of two classes, and where its frames go."""
    TREES["events-folder"]["classes"](tmp_path / "data")
    return tmp_path / "data", tmp_path / "cache"


@pytest.mark.parametrize("name", TREES)
def test_every_layout_has_the_same_recordings_with_their_events_labels_and_parts(name, tmp_path):
    hashes = set()
    for layout, make in TREES[name].items():
        known = make(tmp_path / layout)
        splits = load(name, tmp_path / layout, tmp_path / "cache")
        found = samples_of(splits)
        assert set(found) == set(known)
        for each, (rows, label) in known.items():
            frames, found_label, _ = found[each]
            assert found_label == label
            assert np.array_equal(frames, counted(rows, frames.shape[-1]))
        if (name, layout) not in OTHER_SPLIT:
            hashes.add(splits.protocol_hash)
    assert len(hashes) == 1


def test_the_order_is_that_of_the_ids_and_not_of_the_file_system(small, monkeypatch):
    root, cache = small
    first = load("events-folder", root, cache)
    walk = os.walk

    def back(top, onerror):
        return reversed([(path, dirs, files[::-1]) for path, dirs, files in walk(top)])

    monkeypatch.setattr(layouts.os, "walk", back)
    second = load("events-folder", root, cache)
    for part in PARTS:
        assert getattr(first, part).ids.tolist() == getattr(second, part).ids.tolist()
    assert len(list(cache.glob("*.npy"))) == 1
    numbers = [each for each in first.train.ids if each.startswith("left/0/")]
    assert numbers == sorted(numbers, key=lambda each: int(each.rpartition(".")[2]))


TESTED = [
    ("dvs-gesture", "released", "users", r"user2[49]_.*", (7, "arm roll")),
    ("cifar10-dvs", "released", "last-100", r".*/9\d\d", (9, "truck")),
    ("cifar10-dvs", "released", "first-100", r".*/[012]", (9, "truck")),
    ("ncaltech101", "released", "90-10-per-class", r".*_0010", (1, "Faces_easy")),
    ("events-folder", "parts", "given", r"test/.*", (1, "right")),
]


@pytest.mark.parametrize(("name", "layout", "rule", "pattern", "a_class"), TESTED)
def test_a_protocol_tests_the_samples_that_it_names(name, layout, rule, pattern, a_class, tmp_path):
    TREES[name][layout](tmp_path / "data")
    splits = load(name, tmp_path / "data", tmp_path, protocol=f"{name}/{rule}")
    assert splits.protocol == f"{name}/{rule}"
    assert splits.classes[a_class[0]] == a_class[1]
    for part, data in parts_of(splits):
        assert all((part == "test") == bool(re.fullmatch(pattern, i)) for i in data.ids)


RESIZED = [("nearest", np.uint8), ("bilinear", np.float32)]


@pytest.mark.parametrize(("interpolation", "dtype"), RESIZED)
def test_frames_are_counted_first_and_then_resized(small, interpolation, dtype):
    root, cache = small
    full = samples_of(load("events-folder", root, cache))
    other = samples_of(load("events-folder", root, cache, size=12, interpolation=interpolation))
    for each, (frames, _, _) in full.items():
        assert other[each][0].dtype == dtype
        assert np.array_equal(other[each][0], resize(frames, 12, interpolation))


def test_of_ncaltech101_the_pixels_in_use_are_stretched(tmp_path):
    TREES["ncaltech101"]["released"](tmp_path / "data")
    splits = samples_of(load("ncaltech101", tmp_path / "data", tmp_path, size=10))
    name = f"{CALTECH[4]}/image_0003"
    assert np.array_equal(splits[name][0], counted(rows_of(name, 20, 20), 20)[..., ::2, ::2])
    with pytest.raises(ValueError, match="ncaltech101: size must be given, such as 48"):
        load("ncaltech101", tmp_path / "data", tmp_path, size=None)


def test_frames_that_spikingjelly_cut_are_read_as_they_are(tmp_path):
    root = tmp_path / "frames_number_4_split_by_number"
    frames = np.random.default_rng(0).poisson(0.2, (120, 4, 2, 34, 34))
    for index, each in enumerate(frames.astype(np.float32)):
        digit, number = divmod(index, 12)
        folder = root / ("train" if number < 10 else "test") / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{number:05d}.npz", frames=each)
    splits = load("nmnist", root, tmp_path / "cache", binning=EqualCount(4))
    assert np.array_equal(splits.test[1][0], frames[11])
    assert (splits.causal, splits.binning["cut_by"]) == (False, "spikingjelly")
    with pytest.raises(ValueError, match=r"4 frames cut by equal_count, .* is .*equal_time"):
        load("nmnist", root, tmp_path / "cache", binning=EqualTime(4))


def test_whatever_shapes_the_frames_has_a_file_of_its_own(small):
    root, cache = small
    eight = {"size": 8}
    shapes = {"binning": FixedDuration(5, 60_000)}, eight, eight | {"interpolation": "bilinear"}
    for changed in ({}, *shapes, eight | {"sensor": [40, 34]}):
        load("events-folder", root, cache, **changed)
    file = next(root.rglob("*.bin"))
    os.utime(file, (1, 1))
    load("events-folder", root, cache)
    file.write_bytes(file.read_bytes()[:-5])
    os.utime(file, (1, 1))
    load("events-folder", root, cache)
    assert len(list(cache.glob("*.npy"))) == 6  # other times are no other content


@pytest.mark.parametrize("binning", [LIVE, FixedCount(None, 9)], ids=["one length", "any length"])
def test_damaged_recordings_are_refused_or_left_out_and_counted_as_you_say(binning, tmp_path):
    root, cache, lost = tmp_path / "data", tmp_path / "cache", ["Test/3/00070", "Train/0/00000"]
    TREES["nmnist"]["released"](root)
    whole = load("nmnist", root, cache, binning=binning)
    for name in lost:
        (root / f"{name}.bin").write_bytes(b"")
    left_out = r"left out 2 of 120 recordings .*test/3/00070: .*00070\.bin: the file is empty"
    for _ in range(2):  # built, and read back
        there = set(cache.glob("*.npy"))
        with pytest.raises(ValueError, match=r"00070\.bin: the file is empty.*skip_bad=True"):
            load("nmnist", root, cache, binning=binning)
        assert set(cache.glob("*.npy")) == there
        with pytest.warns(AnystepWarning, match=left_out):
            rest = load("nmnist", root, cache, binning=binning, skip_bad=True)
    kept, before = samples_of(rest), samples_of(whole)
    assert set(before) - set(kept) == {name.lower() for name in lost}
    for each, (frames, _, part) in kept.items():
        assert np.array_equal(frames, before[each][0])
        assert part == before[each][2]
    assert rest.protocol_hash != whole.protocol_hash


def test_when_nothing_can_be_read_nothing_is_skipped(small):
    for path in small[0].rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"1")
    with pytest.raises(ValueError, match="none of the 40 recordings can be read"):
        load("events-folder", *small, skip_bad=True)


def test_skip_bad_leaves_out_what_may_not_be_read(small, monkeypatch):
    """An error of the system, as lack of permission is; root may read everything."""
    root, cache = small
    locked = next(iter(sorted(root.rglob("*.bin"))))

    def read(path, **options):
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return read_events(path, **options)

    monkeypatch.setattr(catalogue, "read_events", read)
    with pytest.raises(ValueError, match=r"Permission denied: .*\.bin.* skip_bad=True"):
        load("events-folder", root, cache)
    with pytest.warns(AnystepWarning, match="left out 1 of 40 recordings .* Permission denied"):
        load("events-folder", root, cache, skip_bad=True)


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(small, monkeypatch):
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "0":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="left/0"):
        find_recordings("events-folder", small[0])


@pytest.mark.parametrize("pair", [("r.csv", "r1.csv"), ("7.csv", "7a.csv"), ("1.csv", "a.csv")])
def test_any_two_names_have_an_order(pair, tmp_path):
    for name in pair:
        for group in ("a", "b"):
            (tmp_path / group).mkdir(exist_ok=True)
            (tmp_path / group / name).write_bytes(csv_bytes(rows_of(name, 34, 34)))
    stems = [Path(name).stem for name in pair]
    wanted = [f"{group}/{stem}" for group in "ab" for stem in stems]
    assert find_recordings("events-folder", tmp_path).ids == wanted


def test_frames_that_would_unpack_to_gigabytes_or_are_no_file_are_refused_unread(tmp_path):
    path = tmp_path / "frames_number_4_split_by_number" / "train" / "0" / "1.npz"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", bytes(2**20))
    content = path.read_bytes()
    true, claimed = struct.pack("<I", 2**20), struct.pack("<I", 2**32 - 2)
    path.write_bytes(content.replace(true, claimed))
    with pytest.raises(ValueError, match=r"1\.npz: .* 4294967294 bytes are too much for so small"):
        finished_frames(path, 4)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"1\.npz: must be a recording, it is no regular file"):
        finished_frames(path, 4)


def test_recordings_are_found_without_opening_a_file(tmp_path):
    known = TREES["nmnist"]["Tonic"](tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.bin"):
        path.write_bytes(b"")
    found = find_recordings("nmnist", tmp_path / "data")
    labels = {name: label for name, (_, label) in known.items()}
    assert {sample.id: sample.label for sample in found.samples} == labels
    assert (found.protocol, found.sensor, found.finished) == ("nmnist/official", (34, 34), None)
    assert [len(part) for _, part in parts_of(found.split())] == [90, 10, 20]
    assert found.ids == sorted(known, key=natural)


@pytest.mark.parametrize("layout", ["classes", "parts"])
def test_a_folder_of_your_own_has_the_protocol_of_its_layout_unless_you_choose(layout, tmp_path):
    TREES["events-folder"][layout](tmp_path)
    protocol = {"classes": "random-90-10@0", "parts": "events-folder/given"}[layout]
    assert find_recordings("events-folder", tmp_path).protocol == protocol
    chosen = find_recordings("events-folder", tmp_path, protocol="fold-2-of-5@3", sensor=[34, 40])
    assert (chosen.protocol, chosen.sensor) == ("fold-2-of-5@3", (34, 40))


def test_a_long_build_says_how_far_it_is(small, monkeypatch, capsys):
    monkeypatch.setattr(recordings, "SECONDS_BETWEEN_LINES", 0.0)
    load("events-folder", *small)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 80)
    for line, what in ((39, "files hashed"), (79, "recordings binned")):
        said = rf"events-folder: 40 of 40 {what}, \d+ a second"
        assert re.fullmatch(said, err.splitlines()[line])


def test_recordings_of_different_cameras_need_a_size(small):
    root, cache = small
    for path in root.rglob("*.npz"):
        with np.load(path) as archive:
            columns = dict(archive)
        np.savez(path, **columns, sensor=[20, 30] if path.name == "take.20.npz" else [34, 34])
    with pytest.raises(ValueError, match=r"events-folder: recordings differ in size.*size="):
        load("events-folder", root, cache, sensor=None)
    assert load("events-folder", root, cache, sensor=None, size=8).train.shape[-2:] == (8, 8)


def without(name):
    return lambda root: (root / name).rename(root / "elsewhere")


def with_file(name):
    return lambda root: (root / name).touch()


CAT = "cifar10-dvs"
SPOILT = [
    ("nmnist", "released", without("Test/4"), "no recordings in test of 4; the release"),
    ("nmnist", "released", without("Train"), "no recordings in train of 0, 1, 2"),
    ("ncaltech101", "released", lambda root: rmtree(root / CALTECH[1]), "classes, got 100"),
    (CAT, "released", without("cat"), "no recordings of cat"),
    (CAT, "released", with_file("cat/x.aedat"), "must end in its number, got .*x.aedat"),
    (CAT, "released", with_file("cat/y_1.aedat"), "two files are the sample cat/1: .*y_1"),
    (CAT, "released", with_file("cat/y_1000.aedat"), r"in 0\.\.999, got 'cat/1000'"),
    ("dvs-gesture", "without lists", without("user01_led_labels.csv"), "labels.csv is missing"),
    ("dvs-gesture", "released", without("DvsGesture/user29_led.aedat"), "aedat is missing"),
    ("events-folder", "parts", lambda root: (root / "val").mkdir(), "val lies beside train and"),
]


@pytest.mark.parametrize(("name", "layout", "spoil", "message"), SPOILT)
def test_a_tree_that_lacks_something_says_what(name, layout, spoil, message, tmp_path):
    TREES[name][layout](tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=f"{name}(/last-100)?: .*{message}"):
        load(name, tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("name", TREES)
def test_a_root_that_is_missing_or_empty_says_what_belongs_there(name, tmp_path):
    for root, message in (
        (None, "must be the folder that holds .*data.options.root"),
        (tmp_path / "no", "is no folder"),
        (tmp_path, "nothing to read in"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
            load(name, root, tmp_path / "cache")


WRONG_OPTIONS = [
    ({"binning": Direct(4)}, "{name} holds events: its binning must be one of .*, got direct"),
    ({"protocol": "last-100"}, "unknown protocol 'last-100'"),
    ({"protocol": "digits-dvs/stratified-70-10-20"}, r"protocol must be one of {name}/\.\.\., ra"),
    ({"size": 0}, "size must be a whole number >= 1, .*got 0"),
    ({"size": 8, "interpolation": "cubic"}, "unknown interpolation 'cubic'"),
    ({"interpolation": "bilinear", "size": None}, "needs a size"),
    ({"sensor": [34, 34.0]}, r"{name}: sensor must be \(height, width\), each >= 1, got "),
    ({"rot": "x"}, "unknown option 'rot' in dataset {name}. Did you mean 'root'"),
]


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_options_are_judged_before_any_file_is(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message.format(name=name)):
        load(name, None, tmp_path, **options)


REAL = os.environ.get("ANYSTEP_DATA")


@pytest.mark.skipif(not REAL, reason="ANYSTEP_DATA does not name a folder with NMNIST")
def test_every_event_of_the_first_recordings_of_nmnist_is_counted(tmp_path):
    splits = load("nmnist", f"{REAL}/NMNIST", tmp_path, binning=EqualTime(10))
    assert [len(data) for _, data in parts_of(splits)] == [899, 101, 100]
    events = [int(data.frames.sum(dtype=np.int64)) for _, data in parts_of(splits)]
    assert (events[0] + events[1], events[2]) == (4_133_231, 385_596)
    assert splits.protocol_hash == "5857c6fb04e30985"

"""`check_dataset`: what a folder has in numbers, and what in it cannot be read."""

from __future__ import annotations

import json
import os
import tracemalloc
import warnings
from itertools import product

import numpy as np
import pytest
from event_files import bin_bytes
from event_trees import EVENTS, OPTIONS, TREES, put, rows_of
from image_trees import image_folder, imagenet_shards

from anystep._errors import AnystepWarning, UsageError
from anystep.data import check
from anystep.data.check import check_dataset, excerpt, table_cells
from anystep.data.datasets import load_dataset
from anystep.data.frames import FixedDuration
from anystep.data.recording import Events

LAYOUTS = [
    ("nmnist", "released", [34, 34]),
    ("nmnist", "SpikingJelly", [34, 34]),
    ("ncaltech101", "Tonic", [180, 240]),
    ("cifar10-dvs", "released", [128, 128]),
    ("cifar10-sim", "filmed", [128, 128]),
    ("dvs-gesture", "released", [128, 128]),
    ("dvs-gesture", "Tonic", [128, 128]),
    ("events-folder", "classes", [34, 34]),
    ("events-folder", "parts", [34, 34]),
]


@pytest.fixture
def digits(tmp_path):
    """N-MNIST in miniature: ten recordings of each digit train, two test."""
    return tmp_path / "data", TREES["nmnist"]["released"](tmp_path / "data")


@pytest.mark.parametrize(("name", "layout", "sensor"), LAYOUTS)
def test_all_of_a_tree_is_counted_once_in_the_parts_of_its_row(name, layout, sensor, tmp_path):
    known, root = TREES[name][layout](tmp_path / "data"), tmp_path / "data"
    options = {"sensor": sensor} if name == "events-folder" else {}
    found = check_dataset(name, root, workers=2, options=options).summary
    assert json.loads(json.dumps(found)) == found
    rows = [row for rows, _ in known.values() for row in rows]
    assert sum(found["samples"].values()) == len(known)
    assert sum(found["events"].values()) == len(known) * EVENTS
    assert found["polarity_on"] == pytest.approx(sum(p for *_, p in rows) / len(rows), abs=1e-4)
    assert found["events_per_recording"] == [EVENTS] * 3
    lengths = sorted(rows[-1][0] + 1 - rows[0][0] for rows, _ in known.values())
    if layout != "Tonic" or name != "dvs-gesture":  # whose clock has whole milliseconds
        assert found["duration_us"] == [lengths[0], lengths[(len(lengths) - 1) // 2], lengths[-1]]
    assert (found["sensor"], found["sensors"]) == (sensor, 1)
    counts = np.bincount([label for _, label in known.values()])
    assert [sum(each.values()) for each in found["classes"].values()] == counts.tolist()
    assert (found["unreadable"], found["corrupt"], found["out_of_order"]) == (0, [], 0)

    options = {"root": root, "cache": tmp_path, "workers": 1} | OPTIONS.get(name, {})
    row = load_dataset(name, binning=FixedDuration(1, 400_000), **options)
    sizes = {part: len(getattr(row, part)) for part in ("train", "val", "test")}
    assert found["protocol"] == {"name": row.protocol, "hash": row.protocol_hash, **sizes}
    assert found["samples"] == {"train": sizes["train"] + sizes["val"], "test": sizes["test"]}
    assert list(found["classes"]) == list(row.classes)


def test_damaged_files_are_listed_by_name_and_the_check_goes_on(digits):
    root, known = digits
    (root / "Test" / "3" / "00070.bin").write_bytes(b"")
    (root / "Train" / "0" / "00000.bin").write_bytes(bin_bytes(rows_of("x", 34, 34))[:-2])
    (root / "Train" / "0" / "00007.bin").write_bytes(bin_bytes([(5, 34, 0, 1)]))
    (root / "Train" / "0" / "00014.bin").unlink()
    (root / "Train" / "0" / "00014.bin").symlink_to("gone")
    found = check_dataset("nmnist", root, workers=2).summary
    reasons = {
        "Train/0/00014.bin": "No such file",
        "Train/0/00000.bin": "truncated: the event at byte 1",
        "Train/0/00007.bin": "x[0] = 34 must be in 0..33",
        "Test/3/00070.bin": "the file is empty (0 bytes)",
    }
    assert {each["file"] for each in found["corrupt"]} == set(reasons)
    assert all(reasons[each["file"]] in each["reason"] for each in found["corrupt"])
    assert (found["unreadable"], found["samples"]) == (4, {"train": 97, "test": 19})
    assert found["events"] == {"train": 97 * EVENTS, "test": 19 * EVENTS}
    assert found["classes"]["0"] == {"train": 7, "test": 2}
    assert found["classes"]["3"] == {"train": 10, "test": 1}
    assert sum(found["protocol"][part] for part in ("train", "val", "test")) == len(known)


def test_one_damaged_file_of_many_gestures_is_one_entry_and_a_gesture_without_events_too(tmp_path):
    root = tmp_path / "DvsGesture"
    TREES["dvs-gesture"]["released"](tmp_path)
    (root / "user02_lab.aedat").write_bytes(b"#!AER-DAT3.1\r\n")
    with (root / "user03_led_labels.csv").open("a") as table:
        table.write("11,900000000,900000001\n")
    found = check_dataset("dvs-gesture", tmp_path).summary
    damaged, empty = found["corrupt"]
    assert damaged["file"] == "DvsGesture/user02_lab.aedat"
    assert empty["reason"].endswith(": user03_led/10_1 has no events")
    assert (found["unreadable"], sum(found["samples"].values())) == (13, 72)


def test_events_that_step_back_in_time_are_read_and_what_else_lies_there_is_told(digits):
    train = digits[0] / "Train"
    rows = [(5, 1, 1, 0), (9, 1, 1, 1), (7, 1, 1, 1)]
    (train / "0" / "00000.bin").write_bytes(bin_bytes(rows))
    for name in ("readme.txt", "4/00000.BAK"):
        (train / name).touch()
    (train / "ten").mkdir()
    found = check_dataset("nmnist", digits[0]).summary
    assert (found["out_of_order"], found["corrupt"], found["events_per_recording"][0]) == (1, [], 3)
    assert found["duration_us"][0] == 5
    assert (found["other_files"], found["empty_folders"]) == ({".bak": 1, ".txt": 1}, ["Train/ten"])


def test_the_example_of_a_class_is_its_first_sample_that_can_be_read(digits):
    root, known = digits
    (root / "Test" / "6" / "00070.bin").write_bytes(b"1")  # test/ comes before train/
    examples = check_dataset("nmnist", root).examples
    assert list(examples) == list("0123456789")
    for digit, number in (("5", "00070"), ("6", "00077")):
        first = Events.from_arrays(*zip(*known[f"test/{digit}/{number}"][0], strict=True), (34, 34))
        assert np.array_equal(examples[digit].t, excerpt(first).t)
        assert examples[digit].duration <= check.EXCERPT_US


def test_an_excerpt_holds_the_window_with_the_most_events():
    rng = np.random.default_rng(0)
    t, (y, x) = np.sort(rng.integers(0, 1000, 300)), rng.integers(0, 3, (2, 300))
    events = Events.from_arrays(t, x, y, t % 2, (3, 3))
    part = excerpt(events, 100)
    assert len(part) == max(int(((t >= begin) & (t < begin + 100)).sum()) for begin in range(1000))
    first = int(np.searchsorted(t, part.t[0]))
    assert np.array_equal(part.x, x[first : first + len(part)])
    assert not np.shares_memory(part.x, events.x)


def test_finished_frames_are_counted_and_nobody_guesses_their_events(tmp_path):
    root = tmp_path / "frames_number_4_split_by_number"
    for part, digit, number in product(("train", "test"), range(10), range(10)):
        if part == "train" or number < 2:
            (root / part / str(digit)).mkdir(parents=True, exist_ok=True)
            np.savez(root / part / str(digit) / f"{number}.npz", frames=np.ones((4, 2, 34, 34)))
    np.savez(root / "test" / "9" / "1.npz", frames=np.ones((5, 2, 34, 34)))
    found = check_dataset("nmnist", root)
    assert (found.summary["samples"], found.summary["events"]) == ({"train": 100, "test": 19}, None)
    assert found.summary["corrupt"][0]["file"] == "test/9/1.npz"
    assert "sensor" not in found.summary
    assert found.examples["3"].tolist() == np.full((2, 34, 34), 4).tolist()


def test_images_are_counted_and_the_first_of_each_class_is_decoded(tmp_path):
    image_folder(tmp_path)
    found = check_dataset("image-folder", tmp_path)
    assert (found.summary["samples"], found.summary["events"]) == ({"train": 16, "test": 4}, None)
    each = {"train": 8, "test": 2}
    assert found.summary["classes"] == {"circle": each, "square": each}
    assert [image.shape for image in found.examples.values()] == [(3, 30, 40)] * 2
    said = {key: found.summary[key] for key in ("pictures", "mean", "std")}
    assert said == {"pictures": [[3, 30, 40]], "mean": [0, 0, 0], "std": [1, 1, 1]}
    rows = dict(table_cells(json.loads(json.dumps(found.summary)))[2])
    assert rows["pictures"] == "3 x 30 x 40"
    assert rows["normalised"] == "(x / 255 - mean) / std, mean 0, 0, 0, std 1, 1, 1"
    # red is the class
    assert [int(found.examples[name][0].mean()) for name in ("circle", "square")] == [30, 90]


def test_a_damaged_image_is_found_by_a_deep_check_and_a_plain_one_sees_the_first(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "circle" / "3.png").write_bytes(b"no image")
    options = {"size": 16}
    deep = check_dataset("image-folder", tmp_path, deep=True, workers=2, options=options).summary
    assert [each["file"] for each in deep["corrupt"]] == ["circle/3.png"]
    assert (deep["unreadable"], sum(deep["samples"].values())) == (1, 19)
    row = load_dataset("image-folder", binning=check.Direct(1), root=tmp_path)
    first = next(each for each in row.train.ids.tolist() if each.startswith("circle"))
    for name in (first, "circle/3.png"):
        (tmp_path / name).write_bytes(b"no image")
    plain = check_dataset("image-folder", tmp_path)
    assert first in [each["file"] for each in plain.summary["corrupt"]]
    assert list(plain.examples) == ["circle", "square"]


def test_every_image_of_parquet_shards_is_decoded_by_a_deep_check(tmp_path):
    imagenet_shards(tmp_path)
    found = check_dataset("imagenet-1k", tmp_path, deep=True, workers=4, options={"size": 16})
    row = load_dataset("imagenet-1k", binning=check.Direct(1), root=tmp_path)
    sizes = {"train": len(row.train) + len(row.val), "test": len(row.test)}
    assert (found.summary["samples"], found.summary["corrupt"]) == (sizes, [])
    assert [each.shape for each in found.examples.values()] == [(3, 16, 16)] * 3


def test_the_digits_that_are_built_in_need_no_folder(monkeypatch):
    def film(indices, *, workers, path):
        assert path == "saccade"
        return ((Events.from_arrays([7, 9], [0, 1], [2, 2], [1, 1], (34, 34)), -1) for _ in indices)

    monkeypatch.setattr(check, "digits_events", film)
    events = check_dataset("digits-dvs", options={"path": "saccade"}).summary
    images = check_dataset("digits").summary
    assert events["protocol"] == images["protocol"]
    assert events["samples"] == images["samples"] == {"train": 1438, "test": 359}
    assert (events["events"], images["events"]) == ({"train": 2876, "test": 718}, None)


def test_a_folder_that_the_protocol_does_not_fit_is_counted_all_the_same_and_says_so(tmp_path):
    TREES["cifar10-sim"]["filmed"](tmp_path)
    for file in tmp_path.glob("*/9*.bin"):
        file.unlink()
    (tmp_path / "camera.json").write_text('{"recordings": 100}')
    summary = check_dataset("cifar10-sim", tmp_path).summary
    assert summary["samples"] == {"train": 100, "test": 0}
    protocol = summary["protocol"]
    assert (protocol["name"], protocol["hash"]) == ("cifar10-sim/last-100", None)
    assert "the largest here is 106" in protocol["problem"]
    assert dict(table_cells(summary)[2])["protocol"] == "cifar10-sim/last-100 (does not fit)"
    assert not summary["ok"]
    options = {"protocol": "random-90-10@0"}
    assert check_dataset("cifar10-sim", tmp_path, options=options).summary["samples"]["test"] == 10


def some(root, counts):
    """`counts` {folder: recordings} of 240 x 320 pixels."""
    for folder, count in counts.items():
        for number in range(count):
            put(root / folder / f"{number}.npz", rows_of(f"{folder}/{number}", 240, 320))


def damaged(root):
    """So many recordings that validation is gone with those that cannot be read."""
    some(root, {"left": 6, "right": 6})
    for each in load_dataset("events-folder", **SMALL, root=root).val.ids:
        (root / f"{each}.npz").write_bytes(b"half a file")


SMALL = {"binning": FixedDuration(1, 400_000), "cache": None, "size": 8, "sensor": [240, 320]}
FEW = {  # how to make the folder, and what is said
    "four of each class": (
        lambda root: some(root, {"left": 4, "right": 4}),
        "random-90-10@0 has nothing for val and test: class left has 4 samples (4 train, 0 val, 0 "
        "test); class right has 4 samples (4 train, 0 val, 0 test). A class needs at least 6",
    ),
    "parts that are given": (
        lambda root: some(root, {"train/left": 4, "train/right": 3, "test/left": 9}),
        "events-folder/given has nothing for val: class left has 13 samples (4 train, 0 val, 9 "
        "test); class right has 3 samples (3 train, 0 val, 0 test). A class needs at least 1 "
        "sample that tests and 5 that do not",
    ),
    "damaged": (damaged, "random-90-10@0 has nothing for val: class left has 5 samples (4 train"),
}


@pytest.mark.parametrize(("make", "words"), FEW.values(), ids=FEW)
def test_too_few_recordings_are_told_by_the_check_as_by_training(
    make, words, tmp_path, terminal, monkeypatch
):
    monkeypatch.setitem(SMALL, "cache", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnystepWarning)
        make(tmp_path / "few")
        with pytest.raises(UsageError) as refusal:
            load_dataset("events-folder", **SMALL, root=tmp_path / "few", skip_bad=True)
    sensor = ("--option", "sensor=[240,320]")
    code, out, err = terminal("data", "check", "events-folder", "few", "--skip-bad", *sensor)
    protocol = json.loads(out)["protocol"]
    assert (code, protocol["hash"], protocol["problem"]) == (1, None, str(refusal.value))
    assert protocol["problem"].startswith(words)
    assert protocol["problem"] in err.splitlines()


def test_a_check_says_which_class_is_missing_in_a_part_and_is_content(tmp_path, terminal):
    some(tmp_path / "odd", {"left": 12, "right": 4})
    sensor = ("--option", "sensor=[240,320]")
    found = terminal.done("data", "check", "events-folder", "odd", *sensor)
    assert "class right has 4 samples (4 train, 0 val, 0 test)" in found["protocol"]["problem"]
    assert (found["ok"], found["protocol"]["test"]) == (True, 1)


def test_the_table_for_people_says_the_same(digits):
    root, _ = digits
    (root / "Train" / "readme.txt").touch()
    title, header, rows = table_cells(check_dataset("nmnist", root).summary)
    assert (title, header) == ("nmnist", ["what", "found"])
    told = {
        "samples": "100 train, 20 test",
        "events": "2,400 train, 480 test",
        "classes": "10, of 12 to 12 samples",
        "sensor": "34 x 34",
        "events a recording": "24 to 24, median 24",
        "other files": "1 .txt",
        "samples that cannot be read": "0",
    }
    assert told.items() <= dict(rows).items()
    images = dict(table_cells(check_dataset("digits").summary)[2])
    assert (images["events"], "sensor" in images) == ("unknown", False)


def test_progress_is_told_for_every_sample(digits):
    told = []
    check_dataset("nmnist", digits[0], workers=2, progress=lambda *counts: told.append(counts))
    assert told == [(done, 120) for done in range(1, 121)]


def test_memory_does_not_grow_with_the_number_of_recordings(tmp_path):
    rows = [(t, t % 30, t % 29, t % 2) for t in range(20_000)]
    (tmp_path / "one.bin").write_bytes(bin_bytes(rows))
    peaks = {}
    for count in (10, 100):
        for group in "ab":
            (tmp_path / str(count) / group).mkdir(parents=True)
            for number in range(count):
                os.link(tmp_path / "one.bin", tmp_path / str(count) / group / f"{number}.bin")
        tracemalloc.start()
        found = check_dataset("events-folder", tmp_path / str(count), workers=1).summary
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(found["events"].values()) == 2 * count * 20_000
    assert peaks[100] < peaks[10] + 180 * 4_000  # 180 more recordings of 260 kB

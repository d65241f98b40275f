"""What the data wing refuses, and words that the message must have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from anystep.data.augmentation.augment import EventDrop, create_augmentation
from anystep.data.augmentation.mixing import Mixup
from anystep.data.augmentation.randaugment import RandAugment
from anystep.data.augmentation.warps import Flip
from anystep.data.camera.batched import simulate_batch
from anystep.data.camera.film import Setting, encode_bin, film_images
from anystep.data.camera.simulate import (
    Camera,
    Trajectory,
    closed_loop,
    path_of,
    saccade,
    simulate,
    simulate_many,
)
from anystep.data.check import check_dataset
from anystep.data.count import count_events
from anystep.data.datasets import load_dataset
from anystep.data.events.catalogue import find_recordings
from anystep.data.filming import simulate_dataset
from anystep.data.frames import Direct, EqualCount, EqualTime, FixedCount, FixedDuration, resize
from anystep.data.images.pictures import Fit, PictureSet
from anystep.data.images.rows import image_set
from anystep.data.loader import time_first
from anystep.data.protocols import Split, Stratified, held_out, split, stratified
from anystep.data.readers import gesture_segments
from anystep.data.recording import Events
from anystep.data.sets import FrameSet, FramesOf, ImageSet, RaggedSet

QUIET, PATH, LIVE = Camera(sensor=(11, 13)), saccade(60_000), FixedDuration(3, 20_000)
NINE = torch.rand(3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SETTING = Setting(PATH, QUIET, 0, {})
IMAGES = np.zeros((2, 9, 9))


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def batch(images=NINE, path=PATH, *, binning=LIVE, size=None) -> torch.Tensor:
    return simulate_batch(images, path, QUIET, binning=binning, generator=chance(), size=size)


def events(t=(0, 1, 2), x=(0, 1, 2), y=(0, 1, 0), p=(0, 1, 1), sensor=(2, 3)) -> Events:
    return Events.from_arrays(t, x, y, p, sensor)


def pictured(mean, std) -> PictureSet:
    pictures = np.zeros((1, 3, 2, 2), np.uint8)
    return PictureSet(pictures, [0], encoding=Direct(1), mean=mean, std=std)


def folder(**options):
    return image_set("image-folder")(binning=Direct(1), root=".", **options)


def one(t=0, x=0, y=0, sensor=(400, 400)) -> Events:
    return Events.from_arrays([t], [x], [y], [0], sensor)


NONE = events((), (), (), ())
MANY = events(*[[0] * 2000] * 4, sensor=(720, 1280))
RECORDINGS = [
    (lambda: events(t=(0, 5, 4)), r"t\[2\] = 4 is earlier"),
    (lambda: events(t=(-1, 5, 6)), r"t\[0\] = -1 must be >= 0"),
    (lambda: events(x=(0, 3, 3)), r"x\[1\] = 3 must be in 0\.\.2"),
    (lambda: events(y=(0, 0, 2)), r"y\[2\] = 2 must be in 0\.\.1"),
    (lambda: events(p=(0, 2, 1)), r"p\[1\] = 2 must be 0 or 1"),
    (lambda: events(p=(0, 1, -1)), r"p\[2\] = -1 does not fit uint8"),
    (lambda: events(t=(0, 0.5, 1)), r"t\[1\] = 0.5 must be a whole number"),
    (lambda: events(x=(0, 1, math.nan)), r"x\[2\] = nan must be a whole number"),
    (lambda: events(x=(0, 40_000, 1)), r"x\[1\] = 40000 does not fit int16"),
    (lambda: events(t=np.array([0, 1, 2**63], np.uint64)), r"t\[2\] = .*8 does not fit int64"),
    (lambda: events(y=("a", "b", "c")), "y must be one column of whole numbers"),
    (lambda: events(x=(0, 1)), r"x must be \(3,\) like t, got \(2,\)"),
    (lambda: events(t=[[0, 1, 2]]), r"t must be one column .* of shape \(1, 3\)"),
    (lambda: events(sensor=(2, 0)), r"sensor must be \(height, width\)"),
    (lambda: events().head(-1), "count must be >= 0, got -1"),
    (lambda: Events(*[np.zeros(1)] * 4, (2, 3)), "t must be a numpy array of int64, got float64"),
]
FRAMES = [
    (lambda: EqualCount(2.5), "steps must be a whole number >= 1, got 2.5"),
    (lambda: FixedDuration(10**9, 1), r"steps must be a whole number >= 1 and <= 10,000, got 10"),
    (lambda: FixedDuration(3, 0), "duration_us must be a whole number >= 1, got 0"),
    (lambda: FixedCount(3, -1), "count must be a whole number >= 1, got -1"),
    (lambda: EqualTime(None), "only fixed_duration and fixed_count can"),
    (lambda: Direct(None), "only fixed_duration and fixed_count can"),
    (lambda: EqualTime(2)(NONE), "equal_time: an empty event stream"),
    (lambda: FixedCount(2, 9)(NONE), "fixed_count: an empty event stream"),
    (lambda: FixedDuration(2, 9)(one(t=20)), "the first is at t = 20 us.*subtract"),
    (lambda: FixedCount(None, 1)(MANY), "fixed_count: the recording needs 2000 frames of 720 x"),
    (lambda: count_events(events(), np.array([0, 3, 2])), r"borders must .* be in 0\.\.3"),
    (lambda: Direct(2)(np.zeros((3, 3))), r"an image must be \(P, H, W\)"),
    (lambda: resize(IMAGES, 0, "nearest"), r"whole number >= 1, or two of them \[H, W\], got 0"),
    (lambda: resize(IMAGES, True, "nearest"), "two of them .*, got True"),
    (lambda: resize(IMAGES, [4], "nearest"), r"two of them .*, got \[4\]"),
    (lambda: resize(IMAGES, 2, "linear"), "'linear'. Did you mean 'bilinear'"),
    (lambda: resize(IMAGES[..., :0], 2, "nearest"), r"frames must be \(..., H, W\)"),
]
SETS = [
    (lambda: FrameSet(np.zeros((3, 2, 4, 4)), [0] * 3), r"FrameSet: frames must be \(M, T, P,"),
    (lambda: FrameSet(np.zeros((3, 1, 2, 4, 4)), [0, 1]), r"labels must be \(3,\), got \(2,\)"),
    (lambda: FrameSet(np.zeros((2, 1, 2, 4, 4)), [0, 1], ["a"]), r"ids must be \(2,\), got"),
    (lambda: FrameSet(np.zeros((2, 1, 2, 4, 4)), [0.0, 1.0]), "labels must be whole numbers"),
    (lambda: RaggedSet(np.zeros((5, 2, 3)), [2, 3], [0, 1]), r"RaggedSet: frames must be"),
    (lambda: RaggedSet(np.zeros((5, 2, 3, 3)), [2, 2], [0, 1]), "lengths must be .* the sum 5"),
    (lambda: RaggedSet(np.zeros((5, 2, 3, 3)), [-1, 6], [0, 1]), "lengths must be >= 0"),
    (lambda: RaggedSet(np.zeros((2, 2, 3, 3)), [2, 0], [0, 1])[1], "sample 1 has no frames"),
    (lambda: ImageSet(np.zeros((5, 3, 3)), [0] * 5, Direct(2)), r"ImageSet: images must be"),
    (lambda: FramesOf([(np.zeros(3), 0)], LIVE)[0], r"item 0 must be \(Events, label\), got nd"),
]
SHARES = (0.6, 0.2, 0.2)
IMAGE_ROWS = [
    (lambda: pictured((0.5,), (0.5,))[0], "mean and std are for 1 planes, an image has 3"),
    (lambda: pictured(("x", 0, 0), (1, 1, 1)), "mean and std must be numbers: .*'x'"),
    (lambda: pictured(None, (1, 1, 1)), "mean and std must be numbers"),
    (lambda: pictured((0, 0, 0), (1, 1, 0)), "std must be as many numbers > 0 as mean"),
    (lambda: folder(size=0), "size must be a whole number >= 1, or two of them"),
    (lambda: folder(size=True), "got True"),
    (lambda: folder(size=8, crop=0), "crop must be the share .* above 0 and at most 1, got 0"),
    (lambda: folder(crop=0.5), "crop and stretch say how pictures become `size`: give size"),
    (lambda: folder(stretch=True), "give size"),
    (lambda: folder(channels=2), "channels must be 1 or 3, got 2"),
    (lambda: folder(size=8, interpolation="lanczos"), "unknown interpolation 'lanczos'"),
    (lambda: Fit(interpolation="cubic"), "'cubic'. Did you mean 'bicubic'"),
]
ITEM = np.zeros((3, 2, 4, 5)), 0
NO_FRAMES = r"a sample must be frames \(T, P, H, W\), all of one shape in a batch, got \["
SAMPLES = [
    (lambda: time_first([ITEM, (np.zeros((3, 2, 4, 6)), 1)]), NO_FRAMES),
    (lambda: time_first([(np.zeros((0, 2, 4, 5)), 1)]), NO_FRAMES),
    (lambda: time_first([(np.zeros((2, 4, 5)), 0)]), NO_FRAMES),
    (lambda: time_first([(np.zeros((1, 3, 2, 4, 5)), 0)]), NO_FRAMES),
]
PROTOCOLS = [
    (lambda: split("cifar10-dvs/last-10", [0]), "Did you mean 'cifar10-dvs/last-100'"),
    (lambda: split("random-90-10@x", [0]), "Did you mean 'random-90-10@0'"),
    (lambda: split("nmnist/official", [0, 0]), "as 'train' or 'test', got nothing"),
    (lambda: split("nmnist/official", [0, 0], parts=["train", "val"]), "got train, val"),
    (lambda: split("nmnist/official", [0, 0], parts=["train"]), "parts has 1 entries for 2"),
    (lambda: split("cifar10-dvs/last-100", [0], ids=["cat"]), r"in 0\.\.999, got 'cat'"),
    (lambda: split("cifar10-dvs/last-100", [0], ids=["cat/7"]), "to 999, the largest here is 7"),
    (lambda: split("cifar10-dvs/last-100", [0, 0], ids=["a/1", "a/1"]), "ids must differ"),
    (lambda: split("dvs-gesture/users", [0], ids=["user30_lab/0_0"]), "user01 to user29, got"),
    (lambda: split("fold-6-of-5@0", [0] * 8), "K must be in 1..N and N >= 2, got 'fold-6-of-5@0'"),
    (lambda: split("fold-0-of-5@0", [0] * 8), "unknown protocol"),
    (lambda: split("fold-1-of-9@0", [0] * 8), "needs 9 samples or more, class 0 has 8"),
    (lambda: Stratified((0.5, 0.5, 0.5)), "with sum 1"),
    (lambda: Stratified((1.0, 0.0, 0.0)), "three numbers > 0"),
    (lambda: stratified([0] * 9, SHARES, name="a", ids=[1, 2]), "ids has 2 entries for 9 labels"),
    (
        lambda: stratified([0], SHARES, name="a"),
        "a has nothing for val and test: class 0 .* least 3",
    ),
    (lambda: Split("a", *np.array([[0], [1], [0]])), "train, val and test share a sample"),
    (lambda: Split("a", *map(np.array, ([0, 0], [1], [2]))), "train names a sample twice"),
    (lambda: held_out([0, 0], [True], name="mine"), r"test must be \(2,\) like labels"),
    (lambda: load_dataset("digit-dvs", binning=LIVE), "Did you mean 'digits-dvs'"),
    (lambda: load_dataset("digits-dvs", binning=LIVE, pth="x"), "'pth' .* Did you mean 'path'"),
    (lambda: load_dataset("digits-dvs", binning=LIVE, path="circle"), "unknown path 'circle'"),
    (lambda: find_recordings("nmist", "."), "event data set 'nmist'. Did you mean 'nmnist'"),
    (lambda: check_dataset("nmist", "."), "unknown dataset 'nmist'. Did you mean 'nmnist'"),
    (lambda: check_dataset("nmnist", options={"sice": 8}), "unknown option 'sice' in the check"),
    (lambda: check_dataset("nmnist", options={"size": "8"}), "size must be a whole number >= 1"),
    (lambda: check_dataset("events-folder", options={"sensor": 3}), r"sensor must be \(height,"),
    (lambda: check_dataset("cifar10"), "cifar10: root is required"),
    (lambda: check_dataset("cifar10", ".", options={"root": "x"}), "unknown option 'root'"),
    (lambda: check_dataset("digits-dvs", "here"), "is built in and takes no folder, got 'here'"),
]
CAMERAS = [
    (lambda: Camera(threshold=0.0), "Camera: threshold must be > 0, got 0.0"),
    (lambda: Camera(mismatch=0.5), r"mismatch must be in 0\.\.0\.3, got 0.5"),
    (lambda: Camera(noise_hz=-1.0), "noise_hz must be >= 0, got -1.0"),
    (lambda: Camera(substep_us=0), "substep_us must be a whole number >= 1, got 0"),
    (lambda: Camera(floor=0.0), "floor must be > 0, got 0.0"),
    (lambda: Camera(sensor=(0, 4)), r"sensor must be \(height, width\), each >= 1, got \(0, 4\)"),
    (lambda: Trajectory((0,), (0.0,), (0.0,)), "length of at least 2, got 1, 1 and 1"),
    (lambda: Trajectory((0, 5, 5), (0.0,) * 3, (0.0,) * 3), "must start at 0 and increase"),
    (lambda: Trajectory((0, 5), (0.0, math.nan), (0.0, 0.0)), "must be finite"),
    (lambda: closed_loop(loops=0), "closed_loop: loops must be >= 1"),
    (lambda: saccade(2), "saccade: duration_us must be >= 3"),
    (lambda: path_of("closed-lop"), "unknown path 'closed_lop'. Did you mean 'closed_loop'"),
    (lambda: simulate(np.zeros(35), PATH, QUIET, seed=0), r"\(H0, W0\), each >= 1, got"),
    (lambda: simulate([[1.5]], PATH, QUIET, seed=0), r"image must lie in \[0, 1\]"),
    (lambda: simulate_many(IMAGES[0], PATH, QUIET, seed=0), r"images must be \(M, H0, W0\)"),
    (lambda: batch(NINE[0]), r"images must be \(N, H0, W0\), each >= 1, got shape \(9, 8\)"),
    (lambda: batch(NINE.half()), "images must be float32 or float64, got torch.float16"),
    (lambda: batch(NINE * 2), r"images must lie in \[0, 1\], got .* to 1\.9"),
    (lambda: batch(path=[PATH, PATH]), "path must be one or one for each of 3 images, got 2"),
    (lambda: batch(path=[PATH, PATH, saccade(9)]), "one duration, got 9 to 60000 us"),
    (lambda: batch(binning=EqualTime(3)), "must be FixedDuration with a number of steps, got Equ"),
    (lambda: batch(binning=FixedDuration(None, 9)), "FixedDuration with a number of steps, got Fi"),
    (lambda: batch(size=12), r"size must be None or in 1\.\.11, got 12"),
    (lambda: encode_bin(one(x=256)), "x must be at most 255 in a .bin file, got 256 at 0"),
    (lambda: encode_bin(one(y=240)), "y must be at most 255 and not 240 in a .bin file, got 240"),
    (lambda: encode_bin(one(t=1 << 23)), "t must be below 8388608 in a .bin file"),
    (lambda: encode_bin(one().head(0)), "at least one event, got none"),
    (lambda: film_images(IMAGES, [], "out", SETTING), "different names, at least one"),
    (lambda: film_images(IMAGES, ["a/0"] * 2, "out", SETTING), "different names"),
    (lambda: film_images(IMAGES[:1], ["../0"], "out", SETTING), "an id must be <class>/<name>"),
    (lambda: film_images(IMAGES, ["a/0"], "out", SETTING), r"images must be \(1, H0, W0\)"),
    (lambda: film_images(IMAGES, ["a/0", "a/1"], "out", SETTING, workers=0), "workers must be"),
    (lambda: film_images(IMAGES, ["a/0", "a/1"], __file__, SETTING), "out must be a folder, .* is"),
    (lambda: Setting(PATH, QUIET, -1, {}), "seed must be a whole number >= 0, got -1"),
    (lambda: Setting(saccade(9_000_000), QUIET, 0, {}), "must end by 8388608 us"),
    (lambda: simulate_dataset("cifar11", root=".", out="o"), "'cifar11'. Did you mean 'cifar10'"),
    (lambda: simulate_dataset("nmnist", out="o"), "nmnist holds events; what can be filmed is im"),
    (lambda: simulate_dataset("digits", root=".", out="o"), "digits is built in and takes no fol"),
    (lambda: simulate_dataset(root=".", out="o", per_class=0), "per_class must be >= 1, got 0"),
]


@pytest.mark.parametrize(
    ("call", "words"),
    [*RECORDINGS, *FRAMES, *SETS, *IMAGE_ROWS, *SAMPLES, *PROTOCOLS, *CAMERAS],
)
def test_refused_by_name(call, words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        call()
    assert list(tmp_path.iterdir()) == []


AUGMENT_ROWS = [
    ("flip", "must be a list of names or mappings, got 'flip'"),
    (["flop"], "unknown augmentation 'flop'. Did you mean 'flip'"),
    ([{"pixels": 3}], "a row must be a name or a mapping with a name"),
    ([3], "a row must be a name or a mapping with a name, got 3"),
    ([{"name": "roll", "pixel": 3}], "unknown argument 'pixel' .* Did you mean 'pixels'"),
    ([{"name": "roll", "pixels": 1.5}], "augment roll: pixels must be int, got 1.5"),
    ([{"name": "roll", "pixels": -1}], "roll: pixels must be >= 0, got -1"),
    ([{"name": "flip", "p": 1.5}], r"flip: p must be in 0\.\.1, got 1.5"),
    ([{"name": "rotate", "degrees": 200}], r"rotate: degrees must be in 0\.\.180, got 200"),
    ([{"name": "shear", "degrees": 90}], r"shear: degrees must be in 0\.\.90, got 90"),
    ([{"name": "erase", "smallest": 0.5}], r"erase: smallest must be in 0\.\.largest"),
    ([{"name": "resized_crop", "scale": 0}], "resized_crop: scale must be in .*, got 0"),
    ([{"name": "mixup", "alpha": 0}], "mixup: alpha must be > 0, got 0"),
    ([{"name": "mixup", "classes": 3}], "augment mixup: classes comes from the data set"),
    ([{"name": "one_of", "choices": []}], "one_of: choices must be at least one"),
    ([{"name": "one_of"}], "augment one_of: choices is required"),
    ([{"name": "one_of", "choices": "flip"}], "choices must be a list of rows, got 'flip'"),
    ([{"name": "one_of", "choices": ["mixup"]}], "one_of: mixup makes soft labels"),
    (["randaugment"], "augment randaugment: it needs the .* of the data set's images"),
]


@pytest.mark.parametrize(("rows", "word"), AUGMENT_ROWS)
def test_a_row_of_augment(rows, word):
    with pytest.raises(ValueError, match=word):
        create_augmentation(rows, classes=10)


PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
ONE = torch.zeros(1).long()
BATCHES = [
    (Flip(), torch.zeros(1, 2, 4, 4), ONE, r"flip: x must be \(T, N, P, H, W\)"),
    (Flip(), torch.zeros(2, 3, 1, 4, 4), ONE, r"flip: x must be .* got .* and \(1,\)"),
    (Flip(), torch.zeros(2, 1, 1, 4, 4).byte(), ONE, "flip: x must be of floating point"),
    (EventDrop(), torch.full((2, 1, 2, 4, 4), 0.5), ONE, "event_drop: .* whole counts"),
    (Mixup(4), torch.zeros(2, 1, 2, 4, 4), torch.ones(1, 3), r"labels must be .* got \(1, 3\)"),
    (RandAugment(**PLAIN), torch.full((1, 1, 3, 8, 8), 9.0), ONE, "mean and std must be those"),
    (RandAugment(**PLAIN), torch.rand(1, 1, 2, 8, 8), ONE, "randaugment is for colour images"),
]


@pytest.mark.parametrize(("augment", "x", "y", "word"), BATCHES)
def test_a_batch_that_an_augmentation_cannot_take(augment, x, y, word):
    with pytest.raises(ValueError, match=word):
        augment(x, y, torch.Generator())


HEAD = "class,startTime_usec,endTime_usec\n"
GESTURES = [
    ("", "is empty"),
    ("1,2,3\n", "first line must be class,startTime_usec,endTime_usec"),
    (HEAD, "holds no gestures"),
    (HEAD + "1,2\n", "line 2 must be three whole numbers"),
    (HEAD + "\n1,-2,4\n", "line 3 must be three whole numbers"),
    (HEAD + "12,2,4\n", r"class must be in 1\.\.11, got 12"),
    (HEAD + "3,4,4\n", "the end 4 must be after the start 4"),
]


@pytest.mark.parametrize(("text", "word"), GESTURES)
def test_a_table_of_gestures(text, word, tmp_path):
    path = tmp_path / "g_labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"g_labels.csv: .*{word}"):
        gesture_segments(path)

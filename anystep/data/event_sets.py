"""The published event data sets, read where they lie: the original release, SpikingJelly's folders and Tonic's.

Nothing is downloaded. A sample's id is the same in every layout, and samples are ordered by id, never by the file system.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anystep._warnings import AnystepWarning
from anystep.data.frames import BINNINGS, Binning, Encoding
from anystep.data.layouts import (
    PARTS,
    TONIC_PARTS,
    Folder,
    any_depth,
    check_complete,
    cut_gesture,
    folders_in,
    nothing_found,
    places,
    released_gestures,
    root_folder,
    tonic_gesture,
    two_levels,
)
from anystep.data.protocols import Split, natural, number_in, rule_of, split
from anystep.data.recordings import Look, Sample, stack_frames
from anystep.data.sets import FrameSet, Splits

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter clockwise"),
    *("left arm clockwise", "left arm counter clockwise", "arm roll", "air drums", "air guitar", "other gestures"),
)
CALTECH_CLASSES = 101
_SPIKINGJELLY_FRAMES = re.compile(r"frames_number_([0-9]+)_split_by_(number|time)")
_CUT_BY = {"number": "equal_count", "time": "equal_time"}


def nmnist(
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    root: Folder | None = None,
    size: int | None = None,
    interpolation: str = "nearest",
    protocol: str = "nmnist/official",
    skip_bad: bool = False,
) -> Splits:
    """N-MNIST: 60,000 + 10,000 digits on a 34 x 34 sensor, moved by three saccades of 100 ms (Orchard et al. 2015).

    root   the folder with {Train,Test}/<digit>/*.bin, or one above it called NMNIST or extract, or SpikingJelly's root
    """
    wanted = "Train/<digit>/*.bin and Test/<digit>/*.bin, or SpikingJelly's events_np/train/<digit>/*.npz"
    look = _look("nmnist", binning, size, interpolation, sensor=(34, 34), from_first=False)
    _check_protocol("nmnist", protocol)
    base = root_folder("nmnist", root, wanted)
    for folder, suffixes in places(base, ("", "NMNIST", "extract"), (".bin",)):
        entries = [each for each in two_levels(folder, suffixes, PARTS) if each.group in DIGITS and each.part]
        if entries:
            break
    else:
        raise nothing_found("nmnist", base, wanted)
    for part in ("train", "test"):
        check_complete("nmnist", base, {each.group for each in entries if each.part == part}, DIGITS, f" in {part}")
    samples = [Sample(f"{e.part}/{e.group}/{e.path.stem}", DIGITS.index(e.group), e.path, e.part) for e in entries]
    return _splits("nmnist", samples, DIGITS, look, protocol=protocol, cache=cache, workers=workers, skip_bad=skip_bad)


def ncaltech101(
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    root: Folder | None = None,
    size: int | None = None,
    interpolation: str = "nearest",
    protocol: str = "ncaltech101/90-10-per-class",
    skip_bad: bool = False,
) -> Splits:
    """N-Caltech101: 8,709 recordings of 101 classes (the background is one) by three saccades (Orchard et al. 2015).

    root   the folder with <class>/*.bin, or one above it called Caltech101 or extract, or SpikingJelly's root

    Recordings differ in size: of each, the pixels in use (x and y shifted to start at 0, up to the largest) are stretched to
    `size` x `size`, so `size` must be given. BrainCog, the code of TKS, does so; SpikingJelly keeps 180 x 240 for all.
    """
    wanted = "the 101 folders <class>/*.bin (Caltech101), or SpikingJelly's events_np/<class>/*.npz"
    look = _look("ncaltech101", binning, size, interpolation, sensor=(180, 240), from_first=False, tight=True)
    if size is None:
        raise ValueError("ncaltech101: size must be given, such as 48: the recordings differ in size, got None")
    _check_protocol("ncaltech101", protocol)
    base = root_folder("ncaltech101", root, wanted)
    below = ("", "Caltech101", "extract", "extract/Caltech101", "NCALTECH101/Caltech101")
    for folder, suffixes in places(base, below, (".bin",)):
        entries = two_levels(folder, suffixes, {})
        if entries:
            break
    else:
        raise nothing_found("ncaltech101", base, wanted)
    classes = tuple(sorted({each.group for each in entries}))
    if len(classes) != CALTECH_CLASSES:
        raise ValueError(
            f"ncaltech101: {base} must hold {CALTECH_CLASSES} folders of classes, got {len(classes)}; "
            "events-folder reads a part of them as a data set of its own"
        )
    samples = [Sample(f"{e.group}/{e.path.stem}", classes.index(e.group), e.path) for e in entries]
    return _splits("ncaltech101", samples, classes, look, protocol=protocol, cache=cache, workers=workers, skip_bad=skip_bad)


def cifar10_dvs(
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    root: Folder | None = None,
    size: int | None = None,
    interpolation: str = "nearest",
    protocol: str = "cifar10-dvs/last-100",
    skip_bad: bool = False,
) -> Splits:
    """CIFAR10-DVS: 1,000 images of each class of CIFAR-10, moved before a DVS128 of 128 x 128 (Li et al. 2017).

    root   the folder with <class>/*.aedat (or Tonic's .aedat4), or one above it called CIFAR10DVS or extract, or
           SpikingJelly's root

    There is no official split; see docs/data.md for the two that papers use. Ids are <class>/<number of the file>.
    """
    wanted = "airplane/*.aedat to truck/*.aedat (Tonic: *.aedat4), or SpikingJelly's events_np/<class>/*.npz"
    look = _look("cifar10-dvs", binning, size, interpolation, sensor=(128, 128))
    _check_protocol("cifar10-dvs", protocol)
    base = root_folder("cifar10-dvs", root, wanted)
    for folder, suffixes in places(base, ("", "CIFAR10DVS", "extract"), (".aedat", ".aedat4")):
        entries = [each for each in two_levels(folder, suffixes, {}) if each.group in CIFAR10]
        if entries:
            break
    else:
        raise nothing_found("cifar10-dvs", base, wanted)
    check_complete("cifar10-dvs", base, {each.group for each in entries}, CIFAR10)
    samples = []
    for each in entries:
        number = number_in(each.path.stem)
        if number < 0:
            raise ValueError(f"cifar10-dvs: the name of a recording must end in its number, got {each.path}")
        samples.append(Sample(f"{each.group}/{number}", CIFAR10.index(each.group), each.path))
    return _splits("cifar10-dvs", samples, CIFAR10, look, protocol=protocol, cache=cache, workers=workers, skip_bad=skip_bad)


def dvs_gesture(
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    root: Folder | None = None,
    size: int | None = None,
    interpolation: str = "nearest",
    protocol: str = "dvs-gesture/users",
    skip_bad: bool = False,
) -> Splits:
    """DVS-Gesture: 11 gestures of 29 persons on a DVS128 of 128 x 128 (Amir et al. 2017).

    root   the folder with userNN_<light>.aedat, their _labels.csv and trials_to_{train,test}.txt (DvsGesture), or one above
           it, or Tonic's folder with ibmGestureTrain and ibmGestureTest, or SpikingJelly's root

    Every gesture starts its clock at its first event. Ids are userNN_<light>/<label>_<k>, k counting the gestures of that
    label in the recording. The release has more gestures than Tonic's folder: accuracies on the two have other hashes.
    """
    wanted = "userNN_<light>.aedat with userNN_<light>_labels.csv, ibmGestureTrain/userNN_<light>/<label>.npy (Tonic), "
    wanted += "or events_np/train/<label>/userNN_<light>_<k>.npz (SpikingJelly)"
    look = _look("dvs-gesture", binning, size, interpolation, sensor=(128, 128))
    _check_protocol("dvs-gesture", protocol)
    base = root_folder("dvs-gesture", root, wanted)
    samples: list[Sample] = []
    for place in ("", "DvsGesture", "extract/DvsGesture"):
        samples = samples or released_gestures(base / place)
    for place in ("", "DVSGesture"):
        samples = samples or [tonic_gesture(e) for e in two_levels(base / place, (".npy",), TONIC_PARTS) if e.part]
    for place in ("events_np", ""):
        samples = samples or [cut_gesture(e) for e in two_levels(base / place, (".npz",), PARTS) if e.part]
    if not samples:
        raise nothing_found("dvs-gesture", base, wanted)
    return _splits("dvs-gesture", samples, GESTURES, look, protocol=protocol, cache=cache, workers=workers, skip_bad=skip_bad)


def events_folder(
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    root: Folder | None = None,
    sensor: Sequence[int] | None = None,
    size: int | None = None,
    interpolation: str = "nearest",
    protocol: str | None = None,
) -> Splits:
    """Your own recordings: a folder a class, in every format that `read_events` knows.

    root       holds <class>/.../<file>, or train/<class>/... and test/<class>/...
    sensor     (height, width), for formats that do not say it, such as .npz
    protocol   None: "events-folder/given" if there are train and test, else "random-90-10@0"

    Time counts from a recording's first event. Ids are paths below root without the suffix; classes are in the order of
    their names. Recordings of different sizes need `size`.
    """
    wanted = "<class>/.../<recording>, or train/<class>/... and test/<class>/..."
    camera = None if sensor is None else _sensor("events-folder", sensor)
    look = _look("events-folder", binning, size, interpolation, sensor=camera)
    if protocol is not None:
        _check_protocol("events-folder", protocol)
    base = root_folder("events-folder", root, wanted)
    parts = {path.name.lower(): path for path in folders_in(base)}
    if set(PARTS) <= set(parts):
        if extra := sorted(set(parts) & {"val", "valid", "validation"}):
            raise ValueError(
                f"events-folder: {parts[extra[0]]} lies beside train and test, but validation is carved from train: "
                "move its recordings there"
            )
        entries = [each for part in PARTS for each in any_depth(parts[part], part)]
    else:
        entries = list(any_depth(base, None))
    if not entries:
        raise nothing_found("events-folder", base, wanted)
    classes = tuple(sorted({each.group for each in entries}))
    samples = [
        Sample(each.path.relative_to(base).with_suffix("").as_posix(), classes.index(each.group), each.path, each.part)
        for each in entries
    ]
    chosen = protocol or ("events-folder/given" if entries[0].part else "random-90-10@0")
    return _splits("events-folder", samples, classes, look, protocol=chosen, cache=cache, workers=workers, skip_bad=False)


def _look(
    name: str,
    binning: Encoding,
    size: int | None,
    interpolation: str,
    *,
    sensor: tuple[int, int] | None,
    from_first: bool = True,
    tight: bool = False,
) -> Look:
    """The record of how frames are made, or an error for images' encodings."""
    if not isinstance(binning, Binning):
        raise ValueError(f"{name} holds events: its binning must be one of {', '.join(BINNINGS)}, got {binning.name}")
    return Look(binning, size, interpolation, sensor, from_first, tight)


def _sensor(name: str, sensor: Sequence[int]) -> tuple[int, int]:
    whole = [isinstance(each, int) and not isinstance(each, bool) and each >= 1 for each in sensor]
    if len(whole) != 2 or not all(whole):
        raise ValueError(f"{name}: sensor must be (height, width), each >= 1, got {sensor!r}")
    return sensor[0], sensor[1]


def _check_protocol(name: str, protocol: str) -> None:
    """A protocol is for its data set; `random-90-10@SEED` and `fold-K-of-N@SEED` are for any."""
    rule_of(protocol)
    if not protocol.startswith((f"{name}/", "random-", "fold-")):
        raise ValueError(
            f"{name}: protocol must be one of {name}/..., random-90-10@SEED or fold-K-of-N@SEED, got {protocol!r}"
        )


def _splits(
    name: str,
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    look: Look,
    *,
    protocol: str,
    cache: Folder | None,
    workers: int | None,
    skip_bad: bool,
) -> Splits:
    """Frames of all samples in the order of their ids, split by `protocol`. Skipped samples change the hash of the split."""
    described = look.binning.describe()
    ordered = sorted(samples, key=lambda sample: natural(sample.id))
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise ValueError(f"{name}: two files are the sample {one.id}: {one.path} and {other.path}; keep one of them")
    if finished := _spikingjelly(name, ordered[0].path, look):
        ordered, described = [replace(each, frames=True) for each in ordered], {**described, "cut_by": finished}
    labels = np.array([sample.label for sample in ordered], dtype=np.int64)
    ids = [sample.id for sample in ordered]
    parts = split(protocol, labels, ids=ids, parts=[sample.part for sample in ordered])
    stack = stack_frames(name, ordered, look, cache=cache, workers=workers, skip_bad=skip_bad)
    if stack.bad:
        index, message = next(iter(stack.bad.items()))
        text = f"{name}: left out {len(stack.bad)} of {len(ordered)} recordings that cannot be read"
        warnings.warn(f"{text}; the first, {ids[index]}: {message}", AnystepWarning, stacklevel=3)
        parts = Split(protocol, *(_without(part, stack.bad) for part in (parts.train, parts.val, parts.test)))
    data = FrameSet(stack.frames, labels, ids)
    return Splits(
        train=data.subset(parts.train),
        val=data.subset(parts.val),
        test=data.subset(parts.test),
        classes=classes,
        protocol=parts.name,
        protocol_hash=parts.hash,
        causal=look.binning.causal,
        binning=described,
    )


def _without(part: NDArray[np.int64], bad: dict[int, str]) -> NDArray[np.int64]:
    return part[~np.isin(part, list(bad))]


def _spikingjelly(name: str, path: Path, look: Look) -> str | None:
    """Who cut the frames if the path goes through SpikingJelly's folder of finished ones, which must be of the binning."""
    for folder in path.parents:
        if found := _SPIKINGJELLY_FRAMES.fullmatch(folder.name):
            steps, cut = int(found[1]), _CUT_BY[found[2]]
            if (look.binning.name, look.binning.steps) != (cut, steps):
                raise ValueError(
                    f"{name}: {folder} holds {steps} frames cut by {cut}, the binning is {look.binning.describe()}; "
                    "give the folder above it as root to cut the events themselves"
                )
            return "spikingjelly"
    return None

"""Which recordings an event data set has in a folder, in every layout: found by their names, before
any file is opened.

Nothing is downloaded. A sample's id is the same in every layout, and samples are ordered by id,
never by the file system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.data.camera.film import CAMERA_FILE, filmed
from anystep.data.events.layouts import (
    PARTS,
    TONIC_PARTS,
    Folder,
    any_depth,
    check_complete,
    cut_gesture,
    first_place,
    folders_in,
    nothing_found,
    released_gestures,
    root_folder,
    tonic_gesture,
    two_levels,
)
from anystep.data.events.stack import Sample
from anystep.data.images.cifar import CIFAR10_CLASSES
from anystep.data.protocols import Split, natural, number_in, rule_of, split

DIGITS = tuple("0123456789")
GESTURES = (
    *(
        "hand clapping",
        "right hand wave",
        "left hand wave",
        "right arm clockwise",
        "right arm counter clockwise",
    ),
    *(
        "left arm clockwise",
        "left arm counter clockwise",
        "arm roll",
        "air drums",
        "air guitar",
        "other gestures",
    ),
)
CALTECH_CLASSES = 101
_SPIKINGJELLY_FRAMES = re.compile(r"frames_number_([0-9]+)_split_by_(number|time)")
_CUT_BY = {"number": "equal_count", "time": "equal_time"}

Found = tuple[list[Sample], tuple[str, ...]]  # samples, in any order, and the classes


@dataclass(frozen=True)
class Source:
    """An event data set: what its folder must hold, and who looks for it there.

    find       gives the samples below a folder and the classes; no samples if nothing of the data
               set is there
    protocol   the default split; None: the train and test of the folder if it has them, else
               "random-90-10@0"
    sensor     (height, width); None: the files say it
    """

    wanted: str
    find: Callable[[Path], Found]
    protocol: str | None
    sensor: tuple[int, int] | None


@dataclass(frozen=True)
class FinishedFrames:
    """Frames that SpikingJelly cut: in which folder, by which binning, and how many of a recording."""

    folder: Path
    binning: str
    steps: int


@dataclass(frozen=True)
class Catalogue:
    """The recordings of a data set in the order of their ids, known by their names alone.

    name       of the data set
    root       the folder that was given
    samples    every recording: id, label, file
    classes    the name of every label
    protocol   the name of the split that applies
    sensor     (height, width), None: the files say it
    finished   what SpikingJelly made, if the files hold finished frames
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    protocol: str
    sensor: tuple[int, int] | None
    finished: FinishedFrames | None

    @property
    def labels(self) -> NDArray[np.int64]:
        """(M,), one a sample."""
        return np.array([sample.label for sample in self.samples], dtype=np.int64)

    @property
    def ids(self) -> list[str]:
        """The names of the samples."""
        return [sample.id for sample in self.samples]

    def split(self) -> Split:
        """Which samples train, choose and test."""
        return split(
            self.protocol, self.labels, ids=self.ids, parts=[sample.part for sample in self.samples]
        )


def find_recordings(
    name: str,
    root: Folder | None,
    *,
    protocol: str | None = None,
    sensor: Sequence[int] | None = None,
) -> Catalogue:
    """The recordings of row `name` of SOURCES in the folder `root`.

    protocol   None takes the row's default
    sensor     (height, width); None takes the row's, and where it has none each file's own

    ValueError: a folder that is missing, empty or incomplete, with what it must hold; a protocol of
    another data set.
    """
    source = choose(SOURCES, name, "event data set")
    if protocol is not None:
        check_protocol(name, protocol)
    camera = source.sensor if sensor is None else check_sensor(name, sensor)
    base = root_folder(name, root, source.wanted)
    samples, classes = source.find(base)
    if not samples:
        raise nothing_found(name, base, source.wanted)
    ordered = sorted(samples, key=lambda sample: natural(sample.id))
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise UsageError(
                f"{name}: two files are the sample {one.id}: {one.path} and {other.path}; keep one of them"
            )
    given = f"{name}/given" if ordered[0].part else "random-90-10@0"
    finished = _finished_frames(ordered[0].path)
    return Catalogue(
        name, base, tuple(ordered), classes, protocol or source.protocol or given, camera, finished
    )


def check_protocol(name: str, protocol: str) -> None:
    """A protocol is for its data set; `random-90-10@SEED` and `fold-K-of-N@SEED` are for any."""
    rule_of(protocol)
    if not protocol.startswith((f"{name}/", "random-", "fold-")):
        raise UsageError(
            f"{name}: protocol must be one of {name}/..., random-90-10@SEED or fold-K-of-N@SEED, got {protocol!r}"
        )


def check_sensor(name: str, sensor: Sequence[int]) -> tuple[int, int]:
    """`sensor` as (height, width), if it is that."""
    sides = list(sensor) if isinstance(sensor, Sequence) else []
    whole = [isinstance(each, int) and not isinstance(each, bool) and each >= 1 for each in sides]
    if len(whole) != 2 or not all(whole):
        raise UsageError(f"{name}: sensor must be (height, width), each >= 1, got {sensor!r}")
    return sides[0], sides[1]


def _nmnist(base: Path) -> Found:
    entries = first_place(base, ("", "NMNIST", "extract"), (".bin",), PARTS, groups=DIGITS)
    for part in PARTS if entries else ():
        check_complete(
            "nmnist",
            base,
            {each.group for each in entries if each.part == part},
            DIGITS,
            f" in {part}",
        )
    return [
        Sample(f"{e.part}/{e.group}/{e.path.stem}", DIGITS.index(e.group), e.path, e.part)
        for e in entries
    ], DIGITS


def _ncaltech101(base: Path) -> Found:
    below = ("", "Caltech101", "extract", "extract/Caltech101", "NCALTECH101/Caltech101")
    entries = first_place(base, below, (".bin",), {})
    classes = tuple(sorted({each.group for each in entries}))
    if entries and len(classes) != CALTECH_CLASSES:
        raise UsageError(
            f"ncaltech101: {base} must hold {CALTECH_CLASSES} folders of classes, got {len(classes)}; "
            "events-folder reads a part of them as a data set of its own"
        )
    return [
        Sample(f"{each.group}/{each.path.stem}", classes.index(each.group), each.path)
        for each in entries
    ], classes


def _cifar10_dvs(base: Path) -> Found:
    entries = first_place(
        base, ("", "CIFAR10DVS", "extract"), (".aedat", ".aedat4"), {}, groups=CIFAR10_CLASSES
    )
    if entries:
        check_complete("cifar10-dvs", base, {each.group for each in entries}, CIFAR10_CLASSES)
    samples = []
    for each in entries:
        number = number_in(each.path.stem)
        if number < 0:
            raise UsageError(
                f"cifar10-dvs: the name of a recording must end in its number, got {each.path}"
            )
        samples.append(
            Sample(f"{each.group}/{number}", CIFAR10_CLASSES.index(each.group), each.path)
        )
    return samples, CIFAR10_CLASSES


def _cifar10_sim(base: Path) -> Found:
    return filmed(base, CIFAR10_CLASSES), CIFAR10_CLASSES


def _dvs_gesture(base: Path) -> Found:
    samples: list[Sample] = []
    for place in ("", "DvsGesture", "extract/DvsGesture"):
        samples = samples or released_gestures(base / place)
    for place in ("", "DVSGesture"):
        samples = samples or [
            tonic_gesture(e) for e in two_levels(base / place, (".npy",), TONIC_PARTS) if e.part
        ]
    for place in ("events_np", ""):
        samples = samples or [
            cut_gesture(e) for e in two_levels(base / place, (".npz",), PARTS) if e.part
        ]
    return samples, GESTURES


def _events_folder(base: Path) -> Found:
    parts = {path.name.lower(): path for path in folders_in(base)}
    if set(PARTS) <= set(parts):
        if extra := sorted(set(parts) & {"val", "valid", "validation"}):
            raise UsageError(
                f"events-folder: {parts[extra[0]]} lies beside train and test, but validation is carved from train: "
                "move its recordings there"
            )
        entries = [each for part in PARTS for each in any_depth(parts[part], part)]
    else:
        entries = list(any_depth(base, None))
    classes = tuple(sorted({each.group for each in entries}))
    samples = [
        Sample(
            each.path.relative_to(base).with_suffix("").as_posix(),
            classes.index(each.group),
            each.path,
            each.part,
        )
        for each in entries
    ]
    return samples, classes


def _finished_frames(path: Path) -> FinishedFrames | None:
    """What SpikingJelly made, if the path goes through its folder of finished frames."""
    for folder in path.parents:
        if found := _SPIKINGJELLY_FRAMES.fullmatch(folder.name):
            return FinishedFrames(folder, _CUT_BY[found[2]], int(found[1]))
    return None


SOURCES: dict[str, Source] = {
    "nmnist": Source(
        "Train/<digit>/*.bin and Test/<digit>/*.bin, or SpikingJelly's events_np/train/<digit>/*.npz",
        _nmnist,
        "nmnist/official",
        (34, 34),
    ),
    "ncaltech101": Source(
        "the 101 folders <class>/*.bin (Caltech101), or SpikingJelly's events_np/<class>/*.npz",
        _ncaltech101,
        "ncaltech101/90-10-per-class",
        (180, 240),
    ),
    "cifar10-dvs": Source(
        "airplane/*.aedat to truck/*.aedat (Tonic: *.aedat4), or SpikingJelly's events_np/<class>/*.npz",
        _cifar10_dvs,
        "cifar10-dvs/last-100",
        (128, 128),
    ),
    "cifar10-sim": Source(
        f"{CAMERA_FILE} and <class>/<number>.bin, as `anystep data simulate` makes them",
        _cifar10_sim,
        "cifar10-sim/last-100",
        (128, 128),
    ),
    "dvs-gesture": Source(
        "userNN_<light>.aedat with userNN_<light>_labels.csv, ibmGestureTrain/userNN_<light>/<label>.npy (Tonic), "
        "or events_np/train/<label>/userNN_<light>_<k>.npz (SpikingJelly)",
        _dvs_gesture,
        "dvs-gesture/users",
        (128, 128),
    ),
    "events-folder": Source(
        "<class>/.../<recording>, or train/<class>/... and test/<class>/...",
        _events_folder,
        None,
        None,
    ),
}

"""The published event data sets, and which recordings a folder has of them.

A sample's id is the same in every layout; samples are ordered by id, never by the file system.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._lookup import choose
from anystep.data.camera.film import CAMERA_FILE
from anystep.data.events.layouts import (
    PARTS,
    TONIC_PARTS,
    Folder,
    Sample,
    any_depth,
    check_complete,
    check_filmed,
    cut_gesture,
    filmed,
    filmed_sensor,
    first_place,
    folders_in,
    released_gestures,
    tonic_gesture,
    two_levels,
)
from anystep.data.groups import SLICE, cut_apart
from anystep.data.images.cifar import CIFAR10_CLASSES
from anystep.data.protocols import Split, check_protocol, split
from anystep.data.readers import read_events
from anystep.data.recording import Events
from anystep.data.rules import natural, number_in

DIGITS = tuple("0123456789")
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave"),
    *("right arm clockwise", "right arm counter clockwise"),
    *("left arm clockwise", "left arm counter clockwise"),
    *("arm roll", "air drums", "air guitar", "other gestures"),
)
CALTECH_CLASSES = 101
_SPIKINGJELLY_FRAMES = re.compile(r"frames_number_([0-9]+)_split_by_(number|time)")
_CUT_BY = {"number": "equal_count", "time": "equal_time"}

Found = tuple[list[Sample], tuple[str, ...]]  # samples, in any order, and the classes


@dataclass(frozen=True)
class EventSet:
    """A row of EVENT_SETS.

    find         gives the samples below a folder (none: nothing of the data set is there) and the
                 classes; its docstring says what the data set is
    holds        what the folder must hold, for people
    protocol     the default split; None: the train and test of the folder if it has them, else
                 "random-90-10@0", or of slices "grouped-70-10-20@0"
    sensor       (height, width); None: the files say it
    from_first   time counts from a recording's first event, not from the clock's zero
    tight        of each recording the pixels in use are stretched to `size`
    formats      rows of READERS by suffix, where its files are not read as the suffix says
    """

    find: Callable[[Path], Found]
    holds: str
    protocol: str | None
    sensor: tuple[int, int] | None
    from_first: bool = True
    tight: bool = False
    formats: Mapping[str, str] = field(default_factory=dict)


def _nmnist(base: Path) -> Found:
    """N-MNIST: 60,000 + 10,000 digits, moved by three saccades (Orchard et al. 2015).

    34 x 34 pixels, 300 ms. `root` has {Train,Test}/<digit>/*.bin, below NMNIST or extract, or is
    SpikingJelly's.
    """
    entries = first_place(base, ("", "NMNIST", "extract"), (".bin",), PARTS, groups=DIGITS)
    for part in PARTS if entries else ():
        there = {each.group for each in entries if each.part == part}
        check_complete("nmnist", base, there, DIGITS, f" in {part}")
    samples = [
        Sample(f"{e.part}/{e.group}/{e.path.stem}", int(e.group), e.path, e.part) for e in entries
    ]
    return samples, DIGITS


def _ncaltech101(base: Path) -> Found:
    """N-Caltech101: 8,709 recordings of 101 classes, the background is one (Orchard et al. 2015).

    `root` has <class>/*.bin, below Caltech101 or extract, or is SpikingJelly's.

    Recordings differ in size: of each, the pixels in use (x and y shifted to start at 0, up to the
    largest) are stretched to `size` x `size`, which must be given, and are known at its end: no
    binning is causal. BrainCog, the code of TKS, does so; SpikingJelly keeps 180 x 240 for all.
    """
    below = ("", "Caltech101", "extract", "extract/Caltech101", "NCALTECH101/Caltech101")
    entries = first_place(base, below, (".bin",), {})
    classes = tuple(sorted({each.group for each in entries}))
    if entries and len(classes) != CALTECH_CLASSES:
        text = f"{base} must hold {CALTECH_CLASSES} folders of classes, got {len(classes)}"
        raise UsageError(f"ncaltech101: {text}; events-folder reads a part of them")
    samples = [Sample(f"{e.group}/{e.path.stem}", classes.index(e.group), e.path) for e in entries]
    return samples, classes


def _cifar10_dvs(base: Path) -> Found:
    """CIFAR10-DVS: 1,000 images of each class of CIFAR-10 before a DVS128 (Li et al. 2017).

    `root` has <class>/*.aedat (Tonic: .aedat4), below CIFAR10DVS or extract, or is SpikingJelly's.
    There is no official split; docs/data.md has the two that papers use. Ids: <class>/<number>.
    """
    places = ("", "CIFAR10DVS", "extract")
    entries = first_place(base, places, (".aedat", ".aedat4"), {}, groups=CIFAR10_CLASSES)
    if entries:
        check_complete("cifar10-dvs", base, {each.group for each in entries}, CIFAR10_CLASSES)
    samples = []
    for each in entries:
        number, label = number_in(each.path.stem), CIFAR10_CLASSES.index(each.group)
        if number < 0:
            rule = "the name of a recording must end in its number"
            raise UsageError(f"cifar10-dvs: {rule}, got {each.path}")
        samples.append(Sample(f"{each.group}/{number}", label, each.path))
    return samples, CIFAR10_CLASSES


def _cifar10_sim(base: Path) -> Found:
    """CIFAR-10 filmed by the simulated camera: 1,000 training images of each class at 128 x 128.

    `root` is the folder that `anystep data simulate --images cifar10 --out DIR` made: of the size
    of CIFAR10-DVS, not its recordings. Ids are <class>/<number>; time is the film's own clock.
    """
    return filmed(base, CIFAR10_CLASSES), CIFAR10_CLASSES


def _dvs_gesture(base: Path) -> Found:
    """DVS-Gesture: 11 gestures of 29 persons before a DVS128 (Amir et al. 2017).

    `root` has userNN_<light>.aedat, their _labels.csv and trials_to_{train,test}.txt, perhaps below
    DvsGesture; or Tonic's ibmGestureTrain and ibmGestureTest; or is SpikingJelly's.

    Ids are userNN_<light>/<label>_<k>, k counting the gestures of that label in the recording. The
    release has more gestures than Tonic's folder: accuracies on the two have other hashes.
    """
    for place in ("", "DvsGesture", "extract/DvsGesture"):
        if samples := released_gestures(base / place):
            return samples, GESTURES
    for place in ("", "DVSGesture"):
        if tonic := two_levels(base / place, (".npy",), TONIC_PARTS):
            return [tonic_gesture(each) for each in tonic], GESTURES
    cut = first_place(base, (), (), PARTS)
    return [cut_gesture(each) for each in cut], GESTURES


def _events_folder(base: Path) -> Found:
    """Your own recordings: a folder a class, in every format that `read_events` knows.

    `root` has <class>/.../<file>, or train/<class>/... and test/<class>/... `sensor` is for formats
    that do not say it, such as .npz; of a film camera.json says it. Recordings of different sizes
    need `size`. Time counts from a recording's first event. Ids are paths below root without the
    suffix.
    """
    parts = {path.name.lower(): path for path in folders_in(base)}
    if set(PARTS) <= set(parts):
        if extra := sorted(set(parts) & {"val", "valid", "validation"}):
            text = f"{parts[extra[0]]} lies beside train and test, but validation is carved"
            raise UsageError(f"events-folder: {text} from train: move its recordings there")
        entries = [each for part in PARTS for each in any_depth(parts[part], part)]
    else:
        entries = list(any_depth(base, None))
    classes = tuple(sorted({each.group for each in entries}))
    samples = []
    for each in entries:
        name = each.path.relative_to(base).with_suffix("").as_posix()
        samples.append(Sample(name, classes.index(each.group), each.path, each.part))
    check_filmed(base, len(samples))
    return samples, classes


EVENT_SETS: dict[str, EventSet] = {
    "nmnist": EventSet(
        _nmnist,
        "{Train,Test}/<digit>/*.bin, or SpikingJelly's events_np/train/<digit>/*.npz",
        protocol="nmnist/official",
        sensor=(34, 34),
        from_first=False,
    ),
    "ncaltech101": EventSet(
        _ncaltech101,
        "the 101 folders <class>/*.bin (Caltech101), or SpikingJelly's events_np/<class>/*.npz",
        protocol="ncaltech101/90-10-per-class",
        sensor=(180, 240),
        from_first=False,
        tight=True,
    ),
    "cifar10-dvs": EventSet(
        _cifar10_dvs,
        "<class>/*.aedat (Tonic: *.aedat4), or SpikingJelly's events_np/<class>/*.npz",
        protocol="cifar10-dvs/last-100",
        sensor=(128, 128),
        formats={".aedat": "cifar10-dvs"},
    ),
    "cifar10-sim": EventSet(
        _cifar10_sim,
        f"{CAMERA_FILE} and <class>/<number>.bin, as `anystep data simulate` makes them",
        protocol="cifar10-sim/last-100",
        sensor=(128, 128),
        from_first=False,
    ),
    "dvs-gesture": EventSet(
        _dvs_gesture,
        "userNN_<light>.aedat with userNN_<light>_labels.csv, or "
        "ibmGestureTrain/userNN_<light>/<label>.npy (Tonic), or "
        "events_np/train/<label>/userNN_<light>_<k>.npz (SpikingJelly)",
        protocol="dvs-gesture/users",
        sensor=(128, 128),
    ),
    "events-folder": EventSet(
        _events_folder,
        "<class>/.../<recording>, or train/<class>/... and test/<class>/...",
        protocol=None,
        sensor=None,
    ),
}


@dataclass(frozen=True)
class FinishedFrames:
    """Frames that SpikingJelly cut: where, by which binning, and how many of a recording."""

    folder: Path
    binning: str
    steps: int


@dataclass(frozen=True)
class Catalogue:
    """The recordings of a data set in the order of their ids, known by their names alone.

    name       of the data set
    root       the folder that was given
    classes    the name of every label
    protocol   the name of the split that applies
    sensor     (height, width), None: the files say it
    formats    rows of READERS by suffix, where the suffix alone does not say it
    finished   what SpikingJelly made, if the files hold finished frames
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    protocol: str
    sensor: tuple[int, int] | None
    formats: Mapping[str, str]
    finished: FinishedFrames | None

    @property
    def labels(self) -> NDArray[np.int64]:
        """(M,), one a sample."""
        return np.array([sample.label for sample in self.samples], dtype=np.int64)

    @property
    def ids(self) -> list[str]:
        """The names of the samples."""
        return [sample.id for sample in self.samples]

    def read(self, path: Path, *, sort: bool) -> Events:
        """The recording in a file; `sort` is that of `read_events`."""
        format = self.formats.get(path.suffix.lower())
        return read_events(path, format=format, sensor=self.sensor, sort=sort)

    def split(self, skip: Sequence[int] = ()) -> Split:
        """Which samples train, choose and test, without those of `skip`: nobody else moves."""
        parts = [sample.part for sample in self.samples]
        own: dict[str, Any] = {"ids": self.ids, "classes": self.classes, "skip": skip}
        drawn = split(self.protocol, self.labels, parts=parts, **own)
        if apart := cut_apart(self.ids, (drawn.train, drawn.val, drawn.test)):
            what = f"slices of {len(apart)} recordings lie in two parts, the first {apart[0]}"
            way_out = "grouped-70-10-20@0 keeps a recording together"
            text = f"{self.protocol}: {what}; scores will look better than they are. {way_out}"
            warnings.warn(text, AnystepWarning, stacklevel=2)
            drawn = replace(drawn, short=f"{drawn.short}{drawn.short and '. '}{text}")
        return drawn


def _finished_frames(path: Path) -> FinishedFrames | None:
    """What SpikingJelly made, if the path goes through its folder of finished frames."""
    for folder in path.parents:
        if found := _SPIKINGJELLY_FRAMES.fullmatch(folder.name):
            return FinishedFrames(folder, _CUT_BY[found[2]], int(found[1]))
    return None


def find_recordings(
    name: str,
    root: Folder | None,
    *,
    protocol: str | None = None,
    sensor: Sequence[int] | None = None,
) -> Catalogue:
    """The recordings of row `name` of EVENT_SETS in the folder `root`; None: as the row has it."""
    row = choose(EVENT_SETS, name, "event data set")
    if protocol is not None:
        check_protocol(name, protocol)
    sides = None
    if sensor is not None:
        given = tuple(sensor) if isinstance(sensor, Sequence) else ()
        if len(given) != 2 or not all(type(side) is int and side >= 1 for side in given):
            raise UsageError(f"{name}: sensor must be (height, width), each >= 1, got {sensor!r}")
        sides = given[0], given[1]
    if root is None or not Path(root).is_dir():
        got = "data.options.root in a recipe" if root is None else f"{str(root)!r} is no folder"
        raise UsageError(f"{name}: root must be the folder that holds {row.holds}; {got}")
    base = Path(root)
    samples, classes = row.find(base)
    sides = sides or row.sensor or filmed_sensor(base)
    if not samples:
        raise UsageError(f"{name}: nothing to read in {base}. It must hold {row.holds}")
    ordered = sorted(samples, key=lambda sample: natural(sample.id))
    for one, other in pairwise(ordered):
        if one.id == other.id:
            paths = f"{one.path} and {other.path}; keep one of them"
            raise UsageError(f"{name}: two files are the sample {one.id}: {paths}")
    sliced = any(SLICE in sample.id for sample in ordered)
    drawn = "grouped-70-10-20@0" if sliced else "random-90-10@0"
    default = row.protocol or (f"{name}/given" if ordered[0].part else drawn)
    finished = _finished_frames(ordered[0].path)
    chosen = protocol or default
    return Catalogue(name, base, tuple(ordered), classes, chosen, sides, row.formats, finished)

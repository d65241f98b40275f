"""The published event data sets, read where they lie: the original release, SpikingJelly's folders
and Tonic's.

Nothing is downloaded. A sample's id is the same in every layout, and samples are ordered by id,
never by the file system.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._lookup import check_keys
from anystep.data.events.catalogue import (
    SOURCES,
    Catalogue,
    check_protocol,
    check_sensor,
    find_recordings,
)
from anystep.data.events.layouts import Folder
from anystep.data.events.stack import Look, stack_frames
from anystep.data.frames import BINNINGS, Binning, Encoding
from anystep.data.protocols import Split
from anystep.data.sets import Splits


class FrameOptions(TypedDict, total=False):
    """How the frames of a row look, and what becomes of recordings that cannot be read."""

    size: int | None
    interpolation: str
    skip_bad: bool


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
    """N-MNIST: 60,000 + 10,000 digits on a 34 x 34 sensor, moved by three saccades of 100 ms
    (Orchard et al. 2015).

    root   the folder with {Train,Test}/<digit>/*.bin, or one above it called NMNIST or extract, or
           SpikingJelly's root
    """
    look = look_of("nmnist", binning, size, interpolation, from_first=False)
    check_protocol("nmnist", protocol)
    found = find_recordings("nmnist", root, protocol=protocol)
    return frames_of(found, look, cache=cache, workers=workers, skip_bad=skip_bad)


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
    """N-Caltech101: 8,709 recordings of 101 classes (the background is one) by three saccades
    (Orchard et al. 2015).

    root   the folder with <class>/*.bin, or one above it called Caltech101 or extract, or
           SpikingJelly's root

    Recordings differ in size: of each, the pixels in use (x and y shifted to start at 0, up to the
    largest) are stretched to `size` x `size`, so `size` must be given. BrainCog, the code of TKS,
    does so; SpikingJelly keeps 180 x 240 for all. Which pixels are in use is known at the end of a
    recording: no binning makes these frames causal.
    """
    look = look_of("ncaltech101", binning, size, interpolation, from_first=False, tight=True)
    if size is None:
        raise UsageError(
            "ncaltech101: size must be given, such as 48: the recordings differ in size, got None"
        )
    check_protocol("ncaltech101", protocol)
    found = find_recordings("ncaltech101", root, protocol=protocol)
    return frames_of(found, look, cache=cache, workers=workers, skip_bad=skip_bad)


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
    """CIFAR10-DVS: 1,000 images of each class of CIFAR-10, moved before a DVS128 of 128 x 128 (Li
    et al. 2017).

    root   the folder with <class>/*.aedat (or Tonic's .aedat4), or one above it called CIFAR10DVS
           or extract, or
           SpikingJelly's root

    There is no official split; see docs/data.md for the two that papers use. Ids are
    <class>/<number of the file>.
    """
    look = look_of("cifar10-dvs", binning, size, interpolation)
    check_protocol("cifar10-dvs", protocol)
    found = find_recordings("cifar10-dvs", root, protocol=protocol)
    return frames_of(found, look, cache=cache, workers=workers, skip_bad=skip_bad)


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

    root   the folder with userNN_<light>.aedat, their _labels.csv and trials_to_{train,test}.txt
           (DvsGesture), or one above
           it, or Tonic's folder with ibmGestureTrain and ibmGestureTest, or SpikingJelly's root

    Every gesture starts its clock at its first event. Ids are userNN_<light>/<label>_<k>, k
    counting the gestures of that label in the recording. The release has more gestures than Tonic's
    folder: accuracies on the two have other hashes.
    """
    look = look_of("dvs-gesture", binning, size, interpolation)
    check_protocol("dvs-gesture", protocol)
    found = find_recordings("dvs-gesture", root, protocol=protocol)
    return frames_of(found, look, cache=cache, workers=workers, skip_bad=skip_bad)


def events_folder(
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    root: Folder | None = None,
    sensor: Sequence[int] | None = None,
    protocol: str | None = None,
    **frames: Unpack[FrameOptions],
) -> Splits:
    """Your own recordings: a folder a class, in every format that `read_events` knows.

    root       holds <class>/.../<file>, or train/<class>/... and test/<class>/...
    sensor     (height, width), for formats that do not say it, such as .npz
    protocol   None: "events-folder/given" if there are train and test, else "random-90-10@0"
    frames     size, interpolation and skip_bad, as the other rows have them

    Time counts from a recording's first event. Ids are paths below root without the suffix; classes
    are in the order of their names. Recordings of different sizes need `size`.
    """
    check_keys(frames, FrameOptions.__annotations__, "option", "dataset events-folder")
    camera = None if sensor is None else check_sensor("events-folder", sensor)
    look = look_of(
        "events-folder",
        binning,
        frames.get("size"),
        frames.get("interpolation", "nearest"),
        sensor=camera,
    )
    if protocol is not None:
        check_protocol("events-folder", protocol)
    found = find_recordings("events-folder", root, protocol=protocol, sensor=camera)
    return frames_of(
        found, look, cache=cache, workers=workers, skip_bad=frames.get("skip_bad", False)
    )


def look_of(
    name: str,
    binning: Encoding,
    size: int | None,
    interpolation: str,
    *,
    sensor: tuple[int, int] | None = None,
    from_first: bool = True,
    tight: bool = False,
) -> Look:
    """The record of how frames are made, or an error for images' encodings."""
    if not isinstance(binning, Binning):
        raise UsageError(
            f"{name} holds events: its binning must be one of {', '.join(BINNINGS)}, got {binning.name}"
        )
    return Look(binning, size, interpolation, sensor or SOURCES[name].sensor, from_first, tight)


def frames_of(
    found: Catalogue, look: Look, *, cache: Folder | None, workers: int | None, skip_bad: bool
) -> Splits:
    """Frames of all recordings, split by their protocol. Skipped recordings change the hash of the
    split.
    """
    described, samples = look.binning.describe(), found.samples
    if found.finished:
        check_finished(found, look)
        samples, described = (
            tuple(replace(each, frames=True) for each in samples),
            {**described, "cut_by": "spikingjelly"},
        )
    parts = found.split()
    stack = stack_frames(found.name, samples, look, cache=cache, workers=workers, skip_bad=skip_bad)
    if stack.bad:
        index, message = next(iter(stack.bad.items()))
        text = f"{found.name}: left out {len(stack.bad)} of {len(samples)} recordings that cannot be read"
        warnings.warn(
            f"{text}; the first, {found.ids[index]}: {message}", AnystepWarning, stacklevel=3
        )
        parts = Split(
            parts.name,
            *(_without(part, stack.bad) for part in (parts.train, parts.val, parts.test)),
        )
    data = stack.with_labels(found.labels, found.ids)
    return Splits(
        train=data.subset(parts.train),
        val=data.subset(parts.val),
        test=data.subset(parts.test),
        classes=found.classes,
        protocol=parts.name,
        protocol_hash=parts.hash,
        causal=look.causal,
        binning=described,
    )


def _without(part: NDArray[np.int64], bad: dict[int, str]) -> NDArray[np.int64]:
    return part[~np.isin(part, list(bad))]


def check_finished(found: Catalogue, look: Look) -> None:
    """Frames that SpikingJelly cut are of the binning asked for, or an error."""
    made = found.finished
    if made and (look.binning.name, look.binning.steps) != (made.binning, made.steps):
        raise UsageError(
            f"{found.name}: {made.folder} holds {made.steps} frames cut by {made.binning}, the binning is "
            f"{look.binning.describe()}; give the folder above it as root to cut the events themselves"
        )

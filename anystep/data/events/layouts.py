"""Where recordings lie: as released, as SpikingJelly or Tonic converted them, or as filmed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from anystep._errors import UsageError
from anystep.data.camera.film import CAMERA_FILE, read_setting
from anystep.data.readers import SUFFIXES
from anystep.data.readers.gestures import CLASSES, Segment, gesture_segments

Folder = str | os.PathLike[str]
PARTS = {"train": "train", "test": "test"}
TONIC_PARTS = {"ibmgesturetrain": "train", "ibmgesturetest": "test"}


@dataclass(frozen=True)
class Sample:
    """One recording.

    id        its name, the same in every layout: membership in a split comes from it
    label     its class
    path      the file
    part      "train" or "test", if the data set says so
    segment   when it is, on the file's clock, if the file holds several recordings
    """

    id: str
    label: int
    path: Path
    part: str | None = None
    segment: Segment | None = None


@dataclass(frozen=True)
class Entry:
    """A file two levels below a folder, perhaps in a part: [part/]group/name."""

    part: str | None
    group: str
    path: Path


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def two_levels(folder: Path, suffixes: tuple[str, ...], parts: dict[str, str]) -> list[Entry]:
    """The files [part/]group/name of these suffixes.

    `parts` gives the folders that are parts, in small letters; without any, groups lie in `folder`.
    """
    if not folder.is_dir():
        return []
    tops: list[tuple[Path, str | None]] = [(folder, None)]
    if parts:
        named = [(each, parts.get(each.name.lower())) for each in folders_in(folder)]
        tops = [(top, part) for top, part in named if part]
    return [
        Entry(part, group.name, Path(file.path))
        for top, part in tops
        for group in folders_in(top)
        for file in os.scandir(group)
        if file.name[0] != "." and file.name.lower().endswith(suffixes)
    ]


def _stop(error: OSError) -> NoReturn:
    raise error


def any_depth(folder: Path, part: str | None) -> Iterator[Entry]:
    """The readable files at any depth below the folders of classes.

    A folder that cannot be listed is an OSError: nobody knows what it holds.
    """
    readable = (*SUFFIXES, ".aedat")
    for group in folders_in(folder):
        for path, _, files in os.walk(group, onerror=_stop):
            for file in files:
                if file[0] != "." and Path(file).suffix.lower() in readable:
                    yield Entry(part, group.name, Path(path) / file)


def first_place(
    root: Path,
    folders: Sequence[str],
    suffixes: tuple[str, ...],
    parts: dict[str, str],
    *,
    groups: Sequence[str] = (),
) -> list[Entry]:
    """The files of the first place that has some: the release, else what SpikingJelly made of it.

    folders   below `root`, that may hold the release
    groups    only these folders of classes count; none given: all
    """
    released = [(folder, suffixes) for folder in folders]
    for folder, endings in (*released, ("events_np", (".npz",)), ("", (".npz",))):
        found = two_levels(root / folder, endings, parts)
        if entries := [each for each in found if not groups or each.group in groups]:
            return entries
    return []


def check_complete(
    name: str, root: Path, found: set[str], classes: Sequence[str], where: str = ""
) -> None:
    """Refuse a release in which a class has no recordings."""
    if lost := [each for each in classes if each not in found]:
        text = f"{name}: {root} has no recordings{where} of {', '.join(lost)}"
        raise UsageError(f"{text}; the release has all {len(classes)} classes")


def released_gestures(folder: Path) -> list[Sample]:
    """The gestures of the release: recordings cut by the tables beside them.

    The recordings are those that the two lists name, without the lists all.
    """
    lists = [folder / f"trials_to_{part}.txt" for part in PARTS]
    texts = [file.read_text(encoding="utf-8") for file in lists if file.is_file()]
    names = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    samples = []
    paths = [folder / Path(name).name for name in names] or sorted(folder.glob("user*.aedat"))
    for path in paths:
        table = path.with_name(f"{path.stem}_labels.csv")
        for needed in (path, table):
            if not needed.is_file():
                raise UsageError(f"dvs-gesture: {needed} is missing beside the other trials")
        counts = [0] * CLASSES
        for segment in gesture_segments(table):
            label = segment.class_number - 1
            name = f"{path.stem}/{label}_{counts[label]}"
            samples.append(Sample(name, label, path, segment=segment))
            counts[label] += 1
    return samples


def _gesture(text: str, path: Path) -> int:
    if text not in map(str, range(CLASSES)):
        rule = f"a label must be in 0..{CLASSES - 1}"
        raise UsageError(f"dvs-gesture: {rule}, got {text!r} in {path}")
    return int(text)


def tonic_gesture(entry: Entry) -> Sample:
    """ibmGestureTrain/userNN_<light>/<label>.npy."""
    label = _gesture(entry.path.stem, entry.path)
    return Sample(f"{entry.group}/{label}_0", label, entry.path, entry.part)


def cut_gesture(entry: Entry) -> Sample:
    """train/<label>/userNN_<light>_<k>.npz, as SpikingJelly cuts them."""
    label = _gesture(entry.group, entry.path)
    trial, _, count = entry.path.stem.rpartition("_")
    return Sample(f"{trial}/{label}_{count}", label, entry.path, entry.part)


def filmed_sensor(folder: Path) -> tuple[int, int] | None:
    """(height, width) of the camera of a film; None where camera.json says none."""
    match read_setting(folder):
        case {"camera": {"sensor": [int(height), int(width)]}}:
            return height, width
    return None


def check_filmed(folder: Path, count: int) -> None:
    """Refuse `count` recordings of a film that has more of them."""
    setting = read_setting(folder)
    if setting is not None and count < setting["recordings"]:
        wanted = f"{setting['recordings']} recordings that {CAMERA_FILE} speaks of"
        text = f"{folder} holds {count} of the {wanted}: the filming was stopped"
        raise UsageError(f"{text}; run it again and it goes on from there")


def filmed(folder: Path, classes: Sequence[str]) -> list[Sample]:
    """The recordings of a film, <class>/<name>.bin; none where there is no camera.json."""
    if read_setting(folder) is None:
        return []
    samples = [
        Sample(f"{name}/{file.stem}", label, file)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).glob("*.bin"))
    ]
    check_filmed(folder, len(samples))
    return samples

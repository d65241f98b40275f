"""Where the recordings of a data set lie: as released, as SpikingJelly converted them, or as Tonic
unpacked them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anystep._errors import UsageError
from anystep.data.events.stack import Sample
from anystep.data.readers import SUFFIXES
from anystep.data.readers.gestures import CLASSES, gesture_segments

Folder = str | os.PathLike[str]
PARTS = {"train": "train", "test": "test"}
TONIC_PARTS = {"ibmgesturetrain": "train", "ibmgesturetest": "test"}


@dataclass(frozen=True)
class Entry:
    """A file two levels below a folder, perhaps in a part: [part/]group/name."""

    part: str | None
    group: str
    path: Path


def root_folder(name: str, root: Folder | None, wanted: str) -> Path:
    """The folder in which data set `name` is looked for; None and what is no folder are refused,
    with what it must hold.
    """
    if root is None:
        raise UsageError(
            f"{name}: root must be the folder that holds {wanted}; nothing is downloaded. In a recipe: data.options.root"
        )
    if not Path(root).is_dir():
        raise UsageError(
            f"{name}: root must be a folder that holds {wanted}, got {str(root)!r}, which is no folder"
        )
    return Path(root)


def nothing_found(name: str, root: Path, wanted: str) -> ValueError:
    """The error for a folder without a recording."""
    return UsageError(
        f"{name}: nothing to read in {root}. It must hold {wanted}; nothing is downloaded"
    )


def check_complete(
    name: str, root: Path, found: set[str], classes: Sequence[str], where: str = ""
) -> None:
    """Every class has recordings, or which have none."""
    lost = [each for each in classes if each not in found]
    if lost:
        text = f"{name}: {root} has no recordings{where} of {', '.join(lost)}"
        raise UsageError(f"{text}; the release has all {len(classes)} classes")


def first_place(
    root: Path,
    folders: Sequence[str],
    suffixes: tuple[str, ...],
    parts: dict[str, str],
    *,
    groups: Sequence[str] = (),
) -> list[Entry]:
    """The files of the first place that has some: the release in one of `folders`, then as
    SpikingJelly converted them.

    groups   only these folders of classes count; none given: all
    """
    converted = (("events_np", (".npz",)), ("", (".npz",)))
    for folder, endings in (*((folder, suffixes) for folder in folders), *converted):
        entries = [
            each
            for each in two_levels(root / folder, endings, parts)
            if not groups or each.group in groups
        ]
        if entries:
            return entries
    return []


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def two_levels(folder: Path, suffixes: Sequence[str], parts: dict[str, str]) -> list[Entry]:
    """The files [part/]group/name of these suffixes; `parts` gives the folders that are parts, in
    small letters.
    """
    if not folder.is_dir():
        return []
    tops = [
        (path, parts[path.name.lower()])
        for path in folders_in(folder)
        if path.name.lower() in parts
    ]
    found = []
    for top, part in tops if parts else [(folder, None)]:
        for group in folders_in(top):
            files = (each for each in os.scandir(group) if not each.name.startswith("."))
            found += [
                Entry(part, group.name, Path(file.path))
                for file in files
                if file.name.lower().endswith(tuple(suffixes))
            ]
    return found


def any_depth(folder: Path, part: str | None) -> Iterator[Entry]:
    """The readable files at any depth below the folders of classes."""
    readable = (*SUFFIXES, ".aedat")
    for group in folders_in(folder):
        for path, _, files in os.walk(group):
            for file in files:
                if not file.startswith(".") and Path(file).suffix.lower() in readable:
                    yield Entry(part, group.name, Path(path) / file)


def released_gestures(folder: Path) -> list[Sample]:
    """The gestures of the release: the recordings that the two lists name, or all, cut by the
    tables beside them.
    """
    listed = [folder / f"trials_to_{part}.txt" for part in PARTS]
    names: list[str] = []
    for file in listed:
        if file.is_file():
            names += [
                line.strip()
                for line in file.read_text(encoding="utf-8").splitlines()
                if line.strip()
            ]
    paths = [folder / Path(name).name for name in names] or sorted(folder.glob("user*.aedat"))
    samples = []
    for path in paths:
        table = path.with_name(f"{path.stem}_labels.csv")
        for needed in (path, table):
            if not needed.is_file():
                raise UsageError(
                    f"dvs-gesture: {needed} is missing; the release has it beside the other trials"
                )
        counts = [0] * CLASSES
        for segment in gesture_segments(table):
            label = segment.class_number - 1
            samples.append(
                Sample(f"{path.stem}/{label}_{counts[label]}", label, path, segment=segment)
            )
            counts[label] += 1
    return samples


def tonic_gesture(entry: Entry) -> Sample:
    """ibmGestureTrain/userNN_<light>/<label>.npy."""
    label = _gesture(entry.path.stem, entry.path)
    return Sample(f"{entry.group}/{label}_0", label, entry.path, entry.part)


def cut_gesture(entry: Entry) -> Sample:
    """train/<label>/userNN_<light>_<k>.npz."""
    label = _gesture(entry.group, entry.path)
    trial, _, count = entry.path.stem.rpartition("_")
    return Sample(f"{trial}/{label}_{count}", label, entry.path, entry.part)


def _gesture(text: str, path: Path) -> int:
    if text not in [str(label) for label in range(CLASSES)]:
        raise UsageError(
            f"dvs-gesture: a label must be in 0..{CLASSES - 1}, got {text!r} in {path}"
        )
    return int(text)

"""Is a data set whole? What lies in its folder in numbers, and what cannot be read, by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._lookup import check_keys, choose
from anystep._threads import map_ahead
from anystep.data.datasets import DATASETS, load_dataset, options_of
from anystep.data.digits import digits_events
from anystep.data.events.catalogue import EVENT_SETS, Catalogue, find_recordings
from anystep.data.events.layouts import Sample
from anystep.data.events.stack import finished_frames
from anystep.data.frames import Direct
from anystep.data.images.shards import find_shards
from anystep.data.readers import read_events
from anystep.data.recording import Events
from anystep.data.sets import Splits

EXCERPT_US = 100_000  # of a recording is kept as the example of its class: one saccade of N-MNIST
PARTS = ("train", "val", "test")
Progress = Callable[[int, int], None]
Example = Events | NDArray[Any]


@dataclass(frozen=True)
class Check:
    """What `check_dataset` found.

    summary    numbers and names that JSON can hold, see docs/data.md; `summary["corrupt"]` is empty
               if all is well
    examples   {class: its first sample that can be read}: 100 ms of events, an image (P, H, W), or
               counts (2, H, W) where the
               files hold finished frames
    """

    summary: dict[str, Any]
    examples: dict[str, Example]


class Facts(NamedTuple):
    """One recording in numbers: its events, how many are on, the first and the last time in us, and
    the pixels.

    used     largest y and x, plus one
    sensor   (height, width)
    sorted   whether the file has its events in time order
    """

    events: int
    on: int
    first_us: int
    last_us: int
    used: tuple[int, int]
    sensor: tuple[int, int]
    sorted: bool


class Seen(NamedTuple):
    """What a look at a sample gave; None for facts that frames and images do not have, and for what
    was not looked at.
    """

    facts: Facts | None = None
    sample: Example | None = None


@dataclass(frozen=True)
class Inventory:
    """What there is by its names: a file and a label for each of M samples, and which of them
    (indices) are in which part.
    """

    name: str
    folder: str | None
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    files: Sequence[str]
    parts: dict[str, NDArray[np.int64]]
    protocol: dict[str, Any]
    beside: dict[str, Any] = field(default_factory=dict)  # what else lies in the folder


def check_dataset(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    options: Mapping[str, Any] | None = None,
    deep: bool = False,
    progress: Progress | None = None,
) -> Check:
    """Count what data set `name` has in `folder`; what cannot be read is listed, and the check goes
    on.

    folder     None for data sets that are built in
    workers    threads that read (None: one a processor)
    options    of event data sets `protocol` and `sensor`, of others what the row takes
    deep       decode every image, not only the first of each class; recordings are always read
    progress   called with (samples done, all samples)

    Recordings are read one after the other and forgotten: memory grows by a few numbers each.

    ValueError: an unknown name or option; a folder that is missing, empty or without one of the
    classes, as the row says it.
    """
    choose(DATASETS, name, "dataset")
    if workers is not None and (isinstance(workers, bool) or workers < 1):
        raise UsageError(f"{name}: workers must be >= 1 or None, got {workers}")
    given, threads = dict(options or {}), workers or os.cpu_count() or 1
    known = (
        ["protocol", "sensor"]
        if name in EVENT_SETS
        else [key for key in options_of(name) or () if key != "root"]
    )
    check_keys(given, known, "option", f"the check of {name}")
    if name in EVENT_SETS:
        found = find_recordings(name, folder, **given)
        return _counted(_inventory(found), _recordings(found, threads), progress)
    if "root" in (options_of(name) or ()):
        given["root"] = folder
    elif folder is not None:
        raise UsageError(f"{name} is built in and takes no folder, got {os.fspath(folder)!r}")
    if name == "digits-dvs":  # the same digits in the same parts, filmed
        things = _things(name, None, load_dataset("digits", binning=Direct(1)))
        filmed = digits_events(things.ids, workers=workers, **given)
        return _counted(
            things.inventory, (Seen(facts_of(events), events) for events, _ in filmed), progress
        )
    things = _things(name, folder, load_dataset(name, binning=Direct(1), workers=workers, **given))
    if folder is not None and find_shards(Path(folder)):
        threads = 1  # the row groups in memory are shared, and every other reader has a process of its own
    return _counted(things.inventory, _images(things, threads if deep else 0), progress)


def facts_of(events: Events, *, in_order: bool = True) -> Facts:
    """A recording in numbers. It holds at least one event."""
    on = int(np.count_nonzero(events.p))
    used = int(events.y.max()) + 1, int(events.x.max()) + 1
    return Facts(
        len(events), on, int(events.t[0]), int(events.t[-1]), used, events.sensor, in_order
    )


def excerpt(events: Events, window_us: int = EXCERPT_US) -> Events:
    """The `window_us` of a recording that hold the most events, as a copy.

    >>> excerpt(Events.from_arrays([0, 50, 52, 90], [0] * 4, [0] * 4, [1] * 4, (1, 1)), window_us=10).t.tolist()
    [50, 52]
    """
    last = np.searchsorted(events.t, events.t + window_us, side="left")
    first = int(np.argmax(last - np.arange(len(events))))
    rows = slice(first, int(last[first]))
    return Events(
        events.t[rows].copy(),
        events.x[rows].copy(),
        events.y[rows].copy(),
        events.p[rows].copy(),
        events.sensor,
    )


def _inventory(found: Catalogue) -> Inventory:
    """Recordings in files, whose names are told from the folder on. Where the protocol does not
    fit, all of them train.
    """
    try:
        split = found.split()
        parts = {part: getattr(split, part) for part in PARTS}
        protocol: dict[str, Any] = {"name": split.name, "hash": split.hash}
    except ValueError as error:
        none, everyone = np.arange(0), np.arange(len(found.samples))
        parts = {"train": everyone, "val": none, "test": none}
        protocol = {"name": found.protocol, "hash": None, "problem": str(error)}
    return Inventory(
        found.name,
        os.fspath(found.root),
        found.classes,
        found.labels,
        [os.path.relpath(sample.path, found.root) for sample in found.samples],
        parts,
        protocol,
        _beside(found),
    )


def _beside(found: Catalogue) -> dict[str, Any]:
    """What lies in the folder and is no recording of the data set: files by their suffix, and
    folders with nothing in them.
    """
    used = {os.fspath(sample.path) for sample in found.samples}
    others: Counter[str] = Counter()
    empty = []
    for folder, folders, files in os.walk(found.root):
        others.update(
            Path(file).suffix.lower() for file in files if os.path.join(folder, file) not in used
        )
        if not folders and not files:
            empty.append(os.path.relpath(folder, found.root))
    return {"other_files": dict(sorted(others.items())), "empty_folders": sorted(empty)}


def _recordings(found: Catalogue, threads: int) -> Iterator[Seen | str]:
    """A look at every recording in order; a file that holds several is read once."""
    files = [list(group) for _, group in groupby(found.samples, key=lambda sample: sample.path)]
    if made := found.finished:
        yield from map_ahead(lambda group: _frames(group[0], made.steps), files, threads, ahead=2)
    else:
        yield from chain.from_iterable(
            map_ahead(lambda group: _events(group, found.sensor), files, threads, ahead=2)
        )


def _events(group: Sequence[Sample], sensor: tuple[int, int] | None) -> list[Seen | str]:
    """What the samples of one file hold, or what is wrong with each."""
    path, in_order = group[0].path, True
    try:
        try:
            events = read_events(path, sensor=sensor)
        except ValueError:  # the rows put events in order; here it is worth a note
            events, in_order = read_events(path, sensor=sensor, sort=True), False
    except (ValueError, OSError) as error:
        return [str(error)] * len(group)
    seen: list[Seen | str] = []
    for sample in group:
        own = events if sample.segment is None else sample.segment.of(events)
        nothing = f"{path}: {sample.id} has no events"
        seen.append(Seen(facts_of(own, in_order=in_order), own) if len(own) else nothing)
    return seen


def _frames(sample: Sample, steps: int) -> Seen | str:
    """Finished frames, summed over time; nobody knows how many events they left out."""
    try:
        return Seen(None, finished_frames(sample.path, steps).sum(axis=0))
    except (ValueError, OSError) as error:
        return str(error)


class _Things(NamedTuple):
    """Samples that are no files of events: their inventory, their numbers or names, and how each is
    got (an image).
    """

    inventory: Inventory
    ids: list[Any]
    get: Callable[[int], NDArray[Any]]


def _things(name: str, folder: str | os.PathLike[str] | None, splits: Splits) -> _Things:
    """The samples of all three parts, one part after the other."""
    sets: dict[str, Any] = {part: getattr(splits, part) for part in PARTS}
    ends = np.cumsum([len(data) for data in sets.values()])
    ids = [each for data in sets.values() for each in data.ids.tolist()]
    inventory = Inventory(
        name,
        None if folder is None else os.fspath(folder),
        splits.classes,
        np.concatenate([data.labels for data in sets.values()]),
        [str(each) for each in ids],
        dict(zip(PARTS, np.split(np.arange(ends[-1]), ends[:-1]), strict=True)),
        {"name": splits.protocol, "hash": splits.protocol_hash},
    )

    def get(index: int) -> NDArray[Any]:
        part = int(np.searchsorted(ends, index, side="right"))
        data = sets[PARTS[part]]
        place = index - int(ends[part - 1] if part else 0)
        return np.asarray(data.raw(place) if hasattr(data, "raw") else data[place][0][0])

    return _Things(inventory, ids, get)


def _images(things: _Things, threads: int) -> Iterator[Seen | str]:
    """A look at every image with `threads`, or with none of them at the first of each class."""

    def look(index: int) -> Seen | str:
        try:
            return Seen(None, things.get(index))
        except (ValueError, OSError) as error:
            return str(error)

    labels = things.inventory.labels.tolist()
    if threads:
        yield from map_ahead(look, range(len(labels)), threads, ahead=8)
        return
    wanted = set(labels)
    for index, label in enumerate(labels):
        seen = look(index) if label in wanted else Seen()
        if not isinstance(seen, str):
            wanted.discard(label)
        yield seen


def _counted(
    inventory: Inventory, contents: Iterable[Seen | str], progress: Progress | None
) -> Check:
    """Go through the contents of all samples, which come in the order of the inventory."""
    facts: dict[int, Facts | None] = {}
    examples: dict[str, Example] = {}
    corrupt: dict[str, str] = {}
    total = len(inventory.labels)
    for index, seen in enumerate(contents):
        if isinstance(seen, str):
            corrupt.setdefault(inventory.files[index], seen)
        else:
            facts[index] = seen.facts
            group = inventory.classes[inventory.labels[index]]
            if seen.sample is not None and group not in examples:
                examples[group] = (
                    excerpt(seen.sample) if isinstance(seen.sample, Events) else seen.sample
                )
        if progress is not None:
            progress(index + 1, total)
    ordered = {group: examples[group] for group in inventory.classes if group in examples}
    return Check(_summary(inventory, facts, corrupt), ordered)


def _summary(
    inventory: Inventory, facts: dict[int, Facts | None], corrupt: dict[str, str]
) -> dict[str, Any]:
    """What was found, for JSON. "train" has all that does not test, so that the numbers are the
    release's own.
    """
    training = np.concatenate([inventory.parts["train"], inventory.parts["val"]])
    parts = {"train": training.tolist(), "test": inventory.parts["test"].tolist()}
    readable = {
        part: [index for index in indices if index in facts] for part, indices in parts.items()
    }
    measured = [each for each in facts.values() if each is not None]
    found = {
        part: np.bincount(inventory.labels[rows], minlength=len(inventory.classes))
        for part, rows in readable.items()
    }
    return {
        "dataset": inventory.name,
        "folder": inventory.folder,
        "samples": {part: len(indices) for part, indices in readable.items()},
        "events": {
            part: sum(each.events for i in rows if (each := facts[i]))
            for part, rows in readable.items()
        }
        if measured
        else None,
        "classes": {
            name: {part: int(found[part][label]) for part in parts}
            for label, name in enumerate(inventory.classes)
        },
        "protocol": inventory.protocol
        | {part: len(indices) for part, indices in inventory.parts.items()},
        **(_measures(measured) if measured else {}),
        **inventory.beside,
        "unreadable": len(inventory.labels) - len(facts),
        "corrupt": [{"file": file, "reason": reason} for file, reason in corrupt.items()],
    }


def _measures(facts: Sequence[Facts]) -> dict[str, Any]:
    """Sensor, times and numbers of events over all recordings."""
    events = [each.events for each in facts]
    return {
        "sensor": [max(each.sensor[side] for each in facts) for side in (0, 1)],
        "sensors": len({each.sensor for each in facts}),
        "pixels_used": [max(each.used[side] for each in facts) for side in (0, 1)],
        "time_us": [min(each.first_us for each in facts), max(each.last_us for each in facts)],
        "duration_us": _spread([each.last_us + 1 - each.first_us for each in facts]),
        "events_per_recording": _spread(events),
        "polarity_on": round(sum(each.on for each in facts) / sum(events), 4),
        "out_of_order": sum(not each.sorted for each in facts),
    }


def _spread(values: Sequence[int]) -> list[int]:
    """The least, the median (of an even number the lower one) and the largest."""
    ordered = sorted(values)
    return [ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]]


def table_cells(summary: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """The title, the header and the rows of a table for people: a summary without its list of
    files.
    """
    classes = [sum(parts.values()) for parts in summary["classes"].values()]
    protocol = summary["protocol"]
    rows = [
        ["samples", _counts(summary["samples"])],
        ["events", _counts(summary["events"]) if summary["events"] else "unknown"],
        ["classes", f"{len(classes):,}, of {min(classes):,} to {max(classes):,} samples"],
        [
            "protocol",
            f"{protocol['name']} ({protocol['hash'] or 'does not fit: ' + protocol['problem']})",
        ],
        ["", _counts({part: protocol[part] for part in PARTS})],
    ]
    if "sensor" in summary:
        height, width = summary["sensor"]
        sizes = f", the largest of {summary['sensors']:,} sizes" if summary["sensors"] > 1 else ""
        first, last = summary["time_us"]
        rows += [
            ["sensor", f"{height} x {width}{sizes}"],
            ["time of the events", f"{first:,} to {last:,} us"],
            *([name, _from_to(summary[key]) + unit] for name, key, unit in _SPREADS),
            ["on events", f"{100 * summary['polarity_on']:.1f} %"],
            ["recordings out of order", f"{summary['out_of_order']:,}"],
        ]
    if summary.get("other_files"):
        listed = ", ".join(
            f"{number:,} {suffix or 'without a suffix'}"
            for suffix, number in summary["other_files"].items()
        )
        rows.append(["other files", listed])
    if summary.get("empty_folders"):
        rows.append(["empty folders", ", ".join(summary["empty_folders"])])
    rows.append(["samples that cannot be read", f"{summary['unreadable']:,}"])
    return summary["dataset"], ["what", "found"], rows


_SPREADS = (("duration", "duration_us", " us"), ("events a recording", "events_per_recording", ""))


def _counts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {part}" for part, number in parts.items())


def _from_to(spread: Sequence[int]) -> str:
    least, median, most = spread
    return f"{least:,} to {most:,}, median {median:,}"

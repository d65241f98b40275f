"""Is a data set whole? What lies in its folder in numbers, and what cannot be read, by name."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anystep._errors import AnystepWarning, UsageError
from anystep._lookup import check_arguments, check_keys
from anystep._threads import map_ahead
from anystep.data.datasets import DATASETS, load_dataset, options_of
from anystep.data.digits import digits_events
from anystep.data.events.catalogue import EVENT_SETS, Catalogue, find_recordings
from anystep.data.events.layouts import Sample
from anystep.data.events.stack import files_of, finished_frames
from anystep.data.frames import Direct, EqualTime, check_size
from anystep.data.images.shards import find_shards
from anystep.data.recording import Events
from anystep.data.sets import PARTS, DataSet, Splits

EXCERPT_US = 100_000  # of a recording is kept as the example of its class: one saccade of N-MNIST
Progress = Callable[[int, int], None]
Example = Events | NDArray[Any]


class Facts(NamedTuple):
    """One recording in numbers.

    events   how many, and how many of them are on
    times    first and last time in us
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


# What a look at a sample gave, None for what was not looked at (images have no facts); or what is
# wrong with it.
Look = tuple[Facts | None, Example | None] | str


@dataclass(frozen=True)
class Check:
    """What `check_dataset` found.

    summary    numbers and names that JSON can hold, see docs/data.md; `summary["ok"]` if training
               can read all that it needs
    examples   {class: its first sample that can be read}: 100 ms of events, an image (P, H, W), or
               counts (2, H, W) where the files hold finished frames
    """

    summary: dict[str, Any]
    examples: dict[str, Example]


@dataclass(frozen=True)
class Inventory:
    """What there is by its names, before anything is opened.

    labels, files   of each of the M samples
    parts           which of them (indices) are in which part
    beside          what else lies in the folder
    """

    name: str
    folder: str | None
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    files: Sequence[str]
    parts: dict[str, NDArray[np.int64]]
    protocol: dict[str, Any]
    beside: dict[str, Any] = field(default_factory=dict)


def facts_of(events: Events, *, in_order: bool = True) -> Facts:
    """A recording in numbers. It holds at least one event."""
    on = int(np.count_nonzero(events.p))
    first, last = int(events.t[0]), int(events.t[-1])
    used = int(events.y.max()) + 1, int(events.x.max()) + 1
    return Facts(len(events), on, first, last, used, events.sensor, in_order)


def excerpt(events: Events, window_us: int = EXCERPT_US) -> Events:
    """The `window_us` of a recording that hold the most events, as a copy.

    >>> events = Events.from_arrays([0, 50, 52, 90], [0] * 4, [0] * 4, [1] * 4, (1, 1))
    >>> excerpt(events, window_us=10).t.tolist()
    [50, 52]
    """
    last = np.searchsorted(events.t, events.t + window_us, side="left")
    first = int(np.argmax(last - np.arange(len(events))))
    return deepcopy(events.part(first, int(last[first])))


def _drawn(found: Catalogue, skip: Sequence[int] = ()) -> dict[str, Any]:
    """Parts and protocol of an inventory. Where the protocol does not fit, all samples train."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnystepWarning)  # what it says is in `split.short`
            split = found.split(skip)
        parts = {part: getattr(split, part) for part in PARTS}
        protocol: dict[str, Any] = {"name": split.name, "hash": split.hash}
        problem = split.short
    except UsageError as error:
        none, everyone = np.arange(0), np.setdiff1d(np.arange(len(found.samples)), skip)
        parts = {"train": everyone, "val": none, "test": none}
        protocol, problem = {"name": found.protocol, "hash": None}, str(error)
    return {"parts": parts, "protocol": protocol | ({"problem": problem} if problem else {})}


def _recorded(found: Catalogue) -> Inventory:
    """The inventory of recordings in files."""
    paths = [os.fspath(sample.path) for sample in found.samples]
    files = [os.path.relpath(path, found.root) for path in paths]
    used, others, empty = set(paths), Counter[str](), []
    for folder, folders, names in os.walk(found.root):
        rest = (name for name in names if os.path.join(folder, name) not in used)
        others.update(Path(name).suffix.lower() for name in rest)
        if not folders and not names:
            empty.append(os.path.relpath(folder, found.root))
    beside = {"other_files": dict(sorted(others.items())), "empty_folders": sorted(empty)}
    said = (found.name, os.fspath(found.root), found.classes, found.labels)
    return Inventory(*said, files, **_drawn(found), beside=beside)


def _recordings(found: Catalogue, threads: int) -> Iterator[Look]:
    """A look at every recording in order; a file that holds several is read once."""

    def look(group: Sequence[Sample]) -> list[Look]:
        path, in_order = group[0].path, True
        try:
            if found.finished:  # nobody knows how many events these frames left out
                return [(None, finished_frames(path, found.finished.steps).sum(axis=0))]
            try:
                events = found.read(path, sort=False)
            except ValueError:  # the rows put events in order; here it is worth a note
                events, in_order = found.read(path, sort=True), False
        except (ValueError, OSError) as error:
            return [str(error)] * len(group)
        looks: list[Look] = []
        for sample in group:
            own = events if sample.segment is None else sample.segment.of(events)
            nothing = f"{path}: {sample.id} has no events"
            looks.append((facts_of(own, in_order=in_order), own) if len(own) else nothing)
        return looks

    return chain.from_iterable(map_ahead(look, files_of(found.samples), threads, ahead=2))


def _loaded(name: str, folder: str | os.PathLike[str] | None, splits: Splits) -> Inventory:
    """The inventory of the samples of all three parts, one part after the other."""
    sets: list[Any] = [splits.train, splits.val, splits.test]
    ends = np.cumsum([len(data) for data in sets])
    scale = {"mean": splits.train.mean, "std": splits.train.std}
    return Inventory(
        name,
        None if folder is None else os.fspath(folder),
        splits.classes,
        np.concatenate([data.labels for data in sets]),
        [str(each) for data in sets for each in data.ids.tolist()],
        dict(zip(PARTS, np.split(np.arange(ends[-1]), ends[:-1]), strict=True)),
        {"name": splits.protocol, "hash": splits.protocol_hash},
        {key: list(values) for key, values in scale.items() if values is not None},
    )


def _images(splits: Splits, labels: Sequence[int], threads: int) -> Iterator[Look]:
    """A look at every image with `threads`, or with none of them at the first of each class."""
    sets = (splits.train, splits.val, splits.test)
    places = [(data, index) for data in sets for index in range(len(data))]

    def look(place: tuple[DataSet, int]) -> Look:
        data, index = place
        try:
            return None, data.raw(index)
        except (ValueError, OSError) as error:
            return str(error)

    if threads:
        yield from map_ahead(look, places, threads, ahead=8)
        return
    wanted = set(labels)
    for place, label in zip(places, labels, strict=True):
        seen = look(place) if label in wanted else (None, None)
        if not isinstance(seen, str):
            wanted.discard(label)
        yield seen


def _spread(values: Sequence[int]) -> list[int]:
    """The least, the median (of an even number the lower one) and the largest."""
    ordered = sorted(values)
    return [ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]]


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


def _summary(
    inventory: Inventory, facts: dict[int, Facts | None], corrupt: dict[str, str], skip_bad: bool
) -> dict[str, Any]:
    """For JSON. "train" has all that does not test: the numbers are the release's own."""
    training = np.concatenate([inventory.parts["train"], inventory.parts["val"]])
    parts = {"train": training.tolist(), "test": inventory.parts["test"].tolist()}
    readable = {part: [i for i in indices if i in facts] for part, indices in parts.items()}
    measured = [each for each in facts.values() if each is not None]
    events = {
        part: sum(each.events for i in rows if (each := facts[i]))
        for part, rows in readable.items()
    }
    found = {part: Counter(inventory.labels[rows].tolist()) for part, rows in readable.items()}
    sizes = {part: len(indices) for part, indices in inventory.parts.items()}
    return {
        "dataset": inventory.name,
        "folder": inventory.folder,
        "samples": {part: len(indices) for part, indices in readable.items()},
        "events": events if measured else None,
        "classes": {
            name: {part: found[part][label] for part in parts}
            for label, name in enumerate(inventory.classes)
        },
        "protocol": inventory.protocol | sizes,
        **(_measures(measured) if measured else {}),
        **inventory.beside,
        "unreadable": len(inventory.labels) - len(facts),
        "corrupt": [{"file": file, "reason": reason} for file, reason in corrupt.items()],
        "ok": inventory.protocol["hash"] is not None and (skip_bad or not corrupt),
    }


def _counted(
    inventory: Inventory,
    looks: Iterable[Look],
    progress: Progress,
    skip_bad: bool,
    draw: Callable[[Sequence[int]], dict[str, Any]] | None = None,
) -> Check:
    """Go through the looks at all samples, which come in the order of the inventory.

    `draw` gives parts and protocol without the samples that `skip_bad` leaves out.
    """
    facts: dict[int, Facts | None] = {}
    examples: dict[str, Example] = {}
    corrupt: dict[str, str] = {}
    for index, look in enumerate(looks):
        if isinstance(look, str):
            corrupt.setdefault(inventory.files[index], look)
        else:
            facts[index], sample = look
            group = inventory.classes[inventory.labels[index]]
            if sample is not None and group not in examples:
                examples[group] = excerpt(sample) if isinstance(sample, Events) else sample
        progress(index + 1, len(inventory.labels))
    if skip_bad and corrupt and draw:
        left_out = [index for index in range(len(inventory.labels)) if index not in facts]
        inventory = replace(inventory, **draw(left_out))
    ordered = {group: examples[group] for group in inventory.classes if group in examples}
    return Check(_summary(inventory, facts, corrupt, skip_bad), ordered)


def _as_images(name: str, **given: Any) -> Splits:
    """Row `name` with one frame a sample: an image, or the events of a recording counted."""
    try:
        return load_dataset(name, binning=Direct(1), **given)
    except UsageError:
        with suppress(UsageError):  # a row of one's own that holds events refuses images
            return load_dataset(name, binning=EqualTime(1), **given)
        raise


def check_dataset(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    options: Mapping[str, Any] | None = None,
    deep: bool = False,
    skip_bad: bool = False,
    progress: Progress = lambda done, samples: None,
) -> Check:
    """Count what data set `name` has in `folder`; what cannot be read is listed, not raised.

    folder     None for data sets that are built in
    workers    threads that read; None: one a processor
    options    what the row takes, as in a recipe; of `size` only whether it can be one is asked
    deep       decode every image, not only the first of each class; recordings are always read
    skip_bad   judge what is left without the samples that cannot be read
    progress   called with (samples done, all samples)

    Recordings are read one after the other and forgotten: memory grows by a few numbers each.
    """
    known, given = options_of(name) or [], dict(options or {})
    threads = (os.cpu_count() or 1) if workers is None else workers
    takes = [key for key in known if key != "root"]
    check_keys(given, takes, "option", f"the check of {name}")
    check_arguments(DATASETS[name], given, f"dataset {name}")
    if name in EVENT_SETS:
        check_size(given.get("size"), given.get("interpolation", "nearest"))
        own = {key: given[key] for key in ("protocol", "sensor") if key in given}
        found = find_recordings(name, folder, **own)
        looks, skip_bad = _recordings(found, threads), skip_bad or given.get("skip_bad", False)
        return _counted(_recorded(found), looks, progress, skip_bad, partial(_drawn, found))
    if "root" in known:
        given["root"] = folder
    elif folder is not None:
        raise UsageError(f"{name} is built in and takes no folder, got {os.fspath(folder)!r}")
    if name == "digits-dvs":  # the same digits in the same parts, filmed
        inventory = _loaded(name, None, load_dataset("digits", binning=Direct(1)))
        filmed = digits_events([int(each) for each in inventory.files], workers=workers, **given)
        seen = ((facts_of(each), each) for each, _ in filmed)
        return _counted(inventory, seen, progress, skip_bad)
    splits = _as_images(name, workers=workers, **given)
    if folder is not None and find_shards(Path(folder)):
        threads = 1  # one reader has the row groups that are in memory; others would decode again
    inventory = _loaded(name, folder, splits)
    looks = _images(splits, inventory.labels.tolist(), threads if deep else 0)
    check = _counted(inventory, looks, progress, skip_bad)
    shapes = {each.shape for each in check.examples.values() if isinstance(each, np.ndarray)}
    return replace(check, summary=check.summary | {"pictures": [*map(list, sorted(shapes))]})


def _counts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {part}" for part, number in parts.items())


def _from_to(spread: Sequence[int]) -> str:
    least, median, most = spread
    return f"{least:,} to {most:,}, median {median:,}"


def table_cells(summary: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """The title, the header and the rows of a table for people."""
    classes = [sum(parts.values()) for parts in summary["classes"].values()]
    protocol = summary["protocol"]
    rows = {
        "samples": _counts(summary["samples"]),
        "events": _counts(summary["events"]) if summary["events"] else "unknown",
        "classes": f"{len(classes):,}, of {min(classes):,} to {max(classes):,} samples",
        "protocol": f"{protocol['name']} ({protocol['hash'] or 'does not fit'})",
        "": _counts({part: protocol[part] for part in PARTS}),
    }
    if "sensor" in summary:
        height, width = summary["sensor"]
        count = summary["sensors"]
        sizes = f", the largest of {count:,} sizes: training needs size" if count > 1 else ""
        first, last = summary["time_us"]
        rows["sensor"] = f"{height} x {width}{sizes}"
        rows["time of the events"] = f"{first:,} to {last:,} us"
        rows["duration"] = f"{_from_to(summary['duration_us'])} us"
        rows["events a recording"] = _from_to(summary["events_per_recording"])
        rows["on events"] = f"{100 * summary['polarity_on']:.1f} %"
        rows["recordings out of order"] = f"{summary['out_of_order']:,}"
    if shapes := summary.get("pictures"):
        rows["pictures"] = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
    if "mean" in summary:
        mean, std = (", ".join(f"{each:g}" for each in summary[key]) for key in ("mean", "std"))
        rows["normalised"] = f"(x / 255 - mean) / std, mean {mean}, std {std}"
    if others := summary.get("other_files"):
        named = {suffix or "without a suffix": number for suffix, number in others.items()}
        rows["other files"] = _counts(named)
    if summary.get("empty_folders"):
        rows["empty folders"] = ", ".join(summary["empty_folders"])
    rows["samples that cannot be read"] = f"{summary['unreadable']:,}"
    return summary["dataset"], ["what", "found"], [list(row) for row in rows.items()]

"""The rows of DATASETS that hold events: recordings on disk, as frames in three parts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from anystep._errors import AnystepWarning, UsageError
from anystep.data.events.catalogue import (
    EVENT_SETS,
    Catalogue,
    find_recordings,
    sensor_of,
)
from anystep.data.events.layouts import Folder
from anystep.data.events.stack import FrameSpec, stack_frames
from anystep.data.frames import BINNINGS, Binning, Encoding
from anystep.data.protocols import Split
from anystep.data.sets import Splits


@dataclass(frozen=True)
class EventOptions:
    """The options of every event data set.

    root            the folder with the recordings; what it must hold, EVENT_SETS says
    sensor          (height, width), for files that do not say it; None: the data set's own
    protocol        a name of PROTOCOLS for this data set; None: its default
    size            frames become size x size; None: they keep the size of the sensor
    interpolation   how: "nearest" or "bilinear", see `frames.resize`
    skip_bad        leave out recordings that cannot be read, with a warning. The hash of the split
                    then changes
    """

    root: Folder | None = None
    sensor: Sequence[int] | None = None
    protocol: str | None = None
    size: int | None = None
    interpolation: str = "nearest"
    skip_bad: bool = False


def _check_finished(found: Catalogue, spec: FrameSpec) -> None:
    """Frames that SpikingJelly cut are of the binning asked for, or an error."""
    made = found.finished
    if made and (spec.binning.name, spec.binning.steps) != (made.binning, made.steps):
        holds = f"{made.folder} holds {made.steps} frames cut by {made.binning}"
        asked = f"the binning is {spec.binning.describe()}"
        way_out = "give the folder above it as root to cut the events themselves"
        raise UsageError(f"{found.name}: {holds}, {asked}; {way_out}")


def _without(parts: Split, found: Catalogue, bad: dict[int, str]) -> Split:
    """The split without the recordings that cannot be read, and a warning that counts them."""
    index, message = next(iter(bad.items()))
    text = f"left out {len(bad)} of {len(found.samples)} recordings that cannot be read"
    said = f"{found.name}: {text}; the first, {found.ids[index]}: {message}"
    warnings.warn(said, AnystepWarning, stacklevel=4)
    kept = (part[~np.isin(part, list(bad))] for part in (parts.train, parts.val, parts.test))
    return Split(parts.name, *kept)


def event_set(
    name: str,
    /,
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    **options: Any,
) -> Splits:
    """Row `name` of EVENT_SETS in frames of `binning`; `options` are those of EventOptions.

    cache     where the frames are kept; None: `default_cache()`
    workers   threads that read; None: one a processor
    """
    row, chosen = EVENT_SETS[name], EventOptions(**options)
    if not isinstance(binning, Binning):
        kinds = ", ".join(BINNINGS)
        rule = f"{name} holds events: its binning must be one of {kinds}"
        raise UsageError(f"{rule}, got {binning.name}")
    shape = (chosen.size, chosen.interpolation, sensor_of(name, chosen.sensor))
    spec = FrameSpec(binning, *shape, from_first=row.from_first, tight=row.tight)
    if row.tight and chosen.size is None:
        rule = "size must be given, such as 48: the recordings differ in size"
        raise UsageError(f"{name}: {rule}, got None")
    found = find_recordings(name, chosen.root, protocol=chosen.protocol, sensor=chosen.sensor)
    parts, samples, described = found.split(), found.samples, binning.describe()
    if found.finished:
        _check_finished(found, spec)
        samples = tuple(replace(each, frames=True) for each in samples)
        described["cut_by"] = "spikingjelly"
    stack = stack_frames(
        name, samples, spec, cache=cache, workers=workers, skip_bad=chosen.skip_bad
    )
    if stack.bad:
        parts = _without(parts, found, stack.bad)
    data = stack.with_labels(found.labels, found.ids)
    return Splits.of(data, parts, found.classes, causal=spec.causal, binning=described)


def _row(name: str) -> Callable[..., Splits]:
    """`event_set` of one data set, with its description and with its options by name."""
    row: Any = partial(event_set, name)
    row.__doc__ = EVENT_SETS[name].find.__doc__
    *own, _ = inspect.signature(row).parameters.values()  # without **options
    options = inspect.signature(EventOptions).parameters.values()
    named = [each.replace(kind=each.KEYWORD_ONLY) for each in (*own, *options)]
    row.__signature__ = inspect.Signature(named)
    return row


EVENT_ROWS: dict[str, Callable[..., Splits]] = {name: _row(name) for name in EVENT_SETS}

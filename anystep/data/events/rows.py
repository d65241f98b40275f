"""An event data set on disk as frames in three parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from anystep._errors import AnystepWarning, UsageError
from anystep.data.events.catalogue import EVENT_SETS, Catalogue, find_recordings
from anystep.data.events.layouts import Folder
from anystep.data.events.stack import FrameSpec, stack_frames
from anystep.data.frames import BINNINGS, Binning, Encoding, check_size
from anystep.data.protocols import Split
from anystep.data.sets import Splits


def _check_finished(found: Catalogue, spec: FrameSpec) -> None:
    """Frames that SpikingJelly cut are of the binning asked for, or an error."""
    made = found.finished
    if made and (spec.binning.name, spec.binning.steps) != (made.binning, made.steps):
        holds = f"{made.folder} holds {made.steps} frames cut by {made.binning}"
        asked = f"the binning is {spec.binning.describe()}"
        way_out = "give the folder above it as root to cut the events themselves"
        raise UsageError(f"{found.name}: {holds}, {asked}; {way_out}")


def _without(found: Catalogue, bad: dict[int, str]) -> Split:
    """The split without the recordings that cannot be read, and a warning that counts them."""
    index, message = next(iter(bad.items()))
    text = f"left out {len(bad)} of {len(found.samples)} recordings that cannot be read"
    said = f"{found.name}: {text}; the first, {found.ids[index]}: {message}"
    warnings.warn(said, AnystepWarning, stacklevel=4)
    return found.split(skip=list(bad))


def event_set(name: str) -> Callable[..., Splits]:
    """The function that loads row `name` of EVENT_SETS, with these arguments:

    cache           where the frames are kept; None: `default_cache()`
    workers         threads that read; None: one a processor
    root            the folder with the recordings; what it must hold, EVENT_SETS says
    sensor          (height, width), for files that do not say it; None: the data set's own
    protocol        a name of PROTOCOLS for this data set; None: its default
    size            frames become size x size, or [H, W]; None: they keep the size of the sensor
    interpolation   how: "nearest" or "bilinear", see `frames.resize`
    skip_bad        leave out recordings that cannot be read, with a warning. The hash of the split
                    then changes
    """
    row = EVENT_SETS[name]

    def load(
        *,
        binning: Encoding,
        cache: Folder | None = None,
        workers: int | None = None,
        root: Folder | None = None,
        sensor: Sequence[int] | None = None,
        protocol: str | None = None,
        size: int | Sequence[int] | None = None,
        interpolation: str = "nearest",
        skip_bad: bool = False,
    ) -> Splits:
        if not isinstance(binning, Binning):
            rule = f"{name} holds events: its binning must be one of {', '.join(BINNINGS)}"
            raise UsageError(f"{rule}, got {binning.name}")
        check_size(size, interpolation)
        if row.tight and size is None:
            rule = "size must be given, such as 48: the recordings differ in size"
            raise UsageError(f"{name}: {rule}, got None")
        found = find_recordings(name, root, protocol=protocol, sensor=sensor)
        spec = FrameSpec(binning, size, interpolation, found.sensor, row.from_first, row.tight)
        parts, described = found.split(), binning.describe()
        if found.finished:
            _check_finished(found, spec)
            described["cut_by"] = "spikingjelly"
        data, bad = stack_frames(found, spec, cache=cache, workers=workers, skip_bad=skip_bad)
        if bad:
            parts = _without(found, bad)
        return Splits.of(data, parts, found.classes, causal=spec.causal, binning=described)

    load.__doc__ = row.find.__doc__
    return load

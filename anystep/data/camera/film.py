"""Images filmed into files: one `.bin` a recording under <class>/, and camera.json beside them,
which says how.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import atomic_path, content_hash, write_json
from anystep._threads import map_ahead
from anystep.data.camera.simulate import SIMULATOR_VERSION, Camera, Trajectory, simulate
from anystep.data.events.stack import Sample
from anystep.data.frames import FixedDuration
from anystep.data.protocols import natural
from anystep.data.readers.atis import read_bin
from anystep.data.recording import Events
from anystep.data.resize import resize

CAMERA_FILE = "camera.json"
EVENT_BYTES = 5
_LATEST_US = 1 << 23  # the format has 23 bits for the time
_OVERFLOW_ROW = 240  # an event in this row is a clock overflow to every reader
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9_-]*")
_SAMPLE = 8  # recordings that the size of a film is estimated from

Pictures = NDArray[Any] | Callable[[int], NDArray[Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Setting:
    """All that shapes the events of a film besides the images.

    path      how the images move
    camera    what sees them
    seed      of the background events; a recording draws its own from (seed, id)
    source    plain values that name the images: two films of different sources do not share a
              folder
    """

    path: Trajectory
    camera: Camera
    seed: int
    source: dict[str, Any]

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"Setting: seed must be a whole number >= 0, got {self.seed!r}")
        if self.path.duration_us > _LATEST_US:
            raise UsageError(
                f"Setting: path must end by {_LATEST_US} us, which .bin files hold, got {self.path.duration_us}"
            )

    def describe(self) -> dict[str, Any]:
        """What camera.json holds. The path is its hash: a circle has 900 points."""
        path = {"duration_us": self.path.duration_us, "hash": content_hash(self.path.describe())}
        settings = {
            "simulator": SIMULATOR_VERSION,
            "path": path,
            "camera": self.camera.describe(),
            "seed": self.seed,
        }
        plain: dict[str, Any] = json.loads(json.dumps({**settings, "source": self.source}))
        return plain

    def shoot(self, image: NDArray[Any], name: str) -> Events:
        """The recording `name` of an image (H0, W0) in [0, 1]: the same whatever else is filmed."""
        return simulate(image, self.path, self.camera, seed=(self.seed, zlib.crc32(name.encode())))


def encode_bin(events: Events) -> NDArray[np.uint8]:
    """The bytes of a recording in the 40-bit format of N-MNIST, which `read_bin` reads back.

    An event is x, y, then p in bit 23 and the time in us in bits 22..0, big-endian. ValueError for
    what does not fit: x or y above 255, row 240 (which marks a clock overflow), a time from
    8,388,608 us on, no event at all.
    """
    if len(events) == 0:
        raise UsageError("encode_bin: a .bin file must hold at least one event, got none")
    rules = (
        ("x", events.x > 255, "at most 255"),
        (
            "y",
            (events.y > 255) | (events.y == _OVERFLOW_ROW),
            f"at most 255 and not {_OVERFLOW_ROW}",
        ),
        ("t", events.t >= _LATEST_US, f"below {_LATEST_US}"),
    )
    for name, bad, rule in rules:
        if bad.any():
            index = int(bad.argmax())
            raise UsageError(
                f"encode_bin: {name} must be {rule} in a .bin file, got {getattr(events, name)[index]} at {index}"
            )
    data = np.empty(EVENT_BYTES * len(events), np.uint8)
    data[::EVENT_BYTES] = events.x
    word = events.t.astype(np.uint32)
    word |= events.y.astype(np.uint32) << np.uint32(24) | events.p.astype(np.uint32) << np.uint32(
        23
    )
    np.ndarray((len(events),), dtype=">u4", buffer=data, offset=1, strides=(EVENT_BYTES,))[:] = word
    return data


def film_images(
    images: Pictures,
    ids: Sequence[str],
    out: str | os.PathLike[str],
    setting: Setting,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Film image i as the recording <out>/<ids[i]>.bin, for all ids that have none yet, and say
    what was made.

    images     (M, H0, W0) in [0, 1], or a function that gives image i
    ids        "<class>/<name>", one a recording
    workers    threads (None: one a processor); they change no event
    progress   called with (recordings there, recordings wanted) at the start and after every
               recording

    The size of the film is estimated from a few recordings, and a disk with less room is refused
    before the work. A recording is whole or absent, so a film that was stopped goes on where it
    was. A folder filmed with another setting is a ValueError that names the difference; a full disk
    is an OSError that names the file.
    """
    names = _checked(images, ids)
    if workers is not None and (isinstance(workers, bool) or workers < 1):
        raise UsageError(f"film_images: workers must be >= 1 or None, got {workers}")
    folder, begin = Path(out), time.monotonic()
    picture = images if callable(images) else images.__getitem__
    _claim(folder, setting, names)
    missing = [i for i, name in enumerate(names) if not _whole(_file(folder, name))]
    there = len(names) - len(missing)
    expected = _room_for(
        folder, [(picture(i), names[i]) for i in _spread(missing)], setting, len(missing)
    )
    if progress:
        progress(there, len(names))

    def one(i: int) -> int:
        data = encode_bin(setting.shoot(picture(i), names[i]))
        _write(_file(folder, names[i]), data)
        return len(data) // EVENT_BYTES

    for done, _ in enumerate(
        map_ahead(one, missing, workers or os.cpu_count() or 1, ahead=2), start=there + 1
    ):
        if progress:
            progress(done, len(names))
    seconds, size = (
        time.monotonic() - begin,
        sum(_file(folder, name).stat().st_size for name in names),
    )
    return {
        "out": os.fspath(folder),
        "recordings": len(names),
        "made": len(missing),
        "events": size // EVENT_BYTES,
        "bytes": size,
        "estimated_bytes": expected,
        "seconds": round(seconds, 3),
        "images_per_second": round(len(missing) / seconds, 2) if missing else None,
    }


def read_setting(folder: Path) -> dict[str, Any] | None:
    """What camera.json of a folder holds; None if there is none."""
    path = folder / CAMERA_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("recordings"), int):
        raise UsageError(
            f"{path}: must hold the settings of a film with the number of its recordings"
        )
    return found


def filmed(folder: Path, classes: Sequence[str]) -> list[Sample]:
    """The recordings of a film, ids <class>/<name>; none without a camera.json. ValueError: a film
    that is not finished.
    """
    setting = read_setting(folder)
    if setting is None:
        return []
    samples = [
        Sample(f"{name}/{file.stem}", label, file)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).glob("*.bin"))
    ]
    if len(samples) != setting["recordings"]:
        raise UsageError(
            f"{folder} holds {len(samples)} of the {setting['recordings']} recordings that {CAMERA_FILE} speaks of: "
            "the filming was stopped; run it again and it goes on from there"
        )
    return samples


def film_statistics(
    folder: str | os.PathLike[str],
    *,
    per_class: int = 10,
    steps: int = 10,
    sizes: Sequence[int] = (128, 48),
) -> dict[str, Any]:
    """What the recordings of a film are like, from the first `per_class` of every class in the
    order of their names.

        events       mean, sd, least and most events of a recording
        per_second   mean events a second of the film's duration
        on           share of on events, of all recordings together
        last_us      mean time of the last event
        filled       {size: share of the entries of the frames (steps, 2, size, size) that are not
                     0}, nearest neighbour

    Frames are `steps` equal parts of the film's duration. The same numbers of a published set need
    its recordings.
    """
    base = Path(folder)
    setting = read_setting(base)
    if setting is None:
        raise UsageError(f"film_statistics: {base} has no {CAMERA_FILE}")
    groups = sorted({path.parent for path in base.glob("*/*.bin")})
    files = [
        path
        for group in groups
        for path in sorted(group.glob("*.bin"), key=lambda path: natural(path.stem))[:per_class]
    ]
    if not files:
        raise UsageError(f"film_statistics: {base} holds no recordings, per_class is {per_class}")
    duration, sensor = setting["path"]["duration_us"], tuple(setting["camera"]["sensor"])
    binning, counts, ups, last = FixedDuration(steps, -(-duration // steps)), [], 0, []
    filled: dict[int, list[float]] = {size: [] for size in sizes}
    for path in files:
        events = read_bin(path, sensor=sensor)
        counts.append(len(events))
        ups += int(events.p.sum())
        last.append(int(events.t[-1]))
        frames = binning(events)
        for size in sizes:
            filled[size].append(float((resize(frames, size, "nearest") > 0).mean()))
    return {
        "recordings": len(files),
        "events": {
            "mean": np.mean(counts),
            "sd": np.std(counts),
            "least": min(counts),
            "most": max(counts),
        },
        "per_second": sum(counts) / (len(files) * duration * 1e-6),
        "on": ups / sum(counts),
        "last_us": np.mean(last),
        "filled": {size: np.mean(shares) for size, shares in filled.items()},
    }


def _checked(images: Pictures, ids: Sequence[str]) -> list[str]:
    """The ids, all different and each a class and a name."""
    names = [str(each) for each in ids]
    if not names or len(set(names)) != len(names):
        raise UsageError(
            f"film_images: ids must be different names, at least one, got {len(names)}"
        )
    for name in names:
        if not _ID.fullmatch(name):
            raise UsageError(
                f"film_images: an id must be <class>/<name> of letters, digits, _ and -, got {name!r}"
            )
    if not callable(images) and (images.ndim != 3 or len(images) != len(names)):
        raise UsageError(
            f"film_images: images must be ({len(names)}, H0, W0) like ids, got shape {images.shape}"
        )
    return names


def _claim(folder: Path, setting: Setting, names: Sequence[str]) -> None:
    """Make the folders and camera.json, or refuse a folder that was filmed otherwise."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"film_images: out must be a folder, {folder} is a file")
    for each in sorted({name.split("/")[0] for name in names}):
        (folder / each).mkdir(parents=True, exist_ok=True)
    wanted, found = setting.describe(), read_setting(folder)
    if found is None and any(folder.glob("*/*.bin")):
        raise UsageError(
            f"film_images: {folder} holds recordings but no {CAMERA_FILE}, so nobody knows how they were made"
        )
    count = found.pop("recordings") if found else 0
    if found:
        there, asked = _flat(found), _flat(wanted)
        for key in sorted(there.keys() | asked.keys()):
            if there.get(key) != asked.get(key):
                raise UsageError(
                    f"film_images: {folder} was filmed with {key} = {there.get(key)!r}, asked for is {asked.get(key)!r}; "
                    "films of different settings need folders of their own"
                )
    if len(names) > count:
        write_json(folder / CAMERA_FILE, {**wanted, "recordings": len(names)})


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A dictionary of dictionaries as one, with keys such as camera.threshold."""
    flat: dict[str, Any] = {}
    for key, each in value.items():
        flat.update(
            _flat(each, f"{prefix}{key}.") if isinstance(each, dict) else {f"{prefix}{key}": each}
        )
    return flat


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _whole(path: Path) -> bool:
    """Whether a recording is there. Ours are whole or absent; a file cut by something else is
    filmed again.
    """
    size = path.stat().st_size if path.is_file() else 0
    return size > 0 and size % EVENT_BYTES == 0


def _spread(items: Sequence[int]) -> list[int]:
    """At most _SAMPLE of the items, evenly over all of them."""
    return (
        [items[len(items) * k // _SAMPLE] for k in range(_SAMPLE)]
        if len(items) > _SAMPLE
        else list(items)
    )


def _room_for(
    folder: Path, sample: Sequence[tuple[NDArray[Any], str]], setting: Setting, count: int
) -> int:
    """About how many bytes `count` recordings will need; OSError when the disk has less."""
    if not count:
        return 0
    mean = (
        sum(len(setting.shoot(image, name)) for image, name in sample) * EVENT_BYTES / len(sample)
    )
    needed, free = round(mean * count), shutil.disk_usage(folder).free
    if needed > free:
        text = f"{count} recordings need about {needed / 1e6:,.0f} MB in {folder}, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, text)
    return needed


def _write(path: Path, data: NDArray[np.uint8]) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(
                data.data
            )  # not tofile(): of a disk that fills up it loses the last bytes without a word
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write the recording {path} ({error.strerror or error})"
        ) from error

"""Images filmed into files: a `.bin` file a recording, and camera.json, which says how."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import atomic_path, content_hash, write_json
from anystep._threads import map_ahead
from anystep.data.camera.simulate import SIMULATOR_VERSION, Camera, Trajectory, simulate
from anystep.data.recording import Events

CAMERA_FILE = "camera.json"
EVENT_BYTES = 5
_LATEST_US = 1 << 23  # the format has 23 bits for the time
_OVERFLOW_ROW = 240  # an event in this row is a clock overflow to every reader
_ID = re.compile(r"(\w[\w-]*/){1,2}\w[\w-]*")
_SAMPLE = 8  # recordings that the size of a film is estimated from

Pictures = NDArray[Any] | Callable[[int], NDArray[Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Setting:
    """All that shapes the events of a film besides the images.

    path      how the images move
    camera    what sees them
    seed      of the background events; a recording draws its own from (seed, id)
    source    plain values that name the images: a folder has films of one source only
    """

    path: Trajectory
    camera: Camera
    seed: int
    source: dict[str, Any]

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"Setting: seed must be a whole number >= 0, got {self.seed!r}")
        if self.path.duration_us > _LATEST_US:
            rule = f"path must end by {_LATEST_US} us, which .bin files hold"
            raise UsageError(f"Setting: {rule}, got {self.path.duration_us}")

    def describe(self) -> dict[str, Any]:
        """What camera.json holds. The path is its hash: a circle has 900 points."""
        path = {"duration_us": self.path.duration_us, "hash": content_hash(asdict(self.path))}
        own = {"path": path, "camera": asdict(self.camera), "seed": self.seed}
        settings = {"simulator": SIMULATOR_VERSION, **own, "source": self.source}
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    def shoot(self, image: NDArray[Any], name: str) -> Events:
        """The recording `name` of an image (H0, W0) in [0, 1]: the same whatever else is filmed."""
        return simulate(image, self.path, self.camera, seed=(self.seed, zlib.crc32(name.encode())))


def encode_bin(events: Events) -> NDArray[np.uint8]:
    """The bytes of a recording in the 40-bit format of N-MNIST, which `read_bin` reads back.

    An event is x, y, then p in bit 23 and the time in us in bits 22..0, big-endian. Refused: x or y
    above 255, row 240 (which marks a clock overflow), a time from 8,388,608 us on, no event at all.
    """
    if len(events) == 0:
        raise UsageError("encode_bin: a .bin file must hold at least one event, got none")
    x, y, t = events.x, events.y, events.t
    for name, bad, rule in (
        ("x", x > 255, "at most 255"),
        ("y", (y > 255) | (y == _OVERFLOW_ROW), f"at most 255 and not {_OVERFLOW_ROW}"),
        ("t", t >= _LATEST_US, f"below {_LATEST_US}"),
    ):
        if bad.any():
            index = int(bad.argmax())
            got = f"{getattr(events, name)[index]} at {index}"
            raise UsageError(f"encode_bin: {name} must be {rule} in a .bin file, got {got}")
    data = np.empty(EVENT_BYTES * len(events), np.uint8)
    data[::EVENT_BYTES] = x
    word = t.astype(np.uint32)
    word |= y.astype(np.uint32) << np.uint32(24)
    word |= events.p.astype(np.uint32) << np.uint32(23)
    np.ndarray((len(events),), dtype=">u4", buffer=data, offset=1, strides=(EVENT_BYTES,))[:] = word
    return data


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
        raise UsageError(f"{path} must hold the settings of a film and the number of recordings")
    return found


def _checked(images: Pictures, ids: Sequence[str]) -> list[str]:
    """The ids, all different and each a class and a name, perhaps in a part."""
    names = [str(each) for each in ids]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"film_images: {len(names)} ids must be different names, at least one")
    for name in names:
        if not _ID.fullmatch(name):
            rule = "an id must be <class>/<name> of letters, digits, _ and -, or <part>/ before it"
            raise UsageError(f"film_images: {rule}, got {name!r}")
    if not callable(images) and (images.ndim != 3 or len(images) != len(names)):
        rule = f"images must be ({len(names)}, H0, W0) like ids"
        raise UsageError(f"film_images: {rule}, got shape {images.shape}")
    return names


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A dictionary of dictionaries as one, with keys such as camera.threshold."""
    flat: dict[str, Any] = {}
    for key, each in value.items():
        inner = isinstance(each, dict)
        flat |= _flat(each, f"{prefix}{key}.") if inner else {f"{prefix}{key}": each}
    return flat


def _claim(folder: Path, setting: Setting, names: Sequence[str]) -> None:
    """Make the folders and camera.json, or refuse a folder that was filmed otherwise."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"film_images: out must be a folder, {folder} is a file")
    for each in sorted({name.rpartition("/")[0] for name in names}):
        (folder / each).mkdir(parents=True, exist_ok=True)
    wanted, found = setting.describe(), read_setting(folder)
    if found is None and any(folder.rglob("*.bin")):
        text = f"{folder} holds recordings but no {CAMERA_FILE}"
        raise UsageError(f"film_images: {text}, so nobody knows how they were made")
    count = found.pop("recordings") if found else 0
    there, asked = _flat(found or wanted), _flat(wanted)
    for key in sorted(there.keys() | asked.keys()):
        if there.get(key) != asked.get(key):
            text = f"{folder} was filmed with {key} = {there.get(key)!r}"
            way_out = "films of different settings need folders of their own"
            raise UsageError(f"film_images: {text}, asked for is {asked.get(key)!r}; {way_out}")
    if len(names) > count:
        write_json(folder / CAMERA_FILE, {**wanted, "recordings": len(names)})


def _whole(path: Path) -> bool:
    """Whether a recording is there. One that something else has cut is filmed again."""
    size = path.stat().st_size if path.is_file() else 0
    return size > 0 and size % EVENT_BYTES == 0


def _room_for(folder: Path, events: Sequence[int], count: int) -> int:
    """How many bytes `count` recordings need, as some have so many; OSError if there are fewer."""
    needed = round(count * EVENT_BYTES * sum(events) / len(events)) if events else 0
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = f"{count} recordings need about {needed / 1e6:,.0f} MB in {folder}"
        raise OSError(errno.ENOSPC, f"{text}, {free / 1e6:,.0f} MB are free")
    return needed


def _write(path: Path, data: NDArray[np.uint8]) -> None:
    try:
        with atomic_path(path) as temporary:
            # Not tofile(): of a disk that fills up it loses the last bytes without a word.
            temporary.write_bytes(data.data)
    except OSError as error:
        text = f"cannot write the recording {path} ({error.strerror or error})"
        raise OSError(error.errno, text) from error


def film_images(
    images: Pictures,
    ids: Sequence[str],
    out: str | os.PathLike[str],
    setting: Setting,
    *,
    workers: int | None = None,
    progress: Progress = lambda done, wanted: None,
) -> dict[str, Any]:
    """Film image i as the recording <out>/<ids[i]>.bin, and say what was made.

    images     (M, H0, W0) in [0, 1], or a function that gives image i
    ids        "<class>/<name>" or "<part>/<class>/<name>", one a recording
    workers    threads (None: one a processor); they change no event
    progress   called with (recordings there, recordings wanted) at the start and after each

    A recording is whole or absent, and one that is there is not filmed again: a film that was
    stopped goes on where it was. A folder filmed with another setting is refused. The size of the
    film is estimated from a few recordings: a disk with less room is an OSError before the work.
    """
    names = _checked(images, ids)
    threads = (os.cpu_count() or 1) if workers is None else workers
    if threads < 1:
        raise UsageError(f"film_images: workers must be >= 1 or None, got {workers}")
    folder, begin = Path(out), time.monotonic()
    picture = images if callable(images) else images.__getitem__
    _claim(folder, setting, names)
    files = [folder / f"{name}.bin" for name in names]
    missing = [i for i, file in enumerate(files) if not _whole(file)]
    evenly = missing[:: -(-len(missing) // _SAMPLE) or 1]
    sizes = [len(setting.shoot(picture(i), names[i])) for i in evenly]
    expected = _room_for(folder, sizes, len(missing))
    there = len(names) - len(missing)
    progress(there, len(names))

    def one(i: int) -> None:
        _write(files[i], encode_bin(setting.shoot(picture(i), names[i])))

    for done, _ in enumerate(map_ahead(one, missing, threads, ahead=2), start=there + 1):
        progress(done, len(names))
    seconds = time.monotonic() - begin
    size = sum(file.stat().st_size for file in files)
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

"""Event data sets in miniature, in every layout that people have on disk, written by other code
than that which reads them.

`TREES[name][layout](root)` writes a tree and returns `{id: (rows, label)}`, rows (t, x, y, p) as a
reader must give them and on the clock that the data set promises.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path

import numpy as np
from event_files import AEDAT3_HEADER, Row, aedat3_packet, bin_bytes, cifar10_dvs_bytes

Known = dict[str, tuple[list[Row], int]]
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUMBERS = (*range(3), *range(100, 107), 900, 901, 999)  # files of a class of CIFAR10-DVS
TRIALS = [f"user{n:02d}_{'lab' if n in (2, 5, 24) else 'led'}" for n in (1, 2, 3, 5, 23, 24, 29)]
CALTECH = ("BACKGROUND_Google", "Faces_easy", *(f"thing_{i:02d}" for i in range(99)))
EVENTS = 24
LONGEST = 299_000


def rows_of(name: str, height: int, width: int) -> list[Row]:
    """A recording of 24 events that depends on the name alone; it starts at 0, and its first two
    are opposite corners.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    times = sorted(rng.integers(0, LONGEST, EVENTS - 1).tolist())
    size = width, height, 2
    rows = [(t, *(int(rng.integers(each)) for each in size)) for t in times[1:]]
    return [(0, 0, 0, 0), (times[0], width - 1, height - 1, 1), *rows]


def later(rows: list[Row], by: int, right: int = 0, down: int = 0) -> list[Row]:
    return [(t + by, x + right, y + down, p) for t, x, y, p in rows]


def put(path: Path, content: str | bytes | list[Row]) -> None:
    """Events are written in the format of the file's name, .npz as SpikingJelly does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    elif path.suffix == ".npz":
        np.savez(path, **dict(zip("txyp", np.array(content).T, strict=True)))
    else:
        path.write_bytes((cifar10_dvs_bytes if path.suffix == ".aedat" else bin_bytes)(content))


def nmnist(root: Path, *, top: str = "", suffix: str = ".bin") -> Known:
    """Ten recordings of each digit train and two test."""
    known: Known = {}
    for digit in range(10):
        for number in range(12):
            name = f"{'train' if number < 10 else 'test'}/{digit}/{number * 7:05d}"
            known[name] = later(rows_of(name, 34, 34), 500), digit
            file = name.capitalize() if suffix == ".bin" else name
            put(root / top / f"{file}{suffix}", known[name][0])
    if suffix == ".npz":
        (root / "extract").mkdir()
    return known


def caltech(root: Path, *, top: str = "", suffix: str = ".bin") -> Known:
    """Ten recordings a class: 20 x 20 pixels somewhere on the sensor, and the annotations that lie
    beside the classes.
    """
    known: Known = {}
    for label, group in enumerate(CALTECH):
        for number in range(1, 11):
            name = f"{group}/image_{number:04d}"
            known[name] = rows_of(name, 20, 20), label
            moved = later(known[name][0], 0, right=number * 20, down=number * 15)
            put(root / top / f"{name}{suffix}", moved)
    put(root / "Caltech101_annotations" / "Faces_easy" / "annotation_0001.bin", b"\x00\x01")
    return known


def cifar10(root: Path, *, top: str = "", suffix: str = ".aedat") -> Known:
    """CIFAR10-DVS; with .bin <class>/<number>.bin and camera.json, as the simulated camera does."""
    known: Known = {}
    for label, group in enumerate(CIFAR10):
        for number in NUMBERS:
            name = f"{group}/{number}"
            known[name] = rows_of(name, 128, 128), label
            if suffix == ".bin":
                put(root / f"{name}.bin", known[name][0])
            else:
                path = root / top / group / f"cifar10_{group}_{number}{suffix}"
                put(path, later(known[name][0], 1_000_000 + number))
    if suffix == ".bin":
        put(root / "camera.json", f'{{"recordings": {len(known)}}}')
    return known


def gestures_of(trial: str) -> list[tuple[int, int, list[Row]]]:
    """(label, which of its label, rows): eleven gestures a trial, arm roll a second time."""
    each = [(label, 0) for label in range(11)] + [(7, 1)]
    return [(label, k, rows_of(f"{trial}/{label}_{k}", 128, 128)) for label, k in each]


def gestures(root: Path, *, top: str = "", lists: bool = True) -> Known:
    known: Known = {}
    for trial in TRIALS:
        table, stream = "class,startTime_usec,endTime_usec\n", rows_of(trial, 128, 128)
        for place, (label, k, rows) in enumerate(gestures_of(trial)):
            known[f"{trial}/{label}_{k}"] = rows, label
            start = 1_000_000 + place * 400_000
            end = start + LONGEST + 1
            table += f"{label + 1},{start},{end}\n"
            stream += [*later(rows, start), (end, 1, 1, 1)]  # one event after the end
        packets = [aedat3_packet(stream[i : i + 50]) for i in range(0, len(stream), 50)]
        put(root / top / f"{trial}.aedat", AEDAT3_HEADER + b"".join(packets))
        put(root / top / f"{trial}_labels.csv", table)
    for part, names in (("train", TRIALS[:5]), ("test", TRIALS[5:])) if lists else ():
        put(root / top / f"trials_to_{part}.txt", "".join(f"{name}.aedat\n" for name in names))
    return known


def gestures_npz(root: Path) -> Known:
    known: Known = {}
    for trial in TRIALS:
        part = root / "events_np" / ("train" if trial in TRIALS[:5] else "test")
        for label, k, rows in gestures_of(trial):
            known[f"{trial}/{label}_{k}"] = rows, label
            put(part / str(label) / f"{trial}_{k}.npz", later(rows, 77_000_000))
    return known


def gestures_tonic(root: Path) -> Known:
    """x, y, p, t in ms, and only the first gesture of a label."""
    known: Known = {}
    for trial in TRIALS:
        part = "ibmGestureTrain" if trial in TRIALS[:5] else "ibmGestureTest"
        folder = root / "DVSGesture" / part / trial
        folder.mkdir(parents=True)
        for label, _, rows in gestures_of(trial)[:11]:
            known[f"{trial}/{label}_0"] = [(t // 1000 * 1000, *rest) for t, *rest in rows], label
            columns = [(x, y, p, t // 1000 + 5) for t, x, y, p in rows]
            np.save(folder / f"{label}.npy", np.array(columns, dtype=np.float64))
    return known


def folder(root: Path, *, parts: bool = False) -> Known:
    """Two classes of 20 recordings, in two formats and folders within folders."""
    known: Known = {}
    for number in range(40):
        group, part = ("left", "right")[number % 2], "test/" if number >= 30 else "train/"
        name = f"{part if parts else ''}{group}/{number % 3}/take.{number}"
        known[name] = rows_of(name, 16, 16), number % 2
        suffix = ".bin" if number < 20 else ".npz"
        put(root / f"{name}{suffix}", later(known[name][0], 5_000))
    return known


TREES = {
    "nmnist": {
        "released": nmnist,
        "Tonic": partial(nmnist, top="NMNIST"),
        "SpikingJelly's extract": partial(nmnist, top="extract"),
        "SpikingJelly": partial(nmnist, top="events_np", suffix=".npz"),
    },
    "ncaltech101": {
        "released": caltech,
        "Tonic": partial(caltech, top="Caltech101"),
        "SpikingJelly": partial(caltech, top="events_np", suffix=".npz"),
    },
    "cifar10-dvs": {
        "released": cifar10,
        "SpikingJelly's extract": partial(cifar10, top="extract"),
        "SpikingJelly": partial(cifar10, top="events_np", suffix=".npz"),
    },
    "cifar10-sim": {"filmed": partial(cifar10, suffix=".bin")},
    "dvs-gesture": {
        "released": partial(gestures, top="DvsGesture"),
        "without lists": partial(gestures, lists=False),
        "SpikingJelly": gestures_npz,
        "Tonic": gestures_tonic,
    },
    "events-folder": {"classes": folder, "parts": partial(folder, parts=True)},
}
OPTIONS = {"ncaltech101": {"size": 20}, "events-folder": {"sensor": [34, 34]}}

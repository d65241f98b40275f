"""Event data sets in miniature, in every layout that people have on disk, written by other code
than that which reads them.

`TREES[name][layout](root)` writes a tree and returns `{id: (rows, label)}`, rows (t, x, y, p) as a
reader must give them and on the clock that the data set promises.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from event_files import AEDAT3_HEADER, Row, aedat2_bytes, aedat3_packet, bin_bytes

Known = dict[str, tuple[list[Row], int]]
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUMBERS = (*range(3), *range(100, 107), 900, 901, 999)  # files of a class of CIFAR10-DVS
TRIALS = [
    f"user{user:02d}_{light}"
    for user, light in zip((1, 2, 3, 5, 23, 24, 29), ("led", "lab") * 4, strict=False)
]
CALTECH = ("BACKGROUND_Google", "Faces_easy", *(f"thing_{i:02d}" for i in range(99)))
EVENTS = 24
LONGEST = 299_000


def rows_of(name: str, height: int, width: int) -> list[Row]:
    """A recording of 24 events that depends on the name alone; it starts at 0, and its first two
    are opposite corners.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    times = [0, *sorted(rng.integers(0, LONGEST, EVENTS - 1).tolist())]
    rows = [
        (t, int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(2)))
        for t in times
    ]
    rows[0], rows[1] = (0, 0, 0, 0), (times[1], width - 1, height - 1, 1)
    return rows


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_npz(path: Path, rows: list[Row]) -> None:
    """As SpikingJelly saves events."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t, x, y, p = np.array(rows).T
    np.savez(path, t=t, x=x, y=y, p=p)


def later(rows: list[Row], by: int, right: int = 0, down: int = 0) -> list[Row]:
    return [(t + by, x + right, y + down, p) for t, x, y, p in rows]


def nmnist_names() -> dict[str, int]:
    """Ten recordings of each digit train and two test."""
    parts = [("train", n) for n in range(10)] + [("test", n) for n in (10, 11)]
    return {
        f"{part}/{digit}/{number * 7:05d}": digit for digit in range(10) for part, number in parts
    }


def nmnist(root: Path, *, top: str = "") -> Known:
    known = {
        name: (later(rows_of(name, 34, 34), 500), label) for name, label in nmnist_names().items()
    }
    for name, (rows, _) in known.items():
        put(root / top / f"{name.capitalize()}.bin", bin_bytes(rows))
    return known


def nmnist_npz(root: Path) -> Known:
    (root / "extract").mkdir(parents=True)
    known = {
        name: (later(rows_of(name, 34, 34), 500), label) for name, label in nmnist_names().items()
    }
    for name, (rows, _) in known.items():
        put_npz(root / "events_np" / f"{name}.npz", rows)
    return known


def caltech(root: Path, *, top: str = "", npz: bool = False) -> Known:
    """Ten recordings a class: 20 x 20 pixels somewhere on the sensor, and the annotations that lie
    beside the classes.
    """
    known: Known = {}
    for label, group in enumerate(CALTECH):
        for number in range(1, 11):
            name = f"{group}/image_{number:04d}"
            rows = rows_of(name, 20, 20)
            known[name] = (rows, label)
            moved = later(rows, 0, right=number * 20, down=number * 15)
            if npz:
                put_npz(root / "events_np" / f"{name}.npz", moved)
            else:
                put(root / top / f"{name}.bin", bin_bytes(moved))
    put(root / "Caltech101_annotations" / "Faces_easy" / "annotation_0001.bin", b"\x00\x01")
    return known


def cifar10_dvs(root: Path, *, top: str = "", kind: str = "aedat") -> Known:
    known: Known = {}
    for label, group in enumerate(CIFAR10):
        for number in NUMBERS:
            name = f"{group}/{number}"
            rows = rows_of(name, 128, 128)
            known[name] = (rows, label)
            path, moved = (
                root / top / group / f"cifar10_{group}_{number}",
                later(rows, 1_000_000 + number),
            )
            if kind == "aedat":
                put(path.with_suffix(".aedat"), aedat2_bytes(moved))
            else:
                put_npz(path.with_suffix(".npz"), moved)
    return known


def cifar10_film(root: Path) -> Known:
    """<class>/<number>.bin and camera.json, as the simulated camera leaves them."""
    known: Known = {}
    for label, group in enumerate(CIFAR10):
        for number in (*range(10), 900, 950, 999):
            name = f"{group}/{number}"
            known[name] = (rows_of(name, 128, 128), label)
            put(root / f"{name}.bin", bin_bytes(known[name][0]))
    put(root / "camera.json", f'{{"recordings": {len(known)}}}'.encode())
    return known


def gesture_names() -> list[tuple[str, str, int, int]]:
    """(id, trial, label, which of its label): eleven gestures a trial, arm roll a second time."""
    return [
        (f"{trial}/{label}_{k}", trial, label, k)
        for trial in TRIALS
        for k in (0, 1)
        for label in range(11)
        if label == 7 or not k
    ]


def gestures(root: Path, *, top: str = "", lists: bool = True) -> Known:
    known: Known = {}
    for trial in TRIALS:
        table, stream = "class,startTime_usec,endTime_usec\n", later(rows_of(trial, 128, 128), 0)
        for place, (name, _, label, _) in enumerate(
            each for each in gesture_names() if each[1] == trial
        ):
            rows = rows_of(name, 128, 128)
            known[name] = (rows, label)
            start = 1_000_000 + place * 400_000
            table += f"{label + 1},{start},{start + LONGEST + 1}\n"
            stream += [
                *later(rows, start),
                (start + LONGEST + 1, 1, 1, 1),
            ]  # one event after the end
        put(
            root / top / f"{trial}.aedat",
            AEDAT3_HEADER
            + b"".join(aedat3_packet(stream[i : i + 50]) for i in range(0, len(stream), 50)),
        )
        put(root / top / f"{trial}_labels.csv", table.encode())
    for part, names in (("train", TRIALS[:5]), ("test", TRIALS[5:])) if lists else ():
        put(
            root / top / f"trials_to_{part}.txt",
            "".join(f"{name}.aedat\n" for name in names).encode(),
        )
    return known


def gestures_npz(root: Path) -> Known:
    known: Known = {}
    for name, trial, label, k in gesture_names():
        known[name] = (rows_of(name, 128, 128), label)
        part = "train" if trial in TRIALS[:5] else "test"
        put_npz(
            root / "events_np" / part / str(label) / f"{trial}_{k}.npz",
            later(known[name][0], 77_000_000),
        )
    return known


def gestures_tonic(root: Path) -> Known:
    """x, y, p, t in ms, and only the first gesture of a label."""
    known: Known = {}
    for name, trial, label, k in gesture_names():
        if k == 0:
            rows = [(t // 1000 * 1000, x, y, p) for t, x, y, p in rows_of(name, 128, 128)]
            known[name] = (rows, label)
            folder = (
                root
                / "DVSGesture"
                / ("ibmGestureTrain" if trial in TRIALS[:5] else "ibmGestureTest")
                / trial
            )
            folder.mkdir(parents=True, exist_ok=True)
            np.save(
                folder / f"{label}.npy",
                np.array([(x, y, p, t // 1000 + 5) for t, x, y, p in rows], dtype=np.float64),
            )
    return known


def folder(root: Path, *, parts: bool = False) -> Known:
    """Two classes of 20 recordings, in two formats and folders within folders."""
    known: Known = {}
    for number in range(40):
        group, part = ("left", "right")[number % 2], "test/" if number >= 30 else "train/"
        name = f"{part if parts else ''}{group}/{number % 3}/take.{number}"
        rows = rows_of(name, 16, 16)
        known[name] = (rows, number % 2)
        if number < 20:
            put(root / f"{name}.bin", bin_bytes(later(rows, 5_000)))
        else:
            put_npz(root / name.rpartition("/")[0] / f"take.{number}.npz", later(rows, 5_000))
    return known


TREES = {
    "nmnist": {
        "released": nmnist,
        "Tonic": lambda root: nmnist(root, top="NMNIST"),
        "SpikingJelly's extract": lambda root: nmnist(root, top="extract"),
        "SpikingJelly": nmnist_npz,
    },
    "ncaltech101": {
        "released": caltech,
        "Tonic": lambda root: caltech(root, top="Caltech101"),
        "SpikingJelly": lambda root: caltech(root, npz=True),
    },
    "cifar10-dvs": {
        "released": cifar10_dvs,
        "SpikingJelly's extract": lambda root: cifar10_dvs(root, top="extract"),
        "SpikingJelly": lambda root: cifar10_dvs(root, top="events_np", kind="npz"),
    },
    "cifar10-sim": {"filmed": cifar10_film},
    "dvs-gesture": {
        "released": lambda root: gestures(root, top="DvsGesture"),
        "without lists": lambda root: gestures(root, lists=False),
        "SpikingJelly": gestures_npz,
        "Tonic": gestures_tonic,
    },
    "events-folder": {"classes": folder, "parts": lambda root: folder(root, parts=True)},
}
OPTIONS = {"ncaltech101": {"size": 20}, "events-folder": {"sensor": [34, 34]}}

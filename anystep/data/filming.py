"""An image set before the simulated event camera: which of its pictures are filmed, and how."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from anystep._errors import UsageError
from anystep._files import content_hash
from anystep._lookup import choose
from anystep.data.camera.cifar10_sim import (
    CAMERA,
    IMAGE_SETS,
    MOTIONS,
    PER_CLASS,
    PIXELS,
    Choice,
    Folder,
    light_of,
)
from anystep.data.camera.film import Progress, Setting, film_images
from anystep.data.camera.simulate import path_name
from anystep.data.datasets import load_dataset, options_of
from anystep.data.events.catalogue import EVENT_SETS
from anystep.data.frames import Direct
from anystep.data.sets import PARTS, Splits

RULE = "of each class the first in the order of sha256('<images>-sim/<id>')"


def _loaded(name: str, root: Folder | None) -> Splits:
    """An image set whose pictures have the size that is filmed, where the row can do that."""
    if name in EVENT_SETS or name == "digits-dvs":
        raise UsageError(f"{name} holds events; what can be filmed is images")
    takes = options_of(name)
    takes = ["root"] if takes is None else takes
    if "root" not in takes and root is not None:
        raise UsageError(f"{name} is built in and takes no folder, got {str(root)!r}")
    given: dict[str, Any] = {"root": Path("data") / name if root is None else root, "size": PIXELS}
    options = {key: value for key, value in given.items() if key in takes}
    return load_dataset(name, binning=Direct(1), **options)


def _folders(classes: tuple[str, ...]) -> list[str]:
    """A folder for each class: its name with _ for all but letters, digits, _ and -."""
    folders = [re.sub(r"[^\w-]+", "_", name) for name in classes]
    for label, each in enumerate(folders):
        if (other := folders.index(each)) != label:
            both = f"classes {classes[other]!r} and {classes[label]!r}"
            raise UsageError(f"{both} would both be filmed into the folder {each!r}")
    return folders


def pictures_of(name: str, root: Folder | None, per_class: int | None) -> Choice:
    """At most `per_class` pictures of each class (None: all) of a row of DATASETS, by RULE.

    They are <class>/<number>; of a set with test pictures of its own train/<class>/<number> and
    test/<class>/<number>, as many of each at most.
    """
    splits = _loaded(name, root)
    own_test = "/stratified" not in splits.protocol
    groups: dict[str, list[tuple[str, Any, int]]] = {}
    rows: list[tuple[str, int]] = []
    folders = _folders(splits.classes)
    for part in PARTS:
        data: Any = getattr(splits, part)
        home = f"{'test' if part == 'test' else 'train'}/" if own_test else ""
        for i, (each, label) in enumerate(zip(data.ids, data.labels, strict=True)):
            order = hashlib.sha256(f"{name}-sim/{each}".encode()).hexdigest()
            groups.setdefault(f"{home}{folders[label]}", []).append((order, data, i))
            rows.append((str(each), int(label)))
    chosen = {
        f"{group}/{k}": member[1:]
        for group, members in sorted(groups.items())
        for k, member in enumerate(sorted(members, key=lambda member: member[0])[:per_class])
    }
    ids = list(chosen)

    def light(i: int) -> Any:
        data, index = chosen[ids[i]]
        return light_of(data.raw(index))

    source = {"images": name, "rule": RULE, "hash": content_hash(sorted(rows)), "pixels": PIXELS}
    return Choice(light, ids, {**source, "grey": "ITU-R BT.601"})


def simulate_dataset(
    images: str = "cifar10",
    *,
    root: Folder | None = None,
    out: Folder,
    path: str = "closed_loop",
    per_class: int | None = None,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, wanted: None,
) -> dict[str, Any]:
    """Film an image set into the folder `out`, and say what was made.

    images      "cifar10", which `cifar10-sim` reads, or another image row of DATASETS, which
                `events-folder` reads
    root        the folder of the image set; None: data/<images>, or none if it is built in
    path        a row of MOTIONS; "closed-loop" is "closed_loop"
    per_class   images of every class: a film of 100 is the beginning of that of 1,000; None: 1,000
                of cifar10, all of another set
    workers     threads (None: one a processor); they change no event
    progress    called with (recordings there, recordings wanted)

    A film that was stopped goes on where it was; see `film_images` for what is refused.
    """
    motion = choose(MOTIONS, path_name(path), "path")()
    if per_class is not None and per_class < 1:
        raise UsageError(f"simulate_dataset: per_class must be >= 1, got {per_class!r}")
    if pick := IMAGE_SETS.get(images):
        choice = pick(root or Path("data") / images, per_class or PER_CLASS)
    else:
        choice = pictures_of(images, root, per_class)
    setting = Setting(motion, CAMERA, seed, {**choice.source, "moved": path_name(path)})
    return film_images(choice.light, choice.ids, out, setting, workers=workers, progress=progress)

"""CIFAR-10 before the simulated event camera, at the size of CIFAR10-DVS: how it is filmed, and the
row that reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import content_hash
from anystep._lookup import choose
from anystep.data.camera.film import Progress, Setting, film_images
from anystep.data.camera.simulate import Camera, Trajectory, closed_loop, path_name, saccade
from anystep.data.digits import enlarge
from anystep.data.events.catalogue import check_protocol, find_recordings
from anystep.data.events.layouts import Folder
from anystep.data.events.rows import frames_of, look_of
from anystep.data.frames import Direct, Encoding
from anystep.data.images.cifar import CIFAR10_CLASSES, cifar10
from anystep.data.protocols import number_in
from anystep.data.sets import Splits

SENSOR = (128, 128)  # of the DVS128 that CIFAR10-DVS was filmed with
RADIUS = 5.0  # pixels of the sensor that the image moves to every side
PIXELS = 138  # the image is enlarged to sensor + 2 * radius: it fills the view at every moment and its edge is never seen
PER_CLASS = 1000
CAMERA = Camera(sensor=SENSOR, substep_us=4000)
# The rows of simulate.PATHS at the scale of this sensor.
MOTIONS: dict[str, Callable[[], Trajectory]] = {
    "closed_loop": partial(closed_loop, 1_200_000, radius=RADIUS, loops=6),
    "saccade": partial(saccade, 300_000, size=2 * RADIUS),
}
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
RULE = (
    "of each class of the training set the first in the order of sha256('cifar10-sim/<content id>')"
)


@dataclass(frozen=True)
class Choice:
    """The images to film: `light(i)` (H0, W0) in [0, 1], their ids <class>/<number>, and what names
    them.
    """

    light: Callable[[int], NDArray[np.float64]]
    ids: list[str]
    source: dict[str, Any]


def simulate_dataset(
    images: str = "cifar10",
    *,
    root: Folder,
    out: Folder,
    path: str = "closed_loop",
    per_class: int = PER_CLASS,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Film an image set into the folder `out`, as `cifar10-sim` reads it, and say what was made.

    images      a row of IMAGE_SETS
    root        the folder of the image set
    path        a row of MOTIONS; "closed-loop" is "closed_loop"
    per_class   images of every class. They come in one order: a film of 100 is the beginning of
                that of 1,000
    workers     threads (None: one a processor); they change no event
    progress    called with (recordings there, recordings wanted)

    A film that was stopped goes on where it was; see `film_images` for what is refused.
    """
    pick = choose(IMAGE_SETS, images, "image set")
    motion = choose(MOTIONS, path_name(path), "path")()
    if isinstance(per_class, bool) or per_class < 1:
        raise UsageError(
            f"simulate_dataset: per_class must be a whole number >= 1, got {per_class!r}"
        )
    choice = pick(root, per_class)
    setting = Setting(motion, CAMERA, seed, {**choice.source, "moved": path_name(path)})
    return film_images(choice.light, choice.ids, out, setting, workers=workers, progress=progress)


def cifar10_sim(
    *,
    binning: Encoding,
    cache: Folder | None = None,
    workers: int | None = None,
    root: Folder | None = None,
    size: int | None = None,
    interpolation: str = "nearest",
    protocol: str = "cifar10-sim/last-100",
    skip_bad: bool = False,
) -> Splits:
    """1,000 training images of each class of CIFAR-10, filmed at 128 x 128 by the simulated event
    camera.

    root   the folder that `anystep data simulate --images cifar10 --out DIR` made

    The benchmark of CIFAR10-DVS's size for whoever has CIFAR-10; not its recordings, see
    docs/simulated-camera.md. Ids are <class>/<number>; `cifar10-sim/last-100` tests numbers 900 to
    999 and wants all 1,000. Time is the film's own clock.
    """
    look = look_of("cifar10-sim", binning, size, interpolation, from_first=False)
    check_protocol("cifar10-sim", protocol)
    found = find_recordings("cifar10-sim", root, protocol=protocol)
    most = max(number_in(name) for name in found.ids) + 1
    if protocol == "cifar10-sim/last-100" and most < PER_CLASS:
        raise UsageError(
            f"cifar10-sim: {found.root} holds {most} recordings a class, {protocol} tests numbers 900 to 999; film all 1,000, "
            "or choose random-90-10@SEED"
        )
    return frames_of(found, look, cache=cache, workers=workers, skip_bad=skip_bad)


def light_of(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The light of a colour image (3, 32, 32) on the sensor, (PIXELS, PIXELS) in [0, 1]: its luma,
    enlarged bilinearly.

        light = (0.299 R + 0.587 G + 0.114 B) / 255        ITU-R BT.601

    The screen's gamma is left out: the luma is taken as the light.
    """
    grey = np.tensordot(LUMA, image.astype(np.float64), axes=1) / 255
    return enlarge(grey[None], PIXELS)[0]


def _cifar10_images(root: Folder, per_class: int) -> Choice:
    """The images of CIFAR-10 by RULE: names come from the pixels, so every form of the set gives
    the same.
    """
    splits = cifar10(binning=Direct(1), root=root)
    parts: list[Any] = [splits.train, splits.val]  # together the official training set
    rows = [
        (part, i, str(part.ids[i]), int(part.labels[i])) for part in parts for i in range(len(part))
    ]
    rows.sort(key=lambda row: hashlib.sha256(f"cifar10-sim/{row[2]}".encode()).hexdigest())
    chosen, ids = [], []
    for number in range(len(CIFAR10_CLASSES)):
        members = [row for row in rows if row[3] == number]
        if len(members) < per_class:
            name = CIFAR10_CLASSES[number]
            raise UsageError(
                f"cifar10-sim: per_class must be at most {len(members)}, the images of {name}, got {per_class}"
            )
        chosen += members[:per_class]
        ids += [f"{CIFAR10_CLASSES[number]}/{k}" for k in range(per_class)]

    def light(i: int) -> NDArray[np.float64]:
        part, index = chosen[i][:2]
        return light_of(part.raw(index))

    whole = content_hash(sorted((row[2], row[3]) for row in rows))
    return Choice(
        light,
        ids,
        {
            "images": "cifar10",
            "rule": RULE,
            "hash": whole,
            "pixels": PIXELS,
            "grey": "ITU-R BT.601",
        },
    )


IMAGE_SETS: dict[str, Callable[[Folder, int], Choice]] = {"cifar10": _cifar10_images}

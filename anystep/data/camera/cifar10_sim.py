"""CIFAR-10 before the simulated event camera, at the size of CIFAR10-DVS: how it is filmed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import content_hash
from anystep.data.camera.simulate import (
    Camera,
    Trajectory,
    closed_loop,
    enlarge,
    saccade,
)
from anystep.data.frames import Direct
from anystep.data.images.cifar import CIFAR10_CLASSES, cifar10

SENSOR = (128, 128)  # of the DVS128 that CIFAR10-DVS was filmed with
RADIUS = 5.0  # pixels of the sensor that the image moves to every side
# Sensor + 2 * radius: the image fills the view at every moment and its edge is never seen.
PIXELS = 138
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
Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Choice:
    """The images to film: `light(i)` (H0, W0) in [0, 1], ids <class>/<number>, and their source."""

    light: Callable[[int], NDArray[np.float64]]
    ids: list[str]
    source: dict[str, Any]


def light_of(image: NDArray[Any]) -> NDArray[np.float64]:
    """The light of a square image on the sensor, (PIXELS, PIXELS) in [0, 1].

        light = (0.299 R + 0.587 G + 0.114 B) / 255        ITU-R BT.601, enlarged bilinearly

    image (3, S, S) or grey (1, S, S), uint8, or floats in [0, 1]. The screen's gamma is left out:
    the luma is taken as the light.
    """
    planes = image.astype(np.float64)
    grey = np.tensordot(LUMA, planes, axes=1) if len(planes) == 3 else planes[0]
    return enlarge(grey[None] / (255 if image.dtype == np.uint8 else 1), PIXELS)[0]


def _cifar10_images(root: Folder, per_class: int) -> Choice:
    """The images of CIFAR-10 by RULE: the same, under the same names, whatever form the set has."""
    splits = cifar10(binning=Direct(1), root=root)
    parts: list[Any] = [splits.train, splits.val]  # together the official training set
    rows = [
        (part, i, str(part.ids[i]), int(part.labels[i])) for part in parts for i in range(len(part))
    ]
    rows.sort(key=lambda row: hashlib.sha256(f"cifar10-sim/{row[2]}".encode()).hexdigest())
    chosen, ids = [], []
    for label, name in enumerate(CIFAR10_CLASSES):
        members = [row for row in rows if row[3] == label]
        if len(members) < per_class:
            rule = f"per_class must be at most {len(members)}, the images of {name}"
            raise UsageError(f"cifar10-sim: {rule}, got {per_class}")
        chosen += members[:per_class]
        ids += [f"{name}/{k}" for k in range(per_class)]

    def light(i: int) -> NDArray[np.float64]:
        part, index = chosen[i][:2]
        return light_of(part.raw(index))

    whole = content_hash(sorted((row[2], row[3]) for row in rows))
    source = {"images": "cifar10", "rule": RULE, "hash": whole}
    return Choice(light, ids, {**source, "pixels": PIXELS, "grey": "ITU-R BT.601"})


IMAGE_SETS: dict[str, Callable[[Folder, int], Choice]] = {"cifar10": _cifar10_images}

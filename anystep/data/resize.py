"""Frames of another size: nearest and bilinear, with the conventions of the papers that we
reproduce.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._lookup import choose


def resize(frames: NDArray[Any], size: int, interpolation: str) -> NDArray[Any]:
    """Frames (..., H, W) as (..., size, size): the picture is stretched, its shape is not kept.

    `interpolation` is a row of INTERPOLATIONS: "nearest" keeps the number type, "bilinear" gives
    float32. Neither keeps the number of events. Errors: a size below 1, an unknown interpolation,
    frames without rows and columns.

    >>> resize(np.arange(16).reshape(1, 4, 4), 2, "nearest")
    array([[[ 0,  2],
            [ 8, 10]]])
    """
    check_size(size, interpolation)
    if frames.ndim < 2 or 0 in frames.shape[-2:]:
        raise UsageError(
            f"resize: frames must be (..., H, W) with H and W >= 1, got shape {frames.shape}"
        )
    return INTERPOLATIONS[interpolation](frames, int(size))


def check_size(size: int | None, interpolation: str) -> None:
    """Refuse a size below 1 and an interpolation that INTERPOLATIONS does not have, or that has
    nothing to do (size None).
    """
    choose(INTERPOLATIONS, interpolation, "interpolation")
    if size is None:
        if interpolation != "nearest":
            raise UsageError(f"resize: interpolation {interpolation!r} needs a size, got None")
    elif isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise UsageError(f"resize: size must be a whole number >= 1, got {size!r}")


def nearest(frames: NDArray[Any], size: int) -> NDArray[Any]:
    """Pixel k of n shows pixel floor(k * N / n) of N, as torch's and torchvision's "nearest" on
    tensors (HSD).
    """
    rows, columns = (np.arange(size) * frames.shape[axis] // size for axis in (-2, -1))
    return frames[..., rows[:, None], columns]


def bilinear(frames: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Pixel k of n lies at k * (N - 1) / (n - 1) of N: the corners stay corners (torch's
    `align_corners=True`; TKS).

    Between pixels the value is on a straight line, first along columns of a frame, then along its
    rows; no smoothing before a reduction.
    """
    return _between(_between(frames.astype(np.float32), size, -2), size, -1)


INTERPOLATIONS: dict[str, Callable[[NDArray[Any], int], NDArray[Any]]] = {
    "nearest": nearest,
    "bilinear": bilinear,
}


def _between(values: NDArray[np.float32], size: int, axis: int) -> NDArray[np.float32]:
    """`values` at `size` evenly spaced places along one axis, from its first entry to its last."""
    last = values.shape[axis] - 1
    place = np.linspace(0, last, size) if size > 1 else np.zeros(1)
    low = np.minimum(place.astype(np.int64), max(last - 1, 0))
    part = (place - low).astype(np.float32).reshape((-1, 1) if axis == -2 else (-1,))
    below, above = np.take(values, low, axis), np.take(values, np.minimum(low + 1, last), axis)
    return (below * (1 - part) + above * part).astype(np.float32, copy=False)

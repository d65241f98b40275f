"""What an augmentation is, and those that move pixels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anystep._errors import UsageError

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Augment(ABC):
    """A change of a batch by chance: `augment(x (T, N, P, H, W), y, generator) -> (x, y)`.

    All chance comes from `generator`, a `torch.Generator` on the CPU: the same seed gives the same
    draws on every device. Every sample has draws of its own, shared by its frames, so a static
    batch (a stride of 0 in time) stays static and is worked on once. The arguments are left as they
    were.

    soft_labels   whether y comes back as (N, C) shares instead of (N,) classes
    by_step       whether it treats the frames of a sample differently, so that it refuses images
    """

    name: ClassVar[str]
    soft_labels: ClassVar[bool] = False
    by_step: ClassVar[bool] = False

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        """The changed batch."""
        if x.dim() != 5 or y.shape[:1] != x.shape[1:2]:
            shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
            rule = "x must be (T, N, P, H, W) and y (N,) or (N, C)"
            raise UsageError(f"{self.name}: {rule}, got {shapes}")
        if not x.is_floating_point():
            raise UsageError(f"{self.name}: x must be of floating point, got {x.dtype}")
        if x.stride(0) != 0 or len(x) == 1:
            return self._apply(x, y, generator)
        if self.by_step:
            rule = "treats the frames of a sample differently, but those of an image are all alike"
            raise UsageError(f"{self.name} {rule}")
        one, y = self._apply(x[:1], y, generator)
        return one.expand(len(x), *one.shape[1:]), y

    @abstractmethod
    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        """What the call does, without its checks."""

    def need(self, right: bool, field: str, allowed: str) -> None:
        """Refuse a field by name."""
        if not right:
            got = getattr(self, field)
            raise UsageError(f"{self.name}: {field} must be {allowed}, got {got!r}")

    def chance(self, field: str = "p") -> None:
        """Refuse a field that is no probability."""
        self.need(0 <= getattr(self, field) <= 1, field, "in 0..1")


def uniform(
    shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> Tensor:
    """Numbers in [low, high), float64 on the CPU: coarser ones could round to `high`."""
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low


def integers(n: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    """(n,) whole numbers in low..high, both ends included."""
    return torch.randint(low, high + 1, (n,), generator=generator)


def grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, (1, H, 1) and (1, 1, W)."""
    return torch.arange(x.shape[-2]).view(1, -1, 1), torch.arange(x.shape[-1]).view(1, 1, -1)


def of_sample(values: Tensor, x: Tensor) -> Tensor:
    """One value a sample (N,) as (1, N, 1, 1, 1) on the device of x."""
    return values.to(x.device).view(1, -1, 1, 1, 1)


def box(x: Tensor, start: Sequence[Tensor], size: Sequence[Tensor | int]) -> Tensor:
    """(1, N, 1, H, W): inside the box of each sample with its first row and column, and so many."""
    inside = torch.ones(1, 1, 1, dtype=torch.bool)
    for place, first, length in zip(grid(x), start, size, strict=True):
        offset = place - first.view(-1, 1, 1)
        inside = inside & (offset >= 0) & (offset < torch.as_tensor(length).view(-1, 1, 1))
    return inside.to(x.device)[None, :, None]


def pick(x: Tensor, row: Tensor, column: Tensor, fill: float = 0.0) -> Tensor:
    """Values moved: out[t, n, p, i, j] = x[t, n, p, row[n, i, j], column[n, i, j]].

    row, column: whole numbers (N, H', W'), or of a shape that broadcasts to that. Outside of the
    frame is `fill`.
    """
    height, width = x.shape[-2:]
    row, column = torch.broadcast_tensors(row, column)
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1).to(x.device)
    index = place[None, :, None].expand(*x.shape[:3], place.shape[-1])
    moved = x.flatten(3).gather(3, index).unflatten(3, row.shape[1:])
    return moved.masked_fill(outside.to(x.device)[None, :, None], fill)


def rolled(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each sample moved by whole pixels (N,), what leaves on one side comes in on the other."""
    row, column = grid(x)
    height, width = x.shape[-2:]
    return pick(x, (row - down.view(-1, 1, 1)) % height, (column - right.view(-1, 1, 1)) % width)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    row, column = grid(x)
    return row.double() - (x.shape[-2] - 1) / 2, column.double() - (x.shape[-1] - 1) / 2


def _nearest(x: Tensor, row: Tensor, column: Tensor, fill: float) -> Tensor:
    """The pixels nearest to places counted from the centre."""
    height, width = x.shape[-2:]
    down, right = (
        torch.floor(place + 0.5 + 1e-9).long()  # 1e-9: a half must not go two ways by rounding
        for place in (row + (height - 1) / 2, column + (width - 1) / 2)
    )
    return pick(x, down, right, fill)


def rotated(x: Tensor, degrees: Tensor, fill: float = 0.0) -> Tensor:
    """Each sample turned counter-clockwise about the centre by `degrees` (N,), nearest pixel.

    With i and j counted from the centre ((H - 1) / 2, (W - 1) / 2), and a the angle, pixel (i, j)
    shows what was at

        (cos a * i + sin a * j,  -sin a * i + cos a * j)
    """
    row, column = _centred(x)
    angle = torch.deg2rad(degrees.double()).view(-1, 1, 1)
    cos, sin = angle.cos(), angle.sin()
    return _nearest(x, cos * row + sin * column, cos * column - sin * row, fill)


def sheared(x: Tensor, degrees: Tensor, fill: float = 0.0) -> Tensor:
    """Each sample sheared along the rows by `degrees` (N,): from the centre, (i, j) shows (i, j + i
    tan a), nearest pixel.
    """
    row, column = _centred(x)
    slope = torch.deg2rad(degrees.double()).tan().view(-1, 1, 1)
    return _nearest(x, row, column + slope * row, fill)


def boxes(
    x: Tensor, area: tuple[float, float], ratio: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Height and width (N,) of a box in each sample, and whether one of ten draws fitted.

    Its share of the frame is uniform in `area`, log(width / height) uniform in -log ratio..log
    ratio; sides are rounded.
    """
    n, frame = x.shape[1], x.shape[-2:]
    share = uniform((n, 10), *area, generator) * (frame[0] * frame[1])
    form = uniform((n, 10), -math.log(ratio), math.log(ratio), generator).exp()
    tall, wide = (share / form).sqrt().round(), (share * form).sqrt().round()
    fits = (tall >= 1) & (wide >= 1) & (tall <= frame[0]) & (wide <= frame[1])
    first = fits.int().argmax(1, keepdim=True)
    return tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0], fits.any(1)


@dataclass(frozen=True)
class Flip(Augment):
    """Left and right exchanged, with probability p. (TET, TKS, HSD: 0.5.) Not for digits."""

    name: ClassVar[str] = "flip"
    p: float = 0.5

    def __post_init__(self) -> None:
        self.chance()

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        chosen = uniform(len(y), 0, 1, generator) < self.p
        return torch.where(of_sample(chosen, x), x.flip(-1), x), y


@dataclass(frozen=True)
class Roll(Augment):
    """Moved by -pixels..pixels down and right, wrapped around. (TET, HSD, NDA: 5.)"""

    name: ClassVar[str] = "roll"
    pixels: int = 5

    def __post_init__(self) -> None:
        self.need(self.pixels >= 0, "pixels", ">= 0")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        down, right = (integers(len(y), -self.pixels, self.pixels, generator) for _ in range(2))
        return rolled(x, down, right), y


@dataclass(frozen=True)
class Crop(Augment):
    """Moved by -padding..padding down and right, not wrapped. (CIFAR, TKS on CIFAR10-DVS: 4.)

    A window of the frame's own size out of the frame with a border of `fill` around it. Other codes
    pad before they normalise, with black; here frames are normalised, and 0 is the mean of the set.
    """

    name: ClassVar[str] = "crop"
    padding: int = 4
    fill: float = 0.0

    def __post_init__(self) -> None:
        self.need(self.padding >= 0, "padding", ">= 0")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        row, column = grid(x)
        down, right = (
            integers(len(y), -self.padding, self.padding, generator).view(-1, 1, 1)
            for _ in range(2)
        )
        return pick(x, row + down, column + right, self.fill), y


@dataclass(frozen=True)
class Rotate(Augment):
    """Turned by an angle in -degrees..degrees, `fill` outside. (CIFAR10-DVS: TKS 15, NDA 30.)"""

    name: ClassVar[str] = "rotate"
    degrees: float = 15.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        self.need(0 <= self.degrees <= 180, "degrees", "in 0..180")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        return rotated(x, uniform(len(y), -self.degrees, self.degrees, generator), self.fill), y


@dataclass(frozen=True)
class Shear(Augment):
    """Sheared along the rows by an angle in -degrees..degrees, `fill` outside. (NDA: 30.)"""

    name: ClassVar[str] = "shear"
    degrees: float = 30.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        self.need(0 <= self.degrees < 90, "degrees", "in 0..90")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        return sheared(x, uniform(len(y), -self.degrees, self.degrees, generator), self.fill), y


@dataclass(frozen=True)
class ResizedCrop(Augment):
    """A part of the frame enlarged to the whole of it, bilinear. (TKS on ImageNet: 0.08, 4/3.)

    The part has a share of the area in scale..1 and width / height in 1/ratio..ratio (log-uniform),
    its place is uniform; of ten draws the first that fits in counts, else the whole frame stays.
    torchvision's RandomResizedCrop cuts the original photograph and smooths where it shrinks; this
    one cuts what the data set gives and never sees what lies outside of that.
    """

    name: ClassVar[str] = "resized_crop"
    scale: float = 0.08
    ratio: float = 4 / 3

    def __post_init__(self) -> None:
        self.need(0 < self.scale <= 1, "scale", "in 0..1 and not 0")
        self.need(self.ratio >= 1, "ratio", ">= 1")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        steps, n, planes, height, width = x.shape
        tall, wide, fits = boxes(x, (self.scale, 1.0), self.ratio, generator)
        tall, wide = torch.where(fits, tall, height), torch.where(fits, wide, width)
        top, left = (
            (uniform(n, 0, 1, generator) * (whole - part + 1)).floor()
            for whole, part in ((height, tall), (width, wide))
        )
        theta = torch.zeros(n, 2, 3, dtype=torch.float64)
        theta[:, 0, 0], theta[:, 0, 2] = wide / width, (2 * left + wide) / width - 1
        theta[:, 1, 1], theta[:, 1, 2] = tall / height, (2 * top + tall) / height - 1
        where = F.affine_grid(theta, [n, 1, height, width], align_corners=False).to(x)
        flat = x.transpose(0, 1).reshape(n, steps * planes, height, width)
        made = F.grid_sample(flat, where, padding_mode="border", align_corners=False)
        return made.view(n, steps, planes, height, width).transpose(0, 1), y

"""The table of augmentations, the way from a record to them, and those that take away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import check_arguments, choose
from anystep.data.augmentation.mixing import CutMix, EventMix, Mixup
from anystep.data.augmentation.randaugment import RandAugment
from anystep.data.augmentation.warps import (
    Augment,
    Batch,
    Crop,
    Flip,
    ResizedCrop,
    Roll,
    Rotate,
    Shear,
    box,
    boxes,
    integers,
    of_sample,
    uniform,
)


@dataclass(frozen=True)
class Cutout(Augment):
    """A square about a uniform pixel becomes `fill`. DeVries and Taylor 2017. (CIFAR-10: 16.)

    It is cut at the border. The square covers `size` pixels from centre - size // 2 on; so does the
    published code for even sizes.
    """

    name: ClassVar[str] = "cutout"
    size: int = 16
    fill: float = 0.0

    def __post_init__(self) -> None:
        self.need(self.size >= 0, "size", ">= 0")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        start = [integers(len(y), 0, side - 1, generator) - self.size // 2 for side in x.shape[-2:]]
        return x.masked_fill(box(x, start, [self.size, self.size]), self.fill), y


@dataclass(frozen=True)
class Erase(Augment):
    """With probability p a box becomes noise, N(0, 1) for every pixel and plane. Random erasing,
    Zhong et al. 2020.

    The box has a share of the frame in smallest..largest and width / height in 1/ratio..ratio
    (log-uniform); of ten draws the first that fits counts, else nothing is erased. For normalised
    images. These are timm's values for mode "pixel", which TKS uses on CIFAR with p 0.25. The noise
    is the same in all frames of a sample.
    """

    name: ClassVar[str] = "erase"
    p: float = 0.25
    smallest: float = 0.02
    largest: float = 1 / 3
    ratio: float = 10 / 3

    def __post_init__(self) -> None:
        self.chance()
        ordered = 0 < self.smallest <= self.largest
        self.need(ordered, "smallest", f"in 0..largest ({self.largest}) and not 0")
        self.need(self.largest <= 1, "largest", "<= 1")
        self.need(self.ratio >= 1, "ratio", ">= 1")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        *sides, fits = boxes(x, (self.smallest, self.largest), self.ratio, generator)
        start = [
            (uniform(len(y), 0, 1, generator) * (whole - side + 1)).floor()
            for whole, side in zip(x.shape[-2:], sides, strict=True)
        ]
        chosen = fits & (uniform(len(y), 0, 1, generator) < self.p)
        noise = torch.randn(x.shape[1:], generator=generator).to(x)
        return torch.where(box(x, start, sides) & of_sample(chosen, x), noise, x), y


@dataclass(frozen=True)
class EventDrop(Augment):
    """Nothing, or events dropped in time, in a rectangle, or here and there. Gu et al. 2021.

    One of the four for every recording, with the ranges of their code, on frames of counts:

    time             a stretch of a share in {0.1, ..., 0.9} of the T frames, from a uniform start,
                     cut at the end: frames whose middle (k + 1/2) / T lies in it become 0
    rectangle        a share in {0.05, ..., 0.25} of the height and of the width about a uniform
                     point, cut at the border (their code drops a cross, their paper a rectangle)
    here and there   each event with a probability in {0.1, ..., 0.9}; they drop just that share

    A recording that would be left without events stays as it was.
    """

    name: ClassVar[str] = "event_drop"
    by_step: ClassVar[bool] = True

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        if not bool((x >= 0).all()) or not bool((x == x.round()).all()):
            raise UsageError("event_drop: frames must hold whole counts of events >= 0")
        n, steps = len(y), len(x)
        kind = integers(n, 0, 3, generator)
        share, begin = integers(n, 1, 9, generator) / 10, uniform(n, 0, 1, generator)
        middle = (torch.arange(steps, dtype=torch.float64) + 0.5).view(-1, 1) / steps
        in_time = (middle >= begin) & (middle < begin + share) & (kind == 1)
        part = integers(n, 1, 5, generator) / 20
        size = [(part * side).round() for side in x.shape[-2:]]
        start = [
            (uniform(n, 0, 1, generator) * side - length / 2).floor().clamp(min=0)
            for side, length in zip(x.shape[-2:], size, strict=True)
        ]
        in_space = box(x, start, size) & of_sample(kind == 2, x)
        dropped = x.masked_fill(in_time.to(x.device)[:, :, None, None, None], 0)
        dropped = dropped.masked_fill(in_space, 0)
        thin = torch.nonzero(kind == 3)[:, 0]
        counts = x[:, thin.to(x.device)].cpu()
        keep = (1 - share[thin]).view(1, -1, 1, 1, 1).to(counts).expand_as(counts)
        dropped[:, thin.to(x.device)] = torch.binomial(counts, keep, generator=generator).to(x)
        empty = dropped.sum((0, 2, 3, 4)) == 0
        return torch.where(of_sample(empty, x), x, dropped), y


@dataclass(frozen=True)
class OneOf(Augment):
    """Each sample gets one of `choices`, all with the same probability."""

    name: ClassVar[str] = "one_of"
    choices: tuple[Augment, ...]

    @property
    def by_step(self) -> bool:  # type: ignore[override]
        """If one of the choices is."""
        return any(each.by_step for each in self.choices)

    def __post_init__(self) -> None:
        self.need(isinstance(self.choices, tuple), "choices", "a list of rows")
        self.need(len(self.choices) > 0, "choices", "at least one")
        for each in self.choices:
            if each.soft_labels:
                rule = "makes soft labels for all or for none; list it beside one_of"
                raise UsageError(f"one_of: {each.name} {rule}")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        drawn, made = integers(len(y), 0, len(self.choices) - 1, generator), x.clone()
        for number, each in enumerate(self.choices):
            members = torch.nonzero(drawn == number)[:, 0].to(x.device)
            if len(members):
                made[:, members] = each(x[:, members], y[members.to(y.device)], generator)[0]
        return made, y


@dataclass(frozen=True)
class NDA(Augment):
    """Flip with 1/2, then one of roll, rotate and shear for every sample. Li et al. 2022.

    Neuromorphic data augmentation. The defaults are those of CIFAR10-DVS in their code;
    N-Caltech101 has 3, 15, 15. The flip is the paper's, their code has none: without it this is
    `one_of`. Cutout and CutMix, which the paper adds too, are rows of their own.
    """

    name: ClassVar[str] = "nda"
    pixels: int = 5
    rotate: float = 30.0
    shear: float = 30.0

    def __post_init__(self) -> None:
        self.move()

    def move(self) -> OneOf:
        """What comes after the flip."""
        return OneOf((Roll(self.pixels), Rotate(self.rotate), Shear(self.shear)))

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        return self.move()(*Flip()(x, y, generator), generator)


_MOVE = (Flip, Roll, Crop, Rotate, Shear, ResizedCrop)
_CHANGE = (Cutout, Erase, RandAugment, EventDrop)
_MIX = (Mixup, CutMix, EventMix)
AUGMENTS: dict[str, Callable[..., Augment]] = {
    kind.name: kind for kind in (*_MOVE, *_CHANGE, *_MIX, OneOf, NDA)
}


@dataclass(frozen=True)
class Augmentation:
    """Augmentations one after the other, all drawing from one generator."""

    steps: tuple[Augment, ...]

    @property
    def soft_labels(self) -> bool:
        """Whether labels come back as shares (N, C) instead of classes (N,)."""
        return any(step.soft_labels for step in self.steps)

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        """The changed batch: x (T, N, P, H, W), y (N,), or (N, C) where labels are soft."""
        for step in self.steps:
            x, y = step(x, y, generator)
        return x, y


def _row(row: str | Mapping[str, Any], known: Mapping[str, Any]) -> Augment:
    options: dict[str, Any] = dict(row) if isinstance(row, Mapping) else {"name": row}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"augment: a row must be a name or a mapping with a name, got {row!r}")
    kind: Any = choose(AUGMENTS, name, "augmentation")
    for field in known:
        if field in options:
            raise UsageError(f"augment {name}: {field} comes from the data set, leave it out")
    if name == OneOf.name and isinstance(options.get("choices"), (list, tuple)):
        options["choices"] = tuple(_row(each, known) for each in options["choices"])
    for field in known.keys() & {each.name for each in fields(kind)}:
        if known[field] is None:
            rule = f"it needs the {field} of the data set's images"
            raise UsageError(f"augment {name}: {rule}, and this data set has none")
        options[field] = known[field]
    check_arguments(kind, options, f"augment {name}", complete=True)
    return kind(**options)


def create_augmentation(
    rows: Sequence[str | Mapping[str, Any]],
    *,
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Augmentation:
    """Rows of AUGMENTS by name, or as mappings of `name` and their fields, in this order.

    `classes`, and `mean` and `std` where images were normalised, come from the data set for the
    rows that ask for them.

    >>> create_augmentation(["flip", {"name": "roll", "pixels": 3}], classes=10).steps
    (Flip(p=0.5), Roll(pixels=3))

    """
    if isinstance(rows, (str, Mapping)):
        raise UsageError(f"augment must be a list of names or mappings, got {rows!r}")
    known = {"classes": classes, "mean": mean, "std": std}
    return Augmentation(tuple(_row(row, known) for row in rows))

"""Augmentations that mix two samples: their labels become shares of the classes, (N, C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anystep._errors import UsageError
from anystep.data.augmentation.warps import Augment, Batch, box, integers, of_sample, uniform


def mixed_labels(y: Tensor, other: Tensor, weight: Tensor, classes: int) -> Tensor:
    """(N, C): weight * y + (1 - weight) * y[other]; y are classes (N,) or shares (N, C) already."""
    soft = F.one_hot(y, classes).float() if y.dim() == 1 else y
    if soft.shape[1] != classes:
        raise UsageError(f"labels must be (N,) or (N, {classes}), got {tuple(y.shape)}")
    weight = weight.to(y.device, torch.float32).view(-1, 1)
    return weight * soft + (1 - weight) * soft[other.to(y.device)]


@dataclass(frozen=True)
class _Mix(Augment):
    soft_labels: ClassVar[bool] = True
    classes: int
    alpha: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        self.need(self.classes >= 2, "classes", ">= 2")
        self.need(self.alpha > 0, "alpha", "> 0")
        self.chance()

    def weights(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) each: who is mixed in, the weight of the own part, whether it is mixed at all."""
        other = torch.randperm(n, generator=generator)
        # By numpy, seeded by torch: torch's own beta takes no generator.
        seed = int(torch.randint(2**62, (1,), generator=generator))
        beta = torch.from_numpy(np.random.default_rng(seed).beta(self.alpha, self.alpha, n))
        return other, beta, uniform(n, 0, 1, generator) < self.p


@dataclass(frozen=True)
class Mixup(_Mix):
    """lam x_n + (1 - lam) x_m and the same of the labels. Zhang et al. 2018, eq. 1.

    lam ~ Beta(alpha, alpha), m a permutation of the samples. lam is drawn for every sample with
    probability p, else it is 1; the published code has one lam a batch.
    """

    name: ClassVar[str] = "mixup"

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        other, weight, chosen = self.weights(len(y), generator)
        weight = torch.where(chosen, weight, 1.0)
        lam = of_sample(weight, x).to(x.dtype)
        mixed = lam * x + (1 - lam) * x[:, other.to(x.device)]
        return mixed, mixed_labels(y, other, weight, self.classes)


@dataclass(frozen=True)
class CutMix(_Mix):
    """A box of another sample put into the frame, labels by the area. Yun et al. 2019.

    lam ~ Beta(alpha, alpha); the box has sides int(H sqrt(1 - lam)) and int(W sqrt(1 - lam)) about
    a uniform pixel, cut at the border. One box a sample, the same in all its frames; the published
    code has one a batch.
    """

    name: ClassVar[str] = "cutmix"

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        other, lam, chosen = self.weights(len(y), generator)
        half = [(side * (1 - lam).sqrt()).floor().long() // 2 for side in x.shape[-2:]]
        centre = [integers(len(y), 0, side - 1, generator) for side in x.shape[-2:]]
        start = [middle - each for middle, each in zip(centre, half, strict=True)]
        inside = box(x, start, [2 * each for each in half]) & of_sample(chosen, x)
        kept = 1 - inside.double().mean((0, 2, 3, 4)).cpu()
        mixed = torch.where(inside, x[:, other.to(x.device)], x)
        return mixed, mixed_labels(y, other, kept, self.classes)


def _share(frames: Tensor, inside: Tensor) -> Tensor:
    """(N,): how much of every sample's events lies inside; 0 where there is none."""
    axes = (0, 2, 3, 4)
    total = frames.double().sum(axes)
    return (frames.double() * inside).sum(axes) / torch.where(total == 0, 1.0, total)


@dataclass(frozen=True)
class EventMix(_Mix):
    """A blob in space and time of another recording put into this one. Shen et al. 2023.

    The blob is where a sum of `gaussians` bumps g over (t, i, j) is among its largest lam * T * H *
    W values,

        g = sum_k w_k exp(-((t - t_k)^2 / s_k^2 + (i - i_k)^2 / a_k^2 + (j - j_k)^2 / b_k^2) / 2)

    w_k uniform in 0..1, centres uniform, each s a uniform share (at least 0.1) of half the length
    of its axis; lam ~ Beta(alpha, alpha). Labels go by events: with r the share of the own events
    inside the blob and q that of the other recording's, the other label gets q / (1 - r + q). A
    sample that would have no event left is not mixed.
    """

    name: ClassVar[str] = "event_mix"
    by_step: ClassVar[bool] = True
    p: float = 0.5
    gaussians: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.gaussians >= 1, "gaussians", ">= 1")

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        if float(x.min()) < 0:
            raise UsageError("event_mix: frames must hold counts of events >= 0")
        other, lam, chosen = self.weights(len(y), generator)
        mask = (self.blob(x, lam, generator) & chosen.view(-1, 1, 1, 1)).to(x.device)
        inside = mask.transpose(0, 1).unsqueeze(2)
        second = x[:, other.to(x.device)]
        own, its = (_share(frames, inside) for frames in (x, second))
        left = 1 - own + its
        gone = left <= 0
        inside = inside & ~gone.view(1, -1, 1, 1, 1)
        weight = torch.where(gone, 1.0, 1 - its / left.clamp(min=1e-12))
        return torch.where(inside, second, x), mixed_labels(y, other, weight, self.classes)

    def blob(self, x: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
        """(N, T, H, W): True in a share of each sample's voxels (ties with the last are in too)."""
        n, lengths = x.shape[1], (x.shape[0], *x.shape[-2:])
        total = torch.zeros(n, *lengths, dtype=torch.float64)
        for _ in range(self.gaussians):
            slopes = []  # the bump is a product of one along each axis
            for length in lengths:
                centre = integers(n, 0, length - 1, generator).view(-1, 1)
                width = (uniform(n, 0, 1, generator).clamp(min=0.1) * length / 2).view(-1, 1)
                slopes.append((-(((torch.arange(length) - centre) / width) ** 2) / 2).exp())
            total += torch.einsum("n,nt,ni,nj->ntij", uniform(n, 0, 1, generator), *slopes)
        flat = total.flatten(1)
        count = (share.view(-1, 1) * flat.shape[1]).floor().long()
        edge = flat.sort(dim=1, descending=True).values.gather(1, (count - 1).clamp(min=0))
        return ((flat >= edge) & (count > 0)).view(total.shape)

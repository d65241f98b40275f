"""Means over the real steps of recordings of different length: `mask (T, N) bool`, True where a
frame is real.

None stands for recordings of one length, whose means are the plain ones, to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_mask(x: Tensor, mask: Tensor | None) -> None:
    """Refuse a mask that does not fit `x (T, N, ...)` or, where looking is free (the CPU), leaves a
    sample without a step.
    """
    if mask is None:
        return
    if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be {tuple(x.shape[:2])} torch.bool, got {tuple(mask.shape)} {mask.dtype}"
        )
    if mask.device.type == "cpu" and not bool(mask.any(0).all()):
        raise ValueError(
            f"mask must leave every sample a step, sample {int(mask.any(0).int().argmin())} has none"
        )


def step_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of every sample over its own steps: (T, N, ...) -> (N, ...). What stands at other
    steps is not read.
    """
    if mask is None:
        return x.mean(0)
    own = mask.view(*mask.shape, *[1] * (x.dim() - 2))
    return x.masked_fill(~own, 0).sum(0) / mask.sum(0).view(-1, *[1] * (x.dim() - 2)).to(x.dtype)


def mean_of(terms: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of terms (T, N, ...): over each sample's own steps first, then over N and the rest,
    so that a long recording weighs what a short one does.
    """
    return terms.mean() if mask is None else step_mean(terms, mask).mean()

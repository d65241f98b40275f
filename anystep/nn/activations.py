"""The activations of an ANN twin: the same network without membrane, threshold and time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anystep._errors import UsageError
from anystep._lookup import choose


@dataclass(eq=False, repr=False, kw_only=True)
class ReLU(nn.Module):
    """max(x, 0). `shape` is what a neuron in its place would need."""

    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def _floors(share: Tensor, levels: int) -> Tensor:
    return torch.floor(levels * share + 0.5)


class _Quantise(torch.autograd.Function):
    """Keeps x and the clip alone for backward; plain operations would keep three copies of x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, clip: Tensor, levels: int, clip_first: bool) -> Tensor:
        return clip * (_floors(x / clip, levels).clamp(0, levels) / levels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, bool], output: Tensor) -> None:
        x, clip, ctx.levels, ctx.clip_first = inputs
        ctx.save_for_backward(x, clip)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, clip = ctx.saved_tensors
        share = x / clip
        floors = _floors(share, ctx.levels)
        if ctx.clip_first:
            inside = (share >= 0) & (share <= 1)
        else:
            inside = (floors >= 0) & (floors <= ctx.levels)
        d_x = gradients[0] * inside
        d_clip = gradients[0] * (floors.clamp(0, ctx.levels) / ctx.levels) - d_x * share
        return d_x, d_clip.sum(dtype=clip.dtype), None, None


GRADIENTS = ("floor_first", "clip_first")


@dataclass(eq=False, repr=False, kw_only=True)
class QCFS(nn.Module):
    r"""Quantisation, clip, floor, shift: the firing rates of `ClippedIF` in `levels` steps.

        f(x) = clip min(max(floor(levels x / clip + 1/2) / levels, 0), 1)

    x of any shape -> the same shape. `clip`, one scalar a layer, is learnt from `clip_init`. The
    floor passes gradients as if it were not there, so f'(x) is 1 on a range of x / clip and 0
    outside it, and df/dclip = f(x) / clip - f'(x) x / clip. The range depends on `gradient`, the
    values do not:

    - `"floor_first"` (HSD's code): [-1/2 / levels, 1 + 1/2 / levels), wherever the floor lies
      within 0 ... levels;
    - `"clip_first"` (the code of Bu et al.): [0, 1].

    Nothing keeps `clip` above 0: a check would make a GPU wait at every layer of every step, and a
    clamp would hide what went wrong. `ClippedIF` refuses to load a clip that is not above 0.
    Bu et al. 2022 (QCFS); HSD, arXiv 2409.12507.
    """

    levels: int = 4
    clip_init: float = 8.0
    gradient: str = "floor_first"
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        if not self.levels >= 1:
            raise UsageError(f"QCFS: levels must be >= 1, got {self.levels}")
        if not (self.clip_init > 0 and math.isfinite(self.clip_init)):
            raise UsageError(f"QCFS: clip_init must be > 0 and finite, got {self.clip_init}")
        choose(dict.fromkeys(GRADIENTS), self.gradient, "gradient")
        self.clip = nn.Parameter(torch.tensor(float(self.clip_init)))

    def forward(self, x: Tensor) -> Tensor:
        return _Quantise.apply(x, self.clip, self.levels, self.gradient == "clip_first")

    def extra_repr(self) -> str:
        return f"levels={self.levels}, gradient={self.gradient!r}"


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": ReLU, "qcfs": QCFS}

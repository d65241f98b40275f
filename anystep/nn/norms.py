"""Norms of `(T, N, C, H, W)`: how time enters the statistics.

A norm is made by `norm(channels, before_addition=False)`: where its output is added to another
branch it may start smaller. One that differs from step to step is *stateful*: see `layers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from anystep._errors import UsageError
from anystep.nn.layers import fold, is_static


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the same sum of the incoming ones."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradients[0].contiguous())


def _one_by_one(normalise: Callable[[Tensor], Tensor], samples: int, x: Tensor) -> Tensor:
    """`normalise` each step alone. `cat` keeps the memory format, where `stack` would not."""
    return torch.cat([normalise(step) for step in x.split(samples)])


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with time folded into the batch: statistics over T, N, H and W of each channel.

    What BrainCog does with `layer_by_layer`, TET and HSD. With `per_step` every step has its own
    statistics in training, over N, H and W, and moves the running ones: T updates a batch, in the
    order of the steps (BrainCog without `layer_by_layer`). In eval mode the two are one affine map.
    With several processes the statistics are those of the global batch (equal shares a process).
    """

    def __init__(
        self,
        channels: int,
        *,
        before_addition: bool = False,
        per_step: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.per_step = per_step

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return fold(super().forward, x)
        static, steps = is_static(x), x.shape[0]
        updates = steps if static and self.per_step else 1
        copies = steps if static and not self.per_step else 1
        normalise: Callable[[Tensor], Tensor] = super().forward
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            normalise = partial(self._shared, copies=copies, updates=updates)
        elif static:
            normalise = partial(self._repeated, copies=copies, updates=updates)
        if self.per_step and not static:
            normalise = partial(_one_by_one, normalise, x.shape[1])
        return fold(normalise, x)

    def _repeated(self, x: Tensor, *, copies: int, updates: int) -> Tensor:
        """A training step in which `x` stands for `copies` of itself, or for `updates` batches."""
        count = x.numel() // x.shape[1]
        mean, variance = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        y = functional.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        self._keep(mean, variance * (count - 1) / count, count * copies, updates)
        return y

    def _shared(self, x: Tensor, *, copies: int, updates: int) -> Tensor:
        """`_repeated`, spread over processes."""
        count = x.numel() // x.shape[1] * dist.get_world_size()
        axes = (0, 2, 3)
        mean = _SumOverProcesses.apply(x.sum(axes)) / count
        centred = x - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum(axes)) / count
        self._keep(mean, variance, count * copies, updates)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    def _keep(self, mean: Tensor, variance: Tensor, count: int, updates: int) -> None:
        """Move the running statistics `updates` times; `variance` is a sum over `count` / count."""
        running_mean, running_var, seen = (each for _, each in self.named_buffers(recurse=False))
        momentum = cast(float, self.momentum)
        with torch.no_grad():
            seen += updates
            for _ in range(updates):
                running_mean.lerp_(mean, momentum)
                running_var.lerp_(variance * count / (count - 1), momentum)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, per_step={self.per_step}"


class TDBatchNorm(BatchNorm):
    r"""tdBN: batch norm whose scale starts at the threshold, so that the current is as wide as it.

        y_c = gamma_c (x_c - mean_c) / sqrt(var_c + eps) + beta_c,    mean and var over T, N, H, W
        gamma = alpha v_threshold at first, divided by sqrt(2) where y is added to another branch;
        beta = 0

    Zheng et al. 2021: two branches of half the variance add up to one of the whole. In the paper
    alpha v_threshold is a constant beside a learnt scale that starts at 1. Here, as in BrainCog, it
    is where the one learnt scale starts: the same output at first, other updates.

    Which `v_threshold`? The neuron's own where the membrane gains all of `y`,
    `LIF(decay_input=False)`: the paper's neuron. BrainCog takes the threshold 0.5 of a neuron that
    then divides `y` by tau = 2, so its membrane gains half of what the rule says. The same neuron
    in the units u = 2v has the threshold 1 and `decay_input=False`; its `y` is the same, so gamma
    is 0.5 there too, and not 1. The default 0.5 reproduces BrainCog and TKS in both forms.
    """

    def __init__(
        self,
        channels: int,
        *,
        before_addition: bool = False,
        v_threshold: float = 0.5,
        alpha: float = 1.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        for name, value in (("v_threshold", v_threshold), ("alpha", alpha)):
            if not 0 < value < math.inf:
                raise UsageError(f"TDBatchNorm: {name} must be > 0 and finite, got {value}")
        super().__init__(channels, eps=eps, momentum=momentum)
        nn.init.constant_(self.weight, alpha * v_threshold / math.sqrt(2 if before_addition else 1))


def _is_shared(state: Tensor) -> bool:
    """Whether all rows are one number, as `shared_rest` makes it."""
    return state.stride(0) == 0 and state.shape[0] > 0


class TEBatchNorm(BatchNorm):
    r"""TEBN: folded batch norm, then a learnt scale for every step.

        y_tc = p_t (gamma_c (x_tc - mean_c) / sqrt(var_c + eps) + beta_c)
        mean and var over T, N, H, W;  p = 1 at first

    Duan et al. 2022. `p (steps,)` is one number a step for all channels; later steps are refused.

    Stateful: `forward(x (T, N, C, H, W), state (N,)) -> (y, state)`. The state is the number of
    steps that each sample has seen; rows may be at different steps. To refuse a step too many by
    name, a call that goes on from a state looks at it, for which a GPU has to be waited for; a call
    from rest (`shared_rest`) waits for nothing. What is compiled or exported does not look: there a
    step too many is an index error of the runtime.
    """

    def __init__(
        self,
        channels: int,
        *,
        steps: int,
        before_addition: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        if steps < 1:
            raise UsageError(f"TEBatchNorm: steps must be >= 1, the longest sequence, got {steps}")
        super().__init__(channels, eps=eps, momentum=momentum)
        self.p = nn.Parameter(torch.ones(steps))

    def rest(
        self, n: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """The steps `(n,)` that `n` samples have seen: 0, whole numbers whatever the `dtype`."""
        return torch.zeros(n, dtype=torch.long, device=device)

    def shared_rest(
        self, n: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """`rest(n)` as one number that all samples share: nobody may write to it."""
        return self.rest(1, device=device)[0].expand(n)

    # stateful: see layers
    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self._check(x, state)
        steps = torch.arange(x.shape[0], device=state.device)
        index = steps[:, None] + (state[:1] if _is_shared(state) else state)
        # index_select, not p[index]: that takes -1 for the last step
        scale = self.p.index_select(0, index.flatten()).view(*index.shape, 1, 1, 1)
        y = super().forward(x)
        return y * scale.to(y.dtype), state + x.shape[0]

    def _check(self, x: Tensor, state: Tensor) -> None:
        rows, steps = tuple(x.shape[1:2]), x.shape[0]
        if state.shape != rows or state.dtype != torch.long:
            raise ValueError(
                f"TEBatchNorm: the state must be the steps seen by each sample, {rows} "
                f"{torch.long}, got {tuple(state.shape)} {state.dtype}"
            )
        least = most = 0
        in_a_trace = torch.compiler.is_compiling() or torch.jit.is_tracing()
        at_rest_elsewhere = _is_shared(state) and state.device.type != "cpu"
        if state.numel() and not in_a_trace and not at_rest_elsewhere:
            least, most = torch.stack(torch.aminmax(state)).tolist()
        if least < 0:
            raise ValueError(f"TEBatchNorm: the state counts steps and must be >= 0, got {least}")
        if most + steps > len(self.p):
            raise UsageError(
                f"TEBatchNorm: made for {len(self.p)} steps, got {steps} after {most}: start the "
                f"sample again from rest, or train with norm.steps={most + steps}"
            )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, steps={len(self.p)}"


NORMS: dict[str, Callable[..., nn.Module]] = {
    "bn": BatchNorm,
    "tdbn": TDBatchNorm,
    "tebn": TEBatchNorm,
}

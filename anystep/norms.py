"""Norms of `(T, N, C, H, W)`: how time enters the statistics.

A norm is made by `norm(channels, before_addition=False)`: the model says whether what it gives is added to another branch, and a
norm may start smaller there. A norm that is another at every step remembers how many there were: see `layers`, *stateful*.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from anystep.layers import fold, is_static


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of `(T, N, C, H, W)` with time folded into the batch: statistics over T, N, H and W of each channel.

    What BrainCog does with `layer_by_layer`, TET and HSD. In multi-process training the statistics are those of the global
    batch (equal shares a process), so that the number of processes does not change the result.
    """

    def __init__(
        self, channels: int, *, before_addition: bool = False, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        copies = x.shape[0] if is_static(x) else 1
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return fold(partial(self._shared, copies=copies), x)
        return fold(partial(self._repeated, copies=copies) if self.training and copies > 1 else super().forward, x)

    def _repeated(self, x: Tensor, *, copies: int) -> Tensor:
        """The training step of a batch that has every sample of `x` `copies` times."""
        count = x.numel() // x.shape[1]
        mean, variance = (torch.zeros_like(each) for each in (self.weight, self.weight))
        y = functional.batch_norm(x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self._keep(mean, variance * (count - 1) / count, count * copies)
        return y

    def _shared(self, x: Tensor, *, copies: int) -> Tensor:
        """The training step of a batch that has every sample of `x` `copies` times, and is spread over processes."""
        count = x.numel() // x.shape[1] * dist.get_world_size()
        axes = (0, 2, 3)
        mean = _sum_over_processes(x.sum(axes)) / count
        centred = x - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum(axes)) / count
        self._keep(mean, variance, count * copies)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    def _keep(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch of `count` values, whose variance is divided by `count`."""
        running_mean, running_var, seen = (buffer for _, buffer in self.named_buffers(recurse=False))
        with torch.no_grad():
            seen += 1
            running_mean.lerp_(mean, cast(float, self.momentum))
            running_var.lerp_(variance * count / (count - 1), cast(float, self.momentum))


def _sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, with its gradient."""
    return _SumOverProcesses.apply(x)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the same sum of the incoming ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradients[0].contiguous())


NORMS: dict[str, Callable[..., nn.Module]] = {"bn": BatchNorm}

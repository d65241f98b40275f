"""The parts between neurons: time folded into the batch, norms, the encoder, and the state that runs through them.

A *stateful* module has `rest(n, dtype=, device=) -> Tensor` (one row a sample) and `forward(x, state) -> (y, state)`; every
other module has `forward(x) -> y`. `Carry` is the only place that knows the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

State = tuple[Tensor, ...]


def fold(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a `module` that knows no time on every step of `x (T, N, ...)`, as one batch of T N."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def direct_encoding(images: Tensor, steps: int) -> Tensor:
    """A static image at every step: `(N, P, H, W) -> (steps, N, P, H, W)`, without a copy (stride 0 in time)."""
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")
    return images.unsqueeze(0).expand(steps, *images.shape)


def is_stateful(module: nn.Module) -> bool:
    """Whether a module remembers: it says how it rests."""
    return hasattr(module, "rest")


def stateful_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of each stateful layer, in the order in which the layers were made, which is the order of use."""
    return ((name, m) for name, m in model.named_modules() if m is not model and is_stateful(m))


class Carry:
    """A model's state on its way through one `advance`: hands each layer its own part and collects what comes back.

    Topology code calls `carry(layer, x)` for every neuron and norm and never sees a membrane. A layer used out of the
    order in which it was made is a bug in the model, and raises.
    """

    def __init__(self, layers: Sequence[tuple[str, nn.Module]], state: State) -> None:
        self._waiting = list(zip(layers, state, strict=True))[::-1]
        self._after: list[Tensor] = []

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not is_stateful(layer):
            return layer(x)
        if not self._waiting or self._waiting[-1][0][1] is not layer:
            raise RuntimeError(f"stateful layers must be used once, in the order in which they were made: {layer}")
        _, before = self._waiting.pop()
        y, after = layer(x, before)
        self._after.append(after)
        return y

    def done(self) -> State:
        """The state after the last step; a layer that was not used raises."""
        if self._waiting:
            raise RuntimeError(f"the model did not use {self._waiting[-1][0][0]!r}")
        return tuple(self._after)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of `(T, N, C, H, W)` with time folded into the batch: statistics over T, N, H and W of each channel.

    What BrainCog does with `layer_by_layer`, TET and HSD. In multi-process training the statistics are those of the global
    batch (equal shares a process), so that the number of processes does not change the result.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return fold(self._shared if shared else super().forward, x)

    def _shared(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[1] * dist.get_world_size()
        axes = (0, 2, 3)
        mean = _sum_over_processes(x.sum(axes)) / count
        centred = x - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum(axes)) / count
        running_mean, running_var, seen = (buffer for _, buffer in self.named_buffers(recurse=False))
        with torch.no_grad():
            seen += 1
            running_mean.lerp_(mean, cast(float, self.momentum))
            running_var.lerp_(variance * count / (count - 1), cast(float, self.momentum))
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def _sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, with its gradient (which is the same sum)."""
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)


NORMS: dict[str, Callable[[int], nn.Module]] = {"bn": BatchNorm}

"""How the steps of a sequence lie in memory.

A step whose elements lie without a gap, in any order (channels_last is one), is a row of M elements
to a fused scan. All its tensors get the order of x, so that element i is the same neuron in each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Strides = tuple[int, ...]


def step_strides(x: Tensor) -> Strides:
    """The strides of one step of x where it has no gaps, else those of a contiguous copy."""
    shape = x.shape[1:]
    expected = 1
    for size, stride in sorted(zip(shape, x.stride()[1:], strict=True), key=lambda pair: pair[1]):
        if size == 1:
            continue
        if stride != expected:
            return torch.empty(shape, device="meta").stride()
        expected *= size
    return x.stride()[1:]


def empty_like(x: Tensor, strides: Strides) -> Tensor:
    """Memory for a sequence like x whose steps lie one after the other, each as `strides` say."""
    strides = (math.prod(x.shape[1:]), *strides)
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)


def empty_step(x: Tensor, strides: Strides) -> Tensor:
    """Memory for one step of x."""
    return torch.empty_strided(x.shape[1:], strides, dtype=x.dtype, device=x.device)


def in_order(x: Tensor, strides: Strides) -> Tensor:
    """`x`, a step or a sequence of steps, or a copy of it whose elements lie as `strides` say."""
    first = x.dim() - len(strides)
    own = zip(x.shape[first:], x.stride()[first:], strides, strict=True)
    if all(size <= 1 or mine == wanted for size, mine, wanted in own):
        return x
    return (empty_like(x, strides) if first else empty_step(x[None], strides)).copy_(x)


def is_uniform(x: Tensor) -> bool:
    """Whether all elements are one and the same memory."""
    return not any(stride and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


def rows(x: Tensor, strides: Strides) -> tuple[Tensor, int]:
    """`x (T, ...)`, not empty, as a flat tensor, and the distance of two steps in it.

    The distance is 0 if all steps are the same memory. A copy where `strides` are not those of x.
    """
    x = in_order(x, strides)
    row = x.stride(0)
    span = (x.shape[0] - 1) * row + math.prod(x.shape[1:])
    return x.as_strided((span,), (1,)), row

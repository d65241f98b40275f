"""How the steps of a sequence lie in memory: a fused scan sees `(T, N, ...)` as T rows of M
elements, in place if it can.

A step whose elements lie without a gap, in any order (channels_last is one), is a row. All tensors
of a scan get the order of x, so that element i of a row is the same neuron in each of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Strides = tuple[int, ...]


def step_strides(x: Tensor) -> Strides:
    """The strides of one step of x if its elements lie without a gap in any order, else those of a
    contiguous copy.
    """
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
    return torch.empty_strided(
        x.shape, (math.prod(x.shape[1:]), *strides), dtype=x.dtype, device=x.device
    )


def empty_step(x: Tensor, strides: Strides) -> Tensor:
    """Memory for one step of x."""
    return torch.empty_strided(x.shape[1:], strides, dtype=x.dtype, device=x.device)


def in_order(x: Tensor, strides: Strides) -> Tensor:
    """A step, or a sequence of steps, whose elements lie as `strides` say: `x` itself, or a copy."""
    first = x.dim() - len(strides)
    if any(
        size > 1 and a != b
        for size, a, b in zip(x.shape[first:], x.stride()[first:], strides, strict=True)
    ):
        return (empty_like(x, strides) if first else empty_step(x[None], strides)).copy_(x)
    return x


def is_uniform(x: Tensor) -> bool:
    """Whether all elements are one and the same memory."""
    return not any(stride and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


def rows(x: Tensor, strides: Strides) -> tuple[Tensor, int]:
    """`x (T, ...)`, T >= 1 and not empty, as a flat tensor, and the distance of two steps in it (0
    if all are the same).

    A view where each step lies in memory as `strides` say, else a view of a copy.
    """
    x = in_order(x, strides)
    row = x.stride(0)
    span = (x.shape[0] - 1) * row + math.prod(x.shape[1:])
    return x.as_strided((span,), (1,)), row

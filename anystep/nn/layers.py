"""The parts between neurons: time folded into the batch, the encoder, the state of a model.

A *stateful* module has `rest(n, dtype=, device=) -> Tensor` (one row a sample) and `forward(x,
state) -> (y, state)`; every other module has `forward(x) -> y`. Only `Carry` knows the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anystep._errors import UsageError

State = tuple[Tensor, ...]


def is_static(x: Tensor) -> bool:
    """Whether all steps of `x (T, ...)` are one memory, as `direct_encoding` makes it.

    A leaf that asks for a gradient is not static: each of its steps has its own.
    """
    return x.stride(0) == 0 and x.shape[0] > 1 and not (x.requires_grad and x.is_leaf)


class _Once(torch.autograd.Function):
    """`x[0]` of a static tensor, its gradient shared equally among the steps without a copy."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.steps = inputs[0].shape[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient / ctx.steps).expand(ctx.steps, *gradient.shape)


class _Repeat(torch.autograd.Function):
    """`expand`, but its gradient is laid out like a step of the incoming one (channels_last)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, steps: int) -> Tensor:
        return x.expand(steps, *x.shape)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        if gradient.stride(0) == 0:
            return gradient[0] * gradient.shape[0], None
        in_memory = sorted(range(1, gradient.dim()), key=gradient.stride, reverse=True)
        back = sorted(range(len(in_memory)), key=in_memory.__getitem__)
        return gradient.permute(0, *in_memory).sum(0).permute(back), None


def fold(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a `module` that knows no time on every step of `x (T, N, ...)`, as one batch of T N.

    A static `x` is run once, as a batch of N, and its result is static too: the first convolution
    of an image shown for T steps costs what it costs at T = 1. A module that draws at random draws
    once for all steps then.
    """
    if is_static(x):
        return _Repeat.apply(module(_Once.apply(x)), x.shape[0])
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def direct_encoding(images: Tensor, steps: int) -> Tensor:
    """A static image at every step: `(N, P, H, W) -> (steps, N, P, H, W)`, without a copy."""
    if steps < 1:
        raise UsageError(f"steps must be >= 1, got {steps}")
    return images.unsqueeze(0).expand(steps, *images.shape)


def is_stateful(module: nn.Module) -> bool:
    """Whether a module remembers: it says how it rests."""
    return hasattr(module, "rest")


def stateful_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of each stateful layer in the order in which they were made: that of use."""
    return ((name, m) for name, m in model.named_modules() if m is not model and is_stateful(m))


class Carry:
    """A model's state in one `advance`: hands each layer its part and collects what comes back.

    Topology code calls `carry(layer, x)` for every neuron and norm. A layer used out of the order
    in which it was made is a bug in the model, and raises.
    """

    def __init__(self, layers: Sequence[tuple[str, nn.Module]], state: State) -> None:
        self._waiting = list(zip(layers, state, strict=True))[::-1]
        self._after: list[Tensor] = []

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not is_stateful(layer):
            return layer(x)
        if not self._waiting or self._waiting[-1][0][1] is not layer:
            raise self._out_of_order(layer)
        _, before = self._waiting.pop()
        y, after = layer(x, before)
        if y.shape != x.shape or after.shape != before.shape:
            shapes = [tuple(each.shape) for each in (x, before, y, after)]
            raise ValueError(
                f"{type(layer).__name__} made of an input {shapes[0]} and a state {shapes[1]} an "
                f"output {shapes[2]} and a state {shapes[3]}: they must keep their shapes"
            )
        self._after.append(after)
        return y

    def lend(self, block: nn.Module) -> tuple[list[tuple[str, nn.Module]], State]:
        """A block's stateful layers and their states, for a `Carry` of its own. See `take_back`."""
        layers = list(stateful_modules(block))
        lent = [self._waiting.pop() for _ in layers[: len(self._waiting)]]
        if [layer for (_, layer), _ in lent] != [layer for _, layer in layers]:
            raise self._out_of_order(block)
        return layers, tuple(before for _, before in lent)

    def take_back(self, after: State) -> None:
        """The states at the end of a block whose states were lent."""
        self._after.extend(after)

    def done(self) -> State:
        """The state after the last step; a layer that was not used raises."""
        if self._waiting:
            raise RuntimeError(f"the model did not use {self._waiting[-1][0][0]!r}")
        return tuple(self._after)

    def _out_of_order(self, module: nn.Module) -> RuntimeError:
        return RuntimeError(
            f"stateful layers must be used once, in the order in which they were made: {module}"
        )


class _BuffersOf:
    """A context in which a block's buffers are copies of what they were when this was made."""

    def __init__(self, block: nn.Module) -> None:
        self._kept = [
            (module._buffers, name, buffer.clone())
            for module in block.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self._own: list[Tensor | None] = []

    def __enter__(self) -> None:
        self._own = [buffers[name] for buffers, name, _ in self._kept]
        for buffers, name, kept in self._kept:
            buffers[name] = kept.clone()

    def __exit__(self, *error: object) -> None:
        for (buffers, name, _), own in zip(self._kept, self._own, strict=True):
            buffers[name] = own


def recomputed(block: nn.Module, x: Tensor, carry: Carry) -> Tensor:
    """`block(x, carry)` with activation checkpointing: less memory, more time, the same bits.

    Only `x` and the states before it are kept for backward, and there the block runs a second time,
    with the random numbers, the autocast and the buffers of the first, so that running statistics
    move once. Its hooks see both runs.

    Blocks are recomputed, never stretches of time: batch statistics are over all T steps. Chen et
    al. 2016 (Training Deep Nets with Sublinear Memory Cost), with a block as their segment.

    `torch.compile` leaves it out of its graphs, an error with `fullgraph=True`: it has a way of its
    own to keep less (`torch._functorch.config.activation_memory_budget`).
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("recompute=True cannot be compiled: the compiler has a way of its own")
    layers, before = carry.lend(block)
    buffers = _BuffersOf(block)

    def run(x: Tensor, *before: Tensor) -> State:
        inner = Carry(layers, before)
        return block(x, inner), *inner.done()

    def contexts() -> tuple[nullcontext[None], _BuffersOf]:  # of the first run, of the second
        return nullcontext(), buffers

    y, *after = cast(State, checkpoint(run, x, *before, use_reentrant=False, context_fn=contexts))
    carry.take_back(tuple(after))
    return y

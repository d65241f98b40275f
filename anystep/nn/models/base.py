"""What every model is: frames in, step logits out, state passed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from anystep._errors import UsageError
from anystep.nn.layers import Carry, State, recomputed, stateful_modules


class StepModel(nn.Module):
    """A network over time. Subclasses write their topology once, in `network(frames, carry)`.

    - `model(frames (T, N, P, H, W)) -> step logits (T, N, C)` starts at rest.
    - `model.rest(n) -> state` of n samples at rest: a tuple of tensors, one row a sample. Rows may
      be reset, dropped or moved with plain indexing, so that many streams share a batch.
    - `model.advance(frames (t, N, P, H, W), state) -> (logits (t, N, C), state)` goes on from a
      state, for any t >= 1.

    Laws in eval mode: `model(x)[:t] == model(x[:t])`, and advancing chunk by chunk equals the whole
    sequence. `classifier` is the last linear layer; what enters it are the penultimate features.

    `recompute = True` is activation checkpointing: see `layers.recomputed`. `made_by` are the
    arguments of `create_model`, None for a network that it did not make.
    """

    causal = True
    recompute: bool = False
    made_by: dict[str, Any] | None = None
    classifier: nn.Linear

    def __init__(
        self, *, in_planes: int, input_size: int | Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        name = type(self).__name__
        sides = [input_size] * 2 if isinstance(input_size, int) else list(input_size)
        if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
            rule = "input_size must be a whole number >= 1, or two of them [H, W]"
            raise UsageError(f"{name}: {rule}, got {input_size}")
        for what, value in {"in_planes": in_planes, "num_classes": num_classes}.items():
            if value < 1:
                raise UsageError(f"{name}: {what} must be >= 1, got {value}")
        self.frame_shape = (in_planes, sides[0], sides[1])
        self.num_classes = num_classes

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        """The topology: frames -> step logits, every neuron and norm called through `carry`."""
        raise TypeError(f"{type(self).__name__} defines no network(frames, carry)")

    def through(self, block: nn.Module, x: Tensor, carry: Carry) -> Tensor:
        """`block(x, carry)`: how a topology calls a block of several layers."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return recomputed(block, x, carry)
        return block(x, carry)

    def weighted_after(self) -> list[tuple[str, str]]:
        """(neuron, layer) by module name: the layers whose weights see one neuron's spikes alone.

        Between the two may only be what a positive factor passes through, like pooling. Error: a
        model whose spikes are added to another branch's, or that does not say.
        """
        raise UsageError(
            f"{type(self).__name__} does not say which weights alone see a neuron's spikes: "
            "keep scale='output'"
        )

    def rest(self, n: int, *, shared: bool = False) -> State:
        """The state of `n` samples before their first frame. Nobody may write to a `shared` one."""
        weight = next(self.parameters())
        layers = [cast(Any, layer) for _, layer in stateful_modules(self)]
        rests = [
            getattr(each, "shared_rest", each.rest) if shared else each.rest for each in layers
        ]
        return tuple(rest(n, dtype=weight.dtype, device=weight.device) for rest in rests)

    def advance(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """Go on from `state` by the steps in `frames (t, N, P, H, W)`: (step logits, state)."""
        layers = list(stateful_modules(self))
        self._check(frames, state, layers)
        carry = Carry(layers, state)
        return self.network(frames, carry), carry.done()

    def forward(self, frames: Tensor) -> Tensor:
        n = frames.shape[1] if frames.dim() > 1 else 0
        return self.advance(frames, self.rest(n, shared=True))[0]

    def _check(self, frames: Tensor, state: State, layers: list[tuple[str, nn.Module]]) -> None:
        name, dtype = type(self).__name__, next(self.parameters()).dtype
        planes, height, width = self.frame_shape
        if frames.dim() != 5 or frames.shape[0] < 1 or tuple(frames.shape[2:]) != self.frame_shape:
            raise ValueError(
                f"{name}: frames must be (T, N, {planes}, {height}, {width}) with T >= 1, "
                f"got {tuple(frames.shape)}"
            )
        if frames.dtype != dtype and not torch.is_autocast_enabled(frames.device.type):
            raise ValueError(f"{name}: frames must be {dtype} like the weights, got {frames.dtype}")
        if len(state) != len(layers):
            raise ValueError(
                f"{name}: the state must have {len(layers)} tensors (see rest(n)), got {len(state)}"
            )
        for (layer, _), rows in zip(layers, state, strict=True):
            if rows.shape[:1] != frames.shape[1:2]:
                raise ValueError(
                    f"{name}: the state of {layer!r} has {rows.shape[0]} rows "
                    f"for a batch of {frames.shape[1]} samples"
                )

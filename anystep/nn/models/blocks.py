"""What networks are built of: blocks `forward(x, carry) -> y` whose layers are made in the order of
their use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep.nn.layers import Carry, fold


def strided(size: int, stride: int) -> int:
    """The side of what a convolution or pool of odd kernel k, padding k // 2 and `stride` makes of
    `size`: the ceiling.
    """
    return -(-size // stride)


class ConvNorm(nn.Module):
    """Convolution and norm: `(T, N, in, H, W) -> (T, N, out, ceil(H / stride), ceil(W / stride))`.

    `before_addition` is handed on to the norm, which may start smaller where its output is added to
    another branch.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        norm: Callable[..., nn.Module],
        kernel: int = 3,
        stride: int = 1,
        bias: bool = False,
        before_addition: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel_size=kernel, stride=stride, padding=kernel // 2, bias=bias
        )
        self.norm = norm(outputs, before_addition=True) if before_addition else norm(outputs)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.norm, fold(self.conv, x))


class ConvNormNeuron(ConvNorm):
    """`ConvNorm`, with its options `conv`, and a neuron. `size` is the side of the result."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        neuron: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
        **conv: Any,
    ) -> None:
        super().__init__(inputs, outputs, norm=norm, **conv)
        self.neuron = neuron(shape=(outputs, size, size))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.neuron, super().forward(x, carry))


class Identity(nn.Module):
    """A shortcut that changes nothing."""

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return x


class Hidden(nn.Module):
    """Linear layer and neuron: `(T, N, in) -> (T, N, out)`."""

    def __init__(self, inputs: int, outputs: int, *, neuron: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.neuron = neuron(shape=(outputs,))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.neuron, self.linear(x))


def space_mean(x: Tensor) -> Tensor:
    """Global average pooling: `(T, N, D, H, W) -> (T, N, D)`."""
    return x.mean((3, 4))


def check_stages(model: str, stages: Sequence[Sequence[int]]) -> None:
    """Refuse anything but one [channels, blocks] a stage, by the model's name."""
    pairs = [stage for stage in stages if isinstance(stage, Sequence) and len(stage) == 2]
    whole = all(type(number) is int and number >= 1 for pair in pairs for number in pair)
    if not stages or len(pairs) != len(stages) or not whole:
        raise UsageError(
            f"{model}: stages must be one [channels, blocks] a stage, like [[128, 3], [256, 3]], got {stages}"
        )

"""What networks are built of: blocks `forward(x, carry) -> y` with layers in the order of use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep.nn.layers import Carry, fold

Size = tuple[int, int]  # (H, W)


@dataclass(frozen=True)
class Layers:
    """How layers are made: `neuron(shape=(D, H, W))`, `norm(channels, before_addition=...)`."""

    neuron: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]


def strided(size: Size, stride: int) -> Size:
    """The sides after a convolution or pool of odd kernel k and padding k // 2: the ceiling."""
    return -(-size[0] // stride), -(-size[1] // stride)


class ConvNorm(nn.Module):
    """Convolution and norm: `(T, N, in, H, W) -> (T, N, out, H', W')`, the sides `strided`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        make: Layers,
        *,
        kernel: int = 3,
        stride: int = 1,
        bias: bool = False,
        before_addition: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel_size=kernel, stride=stride, padding=kernel // 2, bias=bias
        )
        self.norm = make.norm(outputs, before_addition=before_addition)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.norm, fold(self.conv, x))


class ConvNormNeuron(ConvNorm):
    """`ConvNorm`, with its options `conv`, and a neuron. `size` is (H, W) of the result."""

    def __init__(self, inputs: int, outputs: int, size: Size, make: Layers, **conv: Any) -> None:
        super().__init__(inputs, outputs, make, **conv)
        self.neuron = make.neuron(shape=(outputs, *size))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.neuron, super().forward(x, carry))


class Hidden(nn.Module):
    """Linear layer and neuron: `(T, N, in) -> (T, N, out)`."""

    def __init__(self, inputs: int, outputs: int, make: Layers) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.neuron = make.neuron(shape=(outputs,))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.neuron, self.linear(x))


class Identity(nn.Module):
    """A shortcut that changes nothing."""

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return x


def space_mean(x: Tensor) -> Tensor:
    """Global average pooling: `(T, N, D, H, W) -> (T, N, D)`."""
    return x.mean((3, 4))


def check_stages(model: str, stages: Sequence[Sequence[int]]) -> None:
    """Refuse anything but one [channels, blocks] a stage, by the model's name."""
    given = stages if isinstance(stages, Sequence) else ()
    pairs = [stage for stage in given if isinstance(stage, Sequence) and len(stage) == 2]
    whole = all(type(number) is int and number >= 1 for pair in pairs for number in pair)
    if not given or len(pairs) != len(given) or not whole:
        raise UsageError(f"{model}: stages must be [channels, blocks] of each stage, got {stages}")


def residual_stages(
    stages: Sequence[Sequence[int]], channels: int, size: Size, block: Callable[..., nn.Module]
) -> nn.ModuleList:
    """All blocks of all stages, from frames of `channels` and `size` (H, W).

    The first block of each stage but the first has stride 2. `block(inputs, width, size, stride)`
    takes the size of its input, and says the channels and the size of its result.
    """
    blocks: list[nn.Module] = []
    for number, (width, count) in enumerate(stages):
        for place in range(count):
            made = cast(Any, block(channels, width, size, 2 if number and not place else 1))
            channels, size = made.outputs, made.size
            blocks.append(made)
    return nn.ModuleList(blocks)

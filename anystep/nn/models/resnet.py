"""ResNet-19 of BrainCog (used by TKS) and of TET."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep.nn.layers import Carry
from anystep.nn.models.base import StepModel
from anystep.nn.models.blocks import (
    ConvNorm,
    ConvNormNeuron,
    Hidden,
    Identity,
    Layers,
    Size,
    check_stages,
    residual_stages,
    space_mean,
    strided,
)
from anystep.nn.models.init import initialise

PUBLISHED_STAGES = ((128, 3), (256, 3), (512, 2))  # (channels, blocks)


class NormOnly(nn.Module):
    """A shortcut that is a norm: BrainCog's where the shape does not change."""

    def __init__(self, channels: int, make: Layers) -> None:
        super().__init__()
        self.norm = make.norm(channels, before_addition=True)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.norm, x)


class ResidualBlock(nn.Module):
    """neuron(norm(conv(neuron(norm(conv(x))))) + shortcut(x)), both convolutions 3x3.

    The shortcut is x itself, or a 1x1 convolution and a norm where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, size: Size, stride: int, *, make: Layers) -> None:
        super().__init__()
        self.outputs, self.size = outputs, strided(size, stride)
        self.first = ConvNormNeuron(inputs, outputs, self.size, make, stride=stride)
        self.second = ConvNorm(outputs, outputs, make, before_addition=True)
        self.shortcut: nn.Module = Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNorm(
                inputs, outputs, make, kernel=1, stride=stride, before_addition=True
            )
        self.neuron = make.neuron(shape=(outputs, *self.size))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        y = self.second(self.first(x, carry), carry)
        return carry(self.neuron, y + self.shortcut(x, carry))


class ResNet19(StepModel):
    """ResNet-19: a 3x3 stem, residual stages, global average pooling, linear, neuron, linear.

    `stem=128`, as wide as the first stage, is BrainCog's network, which TKS uses (12,698,250
    parameters for 3 planes, 10 classes): the shortcut of the first block is a norm alone, and the
    stem's norm counts as one before an addition. `stem=64` is TET's (12,630,858). `stages` has
    [channels, blocks] of each stage; all but the first halve the side (odd ones round up). The
    hidden linear layer is half as wide as the last stage. No dropout, no voting layer. BrainCog's
    norm is tdBN, TET's plain BN. Initialisation: PyTorch's own, as in both.
    """

    block: type[nn.Module] = ResidualBlock
    adds_norms = True  # what meets at the end of a block comes out of a norm

    def __init__(
        self,
        make: Layers,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int | Sequence[int],
        stem: int = 128,
        stages: Sequence[Sequence[int]] = PUBLISHED_STAGES,
        init: str = "torch",
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        if stem < 1:
            raise UsageError(f"{type(self).__name__}: stem must be >= 1, got {stem}")
        check_stages(type(self).__name__, stages)
        size = self.frame_shape[1:]
        braincog = self.adds_norms and stem == stages[0][0]
        self.stem = ConvNormNeuron(in_planes, stem, size, make, before_addition=braincog)
        self.blocks = residual_stages(stages, stem, size, partial(self.block, make=make))
        if braincog:
            self.blocks[0].shortcut = NormOnly(stem, make)
        channels = stages[-1][0]
        width = max(channels // 2, 1)
        self.hidden = Hidden(channels, width, make)
        self.classifier = nn.Linear(width, num_classes)
        initialise(self, init)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = self.through(self.stem, frames, carry)
        for block in self.blocks:
            x = self.through(block, x, carry)
        return self.classifier(self.through(self.hidden, space_mean(x), carry))

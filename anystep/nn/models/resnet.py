"""ResNet-19 of BrainCog (used by TKS) and of TET."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep.nn.layers import Carry
from anystep.nn.models.base import StepModel
from anystep.nn.models.blocks import (
    ConvNorm,
    ConvNormNeuron,
    Hidden,
    Identity,
    check_stages,
    space_mean,
    strided,
)
from anystep.nn.models.init import initialise

PUBLISHED_STAGES = ((128, 3), (256, 3), (512, 2))  # (channels, blocks)


class NormOnly(nn.Module):
    """A shortcut that is a norm: BrainCog's where the shape does not change."""

    def __init__(self, channels: int, *, norm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.norm = norm(channels, before_addition=True)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.norm, x)


class ResidualBlock(nn.Module):
    """neuron(norm(conv(neuron(norm(conv(x))))) + shortcut(x)), both convolutions 3x3. `size` is the
    side of the result.

    The shortcut of a stage's `first` block is a 1x1 convolution and a norm, or the norm alone if
    the shape stays; that of the others is x itself. No neuron stands on the shortcut: what is added
    are analog values, and spikes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int,
        first: bool,
        neuron: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.first = ConvNormNeuron(inputs, outputs, size, stride=stride, neuron=neuron, norm=norm)
        self.second = ConvNorm(outputs, outputs, norm=norm, before_addition=True)
        if not first:
            self.shortcut: nn.Module = Identity()
        elif stride == 1 and inputs == outputs:
            self.shortcut = NormOnly(outputs, norm=norm)
        else:
            self.shortcut = ConvNorm(
                inputs, outputs, kernel=1, stride=stride, norm=norm, before_addition=True
            )
        self.neuron = neuron(shape=(outputs, size, size))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        y = self.second(self.first(x, carry), carry)
        return carry(self.neuron, y + self.shortcut(x, carry))


class ResNet19(StepModel):
    """ResNet-19: a 3x3 stem, three stages of residual blocks, global average pooling, two linear
    layers with a neuron between.

    `stem=128` is BrainCog's network, which TKS uses (12,698,250 parameters for 3 planes, 10
    classes): the shortcut of the first block is a norm alone, and the stem's norm counts as one
    before an addition. `stem=64` is TET's (12,630,858). In
    general: the first reading holds where the stem is as wide as the first stage. `stages` has
    [channels, blocks] of each stage; all but the first halve the side (odd ones round up). The
    hidden linear layer is half as wide as the last stage. No dropout, no voting layer. The norm is
    the record's: BrainCog's is tdBN, TET's plain BN. Initialisation: PyTorch's own, as in both;
    others by `init`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int,
        neuron: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
        stem: int = 128,
        stages: Sequence[Sequence[int]] = PUBLISHED_STAGES,
        init: str = "torch",
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        if stem < 1:
            raise UsageError(f"ResNet19: stem must be >= 1, got {stem}")
        check_stages("ResNet19", stages)
        size, channels, narrow = input_size, stem, stem == stages[0][0]
        self.stem = ConvNormNeuron(
            in_planes, stem, size, neuron=neuron, norm=norm, before_addition=narrow
        )
        self.blocks = nn.ModuleList()
        for number, (outputs, count) in enumerate(stages):
            for place in range(count):
                first = place == 0
                stride = 2 if first and number > 0 else 1
                size = strided(size, stride)
                block = ResidualBlock(
                    channels, outputs, size, stride=stride, first=first, neuron=neuron, norm=norm
                )
                self.blocks.append(block)
                channels = outputs
        width = max(channels // 2, 1)
        self.hidden = Hidden(channels, width, neuron=neuron)
        self.classifier = nn.Linear(width, num_classes)
        initialise(self, init)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = self.through(self.stem, frames, carry)
        for block in self.blocks:
            x = self.through(block, x, carry)
        return self.classifier(self.through(self.hidden, space_mean(x), carry))

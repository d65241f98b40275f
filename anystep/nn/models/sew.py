"""SEW-ResNets: spikes are added to spikes (Fang et al. 2021, "Deep Residual Learning in Spiking
Neural Networks").

The connect function is ADD: a block yields whole numbers, up to one more than its shortcut, so they
grow along a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep.nn.layers import Carry, fold
from anystep.nn.models.base import StepModel
from anystep.nn.models.blocks import (
    ConvNormNeuron,
    Hidden,
    Identity,
    check_stages,
    space_mean,
    strided,
)
from anystep.nn.models.init import initialise

STAGES_18 = ((64, 2), (128, 2), (256, 2), (512, 2))  # (channels, blocks)
STAGES_19 = ((128, 3), (256, 3), (512, 2))
STAGES_34 = (
    (64, 3),
    (128, 4),
    (256, 6),
    (512, 3),
)  # and SEW-ResNet-50, whose blocks are bottlenecks
EXPANSION = 4  # of a bottleneck's last convolution


class SEWBlock(nn.Module):
    """body(x) + shortcut(x): each layer of the body is convolution, norm and neuron. `size` is the
    side of x.

    `layers` has (kernel, stride, channels) of each layer. The shortcut is x itself, or a 1x1
    convolution, norm and neuron where the shape changes. Norms stand before neurons here, not
    before the addition.
    """

    def __init__(
        self,
        inputs: int,
        size: int,
        *,
        layers: Sequence[tuple[int, int, int]],
        neuron: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        channels, side = inputs, size
        self.body = nn.ModuleList()
        for kernel, stride, outputs in layers:
            side = strided(side, stride)
            layer = ConvNormNeuron(
                channels, outputs, side, kernel=kernel, stride=stride, neuron=neuron, norm=norm
            )
            self.body.append(layer)
            channels = outputs
        self.outputs, self.size = channels, side
        stride = max(stride for _, stride, _ in layers)
        if stride == 1 and inputs == channels:
            self.shortcut: nn.Module = Identity()
        else:
            self.shortcut = ConvNormNeuron(
                inputs, channels, side, kernel=1, stride=stride, neuron=neuron, norm=norm
            )

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        y = x
        for layer in self.body:
            y = layer(y, carry)
        return y + self.shortcut(x, carry)


def basic(channels: int, stride: int) -> list[tuple[int, int, int]]:
    """The layers of a block of two 3x3 convolutions."""
    return [(3, stride, channels), (3, 1, channels)]


def bottleneck_of(channels: int, stride: int) -> list[tuple[int, int, int]]:
    """The layers of a bottleneck: 1x1, 3x3 with the stride, 1x1 four times as wide."""
    return [(1, 1, channels), (3, stride, channels), (1, 1, EXPANSION * channels)]


def _blocks(
    stages: Sequence[Sequence[int]],
    channels: int,
    size: int,
    *,
    layers: Callable[[int, int], list[tuple[int, int, int]]],
    neuron: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
) -> nn.ModuleList:
    """All blocks of all stages; the first block of each stage but the first halves the side."""
    blocks = nn.ModuleList()
    for number, (width, count) in enumerate(stages):
        for place in range(count):
            stride = 2 if number > 0 and place == 0 else 1
            block = SEWBlock(channels, size, layers=layers(width, stride), neuron=neuron, norm=norm)
            blocks.append(block)
            channels, size = block.outputs, block.size
    return blocks


class SEWResNet(StepModel):
    """SEW-ResNet-18, -34 and -50: a 7x7 stem, 3x3 max pooling, four stages of blocks, global
    average pooling, a linear layer.

    For images of 224 x 224, though any side will do: the stem and the pool halve it, and each stage
    but the first (odd sides round up). `stages` has [channels, blocks] of each stage; with
    `bottleneck` a block ends 4 times as wide (SEW-ResNet-50). Parameters for 3 planes and 1000
    classes: 11,689,512, 21,797,672, 25,557,032. Logits at every step; the authors' code takes
    IF neurons, computes the stem once and repeats it, and has the linear layer on the mean over
    time. Initialisation: `kaiming`, norms start at 1, as in the source.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int,
        neuron: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
        stages: Sequence[Sequence[int]] = STAGES_18,
        bottleneck: bool = False,
        init: str = "kaiming",
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        check_stages("SEWResNet", stages)
        width, size = stages[0][0], strided(input_size, 2)
        self.stem = ConvNormNeuron(
            in_planes, width, size, kernel=7, stride=2, neuron=neuron, norm=norm
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        layers = bottleneck_of if bottleneck else basic
        self.blocks = _blocks(
            stages, width, strided(size, 2), layers=layers, neuron=neuron, norm=norm
        )
        self.classifier = nn.Linear(stages[-1][0] * (EXPANSION if bottleneck else 1), num_classes)
        initialise(self, init)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = fold(self.pool, self.through(self.stem, frames, carry))
        for block in self.blocks:
            x = self.through(block, x, carry)
        return self.classifier(space_mean(x))


class SEWResNet19(StepModel):
    """SEW-ResNet-19 of BrainCog, for small images: 12,630,858 parameters for 3 planes and 10
    classes.

    A 3x3 stem, three stages, global average pooling, two linear layers with a neuron between, the
    first half as wide as the last stage. `stages` has [channels, blocks] of each stage; all but the
    first halve the side (odd ones round up).
    Initialisation: `kaiming`, as in BrainCog.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int,
        neuron: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
        stem: int = 64,
        stages: Sequence[Sequence[int]] = STAGES_19,
        init: str = "kaiming",
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        if stem < 1:
            raise UsageError(f"SEWResNet19: stem must be >= 1, got {stem}")
        check_stages("SEWResNet19", stages)
        self.stem = ConvNormNeuron(in_planes, stem, input_size, neuron=neuron, norm=norm)
        self.blocks = _blocks(stages, stem, input_size, layers=basic, neuron=neuron, norm=norm)
        channels = stages[-1][0]
        width = max(channels // 2, 1)
        self.hidden = Hidden(channels, width, neuron=neuron)
        self.classifier = nn.Linear(width, num_classes)
        initialise(self, init)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = self.through(self.stem, frames, carry)
        for block in self.blocks:
            x = self.through(block, x, carry)
        return self.classifier(self.through(self.hidden, space_mean(x), carry))

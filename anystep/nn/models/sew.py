"""SEW-ResNets (Fang et al. 2021, "Deep Residual Learning in Spiking Neural Networks").

Spikes are added to spikes: a block yields whole numbers, which grow along a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from anystep.nn.layers import Carry, fold
from anystep.nn.models.base import StepModel
from anystep.nn.models.blocks import (
    ConvNormNeuron,
    Identity,
    Layers,
    Size,
    check_stages,
    residual_stages,
    space_mean,
    strided,
)
from anystep.nn.models.init import initialise
from anystep.nn.models.resnet import ResNet19

STAGES_18 = ((64, 2), (128, 2), (256, 2), (512, 2))  # (channels, blocks)
STAGES_34 = ((64, 3), (128, 4), (256, 6), (512, 3))  # and SEW-ResNet-50's, which are bottlenecks
EXPANSION = 4  # of a bottleneck's last convolution


class SEWBlock(nn.Module):
    """body(x) + shortcut(x): each layer of the body is convolution, norm and neuron.

    The body is two 3x3 layers, or with `bottleneck` 1x1, 3x3, and 1x1 four times as wide. The
    shortcut is x itself, or a 1x1 convolution, norm and neuron where the shape changes.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        size: Size,
        stride: int,
        *,
        make: Layers,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        layers = [(3, stride, width), (3, 1, width)]  # kernel, stride, channels
        if bottleneck:
            layers = [(1, 1, width), (3, stride, width), (1, 1, EXPANSION * width)]
        self.outputs, self.size = inputs, size
        self.body = nn.ModuleList()
        for kernel, step, outputs in layers:
            self.size = strided(self.size, step)
            self.body.append(
                ConvNormNeuron(self.outputs, outputs, self.size, make, kernel=kernel, stride=step)
            )
            self.outputs = outputs
        self.shortcut: nn.Module = Identity()
        if stride != 1 or inputs != self.outputs:
            self.shortcut = ConvNormNeuron(
                inputs, self.outputs, self.size, make, kernel=1, stride=stride
            )

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        y = x
        for layer in self.body:
            y = layer(y, carry)
        return y + self.shortcut(x, carry)


class SEWResNet(StepModel):
    """SEW-ResNet-18, -34 and -50: 7x7 stem, max pooling, stages, global average pooling, linear.

    The stem, the pool and each stage but the first halve the side (odd ones round up). `stages` has
    [channels, blocks] of each stage; with `bottleneck` a block ends 4 times as wide
    (SEW-ResNet-50). Parameters for 3 planes and 1000 classes: 11,689,512, 21,797,672, 25,557,032.
    Logits at every step; the authors' code takes IF neurons, computes the stem once and repeats it,
    and has the linear layer on the mean over time. Initialisation: `kaiming`, norms start at 1, as
    in the source.
    """

    def __init__(
        self,
        make: Layers,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int | Sequence[int],
        stages: Sequence[Sequence[int]] = STAGES_18,
        bottleneck: bool = False,
        init: str = "kaiming",
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        check_stages(type(self).__name__, stages)
        width, size = stages[0][0], strided(self.frame_shape[1:], 2)
        self.stem = ConvNormNeuron(in_planes, width, size, make, kernel=7, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        block = partial(SEWBlock, make=make, bottleneck=bottleneck)
        self.blocks = residual_stages(stages, width, strided(size, 2), block)
        self.classifier = nn.Linear(stages[-1][0] * (EXPANSION if bottleneck else 1), num_classes)
        initialise(self, init)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = fold(self.pool, self.through(self.stem, frames, carry))
        for block in self.blocks:
            x = self.through(block, x, carry)
        return self.classifier(space_mean(x))


class SEWResNet19(ResNet19):
    """SEW-ResNet-19 of BrainCog: `ResNet19` of SEW blocks.

    With `stem=64` 12,630,858 parameters for 3 planes and 10 classes, as published.
    """

    block = SEWBlock
    adds_norms = False

"""VGG-SNN, the network of TKS, TET and HSD on event data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from anystep.layers import Carry, fold
from anystep.models.base import StepModel

PUBLISHED_WIDTHS = ((64, 128), (256, 256), (512, 512), (512, 512))


class ConvBlock(nn.Module):
    """3x3 convolution, norm, neuron: `(T, N, in, H, W) -> (T, N, out, H, W)`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        neuron: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module],
        conv_bias: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=conv_bias)
        self.norm = norm(outputs)
        self.neuron = neuron(shape=(outputs, size, size))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return carry(self.neuron, carry(self.norm, fold(self.conv, x)))


class VGGSNN(StepModel):
    """VGG-SNN: stages of conv blocks, each stage ended by 2x2 average pooling, one linear layer; logits at every step.

    With the published widths and `conv_bias=False` this is BrainCog's network (9,268,746 parameters for 2x48x48, 10
    classes); with `conv_bias=True` TET's and HSD's (9,271,498). No dropout, no voting layer. Pooled spikes are no longer
    binary. Initialisation: PyTorch's own, as in BrainCog. `widths` has one list of channel counts a stage.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int,
        neuron: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module],
        widths: Sequence[Sequence[int]] = PUBLISHED_WIDTHS,
        conv_bias: bool = False,
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        _check_widths(widths, input_size)
        size, channels = input_size, in_planes
        stages = []
        for stage in widths:
            blocks = []
            for outputs in stage:
                blocks.append(ConvBlock(channels, outputs, size, neuron=neuron, norm=norm, conv_bias=conv_bias))
                channels = outputs
            stages.append(nn.ModuleList(blocks))
            size //= 2
        self.stages = nn.ModuleList(stages)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(channels * size * size, num_classes)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = frames
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x = self.through(block, x, carry)
            x = fold(self.pool, x)
        return self.classifier(x.flatten(2))


def _check_widths(widths: Sequence[Sequence[int]], input_size: int) -> None:
    counts = [width for stage in widths for width in stage] if all(isinstance(s, Sequence) for s in widths) else []
    if not counts or not all(isinstance(width, int) and width >= 1 for width in counts) or not all(widths):
        raise ValueError(f"VGGSNN: widths must be one list of channel counts a stage, like [[16], [32]], got {widths}")
    if input_size >> len(widths) < 1:
        raise ValueError(f"VGGSNN: input_size {input_size} is too small to be halved {len(widths)} times")

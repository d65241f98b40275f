"""VGG-SNN, the network of TKS, TET and HSD on event data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep.nn.layers import Carry, fold
from anystep.nn.models.base import StepModel
from anystep.nn.models.blocks import ConvNormNeuron
from anystep.nn.models.init import initialise

PUBLISHED_WIDTHS = ((64, 128), (256, 256), (512, 512), (512, 512))


class VGGSNN(StepModel):
    """VGG-SNN: stages of conv blocks, each stage ended by 2x2 average pooling, one linear layer;
    logits at every step.

    With the published widths and `conv_bias=False` this is BrainCog's network (9,268,746 parameters
    for 2x48x48, 10 classes); with `conv_bias=True` TET's and HSD's (9,271,498). No dropout, no
    voting layer. Pooled spikes are no longer binary. `widths` has one list of channel counts a
    stage. `init` is a row of `INITS`: "torch" (BrainCog), "kaiming" (TET) or "hsd".
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
        init: str = "torch",
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        _check_widths(type(self).__name__, widths, input_size)
        size, channels = input_size, in_planes
        stages = []
        for stage in widths:
            blocks = []
            for outputs in stage:
                blocks.append(
                    ConvNormNeuron(
                        channels, outputs, size, neuron=neuron, norm=norm, bias=conv_bias
                    )
                )
                channels = outputs
            stages.append(nn.ModuleList(blocks))
            size //= 2
        self.stages = nn.ModuleList(stages)
        self.pool: nn.Module = nn.AvgPool2d(2)
        self.classifier = nn.Linear(channels * size * size, num_classes)
        initialise(self, init)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = frames
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x = self.through(block, x, carry)
            x = fold(self.pool, x)
        return self.classifier(x.flatten(2))

    def weighted_after(self) -> list[tuple[str, str]]:
        blocks = [
            f"stages.{i}.{j}"
            for i, stage in enumerate(self.stages)
            for j in range(len(cast(nn.ModuleList, stage)))
        ]
        layers = [*(f"{block}.conv" for block in blocks[1:]), "classifier"]
        return [(f"{block}.neuron", layer) for block, layer in zip(blocks, layers, strict=True)]


def _check_widths(model: str, widths: Sequence[Sequence[int]], input_size: int) -> None:
    counts = (
        [width for stage in widths for width in stage]
        if all(isinstance(s, Sequence) for s in widths)
        else []
    )
    if (
        not counts
        or not all(isinstance(width, int) and width >= 1 for width in counts)
        or not all(widths)
    ):
        raise UsageError(
            f"{model}: widths must be one list of channel counts a stage, like [[16], [32]], got {widths}"
        )
    if input_size >> len(widths) < 1:
        raise UsageError(
            f"{model}: input_size {input_size} is too small to be halved {len(widths)} times"
        )

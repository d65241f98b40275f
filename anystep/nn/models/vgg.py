"""VGG-SNN, the network of TKS, TET and HSD on event data, and VGG-9, our reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.nn.layers import Carry, fold
from anystep.nn.models.base import StepModel
from anystep.nn.models.blocks import ConvNormNeuron, Layers, Size
from anystep.nn.models.init import initialise

PUBLISHED_WIDTHS = ((64, 128), (256, 256), (512, 512), (512, 512))
POOLS: dict[str, type[nn.Module]] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


def _check_widths(model: str, widths: Sequence[Sequence[int]], size: Size) -> None:
    given = widths if isinstance(widths, Sequence) else ()
    lists = bool(given) and all(isinstance(stage, Sequence) and stage for stage in given)
    if not lists or not all(isinstance(n, int) and n >= 1 for stage in widths for n in stage):
        raise UsageError(f"{model}: widths must be one list of channels a stage, got {widths}")
    if min(size) >> len(widths) < 1:
        raise UsageError(
            f"{model}: input_size {size[0]} x {size[1]} is too small for {len(widths)} stages"
        )


class VGGSNN(StepModel):
    """VGG-SNN: stages of conv blocks, each stage ended by 2x2 pooling, one linear layer.

    With the published widths and `conv_bias=False` this is BrainCog's network (9,268,746 parameters
    for 2x48x48, 10 classes); with `conv_bias=True` TET's and HSD's (9,271,498). No dropout, no
    voting layer; logits at every step. Spikes that are pooled by "average", as in all three, are no
    longer binary. `widths` has one list of channel counts a stage. `init` is a row of `INITS`:
    "torch" (BrainCog), "kaiming" (TET) or "hsd".
    """

    def __init__(
        self,
        make: Layers,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int | Sequence[int],
        widths: Sequence[Sequence[int]] = PUBLISHED_WIDTHS,
        conv_bias: bool = False,
        pool: str = "average",
        init: str = "torch",
    ) -> None:
        super().__init__(in_planes=in_planes, input_size=input_size, num_classes=num_classes)
        size, channels, stages = self.frame_shape[1:], in_planes, []
        _check_widths(type(self).__name__, widths, size)
        self.pool = choose(POOLS, pool, "pool")(2)
        for stage in widths:
            blocks = nn.ModuleList()
            for outputs in stage:
                blocks.append(ConvNormNeuron(channels, outputs, size, make, bias=conv_bias))
                channels = outputs
            stages.append(blocks)
            size = (size[0] // 2, size[1] // 2)
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(channels * size[0] * size[1], num_classes)
        initialise(self, init)

    def network(self, frames: Tensor, carry: Carry) -> Tensor:
        x = frames
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x = self.through(block, x, carry)
            x = fold(self.pool, x)
        return self.classifier(x.flatten(2))

    def weighted_after(self) -> list[tuple[str, str]]:
        sizes = [len(cast(nn.ModuleList, stage)) for stage in self.stages]
        blocks = [f"stages.{i}.{j}" for i, size in enumerate(sizes) for j in range(size)]
        layers = [*(f"{block}.conv" for block in blocks[1:]), "classifier"]
        return [(f"{block}.neuron", layer) for block, layer in zip(blocks, layers, strict=True)]


class VGG9(VGGSNN):
    """VGG-9 as SLT, TSSD, MPS and SSNN report it. OUR READING: no layer list was found to check it.

    Read as 64-128-P-256-256-P-512-512-P-512-512-P-linear, nine layers with weights, which is
    VGG-SNN's list. Papers that report both tell them apart, so they must differ in something that
    we do not know. Do not hold a result of this network against a published one.
    """

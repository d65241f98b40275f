"""VGG-9, our reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from anystep._lookup import choose
from anystep.nn.models.vgg import PUBLISHED_WIDTHS, VGGSNN

POOLS: dict[str, type[nn.Module]] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


class VGG9(VGGSNN):
    """VGG-9 for 48 x 48 event frames, as SLT, TSSD, MPS and SSNN report it. OUR READING: no layer
    list was found to check it.

    Read as 64-128-P-256-256-P-512-512-P-512-512-P-linear, nine layers with weights. That is
    VGG-SNN's list. Papers that report both tell them apart, so they must differ in something that
    we do not know; `pool`, "average" or "max", is the part that is ours to choose. Do not hold a
    result of this network against a published one as if the two were the same.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_planes: int,
        input_size: int,
        neuron: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
        widths: Sequence[Sequence[int]] = PUBLISHED_WIDTHS,
        conv_bias: bool = False,
        pool: str = "average",
    ) -> None:
        make_pool = choose(POOLS, pool, "pool")
        super().__init__(
            num_classes=num_classes,
            in_planes=in_planes,
            input_size=input_size,
            neuron=neuron,
            norm=norm,
            widths=widths,
            conv_bias=conv_bias,
        )
        self.pool = make_pool(2)

"""How a new network's weights are drawn. Norms and neurons start as they say themselves."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from anystep._lookup import choose


def keep(model: nn.Module) -> None:
    """PyTorch's own draw, which the layers have: BrainCog (VGG-SNN, ResNet-19), TET (ResNet-19)."""


def kaiming(model: nn.Module) -> None:
    """Convolution weights ~ N(0, 2 / fan_out), fan_out = out_channels x kernel area.

    TET's VGG-SNN and the SEW-ResNets. He et al. 2015, eq. 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def hsd(model: nn.Module) -> None:
    """`kaiming`, and the biases of linear layers are 0, as in HSD's code."""
    kaiming(model)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


INITS: dict[str, Callable[[nn.Module], None]] = {"torch": keep, "kaiming": kaiming, "hsd": hsd}


def initialise(model: nn.Module, init: str) -> None:
    """Draw the weights of `model` by a row of `INITS`, from torch's global generator."""
    choose(INITS, init, "init")(model)

"""A network made ready for inference: every batch norm folded into the convolution before it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anystep.layers import is_stateful
from anystep.models.base import StepModel
from anystep.norms import BatchNorm

Model = TypeVar("Model", bound=StepModel)

STEPS = 3  # of the frames that a fused network is compared on


def fuse_model(model: Model, *, verify: bool = True, tolerance: float = 1e-4) -> Model:
    r"""A copy of `model` for inference in which each convolution and the batch norm after it are one convolution.

        W' = W gamma / sqrt(var + eps)        b' = (b - mean) gamma / sqrt(var + eps) + beta        (a value a channel)

    A pair is a module whose children `conv` and `norm` are applied one after the other, as in `ConvBlock`; a model that is
    written so is fused without a word in here. The copy has the same state, the same calls and the same keys, apart from the
    norms', which are gone, and `conv.bias`. Its weights are folded in float64, rounded once, and ask for no gradient; it stays
    in eval mode, `train()` is refused. The original is not touched.

    Original and copy are compared in float64, on random frames over 3 steps from random membranes, so that every layer
    fires and no spike hangs on the last bit of a float32. `fusion_difference` of the copy is the largest difference of a step
    logit or membrane, None if `verify` is False.

    Errors: a model in training mode; a norm that is not one affine map for all steps (per-step norms), or that stands
    alone; `RuntimeError` for a difference above `tolerance`, when a block does more than its convolution and its norm.
    """
    if not tolerance > 0:
        raise ValueError(f"fuse_model: tolerance must be > 0, got {tolerance}")
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(f"fuse_model: {name or type(model).__name__!r} is in training mode: call model.eval() first")
    for name in _unpaired_norms(model):
        raise ValueError(f"fuse_model: the norm {name!r} is not beside a convolution (children .conv and .norm of one module)")
    weight = next(model.parameters())
    exact = copy.deepcopy(model).to("cpu", torch.float64)
    fused = copy.deepcopy(exact)
    for name, block in _pairs(fused):
        _fold_norm(name, block)
    fused.requires_grad_(False)
    difference = _difference(exact, fused) if verify else None
    if difference is not None and not difference <= tolerance:
        raise RuntimeError(
            f"fuse_model: the fused network differs from the original by {difference:.3g}, more than tolerance={tolerance}: "
            f"a module with .conv and .norm must apply the one and then the other, and nothing in between"
        )
    cast(Any, fused).fusion_difference = difference
    return fused.to(weight.device, weight.dtype)


class Folded(nn.Identity):
    """Where a norm was. A network with its norms folded is for inference: `train()` raises."""

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise ValueError("a fused network cannot be trained, its norms are gone: train the one given to fuse_model")
        return super().train(mode)


def _pairs(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of each module with the children `conv` and `norm`, but for those that are fused already."""
    for name, module in list(model.named_modules()):
        children = dict(module.named_children())
        if children.keys() >= {"conv", "norm"} and not isinstance(children["norm"], nn.Identity):
            yield name, module


def _unpaired_norms(model: nn.Module) -> Iterator[str]:
    """Names of the batch norms that are nobody's `norm` next to a `conv`."""
    paired = {block.get_submodule("norm") for _, block in _pairs(model)}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in paired:
            yield name


def _fold_norm(name: str, block: nn.Module) -> None:
    """Make the pair in `block` one convolution, or say why that cannot be."""
    conv, norm = block.get_submodule("conv"), block.get_submodule("norm")
    kind = type(norm).__name__
    if is_stateful(norm):
        raise ValueError(f"fuse_model: {name}.norm ({kind}) is a norm of its own at every step, one convolution cannot be")
    if not isinstance(norm, nn.BatchNorm2d) or type(norm).forward not in (BatchNorm.forward, nn.BatchNorm2d.forward):
        raise ValueError(f"fuse_model: {name}.norm ({kind}) cannot be folded, only BatchNorm can")
    if norm.running_mean is None:
        raise ValueError(f"fuse_model: {name}.norm ({kind}) keeps no running statistics to fold")
    if type(conv) is not nn.Conv2d:
        raise ValueError(f"fuse_model: {name}.conv must be a Conv2d, got {type(conv).__name__}")
    block.conv, block.norm = fuse_conv_bn_eval(conv, norm), Folded().eval()


@torch.no_grad()
def _difference(model: StepModel, fused: StepModel) -> float:
    """The largest |difference| of step logits and last membranes, the same random frames and membranes given to both."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 4 * torch.rand(*shape, generator=generator, dtype=torch.float64)  # most thresholds are 0.5 or 1

    frames = random(STEPS, 1, *model.frame_shape)
    state = tuple(rows + random(*rows.shape) for rows in model.rest(1))
    (logits, after), (other, other_after) = model.advance(frames, state), fused.advance(frames, state)
    if [rows.shape for rows in after] != [rows.shape for rows in other_after]:
        return math.inf
    pairs = [(logits, other), *zip(after, other_after, strict=True)]
    return float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())  # Python's max would lose a NaN

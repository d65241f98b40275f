"""For inference: norms folded into the weights before them, a spike's worth into those after it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anystep._errors import UsageError
from anystep.nn.layers import is_stateful
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ClippedIF
from anystep.nn.norms import BatchNorm

Model = TypeVar("Model", bound=StepModel)

STEPS = 3  # of the frames that a fused network is compared on


def _clipped(model: nn.Module) -> Iterator[tuple[str, ClippedIF]]:
    return ((name, each) for name, each in model.named_modules() if isinstance(each, ClippedIF))


@torch.no_grad()
def _fold_scales(model: StepModel, names: list[str]) -> None:
    """Fold the clips of these neurons into the weights after them, which hold no clip yet."""
    if not names:
        return
    pairs = model.weighted_after()
    layers = [layer for _, layer in pairs]
    for layer in layers:
        if layers.count(layer) > 1:
            raise ValueError(f"{layer!r} sees the spikes of several neurons: no one clip fits")
    for name in names:
        clip = cast(ClippedIF, model.get_submodule(name)).clip
        if name not in dict(pairs):
            kind = type(model).__name__
            raise ValueError(f"{kind}.weighted_after() leaves out the weights after {name!r}")
        if not bool(clip > 0):
            raise ValueError(f"{name}.clip must be > 0, got {float(clip)}")
    for name, layer in pairs:
        if name in names:
            neuron = cast(ClippedIF, model.get_submodule(name))
            cast(Tensor, model.get_submodule(layer).weight).mul_(neuron.clip)
            neuron.scale = "folded"
            neuron.folded.fill_(True)


def fold_scales_(model: StepModel) -> list[str]:
    r"""Multiply the clip of each `ClippedIF(scale="folded")` into the weights (not the bias) that
    see its spikes, in place.

        W' = clip W    so that    W' s = W (clip s)

    What enters the next norm, and the logits at the end, stay the same up to rounding, in training
    and in eval mode. This turns the weights of a QCFS twin into those of its converted network:
    build that one with `scale="folded"`, load the weights, clips and all, and call this. The
    gradient of a folded weight is that of the weight divided by the clip, so training goes on
    differently. Without the fold a batch norm in training mode would cancel the lost factor, but
    for its eps; carried running statistics and the last linear layer would not.

    Safe to call twice: the neuron's buffer `folded`, saved with the weights, says that they hold
    its clip. Returns the names of the neurons whose clips were folded now.

    Errors, before anything is changed: a model whose `weighted_after` leaves a neuron out; a layer
    that sees the spikes of two; a clip that is not above 0.
    """
    names = [name for name, each in _clipped(model) if each.scale == "folded" and not each.folded]
    _fold_scales(model, names)
    return names


class Folded(nn.Identity):
    """Where a norm was. A network with its norms folded is for inference: `train()` raises."""

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise ValueError("a fused network cannot be trained, its norms are gone")
        return super().train(mode)


def _pairs(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of each module with children `conv` and `norm` that is not fused yet."""
    for name, module in list(model.named_modules()):
        children = dict(module.named_children())
        if children.keys() >= {"conv", "norm"} and not isinstance(children["norm"], nn.Identity):
            yield name, module


def _why_not(name: str, norm: nn.Module, conv: nn.Module | None = None) -> str | None:
    """Why a norm cannot be folded into `conv` beside it, or cannot stay where there is none."""
    kind = type(norm).__name__
    if is_stateful(norm):
        return f"{name} ({kind}) is a norm of its own at every step, one convolution cannot be"
    if conv is not None and (
        not isinstance(norm, nn.BatchNorm2d)
        or type(norm).forward not in (BatchNorm.forward, nn.BatchNorm2d.forward)
    ):
        return f"{name} ({kind}) cannot be folded, only BatchNorm can"
    if cast(Any, norm).running_mean is None:
        return f"{name} ({kind}) keeps no running statistics to fold"
    if conv is not None and type(conv) is not nn.Conv2d:
        return f"{name.removesuffix('norm')}conv must be a Conv2d, got {type(conv).__name__}"
    return None


def why_not_fusable(model: StepModel) -> str | None:
    """Why `fuse_model` would refuse `model` in eval mode, or None; it compares nothing."""
    pairs = {block.get_submodule("norm"): (name, block) for name, block in _pairs(model)}
    reasons = [
        _why_not(f"{name}.norm", norm, block.get_submodule("conv"))
        for norm, (name, block) in pairs.items()
    ]
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in pairs:
            reasons.append(_why_not(name, module))
    return next((reason for reason in reasons if reason is not None), None)


@torch.no_grad()
def _difference(model: StepModel, fused: StepModel) -> float:
    """The largest |difference| of step logits and last membranes on the same random input."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:  # most thresholds are 0.5 or 1
        return 4 * torch.rand(*shape, generator=generator, dtype=torch.float64)

    frames = random(STEPS, 1, *model.frame_shape)
    state = tuple(rows + random(*rows.shape) for rows in model.rest(1))
    (logits, after), (other, others) = (each.advance(frames, state) for each in (model, fused))
    if [rows.shape for rows in after] != [rows.shape for rows in others]:
        return math.inf
    pairs = [(logits, other), *zip(after, others, strict=True)]
    # Python's max would lose a NaN
    return float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())


def fuse_model(model: Model, *, verify: bool = True, tolerance: float = 1e-4) -> Model:
    r"""A copy of `model` for inference: each convolution and the batch norm after it become one.

        W' = W gamma / sqrt(var + eps)
        b' = (b - mean) gamma / sqrt(var + eps) + beta        (a value a channel)

    A pair is a module whose children `conv` and `norm` are applied one after the other, as in
    `ConvNormNeuron`. A batch norm beside no convolution stays: in eval mode it is an affine map.
    Where the model says which weights see whose spikes (`StepModel.weighted_after`), a `ClippedIF`
    with `scale="output"` becomes one with `scale="folded"`; where it does not, spikes keep their
    worth.

    The copy has the same state, calls and keys, but for those of the norms, and `conv.bias`. Its
    weights are folded in float64, rounded once, and ask for no gradient; `train()` is refused.

    Original and copy are compared in float64, on random frames over 3 steps from random membranes,
    so that every layer fires and no spike hangs on the last bit of a float32. `fusion_difference`
    of the copy is the largest difference of a step logit or membrane, None if `verify` is False.

    Errors: a model in training mode; what `why_not_fusable` says; a clip that is not above 0;
    `RuntimeError` for a difference above `tolerance`.
    """
    if not tolerance > 0:
        raise UsageError(f"fuse_model: tolerance must be > 0, got {tolerance}")
    for name, module in model.named_modules():
        if module.training:
            name = name or type(model).__name__
            raise ValueError(f"fuse_model: {name!r} is in training mode: call model.eval() first")
    if (reason := why_not_fusable(model)) is not None:
        raise ValueError(f"fuse_model: {reason}")
    weight = next(model.parameters())
    exact = copy.deepcopy(model).to("cpu", torch.float64)
    fused = copy.deepcopy(exact)
    for _, block in _pairs(fused):
        fused_conv = fuse_conv_bn_eval(cast(nn.Conv2d, block.conv), cast(BatchNorm, block.norm))
        block.conv, block.norm = fused_conv, Folded().eval()
    if type(fused).weighted_after is not StepModel.weighted_after:  # it says what follows what
        _fold_scales(fused, [name for name, neuron in _clipped(fused) if neuron.scale == "output"])
    fused.made_by = None  # create_model makes none of this kind
    fused.requires_grad_(False)
    difference = _difference(exact, fused) if verify else None
    if difference is not None and not difference <= tolerance:
        raise RuntimeError(
            f"fuse_model: differs from the original by {difference:.3g}, more than {tolerance=}: "
            "a module with .conv and .norm must apply the one and then the other, nothing between"
        )
    cast(Any, fused).fusion_difference = difference
    return fused.to(weight.device, weight.dtype)

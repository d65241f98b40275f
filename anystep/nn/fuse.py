"""A network made ready for inference: norms folded into the weights before them, what a spike is
worth into those after it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anystep.nn.layers import is_stateful
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ClippedIF
from anystep.nn.norms import BatchNorm

Model = TypeVar("Model", bound=StepModel)

STEPS = 3  # of the frames that a fused network is compared on


def fuse_model(model: Model, *, verify: bool = True, tolerance: float = 1e-4) -> Model:
    r"""A copy of `model` for inference in which each convolution and the batch norm after it are
    one convolution.

        W' = W gamma / sqrt(var + eps)        b' = (b - mean) gamma / sqrt(var + eps) + beta
        (a value a channel)

    A pair is a module whose children `conv` and `norm` are applied one after the other, as in
    `ConvNormNeuron`; a model that is written so is fused without a word in here. A batch norm
    beside no convolution, as in a shortcut that is a norm alone,
    stays: in eval mode it is an affine map. Where the model says which weights see whose spikes
    (`StepModel.weighted_after`), a `ClippedIF` with `scale="output"` becomes one with
    `scale="folded"`; where it does not, spikes keep their worth.

    The copy has the same state, the same calls and the same keys, apart from the folded norms',
    which are gone, and `conv.bias`. Its weights are folded in float64, rounded once, and ask for no
    gradient; it stays in eval mode, `train()` is refused by a folded norm. The original is not
    touched.

    Original and copy are compared in float64, on random frames over 3 steps from random membranes,
    so that every layer fires and no spike hangs on the last bit of a float32. `fusion_difference`
    of the copy is the largest difference of a step logit or membrane, None if `verify` is False.

    Errors: a model in training mode; what `why_not_fusable` says; a clip that is not above 0;
    `RuntimeError` for a difference above `tolerance`, when a block does more than its convolution
    and its norm.
    """
    if not tolerance > 0:
        raise ValueError(f"fuse_model: tolerance must be > 0, got {tolerance}")
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"fuse_model: {name or type(model).__name__!r} is in training mode: call model.eval() first"
            )
    if (reason := why_not_fusable(model)) is not None:
        raise ValueError(f"fuse_model: {reason}")
    weight = next(model.parameters())
    exact = copy.deepcopy(model).to("cpu", torch.float64)
    fused = copy.deepcopy(exact)
    for _, block in _pairs(fused):
        fused_conv = fuse_conv_bn_eval(cast(Any, block.conv), cast(Any, block.norm))
        block.conv, block.norm = fused_conv, Folded().eval()
    if _is_chain(fused):
        _fold_scales(fused, [name for name, neuron in _clipped(fused) if neuron.scale == "output"])
    fused.requires_grad_(False)
    difference = _difference(exact, fused) if verify else None
    if difference is not None and not difference <= tolerance:
        raise RuntimeError(
            f"fuse_model: the fused network differs from the original by {difference:.3g}, more than tolerance={tolerance}: "
            f"a module with .conv and .norm must apply the one and then the other, and nothing in between"
        )
    cast(Any, fused).fusion_difference = difference
    return fused.to(weight.device, weight.dtype)


def why_not_fusable(model: StepModel) -> str | None:
    """Why `fuse_model` would refuse `model` in eval mode, or None: a pair that is not one
    convolution, a norm of its own at every step, a norm without running statistics. What only a
    comparison shows (`verify`) it cannot know.
    """
    pairs = list(_pairs(model))
    reasons = [
        _why_not(f"{name}.norm", block.get_submodule("norm"), block.get_submodule("conv"))
        for name, block in pairs
    ]
    paired = {block.get_submodule("norm") for _, block in pairs}
    alone = [(name, module) for name, module in model.named_modules() if module not in paired]
    reasons += [
        _why_not(name, norm)
        for name, norm in alone
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
    ]
    return next((reason for reason in reasons if reason is not None), None)


def fold_scales_(model: StepModel) -> list[str]:
    r"""Multiply the clip of each `ClippedIF(scale="folded")` into the weights (not the bias) that
    see its spikes, in place.

        W' = clip W    so that    W' s = W (clip s)

    What enters the next norm or is said at the end is the same, in training and in eval mode, up to
    rounding. It is what turns the weights of a QCFS twin into those of its converted network: build
    that one with `scale="folded"`, load the weights, clips and all, and call this. The gradient of
    a folded weight is that of the weight divided by the clip, so training goes on differently.
    Without the fold a batch norm in training mode would cancel the lost factor, but for its eps;
    carried running statistics and the last linear layer would not.

    Safe to call twice: the buffer `folded` of the neuron, saved with the weights, says that they
    hold its clip, and they are left alone; so is what follows other neurons, and a `ClippedIF` with
    `scale="output"`, whose output holds the clip itself. Returns the names of the neurons whose
    clips were folded now.

    Errors, before anything is changed: a model that does not say what follows its neurons
    (`StepModel.weighted_after`) or leaves one of them out; a layer that sees the spikes of two; a
    clip that is not above 0.
    """
    names = [
        name for name, neuron in _clipped(model) if neuron.scale == "folded" and not neuron.folded
    ]
    _fold_scales(model, names)
    return names


@torch.no_grad()
def _fold_scales(model: StepModel, names: list[str]) -> None:
    """Fold the clips of these neurons, which must be followed by weights that do not hold them yet."""
    if not names:
        return
    pairs = model.weighted_after()
    layers = [layer for _, layer in pairs]
    for layer in layers:
        if layers.count(layer) > 1:
            raise ValueError(
                f"{layer!r} sees the spikes of several neurons: no one clip can be folded into its weights"
            )
    for name in names:
        clip = cast(ClippedIF, model.get_submodule(name)).clip
        if name not in dict(pairs):
            raise ValueError(
                f"{type(model).__name__}.weighted_after() does not say which weights see the spikes of {name!r}"
            )
        if not bool(clip > 0):
            raise ValueError(f"{name}.clip must be > 0, got {float(clip)}")
    for name, layer in pairs:
        if name in names:
            neuron = cast(ClippedIF, model.get_submodule(name))
            cast(Tensor, model.get_submodule(layer).weight).mul_(neuron.clip)
            neuron.scale = "folded"
            neuron.folded.fill_(True)


def _clipped(model: nn.Module) -> Iterator[tuple[str, ClippedIF]]:
    return (
        (name, module) for name, module in model.named_modules() if isinstance(module, ClippedIF)
    )


def _is_chain(model: StepModel) -> bool:
    """Whether a model says which weights see whose spikes."""
    try:
        model.weighted_after()
    except ValueError:
        return False
    return True


class Folded(nn.Identity):
    """Where a norm was. A network with its norms folded is for inference: `train()` raises."""

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise ValueError(
                "a fused network cannot be trained, its norms are gone: train the one given to fuse_model"
            )
        return super().train(mode)


def _pairs(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of each module with the children `conv` and `norm`, but for those that are
    fused already.
    """
    for name, module in list(model.named_modules()):
        children = dict(module.named_children())
        if children.keys() >= {"conv", "norm"} and not isinstance(children["norm"], nn.Identity):
            yield name, module


def _why_not(name: str, norm: nn.Module, conv: nn.Module | None = None) -> str | None:
    """Why a norm cannot be folded into the convolution `conv` beside it, or cannot stay where there
    is none.
    """
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


@torch.no_grad()
def _difference(model: StepModel, fused: StepModel) -> float:
    """The largest |difference| of step logits and last membranes, the same random frames and
    membranes given to both.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 4 * torch.rand(
            *shape, generator=generator, dtype=torch.float64
        )  # most thresholds are 0.5 or 1

    frames = random(STEPS, 1, *model.frame_shape)
    state = tuple(rows + random(*rows.shape) for rows in model.rest(1))
    (logits, after), (other, other_after) = (
        model.advance(frames, state),
        fused.advance(frames, state),
    )
    if [rows.shape for rows in after] != [rows.shape for rows in other_after]:
        return math.inf
    pairs = [(logits, other), *zip(after, other_after, strict=True)]
    return float(
        torch.stack([(a - b).abs().max() for a, b in pairs]).max()
    )  # Python's max would lose a NaN

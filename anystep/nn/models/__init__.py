"""The model table, and the one function that builds from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch

from anystep._lookup import check_arguments, choose
from anystep.nn.models.base import StepModel
from anystep.nn.models.resnet import ResNet19
from anystep.nn.models.sew import STAGES_34, SEWResNet, SEWResNet19
from anystep.nn.models.vgg import VGGSNN
from anystep.nn.models.vgg9 import VGG9
from anystep.nn.neurons import neuron_factory
from anystep.nn.norms import NORMS

MODELS: dict[str, Callable[..., StepModel]] = {
    "vgg_snn": VGGSNN,
    "vgg9": VGG9,
    "resnet19": ResNet19,
    "sew_resnet18": SEWResNet,
    "sew_resnet19": SEWResNet19,
    "sew_resnet34": partial(SEWResNet, stages=STAGES_34),
    "sew_resnet50": partial(SEWResNet, stages=STAGES_34, bottleneck=True),
}


def create_model(
    name: str,
    *,
    num_classes: int,
    in_planes: int = 2,
    input_size: int,
    neuron: str | Mapping[str, Any] = "lif",
    norm: str | Mapping[str, Any] = "bn",
    **options: Any,
) -> StepModel:
    """A new network: `name` from `MODELS`, `neuron` from `NEURONS` or `ACTIVATIONS` (the ANN twin),
    `norm` from `NORMS`.

    `neuron` and `norm` are a name, or a mapping with a name and its arguments. Further options are
    the model's own; unknown names and arguments are refused with the nearest one. Weights are drawn
    from torch's global generator: seed it first. They are laid out channels_last, which
    convolutions, norms and fused neurons then keep: the faster layout on CPU and GPU.

    >>> model = create_model("vgg_snn", num_classes=10, input_size=8, neuron={"name": "lif", "tau": 2.0}, widths=[[4], [8]])
    >>> sum(p.numel() for p in model.parameters())
    714
    """
    kind = choose(MODELS, name, "model")
    check_arguments(kind, options, f"model {name}")
    neuron_name, neuron_options = name_and_options(neuron)
    norm_name, norm_options = name_and_options(norm)
    make_norm = choose(NORMS, norm_name, "norm")
    check_arguments(make_norm, {"channels": 1, **norm_options}, f"norm {norm_name}", complete=True)
    model = kind(
        num_classes=num_classes,
        in_planes=in_planes,
        input_size=input_size,
        neuron=neuron_factory(neuron_name, **neuron_options),
        norm=partial(make_norm, **norm_options),
        **options,
    )
    return cast(Any, model).to(
        memory_format=torch.channels_last
    )  # torch's annotations lack this argument


def name_and_options(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """`"lif"` or `{"name": "lif", "tau": 2}` as (name, options)."""
    if isinstance(spec, str):
        return spec, {}
    options = dict(spec)
    return options.pop("name", ""), options

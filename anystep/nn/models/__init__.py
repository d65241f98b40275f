"""The model table, and the one function that builds from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch

from anystep._errors import UsageError
from anystep._lookup import check_arguments, choose
from anystep.nn.models.base import StepModel
from anystep.nn.models.blocks import Layers
from anystep.nn.models.resnet import ResNet19
from anystep.nn.models.sew import STAGES_34, SEWResNet, SEWResNet19
from anystep.nn.models.vgg import VGG9, VGGSNN
from anystep.nn.neurons import neuron_factory
from anystep.nn.norms import NORMS

# A row is called with `Layers`, num_classes, in_planes and input_size, and with its own options.
MODELS: dict[str, Callable[..., StepModel]] = {
    "vgg_snn": VGGSNN,
    "vgg9": VGG9,
    "resnet19": ResNet19,
    "sew_resnet18": SEWResNet,
    "sew_resnet19": partial(SEWResNet19, stem=64, init="kaiming"),
    "sew_resnet34": partial(SEWResNet, stages=STAGES_34),
    "sew_resnet50": partial(SEWResNet, stages=STAGES_34, bottleneck=True),
}


def name_and_options(spec: str | Mapping[str, Any], what: str) -> tuple[str, dict[str, Any]]:
    """`"lif"` or `{"name": "lif", "tau": 2}` as (name, options)."""
    if not isinstance(spec, str | Mapping):
        rule = "a name, or its name and arguments like {'name': 'lif', 'tau': 2.0}"
        raise UsageError(f"{what} must be {rule}, got {spec!r}")
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    return options.pop("name", ""), options


def create_model(
    name: str,
    *,
    num_classes: int,
    in_planes: int = 2,
    input_size: int | Sequence[int],
    neuron: str | Mapping[str, Any] = "lif",
    norm: str | Mapping[str, Any] = "bn",
    **options: Any,
) -> StepModel:
    """A new network from `MODELS`, `NEURONS` or `ACTIVATIONS` (the ANN twin), and `NORMS`.

    `input_size` is the side of square frames or [H, W]. `neuron` and `norm` are a name, or a
    mapping with a name and its arguments. Further options are the model's own. Weights are drawn
    from torch's global generator: seed it first. They are laid out channels_last, the faster layout
    on CPU and GPU, which the layers then keep. The network's `made_by` are these arguments.

    >>> model = create_model("vgg_snn", num_classes=10, input_size=8, widths=[[4], [8]])
    >>> sum(p.numel() for p in model.parameters())
    714
    """
    kind = choose(MODELS, name, "model")
    check_arguments(kind, options, f"model {name}")
    neuron_name, neuron_options = name_and_options(neuron, "neuron")
    norm_name, norm_options = name_and_options(norm, "norm")
    make_norm = choose(NORMS, norm_name, "norm")
    check_arguments(make_norm, {"channels": 1, **norm_options}, f"norm {norm_name}", complete=True)
    make = Layers(neuron_factory(neuron_name, **neuron_options), partial(make_norm, **norm_options))
    shape = {"num_classes": num_classes, "in_planes": in_planes, "input_size": input_size}
    model = kind(make, **shape, **options)
    model.made_by = {"name": name, **shape, "neuron": neuron, "norm": norm, **options}
    # torch's annotations lack this argument
    return cast(Any, model).to(memory_format=torch.channels_last)

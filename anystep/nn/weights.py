"""Weights on disk (safetensors) with what built their network, and from one network to another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from anystep._errors import UsageError
from anystep._files import write_bytes
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel


def save_model(path: Path | str, model: StepModel) -> None:
    """Write the weights of a network of `create_model` and, as metadata, what it was made of."""
    from safetensors.torch import save

    if getattr(model, "made_by", None) is None:
        what = f"{type(model).__name__} does not know what it was made of (made_by)"
        raise UsageError(f"save_model: {what}: it writes the networks of create_model")
    try:
        made_by = json.dumps(model.made_by)
    except TypeError as error:
        raise UsageError(f"save_model: the network was made with an object: {error}") from error
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    write_bytes(path, save(tensors, metadata={"anystep": made_by}))


def read_model(file: Path) -> StepModel:
    """The network of a file of weights, in eval mode on the CPU."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            made_by = json.loads((stored.metadata() or {}).get("anystep", "null"))
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{file} is truncated or not safetensors ({error})") from error
    if made_by is None:
        raise UsageError(f"{file} does not say how its network is made: anystep did not write it")
    model = create_model(**made_by)
    model.load_state_dict(tensors)
    return model.eval()


def copy_weights(source: Mapping[str, Tensor], model: nn.Module) -> None:
    """Give `model` another network's weights; they may differ in keys of neurons and norms only."""
    own = model.state_dict()
    if any(key.endswith(".clip") and key not in source for key in own):
        raise UsageError("the network has no clips that could become thresholds: use neuron qcfs")
    for key in own.keys() ^ source.keys():
        if not {"neuron", "norm"} & set(key.split(".")):
            raise UsageError(f"the networks differ in {key!r}, no key of a neuron or a norm")
    model.load_state_dict({key: value for key, value in source.items() if key in own}, strict=False)

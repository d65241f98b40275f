"""Weights on disk (safetensors) with what built their network, and from one network to another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from anystep._errors import UsageError
from anystep._files import regular, write_bytes
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


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """In the block no more parameters may be made, so that no one waits for a billion of them."""
    made = itertools.count(1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if next(made) > parameters:
            raise UsageError(f"it has weights for {parameters} parameters at the most")

    watch = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        watch.remove()


def _check_made_by(made_by: object, shapes: Mapping[str, list[int]]) -> None:
    """Refuse arguments of another network than one with weights of these `shapes`.

    It is made without memory, so a small file cannot ask for gigabytes.
    """
    if not isinstance(made_by, dict):
        raise UsageError(f"it does not say how its network is made, but {made_by!r}")
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _at_most(len(shapes)):
        wanted = create_model(**made_by).state_dict()
    for key in sorted(wanted.keys() | shapes.keys()):
        own, needed = shapes.get(key), list(wanted[key].shape) if key in wanted else None
        if own != needed:
            raise UsageError(f"its {key!r} has the shape {own}, its network needs {needed}")


def read_model(file: Path) -> StepModel:
    """The network of a file of weights, in eval mode on the CPU. Error: the path of one without."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(regular(file), framework="pt") as stored:
            names = list(stored.keys())
            made_by = json.loads((stored.metadata() or {}).get("anystep", "null"))
            if made_by is None:
                why = "anystep did not write it"
                raise UsageError(f"{file} does not say how its network is made: {why}")
            _check_made_by(made_by, {name: stored.get_slice(name).get_shape() for name in names})
            tensors = {name: stored.get_tensor(name) for name in names}
    except (SafetensorError, JSONDecodeError) as error:
        raise UsageError(f"{file} is truncated or not safetensors ({error})") from error
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{file} holds no network that anystep can make: {reason}") from error
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

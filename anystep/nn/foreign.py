"""Weights that another library saved: a plain state dict, matched by order and shape.

Names differ from library to library (`features.0.weight`, `feature.0.conv.weight`,
`layer1.0.bn2.running_mean`), the order in which layers are made hardly does. So the n-th
convolution, norm and linear layer of the file becomes the n-th of the network, and shapes must
agree. State dicts of SpikingJelly's and BrainCog's networks are read so, with `module.` of a
parallel wrapper or without. The neurons are the network's own: a state dict does not say how its
neurons decay, fire and reset, so say it to `create_model`, and compare an accuracy.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from anystep._errors import UsageError
from anystep.nn.models.base import StepModel

INSIDE = ("state_dict", "model", "net", "model_state_dict")  # where a checkpoint keeps them
KIND_OF = {4: "convolution", 2: "linear layer", 1: "norm"}  # by the dimensions of the weight
Layer = tuple[str, dict[str, Tensor]]  # its name, and its tensors by the last part of their names


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, in its order. No code in it is run.

    Error: a file that is missing, cut, holds more than tensors and plain values, or no tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file of weights {path}") from error
    except pickle.UnpicklingError as error:
        what = "holds more than tensors and plain values, or is cut: save its state_dict() alone"
        raise UsageError(f"{path} {what}") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UsageError(f"{path} is no file that torch.save wrote, or is cut") from error
    while isinstance(content, Mapping):
        inner = next(
            (content[key] for key in INSIDE if isinstance(content.get(key), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds no state dict, but a {type(content).__name__}")
    tensors = {str(name): each for name, each in content.items() if isinstance(each, Tensor)}
    if not tensors:
        raise UsageError(f"{path} holds no tensors")
    return tensors


def _layers(tensors: Mapping[str, Tensor]) -> dict[str, list[Layer]]:
    """The layers of each kind, in order. A layer that two names share counts once."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        parts.setdefault(layer, {})[part] = tensor
    found: dict[str, list[Layer]] = {kind: [] for kind in KIND_OF.values()}
    seen = set()
    for layer, own in parts.items():
        weight = own.get("weight")
        if weight is None or weight.dim() not in KIND_OF or weight.data_ptr() in seen:
            continue
        seen.add(weight.data_ptr())
        found[KIND_OF[weight.dim()]].append((layer, own))
    return found


def load_foreign(model: StepModel, tensors: Mapping[str, Tensor]) -> StepModel:
    """Give `model` the weights of another library's network of the same architecture; the model.

    tensors   its state dict, in its order (`read_state_dict` reads one)

    Error, by the names on both sides: another number of layers, another shape, a part that one side
    lacks. The model is then as it was.
    """
    own, theirs = _layers(model.state_dict()), _layers(tensors)
    changes: dict[str, Tensor] = {}
    for kind, layers in own.items():
        if len(layers) != len(theirs[kind]):
            counts = f"the network has {len(layers)}, the weights have {len(theirs[kind])}"
            raise UsageError(f"{kind}s differ in number: {counts}")
        for (name, parts), (other, given) in zip(layers, theirs[kind], strict=True):
            for part, tensor in parts.items():
                if part == "num_batches_tracked":
                    continue
                if part not in given:
                    raise UsageError(f"{name!r} has a {part}, {other!r} of the weights has none")
                if tensor.shape != given[part].shape:
                    shapes = f"{tuple(tensor.shape)}, not {tuple(given[part].shape)}"
                    raise UsageError(f"{name}.{part} is {shapes} like {other}.{part}")
                changes[f"{name}.{part}"] = given[part]
            if extra := set(given) - set(parts) - {"num_batches_tracked"}:
                raise UsageError(f"{other!r} of the weights has {sorted(extra)}, {name!r} has not")
    model.load_state_dict(changes, strict=False)
    return model

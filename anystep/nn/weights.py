"""Weights on disk: a model with what built it (safetensors), and the state of a training run."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anystep._errors import UsageError
from anystep._files import atomic_path
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel


def save_model(path: Path, model: nn.Module, *, made_by: Mapping[str, Any]) -> None:
    """Write the weights and, as metadata, the arguments of `create_model` that make the network
    again.

    Error: `OSError` with the path, for a full disk say.
    """
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    _write(path, save(tensors, metadata={"anystep": json.dumps(made_by)}))


def weights_file(path: Path | str) -> Path:
    """The file of weights that a run folder, or the file itself, stands for. It need not exist."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / "model.safetensors"


def load_model(path: Path | str) -> StepModel:
    """The network of a `model.safetensors` or of a run folder, in eval mode on the CPU.

    Errors: a missing, truncated or foreign file, by its path.
    """
    from safetensors import SafetensorError, safe_open

    file = weights_file(path)
    if not file.exists():
        raise UsageError(f"{file} does not exist: {_way_out(file)}")
    try:
        with safe_open(file, framework="pt") as stored:
            made_by = json.loads((stored.metadata() or {}).get("anystep", "null"))
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is not a dict
    except SafetensorError as error:
        raise UsageError(
            f"{file} is truncated or not safetensors ({error}): {_way_out(file)}"
        ) from error
    if made_by is None:
        raise UsageError(
            f"{file} does not say how its network is made: it was not written by anystep"
        )
    model = create_model(**made_by)
    model.load_state_dict(tensors)
    return model.eval()


def _way_out(file: Path) -> str:
    """How the run that wrote `file` writes it once more. It does not train again for that."""
    folder = file.parent
    if not (folder / "config.yaml").exists():
        return "it is not in a run folder that could make it again"
    spoilt = [path.name for path in (file, folder / "scores.json") if path.exists()]
    return f"{'delete ' + ' and '.join(spoilt) + ', then ' if spoilt else ''}go on with: anystep train --resume {folder}"


def copy_weights(source: Mapping[str, Tensor], model: nn.Module) -> None:
    """Give `model` the weights of another phase's network of the same topology.

    Keys that only one of the two has must belong to a neuron or a norm (a learnt time constant, a
    clip); anything else raises.
    """
    own = model.state_dict()
    if any(key.endswith(".clip") and key not in source for key in own):
        raise UsageError(
            "the network to start from has no clips that could become thresholds: train it with neuron qcfs"
        )
    for key in own.keys() ^ source.keys():
        if not {"neuron", "norm"} & set(key.split(".")):
            raise UsageError(
                f"the networks differ in {key!r}, which is neither a neuron's nor a norm's"
            )
    model.load_state_dict({key: value for key, value in source.items() if key in own}, strict=False)


def save_training(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state of tensors and plain Python values, whole or not at all.

    Error: `OSError` with the path, for a full disk say; the state that was there before is then
    still there.
    """
    content = (
        io.BytesIO()
    )  # torch reports a full disk as an internal error of its zip writer; a plain write names it
    torch.save(dict(state), content)
    _write(path, content.getbuffer())


def _write(path: Path, content: bytes | memoryview) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OSError(
            f"could not write {path} ({len(content) / 2**20:.1f} MiB): {error.strerror}"
        ) from error


def load_training(path: Path) -> dict[str, Any]:
    """Read a training state back. A truncated or foreign file raises `ValueError` with the path; no
    code is run.
    """
    content = io.BytesIO(
        path.read_bytes()
    )  # so that what goes wrong below is the content, never the disk
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise UsageError(
            f"{path} is truncated or not a checkpoint: delete it, and --resume starts at the first epoch ({reason})"
        ) from error

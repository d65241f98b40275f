"""One pass over a data set gives every number: step logits are collected once, then scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from anystep._errors import UsageError
from anystep._files import Json
from anystep.data.loader import in_order, load_batches, to_device
from anystep.data.sets import MapStyle, as_dataset
from anystep.evaluation.energy import Operations, firing_rates, operations
from anystep.evaluation.metrics import (
    accuracy_by_step,
    aurc,
    confusion,
    ece,
    per_class_accuracy,
    softmax,
)
from anystep.evaluation.readout import hold, prefix_mean
from anystep.nn.models.base import StepModel


@dataclass(frozen=True)
class Outputs:
    """What a network said about M samples: `logits (T, M, C)`, `labels (M,)`, `features (M', F)` of
    the first M' samples (the time mean of what enters the classifier), firing `rates` of layers. If
    it was asked for, `work`: those rates at each step, and operations (`energy.Operations`).

    `lengths (M,)` is there if the recordings differ in length. T is then that of the longest, and
    the `logits` after the end of a shorter one are the mean of its own (`readout.hold`).
    """

    logits: NDArray
    labels: NDArray
    features: NDArray
    rates: dict[str, float] = field(default_factory=dict)
    lengths: NDArray | None = None
    work: Json = field(default_factory=dict)


@contextmanager
def _judging(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the block; afterwards every part has its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():  # `model.train()` would wake a part that was frozen
            module.training = mode


@contextmanager
def _classifier_inputs(model: nn.Module) -> Iterator[list[NDArray]]:
    """The time mean of what enters `model.classifier`, one array a batch."""
    rows: list[NDArray] = []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(inputs[0].mean(0).float().cpu().numpy())

    with model.get_submodule("classifier").register_forward_pre_hook(keep):
        yield rows


def _in_its_place(parts: list[NDArray], order: Sequence[list[int]]) -> tuple[NDArray, NDArray]:
    """The step logits of all batches in the order of the data set, zeros after the end, lengths."""
    steps, count = max(len(part) for part in parts), sum(len(indices) for indices in order)
    logits = np.zeros((steps, count, parts[0].shape[2]), parts[0].dtype)
    lengths = np.zeros(count, np.int64)
    for indices, part in zip(order, parts, strict=True):
        logits[: len(part), indices] = part
        lengths[indices] = len(part)
    return logits, lengths


def refuse_hidden_state(
    model: nn.Module, dataset: MapStyle, batch: list[int], *, frames: slice
) -> None:
    """Refuse a network of another library that keeps state between calls, or gives no step logits.

    It is shown one batch twice, in eval mode and with the same chance.
    """
    if isinstance(model, StepModel):  # its state is passed: it keeps none
        return
    weight = next(model.parameters())
    x, _ = next(iter(load_batches(dataset, [batch])))
    x = to_device(x[frames], weight.device, weight.dtype)
    devices = [weight.device] if weight.device.type == "cuda" else []
    said, name = [], type(model).__name__
    way_out = "reset it where its forward begins (SpikingJelly: functional.reset_net(self))"
    try:
        with _judging(model), torch.random.fork_rng(devices=devices):
            for _ in range(2):
                torch.manual_seed(0)
                said.append(model(x))
    except RuntimeError as error:  # as of a state with the rows of another batch
        what = f"{name} cannot take frames {tuple(x.shape)}: {error}"
        raise UsageError(f"{what}; if it keeps state between calls, {way_out}") from error
    shape = tuple(getattr(said[0], "shape", ()))
    if len(shape) != 3 or shape[:2] != x.shape[:2]:
        want = f"(T, N, C) = ({x.shape[0]}, {x.shape[1]}, C)"
        raise UsageError(f"{name} must give step logits {want}, got {shape or type(said[0])}")
    if not torch.allclose(said[0], said[1], rtol=1e-3, atol=1e-5, equal_nan=True):
        what = f"{name} says something else when it is shown the same frames a second time"
        raise UsageError(f"{what}: it keeps state between calls; {way_out}")


def collect(
    model: nn.Module,
    dataset: MapStyle,
    *,
    batch_size: int = 128,
    workers: int = 0,
    frames: slice = slice(None),
    features: int = 0,
    work: bool = False,
) -> Outputs:
    """Run `model` once over `dataset` (items `((T, P, H, W), label)`), without gradients.

    Recordings may differ in length if the data set has their `lengths (M,)`: a batch has recordings
    of one length, so each is judged as it is alone. Outputs are in the order of the data set.
    `frames` picks the steps that the network sees; `features` is how many samples' penultimate
    features to keep (the model then needs a `classifier`); `work` counts operations.
    """
    lengths = as_dataset(dataset).lengths
    if len(dataset) == 0:
        raise UsageError("the data set to evaluate is empty")
    if not getattr(model, "causal", True):
        name = type(model).__name__
        raise UsageError(f"{name} looks ahead in time (causal = False): judge it at each t apart")
    order = in_order(len(dataset), batch_size=batch_size, lengths=lengths)
    weight = next(model.parameters())
    refuse_hidden_state(model, dataset, order[0], frames=frames)
    logits: list[NDArray] = []
    labels: list[NDArray] = []
    seen: AbstractContextManager[list[NDArray]] = nullcontext([])
    if features:
        seen = _classifier_inputs(model)
    counting: AbstractContextManager[Operations | None]
    counting = operations(model) if work else nullcontext()
    with _judging(model), firing_rates(model) as rates, counting as counted, seen as inputs:
        for x, y in load_batches(dataset, order, workers=workers):
            if not len(x[frames]):
                span = f"[{frames.start}, {frames.stop}]"
                raise UsageError(f"frames {span} leave a recording of {len(x)} frames without any")
            said = model(to_device(x[frames], weight.device, weight.dtype))
            logits.append(said.float().cpu().numpy())
            labels.append(y.numpy())
    back = np.argsort(np.concatenate(order))
    rows = np.concatenate(inputs)[back][:features] if inputs else np.empty((0, 0), np.float32)
    together, own = _in_its_place(logits, order)
    differ = bool((own != own[0]).any())
    return Outputs(
        hold(together, own) if differ else together,
        np.concatenate(labels)[back],
        rows,
        rates.mean(),
        own if differ else None,
        {"rates": rates.by_step(), **counted.describe()} if counted else {},
    )


def _json_ready(values: NDArray) -> list[float | None]:
    """JSON has no NaN: a class without samples is null."""
    return [None if np.isnan(value) else float(value) for value in values]


def score(outputs: Outputs) -> dict[str, Any]:
    """Every number of a table as plain lists: accuracy in percent, AURC x 1000, ECE from 0 to 1.

    `prefix_*[t-1]` judges the mean of the first t steps, `step_*[t-1]` step t alone (of a recording
    that is over by then, its decision). AURC, ECE, the accuracy of each class and the confusion
    matrices (at t = 1 and t = T) are those of the prefix.
    """
    logits, labels = outputs.logits, outputs.labels
    prefix, classes = prefix_mean(logits), logits.shape[2]
    predicted = prefix.argmax(-1)
    correct = predicted == labels
    probability = softmax(prefix).max(-1)
    steps = range(len(logits))
    return {
        "samples": len(labels),
        "steps": len(logits),
        "prefix_top1": accuracy_by_step(prefix, labels).tolist(),
        "prefix_top5": accuracy_by_step(prefix, labels, k=5).tolist(),
        "step_top1": accuracy_by_step(logits, labels).tolist(),
        "step_top5": accuracy_by_step(logits, labels, k=5).tolist(),
        "aurc_softmax": [1000 * aurc(probability[t], correct[t]) for t in steps],
        "aurc_max_logit": [1000 * aurc(prefix[t].max(-1), correct[t]) for t in steps],
        "ece": [ece(probability[t], correct[t]) for t in steps],
        "per_class_top1": [_json_ready(per_class_accuracy(p, labels, classes)) for p in predicted],
        "confusion": {
            str(t + 1): confusion(predicted[t], labels, classes).tolist()
            for t in {0, len(logits) - 1}
        },
        "rates": outputs.rates,
        **({"work": outputs.work} if outputs.work else {}),
    }

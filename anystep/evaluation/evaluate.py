"""One pass over a data set gives every number: step logits are collected once, then scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from anystep._errors import UsageError
from anystep.data.loader import in_order, load_batches, to_device, unpack
from anystep.evaluation.energy import firing_rates
from anystep.evaluation.masks import step_mean
from anystep.evaluation.metrics import (
    accuracy_by_step,
    aurc,
    confusion,
    ece,
    per_class_accuracy,
    softmax,
)
from anystep.evaluation.readout import hold, prefix_mean


@dataclass(frozen=True)
class Outputs:
    """What a network said about M samples: `logits (T, M, C)`, `labels (M,)`, `features (M', F)` of
    the first M' samples (the time mean of what enters the classifier), and `rates`, the mean firing
    rate of each spiking layer.

    `lengths (M,)`, if recordings differ in length: T is that of the longest, and `logits` after the
    end of a shorter one are the mean of its own (`readout.hold`): its decision stands. Features and
    rates are of real steps alone.
    """

    logits: NDArray
    labels: NDArray
    features: NDArray
    rates: dict[str, float] = field(default_factory=dict)
    lengths: NDArray | None = None


class _Features:
    """The time-mean input of the classifier, kept for the first `limit` samples."""

    def __init__(self, limit: int) -> None:
        self.limit, self.seen = limit, 0
        self.mask: torch.Tensor | None = None
        self.rows: list[NDArray] = []

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if self.seen < self.limit:
            rows = step_mean(inputs[0], self.mask)[: self.limit - self.seen].float().cpu().numpy()
            self.rows.append(rows)
            self.seen += len(rows)


def collect(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int = 128,
    workers: int = 0,
    frames: slice = slice(None),
    features: int = 0,
) -> Outputs:
    """Run `model` over `dataset` (items `((T, P, H, W), label)`) once, in order, in eval mode and
    without gradients.

    `frames` picks the steps the network sees; `features` is how many samples' penultimate features
    to keep (the model then needs a `classifier`). The modes of the model and its parts are put back
    afterwards.

    Errors: an empty data set; a model that says `causal = False`.
    """
    if len(dataset) == 0:
        raise UsageError("the data set to evaluate is empty")
    if not getattr(model, "causal", True):
        what = f"{type(model).__name__} looks ahead in time (causal = False)"
        raise UsageError(
            f"{what}: of its step logits the first t are not what it says after t steps; judge it at each t apart"
        )
    weight = next(model.parameters())
    kept = _Features(features)
    handle = model.get_submodule("classifier").register_forward_pre_hook(kept) if features else None
    modes, labels = {module: module.training for module in model.modules()}, []
    logits: list[NDArray] = []
    lengths: list[NDArray] = []
    model.eval()
    try:
        with torch.inference_mode(), firing_rates(model) as rates:
            for batch in load_batches(
                dataset, in_order(len(dataset), batch_size=batch_size), workers=workers
            ):
                x, y, mask = unpack(batch)
                lengths.append(_lengths_of(x, mask, frames))
                seen = None if mask is None or bool(mask[frames].all()) else mask[frames]
                rates.mask = kept.mask = None if seen is None else seen.to(weight.device)
                logits.append(
                    model(to_device(x[frames], weight.device, weight.dtype)).float().cpu().numpy()
                )
                labels.append(y.numpy())
    finally:
        for (
            module,
            mode,
        ) in modes.items():  # each its own: a part that was frozen in eval mode stays so
            module.training = mode
        if handle is not None:
            handle.remove()
    rows = np.concatenate(kept.rows) if kept.rows else np.empty((0, 0), np.float32)
    said, own = _together(logits, np.concatenate(lengths))
    return Outputs(said, np.concatenate(labels), rows, rates.mean(), own)


def _lengths_of(x: torch.Tensor, mask: torch.Tensor | None, frames: slice) -> NDArray:
    """How many of the steps `frames` each recording of a batch has. Error: one that has none."""
    if mask is None:
        return np.full(x.shape[1], len(x[frames]))
    lengths: NDArray = mask[frames].sum(0).numpy()
    if not lengths.all():
        shortest = int(mask.sum(0).min())
        raise UsageError(
            f"frames [{frames.start}, {frames.stop}] leave a recording of {shortest} frames without any"
        )
    return lengths


def _together(logits: list[NDArray], lengths: NDArray) -> tuple[NDArray, NDArray | None]:
    """The step logits of all batches, held where a recording is over, and the lengths if they
    differ.
    """
    steps = max(len(each) for each in logits)
    if (lengths == steps).all():
        return np.concatenate(logits, axis=1), None
    longer = [np.pad(each, [(0, steps - len(each)), (0, 0), (0, 0)]) for each in logits]
    return hold(np.concatenate(longer, axis=1), lengths), lengths


def score(outputs: Outputs) -> dict[str, Any]:
    """Every number of a table, as plain lists: accuracies in percent, AURC times 1000, ECE as a
    fraction.

    `prefix_*[t-1]` judges the mean of the first t steps, `step_*[t-1]` step t alone, or the
    decision of a recording that is over by then. Confidence-based scores, per-class accuracy and
    the confusion matrices (at t = 1 and t = T) are those of the prefix prediction.
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
        "per_class_top1": [
            _json_ready(per_class_accuracy(p, labels, classes=classes)) for p in predicted
        ],
        "confusion": {
            str(t + 1): confusion(predicted[t], labels, classes=classes).tolist()
            for t in {0, len(logits) - 1}
        },
        "rates": outputs.rates,
    }


def _json_ready(values: NDArray) -> list[float | None]:
    """JSON has no NaN: a class without samples is null."""
    return [None if np.isnan(value) else float(value) for value in values]

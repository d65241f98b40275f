"""When a sample may leave early: chosen on validation, judged on test."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anystep._errors import UsageError
from anystep._files import Json
from anystep.deploy.network import milliseconds
from anystep.evaluation.exits import ExitRule, certainties, exit_steps, frontier
from anystep.nn.models.base import StepModel

Judged = tuple[NDArray[Any], NDArray[Any]]  # step logits (T, N, C) and labels (N,)
BATCH = 64


def judge(judged: Judged, rule: ExitRule) -> dict[str, float]:
    """Accuracy in percent, and mean, median and 95th percentile of the steps that a rule takes."""
    logits, labels = judged
    taken = exit_steps(certainties(logits, score=rule.score, reads=rule.reads), rule.threshold)
    said = logits.cumsum(0, dtype=np.float64)[taken - 1, np.arange(len(labels))].argmax(-1)
    return {
        "accuracy": float(100 * (said == labels).mean()),
        "mean_t": float(taken.mean()),
        "p50_t": float(np.percentile(taken, 50)),
        "p95_t": float(np.percentile(taken, 95)),
    }


def calibrate_exit(
    network: StepModel,
    *,
    validation: Judged,
    test: Judged,
    frames: Tensor,
    score: str = "confidence",
    reads: str = "mean",
    accuracy: float | None = None,
    mean_t: float | None = None,
) -> Json:
    """The rule that meets a target on validation, and what it does on test.

    accuracy   percent: of the thresholds that reach it, the one with the smallest mean T
    mean_t     steps: of the thresholds within it, the most accurate one
    frames     (T, N, P, H, W) of test samples on which milliseconds are measured

    Returns the rule, the test's accuracy, steps and milliseconds a sample with it and without, and
    the frontier of the test: what every threshold would have bought. Error: a target that no
    threshold meets.
    """
    found = frontier(*validation, score=score, reads=reads)
    if accuracy is not None:
        chosen = found.cheapest(accuracy)
    elif mean_t is not None:
        chosen = found.best_within(mean_t)
    else:
        raise UsageError("calibrate: name a target, accuracy or mean_t")
    rule = ExitRule(score=score, reads=reads, threshold=float(found.thresholds[chosen]))
    never = ExitRule(score=score, reads=reads, threshold=2.0)
    batches = list(frames.split(BATCH, dim=1))
    early_ms, all_ms = milliseconds(network, batches, [rule, never])
    curve = frontier(*test, score=score, reads=reads, points=64)
    return {
        "rule": rule.describe(),
        "early exit": {**judge(test, rule), "ms": early_ms},
        "all steps": {**judge(test, never), "ms": all_ms},
        "frontier": {name: np.round(values, 4).tolist() for name, values in vars(curve).items()},
    }

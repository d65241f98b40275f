"""How good step logits are: accuracy by step, calibration, selective risk, confusion. Plain numpy.

Metrics of a confidence take `confidence (N,)` and `correct (N,) bool`: the largest softmax value
and the largest logit (TKS's own choice) can both be the confidence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean_and_sd(values: ArrayLike) -> tuple[NDArray, NDArray]:
    """Mean and sample standard deviation (ddof = 1) of the finite values along the first axis.

    (S, ...) -> mean (...), sd (...). The sd of fewer than two is NaN, and so is the mean of none.

    >>> mean, sd = mean_and_sd([[1.0, 5.0], [3.0, float("nan")]])
    >>> mean.tolist(), sd.round(4).tolist()
    ([2.0, 5.0], [1.4142, nan])
    """
    masked = np.ma.masked_invalid(np.asarray(values, dtype=np.float64))
    sd = masked.std(axis=0, ddof=1)
    return np.ma.filled(masked.mean(axis=0), np.nan), np.ma.filled(sd, np.nan)


def _ranking(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray, NDArray]:
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        found = f"{confidence.shape} and {correct.shape}"
        raise ValueError(f"confidence and correct must be (N,) with N >= 1, got {found}")
    return confidence, correct


def _check_classes(name: str, values: NDArray, classes: int) -> None:
    outside = values[(values < 0) | (values >= classes)]
    if len(outside):
        raise ValueError(f"{name} must be in 0..{classes - 1}, got {outside[0]}")


def softmax(logits: ArrayLike) -> NDArray:
    """Softmax over the last axis, in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def accuracy_by_step(logits: ArrayLike, labels: ArrayLike, *, k: int = 1) -> NDArray:
    """Top-k accuracy in percent at each step: `logits (T, N, C)`, `labels (N,) -> (T,)`.

    A tie goes to the lower class. Of `prefix_mean(logits)` it is the accuracy of every prefix.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
        found = f"shapes {logits.shape} and {labels.shape}"
        raise ValueError(f"logits must be (T, N, C) and labels (N,), got {found}")
    if np.isnan(logits).any():
        raise ValueError("logits hold NaN: such a network has no accuracy")
    _check_classes("labels", labels, logits.shape[2])
    own = np.take_along_axis(logits, labels[None, :, None], axis=-1)
    lower_index = np.arange(logits.shape[-1]) < labels[:, None]
    ahead = (logits > own).sum(axis=-1) + ((logits == own) & lower_index).sum(axis=-1)
    return 100.0 * (ahead < k).mean(axis=1)


def confusion(predicted: ArrayLike, labels: ArrayLike, classes: int) -> NDArray:
    """Counts `(C, C)`: row = true class, column = predicted class."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    for name, values in {"predicted": predicted, "labels": labels}.items():
        _check_classes(name, values, classes)
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes)


def per_class_accuracy(predicted: ArrayLike, labels: ArrayLike, classes: int) -> NDArray:
    """Percent of each class predicted right, `(C,)`; NaN for a class without samples."""
    table = confusion(predicted, labels, classes=classes)
    count = table.sum(axis=1)
    return 100.0 * np.divide(table.diagonal(), count, out=np.full(classes, np.nan), where=count > 0)


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> NDArray:
    """risk(k) = errors among the k most confident / k, for k = 1..N: `(N,)`. The sort is stable."""
    confidence, correct = _ranking(confidence, correct)
    wrong = ~correct[np.argsort(-confidence, kind="stable")]
    return np.cumsum(wrong) / np.arange(1, len(wrong) + 1)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean of risk(k) over k. Geifman et al. 2018."""
    return float(risk_coverage(confidence, correct).mean())


def ece(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width. Guo et al. 2017.

        sum_b (n_b / N) |accuracy_b - confidence_b|

    `confidence` must be probabilities. Bin b holds confidences in [b/bins, (b+1)/bins), and a
    confidence of exactly 1 has a bin of its own, as in torchmetrics 1.9. Version 0.10.3, which TKS
    used, has (b/bins, (b+1)/bins]: another number only where a confidence lies on an edge.
    """
    confidence, correct = _ranking(confidence, correct)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("ece: confidence must be in [0, 1]: pass a softmax, not logits")
    index = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right")
    gap = np.bincount(index, weights=correct - confidence)
    return float(np.abs(gap).sum() / len(confidence))

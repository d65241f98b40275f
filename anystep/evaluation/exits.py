"""Early exit: after which step a sample is sure enough to leave. Plain numpy, so that a runtime
without torch shares these lines.

How sure a network is after t steps is read from the sum of its step logits so far, S_t, or from
their mean m_t = S_t / t, by one of three scores of p = softmax(S_t) or softmax(m_t), in [0, 1]:

    confidence   max_c p_c
    entropy      1 + sum_c p_c log p_c / log C
    margin       p of the likeliest class minus p of the second

A sample leaves at the first t whose score reaches the threshold, and at T whatever its score is.
DT-SNN (Li et al. 2023) uses the entropy, SEENN (Li et al. 2023) the confidence; both sum the
logits, which makes p sharper with every step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.evaluation.metrics import softmax

Floats = NDArray[np.floating]


def _confidence(p: Floats) -> Floats:
    return p.max(-1)


def _entropy(p: Floats) -> Floats:
    spread = -(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny))).sum(-1)
    return 1 - spread / np.log(p.shape[-1])


def _margin(p: Floats) -> Floats:
    ordered = np.sort(p, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


SCORES = {"confidence": _confidence, "entropy": _entropy, "margin": _margin}
READS = ("mean", "sum")


@dataclass(frozen=True, kw_only=True)
class ExitRule:
    """When a sample leaves.

    Args:
        score: a row of SCORES.
        reads: "mean" or "sum", of the step logits so far.
        threshold: leave once the score is at least this; above 1 nothing leaves before T.
    """

    score: str = "confidence"
    reads: str = "mean"
    threshold: float = 0.9

    def __post_init__(self) -> None:
        choose(SCORES, self.score, "score")
        choose(dict.fromkeys(READS), self.reads, "reading")
        if not self.threshold >= 0:
            raise UsageError(f"ExitRule: threshold must be >= 0, got {self.threshold}")

    def certainty(self, total: ArrayLike, steps: ArrayLike) -> Floats:
        """The score of samples whose step logits sum to `total (N, C)` after `steps (N,)` steps."""
        logits = np.asarray(total, dtype=np.float64)
        if self.reads == "mean":
            logits = logits / np.asarray(steps)[..., None]
        return SCORES[self.score](softmax(logits))

    def describe(self) -> dict[str, str | float]:
        """The rule as plain values, for a record."""
        return asdict(self)


def certainties(logits: ArrayLike, *, score: str = "confidence", reads: str = "mean") -> Floats:
    """The score of every sample after every step: step logits (T, N, C) -> (T, N)."""
    steps = np.asarray(logits, dtype=np.float64)
    if steps.ndim != 3 or steps.shape[2] < 2:
        raise ValueError(f"certainties: logits must be (T, N, C) with C >= 2, got {steps.shape}")
    rule = ExitRule(score=score, reads=reads)
    totals = steps.cumsum(0)
    return np.stack([rule.certainty(total, t + 1.0) for t, total in enumerate(totals)])


def exit_steps(certainty: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """The step 1..T at which each sample leaves: certainty (T, N) -> (N,).

    >>> exit_steps([[0.2, 0.9], [0.7, 0.1], [0.1, 0.1]], 0.6).tolist()
    [2, 1]
    """
    sure = np.asarray(certainty) >= threshold
    sure[-1] = True
    return sure.argmax(0) + 1


@dataclass(frozen=True)
class Frontier:
    """What every threshold buys, from never waiting to never leaving early: each (K,).

    thresholds   rising
    accuracy     of the decisions at the exit, percent
    mean_t, p50_t, p95_t   the steps taken
    """

    thresholds: Floats
    accuracy: Floats
    mean_t: Floats
    p50_t: Floats
    p95_t: Floats

    def cheapest(self, accuracy: float) -> int:
        """The smallest threshold with at least this accuracy. Error: none has it."""
        enough = np.flatnonzero(self.accuracy >= accuracy)
        if not len(enough):
            best = self.accuracy.max()
            raise UsageError(f"no threshold reaches {accuracy:.2f} %: the best has {best:.2f} %")
        return int(enough[np.argmin(self.mean_t[enough])])

    def best_within(self, mean_t: float) -> int:
        """The most accurate threshold whose mean T is at most this. Error: none."""
        within = np.flatnonzero(self.mean_t <= mean_t)
        if not len(within):
            raise UsageError(
                f"no threshold has a mean T of {mean_t}: a sample takes 1 step at least"
            )
        return int(within[np.argmax(self.accuracy[within])])


def frontier(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    score: str = "confidence",
    reads: str = "mean",
    points: int = 512,
) -> Frontier:
    """Accuracy and steps taken at each of at most `points` thresholds.

    logits (T, N, C), labels (N,). The thresholds are scores that occur, evenly spread over the
    samples and steps, so the frontier has no gap that data could fill; the last one, above 1, keeps
    everything to T.
    """
    certainty = certainties(logits, score=score, reads=reads)
    decided = np.asarray(logits).cumsum(0).argmax(-1) == np.asarray(labels)
    occurring = np.unique(certainty)
    picked = np.unique(np.linspace(0, len(occurring) - 1, points - 1).round().astype(int))
    thresholds = np.append(occurring[picked], 2.0)
    samples = np.arange(decided.shape[1])
    taken = np.stack([exit_steps(certainty, threshold) for threshold in thresholds])
    return Frontier(
        thresholds,
        100 * decided[taken - 1, samples].mean(1),
        taken.mean(1),
        np.percentile(taken, 50, axis=1),
        np.percentile(taken, 95, axis=1),
    )

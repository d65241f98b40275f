"""Slow reference versions of the losses and metrics, one loop a sum, in double precision.

They are written from the papers' equations and import nothing of the package: when a test compares
the two, two separate readings of one equation have to agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def softmax(row: Sequence[float]) -> list[float]:
    """softmax of one row of scores."""
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    total = sum(weights)
    return [weight / total for weight in weights]


def log_softmax(row: Sequence[float]) -> list[float]:
    """log softmax of one row of scores."""
    top = max(row)
    log_total = math.log(sum(math.exp(value - top) for value in row))
    return [value - top - log_total for value in row]


def argmax(row: Sequence[float]) -> int:
    """The index of the largest score; of equal ones the lowest index."""
    return list(row).index(max(row))


def cross_entropy(target: Sequence[float], row: Sequence[float]) -> float:
    """- sum_c target_c log softmax(row)_c."""
    log_p = log_softmax(row)
    return -sum(target[c] * log_p[c] for c in range(len(row)))


def one_hot(label: int, classes: int) -> list[float]:
    return [1.0 if c == label else 0.0 for c in range(classes)]


def time_mean(logits: np.ndarray, n: int) -> list[float]:
    """obar of sample n: its logits averaged over the steps."""
    steps, _, classes = logits.shape
    return [sum(float(logits[t, n, c]) for t in range(steps)) / steps for c in range(classes)]


def smoothed_ce(logits: np.ndarray, labels: np.ndarray, *, epsilon: float = 0.0) -> float:
    """mean_n CE((1 - epsilon) onehot + epsilon / C, softmax(obar_n)); epsilon 0: the plain CE."""
    _, samples, classes = logits.shape
    total = 0.0
    for n in range(samples):
        hard = one_hot(int(labels[n]), classes)
        target = [(1.0 - epsilon) * value + epsilon / classes for value in hard]
        total += cross_entropy(target, time_mean(logits, n))
    return total / samples


def tet(logits: np.ndarray, labels: np.ndarray, *, lamb: float = 1e-3, phi: float = 1.0) -> float:
    """(1 - lamb) mean_t mean_n CE(o_t, y) + lamb mean_{t,n,c} (o_t - phi)^2."""
    steps, samples, classes = logits.shape
    hard = spread = 0.0
    for t in range(steps):
        for n in range(samples):
            row = [float(value) for value in logits[t, n]]
            hard += cross_entropy(one_hot(int(labels[n]), classes), row)
            spread += sum((value - phi) ** 2 for value in row)
    return (1.0 - lamb) * hard / (steps * samples) + lamb * spread / (steps * samples * classes)


def correct_steps(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """m (T, N): whether step t puts sample n's own class first."""
    steps, samples, _ = logits.shape
    return np.array(
        [[argmax(logits[t, n]) == labels[n] for n in range(samples)] for t in range(steps)]
    )


def tks_teacher(
    logits: np.ndarray, labels: np.ndarray, *, temperature: float, pool: str = "sum_correct"
) -> np.ndarray:
    """q (N, C) = softmax(z / temperature), z the steps of a sample pooled as `pool` says."""
    steps, samples, classes = logits.shape
    right = correct_steps(logits, labels)
    teacher = np.zeros((samples, classes))
    for n in range(samples):
        used = [t for t in range(steps) if pool == "mean_all" or right[t, n]]
        divisor = 1 if pool == "sum_correct" else max(len(used), 1)
        pooled = [sum(float(logits[t, n, c]) for t in used) / divisor for c in range(classes)]
        teacher[n] = softmax([value / temperature for value in pooled])
    return teacher


def tks_soft(
    logits: np.ndarray,
    teacher: np.ndarray,
    *,
    temperature: float,
    square: bool = True,
    taught: Sequence[bool] | None = None,
) -> float:
    """temperature^2 mean_t mean_n CE(q_n, softmax(o_tn)): the student has no temperature."""
    steps, samples, _ = logits.shape
    total = 0.0
    for t in range(steps):
        for n in range(samples):
            if taught is None or taught[n]:
                total += cross_entropy(teacher[n], logits[t, n])
    return (temperature**2 if square else 1) * total / (steps * samples)


def tks(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    alpha: float,
    temperature: float,
    pool: str = "sum_correct",
    teacher: np.ndarray | None = None,
    empty: str = "uniform",
    square: bool = True,
) -> float:
    """(1 - alpha) CE(obar, y) + alpha L_soft; a given `teacher` is fixed, as a detached one is."""
    if teacher is None:
        teacher = tks_teacher(logits, labels, temperature=temperature, pool=pool)
    right = correct_steps(logits, labels)
    taught = [any(right[:, n]) for n in range(len(labels))] if empty == "skip" else None
    soft = tks_soft(logits, teacher, temperature=temperature, square=square, taught=taught)
    return (1.0 - alpha) * smoothed_ce(logits, labels) + alpha * soft


def tks_soft_gradient(
    logits: np.ndarray, labels: np.ndarray, *, temperature: float, detach: bool
) -> np.ndarray:
    """dL_soft/do_t of the sum-of-correct-steps teacher, divided by N: L_soft is a mean over N.

    (temperature^2 / T) (p_t - q) + m_t (temperature / T) sum_s q (h_s - <h_s>_q),  h_s = -log p_s
    and only the first term when the teacher is detached.
    """
    steps, samples, classes = logits.shape
    right = correct_steps(logits, labels)
    teacher = tks_teacher(logits, labels, temperature=temperature)
    gradient = np.zeros(logits.shape)
    for n in range(samples):
        q = teacher[n]
        through = [0.0] * classes
        for s in range(steps):
            cost = [-value for value in log_softmax(logits[s, n])]
            mean_cost = sum(q[c] * cost[c] for c in range(classes))
            for c in range(classes):
                through[c] += temperature / steps * q[c] * (cost[c] - mean_cost)
        for t in range(steps):
            p = softmax(logits[t, n])
            for c in range(classes):
                slope = temperature**2 / steps * (p[c] - q[c])
                slope += through[c] if right[t, n] and not detach else 0.0
                gradient[t, n, c] = slope / samples
    return gradient


def central_differences(
    function: Callable[[np.ndarray], float], point: np.ndarray, *, width: float = 1e-5
) -> np.ndarray:
    """The gradient of a scalar function, one entry of `point` moved at a time; error ~ width^2."""
    gradient = np.zeros(point.shape)
    for index in np.ndindex(point.shape):
        ahead, behind = point.copy(), point.copy()
        ahead[index] += width
        behind[index] -= width
        gradient[index] = (function(ahead) - function(behind)) / (2.0 * width)
    return gradient


def prefix_mean(logits: np.ndarray) -> np.ndarray:
    """(T, N, C): entry t - 1 is the mean of the first t steps."""
    means = np.zeros(logits.shape)
    for t in range(logits.shape[0]):
        for earlier in range(t + 1):
            means[t] += logits[earlier].astype(float) / (t + 1)
    return means


def accuracy_by_step(logits: np.ndarray, labels: np.ndarray, *, k: int = 1) -> np.ndarray:
    """Top-k percent of every step; of equal scores the lower class ranks ahead."""
    steps, samples, classes = logits.shape
    percent = np.zeros(steps)
    for t in range(steps):
        hits = 0
        for n in range(samples):
            y = int(labels[n])
            row = logits[t, n]
            ahead = [c for c in range(classes) if row[c] > row[y] or (row[c] == row[y] and c < y)]
            hits += len(ahead) < k
        percent[t] = 100.0 * hits / samples
    return percent


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """risk(k) = errors among the k most confident, over k; equal confidences keep their order."""
    order = sorted(range(len(confidence)), key=lambda n: -float(confidence[n]))
    risk, errors = [], 0
    for k, n in enumerate(order, start=1):
        errors += not correct[n]
        risk.append(errors / k)
    return np.array(risk)


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The mean of risk(k) over k = 1..N."""
    return sum(risk_coverage(confidence, correct)) / len(confidence)


def ece(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 15) -> float:
    """sum_b (n_b / N) |acc_b - conf_b|; a bin owns its lower edge, so 1.0 has one of its own."""
    samples = len(confidence)
    edges = [b / bins for b in range(bins + 1)]
    total = 0.0
    for b in range(bins + 1):
        upper = edges[b + 1] if b < bins else math.inf
        members = [n for n in range(samples) if edges[b] <= confidence[n] < upper]
        if members:
            accuracy = sum(1 for n in members if correct[n]) / len(members)
            mean_confidence = sum(float(confidence[n]) for n in members) / len(members)
            total += len(members) / samples * abs(accuracy - mean_confidence)
    return total


def confusion(predicted: np.ndarray, labels: np.ndarray, *, classes: int) -> np.ndarray:
    """(C, C) counts: row = truth, column = prediction."""
    counts = np.zeros((classes, classes), dtype=int)
    for guess, truth in zip(predicted, labels, strict=True):
        counts[truth, guess] += 1
    return counts


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray, *, classes: int) -> np.ndarray:
    """Percent right of each class's own samples; NaN where it has none."""
    percent = np.full(classes, math.nan)
    for c in range(classes):
        own = [guess == c for guess, truth in zip(predicted, labels, strict=True) if truth == c]
        if own:
            percent[c] = 100.0 * sum(own) / len(own)
    return percent

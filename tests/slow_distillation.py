"""Slow reference versions of the distillation losses, after the rules of `oracles.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from oracles import argmax, cross_entropy, log_softmax, one_hot, softmax, time_mean


def softened(row: Sequence[float], temperature: float) -> list[float]:
    return [float(value) / temperature for value in row]


def kl(teacher: Sequence[float], student: Sequence[float], temperature: float = 1.0) -> float:
    """KL between the softmax of two rows of logits, both over the temperature."""
    p, log_p = softmax(softened(teacher, temperature)), log_softmax(softened(teacher, temperature))
    log_q = log_softmax(softened(student, temperature))
    return sum(p[c] * (log_p[c] - log_q[c]) for c in range(len(p)))


def divisor(logits: np.ndarray, reduction: str) -> int:
    """What the sum over samples and classes is divided by."""
    _, samples, classes = logits.shape
    return {"mean": samples * classes, "batchmean": samples}[reduction]


def skd(
    logits: np.ndarray, teacher: np.ndarray, *, temperature: float = 10.0, reduction: str = "mean"
) -> float:
    steps, samples, _ = logits.shape
    total = 0.0
    for t in range(steps):
        for n in range(samples):
            total += kl(teacher[n], logits[t, n], temperature)
    return temperature**2 * total / steps / divisor(logits, reduction)


def kd(
    logits: np.ndarray, teacher: np.ndarray, *, temperature: float = 10.0, reduction: str = "mean"
) -> float:
    total = 0.0
    for n in range(logits.shape[1]):
        total += kl(teacher[n], time_mean(logits, n), temperature)
    return temperature**2 * total / divisor(logits, reduction)


def own_teacher(
    logits: np.ndarray, labels: np.ndarray, n: int, *, only_right: bool = True
) -> list[float]:
    """The mean of the steps of sample n that are right (or of all), zero if there is none."""
    steps, _, classes = logits.shape
    chosen = [t for t in range(steps) if not only_right or argmax(logits[t, n]) == labels[n]]
    return [
        sum(float(logits[t, n, c]) for t in chosen) / max(len(chosen), 1) for c in range(classes)
    ]


def full_range(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    beta: float = 0.5,
    temperature: float = 3.0,
    only_right: bool = True,
    teacher: Sequence[Sequence[float]] | None = None,
) -> float:
    """`teacher` fixes the rows that the steps are pulled to; otherwise they are the steps' own."""
    steps, samples, classes = logits.shape
    total = 0.0
    for n in range(samples):
        own = own_teacher(logits, labels, n, only_right=only_right)
        own = own if teacher is None else teacher[n]
        for t in range(steps):
            total += cross_entropy(one_hot(labels[n], classes), logits[t, n])
            total += beta * temperature**2 * kl(own, logits[t, n], temperature)
    return total / (steps * samples)


def strong_and_weak(logits: np.ndarray) -> tuple[int, int]:
    """The steps of the largest and the smallest mean confidence, the earliest of equals."""
    steps, samples, _ = logits.shape
    sure = [[max(softmax(logits[t, n])) for n in range(samples)] for t in range(steps)]
    confidence = [math.fsum(row) / samples for row in sure]
    return argmax(confidence), argmax([-value for value in confidence])


def strong_weak(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    weight: float = 1.0,
    temperature: float = 2.0,
    direction: str = "s2w",
    teacher: np.ndarray | None = None,
) -> float:
    """`teacher` (N, C) fixes the rows that teach; otherwise they are those of the teaching step."""
    _, samples, classes = logits.shape
    strong, weak = strong_and_weak(logits)
    first, second = (strong, weak) if direction == "s2w" else (weak, strong)
    teacher = logits[first] if teacher is None else teacher
    total = 0.0
    for n in range(samples):
        total += cross_entropy(one_hot(labels[n], classes), time_mean(logits, n))
        total += weight * kl(teacher[n], logits[second, n], temperature)
    return total / samples


def tks_soft(logits: np.ndarray, teacher: np.ndarray, *, temperature: float) -> float:
    """The soft part of TKS as a KL divergence; `teacher` (N, C) are probabilities."""
    steps, samples, classes = logits.shape
    total = 0.0
    for t in range(steps):
        for n in range(samples):
            log_p = log_softmax(softened(logits[t, n], temperature))
            for c in range(classes):
                if teacher[n, c] > 0:
                    total += teacher[n, c] * (math.log(teacher[n, c]) - log_p[c])
    return temperature**2 * total / (steps * samples)

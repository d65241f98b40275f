"""Step logits -> decisions, of numpy and torch alike: a runtime has these lines without torch."""

from __future__ import annotations

from typing import Any


def prefix_mean(logits: Any) -> Any:
    """The mean of the first t steps for every t: `(T, N, C) -> (T, N, C)`, the same kind of array.

        out_t = (1/t) sum_{s<=t} o_s

    Row t is what a network says that stops after t steps; the last row is the usual time mean.

    >>> import numpy as np
    >>> prefix_mean(np.array([[[1.0, 0.0]], [[0.0, 0.0]]]))[:, 0, 0].tolist()
    [1.0, 0.5]
    """
    if logits.ndim != 3:
        raise ValueError(f"prefix_mean: logits must be (T, N, C), got shape {tuple(logits.shape)}")
    total = logits.cumsum(0)
    for t in range(logits.shape[0]):
        total[t] /= t + 1
    return total


def hold(logits: Any, lengths: Any) -> Any:
    """After its end a recording has the mean of its own steps: `(T, N, C)`, `lengths (N,)`.

    So its decision stands: the `prefix_mean` of the result is the mean over the first
    min(t, length) steps, up to rounding, and a report or an early exit need not know the lengths.
    """
    steps, count, _ = logits.shape
    found = [int(length) for length in lengths]
    if len(found) != count or not all(1 <= length <= steps for length in found):
        raise ValueError(f"lengths must be {count} whole numbers in 1..{steps}, got {found}")
    held = logits * 1  # a copy, of numpy and torch alike
    for n, length in enumerate(found):
        held[length:, n] = held[:length, n].mean(0)
    return held

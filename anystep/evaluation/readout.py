"""Step logits -> decisions, of numpy and torch alike: a runtime has these lines without torch."""

from __future__ import annotations

from typing import Any


def prefix_mean(logits: Any) -> Any:
    """The mean of the first t steps for every t: `(T, N, C) -> (T, N, C)`, same kind of array out
    as in.

        out_t = (1/t) sum_{s<=t} o_s

    Row t is the prediction of a network that stops after t steps; the last row is the usual time
    mean.

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
    """Step logits `(T, N, C)` of recordings of `lengths (N,)` steps: after its end a recording has
    the mean of its own steps.

    So after its end its decision stands: the `prefix_mean` of the result is the mean over the first
    min(t, length) steps, up to rounding, and a report or an early exit need not know the lengths.
    """
    found = [int(length) for length in lengths]
    if len(found) != logits.shape[1] or not all(1 <= length <= logits.shape[0] for length in found):
        raise ValueError(
            f"lengths must be {logits.shape[1]} whole numbers in 1..{logits.shape[0]}, got {found}"
        )
    held = logits * 1  # a copy, of numpy and torch alike
    for n, length in enumerate(found):
        held[length:, n] = held[:length, n].mean(0)
    return held

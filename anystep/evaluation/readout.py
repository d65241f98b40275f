"""Step logits -> decisions. Array-agnostic: numpy and torch alike, so that a runtime without torch
shares these lines.
"""

from __future__ import annotations

from typing import Any


def prefix_mean(logits: Any, lengths: Any = None) -> Any:
    """The mean of the first t steps for every t: `(T, N, C) -> (T, N, C)`, same kind of array out
    as in.

        out_t = (1/t) sum_{s<=t} o_s

    Row t is the prediction of a network that stops after t steps; the last row is the usual time
    mean. `lengths (N,)`: a recording of l steps has the mean over its first min(t, l), so that
    after its end its decision stands.

    >>> import numpy as np
    >>> prefix_mean(np.array([[[1.0, 0.0]], [[0.0, 0.0]]]))[:, 0, 0].tolist()
    [1.0, 0.5]
    """
    if logits.ndim != 3:
        raise ValueError(f"prefix_mean: logits must be (T, N, C), got shape {tuple(logits.shape)}")
    total = logits.cumsum(0)
    for t in range(logits.shape[0]):
        total[t] /= t + 1
    for n, length in enumerate([] if lengths is None else _checked(lengths, logits)):
        total[length:, n] = total[length - 1, n]
    return total


def hold(logits: Any, lengths: Any) -> Any:
    """Step logits `(T, N, C)` whose steps after the end of a recording of `lengths (N,)` steps are
    the mean over its own.

    Their plain `prefix_mean` is then that of `prefix_mean(logits, lengths)`, up to rounding: who
    reads them, a report or an early exit, need not know the lengths.
    """
    held = logits * 1  # a copy, of numpy and torch alike
    for n, length in enumerate(_checked(lengths, logits)):
        held[length:, n] = held[:length, n].mean(0)
    return held


def _checked(lengths: Any, logits: Any) -> list[int]:
    found = [int(length) for length in lengths]
    if logits.ndim != 3:
        raise ValueError(f"hold: logits must be (T, N, C), got shape {tuple(logits.shape)}")
    if len(found) != logits.shape[1] or not all(1 <= length <= logits.shape[0] for length in found):
        raise ValueError(
            f"lengths must be {logits.shape[1]} whole numbers in 1..{logits.shape[0]}, got {found}"
        )
    return found

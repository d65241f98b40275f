"""Step logits -> decisions. Array-agnostic: numpy and torch alike, so that a runtime without torch shares these lines."""

from __future__ import annotations

from typing import Any


def prefix_mean(logits: Any) -> Any:
    """The mean of the first t steps for every t: `(T, N, C) -> (T, N, C)`, same kind of array out as in.

        out_t = (1/t) sum_{s<=t} o_s

    Row t is the prediction of a network that stops after t steps; the last row is the usual time mean.

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

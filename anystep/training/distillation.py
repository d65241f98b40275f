"""Distillation: functions of step logits `(T, N, C)` and another network's logits `(N, C)`.

To add one: a function here and a row in `DISTILLATIONS`; its contract suite then tests it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import choose


def check_logits(logits: Tensor) -> None:
    """Refuse logits that are not `(T, N, C)`."""
    if logits.dim() != 3:
        raise ValueError(f"logits must be step logits (T, N, C), got shape {tuple(logits.shape)}")


def check_temperature(temperature: float) -> None:
    """Refuse a softmax temperature that is not positive."""
    if not 0 < temperature < float("inf"):
        raise UsageError(f"temperature must be > 0 and finite, got {temperature}")


def check_teacher(logits: Tensor, teacher: Tensor) -> None:
    """Refuse a teacher that is not `(N, C)`: one that would broadcast is a mistake."""
    if teacher.shape != logits.shape[1:]:
        wanted = f"(N, C) = {tuple(logits.shape[1:])}"
        raise ValueError(f"the teacher must be {wanted}, got {tuple(teacher.shape)}")


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda terms: terms.mean(),
    "batchmean": lambda terms: terms.sum(-1).mean(),
}


def kl_terms(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """The terms p (log p - log q) whose sum over C is KL(p || q); p and q are the softmax of logits
    (..., C) over the temperature.
    """
    target = F.log_softmax(teacher / temperature, dim=-1)
    return target.exp() * (target - F.log_softmax(student / temperature, dim=-1))


def skd(
    logits: Tensor, teacher: Tensor, *, temperature: float = 10.0, reduction: str = "mean"
) -> Tensor:
    r"""Step-wise distillation: every step learns from the teacher.

        temperature^2 (1/T) sum_t KL(softmax(z / temperature) || softmax(o_t / temperature))

    logits (T, N, C), teacher (N, C) logits -> scalar. Mean over T; over N and C as in PyTorch's
    `KLDivLoss`: `"mean"` divides by N C, as HSD's released code does, `"batchmean"` sums over C and
    divides by N, which is C times as much. The teacher z gets no gradient.

    HSD, arXiv 2409.12507: its loss is `ce` plus this. Its code has two trainers: `train_snn2`
    (CIFAR10-DVS by the folder of its weights) has temperature 10 and is called by nothing,
    `train_snn_step` (N-Caltech101) has 2 and is called.
    """
    check_logits(logits)
    check_teacher(logits, teacher)
    check_temperature(temperature)
    reduce = choose(REDUCTIONS, reduction, "reduction")
    return temperature**2 * reduce(kl_terms(teacher.detach(), logits, temperature))


def kd(
    logits: Tensor, teacher: Tensor, *, temperature: float = 10.0, reduction: str = "mean"
) -> Tensor:
    r"""Distillation into the time mean, the ablation of `skd`.

        temperature^2 KL(softmax(z / temperature) || softmax(obar / temperature))
        obar = (1/T) sum_t o_t

    logits (T, N, C), teacher (N, C) logits -> scalar. Mean over T inside the softmax; N and C as in
    `skd`, which is never smaller. The teacher z gets no gradient.

    Hinton et al. 2015; in HSD (arXiv 2409.12507) beside `skd`. The default temperature is that of
    `skd`, so that the two differ in one thing.
    """
    check_logits(logits)
    mean = logits.mean(0, keepdim=True)
    return skd(mean, teacher, temperature=temperature, reduction=reduction)


DISTILLATIONS: dict[str, Callable[..., Tensor]] = {
    "kd": kd,
    "skd": skd,
}

"""Losses: pure functions of step logits `(T, N, C)` and labels `(N,)`, each saying how it divides.

To add one: a function here and a row in `LOSSES`. The contract suite then tests it, and
`--method.name` trains with it. Where labels may be shares `(N, C)`, as mixed samples have them, the
docstring says so. What learns from another network is in `distillation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.training.distillation import (
    check_logits,
    check_teacher,
    check_temperature,
    kl_terms,
    skd,
)


def check_step_logits(logits: Tensor, labels: Tensor, *, soft: bool = False) -> None:
    """Refuse wrong shapes and, where looking is free (labels on the CPU), labels out of range.
    `soft`: or shares (N, C).
    """
    check_logits(logits)
    if labels.is_floating_point() and labels.shape == logits.shape[1:]:
        if not soft:
            raise UsageError(
                "this loss needs a class for each sample; these labels are shares (N, C), as mixed samples have"
            )
        return
    if labels.shape != logits.shape[1:2]:
        raise ValueError(
            f"labels must be ({logits.shape[1]},) for logits {tuple(logits.shape)}, got {tuple(labels.shape)}"
        )
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[2]:
            raise ValueError(
                f"labels must be in 0..{logits.shape[2] - 1}, got {low if low < 0 else high}"
            )


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy of the time mean.

        mean_n -log softmax(obar)_{n, y_n},  obar = (1/T) sum_t o_t

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T inside the softmax, mean
    over N. The plain training loss ("SDT").
    """
    check_step_logits(logits, labels, soft=True)
    return F.cross_entropy(logits.mean(0), labels)


def label_smoothing(logits: Tensor, labels: Tensor, *, epsilon: float = 0.1) -> Tensor:
    r"""Cross-entropy of the time mean against softened labels.

        mean_n -sum_c r_nc log softmax(obar)_nc,  r = (1 - epsilon) onehot(y) + epsilon / C

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T inside the softmax, sum
    over C, mean over N. Szegedy et al. 2016. TKS's tables do not state their epsilon.
    """
    check_step_logits(logits, labels, soft=True)
    if not 0 <= epsilon < 1:
        raise UsageError(f"epsilon must be in [0, 1), got {epsilon}")
    return F.cross_entropy(logits.mean(0), labels, label_smoothing=epsilon)


def step_ce(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy at every step, averaged.

        (1/T) sum_t mean_n -log softmax(o_t)_{n, y_n}

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T and N. TET (Deng et al.
    2022) without its regulariser.
    """
    check_step_logits(logits, labels, soft=True)
    steps, repeated = (
        logits.flatten(0, 1),
        labels.repeat(logits.shape[0], *[1] * (labels.dim() - 1)),
    )
    return F.cross_entropy(steps, repeated)


def distance_to(logits: Tensor, phi: float) -> Tensor:
    """mean_{t,n,c} (o_tnc - phi)^2, TET's regulariser: logits (T, N, C) -> scalar."""
    return (logits - phi).square().mean()


def tet(
    logits: Tensor,
    labels: Tensor,
    *,
    lamb: float = 1e-3,
    phi: float = 1.0,
) -> Tensor:
    r"""Temporal efficient training: every step is asked for the label, gently held near `phi`.

        (1 - lamb) (1/T) sum_t CE(o_t, y) + lamb mean_{t,n,c} (o_tnc - phi)^2

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T and N; the second term
    also over C. Deng et al. 2022; `lamb` and `phi` as in the released code.
    """
    parts = tet_parts(logits, labels, lamb=lamb, phi=phi)
    return parts["step_ce"] + parts["distance"]


def tet_parts(
    logits: Tensor,
    labels: Tensor,
    *,
    lamb: float = 1e-3,
    phi: float = 1.0,
) -> dict[str, Tensor]:
    """The two weighted terms of `tet`, apart: "step_ce" and "distance", scalars."""
    check_unit("lamb", lamb)
    near = distance_to(logits, phi)
    return {"step_ce": (1 - lamb) * step_ce(logits, labels), "distance": lamb * near}


def check_unit(name: str, value: float) -> None:
    """Refuse a weight outside [0, 1]."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} must be in [0, 1], got {value}")


def check_weight(name: str, value: float) -> None:
    """Refuse a weight that is negative."""
    if not value >= 0:
        raise UsageError(f"{name} must be >= 0, got {value}")


Pool = Callable[[Tensor, Tensor], Tensor]


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where a step has its label on top, (T, N, 1); of equal logits the lowest class is on top."""
    return (logits.argmax(-1) == labels).unsqueeze(-1).to(logits.dtype)


def _sum_correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits * _right(logits, labels)).sum(0)


def _mean_correct(logits: Tensor, labels: Tensor) -> Tensor:
    right = _right(logits, labels)
    return (logits * right).sum(0) / right.sum(0).clamp(min=1)


def _mean_all(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.mean(0)


def _label(logits: Tensor, labels: Tensor) -> Tensor:
    other = F.one_hot(labels, logits.shape[2]) == 0
    return torch.zeros_like(logits[0]).masked_fill(
        other, -math.inf
    )  # logits of certainty: one-hot at every temperature


POOLS: dict[str, Pool] = {
    "sum_correct": _sum_correct,
    "mean_correct": _mean_correct,
    "mean_all": _mean_all,
    "label": _label,
}


def tks_teacher(
    logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    pool: str = "sum_correct",
) -> Tensor:
    r"""What the right steps know together: q = softmax(z / temperature), logits (T, N, C), labels
    (N,) -> (N, C).

    With m_t = 1[argmax o_t = y] (lowest index on a tie), z is

    - `"sum_correct"`: sum_t m_t o_t, as released. k right steps act like the temperature
    temperature / k on their mean.
    - `"mean_correct"`: the mean of the right steps, the paper's wording ("averaged").
    - `"mean_all"`: the mean of all steps, right or wrong.
    - `"label"`: no step teaches: q = onehot(y), which no temperature softens. A control.

    No step right: z = 0 and q is uniform, for both `*_correct` pools. The gradient flows through q
    into the pooled steps.
    """
    check_step_logits(logits, labels)
    check_temperature(temperature)
    return F.softmax(choose(POOLS, pool, "pool")(logits, labels) / temperature, dim=-1)


def _cross_entropy(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return -(teacher * F.log_softmax(logits, dim=-1)).sum(-1)


def _kl(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_teacher = teacher.clamp(
        min=torch.finfo(teacher.dtype).tiny
    ).log()  # 0 log 0 = 0, and so is its gradient
    return (teacher * (log_teacher - F.log_softmax(logits / temperature, dim=-1))).sum(-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "ce": _cross_entropy,
    "kl": _kl,
}


def tks_soft(
    logits: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    divergence: str = "ce",
) -> Tensor:
    r"""How far every step is from one teacher.

        "ce":  temperature^2 (1/T) sum_t mean_n -sum_c q_nc log softmax(o_t)_nc
        "kl":  temperature^2 (1/T) sum_t mean_n  sum_c q_nc (log q_nc - log softmax(o_t /
               temperature)_nc)

    logits (T, N, C), teacher q (N, C) probabilities -> scalar. Sum over C, mean over T and N.
    `"ce"` is as released: a cross-entropy, the temperature squared is there, the student has no
    temperature of its own. `"kl"` is usual logit
    distillation: the student is softened like the teacher, and is done when it equals it.
    """
    check_temperature(temperature)
    check_teacher(logits, teacher)
    terms = choose(DIVERGENCES, divergence, "divergence")(logits, teacher, temperature)
    return temperature**2 * terms.mean()


def tks(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    pool: str = "sum_correct",
    detach: bool = False,
    divergence: str = "ce",
) -> Tensor:
    r"""Temporal knowledge sharing: the steps that are right teach all steps.

        (1 - alpha) CE(obar, y) + alpha temperature^2 (1/T) sum_t mean_n H(q_n, softmax(o_tn)),  q =
        tks_teacher(...)

    logits (T, N, C), labels (N,) -> scalar. Mean over T and N, sum over C. arXiv 2304.06540 (q: eq.
    5), read through the authors' code, whose choices are the defaults: the teacher is a *sum* over
    the right steps, the temperature is on the teacher only, the soft part is multiplied by
    temperature squared, the teacher is not detached. The paper's text says "averaged"
    (`pool="mean_correct"`) and leaves the last two open; `detach=True` stops the gradient through
    the teacher. With `pool="label"` the soft part is temperature^2 `step_ce`; for `divergence="kl"`
    see `tks_soft`. Needs hard labels. The ramp of `alpha` over epochs is the method's
    (`anystep.training.methods.TKS`)."""
    options: dict[str, Any] = {
        "pool": pool,
        "detach": detach,
        "divergence": divergence,
    }
    parts = tks_parts(logits, labels, alpha=alpha, temperature=temperature, **options)
    return parts["ce"] + parts["tks"]


def tks_parts(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    pool: str = "sum_correct",
    detach: bool = False,
    divergence: str = "ce",
) -> dict[str, Tensor]:
    """The two weighted terms of `tks`, apart: "ce" and "tks", scalars."""
    check_unit("alpha", alpha)
    teacher = tks_teacher(logits, labels, temperature=temperature, pool=pool)
    teacher = teacher.detach() if detach else teacher
    return {
        "ce": (1 - alpha) * ce(logits, labels),
        "tks": alpha * tks_soft(logits, teacher, temperature=temperature, divergence=divergence),
    }


def full_range(
    logits: Tensor,
    labels: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 3.0,
    pool: str = "mean_correct",
    detach: bool = True,
) -> Tensor:
    r"""Temporal-decoupled distillation without its second network: every step learns the label and
    what the right steps say.

        (1/T) sum_t CE(o_t, y) + beta temperature^2 (1/T) sum_t mean_n KL(q_n || softmax(o_tn /
        temperature))

    logits (T, N, C), labels (N,) -> scalar. Mean over T and N, sum over C. q = `tks_teacher`: the
    *mean* of the right steps at `temperature`, detached, uniform where no step is right.
    "Full-range timestep" logit distillation, ICML 2025. The defaults are as in the released code
    and its read-me; the paper's text, as we know it, has the final vote for a teacher, which is
    `pool="mean_all"`. That the divergence is from the teacher is how PyTorch's arguments read;
    `detach=False` is ours.
    """
    parts = full_range_parts(
        logits, labels, beta=beta, temperature=temperature, pool=pool, detach=detach
    )
    return parts["step_ce"] + parts["self"]


def full_range_parts(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None = None,
    *,
    alpha: float = 0.2,
    beta: float = 0.5,
    temperature: float = 3.0,
    pool: str = "mean_correct",
    detach: bool = True,
) -> dict[str, Tensor]:
    """The weighted terms of `full_range`, apart: "step_ce" and "self", scalars.

    `teacher` (N, C) logits, usually of an ANN, adds "teacher": alpha `skd(...,
    reduction="batchmean")` at the same temperature. That is the whole published loss; alpha 0.2 and
    beta 0.5 stand in the authors' read-me; their code has 0.
    """
    check_weight("alpha", alpha)
    check_weight("beta", beta)
    own = tks_teacher(logits, labels, temperature=temperature, pool=pool)
    own = own.detach() if detach else own
    parts = {
        "step_ce": step_ce(logits, labels),
        "self": beta * tks_soft(logits, own, temperature=temperature, divergence="kl"),
    }
    if teacher is not None:
        parts["teacher"] = alpha * skd(
            logits, teacher, temperature=temperature, reduction="batchmean"
        )
    return parts


def step_confidence(logits: Tensor) -> Tensor:
    """con(t) = mean_n max_c softmax(o_tn)_c: logits (T, N, C) -> (T,), without a gradient."""
    return logits.detach().softmax(-1).amax(-1).mean(1)


DIRECTIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "s2w": lambda confidence: (confidence.argmax(), confidence.argmin()),
    "w2s": lambda confidence: (confidence.argmin(), confidence.argmax()),
}


def strong_weak(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: float = 1.0,
    temperature: float = 2.0,
    direction: str = "s2w",
    detach: bool = True,
) -> Tensor:
    r"""Of the surest and the least sure step of a batch, one teaches the other.

        CE(obar, y) + weight mean_n KL(softmax(o_a / temperature)_n || softmax(o_b / temperature)_n)

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T inside the softmax of the
    first term; mean over N, sum over C. With con(t) = mean_n max_c softmax(o_tn)_c, strong is the
    step of the largest con and weak that of the smallest (the earliest of equals); a teaches b:
    `"s2w"` strong to weak, `"w2s"` weak to strong. The steps are chosen for the batch, not a
    sample, so the loss is no mean of losses of samples. One step: plain `ce`. Strong2Weak and
    Weak2Strong, NeurIPS 2025, known from summaries and not from code: weight 1 and temperature 2
    are theirs; whether the teacher is detached they do not say, we do. Nor is a factor
    temperature^2 in their formula, so there is none here; `weight=4` would be it.
    """
    check_step_logits(logits, labels, soft=True)
    check_weight("weight", weight)
    check_temperature(temperature)
    pair = torch.stack(choose(DIRECTIONS, direction, "direction")(step_confidence(logits)))
    teacher, student = logits.index_select(0, pair).unbind(0)
    terms = kl_terms(teacher.detach() if detach else teacher, student, temperature)
    return ce(logits, labels) + weight * terms.sum(-1).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": ce,
    "label_smoothing": label_smoothing,
    "step_ce": step_ce,
    "tet": tet,
    "tks": tks,
    "full_range": full_range,
    "strong_weak": strong_weak,
}

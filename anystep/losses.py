"""Losses: pure functions of step logits `(T, N, C)` and labels `(N,)`, each saying how it divides.

To add one: a function here and a row in `LOSSES`. The contract suite then tests it, and `--method.name` trains with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from anystep._lookup import choose


def check_step_logits(logits: Tensor, labels: Tensor) -> None:
    """Refuse wrong shapes and, where looking is free (labels on the CPU), labels out of range."""
    if logits.dim() != 3:
        raise ValueError(f"logits must be step logits (T, N, C), got shape {tuple(logits.shape)}")
    if labels.shape != logits.shape[1:2]:
        raise ValueError(f"labels must be ({logits.shape[1]},) for logits {tuple(logits.shape)}, got {tuple(labels.shape)}")
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[2]:
            raise ValueError(f"labels must be in 0..{logits.shape[2] - 1}, got {low if low < 0 else high}")


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy of the time mean.

        mean_n -log softmax(obar)_{n, y_n},  obar = (1/T) sum_t o_t

    logits (T, N, C), labels (N,) -> scalar. Mean over T inside the softmax, mean over N. The plain training loss ("SDT").
    """
    check_step_logits(logits, labels)
    return F.cross_entropy(logits.mean(0), labels)


def label_smoothing(logits: Tensor, labels: Tensor, *, epsilon: float = 0.1) -> Tensor:
    r"""Cross-entropy of the time mean against softened labels.

        mean_n -sum_c r_nc log softmax(obar)_nc,  r = (1 - epsilon) onehot(y) + epsilon / C

    logits (T, N, C), labels (N,) -> scalar. Mean over T inside the softmax, sum over C, mean over N. Szegedy et al. 2016.
    TKS's tables do not state their epsilon.
    """
    check_step_logits(logits, labels)
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must be in [0, 1), got {epsilon}")
    return F.cross_entropy(logits.mean(0), labels, label_smoothing=epsilon)


def step_ce(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy at every step, averaged.

        (1/T) sum_t mean_n -log softmax(o_t)_{n, y_n}

    logits (T, N, C), labels (N,) -> scalar. Mean over T and N. TET (Deng et al. 2022) without its regulariser.
    """
    check_step_logits(logits, labels)
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(logits.shape[0]))


def distance_to(logits: Tensor, phi: float) -> Tensor:
    """mean_{t,n,c} (o_tnc - phi)^2, TET's regulariser: logits (T, N, C) -> scalar."""
    return (logits - phi).square().mean()


def tet(logits: Tensor, labels: Tensor, *, lamb: float = 1e-3, phi: float = 1.0) -> Tensor:
    r"""Temporal efficient training: every step is asked for the label, gently held near `phi`.

        (1 - lamb) (1/T) sum_t CE(o_t, y) + lamb mean_{t,n,c} (o_tnc - phi)^2

    logits (T, N, C), labels (N,) -> scalar. Mean over T and N; the second term also over C. Deng et al. 2022;
    `lamb` and `phi` as in the released code.
    """
    parts = tet_parts(logits, labels, lamb=lamb, phi=phi)
    return parts["step_ce"] + parts["distance"]


def tet_parts(logits: Tensor, labels: Tensor, *, lamb: float = 1e-3, phi: float = 1.0) -> dict[str, Tensor]:
    """The two weighted terms of `tet`, apart: "step_ce" and "distance", scalars."""
    check_unit("lamb", lamb)
    return {"step_ce": (1 - lamb) * step_ce(logits, labels), "distance": lamb * distance_to(logits, phi)}


def check_unit(name: str, value: float) -> None:
    """Refuse a weight outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_temperature(temperature: float) -> None:
    """Refuse a softmax temperature that is not positive."""
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")


def _sum_correct(logits: Tensor, right: Tensor) -> Tensor:
    return (logits * right).sum(0)


def _mean_correct(logits: Tensor, right: Tensor) -> Tensor:
    return (logits * right).sum(0) / right.sum(0).clamp(min=1)


def _mean_all(logits: Tensor, right: Tensor) -> Tensor:
    return logits.mean(0)


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum_correct": _sum_correct,
    "mean_correct": _mean_correct,
    "mean_all": _mean_all,
}


def tks_teacher(logits: Tensor, labels: Tensor, *, temperature: float, pool: str = "sum_correct") -> Tensor:
    r"""What the right steps know together: q = softmax(z / temperature), logits (T, N, C), labels (N,) -> (N, C).

    With m_t = 1[argmax o_t = y] (lowest index on a tie), z is

    - `"sum_correct"`: sum_t m_t o_t, as released. k right steps act like the temperature temperature / k on their mean.
    - `"mean_correct"`: the mean of the right steps, the paper's wording ("averaged").
    - `"mean_all"`: the mean of all steps, right or wrong.

    No step right: z = 0 and q is uniform, for both `*_correct` pools. The gradient flows through q into the pooled steps.
    """
    check_step_logits(logits, labels)
    check_temperature(temperature)
    right = (logits.argmax(-1) == labels).unsqueeze(-1).to(logits.dtype)
    return F.softmax(choose(POOLS, pool, "pool")(logits, right) / temperature, dim=-1)


def tks_soft(logits: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    r"""Cross-entropy of every step to one teacher.

        temperature^2 (1/T) sum_t mean_n -sum_c q_nc log softmax(o_t)_nc

    logits (T, N, C), teacher q (N, C) probabilities -> scalar. Sum over C, mean over T and N. As released: a cross-entropy,
    not a divergence; the temperature squared is there; the student has no temperature of its own.
    """
    check_temperature(temperature)
    if teacher.shape != logits.shape[1:]:
        raise ValueError(f"the teacher must be (N, C) = {tuple(logits.shape[1:])}, got {tuple(teacher.shape)}")
    return -(temperature**2) * (teacher * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def tks(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    pool: str = "sum_correct",
    detach: bool = False,
) -> Tensor:
    r"""Temporal knowledge sharing: the steps that are right teach all steps.

        (1 - alpha) CE(obar, y) + alpha temperature^2 (1/T) sum_t mean_n H(q_n, softmax(o_tn)),  q = tks_teacher(...)

    logits (T, N, C), labels (N,) -> scalar. Mean over T and N, sum over C. arXiv 2304.06540 (q: eq. 5), read through the
    authors' code, whose choices are the defaults: the teacher is a *sum* over the right steps, the temperature is on the
    teacher only, the soft part is multiplied by temperature squared, the teacher is not detached. The paper's text says
    "averaged" (`pool="mean_correct"`) and leaves the last two open; `detach=True` stops the gradient through the teacher.
    Needs hard labels. The ramp of `alpha` over epochs is the method's (`anystep.methods.TKS`).
    """
    parts = tks_parts(logits, labels, alpha=alpha, temperature=temperature, pool=pool, detach=detach)
    return parts["ce"] + parts["tks"]


def tks_parts(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    pool: str = "sum_correct",
    detach: bool = False,
) -> dict[str, Tensor]:
    """The two weighted terms of `tks`, apart: "ce" and "tks", scalars."""
    check_unit("alpha", alpha)
    teacher = tks_teacher(logits, labels, temperature=temperature, pool=pool)
    teacher = teacher.detach() if detach else teacher
    return {
        "ce": (1 - alpha) * ce(logits, labels),
        "tks": alpha * tks_soft(logits, teacher, temperature=temperature),
    }


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": ce,
    "label_smoothing": label_smoothing,
    "step_ce": step_ce,
    "tet": tet,
    "tks": tks,
}

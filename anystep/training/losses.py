"""Losses: pure functions of step logits `(T, N, C)` and labels `(N,)`, each saying how it divides.

To add one: a function here and a row in `LOSSES`; the contract suite then tests it. Labels may be
shares `(N, C)`, as mixed samples have them, where a docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce, wraps
from typing import ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.training.distillation import check_logits, check_teacher, check_temperature, kl_terms

Arguments = ParamSpec("Arguments")
Parts = dict[str, Tensor]  # the named, weighted parts of a loss; their sum is differentiated


def _sum_of(name: str, parts: Callable[Arguments, Parts]) -> Callable[Arguments, Tensor]:
    """The loss `name`, which is the sum of its `parts` and has their arguments and docstring."""

    @wraps(parts)
    def loss(*args: Arguments.args, **options: Arguments.kwargs) -> Tensor:
        return reduce(torch.add, parts(*args, **options).values())

    loss.__name__ = loss.__qualname__ = name
    return loss


def check_step_logits(logits: Tensor, labels: Tensor, *, soft: bool = False) -> None:
    """Refuse wrong shapes and, on the CPU, labels out of range. `soft`: shares (N, C) will do."""
    check_logits(logits)
    if labels.is_floating_point() and labels.shape == logits.shape[1:]:
        if soft:
            return
        raise UsageError("this loss needs a class for each sample; these labels are shares (N, C)")
    if labels.dtype != torch.int64 and not labels.is_floating_point():
        raise UsageError(f"labels must be of torch.int64, got {labels.dtype}: give labels.long()")
    if labels.shape != logits.shape[1:2]:
        wanted = f"({logits.shape[1]},) for logits {tuple(logits.shape)}"
        raise ValueError(f"labels must be {wanted}, got {tuple(labels.shape)}")
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[2]:
            wrong = low if low < 0 else high
            raise ValueError(f"labels must be in 0..{logits.shape[2] - 1}, got {wrong}")


def check_unit(name: str, value: float) -> None:
    """Refuse a weight outside [0, 1]."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} must be in [0, 1], got {value}")


def check_weight(name: str, value: float) -> None:
    """Refuse a negative weight."""
    if not value >= 0:
        raise UsageError(f"{name} must be >= 0, got {value}")


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy of the time mean, the plain training loss ("SDT").

        mean_n -log softmax(obar)_{n, y_n},   obar = (1/T) sum_t o_t

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T inside the softmax, mean
    over N.
    """
    check_step_logits(logits, labels, soft=True)
    return F.cross_entropy(logits.mean(0), labels)


def label_smoothing(logits: Tensor, labels: Tensor, *, epsilon: float = 0.1) -> Tensor:
    r"""Cross-entropy of the time mean against softened labels.

        mean_n -sum_c r_nc log softmax(obar)_nc,   r = (1 - epsilon) onehot(y) + epsilon / C

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T inside the softmax, sum
    over C, mean over N. Szegedy et al. 2016. TKS's tables do not state their epsilon.
    """
    check_step_logits(logits, labels, soft=True)
    if not 0 <= epsilon < 1:
        raise UsageError(f"epsilon must be in [0, 1), got {epsilon}")
    return F.cross_entropy(logits.mean(0), labels, label_smoothing=epsilon)


def step_ce(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy at every step, averaged: TET (Deng et al. 2022) without its regulariser.

        (1/T) sum_t mean_n -log softmax(o_t)_{n, y_n}

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T and N.
    """
    check_step_logits(logits, labels, soft=True)
    every_step = labels.repeat(logits.shape[0], *[1] * (labels.dim() - 1))
    return F.cross_entropy(logits.flatten(0, 1), every_step)


def tet_parts(logits: Tensor, labels: Tensor, *, lamb: float = 1e-3, phi: float = 1.0) -> Parts:
    r"""Temporal efficient training: every step learns the label, and logits are held near `phi`.

        (1 - lamb) (1/T) sum_t CE(o_t, y) + lamb mean_{t,n,c} (o_tnc - phi)^2

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T and N; the second term
    also over C. `tet_parts` has the terms apart: "step_ce" and "distance". Deng et al. 2022; `lamb`
    and `phi` as in the released code.
    """
    check_unit("lamb", lamb)
    distance = (logits - phi).square().mean()
    return {"step_ce": (1 - lamb) * step_ce(logits, labels), "distance": lamb * distance}


tet = _sum_of("tet", tet_parts)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """(T, N, 1): 1 where a step has its label on top; of equal logits the lowest class wins."""
    return (logits.argmax(-1) == labels).unsqueeze(-1).to(logits.dtype)


def _sum_correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits * _right(logits, labels)).sum(0)


def _mean_correct(logits: Tensor, labels: Tensor) -> Tensor:
    right = _right(logits, labels)
    return (logits * right).sum(0) / right.sum(0).clamp(min=1)


def _mean_all(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.mean(0)


def _label(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits of certainty: their softmax is one-hot at every temperature."""
    other = F.one_hot(labels, logits.shape[2]) == 0
    return torch.zeros_like(logits[0]).masked_fill(other, -math.inf)


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum_correct": _sum_correct,
    "mean_correct": _mean_correct,
    "mean_all": _mean_all,
    "label": _label,
}


def tks_teacher(
    logits: Tensor, labels: Tensor, *, temperature: float, pool: str = "sum_correct"
) -> Tensor:
    r"""What the right steps know together, as probabilities q.

        q = softmax(z / temperature)

    logits (T, N, C), labels (N,) -> (N, C). A step is right if its argmax is the label (the lowest
    index on a tie): m_t = 1[argmax o_t = y]. `pool` says what z is:

    - `"sum_correct"`: sum_t m_t o_t, as released. k right steps act like a temperature of
      temperature / k on their mean.
    - `"mean_correct"`: the mean of the right steps; the paper lists "averaging" among the
      possible strategies.
    - `"mean_all"`: the mean of all steps, right or wrong.
    - `"label"`: no step teaches: q = onehot(y), which no temperature softens. A control.

    If no step is right, both `*_correct` pools have z = 0 and a uniform q. The gradient flows
    through q into the pooled steps.
    """
    check_step_logits(logits, labels)
    check_temperature(temperature)
    return F.softmax(choose(POOLS, pool, "pool")(logits, labels) / temperature, dim=-1)


def _cross_entropy(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return -(teacher * F.log_softmax(logits, dim=-1)).sum(-1)


def _kl(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    # clamped, so that 0 log 0 = 0, and so is its gradient
    log_teacher = teacher.clamp(min=torch.finfo(teacher.dtype).tiny).log()
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
    square: bool = True,
    untaught: Tensor | None = None,
) -> Tensor:
    r"""How far every step is from one teacher.

        "ce":  temperature^2 (1/T) sum_t mean_n -sum_c q_nc log p_tnc,                p = softmax(o)
        "kl":  temperature^2 (1/T) sum_t mean_n  sum_c q_nc (log q_nc - log p_tnc),
                                                                      p = softmax(o / temperature)

    logits (T, N, C), teacher q (N, C) probabilities -> scalar. Sum over C, mean over T and N.

    `"ce"` is as released: a cross-entropy whose student has no temperature of its own, multiplied
    by temperature squared all the same. `"kl"` is the usual distillation: the student is softened
    like the teacher, and the term is 0 when it equals it. `square=False` leaves the factor
    temperature^2 out. A sample that is `untaught` (N,) counts as 0.
    """
    check_temperature(temperature)
    check_teacher(logits, teacher)
    terms = choose(DIVERGENCES, divergence, "divergence")(logits, teacher, temperature)
    if untaught is not None:
        terms = terms.masked_fill(untaught, 0.0)
    return (temperature**2 if square else 1.0) * terms.mean()


EMPTY = {"uniform": False, "skip": True}  # no step is right: whether the soft part is left out


def tks_parts(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    pool: str = "sum_correct",
    detach: bool = False,
    divergence: str = "ce",
    empty: str = "uniform",
    square: bool = True,
) -> Parts:
    r"""Temporal knowledge sharing: the steps that are right teach all steps.

        (1 - alpha) CE(obar, y) + alpha temperature^2 (1/T) sum_t mean_n H(q_n, softmax(o_tn))

    with q = `tks_teacher(...)` and H the cross-entropy. logits (T, N, C), labels (N,) -> scalar.
    Mean over T and N, sum over C. `tks_parts` has the terms apart: "ce" and "tks".

    arXiv 2304.06540 (q: eq. 5), read through the authors' code, whose choices are the defaults: the
    teacher is a *sum* over the right steps, only the teacher has a temperature, the soft part is
    multiplied by temperature squared, and the teacher is not detached. The paper's text lists
    "averaging" among the strategies (`pool="mean_correct"`) and leaves the last two open.
    `detach=True` stops the gradient through the teacher. With `pool="label"` the soft part is
    temperature^2 `step_ce`; for `divergence="kl"` see `tks_soft`. The method `TKS` lets `alpha`
    grow over the epochs.

    Two options are ours: `empty="skip"` leaves the soft part of a sample without a right step out
    (as 0 in the mean over N; `"uniform"` pulls it to the uniform distribution), `square=False` the
    factor temperature^2.
    """
    check_unit("alpha", alpha)
    teacher = tks_teacher(logits, labels, temperature=temperature, pool=pool)
    teacher = teacher.detach() if detach else teacher
    hard = (1 - alpha) * ce(logits, labels)
    skip = choose(EMPTY, empty, "empty")
    soft = tks_soft(
        logits,
        teacher,
        temperature=temperature,
        divergence=divergence,
        square=square,
        untaught=_right(logits, labels).sum(0).squeeze(-1) == 0 if skip else None,
    )
    return {"ce": hard, "tks": alpha * soft}


tks = _sum_of("tks", tks_parts)


def full_range_parts(
    logits: Tensor,
    labels: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 3.0,
    pool: str = "mean_correct",
    detach: bool = True,
) -> Parts:
    r"""Temporal-decoupled distillation without its second network: every step learns the label and
    what the right steps say.

        (1/T) sum_t CE(o_t, y) + beta temperature^2 (1/T) sum_t mean_n KL(q_n || p_tn),
        p_tn = softmax(o_tn / temperature)

    logits (T, N, C), labels (N,) -> scalar. Mean over T and N, sum over C. q = `tks_teacher`: the
    *mean* of the right steps at `temperature`, detached, uniform where no step is right.
    `full_range_parts` has the terms apart: "step_ce" and "self".

    "Full-range timestep" logit distillation, ICML 2025. The defaults are those of the released code
    and its read-me. In the paper's text, as we know it, the final vote teaches: `pool="mean_all"`.
    That the divergence is from the teacher is how PyTorch's arguments read; `detach=False` is ours.
    """
    check_weight("beta", beta)
    teacher = tks_teacher(logits, labels, temperature=temperature, pool=pool)
    teacher = teacher.detach() if detach else teacher
    hard = step_ce(logits, labels)
    soft = tks_soft(logits, teacher, temperature=temperature, divergence="kl")
    return {"step_ce": hard, "self": beta * soft}


full_range = _sum_of("full_range", full_range_parts)


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
    detach: bool = False,
) -> Tensor:
    r"""The most and the least confident step of a batch: one of them teaches the other.

        CE(obar, y) + weight mean_n KL(softmax(o_a / temperature)_n || softmax(o_b / temperature)_n)

    logits (T, N, C), labels (N,) or shares (N, C) -> scalar. Mean over T inside the softmax of the
    first term; mean over N, sum over C. One step: plain `ce`.

    The strong step has the largest con(t) (`step_confidence`), the weak one the smallest, the
    earliest of equals. Step a teaches b: `"s2w"` strong to weak, `"w2s"` weak to strong. The two
    are chosen for the whole batch, so the loss is no mean of losses of single samples.

    Strong2Weak and Weak2Strong, arXiv 2510.07924 (NeurIPS 2025); we know no code. Weight 1 and
    temperature 2 are theirs. Their algorithm 1 detaches nothing, so the gradient flows into both
    steps; `detach=True` is ours and stops it at the teacher. Their formula has no factor
    temperature^2, so there is none here; `weight=4` would be it.
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

# The losses whose parts a log shows apart
PARTS: dict[str, Callable[..., Parts]] = {
    "tet": tet_parts,
    "tks": tks_parts,
    "full_range": full_range_parts,
}

"""Training schemes: what the networks of each phase see, and which weighted parts make the loss.

A method has `phases()`, `views(x, phase, generator)` and `loss(outputs, labels, progress)`. A loss of `LOSSES` is a method
by its name already; a scheme with a ramp, a teacher or several phases is a class here and a row in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from anystep._lookup import check_arguments, choose
from anystep.losses import LOSSES, POOLS, check_temperature, check_unit, tet_parts, tks_parts


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training.

    `neuron`: the network's neuron (None: the record's own; "relu" makes the ANN twin). `start_from`: the earlier phase whose
    weights it starts with. `teacher`: the earlier phase whose network, a frozen copy in eval mode, teaches. `share`: its
    part of the run's epochs. `frames` and `teacher_frames`: the steps that student and teacher see.
    """

    name: str = "train"
    neuron: str | Mapping[str, Any] | None = None
    start_from: str | None = None
    teacher: str | None = None
    share: float = 1.0
    frames: slice = field(default_factory=lambda: slice(None))
    teacher_frames: slice = field(default_factory=lambda: slice(None))


class Method:
    """A training scheme. The default: one phase, the student sees everything."""

    def phases(self) -> tuple[Phase, ...]:
        """The phases, in order; the last one's network is the run's model."""
        return (Phase(),)

    def views(self, x: Tensor, phase: Phase, generator: torch.Generator) -> dict[str, Tensor]:
        """What "student" and, if the phase has one, "teacher" see of a batch `x (T, N, P, H, W)`.

        `generator` is the only source of chance: it is seeded from the run, the epoch and the batch, alike in all processes.
        """
        views = {"student": x[phase.frames]}
        if phase.teacher is not None:
            views["teacher"] = x[phase.teacher_frames]
        return views

    def loss(self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float) -> dict[str, Tensor]:
        """Named, weighted parts whose sum is differentiated.

        `outputs` has the step logits (T, N, C) of "student" and, in a phase with a teacher, of "teacher". `progress` =
        epoch / epochs of the phase, from 0, constant within an epoch.
        """
        raise TypeError(f"{type(self).__name__} defines no loss(outputs, labels, progress)")


class LossMethod(Method):
    """Training with one loss of `LOSSES`, its weight constant."""

    def __init__(self, name: str, /, **options: Any) -> None:
        self.name = name
        self._loss = partial(choose(LOSSES, name, "loss"), **options)
        free = partial(LOSSES[name], None, None)
        check_arguments(free, options, f"method {name}", complete=True)
        self._loss(torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64))  # a wrong value is refused here, not in training

    def loss(self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float) -> dict[str, Tensor]:
        return {self.name: self._loss(outputs["student"], labels)}


@dataclass(frozen=True)
class TET(Method):
    """`losses.tet` with its two terms logged apart."""

    lamb: float = 1e-3
    phi: float = 1.0

    def __post_init__(self) -> None:
        check_unit("lamb", self.lamb)

    def loss(self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float) -> dict[str, Tensor]:
        return tet_parts(outputs["student"], labels, lamb=self.lamb, phi=self.phi)


@dataclass(frozen=True)
class TKS(Method):
    """`losses.tks` whose weight grows with training: a_e = alpha e / E for epoch e = 0..E-1, as released.

    So a_0 = 0 (plain cross-entropy) and the last epoch has alpha (E - 1) / E. `ramp="static"` keeps alpha throughout.
    Note that the authors' `--staticalpha` freezes the weight of the *label* part instead. Defaults: TKS's for CIFAR
    (alpha 0.7, temperature 3); its event recipes use 0.3 and 5.
    """

    alpha: float = 0.7
    temperature: float = 3.0
    pool: str = "sum_correct"
    detach: bool = False
    ramp: Literal["linear", "static"] = "linear"

    def __post_init__(self) -> None:
        check_unit("alpha", self.alpha)
        check_temperature(self.temperature)
        choose(POOLS, self.pool, "pool")
        choose({"linear": 0, "static": 0}, self.ramp, "ramp")

    def loss(self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float) -> dict[str, Tensor]:
        alpha = self.alpha * (progress if self.ramp == "linear" else 1.0)
        logits = outputs["student"]
        return tks_parts(logits, labels, alpha=alpha, temperature=self.temperature, pool=self.pool, detach=self.detach)


def _loss_methods() -> dict[str, Callable[..., Method]]:
    return {name: partial(LossMethod, name) for name in LOSSES}


METHODS: dict[str, Callable[..., Method]] = {**_loss_methods(), "tet": TET, "tks": TKS}


def create_method(name: str, /, **options: Any) -> Method:
    """A method of `METHODS`, or a loss of `LOSSES` even if its row is newer than `METHODS`, by name.

    Unknown names and arguments are refused with the nearest one.

    >>> create_method("tks", alpha=0.3, temperature=5.0)
    TKS(alpha=0.3, temperature=5.0, pool='sum_correct', detach=False, ramp='linear')
    """
    kind = choose({**_loss_methods(), **METHODS}, name, "method")
    if isinstance(kind, type):
        check_arguments(kind, options, f"method {name}", complete=True)
    return kind(**options)

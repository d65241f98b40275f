"""A training scheme is a `Method` with its `Phase`s; a phase has its own part of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import check_arguments, check_keys
from anystep.training.losses import Parts
from anystep.training.schedule import Plan

OTHER_RUN = "run"  # a network that no phase of this run makes: that of the record's `teacher`


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training.

    neuron          of the network: None, the record's own; "relu" makes the ANN twin
    start_from      the earlier phase whose weights the network starts with
    teacher         the earlier phase whose network teaches, as a frozen copy in eval mode
    share           its part of the run's epochs; 0 trains nothing
    frames          the steps that the student sees, counted from the first
    teacher_frames  the steps that the teacher sees
    plan            the keys of the plan that differ in this phase, like lr

    `start_from` and `teacher` may also be "run": the network of the run that the record's `teacher`
    names.
    """

    name: str = "train"
    neuron: str | Mapping[str, Any] | None = None
    start_from: str | None = None
    teacher: str | None = None
    share: float = 1.0
    frames: slice = field(default_factory=lambda: slice(None))
    teacher_frames: slice = field(default_factory=lambda: slice(None))
    plan: Mapping[str, Any] = field(default_factory=dict)


class Method:
    """A training scheme: the phases, what the networks see of a batch, and the loss.

    The default has one phase, and the student sees everything. `neurons`: the neurons that the
    method can train, by name; empty means any. `published`: the options whose published values hang
    on the data, "events" or "images", for a record that names none.
    """

    neurons: tuple[str, ...] = ()
    published: ClassVar[Mapping[str, Mapping[str, float]]] = {}

    def phases(self) -> tuple[Phase, ...]:
        """The phases, in order; the last one's network is the run's model."""
        return (Phase(),)

    def remark(self, epochs: int) -> str:
        """What a person should know before training for so many epochs, if anything."""
        return ""

    def views(self, x: Tensor, phase: Phase, generator: torch.Generator) -> dict[str, Tensor]:
        """What "student" and, if the phase has one, "teacher" see of a batch `x (T, N, P, H, W)`.

        All chance comes from `generator`, whose seed is that of the batch in all processes.
        """
        views = {"student": x[phase.frames]}
        if phase.teacher is not None:
            views["teacher"] = x[phase.teacher_frames]
        return views

    def loss(self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float) -> Parts:
        """Named, weighted parts whose sum is differentiated.

        `outputs` has the step logits (T, N, C) of "student" and, in a phase with a teacher, of
        "teacher". `progress` = epoch / epochs of the phase, from 0, constant within an epoch.
        """
        raise TypeError(f"{type(self).__name__} defines no loss(outputs, labels, progress)")


def phase_epochs(phase: Phase, plan: Plan) -> int:
    """A phase's share of the plan's epochs, rounded, but at least one; a share of 0 has none."""
    return max(1, round(phase.share * plan.epochs)) if phase.share else 0


def check_shares(method: Method, plan: Plan) -> None:
    """Refuse epochs that the phases of a method cannot share exactly."""
    epochs = [phase_epochs(phase, plan) for phase in method.phases()]
    if sum(epochs) != plan.epochs:
        made = f"train.epochs {plan.epochs} would be {' + '.join(map(str, epochs))} for the phases"
        raise UsageError(f"{made}: change it, or the share of a phase")


def phase_plan(phase: Phase, plan: Plan) -> Plan:
    """The plan of a phase. Error: it changes a key that no plan has, or one of the whole run."""
    where = f"the plan of phase {phase.name!r}"
    own = vars(plan).keys() - {"epochs", "steps", "workers"}  # these are of the whole run
    check_keys(phase.plan, sorted(own), "key", where)
    check_arguments(Plan, phase.plan, where)
    return replace(plan, **phase.plan)


def frames_seen(phase: Phase, plan: Plan) -> slice:
    """The steps that the student trains on: of the first `plan.steps` those in `phase.frames`."""
    first, stop, steps = phase.frames.start, phase.frames.stop, plan.steps
    return slice(first, stop if steps is None else min(steps, steps if stop is None else stop))

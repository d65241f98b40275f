"""Training schemes: what the networks of each phase see, and which weighted parts make the loss.

A method has `phases()`, `views(x, phase, generator)` and `loss(outputs, labels, progress)`. A loss
of `LOSSES` is a method by its name already; a scheme with a ramp, a teacher or several phases is a
class here and a row in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import check_arguments, check_keys, choose
from anystep.training.distillation import DISTILLATIONS, check_temperature
from anystep.training.losses import (
    DIVERGENCES,
    LOSSES,
    POOLS,
    check_unit,
    full_range_parts,
    tet_parts,
    tks_parts,
)

OTHER_RUN = "run"  # a network that no phase of this run makes: that of the record's `teacher`


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training.

    `neuron`: the network's neuron (None: the record's own; "relu" makes the ANN twin).
    `start_from`: the earlier phase whose weights it starts with. `teacher`: the earlier phase whose
    network, a frozen copy in eval mode, teaches. Both may be "run", the network of the run that the
    record's `teacher` names. `share`: its part of the run's epochs; 0 trains nothing. `frames` and
    `teacher_frames`: the steps that student and teacher see, counted from the first. `plan`: the
    keys of the plan that are others here, like lr.
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
    """A training scheme. The default: one phase, the student sees everything.

    `neurons`: the neurons that it can train, by name; none named means any.
    """

    neurons: tuple[str, ...] = ()

    def phases(self) -> tuple[Phase, ...]:
        """The phases, in order; the last one's network is the run's model."""
        return (Phase(),)

    def views(self, x: Tensor, phase: Phase, generator: torch.Generator) -> dict[str, Tensor]:
        """What "student" and, if the phase has one, "teacher" see of a batch `x (T, N, P, H, W)`.

        `generator` is the only source of chance: it is seeded from the run, the epoch and the
        batch, alike in all processes.
        """
        views = {"student": x[phase.frames]}
        if phase.teacher is not None:
            views["teacher"] = x[phase.teacher_frames]
        return views

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Named, weighted parts whose sum is differentiated.

        `outputs` has the step logits (T, N, C) of "student" and, in a phase with a teacher, of
        "teacher". `progress` = epoch /
        epochs of the phase, from 0, constant within an epoch.
        """
        raise TypeError(f"{type(self).__name__} defines no loss(outputs, labels, progress)")


class LossMethod(Method):
    """Training with one loss of `LOSSES`, its weight constant."""

    def __init__(self, name: str, /, **options: Any) -> None:
        self.name = name
        self._loss = partial(choose(LOSSES, name, "loss"), **options)
        takes = list(signature(LOSSES[name]).parameters)
        check_keys(options, takes[2:], "argument", f"method {name}")
        free = partial(LOSSES[name], None, None)
        check_arguments(free, options, f"method {name}", complete=True)
        self._loss(
            torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64)
        )  # a wrong value is refused here, not in training

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        return {self.name: self._loss(outputs["student"], labels)}


@dataclass(frozen=True)
class TET(Method):
    """`losses.tet` with its two terms logged apart."""

    lamb: float = 1e-3
    phi: float = 1.0

    def __post_init__(self) -> None:
        check_unit("lamb", self.lamb)

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        return tet_parts(outputs["student"], labels, lamb=self.lamb, phi=self.phi)


@dataclass(frozen=True)
class TKS(Method):
    """`losses.tks` whose weight grows with training: a_e = alpha e / E for epoch e = 0..E-1, as
    released.

    So a_0 = 0 (plain cross-entropy) and the last epoch has alpha (E - 1) / E. `ramp="static"` keeps
    alpha throughout. Note that the authors' `--staticalpha` freezes the weight of the *label* part
    instead. Defaults: TKS's for CIFAR (alpha 0.7, temperature 3); its event recipes use 0.3 and 5.
    """

    alpha: float = 0.7
    temperature: float = 3.0
    pool: str = "sum_correct"
    detach: bool = False
    ramp: Literal["linear", "static"] = "linear"
    divergence: str = "ce"

    def __post_init__(self) -> None:
        check_unit("alpha", self.alpha)
        check_temperature(self.temperature)
        choose(POOLS, self.pool, "pool")
        choose(DIVERGENCES, self.divergence, "divergence")
        choose({"linear": 0, "static": 0}, self.ramp, "ramp")

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        alpha = self.alpha * (progress if self.ramp == "linear" else 1.0)
        return tks_parts(
            outputs["student"],
            labels,
            alpha=alpha,
            temperature=self.temperature,
            pool=self.pool,
            detach=self.detach,
            divergence=self.divergence,
        )


def _span(name: str, frames: Sequence[int | None]) -> slice:
    """`[first, stop]` as a slice; either end may be None. Frames are counted from the first:
    nothing negative.
    """
    first, stop = frames if isinstance(frames, Sequence) and len(frames) == 2 else (-1, -1)
    numbers = [end for end in (first, stop) if end is not None]
    if any(type(end) is not int or end < 0 for end in numbers) or sorted(set(numbers)) != numbers:
        raise UsageError(
            f"{name} must be [first, stop], counted from 0, first below stop, either of them null; got {frames}"
        )
    return slice(first, stop)


def _check_distillation(name: str, temperature: float, weight: float, label_loss: str) -> None:
    check_temperature(temperature)
    if not weight >= 0:
        raise UsageError(f"method {name}: weight must be >= 0, got {weight}")
    LossMethod(label_loss)


def _distilled(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, method: HSD | Distillation
) -> dict[str, Tensor]:
    """The labels' part and, where there is a teacher, its weighted part, by their names."""
    parts = {method.label_loss: LOSSES[method.label_loss](logits, labels)}
    if teacher is not None:
        soft = DISTILLATIONS[method.distill]
        pull = soft(logits, teacher, temperature=method.temperature, reduction=method.reduction)
        parts[method.distill] = method.weight * pull
    return parts


def _taught_by(teacher: str, twin_share: float) -> tuple[Phase, ...]:
    """The phases of a student with this teacher: "twin" is trained first, "run" comes from
    elsewhere, others are no network.
    """
    if teacher == "twin":
        return Phase(name="twin", neuron="relu", share=twin_share), Phase(
            name="snn", teacher="twin", share=1 - twin_share
        )
    return (Phase(teacher=OTHER_RUN if teacher == OTHER_RUN else None),)


def _refuse_idle(method: Any, name: str, keys: Sequence[str], why: str) -> None:
    """Refuse options that would do nothing, unless they have their defaults."""
    for each in fields(method):
        default = each.default if each.default is not MISSING else {}
        if each.name in keys and getattr(method, each.name) != default:
            raise UsageError(f"method {name}: {each.name} does nothing, {why}: leave it out")


def _check_share(what: str, share: float) -> None:
    if not 0 < share < 1:
        raise UsageError(f"{what} must be between 0 and 1, got {share}")


@dataclass(frozen=True, kw_only=True)
class FullRange(Method):
    """`losses.full_range`, whose parts are logged apart, and its ANN teacher if there is one,
    weighted by `alpha`.

    `teacher`: "none", "twin" (the ReLU twin, trained first on the labels alone for `twin_share` of
    the epochs) or "run" (the run folder that the record's `teacher` names). The published one sees
    the time mean of event frames; here a teacher sees the frames, and the mean of its logits
    teaches.
    """

    teacher: str = "none"
    alpha: float = 0.2
    beta: float = 0.5
    temperature: float = 3.0
    pool: str = "mean_correct"
    detach: bool = True
    twin_share: float = 0.5

    def __post_init__(self) -> None:
        choose({"none": 0, "twin": 0, OTHER_RUN: 0}, self.teacher, "teacher")
        _check_share("method full_range: twin_share", self.twin_share)
        if self.teacher != "twin":
            _refuse_idle(
                self,
                "full_range",
                ["twin_share"],
                f"with teacher {self.teacher!r} no twin is trained",
            )
        if self.teacher == "none":
            _refuse_idle(self, "full_range", ["alpha"], "there is no teacher to weigh")
        self.loss(
            {"student": torch.zeros(1, 1, 2)}, torch.zeros(1, dtype=torch.int64), 0.0
        )  # refuses wrong values

    def phases(self) -> tuple[Phase, ...]:
        return _taught_by(self.teacher, self.twin_share)

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        student, teacher = outputs["student"], outputs.get("teacher")
        if (
            teacher is None and self.teacher == "twin"
        ):  # the phase of the twin: the published ANN teachers are plain
            return {"ce": LOSSES["ce"](student, labels)}
        return full_range_parts(
            student,
            labels,
            None if teacher is None else teacher.mean(0),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            pool=self.pool,
            detach=self.detach,
        )


@dataclass(frozen=True, kw_only=True)
class Distillation(Method):
    """Labels, and the soft labels of a teacher: at every step ("skd") or for the time mean ("kd").

    `teacher`: "twin", the ANN twin (ReLU), trained first for `twin_share` of the epochs; "run", the
    network of the run folder that the record's `teacher` names; "self", the student's own time
    mean, as a constant (with "skd" only). Temperature 4 and the KL per sample are the usual ones of
    Hinton's distillation; `HSD` has those of its authors.
    """

    distill: str
    teacher: str = "twin"
    temperature: float = 4.0
    weight: float = 1.0
    reduction: str = "batchmean"
    label_loss: str = "ce"
    twin_share: float = 0.5

    def __post_init__(self) -> None:
        choose(DISTILLATIONS, self.distill, "distillation")
        choose({"twin": 0, OTHER_RUN: 0, "self": 0}, self.teacher, "teacher")
        _check_distillation(self.distill, self.temperature, self.weight, self.label_loss)
        if self.teacher == "self" and self.distill != "skd":
            raise UsageError(
                "method kd: the time mean cannot learn from itself; teacher 'self' needs skd"
            )
        _check_share(f"method {self.distill}: twin_share", self.twin_share)
        if self.teacher != "twin":
            _refuse_idle(
                self,
                self.distill,
                ["twin_share"],
                f"with teacher {self.teacher!r} no twin is trained",
            )

    def phases(self) -> tuple[Phase, ...]:
        return _taught_by(self.teacher, self.twin_share)

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        student = outputs["student"]
        if self.teacher == "self":
            return _distilled(student, labels, student.mean(0).detach(), self)
        teacher = outputs.get("teacher")
        return _distilled(student, labels, None if teacher is None else teacher.mean(0), self)


@dataclass(frozen=True, kw_only=True)
class HSD(Method):
    """Hybrid step-wise distillation: an ANN on one part of the frames becomes an SNN, and teaches
    it, on the other.

    1. "ann": the QCFS twin of the network (`levels`, `clip_init`, `gradient`: see
    `activations.QCFS`) learns the labels on
       `ann_frames`.
    2. "snn": its weights, with IF neurons whose threshold is the learnt clip, are fine-tuned on
    `snn_frames`:

        L = label_loss + weight * skd(o, z, temperature),   z = the time mean of the frozen ANN's
        logits on `teacher_frames`

    `distill`: "skd", every step; "kd", the time mean (the paper's ablation); "none", labels alone.
    `teacher_frames` None: those that the ANN learnt from. The ANN has `ann_share` of the epochs;
    `ann` and `snn` are keys of the plan that are others in their phase, like {"lr": 1e-5}. The
    record's neuron must be "qcfs_if"; its `scale` is where the clip goes. `twin="run"` takes the
    ANN of the run that the record's `teacher` names, trained before with neuron "qcfs", and has
    phase 2 alone.

    arXiv 2409.12507. Defaults: the authors' code, with its 'mean' reduction, which divides by C
    too, and temperature 10. That code makes teacher and student one object and never puts it in
    eval mode; here the teacher is a frozen copy.
    """

    neurons = ("qcfs_if",)
    distill: str = "skd"
    temperature: float = 10.0
    weight: float = 1.0
    reduction: str = "mean"
    label_loss: str = "ce"
    levels: int = 4
    clip_init: float = 8.0
    gradient: str = "floor_first"
    ann_frames: Sequence[int | None] = (0, 5)
    snn_frames: Sequence[int | None] = (5, None)
    teacher_frames: Sequence[int | None] | None = None
    twin: str = "phase"
    ann_share: float = 0.5
    ann: Mapping[str, Any] = field(default_factory=dict)
    snn: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose({**DISTILLATIONS, "none": 0}, self.distill, "distillation")
        choose({"phase": 0, OTHER_RUN: 0}, self.twin, "twin")
        _check_distillation("hsd", self.temperature, self.weight, self.label_loss)
        _check_share("method hsd: ann_share", self.ann_share)
        if self.twin == OTHER_RUN:
            idle = ["levels", "clip_init", "gradient", "ann_share", "ann"]
            _refuse_idle(self, "hsd", idle, "twin 'run' brings an ANN that is trained already")
        if self.distill == "none":
            _refuse_idle(
                self,
                "hsd",
                ["temperature", "weight", "reduction", "teacher_frames"],
                "nothing is distilled",
            )
        self.phases()  # wrong frames are refused here, not in training

    def phases(self) -> tuple[Phase, ...]:
        own = _span("ann_frames", self.ann_frames)
        shown = own if self.teacher_frames is None else _span("teacher_frames", self.teacher_frames)
        twin = {
            "name": "qcfs",
            "levels": self.levels,
            "clip_init": self.clip_init,
            "gradient": self.gradient,
        }
        here = self.twin == "phase"
        source = "ann" if here else OTHER_RUN
        ann = Phase(name="ann", neuron=twin, share=self.ann_share, frames=own, plan=self.ann)
        snn = Phase(
            name="snn",
            start_from=source,
            teacher=None if self.distill == "none" else source,
            share=1 - self.ann_share if here else 1.0,
            frames=_span("snn_frames", self.snn_frames),
            teacher_frames=shown,
            plan=self.snn,
        )
        return (ann, snn) if here else (snn,)

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        teacher = outputs.get("teacher")
        return _distilled(
            outputs["student"], labels, None if teacher is None else teacher.mean(0), self
        )


@dataclass(frozen=True, kw_only=True)
class QCFSConversion(Method):
    """An ANN with QCFS activations learns the labels and becomes an SNN as it is (Bu et al. 2022):
    nothing is fine-tuned.

    The record's neuron must be "qcfs_if". With as many steps as `levels` a layer's firing rate is
    its activation.
    """

    neurons = ("qcfs_if",)
    levels: int = 4
    clip_init: float = 8.0
    gradient: str = "clip_first"

    def phases(self) -> tuple[Phase, ...]:
        twin = {
            "name": "qcfs",
            "levels": self.levels,
            "clip_init": self.clip_init,
            "gradient": self.gradient,
        }
        return Phase(name="ann", neuron=twin), Phase(name="snn", start_from="ann", share=0.0)

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        return {"ce": LOSSES["ce"](outputs["student"], labels)}


def _loss_methods() -> dict[str, Callable[..., Method]]:
    return {name: partial(LossMethod, name) for name in LOSSES}


METHODS: dict[str, Callable[..., Method]] = {
    **_loss_methods(),
    "tet": TET,
    "tks": TKS,
    "full_range": FullRange,
    "kd": partial(Distillation, distill="kd"),
    "skd": partial(Distillation, distill="skd"),
    "hsd": HSD,
    "qcfs": QCFSConversion,
}


def create_method(name: str, /, **options: Any) -> Method:
    """A method of `METHODS`, or a loss of `LOSSES` even if its row is newer than `METHODS`, by
    name.

    Unknown names and arguments are refused with the nearest one.

    >>> create_method("tks", alpha=0.3, temperature=5.0)
    TKS(alpha=0.3, temperature=5.0, pool='sum_correct', detach=False, ramp='linear',
    divergence='ce')
    """
    kind = choose({**_loss_methods(), **METHODS}, name, "method")
    if isinstance(kind, type) or getattr(kind, "func", None) is Distillation:
        check_arguments(kind, options, f"method {name}", complete=True)
    return kind(**options)

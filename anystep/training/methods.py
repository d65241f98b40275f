"""The training schemes: which networks a method trains, and which weighted parts make its loss.

A loss of `LOSSES` is a method by its name already. A scheme with a ramp, a teacher or several
phases is a class here, with `phases()`, `views(x, phase, generator)` and `loss(outputs, labels,
progress)` (see `phases.Method`), and a row in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import check_arguments, choose
from anystep.training.distillation import DISTILLATIONS, skd
from anystep.training.losses import LOSSES, PARTS, Parts, check_weight, full_range_parts, tks_parts
from anystep.training.phases import OTHER_RUN, Method, Phase

StepLogits = Mapping[str, Tensor]  # (T, N, C) of "student" and, where there is one, of "teacher"


class LossMethod(Method):
    """Training with one loss of `LOSSES`, its weight constant, its parts (if any) logged apart."""

    def __init__(self, name: str, /, **options: Any) -> None:
        self.name = name
        loss = choose(LOSSES, name, "loss")
        check_arguments(partial(loss, None, None), options, f"method {name}", complete=True)
        whole_or_parts: Callable[..., Tensor | Parts] = PARTS.get(name, loss)
        self._loss = partial(whole_or_parts, **options)
        # a wrong value is refused here, not in training
        self._loss(torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64))

    def loss(self, outputs: StepLogits, labels: Tensor, progress: float) -> Parts:
        said = self._loss(outputs["student"], labels)
        return {self.name: said} if isinstance(said, Tensor) else said


def _try(method: Method) -> None:
    """Refuse wrong values now and not in training: the loss of every phase, on one sample."""
    logits, label = torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64)
    for phase in method.phases():
        roles = ("student",) if phase.teacher is None else ("student", "teacher")
        method.loss(dict.fromkeys(roles, logits), label, 1.0)


@dataclass(frozen=True)
class TKS(Method):
    """`losses.tks` whose weight grows with training, as released.

        a_e = alpha e / E   for epoch e = 0..E-1

    So a_0 = 0 (plain cross-entropy) and the last epoch has alpha (E - 1) / E. `ramp="static"` keeps
    alpha throughout; the authors' `--staticalpha` is something else, it freezes the weight of the
    *label* part. alpha and temperature are by default those of the paper's images; a record that
    names none takes the `published` ones of its kind of data.
    """

    published: ClassVar = {
        "events": {"alpha": 0.3, "temperature": 5.0},
        "images": {"alpha": 0.7, "temperature": 3.0},
    }
    alpha: float = 0.7
    temperature: float = 3.0
    pool: str = "sum_correct"
    detach: bool = False
    ramp: Literal["linear", "static"] = "linear"
    divergence: str = "ce"
    empty: str = "uniform"
    square: bool = True

    def __post_init__(self) -> None:
        choose({"linear": 0, "static": 0}, self.ramp, "ramp")
        _try(self)

    def remark(self, epochs: int) -> str:
        if self.ramp == "static" or epochs > 1:
            return ""
        way_out = "train longer, or with method.options.ramp static"
        return f"tks begins with weight 0, so one epoch of it is plain cross-entropy: {way_out}"

    def loss(self, outputs: StepLogits, labels: Tensor, progress: float) -> Parts:
        return tks_parts(
            outputs["student"],
            labels,
            alpha=self.alpha * (progress if self.ramp == "linear" else 1.0),
            temperature=self.temperature,
            pool=self.pool,
            detach=self.detach,
            divergence=self.divergence,
            empty=self.empty,
            square=self.square,
        )


def _check_share(what: str, share: float) -> None:
    if not 0 < share < 1:
        raise UsageError(f"{what} must be between 0 and 1, got {share}")


def _refuse_idle(method: Any, name: str, keys: Sequence[str], why: str) -> None:
    """Refuse options that would do nothing, unless they have their defaults."""
    for each in fields(method):
        default = each.default if each.default is not MISSING else {}
        if each.name in keys and getattr(method, each.name) != default:
            raise UsageError(f"method {name}: {each.name} does nothing, {why}: leave it out")


@dataclass(frozen=True, kw_only=True)
class _Taught(Method):
    """A student whose `teacher` is its ReLU twin, the network of another run, or no other one."""

    teacher: str = "twin"
    twin_share: float = 0.5

    def _check_teacher(self, name: str, other: str) -> None:
        choose({"twin": 0, OTHER_RUN: 0, other: 0}, self.teacher, "teacher")
        _check_share(f"method {name}: twin_share", self.twin_share)
        if self.teacher != "twin":
            why = f"with teacher {self.teacher!r} no twin is trained"
            _refuse_idle(self, name, ["twin_share"], why)

    def phases(self) -> tuple[Phase, ...]:
        if self.teacher == "twin":
            twin = Phase(name="twin", neuron="relu", share=self.twin_share)
            return twin, Phase(name="snn", teacher="twin", share=1 - self.twin_share)
        return (Phase(teacher=OTHER_RUN if self.teacher == OTHER_RUN else None),)


@dataclass(frozen=True, kw_only=True)
class FullRange(_Taught):
    """`losses.full_range` and, of a teacher, `skd` of the time mean of its logits, weighted by
    `alpha`: the whole published loss. The parts are logged apart.

    `teacher`: "none"; "twin", the ReLU twin, trained first on the labels alone for `twin_share` of
    the epochs; or "run", the network of the run folder that the record's `teacher` names. In the
    paper the teacher sees the time mean of event frames; here it sees the frames. alpha 0.2 and
    beta 0.5 stand in the authors' read-me; their code has 0.
    """

    teacher: str = "none"
    alpha: float = 0.2
    beta: float = 0.5
    temperature: float = 3.0
    pool: str = "mean_correct"
    detach: bool = True

    def __post_init__(self) -> None:
        self._check_teacher("full_range", "none")
        check_weight("alpha", self.alpha)
        if self.teacher == "none":
            _refuse_idle(self, "full_range", ["alpha"], "there is no teacher to weigh")
        _try(self)

    def loss(self, outputs: StepLogits, labels: Tensor, progress: float) -> Parts:
        student, teacher = outputs["student"], outputs.get("teacher")
        if teacher is None and self.teacher == "twin":
            # the phase of the twin: the ANN teachers of the paper learn the labels alone
            return {"ce": LOSSES["ce"](student, labels)}
        parts = full_range_parts(
            student,
            labels,
            beta=self.beta,
            temperature=self.temperature,
            pool=self.pool,
            detach=self.detach,
        )
        if teacher is not None:
            as_published = partial(skd, temperature=self.temperature, reduction="batchmean")
            parts["teacher"] = self.alpha * as_published(student, teacher.mean(0))
        return parts


def _distilled(
    outputs: StepLogits, labels: Tensor, teacher: Tensor | None, method: Distillation | HSD
) -> Parts:
    """The labels' part and, of a teacher (T, N, C), the weighted part of its time mean."""
    student = outputs["student"]
    parts = {method.label_loss: LOSSES[method.label_loss](student, labels)}
    if teacher is not None:
        distil = DISTILLATIONS[method.distill]
        options = {"temperature": method.temperature, "reduction": method.reduction}
        parts[method.distill] = method.weight * distil(student, teacher.mean(0), **options)
    return parts


@dataclass(frozen=True, kw_only=True)
class Distillation(_Taught):
    """The labels, and a teacher's soft labels: at every step ("skd") or for the time mean ("kd").

    `teacher`: "twin", the ReLU twin, trained first for `twin_share` of the epochs; "run", the
    network of the run folder that the record's `teacher` names; "self", the student's own time
    mean, as a constant (with "skd" only). Temperature 4 and the KL per sample are the usual ones of
    Hinton's distillation; `HSD` has those of its authors.
    """

    distill: str
    temperature: float = 4.0
    weight: float = 1.0
    reduction: str = "batchmean"
    label_loss: str = "ce"

    def __post_init__(self) -> None:
        choose(DISTILLATIONS, self.distill, "distillation")
        self._check_teacher(self.distill, "self")
        if self.teacher == "self" and self.distill != "skd":
            why = "the time mean cannot learn from itself"
            raise UsageError(f"method kd: {why}; teacher 'self' needs skd")
        check_weight(f"method {self.distill}: weight", self.weight)
        LossMethod(self.label_loss)
        _try(self)

    def loss(self, outputs: StepLogits, labels: Tensor, progress: float) -> Parts:
        own = outputs["student"].detach()
        teacher = own if self.teacher == "self" else outputs.get("teacher")
        return _distilled(outputs, labels, teacher, self)


def _span(name: str, frames: Sequence[int | None]) -> slice:
    """`[first, stop]`, counted from the first frame, as a slice; either end may be None."""
    first, stop = frames if isinstance(frames, Sequence) and len(frames) == 2 else (-1, -1)
    numbers = [end for end in (first, stop) if end is not None]
    if any(type(end) is not int or end < 0 for end in numbers) or sorted(set(numbers)) != numbers:
        rule = "[first, stop], counted from 0, first below stop, either of them null"
        raise UsageError(f"{name} must be {rule}; got {frames}")
    return slice(first, stop)


@dataclass(frozen=True, kw_only=True)
class QCFSConversion(Method):
    """An ANN with QCFS activations learns the labels and becomes an SNN as it is: nothing is
    fine-tuned. Bu et al. 2022.

    The record's neuron must be "qcfs_if". With as many steps as `levels` a layer's firing rate is
    its activation.
    """

    neurons = ("qcfs_if",)
    levels: int = 4
    clip_init: float = 8.0
    gradient: str = "clip_first"

    def _ann(self, **options: Any) -> Phase:
        activation = {"levels": self.levels, "clip_init": self.clip_init, "gradient": self.gradient}
        return Phase(name="ann", neuron={"name": "qcfs", **activation}, **options)

    def phases(self) -> tuple[Phase, ...]:
        return self._ann(), Phase(name="snn", start_from="ann", share=0.0)

    def loss(self, outputs: StepLogits, labels: Tensor, progress: float) -> Parts:
        return {"ce": LOSSES["ce"](outputs["student"], labels)}


@dataclass(frozen=True, kw_only=True)
class HSD(QCFSConversion):
    """Hybrid step-wise distillation: an ANN learns on one part of the frames, becomes an SNN, and
    teaches it on the other part.

    1. "ann": the QCFS twin of the network (`levels`, `clip_init`, `gradient`: see
       `activations.QCFS`) learns the labels on `ann_frames`.
    2. "snn": its weights, with IF neurons whose threshold is the learnt clip, are fine-tuned on
       `snn_frames`:

        L = label_loss + weight * skd(o, z, temperature)

    where z is the time mean of the frozen ANN's logits on `teacher_frames` (None: those that the
    ANN learnt from). `distill`: "skd", every step; "kd", the time mean (the paper's ablation);
    "none", labels alone. The ANN has `ann_share` of the epochs; `ann` and `snn` are the keys of the
    plan that differ in their phase, like {"lr": 1e-5}. The record's neuron must be "qcfs_if"; its
    `scale` is where the clip goes. `twin="run"` takes the ANN of the run that the record's
    `teacher` names, trained before with neuron "qcfs", and has phase 2 alone.

    arXiv 2409.12507. Defaults: the authors' code, with its 'mean' reduction, which divides by C
    too, and the temperature of CIFAR10-DVS, 10 (N-Caltech101: 2, see `skd`). In that code teacher
    and student are one object, which is never in eval mode; here the teacher is a frozen copy.
    """

    distill: str = "skd"
    temperature: float = 10.0
    weight: float = 1.0
    reduction: str = "mean"
    label_loss: str = "ce"
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
        check_weight("method hsd: weight", self.weight)
        LossMethod(self.label_loss)
        _check_share("method hsd: ann_share", self.ann_share)
        if self.twin == OTHER_RUN:
            idle = ["levels", "clip_init", "gradient", "ann_share", "ann"]
            _refuse_idle(self, "hsd", idle, "twin 'run' brings an ANN that is trained already")
        if self.distill == "none":
            idle = ["temperature", "weight", "reduction", "teacher_frames"]
            _refuse_idle(self, "hsd", idle, "nothing is distilled")
        _try(self)

    def phases(self) -> tuple[Phase, ...]:
        own = _span("ann_frames", self.ann_frames)
        shown = own if self.teacher_frames is None else _span("teacher_frames", self.teacher_frames)
        ann = self._ann(share=self.ann_share, frames=own, plan=self.ann)
        here = self.twin == "phase"
        source = ann.name if here else OTHER_RUN
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

    def loss(self, outputs: StepLogits, labels: Tensor, progress: float) -> Parts:
        return _distilled(outputs, labels, outputs.get("teacher"), self)


METHODS: dict[str, Callable[..., Method]] = {
    **{name: partial(LossMethod, name) for name in LOSSES},
    "tks": TKS,
    "full_range": FullRange,
    "kd": partial(Distillation, distill="kd"),
    "skd": partial(Distillation, distill="skd"),
    "hsd": HSD,
    "qcfs": QCFSConversion,
}


def create_method(name: str, /, **options: Any) -> Method:
    """A method of `METHODS` by name, or a loss of `LOSSES` whose row is newer than `METHODS`.

    Unknown names and arguments are refused with the nearest one.
    """
    if name in LOSSES and name not in METHODS:
        return LossMethod(name, **options)
    kind = choose(METHODS, name, "method")
    if getattr(kind, "func", kind) is not LossMethod:  # which checks its own
        check_arguments(kind, options, f"method {name}", complete=True)
    return kind(**options)

"""Train a network with a method. Knows no config, no files and no command line: it takes a state
and reports each epoch.
"""

from __future__ import annotations

import copy
import math
import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anystep._errors import AnystepWarning, RunError, UsageError
from anystep._extras import need
from anystep._lookup import check_arguments, check_keys
from anystep.data.loader import derive_seed, epoch_order, load_batches, to_device
from anystep.data.sets import as_dataset
from anystep.evaluation.energy import FiringRates, firing_rates
from anystep.evaluation.evaluate import collect
from anystep.evaluation.metrics import accuracy_by_step
from anystep.evaluation.readout import prefix_mean
from anystep.nn.fuse import fold_scales_
from anystep.nn.models.base import StepModel
from anystep.nn.weights import copy_weights
from anystep.training.methods import Method, Phase
from anystep.training.schedule import Plan

SILENT, SATURATED = 1e-4, 0.99
Metrics = dict[str, Any]


@dataclass
class TrainState:
    """All that training changes: weights, optimiser, and how far it is. `history` has one row an
    epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    phase: Phase = field(default_factory=Phase)
    teacher: nn.Module | None = None
    epoch: int = 0
    history: list[Metrics] = field(default_factory=list)


def start(
    model: nn.Module, plan: Plan, *, phase: Phase | None = None, teacher: nn.Module | None = None
) -> TrainState:
    """A state at epoch 0 with a fresh optimiser. A `teacher` is copied and frozen, in eval mode: it
    can share no tensor.

    Weight decay spares biases and tensors of one dimension or none (norms, learnt time constants),
    as timm does, unless the plan says `decay_all`.
    """
    phase = phase or Phase()
    plan = phase_plan(phase, plan)
    decayed = [p for p in model.parameters() if p.dim() > 1 or plan.decay_all]
    spared = [p for p in model.parameters() if p.dim() <= 1 and not plan.decay_all]
    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if teacher is not None:
        teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    return TrainState(model, _optimizer(groups, plan), phase, teacher)


def _optimizer(groups: list[dict[str, Any]], plan: Plan) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum)
    return (torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW)(groups, lr=plan.lr)


def make_fabric(
    *,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "auto",
    callbacks: Sequence[Any] = (),
) -> Any:
    """The engine that knows devices, precision and processes: Lightning Fabric (extra `train`).

    `accelerator` "auto" takes a CUDA GPU if there is one, `precision` "auto" bf16-mixed on a GPU
    that computes in it and 32-true elsewhere: bfloat16 is slower than float32 on most CPUs.

    Of its callbacks `fit` calls `on_epoch_start(title=, updates=)`, `on_update_end()` and
    `on_epoch_end()`.
    """
    fabric = need("lightning.fabric", extra="train", purpose="training")
    strategy = "ddp_spawn" if devices > 1 else "auto"
    if (
        accelerator == "auto"
    ):  # not Fabric's: metrics are summed in float64, which Apple's devices do not have
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    precision = choose_precision(accelerator) if precision == "auto" else precision
    options = {
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision,
        "strategy": strategy,
    }
    try:
        made = fabric.Fabric(**options, callbacks=list(callbacks))
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"engine: {error}") from error
    if made.device.type == "cpu" and "16" in precision:
        text = f"engine.precision {precision} on a CPU is usually slower than 32-true: few CPUs compute in 16 bits"
        warnings.warn(text, AnystepWarning, stacklevel=2)
    return made


def choose_precision(accelerator: str) -> str:
    """The precision that "auto" means, as Fabric names it."""
    halves = (
        accelerator in ("gpu", "cuda")
        and torch.cuda.is_available()
        and torch.cuda.is_bf16_supported()
    )
    return "bf16-mixed" if halves else "32-true"


def fit(
    state: TrainState,
    dataset: Any,
    *,
    method: Method,
    plan: Plan,
    seed: int = 0,
    validation: Any = None,
    fabric: Any = None,
    on_epoch: Callable[[TrainState, Metrics], None] | None = None,
) -> TrainState:
    """Train `state` from the epoch it is at to the end of its phase, on items `((T, P, H, W),
    label)`.

    A data set with a method `augment(x (T, N, P, H, W), y (N,), generator) -> (x, y)` has its
    training batches changed by it; labels may come back as shares (N, C) where the loss takes them.
    After each epoch `on_epoch(state, metrics)` gets the row that was added to `state.history`. All
    chance comes from `seed`, the phase and the epoch, so that a state saved after any epoch goes on
    to bit-identical weights; the global random generators are left as they were. `fabric=None`
    trains in this process on the best device.

    Errors: fewer samples than a batch; a batch that the processes cannot share equally; labels or
    frames that the network cannot take; recordings of different length; a loss that is no longer
    finite.
    """
    fabric = fabric or make_fabric()
    epochs = phase_epochs(state.phase, plan)
    plan = phase_plan(state.phase, plan)
    _check_batches(dataset, plan, processes=fabric.world_size)
    model, optimizer = fabric.setup(state.model, state.optimizer)
    if state.teacher is not None:
        state.teacher.to(fabric.device)
    engine = _Engine(fabric, model, optimizer, method, plan, seed)
    while state.epoch < epochs:
        lr = plan.lr_at(state.epoch, epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        began = time.perf_counter()
        devices = [fabric.device] if fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(seed, "epoch", state.phase.name, state.epoch))
            metrics = engine.epoch(state, dataset, progress=state.epoch / epochs)
        seconds = time.perf_counter() - began
        if validation is not None:
            metrics |= validate(
                state.model, validation, frames=frames_seen(state.phase, plan), plan=plan
            )
        count = len(dataset) // plan.batch_size * plan.batch_size
        metrics |= {
            "lr": lr,
            "seconds": seconds,
            "samples_per_s": count / seconds,
            "mem_mib": _peak_memory(fabric.device),
        }
        state.epoch += 1
        row = {"phase": state.phase.name, "epoch": state.epoch, **metrics}
        state.history.append(row)
        if on_epoch is not None:
            on_epoch(state, row)
    return state


def begin(
    model: nn.Module, plan: Plan, *, phase: Phase, networks: Mapping[str, nn.Module]
) -> TrainState:
    """`start` for a phase that may start from, or learn from, one of `networks`, by the name of the
    phase that made it.
    """
    if phase.start_from is not None:
        copy_weights(networks[phase.start_from].state_dict(), model)
        fold_scales_(cast(StepModel, model))
    return start(
        model, plan, phase=phase, teacher=None if phase.teacher is None else networks[phase.teacher]
    )


def fit_phases(
    make: Callable[[Phase], nn.Module],
    dataset: Any,
    *,
    method: Method,
    plan: Plan,
    networks: Mapping[str, nn.Module] | None = None,
    **options: Any,
) -> dict[str, nn.Module]:
    """`fit` for every phase of a method, in order: the trained network of each phase by its name,
    the last one the result.

    `make(phase)` gives the new network of a phase, with the neuron that `phase.neuron` names (None:
    your own choice). `networks`: those made elsewhere, like {"run": teacher}. `options` are those
    of `fit`.
    """
    made = dict(networks or {})
    check_shares(method, plan)
    for phase in method.phases():
        state = begin(make(phase), plan, phase=phase, networks=made)
        made[phase.name] = fit(state, dataset, method=method, plan=plan, **options).model
    return made


def check_shares(method: Method, plan: Plan) -> None:
    """Refuse epochs that the phases of a method cannot share exactly."""
    epochs = [phase_epochs(phase, plan) for phase in method.phases()]
    if sum(epochs) != plan.epochs:
        made = " + ".join(map(str, epochs))
        raise UsageError(
            f"train.epochs {plan.epochs} would be {made} for the phases: change it, or the share of a phase"
        )


def phase_epochs(phase: Phase, plan: Plan) -> int:
    """How many of the plan's epochs a phase has: its share, rounded, at least one unless the share
    is 0.
    """
    return max(1, round(phase.share * plan.epochs)) if phase.share else 0


def phase_plan(phase: Phase, plan: Plan) -> Plan:
    """The plan with what is other in this phase. Error: a key that is none of a plan's, or that is
    the whole run's.
    """
    where = f"the plan of phase {phase.name!r}"
    check_keys(
        phase.plan,
        [key for key in vars(plan) if key not in ("epochs", "steps", "workers")],
        "key",
        where,
    )
    check_arguments(Plan, phase.plan, where)
    return replace(plan, **phase.plan)


def frames_seen(phase: Phase, plan: Plan) -> slice:
    """The steps of a recording that the student of a phase is trained on: of the first `plan.steps`
    those in `phase.frames`.
    """
    first, stop, steps = phase.frames.start, phase.frames.stop, plan.steps
    return slice(first, stop if steps is None else min(steps, steps if stop is None else stop))


def validate(model: nn.Module, dataset: Any, *, frames: slice, plan: Plan) -> Metrics:
    """Cross-entropy of the time mean, and accuracy in percent at t = T and t = 1."""
    outputs = collect(
        model, dataset, batch_size=plan.batch_size, workers=plan.workers, frames=frames
    )
    prefix = prefix_mean(outputs.logits)
    accuracy = accuracy_by_step(prefix, outputs.labels)
    loss = F.cross_entropy(torch.from_numpy(prefix[-1]), torch.from_numpy(outputs.labels))
    return {
        "val_loss": float(loss),
        "val_acc": float(accuracy[-1]),
        "val_acc_first": float(accuracy[0]),
    }


@dataclass
class _Engine:
    fabric: Any
    model: nn.Module
    optimizer: Any
    method: Method
    plan: Plan
    seed: int

    def epoch(self, state: TrainState, dataset: Any, *, progress: float) -> Metrics:
        """One pass over the data."""
        self.model.train()
        size, balance = self.plan.batch_size, _balance(dataset, self.plan)
        chance = {
            "seed": self.seed,
            "epoch": state.epoch,
            "balance": balance,
            "blocks": as_dataset(dataset).blocks,
        }
        order = epoch_order(len(dataset), batch_size=size, **chance)
        self._tell(
            "on_epoch_start",
            title=f"{state.phase.name} epoch {state.epoch + 1}",
            updates=len(order),
        )
        try:
            totals, correct, rates = self._pass(state, dataset, order, progress)
        finally:
            self._tell("on_epoch_end")  # whatever happened: a bar must give the terminal back
        summary = self._summary(
            totals, correct, len(order)
        )  # refuses what is not finite, so it comes before the warnings
        if self.fabric.is_global_zero:
            _warn_of_extremes(rates.mean())
        return summary

    def _tell(self, event: str, **what: Any) -> None:
        """Fabric's callbacks, in the first process only: there is one terminal."""
        if self.fabric.is_global_zero:
            self.fabric.call(event, **what)

    def _pass(
        self, state: TrainState, dataset: Any, order: list[list[int]], progress: float
    ) -> tuple[dict[str, Tensor], Tensor, FiringRates]:
        """All updates of an epoch: sums of the loss parts and of the accuracy, which stay on the
        device so that no update waits for the host, and the firing rates of the last update.
        """
        rank, world = self.fabric.global_rank, self.fabric.world_size
        augment = getattr(dataset, "augment", None)
        totals: dict[str, Tensor] = {}
        correct = torch.zeros((), dtype=torch.float64, device=self.fabric.device)
        mine = load_batches(
            dataset, [batch[rank::world] for batch in order], workers=self.plan.workers
        )
        for index, (x, labels) in enumerate(mine):
            _check_labels(labels, state.model)
            x, labels = to_device(x, self.fabric.device), labels.to(self.fabric.device)
            if augment is not None:
                seed = derive_seed(self.seed, "augment", state.phase.name, state.epoch, index, rank)
                x, labels = augment(x, labels, torch.Generator().manual_seed(seed))
            seed = derive_seed(self.seed, "views", state.phase.name, state.epoch, index)
            views = self.method.views(
                x[: self.plan.steps], state.phase, torch.Generator().manual_seed(seed)
            )
            watched = (
                firing_rates(state.model) if index == len(order) - 1 else nullcontext(FiringRates())
            )
            with watched as rates:
                parts, logits = self._update(state, views, labels, progress)
            classes = labels.argmax(-1) if labels.is_floating_point() else labels
            correct += (logits.mean(0).argmax(-1) == classes).double().mean()
            for name, value in parts.items():
                totals[name] = totals.get(name, 0) + value.detach().double()
            self._tell("on_update_end")
        return totals, correct, rates

    def _update(
        self,
        state: TrainState,
        views: dict[str, Tensor],
        labels: Tensor,
        progress: float,
    ) -> tuple[dict[str, Tensor], Tensor]:
        outputs = {"student": self.model(views["student"])}
        if state.teacher is not None:
            with torch.no_grad():
                weight = next(state.teacher.parameters())
                outputs["teacher"] = state.teacher(
                    to_device(views["teacher"], weight.device, weight.dtype)
                ).float()
        parts = self.method.loss(outputs, labels, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(torch.stack(list(parts.values())).sum())
        if self.plan.grad_clip is not None:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.plan.grad_clip)
        self.optimizer.step()
        return parts, outputs["student"].detach()

    def _summary(self, totals: dict[str, Tensor], correct: Tensor, batches: int) -> Metrics:
        sums = torch.stack([*totals.values(), correct])
        *means, accuracy = (self.fabric.all_reduce(sums, reduce_op="mean") / batches).tolist()
        values = dict(zip(totals, means, strict=True))
        loss = sum(values.values())
        if not math.isfinite(loss):
            raise RunError(
                f"the training loss is no longer finite ({values}): lower train.lr or set train.grad_clip"
            )
        return {"train_loss": loss, "train_acc": 100 * accuracy, "parts": values}


def _check_batches(dataset: Any, plan: Plan, *, processes: int) -> None:
    """Refuse batches that cannot be made, or that `processes` cannot share."""
    if len(dataset) < plan.batch_size:
        raise UsageError(
            f"the training set has {len(dataset)} samples, fewer than one batch of {plan.batch_size}"
        )
    if plan.batch_size % processes:
        raise UsageError(
            f"batch_size {plan.batch_size} cannot be shared equally by {processes} processes"
        )
    lengths = as_dataset(dataset).lengths
    if lengths is not None and len(set(lengths)) > 1:
        raise UsageError("training needs recordings of one length: give data.binning.steps")


def _balance(dataset: Any, plan: Plan) -> Any:
    """The labels that a balanced epoch is drawn by, or None for a plain one."""
    if not plan.balanced:
        return None
    labels = as_dataset(dataset).labels
    if labels is None:
        raise UsageError(
            f"train.balanced needs a data set that has its labels as .labels, {type(dataset).__name__} has none"
        )
    return labels


def _check_labels(labels: Tensor, model: nn.Module) -> None:
    classes = getattr(model, "num_classes", None)
    if classes is not None and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UsageError(
            f"labels must be in 0..{classes - 1}, got {labels.min()}..{labels.max()} in a batch"
        )


def _warn_of_extremes(rates: dict[str, float]) -> None:
    """A layer that never or always fires passes nothing on: say so, by name. Python shows an equal
    warning once.
    """
    for name, rate in rates.items():
        if rate < SILENT or rate > SATURATED:
            word = "silent" if rate < SILENT else "saturated"
            warnings.warn(
                f"layer {name!r} is {word}: it fires at a rate of {rate:.5f}",
                AnystepWarning,
                stacklevel=3,
            )


def _peak_memory(device: torch.device) -> float:
    """Peak memory in MiB: of the device if it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

"""One epoch of training: batches in, updates of the network out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anystep._errors import AnystepWarning, RunError, UsageError
from anystep.data.loader import derive_seed, epoch_order, load_batches, to_device
from anystep.data.sets import DataSet
from anystep.evaluation.energy import FiringRates, firing_rates
from anystep.training.losses import Parts
from anystep.training.phases import Method, Phase
from anystep.training.schedule import Plan

SILENT, SATURATED = 1e-4, 0.99  # firing rates beyond which a layer passes nothing on
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Metrics = dict[str, Any]


def _check_labels(labels: Tensor, network: nn.Module) -> None:
    classes = getattr(network, "num_classes", None)  # a network of one's own need not say
    if classes is not None and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        found = f"{labels.min()}..{labels.max()}"
        raise UsageError(f"labels must be in 0..{classes - 1}, got {found} in a batch")


def _warn_of_extremes(rates: dict[str, float]) -> None:
    """Name a layer that never or always fires. Python shows an equal warning once."""
    for name, rate in rates.items():
        if rate < SILENT or rate > SATURATED:
            word = "silent" if rate < SILENT else "saturated"
            text = f"layer {name!r} is {word}: it fires at a rate of {rate:.5f}"
            warnings.warn(text, AnystepWarning, stacklevel=3)


@dataclass
class TrainState:
    """All that training changes; `history` has one row an epoch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    phase: Phase = field(default_factory=Phase)
    teacher: nn.Module | None = None
    epoch: int = 0
    history: list[Metrics] = field(default_factory=list)


@dataclass(kw_only=True)
class Trainer:
    """What all epochs of a phase share."""

    fabric: Any
    state: TrainState
    method: Method
    plan: Plan
    seed: int
    augment: Augment | None

    def __post_init__(self) -> None:
        # as the fabric wraps them; those of the state stay plain
        self.model, self.optimizer = self.fabric.setup(self.state.model, self.state.optimizer)
        if self.state.teacher is not None:
            self.state.teacher.to(self.fabric.device)

    def epoch(self, data: DataSet, *, progress: float) -> Metrics:
        """The next epoch: one pass over the data. Global random generators stay as they were."""
        self.model.train()
        number = self.state.epoch
        order = epoch_order(
            len(data),
            batch_size=self.plan.batch_size,
            seed=self.seed,
            epoch=number,
            balance=data.labels if self.plan.balanced else None,
            blocks=data.blocks,
        )
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        title = f"{self.state.phase.name} epoch {number + 1}"
        self._tell("on_epoch_start", title=title, updates=len(order))
        try:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(self._chance("epoch", number).initial_seed())
                totals, correct, rates = self._pass(data, order, progress)
        finally:
            self._tell("on_epoch_end")  # whatever happened: a bar must give the terminal back
        summary = self._summary(totals, correct, len(order))  # first: it refuses a loss of NaN
        if self.fabric.is_global_zero:
            _warn_of_extremes(rates.mean())
        return summary

    def _chance(self, purpose: str, *what: int) -> torch.Generator:
        seed = derive_seed(self.seed, purpose, self.state.phase.name, *what)
        return torch.Generator().manual_seed(seed)

    def _tell(self, event: str, **what: Any) -> None:
        """Call Fabric's callbacks, in the first process only: there is one terminal."""
        if self.fabric.is_global_zero:
            self.fabric.call(event, **what)

    def _pass(
        self, data: DataSet, order: list[list[int]], progress: float
    ) -> tuple[Parts, Tensor, FiringRates]:
        """All updates of an epoch: the sums of the loss parts and of the accuracy, and the firing
        rates of the last update. The sums stay on the device, so that no update waits for the host.
        """
        rank, world, number = self.fabric.global_rank, self.fabric.world_size, self.state.epoch
        totals: Parts = {}
        correct = torch.zeros((), dtype=torch.float64, device=self.fabric.device)
        mine = [batch[rank::world] for batch in order]
        for index, (x, labels) in enumerate(load_batches(data, mine, workers=self.plan.workers)):
            _check_labels(labels, self.state.model)
            x, labels = to_device(x, self.fabric.device), labels.to(self.fabric.device)
            if self.augment is not None:
                x, labels = self.augment(x, labels, self._chance("augment", number, index, rank))
            chance = self._chance("views", number, index)
            views = self.method.views(x[: self.plan.steps], self.state.phase, chance)
            last = index == len(order) - 1
            with firing_rates(self.state.model) if last else nullcontext(FiringRates()) as rates:
                parts, logits = self._update(views, labels, progress)
            classes = labels.argmax(-1) if labels.is_floating_point() else labels
            correct += (logits.mean(0).argmax(-1) == classes).double().mean()
            for name, value in parts.items():
                totals[name] = totals.get(name, 0) + value.detach().double()
            self._tell("on_update_end")
        return totals, correct, rates

    def _update(
        self, views: dict[str, Tensor], labels: Tensor, progress: float
    ) -> tuple[Parts, Tensor]:
        """One move of the optimiser: the parts of the loss, and the student's step logits."""
        outputs = {"student": self.model(views["student"])}
        teacher = self.state.teacher
        if teacher is not None:
            weight = next(teacher.parameters())
            shown = to_device(views["teacher"], weight.device, weight.dtype)
            with torch.no_grad():
                outputs["teacher"] = teacher(shown).float()
        parts = self.method.loss(outputs, labels, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(torch.stack(list(parts.values())).sum())
        if self.plan.grad_clip is not None:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.plan.grad_clip)
        self.optimizer.step()
        return parts, outputs["student"].detach()

    def _summary(self, totals: Parts, correct: Tensor, batches: int) -> Metrics:
        """The means over the batches of all processes. Error: a loss that is not finite."""
        sums = torch.stack([*totals.values(), correct])
        *means, accuracy = (self.fabric.all_reduce(sums, reduce_op="mean") / batches).tolist()
        parts = dict(zip(totals, means, strict=True))
        loss = sum(parts.values())
        if not math.isfinite(loss):
            what = f"the training loss is no longer finite ({parts})"
            raise RunError(f"{what}: lower train.lr or set train.grad_clip")
        return {"train_loss": loss, "train_acc": 100 * accuracy, "parts": parts}

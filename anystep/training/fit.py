"""Train a network with a method, phase by phase and epoch by epoch.

Nothing here knows a config, a file or a command line: `fit` takes a state and reports each epoch.
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from anystep._errors import UsageError
from anystep.console import ProgressBar, show_epoch
from anystep.data.sets import DataSet, MapStyle, as_dataset
from anystep.evaluation.evaluate import collect, refuse_hidden_state
from anystep.evaluation.metrics import accuracy_by_step
from anystep.evaluation.readout import prefix_mean
from anystep.nn.fuse import fold_scales_
from anystep.nn.models.base import StepModel
from anystep.nn.weights import copy_weights
from anystep.training.epoch import Augment, Metrics, Trainer, TrainState
from anystep.training.fabric import make_fabric
from anystep.training.methods import create_method
from anystep.training.phases import (
    Method,
    Phase,
    check_shares,
    frames_seen,
    phase_epochs,
    phase_plan,
)
from anystep.training.schedule import Plan


def _optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Weight decay spares biases, norms and learnt time constants, as timm does: dim() <= 1."""
    decayed: dict[str, Any] = {"params": [], "weight_decay": plan.weight_decay}
    spared: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    for each in model.parameters():
        (decayed if plan.decay_all or each.dim() > 1 else spared)["params"].append(each)
    groups = [group for group in (decayed, spared) if group["params"]]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum)
    return (torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW)(groups, lr=plan.lr)


def start(
    model: nn.Module,
    plan: Plan,
    *,
    phase: Phase | None = None,
    networks: Mapping[str, nn.Module] | None = None,
) -> TrainState:
    """A state at epoch 0 of a phase, with a fresh optimiser.

    Where the phase starts from another network or learns from one, `networks` has it, by the name
    of the phase that made it. A teacher is copied and frozen in eval mode.
    """
    phase, networks, teacher = phase or Phase(), networks or {}, None
    if phase.start_from is not None:
        copy_weights(networks[phase.start_from].state_dict(), model)
        fold_scales_(cast(StepModel, model))
    if phase.teacher is not None:
        teacher = copy.deepcopy(networks[phase.teacher]).eval().requires_grad_(False)
    return TrainState(model, _optimizer(model, phase_plan(phase, plan)), phase, teacher)


def _check_data(data: DataSet, plan: Plan, *, processes: int) -> None:
    """Refuse recordings that no batch can be made of, and batches that `processes` cannot share."""
    if len(data) < plan.batch_size:
        raise UsageError(f"{len(data)} samples are fewer than one batch of {plan.batch_size}")
    if plan.batch_size % processes:
        raise UsageError(f"{processes} processes cannot share a batch of {plan.batch_size} equally")
    if plan.balanced and data.labels is None:
        raise UsageError("train.balanced needs a data set that has its labels as .labels")
    if data.lengths is not None and len(set(data.lengths)) > 1:
        raise UsageError("training needs recordings of one length: give data.binning.steps")


def validate(model: nn.Module, dataset: MapStyle, *, frames: slice, plan: Plan) -> Metrics:
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


def _peak_memory(device: torch.device) -> float:
    """Peak memory in MiB: of the device if it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _epoch(trainer: Trainer, data: DataSet, epochs: int, validation: MapStyle | None) -> Metrics:
    """Train the next of `epochs`, and validate: all that a row of the history says of it."""
    plan, state = trainer.plan, trainer.state
    lr = plan.lr_at(state.epoch, epochs)
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr
    began = time.perf_counter()
    metrics = trainer.epoch(data, progress=state.epoch / epochs)
    seconds = time.perf_counter() - began
    if validation is not None:
        seen = frames_seen(state.phase, plan)
        metrics |= validate(state.model, validation, frames=seen, plan=plan)
    samples = len(data) // plan.batch_size * plan.batch_size
    return metrics | {
        "lr": lr,
        "seconds": seconds,
        "samples_per_s": samples / seconds,
        "mem_mib": _peak_memory(trainer.fabric.device),
    }


def _method_of(method: Method | str) -> Method:
    if isinstance(method, str):
        return create_method(method)
    if not isinstance(method, Method):
        way_out = "a name like 'tks', or what create_method('tks', alpha=0.3) makes"
        raise UsageError(f"method must be {way_out}, got {method!r}")
    return method


def fit(
    state: TrainState,
    dataset: MapStyle,
    *,
    method: Method | str,
    plan: Plan,
    seed: int = 0,
    augment: Augment | None = None,
    validation: MapStyle | None = None,
    fabric: Any = None,
    on_epoch: Callable[[TrainState, Metrics], None] | None = None,
) -> TrainState:
    """Train `state` from where it is to the end of its phase, on items `((T, P, H, W), label)`.

    `augment(x (T, N, P, H, W), y (N,), generator) -> (x, y)` changes every training batch; labels
    may come back as shares (N, C) where the loss takes them. `method` is a method or its name.
    After each epoch `on_epoch(state, metrics)` gets the row that was added to `state.history`;
    `console.show_epoch` says it, which is the default on a terminal. `fabric=None` trains in this
    process on the best device.

    All chance comes from `seed`, the phase and the epoch, so a state that was saved after any epoch
    goes on to bit-identical weights; the global random generators are left as they were.

    Errors: fewer samples than a batch; a batch that the processes cannot share equally; recordings
    of different length; labels or frames that the network cannot take; a network that keeps state
    between calls; a loss that is not finite.
    """
    if on_epoch is None and fabric is None and sys.stderr.isatty():
        on_epoch = show_epoch
    fabric, data = fabric or make_fabric(callbacks=[ProgressBar("fit")]), as_dataset(dataset)
    method = _method_of(method)
    epochs, plan = phase_epochs(state.phase, plan), phase_plan(state.phase, plan)
    _check_data(data, plan, processes=fabric.world_size)
    trainer = Trainer(
        fabric=fabric, state=state, method=method, plan=plan, seed=seed, augment=augment
    )
    seen = frames_seen(state.phase, plan)
    refuse_hidden_state(state.model, data, list(range(plan.batch_size)), frames=seen)
    while state.epoch < epochs:
        metrics = _epoch(trainer, data, epochs, validation)
        state.epoch += 1
        row = {"phase": state.phase.name, "epoch": state.epoch, **metrics}
        state.history.append(row)
        if on_epoch is not None:
            on_epoch(state, row)
    return state


def fit_phases(
    make: Callable[[Phase], nn.Module],
    dataset: MapStyle,
    *,
    method: Method | str,
    plan: Plan,
    networks: Mapping[str, nn.Module] | None = None,
    **options: Any,
) -> dict[str, nn.Module]:
    """`fit` for every phase of a method: the networks by their phases; the last is the result.

    `make(phase)` gives the new network of a phase, with the neuron that `phase.neuron` names (None:
    your own choice). `networks`: those made elsewhere, like {"run": teacher}. `options`: of `fit`.
    """
    made, method = dict(networks or {}), _method_of(method)
    check_shares(method, plan)
    for phase in method.phases():
        state = start(make(phase), plan, phase=phase, networks=made)
        made[phase.name] = fit(state, dataset, method=method, plan=plan, **options).model
    return made

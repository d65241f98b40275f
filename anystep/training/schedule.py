"""The budget of a training run and its learning rates. Free of torch, so that help is fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anystep._errors import UsageError
from anystep._lookup import choose


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The budget of a training run: equal plans are equal budgets.

    Args:
        epochs: passes over the training split.
        batch_size: samples in an update, over all processes.
        steps: train on the first so many time steps of a recording; null takes all. The test always
            sees all.
        balanced: draw an epoch with replacement, every class as often as any other; else every
            sample once.
        optimizer: adamw, adam or sgd.
        momentum: of sgd.
        lr: peak learning rate.
        min_lr: where the cosine would end after the last epoch.
        warmup_epochs: epochs on a straight line from warmup_lr to lr.
        warmup_lr: learning rate of the first warm-up epoch.
        weight_decay: decoupled for adamw, added to the gradient for adam and sgd.
        decay_all: decay biases and one-dimensional tensors too.
        grad_clip: largest gradient norm, or null.
        workers: loader processes; 0 loads in the training process.
    """

    epochs: int = 10
    batch_size: int = 64
    steps: int | None = None
    balanced: bool = False
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.9
    lr: float = 1e-3
    min_lr: float = 0.0
    warmup_epochs: int = 0
    warmup_lr: float = 1e-6
    weight_decay: float = 0.01
    decay_all: bool = False
    grad_clip: float | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        choose({"adamw": 0, "adam": 0, "sgd": 0}, self.optimizer, "optimizer")
        rules = {name: (getattr(self, name) >= 1, ">= 1") for name in ("epochs", "batch_size")}
        for name in ("min_lr", "warmup_epochs", "warmup_lr", "weight_decay", "workers"):
            rules[name] = getattr(self, name) >= 0, ">= 0"
        rules["momentum"] = 0 <= self.momentum < 1, "in [0, 1)"
        rules["lr"] = self.lr > 0, "> 0"
        rules["steps"] = self.steps is None or self.steps >= 1, ">= 1 or null"
        rules["grad_clip"] = self.grad_clip is None or self.grad_clip > 0, "> 0 or null"
        for name, (holds, rule) in rules.items():
            if not holds:
                raise UsageError(f"train: {name} must be {rule}, got {getattr(self, name)}")

    def lr_at(self, epoch: int, epochs: int | None = None) -> float:
        """The learning rate of an epoch, counted from 0. As in TKS's code it moves once an epoch.

            epoch < W:  warmup_lr + (lr - warmup_lr) epoch / W        W = warmup_epochs
            else:       min_lr + (lr - min_lr) (1 + cos(pi epoch / E)) / 2

        The cosine is read at `epoch`, not at `epoch - W`. `epochs` is E for a phase that is shorter
        than the plan.
        """
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (self.lr - self.warmup_lr) * epoch / self.warmup_epochs
        fall = 1 + math.cos(math.pi * epoch / (epochs or self.epochs))
        return self.min_lr + (self.lr - self.min_lr) * fall / 2

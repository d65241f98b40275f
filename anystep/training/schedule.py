"""How long, how fast and in what order of magnitude a network is trained. Free of torch, so that
the CLI's help is fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anystep._errors import UsageError
from anystep._lookup import choose

OPTIMIZERS = ("adamw", "adam", "sgd")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The budget of a training run: equal plans are equal budgets.

    Args:
        epochs: passes over the training split.
        batch_size: samples in an update, over all processes.
        steps: train on the first so many time steps of a recording; null takes all. The test sees
        all of them in any case.
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
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"train: {name} must be >= 1, got {getattr(self, name)}")
        choose(dict.fromkeys(OPTIMIZERS), self.optimizer, "optimizer")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"train: steps must be >= 1 or null, got {self.steps}")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"train: momentum must be in [0, 1), got {self.momentum}")
        for name in ("min_lr", "warmup_epochs", "warmup_lr", "weight_decay", "workers"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"train: {name} must be >= 0, got {getattr(self, name)}")
        if not self.lr > 0:
            raise UsageError(f"train: lr must be > 0, got {self.lr}")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise UsageError(f"train: grad_clip must be > 0 or null, got {self.grad_clip}")

    def lr_at(self, epoch: int, epochs: int | None = None) -> float:
        """The learning rate of a whole epoch, counted from 0: it moves once an epoch, as in TKS's
        code.

            epoch < W:  warmup_lr + (lr - warmup_lr) epoch / W        W = warmup_epochs
            else:       min_lr + (lr - min_lr) (1 + cos(pi epoch / E)) / 2

        The cosine is read at `epoch`, not at `epoch - W`. `epochs` is E for a phase that is shorter
        than the plan.

        >>> plan = Plan(epochs=600, lr=6.25e-4, min_lr=1e-5, warmup_epochs=5)
        >>> [round(plan.lr_at(e), 7) for e in (0, 1, 4)]
        [1e-06, 0.0001258, 0.0005002]
        """
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (self.lr - self.warmup_lr) * epoch / self.warmup_epochs
        return (
            self.min_lr
            + (self.lr - self.min_lr)
            * (1 + math.cos(math.pi * epoch / (epochs or self.epochs)))
            / 2
        )

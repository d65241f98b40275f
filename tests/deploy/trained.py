"""A small network that has learnt something, whose every layer fires, and frames that it knows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from anystep.training.fit import fit, make_fabric, start
from anystep.training.methods import create_method
from anystep.training.schedule import Plan

STEPS, CLASSES, SIZE = 4, 3, 16
ABOUT = {
    "classes": [f"class {number}" for number in range(CLASSES)],
    "steps": STEPS,
    "accuracy": {"prefix": "live"},
    "from_first": False,
    "binning": {"name": "fixed_duration", "steps": STEPS, "duration_us": 1000},
}


class Blobs:
    """A bright patch that moves in one of three directions: (frames (4, 2, 16, 16), direction)."""

    def __init__(self, count: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.labels = draw.integers(0, CLASSES, count)
        self.frames = draw.poisson(0.2, (count, STEPS, 2, SIZE, SIZE)).astype(np.uint8)
        for index, label in enumerate(self.labels):
            row, column = draw.integers(2, 6, 2)
            for step in range(STEPS):
                down, right = ((2 * step, 0), (0, 2 * step), (2 * step, 2 * step))[label]
                self.frames[index, step, step % 2, row + down :, :][:3, column + right :][
                    :, :3
                ] += 4

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.frames[index], int(self.labels[index])


def make(name: str, **options: object) -> StepModel:
    """An untrained network of a row of MODELS for the blobs."""
    shape = {"num_classes": CLASSES, "in_planes": 2, "input_size": SIZE}
    return create_model(name, **{**shape, **options})


def trained(model: StepModel, *, epochs: int = 3) -> StepModel:
    """The network after a few epochs on the blobs, in eval mode."""
    plan = Plan(epochs=epochs, batch_size=16, lr=5e-3)
    fabric = make_fabric(accelerator="cpu", precision="32-true")
    fit(start(model, plan), Blobs(128, 0), method=create_method("tet"), plan=plan, fabric=fabric)
    return model.eval()


def samples(count: int = 8) -> Tensor:
    """Frames (T, N, P, H, W) that the training did not see."""
    return torch.from_numpy(Blobs(count, 1).frames).float().transpose(0, 1)

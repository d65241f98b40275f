"""The engine that training runs on: devices, precision and processes, from Lightning Fabric."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from anystep._errors import AnystepWarning, UsageError
from anystep._extras import need


def choose_precision(accelerator: str) -> str:
    """The precision that "auto" means, as Fabric names it."""
    gpu = accelerator in ("gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"


def make_fabric(
    *,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "auto",
    callbacks: Sequence[Any] = (),
) -> Any:
    """A Lightning Fabric (extra `train`).

    `accelerator` "auto" takes a CUDA GPU if there is one. `precision` "auto" is bf16-mixed on a GPU
    that computes in it and 32-true elsewhere: bfloat16 is slower than float32 on most CPUs. `fit`
    calls the callbacks' `on_epoch_start(title=, updates=)`, `on_update_end()` and `on_epoch_end()`.
    """
    fabric = need("lightning.fabric", extra="train", purpose="training")
    if accelerator == "auto":
        # Fabric's own choice may be Apple's devices, which lack the float64 that metrics sum in
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    precision = choose_precision(accelerator) if precision == "auto" else precision
    try:
        made = fabric.Fabric(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            strategy="ddp_spawn" if devices > 1 else "auto",
            callbacks=list(callbacks),
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"engine: {error}") from error
    if made.device.type == "cpu" and "16" in precision:
        text = f"engine.precision {precision} on a CPU is usually slower than 32-true"
        warnings.warn(f"{text}: few CPUs compute in 16 bits", AnystepWarning, stacklevel=2)
    return made

"""Train a spiking network once with many time steps, deploy it at any step.

The names below, and modules like `anystep.training.losses`, are loaded when they are first used, so
that `import anystep` and the command line's help are fast and a runtime without torch can import
its own parts."""

from __future__ import annotations

import importlib
from typing import Any

from anystep._errors import AnystepWarning

__version__ = "0.1.0"

_HOMES = {
    "nn.weights": ("save_model",),
    "folder": ("load_model", "write_report"),
    "compare": ("compare_methods", "compare_recipes"),
    "config": ("Record", "load_recipe", "record_from"),
    "data.camera.batched": ("simulate_batch",),
    "data.check": ("check_dataset",),
    "data.datasets": ("DATASETS", "load_dataset"),
    "data.digits": ("digits_dvs",),
    "data.sets": ("FrameSet", "FramesOf", "ImageSet", "Splits"),
    "data.recording": ("Events",),
    "data.frames": (
        "BINNINGS",
        "ENCODINGS",
        "Direct",
        "EqualCount",
        "EqualTime",
        "FixedCount",
        "FixedDuration",
    ),
    "evaluation.evaluate": ("Outputs", "collect", "score"),
    "nn.fuse": ("fuse_model",),
    "nn.layers": ("direct_encoding",),
    "nn.norms": ("NORMS",),
    "training.distillation": ("DISTILLATIONS",),
    "training.losses": ("LOSSES",),
    "training.methods": ("METHODS", "create_method"),
    "training.phases": ("Method", "Phase"),
    "nn.models": ("MODELS", "create_model"),
    "nn.models.base": ("StepModel",),
    "nn.activations": ("ACTIVATIONS",),
    "nn.neurons": ("IF", "LIF", "NEURONS", "PLIF"),
    "evaluation.readout": ("prefix_mean",),
    "run": ("evaluate_run", "run_record"),
    "training.schedule": ("Plan",),
    "nn.surrogate": ("SURROGATES",),
    "sweep": ("sweep_steps",),
    "training.fit": ("TrainState", "fit", "fit_phases", "start"),
}
_WINGS = ("data", "evaluation", "nn", "training")
_HOME_OF = {name: f"anystep.{home}" for home, names in _HOMES.items() for name in names}

__all__ = ["AnystepWarning", "__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name in _WINGS:
        return importlib.import_module(f"anystep.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'anystep' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Train a spiking network once with many time steps, deploy it at any step.

These names are the front door. Everything else is reached through its wing, like
`anystep.training.losses.LOSSES` or `anystep.nn.neurons.LIF`. All are loaded when they are first
used: so `import anystep` and the command line's help are fast, and what needs no torch loads none.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WINGS = ("data", "nn", "training", "evaluation", "deploy")
_NAMES = {
    "_errors": "AnystepWarning UsageError",
    "nn.models": "create_model",
    "nn.weights": "save_model",
    "nn.fuse": "fuse_model",
    "data.datasets": "load_dataset",
    "data.recording": "Events",
    "data.sets": "FramesOf",
    "training.methods": "create_method",
    "training.schedule": "Plan",
    "training.fit": "fit fit_phases start",
    "evaluation.evaluate": "collect score",
    "evaluation.readout": "prefix_mean",
    "config": "load_recipe record_from",
    "folder": "load_model write_report",
    "run": "evaluate_run run_record",
    "pretrained": "from_pretrained save_pretrained",
    "compare": "compare_methods",
}
_HOME_OF = {name: f"anystep.{home}" for home, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name in _WINGS:
        return importlib.import_module(f"anystep.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'anystep' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_WINGS])

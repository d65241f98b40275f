# What type checkers and editors see of the lazy door; tests/test_door.py keeps the two alike.
from anystep._errors import AnystepWarning as AnystepWarning
from anystep._errors import UsageError as UsageError
from anystep.compare import compare_methods as compare_methods
from anystep.config import load_recipe as load_recipe
from anystep.config import record_from as record_from
from anystep.data.datasets import load_dataset as load_dataset
from anystep.data.recording import Events as Events
from anystep.data.sets import FramesOf as FramesOf
from anystep.evaluation.evaluate import collect as collect
from anystep.evaluation.evaluate import score as score
from anystep.evaluation.readout import prefix_mean as prefix_mean
from anystep.folder import load_model as load_model
from anystep.folder import write_report as write_report
from anystep.nn.fuse import fuse_model as fuse_model
from anystep.nn.models import create_model as create_model
from anystep.nn.weights import save_model as save_model
from anystep.pretrained import from_pretrained as from_pretrained
from anystep.pretrained import save_pretrained as save_pretrained
from anystep.run import evaluate_run as evaluate_run
from anystep.run import run_record as run_record
from anystep.training.fit import fit as fit
from anystep.training.fit import fit_phases as fit_phases
from anystep.training.fit import start as start
from anystep.training.methods import create_method as create_method
from anystep.training.schedule import Plan as Plan

from . import data as data
from . import deploy as deploy
from . import evaluation as evaluation
from . import nn as nn
from . import training as training

__version__: str

__all__ = [
    "AnystepWarning",
    "Events",
    "FramesOf",
    "Plan",
    "UsageError",
    "__version__",
    "collect",
    "compare_methods",
    "create_method",
    "create_model",
    "evaluate_run",
    "fit",
    "fit_phases",
    "from_pretrained",
    "fuse_model",
    "load_dataset",
    "load_model",
    "load_recipe",
    "prefix_mean",
    "record_from",
    "run_record",
    "save_model",
    "save_pretrained",
    "score",
    "start",
    "write_report",
]

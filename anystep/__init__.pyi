# What type checkers and editors see of the lazy door in __init__.py; tests/test_door.py keeps the two alike.
from anystep._errors import AnystepWarning as AnystepWarning
from anystep.compare import compare_methods as compare_methods
from anystep.compare import compare_recipes as compare_recipes
from anystep.config import Record as Record
from anystep.config import load_recipe as load_recipe
from anystep.config import record_from as record_from
from anystep.data.camera.batched import simulate_batch as simulate_batch
from anystep.data.check import check_dataset as check_dataset
from anystep.data.datasets import DATASETS as DATASETS
from anystep.data.datasets import load_dataset as load_dataset
from anystep.data.digits import digits_dvs as digits_dvs
from anystep.data.frames import BINNINGS as BINNINGS
from anystep.data.frames import ENCODINGS as ENCODINGS
from anystep.data.frames import Direct as Direct
from anystep.data.frames import EqualCount as EqualCount
from anystep.data.frames import EqualTime as EqualTime
from anystep.data.frames import FixedCount as FixedCount
from anystep.data.frames import FixedDuration as FixedDuration
from anystep.data.recording import Events as Events
from anystep.data.sets import FrameSet as FrameSet
from anystep.data.sets import FramesOf as FramesOf
from anystep.data.sets import ImageSet as ImageSet
from anystep.data.sets import Splits as Splits
from anystep.evaluation.evaluate import Outputs as Outputs
from anystep.evaluation.evaluate import collect as collect
from anystep.evaluation.evaluate import score as score
from anystep.evaluation.readout import prefix_mean as prefix_mean
from anystep.folder import load_model as load_model
from anystep.folder import write_report as write_report
from anystep.nn.activations import ACTIVATIONS as ACTIVATIONS
from anystep.nn.fuse import fuse_model as fuse_model
from anystep.nn.layers import direct_encoding as direct_encoding
from anystep.nn.models import MODELS as MODELS
from anystep.nn.models import create_model as create_model
from anystep.nn.models.base import StepModel as StepModel
from anystep.nn.neurons import IF as IF
from anystep.nn.neurons import LIF as LIF
from anystep.nn.neurons import NEURONS as NEURONS
from anystep.nn.neurons import PLIF as PLIF
from anystep.nn.norms import NORMS as NORMS
from anystep.nn.surrogate import SURROGATES as SURROGATES
from anystep.nn.weights import save_model as save_model
from anystep.run import evaluate_run as evaluate_run
from anystep.run import run_record as run_record
from anystep.sweep import sweep_steps as sweep_steps
from anystep.training.distillation import DISTILLATIONS as DISTILLATIONS
from anystep.training.fit import TrainState as TrainState
from anystep.training.fit import fit as fit
from anystep.training.fit import fit_phases as fit_phases
from anystep.training.fit import start as start
from anystep.training.losses import LOSSES as LOSSES
from anystep.training.methods import METHODS as METHODS
from anystep.training.methods import create_method as create_method
from anystep.training.phases import Method as Method
from anystep.training.phases import Phase as Phase
from anystep.training.schedule import Plan as Plan

from . import data as data
from . import evaluation as evaluation
from . import nn as nn
from . import training as training

__version__: str

__all__ = [
    "ACTIVATIONS",
    "BINNINGS",
    "DATASETS",
    "DISTILLATIONS",
    "ENCODINGS",
    "IF",
    "LIF",
    "LOSSES",
    "METHODS",
    "MODELS",
    "NEURONS",
    "NORMS",
    "PLIF",
    "SURROGATES",
    "AnystepWarning",
    "Direct",
    "EqualCount",
    "EqualTime",
    "Events",
    "FixedCount",
    "FixedDuration",
    "FrameSet",
    "FramesOf",
    "ImageSet",
    "Method",
    "Outputs",
    "Phase",
    "Plan",
    "Record",
    "Splits",
    "StepModel",
    "TrainState",
    "__version__",
    "check_dataset",
    "collect",
    "compare_methods",
    "compare_recipes",
    "create_method",
    "create_model",
    "digits_dvs",
    "direct_encoding",
    "evaluate_run",
    "fit",
    "fit_phases",
    "fuse_model",
    "load_dataset",
    "load_model",
    "load_recipe",
    "prefix_mean",
    "record_from",
    "run_record",
    "save_model",
    "score",
    "simulate_batch",
    "start",
    "sweep_steps",
    "write_report",
]

# What type checkers and editors see of the lazy door in __init__.py; tests/test_door.py keeps the two alike.
from anystep._warnings import AnystepWarning as AnystepWarning
from anystep.activations import ACTIVATIONS as ACTIVATIONS
from anystep.checkpoint import load_model as load_model
from anystep.checkpoint import save_model as save_model
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
from anystep.data.events import Events as Events
from anystep.data.frames import BINNINGS as BINNINGS
from anystep.data.frames import ENCODINGS as ENCODINGS
from anystep.data.frames import Direct as Direct
from anystep.data.frames import EqualCount as EqualCount
from anystep.data.frames import EqualTime as EqualTime
from anystep.data.frames import FixedCount as FixedCount
from anystep.data.frames import FixedDuration as FixedDuration
from anystep.data.sets import FrameSet as FrameSet
from anystep.data.sets import FramesOf as FramesOf
from anystep.data.sets import ImageSet as ImageSet
from anystep.data.sets import Splits as Splits
from anystep.distillation import DISTILLATIONS as DISTILLATIONS
from anystep.evaluate import Outputs as Outputs
from anystep.evaluate import collect as collect
from anystep.evaluate import score as score
from anystep.fuse import fuse_model as fuse_model
from anystep.layers import direct_encoding as direct_encoding
from anystep.losses import LOSSES as LOSSES
from anystep.methods import METHODS as METHODS
from anystep.methods import Method as Method
from anystep.methods import Phase as Phase
from anystep.methods import create_method as create_method
from anystep.models import MODELS as MODELS
from anystep.models import create_model as create_model
from anystep.models.base import StepModel as StepModel
from anystep.neurons import IF as IF
from anystep.neurons import LIF as LIF
from anystep.neurons import NEURONS as NEURONS
from anystep.neurons import PLIF as PLIF
from anystep.norms import NORMS as NORMS
from anystep.readout import prefix_mean as prefix_mean
from anystep.report import write_report as write_report
from anystep.run import evaluate_run as evaluate_run
from anystep.run import run_record as run_record
from anystep.schedule import Plan as Plan
from anystep.surrogate import SURROGATES as SURROGATES
from anystep.sweep import sweep_steps as sweep_steps
from anystep.train import TrainState as TrainState
from anystep.train import fit as fit
from anystep.train import fit_phases as fit_phases
from anystep.train import start as start

from . import data as data
from . import losses as losses
from . import methods as methods
from . import metrics as metrics
from . import models as models
from . import neurons as neurons
from . import readout as readout
from . import surrogate as surrogate

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

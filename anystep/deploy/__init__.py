"""A trained network in, a decision somewhere else out: export, runtime, streams, early exit."""

from anystep._lazy import modules_on_demand

__getattr__, __dir__ = modules_on_demand(__name__, __file__)

"""Step logits in, what they are worth out: readout, metrics, energy, scores, figures, report."""

from anystep._lazy import modules_on_demand

__getattr__, __dir__ = modules_on_demand(__name__, __file__)

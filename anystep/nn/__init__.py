"""Frames in, step logits (T, N, C) out, state passed: neurons, kernels, layers, norms, models."""

from anystep._lazy import modules_on_demand

__getattr__, __dir__ = modules_on_demand(__name__, __file__)

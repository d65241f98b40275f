"""Files in, frames (T, P, H, W) out."""

from anystep._lazy import modules_on_demand

__getattr__, __dir__ = modules_on_demand(__name__, __file__)

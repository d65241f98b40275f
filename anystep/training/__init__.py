"""Step logits in, what is learnt out: losses, distillation, methods, the schedule and the loop."""

from anystep._lazy import modules_on_demand

__getattr__, __dir__ = modules_on_demand(__name__, __file__)

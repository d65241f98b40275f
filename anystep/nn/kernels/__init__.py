"""Fused neurons: one scan over time with the reference's signature and results, a file a backend.

`cpu` (numba) and `cuda` (Triton) hold the kernels; `fused` what they share: autograd, and the op
that a trace sees; `layout` how steps lie in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from anystep.nn.surrogate import Surrogate


@dataclass(frozen=True)
class Rule:
    """How a membrane fires and resets: all that a scan needs to know besides its tensors.

    It fires when v > v_threshold (>= with `fire_at_threshold`). A hard reset sets the membrane to
    `v_reset`; a soft one (None) subtracts the threshold. `detach_reset`: not in the gradient.
    """

    surrogate: Surrogate
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    fire_at_threshold: bool

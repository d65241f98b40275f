"""The scan of `anystep.nn.neurons` in as few plain operations as an exported graph can have.

Inference alone: a spike has no gradient here. Every value is the reference's to the last bit: what
is chosen by `where` is what the reference multiplies by 1 and adds to 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anystep.nn.kernels import Rule


def scan(
    x: Tensor, v: Tensor, decay: float | Tensor, gain: float | Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Spikes of `x (T, N, ...)`, and the membrane after the last step, from `v (N, ...)`."""
    spikes = []
    for current in x:
        h = v if isinstance(decay, float) and decay == 1 else decay * v
        h = h + (current if isinstance(gain, float) and gain == 1 else gain * current)
        fired = h >= rule.v_threshold if rule.fire_at_threshold else h > rule.v_threshold
        s = fired.to(h.dtype)
        if rule.v_reset is None:
            v = h - (s if rule.v_threshold == 1 else s * rule.v_threshold)
        else:
            v = torch.where(fired, torch.full_like(h, rule.v_reset), h)
        spikes.append(s)
    return torch.stack(spikes), v

"""How much a network fires."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from anystep.nn.neurons import Neuron


class FiringRates:
    """Running mean firing rate of each neuron layer: spikes / (elements x steps), from 0 to 1.

    A spike is an output that is not 0, whatever it is worth (see `Neuron.spike_height`).
    """

    def __init__(self) -> None:
        self._spikes: dict[str, Tensor] = {}
        self._elements: dict[str, int] = {}

    def add(self, name: str, spikes: Tensor) -> None:
        """Count the spikes of one call of the layer `name`."""
        self._spikes[name] = self._spikes.get(name, 0) + torch.count_nonzero(spikes.detach())
        self._elements[name] = self._elements.get(name, 0) + spikes.numel()

    def mean(self) -> dict[str, float]:
        """The rate of each layer so far, by the layer's name."""
        spikes, elements = self._spikes, self._elements
        return {name: float(spikes[name]) / max(elements[name], 1) for name in spikes}


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[FiringRates]:
    """Count the spikes of every spiking layer of `model` inside the block."""
    rates = FiringRates()

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: rates.add(name, output[0])

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, Neuron):
                hooks.enter_context(module.register_forward_hook(hook(name)))
        yield rates

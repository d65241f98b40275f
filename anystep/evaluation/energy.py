"""How much a network fires, what it computes, and an estimate of the energy that takes.

Operations are counted as NeuroBench counts them (Yik et al. 2025, Nature Communications 16): an
input that is 0 costs nothing; every other one costs an operation for each weight that it meets. A
layer whose inputs are all -1, 0 or 1 accumulates (AC); any other multiplies too (MAC), and so does
a layer that sees frames, whatever is in them. Spikes that a pool averages are no longer 0 or 1: the
layer behind multiplies. Biases, norms that are not folded, pools and membranes are not counted.

The energy is an estimate, not a measurement: operations times what one takes in a 45 nm process at
0.9 V in 32-bit floating point (Horowitz 2014, ISSCC, fig. 1.1.9: 0.9 pJ an addition, 3.7 pJ a
multiplication). Memory, which takes more on most devices, is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anystep._files import Json
from anystep.nn.neurons import Neuron

PICOJOULE_AC = 0.9
PICOJOULE_MAC = 0.9 + 3.7
KINDS = ("acs", "macs", "dense")


class _ByStep:
    """A sum for each step, over batches that may differ in their number of steps."""

    def __init__(self) -> None:
        self._sums: NDArray[np.float64] = np.zeros(0)

    def add(self, values: NDArray[np.float64]) -> None:
        self._sums = self.first(max(len(values), len(self._sums)))
        self._sums[: len(values)] += values

    def first(self, steps: int) -> NDArray[np.float64]:
        """The sums of so many steps: 0 where there was none."""
        return np.pad(self._sums, (0, max(0, steps - len(self._sums))))

    def total(self) -> float:
        return float(self._sums.sum())

    def __len__(self) -> int:
        return len(self._sums)


class FiringRates:
    """Running mean firing rate of each neuron layer: spikes / (elements x steps), from 0 to 1.

    A spike is an output that is not 0, whatever it is worth (see `Neuron.spike_height`).
    """

    def __init__(self) -> None:
        self._spikes: dict[str, _ByStep] = defaultdict(_ByStep)
        self._elements: dict[str, _ByStep] = defaultdict(_ByStep)

    def add(self, name: str, spikes: Tensor) -> None:
        """Count the spikes (T, N, ...) of one call of the layer `name`."""
        fired = torch.count_nonzero(spikes.detach().flatten(1), dim=1)
        self._spikes[name].add(fired.double().cpu().numpy())
        self._elements[name].add(np.full(len(spikes), float(spikes[0].numel())))

    def mean(self) -> dict[str, float]:
        """The rate of each layer so far, by the layer's name."""
        seen = self._elements
        return {
            name: own.total() / max(seen[name].total(), 1) for name, own in self._spikes.items()
        }

    def by_step(self) -> dict[str, list[float]]:
        """The rate of each layer at each step."""
        rates = {}
        for name, own in self._spikes.items():
            seen = self._elements[name].first(len(own))
            rates[name] = (own.first(len(own)) / np.maximum(seen, 1)).tolist()
        return rates


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


def _meetings(layer: nn.Conv2d | nn.Linear, there: Tensor) -> Tensor:
    """How many weights the marked inputs meet, one number a row: `there (R, ...)` of 0 and 1."""
    if isinstance(layer, nn.Linear):
        return there.flatten(1).sum(1, dtype=torch.float64) * layer.out_features
    ones = there.new_ones(1, 1, *layer.kernel_size)
    met = functional.conv2d(
        there.sum(1, keepdim=True),
        ones,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
    )
    return met.flatten(1).sum(1, dtype=torch.float64) * (layer.out_channels // layer.groups)


class Operations:
    """Running count of the operations of each convolution and linear layer, step by step."""

    def __init__(self) -> None:
        self._layers: dict[str, dict[str, _ByStep]] = {}
        self._samples = _ByStep()
        self._steps = self._batch = 0
        self._fired = False  # whether spikes have come up in this call of the network

    def begin(self, frames: Tensor) -> None:
        """A call of the network with `frames (T, N, ...)`."""
        self._steps, self._batch = frames.shape[:2]
        self._fired = False
        self._samples.add(np.full(self._steps, float(self._batch)))

    def spikes(self) -> None:
        """From here on layers see spikes."""
        self._fired = True

    def add(self, name: str, layer: nn.Conv2d | nn.Linear, x: Tensor) -> None:
        """Count what `layer` does with `x`: a row for each sample at each step, or for each sample
        of a still image, which every step sees again.
        """
        rows = x.detach().flatten(0, -2) if isinstance(layer, nn.Linear) else x.detach()
        there = (rows != 0).float()
        accumulates = self._fired and bool(((rows == 0) | (rows.abs() == 1)).all())
        kind = "acs" if accumulates else "macs"
        dense = _meetings(layer, torch.ones_like(there[:1]))  # of every row alike
        counted = {kind: _meetings(layer, there), "dense": dense.expand(len(there))}
        own = self._layers.setdefault(name, {each: _ByStep() for each in KINDS})
        for each, met in counted.items():
            steps = met.unflatten(0, (-1, self._batch)).sum(1).cpu().numpy()
            own[each].add(np.broadcast_to(steps, self._steps))

    def describe(self) -> Json:
        """Operations a sample: of each step in all, and of each layer over all steps. In plain
        values:

        acs, macs        those that inputs other than 0 cost
        dense            what the same layers cost if no input was 0
        picojoules       the estimate, of each step
        layers           acs, macs, dense of each layer
        """
        steps = len(self._samples)
        samples = np.maximum(self._samples.first(steps), 1)
        layers = {
            name: {kind: own[kind].first(steps) / samples for kind in KINDS}
            for name, own in self._layers.items()
        }
        total = {
            kind: np.sum([own[kind] for own in layers.values()], axis=0, initial=0)
            for kind in KINDS
        }
        energy = PICOJOULE_AC * total["acs"] + PICOJOULE_MAC * total["macs"]
        return {
            **{kind: values.tolist() for kind, values in total.items()},
            "picojoules": energy.tolist(),
            "layers": {
                name: {kind: float(values.sum()) for kind, values in own.items()}
                for name, own in layers.items()
            },
        }


@contextmanager
def operations(model: nn.Module) -> Iterator[Operations]:
    """Count the operations of `model(frames (T, N, ...))` inside the block."""
    counted = Operations()

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs: counted.add(name, layer, inputs[0])

    def fired(module: nn.Module, inputs: Any, output: Any) -> None:
        counted.spikes()

    with ExitStack() as hooks:
        begin = model.register_forward_pre_hook(lambda module, inputs: counted.begin(inputs[0]))
        hooks.enter_context(begin)
        for name, module in model.named_modules():
            if isinstance(module, Neuron):
                hooks.enter_context(module.register_forward_hook(fired))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                hooks.enter_context(module.register_forward_pre_hook(hook(name)))
        yield counted

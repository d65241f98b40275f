"""Neurons of other libraries as layers, where they are installed. See benchmarks/README.md."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anystep.nn.neurons import LIF

Factory = Callable[..., nn.Module]
DIFFERENT = 0.01  # share of spikes; roundings at the threshold stay far below it


class PeerNeuron(nn.Module):
    """A peer's neuron as a layer `(T, N, ...) -> spikes (T, N, ...)` that starts at rest in every
    call.
    """

    def __init__(self, inner: nn.Module, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.run = inner, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.inner, x)


def _spikingjelly(device: torch.device) -> dict[str, Factory]:
    """Before version 2 one layer a backend; version 2 chooses by itself, or by
    SJ_LIF_CUDA_IMPLEMENTATION.
    """
    home = "spikingjelly.activation_based"
    neuron = importlib.import_module(f"{home}.neuron")
    surrogate = importlib.import_module(f"{home}.surrogate")

    def run(node: Any, x: Tensor) -> Tensor:
        node.reset()
        return node(x)

    def make(*, shape: Any = None, **backend: str) -> nn.Module:
        options = {"tau": 2.0, "v_threshold": 0.5, "detach_reset": True, "step_mode": "m"}
        node = neuron.LIFNode(surrogate_function=surrogate.ATan(), **options, **backend)
        return PeerNeuron(node, run)

    if "backend" not in inspect.signature(neuron.LIFNode).parameters:
        return {"spikingjelly": make}
    backends = neuron.LIFNode(step_mode="m").supported_backends
    chosen = [name for name in backends if name == "torch" or device.type == "cuda"]
    return {f"spikingjelly {name}": partial(make, backend=name) for name in chosen}


def _snntorch(device: torch.device) -> dict[str, Factory]:
    """In units of 2v: the input is not divided by tau, so the threshold is 1."""
    snntorch = importlib.import_module("snntorch")
    surrogate = importlib.import_module("snntorch.surrogate")

    def run(leaky: Any, x: Tensor) -> Tensor:
        membrane, spikes = torch.zeros_like(x[0]), []
        for current in x:
            spike, membrane = leaky(current, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    def make(*, shape: Any = None) -> nn.Module:
        leaky = snntorch.Leaky(0.5, spike_grad=surrogate.atan(), reset_mechanism="zero")
        return PeerNeuron(leaky, run)

    return {"snntorch": make}


def _norse(device: torch.device) -> dict[str, Factory]:
    """With its own surrogate (SuperSpike), and the reset inside the gradient: it offers neither
    arctan nor a choice.
    """
    norse = importlib.import_module("norse.torch")

    def make(*, shape: Any = None) -> nn.Module:
        half = torch.tensor(0.5)
        cell = norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=half, v_th=half), dt=1.0)
        return PeerNeuron(norse.Lift(cell), lambda lifted, x: lifted(x)[0])

    return {"norse": make}


PEERS: dict[str, Callable[[torch.device], dict[str, Factory]]] = {
    "spikingjelly": _spikingjelly,
    "snntorch": _snntorch,
    "norse": _norse,
}


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of those libraries that are installed."""
    versions = {}
    for library in libraries:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def peer_versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    return versions_of(PEERS)


def _unlike(factory: Factory, device: torch.device) -> str | None:
    """Why a peer cannot stand beside LIF(), or None."""
    x = torch.randn(6, 4, 97, generator=torch.Generator().manual_seed(0)).to(device)
    x.requires_grad_()
    try:
        spikes = factory().to(device)(x)
        spikes.sum().backward()
    except Exception as error:  # foreign code may raise anything, and is left out for it
        return f"{type(error).__name__}: {error}"
    differ = float((spikes != LIF(backend="reference")(x)[0]).double().mean())
    if differ <= DIFFERENT:
        return None
    return f"is another neuron: {100 * differ:.1f} % of its spikes differ"


def find_peers(device: torch.device) -> tuple[dict[str, Factory], dict[str, str]]:
    """(layers that are the same neuron as LIF() with an arctan surrogate, by name; why others are
    left out).

    A peer takes part if it can be imported, runs, and fires as LIF() does. A factory takes and
    ignores `shape=`.
    """
    found: dict[str, Factory] = {}
    left_out: dict[str, str] = {}
    for library, look in PEERS.items():
        try:
            candidates = look(device)
        except ImportError as error:
            left_out[library] = f"cannot be imported: {error}"
            continue
        for name, factory in candidates.items():
            reason = _unlike(factory, device)
            if reason is None:
                found[name] = factory
            else:
                left_out[name] = reason
    return found, left_out

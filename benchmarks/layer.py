"""`bench neurons`: one layer of LIF neurons, forward and backward, beside what memory alone would
cost.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anystep.nn.neurons import LIF
from benchmarks.measure import Contender, Setup, measure
from benchmarks.memory import peak_bytes, saved_bytes
from benchmarks.peers import find_peers, peer_versions
from benchmarks.selfcheck import backends_here, check_backends

Layer = Callable[[Tensor], Tensor]

LAYERS = ((10, 16, 64, 48, 48), (4, 32, 128, 32, 32))
STEPS, BATCH = 500, 16  # of the Open Neuromorphic benchmark: one Linear + LIF at several widths
WIDTHS = {
    "quick": (512, 2048),
    "cpu": (512, 1024, 2048, 4096),
    "cuda": (512, 1024, 2048, 4096, 8192, 16384),
}
FLOOR_BYTES = 20  # a float32 element: read x, write s; read x and ds, write dx
COPY_BYTES = 8
FIRST_CALL = """
import sys, time, torch
from anystep.nn.neurons import LIF
x = torch.zeros(4, 2, 8, device=sys.argv[2], requires_grad=True)
start = time.perf_counter()
spikes, _ = LIF(backend=sys.argv[1])(x)
spikes.backward(torch.ones_like(spikes))
print(time.perf_counter() - start)
"""


def bench_neurons(setup: Setup) -> dict[str, Any]:
    """Every backend that runs here and every peer that is installed; then, unless `quick`, the
    first call of a fresh process.

    A shape of three numbers (T, N, neurons) is a Linear and a LIF after it, any other one a LIF
    alone.
    """
    backends, refused = backends_here(setup.device)
    checked = check_backends(backends, setup.device)
    peers, left_out = find_peers(setup.device)
    layers = {
        name: _first(LIF(backend=name.split()[1]))
        for name in (f"anystep {backend}" for backend in backends)
    }
    layers |= {
        f"anystep {name} arctan": _first(LIF(backend=name, surrogate="arctan")) for name in checked
    }
    layers |= {name: make().to(setup.device) for name, make in peers.items()}
    rows = []
    for shape in setup.shapes or _shapes(setup):
        rows += (
            _linear_rows(shape, layers, setup)
            if len(shape) == 3
            else _layer_rows(shape, layers, setup)
        )
    return {
        "checked": checked,
        "peers": peer_versions(),
        "left_out": refused | left_out,
        "rows": rows,
        "summary": {} if setup.quick else _first_call_summary(first_calls(backends, setup.device)),
    }


def _shapes(setup: Setup) -> list[tuple[int, ...]]:
    widths = WIDTHS["quick" if setup.quick else setup.device.type]
    return [*LAYERS, *((STEPS, BATCH, width) for width in widths)]


def _first(neuron: LIF) -> Layer:
    return lambda x: neuron(x)[0]


def _layer_rows(
    shape: tuple[int, ...], layers: dict[str, Layer], setup: Setup
) -> list[dict[str, Any]]:
    """Forward and backward of one layer; the floor is the traffic that cannot be avoided, at the
    speed of a copy.
    """
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator).to(setup.device) for _ in range(2))
    target = torch.empty_like(x)
    x.requires_grad_()

    def both(layer: Layer) -> Callable[[], object]:
        return lambda: torch.autograd.grad(layer(x), x, gradient)

    group = str(shape)
    floor = Contender("floor", lambda: target.copy_(gradient), group, FLOOR_BYTES / COPY_BYTES)
    runs = {name: both(layer) for name, layer in layers.items()}
    memory = {name: _memory(layers[name], runs[name], x, setup) for name in layers}
    rows = measure(
        [floor, *(Contender(name, run, group) for name, run in runs.items())],
        setup,
        against=["floor", "anystep reference", "anystep numba", "anystep triton"],
    )
    return [{**row, **memory.get(row["name"], {})} for row in rows]


def _memory(layer: Layer, run: Callable[[], object], x: Tensor, setup: Setup) -> dict[str, Any]:
    """Bytes an element: kept for backward, and at most in use (the gradient it returns included)."""
    peak = peak_bytes(run, setup.device)
    return {
        "saved_bytes": round(saved_bytes(lambda: layer(x)) / x.numel(), 2),
        "peak_bytes": None if peak is None else round(peak / x.numel(), 2),
    }


def _linear_rows(
    shape: tuple[int, ...], layers: dict[str, Layer], setup: Setup
) -> list[dict[str, Any]]:
    """Forward and backward of a Linear layer with the neurons after it; alone, it is what the
    neurons are added to.
    """
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator).to(setup.device) for _ in range(2))
    linear = nn.Linear(shape[-1], shape[-1], device=setup.device)

    def both(layer: Layer) -> Callable[[], object]:
        return lambda: torch.autograd.grad(layer(linear(x)), list(linear.parameters()), gradient)

    group = f"Linear + LIF {shape}"
    contenders = [Contender("linear alone", both(lambda y: y), group)]
    contenders += [Contender(name, both(layer), group) for name, layer in layers.items()]
    return measure(
        contenders,
        setup,
        against=["linear alone", "anystep reference", "anystep numba", "anystep triton"],
    )


def _first_call_summary(seconds: dict[str, float]) -> dict[str, Any]:
    """What a kernel costs once in a process: its loading, on top of what the reference needs for
    the same call.
    """
    over = {
        name: round(taken - seconds["reference"], 4)
        for name, taken in seconds.items()
        if name != "reference"
    }
    return {"first_call_s": seconds, "first_call_over_reference_s": over}


def first_calls(backends: list[str], device: torch.device, *, rounds: int = 5) -> dict[str, float]:
    """Median seconds of the first forward and backward in a fresh process, its kernels on disk
    already, by backend.
    """
    taken = [[_first_call(backend, device.type) for backend in backends] for _ in range(1 + rounds)]
    medians = np.median(taken[1:], axis=0)  # in the first round a backend may have had to compile
    return {
        backend: round(float(seconds), 4)
        for backend, seconds in zip(backends, medians, strict=True)
    }


def _first_call(backend: str, device: str) -> float:
    command = [sys.executable, "-c", FIRST_CALL, backend, device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the first call of backend {backend!r} in a fresh process failed: {done.stderr.strip()}"
        )
    return float(done.stdout.split()[-1])

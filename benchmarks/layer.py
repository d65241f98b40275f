"""`neurons`: one layer of LIF, forward and backward, beside what memory alone would cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anystep._command import say
from anystep.nn.neurons import LIF
from benchmarks.measure import Contender, Rows, Setup, measure, measure_groups
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
OURS = ("anystep reference", "anystep numba", "anystep triton")
FLOOR_BYTES = 20  # a float32 element: read x, write s; read x and ds, write dx
COPY_BYTES = 8
FIRST_CALL = """
import sys, time, torch
from anystep._command import say
from anystep.nn.neurons import LIF
x = torch.zeros(4, 2, 8, device=sys.argv[2], requires_grad=True)
start = time.perf_counter()
spikes, _ = LIF(backend=sys.argv[1])(x)
spikes.backward(torch.ones_like(spikes))
print(time.perf_counter() - start)
"""


def _shapes(setup: Setup) -> list[tuple[int, ...]]:
    widths = WIDTHS["quick" if setup.quick else setup.device.type]
    return [*LAYERS, *((STEPS, BATCH, width) for width in widths)]


def _spikes(neuron: LIF) -> Layer:
    """A neuron without its state."""
    return lambda x: neuron(x)[0]


def _memory(layer: Layer, run: Callable[[], object], x: Tensor, setup: Setup) -> dict[str, Any]:
    """Bytes an element: kept for backward, and at most in use, with the gradient it returns."""
    peak = peak_bytes(run, setup.device)
    return {
        "saved_bytes": round(saved_bytes(lambda: layer(x)) / x.numel(), 2),
        "peak_bytes": None if peak is None else round(peak / x.numel(), 2),
    }


def _layer_rows(shape: tuple[int, ...], layers: dict[str, Layer], setup: Setup) -> Rows:
    """Forward and backward of one layer. The floor is the memory traffic that cannot be avoided, at
    the speed of a copy.
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
    contenders = [floor, *(Contender(name, run, group) for name, run in runs.items())]
    rows = measure(contenders, setup, against=["floor", *OURS])
    return [{**row, **memory.get(row["name"], {})} for row in rows]


def _linear_rows(shape: tuple[int, ...], layers: dict[str, Layer], setup: Setup) -> Rows:
    """Forward and backward of a Linear layer with neurons after it, and of it alone."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator).to(setup.device) for _ in range(2))
    linear = nn.Linear(shape[-1], shape[-1], device=setup.device)

    def both(layer: Layer) -> Callable[[], object]:
        return lambda: torch.autograd.grad(layer(linear(x)), list(linear.parameters()), gradient)

    group = f"Linear + LIF {shape}"
    contenders = [Contender("linear alone", both(lambda y: y), group)]
    contenders += [Contender(name, both(layer), group) for name, layer in layers.items()]
    return measure(contenders, setup, against=["linear alone", *OURS])


def _first_call_summary(seconds: dict[str, float]) -> dict[str, Any]:
    """What a kernel costs once in a process: its loading, on top of what the reference needs for
    the same call.
    """
    kernels = [name for name in seconds if name != "reference"]
    over = {name: round(seconds[name] - seconds["reference"], 4) for name in kernels}
    return {"first_call_s": seconds, "first_call_over_reference_s": over}


def _first_call(backend: str, device: str) -> float:
    command = [sys.executable, "-c", FIRST_CALL, backend, device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        what = f"the first call of backend {backend!r} in a fresh process"
        raise RuntimeError(f"{what} failed: {done.stderr.strip()}")
    return float(done.stdout.split()[-1])


def first_calls(backends: list[str], device: torch.device, *, rounds: int = 5) -> dict[str, float]:
    """Median seconds of the first forward and backward in a fresh process, by backend. Kernels are
    on disk already.
    """
    say(f"first calls: {1 + rounds} processes for each of {', '.join(backends)}")
    taken = [[_first_call(backend, device.type) for backend in backends] for _ in range(1 + rounds)]
    medians = np.median(taken[1:], axis=0)  # in the first round a backend may have had to compile
    return {name: round(float(own), 4) for name, own in zip(backends, medians, strict=True)}


def bench_neurons(setup: Setup) -> dict[str, Any]:
    """Every backend that runs here and every peer that is installed; then, unless `quick`, the
    first call of a fresh process.

    A shape of three numbers (T, N, neurons) is a Linear and a LIF after it, any other a LIF alone.
    """
    backends, refused = backends_here(setup.device)
    checked = check_backends(backends, setup.device)
    peers, left_out = find_peers(setup.device)
    layers = {f"anystep {name}": _spikes(LIF(backend=name)) for name in backends}
    layers |= {
        f"anystep {name} arctan": _spikes(LIF(backend=name, surrogate="arctan")) for name in checked
    }
    layers |= {name: make().to(setup.device) for name, make in peers.items()}
    groups: dict[str, Callable[[], Rows]] = {}
    for shape in setup.shapes or _shapes(setup):
        if len(shape) == 3:
            groups[f"Linear + LIF {shape}"] = partial(_linear_rows, shape, layers, setup)
        else:
            groups[str(shape)] = partial(_layer_rows, shape, layers, setup)
    rows, late = measure_groups(groups, setup)
    summary = {}
    if setup.spent:
        late["first calls"] = "the budget was spent"
    elif not setup.quick:
        summary = _first_call_summary(first_calls(backends, setup.device))
    return {
        "checked": checked,
        "peers": peer_versions(),
        "left_out": refused | left_out | late,
        "rows": rows,
        "summary": summary,
    }

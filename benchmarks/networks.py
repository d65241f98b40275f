"""`train` and `infer`: a whole network beside its ReLU twin, which is the same network without
time.

Twin, reference, fused backends and peers have the same convolutions, norms, layout, weights and
threads, and differ in the activation alone. So that a slow twin cannot flatter anyone, its time is
also told as a share of the machine's best matrix product, measured in the same rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.nn.fuse import fuse_model
from anystep.nn.models import MODELS, create_model
from anystep.nn.models.base import StepModel
from anystep.training.losses import ce
from benchmarks.measure import Contender, Rows, Setup, digits, matmul, measure, median_of
from benchmarks.memory import saved_bytes
from benchmarks.peers import Factory, find_peers, peer_versions
from benchmarks.selfcheck import backends_here, check_backends

TWIN = "relu twin"
AGAIN = " recompute"
FRAMES = (10, 2, 2, 48, 48)
STEPS = (1, 2, 4, 10)
CLASSES = 10


def _frames(setup: Setup) -> Tensor:
    if len(setup.shapes) > 1:
        raise UsageError(f"bench: a network takes one shape, got {len(setup.shapes)}")
    shape = setup.shapes[0] if setup.shapes else FRAMES
    if len(shape) != 5 or shape[3] != shape[4]:
        want = "(T, N, P, H, W) with H = W"
        raise UsageError(f"bench: the frames of a network are {want}, got {tuple(shape)}")
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(setup.device)


def _with_neurons(model: StepModel, factory: Factory) -> StepModel:
    """The twin with a peer's neurons where its activations are."""
    device = next(model.parameters()).device
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] == "neuron":
            model.set_submodule(name, factory(shape=module.shape).to(device))
    return model


def _nchw(model: StepModel) -> StepModel:
    """The network without channels_last. Some peers stack steps in the plain layout, and would pay
    for the change at every convolution.
    """
    for weight in model.parameters():
        weight.data = weight.data.contiguous()
    return model


def _networks(
    setup: Setup, shape: torch.Size, *, training: bool
) -> tuple[dict[str, StepModel], dict[str, Any]]:
    """(contenders by name, what the result says about them). All start from the same weights."""
    choose(MODELS, setup.model, "model")
    backends, refused = backends_here(setup.device)
    checked = check_backends(backends, setup.device)
    peers, left_out = find_peers(setup.device)

    def make(neuron: Any) -> StepModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            size: dict[str, Any] = {"in_planes": shape[2], "input_size": shape[-1]}
            model = create_model(setup.model, num_classes=CLASSES, neuron=neuron, **size)
            return model.to(setup.device)

    networks = {TWIN: make("relu")}
    for name in backends:
        networks[f"anystep {name}"] = make({"name": "lif", "backend": name})
    for name in checked if training else ():
        networks[f"anystep {name}{AGAIN}"] = make({"name": "lif", "backend": name})
        networks[f"anystep {name}{AGAIN}"].recompute = True
    for name, factory in peers.items():
        networks[name] = _with_neurons(make("relu"), factory)
        if training:
            networks[f"{name} nchw"] = _nchw(_with_neurons(make("relu"), factory))
    about = {"checked": checked, "peers": peer_versions(), "left_out": refused | left_out}
    return networks, {**about, "frames": list(shape)}


def _flops(model: nn.Module, run: Callable[[], object], *, backward: bool) -> float:
    """Operations of all convolutions and linear layers in `run`: with `backward`, the weight's and
    the input's gradient too.
    """
    total = 0.0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        passes = 1 if not backward else 3 if inputs[0].requires_grad else 2
        total += 2.0 * passes * output.numel() * module.get_parameter("weight")[0].numel()

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return total


def _share(row: dict[str, Any], flops: float, rate: float) -> dict[str, float]:
    """The part of the best matrix product's speed that a network reaches."""
    if row["name"].startswith("matmul"):
        return {}
    return {"share_of_matmul": digits(flops / row["median_ms"] / rate)}


def _speed(flops: float, rate: float) -> dict[str, float]:
    return {"gflop": digits(flops / 1e9), "matmul_gflops": digits(rate / 1e6)}


def _saved_mib(model: StepModel, frames: Tensor) -> float:
    """What a training step keeps for backward, weights not counted."""
    return digits(saved_bytes(lambda: model(frames), without=tuple(model.parameters())) / 2**20)


def _price_of_recompute(
    rows: Rows, again: dict[str, str], saved: dict[str, float]
) -> dict[str, Any]:
    """Time and memory of each network that recomputes, as ratios to the one that does not."""
    ratios = {row["name"]: row["ratio_to"] for row in rows}
    time = {plain: ratios[name][plain] for name, plain in again.items()}
    kept = {plain: digits(saved[name] / saved[plain]) for name, plain in again.items()}
    return {"recompute_time": time, "recompute_saved": kept}


def bench_train(setup: Setup) -> dict[str, Any]:
    """A whole training step: forward, cross-entropy, backward, AdamW.

    Fused backends run twice: as they are, and with `recompute` (activation checkpointing). The
    summary has its price: time, and what is kept for backward, as ratios to the same network
    without. Peers run twice: channels_last, and as plain NCHW.
    """
    frames = _frames(setup)
    networks, about = _networks(setup, frames.shape, training=True)
    saved = {name: _saved_mib(model, frames) for name, model in networks.items()}
    labels = torch.arange(frames.shape[1], device=setup.device) % CLASSES

    def step(model: StepModel, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        ce(model(frames), labels).backward()
        optimizer.step()

    product, product_flops = matmul(setup)
    contenders = [product]
    for name, model in networks.items():
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        contenders.append(Contender(name, partial(step, model, optimizer)))
    flops = _flops(networks[TWIN].train(), lambda: networks[TWIN](frames), backward=True)
    again = {name: name.removesuffix(AGAIN) for name in networks if name.endswith(AGAIN)}
    rows = measure(contenders, setup, against=[TWIN, *again.values()])
    rate = product_flops / min(row["min_ms"] for row in rows if row["name"] == product.name)
    told = [
        {**row, **_share(row, flops, rate), "saved_mib": saved.get(row["name"])} for row in rows
    ]
    summary = _speed(flops, rate) | _price_of_recompute(rows, again, saved)
    return {**about, "rows": told, "summary": summary}


def _first_over_last(rows: Rows, steps: list[int], names: list[str]) -> dict[str, Any]:
    """The share of all steps that the first costs, by name, and by the twin's own share."""
    first, last = f"T={steps[0]}", f"T={steps[-1]}"
    shares = {name: median_of(rows, name, first) / median_of(rows, name, last) for name in names}
    beside = {name: digits(share / shares[TWIN]) for name, share in shares.items()}
    told = {name: digits(share) for name, share in shares.items()}
    return {
        "steps": [steps[0], steps[-1]],
        "first_over_last": told,
        "first_over_last_to_twin": beside,
    }


def bench_infer(setup: Setup) -> dict[str, Any]:
    """Inference with what `fuse_model` gives: T = 1, 2, 4, 10 in the same rounds, each against the
    twin at the same T.

    The summary has the time at the first T over that at the last, and this share by the twin's own.
    """
    frames = _frames(setup)
    networks, about = _networks(setup, frames.shape, training=False)
    fused = {}
    for name, model in networks.items():
        with torch.no_grad():
            model.train()(frames)  # running statistics of something
        fused[name] = fuse_model(model.eval(), verify=name == TWIN or name.startswith("anystep "))
    steps = sorted({t for t in STEPS if t < len(frames)} | {len(frames)})

    def infer(model: StepModel, t: int) -> None:
        with torch.inference_mode():
            model(frames[:t])

    product, product_flops = matmul(setup)
    contenders = [product]
    contenders += [
        Contender(name, partial(infer, model, t), f"T={t}")
        for t in steps
        for name, model in fused.items()
    ]
    rows = measure(contenders, setup, against=[TWIN])
    rate = product_flops / min(row["min_ms"] for row in rows if row["name"] == product.name)
    twin = fused[TWIN]
    flops = {f"T={t}": _flops(twin, partial(infer, twin, t), backward=False) for t in steps}
    told = [{**row, **_share(row, flops.get(row["group"], 0.0), rate)} for row in rows]
    summary = _speed(flops[f"T={steps[-1]}"], rate) | _first_over_last(rows, steps, list(fused))
    return {**about, "rows": told, "summary": summary}

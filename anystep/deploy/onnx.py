"""One time step of a trained network as an ONNX file.

    (frame, v_1 .. v_k) -> (logits, v_1_next .. v_k_next)

onnxruntime keeps no state between calls, so the state is inputs and outputs; batch norm is folded;
the batch is dynamic. The file says in its metadata what the state is at rest and what the network
was trained on. It is written only if onnxruntime says what torch says, step after step, on real
samples (`Parity`).
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import Json, atomic_path
from anystep.deploy.step import FORMAT, Floats, Step, seal
from anystep.nn.fuse import fuse_model, why_not_fusable
from anystep.nn.layers import State, stateful_modules
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import Neuron

TOLERANCE = 1e-5  # of logits and membranes; a membrane this close to its threshold may fire or not
OPSET = 18


@dataclass(frozen=True)
class Parity:
    """How an exported step compares with the network it was made of, over all steps and samples.

    samples, steps     how much was compared
    logits, membranes  the largest differences
    spikes             the spikes that one side fires and the other does not
    ties               those of them whose membrane is within 1e-5 of the threshold: either is right
    rates              the firing rate of each spiking layer: a silent layer proves nothing
    """

    samples: int
    steps: int
    logits: float
    membranes: float
    spikes: int
    ties: int
    rates: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether the two sides agree."""
        near = self.logits <= TOLERANCE and self.membranes <= TOLERANCE
        return near and self.spikes == self.ties


class _OneStep(nn.Module):
    """A model as a function of one frame and its state, which is what the graph holds."""

    def __init__(self, model: StepModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, after = self.model.advance(frame[None], state)
        return logits[0], *after


def prepared(model: StepModel, *, backend: str = "graph") -> StepModel:
    """A copy of `model` as it is deployed: on the CPU, in float32, norms folded, its neurons
    computed by `backend`.
    """
    network = copy.deepcopy(model).cpu().float().eval()
    if (reason := why_not_fusable(network)) is not None:
        raise UsageError(f"export: {reason}")
    network = fuse_model(network)
    for module in network.modules():
        if isinstance(module, Neuron):
            module.backend = backend
    return network


def _states(network: StepModel) -> list[Json]:
    """Name, layer, shape and rest value of each input and output that is a state."""
    states = []
    for number, (name, layer) in enumerate(stateful_modules(network), 1):
        if not isinstance(layer, Neuron):
            raise UsageError(
                f"export: {name!r} ({type(layer).__name__}) has a state that is no membrane"
            )
        rows = cast(Tensor, layer.rest(1))
        states.append(
            {
                "name": f"v_{number}",
                "layer": name,
                "shape": list(rows.shape[1:]),
                "rest": float(layer.v_init),
            }
        )
    return states


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of packages that it does not find and of its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _graph(network: StepModel, states: list[Json], description: str) -> bytes:
    """The file's bytes: the graph of one step for any number of samples."""
    need("onnxscript", extra="export", purpose="exporting to ONNX")
    names = [state["name"] for state in states]
    samples = torch.export.Dim("samples", min=1, max=65_536)
    example = (torch.zeros(2, *network.frame_shape), *network.rest(2))
    with _quiet():
        program = torch.onnx.export(
            _OneStep(network).eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["frame", *names],
            output_names=["logits", *(f"{name}_next" for name in names)],
            dynamic_shapes=({0: samples}, *[tuple({0: samples} for _ in names)][: len(names)]),
            verbose=False,
        )
    proto = cast(Any, program).model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "anystep", description
    return seal(bytes(proto.SerializeToString()))


class _Watch:
    """Of each neuron's last call: the membrane before it fired, and the spikes."""

    def __init__(self, network: StepModel) -> None:
        self.neurons = [layer for _, layer in stateful_modules(network)]
        self.names = [name for name, _ in stateful_modules(network)]
        self.charged: dict[int, Tensor] = {}
        self.fired = [0.0] * len(self.neurons)
        self._handles = [
            layer.register_forward_hook(self._seen(number))
            for number, layer in enumerate(self.neurons)
        ]

    def _seen(self, number: int) -> Callable[..., None]:
        def hook(
            neuron: Neuron, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, Tensor]
        ) -> None:
            (x, v), (decay, gain) = inputs, neuron.coefficients()
            self.charged[number] = decay * v + gain * x[0]
            self.fired[number] += float((outputs[0] != 0).double().mean())

        return hook

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def _gap(ours: Floats, theirs: Floats) -> Floats:
    return np.abs(ours - theirs) / np.maximum(1, np.abs(ours))


class _Differences:
    """The largest differences so far."""

    def __init__(self) -> None:
        self.logits = self.membranes = 0.0
        self.spikes = self.ties = 0

    def add(
        self, watch: _Watch, logits: Tensor, after: State, said: Floats, told: Sequence[Floats]
    ) -> None:
        """A step: torch's logits and state, and onnxruntime's."""
        excused = np.zeros(len(logits), bool)  # samples in which a tie went the other way
        for number, neuron in enumerate(watch.neurons):
            ours, theirs = after[number].numpy(), told[number]
            rule = cast(Neuron, neuron).rule
            gap = _gap(ours, theirs)
            flipped = np.abs(ours - theirs) > rule.v_threshold / 2
            tied = np.abs(watch.charged[number].numpy() - rule.v_threshold) <= TOLERANCE
            right = tied | excused.reshape(-1, *[1] * (gap.ndim - 1))
            self.spikes += int(flipped.sum())
            self.ties += int((flipped & right).sum())
            self.membranes = max(self.membranes, float(gap.max(initial=0, where=~right)))
            excused |= (flipped & right).reshape(len(logits), -1).any(1)
        gap = _gap(logits.numpy(), said)[~excused]
        self.logits = max(self.logits, float(gap.max(initial=0)))

    def largest(self) -> Json:
        return vars(self)


def compare(network: StepModel, step: Step, frames: Tensor) -> Parity:
    """Both sides over the same frames (T, N, P, H, W), each step from torch's state.

    A difference is measured absolutely up to 1, relatively above. Where a membrane is so close to
    its threshold that rounding decides, either side is right; what follows from such a spike in the
    same step is left out.
    """
    watch = _Watch(network)
    state, found = network.rest(frames.shape[1]), _Differences()
    try:
        with torch.inference_mode():
            for frame in frames.float():
                told = step(frame.numpy(), [rows.numpy() for rows in state])
                logits, after = network.advance(frame[None], state)
                found.add(watch, logits[0], after, *told)
                state = after
    finally:
        watch.close()
    steps = len(frames)
    rates = {name: fired / steps for name, fired in zip(watch.names, watch.fired, strict=True)}
    return Parity(frames.shape[1], steps, **found.largest(), rates=rates)


def export_step(
    model: StepModel,
    path: str | os.PathLike[str],
    *,
    frames: Tensor,
    about: Json,
) -> Parity:
    """Write one step of `model` to `path`, unless onnxruntime disagrees with torch on `frames`.

    frames   (T, N, P, H, W) of real samples, on which the two sides are compared
    about    what the file shall say of itself, as JSON: at least `classes` and `steps`

    Returns the comparison. Errors: a network whose norms differ from step to step or have no
    running statistics, a layer with a state that is no membrane, both by name; `RuntimeError` with
    the comparison where the two sides differ. No file is written then.
    """
    network = prepared(model)
    states = _states(network)
    description = {
        "format": FORMAT,
        "frame": list(network.frame_shape),
        "states": states,
        **about,
        "seal": "0" * 64,
    }
    content = _graph(network, states, json.dumps(description))
    path = Path(path)
    with atomic_path(path) as temporary:  # it takes its name only when it is right
        temporary.write_bytes(content)
        parity = compare(network, Step(temporary), frames)
        if not parity.holds:
            raise RuntimeError(
                f"onnxruntime and torch disagree, so {path} was not written: {asdict(parity)}"
            )
    return parity

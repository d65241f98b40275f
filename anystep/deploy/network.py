"""A trained network in torch, used as an exported step is: one interface for both.

`TorchStep` stands in for `runtime.Step`; `decide` is early exit on a batch, where samples that are
sure leave and the rest of the batch gets smaller.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anystep._files import Json
from anystep.deploy.step import Floats, State
from anystep.evaluation.exits import ExitRule
from anystep.nn.models.base import StepModel


class TorchStep:
    """`runtime.Step` of a network that is in memory. The network is in eval mode, on the CPU."""

    def __init__(self, network: StepModel, about: Json) -> None:
        self.network, self.about = network, dict(about)
        self.frame_shape = tuple(network.frame_shape)

    def rest(self, n: int) -> State:
        """The state of n samples before their first frame."""
        return tuple(rows.numpy() for rows in self.network.rest(n))

    def __call__(self, frame: Floats, state: Sequence[Floats]) -> tuple[Floats, State]:
        """One step: frame (n, P, H, W) -> logits (n, C), and the state to hand back."""
        before = tuple(torch.from_numpy(rows) for rows in state)
        with torch.inference_mode():
            logits, after = self.network.advance(torch.from_numpy(frame)[None], before)
        return logits[0].numpy(), tuple(rows.numpy() for rows in after)


def decide(
    network: StepModel, frames: Tensor, rule: ExitRule
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labels (N,) of a batch of frames (T, N, P, H, W), and the steps (N,) that each took.

    After each step the samples that are sure enough leave, so the next step costs less.
    """
    count = frames.shape[1]
    labels, steps = np.zeros(count, np.int64), np.zeros(count, np.int64)
    there = torch.arange(count)
    state, total = network.rest(count), np.zeros(0)
    with torch.inference_mode():
        for t, frame in enumerate(frames, start=1):
            seen = frame if len(there) == count else frame[there]
            logits, state = network.advance(seen[None], state)
            said = logits[0].double().numpy()
            total = said if t == 1 else total + said
            leaves = rule.certainty(total, np.full(len(total), t)) >= rule.threshold
            leaves |= t == len(frames)
            gone = there[torch.from_numpy(leaves)].numpy()
            labels[gone], steps[gone] = total[leaves].argmax(-1), t
            stays = torch.from_numpy(~leaves)
            if leaves.all():
                break
            if leaves.any():
                there, total = there[stays], total[~leaves]
                state = tuple(rows[stays] for rows in state)
    return labels, steps


def milliseconds(
    network: StepModel, batches: Sequence[Tensor], rules: Sequence[ExitRule], *, rounds: int = 5
) -> list[float]:
    """How long `decide` takes a sample under each rule: the median over rounds in which the rules
    take turns, so that a busy machine is busy for all of them.
    """
    samples = sum(batch.shape[1] for batch in batches)
    taken: list[list[float]] = [[] for _ in rules]
    for _ in range(rounds + 1):
        for rule, times in zip(rules, taken, strict=True):
            began = time.perf_counter()
            for batch in batches:
                decide(network, batch, rule)
            times.append(1e3 * (time.perf_counter() - began) / samples)
    return [float(np.median(times[1:])) for times in taken]  # the first round warms up

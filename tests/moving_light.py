"""A data set that is learnt in an epoch or two, with its network and training."""

from __future__ import annotations

import numpy as np
import torch

import anystep
from anystep.data.sets import FrameSet, RaggedSet, Splits
from anystep.training.fit import start

WIDTHS = [[4], [8]]
SIZES = {"train": 64, "val": 16, "test": 32}


def recordings(count=32, *, steps=10, seed=0) -> FrameSet:
    """Two classes of moving light, one of each polarity: learnt in an epoch or two."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    frames = generator.poisson(0.3, (count, steps, 2, 8, 8))
    frames[np.arange(count), :, labels] += generator.poisson(2.0, (count, steps, 8, 8))
    return FrameSet(frames.astype(np.uint8), labels)


def ragged(count=32, *, seed=0, shortest=4):
    """Moving light, each recording cut to a length of its own."""
    whole = recordings(count, seed=seed)
    lengths = np.random.default_rng(seed + 100).integers(shortest, 11, count)
    frames = np.concatenate([whole[n][0][:length] for n, length in enumerate(lengths)])
    return RaggedSet(frames, lengths, whole.labels)


def small_model(neuron="lif", *, seed=0):
    torch.manual_seed(seed)
    return anystep.create_model(
        "vgg_snn", num_classes=2, input_size=8, neuron=neuron, widths=WIDTHS
    )


def trained(method, *, data=None, epochs=1, model=None):
    plan = anystep.Plan(epochs=epochs, batch_size=16, lr=5e-3)
    state = start(model or small_model(), plan, phase=method.phases()[0])
    return anystep.fit(state, data or recordings(), method=method, plan=plan)


def moving_light(*, binning, cache=None, workers=None):
    """A row of DATASETS."""
    parts = {part: recordings(count, seed=seed) for seed, (part, count) in enumerate(SIZES.items())}
    return Splits(
        **parts,
        classes=("off", "on"),
        protocol="moving-light/v1",
        protocol_hash="0" * 16,
        causal=True,
    )


def record_of(method, *, neuron=None, norm="bn", epochs=2, options=None, data=None, **more):
    """A record of a method on moving light, with the neuron that it can train."""
    neuron = neuron or ("qcfs_if" if method in ("hsd", "qcfs") else "lif")
    tree = {
        "data": {"name": "moving-light", **(data or {})},
        "model": {"neuron": neuron, "norm": norm, "options": {"widths": WIDTHS}},
        "method": {"name": method, "options": options or {}},
        "train": {"epochs": epochs, "batch_size": 16, "lr": 5e-3},
        "tensorboard": False,
        **more,
    }
    return anystep.record_from(tree)


def equal(first, second):
    """Whether all weights of one network are those of another."""
    return all(torch.equal(first[key], second[key]) for key in first)

"""Small networks and inputs that the tests of this wing share."""

from __future__ import annotations

import torch
from torch import nn

from anystep.nn.models import create_model


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def close_all(actual, expected, tolerance=1e-12):
    for mine, theirs in zip(actual, expected, strict=True):
        close(mine, theirs, tolerance)


def same(actual, expected):
    """Every pair of tensors has the same bits."""
    for number, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(mine, theirs), number


def frames(steps=6, samples=3, planes=2, size=8, *, seed=0, dtype=torch.float64):
    """(T, N, P, H, W), uniform in 0 ... 2."""
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, samples, planes, size, size)
    return 2.0 * torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def sequence(steps=3, samples=4, channels=2, size=5, *, seed=0):
    """(T, N, C, H, W), normal around 1."""
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, samples, channels, size, size)
    return 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1.0


def network(neuron="lif", *, dtype=torch.float64, **options):
    """A VGG-SNN of three layers for frames of 8 x 8, in training mode; every layer fires."""
    torch.manual_seed(0)
    options = {"num_classes": 5, "input_size": 8, "widths": [[4, 6], [8]], **options}
    model = create_model("vgg_snn", neuron=neuron, **options).to(dtype)
    for key, parameter in model.named_parameters():
        if key.endswith("norm.bias"):
            nn.init.constant_(parameter, 0.4)
    return model


def in_chunks(model, x, sizes):
    """What a model says of `x` chunk by chunk, and its state at the end."""
    state, said = model.rest(x.shape[1]), []
    for chunk in x.split(sizes):
        logits, state = model.advance(chunk, state)
        said.append(logits)
    return torch.cat(said), state

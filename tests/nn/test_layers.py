"""Folded time, and static images as sequences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anystep.nn.layers import direct_encoding, fold


def sequence(steps=3, samples=4, channels=2, size=5, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        2.0
        * torch.randn(
            steps, samples, channels, size, size, generator=generator, dtype=torch.float64
        )
        + 1.0
    )


def test_fold_runs_a_module_on_every_step_alone():
    convolution, x = nn.Conv2d(2, 3, 3, stride=2).double(), sequence()
    expected = torch.stack([convolution(step) for step in x])
    torch.testing.assert_close(fold(convolution, x), expected, rtol=1e-12, atol=1e-12)
    assert fold(nn.Flatten(), x).shape == (3, 4, 50)


def test_a_static_image_is_seen_at_every_step_without_a_copy():
    images = torch.rand(4, 3, 5, 5)
    encoded = direct_encoding(images, 6)
    assert encoded.shape == (6, 4, 3, 5, 5)
    assert all(torch.equal(step, images) for step in encoded)
    assert encoded.stride(0) == 0
    assert encoded.data_ptr() == images.data_ptr()


def test_the_gradient_of_a_static_image_is_the_sum_over_its_steps():
    images = torch.rand(2, 1, 2, 2, requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1, 1)
    (weights * direct_encoding(images, 3)).sum().backward()
    assert (images.grad == 111.0).all()


@pytest.mark.parametrize("steps", [0, -1])
def test_fewer_than_one_step_is_refused_by_name(steps):
    with pytest.raises(ValueError, match=f"steps must be >= 1, got {steps}"):
        direct_encoding(torch.rand(1, 1, 2, 2), steps)

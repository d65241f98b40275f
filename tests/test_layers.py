"""Folded time, batch norm over time and batch, and static images as sequences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anystep.layers import direct_encoding, fold
from anystep.norms import NORMS, BatchNorm


def sequence(steps=3, samples=4, channels=2, size=5, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(steps, samples, channels, size, size, generator=generator, dtype=torch.float64) + 1.0


def test_fold_runs_a_module_on_every_step_alone():
    convolution, x = nn.Conv2d(2, 3, 3, stride=2).double(), sequence()
    expected = torch.stack([convolution(step) for step in x])
    torch.testing.assert_close(fold(convolution, x), expected, rtol=1e-12, atol=1e-12)
    assert fold(nn.Flatten(), x).shape == (3, 4, 50)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_the_flattened_batch(training):
    mine, theirs = BatchNorm(2).double(), nn.BatchNorm2d(2).double()
    with torch.no_grad():
        for norm in (mine, theirs):
            norm.weight.copy_(torch.tensor([0.5, 2.0]))
            norm.bias.copy_(torch.tensor([-1.0, 0.25]))
    for seed in range(3):
        mine(sequence(seed=seed))
        theirs(sequence(seed=seed).flatten(0, 1))
    mine.train(training)
    theirs.train(training)
    x, y = (sequence(seed=9).requires_grad_(True) for _ in range(2))
    said, expected = mine(x), theirs(y.flatten(0, 1)).reshape(y.shape)
    assert torch.equal(said, expected)
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value), key
    said.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(x.grad, y.grad)
    assert torch.equal(mine.weight.grad, theirs.weight.grad)


def test_batch_norm_in_training_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64).reshape(2, 2, 1, 1, 1)
    norm = BatchNorm(1, eps=1e-12, momentum=0.5).double()
    # mean 3, squares around it 4 1 0 9: variance 14 / 4 for the output, 14 / 3 for what is kept
    torch.testing.assert_close(norm(x).flatten(), (x.flatten() - 3) / (14 / 4) ** 0.5)
    assert norm.running_mean.item() == pytest.approx(0.5 * 3)
    assert norm.running_var.item() == pytest.approx(0.5 * 1 + 0.5 * 14 / 3)
    assert norm.num_batches_tracked == 1


def test_batch_norm_in_eval_mode_looks_at_no_other_step_or_sample():
    norm = BatchNorm(2).double()
    norm(sequence())
    norm.eval()
    x = sequence(seed=1)
    assert torch.equal(norm(x)[1:2, 2:3], norm(x[1:2, 2:3]))


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_keeps_the_shape_and_the_dtype(name):
    for dtype in (torch.float32, torch.float64):
        norm = NORMS[name](2).to(dtype)
        said = norm(sequence().to(dtype))
        assert (said.shape, said.dtype) == ((3, 4, 2, 5, 5), dtype)


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

"""Folded time, and static images as sequences."""

from __future__ import annotations

import torch
from little import close, sequence
from torch import nn

from anystep.nn.layers import direct_encoding, fold


def test_fold_runs_a_module_on_every_step_alone():
    convolution, x = nn.Conv2d(2, 3, 3, stride=2).double(), sequence()
    close(fold(convolution, x), torch.stack([convolution(step) for step in x]))
    assert fold(nn.Flatten(), x).shape == (3, 4, 50)


def test_a_static_image_is_seen_at_every_step_without_a_copy_and_gets_the_sum_of_the_gradients():
    images = torch.rand(4, 3, 5, 5, requires_grad=True)
    encoded = direct_encoding(images, 3)
    assert encoded.shape == (3, 4, 3, 5, 5)
    assert all(torch.equal(step, images) for step in encoded)
    assert encoded.stride(0) == 0
    assert encoded.data_ptr() == images.data_ptr()
    (torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1, 1) * encoded).sum().backward()
    assert (images.grad == 111.0).all()

"""Step logits with labels, and the gradient of a loss: for tests of losses."""

from __future__ import annotations

import torch

SIZES = [(1, 1, 2), (1, 3, 101), (2, 1, 10), (4, 8, 2), (5, 3, 10), (10, 3, 101)]
SMALL_SIZES = [(1, 3, 2), (2, 1, 10), (4, 3, 2), (4, 2, 5)]


def random_case(size, *, seed=0):
    """Logits (T, N, C) and labels, which about half of the steps favour."""
    steps, samples, classes = size
    generator = torch.Generator().manual_seed(1000 * seed + 100 * steps + 10 * samples + classes)
    logits = 1.5 * torch.randn(size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    lift = 4.5 * torch.randint(2, (steps, samples, 1), generator=generator)
    return logits + lift * torch.nn.functional.one_hot(labels, classes), labels


def random_teacher(size, *, seed=0):
    """Logits (N, C) that know something else than `random_case(size)`."""
    generator = torch.Generator().manual_seed(7 + seed)
    return 2.0 * torch.randn(size[1:], generator=generator, dtype=torch.float64)


def log_rows(*rows):
    """Logits (T, 1, C) whose step t is the logarithm of row t: softmax gives row t over its sum."""
    return torch.tensor(rows, dtype=torch.float64).log().unsqueeze(1)


def gradient(function, logits, *args, **options):
    leaf = logits.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(function(leaf, *args, **options), leaf)
    return slope

"""The prefix mean as a runtime uses it: any kind of array, and nothing of torch. Its values are in
test_metrics.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anystep.evaluation.readout import prefix_mean


def test_the_last_prefix_is_the_time_mean_and_the_first_the_first_step():
    logits = np.random.default_rng(0).normal(size=(7, 3, 4))
    prefix = prefix_mean(logits)
    np.testing.assert_allclose(prefix[-1], logits.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(prefix[0], logits[0])


def test_a_prefix_mean_of_a_prefix_is_the_prefix_of_the_prefix_mean():
    logits = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))
    for t in range(1, 8):
        assert torch.equal(prefix_mean(logits[:t]), prefix_mean(logits)[:t])


@pytest.mark.parametrize("steps", [1, 5])
def test_the_logits_stay_as_they_were(steps):
    for logits in (np.ones((steps, 2, 3)), torch.ones(steps, 2, 3)):
        prefix_mean(logits)
        assert (logits == 1).all()

"""Labels as shares of the classes, as mixed samples have them: which losses take them, and what
they mean there.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from anystep.training.losses import LOSSES

SOFT = ("ce", "label_smoothing", "step_ce", "tet", "strong_weak")
ARGUMENTS = {"tks": {"alpha": 0.5, "temperature": 2.0}}
T, N, C = 3, 5, 4


def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(T, N, C, generator=generator, dtype=torch.float64)
    first, second = (torch.randint(C, (N,), generator=generator) for _ in range(2))
    return logits, first, second


def shares(labels):
    return F.one_hot(labels, C).double()


@pytest.mark.parametrize("name", SOFT)
def test_a_whole_share_is_a_label(name):
    logits, labels, _ = case()
    torch.testing.assert_close(
        LOSSES[name](logits, shares(labels)), LOSSES[name](logits, labels), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("name", SOFT[:-1])  # strong_weak has a part that no label enters
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(name):
    logits, first, second = case()
    mixed = LOSSES[name](logits, 0.3 * shares(first) + 0.7 * shares(second))
    torch.testing.assert_close(
        mixed, 0.3 * LOSSES[name](logits, first) + 0.7 * LOSSES[name](logits, second)
    )


def test_the_rows_that_ask_for_the_label_of_a_step_refuse_shares_by_name():
    logits, labels, _ = case()
    for name in set(LOSSES) - set(SOFT):
        with pytest.raises(
            ValueError, match="needs a class for each sample; these labels are shares"
        ):
            LOSSES[name](logits, shares(labels), **ARGUMENTS.get(name, {}))

"""The learning rate of every epoch."""

from __future__ import annotations

import math

import pytest

from anystep.training.schedule import Plan

TKS = Plan(epochs=600, lr=6.25e-4, min_lr=1e-5, warmup_epochs=5, warmup_lr=1e-6)


def test_the_warm_up_of_tks_is_the_published_one():
    # a line from 1e-6 that would reach 6.25e-4 in epoch 5: steps of 1.248e-4
    assert [TKS.lr_at(epoch) for epoch in range(5)] == pytest.approx(
        [1e-6, 1.258e-4, 2.506e-4, 3.754e-4, 5.002e-4]
    )


def test_after_the_warm_up_the_cosine_is_read_at_the_epoch_itself():
    assert TKS.lr_at(5) == pytest.approx(1e-5 + 6.15e-4 * (1 + math.cos(math.pi / 120)) / 2)
    assert TKS.lr_at(300) == pytest.approx(1e-5 + 6.15e-4 / 2)
    assert TKS.lr_at(599) > 1e-5
    rates = [TKS.lr_at(epoch) for epoch in range(5, 600)]
    assert rates == sorted(rates, reverse=True)


def test_without_warm_up_the_first_epoch_has_the_full_rate():
    rates = [Plan(epochs=4, lr=0.01).lr_at(epoch) for epoch in range(4)]
    assert rates == pytest.approx([0.01, 0.005 + 0.005 / 2**0.5, 0.005, 0.005 - 0.005 / 2**0.5])


def test_a_phase_that_is_shorter_than_the_plan_has_a_cosine_of_its_own():
    plan = Plan(epochs=100, lr=0.01)
    assert plan.lr_at(2, 4) == pytest.approx(0.005)
    assert plan.lr_at(2, 4) == Plan(epochs=4, lr=0.01).lr_at(2)

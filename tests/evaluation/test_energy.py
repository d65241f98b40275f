"""Firing rates, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anystep.evaluation.energy import FiringRates, firing_rates
from anystep.nn.activations import ReLU
from anystep.nn.neurons import IF, LIF, ClippedIF


def chain(*layers):
    return nn.ModuleDict(dict(layers))


def test_rates_by_hand():
    model = chain(("slow", IF(v_threshold=1.0)), ("fast", IF(v_threshold=0.5)))
    with firing_rates(model) as rates:
        x = torch.full((4, 2, 3), 0.6)
        model["slow"](x)  # 0.6, 1.2 > 1: every second step
        model["fast"](x)  # every step
    assert rates.mean() == {"slow": 0.5, "fast": 1.0}


def test_calls_of_different_sizes_weigh_by_their_elements():
    model = chain(("n", LIF(tau=2.0, v_threshold=0.5)))
    with firing_rates(model) as rates:
        model["n"](torch.full((1, 3, 4), 2.0))  # 12 elements, all fire
        model["n"](torch.zeros(3, 4, 3))  # 36 elements, none does
    assert rates.mean() == {"n": 12 / 48}


def test_a_spike_counts_once_whatever_it_is_worth():
    model = chain(("worth 8", ClippedIF()), ("worth 1", ClippedIF(scale="folded")))
    with firing_rates(model) as rates:
        x = torch.full((4, 2, 3), 4.0)  # membranes 1, 1.5 > 1, 1, 1.5 > 1
        assert model["worth 8"](x)[0].max() == 8
        model["worth 1"](x)
    assert rates.mean() == {"worth 8": 0.5, "worth 1": 0.5}


def test_nothing_is_counted_before_or_after_the_block_and_no_hook_stays():
    model = chain(("n", IF()))
    x = torch.ones(2, 1, 1)
    model["n"](x)
    with firing_rates(model) as rates:
        assert rates.mean() == {}
        model["n"](x)
    model["n"](0 * x)
    assert rates.mean() == {"n": 1.0}
    assert not model["n"]._forward_hooks


def test_no_hook_stays_after_an_error():
    model = chain(("n", IF()))
    with pytest.raises(ValueError, match=r"x must be \(T, N, \.\.\.\)"), firing_rates(model):
        model["n"](torch.ones(3))
    assert not model["n"]._forward_hooks


def test_an_activation_has_no_rate_and_no_elements_are_no_spikes():
    model = chain(("relu", ReLU()), ("n", IF()))
    with firing_rates(model) as rates:
        model["relu"](torch.ones(2, 1, 1))
        model["n"](torch.ones(2, 0, 1))
    assert rates.mean() == {"n": 0.0}
    assert FiringRates().mean() == {}

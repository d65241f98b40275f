"""Surrogates: slopes against values by hand, and the spike that carries them."""

from __future__ import annotations

import math

import pytest
import torch

from anystep.nn.surrogate import (
    SURROGATES,
    Arctan,
    QuadraticGate,
    Rectangle,
    Sigmoid,
    Triangle,
    spike,
    surrogate_of,
)

BY_HAND = [
    (QuadraticGate(2.0), 0.0, 2.0),  # alpha
    (QuadraticGate(2.0), 0.25, 1.0),  # 2 - 4 * 0.25
    (QuadraticGate(2.0), -0.6, 0.0),  # outside |u| < 1/2
    (QuadraticGate(1.0), 0.25, 0.75),  # 1 - 0.25
    (Triangle(1.0), -0.25, 0.75),  # 1 - 0.25
    (Triangle(0.5), 0.25, 1.0),  # (0.5 - 0.25) / 0.25
    (Triangle(0.5), 0.75, 0.0),
    (Rectangle(1.0), 0.49, 1.0),
    (Rectangle(1.0), -0.51, 0.0),
    (Rectangle(0.5), 0.2, 2.0),  # 1 / width
    (Arctan(2.0), 0.0, 1.0),  # alpha / 2
    (Arctan(2.0), 1 / math.pi, 0.5),  # 1 / (1 + 1)
    (Sigmoid(4.0), 0.0, 1.0),  # alpha / 4
    (Sigmoid(4.0), 0.5, 0.41997434161402614),  # 1 / cosh(1)^2
]


@pytest.mark.parametrize(("surrogate", "u", "expected"), BY_HAND, ids=str)
def test_the_slope_has_the_value_computed_by_hand(surrogate, u, expected):
    slope = surrogate.slope(torch.tensor(u, dtype=torch.float64)).item()
    assert slope == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("parameter", [0.7, 2.0, 4.0])
def test_the_slope_integrates_to_one_is_even_and_never_negative(name, parameter):
    # fine near 0 and far out: arctan has long tails
    u = torch.sinh(torch.linspace(-12, 12, 400_001, dtype=torch.float64))
    slope = SURROGATES[name](parameter).slope(u)
    assert torch.trapezoid(slope, u).item() == pytest.approx(1, abs=1e-4)
    assert slope.min() >= 0
    assert torch.allclose(slope, slope.flip(0), rtol=1e-9, atol=1e-15)


def test_the_quadratic_gate_of_tks_is_two_minus_four_u_on_its_tent():
    u = torch.linspace(-1, 1, 201, dtype=torch.float64)
    expected = [2 - 4 * abs(value) if abs(value) <= 0.5 else 0.0 for value in u.tolist()]
    assert QuadraticGate(2.0).slope(u).tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_a_triangle_is_the_quadratic_gate_of_its_inverse_width(width):
    u = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert torch.allclose(Triangle(width).slope(u), QuadraticGate(1 / width).slope(u), atol=1e-15)


def test_a_spike_needs_an_overshoot_and_at_threshold_none():
    u = torch.tensor([-1e-6, 0.0, 1e-6])
    assert spike(u, Triangle()).tolist() == [0, 0, 1]
    assert spike(u, Triangle(), at_threshold=True).tolist() == [0, 1, 1]


def test_a_surrogate_is_found_by_itself_by_name_and_by_a_recipe_entry():
    gate = QuadraticGate(3.0)
    assert surrogate_of(gate) is gate
    assert surrogate_of("arctan") == Arctan()
    entry = {"name": "triangle", "width": 0.5}
    assert surrogate_of(entry) == Triangle(0.5)
    assert entry == {"name": "triangle", "width": 0.5}  # it is left as it was

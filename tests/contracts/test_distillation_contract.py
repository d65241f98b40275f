"""What every row of DISTILLATIONS promises: a function of step logits (T, N, C) and a teacher's
logits (N, C). Most of it is what a loss promises. Options have defaults, so a new row is tested
without a new test.
"""

from __future__ import annotations

import inspect

import pytest
import torch

from anystep.training.distillation import DISTILLATIONS
from contracts.test_loss_contract import (  # noqa: F401
    SIZES,
    case,
    test_a_batch_shown_twice_changes_nothing,
    test_a_docstring_has_the_equation_the_shapes_and_the_divisors,
    test_a_loss_is_a_finite_scalar_with_a_finite_gradient,
    test_a_loss_is_pure,
    test_a_loss_keeps_the_dtype_and_single_agrees_with_double,
    test_logits_of_a_wrong_shape_are_refused_by_name,
    test_the_gradient_is_that_of_the_value,
    test_the_order_of_the_batch_is_irrelevant,
    value_and_slope,
)


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", sorted(DISTILLATIONS))


def test_the_value_is_positive_and_the_gradient_of_every_step_of_every_sample_flows(name):
    value, slope = value_and_slope(name, *case(name))
    assert value > 0
    assert (slope.abs().amax(2) > 1e-6).all()


def test_the_teacher_gets_no_gradient(name):
    logits, teacher = (each.requires_grad_(True) for each in case(name, seed=2))
    DISTILLATIONS[name](logits, teacher).backward()
    assert logits.grad is not None
    assert teacher.grad is None


def test_a_student_that_says_what_the_teacher_says_is_done(name):
    for size in SIZES:
        _, teacher = case(name, size, seed=3)
        value, slope = value_and_slope(name, teacher.expand(size), teacher)
        assert abs(value) < 1e-14
        assert slope.abs().max() < 1e-14


def test_a_constant_added_to_the_logits_of_a_row_changes_nothing(name):
    logits, teacher = case(name, seed=4)
    shift = torch.arange(6.0, dtype=torch.float64).unsqueeze(1)
    value = DISTILLATIONS[name](logits, teacher)
    moved = DISTILLATIONS[name](logits + shift, teacher - 3 * shift)
    torch.testing.assert_close(moved, value, rtol=1e-12, atol=0)


def test_a_teacher_that_would_only_broadcast_is_refused_by_name(name):
    for shape in [(10,), (1, 10), (3, 1), (4, 3, 10)]:
        with pytest.raises(ValueError, match=r"teacher must be \(N, C\) = \(3, 10\)"):
            DISTILLATIONS[name](torch.zeros(4, 3, 10), torch.zeros(shape))


def test_a_temperature_that_is_not_positive_is_refused_by_name(name):
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature must be > 0 and finite, got {wrong}"):
            DISTILLATIONS[name](torch.zeros(4, 3, 10), torch.zeros(3, 10), temperature=wrong)


def test_every_option_has_a_default(name):
    options = list(inspect.signature(DISTILLATIONS[name]).parameters.values())[2:]
    assert all(each.default is not each.empty for each in options)

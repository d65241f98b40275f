"""What every row of DISTILLATIONS promises: a function of step logits (T, N, C) and a teacher's
logits (N, C).

A test whose only argument is `name` is a promise. Options have defaults, so a new row is tested
without a new test.
"""

from __future__ import annotations

import inspect

import pytest
import torch

from anystep.training.distillation import DISTILLATIONS

SIZES = [(1, 1, 2), (1, 4, 3), (4, 1, 10), (5, 6, 4), (10, 3, 101)]
every_row = pytest.mark.parametrize("name", sorted(DISTILLATIONS))


def case(size, *, seed=0):
    """Step logits and the logits of a teacher that knows something else."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(size, generator=generator, dtype=torch.float64)
    return logits, 3.0 * torch.randn(size[1:], generator=generator, dtype=torch.float64)


def value_and_slope(name, logits, teacher, **options):
    leaf = logits.clone().requires_grad_(True)
    value = DISTILLATIONS[name](leaf, teacher, **options)
    return value.detach(), *torch.autograd.grad(value, leaf)


@every_row
def test_a_distillation_is_a_finite_positive_scalar_with_a_finite_gradient(name):
    for size in SIZES:
        for scale in (1.0, 1e4):
            logits, teacher = case(size)
            value, slope = value_and_slope(name, scale * logits, scale * teacher)
            assert value.shape == ()
            assert value.isfinite()
            assert value > 0
            assert slope.shape == size
            assert slope.isfinite().all()


@every_row
def test_the_gradient_of_every_step_of_every_sample_flows(name):
    _, slope = value_and_slope(name, *case((5, 6, 4)))
    assert (slope.abs().amax(2) > 1e-6).all()


@every_row
def test_the_gradient_is_that_of_the_value(name):
    logits, teacher = case((5, 6, 4), seed=1)
    value, slope = value_and_slope(name, logits, teacher)
    width = 1e-6
    moved = DISTILLATIONS[name](logits - width * slope, teacher)
    assert float(value - moved) / width == pytest.approx(float(slope.square().sum()), rel=1e-4)


@every_row
def test_the_teacher_gets_no_gradient(name):
    logits, teacher = case((5, 6, 4), seed=2)
    logits, teacher = logits.requires_grad_(True), teacher.requires_grad_(True)
    DISTILLATIONS[name](logits, teacher).backward()
    assert logits.grad is not None
    assert teacher.grad is None


@every_row
def test_a_student_that_says_what_the_teacher_says_is_done(name):
    for size in SIZES:
        _, teacher = case(size, seed=3)
        value, slope = value_and_slope(name, teacher.expand(size), teacher)
        assert abs(value) < 1e-14
        assert slope.abs().max() < 1e-14


@every_row
def test_a_constant_added_to_the_logits_of_a_row_changes_nothing(name):
    logits, teacher = case((5, 6, 4), seed=4)
    shift = torch.arange(6.0, dtype=torch.float64).unsqueeze(1)
    value = DISTILLATIONS[name](logits, teacher)
    torch.testing.assert_close(
        DISTILLATIONS[name](logits + shift, teacher - 3 * shift), value, rtol=1e-12, atol=0
    )


@every_row
def test_the_order_of_the_batch_is_irrelevant(name):
    for size in SIZES:
        logits, teacher = case(size, seed=5)
        order = torch.randperm(size[1], generator=torch.Generator().manual_seed(0))
        value, slope = value_and_slope(name, logits, teacher)
        other, other_slope = value_and_slope(name, logits[:, order], teacher[order])
        torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(other_slope, slope[:, order], rtol=1e-12, atol=1e-15)


@every_row
def test_a_batch_shown_twice_changes_nothing(name):
    for size in SIZES:
        logits, teacher = case(size, seed=6)
        value, slope = value_and_slope(name, logits, teacher)
        twice, twice_slope = value_and_slope(
            name, torch.cat([logits, logits], dim=1), torch.cat([teacher, teacher])
        )
        torch.testing.assert_close(twice, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            twice_slope, torch.cat([slope, slope], dim=1) / 2, rtol=1e-12, atol=1e-15
        )


@every_row
def test_a_distillation_keeps_the_dtype_and_single_agrees_with_double(name):
    for size in SIZES:
        logits, teacher = case(size, seed=7)
        value, slope = value_and_slope(name, logits, teacher)
        single, single_slope = value_and_slope(name, logits.float(), teacher.float())
        assert (value.dtype, slope.dtype) == (torch.float64, torch.float64)
        assert (single.dtype, single_slope.dtype) == (torch.float32, torch.float32)
        torch.testing.assert_close(single.double(), value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(single_slope.double(), slope, rtol=1e-3, atol=1e-6)


@every_row
def test_a_distillation_is_pure(name):
    logits, teacher = case((5, 6, 4), seed=8)
    kept, kept_teacher = logits.clone(), teacher.clone()
    first, second = DISTILLATIONS[name](logits, teacher), DISTILLATIONS[name](logits, teacher)
    assert torch.equal(first, second)
    assert torch.equal(logits, kept)
    assert torch.equal(teacher, kept_teacher)


@every_row
def test_logits_of_a_wrong_shape_are_refused_by_name(name):
    for shape in [(3, 10), (4, 3, 10, 1)]:
        with pytest.raises(ValueError, match=r"logits must be .*\(T, N, C\)"):
            DISTILLATIONS[name](torch.zeros(shape), torch.zeros(3, 10))


@every_row
def test_a_teacher_that_would_only_broadcast_is_refused_by_name(name):
    for shape in [(10,), (1, 10), (3, 1), (4, 3, 10)]:
        with pytest.raises(ValueError, match=r"teacher must be \(N, C\) = \(3, 10\)"):
            DISTILLATIONS[name](torch.zeros(4, 3, 10), torch.zeros(shape))


@every_row
def test_a_temperature_that_is_not_positive_is_refused_by_name(name):
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=f"temperature must be > 0 and finite, got {temperature}"
        ):
            DISTILLATIONS[name](torch.zeros(4, 3, 10), torch.zeros(3, 10), temperature=temperature)


@every_row
def test_a_docstring_has_the_equation_the_shapes_and_the_divisors(name):
    text = inspect.getdoc(DISTILLATIONS[name]) or ""
    assert "logits (T, N, C), teacher (N, C) logits -> scalar" in text
    assert "Mean over" in text
    assert any(line.startswith("    ") for line in text.splitlines()), "the equation, indented"


@every_row
def test_options_are_keyword_only_and_have_defaults(name):
    options = list(inspect.signature(DISTILLATIONS[name]).parameters.values())[2:]
    assert all(
        each.kind is each.KEYWORD_ONLY and each.default is not each.empty for each in options
    )

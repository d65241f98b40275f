"""What every row of LOSSES promises. A new row adds its equation to EQUATIONS, as a slow loop;
required floats are 0.5, the rest has defaults.

A test whose only argument is `name` is a promise; `tests/training/test_methods.py` runs them all on
a row made up there. `test_distillation_contract` has most of them too.
"""

from __future__ import annotations

import inspect
import re
from functools import partial

import oracles
import pytest
import slow_distillation
import torch

from anystep.training.distillation import DISTILLATIONS
from anystep.training.losses import LOSSES

EQUATIONS = {  # a loop a sum, from the paper, of numpy's logits and labels
    "ce": oracles.smoothed_ce,
    "label_smoothing": partial(oracles.smoothed_ce, epsilon=0.1),
    "step_ce": partial(oracles.tet, lamb=0.0),
    "tet": oracles.tet,
    "tks": partial(oracles.tks, alpha=0.5, temperature=0.5),
    "full_range": slow_distillation.full_range,
    "strong_weak": slow_distillation.strong_weak,
}
SIZES = [(1, 1, 2), (1, 4, 3), (4, 1, 10), (5, 6, 4), (10, 3, 101)]


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", sorted(LOSSES))


def has(name, option):
    return option in inspect.signature({**LOSSES, **DISTILLATIONS}[name]).parameters


def value_of(name, logits, target, **options):
    """A row's value, with 0.5 for each keyword that has no default."""
    function = {**LOSSES, **DISTILLATIONS}[name]
    parameters = list(inspect.signature(function).parameters.values())[2:]
    assert all(each.kind is each.KEYWORD_ONLY for each in parameters), "options are keyword-only"
    required = {each.name: 0.5 for each in parameters if each.default is each.empty}
    return function(logits, target, **required, **options)


def value_and_slope(name, logits, target, **options):
    leaf = logits.clone().requires_grad_(True)
    value = value_of(name, leaf, target, **options)
    return value.detach(), *torch.autograd.grad(value, leaf)


def case(name, size=(5, 6, 4), *, seed=0):
    """Step logits, and labels or the logits of a teacher that knows something else. About half of
    the steps are right, sample 0 at every step and the last sample of many at none.
    """
    steps, samples, classes = size
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    lift = 4.0 * torch.randint(2, (steps, samples, 1), generator=generator).double()
    lift[:, -1], lift[:, 0] = -4.0, 4.0
    logits = logits + lift * torch.nn.functional.one_hot(labels, classes)
    if name not in DISTILLATIONS:
        return logits, labels
    return logits, 3.0 * torch.randn(size[1:], generator=generator, dtype=torch.float64)


def test_a_loss_is_a_finite_scalar_with_a_finite_gradient(name):
    for size in SIZES:
        for scale in (1.0, 100.0, 1e4):
            logits, target = case(name, size)
            value, slope = value_and_slope(name, scale * logits, target)
            assert value.shape == ()
            assert value.isfinite()
            assert slope.shape == size
            assert slope.isfinite().all()


def test_a_loss_is_its_equation(name):
    assert name in EQUATIONS, "write its equation as a slow loop, and a row of EQUATIONS"
    for seed, size in enumerate(SIZES):
        logits, labels = case(name, size, seed=seed)
        expected = EQUATIONS[name](logits.numpy(), labels.numpy())
        assert float(value_of(name, logits, labels)) == pytest.approx(expected, rel=1e-10)


def test_a_loss_falls_when_the_logit_of_the_label_grows(name):
    for seed, size in enumerate(SIZES):
        logits, labels = case(name, size, seed=seed)
        more = logits + 1e-6 * torch.nn.functional.one_hot(labels, size[2])
        assert value_of(name, more, labels) < value_of(name, logits, labels)


def test_the_gradient_of_every_sample_flows(name):
    _, slope = value_and_slope(name, *case(name))
    assert (slope.abs().amax(dim=(0, 2)) > 1e-6).all()


def test_the_gradient_is_that_of_the_value(name):
    # a small step against the gradient lowers the loss by its squared length, to first order; no
    # curvature at this width. A teacher that is detached moves with the logits and hides it from
    # the gradient, so it is let go here.
    options = {"detach": False} if has(name, "detach") else {}
    logits, target = case(name, seed=1)
    value, slope = value_and_slope(name, logits, target, **options)
    width = 1e-6
    moved = value_of(name, logits - width * slope, target, **options)
    assert float(value - moved) / width == pytest.approx(float(slope.square().sum()), rel=1e-4)


def test_the_order_of_the_batch_is_irrelevant(name):
    for size in SIZES:
        logits, target = case(name, size, seed=2)
        order = torch.randperm(size[1], generator=torch.Generator().manual_seed(0))
        value, slope = value_and_slope(name, logits, target)
        other, other_slope = value_and_slope(name, logits[:, order], target[order])
        torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(other_slope, slope[:, order], rtol=1e-12, atol=1e-15)


def test_a_batch_shown_twice_changes_nothing(name):
    for size in SIZES:
        logits, target = case(name, size, seed=3)
        value, slope = value_and_slope(name, logits, target)
        both = torch.cat([logits, logits], dim=1), torch.cat([target, target])
        twice, twice_slope = value_and_slope(name, *both)
        torch.testing.assert_close(twice, value, rtol=1e-12, atol=0)
        half = torch.cat([slope, slope], dim=1) / 2
        torch.testing.assert_close(twice_slope, half, rtol=1e-12, atol=1e-15)


def test_a_loss_keeps_the_dtype_and_single_agrees_with_double(name):
    for size in SIZES:
        logits, target = case(name, size, seed=4)
        theirs = target.float() if target.is_floating_point() else target
        both = value_and_slope(name, logits, target)
        single = value_and_slope(name, logits.float(), theirs)
        for mine, other, rtol, atol in zip(single, both, (1e-5, 1e-4), (1e-6, 1e-5), strict=True):
            assert (mine.dtype, other.dtype) == (torch.float32, torch.float64)
            torch.testing.assert_close(mine.double(), other, rtol=rtol, atol=atol)


def test_a_loss_is_pure(name):
    logits, target = case(name, seed=5)
    kept, kept_target = logits.clone(), target.clone()
    first, second = value_of(name, logits, target), value_of(name, logits, target)
    assert torch.equal(first, second)
    assert torch.equal(logits, kept)
    assert torch.equal(target, kept_target)


def test_logits_of_a_wrong_shape_are_refused_by_name(name):
    for shape in [(3, 10), (4, 3, 10, 1)]:
        with pytest.raises(ValueError, match=r"logits must be .*\(T, N, C\)"):
            value_of(name, torch.zeros(shape), case(name, (4, 3, 10))[1])


def test_labels_of_a_wrong_shape_are_refused_by_name(name):
    for shape in [(), (2,), (1,), (3, 1), (4, 3)]:
        with pytest.raises(ValueError, match=r"labels must be \(3,\)"):
            value_of(name, torch.zeros(4, 3, 10), torch.zeros(shape, dtype=torch.int64))


def test_a_label_that_is_no_class_is_refused_by_name(name):
    for label in (-1, 10, -100):
        with pytest.raises(ValueError, match=rf"labels must be in 0\.\.9, got {label}"):
            value_of(name, torch.zeros(4, 3, 10), torch.tensor([0, label, 1]))


def test_a_docstring_has_the_equation_the_shapes_and_the_divisors(name):
    text = inspect.getdoc({**LOSSES, **DISTILLATIONS}[name]) or ""
    target = r"(labels \(N,\)( or shares \(N, C\))?|teacher \(N, C\) logits)"
    assert re.search(rf"logits \(T, N, C\), {target}\s-> scalar", text)
    assert "Mean over" in text
    assert any(line.startswith("    ") for line in text.splitlines()), "the equation, indented"


def test_detaching_the_teacher_keeps_the_value_and_takes_its_gradient(name):
    if not has(name, "detach"):
        return
    logits, labels = case(name, seed=6)
    logits = logits / 4  # a teacher that is certain has no gradient to lose
    value, slope = value_and_slope(name, logits, labels, detach=False)
    detached, detached_slope = value_and_slope(name, logits, labels, detach=True)
    assert torch.equal(detached, value)
    assert (detached_slope - slope).abs().max() > 1e-4

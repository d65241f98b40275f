"""What every row of LOSSES promises. A new row is tested without a new test: required floats are
0.5, the rest has defaults.

A test whose only argument is `name` is a promise; `tests/training/test_methods.py` runs them all on
a row made up there.
"""

from __future__ import annotations

import inspect
import re

import pytest
import torch

from anystep.training.losses import LOSSES

SIZES = [(1, 1, 2), (1, 4, 3), (4, 1, 10), (5, 6, 4), (10, 3, 101)]
every_row = pytest.mark.parametrize("name", sorted(LOSSES))


def required(function) -> dict[str, float]:
    """A value for each keyword without a default."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    assert all(each.kind is each.KEYWORD_ONLY for each in parameters), (
        "options of a loss are keyword-only"
    )
    return {each.name: 0.5 for each in parameters if each.default is each.empty}


def loss_of(name):
    return lambda logits, labels, **options: LOSSES[name](
        logits, labels, **required(LOSSES[name]), **options
    )


def case(size, *, seed=0):
    """Logits and labels; about half of the steps are right, sample 0 at every step and the last
    sample of many at none.
    """
    steps, samples, classes = size
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    lift = 4.0 * torch.randint(2, (steps, samples, 1), generator=generator).double()
    lift[:, -1], lift[:, 0] = -4.0, 4.0
    return logits + lift * torch.nn.functional.one_hot(labels, classes), labels


def value_and_slope(function, logits, labels, **options):
    leaf = logits.clone().requires_grad_(True)
    value = function(leaf, labels, **options)
    return value.detach(), *torch.autograd.grad(value, leaf)


@every_row
def test_a_loss_is_a_finite_scalar_with_a_finite_gradient(name):
    for size in SIZES:
        for scale in (1.0, 100.0):
            logits, labels = case(size)
            value, slope = value_and_slope(loss_of(name), scale * logits, labels)
            assert value.shape == ()
            assert value.isfinite()
            assert slope.shape == size
            assert slope.isfinite().all()


@every_row
def test_the_gradient_of_every_sample_flows(name):
    _, slope = value_and_slope(loss_of(name), *case((5, 6, 4)))
    assert (slope.abs().amax(dim=(0, 2)) > 1e-6).all()


@every_row
def test_the_gradient_is_that_of_the_value(name):
    # a small step against the gradient lowers the loss by its squared length, to first order; no
    # curvature at this width. A teacher that is detached moves with the logits and hides it from
    # the gradient, so it is let go here.
    options = {"detach": False} if name in has("detach") else {}
    logits, labels = case((5, 6, 4), seed=1)
    value, slope = value_and_slope(loss_of(name), logits, labels, **options)
    width = 1e-6
    moved = loss_of(name)(logits - width * slope, labels, **options)
    assert float(value - moved) / width == pytest.approx(float(slope.square().sum()), rel=1e-4)


@every_row
def test_the_order_of_the_batch_is_irrelevant(name):
    for size in SIZES:
        logits, labels = case(size, seed=2)
        order = torch.randperm(size[1], generator=torch.Generator().manual_seed(0))
        value, slope = value_and_slope(loss_of(name), logits, labels)
        other, other_slope = value_and_slope(loss_of(name), logits[:, order], labels[order])
        torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(other_slope, slope[:, order], rtol=1e-12, atol=1e-15)


@every_row
def test_a_batch_shown_twice_changes_nothing(name):
    for size in SIZES:
        logits, labels = case(size, seed=3)
        value, slope = value_and_slope(loss_of(name), logits, labels)
        twice, twice_slope = value_and_slope(
            loss_of(name), torch.cat([logits, logits], dim=1), labels.repeat(2)
        )
        torch.testing.assert_close(twice, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            twice_slope, torch.cat([slope, slope], dim=1) / 2, rtol=1e-12, atol=1e-15
        )


@every_row
def test_a_loss_keeps_the_dtype_and_single_agrees_with_double(name):
    for size in SIZES:
        logits, labels = case(size, seed=4)
        value, slope = value_and_slope(loss_of(name), logits, labels)
        single, single_slope = value_and_slope(loss_of(name), logits.float(), labels)
        assert (value.dtype, slope.dtype) == (torch.float64, torch.float64)
        assert (single.dtype, single_slope.dtype) == (torch.float32, torch.float32)
        torch.testing.assert_close(single.double(), value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(single_slope.double(), slope, rtol=1e-4, atol=1e-5)


@every_row
def test_a_loss_is_pure(name):
    logits, labels = case((5, 6, 4), seed=5)
    kept, kept_labels = logits.clone(), labels.clone()
    first, second = loss_of(name)(logits, labels), loss_of(name)(logits, labels)
    assert torch.equal(first, second)
    assert torch.equal(logits, kept)
    assert torch.equal(labels, kept_labels)


@every_row
def test_logits_of_a_wrong_shape_are_refused_by_name(name):
    for shape in [(3, 10), (4, 3, 10, 1)]:
        with pytest.raises(ValueError, match=r"logits must be .*\(T, N, C\)"):
            loss_of(name)(torch.zeros(shape), torch.zeros(3, dtype=torch.int64))


@every_row
def test_labels_of_a_wrong_shape_are_refused_by_name(name):
    for shape in [(), (2,), (1,), (3, 1), (4, 3)]:
        with pytest.raises(ValueError, match=r"labels must be \(3,\)"):
            loss_of(name)(torch.zeros(4, 3, 10), torch.zeros(shape, dtype=torch.int64))


@every_row
def test_a_label_that_is_no_class_is_refused_by_name(name):
    for label in (-1, 10, -100):
        with pytest.raises(ValueError, match=rf"labels must be in 0\.\.9, got {label}"):
            loss_of(name)(torch.zeros(4, 3, 10), torch.tensor([0, label, 1]))


@every_row
def test_a_docstring_has_the_equation_the_shapes_and_the_divisors(name):
    text = inspect.getdoc(LOSSES[name]) or ""
    assert re.search(r"logits \(T, N, C\), labels \(N,\)( or shares \(N, C\))?\s-> scalar", text)
    assert "Mean over" in text
    assert any(line.startswith("    ") for line in text.splitlines()), "the equation, indented"


def has(option):
    return [name for name in sorted(LOSSES) if option in inspect.signature(LOSSES[name]).parameters]


@pytest.mark.parametrize("row", has("detach"))
def test_detaching_the_teacher_keeps_the_value_and_takes_its_gradient(row):
    logits, labels = case((5, 6, 4), seed=6)
    logits = logits / 4  # a teacher that is certain has no gradient to lose
    value, slope = value_and_slope(loss_of(row), logits, labels, detach=False)
    detached, detached_slope = value_and_slope(loss_of(row), logits, labels, detach=True)
    assert torch.equal(detached, value)
    assert (detached_slope - slope).abs().max() > 1e-4

"""The losses against slow loops, hand arithmetic and finite differences."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import oracles
import pytest
import torch
from step_logits import SIZES, SMALL_SIZES, gradient, log_rows, random_case

from anystep.training import losses

POOLS = ("sum_correct", "mean_correct", "mean_all")
TKS = {"alpha": 0.3, "temperature": 2.5}
MEAN = {"pool": "mean_correct"}
LOSSES = {
    "ce": (losses.ce, oracles.smoothed_ce, {}),
    "label_smoothing": (losses.label_smoothing, oracles.smoothed_ce, {"epsilon": 0.2}),
    "tet": (losses.tet, oracles.tet, {"lamb": 0.05, "phi": 0.7}),
    "tet as published": (losses.tet, oracles.tet, {}),
    "tks": (losses.tks, oracles.tks, TKS),
    "tks mean_correct": (losses.tks, oracles.tks, {**TKS, **MEAN}),
    "tks skip": (losses.tks, oracles.tks, {**TKS, **MEAN, "empty": "skip"}),
    "tks without square": (losses.tks, oracles.tks, {**TKS, **MEAN, "square": False}),
    "tks mean_all": (losses.tks, oracles.tks, {**TKS, "pool": "mean_all"}),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_small_size = pytest.mark.parametrize("size", SMALL_SIZES, ids=str)
every_pool = pytest.mark.parametrize("pool", POOLS)


# Agreement with the slow loops


@every_size
@every_loss
def test_loss_agrees_with_its_slow_loop(name, size):
    function, oracle, options = LOSSES[name]
    logits, labels = random_case(size)
    expected = oracle(logits.numpy(), labels.numpy(), **options)
    assert function(logits, labels, **options).item() == pytest.approx(expected, rel=1e-11)


def test_the_default_of_label_smoothing_is_the_published_one():
    logits, labels = random_case((4, 8, 10))
    expected = oracles.smoothed_ce(logits.numpy(), labels.numpy(), epsilon=0.1)
    assert losses.label_smoothing(logits, labels).item() == pytest.approx(expected, rel=1e-11)


@every_size
@every_pool
def test_tks_teacher_and_soft_part_agree_with_their_slow_loops(pool, size):
    logits, labels = random_case(size, seed=1)
    teacher = losses.tks_teacher(logits, labels, temperature=3.0, pool=pool)
    expected = oracles.tks_teacher(logits.numpy(), labels.numpy(), temperature=3.0, pool=pool)
    np.testing.assert_allclose(teacher.numpy(), expected, rtol=1e-11, atol=1e-300)
    soft = losses.tks_soft(logits, teacher, temperature=3.0).item()
    slow = oracles.tks_soft(logits.numpy(), expected, temperature=3.0)
    assert soft == pytest.approx(slow, rel=1e-11)


# Gradients


@every_small_size
@every_loss
def test_gradient_agrees_with_finite_differences_of_the_slow_loop(name, size):
    function, oracle, options = LOSSES[name]
    logits, labels = random_case(size, seed=2)
    slow = partial(oracle, labels=labels.numpy(), **options)
    expected = oracles.central_differences(slow, logits.numpy())
    found = gradient(function, logits, labels, **options)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@every_small_size
@every_pool
def test_detached_gradient_agrees_with_finite_differences_at_a_fixed_teacher(pool, size):
    logits, labels = random_case(size, seed=3)
    fixed = oracles.tks_teacher(logits.numpy(), labels.numpy(), temperature=2.5, pool=pool)
    slow = partial(oracles.tks, labels=labels.numpy(), teacher=fixed, **TKS)
    expected = oracles.central_differences(slow, logits.numpy())
    found = gradient(losses.tks, logits, labels, pool=pool, detach=True, **TKS)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@every_size
@pytest.mark.parametrize("detach", [False, True])
def test_tks_gradient_is_the_written_formula(detach, size):
    logits, labels = random_case(size, seed=4)
    expected = oracles.tks_soft_gradient(
        logits.numpy(), labels.numpy(), temperature=3.0, detach=detach
    )
    found = gradient(losses.tks, logits, labels, alpha=1.0, temperature=3.0, detach=detach)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def through_the_teacher(logits, labels, pool):
    """The part of the gradient of TKS that a detached teacher has not."""
    free, fixed = (
        gradient(losses.tks, logits, labels, alpha=1.0, temperature=2.0, pool=pool, detach=detach)
        for detach in (False, True)
    )
    return (free - fixed).numpy()


@pytest.mark.parametrize("pool", ["sum_correct", "mean_correct"])
def test_gradient_through_the_teacher_reaches_correct_steps_only(pool):
    logits, labels = random_case((10, 8, 10), seed=5)
    through_teacher = through_the_teacher(logits, labels, pool)
    reached = abs(through_teacher).max(axis=2) > 1e-9
    right = oracles.correct_steps(logits.numpy(), labels.numpy())
    assert 0 < right.sum() < right.size
    np.testing.assert_array_equal(reached, right)
    assert abs(through_teacher[~right]).max() < 1e-15


def test_gradient_through_a_mean_of_all_steps_reaches_every_step_alike():
    through_teacher = through_the_teacher(*random_case((4, 3, 10), seed=6), "mean_all")
    assert abs(through_teacher).max(axis=2).min() > 1e-6
    np.testing.assert_allclose(through_teacher[1:] - through_teacher[:1], 0, atol=1e-12)


# By hand


def test_ce_by_hand():
    # mean logits ((ln 9 + ln 1) / 2, 0) = (ln 3, 0), softmax (3/4, 1/4), label 0: ln(4/3)
    value = losses.ce(log_rows((9, 1), (1, 1)), torch.tensor([0])).item()
    assert value == pytest.approx(math.log(4 / 3))


def test_label_smoothing_by_hand():
    # softmax of the mean (3/4, 1/4); epsilon .2 over 2 classes gives the target (.9, .1)
    value = losses.label_smoothing(log_rows((9, 1), (1, 1)), torch.tensor([0]), epsilon=0.2).item()
    assert value == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))


def test_tet_by_hand():
    # step 1 (ln 3, 0): CE ln(4/3); step 2 (0, 0): CE ln 2; their mean is ln(8/3) / 2
    # squares around phi = 2: (ln 3 - 2)^2, 4, 4, 4 over T N C = 4 entries; lamb = .25
    value = losses.tet(log_rows((3, 1), (1, 1)), torch.tensor([0]), lamb=0.25, phi=2.0).item()
    squares = ((math.log(3) - 2) ** 2 + 12) / 4
    assert value == pytest.approx(0.75 * math.log(8 / 3) / 2 + 0.25 * squares)


def test_tks_by_hand_with_one_of_two_steps_right():
    logits, labels = log_rows((9, 1), (1, 7)), torch.tensor([0])
    # only step 1 is right: z = (ln 9, 0); temperature 2: exp(z / 2) = (3, 1), so q = (3/4, 1/4)
    teacher = losses.tks_teacher(logits, labels, temperature=2.0)
    np.testing.assert_allclose(teacher.numpy(), [[0.75, 0.25]])
    # p_1 = (9/10, 1/10), p_2 = (1/8, 7/8); L_soft = 2^2 / 2 * [3/4 (ln 10/9 + ln 8) + 1/4 (ln 10 +
    # ln 8/7)]
    soft = 2 * (0.75 * math.log(80 / 9) + 0.25 * math.log(80 / 7))
    assert losses.tks_soft(logits, teacher, temperature=2.0).item() == pytest.approx(soft)
    # mean logits (ln 3, ln sqrt 7): L_label = ln((3 + sqrt 7) / 3); alpha = .3
    label = math.log((3 + math.sqrt(7)) / 3)
    value = losses.tks(logits, labels, alpha=0.3, temperature=2.0).item()
    assert value == pytest.approx(0.7 * label + 0.3 * soft)


@pytest.mark.parametrize("pool", ["sum_correct", "mean_correct"])
def test_tks_by_hand_with_no_step_right_has_a_uniform_teacher(pool):
    logits, labels = log_rows((9, 1), (7, 1)), torch.tensor([1])
    teacher = losses.tks_teacher(logits, labels, temperature=2.0, pool=pool)
    np.testing.assert_array_equal(teacher.numpy(), [[0.5, 0.5]])
    # p_1 = (9/10, 1/10), p_2 = (7/8, 1/8): 2^2 / 2 * 1/2 * [ln 100/9 + ln 64/7] = ln(6400/63)
    value = losses.tks(logits, labels, alpha=1.0, temperature=2.0, pool=pool).item()
    assert value == pytest.approx(math.log(6400 / 63))
    # nothing flows through q: each step gets temperature^2 / T (p_t - q) = 2 (p_t - 1/2)
    found = gradient(losses.tks, logits, labels, alpha=1.0, temperature=2.0, pool=pool)
    np.testing.assert_allclose(found[:, 0], [[0.8, -0.8], [0.75, -0.75]], rtol=1e-12)
    options = {"alpha": 1.0, "temperature": 2.0, "pool": pool}
    plain = losses.tks(logits, labels, square=False, **options).item()
    assert plain == pytest.approx(math.log(6400 / 63) / 4)
    assert losses.tks(logits, labels, empty="skip", **options) == 0
    assert not gradient(losses.tks, logits, labels, empty="skip", **options).any()


@pytest.mark.parametrize(
    ("pool", "odds"), [("sum_correct", 8.0), ("mean_correct", 2.0), ("mean_all", 2.0)]
)
def test_teacher_of_equal_steps_that_are_all_right_is_sharper_by_their_number_only_for_the_sum(
    pool, odds
):
    # three steps of (ln 4, 0) at temperature 2: a sum has odds of 4^(3/2), a mean 4^(1/2)
    logits = log_rows((4, 1), (4, 1), (4, 1))
    teacher = losses.tks_teacher(logits, torch.tensor([0]), temperature=2.0, pool=pool)
    np.testing.assert_allclose(teacher.numpy(), [[odds / (odds + 1), 1 / (odds + 1)]])


@pytest.mark.parametrize("classes", [8, 101])
def test_a_tied_step_counts_as_right_for_the_lowest_class_only(classes):
    step = torch.zeros(classes, dtype=torch.float64)
    step[3] = step[7] = 1.0
    logits = step.expand(2, 2, classes)
    teacher = losses.tks_teacher(logits, torch.tensor([3, 7]), temperature=2.0).numpy()
    # label 3 wins the tie: z = 2 * step, so q = softmax(step); label 7 loses it: q is uniform
    np.testing.assert_allclose(teacher[0], oracles.softmax(step.tolist()))
    np.testing.assert_allclose(teacher[1], np.full(classes, 1 / classes))


# Laws


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "tks"])
def test_showing_every_step_twice_changes_nothing_unless_the_teacher_is_a_sum(name):
    function, _, options = LOSSES[name]
    logits, labels = random_case((4, 3, 10), seed=10)
    twice = function(torch.cat([logits, logits]), labels, **options)
    torch.testing.assert_close(twice, function(logits, labels, **options), rtol=1e-12, atol=0)


def test_a_sum_teacher_of_twice_the_steps_at_twice_the_temperature_is_the_same_teacher():
    logits, labels = random_case((4, 3, 10), seed=11)
    once = losses.tks(logits, labels, alpha=1.0, temperature=1.5)
    twice = losses.tks(torch.cat([logits, logits]), labels, alpha=1.0, temperature=3.0)
    torch.testing.assert_close(twice, 4.0 * once, rtol=1e-12, atol=0)


@every_pool
def test_tks_with_alpha_zero_is_plain_ce(pool):
    logits, labels = random_case((4, 8, 10), seed=12)
    options = {"alpha": 0.0, "temperature": 3.0, "pool": pool}
    assert torch.equal(losses.tks(logits, labels, **options), losses.ce(logits, labels))
    slopes = gradient(losses.tks, logits, labels, **options), gradient(losses.ce, logits, labels)
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-15)


def test_label_smoothing_with_epsilon_zero_and_tet_with_lamb_zero_and_one_step_are_plain_ce():
    logits, labels = random_case((1, 8, 10), seed=14)
    expected = losses.ce(logits, labels)
    smoothed = losses.label_smoothing(logits, labels, epsilon=0.0)
    for value in (smoothed, losses.tet(logits, labels, lamb=0.0)):
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)


@every_loss
def test_huge_logits_give_finite_values_and_gradients(name):
    function, _, options = LOSSES[name]
    logits, labels = random_case((4, 3, 10), seed=15)
    assert math.isfinite(function(1e4 * logits.float(), labels, **options).item())
    assert gradient(function, 1e4 * logits.float(), labels, **options).isfinite().all()


# Labels as shares of the classes, as mixed samples have them

SOFT = ("ce", "label_smoothing", "step_ce", "tet", "strong_weak")


def shares(labels):
    return torch.nn.functional.one_hot(labels, 10).double()


@pytest.mark.parametrize("name", SOFT)
def test_a_whole_share_is_a_label_and_the_loss_of_a_mixture_is_the_mixture_of_the_losses(name):
    loss, (logits, first) = losses.LOSSES[name], random_case((3, 5, 10))
    torch.testing.assert_close(loss(logits, shares(first)), loss(logits, first), rtol=1e-13, atol=0)
    if name == "strong_weak":
        return  # a part of it has no label
    second = first.flip(0)
    mixed = loss(logits, 0.3 * shares(first) + 0.7 * shares(second))
    torch.testing.assert_close(mixed, 0.3 * loss(logits, first) + 0.7 * loss(logits, second))


@pytest.mark.parametrize("name", ["tks", "full_range"])
def test_the_losses_that_ask_for_the_label_of_a_step_refuse_shares_by_name(name):
    logits, labels = random_case((3, 5, 10))
    with pytest.raises(ValueError, match="needs a class for each sample; these labels are shares"):
        losses.LOSSES[name](logits, shares(labels), **(TKS if name == "tks" else {}))

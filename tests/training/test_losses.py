"""The losses against slow loops, hand arithmetic and finite differences."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch

from anystep.training import losses

SIZES = [
    (steps, samples, classes)
    for steps in (1, 2, 4, 10)
    for samples in (1, 3, 8)
    for classes in (2, 10, 101)
]
SMALL_SIZES = [(1, 3, 2), (2, 1, 10), (4, 3, 2), (4, 2, 5)]
POOLS = ("sum_correct", "mean_correct", "mean_all")
TKS = {"alpha": 0.3, "temperature": 2.5}
LOSSES = {
    "ce": (losses.ce, oracles.smoothed_ce, {}),
    "label_smoothing": (losses.label_smoothing, oracles.smoothed_ce, {"epsilon": 0.2}),
    "tet": (losses.tet, oracles.tet, {"lamb": 0.05, "phi": 0.7}),
    "tks": (losses.tks, oracles.tks, TKS),
    "tks mean_correct": (losses.tks, oracles.tks, {**TKS, "pool": "mean_correct"}),
    "tks mean_all": (losses.tks, oracles.tks, {**TKS, "pool": "mean_all"}),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_small_size = pytest.mark.parametrize("size", SMALL_SIZES, ids=str)
every_pool = pytest.mark.parametrize("pool", POOLS)


def random_case(size, *, dtype=torch.float64, seed=0):
    """Logits (T, N, C) and labels; about half of the steps favour the label, so that most samples
    have both kinds.
    """
    steps, samples, classes = size
    generator = torch.Generator().manual_seed(1000 * seed + 100 * steps + 10 * samples + classes)
    logits = 1.5 * torch.randn(size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    lift = 5.0 * torch.randint(2, (steps, samples, 1), generator=generator)
    logits += lift * torch.nn.functional.one_hot(labels, classes)
    return logits.to(dtype), labels


def log_rows(*rows):
    """Logits (T, 1, C) whose step t is the logarithm of row t: softmax gives the row over its sum."""
    return torch.tensor(rows, dtype=torch.float64).log().unsqueeze(1)


def gradient(function, logits, *args, **options):
    leaf = logits.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(function(leaf, *args, **options), leaf)
    return slope.numpy()


# Agreement with the slow loops


@every_size
@every_loss
def test_loss_agrees_with_its_slow_loop(name, size):
    function, oracle, options = LOSSES[name]
    logits, labels = random_case(size)
    expected = oracle(logits.numpy(), labels.numpy(), **options)
    assert function(logits, labels, **options).item() == pytest.approx(expected, rel=1e-11)


@every_loss
def test_loss_in_single_precision_agrees_with_its_slow_loop_and_stays_single(name):
    function, oracle, options = LOSSES[name]
    logits, labels = random_case((10, 8, 101), dtype=torch.float32)
    value = function(logits, labels, **options)
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value.item() == pytest.approx(
        oracle(logits.numpy(), labels.numpy(), **options), rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [("label_smoothing", {"epsilon": 0.1}), ("tet", {"lamb": 1e-3, "phi": 1.0})],
)
def test_defaults_are_the_published_ones(name, options):
    function, oracle, _ = LOSSES[name]
    logits, labels = random_case((4, 8, 10))
    expected = oracle(logits.numpy(), labels.numpy(), **options)
    assert function(logits, labels).item() == pytest.approx(expected, rel=1e-11)


@every_size
@every_pool
def test_tks_teacher_and_soft_part_agree_with_their_slow_loops(pool, size):
    logits, labels = random_case(size, seed=1)
    teacher = losses.tks_teacher(logits, labels, temperature=3.0, pool=pool)
    expected = oracles.tks_teacher(logits.numpy(), labels.numpy(), temperature=3.0, pool=pool)
    np.testing.assert_allclose(teacher.numpy(), expected, rtol=1e-11, atol=1e-300)
    soft = losses.tks_soft(logits, teacher, temperature=3.0).item()
    assert soft == pytest.approx(
        oracles.tks_soft(logits.numpy(), expected, temperature=3.0), rel=1e-11
    )


# Gradients


@every_small_size
@every_loss
def test_gradient_agrees_with_finite_differences_of_the_slow_loop(name, size):
    function, oracle, options = LOSSES[name]
    logits, labels = random_case(size, seed=2)
    expected = oracles.central_differences(
        lambda x: oracle(x, labels.numpy(), **options), logits.numpy()
    )
    np.testing.assert_allclose(gradient(function, logits, labels, **options), expected, atol=1e-8)


@every_small_size
@every_pool
def test_detached_gradient_agrees_with_finite_differences_at_a_fixed_teacher(pool, size):
    logits, labels = random_case(size, seed=3)
    fixed = oracles.tks_teacher(logits.numpy(), labels.numpy(), temperature=2.5, pool=pool)
    expected = oracles.central_differences(
        lambda x: oracles.tks(x, labels.numpy(), teacher=fixed, **TKS), logits.numpy()
    )
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


@pytest.mark.parametrize("pool", ["sum_correct", "mean_correct"])
def test_gradient_through_the_teacher_reaches_correct_steps_only(pool):
    logits, labels = random_case((10, 8, 10), seed=5)
    options = {"alpha": 1.0, "temperature": 2.0, "pool": pool}
    free = gradient(losses.tks, logits, labels, **options)
    through_teacher = free - gradient(losses.tks, logits, labels, detach=True, **options)
    reached = np.abs(through_teacher).max(axis=2) > 1e-9
    right = oracles.correct_steps(logits.numpy(), labels.numpy())
    assert 0 < right.sum() < right.size
    np.testing.assert_array_equal(reached, right)
    assert np.abs(through_teacher[~right]).max() < 1e-15


def test_gradient_through_a_mean_of_all_steps_reaches_every_step_alike():
    logits, labels = random_case((4, 3, 10), seed=6)
    options = {"alpha": 1.0, "temperature": 2.0, "pool": "mean_all"}
    free = gradient(losses.tks, logits, labels, **options)
    through_teacher = free - gradient(losses.tks, logits, labels, detach=True, **options)
    assert np.abs(through_teacher).max(axis=2).min() > 1e-6
    np.testing.assert_allclose(
        through_teacher, np.broadcast_to(through_teacher[:1], through_teacher.shape), atol=1e-12
    )


def test_detach_changes_the_gradient_and_not_the_value():
    logits, labels = random_case((4, 8, 10), seed=7)
    free, detached = (
        losses.tks(logits, labels, detach=flag, **TKS).item() for flag in (False, True)
    )
    assert detached == free
    slopes = [gradient(losses.tks, logits, labels, detach=flag, **TKS) for flag in (False, True)]
    assert np.abs(slopes[0] - slopes[1]).max() > 1e-4


# By hand


def test_ce_by_hand():
    # mean logits ((ln 9 + ln 1) / 2, 0) = (ln 3, 0), softmax (3/4, 1/4), label 0: ln(4/3)
    assert losses.ce(log_rows((9, 1), (1, 1)), torch.tensor([0])).item() == pytest.approx(
        math.log(4 / 3)
    )


def test_label_smoothing_by_hand():
    # softmax of the mean (3/4, 1/4); epsilon .2 over 2 classes gives the target (.9, .1): .9
    # ln(4/3) + .1 ln 4
    value = losses.label_smoothing(log_rows((9, 1), (1, 1)), torch.tensor([0]), epsilon=0.2).item()
    assert value == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))


def test_tet_by_hand():
    # step 1 (ln 3, 0): CE ln(4/3); step 2 (0, 0): CE ln 2; their mean is ln(8/3) / 2
    # squares around phi = 2: (ln 3 - 2)^2, 4, 4, 4 over T N C = 4 entries; lamb = .25
    value = losses.tet(log_rows((3, 1), (1, 1)), torch.tensor([0]), lamb=0.25, phi=2.0).item()
    assert value == pytest.approx(
        0.75 * math.log(8 / 3) / 2 + 0.25 * ((math.log(3) - 2) ** 2 + 12) / 4
    )


def test_tks_by_hand_with_one_of_two_steps_right():
    logits, labels = log_rows((9, 1), (1, 7)), torch.tensor([0])
    # only step 1 is right: z = (ln 9, 0); temperature 2 gives exp(z / 2) = (3, 1), so q = (3/4,
    # 1/4)
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


@pytest.mark.parametrize(
    ("pool", "odds"), [("sum_correct", 8.0), ("mean_correct", 2.0), ("mean_all", 2.0)]
)
def test_teacher_of_equal_steps_that_are_all_right_is_sharper_by_their_number_only_for_the_sum(
    pool, odds
):
    # three steps of (ln 4, 0), temperature 2: the sum gives 4^(3/2) = 8 to 1, a mean 4^(1/2) = 2 to
    # 1
    teacher = losses.tks_teacher(
        log_rows((4, 1), (4, 1), (4, 1)), torch.tensor([0]), temperature=2.0, pool=pool
    )
    np.testing.assert_allclose(teacher.numpy(), [[odds / (odds + 1), 1 / (odds + 1)]])


def test_ten_equal_right_steps_at_temperature_five_double_the_logits():
    step = torch.tensor([[0.3, 2.0, -1.0], [1.5, 0.2, 0.1]], dtype=torch.float64)
    teacher = losses.tks_teacher(step.expand(10, 2, 3), torch.tensor([1, 0]), temperature=5.0)
    torch.testing.assert_close(teacher, torch.softmax(2.0 * step, dim=1), rtol=1e-12, atol=0)


def test_mean_of_all_steps_counts_the_wrong_ones_too():
    # steps (ln 9, 0) and (0, ln 4), label 0, temperature 1: mean (ln 3, ln 2), q = (3/5, 2/5);
    # correct only: (9/10, 1/10)
    logits, labels = log_rows((9, 1), (1, 4)), torch.tensor([0])
    every = losses.tks_teacher(logits, labels, temperature=1.0, pool="mean_all")
    right = losses.tks_teacher(logits, labels, temperature=1.0, pool="mean_correct")
    np.testing.assert_allclose(every.numpy(), [[0.6, 0.4]])
    np.testing.assert_allclose(right.numpy(), [[0.9, 0.1]])


@pytest.mark.parametrize("classes", [8, 101])
def test_a_tied_step_counts_as_right_for_the_lowest_class_only(classes):
    step = torch.zeros(classes, dtype=torch.float64)
    step[3] = step[7] = 1.0
    logits = step.expand(2, 2, classes)
    teacher = losses.tks_teacher(logits, torch.tensor([3, 7]), temperature=2.0).numpy()
    # label 3 wins the tie: z = 2 * step, so q = softmax(step); label 7 loses it at both steps: q is
    # uniform
    np.testing.assert_allclose(teacher[0], oracles.softmax(step.tolist()))
    np.testing.assert_allclose(teacher[1], np.full(classes, 1 / classes))


# Laws


@every_loss
def test_batch_order_is_irrelevant(name):
    function, _, options = LOSSES[name]
    logits, labels = random_case((4, 8, 10), seed=8)
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    expected = function(logits, labels, **options)
    torch.testing.assert_close(
        function(logits[:, order], labels[order], **options), expected, rtol=1e-12, atol=0
    )


@every_loss
def test_doubling_the_batch_changes_nothing(name):
    function, _, options = LOSSES[name]
    logits, labels = random_case((4, 3, 10), seed=9)
    twice = function(torch.cat([logits, logits], dim=1), torch.cat([labels, labels]), **options)
    torch.testing.assert_close(twice, function(logits, labels, **options), rtol=1e-12, atol=0)


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
    torch.testing.assert_close(
        losses.tks(logits, labels, **options), losses.ce(logits, labels), rtol=1e-14, atol=0
    )
    np.testing.assert_allclose(
        gradient(losses.tks, logits, labels, **options),
        gradient(losses.ce, logits, labels),
        atol=1e-15,
    )


def test_tks_with_alpha_one_is_the_soft_part_alone():
    logits, labels = random_case((4, 8, 10), seed=13)
    teacher = losses.tks_teacher(logits, labels, temperature=3.0)
    soft = losses.tks_soft(logits, teacher, temperature=3.0)
    torch.testing.assert_close(
        losses.tks(logits, labels, alpha=1.0, temperature=3.0), soft, rtol=1e-14, atol=0
    )


def test_label_smoothing_with_epsilon_zero_and_tet_with_lamb_zero_and_one_step_are_plain_ce():
    logits, labels = random_case((1, 8, 10), seed=14)
    expected = losses.ce(logits, labels)
    torch.testing.assert_close(
        losses.label_smoothing(logits, labels, epsilon=0.0), expected, rtol=1e-14, atol=0
    )
    torch.testing.assert_close(losses.tet(logits, labels, lamb=0.0), expected, rtol=1e-14, atol=0)


@every_loss
def test_huge_logits_give_finite_values_and_gradients(name):
    function, _, options = LOSSES[name]
    logits, labels = random_case((4, 3, 10), dtype=torch.float32, seed=15)
    assert math.isfinite(function(1e4 * logits, labels, **options).item())
    assert np.isfinite(gradient(function, 1e4 * logits, labels, **options)).all()


@every_loss
def test_a_loss_leaves_its_inputs_as_they_were(name):
    function, _, options = LOSSES[name]
    logits, labels = random_case((4, 3, 10), seed=16)
    kept, kept_labels = logits.clone(), labels.clone()
    function(logits, labels, **options)
    assert torch.equal(logits, kept)
    assert torch.equal(labels, kept_labels)


# Bad input

CALLS = {
    **{name: (function, options) for name, (function, _, options) in LOSSES.items()},
    "tks_teacher": (losses.tks_teacher, {"temperature": 2.0}),
}
every_call = pytest.mark.parametrize("name", CALLS)


@every_call
@pytest.mark.parametrize("shape", [(3, 10), (4, 3, 10, 1)], ids=str)
def test_logits_that_are_not_three_dimensional_are_refused_by_name(name, shape):
    function, options = CALLS[name]
    with pytest.raises(ValueError, match="logits"):
        function(torch.zeros(shape), torch.zeros(3, dtype=torch.int64), **options)


@every_call
@pytest.mark.parametrize("shape", [(2,), (1,), (3, 1)], ids=str)
def test_labels_of_the_wrong_shape_are_refused_by_name(name, shape):
    function, options = CALLS[name]
    with pytest.raises(ValueError, match="labels"):
        function(torch.zeros(4, 3, 10), torch.zeros(shape, dtype=torch.int64), **options)


@every_call
@pytest.mark.parametrize("label", [-1, 10, -100])
def test_a_label_that_is_no_class_is_refused_by_name(name, label):
    function, options = CALLS[name]
    with pytest.raises(ValueError, match=f"labels.*{label}"):
        function(torch.zeros(4, 3, 10), torch.tensor([0, label, 1]), **options)


@pytest.mark.parametrize("name", ["tks", "tks_teacher"])
def test_an_unknown_pool_is_refused_with_the_nearest_name(name):
    function, options = CALLS[name]
    logits, labels = random_case((4, 3, 10))
    with pytest.raises(ValueError, match=r"pool 'sum_corect'.*Did you mean 'sum_correct'"):
        function(logits, labels, **{**options, "pool": "sum_corect"})


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["tks", "tks_teacher", "tks_soft"])
def test_a_temperature_that_is_not_positive_is_refused_by_name(name, temperature):
    logits, labels = random_case((4, 3, 10))
    calls = {
        "tks": lambda: losses.tks(logits, labels, alpha=0.5, temperature=temperature),
        "tks_teacher": lambda: losses.tks_teacher(logits, labels, temperature=temperature),
        "tks_soft": lambda: losses.tks_soft(
            logits, torch.full((3, 10), 0.1), temperature=temperature
        ),
    }
    with pytest.raises(ValueError, match=f"temperature.*{temperature}"):
        calls[name]()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_outside_zero_to_one_is_refused_by_name(alpha):
    with pytest.raises(ValueError, match=f"alpha.*{alpha}"):
        losses.tks(*random_case((4, 3, 10)), alpha=alpha, temperature=2.0)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, math.nan])
def test_an_epsilon_outside_zero_to_one_is_refused_by_name(epsilon):
    with pytest.raises(ValueError, match=f"epsilon.*{epsilon}"):
        losses.label_smoothing(*random_case((4, 3, 10)), epsilon=epsilon)


@pytest.mark.parametrize("shape", [(10,), (1, 10), (3, 1), (4, 3, 10)], ids=str)
def test_a_teacher_that_would_only_broadcast_is_refused_by_name(shape):
    logits, _ = random_case((4, 3, 10))
    with pytest.raises(ValueError, match="teacher"):
        losses.tks_soft(logits, torch.full(shape, 0.1, dtype=torch.float64), temperature=2.0)

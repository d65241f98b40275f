"""Distillation from another network (kd, skd) and between steps (full_range, strong_weak, the
variants of tks).
"""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import slow_distillation
import torch
from step_logits import SIZES, gradient, log_rows, random_case, random_teacher

from anystep.training import distillation, losses
from anystep.training.distillation import DISTILLATIONS
from anystep.training.methods import create_method

every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_distillation = pytest.mark.parametrize("name", sorted(DISTILLATIONS))
every_reduction = pytest.mark.parametrize("reduction", ["mean", "batchmean"])
every_direction = pytest.mark.parametrize("direction", ["s2w", "w2s"])
POOLS = ["sum_correct", "mean_correct", "mean_all", "label"]


# kd and skd


@every_size
@every_reduction
@every_distillation
def test_distillation_at_any_temperature_agrees_with_its_slow_loop(name, reduction, size):
    logits, teacher = random_case(size)[0], random_teacher(size)
    for temperature in (0.5, 2.0, 10.0):
        options = {"temperature": temperature, "reduction": reduction}
        expected = getattr(slow_distillation, name)(logits.numpy(), teacher.numpy(), **options)
        assert DISTILLATIONS[name](logits, teacher, **options).item() == pytest.approx(
            expected, rel=1e-10
        )


def test_skd_and_kd_by_hand():
    # teacher (3/4, 1/4) at temperature 1; steps (1/2, 1/2) and (1/4, 3/4)
    logits, teacher = log_rows((1, 1), (1, 3)), log_rows((3, 1))[0]
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    options = {"temperature": 1.0, "reduction": "batchmean"}
    value = distillation.skd(logits, teacher, **options).item()
    assert value == pytest.approx((first + second) / 2)
    # time mean (0, ln 3 / 2): odds 1 to sqrt 3
    one, other = 1 / (1 + math.sqrt(3)), math.sqrt(3) / (1 + math.sqrt(3))
    mean = 0.75 * math.log(0.75 / one) + 0.25 * math.log(0.25 / other)
    assert distillation.kd(logits, teacher, **options).item() == pytest.approx(mean)


def test_the_temperature_softens_both_sides_and_its_square_multiplies():
    # ln 16 and ln 81 at temperature 4 have the odds 2 and 3: 16 KL((3/4, 1/4) || (2/3, 1/3))
    logits, teacher = log_rows((16, 1)), log_rows((81, 1))[0]
    value = distillation.skd(logits, teacher, temperature=4.0, reduction="batchmean").item()
    assert value == pytest.approx(16 * (0.75 * math.log(9 / 8) + 0.25 * math.log(3 / 4)))


def test_the_gradient_of_skd_is_temperature_over_steps_times_student_minus_teacher():
    logits, teacher = random_case((4, 3, 10), seed=3)[0], random_teacher((4, 3, 10))
    found = gradient(distillation.skd, logits, teacher, temperature=5.0, reduction="batchmean")
    expected = 5.0 / (4 * 3) * (torch.softmax(logits / 5.0, -1) - torch.softmax(teacher / 5.0, -1))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-16)


def test_kd_and_skd_are_one_for_one_step_and_skd_is_larger_for_steps_that_differ():
    logits, teacher = random_case((4, 3, 10), seed=5)[0], random_teacher((4, 3, 10))
    assert torch.equal(distillation.kd(logits[:1], teacher), distillation.skd(logits[:1], teacher))
    for temperature in (1.0, 2.0, 10.0):
        of_mean = distillation.kd(logits, teacher, temperature=temperature)
        assert of_mean < distillation.skd(logits, teacher, temperature=temperature)


# The variants of TKS


@every_size
def test_a_label_teacher_is_the_label_at_every_temperature(size):
    logits, labels = random_case(size, seed=7)
    expected = torch.nn.functional.one_hot(labels, size[2]).double()
    for temperature in (0.1, 1.0, 5.0):
        found = losses.tks_teacher(logits, labels, temperature=temperature, pool="label")
        assert torch.equal(found, expected)


@pytest.mark.parametrize("detach", [False, True])
def test_with_a_label_teacher_the_soft_part_of_tks_is_step_ce_times_the_squared_temperature(detach):
    logits, labels = random_case((4, 3, 10), seed=8)
    options = {"alpha": 0.3, "temperature": 5.0, "pool": "label", "detach": detach}
    expected = 0.7 * losses.ce(logits, labels) + 0.3 * 25.0 * losses.step_ce(logits, labels)
    torch.testing.assert_close(losses.tks(logits, labels, **options), expected, rtol=1e-13, atol=0)


@every_size
@pytest.mark.parametrize("pool", POOLS)
def test_the_divergence_of_tks_agrees_with_its_slow_loop(pool, size):
    logits, labels = random_case(size, seed=9)
    teacher = losses.tks_teacher(logits, labels, temperature=2.5, pool=pool)
    expected = slow_distillation.tks_soft(logits.numpy(), teacher.numpy(), temperature=2.5)
    value = losses.tks_soft(logits, teacher, temperature=2.5, divergence="kl").item()
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("pool", POOLS)
def test_the_gradient_of_tks_with_a_divergence_agrees_with_finite_differences(pool):
    logits, labels = random_case((4, 3, 5), seed=10)

    def slow(x):
        own = np.array([oracles.one_hot(label, 5) for label in labels.tolist()])
        if pool != "label":
            own = oracles.tks_teacher(x, labels.numpy(), temperature=2.5, pool=pool)
        soft = slow_distillation.tks_soft(x, own, temperature=2.5)
        return 0.4 * soft + 0.6 * oracles.smoothed_ce(x, labels.numpy())

    options = {"alpha": 0.4, "temperature": 2.5, "pool": pool, "divergence": "kl"}
    found = gradient(losses.tks, logits, labels, **options).numpy()
    np.testing.assert_allclose(found, oracles.central_differences(slow, logits.numpy()), atol=1e-8)


@pytest.mark.parametrize("divergence", ["ce", "kl"])
@pytest.mark.parametrize("pool", POOLS)
def test_huge_logits_give_finite_values_and_gradients_in_every_variant_of_tks(pool, divergence):
    logits, labels = random_case((4, 3, 10), seed=12)
    options = {"alpha": 0.5, "temperature": 2.0, "pool": pool, "divergence": divergence}
    huge = 1e4 * logits.float()
    assert losses.tks(huge, labels, **options).isfinite()
    assert gradient(losses.tks, huge, labels, **options).isfinite().all()


# Full-range distillation


@every_size
@pytest.mark.parametrize("pool", ["mean_correct", "mean_all"])
def test_full_range_agrees_with_its_slow_loop(pool, size):
    logits, labels = random_case(size, seed=13)
    options = {"beta": 0.7, "temperature": 2.5}
    only_right = pool == "mean_correct"
    expected = slow_distillation.full_range(
        logits.numpy(), labels.numpy(), only_right=only_right, **options
    )
    value = losses.full_range(logits, labels, pool=pool, **options).item()
    assert value == pytest.approx(expected, rel=1e-10)


def test_full_range_by_hand_with_one_right_step_and_with_none():
    # steps with odds 9 and 1/4 at temperature 2: (3/4, 1/4) and (1/3, 2/3); label 0, so the first
    # step teaches
    logits = log_rows((9, 1), (1, 4))
    pulled = 0.75 * math.log(9 / 4) + 0.25 * math.log(3 / 8)
    value = losses.full_range(logits, torch.tensor([0]), beta=0.5, temperature=2.0).item()
    assert value == pytest.approx((math.log(10 / 9) + math.log(5)) / 2 + 0.5 * 4 * pulled / 2)
    # both steps wrong: uniform, for (9, 1) at temperature 2 KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3)
    # / 2
    value = losses.full_range(
        log_rows((9, 1), (9, 1)), torch.tensor([1]), beta=0.5, temperature=2.0
    ).item()
    assert value == pytest.approx(math.log(10) + 0.5 * 4 * math.log(4 / 3) / 2)


def test_the_gradient_of_full_range_is_that_of_a_fixed_teacher_unless_it_is_let_go():
    logits, labels = random_case((4, 3, 5), seed=14)
    fixed = [slow_distillation.own_teacher(logits.numpy(), labels.numpy(), n) for n in range(3)]
    for detach, teacher in ((True, fixed), (False, None)):
        expected = oracles.central_differences(
            lambda x, rows=teacher: slow_distillation.full_range(x, labels.numpy(), teacher=rows),
            logits.numpy(),
        )
        np.testing.assert_allclose(
            gradient(losses.full_range, logits, labels, detach=detach).numpy(), expected, atol=1e-8
        )


def test_a_teacher_adds_its_skd_to_the_two_parts_of_full_range():
    logits, labels = random_case((4, 3, 10), seed=15)
    taught = random_case((2, 3, 10), seed=16)[0]
    method = create_method("full_range", teacher="run", alpha=0.4, temperature=2.0)
    parts = method.loss({"student": logits, "teacher": taught}, labels, 0.0)
    assert list(parts) == ["step_ce", "self", "teacher"]
    assert torch.equal(parts["step_ce"], losses.step_ce(logits, labels))
    assert torch.equal(
        parts["step_ce"] + parts["self"], losses.full_range(logits, labels, temperature=2.0)
    )
    expected = slow_distillation.skd(
        logits.numpy(), taught.mean(0).numpy(), temperature=2.0, reduction="batchmean"
    )
    assert parts["teacher"].item() == pytest.approx(0.4 * expected, rel=1e-11)


# Strong and weak


@every_size
@every_direction
def test_strong_weak_agrees_with_its_slow_loop(direction, size):
    logits, labels = random_case(size, seed=17)
    options = {"weight": 0.7, "temperature": 1.5, "direction": direction}
    expected = slow_distillation.strong_weak(logits.numpy(), labels.numpy(), **options)
    value = losses.strong_weak(logits, labels, **options).item()
    assert value == pytest.approx(expected, rel=1e-10)


def test_strong_weak_by_hand():
    # confidences 1/2, 9/10, 3/4: step 1 is strong, step 0 weak; at temperature 2 (3/4, 1/4) and
    # (1/2, 1/2)
    logits, labels = log_rows((1, 1), (9, 1), (1, 3)), torch.tensor([1])
    label = losses.ce(logits, labels).item()
    down = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    up = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert losses.strong_weak(logits, labels).item() == pytest.approx(label + down)
    assert losses.strong_weak(logits, labels, direction="w2s", weight=3.0).item() == pytest.approx(
        label + 3 * up
    )


def test_the_strong_step_is_chosen_for_the_batch_and_not_for_a_sample():
    # sample 0 is surest at step 0 (.9, .5), sample 1 at step 1 (.6, .9): mean .75 and .7, so step 0
    # teaches both
    logits = torch.cat([log_rows((9, 1), (1, 1)), log_rows((6, 4), (1, 9))], dim=1)
    assert losses.step_confidence(logits).tolist() == pytest.approx([0.75, 0.7])
    labels = torch.tensor([0, 1])
    whole = gradient(losses.strong_weak, logits, labels, detach=True)
    slope = whole - gradient(losses.ce, logits, labels)
    assert slope[0].abs().max() == 0
    assert (slope[1].abs().amax(-1) > 1e-3).all()


@every_direction
def test_of_equally_sure_steps_the_earliest_is_taken(direction):
    # steps 1 and 3 are equally sure, 0 and 2 equally unsure
    logits, labels = log_rows((1, 1), (9, 1), (1, 1), (1, 9)), torch.tensor([0])
    options = {"direction": direction, "detach": True}
    slope = gradient(losses.strong_weak, logits, labels, **options) - gradient(
        losses.ce, logits, labels
    )
    pulled = 0 if direction == "s2w" else 1
    assert (slope.abs().amax((1, 2)) > 1e-9).tolist() == [step == pulled for step in range(4)]


@every_direction
def test_the_gradient_of_strong_weak_flows_into_both_steps_unless_the_teacher_is_fixed(direction):
    logits, labels = random_case((4, 3, 5), seed=18)
    strong, weak = slow_distillation.strong_and_weak(logits.numpy())
    fixed = logits[strong if direction == "s2w" else weak].numpy()
    options = {"direction": direction}
    for chosen, teacher in (({"detach": True}, fixed), ({"detach": False}, None), ({}, None)):
        expected = oracles.central_differences(
            lambda x, rows=teacher: slow_distillation.strong_weak(
                x, labels.numpy(), teacher=rows, **options
            ),
            logits.numpy(),
        )
        found = gradient(losses.strong_weak, logits, labels, **chosen, **options)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


@every_direction
def test_one_step_or_equal_steps_have_nothing_to_teach(direction):
    logits, labels = random_case((1, 3, 10), seed=19)
    for same in (logits, logits.expand(4, 3, 10)):
        value = losses.strong_weak(same, labels, direction=direction)
        torch.testing.assert_close(value, losses.ce(same, labels), rtol=1e-14, atol=0)

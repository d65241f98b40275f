"""The metrics and the prefix mean against torchmetrics, slow loops and hand arithmetic."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from anystep.evaluation import metrics
from anystep.evaluation.readout import prefix_mean

SIZES = [(1, 1, 2), (1, 8, 10), (2, 3, 101), (4, 8, 2), (10, 3, 10)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_seed = pytest.mark.parametrize("seed", range(5))


def random_logits(size, *, seed=0):
    """Logits (T, N, C) and labels, half of the label's scores lifted."""
    steps, samples, classes = size
    rng = np.random.default_rng([seed, *size])
    labels = rng.integers(classes, size=samples)
    logits = 1.5 * rng.normal(size=size)
    logits[:, np.arange(samples), labels] += 4.0 * rng.integers(2, size=(steps, samples))
    return logits, labels


def random_ranking(samples, *, seed, tied=False):
    """Confidences in [0, 1) and whether each sample is right; rounding makes ties."""
    rng = np.random.default_rng([seed, samples])
    confidence = rng.random(samples)
    return (confidence.round(1) if tied else confidence), rng.random(
        samples
    ) < 0.3 + 0.6 * confidence


# Softmax and the prefix mean


@every_size
def test_softmax_agrees_with_torch(size):
    logits, _ = random_logits(size)
    np.testing.assert_allclose(
        metrics.softmax(logits), torch.from_numpy(logits).softmax(dim=-1).numpy(), rtol=1e-12
    )


def test_softmax_by_hand_survives_huge_scores():
    # equal scores share; a gap of ln 3 gives 3 to 1; a gap of 2000 gives all to one
    rows = np.array([[1000.0, 1000.0], [np.log(3.0) - 900.0, -900.0], [1000.0, -1000.0]])
    np.testing.assert_allclose(
        metrics.softmax(rows), [[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], rtol=1e-12
    )


@every_size
def test_prefix_mean_agrees_with_its_slow_loop_for_numpy_and_torch(size):
    logits, _ = random_logits(size)
    expected = oracles.prefix_mean(logits)
    by_numpy, by_torch = prefix_mean(logits), prefix_mean(torch.from_numpy(logits))
    assert isinstance(by_numpy, np.ndarray)
    assert isinstance(by_torch, torch.Tensor)
    np.testing.assert_allclose(by_numpy, expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(by_torch.numpy(), expected, rtol=1e-10, atol=1e-13)


def test_prefix_mean_by_hand():
    # 2, then (2 + 4) / 2 = 3, then (2 + 4 - 3) / 3 = 1
    np.testing.assert_allclose(
        prefix_mean(np.array([2.0, 4.0, -3.0]).reshape(3, 1, 1)).ravel(), [2.0, 3.0, 1.0]
    )


def test_prefix_mean_keeps_single_precision():
    logits = np.ones((4, 3, 2), dtype=np.float32)
    assert prefix_mean(logits).dtype == np.float32
    assert prefix_mean(torch.from_numpy(logits)).dtype == torch.float32


def test_the_gradient_of_a_prefix_mean_is_shared_by_its_steps():
    logits = torch.zeros(4, 1, 1, requires_grad=True)
    prefix_mean(logits)[2].sum().backward()
    torch.testing.assert_close(logits.grad.ravel(), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))


# Accuracy


@every_size
@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracy_by_step_agrees_with_its_slow_loop(k, size):
    logits, labels = random_logits(size)
    found = metrics.accuracy_by_step(logits, labels, k=k)
    assert found.shape == (size[0],)
    np.testing.assert_allclose(found, oracles.accuracy_by_step(logits, labels, k=k), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracy_by_step_agrees_with_torchmetrics(k):
    logits, labels = random_logits((4, 200, 10))
    expected = [
        100.0
        * multiclass_accuracy(step, torch.from_numpy(labels), 10, average="micro", top_k=k).item()
        for step in torch.from_numpy(logits)
    ]
    np.testing.assert_allclose(metrics.accuracy_by_step(logits, labels, k=k), expected, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_accuracy_with_many_ties_agrees_with_its_slow_loop(k):
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(3, size=(4, 50, 7)).astype(float), rng.integers(7, size=50)
    np.testing.assert_allclose(
        metrics.accuracy_by_step(logits, labels, k=k),
        oracles.accuracy_by_step(logits, labels, k=k),
        rtol=1e-12,
    )


def test_a_tie_goes_to_the_lowest_class():
    # classes 1 and 2 tie at the top: label 1 is first, label 2 is second, label 0 is third
    logits = np.tile([0.0, 5.0, 5.0], (1, 3, 1))
    found = [metrics.accuracy_by_step(logits, np.array([1, 2, 0]), k=k)[0] for k in (1, 2, 3)]
    np.testing.assert_allclose(found, [100 / 3, 200 / 3, 100.0])


# Risk and coverage


@every_seed
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 7, 100])
def test_risk_coverage_and_its_areas_agree_with_their_slow_loops(samples, tied, seed):
    confidence, correct = random_ranking(samples, seed=seed, tied=tied)
    np.testing.assert_allclose(
        metrics.risk_coverage(confidence, correct),
        oracles.risk_coverage(confidence, correct),
        rtol=1e-12,
    )
    assert metrics.aurc(confidence, correct) == pytest.approx(
        oracles.aurc(confidence, correct), rel=1e-12
    )


def test_risk_coverage_by_hand():
    # by falling confidence: right, wrong, right, wrong: risks 0/1, 1/2, 1/3, 2/4; their mean is
    # (4/3) / 4 = 1/3
    confidence, correct = np.array([0.2, 0.9, 0.8, 0.5]), np.array([False, True, False, True])
    np.testing.assert_allclose(metrics.risk_coverage(confidence, correct), [0, 1 / 2, 1 / 3, 1 / 2])
    assert metrics.aurc(confidence, correct) == pytest.approx(1 / 3)


def test_equal_confidences_keep_their_order():
    # a hundred ties, long enough for an unstable sort to shuffle: the one error stands first
    correct = np.arange(100) > 0
    np.testing.assert_allclose(
        metrics.risk_coverage(np.full(100, 0.5), correct), 1 / np.arange(1, 101)
    )


# Calibration


@every_seed
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_agrees_with_torchmetrics_and_its_slow_loop(bins, seed):
    logits, labels = random_logits((1, 300, 10), seed=seed)
    probabilities = torch.from_numpy(logits[0]).softmax(dim=1)
    confidence, predicted = (value.numpy() for value in probabilities.max(dim=1))
    expected = multiclass_calibration_error(
        probabilities, torch.from_numpy(labels), 10, n_bins=bins, norm="l1"
    ).item()
    found = metrics.ece(confidence, predicted == labels, bins=bins)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found == pytest.approx(
        oracles.ece(confidence, predicted == labels, bins=bins), rel=1e-10
    )


def test_a_confidence_on_a_bin_edge_falls_where_torchmetrics_puts_it():
    rows = [[0.25, 0.2, 0.2, 0.2, 0.15], [0.375, 0.3, 0.125, 0.1, 0.1], [0.5, 0.2, 0.1, 0.1, 0.1]]
    rows += [
        [0.625, 0.1, 0.1, 0.1, 0.075],
        [0.75, 0.1, 0.05, 0.05, 0.05],
        [0.875, 0.125, 0, 0, 0],
        [1.0, 0, 0, 0, 0],
    ]
    probabilities = torch.tensor(rows, dtype=torch.float64)
    for labels in ([0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1]):
        expected = multiclass_calibration_error(
            probabilities, torch.tensor(labels), 5, n_bins=4, norm="l1"
        ).item()
        found = metrics.ece(probabilities[:, 0].numpy(), np.array(labels) == 0, bins=4)
        assert found == pytest.approx(expected, rel=1e-6)


def test_ece_by_hand():
    # bin [.5, 1): confidences .6 and .8, one right: |.5 - .7| = .2; bin [0, .5): .3, right: |1 -
    # .3| = .7 weights 2/3 and 1/3: (2 * .2 + .7) / 3 = 1.1 / 3
    confidence, correct = np.array([0.6, 0.3, 0.8]), np.array([True, True, False])
    assert metrics.ece(confidence, correct, bins=2) == pytest.approx(1.1 / 3)


# Confusion and classes


@every_seed
@pytest.mark.parametrize("classes", [2, 10, 101])
def test_confusion_agrees_with_torchmetrics_and_its_slow_loop(classes, seed):
    predicted, labels = np.random.default_rng([seed, classes]).integers(classes, size=(2, 200))
    found = metrics.confusion(predicted, labels, classes=classes)
    expected = multiclass_confusion_matrix(
        torch.from_numpy(predicted), torch.from_numpy(labels), classes
    )
    assert np.issubdtype(found.dtype, np.integer)
    np.testing.assert_array_equal(found, expected.numpy())
    np.testing.assert_array_equal(found, oracles.confusion(predicted, labels, classes=classes))


def test_rows_of_the_confusion_are_the_truth_and_absent_classes_keep_theirs():
    # truths 0 0 2, guesses 0 1 0; class 3 never occurs
    found = metrics.confusion(np.array([0, 1, 0]), np.array([0, 0, 2]), classes=4)
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


@every_seed
@pytest.mark.parametrize("classes", [2, 10, 101])
def test_per_class_accuracy_agrees_with_its_slow_loop(classes, seed):
    predicted, labels = np.random.default_rng([seed, classes]).integers(classes, size=(2, 150))
    predicted = np.where(np.arange(150) % 2, labels, predicted)
    expected = oracles.per_class_accuracy(predicted, labels, classes=classes)
    np.testing.assert_allclose(
        metrics.per_class_accuracy(predicted, labels, classes=classes), expected, rtol=1e-12
    )


@pytest.mark.filterwarnings("error")
def test_a_class_without_samples_has_no_accuracy_and_no_warning():
    # class 0: 1 of 2; class 1: guessed but never true; class 2: 1 of 1
    found = metrics.per_class_accuracy(np.array([0, 1, 2]), np.array([0, 0, 2]), classes=3)
    np.testing.assert_array_equal(found, [50.0, np.nan, 100.0])


def test_mean_and_sd_leave_out_what_is_not_finite():
    rows = [[1.0, np.nan, np.nan], [2.0, 4.0, np.nan], [6.0, 8.0, np.inf]]
    mean, sd = metrics.mean_and_sd(rows)
    assert mean[:2] == pytest.approx([3.0, 6.0])
    assert sd[:2] == pytest.approx([np.std([1, 2, 6], ddof=1), np.std([4, 8], ddof=1)])
    assert np.isnan([mean[2], sd[2], metrics.mean_and_sd([5.0])[1]]).all()

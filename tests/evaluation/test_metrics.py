"""The metrics and the prefix mean against torchmetrics, slow loops and hand arithmetic."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from torchmetrics.functional import classification as theirs

from anystep.evaluation import metrics
from anystep.evaluation.readout import prefix_mean

SIZES = [(1, 1, 2), (1, 8, 10), (2, 3, 101), (4, 8, 2), (10, 3, 10)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_seed = pytest.mark.parametrize("seed", range(5))
close = np.testing.assert_allclose


def random_logits(size, *, seed=0):
    """Logits (T, N, C) and labels, half of the label's scores lifted."""
    steps, samples, classes = size
    rng = np.random.default_rng([seed, *size])
    labels = rng.integers(classes, size=samples)
    logits = 1.5 * rng.normal(size=size)
    logits[:, np.arange(samples), labels] += 4.0 * rng.integers(2, size=(steps, samples))
    return logits, labels


# Softmax and the prefix mean


def test_softmax_by_hand_survives_huge_scores():
    # equal scores share; a gap of ln 3 gives 3 to 1; a gap of 2000 gives all to one
    rows = np.array([[1000.0, 1000.0], [np.log(3.0) - 900.0, -900.0], [1000.0, -1000.0]])
    close(metrics.softmax(rows), [[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], rtol=1e-12)


@every_size
def test_prefix_mean_agrees_with_its_slow_loop_and_changes_nothing(size):
    logits, _ = random_logits(size)
    for given in (logits, torch.from_numpy(logits)):
        before = given * 1
        found = prefix_mean(given)
        assert isinstance(found, type(given))
        close(np.asarray(found), oracles.prefix_mean(logits), rtol=1e-10, atol=1e-13)
        assert (given == before).all()


def test_prefix_mean_by_hand():
    # 2, then (2 + 4) / 2 = 3, then (2 + 4 - 3) / 3 = 1
    logits = np.array([2.0, 4.0, -3.0]).reshape(3, 1, 1)
    close(prefix_mean(logits).ravel(), [2.0, 3.0, 1.0])


def test_prefix_mean_keeps_single_precision():
    logits = np.ones((4, 3, 2), dtype=np.float32)
    assert prefix_mean(logits).dtype == np.float32
    assert prefix_mean(torch.from_numpy(logits)).dtype == torch.float32


def test_a_prefix_mean_of_a_prefix_is_the_prefix_of_the_prefix_mean():
    logits = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))
    for t in range(1, 8):
        assert torch.equal(prefix_mean(logits[:t]), prefix_mean(logits)[:t])


def test_the_gradient_of_a_prefix_mean_is_shared_by_its_steps():
    logits = torch.zeros(4, 1, 1, requires_grad=True)
    prefix_mean(logits)[2].sum().backward()
    torch.testing.assert_close(logits.grad.ravel(), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))


# Accuracy


@every_size
@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracy_by_step_agrees_with_its_slow_loop_with_many_ties_too(k, size):
    logits, labels = random_logits(size)
    for given in (logits, logits.round()):
        found = metrics.accuracy_by_step(given, labels, k=k)
        close(found, oracles.accuracy_by_step(given, labels, k=k), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracy_by_step_agrees_with_torchmetrics(k):
    logits, labels = random_logits((4, 200, 10))
    options = {"num_classes": 10, "average": "micro", "top_k": k}
    steps, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    expected = [100 * theirs.multiclass_accuracy(step, truth, **options) for step in steps]
    close(metrics.accuracy_by_step(logits, labels, k=k), expected, rtol=1e-6)


def test_a_tie_goes_to_the_lowest_class():
    # classes 1 and 2 tie at the top: label 1 is first, label 2 is second, label 0 is third
    logits = np.tile([0.0, 5.0, 5.0], (1, 3, 1))
    found = [metrics.accuracy_by_step(logits, np.array([1, 2, 0]), k=k)[0] for k in (1, 2, 3)]
    close(found, [100 / 3, 200 / 3, 100.0])


# Risk and coverage


@every_seed
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 7, 100])
def test_risk_coverage_and_its_area_agree_with_their_slow_loops(samples, tied, seed):
    rng = np.random.default_rng([seed, samples])
    confidence = rng.random(samples)
    correct = rng.random(samples) < 0.3 + 0.6 * confidence
    ranking = (confidence.round(1) if tied else confidence), correct
    close(metrics.risk_coverage(*ranking), oracles.risk_coverage(*ranking), rtol=1e-12)
    assert metrics.aurc(*ranking) == pytest.approx(oracles.aurc(*ranking), rel=1e-12)


def test_risk_coverage_by_hand():
    # by falling confidence: right, wrong, right, wrong: risks 0/1, 1/2, 1/3, 2/4; their mean is
    # (4/3) / 4 = 1/3
    confidence, correct = np.array([0.2, 0.9, 0.8, 0.5]), np.array([False, True, False, True])
    close(metrics.risk_coverage(confidence, correct), [0, 1 / 2, 1 / 3, 1 / 2])
    assert metrics.aurc(confidence, correct) == pytest.approx(1 / 3)


def test_equal_confidences_keep_their_order():
    # a hundred ties, long enough for an unstable sort to shuffle: the one error stands first
    found = metrics.risk_coverage(np.full(100, 0.5), np.arange(100) > 0)
    close(found, 1 / np.arange(1, 101))


# Calibration


def their_ece(probabilities, labels, bins):
    probabilities, labels = torch.as_tensor(probabilities), torch.as_tensor(labels)
    options = {"num_classes": probabilities.shape[1], "n_bins": bins, "norm": "l1"}
    return theirs.multiclass_calibration_error(probabilities, labels, **options).item()


@every_seed
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_agrees_with_torchmetrics_and_its_slow_loop(bins, seed):
    logits, labels = random_logits((1, 300, 10), seed=seed)
    probabilities = metrics.softmax(logits[0])
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = metrics.ece(confidence, correct, bins=bins)
    assert found == pytest.approx(their_ece(probabilities, labels, bins), rel=1e-5)
    assert found == pytest.approx(oracles.ece(confidence, correct, bins=bins), rel=1e-10)


def test_a_confidence_on_a_bin_edge_falls_where_torchmetrics_puts_it():
    rows = [
        *([0.25, 0.2, 0.2, 0.2, 0.15], [0.375, 0.3, 0.125, 0.1, 0.1], [0.5, 0.2, 0.1, 0.1, 0.1]),
        *([0.625, 0.1, 0.1, 0.1, 0.075], [0.75, 0.1, 0.05, 0.05, 0.05], [0.875, 0.125, 0, 0, 0]),
        [1.0, 0, 0, 0, 0],
    ]
    for labels in ([0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1]):
        found = metrics.ece(np.array(rows)[:, 0], np.array(labels) == 0, bins=4)
        assert found == pytest.approx(their_ece(np.array(rows), labels, 4), rel=1e-6)


def test_ece_by_hand():
    # bin [.5, 1): confidences .6 and .8, one right: |.5 - .7| = .2; bin [0, .5): .3, right: |1 -
    # .3| = .7 weights 2/3 and 1/3: (2 * .2 + .7) / 3 = 1.1 / 3
    confidence, correct = np.array([0.6, 0.3, 0.8]), np.array([True, True, False])
    assert metrics.ece(confidence, correct, bins=2) == pytest.approx(1.1 / 3)


# Confusion and classes


@every_seed
@pytest.mark.parametrize("classes", [2, 10, 101])
def test_confusion_and_accuracy_of_a_class_agree_with_torchmetrics_and_slow_loops(classes, seed):
    predicted, labels = np.random.default_rng([seed, classes]).integers(classes, size=(2, 200))
    predicted = np.where(np.arange(200) % 2, labels, predicted)
    given = torch.from_numpy(predicted), torch.from_numpy(labels)
    expected = theirs.multiclass_confusion_matrix(*given, classes).numpy()
    for found in (metrics.confusion, oracles.confusion):
        np.testing.assert_array_equal(found(predicted, labels, classes=classes), expected)
    ours, slow = (
        each.per_class_accuracy(predicted, labels, classes=classes) for each in (metrics, oracles)
    )
    close(ours, slow, rtol=1e-12)


def test_rows_of_the_confusion_are_the_truth_and_absent_classes_keep_theirs():
    # truths 0 0 2, guesses 0 1 0; class 3 never occurs
    found = metrics.confusion(np.array([0, 1, 0]), np.array([0, 0, 2]), classes=4)
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


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

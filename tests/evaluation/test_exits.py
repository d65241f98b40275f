"""Early exit: scores and steps against slow loops, thresholds that keep their promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anystep._errors import UsageError
from anystep.evaluation.exits import (
    READS,
    SCORES,
    ExitRule,
    certainties,
    exit_steps,
    frontier,
)


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.normal(size=(5, 40, 4)) + 2 * np.eye(4)[np.arange(40) % 4]


LABELS = np.arange(40) % 4


def slow_certainty(seen: np.ndarray, score: str, reads: str) -> float:
    """Of one sample after the steps (t, C) that it has seen, in plain Python."""
    totals = [sum(step[c] for step in seen) for c in range(seen.shape[1])]
    if reads == "mean":
        totals = [total / len(seen) for total in totals]
    parts = [math.exp(total - max(totals)) for total in totals]
    p = sorted(part / sum(parts) for part in parts)
    if score == "confidence":
        return p[-1]
    if score == "margin":
        return p[-1] - p[-2]
    return 1 + sum(each * math.log(each) for each in p) / math.log(len(p))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("reads", READS)
def test_a_score_is_what_a_slow_loop_says(logits, score, reads):
    found = certainties(logits, score=score, reads=reads)
    wanted = [
        [slow_certainty(logits[: t + 1, n], score, reads) for n in range(40)] for t in range(5)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("score", SCORES)
def test_no_class_above_another_is_no_certainty_and_one_alone_is_all(score):
    rule = ExitRule(score=score)
    low, high = rule.certainty([[3.0, 3.0, 3.0], [500.0, 0.0, 0.0]], [1, 1])
    assert low == pytest.approx(1 / 3 if score == "confidence" else 0, abs=1e-12)
    assert high == pytest.approx(1)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 2.0])
def test_a_sample_leaves_at_the_first_step_that_is_sure_enough(logits, threshold):
    certainty = certainties(logits)
    taken = exit_steps(certainty, threshold)
    for n, steps in enumerate(taken):
        sure = [t + 1 for t in range(5) if certainty[t, n] >= threshold]
        assert steps == (sure[0] if sure else 5)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("reads", READS)
def test_the_frontier_holds_what_each_of_its_thresholds_does(logits, score, reads):
    found = frontier(logits, LABELS, score=score, reads=reads, points=17)
    certainty = certainties(logits, score=score, reads=reads)
    prefix = logits.cumsum(0)
    for k, threshold in enumerate(found.thresholds):
        taken = exit_steps(certainty, threshold)
        right = [prefix[t - 1, n].argmax() == LABELS[n] for n, t in enumerate(taken)]
        assert found.accuracy[k] == pytest.approx(100 * np.mean(right))
        assert found.mean_t[k] == pytest.approx(taken.mean())
        assert found.p95_t[k] == np.percentile(taken, 95)
    assert found.mean_t[-1] == 5  # the last threshold keeps everything
    assert (np.diff(found.mean_t) >= 0).all()


def test_a_threshold_is_chosen_for_an_accuracy_or_for_a_mean_t(logits):
    found = frontier(logits, LABELS)
    cheap = found.cheapest(found.accuracy[-1])
    assert found.accuracy[cheap] >= found.accuracy[-1]
    assert found.mean_t[cheap] == found.mean_t[found.accuracy >= found.accuracy[-1]].min()
    best = found.best_within(2.0)
    assert found.mean_t[best] <= 2.0
    assert found.accuracy[best] == found.accuracy[found.mean_t <= 2.0].max()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda found: found.cheapest(101), "no threshold reaches 101.00 %"),
        (lambda found: found.best_within(0.5), "a sample takes 1 step at least"),
        (lambda found: ExitRule(score="confident"), "Did you mean 'confidence'?"),
        (lambda found: ExitRule(reads="median"), "unknown reading"),
        (lambda found: ExitRule(threshold=-0.1), "must be >= 0"),
    ],
)
def test_what_cannot_be_is_refused(logits, call, word):
    with pytest.raises(UsageError) as error:
        call(frontier(logits, LABELS))
    assert word in str(error.value)


def test_logits_of_one_class_have_no_certainty():
    with pytest.raises(ValueError, match="C >= 2"):
        certainties(np.zeros((2, 3, 1)))

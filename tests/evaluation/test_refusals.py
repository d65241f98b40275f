"""What evaluation refuses, and a word that the message must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from moving_light import ragged, recordings, small_model

from anystep.evaluation import metrics
from anystep.evaluation.evaluate import Outputs, collect, score
from anystep.evaluation.readout import hold, prefix_mean

LOGITS, LABELS = np.zeros((4, 3, 10)), np.array([0, 1, 2])
SURE, RIGHT = np.array([0.2, 0.4, 0.6]), np.array([True, False, True])


def looking_ahead():
    model = small_model()
    model.causal = False
    return model


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: metrics.accuracy_by_step(LOGITS[0], LABELS), "logits must be"),
        (lambda: metrics.accuracy_by_step(LOGITS, LABELS[:2]), "labels"),
        (lambda: metrics.accuracy_by_step(LOGITS, LABELS - 1), r"labels must be in 0\.\.9, got -1"),
        (lambda: metrics.accuracy_by_step(LOGITS, LABELS + 8), "got 10"),
        (lambda: metrics.accuracy_by_step(LOGITS * np.nan, LABELS), "logits hold NaN"),
        (lambda: metrics.confusion(LABELS, LABELS, classes=2), "must be in 0..1, got 2"),
        (lambda: metrics.aurc(SURE, RIGHT[:1]), "correct"),
        (lambda: metrics.ece(SURE, RIGHT[:1]), "correct"),
        (lambda: metrics.ece(10 * SURE, RIGHT), "pass a softmax"),
        (lambda: prefix_mean(LOGITS[0]), r"logits must be \(T, N, C\), got shape \(3, 10\)"),
        (lambda: prefix_mean(torch.zeros(1, 2, 3, 4)), r"got shape \(1, 2, 3, 4\)"),
        (lambda: hold(LOGITS, [4, 4]), r"lengths must be 3 whole numbers in 1\.\.4"),
        (lambda: hold(LOGITS, [4, 0, 4]), "lengths must be"),
        (lambda: hold(LOGITS, [4, 5, 4]), "lengths must be"),
        (lambda: score(Outputs(LOGITS * np.nan, LABELS, SURE)), "logits hold NaN"),
        (lambda: collect(small_model(), []), "the data set to evaluate is empty"),
        (
            lambda: collect(looking_ahead(), recordings(3)),
            r"looks ahead in time \(causal = False\)",
        ),
        (
            lambda: collect(small_model(), ragged(8), frames=slice(9, None)),
            r"frames \[9, None\] leave a recording of \d frames without any",
        ),
    ],
)
def test_refused_by_name(call, word):
    with pytest.raises(ValueError, match=word):
        call()

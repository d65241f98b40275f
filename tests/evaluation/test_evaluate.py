"""One pass over the data, and every number of it against a slow loop or by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import oracles
import pytest
import torch
from moving_light import ragged, recordings, small_model

from anystep.data.loader import in_order
from anystep.evaluation.evaluate import Outputs, collect, score
from anystep.evaluation.readout import hold, prefix_mean
from anystep.nn.fuse import fuse_model

STEPS, SAMPLES, CLASSES = 4, 30, 7
LENGTHS = (3, 7, 5, 1)


def outputs(*, classes=CLASSES, seed=0, labels=None, rates=None):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=SAMPLES) if labels is None else labels
    logits = generator.normal(size=(STEPS, SAMPLES, classes)) + 1.5 * np.eye(classes)[labels]
    return Outputs(logits.astype(np.float32), labels, np.empty((0, 0), np.float32), rates or {})


# collect


def test_what_is_collected_is_what_the_network_says_of_each_sample_in_order():
    model, data = small_model().eval(), recordings(13)
    said = collect(model, data, batch_size=4)
    with torch.no_grad():
        alone = [model(torch.from_numpy(frames).float().unsqueeze(1)) for frames, _ in data]
    np.testing.assert_allclose(said.logits, torch.cat(alone, dim=1).numpy(), rtol=0, atol=1e-5)
    assert said.logits.dtype == np.float32
    assert said.labels.tolist() == [label for _, label in data]


def test_chosen_frames_are_all_that_the_network_sees():
    model, data = small_model(), recordings(6)
    later = collect(model, data, frames=slice(3, 8))
    assert len(later.logits) == 5
    cut = [(frames[3:8], label) for frames, label in data]
    np.testing.assert_array_equal(later.logits, collect(model, cut).logits)


def hooks_of(model):
    return [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


@pytest.mark.parametrize("training", [True, False])
def test_collecting_leaves_modes_hooks_weights_and_gradients_as_they_were(training):
    model = small_model().train(training)
    frozen = model.stages[0][0].norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    collect(model, recordings(6), features=4)
    assert model.training is training
    assert model.stages[1][0].norm.training is training
    assert not frozen.training
    assert not hooks_of(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_and_hooks_are_put_back_after_an_error_too():
    model = small_model().train()
    with pytest.raises(ValueError, match="frames must be"):
        collect(model, [(np.zeros((10, 2, 9, 9)), 0)], features=4)
    assert all(module.training for module in model.modules())
    assert not hooks_of(model)


@pytest.mark.parametrize(("asked", "kept"), [(1, 1), (5, 5), (100, 13)])
def test_features_are_the_time_mean_of_what_enters_the_classifier_of_the_first_samples(asked, kept):
    model, data = small_model(), recordings(13)
    features = collect(model, data, batch_size=4, features=asked).features
    assert features.shape == (kept, model.classifier.in_features)
    # a linear layer of a mean is the mean of the linear layer: the features give back the time mean
    # of the logits
    weight, bias = (p.detach().numpy() for p in (model.classifier.weight, model.classifier.bias))
    means = collect(model, data).logits.mean(0)[:kept]
    np.testing.assert_allclose(features @ weight.T + bias, means, rtol=0, atol=1e-5)


def test_a_fused_network_is_judged_as_its_original():
    """Logits, rates under the same names, and features; the copy stays what it was."""
    model, data = small_model(), recordings(13)
    with torch.no_grad():
        for block in (model.stages[0][0], model.stages[1][0]):
            block.norm.bias.fill_(0.4)  # every layer fires
        model.train()(torch.from_numpy(data.frames).float().transpose(0, 1))
    fused = fuse_model(model.eval())
    expected, said = (collect(each, data, batch_size=4, features=5) for each in (model, fused))
    np.testing.assert_allclose(said.logits, expected.logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(said.features, expected.features, rtol=0, atol=1e-4)
    assert said.features.shape == (5, model.classifier.in_features)
    assert said.rates == pytest.approx(expected.rates, abs=1e-6)
    assert set(said.rates) == {"stages.0.0.neuron", "stages.1.0.neuron"}
    assert min(said.rates.values()) > 0
    assert not any(module.training for module in fused.modules())
    assert not hooks_of(fused)
    assert not any(parameter.requires_grad for parameter in fused.parameters())


# Recordings of different length: each is judged as it is alone


def test_a_batch_of_an_evaluation_has_recordings_of_one_length():
    assert in_order(7, batch_size=3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert in_order(5, batch_size=2, lengths=[3, 1, 3, 3, 1]) == [[1, 4], [0, 2], [3]]
    assert in_order(3, batch_size=2, lengths=np.array([4, 4, 4])) == in_order(3, batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_a_recording_is_judged_as_it_is_alone_and_in_its_place(batch_size):
    model, data = small_model(), ragged(13)
    said = collect(model, data, batch_size=batch_size, features=5)
    assert said.lengths.tolist() == data.lengths.tolist()
    assert said.labels.tolist() == data.labels.tolist()
    assert (len(said.logits), len(said.features)) == (data.lengths.max(), 5)
    spikes = elements = 0.0
    for n, (frames, _) in enumerate(data):
        alone = collect(model, [(frames, 0)], features=1)
        np.testing.assert_allclose(said.logits[: len(frames), n], alone.logits[:, 0], atol=1e-5)
        decided = prefix_mean(said.logits)[-1, n]
        np.testing.assert_allclose(decided, alone.logits.mean(0)[0], atol=1e-5)
        if n < 5:
            np.testing.assert_allclose(said.features[n], alone.features[0], atol=1e-5)
        spikes += len(frames) * np.array(list(alone.rates.values()))
        elements += len(frames)
    assert list(said.rates.values()) == pytest.approx(spikes / elements)
    assert score(said)["steps"] == len(said.logits)


def test_chosen_frames_must_leave_every_recording_one():
    data = ragged(8, shortest=4)
    assert collect(small_model(), data, frames=slice(0, 3)).lengths is None
    late = collect(small_model(), data, frames=slice(2, None))
    assert late.lengths.tolist() == (data.lengths - 2).tolist()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_after_its_end_the_decision_of_a_recording_stands(kind):
    logits = kind(np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32))
    before = logits * 1
    held = hold(logits, LENGTHS)
    assert (logits == before).all()
    assert held.dtype == logits.dtype
    for n, length in enumerate(LENGTHS):
        assert (held[:length, n] == logits[:length, n]).all()
        for t in range(1, 8):
            own = logits[: min(t, length), n].mean(0)
            np.testing.assert_allclose(prefix_mean(held)[t - 1, n], own, rtol=1e-4, atol=1e-6)


# score


def test_every_score_agrees_with_its_slow_loop():
    said = outputs(rates={"neuron": 0.25})
    scores = score(said)
    prefix = oracles.prefix_mean(said.logits)
    assert (scores["samples"], scores["steps"]) == (SAMPLES, STEPS)
    assert scores["rates"] == {"neuron": 0.25}
    for k in (1, 5):
        for kind, logits in (("prefix", prefix), ("step", said.logits)):
            expected = oracles.accuracy_by_step(logits, said.labels, k=k)
            np.testing.assert_allclose(scores[f"{kind}_top{k}"], expected)
    for t in range(STEPS):
        predicted = np.array([oracles.argmax(row) for row in prefix[t]])
        correct = predicted == said.labels
        softmax = np.array([max(oracles.softmax(row)) for row in prefix[t]])
        highest = np.array([max(row) for row in prefix[t]])
        assert scores["aurc_softmax"][t] == pytest.approx(1000 * oracles.aurc(softmax, correct))
        assert scores["aurc_max_logit"][t] == pytest.approx(1000 * oracles.aurc(highest, correct))
        assert scores["ece"][t] == pytest.approx(oracles.ece(softmax, correct), abs=1e-6)
        by_class = oracles.per_class_accuracy(predicted, said.labels, classes=CLASSES)
        np.testing.assert_allclose(np.array(scores["per_class_top1"][t], dtype=float), by_class)
        if t in (0, STEPS - 1):
            expected = oracles.confusion(predicted, said.labels, classes=CLASSES)
            assert scores["confusion"][str(t + 1)] == expected.tolist()
    assert set(scores["confusion"]) == {"1", str(STEPS)}


def test_the_scores_by_hand():
    # step 1 is right for sample 0 only, step 2 for both; their mean is right for sample 0 only
    logits = np.array([[[2.0, 0.0], [5.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]], np.float32)
    scores = score(Outputs(logits, np.array([0, 1]), np.empty((0, 0))))
    assert scores["prefix_top1"] == [50.0, 50.0]
    assert scores["step_top1"] == [50.0, 100.0]
    # the wrong sample is the surer one: risks 1 and 1/2
    assert scores["aurc_softmax"] == scores["aurc_max_logit"] == [750.0, 750.0]
    assert scores["confusion"] == {"1": [[1, 0], [1, 0]], "2": [[1, 0], [1, 0]]}
    assert scores["per_class_top1"] == [[100.0, 0.0]] * 2
    sure = [
        [1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(-5.0))],
        [1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(-2.0))],
    ]
    # alone in their bins: (|1 - p| + |0 - q|) / 2; in step 2 p = .82, q = .88 lie in bins 12 and 13
    # of 15
    assert scores["ece"] == pytest.approx([(1 - p + q) / 2 for p, q in sure])


def test_a_class_without_samples_is_null_and_all_scores_are_json():
    said = outputs(labels=np.arange(SAMPLES) % (CLASSES - 1))
    scores = score(said)
    assert [row[-1] for row in scores["per_class_top1"]] == [None] * STEPS
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores

"""TEBN: a scale of its own for every step, and the count of steps that a stream carries with it."""

from __future__ import annotations

import math

import pytest
import torch
from little import close, close_all, frames, network, sequence
from test_norms import scrambled
from torch import nn

from anystep.nn.fuse import fuse_model
from anystep.nn.norms import TEBatchNorm

T, N = 3, 4


def counts(*steps):
    return torch.tensor(steps)


def test_tebn_in_training_is_the_batch_norm_of_a_volume_then_a_scale_a_step():
    mine, theirs = scrambled(TEBatchNorm(2, steps=T)), scrambled(nn.BatchNorm3d(2))
    p = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert mine.p.shape == (T,)  # one dimension, so that weight decay spares it
    x, y = (sequence().requires_grad_(True) for _ in range(2))
    said, state = mine(x, mine.rest(N))
    expected = theirs(y.permute(1, 2, 0, 3, 4)).permute(2, 0, 1, 3, 4) * p.reshape(T, 1, 1, 1, 1)
    close(said, expected)
    assert torch.equal(state, counts(3, 3, 3, 3))
    for each in (said, expected):
        (each * sequence(seed=9)).sum().backward()
    close(x.grad, y.grad)
    close(mine.p.grad, p.grad)
    close(mine.weight.grad, theirs.weight.grad)
    close(mine.running_mean, theirs.running_mean)
    close(mine.running_var, theirs.running_var)


def test_a_step_too_many_is_refused_by_name_with_a_way_out():
    norm = TEBatchNorm(2, steps=T).double()
    _, state = norm(sequence(steps=2), norm.rest(N))
    norm(sequence(steps=1), state)
    wrong = [
        (4, counts(0, 0, 0, 0), 4),
        (4, norm.shared_rest(N), 4),
        (2, state, 4),
        (1, counts(0, 3, 1, 0), 4),
    ]
    for steps, before, needed in wrong:
        message = rf"made for 3 steps, .* or train with norm\.steps={needed}"
        with pytest.raises(ValueError, match=message):
            norm(sequence(steps=steps), before)


def test_rows_that_are_at_different_steps_have_the_scales_of_their_own_steps():
    norm, x = scrambled(TEBatchNorm(2, steps=3)).eval(), sequence(steps=2)
    said, after = norm(x, counts(0, 1, 1, 0))
    bare = norm(x[:1], counts(0, 0, 0, 0))[0], norm(x[1:], counts(0, 0, 0, 0))[0]  # p_1 is 1
    scales = [[1.0, 0.5, 0.5, 1.0], [0.5, 3.0, 3.0, 0.5]]
    for t in range(2):
        scale = torch.tensor(scales[t], dtype=torch.float64)
        close(said[t], bare[t][0] * scale.reshape(N, 1, 1, 1))
    assert torch.equal(after, counts(2, 3, 3, 2))


def test_the_gradient_of_a_scale_is_the_sum_over_the_rows_that_used_it():
    norm = scrambled(TEBatchNorm(1, steps=3)).eval()
    x = torch.ones(1, 3, 1, 1, 1, dtype=torch.float64)
    nn.init.constant_(norm.bias, 2.0)
    norm(x, counts(0, 2, 2))[0].sum().backward()
    each = 2.0 + 0.5 / math.sqrt(1 + 1e-5)
    close(norm.p.grad, torch.tensor([each, 0.0, 2 * each], dtype=torch.float64))


def test_a_shared_rest_says_the_same_as_a_rest_of_ones_own():
    norm, x = scrambled(TEBatchNorm(2, steps=T)).eval(), sequence()
    shared = norm.shared_rest(N, dtype=torch.float64)
    assert shared.stride() == (0,)
    assert (shared.dtype, norm.rest(N, dtype=torch.float64).dtype) == (torch.int64, torch.int64)
    for one, other in zip(norm(x, shared), norm(x, norm.rest(N)), strict=True):
        assert torch.equal(one, other)
        assert 0 not in one.stride()


@pytest.mark.parametrize("training", [True, False])
def test_a_call_from_a_shared_rest_waits_for_no_device(training):
    """Tensors on the device "meta" have no values that anyone could look at."""
    norm = TEBatchNorm(2, steps=T).to("meta").train(training)
    x = torch.empty(T, N, 2, 5, 5, device="meta")
    said, _ = norm(x, norm.shared_rest(N, device=x.device))
    assert said.shape == x.shape
    with pytest.raises(RuntimeError, match="meta tensor"):
        norm(x, norm.rest(N, device=x.device))
    with pytest.raises(ValueError, match="TEBatchNorm: made for 3 steps"):
        norm(torch.cat([x, x]), norm.shared_rest(N, device=x.device))


def test_no_samples_have_no_steps():
    norm = TEBatchNorm(2, steps=T).double().eval()
    for rest in (norm.rest(0), norm.shared_rest(0)):
        said, state = norm(sequence(samples=0), rest)
        assert (said.shape, state.shape) == ((T, 0, 2, 5, 5), (0,))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (counts(0, 0, 0, 0, 0), r"must be .* \(4,\) torch.int64, got \(5,\) torch.int64"),
        (torch.zeros(N), r"must be .* \(4,\) torch.int64, got \(4,\) torch.float32"),
        (counts(0, 0, 0, 0)[:, None], r"must be .* \(4,\) torch.int64, got \(4, 1\) torch.int64"),
        (torch.tensor([0, 0, -1, 0]), "counts steps and must be >= 0, got -1"),
    ],
    ids=["rows", "dtype", "shape", "negative"],
)
def test_a_state_that_counts_no_steps_is_refused_by_name(state, message):
    with pytest.raises(ValueError, match=f"TEBatchNorm: the state {message}"):
        TEBatchNorm(2, steps=T).double()(sequence(), state)


def test_the_scales_follow_the_dtype_of_the_batch_in_mixed_precision():
    norm, x = TEBatchNorm(2, steps=T), sequence().bfloat16()
    assert norm(x, norm.rest(N))[0].dtype == torch.bfloat16


# In a network


def with_tebn(**options):
    """A small network in eval mode with a TEBN at every layer, unlike what it starts with."""
    model = network(norm={"name": "tebn", "steps": 6}, **options)
    for key, parameter in model.named_parameters():
        if ".norm." in key:
            nn.init.uniform_(parameter, 0.3, 1.5)
    model(frames())
    return model.eval()


def test_a_network_with_tebn_is_exported_with_its_counts_as_a_state():
    model, x = with_tebn(neuron={"name": "lif", "backend": "reference"}), frames()
    logits, state = model.advance(x[:2], model.rest(3))

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, state):
            return self.model.advance(x, state)

    exported = torch.export.export(Step().eval(), (x[:1], model.rest(3))).module()
    given = model.rest(3)
    for t in range(2):
        said, given = exported(x[t : t + 1], given)
        close(said, logits[t : t + 1])
    close_all(given, state)
    with pytest.raises((IndexError, RuntimeError)):
        exported(x[:1], tuple(rows + 6 if rows.dtype == torch.long else rows for rows in state))


def test_a_compiled_network_with_tebn_is_one_graph_and_says_the_same():
    model, x = with_tebn(neuron={"name": "lif", "backend": "reference"}), frames(3)
    torch.compiler.reset()
    with torch.no_grad():
        close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))
    torch.compiler.reset()


def test_a_network_with_tebn_is_not_fused():
    with pytest.raises(
        ValueError, match=r"stages\.0\.0\.norm \(TEBatchNorm\) is a norm of its own at every step"
    ):
        fuse_model(with_tebn())

"""TEBN: a scale of its own for every step, and the count of steps that a stream carries with it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from little import close, close_all, frames, network, sequence
from test_norms import scrambled
from torch import nn

from anystep.nn.fuse import fuse_model
from anystep.nn.norms import TEBatchNorm

T, N = 3, 4
counts = partial(torch.tensor, dtype=torch.long)


def test_a_wrong_state_and_a_step_too_many_are_refused_by_name():
    norm = TEBatchNorm(2, steps=T).double()
    _, state = norm(sequence(steps=2), norm.rest(N))
    norm(sequence(steps=1), state)
    too_many = r"made for 3 steps, .* or train with norm\.steps=4"
    wrong = [
        (4, counts([0, 0, 0, 0]), too_many),
        (4, norm.shared_rest(N), too_many),
        (2, state, too_many),
        (1, counts([0, 3, 1, 0]), too_many),
        (3, counts([0, 0, 0, 0, 0]), r"must be .* \(4,\) torch.int64, got \(5,\) torch.int64"),
        (3, torch.zeros(N), r"must be .* \(4,\) torch.int64, got \(4,\) torch.float32"),
        (3, counts([[0], [0], [0], [0]]), r"must be .* torch.int64, got \(4, 1\) torch.int64"),
        (3, counts([0, 0, -1, 0]), "the state counts steps and must be >= 0, got -1"),
    ]
    for steps, before, message in wrong:
        with pytest.raises(ValueError, match=f"TEBatchNorm: .*{message}"):
            norm(sequence(steps=steps), before)


def test_tebn_in_training_is_the_batch_norm_of_a_volume_then_a_scale_a_step():
    mine, theirs = scrambled(TEBatchNorm(2, steps=T)), scrambled(nn.BatchNorm3d(2))
    p = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert mine.p.shape == (T,)  # one dimension, so that weight decay spares it
    x, y = (sequence().requires_grad_(True) for _ in range(2))
    said, state = mine(x, mine.rest(N))
    expected = theirs(y.permute(1, 2, 0, 3, 4)).permute(2, 0, 1, 3, 4) * p.reshape(T, 1, 1, 1, 1)
    close(said, expected)
    assert torch.equal(state, counts([3, 3, 3, 3]))
    for each in (said, expected):
        (each * sequence(seed=9)).sum().backward()
    close(x.grad, y.grad)
    close(mine.p.grad, p.grad)
    close(mine.weight.grad, theirs.weight.grad)
    close(mine.running_mean, theirs.running_mean)
    close(mine.running_var, theirs.running_var)


def test_rows_that_are_at_different_steps_have_the_scales_of_their_own_steps():
    norm, x = scrambled(TEBatchNorm(2, steps=3)).eval(), sequence(steps=2)
    said, after = norm(x, counts([0, 1, 1, 0]))
    bare = norm(x[:1], norm.rest(N))[0], norm(x[1:], norm.rest(N))[0]  # p_1 is 1
    scales = [[1.0, 0.5, 0.5, 1.0], [0.5, 3.0, 3.0, 0.5]]
    for t in range(2):
        scale = torch.tensor(scales[t], dtype=torch.float64)
        close(said[t], bare[t][0] * scale.reshape(N, 1, 1, 1))
    assert torch.equal(after, counts([2, 3, 3, 2]))
    # the gradient of a scale is the sum over the rows that used it
    gradient = torch.autograd.grad(said.sum(), norm.p)[0]
    sums = bare[0][0].sum((1, 2, 3)), bare[1][0].sum((1, 2, 3))
    first, second = sums[0][[0, 3]].sum(), sums[0][[1, 2]].sum() + sums[1][[0, 3]].sum()
    close(gradient, torch.stack([first, second, sums[1][[1, 2]].sum()]))


@pytest.mark.parametrize("training", [True, False])
def test_a_call_from_a_shared_rest_says_the_same_and_waits_for_no_device(training):
    """Tensors on the device "meta" have no values that anyone could look at."""
    norm, x = scrambled(TEBatchNorm(2, steps=T)).train(training), sequence()
    assert norm.shared_rest(N).stride() == (0,)
    for one, other in zip(norm(x, norm.shared_rest(N)), norm(x, norm.rest(N)), strict=True):
        assert torch.equal(one, other)
        assert 0 not in one.stride()
    norm, x = norm.to("meta"), x.to("meta")
    assert norm(x, norm.shared_rest(N, device=x.device))[0].shape == x.shape
    with pytest.raises(RuntimeError, match="meta tensor"):
        norm(x, norm.rest(N, device=x.device))
    with pytest.raises(ValueError, match="TEBatchNorm: made for 3 steps"):
        norm(torch.cat([x, x]), norm.shared_rest(N, device=x.device))


# In a network


def with_tebn():
    """A small network in eval mode with a TEBN at every layer, unlike what it starts with."""
    neuron = {"name": "lif", "backend": "reference"}
    model = network(neuron, norm={"name": "tebn", "steps": 6})
    for key, parameter in model.named_parameters():
        if ".norm." in key:
            nn.init.uniform_(parameter, 0.3, 1.5)
    model(frames())
    return model.eval()


def test_a_network_with_tebn_is_exported_with_its_counts_as_a_state():
    model, x = with_tebn(), frames()
    logits, state = model.advance(x[:2], model.rest(3))
    step = nn.Module()
    step.model, step.forward = model, model.advance
    exported = torch.export.export(step.eval(), (x[:1], model.rest(3))).module()
    given = model.rest(3)
    for t in range(2):
        said, given = exported(x[t : t + 1], given)
        close(said, logits[t : t + 1])
    close_all(given, state)
    with pytest.raises((IndexError, RuntimeError)):
        exported(x[:1], tuple(rows + 6 if rows.dtype == torch.long else rows for rows in state))


def test_a_compiled_network_with_tebn_is_one_graph_and_says_the_same():
    model, x = with_tebn(), frames(3)
    torch.compiler.reset()
    with torch.no_grad():
        close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))
    torch.compiler.reset()
    message = r"stages\.0\.0\.norm \(TEBatchNorm\) is a norm of its own at every step"
    with pytest.raises(ValueError, match=message):
        fuse_model(model)

"""TEBN: a scale of its own for every step, and the count of steps that a stream carries with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from anystep.nn.fuse import fuse_model
from anystep.nn.models import create_model
from anystep.nn.norms import BatchNorm, TEBatchNorm

T, N = 3, 4


def sequence(steps=T, samples=N, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        2.0 * torch.randn(steps, samples, 2, 5, 5, generator=generator, dtype=torch.float64) + 1.0
    )


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def scrambled(norm):
    """The norm with a scale, a shift and, if it has one, a scale a step unlike those it starts
    with.
    """
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, len(norm.weight)))
        norm.bias.copy_(torch.linspace(-1.0, 0.25, len(norm.bias)))
        if isinstance(norm, TEBatchNorm):
            norm.p.copy_(torch.tensor([1.0, 0.5, 3.0]))
    return norm.double()


def counts(*steps):
    return torch.tensor(steps)


def test_tebn_in_training_is_the_batch_norm_of_a_volume_then_a_scale_a_step():
    mine, theirs = scrambled(TEBatchNorm(2, steps=T)), scrambled(nn.BatchNorm3d(2))
    p = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
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


def test_a_new_tebn_is_a_batch_norm():
    x = sequence()
    assert torch.equal(
        TEBatchNorm(2, steps=5).double()(x, counts(0, 0, 0, 0))[0], BatchNorm(2).double()(x)
    )


def test_the_scale_of_a_step_has_one_dimension_so_that_weight_decay_spares_it():
    assert TEBatchNorm(4, steps=6).p.shape == (6,)


def test_rows_that_are_at_different_steps_have_the_scales_of_their_own_steps():
    norm, x = scrambled(TEBatchNorm(2, steps=3)).eval(), sequence(steps=2)
    said, after = norm(x, counts(0, 1, 1, 0))
    bare = norm(x[:1], counts(0, 0, 0, 0))[0], norm(x[1:], counts(0, 0, 0, 0))[0]  # p_1 is 1
    scales = [[1.0, 0.5, 0.5, 1.0], [0.5, 3.0, 3.0, 0.5]]
    for t in range(2):
        close(
            said[t], bare[t][0] * torch.tensor(scales[t], dtype=torch.float64).reshape(N, 1, 1, 1)
        )
    assert torch.equal(after, counts(2, 3, 3, 2))


def test_the_gradient_of_a_scale_is_the_sum_over_the_rows_that_used_it():
    norm, x = (
        scrambled(TEBatchNorm(1, steps=3)).eval(),
        torch.ones(1, 3, 1, 1, 1, dtype=torch.float64),
    )
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
    norm, x = (
        TEBatchNorm(2, steps=T).to("meta").train(training),
        torch.empty(T, N, 2, 5, 5, device="meta"),
    )
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


def test_a_step_too_many_is_refused_by_name_with_a_way_out():
    norm = TEBatchNorm(2, steps=T).double()
    _, state = norm(sequence(steps=2), norm.rest(N))
    norm(sequence(steps=1), state)
    message = "TEBatchNorm: made for 3 steps, each with a scale of its own, got {} after {}: start the sample again from rest, "
    for steps, before in [
        (4, counts(0, 0, 0, 0)),
        (4, norm.shared_rest(N)),
        (2, state),
        (1, counts(0, 3, 1, 0)),
    ]:
        text = message.format(steps, int(before.max()))
        with pytest.raises(
            ValueError, match=text + f"or train with norm.steps={steps + int(before.max())}"
        ):
            norm(sequence(steps=steps), before)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            torch.zeros(N + 1, dtype=torch.long),
            r"must be the steps seen by each sample, \(4,\) torch.int64, got \(5,\) torch.int64",
        ),
        (
            torch.zeros(N),
            r"must be the steps seen by each sample, \(4,\) torch.int64, got \(4,\) torch.float32",
        ),
        (
            torch.zeros(N, 1, dtype=torch.long),
            r"must be the steps seen by each sample, \(4,\) torch.int64, got \(4, 1\) torch.int64",
        ),
        (torch.tensor([0, 0, -1, 0]), "counts steps and must be >= 0, got -1"),
    ],
    ids=["rows", "dtype", "shape", "negative"],
)
def test_a_state_that_counts_no_steps_is_refused_by_name(state, message):
    with pytest.raises(ValueError, match=f"TEBatchNorm: the state {message}"):
        TEBatchNorm(2, steps=T).double()(sequence(), state)


def test_a_tebn_for_no_steps_is_refused_by_name():
    with pytest.raises(
        ValueError, match="TEBatchNorm: steps must be >= 1, the longest sequence to train on, got 0"
    ):
        TEBatchNorm(2, steps=0)


def test_the_scales_follow_the_dtype_of_the_batch_in_mixed_precision():
    norm, x = TEBatchNorm(2, steps=T), sequence().bfloat16()
    assert norm(x, norm.rest(N))[0].dtype == torch.bfloat16


# In a network


def network(**options):
    """A small network in eval mode with a TEBN at every layer, unlike what it starts with."""
    torch.manual_seed(0)
    norm = {"name": "tebn", "steps": 6}
    model = create_model(
        "vgg_snn", num_classes=3, input_size=4, widths=[[4, 5]], norm=norm, **options
    ).double()
    for key, parameter in model.named_parameters():
        if ".norm." in key:
            nn.init.uniform_(parameter, 0.3, 1.5)
    model.train()(frames())
    return model.eval()


def frames(steps=6, samples=2):
    return 3.0 * torch.rand(
        steps, samples, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


def test_a_network_with_tebn_keeps_the_prefix_law_and_the_stream_law():
    model, x = network(), frames()
    whole, after = model.advance(x, model.rest(2))
    assert torch.equal(model(x), whole)
    for t in range(1, 7):
        close(model(x[:t]), whole[:t])
    for sizes in (1, 2, [1, 3, 2], [5, 1]):
        state, said = model.rest(2), []
        for chunk in x.split(sizes):
            logits, state = model.advance(chunk, state)
            said.append(logits)
        close(torch.cat(said), whole)
        for mine, last in zip(state, after, strict=True):
            close(mine, last)


def test_a_stream_that_starts_in_the_row_of_another_has_the_scales_of_its_own_steps():
    model, x = network(), frames()
    alone = model(x[:4, [1]])
    _, state = model.advance(x[:3], model.rest(2))
    for rows, rest in zip(state, model.rest(1), strict=True):
        rows[1] = rest[0]
    logits, _ = model.advance(torch.stack([x[3:, 0], x[:3, 1]], dim=1), state)
    close(logits[:, [0]], model(x[:, [0]])[3:])
    close(logits[:, [1]], alone[:3])


def test_a_network_trains_its_scales_with_and_without_recomputation():
    kept, recomputed = network().train(), network().train()
    recomputed.recompute = True
    for model in (kept, recomputed):
        model(frames()).square().sum().backward()
        assert all(
            parameter.grad.abs().min() > 0
            for key, parameter in model.named_parameters()
            if key.endswith(".p")
        )
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    for one, other in zip(kept.buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_network_with_tebn_is_exported_with_its_counts_as_a_state():
    model, x = network(neuron={"name": "lif", "backend": "reference"}), frames()
    logits, state = model.advance(x[:2], model.rest(2))

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, state):
            return self.model.advance(x, state)

    exported = torch.export.export(Step().eval(), (x[:1], model.rest(2))).module()
    given = model.rest(2)
    for t in range(2):
        said, given = exported(x[t : t + 1], given)
        close(said, logits[t : t + 1])
    for mine, expected in zip(given, state, strict=True):
        close(mine, expected)
    with pytest.raises((IndexError, RuntimeError)):
        exported(x[:1], tuple(rows + 6 if rows.dtype == torch.long else rows for rows in state))


def test_a_compiled_network_with_tebn_is_one_graph_and_says_the_same():
    model, x = network(neuron={"name": "lif", "backend": "reference"}), frames(3)
    torch.compiler.reset()
    with torch.no_grad():
        close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))
    torch.compiler.reset()


def test_a_network_with_tebn_is_not_fused():
    with pytest.raises(
        ValueError, match=r"stages\.0\.0\.norm \(TEBatchNorm\) is a norm of its own at every step"
    ):
        fuse_model(network())

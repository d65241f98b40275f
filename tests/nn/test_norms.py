"""Norms of a sequence: which values share their statistics, and what is kept for eval mode."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from little import close, same, sequence
from torch import nn

from anystep.nn import norms
from anystep.nn.layers import direct_encoding, is_stateful, is_static
from anystep.nn.neurons import LIF
from anystep.nn.norms import BatchNorm, TDBatchNorm, TEBatchNorm

T, N = 3, 4
MAKE = {  # every row, and its variants, as a test makes it
    "bn": lambda channels, **more: BatchNorm(channels, **more),
    "bn per step": lambda channels, **more: BatchNorm(channels, per_step=True, **more),
    "tdbn": lambda channels, **more: TDBatchNorm(channels, **more),
    "tebn": lambda channels, **more: TEBatchNorm(channels, steps=T, **more),
}


def called(norm, x):
    """What a norm says from rest, stateful or not."""
    return norm(x, norm.rest(x.shape[1]))[0] if is_stateful(norm) else norm(x)


def scrambled(norm):
    """The norm with scales and a shift unlike those it starts with."""
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, len(norm.weight)))
        norm.bias.copy_(torch.linspace(-1.0, 0.25, len(norm.bias)))
        if isinstance(norm, TEBatchNorm):
            norm.p.copy_(torch.tensor([1.0, 0.5, 3.0]))
    return norm.double()


def assert_same_statistics(norm, other):
    """The running statistics, which have the same names in torch's."""
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        close(getattr(norm, key), getattr(other, key))


@pytest.fixture(params=MAKE)
def name(request):
    return request.param


@pytest.fixture(params=[True, False])
def training(request):
    return request.param


def test_batch_norm_is_that_of_the_flattened_batch(training):
    mine, theirs = scrambled(BatchNorm(2)), scrambled(nn.BatchNorm2d(2))
    for seed in range(3):
        mine(sequence(seed=seed))
        theirs(sequence(seed=seed).flatten(0, 1))
    mine.train(training)
    theirs.train(training)
    x, y = (sequence(seed=9).requires_grad_(True) for _ in range(2))
    said, expected = mine(x), theirs(y.flatten(0, 1)).reshape(y.shape)
    assert torch.equal(said, expected)
    same(mine.state_dict().values(), theirs.state_dict().values())
    said.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(x.grad, y.grad)
    assert torch.equal(mine.weight.grad, theirs.weight.grad)


def test_batch_norm_in_training_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64).reshape(2, 2, 1, 1, 1)
    norm = BatchNorm(1, eps=1e-12, momentum=0.5).double()
    # mean 3, squares around it 4 1 0 9: variance 14 / 4 for the output, 14 / 3 for what is kept
    torch.testing.assert_close(norm(x).flatten(), (x.flatten() - 3) / (14 / 4) ** 0.5)
    assert norm.running_mean.item() == pytest.approx(0.5 * 3)
    assert norm.running_var.item() == pytest.approx(0.5 * 1 + 0.5 * 14 / 3)
    assert norm.num_batches_tracked == 1


def test_a_norm_in_eval_mode_is_torchs_on_every_step_alone(name):
    mine, theirs = scrambled(MAKE[name](2)), scrambled(nn.BatchNorm2d(2))
    called(mine, sequence())
    theirs.load_state_dict({key: value for key, value in mine.state_dict().items() if key != "p"})
    mine.eval(), theirs.eval()
    p = mine.p.tolist() if name == "tebn" else [1.0] * T
    x = sequence(seed=1)
    expected = torch.stack([a * theirs(step) for a, step in zip(p, x, strict=True)])
    close(called(mine, x), expected)


def test_gradients_are_those_of_finite_differences(name, training):
    norm, x = scrambled(MAKE[name](2)), sequence(samples=2, size=2).requires_grad_(True)
    called(norm, sequence(seed=3))
    norm.train(training)

    def function(x, *parameters):
        given = dict(zip(dict(norm.named_parameters()), parameters, strict=True))
        state = (torch.tensor([0, 0]),) if name == "tebn" else ()
        said = torch.func.functional_call(norm, given, (x, *state))
        return said[0] if name == "tebn" else said

    assert torch.autograd.gradcheck(function, (x, *norm.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_norm_keeps_the_shape_the_dtype_and_the_memory_format(name, training, dtype):
    x = sequence().to(dtype).flatten(0, 1).to(memory_format=torch.channels_last)
    x = x.unflatten(0, (T, N)).requires_grad_(True)
    y = called(MAKE[name](2).to(dtype).train(training), x)
    y.backward(torch.ones_like(y))
    assert (y.shape, y.dtype) == (x.shape, dtype)
    for each in (y, x.grad):
        assert each.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_a_static_image_is_normalised_as_its_copies_are(name, training):
    once, dense = (scrambled(MAKE[name](2)).train(training) for _ in range(2))
    x = direct_encoding(sequence(steps=1)[0], T)
    assert is_static(x)
    close(called(once, x), called(dense, x.contiguous()))
    assert_same_statistics(once, dense)


# Statistics of each step apart


def by_step(x, norm):
    """torch's batch norm, called once a step."""
    return torch.stack([norm(step) for step in x])


def test_statistics_of_each_step_apart_are_those_of_a_batch_norm_that_is_called_once_a_step():
    mine = scrambled(BatchNorm(2, per_step=True, momentum=0.3))
    theirs = scrambled(nn.BatchNorm2d(2, momentum=0.3))
    for seed in range(3):
        x, y = (sequence(seed=seed).requires_grad_(True) for _ in range(2))
        said, expected = mine(x), by_step(y, theirs)
        assert torch.equal(said, expected)
        (said * sequence(seed=9)).sum().backward()
        (expected * sequence(seed=9)).sum().backward()
        close(x.grad, y.grad)
        close(mine.weight.grad, theirs.weight.grad)
    assert mine.num_batches_tracked == 3 * T
    assert_same_statistics(mine, theirs)


# Several processes: two threads that meet where processes would; `test_processes` has real ones


class Meeting:
    """`all_reduce` among two threads: each waits for the other's tensor, and not for ever."""

    def __init__(self):
        self.barrier, self.brought = threading.Barrier(2, timeout=30), {}

    def all_reduce(self, tensor):
        self.brought[threading.get_ident()] = tensor.clone()
        self.barrier.wait()
        total = sum(self.brought.values())
        self.barrier.wait()
        tensor.copy_(total)


@pytest.fixture
def meeting(monkeypatch):
    monkeypatch.setattr(norms.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(norms.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(norms.dist, "all_reduce", Meeting().all_reduce)


def half(rank, static, per_step):
    """What one of two processes says about its half of the batch."""
    mine = slice(2 * rank, 2 * rank + 2)
    norm, x = scrambled(BatchNorm(2, per_step=per_step)), whole_batch(static)[:, mine]
    x = x if static else x.clone().requires_grad_(True)
    y = norm(x)
    (y * sequence(seed=9)[:, mine]).sum().backward()
    return y.detach(), x.grad, norm


def whole_batch(static):
    return direct_encoding(sequence(steps=1)[0], T) if static else sequence()


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.usefixtures("meeting")
def test_two_processes_have_the_statistics_of_one(static, per_step):
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(half, (0, 1), (static,) * 2, (per_step,) * 2)
        said, gradients, each = zip(*halves, strict=True)
    one, x = scrambled(nn.BatchNorm2d(2)), whole_batch(static).contiguous().requires_grad_(True)
    y = by_step(x, one) if per_step else one(x.flatten(0, 1)).unflatten(0, (T, N))
    (y * sequence(seed=9)).sum().backward()
    close(torch.cat(said, dim=1), y.detach())
    if not static:  # of a static batch the first convolution gets it, in its own process
        close(torch.cat(gradients, dim=1), x.grad)
    close(sum(norm.weight.grad for norm in each), one.weight.grad)
    for norm in each:
        assert_same_statistics(norm, one)


# tdBN


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.5),
        ({"before_addition": True}, 0.3535533905932738),
        ({"v_threshold": 1.0}, 1.0),
        ({"v_threshold": 1.0, "alpha": 0.7}, 0.7),
        ({"v_threshold": 2.0, "alpha": 0.5, "before_addition": True}, 0.7071067811865476),
    ],
    ids=str,
)
def test_the_scale_of_tdbn_starts_at_alpha_times_the_threshold(options, expected):
    norm = TDBatchNorm(3, **options)
    torch.testing.assert_close(norm.weight.detach(), torch.full((3,), expected))
    assert (norm.bias == 0).all()


def test_the_default_scale_of_tdbn_makes_both_forms_of_braincogs_neuron_fire_alike():
    x = TDBatchNorm(2).double()(sequence(steps=8)).detach()
    forms = (LIF(tau=2.0, v_threshold=0.5), LIF(tau=2.0, v_threshold=1.0, decay_input=False))
    spikes = [neuron(x)[0] for neuron in forms]
    assert 0 < spikes[0].mean() < 1
    assert torch.equal(*spikes)

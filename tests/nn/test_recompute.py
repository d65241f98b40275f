"""Activation checkpointing: a block that runs again gives the same bits and keeps less."""

from __future__ import annotations

import copy
import inspect
from functools import partial

import pytest
import torch
from contracts.test_model_contract import SMALL  # a small size of every row of MODELS
from little import close_all, same
from torch import nn

from anystep.nn.layers import Carry, direct_encoding, recomputed
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ACTIVATIONS, LIF, NEURONS
from anystep.nn.norms import NORMS
from benchmarks.memory import saved_bytes

T, N = 4, 3


def pair(name="vgg_snn", *, neuron="lif", norm="bn", backend=None):
    """The same network twice, every layer of which fires; the second one recomputes."""
    spec = {"name": neuron} if backend is None else {"name": neuron, "backend": backend}
    steps = {"steps": T} if "steps" in inspect.signature(NORMS[norm]).parameters else {}
    torch.manual_seed(0)
    plain = create_model(
        name, num_classes=5, neuron=spec, norm={"name": norm, **steps}, **SMALL[name]
    )
    for key, parameter in plain.named_parameters():
        if "norm" in key and key.endswith("bias"):
            nn.init.constant_(parameter, 0.4)
    again = copy.deepcopy(plain)
    again.recompute = True
    assert plain.recompute is StepModel.recompute is False
    return plain, again


def frames(model, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.rand(T, N, *model.frame_shape, generator=generator)


def trained(model, batches):
    """All that a few updates leave: logits, gradients and the state dict."""
    optimizer, told = torch.optim.SGD(model.parameters(), lr=0.1), []
    for x in batches:
        optimizer.zero_grad()
        logits = model(x)
        logits.square().sum().backward()
        told += [logits.detach().clone(), *(p.grad.clone() for p in model.parameters())]
        optimizer.step()
    return [*told, *model.state_dict().values()]


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_is_the_same_to_the_last_bit_and_keeps_less_for_backward(name, backend):
    plain, again = pair(name, backend=backend)
    batches = [frames(plain, seed=seed) for seed in range(3)]
    same(trained(again, batches), trained(plain, batches))
    everything, less = (
        saved_bytes(partial(model, batches[0]), without=tuple(model.parameters()))
        for model in (plain, again)
    )
    assert less < 0.7 * everything


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("neuron", [*NEURONS, *ACTIVATIONS])
def test_training_is_the_same_with_every_neuron_and_norm(neuron, norm):
    plain, again = pair(neuron=neuron, norm=norm)
    batches = [frames(plain, seed=seed) for seed in range(2)]
    same(trained(again, batches), trained(plain, batches))


def test_training_is_the_same_in_mixed_precision():
    def mixed(model):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(frames(model))
        # outside: the second run has to know that the first was inside
        logits.float().square().sum().backward()
        return [logits.detach(), *(p.grad for p in model.parameters()), *model.buffers()]

    plain, again = pair()
    same(mixed(again), mixed(plain))


def test_a_block_out_of_order_is_refused_as_without():
    blocks = [nn.ModuleDict({"neuron": LIF(shape=(2,))}) for _ in range(2)]
    layers = [("a", blocks[0].neuron), ("b", blocks[1].neuron)]
    carry = Carry(layers, tuple(layer.rest(N) for _, layer in layers))
    with pytest.raises(RuntimeError, match="in the order in which they were made: ModuleDict"):
        recomputed(blocks[1], torch.rand(T, N, 2), carry)


def test_training_is_the_same_on_static_images_whose_first_convolution_sees_them_once_each_time():
    (plain, again), seen = pair(), []
    again.stages[0][0].conv.register_forward_pre_hook(lambda layer, x: seen.append(len(x[0])))
    x = direct_encoding(frames(plain)[0], T)
    same(trained(again, [x]), trained(plain, [x]))
    assert seen == [N, N]


def test_each_block_runs_twice_in_training_and_once_otherwise():
    (_, again), counts = pair(), {}
    for layer in (m for m in again.modules() if isinstance(m, nn.Conv2d)):
        layer.register_forward_hook(lambda m, *_: counts.update({m: counts.get(m, 0) + 1}))
    x = frames(again)
    logits = again(x)
    assert set(counts.values()) == {1}
    logits.sum().backward()
    assert set(counts.values()) == {2}
    with torch.no_grad():
        again(x)
    again.eval()(x).sum().backward()
    assert set(counts.values()) == {4}


def test_the_state_goes_on_and_gradients_pass_through_it():
    told = []
    for model in pair():
        x = frames(model)
        first, state = model.advance(x[:3], model.rest(N))
        second, state = model.advance(x[3:], state)
        (second.square().sum() + sum(rows.sum() for rows in state)).backward()
        told.append([first, second, *state, *(p.grad for p in model.parameters())])
    same(*told)
    assert told[0][2].abs().max() > 0


def test_a_second_backward_through_one_graph_gives_the_same_gradients_and_moves_no_statistic():
    _, again = pair()
    loss = again(frames(again)).square().sum()
    buffers = [buffer.clone() for buffer in again.buffers()]
    first = torch.autograd.grad(loss, list(again.parameters()), retain_graph=True)
    same(first, torch.autograd.grad(loss, list(again.parameters())))
    same(again.buffers(), buffers)


class Odd(nn.Module):
    """A block whose value depends on a buffer that each run moves, and on chance."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("seen", torch.tensor(1.0))
        self.register_buffer("nothing", None)

    def forward(self, x, carry):
        self.seen += 1
        self.seen = self.seen * 1.0  # a buffer that is replaced, too
        return (x * self.weight * self.seen * torch.rand_like(x)).tanh()


def test_a_block_that_reads_what_it_writes_and_draws_at_random_runs_again_as_it_did():
    plain, again, x = Odd(), Odd(), torch.rand(T, N, 2, requires_grad=True)
    told = []
    for block, call in ((plain, plain), (again, partial(recomputed, again))):
        torch.manual_seed(1)
        y = call(x, Carry([], ()))
        torch.manual_seed(2)
        told.append([y.detach(), *torch.autograd.grad(y.sum(), [x, block.weight]), block.seen])
    same(*told)
    assert again.seen == 2.0


def test_the_buffers_are_the_blocks_own_again_after_an_error_in_the_second_run():
    block, x = Odd(), torch.rand(T, N, 2, requires_grad=True)
    y = recomputed(block, x, Carry([], ()))
    own = block.seen
    block.forward = lambda x, carry: 1 / 0
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    assert block.seen is own


def test_a_compiled_network_recomputes_outside_its_graphs_or_says_that_it_cannot():
    plain, again = pair()
    x = frames(plain)
    torch.compiler.reset()
    with pytest.raises(Exception, match="recompute=True cannot be compiled"):
        torch.compile(again, backend="aot_eager", fullgraph=True)(x)
    torch.compiler.reset()
    for model in (torch.compile(again, backend="aot_eager"), plain):
        model(x).square().sum().backward()
    gradients = ([p.grad for p in model.parameters()] for model in (again, plain))
    close_all(*gradients, 1e-4)
    close_all(again.buffers(), plain.buffers(), 1e-5)

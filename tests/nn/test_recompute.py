"""A block that runs again in backward: the same bits everywhere, and less memory kept."""

from __future__ import annotations

import copy
import inspect
from functools import partial

import pytest
import torch
from contracts.test_model_contract import SMALL  # a small size of every row of MODELS
from torch import nn

from anystep.nn.layers import Carry, direct_encoding, recomputed, stateful_modules
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ACTIVATIONS, LIF, NEURONS
from anystep.nn.norms import NORMS, BatchNorm
from benchmarks.memory import saved_bytes

T, N, CLASSES = 4, 3, 5
BACKENDS = ("reference", "numba")


def network(name="vgg_snn", *, neuron="lif", norm="bn", backend=None, seed=0):
    torch.manual_seed(seed)
    spec = {"name": neuron} if backend is None else {"name": neuron, "backend": backend}
    steps = {"steps": T} if "steps" in inspect.signature(NORMS[norm]).parameters else {}
    model = create_model(
        name, num_classes=CLASSES, neuron=spec, norm={"name": norm, **steps}, **SMALL[name]
    )
    for key, parameter in model.named_parameters():
        if "norm" in key and key.endswith("bias"):
            nn.init.constant_(parameter, 0.4)  # every layer fires
    return model.train()


def images(model, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.rand(N, *model.frame_shape, generator=generator)


def frames(model, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.rand(T, N, *model.frame_shape, generator=generator)


def pair(**options):
    """The same network twice; the second one recomputes."""
    plain, again = network(**options), network(**options)
    again.recompute = True
    return plain, again


def trained(model, batches):
    """All that a few updates leave: logits, gradients and the state dict."""
    optimizer, told = torch.optim.SGD(model.parameters(), lr=0.1), []
    for x in batches:
        optimizer.zero_grad()
        logits = model(x)
        logits.float().square().sum().backward()
        told += [logits.detach().clone(), *(p.grad.clone() for p in model.parameters())]
        optimizer.step()
    return [*told, *model.state_dict().values()]


def assert_same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(mine, other), number


def runs_of_blocks(model):
    """How often each convolution has run, counted from now on."""
    counts = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            counts[name] = 0
            module.register_forward_hook(
                lambda layer, inputs, output, name=name: counts.update({name: counts[name] + 1})
            )
    return counts


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_is_the_same_to_the_last_bit(name, backend):
    plain, again = pair(name=name, backend=backend)
    batches = [frames(plain, seed=seed) for seed in range(3)]
    assert_same_bits(trained(again, batches), trained(plain, batches))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("neuron", [*NEURONS, *ACTIVATIONS])
def test_training_is_the_same_with_every_neuron_and_norm(neuron, norm):
    plain, again = pair(neuron=neuron, norm=norm)
    batches = [frames(plain, seed=seed) for seed in range(2)]
    assert_same_bits(trained(again, batches), trained(plain, batches))


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_is_the_same_in_mixed_precision(backend):
    plain, again = pair(backend=backend)

    def mixed(model):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(frames(model))
        logits.float().square().sum().backward()  # outside: the second run has to know that the first was inside
        return [logits.detach(), *(p.grad for p in model.parameters()), *model.buffers()]

    assert_same_bits(mixed(again), mixed(plain))


def test_training_is_the_same_on_static_images_whose_first_convolution_sees_them_once_each_time():
    plain, again = pair()
    seen = []
    again.stages[0][0].conv.register_forward_pre_hook(
        lambda layer, inputs: seen.append(len(inputs[0]))
    )
    x = direct_encoding(images(plain), T)
    assert_same_bits(trained(again, [x]), trained(plain, [x]))
    assert seen == [N, N]


def test_each_block_runs_twice_in_training_and_once_otherwise():
    _, again = pair()
    counts, x = runs_of_blocks(again), frames(again)
    logits = again(x)
    assert set(counts.values()) == {1}
    logits.sum().backward()
    assert set(counts.values()) == {2}
    with torch.no_grad():
        again(x)
    again.eval()(x).sum().backward()
    assert set(counts.values()) == {4}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(SMALL))
def test_less_is_kept_for_backward(name, backend):
    plain, again = pair(name=name, backend=backend)
    x = frames(plain)
    everything, less = (
        saved_bytes(partial(model, x), without=tuple(model.parameters()))
        for model in (plain, again)
    )
    assert less < 0.7 * everything


def test_what_is_kept_of_a_block_is_its_input():
    _, again = pair(neuron="relu")
    x, kept = frames(again), []
    block = again.stages[0][1]
    x = torch.rand(T, N, 4, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        recomputed(block, x, Carry([], ()))
    assert [tensor.shape for tensor in kept if tensor.numel()] == [x.shape]


def test_the_state_goes_on_and_gradients_pass_through_it():
    plain, again = pair()
    told = []
    for model in (plain, again):
        x = frames(model)
        first, state = model.advance(x[:3], model.rest(N))
        second, state = model.advance(x[3:], state)
        (second.square().sum() + sum(rows.sum() for rows in state)).backward()
        told.append(
            [each.detach() for each in (first, second, *state)]
            + [p.grad for p in model.parameters()]
        )
        assert len(state) == len(list(stateful_modules(model)))
    assert_same_bits(*told)
    assert told[0][2].abs().max() > 0


def test_a_second_backward_through_one_graph_gives_the_same_gradients_and_moves_no_statistic():
    _, again = pair()
    loss = again(frames(again)).square().sum()
    buffers = [buffer.clone() for buffer in again.buffers()]
    first = torch.autograd.grad(loss, list(again.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(again.parameters()))
    assert_same_bits(first, second)
    assert_same_bits(list(again.buffers()), buffers)


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
    torch.manual_seed(0)
    plain, again, x = Odd(), Odd(), torch.rand(T, N, 2, requires_grad=True)
    told = []
    for block, call in ((plain, plain), (again, partial(recomputed, again))):
        torch.manual_seed(1)
        y = call(x, Carry([], ()))
        torch.manual_seed(2)
        told.append([y.detach(), *torch.autograd.grad(y.sum(), [x, block.weight]), block.seen])
    assert_same_bits(*told)
    assert again.seen == 2.0


def test_the_buffers_are_the_blocks_own_again_after_an_error_in_the_second_run():
    block, x = Odd(), torch.rand(T, N, 2, requires_grad=True)
    y = recomputed(block, x, Carry([], ()))
    own = block.seen
    block.forward = lambda x, carry: 1 / 0
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    assert block.seen is own


class Pair(nn.Module):
    """Two neurons, called in the order that it is told."""

    def __init__(self, order="ab"):
        super().__init__()
        self.a, self.b = LIF(shape=(2,)), LIF(shape=(2,))
        self.order = order

    def forward(self, x, carry):
        for name in self.order:
            x = carry(getattr(self, name), x)
        return x


class TwoBlocks(StepModel):
    def __init__(self, *, orders=("ab", "ab"), blocks=("first", "second")):
        super().__init__(in_planes=2, input_size=1, num_classes=2)
        self.first, self.second = Pair(orders[0]), Pair(orders[1])
        self.classifier, self.blocks = nn.Linear(2, 2), blocks
        self.recompute = True

    def network(self, frames, carry):
        x = frames.flatten(2)
        for name in self.blocks:
            x = self.through(getattr(self, name), x, carry)
        return self.classifier(x)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"blocks": ("second", "first")}, "in the order in which they were made: Pair"),
        ({"blocks": ("first", "first")}, "in the order in which they were made: Pair"),
        ({"blocks": ("first", "second", "second")}, "in the order in which they were made: Pair"),
        ({"orders": ("ab", "ba")}, "in the order in which they were made: LIF"),
        ({"orders": ("a", "ab")}, "the model did not use 'b'"),
        ({"blocks": ("first",)}, "the model did not use 'second.a'"),
    ],
)
def test_a_block_used_out_of_order_is_refused_as_without(wrong, message):
    model = TwoBlocks(**wrong)
    with pytest.raises(RuntimeError, match=message):
        model(torch.rand(T, N, 2, 1, 1))


def test_a_network_remembers_across_recomputed_blocks_with_several_neurons():
    model = TwoBlocks()
    x = 3 * torch.rand(6, N, 2, 1, 1)
    whole, state = model(x), model.rest(N)
    said = []
    for chunk in x.split(2):
        logits, state = model.advance(chunk, state)
        said.append(logits)
    assert torch.equal(torch.cat(said), whole)


def test_a_copy_and_a_checkpoint_know_nothing_of_it():
    plain, again = pair()
    assert plain.recompute is StepModel.recompute is False
    assert copy.deepcopy(again).recompute
    assert plain.state_dict().keys() == again.state_dict().keys()


def test_a_norm_counts_its_batch_once():
    _, again = pair()
    again(frames(again)).sum().backward()
    assert [
        norm.num_batches_tracked.item() for norm in again.modules() if isinstance(norm, BatchNorm)
    ] == [1, 1, 1]


def test_a_compiled_network_recomputes_outside_its_graphs_or_says_that_it_cannot():
    plain, again = pair()
    x = frames(plain)
    torch.compiler.reset()
    with pytest.raises(Exception, match="recompute=True cannot be compiled"):
        torch.compile(again, backend="aot_eager", fullgraph=True)(x)
    torch.compiler.reset()
    compiled = torch.compile(again, backend="aot_eager")
    for model in (compiled, plain):
        model(x).square().sum().backward()
    for mine, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(again.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)

"""State that is passed: what rest means, what Carry refuses, and gradients through time. The laws
are in the model contract.
"""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from anystep.nn.activations import ReLU
from anystep.nn.layers import Carry, is_stateful, stateful_modules
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import LIF


def small(**options):
    torch.manual_seed(0)
    return create_model(
        "vgg_snn", **{"num_classes": 3, "input_size": 4, "widths": [[4, 5]], **options}
    )


def frames(steps=6, samples=2):
    return 3.0 * torch.rand(steps, samples, 2, 4, 4, generator=torch.Generator().manual_seed(1))


class TwoNeurons(StepModel):
    """A model whose topology calls its two neurons in the order that it is told."""

    def __init__(self, order):
        super().__init__(in_planes=1, input_size=2, num_classes=4)
        self.first, self.second = LIF(shape=(1, 2, 2)), LIF(shape=(1, 2, 2))
        self.classifier = nn.Linear(4, 4)
        self.order = order

    def network(self, frames, carry):
        x = frames
        for name in self.order:
            x = carry(getattr(self, name), x)
        return self.classifier(x.flatten(2))


def test_rest_is_a_membrane_a_layer_with_a_row_a_sample_at_v_init():
    model = small(neuron={"name": "lif", "v_init": 0.25}).double()
    state = model.rest(3)
    assert [tuple(rows.shape) for rows in state] == [(3, 4, 4, 4), (3, 5, 4, 4)]
    assert all(rows.dtype == torch.float64 and (rows == 0.25).all() for rows in state)


def test_two_rests_share_no_memory():
    model = small()
    first, second = model.rest(1), model.rest(1)
    first[0].fill_(9.0)
    assert (second[0] == 0).all()


def test_a_rest_may_be_written_to_and_a_call_does_not_notice():
    model = small().eval()
    before, state = model(frames()), model.rest(2)
    state[0][1] += 0.25
    assert (state[0][0] == 0).all()
    assert (state[0][1] == 0.25).all()
    assert torch.equal(model(frames()), before)


def test_a_neuron_may_share_one_number_among_all_its_membranes_at_rest():
    neuron = LIF(shape=(3, 4), v_init=0.25)
    shared = neuron.shared_rest(2, dtype=torch.float64)
    assert shared.stride() == (0, 0, 0)
    assert torch.equal(shared, neuron.rest(2, dtype=torch.float64))
    x = torch.rand(5, 2, 3, 4, dtype=torch.float64)
    assert all(
        torch.equal(*pair)
        for pair in zip(neuron(x, shared), neuron(x, shared.clone()), strict=True)
    )


def test_a_network_without_memory_has_no_state():
    assert small(neuron="relu").rest(3) == ()


def test_no_samples_are_a_batch_too():
    model = small().eval()
    logits, state = model.advance(frames(samples=0), model.rest(0))
    assert logits.shape == (6, 0, 3)
    assert all(len(rows) == 0 for rows in state)


def test_a_call_starts_at_rest():
    model = small().eval()
    assert torch.equal(model(frames()), model.advance(frames(), model.rest(2))[0])


def test_a_state_survives_being_saved():
    model, x = small().eval(), frames()
    _, state = model.advance(x[:2], model.rest(2))
    saved = pickle.loads(pickle.dumps(state))
    assert torch.equal(model.advance(x[2:], saved)[0], model.advance(x[2:], state)[0])


def test_gradients_of_a_chunked_pass_are_those_of_the_whole():
    model, x = small().double().eval(), frames().double()

    def slopes(chunks):
        model.zero_grad()
        state, total = model.rest(2), 0
        for chunk in x.split(chunks):
            logits, state = model.advance(chunk, state)
            total = total + logits.square().sum()
        total.backward()
        return [p.grad.clone() for p in model.parameters()]

    for whole, chunked in zip(slopes(6), slopes(2), strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-10, atol=1e-12)


def test_a_detached_state_cuts_the_gradient_and_keeps_the_values():
    model, x = small().double().eval(), frames().double().requires_grad_(True)
    _, state = model.advance(x[:3], model.rest(2))
    kept, _ = model.advance(x[3:], state)
    cut, _ = model.advance(x[3:], tuple(rows.detach() for rows in state))
    assert torch.equal(kept, cut)
    assert torch.autograd.grad(kept.square().sum(), x, retain_graph=True)[0][:3].abs().max() > 0
    assert (torch.autograd.grad(cut.square().sum(), x)[0][:3] == 0).all()


# Carry


def test_stateful_layers_are_those_that_say_how_they_rest():
    assert is_stateful(LIF())
    assert not is_stateful(ReLU())
    names = [name for name, _ in stateful_modules(small())]
    assert names == ["stages.0.0.neuron", "stages.0.1.neuron"]


def test_layers_used_in_the_order_in_which_they_were_made_work():
    model = TwoNeurons(["first", "second"])
    logits, state = model.advance(torch.ones(3, 2, 1, 2, 2), model.rest(2))
    assert logits.shape == (3, 2, 4)
    assert len(state) == 2


@pytest.mark.parametrize(
    "order", [["second", "first"], ["first", "first"], ["first", "second", "first"]], ids=str
)
def test_a_layer_used_out_of_order_or_twice_raises(order):
    model = TwoNeurons(order)
    with pytest.raises(
        RuntimeError,
        match="stateful layers must be used once, in the order in which they were made: LIF",
    ):
        model(torch.ones(3, 2, 1, 2, 2))


@pytest.mark.parametrize(("order", "left"), [([], "first"), (["first"], "second")])
def test_a_layer_that_is_not_used_raises_by_its_name(order, left):
    model = TwoNeurons(order)
    with pytest.raises(RuntimeError, match=f"the model did not use '{left}'"):
        model(torch.ones(3, 2, 1, 2, 2))


def test_carry_hands_each_layer_its_own_part_and_collects_what_comes_back():
    first, second = LIF(shape=(2,)), LIF(shape=(2,))
    before = (torch.tensor([[0.1, 0.2]]), torch.tensor([[0.3, 0.4]]))
    carry = Carry([("a", first), ("b", second)], before)
    x = torch.zeros(1, 1, 2)
    assert torch.equal(carry(ReLU(), x - 1.0), x)  # a layer without memory passes by
    carry(first, x)
    carry(second, x)
    # nothing comes in and nothing fires: each membrane is halved
    for after, rows in zip(carry.done(), before, strict=True):
        torch.testing.assert_close(after, rows / 2)

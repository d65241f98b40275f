"""State that is passed: what rest means, what Carry refuses, and gradients through time. The laws
are in the model contract.
"""

from __future__ import annotations

import pytest
import torch
from little import close_all, frames, in_chunks, same
from little import network as small
from torch import nn

from anystep.nn.models.base import StepModel
from anystep.nn.neurons import LIF


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
    state = small({"name": "lif", "v_init": 0.25}).rest(3)
    assert [tuple(rows.shape) for rows in state] == [(3, 4, 8, 8), (3, 6, 8, 8), (3, 8, 4, 4)]
    assert all(rows.dtype == torch.float64 and (rows == 0.25).all() for rows in state)


def test_a_rest_may_be_written_to_and_neither_another_one_nor_a_call_notices():
    model, x = small().eval(), frames(samples=2)
    before, state, other = model(x), model.rest(2), model.rest(2)
    state[0][1] += 0.25
    assert (state[0][0] == 0).all()
    assert (state[0][1] == 0.25).all()
    assert (other[0] == 0).all()
    same([model(x)], [before])


def test_gradients_of_a_chunked_pass_are_those_of_the_whole():
    model = small().eval()
    losses = [in_chunks(model, frames(), size)[0].square().sum() for size in (6, 2)]
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    close_all(*gradients, 1e-10)


def test_no_samples_are_a_batch_too():
    model = small().eval()
    logits, state = model.advance(frames(samples=0), model.rest(0))
    assert logits.shape == (6, 0, 5)
    assert all(len(rows) == 0 for rows in state)


def test_a_detached_state_cuts_the_gradient_and_keeps_the_values():
    model, x = small().eval(), frames(samples=2).requires_grad_(True)
    _, state = model.advance(x[:3], model.rest(2))
    kept, _ = model.advance(x[3:], state)
    cut, _ = model.advance(x[3:], tuple(rows.detach() for rows in state))
    assert torch.equal(kept, cut)
    assert torch.autograd.grad(kept.square().sum(), x, retain_graph=True)[0][:3].abs().max() > 0
    assert (torch.autograd.grad(cut.square().sum(), x)[0][:3] == 0).all()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["second", "first"], "used once, in the order in which they were made: LIF"),
        (["first", "first"], "used once, in the order in which they were made: LIF"),
        (["first", "second", "first"], "used once, in the order in which they were made: LIF"),
        ([], "the model did not use 'first'"),
        (["first"], "the model did not use 'second'"),
    ],
    ids=str,
)
def test_a_layer_used_out_of_order_or_twice_or_not_at_all_raises(order, message):
    x = torch.ones(3, 2, 1, 2, 2)
    assert TwoNeurons(["first", "second"])(x).shape == (3, 2, 4)
    with pytest.raises(RuntimeError, match=message):
        TwoNeurons(order)(x)

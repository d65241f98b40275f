"""The interface of a method, proven by two that the package does not have: a random prefix and a
scheme of two phases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from contracts import promises
from contracts import test_method_contract as method_contract
from moving_light import recordings, small_model, trained

import anystep
from anystep.training import losses
from anystep.training.fit import start
from anystep.training.methods import METHODS
from anystep.training.phases import Method, Phase

# A random prefix: chance in the views


class RandomPrefix(Method):
    """Each batch is cut to a random number of steps."""

    def __init__(self):
        self.seen = []

    def views(self, x, phase, generator):
        steps = int(torch.randint(1, len(x) + 1, (), generator=generator))
        self.seen.append(steps)
        return {"student": x[:steps]}

    def loss(self, outputs, labels, progress):
        assert len(outputs["student"]) == self.seen[-1]
        return {"ce": losses.ce(outputs["student"], labels)}


def test_a_random_prefix_method_trains_on_the_prefixes_it_draws():
    method = RandomPrefix()
    state = trained(method, data=recordings(96))
    assert len(method.seen) == 6
    assert len(set(method.seen)) > 2
    assert state.epoch == 1


def test_a_random_prefix_is_drawn_anew_each_epoch_and_alike_in_each_run():
    first, second = RandomPrefix(), RandomPrefix()
    states = [trained(method, data=recordings(96), epochs=2) for method in (first, second)]
    assert first.seen == second.seen
    assert first.seen[:6] != first.seen[6:]
    weights = [dict(state.model.state_dict()) for state in states]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# Two phases: an ANN twin on the first half of the recording, then a spiking network started from it
# and taught by it


@dataclass
class TwoPhase(Method):
    """The teacher's logits pull the student's, besides the labels."""

    weight: float = 0.5

    def phases(self):
        first, second = slice(0, 5), slice(5, None)
        ann = Phase(name="ann", neuron="relu", share=0.5, frames=first)
        snn = Phase(
            name="snn",
            start_from="ann",
            teacher="ann",
            share=0.5,
            frames=second,
            teacher_frames=first,
        )
        return ann, snn

    def loss(self, outputs, labels, progress):
        parts = {"ce": losses.ce(outputs["student"], labels)}
        if "teacher" in outputs:
            gap = outputs["student"].mean(0) - outputs["teacher"].mean(0)
            parts["pull"] = self.weight * gap.square().mean()
        return parts


class Watched(TwoPhase):
    """Keeps the views of each phase."""

    def __init__(self):
        super().__init__()
        self.views_of = {"ann": [], "snn": []}

    def views(self, x, phase, generator):
        views = super().views(x, phase, generator)
        self.views_of[phase.name].append(views)
        return views


def both_phases(method, data, *, epochs=2):
    """The two phases by hand, as `run` does them: (ANN, state of the SNN's training)."""
    plan = anystep.Plan(epochs=epochs, batch_size=16, lr=5e-3)
    ann_phase, snn_phase = method.phases()
    ann = small_model("relu")
    anystep.fit(start(ann, plan, phase=ann_phase), data, method=method, plan=plan)
    snn = small_model("lif", seed=1)
    snn.load_state_dict(ann.state_dict())
    state = start(snn, plan, phase=snn_phase, teacher=ann)
    return ann, anystep.fit(state, data, method=method, plan=plan)


def addresses(model):
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


def test_a_two_phase_method_keeps_its_contract(monkeypatch):
    monkeypatch.setitem(METHODS, "two_phase", TwoPhase)
    tests = promises(method_contract)
    assert len(tests) >= 5
    for test in tests.values():
        test("two_phase")


def test_a_teacher_is_a_frozen_copy_that_shares_no_tensor_and_stays_in_eval_mode():
    ann, state = both_phases(TwoPhase(), recordings())
    teacher = state.teacher
    assert not addresses(teacher) & addresses(state.model)
    assert not addresses(teacher) & addresses(ann)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for key, value in ann.state_dict().items():  # norm statistics too: it does not drift
        assert torch.equal(teacher.state_dict()[key], value), key
    for key, value in state.model.named_parameters():
        assert not torch.equal(value, ann.state_dict()[key]), key


def test_each_network_of_a_two_phase_method_sees_its_own_half_of_the_recording():
    method, data = Watched(), recordings()
    both_phases(method, data)
    for views in method.views_of["ann"]:
        assert set(views) == {"student"}
        assert views["student"].shape[:2] == (5, 16)
    for views in method.views_of["snn"]:
        assert views["student"].shape == views["teacher"].shape
        halves = {half.tobytes() for frames, _ in data for half in (frames[:5].astype("float32"),)}
        assert all(sample.numpy().tobytes() in halves for sample in views["teacher"].unbind(1))
        assert not any(sample.numpy().tobytes() in halves for sample in views["student"].unbind(1))

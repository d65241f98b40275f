"""What a newcomer hands to `fit` and `collect`: taken where it is clear, else refused in a line."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from moving_light import equal, recordings, small_model
from torch import nn
from torch.utils.data import DataLoader

from anystep._errors import UsageError
from anystep.data.sets import Splits
from anystep.evaluation.evaluate import collect
from anystep.training import losses
from anystep.training.fit import fit, start
from anystep.training.methods import create_method
from anystep.training.schedule import Plan

PLAN = Plan(epochs=1, batch_size=16, lr=5e-3)


class Foreign(nn.Module):
    """A network of another library: its membrane is an attribute, which somebody must reset."""

    def __init__(self, *, resets: bool) -> None:
        super().__init__()
        self.resets, self.v = resets, torch.zeros(())
        self.linear = nn.Linear(2 * 8 * 8, 2)

    def forward(self, x):
        if self.resets:
            self.v = torch.zeros(())
        steps = []
        for frame in x:
            self.v = self.v / 2 + self.linear(frame.flatten(1))
            steps.append(self.v)
        return torch.stack(steps)


class Mean(Foreign):
    def forward(self, x):
        return super().forward(x).mean(0)


def trained(model=None, data=None, **options):
    state = start(model or small_model(), PLAN)
    given = {"method": "ce", "plan": PLAN, **options}
    return fit(state, data or recordings(), **given).model


def stale():
    model = Foreign(resets=False)
    model(torch.zeros(3, 5, 2, 8, 8))
    return model


@pytest.mark.parametrize("use", [trained, lambda model: collect(model, recordings())])
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (stale, "Foreign cannot take frames .* if it keeps state between calls, reset it where"),
        (
            partial(Foreign, resets=False),
            "Foreign says .* second time: it keeps state .* reset it where",
        ),
        (
            partial(Mean, resets=True),
            r"Mean must give step logits .* = \(10, \d+, C\), got \(\d+, 2\)",
        ),
    ],
    ids=["stale", "keeps state", "no steps"],
)
def test_a_network_of_another_library_is_refused_if_it_keeps_state_or_drops_time(use, make, word):
    with pytest.raises(UsageError, match=word):
        use(make())


def test_a_network_of_another_library_that_resets_itself_is_trained_and_judged():
    model, data, chance = Foreign(resets=True), recordings(), torch.get_rng_state()
    trained(model)
    first, second = (collect(model, data, batch_size=10).logits for _ in range(2))
    assert (first == second).all()
    assert torch.equal(chance, torch.get_rng_state())


def test_a_method_by_its_name_is_that_method():
    named, made = trained(method="tks"), trained(method=create_method("tks"))
    assert equal(named.state_dict(), made.state_dict())


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8])
def test_labels_of_any_whole_number_type_train_alike(kind):
    data = [(frames, torch.tensor(label, dtype=kind)) for frames, label in recordings()]
    assert equal(trained(data=data).state_dict(), trained().state_dict())
    with pytest.raises(UsageError, match=f"labels must be of torch.int64, got {kind}"):
        losses.ce(torch.zeros(2, 3, 4), torch.zeros(3, dtype=kind))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"method": losses.ce}, "method must be a name like 'tks', or what create_method"),
        ({"data": DataLoader(recordings())}, "DataLoader is no map-style data set.* give .dataset"),
        ({"data": Splits([], [], [], (), "", "", True)}, "Splits is no map-style data set"),
        ({"validation": DataLoader([])}, "DataLoader is no map-style data set"),
    ],
)
def test_what_is_no_method_or_data_set_is_refused_in_a_line(given, word):
    with pytest.raises(UsageError, match=word):
        trained(**given)


def test_epochs_are_told_on_a_terminal_or_when_asked(capsys, monkeypatch):
    trained()
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trained()
    assert "train epoch 1 train_loss 0." in capsys.readouterr().err
    trained(on_epoch=lambda state, row: None)
    assert "train epoch 1 train_loss" not in capsys.readouterr().err

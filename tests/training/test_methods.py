"""The methods by their values, and a new loss as docs/add-a-loss.md adds it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from contracts import promises
from contracts import test_loss_contract as loss_contract
from contracts import test_method_contract as method_contract
from moving_light import small_model, trained
from step_logits import random_case

import anystep
from anystep.training import losses
from anystep.training.losses import LOSSES
from anystep.training.methods import TKS, create_method

PAGE = Path(__file__).parents[2] / "docs" / "add-a-loss.md"


# The values of the methods


OPTIONS = {
    "tks": {"alpha": 0.25, "temperature": 3.0, "pool": "mean_all", "detach": True},
    "full_range": {"beta": 0.3, "temperature": 2.0, "pool": "mean_all", "detach": False},
    "tet": {"lamb": 0.25, "phi": 2.0},
}
NAMES = {"tks": ["ce", "tks"], "full_range": ["step_ce", "self"], "tet": ["step_ce", "distance"]}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_parts_of_a_method_and_their_gradients_add_up_to_the_loss_of_its_name(name):
    logits, labels = random_case((5, 6, 4))
    options, ramp = OPTIONS.get(name, {}), {"ramp": "static"} if name == "tks" else {}
    method = create_method(name, **options, **ramp)
    leaf = logits.requires_grad_(True)
    parts = method.loss({"student": leaf}, labels, 0.3)
    assert list(parts) == NAMES.get(name, [name])
    whole = LOSSES[name](leaf, labels, **options)
    torch.testing.assert_close(sum(parts.values()), whole, rtol=1e-13, atol=0)
    slopes = [torch.autograd.grad(value, leaf)[0] for value in (sum(parts.values()), whole)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-16)


def test_tks_says_that_one_epoch_of_it_is_plain_cross_entropy():
    assert "plain cross-entropy" in TKS().remark(1)
    silent = (TKS().remark(2), TKS(ramp="static").remark(1), create_method("ce").remark(1))
    assert silent == ("", "", "")


@pytest.mark.parametrize(
    ("ramp", "expected"), [("linear", [0.0, 0.2, 0.4, 0.6]), ("static", [0.8] * 4)]
)
def test_the_weight_of_tks_over_four_epochs_as_fit_sees_it(ramp, expected, monkeypatch):
    method, seen = TKS(alpha=0.8, temperature=1.0, ramp=ramp), []
    plain = TKS.loss

    def watched(self, outputs, labels, progress):
        parts = plain(self, outputs, labels, progress)
        seen.append(1 - (parts["ce"] / losses.ce(outputs["student"], labels)).item())
        return parts

    monkeypatch.setattr(TKS, "loss", watched)
    trained(method, epochs=4)
    # two updates an epoch; the last epoch reaches alpha (E - 1) / E and not alpha
    np.testing.assert_allclose(seen, np.repeat(expected, 2), atol=1e-6)


# A new loss: what docs/add-a-loss.md promises


def of_the_page(place):
    """The function `last_step` of docs/add-a-loss.md, as it stands there below the line `place`."""
    pattern = rf"```python\n# {re.escape(place)}\n+(def last_step.*?)```"
    code = re.search(pattern, PAGE.read_text(), re.DOTALL)
    space = {**vars(losses), **vars(oracles)}
    exec(code[1], space)
    return space["last_step"]


def last_step():
    return of_the_page("anystep/training/losses.py, above LOSSES")


def needy(logits, labels, *, alpha: float, pool: str = "whatever"):
    """A loss with a required option.

        (1 + alpha) mean_n CE(o_1, y)

    logits (T, N, C), labels (N,) -> scalar. Mean over N.
    """
    losses.check_step_logits(logits, labels)
    return (1 + alpha) * F.cross_entropy(logits[0], labels)


@pytest.mark.parametrize("contract", [loss_contract, method_contract], ids=["loss", "method"])
@pytest.mark.parametrize(
    ("function", "equation"),
    [
        (last_step(), of_the_page("tests/oracles.py, at the end")),
        (needy, lambda logits, labels: 1.5 * oracles.smoothed_ce(logits[:1], labels)),
    ],
    ids=["last_step", "needy"],
)
def test_a_new_row_of_losses_is_tested_by_the_contracts_without_a_new_test(
    contract, function, equation, monkeypatch
):
    monkeypatch.setitem(LOSSES, "newcomer", function)
    monkeypatch.setitem(loss_contract.EQUATIONS, "newcomer", equation)
    tests = promises(contract)
    assert len(tests) >= 5
    for test in tests.values():
        test("newcomer")


def first_alone(logits, labels):
    return losses.ce(logits[:, :1], labels[:1])


BROKEN = {
    "test_a_batch_shown_twice_changes_nothing": lambda o, y: len(y) * losses.ce(o, y),
    "test_the_order_of_the_batch_is_irrelevant": lambda o, y: first_alone(o, y) + losses.ce(o, y),
    "test_the_gradient_of_every_sample_flows": first_alone,
    "test_a_label_that_is_no_class_is_refused_by_name": lambda o, y: F.cross_entropy(o.mean(0), y),
    "test_the_gradient_is_that_of_the_value": lambda o, y: losses.ce(2 * o.detach() - o, y),
    "test_a_loss_keeps_the_dtype_and_single_agrees_with_double": (
        lambda o, y: losses.ce(o.double(), y)
    ),
    "test_a_loss_is_pure": lambda o, y: losses.ce(o, y) + 0 * o.data.add_(1).sum(),
    "test_a_loss_is_a_finite_scalar_with_a_finite_gradient": (
        lambda o, y: F.nll_loss(o.mean(0).softmax(-1).log(), y)
    ),
    "test_a_loss_is_its_equation": lambda o, y: (
        0.5 * losses.tks_soft(o, losses.tks_teacher(o, y, temperature=0.5), temperature=0.5) / 0.5
        + 0.5 * losses.ce(o, y)
    ),  # temperature, not temperature squared
    "test_a_loss_falls_when_the_logit_of_the_label_grows": lambda o, y: -losses.ce(o, y),
}


@pytest.mark.parametrize("finding", BROKEN)
def test_the_contract_finds_a_broken_row(finding, monkeypatch):
    monkeypatch.setitem(LOSSES, "newcomer", BROKEN[finding])
    monkeypatch.setitem(loss_contract.EQUATIONS, "newcomer", loss_contract.EQUATIONS["tks"])
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        promises(loss_contract)[finding]("newcomer")


def test_a_new_row_of_losses_is_a_method_and_trains(monkeypatch):
    monkeypatch.setitem(LOSSES, "last_step", last_step())
    method = anystep.create_method("last_step", weight=0.5)
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = trained(method, model=model)
    assert list(state.history[0]["parts"]) == ["last_step"]
    assert all(not torch.equal(value, before[key]) for key, value in model.named_parameters())
    with pytest.raises(ValueError, match="weight must be >= 0, got -1"):
        anystep.create_method("last_step", weight=-1.0)

"""The methods by their values, what they refuse, and a new loss as docs/add-a-loss.md adds it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import promises
from contracts import test_loss_contract as loss_contract
from contracts import test_method_contract as method_contract
from moving_light import small_model, trained

import anystep
from anystep.training import losses
from anystep.training.losses import LOSSES
from anystep.training.methods import TKS, create_method

DOCS = Path(__file__).parents[2] / "docs"


def random_case(*, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (6,), generator=generator)
    logits = 1.5 * torch.randn(5, 6, 4, generator=generator, dtype=torch.float64)
    return logits + 2.0 * torch.nn.functional.one_hot(labels, 4), labels


# The values of the methods


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_parts_of_a_loss_add_up_to_it(name):
    logits, labels = random_case()
    options = {"alpha": 0.25, "temperature": 3.0} if name == "tks" else {}
    method = create_method(name, **options, **({"ramp": "static"} if name == "tks" else {}))
    parts = method.loss({"student": logits}, labels, 0.3)
    torch.testing.assert_close(
        sum(parts.values()), LOSSES[name](logits, labels, **options), rtol=1e-13, atol=0
    )


def test_the_parts_of_tet_are_its_two_terms():
    logits, labels = random_case(seed=1)
    parts = create_method("tet", lamb=0.25, phi=2.0).loss({"student": logits}, labels, 0.0)
    assert list(parts) == ["step_ce", "distance"]
    torch.testing.assert_close(parts["distance"], 0.25 * ((logits - 2.0) ** 2).mean())
    torch.testing.assert_close(sum(parts.values()), losses.tet(logits, labels, lamb=0.25, phi=2.0))


@pytest.mark.parametrize("pool", ["sum_correct", "mean_correct", "mean_all"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_the_parts_of_tks_and_their_gradients_are_those_of_the_loss_at_the_weight_of_the_epoch(
    pool, detach, epoch
):
    logits, labels = random_case(seed=2)
    method = create_method("tks", alpha=0.3, temperature=5.0, pool=pool, detach=detach)
    leaf = logits.requires_grad_(True)
    parts = method.loss({"student": leaf}, labels, epoch / 8)
    assert list(parts) == ["ce", "tks"]
    # a_e = alpha e / E, so that the last of 8 epochs has 7/8 of alpha
    whole = losses.tks(
        leaf, labels, alpha=0.3 * epoch / 8, temperature=5.0, pool=pool, detach=detach
    )
    torch.testing.assert_close(sum(parts.values()), whole, rtol=1e-13, atol=0)
    slopes = [torch.autograd.grad(value, leaf)[0] for value in (sum(parts.values()), whole)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-16)


def test_the_first_epoch_of_tks_is_plain_cross_entropy():
    logits, labels = random_case(seed=3)
    parts = TKS().loss({"student": logits}, labels, 0.0)
    assert parts["tks"] == 0
    assert torch.equal(sum(parts.values()), losses.ce(logits, labels))


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


# Bad input


# A new loss: what docs/add-a-loss.md promises


def last_step():
    """The function of docs/add-a-loss.md, as it stands there."""
    code = re.search(
        r"```python\n(def last_step.*?)```", (DOCS / "add-a-loss.md").read_text(), re.DOTALL
    )
    assert code is not None
    space = {**vars(losses)}
    exec(code[1], space)
    return space["last_step"]


def needy(logits, labels, *, alpha: float, pool: str = "whatever"):
    """A loss with a required option.

        (1 + alpha) mean_n CE(o_1, y)

    logits (T, N, C), labels (N,) -> scalar. Mean over N.
    """
    losses.check_step_logits(logits, labels)
    return (1 + alpha) * torch.nn.functional.cross_entropy(logits[0], labels)


@pytest.mark.parametrize("contract", [loss_contract, method_contract], ids=["loss", "method"])
@pytest.mark.parametrize("function", [last_step(), needy], ids=["last_step", "needy"])
def test_a_new_row_of_losses_is_tested_by_the_contracts_without_a_new_test(
    contract, function, monkeypatch
):
    monkeypatch.setitem(LOSSES, "newcomer", function)
    tests = promises(contract)
    assert len(tests) >= 5
    for test in tests.values():
        test("newcomer")


BROKEN = {
    "test_a_batch_shown_twice_changes_nothing": lambda o, y: len(y) * losses.ce(o, y),
    "test_the_order_of_the_batch_is_irrelevant": lambda o, y: (
        losses.ce(o[:, :1], y[:1]) + losses.ce(o, y)
    ),
    "test_the_gradient_of_every_sample_flows": lambda o, y: (
        losses.ce(o[:, :1], y[:1]) + 0 * losses.ce(o, y)
    ),
    "test_a_label_that_is_no_class_is_refused_by_name": lambda o, y: (
        torch.nn.functional.cross_entropy(o.mean(0), y)
    ),
    "test_the_gradient_is_that_of_the_value": lambda o, y: losses.ce(2 * o.detach() - o, y),
    "test_a_loss_keeps_the_dtype_and_single_agrees_with_double": lambda o, y: losses.ce(
        o.double(), y
    ),
    "test_a_loss_is_pure": lambda o, y: losses.ce(o, y) + 0 * o.data.add_(1).sum(),
    "test_a_loss_is_a_finite_scalar_with_a_finite_gradient": lambda o, y: (
        -o.softmax(-1).log().mean() + 0 * losses.ce(o, y)
    ),
}


@pytest.mark.parametrize("finding", BROKEN)
def test_the_contract_finds_a_broken_row(finding, monkeypatch):
    monkeypatch.setitem(LOSSES, "newcomer", BROKEN[finding])
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        promises(loss_contract)[finding]("newcomer")


def test_a_new_row_of_losses_is_a_method_and_trains(monkeypatch):
    monkeypatch.setitem(anystep.training.losses.LOSSES, "last_step", last_step())
    method = anystep.create_method("last_step", weight=0.5)
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = trained(method, model=model)
    assert list(state.history[0]["parts"]) == ["last_step"]
    assert all(not torch.equal(value, before[key]) for key, value in model.named_parameters())
    with pytest.raises(ValueError, match="weight must be > 0, got -1"):
        anystep.create_method("last_step", weight=-1.0)

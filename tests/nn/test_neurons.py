"""Neurons: whole sequences against a slow loop over floats, and published equivalences."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from anystep.nn.kernels import Rule
from anystep.nn.neurons import BACKENDS, IF, LIF, PLIF, scan_for
from anystep.nn.surrogate import SURROGATES

# the slopes at their default parameters, written again from the papers' equations
SLOPES = {
    "quadratic_gate": lambda u: max(0.0, 2 - 4 * abs(u)),
    "triangle": lambda u: max(0.0, 1 - abs(u)),
    "rectangle": lambda u: 1.0 if abs(u) < 0.5 else 0.0,
    "arctan": lambda u: 1 / (1 + (math.pi * u) ** 2),
    "sigmoid": lambda u: 1 / math.cosh(2 * u) ** 2,
}


def slow_sequence(xs, v, decay, gain, rule):
    """One neuron, floats only: [(v before, h, s)] of every step, and the last membrane."""
    steps = []
    for x in xs:
        h = decay * v + gain * x
        at = rule.fire_at_threshold and h == rule.v_threshold
        s = 1.0 if h > rule.v_threshold or at else 0.0
        steps.append((v, h, s))
        after_spike = h - rule.v_threshold if rule.v_reset is None else rule.v_reset
        v = after_spike if s else h
    return steps, v


def slow_gradients(xs, steps, d_spikes, d_last, decay, gain, rule, slope):
    """Back-propagation through time by hand: gradients of x, v0, decay and gain."""
    d_xs, d_v, d_decay, d_gain = [0.0] * len(xs), d_last, 0.0, 0.0
    for t in reversed(range(len(xs))):
        before, h, s = steps[t]
        dv_ds = -rule.v_threshold if rule.v_reset is None else rule.v_reset - h
        dv_dh = 1.0 if rule.v_reset is None else 1.0 - s
        d_s = d_spikes[t] + (0.0 if rule.detach_reset else d_v * dv_ds)
        d_h = d_s * slope(h - rule.v_threshold) + d_v * dv_dh
        d_xs[t], d_v = gain * d_h, decay * d_h
        d_decay += d_h * before
        d_gain += d_h * xs[t]
    return d_xs, d_v, d_decay, d_gain


RULES = [
    Rule(SURROGATES[name](), 0.5, v_reset, detach, at)
    for name, v_reset, detach, at in [
        ("quadratic_gate", 0.0, True, False),
        ("quadratic_gate", -0.1, False, True),
        ("triangle", 0.0, False, False),
        ("triangle", None, True, False),
        ("rectangle", None, False, True),
        ("arctan", -0.1, True, False),
        ("arctan", None, False, False),
        ("sigmoid", 0.0, False, False),
    ]
]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "triton"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.surrogate))
def test_a_scan_and_its_gradients_equal_a_slow_loop_over_floats(rule, backend):
    rng = random.Random(0)
    steps, size, decay, gain = 7, 11, 0.75, 0.5
    drawn = [rng.choice([1.0, rng.gauss(0.5, 1)]) for _ in range(3 * steps * size)]
    x, d_spikes, (v, d_last, *_) = torch.tensor(drawn).double().view(3, steps, size)
    x, v = x.clone().requires_grad_(), v.clone().requires_grad_()
    coefficients = [torch.tensor(each).double().requires_grad_() for each in (decay, gain)]
    spikes, last = scan_for(backend, x, *coefficients, rule)(x, v, *coefficients, rule)
    d_x, d_v, *d_coefficients = torch.autograd.grad(
        [spikes, last], [x, v, *coefficients], [d_spikes, d_last]
    )

    slope = SLOPES[next(name for name, kind in SURROGATES.items() if kind is type(rule.surrogate))]
    sums = [0.0, 0.0]
    for i in range(size):
        xs = x[:, i].tolist()
        trace, end = slow_sequence(xs, v[i].item(), decay, gain, rule)
        e_x, e_v, e_decay, e_gain = slow_gradients(
            xs, trace, d_spikes[:, i].tolist(), d_last[i].item(), decay, gain, rule, slope
        )
        assert spikes[:, i].tolist() == [s for _, _, s in trace]
        assert last[i].item() == pytest.approx(end, rel=1e-12)
        assert d_x[:, i].tolist() == pytest.approx(e_x, rel=1e-10, abs=1e-12)
        assert d_v[i].item() == pytest.approx(e_v, rel=1e-10, abs=1e-12)
        sums = [sums[0] + e_decay, sums[1] + e_gain]
    assert [d.item() for d in d_coefficients] == pytest.approx(sums, rel=1e-10)
    assert 0 < spikes.sum() < spikes.numel()  # the draw exercises both branches


def current(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator) + 0.5


def spikes_and_gradient(neuron, x, v):
    x = x.clone().requires_grad_()
    spikes, last = neuron(x, v)
    weights = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)
    return spikes.detach(), last.detach(), torch.autograd.grad((spikes * weights).sum(), x)[0]


@pytest.mark.parametrize("detach", [True, False])
def test_the_neurons_of_tks_and_tet_are_one_neuron_in_two_units(detach):
    x, v = current(20, 4, 50), current(4, 50, seed=1).clamp(0, 0.4)
    tks = LIF(detach_reset=detach)
    tet = LIF(v_threshold=1.0, surrogate="triangle", decay_input=False, detach_reset=detach)
    s_tks, v_tks, g_tks = spikes_and_gradient(tks, x, v)
    s_tet, u_tet, g_tet = spikes_and_gradient(tet, x, 2 * v)
    assert torch.equal(s_tks, s_tet)
    assert torch.allclose(2 * v_tks, u_tet, rtol=0, atol=1e-12)
    assert torch.allclose(g_tks, g_tet, rtol=0, atol=1e-12)
    assert 0.1 < s_tks.mean() < 0.9
    if detach:  # as published: TKS detaches the reset, TET does not
        tet.rule = replace(tet.rule, detach_reset=False)
        s_tet, _, g_tet = spikes_and_gradient(tet, x, 2 * v)
        assert torch.equal(s_tks, s_tet)
        assert (g_tks - g_tet).abs().max() > 0.1


def test_an_lif_that_never_leaks_and_an_if_agree():
    x = current(9, 3, 4)
    assert torch.equal(LIF(tau=1e30, decay_input=False)(x)[0], IF()(x)[0])


def test_a_plif_starts_as_the_lif_of_its_tau_and_learns_it():
    x = current(9, 3, 4)
    plif, lif = PLIF(tau=4.0).double(), LIF(tau=4.0)
    assert plif.w.item() == pytest.approx(-math.log(3))
    assert torch.equal(plif(x)[0], lif(x)[0])
    plif(x)[0].sum().backward()
    assert plif.w.grad.abs() > 0
    assert list(dict(plif.named_parameters())) == ["w"]


def test_a_neuron_starts_at_v_init_and_rests_there_if_it_knows_its_shape():
    neuron = LIF(v_init=0.25, v_threshold=10.0, shape=(2,))
    x = torch.zeros(1, 3, 2)
    assert neuron(x)[1].tolist() == [[0.125, 0.125]] * 3  # 0.5 * 0.25
    for rest in (neuron.rest(3), neuron.shared_rest(3)):
        assert torch.equal(neuron(x)[1], neuron(x, rest)[1])
    assert neuron.rest(4, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(ValueError, match=r"LIF: rest\(n\) needs shape"):
        LIF().rest(4)

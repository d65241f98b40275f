"""What every row of NEURONS promises. A new neuron adds one line to `BY_HAND`; one whose charge and
fire are not h = decay v + gain x, s = 1[h > threshold] adds its steps to `OTHER_STEPS` instead.
"""

from __future__ import annotations

import pytest
import torch

from anystep.nn.neurons import NEURONS
from anystep.nn.surrogate import SURROGATES

RESETS = {"hard to 0": 0.0, "hard to -0.1": -0.1, "soft": None}

# v, x -> h of one step at tau = 2; the threshold is 0.5, that of the converted neuron 1
BY_HAND = {
    "if": [(0.1, 0.5, 0.6), (0.1, 0.3, 0.4)],  # v + x
    "lif": [(0.4, 0.8, 0.6), (0.2, 0.4, 0.3)],  # v / 2 + x / 2
    "plif": [(0.4, 0.8, 0.6), (0.2, 0.4, 0.3)],  # sigmoid(w) = 1 / tau = 1 / 2
    "qcfs_if": [(0.4, 6.4, 1.2), (0.2, 1.6, 0.4)],  # v + x / clip, clip = 8
}
# state, x -> spike, state of one step of a row, with its defaults
OTHER_STEPS: dict[str, list[tuple[list[float], float, float, list[float]]]] = {}
HEIGHTS = {"qcfs_if": 8.0}  # of a spike, where it is not 1: the converted neuron's is its clip


@pytest.fixture(params=NEURONS)
def name(request):
    return request.param


@pytest.fixture(params=["reference", "auto"])
def backend(request):
    return request.param


@pytest.fixture(params=RESETS.values(), ids=RESETS)
def v_reset(request):
    return request.param


def state_of(neuron, *shape, seed=1):
    """Any state of `shape` (N, ...) of a step."""
    return current(*neuron._state_shape(shape), seed=seed)


def current(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.5


def test_a_call_leaves_nothing_behind(name, v_reset, backend):
    neuron = NEURONS[name](v_reset=v_reset, backend=backend)
    x, v = current(5, 2, 3), state_of(neuron, 2, 3)
    before = [each.clone() for each in (x, v, *neuron.state_dict().values())]
    assert all(torch.equal(*pair) for pair in zip(neuron(x, v), neuron(x, v), strict=True))
    after = (x, v, *neuron.state_dict().values())
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_spikes_and_states_have_the_shapes_of_a_step(name, backend):
    for shape in [(3,), (4, 3, 5)]:
        neuron = NEURONS[name](backend=backend, shape=shape)
        spikes, v = neuron(current(5, 2, *shape))
        assert spikes.shape == (5, 2, *shape)
        assert v.shape == neuron.rest(2).shape == neuron._state_shape((2, *shape))


def test_a_spike_is_0_or_as_high_as_the_neuron_says(name, v_reset, backend):
    neuron = NEURONS[name](v_reset=v_reset, backend=backend)
    assert neuron(4 * current(6, 5, 7))[0].unique().tolist() == [0.0, HEIGHTS.get(name, 1.0)]
    assert float(neuron.spike_height) == HEIGHTS.get(name, 1.0)
    spikes, v = neuron(torch.zeros(6, 2, 3))  # no input from rest stays at rest
    assert not spikes.any()
    assert (v == neuron.v_init).all()


def test_a_spike_depends_on_the_past_alone(name, backend):
    neuron = NEURONS[name](backend=backend)
    x = current(8, 2, 3)
    changed = x.clone()
    changed[5:] = current(3, 2, 3, seed=9)
    assert torch.equal(neuron(x)[0][:5], neuron(changed)[0][:5])
    x.requires_grad_()
    neuron(x)[0][4].sum().backward()
    assert not x.grad[5:].any()
    assert x.grad[:5].any()


def test_one_step_is_the_step_by_hand(name, v_reset, backend):
    neuron = NEURONS[name](v_reset=v_reset, backend=backend).double()
    for before, x, spike, after in OTHER_STEPS.get(name, []):
        given = torch.tensor([before], dtype=torch.float64)
        spikes, v = NEURONS[name]().double()(torch.full((1, 1), x, dtype=torch.float64), given)
        assert (spikes.item(), v[0].tolist()) == (spike, pytest.approx(after, abs=1e-12))
    assert name in {*BY_HAND, *OTHER_STEPS}, "add a step by hand"
    for v, x, h in BY_HAND.get(name, []):
        current, before = torch.tensor([[x], [v]], dtype=torch.float64)
        spikes, after = neuron(current[None], before)
        fired = h > neuron.v_threshold
        reset = h - neuron.v_threshold if v_reset is None else v_reset  # soft: 0.6 - 0.5 = 0.1
        assert spikes.item() == fired * HEIGHTS.get(name, 1.0)
        assert after.item() == pytest.approx(reset if fired else h, abs=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_gradient_of_one_step_is_the_slope_times_the_gain(name, surrogate, backend):
    neuron = NEURONS[name](surrogate=surrogate, backend=backend).double()
    x = torch.linspace(-2, 3, 51, dtype=torch.float64)[None].requires_grad_()
    gradient = torch.autograd.grad(neuron(x)[0].sum(), x)[0]
    gain = torch.as_tensor(neuron.coefficients()[1]).item()
    # nothing leaks: a LIF starts at 0
    overshoot = (neuron.v_init + gain * x - neuron.v_threshold).detach()
    expected = HEIGHTS.get(name, 1.0) * gain * neuron.rule.surrogate.slope(overshoot)
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_dtype_is_kept(name, dtype):
    neuron = NEURONS[name]().to(dtype)
    x = current(4, 2, 3).to(dtype).requires_grad_()
    spikes, v = neuron(x)
    (spikes.sum() + v.sum()).backward()
    assert spikes.dtype == v.dtype == x.grad.dtype == dtype


def test_at_threshold_fires_only_where_asked(name):
    for at_threshold in (False, True):
        neuron = NEURONS[name](fire_at_threshold=at_threshold).double()
        v = torch.zeros(neuron._state_shape((1,)), dtype=torch.float64)
        gain = torch.as_tensor(neuron.coefficients()[1]).detach().double()
        x = (neuron.v_threshold / gain).reshape(1, 1)  # h is the threshold itself
        assert bool(neuron(x, v)[0]) == at_threshold


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1, 1], [3, 4], [6, 1]], ids=str)
def test_a_sequence_in_chunks_is_the_sequence(name, v_reset, cuts, backend):
    neuron = NEURONS[name](v_reset=v_reset, backend=backend)
    x, v, parts = current(7, 2, 3), None, []
    for chunk in x.split(cuts):
        spikes, v = neuron(chunk, v)
        parts.append(spikes)
    whole, last = neuron(x)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(v, last)


def test_samples_do_not_see_each_other(name):
    neuron = NEURONS[name]()
    x, v = current(5, 4, 3), state_of(neuron, 4, 3)
    order = [2, 0, 3]
    some, whole = neuron(x[:, order], v[order]), neuron(x, v)
    assert torch.equal(some[0], whole[0][:, order])
    assert torch.equal(some[1], whole[1][order])


def test_the_membrane_can_be_changed_in_place_between_calls(name, backend):
    neuron = NEURONS[name](backend=backend, shape=(3,))
    x = current(3, 2, 3).requires_grad_()
    _, v = neuron(x, neuron.rest(2))
    v[1] = 0  # a stream starts over
    neuron(x, v)[0].sum().backward()
    assert x.grad.any()


def test_it_compiles_in_one_graph_exports_and_gives_the_same(name):
    neuron = NEURONS[name]()
    x, v = current(3, 2, 3).requires_grad_(), state_of(neuron, 2, 3)
    torch.compiler.reset()
    compiled = torch.compile(neuron, backend="aot_eager", fullgraph=True)
    exported = torch.export.export(neuron, (x.detach(), v)).module()
    (spikes, last), (mine, after) = neuron(x, v), compiled(x, v)
    assert torch.equal(spikes, mine)
    assert torch.equal(last, after)
    sums = (each[0].sum() + each[1].sum() for each in ((spikes, last), (mine, after)))
    gradients = [torch.autograd.grad(each, x)[0] for each in sums]
    assert torch.allclose(*gradients, rtol=1e-5)
    assert torch.equal(exported(x.detach() + 1, v)[0], neuron(x.detach() + 1, v)[0])


@pytest.mark.parametrize(
    ("x", "v", "message"),
    [
        (torch.zeros(3), None, "x must be (T, N, ...) with T >= 1, got (3,)"),
        (torch.zeros(0, 2), None, "x must be (T, N, ...) with T >= 1, got (0, 2)"),
        (torch.zeros(3, 2, dtype=torch.int64), None, "x must be floating point, got torch.int64"),
        (torch.zeros(3, 2), torch.zeros(1), "torch.float32, like a step of x, got (1,)"),
        (torch.zeros(3, 2), torch.zeros(2).double(), "got (2,) torch.float64"),
    ],
)
def test_a_wrong_input_or_state_is_refused_by_name(name, x, v, message):
    with pytest.raises(ValueError, match=r".") as error:
        NEURONS[name]()(x, v)
    assert message in str(error.value)
    assert str(error.value).startswith(NEURONS[name].__name__)

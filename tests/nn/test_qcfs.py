"""QCFS and the neuron it becomes: gradients, rates, and where a spike's worth goes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from little import close, frames, same
from little import network as made

from anystep.nn.activations import QCFS
from anystep.nn.fuse import fold_scales_, fuse_model
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import BACKENDS, IF, ClippedIF

FOLDED = {"name": "qcfs_if", "scale": "folded"}
every_gradient = pytest.mark.parametrize("gradient", ["floor_first", "clip_first"])


@pytest.fixture(scope="module", params=[name for name in BACKENDS if name != "triton"])
def backend(request):
    return request.param


def straight_through(x, clip, levels, gradient):
    """The activation in plain operations, as both codes write it, as torch was then."""

    def floor(y):
        return y + (torch.floor(y) - y).detach()

    def clamp(y):  # its gradient at the bounds is 1: of torch.clamp, 1 up to 2.13 and 0 in 2.15
        return torch.where((y >= 0) & (y <= 1), y, y.detach().clamp(0, 1))

    share = x / clip
    if gradient == "clip_first":
        return clip * floor(levels * clamp(share) + 0.5) / levels
    return clip * clamp(floor(levels * share + 0.5) / levels)


def network(neuron, *, clips=(0.75, 1.5, 3.0), **options):
    """A network in eval mode whose norms have seen data and whose clips differ, if it has any."""
    model = made(neuron, **options)
    layers = [layer for layer in model.modules() if hasattr(layer, "clip")]
    with torch.no_grad():
        for layer, clip in zip(layers, clips, strict=False):
            layer.clip.fill_(clip)
        for seed in range(3):
            model(frames(5, seed=seed))
    return model.eval()


@pytest.mark.parametrize(
    ("gradient", "x", "y", "d_x", "d_clip"),
    [  # 4 levels of 2: the floor of 4 x / 8 + 1/2; d_clip is y / 8, less x / 8 where d_x is 1
        ("floor_first", -1.1, 0, 0, 0),  # the floor is -1: clipped
        ("floor_first", -1.0, 0, 1, 0.125),
        ("floor_first", 2.5, 2, 1, 0.25 - 0.3125),
        ("floor_first", 3.0, 4, 1, 0.5 - 0.375),
        ("floor_first", 8.9, 8, 1, 1 - 8.9 / 8),
        ("floor_first", 9.0, 8, 0, 1),  # the floor is 5 of 4
        ("clip_first", -0.1, 0, 0, 0),
        ("clip_first", 0.0, 0, 1, 0),
        ("clip_first", 2.5, 2, 1, 0.25 - 0.3125),
        ("clip_first", 8.0, 8, 1, 0),
        ("clip_first", 8.1, 8, 0, 1),
    ],
)
def test_values_and_gradients_by_hand(gradient, x, y, d_x, d_clip):
    layer = QCFS(gradient=gradient).double()
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    said = layer(at)
    said.backward()
    assert (said.item(), at.grad.item()) == (y, d_x)
    assert layer.clip.grad.item() == pytest.approx(d_clip, abs=1e-12)


@every_gradient
@pytest.mark.parametrize("levels", [1, 4, 16])
@pytest.mark.parametrize("clip", [8.0, 0.3])
def test_values_and_gradients_are_those_of_plain_operations(gradient, levels, clip):
    layer = QCFS(clip_init=clip, levels=levels, gradient=gradient).double()
    generator = torch.Generator().manual_seed(0)
    x = clip * (3 * torch.rand(4, 5, 7, generator=generator, dtype=torch.float64) - 1)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    other_clip = layer.clip.detach().clone().requires_grad_()
    y, expected = layer(x), straight_through(other, other_clip, levels, gradient)
    close(y, expected)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    close(x.grad, other.grad)
    close(layer.clip.grad, other_clip.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_x_is_kept_and_the_clip_learns_in_its_own(dtype):
    layer, x = QCFS(), torch.linspace(-1, 9, 50).to(dtype).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert layer.clip.grad.dtype == torch.float32
    assert layer.clip.grad.any()


@pytest.mark.parametrize("fire_at_threshold", [False, True])
@given(
    levels=st.integers(1, 16),
    clip=st.floats(0.05, 50),
    shares=st.lists(st.floats(-2, 3), min_size=1, max_size=20),
)
def test_it_is_the_rate_of_its_neuron_in_as_many_steps_as_it_has_levels(
    backend, fire_at_threshold, levels, clip, shares
):
    """For any constant input, outside [0, clip] too, away from the ties."""
    ties = [levels * share + 0.5 for share in shares]
    apart = [share for share, tie in zip(shares, ties, strict=True) if abs(tie - round(tie)) > 1e-9]
    x = clip * torch.tensor(apart, dtype=torch.float64)
    neuron = ClippedIF(backend=backend, fire_at_threshold=fire_at_threshold).double()
    twin = QCFS(levels=levels).double()
    for layer in (neuron, twin):
        layer.clip.data.fill_(clip)  # in float64
    output, _ = neuron(x.expand(levels, 1, len(x)))
    torch.testing.assert_close(output.mean(0)[0], twin(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_on_exact_ties_only_a_neuron_that_fires_at_the_threshold_has_its_rate(levels):
    # all these numbers are exact
    x = (torch.arange(1, levels + 1, dtype=torch.float64) - 0.5) * 8 / levels
    neurons = (ClippedIF(fire_at_threshold=fires).double() for fires in (False, True))
    strict, at = (neuron(x.expand(levels, 1, levels))[0].mean(0)[0] for neuron in neurons)
    assert torch.equal(at, QCFS(levels=levels).double()(x))
    assert torch.equal(at - strict, torch.full_like(x, 8 / levels))  # one spike fewer, at each


def test_it_is_the_textbook_neuron_in_units_of_the_clip(backend):
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(9, 4, 50, dtype=torch.float64, generator=generator) + 2
    neuron = ClippedIF(clip_init=4.0, backend=backend).double()
    textbook = IF(v_threshold=4.0, v_init=2.0, v_reset=None)
    spikes, v = neuron(x)
    expected, u = textbook(x)
    assert torch.equal(spikes, 4 * expected)
    close(4 * v, u)
    assert 0.1 < expected.mean() < 0.9


def test_the_clip_of_the_neuron_is_a_buffer_that_takes_the_value_of_its_twin():
    neuron = ClippedIF()
    neuron.load_state_dict(QCFS(clip_init=2.5).state_dict())
    assert neuron.clip.item() == 2.5
    assert not neuron.folded
    neuron(torch.rand(4, 3, 2, requires_grad=True))[0].sum().backward()
    assert neuron.clip.grad is None


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_that_training_drove_to_0_is_refused_where_it_is_converted(clip):
    twin, snn = made("qcfs"), made("qcfs_if")
    twin.stages[1][0].neuron.clip.data.fill_(clip)
    with pytest.raises(ValueError, match=rf"stages.1.0.neuron.clip must be > 0, got {clip}"):
        snn.load_state_dict(twin.state_dict())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("conv_bias", [False, True])
def test_a_network_with_its_scales_folded_says_what_it_said(training, conv_bias):
    model, folded = (network(kind, conv_bias=conv_bias) for kind in ("qcfs_if", FOLDED))
    folded.load_state_dict(model.state_dict())
    names = [f"stages.{place}.neuron" for place in ("0.0", "0.1", "1.0")]
    assert fold_scales_(folded) == names
    x = frames(5, seed=9)
    close(folded.train(training)(x), model.train(training)(x), 1e-11)
    clips = {"stages.0.1.conv.weight": 0.75, "stages.1.0.conv.weight": 1.5}
    clips["classifier.weight"] = 3.0
    for key, value in model.state_dict().items():
        if not key.endswith("folded"):
            close(folded.state_dict()[key], clips.get(key, 1) * value, 1e-11)
    assert all(folded.get_submodule(name).folded for name in names)


def test_without_the_fold_a_norm_in_training_hides_the_lost_factor_and_carried_statistics_do_not():
    model, lost = network("qcfs_if", clips=(8.0, 8.0, 1.0)), network(FOLDED)
    lost.load_state_dict(model.state_dict())
    x = frames(5, seed=9)
    for module in (*model.modules(), *lost.modules()):
        module.eps = 1e-30  # of the norms
    assert (lost(x) - model(x)).abs().max() > 0.01
    close(lost.train()(x), model.train()(x), 1e-9)


def test_a_clip_is_folded_once_also_after_the_weights_were_saved_and_loaded():
    model, again, plain = network(FOLDED), network(FOLDED), network("qcfs_if")
    fold_scales_(model)
    kept = copy.deepcopy(model.state_dict())
    again.load_state_dict(kept)
    for each in (model, again):
        assert fold_scales_(each) == []
        same(each.state_dict().values(), kept.values())
    with pytest.raises(ValueError, match=r"after 'stages.0.0.neuron' hold its clip: make it with"):
        plain.load_state_dict(kept)
    twin = network("qcfs")  # its weights hold no clip, and are folded again
    model.load_state_dict(twin.state_dict())
    assert len(fold_scales_(model)) == 3
    close(model.classifier.weight, 3 * twin.classifier.weight)


def test_nothing_is_changed_where_one_clip_cannot_be_folded(monkeypatch):
    model = network(FOLDED)
    pairs, weight = model.weighted_after(), model.stages[0][1].conv.weight.clone()
    wrong = {
        "VGGSNN does not say which weights alone see": StepModel.weighted_after,
        "leaves out the weights after 'stages.1.0.neuron'": lambda self: pairs[:2],
        "sees the spikes of several": lambda self: [*pairs, ("stages.0.0.neuron", "classifier")],
    }
    for message, answer in wrong.items():
        monkeypatch.setattr(type(model), "weighted_after", answer)
        with pytest.raises(ValueError, match=message):
            fold_scales_(model)
    monkeypatch.setattr(type(model), "weighted_after", lambda self: pairs)
    model.stages[1][0].neuron.clip.fill_(0.0)
    with pytest.raises(ValueError, match=r"stages.1.0.neuron.clip must be > 0, got 0.0"):
        fold_scales_(model)
    assert torch.equal(model.stages[0][1].conv.weight, weight)


def test_a_fused_chain_has_its_scales_folded_and_the_original_keeps_its_own(monkeypatch):
    def scales(network):
        return {layer.scale for layer in network.modules() if isinstance(layer, ClippedIF)}

    model, x = network("qcfs_if"), frames(5, seed=9)
    fused = fuse_model(model)
    close(fused(x), model(x))
    assert (scales(fused), scales(model)) == ({"folded"}, {"output"})
    assert fuse_model(fused).fusion_difference == 0
    # a network that is no chain
    monkeypatch.setattr(type(model), "weighted_after", StepModel.weighted_after)
    fused = fuse_model(model)
    assert scales(fused) == {"output"}
    close(fused(x), model(x))

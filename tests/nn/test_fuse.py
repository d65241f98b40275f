"""fuse_model: the same network with its norms folded away, and all that it refuses."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from little import close, close_all, frames, in_chunks, network, same
from torch import nn

from anystep.data.sets import FrameSet
from anystep.evaluation.evaluate import collect
from anystep.nn import fuse
from anystep.nn.fuse import fuse_model, why_not_fusable
from anystep.nn.layers import fold, stateful_modules
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ACTIVATIONS, LIF, NEURONS, Neuron
from anystep.nn.norms import BatchNorm

every_neuron = pytest.mark.parametrize("neuron", [*NEURONS, *ACTIVATIONS])


def trained(neuron="lif", *, dtype=torch.float64, **options):
    """A network in eval mode whose norms have seen data and are unlike those it starts with."""
    model = network(neuron, dtype=dtype, **options)
    for key, parameter in model.named_parameters():
        if "norm" in key:
            nn.init.uniform_(parameter, 0.3, 0.9)
    with torch.no_grad():
        for seed in range(5):
            model.train()(frames(seed=seed, dtype=dtype))
    return model.eval()


class Pair(nn.Module):
    """A convolution and a norm, and what a test wants to go wrong between them."""

    def __init__(self, conv=None, norm=None, between=None):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1, bias=False) if conv is None else conv
        self.norm = BatchNorm(3) if norm is None else norm
        self.between = nn.Identity() if between is None else between

    def forward(self, x, carry):
        return carry(self.norm, self.between(fold(self.conv, x)))


class Little(StepModel):
    """One pair, one neuron, one linear layer."""

    def __init__(self, pair):
        super().__init__(in_planes=2, input_size=2, num_classes=4)
        self.pair, self.neuron, self.classifier = pair, LIF(shape=(3, 2, 2)), nn.Linear(12, 4)

    def network(self, frames, carry):
        return self.classifier(carry(self.neuron, self.pair(frames, carry)).flatten(2))


class OwnForward(BatchNorm):
    """Not a batch norm any more."""

    def forward(self, x):
        return 2 * super().forward(x)


class PerStep(BatchNorm):
    """A norm that counts the steps."""

    def rest(self, n, *, dtype=None, device=None):
        return torch.zeros(n, dtype=dtype, device=device)

    def forward(self, x, state):
        return super().forward(x) * (1 + state.max()), state + len(x)


class NormOnly(nn.Module):
    """A norm and no convolution beside it."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x) if isinstance(self.norm, BatchNorm) else fold(self.norm, x)


class WithShortcut(Little):
    """norm(conv(x)) + norm(norm(conv(x))): the second norm stands alone."""

    def __init__(self, norm):
        super().__init__(Pair())
        self.shortcut = NormOnly(norm)

    def network(self, frames, carry):
        x = self.pair(frames, carry)
        return self.classifier(carry(self.neuron, x + self.shortcut(x)).flatten(2))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("conv_bias", [False, True])
@every_neuron
def test_a_fused_network_says_what_the_original_says_whole_and_in_chunks(neuron, conv_bias):
    model = trained(neuron, conv_bias=conv_bias)
    fused, x = fuse_model(model), frames(seed=9)
    with torch.no_grad():
        logits, after = model.advance(x, model.rest(3))
        said, state = in_chunks(fused, x, [1, 3, 2])
    close_all((said, fused(x), *state), (logits, logits, *after))
    assert len(state) == (0 if neuron in ACTIVATIONS else 3)
    assert [name for name, _ in stateful_modules(fused)] == [
        name for name, _ in stateful_modules(model)
    ]


def test_one_folded_channel_by_hand():
    model = Little(Pair(conv=nn.Conv2d(2, 3, 1), norm=BatchNorm(3, eps=1.0))).eval()
    with torch.no_grad():
        for layer, weight, bias in ((model.pair.conv, 2.0, 5.0), (model.pair.norm, 3.0, 0.5)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
        model.pair.norm.running_mean.fill_(1.0)
        model.pair.norm.running_var.fill_(3.0)
    conv = fuse_model(model).pair.conv
    # 3 / sqrt(3 + 1) = 1.5, so that 2 becomes 2 * 1.5 = 3 and 5 becomes (5 - 1) * 1.5 + 0.5 = 6.5
    assert conv.weight.unique().tolist() == [3.0]
    assert conv.bias.unique().tolist() == [6.5]


def test_in_float32_the_same_neurons_fire_wherever_the_membrane_is_not_at_the_threshold():
    model = trained(dtype=torch.float32)
    fused = fuse_model(model)
    calls = []  # of the neurons of the original, then of the copy
    for each in (model, fused):
        for layer in each.modules():
            if isinstance(layer, Neuron):
                layer.register_forward_hook(lambda m, x, y: calls.append((x[0], y[0])))
        each(frames(seed=9, dtype=torch.float32))
    for (x, spikes), (mine, fired) in zip(calls[:3], calls[3:], strict=True):
        close(mine, x, 1e-5)
        assert torch.equal(spikes, fired)
    assert sum(spikes.sum() for _, spikes in calls) > 200


def test_the_original_is_not_touched_and_shares_nothing_with_the_copy():
    model = trained()
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    fused = fuse_model(model)
    same(model.state_dict().values(), before.values())
    assert list(model.modules()) == modules
    assert all(p.requires_grad for p in model.parameters())
    mine = {tensor.data_ptr() for tensor in fused.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in model.state_dict().values()}


def test_the_keys_are_the_same_but_for_the_norms_and_the_biases_that_they_become():
    model = trained("plif")
    keys = {key.replace("norm.bias", "conv.bias") for key in model.state_dict()}
    assert set(fuse_model(model).state_dict()) == {key for key in keys if "norm" not in key}
    assert not [m for m in fuse_model(model).modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_layout_are_kept_and_the_difference_is_reported(dtype):
    fused = fuse_model(trained(dtype=dtype))
    assert {tensor.dtype for tensor in fused.state_dict().values()} == {dtype}
    weights = [m.weight for m in fused.modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert 0 < fused.fusion_difference < 1e-12
    assert fuse_model(trained(), verify=False).fusion_difference is None


def test_a_fused_network_cannot_be_trained():
    fused = fuse_model(trained())
    assert not any(module.training for module in fused.modules())
    assert not any(p.requires_grad for p in fused.parameters())
    with pytest.raises(ValueError, match="a fused network cannot be trained, its norms are gone"):
        fused.train()
    assert fused.eval() is fused


def test_a_fused_network_is_fused_copied_and_pickled_like_any_other():
    fused, x = fuse_model(trained()), frames()
    for other in (fuse_model(fused), copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(other(x), fused(x))
    assert fuse_model(fused).fusion_difference == 0


def test_evaluation_counts_the_same_spikes_and_logits_on_a_fused_network():
    model = trained(dtype=torch.float32)
    data = FrameSet((frames(4, 10).transpose(0, 1) * 3).to(torch.uint8).numpy(), np.arange(10) % 5)
    mine, theirs = (
        collect(each, data, batch_size=4, features=7) for each in (fuse_model(model), model)
    )
    np.testing.assert_allclose(mine.logits, theirs.logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mine.features, theirs.features, rtol=0, atol=1e-6)
    assert mine.rates == theirs.rates
    assert len(mine.rates) == 3


UNTRACKED = nn.BatchNorm2d(3, track_running_stats=False)


@pytest.mark.parametrize("part", ["Little", "pair.norm"])
def test_training_mode_is_refused_by_name(part):
    model = Little(Pair()).eval()
    (model if part == "Little" else model.get_submodule(part)).training = True
    with pytest.raises(ValueError, match=rf"'{part}' is in training mode: call model.eval"):
        fuse_model(model)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Pair(norm=PerStep(3)), r"pair.norm \(PerStep\) is a norm of its own at every step"),
        (Pair(norm=OwnForward(3)), r"\(OwnForward\) cannot be folded, only BatchNorm can"),
        (Pair(norm=nn.GroupNorm(1, 3)), r"pair.norm \(GroupNorm\) cannot be folded"),
        (Pair(norm=UNTRACKED), r"pair.norm \(BatchNorm2d\) keeps no running statistics"),
        (Pair(conv=nn.ConvTranspose2d(2, 3, 1)), "pair.conv must be a Conv2d, got ConvTranspose2d"),
        (Pair(between=NormOnly(PerStep(3))), r"between.norm \(PerStep\) is a norm of its own"),
        (Pair(between=UNTRACKED), r"pair.between \(BatchNorm2d\) keeps no running"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_folded_is_refused_by_name(pair, message):
    model = Little(pair).eval()
    with pytest.raises(ValueError, match=message) as error:
        fuse_model(model, verify=False)
    assert str(error.value) == f"fuse_model: {why_not_fusable(model)}"


@pytest.mark.parametrize("norm", [BatchNorm, nn.BatchNorm2d])
def test_a_norm_beside_no_convolution_stays_as_it_is(norm):
    model = WithShortcut(norm(3))
    for module in (model.pair.norm, model.shortcut.norm):
        nn.init.uniform_(module.weight, 0.3, 0.9)
        nn.init.uniform_(module.running_mean, -0.5, 0.5)
        nn.init.uniform_(module.running_var, 0.5, 2)
    fused, x = fuse_model(model.eval().double()), torch.rand(4, 3, 2, 2, 2, dtype=torch.float64)
    close(fused(x), model(x))
    assert isinstance(fused.pair.norm, nn.Identity)
    assert type(fused.shortcut.norm) is norm
    assert torch.equal(fused.shortcut.norm.running_var, model.shortcut.norm.running_var)


def test_a_block_that_does_more_than_its_name_says_is_found_out():
    model = Little(Pair(between=nn.Tanh())).eval()
    nn.init.constant_(model.pair.norm.bias, 0.5)
    with pytest.raises(RuntimeError, match=r"differs from .*, more than tolerance=0.0001"):
        fuse_model(model)


@pytest.mark.parametrize("layer", [0, 2])
def test_one_wrong_weight_is_found_out_where_nothing_would_fire_by_itself(layer, monkeypatch):
    folding, folded = fuse.fuse_conv_bn_eval, []

    def wrong(conv, norm):
        fused = folding(conv, norm)
        if len(folded) == layer:
            fused.weight.data[1, 1, 1, 1] += 0.01
        folded.append(fused)
        return fused

    monkeypatch.setattr(fuse, "fuse_conv_bn_eval", wrong)
    model = network({"name": "lif", "v_threshold": 1.5}, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="differs from the original"):
        fuse_model(model.eval())


def test_weights_that_are_not_numbers_are_found_out():
    model = Little(Pair()).eval()
    with torch.no_grad():
        model.pair.conv.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="by nan"):
        fuse_model(model)


def test_nothing_speaks_against_a_network_that_is_fused_nor_against_one_that_still_trains():
    model = trained()
    assert why_not_fusable(fuse_model(model)) is None
    assert why_not_fusable(model.train()) is None

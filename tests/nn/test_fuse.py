"""fuse_model: the same network with its norms folded away, and all that it refuses."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from little import close_all, frames, in_chunks, network, same
from torch import nn

from anystep.data.sets import FrameSet
from anystep.evaluation.evaluate import collect
from anystep.nn import fuse
from anystep.nn.fuse import fuse_model, why_not_fusable
from anystep.nn.layers import fold
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import ACTIVATIONS, LIF, NEURONS
from anystep.nn.norms import BatchNorm


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


UNTRACKED = nn.BatchNorm2d(3, track_running_stats=False)


class Little(StepModel):
    """One pair, one neuron, one linear layer."""

    def __init__(self, pair):
        super().__init__(in_planes=2, input_size=2, num_classes=4)
        self.pair, self.neuron, self.classifier = pair, LIF(shape=(3, 2, 2)), nn.Linear(12, 4)
        self.eval()

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


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("neuron", [*NEURONS, *ACTIVATIONS])
def test_a_fused_network_says_what_the_original_says_whole_and_in_chunks(neuron, conv_bias):
    model = trained(neuron, conv_bias=conv_bias)
    fused, x = fuse_model(model), frames(seed=9)
    with torch.no_grad():
        logits, after = model.advance(x, model.rest(3))
        said, state = in_chunks(fused, x, [1, 3, 2])
    close_all((said, fused(x), *state), (logits, logits, *after))
    assert len(state) == (0 if neuron in ACTIVATIONS else 3)


def test_one_folded_channel_by_hand():
    model = Little(Pair(conv=nn.Conv2d(2, 3, 1), norm=BatchNorm(3, eps=1.0)))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_dtype_and_layout_are_kept_and_the_difference_is_reported(dtype):
    model = trained("plif", dtype=dtype)
    fused = fuse_model(model)
    keys = {key.replace("norm.bias", "conv.bias") for key in model.state_dict()}
    assert set(fused.state_dict()) == {key for key in keys if "norm" not in key}
    assert {tensor.dtype for tensor in fused.state_dict().values()} == {dtype}
    weights = [m.weight for m in fused.modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert 0 < fused.fusion_difference < 1e-12
    assert fuse_model(model, verify=False).fusion_difference is None


def test_the_original_is_not_touched_and_shares_nothing_with_the_copy():
    model = trained()
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    fused = fuse_model(model)
    same(model.state_dict().values(), before.values())
    assert list(model.modules()) == modules
    assert all(p.requires_grad for p in model.parameters())
    mine = {tensor.data_ptr() for tensor in fused.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in model.state_dict().values()}


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


def test_a_fused_network_is_fused_copied_and_pickled_like_any_other():
    fused, x = fuse_model(trained()), frames()
    for other in (fuse_model(fused), copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(other(x), fused(x))
    assert fuse_model(fused).fusion_difference == 0
    assert why_not_fusable(trained().train()) is None


def unfit(**parts):
    return lambda: Little(Pair(**parts))


def training(part):
    model = Little(Pair())
    model.get_submodule(part).training = True
    return model


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training(""), "'Little' is in training mode: call model.eval"),
        (lambda: training("pair.norm"), "'pair.norm' is in training mode"),
        (unfit(norm=PerStep(3)), "pair.norm (PerStep) is a norm of its own at every step"),
        (unfit(norm=OwnForward(3)), "(OwnForward) cannot be folded, only BatchNorm can"),
        (unfit(norm=nn.GroupNorm(1, 3)), "pair.norm (GroupNorm) cannot be folded"),
        (unfit(norm=UNTRACKED), "pair.norm (BatchNorm2d) keeps no running statistics"),
        (
            unfit(conv=nn.ConvTranspose2d(2, 3, 1)),
            "pair.conv must be a Conv2d, got ConvTranspose2d",
        ),
        (unfit(between=PerStep(3)), "between (PerStep) is a norm of its own"),
        (unfit(between=UNTRACKED), "pair.between (BatchNorm2d) keeps no running"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_folded_is_refused_by_name(make, message):
    model = make()
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        fuse_model(model, verify=False)
    if "training mode" not in message:
        assert str(error.value) == f"fuse_model: {why_not_fusable(model)}"


def test_a_block_that_does_more_than_its_name_says_is_found_out_and_so_is_a_nan():
    torch.manual_seed(0)
    tanh, broken = Little(Pair(between=nn.Tanh())), Little(Pair())
    nn.init.constant_(tanh.pair.norm.bias, 0.5)
    nn.init.constant_(broken.pair.conv.weight, torch.nan)
    with pytest.raises(RuntimeError, match=r"differs from .*, more than tolerance=0.0001"):
        fuse_model(tanh)
    with pytest.raises(RuntimeError, match="by nan"):
        fuse_model(broken)


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

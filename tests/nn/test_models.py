"""create_model, the VGGs and how weights are drawn: what is built, and what is refused by name."""

from __future__ import annotations

import pytest
import torch
from little import close
from torch import nn

from anystep.nn.models import create_model
from anystep.nn.neurons import LIF


def small(name="vgg_snn", **options):
    options = {"num_classes": 3, "input_size": 8, "widths": [[4], [6]], **options}
    return create_model(name, **options)


def test_the_published_network_is_eight_convolutions_four_pools_and_one_linear_layer():
    with torch.device("meta"):
        model, vgg9 = (
            create_model(name, num_classes=10, input_size=48) for name in ("vgg_snn", "vgg9")
        )
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (2, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512),
    ]  # fmt: skip
    kinds = {(m.kernel_size, m.padding, m.stride, m.bias) for m in convolutions}
    assert kinds == {((3, 3), (1, 1), (1, 1), None)}
    assert (model.classifier.in_features, model.classifier.out_features) == (512 * 3 * 3, 10)
    neurons = [m for m in model.modules() if isinstance(m, LIF)]
    assert [m.shape[0] for m in neurons] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert [m.shape[1] for m in neurons] == [48, 48, 24, 24, 12, 12, 6, 6]
    assert [p.shape for p in vgg9.parameters()] == [p.shape for p in model.parameters()]


def test_the_neuron_and_the_norm_of_each_layer_are_its_own_and_get_their_arguments():
    plif = {"name": "plif", "tau": 4.0, "v_threshold": 1.0}
    model = small(neuron=plif, norm={"name": "bn", "momentum": 0.3})
    (first,), (second,) = model.stages
    assert first.neuron.w is not second.neuron.w
    for block in (first, second):
        assert (block.neuron.tau, block.neuron.v_threshold) == (4.0, 1.0)
        assert block.norm.momentum == 0.3


def test_one_step_of_a_network_by_hand():
    model = small(widths=[[1]], in_planes=1, input_size=2, num_classes=1, norm="bn").eval()
    with torch.no_grad():
        block = model.stages[0][0]
        block.conv.weight.zero_()
        block.conv.weight[0, 0, 1, 1] = 1.0  # the identity
        model.classifier.weight.fill_(3.0)
        model.classifier.bias.fill_(0.5)
    # untrained norm: x / sqrt(1 + 1e-5); tau 2: h = x / 2 fires above 0.5, so 2 and 3 fire and 1
    # and 0 do not
    frames = torch.tensor([[2.0, 1.0], [3.0, 0.0]]).reshape(1, 1, 1, 2, 2)
    logits, (membrane,) = model.advance(frames, model.rest(1))
    assert logits.item() == pytest.approx(3.0 * (2 / 4) + 0.5)  # two spikes of four, averaged
    close(membrane[0, 0], torch.tensor([[0.0, 0.5], [0.0, 0.0]]), 1e-4)


def test_vgg9_pools_by_average_or_maximum():
    torch.manual_seed(0)
    average, largest = (
        small("vgg9", input_size=4, widths=[[3]], neuron="relu", pool=pool).eval()
        for pool in ("average", "max")
    )
    largest.load_state_dict(average.state_dict())
    frames = torch.rand(2, 3, 2, 4, 4)
    with torch.no_grad():
        before = average.stages[0][0](frames, lambda layer, x: layer(x))
        before = before.reshape(2, 3, 3, 2, 2, 2, 2)
        for model, pooled in ((average, before.mean((4, 6))), (largest, before.amax((4, 6)))):
            torch.testing.assert_close(model(frames), model.classifier(pooled.flatten(2)))


def test_the_init_torch_is_that_of_the_layers_alone():
    torch.manual_seed(3)
    model = small(init="torch")
    torch.manual_seed(3)
    layers = [
        nn.Conv2d(2, 4, 3, bias=False),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Linear(6 * 2 * 2, 3),
    ]
    mine = [model.stages[0][0].conv, model.stages[1][0].conv, model.classifier]
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(mine, layers, strict=True))
    assert torch.equal(model.classifier.bias, layers[-1].bias)


@pytest.mark.parametrize("init", ["kaiming", "hsd"])
def test_the_init_kaiming_draws_convolutions_by_their_fan_out(init):
    torch.manual_seed(0)
    model = small(widths=[[64], [16]], init=init)
    for stage, fan_out in zip(model.stages, (64 * 9, 16 * 9), strict=True):
        weight, norm = stage[0].conv.weight, stage[0].norm.weight
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
        assert weight.abs().max() > 2.5 * weight.std()  # a normal has tails, a uniform ends at 1.7
        assert torch.equal(norm, torch.ones_like(norm))
    assert (model.classifier.bias.abs().max() == 0) == (init == "hsd")

"""Weights of other libraries: the same network written as they write it says the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anystep import UsageError, create_model
from anystep.nn.foreign import load_foreign, read_state_dict

FRAMES = 4 * torch.rand(6, 2, 2, 8, 8, generator=torch.Generator().manual_seed(1)) - 1
SIZE = {"num_classes": 3, "in_planes": 2, "input_size": 8}
LIF = {"name": "lif", "tau": 2.0, "v_threshold": 0.2}


class Spikes(nn.Module):
    """LIF with hard reset, as a loop: v += (x - v) / 2."""

    def __init__(self):
        super().__init__()
        self.v = 0.0

    def forward(self, x):
        h = self.v + (x - self.v) / 2
        fired = (h > 0.2).float()
        self.v = h * (1 - fired)
        return fired


def conv(inputs, outputs, stride=1, kernel=3, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


def spikingjelly_vgg():
    """Flat, as SpikingJelly's networks are: features.0.weight, features.1.running_mean."""
    net = nn.Module()
    net.features = nn.Sequential(
        conv(2, 4, bias=True), nn.BatchNorm2d(4), Spikes(), nn.AvgPool2d(2),
        conv(4, 6, bias=True), nn.BatchNorm2d(6), Spikes(), nn.AvgPool2d(2),
    )  # fmt: skip
    net.classifier = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    return net, lambda x: net.classifier(net.features(x))


class ConvModule(nn.Module):
    """BrainCog's: feature.0.conv.weight, feature.0.bn.weight."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.bn = conv(inputs, outputs), nn.BatchNorm2d(outputs)
        self.node = Spikes()

    def forward(self, x):
        return self.node(self.bn(self.conv(x)))


def braincog_vgg():
    net = nn.Module()
    net.feature = nn.Sequential(
        ConvModule(2, 4), nn.AvgPool2d(2), ConvModule(4, 6), nn.AvgPool2d(2)
    )
    net.fc = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    return net, lambda x: net.fc(net.feature(x))


class Block(nn.Module):
    """BrainCog's, in its order: conv1, bn1, conv2, bn2, downsample; the first of a stage always
    has the last, if only a norm.
    """

    def __init__(self, inputs, outputs, stride, first=False):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, stride, 1), nn.BatchNorm2d(outputs)
            )
        elif first:
            self.downsample = nn.Sequential(nn.BatchNorm2d(outputs))
        self.node1, self.node2 = Spikes(), Spikes()

    def forward(self, x):
        y = self.bn2(self.conv2(self.node1(self.bn1(self.conv1(x)))))
        return self.node2(y + (x if self.downsample is None else self.downsample(x)))


def braincog_resnet():
    net = nn.Module()
    net.conv1, net.bn1 = conv(2, 4), nn.BatchNorm2d(4)
    net.layer1 = nn.Sequential(Block(4, 4, 1, first=True), Block(4, 4, 1))
    net.layer2 = nn.Sequential(Block(4, 6, 2))
    net.fc1, net.fc2 = nn.Linear(6, 3), nn.Linear(3, 3)
    net.node1, net.node2 = Spikes(), Spikes()

    def forward(x):
        x = net.layer2(net.layer1(net.node1(net.bn1(net.conv1(x)))))
        return net.fc2(net.node2(net.fc1(x.mean((2, 3)))))

    return net, forward


def settled(net):
    """Norms that have seen something, so that none is the identity, and layers that are heard."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data *= 4
            nn.init.uniform_(layer.bias, 0.1, 0.3)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -0.2, 0.6)
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize(
    ("theirs", "name", "options"),
    [
        (spikingjelly_vgg, "vgg_snn", {"widths": [[4], [6]], "conv_bias": True}),
        (braincog_vgg, "vgg_snn", {"widths": [[4], [6]]}),
        (braincog_resnet, "resnet19", {"stem": 4, "stages": [[4, 2], [6, 1]]}),
    ],
)
def test_the_same_network_in_their_words_says_the_same(theirs, name, options, wrapper, tmp_path):
    torch.manual_seed(3)
    net, forward = theirs()
    settled(net)
    with torch.no_grad():
        said = torch.stack([forward(frame) for frame in FRAMES])  # their neurons keep their state
    kept = {wrapper + key: value for key, value in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": kept}, tmp_path / "theirs.pt")
    model = create_model(name, neuron=LIF, **SIZE, **options).eval()
    load_foreign(model, read_state_dict(tmp_path / "theirs.pt"))
    with torch.no_grad():
        torch.testing.assert_close(model(FRAMES), said, rtol=1e-5, atol=1e-6)
    assert said.std(0).max() > 0.01


def refusal(change):
    net, _ = braincog_vgg()
    tensors = net.state_dict()
    change(tensors)
    model = create_model("vgg_snn", **SIZE, widths=[[4], [6]])
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(UsageError) as refused:
        load_foreign(model, tensors)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    return str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("feature.0.conv.weight"), "convolutions differ in number: the network"),
        (lambda t: t.update({"fc.1.weight": torch.ones(3, 5)}), "classifier.weight is (3, 24), no"),
        (lambda t: t.pop("feature.2.bn.running_var"), "'feature.2.bn' of the weights has none"),
        (lambda t: t.update({"feature.0.conv.bias": torch.ones(4)}), "has ['bias'], 'stages.0.0."),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(change, words):
    assert words in refusal(change)


class Harmful:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Harmful(), "holds more than tensors and plain values"),
        ([1, 2], "holds no state dict, but a list"),
        ({"epoch": 1}, "holds no tensors"),
        (None, "no file that torch.save wrote, or is cut"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused_and_runs_nothing(content, words, tmp_path, capsys):
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    if content is None:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UsageError, match=r"weights\.pt") as refused:
        read_state_dict(file)
    assert words in str(refused.value)
    assert "run" not in capsys.readouterr().out.split()
